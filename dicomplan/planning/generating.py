"""Column generation: a plan's apertures from nothing, one after the other where they bring the dose nearest to the ideal one.

The master problem brings the dose of all apertures so far to that of the ideal fluence (least squares over the voxels of
targets and of everything that goals name; leaf positions and metersets free); its gradient with regard to fluence prices the
next ones (:mod:`dicomplan.sequencing.pricing`). Where segments are few they are spent where dose needs them, not where a
fluence map has steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.beamlets import BeamletMap
from dicomplan.beams.delivery import BeamDelivery, direction
from dicomplan.beams.limits import violations
from dicomplan.dose.influence import FactorisedInfluence
from dicomplan.events import Cancel, Progress, ProgressCallback, ignore_progress
from dicomplan.machine.model import MachineModel
from dicomplan.optimization.meterset import Meterset
from dicomplan.optimization.solver import Problem, SolverSettings, solve
from dicomplan.optimization.terms import Term
from dicomplan.optimization.voxels import VoxelSet
from dicomplan.plan.derive import Region
from dicomplan.planning.aperture_dose import ApertureDose, begun
from dicomplan.planning.delivering import SequencedPlan, sequence_plan
from dicomplan.sequencing.aperture_moves import aperture_fluence, moved
from dicomplan.sequencing.fluence import fluence_error, fluence_of_segments
from dicomplan.sequencing.pricing import grown

FloatArray = NDArray[np.float64]

METERSET_WEIGHT = 0.001
"""Of the total meterset relative to what it is, beside mean squares of dose / highest level: 1 % r.m.s. is 10 % of the MU."""

_OPEN_FROM = 0.15  # of a beam's highest fluence: what its first aperture opens
_TRUST_MM = 10.0
_ORGANS = 0.3  # weight of what is no target
_SETTINGS = SolverSettings(max_iterations=20, relative_change=1e-3)


def first_apertures(
    maps: Sequence[BeamletMap], fluences_mu: Sequence[FloatArray], machine: MachineModel
) -> SequencedPlan:
    """Each beam (carriage group) open where its fluence is worth it, at the fluence's mean there."""
    flat, steps = [], []
    for fluence in fluences_mu:
        opened = fluence > _OPEN_FROM * float(fluence.max(initial=0.0))
        mean = float(fluence[opened].mean()) if opened.any() else 1.0
        steps.append(max(mean, machine.min_segment_meterset_mu))
        flat.append(np.where(opened, steps[-1], 0.0))
    return sequence_plan(maps, flat, machine, steps)


def instead_of(
    first: SequencedPlan,
    deliveries: tuple[BeamDelivery, ...],
    maps: Sequence[BeamletMap],
    fluences_mu: Sequence[FloatArray],
    machine: MachineModel,
) -> SequencedPlan:
    """What :func:`first_apertures` has grown to, with what its beams' fluence (count,) was to be and by how much it differs."""
    wanted, errors, totals = [], [], []
    for item, source in zip(deliveries, first.wanted, strict=True):
        which = next(k for k, one in enumerate(maps) if direction(one.beam) == direction(item.beam))
        one, left = maps[which], int(np.searchsorted(maps[which].x_edges_mm, source.x_edges_mm[0] - 1e-6))
        part = one.filled(fluences_mu[which])[:, left : left + source.fluence_mu.shape[1]]
        share = source.fluence_mu / max(float(source.fluence_mu.max()), 1e-9)
        wanted.append(replace(source, fluence_mu=part * share))
    for one, fluence in zip(maps, fluences_mu, strict=True):
        pairs = range(one.first_leaf_pair, one.first_leaf_pair + len(one.active))
        mine = [item for item in deliveries if direction(item.beam) == direction(one.beam)]
        total = np.zeros(one.active.shape)
        for item in mine:
            total += fluence_of_segments(item.segments, one.x_edges_mm, pairs, machine)
        totals.append(total)
        errors.append(fluence_error(total, one.filled(fluence)))
    return replace(first, deliveries=deliveries, errors=tuple(errors), wanted=tuple(wanted), delivered_mu=tuple(totals))


def generated(
    deliveries: tuple[BeamDelivery, ...],
    fine: FactorisedInfluence,
    wanted_gy: FloatArray,
    offset_gy: FloatArray,
    sets: Mapping[Region, VoxelSet | None],
    targets: Sequence[str],
    level_gy: float,
    machine: MachineModel,
    max_segments: int,
    floor_mu: float,
    progress: ProgressCallback = ignore_progress,
    cancel: Cancel | None = None,
    meterset_weight: float = METERSET_WEIGHT,
) -> tuple[BeamDelivery, ...]:
    """The deliveries with more apertures, up to ``max_segments`` in all, none below ``floor_mu``.

    ``wanted_gy`` (voxels,): the dose to come near; ``offset_gy``: what the accurate dose says more than the operator. At most
    one aperture a beam and round. ``meterset_weight``: see :data:`METERSET_WEIGHT`.
    Raises ValueError for a machine that forbids interdigitation.
    """
    cancel = cancel or Cancel()
    terms = tuple(
        Term(
            "reference",
            voxels,
            0.0,
            1.0 if region.structure in targets else _ORGANS,
            reference_gy=wanted_gy[voxels.indices],
        )
        for region, voxels in sets.items()
        if voxels is not None
    )
    maps = [beam.beamlets for beam in fine.beams]
    while True:
        step = aperture_fluence(deliveries, maps, machine, _TRUST_MM, floor_mu)
        operator = ApertureDose(fine, step)
        total = Meterset(meterset_weight, float(step.metersets_mu.mean()) / step.unit_mu, step.count)
        problem = Problem(terms, level_gy, meterset=total)
        dose = np.asarray(operator.forward(step.start), dtype=np.float64) + offset_gy
        solution = solve(
            operator,
            problem,
            warm_start=begun(step.start, dose),
            dose_offset_gy=offset_gy,
            most=step.most,
            settings=_SETTINGS,
            cancel=cancel,
        )
        after = moved(deliveries, step, solution.fluence, machine)
        deliveries = tuple(
            new if not violations(new, machine) else old for old, new in zip(deliveries, after, strict=True)
        )
        count = sum(len(item.segments) for item in deliveries)
        progress(Progress("sequence", f"{count} segments generated", min(1.0, count / max_segments)))
        if count >= max_segments or cancel.finishing:
            return deliveries
        more = grown(deliveries, maps, operator.cells, machine, max_segments - count, floor_mu)
        if sum(len(item.segments) for item in more) == count:
            return deliveries
        deliveries = more
