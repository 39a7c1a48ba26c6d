"""Sending result files to a destination of either kind."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from dicomplan.errors import UsageError
from dicomplan.network.destination import Destination, Report, ResultFile, Sent
from dicomplan.network.store_scu import c_store
from dicomplan.network.stow import stow


def check_parts(target: Destination) -> None:
    """Raise UsageError where what a destination needs is not installed."""
    if not target.url and find_spec("pynetdicom") is None:
        raise UsageError("C-STORE needs pynetdicom", hint="pip install 'dicomplan[network]'")


def send(
    files: Sequence[ResultFile],
    target: Destination,
    *,
    attempts: int = 3,
    back_off_s: float = 2.0,
    report: Report = lambda _: None,
    wait: Callable[[float], None] = time.sleep,
) -> list[Sent]:
    """Send files in their order by C-STORE or STOW-RS; what was not taken says why. Raises UsageError (a missing part)."""
    check_parts(target)
    way = stow if target.url else c_store
    return way(files, target, attempts=attempts, back_off_s=back_off_s, report=report, wait=wait)
