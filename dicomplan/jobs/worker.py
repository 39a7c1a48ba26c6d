"""The process that runs one job: ``python -m dicomplan.jobs.worker JOB_FOLDER OUT_FOLDER``.

It dies with the watcher that started it, is the first to go when memory runs out, and tells how it ended by its exit
code and an ``outcome.json`` in OUT_FOLDER; the result lies in OUT_FOLDER/result.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dicomplan.errors import DicomplanError
from dicomplan.jobs.accepting import JOB_FILE, input_paths
from dicomplan.jobs.clean import reason_of_job
from dicomplan.jobs.durable import DISK_FULL, NO_PLACE, write_document
from dicomplan.jobs.recipes import TEMPLATE_FILE

OUTCOME_FILE = "outcome.json"
RESULT_FOLDER = "result"
EXIT_DISK_FULL = 75
"""Exit code of a worker that found the disk full (EX_TEMPFAIL of sysexits.h)."""
EXIT_NO_PLACE = 74
"""Exit code of a worker that could not read or write a file for a reason that may lie in its place (EX_IOERR)."""
MEMORY_VARIABLE = "DICOMPLAN_WORKER_MEMORY_BYTES"
"""Environment variable with the memory that a worker may take for data, bytes."""
_PR_SET_PDEATHSIG = 1

Plan = Callable[[tuple[Path, ...], str, Path], int]
"""Plans the study in some files by a template file into a new folder; returns the exit code (0, 5 or 6)."""


def main(arguments: Sequence[str], plan: Plan | None = None) -> int:
    """Run one job; returns the exit code of ``dicomplan plan``, ``EXIT_DISK_FULL`` or ``EXIT_NO_PLACE``.

    ``plan``: another way to plan (tests).
    """
    job, out = Path(arguments[0]), Path(arguments[1])
    _die_with_parent()
    _bound_memory()
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the watcher decides
    document = json.loads((job / JOB_FILE).read_text(encoding="utf-8"))
    # the time of receipt is the creation time of all outputs: a second attempt writes the same identifiers
    os.environ["SOURCE_DATE_EPOCH"] = str(int(document["received_s"]))
    hidden: tuple[str, ...] = ()
    error: str | None = None
    try:
        study = input_paths(job)
        hidden = _private(study)
        code = (plan or _plan)(study, str(job / TEMPLATE_FILE), out / RESULT_FOLDER)
    except DicomplanError as problem:
        code, error = problem.exit_code, reason_of_job(problem, hidden, (job, out))
    except MemoryError:
        code, error = 8, "not enough memory"
    except OSError as problem:
        code = _code_of(problem)
        error = "disk full" if code == EXIT_DISK_FULL else reason_of_job(problem, hidden, (job, out))
    except Exception as problem:
        code, error = 1, reason_of_job(problem, hidden, (job, out))
    try:
        write_document(out / OUTCOME_FILE, {"schema": 1, "exit_code": code, "error": error})
    except OSError as problem:
        return _code_of(problem)
    return code


def _code_of(error: OSError) -> int:
    if error.errno in DISK_FULL:
        return EXIT_DISK_FULL
    return EXIT_NO_PLACE if error.errno in NO_PLACE else 1


def _plan(study: tuple[Path, ...], template: str, result: Path) -> int:
    from dicomplan.workflow.plan import PlanRequest, run_plan

    return run_plan(PlanRequest(study, template, result)).exit_code


def _private(study: tuple[Path, ...]) -> tuple[str, ...]:
    """Names and identifiers of the patient in every object of the input."""
    from dicomplan.dicom.files import scan_study
    from dicomplan.workflow.privacy import private_texts

    found: set[str] = set()
    for item in scan_study(study).objects:
        found.update(private_texts(item.header, ()))
    return tuple(sorted(found))


def _die_with_parent() -> None:
    if not sys.platform.startswith("linux"):
        return
    parent = int(os.environ.get("DICOMPLAN_WORKER_PARENT", "0"))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent and os.getppid() != parent:
        os._exit(1)  # it died before it could be asked for
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _bound_memory() -> None:
    stated = os.environ.get(MEMORY_VARIABLE, "")
    if stated.isdecimal() and int(stated):
        resource.setrlimit(resource.RLIMIT_DATA, (int(stated), int(stated)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
