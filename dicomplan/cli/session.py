"""What every command shares: the options of all commands, where results and messages go, the cancel token."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TextIO

from dicomplan.events import Cancel, ProgressCallback


def printable(text: str) -> str:
    """``text`` as one line without control characters, so that names read from files cannot steer a terminal."""
    line = " ".join(text.split())
    return "".join(character if character.isprintable() else "?" for character in line)


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of equal length as left-aligned columns, two blanks apart, each line indented by two."""
    cells = [tuple(printable(cell) for cell in row) for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))] if cells else []
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(f"  {line}".rstrip() for line in lines)


@dataclass(frozen=True)
class Session:
    """One run of the command line: ``json``, ``quiet``, ``debug``, ``threads`` as given, and the ``cancel`` token."""

    json: bool = False
    quiet: bool = False
    debug: bool = False
    threads: int | None = None
    cancel: Cancel = field(default_factory=Cancel)

    def result(self, text: str, document: Mapping[str, object]) -> None:
        """Print the result on stdout: ``document`` as JSON with ``--json``, else ``text``."""
        if self.json:
            # ASCII: a document must not depend on the terminal's encoding, nor fail on undecodable file names.
            sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
        else:
            sys.stdout.write(_encodable(text, sys.stdout).rstrip("\n") + "\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Print a message for people on stderr, unless ``--quiet``."""
        if not self.quiet:
            print(_encodable(text, sys.stderr), file=sys.stderr, flush=True)

    def progress(self) -> AbstractContextManager[ProgressCallback]:
        """Context of long work: yields the callback that shows progress on stderr (nothing with ``--quiet``)."""
        from dicomplan.cli.progress import show_progress

        return show_progress(quiet=self.quiet)

    @contextmanager
    def long_work(self) -> Iterator[ProgressCallback]:
        """As :meth:`progress`, after the thread count was set (before any kernel is loaded)."""
        from dicomplan.workflow.threads import set_threads

        set_threads(self.threads)
        with self.progress() as callback:
            yield callback


def _encodable(text: str, stream: TextIO) -> str:
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
