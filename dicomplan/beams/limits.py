"""Machine limits: one question, one answer. What of a beam could this machine not deliver?"""

from __future__ import annotations

import numpy as np

from dicomplan.beams.delivery import Aperture, BeamDelivery, Segment
from dicomplan.machine.model import JawModel, MachineModel, MlcModel

TOLERANCE_MM = 0.005
"""Half of the last digit that leaf and jaw positions are printed with: below it a position is the same."""

TOLERANCE_MU = 1e-6
"""Metersets closer than this to the minimum are taken as the minimum (they carry round-off of a normalisation)."""


def violations(delivery: BeamDelivery, machine: MachineModel) -> tuple[str, ...]:
    """Every limit of ``machine`` that ``delivery`` breaks, as sentences with beam, segment, leaf pair, found and allowed.

    Looked at: jaws present where the machine has them, their travel and opening, and that those stand still which
    cannot move during a beam; number of leaf pairs; finite
    positions; opposed leaves that overlap or stand closer than the minimum gap (a pair that is closed and does not
    move during the beam may touch); over-travel past the axis and retraction from it; leaf span of each bank;
    interdigitation where the machine forbids it; meterset of each segment; gantry and couch angles that the machine's
    collision table forbids. Where leaves or jaws move while the beam is on: their speed at the beam's dose rate, the
    dose rate, and the meterset of the whole beam in place of each segment's; a moving segment is looked at where it
    starts and ends, all else lies between. Segments and leaf pairs count from 1. Of each kind and segment only the
    worst leaf pair is named. Empty when the beam can be delivered.
    """
    beam = f"beam {delivery.beam.number} ({delivery.beam.name})"
    if not delivery.segments:
        return (f"{beam}: it has no segments, expected at least one",)
    found = [f"{beam}: {text}" for text in _collisions(delivery, machine)]
    pairs = machine.mlc.leaf_pairs
    least = machine.min_segment_meterset_mu - TOLERANCE_MU
    if delivery.moving and not delivery.meterset_mu >= least:
        allowed = f"allowed from {machine.min_segment_meterset_mu:g} MU"
        found.append(f"{beam}: meterset {delivery.meterset_mu:.4g} MU, {allowed}")
    rate = delivery.dose_rate_mu_min
    if delivery.moving and rate is not None and rate > machine.dose_rate_mu_min * (1.0 + 1e-6):
        found.append(f"{beam}: dose rate {rate:g} MU/min, allowed up to {machine.dose_rate_mu_min:g} MU/min")
    sound = []
    for number, segment in enumerate(delivery.segments, 1):
        where = f"{beam}, segment {number}"
        meterset = segment.meterset_mu
        if delivery.moving and not meterset >= 0:
            found.append(f"{where}: meterset {meterset:.4g} MU, allowed from 0 MU")
        if not delivery.moving and not meterset >= least:
            found.append(f"{where}: meterset {meterset:.4g} MU, allowed from {machine.min_segment_meterset_mu:g} MU")
        for aperture in (segment.aperture,) if segment.end is None else (segment.aperture, segment.end):
            found += _jaw_violations(where, "X", aperture.jaw_x_mm, machine.jaw_x)
            found += _jaw_violations(where, "Y", aperture.jaw_y_mm, machine.jaw_y)
            shape = np.shape(aperture.leaf_positions_mm)
            if shape != (2, pairs):
                found.append(f"{where}: leaf positions of shape {shape}, the machine has two banks of {pairs} leaves")
            elif not np.isfinite(aperture.leaf_positions_mm).all():
                found.append(f"{where}: leaf positions that are not finite numbers")
            else:
                sound.append((where, aperture))
        if segment.end is not None and np.shape(segment.end.leaf_positions_mm) == (2, pairs):
            found += _speed_violations(where, segment, machine, rate or machine.dose_rate_mu_min)
    found += [f"{beam}: {text}" for text in _jaws_that_should_stand_still(delivery, machine)]
    if sound:
        positions = np.stack([aperture.leaf_positions_mm for _, aperture in sound])
        still = (np.abs(positions - positions[0]) <= TOLERANCE_MM).all(axis=(0, 1))
        for where, aperture in sound:
            found += _leaf_violations(where, aperture, machine.mlc, still)
    return tuple(dict.fromkeys(found))


