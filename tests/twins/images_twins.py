"""Slow twins of the kernels in the images room."""

from __future__ import annotations

import numpy as np


def outlines(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """Corners (x, y) of the outlines of a mask, edge by edge, a pixel's own next edge first where there is a choice."""
    steps = ((1, 0), (0, 1), (-1, 0), (0, -1))
    neighbours = ((-1, 0), (0, 1), (1, 0), (0, -1))
    starts = ((0, 0), (1, 0), (1, 1), (0, 1))
    padded = np.pad(mask, 1)
    edges = set()
    for row, column in np.argwhere(mask):
        for kind in range(4):
            down, right = neighbours[kind]
            if not padded[row + 1 + down, column + 1 + right]:
                edges.add((int(column) + starts[kind][0], int(row) + starts[kind][1], kind))
    found = []
    while edges:
        first = edge = min(edges)
        line = []
        while True:
            edges.discard(edge)
            x, y, kind = edge
            corner = (x + steps[kind][0], y + steps[kind][1])
            following = next(
                (*corner, (kind + turn) % 4)
                for turn in (1, 0, 3)
                if (*corner, (kind + turn) % 4) in edges or (*corner, (kind + turn) % 4) == first
            )
            if following[2] != kind:
                line.append(corner)
            if following == first:
                break
            edge = following
        found.append(line)
    return found
