"""Whether a machine could deliver an RTPLAN of whatever technique: its control points against the machine's limits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from pydicom.dataset import Dataset

from dicomplan.beams.delivery import Beam, BeamDelivery, Segment
from dicomplan.beams.limits import violations
from dicomplan.dicom import attributes as at
from dicomplan.dicom.control_points import ControlPoint
from dicomplan.dicom.files import DicomObject, pydicom_silenced
from dicomplan.dicom.plan_record import PlanRecord, RecordedBeam
from dicomplan.dicom.planned_beams import check_machine, interval_segment
from dicomplan.errors import InputError, MachineError
from dicomplan.events import Finding
from dicomplan.machine.model import MachineModel

_POSITIONS = at.tag_name("LeafJawPositions")


@pydicom_silenced()
def deliverability_findings(item: DicomObject, record: PlanRecord, machine: MachineModel) -> tuple[Finding, ...]:
    """What of a plan the machine could not deliver, as errors; what is not looked at, as notes.

    The treatment beams of photons are looked at, with :func:`dicomplan.beams.limits.violations` the one judge. A beam of
    another machine (energy, distance, jaws, leaves) is one error. Of an arc every control point is looked at, its
    collisions included, but not the speed of leaves, which the gantry's decides about.
    """
    findings: list[Finding] = []
    stored = {}
    with at.naming(item.file):
        for dataset in at.items(item.header, "BeamSequence"):
            stored[at.whole(dataset, "BeamNumber", file=item.file)] = dataset
    named = set(record.treatment_beam_numbers)
    for beam in record.beams:
        where = f"beam {beam.number} ({beam.name})"
        if beam.number not in named:
            findings.append(Finding("info", f"{where} does not treat: limits are not looked at", file=item.file))
        elif beam.radiation_type != "PHOTON":
            kind = beam.radiation_type or "no stated radiation type"
            findings.append(Finding("info", f"{where} is of {kind}: limits are not looked at", file=item.file))
        else:
            findings += _of_beam(beam, stored[beam.number], machine, item.file)
    return tuple(dict.fromkeys(findings))


def _of_beam(beam: RecordedBeam, stored: Dataset, machine: MachineModel, file: str) -> Iterator[Finding]:
    try:
        check_machine(beam, stored, machine, file)
        delivery = _delivery(beam, stored, machine, file)
    except MachineError as error:
        message = f"{error.message}: it cannot be delivered on machine '{machine.name}'"
        yield Finding("error", message, file=file, tag=error.tag)
        return
    except InputError as error:
        yield Finding("error", f"control points: {error.message}", file=file, tag=error.tag)
        return
    if beam.meterset_mu is None:
        message = f"beam {beam.number} ({beam.name}) has no meterset: it is not looked at"
        yield Finding("info", message, file=file, tag=at.tag_name("BeamMeterset"))
    limits = _limits_for(beam, machine)
    found = list(violations(delivery, limits))
    for angles in {_angles(point) for point in beam.control_points} - {_angles(beam.control_points[0])}:
        turned = replace(delivery.beam, gantry_angle_deg=angles[0], couch_angle_deg=angles[2])
        bare = replace(machine, jaw_x=None, jaw_y=None, min_segment_meterset_mu=0.0)
        found += [text for text in violations(BeamDelivery(turned, delivery.segments[:1]), bare) if "couch" in text]
    for text in dict.fromkeys(found):
        yield Finding("error", text, file=file, tag=_POSITIONS)


def _limits_for(beam: RecordedBeam, machine: MachineModel) -> MachineModel:
    """The machine without the limits that this beam does not say enough about."""
    if beam.meterset_mu is None:
        machine = replace(machine, min_segment_meterset_mu=0.0)
    if beam.meterset_mu is not None and beam.technique not in ("arc", "VMAT"):
        return machine
    jaws = [None if jaw is None else replace(jaw, max_speed_mm_s=0.0) for jaw in (machine.jaw_x, machine.jaw_y)]
    leaves = replace(machine.mlc, max_speed_mm_s=0.0)
    return replace(machine, mlc=leaves, jaw_x=jaws[0], jaw_y=jaws[1])


def _delivery(beam: RecordedBeam, stored: Dataset, machine: MachineModel, file: str) -> BeamDelivery:
    """The control points as segments, one for each interval in which the meterset rises."""
    points = beam.control_points
    weights = [point.cumulative_weight or 0.0 for point in points]
    scale = (beam.meterset_mu or 0.0) / weights[-1] if weights and weights[-1] > 0 else 0.0
    segments: list[Segment] = []
    for (start, low), (end, high) in itertools.pairwise(zip(points, weights, strict=True)):
        if high > low:
            segments.append(interval_segment(start, end, scale * (high - low), machine, beam.number))
    first = points[0] if points else None
    if first is None or not segments:
        raise InputError(f"beam {beam.number} has no meterset that rises", tag=at.tag_name("CumulativeMetersetWeight"))
    gantry, collimator, couch = _angles(first)
    x, y, z = first.isocenter_mm if len(first.isocenter_mm) == 3 else (0.0, 0.0, 0.0)
    geometry = Beam(beam.number, beam.name, gantry, collimator, couch, (x, y, z), machine.source_axis_distance_mm)
    rates = [at.optional_number(point, "DoseRateSet", file=file) for point in at.items(stored, "ControlPointSequence")]
    return BeamDelivery(geometry, tuple(segments), max((rate for rate in rates if rate), default=None))


def _angles(point: ControlPoint) -> tuple[float, float, float]:
    return point.gantry_angle_deg or 0.0, point.collimator_angle_deg or 0.0, point.couch_angle_deg or 0.0
