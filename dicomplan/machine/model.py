"""The linac as plain values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class JawModel:
    """A pair of independent jaws: travel limits of the first and second edge at isocentre, mm.

    ``transmission``: fluence behind a closed jaw relative to the open field. ``max_speed_mm_s``: greatest speed of an
    edge at isocentre, 0 where the machine file does not state it. ``fixed_in_beam``: whether they stand still from the
    first control point of a beam to the last.
    """

    first_range_mm: tuple[float, float]
    second_range_mm: tuple[float, float]
    min_opening_mm: float
    transmission: float = 0.0
    max_speed_mm_s: float = 0.0
    fixed_in_beam: bool = False


@dataclass(frozen=True)
class MlcModel:
    """An MLCX: ``leaf_boundaries_mm`` (N + 1 ascending, at isocentre), limits in mm, ``transmission`` (fraction).

    ``leaf_span_mm``: greatest distance between the most extended and most retracted leaf of one bank.
    ``over_travel_mm``: how far a leaf may pass the beam axis. ``retraction_mm``: how far it may withdraw from it.
    ``min_gap_mm``: least distance of opposed leaves that move or stay open; ``interdigitation``: whether a leaf may pass
    the opposed neighbour. ``leaf_end_offset_mm``: the edge of the radiation field lies this much behind the leaf tip on
    each side, at isocentre (half the dosimetric leaf gap of rounded leaf ends). ``leaf_end_blur_mm``: standard deviation, at
    isocentre, of the Gaussian that what shines through rounded ends adds to the edge. ``tongue_and_groove_mm``: how far the
    tongue of a leaf reaches under its neighbour, at isocentre. ``max_speed_mm_s``: greatest leaf speed at isocentre, 0
    where the machine file does not state it.
    """

    leaf_boundaries_mm: NDArray[np.float64]
    leaf_span_mm: float
    over_travel_mm: float
    retraction_mm: float
    min_gap_mm: float
    interdigitation: bool
    transmission: float
    leaf_end_offset_mm: float = 0.0
    tongue_and_groove_mm: float = 0.0
    max_speed_mm_s: float = 0.0
    leaf_end_blur_mm: float = 0.0

    @property
    def leaf_pairs(self) -> int:
        """Number of leaf pairs."""
        return len(self.leaf_boundaries_mm) - 1


@dataclass(frozen=True)
class BeamModel:
    """The photon beam.

    ``energies_mev`` and ``photon_weights`` (photons per bin, relative) are the spectrum at bin centres.
    ``source_fwhm_mm``: full width at half maximum of the Gaussian primary source, at the source.
    ``collimator_distance_mm``: distance from the source to the plane where source blur is formed (leaf end).
    ``profile_radius_mm`` / ``profile_factor``: off-axis energy fluence relative to an isotropic point source, which
    sends as much into each solid angle; 1 on the axis; the radius is that of the ray in the isocentre plane.
    ``softening_per_mm``: s in mu(r) = mu(0) (1 + s r), mu the mean attenuation coefficient of the spectrum in water, r
    the radius in the isocentre plane; positive behind a flattening filter, where the beam is softer off axis. Only the
    attenuation follows it: the profile is that of the release in water, which a small chamber in air sees.
    ``extra_focal_weight``: share of the on-axis fluence of a large open field at isocentre that comes from the
    extra-focal source, a Gaussian of full width at half maximum ``extra_focal_fwhm_mm`` in a plane
    ``extra_focal_distance_mm`` from the primary source (both measured in that plane, none at isocentre). The fluence of
    the calibration field is the unit of all. ``extra_focal_tail``: share of that source that comes from a Gaussian
    :data:`~dicomplan.dose.fluence.TAIL_WIDTH` times as wide.
    ``electron_weight`` and ``electron_depth_mm``: electron contamination w exp(-z / d), dose at the surface of a large
    open field relative to the energy that its photons release there, and depth d in water at which it has fallen to 1/e.
    """

    nominal_energy_mv: float
    energies_mev: NDArray[np.float64]
    photon_weights: NDArray[np.float64]
    source_fwhm_mm: float
    collimator_distance_mm: float
    profile_radius_mm: NDArray[np.float64]
    profile_factor: NDArray[np.float64]
    softening_per_mm: float = 0.0
    extra_focal_weight: float = 0.0
    extra_focal_fwhm_mm: float = 0.0
    extra_focal_distance_mm: float = 0.0
    extra_focal_tail: float = 0.0
    electron_weight: float = 0.0
    electron_depth_mm: float = 0.0


@dataclass(frozen=True)
class Calibration:
    """``dose_per_mu_gy`` in water on the axis at ``depth_mm`` and ``source_surface_distance_mm`` for a square field
    of ``field_mm`` (at isocentre)."""

    dose_per_mu_gy: float
    source_surface_distance_mm: float
    depth_mm: float
    field_mm: float


@dataclass(frozen=True)
class CollisionZone:
    """Gantry angles that meet couch or patient while the couch stands within ``couch_deg``.

    Both are sectors (first, second) in degrees, IEC 61217, from the first in the sense of rising angles to the second.
    """

    couch_deg: tuple[float, float]
    gantry_deg: tuple[float, float]


@dataclass(frozen=True)
class MachineModel:
    """A linac: geometry, limits, beam data and calibration.

    ``source`` is the machine file's text, with the tables that it names as comments behind it: equal texts, equal
    machines. ``provenance`` says which data set which parameter. ``collisions``: angles that cannot be driven to.
    """

    name: str
    description: str
    source_axis_distance_mm: float
    jaw_x: JawModel | None
    jaw_y: JawModel | None
    mlc: MlcModel
    beam: BeamModel
    calibration: Calibration
    dose_rate_mu_min: float
    min_segment_meterset_mu: float
    min_segment_area_cm2: float
    source: str = ""
    provenance: tuple[str, ...] = ()
    collisions: tuple[CollisionZone, ...] = ()
