"""Collapsed-cone kernels against their slow twin, and the bits against the number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from twins.collapsed_cone_twins import march

from dicomplan.dose import _kernels_collapsed_cone as kernels
from dicomplan.dose.transport import DENSER

TABLE = np.array([[4.0, 0.5, -1.0], [0.02, 0.01, 0.005], [0.06, 0.01, 0.0], [0.4, 0.1, 0.0], [0.01, 0.005, 0.002]])


def case(seed, distance_mm):
    """A small random volume seen from a source, and a random direction that follows the first axis most."""
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(3, 7, size=3))
    density = random.choice([0.001, 0.26, 1.0, 1.85], size=shape).astype(np.float32)
    primary = (density * random.uniform(0.0, 2.0, size=shape)).astype(np.float32)
    scatter = (density * random.uniform(0.0, 2.0, size=shape)).astype(np.float32)
    spacing = random.uniform(2.0, 4.0, size=3)
    steps = [spacing[k] * np.eye(3)[k] for k in range(3)]
    origin = np.array([distance_mm, 0.03 * distance_mm, -0.02 * distance_mm])
    while True:
        vector = random.normal(size=3)
        vector /= np.linalg.norm(vector)
        slopes = vector / spacing
        if abs(slopes[0]) >= max(abs(slopes[1:])):
            break
    direction = np.concatenate([slopes, vector])
    step_cm = 0.1 * spacing[0] / abs(vector[0])
    return primary, scatter, density, origin, steps, direction, step_cm


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("distance_mm", "tolerance"), [(1e6, 3e-6), (500.0, 3e-5)])
def test_a_direction_is_that_of_the_slow_twin(seed, distance_mm, tolerance):
    primary, scatter, density, origin, steps, direction, step_cm = case(seed, distance_mm)
    stopping = (density * np.random.default_rng(seed).uniform(0.8, 1.2, density.shape)).astype(np.float32)
    dose = np.zeros(density.shape, dtype=np.float32)
    limits = np.array([-1.0, 1.0])
    ranges = kernels.source_ranges(primary, scatter)
    kernels.march(
        primary, scatter, density, ranges, dose, origin, *steps, direction, TABLE, limits, step_cm, DENSER, stopping, 0.0
    )  # fmt: skip
    expected = march(primary, scatter, density, origin, *steps, direction, TABLE, step_cm, DENSER, stopping)
    assert np.abs(dose - expected).max() <= tolerance * expected.max()


def test_sources_of_a_few_rows_are_found_from_every_line():
    """Rows without released energy are skipped: the dose must not depend on that."""
    primary, scatter, density, origin, steps, direction, step_cm = case(3, 1e6)
    primary[:] = 0
    scatter[:] = 0
    primary[0, 1, 2] = scatter[-1, 0, 0] = 1.0
    dose = np.zeros(density.shape, dtype=np.float32)
    ranges = kernels.source_ranges(primary, scatter)
    limits = np.array([-1.0, 1.0])
    kernels.march(
        primary, scatter, density, ranges, dose, origin, *steps, direction, TABLE, limits, step_cm, DENSER, density, 0.0
    )  # fmt: skip
    expected = march(primary, scatter, density, origin, *steps, direction, TABLE, step_cm, DENSER, density)
    assert np.abs(dose - expected).max() <= 3e-6 * np.abs(expected).max()


def test_rows_that_carry_no_primary_energy_any_more_are_left():
    """Far from its source it is nothing; where it comes to an end the dose does not jump."""
    shape = (60, 3, 4)
    primary, nothing, density = (np.full(shape, value, dtype=np.float32) for value in (0.0, 0.0, 1.0))
    primary[0, 1, 1:3] = 1.0
    ranges = kernels.source_ranges(primary, nothing)
    found = []
    for least in (0.0, 1e-9):
        dose = np.zeros(shape, dtype=np.float32)
        vector = np.array([1.0, 0.02, 0.01])
        kernels.march(
            primary, nothing, density, ranges, dose, np.array([1e6, 0.0, 0.0]), *np.eye(3),
            np.concatenate([vector, vector / np.linalg.norm(vector)]), TABLE, np.array([-1.0, 1.0]), 0.25, DENSER, density,
            least,
        )  # fmt: skip
        found.append(dose)
    assert not found[1][-1].any()
    assert np.abs(found[1] - found[0]).max() <= 1e-7 * found[0].max()


HERE = Path(__file__).parent
SCRIPT = """
import hashlib
from collapsed_cone_cases import dose_of, half_lung
print(hashlib.sha256(dose_of(half_lung(), cones=24).tobytes()).hexdigest())
"""


def test_bits_do_not_depend_on_the_number_of_threads():
    digests = set()
    for threads in ("1", "2"):
        environment = os.environ | {"NUMBA_NUM_THREADS": threads}
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT], cwd=HERE, env=environment, capture_output=True, text=True, check=True
        )
        digests.add(run.stdout.strip())
    assert len(digests) == 1
