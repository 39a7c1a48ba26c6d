"""From what a template asks for to what is minimised: specifications of objective terms and hard limits.

Nothing here knows voxels: a :class:`Region` says in words which voxels a term is about, and planning makes the sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dicomplan.metrics.goals import Goal
from dicomplan.patient.algebra import expression_names
from dicomplan.plan.matching import BODY
from dicomplan.plan.resolve import ResolvedTemplate
from dicomplan.plan.template import Objective, ObjectiveType, Robustness, StructureGoal, TargetLevel

HIGHER_LEVEL_MARGIN_MM = 8.0
"""A target's uniformity and overdose terms leave out the higher levels grown by this: room for the dose to fall."""
AIR_DENSITY_G_CM3 = 0.3
"""Below this mass density a target point counts as air and carries no underdose term: no fluence can cure it."""
ALL_SCENARIOS = -1
"""Of a region: its points with the isocentre where it is and at every shift, as one structure: what is said of it is expected."""

SpecKind = ObjectiveType

# Weights of a square of (dose / highest level), averaged over the region; own choice, tried on a head-and-neck-like
# phantom (tests/test_optimization_phantom.py): coverage and hard limits first, organs as far as these let them.
_TARGET_UNDER = 100.0
_TARGET_OVER = 20.0
_TARGET_MEAN = 50.0
_TARGET_MEAN_MOST = 1.03  # of the level: where the mean of a target becomes too much
_TARGET_MAX = 200.0
_TARGET_HOT = 1.07  # of the level: what ICRU 50 allowed a target to receive at most
_GOAL_ON_TARGET = 200.0
_GOAL_ON_ORGAN = 100.0
_MEAN_ON_ORGAN = 20.0
_MEAN_PULL = 0.02  # of a mean goal's weight: as much as an excess of 1 % of the level pulls
_ORGAN_PULL = 0.1
_PRIORITY_STEP = 0.7  # each later group counts so much of the one before it
_BODY_SQUARE = 0.3
_BODY_HOT = 1.10  # of the highest level: what the mean of the hottest half cc may reach, wherever it lies
_BODY_HOT_CC = 0.5
_BODY_HOT_WEIGHT = 50.0  # of the guide: no goal is given up for a warm spot, and none is worth a hot one
_FALLOFF = 10.0
_FALLOFF_LEVELS = ((5.0, 0.85), (15.0, 0.6))  # beyond so many mm of all targets at most this part of the highest level
_AIM = 0.01  # how much better than its limit a goal is wanted, so that sequencing may lose a little
_HARD_AIM = 0.002  # likewise for hard limits; INTERFACE.md asks for 1 % on 0.1 cc or less
_HARD_AIM_SMALL = 0.01
_SMALL_CC = 0.1
_TAIL_PERCENT = 5.0  # up to here the mean of the tail stands for D_x; of larger parts it would ask too much
_TAIL_CC = 10.0


@dataclass(frozen=True)
class Region:
    """Which voxels: ``structure`` without the structures ``without``, each grown by ``margin_mm``.

    ``scenario``: with the isocentre where it is (0), moved by one of the template's shifts (1, 2, ...), or as the points of
    all these together (:data:`ALL_SCENARIOS`).

    ``reachable``: target points in air (:data:`AIR_DENSITY_G_CM3`) or as near under the skin as the template
    says (``skin``) are left out as well. ``counted``: they are not left out, but count as points that no limit can be held
    to; with ``through_air`` only those under the skin do, those in air are held like any other.
    """

    structure: str
    without: tuple[str, ...] = ()
    margin_mm: float = 0.0
    reachable: bool = False
    counted: bool = False
    through_air: bool = False
    scenario: int = 0


