"""What several benchmarks need: an environment with pyRadPlan, and the state of the machine."""

from __future__ import annotations

import os
import subprocess
import time
import venv
from pathlib import Path

import numpy as np


def pyradplan_environment(folder: Path) -> Path | None:
    """The interpreter of an environment with pyRadPlan 0.5 and IPOPT, made if it is not there; None if that fails."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    asked = [str(python), "-c", "import pyRadPlan, ipyopt"]
    if subprocess.run(asked, capture_output=True, check=False).returncode == 0:
        return python
    command = [str(python), "-m", "pip", "install", "-q", "pyRadPlan==0.5.0", "pydantic<2.14", "ipyopt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print("| pyRadPlan 0.5 | not installed: " + (done.stderr.strip().splitlines() or ["?"])[-1] + " |")
        return None
    return python


def pyradplan_folder() -> Path:
    """Where that environment is kept, if nothing else is asked for."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "dicomplan-bench" / "pyradplan"


def copy_rate() -> float:
    """Memory-copy rate in GB/s: the best of five copies of 400 MB, read and written bytes."""
    source = np.ones(50_000_000)
    target = np.empty_like(source)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - start)
    return float(2 * source.nbytes / min(seconds[1:]) / 1e9)


def machine_line() -> None:
    """Threads, load and memory-copy rate."""
    import numba

    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"threads {numba.get_num_threads()}, load average {load}, memory copy {copy_rate():.1f} GB/s\n", flush=True)
