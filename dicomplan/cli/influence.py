"""``dicomplan influence``: the influence matrix of a template's beams, for optimisers of one's own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dicomplan.cli.options import Commands
from dicomplan.cli.session import Session, printable
from dicomplan.cli.study_options import add_study_options, study_choices

if TYPE_CHECKING:
    from dicomplan.workflow.influence import InfluenceOutcome


def add(commands: Commands) -> None:
    """Add the command ``influence`` to the command line."""
    parser = commands.add("influence", "write the influence matrix of a template's beams (NPZ, or PortPy's HDF5)", run)
    add_study_options(parser)
    parser.add_argument("--template", required=True, metavar="T", help="a shipped template or a template file")
    parser.add_argument("--output", required=True, metavar="OUT", help="new or empty folder for the result")
    parser.add_argument(
        "--format", choices=("npz", "portpy"), default="npz", help="influence.npz (scipy reads it), or Beams/*.h5"
    )
    parser.add_argument(
        "--voxels",
        choices=("optimised", "body"),
        default="optimised",
        help="rows: the voxels that a plan is optimised on (default), or all of BODY",
    )
    parser.add_argument(
        "--cutoff",
        type=cutoff_mm,
        metavar="MM",
        help="distance from a beamlet's centre, at isocentre (default: the shortest that leaves out less than 0.5 %% of the "
        "targets' mean dose and 1 %% of the integral dose)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result of dicomplan in OUT")


def cutoff_mm(text: str) -> float:
    """A length of 5 to 1000 mm. Raises ArgumentTypeError."""
    try:
        value = float(text.strip().removesuffix("mm"))
    except ValueError:
        value = 0.0
    if not 5.0 <= value <= 1000.0:
        raise argparse.ArgumentTypeError(f"a length of 5 to 1000 mm is expected, not '{text}'")
    return value


def run(options: argparse.Namespace, session: Session) -> int:
    """Write the matrix and print what it is."""
    chosen = study_choices(options)
    with session.long_work() as progress:
        from dicomplan.workflow.influence import InfluenceRequest, run_influence
        from dicomplan.workflow.study_request import StudyRequest

        request = InfluenceRequest(
            study=StudyRequest(**chosen),
            template=options.template,
            output=Path(options.output),
            file_format=options.format,
            voxels=options.voxels,
            cutoff_mm=options.cutoff,
            overwrite=options.overwrite,
        )
        outcome = run_influence(request, progress, session.cancel)
    session.result(outcome_text(outcome), outcome.document)
    return 0


def outcome_text(outcome: InfluenceOutcome) -> str:
    """What was written, for people."""
    found = outcome.document
    lost = found["left_out"]
    lines = [
        f"{found['voxels']} voxels x {found['beamlets']} beamlets, {found['nonzeros'] / 1e6:.1f} million non-zeros "
        f"({found['bytes'] / 1e6:.0f} MB), {found['unit']}.",
        f"Cut-off {found['cutoff_mm']:g} mm: {lost['target_mean_percent']:.2f} % of the targets' mean dose and "
        f"{lost['body_integral_percent']:.2f} % of the integral dose are left out.",
    ]
    lines += [f"{one['severity']}: {one['message']}" for one in found["findings"] if one["severity"] != "info"]
    lines.append(f"In {printable(str(outcome.output))}: influence.json says what is what.")
    return "\n".join(lines)
