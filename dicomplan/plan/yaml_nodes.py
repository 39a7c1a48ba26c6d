"""YAML text as nodes with lines: scalars stay text, duplicate keys are seen, problems are collected."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from dicomplan.errors import TemplateError

_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_QUANTITY = re.compile(rf"(?P<value>{_NUMBER})\s*(?P<unit>\S.*)?")


@dataclass
class Problems:
    """The problems found in one reading of a template; ``file`` is where it came from, or None."""

    file: str | Path | None = None
    found: list[TemplateError] = field(default_factory=list)

    def add(self, message: str, line: int | None, hint: str | None = None) -> None:
        """Note a problem at a 1-based ``line``, with the remedy if there is one."""
        self.found.append(TemplateError(message, file=self.file, line=line, hint=hint))

    def adopt(self, error: TemplateError, line: int | None, prefix: str = "") -> None:
        """Note the problem that a grammar reported, at ``line``."""
        self.add(prefix + error.message, line, error.hint)

    def raise_all(self) -> None:
        """Raise one TemplateError with all problems in order of lines, if there are any; its message is the first."""
        if not self.found:
            return
        problems = tuple(sorted(self.found, key=lambda problem: problem.line or 0))
        first, more = problems[0], len(problems) - 1
        count = f" (and {more} more problem{'s' if more > 1 else ''})" if more else ""
        raise TemplateError(first.message + count, file=self.file, line=first.line, hint=first.hint, problems=problems)


@dataclass(frozen=True)
class Entry:
    """One entry of a mapping: its key as text, the key's line, and the node of its value."""

    key: str
    line: int
    value: yaml.Node


def line_of(node: yaml.Node) -> int:
    """1-based line on which a node begins."""
    return int(node.start_mark.line) + 1


def compose(text: str, *, file: str | Path | None = None) -> yaml.Node | None:
    """Node tree of YAML text (one document), or None if it is empty. Raises TemplateError where it is no YAML."""
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        message = f"this is not YAML: {error.problem or error.context}"
        raise TemplateError(message, file=file, line=line, hint=_yaml_hint(error)) from None
    except yaml.YAMLError as error:
        raise TemplateError(f"this is not YAML: {' '.join(str(error).split())}", file=file) from None
    except RecursionError:
        raise TemplateError("this is not a template: it is nested too deeply", file=file) from None
    return node


def _yaml_hint(error: yaml.MarkedYAMLError) -> str | None:
    if "start any token" in (error.problem or ""):
        return "indent with blanks, and quote text that begins with % @ ` or holds [ ]"
    if "expected ',' or" in (error.problem or ""):
        return "inside [ ] and { } text that holds , [ ] { } or ': ' is quoted"
    return None


def is_empty(node: yaml.Node) -> bool:
    """Whether nothing stands where a list or a mapping is due: ``key:`` and then nothing, or YAML's null."""
    return isinstance(node, yaml.ScalarNode) and node.style is None and node.value.casefold() in ("", "~", "null")


def kind_of(node: yaml.Node) -> str:
    """What a node is, for messages."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "nothing" if is_empty(node) else f"'{node.value}'"


def entries(node: yaml.Node, problems: Problems, what: str) -> list[Entry]:
    """Entries of a mapping in order. Duplicate keys, keys that are no text and other nodes are noted as problems."""
    if is_empty(node):
        return []
    if not isinstance(node, yaml.MappingNode):
        problems.add(f"{what}: a mapping (name: value) expected, {kind_of(node)} found", line_of(node))
        return []
    found: dict[str, Entry] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            problems.add(f"{what}: a key must be text, {kind_of(key)} found", line_of(key))
            continue
        name = key.value.strip()
        if name in found:
            problems.add(f"{what}: '{name}' is given twice, first on line {found[name].line}", line_of(key))
            continue
        found[name] = Entry(name, line_of(key), value)
    return list(found.values())


def items(node: yaml.Node, problems: Problems, what: str, hint: str | None = None) -> list[yaml.Node]:
    """Items of a list; another node is a problem, nothing is an empty list."""
    if is_empty(node):
        return []
    if not isinstance(node, yaml.SequenceNode):
        problems.add(f"{what}: a list expected, {kind_of(node)} found", line_of(node), hint)
        return []
    return list(node.value)


def text(node: yaml.Node, problems: Problems, what: str) -> str | None:
    """Text of a scalar without outer blanks; None, and a problem, for nothing and for lists and mappings."""
    if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
        problems.add(f"{what}: text expected, {kind_of(node)} found", line_of(node))
        return None
    return str(node.value).strip()


def quantity(
    node: yaml.Node,
    problems: Problems,
    what: str,
    units: tuple[str, ...],
    low: float,
    high: float,
) -> float | None:
    """Number of a scalar such as ``70 Gy``; None, and a problem, if it is none, or not in ``low <= value <= high``.

    ``units`` are the spellings of the unit that are accepted; an empty one among them makes the unit optional.
    """
    line = line_of(node)
    unit = next((name for name in units if name), "")
    expected = f"a number in {unit}" if unit else "a number"
    match = _QUANTITY.fullmatch(node.value.strip()) if isinstance(node, yaml.ScalarNode) else None
    if match is None:
        problems.add(f"{what}: {expected} expected, {kind_of(node)} found", line)
        return None
    found = match["unit"] or ""
    if found.casefold() not in {name.casefold() for name in units}:
        hint = f"write '{match['value']} {unit}'" if unit and not found else None
        problems.add(f"{what}: {expected} expected, '{node.value.strip()}' found", line, hint)
        return None
    value = float(match["value"])
    if not (math.isfinite(value) and low <= value <= high):
        shown = f"{value:g} {unit}".strip()
        problems.add(f"{what}: {shown} is not within {low:g} to {high:g}{' ' + unit if unit else ''}", line)
        return None
    return value


def whole_number(node: yaml.Node, problems: Problems, what: str, low: int, high: int) -> int | None:
    """Whole number of a scalar within ``low`` to ``high``; None, and a problem, else."""
    written = node.value.strip() if isinstance(node, yaml.ScalarNode) else ""
    if not re.fullmatch(r"[+-]?\d{1,9}", written):
        problems.add(f"{what}: a whole number expected, {kind_of(node)} found", line_of(node))
        return None
    if not low <= int(written) <= high:
        problems.add(f"{what}: {int(written)} is not within {low} to {high}", line_of(node))
        return None
    return int(written)


def near_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest to ``name`` in spelling, or None if none is near."""
    by_folded = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(name.casefold(), list(by_folded), n=1, cutoff=0.6)
    return by_folded[near[0]] if near else None
