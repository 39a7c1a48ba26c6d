"""X jaws that follow the leaves of a sliding window while the beam is on, so that less leaks through the leaves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicomplan.machine.model import MachineModel
from dicomplan.sequencing.apertures import POSITION_DIGITS
from dicomplan.sequencing.trajectories import Passages

FloatArray = NDArray[np.float64]

SPEED_SHARE = 0.995
"""Of the greatest speed: what rounding of printed metersets and positions may add stays below it."""


def can_follow(machine: MachineModel) -> bool:
    """Whether the X jaws can move while the beam is on: the machine file states their speed, and not that they are fixed."""
    jaw = machine.jaw_x
    return jaw is not None and jaw.max_speed_mm_s > 0.0 and not jaw.fixed_in_beam


def following_jaws(
    windows: FloatArray, times_mu: FloatArray, outermost: tuple[float, float], rate_mu_min: float, machine: MachineModel
) -> FloatArray | None:
    """(times, 2) edges (mm) of the X jaws at the control points; None where they cannot move while the beam is on.

    ``windows`` (times, 2, rows): trailing and leading edges of radiation, which move toward rising x; ``outermost``: the
    edges that uncover the whole field. The second jaw stands ahead of the first of all leading edges, the first behind
    the last of all trailing ones, by twice the blur of leaf ends; where rows wait outside of the field the jaws stand at its
    ends. Linear movement between control points uncovers no less than at these, as the least of linear functions lies
    above its chord. A jaw that is slower than the leaves starts earlier, or comes later; travel and the minimum opening
    are kept.
    """
    jaw = machine.jaw_x
    if jaw is None or not can_follow(machine):
        return None
    low, high = outermost
    margin, least = 2.0 * machine.mlc.leaf_end_blur_mm, jaw.min_opening_mm
    first = np.clip(windows[:, 0].min(axis=1) - margin, low, min(high, max(low, jaw.first_range_mm[1])))
    second = np.clip(windows[:, 1].max(axis=1) + margin, max(low, min(high, jaw.second_range_mm[0])), high)
    second = np.clip(np.maximum(second, first + least), None, high)
    first = np.clip(np.minimum(first, second - least), low, None)
    steps = SPEED_SHARE * jaw.max_speed_mm_s * 60.0 / rate_mu_min * np.diff(times_mu)
    for k, step in enumerate(steps):
        first[k + 1] = min(first[k + 1], first[k] + step)
    for k in range(len(steps) - 1, -1, -1):
        second[k] = max(second[k], second[k + 1] - steps[k])
    scale = 10.0**POSITION_DIGITS
    return np.stack([np.floor(first * scale + 1e-6) / scale + 0.0, np.ceil(second * scale - 1e-6) / scale + 0.0], axis=1)


def seen_through_jaws_mu(found: Passages, machine: MachineModel) -> FloatArray:
    """(cols,) meterset, MU, for which jaws that follow as fast as the leaves leave each column uncovered.

    From when the first leading edge enters it until the last trailing edge has left it; to the end, or from the beginning, where
    the jaw's travel ends before the column.
    """
    jaw = machine.jaw_x
    assert jaw is not None
    begins = found.enter.min(axis=0)
    ends = (found.leave + found.fluence).max(axis=0)
    centres = 0.5 * (found.edges_mm[1:] + found.edges_mm[:-1])
    begins = np.where(centres < jaw.second_range_mm[0], 0.0, begins)
    ends = np.where(centres > jaw.first_range_mm[1], found.meterset_mu, ends)
    seen: FloatArray = ends - begins
    return seen
