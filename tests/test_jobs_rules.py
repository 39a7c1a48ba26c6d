"""Rules and recipes: which template for which study, and what a job keeps of it; the commands around the store."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from dicom_helpers import write_tiny_study
from jobs_helpers import TEMPLATE

from dicomplan.cli.main import main
from dicomplan.errors import TemplateError
from dicomplan.jobs.clean import cleaned, reason_of_job
from dicomplan.jobs.health import Gauges, HealthServer
from dicomplan.jobs.recipes import load_recipe
from dicomplan.jobs.retention import Retention, apply_retention
from dicomplan.jobs.rules import load_rules, one_template
from dicomplan.jobs.store import JobStore
from dicomplan.jobs.values import JobFile, NewJob
from dicomplan.machine.library import load_machine, machine_text
from dicomplan.plan.library import load_template

GOOD = """dicomplan: 1
rules:
  - name: brain
    structures: [Brain]
    template: a.yaml
  - name: neck
    structures: [spinal_cord, "PTV 7000"]
    description: ["*neck*", "*head*"]
    template: a.yaml
  - template: head_and_neck_70
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "a.yaml").write_text(TEMPLATE)
    (tmp_path / "rules.yaml").write_text(GOOD)
    return tmp_path


def test_every_problem_of_a_rules_file_is_named_with_its_line(place: Path) -> None:
    path = place / "rules.yaml"
    path.write_text("dicomplan: 2\nrules:\n  - structure: [x]\n    template: absent.yaml\n  - name: b\nrule: 1\n")
    with pytest.raises(TemplateError) as caught:
        load_rules(path)
    assert [(one.line, one.message.split(":")[0]) for one in caught.value.problems] == [
        (1, "dicomplan"),
        (3, "unknown key 'structure'"),
        (4, "rule 1, template absent.yaml"),
        (5, "rule 2"),
        (6, "unknown key 'rule'"),
    ]


def test_a_template_with_an_error_is_refused_at_the_start(place: Path) -> None:
    (place / "a.yaml").write_text(TEMPLATE.replace("technique: imrt", "technique: arc"))
    with pytest.raises(TemplateError, match=r"rule 1, template a\.yaml, line 5"):
        load_rules(place / "rules.yaml")
    assert main(["watch", str(place), str(place), "--rules", str(place / "rules.yaml")]) == 4


