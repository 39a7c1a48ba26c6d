"""``plan.json``: what was planned, how well, and how, as one document (INTERFACE.md)."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import metadata
from typing import Any

import yaml

from dicomplan import DISCLAIMER, __version__
from dicomplan.dose.volume import DoseVolume
from dicomplan.evaluation.complexity import beam_complexity, least_gap_share, plan_complexity
from dicomplan.evaluation.indices import conformity_index, homogeneity_index, structure_metrics
from dicomplan.evaluation.scorecard import GoalResult, score
from dicomplan.events import Finding
from dicomplan.metrics.dvh import DoseSamples
from dicomplan.metrics.sampling import dose_samples
from dicomplan.plan.matching import BODY
from dicomplan.plan.template import StructureGoal
from dicomplan.planning.exploring import Front
from dicomplan.planning.normalizing import NormalizationResult
from dicomplan.planning.proving import Verdict
from dicomplan.planning.robustness import ShiftedValues
from dicomplan.workflow.plan_values import Result

_LIBRARIES = ("numpy", "scipy", "numba", "pydicom", "rt-utils", "contourpy")
_HOT_SPOT, _HOT_SPOT_CC = 1.15, 0.03
"""A dose beyond this part of the highest level in so many cc of BODY is worth a warning, whatever the goals allow."""
_COLD = 0.9
"""A target whose D95% is below this part of its level is worth a warning, whatever the goals ask for."""
_UNNOTICED = 0.002
"""A dose lower by so little takes no robustness from a plan that anybody would miss."""
_MOST_MU_PER_PRESCRIPTION = 5.0
"""Metersets beyond so many times those of an open field are worth a warning: much modulation, much leakage."""


@dataclass(frozen=True)
class PlanSamples:
    """The dose in every structure, by canonical name: ideal and final (None for each where nothing was computed)."""

    ideal: Mapping[str, DoseSamples | None]
    final: Mapping[str, DoseSamples | None]


def plan_samples(result: Result) -> PlanSamples:
    """Ideal and final dose in every structure."""
    return PlanSamples(_samples_of(result, result.ideal.dose), _samples_of(result, result.final))


def _samples_of(result: Result, dose: DoseVolume | None) -> dict[str, DoseSamples | None]:
    coverages = result.setup.structures.by_name
    if dose is None:
        return dict.fromkeys(coverages)
    return {name: dose_samples(coverage, dose.dose_gy, dose.grid) for name, coverage in coverages.items()}


def judged(result: Result, samples: PlanSamples) -> tuple[GoalResult, ...]:
    """The scorecard: hard constraints, then goals; judged on the final dose (nothing, where there is none)."""
    resolved = result.setup.resolved
    if result.final is None:
        return ()
    return score((*resolved.constraints, *resolved.goals), samples.ideal, samples.final)


def versions() -> dict[str, str]:
    """Versions of what computed the plan."""
    found = {"dicomplan": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def plan_document(
    result: Result,
    status: str,
    samples: PlanSamples,
    scores: Sequence[GoalResult],
    findings: Sequence[Finding],
    *,
    identify: bool,
    created: datetime,
) -> dict[str, Any]:
    """The document without its timings; it names neither patient nor input files unless ``identify``.

    ``findings``: on the input and what was written; those on the plan itself stand before them.
    """
    setup, resolved = result.setup, result.setup.resolved
    grid = setup.case.density.grid
    ideal, final = samples.ideal, samples.final
    segments = sum(len(item.segments) for item in result.deliveries)
    total_mu = sum(item.meterset_mu for item in result.deliveries)
    notes = [*_plan_findings(result, samples, total_mu), *result.findings, *findings]
    document: dict[str, Any] = {
        "schema": 1,
        "dicomplan": __version__,
        "status": status,
        "disclaimer": DISCLAIMER,
        "created": created.isoformat(),
        "inputs": [asdict(item) for item in setup.study.source.inputs],
        "template": yaml.safe_load(resolved.template.source),
        "machine": setup.case.machine.name,
        "prescription": {
            "fractions": resolved.fractions,
            "targets": {target.name: target.dose_gy for target in resolved.targets},
        },
        "grid": {"shape": list(grid.shape), "spacing_mm": list(grid.spacing_mm)},
        "patient_position": setup.case.patient_position,
        "engines": {
            "influence": "pencil_beam",
            "final": resolved.template.dose.final,
            "dose_to": resolved.template.dose.dose_to,
        },
        "isocenter_mm": list(setup.isocenter_mm),
        "beams": [
            {
                "number": item.beam.number,
                "name": item.beam.name,
                "gantry_angle_deg": item.beam.gantry_angle_deg,
                "couch_angle_deg": item.beam.couch_angle_deg,
                "collimator_angle_deg": item.beam.collimator_angle_deg,
                "segments": len(item.segments),
                "meterset_mu": item.meterset_mu,
                **_delivery_facts(result, index),
            }
            for index, item in enumerate(result.deliveries)
        ],
        "influence": {
            "form": "factorised",
            "voxels": result.influence.sampled_count,
            "beamlets": result.influence.beamlet_count,
            # nothing is stored element by element
            "nonzeros": 0,
            "bytes": result.influence.bytes,
        },
        "optimization": {
            "iterations": result.ideal.iterations,
            "objective": list(result.ideal.objective),
            "objective_metersets": list(result.delivered.passes) if result.delivered is not None else [],
            "generated_segments": result.delivered is not None and result.delivered.generated,
            "goal_losses": list(result.delivered.goal_losses) if result.delivered is not None else [],
        },
        "structures": {
            name: _structure(coverage.volume_cc, ideal[name], final[name])
            for name, coverage in setup.structures.by_name.items()
        },
        "goals": [item.as_dict() | {"at_most": item.at_most} for item in scores],
        "quality": _quality(result, final, segments, total_mu),
        "warnings": [_warning(finding, identify=identify) for finding in notes],
        "violations": list(result.violations),
        "versions": versions(),
    }
    if result.verdict is not None:
        document["feasibility"] = _feasibility(result.verdict)
    if result.shifted is not None:
        document["robustness"] = _robustness(result.shifted, scores)
    if result.front is not None:
        document["exploration"] = _exploration(result.front, result.ideal.values)
    if result.normalization is not None:
        document["prescription"]["normalize"] = asdict(result.normalization)
    return document


def _feasibility(verdict: Verdict) -> dict[str, Any]:
    """Whether any plan could hold the hard constraints; numbers that are not finite are None."""
    return {
        "proven_infeasible": verdict.infeasible,
        "least_give_percent": 100.0 * verdict.share if math.isfinite(verdict.share) else None,
        "enough_percent": 100.0 * verdict.reached,
        "fighting": [
            {
                "structure": goal.structure,
                "goal": goal.goal.text,
                "alone_gy": alone_gy if math.isfinite(alone_gy) else None,
            }
            for goal, alone_gy in verdict.fighting
        ],
    }


def _robustness(found: ShiftedValues, scores: Sequence[GoalResult]) -> dict[str, Any]:
    """Each goal as planned, with the isocentre moved by each shift, its worst and its mean over all of these."""
    nominal = {(one.structure, one.goal): one.achieved for one in scores}
    goals = []
    for goal in found.values[0] if found.values else ():
        own = nominal.get((goal.structure, goal.goal.text))
        moved = [values[goal] for values in found.values if goal in values]
        every = moved if own is None else [own, *moved]
        goals.append(
            {
                "structure": goal.structure,
                "goal": goal.goal.text,
                "kind": "hard" if goal.hard else "goal",
                "unit": goal.goal.unit,
                "limit": goal.goal.limit,
                "at_most": goal.goal.at_most,
                "nominal": own,
                "shifted": moved,
                "worst": max(every) if goal.goal.at_most else min(every),
                "expected": sum(every) / len(every),
                "met_in": sum(goal.goal.met(value) for value in every),
                "of": len(every),
            }
        )
    return {
        "shifts_mm": [list(shift) for shift in found.robust.shifts_mm],
        "planned_for": found.robust.goals,
        "goals": goals,
    }


def _exploration(front: Front, own: Mapping[StructureGoal, float]) -> dict[str, Any]:
    """The front: its two goals, the plan's own values, and each plan with the values of all goals."""

    def values(found: Mapping[StructureGoal, float]) -> list[dict[str, Any]]:
        return [
            {
                "structure": goal.structure,
                "goal": goal.goal.text,
                "kind": "hard" if goal.hard else "goal",
                "value": value,
                "unit": goal.goal.unit,
                "met": goal.goal.met(value),
            }
            for goal, value in found.items()
        ]

    def pair(found: Mapping[StructureGoal, float]) -> list[float]:
        return [found[goal] for goal in front.goals]

    return {
        "goals": [
            {
                "structure": goal.structure,
                "goal": goal.goal.text,
                "metric": goal.goal.metric.name,
                "unit": goal.goal.unit,
                "limit": goal.goal.limit,
                "at_most": goal.goal.at_most,
            }
            for goal in front.goals
        ],
        "dose": "accurate dose of the optimised fluence, before sequencing",
        "plan": pair(own),
        "points": [
            {"pair": pair(found), "dominated": dominated, "values": values(found)}
            for found, dominated in zip(front.values, front.dominated, strict=True)
        ],
    }


