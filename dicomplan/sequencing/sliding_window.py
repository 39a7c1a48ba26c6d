"""Sliding window: one beam's fluence map into leaves that sweep across the field while the beam is on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.delivery import Aperture, Segment
from dicomplan.errors import NotDeliverableError
from dicomplan.machine.model import MachineModel
from dicomplan.sequencing.apertures import (
    POSITION_DIGITS,
    gap_mm,
    jaw_edges,
    jaw_margin_mm,
    parking_place,
    uncovered_height_mm,
)
from dicomplan.sequencing.fluence import FluenceError, fluence_error
from dicomplan.sequencing.following_jaws import SPEED_SHARE, can_follow, following_jaws, seen_through_jaws_mu
from dicomplan.sequencing.step_and_shoot import METERSET_DIGITS
from dicomplan.sequencing.trajectories import (
    Demands,
    Passages,
    column_fluence,
    control_times,
    lowest_passages,
    trajectories,
)

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

ACCURACY = 0.005
"""Control points keep each column's fluence within this part of the map's maximum, unless asked otherwise."""

UNSTATED_SPEED_MM_S = 25.0
"""Leaf speed that is planned with where the machine file states none: common for multileaf collimators."""

SYNCHRONISED_FLOOR = 0.02
"""Part of the map's maximum by which the floor may rise for the sake of synchronised leaves."""

SWEEP_SHARE = 0.15
"""Part of a beam's meterset that the mere sweep may take in a plan: it leaks, and time is cheaper than leakage."""

DOSE_RATE_STEP_MU_MIN = 50.0
"""Dose rates are chosen in steps of this."""

_LEAST_STEP_MU = 0.02  # between control points: printed metersets are then right to 0.25 %
_TRANSMISSION_ROUNDS = 50


@dataclass(frozen=True)
class SlidingWindow:
    """A map as one sweep.

    ``segments`` move one after the other, metersets of one fraction at ``dose_rate_mu_min``. ``floors_mu`` (cols,): what
    the beam leaves in each column of its field at least: transmission times the meterset for which no jaw covers it, and
    what the minimum gap adds in passing; ``floor_mu``: the highest of them.
    ``delivered_mu`` (rows, cols): the fluence with transmission (not the source's size); ``error`` against the map.
    ``synchronised``: neighbouring pairs move so that no tongue shades what both are to give (asked for, and not too dear).
    """

    segments: tuple[Segment, ...]
    dose_rate_mu_min: float
    floor_mu: float
    delivered_mu: FloatArray
    error: FluenceError
    synchronised: bool = False
    floors_mu: FloatArray = field(default_factory=lambda: np.zeros(0))


