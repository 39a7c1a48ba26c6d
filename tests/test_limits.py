"""Machine limits: each broken limit is named with what was found and what is allowed; sound beams give nothing."""

from dataclasses import replace

import numpy as np
import pytest
from machines_for_tests import generic_120, without_interdigitation, without_x_jaw

from dicomplan.beams.delivery import Aperture, Beam, BeamDelivery, Segment
from dicomplan.beams.limits import violations
from dicomplan.errors import MachineError
from dicomplan.machine.library import load_machine
from dicomplan.machine.model import CollisionZone
from dicomplan.machine.parse import parse_machine
from dicomplan.machine.write import machine_file_text

BEAM = Beam(3, "3_G080", 80.0, 0.0, 0.0, (0.0, 0.0, 0.0))


def aperture(changes=(), jaw_x=(-52.0, 51.0), jaw_y=(-50.0, 50.0)):
    """A field of 100 mm by 100 mm; ``changes`` are (bank, pair, position)."""
    leaves = np.zeros((2, 60))
    leaves[0, 20:40], leaves[1, 20:40] = -50.0, 50.0
    for bank, pair, position in changes:
        leaves[bank, pair] = position
    return Aperture(leaves, jaw_y, jaw_x)


def found(*apertures, machine=None, meterset=5.0):
    segments = tuple(Segment(each, meterset) for each in apertures)
    return violations(BeamDelivery(BEAM, segments), machine or generic_120())


def test_a_sound_beam_breaks_nothing():
    assert found(aperture()) == ()
    assert found(aperture(), aperture([(0, 25, -30.0)])) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([(0, 25, 51.0)], ("leaf pair 26", "overlap by 1.00 mm", "allowed 0 mm")),
        ([(0, 25, 49.7)], ("leaf pair 26", "gap of 0.30 mm", "allowed from 0.5 mm")),
        ([(0, 25, 161.0), (1, 25, 162.0)], ("leaf pair 26", "leaf X1 161.00 mm past the axis", "up to 160 mm")),
        ([(0, 25, -170.0), (1, 25, -161.5)], ("leaf pair 26", "leaf X2 161.50 mm past the axis")),
        ([(0, 25, -201.0)], ("leaf pair 26", "leaf X1 withdrawn 201.00 mm", "up to 200 mm")),
        ([(1, 25, 203.0)], ("leaf pair 26", "leaf X2 withdrawn 203.00 mm")),
        ([(0, 25, -120.0), (0, 30, 30.0)], ("bank X1 spans 150.00 mm", "leaf pairs 26 and 31", "up to 145 mm")),
        ([(0, 25, np.nan)], ("leaf positions that are not finite",)),
    ],
)
def test_leaf_limits(changes, words):
    messages = found(aperture(changes))
    hit = [message for message in messages if all(word in message for word in words)]
    assert hit, messages
    assert hit[0].startswith("beam 3 (3_G080), segment 1")


def test_the_segment_named_is_the_one_that_breaks():
    (message,) = found(aperture(), aperture([(0, 25, 51.0)]), aperture())
    assert "segment 2" in message


def test_limits_are_met_exactly_at_the_limit():
    assert found(aperture([(0, 25, 49.5)])) == ()
    assert found(aperture([(0, 25, -95.0), (0, 26, 49.0)])) == ()  # 144 mm
    assert found(aperture([(0, 25, -95.0), (0, 26, 50.0), (1, 26, 60.0)])) == ()  # 145 mm
    assert found(aperture([(0, 25, -95.01), (0, 26, 50.0), (1, 26, 60.0)])) != ()


def test_a_closed_pair_may_touch_only_while_it_stands_still():
    still = aperture([(0, 25, 10.0), (1, 25, 10.0)])
    moved = aperture([(0, 25, 20.0), (1, 25, 20.0)])
    assert found(still, still) == ()
    messages = found(still, moved)
    assert len(messages) == 2
    assert all("gap of 0.00 mm" in message for message in messages)


def test_jaw_limits():
    assert any("jaw X1 at 25.00 mm, allowed -200 to 20 mm" in m for m in found(aperture(jaw_x=(25.0, 51.0))))
    assert any("jaw Y2 at 201.00 mm, allowed -100 to 200 mm" in m for m in found(aperture(jaw_y=(-50.0, 201.0))))
    assert any("X jaws 4.00 mm apart, allowed from 5 mm" in m for m in found(aperture(jaw_x=(10.0, 14.0))))
    assert any("X jaws are not set" in m for m in found(aperture(jaw_x=None)))
    assert any("not finite" in m for m in found(aperture(jaw_x=(float("nan"), 1.0))))
    machine = replace(generic_120(), jaw_x=None)
    assert any("X jaws are set, the machine has none" in m for m in found(aperture(), machine=machine))
    assert found(aperture(jaw_x=None), machine=machine) == ()


