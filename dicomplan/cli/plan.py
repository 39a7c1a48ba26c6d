"""``dicomplan plan``: from CT and structures to RTPLAN, RTDOSE, RTSTRUCT and a report."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicomplan.cli.durations import duration_s
from dicomplan.cli.options import Commands
from dicomplan.cli.session import Session, printable, table
from dicomplan.cli.study_options import add_bridge, add_study_options, study_choices

if TYPE_CHECKING:
    from dicomplan.workflow.plan import PlanOutcome

_VERDICTS = {
    "accepted": "Plan accepted: every hard constraint is met on the final dose.",
    "failed": "Plan FAILED: a hard constraint is broken on the final dose; the RTPLAN lies in failed/.",
    "not_deliverable": "Plan not deliverable on this machine: no RTPLAN and no RTDOSE were written.",
}


def add(commands: Commands) -> None:
    """Add the command ``plan`` to the command line."""
    parser = commands.add("plan", "plan a study: CT and RTSTRUCT in; RTPLAN, RTDOSE, RTSTRUCT and a report out", run)
    add_study_options(parser)
    parser.add_argument(
        "--template", required=True, metavar="T", help="a shipped template (see `templates list`) or a template file"
    )
    parser.add_argument("--output", required=True, metavar="OUT", help="new or empty folder for the result")
    parser.add_argument("--beam-doses", action="store_true", help="also write the dose of each beam")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result of dicomplan in OUT")
    parser.add_argument(
        "--identify", action="store_true", help="let log, plan.json and report name the patient and the input files"
    )
    add_bridge(parser)
    parser.add_argument(
        "--time-limit",
        type=duration_s,
        metavar="TIME",
        help="end the optimisation after so long (90s, 5min) with the best plan so far; it takes some time more to finish",
    )
    parser.add_argument(
        "--explore",
        metavar="A:B",
        help="also compute a front of plans between two goals, such as Parotid_L:Larynx (with a metric where a structure "
        "has several goals: 'PTV_7000 D95%%:Parotid_L')",
    )


def run(options: argparse.Namespace, session: Session) -> int:
    """Plan the study and print the outcome; the exit code is the plan's."""
    chosen = study_choices(options)
    with session.long_work() as progress:
        from dicomplan.workflow.plan import PlanRequest, run_plan

        request = PlanRequest(
            **chosen,
            template=options.template,
            output=Path(options.output),
            beam_doses=options.beam_doses,
            overwrite=options.overwrite,
            identify=options.identify,
            bridge=options.bridge,
            time_limit_s=options.time_limit,
            explore=options.explore,
        )
        outcome = run_plan(request, progress, session.cancel)
    session.result(outcome_text(outcome), outcome.document)
    return outcome.exit_code


def outcome_text(outcome: PlanOutcome) -> str:
    """The outcome for people: verdict, goals (unmet hard constraints first, then unmet goals), place of the report."""
    document: Mapping[str, Any] = outcome.document
    goals: list[Mapping[str, Any]] = list(document.get("goals", ()))
    status = str(document.get("status", ""))
    lines = [_VERDICTS.get(status, f"Plan {printable(status)}.")]
    if goals:
        met = sum(bool(goal.get("met")) for goal in goals)
        lines += [f"Goals met: {met} of {len(goals)}.", "", _goals_table(goals), ""]
    if "exploration" in document:
        lines += [*_front_table(document["exploration"]), ""]
    lines += [str(one["message"]) for one in document.get("warnings", ()) if one.get("severity") == "error"]
    warnings = len(document.get("warnings", ()))
    if warnings:
        lines.append(f"Warnings: {warnings} (listed in the report).")
    lines.append(f"Report: {outcome.report}")
    return "\n".join(lines)


def _goals_table(goals: list[Mapping[str, Any]]) -> str:
    def rank(goal: Mapping[str, Any]) -> tuple[bool, bool, int]:
        return bool(goal.get("met")), goal.get("kind") != "hard", int(goal.get("priority") or 0)

    rows: list[tuple[str, ...]] = [("", "structure", "goal", "kind", "ideal", "final")]
    for goal in sorted(goals, key=rank):
        unit = str(goal.get("unit") or "")
        rows.append(
            (
                "met" if goal.get("met") else "NOT MET",
                str(goal.get("structure", "")),
                str(goal.get("goal", "")),
                "hard" if goal.get("kind") == "hard" else f"goal {goal.get('priority', '')}".strip(),
                _value(goal.get("ideal"), unit),
                _value(goal.get("achieved"), unit),
            )
        )
    return table(rows)


def _front_table(front: Mapping[str, Any]) -> list[str]:
    """The plans of a front, one a row, the exported plan's fluence below."""
    heads = [f"{goal['structure']} {goal['metric']}" for goal in front["goals"]]
    units = [str(goal["unit"]) for goal in front["goals"]]

    def row(name: str, pair: list[float], note: str) -> tuple[str, ...]:
        return (name, *(_value(value, unit) for value, unit in zip(pair, units, strict=True)), note)

    rows = [("plan", *heads, "")]
    for number, point in enumerate(front["points"], start=1):
        missed = [f"{one['structure']} {one['goal']}" for one in point["values"] if not one["met"]]
        notes = ["dominated"] * bool(point["dominated"]) + [f"misses {', '.join(missed)}"] * bool(missed)
        rows.append(row(str(number), point["pair"], "; ".join(notes)))
    rows.append(row("this plan", front["plan"], "before sequencing, as all of these"))
    return ["Trade-off, other goals kept at their limits:", table(rows)]


def _value(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.2f} {unit}".strip()
