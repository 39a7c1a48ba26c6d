"""Carriage groups: parts add up to the map, none wider than the leaves span."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomplan.errors import NotDeliverableError
from dicomplan.sequencing.carriage import carriage_groups


def summed(groups, fluence):
    total = np.zeros_like(fluence)
    for columns, share in groups:
        total[:, columns] += fluence[:, columns] * share
    return total


@settings(deadline=None, max_examples=60)
@given(
    cols=st.integers(1, 90),
    span=st.sampled_from([60.0, 100.0, 142.5, 200.0]),
    seed=st.integers(0, 10**6),
    zero=st.floats(0, 1),
)
def test_parts_add_up_and_keep_to_the_span(cols, span, seed, zero):
    random = np.random.default_rng(seed)
    fluence = random.random((6, cols)) * (random.random((6, cols)) >= zero)
    edges = -0.5 * 5.0 * cols + 5.0 * np.arange(cols + 1)
    groups = carriage_groups(edges, fluence, span)
    np.testing.assert_allclose(summed(groups, fluence), fluence, rtol=1e-12, atol=0)
    for columns, share in groups:
        assert edges[columns.stop] - edges[columns.start] <= span + 1e-9
        assert len(share) == columns.stop - columns.start
        assert (share > 0).all()
        assert (share <= 1).all()


def test_a_wide_map_takes_two_groups_with_twenty_millimetres_between():
    edges = np.arange(-112.5, 113.0, 5.0)  # the 225 mm of openkbp_247
    fluence = np.ones((4, 45))
    (first, left_share), (second, right_share) = carriage_groups(edges, fluence, 142.5)
    assert edges[first.stop] - edges[second.start] == 20.0
    np.testing.assert_allclose(left_share[-4:], [0.875, 0.625, 0.375, 0.125])
    np.testing.assert_allclose(right_share[:4], [0.125, 0.375, 0.625, 0.875])


def test_the_cut_goes_where_least_is_delivered():
    edges = np.arange(0.0, 201.0, 5.0)
    fluence = np.ones((3, 40))
    fluence[:, 22:26] = 0.01
    (first, _), (second, _) = carriage_groups(edges, fluence, 140.0)
    assert (second.start, first.stop) == (22, 26)


def test_the_number_of_groups_is_the_least():
    edges = np.arange(0.0, 401.0, 5.0)
    counts = [len(carriage_groups(edges[: n + 1], np.ones((2, n)), 140.0)) for n in (28, 29, 52, 53, 76, 77)]
    assert counts == [1, 2, 2, 3, 3, 4]  # 140, 260 and 380 mm are the most for one, two and three groups


def test_empty_borders_count_for_nothing_and_an_empty_map_has_no_group():
    edges = np.arange(0.0, 301.0, 5.0)
    fluence = np.zeros((2, 60))
    assert carriage_groups(edges, fluence, 100.0) == []
    fluence[1, 30:40] = 2.0
    ((columns, share),) = carriage_groups(edges, fluence, 100.0)
    assert (columns.start, columns.stop) == (30, 40)
    assert (share == 1).all()


def test_a_span_below_the_overlap_is_refused():
    with pytest.raises(NotDeliverableError, match="300 mm wide"):
        carriage_groups(np.arange(0.0, 301.0, 5.0), np.ones((1, 60)), 20.0)
