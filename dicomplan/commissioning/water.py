"""Dose of rectangular fields in a water tank, in milliseconds: what the fit calls some hundreds of times.

The pencil-beam engine has no approximation in the lateral direction in water; its kernel is linear in the spectrum but for
the fit of its Gaussians. So the kernels of single energies are made once, and a spectrum's is their weighted sum.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dicomplan.commissioning.measurements import DepthCurve, OutputFactors, Profile
from dicomplan.dose.electrons import ELECTRON_SIGMA_MM, surface_release_mev_per_mm
from dicomplan.dose.fluence import (
    FluencePlane,
    calibration_field_fluence,
    extra_focal_response,
    open_field,
    profile_factor,
)
from dicomplan.dose.pencil_beam import blurred_sigma_mm, convolved, interval_response
from dicomplan.dose.pencil_kernel import PencilKernel, pencil_kernel, ring_histograms
from dicomplan.dose.point_kernels import GY_CM2_PER_MEV_MM, load_point_kernels, water_attenuation_per_mm
from dicomplan.machine.model import BeamModel, MachineModel

FloatArray = NDArray[np.float64]


SOFTENED_DEPTH_MM = 100.0
"""Depth whose attenuation the softening off the axis is relative to, here; the engines take it energy by energy."""

_SCATTER_LAG = (
    2.0  # standard deviations of a Gaussian: so far upstream its energy was released; matches the collapsed cone
)


@dataclass(frozen=True)
class SpectrumBasis:
    """Pencil kernels of single energies: ``weight_mev_per_mm`` (E, D, M, K) for ``energies_mev`` (E,)."""

    energies_mev: FloatArray
    weight_mev_per_mm: FloatArray
    shape: PencilKernel


def spectrum_basis(beam: BeamModel) -> SpectrumBasis:
    """The kernels of each energy of a beam's spectrum, without electrons. Takes about 0.4 s per energy."""
    rings = ring_histograms(load_point_kernels())
    plain = replace(beam, electron_weight=0.0, softening_per_mm=0.0)
    kernels = [
        pencil_kernel(replace(plain, energies_mev=np.array([energy]), photon_weights=np.ones(1)), rings)
        for energy in beam.energies_mev
    ]
    return SpectrumBasis(beam.energies_mev, np.stack([kernel.weight_mev_per_mm for kernel in kernels]), kernels[0])


def basis_kernel(basis: SpectrumBasis, beam: BeamModel) -> PencilKernel:
    """The pencil kernel of a beam whose energies are those of the basis."""
    photons = beam.photon_weights / beam.photon_weights.sum()
    weight = np.tensordot(photons, basis.weight_mev_per_mm, axes=1)
    shape = basis.shape
    if beam.electron_weight > 0.0:
        column = int(np.argmin(np.abs(shape.sigma_mm - ELECTRON_SIGMA_MM)))
        electrons = np.exp(-shape.depth_mm / beam.electron_depth_mm)
        weight[:, :, column] += (beam.electron_weight * surface_release_mev_per_mm(beam) * electrons)[:, None]
    return replace(shape, weight_mev_per_mm=weight, softening_per_mm=beam.softening_per_mm)


def attenuation_per_mm(beam: BeamModel, depth_mm: float) -> float:
    """Attenuation (1/mm) of what a beam releases in water behind ``depth_mm``."""
    mu = water_attenuation_per_mm(beam.energies_mev)
    released = beam.photon_weights * beam.energies_mev * mu * np.exp(-mu * depth_mm)
    return float((released * mu).sum() / released.sum())


