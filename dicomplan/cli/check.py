"""``dicomplan check``: DICOM conformance and deliverability."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dicomplan.cli.inspect import common_folder, findings_text
from dicomplan.cli.options import Commands, existing_paths
from dicomplan.cli.session import Session

FOUND_ERRORS = 7
"""Exit code when there are errors (with ``--strict`` warnings too)."""


def add(commands: Commands) -> None:
    """Add the command ``check`` to the command line."""
    parser = commands.add("check", "DICOM conformance, references, and whether a machine can deliver the plans", run)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="folders, zips or DICOM files")
    parser.add_argument(
        "--machine", metavar="M", help="a shipped machine or a machine file (default: the one that the plan names)"
    )
    parser.add_argument("--strict", action="store_true", help="exit code 7 for warnings too")


def run(options: argparse.Namespace, session: Session) -> int:
    """Check and print the findings; the exit code is 7 if there are errors (``--strict``: or warnings)."""
    paths = existing_paths(options.paths)
    with session.long_work() as progress:
        from dicomplan.workflow.check import CheckRequest, run_check

        document = run_check(CheckRequest(paths, options.machine), progress, session.cancel)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    session.result(check_text(document, common_folder(paths), width), document)
    severities = {finding["severity"] for finding in document["findings"]}
    failing = {"error", "warning"} if options.strict else {"error"}
    return FOUND_ERRORS if severities & failing else 0


def check_text(document: Mapping[str, Any], folder: Path | None = None, width: int | None = None) -> str:
    """Verdict and findings as plain text; file names relative to ``folder``, wrapped at ``width`` columns."""
    counts = {
        severity: sum(finding["severity"] == severity for finding in document["findings"])
        for severity in ("error", "warning")
    }
    verdict = ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items())
    return f"{verdict}.\n\n{findings_text(document['findings'], folder, width)}".rstrip()
