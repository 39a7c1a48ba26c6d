"""Text of a machine file to a machine.

A machine file is TOML. Lengths are in mm at isocentre unless a key says otherwise, in IEC 61217 beam limiting device
coordinates. Keys marked * may be left out; a jaw table that is left out means that the machine has no such jaws::

    dicomplan_machine = 1                     # version of this grammar
    name = "generic_6mv"                      # at most 16 characters: it becomes the TreatmentMachineName
    description = "..."
    provenance = ["...", "..."]               # * which data set which parameter
    [geometry]     source_axis_distance_mm
    [jaw_x] *      first_range_mm = [low, high], second_range_mm, min_opening_mm, transmission *, max_speed_mm_s *,
                   fixed_in_beam = true or false * (false)
    [jaw_y] *      as [jaw_x]
    [mlc]          leaf_boundaries_mm = [-200, -190, ...] or leaf_widths_mm = [[pairs, width], ...] about 0;
                   leaf_span_mm, over_travel_mm, retraction_mm, min_gap_mm, interdigitation, transmission,
                   leaf_end_offset_mm *, leaf_end_blur_mm *, tongue_and_groove_mm *, max_speed_mm_s *
    [beam]         nominal_energy_mv, spectrum = "name.csv" or [[upper edge in MeV, photons in the bin], ...],
                   profile = "name.csv" or [[radius, factor], ...] * (flat), source_fwhm_mm, collimator_distance_mm,
                   softening_per_mm *, extra_focal_weight *, extra_focal_fwhm_mm *, extra_focal_distance_mm *,
                   extra_focal_tail *, electron_weight *, electron_depth_mm *
    [calibration]  dose_per_mu_gy, source_surface_distance_mm, depth_mm, field_mm
    [delivery]     dose_rate_mu_min, min_segment_meterset_mu, min_segment_area_cm2,
                   collisions = [[couch from, couch to, gantry from, gantry to], ...] * in degrees

What each of them means stands at the fields of :mod:`dicomplan.machine.model`.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicomplan.errors import MachineError
from dicomplan.machine import tables
from dicomplan.machine.model import BeamModel, Calibration, CollisionZone, JawModel, MachineModel, MlcModel
from dicomplan.machine.toml_lines import key_lines
from dicomplan.machine.values import Problems, Table, shown

FloatArray = NDArray[np.float64]

GRAMMAR_VERSION = 1
"""Newest known version of the grammar of machine files."""

NAME_LENGTH = 16
"""Longest name of a machine: TreatmentMachineName has VR SH, DICOM PS3.5 table 6.2-1."""

_FIELD_END_MM = 400.0  # no linac's field reaches further from the axis at isocentre
_FLAT_PROFILE = (np.array([0.0, _FIELD_END_MM]), np.array([1.0, 1.0]))
_AT = re.compile(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", re.DOTALL)


def parse_machine(
    text: str, *, file: str | Path | None = None, read_table: tables.TableReader | None = None
) -> MachineModel:
    """The machine of a machine file's ``text``; ``file`` is named in errors, ``read_table`` gives the CSV tables.

    Raises MachineError with all problems, each with its line (and file, where it is in a table). A syntax error stands
    alone.
    """
    text = text.removeprefix("\ufeff")
    root = _root(text, file)
    problems = root.problems
    named: list[tables.Rows] = []
    _version(root)
    name = _name(root)
    description = root.text("description")
    provenance = root.texts("provenance")
    geometry = _section(root, "geometry")
    distance = geometry.number("source_axis_distance_mm", 500, 2000, "mm")
    jaw_x, jaw_y = (_jaw(root.table(key)) for key in ("jaw_x", "jaw_y"))
    mlc = _mlc(_section(root, "mlc"))
    beam = _beam(_section(root, "beam"), distance, read_table or _no_tables, named)
    calibration = _calibration(_section(root, "calibration"), jaw_x, jaw_y, mlc)
    delivery = _section(root, "delivery")
    machine = MachineModel(
        name=name,
        description=description,
        source_axis_distance_mm=distance,
        jaw_x=jaw_x,
        jaw_y=jaw_y,
        mlc=mlc,
        beam=beam,
        calibration=calibration,
        dose_rate_mu_min=delivery.number("dose_rate_mu_min", 1, 10000, "MU/min"),
        min_segment_meterset_mu=delivery.number("min_segment_meterset_mu", 0, 100, "MU"),
        min_segment_area_cm2=delivery.number("min_segment_area_cm2", 0, 100, "cm2"),
        source=_with_tables(text, named),
        provenance=provenance,
        collisions=_collisions(delivery),
    )
    for section in (geometry, delivery, root):
        section.refuse_unknown()
    problems.raise_all()
    return machine


def _root(text: str, file: str | Path | None) -> Table:
    try:
        return Table(tomllib.loads(text), (), key_lines(text), Problems(file))
    except tomllib.TOMLDecodeError as error:
        match = _AT.fullmatch(str(error))
        what = match[1] if match else str(error)
        line = int(match[2]) if match and match[2] else text.count("\n", 0, len(text.rstrip())) + 1
        raise MachineError(f"this is not TOML: {what}", file=file, line=line) from None
    except RecursionError:
        raise MachineError("this is no machine file: it is nested too deeply", file=file, line=1) from None
    except ValueError as error:  # a whole number of thousands of digits
        raise MachineError(f"this is no machine file: {error}", file=file, line=1) from None


def _no_tables(name: str) -> str:
    raise MachineError(f"the table '{name}' cannot be read: the machine file has no place")


def _with_tables(text: str, named: list[tables.Rows]) -> str:
    parts = [text]
    for rows in named:
        if rows.file is not None:
            lines = [f"# {rows.file}:", *(f"#   {line}".rstrip() for line in rows.text.splitlines())]
            parts.append("\n" + "\n".join(lines) + "\n")
    return "".join(parts)


def _section(root: Table, key: str) -> Table:
    if not root.has(key):
        # its keys are not listed as missing one by one
        root.problems.add(f"the table [{key}] is missing", 1)
    return root.table(key) or Table({}, (key,), root.lines, Problems())


def _version(root: Table) -> None:
    key = "dicomplan_machine"
    if root.required(key):
        value = root.values[key]
        if isinstance(value, bool) or value != GRAMMAR_VERSION:
            root.note(f"version {shown(value)} of machine files is not known, the newest is {GRAMMAR_VERSION}", key)


def _name(root: Table) -> str:
    name = root.text("name")
    if len(name) > NAME_LENGTH:
        root.note(f"{len(name)} characters are more than {NAME_LENGTH} (TreatmentMachineName)", "name")
    if name and not (name.isascii() and "\\" not in name):
        root.note("characters of ASCII without the backslash expected (TreatmentMachineName)", "name")
    return name


def _jaw(table: Table | None) -> JawModel | None:
    if table is None:
        return None
    end = _FIELD_END_MM
    jaw = JawModel(
        table.interval("first_range_mm", -end, end, "mm"),
        table.interval("second_range_mm", -end, end, "mm"),
        table.number("min_opening_mm", 0, 2 * end, "mm"),
        table.number("transmission", 0, 1, default=0.0),
        table.number("max_speed_mm_s", 0, 1000, "mm/s", default=0.0),
        table.has("fixed_in_beam") and table.flag("fixed_in_beam"),
    )
    widest = jaw.second_range_mm[1] - jaw.first_range_mm[0]
    if jaw.min_opening_mm > widest:
        table.note(f"{jaw.min_opening_mm:g} mm is more than the widest opening, {widest:g} mm", "min_opening_mm")
    if jaw.first_range_mm[0] >= jaw.second_range_mm[1]:
        table.note("the second edge cannot stand beyond the first", "second_range_mm")
    table.refuse_unknown()
    return jaw


def _mlc(table: Table) -> MlcModel:
    end = _FIELD_END_MM
    mlc = MlcModel(
        leaf_boundaries_mm=_leaf_boundaries(table),
        leaf_span_mm=table.number("leaf_span_mm", 1, 2 * end, "mm"),
        over_travel_mm=table.number("over_travel_mm", 0, end, "mm"),
        retraction_mm=table.number("retraction_mm", 1, end, "mm"),
        min_gap_mm=table.number("min_gap_mm", 0, 50, "mm"),
        interdigitation=table.flag("interdigitation"),
        transmission=table.number("transmission", 0, 1),
        leaf_end_offset_mm=table.number("leaf_end_offset_mm", -5, 10, "mm", default=0.0),
        tongue_and_groove_mm=table.number("tongue_and_groove_mm", 0, 5, "mm", default=0.0),
        max_speed_mm_s=table.number("max_speed_mm_s", 0, 1000, "mm/s", default=0.0),
        leaf_end_blur_mm=table.number("leaf_end_blur_mm", 0, 10, "mm", default=0.0),
    )
    if mlc.over_travel_mm > mlc.retraction_mm:
        table.note(
            f"{mlc.over_travel_mm:g} mm past the axis is more than the retraction of {mlc.retraction_mm:g} mm",
            "over_travel_mm",
        )
    if mlc.min_gap_mm > mlc.leaf_span_mm:
        table.note(f"{mlc.min_gap_mm:g} mm is more than the leaf span of {mlc.leaf_span_mm:g} mm", "min_gap_mm")
    table.refuse_unknown()
    return mlc


def _leaf_boundaries(table: Table) -> FloatArray:
    end = _FIELD_END_MM
    written, runs = table.has("leaf_boundaries_mm"), table.has("leaf_widths_mm")
    if written and runs:
        table.note("leaf_boundaries_mm and leaf_widths_mm say the same; one of them is enough", "leaf_widths_mm")
    elif written:
        found = table.numbers("leaf_boundaries_mm", -end, end, "mm")
        value = table.values["leaf_boundaries_mm"]
        if isinstance(value, list) and len(value) < 2:
            table.note("at least two boundaries expected", "leaf_boundaries_mm")
        for index in np.flatnonzero(np.diff(found) <= 0).tolist():
            table.note(
                f"boundaries ascend, {found[index + 1]:g} mm follows {found[index]:g} mm",
                "leaf_boundaries_mm",
                index + 1,
            )
        return found
    elif runs:
        return _from_widths(table)
    else:
        table.problems.add("'mlc.leaf_boundaries_mm' or 'mlc.leaf_widths_mm' is missing", table.line())
    return np.empty(0)


def _from_widths(table: Table) -> FloatArray:
    key, sound = "leaf_widths_mm", True
    widths: list[float] = []
    for index, (pairs, width, _) in enumerate(table.pairs(key)):
        if not (1 <= pairs <= 200 and pairs == int(pairs)):
            table.note(f"a whole number of leaf pairs from 1 to 200 expected, {pairs:g} found", key, index)
            sound = False
        elif not 0.5 <= width <= 100:
            table.note(f"a leaf width of {width:g} mm is not within 0.5 to 100 mm", key, index)
            sound = False
        else:
            widths += [width] * int(pairs)
    if not (sound and widths):
        return np.empty(0)
    boundaries = np.concatenate([[0.0], np.cumsum(widths)]) - 0.5 * float(np.sum(widths))
    if boundaries[-1] > _FIELD_END_MM:
        table.note(f"the leaves reach to {boundaries[-1]:g} mm, more than {_FIELD_END_MM:g} mm", key)
    if any(abs(one - other) > 1e-9 for one, other in zip(widths, reversed(widths), strict=True)):
        table.note("widths are not symmetric about 0", key, hint="leaf_boundaries_mm takes any")
    return np.asarray(boundaries, np.float64)


def _beam(table: Table, axis_distance_mm: float, read_table: tables.TableReader, named: list[tables.Rows]) -> BeamModel:
    energy = table.number("nominal_energy_mv", 1, 50, "MV")
    energies, photons = np.empty(0), np.empty(0)
    radii, factors = _FLAT_PROFILE
    if table.required("spectrum"):
        rows = tables.two_columns(table, "spectrum", read_table)
        if rows is not None:
            named.append(rows)
            energies, photons = tables.spectrum(rows, energy, table.problems)
    if table.has("profile"):
        rows = tables.two_columns(table, "profile", read_table)
        if rows is not None:
            named.append(rows)
            radii, factors = tables.profile(rows, table.problems)
    beam = BeamModel(
        nominal_energy_mv=energy,
        energies_mev=energies,
        photon_weights=photons,
        source_fwhm_mm=table.number("source_fwhm_mm", 0, 20, "mm"),
        collimator_distance_mm=table.number("collimator_distance_mm", 100, 2000, "mm"),
        profile_radius_mm=radii,
        profile_factor=factors,
        softening_per_mm=table.number("softening_per_mm", -0.01, 0.01, "per mm", default=0.0),
        extra_focal_weight=table.number("extra_focal_weight", 0, 0.5, default=0.0),
        extra_focal_fwhm_mm=table.number("extra_focal_fwhm_mm", 0, 200, "mm", default=0.0),
        extra_focal_distance_mm=table.number("extra_focal_distance_mm", 0, 1000, "mm", default=0.0),
        extra_focal_tail=table.number("extra_focal_tail", 0, 1, default=0.0),
        electron_weight=table.number("electron_weight", 0, 2, default=0.0),
        electron_depth_mm=table.number("electron_depth_mm", 0, 100, "mm", default=0.0),
    )
    if beam.collimator_distance_mm >= axis_distance_mm:
        table.note(
            f"{beam.collimator_distance_mm:g} mm is not between source and isocentre ({axis_distance_mm:g} mm)",
            "collimator_distance_mm",
        )
    if beam.extra_focal_distance_mm >= beam.collimator_distance_mm:
        table.note(
            f"{beam.extra_focal_distance_mm:g} mm is not above the collimator ({beam.collimator_distance_mm:g} mm)",
            "extra_focal_distance_mm",
        )
    needs = (
        ("extra_focal_weight", "extra_focal_fwhm_mm"),
        ("extra_focal_weight", "extra_focal_distance_mm"),
        ("electron_weight", "electron_depth_mm"),
    )
    for weight, extent in needs:
        if getattr(beam, weight) > 0 and getattr(beam, extent) == 0:
            table.note(f"a weight above 0 needs {extent} above 0", weight)
    table.refuse_unknown()
    return beam


def _calibration(table: Table, jaw_x: JawModel | None, jaw_y: JawModel | None, mlc: MlcModel) -> Calibration:
    calibration = Calibration(
        dose_per_mu_gy=table.number("dose_per_mu_gy", 1e-5, 1, "Gy/MU"),
        source_surface_distance_mm=table.number("source_surface_distance_mm", 300, 3000, "mm"),
        depth_mm=table.number("depth_mm", 0, 400, "mm"),
        field_mm=table.number("field_mm", 5, 2 * _FIELD_END_MM, "mm"),
    )
    half = 0.5 * calibration.field_mm
    reaches = [(f"the {axis} jaws", *_reach(jaw)) for axis, jaw in (("X", jaw_x), ("Y", jaw_y)) if jaw is not None]
    reaches.append(("the leaves", -mlc.retraction_mm, mlc.retraction_mm))
    if len(mlc.leaf_boundaries_mm):
        reaches.append(("the leaf pairs", float(mlc.leaf_boundaries_mm[0]), float(mlc.leaf_boundaries_mm[-1])))
    for what, low, high in reaches:
        if half > high or -half < low:
            table.note(f"{what} reach from {low:g} to {high:g} mm: this field cannot be set", "field_mm")
    table.refuse_unknown()
    return calibration


def _collisions(table: Table) -> tuple[CollisionZone, ...]:
    key = "collisions"
    if not table.has(key):
        return ()
    rows = table.values[key]
    if not isinstance(rows, list):
        table.note(f"a list of [couch from, couch to, gantry from, gantry to] expected, {shown(rows)} found", key)
        return ()
    zones = []
    for index, row in enumerate(rows):
        numbers = row if isinstance(row, list) else []
        angles = [float(one) for one in numbers if isinstance(one, int | float) and not isinstance(one, bool)]
        if len(numbers) != 4 or len(angles) != 4 or not all(0.0 <= one <= 360.0 for one in angles):
            table.note(f"four angles from 0 to 360 degrees expected, {shown(row)} found", key, index)
            continue
        zones.append(CollisionZone((angles[0], angles[1]), (angles[2], angles[3])))
    return tuple(zones)


def _reach(jaw: JawModel) -> tuple[float, float]:
    return jaw.first_range_mm[0], jaw.second_range_mm[1]
