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

_SAMPLES = 16  # places in a column


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
    return np.stack(
        [np.floor(first * scale + 1e-6) / scale + 0.0, np.ceil(second * scale - 1e-6) / scale + 0.0], axis=1
    )


def seen_through_jaws_mu(found: Passages, machine: MachineModel) -> FloatArray:
    """(cols,) meterset, MU, for which jaws that follow as fast as the leaves leave each column uncovered, on its mean.

    From when the first leading edge comes nearer than the jaws' margin until the last trailing edge is farther on than that;
    to the end, or from the beginning, where the jaw's travel ends before.
    """
    jaw = machine.jaw_x
    assert jaw is not None
    margin, edges = 2.0 * machine.mlc.leaf_end_blur_mm, found.edges_mm
    inside = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    places = (edges[:-1, None] + np.diff(edges)[:, None] * inside).ravel()
    begins = _passed(found.enter, found.leave, edges, places - margin).min(axis=0)
    ends = _passed(found.enter + found.fluence, found.leave + found.fluence, edges, places + margin).max(axis=0)
    begins = np.where((places < jaw.second_range_mm[0]) | (places - margin < edges[0]), 0.0, begins)
    ends = np.where((places > jaw.first_range_mm[1]) | (places + margin > edges[-1]), found.meterset_mu, ends)
    seen: FloatArray = (ends - begins).reshape(-1, _SAMPLES).mean(axis=1)
    return seen


def _passed(enter: FloatArray, leave: FloatArray, edges: FloatArray, places: FloatArray) -> FloatArray:
    """(rows, places) meterset at which an edge passes: in each column from ``enter`` to ``leave`` (rows, cols)."""
    column = np.clip(np.searchsorted(edges, places, side="right") - 1, 0, len(edges) - 2)
    share = (places - edges[column]) / np.diff(edges)[column]
    passed: FloatArray = enter[:, column] + share * (leave - enter)[:, column]
    return passed
