"""From measurements to a machine: fit on half of them, with the collapsed cone's doses, and judge on the other half."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dicomplan.commissioning import accurate
from dicomplan.commissioning.fit import Corrections, Fit, fit_beam
from dicomplan.commissioning.measurements import DepthCurve, Measurements
from dicomplan.commissioning.residuals import Residuals, residuals
from dicomplan.commissioning.selection import Selection, every_second, normal_row
from dicomplan.commissioning.water import SpectrumBasis, WaterTank, basis_kernel, spectrum_basis
from dicomplan.dose.pencil_kernel import pencil_kernel
from dicomplan.events import Cancel
from dicomplan.machine.model import Calibration, MachineModel

FloatArray = NDArray[np.float64]
Report = Callable[[str, float], None]

ROUNDS = 3
"""Fits in a row; from the second on with the ratio of the collapsed cone to the fast model, taken at the fit before."""


@dataclass(frozen=True)
class Commissioning:
    """``start`` and ``fit``, what it was fitted to and what it leaves."""

    start: MachineModel
    fit: Fit
    measured: Measurements
    selection: Selection
    residuals: Residuals


def commission(
    start: MachineModel,
    measured: Measurements,
    *,
    report: Report | None = None,
    cancel: Cancel | None = None,
    rounds: int = ROUNDS,
    free: Collection[str] | None = None,
) -> Commissioning:
    """Fit the beam of ``start`` to the measurements; geometry and limits stay.

    ``report`` is told what is done and how far all is (0 to 1). With ``rounds`` 1 the fast model alone is fitted. ``free``: as
    in :func:`~dicomplan.commissioning.fit.fit_beam`. Distances
    and the calibration are those of the measurements, where they state them.
    """

    def tell(stage: str, share: float) -> None:
        if cancel is not None:
            cancel.check()
        if report is not None:
            report(stage, share)

    def teller(stage: str, share: float) -> Callable[..., None]:
        return lambda *_: tell(stage, share)

    start = _with_measured_distances(start, measured)
    selection = every_second(measured)
    tell("kernels of single energies", 0.0)
    basis = spectrum_basis(start.beam)
    found = start
    corrections: Corrections | None = None
    evaluations = 0
    for k in range(rounds):
        share = 0.05 + 0.7 * k / rounds
        tell(f"fit {k + 1} of {rounds}", share)
        fit = fit_beam(start, measured, selection, basis, corrections, teller("fit", share), free)
        evaluations += fit.evaluations
        found = fit.machine
        if k + 1 < rounds:
            tell("collapsed cone", share)
            corrections = _corrections(fit.machine, measured, selection, basis, teller("collapsed cone", share))
    fit = replace(fit, machine=found, evaluations=evaluations)
    tell("residuals", 0.75)
    return Commissioning(start, fit, measured, selection, _judged(fit.machine, measured, selection, tell))


def _with_measured_distances(start: MachineModel, measured: Measurements) -> MachineModel:
    if measured.head is not None:
        beam = replace(start.beam, collimator_distance_mm=measured.head.collimator_distance_mm)
        start = replace(start, beam=beam, source_axis_distance_mm=measured.head.source_axis_distance_mm)
    if measured.absolute_dose is not None:
        dose = measured.absolute_dose
        calibration = Calibration(dose.dose_per_mu_gy, dose.source_surface_distance_mm, dose.depth_mm, dose.field_mm)
        start = replace(start, calibration=calibration)
    return start


def _corrections(
    machine: MachineModel,
    measured: Measurements,
    selection: Selection,
    basis: SpectrumBasis,
    step: Callable[[], None],
) -> Corrections:
    """Ratios at what the fit sees."""
    tank = WaterTank(machine, basis_kernel(basis, machine.beam))
    curves: list[tuple[FloatArray, FloatArray] | None] = []
    for curve, seen in zip(measured.depth_curves, selection.depth_curves, strict=True):
        step()
        curves.append(_ratio(tank, accurate.depth_curve(machine, curve), curve) if seen else None)
    outputs = []
    for table, rows in zip(measured.output_factors, selection.output_factors, strict=True):
        wanted = rows.copy()
        wanted[normal_row(table)] = True
        few = replace(table, field_mm=table.field_mm[wanted], value=table.value[wanted])
        factors = np.ones(len(rows))
        factors[wanted] = accurate.output(machine, few, step) / tank.output(few)
        outputs.append(factors)
    return Corrections(tuple(curves), tuple(outputs))


def _ratio(tank: WaterTank, exact: tuple[FloatArray, FloatArray], curve: DepthCurve) -> tuple[FloatArray, FloatArray]:
    depth, dose = exact
    return depth, dose / tank.depth_curve(replace(curve, depth_mm=depth, value=np.ones(len(depth))))


def _judged(
    machine: MachineModel, measured: Measurements, selection: Selection, tell: Callable[[str, float], None]
) -> Residuals:
    """Residuals of everything, by the collapsed cone; between the depths that it computes ratios at, by the pencil beam
    times the interpolated ratio of the two. The pencil beam's own stand beside it."""
    tank = WaterTank(machine, pencil_kernel(machine.beam))
    total = len(measured.depth_curves) + sum(len(table.value) for table in measured.output_factors)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        tell("residuals", 0.75 + 0.22 * min(done / max(total, 1), 1.0))

    fast = [tank.depth_curve(curve) for curve in measured.depth_curves]
    exact = []
    for curve, dose in zip(measured.depth_curves, fast, strict=True):
        step()
        depth, ratio = _ratio(tank, accurate.depth_curve(machine, curve), curve)
        exact.append(dose * np.interp(curve.depth_mm, depth, ratio))
    outputs = [accurate.output(machine, table, step) for table in measured.output_factors]
    return residuals(
        measured,
        selection,
        (exact, accurate.profiles(machine, measured.profiles), outputs),
        (fast, [tank.profile(one) for one in measured.profiles], [tank.output(t) for t in measured.output_factors]),
    )
