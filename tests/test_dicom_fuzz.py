"""A short run of the mutations; the long one is ``tools/fuzz``."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzzing import MOST_MEMORY_GB, Fuzz, mutated, peak_memory_gb
from numpy.random import default_rng


def test_mutated_files_end_in_a_result_or_in_our_error(tmp_path: Path) -> None:
    before = peak_memory_gb()
    outcome = Fuzz(tmp_path).run(range(300))
    assert outcome.failures == []
    assert sum(outcome.counts.values()) == 600
    # Were no mutation refused, or none read, the mutations would test nothing.
    assert outcome.counts["read CT: InputError"] > 20
    assert outcome.counts["read CT: result"] > 5
    assert outcome.counts["read RS: InputError"] > 20
    assert outcome.counts["read RD: InputError"] > 20
    assert peak_memory_gb() - before < MOST_MEMORY_GB


def test_the_same_seed_gives_the_same_mutation() -> None:
    content = bytes(range(256)) * 8
    assert mutated(content, default_rng(7)) == mutated(content, default_rng(7)) != mutated(content, default_rng(8))


@pytest.mark.slow
def test_many_mutated_files(tmp_path: Path) -> None:
    assert Fuzz(tmp_path).run(range(300, 5000)).failures == []
