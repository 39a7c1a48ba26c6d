"""The wheel holds the package and nothing else; every public name says what it is."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dicomplan"


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of the files in a wheel built from this checkout (no network: hatchling is a dev extra)."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_wheel_contains_only_the_package(wheel_names: list[str]) -> None:
    tops = {name.split("/", 1)[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"dicomplan"}
    assert len(tops) == 2
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel_names)


def test_wheel_contains_every_file_of_the_package(wheel_names: list[str]) -> None:
    """Data files too: a template or table that .gitignore happens to match would be missing in an installation."""
    there = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert there == {name for name in wheel_names if name.startswith("dicomplan/")}
    assert "dicomplan/py.typed" in there
    assert any(name.endswith(".yaml") for name in there)


def undocumented(source: str, module: str) -> list[str]:
    """Public classes, functions and methods (and the module itself) of ``source`` that have no docstring."""
    tree = ast.parse(source)
    found = [] if ast.get_docstring(tree) or not tree.body else [module]

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name[0] == "_":
                continue
            decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
            if not ast.get_docstring(node) and not {"overload", "typing.overload"} & decorators:
                found.append(f"{prefix}.{node.name}")
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{prefix}.{node.name}")

    visit(tree.body, module)
    return found


def test_every_public_name_has_a_docstring() -> None:
    found: list[str] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        found += undocumented(path.read_text(), ".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert not found, "without docstring: " + ", ".join(found)


def test_the_docstring_check_sees_what_is_missing() -> None:
    source = (
        '"""M."""\nclass A:\n    """A."""\n    def f(self): ...\n    def _g(self): ...\ndef h(): ...\ndef _i(): ...\n'
    )
    assert undocumented(source, "m") == ["m.A.f", "m.h"]
    assert undocumented("x = 1\n", "m") == ["m"]
