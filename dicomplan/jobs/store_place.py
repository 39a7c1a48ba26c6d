"""Where the job store lies: never on a network file system, whose locks and write order SQLite cannot rely on."""

from __future__ import annotations

import os
from pathlib import Path

from dicomplan.errors import UsageError

_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "ncpfs")


def default_store() -> Path:
    """``$XDG_STATE_HOME/dicomplan/jobs.sqlite`` (``~/.local/state`` where that is not set)."""
    stated = os.environ.get("XDG_STATE_HOME", "")
    home = Path(stated) if stated.startswith("/") else Path.home() / ".local" / "state"
    return home / "dicomplan" / "jobs.sqlite"


def check_place(store: Path, mounts: str | None = None) -> None:
    """Raise UsageError for a store on NFS, CIFS or FUSE. ``mounts``: text of ``/proc/self/mountinfo`` (tests)."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return
    kind = file_system(store.resolve(), mounts)
    if kind in _NETWORK or kind.startswith("fuse"):
        raise UsageError(
            f"the job store cannot lie on a file system of type {kind}: locks and the order of writes are not reliable"
            " there, and jobs could be lost or run twice",
            file=store,
            hint="name a place on a local disk with --store FILE",
        )


def file_system(path: Path, mounts: str) -> str:
    """Type of the file system that holds ``path`` (absolute), from the text of mountinfo (proc(5)); empty if unknown."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5 or not after:
            continue
        point = Path(fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        # the last one mounted on a place hides the others
        if (path == point or path.is_relative_to(point)) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split(" ")[0]
    return kind
