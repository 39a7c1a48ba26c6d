"""Terms of the objective: value and exact gradient with regard to dose, for one structure each.

All are means over covered volume of doses in units of ``scale_gy`` (the prescription), so that a weight has no unit
and means the same on any grid. In what follows d is dose, D the term's dose, V the volume of the voxel set, v the
allowed volume, and (.)+ the positive part.

============  =========================================================  ========  =====================================
kind          value over weight (doses over scale)                       convex    note
============  =========================================================  ========  =====================================
uniform       mean of (d - D)^2                                          yes
max_dose      mean of ((d - D)+)^2                                       yes
min_dose      mean of ((D - d)+)^2                                       yes
mean_dose     H(mean of d - D) + pull * mean of d                        yes       H: square, from 0.1 on a straight line
min_mean      H(D - mean of d)                                           yes
max_tail      ((mean of the hottest v) - D)+ squared                     yes       bounds D_v from above
min_tail      (D - (mean of the coldest v))+ squared                     yes
max_dvh       1/V times the sum of (d - D)^2 over D < d < D_v            no        v may exceed D
min_dvh       the same of the coldest: 1/V sum over D_(V-v) < d < D      no        v may fall below D
============  =========================================================  ========  =====================================

The dose-volume terms are those of Wu and Mohan, Med. Phys. 27 (2000) 701: only voxels between the wanted dose and the
dose that the structure now has at the wanted volume are pushed. The tail mean is the conditional value at risk of
Rockafellar and Uryasev, J. Risk 2 (2000) 21, first used for dose by Romeijn et al., Phys. Med. Biol. 48 (2003) 3521:
convex, and never less than D_v. The straight line beyond 0.1 of the mean terms (Huber, Ann. Math. Stat. 35 (1964) 73)
keeps a mean that cannot be reached from pulling ever harder at everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dicomplan.optimization import _kernels
from dicomplan.optimization.voxels import VoxelSet

FloatArray = NDArray[np.float64]
TermKind = Literal[
    "uniform", "max_dose", "min_dose", "mean_dose", "min_mean", "max_tail", "min_tail", "max_dvh", "min_dvh"
]

CONVEX: frozenset[TermKind] = frozenset(
    ("uniform", "max_dose", "min_dose", "mean_dose", "min_mean", "max_tail", "min_tail")
)
"""Kinds whose value is a convex function of dose."""

_STRAIGHT_FROM = 0.1  # of the scale: 7 Gy of 70 Gy over the limit


@dataclass(frozen=True)
class Term:
    """One term of the objective: ``weight`` (no unit) times what ``kind`` says, of ``voxels``.

    ``dose_gy`` is D in Gy; ``volume`` is v in the unit of the voxel set's weights, for the tail and dose-volume kinds
    alone (more than the set holds counts as all of it). ``pull`` is the slope of the linear part of mean_dose.
    Raises ValueError for a negative weight, or a volume that the kind does not take or is not positive for a tail.
    """

    kind: TermKind
    voxels: VoxelSet
    dose_gy: float
    weight: float
    volume: float = 0.0
    pull: float = 0.0

    def __post_init__(self) -> None:
        takes_volume = self.kind.endswith(("tail", "dvh"))
        wrong = self.volume != 0.0 if not takes_volume else self.volume < 0.0
        if wrong or (self.kind.endswith("tail") and self.volume <= 0.0):
            raise ValueError(f"{self.kind} of {self.voxels.name}: volume {self.volume}")
        if not self.weight >= 0.0 or (self.pull != 0.0 and self.kind != "mean_dose"):
            raise ValueError(f"{self.kind} of {self.voxels.name}: weight {self.weight}, pull {self.pull}")


def mean_dose_gy(voxels: VoxelSet, dose_gy: FloatArray) -> float:
    """Mean dose of a voxel set in Gy; ``dose_gy`` (voxels,) float64."""
    return float(_kernels.weighted_sum(dose_gy, voxels.indices, voxels.weights)) / voxels.volume


def add_term(term: Term, dose_gy: FloatArray, scale_gy: float, gradient: FloatArray) -> float:
    """Value of a term; its gradient with regard to dose (per Gy) is added to ``gradient`` (voxels,) float64.

    ``dose_gy`` (voxels,) float64, contiguous. Where a dose-volume or tail term has no derivative (several voxels tie at
    the threshold) the gradient is that in which they share the volume that is left.
    """
    voxels, level = term.voxels, term.dose_gy
    factor = term.weight / (voxels.volume * scale_gy * scale_gy)
    if factor == 0.0:
        return 0.0
    if term.kind in ("uniform", "max_dose", "min_dose"):
        below = 0.0 if term.kind == "max_dose" else factor
        above = 0.0 if term.kind == "min_dose" else factor
        return float(_kernels.squares(dose_gy, voxels.indices, voxels.weights, level, below, above, gradient))
    if term.kind in ("mean_dose", "min_mean"):
        return _add_mean(term, dose_gy, scale_gy, gradient)
    sign = 1.0 if term.kind in ("max_tail", "max_dvh") else -1.0
    values = np.empty(len(voxels.indices))
    if _kernels.gather(dose_gy, voxels.indices, sign, values) <= sign * level:
        return 0.0
    volume = min(term.volume, voxels.volume)
    threshold, share = _kernels.threshold_of_top(values, voxels.weights, volume)
    if term.kind in ("max_tail", "min_tail"):
        excess = _kernels.top_sum(values, voxels.weights, threshold, share) / volume - sign * level
        if excess <= 0.0:
            return 0.0
        slope = 2.0 * term.weight * excess / (volume * scale_gy * scale_gy)
        _kernels.add_top(values, voxels.indices, voxels.weights, threshold, share, sign * slope, gradient)
        return float(term.weight * (excess / scale_gy) ** 2)
    return float(
        _kernels.squares_under_top(
            values, voxels.indices, voxels.weights, sign * level, threshold, share, factor, sign, gradient
        )
    )


def _add_mean(term: Term, dose_gy: FloatArray, scale_gy: float, gradient: FloatArray) -> float:
    voxels = term.voxels
    mean = mean_dose_gy(voxels, dose_gy)
    sign = 1.0 if term.kind == "mean_dose" else -1.0
    excess = sign * (mean - term.dose_gy) / scale_gy
    value, slope = 0.0, 0.0
    if excess > _STRAIGHT_FROM:
        value, slope = _STRAIGHT_FROM * (2.0 * excess - _STRAIGHT_FROM), 2.0 * _STRAIGHT_FROM
    elif excess > 0.0:
        value, slope = excess * excess, 2.0 * excess
    value += term.pull * mean / scale_gy
    slope = sign * slope + term.pull
    if slope != 0.0:
        factor = term.weight * slope / (voxels.volume * scale_gy)
        _kernels.add_weights(voxels.indices, voxels.weights, factor, gradient)
    return term.weight * value
