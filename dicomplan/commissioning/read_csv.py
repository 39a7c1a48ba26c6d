"""Measurements as plain CSV.

One row is one measured point. The first row that is neither empty nor a comment (#) is the header; it names the columns,
in any order, of these (``quantity`` and ``value`` are required, the rest where a quantity needs it)::

    quantity,field_x_mm,field_y_mm,ssd_mm,depth_mm,x_mm,y_mm,value

==================  ==========================================================================================
quantity            what a row is, and the columns it needs
==================  ==========================================================================================
depth_dose          dose on the axis at depth_mm, any unit; field_x_mm, field_y_mm, ssd_mm, depth_mm
tpr                 tissue-phantom ratio, chamber at the isocentre; field_x_mm, field_y_mm, depth_mm (no ssd_mm)
profile             dose at x_mm or y_mm (the other empty) from the axis, measured at that depth, any unit;
                    field_x_mm, field_y_mm, ssd_mm, depth_mm
output_factor       dose per MU relative to one of the fields; field_x_mm, field_y_mm, ssd_mm, depth_mm
primary_fluence     off-axis fluence at the radius x_mm in the isocentre plane, relative to the axis
absolute_dose       Gy per MU; field_x_mm = field_y_mm, ssd_mm, depth_mm; one row
==================  ==========================================================================================

Lengths in mm; fields are stated at the isocentre, x along the leaves (IEC 61217). Rows of equal quantity, field, ssd_mm
(and depth_mm and axis, for profiles) are one curve; their order is free.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dicomplan.commissioning.lines import number, text_lines
from dicomplan.commissioning.measurements import (
    AbsoluteDose,
    DepthCurve,
    Measurements,
    OutputFactors,
    PrimaryFluence,
    Profile,
)
from dicomplan.errors import InputError

COLUMNS = ("quantity", "field_x_mm", "field_y_mm", "ssd_mm", "depth_mm", "x_mm", "y_mm", "value")
"""The columns of the grammar."""

_FIELD = ("field_x_mm", "field_y_mm")
_NEEDS = {
    "depth_dose": (*_FIELD, "ssd_mm", "depth_mm"),
    "tpr": (*_FIELD, "depth_mm"),
    "profile": (*_FIELD, "ssd_mm", "depth_mm"),
    "output_factor": (*_FIELD, "ssd_mm", "depth_mm"),
    "primary_fluence": ("x_mm",),
    "absolute_dose": (*_FIELD, "ssd_mm", "depth_mm"),
}
_LIMITS = {
    "field_x_mm": (1.0, 800.0),
    "field_y_mm": (1.0, 800.0),
    "ssd_mm": (300.0, 3000.0),
    "depth_mm": (0.0, 600.0),
    "x_mm": (-1000.0, 1000.0),
    "y_mm": (-1000.0, 1000.0),
    "value": (-1e6, 1e6),
}


@dataclass(frozen=True)
class _Row:
    quantity: str
    values: dict[str, float]
    line: int


def is_measurement_csv(lines: list[str]) -> bool:
    """Whether the first row that is no comment is a header of this grammar."""
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            return "quantity" in [cell.strip() for cell in line.split(",")]
    return False


def read_measurement_csv(path: Path) -> Measurements:
    """Measurements of one CSV file. Raises InputError with file and line."""
    rows = _rows(path, text_lines(path))
    curves: dict[tuple[str, tuple[float, ...]], list[_Row]] = defaultdict(list)
    for row in rows:
        keys = [key for key in _NEEDS[row.quantity] if key not in ("x_mm",)]
        if row.quantity in ("depth_dose", "tpr"):
            keys.remove("depth_mm")
        if row.quantity == "output_factor":
            keys = ["ssd_mm", "depth_mm"]
        place = [row.values[key] for key in keys]
        if row.quantity == "profile":
            place.append(_axis(row, path))
        curves[row.quantity, tuple(place)].append(row)
    depth, profiles, outputs = [], [], []
    primary, absolute = None, None
    for (quantity, _), members in curves.items():
        first, name = members[0].values, path.name
        value = np.array([row.values["value"] for row in members])
        if quantity in ("depth_dose", "tpr"):
            at, value = _ascending(members, "depth_mm", value, path)
            field = (first["field_x_mm"], first["field_y_mm"])
            depth.append(DepthCurve(field, first["ssd_mm"] if quantity == "depth_dose" else None, at, value, name))
        elif quantity == "profile":
            axis: Literal["x", "y"] = "x" if "x_mm" in first else "y"
            at, value = _ascending(members, f"{axis}_mm", value, path)
            field = (first["field_x_mm"], first["field_y_mm"])
            profiles.append(Profile(field, first["ssd_mm"], first["depth_mm"], axis, at, value, name))
        elif quantity == "output_factor":
            fields = np.array([[row.values[key] for key in _FIELD] for row in members])
            order = np.argsort(fields.prod(axis=1), kind="stable")
            outputs.append(OutputFactors(fields[order], first["ssd_mm"], first["depth_mm"], value[order], name))
        elif quantity == "primary_fluence":
            at, value = _ascending(members, "x_mm", value, path)
            if at[0] < 0 or value[0] <= 0:
                raise InputError("primary_fluence: radii are not negative", file=path, line=members[0].line)
            primary = PrimaryFluence(at, value / value[0], name)
        else:
            if absolute is not None or len(members) > 1:
                raise InputError("absolute_dose: one row expected", file=path, line=members[-1].line)
            if first["field_x_mm"] != first["field_y_mm"]:
                raise InputError("absolute_dose: a square field expected", file=path, line=members[0].line)
            absolute = AbsoluteDose(value[0].item(), first["ssd_mm"], first["depth_mm"], first["field_x_mm"], name)
    return Measurements(tuple(depth), tuple(profiles), tuple(outputs), primary, absolute)


def _rows(path: Path, lines: list[str]) -> list[_Row]:
    header: list[str] | None = None
    rows: list[_Row] = []
    for line, text in enumerate(lines, 1):
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        cells = [cell.strip() for cell in next(csv.reader([text]))]
        if header is None:
            header = cells
            unknown = [cell for cell in cells if cell not in COLUMNS]
            if unknown or len(set(cells)) < len(cells) or not {"quantity", "value"} <= set(cells):
                what = (
                    f"unknown column '{unknown[0]}'" if unknown else "columns quantity and value, each once, expected"
                )
                raise InputError(what, file=path, line=line, hint=f"columns: {', '.join(COLUMNS)}")
            continue
        if len(cells) != len(header):
            raise InputError(f"{len(header)} cells expected, {len(cells)} found", file=path, line=line)
        rows.append(_row(dict(zip(header, cells, strict=True)), path, line))
    if not rows:
        raise InputError("it holds no measured points", file=path)
    return rows


def _row(cells: dict[str, str], path: Path, line: int) -> _Row:
    quantity = cells.pop("quantity")
    if quantity not in _NEEDS:
        raise InputError(f"unknown quantity '{quantity}'", file=path, line=line, hint=f"known: {', '.join(_NEEDS)}")
    values = {key: number(text, key, path, line, *_LIMITS[key]) for key, text in cells.items() if text}
    for key in (*_NEEDS[quantity], "value"):
        if key not in values:
            raise InputError(f"{quantity}: {key} is missing", file=path, line=line)
    if quantity == "tpr" and "ssd_mm" in values:
        raise InputError("tpr: the chamber is at the isocentre, ssd_mm stays empty", file=path, line=line)
    return _Row(quantity, values, line)


def _axis(row: _Row, path: Path) -> float:
    if ("x_mm" in row.values) == ("y_mm" in row.values):
        raise InputError("profile: either x_mm or y_mm expected", file=path, line=row.line)
    return 0.0 if "x_mm" in row.values else 1.0


def _ascending(rows: list[_Row], key: str, value: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    at = np.array([row.values[key] for row in rows])
    order = np.argsort(at, kind="stable")
    repeated = np.flatnonzero(np.diff(at[order]) == 0)
    if repeated.size:
        row = rows[int(order[repeated[0] + 1])]
        raise InputError(f"{row.quantity}: {key} {row.values[key]:g} stands twice", file=path, line=row.line)
    return at[order], value[order]
