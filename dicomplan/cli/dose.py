"""``dicomplan dose``: the dose of a plan that is already there."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicomplan.cli.inspect import columns, common_folder, findings_text
from dicomplan.cli.options import Commands, existing_paths
from dicomplan.cli.session import Session, printable
from dicomplan.cli.study_options import add_bridge, add_study_options, study_choices
from dicomplan.errors import UsageError

if TYPE_CHECKING:
    from dicomplan.workflow.dose import DoseOutcome

_GRID_MM = 3.0
_CT = -1.0  # stands for the CT's own voxels between parsing and the request


def add(commands: Commands) -> None:
    """Add the command ``dose`` to the command line."""
    parser = commands.add("dose", "calculate the dose of an existing plan from its control points", run)
    add_study_options(parser)
    add_bridge(parser)
    parser.add_argument(
        "--plan", metavar="RP", help="the RTPLAN: a file, or UID, label or file name of one of the study"
    )
    parser.add_argument(
        "--machine", metavar="M", help="a shipped machine (see `machines list`) or a machine file (default: the plan's)"
    )
    parser.add_argument(
        "--engine",
        choices=("collapsed_cone", "pencil_beam"),
        default="collapsed_cone",
        help="dose engine (default: collapsed_cone)",
    )
    parser.add_argument(
        "--dose-to",
        choices=("medium", "water"),
        help="what the dose is stated to (default: medium; the pencil beam's is to water)",
    )
    parser.add_argument(
        "--grid",
        type=_step,
        default=_GRID_MM,
        metavar="MM",
        help="largest step of the dose grid in mm, or ct for the CT's own voxels (default: 3)",
    )
    parser.add_argument("--output", required=True, metavar="OUT", help="new or empty folder for the result")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result of dicomplan in OUT")
    parser.add_argument(
        "--identify", action="store_true", help="let log and dose.json name the patient and the input files"
    )


def run(options: argparse.Namespace, session: Session) -> int:
    """Calculate the dose and print what came out."""
    chosen = study_choices(options)
    if options.plan is not None and ("/" in options.plan or "\\" in options.plan):
        existing_paths([options.plan])
        if not Path(options.plan).is_file():
            raise UsageError("is no file", file=options.plan)
    with session.long_work() as progress:
        from dicomplan.workflow.dose import DoseRequest, run_dose

        request = DoseRequest(
            **chosen,
            output=Path(options.output),
            plan=options.plan,
            machine=options.machine,
            engine=options.engine,
            dose_to=options.dose_to,
            grid_mm=None if options.grid == _CT else options.grid,
            overwrite=options.overwrite,
            identify=options.identify,
            bridge=options.bridge,
        )
        outcome = run_dose(request, progress, session.cancel)
    told = [finding for finding in outcome.findings if finding.severity != "info"]
    if told:
        documents = [
            {"severity": item.severity, "message": item.message, "file": item.file, "tag": item.tag} for item in told
        ]
        session.note(findings_text(documents, common_folder(chosen["study"])))
    session.result(outcome_text(outcome), outcome.document)
    return 0


def outcome_text(outcome: DoseOutcome) -> str:
    """The beams and the maximum, for people."""
    document: Mapping[str, Any] = outcome.document
    rows: list[tuple[str, ...]] = [
        ("no.", "beam", "technique", "gantry", "collimator", "couch", "MU", "Gy at isocentre", "stated Gy")
    ]
    for beam in document["beams"]:
        angles = (beam[f"{part}_angle_deg"] for part in ("gantry", "collimator", "couch"))
        rows.append(
            (
                str(beam["number"]),
                printable(beam["name"]),
                beam["technique"],
                *(f"{angle:g}" for angle in angles),
                f"{beam['meterset_mu']:.2f}",
                _dose(beam["isocenter_dose_gy"]),
                _dose(beam["stated_dose_gy"]),
            )
        )
    fractions = document["fractions"]
    engine = f"{document['engine']}, dose to {document['dose_to']}"
    return "\n".join(
        (
            f"Beams of one fraction ({engine}, machine {printable(document['machine'])}):",
            columns(rows, right=(0, 3, 4, 5, 6, 7, 8)),
            f"Greatest dose {document['max_dose_gy']:.3f} Gy in {fractions} fraction{'s' if fractions > 1 else ''}.",
            f"RTDOSE.dcm and dose.json in {printable(str(outcome.output))}",
        )
    )


def _dose(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _step(text: str) -> float:
    if text.strip().lower() == "ct":
        return _CT
    try:
        step = float(text.strip().lower().removesuffix("mm"))
    except ValueError:
        step = math.nan
    if not (math.isfinite(step) and 0.5 <= step <= 20.0):
        raise argparse.ArgumentTypeError(f"a step of 0.5 to 20 mm, or ct, is expected, not '{text}'")
    return step
