"""A first template from a study's ROIs: targets with the doses that their names state, organs with the usual goals.

The draft is text for a person to finish: what the names do not tell is marked with ``DECIDE``. It can be read as it is
(:func:`dicomplan.plan.parse.parse_template`) and finds every ROI it names in the study that it was drafted from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dicomplan.errors import TemplateError
from dicomplan.metrics.grammar import parse_goal
from dicomplan.patient.case import Structure
from dicomplan.patient.names import guess_tg263, normalise
from dicomplan.plan.matching import BODY
from dicomplan.plan.usual_goals import SOURCES, usual_goals

UNKNOWN_DOSE_GY = 1.0
"""Stands for a dose that no name states: nobody takes it for a prescription."""

_KINDS = ("PTV", "ITV", "CTV", "GTV")
_NAMED = re.compile(r"^(PTV|ITV|CTV|GTV)(?![a-z])", re.IGNORECASE)
_HELPER = re.compile(r"^z|opt|eval|ring|help|minus|cool|push|\bexp", re.IGNORECASE)
_STATED = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)\s*_?(c?Gy)\b", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)(?![\d.])")
_MARGIN = re.compile(r"\d+(?:\.\d+)?\s*[mc]m\b", re.IGNORECASE)
_TIMES = re.compile(r"\d\s*x\s*\d", re.IGNORECASE)
_LEAST_GY, _MOST_GY = 10.0, 100.0
_FALLOFF_MM = 8  # room for the dose to fall from one level to the next
_LUNGS = ("Lung_L", "Lung_R")
_BEYOND = 1.1  # a goal at more than so many times the highest level asks nothing


@dataclass(frozen=True)
class _Target:
    """A target of the draft: name in the template, the ROI's own, course dose in Gy or None."""

    name: str
    roi: str
    dose_gy: float | None


@dataclass(frozen=True)
class _Organ:
    """An organ of the draft: TG-263 name, the ROI's own, whether something hard is asked of it, and its goals."""

    name: str
    roi: str
    hard: tuple[str, ...]
    goals: tuple[str, ...]


def stated_dose_gy(name: str) -> float | None:
    """Course dose in Gy that a target's name states: ``PTV70``, ``PTV_5600``, ``PTV 50.4Gy``, ``PTV_5040cGy``; else None.

    A number with its unit counts before one without; of those without, 10 to 100 are Gy and 1000 to 10000 cGy, as in
    TG-263's rule for targets (AAPM, 2018). Several different doses, or a product such as ``20x3``, state none.
    """
    if _TIMES.search(name):
        return None
    text = _MARGIN.sub(" ", name.replace("_", " "))
    with_unit = {float(number) * (0.01 if unit.casefold() == "cgy" else 1.0) for number, unit in _STATED.findall(text)}
    plain = (float(number) for number in _NUMBER.findall(text))
    found = with_unit or {
        value if value <= _MOST_GY else value / 100.0
        for value in plain
        if _LEAST_GY <= value <= _MOST_GY or 100.0 * _LEAST_GY <= value <= 100.0 * _MOST_GY
    }
    found = {round(value, 4) for value in found if 0.0 < value <= _MOST_GY}
    return found.pop() if len(found) == 1 else None


def draft_template(rois: Sequence[Structure]) -> str:
    """YAML text of a template for the ROIs of a study. Raises TemplateError if none with contours is a target."""
    return "\n".join(_Draft(rois).lines()) + "\n"


