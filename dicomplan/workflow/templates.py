"""The shipped plan templates and machine files, as the command line shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dicomplan.errors import InputError, UsageError
from dicomplan.events import ProgressCallback, ignore_progress
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


def draft_template(
    study: Sequence[Path], structure_set: str | None = None, progress: ProgressCallback = ignore_progress
) -> str:
    """YAML text of a first template for the ROIs of a study (:func:`dicomplan.plan.draft.draft_template`).

    Only the structure set is looked at. ``structure_set``: its UID, label or file name, where the study has several.
    Raises UsageError for a path or structure set that is not there, InputError if there is none or several are meant,
    TemplateError if no ROI is a target.
    """
    from dicomplan.dicom import attributes as at
    from dicomplan.dicom.files import pydicom_silenced, scan_study
    from dicomplan.dicom.read_structures import read_structures
    from dicomplan.plan import draft

    with pydicom_silenced():
        sets = scan_study(study, progress).of_modality("RTSTRUCT")
    if not sets:
        raise InputError("no RTSTRUCT found: a template is drafted from ROI names", tag=at.tag_name("Modality"))
    if structure_set is not None:
        keywords = ("SOPInstanceUID", "StructureSetLabel")
        names = {item.uid: {Path(item.file).name, *(at.text(item.header, one) for one in keywords)} for item in sets}
        sets = tuple(item for item in sets if structure_set in names[item.uid])
        if not sets:
            raise UsageError(f"no structure set is '{structure_set}'", hint="give its UID, label or file name")
    if len(sets) > 1:
        listed = "; ".join(f"{item.uid} in {item.file}" for item in sets)
        raise InputError(f"{len(sets)} structure sets could be meant: {listed}", hint="choose one with --structure-set")
    with pydicom_silenced():
        structures, _, _ = read_structures(sets[0].header, file=sets[0].file, frame_of_reference_uid="")
    return draft.draft_template(structures)


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
