"""Health and metrics of a watcher over HTTP: ``/health`` (200 or 503, JSON) and ``/metrics`` (Prometheus text)."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dicomplan import __version__
from dicomplan.jobs.values import STATES

_BUCKETS_S = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 7200.0)


@dataclass
class Gauges:
    """What the service tells about itself; written by its loop, read by the server's threads.

    ``jobs``: number in each state of the store. ``trouble``: by subject (disk, inbox, outbox, store). ``waiting_files``:
    files of the inbox that are not stable yet or belong to no job. ``durations_s`` of the workers that ended.
    """

    jobs: dict[str, int] = field(default_factory=dict)
    trouble: dict[str, str] = field(default_factory=dict)
    waiting_files: int = 0
    running: int = 0
    deaths: int = 0
    handover_failures: int = 0
    last_scan_s: float = 0.0
    counts: list[int] = field(default_factory=lambda: [0] * (len(_BUCKETS_S) + 1))
    total_s: float = 0.0

    def note_duration(self, seconds: float) -> None:
        """Count the run of one worker."""
        place = next((i for i, bound in enumerate(_BUCKETS_S) if seconds <= bound), len(_BUCKETS_S))
        self.counts[place] += 1
        self.total_s += seconds

    def health(self) -> tuple[bool, Mapping[str, object]]:
        """Whether all is well, and the document of ``/health``."""
        fine = not self.trouble
        return fine, {"schema": 1, "dicomplan": __version__, "healthy": fine, "trouble": dict(self.trouble)}

    def metrics(self) -> str:
        """The text of ``/metrics``, Prometheus exposition format 0.0.4."""
        queue = sum(self.jobs.get(state, 0) for state in ("received", "waiting"))
        lines = ["# HELP dicomplan_jobs Jobs in the store by state.", "# TYPE dicomplan_jobs gauge"]
        lines += [f'dicomplan_jobs{{state="{state}"}} {self.jobs.get(state, 0)}' for state in STATES]
        for name, kind, text, value in (
            ("queue_length", "gauge", "Jobs that wait for a worker.", queue),
            ("workers_running", "gauge", "Workers that run.", self.running),
            ("inbox_waiting_files", "gauge", "Files of the inbox that belong to no job yet.", self.waiting_files),
            ("worker_deaths_total", "counter", "Workers that died, failed or ran out of time.", self.deaths),
            ("handover_failures_total", "counter", "Results that could not be handed over.", self.handover_failures),
            ("healthy", "gauge", "1 while nothing is in trouble.", int(not self.trouble)),
            (
                "last_scan_duration_seconds",
                "gauge",
                "Time of the last listing of the inbox.",
                f"{self.last_scan_s:.4f}",
            ),
        ):
            lines += [f"# HELP dicomplan_{name} {text}", f"# TYPE dicomplan_{name} {kind}", f"dicomplan_{name} {value}"]
        lines += ["# HELP dicomplan_job_seconds Run times of workers.", "# TYPE dicomplan_job_seconds histogram"]
        total = 0
        for bound, count in zip((*map(str, _BUCKETS_S), "+Inf"), self.counts, strict=True):
            total += count
            lines.append(f'dicomplan_job_seconds_bucket{{le="{bound}"}} {total}')
        lines += [f"dicomplan_job_seconds_sum {self.total_s:.3f}", f"dicomplan_job_seconds_count {total}"]
        return "\n".join(lines) + "\n"


class HealthServer:
    """Context that serves ``gauges`` on a port until it ends. Raises OSError if the port cannot be had."""

    def __init__(self, gauges: Gauges, port: int, bind: str = "127.0.0.1") -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._answer(200, "text/plain; version=0.0.4; charset=utf-8", gauges.metrics())
                elif self.path in ("/health", "/healthz"):
                    fine, document = gauges.health()
                    self._answer(200 if fine else 503, "application/json", json.dumps(document) + "\n")
                else:
                    self._answer(404, "text/plain; charset=utf-8", "there are /health and /metrics\n")

            def _answer(self, code: int, kind: str, text: str) -> None:
                body = text.encode()
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass  # requests of a monitor every few seconds are no events

        self._server = ThreadingHTTPServer((bind, port), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> HealthServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
