"""PatientCase: what was read of the patient, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.events import Finding
from dicomplan.geometry.grid import VoxelGrid


@dataclass(frozen=True)
class CTVolume:
    """CT numbers in HU, float32 ``(z, y, x)`` on ``grid`` (planes sorted along the slice normal)."""

    grid: VoxelGrid
    hu: NDArray[np.float32]


@dataclass(frozen=True)
class Structure:
    """A region of interest as drawn.

    ``contours`` are closed planar polygons, each (n, 3) float64 in patient coordinates (mm), n >= 3, the first point not
    repeated; nested contours of one plane combine by XOR. ``roi_type`` is the RTROIInterpretedType (``PTV``, ``ORGAN``,
    ``EXTERNAL``...) or empty. ``number`` is the ROI number, unique in its structure set.
    """

    name: str
    number: int
    roi_type: str
    contours: tuple[NDArray[np.float64], ...]
    color_rgb: tuple[int, int, int] = (255, 0, 0)


@dataclass(frozen=True)
class Coverage:
    """Fraction (0..1) of each voxel of ``grid`` that a structure covers; float32 ``(z, y, x)``.

    The grid is a structure grid: CT planes along z (a contour stands for a prism of one slice thickness), in plane the
    greatest whole fraction of the CT pixel that is at most 1 mm, cropped to the structure.
    """

    grid: VoxelGrid
    fraction: NDArray[np.float32]

    @property
    def volume_cc(self) -> float:
        """Volume in cm3."""
        return float(self.fraction.sum(dtype=np.float64)) * self.grid.voxel_volume_cc


@dataclass(frozen=True)
class PatientCase:
    """One CT with its structures, in one frame of reference; nothing in it names the patient."""

    ct: CTVolume
    structures: tuple[Structure, ...]
    patient_position: str
    findings: tuple[Finding, ...] = ()

    def structure(self, name: str) -> Structure:
        """The structure of exactly this name. Raises KeyError."""
        for structure in self.structures:
            if structure.name == name:
                return structure
        raise KeyError(name)
