"""Examination of an installation: versions, optional parts, threads, kernel cache, self-test against known answers."""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dicomplan import __version__
from dicomplan.events import Cancel, Progress, ProgressCallback, ignore_progress
from dicomplan.workflow.threads import usable_cores

State = Literal["ok", "missing", "failed"]

# Distribution, module to import, and what its lack means: a required part makes dicomplan unusable.
_LIBRARIES = (
    ("numpy", "numpy", ""),
    ("scipy", "scipy", ""),
    ("numba", "numba", ""),
    ("pydicom", "pydicom", ""),
    ("contourpy", "contourpy", ""),
    ("PyYAML", "yaml", ""),
    ("Pillow", "PIL.Image", ""),
    ("rich", "rich", ""),
    ("opencv-python", "cv2", "rt-utils needs it: apt install libgl1 libglib2.0-0; our own writer does its job"),
    ("rt-utils", "rt_utils", "our own writer makes the derived structures"),
    ("SimpleITK", "SimpleITK", "convert to and from NIfTI and NRRD: pip install 'dicomplan[images]'"),
    ("python-gdcm", "gdcm", "JPEG compressed CT: pip install 'dicomplan[compressed]'"),
    ("pyjpegls", "jpeg_ls", "JPEG-LS compressed CT: pip install 'dicomplan[compressed]'"),
    ("pylibjpeg-openjpeg", "openjpeg", "JPEG 2000 compressed CT: pip install 'dicomplan[compressed]'"),
)

_PROGRAMS = {
    "dciodvfy": "DICOM conformance in the tests: apt install dicom3tools",
    "plastimatch": "reading our files back in the tests: apt install plastimatch",
}


@dataclass(frozen=True)
class Item:
    """One finding: ``part`` (library, program, system, self-test), ``name``, ``state`` and a line of ``detail``.

    ``missing`` means that an optional part is absent; ``failed`` makes dicomplan unusable.
    """

    part: str
    name: str
    state: State
    detail: str


@dataclass(frozen=True)
class SelfTest:
    """A known answer: ``found`` must agree with ``expected`` within the relative ``tolerance``; both in ``unit``."""

    name: str
    expected: float
    found: float
    tolerance: float
    unit: str

    @property
    def passed(self) -> bool:
        """Whether the found value agrees with the known one."""
        return math.isfinite(self.found) and abs(self.found - self.expected) <= self.tolerance * abs(self.expected)


@dataclass(frozen=True)
class Examination:
    """All findings, the self-tests among them, and the number of ``threads`` kernels use."""

    items: tuple[Item, ...]
    tests: tuple[SelfTest, ...]
    threads: int

    @property
    def usable(self) -> bool:
        """Whether nothing that dicomplan needs failed."""
        return all(item.state != "failed" for item in self.items)

    def document(self) -> dict[str, object]:
        """The findings as ``doctor --json`` prints them."""
        return {
            "schema": 1,
            "dicomplan": __version__,
            "usable": self.usable,
            "threads": self.threads,
            "items": [
                {"part": item.part, "name": item.name, "state": item.state, "detail": item.detail}
                for item in self.items
            ],
            "self_tests": [
                {
                    "name": test.name,
                    "expected": test.expected,
                    "found": test.found if math.isfinite(test.found) else None,
                    "relative_tolerance": test.tolerance,
                    "unit": test.unit,
                    "passed": test.passed,
                }
                for test in self.tests
            ],
        }


def examine(progress: ProgressCallback = ignore_progress, cancel: Cancel | None = None) -> Examination:
    """Examine this installation. Whatever fails becomes a finding; only cancellation is raised."""
    cancel = cancel or Cancel()
    progress(Progress("versions", "libraries and programs"))
    # The kernel cache must be chosen before the libraries, numba among them, are loaded.
    cache = _cache()
    items = [Item("system", "python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")]
    items += [_library(*library) for library in _LIBRARIES]
    items += [_program(name, purpose) for name, purpose in _PROGRAMS.items()]
    items.append(cache)
    threads = _threads()
    items.append(Item("system", "threads", "ok", f"{threads} of {usable_cores()} usable cores"))
    items += _shipped_files()
    tests: list[SelfTest] = []
    for name, function in SELF_TESTS.items():
        cancel.check()
        progress(Progress("self-test", name, len(tests) / len(SELF_TESTS)))
        try:
            test = function()
        except Exception as error:  # a broken installation may raise anything
            items.append(Item("self-test", name, "failed", f"{type(error).__name__}: {error}"))
            continue
        tests.append(test)
        detail = f"{test.found:.6g} {test.unit}, known answer {test.expected:.6g} within {100 * test.tolerance:g} %"
        items.append(Item("self-test", name, "ok" if test.passed else "failed", detail))
    return Examination(tuple(items), tuple(tests), threads)


