"""What is measured of a photon beam in water, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class DepthCurve:
    """Dose on the axis over depth, relative, in a rectangular field.

    ``field_mm`` (x, y) at isocentre. ``source_surface_distance_mm`` of a percentage depth dose; None for tissue-phantom
    ratios: there the chamber stays at the isocentre and the surface comes nearer. ``source``: file (and scan).
    """

    field_mm: tuple[float, float]
    source_surface_distance_mm: float | None
    depth_mm: FloatArray
    value: FloatArray
    source: str


@dataclass(frozen=True)
class Profile:
    """Dose across the beam at one depth, relative, along the machine's ``axis`` through the beam's.

    ``position_mm`` is where the detector was, at depth; ``field_mm`` (x, y) at isocentre.
    """

    field_mm: tuple[float, float]
    source_surface_distance_mm: float
    depth_mm: float
    axis: Literal["x", "y"]
    position_mm: FloatArray
    value: FloatArray
    source: str


@dataclass(frozen=True)
class OutputFactors:
    """Dose per MU on the axis at one depth relative to one of the fields; ``field_mm`` (n, 2) x and y at isocentre."""

    field_mm: FloatArray
    source_surface_distance_mm: float
    depth_mm: float
    value: FloatArray
    source: str


@dataclass(frozen=True)
class PrimaryFluence:
    """Off-axis fluence relative to the axis, over the radius in the isocentre plane, without inverse-square fall-off."""

    radius_mm: FloatArray
    factor: FloatArray
    source: str


@dataclass(frozen=True)
class AbsoluteDose:
    """Gy per MU in water on the axis, in a square field."""

    dose_per_mu_gy: float
    source_surface_distance_mm: float
    depth_mm: float
    field_mm: float
    source: str


@dataclass(frozen=True)
class HeadGeometry:
    """Distances that come with measurements: of the axis, and from the source to the plane where the edges are."""

    source_axis_distance_mm: float
    collimator_distance_mm: float
    source: str


@dataclass(frozen=True)
class Measurements:
    """All that was measured of one beam. ``unused`` says what was found and is not used, and why."""

    depth_curves: tuple[DepthCurve, ...] = ()
    profiles: tuple[Profile, ...] = ()
    output_factors: tuple[OutputFactors, ...] = ()
    primary_fluence: PrimaryFluence | None = None
    absolute_dose: AbsoluteDose | None = None
    head: HeadGeometry | None = None
    unused: tuple[str, ...] = ()


def side_mm(field_mm: tuple[float, float]) -> float:
    """Side of the equivalent square of a rectangular field, 2 x y / (x + y): J. Sterling et al., Br J Radiol 37 (1964) 544."""
    x, y = field_mm
    return 2.0 * x * y / (x + y)
