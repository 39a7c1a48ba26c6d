"""The command line as INTERFACE.md promises it: exit codes, one line per error, one document with ``--json``."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cli_helpers
import pytest
from cli_helpers import stand_in

from dicomplan import __version__, errors
from dicomplan.cli.main import main

ERROR_KEYS = {"code", "message", "file", "tag", "line", "hint"}


def use(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> Any:
    monkeypatch.setitem(sys.modules, "dicomplan.workflow.plan", module)
    return module


def plan_arguments(tmp_path: Path) -> list[str]:
    study = tmp_path / "study"
    study.mkdir(exist_ok=True)
    return ["plan", str(study), "--template", "head_and_neck_70", "--output", str(tmp_path / "out")]


def error_document(text: str) -> dict[str, Any]:
    document = json.loads(text)
    assert document["schema"] == 1
    assert set(document["error"]) >= ERROR_KEYS
    error: dict[str, Any] = document["error"]
    return error


def test_a_request_carries_every_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = use(monkeypatch, stand_in())
    switches = ["--beam-doses", "--overwrite", "--identify"]
    choices = ["--structure-set", "1.2", "--series", "1.3", "--patient-position", "FFP"]
    limits = ["--repair", "--bridge", "--max-study-size", "500MB", "--time-limit", "2min", "--explore", "A:B"]
    assert main([*plan_arguments(tmp_path), *switches, *choices, *limits]) == 0
    assert main(plan_arguments(tmp_path)) == 0
    needed = (tmp_path / "study",), "head_and_neck_70", tmp_path / "out"
    assert module.requests == [
        cli_helpers.PlanRequest(*needed, True, True, True, "1.2", "1.3", "FFP", True, True, 500 * 10**6, 120.0, "A:B"),
        cli_helpers.PlanRequest(*needed),
    ]


def test_the_outcome_names_broken_limits_first_and_the_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, stand_in(exit_code=5, status="failed"))
    assert main(plan_arguments(tmp_path)) == 5
    out, err = capsys.readouterr()
    assert out.startswith("Plan FAILED")
    assert "Goals met: 1 of 4." in out
    order = [out.index(name) for name in ("SpinalCord", "Larynx", "Parotid_L", "PTV_7000")]
    assert order == sorted(order)
    assert "46.12 Gy" in out
    assert str(tmp_path / "out" / "report.html") in out
    assert "stage=read" in err
    assert "stage=read" not in out


def test_json_prints_the_plan_document_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, stand_in(exit_code=6, status="not_deliverable"))
    assert main(["--json", "--quiet", *plan_arguments(tmp_path)]) == 6
    out, err = capsys.readouterr()
    assert json.loads(out)["status"] == "not_deliverable"
    assert err == ""


@pytest.mark.parametrize("before", [True, False])
def test_common_options_stand_before_and_behind_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], before: bool
) -> None:
    use(monkeypatch, stand_in())
    arguments = plan_arguments(tmp_path)
    assert main(["--json", *arguments] if before else [*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == 1


CASES = [
    (
        errors.InputError("no CT", file="a.dcm", tag="Modality", hint="add it"),
        3,
        "error: a.dcm, Modality: no CT (add it)",
    ),
    (errors.TemplateError("bad goal", file="t.yaml", line=7), 4, "error: t.yaml, line 7: bad goal"),
    (errors.MachineError("bad machine"), 4, "error: bad machine"),
    (errors.UsageError("exists"), 2, "error: exists"),
    (errors.InsufficientMemoryError("too large", hint="4 mm would fit"), 8, "error: too large (4 mm would fit)"),
    (errors.CancelledError("cancelled"), 130, "interrupted"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (ZeroDivisionError("by zero"), 1, "unexpected error: ZeroDivisionError: by zero (use --debug for the traceback)"),
    (
        ValueError("two\nlines\x1b[31m"),
        1,
        "unexpected error: ValueError: two lines?[31m (use --debug for the traceback)",
    ),
]


@pytest.mark.parametrize(("error", "code", "line"), CASES, ids=[type(case[0]).__name__ for case in CASES])
def test_each_error_is_one_line_and_one_document(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    use(monkeypatch, stand_in(error=error))
    assert main(["--quiet", *plan_arguments(tmp_path)]) == code
    assert capsys.readouterr() == ("", f"{line}\n")
    assert main(["--quiet", "--json", *plan_arguments(tmp_path)]) == code
    out, err = capsys.readouterr()
    assert err == f"{line}\n"
    document = error_document(out)
    assert document["code"] == code
    if isinstance(error, errors.DicomplanError) and not isinstance(error, errors.CancelledError):
        told = (document["message"], document["file"], document["tag"], document["line"], document["hint"])
        assert told == (error.message, error.file, error.tag, error.line, error.hint)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (MemoryError(), 8, "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "disk full"),
        (PermissionError(errno.EACCES, "Permission denied"), 1, "unexpected error"),
    ],
)
def test_failures_of_the_system(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    words: str,
) -> None:
    use(monkeypatch, stand_in(error=error))
    assert main(["--quiet", *plan_arguments(tmp_path)]) == code
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_every_problem_of_a_template_has_its_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = (errors.TemplateError("unknown key", line=3, hint="goals?"), errors.TemplateError("bad goal", line=9))
    use(monkeypatch, stand_in(error=errors.TemplateError("2 problems", file="t.yaml", problems=problems)))
    assert main(["--json", "--quiet", *plan_arguments(tmp_path)]) == 4
    out, err = capsys.readouterr()
    assert err.splitlines() == ["error: t.yaml, line 3: unknown key (goals?)", "error: t.yaml, line 9: bad goal"]
    assert [problem["line"] for problem in error_document(out)["problems"]] == [3, 9]


def test_violations_are_in_the_document(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, stand_in(error=errors.NotDeliverableError("limits", violations=("leaf 3",))))
    assert main(["--json", *plan_arguments(tmp_path)]) == 6
    assert error_document(capsys.readouterr().out)["violations"] == ["leaf 3"]


def test_the_traceback_needs_debug(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, stand_in(error=ZeroDivisionError("by zero")))
    main(plan_arguments(tmp_path))
    assert "Traceback" not in capsys.readouterr().err
    main(["--debug", *plan_arguments(tmp_path)])
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["plan"],
        ["watch", "in", "out"],
        ["serve"],
        ["templates"],
        ["templates", "new", "study"],
        ["machines", "check", "file"],
        ["plan", ".", "--template", "t", "--output", "o", "--techniques", "3dcrt,imrt"],
        ["plan", ".", "--template", "t", "--output", "o", "--explore", "A:B"],
        ["plan", ".", "--templ", "t", "--output", "o"],
        ["plan", ".", "--template", "t", "--output", "o", "--patient-position", "SITTING"],
        ["doctor", "--threads", "0"],
        ["doctor", "--threads", "two"],
        ["plan", "/nowhere/at/all", "--template", "t", "--output", "o"],
        ["plan", "nul\0byte", "--template", "t", "--output", "o"],
        ["templates", "check", "/nowhere/at/all.yaml"],
    ],
)
def test_usage_errors_end_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert main([*arguments, "--json"]) == 2
    assert error_document(capsys.readouterr().out)["code"] == 2


def test_a_missing_path_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "/nowhere/at/all", "--template", "t", "--output", "o", "--json"])
    assert error_document(capsys.readouterr().out)["file"] == "/nowhere/at/all"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["inspect"],
        ["convert"],
        ["plan"],
        ["demo"],
        ["templates"],
        ["templates", "check"],
        ["machines", "show"],
        ["doctor"],
    ],
)
def test_help_says_that_it_is_no_medical_device(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--help"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "not a medical device" in words
    for absent in ("serve", "--techniques"):
        assert absent not in words.replace("not a medical device", "")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dicomplan {__version__}\n"
    assert main(["--version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "dicomplan": __version__}


def test_warnings_reach_stderr_and_other_packages_do_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = use(monkeypatch, stand_in())
    inner = module.run_plan

    def chatty(*arguments: Any) -> Any:
        logging.getLogger("dicomplan.dicom").warning("look here")
        logging.getLogger("dicomplan.dicom").info("detail")
        logging.getLogger("pydicom").warning("Mustermann^Erika")
        return inner(*arguments)

    module.run_plan = chatty
    handlers = list(logging.getLogger().handlers)
    main(plan_arguments(tmp_path))
    err = capsys.readouterr().err
    assert "warning: look here\n" in err
    assert "Mustermann" not in err
    assert "detail" not in err
    main(["--quiet", *plan_arguments(tmp_path)])
    assert capsys.readouterr().err == ""
    assert logging.getLogger().handlers == handlers


def test_bars_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, stand_in())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert main(plan_arguments(tmp_path)) == 0
    out, err = capsys.readouterr()
    assert "3 images" in err
    assert "time=" not in err
    assert "Report:" in out


def test_handlers_of_signals_are_given_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, stand_in(error=KeyboardInterrupt()))
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    main(plan_arguments(tmp_path))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("kind", ["plain", "swallow"])
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_leaves_nothing(tmp_path: Path, kind: str, signum: int, code: int) -> None:
    arguments = plan_arguments(tmp_path)
    command = [sys.executable, cli_helpers.__file__, kind, *arguments, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        assert run.stderr.readline() == "ready\n"
        assert len(os.listdir(tmp_path)) == 2
        run.send_signal(signum)
        run.send_signal(signum)
        out, err = run.communicate(timeout=30)
    assert run.returncode == code
    assert "Traceback" not in err
    assert error_document(out)["code"] == code
    assert os.listdir(tmp_path) == ["study"]


def test_the_installed_command_and_a_closed_pipe() -> None:
    command = [sys.executable, "-m", "dicomplan.cli.main"]
    done = subprocess.run([*command, "plan", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == error_document(done.stdout)["code"] == 2
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([*command, "--version"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""


def test_a_full_disk_under_stdout() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with open("/dev/full", "w", encoding="utf-8") as full:
        command = [sys.executable, "-m", "dicomplan.cli.main", "--version"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: disk full")
    assert done.stderr.count("\n") == 1
