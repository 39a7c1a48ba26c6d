"""Two-column tables of a machine's beam: a CSV file beside the machine file, or pairs written inline."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.errors import DicomplanError
from dicomplan.machine.values import Problems, Table

FloatArray = NDArray[np.float64]
TableReader = Callable[[str], str]
"""Text of the CSV table of a plain file name. Raises a DicomplanError that says why it cannot be read."""

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]*\.csv")
_HIGHEST_MEV = 50.0


@dataclass(frozen=True)
class Rows:
    """Rows of two numbers with their lines; ``file`` is the CSV they stand in, None for the machine file itself.

    ``text`` is the CSV's text, empty for inline rows.
    """

    rows: tuple[tuple[float, float, int], ...]
    file: str | None
    text: str

    @property
    def columns(self) -> tuple[FloatArray, FloatArray]:
        """Both columns as arrays."""
        values = np.array([row[:2] for row in self.rows], np.float64).reshape(-1, 2)
        return values[:, 0].copy(), values[:, 1].copy()


def two_columns(table: Table, key: str, read_table: TableReader) -> Rows | None:
    """Rows of the key: ``"name.csv"`` or ``[[a, b], ...]``; None, and problems noted, if they cannot be had.

    A CSV holds two numbers in a line, separated by a comma; empty lines and lines that begin with # are passed by.
    """
    value = table.values[key]
    if not isinstance(value, str):
        found = table.pairs(key)
        return Rows(tuple(found), None, "") if found else None
    if not _FILE_NAME.fullmatch(value):
        table.note("the name of a .csv file without a folder expected", key, hint="it lies beside the machine file")
        return None
    try:
        text = read_table(value)
    except DicomplanError as error:
        table.note(error.message, key, hint=error.hint)
        return None
    rows: list[tuple[float, float, int]] = []
    before = len(table.problems.found)
    for line, written in enumerate(text.splitlines(), 1):
        content = written.strip()
        if not content or content.startswith("#"):
            continue
        pair = _pair(content)
        if pair is None:
            shown = content if len(content) <= 40 else content[:37] + "..."
            table.problems.add(f"two numbers with a comma between expected, '{shown}' found", line, file=value)
        else:
            rows.append((*pair, line))
    if len(table.problems.found) > before:
        return None
    if not rows:
        table.note(f"the table '{value}' holds no numbers", key)
        return None
    return Rows(tuple(rows), value, text)


def _pair(content: str) -> tuple[float, float] | None:
    parts = content.split(",")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        return None
    return (values[0], values[1]) if len(values) == 2 and all(map(math.isfinite, values)) else None


def spectrum(rows: Rows, nominal_energy_mv: float, problems: Problems) -> tuple[FloatArray, FloatArray]:
    """Bin centres (MeV) and photons per bin, relative, of rows (upper edge of the bin in MeV, photons in it).

    The first bin begins at 0. Edges ascend; photons are not negative and not all zero; no bin that holds photons
    begins above the nominal energy (bremsstrahlung ends at the electrons' energy, which the nominal one in MV names).
    """
    edges, photons = rows.columns
    lower = np.concatenate([[0.0], edges[:-1]])
    for (edge, weight, line), below in zip(rows.rows, lower, strict=True):
        if not below < edge <= _HIGHEST_MEV:
            problems.add(
                f"spectrum: upper edges of bins ascend from above 0 to at most {_HIGHEST_MEV:g} MeV, "
                f"{edge:g} MeV follows {below:g} MeV",
                line,
                file=rows.file,
            )
        if weight < 0:
            problems.add(f"spectrum: {weight:g} photons in the bin up to {edge:g} MeV", line, file=rows.file)
        if weight > 0 and below >= nominal_energy_mv:
            limit = f"beyond the nominal energy of {nominal_energy_mv:g} MV"
            hint = "energies are in MeV"
            problems.add(f"spectrum: photons between {below:g} and {edge:g} MeV, {limit}", line, hint, file=rows.file)
    if not photons.sum() > 0:
        problems.add("spectrum: it holds no photons", rows.rows[0][2], file=rows.file)
    return 0.5 * (lower + edges), photons


def profile(rows: Rows, problems: Problems) -> tuple[FloatArray, FloatArray]:
    """Radii (mm, in the isocentre plane) and factors, 1 on the axis, of rows (radius, factor).

    The first radius is 0 and its factor 1; radii ascend; factors lie within 0 to 10.
    """
    radii, factors = rows.columns
    first = rows.rows[0]
    if first[:2] != (0.0, 1.0):
        problems.add(
            f"profile: the first row is 0 mm with factor 1, {first[0]:g} mm with {first[1]:g} found",
            first[2],
            file=rows.file,
        )
    for (before, _, _), (radius, _, line) in zip(rows.rows[:-1], rows.rows[1:], strict=True):
        if not before < radius:
            problems.add(f"profile: radii ascend, {radius:g} mm follows {before:g} mm", line, file=rows.file)
    for _, factor, line in rows.rows[1:]:
        if not 0 <= factor <= 10:
            problems.add(f"profile: factor {factor:g} is not within 0 to 10", line, file=rows.file)
    return radii, factors
