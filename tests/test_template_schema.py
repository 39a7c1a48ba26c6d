"""The JSON Schema of templates: every key is in it and described, and it agrees with the parser."""

import json
import re

import pytest
import yaml

from dicomplan.errors import TemplateError
from dicomplan.plan.library import template_names, template_text
from dicomplan.plan.parse import parse_template
from dicomplan.plan.schema import SECTIONS, template_schema


def valid(value, schema):
    """A small JSON Schema validator: the keywords that our schema uses."""
    known = {
        *("$schema", "title", "description", "type", "properties", "additionalProperties", "required", "items", "enum"),
        *("const", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "minItems"),
        *("maxItems", "minProperties", "anyOf"),
    }
    assert set(schema) <= known, set(schema) - known
    if "anyOf" in schema:
        return any(valid(value, option) for option in schema["anyOf"])
    types = schema.get("type")
    if types is not None:
        names = {
            dict: ["object"],
            list: ["array"],
            str: ["string"],
            bool: ["boolean"],
            int: ["integer", "number"],
            float: ["number"],
            type(None): ["null"],
        }[type(value)]
        if not set(names) & set([types] if isinstance(types, str) else types):
            return False
    checks = [
        "enum" not in schema or value in schema["enum"],
        "const" not in schema or value == schema["const"],
    ]
    if isinstance(value, str):
        checks += [re.search(schema.get("pattern", ""), value) is not None, len(value) >= schema.get("minLength", 0)]
    if isinstance(value, int | float) and not isinstance(value, bool):
        checks += [
            value >= schema.get("minimum", value),
            value <= schema.get("maximum", value),
            "exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"],
            "exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"],
        ]
    if isinstance(value, list):
        checks += [schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))]
        checks += [valid(item, schema.get("items", {})) for item in value]
    if isinstance(value, dict):
        checks += [len(value) >= schema.get("minProperties", 0), set(schema.get("required", ())) <= set(value)]
        properties, other = schema.get("properties", {}), schema.get("additionalProperties", True)
        for key, item in value.items():
            if key in properties:
                checks.append(valid(item, properties[key]))
            else:
                checks.append(other if isinstance(other, bool) else valid(item, other))
    return all(checks)


def test_every_built_key_is_there_and_described():
    schema = template_schema()
    json.dumps(schema)
    top = schema["properties"]
    assert set(top) == set(SECTIONS[""])
    assert all(len(value["description"]) > 10 for value in top.values())
    for key, section in (("prescription", "rx"), ("beams", "beams"), ("dose", "dose"), ("delivery", "delivery")):
        inner = top[key]["properties"]
        assert set(inner) == {name for name, spec in SECTIONS[section].items() if spec.built}
        assert all(value["description"] for value in inner.values())
    assert schema["required"] == ["dicomplan", "prescription", "beams"]
    assert "avoid" not in top["beams"]["properties"]


def properties(schema, path=""):
    """Every named property of a schema, however deep, with its path."""
    if isinstance(schema, dict):
        for key, value in schema.get("properties", {}).items():
            yield f"{path}/{key}", value
            yield from properties(value, f"{path}/{key}")
        for key in ("items", "additionalProperties", "anyOf"):
            yield from properties(schema.get(key), path)
    elif isinstance(schema, list):
        for option in schema:
            yield from properties(option, path)


def test_each_key_at_any_depth_is_described():
    found = dict(properties(template_schema()))
    assert {"/beams/fields/couch", "/beams/gantry/count", "/objectives/volume", "/prescription/targets"} <= set(found)
    assert [path for path, value in found.items() if len(value.get("description", "")) < 10] == []


@pytest.mark.parametrize("name", template_names())
def test_shipped_templates_fit_the_schema(name):
    assert valid(yaml.safe_load(template_text(name)), template_schema())


BASE = {"dicomplan": 1, "prescription": {"fractions": 30, "targets": {"PTV": "60 Gy"}}, "beams": {"gantry": [0, 90]}}


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"name": "x", "machine": "y"}, True),
        ({"dicomplan": 2}, False),
        ({"gaols": []}, False),
        ({"prescription": {"fractions": 0, "targets": {"PTV": "60 Gy"}}}, False),
        ({"prescription": {"fractions": 30, "targets": {"PTV": "60"}}}, False),
        ({"prescription": {"fractions": 30, "targets": {}}}, False),
        ({"beams": {"gantry": {"count": 7}}}, True),
        ({"beams": {"gantry": {"choose": 7}}}, False),
        ({"beams": {"gantry": [400]}}, False),
        ({"beams": {"fields": [{"gantry": 60, "couch": 90}]}}, True),
        ({"beams": {"fields": [{"couch": 90}]}}, False),
        ({"beams": {"gantry": [0], "technique": "3dcrt"}}, False),
        ({"structures": {"Cord": ["cord"], "No?": None}}, True),
        ({"structures": {"Cord": "cord"}}, False),
        ({"goals": [{"PTV": ["D95% >= 60 Gy"]}]}, True),
        ({"goals": {"PTV": ["D95% >= 60 Gy"]}}, False),
        ({"objectives": {"PTV": [{"type": "max_dvh", "dose": "60 Gy", "volume": "3 %", "weight": 2}]}}, True),
        ({"objectives": {"PTV": [{"type": "soft", "dose": "60 Gy"}]}}, False),
        ({"objectives": {"PTV": [{"type": "min_geud", "dose": "60 Gy", "a": -10}]}}, True),
        ({"objectives": {"PTV": [{"type": "min_geud", "dose": "60 Gy", "a": "low"}]}}, False),
        ({"objectives": {"PTV": [{"type": "variance", "weight": 3}]}}, True),
        ({"dose": {"grid": "3 mm"}}, True),
        ({"dose": {"grid": 3}}, False),
        ({"delivery": {"mode": "sliding_window"}}, True),
        ({"delivery": {"mode": "vmat"}}, False),
        ({"density": {"Gold": "19.3 g/cm3"}}, True),
        ({"report": {"risk": True}}, False),
    ],
)
def test_schema_and_parser_agree(change, fits):
    document = {**BASE, **change}
    assert valid(document, template_schema()) is fits
    try:
        parse_template(yaml.safe_dump(document))
        read = True
    except TemplateError:
        read = False
    assert read is fits
