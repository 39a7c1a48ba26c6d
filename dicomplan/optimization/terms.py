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
linear        mean of d                                                  yes       no D; pulls however low the mean is
smooth_max    ((s log mean of exp(d / s)) - D)+ squared                  yes       s: 1 % of the scale; never above Dmax
max_geud      (gEUD - D)+ squared, gEUD = (mean of d^a)^(1/a), a >= 1    yes       organs; a = 1 is the mean
min_geud      (D - gEUD)+ squared, a <= 1 but not 0                      yes       targets; a = -10, say
variance      mean of (d - mean of d)^2                                  yes       no D; even, at whatever level
reference     mean of (d - r)^2 with r the reference dose of each voxel  yes       no D; imitates another dose
============  =========================================================  ========  =====================================

The dose-volume terms are those of Wu and Mohan, Med. Phys. 27 (2000) 701: only voxels between the wanted dose and the
dose that the structure now has at the wanted volume are pushed. The tail mean is the conditional value at risk of
Rockafellar and Uryasev, J. Risk 2 (2000) 21, first used for dose by Romeijn et al., Phys. Med. Biol. 48 (2003) 3521:
convex, and never less than D_v. The straight line beyond 0.1 of the mean terms (Huber, Ann. Math. Stat. 35 (1964) 73)
keeps a mean that cannot be reached from pulling ever harder at everything else. The generalised equivalent uniform dose
is Niemierko's, Med. Phys. 26 (1999) 1100, first optimised by Wu et al., Int. J. Radiat. Oncol. Biol. Phys. 52 (2002) 224;
the mean of powers is convex in dose for a >= 1 and concave for a <= 1 (Boyd and Vandenberghe, Convex Optimization, 2004,
section 3.1.5). The logarithm of a mean of exponentials (the same, section 3.1.5, with a mean in place of a sum, so that a
finer grid changes nothing) lies below the hottest dose by at most s log(V / volume of the hottest voxel).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dicomplan.optimization import _kernels
from dicomplan.optimization.voxels import VoxelSet

FloatArray = NDArray[np.float64]
TermKind = Literal[
    "uniform",
    "max_dose",
    "min_dose",
    "mean_dose",
    "min_mean",
    "max_tail",
    "min_tail",
    "max_dvh",
    "min_dvh",
    "linear",
    "smooth_max",
    "max_geud",
    "min_geud",
    "variance",
    "reference",
]

CONVEX: frozenset[TermKind] = frozenset(get_args(TermKind)) - {"max_dvh", "min_dvh"}
"""Kinds whose value is a convex function of dose (of doses that are not negative, for the gEUD)."""

_STRAIGHT_FROM = 0.1  # of the scale: 7 Gy of 70 Gy over the limit
_SOFTNESS = 0.01  # of the scale: s of smooth_max
_LEAST_DOSE = 1e-6  # of the scale: what a dose counts at least in a mean of powers


@dataclass(frozen=True)
class Term:
    """One term of the objective: ``weight`` (no unit) times what ``kind`` says, of ``voxels``.

    ``dose_gy`` is D in Gy; ``volume`` is v in the unit of the voxel set's weights, for the tail and dose-volume kinds
    alone (more than the set holds counts as all of it). ``pull`` is the slope of the linear part of mean_dose.
    ``exponent`` is a of the gEUD kinds, ``reference_gy`` (n,) the dose of each voxel that reference imitates, in the order
    of the voxel set. Raises ValueError for a negative weight, for a volume, pull, exponent or reference that the kind
    does not take or lacks, and for an exponent with which the term is not convex.
    """

    kind: TermKind
    voxels: VoxelSet
    dose_gy: float
    weight: float
    volume: float = 0.0
    pull: float = 0.0
    exponent: float = 0.0
    reference_gy: FloatArray | None = None

    def __post_init__(self) -> None:
        takes_volume = self.kind.endswith(("tail", "dvh"))
        wrong = self.volume != 0.0 if not takes_volume else self.volume < 0.0
        if wrong or (self.kind.endswith("tail") and self.volume <= 0.0):
            raise ValueError(f"{self.kind} of {self.voxels.name}: volume {self.volume}")
        if not self.weight >= 0.0 or (self.pull != 0.0 and self.kind != "mean_dose"):
            raise ValueError(f"{self.kind} of {self.voxels.name}: weight {self.weight}, pull {self.pull}")
        if not exponent_fits(self.kind, self.exponent):
            raise ValueError(f"{self.kind} of {self.voxels.name}: exponent {self.exponent}")
        if (self.kind == "reference") != (self.reference_gy is not None):
            raise ValueError(f"{self.kind} of {self.voxels.name}: a reference dose goes with kind reference")
        if self.reference_gy is not None:
            reference = np.ascontiguousarray(self.reference_gy, dtype=np.float64)
            if reference.shape != self.voxels.indices.shape or not np.isfinite(reference).all():
                raise ValueError(f"reference of {self.voxels.name}: {reference.shape} doses, finite ones needed")
            object.__setattr__(self, "reference_gy", reference)