@dataclass(frozen=True)
class ObjectiveSpec:
    """One objective term or hard limit.

    ``kind`` as in :mod:`dicomplan.optimization.terms`; ``dose_gy`` the dose to aim at, Gy of the course; ``weight`` has
    no unit. The volume of tail and dose-volume kinds is ``allowed_percent`` of the region plus ``allowed_cc`` (cm3,
    negative where a goal asks for a volume to be spared). ``hard``: a limit (max_dvh, min_dvh, mean_dose or min_mean;
    ``weight`` plays no part). ``priority`` is the group of ``goal``, 0 for hard limits and general terms; ``goal`` is
    what the term pursues, None for general ones. ``pull`` is the linear part of mean_dose. ``better``: of a wish (see
    :func:`wishes`), whether less than its limit is welcome. ``exponent`` is that of the gEUD kinds.
    """

    region: Region
    kind: SpecKind
    dose_gy: float
    weight: float
    allowed_percent: float = 0.0
    allowed_cc: float = 0.0
    hard: bool = False
    priority: int = 0
    goal: StructureGoal | None = None
    pull: float = 0.0
    better: bool = False
    exponent: float = 0.0


def derive(resolved: ResolvedTemplate) -> tuple[ObjectiveSpec, ...]:
    """Terms and hard limits of a resolved template, hard limits first.

    Hard limits come from the constraints. The terms are the template's objectives if it has any; else they follow from
    targets (under- and overdose, mean), goals (by priority, an earlier group stronger), a gentle pull on every organ that is
    asked something, and a weak general pull on all dose outside the targets that falls off with distance.
    """
    hard = tuple(_hard(resolved, one) for one in resolved.constraints)
    if resolved.objectives:
        return hard + tuple(spec for one in resolved.objectives for spec in _written(resolved, one))
    terms: list[ObjectiveSpec] = []
    for target in resolved.targets:
        terms += _target_terms(resolved, target)
    terms += [_goal_term(resolved, one) for one in resolved.goals]
    terms += _organ_pulls(resolved)
    terms += _outside_targets(resolved)
    return hard + tuple(terms)


def wishes(resolved: ResolvedTemplate) -> tuple[ObjectiveSpec, ...]:
    """The goals as limits in the order of their groups (``priority``), to be held as far as they can be.

    What every prescription implies is wished for together with the first group: a target's mean dose (without the higher
    levels) is its level. Coverage of a target's air (``through_air``) comes right after its group. Acceptable values are
    second goals, after all groups. None where the template writes its own
    objectives: then these say all that is wanted.
    """
    if resolved.objectives:
        return ()
    found = [_wish(resolved, one) for one in resolved.goals]
    # the goal is judged on the whole target: what fluence can do for its air comes next, before the next group
    found += [
        replace(spec, region=replace(spec.region, through_air=True), goal=None)
        for spec in found
        if spec.region.counted and spec.kind == "min_dvh"
    ]
    last = max((one.priority for one in resolved.goals), default=0)
    for one in resolved.goals:
        if one.goal.acceptable is not None:
            laxer = replace(one, goal=replace(one.goal, limit=one.goal.acceptable))
            found.append(replace(_wish(resolved, laxer), priority=last + 1, goal=None, better=False))
    for target in resolved.targets:
        higher = _higher(resolved, target.dose_gy)
        own = Region(target.name, higher, HIGHER_LEVEL_MARGIN_MM if higher else 0.0, reachable=True)
        found.append(ObjectiveSpec(own, "min_mean", target.dose_gy, 1.0, hard=True, priority=1))
    return tuple(sorted(found, key=lambda spec: (spec.priority, spec.region.through_air)))


def hard_limits(resolved: ResolvedTemplate) -> tuple[ObjectiveSpec, ...]:
    """The constraints as they are judged: at their own doses, with the volumes that they allow, on whole structures."""
    found = []
    for one in resolved.constraints:
        limit = _limit(one.goal)
        found.append(
            ObjectiveSpec(
                Region(one.structure),
                _limit_kind(limit),
                limit.dose_gy,
                1.0,
                limit.percent,
                limit.cc,
                hard=True,
                goal=one,
            )
        )
    return tuple(found)


