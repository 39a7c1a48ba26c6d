"""The geometries of AAPM TG-119 (Ezzell et al., Med. Phys. 36, 2009, 5359) in water: multi-target, prostate, head/neck, C-shape.

Dimensions are the report's where it gives any: sizes and lengths of the targets, the core, the rectum and the bladder,
the 6 mm of the prostate's margin, the head/neck target's distances from skin and cord. The report draws the rest without
numbers; those are ours and named where they stand. The head/neck case has no closed dimensions at all: it follows the
report's description, on a neck-shaped outline of water instead of a patient's. The easier and the harder C-shape
are one geometry with two sets of goals. Coordinates are DICOM's (LPS, mm), the slab's centre is (0, 0, 0).
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
    ellipse,
    evenly_spaced,
    paint,
    planes_of,
    rectangle,
    structure,
)
from dicomplan.phantoms.study import PhantomStudy

Outlines = dict[int, list[Polygon]]
Section = Callable[[float], list[Polygon]]
Inside = Callable[[NDArray[np.float64]], NDArray[np.bool_]]

SPACING_MM = (2.5, 3.0, 3.0)
SLAB_MM = (300.0, 150.0, 240.0)
"""Right-left, anterior-posterior and superior-inferior size of the slab: at least what the report asks for."""
CORE_RADIUS_MM = 10.0
RECTUM_RADIUS_MM = 7.5
PTV_MARGIN_MM = 6.0
"""From the prostate's CTV to its PTV."""
CORD_GAP_MM, SKIN_GAP_MM = 15.0, 6.0
"""Least distance of the head/neck target from the cord and from the skin."""

_AIR_MM = (30.0, 30.0)  # of air beside the slab, right-left and anterior-posterior
_STEP_MM = 1.0
_CHORD_MM = 0.3  # by which the chords of an outline may cut a corner

# Ours: the report gives no numbers for these.
_ARM_END_MM = 7.0  # the arms of the C end so far behind the core's axis
_INDENT_MM, _WALL_MM = 2.5, 1.5  # depth of the concavity behind, and its distance from the rectum
_RECTUM_LENGTH_MM = 120.0
_BLADDER_MM = (0.0, -30.0, 20.0)  # its centre: in front, at the superior part, touching the CTV
_NECK_A: Knots = ((-120, 70), (-60, 62), (-20, 62), (20, 70), (60, 76), (120, 76))
_NECK_B: Knots = ((-120, 66), (-60, 62), (-20, 66), (20, 84), (60, 92), (120, 92))
_CORD_MM, _CORD_RADIUS_MM = (0.0, 26.0), 5.0
_NODES_BACK_MM = 42.0  # the neck nodes reach so far behind the middle
_NECK_TARGET_MM = (-50.0, 50.0)  # upper neck to skull base
_PAROTID_MM, _PAROTID_SEMI_MM = (54.0, 16.0, 35.0), (11.0, 18.0, 25.0)
_PAROTID_GAP_MM = 3.0


def multi_target(*, seed: int = 119, noise_hu: float = 4.0) -> PhantomStudy:
    """Three cylinders of 40 mm diameter and 40 mm length stacked along the axis: PTV_5000 between PTV_2500 and PTV_1250.

    The central one is to get 50 Gy, the superior one half, the inferior one a quarter of it.
    """

    def disc(_: float) -> list[Polygon]:
        return [ellipse((0.0, 0.0), (20.0, 20.0), step_mm=_STEP_MM)]

    z = _grid().axis_mm(0)
    return _in_slab(
        "MultiTarget",
        {
            "PTV_5000": ("PTV", (220, 30, 30), _stack(z, -20, 20, disc)),
            "PTV_2500": ("PTV", (240, 140, 0), _stack(z, 20, 60, disc)),
            "PTV_1250": ("PTV", (230, 90, 160), _stack(z, -60, -20, disc)),
        },
        seed,
        noise_hu,
    )


