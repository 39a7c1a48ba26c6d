"""IEC 61217 frames against absolute anchors: where beams enter, where leaves lie, in all eight patient positions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomplan.errors import InputError
from dicomplan.geometry.frames import PATIENT_POSITIONS, beam_frame, fixed_from_patient, rotation

LEFT, POSTERIOR, SUPERIOR = np.eye(3)
RIGHT, ANTERIOR, INFERIOR = -np.eye(3)
ISOCENTER = (12.0, -30.0, 55.0)

# IEC fixed x, y, z of a standing gantry as patient directions (DICOM LPS): what lies on the right hand of someone
# facing the gantry, towards the gantry, and up, from what the names of the positions say.
POSITIONS = {
    "HFS": (LEFT, SUPERIOR, ANTERIOR),
    "HFP": (RIGHT, SUPERIOR, POSTERIOR),
    "FFS": (RIGHT, INFERIOR, ANTERIOR),
    "FFP": (LEFT, INFERIOR, POSTERIOR),
    "HFDR": (POSTERIOR, SUPERIOR, LEFT),
    "HFDL": (ANTERIOR, SUPERIOR, RIGHT),
    "FFDR": (ANTERIOR, INFERIOR, LEFT),
    "FFDL": (POSTERIOR, INFERIOR, RIGHT),
}


def enters_from(position, gantry, couch=0.0):
    """Direction from the isocentre to the source, patient coordinates."""
    frame = beam_frame(position, ISOCENTER, gantry, 0.0, couch)
    return (frame.source_mm - ISOCENTER) / 1000.0


@pytest.mark.parametrize("position", list(POSITIONS))
def test_the_machine_axes_in_each_patient_position(position):
    right, gantry, up = POSITIONS[position]
    np.testing.assert_array_equal(fixed_from_patient(position), np.array([right, gantry, up]))
    np.testing.assert_allclose(np.cross(right, gantry), up)
    np.testing.assert_allclose(enters_from(position, 0.0), up, atol=1e-12)
    np.testing.assert_allclose(enters_from(position, 90.0), right, atol=1e-12)
    np.testing.assert_allclose(enters_from(position, 180.0), -up, atol=1e-12)
    np.testing.assert_allclose(enters_from(position, 270.0), -right, atol=1e-12)


def test_all_positions_of_the_standard_are_known():
    assert set(PATIENT_POSITIONS) == set(POSITIONS)


def test_supine_beams_enter_where_the_angles_say():
    np.testing.assert_allclose(enters_from("HFS", 0.0), ANTERIOR, atol=1e-12)
    np.testing.assert_allclose(enters_from("HFS", 90.0), LEFT, atol=1e-12)


def test_a_turned_couch_lets_beams_in_through_head_and_feet():
    head, feet = enters_from("HFS", 300.0, 90.0), enters_from("HFS", 60.0, 90.0)
    assert head @ SUPERIOR == pytest.approx(np.sin(np.radians(60)))
    assert feet @ INFERIOR == pytest.approx(np.sin(np.radians(60)))
    assert head @ ANTERIOR == feet @ ANTERIOR == pytest.approx(0.5)


def test_banks_and_leaf_pairs_lie_where_the_collimator_turns_them():
    straight = beam_frame("HFS", ISOCENTER, 0.0)
    np.testing.assert_allclose(straight.x_axis, LEFT, atol=1e-12)  # bank X2 is on the positive side
    np.testing.assert_allclose(straight.y_axis, SUPERIOR, atol=1e-12)  # leaf pair 1, on the negative, is most inferior
    turned = beam_frame("HFS", ISOCENTER, 0.0, 90.0)
    np.testing.assert_allclose(turned.x_axis, SUPERIOR, atol=1e-12)
    np.testing.assert_allclose(turned.y_axis, RIGHT, atol=1e-12)


@given(
    position=st.sampled_from(PATIENT_POSITIONS),
    angles=st.tuples(*[st.floats(0, 360)] * 3),
    seed=st.integers(0, 10**6),
)
def test_frames_are_right_handed_and_projection_is_a_similar_triangle(position, angles, seed):
    frame = beam_frame(position, ISOCENTER, *angles)
    axes = np.array([frame.x_axis, frame.y_axis, frame.z_axis])
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1)
    x, y, along = np.random.default_rng(seed).uniform([-200, -200, 500], [200, 200, 1500])
    point = frame.source_mm + along * ((x * axes[0] + y * axes[1]) / 1000.0 - axes[2])
    np.testing.assert_allclose(frame.project(point), (x, y, along), atol=1e-8)
    np.testing.assert_allclose(frame.project(np.array(ISOCENTER)), (0, 0, 1000), atol=1e-9)


@given(first=st.sampled_from(PATIENT_POSITIONS), second=st.sampled_from(PATIENT_POSITIONS), gantry=st.floats(0, 360))
def test_the_room_does_not_know_how_the_patient_lies(first, second, gantry):
    one, other = beam_frame(first, (0, 0, 0), gantry, 20, 35), beam_frame(second, (0, 0, 0), gantry, 20, 35)
    np.testing.assert_allclose(
        fixed_from_patient(first) @ one.source_mm, fixed_from_patient(second) @ other.source_mm, atol=1e-9
    )


def test_rotations_are_exact_at_quarters():
    np.testing.assert_array_equal(rotation(2, 90.0), [[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(rotation(1, 450.0), rotation(1, 90.0))


def test_an_unknown_position_is_refused():
    with pytest.raises(InputError, match="SITTING"):
        beam_frame("SITTING", ISOCENTER, 0.0)
