"""What a study is planned by: a template with its machine, whole in memory, so that a job keeps what it was accepted with."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from dicomplan.errors import TemplateError
from dicomplan.machine.library import load_machine, machine_names
from dicomplan.plan.library import load_template
from dicomplan.plan.parse import parse_template
from dicomplan.plan.template import PlanTemplate

TEMPLATE_FILE = "template.yaml"
"""Name of a job's copy of its template; its machine file lies beside it, with the tables."""
_MACHINE_FILE = "machine.toml"
_MACHINE_KEY = re.compile(r"(?m)(?<![\w-])machine\s*:\s*['\"]?")


@dataclass(frozen=True, eq=False)
class Recipe:
    """A template and its machine. ``files``: text by name of all that a job's folder needs.

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
    shipped = files("dicomplan.machine").joinpath("files")
    beside: dict[str, Traversable | Path] = {
        path.name: path for path in shipped.iterdir() if path.name.endswith(".csv")
    }
    place: Traversable | Path
    if found.machine in machine_names():
        machine = load_machine(found.machine)
        place = shipped.joinpath(f"{found.machine}.toml")
    else:
        path = Path(found.machine)
        if not path.is_absolute() and Path(template).is_file():
            path = Path(template).parent / path
        machine = load_machine(path)
        beside.update({table.name: table for table in sorted(path.parent.glob("*.csv"))})
        place = path
    text = place.read_bytes().decode("utf-8-sig")
    tables = {name: path.read_bytes().decode("utf-8-sig") for name, path in beside.items() if name in text}
    return Recipe(
        name=Path(template).stem if Path(template).suffix in (".yaml", ".yml") else template,
        template=found,
        files={TEMPLATE_FILE: _with_machine(found), _MACHINE_FILE: text, **tables},
        template_sha256=hashlib.sha256(found.source.encode()).hexdigest(),
        machine_sha256=hashlib.sha256(machine.source.encode()).hexdigest(),
    )


def _with_machine(template: PlanTemplate) -> str:
    """The template's text with its machine file named as the job's copy is."""
    text = template.source
    for match in _MACHINE_KEY.finditer(text):
        if text.startswith(template.machine, match.end()):
            changed = text[: match.end()] + _MACHINE_FILE + text[match.end() + len(template.machine) :]
            if parse_template(changed).machine == _MACHINE_FILE:
                return changed
    raise TemplateError("the machine's file name could not be found in the template's text", hint="write machine: FILE")
