"""``doctor`` tells a usable installation from a broken one, and its self-tests fail when the answer is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dicomplan.cli.main import main
from dicomplan.events import Progress
from dicomplan.workflow import doctor
from dicomplan.workflow.doctor import SELF_TESTS, SelfTest, examine


@pytest.mark.parametrize("name", sorted(SELF_TESTS))
def test_every_self_test_finds_the_known_answer(name: str) -> None:
    test = SELF_TESTS[name]()
    assert test.passed, test


@pytest.mark.parametrize(
    ("expected", "found", "passed"),
    [(2.0, 2.0, True), (2.0, 2.019, True), (2.0, 2.021, False), (-2.0, -2.019, True), (2.0, float("nan"), False)],
)
def test_a_self_test_holds_its_tolerance(expected: float, found: float, passed: bool) -> None:
    assert SelfTest("x", expected, found, 0.01, "Gy").passed is passed


def test_this_installation_is_usable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--quiet"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert document["usable"] is True
    assert document["threads"] >= 1
    assert {"numpy", "scipy", "numba", "pydicom", "kernel cache"} <= {item["name"] for item in document["items"]}
    assert {test["name"] for test in document["self_tests"]} == set(SELF_TESTS)


def test_the_table_names_every_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("numba", "dciodvfy", "threads", *SELF_TESTS))
    assert out.endswith("dicomplan is usable here.\n")


def test_a_wrong_answer_makes_it_unusable(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "SELF_TESTS", {"two": lambda: SelfTest("two", 2.0, 2.5, 0.01, "Gy")})
    assert main(["doctor", "--quiet"]) == 1
    assert "NOT usable" in capsys.readouterr().out


def test_a_failing_self_test_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> SelfTest:
        raise RuntimeError("no kernels")

    monkeypatch.setattr(doctor, "SELF_TESTS", {"broken": broken})
    examination = examine()
    assert not examination.usable
    assert [item.detail for item in examination.items if item.name == "broken"] == ["RuntimeError: no kernels"]


def test_optional_parts_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    optional = {
        "opencv-python": "cv2",
        "SimpleITK": "SimpleITK",
        "python-gdcm": "gdcm",
        "pyjpegls": "jpeg_ls",
        "pylibjpeg-openjpeg": "openjpeg",
    }
    for module in optional.values():
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(doctor, "SELF_TESTS", {})
    examination = examine()
    found = {item.name: item for item in examination.items}
    assert {found[name].state for name in ("dciodvfy", *optional)} == {"missing"}
    # the line names the extra that brings the part
    assert "dicomplan[images]" in found["SimpleITK"].detail
    assert all("dicomplan[compressed]" in found[name].detail for name in list(optional)[2:])
    assert examination.usable


def test_required_parts_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "contourpy", None)
    monkeypatch.setattr(doctor, "SELF_TESTS", {})
    examination = examine()
    assert [item.name for item in examination.items if item.state == "failed"] == ["contourpy"]
    assert not examination.usable


def test_progress_goes_through_every_self_test() -> None:
    events: list[Progress] = []
    examine(events.append)
    assert [event.message for event in events if event.stage == "self-test"] == list(SELF_TESTS)


def test_a_home_that_cannot_be_written_is_survived(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    environment.update(XDG_CACHE_HOME="/proc/nowhere", HOME="/proc/nowhere", TMPDIR=str(tmp_path))
    code = (
        "from dicomplan.workflow import doctor; doctor.SELF_TESTS.clear(); "
        "print(*[i.detail for i in doctor.examine().items if i.name == 'kernel cache'])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(tmp_path))
