"""One 10 x 10 cm field on a water box with the photon engine of OpenTPS; run by tools/bench/dose in a venv that holds it.

    python _dose_opentps.py ENGINE_FOLDER SIDE SPACING_MM

ENGINE_FOLDER: that of OpenTPS' photon engine (``CCC_DoseEngine``, ``Kernels_differentFluence``). The executable is run from a
copy, as the package does not mark it executable, on the files that OpenTPS would write for it. Prints JSON: CPU-seconds of
the executable, axis dose by depth (its own units), voxels that it computed.
"""

import json
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np


def main() -> None:
    """Entry point."""
    home, side, spacing = Path(sys.argv[1]), int(sys.argv[2]), 0.1 * float(sys.argv[3])
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        engine = folder / "engine"
        shutil.copy(home / "CCC_DoseEngine" / "CCC_DoseEngine", engine)
        engine.chmod(0o700)
        lines = []
        for path in sorted((home / "Kernels_differentFluence").iterdir()):
            lines += [path.stem if path.suffix == ".txt" else f"kernel_{path.stem}", str(path)]
        (folder / "kernels.txt").write_text("\n".join(lines) + "\n")
        # its first axis runs with the beam; the isocentre, 10 cm deep, is its origin
        middle = -0.5 * spacing * (side - 1)
        header = (
            f"Xcount Ycount Zcount\n{side} {side} {side}\nXstart Ystart Zstart\n{-10.0 + 0.5 * spacing} {middle} {middle}\n"
            f"dx dy dz\n{spacing} {spacing} {spacing}\nXorigin Yorigin Zorigin\n0 0 0\n"
        )
        (folder / "header.txt").write_text(header)
        np.ones(side**3, dtype=np.float32).tofile(folder / "density.bin")
        (folder / "geometry.txt").write_text(
            f"geometry_header\n{folder / 'header.txt'}\ngeometry_density\n{folder / 'density.bin'}\n"
        )
        (folder / "beams.txt").write_text(
            "beamnum:\n1\n \nnum\n0\nSAD xp yp del_xp del_yp\n100.0 0.0 0.0 10.0 10.0\ny_vec\n-100.0 0.0 0.0\n"
            "ip\n0.0 1.0 0.0\njp\n0.0 0.0 1.0\nkp\n1.0 0.0 0.0\n\n \n"
        )
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        names = ("kernels.txt", "geometry.txt", "beams.txt", "dose.bin")
        # its exit code is 1 when all went well
        subprocess.run([engine, *(folder / name for name in names)], check=False, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        written = (folder / "dose.bin").read_bytes()
    # number of beams; of the beam its number, the three counts and the number of voxels; their indices and doses
    count = int(np.frombuffer(written, np.int32, 6)[5])
    index = np.frombuffer(written, np.int32, count, 24)
    dose = np.zeros(side**3, dtype=np.float32)
    dose[index] = np.frombuffer(written, np.float32, count, 24 + 4 * count)
    # x runs fastest
    volume, half = dose.reshape(side, side, side), side // 2
    axis = volume[half - 1 : half + 1, half - 1 : half + 1].mean(axis=(0, 1))
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"cpu_s": seconds, "axis": axis.tolist(), "voxels": count}))


main()
