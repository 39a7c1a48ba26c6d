"""``dicomplan templates``: list, show, check and draft plan templates, print their JSON Schema."""

from __future__ import annotations

import argparse
import json

from dicomplan.cli.options import Commands, existing_paths
from dicomplan.cli.session import Session, table


def add(commands: Commands) -> None:
    """Add the command ``templates`` and its actions to the command line."""
    actions = Commands(commands.add("templates", "list, show, check and draft plan templates"), "actions")
    actions.add("list", "list the shipped templates", list_templates)
    show = actions.add("show", "print a shipped template, to be copied and changed", show_template)
    show.add_argument("name", metavar="NAME")
    check = actions.add("check", "read a template file and report every problem with its line", check_template)
    check.add_argument("file", metavar="FILE")
    new = actions.add("new", "draft a template from the ROI names of a study, for a person to finish", new_template)
    new.add_argument("study", nargs="+", metavar="STUDY", help="a folder (searched recursively), a zip, or files")
    new.add_argument("--structure-set", metavar="ID", help="the RTSTRUCT to use: its UID, label or file name")
    actions.add("schema", "print the JSON Schema of templates, each key described", print_schema)


def list_templates(options: argparse.Namespace, session: Session) -> int:
    """Print the shipped templates."""
    from dicomplan.workflow.templates import template_summaries

    summaries = template_summaries()
    text = table([(summary.name, summary.description) for summary in summaries])
    rows = [{"name": summary.name, "description": summary.description} for summary in summaries]
    session.result(text, {"schema": 1, "templates": rows})
    return 0


def show_template(options: argparse.Namespace, session: Session) -> int:
    """Print the text of a shipped template."""
    from dicomplan.workflow.templates import shipped_template

    text = shipped_template(options.name)
    session.result(text, {"schema": 1, "name": options.name, "text": text})
    return 0


def check_template(options: argparse.Namespace, session: Session) -> int:
    """Check a template file; every problem raises through to the error output (exit code 4)."""
    (file,) = existing_paths([options.file])
    from dicomplan.workflow import templates

    template = templates.check_template(file)
    counts = {
        "targets": len(template.prescription.targets),
        "fields": len(template.beams.fields),
        "constraints": len(template.constraints),
        "goals": len(template.goals),
    }
    listed = ", ".join(f"{count} {name}" for name, count in counts.items())
    session.result(f"ok: {template.name} ({listed})", {"schema": 1, "ok": True, "name": template.name, **counts})
    return 0


def new_template(options: argparse.Namespace, session: Session) -> int:
    """Print the text of a template drafted from a study's ROIs."""
    study = existing_paths(options.study)
    with session.progress() as progress:
        from dicomplan.workflow.templates import draft_template

        text = draft_template(study, options.structure_set, progress)
    marked = sum("DECIDE" in line for line in text.splitlines()) - 1  # one line says what the mark means
    session.note(f"{marked} lines are marked DECIDE: look at each before you plan with it.")
    session.result(text, {"schema": 1, "text": text, "marked": marked})
    return 0


def print_schema(options: argparse.Namespace, session: Session) -> int:
    """Print the JSON Schema of templates."""
    from dicomplan.plan.schema import template_schema

    schema = template_schema()
    session.result(json.dumps(schema, indent=2), {"schema": 1, **schema})
    return 0
