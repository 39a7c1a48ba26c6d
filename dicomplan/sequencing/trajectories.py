"""Leaf trajectories of a sliding window: passages through columns, positions over meterset, and the fluence they leave."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.errors import NotDeliverableError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_ROUNDS = 200
_SPREADS = 60
_HOPELESS = 1e3
_SAMPLES = 16  # places in a column at which its fluence is looked at


@dataclass(frozen=True)
class Passages:
    """Meterset (MU) at which the edges of the window of each row pass through each column, both (rows, cols).

    ``enter`` and ``leave``: the leading edge at the start and the end of the column; the trailing edge follows after
    ``fluence`` (rows, cols; MU). ``meterset_mu``: when the last row is done. ``floor_mu``: the least fluence there is.
    ``edges_mm`` (cols + 1,).
    """

    enter: FloatArray
    leave: FloatArray
    fluence: FloatArray
    edges_mm: FloatArray
    meterset_mu: float
    floor_mu: float


@dataclass(frozen=True)
class Demands:
    """What leaves must keep to: ``pace`` (MU per mm of the fastest leaf), ``gap_mm`` of the window at least.

    ``coupled`` (rows - 1,) neighbours and ``synchronised`` as in
    :func:`~dicomplan.sequencing._kernels_sliding.earliest_passages`; with ``spread`` no row may wait outside of the field.
    """

    pace: float
    gap_mm: float
    coupled: BoolArray
    synchronised: bool
    spread: bool


def passages(fluence_mu: FloatArray, edges_mm: FloatArray, demands: Demands, floor_mu: float = 0.0) -> Passages | None:
    """Passages that leave ``fluence_mu`` (rows, cols), MU, raised to the floor, in the least meterset; None if there are none.

    Both leaves of each row move from the first to the last column edge, as fast as they may but for waits (Stein et al.,
    Radiother. Oncol. 32 (1994) 162; Spirou and Chui, Med. Phys. 21 (1994) 1031): at a falling edge the leading, at a
    rising edge the trailing leaf. Without coupling the least meterset is (width x pace) and the sum of the positive
    differences, of the row that takes longest.

    The floor is pace x gap, or ``floor_mu`` if that is more. A row that needs less than the beam's meterset waits at the
    end, which a jaw must hide; with ``spread`` no row waits, but moves the slower over its whole width: between the
    earliest and the latest passages, from the ones to the others (what holds for both holds in between). Then the floor
    is that of the slowest row.
    """
    pace, widths = demands.pace, np.diff(edges_mm)
    gap = pace * demands.gap_mm
    for _ in range(_SPREADS):
        floor = max(gap, floor_mu)
        raised = np.maximum(fluence_mu, floor)
        early = _earliest(raised, widths, gap, demands)
        if early is None:
            return None
        total = float((early[:, -1] + pace * widths[-1] + raised[:, -1]).max())
        if not demands.spread:
            return Passages(early, early + pace * widths, raised, edges_mm, total, floor)
        mirrored = _earliest(np.ascontiguousarray(raised[:, ::-1]), widths[::-1].copy(), gap, demands)
        if mirrored is None:
            return None
        # seen from the end the trailing edge leads: its latest exit from a column is the mirrored earliest entry
        late = total - mirrored[:, ::-1] - raised - pace * widths
        delay = np.maximum(late - early, 0.0)
        slower = float(delay.max()) / float(edges_mm[-1] - edges_mm[0])
        needed = (pace + slower) * demands.gap_mm
        if needed <= gap * (1.0 + 1e-9):
            share = (edges_mm - edges_mm[0]) / (edges_mm[-1] - edges_mm[0])
            enter = early + share[:-1] * delay
            leave = early + pace * widths + share[1:] * delay
            return Passages(enter, leave, raised, edges_mm, total, floor)
        gap = needed * (1.0 + 1e-6)
    return None


def lowest_passages(fluence_mu: FloatArray, edges_mm: FloatArray, demands: Demands, floor_mu: float = 0.0) -> Passages:
    """As :func:`passages`, with the lowest floor (to a thousandth of the maximum) from ``floor_mu`` on that has any.

    Where neighbours are coupled, rows of little fluence would have to wait for others, and their gap adds fluence meanwhile.
    """
    found = passages(fluence_mu, edges_mm, demands, floor_mu)
    if found is not None:
        return found
    highest = float(fluence_mu.max())
    low, high = max(floor_mu, demands.pace * demands.gap_mm), max(highest, 2.0 * floor_mu)
    best = passages(fluence_mu, edges_mm, demands, high)
    while best is None and high < _HOPELESS * max(highest, 1.0):
        low, high = high, 2.0 * high
        best = passages(fluence_mu, edges_mm, demands, high)
    if best is None:
        raise NotDeliverableError("no leaf trajectories keep the minimum gap and what neighbouring leaves demand")
    while high - low > 1e-3 * highest:
        middle = 0.5 * (low + high)
        found = passages(fluence_mu, edges_mm, demands, middle)
        if found is None:
            low = middle
        else:
            high, best = middle, found
    return best


def _earliest(fluence: FloatArray, widths: FloatArray, gap: float, demands: Demands) -> FloatArray | None:
    from dicomplan.sequencing._kernels_sliding import earliest_passages

    times, rounds = earliest_passages(
        fluence, widths, demands.pace, gap, demands.coupled, demands.synchronised, _ROUNDS
    )
    return None if rounds >= _ROUNDS else np.asarray(times, np.float64)


@dataclass(frozen=True)
class Trajectories:
    """Edges of each row's window over meterset: breakpoints (rows, points) of times (MU) and places (mm), linear between."""

    trailing_mu: FloatArray
    trailing_mm: FloatArray
    leading_mu: FloatArray
    leading_mm: FloatArray

    def at(self, times_mu: FloatArray) -> FloatArray:
        """(times, 2, rows) trailing and leading edge, mm."""
        rows = len(self.trailing_mu)
        result = np.empty((len(times_mu), 2, rows))
        for row in range(rows):
            result[:, 0, row] = np.interp(times_mu, self.trailing_mu[row], self.trailing_mm[row])
            result[:, 1, row] = np.interp(times_mu, self.leading_mu[row], self.leading_mm[row])
        return result


