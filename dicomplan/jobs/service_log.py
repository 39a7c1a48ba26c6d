"""The service's log: one JSON document (or one plain line) for each event, with job identifiers and no other names."""

from __future__ import annotations

import json
import sys
import threading
from datetime import UTC, datetime
from typing import TextIO


class ServiceLog:
    """Writes events to a stream (stderr), each line at once. ``plain``: lines for people instead of JSON."""

    def __init__(self, stream: TextIO | None = None, *, plain: bool = False, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._plain = plain
        self._quiet = quiet
        self._lock = threading.Lock()

    def write(self, level: str, event: str, **values: object) -> None:
        """One event: ``level`` is ``info``, ``warning`` or ``error``, ``event`` a short key, ``values`` what belongs to it."""
        if self._quiet and level == "info":
            return
        now = datetime.now(UTC)
        values = {key: value for key, value in values.items() if value is not None}
        if self._plain:
            rest = "  ".join(f"{key} {value}" for key, value in values.items())
            line = f"{now.astimezone():%H:%M:%S}  {event.replace('_', ' '):<10}  {rest}".rstrip()
        else:
            stamp = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            line = json.dumps({"time": stamp, "level": level, "event": event, **values})
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()
