"""The lock of an inbox: watchers of one host share it, those of another host stay out."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from dicomplan.errors import UsageError
from dicomplan.jobs.delivering import service_folder
from dicomplan.jobs.durable import write_document
from dicomplan.jobs.scan import SERVICE_FOLDER

LOCK_FILE = "watcher.json"
BEAT_S = 10.0
"""Seconds between two heartbeats."""
_SILENT_BEATS = 3.5


class InboxLock:
    """The lock file ``INBOX/.dicomplan/watcher.json`` with host, process and a heartbeat number.

    A lock of another host counts as long as its number changes, seen with our own clock: clocks of two hosts need not
    agree. ``writable`` is False where the inbox cannot be written: then nobody can be kept out.
    """

    def __init__(self, inbox: Path, *, now: Callable[[], float] = time.monotonic, host: str | None = None) -> None:
        self.inbox = inbox
        self.writable = True
        self._now = now
        self._host = host or socket.gethostname()
        self._beat = 0
        self._last_s = -1e9
        self._place: tuple[int, int] | None = None

    def acquire(self, wait: Callable[[float], None] = time.sleep, beat_s: float = BEAT_S) -> None:
        """Take the lock. Raises UsageError if a watcher of another host is alive (it is listened to for a while first)."""
        foreign = self._read()
        if foreign is not None and foreign.get("host") != self._host:
            until = self._now() + _SILENT_BEATS * beat_s
            while self._now() < until:
                wait(min(1.0, beat_s / 4))
                again = self._read()
                if again is not None and again != foreign:
                    raise UsageError(
                        f"a watcher on the host {again.get('host')} works on this inbox",
                        file=self.inbox,
                        hint="watchers of one inbox run on one host",
                    )
        try:
            self.beat(force=True)
        except OSError:
            self.writable = False
        self._place = self._identity()
        if self.writable:
            wait(min(0.2, beat_s / 4))
            now = self._read()
            if now is not None and now.get("host") != self._host:
                raise UsageError(f"a watcher on the host {now.get('host')} took this inbox", file=self.inbox)

    def beat(self, *, force: bool = False) -> None:
        """Write a heartbeat, if one is due. Raises OSError."""
        if not self.writable or (not force and self._now() - self._last_s < BEAT_S):
            return
        self._beat += 1
        folder = service_folder(self.inbox)
        document = {"host": self._host, "pid": os.getpid(), "beat": f"{os.getpid()}.{self._beat}"}
        write_document(folder / LOCK_FILE, document)
        self._last_s = self._now()

    def trouble(self) -> str | None:
        """Why the inbox is not the one that was locked: its share is gone, or another one lies in its place."""
        identity = self._identity()
        if identity is None:
            return "the inbox is not there"
        found = self._read() if self.writable else None
        if found is not None:
            if found.get("host") != self._host:
                return f"a watcher on the host {found.get('host')} took this inbox"
            self._place = identity
            return None
        if identity != self._place:
            return "another file system lies in the place of the inbox: its share is gone"
        return None

    def _identity(self) -> tuple[int, int] | None:
        try:
            now = os.stat(self.inbox)
        except OSError:
            return None
        return now.st_dev, now.st_ino

    def _read(self) -> dict[str, object] | None:
        try:
            document = json.loads((self.inbox / SERVICE_FOLDER / LOCK_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) else None
