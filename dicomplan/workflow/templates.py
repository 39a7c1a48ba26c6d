"""The shipped plan templates and machine files, as the command line shows them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dicomplan.machine.model import MachineModel
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
    from dicomplan.plan.library import template_text

    return template_text(name)


def check_template(path: Path) -> PlanTemplate:
    """Read a template file completely. Raises TemplateError, which lists every problem."""
    from dicomplan.plan.library import load_template

    return load_template(path)


def machine_summaries() -> tuple[Summary, ...]:
    """The shipped machines, with their descriptions."""
    from dicomplan.machine.library import load_machine, machine_names

    return tuple(Summary(name, load_machine(name).description) for name in machine_names())


def shipped_machine(name: str) -> str:
    """Text of a shipped machine file. Raises UsageError for an unknown name."""
    from dicomplan.machine.library import machine_text

    return machine_text(name)


def check_machine(path: Path) -> MachineModel:
    """Read a machine file, and the tables it names, completely. Raises MachineError, which lists every problem."""
    from dicomplan.machine.library import load_machine

    return load_machine(path)
