"""What set-up errors do to a plan: every goal with the isocentre moved, on the accurate dose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dicomplan.beams.delivery import Beam
from dicomplan.dose.engines import DoseEngine, course_dose
from dicomplan.dose.fluence import FluencePlane
from dicomplan.events import Cancel, Progress, ProgressCallback, ignore_progress
from dicomplan.plan.template import Robustness, StructureGoal
from dicomplan.planning.case import PlanningCase, goal_values


@dataclass(frozen=True)
class ShiftedValues:
    """``values`` of every goal and hard constraint for each of the ``robust`` shifts, in their order."""

    robust: Robustness
    values: tuple[Mapping[StructureGoal, float], ...]


def shifted(beam: Beam, shift_mm: tuple[float, float, float]) -> Beam:
    """The beam with its isocentre moved (patient coordinates, mm); the patient's own error is the opposite."""
    x, y, z = (place + step for place, step in zip(beam.isocenter_mm, shift_mm, strict=True))
    return replace(beam, isocenter_mm=(x, y, z))


def shifted_values(
    case: PlanningCase,
    engine: DoseEngine,
    planes: Sequence[tuple[Beam, FluencePlane]],
    robust: Robustness,
    progress: ProgressCallback = ignore_progress,
    cancel: Cancel | None = None,
) -> ShiftedValues:
    """The goals of delivered planes with the isocentre moved by each shift, in every fraction alike."""
    found = []
    for number, shift in enumerate(robust.shifts_mm, start=1):
        progress(Progress("robustness", f"shift {number} of {len(robust.shifts_mm)}"))
        doses = []
        for beam, plane in planes:
            if cancel is not None:
                cancel.check()
            doses.append(engine.dose_gy_per_fraction(shifted(beam, shift), plane))
        found.append(goal_values(case, course_dose(engine.grid, doses, case.resolved.fractions).dose_gy))
    return ShiftedValues(robust, tuple(found))
