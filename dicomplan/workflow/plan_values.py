"""What the stages of planning hand on: the request, what is prepared, what is made, how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.beamlets import BeamletMap
from dicomplan.beams.delivery import BeamDelivery
from dicomplan.dicom.source import Study
from dicomplan.dose.engines import DoseEngine, PencilBeamEngine
from dicomplan.dose.influence import FactorisedInfluence
from dicomplan.dose.pencil_beam import Medium
from dicomplan.dose.pencil_kernel import PencilKernel
from dicomplan.dose.volume import DoseVolume
from dicomplan.events import Finding
from dicomplan.plan.coverages import StructureCoverages
from dicomplan.plan.resolve import ResolvedTemplate
from dicomplan.planning.case import PlanningCase
from dicomplan.planning.delivery_rounds import DeliveredPlan
from dicomplan.planning.exploring import Front
from dicomplan.planning.imrt import IdealPlan
from dicomplan.planning.normalizing import NormalizationResult
from dicomplan.planning.proving import Verdict
from dicomplan.planning.robustness import ShiftedValues
from dicomplan.planning.voxels import OptimizationVoxels
from dicomplan.workflow.study_request import StudyRequest

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class PlanRequest(StudyRequest):
    """What to plan: a study, ``template`` (shipped name or file), ``output`` folder (new or empty).

    ``beam_doses``: also one RTDOSE for each beam. ``overwrite``: an earlier result of dicomplan may be replaced.
    ``identify``: log, plan.json and report may name the patient and the input files. ``bridge``: slices that a ROI leaves
    out between its contours are filled. ``time_limit_s``: searches end then, with the best that they have. ``explore``:
    two goals, ``A:B``, between which a front of plans is computed as well.
    """

    template: str
    output: Path
    beam_doses: bool = False
    overwrite: bool = False
    identify: bool = False
    bridge: bool = False
    time_limit_s: float | None = None
    explore: str | None = None


@dataclass(frozen=True)
class PlanOutcome:
    """How it ended: exit code (0, 5 or 6), the output folder, the ``plan.json`` document, the report's place."""

    exit_code: int
    output: Path
    document: Mapping[str, Any]
    report: Path


@dataclass(frozen=True)
class Setup:
    """What the stages before optimisation made."""

    study: Study
    resolved: ResolvedTemplate
    structures: StructureCoverages
    case: PlanningCase
    kernel: PencilKernel
    around: Medium
    engine: DoseEngine
    fast: PencilBeamEngine | None
    maps: tuple[BeamletMap, ...]
    isocenter_mm: tuple[float, float, float]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Result:
    """What planning made; ``final`` is None where the plan cannot be delivered.

    In the order of ``deliveries``: ``point_doses_gy``, the dose of one fraction at the isocentre (None outside the dose
    grid), and ``beam_doses_gy`` of one fraction on the dose grid, only where they were asked for. ``verdict``: whether any
    plan could hold the hard constraints, where this one does not. ``front``: plans between two goals, where asked for.
    ``shifted``: the goals with the isocentre moved, where the template names set-up errors.
    """

    setup: Setup
    voxels: OptimizationVoxels
    influence: FactorisedInfluence
    ideal: IdealPlan
    delivered: DeliveredPlan | None
    normalization: NormalizationResult | None
    deliveries: tuple[BeamDelivery, ...]
    point_doses_gy: tuple[float | None, ...]
    beam_doses_gy: tuple[Float32Array, ...]
    final: DoseVolume | None
    violations: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    verdict: Verdict | None = None
    front: Front | None = None
    shifted: ShiftedValues | None = None
