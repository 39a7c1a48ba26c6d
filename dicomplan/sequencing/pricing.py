"""Pricing: the aperture that would lower an objective most, from the objective's gradient with regard to fluence.

Column generation for apertures: Romeijn, Ahuja, Dempsey and Kumar, SIAM J. Optim. 15 (2005) 838; Men, Romeijn, Taskin and
Dempsey, Phys. Med. Biol. 52 (2007) 7333. The gain of 1 MU through an aperture is the sum of the negative gradient over what
is open; where leaf pairs are independent the best aperture has in each row the interval of the greatest sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.beamlets import BeamletMap
from dicomplan.beams.delivery import BeamDelivery, Segment, direction
from dicomplan.machine.model import MachineModel
from dicomplan.sequencing.aperture_moves import outermost_mm
from dicomplan.sequencing.apertures import LeafShapes, gap_mm, open_intervals, place_leaves
from dicomplan.sequencing.step_and_shoot import rounded

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_WORTH_OPENING = 0.02  # of the best row's gain: what gains less is not opened


@dataclass(frozen=True)
class PricedAperture:
    """``left_mm`` and ``right_mm`` (rows,) leaf positions on the rows of a fine map, equal where closed; ``gain`` per MU."""

    left_mm: FloatArray
    right_mm: FloatArray
    gain: float

    def shapes(self, first_leaf_pair: int, meterset_mu: float) -> LeafShapes:
        """As one segment of a beam."""
        return LeafShapes(first_leaf_pair, self.left_mm[None], self.right_mm[None], np.array([meterset_mu]))


def best_intervals(gains: FloatArray, least: int = 1) -> tuple[IntArray, IntArray, FloatArray]:
    """Of each row of ``gains`` (rows, cols) the interval [left, right) of at least ``least`` columns with the greatest sum.

    Returns left, right and sums (each (rows,)); of equal ones the first that ends. Where rows are shorter than ``least``:
    nothing (left = right, sum 0).
    """
    rows, cols = gains.shape
    if cols < least:
        nothing = np.zeros(rows, np.int64)
        return nothing, nothing.copy(), np.zeros(rows)
    sums = np.concatenate([np.zeros((rows, 1)), np.cumsum(gains, axis=1)], axis=1)
    before = sums[:, : cols + 1 - least]
    lowest = np.minimum.accumulate(before, axis=1)
    place = np.maximum.accumulate(np.where(before <= lowest, np.arange(before.shape[1]), 0), axis=1)
    after = sums[:, least:] - lowest
    end = after.argmax(axis=1)
    row = np.arange(rows)
    return place[row, end].astype(np.int64), (end + least).astype(np.int64), after[row, end]


def priced(
    gradient: FloatArray, fine: BeamletMap, machine: MachineModel, within_mm: tuple[float, float]
) -> PricedAperture | None:
    """The aperture that 1 MU of lowers an objective most, None where none lowers it; leaves may interdigitate.

    ``gradient`` (rows, cols) of the objective with regard to the fluence of the cells of ``fine``, per MU; edges lie on
    those of cells, inside ``within_mm``. Rows that gain little beside the best are closed, and nothing below the
    machine's least area is proposed. Raises ValueError for a machine that forbids interdigitation.
    """
    if not machine.mlc.interdigitation:
        raise ValueError("rows cannot be priced one by one where neighbouring leaves bind each other")
    edges, offset = fine.x_edges_mm, machine.mlc.leaf_end_offset_mm
    usable = np.flatnonzero((edges - offset >= within_mm[0] - 1e-9) & (edges + offset <= within_mm[1] + 1e-9))
    if len(usable) < 2:
        return None
    columns = slice(int(usable[0]), int(usable[-1]))
    step = float(edges[1] - edges[0])
    least = max(1, int(np.ceil((gap_mm(machine) + 2.0 * offset) / step - 1e-9)))
    left, right, gains = best_intervals(-gradient[:, columns], least)
    opened = gains > _WORTH_OPENING * max(float(gains.max()), 0.0)
    opened &= gains > 0.0
    if not opened.any():
        return None
    low = np.where(opened, edges[columns][left] + offset, 0.0)
    high = np.where(opened, edges[columns.start : columns.stop + 1][right] - offset, 0.0)
    heights = np.diff(fine.y_edges_mm)
    if float(((high - low) * heights).sum()) / 100.0 < machine.min_segment_area_cm2:
        return None
    through = machine.mlc.transmission
    gain = (1.0 - through) * float(gains[opened].sum()) - through * float(gradient.sum())
    return PricedAperture(low, high, gain) if gain > 0.0 else None


def grown(
    deliveries: Sequence[BeamDelivery],
    fine: Sequence[BeamletMap],
    gradient: FloatArray,
    machine: MachineModel,
    most: int,
    meterset_mu: float,
) -> tuple[BeamDelivery, ...]:
    """The deliveries with up to ``most`` more segments of ``meterset_mu``, at most one each, those of the greatest gain.

    ``gradient`` (cells,) of an objective on the fine maps of the deliveries' directions, one map after the other. A
    beam stays no wider than its leaves can span; its jaws follow.
    """
    places = {direction(one.beam): k for k, one in enumerate(fine)}
    ends = np.cumsum([one.active.size for one in fine])
    maps = [part.reshape(one.active.shape) for part, one in zip(np.split(gradient, ends[:-1]), fine, strict=True)]
    found: list[tuple[float, int, PricedAperture]] = []
    for number, item in enumerate(deliveries):
        which = places[direction(item.beam)]
        one = priced(maps[which], fine[which], machine, _within_mm(item, fine[which], machine))
        if one is not None:
            found.append((one.gain, number, one))
    found.sort(key=lambda entry: -entry[0])
    chosen = {number: one for _, number, one in found[: max(most, 0)]}
    return tuple(
        _with_one_more(item, chosen[number], fine[places[direction(item.beam)]].first_leaf_pair, meterset_mu, machine)
        if number in chosen
        else item
        for number, item in enumerate(deliveries)
    )


def _within_mm(item: BeamDelivery, fine: BeamletMap, machine: MachineModel) -> tuple[float, float]:
    left, right = open_intervals([one.aperture for one in item.segments], machine)
    opened = right > left
    return outermost_mm(left, right, opened, fine, machine)


def _with_one_more(
    item: BeamDelivery, one: PricedAperture, first_leaf_pair: int, meterset_mu: float, machine: MachineModel
) -> BeamDelivery:
    left, right = open_intervals([segment.aperture for segment in item.segments], machine)
    rows = slice(first_leaf_pair, first_leaf_pair + len(one.left_mm))
    more = np.zeros((2, 1, left.shape[1]))
    more[0, 0, rows], more[1, 0, rows] = one.left_mm, one.right_mm
    metersets = [*(segment.meterset_mu for segment in item.segments), meterset_mu]
    shapes = LeafShapes(0, np.vstack([left, more[0]]), np.vstack([right, more[1]]), np.array(metersets))
    placed = zip(place_leaves(shapes, machine), metersets, strict=True)
    return replace(item, segments=tuple(rounded(Segment(aperture, mu)) for aperture, mu in placed))