def test_meterset_number_of_pairs_and_an_empty_beam():
    assert "meterset 0.4 MU, allowed from 1 MU" in found(aperture(), meterset=0.4)[0]
    assert found(aperture(), meterset=1.0) == ()
    assert "meterset nan MU" in found(aperture(), meterset=float("nan"))[0]
    assert any("two banks of 80 leaves" in m for m in found(aperture(jaw_x=None), machine=without_x_jaw()))
    assert "no segments" in violations(BeamDelivery(BEAM, ()), generic_120())[0]


def test_interdigitation_counts_only_where_it_is_forbidden():
    passed = aperture([(0, 25, -50.0), (1, 25, -40.0), (0, 26, 30.0), (1, 26, 50.0)])
    assert found(passed) == ()
    (message,) = found(passed, machine=without_interdigitation())
    assert "leaf pairs 26 and 27: opposed leaves pass each other by 70.00 mm" in message


def test_jaws_that_are_fixed_during_a_beam():
    machine = generic_120()
    fixed = replace(machine, jaw_x=replace(machine.jaw_x, fixed_in_beam=True))
    shapes = aperture(), aperture(jaw_x=(-52.0, 54.0))
    assert found(*shapes) == found(aperture(), aperture(jaw_y=(-50.0, 55.0)), machine=fixed) == ()
    (message,) = found(*shapes, machine=fixed)
    assert "X jaws move by 3.00 mm" in message
    assert parse_machine(machine_file_text(load_machine("generic_6mv"))).jaw_x.fixed_in_beam is False
    text = machine_file_text(replace(load_machine("generic_6mv"), jaw_x=fixed.jaw_x))
    assert parse_machine(text).jaw_x == fixed.jaw_x


def moved(way_mm, meterset, rate=None, machine=None):
    """One pair that moves by ``way_mm`` while ``meterset`` MU are given."""
    start, end = aperture([(0, 25, -40.0), (1, 25, -30.0)]), aperture([(0, 25, way_mm - 40.0), (1, 25, way_mm - 30.0)])
    return violations(BeamDelivery(BEAM, (Segment(start, meterset, end),), rate), machine or generic_fast())


def generic_fast():
    machine = generic_120()
    return replace(machine, mlc=replace(machine.mlc, max_speed_mm_s=25.0))


def test_leaf_speed():
    """At 600 MU/min, 10 MU take one second: 25 mm."""
    assert moved(25.0, 10.0) == ()
    (message,) = moved(26.0, 10.0)
    assert "leaf pair 26" in message
    assert "at 26.0 mm/s, allowed up to 25 mm/s at 600 MU/min" in message
    assert moved(26.0, 10.0, rate=500.0) == ()  # 1.2 s
    assert any("dose rate 700 MU/min" in text for text in moved(1.0, 10.0, rate=700.0))
    assert any("meterset 0.5 MU" in text for text in moved(1.0, 0.5))


def test_where_a_moving_segment_ends_counts():
    start, end = aperture(), aperture([(0, 25, 49.8)])
    (message,) = violations(BeamDelivery(BEAM, (Segment(start, 80.0, end),)), generic_fast())
    assert "gap of 0.20 mm" in message


def test_collision_zones():
    zone = CollisionZone((270.0, 340.0), (180.0, 265.0))
    machine = replace(generic_120(), collisions=(zone,))

    def with_angles(gantry, couch):
        beam = replace(BEAM, gantry_angle_deg=gantry, couch_angle_deg=couch)
        return violations(BeamDelivery(beam, (Segment(aperture(), 5.0),)), machine)

    assert with_angles(300.0, 300.0) == with_angles(200.0, 0.0) == with_angles(200.0, 90.0) == ()
    (message,) = with_angles(200.0, -60.0)
    assert "gantry 200 with couch 300" in message


def test_collision_zones_are_read_and_written():
    machine = load_machine("generic_6mv")
    assert CollisionZone((20.0, 90.0), (95.0, 180.0)) in machine.collisions
    text = machine_file_text(machine)
    assert parse_machine(text).collisions == machine.collisions
    with pytest.raises(MachineError, match="four angles"):
        parse_machine(text.replace("collisions = [[", "collisions = [[7.0, "))
