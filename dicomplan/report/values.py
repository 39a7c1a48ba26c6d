"""ReportData: everything that the report shows, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.delivery import BeamDelivery
from dicomplan.dose.volume import DoseVolume
from dicomplan.patient.case import Coverage, CTVolume

FloatArray = NDArray[np.float64]
StructureKind = Literal["target", "organ", "external", "derived"]


@dataclass(frozen=True)
class StructureDrawing:
    """A structure to outline on the CT and in the beam's-eye views.

    ``coverage`` lies on a grid with the CT's axes. ``kind`` chooses the line: targets thick, derived ones thin; the
    ``external`` one (BODY) is what pictures are cropped to. ``color_rgb`` None takes the report's own colour-blind-safe
    palette; ``shown`` False leaves it out until the reader switches it on.
    """

    name: str
    kind: StructureKind
    coverage: Coverage
    color_rgb: tuple[int, int, int] | None = None
    shown: bool = True


@dataclass(frozen=True)
class DvhCurve:
    """A cumulative DVH: ``volume_fraction`` (0..1) that receives at least ``dose_gy``; both (n,), dose ascending."""

    dose_gy: FloatArray
    volume_fraction: FloatArray


@dataclass(frozen=True)
class StructureDvh:
    """The DVHs of one structure; a curve that was not computed is None. ``shown`` as in :class:`StructureDrawing`."""

    structure: str
    ideal: DvhCurve | None
    final: DvhCurve | None
    shown: bool = True


@dataclass(frozen=True)
class FluenceMap:
    """Fluence of one fraction on the isocentre plane in beam limiting device coordinates.

    ``fluence_mu`` is (ny, nx), MU; ``x_edges_mm`` (nx + 1,) and ``y_edges_mm`` (ny + 1,) ascend, spacing may vary.
    """

    fluence_mu: FloatArray
    x_edges_mm: FloatArray
    y_edges_mm: FloatArray


@dataclass(frozen=True)
class BeamReport:
    """One beam: its delivery, where it meets the patient, its fluences and what is drawn with it.

    ``leaf_boundaries_mm`` is (N + 1,) for the N leaf pairs of the apertures. ``ssd_mm`` and the two depths of the
    isocentre (mm of tissue, mm of water) are along the central axis; None where the axis misses the patient.
    """

    delivery: BeamDelivery
    leaf_boundaries_mm: FloatArray
    ssd_mm: float | None = None
    isocenter_depth_mm: float | None = None
    isocenter_radiological_depth_mm: float | None = None
    ideal_fluence: FluenceMap | None = None
    delivered_fluence: FluenceMap | None = None


@dataclass(frozen=True)
class TargetReport:
    """A target at its level (Gy): metrics (keys as in ``plan.json``, such as ``D95%_gy``) of the whole target and of
    the part that carried an underdose term (without points in air and under the skin); volumes in cm3."""

    name: str
    level_gy: float
    volume_cc: float
    whole: Mapping[str, float]
    optimized_volume_cc: float | None = None
    optimized: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Spot:
    """A hot or cold spot: what it is, dose in Gy, place in patient coordinates (x, y, z) mm, structures there."""

    label: str
    dose_gy: float
    place_mm: tuple[float, float, float]
    structures: tuple[str, ...] = ()


@dataclass(frozen=True)
class DensityReport:
    """A density override: structure, g/cm3 and the volume in cm3 that it changed; ``note`` says why or where from."""

    structure: str
    mass_density_g_cm3: float
    volume_cc: float
    note: str = ""


@dataclass(frozen=True)
class HuRow:
    """One row of the table from CT numbers (HU) to mass density (g/cm3) and electron density relative to water."""

    hu: float
    mass_density_g_cm3: float
    relative_electron_density: float | None = None
    material: str = ""


@dataclass(frozen=True)
class ReportData:
    """All that :func:`dicomplan.report.page.render_report` shows.

    ``document`` is the ``plan.json`` document (INTERFACE.md); status, disclaimer, prescription, goals, structures'
    metrics, quality, warnings and timings are read from it. ``dose`` is what the pictures show, named by ``dose_label``
    (None when the plan is not deliverable and nothing was computed); its grid has the CT's axes. ``dose_note`` says what
    the dose is stated to and how that is got. ``isocenter_mm`` is in patient coordinates.
    ``identification`` holds (label, value) pairs to print with ``--identify``; else it is empty.
    """

    document: Mapping[str, Any]
    plan_label: str
    ct: CTVolume
    dose: DoseVolume | None
    isocenter_mm: tuple[float, float, float]
    structures: tuple[StructureDrawing, ...] = ()
    dvhs: tuple[StructureDvh, ...] = ()
    beams: tuple[BeamReport, ...] = ()
    targets: tuple[TargetReport, ...] = ()
    spots: tuple[Spot, ...] = ()
    densities: tuple[DensityReport, ...] = ()
    hu_table: tuple[HuRow, ...] = ()
    hu_table_note: str = ""
    calibration: str = ""
    dose_note: str = ""
    machine_rows: tuple[tuple[str, str], ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    dose_label: str = "Final dose"
    identification: tuple[tuple[str, str], ...] = ()
