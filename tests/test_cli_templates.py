"""``templates`` and ``machines``: what is shipped can be listed, shown, copied and checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dicomplan.cli.main import main

Capture = pytest.CaptureFixture[str]


def document(capsys: Capture, *arguments: str) -> dict[str, object]:
    assert main([*arguments, "--json"]) == 0
    value: dict[str, object] = json.loads(capsys.readouterr().out)
    assert value["schema"] == 1
    return value


def test_the_shipped_templates_are_listed(capsys: Capture) -> None:
    listed = document(capsys, "templates", "list")["templates"]
    assert isinstance(listed, list)
    assert "head_and_neck_70" in [row["name"] for row in listed]
    assert all(row["description"] for row in listed)
    assert main(["templates", "list"]) == 0
    out = capsys.readouterr().out
    assert all(row["name"] in out and row["description"] in out for row in listed)


def test_every_shipped_template_can_be_copied_and_checked(capsys: Capture, tmp_path: Path) -> None:
    listed = document(capsys, "templates", "list")["templates"]
    assert isinstance(listed, list)
    for row in listed:
        assert main(["templates", "show", row["name"]]) == 0
        text = capsys.readouterr().out
        copy = tmp_path / "copy of mine.yaml"
        copy.write_text(text, encoding="utf-8")
        assert main(["templates", "check", str(copy)]) == 0
        assert capsys.readouterr().out.startswith(f"ok: {row['description']}")
        assert text.rstrip() == str(document(capsys, "templates", "show", row["name"])["text"]).rstrip()


def test_all_problems_of_a_template_are_told_at_once(capsys: Capture, tmp_path: Path) -> None:
    assert main(["templates", "show", "head_and_neck_70"]) == 0
    lines = capsys.readouterr().out.splitlines()
    broken = tmp_path / "broken.yaml"
    broken.write_text("\n".join([*lines, "gaols: []", "delivery_mode: vmat"]), encoding="utf-8")
    assert main(["templates", "check", str(broken)]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    told = err.splitlines()
    assert len(told) == 2
    for offset, line in enumerate(told, start=1):
        assert line.startswith("error: ")
        assert f"line {len(lines) + offset}" in line
    assert "goals" in told[0]
    assert main(["templates", "check", str(broken), "--json"]) == 4
    error = json.loads(capsys.readouterr().out)["error"]
    assert [problem["line"] for problem in error["problems"]] == [len(lines) + 1, len(lines) + 2]


def test_the_schema_is_json_either_way(capsys: Capture) -> None:
    assert main(["templates", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert document(capsys, "templates", "schema") == {"schema": 1, **schema}
    assert "prescription" in schema["properties"]


@pytest.mark.parametrize(("kind", "known"), [("templates", "head_and_neck_70"), ("machines", "generic_6mv")])
def test_an_unknown_name_is_answered_with_the_known_ones(capsys: Capture, kind: str, known: str) -> None:
    assert main([kind, "show", "nothing_of_this_name"]) == 2
    err = capsys.readouterr().err
    assert known in err
    assert err.count("\n") == 1


def test_machines_are_listed_and_shown(capsys: Capture) -> None:
    listed = document(capsys, "machines", "list")["machines"]
    assert isinstance(listed, list)
    assert "generic_6mv" in [row["name"] for row in listed]
    for row in listed:
        assert main(["machines", "show", row["name"]]) == 0
        assert capsys.readouterr().out.strip()


def test_every_shipped_machine_can_be_copied_and_checked(capsys: Capture, tmp_path: Path) -> None:
    listed = document(capsys, "machines", "list")["machines"]
    assert isinstance(listed, list)
    for row in listed:
        assert main(["machines", "show", row["name"]]) == 0
        copy = tmp_path / "copy of mine.txt"  # any name will do: the command says that it is a machine file
        copy.write_text(capsys.readouterr().out, encoding="utf-8")
        assert main(["machines", "check", str(copy)]) == 0
        pairs, jaws = (80, ["Y"]) if row["name"] in ("agility_6mv", "artiste_6mv") else (60, ["X", "Y"])
        assert capsys.readouterr().out == f"ok: {row['name']} (6 MV, {pairs} leaf pairs, jaws {' and '.join(jaws)})\n"
        checked = document(capsys, "machines", "check", str(copy))
        assert checked["ok"] is True
        assert (checked["name"], checked["leaf_pairs"], checked["jaws"]) == (row["name"], pairs, jaws)


def test_all_problems_of_a_machine_are_told_at_once(capsys: Capture, tmp_path: Path) -> None:
    assert main(["machines", "show", "generic_6mv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    broken = tmp_path / "broken.toml"
    broken.write_text("\n".join([*lines, "leaf_speed = 3", "[wedge]"]), encoding="utf-8")
    (tmp_path / "mohan_6mv_spectrum.csv").write_text("0.5,1\n0.4,1\n", encoding="utf-8")
    assert main(["machines", "check", str(broken)]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    told = err.splitlines()
    assert len(told) == 3
    assert told[0].startswith(f"error: {broken}, line {len(lines) + 1}: unknown key 'delivery.leaf_speed'")
    assert told[1].startswith(f"error: {broken}, line {len(lines) + 2}: unknown key 'wedge'")
    assert told[2].startswith("error: mohan_6mv_spectrum.csv, line 2: ")
    assert main(["machines", "check", str(broken), "--json"]) == 4
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == 4
    assert [problem["line"] for problem in error["problems"]] == [len(lines) + 1, len(lines) + 2, 2]
    assert [problem["file"] for problem in error["problems"]] == [str(broken), str(broken), "mohan_6mv_spectrum.csv"]


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["plan"], ["templates", "list"], ["templates", "schema"], ["machines", "list"], ["plan", "/nowhere"]],
)
def test_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from dicomplan.cli.main import main; main(sys.argv[1:]); "
        "print([m for m in ('numba', 'scipy', 'SimpleITK', 'cv2', 'rt_utils') if m in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