def _limit_kind(limit: _Limit) -> SpecKind:
    if limit.mean:
        return "mean_dose" if limit.upper else "min_mean"
    return "max_dvh" if limit.upper else "min_dvh"


def _wish(resolved: ResolvedTemplate, one: StructureGoal) -> ObjectiveSpec:
    limit = _limit(one.goal)
    region = Region(one.structure, counted=not limit.upper and _only_targets(resolved, one.structure))
    return ObjectiveSpec(
        region,
        _limit_kind(limit),
        limit.dose_gy * (1.0 - _AIM if limit.upper else 1.0 + _AIM),
        1.0,
        limit.percent,
        limit.cc,
        hard=True,
        priority=one.priority,
        goal=one,
        better=limit.upper and not _any_target(resolved, one.structure) and not _of_body(resolved, one.structure),
    )


def withstanding(specs: Sequence[ObjectiveSpec], robust: Robustness | None) -> tuple[ObjectiveSpec, ...]:
    """The specifications with the template's set-up errors: terms as expected, limits in every shift or as expected.

    Hard constraints hold in every shift. Only what is said of the plan's own isocentre names its goal: what a goal is judged
    on is that.
    """
    if robust is None:
        return tuple(specs)
    found: list[ObjectiveSpec] = []
    for spec in specs:
        constraint = spec.goal is not None and spec.goal.hard
        if spec.hard and (constraint or robust.goals == "worst"):
            found.append(spec)
            for number in range(1, len(robust.shifts_mm) + 1):
                found.append(replace(spec, region=replace(spec.region, scenario=number), goal=None))
        else:
            together = replace(spec.region, scenario=ALL_SCENARIOS)
            found.append(replace(spec, region=together, goal=None if spec.hard else spec.goal))
    return tuple(found)


def tightened(specs: Sequence[ObjectiveSpec], shifts_gy: Mapping[StructureGoal, float]) -> tuple[ObjectiveSpec, ...]:
    """The specifications with the dose that a goal or constraint aims at moved by so many Gy to the strict side."""
    return tuple(
        replace(spec, dose_gy=max(0.0, spec.dose_gy + shifts_gy[spec.goal] * (-1.0 if _is_upper(spec) else 1.0)))
        if spec.goal is not None and spec.goal in shifts_gy
        else spec
        for spec in specs
    )


def _is_upper(spec: ObjectiveSpec) -> bool:
    return spec.kind in ("max_dose", "mean_dose", "max_tail", "max_dvh")


@dataclass(frozen=True)
class _Limit:
    """A goal in one form: at most ``percent`` + ``cc`` of the volume above (``upper``) or below ``dose_gy``."""

    upper: bool
    dose_gy: float
    percent: float = 0.0
    cc: float = 0.0
    mean: bool = False


def _limit(goal: Goal) -> _Limit:
    """A goal (in Gy) in one form. What is said of one part of the volume is turned round to say it of the other."""
    metric, dose = goal.metric, goal.limit
    if metric.kind == "mean":
        return _Limit(goal.at_most, dose, mean=True)
    if metric.kind in ("max", "min"):
        # Dmax >= x and Dmin <= x: some point must, all others may not
        part = 0.0 if (metric.kind == "max") == goal.at_most else 100.0
        return _Limit(goal.at_most, dose, percent=part)
    if metric.kind in ("D", "DC"):
        size, unit, hottest = metric.argument, metric.argument_unit, metric.kind == "D"
    else:
        size, unit, hottest = goal.limit, goal.unit, metric.kind == "V"
        dose = metric.argument
    # V at most: few get much, an upper limit; V at least: few get little. CV the other way round
    upper = goal.at_most if metric.kind != "CV" else not goal.at_most
    percent, cc = (size, 0.0) if unit == "%" else (0.0, size)
    if upper != hottest:
        percent, cc = 100.0 - percent, -cc
    return _Limit(upper, dose, percent, cc)


