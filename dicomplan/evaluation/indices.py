"""Indices of a dose: conformity, homogeneity, and the table of metrics of one structure."""

from __future__ import annotations

from dicomplan.metrics.dvh import DoseSamples, evaluate
from dicomplan.metrics.goals import Metric

STRUCTURE_METRICS: dict[str, Metric] = {
    "Dmean_gy": Metric("mean"),
    "Dmax_gy": Metric("max"),
    "Dmin_gy": Metric("min"),
    "D98%_gy": Metric("D", 98.0, "%"),
    "D95%_gy": Metric("D", 95.0, "%"),
    "D50%_gy": Metric("D", 50.0, "%"),
    "D2%_gy": Metric("D", 2.0, "%"),
    "D0.03cc_gy": Metric("D", 0.03, "cc"),
    "D0.1cc_gy": Metric("D", 0.1, "cc"),
}
"""Metrics of a structure by their key in ``plan.json``; all in Gy of the course."""


def structure_metrics(samples: DoseSamples) -> dict[str, float]:
    """Metrics of one structure by their keys in ``plan.json``, Gy. Raises ValueError for an empty structure."""
    return {key: evaluate(metric, samples) for key, metric in STRUCTURE_METRICS.items()}


def conformity_index(target: DoseSamples, body: DoseSamples, level_gy: float) -> float:
    """Conformity index of Paddick: (target volume at the level)^2 / (target volume x body volume at the level).

    ``level_gy`` is the prescription; 1 is perfect, 0 if the level is reached nowhere. Both sets of samples are of one
    dose. Source: Paddick, J Neurosurg 93 (2000) 219. Raises ValueError for an empty target.
    """
    if target.volume_cc <= 0:
        raise ValueError("conformity index of an empty target")
    covered = target.volume_at_least_cc(level_gy)
    # a target that reaches out of the body still holds its own part of the isodose volume
    isodose = max(body.volume_at_least_cc(level_gy), covered)
    return 0.0 if isodose <= 0 else covered**2 / (target.volume_cc * isodose)


def homogeneity_index(target: DoseSamples) -> float:
    """Homogeneity index (D2% - D98%) / D50%; 0 is perfect (ICRU Report 83, 2010, section 3.7.1).

    Raises ValueError for an empty target or one whose median dose is 0.
    """
    metrics = structure_metrics(target)
    if metrics["D50%_gy"] <= 0:
        raise ValueError("homogeneity index of a target without dose")
    return (metrics["D2%_gy"] - metrics["D98%_gy"]) / metrics["D50%_gy"]
