"""Progress, findings and cancellation as plain values that every floor may use."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from dicomplan.errors import CancelledError

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """Something noticed in the input or the plan: ``severity``, a sentence, and where (file, tag)."""

    severity: Severity
    message: str
    file: str | None = None
    tag: str | None = None


@dataclass(frozen=True)
class Progress:
    """One step of long work: ``stage`` (short key), ``message`` (for people), ``fraction`` 0..1 or None."""

    stage: str
    message: str = ""
    fraction: float | None = None


ProgressCallback = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """Progress callback that does nothing (the default of every long function)."""


@dataclass
class Cancel:
    """Token that a caller sets to stop long work, or to end a search with the best that it has.

    Long functions call :meth:`check` between steps; searches look at :attr:`finishing` as well. A progress callback may
    call :meth:`finish`.
    """

    _event: threading.Event = field(default_factory=threading.Event)
    _finish: threading.Event = field(default_factory=threading.Event)
    _deadline_s: float | None = None

    def set(self) -> None:
        """Ask the work to stop."""
        self._event.set()

    def check(self) -> None:
        """Raise :class:`CancelledError` if the work was asked to stop."""
        if self._event.is_set():
            raise CancelledError("cancelled")

    def finish(self) -> None:
        """Ask searches to end soon, with the best that they have."""
        self._finish.set()

    def finish_within(self, seconds: float) -> None:
        """As :meth:`finish`, so many seconds from now."""
        self._deadline_s = time.monotonic() + seconds

    @property
    def finishing(self) -> bool:
        """Whether searches are to end with the best that they have."""
        return self._finish.is_set() or (self._deadline_s is not None and time.monotonic() >= self._deadline_s)
