"""The output folder: checked before the work, there as a whole or not at all, never over what is not ours."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from dicomplan.errors import UsageError
from dicomplan.workflow import output
from dicomplan.workflow.output import OutputFolder


def write_result(folder: Path, text: str = "new") -> None:
    (folder / "plan.json").write_text(json.dumps({"schema": 1, "dicomplan": "0.1.0", "text": text}))
    (folder / "RTPLAN.dcm").write_bytes(text.encode())


def earlier_result(target: Path) -> None:
    target.mkdir()
    write_result(target, "old")
    (target / "failed").mkdir()
    (target / "failed" / "RTPLAN.dcm").write_bytes(b"old")
    (target / "RTDOSE_2.dcm").write_bytes(b"old")


def run(output_folder: OutputFolder, then: Callable[[], object] = lambda: None) -> None:
    """A run that writes its result and then does something else before it ends."""
    with output_folder as folder:
        write_result(folder)
        then()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_success_puts_the_whole_folder_in_its_place(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with OutputFolder(target) as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith(".out.partial-")
        write_result(folder)
        assert not target.exists()
    assert names(tmp_path) == ["out"]
    assert names(target) == ["RTPLAN.dcm", "plan.json"]


def test_an_empty_folder_is_taken_and_keeps_its_mode(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    target.chmod(0o750)
    with OutputFolder(target) as folder:
        write_result(folder)
    assert stat.S_IMODE(target.stat().st_mode) == 0o750
    assert names(tmp_path) == ["out"]
    assert "plan.json" in names(target)


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with OutputFolder(tmp_path / "out") as folder:
            write_result(folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError, SystemExit])
def test_any_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(error):
        run(OutputFolder(tmp_path / "out"), fail)
    assert names(tmp_path) == []


def test_the_checks_leave_nothing(tmp_path: Path) -> None:
    OutputFolder(tmp_path / "out")
    assert names(tmp_path) == []


def test_an_occupied_folder_is_refused(tmp_path: Path) -> None:
    earlier_result(tmp_path / "out")
    with pytest.raises(UsageError, match="not empty"):
        OutputFolder(tmp_path / "out")


def test_a_file_and_a_missing_parent_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="not a folder"):
        OutputFolder(tmp_path / "file")
    for target in (tmp_path / "file" / "out", tmp_path / "none" / "out"):
        with pytest.raises(UsageError, match="not there"):
            OutputFolder(target)
    assert names(tmp_path) == ["file"]


def test_a_place_that_cannot_be_written_is_refused() -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc, the one place that not even root can write")
    with pytest.raises(UsageError, match="cannot be written"):
        OutputFolder(Path("/proc/dicomplan-out"))


def test_a_mount_point_is_refused() -> None:
    with pytest.raises(UsageError, match="mount point"):
        OutputFolder(Path("/"))


def test_output_inside_the_study_and_study_inside_the_output_are_refused(tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    (study / "ct.dcm").write_bytes(b"x")
    for target in (study, study / "out"):
        with pytest.raises(UsageError, match="inside the study"):
            OutputFolder(target, inputs=[study])
    with pytest.raises(UsageError, match="study lies inside"):
        OutputFolder(tmp_path, inputs=[study], overwrite=True)
    with pytest.raises(UsageError, match="study lies inside"):
        OutputFolder(study, inputs=[study / "ct.dcm"])
    OutputFolder(tmp_path / "study2", inputs=[study])
    OutputFolder(study / "out", inputs=[study / "ct.dcm"])


def test_links_do_not_hide_that_the_output_lies_inside_the_study(tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    (tmp_path / "link").symlink_to(study)
    with pytest.raises(UsageError, match="inside the study"):
        OutputFolder(tmp_path / "link" / "out", inputs=[study])
    with pytest.raises(UsageError, match="inside the study"):
        OutputFolder(study / "out", inputs=[tmp_path / "link"])


def test_a_link_to_the_output_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with OutputFolder(tmp_path / "link") as folder:
        write_result(folder)
    assert (tmp_path / "link").is_symlink()
    assert "plan.json" in names(tmp_path / "real")


def test_overwrite_replaces_an_earlier_result_completely(tmp_path: Path) -> None:
    target = tmp_path / "out"
    earlier_result(target)
    with OutputFolder(target, overwrite=True) as folder:
        write_result(folder)
        assert (target / "RTPLAN.dcm").read_bytes() == b"old"
    assert names(target) == ["RTPLAN.dcm", "plan.json"]
    assert (target / "RTPLAN.dcm").read_bytes() == b"new"
    assert names(tmp_path) == ["out"]


def test_a_failed_run_keeps_the_earlier_result(tmp_path: Path) -> None:
    target = tmp_path / "out"
    earlier_result(target)
    before = names(target)

    def fail() -> None:
        raise ValueError("halfway")

    with pytest.raises(ValueError, match="halfway"):
        run(OutputFolder(target, overwrite=True), fail)
    assert names(target) == before
    assert (target / "RTPLAN.dcm").read_bytes() == b"old"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "foreign", ["thesis.txt", "RTDOSE.dcm.bak", "failed/notes.txt", "more/RTPLAN.dcm", "ct.nii.gz"]
)
def test_overwrite_refuses_foreign_files(tmp_path: Path, foreign: str) -> None:
    target = tmp_path / "out"
    earlier_result(target)
    (target / foreign).parent.mkdir(exist_ok=True)
    (target / foreign).write_text("mine")
    with pytest.raises(UsageError, match="did not write"):
        OutputFolder(target, overwrite=True)
    assert (target / foreign).read_text() == "mine"


def test_overwrite_refuses_a_link_under_a_known_name(tmp_path: Path) -> None:
    target = tmp_path / "out"
    earlier_result(target)
    (target / "report.html").symlink_to(tmp_path)
    with pytest.raises(UsageError, match=r"report\.html"):
        OutputFolder(target, overwrite=True)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"schema": 1}', '{"dicomplan": "0.1.0"}'])
def test_overwrite_needs_a_document_of_dicomplan(tmp_path: Path, text: str | None) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "RTPLAN.dcm").write_bytes(b"of another program")
    if text is not None:
        (target / "plan.json").write_text(text)
    with pytest.raises(UsageError, match="no dicomplan"):
        OutputFolder(target, overwrite=True)


def test_overwrite_takes_results_of_other_commands(tmp_path: Path) -> None:
    target = tmp_path / "out"
    (target / "masks").mkdir(parents=True)
    for name in ("ct.nii.gz", "dose_1.nii.gz", "masks/1_BODY.nii.gz"):
        (target / name).write_bytes(b"x")
    (target / "index.json").write_text('{"schema": 1}')
    OutputFolder(target, overwrite=True)


def test_what_came_into_the_place_meanwhile_is_not_lost(tmp_path: Path) -> None:
    target = tmp_path / "out"

    def intrude() -> None:
        target.mkdir()
        (target / "theirs").write_text("x")

    with pytest.raises(UsageError, match="not empty"):
        run(OutputFolder(target), intrude)
    assert names(tmp_path) == ["out"]
    assert names(target) == ["theirs"]


def test_a_failing_exchange_brings_the_earlier_result_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    earlier_result(target)
    rename = os.rename

    def failing(source: Path, destination: Path) -> None:
        if ".partial-" in Path(source).name:
            raise OSError(5, "input/output error")
        rename(source, destination)

    monkeypatch.setattr(output.os, "rename", failing)
    with pytest.raises(UsageError, match="input/output error"):
        run(OutputFolder(target, overwrite=True))
    assert (target / "RTPLAN.dcm").read_bytes() == b"old"
    assert names(tmp_path) == ["out"]
