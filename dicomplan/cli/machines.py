"""``dicomplan machines``: list and show the shipped machine files."""

from __future__ import annotations

import argparse

from dicomplan.cli.options import Commands
from dicomplan.cli.session import Session, table


def add(commands: Commands) -> None:
    """Add the command ``machines`` and its actions to the command line."""
    actions = Commands(commands.add("machines", "list and show machine files"), "actions")
    actions.add("list", "list the shipped machines", list_machines)
    show = actions.add("show", "print a shipped machine file", show_machine)
    show.add_argument("name", metavar="NAME")


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
