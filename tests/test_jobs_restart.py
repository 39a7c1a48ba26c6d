"""What a watcher knows of the one before it: waits that go on, rules that changed, places that cannot be written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import time
import urllib.request
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from jobs_helpers import Watcher, copied, study, template_file
from network_helpers import free_port, wait_for_port

from dicomplan.jobs import accepting, delivering
from dicomplan.jobs.contents import FileContents
from dicomplan.jobs.first_seen import Moment, elapsed_s, present_moment
from dicomplan.jobs.inbox import Inbox
from dicomplan.jobs.inbox_lock import InboxLock
from dicomplan.jobs.readiness import Waits
from dicomplan.jobs.rules import load_rules
from dicomplan.jobs.values import Job


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that tests copy."""
    return study(tmp_path_factory.mktemp("made") / "study", "one")


def test_within_one_run_of_the_machine_no_clock_that_is_set_counts() -> None:
    then = Moment("b", 100.0, 1e9)
    assert elapsed_s(then, Moment("b", 160.0, 1e9 - 1e8)) == 60.0
    assert elapsed_s(then, Moment("b", 160.0, 1e9 + 1e8)) == 60.0
    # after a reboot the wall clock is all there is, and time never runs backwards
    assert elapsed_s(then, Moment("c", 5.0, 1e9 + 600.0)) == 600.0
    assert elapsed_s(then, Moment("c", 5.0, 1e9 - 600.0)) == 0.0
    assert elapsed_s(Moment("", 0.0, 1e9), Moment("", 0.0, 1e9 + 7.0)) == 7.0
    assert elapsed_s(then.before(40.0), then) == 40.0
    assert 0.0 <= elapsed_s(present_moment(), present_moment()) < 5.0


def test_waits_go_on_when_the_service_starts_again(tmp_path: Path, made: Path) -> None:
    begin = present_moment()
    now = [begin]

    def start() -> Watcher:
        return Watcher(tmp_path, waits=Waits(0.3, 600.0, 600.0), moment=lambda: now[0])

    watcher = start()
    shutil.copy(made / "RS.dcm", watcher.inbox / "RS.dcm")
    other = study(tmp_path / "other", "other")
    (other / "RS.dcm").unlink()
    copied(other, watcher.inbox / "images")
    first = next(path for path in sorted(made.iterdir()) if path.name != "RS.dcm")
    (watcher.inbox / "half.dcm").write_bytes(first.read_bytes()[:900])
    watcher.until(lambda: len(watcher.store.first_seen(str(watcher.inbox))) == 14)
    watcher.store.close()
    # 500 s later by the clock since boot; somebody has set the wall clock three years on
    now[0] = Moment(begin.boot, begin.boot_s + 500.0, begin.wall_s + 1e8)
    watcher = start()
    watcher.until(lambda: watcher.service.inbox.is_read() and len(watcher.service.inbox.index) == 14)
    watcher.turn(20)
    assert watcher.states() == []
    watcher.store.close()
    now[0] = Moment(begin.boot, begin.boot_s + 700.0, begin.wall_s - 1e8)
    watcher = start()
    assert sorted(str(job.error).partition(":")[0] for job in watcher.settle(3)) == [
        "12 of the 12 images that the structure set refers to are missing",
        "no structure set came for these images",
        "unreadable",
    ]
    # what waits no longer is forgotten: handed in again, it waits anew
    watcher.until(lambda: watcher.store.first_seen(str(watcher.inbox)) == {})
    shutil.copy(made / "RS.dcm", watcher.inbox / "RS.dcm")
    watcher.until(lambda: len(watcher.store.first_seen(str(watcher.inbox))) == 1)
    watcher.turn(20)
    assert len(watcher.store.jobs()) == 3


def rules_file(folder: Path, condition: str) -> Path:
    template_file(folder)
    path = folder / "rules.yaml"
    path.write_text(f"dicomplan: 1\nrules:\n  - {{{condition}, template: tiny.yaml}}\n")
    return path


def test_rules_that_changed_look_at_kept_input_again(tmp_path: Path, made: Path) -> None:
    watcher = Watcher(tmp_path, keep_input=True, rules=load_rules(rules_file(tmp_path, "structures: [Brain]")))
    copied(made, watcher.inbox / "s")
    watcher.until(lambda: watcher.states() == ["refused"])
    watcher.store.close()
    watcher = Watcher(tmp_path, keep_input=True, rules=load_rules(rules_file(tmp_path, "structures: [PTV_7000]")))
    watcher.until(lambda: watcher.states() == ["refused", "done"])


