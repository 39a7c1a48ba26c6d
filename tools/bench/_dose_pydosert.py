"""One 10 x 10 cm field on a water box with pydosert's photon engine; run by tools/bench/dose in a venv that holds pydosert.

    python _dose_pydosert.py SIDE SPACING_MM REPEATS

One thread. Prints JSON: CPU-seconds of each repeat after a first call that builds the layers, axis dose by depth (Gy/MU as it
calibrates), profile across the axis at 100 mm depth, version.
"""

import json
import sys
import time
from importlib.metadata import version

import torch
from pydosert.data import Beam, MachineConfig
from pydosert.engine.dose_engine import DoseEngine


def main() -> None:
    """Entry point."""
    side, spacing, repeats = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    machine = MachineConfig(number_of_leaf_pairs=80, leaf_widths=[5.0] * 80, tpr_20_10=0.67, mean_photon_energy_MeV=2.0)
    half = 0.5 * side * spacing
    engine = DoseEngine(
        machine, 101, (spacing,) * 3, (side,) * 3, device="cpu", dtype=torch.float32, conv_backend="fft"
    )
    beam = Beam.create(
        0.0, machine.number_of_leaf_pairs, 0.0, (100.0, 100.0), iso_center=(half, 100.0, half), device="cpu",
        requires_grad=False,
    )  # fmt: skip
    water = torch.ones((side,) * 3)
    seconds = []
    with torch.no_grad():
        dose = engine.compute_dose(beam, water)
        for _ in range(repeats):
            start = time.process_time()
            dose = engine.compute_dose(beam, water)
            seconds.append(time.process_time() - start)
    volume = dose.reshape((side,) * 3).numpy()
    # the beam runs along the second axis
    middle = side // 2
    axis = volume[middle - 1 : middle + 1, :, middle - 1 : middle + 1].mean(axis=(0, 2))
    across = volume[middle - 1 : middle + 1, int(100.0 / spacing), :].mean(axis=0)
    print(
        json.dumps({"cpu_s": seconds, "axis": axis.tolist(), "across": across.tolist(), "version": version("pydosert")})
    )


main()