def slide(
    fluence_mu: FloatArray,
    x_edges_mm: FloatArray,
    first_leaf_pair: int,
    machine: MachineModel,
    *,
    accuracy: float = ACCURACY,
    synchronised: bool | None = None,
    dose_rate_mu_min: float | None = None,
) -> SlidingWindow:
    """The sweep that leaves ``fluence_mu`` (rows, cols), MU of an open field, >= 0, of one fraction, in the least time.

    Row i belongs to leaf pair ``first_leaf_pair`` + i (from 0), column j lies between ``x_edges_mm`` j and j + 1 at
    isocentre; where the window at minimum gap is wider than a column, means over the window's width are delivered.
    Leaves move in the sense of rising x, at most at the machine's speed while it gives ``dose_rate_mu_min`` (its
    greatest unless stated). What leaves transmit is subtracted beforehand (open = (wanted - t M) / (1 - t), t the
    transmission, M the meterset for which no jaw covers the column), and leaf tips stand ``leaf_end_offset_mm`` ahead of
    the edges of radiation that they make. Neighbouring pairs are ``synchronised`` against tongue-and-groove underdose
    (where the machine has tongues, unless stated; as long as it costs little), else kept from passing the opposed
    neighbour where the machine asks for it. Either may raise the floor: a row of little fluence cannot wait for its
    neighbour.

    Under X jaws rows wait for each other at both ends; without them all rows move all the time. X jaws that can move
    while the beam is on follow the leaves (:mod:`~dicomplan.sequencing.following_jaws`). Control points are
    linear between some of the leaves' waits, so that ``accuracy`` (part of the map's maximum) is kept. A map of zeros
    gives no segments. Raises NotDeliverableError for a map that the leaves cannot reach or that no trajectories fit;
    ValueError for one that does not fit the edges or the machine's leaf pairs.
    """
    fluence = np.asarray(fluence_mu, np.float64)
    edges = np.asarray(x_edges_mm, np.float64)
    if fluence.ndim != 2 or fluence.shape[1] != len(edges) - 1:
        raise ValueError(f"a map of shape {fluence.shape} does not fit {len(edges)} column edges")
    if first_leaf_pair < 0 or first_leaf_pair + fluence.shape[0] > machine.mlc.leaf_pairs:
        raise ValueError(f"{fluence.shape[0]} rows from leaf pair {first_leaf_pair} of {machine.mlc.leaf_pairs}")
    rate = min(dose_rate_mu_min or machine.dose_rate_mu_min, machine.dose_rate_mu_min)
    used_rows, used_cols = (np.flatnonzero((fluence > 0).any(axis=axis)) for axis in (1, 0))
    if len(used_rows) == 0:
        return SlidingWindow((), rate, 0.0, np.zeros_like(fluence), fluence_error(np.zeros_like(fluence), fluence))
    columns = slice(int(used_cols[0]), int(used_cols[-1]) + 1)
    moving = _moving_rows(fluence, used_rows, machine)
    window = gap_mm(machine) + 2.0 * machine.mlc.leaf_end_offset_mm
    window = max(window, 0.0)
    part, part_edges = _wide_columns(fluence[moving][:, columns], edges[columns.start : columns.stop + 1], window)
    part, part_edges, jaw_x = _to_the_jaws(part, part_edges, window, machine)
    coupled, synchronised = _coupled(moving, machine, synchronised)
    pace = rate / 60.0 / (SPEED_SHARE * (machine.mlc.max_speed_mm_s or UNSTATED_SPEED_MM_S))
    demands = Demands(pace, window, coupled, synchronised, spread=jaw_x is None)
    found, demands = _corrected(part, part_edges, demands, machine)
    paths = trajectories(found, window)
    times = control_times(paths, part_edges, accuracy * float(part.max()), _LEAST_STEP_MU)
    windows = paths.at(times)
    jaws = None if jaw_x is None else following_jaws(windows, times, jaw_x, rate, machine)
    apertures = _on_the_machine(windows, first_leaf_pair + moving, part_edges, jaw_x, jaws, machine)
    segments = _segments(apertures, times)
    own_edges = edges[columns.start : columns.stop + 1]
    through = machine.mlc.transmission
    seen = np.full(len(own_edges) - 1, found.meterset_mu)
    if jaws is not None:
        seen = column_fluence(times, jaws[:, :, None], own_edges)[0]
    opened = column_fluence(times, windows, own_edges)
    within = np.ix_(moving, np.arange(columns.start, columns.stop))
    delivered, floors = np.zeros_like(fluence), np.zeros(fluence.shape[1])
    delivered[within] = through * seen + (1.0 - through) * opened
    floors[columns] = through * seen + (1.0 - through) * found.floor_mu
    error = fluence_error(delivered, fluence)
    return SlidingWindow(segments, rate, float(floors.max()), delivered, error, demands.synchronised, floors)


def sparing_dose_rate(fluence_mu: FloatArray, x_edges_mm: FloatArray, machine: MachineModel) -> float:
    """A dose rate, MU/min, at which the sweep itself is no more than :data:`SWEEP_SHARE` of the beam's meterset.

    A sweep over W mm takes W / speed x dose rate beside the sum of the positive differences of the hardest row, and all
    of it leaks through the leaves. In steps of :data:`DOSE_RATE_STEP_MU_MIN`, at least one, at most the machine's.
    """
    fluence = np.asarray(fluence_mu, np.float64)
    used = np.flatnonzero((fluence > 0).any(axis=0))
    if len(used) == 0:
        return machine.dose_rate_mu_min
    width = float(x_edges_mm[used[-1] + 1] - x_edges_mm[used[0]])
    rises = float(np.clip(np.diff(fluence, axis=1, prepend=0.0), 0.0, None).sum(axis=1).max())
    speed = SPEED_SHARE * (machine.mlc.max_speed_mm_s or UNSTATED_SPEED_MM_S)
    rate = 60.0 * SWEEP_SHARE / (1.0 - SWEEP_SHARE) * rises * speed / width
    steps = max(1.0, np.floor(rate / DOSE_RATE_STEP_MU_MIN))
    return float(min(steps * DOSE_RATE_STEP_MU_MIN, machine.dose_rate_mu_min))


