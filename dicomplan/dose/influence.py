"""The influence of beamlets on voxels, factorised: never stored as a matrix, applied as a few products per beam.

A beamlet's fluence convolved with a Gaussian is a product of two error functions, one along and one across the leaf:
the convolved map of a beam is (across) x (beamlet map) x (along), and a voxel's dose its weighted bilinear samples
(:mod:`dicomplan.dose.pencil_beam`). Cost and memory do not depend on the number of beamlets or on a cut-off.

Sources are those of :func:`~dicomplan.dose.fluence.both_sources`: a beamlet opens as leaf ends blur it, and seen from the
extra-focal source it is another such product. That one is smooth, so only the coarse maps carry it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.beamlets import BeamletMap
from dicomplan.dose.between import RowsOfDose
from dicomplan.dose.fluence import calibration_field_fluence, extra_focal_view, profile_factor
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
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class MapLayer:
    """One layer of a beam: responses of rows and columns of beamlets at the points of its maps.

    ``across`` (K, ny, rows), ``along`` (K, cols, nx) to the primary source; ``extra_across``, ``extra_along`` to the
    extra-focal one, none or, for each of that source's Gaussians, four: for the layer's own, and for all the narrow ones
    together. The maps of a source's Gaussians add up.
    """

    across: Float32Array
    along: Float32Array
    extra_across: Float32Array
    extra_along: Float32Array

    @property
    def shape(self) -> tuple[int, int, int]:
        """(K, ny, nx) of its maps."""
        held = len(self.across) + (1 if len(self.extra_across) else 0)
        return held, self.across.shape[1], self.along.shape[2]

    @property
    def arrays(self) -> tuple[Float32Array, ...]:
        """All that it holds."""
        return self.across, self.along, self.extra_across, self.extra_along

    def maps(self, primary: Float32Array, opened: Float32Array) -> Float32Array:
        """(K, ny, nx) convolved maps of beamlets (rows, cols), with and without what belongs to the primary source alone."""
        result: Float32Array = np.matmul(np.matmul(self.across, primary), self.along)
        if len(self.extra_across) == 0:
            return result
        seen: Float32Array = np.matmul(np.matmul(self.extra_across, opened), self.extra_along)
        total: Float32Array = seen[: len(result) + 1]
        for first in range(len(total), len(seen), len(total)):
            total += seen[first : first + len(total)]
        total[: len(result)] += result
        return total

    def cells(self, maps: Float32Array) -> tuple[FloatArray, FloatArray]:
        """Transpose of :meth:`maps`: what the maps give to ``primary`` and to ``opened``."""
        result = []
        times = len(self.extra_across) // (len(self.across) + 1)
        for across, along, own in (
            (self.across, self.along, maps[: len(self.across)]),
            (self.extra_across, self.extra_along, np.tile(maps, (times, 1, 1)) if times != 1 else maps),
        ):
            cells = np.matmul(np.matmul(across.transpose(0, 2, 1), own), along.transpose(0, 2, 1))
            result.append(cells.sum(axis=0, dtype=np.float64))
        return result[0], result[1]


@dataclass(frozen=True)
class BeamInfluence:
    """One beam's beamlets on the voxels of its samples.

    ``profile`` (rows, cols) is the off-axis factor times the primary source's share, ``axes`` (2, 3) where the points of
    the layers' maps lie: :func:`~dicomplan.dose.pencil_beam.layer_places`.
    """

    beamlets: BeamletMap
    samples: BeamSamples
    profile: FloatArray
    layers: tuple[MapLayer, ...]
    axes: Float32Array

    def add_dose(self, fluence_mu: FloatArray, out: Float32Array) -> None:
        """Add the dose (Gy cm2 per photon x MU) of the beamlets (count,) to ``out`` (n,)."""
        opened = self.beamlets.filled(fluence_mu)
        primary, single = (opened * self.profile).astype(np.float32), opened.astype(np.float32)
        sampled([part.maps(primary, single) for part in self.layers], self.axes, self.samples, out)

    def gradient(self, voxel_gradient: Float32Array) -> FloatArray:
        """(count,) transpose of :meth:`add_dose`."""
        total = np.zeros(self.beamlets.active.shape)
        shapes = [part.shape for part in self.layers]
        for part, maps in zip(self.layers, spread(voxel_gradient, shapes, self.axes, self.samples), strict=True):
            primary, opened = part.cells(maps)
            total += primary * self.profile + opened
        result: FloatArray = total[self.beamlets.active]
        return result


@dataclass(frozen=True)
class FactorisedInfluence:
    """Dose of a plan's beamlets on a set of voxels; beamlets beam by beam, within a beam as :class:`BeamletMap` says.

    ``sampled_count`` voxels are sampled; ``gy_per_unit`` turns Gy cm2 per photon x MU of one fraction into Gy of the course.
    With ``rows`` doses are also had at points between the voxels: what is called voxels below are then these rows.
    """

    beams: tuple[BeamInfluence, ...]
    sampled_count: int
    gy_per_unit: float
    rows: RowsOfDose | None = None

    @property
    def voxel_count(self) -> int:
        """Number of voxels, and of points between them."""
        return self.sampled_count if self.rows is None else self.rows.count

    @property
    def beamlet_count(self) -> int:
        """Number of beamlets of all beams."""
        return sum(beam.beamlets.count for beam in self.beams)

    def on_voxels(self, rows: IntArray) -> FactorisedInfluence:
        """The operator on some of its voxels, in their order."""
        chosen, between = (rows, None) if self.rows is None else self.rows.on(rows)
        beams = []
        for beam in self.beams:
            seen = beam.samples
            samples = BeamSamples(seen.u_mm[chosen], seen.v_mm[chosen], seen.weight[chosen])
            beams.append(replace(beam, samples=samples))
        return FactorisedInfluence(tuple(beams), len(chosen), self.gy_per_unit, between)

    @property
    def bytes(self) -> int:
        """Memory that the operator holds."""
        total = 0
        for beam in self.beams:
            arrays = [beam.samples.u_mm, beam.samples.v_mm, beam.samples.weight]
            arrays += [array for part in beam.layers for array in part.arrays]
            total += sum(array.nbytes for array in arrays)
        return total

    def split(self, fluence_mu: FloatArray) -> list[FloatArray]:
        """The fluence (beamlets,) beam by beam."""
        ends = np.cumsum([beam.beamlets.count for beam in self.beams])
        return np.split(np.asarray(fluence_mu, dtype=np.float64), ends[:-1])

    def forward(self, fluence_mu: FloatArray) -> Float32Array:
        """Dose (voxels,) in Gy of the course for a fluence (beamlets,) in MU of an open field, of one fraction."""
        dose = np.zeros(self.sampled_count, dtype=np.float32)
        for beam, part in zip(self.beams, self.split(fluence_mu * self.gy_per_unit), strict=True):
            beam.add_dose(part, dose)
        return dose if self.rows is None else self.rows.dose(dose)

    def adjoint(self, gradient: NDArray[np.floating]) -> FloatArray:
        """(beamlets,) transpose of :meth:`forward` applied to a gradient (voxels,) per Gy: per MU."""
        single = np.ascontiguousarray(gradient, dtype=np.float32)
        if self.rows is not None:
            single = self.rows.adjoint(single)
        parts = [beam.gradient(single) for beam in self.beams]
        return np.concatenate(parts) * self.gy_per_unit


def beam_influence(
    beamlets: BeamletMap, samples: BeamSamples, kernel: PencilKernel, machine: MachineModel
) -> BeamInfluence:
    """The factors of one beam."""
    x_edges, y_edges = beamlets.x_edges_mm, beamlets.y_edges_mm
    x_low, x_high, y_low, y_high = x_edges[:-1], x_edges[1:], y_edges[:-1], y_edges[1:]
    sigma, leaf_end = blurred_sigma_mm(kernel, machine), machine.mlc.leaf_end_blur_mm
    weight, norm = machine.beam.extra_focal_weight, calibration_field_fluence(machine)
    layers, axes = [], []
    x_range, y_range = (float(x_edges[0]), float(x_edges[-1])), (float(y_edges[0]), float(y_edges[-1]))
    for number, layer in enumerate(LAYERS):
        x_mm, y_mm = layer_axes(layer, samples, x_range, y_range)
        widths = sigma[layer.first : layer.last]
        along = [interval_response(x_low, x_high, x_mm, float(np.hypot(width, leaf_end))).T for width in widths]
        across = [interval_response(y_low, y_high, y_mm, float(width)) for width in widths]
        extra_along, extra_across = [], []
        if weight > 0.0 and number == 1:
            near, gaussians = extra_focal_view(machine)
            # beside the source's own blur, narrow Gaussians are nothing: the last stands for all of them
            for share, blur in gaussians:
                for width in (*kernel.sigma_mm[layer.first : layer.last], 0.0):
                    wide = float(np.hypot(blur, near * width))
                    leaf = float(np.hypot(wide, leaf_end))
                    extra_along.append(interval_response(x_low, x_high, near * x_mm, leaf).T)
                    extra_across.append(weight * share / norm * interval_response(y_low, y_high, near * y_mm, wide))
        extra = (
            _float32(extra_across, (len(y_mm), len(y_low))),
            _float32(extra_along, (len(x_low), len(x_mm))),
        )
        layers.append(MapLayer(_float32(across), _float32(along), *extra))
        axes.append(layer_places(layer, x_mm, y_mm))
    middle_x, middle_y = 0.5 * (x_high + x_low), 0.5 * (y_high + y_low)
    profile = profile_factor(machine.beam, middle_x, middle_y) * ((1.0 - weight) / norm)
    return BeamInfluence(beamlets, samples, profile, tuple(layers), np.stack(axes))


def factorised_influence(
    maps: Sequence[BeamletMap],
    samples: Sequence[BeamSamples],
    kernel: PencilKernel,
    machine: MachineModel,
    fractions: int,
    rows: RowsOfDose | None = None,
) -> FactorisedInfluence:
    """The operator of a plan from each beam's beamlets and samples (all of the same voxels), at ``rows`` of their dose."""
    beams = tuple(beam_influence(one, seen, kernel, machine) for one, seen in zip(maps, samples, strict=True))
    return FactorisedInfluence(beams, len(samples[0].u_mm), photons_cm2_per_mu(machine, kernel) * fractions, rows)


def _float32(parts: Sequence[FloatArray], shape: tuple[int, int] = (0, 0)) -> Float32Array:
    """The parts stacked; of none of them an empty stack of ``shape``."""
    if not parts:
        return np.zeros((0, *shape), dtype=np.float32)
    return np.ascontiguousarray(np.stack(parts), dtype=np.float32)
