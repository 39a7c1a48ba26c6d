"""Fluence maps of a plan into beams with segments: carriage groups, step-and-shoot segments, rounded as printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.arrangement import beam_name
from dicomplan.beams.beamlets import BeamletMap
from dicomplan.beams.delivery import Beam, BeamDelivery
from dicomplan.machine.model import MachineModel
from dicomplan.sequencing.apertures import usable_span_mm
from dicomplan.sequencing.carriage import carriage_groups
from dicomplan.sequencing.fluence import FluenceError, fluence_error
from dicomplan.sequencing.step_and_shoot import sequence

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class WantedFluence:
    """What one delivery was sequenced from: ``fluence_mu`` (rows, cols) on the edges (mm at isocentre) given.

    ``first_leaf_pair`` (from 0) is that of the first row.
    """

    fluence_mu: FloatArray
    x_edges_mm: FloatArray
    y_edges_mm: FloatArray
    first_leaf_pair: int


@dataclass(frozen=True)
class SequencedPlan:
    """Deliveries of all beams with the fluence that each was to give, and the error left of each optimised beam's."""

    deliveries: tuple[BeamDelivery, ...]
    errors: tuple[FluenceError, ...]
    wanted: tuple[WantedFluence, ...]


def sequence_plan(
    maps: Sequence[BeamletMap], fluences_mu: Sequence[FloatArray], machine: MachineModel, step_mu: float, seed: int = 0
) -> SequencedPlan:
    """Step-and-shoot segments for the fluence (count,) of each beamlet map, in steps of about ``step_mu``.

    A map wider than the leaves span becomes two or more beams at the same angle (names end in a, b). A beam whose whole
    fluence rounds to nothing gets none. Beams are numbered anew from 1. Raises NotDeliverableError if a map cannot be
    split into carriage groups.
    """
    deliveries: list[BeamDelivery] = []
    errors, sources = [], []
    for one, fluence in zip(maps, fluences_mu, strict=True):
        wanted = one.filled(np.maximum(fluence, 0.0))
        wanted[wanted < 0.25 * step_mu] = 0.0
        delivered = np.zeros_like(wanted)
        groups = carriage_groups(one.x_edges_mm, wanted, usable_span_mm(machine))
        for part, (columns, share) in enumerate(groups):
            edges = one.x_edges_mm[columns.start : columns.stop + 1]
            done = sequence(wanted[:, columns] * share, edges, one.first_leaf_pair, machine, step_mu=step_mu, seed=seed)
            delivered[:, columns] += done.delivered_mu
            if done.segments:
                suffix = chr(ord("a") + part) if len(groups) > 1 else ""
                deliveries.append(BeamDelivery(_named(one.beam, len(deliveries) + 1, suffix), done.segments))
                sources.append(WantedFluence(wanted[:, columns] * share, edges, one.y_edges_mm, one.first_leaf_pair))
        errors.append(fluence_error(delivered, wanted))
    return SequencedPlan(tuple(deliveries), tuple(errors), tuple(sources))


def _named(beam: Beam, number: int, suffix: str) -> Beam:
    """The beam under a new number; its name keeps the number of the angle it was optimised as."""
    name = beam_name(beam.number, beam.gantry_angle_deg, beam.couch_angle_deg, suffix)
    return replace(beam, number=number, name=name)
