"""Options and profiles of the whole test suite."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

settings.register_profile("ci", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("long", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

_OPTIONAL = {
    "slow": "takes long",
    "integration": "needs servers, browsers or other foreign programs",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    for marker, reason in _OPTIONAL.items():
        parser.addoption(f"--{marker}", action="store_true", help=f"also run the tests marked {marker} ({reason})")


def pytest_configure(config: pytest.Config) -> None:
    for marker, reason in _OPTIONAL.items():
        config.addinivalue_line("markers", f"{marker}: {reason}; run by tools/test --{marker}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for marker, reason in _OPTIONAL.items():
        if config.getoption(f"--{marker}"):
            continue
        skip = pytest.mark.skip(reason=f"{reason}: run with --{marker}")
        for item in items:
            if item.get_closest_marker(marker):
                item.add_marker(skip)