def prostate(*, seed: int = 119, noise_hu: float = 4.0) -> PhantomStudy:
    """CTV_7560, an ellipsoid of 40 x 26 x 65 mm (RL, AP, SI) hollow behind; PTV_7560 6 mm round it; two organs.

    Rectum: a cylinder of 15 mm diameter in the hollow. Bladder: an ellipsoid of 50 x 40 x 50 mm in front and above.
    """
    z = _grid().axis_mm(0)
    outlines = {
        "PTV_7560": ("PTV", (220, 30, 30), _stack(z, -38.5, 38.5, _prostate_ptv())),
        "CTV_7560": ("CTV", (240, 140, 0), _stack(z, -32.5, 32.5, _prostate_ctv)),
        "Rectum": ("ORGAN", (150, 110, 70), _stack(z, -0.5 * _RECTUM_LENGTH_MM, 0.5 * _RECTUM_LENGTH_MM, _rectum)),
        "Bladder": ("ORGAN", (240, 220, 0), _stack(z, _BLADDER_MM[2] - 25, _BLADDER_MM[2] + 25, _bladder)),
    }
    return _in_slab("Prostate", outlines, seed, noise_hu)


def c_shape(*, seed: int = 119, noise_hu: float = 4.0) -> PhantomStudy:
    """OuterTarget, radius 15 to 37 mm and 80 mm long, round the front and the sides of Core, radius 10 mm and 100 mm long."""
    z = _grid().axis_mm(0)
    outlines = {
        "OuterTarget": ("PTV", (220, 30, 30), _stack(z, -40, 40, lambda _: [_c_section()])),
        "Core": (
            "ORGAN",
            (240, 220, 0),
            _stack(z, -50, 50, lambda _: [ellipse((0.0, 0.0), (CORE_RADIUS_MM, CORE_RADIUS_MM), step_mm=_STEP_MM)]),
        ),
    }
    return _in_slab("CShape", outlines, seed, noise_hu)


def head_neck(*, seed: int = 119, noise_hu: float = 4.0) -> PhantomStudy:
    """PTV_5000, all of the front from skull base to upper neck with the posterior nodes; SpinalCord; Parotid_L, Parotid_R.

    After the report's description, which has no closed dimensions: the target lies 6 mm under the skin and 15 mm
    from the cord, the parotids at its superior end. The outline is that of a head and neck, of water throughout.
    """
    z = _grid().axis_mm(0)
    body = _stack(z, -120, 120, lambda at: [ellipse((0.0, 0.0), _neck(at))])
    outlines = {
        "PTV_5000": ("PTV", (220, 30, 30), _stack(z, *_NECK_TARGET_MM, _neck_target)),
        "SpinalCord": (
            "ORGAN",
            (240, 220, 0),
            _stack(z, -110, 110, lambda _: [ellipse(_CORD_MM, (_CORD_RADIUS_MM, _CORD_RADIUS_MM), step_mm=_STEP_MM)]),
        ),
        "Parotid_L": ("ORGAN", (0, 140, 220), _stack(z, -120, 120, lambda at: _parotid(at, 1.0))),
        "Parotid_R": ("ORGAN", (60, 190, 230), _stack(z, -120, 120, lambda at: _parotid(at, -1.0))),
    }
    return _study("HeadNeckTG", _grid(height_mm=198.0), body, outlines, seed, noise_hu)


def _grid(*, height_mm: float = SLAB_MM[1]) -> VoxelGrid:
    """CT planes half a plane off the slab's ends and pixels half a pixel off its faces: the slab covers whole voxels."""
    size = (SLAB_MM[2], height_mm + 2 * _AIR_MM[1], SLAB_MM[0] + 2 * _AIR_MM[0])
    shape = tuple(round(length / step) for length, step in zip(size, SPACING_MM, strict=True))
    first = tuple(-0.5 * (count - 1) * step for count, step in zip(shape, SPACING_MM, strict=True))
    return VoxelGrid((shape[0], shape[1], shape[2]), SPACING_MM, (first[2], first[1], first[0]))


def _stack(z: NDArray[np.float64], low_mm: float, high_mm: float, section: Section) -> Outlines:
    """Outlines of ``section(z)`` on the planes from ``low_mm`` to ``high_mm``; empty sections are left out."""
    found = {index: section(at) for index, at in planes_of(z, low_mm, high_mm)}
    return {index: polygons for index, polygons in found.items() if polygons}


