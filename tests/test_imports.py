"""A quick start: what loads none of the heavy libraries. Each case runs in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("numba", "llvmlite", "scipy", "SimpleITK", "cv2", "rt_utils")

_CLI = """
import json, sys
from dicomplan.cli.main import main
try:
    code = main(json.loads(sys.argv[1]))
except SystemExit as stop:
    code = stop.code
"""
_REPORT = """
import json, sys
heavy = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
print("\\n" + json.dumps({"code": globals().get("code"), "heavy": heavy}))
"""


def run(source: str, arguments: list[str] | None = None) -> tuple[int | None, list[str], str]:
    """Exit code, heavy modules loaded and stderr of ``source`` in a fresh interpreter."""
    command = [sys.executable, "-c", source + _REPORT, json.dumps(arguments or []), json.dumps(HEAVY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    return result["code"], result["heavy"], done.stderr


def test_the_check_sees_a_heavy_module() -> None:
    assert "scipy" in run("import scipy")[1]


def test_import_of_the_package_and_its_values() -> None:
    names = ("dicomplan", "dicomplan.patient.case", "dicomplan.plan.template", "dicomplan.machine.model")
    assert run("\n".join(f"import {name}" for name in names))[1] == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["plan", "--help"], 0),
        (["templates", "list"], 0),
        (["templates", "show", "head_and_neck_70"], 0),
        (["machines", "list"], 0),
        ([], 2),
        (["plan"], 2),
        (["plan", "--no-such-option"], 2),
        (["plan", "/nowhere/study", "--template", "head_and_neck_70", "--output", "/nowhere/out"], 2),
        (["no-such-command"], 2),
    ],
)
def test_help_lists_and_argument_errors(arguments: list[str], code: int) -> None:
    found, heavy, stderr = run(_CLI, arguments)
    assert heavy == []
    assert found == code, stderr


def test_template_errors(tmp_path) -> None:
    """A wrong template is refused before anything heavy is loaded."""
    template = tmp_path / "wrong.yaml"
    template.write_text("dicomplan: 1\nname: wrong\nprescription: {fractions: 35, targets: {PTV: 70 Gy}}\nbems: {}\n")
    code, heavy, stderr = run(_CLI, ["templates", "check", str(template)])
    assert heavy == []
    assert code == 4, stderr
