"""``dicomplan evaluate``: DVH, metrics and goals of doses that are already there."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicomplan.cli.inspect import columns, common_folder, findings_text
from dicomplan.cli.options import Commands, existing_paths
from dicomplan.cli.session import Session, printable
from dicomplan.cli.study_options import add_bridge, add_study_options, study_choices

if TYPE_CHECKING:
    from dicomplan.workflow.evaluate import EvaluateOutcome

_VERDICTS = {
    "accepted": "Accepted: every hard constraint of the template is met.",
    "failed": "FAILED: a hard constraint of the template is broken.",
}
_METRICS = ("Dmean_gy", "Dmax_gy", "Dmin_gy", "D98%_gy", "D95%_gy", "D50%_gy", "D2%_gy")


def add(commands: Commands) -> None:
    """Add the command ``evaluate`` to the command line."""
    parser = commands.add("evaluate", "DVH, metrics and goals of doses that are already there", run)
    add_study_options(parser)
    add_bridge(parser)
    parser.add_argument(
        "--dose",
        action="append",
        default=[],
        metavar="RD",
        help="an RTDOSE file; several are summed (default: the study's)",
    )
    parser.add_argument(
        "--template",
        metavar="T",
        help="judge the goals of a shipped template or a template file; exit code 5 if a hard one is broken",
    )
    parser.add_argument("--output", metavar="OUT", help="new or empty folder for evaluation.json and dvh.csv")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result of dicomplan in OUT")
    parser.add_argument(
        "--identify", action="store_true", help="let log and evaluation.json name the patient and the input files"
    )


def run(options: argparse.Namespace, session: Session) -> int:
    """Evaluate and print the metrics; the exit code is 5 if a hard constraint is broken."""
    doses = existing_paths(options.dose)
    chosen = study_choices(options)
    with session.long_work() as progress:
        from dicomplan.workflow.evaluate import EvaluateRequest, run_evaluate

        request = EvaluateRequest(
            **chosen,
            doses=doses,
            template=options.template,
            output=None if options.output is None else Path(options.output),
            overwrite=options.overwrite,
            identify=options.identify,
            bridge=options.bridge,
        )
        outcome = run_evaluate(request, progress, session.cancel)
    told = [finding for finding in outcome.document["findings"] if finding["severity"] != "info"]
    if told:
        session.note(findings_text(told, common_folder(chosen["study"])))
    session.result(outcome_text(outcome), outcome.document)
    return outcome.exit_code


def outcome_text(outcome: EvaluateOutcome) -> str:
    """Verdict, goals (what is not met first) and the metrics of every structure, for people."""
    document: Mapping[str, Any] = outcome.document
    parts = []
    if document["status"] is not None:
        goals = document["goals"]
        met = sum(bool(goal["met"]) for goal in goals)
        parts.append(f"{_VERDICTS[document['status']]}\nGoals met: {met} of {len(goals)}.")
        if goals:
            parts.append(_goals(goals))
    rows: list[tuple[str, ...]] = [("structure", "volume cc", *(f"{key[:-3]} Gy" for key in _METRICS))]
    for name, one in document["structures"].items():
        values = (f"{one[key]:.2f}" if key in one else "-" for key in _METRICS)
        rows.append((printable(name), f"{one['volume_cc']:.2f}", *values))
    parts.append(columns(rows, right=range(1, len(rows[0]))) if len(rows) > 1 else "No structure has contours.")
    if outcome.output is not None:
        parts.append(f"evaluation.json and dvh.csv in {printable(str(outcome.output))}")
    return "\n\n".join(parts)


def _goals(goals: list[Mapping[str, Any]]) -> str:
    rows: list[tuple[str, ...]] = [("", "structure", "goal", "kind", "achieved")]
    for goal in sorted(goals, key=lambda goal: (goal["met"], goal["kind"] != "hard", goal["priority"])):
        rows.append(
            (
                "met" if goal["met"] else "NOT MET",
                printable(goal["structure"]),
                printable(goal["goal"]),
                "hard" if goal["kind"] == "hard" else f"goal {goal['priority']}",
                f"{goal['achieved']:.2f} {goal['unit']}",
            )
        )
    return columns(rows)
