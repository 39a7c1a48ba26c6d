"""Goals as text: ``D95% >= 70 Gy`` to :class:`Goal` and back to Gy. Pure Python; numba and scipy stay unloaded."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal, NoReturn, cast

from dicomplan.errors import TemplateError
from dicomplan.metrics.goals import Goal, Metric, MetricKind

Unit = Literal["Gy", "%", "cc"]

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_UNIT = r"%|[A-Za-z][A-Za-z0-9]*"
_METRIC = re.compile(
    rf"(?:D?(?P<statistic>mean|max|min)|(?P<kind>DC|CV|D|V)\s*(?P<argument>{_NUMBER})\s*(?P<argument_unit>{_UNIT})?)"
    rf"\s*(?:\[\s*(?P<bracket_unit>{_UNIT})\s*\])?",
    re.IGNORECASE,
)
_LIMIT = re.compile(rf"(?P<value>{_NUMBER})\s*(?P<unit>{_UNIT})?")
_GOAL = re.compile(
    r"(?P<metric>[^<>=≤≥(]+?)\s*(?P<operator><=|>=|≤|≥|==|=|<|>)\s*(?P<limit>[^()<>=≤≥]+?)\s*"
    r"(?:\(\s*acceptable\s+(?P<acceptable>[^()]+?)\s*\))?",
    re.IGNORECASE,
)
_AT_MOST = {"<=": True, "≤": True, ">=": False, "≥": False}
_UNITS: dict[str, Unit] = {"gy": "Gy", "%": "%", "cc": "cc", "cm3": "cc"}
_FORMS = "a goal reads like D95% >= 70 Gy, D0.03cc <= 45 Gy, Dmean <= 26 Gy, V20Gy <= 30 % or CV17.5Gy >= 700 cc"


def _refuse(text: str, why: str, hint: str | None = None) -> NoReturn:
    raise TemplateError(f"goal '{text}': {why}", hint=hint)


def _unit(found: str, text: str) -> Unit:
    unit = _UNITS.get(found.lower())
    if unit is None:
        hint = "1 Gy = 100 cGy" if found.lower() == "cgy" else None
        _refuse(text, f"the unit '{found}' is not known; units are Gy, % and cc", hint)
    return unit


def parse_metric(text: str) -> tuple[Metric, Unit | None]:
    """Metric of its text, and the unit in square brackets (TG-263 ``D95%[Gy]``) or None.

    Accepted: ``Dmean Dmax Dmin`` (also ``Mean[Gy]``), ``D<x>%  D<x>cc  DC<x>%  DC<x>cc  V<x>Gy  V<x>%  CV<x>Gy  CV<x>%``;
    a ``%`` after V or CV is percent of the prescribed level. Names follow AAPM TG-263 (2018), section 9.
    Raises TemplateError that says what does not fit.
    """
    text = " ".join(text.split())
    match = _METRIC.fullmatch(text)
    if match is None:
        _refuse(text, "this is no metric", _FORMS)
    bracket = match["bracket_unit"]
    written = None if bracket is None else _unit(bracket, text)
    if match["statistic"] is not None:
        return Metric(cast(MetricKind, match["statistic"].lower())), written
    kind = cast(MetricKind, match["kind"].upper())
    if match["argument_unit"] is None:
        _refuse(text, f"the number after {kind} has no unit", _FORMS)
    argument, unit = float(match["argument"]), _unit(match["argument_unit"], text)
    if kind in ("D", "DC"):
        if unit == "Gy":
            _refuse(text, f"{kind} is followed by a volume (% or cc), not by a dose (Gy)", "V takes a dose: V20Gy")
        if argument == 0 or (unit == "%" and argument > 100):
            _refuse(text, f"{kind} takes a volume above 0 and not above 100 %", "Dmax and Dmin are the extremes")
    elif unit == "cc":
        _refuse(text, f"{kind} is followed by a dose (Gy, or % of the prescribed level), not by a volume (cc)")
    return Metric(kind, argument, unit), written


def _limit(text: str, metric: Metric, written: Unit | None, goal: str) -> tuple[float, Unit]:
    match = _LIMIT.fullmatch(text)
    if match is None:
        _refuse(goal, f"'{text}' is no limit; expected a number and its unit", _FORMS)
    value = float(match["value"])
    unit = written if match["unit"] is None else _unit(match["unit"], goal)
    if unit is None:
        _refuse(goal, f"the limit '{text}' has no unit", _FORMS)
    if written is not None and unit != written:
        _refuse(goal, f"units are mixed: [{written}] in the metric and {unit} in the limit")
    if metric.kind in ("V", "CV"):
        if unit == "Gy":
            _refuse(goal, f"units are mixed: {metric.name} is a volume, its limit is in % or cc, not in Gy")
        if unit == "%" and value > 100:
            _refuse(goal, f"a volume of {value:g} % is more than the whole structure")
    elif unit == "cc":
        _refuse(goal, f"units are mixed: {metric.name} is a dose, its limit is in Gy or % of the level, not in cc")
    return value, unit


def _parse(text: str, equality: bool) -> Goal:
    shown = " ".join(text.split())
    match = _GOAL.fullmatch(shown)
    if match is None:
        _refuse(shown, "this is no goal", _FORMS)
    operator = match["operator"]
    if equality:
        if operator not in ("=", "==") or match["acceptable"] is not None:
            _refuse(shown, "expected a dose that is to be reached exactly", "PTV_7000 D95% = 70 Gy")
    elif operator not in _AT_MOST:
        _refuse(shown, f"'{operator}' is not used in goals", "write <= or >=")
    metric, written = parse_metric(match["metric"])
    limit, unit = _limit(match["limit"], metric, written, shown)
    at_most = _AT_MOST.get(operator, False)
    if equality and metric.kind in ("V", "CV"):
        _refuse(shown, f"{metric.name} is a volume; only a dose can be scaled to be equal", "PTV_7000 D95% = 70 Gy")
    if match["acceptable"] is None:
        return Goal(metric, at_most, limit, unit, text=shown)
    acceptable, other = _limit(match["acceptable"], metric, written or unit, shown)
    if acceptable < limit if at_most else acceptable > limit:
        _refuse(shown, f"the acceptable limit {acceptable:g} {other} is stricter than the goal's own {limit:g} {unit}")
    return Goal(metric, at_most, limit, unit, acceptable, shown)


def parse_goal(text: str) -> Goal:
    """Goal of its text: ``METRIC <= LIMIT`` or ``>=`` (also ``≤ ≥``), optionally ``(acceptable LIMIT)``.

    Limits of doses are in Gy or ``%`` (of the level; see :func:`in_gray`), limits of volumes in ``%`` or ``cc``. The
    TG-263 form ``D95%[Gy] >= 70`` gives the unit with the metric. Blanks and the case of letters do not matter.
    Raises TemplateError with the reason, for mixed units too.
    """
    return _parse(text, equality=False)


def parse_equality(text: str) -> Goal:
    """Goal of ``D95% = 70 Gy`` (normalisation): a dose metric that is to be reached exactly.

    The value has ``at_most`` False. Raises TemplateError for anything but a dose with ``=``.
    """
    return _parse(text, equality=True)


def in_gray(goal: Goal, level_gy: float) -> Goal:
    """The goal with every percent of the level turned into Gy: limits of doses, and arguments of V and CV.

    ``level_gy`` is the prescribed dose of the whole course that 100 % stands for. Percent of volume stays; so does the
    text as written.
    """
    metric = goal.metric
    if metric.kind in ("V", "CV"):
        if metric.argument_unit != "%":
            return goal
        return replace(goal, metric=Metric(metric.kind, metric.argument * level_gy / 100.0, "Gy"))
    if goal.unit != "%":
        return goal
    acceptable = None if goal.acceptable is None else goal.acceptable * level_gy / 100.0
    return replace(goal, limit=goal.limit * level_gy / 100.0, unit="Gy", acceptable=acceptable)
