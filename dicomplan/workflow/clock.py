"""Time in a job: the creation time of its outputs, and the seconds that its stages take."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from dicomplan.events import Progress, ProgressCallback


def creation_time() -> datetime:
    """Now, or the time that SOURCE_DATE_EPOCH states (seconds since 1970), UTC: the one clock of all outputs."""
    stated = os.environ.get("SOURCE_DATE_EPOCH", "")
    if stated.isdecimal():
        return datetime.fromtimestamp(int(stated), UTC).replace(tzinfo=None)
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


@dataclass
class Clock:
    """Seconds of each stage; it also tells progress which stage begins."""

    progress: ProgressCallback
    seconds: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage: told to ``progress`` when it begins, its seconds added up when it ends."""
        start = time.perf_counter()
        self.progress(Progress(name))
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def total(self) -> dict[str, float]:
        """Seconds of each stage and of all since the clock was made (``total``)."""
        return {**{key: round(value, 3) for key, value in self.seconds.items()}, "total": self._total()}

    def _total(self) -> float:
        return round(time.perf_counter() - self.began, 3)
