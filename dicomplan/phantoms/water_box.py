"""The water box: a cube of water in air, the phantom on which doses have analytic answers."""

from __future__ import annotations

import numpy as np

from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.case import PatientCase
from dicomplan.phantoms.shapes import Material, ellipse, paint, planes_of, rectangle, structure
from dicomplan.phantoms.study import PhantomStudy


def water_box(
    *,
    size_mm: float = 300.0,
    voxel_mm: float = 5.0,
    target_radius_mm: float = 30.0,
    seed: int = 7,
    noise_hu: float = 4.0,
) -> PhantomStudy:
    """A cube of water (0 HU) of ``size_mm`` centred at (0, 0, 0) in air, HFS, with a ball PTV_5000 in its centre.

    ``size_mm`` must be a whole even multiple of ``voxel_mm``: the cube's faces are voxel faces, so that BODY covers
    whole voxels. 30 mm of air lie about it. Noise in HU with the seed; 0 gives exact water. Raises ValueError.
    """
    count = round(size_mm / voxel_mm)
    if abs(count * voxel_mm - size_mm) > 1e-9 or count % 2:
        raise ValueError(f"{size_mm} mm is not a whole even number of voxels of {voxel_mm} mm")
    side = count + 2 * int(np.ceil(30.0 / voxel_mm))
    first = -0.5 * (side - 1) * voxel_mm
    grid = VoxelGrid((side, side, side), (voxel_mm, voxel_mm, voxel_mm), (first, first, first))
    z = grid.axis_mm(0)
    half = 0.5 * size_mm
    box = {index: [rectangle((0.0, 0.0), (size_mm, size_mm))] for index, _ in planes_of(z, -half, half)}
    ball = {
        index: [ellipse((0.0, 0.0), (radius, radius))]
        for index, at in planes_of(z, -target_radius_mm, target_radius_mm)
        if (radius := float(np.sqrt(target_radius_mm**2 - at**2))) > 1.0
    }
    ct = paint(grid, [Material(0.0, box)], noise_hu=noise_hu, seed=seed)
    structures = (
        structure("BODY", 1, "EXTERNAL", (0, 160, 80), box, z),
        structure("PTV_5000", 2, "PTV", (220, 30, 30), ball, z),
    )
    return PhantomStudy("WaterBox", "DICOMPLAN-WB", PatientCase(ct, structures, "HFS"))
