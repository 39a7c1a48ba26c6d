# ruff: noqa: E501
"""A made-up plan for the report's tests: an elliptic neck with two targets, organs, a smooth dose and nine beams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dicomplan.beams.delivery import Aperture, Beam, BeamDelivery, Segment
from dicomplan.dose.volume import DoseVolume
from dicomplan.geometry.grid import IDENTITY, Matrix, VoxelGrid
from dicomplan.patient.case import Coverage, CTVolume
from dicomplan.report.values import (
    BeamReport,
    DensityReport,
    DvhCurve,
    FluenceMap,
    HuRow,
    ReportData,
    Spot,
    StructureDrawing,
    StructureDvh,
    TargetReport,
)

ISOCENTER = (12.0, -230.0, 40.0)
BOUNDARIES = np.concatenate([np.arange(-200, -100, 10), np.arange(-100, 100, 5), np.arange(100, 201, 10)]).astype(float)
Shape = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def ellipsoid(x: float, y: float, z: float, rx: float, ry: float, rz: float) -> Shape:
    """Signed "inside" function of an ellipsoid; centre relative to the isocentre, patient axes, mm."""
    return lambda dx, dy, dz: 1.0 - np.sqrt(((dx - x) / rx) ** 2 + ((dy - y) / ry) ** 2 + ((dz - z) / rz) ** 2)


def _crescent(dx: np.ndarray, dy: np.ndarray, dz: np.ndarray) -> np.ndarray:
    outer = ellipsoid(0, 0, 5, 48, 38, 42)(dx, dy, dz)
    return np.minimum(outer, -ellipsoid(0, 32, 5, 24, 26, 90)(dx, dy, dz))


def _body(dx: np.ndarray, dy: np.ndarray, dz: np.ndarray) -> np.ndarray:
    flare = 1.0 + 0.9 / (1.0 + np.exp((dz + 70) / 12))
    return 1.0 - np.sqrt((dx / (78 * flare)) ** 2 + ((dy - 5) / (98 * (0.75 + 0.25 * flare))) ** 2)


SHAPES: dict[str, tuple[str, Shape]] = {
    "BODY": ("external", _body),
    "PTV_7000": ("target", _crescent),
    "PTV_5600": ("target", lambda x, y, z: np.maximum(ellipsoid(-38, 12, -30, 22, 24, 60)(x, y, z), ellipsoid(38, 12, -30, 22, 24, 60)(x, y, z))),
    "SpinalCord": ("organ", ellipsoid(0, 42, 0, 7, 7, 400)),
    "Brainstem": ("organ", ellipsoid(0, 35, 72, 14, 13, 24)),
    "Parotid_L": ("organ", ellipsoid(56, 2, 36, 14, 20, 26)),
    "Parotid_R": ("organ", ellipsoid(-56, 2, 36, 14, 20, 26)),
    "Larynx": ("organ", ellipsoid(0, -40, -52, 17, 18, 20)),
    "Mandible": ("organ", ellipsoid(0, -62, 32, 44, 16, 14)),
    "Ring_20_40": ("derived", lambda x, y, z: np.minimum(ellipsoid(0, 0, 5, 88, 78, 82)(x, y, z), -ellipsoid(0, 0, 5, 68, 58, 62)(x, y, z))),
}  # fmt: skip


def make_grid(
    extent_mm: tuple[float, float, float], spacing_mm: tuple[float, float, float], direction: Matrix = IDENTITY
) -> VoxelGrid:
    """A grid centred near the isocentre; extent and spacing (z, y, x) in index order."""
    shape = tuple(round(size / step) for size, step in zip(extent_mm, spacing_mm, strict=True))
    half = np.array([(count - 1) / 2 * step for count, step in zip(shape, spacing_mm, strict=True)])[::-1]
    origin = np.array(ISOCENTER) - np.array(direction) @ half
    return VoxelGrid((shape[0], shape[1], shape[2]), spacing_mm, tuple(float(part) for part in origin), direction)


def relative_points(grid: VoxelGrid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patient x, y, z of every voxel relative to the isocentre."""
    index = np.stack(np.meshgrid(*(np.arange(count) for count in grid.shape), indexing="ij"), -1)
    points = grid.patient_from_index(index) - np.array(ISOCENTER)
    return points[..., 0], points[..., 1], points[..., 2]