def _in_slab(
    name: str, outlines: dict[str, tuple[str, tuple[int, int, int], Outlines]], seed: int, noise_hu: float
) -> PhantomStudy:
    grid = _grid()
    slab = _stack(grid.axis_mm(0), -120, 120, lambda _: [rectangle((0.0, 0.0), SLAB_MM[:2])])
    return _study(name, grid, slab, outlines, seed, noise_hu)


def _study(
    name: str,
    grid: VoxelGrid,
    body: Outlines,
    outlines: dict[str, tuple[str, tuple[int, int, int], Outlines]],
    seed: int,
    noise_hu: float,
) -> PhantomStudy:
    """Water inside ``body``, the structures in it, BODY first."""
    z = grid.axis_mm(0)
    every = {"BODY": ("EXTERNAL", (0, 160, 80), body), **outlines}
    structures = tuple(
        structure(roi, number, kind, color, drawn, z)
        for number, (roi, (kind, color, drawn)) in enumerate(every.items(), start=1)
    )
    ct = paint(grid, [Material(0.0, body)], noise_hu=noise_hu, seed=seed)
    return PhantomStudy(name, f"DICOMPLAN-TG119-{name.upper()}", PatientCase(ct, structures, "HFS"))


def first_exit(center_mm: tuple[float, float], inside: Inside, *, reach_mm: float) -> Polygon:
    """Outline of the part of a region that ``center_mm`` sees: on each of 720 rays the first way out.

    ``inside`` maps points (n, 2) to bool; the centre must be inside. Rays are walked in steps of 2 mm up to ``reach_mm``,
    the border is then found by bisection to 0.001 mm.
    """
    angle = 0.01234567 + np.arange(720) * (2.0 * np.pi / 720)
    ray = np.column_stack([np.cos(angle), np.sin(angle)])
    steps = np.arange(0.0, reach_mm, 2.0)
    points = np.asarray(center_mm) + steps[:, None, None] * ray
    within = inside(points.reshape(-1, 2)).reshape(len(steps), 720)
    out = np.argmin(within, axis=0)
    if not within[0].all() or (out == 0).any():
        raise ValueError("the centre is not inside of the region, or the region reaches too far")
    low, high = steps[out - 1], steps[out]
    for _ in range(11):
        middle = 0.5 * (low + high)
        still = inside(np.asarray(center_mm) + ray * middle[:, None])
        low, high = np.where(still, middle, low), np.where(still, high, middle)
    return evenly_spaced(np.asarray(center_mm) + ray * low[:, None], _STEP_MM)


def _arc(radius_mm: float, from_deg: float, to_deg: float) -> Polygon:
    """Points round the origin; the angle is counted from the front (-y) towards +x."""
    count = max(2, round(radius_mm * np.deg2rad(abs(to_deg - from_deg)) / 0.2))
    angle = np.deg2rad(np.linspace(from_deg, to_deg, count))
    return radius_mm * np.column_stack([np.sin(angle), -np.cos(angle)])


def _c_section() -> Polygon:
    """The C: two arcs, their ends joined by straight lines across the arms."""
    inner_mm, outer_mm = CORE_RADIUS_MM + 5.0, 37.0
    inner, outer = (90.0 + np.rad2deg(np.arcsin(_ARM_END_MM / radius)) for radius in (inner_mm, outer_mm))
    return evenly_spaced(np.vstack([_arc(outer_mm, -outer, outer), _arc(inner_mm, inner, -inner)]), _STEP_MM)


_RECTUM_Y_MM = 13.0 - _INDENT_MM + _WALL_MM + RECTUM_RADIUS_MM


def _rectum(_: float) -> list[Polygon]:
    return [ellipse((0.0, _RECTUM_Y_MM), (RECTUM_RADIUS_MM, RECTUM_RADIUS_MM), step_mm=_STEP_MM)]


