"""The accurate dose of fluence that changes little from round to round: exact now and then, by differences in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.delivery import Beam, direction
from dicomplan.dose.engines import DoseEngine, course_dose
from dicomplan.dose.fluence import FluencePlane
from dicomplan.dose.volume import DoseVolume

Float32Array = NDArray[np.float32]
Planes = Sequence[tuple[Beam, FluencePlane]]

_ROUNDING = 1e-10  # of a plane's highest value: far below the last digit of a dose in single precision


@dataclass
class AnchoredDose:
    """Dose of the course by ``accurate``; near an exact dose also as that plus what ``fast`` says the change makes.

    ``fast`` is None where the accurate engine is fast enough itself. The error of :meth:`near` is that of the fast
    engine on the *change* of the fluence alone; what is exported or reported comes from :meth:`exact`.
    """

    accurate: DoseEngine
    fast: DoseEngine | None
    fractions: int
    _difference_gy: Float32Array | None = field(default=None, repr=False)
    _known: list[tuple[Beam, FluencePlane, Float32Array]] = field(default_factory=list, repr=False)

    def exact(self, planes: Planes) -> DoseVolume:
        """Dose by the accurate engine; later near doses start from here."""
        dose = course_dose(self.accurate.grid, self.per_fraction(planes), self.fractions)
        if self.fast is not None:
            self._difference_gy = dose.dose_gy - self._by(self.fast, planes).dose_gy
        return dose

    def per_fraction(self, planes: Planes) -> list[Float32Array]:
        """Dose (z, y, x) of each plane by the accurate engine, Gy of one fraction; what the last call gave is not done again."""
        found = [self._last(beam, plane) for beam, plane in planes]
        doses = [
            self.accurate.dose_gy_per_fraction(beam, plane) if dose is None else dose
            for (beam, plane), dose in zip(planes, found, strict=True)
        ]
        self._known = [(beam, plane, dose) for (beam, plane), dose in zip(planes, doses, strict=True)]
        return doses

    def _last(self, beam: Beam, plane: FluencePlane) -> Float32Array | None:
        for known, before, dose in self._known:
            if direction(known) == direction(beam) and _same_plane(before, plane):
                return dose
        return None

    def near(self, planes: Planes) -> DoseVolume:
        """Dose of planes much like those of the last exact dose; exact if there was none, or no fast engine."""
        if self.fast is None or self._difference_gy is None:
            return self.exact(planes)
        dose = self._by(self.fast, planes)
        return DoseVolume(dose.grid, np.maximum(dose.dose_gy + self._difference_gy, np.float32(0.0)))

    def _by(self, engine: DoseEngine, planes: Planes) -> DoseVolume:
        doses = [engine.dose_gy_per_fraction(beam, plane) for beam, plane in planes]
        return course_dose(engine.grid, doses, self.fractions)


def _same_plane(one: FluencePlane, other: FluencePlane) -> bool:
    """Whether two planes differ by rounding alone: metersets come back from a file as parts of their sum."""
    if one.values.shape != other.values.shape:
        return False
    axes = ((one.x_mm, other.x_mm), (one.y_mm, other.y_mm))
    if not all(np.array_equal(before, after) for before, after in axes):
        return False
    return bool(np.allclose(one.values, other.values, rtol=0.0, atol=_ROUNDING * float(one.values.max(initial=0.0))))
