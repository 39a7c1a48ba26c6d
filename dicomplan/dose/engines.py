"""Dose of fluence planes on the dose grid, engine by engine: what ideal and final doses are computed with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.delivery import Beam, BeamDelivery, direction
from dicomplan.dose.collapsed_cone import collapsed_cone_dose
from dicomplan.dose.dose_to_water import DoseTo
from dicomplan.dose.fluence import (
    FluencePlane,
    blurred_overlap,
    both_sources,
    box_overlap,
    delivered_plane,
    field_range_mm,
    plane_axes,
    profile_factor,
)
from dicomplan.dose.pencil_beam import (
    BeamSamples,
    Medium,
    beam_samples,
    blurred_sigma_mm,
    pencil_beam_dose,
    photons_cm2_per_mu,
)
from dicomplan.dose.pencil_kernel import PencilKernel
from dicomplan.dose.volume import DoseVolume
from dicomplan.geometry.frames import beam_frame
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.machine.model import MachineModel
from dicomplan.patient.density import DensityVolume

Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]

REPEATED_MM = 60.0
"""So far beyond the CT's end the last slice is repeated where BODY goes on there: scatter comes from about that far."""

_CALIBRATION_STEP_MM = 2.5

FIELD_MARGIN_MM = 20.0
"""What leaks through leaves and jaws is followed so far beyond the open field, at isocentre."""


class DoseEngine(Protocol):
    """Computes dose on a grid from fluence planes."""

    @property
    def grid(self) -> VoxelGrid:
        """The grid of every dose it returns."""
        ...

    def dose_gy_per_fraction(self, beam: Beam, plane: FluencePlane) -> Float32Array:
        """Dose (z, y, x) in Gy of one fraction of a plane (MU); 0 outside BODY."""
        ...


@dataclass(frozen=True)
class PencilBeamEngine:
    """The pencil-beam engine on the voxels of BODY, dose to water: linear indices ``voxels`` on the grid of ``around``.

    What a beam sees of the voxels does not depend on its apertures; it is kept from the first time on in ``_seen``.
    """

    machine: MachineModel
    kernel: PencilKernel
    around: Medium
    voxels: IntArray
    patient_position: str
    _seen: dict[tuple[float, ...], BeamSamples] = field(default_factory=dict, repr=False)

    @property
    def grid(self) -> VoxelGrid:
        """The grid of every dose it returns."""
        return self.around.grid

    def samples(self, beam: Beam) -> BeamSamples:
        """How a beam sees the voxels of BODY."""
        key = direction(beam)
        if key not in self._seen:
            frame = beam.frame(self.patient_position)
            self._seen[key] = beam_samples(frame, self.around, self.voxels, self.kernel)
        return self._seen[key]

    def dose_gy_per_fraction(self, beam: Beam, plane: FluencePlane) -> Float32Array:
        """Dose (z, y, x) in Gy of one fraction of a plane (MU); 0 outside BODY."""
        dose = np.zeros(self.grid.shape, dtype=np.float32)
        dose.ravel()[self.voxels] = self.body_dose(beam, plane)
        return dose

    def body_dose(self, beam: Beam, plane: FluencePlane) -> Float32Array:
        """Dose (n,) in Gy of one fraction at the voxels of BODY."""
        photons = photons_cm2_per_mu(self.machine, self.kernel)
        scaled = FluencePlane(plane.values * photons, plane.x_mm, plane.y_mm)
        return pencil_beam_dose(scaled, self.samples(beam), blurred_sigma_mm(self.kernel, self.machine))


@dataclass(frozen=True)
class CollapsedConeEngine:
    """The collapsed-cone engine; ``density`` on its own grid, that of ``body`` (covered fraction) with slices repeated.

    ``repeated`` (before, after) slices along z stand for the patient where BODY goes on beyond the CT.
    ``photons_cm2_per_mu`` calibrates it (:func:`collapsed_cone_photons_cm2_per_mu`). ``dose_to`` medium or water.
    """

    machine: MachineModel
    density: DensityVolume
    body: Float32Array
    body_grid: VoxelGrid
    repeated: tuple[int, int]
    photons_cm2_per_mu: float
    patient_position: str
    dose_to: DoseTo = "medium"

    @property
    def grid(self) -> VoxelGrid:
        """The grid of every dose it returns."""
        return self.body_grid

    def dose_gy_per_fraction(self, beam: Beam, plane: FluencePlane) -> Float32Array:
        """Dose (z, y, x) in Gy of one fraction of a plane (MU); 0 outside BODY."""
        scaled = FluencePlane(plane.values * self.photons_cm2_per_mu, plane.x_mm, plane.y_mm)
        frame = beam.frame(self.patient_position)
        dose = collapsed_cone_dose(scaled, frame, self.density, self.machine.beam, dose_to=self.dose_to)
        inside = dose[self.repeated[0] : self.repeated[0] + self.body_grid.shape[0]]
        return np.where(self.body > 0, inside, np.float32(0.0))


def collapsed_cone_engine(
    machine: MachineModel,
    density: DensityVolume,
    body: Float32Array,
    patient_position: str,
    dose_to: DoseTo = "medium",
) -> CollapsedConeEngine:
    """The engine for a patient: densities on the dose grid (air outside what counts) and the covered fraction of BODY.

    Where BODY reaches the grid's first or last slice, that slice is repeated over :data:`REPEATED_MM` for scatter.
    """
    count = int(np.ceil(REPEATED_MM / density.grid.spacing_mm[0]))
    before, after = (count if bool((body[end] > 0).any()) else 0 for end in (0, -1))
    shape = density.grid.shape
    grid = density.grid.crop((-before, 0, 0), (shape[0] + after, shape[1], shape[2]))
    mass = np.pad(density.mass_g_cm3, ((before, after), (0, 0), (0, 0)), mode="edge")
    padded = DensityVolume(grid, np.ascontiguousarray(mass), density.beyond_table)
    photons = collapsed_cone_photons_cm2_per_mu(machine)
    return CollapsedConeEngine(machine, padded, body, density.grid, (before, after), photons, patient_position, dose_to)


