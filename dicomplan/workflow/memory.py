"""Memory that a plan takes, estimated before it is taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dicomplan.errors import InsufficientMemoryError
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.case import Coverage

_BYTES_PER_VOXEL_AND_BEAM = 68  # samples of BODY (40) and those of the optimisation voxels among them
_BYTES_PER_VOXEL = 120  # doses, densities, coverages and distances on the grid
_FIXED_BYTES = 600_000_000  # libraries, CT, structures
_SHARE = 0.9  # of what is free


def available_bytes() -> int | None:
    """Memory that can be had without swapping (Linux: MemAvailable and the cgroup's limit); None where unknown."""
    free: int | None = None
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        if limit.isdecimal():
            used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
            free = min(free if free is not None else int(limit), int(limit) - used)
    except (OSError, ValueError):
        return free
    return free


def needed_bytes(voxels: int, body_voxels: float, beams: int) -> float:
    """Estimate of a plan's memory for a grid of ``voxels``, of which BODY holds ``body_voxels``."""
    return _FIXED_BYTES + _BYTES_PER_VOXEL * voxels + _BYTES_PER_VOXEL_AND_BEAM * body_voxels * beams


def refuse_too_large(
    grid: VoxelGrid, body: Coverage, beams: int, step_mm: float | None, available: int | None = None
) -> None:
    """Raise InsufficientMemoryError, naming a grid step that would fit, if the plan would not fit into memory."""
    available = available_bytes() if available is None else available
    if available is None:
        return
    body_voxels = body.volume_cc / grid.voxel_volume_cc
    room = _SHARE * available
    if needed_bytes(grid.voxel_count, body_voxels, beams) <= room:
        return
    start = step_mm if step_mm is not None else min(grid.spacing_mm)
    for step in np.arange(max(1.0, np.ceil(2.0 * start) / 2.0), 20.5, 0.5):
        shrink = (start / step) ** 3
        if needed_bytes(int(grid.voxel_count * shrink), body_voxels * shrink, beams) <= room:
            remedy = f"a dose grid of {step:g} mm would fit"
            break
    else:
        remedy = "no dose grid would fit"
    wanted = needed_bytes(grid.voxel_count, body_voxels, beams) / 1e9
    raise InsufficientMemoryError(
        f"the plan needs about {wanted:.1f} GB of memory, {available / 1e9:.1f} GB are free", hint=remedy
    )
