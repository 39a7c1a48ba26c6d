"""A wish list with priorities, fulfilled in order: what an earlier group reached is never given up for a later one.

The two phases of Breedveld, Storchi, Keijzer, Heemink and Heijmen, Phys. Med. Biol. 52 (2007) 6339 (two-phase
epsilon-constraint planning), with limits that give way instead of single objectives, and a beginning for both:

0. All goals at once, an earlier group's dearer: near to where the groups lead, in a fraction of their work.
1. Group by group: the least share t by which all goals of the group must give way together, then the least sum of their own
   shares, none above t. A goal that is met becomes a limit at its dose; one that is not, a limit at what was reached, and
   some slack.
2. In order: each goal that is worth bettering is pushed below its limit, and kept there with some slack.

While it is one's turn, what the others have reached beyond what is held lingers at a low price: a search of few iterations
would let it go, and not bring it back when their turn comes.

The terms of the guide (fall-off, organs that nothing is asked of, smoothing) settle what the wishes leave open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from dicomplan.events import Cancel, Progress, ProgressCallback, ignore_progress
from dicomplan.optimization.constraints import Constraint, ConstraintState, missing_share, relaxed
from dicomplan.optimization.operator import DoseOperator
from dicomplan.optimization.solver import Give, Problem, Solution, SolverSettings, solve

FloatArray = NDArray[np.float64]

SLACK = 0.005
"""A goal that was not met, or was bettered, is kept at its dose and so much of it, if nothing else is asked for."""

_SMOOTHER = 10.0  # times the guide's smoothing in the end, when everything that was wished for is kept
_PRICE = 6.0  # of giving way: above what the guide's terms (0.1 in all, up to 1 where goals are hard) could gain by it
_PULL = 3.0  # of bettering a goal that is met
_HARD_MET = 1e-3  # a hard limit that is broken by no more than this share is met
_AGAIN = 2  # so often is it tried again
_MET = 5e-4  # shares below this are none
LATER_PRICE = 0.7
"""Where goals are served at once, a group's price, relative to that of the group before it."""

_LINGERING = 0.03  # of its price: what holds a wish where it is while it is another's turn

_FURTHER = 3.0  # times the dose (or limit) that there is: no search goes further
_WORSE = 0.05  # so much may the first group lose by a beginning with all goals at once: its turn brings it back

_TOGETHER_ITERATIONS = 200
_MOST_ROUND = 50  # iterations before multipliers move: they matter more than the last bit of descent between
_SERVE_ITERATIONS = 120
_GROUP_ITERATIONS = 50
_BETTER_ITERATIONS = 30


@dataclass(frozen=True)
class Wish:
    """A goal as a limit: ``group`` (1 first) says when its turn comes, ``better`` whether less than the limit is welcome.

    Groups between whole numbers come in between.
    """

    limit: Constraint
    group: float
    better: bool = False


@dataclass(frozen=True)
class Fulfilment:
    """What :func:`fulfil` found.

    ``shares`` (wishes,): by which share of its dose each limit gave way (0: met; negative: bettered); ``kept``: the limits
    as they were held in the end, hard ones first, ``states`` the multipliers of each, for a warm start.
    """

    solution: Solution
    shares: tuple[float, ...]
    kept: tuple[Constraint, ...]
    states: tuple[ConstraintState | None, ...]
    iterations: int


@dataclass(frozen=True)
class _Way:
    """Wishes that give way together by a share from ``least`` to ``most``, at a price; the share to begin with."""

    wishes: tuple[int, ...]
    price: float = _PRICE
    least: float = 0.0
    most: float = np.inf
    start: float = 0.0


def _way(which: tuple[int, ...], missing: float, price: float = _PRICE) -> _Way:
    """Wishes that give way together, from what is missing.

    Its price is for a share of the dose that there is, not of a limit far below it: a goal far out of reach is no dearer for
    it than one that is near, or nothing that is held would stand against it.
    """
    start = max(0.0, missing)
    return _Way(which, price / (1.0 + start), start=start, most=_FURTHER * (1.0 + start))


