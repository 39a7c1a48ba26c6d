"""The treatment beams of an RTPLAN as segments of one machine: static, step-and-shoot and sliding-window fields."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicomplan.beams.delivery import TRAVEL_STEP_MM, Aperture, Beam, BeamDelivery, Segment, stills, travel_mm
from dicomplan.dicom import attributes as at
from dicomplan.dicom.control_points import ControlPoint
from dicomplan.dicom.files import DicomObject, pydicom_silenced
from dicomplan.dicom.plan_record import PlanRecord, RecordedBeam
from dicomplan.errors import InputError, MachineError
from dicomplan.events import Finding
from dicomplan.machine.model import MachineModel

FloatArray = NDArray[np.float64]

__all__ = ["TRAVEL_STEP_MM", "PlannedBeam", "planned_beams"]

_SAME = 1e-6
_BOUNDARY_MM = 0.1  # leaf boundaries agree within this: vendors round them to 0.1 mm
_DISTANCE_MM = 0.5
_ENERGY_MV = 0.05
_TURNED = ("TableTopPitchAngle", "TableTopRollAngle", "TableTopEccentricAngle", "GantryPitchAngle")
_CHOOSE = "choose the plan's machine with --machine"


@dataclass(frozen=True)
class PlannedBeam:
    """A beam as it is calculated: its delivery (metersets of one fraction) and what the plan states about it.

    ``technique`` is ``static``, ``step and shoot`` or ``sliding window``; of the last, ``delivery`` holds steps of
    :data:`TRAVEL_STEP_MM` at most, ``control_points`` counts the stored ones; ``as_stored`` has one segment for each
    interval of rising meterset, moving or not. ``stated_dose_gy``: BeamDose of one fraction (None where absent).
    """

    delivery: BeamDelivery
    as_stored: BeamDelivery
    technique: str
    control_points: int
    stated_dose_gy: float | None


@pydicom_silenced()
def planned_beams(
    item: DicomObject, record: PlanRecord, machine: MachineModel
) -> tuple[tuple[PlannedBeam, ...], tuple[Finding, ...]]:
    """The beams that treat, in the order of the fraction group, on ``machine``; and what is odd about them.

    Leaves and jaws move linearly between control points while the meterset rises (PS3.3 C.8.8.14.5): a moving shape
    becomes shapes at the middle of equal steps. A beam without an MLC is one whose leaves are all withdrawn.

    Raises InputError for what is not calculated (``record.obstacles``), moving gantry, collimator or couch, a pitched or
    rolled table, metersets that start late or fall, and positions that are nowhere stated or overlap. Raises MachineError
    where the plan is of another machine: leaf boundaries, jaws, energy, distance of source and axis.
    """
    file = item.file
    if record.obstacles:
        raise InputError(f"the dose of this plan cannot be calculated: {_reasons(record)}", file=file)
    recorded = {beam.number: beam for beam in record.beams}
    with at.naming(file):
        stored = {at.whole(beam, "BeamNumber", file=file): beam for beam in at.items(item.header, "BeamSequence")}
        beams = []
        findings: list[Finding] = []
        for number in record.treatment_beam_numbers:
            beams.append(_beam(recorded[number], stored[number], machine, file, findings))
    if not beams:
        raise InputError("the plan has no treatment beams", file=file, tag=at.tag_name("ReferencedBeamSequence"))
    return tuple(beams), tuple(dict.fromkeys(findings))


def _reasons(record: PlanRecord) -> str:
    """Every obstacle once, with the beams that have it."""
    of_beams: dict[str, list[int]] = {}
    for beam in record.beams:
        for reason in beam.obstacles:
            of_beams.setdefault(reason, []).append(beam.number)
    count = sum(len(numbers) for numbers in of_beams.values())
    reasons = list(record.obstacles[: len(record.obstacles) - count])
    for reason, numbers in of_beams.items():
        beams = f"beam{'s' if len(numbers) > 1 else ''} {', '.join(str(number) for number in numbers)}"
        reasons.append(f"{beams}: {reason}")
    return "; ".join(reasons)


def _beam(
    beam: RecordedBeam, stored: Dataset, machine: MachineModel, file: str, findings: list[Finding]
) -> PlannedBeam:
    number, points = beam.number, beam.control_points
    unit = at.text(stored, "PrimaryDosimeterUnit").upper()
    if unit not in ("", "MU"):
        raise InputError(f"beam {number}: found {unit}, expected MU", tag=at.tag_name("PrimaryDosimeterUnit"))
    check_machine(beam, stored, machine, file)
    _check_table(stored, number, file)
    for mode in at.items(stored, "PrimaryFluenceModeSequence"):
        if at.text(mode, "FluenceMode").upper() == "NON_STANDARD":
            kind = at.text(mode, "FluenceModeID") or "without name"
            message = f"the plan states a fluence mode ({kind}); machine '{machine.name}' is used as it is"
            findings.append(Finding("warning", message, file=file, tag=at.tag_name("FluenceMode")))
    weights = _weights(points, number)
    final = at.optional_number(stored, "FinalCumulativeMetersetWeight", file=file) or weights[-1]
    if final <= 0 or weights[-1] <= 0:
        raise InputError(f"beam {number}: never rises", tag=at.tag_name("CumulativeMetersetWeight"))
    if abs(final - weights[-1]) > 1e-4 * final:
        raise InputError(
            f"beam {number}: found {final:g}, the last control point has {weights[-1]:g}",
            tag=at.tag_name("FinalCumulativeMetersetWeight"),
        )
    meterset = beam.meterset_mu or 0.0
    if meterset < 0:
        raise InputError(f"beam {number}: found {meterset:g}, expected MU", tag=at.tag_name("BeamMeterset"))
    if meterset == 0:
        findings.append(
            Finding("warning", f"beam {number} has a meterset of 0", file=file, tag=at.tag_name("BeamMeterset"))
        )
    segments: list[Segment] = []
    leafless = "MLCX" not in beam.leaf_pairs
    if leafless:
        findings.append(
            Finding("info", f"beam {number} has no MLC: its leaves are taken as withdrawn", file=file, tag=None)
        )
    for (start, low), (end, high) in itertools.pairwise(zip(points, weights, strict=True)):
        if high <= low:
            continue
        _check_still(start, points[0], number)
        _check_still(end, points[0], number)
        segments.append(interval_segment(start, end, meterset * (high - low) / final, machine, number))
    first = points[0]
    if len(first.isocenter_mm) != 3:
        raise InputError(f"beam {number}: is missing", tag=at.tag_name("IsocenterPosition"))
    x, y, z = first.isocenter_mm
    gantry, collimator, couch = _angles(first, number)
    geometry = Beam(number, beam.name, gantry, collimator, couch, (x, y, z), machine.source_axis_distance_mm)
    rates = [rate for point in at.items(stored, "ControlPointSequence")
             if (rate := at.optional_number(point, "DoseRateSet", file=file))]  # fmt: skip
    as_stored = BeamDelivery(geometry, tuple(segments), max(rates, default=None))
    delivery = BeamDelivery(geometry, stills(segments), as_stored.dose_rate_mu_min)
    return PlannedBeam(delivery, as_stored, beam.technique, len(points), beam.dose_gy)


def _angles(point: ControlPoint, number: int) -> tuple[float, float, float]:
    """Gantry, collimator and couch angle; what was never stated is refused but for the couch, which may be left out."""
    for angle, keyword in (
        (point.gantry_angle_deg, "GantryAngle"),
        (point.collimator_angle_deg, "BeamLimitingDeviceAngle"),
    ):
        if angle is None:
            raise InputError(f"beam {number}: is missing", tag=at.tag_name(keyword))
    return point.gantry_angle_deg or 0.0, point.collimator_angle_deg or 0.0, point.couch_angle_deg or 0.0


def check_machine(beam: RecordedBeam, stored: Dataset, machine: MachineModel, file: str) -> None:
    """Raises MachineError where energy, distance of source and axis, jaws or leaf boundaries are not the machine's."""
    number = beam.number
    energies = {point.nominal_energy for point in beam.control_points if point.nominal_energy is not None}
    if not energies:
        raise InputError(f"beam {number}: is missing", tag=at.tag_name("NominalBeamEnergy"))
    for energy in sorted(energies):
        if abs(energy - machine.beam.nominal_energy_mv) > _ENERGY_MV:
            raise _other_machine(
                f"beam {number} is of {energy:g} MV, machine '{machine.name}' of {machine.beam.nominal_energy_mv:g} MV",
                file,
                "NominalBeamEnergy",
            )
    distance = at.optional_number(stored, "SourceAxisDistance", file=file)
    if distance is not None and abs(distance - machine.source_axis_distance_mm) > _DISTANCE_MM:
        raise _other_machine(
            f"beam {number} has its source {distance:g} mm from the axis, machine '{machine.name}' "
            f"{machine.source_axis_distance_mm:g} mm",
            file,
            "SourceAxisDistance",
        )
    kinds = set(beam.leaf_pairs)
    for axis, jaw in (("X", machine.jaw_x), ("Y", machine.jaw_y)):
        names = {axis, f"ASYM{axis}"}
        if jaw is None and kinds & names:
            raise _other_machine(
                f"beam {number} sets {axis} jaws, machine '{machine.name}' has none", file, "RTBeamLimitingDeviceType"
            )
        if jaw is not None and not kinds & names:
            raise _other_machine(
                f"beam {number} sets no {axis} jaws, machine '{machine.name}' has them",
                file,
                "RTBeamLimitingDeviceType",
            )
    if "MLCX" in kinds:
        _check_leaves(stored, number, machine, file)


