"""Direct aperture optimisation, one step: how dose changes when leaves move a little and metersets change, as a linear map.

The fluence of a segment is its meterset where it is open. To first order a leaf end that draws back by d mm adds
meterset x d of fluence along its edge; here that is laid evenly over the way that the leaf may go (the trust region), which is
what the move does on average. With metersets and moves as variables the dose is linear, and the solver that optimises
fluence optimises apertures. After each step the apertures are set anew and the map is made anew: sequential linear
programming in the manner of successive approximation; that leaf positions may be optimised by gradients on the same
objectives as fluence: Shepard, Earl, Li, Naqvi and Yu, Med. Phys. 29 (2002) 1007; Cassioli and Unkelbach, Phys. Med. Biol. 58
(2013) 301.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.beamlets import NO_FLASH, BeamletMap
from dicomplan.beams.delivery import BeamDelivery, Segment, direction
from dicomplan.machine.model import MachineModel
from dicomplan.sequencing.apertures import LeafShapes, gap_mm, open_intervals, place_leaves
from dicomplan.sequencing.step_and_shoot import rounded

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FINE_STEP_MM = 2.5
"""Cells of the fine maps along the leaves: less than the kernel's own blur."""
FINE_MARGIN_MM = 10.0
"""Beyond the beamlets: leaves may go a little further than the optimised fluence."""

_OPEN_MM = 1e-6


@dataclass(frozen=True)
class ApertureMoves:
    """The variables of one step: metersets above the floor, then moves of leaf ends; all from 0 to ``most``.

    ``cells`` (cells of the fine maps, variables) float32 CSR: MU of open fluence per unit of each variable. ``start`` is
    where nothing moves. A leaf end's variable is how far (mm) it stands outward of its innermost place: ``inward_mm`` from where
    it is. ``first_move`` is the place of the first of them; they belong to the rows ``ends`` (moves, 4): delivery,
    segment, leaf pair, bank. Metersets count in ``unit_mu`` above ``floor_mu``, so that a unit of either kind of variable
    changes the fluence about equally: the solver's steps need that.
    """

    cells: Any
    start: FloatArray
    most: FloatArray
    inward_mm: FloatArray
    first_move: int
    ends: IntArray
    floor_mu: float
    unit_mu: float


def fine_map(coarse: BeamletMap, step_mm: float, margin_mm: float) -> BeamletMap:
    """All cells of ``step_mm`` on the rows of a beamlet map, ``margin_mm`` further along the leaves."""
    low, high = float(coarse.x_edges_mm[0]) - margin_mm, float(coarse.x_edges_mm[-1]) + margin_mm
    x_edges: FloatArray = step_mm * np.arange(round(low / step_mm), round(high / step_mm) + 1, dtype=np.float64)
    rows = len(coarse.y_edges_mm) - 1
    every = np.ones((rows, len(x_edges) - 1), dtype=np.bool_)
    return replace(coarse, x_edges_mm=x_edges, active=every, flash=NO_FLASH)


