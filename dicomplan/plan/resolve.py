"""A template on the ROIs of one study: names matched, absent ones left out, percent of a level turned into Gy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dicomplan.errors import TemplateError
from dicomplan.events import Finding
from dicomplan.metrics.grammar import in_gray
from dicomplan.patient.algebra import Combined, Expression, Grown, Name, expression_names, parse_expression
from dicomplan.patient.case import Structure
from dicomplan.patient.names import normalise
from dicomplan.plan.matching import BODY, Wanted, match_rois
from dicomplan.plan.section_reader import split_optional
from dicomplan.plan.template import (
    DensityOverride,
    Normalization,
    Objective,
    PlanTemplate,
    StructureGoal,
    TargetLevel,
)
from dicomplan.plan.yaml_nodes import Problems

ALWAYS_INCLUDED = ("BOLUS", "SUPPORT", "FIXATION")
"""Types of ROIs outside of BODY that take part in the dose calculation unasked (INTERFACE.md, body.include)."""


@dataclass(frozen=True)
class ResolvedDerived:
    """A derived structure that exists in this study; ``expression`` names only structures that exist, canonically."""

    name: str
    expression: Expression
    line: int = 0


@dataclass(frozen=True)
class ResolvedTemplate:
    """A template on one study; every structure is named canonically, every dose is in Gy of the course.

    ``roi_names`` maps each canonical name to the ROI of the study; BODY is missing in it where the outline must be
    found. ``targets`` are those present, highest level first. ``derived`` are in order of dependency: each needs only
    ROIs and earlier ones. ``constraints``, ``goals``, ``objectives``, ``density`` hold what applies; ``include`` the
    names of ROIs outside BODY that count. ``findings`` tell what was left out.
    """

    template: PlanTemplate
    roi_names: Mapping[str, str]
    targets: tuple[TargetLevel, ...]
    derived: tuple[ResolvedDerived, ...]
    constraints: tuple[StructureGoal, ...]
    goals: tuple[StructureGoal, ...]
    objectives: tuple[Objective, ...]
    density: tuple[DensityOverride, ...]
    include: tuple[str, ...]
    isocenter: str | tuple[float, float, float]
    normalize: Normalization | None
    findings: tuple[Finding, ...] = ()

    @property
    def fractions(self) -> int:
        """Number of fractions."""
        return self.template.prescription.fractions

    @property
    def highest_level_gy(self) -> float:
        """Prescribed dose of the highest target that is present."""
        return self.targets[0].dose_gy

    @property
    def structure_names(self) -> tuple[str, ...]:
        """Canonical names of all structures: of ROIs, BODY even if it must be found, then derived ones in order."""
        rois = tuple(self.roi_names) if BODY in self.roi_names else (BODY, *self.roi_names)
        return rois + tuple(one.name for one in self.derived)


def resolve(template: PlanTemplate, rois: Sequence[Structure], *, file: str | Path | None = None) -> ResolvedTemplate:
    """Match the template's names to the ROIs of a study and drop what is absent and may be.

    Names match without regard to case, blanks, ``_`` and ``-``, by their synonyms, and by the TG-263 name that an ROI's
    name stands for; BODY is the EXTERNAL ROI and always counts as present. An absent structure drops out of
    expressions (``A | absent`` is A, ``A & absent`` and ``absent - A`` are absent), its goals with a notice. Percent of a
    dose is of the own level of a target, of the lowest of them for a structure made of targets only, else of the
    highest level. Where a derived structure, for want of others, is the same as another one, what was asked of both is
    asked once.

    Raises one TemplateError with all problems: structures that are needed and absent (with a near name and the study's
    ROIs), two ROIs for one name, no target present.
    """
    return _Resolver(template, rois, Problems(file)).resolve()


class _Resolver:
    """The names of one template on one study."""

    def __init__(self, template: PlanTemplate, rois: Sequence[Structure], problems: Problems) -> None:
        self.template, self.rois, self.problems = template, rois, problems
        self.findings: list[Finding] = []
        self.derived = {normalise(one.name): one for one in template.derived}
        self.expressions = {key: parse_expression(one.expression) for key, one in self.derived.items()}
        self.wanted: dict[str, Wanted] = {}  # by canonical name
        self.known: dict[str, str] = {}  # spelling -> canonical name
        self.declared: set[str] = set()  # canonical names
        self.present: dict[str, str] = {}
        self.pruned: dict[str, Expression | None] = {}
        self.targets: tuple[TargetLevel, ...] = ()

    def resolve(self) -> ResolvedTemplate:
        """Everything, in the order that names need."""
        self._collect()
        self.present = match_rois(tuple(self.wanted.values()), self.rois, self.problems)
        order = self._order()
        for key in order:
            self.pruned[key] = self._prune(self.expressions[key])
        self._find_targets()
        self.problems.raise_all()
        self._tell_absent(order)
        constraints = self._goals(self.template.constraints, "hard constraint")
        goals = self._without_repeats(self._goals(self.template.goals, "goal"))
        result = ResolvedTemplate(
            template=self.template,
            roi_names=self.present,
            targets=self.targets,
            derived=(),
            constraints=constraints,
            goals=goals,
            objectives=self._objectives(),
            density=self._density(),
            include=self._include(),
            isocenter=self._isocenter(),
            normalize=self._normalize(),
            findings=(),
        )
        self.problems.raise_all()
        return replace(result, derived=self._derived(order, result), findings=tuple(self.findings))

    # names

    def _collect(self) -> None:
        """Every name that is declared or used; what is used and not declared is an ROI's own name."""
        template = self.template
        self._want(Wanted(BODY))
        for entry in template.structures:
            self._want(Wanted(entry.name, entry.synonyms, entry.optional, entry.line), declares=True)
        for target in template.prescription.targets:
            self._want(Wanted(target.name, (), target.optional, target.line), declares=True)
        for override in template.density:
            self._want(Wanted(override.structure, (), override.optional, override.line), declares=override.optional)
        for listed in template.body.include:
            name, optional = split_optional(listed)
            self._want(Wanted(name, (), optional), declares=optional)
        for goal in (*template.constraints, *template.goals):
            self._want(Wanted(goal.structure, line=goal.line))
        for objective in template.objectives:
            self._want(Wanted(objective.structure, line=objective.line))
        if template.prescription.normalize is not None:
            self._want(Wanted(template.prescription.normalize.structure, line=template.prescription.normalize.line))
        if isinstance(template.beams.isocenter, str) and normalise(template.beams.isocenter) != "targets":
            self._want(Wanted(template.beams.isocenter, line=template.beams.line))
        for derived in template.derived:
            for name in expression_names(self.expressions[normalise(derived.name)]):
                self._want(Wanted(name, (), derived.optional, derived.line))

    def _want(self, wanted: Wanted, *, declares: bool = False) -> None:
        """Note a name; whether it may be absent is for declarations to say, for a mere use only if there is none."""
        if normalise(wanted.name) in self.derived:
            return
        canonical = BODY if normalise(wanted.name) == "body" else self.known.get(normalise(wanted.name), wanted.name)
        had = self.wanted.get(canonical)
        if had is None:
            had = self.wanted[canonical] = replace(wanted, name=canonical)
        else:
            had.synonyms += wanted.synonyms
            if declares:
                had.optional = wanted.optional or (had.optional and canonical in self.declared)
            elif canonical not in self.declared:
                had.optional = had.optional and wanted.optional
        if declares:
            self.declared.add(canonical)
        for spelling in had.spellings:
            self.known.setdefault(spelling, canonical)

    def name(self, written: str) -> str | None:
        """Canonical name of what is written, or None if it is absent from the study."""
        key = normalise(written)
        if key in self.derived:
            return self.derived[key].name if self.pruned.get(key) is not None else None
        canonical = self.known[key]
        return canonical if canonical in self.present or canonical == BODY else None

    # derived structures

    def _order(self) -> list[str]:
        """Keys of the derived structures, each after those that it needs (the parser has refused cycles)."""
        order: list[str] = []
        waiting = list(self.derived)
        while waiting:
            ready = [key for key in waiting if not (self._needs(key) & set(waiting))]
            if not ready:
                raise TemplateError("derived structures need each other in a cycle", file=self.problems.file)
            # one at a time: the order of the template is kept where it can be
            order.append(ready[0])
            waiting.remove(ready[0])
        return order

    def _needs(self, key: str) -> set[str]:
        return {normalise(name) for name in expression_names(self.expressions[key])} & set(self.derived)

    def _prune(self, expression: Expression) -> Expression | None:
        """The expression on structures that are present, by the rules of :func:`dicomplan.patient.algebra.evaluate`."""
        if isinstance(expression, Name):
            canonical = self.name(expression.name)
            return None if canonical is None else Name(canonical)
        if isinstance(expression, Grown):
            inner = self._prune(expression.of)
            return None if inner is None else replace(expression, of=inner)
        first, second = self._prune(expression.first), self._prune(expression.second)
        if first is None:
            return second if expression.operator == "|" else None
        if second is None:
            return None if expression.operator == "&" else first
        return Combined(expression.operator, first, second)

    def _whole(self, expression: Expression) -> Expression:
        """The expression with derived names replaced by what they stand for."""
        if isinstance(expression, Name):
            inner = self.pruned.get(normalise(expression.name))
            return expression if inner is None else self._whole(inner)
        if isinstance(expression, Grown):
            return replace(expression, of=self._whole(expression.of))
        return replace(expression, first=self._whole(expression.first), second=self._whole(expression.second))

    def _derived(self, order: list[str], resolved: ResolvedTemplate) -> tuple[ResolvedDerived, ...]:
        """Derived structures that exist, without mere copies that nothing refers to."""
        used = {goal.structure for goal in (*resolved.constraints, *resolved.goals)}
        used |= {objective.structure for objective in resolved.objectives}
        used |= {target.name for target in resolved.targets} | {override.structure for override in resolved.density}
        used |= {resolved.isocenter} if isinstance(resolved.isocenter, str) else set()
        used |= {resolved.normalize.structure} if resolved.normalize else set()
        result: list[ResolvedDerived] = []
        for key in reversed(order):
            one, expression = self.derived[key], self.pruned[key]
            copy = isinstance(expression, Name) and not isinstance(self.expressions[key], Name)
            if expression is not None and (one.name in used or not copy):
                result.append(ResolvedDerived(one.name, expression, one.line))
                used |= set(expression_names(expression))
        return tuple(reversed(result))

    # targets and levels

    def _find_targets(self) -> None:
        present = []
        for target in self.template.prescription.targets:
            canonical = self.name(target.name)
            if canonical is not None:
                present.append(replace(target, name=canonical))
        if not present:
            names = ", ".join(target.name for target in self.template.prescription.targets)
            if not self.problems.found:
                roi_names = ", ".join(roi.name for roi in self.rois if roi.contours)
                line = self.template.prescription.targets[0].line if self.template.prescription.targets else None
                self.problems.add(f"no target of {names} is in the study", line, f"the study has: {roi_names}")
        self.targets = tuple(sorted(present, key=lambda target: -target.dose_gy))

    def _level_gy(self, canonical: str) -> float:
        levels = {target.name: target.dose_gy for target in self.targets}
        if canonical in levels:
            return levels[canonical]
        names = expression_names(self._targets_in(Name(canonical), levels))
        if all(name in levels for name in names):
            return min(levels[name] for name in names)
        return self.targets[0].dose_gy

    def _targets_in(self, expression: Expression, levels: Mapping[str, float]) -> Expression:
        """As :meth:`_whole`, but a derived structure that is a target itself stays one."""
        if isinstance(expression, Name):
            inner = self.pruned.get(normalise(expression.name))
            if inner is None or expression.name in levels:
                return expression
            return self._targets_in(inner, levels)
        if isinstance(expression, Grown):
            return replace(expression, of=self._targets_in(expression.of, levels))
        return replace(
            expression,
            first=self._targets_in(expression.first, levels),
            second=self._targets_in(expression.second, levels),
        )

    # what is asked of structures

    def _tell_absent(self, order: list[str]) -> None:
        for canonical, one in self.wanted.items():
            if canonical not in self.present and canonical != BODY and one.optional:
                self._notice(f"{canonical} is not in the study and drops out")
        for key in order:
            if self.pruned[key] is None:
                self._notice(f"{self.derived[key].name} has nothing to be made of and drops out")

    def _notice(self, message: str) -> None:
        self.findings.append(Finding("info", message))

    def _goals(self, goals: Sequence[StructureGoal], kind: str) -> tuple[StructureGoal, ...]:
        result = []
        for goal in goals:
            canonical = self.name(goal.structure)
            if canonical is None:
                self._notice(f"{kind} skipped, {goal.structure} is absent: {goal.goal.text}")
            else:
                resolved = in_gray(goal.goal, self._level_gy(canonical))
                result.append(replace(goal, structure=canonical, goal=resolved))
        return tuple(result)

    def _without_repeats(self, goals: tuple[StructureGoal, ...]) -> tuple[StructureGoal, ...]:
        """Goals without those that an absent structure made equal to an earlier one."""
        seen = set()
        result = []
        for goal in goals:
            key = (
                self._whole(Name(goal.structure)),
                goal.goal.metric,
                goal.goal.at_most,
                goal.goal.limit,
                goal.goal.unit,
            )
            if key in seen and self._reduced(goal.structure):
                self._notice(f"goal skipped, it is asked already: {goal.structure} {goal.goal.text}")
                continue
            seen.add(key)
            result.append(goal)
        return tuple(result)

    def _reduced(self, canonical: str) -> bool:
        """Whether something dropped out of a derived structure, or out of one that it needs."""
        key = normalise(canonical)
        if key not in self.derived:
            return False
        names = expression_names(self.expressions[key])
        return any(self.name(name) is None or self._reduced(name) for name in names)

    def _kept(self, structure: str, what: str) -> str | None:
        canonical = self.name(structure)
        if canonical is None:
            self._notice(f"{what} skipped, {structure} is absent")
        return canonical

    def _objectives(self) -> tuple[Objective, ...]:
        kept = ((self._kept(one.structure, f"objective {one.type}"), one) for one in self.template.objectives)
        return tuple(replace(one, structure=name) for name, one in kept if name is not None)

    def _density(self) -> tuple[DensityOverride, ...]:
        kept = ((self._kept(one.structure, "density override"), one) for one in self.template.density)
        return tuple(replace(one, structure=name) for name, one in kept if name is not None)

    def _include(self) -> tuple[str, ...]:
        listed = (self.name(split_optional(name)[0]) for name in self.template.body.include)
        names = [self.present[name] for name in listed if name is not None and name in self.present]
        by_type = [roi for roi in self.rois if roi.contours and roi.roi_type.upper() in ALWAYS_INCLUDED]
        for roi in by_type:
            if roi.name not in names:
                names.append(roi.name)
                self._notice(f"{roi.name} ({roi.roi_type.upper()}) takes part in the dose calculation")
        return tuple(names)

    def _needed(self, structure: str, what: str, line: int) -> str:
        canonical = self.name(structure)
        if canonical is None:
            self.problems.add(f"{what}: '{structure}' is not in the study", line or None)
        return canonical or structure

    def _isocenter(self) -> str | tuple[float, float, float]:
        where = self.template.beams.isocenter
        if not isinstance(where, str):
            return where
        if normalise(where) == "targets":
            return "targets"  # the word of the grammar, also where a derived structure is called so
        return self._needed(where, "beams.isocenter", self.template.beams.line)

    def _normalize(self) -> Normalization | None:
        written = self.template.prescription.normalize
        if written is None:
            return None
        canonical = self._needed(written.structure, "normalize", written.line)
        if self.problems.found:
            return None
        return replace(written, structure=canonical, goal=in_gray(written.goal, self._level_gy(canonical)))
