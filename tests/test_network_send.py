"""Handing results over: which files, in which order, and what true receivers make of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pydicom
import pytest
from dicom_helpers import program
from network_helpers import Storing, free_port, orthanc, read_back, result_folder, stored_in, wait_for_port

from dicomplan.cli.main import main
from dicomplan.errors import UsageError
from dicomplan.network.destination import destination, result_files
from dicomplan.network.sending import send


@pytest.fixture
def result(tmp_path: Path) -> Path:
    return result_folder(tmp_path / "result")


@pytest.mark.parametrize(
    ("text", "title", "host", "port"),
    [("ARCHIVE@pacs.example:104", "ARCHIVE", "pacs.example", 104), ("A B@[::1]:11112", "A B", "::1", 11112)],
)
def test_destinations(text: str, title: str, host: str, port: int) -> None:
    found = destination(text)
    assert (found.title, found.host, found.port, found.url) == (title, host, port, "")
    assert destination("https://x/dicom-web/").url == "https://x/dicom-web"


@pytest.mark.parametrize(
    "text", ["pacs:104", "A@pacs", "A@pacs:0", "A@pacs:70000", "SEVENTEENLETTERSX@h:1", "@h:1", "ftp://x"]
)
def test_what_is_no_destination(text: str) -> None:
    with pytest.raises(UsageError, match="is no destination"):
        destination(text)


def test_files_come_in_the_order_that_they_refer_to_each_other(result: Path) -> None:
    files, left = result_files(result)
    assert [one.name for one in files] == ["RTSTRUCT.dcm", "RTPLAN.dcm", "RTDOSE.dcm", "RTDOSE_1.dcm"]
    assert left == 0


def test_a_failed_plan_and_its_doses_are_left_out_unless_asked_for(result: Path) -> None:
    (result / "failed").mkdir()
    (result / "RTPLAN.dcm").rename(result / "failed" / "RTPLAN.dcm")
    (result / "plan.json").write_text(json.dumps({"schema": 1, "dicomplan": "t", "status": "failed"}))
    files, left = result_files(result)
    assert ([one.name for one in files], left) == (["RTSTRUCT.dcm"], 3)
    files, left = result_files(result, include_failed=True)
    assert [one.name for one in files] == ["RTSTRUCT.dcm", "failed/RTPLAN.dcm", "RTDOSE.dcm", "RTDOSE_1.dcm"]
    assert left == 0


def test_nobody_there(result: Path) -> None:
    files, _ = result_files(result)
    waits: list[float] = []
    sent = send(files, destination(f"X@127.0.0.1:{free_port()}"), attempts=3, wait=waits.append)
    assert [one.taken for one in sent] == [False] * 4
    assert sent[0].status == "no association could be made"
    assert sent[1].status.startswith("not sent")
    assert waits == [2.0, 4.0]  # growing pauses


def test_a_refusal_is_tried_again_from_where_it_ended(result: Path) -> None:
    storing = Storing([0, 0xA700, 0xB000])
    try:
        files, _ = result_files(result)
        sent = send(files, destination(f"STORE@127.0.0.1:{storing.port}"), wait=lambda _: None)
    finally:
        storing.server.shutdown()
    assert [(one.taken, one.status, one.attempts) for one in sent] == [
        (True, "0x0000", 1),
        (True, "0xB000", 2),  # stored, with a warning
        (True, "0x0000", 2),
        (True, "0x0000", 2),
    ]
    assert storing.received == [one.sop_instance_uid for one in files]


def test_a_plan_that_is_not_taken_ends_the_sending(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storing = Storing([0, 0xC000, 0xC000])
    try:
        code = main(["send", str(result), f"STORE@127.0.0.1:{storing.port}", "--attempts", "1", "--json"])
    finally:
        storing.server.shutdown()
    assert code == 1
    document = json.loads(capsys.readouterr().out)
    assert [one["sent"] for one in document["files"]] == [True, False, False, False]
    assert document["files"][1]["status"] == "0xC000"
    assert len(storing.received) == 1


class _Web(BaseHTTPRequestHandler):
    answers: list[tuple[int, bytes]]
    bodies: list[bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/dicom-web/studies"
        code, text = self.answers.pop(0) if self.answers else (200, b"{}")
        if code == 200:
            self.bodies.append(body)
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


def test_stow_sends_the_bytes_as_they_are_and_knows_failures(result: Path) -> None:
    failed = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xA900]}}]}}
    handler = type(
        "Web", (_Web,), {"answers": [(503, b""), (200, b"{}"), (200, json.dumps(failed).encode())], "bodies": []}
    )
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    files, _ = result_files(result)
    try:
        target = destination(f"http://127.0.0.1:{server.server_address[1]}/dicom-web")
        sent = send(files, target, wait=lambda _: None)
    finally:
        server.shutdown()
    assert [(one.taken, one.status, one.attempts) for one in sent[:2]] == [
        (True, "HTTP 200", 2),
        (False, "HTTP 200, failure reason 0xA900", 1),
    ]
    assert not any(one.taken for one in sent[2:])
    assert files[0].path.read_bytes() in handler.bodies[0]  # type: ignore[attr-defined]


@pytest.mark.integration
def test_dcmtk_stores_what_was_sent(result: Path, tmp_path: Path) -> None:
    store = tmp_path / "stored"
    store.mkdir()
    port = free_port()
    command = [program("storescp"), "--output-directory", str(store), "--aetitle", "DCMTK", str(port)]
    server = subprocess.Popen(command)
    try:
        wait_for_port(port)
        assert main(["send", str(result), f"DCMTK@127.0.0.1:{port}"]) == 0
    finally:
        server.terminate()
        server.wait()
    stored = {pydicom.dcmread(path).SOPInstanceUID: pydicom.dcmread(path) for path in store.iterdir()}
    sent = [pydicom.dcmread(path) for path in result.glob("RT*.dcm")]
    assert set(stored) == {one.SOPInstanceUID for one in sent}
    assert all(stored[one.SOPInstanceUID] == one for one in sent)


@pytest.mark.integration
def test_orthanc_takes_results_by_c_store_and_a_second_time(result: Path, tmp_path: Path) -> None:
    with orthanc(tmp_path) as (dicom, http):
        uids = {str(pydicom.dcmread(path).SOPInstanceUID) for path in result.glob("RT*.dcm")}
        for _ in range(2):  # sending again, as after a crash, makes no second copy
            assert main(["send", str(result), f"ORTHANC@127.0.0.1:{dicom}"]) == 0
        assert stored_in(http) == uids
        for path in result.glob("RT*.dcm"):
            assert read_back(http, str(pydicom.dcmread(path).SOPInstanceUID)) == pydicom.dcmread(path)


@pytest.mark.integration
def test_orthanc_takes_results_by_stow(result: Path, tmp_path: Path) -> None:
    with orthanc(tmp_path, dicomweb=True) as (_, http):
        uids = {str(pydicom.dcmread(path).SOPInstanceUID) for path in result.glob("RT*.dcm")}
        for _ in range(2):
            assert main(["send", str(result), f"http://127.0.0.1:{http}/dicom-web"]) == 0
            assert stored_in(http) == uids
        for path in result.glob("RT*.dcm"):
            assert read_back(http, str(pydicom.dcmread(path).SOPInstanceUID)) == pydicom.dcmread(path)
        # what is no DICOM object for it is refused, and said so
        broken = tmp_path / "broken.dcm"
        shutil.copy(result / "RTDOSE.dcm", broken)
        dataset = pydicom.dcmread(broken)
        del dataset.StudyInstanceUID, dataset.SeriesInstanceUID
        dataset.save_as(broken)
        assert main(["send", str(broken), f"http://127.0.0.1:{http}/dicom-web"]) == 1
        assert stored_in(http) == uids
