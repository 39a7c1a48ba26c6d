"""What reading any section of a template takes: keys against the schema, choices, names of structures, numbers with units."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import yaml

from dicomplan.patient.names import normalise
from dicomplan.plan.schema import SECTIONS, Key
from dicomplan.plan.yaml_nodes import Entry, Problems, entries, is_empty, line_of, near_name, quantity, text

_T = TypeVar("_T")
_MOST_DOSE_GY = 200.0  # no course prescribes more; 7000 is a slip for cGy


def split_optional(name: str) -> tuple[str, bool]:
    """Name without its trailing ``?``, and whether it had one (then the structure may be absent)."""
    stripped = name.strip()
    return (stripped[:-1].strip(), True) if stripped.endswith("?") else (stripped, False)


class SectionReader:
    """Notes what cannot be read in ``problems``, and the first line of each name with ``?`` in ``optional_uses``."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.optional_uses: dict[str, int] = {}

    def keys(self, node: yaml.Node, section: str, what: str) -> dict[str, Entry]:
        """Known and built entries of a mapping; unknown, unbuilt and missing ones are noted."""
        table = SECTIONS[section]
        prefix = f"{what}: " if what else ""
        found: dict[str, Entry] = {}
        for entry in entries(node, self.problems, what or "template"):
            spec = table.get(entry.key)
            if spec is None:
                near = near_name(entry.key, table)
                hint = f"did you mean '{near}'?" if near else f"known keys: {', '.join(table)}"
                self.problems.add(f"{prefix}unknown key '{entry.key}'", entry.line, hint)
            elif not spec.built:
                if not _switched_off(entry.value):
                    self.problems.add(f"{prefix}'{entry.key}' is not built yet", entry.line)
            else:
                found[entry.key] = entry
        if isinstance(node, yaml.MappingNode) or is_empty(node):
            for key, spec in table.items():
                if spec.required and key not in found:
                    self.problems.add(f"{prefix}the key '{key}' is missing", line_of(node))
        return found

    def choice(self, found: dict[str, Entry], section: str, key: str, default: _T, what: str) -> _T:
        """Value of a key with a fixed list of values; others are refused, unbuilt ones as such."""
        if key not in found:
            return default
        spec: Key = SECTIONS[section][key]
        value = text(found[key].value, self.problems, what)
        built = tuple(str(one) for one in cast(list[object], spec.schema["enum"]))
        if value is None or value in built:
            return default if value is None else cast(_T, value)
        line = line_of(found[key].value)
        if value in spec.unbuilt:
            self.problems.add(f"{what}: '{value}' is not built yet", line, f"built now: {', '.join(built)}")
        else:
            self.problems.add(f"{what}: '{value}' is not known", line, f"known: {', '.join(built)}")
        return default

    def read(self, found: dict[str, Entry], key: str, read: Callable[[yaml.Node], _T], default: _T) -> _T:
        """What ``read`` makes of a key's value; ``default`` where the key is not there."""
        return read(found[key].value) if key in found else default

    def size(self, found: dict[str, Entry], key: str, unit: str, least: float, most: float, default: float) -> float:
        """A number with its unit."""
        if key not in found:
            return default
        value = quantity(found[key].value, self.problems, key, (unit,), least, most)
        return default if value is None else value

    def names(self, node: yaml.Node, what: str) -> list[tuple[str, bool, Entry]]:
        """Entries of a mapping whose keys are structure names: (name, optional, entry); equal spellings are noted."""
        seen: dict[str, int] = {}
        result = []
        for entry in entries(node, self.problems, what):
            name, optional = split_optional(entry.key)
            if not normalise(name):
                self.problems.add(f"{what}: '{entry.key}' is no name of a structure", entry.line)
            elif normalise(name) in seen:
                first = seen[normalise(name)]
                self.problems.add(f"{what}: '{name}' is given twice, first on line {first}", entry.line)
            else:
                seen[normalise(name)] = entry.line
                result.append((name, optional, entry))
        return result

    def used(self, node: yaml.Node, what: str) -> list[tuple[str, Entry]]:
        """As :meth:`names`, for names that are used and not declared: a ``?`` says that they may be absent."""
        result = []
        for name, optional, entry in self.names(node, what):
            if optional:
                self.optional_uses.setdefault(name, entry.line)
            result.append((name, entry))
        return result

    def gray(self, node: yaml.Node, what: str) -> float | None:
        """A positive dose written in Gy."""
        return quantity(node, self.problems, what, ("Gy",), 0.01, _MOST_DOSE_GY)


def _switched_off(node: yaml.Node) -> bool:
    """Whether a key that is not built yet asks for nothing: empty, false or an empty list."""
    if isinstance(node, yaml.ScalarNode):
        return is_empty(node) or node.value.strip().casefold() in ("false", "no", "off")
    return not node.value
