"""What a watcher runs with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dicomplan.jobs.first_seen import Moment, present_moment
from dicomplan.jobs.pool import WORKER
from dicomplan.jobs.readiness import Waits
from dicomplan.jobs.retention import Retention
from dicomplan.jobs.rules import Rules
from dicomplan.jobs.store import JobStore
from dicomplan.jobs.values import Job

HandOver = Callable[[JobStore, Job], bool]
"""Sends the result of a job; whether everything was taken. Called in a thread of its own, with a store of its own."""


@dataclass(frozen=True, eq=False)
class Settings:
    """What a watcher runs with. Seconds and bytes; ``mode``: that of result folders; ``receipt``: the time of receipt,
    seconds since 1970; ``moment``: the present, for waits that outlast the service; ``hand_over``: sends results (None:
    nobody is sent any)."""

    inbox: Path
    outbox: Path
    store: Path
    rules: Rules
    waits: Waits = field(default_factory=Waits)
    workers: int = 1
    threads: int = 1
    memory_bytes: int | None = None
    timeout_s: float = 7200.0
    retry_s: float = 30.0
    poll_s: float = 5.0
    min_free_bytes: int = 200_000_000
    grace_s: float = 20.0
    keep_input: bool = False
    replan: bool = False
    mode: int = 0o700
    retention: Retention = field(default_factory=Retention)
    worker: Sequence[str] = WORKER
    receipt: Callable[[], int] = lambda: int(time.time())
    moment: Callable[[], Moment] = present_moment
    hand_over: HandOver | None = None

    @property
    def work(self) -> Path:
        """Folder of private copies, beside the store."""
        return self.store.with_name(f"{self.store.stem}.work")
