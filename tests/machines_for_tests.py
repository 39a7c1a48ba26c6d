"""Machine values for the tests of sequencing and limits: plain numbers, no file is read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dicomplan.machine.model import BeamModel, Calibration, JawModel, MachineModel, MlcModel


def generic_120() -> MachineModel:
    """120 leaves: 40 pairs of 5 mm between two times ten of 10 mm; X and Y jaws."""
    boundaries = np.concatenate(
        [np.arange(-200.0, -100.0, 10.0), np.arange(-100.0, 100.0, 5.0), np.arange(100.0, 201, 10)]
    )
    return MachineModel(
        name="generic_120",
        description="for tests",
        source_axis_distance_mm=1000.0,
        jaw_x=JawModel((-200.0, 20.0), (-20.0, 200.0), 5.0),
        jaw_y=JawModel((-200.0, 100.0), (-100.0, 200.0), 5.0),
        mlc=MlcModel(boundaries, 145.0, 160.0, 200.0, 0.5, True, 0.015),
        beam=BeamModel(
            6.0, np.array([1.0, 2.0]), np.array([0.6, 0.4]), 3.0, 500.0, np.array([0.0, 200.0]), np.array([1.0, 1.02])
        ),
        calibration=Calibration(0.01, 900.0, 100.0, 100.0),
        dose_rate_mu_min=600.0,
        min_segment_meterset_mu=1.0,
        min_segment_area_cm2=2.0,
    )


def without_x_jaw() -> MachineModel:
    """80 pairs of 5 mm with a minimum gap of 5 mm and no X jaws."""
    machine = generic_120()
    mlc = replace(machine.mlc, leaf_boundaries_mm=np.arange(-200.0, 201.0, 5.0), leaf_span_mm=200.0, min_gap_mm=5.0)
    return replace(machine, name="without_x_jaw", jaw_x=None, mlc=mlc)


def without_interdigitation() -> MachineModel:
    """As generic_120, where no leaf may pass the opposed leaf of a neighbouring pair."""
    machine = generic_120()
    return replace(machine, name="without_interdigitation", mlc=replace(machine.mlc, interdigitation=False))


def with_moving_jaws() -> MachineModel:
    """As generic_120, with rounded leaf ends and X jaws that can follow while the beam is on; Y jaws stand still."""
    machine = generic_120()
    assert machine.jaw_x is not None
    assert machine.jaw_y is not None
    mlc = replace(machine.mlc, leaf_end_offset_mm=0.5, leaf_end_blur_mm=1.0, max_speed_mm_s=25.0)
    jaw_x = replace(machine.jaw_x, max_speed_mm_s=25.0)
    return replace(
        machine, name="with_moving_jaws", mlc=mlc, jaw_x=jaw_x, jaw_y=replace(machine.jaw_y, fixed_in_beam=True)
    )


MACHINES = {
    machine.name: machine for machine in (generic_120(), without_x_jaw(), without_interdigitation(), with_moving_jaws())
}
"""The machines that the property tests run on."""