def _cover(shape: Shape, grid: VoxelGrid) -> Coverage:
    inside = shape(*relative_points(grid))
    fraction = np.clip(0.5 + inside * 12.0, 0.0, 1.0).astype(np.float32)
    where = np.argwhere(fraction > 0)
    low, high = where.min(0), where.max(0) + 1
    box = tuple(slice(int(first), int(last)) for first, last in zip(low, high, strict=True))
    start, stop = tuple(int(item) for item in low), tuple(int(item) for item in high)
    return Coverage(grid.crop(start, stop), np.ascontiguousarray(fraction[box]))


def _dose(grid: VoxelGrid) -> np.ndarray:
    x, y, z = relative_points(grid)
    high = 1.0 / (1.0 + np.exp(-_crescent(x, y, z) * 14.0 - 1.6))
    low = 1.0 / (1.0 + np.exp(-SHAPES["PTV_5600"][1](x, y, z) * 9.0 - 1.6))
    wash = np.exp(-((x / 85) ** 2 + (y / 85) ** 2 + ((z + 10) / 80) ** 4))
    ripple = 1.0 + 0.025 * np.sin(x / 9) * np.cos(y / 11) * np.sin(z / 13)
    dose = np.maximum(np.maximum(71.8 * high, 57.6 * low), 34.0 * wash) * ripple
    return np.where(_body(x, y, z) > 0, dose, 0.0).astype(np.float32)


def _curve(values: np.ndarray, weight: np.ndarray) -> DvhCurve:
    dose = np.linspace(0.0, 80.0, 401)
    order = np.argsort(values)
    below = np.concatenate([[0.0], np.cumsum(weight[order])])
    return DvhCurve(dose, 1.0 - below[np.searchsorted(values[order], dose)] / below[-1])


def _metrics(values: np.ndarray, weight: np.ndarray) -> dict[str, float]:
    order = np.argsort(-values)
    share = np.cumsum(weight[order]) / weight.sum()
    at = {
        f"D{p}%_gy": float(values[order][min(int(np.searchsorted(share, p / 100)), len(values) - 1)])
        for p in (2, 50, 95, 98)
    }
    return {
        "Dmean_gy": float(np.average(values, weights=weight)),
        "Dmax_gy": float(values.max()),
        "Dmin_gy": float(values.min()),
        **at,
    }


def _beams(patient_position: str) -> tuple[BeamReport, ...]:
    rng = np.random.default_rng(3)
    centers = 0.5 * (BOUNDARIES[1:] + BOUNDARIES[:-1])
    reports = []
    for number in range(9):
        gantry = 40.0 * number
        plan = Beam(number + 1, f"{number + 1}_G{gantry:03.0f}", gantry, 0.0, 0.0, ISOCENTER)
        half = 58.0 * np.sqrt(np.clip(1.0 - ((centers + 12) / 78.0) ** 2, 0.0, None))
        x_edges, y_edges = np.arange(-75.0, 75.1, 5.0), np.arange(-100.0, 80.1, 5.0)
        x, y = 0.5 * (x_edges[1:] + x_edges[:-1]), 0.5 * (y_edges[1:] + y_edges[:-1])
        inside = (x[None, :] / 58.0) ** 2 + ((y[:, None] + 12) / 78.0) ** 2 < 1.0
        ideal = np.where(
            inside,
            5 + 4 * np.sin(x[None, :] / 17 + number) * np.cos(y[:, None] / 23) + rng.uniform(0, 2, inside.shape),
            0,
        )
        segments, delivered = [], np.zeros_like(ideal)
        for part in range(11):
            left = np.where(half > 0, -half + rng.uniform(0, 0.9, len(half)) * half, 0.0)
            right = np.where(half > 0, np.minimum(half, left + rng.uniform(0.3, 1.2, len(half)) * half + 6), 0.0)
            meterset = 2.5 + 0.6 * part
            jaws = (float(BOUNDARIES[:-1][half > 0].min()), float(BOUNDARIES[1:][half > 0].max()))
            segments.append(Segment(Aperture(np.stack([left, right]), jaws, (-65.0, 65.0)), meterset))
            row = np.searchsorted(BOUNDARIES, y) - 1
            delivered += meterset * ((x[None, :] > left[row][:, None]) & (x[None, :] < right[row][:, None]))
        reports.append(
            BeamReport(
                BeamDelivery(plan, tuple(segments)),
                BOUNDARIES,
                ssd_mm=912.4 - 3 * number,
                isocenter_depth_mm=87.6 + 3 * number,
                isocenter_radiological_depth_mm=85.1 + 3 * number,
                ideal_fluence=FluenceMap(ideal * delivered.max() / ideal.max(), x_edges, y_edges),
                delivered_fluence=FluenceMap(delivered, x_edges, y_edges),
            )
        )
        plan.frame(patient_position)
    return tuple(reports)


