"""What lies in the inbox, and since when it has not changed: pure functions of listings and of a monotonic clock."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SERVICE_FOLDER = ".dicomplan"
"""The service's own folder inside inbox and outbox."""
READY_FILE = ".ready"
"""A file of this name in a study's folder says that the study is complete."""

_SKIPPED_ENDINGS = (".tmp", ".part", ".partial", ".filepart", ".crdownload", "~", ".lock")


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells one state of a file from another: size in bytes, modification time in ns, inode."""

    size: int
    changed_ns: int
    inode: int


@dataclass(frozen=True)
class Snapshot:
    """One listing of the inbox: files by path relative to it, folders that hold a ``.ready`` file, empty folders.

    ``trouble``: why it could not be listed as a whole (an unmounted share, an unreadable folder); the files are then not
    to be taken for removed. Folders are relative too; the inbox itself is ``""``.
    """

    files: Mapping[str, FileState]
    ready_folders: frozenset[str] = frozenset()
    empty_folders: tuple[str, ...] = ()
    trouble: str | None = None
    unlisted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """A file's state and the monotonic times in s at which scans first and last found it in this state."""

    state: FileState
    since_s: float
    last_s: float


def is_skipped(name: str) -> bool:
    """Whether a file or folder name is one that nobody means to hand in: hidden, or of a copy under way."""
    return name.startswith(".") or name.lower().endswith(_SKIPPED_ENDINGS)


def take_snapshot(inbox: Path) -> Snapshot:
    """List all regular files below ``inbox``; hidden ones, copies under way and links are skipped. Raises nothing."""
    files: dict[str, FileState] = {}
    ready, empty, unlisted = set(), [], []
    trouble = None
    waiting = [""]
    root = str(inbox)
    while waiting:
        folder = waiting.pop()
        count = 0
        try:
            with os.scandir(f"{root}/{folder}" if folder else root) as listing:
                for entry in listing:
                    count += 1
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.name == READY_FILE:
                        ready.add(folder)
                    if is_skipped(entry.name):
                        continue
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(name)
                            continue
                        now = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # gone since it was listed
                    if stat.S_ISREG(now.st_mode):
                        files[name] = FileState(now.st_size, now.st_mtime_ns, now.st_ino)
        except FileNotFoundError:
            if not folder:
                trouble = "the inbox is not there"
        except OSError as error:
            if not folder:
                trouble = f"the inbox cannot be listed: {error.strerror}"
            unlisted.append(folder)
        if not count and folder:
            empty.append(folder)
    return Snapshot(files, frozenset(ready), tuple(sorted(empty)), trouble, tuple(unlisted))


@dataclass
class Watched:
    """What the scans so far found: files with their state, ready folders; ``scanned_s``: when the last one was."""

    seen: dict[str, Seen] = field(default_factory=dict)
    ready_folders: frozenset[str] = frozenset()
    scanned_s: float = float("-inf")

    def observe(self, snapshot: Snapshot, now_s: float) -> None:
        """Take in a listing; one with trouble changes nothing, and files below an unlisted folder stay as they were."""
        if snapshot.trouble is not None:
            return
        seen: dict[str, Seen] = {}
        for name, state in snapshot.files.items():
            before = self.seen.get(name)
            since_s = before.since_s if before is not None and before.state == state else now_s
            seen[name] = Seen(state, since_s, now_s)
        for folder in snapshot.unlisted:
            seen.update({name: one for name, one in self.seen.items() if name.startswith(f"{folder}/")})
        self.seen, self.ready_folders, self.scanned_s = seen, snapshot.ready_folders, now_s

    def is_ready(self, name: str) -> bool:
        """Whether the folder of a file, or one above it (not the inbox itself), holds a ``.ready`` file."""
        parts = name.split("/")[:-1]
        return any("/".join(parts[: depth + 1]) in self.ready_folders for depth in range(len(parts)))

    def stable(self, quiet_s: float) -> list[str]:
        """Files that two scans at least ``quiet_s`` apart found in the same state (any two, in a ready folder).

        The time since the last scan does not count: nobody has seen what happened meanwhile.
        """
        return [
            name
            for name, one in self.seen.items()
            if one.last_s > one.since_s
            and (one.last_s - one.since_s >= quiet_s or (self.ready_folders and self.is_ready(name)))
        ]
