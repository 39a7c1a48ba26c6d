"""The solver: bounded quasi-Newton descent on terms, hard limits and smoothing of one linear dose operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dicomplan.events import Cancel, Progress, ProgressCallback, ignore_progress
from dicomplan.optimization.constraints import (
    Constraint,
    ConstraintState,
    add_constraint,
    excess_gy,
    first_state,
    next_state,
    relaxed,
)
from dicomplan.optimization.descent import Memory, descend
from dicomplan.optimization.focusing import Focus
from dicomplan.optimization.meterset import Meterset, meterset
from dicomplan.optimization.operator import DoseOperator
from dicomplan.optimization.smoothing import Smoothing, smoothing
from dicomplan.optimization.terms import Term, add_term

FloatArray = NDArray[np.float64]
StopReason = Literal["converged", "iteration limit", "no descent", "asked to end"]

_MOST_ROUNDS = 100  # a round that makes no step must not be repeated for ever
_FIRST_STEP = 0.1  # of the fluence's norm: how far the first step goes
_SHARE_STEP = 0.1  # likewise of the share by which limits give way, of the dose that there is
_KEPT_PENALTY = 400.0  # of what an earlier search hands on
_LEAST_SIZE = 0.03  # of the median beamlet: one that hardly reaches anything is not scaled up further


@dataclass(frozen=True)
class Give:
    """Limits (their places among the problem's constraints) that give way by one share of their doses together.

    ``weight`` (no unit) times the share is part of what is minimised: with a large weight the least share for which the
    limits can be held. ``least`` and ``most`` bound the share; a negative one tightens the limits. ``start``: the share
    to begin with. A limit gives by one share at most.
    """

    constraints: tuple[int, ...]
    weight: float
    least: float = 0.0
    most: float = np.inf
    start: float = 0.0


@dataclass(frozen=True)
class Problem:
    """What is minimised: terms, hard limits and smoothing. ``scale_gy`` is the dose that stands for 1 in every term.

    ``gives``: which limits may give way, at what price.
    """

    terms: tuple[Term, ...]
    scale_gy: float
    constraints: tuple[Constraint, ...] = ()
    smoothing: Smoothing | None = None
    gives: tuple[Give, ...] = ()
    meterset: Meterset | None = None


@dataclass(frozen=True)
class SolverSettings:
    """When to stop, and how often the limits are looked at.

    ``max_iterations`` of descent in all rounds together; ``relative_change``: converged when the objective fell by
    less than this part of itself over ``window`` iterations; ``round_iterations``: after so many the multipliers of the
    hard limits move if one is exceeded; ``tolerance``: a hard limit counts as met when it is exceeded by less than this
    part of its dose; ``enough``: stop as soon as all limits are met without giving way; ``history``: pairs of
    step and change of slope that descent keeps.
    """

    max_iterations: int = 300
    relative_change: float = 1e-3
    window: int = 10
    round_iterations: int = 25
    tolerance: float = 5e-4
    history: int = 60
    enough: bool = False


@dataclass(frozen=True)
class Solution:
    """What :func:`solve` found; hand it back as ``warm_start``.

    ``fluence`` (beamlets,) float64, none negative; ``dose_gy`` (voxels,) float64, offset and factor included;
    ``objective``: value of terms and smoothing (without the limits' penalties) at each evaluation, in order;
    ``term_values``: of each term at the end, in the order of the problem; ``states``: of each hard limit;
    ``excess_gy``: by how much each hard limit is exceeded (0 or less: met), given way as ``shares`` says (one for each of
    the problem's ``gives``). ``limits_met`` within the tolerance.
    ``fluence_scale`` is the typical fluence that variables and smoothing were scaled with; ``memory``: what is known of the
    curvature, in fluence.
    """

    fluence: FloatArray
    dose_gy: FloatArray
    objective: tuple[float, ...]
    term_values: tuple[float, ...]
    states: tuple[ConstraintState, ...]
    excess_gy: tuple[float, ...]
    limits_met: bool
    iterations: int
    stopped: StopReason
    fluence_scale: float
    shares: tuple[float, ...] = ()
    memory: Memory | None = None


def solve(
    operator: DoseOperator,
    problem: Problem,
    *,
    start: FloatArray | None = None,
    warm_start: Solution | None = None,
    states: Sequence[ConstraintState | None] | None = None,
    dose_offset_gy: FloatArray | None = None,
    dose_factor: ArrayLike = 1.0,
    most: FloatArray | None = None,
    settings: SolverSettings | None = None,
    progress: ProgressCallback = ignore_progress,
    cancel: Cancel | None = None,
) -> Solution:
    """Fluence that minimises the problem, no beamlet negative or above ``most`` (beamlets,); deterministic.

    The bits are the same each time where linear algebra runs on one thread (``OPENBLAS_NUM_THREADS=1`` before scipy is
    loaded): OpenBLAS cuts dot products of more than 10,000 beamlets by the number of threads.

    The dose is ``dose_factor`` (scalar or (voxels,)) times ``operator.forward(fluence)`` plus ``dose_offset_gy``
    (voxels,). It begins at ``warm_start`` (with its multipliers, or those of ``states``, one for each limit, where the
    number of voxels agrees), else at ``start`` (beamlets,) scaled by the factor that is best for the terms, else at an
    even fluence scaled likewise.
    Hard limits that cannot all be met leave ``limits_met`` False. Progress: stage ``optimize``, one event an iteration.
    It ends where it is, "asked to end", once ``cancel`` is :attr:`~dicomplan.events.Cancel.finishing`.

    Raises ValueError for lengths that do not fit the operator, for a dose that is not finite, and for a start that
    gives no dose; CancelledError if ``cancel`` is set.
    """
    settings = SolverSettings() if settings is None else settings
    factor = np.asarray(dose_factor, dtype=np.float64)
    work = _Work(operator, problem, dose_offset_gy, factor, most, settings, progress, cancel)
    if warm_start is not None and warm_start.memory is not None:
        work.memory = warm_start.memory.scaled(np.ones(operator.beamlet_count + len(problem.gives)))
    fluence, scale = work.begin(start, warm_start)
    if states is None:
        states = () if warm_start is None else warm_start.states
    return work.run(fluence, scale, states)


def scaled_start(problem: Problem, even_dose_gy: FloatArray, offset_gy: FloatArray) -> float:
    """The factor t > 0 for which ``t even_dose_gy + offset_gy`` (each (voxels,)) makes the sum of the terms least.

    A search between a hundredth and a hundred times the factor that gives the hottest voxel ``scale_gy``; no dose is
    calculated.
    """
    from scipy.optimize import minimize_scalar

    unit = problem.scale_gy / float(even_dose_gy.max())
    gradient = np.empty_like(even_dose_gy)

    def value(logarithm: float) -> float:
        dose = math.exp(logarithm) * unit * even_dose_gy + offset_gy
        return sum(add_term(term, dose, problem.scale_gy, gradient) for term in problem.terms)

    found = minimize_scalar(value, bounds=(math.log(0.01), math.log(100.0)), method="bounded", options={"xatol": 1e-3})
    return math.exp(float(found.x)) * unit


@dataclass
class _Work:
    """One call of :func:`solve`."""

    operator: DoseOperator
    problem: Problem
    offset: FloatArray | None
    factor: FloatArray
    most: FloatArray | None
    settings: SolverSettings
    progress: ProgressCallback
    cancel: Cancel | None
    states: tuple[ConstraintState, ...] = ()
    objective: list[float] = field(default_factory=list)
    iterations: int = 0
    scale: float = 1.0
    limits: tuple[Constraint, ...] = ()
    shares: FloatArray = field(default_factory=lambda: np.zeros(0))
    relative: FloatArray = field(default_factory=lambda: np.zeros(0))
    memory: Memory = field(init=False)
    focus: Focus = field(init=False)

    def __post_init__(self) -> None:
        voxels, shapes = (self.operator.voxel_count,), [np.shape(self.factor)]
        if self.offset is not None:
            shapes.append(np.shape(self.offset))
        if any(shape not in ((), voxels) for shape in shapes):
            raise ValueError(f"dose factor and offset of shapes {shapes} for {voxels[0]} voxels")
        sets = [term.voxels for term in self.problem.terms] + [one.voxels for one in self.problem.constraints]
        largest = max((int(one.indices[-1]) for one in sets), default=-1)
        if largest >= voxels[0]:
            raise ValueError(f"a voxel set names voxel {largest}, the operator has {voxels[0]}")
        pairs = self.problem.smoothing
        if pairs is not None and max(np.max(pairs.first), np.max(pairs.second)) >= self.operator.beamlet_count:
            raise ValueError(f"smoothing names a beamlet beyond {self.operator.beamlet_count}")
        self.relative = self.relative_units()
        self.focus = Focus(self.operator)
        self.memory = Memory(self.settings.history)

    def relative_units(self) -> FloatArray:
        """(beamlets,) how large a unit each variable has relative to the others: where a beamlet does less, a larger one.

        A diagonal preconditioner. That of the quadratic terms would be the root of the sum of w a^2 of a beamlet's dose a in
        voxels of weight w; the root of the sum of w a needs no elements, and differs by the root of a, which varies little.
        """
        weights = np.zeros(self.operator.voxel_count)
        for term in self.problem.terms:
            weights[term.voxels.indices] += term.weight / term.voxels.volume * term.voxels.weights
        size = np.sqrt(np.maximum(np.asarray(self.operator.adjoint(weights), dtype=np.float64), 0.0))
        typical = float(np.median(size[size > 0.0])) if (size > 0.0).any() else 0.0
        if not typical > 0.0 or not np.isfinite(typical):
            return np.ones(self.operator.beamlet_count)
        result: FloatArray = typical / np.maximum(size, _LEAST_SIZE * typical)
        return result

    def dose(self, fluence: FloatArray, *, focused: bool = False) -> FloatArray:
        """Dose in Gy, float64 (voxels,); where ``focused``, that of voxels which are not looked at is as it was."""
        if self.cancel is not None:
            self.cancel.check()
        chosen = self.focus.rows if focused else None
        part, rows = (self.operator, slice(None)) if chosen is None else (self.focus.part, chosen)
        dose = np.asarray(part.forward(fluence), dtype=np.float64) * (
            self.factor[rows] if self.factor.ndim else self.factor
        )
        if self.offset is not None:
            dose = dose + self.offset[rows]
        if not np.isfinite(dose).all():
            raise ValueError("the dose is not finite")
        return np.ascontiguousarray(dose if chosen is None else self.focus.filled(dose))

    def look(self, dose: FloatArray) -> bool:
        """Choose anew what to look at, ``dose`` being that of all voxels; whether one counts that was not looked at."""
        limits = list(zip(self.limits, self.states, strict=True))
        return self.focus.look(self.problem.terms, limits, bool(self.problem.gives), dose, self.iterations)

    def begin(self, start: FloatArray | None, warm_start: Solution | None) -> tuple[FloatArray, float]:
        """Fluence to begin with and its typical size."""
        count = self.operator.beamlet_count
        if warm_start is not None:
            if warm_start.fluence.shape != (count,):
                raise ValueError(f"warm start of {warm_start.fluence.shape} for {count} beamlets")
            return np.maximum(warm_start.fluence, 0.0), warm_start.fluence_scale
        shape = np.ones(count) if start is None else np.maximum(np.asarray(start, dtype=np.float64), 0.0)
        if shape.shape != (count,):
            raise ValueError(f"start of {shape.shape} for {count} beamlets")
        offset = np.zeros(self.operator.voxel_count) if self.offset is None else self.offset
        even = self.dose(shape) - offset
        if not even.max() > 0.0:
            raise ValueError("the start gives no dose")
        fluence = scaled_start(self.problem, even, offset) * shape
        return fluence, float(fluence.mean())

    def give_way(self, shares: FloatArray) -> None:
        """Move the limits by these shares."""
        limits = list(self.problem.constraints)
        for give, share in zip(self.problem.gives, shares, strict=True):
            for k in give.constraints:
                limits[k] = relaxed(self.problem.constraints[k], float(share))
        self.limits, self.shares = tuple(limits), shares

    def evaluate(self, fluence: FloatArray) -> tuple[float, FloatArray, FloatArray, FloatArray]:
        """Merit (with the limits), its gradient (beamlets,) and (shares,), and the dose."""
        problem = self.problem
        dose = self.dose(fluence, focused=True)
        gradient = np.zeros_like(dose)
        value = sum(add_term(term, dose, problem.scale_gy, gradient) for term in problem.terms)
        limits, falls = 0.0, []
        for constraint, state in zip(self.limits, self.states, strict=True):
            limit, fall = add_constraint(constraint, state, dose, problem.scale_gy, gradient)
            limits += limit
            falls.append(fall)
        share_slope = np.array(
            [
                give.weight - sum(falls[k] * problem.constraints[k].dose_gy for k in give.constraints)
                for give in problem.gives
            ]
        )
        limits += sum(give.weight * share for give, share in zip(problem.gives, self.shares.tolist(), strict=True))
        gradient, rows = gradient * self.factor, self.focus.rows
        slope = np.asarray(self.focus.part.adjoint(gradient if rows is None else gradient[rows]), dtype=np.float64)
        if problem.smoothing is not None:
            rough, pull = smoothing(problem.smoothing, fluence, problem.smoothing.scale or self.scale)
            value, slope = value + rough, slope + pull
        if problem.meterset is not None:
            total, pull = meterset(problem.meterset, fluence, problem.meterset.scale or self.scale)
            value, slope = value + total, slope + pull
        self.objective.append(value)
        return value + limits, slope, share_slope, dose

    def run(self, fluence: FloatArray, scale: float, known: Sequence[ConstraintState | None]) -> Solution:
        """Rounds of descent, the multipliers moved in between."""
        problem, settings, self.scale = self.problem, self.settings, scale
        self.give_way(np.array([min(max(give.start, give.least), give.most) for give in problem.gives]))
        dose = self.dose(fluence)
        self.states = self.first_states(dose, known)
        previous = np.inf
        for _ in range(_MOST_ROUNDS):
            fluence, stopped = self.descend(fluence)
            dose = self.dose(fluence)
            old, value = self.states, self.objective[-1]
            self.states = tuple(
                next_state(constraint, state, dose, problem.scale_gy)
                for constraint, state in zip(self.limits, old, strict=True)
            )
            same = all(
                np.array_equal(a.multipliers, b.multipliers) and np.array_equal(a.held, b.held)
                for a, b in zip(old, self.states, strict=True)
            )
            settled = abs(previous - value) <= settings.relative_change * abs(value)
            enough = settings.enough and self.shares.max(initial=0.0) <= settings.tolerance
            if self.iterations >= settings.max_iterations or (self.met() and (same or settled or enough)):
                break
            if stopped == "asked to end":
                break
            previous = value
        gradient = np.empty_like(dose)
        return Solution(
            fluence=fluence,
            dose_gy=dose,
            objective=tuple(self.objective),
            term_values=tuple(add_term(term, dose, problem.scale_gy, gradient) for term in problem.terms),
            states=self.states,
            excess_gy=tuple(state.excess_gy for state in self.states),
            limits_met=self.met(),
            iterations=self.iterations,
            stopped=stopped,
            fluence_scale=scale,
            shares=tuple(self.shares.tolist()),
            memory=self.memory.scaled(np.ones(len(fluence))),
        )

    def first_states(self, dose: FloatArray, known: Sequence[ConstraintState | None]) -> tuple[ConstraintState, ...]:
        fresh = tuple(first_state(constraint, dose) for constraint in self.limits)
        if len(known) != len(fresh):
            return fresh
        return tuple(
            new
            if had is None or len(had.held) != len(new.held)
            else replace(
                new,
                multipliers=np.where(new.held > 0.0, had.multipliers, 0.0),
                # a penalty that has grown is not worth keeping: with it the next search could hardly move
                penalty=min(had.penalty, _KEPT_PENALTY),
            )
            for had, new in zip(known, fresh, strict=True)
        )

    def met(self, dose: FloatArray | None = None) -> bool:
        """Whether every hard limit is met within the tolerance: at ``dose``, or where the states were taken."""
        return all(
            (state.excess_gy if dose is None else excess_gy(constraint, state.held, dose))
            <= self.settings.tolerance * abs(constraint.dose_gy)
            for constraint, state in zip(self.limits, self.states, strict=True)
        )

    def descend(self, fluence: FloatArray) -> tuple[FloatArray, StopReason]:
        """One round of descent from ``fluence``; the multipliers stay."""
        settings = self.settings
        # the first step has length 1: variables are scaled so that this is a tenth of the fluence
        unit = _FIRST_STEP * max(float(np.sum(fluence * fluence)) ** 0.5, self.scale * len(fluence) ** 0.5)
        values: list[float] = []
        dose = np.empty(0)
        stopped: StopReason = "no descent"
        self.focus.begin(self.iterations)

        count = len(fluence)
        units = np.concatenate([unit * self.relative, self.share_units()])

        def merit(variables: FloatArray) -> tuple[float, FloatArray]:
            nonlocal dose
            inside = variables * units
            self.give_way(inside[count:])
            value, slope, share_slope, dose = self.evaluate(inside[:count])
            return value, np.concatenate([slope, share_slope]) * units

        # what is known of the curvature is kept in the units of fluence and shares
        memory = self.memory.scaled(1.0 / units)
        lower, upper = (np.array(one) for one in zip(*self.bounds(units[:count]), strict=True))
        point = np.concatenate([fluence, self.shares]) / units
        while True:
            overlooked = False
            for at in descend(merit, point, lower, upper, memory):
                point = at.variables
                self.iterations += 1
                values.append(at.value)
                message = f"iteration {self.iterations}, objective {self.objective[-1]:.6g}"
                self.progress(Progress("optimize", message, min(1.0, self.iterations / settings.max_iterations)))
                if self.cancel is not None and self.cancel.finishing:
                    stopped = "asked to end"
                    break
                if self.iterations >= settings.max_iterations:
                    stopped = "iteration limit"
                    break
                if self.round_done(values, dose):
                    stopped = "converged"
                    break
                if self.focus.due(self.iterations):
                    here = dose if self.focus.rows is None else self.dose(point[:count] * units[:count])
                    overlooked = self.look(here)
                    if overlooked:
                        break
            if stopped in ("asked to end", "iteration limit"):
                break
            if self.focus.rows is not None and not overlooked:
                overlooked = self.look(self.dose(point[:count] * units[:count]))
            if not overlooked:
                break
            # what was found was the least of a sum that left something out
            stopped = "no descent"
            values.clear()
        self.memory = memory.scaled(units)
        inside = point * units
        self.give_way(inside[count:])
        return cast(FloatArray, np.maximum(inside[:count], 0.0)), stopped

    def round_done(self, values: Sequence[float], dose: FloatArray) -> bool:
        """Whether a round has ended, from the value after each of its iterations and the dose where it is."""
        settings = self.settings
        if len(values) > settings.window:
            fall = values[-1 - settings.window] - values[-1]
            if fall <= settings.relative_change * abs(values[-1]):
                return True
        if settings.enough and self.shares.max(initial=0.0) <= settings.tolerance and self.met(dose):
            return True
        return len(values) >= settings.round_iterations and not self.met(dose)

    def share_units(self) -> FloatArray:
        """(gives,) of the variables that are shares: a part of the dose that there is to begin with."""
        return np.array([_SHARE_STEP * (1.0 + max(0.0, one.start)) for one in self.problem.gives])

    def bounds(self, units: FloatArray) -> list[tuple[float, float]]:
        """Of the scaled variables: fluence (in ``units``), then the shares that limits give."""
        most = np.full(len(units), np.inf) if self.most is None else np.asarray(self.most, dtype=np.float64) / units
        gives = [
            (one.least / step, one.most / step)
            for one, step in zip(self.problem.gives, self.share_units().tolist(), strict=True)
        ]
        return [*((0.0, one) for one in most.tolist()), *gives]