def _delivery_facts(result: Result, index: int) -> dict[str, Any]:
    """Complexity of a beam; of one that moves also its dose rate, what it leaves in its field at least, and how leaves go."""
    item = result.deliveries[index]
    found = beam_complexity(item, result.setup.case.machine)
    facts: dict[str, Any] = {
        "delivery": "sliding_window" if item.moving else "step_and_shoot",
        "modulation_complexity_score": found.modulation_complexity_score,
        "average_leaf_pair_opening_mm": found.average_leaf_pair_opening_mm,
        "edge_metric_per_mm": found.edge_metric_per_mm,
    }
    if item.moving and result.delivered is not None and result.delivered.sequenced.floors_mu:
        sequenced = result.delivered.sequenced
        scale = item.meterset_mu / sequenced.deliveries[index].meterset_mu
        facts["dose_rate_mu_min"] = item.dose_rate_mu_min
        facts["floor_mu"] = sequenced.floors_mu[index] * scale
        facts["leaves_synchronised"] = sequenced.synchronised[index]
    return facts


def _structure(volume_cc: float, ideal: DoseSamples | None, final: DoseSamples | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"volume_cc": volume_cc}
    for key, samples in (("ideal", ideal), ("final", final)):
        entry[key] = structure_metrics(samples) if samples is not None and samples.volume_cc > 0 else {}
    return entry


