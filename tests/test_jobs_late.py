"""What comes when a study has a job already: late slices, new structure sets, templates that were edited since."""

from __future__ import annotations

import shutil
from pathlib import Path

import pydicom
import pytest
from jobs_helpers import Watcher, copied, study, template_file

from dicomplan.jobs.rules import Rules, one_template


@pytest.fixture
def watcher(tmp_path: Path):
    one = Watcher(tmp_path)
    yield one
    one.service.kill_workers()
    one.store.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that tests copy."""
    return study(tmp_path_factory.mktemp("made") / "study", "one")


def late_slice(made: Path, target: Path) -> None:
    """A slice beyond the last one of a study."""
    slices = [pydicom.dcmread(path) for path in made.iterdir() if path.name != "RS.dcm"]
    late = max(slices, key=lambda item: float(item.ImagePositionPatient[2]))
    x, y, z = (float(value) for value in late.ImagePositionPatient)
    late.ImagePositionPatient = [x, y, z + 3.0]
    late.SOPInstanceUID = late.file_meta.MediaStorageSOPInstanceUID = f"{late.SOPInstanceUID}.1"[:64]
    late.save_as(target)


def test_a_late_slice_makes_a_new_job_that_names_the_old_one(watcher: Watcher, made: Path) -> None:
    copied(made, watcher.inbox / "s")
    (first,) = watcher.settle(1)
    late_slice(made, watcher.inbox / "late.dcm")
    jobs = watcher.settle(2)
    assert [(one.state, one.follows) for one in jobs] == [("done", None), ("done", first.id)]
    kinds = [len([f for f in watcher.store.files(one.id) if f.kind == "CT"]) for one in jobs]
    assert kinds == [12, 13]


def test_a_late_slice_supersedes_a_running_job(watcher: Watcher, tmp_path: Path) -> None:
    made = study(tmp_path / "slow", "slow", study_id="slow 30")
    copied(made, watcher.inbox / "s")
    watcher.until(lambda: watcher.states() == ["running"])
    late_slice(made, watcher.inbox / "s" / "late.dcm")
    watcher.until(lambda: watcher.states()[:1] == ["superseded"] and len(watcher.states()) == 2)
    old, new = watcher.store.jobs()
    assert (old.superseded_by, new.follows) == (new.id, old.id)
    watcher.turn(20)
    assert watcher.service.runner.pool.jobs in ((), (new.id,))
    assert not (watcher.settings.work / old.id).exists()


def with_fractions(folder: Path, fractions: int) -> Rules:
    """The tests' template, edited."""
    path = folder / "t.yaml"
    path.write_text(Path(template_file(folder)).read_text().replace("fractions: 35", f"fractions: {fractions}"))
    return one_template(str(path))


def test_a_late_slice_after_the_template_was_edited_names_the_old_job(tmp_path: Path, made: Path) -> None:
    watcher = Watcher(tmp_path, rules=with_fractions(tmp_path, 35))
    copied(made, watcher.inbox / "s")
    (first,) = watcher.settle(1)
    watcher.store.close()
    watcher = Watcher(tmp_path, rules=with_fractions(tmp_path, 30))
    late_slice(made, watcher.inbox / "late.dcm")
    jobs = watcher.settle(2)
    assert [(one.state, one.follows) for one in jobs] == [("done", None), ("done", first.id)]
    assert [len([f for f in watcher.store.files(one.id) if f.kind == "CT"]) for one in jobs] == [12, 13]


def test_an_edited_template_plans_a_processed_study_when_its_structure_set_comes_again(
    tmp_path: Path, made: Path
) -> None:
    watcher = Watcher(tmp_path, rules=with_fractions(tmp_path, 35))
    copied(made, watcher.inbox / "s")
    watcher.settle(1)
    watcher.store.close()
    watcher = Watcher(tmp_path, rules=with_fractions(tmp_path, 30))
    shutil.copy(made / "RS.dcm", watcher.inbox)
    jobs = watcher.settle(2)
    # nothing of the first is out of date: it was planned by another template
    assert [(one.state, one.follows) for one in jobs] == [("done", None), ("done", None)]
    assert [len([f for f in watcher.store.files(one.id) if f.kind == "CT"]) for one in jobs] == [12, 12]
    assert watcher.left() == []


def test_a_new_structure_set_finds_the_ct_that_was_processed(watcher: Watcher, made: Path) -> None:
    copied(made, watcher.inbox / "s")
    watcher.settle(1)
    second = pydicom.dcmread(made / "RS.dcm")
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5.6"
    second.save_as(watcher.inbox / "second.dcm")
    jobs = watcher.settle(2)
    assert [one.state for one in jobs] == ["done", "done"]
    assert jobs[1].structure_set_uid == "1.2.3.4.5.6"
    assert jobs[0].series_uid == jobs[1].series_uid


def test_kept_input_is_remembered_and_a_new_template_plans_it_again(tmp_path: Path, made: Path) -> None:
    for text, count in (("35", 1), ("35", 1), ("30", 2)):
        path = tmp_path / "t.yaml"
        path.write_text(Path(template_file(tmp_path)).read_text().replace("fractions: 35", f"fractions: {text}"))
        watcher = Watcher(tmp_path, keep_input=True, rules=one_template(str(path)))
        copied(made, watcher.inbox / "s") if not watcher.left() else None
        watcher.until(lambda watcher=watcher, count=count: watcher.states() == ["done"] * count)
        watcher.turn(20)
        assert watcher.states() == ["done"] * count
        assert len(watcher.left()) == 13
        watcher.store.close()
