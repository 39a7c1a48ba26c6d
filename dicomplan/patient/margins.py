"""Margins: expanding and shrinking structures by six sides, as fractional coverage."""

from __future__ import annotations

from dataclasses import dataclass

SIDES = ("left", "right", "anterior", "posterior", "superior", "inferior")
"""Patient sides of a margin: DICOM +x, -x, -y, +y, +z, -z."""


@dataclass(frozen=True)
class Margin:
    """Margin in mm towards the six patient sides (LPS: left +x, posterior +y, superior +z); ellipsoidal between them.

    Raises ValueError if one is negative (shrinking is :func:`shrink`).
    """

    left_mm: float = 0.0
    right_mm: float = 0.0
    anterior_mm: float = 0.0
    posterior_mm: float = 0.0
    superior_mm: float = 0.0
    inferior_mm: float = 0.0

    def __post_init__(self) -> None:
        if min(self.sides_mm) < 0:
            raise ValueError(f"a margin is not negative: {self.sides_mm} mm")

    @property
    def sides_mm(self) -> tuple[float, float, float, float, float, float]:
        """The six margins in mm in the order of :data:`SIDES`."""
        return (
            self.left_mm,
            self.right_mm,
            self.anterior_mm,
            self.posterior_mm,
            self.superior_mm,
            self.inferior_mm,
        )

    @classmethod
    def uniform(cls, margin_mm: float) -> Margin:
        """The same margin in mm towards all sides."""
        return cls(*(margin_mm,) * 6)