def test_rules_that_changed_plan_nothing_twice(tmp_path: Path, made: Path) -> None:
    watcher = Watcher(tmp_path, rules=load_rules(rules_file(tmp_path, "structures: [PTV_7000]")))
    copied(made, watcher.inbox / "s")
    (job,) = watcher.settle(1)
    watcher.store.close()
    # the same template for the same study, by another condition
    watcher = Watcher(tmp_path, rules=load_rules(rules_file(tmp_path, 'station: ["*"]')))
    copied(made, watcher.inbox / "again")
    watcher.until(lambda: not watcher.left())
    assert [one.id for one in watcher.settle(1)] == [job.id]


def test_a_worker_that_cannot_write_the_outbox_costs_no_attempt(tmp_path: Path, monkeypatch) -> None:
    watcher = Watcher(tmp_path)
    study(watcher.inbox / "s", "s", study_id="errno 30")
    with monkeypatch.context() as patch:
        patch.setattr(
            watcher.service.places, "probe_outbox", lambda: "the outbox cannot be written: Read-only file system"
        )
        # the probe that comes round by itself must not stop the job before it begins
        patch.setattr(watcher.service.places, "check", lambda now_s: None)
        watcher.until(lambda: "outbox" in watcher.service.gauges.trouble)
        (job,) = watcher.store.jobs()
        assert (job.state, job.attempts) == ("waiting", 0)
    watcher.until(lambda: not watcher.service.gauges.trouble)


def test_a_folder_that_cannot_be_listed_is_told_and_holds_nobody_up(tmp_path: Path, made: Path, monkeypatch) -> None:
    watcher = Watcher(tmp_path)
    scan = watcher.service.inbox.scan
    monkeypatch.setattr(watcher.service.inbox, "scan", lambda now_s: replace(scan(now_s), unlisted=("x",)))
    copied(made, watcher.inbox / "s")
    (job,) = watcher.settle(1)
    assert job.state == "done"
    healthy, document = watcher.service.gauges.health()
    assert not healthy
    assert document["trouble"] == {"folders": "folders of the inbox that cannot be listed: 1"}
    assert watcher.service.gauges.metrics().count("dicomplan_healthy 0") == 1


@pytest.mark.parametrize("number", [errno.EACCES, errno.EXDEV])
def test_input_that_cannot_be_moved_stays_and_holds_nobody_up(
    number: int, tmp_path: Path, made: Path, monkeypatch
) -> None:
    def move(inbox: Path, job: Job, name: str, sha256: str) -> bool:
        if name.startswith("stuck/"):
            raise OSError(number, "not here")
        return moved(inbox, job, name, sha256)

    moved = delivering.move_input
    watcher = Watcher(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(delivering, "move_input", move)
        copied(made, watcher.inbox / "stuck")
        watcher.until(lambda: watcher.states() == ["done"] and "input" in watcher.service.gauges.trouble)
        study(watcher.inbox / "free", "free")
        watcher.until(lambda: watcher.states() == ["done", "done"] and len(watcher.left()) == 13)
        assert watcher.service.gauges.health()[0] is False
        watcher.turn(20)
        assert watcher.states() == ["done", "done"]
    watcher.until(lambda: not watcher.left())
    watcher.until(lambda: watcher.service.gauges.health()[0])


def test_a_file_that_is_filled_in_without_a_new_time_or_size_is_read_again(tmp_path: Path, made: Path) -> None:
    watcher = Watcher(tmp_path, waits=Waits(0.3, 600.0, 600.0))
    copied(made, watcher.inbox / "s")
    path = watcher.inbox / "s" / "RS.dcm"
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))  # laid out, as some programs do before they copy
    before = path.stat()
    watcher.until(lambda: any(one.error for one in watcher.service.inbox.index.values()))
    with path.open("r+b") as stream:
        stream.write(whole)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    (job,) = watcher.settle(1)
    assert job.state == "done"
    assert watcher.states() == ["done"]


def test_a_file_is_tried_once_more_before_it_is_quarantined(tmp_path: Path, made: Path, monkeypatch) -> None:
    inbox = Inbox(tmp_path, 20.0)
    shutil.copy(made / "RS.dcm", tmp_path)
    for now_s in (0.0, 20.0):
        inbox.scan(now_s)
    with monkeypatch.context() as patch:
        patch.setattr("dicomplan.jobs.inbox.read_contents", _share_that_fails)
        inbox.look(20.0, 5.0)
        inbox.look(100.0, 5.0)  # again, and again after twice the time
        assert inbox.index["RS.dcm"].read_s == 100.0
        inbox.look(199.0, 5.0)
        assert inbox.index["RS.dcm"].read_s == 100.0
        assert inbox.unreadable(899.0, 900.0) == []
        ((name, one),) = inbox.unreadable(900.0, 900.0)
        assert (name, one.error) == ("RS.dcm", "cannot be read: Input/output error")
    assert [name for name, _ in inbox.unreadable(901.0, 900.0)] == ["RS.dcm"]
    inbox.index["RS.dcm"] = replace(inbox.index["RS.dcm"], read_s=100.0)
    assert inbox.unreadable(901.0, 900.0) == []  # the share is well again
    assert inbox.index["RS.dcm"].contents is not None


