"""HTML and SVG as text that is safe by construction: plain strings are escaped, only :class:`Markup` passes as it is."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Sequence

_VOID = frozenset({"meta", "input", "br", "hr", "img"})


class Markup(str):
    """Text that already is HTML; every other string that meets :func:`element` is escaped."""

    __slots__ = ()


Attribute = str | float | int | bool | None


def escape(content: str) -> Markup:
    """``content`` as HTML text; :class:`Markup` is returned as it is."""
    return content if isinstance(content, Markup) else Markup(html.escape(content, quote=True))


def join(parts: Iterable[str]) -> Markup:
    """The parts one after the other, plain strings escaped."""
    return Markup("".join(escape(part) for part in parts))


def element(name: str, /, *content: str, **attributes: Attribute) -> Markup:
    """An HTML or SVG element with its content.

    In attribute names a trailing underscore is dropped and other underscores become hyphens (``class_``,
    ``stroke_width``). False and None leave an attribute out, True writes it empty (well-formed as XML too).
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        shown = "" if value is True else html.escape(str(value), quote=True)
        written.append(f' {key.rstrip("_").replace("_", "-")}="{shown}"')
    opening = f"<{name}{''.join(written)}>"
    return Markup(opening) if name in _VOID else Markup(f"{opening}{join(content)}</{name}>")


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: Sequence[int] = (), class_: str = ""
) -> Markup:
    """A table; ``numeric`` names the columns (from 0) that are set flush right."""
    kinds = ["number" if column in numeric else None for column in range(len(head))]
    header = element("tr", *(element("th", cell, class_=kind) for cell, kind in zip(head, kinds, strict=True)))
    body = [
        element("tr", *(element("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)))
        for row in rows
    ]
    inner = element("table", element("thead", header), element("tbody", *body), class_=class_ or None)
    return element("div", inner, class_="scroll")


def section(identifier: str, title: str, *content: str) -> Markup:
    """A section with its heading."""
    return element("section", element("h2", title), *content, id=identifier)


def script_json(identifier: str, value: object) -> Markup:
    """A JSON island for the page's script; no character in it can end the script element."""
    body = json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
    for character, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        body = body.replace(character, code)
    return element("script", Markup(body), type="application/json", id=identifier)


def number(value: float | None, digits: int = 2) -> str:
    """A number with ``digits`` decimals and a true minus sign; a dash for None or not a number."""
    if value is None or math.isnan(value):
        return "–"
    shown = f"{value:.{digits}f}"
    if float(shown) == 0:
        shown = shown.lstrip("-")
    return shown.replace("-", "−")


def volume_text(value: float | None) -> str:
    """A volume in cm3 with about three significant digits."""
    if value is None or math.isnan(value):
        return "–"
    return number(value, 0 if value >= 100 else 1 if value >= 10 else 2)
