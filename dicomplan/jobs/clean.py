"""Texts for log and store: without what may name a patient or a file of the input."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable
from pathlib import Path

from dicomplan.errors import DicomplanError

_QUOTED = re.compile(r"'[^']*'")
_REMOVED = "[removed]"


def cleaned(text: str, hidden: Iterable[str] = (), places: Iterable[Path] = ()) -> str:
    """``text`` without ``places`` (and their names) and without the words of ``hidden`` (a DICOM name also by its parts)."""
    for place in places:
        text = text.replace(str(place), _REMOVED).replace(place.name, _REMOVED)
    words: set[str] = set()
    for one in hidden:
        words.update(part for part in (one.strip(), *re.split(r"[\^=\s]+", one)) if len(part) > 1)
    if words:
        ordered = sorted(words, key=lambda word: (-len(word), word))
        text = re.sub(rf"(?<!\w)(?:{'|'.join(map(re.escape, ordered))})(?!\w)", _REMOVED, text, flags=re.IGNORECASE)
    return "".join(letter if letter.isprintable() else " " for letter in text)


def reason_of_file(error: DicomplanError, path: Path) -> str:
    """Why a file was not taken: without its name, and without quoted names of members of a zip."""
    text = _QUOTED.sub("''", cleaned(error.message, (), (path,)))
    return f"{error.tag}: {text}" if error.tag else text


def reason_of_job(error: BaseException, hidden: Iterable[str], places: Iterable[Path]) -> str:
    """Why a job ended: the sentence of one of our own errors; of others the kind and the line that raised it."""
    if isinstance(error, DicomplanError):
        parts = (error.tag, error.message)
        text = ": ".join(part for part in parts if part)
        return cleaned(f"{text} ({error.hint})" if error.hint else text, hidden, places)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"unexpected {type(error).__name__}{where}"
