"""Colours of the report: structures, isodoses, fluence; chosen to stay apart for colour-blind readers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from dicomplan.report.values import StructureDrawing

Rgb = tuple[int, int, int]

# Qualitative sets after P. Tol, "Colour schemes" (SRON/EPS/TN/09-002): vibrant for targets, muted for organs.
_TARGETS: tuple[Rgb, ...] = ((215, 20, 70), (150, 50, 190), (0, 130, 150), (150, 110, 20))
_ORGANS: tuple[Rgb, ...] = (
    (0, 119, 187),
    (17, 119, 51),
    (51, 34, 136),
    (120, 160, 40),
    (136, 34, 85),
    (120, 120, 30),
    (90, 140, 210),
    (204, 102, 119),
    (110, 60, 20),
    (60, 170, 80),
    (130, 90, 190),
    (40, 90, 110),
)
_EXTERNAL: Rgb = (110, 110, 110)
_DERIVED: tuple[Rgb, ...] = ((85, 100, 125), (140, 115, 90), (95, 130, 120), (125, 95, 130))


def luminance(color: Rgb) -> float:
    """Relative luminance 0..1 of an sRGB colour (WCAG 2.1, "relative luminance")."""
    channel = np.array(color, dtype=np.float64) / 255.0
    linear = np.where(channel <= 0.04045, channel / 12.92, ((channel + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def _blend(color: Rgb, toward: int, share: float) -> Rgb:
    red, green, blue = (round(part + (toward - part) * share) for part in color)
    return (red, green, blue)


def on_white(color: Rgb) -> Rgb:
    """``color``, darkened as far as a line on white needs (contrast at least 2.6)."""
    shares = (step / 20 for step in range(21))
    return next(shade for shade in (_blend(color, 0, share) for share in shares) if luminance(shade) <= 0.35)


def on_dark(color: Rgb) -> Rgb:
    """``color``, lightened as far as a line on a CT picture needs."""
    shares = (step / 20 for step in range(21))
    return next(shade for shade in (_blend(color, 255, share) for share in shares) if luminance(shade) >= 0.22)


def css(color: Rgb) -> str:
    """``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def structure_colors(structures: Iterable[StructureDrawing]) -> dict[str, Rgb]:
    """The colour of each structure by name: its own, or the next of the palette of its kind."""
    taken = {"target": 0, "organ": 0, "derived": 0, "external": 0}
    palettes = {"target": _TARGETS, "organ": _ORGANS, "derived": _DERIVED, "external": (_EXTERNAL,)}
    colors: dict[str, Rgb] = {}
    for structure in structures:
        if structure.color_rgb is not None:
            colors[structure.name] = structure.color_rgb
            continue
        palette = palettes[structure.kind]
        colors[structure.name] = palette[taken[structure.kind] % len(palette)]
        taken[structure.kind] += 1
    return colors


ISODOSES: tuple[tuple[float, Rgb], ...] = (
    (30.0, (84, 104, 222)),
    (50.0, (47, 143, 208)),
    (70.0, (34, 179, 179)),
    (80.0, (60, 201, 110)),
    (90.0, (165, 219, 54)),
    (95.0, (253, 231, 37)),
    (100.0, (255, 150, 30)),
    (107.0, (228, 26, 128)),
)
"""Isodose levels in percent of the highest prescription, with colours: lightness grows up to 95 %, then the hue warns."""

_FLUENCE = np.array([[12, 16, 30], [24, 62, 122], [62, 142, 202], [172, 216, 240], [255, 255, 255]], dtype=np.float64)


def fluence_colors(fraction: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Fluence as a fraction 0..1 of the scale, any shape, to RGB (..., 3): black over blue to white."""
    stops = np.linspace(0.0, 1.0, len(_FLUENCE))
    return np.stack([np.rint(np.interp(fraction, stops, _FLUENCE[:, band])) for band in range(3)], -1).astype(np.uint8)
