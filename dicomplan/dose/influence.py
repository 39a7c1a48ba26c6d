"""The influence of beamlets on voxels, factorised: never stored as a matrix, applied as a few products per beam.

A beamlet's fluence convolved with a Gaussian is a product of two error functions, one along and one across the leaf:
the convolved map of a beam is (across) x (beamlet map) x (along), and a voxel's dose its weighted bilinear samples
(:mod:`dicomplan.dose.pencil_beam`). Cost and memory do not depend on the number of beamlets or on a cut-off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.beamlets import BeamletMap
from dicomplan.dose.fluence import profile_factor
from dicomplan.dose.pencil_beam import (
    LAYERS,
    BeamSamples,
    blurred_sigma_mm,
    interval_response,
    layer_axes,
    layer_places,
    photons_cm2_per_mu,
    sampled,
    spread,
)
from dicomplan.dose.pencil_kernel import PencilKernel
from dicomplan.machine.model import MachineModel

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class _MapLayer:
    """One layer of a beam: the responses (K, ny, rows) and (K, cols, nx) at the points of its maps."""

    across: Float32Array
    along: Float32Array

    @property
    def shape(self) -> tuple[int, int, int]:
        """(K, ny, nx) of its maps."""
        return self.across.shape[0], self.across.shape[1], self.along.shape[2]


@dataclass(frozen=True)
class BeamInfluence:
    """One beam's beamlets on the voxels of its samples.

    ``profile`` (rows, cols) is the off-axis fluence factor, ``axes`` (2, 3) where the points of the layers' maps lie:
    :func:`~dicomplan.dose.pencil_beam.layer_places`.
    """

    beamlets: BeamletMap
    samples: BeamSamples
    profile: FloatArray
    layers: tuple[_MapLayer, ...]
    axes: Float32Array

    def add_dose(self, fluence_mu: FloatArray, out: Float32Array) -> None:
        """Add the dose (Gy cm2 per photon x MU) of the beamlets (count,) to ``out`` (n,)."""
        cells = (self.beamlets.filled(fluence_mu) * self.profile).astype(np.float32)
        maps = [np.matmul(np.matmul(part.across, cells), part.along) for part in self.layers]
        sampled(maps, self.axes, self.samples, out)

    def gradient(self, voxel_gradient: Float32Array) -> FloatArray:
        """(count,) transpose of :meth:`add_dose`."""
        total = np.zeros(self.beamlets.active.shape)
        shapes = [part.shape for part in self.layers]
        for part, maps in zip(self.layers, spread(voxel_gradient, shapes, self.axes, self.samples), strict=True):
            cells = np.matmul(np.matmul(part.across.transpose(0, 2, 1), maps), part.along.transpose(0, 2, 1))
            total += cells.sum(axis=0, dtype=np.float64)
        result: FloatArray = (total * self.profile)[self.beamlets.active]
        return result


@dataclass(frozen=True)
class FactorisedInfluence:
    """Dose of a plan's beamlets on a set of voxels; beamlets beam by beam, within a beam as :class:`BeamletMap` says.

    ``gy_per_unit`` turns Gy cm2 per photon x MU of one fraction into Gy of the course.
    """

    beams: tuple[BeamInfluence, ...]
    voxel_count: int
    gy_per_unit: float

    @property
    def beamlet_count(self) -> int:
        """Number of beamlets of all beams."""
        return sum(beam.beamlets.count for beam in self.beams)

    @property
    def bytes(self) -> int:
        """Memory that the operator holds."""
        total = 0
        for beam in self.beams:
            arrays = [beam.samples.u_mm, beam.samples.v_mm, beam.samples.weight]
            arrays += [array for part in beam.layers for array in (part.across, part.along)]
            total += sum(array.nbytes for array in arrays)
        return total

    def split(self, fluence_mu: FloatArray) -> list[FloatArray]:
        """The fluence (beamlets,) beam by beam."""
        ends = np.cumsum([beam.beamlets.count for beam in self.beams])
        return np.split(np.asarray(fluence_mu, dtype=np.float64), ends[:-1])

    def forward(self, fluence_mu: FloatArray) -> Float32Array:
        """Dose (voxels,) in Gy of the course for a fluence (beamlets,) in MU of an open field, of one fraction."""
        dose = np.zeros(self.voxel_count, dtype=np.float32)
        for beam, part in zip(self.beams, self.split(fluence_mu * self.gy_per_unit), strict=True):
            beam.add_dose(part, dose)
        return dose

    def adjoint(self, gradient: NDArray[np.floating]) -> FloatArray:
        """(beamlets,) transpose of :meth:`forward` applied to a gradient (voxels,) per Gy: per MU."""
        single = np.ascontiguousarray(gradient, dtype=np.float32)
        parts = [beam.gradient(single) for beam in self.beams]
        return np.concatenate(parts) * self.gy_per_unit


def beam_influence(
    beamlets: BeamletMap, samples: BeamSamples, kernel: PencilKernel, machine: MachineModel
) -> BeamInfluence:
    """The factors of one beam."""
    x_edges, y_edges = beamlets.x_edges_mm, beamlets.y_edges_mm
    sigma = blurred_sigma_mm(kernel, machine)
    layers, axes = [], []
    x_range, y_range = (float(x_edges[0]), float(x_edges[-1])), (float(y_edges[0]), float(y_edges[-1]))
    for layer in LAYERS:
        x_mm, y_mm = layer_axes(layer, samples, x_range, y_range)
        widths = sigma[layer.first : layer.last]
        along = [interval_response(x_edges[:-1], x_edges[1:], x_mm, float(width)).T for width in widths]
        across = [interval_response(y_edges[:-1], y_edges[1:], y_mm, float(width)) for width in widths]
        layers.append(_MapLayer(_float32(across), _float32(along)))
        axes.append(layer_places(layer, x_mm, y_mm))
    middle_x, middle_y = 0.5 * (x_edges[1:] + x_edges[:-1]), 0.5 * (y_edges[1:] + y_edges[:-1])
    return BeamInfluence(
        beamlets, samples, profile_factor(machine.beam, middle_x, middle_y), tuple(layers), np.stack(axes)
    )


def factorised_influence(
    maps: Sequence[BeamletMap],
    samples: Sequence[BeamSamples],
    kernel: PencilKernel,
    machine: MachineModel,
    fractions: int,
) -> FactorisedInfluence:
    """The operator of a plan from each beam's beamlets and samples (all of the same voxels)."""
    beams = tuple(beam_influence(one, seen, kernel, machine) for one, seen in zip(maps, samples, strict=True))
    return FactorisedInfluence(beams, len(samples[0].u_mm), photons_cm2_per_mu(machine, kernel) * fractions)


def _float32(parts: Sequence[FloatArray]) -> Float32Array:
    return np.ascontiguousarray(np.stack(parts), dtype=np.float32)