def _moving_rows(fluence: FloatArray, used: NDArray[np.intp], machine: MachineModel) -> NDArray[np.intp]:
    """Rows that sweep: those with fluence, and where leaves may not interdigitate all between them."""
    if machine.mlc.interdigitation:
        return used
    return np.arange(used[0], used[-1] + 1)


def _coupled(moving: NDArray[np.intp], machine: MachineModel, synchronised: bool | None) -> tuple[BoolArray, bool]:
    """Which neighbours among the moving rows are bound to each other, and whether by synchronisation."""
    neighbours = np.diff(moving) == 1
    if synchronised is None:
        synchronised = machine.mlc.tongue_and_groove_mm > 0
    if synchronised or not machine.mlc.interdigitation:
        return neighbours, synchronised
    return np.zeros_like(neighbours), False


def _wide_columns(fluence: FloatArray, edges: FloatArray, window: float) -> tuple[FloatArray, FloatArray]:
    """The map on columns no narrower than the window: its means over even columns of about the window's width."""
    if np.diff(edges).min() >= window - 1e-9:
        return fluence, edges
    count = int((edges[-1] - edges[0]) / window + 1e-9)
    half = 0.5 * max(edges[-1] - edges[0], window)
    middle = 0.5 * (edges[0] + edges[-1])
    wide = np.linspace(middle - half, middle + half, max(count, 1) + 1)
    sums = np.hstack([np.zeros((len(fluence), 1)), np.cumsum(fluence * np.diff(edges), axis=1)])
    at_wide = np.array([np.interp(wide, edges, row) for row in sums])
    means: FloatArray = np.diff(at_wide, axis=1) / np.diff(wide)
    return means, wide


def _to_the_jaws(
    fluence: FloatArray, edges: FloatArray, window: float, machine: MachineModel
) -> tuple[FloatArray, FloatArray, tuple[float, float] | None]:
    """The map with empty columns up to where the X jaws can hide a waiting window, and the jaws."""
    margin = jaw_margin_mm(machine) - machine.mlc.leaf_end_offset_mm  # edges are those of radiation already
    jaw_x = jaw_edges(machine.jaw_x, float(edges[0]) - margin, float(edges[-1]) + margin)
    if jaw_x is None:
        return fluence, edges, None
    rows = len(fluence)
    if edges[0] - jaw_x[0] > 1e-6:
        fluence = np.hstack([np.zeros((rows, 1)), fluence])
        edges = np.concatenate([[min(jaw_x[0], edges[0] - window)], edges])
    if jaw_x[1] - edges[-1] > 1e-6:
        fluence = np.hstack([fluence, np.zeros((rows, 1))])
        edges = np.concatenate([edges, [max(jaw_x[1], edges[-1] + window)]])
    return fluence, edges, jaw_x


def _corrected(
    wanted: FloatArray, edges: FloatArray, demands: Demands, machine: MachineModel
) -> tuple[Passages, Demands]:
    """Passages whose fluence and what the leaves transmit meanwhile make up what is wanted, and the demands they keep to.

    Synchronisation is given up where it would raise the floor by more than :data:`SYNCHRONISED_FLOOR`.
    """
    through = machine.mlc.transmission
    meterset = floor = 0.0
    seen = np.zeros(wanted.shape[1])
    follows = can_follow(machine)
    for _ in range(_TRANSMISSION_ROUNDS):
        opened = np.maximum((wanted - through * seen) / (1.0 - through), 0.0)
        found = lowest_passages(opened, edges, demands, floor)
        if demands.synchronised:
            alone = lowest_passages(opened, edges, _unsynchronised(demands, machine), 0.0)
            if found.floor_mu > alone.floor_mu + SYNCHRONISED_FLOOR * float(wanted.max()):
                demands, found = _unsynchronised(demands, machine), alone
        floor = found.floor_mu
        if abs(found.meterset_mu - meterset) <= 1e-9 * found.meterset_mu:
            break
        meterset = found.meterset_mu
        seen = seen_through_jaws_mu(found, machine) if follows else np.full_like(seen, meterset)
    return found, demands


