"""Text of a machine file from a machine: what :mod:`dicomplan.machine.parse` reads back to the same values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np

from dicomplan.machine.model import JawModel, MachineModel
from dicomplan.machine.parse import GRAMMAR_VERSION

_PAIRS_IN_LINE = 6
_DIGITS = 5  # significant, of tables and fitted values: far below what measurements can tell


def machine_file_text(machine: MachineModel, comments: Sequence[str] = (), profile_table: str | None = None) -> str:
    """TOML of a machine, its tables written inline; ``comments`` are lines at its head.

    ``profile_table`` names a CSV file beside it that holds the off-axis profile, which is then not written.

    Numbers are written with five significant digits.
    """
    mlc, beam, calibration = machine.mlc, machine.beam, machine.calibration
    lines = [f"# {line}".rstrip() for line in comments]
    lines += ["# Lengths are in mm at isocentre (IEC 61217) unless a comment says otherwise.", ""]
    lines += [f"dicomplan_machine = {GRAMMAR_VERSION}", f"name = {_text(machine.name)}"]
    lines += [f"description = {_text(machine.description)}", "provenance = ["]
    lines += [*(f"  {_text(line)}," for line in machine.provenance), "]", "", "[geometry]"]
    lines += [_row("source_axis_distance_mm", machine.source_axis_distance_mm)]
    for name, jaw in (("jaw_x", machine.jaw_x), ("jaw_y", machine.jaw_y)):
        if jaw is not None:
            lines += ["", f"[{name}]", *_jaw(jaw)]
    lines += ["", "[mlc]", *_boundaries(machine)]
    for key in ("leaf_span_mm", "over_travel_mm", "retraction_mm", "min_gap_mm"):
        lines.append(_row(key, getattr(mlc, key)))
    lines.append(f"interdigitation = {'true' if mlc.interdigitation else 'false'}")
    for key in ("transmission", "leaf_end_offset_mm", "leaf_end_blur_mm", "tongue_and_groove_mm", "max_speed_mm_s"):
        lines.append(_row(key, getattr(mlc, key)))
    lines += ["", "[beam]", _row("nominal_energy_mv", beam.nominal_energy_mv)]
    lines.append("# upper edge of each bin in MeV (the first begins at 0), photons in it")
    lines += _pairs("spectrum", zip(_upper_edges(beam.energies_mev), beam.photon_weights, strict=True))
    lines.append("# radius in the isocentre plane, fluence relative to the axis without the inverse-square fall-off")
    if profile_table is None:
        lines += _pairs("profile", zip(beam.profile_radius_mm, beam.profile_factor, strict=True))
    else:
        lines.append(f"profile = {_text(profile_table)}")
    notes = {
        "source_fwhm_mm": "at the source",
        "collimator_distance_mm": "from the source to where the penumbra is formed",
        "extra_focal_fwhm_mm": "in the plane of the extra-focal source",
        "extra_focal_distance_mm": "from the source",
        "extra_focal_tail": "share of it that is three times as wide",
    }
    for key in (
        "source_fwhm_mm",
        "collimator_distance_mm",
        "softening_per_mm",
        "extra_focal_weight",
        "extra_focal_fwhm_mm",
        "extra_focal_distance_mm",
        "extra_focal_tail",
        "electron_weight",
        "electron_depth_mm",
    ):
        lines.append(_row(key, getattr(beam, key)) + (f"  # {notes[key]}" if key in notes else ""))
    lines += ["", "[calibration]"]
    for key in ("dose_per_mu_gy", "source_surface_distance_mm", "depth_mm", "field_mm"):
        lines.append(_row(key, getattr(calibration, key)))
    lines += ["", "[delivery]"]
    for key in ("dose_rate_mu_min", "min_segment_meterset_mu", "min_segment_area_cm2"):
        lines.append(_row(key, getattr(machine, key)))
    if machine.collisions:
        zones = (", ".join(map(_number, (*zone.couch_deg, *zone.gantry_deg))) for zone in machine.collisions)
        lines.append(f"collisions = [{', '.join(f'[{zone}]' for zone in zones)}]")
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _number(value: float) -> str:
    shown = f"{float(value):.{_DIGITS}g}"
    return shown if any(mark in shown for mark in ".e") else f"{shown}.0"


def _row(key: str, value: float) -> str:
    return f"{key} = {_number(value)}"


def _jaw(jaw: JawModel) -> list[str]:
    first, second = (", ".join(map(_number, span)) for span in (jaw.first_range_mm, jaw.second_range_mm))
    lines = [f"first_range_mm = [{first}]", f"second_range_mm = [{second}]"]
    lines += [_row(key, getattr(jaw, key)) for key in ("min_opening_mm", "transmission", "max_speed_mm_s")]
    return [*lines, "fixed_in_beam = true"] if jaw.fixed_in_beam else lines


def _boundaries(machine: MachineModel) -> list[str]:
    boundaries = machine.mlc.leaf_boundaries_mm
    widths = np.diff(boundaries)
    if abs(boundaries[0] + boundaries[-1]) < 1e-9 and np.allclose(widths, widths[::-1], atol=1e-9):
        ends = np.flatnonzero(np.abs(np.diff(widths)) > 1e-9) + 1
        runs = np.split(widths, ends)
        return [f"leaf_widths_mm = [{', '.join(f'[{len(run)}, {_number(run[0])}]' for run in runs)}]"]
    return [f"leaf_boundaries_mm = [{', '.join(map(_number, boundaries))}]"]


def _upper_edges(centres: np.ndarray) -> list[float]:
    edges, below = [], 0.0
    for centre in centres:
        below = 2.0 * float(centre) - below
        edges.append(below)
    return edges


def _pairs(key: str, pairs: Iterable[tuple[float, float]]) -> list[str]:
    shown = [f"[{_number(first)}, {_number(second)}]" for first, second in pairs]
    rows = [shown[k : k + _PAIRS_IN_LINE] for k in range(0, len(shown), _PAIRS_IN_LINE)]
    return [f"{key} = [", *(f"  {', '.join(row)}," for row in rows), "]"]
