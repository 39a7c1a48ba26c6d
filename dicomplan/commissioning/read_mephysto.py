"""Scans of PTW MEPHYSTO (``.mcc``, CC-Export): depth doses and profiles, one scan between BEGIN_SCAN and END_SCAN.

A scan is KEY=value lines, then BEGIN_DATA, rows of position (mm) and reading, END_DATA. Used: SCAN_CURVETYPE (PDD,
CROSSPLANE_PROFILE, INPLANE_PROFILE), SSD, SCAN_DEPTH, FIELD_CROSSPLANE, FIELD_INPLANE (at isocentre, checked against
REF_FIELD_DEFINED), CROSSPLANE_AXIS (MLC: crossplane runs along the leaves, the machine's x), MODALITY and MEAS_MEDIUM.
Other curve types, scans off the axis and other media are passed over, and listed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from dicomplan.commissioning.lines import number, text_lines
from dicomplan.commissioning.measurements import DepthCurve, Measurements, Profile
from dicomplan.errors import InputError

_AXES: dict[str, Literal["crossplane", "inplane"]] = {
    "CROSSPLANE_PROFILE": "crossplane",
    "INPLANE_PROFILE": "inplane",
}


def read_mephysto(path: Path) -> Measurements:
    """Measurements of one .mcc file. Raises InputError with file and line."""
    curves: list[DepthCurve] = []
    profiles: list[Profile] = []
    unused: list[str] = []
    for keys, rows, line in _scans(path, text_lines(path)):
        name = f"{path.name}, scan {keys['scan']}"
        reason = _unusable(keys, path, line)
        if reason:
            unused.append(f"{name}: {reason}")
            continue
        if keys.get("REF_FIELD_DEFINED", "ISOCENTER") != "ISOCENTER":
            raise InputError("REF_FIELD_DEFINED: fields at the isocentre expected", file=path, line=line)
        across, inplane = _value(keys, "FIELD_CROSSPLANE", path, line), _value(keys, "FIELD_INPLANE", path, line)
        leaves_across = keys.get("CROSSPLANE_AXIS", "MLC") == "MLC"
        field = (across, inplane) if leaves_across else (inplane, across)
        distance = _value(keys, "SSD", path, line)
        table = np.array(rows)
        order = np.argsort(table[:, 0], kind="stable")
        at, value = table[order, 0], table[order, 1]
        if np.any(np.diff(at) <= 0):
            raise InputError("a position stands twice in one scan", file=path, line=line)
        kind = keys["SCAN_CURVETYPE"]
        if kind == "PDD":
            curves.append(DepthCurve(field, distance, at, value, name))
        else:
            axis: Literal["x", "y"] = "x" if (_AXES[kind] == "crossplane") == leaves_across else "y"
            profiles.append(Profile(field, distance, _value(keys, "SCAN_DEPTH", path, line), axis, at, value, name))
    if not curves and not profiles:
        raise InputError("it holds no scan that can be used" + (f": {unused[0]}" if unused else ""), file=path)
    return Measurements(tuple(curves), tuple(profiles), unused=tuple(unused))


def _unusable(keys: dict[str, str], path: Path, line: int) -> str | None:
    kind = keys.get("SCAN_CURVETYPE", "none")
    if kind != "PDD" and kind not in _AXES:
        return f"curve type {kind}"
    if keys.get("MODALITY", "X") != "X":
        return f"modality {keys['MODALITY']}"
    if keys.get("MEAS_MEDIUM", "WATER") != "WATER":
        return f"measured in {keys['MEAS_MEDIUM']}"
    if any(
        float(keys.get(key) or 0) != 0 for key in ("SCAN_OFFAXIS_INPLANE", "SCAN_OFFAXIS_CROSSPLANE", "WEDGE_ANGLE")
    ):
        return "off the axis, or with a wedge"
    return None


def _value(keys: dict[str, str], key: str, path: Path, line: int) -> float:
    if key not in keys:
        raise InputError(f"{key} is missing", file=path, line=line)
    return number(keys[key], key, path, line, 0.0, 5000.0)


def _scans(path: Path, lines: list[str]) -> list[tuple[dict[str, str], list[tuple[float, float]], int]]:
    """Keys, rows and first line of each scan."""
    if not lines or lines[0].strip() != "BEGIN_SCAN_DATA":
        raise InputError("this is no CC-Export of MEPHYSTO: BEGIN_SCAN_DATA expected", file=path, line=1)
    scans = []
    keys: dict[str, str] | None = None
    rows: list[tuple[float, float]] = []
    start, in_data = 1, False
    for line, raw in enumerate(lines, 1):
        text = raw.strip()
        if text.startswith("BEGIN_SCAN ") or text.startswith("BEGIN_SCAN\t"):
            if keys is not None:
                raise InputError("a scan begins within another", file=path, line=line)
            keys, rows, start, in_data = {"scan": text.split()[1]}, [], line, False
        elif text.startswith("END_SCAN ") or text.startswith("END_SCAN\t"):
            if keys is None or in_data or not rows:
                raise InputError("a scan ends without data", file=path, line=line)
            scans.append((keys, rows, start))
            keys = None
        elif keys is None:
            continue
        elif text == "BEGIN_DATA":
            in_data = True
        elif text == "END_DATA":
            in_data = False
        elif in_data and text:
            cells = text.replace("#", " ").split()
            if len(cells) < 2:
                raise InputError("position and reading expected", file=path, line=line)
            rows.append((number(cells[0], "position", path, line), number(cells[1], "reading", path, line)))
        elif "=" in text:
            key, _, value = text.partition("=")
            keys[key.strip()] = value.strip()
    if keys is not None:
        raise InputError("the file ends within a scan", file=path, line=len(lines))
    return scans
