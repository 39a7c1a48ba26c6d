"""``dicomplan watch``: the folder service."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicomplan.cli.durations import days, duration_s, folder_mode
from dicomplan.cli.options import Commands, existing_paths
from dicomplan.cli.session import Session, printable, table
from dicomplan.cli.study_options import study_size
from dicomplan.errors import UsageError

if TYPE_CHECKING:
    from dicomplan.jobs.rules import Rules
    from dicomplan.jobs.service import Service
    from dicomplan.jobs.settings import Settings


def add(commands: Commands) -> None:
    """Add the command ``watch`` to the command line."""
    parser = commands.add("watch", "folder service: plan every study that comes into INBOX, results into OUTBOX", run)
    parser.add_argument("inbox", nargs="?", metavar="INBOX", help="folder that studies come into")
    parser.add_argument("outbox", nargs="?", metavar="OUTBOX", help="folder for results, one folder each")
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--template", metavar="T", help="a shipped template or a template file, for every study")
    choice.add_argument("--rules", metavar="FILE", help="rules that say which template is for which study (YAML)")
    parser.add_argument("--check", metavar="STUDY", help="only say which rule fits a study, and end")
    parser.add_argument("--store", metavar="FILE", help="job store (default: below $XDG_STATE_HOME/dicomplan)")
    group = parser.add_argument_group("waiting (durations: 20, 15min, 2h, 7d)")
    duration: dict[str, Any] = {"type": duration_s, "metavar": "TIME"}
    group.add_argument(
        "--stable", default=20.0, **duration, help="a file or study that did not change for so long is whole (20)"
    )
    group.add_argument(
        "--give-up", default=900.0, **duration, help="RTSTRUCT without its images, unreadable files (15min)"
    )
    group.add_argument("--wait-structures", default=604800.0, **duration, help="CT without RTSTRUCT (7d)")
    group.add_argument("--poll", default=5.0, **duration, help="time between two listings of the inbox (5)")
    group = parser.add_argument_group("work")
    group.add_argument("--workers", type=int, metavar="N", help="jobs at once (default: one for two cores)")
    group.add_argument(
        "--memory",
        type=study_size,
        metavar="SIZE",
        help="memory for all jobs together (default: 80 %% of what is free)",
    )
    group.add_argument(
        "--timeout", default=7200.0, **duration, help="a job that runs longer is ended and counts as dead (2h)"
    )
    group.add_argument(
        "--retry",
        default=30.0,
        **duration,
        help="wait before the second attempt; the third waits four times as long (30)",
    )
    group.add_argument(
        "--min-free",
        type=study_size,
        default=200_000_000,
        metavar="SIZE",
        help="take no job with less disk space left (200MB)",
    )
    group.add_argument("--grace", default=20.0, **duration, help="time for running jobs when the service is ended (20)")
    group.add_argument("--replan", action="store_true", help="plan a study that is handed in again once more")
    group = parser.add_argument_group("files")
    group.add_argument("--keep-input", action="store_true", help="leave the input where it is")
    group.add_argument("--mode", type=folder_mode, default=0o700, metavar="MODE", help="mode of result folders (700)")
    for what, text in (
        ("processed", "input of planned jobs"),
        ("refused", "input of other jobs"),
        ("results", "handed-over results"),
    ):
        group.add_argument(
            f"--remove-{what}", type=days, metavar="DAYS", help=f"remove {text} after so many days (never)"
        )
    group = parser.add_argument_group("operations")
    group.add_argument(
        "--send",
        action="append",
        default=[],
        metavar="AE@HOST:PORT",
        help="send results there (or to an http address of STOW-RS); may be given again",
    )
    group.add_argument("--include-failed", action="store_true", help="send failed plans too")
    group.add_argument("--metrics", type=int, metavar="PORT", help="serve /health and /metrics on this port")
    group.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS", help="address for --metrics (127.0.0.1)")
    group.add_argument(
        "--log", choices=("json", "text"), help="form of the log on stderr (default: text on a terminal)"
    )


def run(options: argparse.Namespace, session: Session) -> int:
    """Serve until a signal comes; returns 128 + its number. With ``--check`` only says which rule fits."""
    rules = _rules(options)
    if options.check is not None:
        return _check(options, session, rules)
    settings = _settings(options, session, rules)
    return _serve(settings, options, session)


def _rules(options: argparse.Namespace) -> Rules:
    from dicomplan.jobs.rules import load_rules, one_template

    if options.rules is not None:
        (path,) = existing_paths([options.rules])
        return load_rules(path)
    return one_template(options.template)


def _check(options: argparse.Namespace, session: Session, rules: Rules) -> int:
    (study,) = existing_paths([options.check])
    from dicomplan.jobs.checking import check_study

    results = check_study(study, rules)
    documents = [
        {"structure_set": one.structure_set, "rule": one.rule, "template": one.template, "rules": one.reasons}
        for one in results
    ]
    lines = []
    for one in results:
        verdict = f"rule '{one.rule}': template {one.template}" if one.rule else "no rule fits: it would be refused"
        lines.append(f"{printable(one.structure_set)}: {printable(verdict)}")
        lines.append(table([(reason["name"], reason["misfit"] or "fits") for reason in one.reasons]))
    session.result("\n".join(lines), {"schema": 1, "studies": documents})
    return 0 if all(one.rule for one in results) else 4


def _settings(options: argparse.Namespace, session: Session, rules: Rules) -> Settings:
    if options.inbox is None or options.outbox is None:
        raise UsageError("INBOX and OUTBOX are missing", hint="see `dicomplan watch --help`")
    inbox, outbox = (path.resolve() for path in existing_paths([options.inbox, options.outbox]))
    for one, other, what in ((inbox, outbox, "inbox"), (outbox, inbox, "outbox")):
        if not one.is_dir():
            raise UsageError(f"the {what} is not a folder", file=one)
        if one == other or one.is_relative_to(other):
            raise UsageError("inbox and outbox must not lie in one another", file=one)
    if options.replan and options.keep_input:
        raise UsageError("--replan needs the input to be moved: it cannot go with --keep-input")
    from dicomplan.jobs.readiness import Waits
    from dicomplan.jobs.retention import Retention
    from dicomplan.jobs.settings import Settings
    from dicomplan.jobs.store_place import default_store
    from dicomplan.workflow.memory import available_bytes
    from dicomplan.workflow.threads import usable_cores

    cores = session.threads or usable_cores()
    workers = options.workers or max(1, cores // 2)
    if workers < 1:
        raise UsageError("--workers must be at least 1")
    free = available_bytes()
    memory = options.memory or (None if free is None else int(0.8 * free))
    return Settings(
        inbox=inbox,
        outbox=outbox,
        store=Path(options.store).expanduser().absolute() if options.store else default_store(),
        rules=rules,
        waits=Waits(options.stable, options.wait_structures, options.give_up),
        workers=workers,
        threads=max(1, cores // workers),
        memory_bytes=memory,
        timeout_s=options.timeout,
        retry_s=options.retry,
        poll_s=max(options.poll, 0.05),
        min_free_bytes=options.min_free,
        grace_s=options.grace,
        keep_input=options.keep_input,
        replan=options.replan,
        mode=options.mode,
        retention=Retention(options.remove_processed, options.remove_refused, options.remove_results),
        hand_over=_hand_over(options),
    )


def _hand_over(options: argparse.Namespace) -> Any:
    if not options.send:
        return None
    from dicomplan.cli.send import recording
    from dicomplan.network.destination import destination
    from dicomplan.network.sending import check_parts

    targets = [destination(text) for text in options.send]
    for target in targets:
        check_parts(target)
    return recording(targets, include_failed=options.include_failed)


def _serve(settings: Settings, options: argparse.Namespace, session: Session) -> int:
    from contextlib import ExitStack

    from dicomplan.jobs.health import HealthServer
    from dicomplan.jobs.inbox_lock import InboxLock
    from dicomplan.jobs.service import Service
    from dicomplan.jobs.service_log import ServiceLog
    from dicomplan.jobs.store import JobStore

    os.umask(0o077)
    plain = options.log == "text" or (options.log is None and sys.stderr.isatty())
    log = ServiceLog(plain=plain, quiet=session.quiet)
    with JobStore(settings.store) as store, ExitStack() as stack:
        lock = InboxLock(settings.inbox)
        lock.acquire()
        service = Service(settings, store, log, lock)
        if options.metrics is not None:
            try:
                stack.enter_context(HealthServer(service.gauges, options.metrics, options.bind))
            except OSError as error:
                raise UsageError(f"--metrics: the port cannot be had: {error.strerror}") from error
        if not lock.writable:
            log.write("warning", "read_only", reason="the inbox cannot be written: its files are left where they are")
        log.write("info", "watching", inbox=str(settings.inbox), outbox=str(settings.outbox), workers=settings.workers)
        stack.callback(_watch_events(settings.inbox, service))
        received = _until_signal(service)
    return 0 if received is None else 128 + received


def _until_signal(service: Service) -> int | None:
    """Run the service; the first signal asks it to end, a second one ends it at once. Returns the first."""
    received: list[int] = []
    previous = {}

    def handle(signum: int, frame: object) -> None:
        if received:
            service.hurry()
        received.append(signum)
        service.stop()

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, handle)
    try:
        service.run()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return received[0] if received else None


def _watch_events(inbox: Path, service: Service) -> Any:
    """Let the file system's events wake the service, where ``watchfiles`` is installed; returns what ends it.

    Polling is the truth: events are missed on network shares, and nothing depends on them.
    """
    stop = threading.Event()
    try:
        from watchfiles import watch
    except ImportError:
        return stop.set

    def wanted(_: object, path: str) -> bool:
        return "/.dicomplan" not in path

    def listen() -> None:
        try:
            for _ in watch(inbox, watch_filter=wanted, stop_event=stop, step=200, raise_interrupt=False):
                service.wake()
        except Exception:
            return  # too many watches, or the share is gone: polling goes on

    threading.Thread(target=listen, daemon=True).start()
    return stop.set
