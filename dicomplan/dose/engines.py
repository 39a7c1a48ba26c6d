"""Dose of fluence planes on the dose grid, engine by engine: what ideal and final doses are computed with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.delivery import Beam, BeamDelivery
from dicomplan.dose.fluence import FluencePlane, delivered_plane, field_range_mm, plane_axes
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
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.machine.model import MachineModel

Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]

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
    """The pencil-beam engine on the voxels of BODY: linear indices ``voxels`` on the grid of ``around``.

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
        key = (beam.gantry_angle_deg, beam.collimator_angle_deg, beam.couch_angle_deg, *beam.isocenter_mm)
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


def delivery_plane(delivery: BeamDelivery, machine: MachineModel) -> FluencePlane:
    """Fluence plane of one beam's control points, from leaf and jaw positions and metersets alone (1 mm pixels)."""
    x_range, y_range = field_range_mm(delivery.segments, machine, FIELD_MARGIN_MM)
    x_mm, y_mm = plane_axes(x_range, y_range)
    return delivered_plane(delivery.segments, machine, x_mm, y_mm)


def beam_doses(engine: DoseEngine, deliveries: Sequence[BeamDelivery], machine: MachineModel) -> list[Float32Array]:
    """Dose (z, y, x) of one fraction of each beam, Gy."""
    return [engine.dose_gy_per_fraction(item.beam, delivery_plane(item, machine)) for item in deliveries]


def course_dose(grid: VoxelGrid, doses_gy: Sequence[Float32Array], fractions: int) -> DoseVolume:
    """The sum of single beams' doses of one fraction, for the whole course."""
    total = np.zeros(grid.shape, dtype=np.float64)
    for dose in doses_gy:
        total += dose
    return DoseVolume(grid, (total * fractions).astype(np.float32))


def plane_of_beamlets(
    cells: NDArray[np.float64], x_edges_mm: NDArray[np.float64], y_edges_mm: NDArray[np.float64], machine: MachineModel
) -> FluencePlane:
    """A beamlet map (rows, cols) in MU as a fluence plane: each beamlet open for its MU, nothing leaks elsewhere."""
    from dicomplan.dose.fluence import box_overlap, profile_factor

    x_mm, y_mm = plane_axes(
        (float(x_edges_mm[0]), float(x_edges_mm[-1])), (float(y_edges_mm[0]), float(y_edges_mm[-1]))
    )
    along = box_overlap(x_edges_mm[:-1], x_edges_mm[1:], x_mm)
    across = box_overlap(y_edges_mm[:-1], y_edges_mm[1:], y_mm)
    return FluencePlane(across.T @ cells @ along * profile_factor(machine.beam, x_mm, y_mm), x_mm, y_mm)


Engines = Mapping[str, DoseEngine]
