"""The workers of a watcher: one spawned process for each running job, within a number and a memory budget."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dicomplan.jobs.values import Job
from dicomplan.jobs.worker import EXIT_DISK_FULL, MEMORY_VARIABLE, OUTCOME_FILE
from dicomplan.workflow.memory import available_bytes

WORKER: tuple[str, ...] = (sys.executable, "-m", "dicomplan.jobs.worker")
"""Command that runs a job; the job's folder and the attempt's folder are appended."""


@dataclass(frozen=True)
class Ended:
    """A worker that ended. ``kind``: ``outcome`` (it said how), ``died``, ``timeout`` or ``disk_full``."""

    job: str
    folder: Path
    kind: Literal["outcome", "died", "timeout", "disk_full"]
    exit_code: int | None
    error: str | None
    seconds: float


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    folder: Path
    memory_bytes: int
    began_s: float


class Pool:
    """Running workers. ``size`` at once, ``threads`` each, estimates adding up to at most ``memory_bytes``."""

    def __init__(
        self, size: int, threads: int, memory_bytes: int | None, timeout_s: float, command: Sequence[str] = WORKER
    ) -> None:
        self.size = size
        self.memory_bytes = memory_bytes
        self._threads = threads
        self._timeout_s = timeout_s
        self._command = tuple(command)
        self._running: dict[str, _Running] = {}

    @property
    def jobs(self) -> tuple[str, ...]:
        """Identifiers of the running jobs."""
        return tuple(self._running)

    def has_room(self, job: Job) -> bool:
        """Whether a job may start beside the running ones; one that is too large for the budget runs alone."""
        if len(self._running) >= self.size:
            return False
        if not self._running:
            return True
        taken = sum(one.memory_bytes for one in self._running.values())
        if self.memory_bytes is not None and taken + job.memory_bytes > self.memory_bytes:
            return False
        free = available_bytes()
        # those that run may not have taken all of theirs yet
        return free is None or job.memory_bytes < free or self.memory_bytes is not None

    def start(self, job: Job, folder: Path, attempt: Path) -> None:
        """Start the worker of a job. Raises OSError."""
        environment = {
            **os.environ,
            "NUMBA_NUM_THREADS": str(self._threads),
            "OMP_NUM_THREADS": str(self._threads),
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "DICOMPLAN_WORKER_PARENT": str(os.getpid()),
        }
        if self.memory_bytes is not None:
            # all that the others are not expected to take
            others = sum(one.memory_bytes for one in self._running.values())
            environment[MEMORY_VARIABLE] = str(self.memory_bytes - others)
        process = subprocess.Popen(
            [*self._command, str(folder), str(attempt)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            close_fds=True,
            process_group=0,  # a signal for the watcher's group is for the watcher to act on
        )
        self._running[job.id] = _Running(process, attempt, job.memory_bytes, time.monotonic())

    def reap(self) -> list[Ended]:
        """The workers that ended since the last call; those beyond the timeout are killed first."""
        ended = []
        for job, one in list(self._running.items()):
            seconds = time.monotonic() - one.began_s
            code = one.process.poll()
            late = code is None and seconds > self._timeout_s
            if late:
                self._kill(one)
            elif code is None:
                continue
            del self._running[job]
            ended.append(_timed_out(job, one, self._timeout_s) if late else _ended(job, one, int(code or 0), seconds))
        return ended

    def stop(self, job: str) -> Path | None:
        """Kill the worker of a job; the folder of its attempt."""
        one = self._running.pop(job, None)
        if one is None:
            return None
        self._kill(one)
        return one.folder

    def stop_all(self) -> list[tuple[str, Path]]:
        """Kill all workers; their jobs and folders."""
        stopped = [(job, one.folder) for job, one in self._running.items()]
        for job, _ in stopped:
            self.stop(job)
        return stopped

    def _kill(self, one: _Running) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.kill()
        one.process.wait()


def _timed_out(job: str, one: _Running, timeout_s: float) -> Ended:
    return Ended(job, one.folder, "timeout", None, f"the worker ran longer than {timeout_s:g} s", timeout_s)


def _ended(job: str, one: _Running, code: int, seconds: float) -> Ended:
    if code == EXIT_DISK_FULL:
        return Ended(job, one.folder, "disk_full", code, "disk full", seconds)
    try:
        document = json.loads((one.folder / OUTCOME_FILE).read_text(encoding="utf-8"))
        return Ended(job, one.folder, "outcome", int(document["exit_code"]), document["error"], seconds)
    except (OSError, ValueError, KeyError):
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = str(-code)
            return Ended(job, one.folder, "died", None, f"the worker was killed by {name}", seconds)
        return Ended(job, one.folder, "died", code, f"the worker ended with code {code} and no outcome", seconds)