@dataclass(frozen=True)
class WaterTank:
    """Doses of a machine's rectangular fields in water, by the pencil beam.

    ``maps`` keeps what single sources give in single fields, by all that it depends on but the machine's distances and its
    off-axis profile: tanks of machines that share those may share it. Off-axis softening attenuates what each Gaussian
    holds by the mean radius of it, over the depth at which it was released: scatter from the outer parts is softened too,
    which the pencil-beam engine leaves out.
    """

    machine: MachineModel
    kernel: PencilKernel
    maps: dict[tuple[object, ...], FloatArray] = field(default_factory=dict, repr=False)

    def dose(
        self, field_mm: tuple[float, float], surface_mm: FloatArray, depth_mm: FloatArray, axis: str, at_mm: FloatArray
    ) -> FloatArray:
        """Dose (n,), Gy cm2 per photon of the calibration field's fluence, at n points.

        ``surface_mm`` (n,) source-surface distances, ``depth_mm`` (n,), ``at_mm`` (n,) from the beam's axis along x or y.
        """
        machine, kernel = self.machine, self.kernel
        sad = machine.source_axis_distance_mm
        distance = surface_mm + depth_mm
        projected = at_mm * sad / distance
        places, back = np.unique(projected, return_inverse=True)
        shown, radius = (values[back] for values in self._shown(field_mm, axis, places))
        weight = _table_values(kernel, depth_mm, distance / sad)
        if kernel.softening_per_mm != 0.0:
            extra = attenuation_per_mm(machine.beam, SOFTENED_DEPTH_MM) * kernel.softening_per_mm
            primary_mm = np.maximum(depth_mm[:, None] - _SCATTER_LAG * kernel.sigma_mm, 0.0)
            weight = weight * np.exp(-extra * primary_mm * radius)
        ray = np.hypot(distance, at_mm)
        value: FloatArray = GY_CM2_PER_MEV_MM * (sad / ray) ** 2 * (weight * shown).sum(axis=1)
        return value

    def _shown(self, field_mm: tuple[float, float], axis: str, places_mm: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(n, K) fluence convolved with each Gaussian, at places along an axis of the isocentre plane, and the mean
        radius (mm) of the fluence that each Gaussian holds there."""
        beam, mlc = self.machine.beam, self.machine.mlc
        weight = beam.extra_focal_weight
        place = (field_mm, axis, places_mm.tobytes(), mlc.leaf_end_offset_mm, mlc.leaf_end_blur_mm)
        key: tuple[object, ...] = (*place, "primary", beam.source_fwhm_mm)
        if key not in self.maps:
            plane = self._plane(field_mm)
            radii = FluencePlane(plane.values * np.hypot(plane.x_mm, plane.y_mm[:, None]), plane.x_mm, plane.y_mm)
            values, moment = (self._convolved(one, axis, places_mm) for one in (plane, radii))
            self.maps[key] = np.stack([values, moment / np.maximum(values, 1e-9)])
        shown, radius = self.maps[key]
        if weight == 0.0:
            return shown, radius
        # the primary source's blur of the extra-focal part is far below its own
        key = (*place, "extra-focal", beam.extra_focal_fwhm_mm, beam.extra_focal_tail)
        if key not in self.maps:
            self.maps[key] = self._extra_focal(field_mm, axis, places_mm)
        both: FloatArray = ((1.0 - weight) * shown + weight * self.maps[key]) / calibration_field_fluence(self.machine)
        return both, radius

    def _opened(self, field_mm: tuple[float, float]) -> tuple[FloatArray, FloatArray, FloatArray]:
        x_range, y_range = ((-0.5 * side, 0.5 * side) for side in field_mm)
        return open_field(x_range, y_range, self.machine)

    def _plane(self, field_mm: tuple[float, float]) -> FluencePlane:
        opened, x_mm, y_mm = self._opened(field_mm)
        return FluencePlane(opened * profile_factor(self.machine.beam, x_mm, y_mm), x_mm, y_mm)

    def _extra_focal(self, field_mm: tuple[float, float], axis: str, places_mm: FloatArray) -> FloatArray:
        """As :meth:`_convolved` of the extra-focal plane, which is a sum of products of a function of x and one of y."""
        opened, x_mm, y_mm = self._opened(field_mm)
        opening = {"x": opened.sum(axis=0), "y": opened.sum(axis=1) / opened.sum()}
        sigma = blurred_sigma_mm(self.kernel, self.machine)
        # one product for each of the source's Gaussians
        products: list[FloatArray] = []
        for name, centres in (("x", x_mm), ("y", y_mm)):
            wide, responses = extra_focal_response(centres, self.machine)
            half = 0.5 * (wide[1] - wide[0])
            at = places_mm if name == axis else np.zeros(1)
            read = [interval_response(wide - half, wide + half, at, float(one)) for one in sigma]
            factors = [
                np.stack([one @ (response @ opening[name]) for one in read], axis=1) for _, response in responses
            ]
            products = factors if not products else [a * b for a, b in zip(products, factors, strict=True)]
        value: FloatArray = sum(
            (share * product for (share, _), product in zip(responses, products, strict=True)),
            start=np.zeros((len(places_mm), len(sigma))),
        )
        return value

    def _convolved(self, plane: FluencePlane, axis: str, places_mm: FloatArray) -> FloatArray:
        sigma, middle = blurred_sigma_mm(self.kernel, self.machine), np.zeros(1)
        if axis == "x":
            values = convolved(plane, sigma, places_mm, middle)[:, 0, :]
        else:
            values = convolved(plane, sigma, middle, places_mm)[:, :, 0]
        return np.ascontiguousarray(values.T, dtype=np.float64)

    def depth_curve(self, curve: DepthCurve) -> FloatArray:
        """Dose at the depths of a measured curve."""
        depth = curve.depth_mm
        if curve.source_surface_distance_mm is None:
            surface = self.machine.source_axis_distance_mm - depth
        else:
            surface = np.full(len(depth), curve.source_surface_distance_mm)
        return self.dose(curve.field_mm, surface, depth, "x", np.zeros(len(depth)))

    def profile(self, profile: Profile) -> FloatArray:
        """Dose at the positions of a measured profile."""
        count = len(profile.position_mm)
        surface, depth = np.full(count, profile.source_surface_distance_mm), np.full(count, profile.depth_mm)
        return self.dose(profile.field_mm, surface, depth, profile.axis, profile.position_mm)

    def output(self, factors: OutputFactors) -> FloatArray:
        """Dose in each field of a table of output factors."""
        surface, depth = np.array([factors.source_surface_distance_mm]), np.array([factors.depth_mm])
        fields = [(float(x), float(y)) for x, y in factors.field_mm]
        return np.array([self.dose(one, surface, depth, "x", np.zeros(1))[0] for one in fields])


def _table_values(kernel: PencilKernel, depth_mm: FloatArray, scale: FloatArray) -> FloatArray:
    """(n, K) weights at depths and scales, linear in depth and in the logarithm of the scale, as in the engine."""
    table, depths = kernel.weight_mev_per_mm, kernel.depth_mm
    i = np.clip(np.searchsorted(depths, depth_mm) - 1, 0, len(depths) - 2)
    a = np.clip((depth_mm - depths[i]) / (depths[i + 1] - depths[i]), 0.0, 1.0)[:, None]
    place = np.interp(np.log(scale), np.log(kernel.scale), np.arange(len(kernel.scale)))
    j = np.minimum(place.astype(np.int64), len(kernel.scale) - 2)
    b = (place - j)[:, None]
    low = (1.0 - b) * table[i, j] + b * table[i, j + 1]
    high = (1.0 - b) * table[i + 1, j] + b * table[i + 1, j + 1]
    value: FloatArray = (1.0 - a) * low + a * high
    return value
