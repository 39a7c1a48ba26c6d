"""Whether hard constraints that a plan breaks could be held by any plan at all: a bound from a convex relaxation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.dose.influence import FactorisedInfluence
from dicomplan.events import Cancel, ProgressCallback, ignore_progress
from dicomplan.optimization.build import build, regions
from dicomplan.optimization.certificates import least_give
from dicomplan.plan.derive import hard_limits
from dicomplan.plan.template import StructureGoal
from dicomplan.planning.case import PlanningCase
from dicomplan.planning.voxels import OptimizationVoxels, voxel_sets

MOST_LEVEL = 1.5
"""Of the highest level: the proof supposes that no point gets more. Only limits on a volume need it."""


@dataclass(frozen=True)
class Verdict:
    """By which share of their doses all hard constraints must give way together, on the optimiser's dose.

    ``share``: at least so much, proven (0 or less: nothing proves that they fight; -inf: no bound); ``reached``: by so much a
    fluence that was found breaks the worst of them. ``fighting``: the constraints that the proof rests on, each with the Gy
    by which it would have to give way if it alone did (inf: that proves nothing). ``infeasible``: whether no plan can
    hold them all.
    """

    share: float
    reached: float
    fighting: tuple[tuple[StructureGoal, float], ...]
    infeasible: bool

    def sentence(self) -> str:
        """What this means, for people."""
        if not self.infeasible:
            bound = "no bound was found" if not np.isfinite(self.share) else f"{max(self.share, 0.0):.2%} is proven"
            return (
                "hard constraints are not met by the best plan found; whether any plan meets them is open: "
                f"all giving way alike, {bound} to be needed, {max(self.reached, 0.0):.2%} is enough for the optimised fluence"
            )
        named = ", ".join(
            f"{one.structure} {one.goal.text} (alone by {gray:.2f} Gy)"
            if np.isfinite(gray)
            else f"{one.structure} {one.goal.text}"
            for one, gray in self.fighting
        )
        return (
            "infeasible: these beams cannot hold all hard constraints together. All giving way alike, at least "
            f"{self.share:.2%} of their doses is proven to be needed ({max(self.reached, 0.0):.2%} is enough for the optimised "
            f"fluence). These fight: {named}. (A convex relaxation of the optimiser's dose; no point above "
            f"{MOST_LEVEL:g} times the highest level.)"
        )


def verdict(
    case: PlanningCase,
    operator: FactorisedInfluence,
    voxels: OptimizationVoxels,
    difference_gy: NDArray[np.float64],
    progress: ProgressCallback = ignore_progress,
    cancel: Cancel | None = None,
) -> Verdict | None:
    """What can be said of the hard constraints of a plan; None where there is none that limits anything.

    ``difference_gy`` (voxels,) is held: the accurate dose minus the operator's. See
    :func:`dicomplan.optimization.certificates.least_give`.
    """
    specs = hard_limits(case.resolved)
    scale = case.resolved.highest_level_gy
    built = build(specs, voxel_sets(case, voxels, regions(specs)), scale)
    if not built.problem.constraints:
        return None
    found = least_give(
        operator,
        built.problem.constraints,
        scale,
        dose_offset_gy=difference_gy,
        most_gy=MOST_LEVEL * scale,
        progress=progress,
        cancel=cancel,
    )
    goals = [spec.goal for spec in built.constraint_specs]
    fighting = []
    for one in found.conflicts:
        goal = goals[one.constraint]
        assert goal is not None
        fighting.append((goal, one.alone_gy))
    return Verdict(found.share, found.reached, tuple(fighting), found.infeasible)
