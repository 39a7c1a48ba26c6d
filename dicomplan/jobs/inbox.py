"""The inbox as the service knows it: scans, contents of files read once, and input of earlier jobs called back."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dicomplan.errors import DicomplanError
from dicomplan.jobs.clean import reason_of_file
from dicomplan.jobs.contents import FileContents, file_sha256, read_contents
from dicomplan.jobs.delivering import REASON_FILE, input_folders
from dicomplan.jobs.readiness import Present
from dicomplan.jobs.scan import FileState, Snapshot, Watched, take_snapshot

_RECALLED_SINCE_S = float("-inf")
_LONGEST_UNREAD_S = 3600.0
"""A file that could not be read is read again after so long at the latest."""


@dataclass(frozen=True, slots=True)
class Indexed:
    """A file that was looked at in one state: what it holds, or why it could not be read; ``sha256`` of the file;
    ``read_s``: when, monotonic."""

    state: FileState
    contents: FileContents | None
    error: str | None
    sha256: str
    read_s: float


class Inbox:
    """Scans of one inbox and an index of its stable files. ``quiet_s`` as in :class:`~dicomplan.jobs.readiness.Waits`.

    ``first_seen_s``: the monotonic time at which a content (by its SHA-256) was first seen, which may lie before this
    process began. ``read_count``: files read so far.
    """

    def __init__(self, path: Path, quiet_s: float) -> None:
        self.path = path
        self.quiet_s = quiet_s
        self.watched = Watched()
        self.index: dict[str, Indexed] = {}
        self.first_seen_s: dict[str, float] = {}
        self.empty_folders: tuple[str, ...] = ()
        self.read_count = 0
        self._recalled: dict[str, list[Present]] = {}

    def scan(self, now_s: float) -> Snapshot:
        """List the inbox; entries of files that changed or went are dropped, unless the listing failed."""
        snapshot = take_snapshot(self.path)
        self.watched.observe(snapshot, now_s)
        if snapshot.trouble is None:
            seen = self.watched.seen
            gone = [name for name, one in self.index.items() if name not in seen or seen[name].state != one.state]
            for name in gone:
                del self.index[name]
            self.empty_folders = snapshot.empty_folders
        return snapshot

    def look(self, now_s: float, budget_s: float) -> bool:
        """Read stable files that were not read in their present state, for about ``budget_s``; whether some are left.

        Those that could not be read are read again, when they have been there twice as long as the last time: a share
        may have failed, or a writer may fill in what it had laid out before.
        """
        until = time.monotonic() + budget_s
        # by folder, so that the first studies are complete early
        for name in sorted(self.watched.stable(self.quiet_s)):
            one = self.index.get(name)
            if one is not None and (one.error is None or now_s < self._again_s(name, one)):
                continue
            if time.monotonic() > until:
                return True
            self.index[name] = self._read(name, now_s)
        return False

    def _again_s(self, name: str, one: Indexed) -> float:
        waited_s = max(one.read_s - self.watched.seen[name].since_s, self.quiet_s)
        return one.read_s + min(waited_s, _LONGEST_UNREAD_S)

    def _read(self, name: str, now_s: float) -> Indexed:
        path = self.path / name
        state = self.watched.seen[name].state
        self.read_count += 1
        try:
            contents = read_contents(path)
        except DicomplanError as error:
            return Indexed(state, None, reason_of_file(error, path), self._hash(name, state), now_s)
        except OSError as error:
            return Indexed(state, None, f"cannot be read: {error.strerror}", self._hash(name, state), now_s)
        return Indexed(state, contents, None, contents.sha256, now_s)

    def _hash(self, name: str, state: FileState) -> str:
        try:
            return file_sha256(self.path / name)
        except OSError:
            # what cannot be opened is known by where it lies and what it looks like
            return hashlib.sha256(f"{name}\n{state}".encode("utf-8", "surrogateescape")).hexdigest()

    def next_due_s(self, now_s: float) -> float | None:
        """Seconds until the next file can become stable; None if no file waits for that."""
        watched = self.watched
        waits = [
            one.since_s + self.quiet_s - now_s
            for name, one in watched.seen.items()
            if name not in self.index and one.last_s == watched.scanned_s  # the others cannot be listed now
        ]
        return max(min(waits), 0.0) if waits else None

    def since_s(self, name: str) -> float:
        """Since when a file that was read lies there with its present content, monotonic."""
        since_s = self.watched.seen[name].since_s
        return min(since_s, self.first_seen_s.get(self.index[name].sha256, since_s))

    def is_read(self) -> bool:
        """Whether every file of the last listing has been read in its present state."""
        return len(self.index) == len(self.watched.seen)

    def busy_folders(self) -> frozenset[str]:
        """Folders that hold a file which is not stable yet."""
        return frozenset(name.rpartition("/")[0] for name in self.watched.seen if name not in self.index)

    def present(self, known: set[str]) -> list[Present]:
        """All objects of readable files; ``known``: hashes of files that are inputs of jobs already."""
        found: dict[tuple[str, str], Present] = {}
        for name, one in self.index.items():
            if one.contents is None:
                continue
            hurried = bool(self.watched.ready_folders) and self.watched.is_ready(name)
            for content in one.contents.objects:
                key = (content.uid, content.sha256)
                item = Present(
                    content,
                    name,
                    one.sha256,
                    self.since_s(name),
                    one.sha256 not in known,
                    one.contents.is_zip,
                    hurried,
                )
                # of two copies the one that a job has
                if key not in found or not item.fresh:
                    found[key] = item
        return list(found.values())

    def unreadable(self, now_s: float, after_s: float) -> list[tuple[str, Indexed]]:
        """Files that have not changed for ``after_s`` and, tried once more since then, still cannot be read."""
        failed = [
            name for name, one in self.index.items() if one.error is not None and now_s - self.since_s(name) >= after_s
        ]
        for name in failed:
            if self.index[name].read_s - self.since_s(name) < after_s:
                self.index[name] = self._read(name, now_s)
        return [(name, self.index[name]) for name in failed if self.index[name].error is not None]

    def recall(self, job: str) -> Sequence[Present]:
        """The objects of an ended job that were moved out of the inbox."""
        if job not in self._recalled:
            found = []
            for folder in input_folders(self.path, job):
                for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
                    if path.name == REASON_FILE or not path.is_file():
                        continue
                    try:
                        contents = read_contents(path)
                    except (DicomplanError, OSError):
                        continue
                    name = path.relative_to(self.path).as_posix()
                    for content in contents.objects:
                        found.append(Present(content, name, contents.sha256, _RECALLED_SINCE_S, False, contents.is_zip))
            self._recalled[job] = found
        return self._recalled[job]

    def forget(self, name: str) -> None:
        """Drop a file that was moved away."""
        del self.index[name]
        self.watched.seen.pop(name, None)

    def forget_recalled(self) -> None:
        """Drop what was called back: the folders have changed, or nobody needs them."""
        self._recalled.clear()
