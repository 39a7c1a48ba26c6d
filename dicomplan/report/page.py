"""The whole report as one self-contained HTML page."""

from __future__ import annotations

from importlib import resources

from dicomplan.report.bev import bev_section
from dicomplan.report.colors import structure_colors
from dicomplan.report.dvh import dvh_section
from dicomplan.report.goals import goals_section, header, prescription_section, unmet_section
from dicomplan.report.markup import Markup, element, join
from dicomplan.report.robustness import robustness_section
from dicomplan.report.slices import isodose_levels, isodose_section, isodose_styles
from dicomplan.report.tables import (
    beams_section,
    calculation_section,
    densities_section,
    footer,
    machine_section,
    notes_section,
    spots_section,
    structures_section,
    warnings_section,
)
from dicomplan.report.trade_off import trade_off_section
from dicomplan.report.values import ReportData

# The browser itself then refuses every request that a page could make.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def _asset(name: str) -> str:
    return resources.files("dicomplan.report").joinpath("assets", name).read_text(encoding="utf-8")


def render_report(data: ReportData) -> str:
    """The report as HTML text: no external request, same text for same data, every name escaped.

    Shows nothing that names the patient unless ``data.identification`` does. Lengths mm, doses Gy of the whole course,
    metersets MU of one fraction, patient coordinates DICOM LPS. Raises ValueError if the dose or a structure does not
    lie on the axes of the CT, InputError for an unknown patient position.
    """
    targets = data.document.get("prescription", {}).get("targets", {})
    prescriptions = {str(name): float(dose) for name, dose in targets.items()}
    colors = structure_colors(data.structures)
    levels = isodose_levels(prescriptions)
    body = join(
        (
            header(data),
            unmet_section(data),
            warnings_section(data),
            prescription_section(data),
            goals_section(data),
            dvh_section(data, prescriptions, colors),
            trade_off_section(data),
            robustness_section(data),
            isodose_section(data, levels, colors),
            beams_section(data) if data.beams else "",
            bev_section(data, colors),
            spots_section(data),
            structures_section(data),
            densities_section(data),
            machine_section(data),
            notes_section(data),
            calculation_section(data),
            footer(data),
        )
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        element("title", f"{data.plan_label}: dicomplan report"),
        element("style", Markup(_asset("report.css") + isodose_styles(levels))),
    )
    script = element("script", Markup(_asset("report.js")))
    return "<!DOCTYPE html>\n" + element("html", head, element("body", element("main", body), script), lang="en") + "\n"
