"""``dicomplan machines``: list, show and check machine files."""

from __future__ import annotations

import argparse

from dicomplan.cli.options import Commands, existing_paths
from dicomplan.cli.session import Session, table


def add(commands: Commands) -> None:
    """Add the command ``machines`` and its actions to the command line."""
    actions = Commands(commands.add("machines", "list, show and check machine files"), "actions")
    actions.add("list", "list the shipped machines", list_machines)
    show = actions.add("show", "print a shipped machine file, to be copied and changed", show_machine)
    show.add_argument("name", metavar="NAME")
    check = actions.add("check", "read a machine file and report every problem with its line", check_machine)
    check.add_argument("file", metavar="FILE")


def list_machines(options: argparse.Namespace, session: Session) -> int:
    """Print the shipped machines."""
    from dicomplan.workflow.templates import machine_summaries

    summaries = machine_summaries()
    text = table([(summary.name, summary.description) for summary in summaries])
    rows = [{"name": summary.name, "description": summary.description} for summary in summaries]
    session.result(text, {"schema": 1, "machines": rows})
    return 0


def show_machine(options: argparse.Namespace, session: Session) -> int:
    """Print the text of a shipped machine file."""
    from dicomplan.workflow.templates import shipped_machine

    text = shipped_machine(options.name)
    session.result(text, {"schema": 1, "name": options.name, "text": text})
    return 0


def check_machine(options: argparse.Namespace, session: Session) -> int:
    """Check a machine file; every problem raises through to the error output (exit code 4)."""
    (file,) = existing_paths([options.file])
    from dicomplan.workflow import templates

    machine = templates.check_machine(file)
    jaws = [axis for axis, jaw in (("X", machine.jaw_x), ("Y", machine.jaw_y)) if jaw is not None]
    listed = [f"{machine.beam.nominal_energy_mv:g} MV", f"{machine.mlc.leaf_pairs} leaf pairs"]
    listed.append(f"jaws {' and '.join(jaws)}" if jaws else "no jaws")
    document = {
        "schema": 1,
        "ok": True,
        "name": machine.name,
        "description": machine.description,
        "nominal_energy_mv": machine.beam.nominal_energy_mv,
        "leaf_pairs": machine.mlc.leaf_pairs,
        "jaws": jaws,
    }
    session.result(f"ok: {machine.name} ({', '.join(listed)})", document)
    return 0
