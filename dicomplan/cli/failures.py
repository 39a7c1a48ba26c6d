"""From an exception to what the user sees: one readable line per problem, a JSON document, an exit code."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from dicomplan.cli.interrupts import Terminated
from dicomplan.cli.session import printable
from dicomplan.errors import CancelledError, DicomplanError, MachineError, NotDeliverableError, TemplateError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Failure:
    """Exit ``code``, ``lines`` for stderr and the ``document`` for ``--json``, as INTERFACE.md lists its keys."""

    code: int
    lines: tuple[str, ...]
    document: dict[str, object]


def failure(error: BaseException, *, received: int | None = None) -> Failure:
    """The failure that ``error`` means to the user; ``received`` is the signal that arrived, if any."""
    if isinstance(error, CancelledError | KeyboardInterrupt | Terminated):
        signum = error.signum if isinstance(error, Terminated) else received
        code = _EXIT_INTERRUPTED if signum is None else 128 + signum
        return _plain(code, "interrupted" if code == _EXIT_INTERRUPTED else "terminated", None, prefix="")
    if isinstance(error, DicomplanError):
        return _known(error)
    if isinstance(error, MemoryError):
        return _plain(8, "not enough memory", "a larger step of dose.grid in the template needs less")
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return _plain(1, "disk full: nothing was kept", "free some space, or choose another output folder")
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return _plain(1, text, "use --debug for the traceback", prefix="unexpected error: ")


def _known(error: DicomplanError) -> Failure:
    problems = error.problems if isinstance(error, TemplateError | MachineError) else ()
    document = _document(error.exit_code, error.message, error.file, error.tag, error.line, error.hint)
    if problems:
        document["error"]["problems"] = [
            {"message": problem.message, "file": problem.file or error.file, "line": problem.line, "hint": problem.hint}
            for problem in problems
        ]
        lines = tuple(_problem_line(problem, error.file) for problem in problems)
    else:
        lines = (str(error),)
    if isinstance(error, NotDeliverableError):
        document["error"]["violations"] = list(error.violations)
    return Failure(error.exit_code, tuple(f"error: {printable(line)}" for line in lines), {**document})


def _problem_line(problem: TemplateError | MachineError, file: str | None) -> str:
    if problem.file is None and file is not None:
        return str(DicomplanError(problem.message, file=file, tag=problem.tag, line=problem.line, hint=problem.hint))
    return str(problem)


def _plain(code: int, message: str, hint: str | None, *, prefix: str = "error: ") -> Failure:
    line = printable(f"{prefix}{message} ({hint})" if hint else f"{prefix}{message}")
    return Failure(code, (line,), {**_document(code, printable(message), None, None, None, hint)})


def _document(
    code: int, message: str, file: str | None, tag: str | None, line: int | None, hint: str | None
) -> dict[str, dict[str, object]]:
    return {"error": {"code": code, "message": message, "file": file, "tag": tag, "line": line, "hint": hint}}
