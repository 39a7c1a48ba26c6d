"""``dicomplan send``: hand results over by C-STORE or STOW-RS."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dicomplan.cli.options import Commands, existing_paths
from dicomplan.cli.session import Session, table

if TYPE_CHECKING:
    from dicomplan.jobs.store import JobStore
    from dicomplan.jobs.values import Job
    from dicomplan.network.destination import Destination, Sent


def add(commands: Commands) -> None:
    """Add the command ``send`` to the command line."""
    parser = commands.add("send", "send a result: RTSTRUCT, RTPLAN, RTDOSE, by C-STORE or STOW-RS", run)
    parser.add_argument("path", metavar="PATH", help="a result folder of `plan` or `watch`, or one DICOM file")
    parser.add_argument("destination", metavar="AE@HOST:PORT", help="a DICOM receiver, or an http address (STOW-RS)")
    parser.add_argument("--include-failed", action="store_true", help="send a failed plan and its dose too")
    parser.add_argument("--attempts", type=int, default=3, metavar="N", help="tries, with growing pauses (3)")


def run(options: argparse.Namespace, session: Session) -> int:
    """Send and print each file's status; 0 if all were taken, else 1."""
    (path,) = existing_paths([options.path])
    from dicomplan.network.destination import destination, result_files
    from dicomplan.network.sending import send

    target = destination(options.destination)
    files, left = result_files(path, include_failed=options.include_failed)
    sent = send(files, target, attempts=max(1, options.attempts))
    rows = [(one.file.name, "sent" if one.taken else "NOT SENT", one.status) for one in sent]
    lines = [table(rows)]
    if left:
        lines.append(f"Left out: {left} files of a failed plan (--include-failed sends them).")
    document = {
        "schema": 1,
        "destination": target.text,
        "left_out": left,
        "files": [
            {"file": one.file.name, "sop_instance_uid": one.file.sop_instance_uid, "sent": one.taken}
            | {"status": one.status, "attempts": one.attempts}
            for one in sent
        ],
    }
    session.result("\n".join(lines), document)
    return 0 if all(one.taken for one in sent) else 1


def recording(targets: Sequence[Destination], *, include_failed: bool) -> Callable[[JobStore, Job], bool]:
    """Hand-over for the watch service: what was taken is recorded, and not sent again after a crash."""

    def hand_over(store: JobStore, job: Job) -> bool:
        from dicomplan.network.destination import result_files
        from dicomplan.network.sending import send

        files, _ = result_files(Path(job.outbox) / job.id, include_failed=include_failed)
        complete = True
        for target in targets:
            taken = {one.file for one in store.handovers(job.id) if one.sent and one.destination == target.text}
            left = [one for one in files if one.name not in taken]

            def note(one: Sent, target: Destination = target) -> None:
                if one.attempts:
                    uid = one.file.sop_instance_uid
                    store.note_handover(job.id, target.text, one.file.name, uid, sent=one.taken, status=one.status)

            if left:
                complete &= all(one.taken for one in send(left, target, report=note))
        return complete

    return hand_over
