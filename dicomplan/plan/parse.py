"""Template text (YAML) to a :class:`PlanTemplate`; every problem of a file is found in one reading."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar, cast, get_args

import yaml

from dicomplan.errors import TemplateError
from dicomplan.metrics.goals import Goal
from dicomplan.metrics.grammar import parse_equality, parse_goal
from dicomplan.patient.algebra import parse_expression
from dicomplan.patient.names import normalise
from dicomplan.plan.consistency import check_template
from dicomplan.plan.schema import NEWEST_VERSION
from dicomplan.plan.section_reader import SectionReader
from dicomplan.plan.template import (
    BeamField,
    BeamSettings,
    BodySettings,
    DeliverySettings,
    DensityOverride,
    DerivedStructure,
    DoseReport,
    DoseSettings,
    FinalEngine,
    Normalization,
    Objective,
    ObjectiveType,
    PlanTemplate,
    Prescription,
    Robustness,
    StructureEntry,
    StructureGoal,
    TargetLevel,
)
from dicomplan.plan.yaml_nodes import (
    Problems,
    compose,
    is_empty,
    items,
    kind_of,
    line_of,
    quantity,
    text,
    whole_number,
)

_T = TypeVar("_T")
_NORMALIZE = re.compile(r"(?:'(?P<quoted>[^']+)'|(?P<name>\S.*?))\s+(?P<goal>[^\s=]+\s*=.*)")
_LIST_OF_GOALS = "write a list: [D95% >= 70 Gy, D2% <= 75 Gy]"
_MOST_SHIFTS = 26
_UNNAMED = "Unnamed template"


def parse_template(source: str, *, file: str | Path | None = None) -> PlanTemplate:
    """The template of its YAML text; ``file`` is named in messages.

    Scalars stay text until their key says what they are. Unknown keys (with the nearest known one), duplicate keys,
    wrong types, goals and expressions that cannot be read, mixed units, cycles among derived structures, and what
    INTERFACE.md has but is not built yet are all found in one reading. Raises one TemplateError whose ``problems``
    holds them all, each with its line.
    """
    problems = Problems(file)
    root = compose(source, file=file)
    if root is None or is_empty(root):
        raise TemplateError("the template is empty", file=file, hint="see dicomplan templates list")
    template = _Reader(problems).template(root, source)
    problems.raise_all()
    return template


class _Reader(SectionReader):
    """Reads the sections of one template; what cannot be read is noted and left out."""

    def template(self, root: yaml.Node, source: str) -> PlanTemplate:
        """The whole template; of one in another version of the grammar only that is said."""
        if not isinstance(root, yaml.MappingNode):
            self.problems.add(f"a template is a mapping (key: value), {kind_of(root)} found", line_of(root))
            self.problems.raise_all()
        for key, value in cast(yaml.MappingNode, root).value:
            if isinstance(key, yaml.ScalarNode) and key.value == "dicomplan" and not self._version(value):
                self.problems.raise_all()
        found = self.keys(root, "", "")
        read = self.read
        structures: tuple[StructureEntry, ...] = read(found, "structures", self.structures, ())
        derived: tuple[DerivedStructure, ...] = read(found, "derived", self.derived, ())
        template = PlanTemplate(
            name=(text(found["name"].value, self.problems, "name") if "name" in found else None) or _UNNAMED,
            prescription=read(found, "prescription", self.prescription, Prescription(1, ())),
            machine=(text(found["machine"].value, self.problems, "machine") if "machine" in found else None)
            or PlanTemplate.machine,
            structures=structures,
            derived=derived,
            density=read(found, "density", self.density, ()),
            body=read(found, "body", self.body, BodySettings()),
            beams=read(found, "beams", self.beams, BeamSettings()),
            constraints=read(found, "constraints", lambda node: self.goals_of(node, 0, "constraints"), ()),
            goals=read(found, "goals", self.goals, ()),
            objectives=read(found, "objectives", self.objectives, ()),
            dose=read(found, "dose", self.dose, DoseSettings()),
            delivery=read(found, "delivery", self.delivery, DeliverySettings()),
            slack=self.size(found, "slack", "%", 0.0, 20.0, 100.0 * PlanTemplate.slack) / 100.0,
            skin_mm=self.size(found, "skin", "mm", 0.0, 30.0, PlanTemplate.skin_mm),
            flash_mm=self.size(found, "flash", "mm", 0.0, 50.0, PlanTemplate.flash_mm),
            robust=read(found, "robust", self.robust, None),
            source=source,
        )
        if "report" in found:
            self.keys(found["report"].value, "report", "report")
        check_template(template, self.problems, found["delivery"].line if "delivery" in found else None)
        # a name written with ? in a goal, and nowhere declared, may be absent all the same
        declared = {normalise(entry.name) for entry in structures}
        implied = tuple(
            StructureEntry(name, (), True, line)
            for name, line in self.optional_uses.items()
            if normalise(name) not in declared
        )
        return replace(template, structures=structures + implied)

    def robust(self, node: yaml.Node) -> Robustness | None:
        """Isocentre shifts, and what goals are held to."""
        found = self.keys(node, "robust", "robust")
        goals: Literal["worst", "expected"] = self.choice(found, "robust", "goals", Robustness.goals, "robust.goals")
        if "shifts" not in found:
            return None
        what = "robust.shifts"
        read = [self.shift(item, what) for item in items(found["shifts"].value, self.problems, what, "[[3, 0, 0]]")]
        shifts = tuple(shift for shift in read if shift is not None)
        if not read or len(read) > _MOST_SHIFTS:
            self.problems.add(f"{what}: 1 to {_MOST_SHIFTS} shifts expected, {len(read)} found", found["shifts"].line)
        elif len(set(shifts) | {(0.0, 0.0, 0.0)}) <= len(shifts):
            self.problems.add(f"{what}: a shift is given twice, or is none at all", found["shifts"].line)
        return Robustness(shifts, goals)

    def shift(self, node: yaml.Node, what: str) -> tuple[float, float, float] | None:
        """Three numbers, mm."""
        values = items(node, self.problems, what, "[3, 0, 0]")
        point = [quantity(item, self.problems, what, ("mm", ""), -50, 50) for item in values]
        if len(point) != 3:
            self.problems.add(f"{what}: three numbers [x, y, z] expected, {len(point)} found", line_of(node))
        return None if len(point) != 3 or None in point else cast(tuple[float, float, float], tuple(point))

    def _version(self, node: yaml.Node) -> bool:
        written = node.value.strip() if isinstance(node, yaml.ScalarNode) else ""
        if written == str(NEWEST_VERSION):
            return True
        message = (
            f"version {written or kind_of(node)} of the template grammar is not known; newest known is {NEWEST_VERSION}"
        )
        self.problems.add(message, line_of(node), f"write 'dicomplan: {NEWEST_VERSION}'")
        return False

    def prescription(self, node: yaml.Node) -> Prescription:
        """Fractions, targets, normalisation."""
        found = self.keys(node, "rx", "prescription")
        fractions = 1
        if "fractions" in found:
            fractions = whole_number(found["fractions"].value, self.problems, "fractions", 1, 100) or 1
        targets = []
        if "targets" in found:
            named = self.names(found["targets"].value, "targets")
            for name, optional, entry in named:
                dose = self.gray(entry.value, f"dose of {name}")
                if dose is not None:
                    targets.append(TargetLevel(name, dose, optional, entry.line))
            if not named:
                self.problems.add("targets: at least one target is needed", found["targets"].line)
        normalize = self.normalize(found["normalize"].value) if "normalize" in found else None
        return Prescription(fractions, tuple(targets), normalize)

    def normalize(self, node: yaml.Node) -> Normalization | None:
        """``PTV_7000 D95% = 70 Gy``."""
        written, line = text(node, self.problems, "normalize"), line_of(node)
        if written is None:
            return None
        match = _NORMALIZE.fullmatch(written)
        if match is None:
            self.problems.add(f"normalize: '{written}' cannot be read", line, "write: PTV_7000 D95% = 70 Gy")
            return None
        try:
            goal = parse_equality(match["goal"])
        except TemplateError as error:
            self.problems.adopt(error, line, "normalize: ")
            return None
        return Normalization((match["quoted"] or match["name"]).strip(), goal, line)

    def structures(self, node: yaml.Node) -> tuple[StructureEntry, ...]:
        """Canonical names and their other spellings."""
        result = []
        for name, optional, entry in self.names(node, "structures"):
            what = f"spellings of {name}"
            spellings = (
                text(item, self.problems, what)
                for item in items(entry.value, self.problems, what, "write a list: [cord, spinal cord]")
            )
            synonyms = tuple(spelling for spelling in spellings if spelling)
            result.append(StructureEntry(name, synonyms, optional, entry.line))
        return tuple(result)

    def derived(self, node: yaml.Node) -> tuple[DerivedStructure, ...]:
        """Derived structures whose expressions can be read."""
        result = []
        for name, optional, entry in self.names(node, "derived"):
            written = text(entry.value, self.problems, f"derived structure {name}")
            if written is None:
                continue
            try:
                parse_expression(written)
            except TemplateError as error:
                self.problems.adopt(error, line_of(entry.value), f"{name}: ")
                continue
            result.append(DerivedStructure(name, written, optional, entry.line))
        return tuple(result)

    def density(self, node: yaml.Node) -> tuple[DensityOverride, ...]:
        """Density overrides in g/cm3."""
        result = []
        for name, optional, entry in self.names(node, "density"):
            value = quantity(entry.value, self.problems, f"density of {name}", ("g/cm3",), 0.0001, 25.0)
            if value is not None:
                result.append(DensityOverride(name, value, optional, entry.line))
        return tuple(result)

    def body(self, node: yaml.Node) -> BodySettings:
        """What lies outside the body, and what is included."""
        found = self.keys(node, "body", "body")
        outside: Literal["air"] = self.choice(found, "body", "outside", "air", "body.outside")
        include = []
        if "include" in found:
            for item in items(found["include"].value, self.problems, "body.include"):
                name = text(item, self.problems, "body.include")
                if name is not None:
                    include.append(name)
        return BodySettings(outside, tuple(include))

    def beams(self, node: yaml.Node) -> BeamSettings:
        """Technique, isocentre, fields."""
        found = self.keys(node, "beams", "beams")
        technique: Literal["imrt"] = self.choice(found, "beams", "technique", "imrt", "beams.technique")
        isocenter = self.isocenter(found["isocenter"].value) if "isocenter" in found else "targets"
        fields: tuple[BeamField, ...] = ()
        if "gantry" in found and "fields" in found:
            self.problems.add("beams: 'gantry' and 'fields' exclude each other", found["fields"].line)
        elif "gantry" in found:
            fields = self.gantry(found["gantry"].value)
        elif "fields" in found:
            read = (self.field(item) for item in items(found["fields"].value, self.problems, "beams.fields"))
            fields = tuple(field for field in read if field is not None)
        else:
            self.problems.add("beams: 'gantry' or 'fields' is missing", line_of(node), "gantry: {count: 9}")
        if len(set(fields)) < len(fields):
            double = next(field for index, field in enumerate(fields) if field in fields[:index])
            self.problems.add(f"beams: gantry {double.gantry_angle_deg:g} is given twice", line_of(node))
        return BeamSettings(technique, isocenter, fields, line_of(node))

    def isocenter(self, node: yaml.Node) -> str | tuple[float, float, float]:
        """``targets``, a structure's name, or a point in mm."""
        if not isinstance(node, yaml.SequenceNode):
            return text(node, self.problems, "beams.isocenter") or "targets"
        point = [quantity(item, self.problems, "beams.isocenter", ("mm", ""), -5000, 5000) for item in node.value]
        if len(point) != 3:
            self.problems.add(f"beams.isocenter: three numbers [x, y, z] expected, {len(point)} found", line_of(node))
            return "targets"
        return "targets" if None in point else cast(tuple[float, float, float], tuple(point))

    def angle(self, node: yaml.Node, what: str) -> float | None:
        """An IEC 61217 angle, 0 to below 360 degrees."""
        value = quantity(node, self.problems, what, ("", "deg", "degrees"), -360, 720)
        if value is not None and not 0 <= value < 360:
            hint = f"write {value % 360:g}"
            self.problems.add(f"{what}: {value:g} degrees; angles run from 0 to below 360", line_of(node), hint)
            return None
        return value

    def gantry(self, node: yaml.Node) -> tuple[BeamField, ...]:
        """A list of gantry angles, or a number of equal steps."""
        what = "beams.gantry"
        if isinstance(node, yaml.MappingNode):
            found = self.keys(node, "count", what)
            count = (
                whole_number(found["count"].value, self.problems, f"{what}.count", 1, 72) if "count" in found else None
            )
            if not node.value:
                self.problems.add(f"{what}: a list of angles or {{count: 9}} expected, nothing found", line_of(node))
            return tuple(BeamField(360.0 * index / count) for index in range(count)) if count else ()
        angles = [self.angle(item, what) for item in items(node, self.problems, what, "[0, 40, 80] or {count: 9}")]
        if isinstance(node, yaml.SequenceNode) and not angles:
            self.problems.add(f"{what}: at least one angle is needed", line_of(node))
        return tuple(BeamField(angle) for angle in angles if angle is not None)

    def field(self, node: yaml.Node) -> BeamField | None:
        """One field with its own couch and collimator."""
        found = self.keys(node, "field", "beams.fields")
        angles = {key: self.angle(entry.value, f"beams.fields, {key}") for key, entry in found.items()}
        gantry = angles.get("gantry")
        if gantry is None:
            return None
        return BeamField(gantry, angles.get("couch") or 0.0, angles.get("collimator") or 0.0)

    def goal(self, node: yaml.Node, what: str) -> Goal | None:
        """One goal of its text."""
        written = text(node, self.problems, what)
        if written is None:
            return None
        try:
            return parse_goal(written)
        except TemplateError as error:
            self.problems.adopt(error, line_of(node), f"{what}: ")
            return None

    def goals_of(self, node: yaml.Node, priority: int, section: str) -> tuple[StructureGoal, ...]:
        """Goals of one mapping of structures."""
        result = []
        for name, entry in self.used(node, section):
            for item in items(entry.value, self.problems, f"{section} of {name}", _LIST_OF_GOALS):
                goal = self.goal(item, name)
                if goal is not None:
                    result.append(StructureGoal(name, goal, priority, line_of(item)))
        return tuple(result)

    def goals(self, node: yaml.Node) -> tuple[StructureGoal, ...]:
        """The wish list: priority 1 for the first group, 2 for the second..."""
        hint = "groups begin with a dash: - PTV_7000: [D95% >= 70 Gy]"
        result: list[StructureGoal] = []
        for priority, group in enumerate(items(node, self.problems, "goals", hint), start=1):
            result.extend(self.goals_of(group, priority, "goals"))
        return tuple(result)

    def objectives(self, node: yaml.Node) -> tuple[Objective, ...]:
        """Objective terms of structures."""
        result = []
        for name, entry in self.used(node, "objectives"):
            what = f"objectives of {name}"
            for item in items(entry.value, self.problems, what, "[{type: uniform, dose: 70 Gy}]"):
                objective = self.objective(item, name, what)
                if objective is not None:
                    result.append(objective)
        return tuple(result)

    def objective(self, node: yaml.Node, name: str, what: str) -> Objective | None:
        """One objective term."""
        found = self.keys(node, "term", what)
        kind = self.choice(found, "term", "type", "", f"{what}, type")
        dose = self.gray(found["dose"].value, f"{what}, dose") if "dose" in found else None
        weight: float | None = 1.0
        if "weight" in found:
            weight = quantity(found["weight"].value, self.problems, f"{what}, weight", ("",), 1e-9, 1e9)
        volume = None
        if "volume" in found:
            volume = quantity(found["volume"].value, self.problems, f"{what}, volume", ("%",), 0, 100)
        exponent = None
        if "a" in found:
            exponent = quantity(found["a"].value, self.problems, f"{what}, a", ("",), -100, 100)
        if kind not in get_args(ObjectiveType):
            return None
        for key, example, takes in (
            ("dose", "70 Gy", kind not in ("linear", "variance")),
            ("volume", "30 %", kind.endswith(("dvh", "tail"))),
            ("a", "-10" if kind == "min_geud" else "8", kind.endswith("geud")),
        ):
            if takes and key not in found:
                self.problems.add(f"{what}: {kind} needs '{key}', such as {key}: {example}", line_of(node))
            elif key in found and not takes:
                self.problems.add(f"{what}: {kind} takes no {key}", found[key].line)
        if kind.endswith("tail") and volume == 0.0:
            self.problems.add(f"{what}: the mean of 0 % of the volume is none", line_of(node), "volume: 5 %")
        if exponent is not None:
            fits = exponent >= 1.0 if kind == "max_geud" else exponent <= 1.0 and exponent != 0.0
            if kind.endswith("geud") and not fits:
                wanted = "1 or more" if kind == "max_geud" else "1 or less, and not 0"
                self.problems.add(f"{what}: a of {kind} is {wanted}, {exponent:g} found", found["a"].line)
        if weight is None or (dose is None and "dose" in found):
            return None
        return Objective(name, cast(ObjectiveType, kind), dose or 0.0, weight, volume, line_of(node), exponent or 0.0)

    def dose(self, node: yaml.Node) -> DoseSettings:
        """Dose grid and engines."""
        found = self.keys(node, "dose", "dose")
        grid: float | None = DoseSettings.grid_mm
        if "grid" in found:
            value = found["grid"].value
            is_ct = isinstance(value, yaml.ScalarNode) and value.value.strip().casefold() == "ct"
            grid = None if is_ct else quantity(value, self.problems, "dose.grid", ("mm",), 0.5, 20.0)
        influence: Literal["pencil_beam"] = self.choice(found, "dose", "influence", "pencil_beam", "dose.influence")
        final: FinalEngine = self.choice(found, "dose", "final", DoseSettings.final, "dose.final")
        report: DoseReport | None = self.choice(found, "dose", "report", None, "dose.report")
        if final == "pencil_beam" and report == "medium":
            place = line_of(found["report"].value)
            self.problems.add("dose.report: the pencil beam's dose is to water", place, "final: collapsed_cone")
        return DoseSettings(grid, influence, final, report)

    def delivery(self, node: yaml.Node) -> DeliverySettings:
        """Delivery mode and number of segments."""
        found = self.keys(node, "delivery", "delivery")
        mode: Literal["step_and_shoot", "sliding_window"] = self.choice(
            found, "delivery", "mode", DeliverySettings.mode, "delivery.mode"
        )
        most = None
        if "max_segments" in found:
            most = whole_number(found["max_segments"].value, self.problems, "delivery.max_segments", 1, 100_000)
        return DeliverySettings(mode, most)
