"""The plan template as values (YAML text to these values: ``dicomplan.plan.parse``)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dicomplan.metrics.goals import Goal


@dataclass(frozen=True)
class TargetLevel:
    """A target and its prescribed course dose in Gy; ``optional`` targets may be absent (name with ``?``)."""

    name: str
    dose_gy: float
    optional: bool = False
    line: int = 0


@dataclass(frozen=True)
class Normalization:
    """Scale all metersets by one factor so that ``metric_goal`` of ``structure`` is met with equality."""

    structure: str
    goal: Goal
    line: int = 0


@dataclass(frozen=True)
class Prescription:
    """Number of fractions, target levels (highest first as resolved), optional normalisation."""

    fractions: int
    targets: tuple[TargetLevel, ...]
    normalize: Normalization | None = None


@dataclass(frozen=True)
class StructureEntry:
    """A canonical structure name, the other spellings it is known by, and whether it may be absent."""

    name: str
    synonyms: tuple[str, ...] = ()
    optional: bool = False
    line: int = 0


@dataclass(frozen=True)
class DerivedStructure:
    """A derived structure and its expression as written (grammar: ``dicomplan.patient.algebra``)."""

    name: str
    expression: str
    optional: bool = False
    line: int = 0


@dataclass(frozen=True)
class StructureGoal:
    """A goal (or hard constraint) on a structure; ``priority`` 0 for hard constraints, else group 1, 2, ..."""

    structure: str
    goal: Goal
    priority: int
    line: int = 0

    @property
    def hard(self) -> bool:
        """Whether it is a hard constraint."""
        return self.priority == 0


ObjectiveType = Literal[
    "uniform",
    "min_dose",
    "max_dose",
    "mean_dose",
    "min_mean",
    "max_dvh",
    "min_dvh",
    "max_tail",
    "min_tail",
    "linear",
    "smooth_max",
    "max_geud",
    "min_geud",
    "variance",
]


@dataclass(frozen=True)
class Objective:
    """One term of the objective function written in the template.

    Type, dose in Gy (0 of the types that have none), weight, volume in % of the types that take one, exponent a of the gEUD.
    """

    structure: str
    type: ObjectiveType
    dose_gy: float
    weight: float = 1.0
    volume_percent: float | None = None
    line: int = 0
    exponent: float = 0.0


@dataclass(frozen=True)
class BeamField:
    """IEC 61217 angles of one beam, degrees."""

    gantry_angle_deg: float
    couch_angle_deg: float = 0.0
    collimator_angle_deg: float = 0.0


@dataclass(frozen=True)
class BeamSettings:
    """Arrangement: technique, isocentre (``targets``, a structure name, or a patient point in mm) and fields."""

    technique: Literal["imrt"] = "imrt"
    isocenter: str | tuple[float, float, float] = "targets"
    fields: tuple[BeamField, ...] = ()
    line: int = 0


@dataclass(frozen=True)
class BodySettings:
    """What lies outside BODY (always air) and which ROIs are included in the dose calculation."""

    outside: Literal["air"] = "air"
    include: tuple[str, ...] = ()


@dataclass(frozen=True)
class DensityOverride:
    """Mass density in g/cm3 that replaces the CT's inside a structure."""

    structure: str
    mass_density_g_cm3: float
    optional: bool = False
    line: int = 0


FinalEngine = Literal["collapsed_cone", "pencil_beam"]
DoseReport = Literal["medium", "water"]


@dataclass(frozen=True)
class DoseSettings:
    """Dose grid step in mm (None: the CT's own voxels), engines, and what the final dose is stated to.

    ``report`` None is what the final engine computes by itself: the collapsed cone dose to medium, the pencil beam to water.
    """

    grid_mm: float | None = 3.0
    influence: Literal["pencil_beam"] = "pencil_beam"
    final: FinalEngine = "collapsed_cone"
    report: DoseReport | None = None

    @property
    def dose_to(self) -> DoseReport:
        """What the final dose is stated to."""
        return self.report or ("medium" if self.final == "collapsed_cone" else "water")


DeliveryMode = Literal["step_and_shoot", "sliding_window"]


@dataclass(frozen=True)
class DeliverySettings:
    """Delivery mode and, for step-and-shoot, the greatest number of segments of the whole plan (None: no limit)."""

    mode: DeliveryMode = "step_and_shoot"
    max_segments: int | None = None


@dataclass(frozen=True)
class Robustness:
    """Set-up errors to plan for: isocentre shifts in mm (DICOM patient x, y, z), and what goals are held to.

    ``goals``: ``worst``, in every one of them and without; ``expected``, on average. Hard constraints are held in all.
    """

    shifts_mm: tuple[tuple[float, float, float], ...]
    goals: Literal["worst", "expected"] = "worst"


@dataclass(frozen=True)
class PlanTemplate:
    """A whole template. ``source`` is its text as read (for ``plan.json`` and the plan's identifiers).

    ``slack``: by which part of its dose a goal that was not met, or was bettered, may get worse for later groups.
    ``skin_mm``: target points this near under the skin are asked no dose, since it still builds up there. ``flash_mm``: beams
    that reach the skin at their edge open so far beyond it, with the fluence of their edge.
    """

    name: str
    prescription: Prescription
    machine: str = "generic_6mv"
    structures: tuple[StructureEntry, ...] = ()
    derived: tuple[DerivedStructure, ...] = ()
    density: tuple[DensityOverride, ...] = ()
    body: BodySettings = field(default_factory=BodySettings)
    beams: BeamSettings = field(default_factory=BeamSettings)
    constraints: tuple[StructureGoal, ...] = ()
    goals: tuple[StructureGoal, ...] = ()
    objectives: tuple[Objective, ...] = ()
    dose: DoseSettings = field(default_factory=DoseSettings)
    delivery: DeliverySettings = field(default_factory=DeliverySettings)
    slack: float = 0.005
    skin_mm: float = 4.0
    flash_mm: float = 0.0
    robust: Robustness | None = None
    source: str = ""
