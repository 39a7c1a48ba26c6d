"""The tables of the second half of the report: beams, places, structures, densities, machine, warnings, timings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dicomplan.report.goals import NOT_A_DEVICE, is_moving, severity
from dicomplan.report.markup import Markup, element, join, number, section, table, volume_text
from dicomplan.report.planes import direction_letters
from dicomplan.report.values import ReportData

_METRICS = ("Dmean_gy", "Dmax_gy", "D0.03cc_gy", "D0.1cc_gy", "D2%_gy", "D50%_gy", "D95%_gy", "D98%_gy", "Dmin_gy")
_SEVERITIES = {"error": 0, "warning": 1, "info": 2}
_QUALITY = {
    "conformity_index": "Conformity index (Paddick, highest target)",
    "homogeneity_index": "Homogeneity index (D2% − D98%) / D50%",
    "total_mu": "Total MU of one fraction",
    "segments": "Segments (in a sliding window: intervals between control points)",
    "mu_per_gy": "MU per Gy of the highest level",
    "modulation_complexity_score": "Modulation complexity score (McNiven; 1: open field)",
    "average_leaf_pair_opening_mm": "Average leaf pair opening [mm]",
    "edge_metric_per_mm": "Edge metric (Younge) [1/mm]",
    "sequencing_error_percent": "Fluence: delivered against ideal, worst beam [%]",
    "least_gap_percent": "Open area × MU at the minimum leaf gap [%]",
}
_CALCULATION = {
    "influence form": "influence matrix",
    "influence voxels": "voxels optimised on",
    "influence beamlets": "beamlets",
    "influence nonzeros": "non-zeros stored",
    "influence bytes": "memory of the influence matrix",
    "optimisation iterations": "iterations on the fluence",
    "optimisation objective": "objective after each pass (fluence)",
    "optimisation objective metersets": "objective after each pass (segments)",
    "optimisation generated segments": "segments generated from nothing",
    "optimisation goal losses": "goals worse than ideal, plan by plan [% of level, points]",
}


def place_text(place_mm: tuple[float, float, float]) -> str:
    """``(x, y, z)`` in mm with one decimal."""
    return f"({', '.join(number(float(part), 1) for part in place_mm)})"


def offset_text(place_mm: tuple[float, float, float], origin_mm: tuple[float, float, float]) -> str:
    """The way from the origin (isocentre) to the place in words: ``12 mm L, 3 mm P, 40 mm S``."""
    parts = []
    for axis in range(3):
        distance = float(place_mm[axis]) - float(origin_mm[axis])
        if round(abs(distance)) > 0:
            unit = [0.0, 0.0, 0.0]
            unit[axis] = distance
            parts.append(f"{abs(distance):.0f} mm {direction_letters(unit)}")
    return ", ".join(parts) or "at the isocentre"


def _jaws(jaws_mm: list[tuple[float, float] | None]) -> str:
    """First and second edge in mm; the outermost ones where segments differ; a dash where there is no such jaw."""
    present = [jaw for jaw in jaws_mm if jaw is not None]
    if not present:
        return "–"
    low, high = min(jaw[0] for jaw in present), max(jaw[1] for jaw in present)
    moving = " (moving)" if len(set(present)) > 1 else ""
    return f"{number(low, 1)} / {number(high, 1)}{moving}"


def beams_section(data: ReportData) -> Markup:
    """One row for each beam, then the sum, then where the isocentre lies."""
    rows: list[tuple[str, ...]] = []
    for beam in data.beams:
        plan, segments = beam.delivery.beam, beam.delivery.segments
        rows.append(
            (
                str(plan.number),
                element("b", plan.name),
                number(plan.gantry_angle_deg, 1),
                number(plan.collimator_angle_deg, 1),
                number(plan.couch_angle_deg, 1),
                _jaws([segment.aperture.jaw_x_mm for segment in segments]),
                _jaws([segment.aperture.jaw_y_mm for segment in segments]),
                number(beam.ssd_mm, 1),
                number(beam.isocenter_depth_mm, 1),
                number(beam.isocenter_radiological_depth_mm, 1),
                str(len(segments) + beam.delivery.moving),
                number(beam.delivery.meterset_mu, 1),
            )
        )
    total = sum(beam.delivery.meterset_mu for beam in data.beams)
    count = sum(len(beam.delivery.segments) + beam.delivery.moving for beam in data.beams)
    rows.append(("", element("b", "Plan"), *[""] * 8, element("b", str(count)), element("b", number(total, 1))))
    head = (
        "No.", "Beam", "Gantry [°]", "Coll. [°]", "Couch [°]", "Jaws X1 / X2 [mm]", "Jaws Y1 / Y2 [mm]", "SSD [mm]",
        "Depth [mm]", "Radiol. depth [mm]", "Control points" if is_moving(data) else "Segments", "MU / fraction",
    )  # fmt: skip
    where = element(
        "p",
        element("b", f"Isocentre {place_text(data.isocenter_mm)} mm"),
        " in DICOM patient coordinates (x left, y posterior, z superior). Angles after IEC 61217; jaws at the isocentre; "
        "depths are the isocentre's along the beam axis, in tissue and in water.",
        id="isocentre",
    )
    return section("beams", "Beams", table(head, rows, numeric=range(2, len(head))), where, _delivery_table(data))


_DELIVERY = (
    ("modulation_complexity_score", "Modulation complexity score", 3),
    ("average_leaf_pair_opening_mm", "Mean leaf pair opening [mm]", 1),
    ("edge_metric_per_mm", "Edge metric [1/mm]", 3),
    ("dose_rate_mu_min", "Dose rate [MU/min]", 0),
    ("floor_mu", "Floor [MU]", 2),
)


def _delivery_table(data: ReportData) -> Markup:
    """Complexity of each beam; of one with moving leaves also dose rate, floor, and whether leaves are synchronised."""
    beams = [beam for beam in data.document.get("beams", []) if beam.get("delivery")]
    columns = [column for column in _DELIVERY if any(beam.get(column[0]) is not None for beam in beams)]
    if not columns:
        return Markup("")
    moving = any(beam.get("floor_mu") is not None for beam in beams)
    rows = [
        (
            element("b", str(beam["name"])),
            str(beam["delivery"]).replace("_", " ").replace("step and shoot", "step-and-shoot"),
            *(number(_float(beam.get(key)), digits) for key, _, digits in columns),
            *((_shown(beam.get("leaves_synchronised")),) if moving else ()),
        )
        for beam in beams
    ]
    head = ("Beam", "Delivery", *(label for _, label, _ in columns), *(("Leaves synchronised",) if moving else ()))
    text = "Modulation complexity after McNiven (1 is an open field), edge metric after Younge."
    if moving:
        text += (
            " Floor: what transmission and the least gap between leaves leave in the field at least, in MU of one fraction: "
            "where less is wanted, this is given. Synchronised leaves: no tongue shades what both neighbours are to give."
        )
    shown = table(head, rows, numeric=range(2, 2 + len(columns)), class_="dense")
    return join((element("h3", "Delivery and complexity"), shown, element("p", text, class_="note")))


def spots_section(data: ReportData) -> Markup:
    """The hottest and coldest places with what lies there."""
    if not data.spots:
        return Markup("")
    rows = [
        (
            spot.label,
            element("b", f"{number(spot.dose_gy, 2)} Gy"),
            place_text(spot.place_mm),
            offset_text(spot.place_mm, data.isocenter_mm),
            ", ".join(spot.structures) or "no structure",
        )
        for spot in data.spots
    ]
    head = ("", "Dose", "Place x, y, z [mm]", "From the isocentre", "Structures there")
    return section("spots", "Hot and cold spots", table(head, rows, numeric=(1,)))


def _metric_label(key: str) -> str:
    for suffix, unit in (("_gy", "Gy"), ("_cc", "cm³"), ("_percent", "%")):
        if key.endswith(suffix):
            return f"{key.removesuffix(suffix)} [{unit}]"
    return key


def structures_section(data: ReportData) -> Markup:
    """Volume and metrics of every structure, final over ideal."""
    structures: Mapping[str, Any] = data.document.get("structures", {})
    if not structures:
        return Markup("")
    entries = [(name, entry.get("final") or {}, entry.get("ideal") or {}) for name, entry in structures.items()]
    present = {key for _, final, ideal in entries for key in (*final, *ideal)}
    keys = [key for key in _METRICS if key in present] + sorted(present - set(_METRICS))
    rows = []
    for name, final, ideal in entries:
        cells = [
            join(
                (number(_float(final.get(key)), 2), element("small", number(_float(ideal.get(key)), 2), class_="below"))
            )
            for key in keys
        ]
        rows.append((name, volume_text(_float(structures[name].get("volume_cc"))), *cells))
    head = ("Structure", "cm³", *(_metric_label(key) for key in keys))
    note = element("p", "Upper number: final dose. In small print below: ideal fluence.", class_="note")
    return section("structures", "Structures", table(head, rows, numeric=range(1, len(head)), class_="dense"), note)


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def densities_section(data: ReportData) -> Markup:
    """Which structures had their density replaced, and how much volume that is."""
    if not data.densities:
        return section(
            "densities", "Density overrides", element("p", "None: densities are the CT's everywhere.", class_="note")
        )
    rows = [
        (item.structure, number(item.mass_density_g_cm3, 3), number(item.volume_cc, 2), item.note)
        for item in data.densities
    ]
    head = ("Structure", "g/cm³", "Volume [cm³]", "")
    return section("densities", "Density overrides", table(head, rows, numeric=(1, 2)))


def _pairs(rows: list[tuple[str, str]]) -> Markup:
    return element("dl", *(join((element("dt", label), element("dd", value))) for label, value in rows))


def machine_section(data: ReportData) -> Markup:
    """Machine, calibration and the table from HU to density."""
    machine = str(data.document.get("machine", ""))
    left = [element("h3", "Machine and calibration"), _pairs([("Machine", machine), *data.machine_rows])]
    if data.calibration:
        left.append(element("p", data.calibration))
    if data.dose_note:
        left.append(element("p", data.dose_note))
    right: list[Markup] = []
    if data.hu_table:
        rows = [
            (
                number(row.hu, 0),
                number(row.mass_density_g_cm3, 3),
                number(row.relative_electron_density, 3),
                row.material,
            )
            for row in data.hu_table
        ]
        head = ("HU", "g/cm³", "ρₑ / water", "")
        right = [element("h3", "CT numbers to density"), table(head, rows, numeric=(0, 1, 2), class_="dense")]
    if data.hu_table_note:
        right.append(element("p", data.hu_table_note, class_="note"))
    return section(
        "machine",
        "Machine and CT calibration",
        element("div", element("div", *left), element("div", *right), class_="columns"),
    )


def warnings_section(data: ReportData) -> Markup:
    """Errors and warnings on the plan and its input, in the document's order, errors first: it belongs beside the verdict."""
    found = [item for item in data.document.get("warnings", []) if severity(item) != "info"]
    body = _findings(sorted(found, key=lambda item: _SEVERITIES.get(severity(item), 1)), "warnings")
    return section("warnings", "Warnings", body)


