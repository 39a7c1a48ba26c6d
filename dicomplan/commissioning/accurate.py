"""Dose of rectangular fields in a water tank by the collapsed cone: what the fitted machine is judged with in the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dicomplan.commissioning.measurements import DepthCurve, OutputFactors, Profile
from dicomplan.dose.collapsed_cone import collapsed_cone_dose
from dicomplan.dose.fluence import open_plane
from dicomplan.geometry.frames import beam_frame
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.machine.model import MachineModel
from dicomplan.patient.density import DensityVolume

FloatArray = NDArray[np.float64]

RATIO_DEPTHS_MM = (20.0, 50.0, 100.0, 150.0, 200.0, 250.0, 300.0)
"""Depths at which tissue-phantom ratios are computed: each needs a tank of its own."""

PROFILE_STEP_MM = 2.0
"""Voxels of tanks that profiles are read from."""

_SCATTER_MM = (40.0, 120.0)  # water beside the field: twice its side, within these
_BEHIND_MM = 120.0  # water behind the deepest point: nearer, photons that come back are missing
_CELLS = 0.5e6  # of a tank; its voxels follow from that
_FINEST_MM, _COARSEST_MM = 1.0, 6.0


def tank_dose(
    machine: MachineModel,
    field_mm: tuple[float, float],
    surface_mm: float,
    points_mm: FloatArray,
    step_mm: float | None = None,
) -> FloatArray:
    """Dose (n,), Gy cm2 per photon of the calibration field's fluence, at ``points_mm`` (n, 3): depth, x and y of the machine.

    Water reaches as far beside the field and behind the deepest point as scatter comes from. Cubic voxels; between their
    centres the dose is interpolated linearly, along the depth after the inverse square is taken out.
    """
    from scipy.interpolate import RegularGridInterpolator

    deepest = float(points_mm[:, 0].max())
    total = surface_mm + deepest
    beside = float(np.clip(2.0 * max(field_mm), *_SCATTER_MM))
    widest = [0.5 * side * total / machine.source_axis_distance_mm + beside for side in field_mm]
    widest = [max(half, 1.02 * float(np.abs(points_mm[:, 1 + k]).max())) for k, half in enumerate(widest)]
    length = deepest + _BEHIND_MM
    if step_mm is None:
        step_mm = float(
            np.clip((4.0 * widest[0] * widest[1] * length / _CELLS) ** (1.0 / 3.0), _FINEST_MM, _COARSEST_MM)
        )
        # small fields are finer than a tank of them needs
        step_mm = min(step_mm, max(_FINEST_MM, min(field_mm) / 6.0))
    count = [2 * int(np.ceil(half / step_mm)) + 1 for half in widest]
    deep = int(np.ceil(length / step_mm))
    origin = (-0.5 * (count[0] - 1) * step_mm, 0.5 * step_mm, -0.5 * (count[1] - 1) * step_mm)
    # HFS and gantry 0: the beam runs along +y, its x is the patient's, its y the patient's z; water begins at y = 0
    grid = VoxelGrid((count[1], deep, count[0]), (step_mm, step_mm, step_mm), origin)
    isocentre = machine.source_axis_distance_mm - surface_mm
    frame = beam_frame("HFS", (0.0, isocentre, 0.0), 0.0, source_axis_distance_mm=machine.source_axis_distance_mm)
    x_range, y_range = ((-0.5 * side, 0.5 * side) for side in field_mm)
    plane = open_plane(x_range, y_range, machine)
    water = DensityVolume(grid, np.ones(grid.shape, dtype=np.float32))
    dose = collapsed_cone_dose(plane, frame, water, machine.beam).astype(np.float64)
    depth = grid.axis_mm(1)
    dose *= ((surface_mm + depth) ** 2)[None, :, None]
    at = RegularGridInterpolator((grid.axis_mm(2), depth, grid.axis_mm(0)), np.transpose(dose, (2, 1, 0)))
    places = np.column_stack([points_mm[:, 1], np.clip(points_mm[:, 0], depth[0], depth[-1]), points_mm[:, 2]])
    value: FloatArray = at(places) / (surface_mm + points_mm[:, 0]) ** 2
    return value


def axis_dose(
    machine: MachineModel, field_mm: tuple[float, float], surface_mm: float, depth_mm: FloatArray
) -> FloatArray:
    """Dose (n,) on the axis: the mean of nine points within a tenth of the field, at most 10 mm, that levels out the
    unevenness that the discrete cone directions leave at great depth (1 % at 300 mm)."""
    aside = min(0.08 * min(field_mm), 10.0) if min(field_mm) >= 50.0 else 0.0
    places = [(x, y) for x in (-aside, 0.0, aside) for y in (-aside, 0.0, aside)] if aside else [(0.0, 0.0)]
    points = np.array([(depth, x, y) for depth in depth_mm for x, y in places])
    value: FloatArray = tank_dose(machine, field_mm, surface_mm, points).reshape(len(depth_mm), -1).mean(axis=1)
    return value


def depth_curve(machine: MachineModel, curve: DepthCurve) -> tuple[FloatArray, FloatArray]:
    """Depths and doses of a measured curve; of tissue-phantom ratios those at :data:`RATIO_DEPTHS_MM`."""
    if curve.source_surface_distance_mm is not None:
        return curve.depth_mm, axis_dose(machine, curve.field_mm, curve.source_surface_distance_mm, curve.depth_mm)
    depths = np.array([depth for depth in RATIO_DEPTHS_MM if curve.depth_mm[0] <= depth <= curve.depth_mm[-1]])
    sad = machine.source_axis_distance_mm
    doses = [float(axis_dose(machine, curve.field_mm, sad - d, np.array([d]))[0]) for d in depths]
    return depths, np.array(doses)


def profiles(machine: MachineModel, measured: Sequence[Profile]) -> list[FloatArray]:
    """Dose at the positions of measured profiles; those of one field and surface share a tank."""
    tanks: dict[tuple[tuple[float, float], float], list[int]] = {}
    for k, one in enumerate(measured):
        tanks.setdefault((one.field_mm, one.source_surface_distance_mm), []).append(k)
    found: dict[int, FloatArray] = {}
    for (field, surface), members in tanks.items():
        parts = []
        for k in members:
            points = np.zeros((len(measured[k].position_mm), 3))
            points[:, 0] = measured[k].depth_mm
            points[:, 1 if measured[k].axis == "x" else 2] = measured[k].position_mm
            parts.append(points)
        dose = tank_dose(machine, field, surface, np.concatenate(parts), PROFILE_STEP_MM)
        ends = np.cumsum([len(part) for part in parts])
        found.update(zip(members, np.split(dose, ends[:-1]), strict=True))
    return [found[k] for k in range(len(measured))]


def output(machine: MachineModel, factors: OutputFactors, progress: Callable[[], None] | None = None) -> FloatArray:
    """Dose in each field of a table of output factors."""
    depth = np.array([factors.depth_mm])
    doses = []
    for x, y in factors.field_mm:
        doses.append(float(axis_dose(machine, (float(x), float(y)), factors.source_surface_distance_mm, depth)[0]))
        if progress is not None:
            progress()
    return np.array(doses)
