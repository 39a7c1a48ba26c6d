"""``dicomplan doctor``: versions, optional parts, threads, cache, self-test against known answers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from dicomplan.cli.options import Commands
from dicomplan.cli.session import Session, table

if TYPE_CHECKING:
    from dicomplan.workflow.doctor import Examination


def add(commands: Commands) -> None:
    """Add the command ``doctor`` to the command line."""
    commands.add(
        "doctor", "show versions, optional parts, threads and cache; test dicomplan against known answers", run
    )


def run(options: argparse.Namespace, session: Session) -> int:
    """Examine this installation and print the findings; exit code 0 when it is usable, else 1."""
    with session.long_work() as progress:
        from dicomplan.workflow.doctor import examine

        examination = examine(progress, session.cancel)
    session.result(examination_text(examination), examination.document())
    return 0 if examination.usable else 1


def examination_text(examination: Examination) -> str:
    """The findings as a table for people."""
    marks = {"ok": "ok", "missing": "--", "failed": "FAILED"}
    rows = [(marks[item.state], item.part, item.name, item.detail) for item in examination.items]
    verdict = "dicomplan is usable here." if examination.usable else "dicomplan is NOT usable here."
    return f"{table(rows)}\n{verdict}"