def exponent_fits(kind: str, exponent: float) -> bool:
    """Whether ``exponent`` makes a term of this kind convex: 1 or more of max_geud, 1 or less but not 0 of min_geud.

    0 (none) for all other kinds.
    """
    if kind == "max_geud":
        return 1.0 <= exponent < np.inf
    if kind == "min_geud":
        return -np.inf < exponent <= 1.0 and exponent != 0.0
    return exponent == 0.0


def mean_dose_gy(voxels: VoxelSet, dose_gy: FloatArray) -> float:
    """Mean dose of a voxel set in Gy; ``dose_gy`` (voxels,) float64."""
    return float(_kernels.weighted_sum(dose_gy, voxels.indices, voxels.weights)) / voxels.volume


def add_term(term: Term, dose_gy: FloatArray, scale_gy: float, gradient: FloatArray) -> float:
    """Value of a term; its gradient with regard to dose (per Gy) is added to ``gradient`` (voxels,) float64.

    ``dose_gy`` (voxels,) float64, contiguous. Where a dose-volume or tail term has no derivative (several voxels tie at
    the threshold) the gradient is that in which they share the volume that is left. In a mean of powers a dose below a
    millionth of the scale counts as that.
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
    if term.kind == "linear":
        _kernels.add_weights(voxels.indices, voxels.weights, factor * scale_gy, gradient)
        return term.weight * mean_dose_gy(voxels, dose_gy) / scale_gy
    if term.kind in ("smooth_max", "max_geud", "min_geud"):
        return _add_generalised_mean(term, dose_gy, scale_gy, gradient)
    if term.kind in ("variance", "reference"):
        return _add_deviation(term, dose_gy, factor, gradient)
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


def _add_generalised_mean(term: Term, dose_gy: FloatArray, scale_gy: float, gradient: FloatArray) -> float:
    """Square of what a mean of exponentials or powers exceeds (min_geud: lacks). Sums of numpy have one order."""
    voxels = term.voxels
    dose, share = dose_gy[voxels.indices], voxels.weights / voxels.volume
    if term.kind == "smooth_max":
        soft = _SOFTNESS * scale_gy
        hottest = float(dose.max())
        # relative to the hottest voxel nothing overflows
        parts = share * np.exp((dose - hottest) / soft)
        total = float(np.sum(parts))
        mean, slopes = hottest + soft * math.log(total), parts / total
    else:
        a = term.exponent
        floor = _LEAST_DOSE * scale_gy
        positive = np.maximum(dose, floor)
        # relative to the voxel that counts most no power exceeds 1
        leading = float(positive.max() if a > 0.0 else positive.min())
        relative = positive / leading
        power = float(np.sum(share * relative**a))
        mean = leading * power ** (1.0 / a)
        slopes = share * relative ** (a - 1.0) * power ** (1.0 / a - 1.0)
    sign = -1.0 if term.kind == "min_geud" else 1.0
    excess = sign * (mean - term.dose_gy) / scale_gy
    if excess <= 0.0:
        return 0.0
    gradient[voxels.indices] += (2.0 * term.weight * sign * excess / scale_gy) * slopes
    return term.weight * excess * excess


def _add_deviation(term: Term, dose_gy: FloatArray, factor: float, gradient: FloatArray) -> float:
    """Weighted sum of squares about the mean or the reference; the mean's own part of the gradient adds up to nothing."""
    voxels = term.voxels
    about = mean_dose_gy(voxels, dose_gy) if term.reference_gy is None else term.reference_gy
    excess = dose_gy[voxels.indices] - about
    pull = factor * voxels.weights * excess
    gradient[voxels.indices] += 2.0 * pull
    return float(np.sum(pull * excess))
