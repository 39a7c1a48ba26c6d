"""Masks to contours: pixel edges for binary masks, half-coverage lines with the same voxels for fractional ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicomplan.geometry.contours import half_coverage_contours, simplify
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.geometry.polygons import polygon_coverage
from dicomplan.images._kernels import follow

FloatArray = NDArray[np.float64]

INSIDE = 0.5
"""A voxel belongs to the binary mask if at least this fraction of it is covered."""
_CERTAIN = 0.004  # of a pixel; coordinates printed to 0.001 mm move the coverage of a pixel of 0.5 mm by half of it
_FITTED = 8  # rounds that also fit the fractions; more gain less than a thousandth of the volume
_SHARE = 0.5
_ROUNDS = 48
_STEP = 0.01


def pixel_outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Outlines (n, 2) of a binary plane (ny, nx) along pixel edges, as corner indices (x, y); only corners are listed.

    Corner (0, 0) is the outer corner of pixel [0, 0]. Outer outlines turn from x to y, holes the other way; by XOR they
    enclose exactly the pixels of the mask. Pixels that touch only at a corner have outlines of their own; a hole that
    touches the outside at a corner is part of its outline (programs that fill holes instead of XOR then keep it).
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return []
    low_row, low_column = rows[0], columns[0]
    part = np.pad(mask[low_row : rows[-1] + 1, low_column : columns[-1] + 1], 1)
    inside = part[1:-1, 1:-1]
    # Edge k of a pixel runs along +x, +y, -x, -y; the pixel lies to its side towards edge k + 1.
    beyond = (part[:-2, 1:-1], part[1:-1, 2:], part[2:, 1:-1], part[1:-1, :-2])
    starts = ((0, 0), (1, 0), (1, 1), (0, 1))
    width = inside.shape[1] + 1
    corners, directions = [], []
    for kind, (outside, (x, y)) in enumerate(zip(beyond, starts, strict=True)):
        row, column = np.nonzero(inside & ~outside)
        corners.append((row + y) * width + column + x)
        directions.append(np.full(len(row), kind))
    start, direction = np.concatenate(corners), np.concatenate(directions)
    end = start + np.array([1, width, -1, -width])[direction]
    leaving = np.full(((inside.shape[0] + 1) * width, 4), -1)
    leaving[start, direction] = np.arange(len(start))
    following = np.full(len(start), -1)
    # Round its own pixel first: so pixels that touch at a corner stay apart.
    for turn in (1, 0, 3):
        choice = leaving[end, (direction + turn) % 4]
        following = np.where(following < 0, choice, following)
    order, cycle = np.empty_like(following), np.empty_like(following)
    count = follow(following, order, cycle)
    turns = direction[order] != direction[following[order]]
    points = np.stack([end[order] % width + low_column, end[order] // width + low_row], axis=1)[turns]
    lengths = np.bincount(cycle[turns], minlength=count)
    return np.split(points, np.cumsum(lengths)[:-1])


def mask_contours(fraction: NDArray[np.floating], grid: VoxelGrid) -> tuple[FloatArray, ...]:
    """Closed contours (n, 3) in patient coordinates (mm), for the XOR convention, of a mask (0..1) on the CT's ``grid``.

    Voxels that the contours cover at least by half are exactly those whose value is at least 0.5. In planes of zeros and
    ones alone, contours run along pixel edges and enclose exactly the mask's volume; where values lie between, they pass
    through the pixels so that the covered fractions come near to the values (volumes of organs within 0.2 % on pixels of
    4 mm). An empty mask gives ().
    """
    contours = []
    x_edges, y_edges, z_mm = grid.edges_mm(2), grid.edges_mm(1), grid.axis_mm(0)
    for plane in np.flatnonzero((fraction > 0).any(axis=(1, 2))):
        values = np.asarray(fraction[plane], dtype=np.float64)
        polygons = None
        if ((values > 0) & (values < 1)).any():
            polygons = _smooth(values, x_edges, y_edges)
        if polygons is None:
            outlines = pixel_outlines(values >= INSIDE)
            polygons = [np.stack([x_edges[line[:, 0]], y_edges[line[:, 1]]], axis=1) for line in outlines]
        for flat in polygons:
            local = np.concatenate([flat, np.full((len(flat), 1), z_mm[plane])], axis=1)
            contours.append(np.ascontiguousarray(grid.patient_from_local(local)))
    return tuple(contours)


def _smooth(values: FloatArray, x_edges: FloatArray, y_edges: FloatArray) -> list[FloatArray] | None:
    """Lines of a plane that cover its pixels as given, and keep each on its side of 0.5; None if none were found.

    They are half-coverage lines of a field that starts as the plane and is bent by what they cover too little or too much.
    """
    rows, columns = np.flatnonzero((values > 0).any(axis=1)), np.flatnonzero((values > 0).any(axis=0))
    rows_of = slice(max(rows[0] - 1, 0), rows[-1] + 2)
    columns_of = slice(max(columns[0] - 1, 0), columns[-1] + 2)
    values = values[rows_of, columns_of]
    x_edges = x_edges[columns_of.start : columns_of.start + values.shape[1] + 1]
    y_edges = y_edges[rows_of.start : rows_of.start + values.shape[0] + 1]
    x_mm, y_mm = 0.5 * (x_edges[1:] + x_edges[:-1]), 0.5 * (y_edges[1:] + y_edges[:-1])
    if min(values.shape) < 2:
        return None
    low_corner, high_corner = (x_edges[0], y_edges[0]), (x_edges[-1], y_edges[-1])
    inside = values >= INSIDE
    field = values.copy()
    border = (values > 0) & (values < 1)
    best, least = None, np.inf
    for round_number in range(_ROUNDS):
        polygons = [simplify(line) for line in half_coverage_contours(field, x_mm, y_mm, INSIDE)]
        # A lifted border pixel would push its line over the edge of the image.
        polygons = [np.clip(line, low_corner, high_corner) for line in polygons]
        covered = polygon_coverage(polygons, x_edges, y_edges)
        short = np.where(inside, INSIDE + _CERTAIN - covered, covered - INSIDE + _CERTAIN)
        wrong = short > 0
        error = float(np.abs(covered - values).sum())
        if not wrong.any() and error < least:
            best, least = polygons, error
        if best is not None and round_number >= _FITTED:
            return best
        # Towards the given fractions first; from then on only what is on the wrong side is moved.
        if round_number < _FITTED:
            field += np.where(border, _SHARE * (values - covered), 0.0)
        field += np.where(wrong, np.where(inside, 1.0, -1.0) * (_STEP + 0.5 * short), 0.0)
    return best