def _quality(result: Result, final: Mapping[str, DoseSamples | None], segments: int, total_mu: float) -> dict[str, Any]:
    resolved = result.setup.resolved
    highest = resolved.targets[0]
    quality: dict[str, Any] = {"total_mu": total_mu, "segments": segments}
    target, body = final[highest.name], final[BODY]
    if target is not None and body is not None and target.volume_cc > 0:
        quality["conformity_index"] = conformity_index(target, body, highest.dose_gy)
        if structure_metrics(target)["D50%_gy"] > 0:
            quality["homogeneity_index"] = homogeneity_index(target)
        quality["mu_per_gy"] = total_mu / (highest.dose_gy / resolved.fractions)
    if result.deliveries:
        found = plan_complexity(result.deliveries, result.setup.case.machine)
        quality["modulation_complexity_score"] = found.modulation_complexity_score
        quality["average_leaf_pair_opening_mm"] = found.average_leaf_pair_opening_mm
        quality["edge_metric_per_mm"] = found.edge_metric_per_mm
        quality["least_gap_percent"] = 100.0 * least_gap_share(result.deliveries, result.setup.case.machine)
    if result.delivered is not None:
        errors = [error.relative_l1 for error in result.delivered.sequenced.errors]
        quality["sequencing_error_percent"] = 100.0 * max(errors, default=0.0)
    return quality


