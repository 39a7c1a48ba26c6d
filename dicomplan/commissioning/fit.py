"""Fit of the beam model to measurements: a few parameters, all of them common to all fields.

Spectrum: the start's, times E^a exp(b E): two parameters, positive whatever they are. Electrons: weight and depth.
Extra-focal source: weight and width, with a tail of fixed share. Primary source: width. Softening off the axis. The
off-axis profile is the measured primary fluence, or stays. What the data cannot tell stays as it is in the start, and is
named so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomplan.commissioning.measurements import DepthCurve, Measurements, Profile, side_mm
from dicomplan.commissioning.selection import Selection, normal_depth_mm, normal_row
from dicomplan.commissioning.water import SpectrumBasis, WaterTank, basis_kernel
from dicomplan.machine.model import MachineModel

FloatArray = NDArray[np.float64]

EXTRA_FOCAL_DISTANCE_MM = 125.0
"""Distance of the extra-focal source from the primary one where the start has none: a flattening filter's, about."""

EXTRA_FOCAL_TAIL = 0.4
"""Share of its tail there. Common to all machines: set by the output factors from 3 to 40 cm of the Agility and the Artiste in
../shared/data/beam, which it brings from within 2 and 1 % to within 1 and 0.5 %; 0.3 to 0.5 do nearly as well."""

HEAD_PARAMETERS = (
    "extra_focal_weight",
    "extra_focal_fwhm_mm",
    "source_fwhm_mm",
    "leaf_end_offset_mm",
    "leaf_end_blur_mm",
)
"""What output factors and profiles tell about the head, with spectrum, electrons and softening held."""

SMALL_FIELD_MM = 30.0
"""Fields below this tell the size of the primary source by their output."""

WIDE_FIELD_MM = 200.0
"""Depth doses of fields from here on tell the softening: less scatter comes from the field's outer parts."""

_LEAVES = ("leaf_end_offset_mm", "leaf_end_blur_mm")

# parameter: first guess where the start has 0, bounds, scale
_PARAMETERS = {
    "spectrum_power": (0.0, -3.0, 3.0, 0.3),
    "spectrum_slope_per_mev": (0.0, -1.5, 1.5, 0.1),
    "electron_weight": (0.1, 0.0, 1.0, 0.05),
    "electron_depth_mm": (8.0, 2.0, 40.0, 3.0),
    "extra_focal_weight": (0.06, 0.0, 0.3, 0.02),
    "extra_focal_fwhm_mm": (40.0, 8.0, 150.0, 10.0),
    "source_fwhm_mm": (2.0, 0.2, 8.0, 0.5),
    "softening_per_mm": (0.0003, 0.0, 0.002, 0.0002),
    "leaf_end_offset_mm": (0.1, -2.0, 3.0, 0.1),
    "leaf_end_blur_mm": (0.8, 0.05, 5.0, 0.3),
}
_DEPTH_TOLERANCE = 0.004  # relative; beyond the maximum
_BUILD_UP_TOLERANCE = 0.03  # chambers differ there
_BUILD_UP_FIRST_MM = 4.0  # nearer to the surface no chamber is to be believed
_OUTPUT_TOLERANCE = 0.003
# of fields below SMALL_FIELD_MM: diodes read up to 5 % too much at 1 cm where nobody corrected them (IAEA TRS-483), and settings
# of a few tenths of mm count; the larger fields tell the head, and the point kernels what of it arrives in small ones
_SMALL_OUTPUT_TOLERANCE = 0.03
_PROFILE_TOLERANCE = 0.01
_PLACE_TOLERANCE_MM = 0.25


@dataclass(frozen=True)
class Corrections:
    """Accurate over fast dose, for every depth curve (at ``depth_mm``, ``factor``; None: 1) and output factor table."""

    depth_curves: tuple[tuple[FloatArray, FloatArray] | None, ...]
    output_factors: tuple[FloatArray, ...]


