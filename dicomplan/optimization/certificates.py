"""Certificates: how good a solution is at worst, and by how much limits that cannot all be held must give way at least.

Both are proofs by weak duality that hold whatever the solver did; only the rounding of the dose operator limits them.
With x >= 0 the fluence and d = A x + o the dose,

- a convex objective lies above its tangents, F(x) >= F(x_i) + g_i . (x - x_i);
- a limit, multiplied by any weights that are not negative, is one linear inequality in x: that of one voxel on the others'
  behalf, as the multipliers of the augmented Lagrangian weigh them.

If the sum of such inequalities with factors theta >= 0 has no negative slope in any beamlet, its constant part is a bound
for every fluence that is not negative: no upper bound on fluence is needed. The best factors are those of a small linear
program with one unknown for each inequality (HiGHS, through scipy): the dual of the cutting-plane model of Kelley, J. SIAM
8 (1960) 703. A limit on a volume is not convex; it is replaced by what follows from it (:func:`least_give`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dicomplan.events import Cancel, ProgressCallback, ignore_progress
from dicomplan.optimization.constraints import Constraint, ConstraintState, missing_share, relaxed
from dicomplan.optimization.inequalities import Inequalities
from dicomplan.optimization.meterset import meterset
from dicomplan.optimization.operator import DoseOperator
from dicomplan.optimization.smoothing import smoothing
from dicomplan.optimization.solver import Give, Problem, Solution, SolverSettings, solve
from dicomplan.optimization.terms import CONVEX, Term, add_term

FloatArray = NDArray[np.float64]

_TANGENT_AT = (1.25, 2.0, 4.0)  # times the fluence: tangents that rise where that at the solution falls
_GUIDE = 1e-3  # weight of the squares that lead the search for the least share to begin with
_ROUNDS = 30
_ROUNDING = 1e-5  # of a limit's dose: operators may count in float32
_CLOSE = 0.005  # of the share: bounds this near to one another need no further round
_CLOSE_VALUE = 1e-5  # likewise of the objective
_NEXT = 0.5  # way from the best fluence known to that of the linear program, where new inequalities are taken


@dataclass(frozen=True)
class Optimality:
    """How good a solution is at worst.

    ``objective``: value of terms and smoothing at the solution; ``lower_bound``: no fluence that holds the limits has less
    (-inf: no bound was found); ``projected_gradient`` (no unit): by which part of itself the objective would fall, to
    first order, along a step of the fluence's own length; ``left_out``: names of what the bound does without, because it
    is not convex. The bound stays true; it is only the lower for it.
    """

    objective: float
    lower_bound: float
    projected_gradient: float
    left_out: tuple[str, ...] = ()

    @property
    def gap(self) -> float:
        """By which part of itself the objective is above the bound at most."""
        return (self.objective - self.lower_bound) / max(abs(self.objective), 1e-300)


@dataclass(frozen=True)
class Conflict:
    """One limit in a certificate.

    ``constraint``: its place; ``part`` (0..1) of the certificate's weight that lies on it; ``alone_gy``: by so much at
    least it would have to give way if all other limits were held as they are (inf: giving way in it alone proves
    nothing).
    """

    constraint: int
    part: float
    alone_gy: float


@dataclass(frozen=True)
class LeastGive:
    """By which share of their doses all limits must give way together.

    ``share``: at least so much, proven (0 or less: nothing proves that they fight; -inf: no bound was found);
    ``reached``: so much is enough, by ``fluence``; ``conflicts``: the limits that the proof rests on, the heaviest first;
    ``left_out``: places of the limits that the proof does without.
    """

    share: float
    reached: float
    fluence: FloatArray
    conflicts: tuple[Conflict, ...]
    left_out: tuple[int, ...] = ()

    @property
    def infeasible(self) -> bool:
        """Whether it is proven that the limits cannot all be held."""
        return self.share > _ROUNDING


@dataclass(frozen=True)
class _Affine:
    """The dose: ``factor`` times that of the operator, plus ``offset`` (voxels,)."""

    operator: DoseOperator
    factor: FloatArray
    offset: FloatArray
    cancel: Cancel

    @classmethod
    def of(cls, operator: DoseOperator, offset: FloatArray | None, factor: ArrayLike, cancel: Cancel | None) -> _Affine:
        still = np.zeros(operator.voxel_count) if offset is None else np.asarray(offset, dtype=np.float64)
        return cls(operator, np.asarray(factor, dtype=np.float64), still, cancel or Cancel())

    def dose(self, fluence: FloatArray) -> FloatArray:
        self.cancel.check()
        dose = np.asarray(self.operator.forward(fluence), dtype=np.float64) * self.factor + self.offset
        return np.ascontiguousarray(dose)

    def adjoint(self, pull: FloatArray) -> FloatArray:
        self.cancel.check()
        return np.asarray(self.operator.adjoint(pull * self.factor), dtype=np.float64)

    def limit(self, inequalities: Inequalities, place: int, limit: Constraint, weigh: _Weights, most: float) -> None:
        """Add the inequality of a limit with multipliers ``weigh``; nothing where it says nothing.

        For t by which it gives way: sum of m s (d - L (1 + s t)) <= eta v (M - L (1 + s t)), s the sign of the limit, eta
        the greatest m / w; M is ``most`` above and 0 below.
        """
        sign = -1.0 if limit.kind in ("lower", "mean_lower") else 1.0
        pull = np.zeros(self.operator.voxel_count)
        pull[limit.voxels.indices] = sign * weigh.multipliers
        total, level = float(weigh.multipliers.sum()), limit.dose_gy
        spare = 0.0
        if limit.volume > 0.0:
            spare = float((weigh.multipliers / limit.voxels.weights).max()) * limit.volume
        bound = most if sign > 0.0 else 0.0
        norm = level * (total - spare)
        if not (total > 0.0 and norm > 0.0):
            return
        freely = spare * sign * (bound - level) if spare > 0.0 else 0.0
        value = float(pull @ self.offset) - sign * total * level - freely
        inequalities.add(value, self.adjoint(pull), norm, place)


@dataclass(frozen=True)
class _Weights:
    """Multipliers (n,) of the voxels of one limit, in the order of its voxel set, none negative."""

    multipliers: FloatArray


def optimality(
    operator: DoseOperator,
    problem: Problem,
    solution: Solution,
    *,
    dose_offset_gy: FloatArray | None = None,
    dose_factor: ArrayLike = 1.0,
    rounds: int = _ROUNDS,
    cancel: Cancel | None = None,
) -> Optimality:
    """How good ``solution`` is at worst; offset and factor as it was found with (:func:`dicomplan.optimization.solver.solve`).

    Limits that gave way count as the solution's ``shares`` moved them. The bound is that of tangents at the solution
    and at multiples of it, and of the limits weighed with the solution's multipliers. Terms that are not convex
    (all are 0 or more) and limits that allow a volume are left out of it. Raises CancelledError if ``cancel`` is set.
    """
    affine = _Affine.of(operator, dose_offset_gy, dose_factor, cancel)
    convex = tuple(term for term in problem.terms if term.kind in CONVEX)
    limits = list(problem.constraints)
    for give, share in zip(problem.gives, solution.shares, strict=True):
        for k in give.constraints:
            limits[k] = relaxed(limits[k], share)
    inequalities = Inequalities()
    x = np.maximum(solution.fluence, 0.0)
    scale = solution.fluence_scale
    value, slope = _tangent(affine, problem, convex, x, scale)
    inequalities.add(value - float(slope @ x), slope, 1.0, -1)
    for times in _TANGENT_AT:
        at, steep = _tangent(affine, problem, convex, times * x, scale)
        inequalities.add(at - float(steep @ (times * x)), steep, 1.0, -1)
    whole = slope.copy()
    left_out = [f"{term.kind} of {term.voxels.name}" for term in problem.terms if term.kind not in CONVEX]
    for place, (limit, state) in enumerate(zip(limits, solution.states, strict=True)):
        if limit.volume > 0.0:
            left_out.append(f"{limit.kind} limit of {limit.voxels.name}")
            continue
        for weigh in _weights(limit, state):
            before = len(inequalities.slopes)
            affine.limit(inequalities, place, limit, weigh, np.inf)
            if len(inequalities.slopes) > before:
                inequalities.norms[-1] = 0.0
        force = float((_held(limit, state) * state.multipliers).sum()) / problem.scale_gy
        if force > 0.0 and place in inequalities.groups:
            # the first inequality of the limit is that of the multipliers as they are
            first = inequalities.groups.index(place)
            whole += inequalities.slopes[first] * force
    bound, _, proposed = inequalities.best()
    for turn in range(rounds):
        if value - bound <= _CLOSE_VALUE * abs(value) or not proposed.any():
            break
        # a convex function with kinks has other tangents close by; later rounds look closer
        near = x + _NEXT * 0.5 ** (turn % 6) * (proposed - x)
        inside, steep = _tangent(affine, problem, convex, near, scale)
        inequalities.add(inside - float(steep @ near), steep, 1.0, -1)
        dose = affine.dose(near)
        for place, limit in enumerate(limits):
            if limit.volume == 0.0:
                for weigh in _fighting(limit, dose, 0.0, 0.0):
                    affine.limit(inequalities, place, limit, weigh, np.inf)
                    inequalities.norms[-1] = 0.0
        better, _, proposed = inequalities.best()
        bound = max(bound, better)
    skew = np.where(x > 0.0, whole, np.minimum(whole, 0.0))
    steepness = float(np.linalg.norm(skew) * np.linalg.norm(x)) / max(abs(solution.objective[-1]), 1e-300)
    return Optimality(solution.objective[-1], bound, steepness, tuple(left_out))


def least_give(
    operator: DoseOperator,
    limits: Sequence[Constraint],
    scale_gy: float,
    *,
    dose_offset_gy: FloatArray | None = None,
    dose_factor: ArrayLike = 1.0,
    most_gy: float | None = None,
    warm_start: Solution | None = None,
    settings: SolverSettings | None = None,
    rounds: int = _ROUNDS,
    progress: ProgressCallback = ignore_progress,
    cancel: Cancel | None = None,
) -> LeastGive:
    """The least share by which all ``limits`` must give way together, between a proven bound and one that is reached.

    A limit on a volume, V(d > L) <= v, is replaced by what follows from it where no voxel of the structure gets more than
    ``most_gy`` M (which the proof then supposes): the sum of w (d - L)+ is at most v (M - L); below by V(d < L) <= v:
    the sum of w (L - d)+ is at most v L, which supposes nothing but a dose that is not negative. Without ``most_gy`` upper
    limits on a volume are left out. The solver seeks the share first, then rounds of inequalities at the voxels that
    fight most close in on it. Raises ValueError for no limits, CancelledError if ``cancel`` is set.
    """
    if not limits:
        raise ValueError("no limits to give way")
    affine = _Affine.of(operator, dose_offset_gy, dose_factor, cancel)
    problem = Problem(
        tuple(_guide(limit) for limit in limits), scale_gy, tuple(limits), gives=(Give(tuple(range(len(limits))), 1.0),)
    )
    found = solve(
        operator,
        problem,
        warm_start=warm_start,
        states=None if warm_start is None else [None] * len(limits),
        dose_offset_gy=dose_offset_gy,
        dose_factor=dose_factor,
        settings=settings or SolverSettings(max_iterations=300, relative_change=1e-4, enough=True),
        progress=progress,
        cancel=cancel,
    )
    proof = {k: limit for k, limit in enumerate(limits) if limit.volume == 0.0 or limit.kind == "lower" or most_gy}
    most = most_gy or 0.0
    best, dose = found.fluence, found.dose_gy
    reached = max(missing_share(limit, dose) for limit in limits)
    inequalities = Inequalities()
    for place, limit in proof.items():
        for weigh in _weights(limit, found.states[place]):
            affine.limit(inequalities, place, limit, weigh, most)
    bound, factors = -np.inf, np.zeros(0)
    if inequalities.values:
        bound, factors, proposed = inequalities.best()
        inner, inner_share = best, reached
        for _ in range(rounds):
            if reached - bound <= _CLOSE * max(abs(bound), abs(reached)) or reached <= 0.0 or not proposed.any():
                break
            before = len(inequalities.values)
            for way in (_NEXT, 1.0):
                at = inner + way * (proposed - inner)
                share = inner_share + way * (bound - inner_share)
                dose = affine.dose(at)
                for place, limit in proof.items():
                    for weigh in _fighting(limit, dose, share, most):
                        affine.limit(inequalities, place, limit, weigh, most)
                needed = max(missing_share(limit, dose) for limit in limits)
                if needed < reached:
                    best, reached = at, needed
                if len(inequalities.values) > before:
                    break
                inner, inner_share = at, share
            if len(inequalities.values) == before:
                break
            better, better_factors, proposed = inequalities.best()
            if better > bound:
                bound, factors = better, better_factors
    conflicts = _conflicts(inequalities, factors, bound, limits)
    left_out = tuple(k for k in range(len(limits)) if k not in proof)
    return LeastGive(bound, reached, best, conflicts, left_out)


def _guide(limit: Constraint) -> Term:
    kinds = {"upper": "max_dose", "lower": "min_dose", "mean_upper": "mean_dose", "mean_lower": "min_mean"}
    return Term(kinds[limit.kind], limit.voxels, limit.dose_gy, _GUIDE)  # type: ignore[arg-type]


def _tangent(
    affine: _Affine, problem: Problem, terms: Sequence[Term], fluence: FloatArray, scale: float
) -> tuple[float, FloatArray]:
    """Value of terms and smoothing, and its gradient (beamlets,)."""
    dose = affine.dose(fluence)
    pull = np.zeros_like(dose)
    value = sum(add_term(term, dose, problem.scale_gy, pull) for term in terms)
    slope = affine.adjoint(pull)
    if problem.smoothing is not None:
        rough, rise = smoothing(problem.smoothing, fluence, problem.smoothing.scale or scale)
        value, slope = value + rough, slope + rise
    if problem.meterset is not None:
        total, rise = meterset(problem.meterset, fluence, problem.meterset.scale or scale)
        value, slope = value + total, slope + rise
    return float(value), slope


def _held(limit: Constraint, state: ConstraintState) -> FloatArray:
    return np.ones(1) if limit.kind.startswith("mean") else state.held


def _weights(limit: Constraint, state: ConstraintState) -> list[_Weights]:
    """The multipliers as they are, if any is positive, and even ones; each adds up to 1."""
    share = limit.voxels.weights / limit.voxels.volume
    if limit.kind.startswith("mean"):
        return [_Weights(share)]
    found = []
    pushed = _held(limit, state) * state.multipliers
    if pushed.sum() > 0.0:
        found.append(_Weights(pushed / pushed.sum()))
    counted = np.where(limit.voxels.counted() | (limit.volume > 0.0), share, 0.0)
    found.append(_Weights(counted / counted.sum()))
    return found


def _fighting(limit: Constraint, dose_gy: FloatArray, share: float, most_gy: float) -> list[_Weights]:
    """Weights of the voxels at which a limit that gave way by ``share`` is still broken; none if it is not."""
    sign = -1.0 if limit.kind in ("lower", "mean_lower") else 1.0
    voxels, level = limit.voxels, limit.dose_gy * (1.0 + sign * share)
    if limit.kind.startswith("mean"):
        return []  # its one inequality is there from the start
    excess = np.maximum(sign * (dose_gy[voxels.indices] - level), 0.0)
    if limit.volume > 0.0:
        allowed = limit.volume * (most_gy - level if sign > 0.0 else level)
        over = voxels.weights * (excess > 0.0)
        return [_Weights(over)] if voxels.weights @ excess > allowed else []
    excess = np.where(voxels.counted(), excess, 0.0)
    worst = float(excess.max())
    if worst <= 1e-9 * limit.dose_gy:
        return []
    single = np.zeros(len(excess))
    single[int(excess.argmax())] = 1.0
    return [_Weights(single), _Weights(excess / excess.sum())]


def _conflicts(
    inequalities: Inequalities, factors: FloatArray, bound: float, limits: Sequence[Constraint]
) -> tuple[Conflict, ...]:
    """What each limit weighs in the proof."""
    if not bound > -np.inf:
        return ()
    groups, norms = np.array(inequalities.groups[: len(factors)]), np.array(inequalities.norms[: len(factors)])
    weight = {k: float((factors * norms)[groups == k].sum()) for k in sorted(set(groups.tolist()))}
    used = sorted((k for k, one in weight.items() if one > 1e-6), key=lambda k: -weight[k])
    # the same sum with all norms but those of one limit set to 0 bounds the share of that limit alone
    return tuple(Conflict(k, weight[k], bound / weight[k] * limits[k].dose_gy) for k in used)
