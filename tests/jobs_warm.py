"""Workers that start at once, for ``tools/chaos --warm``: a server has imported everything and forks one child for each job.

The service still spawns a process for each job (the client, below): it dies with the service, and the child dies with it;
how the child ends, by an exit code or a signal, is how the client ends. Only the imports are spared, which are nearly all
that a job of the quick stand-in costs.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

VARIABLE = "DICOMPLAN_WORKER_MEMORY_BYTES"
_PR_SET_PDEATHSIG = 1


def client(place: str, arguments: list[str]) -> None:
    """Let the server run a job, and end as it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ["DICOMPLAN_WORKER_PARENT"]):
        os._exit(1)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(place)
        connection.sendall(json.dumps([arguments, os.environ.get(VARIABLE, "")]).encode() + b"\n")
        status = int(connection.recv(64).decode() or "256")  # no answer: it ended with 1
    if os.WIFSIGNALED(status):
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


def serve(place: str) -> None:
    """Fork a child for each connection; kill it when its client is gone. Runs until it is killed."""
    from jobs_worker import quick_plan

    from dicomplan.jobs.worker import main

    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{place}.new")
    listening.listen(16)
    os.rename(f"{place}.new", place)  # now it can be found
    running: dict[socket.socket, int] = {}
    while True:
        ready, _, _ = select.select([listening, *running], [], [], 0.02)
        for one in ready:
            if one is listening:
                connection, _ = listening.accept()
                arguments, memory = json.loads(connection.makefile().readline())
                child = os.fork()
                if child == 0:
                    os.environ[VARIABLE] = memory
                    os.environ["DICOMPLAN_WORKER_PARENT"] = str(os.getppid())
                    code = 1
                    with suppress(Exception):
                        code = main(arguments, quick_plan)
                    os._exit(code)
                running[connection] = child
            else:
                os.kill(running[one], signal.SIGKILL)  # nothing is ever sent after the job: this is its end
        for connection, child in list(running.items()):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                with suppress(OSError):
                    connection.sendall(str(status).encode())
                connection.close()
                del running[connection]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        serve(sys.argv[2])
    else:
        client(sys.argv[1], sys.argv[2:])
