"""Studies in all disguises for the tests of the folder service, and a watcher whose loop a test turns by hand."""

from __future__ import annotations

import io
import shutil
import socket
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pydicom
from dicom_helpers import edit, tiny_ct, write_tiny_study

from dicomplan.jobs.inbox_lock import InboxLock
from dicomplan.jobs.readiness import Waits
from dicomplan.jobs.rules import one_template
from dicomplan.jobs.service import Service
from dicomplan.jobs.service_log import ServiceLog
from dicomplan.jobs.settings import Settings
from dicomplan.jobs.store import JobStore
from dicomplan.jobs.values import Job

WORKER = (sys.executable, str(Path(__file__).with_name("jobs_worker.py")))
RECEIVED = 1_790_000_000

TEMPLATE = """dicomplan: 1
name: Tiny
prescription: {fractions: 35, targets: {PTV_7000: 70 Gy}}
machine: generic_6mv
beams: {technique: imrt, gantry: [0, 120, 240]}
"""


def study(folder: Path, name: str, *, study_id: str = "", **values: str) -> Path:
    """A tiny study with its own identifiers; StudyID and other attributes of every file as given."""
    write_tiny_study(folder, tiny_ct(), entropy=name)

    def change(dataset: pydicom.Dataset) -> None:
        for keyword, value in {"StudyID": study_id, "PatientID": f"ID-{name}", **values}.items():
            setattr(dataset, keyword, value)

    for path in folder.iterdir():
        edit(path, change)
    return folder


@cache
def template_file(folder: Path) -> str:
    """The template that these studies are planned by."""
    path = folder / "tiny.yaml"
    path.write_text(TEMPLATE)
    return str(path)


class Watcher:
    """A watcher on ``root``/in and ``root``/out with short times and the quick worker."""

    def __init__(self, root: Path, **changes: Any) -> None:
        self.inbox, self.outbox = root / "in", root / "out"
        for folder in (self.inbox, self.outbox):
            folder.mkdir(exist_ok=True)
        values: dict[str, Any] = {
            "inbox": self.inbox,
            "outbox": self.outbox,
            "store": root / "state" / "jobs.sqlite",
            "rules": changes.pop("rules", None) or one_template(template_file(root)),
            "waits": Waits(0.3, 60.0, 1.5),
            "workers": 2,
            "timeout_s": 250.0,
            "retry_s": 0.1,
            "poll_s": 0.1,
            "min_free_bytes": 0,
            "grace_s": 0.0,
            "worker": WORKER,
            "receipt": lambda: RECEIVED,
        }
        self.settings = Settings(**{**values, **changes})
        self.store = JobStore(self.settings.store)
        self.log_text = io.StringIO()
        self.lock = InboxLock(self.inbox)
        self.lock.acquire(beat_s=0.1)
        self.service = Service(self.settings, self.store, ServiceLog(self.log_text), self.lock)
        self.service.sweep()

    def until(self, condition: Callable[[], bool], seconds: float = 300.0) -> None:
        """Turn the loop until ``condition`` holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{self.states()}\n{self.log_text.getvalue()[-3000:]}"
            self.turn()

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            time.sleep(min(self.service.tick(time.monotonic()), 0.05))

    def settle(self, count: int) -> list[Job]:
        """Turn until ``count`` jobs have ended, none is active and the input is cleared up."""

        def settled() -> bool:
            jobs = self.store.jobs()
            return len(jobs) >= count and all(job.is_final and job.moved for job in jobs)

        self.until(settled)
        return self.store.jobs()

    def states(self) -> list[str]:
        return [job.state for job in self.store.jobs()]

    def left(self) -> list[str]:
        """Files that are still in the inbox."""
        return sorted(
            path.relative_to(self.inbox).as_posix()
            for path in self.inbox.rglob("*")
            if path.is_file() and ".dicomplan" not in path.parts
        )

    def die(self) -> None:
        """What SIGKILL of the watcher leaves: workers go with it, the store keeps the leases of a process that is gone."""
        self.service.kill_workers()
        gone = f"{socket.gethostname()}:1:0"
        self.store._base.execute("UPDATE jobs SET owner = ? WHERE state = 'running'", (gone,))
        self.store.close()


def copied(source: Path, target: Path) -> Path:
    """A study copied into the inbox."""
    return Path(shutil.copytree(source, target, dirs_exist_ok=True))
