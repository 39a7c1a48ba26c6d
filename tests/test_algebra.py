"""Expressions of derived structures: grammar, precedence, errors, and the volumes they give."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomplan.errors import TemplateError
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.algebra import Combined, Grown, Name, combine, evaluate, expression_names, parse_expression
from dicomplan.patient.case import Coverage
from dicomplan.patient.margins import Margin

A, B, C = Name("A"), Name("B"), Name("C")
GRID = VoxelGrid((6, 8, 8), (3.0, 1.0, 1.0), (0.0, 0.0, 0.0))
CT = GRID.crop((-10, -40, -40), (16, 48, 48))


def coverage(seed, start=(0, 0, 0), shape=(6, 8, 8)):
    grid = GRID.crop(start, tuple(s + n for s, n in zip(start, shape, strict=True)))
    return Coverage(grid, np.random.default_rng(seed).random(shape, dtype=np.float32))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A", A),
        ("A | B & C - A", Combined("-", Combined("&", Combined("|", A, B), C), A)),
        ("A | (B & C)", Combined("|", A, Combined("&", B, C))),
        ("A - B + 3 mm", Combined("-", A, Grown(B, Margin.uniform(3)))),
        ("A - 3 mm", Grown(A, Margin.uniform(3), True)),
        ("A-3mm", Grown(A, Margin.uniform(3), True)),
        ("(A - B) + 3 mm", Grown(Combined("-", A, B), Margin.uniform(3))),
        ("A + 5 mm - 2.5 mm", Grown(Grown(A, Margin.uniform(5)), Margin.uniform(2.5), True)),
        ("A + (left 5 mm, superior 10 mm)", Grown(A, Margin(left_mm=5, superior_mm=10))),
        ("A - (posterior 4 mm)", Grown(A, Margin(posterior_mm=4), True)),
        ("A - (left)", Combined("-", A, Name("left"))),
        ("'left lung + x' | B", Combined("|", Name("left lung + x"), B)),
        ("(PTV_7000 + 20 mm) - (PTV_7000 + 3 mm)", None),
    ],
)
def test_expressions_bind_as_the_grammar_says(text, expected):
    parsed = parse_expression(text)
    if expected is not None:
        assert parsed == expected
    else:
        assert parsed.operator == "-"
        assert expression_names(parsed) == ("PTV_7000",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("A +", "margin expected"),
        ("A + B", "margin expected"),
        ("A + 5", "no unit"),
        ("A |", "the end"),
        ("| A", "structure expected"),
        ("(A", "'\\)' expected"),
        ("A)", "operator"),
        ("left lung", "operator expected"),
        ("'A", "unexpected"),
        ("A + (up 5 mm)", "side"),
        ("A + (left 5 mm, left 3 mm)", "twice"),
        ("A + 900 mm", "900 mm"),
        ("5 mm + A", "structure expected"),
        ("A * B", "unexpected"),
        ("''", "empty"),
        ("(" * 60 + "A" + ")" * 60, "nested"),
        (" | ".join(["A"] * 300), "more than"),
    ],
)
def test_what_is_not_in_the_grammar_is_refused(text, message):
    with pytest.raises(TemplateError, match=message):
        parse_expression(text)


@given(text=st.text(alphabet="AB |&-+()'mleft,5. ", max_size=30))
def test_any_text_is_parsed_or_refused(text):
    with contextlib.suppress(TemplateError):
        assert expression_names(parse_expression(text))


def test_names_are_listed_once_in_order():
    assert expression_names(parse_expression("B | (A - B) + 3 mm | C")) == ("B", "A", "C")


@given(seed=st.integers(0, 10**6), start=st.tuples(*[st.integers(-5, 5)] * 3))
def test_fractions_conserve_volume(seed, start):
    one, other = coverage(seed), coverage(seed + 1, start, (4, 5, 6))
    union, both, rest = (combine(sign, one, other).volume_cc for sign in "|&-")
    assert union + both == pytest.approx(one.volume_cc + other.volume_cc, rel=1e-5)
    assert rest == pytest.approx(one.volume_cc - both, rel=1e-5, abs=1e-9)
    assert combine("|", other, one).volume_cc == pytest.approx(union, rel=1e-6)
    assert combine("&", other, one).volume_cc == pytest.approx(both, rel=1e-5, abs=1e-9)


def test_a_structure_with_itself():
    one = coverage(3)
    assert combine("|", one, one).volume_cc == combine("&", one, one).volume_cc == one.volume_cc
    assert combine("-", one, one).volume_cc == 0


def test_a_structure_on_another_lattice_keeps_its_volume_in_a_union():
    one = coverage(3)
    finer = VoxelGrid((4, 10, 10), (3.0, 0.5, 0.5), (20.25, 0.25, 3.0))
    other = Coverage(finer, np.ones(finer.shape, dtype=np.float32))
    assert combine("|", one, other).volume_cc == pytest.approx(one.volume_cc + other.volume_cc, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("A | X", "A"),
        ("X | A", "A"),
        ("A - X", "A"),
        ("A & X", None),
        ("X - A", None),
        ("X + 3 mm", None),
        ("(X & A) | A", "A"),
        ("X | X", None),
    ],
)
def test_absent_structures_drop_out(text, kept):
    given_coverage = coverage(1)
    result = evaluate(parse_expression(text), {"A": given_coverage, "X": None}, CT)
    assert result is (given_coverage if kept else None)


def test_a_name_that_is_not_given_is_an_error():
    with pytest.raises(KeyError):
        evaluate(A, {}, CT)


def test_a_ring_is_the_larger_without_the_smaller():
    solid = Coverage(GRID, np.ones(GRID.shape, dtype=np.float32))
    ring = evaluate(parse_expression("(A + 6 mm) - (A + 2 mm)"), {"A": solid}, CT)
    large = evaluate(parse_expression("A + 6 mm"), {"A": solid}, CT)
    small = evaluate(parse_expression("A + 2 mm"), {"A": solid}, CT)
    assert ring.volume_cc == pytest.approx(large.volume_cc - small.volume_cc, rel=2e-3)
    assert evaluate(parse_expression("((A + 6 mm) - (A + 2 mm)) & A"), {"A": solid}, CT).volume_cc < 1e-6
