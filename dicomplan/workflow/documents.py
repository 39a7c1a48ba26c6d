"""Values as they stand in JSON documents of several commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dicomplan.errors import DicomplanError
from dicomplan.events import Finding, Severity
from dicomplan.geometry.grid import VoxelGrid

_RANK = {"error": 0, "warning": 1, "info": 2}
# Errors about one attribute speak of it without its name, which stands beside them; a finding is read alone.
_FRAGMENTS = ("is ", "found ", "does not ", "cannot ", "holds ")


def grid_document(grid: VoxelGrid) -> dict[str, Any]:
    """A grid: shape and spacing in array order (z, y, x); origin, the centre of the first voxel, in x, y, z (LPS).

    ``direction``: rows of the matrix whose columns are the axes of the x, y and z index. ``extent_mm``: outer voxel
    edges along patient x, y and z, of the box that holds all corners.
    """
    corners = grid.patient_from_index(
        [
            [axis * (n - 0.5) - (1 - axis) * 0.5 for axis, n in zip(corner, grid.shape, strict=True)]
            for corner in _CORNERS
        ]
    )
    extent = [
        [round(float(low), 4), round(float(high), 4)] for low, high in zip(corners.min(0), corners.max(0), strict=True)
    ]
    return {
        "shape": list(grid.shape),
        "spacing_mm": [round(value, 6) for value in grid.spacing_mm],
        "origin_mm": [round(value, 6) for value in grid.origin_mm],
        "direction": [list(row) for row in grid.direction],
        "extent_mm": extent,
        "frame_of_reference_uid": grid.frame_of_reference_uid,
    }


_CORNERS = [(z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1)]


def as_finding(error: DicomplanError, severity: Severity = "error") -> Finding:
    """A refusal as a finding: a sentence that names the attribute, with its remedy in brackets."""
    message = error.message
    if error.tag and message.startswith(_FRAGMENTS):
        keyword = error.tag.split(" ")[0]
        message = f"{keyword}: {message}" if message.startswith("found") else f"{keyword} {message}"
    return Finding(severity, f"{message} ({error.hint})" if error.hint else message, file=error.file, tag=error.tag)


def sorted_findings(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings once each: errors first, then warnings, then notes; in their order within a severity."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda finding: _RANK[finding.severity]))


def finding_documents(findings: Sequence[Finding], *, files: bool = True) -> list[dict[str, Any]]:
    """The findings as JSON; without ``files``, what may name a file or patient is left out."""
    return [
        {
            "severity": item.severity,
            "message": item.message,
            **({"file": item.file} if files else {}),
            "tag": item.tag,
        }
        for item in findings
    ]
