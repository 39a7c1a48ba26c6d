"""The keys of a template: one table that the parser, its messages and the JSON Schema share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from dicomplan.plan.template import ObjectiveType

NEWEST_VERSION = 1
"""The newest version of the template grammar that is known."""

Schema = dict[str, object]


@dataclass(frozen=True)
class Key:
    """One key: what it is, the JSON Schema of its value, whether it must be there, whether it is built yet.

    ``section`` names the table of the keys below it; ``unbuilt`` lists values that INTERFACE.md has and that are refused
    until they are built.
    """

    description: str
    schema: Mapping[str, object] = field(default_factory=dict)
    required: bool = False
    section: str = ""
    built: bool = True
    unbuilt: tuple[str, ...] = ()


def _choice(description: str, built: str, *unbuilt: str) -> Key:
    return Key(f"{description} Not built yet: {', '.join(unbuilt)}.", {"enum": [built]}, unbuilt=unbuilt)


_TEXT: Schema = {"type": "string", "minLength": 1}
_DOSE: Schema = {"type": "string", "pattern": r"^[0-9.]+\s*Gy$"}
_LENGTH: Schema = {"type": "string", "pattern": r"^[0-9.]+\s*mm$"}
_ANGLE: Schema = {"type": "number", "minimum": 0, "exclusiveMaximum": 360}
_NAMES: Schema = {"type": ["array", "null"], "items": {"type": ["string", "number", "boolean"]}}
_GOAL: Schema = {"type": "string", "description": "such as D95% >= 70 Gy, Dmean <= 26 Gy (acceptable 30 Gy)"}
_GOALS: Schema = {"type": "object", "additionalProperties": {"type": "array", "items": _GOAL}}


def _named(values: Mapping[str, object]) -> Schema:
    return {"type": ["object", "null"], "additionalProperties": dict(values)}


SECTIONS: dict[str, dict[str, Key]] = {
    "": {
        "dicomplan": Key(
            f"Version of this grammar; the newest known is {NEWEST_VERSION}.", {"const": NEWEST_VERSION}, True
        ),
        "name": Key("What the plan is, for people; it stands in the report.", _TEXT),
        "prescription": Key("Fractions and the prescribed course dose of each target.", required=True, section="rx"),
        "machine": Key("Name of a shipped machine, or a machine file.", _TEXT),
        "structures": Key(
            "Canonical (TG-263) names, each with other spellings found in the clinic; a name with ? may be absent.",
            _named(_NAMES),
        ),
        "derived": Key(
            "Structures made of others: A | B, A & B, A - B, A + 5 mm, (A + 20 mm) - B, A + (left 3 mm, right 5 mm).",
            _named(_TEXT),
        ),
        "density": Key(
            "Mass density that replaces the CT's inside a structure.",
            _named({"type": "string", "pattern": r"^[0-9.]+\s*g/cm3$"}),
        ),
        "body": Key("What lies outside the body, and what else takes part in the dose calculation.", section="body"),
        "beams": Key("Technique, isocentre and angles of the beams.", required=True, section="beams"),
        "constraints": Key(
            "Hard limits: the plan fails when one is broken on the final dose.", {**_GOALS, "type": ["object", "null"]}
        ),
        "goals": Key(
            "A wish list, judged on the final dose: groups in order of priority, the first group first.",
            {"type": ["array", "null"], "items": _GOALS},
        ),
        "objectives": Key(
            "Terms of the objective function; left out, they are derived from constraints and goals.", section="terms"
        ),
        "slack": Key(
            "By how much a goal that was not met, or was bettered, may get worse again for later groups, in % of its dose;"
            " 0.5 % if left out.",
            {"type": "string", "pattern": r"^[0-9.]+\s*%$"},
        ),
        "skin": Key(
            "Points of targets this near under the skin are asked no dose, since it builds up there; 4 mm if left out."
            " Goals are judged on the whole target all the same.",
            _LENGTH,
        ),
        "flash": Key(
            "Beams whose edge lies at the skin open so far beyond it, for breathing and swelling; none if left out.",
            _LENGTH,
        ),
        "robust": Key("Set-up errors that the plan is to withstand; none if left out.", section="robust"),
        "dose": Key("Dose grid and engines.", section="dose"),
        "delivery": Key("How the fluence is delivered.", section="delivery"),
        "report": Key("Additional parts of the report.", section="report"),
    },
    "rx": {
        "fractions": Key("Number of fractions.", {"type": "integer", "minimum": 1, "maximum": 100}, True),
        "targets": Key(
            "Targets and their course dose, such as PTV_7000: 70 Gy; a name with ? may be absent.",
            {"type": "object", "minProperties": 1, "additionalProperties": _DOSE},
            True,
        ),
        "normalize": Key("Scale all metersets so that this holds exactly: PTV_7000 D95% = 70 Gy.", _TEXT),
    },
    "body": {
        "outside": Key("What lies outside BODY: air.", {"enum": ["air"]}),
        "include": Key("ROIs outside BODY that count besides BOLUS, SUPPORT and FIXATION; ? as elsewhere.", _NAMES),
    },
    "beams": {
        "technique": _choice("Technique: imrt.", "imrt", "3dcrt"),
        "isocenter": Key(
            "targets (centre of all targets, rounded to 1 mm), a structure, or a point [x, y, z] in mm (DICOM patient).",
            {"anyOf": [_TEXT, {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}]},
        ),
        "gantry": Key(
            "Gantry angles (IEC 61217, degrees) of coplanar beams, or {count: N}: N equal steps from 0.",
            {
                "anyOf": [
                    {"type": "array", "items": _ANGLE, "minItems": 1},
                    {
                        "type": "object",
                        "properties": {
                            "count": {
                                "description": "Number of beams in equal steps from gantry 0.",
                                "type": "integer",
                                "minimum": 1,
                                "maximum": 72,
                            }
                        },
                        "required": ["count"],
                        "additionalProperties": False,
                    },
                ]
            },
        ),
        "fields": Key("Beams one by one, instead of gantry: couch and collimator turned too.", section="field"),
        "avoid": Key("Avoidance sectors, by angle or by structure.", {}, built=False),
    },
    "count": {
        "count": Key("Number of beams in equal steps from gantry 0.", {"type": "integer"}),
        "choose": Key("Number of beams that are chosen by the dose they allow.", {"type": "integer"}, built=False),
    },
    "field": {
        "gantry": Key("Gantry angle, degrees (IEC 61217).", _ANGLE, True),
        "couch": Key("Patient support angle, degrees (IEC 61217); 0 if left out.", _ANGLE),
        "collimator": Key("Beam limiting device angle, degrees (IEC 61217); 0 if left out.", _ANGLE),
    },
    "term": {
        "type": Key(
            "Kind of the term. Squares of what single points deviate: uniform, min_dose, max_dose; of what their mean does:"
            " mean_dose, min_mean; of what the mean of the hottest or coldest part does: max_tail, min_tail; what dose-volume"
            " points do: max_dvh, min_dvh; what the generalised equivalent uniform dose does: max_geud, min_geud; what a"
            " smooth form of the hottest point does: smooth_max. Without a dose: linear, the mean itself; variance, about"
            " the structure's own mean.",
            {"enum": list(get_args(ObjectiveType))},
            True,
        ),
        "dose": Key("Dose of the course, such as 70 Gy; not of linear and variance.", _DOSE),
        "weight": Key("Weight of the term; 1 if left out.", {"type": "number", "exclusiveMinimum": 0}),
        "volume": Key(
            "Part of the volume, such as 30 %: of max_dvh what may get more, of min_dvh what must get as much, of max_tail"
            " and min_tail the hottest and the coldest part.",
            _TEXT,
        ),
        "a": Key(
            "Exponent of the generalised equivalent uniform dose: of max_geud 1 (the mean) or more, such as 8; of min_geud"
            " 1 or less and not 0, such as -10.",
            {"type": "number", "minimum": -100, "maximum": 100},
        ),
    },
    "robust": {
        "shifts": Key(
            "Shifts of the isocentre, each [x, y, z] in mm (DICOM patient coordinates), besides none at all.",
            {
                "type": "array",
                "minItems": 1,
                "maxItems": 26,
                "items": {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3},
            },
            True,
        ),
        "goals": Key(
            "What goals are held to: worst (in every shift; the default) or expected (on average). Hard constraints are"
            " held in every shift.",
            {"enum": ["worst", "expected"]},
        ),
    },
    "dose": {
        "grid": Key(
            "Largest step of the dose grid, such as 3 mm; or ct, the CT's own voxels.",
            {"type": "string", "pattern": r"^(ct|[0-9.]+\s*mm)$"},
        ),
        "influence": _choice("Engine of the optimisation: pencil_beam.", "pencil_beam", "collapsed_cone"),
        "final": Key(
            "Engine of the final dose: collapsed_cone (accurate, the default) or pencil_beam (fast).",
            {"enum": ["collapsed_cone", "pencil_beam"]},
        ),
        "report": Key(
            "What the final dose is stated to: medium (the collapsed cone's default) or water (the pencil beam's).",
            {"enum": ["medium", "water"]},
        ),
    },
    "delivery": {
        "mode": Key(
            "Delivery: step_and_shoot (the default) or sliding_window.", {"enum": ["step_and_shoot", "sliding_window"]}
        ),
        "max_segments": Key(
            "Greatest number of segments of the whole plan (step_and_shoot).", {"type": "integer", "minimum": 1}
        ),
    },
    "report": {"risk": Key("Estimate of the risk of a second cancer.", {"type": "boolean"}, built=False)},
}
"""Tables of keys by section; the top level is the empty name."""


def _section(name: str) -> Schema:
    if name == "terms":
        terms: Schema = {"type": "array", "items": _section("term")}
        return {"type": ["object", "null"], "additionalProperties": terms}
    if name == "field":
        return {"type": "array", "minItems": 1, "items": _keys("field")}
    schema = _keys(name)
    return schema if name in ("", "rx", "beams", "term") else {**schema, "type": ["object", "null"]}


def _keys(name: str) -> Schema:
    table = SECTIONS[name]
    properties: Schema = {}
    for key, spec in table.items():
        if spec.built:
            value = _section(spec.section) if spec.section else dict(spec.schema)
            properties[key] = {"description": spec.description, **value}
    required = [key for key, spec in table.items() if spec.required]
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def template_schema() -> Schema:
    """JSON Schema (draft 2020-12) of a template, each key described; keys that are not built yet are left out.

    It sees types, units and keys; expressions, cycles and mixed units are for
    :func:`dicomplan.plan.parse.parse_template`.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dicomplan plan template",
        **_section(""),
    }
