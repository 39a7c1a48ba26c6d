"""``dicomplan inspect``: what is in a study, and what is missing or odd."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dicomplan.cli.options import Commands, existing_paths
from dicomplan.cli.session import Session, printable
from dicomplan.cli.study_options import add_study_options, study_choices

_MARKS = {"error": "ERROR", "warning": "warning", "info": "note"}
_LONG_NAME = 28
_LONG_LIST = 12
_SINGULAR = {"boli": "bolus"}


def add(commands: Commands) -> None:
    """Add the command ``inspect`` to the command line."""
    parser = commands.add("inspect", "show what is in a study: series, structures, plans, doses, what is odd", run)
    add_study_options(parser)


def run(options: argparse.Namespace, session: Session) -> int:
    """Look at the study and print what was found; exit code 0 also for a study that ``plan`` must refuse."""
    study = existing_paths(options.study)
    chosen = study_choices(options)
    with session.long_work() as progress:
        from dicomplan.workflow.inspect import run_inspect
        from dicomplan.workflow.study_request import StudyRequest

        document = run_inspect(StudyRequest(**chosen), progress, session.cancel)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    session.result(study_text(document, common_folder(study), width), document)
    return 0


def common_folder(study: Sequence[Path]) -> Path | None:
    """The folder that files are named relative to: the one that was given, if it is one alone."""
    return study[0] if len(study) == 1 and study[0].is_dir() else None


def study_text(document: Mapping[str, Any], folder: Path | None = None, width: int | None = None) -> str:
    """The study on one screen, plain text; file names relative to ``folder``, findings wrapped at ``width`` columns."""
    parts = [_verdict(document), _series(document), *_structure_sets(document), _plans(document), _doses(document)]
    parts.append(findings_text(document["findings"], folder, width))
    return "\n\n".join(part for part in parts if part)


def _verdict(document: Mapping[str, Any]) -> str:
    errors = sum(finding["severity"] == "error" for finding in document["findings"])
    position = document["patient_position"] or "not known"
    verdict = "can be planned on" if document["plannable"] else "can NOT be planned on"
    reason = f" ({errors} error{'s' if errors > 1 else ''} below)" if errors else ""
    return f"Patient position {printable(position)}; the study {verdict}{reason}."


def _series(document: Mapping[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [
        ("series", "files", "x * y * z", "spacing x * y * z", "first to last", "pos.", "HU", "description")
    ]
    for series in document["series"]:
        geometry = series["geometry"]
        shape = spacing = along = ""
        if geometry:
            shape = " * ".join(str(count) for count in reversed(geometry["shape"]))
            spacing = " * ".join(f"{value:.5g}" for value in reversed(geometry["spacing_mm"])) + " mm"
            along = f"{geometry['first_slice_mm']:.1f} to {geometry['last_slice_mm']:.1f} mm"
        hu = series["hu_range"]
        rows.append(
            (
                f"{'*' if series['chosen'] else ' '}{series['kind']}",
                str(series["files"]),
                shape or ("no regular grid" if series["kind"] == "CT" else ""),
                spacing,
                along,
                series["patient_position"] or "",
                f"{hu[0]:.0f} to {hu[1]:.0f}" if hu else "",
                _short(series["description"]),
            )
        )
    return columns(rows, right=(1,))


def _structure_sets(document: Mapping[str, Any]) -> Iterator[str]:
    for found in document["structure_sets"]:
        structures = [item for item in document["structures"] if item["structure_set"] == found["sop_instance_uid"]]
        if not structures:
            continue
        label = f" '{printable(found['label'])}'" if found["label"] else ""
        where = "" if found["ct_series_instance_uid"] else ", on no CT of this study"
        chosen = "*" if found["chosen"] else ""
        yield f"{chosen}Structure set{label}, {len(structures)} ROIs{where}\n{_structures(structures)}"


def _structures(structures: Sequence[Mapping[str, Any]]) -> str:
    rows: list[tuple[str, ...]] = [
        ("no.", "name", "type", "TG-263", "volume cc", "centroid x, y, z mm", "z from, to mm", "slices", "contours")
    ]
    approximate = False
    for item in structures:
        volume, centroid, extent = item["volume_cc"], item["centroid_mm"], item["extent_mm"]
        guessed = item["volume_from"] == "contour planes"
        approximate = approximate or guessed
        rows.append(
            (
                str(item["number"]),
                _short(item["name"]),
                item["type"].lower(),
                item["tg263"] or "",
                "-" if volume is None else f"{'~' if guessed else ''}{_volume(volume)}",
                "-" if centroid is None else " ".join(f"{value:7.1f}" for value in centroid),
                "-" if extent is None else f"{extent[2][0]:7.1f} {extent[2][1]:7.1f}",
                str(item["slices"] or "-"),
                str(item["contours"] or "-"),
            )
        )
    text = columns(rows, right=(0, 4, 5, 6, 7, 8))
    return f"{text}\n  ~ without a CT: planes as far apart as the contours" if approximate else text


def _volume(volume_cc: float) -> str:
    return f"{volume_cc:.1f}" if volume_cc >= 100 else f"{volume_cc:.2f}" if volume_cc >= 1 else f"{volume_cc:.3f}"


def _plans(document: Mapping[str, Any]) -> str:
    return "\n".join(_plan(plan) for plan in document["plans"])


def _plan(plan: Mapping[str, Any]) -> str:
    fractions = " + ".join("?" if count is None else str(count) for count in plan["fractions"]) or "no"
    targets = ", ".join(f"{printable(name)} {dose:g} Gy" for name, dose in plan["target_doses_gy"].items())
    facts = [f"{fractions} fractions", targets, plan["approval_status"].lower(), plan["patient_position"] or ""]
    if plan["meterset_mu"] is not None:
        facts.append(f"{plan['meterset_mu']:.1f} MU")
    head = f"{printable(plan['kind'])} '{printable(plan['label'])}': {', '.join(printable(fact) for fact in facts if fact)}"
    rows: list[tuple[str, ...]] = [
        (
            "no.",
            "beam",
            "radiation",
            "energy",
            "gantry",
            "coll.",
            "couch",
            "technique",
            "points",
            "MU",
            "machine",
            "with",
        )
    ]
    beams = plan["beams"]
    for beam in beams[:_LONG_LIST]:
        angles = (beam["gantry_angle_deg"], beam["collimator_angle_deg"], beam["couch_angle_deg"])
        rows.append(
            (
                str(beam["number"]),
                _short(beam["name"]),
                beam["radiation_type"].lower(),
                _energy(beam),
                *("" if angle is None else f"{angle:.1f}" for angle in angles),
                beam["technique"] or beam["delivery_type"].lower(),
                str(beam["control_points"]),
                "" if beam["meterset_mu"] is None else f"{beam['meterset_mu']:.1f}",
                _short(beam["machine"]),
                ", ".join(counted(count, what) for what, count in beam["accessories"].items()),
            )
        )
    lines = [head, *([columns(rows, right=(0, 3, 4, 5, 6, 8, 9))] if beams else [])]
    if len(beams) > _LONG_LIST:
        lines.append(f"  and {len(beams) - _LONG_LIST} more beams")
    return "\n".join(lines)


def counted(count: int, things: str) -> str:
    """``2 wedges``, ``1 wedge``: a count of things, named in the plural."""
    one = _SINGULAR.get(things, things.removesuffix("s"))
    return f"{count} {one if count == 1 else things}"


def _energy(beam: Mapping[str, Any]) -> str:
    energy = beam["nominal_energy"]
    return "" if energy is None else f"{energy:g} {'MV' if beam['radiation_type'] == 'PHOTON' else 'MeV'}"


def _doses(document: Mapping[str, Any]) -> str:
    if not document["doses"]:
        return ""
    rows: list[tuple[str, ...]] = [
        ("dose", "units", "maximum", "at x, y, z mm", "x * y * z", "spacing x * y * z", "beams")
    ]
    for dose in document["doses"]:
        geometry, place = dose["geometry"], dose["maximum_mm"]
        rows.append(
            (
                dose["summation_type"] or "-",
                f"{dose['units'] or '-'} {dose['type'].lower()}",
                "-" if dose["maximum"] is None else f"{dose['maximum']:.2f}",
                "-" if place is None else " ".join(f"{value:7.1f}" for value in place),
                " * ".join(str(count) for count in reversed(geometry["shape"])) if geometry else "not readable",
                " * ".join(f"{value:.5g}" for value in reversed(geometry["spacing_mm"])) + " mm" if geometry else "",
                ", ".join(str(number) for number in dose["beam_numbers"]),
            )
        )
    return columns(rows, right=(2, 3))


def findings_text(findings: Sequence[Mapping[str, Any]], folder: Path | None = None, width: int | None = None) -> str:
    """Findings for people, one a line: severity, sentence, file and tag; wrapped at ``width`` columns."""
    lines = []
    for finding in findings:
        where = [part for part in (_relative(finding.get("file"), folder), finding.get("tag")) if part]
        line = f"{_MARKS[finding['severity']]:<8}{printable(finding['message'])}"
        line += f"  [{printable(', '.join(where))}]" if where else ""
        lines.append(textwrap.fill(line, width, subsequent_indent=" " * 8) if width else line)
    return "\n".join(lines)


def _relative(file: str | None, folder: Path | None) -> str:
    if file is None or folder is None:
        return file or ""
    return str(Path(file).relative_to(folder)) if Path(file).is_relative_to(folder) else file


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _LONG_NAME else f"{text[: _LONG_NAME - 3]}..."


def columns(rows: Sequence[tuple[str, ...]], right: Sequence[int] = ()) -> str:
    """Rows of equal length as columns, two blanks apart, indented by two; those in ``right`` are aligned to the right.

    Columns that are empty below the first row (the headings) are left out.
    """
    kept = [column for column in range(len(rows[0])) if any(row[column].strip() for row in rows[1:])]
    cells = [["".join(c if c.isprintable() else "?" for c in row[column]) for column in kept] for row in rows]
    widths = [max(_width(row[place]) for row in cells) for place in range(len(kept))]
    lines = []
    for row in cells:
        padded = []
        for cell, size, column in zip(row, widths, kept, strict=True):
            blanks = " " * (size - _width(cell))
            padded.append(blanks + cell if column in right else cell + blanks)
        lines.append(f"  {'  '.join(padded)}".rstrip())
    return "\n".join(lines)


def _width(text: str) -> int:
    """Columns of a terminal that a text takes: Chinese, Japanese and Korean letters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)