def no_corrections(measured: Measurements) -> Corrections:
    """Factors of 1."""
    return Corrections(
        (None,) * len(measured.depth_curves), tuple(np.ones(len(t.value)) for t in measured.output_factors)
    )


@dataclass(frozen=True)
class Fit:
    """``machine`` with the fitted beam; ``parameters`` by name as fitted, ``kept`` those that stayed as in the start."""

    machine: MachineModel
    parameters: dict[str, float]
    kept: tuple[str, ...]
    evaluations: int


def free_parameters(measured: Measurements, machine: MachineModel) -> tuple[str, ...]:
    """The parameters that these measurements can tell on this machine."""
    names: list[str] = []
    if measured.depth_curves:
        names += ["spectrum_power", "spectrum_slope_per_mev"]
        if any((curve.depth_mm < 10.0).sum() > 2 for curve in measured.depth_curves):
            names += ["electron_weight", "electron_depth_mm"]
    sides = [side_mm((x, y)) for table in measured.output_factors for x, y in table.field_mm]
    if len(sides) >= 4:
        names += ["extra_focal_weight", "extra_focal_fwhm_mm"]
    if measured.profiles or min(sides, default=np.inf) < SMALL_FIELD_MM:
        names.append("source_fwhm_mm")
    wide = max((side_mm(curve.field_mm) for curve in measured.depth_curves), default=0.0) >= WIDE_FIELD_MM
    if wide or len({profile.depth_mm for profile in measured.profiles}) >= 2:
        names.append("softening_per_mm")
    if machine.jaw_x is None and {profile.axis for profile in measured.profiles} == {"x", "y"}:
        names += ["leaf_end_offset_mm", "leaf_end_blur_mm"]
    return tuple(names)


def with_parameters(machine: MachineModel, values: dict[str, float]) -> MachineModel:
    """A machine with parameters by name; the spectrum's change that of ``machine``."""
    beam = machine.beam
    power, slope = values.get("spectrum_power", 0.0), values.get("spectrum_slope_per_mev", 0.0)
    photons = beam.photon_weights * beam.energies_mev**power * np.exp(slope * beam.energies_mev)
    of_beam: dict[str, Any] = {
        key: value for key, value in values.items() if not key.startswith("spectrum_") and key not in _LEAVES
    }
    of_leaves: dict[str, Any] = {key: values[key] for key in _LEAVES if key in values}
    beam = replace(beam, photon_weights=photons / photons.sum(), **of_beam)
    return replace(machine, beam=beam, mlc=replace(machine.mlc, **of_leaves))


def fit_beam(
    start: MachineModel,
    measured: Measurements,
    selection: Selection,
    basis: SpectrumBasis,
    corrections: Corrections | None = None,
    progress: Callable[[int], None] | None = None,
    free: Collection[str] | None = None,
) -> Fit:
    """Least squares of the model over the selected measurements, from the machine ``start``.

    Doses are those of :class:`WaterTank` times ``corrections``. ``basis`` of the start's spectrum. ``progress`` is told the
    number of each evaluation. ``free``: the only parameters that may change; by default all that the measurements can tell.
    """
    from scipy.optimize import least_squares

    names = tuple(name for name in free_parameters(measured, start) if free is None or name in free)
    beam = start.beam
    if beam.extra_focal_distance_mm == 0.0:
        beam = replace(beam, extra_focal_distance_mm=EXTRA_FOCAL_DISTANCE_MM, extra_focal_tail=EXTRA_FOCAL_TAIL)
    if measured.primary_fluence is not None:
        primary = measured.primary_fluence
        beam = replace(beam, profile_radius_mm=primary.radius_mm, profile_factor=primary.factor)
    guess, low, high, scale = (np.array([_PARAMETERS[name][k] for name in names]) for k in range(4))
    start = replace(start, beam=beam)
    guess = np.array([_value(start, name) or first for name, first in zip(names, guess, strict=True)])
    maps: dict[tuple[object, ...], FloatArray] = {}
    corrected = corrections or no_corrections(measured)
    count = 0

    def residuals(values: FloatArray) -> FloatArray:
        nonlocal count
        count += 1
        if progress is not None:
            progress(count)
        own = with_parameters(start, dict(zip(names, map(float, values), strict=True)))
        return _residuals(WaterTank(own, basis_kernel(basis, own.beam), maps), measured, selection, corrected)

    inside = np.clip(guess, low + 1e-6, high - 1e-6)
    found = least_squares(
        residuals, inside, bounds=(low, high), x_scale=scale, diff_step=np.full(len(names), 1e-3), xtol=1e-5
    )
    parameters = dict(zip(names, map(float, found.x), strict=True))
    kept = tuple(name for name in _PARAMETERS if name not in names)
    return Fit(with_parameters(start, parameters), parameters, kept, count)


