"""Column generation: a plan's apertures from nothing, one after the other where they bring the dose nearest to the ideal one.

The master problem brings the dose of all apertures so far to that of the ideal fluence (least squares over the voxels of
targets and of everything that goals name; leaf positions and metersets free); its gradient with regard to fluence prices the
next ones (:mod:`dicomplan.sequencing.pricing`). Where segments are few they are spent where dose needs them, not where a
fluence map has steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.beamlets import BeamletMap
from dicomplan.beams.delivery import BeamDelivery
from dicomplan.beams.limits import violations
from dicomplan.dose.influence import FactorisedInfluence
from dicomplan.events import Cancel, Progress, ProgressCallback, ignore_progress
from dicomplan.machine.model import MachineModel
from dicomplan.optimization.solver import Problem, SolverSettings, solve
from dicomplan.optimization.terms import Term
from dicomplan.optimization.voxels import VoxelSet
from dicomplan.plan.derive import Region
from dicomplan.planning.aperture_dose import ApertureDose, begun
from dicomplan.planning.delivering import sequence_plan
from dicomplan.sequencing.aperture_moves import aperture_fluence, moved
from dicomplan.sequencing.pricing import grown

FloatArray = NDArray[np.float64]

_OPEN_FROM = 0.15  # of a beam's highest fluence: what its first aperture opens
_TRUST_MM = 10.0
_ORGANS = 0.3  # weight of what is no target
_SETTINGS = SolverSettings(max_iterations=20, relative_change=1e-3)


def first_apertures(
    maps: Sequence[BeamletMap], fluences_mu: Sequence[FloatArray], machine: MachineModel
) -> tuple[BeamDelivery, ...]:
    """Each beam (carriage group) open where its fluence is worth it, at the fluence's mean there."""
    flat, steps = [], []
    for fluence in fluences_mu:
        opened = fluence > _OPEN_FROM * float(fluence.max(initial=0.0))
        mean = float(fluence[opened].mean()) if opened.any() else 1.0
        steps.append(max(mean, machine.min_segment_meterset_mu))
        flat.append(np.where(opened, steps[-1], 0.0))
    return sequence_plan(maps, flat, machine, steps).deliveries


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
) -> tuple[BeamDelivery, ...]:
    """The deliveries with more apertures, up to ``max_segments`` in all, none below ``floor_mu``.

    ``wanted_gy`` (voxels,): the dose to come near; ``offset_gy``: what the accurate dose says more than the operator. At most
    one aperture a beam and round. Raises ValueError for a machine that forbids interdigitation.
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
    problem = Problem(terms, level_gy)
    maps = [beam.beamlets for beam in fine.beams]
    while True:
        step = aperture_fluence(deliveries, maps, machine, _TRUST_MM, floor_mu)
        operator = ApertureDose(fine, step)
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
