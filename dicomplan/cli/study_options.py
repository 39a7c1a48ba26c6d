"""Arguments of the commands that read a study: what to read, and how to choose where several could be meant."""

from __future__ import annotations

import argparse
import re
from typing import Any

from dicomplan.cli.options import Parser, existing_paths

POSITIONS = ("HFS", "HFP", "FFS", "FFP", "HFDR", "HFDL", "FFDR", "FFDL")
"""Patient positions, DICOM PS3.3 C.7.3.1.1.2."""
_UNITS = {"": 10**9, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?b?)", re.IGNORECASE)


def add_study_options(parser: Parser) -> None:
    """Add STUDY and the options ``--structure-set``, ``--series``, ``--patient-position``, ``--repair``, ``--max-study-size``."""
    parser.add_argument("study", nargs="+", metavar="STUDY", help="a folder (searched recursively), a zip, or files")
    add_choices(parser)


def add_choices(parser: Parser) -> None:
    """Add the options of :func:`add_study_options` without STUDY."""
    parser.add_argument("--structure-set", metavar="ID", help="the RTSTRUCT to use: its UID, label or file name")
    parser.add_argument("--series", metavar="ID", help="the CT series to use: its UID or description")
    parser.add_argument(
        "--patient-position", choices=POSITIONS, help="patient position, where the CT's headers do not tell it"
    )
    parser.add_argument("--repair", action="store_true", help="interpolate single missing CT slices")
    parser.add_argument(
        "--max-study-size",
        type=study_size,
        metavar="SIZE",
        help="refuse a larger study before its pixels are read: a number in GB, or with kB, MB, GB (default: 20 GB)",
    )


def add_bridge(parser: Parser) -> None:
    """Add the option ``--bridge``."""
    parser.add_argument(
        "--bridge", action="store_true", help="fill CT slices that a ROI leaves out between its contours, by shape"
    )


def study_choices(options: argparse.Namespace) -> dict[str, Any]:
    """STUDY and what :func:`add_choices` added, as the fields of a :class:`dicomplan.workflow.study_request.StudyRequest`.

    Raises UsageError for a path that is not there.
    """
    chosen = {
        "study": existing_paths(options.study),
        "structure_set": options.structure_set,
        "series": options.series,
        "patient_position": options.patient_position,
        "repair": options.repair,
    }
    return chosen if options.max_study_size is None else chosen | {"max_study_size": options.max_study_size}


def study_size(text: str) -> int:
    """``20``, ``20GB`` or ``500 MB`` to bytes. Raises ArgumentTypeError."""
    match = _SIZE.fullmatch(text.strip())
    unit = "" if match is None else match[2].lower()
    unit = f"{unit}b" if unit in ("k", "m", "g", "t") else unit
    if match is None or unit not in _UNITS or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"a size such as 20GB or 500MB is expected, not '{text}'")
    return round(float(match[1]) * _UNITS[unit])
