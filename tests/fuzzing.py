"""Byte-level mutations of valid DICOM files, and one reading of each: a result or our own error, nothing else."""

from __future__ import annotations

import resource
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from dicom_helpers import CREATED, IDENTITY_OF_TESTS, PATIENT, box, tiny_dose
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomplan.dicom.read import read_dose, read_study
from dicomplan.dicom.survey import survey_study
from dicomplan.dicom.write_ct import write_ct_series
from dicomplan.dicom.write_dose import write_dose
from dicomplan.dicom.write_structures import write_phantom_structures
from dicomplan.errors import DicomplanError
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.case import CTVolume, Structure
from dicomplan.patient.coverage import rasterize

SECONDS_FOR_ONE = 20
"""A reading that takes longer hangs: a valid one takes a fiftieth of a second."""
MOST_MEMORY_GB = 2.0

_EXTREMES = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\x00\x00\x00\x00", b"\xfe\xff\x00\xe0")
_DIGITS = b"0123456789.-+eE\\ nai"


@dataclass
class Outcome:
    """Counts of results and of errors by class; ``failures`` names each case that ended otherwise."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """One to four random edits: bytes, extreme lengths, digits, cuts, copies and insertions; half of them early on."""
    data = bytearray(content)
    for _ in range(int(random.integers(1, 5))):
        if len(data) < 200:
            break
        reach = len(data) if random.random() < 0.5 else max(len(data) // 8, 200)
        at = int(random.integers(128, max(reach, 129)))
        size = int(random.integers(1, 17))
        kind = int(random.integers(0, 8))
        if kind == 0:
            data[at] = int(random.integers(0, 256))
        elif kind == 1:
            data[at : at + size] = random.bytes(size)
        elif kind == 2:
            data[at : at + 4] = _EXTREMES[int(random.integers(0, len(_EXTREMES)))]
        elif kind == 3:
            del data[at : at + size]
        elif kind == 4:
            data[at:at] = random.bytes(size)
        elif kind == 5:
            data[at:at] = data[at : at + 8 * size]
        elif kind == 6:
            places = [place for place in range(at, min(at + 400, len(data))) if data[place] in b"0123456789"]
            for place in places[:size]:
                data[place] = _DIGITS[int(random.integers(0, len(_DIGITS)))]
        elif random.random() < 0.3:
            del data[at:]
    return bytes(data)


class Fuzz:
    """A small study in ``folder``, written once; :meth:`run` reads it with one file mutated."""

    def __init__(self, folder: Path) -> None:
        self.study = folder / "study"
        grid = VoxelGrid((3, 16, 16), (3.0, 2.0, 2.0), (-15.0, -15.0, -3.0))
        hu = np.zeros(grid.shape, dtype=np.float32)
        hu[:, 4:12, 4:12] = 60.0
        files = write_ct_series(
            self.study, CTVolume(grid, hu), PATIENT, patient_position="HFS", entropy="fuzz", created=CREATED
        )
        structures = (
            Structure("BODY", 1, "EXTERNAL", box(grid, range(3), (1.5, 1.5), (13.5, 13.5))),
            Structure("PTV", 2, "PTV", box(grid, range(1, 3), (4.0, 4.3), (9.1, 9.9))),
        )
        write_phantom_structures(self.study / "RS.dcm", structures, files, entropy="fuzz", created=CREATED)
        source = read_study([self.study]).source
        self.dose = folder / "RD.dcm"
        write_dose(self.dose, source, tiny_dose(grid), identity=IDENTITY_OF_TESTS, plan_uid="1.2.3")
        self.targets: list[tuple[Path, bytes]] = []
        for path in (files[1], self.study / "RS.dcm", self.dose):
            for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
                copy = folder / "copy.dcm"
                shutil.copy(path, copy)
                dataset = pydicom.dcmread(copy)
                dataset.file_meta.TransferSyntaxUID = syntax
                dataset.save_as(copy, implicit_vr=syntax.is_implicit_VR, little_endian=True)
                self.targets.append((path, copy.read_bytes()))

    def run(self, cases: range, tell: Callable[[int, Outcome], None] = lambda _, __: None) -> Outcome:
        """Read one mutation for each seed in ``cases``."""
        outcome = Outcome()
        for seed in cases:
            random = np.random.default_rng(seed)
            path, content = self.targets[seed % len(self.targets)]
            valid = path.read_bytes()
            path.write_bytes(mutated(content, random))
            try:
                for name, read in (("read", self._read), ("survey", self._survey)):
                    self._count(f"{name} {path.name[:2]}", seed, lambda read=read, path=path: read(path), outcome)
            finally:
                path.write_bytes(valid)
            tell(seed, outcome)
        return outcome

    def _read(self, path: Path) -> None:
        if path == self.dose:
            read_dose(path)
            return
        case = read_study([self.study]).case
        for structure in case.structures:
            rasterize(structure, case.ct.grid)

    def _survey(self, path: Path) -> None:
        survey_study([path if path == self.dose else self.study])

    @staticmethod
    def _count(name: str, seed: int, read: Callable[[], None], outcome: Outcome) -> None:
        try:
            with _limited():
                read()
        except DicomplanError as error:
            outcome.counts[f"{name}: {type(error).__name__}"] += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            outcome.counts[f"{name}: OTHER"] += 1
            outcome.failures.append(f"seed {seed}, {name}: {type(error).__name__}: {error}")
        else:
            outcome.counts[f"{name}: result"] += 1


@contextmanager
def _limited() -> Iterator[None]:
    def stop(_: int, __: object) -> None:
        raise TimeoutError(f"longer than {SECONDS_FOR_ONE} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS_FOR_ONE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def peak_memory_gb() -> float:
    """Greatest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
