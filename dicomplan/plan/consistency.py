"""What must fit together within a template: names, derived structures, numbers of segments."""

from __future__ import annotations

from dicomplan.patient.algebra import expression_names, parse_expression
from dicomplan.patient.names import normalise
from dicomplan.plan.template import DerivedStructure, PlanTemplate
from dicomplan.plan.yaml_nodes import Problems


def check_template(template: PlanTemplate, problems: Problems, delivery_line: int | None = None) -> None:
    """Note every contradiction within a template, at the line where it shows (that of ``delivery`` is passed in)."""
    _check_names(template, problems)
    for first, path in cycles(template.derived):
        problems.add(f"derived: {' needs '.join(path)}: a cycle", first.line)
    _check_segments(template, problems, delivery_line)


def _check_names(template: PlanTemplate, problems: Problems) -> None:
    owner: dict[str, tuple[str, int]] = {}
    for entry in template.structures:
        for spelling in (entry.name, *entry.synonyms):
            other, line = owner.setdefault(normalise(spelling), (entry.name, entry.line))
            if other != entry.name:
                message = f"structures: '{spelling}' stands for {entry.name} and for {other} (line {line})"
                problems.add(message, entry.line)
    for derived in template.derived:
        if normalise(derived.name) in owner:
            line = owner[normalise(derived.name)][1]
            problems.add(f"derived: '{derived.name}' is also a structure of line {line}", derived.line)
        if normalise(derived.name) == "body":
            problems.add("derived: BODY is the patient's outline and cannot be derived", derived.line)


def _check_segments(template: PlanTemplate, problems: Problems, line: int | None) -> None:
    most, beams = template.delivery.max_segments, len(template.beams.fields)
    if most is not None and most < beams:
        message = f"delivery.max_segments: {most} segments for {beams} beams; each beam needs at least one"
        problems.add(message, line)


def cycles(derived: tuple[DerivedStructure, ...]) -> list[tuple[DerivedStructure, tuple[str, ...]]]:
    """Cycles among derived structures: each once, as (one of them, names along the cycle back to it)."""
    by_name = {normalise(one.name): one for one in derived}
    needs = {key: _needs(one, by_name) for key, one in by_name.items()}
    found: list[tuple[DerivedStructure, tuple[str, ...]]] = []
    done: set[str] = set()
    for start in by_name:
        trail: list[str] = []
        # an explicit stack of (structure, how many of its needs were followed): a long chain must not end in recursion
        stack = [(start, 0)]
        while stack:
            key, followed = stack.pop()
            if followed == 0:
                if key in trail:
                    loop = [*trail[trail.index(key) :], key]
                    found.append((by_name[key], tuple(by_name[one].name for one in loop)))
                    continue
                if key in done:
                    continue
                trail.append(key)
            if followed < len(needs[key]):
                stack.extend([(key, followed + 1), (needs[key][followed], 0)])
            else:
                done.add(trail.pop())
    return found


def _needs(one: DerivedStructure, known: dict[str, DerivedStructure]) -> list[str]:
    names = (normalise(name) for name in expression_names(parse_expression(one.expression)))
    return [name for name in names if name in known]
