"""Direct aperture optimisation: dose as a function of leaf positions and metersets, with its exact gradient.

The fluence of a segment is its meterset where it is open, so dose depends on metersets linearly and on leaf positions as an
integral up to them: what a leaf end uncovers when it draws back by a small d is meterset x d at its edge, and the gradient
with regard to its position the meterset times what the dose's adjoint says there. Leaf positions optimised by gradients on
the objectives of fluence: Shepard, Earl, Li, Naqvi and Yu, Med. Phys. 29 (2002) 1007; Hardemark, Liander, Rehbinder and Lof,
RaySearch white paper (2003); Cassioli and Unkelbach, Phys. Med. Biol. 58 (2013) 301.

Fluence lies on fine maps (cells of :data:`FINE_STEP_MM` along the leaves). An edge is averaged over one cell about it, so
that the gradient is continuous: a blur with a standard deviation of 0.7 mm beside 1.3 mm and more of source and kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.beamlets import NO_FLASH, BeamletMap
from dicomplan.beams.delivery import BeamDelivery, Segment, direction
from dicomplan.machine.model import MachineModel
from dicomplan.sequencing.apertures import LeafShapes, gap_mm, open_intervals, place_leaves, usable_span_mm
from dicomplan.sequencing.step_and_shoot import rounded

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FINE_STEP_MM = 2.5
"""Cells of the fine maps along the leaves: less than the kernel's own blur."""
FINE_MARGIN_MM = 10.0
"""Beyond the beamlets: leaves may go a little further than the optimised fluence."""

SLIT_MM = 1.0
"""A pair open by less than this delivers next to nothing but what leaks between leaf ends."""

_OPEN_MM = 1e-6
_EDGE = 1.5  # cells that a smoothed edge reaches to either side


@dataclass(frozen=True)
class LeafEnds:
    """The leaf ends that may move in a step, one entry each.

    ``where`` (ends, 4): delivery, segment, leaf pair, bank. ``segment`` (ends,) counts over all deliveries, ``row`` over the
    rows of all fine maps. Edges of radiation lie at ``at_mm`` and move outward by -``inward_mm`` to ``outward_mm``.
    """

    where: IntArray
    segment: IntArray
    row: IntArray
    at_mm: FloatArray
    inward_mm: FloatArray
    outward_mm: FloatArray

    @property
    def outside(self) -> FloatArray:
        """(ends,) the sense of x in which each opens: -1 of bank X1, +1 of X2."""
        return np.where(self.where[:, 3] == 0, -1.0, 1.0)