def make_report_data(
    *,
    direction: Matrix = IDENTITY,
    patient_position: str = "HFS",
    status: str = "accepted",
    organ_name: str = "Larynx",
    pixel_mm: float = 4.0,
) -> ReportData:
    """The whole made-up plan; ``pixel_mm`` is the CT's pixel; ``organ_name`` replaces the name of one organ (for tests of escaping)."""
    ct_grid = make_grid((240.0, 260.0, 340.0), (3.0, pixel_mm, pixel_mm), direction)
    points = relative_points(ct_grid)
    rng = np.random.default_rng(1)
    body = _body(*points)
    hu = np.where(body > 0, 30.0, -1000.0) + rng.normal(0, 12, ct_grid.shape)
    hu[ellipsoid(0, -32, -40, 10, 9, 90)(*points) > 0] = -1000.0
    bone = ellipsoid(0, 42, 0, 21, 20, 400)(*points)
    hu[(bone > 0) & (ellipsoid(0, 42, 0, 8, 8, 400)(*points) < 0)] = 500.0
    hu[ellipsoid(0, -62, 32, 44, 16, 14)(*points) > 0] = 900.0
    dose_grid = make_grid((222.0, 240.0, 330.0), (3.0, 3.0, 3.0), direction)
    dose = DoseVolume(dose_grid, _dose(dose_grid))
    structures, dvhs, metrics = [], [], {}
    for original, (kind, shape) in SHAPES.items():
        name = organ_name if original == "Larynx" else original
        coverage = _cover(shape, ct_grid)
        structures.append(StructureDrawing(name, kind, coverage, shown=kind != "derived"))  # type: ignore[arg-type]
        inside = coverage.fraction > 0
        values, weight = _dose(coverage.grid)[inside], coverage.fraction[inside]
        ideal = values * 0.985 + 0.4
        dvhs.append(
            StructureDvh(name, _curve(ideal, weight), _curve(values, weight), shown=kind not in ("external", "derived"))
        )
        metrics[name] = {
            "volume_cc": coverage.volume_cc,
            "ideal": _metrics(ideal, weight),
            "final": _metrics(values, weight),
        }
    document = make_document(metrics, status, patient_position, dose_grid, organ_name)
    targets = tuple(
        TargetReport(name, level, metrics[name]["volume_cc"], metrics[name]["final"], 0.93 * metrics[name]["volume_cc"],
                     {key: value + 0.3 for key, value in metrics[name]["final"].items()})
        for name, level in (("PTV_7000", 70.0), ("PTV_5600", 56.0))
    )  # fmt: skip
    hot = np.unravel_index(int(dose.dose_gy.argmax()), dose.dose_gy.shape)
    place = tuple(float(part) for part in dose_grid.patient_from_index(hot))
    return ReportData(
        document=document,
        plan_label="Head and neck 70 Gy in 35",
        ct=CTVolume(ct_grid, hu.astype(np.float32)),
        dose=dose,
        isocenter_mm=ISOCENTER,
        structures=tuple(structures),
        dvhs=tuple(dvhs),
        beams=_beams(patient_position),
        targets=targets,
        spots=(
            Spot("Hottest 0.03 cc inside the targets", float(dose.dose_gy.max()), place, ("PTV_7000",)),
            Spot("Hottest 0.03 cc outside the targets", 69.81, (51.0, -214.0, 55.0), ("Parotid_L", "BODY")),
            Spot("Coldest target spot", 58.34, (8.0, -205.5, 82.0), ("PTV_7000",)),
        ),
        densities=(
            DensityReport("Filling_Gold", 19.3, 0.214, "template"),
            DensityReport("outside BODY", 0.001, 9210.0, "air"),
        ),
        hu_table=tuple(
            HuRow(*row)
            for row in (
                (-1000.0, 0.001, 0.001, "air"),
                (-100.0, 0.93, 0.95, "fat"),
                (0.0, 1.0, 1.0, "water"),
                (40.0, 1.04, 1.03, "muscle"),
                (1200.0, 1.7, 1.56, "bone"),
            )
        ),
        hu_table_note="Piecewise linear between the rows; Schneider 1996.",
        calibration="0.01 Gy per MU in water at 10 cm depth, SSD 900 mm, 100 mm × 100 mm field.",
        machine_rows=(("Energy", "6 MV"), ("MLC", "60 leaf pairs, 5 and 10 mm"), ("Source-axis distance", "1000 mm")),
        versions={"python": "3.11.2", "numpy": "2.2.0", "numba": "0.61.0"},
        created="2025-01-02 03:04",
    )


