"""Which template for which study: ordered rules, the first that matches wins.

A rules file (YAML)::

    dicomplan: 1
    rules:
      - name: prostate                       # for messages and `watch --check`
        structures: [PTV_7800, Rectum]       # * all of these are in the structure set (case, blanks, _ and - do not count)
        description: ["*prostat*"]           # * any of these patterns fits the study's or the CT series' description
        station: [CT1, CT2]                  # * any of these patterns fits the CT's station name
        structure_set: "*final*"             # * among several new structure sets of one CT, those whose label fits
        template: prostate.yaml              # a file beside this one, or a shipped template

Keys marked * may be left out; what is left out fits everything. Patterns are those of file names (``*``, ``?``), without
regard to case.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from dicomplan import __version__
from dicomplan.errors import DicomplanError, TemplateError, UsageError
from dicomplan.jobs.contents import Content
from dicomplan.jobs.readiness import Choose, Present
from dicomplan.jobs.recipes import Recipe, load_recipe
from dicomplan.jobs.values import digest
from dicomplan.patient.names import normalise
from dicomplan.plan.library import template_names
from dicomplan.plan.yaml_nodes import Problems, compose, entries, items, line_of, near_name, text

_KEYS = ("name", "structures", "description", "station", "structure_set", "template")
_VERSION = "1"


@dataclass(frozen=True, eq=False)
class Rule:
    """One rule; an empty condition fits everything. ``line`` in the rules file (0: made from ``--template``)."""

    name: str
    recipe: Recipe
    structures: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()
    stations: tuple[str, ...] = ()
    structure_set: str = ""
    line: int = 0

    def fits(self, structure_set: Content, slices: Sequence[Content]) -> bool:
        """Whether a study with this structure set and CT fits every condition."""
        return self.misfit(structure_set, slices) == ""

    def misfit(self, structure_set: Content, slices: Sequence[Content]) -> str:
        """The first condition that a study does not fit; empty if it fits all."""
        names = structure_set.structures.names if structure_set.structures else ()
        known = {normalise(name) for name in names}
        absent = [name for name in self.structures if normalise(name) not in known]
        if absent:
            return f"the structure set has no {', '.join(absent)}"
        first = slices[0] if slices else structure_set
        if self.descriptions and not _any_fits(self.descriptions, (*first.descriptions, *structure_set.descriptions)):
            return f"no description fits {', '.join(self.descriptions)}"
        if self.stations and not _any_fits(self.stations, (first.station,)):
            return f"the station does not fit {', '.join(self.stations)}"
        return ""


@dataclass(frozen=True, eq=False)
class Rules:
    """Rules in their order. ``config``: hash of all that decides about a plan, this release included."""

    rules: tuple[Rule, ...]
    config: str

    def match(self, structure_set: Content, slices: Sequence[Content]) -> Rule | None:
        """The first rule that fits; None if none does."""
        return next((rule for rule in self.rules if rule.fits(structure_set, slices)), None)

    def choose(self) -> Choose:
        """Chooses, among several new structure sets of one CT, those that the label of a rule means."""

        def chosen(found: Sequence[Present]) -> Sequence[Present]:
            for rule in self.rules:
                if not rule.structure_set:
                    continue
                kept = [
                    one
                    for one in found
                    if one.content.structures is not None
                    and _any_fits((rule.structure_set,), (one.content.structures.label,))
                    and rule.fits(one.content, ())
                ]
                if kept:
                    return kept
            return found

        return chosen


def _any_fits(patterns: Sequence[str], texts: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(one.casefold(), pattern.casefold()) for pattern in patterns for one in texts)


def one_template(template: str) -> Rules:
    """The rules that plan every study by one template. Raises UsageError, TemplateError, MachineError."""
    rule = Rule("template", load_recipe(template))
    return Rules((rule,), _config([rule]))


def _config(rules: Sequence[Rule]) -> str:
    parts = [[one.structures, one.descriptions, one.stations, one.structure_set] for one in rules]
    plans = [[one.recipe.template_sha256, one.recipe.machine_sha256] for one in rules]
    return digest([__version__, parts, plans])


def load_rules(path: Path) -> Rules:
    """The rules of a file, with all their templates and machines read.

    Raises UsageError if the file cannot be read, TemplateError with every problem and its line otherwise.
    """
    try:
        source = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"the rules cannot be read: {error.strerror}", file=path) from error
    except UnicodeDecodeError as error:
        raise TemplateError("the rules are not UTF-8 text", file=path) from error
    problems = Problems(path)
    node = compose(source, file=path)
    if node is None:
        raise TemplateError("the rules file is empty", file=path)
    top = {entry.key: entry for entry in entries(node, problems, "rules file")}
    for key, entry in top.items():
        if key not in ("dicomplan", "rules"):
            _unknown(key, entry.line, ("dicomplan", "rules"), problems)
    if "dicomplan" not in top:
        problems.add("dicomplan: the version of the grammar is missing", 1, f"write dicomplan: {_VERSION}")
    elif (stated := text(top["dicomplan"].value, problems, "dicomplan")) not in (None, _VERSION):
        problems.add(f"dicomplan: version {stated} is not known, the newest is {_VERSION}", top["dicomplan"].line)
    rules = []
    if "rules" not in top:
        problems.add("rules: the list of rules is missing", 1)
    else:
        for number, item in enumerate(items(top["rules"].value, problems, "rules"), start=1):
            rule = _rule(item, number, path, problems)
            if rule is not None:
                rules.append(rule)
        if not rules and not problems.found:
            problems.add("rules: at least one rule is expected", top["rules"].line)
    problems.raise_all()
    return Rules(tuple(rules), _config(rules))


def _unknown(key: str, line: int, known: Sequence[str], problems: Problems) -> None:
    near = near_name(key, known)
    problems.add(f"unknown key '{key}'", line, f"did you mean '{near}'?" if near else f"known: {', '.join(known)}")


def _rule(node: yaml.Node, number: int, path: Path, problems: Problems) -> Rule | None:
    what = f"rule {number}"
    found = {entry.key: entry for entry in entries(node, problems, what)}
    for key, entry in found.items():
        if key not in _KEYS:
            _unknown(key, entry.line, _KEYS, problems)
    listed = {
        key: _texts(found[key].value, problems, f"{what}, {key}") if key in found else ()
        for key in ("structures", "description", "station")
    }
    single = {
        key: text(found[key].value, problems, f"{what}, {key}") if key in found else None
        for key in ("name", "structure_set", "template")
    }
    if "template" not in found:
        problems.add(f"{what}: template is missing", line_of(node))
    template = single["template"]
    if template is None:
        return None
    place = path.parent / template
    try:
        recipe = load_recipe(template if template in template_names() else str(place))
    except DicomplanError as error:
        inner = getattr(error, "problems", ()) or (error,)
        for one in inner:
            where = f", line {one.line}" if one.line else ""
            problems.add(f"{what}, template {template}{where}: {one.message}", found["template"].line, one.hint)
        return None
    return Rule(
        name=single["name"] or f"rule {number}",
        recipe=recipe,
        structures=listed["structures"],
        descriptions=listed["description"],
        stations=listed["station"],
        structure_set=single["structure_set"] or "",
        line=line_of(node),
    )


def _texts(node: yaml.Node, problems: Problems, what: str) -> tuple[str, ...]:
    if isinstance(node, yaml.ScalarNode):
        one = text(node, problems, what)
        return () if one is None else (one,)
    found = [text(item, problems, what) for item in items(node, problems, what)]
    return tuple(one for one in found if one is not None)
