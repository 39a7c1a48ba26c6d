"""Leaf shapes onto a machine: positions of all leaf pairs, jaws, and where closed pairs are parked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.delivery import Aperture
from dicomplan.machine.model import JawModel, MachineModel
from dicomplan.sequencing.decompose import Decomposition

FloatArray = NDArray[np.float64]
_Jaws = tuple[tuple[float, float] | None, tuple[float, float] | None]

POSITION_DIGITS = 2
"""Decimals (mm) of every leaf and jaw position, here as in the RTPLAN: what is read back is what was meant."""

PARKING_DEPTH_MM = 5.0
"""How far under the jaw edge a closed pair is parked where travel allows: beyond the penumbra of the jaw."""


@dataclass(frozen=True)
class LeafShapes:
    """Open intervals of the leaf pairs ``first_leaf_pair``, ... of a machine in each of S segments.

    ``left_mm`` and ``right_mm`` (S, rows), at isocentre; a pair is closed where they are equal (their place matters
    only on a machine that forbids interdigitation). ``weights`` (S,) positive.
    """

    first_leaf_pair: int
    left_mm: FloatArray
    right_mm: FloatArray
    weights: FloatArray


def usable_span_mm(machine: MachineModel) -> float:
    """Widest open extent (mm) of one carriage group at which closed pairs can still be parked under an X jaw.

    The leaf span, less the jaw's margin and rounding, the gap of a parked pair and 1 mm under the jaw edge.
    """
    if machine.jaw_x is None:
        return machine.mlc.leaf_span_mm - gap_mm(machine)
    return machine.mlc.leaf_span_mm - (2.0 + gap_mm(machine) + jaw_margin_mm(machine))


def jaw_margin_mm(machine: MachineModel) -> float:
    """How far an X jaw stands off the leaf tips at least, so that it does not cut what shines through rounded leaf ends."""
    return machine.mlc.leaf_end_offset_mm + 2.0 * machine.mlc.leaf_end_blur_mm


def apertures(
    decomposition: Decomposition, x_edges_mm: FloatArray, first_leaf_pair: int, machine: MachineModel
) -> list[tuple[Aperture, float]]:
    """One aperture and weight per segment: row i of the decomposition is leaf pair ``first_leaf_pair`` + i (from 0).

    ``x_edges_mm`` (cols + 1,) column edges at isocentre. See :func:`place_leaves` for jaws and closed pairs.
    """
    shapes = leaf_shapes(decomposition, x_edges_mm, first_leaf_pair, machine)
    return list(zip(place_leaves(shapes, machine), shapes.weights.tolist(), strict=True))


def leaf_shapes(
    decomposition: Decomposition, x_edges_mm: FloatArray, first_leaf_pair: int, machine: MachineModel
) -> LeafShapes:
    """Leaf tips that put the edges of radiation on the column edges: inward of them by the leaf ends' offset.

    Where leaves may not interdigitate tips stand on the column edges: further in they could pass the opposed neighbour.
    """
    edges = np.asarray(x_edges_mm, np.float64)
    offset = machine.mlc.leaf_end_offset_mm if machine.mlc.interdigitation else 0.0
    inward = np.where(decomposition.right > decomposition.left, offset, 0.0)
    left, right = edges[decomposition.left] + inward, edges[decomposition.right] - inward
    weights = decomposition.weights.astype(np.float64)
    return LeafShapes(first_leaf_pair, left, np.maximum(left, right), weights)


def place_leaves(shapes: LeafShapes, machine: MachineModel) -> list[Aperture]:
    """The apertures of one beam: every leaf pair of the machine, and the jaws of each segment.

    Jaws open to the extent of a segment's own shape (of all shapes where the machine's jaws are fixed during a beam),
    rounded outward to 1 mm, within their travel. Open pairs narrower than the minimum gap are widened to it about their
    centre. A pair that is closed in a segment is parked: beyond the X jaws of all segments (by up to
    :data:`PARKING_DEPTH_MM`), or else under the segment's own, as far as leaf span and over-travel allow, all pairs of a
    segment on one side; where no jaw can hide it, at the place of its row that gets most fluence, where the minimum gap
    adds the least in proportion. A pair that never opens stands still: touching at the middle when the Y jaws hide it in
    all segments, else parked as the others. Where the machine forbids interdigitation, closed pairs keep the places the
    shapes give them, and the pairs beyond the map's rows go with its outermost ones. Positions have
    :data:`POSITION_DIGITS` decimals.
    """
    left, right = _at_least_gap(shapes, machine)
    opened = right > left
    if not opened.any():
        return []
    jaws = _jaws_of_segments(shapes.first_leaf_pair, left, right, opened, machine)
    if machine.mlc.interdigitation:
        banks = _parked(shapes, left, right, opened, jaws, machine)
    else:
        banks = _kept_in_line(shapes.first_leaf_pair, left, right, opened, machine)
    banks = np.round(banks, POSITION_DIGITS) + 0.0
    return [Aperture(shape, jaw_y, jaw_x) for shape, (jaw_x, jaw_y) in zip(banks, jaws, strict=True)]


def open_intervals(apertures_: Sequence[Aperture], machine: MachineModel) -> tuple[FloatArray, FloatArray]:
    """(S, N) left and right edge, mm, of what each leaf pair leaves open inside the X jaws; equal where it is closed.

    Pairs wholly under a Y jaw are closed.
    """
    banks = np.array([aperture.leaf_positions_mm for aperture in apertures_], np.float64).reshape(
        -1, 2, machine.mlc.leaf_pairs
    )
    left, right = banks[:, 0].copy(), banks[:, 1].copy()
    for segment, aperture in enumerate(apertures_):
        if aperture.jaw_x_mm is not None:
            np.clip(left[segment], *aperture.jaw_x_mm, out=left[segment])
            np.clip(right[segment], *aperture.jaw_x_mm, out=right[segment])
        hidden = uncovered_height_mm(aperture.jaw_y_mm, machine) <= 0
        right[segment, hidden] = left[segment, hidden]
    return left, np.maximum(left, right)


def open_area_cm2(aperture: Aperture, machine: MachineModel) -> float:
    """Area (cm2, projected at isocentre) that neither jaws nor leaves cover."""
    left, right = open_intervals([aperture], machine)
    height = uncovered_height_mm(aperture.jaw_y_mm, machine)
    return float(((right - left)[0] * height).sum() / 100.0)


def uncovered_height_mm(jaw_y_mm: tuple[float, float] | None, machine: MachineModel) -> FloatArray:
    """(N,) height of each leaf pair that the Y jaws leave open."""
    boundaries = machine.mlc.leaf_boundaries_mm
    low, high = boundaries[:-1], boundaries[1:]
    if jaw_y_mm is not None:
        low, high = np.maximum(low, jaw_y_mm[0]), np.minimum(high, jaw_y_mm[1])
    height: FloatArray = np.maximum(high - low, 0.0)
    return height


def gap_mm(machine: MachineModel) -> float:
    """Minimum gap, rounded up to the printed digits."""
    scale = 10.0**POSITION_DIGITS
    return float(np.ceil(machine.mlc.min_gap_mm * scale - 1e-6) / scale)


def _at_least_gap(shapes: LeafShapes, machine: MachineModel) -> tuple[FloatArray, FloatArray]:
    """Rounded open intervals, none of them narrower than the minimum gap."""
    gap, reach, offset = gap_mm(machine), machine.mlc.over_travel_mm, machine.mlc.leaf_end_offset_mm
    # tips inward of the edge of the outermost column may stand past what a leaf reaches, by no more than the offset
    left = np.round(shapes.left_mm, POSITION_DIGITS)
    left = np.where((left > reach) & (left <= reach + offset + 0.01), reach, left)
    right = np.round(shapes.right_mm, POSITION_DIGITS)
    right = np.where((right < -reach) & (right >= -reach - offset - 0.01), -reach, right)
    narrow = (shapes.right_mm > shapes.left_mm) & (right - left < gap)
    start = np.round(0.5 * (shapes.left_mm + shapes.right_mm - gap), POSITION_DIGITS)
    return np.where(narrow, start, left), np.where(narrow, start + gap, right)


def _jaws_of_segments(
    first_leaf_pair: int, left: FloatArray, right: FloatArray, opened: NDArray[np.bool_], machine: MachineModel
) -> list[_Jaws]:
    """X and Y jaws of each segment; a segment that opens nothing has those of the beam."""
    whole_x, whole_y = _jaws(first_leaf_pair, left, right, opened, machine)
    found = []
    for segment in range(len(left)):
        one = slice(segment, segment + 1)
        own_x, own_y = whole_x, whole_y
        if opened[segment].any():
            own_x, own_y = _jaws(first_leaf_pair, left[one], right[one], opened[one], machine)
        found.append((whole_x if _fixed(machine.jaw_x) else own_x, whole_y if _fixed(machine.jaw_y) else own_y))
    return found


def _fixed(jaw: JawModel | None) -> bool:
    return jaw is not None and jaw.fixed_in_beam


def _jaws(
    first_leaf_pair: int, left: FloatArray, right: FloatArray, opened: NDArray[np.bool_], machine: MachineModel
) -> _Jaws:
    """X and Y jaws that just uncover all open intervals."""
    rows = np.flatnonzero(opened.any(axis=0)) + first_leaf_pair
    boundaries, margin = machine.mlc.leaf_boundaries_mm, jaw_margin_mm(machine)
    jaw_x = jaw_edges(machine.jaw_x, float(left[opened].min()) - margin, float(right[opened].max()) + margin)
    jaw_y = jaw_edges(machine.jaw_y, float(boundaries[rows[0]]), float(boundaries[rows[-1] + 1]))
    return jaw_x, jaw_y


def jaw_edges(jaw: JawModel | None, low: float, high: float) -> tuple[float, float] | None:
    """Edges that uncover [low, high], rounded outward to 1 mm, within the jaws' travel and minimum opening."""
    if jaw is None:
        return None
    first, second = float(np.floor(low + 1e-6)), float(np.ceil(high - 1e-6))
    lacking = jaw.min_opening_mm - (second - first)
    if lacking > 0:
        first, second = float(np.floor(first - lacking / 2)), float(np.ceil(second + lacking / 2))
    first = float(np.clip(first, *jaw.first_range_mm))
    second = float(np.clip(second, *jaw.second_range_mm))
    if second - first < jaw.min_opening_mm:
        first = max(jaw.first_range_mm[0], second - jaw.min_opening_mm)
        second = max(second, first + jaw.min_opening_mm)
    return first, second