def make_document(
    metrics: dict[str, Any], status: str, patient_position: str, dose_grid: VoxelGrid, organ_name: str = "Larynx"
) -> dict[str, Any]:
    """A ``plan.json`` document as INTERFACE.md lists it."""

    def goal(structure: str, text: str, priority: int, ideal: float, achieved: float, met: bool) -> dict[str, Any]:
        kind = "hard" if priority == 0 else "goal"
        return {
            "structure": structure,
            "goal": text,
            "kind": kind,
            "priority": priority,
            "ideal": ideal,
            "achieved": achieved,
            "unit": "Gy",
            "met": met,
        }

    broken = status == "failed"
    return {
        "schema": 1,
        "dicomplan": "0.1.0",
        "status": status,
        "disclaimer": "Made by research software; every number must be checked by a qualified person.",
        "inputs": [{"sop_instance_uid": f"2.25.7719{number:04d}", "sha256": "00", "kind": "CT"} for number in range(80)],
        "template": {"name": "Head and neck 70 Gy in 35"},
        "machine": "generic_6mv",
        "prescription": {"fractions": 35, "targets": {"PTV_7000": 70.0, "PTV_5600": 56.0}},
        "grid": {"shape": list(dose_grid.shape), "spacing_mm": list(dose_grid.spacing_mm)},
        "patient_position": patient_position,
        "beams": [],
        "influence": {"form": "explicit", "voxels": 204800, "beamlets": 7312, "nonzeros": 81234567, "bytes": 650000000},
        "optimization": {"iterations": 240, "objective": [float(5000 / (1 + step)) for step in range(40)]},
        "structures": metrics,
        "goals": [
            goal("PTV_7000", "D99% >= 66.5 Gy", 1, 66.9, 66.498, False),
            goal("SpinalCord", "D0.1cc <= 45 Gy", 0, 41.2, 47.3 if broken else 42.13, not broken),
            goal("Brainstem", "D0.1cc <= 50 Gy", 0, 38.0, 38.9, True),
            goal("PTV_5600", "D99% >= 53.2 Gy", 2, 54.0, 53.61, True),
            goal("Mandible", "D0.1cc <= 73.5 Gy", 3, 72.0, 72.91, True),
            goal("Parotid_L", "Dmean <= 26 Gy (acceptable 30 Gy)", 4, 25.1, 27.84, False),
            goal("Parotid_R", "Dmean <= 26 Gy", 4, 24.4, 25.6, True),
            goal(organ_name, "Dmean <= 45 Gy", 5, 39.9, 41.0, True),
        ],
        "quality": {"conformity_index": 0.86, "homogeneity_index": 0.071, "total_mu": 541.2, "segments": 99, "fluence_error_percent": 1.83},
        "warnings": [
            "BODY was not in the structure set and was found on the CT.",
            {"severity": "info", "message": "PTV_6300 is absent; its goals were skipped."},
        ],
        "timings_s": {"read": 2.1, "masks": 1.4, "influence": 22.0, "optimize": 48.2, "sequence": 6.1, "final_dose": 12.9, "write": 1.2, "total": 95.0},
    }  # fmt: skip