def test_check_says_which_rule_fits_and_why_the_others_do_not(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_tiny_study(place / "study")
    assert main(["watch", "--check", str(study), "--rules", str(place / "rules.yaml"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["studies"]
    assert (found["rule"], found["template"]) == ("rule 3", "head_and_neck_70")
    assert [rule["misfit"] for rule in found["rules"]] == [
        "the structure set has no Brain",
        "no description fits *neck*, *head*",
        "",
    ]
    (place / "rules.yaml").write_text(GOOD.split("  - template", maxsplit=1)[0])
    assert main(["watch", "--check", str(study), "--rules", str(place / "rules.yaml")]) == 4
    assert "no rule fits: it would be refused" in capsys.readouterr().out


def test_the_configuration_changes_with_any_template(place: Path) -> None:
    first = load_rules(place / "rules.yaml").config
    assert load_rules(place / "rules.yaml").config == first
    (place / "a.yaml").write_text(TEMPLATE.replace("fractions: 35", "fractions: 34"))
    assert load_rules(place / "rules.yaml").config != first
    assert one_template(str(place / "a.yaml")).config != first


def test_the_configuration_changes_with_any_condition(place: Path) -> None:
    first = load_rules(place / "rules.yaml").config
    (place / "rules.yaml").write_text(GOOD.replace("*neck*", "*throat*"))
    assert load_rules(place / "rules.yaml").config != first


@pytest.mark.parametrize("stated", ["machines/mine.toml", "ABSOLUTE", "generic_6mv"])
def test_a_recipe_keeps_a_machine_whole(stated: str, place: Path, tmp_path: Path, monkeypatch) -> None:
    folder = place / "machines"
    folder.mkdir()
    (folder / "mine.toml").write_text(machine_text("generic_6mv"))
    name = str(folder / "mine.toml") if stated == "ABSOLUTE" else stated
    (place / "a.yaml").write_text(TEMPLATE.replace("machine: generic_6mv", f"machine: {name}"))
    recipe = load_recipe(str(place / "a.yaml"))
    expected = load_machine(folder / "mine.toml").source
    kept = tmp_path / "kept"
    kept.mkdir()
    for file, text in recipe.files.items():
        (kept / file).write_text(text)
    copy = load_template(kept / "template.yaml")
    assert copy.machine == "machine.toml"
    # nothing of the installed release is needed any more
    monkeypatch.setattr("dicomplan.machine.library._shipped_table", None)
    assert load_machine(kept / copy.machine).source == expected
    assert copy.beams == recipe.template.beams


@pytest.mark.parametrize(
    "arguments",
    [
        ["watch", "--template", "head_and_neck_70"],
        ["watch", "IN", "IN", "--template", "head_and_neck_70"],
        ["watch", "IN", "IN/sub", "--template", "head_and_neck_70"],
        ["watch", "IN", "OUT", "--template", "nothing"],
        ["watch", "IN", "OUT"],
        ["watch", "IN", "OUT", "--template", "head_and_neck_70", "--replan", "--keep-input"],
        ["watch", "IN", "OUT", "--template", "head_and_neck_70", "--stable", "soon"],
        ["watch", "IN", "OUT", "--template", "head_and_neck_70", "--mode", "400"],
        ["watch", "IN", "OUT", "--template", "head_and_neck_70", "--send", "nowhere"],
        ["jobs", "list", "--store", "IN/absent"],
        ["jobs"],
    ],
)
def test_what_is_wrong_on_the_command_line_ends_with_2(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    named = [text.replace("IN", str(tmp_path / "in")).replace("OUT", str(tmp_path / "out")) for text in arguments]
    assert main(named) == 2


def _job(name: str, **changes: object) -> NewJob:
    values = {"id": name * 16, "key": name, "generation": 0, "config": "c", "inbox": "/in", "outbox": "/out"}
    rest = {"template": "t", "version": "1", "received_s": 5, "structure_set_uid": "1", "series_uid": "2"}
    return NewJob(**{**values, **rest, **changes})  # type: ignore[arg-type]


def test_jobs_are_listed_shown_cancelled_and_retried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "jobs.sqlite"
    with JobStore(path) as store:
        store.add(_job("a"), [JobFile("1.2", "aa", "CT", "aa", 1)])
        store.add(_job("b"), [])
        store.claim("b" * 16, "me", 60)
        store.end("b" * 16, "me", "done", exit_code=0, plan_status="accepted")

    def run(*arguments: str) -> tuple[int, dict[str, object]]:
        code = main(["jobs", *arguments, "--store", str(path), "--json"])
        return code, json.loads(capsys.readouterr().out)

    code, document = run("list")
    assert (code, document["schema"]) == (0, 1)
    jobs = document["jobs"]
    assert isinstance(jobs, list)
    assert [
        (one["id"], one["state"], one["plan_status"], one["attempts"], one["error"], one["output"]) for one in jobs
    ] == [
        ("a" * 16, "received", None, 0, None, None),
        ("b" * 16, "done", "accepted", 0, None, "/out/" + "b" * 16),
    ]
    assert run("list", "--state", "done")[1]["jobs"] == jobs[1:]
    assert run("show", "a")[1]["job"]["inputs"] == [{"sop_instance_uid": "1.2", "sha256": "aa", "kind": "CT"}]  # type: ignore[index]
    assert run("cancel", "a")[1]["job"]["state"] == "cancelled"  # type: ignore[index]
    assert run("retry", "a")[1]["job"]["state"] == "waiting"  # type: ignore[index]
    assert run("retry", "b")[0] == 2
    assert run("cancel", "b")[0] == 2
    assert run("show", "c")[0] == 2


def test_health_and_metrics_over_http() -> None:
    gauges = Gauges(jobs={"done": 3, "waiting": 2, "received": 1})
    gauges.note_duration(45.0)

    def get(place: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{place}", timeout=10) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    with HealthServer(gauges, 0) as server:
        assert get("/health")[0] == 200
        gauges.trouble["disk"] = "disk full"
        code, text = get("/health")
        assert (code, json.loads(text)["trouble"]) == (503, {"disk": "disk full"})
        lines = get("/metrics")[1].splitlines()
        assert get("/other")[0] == 404
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values['dicomplan_jobs{state="done"}'] == "3"
    assert values["dicomplan_queue_length"] == "3"
    assert values["dicomplan_healthy"] == "0"
    assert (values['dicomplan_job_seconds_bucket{le="30.0"}'], values['dicomplan_job_seconds_bucket{le="60.0"}']) == (
        "0",
        "1",
    )


def test_retention_is_off_by_default_and_never_takes_what_nobody_has(tmp_path: Path) -> None:
    outbox, inbox = tmp_path / "out", tmp_path / "in"
    with JobStore(tmp_path / "jobs.sqlite", clock=lambda: 1000.0) as store:
        for name in "ab":
            job = _job(name, inbox=str(inbox), outbox=str(outbox))
            store.add(job, [])
            store.claim(job.id, "me", 60)
            store.end(job.id, "me", "done", exit_code=0)
            store.set_moved(job.id)
            (outbox / job.id).mkdir(parents=True)
            (inbox / ".dicomplan" / "processed" / job.id).mkdir(parents=True)
        store.set_handed_over("a" * 16)
        later = 1000.0 + 10 * 86400
        assert list(apply_retention(Retention(), store, str(outbox), later)) == []
        assert list(apply_retention(Retention(20, 20, 20), store, str(outbox), later)) == []
        gone = list(apply_retention(Retention(5, None, 5), store, str(outbox), later))
    assert gone == [("a" * 16, "input"), ("a" * 16, "result"), ("b" * 16, "input")]
    assert [path.name for path in outbox.iterdir()] == ["b" * 16]


def test_texts_are_cleaned_of_names() -> None:
    text = cleaned("patient DOE, id 77a, file /in/Doe Jane/1.dcm", ("Doe^Jane", "77A"), (Path("/in/Doe Jane/1.dcm"),))
    assert "doe" not in text.lower()
    assert "77a" not in text.lower()
    error = ValueError("Doe")
    assert reason_of_job(error, (), ()) == "unexpected ValueError"