def _collisions(delivery: BeamDelivery, machine: MachineModel) -> list[str]:
    """Gantry and couch angles that the machine's table says collide."""
    gantry, couch = delivery.beam.gantry_angle_deg % 360.0, delivery.beam.couch_angle_deg % 360.0
    return [
        f"gantry {gantry:g} with couch {couch:g} degrees: the gantry meets the couch or the patient "
        f"(machine file: couch {zone.couch_deg[0]:g} to {zone.couch_deg[1]:g}, gantry {zone.gantry_deg[0]:g} to "
        f"{zone.gantry_deg[1]:g} degrees)"
        for zone in machine.collisions
        if _within(couch, zone.couch_deg) and _within(gantry, zone.gantry_deg)
    ]


def _within(angle: float, sector: tuple[float, float]) -> bool:
    """Whether an angle lies in the sector from its first to its second angle, in the sense of rising angles."""
    return (angle - sector[0]) % 360.0 <= (sector[1] - sector[0]) % 360.0


def _speed_violations(where: str, segment: Segment, machine: MachineModel, rate_mu_min: float) -> list[str]:
    """Leaves and jaws that are asked to move faster than they can while the segment's meterset is given."""
    assert segment.end is not None
    seconds = 60.0 * segment.meterset_mu / rate_mu_min
    found = []
    ways = np.abs(segment.end.leaf_positions_mm - segment.aperture.leaf_positions_mm)
    fastest = machine.mlc.max_speed_mm_s
    if fastest > 0 and not ways.max() <= fastest * seconds + 2.0 * TOLERANCE_MM:
        bank, pair = np.unravel_index(int(ways.argmax()), ways.shape)
        speed = ways.max() / seconds if seconds > 0 else np.inf
        allowed = f"allowed up to {fastest:g} mm/s at {rate_mu_min:g} MU/min"
        found.append(f"{where}, leaf pair {pair + 1}: leaf X{bank + 1} at {speed:.1f} mm/s, {allowed}")
    for axis, before, after, model in (
        ("X", segment.aperture.jaw_x_mm, segment.end.jaw_x_mm, machine.jaw_x),
        ("Y", segment.aperture.jaw_y_mm, segment.end.jaw_y_mm, machine.jaw_y),
    ):
        if before is None or after is None or model is None or model.max_speed_mm_s <= 0:
            continue
        way = max(abs(after[0] - before[0]), abs(after[1] - before[1]))
        if not way <= model.max_speed_mm_s * seconds + 2.0 * TOLERANCE_MM:
            speed = way / seconds if seconds > 0 else np.inf
            allowed = f"allowed up to {model.max_speed_mm_s:g} mm/s at {rate_mu_min:g} MU/min"
            found.append(f"{where}: {axis} jaws at {speed:.1f} mm/s, {allowed}")
    return found


def _jaws_that_should_stand_still(delivery: BeamDelivery, machine: MachineModel) -> list[str]:
    """Jaws that do not stand where they stood at the first control point, on a machine whose jaws are fixed in a beam."""
    shapes = [shape for one in delivery.segments for shape in (one.aperture, one.end) if shape is not None]
    found = []
    for axis, model, jaws in (
        ("X", machine.jaw_x, [shape.jaw_x_mm for shape in shapes]),
        ("Y", machine.jaw_y, [shape.jaw_y_mm for shape in shapes]),
    ):
        if model is None or not model.fixed_in_beam:
            continue
        edges = np.array([jaw for jaw in jaws if jaw is not None and np.isfinite(jaw).all()])
        way = float(np.ptp(edges, axis=0).max()) if len(edges) else 0.0
        if way > 2.0 * TOLERANCE_MM:
            found.append(f"{axis} jaws move by {way:.2f} mm, allowed 0 mm: they are fixed during a beam")
    return found


