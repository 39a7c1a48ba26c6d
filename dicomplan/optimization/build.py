"""From specifications and voxel sets to a problem that the solver takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dicomplan.optimization.constraints import Constraint, ConstraintKind
from dicomplan.optimization.smoothing import Smoothing
from dicomplan.optimization.solver import Problem
from dicomplan.optimization.terms import Term
from dicomplan.optimization.voxels import VoxelSet
from dicomplan.plan.derive import ObjectiveSpec, Region, SpecKind

_CONSTRAINTS: dict[SpecKind, ConstraintKind] = {
    "max_dose": "upper",
    "max_dvh": "upper",
    "min_dose": "lower",
    "min_dvh": "lower",
    "mean_dose": "mean_upper",
    "min_mean": "mean_lower",
}


@dataclass(frozen=True)
class BuiltProblem:
    """A problem and where it comes from.

    ``term_specs`` and ``constraint_specs`` are in the order of the problem's terms and constraints; ``left_out`` are those
    without voxels, without weight, or that allow the whole volume.
    """

    problem: Problem
    term_specs: tuple[ObjectiveSpec, ...]
    constraint_specs: tuple[ObjectiveSpec, ...]
    left_out: tuple[ObjectiveSpec, ...]


def regions(specs: Sequence[ObjectiveSpec]) -> tuple[Region, ...]:
    """Every region that the specifications name, once, in order."""
    return tuple(dict.fromkeys(spec.region for spec in specs))


def build(
    specs: Sequence[ObjectiveSpec],
    voxel_sets: Mapping[Region, VoxelSet | None],
    scale_gy: float,
    smoothing: Smoothing | None = None,
) -> BuiltProblem:
    """The problem of ``specs`` on ``voxel_sets``; a region that holds no voxel is None there.

    ``scale_gy`` is the highest prescribed level. Raises KeyError for a region that was forgotten and ValueError for a
    hard specification of a kind that cannot be one.
    """
    terms: list[tuple[Term, ObjectiveSpec]] = []
    constraints: list[tuple[Constraint, ObjectiveSpec]] = []
    left_out: list[ObjectiveSpec] = []
    for spec in specs:
        voxels = voxel_sets[spec.region]
        if voxels is None or (spec.weight == 0.0 and not spec.hard):
            left_out.append(spec)
            continue
        volume = max(0.0, spec.allowed_percent / 100.0 * voxels.volume + spec.allowed_cc)
        if _takes_volume(spec) and volume >= voxels.volume and not spec.kind.endswith("tail"):
            left_out.append(spec)
        elif spec.hard:
            if spec.kind not in _CONSTRAINTS:
                raise ValueError(f"{spec.kind} of {voxels.name} cannot be a hard limit")
            constraints.append((Constraint(_CONSTRAINTS[spec.kind], voxels, spec.dose_gy, volume), spec))
        else:
            terms.append((_term(spec, voxels, volume), spec))
    return BuiltProblem(
        Problem(tuple(term for term, _ in terms), scale_gy, tuple(one for one, _ in constraints), smoothing),
        tuple(spec for _, spec in terms),
        tuple(spec for _, spec in constraints),
        tuple(left_out),
    )


def _takes_volume(spec: ObjectiveSpec) -> bool:
    return spec.kind.endswith(("tail", "dvh"))


def _term(spec: ObjectiveSpec, voxels: VoxelSet, volume: float) -> Term:
    # a structure smaller than the cc that a goal allows leaves nothing to it but its mean
    kind: SpecKind = spec.kind
    if kind.endswith("tail") and volume <= 0.0:
        kind = "max_dose" if kind == "max_tail" else "min_dose"
    taken = volume if kind.endswith(("tail", "dvh")) else 0.0
    return Term(kind, voxels, spec.dose_gy, spec.weight, taken, spec.pull, spec.exponent)
