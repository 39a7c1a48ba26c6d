"""A flat patient, a toy dose engine and voxel sets for tests of optimisation and of derived objectives."""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.special import erf

from dicomplan.optimization.voxels import VoxelSet
from dicomplan.patient.algebra import Combined, Grown, Name
from dicomplan.patient.case import Structure
from dicomplan.plan.resolve import resolve

STEP_MM = 3.0
VOXEL_CC = 0.108  # 3 x 3 x 12 mm
SQUARE = (np.array([[0.0, 0, 0], [9, 0, 0], [9, 9, 0], [0, 9, 0]]),)


class Dense:
    """A dense matrix as a dose operator."""

    def __init__(self, matrix):
        self.matrix = np.asarray(matrix, dtype=np.float64)

    @property
    def voxel_count(self):
        return self.matrix.shape[0]

    @property
    def beamlet_count(self):
        return self.matrix.shape[1]

    def forward(self, fluence):
        return self.matrix @ fluence

    def adjoint(self, weights):
        return self.matrix.T @ weights


def plane(half_mm=105.0):
    """Voxel centres (y, x) in mm: x to the left, y to the back."""
    axis = np.arange(-half_mm, half_mm + 1, STEP_MM)
    return np.meshgrid(axis, axis, indexing="ij")


def ellipse(x0, y0, a, b):
    y, x = plane()
    return ((x - x0) / a) ** 2 + ((y - y0) / b) ** 2 <= 1.0


def head_and_neck():
    """Masks of a neck: a target on one side, lower levels round the cord, parotids, larynx, mandible."""
    body = ellipse(0, 0, 80, 95)
    cord, gap = ellipse(0, 32, 7, 7), ellipse(0, 32, 15, 15)
    horseshoe = ellipse(0, 10, 52, 42) & ~ellipse(0, 50, 30, 55) & body
    high = ellipse(30, -5, 18, 20) & ~gap
    middle = ellipse(30, -3, 26, 28) & ~gap & ~high
    low = (horseshoe | (ellipse(-32, 8, 18, 26) & ~gap)) & ~high & ~middle & ~gap
    return {
        "BODY": body,
        "PTV70": high,
        "PTV63": middle,
        "PTV56": low,
        "SpinalCord": cord,
        "Brainstem": ellipse(0, 34, 10, 10) & ~cord,
        "RightParotid": ellipse(-62, 4, 12, 18) & body,
        "LeftParotid": ellipse(64, 4, 11, 18) & body,
        "Larynx": ellipse(-5, -42, 13, 11),
        "Mandible": ellipse(0, -30, 55, 50) & ~ellipse(0, -20, 48, 50) & body,
    }


def pencil_matrix(body, *, beams=9, width_mm=5.0, reach_mm=60.0):
    """(voxels, beamlets) Gy per unit: attenuation with depth, a Gaussian penumbra and a wide scatter tail; body voxels."""
    y, x = (values[body] for values in plane())
    columns, pairs, count = [], [], 0
    edges = np.arange(-reach_mm, reach_mm + 0.1, width_mm)
    for beam in range(beams):
        angle = 2 * math.pi * beam / beams
        across = x * math.cos(angle) + y * math.sin(angle)
        steps = np.arange(0.0, 200.0, STEP_MM)
        # path inside the body from each voxel towards the source
        px, py = x[:, None] + steps * math.sin(angle), y[:, None] - steps * math.cos(angle)
        depth = ((px / 80) ** 2 + (py / 95) ** 2 <= 1.0).sum(axis=1) * STEP_MM
        attenuation = (1 - 0.6 * np.exp(-depth / 4.0)) * np.exp(-0.005 * depth)
        for low, high in itertools.pairwise(edges):
            core, wide = (
                0.5 * (erf((high - across) / (s * math.sqrt(2))) - erf((low - across) / (s * math.sqrt(2))))
                for s in (3.5, 20.0)
            )
            columns.append(attenuation * (0.88 * core + 0.12 * wide))
        number = len(edges) - 1
        pairs += [(count + k, count + k + 1) for k in range(number - 1)]
        count += number
    return np.stack(columns, axis=1), np.array(pairs)


def resolved_on(template, names):
    """A template on a study that has drawn ROIs of these names."""
    return resolve(template, [Structure(name, k, "ORGAN", SQUARE) for k, name in enumerate(names, start=1)])


def grown(mask, margin_mm):
    return distance_transform_edt(~mask) * STEP_MM <= margin_mm


def structure_masks(resolved, roi_masks):
    """Mask of every structure of a resolved template by its canonical name."""
    masks = {name: roi_masks[roi] for name, roi in resolved.roi_names.items()}
    masks["BODY"] = roi_masks["BODY"]

    def value(expression):
        if isinstance(expression, Name):
            return masks[expression.name]
        if isinstance(expression, Grown):
            assert not expression.shrunk
            return grown(value(expression.of), expression.margin.left_mm)
        assert isinstance(expression, Combined)
        first, second = value(expression.first), value(expression.second)
        return (
            first | second
            if expression.operator == "|"
            else first & second
            if expression.operator == "&"
            else first & ~second
        )

    for one in resolved.derived:
        masks[one.name] = value(one.expression)
    return masks


def region_set(region, masks, weight=VOXEL_CC):
    """VoxelSet of a region on the body's voxels, or None; the skin is 4 mm deep, there is no air."""
    body, mask = masks["BODY"], masks[region.structure].copy()
    for name in region.without:
        mask &= ~grown(masks[name], region.margin_mm)
    if region.reachable:
        mask &= distance_transform_edt(body) * STEP_MM > 4.0
    indices = np.flatnonzero(mask[body])
    return VoxelSet(region.structure, indices, np.full(len(indices), weight)) if len(indices) else None