def _library(distribution: str, module: str, lack: str) -> Item:
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:
        detail = f"{error} ({lack})" if lack else str(error)
        return Item("library", distribution, "missing" if lack else "failed", detail)
    return Item("library", distribution, "ok", _version(distribution, module))


def _version(distribution: str, module: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        # The same module may come from another distribution, such as opencv-python-headless.
        return str(getattr(importlib.import_module(module), "__version__", "version unknown"))


def _program(name: str, purpose: str) -> Item:
    place = shutil.which(name)
    return Item("program", name, "ok" if place else "missing", place or f"optional; {purpose}")


def _cache() -> Item:
    try:
        importlib.import_module("dicomplan.kernel_cache")
        folder = Path(os.environ["NUMBA_CACHE_DIR"])
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except (ImportError, OSError) as error:
        return Item("system", "kernel cache", "failed", f"cannot be used: {error}")
    return Item("system", "kernel cache", "ok", f"{folder} ({size / 1e6:.1f} MB)")


def _threads() -> int:
    try:
        numba = importlib.import_module("numba")
    except (ImportError, OSError):
        return usable_cores()
    return int(numba.get_num_threads())


def _shipped_files() -> Iterator[Item]:
    from dicomplan.workflow.templates import machine_summaries, template_summaries

    for name, read in (("templates", template_summaries), ("machines", machine_summaries)):
        try:
            names = ", ".join(summary.name for summary in read())
        except Exception as error:  # a damaged installation may raise anything
            yield Item("data", name, "failed", f"{type(error).__name__}: {error}")
        else:
            yield Item("data", name, "ok", names)


def _disc_area() -> SelfTest:
    """Area of a regular polygon of 360 corners and 20 mm radius, n/2 r^2 sin(2 pi/n), from its pixel coverage."""
    import numpy as np

    from dicomplan.geometry.polygons import polygon_coverage

    corners, radius_mm = 360, 20.0
    angle = 2.0 * np.pi * np.arange(corners) / corners
    polygon = radius_mm * np.stack([np.cos(angle), np.sin(angle)], axis=1) + [0.3, -0.2]
    edges_mm = np.linspace(-30.0, 30.0, 61)
    found = float(polygon_coverage([polygon], edges_mm, edges_mm).sum())
    return SelfTest("contour to mask", corners / 2 * radius_mm**2 * math.sin(2 * math.pi / corners), found, 1e-9, "mm2")


def _dose_volume() -> SelfTest:
    """D5% of a 40 mm cube in a dose that rises by 1 Gy/mm from 10 to 50 Gy: 5 % of the cube get more than 48 Gy."""
    import numpy as np

    from dicomplan.geometry.grid import VoxelGrid
    from dicomplan.metrics.dvh import evaluate
    from dicomplan.metrics.goals import Metric
    from dicomplan.metrics.sampling import dose_samples
    from dicomplan.patient.case import Coverage

    cube = VoxelGrid((40, 40, 40), (1.0, 1.0, 1.0), (-19.5, -19.5, -19.5))
    grid = VoxelGrid((25, 25, 25), (2.5, 2.5, 2.5), (-30.0, -30.0, -30.0))
    dose_gy = np.empty(grid.shape, dtype=np.float32)
    dose_gy[:] = 30.0 + grid.axis_mm(2)
    samples = dose_samples(Coverage(cube, np.ones(cube.shape, dtype=np.float32)), dose_gy, grid)
    return SelfTest("dose-volume metric", 48.0, evaluate(Metric("D", 5.0, "%"), samples), 1e-3, "Gy")


SELF_TESTS: dict[str, Callable[[], SelfTest]] = {
    "contour to mask": _disc_area,
    "dose-volume metric": _dose_volume,
}
"""Name and function of every self-test; each computes a value whose right answer is known independently."""
