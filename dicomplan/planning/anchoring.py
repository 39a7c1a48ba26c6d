"""The accurate dose of fluence that changes little from round to round: exact now and then, by differences in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.delivery import Beam
from dicomplan.dose.engines import DoseEngine, course_dose
from dicomplan.dose.fluence import FluencePlane
from dicomplan.dose.volume import DoseVolume

Float32Array = NDArray[np.float32]
Planes = Sequence[tuple[Beam, FluencePlane]]


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

    def exact(self, planes: Planes) -> DoseVolume:
        """Dose by the accurate engine; later near doses start from here."""
        dose = self._by(self.accurate, planes)
        if self.fast is not None:
            self._difference_gy = dose.dose_gy - self._by(self.fast, planes).dose_gy
        return dose

    def near(self, planes: Planes) -> DoseVolume:
        """Dose of planes much like those of the last exact dose; exact if there was none, or no fast engine."""
        if self.fast is None or self._difference_gy is None:
            return self.exact(planes)
        dose = self._by(self.fast, planes)
        return DoseVolume(dose.grid, np.maximum(dose.dose_gy + self._difference_gy, np.float32(0.0)))

    def _by(self, engine: DoseEngine, planes: Planes) -> DoseVolume:
        doses = [engine.dose_gy_per_fraction(beam, plane) for beam, plane in planes]
        return course_dose(engine.grid, doses, self.fractions)