@dataclass
class ApertureFluence:
    """Fluence (cells,) on fine maps as a function of variables: metersets above the floor, then places of leaf ends.

    Variables run from 0 to ``most`` and begin at ``start``. Metersets count in ``unit_mu`` above ``floor_mu``, so that a unit
    of either kind of variable changes the fluence about equally: the solver's steps need that. A leaf end's variable is how
    far (mm) it stands outward of its innermost place. ``shapes``: (rows, columns) of each map; ``first_mm``: the
    edge that each row begins at. Leaves transmit ``transmission`` of the metersets of their direction's segments;
    ``maps`` (segments,) says which map that is.
    """

    ends: LeafEnds
    metersets_mu: FloatArray
    maps: IntArray
    shapes: tuple[tuple[int, int], ...]
    first_mm: FloatArray
    transmission: float
    floor_mu: float
    unit_mu: float = 1.0
    _first: IntArray = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)

    def __post_init__(self) -> None:
        # deposits lie on the edges of cells, with two more at both ends for the smoothing
        wide = np.repeat([columns + 5 for _, columns in self.shapes], [rows for rows, _ in self.shapes])
        self._first = np.concatenate([[0], np.cumsum(wide)]).astype(np.int64)

    @property
    def count(self) -> int:
        """Number of segments: of the first variables."""
        return len(self.metersets_mu)

    @property
    def start(self) -> FloatArray:
        """Variables where nothing moves."""
        return np.concatenate([np.maximum(self.metersets_mu - self.floor_mu, 0.0) / self.unit_mu, self.ends.inward_mm])

    @property
    def most(self) -> FloatArray:
        """Upper bounds of the variables."""
        return np.concatenate([np.full(self.count, np.inf), self.ends.inward_mm + self.ends.outward_mm])

    def metersets(self, variables: FloatArray) -> FloatArray:
        """(segments,) MU."""
        result: FloatArray = variables[: self.count] * self.unit_mu + self.floor_mu
        return result

    def outward_mm(self, variables: FloatArray) -> FloatArray:
        """(ends,) by how much each leaf end has drawn back from where it was."""
        result: FloatArray = variables[self.count :] - self.ends.inward_mm
        return result

    def fluence(self, variables: FloatArray) -> FloatArray:
        """(cells,) open fluence and what leaves transmit, MU."""
        metersets = self.metersets(variables)
        at, weights, _ = self._deposits(variables)
        signed = (-self.ends.outside * metersets[self.ends.segment])[:, None] * weights
        deposits = np.bincount(at.ravel(), signed.ravel(), self._first[-1])
        totals = np.bincount(self.maps, metersets, len(self.shapes))
        parts, row = [], 0
        for (rows, columns), total in zip(self.shapes, totals.tolist(), strict=True):
            mine = deposits[self._first[row] : self._first[row + rows]].reshape(rows, columns + 5)
            opened = np.cumsum(mine, axis=1)[:, 2 : columns + 2]
            parts.append(((1.0 - self.transmission) * opened + self.transmission * total).ravel())
            row += rows
        return np.concatenate(parts)

    def pulled_back(self, variables: FloatArray, cells: FloatArray) -> FloatArray:
        """(variables,) gradient of a function of the fluence whose gradient with regard to it is ``cells`` (cells,)."""
        deposits = np.zeros(self._first[-1])
        transmitted = np.zeros(len(self.shapes))
        row = first = 0
        for number, (rows, columns) in enumerate(self.shapes):
            mine = cells[first : first + rows * columns].reshape(rows, columns)
            padded = np.zeros((rows, columns + 5))
            padded[:, 2 : columns + 2] = (1.0 - self.transmission) * mine
            deposits[self._first[row] : self._first[row + rows]] = np.cumsum(padded[:, ::-1], axis=1)[:, ::-1].ravel()
            transmitted[number] = self.transmission * mine.sum()
            row, first = row + rows, first + rows * columns
        at, weights, slopes = self._deposits(variables)
        outside, metersets = self.ends.outside, self.metersets(variables)
        seen = deposits[at]
        per_mu = np.bincount(self.ends.segment, -outside * (weights * seen).sum(axis=1), self.count)
        per_mm = -metersets[self.ends.segment] * (slopes * seen).sum(
            axis=1
        )  # outside twice: of the edge and of the way
        return np.concatenate([(per_mu + transmitted[self.maps]) * self.unit_mu, per_mm])

    def _deposits(self, variables: FloatArray) -> tuple[IntArray, FloatArray, FloatArray]:
        """Where each end's edge lies on its row: places (ends, 3) of the deposits, their weights, and these per mm.

        What is open from x on is the running sum of deposits at x; averaged over a cell they are a quadratic B-spline.
        """
        edges = self.ends.at_mm + self.ends.outside * self.outward_mm(variables)
        place = (edges - self.first_mm[self.ends.row]) / FINE_STEP_MM
        nearest = np.floor(place + 0.5)
        d = place - nearest
        weights = np.stack([0.5 * (0.5 - d) ** 2, 0.75 - d * d, 0.5 * (0.5 + d) ** 2], axis=1)
        slopes = np.stack([d - 0.5, -2.0 * d, d + 0.5], axis=1) / FINE_STEP_MM
        columns = np.diff(self._first)[self.ends.row] - 5
        middle = np.clip(nearest, -1, columns + 1).astype(np.int64) + 2
        at = (self._first[self.ends.row] + middle)[:, None] + np.array([-1, 0, 1])
        return at, weights, slopes


def fine_map(coarse: BeamletMap, step_mm: float, margin_mm: float) -> BeamletMap:
    """All cells of ``step_mm`` on the rows of a beamlet map, ``margin_mm`` further along the leaves."""
    low, high = float(coarse.x_edges_mm[0]) - margin_mm, float(coarse.x_edges_mm[-1]) + margin_mm
    x_edges: FloatArray = step_mm * np.arange(round(low / step_mm), round(high / step_mm) + 1, dtype=np.float64)
    rows = len(coarse.y_edges_mm) - 1
    every = np.ones((rows, len(x_edges) - 1), dtype=np.bool_)
    return replace(coarse, x_edges_mm=x_edges, active=every, flash=NO_FLASH)