def _hard(resolved: ResolvedTemplate, constraint: StructureGoal) -> ObjectiveSpec:
    limit = _limit(constraint.goal)
    small = not limit.mean and limit.percent == 0.0 and limit.cc <= _SMALL_CC
    aim = _HARD_AIM_SMALL if small else _HARD_AIM
    return ObjectiveSpec(
        region=Region(
            constraint.structure, reachable=not limit.upper and _only_targets(resolved, constraint.structure)
        ),
        kind=_limit_kind(limit),
        dose_gy=limit.dose_gy * (1.0 - aim if limit.upper else 1.0 + aim),
        weight=1.0,
        allowed_percent=limit.percent,
        # up to 0.1 cc every voxel is held to the limit, which then also holds when judged at voxel centres
        allowed_cc=0.0 if small else limit.cc,
        hard=True,
        goal=constraint,
    )


def _higher(resolved: ResolvedTemplate, dose_gy: float) -> tuple[str, ...]:
    return tuple(target.name for target in resolved.targets if target.dose_gy > dose_gy)


def _target_terms(resolved: ResolvedTemplate, target: TargetLevel) -> list[ObjectiveSpec]:
    """A two-sided square as its halves, since underdose is asked of other voxels than overdose; mean and hot spots."""
    higher = _higher(resolved, target.dose_gy)
    margin = HIGHER_LEVEL_MARGIN_MM if higher else 0.0
    own = Region(target.name, higher, margin)
    return [
        ObjectiveSpec(Region(target.name, reachable=True), "min_dose", target.dose_gy, _TARGET_UNDER),
        ObjectiveSpec(own, "max_dose", target.dose_gy, _TARGET_OVER),
        ObjectiveSpec(replace(own, reachable=True), "min_mean", target.dose_gy, _TARGET_MEAN),
        ObjectiveSpec(own, "mean_dose", _TARGET_MEAN_MOST * target.dose_gy, _TARGET_MEAN),
        ObjectiveSpec(own, "max_dose", _TARGET_HOT * target.dose_gy, _TARGET_MAX),
    ]


def _goal_term(resolved: ResolvedTemplate, one: StructureGoal) -> ObjectiveSpec:
    limit = _limit(one.goal)
    on_target = _only_targets(resolved, one.structure)
    strength = _PRIORITY_STEP ** (max(one.priority, 1) - 1)
    aim = limit.dose_gy * (1.0 - _AIM if limit.upper else 1.0 + _AIM)
    region = Region(one.structure, reachable=on_target and not limit.upper)
    levels = {target.name: target.dose_gy for target in resolved.targets}
    if limit.upper and one.structure in levels:
        higher = _higher(resolved, levels[one.structure])
        region = Region(one.structure, higher, HIGHER_LEVEL_MARGIN_MM if higher else 0.0)
    if limit.mean:
        kind: SpecKind = "mean_dose" if limit.upper else "min_mean"
        weight = _GOAL_ON_TARGET if on_target else _MEAN_ON_ORGAN
        pull = _MEAN_PULL if limit.upper and not on_target else 0.0
        return ObjectiveSpec(region, kind, aim, weight * strength, priority=one.priority, goal=one, pull=pull)
    return ObjectiveSpec(
        region=region,
        kind=_part_kind(limit),
        dose_gy=aim,
        weight=(_GOAL_ON_TARGET if on_target else _GOAL_ON_ORGAN) * strength,
        allowed_percent=limit.percent,
        allowed_cc=limit.cc,
        priority=one.priority,
        goal=one,
    )


def _part_kind(limit: _Limit) -> SpecKind:
    """The kind of term for a limit on a part of the volume: a tail if that part is small."""
    if limit.percent == 0.0 and limit.cc == 0.0:
        return "max_dose" if limit.upper else "min_dose"
    small = limit.cc <= _TAIL_CC if limit.percent == 0.0 else limit.cc == 0.0 and limit.percent <= _TAIL_PERCENT
    if small:
        return "max_tail" if limit.upper else "min_tail"
    return "max_dvh" if limit.upper else "min_dvh"