def aperture_moves(
    deliveries: Sequence[BeamDelivery],
    fine: Sequence[BeamletMap],
    machine: MachineModel,
    trust_mm: float,
    floor_mu: float,
) -> ApertureMoves:
    """The step from these deliveries, each on the fine map of its direction; leaves move by at most ``trust_mm``.

    Leaf ends stay inside the jaws and within their travel, a pair keeps the minimum gap. Closed pairs stay closed.
    Raises ValueError for segments that move and for a machine that forbids interdigitation: neighbours would bind.
    """
    from scipy.sparse import csr_array

    if not machine.mlc.interdigitation or any(item.moving for item in deliveries):
        raise ValueError("apertures of this kind cannot be moved leaf by leaf")
    starts = np.cumsum([0, *(one.count for one in fine)])
    places = {direction(one.beam): k for k, one in enumerate(fine)}
    count = sum(len(item.segments) for item in deliveries)
    found = _Entries([], [], [])
    ends: list[tuple[int, int, int, int]] = []
    inward, most = [], []
    metersets: list[float] = []
    for number, item in enumerate(deliveries):
        which = places[direction(item.beam)]
        own, first_cell = fine[which], int(starts[which])
        rows = slice(own.first_leaf_pair, own.first_leaf_pair + len(own.y_edges_mm) - 1)
        left, right = open_intervals([one.aperture for one in item.segments], machine)
        left, right = left[:, rows], right[:, rows]
        for segment, one in enumerate(item.segments):
            low, high = left[segment], right[segment]
            opened = high - low > _OPEN_MM
            spread = _covered(
                low - machine.mlc.leaf_end_offset_mm, high + machine.mlc.leaf_end_offset_mm, own.x_edges_mm
            )
            spread[~opened] = 0.0
            found.add(spread, first_cell, np.full(len(low), len(metersets)))
            metersets.append(one.meterset_mu)
            closing = np.minimum(trust_mm, np.maximum(0.5 * (high - low - gap_mm(machine)), 0.0))
            for bank, at, outside in ((0, low, -1.0), (1, high, 1.0)):
                opening = np.minimum(trust_mm, np.maximum(outside * (_bound(one, machine, bank) - at), 0.0))
                moving = np.flatnonzero(opened & (opening + closing > 0.0))
                edge = at + outside * machine.mlc.leaf_end_offset_mm
                ways = np.sort([edge - outside * closing, edge + outside * opening], axis=0)
                length = np.maximum(ways[1] - ways[0], _OPEN_MM)
                per_mm = one.meterset_mu * _covered(ways[0], ways[1], own.x_edges_mm) / length[:, None]
                found.add(per_mm[moving], first_cell, count + len(ends) + np.arange(len(moving)), moving)
                ends += [(number, segment, rows.start + row, bank) for row in moving.tolist()]
                inward.append(closing[moving])
                most.append((opening + closing)[moving])
    moves = np.concatenate(inward) if inward else np.zeros(0)
    shape = (int(starts[-1]), count + len(ends))
    values, cells, variables = (np.concatenate(part) for part in (found.values, found.cells, found.variables))
    length = np.sqrt(np.bincount(variables, values * values, shape[1]))
    unit = float(np.median(length[count:]) / np.median(length[:count])) if len(ends) else 1.0
    values = np.where(variables < count, unit * values, values)
    return ApertureMoves(
        cells=csr_array((values.astype(np.float32), (cells, variables)), shape=shape),
        start=np.concatenate([np.maximum(np.array(metersets) - floor_mu, 0.0) / unit, moves]),
        most=np.concatenate([np.full(count, np.inf), *most]),
        inward_mm=moves,
        first_move=count,
        ends=np.array(ends, dtype=np.int64).reshape(-1, 4),
        floor_mu=floor_mu,
        unit_mu=unit,
    )


def moved(
    deliveries: Sequence[BeamDelivery], step: ApertureMoves, variables: FloatArray, machine: MachineModel
) -> tuple[BeamDelivery, ...]:
    """The deliveries after a step, on the machine's leaves and to the printed digits; jaws follow, closed pairs are parked."""
    metersets = variables[: step.first_move] * step.unit_mu + step.floor_mu
    outward = variables[step.first_move :] - step.inward_mm
    result: list[BeamDelivery] = []
    first = 0
    for number, item in enumerate(deliveries):
        count = len(item.segments)
        left, right = open_intervals([one.aperture for one in item.segments], machine)
        mine = step.ends[:, 0] == number
        for bank, positions, sign in ((0, left, -1.0), (1, right, 1.0)):
            chosen = mine & (step.ends[:, 3] == bank)
            positions[step.ends[chosen, 1], step.ends[chosen, 2]] += sign * outward[chosen]
        weights = metersets[first : first + count]
        shapes = place_leaves(LeafShapes(0, left, right, weights), machine)
        segments = tuple(rounded(Segment(shape, float(mu))) for shape, mu in zip(shapes, weights, strict=True))
        result.append(replace(item, segments=segments))
        first += count
    return tuple(result)


@dataclass(frozen=True)
class _Entries:
    """Coordinates of a sparse matrix, part by part."""

    values: list[FloatArray]
    cells: list[IntArray]
    variables: list[IntArray]

    def add(self, rows: FloatArray, first_cell: int, variables: IntArray, at: IntArray | None = None) -> None:
        """Rows (n, columns) of one map, each belonging to a variable; ``at``: which rows of the map they are."""
        row, column = np.nonzero(rows)
        place = row if at is None else at[row]
        self.values.append(rows[row, column])
        self.cells.append(first_cell + place * rows.shape[1] + column)
        self.variables.append(variables[row])


def _covered(low_mm: FloatArray, high_mm: FloatArray, edges_mm: FloatArray) -> FloatArray:
    """(n, cells) share of each cell that the intervals [low, high] (n,) cover."""
    covered = np.minimum(high_mm[:, None], edges_mm[1:]) - np.maximum(low_mm[:, None], edges_mm[:-1])
    share: FloatArray = np.clip(covered, 0.0, None) / np.diff(edges_mm)
    return share


def _bound(segment: Segment, machine: MachineModel, bank: int) -> float:
    """How far out (mm) a leaf of a bank may go: to the jaw and to the end of its travel."""
    jaw = segment.aperture.jaw_x_mm
    reach = machine.mlc.retraction_mm
    if jaw is None:
        return reach if bank else -reach
    return min(jaw[1], reach) if bank else max(jaw[0], -reach)