def _parked(
    shapes: LeafShapes,
    left: FloatArray,
    right: FloatArray,
    opened: NDArray[np.bool_],
    jaws: Sequence[_Jaws],
    machine: MachineModel,
) -> FloatArray:
    """(S, 2, N) leaf positions with closed pairs parked, for machines whose leaves may interdigitate."""
    pairs, gap = machine.mlc.leaf_pairs, gap_mm(machine)
    rows = slice(shapes.first_leaf_pair, shapes.first_leaf_pair + left.shape[1])
    middle = 0.5 * (left[opened].min() + right[opened].max())
    middle = float(np.clip(round(float(middle), 1), -machine.mlc.over_travel_mm, machine.mlc.over_travel_mm))
    banks = np.full((len(left), 2, pairs), middle)
    idle = np.ones(pairs, np.bool_)
    idle[rows] = ~opened.any(axis=0)
    exposed = np.any([uncovered_height_mm(jaw_y, machine) > 0 for _, jaw_y in jaws], axis=0)

    whole = parking_place(left[opened], right[opened], _outermost([jaw_x for jaw_x, _ in jaws]), machine)
    if whole is not None:
        banks[:, :, idle & exposed] = np.array([whole, whole + gap])[None, :, None]
    for segment in range(len(left)):
        place = whole
        if place is None and opened[segment].any():
            own = opened[segment]
            place = parking_place(left[segment, own], right[segment, own], jaws[segment][0], machine)
        for row in range(left.shape[1]):
            pair = shapes.first_leaf_pair + row
            if opened[segment, row]:
                banks[segment, :, pair] = left[segment, row], right[segment, row]
            elif not idle[pair]:
                start = place if place is not None else _busiest_place(shapes.weights, left, right, row, gap)
                banks[segment, :, pair] = start, start + gap
    return banks


