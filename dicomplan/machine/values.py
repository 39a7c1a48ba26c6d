"""Values of a TOML table with their lines: types and ranges are checked, problems are collected, nothing is guessed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicomplan.errors import MachineError
from dicomplan.machine.toml_lines import KeyPath

FloatArray = NDArray[np.float64]


@dataclass
class Problems:
    """The problems found in one reading of a machine file; ``file`` is where it came from, or None."""

    file: str | Path | None = None
    found: list[MachineError] = field(default_factory=list)

    def add(self, message: str, line: int | None, hint: str | None = None, *, file: str | Path | None = None) -> None:
        """Note a problem at a 1-based ``line`` of the machine file, or of ``file``, a table that it names."""
        self.found.append(MachineError(message, file=file or self.file, line=line, hint=hint))

    def raise_all(self) -> None:
        """Raise one MachineError with all problems in order of lines, if there are any; its message is the first."""
        if not self.found:
            return
        own = None if self.file is None else str(self.file)
        problems = tuple(sorted(self.found, key=lambda one: (one.file != own, one.file or "", one.line or 0)))
        first, more = problems[0], len(problems) - 1
        count = f" (and {more} more problem{'s' if more > 1 else ''})" if more else ""
        raise MachineError(first.message + count, file=first.file, line=first.line, hint=first.hint, problems=problems)


@dataclass
class Table:
    """One table of a machine file.

    ``values`` as tomllib gives them, ``path`` of the table (empty: the whole file), ``lines`` by path. A value that is
    missing or wrong is noted as a problem and stands as NaN (numbers) or as an empty value: comparisons with it are
    False, so that checks between values pass it by. ``asked`` collects the keys of the grammar.
    """

    values: Mapping[str, object]
    path: KeyPath
    lines: Mapping[KeyPath, int]
    problems: Problems
    asked: list[str] = field(default_factory=list)

    def line(self, *keys: str | int) -> int:
        """Line of a key of this table (and of an item of its list); of the table itself where it is absent."""
        path = (*self.path, *keys)
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def note(self, message: str, *keys: str | int, hint: str | None = None) -> None:
        """Note a problem of a key of this table (and of an item of its list)."""
        indices = [f", item {key + 1}" for key in keys if isinstance(key, int)]
        where = ".".join(str(key) for key in (*self.path, *keys) if isinstance(key, str)) + "".join(indices)
        self.problems.add(f"{where}: {message}" if where else message, self.line(*keys), hint)

    def has(self, key: str) -> bool:
        """Whether the file gives this key."""
        if key not in self.asked:
            self.asked.append(key)
        return key in self.values

    def required(self, key: str) -> bool:
        """Whether the file gives this key; if not, that is a problem."""
        if self.has(key):
            return True
        name = ".".join(str(part) for part in (*self.path, key))
        self.problems.add(f"'{name}' is missing", self.line())
        return False

    def number(self, key: str, low: float, high: float, unit: str = "", default: float | None = None) -> float:
        """Number within ``low`` to ``high``; without a default the key is required."""
        if default is not None and not self.has(key):
            return default
        if default is None and not self.required(key):
            return math.nan
        return self._number(self.values[key], low, high, unit, key)

    def numbers(self, key: str, low: float, high: float, unit: str) -> FloatArray:
        """List of numbers, each within ``low`` to ``high``; empty if one of them is wrong."""
        value = self.values[key]
        if not isinstance(value, list):
            self.note(f"a list of numbers expected, {shown(value)} found", key)
            return np.empty(0)
        items = [self._number(item, low, high, unit, key, index) for index, item in enumerate(value)]
        return np.array(items, np.float64) if all(map(math.isfinite, items)) else np.empty(0)

    def interval(self, key: str, low: float, high: float, unit: str) -> tuple[float, float]:
        """Required list of two ascending numbers."""
        if not self.required(key):
            return math.nan, math.nan
        found = self.numbers(key, low, high, unit)
        value = self.values[key]
        if isinstance(value, list) and len(value) != 2:
            self.note(f"two numbers expected, {len(value)} found", key)
        elif len(found) == 2 and not found[0] < found[1]:
            self.note(f"the first of {found[0]:g} and {found[1]:g} {unit} must be the smaller", key)
        elif len(found) == 2:
            return float(found[0]), float(found[1])
        return math.nan, math.nan

    def pairs(self, key: str) -> list[tuple[float, float, int]]:
        """Rows of two numbers each, with their lines; empty if one of them is wrong."""
        value = self.values[key]
        rows = value if isinstance(value, list) else []
        if not rows:
            self.note(f"a list of pairs of numbers expected, {shown(value)} found", key)
        found: list[tuple[float, float, int]] = []
        for index, row in enumerate(rows):
            if not isinstance(row, list) or len(row) != 2:
                self.note(f"a pair of numbers expected, {shown(row)} found", key, index)
                continue
            first, second = (self._number(item, -math.inf, math.inf, "", key, index) for item in row)
            if math.isfinite(first) and math.isfinite(second):
                found.append((first, second, self.line(key, index)))
        return found if len(found) == len(rows) else []

    def flag(self, key: str) -> bool:
        """Required ``true`` or ``false``."""
        value = self.values[key] if self.required(key) else False
        if not isinstance(value, bool):
            self.note(f"true or false expected, {shown(value)} found", key)
        return value is True

    def text(self, key: str) -> str:
        """Required text in one line."""
        value = self.values[key] if self.required(key) else ""
        if key in self.values and not (isinstance(value, str) and value.strip() and value.isprintable()):
            self.note(f"text in one line expected, {shown(value)} found", key)
        return value.strip() if isinstance(value, str) else ""

    def texts(self, key: str) -> tuple[str, ...]:
        """List of texts; empty where the file does not give it."""
        value = self.values[key] if self.has(key) else []
        if not isinstance(value, list):
            self.note(f"a list of texts expected, {shown(value)} found", key)
            return ()
        for index, item in enumerate(value):
            if not (isinstance(item, str) and item.strip() and item.isprintable()):
                self.note(f"text in one line expected, {shown(item)} found", key, index)
        return tuple(str(item) for item in value)

    def table(self, key: str) -> Table | None:
        """The table of this key; None, and a problem, if the key is no table; None if it is absent."""
        if not self.has(key):
            return None
        value = self.values[key]
        if not isinstance(value, dict):
            self.note(f"a table expected, {shown(value)} found", key, hint=f"begin it with [{key}]")
            return None
        return Table(value, (*self.path, key), self.lines, self.problems)

    def refuse_unknown(self) -> None:
        """Note every key that was not asked for, with the nearest that was."""
        for key in self.values:
            if key not in self.asked:
                near = near_name(key, self.asked)
                hint = f"did you mean '{near}'?" if near else f"known: {', '.join(self.asked)}"
                self.problems.add(f"unknown key '{'.'.join(map(str, (*self.path, key)))}'", self.line(key), hint)

    def _number(self, value: object, low: float, high: float, unit: str, *keys: str | int) -> float:
        unit = f" {unit}" if unit else ""
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.note(f"a number expected, {shown(value)} found", *keys)
            return math.nan
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not (math.isfinite(number) and low <= number <= high):
            limits = f"is not within {low:g} to {high:g}{unit}" if math.isfinite(low) else "is no usable number"
            self.note(f"{number:g}{unit} {limits}", *keys)
            return math.nan
        return number


def shown(value: object) -> str:
    """What a TOML value is, for messages."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**15):
        return f"{value:.6g}" if isinstance(value, float) else str(value)
    if isinstance(value, str):
        return f"'{value if len(value) <= 40 else value[:37] + '...'}'" if value.strip() else "empty text"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, int):
        return "a very large number"
    return "a table" if isinstance(value, dict) else "a date or time"


def near_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest to ``name`` in spelling, or None if none is near."""
    by_folded = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(name.casefold(), list(by_folded), n=1, cutoff=0.6)
    return by_folded[near[0]] if near else None
