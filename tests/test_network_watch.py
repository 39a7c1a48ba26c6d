"""`watch --send`: what the service hands over of a finished job, in which order, how often, and what it never does."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from jobs_helpers import Watcher, study
from network_helpers import Storing, free_port, orthanc, result_folder, stored_in

from dicomplan.cli.watch import _hand_over
from dicomplan.errors import UsageError
from dicomplan.jobs.values import Job

FILES = ["RTSTRUCT.dcm", "RTPLAN.dcm", "RTDOSE.dcm", "RTDOSE_1.dcm"]


@pytest.fixture
def done(tmp_path: Path) -> Job:
    """A job that is done, with a whole result, of a service that has ended."""
    watcher = Watcher(tmp_path)
    study(watcher.inbox / "s", "s")
    (job,) = watcher.settle(1)
    result_folder(watcher.outbox / job.id)
    watcher.store.close()
    return job


def sending(root: Path, *targets: str, include_failed: bool = False) -> Watcher:
    """A watcher that was started with --send."""
    options = argparse.Namespace(send=list(targets), include_failed=include_failed)
    return Watcher(root, hand_over=_hand_over(options))


def test_a_finished_job_is_sent_once_and_each_status_is_recorded(done: Job, tmp_path: Path) -> None:
    storing = Storing([0, 0xB000])
    target = f"STORE@127.0.0.1:{storing.port}"
    try:
        watcher = sending(tmp_path, target)
        watcher.until(lambda: watcher.store.job(done.id).handed_over, 60.0)
        watcher.turn(20)
        found = [(one.file, one.sent, one.status, one.attempts) for one in watcher.store.handovers(done.id)]
        assert found == list(zip(FILES, [True] * 4, ["0x0000", "0xB000", "0x0000", "0x0000"], [1] * 4, strict=True))
        assert [one.uid for one in watcher.store.handovers(done.id)] == storing.received
        assert watcher.store.job(done.id).state == "done"
        watcher.store.close()
        # a service that starts again has nothing to send
        again = sending(tmp_path, target)
        again.turn(20)
        assert len(storing.received) == 4
    finally:
        storing.server.shutdown()


def test_what_was_taken_before_a_crash_is_not_sent_again(done: Job, tmp_path: Path) -> None:
    # the third file is refused in each of the three tries of one hand-over
    storing = Storing([0, 0, 0xC000, 0xC000, 0xC000])
    target = f"STORE@127.0.0.1:{storing.port}"
    try:
        watcher = sending(tmp_path, target)
        watcher.until(lambda: watcher.service.gauges.handover_failures > 0, 60.0)
        job = watcher.store.job(done.id)
        assert (job.state, job.attempts, job.error, job.handed_over) == ("done", 0, None, False)
        recorded = {one.file: (one.sent, one.status) for one in watcher.store.handovers(done.id)}
        assert recorded["RTDOSE.dcm"] == (False, "0xC000")
        assert "RTDOSE_1.dcm" not in recorded  # it was not tried
        watcher.store.close()
        again = sending(tmp_path, target)
        again.until(lambda: again.store.job(done.id).handed_over, 60.0)
        assert len(storing.received) == len(set(storing.received)) == 4
    finally:
        storing.server.shutdown()


def test_a_receiver_that_is_not_there_changes_nothing_of_the_job_and_holds_no_study_up(
    done: Job, tmp_path: Path
) -> None:
    storing = Storing([])
    targets = (f"STORE@127.0.0.1:{storing.port}", f"http://127.0.0.1:{free_port()}/dicom-web")
    try:
        watcher = sending(tmp_path, *targets)
        watcher.until(lambda: watcher.service.gauges.handover_failures > 0, 120.0)
        # one of the two has everything
        sent = {(one.destination, one.file): one.sent for one in watcher.store.handovers(done.id)}
        assert [sent[targets[0], name] for name in FILES] == [True] * 4
        assert sent[targets[1], "RTSTRUCT.dcm"] is False
        study(watcher.inbox / "next", "next")
        watcher.until(lambda: watcher.states() == ["done", "done"])
        job = watcher.store.job(done.id)
        assert (job.state, job.attempts, job.handed_over) == ("done", 0, False)
        assert "dicomplan_handover_failures_total 0" not in watcher.service.gauges.metrics()
        assert "not_handed_over" in watcher.log_text.getvalue()
    finally:
        storing.server.shutdown()


@pytest.mark.parametrize(("include_failed", "count"), [(False, 1), (True, 4)])
def test_a_failed_plan_and_its_doses_stay_here_unless_asked_for(
    include_failed: bool, count: int, done: Job, tmp_path: Path
) -> None:
    folder = tmp_path / "out" / done.id
    (folder / "failed").mkdir()
    (folder / "RTPLAN.dcm").rename(folder / "failed" / "RTPLAN.dcm")
    (folder / "plan.json").write_text(json.dumps({"schema": 1, "dicomplan": "t", "status": "failed"}))
    storing = Storing([])
    try:
        watcher = sending(tmp_path, f"STORE@127.0.0.1:{storing.port}", include_failed=include_failed)
        watcher.until(lambda: watcher.store.job(done.id).handed_over, 60.0)
    finally:
        storing.server.shutdown()
    assert len(storing.received) == count


def test_a_missing_part_is_told_when_the_service_starts(monkeypatch) -> None:
    monkeypatch.setattr("dicomplan.network.sending.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="C-STORE needs pynetdicom"):
        _hand_over(argparse.Namespace(send=["A@h:104"], include_failed=False))
    assert _hand_over(argparse.Namespace(send=["https://h/dicom-web"], include_failed=False)) is not None


@pytest.mark.integration
def test_orthanc_gets_results_of_the_service_by_both_ways(done: Job, tmp_path: Path) -> None:
    with orthanc(tmp_path, dicomweb=True) as (dicom, http):
        targets = (f"ORTHANC@127.0.0.1:{dicom}", f"http://127.0.0.1:{http}/dicom-web")
        watcher = sending(tmp_path, *targets)
        watcher.until(lambda: watcher.store.job(done.id).handed_over, 120.0)
        sent = watcher.store.handovers(done.id)
        assert {(one.destination, one.file): one.sent for one in sent} == {
            (target, name): True for target in targets for name in FILES
        }
        assert stored_in(http) == {one.uid for one in sent}
