"""The influence matrix element by element, straight from its equation, in plain numpy."""

import numpy as np
from scipy.special import ndtr

from dicomplan.dose.fluence import calibration_field_fluence, extra_focal_view, profile_factor, source_sigma_mm


def element(u, v, weight, x_edges, y_edges, kernel, machine, layers=(0, 1)):
    """Gy cm2 per photon of one beamlet of 1 MU at a point: (u, v) on the isocentre plane, the eight weights of its samples.

    Error functions at the point itself, where the engine interpolates between the points of its maps. Without the coarse
    layer the wide Gaussians and the extra-focal source are missing.
    """
    beam = machine.beam
    source = source_sigma_mm(beam, machine.source_axis_distance_mm)
    share, norm = beam.extra_focal_weight, calibration_field_fluence(machine)
    profile = float(profile_factor(beam, np.array([np.mean(x_edges)]), np.array([np.mean(y_edges)]))[0, 0])
    total = 0.0
    for k, sigma in enumerate(kernel.sigma_mm):
        if (0 if k < 4 else 1) not in layers:
            continue
        wide = np.hypot(sigma, source)
        opened = seen(u, x_edges, np.hypot(wide, machine.mlc.leaf_end_blur_mm)) * seen(v, y_edges, wide)
        total += weight[k] * (1.0 - share) / norm * profile * opened
        if share > 0.0 and 1 in layers:
            near, blur = extra_focal_view(machine)
            wide = np.hypot(blur, near * sigma)
            opened = seen(near * u, x_edges, np.hypot(wide, machine.mlc.leaf_end_blur_mm)) * seen(
                near * v, y_edges, wide
            )
            total += weight[k] * share / norm * opened
    return total


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
