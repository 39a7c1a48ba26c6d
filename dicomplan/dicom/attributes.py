"""Read attributes of a header with errors that name file, tag, what was found and what was expected."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from dicomplan.dicom.files import DicomObject
from dicomplan.errors import InputError

_T = TypeVar("_T", bound=Hashable)

MAX_LENGTH_MM = 1e5
"""Greatest coordinate or distance that is believed: 100 m; beyond, a value is damaged."""
MIN_STEP_MM = 1e-3
"""Least pixel or plane step that is believed: 1 micrometre."""


def tag_name(keyword: str) -> str:
    """``PixelSpacing`` to ``PixelSpacing (0028,0030)``."""
    tag = tag_for_keyword(keyword)
    return keyword if tag is None else f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def value(dataset: Dataset, keyword: str) -> Any:
    """The value as pydicom converts it; None when absent. Raises InputError naming the tag when it cannot be converted."""
    try:
        return dataset.get(keyword)
    except Exception as error:  # converting a damaged value raises whatever pydicom stumbles over
        raise InputError(f"cannot be read ({type(error).__name__})", tag=tag_name(keyword)) from error


@contextmanager
def naming(file: str) -> Iterator[None]:
    """Give ``file`` to the InputErrors raised inside that name none."""
    try:
        yield
    except InputError as error:
        if error.file is None:
            error.file = file
        raise


def text(dataset: Dataset, keyword: str) -> str:
    """The value as text without surrounding blanks; empty when absent or empty. Raises InputError when unreadable."""
    plain = _plain_text(dataset, keyword)
    if plain is not None:
        return plain
    found = value(dataset, keyword)
    return "" if found is None else str(found).strip()


def _plain_text(dataset: Dataset, keyword: str) -> str | None:
    """The text of a single identifier or code string straight from its bytes, as :func:`text` gives it; None: not one.

    An RTSTRUCT has thousands of them, and pydicom takes most of the time to convert each.
    """
    tag = tag_for_keyword(keyword)
    element = dataset.get_item(tag) if tag is not None and tag in dataset else None
    if not isinstance(element, RawDataElement) or not isinstance(element.value, bytes):
        return None
    if (element.VR or dictionary_VR(element.tag)) not in ("CS", "UI"):
        return None
    if b"\\" in element.value or not element.value.isascii():
        return None
    return element.value.decode("ascii").rstrip("\0 ").strip()


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """The values as printed in the file, without blanks; empty tuple when absent or empty. Raises InputError."""
    found = value(dataset, keyword)
    if found is None or found == "":
        return ()
    parts = [found] if isinstance(found, str | bytes | int | float) else _listed(found, keyword)
    return tuple(str(getattr(part, "original_string", part)).strip() for part in parts)


def _listed(found: Any, keyword: str) -> list[Any]:
    if isinstance(found, DicomSequence) or not hasattr(found, "__iter__"):
        raise InputError(f"found {type(found).__name__}, expected values", tag=tag_name(keyword))
    return list(found)


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; empty when absent. Raises InputError when it is no sequence."""
    found = value(dataset, keyword)
    if found is None or (not isinstance(found, DicomSequence) and not found):
        return []
    if not isinstance(found, DicomSequence):
        raise InputError("is not a sequence", tag=tag_name(keyword))
    return list(found)


def numbers(dataset: Dataset, keyword: str, count: int, *, file: str) -> tuple[float, ...]:
    """``count`` finite numbers. Raises InputError naming the tag when absent, of another count, or not numbers."""
    with naming(file):
        printed = texts(dataset, keyword)
    try:
        values = tuple(float(part) for part in printed)
    except (ValueError, TypeError):
        raise InputError("does not hold numbers", file=file, tag=tag_name(keyword)) from None
    if not values:
        raise InputError("is missing", file=file, tag=tag_name(keyword))
    if len(values) != count or not all(math.isfinite(value) for value in values):
        raise InputError(
            f"found {len(values)} values, expected {count} finite numbers", file=file, tag=tag_name(keyword)
        )
    return values


def lengths_mm(dataset: Dataset, keyword: str, count: int, *, file: str) -> tuple[float, ...]:
    """``count`` numbers in mm, none beyond :data:`MAX_LENGTH_MM`. Raises InputError as :func:`numbers` does."""
    values = numbers(dataset, keyword, count, file=file)
    greatest = max(abs(value) for value in values)
    if greatest > MAX_LENGTH_MM:
        raise InputError(
            f"found {greatest:g} mm, expected at most {MAX_LENGTH_MM:g} mm", file=file, tag=tag_name(keyword)
        )
    return values


def positive_mm(dataset: Dataset, keyword: str, count: int, *, file: str) -> tuple[float, ...]:
    """``count`` numbers in mm from :data:`MIN_STEP_MM` to :data:`MAX_LENGTH_MM`. Raises InputError."""
    values = lengths_mm(dataset, keyword, count, file=file)
    if min(values) < MIN_STEP_MM:
        printed = "\\".join(f"{value:g}" for value in values)
        raise InputError(f"found {printed}, expected positive numbers", file=file, tag=tag_name(keyword))
    return values


def number(dataset: Dataset, keyword: str, *, file: str) -> float:
    """One finite number. Raises InputError."""
    return numbers(dataset, keyword, 1, file=file)[0]


def optional_number(dataset: Dataset, keyword: str, *, file: str) -> float | None:
    """One finite number, or None when absent or empty. Raises InputError when it is no number."""
    with naming(file):
        present = bool(texts(dataset, keyword))
    return number(dataset, keyword, file=file) if present else None


def whole(dataset: Dataset, keyword: str, *, file: str) -> int:
    """One whole number. Raises InputError."""
    found = number(dataset, keyword, file=file)
    if found != round(found):
        raise InputError(f"found {found}, expected a whole number", file=file, tag=tag_name(keyword))
    return round(found)


def optional_whole(dataset: Dataset, keyword: str, default: int, *, file: str) -> int:
    """One whole number, or ``default`` when absent or empty. Raises InputError when it is no whole number."""
    with naming(file):
        present = bool(texts(dataset, keyword))
    return whole(dataset, keyword, file=file) if present else default


def same_for_all(objects: Sequence[DicomObject], keyword: str, value_of: Callable[[DicomObject], _T], what: str) -> _T:
    """The one value that all objects share. Raises InputError naming the first object that differs from the most."""
    values = [value_of(item) for item in objects]
    expected, _ = Counter(values).most_common(1)[0]
    for item, value in zip(objects, values, strict=True):
        if value != expected:
            raise InputError(
                f"mixed {what} in one series: found {value}, the other slices have {expected}",
                file=item.file,
                tag=tag_name(keyword),
            )
    return expected