class _Draft:
    """What is known of the ROIs, then the lines."""

    def __init__(self, rois: Sequence[Structure]) -> None:
        drawn = [roi for roi in rois if roi.contours and normalise(roi.name)]
        self.empty = [roi.name for roi in rois if not roi.contours]
        by_name: dict[str, list[Structure]] = {}
        for roi in drawn:
            by_name.setdefault(normalise(roi.name), []).append(roi)
        self.doubles = [roi.name for same in by_name.values() if len(same) > 1 for roi in same]
        single = [same[0] for same in by_name.values() if len(same) == 1]
        self.external = [roi for roi in single if roi.roi_type.upper() == "EXTERNAL"]
        rest = [roi for roi in single if roi.roi_type.upper() != "EXTERNAL" and guess_tg263(roi.name) != BODY]
        # every spelling that some ROI bears: a name of the draft must not mean another ROI by chance
        self.taken = set(by_name) | {normalise(BODY), "targets"}
        kinds = {roi.name: _kind(roi) for roi in rest}
        self.kind = next((kind for kind in _KINDS if kind in kinds.values()), None)
        if self.kind is None:
            names = ", ".join(roi.name for roi in drawn) or "no ROI with contours"
            raise TemplateError("no ROI of the study is a target, by type or by name", hint=f"the study has: {names}")
        chosen = [roi for roi in rest if kinds[roi.name] == self.kind]
        others = [roi for roi in rest if kinds[roi.name] is None]
        self.not_aimed = [roi.name for roi in rest if kinds[roi.name] not in (None, self.kind)]
        guesses = [guess_tg263(roi.name) for roi in (*chosen, *others)]
        self.ambiguous = {name for name in guesses if name is not None and guesses.count(name) > 1}
        self.targets = self._targets(chosen)
        self.highest_gy = max((one.dose_gy for one in self.targets if one.dose_gy is not None), default=None)
        self.organs, self.undecided = self._organs(others)
        self.all_targets, self.outside, self.ring = (self._unused(name) for name in ("All_Targets", "Outside", "Ring"))
        self.low = {
            target.name: self._unused(f"{target.name}_Low")
            for target in self.targets
            if target.dose_gy is not None and self._higher(target)
        }
        organs = {organ.name for organ in self.organs}
        # what one lung is allowed is not what both are: the usual goals are about both together
        self.lungs = "" if "Lungs" in organs or not organs & set(_LUNGS) else self._unused("Lungs_Eval")

    def _name(self, roi: Structure) -> str:
        """A name for the template that is the ROI's alone: its TG-263 name, else its own, fit for expressions."""
        guess = guess_tg263(roi.name)
        if guess is not None and guess not in self.ambiguous:
            others = {normalise(guess)} & (self.taken - {normalise(roi.name)})
            if not others:
                self.taken.add(normalise(guess))
                return guess
        plain = re.sub(r"\W+", "_", roi.name).strip("_") or "ROI"
        plain = plain if re.search(r"[^\W\d_]", plain) else f"ROI_{plain}"
        if normalise(plain) == normalise(roi.name):
            return plain
        return self._unused(plain)

    def _unused(self, wanted: str) -> str:
        name, count = wanted, 1
        while normalise(name) in self.taken:
            count += 1
            name = f"{wanted}_{count}"
        self.taken.add(normalise(name))
        return name

    def _targets(self, chosen: Sequence[Structure]) -> list[_Target]:
        """Highest first, those without a dose last."""
        found = [_Target(self._name(roi), roi.name, stated_dose_gy(roi.name)) for roi in chosen]
        return sorted(found, key=lambda one: -(one.dose_gy or 0.0))

    def _organs(self, others: Sequence[Structure]) -> tuple[list[_Organ], list[str]]:
        """Organs that something usual is asked of, and the names of the ROIs that a person must decide on."""
        organs, undecided = [], []
        for roi in others:
            guess = guess_tg263(roi.name)
            hard, goals = ((), ()) if guess is None or guess in self.ambiguous else usual_goals(guess)
            hard, goals = (tuple(text for text in texts if self._asks(text)) for texts in (hard, goals))
            if hard or goals:
                organs.append(_Organ(self._name(roi), roi.name, hard, goals))
            else:
                undecided.append(roi.name)
        return organs, undecided

    def _asks(self, text: str) -> bool:
        """Whether a goal can be broken at the doses prescribed."""
        if self.highest_gy is None:
            return True
        goal = parse_goal(text)
        dose = goal.metric.argument if goal.metric.kind in ("V", "CV") else goal.limit
        return dose <= _BEYOND * self.highest_gy

    # the text

    def lines(self) -> Iterator[str]:
        """The lines of the template."""
        yield "dicomplan: 1"
        yield "name: Draft # DECIDE"
        yield ""
        yield "# Drafted from the ROI names of a study. For research only. DECIDE marks what a person must settle; the goals of"
        yield f"# organs are usual ones ({SOURCES}) and know nothing of this patient."
        yield from self._remarks()
        yield from self._prescription()
        yield ""
        yield "machine: generic_6mv # DECIDE: see `dicomplan machines list`"
        yield ""
        yield "structures: # canonical (TG-263) name: the ROI's own; ? may be absent"
        for target in self.targets:
            yield f"  {_key(target.name)}: {_spellings(target.name, target.roi)}"
        for organ in self.organs:
            key = organ.name if organ.hard else f"{organ.name}?"
            yield f"  {_key(key)}: {_spellings(organ.name, organ.roi)}"
        yield ""
        yield from self._derived()
        yield ""
        yield "beams:"
        yield "  technique: imrt"
        yield "  isocenter: targets"
        yield "  gantry: {count: 9} # DECIDE: number and angles"
        yield ""
        yield from self._asked()
        yield ""
        yield "dose: {grid: 3 mm, influence: pencil_beam, final: collapsed_cone}"
        yield "delivery: {mode: step_and_shoot, max_segments: 100}"

    def _remarks(self) -> Iterator[str]:
        if len(self.external) > 1:
            yield from _listed("DECIDE: several ROIs are of type EXTERNAL: ", [roi.name for roi in self.external])
        if not self.external:
            yield "# No ROI is of type EXTERNAL: the patient's outline is an ROI called BODY, else it is found in the CT."
        if self.kind != "PTV":
            yield f"# DECIDE: there is no PTV; the {self.kind}s are taken as they are, without a margin."
        for what, names in (
            ("two ROIs, or more, stand for one name", self.doubles),
            ("other targets, nothing is asked of them", self.not_aimed),
            ("nothing usual is known to ask of these at this dose", self.undecided),
        ):
            if names:
                yield from _listed(f"DECIDE: {what}: ", names)
        if self.empty:
            yield from _listed("Without contours: ", self.empty)

    def _prescription(self) -> Iterator[str]:
        yield "prescription:"
        if self.highest_gy is None:
            yield "  fractions: 1 # DECIDE"
        else:
            yield f"  fractions: {max(1, round(self.highest_gy / 2.0))} # DECIDE: supposed to be of about 2 Gy"
        yield "  targets:"
        for target in self.targets:
            if target.dose_gy is None:
                yield f"    {_key(target.name)}: {UNKNOWN_DOSE_GY:g} Gy # DECIDE: the name states no dose; this one stands for it"
            else:
                yield f"    {_key(target.name)}: {target.dose_gy:g} Gy # DECIDE: as the name says"

    def _higher(self, target: _Target) -> list[str]:
        return [one.name for one in self.targets if (one.dose_gy or 0.0) > (target.dose_gy or 0.0)]

    def _derived(self) -> Iterator[str]:
        yield "derived:"
        yield f"  {self.all_targets}: {' | '.join(one.name for one in self.targets)}"
        for target in self.targets:
            if target.name in self.low:
                higher = self._higher(target)
                far = higher[0] if len(higher) == 1 else f"({' | '.join(higher)})"
                yield f"  {_key(self.low[target.name] + '?')}: {target.name} - ({far} + {_FALLOFF_MM} mm)"
        if self.lungs:
            lungs = " | ".join(organ.name for organ in self.organs if organ.name in _LUNGS)
            yield f"  {_key(self.lungs + '?')}: ({lungs}) - {self.all_targets}"
        yield f"  {self.outside}: {BODY} - {self.all_targets}"
        yield f"  {self.ring}: (({self.all_targets} + 40 mm) - ({self.all_targets} + 20 mm)) & {BODY}"

    def _asked(self) -> Iterator[str]:
        hard = [organ for organ in self.organs if organ.hard]
        if hard:
            yield "constraints: # hard: the plan fails when one is broken on the final dose; DECIDE"
            for organ in hard:
                yield f"  {_key(organ.name)}: {_texts(organ.hard)}"
            yield ""
        yield "goals: # in order of priority; DECIDE"
        lead = "- "
        for target in self.targets:
            asked = ["D98% >= 95 %"] if self._higher(target) else ["D98% >= 95 %", "D2% <= 107 %"]
            yield f"  {lead}{_key(target.name)}: {_texts(asked)}"
            lead = "  "
        wanted = [(organ.name, organ.goals) for organ in self.organs if organ.goals]
        wanted = [(name, goals) for name, goals in wanted if name not in _LUNGS]
        if self.lungs:
            goals = tuple(text for text in usual_goals("Lungs")[1] if self._asks(text))
            wanted += [(self.lungs, goals)] if goals else []
        for names in (wanted, [(low, ("D5% <= 110 %",)) for low in self.low.values()]):
            for index, (name, goals) in enumerate(names):
                yield f"  {'  ' if index else '- '}{_key(name)}: {_texts(goals)}"
        yield f"  - {self.outside}: [D1cc <= 107 %]"
        level = self.highest_gy or UNKNOWN_DOSE_GY
        yield f"  - {self.ring}: [Dmean <= {0.45 * level:.3g} Gy]"


