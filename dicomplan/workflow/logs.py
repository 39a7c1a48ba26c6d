"""The log of one run: structured lines (time, level, stage, message) that name neither patient nor input file."""

from __future__ import annotations

import logging
import re
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from dicomplan.events import Progress, ProgressCallback, ignore_progress

REMOVED = "[removed]"
"""What stands in a log where a name was taken out."""

_PACKAGE_LOGGER = "dicomplan"
# An absolute, home or dotted path with at least one separator; "Gy/MU" and "3%/2mm" are none.
_PATH = re.compile(r"(?<![\w%)\]./])(?:[A-Za-z]:|~|\.{1,2})?[/\\][^\s'\",;()]+")


def log_line(
    level: str, stage: str, message: str, *, fraction: float | None = None, seconds: float | None = None
) -> str:
    """One structured line: UTC time (ISO 8601, ms), then ``key=value`` pairs; texts are quoted when they need it."""
    stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    pairs = [f"time={stamp}", f"level={level}", f"stage={_value(stage)}"]
    if fraction is not None:
        pairs.append(f"fraction={fraction:.2f}")
    if seconds is not None:
        pairs.append(f"seconds={seconds:.3f}")
    if message:
        pairs.append(f"message={_value(message)}")
    return " ".join(pairs)


def _value(text: str) -> str:
    line = "".join(character if character.isprintable() else " " for character in text)
    if re.fullmatch(r"[\w.+:/%-]+", line):
        return line
    escaped = line.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class Sparse:
    """Thins out progress: every new stage is wanted, within a stage one event in ``every_s`` seconds."""

    def __init__(self, every_s: float = 2.0) -> None:
        self._every_s = every_s
        self._stage: str | None = None
        self._last_s = 0.0

    def wanted(self, event: Progress) -> bool:
        """Whether ``event`` deserves a line."""
        now_s = time.monotonic()
        if event.stage == self._stage and now_s - self._last_s < self._every_s:
            return False
        self._stage, self._last_s = event.stage, now_s
        return True


class RunLog:
    """Context that writes ``path`` (``log.txt``) during one run and takes the package's log records of its thread.

    Progress passes through :meth:`progress`. Unless ``identify``, paths and every text given to :meth:`hide` (patient
    name, identifiers, input file names) are replaced by ``[removed]``.
    """

    def __init__(self, path: Path, *, identify: bool = False) -> None:
        self._path = path
        self._identify = identify
        self._hidden: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self._stage = "start"
        self._stage_began_s = 0.0
        self._sparse = Sparse()
        self._handler = _RecordHandler(self)

    def __enter__(self) -> RunLog:
        self._file = self._path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n")
        self._stage_began_s = time.monotonic()
        logger = logging.getLogger(_PACKAGE_LOGGER)
        logger.addHandler(self._handler)
        self._level = logger.level
        if logger.getEffectiveLevel() > logging.INFO:
            logger.setLevel(logging.INFO)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logger = logging.getLogger(_PACKAGE_LOGGER)
        logger.removeHandler(self._handler)
        logger.setLevel(self._level)
        self._end_stage()
        self._file.close()

    def hide(self, *texts: str) -> None:
        """Take these texts out of all later lines: whole words, in any case; a DICOM name also by its parts."""
        for text in texts:
            parts = re.split(r"[\^=\s]+", text)
            self._hidden.update(part for part in (text.strip(), *parts) if part.strip())
        if self._hidden:
            longest_first = sorted(self._hidden, key=lambda text: (-len(text), text))
            words = "|".join(re.escape(text) for text in longest_first)
            self._pattern = re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)

    def write(self, level: str, message: str, *, stage: str | None = None, seconds: float | None = None) -> None:
        """Write one line; ``level`` is ``info``, ``warning`` or ``error``; ``stage`` defaults to the current one."""
        line = log_line(level, stage or self._stage, self._clean(message), seconds=seconds)
        self._file.write(line + "\n")
        self._file.flush()

    def progress(self, inner: ProgressCallback = ignore_progress) -> ProgressCallback:
        """Callback that notes every stage (and its seconds) and now and then a step, then calls ``inner``."""

        def note(event: Progress) -> None:
            if event.stage != self._stage:
                self._end_stage()
                self._stage, self._stage_began_s = event.stage, time.monotonic()
            if self._sparse.wanted(event):
                self.write("info", event.message or "begins")
            inner(event)

        return note

    def _end_stage(self) -> None:
        if self._stage != "start":
            self.write("info", "ended", seconds=time.monotonic() - self._stage_began_s)

    def _clean(self, message: str) -> str:
        if self._identify:
            return message
        text = _PATH.sub(REMOVED, message)
        return self._pattern.sub(REMOVED, text) if self._pattern else text


class _RecordHandler(logging.Handler):
    """Passes the package's log records of the thread that made it to a :class:`RunLog`."""

    def __init__(self, log: RunLog) -> None:
        super().__init__(logging.INFO)
        self._log = log
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self._log.write(record.levelname.lower(), record.getMessage())
