"""Measurements from files and folders, each by its kind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dicomplan.commissioning.lines import number, text_lines
from dicomplan.commissioning.measurements import AbsoluteDose, Measurements, OutputFactors
from dicomplan.commissioning.read_csv import is_measurement_csv, read_measurement_csv
from dicomplan.commissioning.read_dkfz import DKFZ_NAMES, read_dkfz
from dicomplan.commissioning.read_mephysto import read_mephysto
from dicomplan.errors import InputError

_FIELD = re.compile(r"(\d+(?:\.\d+)?)x(\d+(?:\.\d+)?)")
_ABSOLUTE = ("dmax @ 100 SSD", "d10 @ 100 SSD", "d10 @ 90 SSD / d10 @ 100 SSD", "d10 @ 90 SSD")
_REFERENCE = (900.0, 100.0)  # SSD and depth of "d10 @ 90 SSD"


def read_measurements(paths: Sequence[Path]) -> Measurements:
    """All measurements of files and folders (their own files, not those of folders within).

    Known: plain CSV (:mod:`.read_csv`), MEPHYSTO ``.mcc``, DKFZ tables (:mod:`.read_dkfz`), and two CSV tables as
    PyMedPhys stores them: output factors under ``05x05``-like headings, and ``d10 @ 90 SSD`` in cGy per MU. Files of
    other kinds in a folder are passed over and listed. Raises InputError with file and line.
    """
    found: list[Measurements] = []
    for path in paths:
        if path.is_dir():
            found += _folder(path)
        elif path.name in DKFZ_NAMES:
            found.append(read_dkfz(path.parent))
        else:
            one = _file(path)
            if one is None:
                raise InputError("no known kind of measurements", file=path, hint="CSV, .mcc, or DKFZ tables")
            found.append(one)
    result = _together(found)
    if not (result.depth_curves or result.profiles or result.output_factors):
        raise InputError("no depth doses, profiles or output factors were found", file=paths[0])
    return result


def _folder(folder: Path) -> list[Measurements]:
    found: list[Measurements] = []
    unused: list[str] = []
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    if any(name in DKFZ_NAMES for name in names):
        found.append(read_dkfz(folder))
    for name in names:
        if name in DKFZ_NAMES:
            continue
        one = _file(folder / name)
        if one is None:
            unused.append(f"{name}: no known kind of measurements")
        else:
            found.append(one)
    return [*found, Measurements(unused=tuple(unused))]


def _file(path: Path) -> Measurements | None:
    kind = path.suffix.lower()
    if kind == ".mcc":
        return read_mephysto(path)
    if kind != ".csv":
        return None
    lines = text_lines(path)
    if is_measurement_csv(lines):
        return read_measurement_csv(path)
    cells = [cell.strip() for cell in lines[0].split(",")] if lines else []
    if len(cells) > 1 and tuple(cells[1:]) == _ABSOLUTE:
        return _absolute(path, lines)
    if len(cells) > 1 and all(_FIELD.fullmatch(cell) for cell in cells[1:]):
        return _output_factors(path, lines, cells[1:])
    return None


def _single_row(path: Path, lines: list[str], count: int) -> list[float]:
    rows = [(line, text.split(",")) for line, text in enumerate(lines[1:], 2) if text.strip()]
    if len(rows) != 1:
        raise InputError(f"one row (one energy) expected, {len(rows)} found", file=path, line=rows[1][0] if rows else 2)
    line, cells = rows[0]
    if len(cells) != count + 1:
        raise InputError(f"{count + 1} cells expected, {len(cells)} found", file=path, line=line)
    return [number(cell, "value", path, line, 1e-6, 100.0) for cell in cells[1:]]


def _output_factors(path: Path, lines: list[str], headings: list[str]) -> Measurements:
    """Fields in cm. The table states no depth: that of the absolute dose beside it is meant, SSD 900 mm, 100 mm deep."""
    fields = 10.0 * np.array([[float(side) for side in heading.split("x")] for heading in headings])
    values = np.array(_single_row(path, lines, len(headings)))
    return Measurements(output_factors=(OutputFactors(fields, *_REFERENCE, values, path.name),))


def _absolute(path: Path, lines: list[str]) -> Measurements:
    """cGy per MU in a field of 10 cm x 10 cm."""
    values = _single_row(path, lines, len(_ABSOLUTE))
    return Measurements(absolute_dose=AbsoluteDose(0.01 * values[-1], *_REFERENCE, 100.0, path.name))


def _together(parts: Sequence[Measurements]) -> Measurements:
    result = Measurements()
    for part in parts:
        for key in ("primary_fluence", "absolute_dose", "head"):
            first, second = getattr(result, key), getattr(part, key)
            if first is not None and second is not None:
                what = f"{key.replace('_', ' ')}: two sources, {first.source} and {second.source}"
                raise InputError(what, hint="leave one of them out")
            if second is not None:
                result = replace(result, **{key: second})
        result = replace(
            result,
            depth_curves=result.depth_curves + part.depth_curves,
            profiles=result.profiles + part.profiles,
            output_factors=result.output_factors + part.output_factors,
            unused=result.unused + part.unused,
        )
    return result
