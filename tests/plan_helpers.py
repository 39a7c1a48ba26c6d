"""A small off-centre phantom planned whole in a few seconds, and independent reading of what a plan wrote."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from scipy.ndimage import map_coordinates

from dicomplan.geometry.grid import VoxelGrid
from dicomplan.machine.library import machine_text
from dicomplan.patient.case import PatientCase
from dicomplan.phantoms.shapes import Material, ellipse, paint, planes_of, rectangle, structure
from dicomplan.phantoms.study import PhantomStudy
from dicomplan.phantoms.write import write_phantom_study
from dicomplan.workflow.plan import PlanOutcome, PlanRequest, run_plan

NAME, PATIENT_ID = "Zwiebelfisch", "QX48151"
"""Words that stand nowhere else, so that a search for them in an output means something."""
TARGET_MM, TARGET_RADIUS_MM = (14.0, -8.0, 10.0), 17.0
CORD_MM = (-22.0, 25.0)

TEMPLATE = """dicomplan: 1
name: Small 50 Gy in 25
prescription: {{fractions: 25, targets: {{PTV_5000: 50 Gy}}{normalize}}}
machine: {machine}
structures:
  SpinalCord: [cord]
derived:
  Ring: (PTV_5000 + 15 mm) - (PTV_5000 + 3 mm)
  SpinalCord_PRV05: SpinalCord + 5 mm
beams:
  technique: imrt
  isocenter: {isocenter}
  fields: [{fields}]
constraints:
{constraints}
goals:
  - PTV_5000: [D98% >= 95 %, D2% <= 107 %]
  - SpinalCord: [Dmean <= 10 Gy]
    Ring: [Dmean <= 1 Gy]
dose: {{grid: {grid}, influence: pencil_beam, final: {final}}}
delivery: {{mode: step_and_shoot}}
{more}"""
FIELDS = "{gantry: 0}, {gantry: 90, collimator: 20}, {gantry: 300, couch: 90, collimator: 90}"


def template(
    *,
    normalize: str = "PTV_5000 D95% = 50 Gy",
    machine: str = "generic_6mv",
    isocenter: str = "targets",
    fields: str = FIELDS,
    constraints: str = "  SpinalCord: [D0.1cc <= 45 Gy]",
    final: str = "pencil_beam",
    grid: str = "5 mm",
    more: str = "",
) -> str:
    """Text of a template for the small phantom."""
    wish = f", normalize: {normalize}" if normalize else ""
    return TEMPLATE.format(
        normalize=wish,
        machine=machine,
        isocenter=isocenter,
        fields=fields,
        constraints=constraints,
        final=final,
        grid=grid,
        more=more,
    )


def machine_file(folder: Path, **changes: str) -> Path:
    """The generic machine with values of its file replaced (key = new value, every table), as ``machine.toml``."""
    lines = []
    for line in machine_text("generic_6mv").splitlines():
        key = line.split("=")[0].strip()
        lines.append(f"{key} = {changes[key]}" if key in changes else line)
    path = folder / "machine.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@cache
def small_phantom(voxel_mm: float = 2.5, external: bool = True) -> PhantomStudy:
    """A box of water, 100 x 100 x 90 mm, with a ball of a target left, anterior and superior of its middle.

    The cord runs behind on the right; a cavity lies before the target.
    """
    counts = [round(size / voxel_mm) for size in (110.0, 130.0, 130.0)]
    origin = tuple(-0.5 * voxel_mm * (n - 1) for n in counts[::-1])
    grid = VoxelGrid((counts[0], counts[1], counts[2]), (voxel_mm,) * 3, origin)
    z = grid.axis_mm(0)

    def ball(center: tuple[float, float, float], radius: float) -> dict[int, list[np.ndarray]]:
        found = {}
        for index, at in planes_of(z, center[2] - radius, center[2] + radius):
            size = float(np.sqrt(max(radius**2 - (at - center[2]) ** 2, 0.0)))
            if size > 1.0:
                found[index] = [ellipse(center[:2], (size, size), step_mm=1.0)]
        return found

    body = {index: [rectangle((0.0, 0.0), (100.0, 100.0))] for index, _ in planes_of(z, -45.0, 45.0)}
    cord = {index: [ellipse(CORD_MM, (6.0, 6.0), step_mm=1.0)] for index, _ in planes_of(z, -45.0, 45.0)}
    materials = [Material(0.0, body), Material(-1000.0, ball((14.0, -37.0, 10.0), 8.0))]
    rois = [
        structure("PTV_5000", 2, "PTV", (220, 30, 30), ball(TARGET_MM, TARGET_RADIUS_MM), z),
        structure("SpinalCord", 7, "ORGAN", (240, 220, 0), cord, z),
    ]
    if external:
        rois.insert(0, structure("BODY", 1, "EXTERNAL", (0, 160, 80), body, z))
    ct = paint(grid, materials, noise_hu=4.0, seed=11)
    return PhantomStudy(NAME, PATIENT_ID, PatientCase(ct, tuple(rois), "HFS"))


def write_small_study(folder: Path, **options: Any) -> Path:
    """The small phantom as files that carry the patient's name."""
    for path in write_phantom_study(folder, small_phantom(**options)):
        path.rename(path.with_name(f"{NAME}_{path.name}"))
    return folder


