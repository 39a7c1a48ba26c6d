"""Which voxels a search has to look at: most lie where no term and no limit pulls at them, and would go on doing so.

The dose of those is left as it was for some iterations, and products are taken on the others alone. Then all of them are
looked at again, and the next choice is wider or narrower by how far doses moved in between. As long as none of those that
were left out comes to matter, value and gradient are those of the whole problem; where one does, the search is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dicomplan.optimization import _kernels
from dicomplan.optimization.constraints import Constraint, ConstraintState
from dicomplan.optimization.operator import DoseOperator, PartedOperator
from dicomplan.optimization.terms import Term

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_FIRST_LOOK = 5  # iterations
_EVERY = 10  # iterations, from then on
_SELDOM = 40  # iterations, where nearly all voxels count
_FIRST_MARGIN = 0.2  # of the hottest dose
_MARGINS = (0.03, 0.3)  # of the hottest dose, at least and at most
_MOVED = 2.0  # margins are this times as far as doses moved between two looks
_WORTH = 0.6  # of the voxels: with more than these there is little to gain


def could_matter(
    terms: Sequence[Term],
    limits: Sequence[tuple[Constraint, ConstraintState]],
    dose_gy: FloatArray,
    margin_gy: float,
) -> BoolArray:
    """(voxels,) whether a voxel's dose counts in a term or a limit, now or once doses have moved by ``margin_gy``.

    With a margin of 0: whether it counts now. Kinds of terms that are not one-sided count all of their voxels.
    """
    result = np.zeros(len(dose_gy), dtype=bool)
    for term in terms:
        indices = term.voxels.indices
        dose = dose_gy[indices]
        if term.weight == 0.0:
            continue
        if term.kind in ("max_dose", "max_dvh"):
            result[indices] |= dose > term.dose_gy - margin_gy
        elif term.kind in ("min_dose", "min_dvh"):
            result[indices] |= dose < term.dose_gy + margin_gy
        elif term.kind in ("max_tail", "min_tail"):
            sign = 1.0 if term.kind == "max_tail" else -1.0
            volume = min(term.volume, term.voxels.volume)
            threshold, _ = _kernels.threshold_of_top(sign * dose, term.voxels.weights, volume)
            # the threshold may move by the margin, too
            result[indices] |= sign * dose >= threshold - 2.0 * margin_gy
        else:
            result[indices] = True
    for limit, state in limits:
        indices = limit.voxels.indices
        if limit.kind.startswith("mean"):
            result[indices] = True
            continue
        sign = 1.0 if limit.kind == "upper" else -1.0
        near = sign * (dose_gy[indices] - limit.dose_gy) > -margin_gy
        result[indices] |= (state.held > 0.0) & (near | (state.multipliers > 0.0))
    return result


@dataclass
class Focus:
    """The voxels that a search looks at: ``rows`` (n,), or all where that is None; ``part`` is the operator on them.

    ``known`` (voxels,) is the dose of the others, in Gy.
    """

    operator: DoseOperator
    part: DoseOperator = field(init=False)
    rows: IntArray | None = None
    known: FloatArray = field(default_factory=lambda: np.zeros(0))
    next_look: int = _FIRST_LOOK
    parted: PartedOperator | None = field(init=False)

    def __post_init__(self) -> None:
        self.part = self.operator
        self.parted = self.operator if isinstance(self.operator, PartedOperator) else None

    def begin(self, iterations: int) -> None:
        """Look at all voxels, and some iterations after ``iterations`` choose."""
        self.rows, self.part, self.next_look = None, self.operator, iterations + _FIRST_LOOK

    def filled(self, dose_gy: FloatArray) -> FloatArray:
        """Dose (voxels,) of all voxels from that of the chosen ones (n,)."""
        whole = self.known.copy()
        whole[self.rows] = dose_gy
        return whole

    def due(self, iterations: int) -> bool:
        """Whether it is time to look at all voxels again."""
        return self.parted is not None and iterations >= self.next_look

    def look(
        self,
        terms: Sequence[Term],
        limits: Sequence[tuple[Constraint, ConstraintState]],
        limits_move: bool,
        dose_gy: FloatArray,
        iterations: int,
    ) -> bool:
        """Choose anew by the dose (voxels,) of all voxels; whether one of those that were not looked at counts already.

        With limits that move (that may give way) all of their voxels are chosen.
        """
        margin = self._margin_gy(dose_gy)
        wide, half, now = (could_matter(terms, limits, dose_gy, one) for one in (margin, 0.5 * margin, 0.0))
        if limits_move:
            every = could_matter((), limits, dose_gy, np.inf)
            wide, half = wide | every, half | every
        overlooked = self._misses(now)
        self.known = dose_gy
        count = int(np.count_nonzero(wide))
        # a choice that holds all within half the margin stays, unless it is much larger than it need be
        if self.rows is None or self._misses(half) or count < _WORTH * len(self.rows):
            self.rows, self.part = None, self.operator
            if count <= _WORTH * len(wide) and self.parted is not None:
                self.rows = np.flatnonzero(wide)
                self.part = self.parted.on_voxels(self.rows)
        self.next_look = iterations + (_EVERY if self.rows is not None else _SELDOM)
        return overlooked

    def _misses(self, counts: BoolArray) -> bool:
        """Whether a voxel that is not looked at counts."""
        return self.rows is not None and int(np.count_nonzero(counts)) > int(np.count_nonzero(counts[self.rows]))

    def _margin_gy(self, dose_gy: FloatArray) -> float:
        """How far doses may move until the next look, going by how far those that are not looked at did since the last."""
        hottest = float(dose_gy.max())
        if self.rows is None:
            return _FIRST_MARGIN * hottest
        moved = np.abs(dose_gy - self.known)
        moved[self.rows] = 0.0
        least, most = (share * hottest for share in _MARGINS)
        return min(max(_MOVED * float(moved.max()), least), most)
