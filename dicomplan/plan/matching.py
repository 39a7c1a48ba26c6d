"""Which ROI of a study stands for which name of a template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dicomplan.patient.case import Structure
from dicomplan.patient.names import guess_tg263, normalise
from dicomplan.plan.yaml_nodes import Problems, near_name

BODY = "BODY"
"""The name by which the patient's outline (the EXTERNAL ROI) is known, whatever it is called in the study."""


@dataclass
class Wanted:
    """A name that a template needs: its other spellings, whether it may be absent, and where it is first used."""

    name: str
    synonyms: tuple[str, ...] = ()
    optional: bool = False
    line: int = 0

    @property
    def spellings(self) -> set[str]:
        """Normalised name and synonyms."""
        return {normalise(name) for name in (self.name, *self.synonyms)}


def match_rois(wanted: Sequence[Wanted], rois: Sequence[Structure], problems: Problems) -> dict[str, str]:
    """ROI name of each wanted name that the study has.

    Case, blanks, ``_`` and ``-`` are ignored. A name that no ROI bears as such is looked for by the TG-263 name that an
    ROI's name stands for, among the ROIs that bear no other wanted name. ROIs without closed contours are absent. BODY
    is the ROI of type EXTERNAL, else one that is called so. Two ROIs for one name, and names that may not be absent
    and are, are noted as problems with the line and the ROIs that the study has.
    """
    drawn = [roi for roi in rois if roi.contours]
    by_spelling: dict[str, list[Structure]] = {}
    for roi in drawn:
        by_spelling.setdefault(normalise(roi.name), []).append(roi)
    direct = {one.name: [roi for spelling in one.spellings for roi in by_spelling.get(spelling, [])] for one in wanted}
    taken = {id(roi) for found in direct.values() for roi in found}
    free = [(guess, roi) for roi in drawn if id(roi) not in taken and (guess := guess_tg263(roi.name)) is not None]
    result: dict[str, str] = {}
    for one in wanted:
        found = direct[one.name]
        if one.name == BODY:
            found = _outline(drawn, found)
        if not found:
            found = [roi for guess, roi in free if _stands_for(guess, one)]
        if len(found) > 1:
            names = ", ".join(f"'{roi.name}'" for roi in sorted(found, key=lambda roi: roi.number))
            hint = "rename one, or name under structures only the spelling that is meant"
            problems.add(f"'{one.name}' matches {len(found)} ROIs of the study: {names}", one.line or None, hint)
        elif found:
            result[one.name] = found[0].name
        elif not one.optional and one.name != BODY:
            _missing(one, rois, problems)
    return result


def _stands_for(guess: str, one: Wanted) -> bool:
    return normalise(guess) in one.spellings or guess == guess_tg263(one.name)


def _outline(drawn: list[Structure], called_so: list[Structure]) -> list[Structure]:
    external = [roi for roi in drawn if roi.roi_type.upper() == "EXTERNAL"]
    if len(external) > 1:
        # of several outlines the one that bears the name is meant
        named = [roi for roi in external if any(roi is other for other in called_so)]
        return named or external
    return external or called_so


def _missing(one: Wanted, rois: Sequence[Structure], problems: Problems) -> None:
    empty = [roi.name for roi in rois if not roi.contours and normalise(roi.name) in one.spellings]
    names = [roi.name for roi in rois if roi.contours]
    near = near_name(one.name, names)
    hint = f"did you mean '{near}'? " if near else ""
    hint += f"the study has: {', '.join(names) or 'no structure with closed contours'}"
    why = f"; its ROI '{empty[0]}' has no closed contours" if empty else ""
    problems.add(f"structure '{one.name}' is not in the study{why}", one.line or None, hint)
