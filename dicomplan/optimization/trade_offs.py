"""Trade-offs: the front between two goals, with everything else held; one warm-started run from end to end.

The epsilon-constraint method (Haimes, Lasdon and Wismer, IEEE Trans. Syst. Man Cybern. 1 (1971) 296): one goal is held at
levels between its best and what it gets when the other is best, and the other is bettered as far as that lets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dicomplan.events import Cancel, Progress, ProgressCallback, ignore_progress
from dicomplan.optimization.constraints import Constraint, ConstraintState, missing_share, relaxed
from dicomplan.optimization.operator import DoseOperator
from dicomplan.optimization.solver import Give, Problem, Solution, SolverSettings, solve

FloatArray = NDArray[np.float64]

_PRICE = 1.0  # of a share of either goal: far above what the guide's terms could gain by it
_HELD = 0.001  # so much of its dose the goal that was bettered first may lose while the other one is
_FIRST_EFFORT = 3  # times the iterations: the multipliers of all that is held are found here
_SETTINGS = SolverSettings(max_iterations=80, round_iterations=20, relative_change=2e-4)


@dataclass(frozen=True)
class TradePoint:
    """One plan of a front: ``shares``, by which the two limits are missed (negative: bettered), and its solution."""

    shares: tuple[float, float]
    solution: Solution


@dataclass
class _Front:
    """The work on one front; ``states`` are multipliers by limit: those held, then the two."""

    operator: DoseOperator
    guide: Problem
    pair: tuple[Constraint, Constraint]
    offset: FloatArray | None
    progress: ProgressCallback
    cancel: Cancel
    settings: SolverSettings
    solution: Solution
    states: dict[int, ConstraintState | None] = field(default_factory=dict)

    def better(self, one: int, other_share: float | None, effort: int = 1) -> None:
        """Better goal ``one`` as far as the other, held at its share (None: not at all), lets it."""
        count = len(self.guide.constraints)
        places = list(range(count))
        limits = list(self.guide.constraints)
        if other_share is not None:
            limits.append(relaxed(self.pair[1 - one], other_share))
            places.append(count + 1 - one)
        limits.append(self.pair[one])
        places.append(count + one)
        give = Give((len(limits) - 1,), _PRICE, least=-1.0, start=missing_share(self.pair[one], self.solution.dose_gy))
        self.solution = solve(
            self.operator,
            replace(self.guide, constraints=tuple(limits), gives=(give,)),
            warm_start=self.solution,
            states=[self.states.get(place) for place in places],
            dose_offset_gy=self.offset,
            settings=replace(self.settings, max_iterations=effort * self.settings.max_iterations),
            progress=self.progress,
            cancel=self.cancel,
        )
        for place, state in zip(places, self.solution.states, strict=True):
            self.states[place] = state

    def missing(self, one: int) -> float:
        return missing_share(self.pair[one], self.solution.dose_gy)

    def point(self) -> TradePoint:
        return TradePoint((self.missing(0), self.missing(1)), self.solution)


def trade_off(
    operator: DoseOperator,
    guide: Problem,
    pair: tuple[Constraint, Constraint],
    start: Solution,
    *,
    count: int = 7,
    dose_offset_gy: FloatArray | None = None,
    states: Sequence[ConstraintState | None] = (),
    settings: SolverSettings | None = None,
    progress: ProgressCallback = ignore_progress,
    cancel: Cancel | None = None,
) -> tuple[TradePoint, ...]:
    """A front of ``count`` (2 or more) plans between two goals, from the best of the first to the best of the second.

    ``guide`` holds the terms and all limits that every plan of the front keeps; ``pair`` are the two goals as limits.
    ``start``: a solution of the same operator; ``states``: multipliers of the guide's limits; ``settings`` of each
    of the ``count`` + 2 searches. Progress: stage ``explore``.
    Once ``cancel`` is finishing, the points found so far are returned.

    Raises ValueError for a count below 2, CancelledError if ``cancel`` is set.
    """
    if count < 2:
        raise ValueError(f"a front of {count} plans")
    cancel = cancel or Cancel()
    known, settings = dict(enumerate(states)), settings or _SETTINGS
    work = _Front(operator, guide, pair, dose_offset_gy, progress, cancel, settings, start, known)
    found: list[TradePoint] = []
    work.progress = _numbered(progress, 1, count)
    work.better(0, None, _FIRST_EFFORT)
    best = work.missing(0)
    work.better(1, best + _HELD)
    found.append(work.point())
    if cancel.finishing:
        return tuple(found)
    first_end = work.solution
    # the other end, to know where the levels between lie
    work.progress = _numbered(progress, count, count)
    work.better(1, None)
    work.better(0, work.missing(1) + _HELD)
    last = work.point()
    work.solution = first_end
    for number in range(2, count):
        if cancel.finishing:
            break
        work.progress = _numbered(progress, number, count)
        level = found[0].shares[0] + (last.shares[0] - found[0].shares[0]) * (number - 1) / (count - 1)
        work.better(1, level)
        found.append(work.point())
    return (*found, last)


def _numbered(progress: ProgressCallback, number: int, count: int) -> ProgressCallback:
    def note(event: Progress) -> None:
        progress(replace(event, stage="explore", message=f"plan {number} of {count}: {event.message}"))

    return note
