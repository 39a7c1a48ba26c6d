"""What is in an RTPLAN, of whatever technique: for looking at it, and for saying what dicomplan cannot calculate."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from pydicom.dataset import Dataset

from dicomplan.dicom import attributes as at
from dicomplan.dicom.control_points import ControlPoint, read_control_points
from dicomplan.dicom.files import DicomObject, pydicom_silenced
from dicomplan.errors import InputError

_TOLERANCE = 1e-6
_ACCESSORIES = {
    "NumberOfWedges": "wedges",
    "NumberOfCompensators": "compensators",
    "NumberOfBoli": "boli",
    "NumberOfBlocks": "blocks",
}
_DEVICES = ("X", "ASYMX", "Y", "ASYMY", "MLCX")


@dataclass(frozen=True, eq=False)
class RecordedBeam:
    """One beam as stored; metersets and doses of one fraction (None where absent).

    ``technique``: ``static``, ``step and shoot``, ``sliding window``, ``arc`` (only the gantry moves), ``VMAT`` (gantry
    and leaves move), or empty where control points do not tell. ``obstacles``: why dicomplan cannot calculate its dose.
    ``leaf_pairs``: RTBeamLimitingDeviceType to its number of pairs.
    """

    number: int
    name: str
    machine: str
    radiation_type: str
    delivery_type: str
    technique: str
    meterset_mu: float | None
    dose_gy: float | None
    accessories: Mapping[str, int]
    leaf_pairs: Mapping[str, int]
    control_points: tuple[ControlPoint, ...]
    obstacles: tuple[str, ...]


@dataclass(frozen=True)
class FractionGroup:
    """A fraction group: its number, planned fractions (None where absent), beam numbers, brachytherapy setups."""

    number: int
    fractions: int | None
    beam_numbers: tuple[int, ...]
    brachy_setups: int


@dataclass(frozen=True, eq=False)
class PlanRecord:
    """An RTPLAN as stored. ``obstacles``: why dicomplan cannot calculate its dose, the plan's own and its beams'."""

    sop_instance_uid: str
    kind: str
    label: str
    approval_status: str
    patient_position: str
    structure_set_uid: str
    frame_of_reference_uid: str
    fraction_groups: tuple[FractionGroup, ...]
    beams: tuple[RecordedBeam, ...]
    target_doses_gy: Mapping[str, float]
    obstacles: tuple[str, ...]

    @property
    def treatment_beam_numbers(self) -> tuple[int, ...]:
        """Numbers of the beams that treat and that a fraction group refers to."""
        named = {number for group in self.fraction_groups for number in group.beam_numbers}
        return tuple(beam.number for beam in self.beams if beam.number in named and _treats(beam.delivery_type))


@pydicom_silenced()
def plan_record(item: DicomObject) -> PlanRecord:
    """What is in an RTPLAN: beams of any technique, fraction groups, prescriptions; ion and brachytherapy plans by name.

    Raises InputError if it is no RTPLAN or values cannot be read.
    """
    if item.modality != "RTPLAN":
        raise InputError(
            f"found {item.modality or 'nothing'}, expected RTPLAN", file=item.file, tag=at.tag_name("Modality")
        )
    with at.naming(item.file):
        return _record(item, item.header, item.file)


def _record(item: DicomObject, dataset: Dataset, file: str) -> PlanRecord:
    groups: list[FractionGroup] = []
    references: dict[int, Dataset] = {}
    for group in at.items(dataset, "FractionGroupSequence"):
        named = at.items(group, "ReferencedBeamSequence")
        for reference in named:
            references.setdefault(at.whole(reference, "ReferencedBeamNumber", file=file), reference)
        fractions = at.optional_number(group, "NumberOfFractionsPlanned", file=file)
        groups.append(
            FractionGroup(
                at.optional_whole(group, "FractionGroupNumber", len(groups) + 1, file=file),
                None if fractions is None else round(fractions),
                tuple(at.whole(reference, "ReferencedBeamNumber", file=file) for reference in named),
                at.optional_whole(group, "NumberOfBrachyApplicationSetups", 0, file=file),
            )
        )
    beams = tuple(_beam(beam, references, file) for beam in at.items(dataset, "BeamSequence"))
    setups = at.items(dataset, "PatientSetupSequence")
    sets = at.items(dataset, "ReferencedStructureSetSequence")
    own = list(_obstacles(item, groups, beams))
    return PlanRecord(
        sop_instance_uid=item.uid,
        kind=item.kind,
        label=at.text(dataset, "RTPlanLabel"),
        approval_status=at.text(dataset, "ApprovalStatus"),
        patient_position=at.text(setups[0], "PatientPosition").upper() if setups else "",
        structure_set_uid=at.text(sets[0], "ReferencedSOPInstanceUID") if sets else "",
        frame_of_reference_uid=at.text(dataset, "FrameOfReferenceUID"),
        fraction_groups=tuple(groups),
        beams=beams,
        target_doses_gy=target_doses(dataset, file=file),
        obstacles=(*own, *(f"beam {beam.number}: {reason}" for beam in beams for reason in beam.obstacles)),
    )


def target_doses(dataset: Dataset, *, file: str) -> dict[str, float]:
    """Description of each dose reference (its number, where there is none) to TargetPrescriptionDose in Gy."""
    doses = {}
    for item in at.items(dataset, "DoseReferenceSequence"):
        dose = at.optional_number(item, "TargetPrescriptionDose", file=file)
        if dose is not None:
            number = at.text(item, "DoseReferenceNumber")
            doses[at.text(item, "DoseReferenceDescription") or f"dose reference {number}"] = dose
    return doses


def _treats(delivery_type: str) -> bool:
    return delivery_type in ("", "TREATMENT", "CONTINUATION")


def _obstacles(item: DicomObject, groups: list[FractionGroup], beams: tuple[RecordedBeam, ...]) -> Iterator[str]:
    if item.kind != "RTPLAN":
        yield f"{item.kind.removeprefix('RTPLAN ').strip('()')}: only photon beams are calculated"
    elif not beams:
        yield "no beams"
    if len(groups) > 1:
        yield f"{len(groups)} fraction groups, expected one"


def _beam(beam: Dataset, references: Mapping[int, Dataset], file: str) -> RecordedBeam:
    number = at.whole(beam, "BeamNumber", file=file)
    points = read_control_points(beam, number, file=file)
    reference = references.get(number)
    radiation = at.text(beam, "RadiationType").upper()
    delivery = at.text(beam, "TreatmentDeliveryType").upper()
    accessories = {
        what: count
        for keyword, what in _ACCESSORIES.items()
        if (count := at.optional_whole(beam, keyword, 0, file=file))
    }
    applicators = at.items(beam, "ApplicatorSequence")
    if applicators:
        accessories["applicators"] = len(applicators)
    pairs = {
        at.text(device, "RTBeamLimitingDeviceType").upper(): at.optional_whole(
            device, "NumberOfLeafJawPairs", 1, file=file
        )
        for device in at.items(beam, "BeamLimitingDeviceSequence")
    }
    technique = _technique(points)
    meterset = None if reference is None else at.optional_number(reference, "BeamMeterset", file=file)
    obstacles = []
    if _treats(delivery):
        obstacles = list(
            _beam_obstacles(radiation, accessories, technique, points, pairs, meterset, reference is not None)
        )
    return RecordedBeam(
        number=number,
        name=at.text(beam, "BeamName"),
        machine=at.text(beam, "TreatmentMachineName"),
        radiation_type=radiation,
        delivery_type=delivery,
        technique=technique,
        meterset_mu=meterset,
        dose_gy=None if reference is None else at.optional_number(reference, "BeamDose", file=file),
        accessories=accessories,
        leaf_pairs=pairs,
        control_points=points,
        obstacles=tuple(obstacles),
    )


def _beam_obstacles(
    radiation: str,
    accessories: Mapping[str, int],
    technique: str,
    points: tuple[ControlPoint, ...],
    devices: Collection[str],
    meterset_mu: float | None,
    referenced: bool,
) -> Iterator[str]:
    if radiation != "PHOTON":
        yield f"radiation type {radiation or 'not stated'}: only photons are calculated"
    for what, count in accessories.items():
        yield f"{count} {what}: not calculated"
    if technique in ("arc", "VMAT"):
        yield f"{technique}: only beams with a gantry that stands still are calculated"
    if any(point.cumulative_weight is None for point in points):
        yield "control points without a cumulative meterset weight"
    if len(points) < 2:
        yield f"{len(points)} control points, expected two or more"
    kinds = {kind for point in points for kind in point.positions_mm}
    for kind in sorted(kinds - set(_DEVICES)):
        yield f"beam limiting device {kind or 'of no type'} is not known"
    if points and "MLCX" in devices and "MLCX" not in kinds:
        yield "no leaf positions (MLCX)"
    elif points and not kinds:
        yield "no positions of jaws or leaves"
    if not referenced:
        yield "no fraction group refers to it"
    elif meterset_mu is None:
        yield "no meterset"


def _technique(points: tuple[ControlPoint, ...]) -> str:
    """What moves while the meterset rises."""
    gantry = leaves = False
    segments = 0
    for start, end in itertools.pairwise(points):
        if start.cumulative_weight is None or end.cumulative_weight is None:
            return ""
        if end.cumulative_weight <= start.cumulative_weight:
            continue
        segments += 1
        gantry = gantry or _moved(start.gantry_angle_deg, end.gantry_angle_deg)
        leaves = leaves or any(
            len(positions) != len(start.positions_mm.get(kind, ()))
            or any(abs(a - b) > _TOLERANCE for a, b in zip(positions, start.positions_mm[kind], strict=True))
            for kind, positions in end.positions_mm.items()
        )
    if gantry:
        return "VMAT" if leaves else "arc"
    if leaves:
        return "sliding window"
    return "" if segments == 0 else "static" if segments == 1 else "step and shoot"


def _moved(start: float | None, end: float | None) -> bool:
    return start is not None and end is not None and abs(start - end) > _TOLERANCE
