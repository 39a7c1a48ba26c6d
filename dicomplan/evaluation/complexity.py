"""Complexity of a delivery: how small, how ragged and how unlike its apertures are. Large fields of few shapes are safer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.delivery import Aperture, BeamDelivery
from dicomplan.machine.model import MachineModel
from dicomplan.sequencing.apertures import open_intervals, uncovered_height_mm

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_OPEN_MM = 1e-6
_NARROW_MM = 0.02  # beyond the minimum gap: rounding to the printed digits


@dataclass(frozen=True)
class Complexity:
    """Measures of a beam or plan, each mean over segments weighted by meterset.

    ``segments`` and ``meterset_mu`` (one fraction); ``modulation_complexity_score`` from 0 to 1 (1: one shape whose
    leaves stand in line); ``average_leaf_pair_opening_mm`` of the open pairs; ``edge_metric_per_mm``: exposed leaf sides
    over open area.
    """

    segments: int
    meterset_mu: float
    modulation_complexity_score: float
    average_leaf_pair_opening_mm: float
    edge_metric_per_mm: float


def beam_complexity(delivery: BeamDelivery, machine: MachineModel) -> Complexity:
    """Complexity of one beam. A moving segment counts as the mean of the shapes at its start and end.

    Sources: modulation complexity score, aperture area variability times leaf sequence variability: McNiven et al., Med.
    Phys. 37 (2010) 505, for moving leaves Masi et al., Med. Phys. 40 (2013) 071718; average leaf pair opening:
    Zygmanski and Kung, Med. Phys. 28 (2001) 2220; edge metric, with weight 1 on leaf sides and 0 on leaf ends: Younge
    et al., Med. Phys. 39 (2012) 7160. Looked at is what jaws and leaves leave open together.
    """
    shapes: list[Aperture] = []
    weights: list[float] = []
    for segment in delivery.segments:
        ends = (segment.aperture,) if segment.end is None else (segment.aperture, segment.end)
        shapes += ends
        weights += [segment.meterset_mu / len(ends)] * len(ends)
    meterset = delivery.meterset_mu
    if not shapes or meterset <= 0:
        return Complexity(len(delivery.segments), meterset, 0.0, 0.0, 0.0)
    left, right = open_intervals(shapes, machine)
    width = right - left
    opened = width > _OPEN_MM
    # room that the pairs leave open at any time: the largest opening that the beam's segments make up together
    low = np.where(opened, left, np.inf).min(axis=0)
    high = np.where(opened, right, -np.inf).max(axis=0)
    widest = float(np.clip(high - low, 0.0, None)[opened.any(axis=0)].sum())
    score = opening = edges = 0.0
    for index, (shape, weight) in enumerate(zip(shapes, weights, strict=True)):
        rows = opened[index]
        if not rows.any():
            continue
        area_share = float(width[index, rows].sum()) / widest
        in_line = _in_line(left[index, rows]) * _in_line(right[index, rows])
        height = uncovered_height_mm(shape.jaw_y_mm, machine)
        area = float((width[index] * height).sum())
        score += weight * area_share * in_line
        opening += weight * float(width[index, rows].mean())
        edges += weight * _side_mm(left[index], right[index], height > 0) / area
    total = sum(weights)
    return Complexity(len(delivery.segments), meterset, score / total, opening / total, edges / total)


def least_gap_share(deliveries: Sequence[BeamDelivery], machine: MachineModel) -> float:
    """Share (0 to 1) of what still segments leave open (area x meterset) that lies between leaves at their minimum gap.

    Where no jaw can hide them, closed pairs leave it open. Segments that move are passed by: their windows may be so narrow.
    """
    narrow = total = 0.0
    for item in deliveries:
        for one in item.segments:
            if one.end is not None:
                continue
            left, right = open_intervals([one.aperture], machine)
            width = (right - left)[0]
            area = one.meterset_mu * width * uncovered_height_mm(one.aperture.jaw_y_mm, machine)
            narrow += float(area[width <= machine.mlc.min_gap_mm + _NARROW_MM].sum())
            total += float(area.sum())
    return narrow / total if total > 0 else 0.0


def plan_complexity(deliveries: Sequence[BeamDelivery], machine: MachineModel) -> Complexity:
    """Complexity of a plan: the beams' measures, weighted by their metersets."""
    beams = [beam_complexity(item, machine) for item in deliveries]
    total = sum(beam.meterset_mu for beam in beams)
    share = [beam.meterset_mu / total if total > 0 else 0.0 for beam in beams]
    return Complexity(
        segments=sum(beam.segments for beam in beams),
        meterset_mu=total,
        modulation_complexity_score=_mean(share, [beam.modulation_complexity_score for beam in beams]),
        average_leaf_pair_opening_mm=_mean(share, [beam.average_leaf_pair_opening_mm for beam in beams]),
        edge_metric_per_mm=_mean(share, [beam.edge_metric_per_mm for beam in beams]),
    )


def _mean(shares: Sequence[float], values: Sequence[float]) -> float:
    return sum(share * value for share, value in zip(shares, values, strict=True))


def _in_line(positions_mm: FloatArray) -> float:
    """Leaf sequence variability of one bank: sum of (range - step between neighbours) / ((n - 1) range)."""
    reach = float(positions_mm.max() - positions_mm.min())
    if len(positions_mm) < 2 or reach <= _OPEN_MM:
        return 1.0
    steps = np.abs(np.diff(positions_mm))
    return float((reach - steps).sum() / (len(steps) * reach))


def _side_mm(left: FloatArray, right: FloatArray, exposed: BoolArray) -> float:
    """Length of leaf sides that border the opening: where of two neighbouring pairs, none hidden, one alone is open."""
    width = right - left
    both = np.clip(np.minimum(right[1:], right[:-1]) - np.maximum(left[1:], left[:-1]), 0.0, None)
    alone = width[1:] + width[:-1] - 2.0 * both
    return float(alone[exposed[1:] & exposed[:-1]].sum())
