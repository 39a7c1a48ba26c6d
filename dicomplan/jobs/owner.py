"""Who holds a lease: host, process and its start, so that a reused process number is not taken for the old process."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def this_owner() -> str:
    """``host:pid:start`` of this process."""
    pid = os.getpid()
    return f"{socket.gethostname()}:{pid}:{_start(pid) or 0}"


def is_alive(owner: str) -> bool | None:
    """Whether the process of an owner still runs; None if it is on another host, where nobody can tell."""
    host, _, rest = owner.rpartition(":")
    host, _, pid = host.rpartition(":")
    if host != socket.gethostname():
        return None
    start = _start(int(pid)) if pid.isdecimal() else None
    return start is not None and str(start) == rest


def _start(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot (proc(5), field 22); 0 where there is no /proc; None: no process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            return 0
        return 0
    # the name, in parentheses, may hold anything
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])
