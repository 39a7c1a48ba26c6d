"""The job ``machines commission``: measurements in, a machine file and a report out."""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from dicomplan.errors import UsageError
from dicomplan.events import Cancel, Progress, ProgressCallback, ignore_progress
from dicomplan.machine.model import MachineModel

_NAME_LENGTH = 16


@dataclass(frozen=True)
class CommissionRequest:
    """``data``: files and folders of measurements; ``output``: the machine file (.toml); ``base``: the machine whose
    geometry and limits are taken, a shipped name or a machine file; ``name`` of the new machine (None: of the file)."""

    data: tuple[Path, ...]
    output: Path
    base: str = "generic_6mv"
    name: str | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class CommissionOutcome:
    """The machine, where it and its report lie, the table of residuals as ``lines``, and all as a ``document``."""

    machine: MachineModel
    output: Path
    report: Path
    lines: tuple[str, ...]
    document: dict[str, object]


def run_commission(
    request: CommissionRequest, progress: ProgressCallback = ignore_progress, cancel: Cancel | None = None
) -> CommissionOutcome:
    """Fit the beam of the base machine to the measurements; write the machine file and, beside it, ``.html``.

    Raises UsageError for the output's place, InputError for unreadable measurements (file and line), MachineError for the
    base machine.
    """
    report_path = request.output.with_suffix(".html")
    _check_output(request, report_path)
    from dicomplan.commissioning.read import read_measurements
    from dicomplan.machine.library import load_machine

    base = load_machine(request.base)
    measured = read_measurements(request.data)
    from dicomplan.commissioning.commission import commission
    from dicomplan.commissioning.report import report_html
    from dicomplan.commissioning.result import commissioned_machine, document, residual_lines
    from dicomplan.machine.parse import parse_machine
    from dicomplan.machine.write import machine_file_text

    done = commission(
        base, measured, report=lambda stage, share: progress(Progress("commission", stage, share)), cancel=cancel
    )
    name = request.name or re.sub(r"[^A-Za-z0-9_.-]", "_", request.output.stem)[:_NAME_LENGTH]
    machine = commissioned_machine(done, name, f"Commissioned on the geometry of {base.name}")
    text = machine_file_text(machine, (f"Written by `dicomplan machines commission`, on the geometry of {base.name}.",))
    machine = parse_machine(text, file=request.output)  # what is written can be read
    lines = tuple(residual_lines(done))
    _write_all({report_path: report_html(done, machine), request.output: text})
    progress(Progress("commission", "done", 1.0))
    paths = {"machine_file": str(request.output), "report": str(report_path)}
    return CommissionOutcome(
        machine, request.output, report_path, lines, {"schema": 1, "name": machine.name, **paths, **document(done)}
    )


def _check_output(request: CommissionRequest, report: Path) -> None:
    if request.output.suffix != ".toml":
        raise UsageError("the output is a machine file, its name ends with .toml", file=request.output)
    if not request.output.parent.is_dir():
        raise UsageError("there is no such folder", file=request.output.parent)
    for path in (request.output, report):
        if path.exists() and not (request.overwrite and path.is_file()):
            raise UsageError("there is such a file already", file=path, hint="--overwrite replaces it")
        if any(one.exists() and path.exists() and one.samefile(path) for one in request.data):
            raise UsageError("the output is one of the measurements", file=path)
    if not os.access(request.output.parent, os.W_OK):
        raise UsageError("the folder cannot be written to", file=request.output.parent)
    if request.name is not None and not 1 <= len(request.name) <= _NAME_LENGTH:
        raise UsageError(f"a machine's name has at most {_NAME_LENGTH} characters")


def _write_all(texts: dict[Path, str]) -> None:
    """Each file is there as a whole, or not."""
    partial = {path: path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}") for path in texts}
    try:
        for path, text in texts.items():
            partial[path].write_text(text, encoding="utf-8")
        for path in texts:
            partial[path].replace(path)
    except OSError as error:
        raise UsageError(f"the output cannot be written: {error.strerror or error}") from None
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