def _check_leaves(stored: Dataset, number: int, machine: MachineModel, file: str) -> None:
    ours = machine.mlc.leaf_boundaries_mm
    for device in at.items(stored, "BeamLimitingDeviceSequence"):
        if at.text(device, "RTBeamLimitingDeviceType").upper() != "MLCX":
            continue
        pairs = at.whole(device, "NumberOfLeafJawPairs", file=file)
        if pairs != machine.mlc.leaf_pairs:
            raise _other_machine(
                f"beam {number} has {pairs} leaf pairs, machine '{machine.name}' {machine.mlc.leaf_pairs}",
                file,
                "NumberOfLeafJawPairs",
            )
        theirs = np.array(at.numbers(device, "LeafPositionBoundaries", pairs + 1, file=file))
        apart = np.abs(theirs - ours)
        worst = int(np.argmax(apart))
        if apart[worst] > _BOUNDARY_MM:
            raise _other_machine(
                f"beam {number} has a leaf boundary at {theirs[worst]:g} mm, machine '{machine.name}' at "
                f"{ours[worst]:g} mm",
                file,
                "LeafPositionBoundaries",
            )


def _other_machine(message: str, file: str, keyword: str) -> MachineError:
    error = MachineError(message, file=file, hint=_CHOOSE)
    error.tag = at.tag_name(keyword)
    return error


