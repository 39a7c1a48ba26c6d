"""The log of a run: structured, in order, and silent about who the patient is."""

from __future__ import annotations

import logging
import re
import threading
from pathlib import Path

import pytest

from dicomplan.errors import UsageError
from dicomplan.events import Progress
from dicomplan.workflow import threads
from dicomplan.workflow.logs import RunLog, Sparse, log_line


def read(path: Path) -> list[dict[str, str]]:
    """Lines as dictionaries; the quoting is undone as a reader of logfmt would."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        pairs = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)', line)
        assert " ".join(f"{key}={value}" for key, value in pairs) == line
        lines.append({key: re.sub(r"\\(.)", r"\1", value.strip('"')) for key, value in pairs})
    return lines


def test_stages_messages_and_seconds(tmp_path: Path) -> None:
    seen: list[Progress] = []
    with RunLog(tmp_path / "log.txt") as log:
        progress = log.progress(seen.append)
        progress(Progress("read", "95 images"))
        progress(Progress("masks"))
        log.write("warning", 'BODY is missing; "found" from the CT')
    lines = read(tmp_path / "log.txt")
    assert [(line["stage"], line["message"]) for line in lines] == [
        ("read", "95 images"),
        ("read", "ended"),
        ("masks", "begins"),
        ("masks", 'BODY is missing; "found" from the CT'),
        ("masks", "ended"),
    ]
    assert float(lines[1]["seconds"]) >= 0
    assert lines[3]["level"] == "warning"
    assert [event.stage for event in seen] == ["read", "masks"]


def test_names_and_paths_are_taken_out_of_every_way_in(tmp_path: Path) -> None:
    with RunLog(tmp_path / "log.txt") as log:
        log.hide("Mustermann^Erika", "4711", "CT0001.dcm")
        log.write("info", "patient MUSTERMANN, Erika has 4711 in CT0001.dcm of /data/Mustermann/x.dcm, ~/a, ../b/c")
        log.progress()(Progress("read", "Mustermann Erika"))
        logging.getLogger("dicomplan.dicom.read").warning("%s is odd", "erika")
    text = (tmp_path / "log.txt").read_text()
    for secret in ("mustermann", "erika", "4711", "ct0001", "/data", "x.dcm", "~/a", "../b"):
        assert secret not in text.lower().replace("time=", "")


def test_units_and_numbers_are_not_taken_for_names(tmp_path: Path) -> None:
    message = "0.01 Gy/MU, gamma 3%/2mm, 14711 voxels, RTPLAN.dcm written, 5/9 beams"
    with RunLog(tmp_path / "log.txt") as log:
        log.hide("4711")
        log.write("info", message)
    assert read(tmp_path / "log.txt")[0]["message"] == message


def test_identify_keeps_names(tmp_path: Path) -> None:
    with RunLog(tmp_path / "log.txt", identify=True) as log:
        log.hide("Mustermann^Erika")
        log.write("info", "Mustermann^Erika in /data/x.dcm")
    assert read(tmp_path / "log.txt")[0]["message"] == "Mustermann^Erika in /data/x.dcm"


def test_only_records_of_the_runs_own_thread_are_taken(tmp_path: Path) -> None:
    logger = logging.getLogger("dicomplan.test")
    with RunLog(tmp_path / "log.txt"):
        other = threading.Thread(target=lambda: logger.warning("of another run"))
        other.start()
        other.join()
        logger.info("of this run")
        logging.getLogger("numba").warning("of another package")
    logger.warning("after the run")
    assert [line["message"] for line in read(tmp_path / "log.txt")] == ["of this run"]


def test_a_line_stays_one_line() -> None:
    assert "\n" not in log_line("info", "read", "one\ntwo\x1b[31m")
    assert "\x1b" not in log_line("info", "read", "one\ntwo\x1b[31m")


def test_progress_is_thinned_within_a_stage() -> None:
    sparse = Sparse(every_s=60.0)
    events = [Progress("a", "1"), Progress("a", "2"), Progress("b", "1"), Progress("a", "3")]
    assert [sparse.wanted(event) for event in events] == [True, False, True, True]


def test_threads_before_numba_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(threads.sys.modules, "numba", raising=False)
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    assert threads.set_threads(None) == 7
    assert threads.set_threads(3) == 3
    assert threads.os.environ["NUMBA_NUM_THREADS"] == threads.os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.delenv("NUMBA_NUM_THREADS")
    assert threads.set_threads(None) == threads.usable_cores() >= 1


def test_threads_after_numba_is_loaded() -> None:
    numba = pytest.importorskip("numba")
    before = numba.get_num_threads()
    try:
        assert threads.set_threads(1) == numba.get_num_threads() == 1
        assert threads.set_threads(10_000) == numba.config.NUMBA_NUM_THREADS
    finally:
        numba.set_num_threads(before)


def test_no_threads_at_all_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        threads.set_threads(0)
