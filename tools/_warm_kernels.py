"""Plan a small water box, so that the kernels of the main job lie compiled in the cache before two workers start."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from dicomplan.phantoms.water_box import water_box
from dicomplan.phantoms.write import write_phantom_study
from dicomplan.workflow.plan import PlanRequest, run_plan

TEMPLATE = """\
dicomplan: 1
name: Small water box
prescription: {fractions: 25, targets: {PTV_5000: 50 Gy}}
machine: generic_6mv
derived:
  Ring: (PTV_5000 + 20 mm) - (PTV_5000 + 5 mm)
beams: {technique: imrt, isocenter: targets, gantry: [0, 90]}
constraints:
  BODY: [Dmax <= 80 Gy]
goals:
  - PTV_5000: [D95% >= 47.5 Gy]
  - Ring: [Dmean <= 35 Gy]
dose: {grid: 5 mm}
"""


def main() -> int:
    """Plan in a temporary folder; the plan's own exit code does not matter, only that the chain ran."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_phantom_study(folder / "study", water_box(size_mm=120.0, target_radius_mm=20.0))
        (folder / "small.yaml").write_text(TEMPLATE)
        outcome = run_plan(
            PlanRequest(study=(folder / "study",), template=str(folder / "small.yaml"), output=folder / "plan")
        )
    print(f"kernels compiled in {time.perf_counter() - start:.0f} s (plan: {outcome.document['status']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
