"""The influence matrix element by element, straight from its equation, in plain numpy."""

import numpy as np
from scipy.special import ndtr

from dicomplan.dose.fluence import calibration_field_fluence, extra_focal_view, profile_factor, source_sigma_mm


def element(u, v, weight, x_edges, y_edges, kernel, machine, axes, layers=(0, 1)):
    """Gy cm2 per photon of one beamlet of 1 MU at a point: (u, v) on the isocentre plane, the eight weights of its samples.

    Error functions at the points of the maps (``axes``: x and y of the first point, points per mm, of both layers), linear
    between them. Without the coarse layer the wide Gaussians and the extra-focal source are missing.
    """
    beam = machine.beam
    source = source_sigma_mm(beam, machine.source_axis_distance_mm)
    share, norm = beam.extra_focal_weight, calibration_field_fluence(machine)
    leaf_end = machine.mlc.leaf_end_blur_mm
    profile = float(profile_factor(beam, np.array([np.mean(x_edges)]), np.array([np.mean(y_edges)]))[0, 0])
    total = 0.0
    for k, sigma in enumerate(kernel.sigma_mm):
        layer = 0 if k < 4 else 1
        if layer in layers:
            x0, y0, per_mm = axes[layer]
            wide = np.hypot(sigma, source)
            along = between(u, x0, per_mm, lambda x, wide=wide: seen(x, x_edges, np.hypot(wide, leaf_end)))
            across = between(v, y0, per_mm, lambda y, wide=wide: seen(y, y_edges, wide))
            total += weight[k] * (1.0 - share) / norm * profile * along * across
    if share > 0.0 and 1 in layers:
        near, gaussians = extra_focal_view(machine)
        x0, y0, per_mm = axes[1]
        for part, blur in gaussians:
            for k, sigma in ((4, kernel.sigma_mm[4]), (5, kernel.sigma_mm[5]), (6, kernel.sigma_mm[6]), (7, 0.0)):
                wide = np.hypot(blur, near * sigma)
                along = between(u, x0, per_mm, lambda x, wide=wide: seen(near * x, x_edges, np.hypot(wide, leaf_end)))
                across = between(v, y0, per_mm, lambda y, wide=wide: seen(near * y, y_edges, wide))
                total += weight[k] * part * share / norm * along * across
    return total


def between(at, first, per_mm, value):
    """A function's value linear between points."""
    low = np.floor((at - first) * per_mm)
    part = (at - first) * per_mm - low
    return (1.0 - part) * value(first + low / per_mm) + part * value(first + (low + 1) / per_mm)


def seen(at, edges, sigma):
    """Share of a normalised Gaussian about ``at`` that lies between two edges."""
    return float(ndtr((edges[1] - at) / sigma) - ndtr((edges[0] - at) / sigma))


def product(starts, indices, data, x):
    """Rows of a CSR matrix times a vector."""
    return np.array(
        [
            sum(float(data[k]) * float(x[indices[k]]) for k in range(starts[row], starts[row + 1]))
            for row in range(len(starts) - 1)
        ]
    )


def transposed_product(starts, indices, data, gradient, columns):
    """Its transpose times a vector."""
    result = np.zeros(columns)
    for row in range(len(starts) - 1):
        for k in range(starts[row], starts[row + 1]):
            result[indices[k]] += float(data[k]) * float(gradient[row])
    return result