@dataclass
class _List:
    """The work on one wish list; ``known`` are multipliers of hard limits and wishes, or of hard limits alone."""

    operator: DoseOperator
    guide: Problem
    wishes: Sequence[Wish]
    offset: FloatArray | None
    most: FloatArray | None
    progress: ProgressCallback
    cancel: Cancel
    effort: float
    slack: float
    solution: Solution
    known: Sequence[ConstraintState | None]
    iterations: int = 0

    def __post_init__(self) -> None:
        count = self.hard + len(self.wishes)
        known = [*(self.known or self.solution.states)][:count]
        self.states = known + [None] * (count - len(known))
        self.shares = [0.0] * len(self.wishes)

    @property
    def hard(self) -> int:
        return len(self.guide.constraints)

    def limits(self) -> list[Constraint]:
        """All limits, hard ones first, the wishes' moved by what they gave way and the slack."""
        return [*self.guide.constraints, *(self.kept(k) for k in range(len(self.wishes)))]

    def kept(self, k: int) -> Constraint:
        share = self.shares[k]
        return relaxed(self.wishes[k].limit, 0.0 if abs(share) <= _MET else share + self.slack)

    def reach(self, held: Sequence[int], ways: Sequence[_Way], iterations: int, what: str) -> tuple[float, ...]:
        """Solve with the wishes ``held`` kept and those of ``ways`` giving way; the share of each way."""
        iterations = round(self.effort * iterations)
        settings = SolverSettings(
            max_iterations=iterations,
            round_iterations=min(max(15, iterations // 4), _MOST_ROUND),
            enough=all(one.least == 0.0 for one in ways),
        )
        free = [k for one in ways for k in one.wishes]
        order = [k for k in held if k not in free] + free
        limits = [*self.guide.constraints, *(self.wishes[k].limit if k in free else self.kept(k) for k in order)]
        place = {k: self.hard + at for at, k in enumerate(order)}
        problem = replace(
            self.guide,
            constraints=tuple(limits),
            gives=tuple(
                Give(tuple(place[k] for k in one.wishes), one.price, one.least, one.most, one.start) for one in ways
            ),
        )
        places = [*range(self.hard), *(self.hard + k for k in order)]
        self.solution = solve(
            self.operator,
            problem,
            warm_start=self.solution,
            states=[self.states[at] for at in places],
            dose_offset_gy=self.offset,
            most=self.most,
            settings=settings,
            progress=_named(self.progress, what),
            cancel=self.cancel,
        )
        for at, state in zip(places, self.solution.states, strict=True):
            self.states[at] = state
        self.iterations += self.solution.iterations
        return self.solution.shares

    def hard_met(self) -> bool:
        """Whether no hard limit is broken by more than a trace."""
        limits, states = self.guide.constraints, self.solution.states[: self.hard]
        least = _HARD_MET * 0.1 * self.guide.scale_gy  # a limit of nothing at all has no share to be met to
        return all(
            state.excess_gy <= max(_HARD_MET * one.dose_gy, least) for one, state in zip(limits, states, strict=True)
        )

    def result(self) -> Fulfilment:
        """What has been found."""
        return Fulfilment(self.solution, tuple(self.shares), tuple(self.limits()), tuple(self.states), self.iterations)

    def together(self) -> list[_Way]:
        """Every wish giving way for itself, a later group's at a lower price."""
        return [
            _way((k,), self.missing(k), _PRICE * LATER_PRICE ** (one.group - 1)) for k, one in enumerate(self.wishes)
        ]

    def begin(self, first: Sequence[int]) -> None:
        """All wishes at once; taken back where the ``first`` group is the worse for it."""
        before = self.solution, list(self.states)
        worst = max(0.0, *(self.missing(k) for k in first))
        self.reach((), self.together(), _TOGETHER_ITERATIONS, "all goals")
        if max(self.missing(k) for k in first) > worst + _WORSE:
            self.solution, self.states = before

    def lingering(self, others: Sequence[int], held: Sequence[int]) -> list[_Way]:
        """What else has been reached, at a price that moves no wish whose turn it is: without it, it would be let go.

        Wishes that are not held, and of those that are (``held``) what they are below their limits.
        """
        ways = []
        for k in others:
            missing, done = self.missing(k), k in held
            if done and (self.shares[k] != 0.0 or not self.wishes[k].better or missing >= -_MET):
                continue
            way = _way((k,), missing, _LINGERING * _PRICE * LATER_PRICE ** (self.wishes[k].group - 1))
            ways.append(replace(way, least=min(missing, 0.0), start=missing, most=0.0 if done else way.most))
        return ways

    def missing(self, k: int) -> float:
        """By which share of its dose a wish is missed at the present dose."""
        return missing_share(self.wishes[k].limit, self.solution.dose_gy)


def fulfil(
    operator: DoseOperator,
    guide: Problem,
    wishes: Sequence[Wish],
    start: Solution,
    *,
    dose_offset_gy: FloatArray | None = None,
    most: FloatArray | None = None,
    states: Sequence[ConstraintState | None] = (),
    effort: float = 1.0,
    slack: float = SLACK,
    progress: ProgressCallback = ignore_progress,
    cancel: Cancel | None = None,
) -> Fulfilment:
    """The fluence that fulfils the wishes in order, from a solution of the guide alone (or any of the same operator).

    ``guide`` holds terms, hard limits and smoothing; ``most`` (beamlets,) bounds the fluence. ``states``: of the hard
    limits and all wishes, from an earlier fulfilment of the same list (or of the hard limits alone: then all wishes are
    pursued at once first). Wishes of one group are equals. ``effort`` times 50 iterations are spent on a group at most, 200
    on all at once. ``slack``: by which part of its dose a goal that was not met, or was bettered, may get worse again.
    Progress: stage ``optimize``. Once ``cancel`` is finishing,
    groups that have not had their turn are left as they are.
    """
    cancel = cancel or Cancel()
    work = _List(operator, guide, wishes, dose_offset_gy, most, progress, cancel, effort, slack, start, states)
    order = sorted(range(len(wishes)), key=lambda k: wishes[k].group)
    if len(states) <= work.hard and not cancel.finishing:
        work.begin([k for k in order if wishes[k].group == wishes[order[0]].group])
    held: list[int] = []
    for number, members in groupby(order, key=lambda k: wishes[k].group):
        if cancel.finishing:
            break
        group = tuple(members)
        others = work.lingering([k for k in order if k not in group], held)
        worst = max(0.0, *(work.missing(k) for k in group))
        each: tuple[float, ...] = (0.0,) * len(group)
        if worst > _MET:
            way = _way(group, worst)
            share = work.reach(held, [way, *others], _GROUP_ITERATIONS, f"group {number:g}")[0]
            each = (share,) * len(group)
            if share > _MET and len(group) > 1:
                own = [min(max(0.0, work.missing(k)), share) for k in group]
                ways = [replace(_way((k,), one), most=share + slack) for k, one in zip(group, own, strict=True)]
                each = work.reach(held, [*ways, *others], _GROUP_ITERATIONS, f"group {number:g}, each")[: len(group)]
        for k, given in zip(group, each, strict=True):
            work.shares[k] = given
        held += group
    for k in order:
        if cancel.finishing:
            break
        if not wishes[k].better or work.shares[k] > _MET:
            continue
        way = _Way((k,), _PULL, least=-1.0, most=0.0, start=min(work.missing(k), 0.0))
        others = work.lingering([one for one in order if one != k], held)
        share = work.reach(held, [way, *others], _BETTER_ITERATIONS, f"betters {wishes[k].limit.voxels.name}")[0]
        work.shares[k] = share
    if held and not cancel.finishing:
        # each search has moved the dose a little: what is kept must hold of all at the same time, and be simple to deliver
        if guide.smoothing is not None:
            work.guide = replace(guide, smoothing=replace(guide.smoothing, weight=_SMOOTHER * guide.smoothing.weight))
        work.reach(held, [], _GROUP_ITERATIONS, "all that is kept")
        for _ in range(_AGAIN):
            if work.hard_met() or cancel.finishing:
                break
            work.reach(held, [], _GROUP_ITERATIONS, "hard limits")
    return work.result()


def serve(
    operator: DoseOperator,
    guide: Problem,
    wishes: Sequence[Wish],
    start: Solution,
    *,
    dose_offset_gy: FloatArray | None = None,
    most: FloatArray | None = None,
    states: Sequence[ConstraintState | None] = (),
    progress: ProgressCallback = ignore_progress,
    cancel: Cancel | None = None,
) -> Fulfilment:
    """All wishes at once, each giving way at its own price, a later group's being :data:`LATER_PRICE` of the one before.

    A quarter of the work of :func:`fulfil`, for variables (segments) that can only come near to what fluence has reached:
    there the sum of what is missed matters, not the last bit of the order. Arguments as there.
    """
    cancel = cancel or Cancel()
    work = _List(operator, guide, wishes, dose_offset_gy, most, progress, cancel, 1.0, SLACK, start, states)
    work.shares = list(work.reach((), work.together(), _SERVE_ITERATIONS, "goals"))
    return work.result()


def _named(progress: ProgressCallback, what: str) -> ProgressCallback:
    def note(event: Progress) -> None:
        progress(replace(event, message=f"{what}: {event.message}"))

    return note
