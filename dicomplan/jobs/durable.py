"""Writing that survives a power cut: files and folders are synced before their names tell that they are whole."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk or quota."""
_SHARE_GONE = (
    "ESTALE ENOTCONN ETIMEDOUT EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH ECONNABORTED ECONNRESET EREMOTEIO EAGAIN"
)
FAILING = (*DISK_FULL, errno.EIO, *(getattr(errno, name) for name in _SHARE_GONE.split() if hasattr(errno, name)))
"""Error numbers of a disk that is full or fails, or of a share that is gone."""
NO_PLACE = (*FAILING, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT)
"""Error numbers that say something about the place of a result, not about the job."""


def sync(path: Path) -> None:
    """Sync a file or folder; file systems that cannot are let be, a full or failing disk raises OSError."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(number)


def write_document(path: Path, document: Mapping[str, object]) -> None:
    """Write JSON so that ``path`` holds the old or the new document, never a part. Raises OSError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            json.dump(document, stream, indent=2)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    sync(path.parent)


def remove(folder: Path) -> bool:
    """Remove a folder and what is in it; whether nothing of it is left."""
    if not os.path.lexists(folder):
        return True
    shutil.rmtree(folder, ignore_errors=True)
    return not os.path.lexists(folder)


def set_modes(folder: Path, mode: int) -> None:
    """Give a folder and all in it ``mode``, files without the execute bits; links are not followed."""
    for place, _, names in os.walk(folder):
        os.chmod(place, mode)
        for name in names:
            path = os.path.join(place, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                os.chmod(path, mode & 0o666)
