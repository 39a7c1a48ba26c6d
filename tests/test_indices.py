"""Conformity and homogeneity by hand, and the table of metrics."""

import numpy as np
import pytest

from dicomplan.evaluation.indices import conformity_index, homogeneity_index, structure_metrics
from dicomplan.metrics.dvh import DoseSamples


def samples(*pairs):
    return DoseSamples.of_points([dose for dose, _ in pairs], [volume for _, volume in pairs])


def test_conformity_index_of_paddick():
    # target 100 cc of which 90 get 60 Gy; 120 cc of the body do: 90^2 / (100 x 120)
    target = samples((60, 90), (50, 10))
    body = samples((60, 120), (20, 5000))
    assert conformity_index(target, body, 60.0) == pytest.approx(0.675)
    assert conformity_index(samples((60, 100)), samples((60, 100), (3, 900)), 60.0) == 1.0
    assert conformity_index(target, body, 61.0) == 0.0


def test_homogeneity_index_of_icru_83():
    # 100 equal parts, 51..150 Gy: D2% is the least of the two hottest
    target = DoseSamples.of_points(np.arange(51, 151), 1.0)
    assert homogeneity_index(target) == pytest.approx((149 - 53) / 101)
    assert homogeneity_index(samples((60, 3))) == 0.0
    with pytest.raises(ValueError, match="without dose"):
        homogeneity_index(samples((0, 3)))


def test_table_of_metrics():
    metrics = structure_metrics(DoseSamples.of_points(np.arange(1, 101), 0.01))
    assert metrics == pytest.approx(
        {
            "Dmean_gy": 50.5,
            "Dmax_gy": 100,
            "Dmin_gy": 1,
            "D98%_gy": 3,
            "D95%_gy": 6,
            "D50%_gy": 51,
            "D2%_gy": 99,
            "D0.03cc_gy": 98,
            "D0.1cc_gy": 91,
        }
    )
    tiny = structure_metrics(samples((10, 0.01), (20, 0.01)))
    assert tiny["D0.1cc_gy"] == 10  # smaller than 0.1 cc: all of it