def _kind(roi: Structure) -> str | None:
    """PTV, ITV, CTV or GTV, by type, else by name; None for what is no target, helpers such as ``zPTV_opt`` included."""
    named = _NAMED.match(roi.name.lstrip("_ "))
    kind = named[1].upper() if named else roi.roi_type.upper()
    return kind if kind in _KINDS and not _HELPER.search(roi.name) else None


def _key(name: str) -> str:
    """A name as a YAML key."""
    return name if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) and not _is_word(name) else _quoted(name)


def _is_word(name: str) -> bool:
    return name.casefold() in ("yes", "no", "on", "off", "true", "false", "null", "y", "n")


def _quoted(text: str) -> str:
    """In double quotes, as YAML 1.2 section 5.7 escapes what cannot be printed."""
    shown = (
        f"\\{character}" if character in '"\\' else character if character.isprintable() else f"\\U{ord(character):08X}"
        for character in text
    )
    return f'"{"".join(shown)}"'


def _spellings(name: str, roi: str) -> str:
    return "[]" if normalise(name) == normalise(roi) else f"[{_quoted(roi)}]"


def _texts(goals: Sequence[str]) -> str:
    return f"[{', '.join(goals)}]"


def _listed(lead: str, names: Sequence[str]) -> Iterator[str]:
    """Names as lines of a comment."""
    line = f"# {lead}"
    for index, name in enumerate(names):
        shown = "".join(character if character.isprintable() else "?" for character in name)
        shown += "" if index == len(names) - 1 else ", "
        if len(line) + len(shown) > 118 and not line.endswith(": "):
            yield line.rstrip()
            line = "#   "
        line += shown
    yield line.rstrip()