def aperture_fluence(
    deliveries: Sequence[BeamDelivery],
    fine: Sequence[BeamletMap],
    machine: MachineModel,
    trust_mm: float,
    floor_mu: float,
) -> ApertureFluence:
    """What moves of at most ``trust_mm`` of the leaves of these deliveries make of the fine map of each direction.

    Within these bounds every combination of moves is within the machine's limits: of the room between two leaves that
    must not come closer (a pair's, or with interdigitation forbidden opposed neighbours') each may take a half, of the
    room that span leaves a beam as a whole each side a half. Closed pairs stay closed. Raises ValueError for segments that move
    while the beam is on.
    """
    if any(item.moving for item in deliveries):
        raise ValueError("apertures that move while the beam is on are no segments")
    places = {direction(one.beam): k for k, one in enumerate(fine)}
    first_row = np.cumsum([0, *(len(one.y_edges_mm) - 1 for one in fine)])
    parts: list[tuple[IntArray, ...]] = []
    moves: list[tuple[FloatArray, ...]] = []
    metersets: list[float] = []
    maps: list[int] = []
    for number, item in enumerate(deliveries):
        which = places[direction(item.beam)]
        own = fine[which]
        rows = slice(own.first_leaf_pair, own.first_leaf_pair + len(own.y_edges_mm) - 1)
        left, right = open_intervals([one.aperture for one in item.segments], machine)
        opened = np.zeros(left.shape, dtype=np.bool_)
        opened[:, rows] = (right - left)[:, rows] > _OPEN_MM
        room = _inward_mm(left, right, machine)
        bounds = outermost_mm(left, right, opened, own, machine)
        for bank, outside in ((0, -1.0), (1, 1.0)):
            at = right if bank else left
            inward = np.minimum(trust_mm, np.maximum(room[bank], 0.0))
            outward = np.clip(outside * (bounds[bank] - at), 0.0, trust_mm)
            segment, pair = np.nonzero(opened & (inward + outward > 0.0))
            here = segment, pair
            parts.append((np.full(len(segment), number), segment, pair, np.full(len(segment), bank)))
            moves.append((at[here] + outside * machine.mlc.leaf_end_offset_mm, inward[here], outward[here]))
            parts[-1] += (segment + len(metersets), pair - rows.start + first_row[which])
        metersets += [one.meterset_mu for one in item.segments]
        maps += [which] * len(item.segments)
    columns = [np.concatenate(part).astype(np.int64) for part in zip(*parts, strict=True)]
    at_mm, inward_mm, outward_mm = (np.concatenate(part) for part in zip(*moves, strict=True))
    ends = LeafEnds(np.stack(columns[:4], axis=1), columns[4], columns[5], at_mm, inward_mm, outward_mm)
    shapes = tuple((len(one.y_edges_mm) - 1, len(one.x_edges_mm) - 1) for one in fine)
    begins = np.repeat([float(one.x_edges_mm[0]) for one in fine], [rows for rows, _ in shapes])
    known = np.array(metersets), np.array(maps, dtype=np.int64)
    unit = _unit_mu(ends, known[0])
    return ApertureFluence(ends, *known, shapes, begins, machine.mlc.transmission, floor_mu, unit)


def moved(
    deliveries: Sequence[BeamDelivery], step: ApertureFluence, variables: FloatArray, machine: MachineModel
) -> tuple[BeamDelivery, ...]:
    """The deliveries after a step, on the machine's leaves and to the printed digits; jaws follow, closed pairs are parked.

    The leaves of a segment whose area would fall below the machine's least stay where they are.
    """
    heights = np.diff(machine.mlc.leaf_boundaries_mm)
    metersets, outward = step.metersets(variables), step.outward_mm(variables)
    where = step.ends.where
    result: list[BeamDelivery] = []
    first = 0
    for number, item in enumerate(deliveries):
        count = len(item.segments)
        left, right = open_intervals([one.aperture for one in item.segments], machine)
        before = left.copy(), right.copy()
        mine = where[:, 0] == number
        for bank, positions, sign in ((0, left, -1.0), (1, right, 1.0)):
            chosen = mine & (where[:, 3] == bank)
            positions[where[chosen, 1], where[chosen, 2]] += sign * outward[chosen]
        small = (right - left) @ heights < 100.0 * machine.min_segment_area_cm2
        left[small], right[small] = before[0][small], before[1][small]
        weights = metersets[first : first + count]
        shapes = place_leaves(LeafShapes(0, left, right, weights), machine)
        segments = tuple(rounded(Segment(shape, float(mu))) for shape, mu in zip(shapes, weights, strict=True))
        result.append(replace(item, segments=segments))
        first += count
    return tuple(result)