def notes_section(data: ReportData) -> Markup:
    """What was noticed and needs no attention."""
    found = [item for item in data.document.get("warnings", []) if severity(item) == "info"]
    return section("notes", "Notes", _findings(found, "notes")) if found else Markup("")


def _findings(found: Sequence[object], class_: str) -> Markup:
    items = []
    for one in found:
        message = str(one.get("message", "")) if isinstance(one, Mapping) else str(one)
        prefix = element("b", "error: ") if severity(one) == "error" else ""
        items.append(element("li", prefix, message, class_="error" if prefix else None))
    return element("ul", *items, class_=class_) if items else element("p", "None.", class_="note")


def _shown(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    if isinstance(value, float):
        return number(value, 3 if abs(value) < 1 else 2)
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and len(value) > 8:
        return f"{_shown(value[0])} … {_shown(value[-1])} ({len(value)} values)"
    if isinstance(value, list | tuple):
        return ", ".join(_shown(item) for item in value)
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _facts(values: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Markup:
    labels = names or {}
    return _pairs([(labels.get(key, key.replace("_", " ")), _shown(value)) for key, value in values.items()])


def calculation_section(data: ReportData) -> Markup:
    """Quality, grid, influence, optimisation, timings and versions: how the plan was made."""
    document = data.document
    columns = []
    if document.get("quality"):
        columns.append(element("div", element("h3", "Plan quality"), _facts(document["quality"], _QUALITY)))
    made: dict[str, Any] = {}
    grid = document.get("grid", {})
    if grid:
        made["dose grid (z, y, x)"] = " × ".join(str(count) for count in grid.get("shape", []))
        made["grid step (z, y, x) [mm]"] = " × ".join(f"{float(step):.4g}" for step in grid.get("spacing_mm", []))
    engines = document.get("engines", {})
    if engines:
        made["final dose"] = f"{engines.get('final')}, dose to {engines.get('dose_to')}".replace("_", " ")
    made |= {f"influence {key}": value for key, value in document.get("influence", {}).items()}
    if not made.get("influence nonzeros"):  # a factorised matrix stores none
        made.pop("influence nonzeros", None)
    if "influence bytes" in made:
        made["influence bytes"] = f"{made['influence bytes'] / 1e6:.1f} MB"
    made |= {
        f"optimisation {key.replace('_', ' ')}": value
        for key, value in document.get("optimization", {}).items()
        if value != []
    }
    inputs: dict[str, int] = {}
    for item in document.get("inputs", []):
        inputs[str(item.get("kind", "?"))] = inputs.get(str(item.get("kind", "?")), 0) + 1
    if inputs:
        made["input objects"] = ", ".join(f"{count} {kind}" for kind, count in sorted(inputs.items()))
    if made:
        columns.append(element("div", element("h3", "Calculation"), _facts(made, _CALCULATION)))
    timings = [
        (key.replace("_", " "), f"{number(float(value), 1)} s") for key, value in document.get("timings_s", {}).items()
    ]
    if timings:
        columns.append(element("div", element("h3", "Timings"), _pairs(timings)))
    versions = {"dicomplan": str(document.get("dicomplan", "")), **data.versions}
    columns.append(
        element("div", element("h3", "Versions"), _pairs([(key, str(value)) for key, value in versions.items()]))
    )
    parts = [element("div", *columns, class_="columns")]
    if document.get("template"):
        text = json.dumps(document["template"], indent=2, sort_keys=True, ensure_ascii=False, default=str)
        parts.append(element("details", element("summary", "Template as read"), element("pre", text)))
    return section("calculation", "How it was made", *parts)


def footer(data: ReportData) -> Markup:
    """The disclaimer once more."""
    own = str(data.document.get("disclaimer", ""))
    return element(
        "footer", element("p", element("b", NOT_A_DEVICE)), element("p", own) if own and own != NOT_A_DEVICE else ""
    )
