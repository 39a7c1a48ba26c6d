"""Levels of fluence by what they cost in dose: each beam gets the step that the plan's dose can least do without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.beamlets import BeamletMap
from dicomplan.dose.influence import FactorisedInfluence
from dicomplan.errors import NotDeliverableError
from dicomplan.events import Cancel
from dicomplan.machine.model import MachineModel
from dicomplan.planning.delivering import sequence_plan

FloatArray = NDArray[np.float64]

DOSE_TOLERANCE = 0.001
"""Where segments are free, sequencing may change the dose by so much (root of the mean square over the voxels that are
optimised, relative to the highest prescribed level): finer levels would only cost segments."""

_LEVELS = tuple(1.25**k for k in range(17))  # steps between nothing and the highest fluence of a beam: 1 to 36
_TRIAL_RESTARTS = 10


@dataclass(frozen=True)
class _Choice:
    """A beam in steps of ``step_mu``: how many segments, and the mean square of the change in dose, Gy^2."""

    step_mu: float
    segments: int
    square_gy2: float


def steps_by_dose(
    maps: Sequence[BeamletMap],
    fluences_mu: Sequence[FloatArray],
    machine: MachineModel,
    influence: FactorisedInfluence,
    tolerance_gy: float,
    max_segments: int | None,
    cancel: Cancel | None = None,
) -> list[float]:
    """A step (MU) for the fluence (count,) of each map, for :func:`~dicomplan.planning.delivering.sequence_plan`.

    Every beam is sequenced with 1 to 36 levels, and the dose of what that leaves of its fluence computed. From the coarsest
    on, always the beam is refined whose refinement takes most of the sum of squares per segment (the greedy choice along each
    beam's convex hull, optimal but for the last step: Fox, Oper. Res. 14 (1966) 209), until the root of the mean square of
    the plan's change in dose is below ``tolerance_gy`` or ``max_segments`` are used up. Errors of beams are taken as independent.
    """
    cancel = cancel or Cancel()
    options = []
    for number, (one, fluence) in enumerate(zip(maps, fluences_mu, strict=True)):
        options.append(_choices(one, fluence, machine, influence, number, cancel))
    at = [0] * len(options)
    while True:
        square = sum(found[k].square_gy2 for found, k in zip(options, at, strict=True))
        if square <= tolerance_gy**2:
            break
        used = sum(found[k].segments for found, k in zip(options, at, strict=True))
        best: tuple[float, int, int] | None = None
        for number, (found, k) in enumerate(zip(options, at, strict=True)):
            for finer in range(k + 1, len(found)):
                more = found[finer].segments - found[k].segments
                saved = found[k].square_gy2 - found[finer].square_gy2
                if saved <= 0.0 or (max_segments is not None and used + more > max_segments):
                    continue
                rate = saved / max(more, 0.5)
                if best is None or rate > best[0]:
                    best = rate, number, finer
        if best is None:
            break
        at[best[1]] = best[2]
    return [found[k].step_mu for found, k in zip(options, at, strict=True)]


def _choices(
    one: BeamletMap,
    fluence: FloatArray,
    machine: MachineModel,
    influence: FactorisedInfluence,
    number: int,
    cancel: Cancel,
) -> list[_Choice]:
    highest = float(fluence.max(initial=0.0))
    beam = influence.beams[number]
    found: list[_Choice] = []
    for levels in _LEVELS:
        cancel.check()
        step = max(highest / levels, machine.min_segment_meterset_mu, 1e-3)
        if found and step >= found[-1].step_mu:
            break
        plan = sequence_plan([one], [fluence], machine, step, restarts=_TRIAL_RESTARTS)
        left = (plan.delivered_mu[0] - one.filled(fluence))[one.active]
        change = np.zeros(influence.sampled_count, dtype=np.float32)
        beam.add_dose(left * influence.gy_per_unit, change)
        square = float(np.mean(np.square(change, dtype=np.float64)))
        found.append(_Choice(step, sum(len(item.segments) for item in plan.deliveries), square))
    if not found:
        raise NotDeliverableError(f"beam {one.beam.name} cannot be sequenced")
    return found
