"""What the report shows of a plan, gathered as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from dicomplan.dose.volume import DoseVolume
from dicomplan.evaluation.hotspots import Spot as HotSpot
from dicomplan.evaluation.hotspots import hot_spots
from dicomplan.evaluation.indices import structure_metrics
from dicomplan.metrics.dvh import DoseSamples, cumulative_dvh
from dicomplan.metrics.sampling import dose_samples
from dicomplan.patient.algebra import combine
from dicomplan.patient.case import Coverage
from dicomplan.patient.coverage import coverage_on_grid
from dicomplan.patient.density import HU_TABLE
from dicomplan.plan.matching import BODY
from dicomplan.planning.voxels import reachable_fraction
from dicomplan.report.values import (
    BeamReport,
    DensityReport,
    DvhCurve,
    FluenceMap,
    HuRow,
    ReportData,
    Spot,
    StructureDrawing,
    StructureDvh,
    StructureKind,
    TargetReport,
)
from dicomplan.sequencing.fluence import fluence_of_segments
from dicomplan.workflow.beam_geometry import beam_depths
from dicomplan.workflow.plan_document import PlanSamples
from dicomplan.workflow.plan_values import Result

_UNREACHED = 1e-3
"""A target of which less than this part lies in air or just under the skin is shown as a whole only."""
_HU_NOTE = (
    "Piecewise linear between the rows. Generic curve, not measured on this scanner: ICRU Reports 44 and 46; "
    "U. Schneider et al., Phys Med Biol 41 (1996) 111."
)


def report_data(
    result: Result, samples: PlanSamples, document: Mapping[str, Any], created: datetime, *, identify: bool
) -> ReportData:
    """All that the report shows. The dose is the final one, or the ideal one where the plan cannot be delivered."""
    setup = result.setup
    shown = result.final if result.final is not None else result.ideal.dose
    return ReportData(
        document=document,
        plan_label=setup.resolved.template.name,
        ct=setup.study.case.ct,
        dose=shown,
        isocenter_mm=setup.isocenter_mm,
        structures=_drawings(result),
        dvhs=_dvhs(result, samples),
        beams=_beams(result),
        targets=_targets(result, samples),
        spots=_spots(result, shown),
        densities=_densities(result),
        hu_table=tuple(HuRow(one.hu, one.mass_g_cm3, one.electron_relative, one.material) for one in HU_TABLE),
        hu_table_note=_HU_NOTE,
        calibration=_calibration(result),
        dose_note=_dose_note(result),
        machine_rows=_machine_rows(result),
        versions=document["versions"],
        created=created.isoformat(sep=" "),
        dose_label="Final dose" if result.final is not None else "Ideal dose (not deliverable)",
        identification=_identification(result) if identify else (),
    )


def _kind(result: Result, name: str) -> StructureKind:
    if name == BODY:
        return "external"
    if name in {target.name for target in result.setup.resolved.targets}:
        return "target"
    return "derived" if name in result.setup.structures.derived else "organ"


def _shown(result: Result, name: str) -> bool:
    """Whether a structure is drawn from the start: large helpers such as rings would hide the rest."""
    return name == BODY or name not in result.setup.structures.derived


def _drawings(result: Result) -> tuple[StructureDrawing, ...]:
    coverages = result.setup.structures.by_name
    return tuple(
        StructureDrawing(name, _kind(result, name), coverage, shown=_shown(result, name))
        for name, coverage in coverages.items()
        if coverage.volume_cc > 0
    )


def _dvhs(result: Result, samples: PlanSamples) -> tuple[StructureDvh, ...]:
    ideal, final = samples.ideal, samples.final
    return tuple(
        StructureDvh(name, _curve(ideal[name]), _curve(final[name]), shown=_shown(result, name) and name != BODY)
        for name in result.setup.structures.by_name
    )


def _curve(samples: DoseSamples | None) -> DvhCurve | None:
    return None if samples is None or samples.volume_cc <= 0 else DvhCurve(*cumulative_dvh(samples))


def _beams(result: Result) -> tuple[BeamReport, ...]:
    setup = result.setup
    machine, body = setup.case.machine, setup.structures.by_name[BODY]
    reports = []
    wanted = result.delivered.sequenced.wanted if result.delivered is not None else ()
    for item, source in zip(result.deliveries, wanted, strict=True):
        pairs = range(source.first_leaf_pair, source.first_leaf_pair + source.fluence_mu.shape[0])
        given = fluence_of_segments(item.segments, source.x_edges_mm, pairs, machine)
        depths = beam_depths(item.beam, setup.case, body)
        reports.append(
            BeamReport(
                delivery=item,
                leaf_boundaries_mm=machine.mlc.leaf_boundaries_mm,
                ssd_mm=depths.source_surface_distance_mm,
                isocenter_depth_mm=depths.isocenter_depth_mm,
                isocenter_radiological_depth_mm=depths.isocenter_radiological_depth_mm,
                ideal_fluence=FluenceMap(source.fluence_mu, source.x_edges_mm, source.y_edges_mm),
                delivered_fluence=FluenceMap(given, source.x_edges_mm, source.y_edges_mm),
            )
        )
    return tuple(reports)


def _targets(result: Result, samples: PlanSamples) -> tuple[TargetReport, ...]:
    """The targets that are not empty, whole and without what lies in air or just under the skin."""
    dose = result.final if result.final is not None else result.ideal.dose
    by_name = samples.final if result.final is not None else samples.ideal
    found = []
    for target in result.setup.resolved.targets:
        whole = result.setup.structures.by_name[target.name]
        of_whole = by_name[target.name]
        if of_whole is None or of_whole.volume_cc <= 0:
            continue
        report = TargetReport(target.name, target.dose_gy, whole.volume_cc, structure_metrics(of_whole))
        part = _part_reached(result, target.name, whole, dose)
        if part is not None:
            of_part = dose_samples(part, dose.dose_gy, dose.grid)
            metrics = structure_metrics(of_part) if of_part.volume_cc > 0 else None
            report = replace(report, optimized_volume_cc=part.volume_cc, optimized=metrics)
        found.append(report)
    return tuple(found)


def _part_reached(result: Result, target: str, whole: Coverage, dose: DoseVolume) -> Coverage | None:
    """The target without what lies in air or just under the skin, on the dose grid; None where nothing of it does.

    A part is taken on the dose grid's voxels, the whole inside its contours: without a difference in volume, two rows
    would show the difference of the two ways to sample as one of dose.
    """
    part = Coverage(dose.grid, reachable_fraction(result.setup.case, target))
    all_of_it = Coverage(dose.grid, coverage_on_grid(whole, dose.grid))
    return part if part.volume_cc < (1.0 - _UNREACHED) * all_of_it.volume_cc else None


def _spots(result: Result, dose: DoseVolume) -> tuple[Spot, ...]:
    coverages = result.setup.structures.by_name
    targets = {one.name: coverages[one.name] for one in result.setup.resolved.targets}
    together = None
    for coverage in targets.values():
        together = coverage if together is None else combine("|", together, coverage)
    assert together is not None
    outside = combine("-", coverages[BODY], together)
    rois = {name: coverages[name] for name in result.setup.resolved.roi_names}
    spots = hot_spots(dose, targets, all_targets=together, outside=outside, structures=rois)
    found = []
    if spots.inside is not None:
        found.append(_spot("Hottest 0.03 cc inside the targets", spots.inside))
    if spots.outside is not None:
        found.append(_spot("Hottest 0.03 cc outside the targets", spots.outside))
    found += [_spot(f"Coldest 0.03 cc of {name}", spot) for name, spot in spots.coldest.items()]
    return tuple(found)


def _spot(label: str, spot: HotSpot) -> Spot:
    return Spot(label, spot.dose_gy, spot.position_mm, spot.structures)


def _densities(result: Result) -> tuple[DensityReport, ...]:
    setup = result.setup
    found = [
        DensityReport(
            one.structure, one.mass_density_g_cm3, setup.structures.by_name[one.structure].volume_cc, "template"
        )
        for one in setup.resolved.density
    ]
    for name, coverage in setup.structures.included.items():
        inside = coverage_on_grid(coverage, setup.case.density.grid)
        values = setup.case.density.mass_g_cm3[inside > 0.5]
        mean = float(values.mean()) if values.size else 0.0
        found.append(DensityReport(name, mean, coverage.volume_cc, "included in the dose, density of the CT (mean)"))
    return tuple(found)


def _calibration(result: Result) -> str:
    one = result.setup.case.machine.calibration
    return (
        f"{one.dose_per_mu_gy:g} Gy per MU in water on the axis at {one.depth_mm:g} mm depth, "
        f"source-surface distance {one.source_surface_distance_mm:g} mm, field {one.field_mm:g} mm x {one.field_mm:g} mm."
    )


def _dose_note(result: Result) -> str:
    """What the final dose is stated to, and how that is got from the kernels, which are those of water."""
    wanted = result.setup.resolved.template.dose
    if wanted.final == "pencil_beam":
        return "Dose to water: pencil beams of water at radiological depth."
    medium = (
        "water kernels are carried on electron density; what they leave per electron is turned into dose to medium by the "
        "medium's electrons per mass"
    )
    if wanted.dose_to == "medium":
        return f"Dose to medium: {medium}."
    return f"Dose to water in the medium: {medium}, and that into dose to water by the ratio of stopping powers."


def _machine_rows(result: Result) -> tuple[tuple[str, str], ...]:
    machine = result.setup.case.machine
    mlc = machine.mlc
    widths = sorted({round(float(width), 3) for width in mlc.leaf_boundaries_mm[1:] - mlc.leaf_boundaries_mm[:-1]})
    return (
        ("Description", machine.description or machine.name),
        ("Energy", f"{machine.beam.nominal_energy_mv:g} MV photons"),
        ("Source-axis distance", f"{machine.source_axis_distance_mm:g} mm"),
        ("MLC", f"{mlc.leaf_pairs} leaf pairs of {', '.join(f'{width:g}' for width in widths)} mm"),
        ("Leaf span of a bank", f"{mlc.leaf_span_mm:g} mm"),
        ("Leaf transmission", f"{100.0 * mlc.transmission:g} %"),
        (
            "Least meterset and area of a segment",
            f"{machine.min_segment_meterset_mu:g} MU, {machine.min_segment_area_cm2:g} cm²",
        ),
    )


def _identification(result: Result) -> tuple[tuple[str, str], ...]:
    attributes = result.setup.study.source.attributes
    pairs = (("Patient", "PatientName"), ("Patient ID", "PatientID"), ("Study date", "StudyDate"))
    return tuple((label, str(attributes.get(keyword, "") or "")) for label, keyword in pairs)
