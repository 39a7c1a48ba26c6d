"""Read an RTPLAN: control points back to beams and segments, from the printed digits."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicomplan.beams.delivery import Aperture, Beam, BeamDelivery, Segment, travel_mm
from dicomplan.dicom import attributes as at
from dicomplan.dicom.control_points import ControlPoint, read_control_points
from dicomplan.dicom.files import DicomObject, pydicom_silenced, read_object
from dicomplan.dicom.plan_record import target_doses
from dicomplan.errors import InputError

FloatArray = NDArray[np.float64]

_JAW_X, _JAW_Y, _LEAVES = ("X", "ASYMX"), ("Y", "ASYMY"), ("MLCX",)
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class StoredPlan:
    """A plan as stored: deliveries (metersets of one fraction), number of fractions, patient position and references.

    ``leaf_boundaries_mm``, ``beam_doses_gy`` (of one fraction; None where absent), ``machine_names`` and ``energies_mv``
    are per beam, in the order of ``deliveries``. ``target_doses_gy``: description of a dose reference to its course dose.
    """

    deliveries: tuple[BeamDelivery, ...]
    fractions: int
    patient_position: str
    sop_instance_uid: str
    label: str
    approval_status: str
    structure_set_uid: str
    frame_of_reference_uid: str
    leaf_boundaries_mm: tuple[FloatArray, ...]
    beam_doses_gy: tuple[float | None, ...]
    machine_names: tuple[str, ...]
    energies_mv: tuple[float | None, ...]
    target_doses_gy: Mapping[str, float]


@pydicom_silenced()
def read_plan(path: Path) -> StoredPlan:
    """The treatment beams of an RTPLAN's fraction group as segments, standing still or moving.

    Positions that a control point omits are carried forward; each interval of rising meterset is a segment, which moves
    where its shape at start and end differs. A beam with moving segments has the dose rate that its first control point
    states. Raises UsageError if the file is not there; InputError if it is no RTPLAN, or holds what cannot be read
    here: several fraction groups, other than photon beams, wedges, compensators, blocks or boli, a moving gantry, devices
    other than X, Y and MLCX, a beam without leaves, metersets missing or falling.
    """
    item, dataset = read_object(path)
    with at.naming(str(path)):
        return _stored_plan(item, dataset, str(path))


def _stored_plan(item: DicomObject, dataset: Dataset, file: str) -> StoredPlan:
    if item.modality != "RTPLAN":
        raise InputError(f"found {item.modality or 'nothing'}, expected RTPLAN", file=file, tag=at.tag_name("Modality"))
    groups = at.items(dataset, "FractionGroupSequence")
    if len(groups) != 1:
        raise InputError(
            f"found {len(groups)} fraction groups, expected one", file=file, tag=at.tag_name("FractionGroupSequence")
        )
    beams = {at.whole(beam, "BeamNumber", file=file): beam for beam in at.items(dataset, "BeamSequence")}
    deliveries: list[BeamDelivery] = []
    boundaries: list[FloatArray] = []
    doses: list[float | None] = []
    machines: list[str] = []
    energies: list[float | None] = []
    for reference in at.items(groups[0], "ReferencedBeamSequence"):
        number = at.whole(reference, "ReferencedBeamNumber", file=file)
        if number not in beams:
            raise InputError(f"beam {number} is not in the plan", file=file, tag=at.tag_name("ReferencedBeamNumber"))
        beam = beams[number]
        if at.text(beam, "TreatmentDeliveryType").upper() not in ("", "TREATMENT"):
            continue
        _check_beam(beam, number, file)
        meterset = at.number(reference, "BeamMeterset", file=file)
        deliveries.append(_delivery(beam, number, meterset, file))
        boundaries.append(_boundaries(beam, number, file))
        doses.append(at.optional_number(reference, "BeamDose", file=file))
        machines.append(at.text(beam, "TreatmentMachineName"))
        energies.append(at.optional_number(at.items(beam, "ControlPointSequence")[0], "NominalBeamEnergy", file=file))
    if not deliveries:
        raise InputError("the plan has no treatment beams", file=file, tag=at.tag_name("ReferencedBeamSequence"))
    setups = at.items(dataset, "PatientSetupSequence")
    sets = at.items(dataset, "ReferencedStructureSetSequence")
    return StoredPlan(
        deliveries=tuple(deliveries),
        fractions=at.whole(groups[0], "NumberOfFractionsPlanned", file=file),
        patient_position=at.text(setups[0], "PatientPosition").upper() if setups else "",
        sop_instance_uid=item.uid,
        label=at.text(dataset, "RTPlanLabel"),
        approval_status=at.text(dataset, "ApprovalStatus"),
        structure_set_uid=at.text(sets[0], "ReferencedSOPInstanceUID") if sets else "",
        frame_of_reference_uid=at.text(dataset, "FrameOfReferenceUID"),
        leaf_boundaries_mm=tuple(boundaries),
        beam_doses_gy=tuple(doses),
        machine_names=tuple(machines),
        energies_mv=tuple(energies),
        target_doses_gy=target_doses(dataset, file=file),
    )


def _check_beam(beam: Dataset, number: int, file: str) -> None:
    radiation = at.text(beam, "RadiationType").upper()
    if radiation != "PHOTON":
        raise InputError(
            f"beam {number}: found {radiation or 'nothing'}, expected PHOTON",
            file=file,
            tag=at.tag_name("RadiationType"),
        )
    unit = at.text(beam, "PrimaryDosimeterUnit").upper()
    if unit not in ("", "MU"):
        raise InputError(
            f"beam {number}: found {unit}, expected MU", file=file, tag=at.tag_name("PrimaryDosimeterUnit")
        )
    for keyword in ("NumberOfWedges", "NumberOfCompensators", "NumberOfBoli", "NumberOfBlocks"):
        if at.optional_number(beam, keyword, file=file):
            raise InputError(
                f"beam {number}: found {at.text(beam, keyword)}, expected 0", file=file, tag=at.tag_name(keyword)
            )


def _boundaries(beam: Dataset, number: int, file: str) -> FloatArray:
    for device in at.items(beam, "BeamLimitingDeviceSequence"):
        if at.text(device, "RTBeamLimitingDeviceType").upper() in _LEAVES:
            pairs = at.whole(device, "NumberOfLeafJawPairs", file=file)
            values = np.array(at.numbers(device, "LeafPositionBoundaries", pairs + 1, file=file))
            if (np.diff(values) <= 0).any():
                raise InputError(
                    f"beam {number}: leaf boundaries do not rise", file=file, tag=at.tag_name("LeafPositionBoundaries")
                )
            return values
    raise InputError(f"beam {number} has no MLCX", file=file, tag=at.tag_name("RTBeamLimitingDeviceType"))


def _delivery(beam: Dataset, number: int, meterset_mu: float, file: str) -> BeamDelivery:
    states = read_control_points(beam, number, file=file)
    if len(states) < 2:
        raise InputError(
            f"beam {number}: found {len(states)} control points, expected two or more",
            file=file,
            tag=at.tag_name("ControlPointSequence"),
        )
    for kind in sorted({kind for state in states for kind in state.positions_mm} - set(_JAW_X + _JAW_Y + _LEAVES)):
        raise InputError(
            f"beam {number}: {kind} is not supported", file=file, tag=at.tag_name("RTBeamLimitingDeviceType")
        )
    weights = [_weight(state, index, number, file) for index, state in enumerate(states)]
    final = at.optional_number(beam, "FinalCumulativeMetersetWeight", file=file) or weights[-1]
    if not final or final <= 0:
        raise InputError(
            f"beam {number}: found {final}, expected a positive number",
            file=file,
            tag=at.tag_name("FinalCumulativeMetersetWeight"),
        )
    first = states[0]
    if len(first.isocenter_mm) != 3:
        raise InputError(f"beam {number}: is missing", file=file, tag=at.tag_name("IsocenterPosition"))
    segments = []
    for index, (start, end) in enumerate(itertools.pairwise(states)):
        rise = weights[index + 1] - weights[index]
        if rise < 0:
            raise InputError(
                f"beam {number}: falls at control point {index + 1}",
                file=file,
                tag=at.tag_name("CumulativeMetersetWeight"),
            )
        if _differ(_angles(start), _angles(first)) or _differ(start.isocenter_mm, first.isocenter_mm):
            raise InputError(
                f"beam {number} moves at control point {index}: only static gantry, collimator and couch are supported",
                file=file,
                tag=at.tag_name("GantryAngle"),
            )
        if rise == 0:
            continue
        if _differ(_angles(start), _angles(end)):
            raise InputError(
                f"beam {number} moves at control point {index + 1}: only static gantry, collimator and couch are supported",
                file=file,
                tag=at.tag_name("GantryAngle"),
            )
        shapes = _aperture(start, number, file), _aperture(end, number, file)
        end_shape = shapes[1] if _moves(*shapes, number, file) else None
        segments.append(Segment(shapes[0], meterset_mu * rise / final, end_shape))
    if not segments:
        raise InputError(f"beam {number}: never rises", file=file, tag=at.tag_name("CumulativeMetersetWeight"))
    return BeamDelivery(
        Beam(
            number=number,
            name=at.text(beam, "BeamName"),
            gantry_angle_deg=_angles(first)[0],
            collimator_angle_deg=_angles(first)[1],
            couch_angle_deg=_angles(first)[2],
            isocenter_mm=(first.isocenter_mm[0], first.isocenter_mm[1], first.isocenter_mm[2]),
            source_axis_distance_mm=at.optional_number(beam, "SourceAxisDistance", file=file) or 1000.0,
        ),
        tuple(segments),
        _dose_rate(beam, file) if any(segment.end is not None for segment in segments) else None,
    )


def _moves(start: Aperture, end: Aperture, number: int, file: str) -> bool:
    """Whether leaves or jaws move from one aperture to the next. Raises InputError where they do not match."""
    if start.leaf_positions_mm.shape != end.leaf_positions_mm.shape:
        raise InputError(
            f"beam {number}: the number of positions changes between control points",
            file=file,
            tag=at.tag_name("LeafJawPositions"),
        )
    return travel_mm(start, end) > _TOLERANCE


def _dose_rate(beam: Dataset, file: str) -> float | None:
    return at.optional_number(at.items(beam, "ControlPointSequence")[0], "DoseRateSet", file=file)


def _weight(state: ControlPoint, index: int, number: int, file: str) -> float:
    if state.cumulative_weight is None:
        raise InputError(
            f"beam {number}, control point {index}: is missing",
            file=file,
            tag=at.tag_name("CumulativeMetersetWeight"),
        )
    return state.cumulative_weight


def _angles(state: ControlPoint) -> tuple[float, float, float]:
    return (state.gantry_angle_deg or 0.0, state.collimator_angle_deg or 0.0, state.couch_angle_deg or 0.0)


def _differ(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return len(first) != len(second) or any(abs(a - b) > _TOLERANCE for a, b in zip(first, second, strict=True))


def _aperture(state: ControlPoint, number: int, file: str) -> Aperture:
    leaves = next((state.positions_mm[kind] for kind in _LEAVES if kind in state.positions_mm), None)
    if leaves is None or len(leaves) % 2:
        raise InputError(f"beam {number} has no leaf positions", file=file, tag=at.tag_name("LeafJawPositions"))
    return Aperture(
        leaf_positions_mm=np.array(leaves, dtype=np.float64).reshape(2, -1),
        jaw_y_mm=_jaw(state, _JAW_Y),
        jaw_x_mm=_jaw(state, _JAW_X),
    )


def _jaw(state: ControlPoint, kinds: tuple[str, ...]) -> tuple[float, float] | None:
    for kind in kinds:
        if len(state.positions_mm.get(kind, ())) == 2:
            first, second = state.positions_mm[kind]
            return (first, second)
    return None