def _check_table(stored: Dataset, number: int, file: str) -> None:
    """A pitched, rolled or eccentrically turned table, and a pitched gantry, are not calculated."""
    for point in at.items(stored, "ControlPointSequence"):
        for keyword in _TURNED:
            angle = at.optional_number(point, keyword, file=file)
            if angle is not None and abs(math.remainder(angle, 360.0)) > _SAME:
                raise InputError(f"beam {number}: found {angle:g}, expected 0", tag=at.tag_name(keyword))


def _weights(points: Sequence[ControlPoint], number: int) -> list[float]:
    tag = at.tag_name("CumulativeMetersetWeight")
    weights = [0.0 if point.cumulative_weight is None else point.cumulative_weight for point in points]
    if abs(weights[0]) > _SAME:
        raise InputError(f"beam {number}: begins with {weights[0]:g}, expected 0", tag=tag)
    for index, (low, high) in enumerate(itertools.pairwise(weights)):
        if high < low:
            raise InputError(f"beam {number}: falls at control point {index + 1}", tag=tag)
    return weights


def _check_still(point: ControlPoint, first: ControlPoint, number: int) -> None:
    """Gantry, collimator, couch and isocentre stay where they are, modulo full turns."""
    for ours, theirs, keyword in (
        (point.gantry_angle_deg, first.gantry_angle_deg, "GantryAngle"),
        (point.collimator_angle_deg, first.collimator_angle_deg, "BeamLimitingDeviceAngle"),
        (point.couch_angle_deg, first.couch_angle_deg, "PatientSupportAngle"),
    ):
        if abs(math.remainder((ours or 0.0) - (theirs or 0.0), 360.0)) > _SAME:
            raise InputError(
                f"beam {number} moves from {theirs or 0.0:g} to {ours or 0.0:g} degrees: only beams that stand still are "
                "calculated",
                tag=at.tag_name(keyword),
            )
    if point.isocenter_mm != first.isocenter_mm:
        raise InputError(f"beam {number} changes its isocentre", tag=at.tag_name("IsocenterPosition"))


