"""Text files of measurements line by line: decoding and numbers, with errors that name file and line."""

from __future__ import annotations

import math
from pathlib import Path

from dicomplan.errors import InputError

_LARGEST_BYTES = 50_000_000


def text_lines(path: Path) -> list[str]:
    """Lines of a text file, UTF-8 or Latin-1. Raises InputError if it cannot be read or is no text."""
    try:
        with path.open("rb") as stream:
            data = stream.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise InputError(f"the file cannot be read: {error.strerror or error}", file=path) from None
    if len(data) > _LARGEST_BYTES:
        raise InputError("the file is too large for measurements", file=path)
    if b"\0" in data:
        raise InputError("this is no text", file=path, line=data.count(b"\n", 0, data.index(b"\0")) + 1)
    try:
        return data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return data.decode("latin-1").splitlines()


def number(text: str, what: str, path: Path, line: int, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number within ``low`` to ``high``. Raises InputError with file and line."""
    try:
        value = float(text)
    except ValueError:
        shown = text if len(text) <= 30 else text[:27] + "..."
        raise InputError(f"{what}: a number expected, '{shown}' found", file=path, line=line) from None
    if not (math.isfinite(value) and low <= value <= high):
        raise InputError(f"{what}: {value:g} is not within {low:g} to {high:g}", file=path, line=line)
    return value