@dataclass(frozen=True)
class Planned:
    """A finished plan: the study, the outcome, ``plan.json`` as it was written."""

    study: Path
    template: Path
    output: Path
    outcome: PlanOutcome
    document: Mapping[str, Any]

    def dataset(self, name: str) -> pydicom.Dataset:
        """One of the DICOM files."""
        return pydicom.dcmread(self.output / name)


def plan(folder: Path, text: str, *, study: Path | None = None, name: str = "out", **options: Any) -> Planned:
    """Write study and template into ``folder`` and plan."""
    study = study or write_small_study(folder / "study")
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    outcome = run_plan(PlanRequest((study,), str(path), folder / name, **options))
    document = json.loads((outcome.output / "plan.json").read_text(encoding="utf-8"))
    return Planned(study, path, outcome.output, outcome, document)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


@cache
def small_plan() -> Planned:
    """The plan that most tests of one process share, with the dose of each beam."""
    _KEPT.append(tempfile.TemporaryDirectory(prefix="dicomplan-tests-"))
    return plan(Path(_KEPT[-1].name), template(grid="2.5 mm"), beam_doses=True)


# Reading back with pydicom and numpy alone


def dose_of(dataset: pydicom.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dose (z, y, x) in Gy, origin (x, y, z) and spacing (z, y, x), mm, of an RTDOSE with axial planes."""
    assert [float(a) for a in dataset.ImageOrientationPatient] == [1, 0, 0, 0, 1, 0]
    offsets = np.array([float(a) for a in dataset.GridFrameOffsetVector])
    assert offsets[0] == 0.0
    dose = dataset.pixel_array.astype(np.float64) * float(dataset.DoseGridScaling)
    row, column = (float(a) for a in dataset.PixelSpacing)
    spacing = np.array([offsets[1] - offsets[0], row, column])
    np.testing.assert_allclose(np.diff(offsets), spacing[0])
    return dose, np.array([float(a) for a in dataset.ImagePositionPatient]), spacing


def contours_of(dataset: pydicom.Dataset, name: str) -> dict[float, list[np.ndarray]]:
    """Contours (n, 2) in x, y of a ROI by z, mm."""
    number = next(item.ROINumber for item in dataset.StructureSetROISequence if item.ROIName == name)
    item = next(item for item in dataset.ROIContourSequence if item.ReferencedROINumber == number)
    result: dict[float, list[np.ndarray]] = {}
    for contour in item.ContourSequence:
        points = np.array([float(a) for a in contour.ContourData]).reshape(-1, 3)
        result.setdefault(round(float(points[0, 2]), 3), []).append(points[:, :2])
    return result


def inside(polygons: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Even-odd rule for points (n,)."""
    odd = np.zeros(x.shape, dtype=bool)
    for polygon in polygons:
        for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            if ay != by:
                odd ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * (bx - ax) / (by - ay))
    return odd


def dose_inside(
    dose: tuple[np.ndarray, np.ndarray, np.ndarray],
    contours: Mapping[float, list[np.ndarray]],
    slice_mm: float,
    step_mm: float = 0.5,
) -> np.ndarray:
    """Trilinear dose at points ``step_mm`` apart in the prisms of the contours, sorted, highest first."""
    values, origin, spacing = dose
    found = []
    planes = int(np.ceil(slice_mm / step_mm))
    for z, polygons in contours.items():
        low, high = np.min([p.min(axis=0) for p in polygons], axis=0), np.max([p.max(axis=0) for p in polygons], axis=0)
        x, y = (np.arange(low[i] + 0.5 * step_mm, high[i], step_mm) for i in (0, 1))
        at_x, at_y = (part.ravel() for part in np.meshgrid(x, y))
        within = inside(polygons, at_x, at_y)
        for part in range(planes):
            at_z = z + slice_mm * ((part + 0.5) / planes - 0.5)
            index = np.stack(
                [
                    np.full(within.sum(), (at_z - origin[2]) / spacing[0]),
                    (at_y[within] - origin[1]) / spacing[1],
                    (at_x[within] - origin[0]) / spacing[2],
                ]
            )
            found.append(map_coordinates(values, index, order=1, mode="nearest"))
    return np.sort(np.concatenate(found))[::-1]


def dose_at_volume(sorted_doses: np.ndarray, share: float) -> float:
    """D_x: the least dose in the hottest ``share`` of the points."""
    place = share * len(sorted_doses) - 0.5
    return float(np.interp(place, np.arange(len(sorted_doses)), sorted_doses))
