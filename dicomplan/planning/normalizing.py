"""Normalisation: one factor on all metersets, so that a wanted dose is reached and no hard limit is broken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dicomplan.beams.delivery import BeamDelivery
from dicomplan.metrics.dvh import DoseSamples, evaluate
from dicomplan.metrics.sampling import dose_samples
from dicomplan.plan.template import StructureGoal
from dicomplan.planning.case import Float32Array, PlanningCase
from dicomplan.planning.delivering import part_metersets_mu, with_part_metersets

_LEAST, _MOST = 0.2, 5.0  # a plan that needs another factor than this is not of this prescription
_STEPS = 60
_PRINTED = 1e-4
"""So much, relative, printing to 0.0001 MU may change the meterset of a segment of 1 MU: limits are kept by that much."""


@dataclass(frozen=True)
class NormalizationResult:
    """``factor`` that was applied, ``wanted`` the one that the template asks for, and ``limited_by`` what kept it away."""

    factor: float
    wanted: float
    limited_by: str | None = None


def scaled_samples(samples: DoseSamples, factor: float) -> DoseSamples:
    """The samples of the same structure in a dose multiplied by ``factor`` > 0."""
    return replace(
        samples,
        edges_gy=samples.edges_gy * factor,
        mean_gy=samples.mean_gy * factor,
        max_gy=samples.max_gy * factor,
        min_gy=samples.min_gy * factor,
        lowest_gy=samples.lowest_gy * factor,
        highest_gy=samples.highest_gy * factor,
        resolution_gy=samples.resolution_gy * factor,
    )


def normalization(case: PlanningCase, dose_gy: Float32Array) -> NormalizationResult | None:
    """The factor for the template's normalisation on a dose (Gy of the course); None where it asks for none.

    The factor is lowered as far as the upper hard constraints stay met; with one that is broken anyhow it is at most 1.
    """
    wish = case.resolved.normalize
    if wish is None:
        return None
    samples = dose_samples(case.coverages[wish.structure], dose_gy, case.density.grid)
    if samples.volume_cc <= 0:
        return NormalizationResult(1.0, 1.0, f"{wish.structure} is empty")
    metric, unit, limit = wish.goal.metric, wish.goal.unit, wish.goal.limit
    reached = _first_factor(lambda factor: evaluate(metric, scaled_samples(samples, factor), unit) >= limit)
    # a goal or hard constraint at the very dose must not fail by the last printed digit
    wanted = reached * (1.0 + _PRINTED)
    factor, limited_by = wanted, None
    for constraint in case.resolved.constraints:
        if not constraint.goal.at_most:
            continue
        allowed = _allowed(case, constraint, dose_gy, factor)
        if allowed < factor:
            factor, limited_by = allowed, f"{constraint.structure} {constraint.goal.text}"
    return NormalizationResult(factor, wanted, limited_by)


def _allowed(case: PlanningCase, constraint: StructureGoal, dose_gy: Float32Array, factor: float) -> float:
    """The greatest factor, at most ``factor``, that keeps a constraint; 1 at most where that is broken already."""
    samples = dose_samples(case.coverages[constraint.structure], dose_gy, case.density.grid)
    goal = constraint.goal
    if samples.volume_cc <= 0 or factor <= 1.0:
        return factor

    def broken(value: float) -> bool:
        return not goal.met(evaluate(goal.metric, scaled_samples(samples, value), goal.unit))

    if not broken(factor):
        return factor
    if broken(1.0):
        return 1.0
    low, high = 1.0, factor
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if broken(middle) else (middle, high)
    return max(1.0, low * (1.0 - _PRINTED))


def _first_factor(reached: Callable[[float], bool]) -> float:
    """The least factor for which a growing condition holds, by bisection within the range of sense."""
    low, high = _LEAST, _MOST
    if reached(low):
        return low
    if not reached(high):
        return high
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def scaled_deliveries(
    deliveries: Sequence[BeamDelivery], factor: float, least_mu: float = 0.0
) -> tuple[BeamDelivery, ...]:
    """The deliveries with all metersets multiplied, none below ``least_mu``, to the digits that are printed."""
    return with_part_metersets(deliveries, np.maximum(part_metersets_mu(deliveries) * factor, least_mu))
