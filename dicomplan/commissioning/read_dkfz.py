"""The tables from which DKFZ computes pencil-beam kernels (photonPencilBeamKernelCalc by M. Bangert and S. Ensminger).

A folder with ``tpr.dat`` (first row: 0 and the sides of square fields in mm; then depth in mm and the tissue-phantom ratio
of each field; field 0 is extrapolated and not used), ``of.dat`` (side, output factor), ``primflu.dat`` (radius in mm in
the isocentre plane, fluence) and ``params.dat`` (names and numbers: distances, and where output factors were measured).
Lines that begin with # are comments.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dicomplan.commissioning.lines import number, text_lines
from dicomplan.commissioning.measurements import (
    DepthCurve,
    HeadGeometry,
    Measurements,
    OutputFactors,
    PrimaryFluence,
)
from dicomplan.errors import InputError

DKFZ_NAMES = ("tpr.dat", "of.dat", "primflu.dat", "params.dat")
"""Names of the tables; each may be missing but ``params.dat`` where there is ``of.dat``."""


def read_dkfz(folder: Path) -> Measurements:
    """Measurements of a folder of DKFZ tables. Raises InputError with file and line."""
    paths = {name: folder / name for name in DKFZ_NAMES if (folder / name).is_file()}
    curves: tuple[DepthCurve, ...] = ()
    unused: tuple[str, ...] = ()
    outputs: tuple[OutputFactors, ...] = ()
    primary, head = None, None
    if "tpr.dat" in paths:
        curves, unused = _ratios(paths["tpr.dat"])
    if "primflu.dat" in paths:
        radius, factor = _columns(paths["primflu.dat"], "radius")
        if radius[0] != 0.0 or factor[0] <= 0.0:
            raise InputError("the first radius is 0, with a fluence above 0", file=paths["primflu.dat"])
        primary = PrimaryFluence(radius, factor / factor[0], "primflu.dat")
    if "params.dat" in paths:
        values = _named(paths["params.dat"])
        if {"SAD", "source_collimator_distance"} <= set(values):
            head = HeadGeometry(values["SAD"], values["source_collimator_distance"], "params.dat")
        unused += tuple(
            f"params.dat: {key} (settings of the kernel calculation, not of the machine)"
            for key in values
            if key in ("fwhm_gauss", "electron_range_intensity", "source_tray_distance")
        )
    if "of.dat" in paths:
        side, factor = _columns(paths["of.dat"], "field")
        if "params.dat" not in paths:
            raise InputError("output factors without params.dat: their depth is not known", file=paths["of.dat"])
        for key in ("dose_reference_ssd", "dose_reference_depth"):
            if key not in values:
                raise InputError(f"{key} is missing", file=paths["params.dat"])
        place = values["dose_reference_ssd"], values["dose_reference_depth"]
        outputs = (OutputFactors(np.column_stack([side, side]), *place, factor, "of.dat"),)
    return Measurements(curves, (), outputs, primary, None, head, unused)


def _numbers(path: Path) -> list[tuple[list[float], int]]:
    rows = []
    for line, text in enumerate(text_lines(path), 1):
        if text.strip() and not text.lstrip().startswith("#"):
            rows.append(([number(cell, "table", path, line) for cell in text.split()], line))
    if not rows:
        raise InputError("it holds no numbers", file=path)
    return rows


def _columns(path: Path, what: str) -> tuple[np.ndarray, np.ndarray]:
    rows = _numbers(path)
    for (cells, line), before in zip(rows, [None, *rows[:-1]], strict=True):
        if len(cells) != 2:
            raise InputError(f"two numbers expected, {len(cells)} found", file=path, line=line)
        if before is not None and not before[0][0] < cells[0]:
            raise InputError(f"{what}: {cells[0]:g} follows {before[0][0]:g}", file=path, line=line)
    table = np.array([cells for cells, _ in rows])
    return table[:, 0], table[:, 1]


def _ratios(path: Path) -> tuple[tuple[DepthCurve, ...], tuple[str, ...]]:
    rows = _numbers(path)
    head = rows[0][0]
    for cells, line in rows[1:]:
        if len(cells) != len(head):
            raise InputError(f"{len(head)} numbers expected, {len(cells)} found", file=path, line=line)
    table = np.array([cells for cells, _ in rows[1:]])
    back = np.flatnonzero(np.diff(table[:, 0]) <= 0)
    if back.size:
        raise InputError("depths ascend", file=path, line=rows[int(back[0]) + 2][1])
    curves = tuple(
        DepthCurve((side, side), None, table[:, 0], table[:, column], "tpr.dat")
        for column, side in enumerate(head)
        if column > 0 and side > 0
    )
    unused = ("tpr.dat: field 0 (extrapolated, not measured)",) if 0.0 in head[1:] else ()
    return curves, unused


def _named(path: Path) -> dict[str, float]:
    values = {}
    for line, text in enumerate(text_lines(path), 1):
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        parts = text.split()
        if len(parts) != 2:
            raise InputError(f"a name and a number expected, {len(parts)} words found", file=path, line=line)
        values[parts[0]] = number(parts[1], parts[0], path, line)
    return values
