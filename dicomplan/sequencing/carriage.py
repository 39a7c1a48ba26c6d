"""Fluence wider than the leaves can span: carriage groups with feathered overlap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicomplan.errors import NotDeliverableError

FloatArray = NDArray[np.float64]


def carriage_groups(
    x_edges_mm: FloatArray, fluence: FloatArray, leaf_span_mm: float, overlap_mm: float = 20.0
) -> list[tuple[slice, FloatArray]]:
    """Column ranges no wider than ``leaf_span_mm`` and the share of the fluence that each of their columns carries.

    ``x_edges_mm`` (cols + 1,) ascending column edges along leaf travel; ``fluence`` (rows, cols). Fewest groups; of the
    possible cuts those through the least fluence, as this is delivered twice. Where two groups overlap (the fewest columns
    that make up ``overlap_mm``) the share falls linearly from one to the other, at the column's centre, so that a leaf
    or carriage error is smeared. Shares of a column over the groups add up to 1, hence the weighted parts to the map.
    Columns without fluence at both ends belong to no group; no fluence at all gives no groups.

    Raises NotDeliverableError when no cut keeps to the span (span not above the overlap and a column).
    """
    used = np.flatnonzero(np.asarray(fluence).any(axis=0))
    if used.size == 0:
        return []
    begin, end = int(used[0]), int(used[-1]) + 1
    load = np.asarray(fluence, np.float64).sum(axis=0)
    slack = 1e-6
    # Width in groups, fluence delivered twice and first overlap, for the columns from each start on; found from the end.
    best: dict[int, tuple[int, float, int]] = {}
    stops = {a: _overlap_stop(x_edges_mm, a, end, overlap_mm) for a in range(begin + 1, end)}
    for start in range(end - 1, begin - 1, -1):
        if x_edges_mm[end] - x_edges_mm[start] <= leaf_span_mm + slack:
            best[start] = (1, 0.0, end)
            continue
        nearest = start + 1 if start == begin else stops[start]
        for a in range(max(nearest, start + 1), end):
            stop = stops[a]
            if x_edges_mm[stop] - x_edges_mm[start] > leaf_span_mm + slack:
                break
            if a not in best or stop >= end:
                continue
            groups, twice, _ = best[a]
            candidate = (groups + 1, twice + float(load[a:stop].sum()), a)
            if start not in best or candidate < best[start]:
                best[start] = candidate
    if begin not in best:
        width = x_edges_mm[end] - x_edges_mm[begin]
        raise NotDeliverableError(
            f"a fluence {width:.0f} mm wide cannot be split into carriage groups of at most {leaf_span_mm:.0f} mm "
            f"with an overlap of {overlap_mm:.0f} mm"
        )
    groups_found: list[tuple[slice, FloatArray]] = []
    start = begin
    while True:
        count, _, a = best[start]
        stop = end if count == 1 else stops[a]
        share = np.ones(stop - start)
        if start != begin:
            ramp = _falling(x_edges_mm[start : stops[start] + 1])
            share[: len(ramp)] = 1.0 - ramp
        if count == 1:
            groups_found.append((slice(start, stop), share))
            return groups_found
        share[a - start :] = _falling(x_edges_mm[a : stop + 1])
        groups_found.append((slice(start, stop), share))
        start = a


def _overlap_stop(x_edges_mm: FloatArray, start: int, end: int, overlap_mm: float) -> int:
    """First column edge at least ``overlap_mm`` beyond the edge ``start``, at most ``end``."""
    return min(int(np.searchsorted(x_edges_mm, x_edges_mm[start] + overlap_mm - 1e-6)), end)


def _falling(edges_mm: FloatArray) -> FloatArray:
    """Share of the columns between ``edges_mm`` that falls linearly from 1 at the first edge to 0 at the last."""
    centres = 0.5 * (edges_mm[1:] + edges_mm[:-1])
    share: FloatArray = (edges_mm[-1] - centres) / (edges_mm[-1] - edges_mm[0])
    return share
