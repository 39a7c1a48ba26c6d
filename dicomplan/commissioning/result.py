"""What commissioning writes: the machine with its provenance, the table of residuals, and the document of both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from dicomplan.commissioning.commission import Commissioning
from dicomplan.commissioning.measurements import Measurements
from dicomplan.commissioning.residuals import Compared
from dicomplan.machine.model import MachineModel


def commissioned_machine(done: Commissioning, name: str, description: str, extra: Sequence[str] = ()) -> MachineModel:
    """The fitted machine under a name, with what set which parameter; ``extra`` provenance follows.

    What was not fitted is said to come from the start, by its name.
    """
    return replace(
        done.fit.machine, name=name, description=description, provenance=(*provenance(done), *extra), source=""
    )


def provenance(done: Commissioning) -> tuple[str, ...]:
    """Which data set which parameter, a line each."""
    measured, start = done.measured, done.start
    curves = _names(curve.source for curve in measured.depth_curves)
    outputs = _names(table.source for table in measured.output_factors)
    profiles = _names(profile.source for profile in measured.profiles)
    everything = _names([*curves, *outputs, *profiles])
    fitted = done.fit.parameters
    lines = [
        "fitted together to every second field or curve by tools of dicomplan (collapsed cone): "
        + ", ".join(everything)
    ]
    if "spectrum_power" in fitted:
        lines.append(
            f"spectrum: that of {start.name} times E^{fitted['spectrum_power']:.3f} "
            f"exp({fitted['spectrum_slope_per_mev']:.3f} E/MeV), set by {', '.join(curves)}"
        )
    told = {
        "electron_weight": ("electrons: weight and depth", curves),
        "extra_focal_weight": ("extra-focal source: weight and width", outputs),
        "source_fwhm_mm": ("primary source: width", _names([*profiles, *outputs])),
        "softening_per_mm": ("softening off the axis", _names([*profiles, *curves])),
        "leaf_end_offset_mm": ("leaf ends: offset and blur", profiles),
    }
    for key, (what, files) in told.items():
        lines.append(
            f"{what}: set by {', '.join(files)}" if key in fitted else f"{what}: from {start.name}, not fitted"
        )
    lines.append(
        f"distance of the extra-focal source: {done.fit.machine.beam.extra_focal_distance_mm:g} mm, share of its tail: "
        f"{done.fit.machine.beam.extra_focal_tail:g}, not fitted"
    )
    for what, item in (
        ("off-axis profile", measured.primary_fluence),
        ("distances of axis and collimator", measured.head),
        ("calibration", measured.absolute_dose),
    ):
        lines.append(f"{what}: {item.source if item is not None else f'from {start.name}, not measured'}")
    lines.append(f"geometry, limits, transmissions, tongue and groove: from {start.name}")
    return tuple(lines)


def _names(sources: Iterable[object]) -> list[str]:
    found: list[str] = []
    for source in sources:
        name = str(source).split(", scan")[0]
        if name not in found:
            found.append(name)
    return found


def residual_lines(done: Commissioning) -> list[str]:
    """The table of residuals as text: collapsed cone, the fast model's in brackets; held-out rows are those that count."""
    rows = done.residuals
    lines = ["depth doses and TPRs beyond the maximum: mean |difference|, worst (at depth); in % of the measured dose"]
    for one in rows.depth:
        f = one.figures
        lines.append(
            f"  {_mark(one)} {one.title}: {f['mean_abs_percent']:.2f} [{f['pencil_mean_abs_percent']:.2f}], "
            f"{f['worst_percent']:+.2f} at {f['worst_at_mm']:g} mm [{f['pencil_worst_percent']:+.2f}]"
        )
    lines.append("output factors: difference in %")
    lines += [
        f"  {_mark(one)} {one.title}: {one.figures['percent']:+.2f} [{one.figures['pencil_percent']:+.2f}]"
        for one in rows.output
    ]
    if rows.profiles:
        lines.append(
            "profiles: measured penumbra 80-20, its difference, shift of the 50 % edge (mm); inside 80 % mean, worst; outside"
        )
    for one in rows.profiles:
        f = one.figures
        lines.append(
            f"  {_mark(one)} {one.title}: {f['measured_penumbra_mm']:.2f}, {f['penumbra_difference_mm']:+.2f} "
            f"[{f['pencil_penumbra_difference_mm']:+.2f}], {f['edge_shift_mm']:+.2f}; {f['inside_mean_abs_percent']:.2f}, "
            f"{f['inside_worst_percent']:+.2f}; {f['outside_worst_percent']:+.2f} %"
        )
    judged = [one for group in (rows.depth, rows.output, rows.profiles) for one in group if not one.fitted]
    counted = [one for one in judged if one.passed is not None]
    lines.append(f"held out: {sum(bool(one.passed) for one in counted)} of {len(counted)} hold their bars")
    return lines


def document(done: Commissioning) -> dict[str, object]:
    """The same as a document: parameters, residuals, what was not used."""
    rows = done.residuals

    def listed(group: Sequence[Compared]) -> list[dict[str, object]]:
        return [
            {"title": one.title, "held_out": not one.fitted, "passed": one.passed, **_finite(one.figures)}
            for one in group
        ]

    return {
        "parameters": _finite(done.fit.parameters),
        "kept": list(done.fit.kept),
        "depth": listed(rows.depth),
        "output_factors": listed(rows.output),
        "profiles": listed(rows.profiles),
        "unused": list(unused(done.measured)),
    }


def unused(measured: Measurements) -> tuple[str, ...]:
    """What was found and is not used, and why."""
    return measured.unused


def _finite(values: dict[str, float]) -> dict[str, object]:
    return {key: (None if math.isnan(value) else value) for key, value in values.items()}


def _mark(one: Compared) -> str:
    state = "    -" if one.passed is None else "   ok" if one.passed else "over "
    return f"{'fit ' if one.fitted else 'held'} {state.strip():4}"