def _bladder(at: float) -> list[Polygon]:
    s = float(np.sqrt(max(0.0, 1.0 - ((at - _BLADDER_MM[2]) / 25.0) ** 2)))
    return [ellipse(_BLADDER_MM[:2], (25.0 * s, 20.0 * s), step_mm=_STEP_MM)] if s > 0.1 else []


def _in_prostate(point_mm: NDArray[np.float64], at: float) -> NDArray[np.bool_]:
    """Whether points (n, 2) of the plane lie in the ellipsoid and not in its concavity."""
    x, y = point_mm[:, 0], point_mm[:, 1]
    ellipsoid = (x / 20.0) ** 2 + (y / 13.0) ** 2 + (at / 32.5) ** 2 <= 1.0
    result: NDArray[np.bool_] = ellipsoid & (x**2 + (y - _RECTUM_Y_MM) ** 2 >= (RECTUM_RADIUS_MM + _WALL_MM) ** 2)
    return result


def _prostate_ctv(at: float) -> list[Polygon]:
    if abs(at) > 32.0:
        return []
    return [first_exit((0.0, 0.0), lambda point: _in_prostate(point, at), reach_mm=40.0)]


def _prostate_ptv() -> Section:
    """Section of all that is at most 6 mm from the CTV, by the distance to points at most 1 mm apart on its surface."""
    from scipy.spatial import cKDTree

    surface = [
        np.column_stack([polygon, np.full(len(polygon), at)])
        for at in np.arange(-32.25, 32.3, 0.5)
        for polygon in _prostate_ctv(float(at))
    ]
    tree = cKDTree(np.concatenate(surface))

    def section(at: float) -> list[Polygon]:
        def near(point: NDArray[np.float64]) -> NDArray[np.bool_]:
            result = _in_prostate(point, at)
            outer = ~result
            place = np.column_stack([point[outer], np.full(int(outer.sum()), at)])
            result[outer] = tree.query(place)[0] <= PTV_MARGIN_MM
            return result

        return [first_exit((0.0, 0.0), near, reach_mm=40.0)] if near(np.zeros((1, 2)))[0] else []

    return section


def _neck(at: float) -> tuple[float, float]:
    return along_z(at, _NECK_A), along_z(at, _NECK_B)


def _parotid_scale(at: float, margin_mm: float) -> float:
    return float(1.0 - ((at - _PAROTID_MM[2]) / (_PAROTID_SEMI_MM[2] + margin_mm)) ** 2)


def _parotid(at: float, side: float) -> list[Polygon]:
    s = _parotid_scale(at, 0.0)
    if s < 0.02:
        return []
    center = (side * _PAROTID_MM[0], _PAROTID_MM[1])
    return [ellipse(center, (_PAROTID_SEMI_MM[0] * s**0.5, _PAROTID_SEMI_MM[1] * s**0.5), step_mm=_STEP_MM)]


def _neck_target(at: float) -> list[Polygon]:
    """Inside the outline drawn 6 mm in, in front of the nodes' back, away from cord and parotids; seen from the front."""
    from scipy.spatial import cKDTree

    skin = cKDTree(ellipse((0.0, 0.0), _neck(at), step_mm=0.5))
    gap = _PAROTID_GAP_MM
    scale = _parotid_scale(at, gap)

    def inside(point: NDArray[np.float64]) -> NDArray[np.bool_]:
        x, y = point[:, 0], point[:, 1]
        a, b = _neck(at)
        held = (x / a) ** 2 + (y / b) ** 2 < 1.0
        held &= np.hypot(x - _CORD_MM[0], y - _CORD_MM[1]) >= _CORD_RADIUS_MM + CORD_GAP_MM + _CHORD_MM
        held &= y <= _NODES_BACK_MM
        if scale > 0.0:
            across = (np.abs(x) - _PAROTID_MM[0]) / (_PAROTID_SEMI_MM[0] + gap)
            along = (y - _PAROTID_MM[1]) / (_PAROTID_SEMI_MM[1] + gap)
            held &= across**2 + along**2 >= scale
        deep = np.zeros(len(point), dtype=np.bool_)
        deep[held] = skin.query(point[held])[0] >= SKIN_GAP_MM
        return deep

    return [first_exit((0.0, -15.0), inside, reach_mm=120.0)]
