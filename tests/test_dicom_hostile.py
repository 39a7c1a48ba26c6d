"""Input that was made to do harm: sizes that lie, bombs, depth, names, links and special files."""

from __future__ import annotations

import os
import resource
import socket
import stat
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_helpers import IDENTITY_OF_TESTS, edit, write_all, write_tiny_study
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicomplan.dicom import byte_sources
from dicomplan.dicom.files import scan_study
from dicomplan.dicom.read import read_dose, read_study
from dicomplan.dicom.survey import survey_study
from dicomplan.dicom.write_structures import write_structure_set
from dicomplan.errors import InputError, UsageError


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_tiny_study(tmp_path / "study")


def refusal(*paths: Path, **options: object) -> InputError:
    with pytest.raises(InputError) as caught:
        read_study(list(paths), **options)
    return caught.value


@pytest.fixture
def little_memory() -> object:
    """Fails whatever asks for more than 2 GB on top of what the process has mapped."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as statm:
        mapped = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 2 * 1024**3, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.usefixtures("little_memory")
class TestSizes:
    """Claims that would take more memory than there is."""

    def test_header_of_a_huge_matrix(self, study: Path) -> None:
        def huge(dataset: Dataset) -> None:
            dataset.Rows = dataset.Columns = 60_000

        for path in study.glob("CT_*"):
            edit(path, huge)
        error = refusal(study)
        assert "larger than 20 GB" in error.message
        assert "--max-study-size" in (error.hint or "")
        assert "60000 x 60000 pixels" in refusal(study, max_study_size=10**12).message
        assert not survey_study([study], max_study_size=10**12).plannable

    def test_one_huge_slice(self, study: Path) -> None:
        def huge(dataset: Dataset) -> None:
            dataset.Rows = dataset.Columns = 60_000

        edit(study / "CT_003.dcm", huge)
        assert "mixed matrix in one series: found 60000" in refusal(study).message

    def test_huge_dose(self, study: Path, tmp_path: Path) -> None:
        write_all(tmp_path, read_study([study]))

        def huge(dataset: Dataset) -> None:
            dataset.Rows = dataset.Columns = 60_000

        edit(tmp_path / "RD.dcm", huge)
        with pytest.raises(InputError, match="more than is read"):
            read_dose(tmp_path / "RD.dcm")

    def test_contour_of_ten_million_points(self, study: Path) -> None:
        def mark(dataset: Dataset) -> None:
            # Undefined lengths, so that the long value can be put in by hand: pydicom would need minutes to write it.
            rois = dataset["ROIContourSequence"]
            contours = rois.value[1]["ContourSequence"]
            contours.value[0].ContourData = ["1", "2", "3"]
            for sequence in (rois, contours):
                sequence.is_undefined_length = True
                for item in sequence.value:
                    item.is_undefined_length_sequence_item = True

        edit(study / "RS.dcm", mark)
        content = (study / "RS.dcm").read_bytes()
        at = content.index(b"\x06\x30\x50\x00\x06\x00\x00\x001\\2\\3 ")
        data = b"\\".join([b"1.5\\2.5\\3.5"] * 10_000_000) + b" "
        (study / "RS.dcm").write_bytes(content[: at + 4] + len(data).to_bytes(4, "little") + data + content[at + 14 :])
        start = time.monotonic()
        error = refusal(study)
        assert time.monotonic() - start < 30
        assert "contour of 10000000 points" in error.message
        assert (error.tag or "").startswith("ContourData")

    def test_study_size_is_checked_before_pixels_are_read(self, study: Path) -> None:
        error = refusal(study, max_study_size=20_000)
        assert "larger than 2e-05 GB" in error.message

    def test_deflated_object(self, study: Path) -> None:
        path = study / "RS.dcm"
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        dataset.save_as(path, implicit_vr=False, little_endian=True)
        assert len(read_study([study]).case.structures) == 3
        content = path.read_bytes()
        start = 144 + int.from_bytes(content[140:144], "little")
        packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        block = bytes(1024**2)
        bomb = b"".join([packer.compress(block) for _ in range(600)]) + packer.flush()
        path.write_bytes(content[:start] + bomb)
        assert "inflates to more than 512 MiB" in refusal(study).message

    def test_zip_bomb(self, tmp_path: Path) -> None:
        archive = tmp_path / "bomb.zip"
        with (
            zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target,
            target.open("a.dcm", "w") as stream,
        ):
            for _ in range(270):
                stream.write(bytes(1024**2))
        assert "times its size" in refusal(archive).message


def test_zip_of_too_many_bytes_or_members(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "study.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for path in study.iterdir():
            target.write(path, path.name)
    assert read_study([archive]).case.ct.grid.shape[0] == 12
    monkeypatch.setattr(byte_sources, "MAX_ZIP_MEMBERS", 5)
    assert "13 members" in refusal(archive).message
    monkeypatch.setattr(byte_sources, "MAX_ZIP_BYTES", 1000)
    monkeypatch.setattr(byte_sources, "MAX_ZIP_MEMBERS", 50)
    assert "unpacks to more" in refusal(archive).message


@pytest.mark.parametrize(("kind", "message"), [(stat.S_IFLNK, "holds a link"), (stat.S_IFIFO, "device or FIFO")])
def test_zip_with_links_or_devices(study: Path, tmp_path: Path, kind: int, message: str) -> None:
    archive = tmp_path / "study.zip"
    member = zipfile.ZipInfo("RS.dcm")
    member.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr(member, "/etc/passwd")
    assert message in refusal(archive).message


def test_encrypted_and_damaged_zips(study: Path, tmp_path: Path) -> None:
    archive = tmp_path / "study.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        target.write(study / "RS.dcm", "RS.dcm")
        target.write(study / "CT_001.dcm", "CT_001.dcm")
    content = bytearray(archive.read_bytes())
    content[60] ^= 0xFF  # inside of the first member's data
    archive.write_bytes(content)
    assert "zip cannot be read" in refusal(archive).message
    content[60] ^= 0xFF
    for start in (content.index(b"PK\x03\x04") + 6, content.index(b"PK\x01\x02") + 8):
        content[start] |= 1
    archive.write_bytes(content)
    assert "encrypted" in refusal(archive).message


def _nested(depth: int) -> Dataset:
    inner = Dataset()
    inner.CodeValue = "x"
    for _ in range(depth):
        outer = Dataset()
        outer.ConceptNameCodeSequence = Sequence([inner])
        inner = outer
    return inner


def _nested_bytes(tag: bytes, *, undefined: bool) -> bytes:
    item = b"\xfe\xff\x00\xe0"
    data = b"\x08\x00\x00\x01\x02\x00\x00\x00x "
    for _ in range(1000):
        if undefined:
            close = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00", b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
            data = tag + b"\xff" * 4 + item + b"\xff" * 4 + data + close[0] + close[1]
        else:
            data = item + len(data).to_bytes(4, "little") + data
            data = tag + len(data).to_bytes(4, "little") + data
    return data


@pytest.mark.parametrize("undefined", [True, False])
def test_sequences_nested_a_thousand_deep_behind_the_pixels(study: Path, undefined: bool) -> None:
    path = study / "CT_004.dcm"
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
    dataset.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=True)
    assert len(read_study([study]).case.structures) == 3
    # DigitalSignaturesSequence
    path.write_bytes(path.read_bytes() + _nested_bytes(b"\xfa\xff\xfa\xff", undefined=undefined))
    assert "nested" in refusal(study).message


@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("name", ["RS.dcm", "CT_004.dcm"])
def test_sequences_nested_a_thousand_deep(study: Path, name: str, undefined: bool) -> None:
    data = _nested_bytes(b"\x40\x00\x43\xa0", undefined=undefined)
    path = study / name
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
    at = Dataset()
    at.update({element.tag: element for element in dataset if element.tag < 0x00400000})
    rest = Dataset()
    rest.update({element.tag: element for element in dataset if element.tag > 0x00400000})
    at.file_meta = dataset.file_meta
    at.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=True)
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    write_dataset(buffer, rest)
    path.write_bytes(path.read_bytes() + data + buffer.getvalue())
    assert "nested" in refusal(study).message
    assert not survey_study([study]).plannable


def test_moderate_nesting_is_read(study: Path) -> None:
    edit(study / "RS.dcm", lambda dataset: setattr(dataset, "ConceptNameCodeSequence", Sequence([_nested(10)])))
    assert len(read_study([study]).case.structures) == 3


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "<script>alert(1)</script>", "a\\b", "\x1b[31mred\nline", "'; --"]
)
def test_names_are_only_names(study: Path, tmp_path: Path, name: str) -> None:
    def rename(dataset: Dataset) -> None:
        dataset.StructureSetROISequence[1].ROIName = name.replace("\\", "/")

    edit(study / "RS.dcm", rename)
    before = {path for path in tmp_path.rglob("*")}
    case = read_study([study])
    read = case.case.structures[1].name
    assert read.isprintable()
    if name.isprintable():
        assert read == name.replace("\\", "/")
    write_structure_set(tmp_path / "out.dcm", case.source, [], IDENTITY_OF_TESTS)
    assert {path for path in tmp_path.rglob("*")} - before == {tmp_path / "out.dcm"}


def test_links_loops_and_special_files(study: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (study / "RS.dcm").rename(outside / "RS.dcm")
    (study / "RS.dcm").symlink_to(outside / "RS.dcm")
    (study / "elsewhere").symlink_to(outside)
    (study / "loop").symlink_to(study)
    (study / "broken").symlink_to(study / "absent")
    os.mkfifo(study / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(study / "socket"))
        scan = scan_study([study])
    assert len(scan.objects) == 12
    messages = " / ".join(finding.message for finding in scan.findings)
    assert "2 links that lead out" in messages
    assert "2 devices, sockets and FIFOs" in messages
    # A path that was named is followed; a device is not opened even then.
    assert len(scan_study([study, study / "RS.dcm"]).objects) == 13
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        scan_study([study / "fifo"])
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        scan_study([Path("/dev/zero")])


def test_deep_folders(study: Path) -> None:
    deep = study
    for _ in range(270):
        deep = deep / "d"
    os.makedirs(deep)
    (study / "RS.dcm").rename(deep / "RS.dcm")
    assert read_study([study]).case.ct.grid.shape[0] == 12


def test_archives_in_a_folder_are_not_opened(study: Path) -> None:
    with zipfile.ZipFile(study / "more.zip", "w") as target:
        target.writestr("../x.dcm", "x")
    findings = read_study([study]).case.findings
    assert any("1 zip files inside of a folder were not opened" in finding.message for finding in findings)


def test_file_that_changes_while_it_is_read(study: Path) -> None:
    scan = scan_study([study])
    edit(study / "CT_003.dcm", lambda dataset: setattr(dataset, "RescaleIntercept", "-999"))
    item = next(item for item in scan.objects if item.file.endswith("CT_003.dcm"))
    with pytest.raises(InputError, match="changed"):
        item.load()


def test_damaged_file_beside_a_study(study: Path) -> None:
    content = (study / "CT_003.dcm").read_bytes()
    (study / "damaged.dcm").write_bytes(content[:300])
    assert Path(refusal(study).file or "").name == "damaged.dcm"
    survey = survey_study([study])
    assert not survey.plannable
    assert survey.findings[0].severity == "error"
    assert len(survey.structure_sets[0].structures) == 3


def test_values_beyond_reason(study: Path) -> None:
    for keyword, value, message in (
        ("ImagePositionPatient", ["1e300", "0", "0"], "expected at most 100000 mm"),
        ("PixelSpacing", ["1e-9", "2"], "expected positive numbers"),
        ("RescaleSlope", "1e30", "found slope"),
        ("Rows", 0, "expected a positive number"),
    ):
        content = (study / "CT_005.dcm").read_bytes()
        edit(study / "CT_005.dcm", lambda dataset, keyword=keyword, value=value: setattr(dataset, keyword, value))
        assert message in refusal(study).message
        (study / "CT_005.dcm").write_bytes(content)


def test_contour_that_crosses_itself_everywhere(study: Path) -> None:
    points = np.random.default_rng(1).uniform(-20, 20, (5000, 2))

    def scribble(dataset: Dataset) -> None:
        contour = dataset.ROIContourSequence[1].ContourSequence[0]
        z = float(contour.ContourData[2])
        contour.ContourData = [f"{value:.2f}" for x, y in points for value in (x, y, z)]

    edit(study / "RS.dcm", scribble)
    assert "times as long as its extent" in refusal(study).message
