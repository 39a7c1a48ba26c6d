"""The report of a commissioning: one HTML file with every curve, its fit and its residuals; nothing is loaded from outside."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dicomplan import DISCLAIMER
from dicomplan.commissioning.commission import Commissioning
from dicomplan.commissioning.residuals import Compared
from dicomplan.commissioning.result import residual_lines, unused
from dicomplan.machine.model import MachineModel

FloatArray = NDArray[np.float64]

_WIDE, _HIGH, _LOW, _LEFT = 560.0, 260.0, 90.0, 46.0
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1240px;margin:2em auto;padding:0 1em;color:#1c2733}"
    "pre{font:12.5px/1.45 ui-monospace,monospace;overflow-x:auto;background:#f4f6f8;padding:1em}"
    "figure{display:inline-block;margin:0 1em 1.5em 0;vertical-align:top}figcaption{font-size:13px;max-width:560px}"
    "svg{background:#fff}svg text{font:11px system-ui,sans-serif;fill:#445}"
    ".over figcaption{color:#a02c1c}table{border-collapse:collapse}td,th{padding:.15em .8em;text-align:left;border-bottom:"
    "1px solid #dde}"
)


def report_html(done: Commissioning, machine: MachineModel) -> str:
    """The page: parameters with their provenance, the table of residuals, a picture of every curve."""
    fitted = "".join(
        f"<tr><td>{_safe(key)}</td><td>{value:.5g}</td></tr>" for key, value in done.fit.parameters.items()
    )
    notes = "".join(f"<li>{_safe(line)}</li>" for line in machine.provenance)
    left = "".join(f"<li>{_safe(line)}</li>" for line in unused(done.measured))
    rows = done.residuals
    parts = [
        f"<h1>Commissioning of {_safe(machine.name)}</h1><p>{_safe(machine.description)}</p><p>{_safe(DISCLAIMER)}</p>",
        "<p>Points: measured. Blue line: fitted machine, collapsed cone (tissue-phantom ratios between the computed depths: "
        "fast model times the interpolated ratio of the two). Grey, dashed: fast model (pencil beam). Below: computed minus "
        "measured, in per cent (of the measured dose for depth, of the axis for profiles), 2 % at the dotted lines. "
        "&ldquo;held&rdquo;: the fit did not see it.</p>",
        f"<h2>Parameters</h2><table>{fitted}</table><ul>{notes}</ul>",
        f"<h2>Residuals</h2><pre>{_safe(chr(10).join(residual_lines(done)))}</pre>",
        *(f"<h2>{title}</h2>{''.join(map(_figure, group))}" for title, group in _groups(done) if group),
        f"<h2>Output factors</h2>{_outputs(rows.output)}" if rows.output else "",
        f"<h2>Found and not used</h2><ul>{left}</ul>" if left else "",
    ]
    head = f'<meta charset="utf-8"><title>{_safe(machine.name)}</title><style>{_STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _groups(done: Commissioning) -> list[tuple[str, Sequence[Compared]]]:
    return [("Depth", done.residuals.depth), ("Profiles", done.residuals.profiles)]


def _figure(one: Compared) -> str:
    profile = "penumbra_difference_mm" in one.figures
    percent = 100.0 * (one.computed - one.measured) / (1.0 if profile else np.maximum(one.measured, 1e-9))
    return _picture(one.title, one, one.at_mm, (one.measured, one.computed, one.pencil), percent)


def _outputs(rows: Sequence[Compared]) -> str:
    """One picture per table: factors over the side of the field."""
    found = []
    tables = dict.fromkeys(one.title.rpartition("(")[2] for one in rows)
    for table in tables:
        members = [one for one in rows if one.title.endswith("(" + table)]
        side = np.array([one.at_mm[0] for one in members])
        curves = tuple(
            np.array([getattr(one, key)[0] for one in members]) for key in ("measured", "computed", "pencil")
        )
        percent = np.array([one.figures["percent"] for one in members])
        found.append(_picture(f"output factors ({table}", None, side, curves, percent))
    return "".join(found)


def _picture(
    title: str, one: Compared | None, at: FloatArray, curves: tuple[FloatArray, ...], percent: FloatArray
) -> str:
    measured, computed, pencil = curves
    low, high = float(at[0]), float(at[-1]) if at[-1] > at[0] else float(at[0]) + 1.0
    top = 1.08 * float(max(measured.max(), computed.max()))
    spread = 5.0

    def x(place: float) -> float:
        return _LEFT + (_WIDE - _LEFT - 10) * (place - low) / (high - low)

    def y(value: float) -> float:
        return 10 + (_HIGH - 20) * (1 - value / top)

    def r(value: float) -> float:
        return _HIGH + 10 + 0.5 * _LOW * (1 - float(np.clip(value, -spread, spread)) / spread)

    def line(values: FloatArray, place: Callable[[float], float], style: str) -> str:
        points = " ".join(f"{x(a):.1f},{place(b):.1f}" for a, b in zip(at, values, strict=True))
        return f'<polyline points="{points}" fill="none" {style}/>'

    parts = [f'<rect x="{_LEFT}" y="10" width="{_WIDE - _LEFT - 10}" height="{_HIGH - 20}" fill="none" stroke="#99a"/>']
    for tick in _ticks(low, high):
        parts.append(f'<text x="{x(tick):.1f}" y="{_HIGH + _LOW + 24}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="10" y2="{_HIGH - 10}" stroke="#eee"/>')
    for tick in _ticks(0.0, top):
        parts.append(f'<text x="{_LEFT - 4}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts.append(line(pencil, y, 'stroke="#9aa3ad" stroke-dasharray="4 3"'))
    parts.append(line(computed, y, 'stroke="#1f5fa8" stroke-width="1.4"'))
    parts += [
        f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="1.6" fill="#1c2733"/>' for a, b in zip(at, measured, strict=True)
    ]
    for level, style in ((0.0, ""), (2.0, ' stroke-dasharray="2 3"'), (-2.0, ' stroke-dasharray="2 3"')):
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDE - 10}" y1="{r(level):.1f}" y2="{r(level):.1f}" stroke="#99a"{style}/>'
        )
        parts.append(
            f'<text x="{_LEFT - 4}" y="{r(level) + 4:.1f}" text-anchor="end">{f"{level:+g}" if level else "0"} %</text>'
        )
    parts.append(line(percent, r, 'stroke="#a02c1c"'))
    over = one is not None and one.passed is False
    seen = "" if one is None else ("fit: " if one.fitted else "held: ")
    label = f"{seen}{title}; mm{'; over its bar' if over else ''}"
    size = f'width="{_WIDE:g}" height="{_HIGH + _LOW + 30:g}" viewBox="0 0 {_WIDE:g} {_HIGH + _LOW + 30:g}"'
    svg = f'<svg {size} role="img" aria-label="{_safe(label)}">{"".join(parts)}</svg>'
    return f"<figure{' class=over' if over else ''}>{svg}<figcaption>{_safe(label)}</figcaption></figure>"


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 6.0
    power = 10.0 ** np.floor(np.log10(raw))
    step = power * next(one for one in (1.0, 2.0, 5.0, 10.0) if one * power >= raw)
    first = np.ceil(low / step)
    return [float(k * step) for k in np.arange(first, high / step + 1e-9)]


def _safe(text: str) -> str:
    return html.escape(text, quote=True)