def _unsynchronised(demands: Demands, machine: MachineModel) -> Demands:
    coupled = np.zeros_like(demands.coupled) if machine.mlc.interdigitation else demands.coupled
    return replace(demands, coupled=coupled, synchronised=False)


def _on_the_machine(
    windows: FloatArray,
    pairs: NDArray[np.intp],
    edges: FloatArray,
    jaw_x: tuple[float, float] | None,
    jaws_mm: FloatArray | None,
    machine: MachineModel,
) -> list[Aperture]:
    """Apertures for the windows (times, 2, rows) of leaf pairs ``pairs``: tips, still pairs, jaws; rounded as printed.

    Still pairs hide behind the outermost places ``jaw_x`` of the X jaws ``jaws_mm`` (times, 2).
    """
    mlc, gap = machine.mlc, gap_mm(machine)
    second = np.round(windows[:, 1] - mlc.leaf_end_offset_mm, POSITION_DIGITS)
    first = np.minimum(np.round(windows[:, 0] + mlc.leaf_end_offset_mm, POSITION_DIGITS), second - gap)
    _check_reach(first, second, machine)
    boundaries = mlc.leaf_boundaries_mm
    jaw_y = jaw_edges(machine.jaw_y, float(boundaries[pairs[0]]), float(boundaries[pairs[-1] + 1]))
    banks = np.empty((len(windows), 2, mlc.leaf_pairs))
    middle = float(np.clip(round(0.5 * (edges[0] + edges[-1]), 1), -mlc.over_travel_mm, mlc.over_travel_mm))
    banks[:] = middle
    exposed = uncovered_height_mm(jaw_y, machine) > 0
    place = parking_place(first.ravel(), second.ravel(), jaw_x, machine)
    if place is not None:
        banks[:, 0, exposed], banks[:, 1, exposed] = place, place + gap
    banks[:, 0, pairs], banks[:, 1, pairs] = first, second
    if not mlc.interdigitation:
        banks[:, :, : pairs[0]] = banks[:, :, pairs[0], None]
        banks[:, :, pairs[-1] + 1 :] = banks[:, :, pairs[-1], None]
    banks = np.round(banks, POSITION_DIGITS) + 0.0
    if jaws_mm is None:
        return [Aperture(shape, jaw_y, jaw_x) for shape in banks]
    return [Aperture(shape, jaw_y, (low, high)) for shape, (low, high) in zip(banks, jaws_mm.tolist(), strict=True)]


def _check_reach(first: FloatArray, second: FloatArray, machine: MachineModel) -> None:
    """Leaves start where the field starts, which the opposed bank may not reach. Raises NotDeliverableError."""
    mlc = machine.mlc
    for name, past, back in (("X1", first.max(), -first.min()), ("X2", -second.min(), second.max())):
        if past > mlc.over_travel_mm + 1e-6 or back > mlc.retraction_mm + 1e-6:
            raise NotDeliverableError(
                f"a sliding window takes bank {name} {past:.1f} mm past the axis and {back:.1f} mm back from it; machine "
                f"'{machine.name}' allows {mlc.over_travel_mm:g} mm and {mlc.retraction_mm:g} mm"
            )


def _segments(apertures: list[Aperture], times: FloatArray) -> tuple[Segment, ...]:
    metersets = np.round(np.diff(times), METERSET_DIGITS)
    moving = zip(apertures[:-1], metersets.tolist(), apertures[1:], strict=True)
    return tuple(Segment(start, meterset, end) for start, meterset, end in moving)
