"""The one tree of exceptions: each says what is wrong, where, and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Self


class DicomplanError(Exception):
    """Base of every error dicomplan raises on purpose.

    ``message`` is one readable sentence; ``file`` (path), ``tag`` (DICOM keyword or ``(gggg,eeee)``),
    ``line`` (1-based line of a template or machine file) and ``hint`` (the remedy) are optional.
    ``exit_code`` is the process exit code that the command line maps the class to.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        tag: str | None = None,
        line: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.file = None if file is None else str(file)
        self.tag = tag
        self.line = line
        self.hint = hint

    def __str__(self) -> str:
        where = [part for part in (self.file, f"line {self.line}" if self.line else None, self.tag) if part]
        text = f"{', '.join(where)}: {self.message}" if where else self.message
        return f"{text} ({self.hint})" if self.hint else text


class UsageError(DicomplanError):
    """The command line, an output place or an optional part is wrong (exit code 2)."""

    exit_code = 2


class InputError(DicomplanError):
    """DICOM input was refused (exit code 3)."""

    exit_code = 3


class FileRefusedError(DicomplanError):
    """A file written by hand was refused (exit code 4).

    ``problems`` lists every problem found in one reading, each an error of the same kind with its own file and line.
    """

    exit_code = 4

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        tag: str | None = None,
        line: int | None = None,
        hint: str | None = None,
        problems: tuple[Self, ...] = (),
    ) -> None:
        super().__init__(message, file=file, tag=tag, line=line, hint=hint)
        self.problems = problems


class TemplateError(FileRefusedError):
    """A template, or a structure that it needs, was refused (exit code 4)."""


class MachineError(FileRefusedError):
    """A machine file was refused (exit code 4)."""


class NotDeliverableError(DicomplanError):
    """The plan violates limits of the machine (exit code 6); ``violations`` lists them."""

    exit_code = 6

    def __init__(self, message: str, *, violations: tuple[str, ...] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.violations = violations


class InsufficientMemoryError(DicomplanError):
    """The plan would not fit into memory (exit code 8); the hint names the grid that would."""

    exit_code = 8


class CancelledError(DicomplanError):
    """The work was cancelled from outside (exit code 130)."""

    exit_code = 130
