"""Finished results are handed over, one at a time, in a thread that cannot hold up the service."""

from __future__ import annotations

import threading

from dicomplan.jobs.health import Gauges
from dicomplan.jobs.running import MOST_BACK_OFF_S
from dicomplan.jobs.service_log import ServiceLog
from dicomplan.jobs.settings import HandOver, Settings
from dicomplan.jobs.store import JobStore
from dicomplan.jobs.values import Job


class Sender:
    """Hands results over by ``settings.hand_over``, again with growing pauses until everything was taken."""

    def __init__(self, settings: Settings, store: JobStore, log: ServiceLog, gauges: Gauges) -> None:
        self._settings = settings
        self._store = store
        self._log = log
        self._gauges = gauges
        self._outbox = str(settings.outbox)
        self._thread: threading.Thread | None = None
        self._after_s: dict[str, tuple[float, int]] = {}

    def send(self, now_s: float) -> None:
        """Hand over the next result that is due, unless one is on its way."""
        hand_over = self._settings.hand_over
        if hand_over is None or (self._thread is not None and self._thread.is_alive()):
            return
        for job in self._store.not_handed_over(self._outbox):
            due, tries = self._after_s.get(job.id, (0.0, 0))
            if now_s < due:
                continue
            delay = min(self._settings.retry_s * 2**tries, MOST_BACK_OFF_S)
            self._after_s[job.id] = (now_s + delay, tries + 1)
            self._thread = threading.Thread(target=self._send_one, args=(hand_over, job), daemon=True)
            self._thread.start()
            return

    def _send_one(self, hand_over: HandOver, job: Job) -> None:
        try:
            with JobStore(self._settings.store) as store:
                sent = hand_over(store, job)
                if sent:
                    store.set_handed_over(job.id)
            self._log.write("info" if sent else "warning", "handed_over" if sent else "not_handed_over", job=job.id)
            self._gauges.handover_failures += not sent
        except Exception as error:
            # whatever a network does, the job has ended well
            self._gauges.handover_failures += 1
            self._log.write("warning", "not_handed_over", job=job.id, reason=type(error).__name__)