def without_slits(deliveries: Sequence[BeamDelivery], machine: MachineModel) -> tuple[BeamDelivery, ...]:
    """The deliveries with pairs that stand open by less than :data:`SLIT_MM` closed, and so parked under a jaw.

    That is how far leaves go that would rather be closed. Nothing changes where neighbours bind each other, and no segment
    loses so much that it falls below the machine's least area.
    """
    if not machine.mlc.interdigitation:
        return tuple(deliveries)
    heights = np.diff(machine.mlc.leaf_boundaries_mm)
    result = []
    for item in deliveries:
        left, right = open_intervals([one.aperture for one in item.segments], machine)
        slits = (right > left) & (right - left < SLIT_MM)
        closed = np.where(slits, left, right)
        keep = (closed - left) @ heights < 100.0 * machine.min_segment_area_cm2
        closed[keep] = right[keep]
        if (closed == right).all():
            result.append(item)
            continue
        shapes = LeafShapes(0, left, closed, np.array([one.meterset_mu for one in item.segments]))
        placed = zip(place_leaves(shapes, machine), item.segments, strict=True)
        result.append(replace(item, segments=tuple(rounded(Segment(new, old.meterset_mu)) for new, old in placed)))
    return tuple(result)


def _unit_mu(ends: LeafEnds, metersets_mu: FloatArray) -> float:
    """MU that change the fluence (root of the sum of squares over cells) of a typical segment as a mm of a typical end."""
    if len(ends.segment) == 0:
        return 1.0
    width = np.bincount(ends.segment, ends.outside * ends.at_mm, len(metersets_mu))
    per_mu = np.sqrt(np.maximum(width, FINE_STEP_MM) / FINE_STEP_MM)
    return float(np.median(metersets_mu[ends.segment]) / FINE_STEP_MM / np.median(per_mu))


def _inward_mm(left: FloatArray, right: FloatArray, machine: MachineModel) -> tuple[FloatArray, FloatArray]:
    """How far each leaf (S, N) of both banks may go inward, whatever the others do."""
    room = 0.5 * (right - left - gap_mm(machine))
    first, second = room.copy(), room.copy()
    if not machine.mlc.interdigitation:
        above, below = 0.5 * (right[:, 1:] - left[:, :-1]), 0.5 * (right[:, :-1] - left[:, 1:])
        first[:, :-1] = np.minimum(first[:, :-1], above)
        second[:, 1:] = np.minimum(second[:, 1:], above)
        first[:, 1:] = np.minimum(first[:, 1:], below)
        second[:, :-1] = np.minimum(second[:, :-1], below)
    return first, second


def outermost_mm(
    left: FloatArray,
    right: FloatArray,
    opened: NDArray[np.bool_],
    fine: BeamletMap,
    machine: MachineModel,
) -> tuple[float, float]:
    """Lowest and highest x (mm) that a leaf of a beam may open to: by travel, jaws, the fine map's cells and leaf span.

    ``left`` and ``right`` (S, N) of its segments, ``opened`` where they are; of the room that span leaves each side has half.
    """
    if not opened.any():
        return 0.0, 0.0
    low, high = float(left[opened].min()), float(right[opened].max())
    spare = max(0.0, 0.5 * (usable_span_mm(machine) - (high - low)))
    reach, jaw = machine.mlc.retraction_mm, machine.jaw_x
    margin = _EDGE * FINE_STEP_MM + machine.mlc.leaf_end_offset_mm
    lowest = [low - spare, -reach, float(fine.x_edges_mm[0]) + margin]
    highest = [high + spare, reach, float(fine.x_edges_mm[-1]) - margin]
    if jaw is not None:
        lowest.append(jaw.first_range_mm[0])
        highest.append(jaw.second_range_mm[1])
    return max(lowest), min(highest)
