"""STOW-RS (PS3.18 section 10.5) of result files, one request each, by the standard library."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Sequence

from dicomplan.network.destination import Destination, Report, ResultFile, Sent

_TIMEOUT_S = 60.0
_FAILED_SEQUENCE, _FAILURE_REASON = "00081198", "00081197"


def stow(
    files: Sequence[ResultFile],
    target: Destination,
    *,
    attempts: int = 3,
    back_off_s: float = 2.0,
    report: Report = lambda _: None,
    wait: Callable[[float], None] = time.sleep,
) -> list[Sent]:
    """POST files in their order; a file that is not taken ends the sending. ``target.url``: the service, or its /studies."""
    url = target.url if target.url.endswith("/studies") else f"{target.url}/studies"
    done: list[Sent] = []
    for place, file in enumerate(files):
        for attempt in range(1, attempts + 1):
            status, taken, again = _post(url, file)
            if taken or not again or attempt == attempts:
                break
            wait(back_off_s * 2 ** (attempt - 1))
        done.append(Sent(file, taken, status, attempt))
        report(done[-1])
        if not taken:
            rest = [Sent(one, False, "not sent: an earlier file was not taken", 0) for one in files[place + 1 :]]
            for sent in rest:
                report(sent)
            return done + rest
    return done


def _post(url: str, file: ResultFile) -> tuple[str, bool, bool]:
    """Status, whether the file was taken, whether trying again may help."""
    boundary = uuid.uuid4().hex
    data = file.path.read_bytes()
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    body = head + data + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(
        url,
        data=body,
        method="POST",
        headers={
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            code, text = int(answer.status), answer.read()
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}", False, error.code >= 500 or error.code in (408, 429)
    except (urllib.error.URLError, OSError, ValueError) as error:
        return f"no answer ({type(error).__name__})", False, True
    failed = _failure(text)
    if failed:
        return f"HTTP {code}, failure reason {failed}", False, False
    return f"HTTP {code}", code == 200, code == 202


def _failure(text: bytes) -> str:
    """FailureReason (0008,1197) of a failed instance in the answer; empty if there is none."""
    try:
        document = json.loads(text)
        items = document.get(_FAILED_SEQUENCE, {}).get("Value", [])
        return f"0x{int(items[0][_FAILURE_REASON]['Value'][0]):04X}" if items else ""
    except (ValueError, KeyError, IndexError, AttributeError, TypeError):
        return ""
