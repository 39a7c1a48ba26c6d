"""Receivers for the tests of handing over, and a folder that looks like a result."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from dicom_helpers import program, write_all, write_tiny_study

from dicomplan.dicom.read import read_study

PLUGIN = "libOrthancDicomWeb.so"
PLUGIN_FOLDERS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc/plugins")


def result_folder(folder: Path) -> Path:
    """A folder that looks like a result of ``plan``."""
    made = folder.with_name("made")
    write_all(made, read_study((write_tiny_study(folder.with_name("study")),)))
    folder.mkdir(exist_ok=True)
    for old, new in (("RS", "RTSTRUCT"), ("RP", "RTPLAN"), ("RD", "RTDOSE"), ("RD_1", "RTDOSE_1")):
        shutil.copy(made / f"{old}.dcm", folder / f"{new}.dcm")
    # four objects need four identifiers
    for number, name in enumerate(("RTDOSE", "RTDOSE_1")):
        dataset = pydicom.dcmread(folder / f"{name}.dcm")
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"2.25.77{number}"
        dataset.save_as(folder / f"{name}.dcm")
    (folder / "plan.json").write_text(json.dumps({"schema": 1, "dicomplan": "t", "status": "accepted"}))
    return folder


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for_port(port: int) -> None:
    for _ in range(300):
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"nobody listens on {port}")


class Storing:
    """A pynetdicom receiver that answers each C-STORE with the next status of a list, then 0."""

    def __init__(self, statuses: list[int]) -> None:
        from pynetdicom import AE, AllStoragePresentationContexts, evt

        self.received: list[str] = []
        entity = AE(ae_title="STORE")
        entity.supported_contexts = AllStoragePresentationContexts

        def store(event: object) -> int:
            status = statuses.pop(0) if statuses else 0
            if status in (0, 0xB000):
                self.received.append(str(event.request.AffectedSOPInstanceUID))  # type: ignore[attr-defined]
            return status

        self.port = free_port()
        self.server = entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
        )


@contextlib.contextmanager
def orthanc(folder: Path, *, dicomweb: bool = False) -> Iterator[tuple[int, int]]:
    """A running Orthanc: its DICOM and its HTTP port. Skips the test where it, or its DICOMweb plugin, is not installed."""
    plugins = []
    if dicomweb:
        plugins = [str(path) for place in PLUGIN_FOLDERS for path in sorted(Path(place).glob(f"{PLUGIN}*"))][:1]
        if not plugins:
            pytest.skip("the DICOMweb plugin of Orthanc (orthanc-dicomweb) is not installed")
    dicom, http = free_port(), free_port()
    configuration = {
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "DicomPort": dicom,
        "HttpPort": http,
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "Plugins": plugins,
        "DicomAlwaysAllowStore": True,
        "OverwriteInstances": False,
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    command = [program("Orthanc"), str(folder / "orthanc.json")]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(dicom)
        wait_for_port(http)
        yield dicom, http
    finally:
        server.terminate()
        server.wait()


def _get(port: int, place: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{place}", timeout=30) as answer:
        return bytes(answer.read())


def _instances(port: int) -> dict[str, str]:
    found = json.loads(_get(port, "/instances"))
    return {json.loads(_get(port, f"/instances/{one}"))["MainDicomTags"]["SOPInstanceUID"]: one for one in found}


def stored_in(port: int) -> set[str]:
    """SOP instance UIDs of what an Orthanc holds."""
    return set(_instances(port))


def read_back(port: int, uid: str) -> pydicom.Dataset:
    """An object as an Orthanc gives it back."""
    return pydicom.dcmread(io.BytesIO(_get(port, f"/instances/{_instances(port)[uid]}/file")))