def _value(machine: MachineModel, name: str) -> float:
    return float(getattr(machine.mlc if name in _LEAVES else machine.beam, name, 0.0))


def _residuals(tank: WaterTank, measured: Measurements, selection: Selection, corrections: Corrections) -> FloatArray:
    parts: list[FloatArray] = []
    for curve, seen, factor in zip(
        measured.depth_curves, selection.depth_curves, corrections.depth_curves, strict=True
    ):
        if seen:
            dose = tank.depth_curve(curve)
            parts.append(_depth_residuals(curve, dose if factor is None else dose * np.interp(curve.depth_mm, *factor)))
    for profile, seen in zip(measured.profiles, selection.profiles, strict=True):
        if seen:
            parts.append(_profile_residuals(profile, tank.profile(profile)))
    for table, rows, factors in zip(
        measured.output_factors, selection.output_factors, corrections.output_factors, strict=True
    ):
        dose, normal = tank.output(table) * factors, normal_row(table)
        relative = dose / dose[normal] * table.value[normal]
        small = table.field_mm.min(axis=1) < SMALL_FIELD_MM
        tolerance = np.where(small, _SMALL_OUTPUT_TOLERANCE, _OUTPUT_TOLERANCE)
        parts.append(((relative / table.value - 1.0) / tolerance)[rows])
    return np.concatenate(parts)


def normalised(curve: DepthCurve, dose: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Measured and computed curve, each relative to its own value at the depth of comparison."""
    depth = normal_depth_mm(curve)
    measured = curve.value / np.interp(depth, curve.depth_mm, curve.value)
    computed: FloatArray = dose / np.interp(depth, curve.depth_mm, dose)
    return measured, computed


def maximum_depth_mm(curve: DepthCurve) -> float:
    """Depth of the measured maximum; noise moves it by no more than the curve is flat there."""
    return float(curve.depth_mm[int(np.argmax(curve.value))])


def _depth_residuals(curve: DepthCurve, dose: FloatArray) -> FloatArray:
    measured, computed = normalised(curve, dose)
    beyond = curve.depth_mm >= maximum_depth_mm(curve)
    use = curve.depth_mm >= _BUILD_UP_FIRST_MM
    tolerance = np.where(beyond, _DEPTH_TOLERANCE, _BUILD_UP_TOLERANCE)
    # curves count alike, however many points they have
    weight = np.sqrt(20.0 / max(int(use.sum()), 1))
    residual: FloatArray = (weight * (computed / measured - 1.0) / tolerance)[use]
    return residual


def _profile_residuals(profile: Profile, dose: FloatArray) -> FloatArray:
    measured = profile.value / np.interp(0.0, profile.position_mm, profile.value)
    computed = dose / np.interp(0.0, profile.position_mm, dose)
    slope = np.abs(np.gradient(measured, profile.position_mm))
    weight = np.sqrt(20.0 / len(dose))
    residual: FloatArray = weight * (computed - measured) / (_PROFILE_TOLERANCE + _PLACE_TOLERANCE_MM * slope)
    return residual
