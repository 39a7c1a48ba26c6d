"""Signals of the command line: interruption and termination unwind the stack, so that nothing half-written is left."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from dicomplan.events import Cancel

# Several copies of one Ctrl-C (terminal, parent, supervisor) must not disturb the clearing up after the first.
_REPEAT_S = 1.0


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived; no ``except Exception`` on the way may swallow it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Interrupts:
    """Context in which SIGINT raises KeyboardInterrupt and SIGTERM, SIGHUP raise :class:`Terminated`.

    ``cancel`` is set as well, so that work which caught the exception still stops at its next check. ``received`` is
    the first signal number, or None. Signals that are ignored (``nohup``) stay so; outside the main thread, where
    Python handles no signals, the context does nothing.
    """

    def __init__(self, cancel: Cancel) -> None:
        self.cancel = cancel
        self.received: int | None = None
        self._first_s = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if self.received is not None and now_s - self._first_s < _REPEAT_S:
            return
        if self.received is None:
            self.received, self._first_s = signum, now_s
        self.cancel.set()
        if signum == signal.SIGINT:
            raise KeyboardInterrupt
        raise Terminated(signum)
