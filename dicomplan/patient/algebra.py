"""The expression language of derived structures: text to a frozen tree, and its value on coverages.

Grammar (INTERFACE.md)::

    expr   = term { ("|" | "&" | "-") term }            left to right, equal precedence; parentheses rule
    term   = atom { ("+" | "-") margin }                binds tighter
    margin = number "mm" | "(" side number "mm" {"," side number "mm"} ")"
    atom   = name | "'" any name "'" | "(" expr ")"

Parsing loads neither numba nor scipy; evaluating does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from dicomplan.errors import TemplateError
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.case import Coverage
from dicomplan.patient.margins import SIDES, Margin

_TOKEN = re.compile(
    r"\s*(?:(?P<quoted>'[^']*')|(?P<number>\d+(?:\.\d+)?(?=\s*mm\b))"
    r"|(?P<bare>\d+(?:\.\d+)?(?![\w.]))|(?P<word>[^\W]\w*)|(?P<mark>[|&()+,\-])|(?P<other>\S))",
    re.UNICODE,
)
_DEEPEST = 50  # nesting that no clinic writes; keeps a hostile text from exhausting the stack
_LONGEST = 400  # tokens, for the same reason
_FARTHEST_MM = 500.0  # a margin beyond the size of a patient is a slip of the pen


@dataclass(frozen=True)
class Name:
    """A structure by its name, as written (without quotes)."""

    name: str


@dataclass(frozen=True)
class Grown:
    """``of`` expanded (``shrunk`` False) or shrunk by ``margin``."""

    of: Expression
    margin: Margin
    shrunk: bool = False


@dataclass(frozen=True)
class Combined:
    """Two structures combined: ``|`` union, ``&`` intersection, ``-`` the first without the second."""

    operator: Literal["|", "&", "-"]
    first: Expression
    second: Expression


Expression = Name | Grown | Combined
"""A parsed expression: frozen, comparable, hashable."""


class _Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str]] = []
        self.place = 0
        self.depth = 0
        for match in _TOKEN.finditer(text):
            kind = match.lastgroup or "other"
            value = match.group(kind)
            if kind == "other":
                hint = "a quote is not closed" if value == "'" else "names with such characters are quoted: 'A+B'"
                self.fail(f"unexpected '{value}'", hint)
            if kind == "bare":
                self.fail(f"the number {value} has no unit", f"a margin is written '{value} mm', a name is quoted")
            self.tokens.append((kind, value))
        if len(self.tokens) > _LONGEST:
            self.fail(f"it has more than {_LONGEST} words and signs", "split it into several derived structures")

    def fail(self, reason: str, hint: str | None = None) -> NoReturn:
        text = self.text.strip()
        shown = text if len(text) <= 200 else text[:200] + "..."
        raise TemplateError(f"expression '{shown}': {reason}", hint=hint)

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        index = self.place + ahead
        return self.tokens[index] if index < len(self.tokens) else ("end", "")

    def take(self, value: str) -> None:
        if self.peek()[1] != value or self.peek()[0] == "quoted":
            self.fail(f"'{value}' expected, {self.found()} found")
        self.place += 1

    def found(self) -> str:
        kind, value = self.peek()
        return "the end" if kind == "end" else f"'{value}'"

    def whole(self) -> Expression:
        if not self.tokens:
            self.fail("it is empty")
        result = self.expression()
        if self.peek()[0] == "word":
            self.fail(f"an operator expected, {self.found()} found", "names with blanks are quoted: 'left lung'")
        if self.peek()[0] != "end":
            self.fail(f"an operator (| & - +) or the end expected, {self.found()} found")
        return result

    def expression(self) -> Expression:
        result = self.term()
        while True:
            kind, value = self.peek()
            if kind != "mark" or value not in "|&-":
                return result
            self.place += 1
            second = self.term()
            operator: Literal["|", "&", "-"] = "|" if value == "|" else "&" if value == "&" else "-"
            result = Combined(operator, result, second)

    def term(self) -> Expression:
        result = self.atom()
        while self.peek() in (("mark", "+"), ("mark", "-")):
            sign = self.peek()[1]
            if not self.margin_follows():
                if sign == "-":
                    return result  # a difference of structures, which binds less
                self.place += 1
                self.fail(f"a margin expected after '+', {self.found()} found", "a union is written A | B")
            self.place += 1
            result = Grown(result, self.margin(), sign == "-")
        return result

    def margin_follows(self) -> bool:
        kind, value = self.peek(1)
        if kind == "number":
            return True
        if (kind, value) != ("mark", "("):
            return False
        # after '+' only a margin may stand; after '-' a bracket may also hold a structure that is named like a side
        return self.peek()[1] == "+" or (self.peek(2)[1] in SIDES and self.peek(3)[0] == "number")

    def millimetres(self) -> float:
        kind, value = self.peek()
        if kind != "number":
            self.fail(f"a number of mm expected, {self.found()} found")
        self.place += 2  # the number and its unit, which the token pattern saw
        if float(value) > _FARTHEST_MM:
            self.fail(f"a margin of {value} mm", f"at most {_FARTHEST_MM:g} mm")
        return float(value)

    def margin(self) -> Margin:
        if self.peek()[0] == "number":
            return Margin.uniform(self.millimetres())
        self.take("(")
        sides: dict[str, float] = {}
        while True:
            side = self.peek()[1]
            if side not in SIDES:
                self.fail(f"a side ({', '.join(SIDES)}) expected, {self.found()} found")
            if side in sides:
                self.fail(f"side '{side}' is given twice")
            self.place += 1
            sides[side] = self.millimetres()
            if self.peek()[1] != ",":
                break
            self.place += 1
        self.take(")")
        return Margin(**{f"{side}_mm": value for side, value in sides.items()})

    def atom(self) -> Expression:
        kind, value = self.peek()
        if kind == "quoted":
            self.place += 1
            if not value[1:-1].strip():
                self.fail("a quoted name is empty")
            return Name(value[1:-1].strip())
        if kind == "word":
            self.place += 1
            return Name(value)
        if (kind, value) == ("mark", "("):
            self.depth += 1
            if self.depth > _DEEPEST:
                self.fail(f"parentheses nested deeper than {_DEEPEST}")
            self.place += 1
            inner = self.expression()
            self.take(")")
            self.depth -= 1
            return inner
        if kind == "number":
            self.fail(f"a structure expected, the margin '{value} mm' found", "a margin follows a structure: A + 5 mm")
        self.fail(f"a structure expected, {self.found()} found")


def parse_expression(text: str) -> Expression:
    """Parse an expression of derived structures; see the module's text for the grammar.

    Raises TemplateError saying what was expected and what was found (the caller adds file and line).
    """
    return _Parser(text).whole()


def expression_names(expression: Expression) -> tuple[str, ...]:
    """Names of all structures in the expression, each once, in order of appearance."""
    if isinstance(expression, Name):
        return (expression.name,)
    if isinstance(expression, Grown):
        return expression_names(expression.of)
    both = expression_names(expression.first) + expression_names(expression.second)
    return tuple(dict.fromkeys(both))


def evaluate(expression: Expression, coverages: Mapping[str, Coverage | None], ct_grid: VoxelGrid) -> Coverage | None:
    """Value of the expression; ``coverages`` maps each of its names to a coverage, or to None if it is absent.

    Absent structures drop out: ``A | absent`` is A, ``A - absent`` is A, ``absent - A`` and ``A & absent`` are absent,
    and so is a margin round nothing; the result is None if everything dropped out. Covered fractions combine as
    ``a & b = min(a, b)``, ``a | b = max(a, b)``, ``a - b = a - min(a, b)``, so that volumes add up:
    |A or B| + |A and B| = |A| + |B| and |A without B| = |A| - |A and B|. An empty (not absent) result is a coverage of
    zeros. Raises KeyError for a name that ``coverages`` lacks.
    """
    if isinstance(expression, Name):
        return coverages[expression.name]
    if isinstance(expression, Grown):
        inner = evaluate(expression.of, coverages, ct_grid)
        if inner is None:
            return None
        from dicomplan.patient.margins import expand, shrink

        return (shrink if expression.shrunk else expand)(inner, expression.margin, ct_grid)
    first = evaluate(expression.first, coverages, ct_grid)
    second = evaluate(expression.second, coverages, ct_grid)
    if first is None:
        return second if expression.operator == "|" else None
    if second is None:
        return None if expression.operator == "&" else first
    return combine(expression.operator, first, second)


def combine(operator: Literal["|", "&", "-"], first: Coverage, second: Coverage) -> Coverage:
    """Union, intersection or difference of two coverages of one CT (rules: :func:`evaluate`).

    The result lies on a grid of the lattice of ``first``: a union on the one that holds both, else on its own.
    Raises ValueError unless both grids have the same axes.
    """
    grid = _common_grid(first.grid, second.grid) if operator == "|" else first.grid
    a, b = _on(first, grid), _on(second, grid)
    if operator == "|":
        fraction = np.maximum(a, b)
    elif operator == "&":
        fraction = np.minimum(a, b)
    else:
        fraction = a - np.minimum(a, b)
    return Coverage(grid, fraction)


def _offset(grid: VoxelGrid, other: VoxelGrid) -> tuple[int, int, int] | None:
    """Voxel offset (z, y, x) of ``other`` against ``grid`` if both lie on one lattice, else None."""
    if not grid.same_axes(other) or np.abs(np.subtract(grid.spacing_mm, other.spacing_mm)).max() > 1e-6:
        return None
    exact = grid.index_from_patient(other.origin_mm)
    whole = np.rint(exact)
    if np.abs(exact - whole).max() > 1e-3:
        return None
    return int(whole[0]), int(whole[1]), int(whole[2])


def _common_grid(grid: VoxelGrid, other: VoxelGrid) -> VoxelGrid:
    """The smallest grid on the lattice of ``grid`` that holds both."""
    spacing = grid.spacing_mm
    start, stop = [], []
    for axis in range(3):
        low, high = grid.edges_mm(axis)[0], other.edges_mm(axis)
        start.append(min(0, int(np.floor((high[0] - low) / spacing[axis] + 1e-3))))
        stop.append(max(grid.shape[axis], int(np.ceil((high[-1] - low) / spacing[axis] - 1e-3))))
    return grid.crop((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _on(coverage: Coverage, grid: VoxelGrid) -> NDArray[np.float32]:
    offset = _offset(grid, coverage.grid)
    if offset is None:
        from dicomplan.geometry.resample import box_average

        return box_average(coverage.fraction, coverage.grid, grid)
    if offset == (0, 0, 0) and grid.shape == coverage.grid.shape:
        return coverage.fraction
    out = np.zeros(grid.shape, dtype=np.float32)
    target, source = [], []
    for axis in range(3):
        low = max(offset[axis], 0)
        high = min(offset[axis] + coverage.grid.shape[axis], grid.shape[axis])
        if high <= low:
            return out
        target.append(slice(low, high))
        source.append(slice(low - offset[axis], high - offset[axis]))
    out[tuple(target)] = coverage.fraction[tuple(source)]
    return out