def _organ_pulls(resolved: ResolvedTemplate) -> list[ObjectiveSpec]:
    """A gentle linear pull on every organ with an upper goal or limit, so that one that is met still matters.

    A mean goal brings its own; BODY and what is left of it round the targets are the general terms' business.
    """
    asked: dict[str, float] = {}
    for one in (*resolved.constraints, *resolved.goals):
        limit = _limit(one.goal)
        general = _of_body(resolved, one.structure) or _any_target(resolved, one.structure)
        if limit.upper and not limit.mean and not general:
            asked.setdefault(one.structure, limit.dose_gy)
    with_mean = {one.structure for one in resolved.goals if _limit(one.goal).mean}
    return [
        ObjectiveSpec(Region(name), "mean_dose", dose, _ORGAN_PULL, pull=1.0)
        for name, dose in asked.items()
        if name not in with_mean
    ]


def _outside_targets(resolved: ResolvedTemplate) -> list[ObjectiveSpec]:
    """All dose outside the targets low, and lower further away; no hot spot anywhere.

    Goals that allow a volume (D1cc of what is outside) say nothing of how hot it may be.
    """
    names = tuple(target.name for target in resolved.targets)
    highest = resolved.highest_level_gy
    found = [
        ObjectiveSpec(Region(BODY, names), "max_dose", 0.0, _BODY_SQUARE),
        ObjectiveSpec(Region(BODY, names), "max_dose", highest, _FALLOFF),
        ObjectiveSpec(Region(BODY), "max_tail", _BODY_HOT * highest, _BODY_HOT_WEIGHT, allowed_cc=_BODY_HOT_CC),
    ]
    for margin, part in _FALLOFF_LEVELS:
        found.append(ObjectiveSpec(Region(BODY, names, margin), "max_dose", part * highest, _FALLOFF))
    return found


def _written(resolved: ResolvedTemplate, one: Objective) -> list[ObjectiveSpec]:
    """An objective of the template. On a target a two-sided term is written as its halves, as derived ones are."""
    on_target = _only_targets(resolved, one.structure)
    whole, reachable = Region(one.structure), Region(one.structure, reachable=on_target)
    if one.type == "uniform" and on_target:
        return [
            ObjectiveSpec(reachable, "min_dose", one.dose_gy, one.weight),
            ObjectiveSpec(whole, "max_dose", one.dose_gy, one.weight),
        ]
    percent = one.volume_percent or 0.0
    if one.type == "min_dvh":
        return [ObjectiveSpec(reachable, "min_dvh", one.dose_gy, one.weight, allowed_percent=100.0 - percent)]
    region = reachable if one.type.startswith("min") else whole
    return [
        ObjectiveSpec(region, one.type, one.dose_gy, one.weight, allowed_percent=percent, exponent=one.exponent),
    ]


def _leaves(resolved: ResolvedTemplate, structure: str) -> frozenset[str]:
    """The targets and ROIs that a structure is made of, itself if it is one."""
    expressions = {one.name: one.expression for one in resolved.derived}
    targets = {target.name for target in resolved.targets}
    if structure in targets or structure not in expressions:
        return frozenset((structure,))
    found: frozenset[str] = frozenset()
    for name in expression_names(expressions[structure]):
        found |= _leaves(resolved, name)
    return found


def _only_targets(resolved: ResolvedTemplate, structure: str) -> bool:
    return _leaves(resolved, structure) <= {target.name for target in resolved.targets}


def _of_body(resolved: ResolvedTemplate, structure: str) -> bool:
    """Whether a structure is BODY or what is left of it: general tissue, no organ."""
    derived = {one.name for one in resolved.derived}
    return structure == BODY or (structure in derived and BODY in _leaves(resolved, structure))


def _any_target(resolved: ResolvedTemplate, structure: str) -> bool:
    return bool(_leaves(resolved, structure) & {target.name for target in resolved.targets})
