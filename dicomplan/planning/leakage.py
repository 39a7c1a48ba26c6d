"""What leaves and jaws will let through while a fluence is delivered, before it is sequenced in earnest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.beamlets import BeamletMap
from dicomplan.beams.delivery import Segment, stills
from dicomplan.dose.engines import FIELD_MARGIN_MM
from dicomplan.dose.fluence import (
    FluencePlane,
    aperture_transmission,
    both_sources,
    box_overlap,
    field_range_mm,
    plane_axes,
)
from dicomplan.errors import NotDeliverableError
from dicomplan.machine.model import JawModel, MachineModel
from dicomplan.plan.template import DeliveryMode
from dicomplan.planning.delivering import sequence_plan, slide_plan

FloatArray = NDArray[np.float64]

_LEVELS = 10  # of each beam: metersets of finer steps differ little
_RESTARTS = 1  # apertures count by their meterset and size, not by their number


@dataclass(frozen=True)
class BeamLeakage:
    """What passes through closed leaves and jaws of one beam beside its open fluence, MU of one fraction.

    ``plane``: as fluence that the engines take; ``on_beamlets_mu`` (count,): its mean on each beamlet, sources' blur left out.
    """

    plane: FluencePlane
    on_beamlets_mu: FloatArray

    def times(self, factor: float) -> BeamLeakage:
        """The leakage of ``factor`` times the metersets."""
        plane = replace(self.plane, values=self.plane.values * factor)
        return BeamLeakage(plane, self.on_beamlets_mu * factor)


def expected_leakage(
    maps: Sequence[BeamletMap], fluences_mu: Sequence[FloatArray], machine: MachineModel, mode: DeliveryMode
) -> tuple[BeamLeakage | None, ...]:
    """The leakage of each map's fluence (count,), from a quick sequence of it in the delivery's ``mode``.

    It depends on metersets and on where jaws stand, so on the fluence as a whole; None for a beam that gives nothing, or
    that cannot be sequenced: sequencing in earnest has the error for that.
    """
    return tuple(
        _of_beam(one, fluence, machine, mode) if float(fluence.max(initial=0.0)) > 0.0 else None
        for one, fluence in zip(maps, fluences_mu, strict=True)
    )


def _of_beam(one: BeamletMap, fluence: FloatArray, machine: MachineModel, mode: DeliveryMode) -> BeamLeakage | None:
    try:
        if mode == "sliding_window":
            plan = slide_plan([one], [fluence], machine)
        else:
            step = max(float(fluence.max()) / _LEVELS, machine.min_segment_meterset_mu)
            plan = sequence_plan([one], [fluence], machine, step, restarts=_RESTARTS)
    except NotDeliverableError:
        return None
    segments = tuple(segment for item in plan.deliveries for segment in item.segments)
    if not segments:
        return None
    x_mm, y_mm = plane_axes(*field_range_mm(segments, machine, FIELD_MARGIN_MM))
    let_through = _let_through(segments, machine, x_mm, y_mm)
    along, across = (
        box_overlap(edges[:-1], edges[1:], axis) / np.diff(edges)[:, None] * (axis[1] - axis[0])
        for edges, axis in ((one.x_edges_mm, x_mm), (one.y_edges_mm, y_mm))
    )
    on_beamlets = (across @ let_through @ along.T)[one.active]
    return BeamLeakage(both_sources(let_through, machine, x_mm, y_mm), on_beamlets)


def _let_through(segments: Sequence[Segment], machine: MachineModel, x_mm: FloatArray, y_mm: FloatArray) -> FloatArray:
    """(ny, nx) MU behind leaves and jaws: what there is less what there would be if these stopped everything."""
    perfect = replace(
        machine,
        mlc=replace(machine.mlc, transmission=0.0),
        jaw_x=_perfect(machine.jaw_x),
        jaw_y=_perfect(machine.jaw_y),
    )
    total = np.zeros((len(y_mm), len(x_mm)))
    for segment in stills(segments):
        through, opened = (aperture_transmission(segment.aperture, each, x_mm, y_mm) for each in (machine, perfect))
        total += segment.meterset_mu * (through - opened)
    return total


def _perfect(jaw: JawModel | None) -> JawModel | None:
    return None if jaw is None else replace(jaw, transmission=0.0)
