"""Segments too small for the machine: merged into a similar one, or dropped, at the least harm to the fluence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.delivery import Segment
from dicomplan.machine.model import MachineModel, MlcModel
from dicomplan.sequencing.apertures import LeafShapes, open_intervals, place_leaves
from dicomplan.sequencing.fluence import open_fractions, radiation_edges

FloatArray = NDArray[np.float64]

_REFIT_SWEEPS = 30


@dataclass
class _Working:
    """Segments while they are merged: open intervals (S, rows), metersets (S,), and fluence per MU (S, rows, cols)."""

    left: FloatArray
    right: FloatArray
    metersets: FloatArray
    fluence: FloatArray

    def without(self, index: int) -> _Working:
        keep = np.arange(len(self.metersets)) != index
        return _Working(self.left[keep], self.right[keep], self.metersets[keep], self.fluence[keep])


def merge_or_drop_small(
    segments: Sequence[Segment],
    x_edges_mm: FloatArray,
    leaf_pairs: range,
    machine: MachineModel,
    *,
    min_meterset_mu: float | None = None,
    min_area_cm2: float | None = None,
    wanted_mu: FloatArray | None = None,
) -> tuple[Segment, ...]:
    """The beam's segments without any below the minimum meterset or area (both the machine's unless given).

    The smallest (meterset times area) goes first, in the way that leaves the least squared error against ``wanted_mu``
    (rows, cols; the fluence of ``segments`` unless given): its meterset goes to a similar segment, whose shape becomes
    the mean of both weighted by meterset (which keeps leaf span, over-travel, gaps and interdigitation within limits), or
    another segment's meterset is raised, or it is dropped. Then all metersets are refitted to the map, none below the
    minimum, and leaves and jaws are placed anew. ``leaf_pairs`` (from 0) and ``x_edges_mm`` are the map's rows and
    columns; pairs beyond them must be closed. If nothing needs to go, the segments come back as they are. A last
    segment is raised to the minimum meterset when it has half of it, else dropped; it is kept however small its area.
    """
    least_mu = machine.min_segment_meterset_mu if min_meterset_mu is None else min_meterset_mu
    least_cm2 = machine.min_segment_area_cm2 if min_area_cm2 is None else min_area_cm2
    edges = np.asarray(x_edges_mm, np.float64)
    working = _working(segments, edges, leaf_pairs, machine)
    heights = np.diff(machine.mlc.leaf_boundaries_mm)[leaf_pairs.start : leaf_pairs.stop]
    wanted = _delivered(working) if wanted_mu is None else np.asarray(wanted_mu, np.float64)

    changed = False
    while len(working.metersets) > 1:
        areas = ((working.right - working.left) * heights).sum(axis=1) / 100.0
        small = (working.metersets < least_mu - 1e-9) | (areas < least_cm2 - 1e-9)
        if not small.any():
            break
        size = np.where(small, working.metersets * areas, np.inf)
        working = _without_small(working, int(size.argmin()), wanted, edges, machine)
        changed = True
    if len(working.metersets) == 1 and working.metersets[0] < least_mu:
        if working.metersets[0] < 0.5 * least_mu:
            return ()
        working.metersets[0] = least_mu
        changed = True
    if not changed:
        return tuple(segments)
    _refit(working, wanted, least_mu)
    shapes = LeafShapes(leaf_pairs.start, working.left, working.right, working.metersets)
    placed = place_leaves(shapes, machine)
    return tuple(Segment(aperture, float(mu)) for aperture, mu in zip(placed, working.metersets, strict=True))


def _working(segments: Sequence[Segment], edges: FloatArray, leaf_pairs: range, machine: MachineModel) -> _Working:
    apertures = [segment.aperture for segment in segments]
    left, right = open_intervals(apertures, machine)
    if not machine.mlc.interdigitation and apertures:
        # Closed pairs must stay where their neighbours let them stand: their true place is kept, not the one at the jaw.
        banks = np.array([aperture.leaf_positions_mm for aperture in apertures])
        closed = right <= left
        middle = 0.5 * (banks[:, 0] + banks[:, 1])
        left, right = np.where(closed, middle, banks[:, 0]), np.where(closed, middle, banks[:, 1])
    rows = slice(leaf_pairs.start, leaf_pairs.stop)
    left, right = left[:, rows].copy(), right[:, rows].copy()
    metersets = np.array([segment.meterset_mu for segment in segments], np.float64)
    return _Working(left, right, metersets, open_fractions(*radiation_edges(left, right, machine), edges))


def _delivered(working: _Working) -> FloatArray:
    total: FloatArray = np.einsum("s,srj->rj", working.metersets, working.fluence)
    return total


def _without_small(
    working: _Working, small: int, wanted: FloatArray, edges: FloatArray, machine: MachineModel
) -> _Working:
    """One segment fewer: the best of merging shapes, raising another meterset and dropping."""
    share, left_s, right_s = working.metersets[small], working.left[small], working.right[small]
    rest = working.without(small)
    missing = wanted - _delivered(rest)

    both = rest.metersets + share
    left, right = _mean_shapes(rest, share, left_s, right_s, machine.mlc)
    merged = open_fractions(*radiation_edges(left, right, machine), edges)
    change = both[:, None, None] * merged - rest.metersets[:, None, None] * rest.fluence
    merge_errors = ((missing - change) ** 2).sum(axis=(1, 2))

    overlap = np.einsum("rj,srj->s", missing, rest.fluence)
    norm = np.einsum("srj,srj->s", rest.fluence, rest.fluence)
    extra = np.clip(overlap / np.maximum(norm, 1e-12), 0.0, share)
    raise_errors = (missing**2).sum() - 2.0 * extra * overlap + extra**2 * norm

    merge, lift = int(merge_errors.argmin()), int(raise_errors.argmin())
    if merge_errors[merge] <= raise_errors[lift]:
        rest.left[merge], rest.right[merge] = left[merge], right[merge]
        rest.fluence[merge] = merged[merge]
        rest.metersets[merge] = both[merge]
    else:
        rest.metersets[lift] += extra[lift]
    return rest


def _mean_shapes(
    rest: _Working, share: float, left_s: FloatArray, right_s: FloatArray, mlc: MlcModel
) -> tuple[FloatArray, FloatArray]:
    """Mean of each segment's shape with one more, weighted by meterset: width times meterset is kept in each row.

    Where leaves may interdigitate: intervals of a row that do not meet give one about the middle of the heavier, and a
    width below the minimum gap is rounded to it or to nothing. Otherwise the plain mean of the positions, which no
    neighbour can be in the way of.
    """
    own = (rest.metersets / (rest.metersets + share))[:, None]
    left = own * rest.left + (1.0 - own) * left_s
    right = own * rest.right + (1.0 - own) * right_s
    if not mlc.interdigitation:
        return left, right
    width = right - left
    width = np.where(width < mlc.min_gap_mm, np.where(width < 0.5 * mlc.min_gap_mm, 0.0, mlc.min_gap_mm), width)
    apart = (np.minimum(rest.right, right_s) < np.maximum(rest.left, left_s)) | (rest.right <= rest.left)
    apart |= right_s <= left_s
    heavier = own * (rest.right - rest.left) >= (1.0 - own) * (right_s - left_s)
    middle = np.where(heavier, 0.5 * (rest.left + rest.right), 0.5 * (left_s + right_s))
    middle = np.where(apart, middle, 0.5 * (left + right))
    return middle - 0.5 * width, middle + 0.5 * width


def _refit(working: _Working, wanted: FloatArray, least_mu: float) -> None:
    """Metersets by least squares against the map, none below the minimum (cyclic coordinate descent)."""
    flat = working.fluence.reshape(len(working.metersets), -1)
    gram, load = flat @ flat.T, flat @ wanted.ravel()
    for _ in range(_REFIT_SWEEPS):
        for index in range(len(working.metersets)):
            if gram[index, index] > 0:
                pull = load[index] - gram[index] @ working.metersets + gram[index, index] * working.metersets[index]
                working.metersets[index] = max(least_mu, pull / gram[index, index])
