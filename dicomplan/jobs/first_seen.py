"""Since when something waits, also across a restart: by the clock since boot, which nobody sets; after a reboot by the wall
clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

_BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time: ``boot`` names the machine's present run (empty where it has no name), ``boot_s`` are the seconds
    since it began, ``wall_s`` those since 1970."""

    boot: str
    boot_s: float
    wall_s: float

    def before(self, seconds: float) -> Moment:
        """The moment so many seconds earlier."""
        return Moment(self.boot, self.boot_s - seconds, self.wall_s - seconds)


def present_moment() -> Moment:
    """The present moment; seconds since boot include time asleep (``CLOCK_BOOTTIME``, clock_getres(2))."""
    try:
        boot = _BOOT_FILE.read_text(encoding="ascii").strip()
        return Moment(boot, time.clock_gettime(time.CLOCK_BOOTTIME), time.time())
    except (OSError, AttributeError):
        return Moment("", 0.0, time.time())


def elapsed_s(then: Moment, now: Moment) -> float:
    """Seconds from one moment to another, never negative. Within one run of the machine a clock that is set does not count."""
    passed = now.boot_s - then.boot_s if then.boot and then.boot == now.boot else now.wall_s - then.wall_s
    return max(passed, 0.0)
