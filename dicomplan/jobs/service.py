"""The watch service: one loop that scans, accepts, runs, hands over and clears up, each step safe to be done again.

Who does what: :mod:`~dicomplan.jobs.inbox` scans and reads, :mod:`~dicomplan.jobs.intake` makes jobs of what lies there,
:mod:`~dicomplan.jobs.running` runs them, :mod:`~dicomplan.jobs.handing_over` sends results,
:mod:`~dicomplan.jobs.clearing_up` moves input away, :mod:`~dicomplan.jobs.trouble` and :mod:`~dicomplan.jobs.places` know
what is in the way. Here is only when.
"""

from __future__ import annotations

import contextlib
import threading
import time

from dicomplan.jobs.clearing_up import move_inputs, sweep
from dicomplan.jobs.handing_over import Sender
from dicomplan.jobs.health import Gauges
from dicomplan.jobs.inbox import Inbox
from dicomplan.jobs.inbox_lock import InboxLock
from dicomplan.jobs.intake import Intake
from dicomplan.jobs.owner import this_owner
from dicomplan.jobs.places import Places
from dicomplan.jobs.retention import apply_retention
from dicomplan.jobs.running import Runner
from dicomplan.jobs.service_log import ServiceLog
from dicomplan.jobs.service_part import Shared
from dicomplan.jobs.settings import Settings
from dicomplan.jobs.store import JobStore
from dicomplan.jobs.trouble import UNLISTED, UNMOVED, Troubles

_LOOK_S = 2.0  # reading new files is interrupted after this, so that jobs start and end meanwhile
_WORKER_TICK_S = 0.2
_PAUSED_TICK_S = 1.0
_IDLE_SHARE = 0.005
_LONGEST_POLL_S = 60.0
_BEAT_EVERY_S = 5.0
_RETENTION_EVERY_S = 3600.0


