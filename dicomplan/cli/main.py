"""The command ``dicomplan``: arguments to a command, exceptions to one line and an exit code."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dicomplan import DISCLAIMER, __version__
from dicomplan.cli import (
    check,
    convert,
    demo,
    doctor,
    dose,
    evaluate,
    influence,
    inspect,
    jobs,
    machines,
    plan,
    send,
    templates,
    watch,
)
from dicomplan.cli.failures import failure
from dicomplan.cli.interrupts import Interrupts, Terminated
from dicomplan.cli.options import Commands, Parser, common_options
from dicomplan.cli.session import Session, printable
from dicomplan.events import Cancel


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (``argv`` without the program's name; None: the process's own).

    Returns the exit code as INTERFACE.md lists them; nothing is raised. Results go to stdout, progress, messages and
    errors to stderr; with ``--json`` an error is also a document on stdout.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    plain = arguments[: arguments.index("--")] if "--" in arguments else arguments
    # Known before parsing, so that a wrong command line too is answered in the wanted form.
    session = Session(json="--json" in plain, quiet="--quiet" in plain, debug="--debug" in plain)
    with Interrupts(session.cancel) as interrupts, _messages(session):
        try:
            return _run(arguments, session.cancel)
        except BrokenPipeError:
            # The reader of our output went away (`| head`).
            _discard_stdout()
            return 1
        except (Exception, KeyboardInterrupt, Terminated) as error:
            code = _report(error, session, interrupts.received)
            try:
                sys.stdout.flush()
            except OSError:
                _discard_stdout()
            return code


def _discard_stdout() -> None:
    """Send what is still to be written nowhere: the interpreter must not fail at its last flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str], cancel: Cancel) -> int:
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as end:  # --help
        return int(end.code or 0)
    session = Session(
        json=getattr(options, "json", False),
        quiet=getattr(options, "quiet", False),
        debug=getattr(options, "debug", False),
        threads=getattr(options, "threads", None),
        cancel=cancel,
    )
    if options.version:
        session.result(f"dicomplan {__version__}", {"schema": 1, "dicomplan": __version__})
        return 0
    code: int = options.run(options, session)
    return code


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; commands that are not built are absent."""
    parser = Parser(
        prog="dicomplan",
        description=f"DICOM-RT treatment planning. {DISCLAIMER}",
        epilog="`dicomplan COMMAND --help` explains a command.",
        parents=[common_options()],
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = Commands(parser, "commands")
    for command in (
        inspect,
        convert,
        plan,
        dose,
        evaluate,
        check,
        influence,
        watch,
        jobs,
        send,
        demo,
        templates,
        machines,
        doctor,
    ):
        command.add(commands)
    return parser


def _report(error: BaseException, session: Session, received: int | None) -> int:
    told = failure(error, received=received)
    if session.debug:
        traceback.print_exception(error, file=sys.stderr)
    for line in told.lines:
        print(line, file=sys.stderr)
    if session.json:
        try:
            session.result("", {"schema": 1, **told.document})
        except OSError:
            # stdout is what failed (full disk, closed pipe): stderr has told it already.
            logging.getLogger(__name__).debug("the error document could not be printed")
    return told.code


class _ToStderr(logging.Handler):
    """Prints log records on the present ``sys.stderr``, which progress bars redirect while they are shown."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"{record.levelname.lower()}: {printable(record.getMessage())}", file=sys.stderr)


@contextmanager
def _messages(session: Session) -> Iterator[None]:
    """Show the package's warnings (all its records with ``--debug``) and keep those of other packages back."""
    handler = _ToStderr(logging.ERROR if session.quiet else logging.NOTSET)
    if not session.debug:
        handler.addFilter(lambda record: record.name.split(".")[0] == "dicomplan" and record.levelno >= logging.WARNING)
    package, root = logging.getLogger("dicomplan"), logging.getLogger()
    level = package.level
    package.setLevel(logging.DEBUG if session.debug else logging.WARNING)
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        package.setLevel(level)


if __name__ == "__main__":
    sys.exit(main())
