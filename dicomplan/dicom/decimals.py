"""Text of numbers (VR DS) and of short names as DICOM allows them."""

from __future__ import annotations

from decimal import ROUND_UP, Decimal

import numpy as np
from numpy.typing import NDArray

MAX_DECIMAL_CHARACTERS = 16
"""Greatest length of a decimal string, DICOM PS3.5 table 6.2-1 (treatment planning systems refuse longer ones)."""


def decimal_text(value: float, decimals: int = 6) -> str:
    """``value`` as a decimal string of at most 16 characters with at most ``decimals`` digits after the point.

    Trailing zeros and the sign of zero are dropped. Raises ValueError for a value that is not finite or whose whole
    part alone is longer.
    """
    if not np.isfinite(value):
        raise ValueError(f"a decimal string needs a finite number, not {value}")
    for digits in range(decimals, -1, -1):
        text = f"{value:.{digits}f}"
        if "." in text:
            text = text.rstrip("0").rstrip(".")
        if text == "-0":
            text = "0"
        if len(text) <= MAX_DECIMAL_CHARACTERS:
            return text
    raise ValueError(f"{value} does not fit into {MAX_DECIMAL_CHARACTERS} characters")


def decimal_text_rounded_up(value: float) -> str:
    """``value`` > 0 in scientific notation, 16 characters at most, never below ``value`` (for scaling factors)."""
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"a scaling factor is a finite positive number, not {value}")
    exact = Decimal(value)
    step = Decimal(1).scaleb(exact.adjusted() - 9)
    rounded = exact.quantize(step, rounding=ROUND_UP)
    return f"{rounded:.9e}"


def point_texts(points_mm: NDArray[np.float64], decimals: int = 3) -> list[list[str]]:
    """Coordinates (n, 3) in mm as decimal strings with ``decimals`` digits; one list of three texts per point."""
    rounded = np.round(np.asarray(points_mm, dtype=np.float64), decimals) + 0.0
    return [[decimal_text(value, decimals) for value in row] for row in rounded.tolist()]


def short_text(text: str, length: int = 16) -> str:
    """``text`` without surrounding blanks or backslashes, cut to ``length`` characters (SH: 16, LO: 64)."""
    return text.replace("\\", "/").strip()[:length].strip()
