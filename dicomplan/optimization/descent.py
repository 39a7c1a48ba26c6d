"""Bounded descent by limited-memory BFGS whose memory outlives one search: what it learned of the curvature is kept.

Two-metric projection (Gafni and Bertsekas, SIAM J. Control Optim. 22 (1984) 936; Bertsekas, SIAM J. Control Optim. 20 (1982)
221): variables at a bound that the slope pushes them against stay there; the others move along the quasi-Newton direction
(two-loop recursion: Nocedal, Math. Comp. 35 (1980) 773) of their own part of the memory, projected onto the bounds.

Own code and not scipy's L-BFGS-B because searches here are short and many: limits move in between, and that one begins each
from nothing; with 60 pairs it also takes as long for itself as a dose of 1,500 beamlets does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Merit = Callable[[FloatArray], tuple[float, FloatArray]]
"""Value of variables (count,) and its slope (count,)."""

_DECREASE = 1e-4  # of what the slope promises: the least that a step must bring (Armijo)
_SHORTER = (0.1, 0.5)  # a step that brings less is cut by a factor in between
_MOST_TRIALS = 20
_STEEP = 0.9  # of the slope where it began: where a step ends steeper, a longer one is tried (Wolfe)
_LONGER = (2.0, 10.0)  # by a factor in between
_MOST_LONGER = 5
_CURVED = (
    1e-8  # of |step| |change| (kept) or |change|^2 (used): the least that their product must be to tell of curvature
)
_ROUNDING = 1e-15  # of the value: what promises no more cannot be told from rounding


@dataclass
class Memory:
    """Pairs of steps and of the changes of slope that they made, (count,) each, the oldest first; at most ``size``."""

    size: int
    steps: list[FloatArray] = field(default_factory=list)
    changes: list[FloatArray] = field(default_factory=list)

    def add(self, step: FloatArray, change: FloatArray) -> None:
        """Keep a pair, if it tells of a positive curvature."""
        if float(step @ change) <= _CURVED * float(np.linalg.norm(step) * np.linalg.norm(change)):
            return
        self.steps.append(step)
        self.changes.append(change)
        if len(self.steps) > self.size:
            del self.steps[0], self.changes[0]

    def forget(self) -> None:
        """Begin anew."""
        self.steps.clear()
        self.changes.clear()

    def scaled(self, factor: FloatArray) -> Memory:
        """The memory of ``factor`` (count,) times the variables: of the first of them, or with new ones in the end."""
        result = Memory(self.size)
        for step, change in zip(self.steps, self.changes, strict=True):
            result.add(_of_length(step, len(factor)) * factor, _of_length(change, len(factor)) / factor)
        return result

    def direction(self, slope: FloatArray, free: NDArray[np.bool_]) -> FloatArray | None:
        """(count,) quasi-Newton direction of the variables that are ``free``, 0 elsewhere; None if nothing is known of them."""
        left = np.where(free, slope, 0.0)
        used = []
        for step, change in zip(reversed(self.steps), reversed(self.changes), strict=True):
            own = np.where(free, change, 0.0)
            product = float(step @ own)
            if product <= _CURVED * float(own @ own):
                continue
            share = float(step @ left) / product
            left = left - share * own
            used.append((np.where(free, step, 0.0), own, product, share))
        if not used:
            return None
        _, own, product, _ = used[0]
        left = left * (product / float(own @ own))
        for step, own, product, share in reversed(used):
            left = left + (share - float(own @ left) / product) * step
        return -left


@dataclass(frozen=True)
class Iterate:
    """Where an iteration ended: ``variables`` (count,) and their value."""

    variables: FloatArray
    value: float


def descend(merit: Merit, start: FloatArray, lower: FloatArray, upper: FloatArray, memory: Memory) -> Iterator[Iterate]:
    """Iterates of falling value within the bounds (count,), until it falls no more or the caller has enough.

    ``merit`` was last asked where the iterate is. ``memory`` grows, and is forgotten where it leads nowhere. Without any, the
    first step has a length of 1: variables are to be scaled for that.
    """
    here = np.clip(start, lower, upper)
    value, slope = merit(here)
    while True:
        pushed = ((here <= lower) & (slope > 0.0)) | ((here >= upper) & (slope < 0.0))
        steepest = np.where(pushed, 0.0, -slope)
        length = float(np.linalg.norm(steepest))
        if length == 0.0:
            return
        direction = memory.direction(slope, ~pushed)
        found = None if direction is None else _search(merit, here, value, slope, direction, lower, upper)
        if found is None:
            memory.forget()
            found = _search(merit, here, value, slope, steepest / length, lower, upper)
        if found is None:
            return
        there, value, new_slope = found
        memory.add(there - here, new_slope - slope)
        here, slope = there, new_slope
        yield Iterate(here, value)


def _search(
    merit: Merit,
    here: FloatArray,
    value: float,
    slope: FloatArray,
    direction: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
) -> tuple[FloatArray, float, FloatArray] | None:
    """A point along the projected direction where enough is gained, its value and slope; None if there is none.

    ``merit`` was last asked there.
    """
    step = 1.0
    for trial in range(_MOST_TRIALS):
        there = np.clip(here + step * direction, lower, upper)
        promised = float(slope @ (there - here))
        if promised >= -_ROUNDING * abs(value):
            return None
        new_value, new_slope = merit(there)
        if new_value <= value + _DECREASE * promised:
            found = there, new_value, new_slope
            return _farther(merit, here, slope, direction, lower, upper, found) if trial == 0 else found
        # where the parabola through both values and the slope has its least
        step *= min(max(-0.5 * promised / (new_value - value - promised), _SHORTER[0]), _SHORTER[1])
    return None


def _farther(
    merit: Merit,
    here: FloatArray,
    slope: FloatArray,
    direction: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    found: tuple[FloatArray, float, FloatArray],
) -> tuple[FloatArray, float, FloatArray]:
    """The point found with a whole step, or one with a longer step, as long as that ends steep and lower."""
    step = 1.0
    for _ in range(_MOST_LONGER):
        there, value, new_slope = found
        begun, ends = float(slope @ (there - here)), float(new_slope @ (there - here))
        if ends >= _STEEP * begun:
            return found
        # where the slope, if it goes on as it changed, is none
        factor = begun / (begun - ends) if ends > begun else _LONGER[1]
        step *= min(max(factor, _LONGER[0]), _LONGER[1])
        farther = np.clip(here + step * direction, lower, upper)
        new_value, new_slope = merit(farther)
        if new_value >= value:
            return there, *merit(there)
        found = farther, new_value, new_slope
    return found


def _of_length(one: FloatArray, count: int) -> FloatArray:
    return one[:count] if len(one) >= count else np.concatenate([one, np.zeros(count - len(one))])
