"""The head-and-neck phantom: a tumour wrapped round the spine, elective necks, and the organs that matter there.

It asks the question head-and-neck IMRT was invented for: PTV_7000 is a crescent about the vertebra and the cord,
PTV_5600 goes down both sides of the neck round the larynx and reaches into both parotids. Coordinates are DICOM's (LPS,
mm): the midline near x = 0, the chin near z = 0, the skull base near z = 65. All of it is invented; sizes are those
of an adult.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.case import PatientCase
from dicomplan.phantoms.shapes import (
    Knots,
    Material,
    Polygon,
    along_z,
    barrel,
    crescent,
    ellipse,
    paint,
    planes_of,
    rectangle,
    star_union,
    structure,
)
from dicomplan.phantoms.study import PhantomStudy

Outlines = dict[int, list[Polygon]]
Section = Callable[[float], list[Polygon]]

PLANES, ROWS, COLUMNS = 92, 192, 192
SPACING_MM = (3.0, 2.5, 2.5)
# No round numbers, so that a lost origin or a half pixel shows.
ORIGIN_MM = (-237.6, -229.4, -150.0)

_SIDES = (1.0, -1.0)  # left, right

# Knots are (z, value) in mm.
_CANAL_Y: Knots = ((-150, 40), (-90, 30), (-40, 24), (20, 22), (60, 16), (123, 10))
_NECK_A: Knots = ((-70, 68), (-40, 67), (-15, 69), (10, 74), (40, 79), (123, 76))
_NECK_B: Knots = ((-70, 58), (-40, 56), (-10, 62), (20, 80), (50, 90), (123, 95))
_CHIN_B: Knots = ((-9, 34), (-4, 52), (0, 60), (5, 63), (45, 63), (70, 58), (123, 50))
_SHOULDER_A: Knots = ((-55, 68), (-80, 92), (-95, 125), (-110, 165), (-125, 195), (-150, 210))
_SHOULDER_B: Knots = ((-55, 54), (-95, 62), (-125, 82), (-150, 92))
_LUNG: Knots = ((-150, 36), (-120, 22), (-105, 7))
_ELECTIVE_SIDE: Knots = ((-15, 40), (10, 39), (35, 33.5), (57, 27))
_NODE_X: Knots = ((-97, 52), (-70, 46), (-55, 43), (-13, 42))
_NODE_A: Knots = ((-97, 30), (-70, 21), (-55, 17), (-13, 17))
_NODE_B: Knots = ((-97, 14), (-70, 18), (-40, 20), (-13, 21))


def head_neck(*, seed: int = 20240, noise_hu: float = 12.0) -> PhantomStudy:
    """The head-and-neck phantom, HFS, 92 planes of 3 mm, 192 x 192 pixels of 2.5 mm, with noise (HU) of the seed.

    Structures (TG-263 names): BODY (EXTERNAL), PTV_7000 and, containing it, PTV_5600 (PTV), SpinalCord, Brainstem,
    Parotid_L, Parotid_R, Mandible, Larynx, Esophagus, Cochlea_L, Lung_L, Lung_R (ORGAN), Filling_Gold (AVOIDANCE;
    a crown, whose CT number is clipped at 3071 HU). Contours lie on the CT planes, points at most 2 mm apart.
    """
    grid = VoxelGrid((PLANES, ROWS, COLUMNS), SPACING_MM, ORIGIN_MM)
    z = grid.axis_mm(0)
    organs = _organs(z)
    body = _stack(z, -150, 123, lambda at: [_body(at, inset_mm=0.0, step_mm=2.0)])
    targets = {"PTV_7000": _stack(z, -12, 45, _primary), "PTV_5600": _stack(z, -97, 57, _elective)}
    ct = paint(grid, _materials(z, body, organs), noise_hu=noise_hu, seed=seed)
    outlines = {"BODY": body, **targets, **organs}
    structures = tuple(
        structure(name, number, roi_type, color, outlines[name], z)
        for number, (name, roi_type, color) in enumerate(_ROIS, start=1)
    )
    return PhantomStudy("HeadNeck", "DICOMPLAN-HN", PatientCase(ct, structures, "HFS"))


_ROIS = (
    ("BODY", "EXTERNAL", (0, 160, 80)),
    ("PTV_7000", "PTV", (220, 30, 30)),
    ("PTV_5600", "PTV", (240, 140, 0)),
    ("SpinalCord", "ORGAN", (240, 220, 0)),
    ("Brainstem", "ORGAN", (150, 80, 200)),
    ("Parotid_L", "ORGAN", (0, 140, 220)),
    ("Parotid_R", "ORGAN", (60, 190, 230)),
    ("Mandible", "ORGAN", (150, 110, 70)),
    ("Larynx", "ORGAN", (230, 90, 160)),
    ("Esophagus", "ORGAN", (130, 170, 40)),
    ("Cochlea_L", "ORGAN", (0, 90, 160)),
    ("Lung_L", "ORGAN", (120, 150, 200)),
    ("Lung_R", "ORGAN", (90, 120, 180)),
    ("Filling_Gold", "AVOIDANCE", (200, 170, 30)),
)


def _stack(z: NDArray[np.float64], low_mm: float, high_mm: float, section: Section) -> Outlines:
    """Outlines of ``section(z)`` on the planes from ``low_mm`` to ``high_mm``; empty sections are left out."""
    found = {index: section(at) for index, at in planes_of(z, low_mm, high_mm)}
    return {index: polygons for index, polygons in found.items() if polygons}


def _canal(at: float) -> float:
    return along_z(at, _CANAL_Y)


def _body(at: float, *, inset_mm: float, step_mm: float) -> Polygon:
    """Skin: skull and neck, from the chin upwards the face with its nose, below the neck the shoulders."""
    parts = [((0.0, 8.0), (along_z(at, _NECK_A), along_z(at, _NECK_B)), 2.0)]
    if at >= -9:
        parts.append(((0.0, -38.0), (55.0, along_z(at, _CHIN_B)), 2.2))
    nose = barrel(at, 46, 82, 2.0)
    if nose > 0.0:
        parts.append(((0.0, -45.0), (14.0, 54.0 + 15.0 * nose), 2.0))
    if at <= -55:
        parts.append(((0.0, 15.0), (along_z(at, _SHOULDER_A), along_z(at, _SHOULDER_B)), 2.6))
    return star_union((0.0, 5.0), parts, inset_mm=inset_mm, step_mm=step_mm)


def _primary(at: float) -> list[Polygon]:
    """PTV_7000: the crescent; its inner edge stays more than 10 mm from the cord."""
    width = barrel(at, -15, 48, 4.0)
    return [crescent((0.0, _canal(at) - 10.0), (20.0, 19.5), (24.0 * width, 20.0 * width), 115.0)]


def _elective(at: float) -> list[Polygon]:
    """PTV_5600: a wider crescent about the primary, below it the nodes on both sides of the larynx."""
    if at > -13:
        width = barrel(at, -75, 63, 6.0)
        return [crescent((0.0, _canal(at) - 10.0), (18.5, 18.0), (30.0 * width, along_z(at, _ELECTIVE_SIDE)), 128.0)]
    semi = (along_z(at, _NODE_A), along_z(at, _NODE_B))
    x = along_z(at, _NODE_X)
    return [ellipse((side * x, 11.0), semi, angle_deg=side * 12.0, exponent=2.3) for side in _SIDES]


def _organs(z: NDArray[np.float64]) -> dict[str, Outlines]:
    """Outlines of the organs at risk and of the crown, by name."""

    def parotid(side: float) -> Section:
        def section(at: float) -> list[Polygon]:
            s = barrel(at, 5, 65, 2.5)
            return [ellipse((side * 55.0, 14.0), (12.0 * s, 20.0 * s), angle_deg=side * 8.0)]

        return section

    def lung(side: float) -> Section:
        def section(at: float) -> list[Polygon]:
            size = along_z(at, _LUNG)
            return [ellipse((side * 52.0, _canal(at) - 12.0), (size, 0.95 * size), exponent=2.2)]

        return section

    def brainstem(at: float) -> list[Polygon]:
        s = barrel(at, 50, 126, 3.0)
        return [ellipse((0.0, _canal(at)), (16.0 * s, 13.0 * s))]

    def mandible(at: float) -> list[Polygon]:
        if at <= 27:
            return [crescent((0.0, -38.0), (38.0, 42.0), (11.0 * barrel(at, -4, 42, 3.0), 10.0), 95.0, sharpness=12.0)]
        return [ellipse((side * 47.0, -26.0), (5.0, 14.0), angle_deg=side * 6.0, exponent=2.5) for side in _SIDES]

    def larynx(at: float) -> list[Polygon]:
        s = barrel(at, -57, -18, 4.0)
        return [ellipse((0.0, -26.0), (19.0 * s, 16.0 * s), exponent=2.2)]

    return {
        "SpinalCord": _stack(z, -150, 60, lambda at: [ellipse((0.0, _canal(at)), (6.0, 5.0), step_mm=1.0)]),
        "Brainstem": _stack(z, 63, 117, brainstem),
        "Parotid_L": _stack(z, 8, 62, parotid(1.0)),
        "Parotid_R": _stack(z, 8, 62, parotid(-1.0)),
        "Mandible": _stack(z, 0, 69, mandible),
        "Larynx": _stack(z, -54, -21, larynx),
        "Esophagus": _stack(z, -150, -57, lambda at: [ellipse((3.0, _canal(at) - 34.0), (9.0, 5.5), step_mm=1.0)]),
        "Cochlea_L": _stack(z, 75, 81, lambda _: [ellipse((27.0, 8.0), (3.6, 3.0), step_mm=1.0)]),
        "Lung_L": _stack(z, -150, -105, lung(1.0)),
        "Lung_R": _stack(z, -150, -105, lung(-1.0)),
        "Filling_Gold": _stack(z, 33, 39, lambda _: [ellipse((33.0, -49.0), (4.5, 5.0), exponent=3.0, step_mm=1.0)]),
    }


def _materials(z: NDArray[np.float64], body: Outlines, organs: dict[str, Outlines]) -> list[Material]:
    """What is painted into the CT, later over earlier: couch, skin and fat, muscle, bone, organs, air, gold."""
    return [
        # A carbon couch outside BODY: left out of the dose by the body's rule, a trial for finding the body.
        Material(60.0, _stack(z, -150, 123, lambda _: [rectangle((0.0, 121.0), (400.0, 16.0))])),
        Material(-930.0, _stack(z, -150, 123, lambda _: [rectangle((0.0, 121.0), (396.0, 12.0))])),
        Material(-95.0, body),
        Material(48.0, _stack(z, -150, 123, lambda at: [_body(at, inset_mm=5.0, step_mm=3.0)])),
        *_bones(z),
        Material(40.0, organs["Brainstem"]),
        Material(15.0, organs["Parotid_L"]),
        Material(15.0, organs["Parotid_R"]),
        Material(45.0, organs["Larynx"]),
        Material(180.0, _stack(z, -54, -21, lambda _: [crescent((0.0, -26.0), (15.0, 12.5), (2.5, 2.5), 100.0)])),
        Material(30.0, organs["Esophagus"]),
        Material(1100.0, organs["Mandible"]),
        Material(1600.0, _stack(z, 30, 42, lambda _: [crescent((0.0, -38.0), (29.0, 37.0), (8.0, 8.0), 85.0)])),
        Material(-820.0, organs["Lung_L"]),
        Material(-820.0, organs["Lung_R"]),
        Material(20.0, organs["Cochlea_L"]),
        *_air(z),
        Material(6000.0, organs["Filling_Gold"]),
    ]


def _bones(z: NDArray[np.float64]) -> list[Material]:
    """Skull with brain, petrous bones, spine with canal and cord, clavicles, ribs and shoulder joints."""

    def spine(semi: tuple[float, float], behind_mm: float) -> Section:
        return lambda at: [ellipse((0.0, _canal(at) + behind_mm), semi, exponent=2.3)]

    def vertebra(at: float) -> list[Polygon]:
        return [] if at % 18.0 < 4.0 else [ellipse((0.0, _canal(at) - 17.0), (15.0, 10.0), exponent=2.5)]

    def rib(at: float) -> list[Polygon]:
        size = along_z(at, _LUNG) + 5.0
        if at % 15.0 >= 7.0:
            return []
        return [ellipse((side * 52.0, _canal(at) - 12.0), (size, 0.95 * size)) for side in _SIDES]

    def clavicle(at: float) -> list[Polygon]:
        s = barrel(at, -121, -103, 2.0)
        return [ellipse((side * 78.0, -25.0), (56.0, 7.0 * s), angle_deg=side * 12.0) for side in _SIDES]

    def skull(inset_mm: float) -> Section:
        return lambda at: [ellipse((0.0, 8.0), (along_z(at, _NECK_A) - inset_mm, along_z(at, _NECK_B) - inset_mm))]

    def petrous(at: float) -> list[Polygon]:
        s = barrel(at, 64, 92, 2.0)
        return [ellipse((side * 38.0, 8.0), (24.0 * s, 11.0 * s), angle_deg=side * 20.0) for side in _SIDES]

    return [
        Material(950.0, _stack(z, 66, 123, skull(7.0))),
        Material(36.0, _stack(z, 66, 123, skull(13.5))),
        Material(1000.0, _stack(z, 66, 90, petrous)),
        Material(90.0, _stack(z, -150, 61, spine((14.0, 9.5), -17.0))),
        Material(420.0, _stack(z, -150, 61, vertebra)),
        Material(550.0, _stack(z, -150, 61, spine((15.5, 13.5), 0.0))),
        Material(500.0, _stack(z, -150, 55, spine((4.0, 10.0), 21.0))),
        Material(12.0, _stack(z, -150, 64, spine((9.5, 8.5), 0.0))),
        Material(42.0, _stack(z, -150, 61, lambda at: [ellipse((0.0, _canal(at)), (6.0, 5.0))])),
        Material(450.0, _stack(z, -150, -108, rib)),
        Material(600.0, _stack(z, -120, -105, clavicle)),
        Material(500.0, _stack(z, -150, -117, lambda _: [ellipse((s * 158.0, 15.0), (24.0, 25.0)) for s in _SIDES])),
    ]


def _air(z: NDArray[np.float64]) -> list[Material]:
    """Air ways: mouth, nose and sinuses, pharynx (inside PTV_7000), the larynx's gap and the windpipe."""

    def sinus(at: float) -> list[Polygon]:
        s = barrel(at, 60, 88, 2.0)
        return [ellipse((side * 27.0, -50.0), (12.0 * s, 14.0 * s)) for side in _SIDES]

    return [
        Material(-1000.0, _stack(z, 36, 45, lambda _: [ellipse((0.0, -54.0), (21.0, 14.0))])),
        Material(-1000.0, _stack(z, 54, 90, lambda _: [ellipse((0.0, -55.0), (9.0, 24.0), exponent=3.0)])),
        Material(-1000.0, _stack(z, 63, 84, sinus)),
        Material(-1000.0, _stack(z, -18, 54, lambda at: [ellipse((0.0, _canal(at) - 40.0), (13.0, 5.0))])),
        Material(-1000.0, _stack(z, -54, -19, lambda _: [ellipse((0.0, -23.0), (4.5, 9.0))])),
        Material(-1000.0, _stack(z, -150, -55, lambda at: [ellipse((0.0, _canal(at) - 50.0), (9.0, 8.0))])),
    ]