def collapsed_cone_photons_cm2_per_mu(machine: MachineModel) -> float:
    """Photons/cm2 of the open beam on the axis at the isocentre for 1 MU, by the collapsed cone's own dose.

    Its dose in a water phantom of 300 mm in the calibration field is set equal to the stated Gy/MU.
    """
    calibration, step = machine.calibration, _CALIBRATION_STEP_MM
    across, deep = 2 * round(150.0 / step) + 1, round(300.0 / step)
    # HFS and gantry 0: the beam runs along +y, and the phantom's surface lies at y = 0
    half = 0.5 * (across - 1) * step
    grid = VoxelGrid((across, deep, across), (step, step, step), (-half, 0.5 * step, -half))
    isocenter = machine.source_axis_distance_mm - calibration.source_surface_distance_mm
    frame = beam_frame("HFS", (0.0, isocenter, 0.0), 0.0, source_axis_distance_mm=machine.source_axis_distance_mm)
    edge = 0.5 * calibration.field_mm
    x_mm, y_mm = plane_axes((-edge, edge), (-edge, edge))
    field_plane = FluencePlane(profile_factor(machine.beam, x_mm, y_mm), x_mm, y_mm)
    water = DensityVolume(grid, np.ones(grid.shape, dtype=np.float32))
    dose = collapsed_cone_dose(field_plane, frame, water, machine.beam)
    axis = dose[across // 2, :, across // 2]
    return calibration.dose_per_mu_gy / float(np.interp(calibration.depth_mm, grid.axis_mm(1), axis))


def delivery_plane(delivery: BeamDelivery, machine: MachineModel) -> FluencePlane:
    """Fluence plane of one beam's control points, from leaf and jaw positions and metersets alone (1 mm pixels)."""
    x_range, y_range = field_range_mm(delivery.segments, machine, FIELD_MARGIN_MM)
    x_mm, y_mm = plane_axes(x_range, y_range)
    return delivered_plane(delivery.segments, machine, x_mm, y_mm)


def direction_planes(deliveries: Sequence[BeamDelivery], machine: MachineModel) -> list[tuple[Beam, FluencePlane]]:
    """One plane for all beams of the same direction, such as the carriage groups of a wide field."""
    planes = []
    for items in _by_direction(deliveries):
        segments = tuple(segment for item in items for segment in item.segments)
        planes.append((items[0].beam, delivery_plane(BeamDelivery(items[0].beam, segments), machine)))
    return planes


def beam_doses(engine: DoseEngine, deliveries: Sequence[BeamDelivery], machine: MachineModel) -> list[Float32Array]:
    """Dose (z, y, x) of one fraction of each beam, Gy, in their order.

    Beams of one direction are followed on one plane, so that they add up to the dose of :func:`direction_planes`: what
    leaks is looked at equally far from all of them.
    """
    found: dict[int, Float32Array] = {}
    for items in _by_direction(deliveries):
        segments = tuple(segment for item in items for segment in item.segments)
        x_range, y_range = field_range_mm(segments, machine, FIELD_MARGIN_MM)
        x_mm, y_mm = plane_axes(x_range, y_range)
        for item in items:
            plane = delivered_plane(item.segments, machine, x_mm, y_mm)
            found[item.beam.number] = engine.dose_gy_per_fraction(item.beam, plane)
    return [found[item.beam.number] for item in deliveries]


def _by_direction(deliveries: Sequence[BeamDelivery]) -> list[list[BeamDelivery]]:
    together: dict[tuple[float, ...], list[BeamDelivery]] = {}
    for item in deliveries:
        together.setdefault(direction(item.beam), []).append(item)
    return list(together.values())


def course_dose(grid: VoxelGrid, doses_gy: Sequence[Float32Array], fractions: int) -> DoseVolume:
    """The sum of single beams' doses of one fraction, for the whole course."""
    total = np.zeros(grid.shape, dtype=np.float64)
    for dose in doses_gy:
        total += dose
    return DoseVolume(grid, (total * fractions).astype(np.float32))


def plane_of_beamlets(
    cells: NDArray[np.float64], x_edges_mm: NDArray[np.float64], y_edges_mm: NDArray[np.float64], machine: MachineModel
) -> FluencePlane:
    """A beamlet map (rows, cols) in MU as a fluence plane: each beamlet open for its MU, nothing leaks elsewhere.

    Leaf ends blur beamlets as they blur segments, and both sources shine through them.
    """
    blur = machine.mlc.leaf_end_blur_mm
    low, high = float(x_edges_mm[0]) - 4.0 * blur, float(x_edges_mm[-1]) + 4.0 * blur
    x_mm, y_mm = plane_axes((low, high), (float(y_edges_mm[0]), float(y_edges_mm[-1])))
    along = blurred_overlap(x_edges_mm[:-1], x_edges_mm[1:], x_mm, blur)
    across = box_overlap(y_edges_mm[:-1], y_edges_mm[1:], y_mm)
    return both_sources(across.T @ cells @ along, machine, x_mm, y_mm)


Engines = Mapping[str, DoseEngine]
