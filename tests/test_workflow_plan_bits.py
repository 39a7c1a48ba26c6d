"""Runs of one plan at one creation time: the same bytes of every DICOM file, on one thread and on two, whoever calls."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import plan_helpers as helpers
import pytest

EPOCH = "1700000000"  # 2023-11-14 22:13:20 UTC
_RUN = """
import sys
from pathlib import Path
from dicomplan.workflow.threads import set_threads
if sys.argv.pop(1) == "told":
    set_threads(None)
from dicomplan.workflow.plan import PlanRequest, run_plan
study, template, output = sys.argv[1:]
print(run_plan(PlanRequest((Path(study),), template, Path(output), beam_doses=True)).exit_code)
import numba
print(numba.get_num_threads())
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same plan on one thread, on two, and by a caller who leaves linear algebra its threads; accurate engine."""
    folder = tmp_path_factory.mktemp("bits")
    study = helpers.write_small_study(folder / "study")
    (folder / "t.yaml").write_text(helpers.template(final="collapsed_cone", fields="{gantry: 100}"))
    outputs = []
    for name, threads, how in (("one", "1", "told"), ("two", "2", "told"), ("free", "1", "untold")):
        environment = {**os.environ, "NUMBA_NUM_THREADS": threads, "SOURCE_DATE_EPOCH": EPOCH}
        environment |= {"OPENBLAS_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
        command = [sys.executable, "-c", _RUN, how, str(study), str(folder / "t.yaml"), str(folder / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.split() == ["0", threads]
        outputs.append(folder / name)
    return outputs


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.dcm"))}


def test_the_same_bytes_with_one_thread_and_two(runs: list[Path]) -> None:
    one, two, free = (digests(folder) for folder in runs)
    assert set(one) == {"RTPLAN.dcm", "RTDOSE.dcm", "RTSTRUCT.dcm", "RTDOSE_1.dcm"}
    assert one == two
    assert one == free


def test_the_documents_differ_in_their_times_only(runs: list[Path]) -> None:
    one, two = (json.loads((folder / "plan.json").read_text()) for folder in runs[:2])
    for document in (one, two):
        del document["timings_s"]
    assert one == two
    assert one["created"].startswith("2023-11-14T22:13:20")


def test_another_time_makes_other_objects_of_the_same_dose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = helpers.write_small_study(tmp_path / "study")
    text = helpers.template(fields="{gantry: 100}")
    made = []
    for name, epoch in (("one", EPOCH), ("later", str(int(EPOCH) + 1))):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        made.append(helpers.plan(tmp_path, text, study=study, name=name))
    for name in ("RTPLAN.dcm", "RTDOSE.dcm", "RTSTRUCT.dcm"):
        one, later = (planned.dataset(name) for planned in made)
        assert one.SOPInstanceUID != later.SOPInstanceUID
        assert one.SeriesInstanceUID != later.SeriesInstanceUID
        assert one.StudyInstanceUID == later.StudyInstanceUID
    assert made[0].dataset("RTDOSE.dcm").PixelData == made[1].dataset("RTDOSE.dcm").PixelData
