"""Where the bytes of a study lie: files of a folder, single files, members of a zip. Nothing else is ever opened."""

from __future__ import annotations

import io
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from dicomplan.errors import InputError, UsageError

MAX_ZIP_BYTES = 4 * 1024**3
"""Greatest total size of a zip's members, unpacked: a whole-body CT with doses is a quarter of it."""
MAX_ZIP_MEMBERS = 20_000
"""Greatest number of members of a zip."""
MAX_ZIP_RATIO = 200
"""Greatest ratio of unpacked to packed size of a zip beyond 256 MiB: images shrink to a half, empty doses are small."""
MAX_OBJECT_BYTES = 2 * 1024**3
"""Greatest size of one file or member: a multi-frame CT of 4000 slices of 512 x 512 pixels."""

_RATIO_COUNTS_FROM = 256 * 1024**2
_ARCHIVE_STARTS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
# O_NONBLOCK: should a file have become a FIFO since it was looked at, opening it does not wait for a writer.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, eq=False)
class ByteSource:
    """One file or zip member: its name for messages, its size in bytes, and when a file was last changed (ns)."""

    name: str
    path: Path
    size: int
    changed_ns: int = 0
    archive: zipfile.ZipFile | None = None
    member: zipfile.ZipInfo | None = None

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """A stream of its bytes that can seek. Raises UsageError if it cannot be read, InputError if it changed."""
        if self.archive is not None and self.member is not None:
            yield io.BytesIO(self.read())
            return
        try:
            stream = os.fdopen(os.open(self.path, _OPEN_FLAGS), "rb")
        except OSError as error:
            raise UsageError(f"cannot be read: {error.strerror}", file=self.path) from error
        with stream:
            now = os.fstat(stream.fileno())
            if not stat.S_ISREG(now.st_mode) or (now.st_size, now.st_mtime_ns) != (self.size, self.changed_ns):
                raise InputError("the file changed while it was read", file=self.name)
            yield stream

    def read(self, most: int = MAX_OBJECT_BYTES) -> bytes:
        """The first ``most`` bytes. Raises UsageError if it cannot be read, InputError if it changed or is damaged."""
        most = min(most, self.size)  # a buffer of that size is taken at once
        if self.archive is not None and self.member is not None:
            with _zip_errors(self.path), self.archive.open(self.member) as member:
                return member.read(most)
        with self.open() as stream:
            try:
                return stream.read(most)
            except OSError as error:
                raise UsageError(f"cannot be read: {error.strerror}", file=self.path) from error


@dataclass
class Skipped:
    """Counts of what lay in the folders and was not opened."""

    links: int = 0
    special_files: int = 0
    archives: int = 0
    folders: list[str] = field(default_factory=list)


def byte_sources(paths: Sequence[Path], skipped: Skipped) -> Iterator[ByteSource]:
    """The files under ``paths`` (folders, files, zips), each once, in the order of their names.

    Links inside of a folder are not followed: what they point to in the folder is found anyway, what lies outside is not
    part of it; so loops end. FIFOs, sockets and devices are not opened. A zip is only opened when it is named itself.
    Raises UsageError for a path that is not there or cannot be read, InputError for an unsafe zip.
    """
    seen: set[Path] = set()
    for path in paths:
        if path.is_dir():
            files = _files_below(path, skipped)
        elif path.is_file():
            files = [path]
        elif path.exists():
            raise UsageError("is neither a file nor a folder", file=path)
        else:
            raise UsageError("no such file or folder", file=path)
        for file in files:
            real = file.resolve()
            if real in seen:
                continue
            seen.add(real)
            source = file_source(file)
            if file == path and _is_zip(source):
                yield from _members(file)
            else:
                yield source


def _files_below(folder: Path, skipped: Skipped) -> list[Path]:
    """Regular files below a folder, sorted; iterative, for folders may be nested deeper than Python calls may be."""
    inside = folder.resolve()
    found: list[Path] = []
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(here) as listing:
                entries = list(listing)
        except OSError:
            skipped.folders.append(str(here))
            continue
        for entry in entries:
            if entry.is_symlink():
                if not Path(entry.path).resolve().is_relative_to(inside):
                    skipped.links += 1
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                found.append(Path(entry.path))
            else:
                skipped.special_files += 1
    return sorted(found)


def file_source(path: Path) -> ByteSource:
    """One regular file. Raises UsageError if it cannot be looked at."""
    try:
        now = path.stat()
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", file=path) from error
    return ByteSource(str(path), path, now.st_size, now.st_mtime_ns)


def is_archive(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a zip."""
    return head.startswith(_ARCHIVE_STARTS)


def _is_zip(source: ByteSource) -> bool:
    return is_archive(source.read(4)) and zipfile.is_zipfile(source.path)


@contextmanager
def _zip_errors(path: Path) -> Iterator[None]:
    """Turn what the zip library raises into InputError."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise InputError(f"the zip cannot be read: {error}", file=path) from error


def _members(path: Path) -> Iterator[ByteSource]:
    with _zip_errors(path):
        archive = zipfile.ZipFile(path)
    members = archive.infolist()
    if len(members) > MAX_ZIP_MEMBERS:
        raise InputError(f"the zip has {len(members)} members, at most {MAX_ZIP_MEMBERS} are read", file=path)
    unpacked, packed = sum(item.file_size for item in members), max(path.stat().st_size, 1)
    if unpacked > MAX_ZIP_BYTES:
        raise InputError(f"the zip unpacks to more than {MAX_ZIP_BYTES // 1024**3} GiB", file=path)
    if unpacked > _RATIO_COUNTS_FROM and unpacked > MAX_ZIP_RATIO * packed:
        raise InputError(
            f"the zip unpacks to {unpacked / packed:.0f} times its size, at most {MAX_ZIP_RATIO} times is read",
            file=path,
        )
    for member in members:
        _check_member(path, member)
    for member in sorted(members, key=lambda item: item.filename):
        if not member.is_dir():
            source = ByteSource(f"{path}/{member.filename}", path, member.file_size, 0, archive, member)
            if is_archive(source.read(4)):
                raise InputError(f"the zip holds another zip ('{member.filename}'): unpack it first", file=path)
            yield source


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    name = member.filename.replace("\\", "/")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if name.startswith("/") or ".." in PurePosixPath(name).parts or ":" in name.split("/")[0]:
        raise InputError(f"the zip has an unsafe member name '{member.filename}'", file=path)
    if kind == stat.S_IFLNK:
        raise InputError(f"the zip holds a link, '{member.filename}'", file=path)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise InputError(f"the zip holds a device or FIFO, '{member.filename}'", file=path)
    if member.flag_bits & 1:
        raise InputError("the zip is encrypted", file=path)
