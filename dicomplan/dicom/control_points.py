"""Control points of a beam as stored, with what a later one omits carried forward (PS3.3 C.8.8.14)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.dataset import Dataset

from dicomplan.dicom import attributes as at
from dicomplan.errors import InputError

MAX_CONTROL_POINTS = 20_000
"""Greatest number of control points of one beam: a hundred times that of an arc."""

_ANGLES = ("GantryAngle", "BeamLimitingDeviceAngle", "PatientSupportAngle")


@dataclass(frozen=True)
class ControlPoint:
    """What holds at a control point; angles in degrees (IEC 61217; None where never stated), positions in mm at isocentre.

    ``positions_mm``: RTBeamLimitingDeviceType (``ASYMX``, ``MLCX``...) to its LeafJawPositions in stored order.
    ``isocenter_mm`` is in patient coordinates, empty where never stated. ``nominal_energy`` is in MV (photons) or MeV.
    ``cumulative_weight`` is None where it is missing. ``wedge_positions``: WedgePosition (``IN``, ``OUT``) by wedge number.
    """

    cumulative_weight: float | None
    gantry_angle_deg: float | None
    collimator_angle_deg: float | None
    couch_angle_deg: float | None
    gantry_direction: str
    isocenter_mm: tuple[float, ...]
    nominal_energy: float | None
    positions_mm: Mapping[str, tuple[float, ...]]
    wedge_positions: Mapping[str, str]


def read_control_points(beam: Dataset, number: int, *, file: str) -> tuple[ControlPoint, ...]:
    """The control points of an item of BeamSequence, in order.

    A missing weight of the last one is FinalCumulativeMetersetWeight (XiO leaves it empty). Raises InputError for
    unreadable values.
    """
    points = at.items(beam, "ControlPointSequence")
    if len(points) > MAX_CONTROL_POINTS:
        raise InputError(
            f"beam {number}: found {len(points)} control points, at most {MAX_CONTROL_POINTS} are read",
            file=file,
            tag=at.tag_name("ControlPointSequence"),
        )
    final = at.optional_number(beam, "FinalCumulativeMetersetWeight", file=file)
    positions: dict[str, tuple[float, ...]] = {}
    angles: dict[str, float] = {}
    wedges: dict[str, str] = {}
    isocenter: tuple[float, ...] = ()
    energy: float | None = None
    direction = ""
    read: list[ControlPoint] = []
    for index, point in enumerate(points):
        for device in at.items(point, "BeamLimitingDevicePositionSequence"):
            values = at.texts(device, "LeafJawPositions")
            kind = at.text(device, "RTBeamLimitingDeviceType").upper()
            if values:
                positions[kind] = at.lengths_mm(device, "LeafJawPositions", len(values), file=file)
        for keyword in _ANGLES:
            angle = at.optional_number(point, keyword, file=file)
            if angle is not None:
                angles[keyword] = angle
        if at.texts(point, "IsocenterPosition"):
            isocenter = at.lengths_mm(point, "IsocenterPosition", 3, file=file)
        stated = at.optional_number(point, "NominalBeamEnergy", file=file)
        energy = energy if stated is None else stated
        direction = at.text(point, "GantryRotationDirection").upper() or direction
        for wedge in at.items(point, "WedgePositionSequence"):
            wedges[at.text(wedge, "ReferencedWedgeNumber")] = at.text(wedge, "WedgePosition").upper()
        weight = at.optional_number(point, "CumulativeMetersetWeight", file=file)
        if weight is None and index == len(points) - 1:
            weight = final
        gantry, collimator, couch = (angles.get(keyword) for keyword in _ANGLES)
        read.append(
            ControlPoint(weight, gantry, collimator, couch, direction, isocenter, energy, dict(positions), dict(wedges))
        )
    return tuple(read)
