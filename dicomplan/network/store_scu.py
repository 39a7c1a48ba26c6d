"""DICOM C-STORE (PS3.4 annex B) of result files, by pynetdicom."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from dicomplan.network.destination import Destination, Report, ResultFile, Sent

CALLING_TITLE = "DICOMPLAN"
_TIMEOUT_S = 30.0
# Warnings of PS3.4 B.2.3: stored, with elements coerced or discarded.
_WARNINGS = (0xB000, 0xB006, 0xB007)


def c_store(
    files: Sequence[ResultFile],
    target: Destination,
    *,
    attempts: int = 3,
    back_off_s: float = 2.0,
    calling: str = CALLING_TITLE,
    report: Report = lambda _: None,
    wait: Callable[[float], None] = time.sleep,
) -> list[Sent]:
    """Send files in their order; a file that is not taken ends the sending (a plan without its structures is of no use).

    Files are sent as they are, in their own transfer syntax. ``attempts`` associations are tried, each continuing where
    the last one ended. pynetdicom must be installed.
    """
    from pynetdicom import AE

    entity = AE(ae_title=calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = _TIMEOUT_S
    for sop_class, syntax in sorted({(one.sop_class_uid, one.transfer_syntax_uid) for one in files}):
        entity.add_requested_context(sop_class, syntax)
    done: list[Sent] = []
    left = list(files)
    for attempt in range(1, attempts + 1):
        status = "no association could be made"
        association = entity.associate(target.host, target.port, ae_title=target.title)
        if association.is_rejected:
            status = "the association was rejected"
        if association.is_established:
            try:
                while left:
                    status, taken = _store(association, left[0])
                    if not taken:
                        break
                    sent = Sent(left.pop(0), True, status, attempt)
                    done.append(sent)
                    report(sent)
            finally:
                if association.is_established:
                    association.release()
        if not left:
            return done
        if attempt < attempts:
            wait(back_off_s * 2 ** (attempt - 1))
        else:
            done += [Sent(left[0], False, status, attempt)]
            done += [Sent(one, False, "not sent: an earlier file was not taken", 0) for one in left[1:]]
            for sent in done[len(done) - len(left) :]:
                report(sent)
    return done


def _store(association: object, file: ResultFile) -> tuple[str, bool]:
    try:
        answer = association.send_c_store(file.path)  # type: ignore[attr-defined]
    except ValueError:
        return "the receiver does not accept this SOP class and transfer syntax", False
    except (RuntimeError, AttributeError) as error:
        return f"the association was lost ({type(error).__name__})", False
    if not answer or "Status" not in answer:
        return "no answer: the association was lost", False
    code = int(answer.Status)
    return f"0x{code:04X}", code == 0 or code in _WARNINGS
