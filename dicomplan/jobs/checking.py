"""Which rule fits a study, and why the others do not: what ``watch --check`` prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dicomplan.errors import InputError
from dicomplan.jobs.contents import Content, read_contents
from dicomplan.jobs.rules import Rules
from dicomplan.jobs.scan import take_snapshot


@dataclass(frozen=True)
class Checked:
    """One structure set of a study: label or UID, name of the rule that fits and of its template, each rule's misfit."""

    structure_set: str
    rule: str | None
    template: str | None
    reasons: tuple[dict[str, str], ...]


def check_study(study: Path, rules: Rules) -> list[Checked]:
    """The rules held against each structure set of a folder, zip or file. Raises InputError where there is none."""
    paths = [study / name for name in sorted(take_snapshot(study).files)] if study.is_dir() else [study]
    objects: list[Content] = []
    for path in paths:
        try:
            objects += read_contents(path).objects
        except InputError:
            continue  # files that are no DICOM objects are left alone, as the service does
    sets = [one for one in objects if one.kind == "RTSTRUCT"]
    if not sets:
        raise InputError("no RTSTRUCT found: rules are held against a structure set", file=study)
    slices = [one for one in objects if one.kind == "CT"]
    checked = []
    for one in sets:
        own = [item for item in slices if one.structures and item.series_uid in one.structures.series] or slices
        found = rules.match(one, own)
        reasons = tuple({"name": rule.name, "misfit": rule.misfit(one, own)} for rule in rules.rules)
        label = one.structures.label if one.structures else ""
        checked.append(
            Checked(label or one.uid, found.name if found else None, found.recipe.name if found else None, reasons)
        )
    return checked
