"""Fluence maps of a plan into beams: carriage groups, step-and-shoot segments or sliding windows, rounded as printed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.arrangement import beam_name
from dicomplan.beams.beamlets import BeamletMap
from dicomplan.beams.delivery import Beam, BeamDelivery, with_meterset
from dicomplan.machine.model import MachineModel
from dicomplan.sequencing.apertures import usable_span_mm
from dicomplan.sequencing.carriage import carriage_groups
from dicomplan.sequencing.fluence import FluenceError, fluence_error
from dicomplan.sequencing.sliding_window import slide, sparing_dose_rate
from dicomplan.sequencing.step_and_shoot import METERSET_DIGITS, rounded, sequence

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
    """Deliveries of all beams with the fluence that each was to give, and the error left of each optimised beam's.

    ``floors_mu``: of sliding windows, what each delivery leaves everywhere in its field at least, MU; ``synchronised``: whether
    their neighbouring leaves move against tongue-and-groove underdose. ``delivered_mu``:
    (rows, cols) of each optimised beam, what its deliveries give on its map.
    """

    deliveries: tuple[BeamDelivery, ...]
    errors: tuple[FluenceError, ...]
    wanted: tuple[WantedFluence, ...]
    floors_mu: tuple[float, ...] = ()
    synchronised: tuple[bool, ...] = ()
    delivered_mu: tuple[FloatArray, ...] = ()


@dataclass(frozen=True)
class _Part:
    """One map as a delivery that has no name yet; ``delivered_mu`` (rows, cols)."""

    delivery: BeamDelivery
    delivered_mu: FloatArray
    floor_mu: float | None = None
    synchronised: bool = False


_Sequencer = Callable[[WantedFluence, Beam], _Part]


def sequence_plan(
    maps: Sequence[BeamletMap],
    fluences_mu: Sequence[FloatArray],
    machine: MachineModel,
    step_mu: float | Sequence[float],
    seed: int = 0,
    restarts: int = 100,
) -> SequencedPlan:
    """Step-and-shoot segments for the fluence (count,) of each beamlet map, in steps of about ``step_mu`` (of all, or each).

    A map wider than the leaves span becomes two or more beams at the same angle (names end in a, b). A beam whose whole
    fluence rounds to nothing gets none. Beams are numbered anew from 1. Raises NotDeliverableError if a map cannot be
    split into carriage groups.
    """
    steps = [step_mu] * len(maps) if isinstance(step_mu, float | int) else list(step_mu)

    def stepped(wanted: WantedFluence, beam: Beam, step: float) -> _Part:
        done = sequence(
            wanted.fluence_mu,
            wanted.x_edges_mm,
            wanted.first_leaf_pair,
            machine,
            step_mu=step,
            seed=seed,
            restarts=restarts,
        )
        return _Part(BeamDelivery(beam, done.segments), done.delivered_mu)

    sequencers = [partial(stepped, step=step) for step in steps]
    return _sequenced(maps, fluences_mu, machine, sequencers, [0.25 * step for step in steps])


def slide_plan(maps: Sequence[BeamletMap], fluences_mu: Sequence[FloatArray], machine: MachineModel) -> SequencedPlan:
    """Sliding windows for the fluence (count,) of each beamlet map; carriage groups and names as in :func:`sequence_plan`.

    Each beam at the dose rate of :func:`~dicomplan.sequencing.sliding_window.sparing_dose_rate`.
    A beam of no more than a thousandth of the highest fluence gets none. Raises NotDeliverableError if a map cannot be
    split into carriage groups or the leaves cannot sweep over it.
    """

    def swept(wanted: WantedFluence, beam: Beam) -> _Part:
        rate = sparing_dose_rate(wanted.fluence_mu, wanted.x_edges_mm, machine)
        done = slide(wanted.fluence_mu, wanted.x_edges_mm, wanted.first_leaf_pair, machine, dose_rate_mu_min=rate)
        return _Part(
            BeamDelivery(beam, done.segments, done.dose_rate_mu_min),
            done.delivered_mu,
            done.floor_mu,
            done.synchronised,
        )

    highest = max((float(fluence.max(initial=0.0)) for fluence in fluences_mu), default=0.0)
    return _sequenced(maps, fluences_mu, machine, [swept] * len(maps), [1e-3 * highest] * len(maps))


def _sequenced(
    maps: Sequence[BeamletMap],
    fluences_mu: Sequence[FloatArray],
    machine: MachineModel,
    sequencers: Sequence[_Sequencer],
    least_mu: Sequence[float],
) -> SequencedPlan:
    deliveries: list[BeamDelivery] = []
    errors, sources, floors, totals, synchronised = [], [], [], [], []
    for one, fluence, sequencer, least in zip(maps, fluences_mu, sequencers, least_mu, strict=True):
        wanted = one.filled(np.maximum(fluence, 0.0))
        wanted[wanted < least] = 0.0
        delivered = np.zeros_like(wanted)
        groups = carriage_groups(one.x_edges_mm, wanted, usable_span_mm(machine))
        for part, (columns, share) in enumerate(groups):
            edges = one.x_edges_mm[columns.start : columns.stop + 1]
            source = WantedFluence(wanted[:, columns] * share, edges, one.y_edges_mm, one.first_leaf_pair)
            suffix = chr(ord("a") + part) if len(groups) > 1 else ""
            done = sequencer(source, _named(one.beam, len(deliveries) + 1, suffix))
            delivered[:, columns] += done.delivered_mu
            if done.delivery.segments:
                deliveries.append(done.delivery)
                sources.append(source)
                if done.floor_mu is not None:
                    floors.append(done.floor_mu)
                    synchronised.append(done.synchronised)
        errors.append(fluence_error(delivered, wanted))
        totals.append(delivered)
    return SequencedPlan(
        tuple(deliveries), tuple(errors), tuple(sources), tuple(floors), tuple(synchronised), tuple(totals)
    )


def parts(delivery: BeamDelivery) -> tuple[BeamDelivery, ...]:
    """What of a beam has a meterset of its own: each segment, or the whole of a beam that moves."""
    if delivery.moving:
        return (delivery,)
    return tuple(replace(delivery, segments=(segment,)) for segment in delivery.segments)


def part_metersets_mu(deliveries: Sequence[BeamDelivery]) -> FloatArray:
    """Metersets of all :func:`parts` of all beams in order, MU of one fraction."""
    return np.array([part.meterset_mu for item in deliveries for part in parts(item)], np.float64)


def with_part_metersets(deliveries: Sequence[BeamDelivery], metersets_mu: FloatArray) -> tuple[BeamDelivery, ...]:
    """The deliveries with new metersets of all :func:`parts` in order, to the digits that are printed.

    A moving beam is scaled; its segments keep at least the last digit.
    """
    remaining = iter(metersets_mu.tolist())
    result = []
    for item in deliveries:
        scaled = [with_meterset(part, next(remaining) / part.meterset_mu) for part in parts(item)]
        segments = tuple(rounded(segment) for part in scaled for segment in part.segments)
        if item.moving:
            least = 10.0**-METERSET_DIGITS
            segments = tuple(replace(one, meterset_mu=max(one.meterset_mu, least)) for one in segments)
        result.append(replace(item, segments=segments, dose_rate_mu_min=scaled[0].dose_rate_mu_min))
    return tuple(result)


def _named(beam: Beam, number: int, suffix: str) -> Beam:
    """The beam under a new number; its name keeps the number of the angle it was optimised as."""
    name = beam_name(beam.number, beam.gantry_angle_deg, beam.couch_angle_deg, suffix)
    return replace(beam, number=number, name=name)