def _share_that_fails(path: Path) -> FileContents:
    raise OSError(errno.EIO, "Input/output error")


def test_a_template_that_is_removed_is_missed_by_nobody(tmp_path: Path, made: Path) -> None:
    watcher = Watcher(tmp_path)
    (tmp_path / "tiny.yaml").unlink()
    template_file.cache_clear()
    copied(made, watcher.inbox / "s")
    (job,) = watcher.settle(1)
    assert job.state == "done"


def test_a_large_study_is_copied_into_several_zips_and_an_older_copy_still_runs(
    tmp_path: Path, made: Path, monkeypatch
) -> None:
    monkeypatch.setattr(accepting, "_ZIP_MEMBERS", 5)
    watcher = Watcher(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(watcher.service.runner, "start", lambda: None)
        copied(made, watcher.inbox / "s")
        watcher.until(lambda: watcher.states() == ["received"])
    (job,) = watcher.store.jobs()
    folder = watcher.settings.work / job.id
    copies = accepting.input_paths(folder)
    sizes = []
    old = folder / "input"
    for path in copies:
        with zipfile.ZipFile(path) as archive:
            sizes.append(len(archive.namelist()))
            for name in archive.namelist():
                old.mkdir(exist_ok=True)
                (old / f"{path.stem}-{name}").write_bytes(archive.read(name))
        path.unlink()
    assert sizes == [5, 5, 3]
    # every object, byte by byte; and the service that finds the copy of an earlier release plans it
    assert sorted(path.read_bytes() for path in old.iterdir()) == sorted(path.read_bytes() for path in made.iterdir())
    (job,) = watcher.settle(1)
    assert (job.state, job.attempts) == ("done", 0)
    result = (watcher.outbox / job.id / "RTDOSE.dcm").read_bytes()
    watcher.store.close()
    (tmp_path / "again").mkdir()
    other = Watcher(tmp_path / "again")
    copied(made, other.inbox / "s")
    (job,) = other.settle(1)
    assert (other.outbox / job.id / "RTDOSE.dcm").read_bytes() == result


def test_an_inbox_that_cannot_be_written_is_left_as_it_is_and_remembered(
    tmp_path: Path, made: Path, monkeypatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(InboxLock, "beat", read_only)
    copied(made, tmp_path / "in" / "s")
    for _ in range(2):
        watcher = Watcher(tmp_path)
        watcher.until(lambda watcher=watcher: watcher.states() == ["done"] and watcher.service.inbox.is_read())
        watcher.turn(20)
        assert watcher.states() == ["done"]
        assert len(watcher.left()) == 13
        assert not (watcher.inbox / ".dicomplan").exists()
        watcher.store.close()


@pytest.mark.parametrize(("grace_s", "state"), [(0.0, "waiting"), (60.0, "done")])
def test_a_service_that_is_ended_finishes_or_hands_back(grace_s: float, state: str, tmp_path: Path) -> None:
    watcher = Watcher(tmp_path, grace_s=grace_s)
    study(watcher.inbox / "s", "s", study_id="slow 2")
    watcher.until(lambda: watcher.states() == ["running"])
    watcher.service.stop()
    watcher.service.run()
    (job,) = watcher.store.jobs()
    assert (job.state, job.attempts, job.owner) == (state, 0, None)
    assert list((watcher.outbox / ".dicomplan").iterdir()) == []
    assert (watcher.outbox / job.id).exists() == (state == "done")
    watcher.store.close()
    (again,) = Watcher(tmp_path).settle(1)
    assert (again.id, again.state, again.attempts) == (job.id, "done", 0)


def fetched(port: int, what: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{what}", timeout=10) as answer:
        return str(answer.read().decode())


def test_the_command_serves_until_a_signal_comes(tmp_path: Path) -> None:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    port = free_port()
    command = [sys.executable, "-m", "dicomplan.cli.main", "watch", "in", "out", "--template", template_file(tmp_path)]
    command += ["--store", "state/jobs.sqlite", "--metrics", str(port)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        wait_for_port(port)
        assert json.loads(fetched(port, "health"))["healthy"] is True
        (tmp_path / "in" / "something").write_text("no DICOM")
        end = time.monotonic() + 120.0
        while "dicomplan_inbox_waiting_files 1" not in fetched(port, "metrics"):  # it works: signals are its own now
            assert time.monotonic() < end
            time.sleep(0.2)
    finally:
        process.terminate()
        _, log = process.communicate(timeout=60)
    assert process.returncode == 143
    events = [json.loads(line) for line in log.splitlines()]
    assert [one["event"] for one in events] == ["watching", "stopped"]
    assert stat.S_IMODE((tmp_path / "state" / "jobs.sqlite").stat().st_mode) == 0o600
