"""Write an RTPLAN: step-and-shoot segments with two control points each, or sliding windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import RTPlanStorage, RTStructureSetStorage

from dicomplan.beams.delivery import Aperture, BeamDelivery
from dicomplan.dicom.decimals import decimal_text, short_text
from dicomplan.dicom.files import pydicom_silenced
from dicomplan.dicom.identity import Identity
from dicomplan.dicom.objects import new_object, save
from dicomplan.dicom.source import StudySource
from dicomplan.geometry.frames import PATIENT_POSITIONS
from dicomplan.machine.model import MachineModel
from dicomplan.plan.template import Prescription

SERIES_NUMBER = 1002
"""Series number of plans that dicomplan writes."""
POSITION_DECIMALS = 2
"""Leaf and jaw positions are printed to 0.01 mm, ten times finer than a leaf can be driven."""
METERSET_DECIMALS = 4
"""Metersets are printed to 0.0001 MU."""
NOT_CLINICAL = "not for clinical use"
"""Words that every plan's description and every dose's comment hold."""
FAILED = "FAILED"
"""Word that labels of plans with a broken hard constraint begin with."""
DOSE_RATE_DECIMALS = 3
"""Dose rates are printed to 0.001 MU/min."""
_WEIGHT_DECIMALS = 14  # as many as fit into 16 characters
_MAX_NAME = 16


@pydicom_silenced()
def write_plan(
    path: Path,
    source: StudySource,
    deliveries: Sequence[BeamDelivery],
    machine: MachineModel,
    prescription: Prescription,
    *,
    identity: Identity,
    structure_set_uid: str,
    patient_position: str,
    fractions: int | None = None,
    label: str = "dicomplan",
    name: str = "",
    description: str = "",
    beam_doses_gy: Sequence[float | None] | None = None,
    beam_dose_point_mm: tuple[float, float, float] | None = None,
    ssd_mm: Sequence[float | None] | None = None,
    target_roi_numbers: Mapping[str, int] | None = None,
    failed: bool = False,
) -> str:
    """Write the plan; returns its SOP instance UID.

    ``deliveries``: metersets of one fraction (printed to 0.0001 MU), positions at isocentre (printed to 0.01 mm), IEC 61217
    angles, isocentre in patient coordinates. ``beam_doses_gy`` (of one fraction, at ``beam_dose_point_mm``) and ``ssd_mm``
    are per beam. A dose reference is written for each target of ``prescription`` (course dose), bound to its ROI if
    ``target_roi_numbers`` names it. ``failed`` makes label and series description begin with FAILED.

    The layout follows PS3.3 C.8.8.14 (RT Beams) and the conventions of planning systems: BeamType STATIC, or DYNAMIC
    where leaves or jaws move while the meterset rises; weights 0 to 1, leaves at every control point when any moves, jaws
    only at the first one when they stand still. DoseRateSet is the delivery's, the machine's unless it states one. Raises
    ValueError for beams that DICOM cannot hold: no beams or segments, names longer than 16 characters or equal, a
    meterset that rounds to zero, apertures that do not fit the machine's devices.
    """
    _check(deliveries, patient_position)
    count = len(deliveries)
    doses = list(beam_doses_gy) if beam_doses_gy is not None else [None] * count
    distances = list(ssd_mm) if ssd_mm is not None else [None] * count
    if len(doses) != count or len(distances) != count:
        raise ValueError(f"{count} beams need {count} beam doses and source-surface distances")
    label = f"{FAILED} {label}" if failed else label
    series_description = f"{FAILED} dicomplan plan" if failed else "dicomplan plan"
    texts = [label, name, description, machine.name, *(item.beam.name for item in deliveries)]
    texts.extend(target.name for target in prescription.targets)
    plan = new_object(
        source,
        identity,
        role="RTPLAN",
        modality="RTPLAN",
        sop_class_uid=RTPlanStorage,
        series_number=SERIES_NUMBER,
        series_description=series_description,
        texts=texts,
    )
    plan.RTPlanLabel = short_text(label)
    plan.RTPlanName = short_text(name or label, 64)
    plan.RTPlanDescription = short_text(f"{NOT_CLINICAL}; {description}" if description else NOT_CLINICAL, 1024)
    plan.RTPlanDate = identity.date
    plan.RTPlanTime = identity.time
    plan.PlanIntent = "RESEARCH"
    plan.RTPlanGeometry = "PATIENT"
    plan.ApprovalStatus = "UNAPPROVED"
    structures = Dataset()
    structures.ReferencedSOPClassUID = RTStructureSetStorage
    structures.ReferencedSOPInstanceUID = structure_set_uid
    plan.ReferencedStructureSetSequence = DicomSequence([structures])
    plan.DoseReferenceSequence = _dose_references(prescription, target_roi_numbers or {}, identity)
    plan.PatientSetupSequence = DicomSequence([_patient_setup(patient_position)])
    metersets = [_printed_metersets(item) for item in deliveries]
    plan.FractionGroupSequence = DicomSequence(
        [_fraction_group(deliveries, metersets, doses, beam_dose_point_mm, fractions or prescription.fractions)]
    )
    plan.BeamSequence = DicomSequence(
        [
            _beam(item, machine, meterset, distance)
            for item, meterset, distance in zip(deliveries, metersets, distances, strict=True)
        ]
    )
    save(plan, path)
    return str(plan.SOPInstanceUID)


def _check(deliveries: Sequence[BeamDelivery], patient_position: str) -> None:
    if not deliveries:
        raise ValueError("a plan needs at least one beam")
    if patient_position not in PATIENT_POSITIONS:
        raise ValueError(f"patient position '{patient_position}' is not one of {', '.join(PATIENT_POSITIONS)}")
    names = [item.beam.name for item in deliveries]
    numbers = [item.beam.number for item in deliveries]
    if len(set(names)) != len(names) or len(set(numbers)) != len(numbers):
        raise ValueError("beam names and numbers must be unique")
    for item in deliveries:
        if not item.beam.name or len(item.beam.name) > _MAX_NAME:
            raise ValueError(f"beam name '{item.beam.name}' must have 1 to {_MAX_NAME} characters")
        if not item.segments:
            raise ValueError(f"beam '{item.beam.name}' has no segments")


def _printed_metersets(delivery: BeamDelivery) -> list[Decimal]:
    """Metersets of the segments as printed, exact decimals."""
    step = Decimal(1).scaleb(-METERSET_DECIMALS)
    printed = [Decimal(segment.meterset_mu).quantize(step) for segment in delivery.segments]
    for index, meterset in enumerate(printed):
        if meterset <= 0:
            raise ValueError(
                f"beam '{delivery.beam.name}': the meterset of segment {index + 1} rounds to {meterset} MU"
            )
    return printed


def _dose_references(prescription: Prescription, roi_numbers: Mapping[str, int], identity: Identity) -> DicomSequence:
    references = DicomSequence()
    for index, target in enumerate(prescription.targets):
        item = Dataset()
        item.DoseReferenceNumber = str(index + 1)
        item.DoseReferenceUID = identity.uid(f"dose reference {index + 1}")
        number = roi_numbers.get(target.name)
        item.DoseReferenceStructureType = "SITE" if number is None else "VOLUME"
        if number is not None:
            item.ReferencedROINumber = str(number)
        item.DoseReferenceDescription = short_text(target.name, 64)
        item.DoseReferenceType = "TARGET"
        item.TargetPrescriptionDose = decimal_text(target.dose_gy, 4)
        references.append(item)
    return references


def _patient_setup(patient_position: str) -> Dataset:
    setup = Dataset()
    setup.PatientSetupNumber = "1"
    setup.PatientPosition = patient_position
    setup.SetupTechnique = "ISOCENTRIC"
    return setup


def _fraction_group(
    deliveries: Sequence[BeamDelivery],
    metersets: Sequence[Sequence[Decimal]],
    doses_gy: Sequence[float | None],
    point_mm: tuple[float, float, float] | None,
    fractions: int,
) -> Dataset:
    group = Dataset()
    group.FractionGroupNumber = "1"
    group.NumberOfFractionsPlanned = str(fractions)
    group.NumberOfBeams = str(len(deliveries))
    group.NumberOfBrachyApplicationSetups = "0"
    group.ReferencedBeamSequence = DicomSequence()
    for delivery, printed, dose in zip(deliveries, metersets, doses_gy, strict=True):
        item = Dataset()
        if dose is not None:
            if point_mm is not None:
                item.BeamDoseSpecificationPoint = [decimal_text(value, 3) for value in point_mm]
            item.BeamDose = decimal_text(dose, 6)
        item.BeamMeterset = str(sum(printed, Decimal(0)))
        item.ReferencedBeamNumber = str(delivery.beam.number)
        group.ReferencedBeamSequence.append(item)
    return group


def _devices(machine: MachineModel) -> DicomSequence:
    devices = DicomSequence()
    for kind, jaw in (("ASYMX", machine.jaw_x), ("ASYMY", machine.jaw_y)):
        if jaw is not None:
            item = Dataset()
            item.RTBeamLimitingDeviceType = kind
            item.NumberOfLeafJawPairs = "1"
            devices.append(item)
    leaves = Dataset()
    leaves.RTBeamLimitingDeviceType = "MLCX"
    leaves.NumberOfLeafJawPairs = str(machine.mlc.leaf_pairs)
    leaves.LeafPositionBoundaries = [decimal_text(value, 3) for value in machine.mlc.leaf_boundaries_mm.tolist()]
    devices.append(leaves)
    return devices


def _beam(delivery: BeamDelivery, machine: MachineModel, metersets: Sequence[Decimal], ssd_mm: float | None) -> Dataset:
    beam = Dataset()
    beam.Manufacturer = ""
    beam.PrimaryDosimeterUnit = "MU"
    beam.BeamNumber = str(delivery.beam.number)
    beam.BeamName = delivery.beam.name
    beam.BeamType = "DYNAMIC" if delivery.moving else "STATIC"
    beam.RadiationType = "PHOTON"
    fluence = Dataset()
    fluence.FluenceMode = "STANDARD"
    beam.PrimaryFluenceModeSequence = DicomSequence([fluence])
    beam.TreatmentMachineName = short_text(machine.name)
    beam.SourceAxisDistance = decimal_text(machine.source_axis_distance_mm, 3)
    beam.BeamLimitingDeviceSequence = _devices(machine)
    beam.ReferencedPatientSetupNumber = "1"
    beam.TreatmentDeliveryType = "TREATMENT"
    beam.NumberOfWedges = "0"
    beam.NumberOfCompensators = "0"
    beam.NumberOfBoli = "0"
    beam.NumberOfBlocks = "0"
    beam.FinalCumulativeMetersetWeight = "1"
    points = _control_points(delivery, machine, metersets)
    _complete_first_point(points[0], delivery, machine, ssd_mm)
    beam.NumberOfControlPoints = str(len(points))
    beam.ControlPointSequence = DicomSequence(points)
    return beam


def _control_points(delivery: BeamDelivery, machine: MachineModel, metersets: Sequence[Decimal]) -> list[Dataset]:
    """One control point where each segment starts and one where it ends; positions that never change only at the first.

    Where a moving segment starts as the last one ended, one control point does for both.
    """
    name = delivery.beam.name
    shapes = [
        (_printed_positions(one.aperture, machine, name), _printed_positions(one.end or one.aperture, machine, name))
        for one in delivery.segments
    ]
    first = shapes[0][0]
    moving = {kind for kind in first if any(shape[kind] != first[kind] for pair in shapes for shape in pair)}
    total = sum(metersets, Decimal(0))
    cumulative = Decimal(0)
    points: list[Dataset] = []
    last: dict[str, list[str]] | None = None
    for (start, end), meterset in zip(shapes, metersets, strict=True):
        joined = delivery.moving and start == last
        for shape, weight in ((start, cumulative), (end, cumulative + meterset)):
            if shape is start and weight == cumulative and joined:
                continue
            points.append(_control_point(len(points), shape, moving, weight / total))
        cumulative += meterset
        last = end
    return points


def _control_point(index: int, shape: Mapping[str, list[str]], moving: set[str], weight: Decimal) -> Dataset:
    point = Dataset()
    point.ControlPointIndex = str(index)
    positions = DicomSequence()
    for kind, values in shape.items():
        if kind in moving or index == 0:
            item = Dataset()
            item.RTBeamLimitingDeviceType = kind
            item.LeafJawPositions = values
            positions.append(item)
    if positions:
        point.BeamLimitingDevicePositionSequence = positions
    point.CumulativeMetersetWeight = _weight_text(weight)
    return point


def _weight_text(weight: Decimal) -> str:
    text = f"{weight:.{_WEIGHT_DECIMALS}f}"
    return text.rstrip("0").rstrip(".")


def _printed_positions(aperture: Aperture, machine: MachineModel, name: str) -> dict[str, list[str]]:
    """Positions per device in the order of the device sequence, printed."""
    positions = {}
    for kind, jaw, edges in (
        ("ASYMX", machine.jaw_x, aperture.jaw_x_mm),
        ("ASYMY", machine.jaw_y, aperture.jaw_y_mm),
    ):
        if jaw is not None:
            if edges is None:
                raise ValueError(f"beam '{name}': the machine has the jaw {kind}, the aperture does not set it")
            positions[kind] = [decimal_text(value, POSITION_DECIMALS) for value in edges]
    leaves = aperture.leaf_positions_mm
    if leaves.shape != (2, machine.mlc.leaf_pairs):
        raise ValueError(f"beam '{name}': {leaves.shape} leaf positions for {machine.mlc.leaf_pairs} leaf pairs")
    positions["MLCX"] = [decimal_text(value, POSITION_DECIMALS) for value in leaves.ravel().tolist()]
    return positions


def _complete_first_point(point: Dataset, delivery: BeamDelivery, machine: MachineModel, ssd_mm: float | None) -> None:
    """What holds for the whole beam stands in its first control point."""
    beam = delivery.beam
    point.NominalBeamEnergy = decimal_text(machine.beam.nominal_energy_mv, 3)
    point.DoseRateSet = decimal_text(delivery.dose_rate_mu_min or machine.dose_rate_mu_min, DOSE_RATE_DECIMALS)
    point.GantryAngle = decimal_text(beam.gantry_angle_deg, 4)
    point.GantryRotationDirection = "NONE"
    point.BeamLimitingDeviceAngle = decimal_text(beam.collimator_angle_deg, 4)
    point.BeamLimitingDeviceRotationDirection = "NONE"
    point.PatientSupportAngle = decimal_text(beam.couch_angle_deg, 4)
    point.PatientSupportRotationDirection = "NONE"
    point.TableTopEccentricAngle = "0"
    point.TableTopEccentricRotationDirection = "NONE"
    point.TableTopVerticalPosition = None
    point.TableTopLongitudinalPosition = None
    point.TableTopLateralPosition = None
    point.IsocenterPosition = [decimal_text(value, 3) for value in beam.isocenter_mm]
    if ssd_mm is not None:
        point.SourceToSurfaceDistance = decimal_text(ssd_mm, 3)
