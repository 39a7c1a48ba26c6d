"""``dicomplan convert``: CT, doses and masks as NIfTI, NRRD or NPZ; or an RTSTRUCT from masks."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicomplan.cli.inspect import columns, common_folder, findings_text
from dicomplan.cli.options import Commands, existing_paths
from dicomplan.cli.session import Session, printable
from dicomplan.cli.study_options import add_choices, study_choices
from dicomplan.errors import UsageError

if TYPE_CHECKING:
    from dicomplan.workflow.convert import ConvertOutcome


def add(commands: Commands) -> None:
    """Add the command ``convert`` to the command line."""
    parser = commands.add("convert", "write CT, doses and masks as image files, or an RTSTRUCT from masks", run)
    parser.add_argument("study", nargs="+", metavar="STUDY", help="a folder (searched recursively), a zip, or files")
    parser.add_argument("output", metavar="OUT", help="new or empty folder for the result")
    parser.add_argument(
        "--format", choices=("nifti", "nrrd", "npz"), help="of the image files (default: nifti, as .nii.gz)"
    )
    parser.add_argument(
        "--masks",
        choices=("fractional", "binary"),
        help="covered fraction of each CT voxel, or 1 where it is at least 0.5 (default: fractional)",
    )
    parser.add_argument(
        "--from-masks", metavar="DIR", help="write RTSTRUCT.dcm from the mask files in DIR instead, on the study's CT"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result of dicomplan in OUT")
    add_choices(parser)


def run(options: argparse.Namespace, session: Session) -> int:
    """Convert the study and print what was written."""
    study = existing_paths(options.study)
    output = Path(options.output)
    masks = None
    if options.from_masks is not None:
        if options.format or options.masks or options.structure_set:
            raise UsageError("--format, --masks and --structure-set do not go with --from-masks")
        (masks,) = existing_paths([options.from_masks])
    chosen = study_choices(options)
    with session.long_work() as progress:
        from dicomplan.workflow.convert import run_convert
        from dicomplan.workflow.study_request import StudyRequest

        request = StudyRequest(**chosen)
        if masks is not None:
            from dicomplan.workflow.convert_masks import run_from_masks

            outcome = run_from_masks(
                request, masks, output, overwrite=options.overwrite, progress=progress, cancel=session.cancel
            )
        else:
            outcome = run_convert(
                request,
                output,
                image_format=options.format or "nifti",
                masks=options.masks or "fractional",
                overwrite=options.overwrite,
                progress=progress,
                cancel=session.cancel,
            )
    told = [finding for finding in outcome.findings if finding.severity != "info"]
    if told:
        documents = [
            {"severity": item.severity, "message": item.message, "file": item.file, "tag": item.tag} for item in told
        ]
        session.note(findings_text(documents, common_folder(study)))
    session.result(outcome_text(outcome), outcome.document)
    return 0


def outcome_text(outcome: ConvertOutcome) -> str:
    """What was written, for people."""
    rows: list[tuple[str, ...]] = [("file", "ROI", "voxels x * y * z", "least", "most", "units")]
    document: Mapping[str, Any] = outcome.document
    for entry in document["files"]:
        if entry["kind"] == "structure_set":
            return _structure_set_text(outcome, entry)
        shape = " * ".join(str(count) for count in reversed(entry["geometry"]["shape"]))
        least, most = (f"{entry[key]:.6g}" for key in ("minimum", "maximum"))
        rows.append((entry["file"], printable(str(entry.get("name", ""))), shape, least, most, entry["units"]))
    return f"{columns(rows, right=(3, 4))}\n{len(rows) - 1} images and index.json in {printable(str(outcome.output))}"


def _structure_set_text(outcome: ConvertOutcome, entry: Mapping[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [("no.", "name", "type", "voxels", "volume cc", "contours")]
    for roi in entry["structures"]:
        rows.append(
            (
                str(roi["number"]),
                printable(roi["name"]),
                roi["roi_type"].lower(),
                str(roi["voxels"]),
                f"{roi['volume_cc']:.3f}",
                str(roi["contours"]),
            )
        )
    return (
        f"{columns(rows, right=(0, 3, 4, 5))}\n{len(rows) - 1} ROIs in {printable(str(outcome.output / entry['file']))}"
    )
