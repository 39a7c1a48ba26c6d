"""The short form of ``tools/chaos``: kills and half-written files change nothing of what comes out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHAOS = Path(__file__).parents[1] / "tools" / "chaos"


def test_chaos_in_short() -> None:
    options = "--studies 5 --every 4 --kinds gap --kills 3 --fills 0 --between 2 6 --timeout 280 --limit 280"
    done = subprocess.run(
        [sys.executable, str(CHAOS), *options.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "RTDOSE byte-identical: 4 of 4" in done.stdout, done.stdout
    assert '"kills": 3' in done.stdout