class Service:
    """A watcher. :meth:`tick` does what is due; :meth:`run` calls it until :meth:`stop`."""

    def __init__(self, settings: Settings, store: JobStore, log: ServiceLog, lock: InboxLock) -> None:
        self.settings = settings
        self.gauges = Gauges()
        self._store = store
        self._log = log
        self._lock = lock
        self._keep_input = settings.keep_input or not lock.writable
        self.troubles = Troubles(self.gauges.trouble, log)
        self.places = Places(settings, self.troubles)
        self.inbox = Inbox(settings.inbox, settings.waits.quiet_s)
        shared = Shared(settings, store, log, self.gauges, self.troubles, self.places, this_owner())
        self.intake = Intake(shared, self.inbox)
        self.runner = Runner(shared)
        self._sender = Sender(settings, store, log, self.gauges)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._hurried = threading.Event()
        self._looking = False
        self._next_scan_s = 0.0
        self._next_retention_s = 0.0
        self._next_beat_s = 0.0
        settings.work.mkdir(parents=True, exist_ok=True, mode=0o700)

    # Outside

    def wake(self) -> None:
        """Scan soon: something changed in the inbox (or so it is said)."""
        self._wake.set()

    def stop(self) -> None:
        """End the loop after the present step."""
        self._stopping.set()
        self._wake.set()

    def hurry(self) -> None:
        """Do not wait for running jobs any longer: they are handed back."""
        self._hurried.set()

    def kill_workers(self) -> None:
        """Kill the workers and tell nobody: what the death of this process does."""
        self.runner.pool.stop_all()

    def sweep(self) -> None:
        """Remove what crashes left half-made."""
        sweep(self.settings, self._store)

    # The loop

    def run(self) -> None:
        """Work until :meth:`stop`; then wait ``grace_s`` for running jobs and hand back the rest."""
        self.sweep()
        while not self._stopping.is_set():
            delay = self.tick(time.monotonic())
            if self._wake.wait(delay) and not self._stopping.is_set():
                self._wake.clear()
                self._next_scan_s = min(self._next_scan_s, time.monotonic() + min(1.0, self.settings.poll_s))
        self._shut_down()

    def tick(self, now_s: float) -> float:
        """Everything that is due at a monotonic time; seconds until there may be more to do."""
        with self.troubles.watching("store"):
            self._beat(now_s)
            self.runner.renew(now_s)
            self.runner.reap()
            self.runner.take_back()
            self._take_in(now_s)
            self.places.check(now_s)
            if not self._stopping.is_set():
                self.runner.start()
            self._sender.send(now_s)
            self._retain(now_s)
            self.gauges.jobs = self._store.counts(str(self.settings.outbox))
        self.troubles.settle()
        self.gauges.running = len(self.runner.pool.jobs)
        if self.troubles.is_paused:  # what failed fails again: it is not tried without end
            return min(_PAUSED_TICK_S, self.settings.poll_s)
        if self._looking:
            return 0.0
        wait = max(self._next_scan_s - time.monotonic(), 0.0)
        return min(wait, _WORKER_TICK_S if self.gauges.running else self.settings.poll_s)

    def _beat(self, now_s: float) -> None:
        """Keep the lock of the inbox: never in the bare mount point of a share that is gone."""
        if now_s >= self._next_beat_s:
            self._next_beat_s = now_s + _BEAT_EVERY_S
            if self._lock.trouble() is None:
                with contextlib.suppress(OSError):
                    self._lock.beat()

    def _take_in(self, now_s: float) -> None:
        """Scan and read, if it is due; decide on what was found; move away what has ended."""
        if not self._looking and now_s < self._next_scan_s:
            return
        began_cpu_s, read = time.thread_time(), self.inbox.read_count
        if not self._looking:
            self._next_scan_s = now_s + self.settings.poll_s
            if not self._list(now_s):
                return
        self._looking = self.inbox.look(now_s, _LOOK_S)
        self.intake.decide(now_s)
        if not self._keep_input and not self._looking:
            stay = move_inputs(self.settings, self._store, self.inbox, self.intake.known)
            if stay:
                self.troubles.note(UNMOVED, f"files of ended jobs that cannot be moved away: {stay}")
            else:
                self.troubles.clear(UNMOVED)
        if self.inbox.read_count == read:
            # idle costs little, however many files lie in the inbox
            rest_s = (time.thread_time() - began_cpu_s) / _IDLE_SHARE
            self._next_scan_s = now_s + max(self.settings.poll_s, min(rest_s, _LONGEST_POLL_S))
        due_s = self.inbox.next_due_s(now_s)
        if due_s is not None:
            self._next_scan_s = min(self._next_scan_s, now_s + max(due_s + 0.01, 0.1))

    def _list(self, now_s: float) -> bool:
        """List the inbox; whether it is there."""
        began = time.monotonic()
        trouble, unlisted = self._lock.trouble(), 0
        if trouble is None:
            snapshot = self.inbox.scan(now_s)
            trouble, unlisted = snapshot.trouble, len(snapshot.unlisted)
        self.gauges.last_scan_s = time.monotonic() - began
        if trouble is not None:
            self.troubles.note("inbox", trouble)
            return False
        self.troubles.clear("inbox")
        if unlisted:
            self.troubles.note(UNLISTED, f"folders of the inbox that cannot be listed: {unlisted}")
        else:
            self.troubles.clear(UNLISTED)
        return True

    def _retain(self, now_s: float) -> None:
        if now_s >= self._next_retention_s:
            self._next_retention_s = now_s + _RETENTION_EVERY_S
            outbox = str(self.settings.outbox)
            for job, what in apply_retention(self.settings.retention, self._store, outbox, time.time()):
                self._log.write("info", "removed", job=job, what=what)

    def _shut_down(self) -> None:
        """Finish what ends within the grace, hand back the rest."""
        until = time.monotonic() + self.settings.grace_s
        while self.runner.pool.jobs and time.monotonic() < until and not self._hurried.is_set():
            with self.troubles.watching("store"):
                self.runner.reap()
                self.runner.renew(time.monotonic())
            time.sleep(_WORKER_TICK_S / 2)
        self.runner.hand_back_all()
        self._log.write("info", "stopped")
