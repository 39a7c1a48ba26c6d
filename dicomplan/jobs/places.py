"""Whether there is room for what comes in and goes out, and whether the outbox can be written."""

from __future__ import annotations

import contextlib
import os
import shutil

from dicomplan.jobs import delivering
from dicomplan.jobs.durable import DISK_FULL
from dicomplan.jobs.scan import SERVICE_FOLDER
from dicomplan.jobs.settings import Settings
from dicomplan.jobs.trouble import Troubles

PROBE_PREFIX = ".probe-"
_PROBE_EVERY_S = 15.0


class Places:
    """The folders that a watcher writes to."""

    def __init__(self, settings: Settings, troubles: Troubles) -> None:
        self._settings = settings
        self._troubles = troubles
        self._next_probe_s = 0.0

    def have_room(self, more_bytes: int) -> bool:
        """Whether private copies and results have room for so much more; else health is red until they have."""
        for place in (self._settings.work, self._settings.outbox):
            if shutil.disk_usage(place).free < more_bytes + self._settings.min_free_bytes:
                self._troubles.note("disk", "not enough free space: no study is taken")
                self._troubles.pause()
                return False
        return True

    def check(self, now_s: float) -> None:
        """Note whether the outbox can be written, and whether there is room again."""
        troubles = self._troubles
        if "disk" in troubles.current and not troubles.is_paused and self.have_room(0):
            troubles.clear("disk")
        if not troubles.is_paused:
            troubles.clear("place")
        if "outbox" in troubles.current or now_s >= self._next_probe_s:
            self._next_probe_s = now_s + _PROBE_EVERY_S
            problem = self.probe_outbox()
            if problem is None:
                troubles.clear("outbox")
            else:
                troubles.note("outbox", problem)

    def probe_outbox(self) -> str | None:
        """Why the outbox cannot be written; None if it can. Raises OSError if it is full."""
        probe = self._settings.outbox / SERVICE_FOLDER / f"{PROBE_PREFIX}{os.getpid()}"
        try:
            delivering.service_folder(self._settings.outbox)
            probe.write_bytes(b"x")
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            return f"the outbox cannot be written: {error.strerror}"
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()
        return None