def trajectories(found: Passages, gap_mm: float) -> Trajectories:
    """Trajectories that make the passages; before and after, a window of ``gap_mm`` waits just outside the columns.

    At the start it reaches from ``gap_mm`` before the first edge to it, at the end from the last edge on.
    """
    rows = len(found.enter)
    edges = found.edges_mm
    pace_first = (found.leave[:, 0] - found.enter[:, 0]) / (edges[1] - edges[0])
    pace_last = (found.leave[:, -1] - found.enter[:, -1]) / (edges[-1] - edges[-2])
    places = np.tile(np.repeat(edges, 2)[1:-1], (rows, 1))
    start, end = np.zeros((rows, 1)), np.full((rows, 1), found.meterset_mu)
    leading = np.stack([found.enter, found.leave], axis=2).reshape(rows, -1)
    trailing = np.stack([found.enter + found.fluence, found.leave + found.fluence], axis=2).reshape(rows, -1)
    before, after = np.full((rows, 1), edges[0] - gap_mm), np.full((rows, 1), edges[-1] + gap_mm)
    first, last = np.full((rows, 1), edges[0]), np.full((rows, 1), edges[-1])
    entered = found.enter[:, :1]
    left = trailing[:, -1:]
    return Trajectories(
        trailing_mu=np.hstack([start, entered, entered + gap_mm * pace_first[:, None], trailing, end]),
        trailing_mm=np.hstack([before, before, first, places, last]),
        leading_mu=np.hstack([start, leading, left - gap_mm * pace_last[:, None], left, end]),
        leading_mm=np.hstack([first, places, last, after, after]),
    )


