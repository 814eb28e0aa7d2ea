"""Peak memory of classify for few and for many tiles, each in a process of its own.

python benchmarks/memory.py [--tiles 2000 20000]
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from made import classify_command, make_bundle, make_scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, nargs="+", default=[2000, 20000])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        make_bundle(here / "m.pt")
        print(f"{'tiles':>8}{'peak MB':>10}{'against first':>15}{'tiles/s':>9}")
        first = None
        for tiles in options.tiles:
            rows = max(2, round((tiles / 1.25) ** 0.5))
            make_scene(here / "scene.tif", rows, round(tiles / rows))
            subprocess.run(classify_command("--name", f"n{tiles}"), cwd=here, check=True)
            timings = json.loads((here / "out" / f"n{tiles}.json").read_text())["timings"]
            peak = timings["peak_memory_mb"]
            first = first or peak
            print(f"{tiles:>8}{peak:>10.0f}{peak / first:>15.3f}{timings['tiles_per_second']:>9.1f}")


if __name__ == "__main__":
    main()
