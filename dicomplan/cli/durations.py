"""Durations and sizes as people write them: ``20``, ``15min``, ``7d``; ``500MB``."""

from __future__ import annotations

import argparse
import re

_UNITS_S = {"": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|d|)")


def duration_s(text: str) -> float:
    """``20``, ``20s``, ``15min``, ``2h``, ``7d`` in seconds. Raises ArgumentTypeError."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"a duration such as 20s, 15min, 2h or 7d is expected, not '{text}'")
    return float(match[1]) * _UNITS_S[match[2]]


def days(text: str) -> float:
    """A duration in days; a bare number is days. Raises ArgumentTypeError."""
    return float(text) if re.fullmatch(r"\d+(?:\.\d+)?", text.strip()) else duration_s(text) / _UNITS_S["d"]


def folder_mode(text: str) -> int:
    """An octal mode of folders that their owner may read and write. Raises ArgumentTypeError."""
    if not re.fullmatch(r"0?[0-7]{3,4}", text) or int(text, 8) & 0o700 != 0o700:
        raise argparse.ArgumentTypeError(f"an octal mode such as 700 or 2770 is expected, not '{text}'")
    return int(text, 8)
