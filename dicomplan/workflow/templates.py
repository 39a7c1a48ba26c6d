"""The shipped plan templates and machine files, as the command line shows them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dicomplan.errors import UsageError
from dicomplan.plan.template import PlanTemplate


@dataclass(frozen=True)
class Summary:
    """``name`` under which a template or machine is called, and what it is in one line."""

    name: str
    description: str


def template_summaries() -> tuple[Summary, ...]:
    """The shipped templates, with their own names as descriptions."""
    from dicomplan.plan.library import load_template, template_names

    return tuple(Summary(name, load_template(name).name) for name in template_names())


def shipped_template(name: str) -> str:
    """YAML text of a shipped template. Raises UsageError for an unknown name."""
    from dicomplan.plan.library import template_names, template_text

    _known(name, tuple(template_names()), "template", "dicomplan templates list")
    return template_text(name)


def check_template(path: Path) -> PlanTemplate:
    """Read a template file completely. Raises TemplateError, which lists every problem."""
    from dicomplan.plan.library import load_template

    return load_template(str(path.resolve()))


def machine_summaries() -> tuple[Summary, ...]:
    """The shipped machines, with their descriptions."""
    from dicomplan.machine.library import load_machine, machine_names

    return tuple(Summary(name, load_machine(name).description) for name in machine_names())


def shipped_machine(name: str) -> str:
    """Text of a shipped machine file. Raises UsageError for an unknown name."""
    from dicomplan.machine.library import machine_names, machine_text

    _known(name, tuple(machine_names()), "machine", "dicomplan machines list")
    return machine_text(name)


def _known(name: str, names: tuple[str, ...], kind: str, command: str) -> None:
    if name not in names:
        raise UsageError(f"no {kind} is called '{name}'; there are: {', '.join(names)}", hint=f"see {command}")
