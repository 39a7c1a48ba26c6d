"""Read attributes of a header with errors that name file, tag, what was found and what was expected."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from dicomplan.dicom.files import DicomObject
from dicomplan.errors import InputError

_T = TypeVar("_T", bound=Hashable)


def tag_name(keyword: str) -> str:
    """``PixelSpacing`` to ``PixelSpacing (0028,0030)``."""
    tag = tag_for_keyword(keyword)
    return keyword if tag is None else f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def text(dataset: Dataset, keyword: str) -> str:
    """The value as text without surrounding blanks; empty when absent or empty."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """The values as printed in the file, without blanks; empty tuple when absent or empty."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return ()
    parts = [value] if isinstance(value, str | int | float) else list(value)
    return tuple(str(getattr(part, "original_string", part)).strip() for part in parts)


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; empty when absent."""
    return list(dataset.get(keyword) or ())


def numbers(dataset: Dataset, keyword: str, count: int, *, file: str) -> tuple[float, ...]:
    """``count`` finite numbers. Raises InputError naming the tag when absent, of another count, or not numbers."""
    try:
        values = tuple(float(part) for part in texts(dataset, keyword))
    except (ValueError, TypeError):
        raise InputError("does not hold numbers", file=file, tag=tag_name(keyword)) from None
    if not values:
        raise InputError("is missing", file=file, tag=tag_name(keyword))
    if len(values) != count or not all(math.isfinite(value) for value in values):
        raise InputError(
            f"found {len(values)} values, expected {count} finite numbers", file=file, tag=tag_name(keyword)
        )
    return values


def number(dataset: Dataset, keyword: str, *, file: str) -> float:
    """One finite number. Raises InputError."""
    return numbers(dataset, keyword, 1, file=file)[0]


def optional_number(dataset: Dataset, keyword: str, *, file: str) -> float | None:
    """One finite number, or None when absent or empty. Raises InputError when it is no number."""
    return number(dataset, keyword, file=file) if texts(dataset, keyword) else None


def whole(dataset: Dataset, keyword: str, *, file: str) -> int:
    """One whole number. Raises InputError."""
    value = number(dataset, keyword, file=file)
    if value != round(value):
        raise InputError(f"found {value}, expected a whole number", file=file, tag=tag_name(keyword))
    return round(value)


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
