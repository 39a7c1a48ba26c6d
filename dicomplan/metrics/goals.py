"""Goals as values: what a metric is, and the limit it is held against. The text grammar is in ``grammar.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MetricKind = Literal["D", "DC", "mean", "max", "min", "V", "CV"]


@dataclass(frozen=True)
class Metric:
    """A dose-volume metric in AAPM TG-263 form.

    ``D``: least dose (Gy) in the hottest ``argument`` (``%`` or ``cc``) of the volume: D95%, D0.03cc.
    ``DC``: highest dose (Gy) in the coldest ``argument``. ``mean``, ``max``, ``min``: dose in Gy, no argument.
    ``V``: volume (% or cc) that receives at least ``argument`` Gy. ``CV``: volume that receives less.
    ``argument_unit`` is ``%``, ``cc``, ``Gy`` or empty; a ``%`` on a dose argument (V95%) means percent of the level.
    """

    kind: MetricKind
    argument: float = 0.0
    argument_unit: Literal["", "%", "cc", "Gy"] = ""

    @property
    def name(self) -> str:
        """Canonical text: ``D95%``, ``D0.03cc``, ``Dmean``, ``V20Gy``, ``CV17.5Gy``."""
        if self.kind in ("mean", "max", "min"):
            return f"D{self.kind}"
        return f"{self.kind}{self.argument:g}{self.argument_unit}"


@dataclass(frozen=True)
class Goal:
    """A metric and its limit: ``at_most`` (<=) or at least (>=) ``limit`` in ``unit`` (``Gy``, ``%`` or ``cc``).

    ``acceptable`` is the second, laxer limit in the same unit, or None. ``text`` is the goal as written. A dose limit
    whose unit is ``%`` is percent of the structure's level until :func:`dicomplan.metrics.grammar.in_gray` resolves it.
    """

    metric: Metric
    at_most: bool
    limit: float
    unit: Literal["Gy", "%", "cc"]
    acceptable: float | None = None
    text: str = ""

    def met(self, value: float) -> bool:
        """Whether ``value`` (same unit) satisfies the limit; compared unrounded."""
        return value <= self.limit if self.at_most else value >= self.limit
