"""What a study is planned by: a template with its machine, whole in memory, so that a job keeps what it was accepted with."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dicomplan.errors import TemplateError
from dicomplan.machine.library import load_machine
from dicomplan.plan.library import load_template
from dicomplan.plan.parse import parse_template
from dicomplan.plan.template import PlanTemplate

TEMPLATE_FILE = "template.yaml"
"""Name of a job's copy of its template; a machine file lies beside it, with its tables."""
_MACHINE_FILE = "machine.toml"
_MACHINE_KEY = re.compile(r"(?m)(?<![\w-])machine\s*:\s*['\"]?")


@dataclass(frozen=True, eq=False)
class Recipe:
    """A template and its machine. ``files``: text by name of all that a job's folder needs (shipped machines are not in it).

    ``template_sha256`` and ``machine_sha256`` are of the texts as read: parts of a job's key.
    """

    name: str
    template: PlanTemplate
    files: Mapping[str, str]
    template_sha256: str
    machine_sha256: str


def load_recipe(template: str) -> Recipe:
    """The recipe of a shipped template's name or a template file. Raises UsageError, TemplateError, MachineError."""
    found = load_template(template)
    place = Path(found.machine)
    if place.suffix != ".toml":
        machine_source = load_machine(found.machine).source
        return _recipe(template, found, {TEMPLATE_FILE: found.source}, machine_source)
    if not place.is_absolute() and Path(template).is_file():
        place = Path(template).parent / place
    machine = load_machine(place)
    text = place.read_bytes().decode("utf-8-sig")
    # tables that do not lie beside the machine file are shipped ones, and stay where they are
    tables = {path.name: path.read_bytes().decode("utf-8-sig") for path in sorted(place.parent.glob("*.csv"))}
    tables = {name: table for name, table in tables.items() if name in text}
    copied = _with_machine(found)
    return _recipe(template, found, {TEMPLATE_FILE: copied, _MACHINE_FILE: text, **tables}, machine.source)


def _with_machine(template: PlanTemplate) -> str:
    """The template's text with its machine file named as the job's copy is."""
    text = template.source
    for match in _MACHINE_KEY.finditer(text):
        if text.startswith(template.machine, match.end()):
            changed = text[: match.end()] + _MACHINE_FILE + text[match.end() + len(template.machine) :]
            if parse_template(changed).machine == _MACHINE_FILE:
                return changed
    raise TemplateError("the machine's file name could not be found in the template's text", hint="write machine: FILE")


def _recipe(name: str, template: PlanTemplate, files: dict[str, str], machine: str) -> Recipe:
    return Recipe(
        name=Path(name).stem if Path(name).suffix in (".yaml", ".yml") else name,
        template=template,
        files=files,
        template_sha256=hashlib.sha256(template.source.encode()).hexdigest(),
        machine_sha256=hashlib.sha256(machine.encode()).hexdigest(),
    )
