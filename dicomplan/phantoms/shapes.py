"""Planar shapes of the phantoms: analytic outlines as polygons, and the painter that turns them into CT numbers.

All outlines are ``(n, 2)`` float64 in patient coordinates x, y (mm), closed, the first point not repeated. They are
sampled from formulas, so that a test can compare volumes and distances with the formula, then rounded to 0.001 mm, the
digits that are printed into the RTSTRUCT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.case import CTVolume, Structure

Polygon = NDArray[np.float64]
Knots = Sequence[tuple[float, float]]

# Equal to no multiple of a whole angle: keeps sampled points off values where the last bit decides a rounding.
_PHASE_RAD = 0.01234567


@dataclass(frozen=True)
class Material:
    """A region painted into the CT: its ``outlines`` on each plane (index -> polygons, XOR) and its CT number in HU."""

    hu: float
    outlines: dict[int, list[Polygon]]


def along_z(z_mm: float, knots: Knots) -> float:
    """Value at ``z_mm`` of the broken line through ``knots`` ((z in mm, value), any order), held beyond its ends."""
    ordered = sorted(knots)
    return float(np.interp(z_mm, [z for z, _ in ordered], [value for _, value in ordered]))


def barrel(z_mm: float, low_mm: float, high_mm: float, exponent: float = 3.0) -> float:
    """Scale 0..1 of a section at ``z_mm`` of a body from ``low_mm`` to ``high_mm`` with rounded ends.

    ``(1 - |u|^p)^(1/p)`` with u from -1 to 1 between the ends: p = 2 is an ellipsoid, larger p a barrel; 0 outside.
    """
    u = abs((z_mm - 0.5 * (low_mm + high_mm)) / (0.5 * (high_mm - low_mm)))
    return float((1.0 - u**exponent) ** (1.0 / exponent)) if u < 1.0 else 0.0


def evenly_spaced(points_mm: Polygon, step_mm: float) -> Polygon:
    """The closed polygon through ``points_mm`` sampled at equal arc lengths of at most ``step_mm``, rounded to 0.001 mm."""
    closed = np.vstack([points_mm, points_mm[:1]])
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    count = max(3, int(np.ceil(length[-1] / step_mm)))
    at = np.arange(count) * (length[-1] / count)
    return np.round(np.column_stack([np.interp(at, length, closed[:, axis]) for axis in (0, 1)]), 3)


def ellipse(
    center_mm: tuple[float, float],
    semi_axes_mm: tuple[float, float],
    *,
    angle_deg: float = 0.0,
    exponent: float = 2.0,
    step_mm: float = 1.5,
) -> Polygon:
    """Outline of the superellipse ``|x/a|^p + |y/b|^p = 1``, turned by ``angle_deg`` from +x towards +y.

    Points at most ``step_mm`` apart, on the curve itself within the sagitta of a 0.1 mm chord.
    """
    a, b = semi_axes_mm
    count = max(64, int(20 * (a + b)))
    t = _PHASE_RAD + np.arange(count) * (2.0 * np.pi / count)
    radius = (np.abs(np.cos(t) / a) ** exponent + np.abs(np.sin(t) / b) ** exponent) ** (-1.0 / exponent)
    x, y = radius * np.cos(t), radius * np.sin(t)
    turn = np.deg2rad(angle_deg)
    turned = np.column_stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)])
    return evenly_spaced(turned + np.asarray(center_mm), step_mm)


def rectangle(center_mm: tuple[float, float], size_mm: tuple[float, float], *, step_mm: float = 10.0) -> Polygon:
    """Outline of an upright rectangle: exact corners, further points at most ``step_mm`` apart on its sides."""
    half = 0.5 * np.asarray(size_mm)
    corners = np.asarray(center_mm) + half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=np.float64)
    sides = []
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        count = max(1, int(np.ceil(np.abs(end - start).max() / step_mm)))
        sides.append(start + (np.arange(count) / count)[:, None] * (end - start))
    return np.round(np.vstack(sides), 3)


def crescent(
    center_mm: tuple[float, float],
    inner_mm: tuple[float, float],
    thickness_mm: tuple[float, float],
    half_angle_deg: float,
    *,
    sharpness: float = 6.0,
    step_mm: float = 1.5,
) -> Polygon:
    """Outline of a crescent that opens to the back (+y) and lies round an inner ellipse.

    The inner edge is the ellipse of semi-axes ``inner_mm``, the point at the angle f from the front (-y) being
    ``center + (sin f, -cos f) * inner``. The outer edge lies ``t(f) * sqrt(1 - (f / half_angle)^sharpness)`` further out
    along (sin f, -cos f), where t goes from ``thickness_mm[0]`` in front to ``thickness_mm[1]`` at the sides as
    sin^2 f. The tips at ``half_angle_deg`` are round, and nothing of it lies inside the inner ellipse.
    """
    half = np.deg2rad(half_angle_deg)
    front, side = thickness_mm
    count = max(96, int(20 * half * (max(inner_mm) + max(thickness_mm))))
    # The sine crowds the points towards the tips, where the outer edge turns round.
    f = half * np.sin(np.linspace(-0.5 * np.pi, 0.5 * np.pi, count))
    ray = np.column_stack([np.sin(f), -np.cos(f)])
    inner = np.asarray(center_mm) + ray * np.asarray(inner_mm)
    width = front + (side - front) * np.sin(f) ** 2
    width *= np.sqrt(np.clip(1.0 - np.abs(f / half) ** sharpness, 0.0, 1.0))
    outer = inner + ray * width[:, None]
    return evenly_spaced(np.vstack([outer, inner[-2:0:-1]]), step_mm)


def star_union(
    center_mm: tuple[float, float],
    ellipses: Sequence[tuple[tuple[float, float], tuple[float, float], float]],
    *,
    inset_mm: float = 0.0,
    step_mm: float = 2.0,
) -> Polygon:
    """Outline of the union of upright superellipses (centre, semi-axes, exponent) that all contain ``center_mm``.

    Each is star-shaped about the centre, hence so is the union, whose radius is the greatest of theirs (found by
    bisection along 720 rays). ``inset_mm`` draws the outline nearer to the centre by that much.
    """
    t = _PHASE_RAD + np.arange(720) * (2.0 * np.pi / 720)
    ray = np.column_stack([np.cos(t), np.sin(t)])
    low, high = np.zeros(720), np.full(720, 1000.0)
    for _ in range(48):
        middle = 0.5 * (low + high)
        point = np.asarray(center_mm) + ray * middle[:, None]
        inside = np.zeros(720, dtype=bool)
        for center, semi, exponent in ellipses:
            inside |= (np.abs((point - center) / semi) ** exponent).sum(axis=1) <= 1.0
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    radius = 0.5 * (low + high) - inset_mm
    return evenly_spaced(np.asarray(center_mm) + ray * radius[:, None], step_mm)


def planes_of(z_mm: NDArray[np.float64], low_mm: float, high_mm: float) -> list[tuple[int, float]]:
    """Index and z (mm) of the CT planes within ``low_mm <= z <= high_mm``."""
    return [(index, float(z)) for index, z in enumerate(z_mm) if low_mm <= z <= high_mm]


def structure(
    name: str,
    number: int,
    roi_type: str,
    color_rgb: tuple[int, int, int],
    outlines: dict[int, list[Polygon]],
    z_mm: NDArray[np.float64],
) -> Structure:
    """A Structure from outlines on planes: each polygon becomes a contour exactly at its plane's z."""
    contours = tuple(
        np.column_stack([polygon, np.full(len(polygon), z_mm[index])])
        for index in sorted(outlines)
        for polygon in outlines[index]
    )
    return Structure(name, number, roi_type, contours, color_rgb)


