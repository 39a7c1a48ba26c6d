"""``dicomplan machines``: list, show and check machine files, and commission one from measurements."""

from __future__ import annotations

import argparse
from pathlib import Path

from dicomplan.cli.options import Commands, existing_paths
from dicomplan.cli.session import Session, table


def add(commands: Commands) -> None:
    """Add the command ``machines`` and its actions to the command line."""
    actions = Commands(commands.add("machines", "list, show, check and commission machine files"), "actions")
    actions.add("list", "list the shipped machines", list_machines)
    show = actions.add("show", "print a shipped machine file, to be copied and changed", show_machine)
    show.add_argument("name", metavar="NAME")
    check = actions.add("check", "read a machine file and report every problem with its line", check_machine)
    check.add_argument("file", metavar="FILE")
    commission = actions.add("commission", "fit a beam to measurements and write the machine file", commission_machine)
    commission.add_argument(
        "data", nargs="+", metavar="DATA", help="measurements: CSV, PTW .mcc, DKFZ tables, or folders of them"
    )
    commission.add_argument(
        "--output", required=True, metavar="FILE", help="machine file (.toml); its report is the .html"
    )
    commission.add_argument(
        "--base", default="generic_6mv", metavar="M", help="machine of the same geometry and limits (generic_6mv)"
    )
    commission.add_argument("--name", metavar="NAME", help="name of the machine (that of FILE)")
    commission.add_argument("--overwrite", action="store_true", help="replace FILE and its report")


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


def commission_machine(options: argparse.Namespace, session: Session) -> int:
    """Fit a machine to measurements, write it with its report, and print the residuals."""
    data = existing_paths(options.data)
    with session.long_work() as progress:
        from dicomplan.workflow.commission import CommissionRequest, run_commission

        request = CommissionRequest(data, Path(options.output), options.base, options.name, options.overwrite)
        outcome = run_commission(request, progress, session.cancel)
    text = "\n".join([*outcome.lines, f"Machine: {outcome.output}", f"Report: {outcome.report}"])
    session.result(text, outcome.document)
    return 0
