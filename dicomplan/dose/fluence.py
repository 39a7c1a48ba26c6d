"""Fluence on the isocentre plane: from apertures with their metersets, or from beamlets, to what the engines take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.delivery import Aperture, Segment, stills
from dicomplan.machine.model import BeamModel, MachineModel, MlcModel

FloatArray = NDArray[np.float64]

PLANE_STEP_MM = 1.0
"""Pixel of a fluence plane at isocentre: a leaf edge within a pixel counts by the area it uncovers."""

TAIL_WIDTH = 3.0
"""How much wider the tail of the extra-focal source is than its middle. Flattening filter and primary collimator send photons
from a spot with a wide skirt (D. Jaffray et al., Med Phys 20 (1993) 1417-1427): with one Gaussian, output factors that hold at 4
and 40 cm are 1 to 2 % high at 3 cm and 0.7 to 0.9 % at 15 to 20 cm, on both of the shipped machines that are commissioned."""

_EXTRA_FOCAL_REACH = 2.5  # standard deviations; what is beyond is less than 1 % of a few per cent
_TAIL_REACH = 2.0  # as that, of the tail

_FWHM_PER_SIGMA = float(2.0 * np.sqrt(2.0 * np.log(2.0)))


@dataclass(frozen=True)
class FluencePlane:
    """Photon fluence of one beam on the isocentre plane, in beam limiting device coordinates.

    ``values`` (ny, nx) float64: what is open, times the beam's off-axis profile, times the meterset in MU of one
    fraction where one is stated; an isotropic point source in an open field gives the same value everywhere (the
    fall-off with the angle and the distance is the engines'). ``x_mm`` (nx,) and ``y_mm`` (ny,) are the uniform pixel
    centres. Outside of the plane there is nothing.
    """

    values: FloatArray
    x_mm: FloatArray
    y_mm: FloatArray

    @property
    def step_mm(self) -> float:
        """Pixel size in mm, the same along x and y."""
        return float(self.x_mm[1] - self.x_mm[0])


def plane_axes(
    x_range_mm: tuple[float, float], y_range_mm: tuple[float, float], step_mm: float = PLANE_STEP_MM
) -> tuple[FloatArray, FloatArray]:
    """Pixel centres (x, y) of a plane that holds both ranges; pixel edges at whole multiples of ``step_mm``."""
    return _centres(*x_range_mm, step_mm), _centres(*y_range_mm, step_mm)


def _centres(low_mm: float, high_mm: float, step_mm: float) -> FloatArray:
    first = int(np.floor(low_mm / step_mm + 1e-9))
    last = max(int(np.ceil(high_mm / step_mm - 1e-9)), first + 2)
    centres: FloatArray = (np.arange(first, last, dtype=np.float64) + 0.5) * step_mm
    return centres


def together(one: FluencePlane, other: FluencePlane) -> FluencePlane:
    """The sum of two planes of :func:`plane_axes` with the same pixel, as wide as both."""
    step = one.step_mm
    ranges = [
        (min(a[0], b[0]) - 0.5 * step, max(a[-1], b[-1]) + 0.5 * step)
        for a, b in ((one.x_mm, other.x_mm), (one.y_mm, other.y_mm))
    ]
    x_mm, y_mm = plane_axes(ranges[0], ranges[1], step)
    values = np.zeros((len(y_mm), len(x_mm)))
    for plane in (one, other):
        row, column = (round((axis[0] - wide[0]) / step) for axis, wide in ((plane.y_mm, y_mm), (plane.x_mm, x_mm)))
        values[row : row + len(plane.y_mm), column : column + len(plane.x_mm)] += plane.values
    return FluencePlane(values, x_mm, y_mm)


def source_sigma_mm(beam: BeamModel, source_axis_distance_mm: float) -> float:
    """Standard deviation (mm on the isocentre plane) of the edge blur that the primary source's size makes.

    The source is seen through the edge at ``collimator_distance_mm``: similar triangles give FWHM x (SAD - c) / c.
    """
    if beam.source_fwhm_mm <= 0 or beam.collimator_distance_mm <= 0:
        return 0.0
    collimator = beam.collimator_distance_mm
    return beam.source_fwhm_mm / _FWHM_PER_SIGMA * (source_axis_distance_mm - collimator) / collimator


def profile_factor(beam: BeamModel, x_mm: FloatArray, y_mm: FloatArray) -> FloatArray:
    """(ny, nx) off-axis fluence factor of the beam at pixel centres of the isocentre plane."""
    radius = np.hypot(x_mm[None, :], y_mm[:, None])
    factor: FloatArray = np.interp(radius, beam.profile_radius_mm, beam.profile_factor)
    return factor


def box_overlap(low_mm: FloatArray, high_mm: FloatArray, centres_mm: FloatArray) -> FloatArray:
    """(n, m) fraction of each of m pixels (uniform centres, mm) that the n intervals [low, high] (mm) cover."""
    step = centres_mm[1] - centres_mm[0]
    start, stop = centres_mm - 0.5 * step, centres_mm + 0.5 * step
    covered = np.minimum(high_mm[..., None], stop) - np.maximum(low_mm[..., None], start)
    share: FloatArray = np.clip(covered, 0.0, None) / step
    return share


def blurred_overlap(low_mm: FloatArray, high_mm: FloatArray, centres_mm: FloatArray, sigma_mm: float) -> FloatArray:
    """As :func:`box_overlap`, the intervals convolved with a Gaussian and the value taken at the pixels' centres."""
    if sigma_mm <= 0.0:
        return box_overlap(low_mm, high_mm, centres_mm)
    from scipy.special import ndtr

    share: FloatArray = ndtr((high_mm[:, None] - centres_mm) / sigma_mm) - ndtr(
        (low_mm[:, None] - centres_mm) / sigma_mm
    )
    return share


def aperture_transmission(aperture: Aperture, machine: MachineModel, x_mm: FloatArray, y_mm: FloatArray) -> FloatArray:
    """(ny, nx) transmitted fraction of the primary fluence through one aperture, before source blur and profile.

    1 where neither leaf nor jaw covers, the leaves' transmission under a leaf, the jaws' times that under a jaw; pixels
    that an edge crosses count by area. The radiation edge lies ``leaf_end_offset_mm`` behind each leaf tip,
    and is blurred by ``leaf_end_blur_mm``. Along an
    exposed leaf side, tongues and grooves leave a strip that half the leaf's height shields: the square root of the
    leaves' transmission. It is half of ``tongue_and_groove_mm`` wide: sides with a tongue reach out by all of it, those
    with a groove by nothing, and which is which is left open.
    """
    mlc = machine.mlc
    opened = _leaf_opening(aperture, mlc, x_mm, y_mm)
    result = mlc.transmission + (1.0 - mlc.transmission) * opened
    for jaw, model, axis in ((aperture.jaw_x_mm, machine.jaw_x, x_mm), (aperture.jaw_y_mm, machine.jaw_y, y_mm)):
        if jaw is None:
            continue
        through = model.transmission if model is not None else 0.0
        share = box_overlap(np.array([jaw[0]]), np.array([jaw[1]]), axis)[0]
        factor = through + (1.0 - through) * share
        result = result * (factor[None, :] if axis is x_mm else factor[:, None])
    return result


def _leaf_opening(aperture: Aperture, mlc: MlcModel, x_mm: FloatArray, y_mm: FloatArray) -> FloatArray:
    first, second = aperture.leaf_positions_mm
    first, second = first - mlc.leaf_end_offset_mm, second + mlc.leaf_end_offset_mm
    # leaves that touch are closed whatever the shape of their ends
    closed = aperture.leaf_positions_mm[1] - aperture.leaf_positions_mm[0] <= 0
    second = np.where(closed, first, second)
    along = blurred_overlap(first, second, x_mm, mlc.leaf_end_blur_mm)
    across = box_overlap(mlc.leaf_boundaries_mm[:-1], mlc.leaf_boundaries_mm[1:], y_mm)
    opened: FloatArray = across.T @ along
    if mlc.tongue_and_groove_mm > 0:
        through = (np.sqrt(mlc.transmission) - mlc.transmission) / (1.0 - mlc.transmission)
        opened -= (1.0 - through) * _exposed_sides(first, second, along, mlc, x_mm, y_mm)
    return opened


def _exposed_sides(
    first: FloatArray, second: FloatArray, along: FloatArray, mlc: MlcModel, x_mm: FloatArray, y_mm: FloatArray
) -> FloatArray:
    """(ny, nx) share of each pixel that lies in a strip beside a leaf whose neighbour is open."""
    strip = 0.5 * mlc.tongue_and_groove_mm
    low, high = np.maximum(first[:-1], first[1:]), np.minimum(second[:-1], second[1:])
    both = blurred_overlap(low, np.maximum(low, high), x_mm, mlc.leaf_end_blur_mm)
    inner = mlc.leaf_boundaries_mm[1:-1]
    below = box_overlap(inner - strip, inner, y_mm).T @ (along[:-1] - both)
    above = box_overlap(inner, inner + strip, y_mm).T @ (along[1:] - both)
    exposed: FloatArray = below + above
    return exposed


def delivered_plane(
    segments: Sequence[Segment], machine: MachineModel, x_mm: FloatArray, y_mm: FloatArray
) -> FluencePlane:
    """Fluence plane of segments: transmitted fraction x meterset (MU), off-axis profile applied.

    Leaves and jaws that move are followed in the steps of :func:`~dicomplan.beams.delivery.stills`.

    The blur by the source's size is the engines' part: they know how far behind the edge they look. With an
    extra-focal source the plane is wider than ``x_mm`` and ``y_mm``.
    """
    total = np.zeros((len(y_mm), len(x_mm)))
    for segment in stills(segments):
        total += segment.meterset_mu * aperture_transmission(segment.aperture, machine, x_mm, y_mm)
    return both_sources(total, machine, x_mm, y_mm)


def open_plane(x_range_mm: tuple[float, float], y_range_mm: tuple[float, float], machine: MachineModel) -> FluencePlane:
    """Fluence plane of a rectangular field (mm at isocentre) that nothing leaks into: what calibrations are made with.

    Machines without X jaws set it by leaf ends, with their offset and blur.
    """
    opened, x_mm, y_mm = open_field(x_range_mm, y_range_mm, machine)
    return both_sources(opened, machine, x_mm, y_mm)


def open_field(
    x_range_mm: tuple[float, float], y_range_mm: tuple[float, float], machine: MachineModel
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Opening (ny, nx) of :func:`open_plane`, 0 to 1, with its pixel centres x (nx,) and y (ny,)."""
    low, high, blur = *x_range_mm, 0.0
    if machine.jaw_x is None:
        offset, blur = machine.mlc.leaf_end_offset_mm, machine.mlc.leaf_end_blur_mm
        low, high = low - offset, high + offset
    x_mm, y_mm = plane_axes((low - 4.0 * blur, high + 4.0 * blur), y_range_mm)
    along = blurred_overlap(np.array([low]), np.array([high]), x_mm, blur)
    across = box_overlap(np.array([y_range_mm[0]]), np.array([y_range_mm[1]]), y_mm)
    return across.T @ along, x_mm, y_mm


def both_sources(opened: FloatArray, machine: MachineModel, x_mm: FloatArray, y_mm: FloatArray) -> FluencePlane:
    """Fluence plane behind an opening (ny, nx): ((1 - w) opened x off-axis profile + w x extra-focal fluence) / n.

    The weight w is the beam's ``extra_focal_weight``; n makes the sum 1 on the axis of the calibration field, so that the
    calibration holds whatever w is. Two-source model of this kind: P. Dunscombe and J. Nieminen, Med Phys 19 (1992)
    1441-1448. The plane is widened to where the extra-focal fluence ends. Its own blur is in it; the primary part's is not.
    """
    beam = machine.beam
    primary = opened * profile_factor(beam, x_mm, y_mm)
    weight = beam.extra_focal_weight
    if weight == 0.0:
        return FluencePlane(primary, x_mm, y_mm)
    plane = extra_focal_plane(opened, machine, x_mm, y_mm)
    margin = (len(plane.x_mm) - len(x_mm)) // 2
    values = weight * plane.values
    values[margin:-margin, margin:-margin] += (1.0 - weight) * primary
    return FluencePlane(values / calibration_field_fluence(machine), plane.x_mm, plane.y_mm)


def extra_focal_plane(opened: FloatArray, machine: MachineModel, x_mm: FloatArray, y_mm: FloatArray) -> FluencePlane:
    """Fluence of the extra-focal source alone, of weight 1, behind an opening (ny, nx): 1 where nothing covers it.

    The source is a Gaussian, or the sum of two, in a plane h from the primary source. From the point p of the isocentre plane
    (distance S) it is seen through the collimator (distance c), whose opening has its size stated at isocentre: the line from
    p to the source's point s passes it at m p + b s with m = S (c - h) / (c (S - h)) and b = S (S - c) / (c (S - h)), by
    similar triangles. The fluence at p is so the opening convolved with a Gaussian of b times the source's width, read at
    m p. All edges are taken at the one distance c.
    """
    (wide_x, along), (wide_y, across) = (extra_focal_response(axis, machine) for axis in (x_mm, y_mm))
    values = sum(share * (by_y @ opened @ by_x.T) for (share, by_x), (_, by_y) in zip(along, across, strict=True))
    return FluencePlane(np.asarray(values), wide_x, wide_y)


def extra_focal_response(
    centres_mm: FloatArray, machine: MachineModel
) -> tuple[FloatArray, tuple[tuple[float, FloatArray], ...]]:
    """One axis of :func:`extra_focal_plane`: the widened axis (m,); of each of the source's Gaussians its share and what each
    pixel (n) of the opening gives to the axis (m, n)."""
    near, gaussians = extra_focal_view(machine)
    step = float(centres_mm[1] - centres_mm[0])
    reaches = (_EXTRA_FOCAL_REACH, _TAIL_REACH)
    margin = int(np.ceil(max(reach * blur for reach, (_, blur) in zip(reaches, gaussians, strict=False)) / near / step))
    wide = step * np.arange(-margin, len(centres_mm) + margin) + centres_mm[0]
    return wide, tuple((share, _seen(centres_mm, near * wide, blur)) for share, blur in gaussians)


def calibration_field_fluence(machine: MachineModel) -> float:
    """n of :func:`both_sources`: 1 - w and w times what the calibration field shows of the extra-focal source."""
    from scipy.special import ndtr

    weight = machine.beam.extra_focal_weight
    if weight == 0.0:
        return 1.0
    _, gaussians = extra_focal_view(machine)
    half = 0.5 * machine.calibration.field_mm
    shown = sum(share * (2.0 * float(ndtr(half / blur)) - 1.0) ** 2 for share, blur in gaussians)
    return 1.0 - weight + weight * shown


def extra_focal_view(machine: MachineModel) -> tuple[float, tuple[tuple[float, float], ...]]:
    """How an extra-focal source sees edges: m of :func:`extra_focal_plane`, and the source's Gaussians: the share of each, and b
    times its standard deviation (mm)."""
    beam, total = machine.beam, machine.source_axis_distance_mm
    edge, source = beam.collimator_distance_mm, beam.extra_focal_distance_mm
    scale = total / (edge * (total - source))
    blur = beam.extra_focal_fwhm_mm / _FWHM_PER_SIGMA * scale * (total - edge)
    tail = beam.extra_focal_tail
    gaussians = ((1.0, blur),) if tail == 0.0 else ((1.0 - tail, blur), (tail, TAIL_WIDTH * blur))
    return scale * (edge - source), gaussians


def _seen(centres_mm: FloatArray, at_mm: FloatArray, sigma_mm: float) -> FloatArray:
    from scipy.special import ndtr

    half = 0.5 * (centres_mm[1] - centres_mm[0])
    upper, lower = centres_mm[None, :] + half - at_mm[:, None], centres_mm[None, :] - half - at_mm[:, None]
    share: FloatArray = ndtr(upper / sigma_mm) - ndtr(lower / sigma_mm)
    return share


def field_range_mm(
    segments: Sequence[Segment], machine: MachineModel, margin_mm: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """x and y range (mm at isocentre) of what the segments' jaws and leaves leave open, with a margin all round."""
    boundaries = machine.mlc.leaf_boundaries_mm
    x_low, x_high, y_low, y_high = np.inf, -np.inf, np.inf, -np.inf
    ends = [segment.end for segment in segments if segment.end is not None]
    for aperture in (*(segment.aperture for segment in segments), *ends):
        first, second = aperture.leaf_positions_mm
        if aperture.jaw_x_mm is not None:
            first, second = np.maximum(first, aperture.jaw_x_mm[0]), np.minimum(second, aperture.jaw_x_mm[1])
        low, high = boundaries[:-1], boundaries[1:]
        if aperture.jaw_y_mm is not None:
            low, high = np.maximum(low, aperture.jaw_y_mm[0]), np.minimum(high, aperture.jaw_y_mm[1])
        opened = (second > first) & (high > low)
        if opened.any():
            x_low, x_high = min(x_low, first[opened].min()), max(x_high, second[opened].max())
            y_low, y_high = min(y_low, low[opened].min()), max(y_high, high[opened].max())
        for jaw, is_x in ((aperture.jaw_x_mm, True), (aperture.jaw_y_mm, False)):
            if jaw is not None and is_x:
                x_low, x_high = min(x_low, jaw[0]), max(x_high, jaw[1])
            elif jaw is not None:
                y_low, y_high = min(y_low, jaw[0]), max(y_high, jaw[1])
    if not np.isfinite([x_low, x_high, y_low, y_high]).all():
        x_low = x_high = y_low = y_high = 0.0
    return (x_low - margin_mm, x_high + margin_mm), (y_low - margin_mm, y_high + margin_mm)
