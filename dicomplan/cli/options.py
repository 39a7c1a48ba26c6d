"""Arguments: the parser, the options that every command has, and paths that must be there."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from dicomplan import DISCLAIMER
from dicomplan.cli.session import Session
from dicomplan.errors import UsageError

Run = Callable[[argparse.Namespace, Session], int]
"""What a command does: parsed options and the session in, exit code out."""


class Parser(argparse.ArgumentParser):
    """Argument parser that raises UsageError instead of ending the process, and takes no abbreviated options."""

    def __init__(self, **settings: object) -> None:
        settings.setdefault("epilog", DISCLAIMER)
        super().__init__(allow_abbrev=False, **settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with argparse's message."""
        raise UsageError(message, hint=f"see `{self.prog} --help`")


class Commands:
    """Where commands (or the actions of one command) are added to a parser."""

    def __init__(self, parser: Parser, title: str) -> None:
        self._actions = parser.add_subparsers(title=title, metavar=title.rstrip("s").upper(), parser_class=Parser)
        parser.set_defaults(run=_missing(parser, title))

    def add(self, name: str, summary: str, run: Run | None = None) -> Parser:
        """Add a command that ``run`` carries out (None: it has actions of its own); returns its parser."""
        parser: Parser = self._actions.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", parents=[common_options()]
        )
        if run is not None:
            parser.set_defaults(run=run)
        return parser


def _missing(parser: Parser, title: str) -> Run:
    def run(options: argparse.Namespace, session: Session) -> int:
        parser.error(f"no {title.rstrip('s')} given")

    return run


def common_options() -> Parser:
    """Parent parser with the options that stand everywhere, before a command as well as behind it."""
    parent = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    group = parent.add_argument_group("everywhere")
    group.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    group.add_argument("--quiet", action="store_true", help="no progress and no messages")
    group.add_argument("--debug", action="store_true", help="more messages, and tracebacks of errors")
    group.add_argument("--threads", type=_count, metavar="N", help="number of threads (default: all usable cores)")
    return parent


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is expected, not '{text}'")
    return int(text)


def existing_paths(texts: Sequence[str]) -> tuple[Path, ...]:
    """The paths of these texts. Raises UsageError for one that is not there or cannot be reached."""
    paths = tuple(Path(text) for text in texts)
    for path in paths:
        try:
            path.stat()
        except FileNotFoundError:
            raise UsageError("there is no such file or folder", file=path) from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise UsageError(f"the path cannot be reached: {reason}", file=path) from None
    return paths
