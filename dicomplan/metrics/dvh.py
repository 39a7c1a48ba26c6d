"""Dose-volume histograms of one structure, and every metric as one function of them. Plain numpy, no numba."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dicomplan.metrics.goals import Metric

FloatArray = NDArray[np.float64]
Point = tuple[float, float, float]
_ROUNDING = 1e-9  # of the volume: sums of a million weights agree that well, no clinical limit is that fine


@dataclass(frozen=True)
class DoseSamples:
    """The dose in one structure, as its cumulative histogram and exact extremes; Gy, cm3, patient coordinates (mm).

    ``volume_above_cc[k]`` (n,) float64, falling, is the volume with at least ``edges_gy[k]`` (n,) float64, rising; linear
    in between. ``mean_gy`` is exact. ``max_gy`` and ``min_gy`` are over cells covered at least half (over any covered
    one if none is), at ``max_position_mm`` and ``min_position_mm`` (x, y, z). ``lowest_gy`` and ``highest_gy`` bound
    every part of the structure, cells at its border included. ``outside_cc`` lies outside the dose grid and counts as
    0 Gy. ``resolution_gy`` is the width of a bin, 0 if the histogram is exact.
    """

    edges_gy: FloatArray
    volume_above_cc: FloatArray
    mean_gy: float
    max_gy: float
    min_gy: float
    lowest_gy: float
    highest_gy: float
    max_position_mm: Point = (0.0, 0.0, 0.0)
    min_position_mm: Point = (0.0, 0.0, 0.0)
    outside_cc: float = 0.0
    resolution_gy: float = 0.0

    @property
    def volume_cc(self) -> float:
        """Volume of the structure in cm3."""
        return float(self.volume_above_cc[0])

    @staticmethod
    def of_points(dose_gy: ArrayLike, volume_cc: ArrayLike) -> DoseSamples:
        """Samples of given points: doses in Gy (n,) and the volumes in cm3 (n,) that they stand for; exact.

        Raises ValueError if there is no point with a positive volume.
        """
        dose = np.asarray(dose_gy, dtype=np.float64).ravel()
        volume = np.broadcast_to(np.asarray(volume_cc, dtype=np.float64), dose.shape).ravel()
        order = np.argsort(dose[volume > 0], kind="stable")
        dose, volume = dose[volume > 0][order], volume[volume > 0][order]
        if len(dose) == 0:
            raise ValueError("no point with a volume")
        above = np.append(np.cumsum(volume[::-1])[::-1], 0.0)
        low, high = float(dose[0]), float(dose[-1])
        return DoseSamples(
            edges_gy=np.repeat(dose, 2),
            volume_above_cc=np.repeat(above, 2)[1:-1],
            mean_gy=float(dose @ volume / volume.sum()),
            max_gy=high,
            min_gy=low,
            lowest_gy=low,
            highest_gy=high,
        )

    def volume_at_least_cc(self, dose_gy: float) -> float:
        """Volume in cm3 that receives at least ``dose_gy`` (within one bin of the histogram counts as reaching it)."""
        dose = dose_gy - self.resolution_gy
        if dose_gy <= self.lowest_gy or dose <= self.edges_gy[0]:
            return self.volume_cc
        if dose_gy > self.highest_gy:
            return 0.0
        # the first edge of equal ones stands before the drop there: a dose that is just reached counts
        upper = int(np.searchsorted(self.edges_gy, dose, side="left"))
        if self.edges_gy[upper] == dose:
            return float(self.volume_above_cc[upper])
        return float(np.interp(dose, self.edges_gy[upper - 1 : upper + 1], self.volume_above_cc[upper - 1 : upper + 1]))

    def hottest_gy(self, volume_cc: float) -> float:
        """Least dose in Gy in the hottest ``volume_cc``; the lowest dose if the structure is not larger than that."""
        volume = min(volume_cc, self.volume_cc)
        enough = self.volume_above_cc >= volume - _ROUNDING * self.volume_cc
        last = len(enough) - 1 - int(np.argmax(enough[::-1]))
        return self._between(last, last + 1, self.volume_above_cc, volume)

    def coldest_gy(self, volume_cc: float) -> float:
        """Highest dose in Gy in the coldest ``volume_cc``; the highest dose if the structure is not larger than that."""
        volume = min(volume_cc, self.volume_cc)
        below = self.volume_cc - self.volume_above_cc
        first = int(np.argmax(below >= volume - _ROUNDING * self.volume_cc))
        return self._between(first - 1, first, below, volume)

    def _between(self, low: int, high: int, curve: FloatArray, volume: float) -> float:
        low, high = max(low, 0), min(high, len(curve) - 1)
        step = curve[high] - curve[low]
        part = 0.0 if step == 0 else float(np.clip((volume - curve[low]) / step, 0.0, 1.0))
        dose = float(self.edges_gy[low] + part * (self.edges_gy[high] - self.edges_gy[low]))
        return min(max(dose, self.lowest_gy), self.highest_gy)


def evaluate(metric: Metric, samples: DoseSamples, unit: Literal["", "Gy", "%", "cc"] = "") -> float:
    """Value of ``metric``: Gy for doses, % (default) or cc as ``unit`` says for volumes.

    Dx is the least dose in the hottest x, DCx the highest dose in the coldest x (AAPM TG-263, ICRU 83); where x cc is
    more than the structure holds, its lowest or highest dose. VxGy counts what receives at least x, CVxGy the rest.
    Raises ValueError for an empty structure, for a unit that does not fit, and for percent of a level that was not
    resolved (:func:`dicomplan.metrics.grammar.in_gray`).
    """
    if samples.volume_cc <= 0:
        raise ValueError(f"{metric.name} of an empty structure")
    if metric.kind in ("V", "CV"):
        if metric.argument_unit != "Gy" or unit == "Gy":
            raise ValueError(f"{metric.name} in '{unit}': the dose must be in Gy, the volume in % or cc")
        volume = samples.volume_at_least_cc(metric.argument)
        volume = volume if metric.kind == "V" else samples.volume_cc - volume
        return volume if unit == "cc" else 100.0 * (volume / samples.volume_cc)
    if unit not in ("", "Gy"):
        raise ValueError(f"{metric.name} is a dose in Gy, not in {unit}")
    if metric.kind == "mean":
        return samples.mean_gy
    if metric.kind == "max":
        return samples.max_gy
    if metric.kind == "min":
        return samples.min_gy
    volume = metric.argument if metric.argument_unit == "cc" else metric.argument / 100.0 * samples.volume_cc
    return samples.hottest_gy(volume) if metric.kind == "D" else samples.coldest_gy(volume)


def cumulative_dvh(samples: DoseSamples, bins: int = 400) -> tuple[FloatArray, FloatArray]:
    """Cumulative DVH as (dose in Gy (bins + 1,), fraction of the volume that receives at least it (bins + 1,)).

    Doses run in equal steps from 0 to a little above the highest dose, so that the curve ends at 0.
    """
    top = samples.highest_gy * (1.0 + 1e-6) + samples.resolution_gy if samples.highest_gy > 0 else 1.0
    dose = np.linspace(0.0, top, bins + 1)
    if samples.volume_cc <= 0:
        return dose, np.zeros(bins + 1)
    volume = np.array([samples.volume_at_least_cc(float(value)) for value in dose])
    return dose, volume / samples.volume_cc