def control_times(paths: Trajectories, edges_mm: FloatArray, accuracy_mu: float, least_mu: float) -> FloatArray:
    """Metersets (MU) of control points, from 0 to the end: as few as keep the columns' fluence within ``accuracy_mu``.

    Linear movement between them stands for the trajectories. They are some of the breakpoints, not nearer to each other
    than ``least_mu``, where possible. The farthest next one is taken for which the area between a leaf's path and its
    chord, over the width of a column, stays below a part of the accuracy; the part is halved until the fluence is right.
    """
    events = np.unique(np.round(np.concatenate([paths.trailing_mu.ravel(), paths.leading_mu.ravel()]), 4))
    total = events[-1]
    kept = [0.0]
    for event in events[1:]:
        if event - kept[-1] >= least_mu and total - event >= least_mu:
            kept.append(float(event))
    times = np.array([*kept, total])
    positions = paths.at(times).reshape(len(times), -1)
    wanted = column_fluence(times, paths.at(times), edges_mm)
    exact = _exact_fluence(paths, edges_mm)
    reachable = max(float(np.abs(wanted - exact).max()), 0.0)
    part = 0.5
    narrowest = float(np.diff(edges_mm).min())
    while True:
        chosen = _chords(times, positions, part * accuracy_mu * narrowest)
        error = np.abs(column_fluence(times[chosen], paths.at(times[chosen]), edges_mm) - exact).max()
        if error <= max(accuracy_mu, 1.001 * reachable) or len(chosen) == len(times):
            return times[chosen]
        part *= 0.5


def _chords(times: FloatArray, positions: FloatArray, area: float) -> list[int]:
    """Indices of times such that between neighbours no path leaves its chord by more than ``area`` (mm x MU)."""
    chosen = [0]
    last = len(times) - 1
    while chosen[-1] < last:
        start, reach = chosen[-1], 1
        while start + 2 * reach <= last and _leaves_by(times, positions, start, start + 2 * reach) <= area:
            reach *= 2
        low, high = start + reach, min(start + 2 * reach, last)
        while low < high:
            middle = (low + high + 1) // 2
            if _leaves_by(times, positions, start, middle) <= area:
                low = middle
            else:
                high = middle - 1
        chosen.append(low)
    return chosen


def _leaves_by(times: FloatArray, positions: FloatArray, start: int, stop: int) -> float:
    """Largest area (mm x MU) between a path and its chord from one time to another."""
    if stop - start < 2:
        return 0.0
    part, path = times[start : stop + 1], positions[start : stop + 1]
    share = ((part - part[0]) / (part[-1] - part[0]))[:, None]
    away = np.abs(path - (path[0] + share * (path[-1] - path[0])))
    steps = np.diff(part)[:, None]
    return float((0.5 * (away[1:] + away[:-1]) * steps).sum(axis=0).max())


def column_fluence(times_mu: FloatArray, positions_mm: FloatArray, edges_mm: FloatArray) -> FloatArray:
    """(rows, cols) mean meterset, MU, for which each column is open while edges (times, 2, rows) move linearly, rightward."""
    places = _places(edges_mm)
    rows = positions_mm.shape[2]
    result = np.empty((rows, len(edges_mm) - 1))
    for row in range(rows):
        closed = np.interp(places, positions_mm[:, 0, row], times_mu, left=times_mu[0], right=times_mu[-1])
        opened = np.interp(places, positions_mm[:, 1, row], times_mu, left=times_mu[0], right=times_mu[-1])
        result[row] = (closed - opened).reshape(-1, _SAMPLES).mean(axis=1)
    return result


def _exact_fluence(paths: Trajectories, edges_mm: FloatArray) -> FloatArray:
    places = _places(edges_mm)
    rows = len(paths.trailing_mu)
    result = np.empty((rows, len(edges_mm) - 1))
    for row in range(rows):
        closed = np.interp(places, paths.trailing_mm[row], paths.trailing_mu[row])
        opened = np.interp(places, paths.leading_mm[row], paths.leading_mu[row])
        result[row] = (closed - opened).reshape(-1, _SAMPLES).mean(axis=1)
    return result


def _places(edges_mm: FloatArray) -> FloatArray:
    inside = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    places: FloatArray = (edges_mm[:-1, None] + np.diff(edges_mm)[:, None] * inside).ravel()
    return places