def _outermost(jaws_mm: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    """The edges between which every one of the jaws opens."""
    present = [jaw for jaw in jaws_mm if jaw is not None]
    return (min(jaw[0] for jaw in present), max(jaw[1] for jaw in present)) if present else None


def parking_place(
    left: FloatArray, right: FloatArray, jaw_x: tuple[float, float] | None, machine: MachineModel
) -> float | None:
    """Position of the X1 leaf of a pair parked under an X jaw while the open pairs stand at ``left`` and ``right``.

    None where there is no X jaw, or span, over-travel or retraction leave no room under it on either side.
    """
    if jaw_x is None:
        return None
    mlc, gap = machine.mlc, gap_mm(machine)
    beyond = min(
        mlc.leaf_span_mm - (jaw_x[1] - float(left.min())),
        mlc.leaf_span_mm - (jaw_x[1] + gap - float(right.min())),
        mlc.over_travel_mm - jaw_x[1],
        mlc.retraction_mm - gap - jaw_x[1],
        PARKING_DEPTH_MM,
    )
    before = min(
        mlc.leaf_span_mm - (float(left.max()) - (jaw_x[0] - gap)),
        mlc.leaf_span_mm - (float(right.max()) - jaw_x[0]),
        mlc.over_travel_mm + jaw_x[0],
        mlc.retraction_mm - gap + jaw_x[0],
        PARKING_DEPTH_MM,
    )
    scale = 10.0**POSITION_DIGITS
    beyond, before = np.floor(beyond * scale + 1e-6) / scale, np.floor(before * scale + 1e-6) / scale
    if max(beyond, before) < 0:
        return None
    nearer_is_second = abs(jaw_x[1]) <= abs(jaw_x[0])
    if beyond > before or (beyond == before and nearer_is_second):
        return float(jaw_x[1] + beyond)
    return float(jaw_x[0] - before - gap)


def _busiest_place(weights: FloatArray, left: FloatArray, right: FloatArray, row: int, gap: float) -> float:
    """Start of the interval of width ``gap`` in a row about the middle of where its fluence is highest."""
    edges = np.unique(np.concatenate([left[:, row], right[:, row]]))
    centres = 0.5 * (edges[1:] + edges[:-1])
    covered = (left[:, row, None] <= centres) & (centres < right[:, row, None])
    load = weights @ covered
    return float(round(float(centres[int(load.argmax())]) - 0.5 * gap, POSITION_DIGITS))


def _kept_in_line(
    first_leaf_pair: int, left: FloatArray, right: FloatArray, opened: NDArray[np.bool_], machine: MachineModel
) -> FloatArray:
    """(S, 2, N) leaf positions where no leaf may pass the opposed neighbour: closed pairs stay at their given place."""
    pairs, gap = machine.mlc.leaf_pairs, gap_mm(machine)
    half = np.where(opened, 0.0, 0.5 * gap)
    first = np.round(left - half, POSITION_DIGITS)
    second = np.where(opened, right, first + gap)
    middle = 0.5 * (left[opened].min() + right[opened].max())
    last = first_leaf_pair + left.shape[1]
    banks = np.empty((len(left), 2, pairs))
    banks[:, 0, first_leaf_pair:last] = first
    banks[:, 1, first_leaf_pair:last] = second
    for row, outer in ((0, slice(0, first_leaf_pair)), (-1, slice(last, pairs))):
        start = np.clip(middle - 0.5 * gap, first[:, row], second[:, row] - gap)
        start = np.round(start, POSITION_DIGITS)
        banks[:, 0, outer] = start[:, None]
        banks[:, 1, outer] = start[:, None] + gap
    return banks