def normalization_findings(scaling: NormalizationResult | None, *, robust: bool) -> list[Finding]:
    """What there is to say of a normalisation; ``robust``: the plan was made for set-up errors as well."""
    found = []
    if scaling is not None and scaling.limited_by is not None:
        found.append(
            Finding(
                "warning",
                f"normalisation by {scaling.factor:.4f} instead of {scaling.wanted:.4f}: held back by {scaling.limited_by}",
            )
        )
    if scaling is not None and robust and scaling.factor < 1.0 - _UNNOTICED:
        found.append(
            Finding(
                "warning",
                f"normalisation looks at the plan as it is: all metersets times {scaling.factor:.4f} takes from the targets what "
                "planning for set-up errors had given them",
            )
        )
    return found


def cold_targets(targets: Mapping[str, tuple[float, DoseSamples | None]]) -> list[Finding]:
    """A warning for each target of which more than 5 % get far less than its level (Gy), whatever the goals ask for."""
    found = []
    for name, (level_gy, inside) in targets.items():
        if inside is None or inside.volume_cc <= 0:
            continue
        reached = inside.hottest_gy(0.95 * inside.volume_cc)
        if reached < _COLD * level_gy:
            share = f"{100.0 * reached / level_gy:.0f} % of its level"
            found.append(Finding("warning", f"cold target: D95% of {name} is {reached:.1f} Gy, {share}"))
    return found


def _plan_findings(result: Result, samples: PlanSamples, total_mu: float) -> list[Finding]:
    """What the plan itself gives rise to say."""
    resolved, machine = result.setup.resolved, result.setup.case.machine
    found = normalization_findings(result.normalization, robust=result.shifted is not None)
    open_field = resolved.highest_level_gy / resolved.fractions / machine.calibration.dose_per_mu_gy
    if total_mu > _MOST_MU_PER_PRESCRIPTION * open_field:
        found.append(
            Finding(
                "warning",
                f"{total_mu:.0f} MU a fraction are more than {_MOST_MU_PER_PRESCRIPTION:g} times the "
                f"{open_field:.0f} MU of an open field: leakage counts",
            )
        )
    body = samples.final.get(BODY)
    hottest = 0.0 if body is None or body.volume_cc <= 0 else body.hottest_gy(_HOT_SPOT_CC)
    if body is not None and hottest > _HOT_SPOT * resolved.highest_level_gy:
        found.append(
            Finding(
                "warning",
                f"hot spot: {_HOT_SPOT_CC:g} cc of {BODY} receive {hottest:.1f} Gy or more, "
                f"{100.0 * hottest / resolved.highest_level_gy:.0f} % of the highest level",
            )
        )
    found += cold_targets({one.name: (one.dose_gy, samples.final.get(one.name)) for one in resolved.targets})
    if result.shifted is not None:
        for number, values in enumerate(result.shifted.values, start=1):
            broken = [goal for goal, value in values.items() if goal.hard and not goal.goal.met(value)]
            if broken:
                shift = ", ".join(f"{step:g}" for step in result.shifted.robust.shifts_mm[number - 1])
                named = ", ".join(f"{goal.structure} {goal.goal.text}" for goal in broken)
                found.append(
                    Finding("warning", f"with the isocentre moved by ({shift}) mm a hard limit is broken: {named}")
                )
    outside = [
        name
        for name, inside in samples.final.items()
        if inside is not None and inside.outside_cc > 0.01 * inside.volume_cc and name != BODY
    ]
    if outside:
        found.append(Finding("warning", f"more than 1 % lies outside of the dose grid of: {', '.join(outside)}"))
    return found


def _warning(finding: Finding, *, identify: bool) -> dict[str, str]:
    entry = {"severity": str(finding.severity), "message": finding.message}
    if finding.tag:
        entry["tag"] = finding.tag
    if identify and finding.file:
        entry["file"] = finding.file
    return entry
