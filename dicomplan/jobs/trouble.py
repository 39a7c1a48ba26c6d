"""What is in the way: full disks, shares that are gone, a store that cannot be used.

Health shows each of them at once, and at once when it is over. The log tells an episode, not each of its turns: a share
that comes and goes every few seconds is one line when it begins, one for each new reason, one an hour while it lasts, and
one when it has been well for a minute.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dicomplan.jobs.durable import DISK_FULL, NO_PLACE
from dicomplan.jobs.service_log import ServiceLog

UNLISTED, UNMOVED = "folders", "input"
"""Troubles that make health fail and hold nothing up: a part of the inbox cannot be seen, or not be moved away."""
PAUSE_S = 5.0
"""Nothing is taken and nothing starts for so long after a step that failed."""
WELL_AFTER_S = 60.0
"""An episode is over when nothing was in the way for so long."""
_TOLD_EVERY_S = 3600.0


@dataclass
class _Episode:
    """Trouble that comes and goes: monotonic times, the reasons that were told, how many times it came."""

    began_s: float
    told_s: float
    reasons: set[str] = field(default_factory=set)
    times: int = 1
    well_since_s: float | None = None


class Troubles:
    """The present troubles by subject (disk, store, inbox, outbox, place, folders, input); ``current`` is what health shows."""

    def __init__(self, current: dict[str, str], log: ServiceLog, now: Callable[[], float] = time.monotonic) -> None:
        self.current = current
        self._log = log
        self._now = now
        self._episodes: dict[str, _Episode] = {}
        self._paused_until_s = 0.0

    def note(self, subject: str, reason: str) -> None:
        """Something is in the way."""
        now = self._now()
        episode = self._episodes.setdefault(subject, _Episode(now, now))
        if episode.well_since_s is not None:
            episode.times, episode.well_since_s = episode.times + 1, None
        if reason not in episode.reasons:
            episode.reasons.add(reason)
            self._log.write("error", "trouble", subject=subject, reason=reason)
        self.current[subject] = reason

    def clear(self, subject: str) -> None:
        """It is not in the way any more."""
        if self.current.pop(subject, None) is not None:
            self._episodes[subject].well_since_s = self._now()

    def settle(self) -> None:
        """Log the episodes that are over, and those that have gone on for long."""
        now = self._now()
        for subject, episode in list(self._episodes.items()):
            if episode.well_since_s is not None and now - episode.well_since_s >= WELL_AFTER_S:
                lasted_s = round(episode.well_since_s - episode.began_s)
                self._log.write("info", "well_again", subject=subject, times=episode.times, lasted_s=lasted_s)
                del self._episodes[subject]
            elif now - episode.told_s >= _TOLD_EVERY_S:
                episode.told_s = now
                reason = self.current.get(subject, "it comes and goes")
                self._log.write("error", "trouble", subject=subject, reason=reason, times=episode.times)

    def pause(self) -> None:
        """Take nothing and start nothing for a while."""
        self._paused_until_s = self._now() + PAUSE_S

    @property
    def is_paused(self) -> bool:
        """Whether a step failed a moment ago."""
        return self._now() < self._paused_until_s

    @property
    def may_take(self) -> bool:
        """Whether studies may be taken."""
        return not self.is_paused and not self.current.keys() - {UNLISTED, UNMOVED}

    @property
    def may_start(self) -> bool:
        """Whether jobs may start: they run on private copies, an inbox that is gone does not hold them up."""
        return not self.is_paused and not self.current.keys() - {"inbox", UNLISTED, UNMOVED}

    @contextlib.contextmanager
    def watching(self, subject: str) -> Iterator[None]:
        """Trouble of disk or store ends a step, not the service: it is told, and everything is tried again."""
        try:
            yield
            self.clear(subject)
        except sqlite3.OperationalError as error:
            full = "full" in str(error)
            self.note("disk" if full else subject, "disk full" if full else "the job store cannot be used")
            self.pause()
        except OSError as error:
            if error.errno not in NO_PLACE:
                raise
            self.note("disk" if error.errno in DISK_FULL else "place", f"{error.strerror}")
            self.pause()