def _jaw_violations(where: str, axis: str, jaw: tuple[float, float] | None, model: JawModel | None) -> list[str]:
    if model is None:
        return [] if jaw is None else [f"{where}: {axis} jaws are set, the machine has none"]
    if jaw is None:
        return [f"{where}: {axis} jaws are not set, the machine has them"]
    first, second = jaw
    if not np.isfinite(jaw).all():
        return [f"{where}: {axis} jaw positions that are not finite numbers"]
    found = []
    ranges = (model.first_range_mm, model.second_range_mm)
    for name, position, (low, high) in zip((f"{axis}1", f"{axis}2"), jaw, ranges, strict=True):
        if not low - TOLERANCE_MM <= position <= high + TOLERANCE_MM:
            found.append(f"{where}: jaw {name} at {position:.2f} mm, allowed {low:g} to {high:g} mm")
    if second - first < max(model.min_opening_mm, 0.0) - TOLERANCE_MM:
        found.append(f"{where}: {axis} jaws {second - first:.2f} mm apart, allowed from {model.min_opening_mm:g} mm")
    return found


def _leaf_violations(where: str, aperture: Aperture, mlc: MlcModel, still: np.ndarray) -> list[str]:
    """Limits of the leaves of one segment; ``still`` (N,) marks the pairs that do not move during the beam."""
    first, second = aperture.leaf_positions_mm
    found = []
    gap = second - first
    if gap.min() < -TOLERANCE_MM:
        pair = int(gap.argmin())
        found.append(f"{where}, leaf pair {pair + 1}: leaves overlap by {-gap[pair]:.2f} mm, allowed 0 mm")
    touching = still & (np.abs(gap) <= TOLERANCE_MM)
    narrow = np.where(touching | (gap < -TOLERANCE_MM), np.inf, gap)
    if narrow.min() < mlc.min_gap_mm - TOLERANCE_MM:
        pair = int(narrow.argmin())
        found.append(f"{where}, leaf pair {pair + 1}: gap of {gap[pair]:.2f} mm, allowed from {mlc.min_gap_mm:g} mm")
    for bank, past in (("X1", first), ("X2", -second)):
        over, back = int(past.argmax()), int(past.argmin())
        if past[over] > mlc.over_travel_mm + TOLERANCE_MM:
            limit = f"allowed up to {mlc.over_travel_mm:g} mm"
            found.append(f"{where}, leaf pair {over + 1}: leaf {bank} {past[over]:.2f} mm past the axis, {limit}")
        if -past[back] > mlc.retraction_mm + TOLERANCE_MM:
            limit = f"allowed up to {mlc.retraction_mm:g} mm"
            found.append(f"{where}, leaf pair {back + 1}: leaf {bank} withdrawn {-past[back]:.2f} mm, {limit}")
    for bank, positions in (("X1", first), ("X2", second)):
        span = positions.max() - positions.min()
        if span > mlc.leaf_span_mm + TOLERANCE_MM:
            ends = f"leaf pairs {int(positions.argmin()) + 1} and {int(positions.argmax()) + 1}"
            found.append(f"{where}, {ends}: bank {bank} spans {span:.2f} mm, allowed up to {mlc.leaf_span_mm:g} mm")
    if not mlc.interdigitation and mlc.leaf_pairs > 1:
        beyond = np.concatenate([first[:-1] - second[1:], first[1:] - second[:-1]])
        worst = int(beyond.argmax())
        if beyond[worst] > TOLERANCE_MM:
            pair = worst % (mlc.leaf_pairs - 1)
            found.append(
                f"{where}, leaf pairs {pair + 1} and {pair + 2}: opposed leaves pass each other by "
                f"{beyond[worst]:.2f} mm, allowed 0 mm (interdigitation)"
            )
    return found