def interval_segment(
    start: ControlPoint, end: ControlPoint, meterset_mu: float, machine: MachineModel, number: int
) -> Segment:
    """What happens between two control points, positions in mm at isocentre; ``meterset_mu`` of one fraction.

    Raises InputError for positions that are missing, overlap or are of another number than the machine's.
    """
    before, after = ({kind: np.array(values) for kind, values in at_end.items()} for at_end in _both(start, end))
    if any(len(before[kind]) != len(after[kind]) for kind in after):
        raise InputError(
            f"beam {number}: the number of positions changes between control points",
            tag=at.tag_name("LeafJawPositions"),
        )
    first, last = _aperture(before, machine, number), _aperture({**before, **after}, machine, number)
    return Segment(first, meterset_mu, last if travel_mm(first, last) > _SAME else None)


def _both(
    start: ControlPoint, end: ControlPoint
) -> tuple[Mapping[str, tuple[float, ...]], Mapping[str, tuple[float, ...]]]:
    # what a control point is first to state held before it, too
    return {**end.positions_mm, **start.positions_mm}, end.positions_mm


def _aperture(positions: Mapping[str, FloatArray], machine: MachineModel, number: int) -> Aperture:
    mlc = machine.mlc
    leaves = positions.get("MLCX")
    if leaves is None:
        away = np.full(mlc.leaf_pairs, mlc.retraction_mm)
        leaves = np.concatenate([-away, away])
    if len(leaves) != 2 * mlc.leaf_pairs:
        raise InputError(
            f"beam {number}: found {len(leaves)} leaf positions, expected {2 * mlc.leaf_pairs}",
            tag=at.tag_name("LeafJawPositions"),
        )
    banks = leaves.reshape(2, -1)
    if (banks[0] > banks[1] + _SAME).any():
        raise InputError(f"beam {number}: opposed leaves overlap", tag=at.tag_name("LeafJawPositions"))
    return Aperture(
        leaf_positions_mm=banks,
        jaw_y_mm=_jaw(positions, "Y", number) if machine.jaw_y is not None else None,
        jaw_x_mm=_jaw(positions, "X", number) if machine.jaw_x is not None else None,
    )


def _jaw(positions: Mapping[str, FloatArray], axis: str, number: int) -> tuple[float, float]:
    for kind in (f"ASYM{axis}", axis):
        if len(positions.get(kind, ())) == 2:
            first, second = (float(value) for value in positions[kind])
            if first > second:
                raise InputError(f"beam {number}: {axis} jaws overlap", tag=at.tag_name("LeafJawPositions"))
            return first, second
    raise InputError(f"beam {number}: positions of the {axis} jaws are missing", tag=at.tag_name("LeafJawPositions"))
