"""A worker for tests and ``tools/chaos``: reads the study as planning does, but writes a dose that costs nothing.

What it does with a study stands in its own StudyID: ``crash``, ``hang``, ``memory``, ``code`` N, ``slow`` S, ``errno`` N,
``usage`` TEXT.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from dicomplan.dicom.identity import Identity
from dicomplan.dicom.read import read_study
from dicomplan.dicom.write_dose import write_dose
from dicomplan.dose.volume import DoseVolume
from dicomplan.errors import UsageError
from dicomplan.jobs.worker import main
from dicomplan.plan.library import load_template
from dicomplan.workflow.clock import creation_time
from dicomplan.workflow.output import OutputFolder


def quick_plan(study: tuple[Path, ...], template: str, result: Path) -> int:
    """RTDOSE and plan.json as a function of input, template and creation time; refused as ``plan`` refuses."""
    loaded = load_template(template)
    with OutputFolder(result, inputs=study) as folder:
        read = read_study(study)
        word, _, value = str(read.source.attributes.get("StudyID", "")).partition(" ")
        misbehave(word, value)
        hashes = [f"{item.sop_instance_uid} {item.sha256}" for item in read.source.inputs]
        identity = Identity(json.dumps([hashes, loaded.source]), creation_time())
        dose = np.maximum(read.case.ct.hu, 0).astype(np.float32) / 100 + 1
        volume = DoseVolume(read.case.ct.grid, dose)
        write_dose(folder / "RTDOSE.dcm", read.source, volume, identity=identity, plan_uid=identity.uid("RTPLAN"))
        if word == "slow":
            time.sleep(float(value))
        document = {"schema": 1, "dicomplan": "tests", "status": "accepted", "inputs": hashes}
        (folder / "plan.json").write_text(json.dumps(document))
    return 0


def misbehave(word: str, value: str) -> None:
    """Crash, hang, or eat memory."""
    if word == "crash":
        ctypes.string_at(0)  # a true segmentation fault
    if word == "hang":
        time.sleep(3600)
    if word == "code":
        os._exit(int(value))
    if word == "raise":
        raise ZeroDivisionError(value)
    if word == "usage":
        raise UsageError(value)
    if word == "errno":
        raise OSError(int(value), os.strerror(int(value)))
    if word == "memory":
        kept = []
        while True:
            kept.append(np.ones(20_000_000))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], quick_plan))
