"""``dicomplan demo``: a phantom study, planned: a first result with no data at hand."""

from __future__ import annotations

import argparse
from pathlib import Path

from dicomplan.cli.options import Commands
from dicomplan.cli.plan import outcome_text
from dicomplan.cli.session import Session


def add(commands: Commands) -> None:
    """Add the command ``demo`` to the command line."""
    parser = commands.add("demo", "make a phantom study, plan it and say where the report is", run)
    parser.add_argument(
        "output",
        nargs="?",
        default="dicomplan_demo",
        metavar="OUT",
        help="new or empty folder for OUT/study and OUT/plan (default: %(default)s)",
    )


def run(options: argparse.Namespace, session: Session) -> int:
    """Make and plan the phantom, print the outcome; the exit code is the plan's."""
    with session.long_work() as progress:
        from dicomplan.workflow.demo import run_demo

        outcome = run_demo(Path(options.output), progress, session.cancel)
    session.result(outcome_text(outcome), outcome.document)
    return outcome.exit_code
