"""Hard limits, held by an augmented Lagrangian (Hestenes and Powell 1969; Nocedal and Wright 2006, section 17.4)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dicomplan.optimization import _kernels
from dicomplan.optimization.terms import mean_dose_gy
from dicomplan.optimization.voxels import VoxelSet

FloatArray = NDArray[np.float64]
ConstraintKind = Literal["upper", "lower", "mean_upper", "mean_lower"]

_FIRST_PENALTY = 100.0
_GROWTH = 2.0  # of the penalty, where a round did not halve the excess
_LARGEST_PENALTY = 1e5
_MOST_FORCE = 500.0
"""Of all multipliers of a limit together, times the voxels' weights: what a limit is worth that can be held is 0.3 to 30 in
plans (relative to the terms, per share of the scale). Where limits fight no multipliers are large enough, and without a bound
they outgrow all else, until rounding decides on the dose (safeguarded multipliers: Birgin and Martinez, Practical Augmented
Lagrangian Methods for Constrained Optimization, SIAM 2014, chapter 4)."""

_LEAST_WEIGHT = 0.25  # of the largest: where a structure ends is a limit like any other
_LEAST_FREE = 0.25  # of the allowed volume, where voxels that are never held use it up


@dataclass(frozen=True)
class Constraint:
    """A hard limit on one structure.

    ``upper``: at most ``volume`` (unit of the weights) of ``voxels`` may receive more than ``dose_gy``; ``lower``: at
    most ``volume`` may receive less; 0 means every voxel. ``mean_upper``, ``mean_lower``: the mean dose in Gy, without
    a volume. ``dose_gy`` is the dose to aim at. Raises ValueError for a volume that is negative or not taken.
    """

    kind: ConstraintKind
    voxels: VoxelSet
    dose_gy: float
    volume: float = 0.0

    def __post_init__(self) -> None:
        if self.volume < 0.0 or (self.volume > 0.0 and self.kind.startswith("mean")):
            raise ValueError(f"{self.kind} of {self.voxels.name}: volume {self.volume}")


@dataclass(frozen=True)
class ConstraintState:
    """Where the outer loop stands with one constraint; hand it back for a warm start.

    ``multipliers`` (n,) of each voxel, or (1,) of a mean; ``held`` (n,) float64 the weight of each voxel that is held
    to the limit, 0 for those that may break it; ``penalty`` (no unit); ``excess_gy`` by how far the limit is broken, in
    Gy, 0 or less if it is met.
    """

    multipliers: FloatArray
    held: FloatArray
    penalty: float
    excess_gy: float


def _sign(constraint: Constraint) -> float:
    return 1.0 if constraint.kind in ("upper", "mean_upper") else -1.0


def allowed_volume(constraint: Constraint) -> float:
    """Volume of whole voxels that may break the limit so that ``constraint.volume`` holds between voxels, too.

    Interpolation spreads a compact region of hot voxels by half a voxel on every side: a cube of the wanted volume
    loses one voxel's edge, (v^(1/3) - h)^3, where h^3 is the volume of a voxel where they are finest. 0 where nothing is
    left: then every voxel is held to the limit. (Own reasoning; it errs on the safe side for regions that are not compact.)
    """
    edge = float(np.cbrt(constraint.voxels.whole))
    side = float(np.cbrt(min(constraint.volume, constraint.voxels.volume)))
    return max(side - edge, 0.0) ** 3


def hold(constraint: Constraint, dose_gy: FloatArray) -> FloatArray:
    """(n,) weights of the voxels that are held to the limit at this dose: all but the worst ``allowed_volume``.

    With the choice fixed the limit is convex and stricter than the volume limit itself; choosing anew at the dose
    that came out relaxes it: Fu, Ungun, Xing and Boyd, Optim. Eng. 20 (2019) 277. Voxels covered less than half are
    never held (:class:`VoxelSet`) but use up what is allowed like any other; where they use up all of it, a quarter of
    it is left to the others. A mean limit has one weight.
    """
    if constraint.kind.startswith("mean"):
        return np.ones(1)
    voxels = constraint.voxels
    held = np.where(voxels.counted(), np.maximum(voxels.weights, _LEAST_WEIGHT * voxels.weights.max()), 0.0)
    allowed = allowed_volume(constraint)
    if allowed > 0.0:
        values = _sign(constraint) * dose_gy[voxels.indices]
        worst = np.argsort(-values, kind="stable")
        weights = voxels.weights[worst]
        free = np.cumsum(weights) <= allowed
        free |= np.cumsum(np.where(held[worst] > 0.0, weights, 0.0)) <= _LEAST_FREE * allowed
        held[worst[free]] = 0.0
    return held


def relaxed(constraint: Constraint, share: float) -> Constraint:
    """The limit with its dose moved by ``share`` of itself to the lax side (negative: to the strict side)."""
    return replace(constraint, dose_gy=constraint.dose_gy * (1.0 + _sign(constraint) * share))


def excess_gy(constraint: Constraint, held: FloatArray, dose_gy: FloatArray) -> float:
    """By how many Gy the limit is broken at worst among the voxels that are held to it; negative: what is to spare."""
    sign, voxels = _sign(constraint), constraint.voxels
    if constraint.kind.startswith("mean"):
        return sign * (mean_dose_gy(voxels, dose_gy) - constraint.dose_gy)
    values = sign * (dose_gy[voxels.indices] - constraint.dose_gy)
    return float(np.max(values, where=held > 0.0, initial=-np.inf))


def missing_share(constraint: Constraint, dose_gy: FloatArray) -> float:
    """By which share of its dose the limit is missed at this dose; negative: what is to spare."""
    return excess_gy(constraint, hold(constraint, dose_gy), dose_gy) / constraint.dose_gy


def first_state(constraint: Constraint, dose_gy: FloatArray) -> ConstraintState:
    """State before the first round, at the dose to begin with."""
    held = hold(constraint, dose_gy)
    return ConstraintState(np.zeros(len(held)), held, _FIRST_PENALTY, excess_gy(constraint, held, dose_gy))


def add_constraint(
    constraint: Constraint, state: ConstraintState, dose_gy: FloatArray, scale_gy: float, gradient: FloatArray
) -> tuple[float, float]:
    """Value of the augmented Lagrangian of one limit, and by how much it falls per Gy that the limit gives way.

    Its gradient (per Gy) is added to ``gradient`` (voxels,).
    """
    per_gray, voxels = _sign(constraint) / scale_gy, constraint.voxels
    if constraint.kind.startswith("mean"):
        excess = per_gray * (mean_dose_gy(voxels, dose_gy) - constraint.dose_gy)
        multiplier = float(state.multipliers[0])
        force = max(0.0, multiplier + state.penalty * excess)
        if force > 0.0:
            _kernels.add_weights(voxels.indices, voxels.weights, force * per_gray / voxels.volume, gradient)
        return 0.5 * (force * force - multiplier * multiplier) / state.penalty, force / scale_gy
    value, force = _kernels.shifted_squares(
        dose_gy,
        voxels.indices,
        state.held,
        constraint.dose_gy,
        per_gray,
        state.multipliers,
        state.penalty,
        gradient,
    )
    return float(value), float(force) / scale_gy


def next_state(constraint: Constraint, state: ConstraintState, dose_gy: FloatArray, scale_gy: float) -> ConstraintState:
    """State after a round that ended at ``dose_gy``: multipliers moved, the voxels held chosen anew.

    The penalty doubles where the round did not halve the excess. Multipliers are bounded (:data:`_MOST_FORCE`).
    """
    sign, voxels = _sign(constraint), constraint.voxels
    if constraint.kind.startswith("mean"):
        excess = np.array([sign * (mean_dose_gy(voxels, dose_gy) - constraint.dose_gy) / scale_gy])
    else:
        excess = sign * (dose_gy[voxels.indices] - constraint.dose_gy) / scale_gy
    held = hold(constraint, dose_gy)
    multipliers = np.where(held > 0.0, np.maximum(0.0, state.multipliers + state.penalty * excess), 0.0)
    force = float(held @ multipliers)
    if force > _MOST_FORCE:
        multipliers *= _MOST_FORCE / force
    worst = excess_gy(constraint, held, dose_gy)
    grow = worst > 0.5 * max(state.excess_gy, 0.0) and worst > 0.0
    penalty = min(_GROWTH * state.penalty, _LARGEST_PENALTY) if grow else state.penalty
    return ConstraintState(multipliers, held, penalty, worst)
