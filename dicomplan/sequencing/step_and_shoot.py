"""Step-and-shoot: one beam's fluence map into segments that a machine delivers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.delivery import Aperture, Segment
from dicomplan.machine.model import MachineModel
from dicomplan.sequencing.apertures import POSITION_DIGITS, apertures
from dicomplan.sequencing.decompose import Decomposition, decompose
from dicomplan.sequencing.fluence import FluenceError, discretised, fluence_error, fluence_of_segments
from dicomplan.sequencing.small_segments import merge_or_drop_small

FloatArray = NDArray[np.float64]

METERSET_DIGITS = 4
"""Decimals (MU) of a segment's meterset."""


@dataclass(frozen=True)
class Sequenced:
    """A sequenced map.

    ``segments`` in order of delivery; ``step_mu`` and ``discretised_mu`` (rows, cols): the map as whole steps;
    ``delivered_mu`` (rows, cols): the open fluence of the segments. ``discretisation_error`` is that of the whole steps,
    ``error`` that of what is delivered, both against the map that was asked for.
    """

    segments: tuple[Segment, ...]
    step_mu: float
    discretised_mu: FloatArray
    delivered_mu: FloatArray
    discretisation_error: FluenceError
    error: FluenceError


def sequence(
    fluence_mu: FloatArray,
    x_edges_mm: FloatArray,
    first_leaf_pair: int,
    machine: MachineModel,
    *,
    levels: int | None = None,
    step_mu: float | None = None,
    seed: int = 0,
    restarts: int = 100,
    enforce_minimum: bool = True,
) -> Sequenced:
    """Segments that deliver ``fluence_mu`` (rows, cols), MU of an open field, >= 0, of one fraction.

    Row i belongs to leaf pair ``first_leaf_pair`` + i (from 0), column j lies between ``x_edges_mm`` j and j + 1 at
    isocentre. The map is discretised (at most ``levels`` steps, or steps of ``step_mu``), decomposed exactly at least
    meterset (under the interleaf constraint where the machine asks for it), ordered from one side of the field to the
    other, and put on the machine's leaves. With ``enforce_minimum`` segments below the machine's minimum meterset or area
    are merged or dropped. A map wider than :func:`~dicomplan.sequencing.apertures.usable_span_mm` belongs into
    carriage groups first. Raises ValueError for a map that does not fit the edges or the machine's leaf pairs.
    """
    fluence = np.asarray(fluence_mu, np.float64)
    edges = np.asarray(x_edges_mm, np.float64)
    pairs = range(first_leaf_pair, first_leaf_pair + fluence.shape[0])
    if fluence.ndim != 2 or fluence.shape[1] != len(edges) - 1:
        raise ValueError(f"a map of shape {fluence.shape} does not fit {len(edges)} column edges")
    if pairs.start < 0 or pairs.stop > machine.mlc.leaf_pairs:
        raise ValueError(f"leaf pairs {pairs.start} to {pairs.stop} of a machine that has {machine.mlc.leaf_pairs}")
    whole, step = discretised(fluence, levels=levels, step_mu=step_mu)
    parts = decompose(whole, interleaf=not machine.mlc.interdigitation, restarts=restarts, seed=seed)
    parts = _from_side_to_side(parts)
    segments = tuple(
        rounded(Segment(aperture, weight * step))
        for aperture, weight in apertures(parts, edges, first_leaf_pair, machine)
    )
    if enforce_minimum:
        segments = merge_or_drop_small(segments, edges, pairs, machine, wanted_mu=fluence)
        segments = tuple(rounded(segment) for segment in segments)
    delivered = fluence_of_segments(segments, edges, pairs, machine)
    steps = whole.astype(np.float64) * step
    return Sequenced(segments, step, steps, delivered, fluence_error(steps, fluence), fluence_error(delivered, fluence))


def rounded(segment: Segment) -> Segment:
    """The segment with positions to 0.01 mm and meterset to 0.0001 MU: what a file with these digits reads back as."""
    end = None if segment.end is None else _rounded_aperture(segment.end)
    return Segment(_rounded_aperture(segment.aperture), round(float(segment.meterset_mu), METERSET_DIGITS), end)


def _rounded_aperture(aperture: Aperture) -> Aperture:
    leaves: FloatArray = np.round(aperture.leaf_positions_mm, POSITION_DIGITS).astype(np.float64) + 0.0
    return Aperture(leaves, _rounded_pair(aperture.jaw_y_mm), _rounded_pair(aperture.jaw_x_mm))


def with_metersets(segments: Sequence[Segment], metersets_mu: Sequence[float] | FloatArray) -> tuple[Segment, ...]:
    """The same apertures with other metersets (MU of one fraction), one per segment."""
    pairs = zip(segments, metersets_mu, strict=True)
    return tuple(Segment(segment.aperture, float(meterset)) for segment, meterset in pairs)


def _rounded_pair(pair: tuple[float, float] | None) -> tuple[float, float] | None:
    if pair is None:
        return None
    return round(float(pair[0]), POSITION_DIGITS) + 0.0, round(float(pair[1]), POSITION_DIGITS) + 0.0


def _from_side_to_side(parts: Decomposition) -> Decomposition:
    """Segments ordered by the mean middle of their open rows, so that leaves travel little between them."""
    opened = parts.right > parts.left
    middles = np.where(opened, parts.left + parts.right, 0).sum(axis=1) / np.maximum(opened.sum(axis=1), 1)
    order = np.argsort(middles, kind="stable")
    return Decomposition(parts.weights[order], parts.left[order], parts.right[order])
