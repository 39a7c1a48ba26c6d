"""Curves as compact SVG paths, and arrays as inline pictures."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterable

import contourpy
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dicomplan.report.planes import Picture

FloatArray = NDArray[np.float64]

UNITS_PER_MM = 10
"""Paths are written in whole tenths of a millimetre (``transform="scale(.1)"`` brings them back)."""


def simplify(points: FloatArray, tolerance_mm: float = 0.12) -> FloatArray:
    """``points`` (n, 2) without those that lie within ``tolerance_mm`` of the line between their neighbours.

    Every other point is tried at a time, so that neighbours never vanish together.
    """
    for start in (1, 2, 1, 2):
        if len(points) < 5:
            break
        inner = np.arange(start, len(points) - 1, 2)
        before, middle, after = points[inner - 1], points[inner], points[inner + 1]
        chord = after - before
        length = np.hypot(chord[:, 0], chord[:, 1])
        offset = middle - before
        area = np.abs(chord[:, 0] * offset[:, 1] - chord[:, 1] * offset[:, 0])
        keep = np.ones(len(points), dtype=bool)
        keep[inner[(length > 0) & (area <= tolerance_mm * length)]] = False
        points = points[keep]
    return points


def path_data(lines: Iterable[FloatArray], *, closed: bool) -> str:
    """SVG path data of polylines (n, 2) in mm, written as relative moves in tenths of a millimetre.

    Points are rounded before differences are taken, so rounding errors do not add up.
    """
    written = []
    for line in lines:
        whole = np.rint(np.asarray(line, dtype=np.float64) * UNITS_PER_MM).astype(np.int64)
        steps = np.diff(whole, axis=0)
        steps = steps[np.any(steps != 0, axis=1)]
        if not len(steps):
            continue
        moves = " ".join(map(str, steps.ravel().tolist())).replace(" -", "-")
        written.append(f"M{whole[0, 0]} {whole[0, 1]}l{moves}{'z' if closed else ''}")
    return "".join(written)


def _padded(picture: Picture) -> tuple[FloatArray, FloatArray, NDArray[np.float32]]:
    def extend(axis_mm: FloatArray) -> FloatArray:
        step = float(axis_mm[1] - axis_mm[0]) if len(axis_mm) > 1 else 1.0
        return np.concatenate([[axis_mm[0] - step], axis_mm, [axis_mm[-1] + step]])

    return extend(picture.u_mm), extend(picture.v_mm), np.pad(picture.values, 1)


def outline(picture: Picture, level: float = 0.5) -> str:
    """Path data of the closed line where ``picture`` passes ``level`` (outside the picture it is 0)."""
    u_mm, v_mm, values = _padded(picture)
    lines = contourpy.contour_generator(u_mm, v_mm, values).lines(level)
    return path_data((simplify(np.asarray(line, dtype=np.float64)) for line in lines), closed=True)


def bands(picture: Picture, levels: NDArray[np.float64]) -> list[str]:
    """Path data of the areas between each of the ascending ``levels`` and the next (the last: all above it).

    To be filled by the even-odd rule; the lower edge of band k is the isoline of level k.
    """
    u_mm, v_mm, values = _padded(picture)
    generator = contourpy.contour_generator(u_mm, v_mm, values, fill_type="OuterOffset")
    tops = np.append(levels[1:], max(float(levels[-1]), float(values.max())) * 2 + 1)
    written = []
    for low, high in zip(levels, tops, strict=True):
        polygons, offsets = generator.filled(float(low), float(high))
        rings = [
            polygon[first:last]
            for polygon, offset in zip(polygons, offsets, strict=True)
            for first, last in itertools.pairwise(offset)
        ]
        written.append(path_data((simplify(np.asarray(ring, dtype=np.float64)) for ring in rings), closed=True))
    return written


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """``data:`` address of a PNG of ``pixels``: (rows, columns) grey or (rows, columns, 3) RGB."""
    target = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(target, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(target.getvalue()).decode("ascii")


def grey_levels(hu: NDArray[np.float32], window_hu: tuple[float, float]) -> NDArray[np.uint8]:
    """CT numbers to grey 0..255 between the two ends of the window."""
    low, high = window_hu
    grey: NDArray[np.uint8] = np.rint(np.clip((hu - low) / (high - low), 0.0, 1.0) * 255.0).astype(np.uint8)
    return grey