def paint(grid: VoxelGrid, materials: Sequence[Material], *, noise_hu: float, seed: int) -> CTVolume:
    """CT of the materials in air (-1000 HU), later ones over earlier ones, with noise, in whole HU.

    A pixel on an outline is mixed by the covered area (partial volume, as a scanner does). The grid's axes must be the
    patient's. Values are held within -1024..3071 HU, what 12 bits hold; see :func:`noise` for ``noise_hu`` and ``seed``.
    """
    # Numba comes with the kernels: importing this module must not load it.
    from dicomplan.geometry.polygons import polygon_coverage

    x_edges, y_edges = grid.edges_mm(2), grid.edges_mm(1)
    hu = np.full(grid.shape, -1000.0)
    for material in materials:
        for index, polygons in material.outlines.items():
            covered = polygon_coverage(polygons, x_edges, y_edges)
            hu[index] += covered * (material.hu - hu[index])
    hu += noise(grid.shape, noise_hu, seed)
    return CTVolume(grid, np.clip(np.rint(hu), -1024, 3071).astype(np.float32))


def noise(shape: tuple[int, int, int], sigma_hu: float, seed: int) -> NDArray[np.float64]:
    """Noise of standard deviation ``sigma_hu``, correlated over neighbouring pixels of a plane as in a real CT.

    Sums of four 16-bit integers (near normal, never beyond 3.5 sigma) of the raw PCG64 stream, whose values numpy
    promises for all versions and machines, then a (1 2 1)/4 filter along x and y: the same bits everywhere.
    """
    planes, rows, columns = shape
    if sigma_hu == 0.0:
        return np.zeros(shape)
    raw = np.random.PCG64(seed).random_raw(planes * (rows + 2) * (columns + 2)).astype("<u8")
    parts = raw.view("<u2").reshape(planes, rows + 2, columns + 2, 4).astype(np.int64)
    white = parts.sum(axis=3) - 2 * 65535
    across = white[:, :, :-2] + 2 * white[:, :, 1:-1] + white[:, :, 2:]
    smooth = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    # Variance of a uniform 16-bit integer is (2^32 - 1) / 12; four of them; weights squared sum to 6 * 6.
    sigma = np.sqrt(4 * (2.0**32 - 1) / 12 * 36)
    scaled: NDArray[np.float64] = smooth * (sigma_hu / sigma)
    return scaled
