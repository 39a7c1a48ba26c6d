"""``dicomplan influence``: the influence matrix of a template's beams on a study, for optimisers of one's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dicomplan import DISCLAIMER, __version__
from dicomplan.dose.sparse import ExplicitInfluence, LeftOut, explicit_influence, left_out, shortest_influence
from dicomplan.events import Cancel, Finding, Progress, ProgressCallback, ignore_progress
from dicomplan.images.influence import require_hdf5, write_influence_npz, write_influence_portpy
from dicomplan.machine.library import load_machine
from dicomplan.patient.coverage import coverage_on_grid
from dicomplan.plan.library import load_template
from dicomplan.planning.pursuing import aims_of
from dicomplan.workflow.clock import Clock
from dicomplan.workflow.documents import finding_documents, sorted_findings
from dicomplan.workflow.memory import available_bytes
from dicomplan.workflow.output import OutputFolder
from dicomplan.workflow.plan import machine_place
from dicomplan.workflow.plan_setup import influence_of, optimised_voxels, prepare, seen_by_beams
from dicomplan.workflow.plan_values import Setup
from dicomplan.workflow.study_request import StudyRequest
from dicomplan.workflow.threads import one_thread_for_algebra

InfluenceFormat = Literal["npz", "portpy"]
Voxels = Literal["optimised", "body"]


@dataclass(frozen=True)
class InfluenceRequest:
    """What to write: study, template and output folder as of a plan; ``file_format``.

    ``voxels``: those that a plan is optimised on (all near targets and in the structures that it names, every eighth
    elsewhere), or all of BODY. ``cutoff_mm``: from a beamlet's centre, at isocentre; None: the shortest that leaves out less
    than 0.5 % of the targets' mean dose and 1 % of the integral dose.
    """

    study: StudyRequest
    template: str
    output: Path
    file_format: InfluenceFormat = "npz"
    voxels: Voxels = "optimised"
    cutoff_mm: float | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class InfluenceOutcome:
    """The output folder and the ``influence.json`` document."""

    output: Path
    document: Mapping[str, Any]


def run_influence(
    request: InfluenceRequest, progress: ProgressCallback = ignore_progress, cancel: Cancel | None = None
) -> InfluenceOutcome:
    """Write the matrix, ``structures.npz`` (covered fraction of each row's voxel by structure) and ``influence.json``.

    Raises as :func:`dicomplan.workflow.plan.run_plan`; InsufficientMemoryError (8) also for a matrix that would not fit.
    """
    cancel = cancel or Cancel()
    if request.file_format == "portpy":
        require_hdf5()
    template = load_template(request.template)
    machine = load_machine(machine_place(template, request.template))
    destination = OutputFolder(request.output, overwrite=request.overwrite, inputs=request.study.study)
    clock = Clock(progress)
    with destination as folder, one_thread_for_algebra():
        with clock.stage("read"):
            study = request.study.read(progress)
        setup = prepare(study, template, machine, request.template, clock, cancel)
        with clock.stage("influence"):
            if request.voxels == "body":
                indices = np.flatnonzero(setup.case.body.ravel() > 0)
                stands_for = np.ones(len(indices))
            else:
                chosen = optimised_voxels(setup, aims_of(setup.resolved))
                indices, stands_for = chosen.indices, chosen.stands_for
            operator = influence_of(setup, setup.maps, seen_by_beams(setup, indices, clock))
            fractions = _fractions(setup, indices)
            volume = stands_for * setup.case.body.ravel()[indices]
            target = volume * np.max([fractions[one.name] for one in setup.resolved.targets], axis=0)
            cancel.check()
            progress(Progress("influence", "matrix"))
            matrix, cutoff_mm, lost = _matrix(request, operator, target, volume)
        cancel.check()
        with clock.stage("write"):
            if request.file_format == "portpy":
                write_influence_portpy(folder, matrix, setup.maps, indices)
            else:
                grid = setup.case.density.grid
                write_influence_npz(folder / "influence.npz", matrix, setup.maps, grid, indices)
            np.savez_compressed(folder / "structures.npz", stands_for=stands_for, voxels=indices, **fractions)
            document = _document(request, setup, matrix, cutoff_mm, lost) | {"timings_s": clock.total()}
            text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
            (folder / "influence.json").write_text(f"{text}\n", encoding="utf-8")
    return InfluenceOutcome(destination.target, document)


def _matrix(
    request: InfluenceRequest, operator: Any, target: Any, volume: Any
) -> tuple[ExplicitInfluence, float, LeftOut]:
    free = available_bytes()
    if request.cutoff_mm is None:
        return shortest_influence(operator, target, volume, free)
    matrix = explicit_influence(operator, request.cutoff_mm, free)
    return matrix, request.cutoff_mm, left_out(matrix, operator, target, volume)


def _fractions(setup: Setup, indices: Any) -> dict[str, Any]:
    """(rows,) covered fraction of each row's voxel, by structure."""
    grid = setup.case.density.grid
    return {
        name: coverage_on_grid(coverage, grid).ravel()[indices] for name, coverage in setup.structures.by_name.items()
    }


def _document(
    request: InfluenceRequest, setup: Setup, matrix: ExplicitInfluence, cutoff_mm: float, lost: LeftOut
) -> dict[str, Any]:
    findings = list(setup.findings)
    if not lost.allowed:
        findings.append(
            Finding(
                "warning",
                f"a cut-off of {cutoff_mm:g} mm leaves out {lost.target_mean:.2%} of the targets' mean dose and "
                f"{lost.body_integral:.2%} of the integral dose (0.5 % and 1 % are tolerable)",
            )
        )
    grid = setup.case.density.grid
    return {
        "schema": 1,
        "dicomplan": __version__,
        "disclaimer": DISCLAIMER,
        "format": request.file_format,
        "unit": "Gy of the course per MU of one fraction",
        "engine": "pencil_beam",
        "machine": setup.case.machine.name,
        "fractions": setup.resolved.fractions,
        "grid": {
            "shape": list(grid.shape),
            "spacing_mm": list(grid.spacing_mm),
            "origin_mm": list(grid.origin_mm),
        },
        "voxels": matrix.voxel_count,
        "beamlets": matrix.beamlet_count,
        "nonzeros": matrix.nonzeros,
        "bytes": matrix.bytes,
        "cutoff_mm": cutoff_mm,
        "left_out": {
            "target_mean_percent": 100.0 * lost.target_mean,
            "body_integral_percent": 100.0 * lost.body_integral,
        },
        "beams": [
            {
                "number": one.beam.number,
                "gantry_angle_deg": one.beam.gantry_angle_deg,
                "couch_angle_deg": one.beam.couch_angle_deg,
                "collimator_angle_deg": one.beam.collimator_angle_deg,
                "beamlets": one.count,
            }
            for one in setup.maps
        ],
        "structures": list(setup.structures.by_name),
        "findings": finding_documents(sorted_findings(findings), files=False),
    }
