"""Memory and disk that a job will take, from headers and template, before anything is read or computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dicomplan.jobs.contents import Content
from dicomplan.plan.template import PlanTemplate
from dicomplan.workflow.memory import needed_bytes

_BODY_SHARE = 0.5
"""Share of a CT's box that the patient fills: 0.3 to 0.5 of the shared cases."""
_CT_COPIES = 5  # HU as read, HU as float32, density, and what resampling holds at once
_DOSE_BYTES = 4
_REPORT_BYTES = 30_000_000


def memory_bytes(slices: Sequence[Content], template: PlanTemplate) -> int:
    """Estimate of the memory that planning takes, bytes."""
    voxels, ct_voxels = _voxels(slices, template.dose.grid_mm)
    beams = max(len(template.beams.fields), 1)
    return int(needed_bytes(voxels, _BODY_SHARE * voxels, beams) + _CT_COPIES * 4 * ct_voxels)


def disk_bytes(contents: Sequence[Content], template: PlanTemplate) -> int:
    """Estimate of the disk space that the private copy and the result take together, bytes."""
    voxels, _ = _voxels([one for one in contents if one.kind == "CT"], template.dose.grid_mm)
    return sum(one.size for one in contents) + 2 * _DOSE_BYTES * voxels + _REPORT_BYTES


def _voxels(slices: Sequence[Content], step_mm: float | None) -> tuple[int, int]:
    """Voxels of the dose grid over the whole CT, and of the CT."""
    known = [one.slice for one in slices if one.slice is not None]
    if len(known) < 2:
        guess = sum(one.size for one in slices) // 2
        return guess, guess
    first = known[0]
    normal = np.cross(np.array(first.row_axis), np.array(first.column_axis))
    along = np.array([place.origin_mm for place in known]) @ normal
    pixels = first.matrix[0] * first.matrix[1]
    if step_mm is None:
        return pixels * len(known), pixels * len(known)
    plane = pixels * first.spacing_mm[0] * first.spacing_mm[1]
    return int(plane * (along.max() - along.min() + step_mm) / step_mm**3), pixels * len(known)
