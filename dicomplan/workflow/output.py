"""The output folder: checked before any work, built beside its place, there as a whole or not at all."""

from __future__ import annotations

import errno
import fnmatch
import json
import logging
import os
import secrets
import shutil
import signal
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

from dicomplan.errors import UsageError

_LOG = logging.getLogger(__name__)

# What dicomplan itself puts into an output folder, by the document that marks the folder as its own.
_OWN_FILES: dict[str, tuple[str, ...]] = {
    "plan.json": (
        "plan.json",
        "RTPLAN.dcm",
        "RTDOSE.dcm",
        "RTDOSE_*.dcm",
        "RTSTRUCT.dcm",
        "report.html",
        "log.txt",
        "failed",
        "failed/RTPLAN.dcm",
    ),
    "evaluation.json": ("evaluation.json", "dvh.csv", "log.txt"),
    "dose.json": ("dose.json", "RTDOSE.dcm", "RTDOSE_*.dcm", "log.txt"),
    "influence.json": (
        "influence.json",
        "influence.npz",
        "structures.npz",
        "Beams",
        "Beams/Beam_*_Data.h5",
        "Beams/Beam_*_MetaData.json",
        "log.txt",
    ),
    "index.json": ("index.json", "ct.*", "dose_*.*", "masks", "masks/*.*", "RTSTRUCT.dcm", "log.txt"),
}


class OutputFolder:
    """Context that yields a folder to write into and, on success, puts it in the place of ``target``.

    The constructor checks everything that can be known before the work, and writes nothing that stays. ``target`` must
    be new or an empty folder; with ``overwrite`` it may be a folder that holds a dicomplan document and nothing
    foreign. It may neither lie inside one of ``inputs`` (the study's folders or files) nor hold one; symbolic links
    are followed first. The folder is built as ``.NAME.partial-<id>`` beside its place; on success it is synced and
    renamed, an old one being moved aside first and removed last. On any exception, an interruption included, nothing
    of it remains. Files and folder get the modes of the umask; a folder that was there keeps its mode.
    Raises UsageError (exit code 2).
    """

    def __init__(self, target: Path, *, overwrite: bool = False, inputs: Sequence[Path] = ()) -> None:
        try:
            self.target = Path(target).expanduser().resolve()
            self._overwrite = overwrite
            _refuse_overlap(self.target, inputs)
            _refuse_occupied(self.target, overwrite=overwrite)
            self._partial = self.target.parent / f".{self.target.name}.partial-{secrets.token_hex(4)}"
            self._old = self.target.parent / f".{self.target.name}.old-{secrets.token_hex(4)}"
            self._probe()
        except (OSError, RuntimeError) as error:
            raise _cannot_write(Path(target), error) from error

    def __enter__(self) -> Path:
        try:
            with _undisturbed():
                self._partial.mkdir()
        except OSError as error:
            raise _cannot_write(self.target, error) from error
        except BaseException:
            _remove(self._partial)
            raise
        return self._partial

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _undisturbed():
            try:
                if error is None:
                    _sync(self._partial)
                    self._put_in_place()
            finally:
                _remove(self._partial)

    def _probe(self) -> None:
        # Only making a folder tells whether one can be made: permission bits mean nothing to root or on odd systems.
        try:
            self._partial.mkdir()
        finally:
            if self._partial.exists():
                self._partial.rmdir()

    def _put_in_place(self) -> None:
        # The work may have taken minutes: whatever came into the place meanwhile must not be lost.
        _refuse_occupied(self.target, overwrite=self._overwrite)
        try:
            if not self.target.exists():
                os.rename(self._partial, self.target)
            else:
                shutil.copymode(self.target, self._partial)
                os.rename(self.target, self._old)
                try:
                    os.rename(self._partial, self.target)
                except OSError:
                    os.rename(self._old, self.target)
                    raise
        except OSError as error:
            raise _cannot_write(self.target, error) from error
        _sync_one(self.target.parent)
        _remove(self._old)


def _refuse_overlap(target: Path, inputs: Sequence[Path]) -> None:
    for given in inputs:
        source = Path(given).expanduser().resolve()
        if not source.exists():
            continue
        if any(_same(place, source) for place in (target, *target.parents)):
            raise UsageError(
                "the output lies inside the study, into which nothing is ever written",
                file=target,
                hint="choose a folder outside the study",
            )
        if target.exists() and any(_same(place, target) for place in source.parents):
            raise UsageError(
                "the study lies inside the output folder",
                file=target,
                hint="choose a folder that does not hold the study",
            )


def _same(one: Path, other: Path) -> bool:
    return one == other or (one.exists() and other.exists() and os.path.samefile(one, other))


def _refuse_occupied(target: Path, *, overwrite: bool) -> None:
    if target.is_dir():
        if os.path.ismount(target):
            raise UsageError(
                "the output folder is a mount point and cannot be replaced as a whole",
                file=target,
                hint="name a new folder inside it",
            )
        if next(target.iterdir(), None) is None:
            return
        if not overwrite:
            earlier = any(_is_document(target / marker) for marker in _OWN_FILES)
            hint = "choose a new one, or replace the earlier result with --overwrite" if earlier else "choose a new one"
            raise UsageError("the output folder exists and is not empty", file=target, hint=hint)
        _refuse_foreign(target)
    elif os.path.lexists(target):
        raise UsageError("the output exists and is not a folder", file=target, hint="choose a new folder")
    elif not target.parent.is_dir():
        raise UsageError(
            "the output cannot be made: the folder that should hold it is not there",
            file=target,
            hint=f"make {target.parent} first",
        )


def _refuse_foreign(target: Path) -> None:
    patterns = [pattern for marker in _OWN_FILES if _is_document(target / marker) for pattern in _OWN_FILES[marker]]
    if not patterns:
        raise UsageError(
            "--overwrite refused: the folder holds no dicomplan plan.json, dose.json or index.json",
            file=target,
            hint="choose a new folder",
        )
    for path in sorted(target.rglob("*")):
        name = path.relative_to(target).as_posix()
        plain = stat.S_ISREG(path.lstat().st_mode) or stat.S_ISDIR(path.lstat().st_mode)
        if not plain or not any(_matches(name, pattern) for pattern in patterns):
            raise UsageError(
                f"--overwrite refused: the folder holds {name}, which dicomplan did not write",
                file=target,
                hint="move it away, or choose a new folder",
            )


def _matches(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and fnmatch.fnmatchcase(name, pattern)


def _is_document(path: Path) -> bool:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    marked = isinstance(document, dict) and isinstance(document.get("schema"), int)
    return marked and (path.name != "plan.json" or "dicomplan" in document)


def _cannot_write(target: Path, error: OSError | RuntimeError) -> Exception:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return error
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UsageError(f"the output cannot be written: {reason}", file=target, hint="choose another folder")


def _sync(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        _sync_one(path)
    _sync_one(folder)


def _sync_one(path: Path) -> None:
    try:
        number = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        return
    try:
        os.fsync(number)
    except OSError as error:
        # Some network file systems cannot sync; a full or failing disk must be told.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(number)


def _remove(folder: Path) -> None:
    if not os.path.lexists(folder):
        return
    try:
        shutil.rmtree(folder)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        _LOG.warning("a temporary folder beside the output could not be removed completely")


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold back signals for the few steps that must not be torn apart; the last one is raised again afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python runs signal handlers in the main thread only
        return
    arrived: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        arrived.append(signum)

    previous = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and callable(signal.getsignal(number)):
            previous[number] = signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if arrived:
        signal.raise_signal(arrived[-1])
