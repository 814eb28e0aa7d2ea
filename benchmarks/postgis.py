"""Results into PostGIS: 67,000 tiles the first time, again, and read back; into a schema of its own, removed at the end.

python benchmarks/postgis.py postgresql://user@host/database [--tiles 67000] [--scheme nlcd6]
"""

import argparse
import time

import numpy as np
import psycopg

from geoclass.database.loading import load_result
from geoclass.database.reading import read_run
from geoclass.grid import TileGrid, TileRange, cells, parse_crs
from geoclass.labels import Labels
from geoclass.schemes import load_scheme

SCHEMA = "geoclass_benchmark"


def made(tiles: int, scheme_name: str, date: str) -> Labels:
    random, scheme = np.random.default_rng(0), load_scheme(scheme_name)
    side = round(tiles**0.5) + 1
    columns, rows = (part[:tiles] for part in cells(TileRange(1800, 20_000, 1800 + side, 20_000 + side)))
    probabilities = random.dirichlet(np.full(len(scheme), 0.3), tiles).astype(np.float32)
    valid = random.uniform(0.5, 1, tiles).astype(np.float32)
    info = {"name": "county", "date": date, "inputs": [f"{date}.tif"], "bundle": "m"}
    return Labels(TileGrid(parse_crs("EPSG:26919")), scheme, columns, rows, probabilities, valid, info=info)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--tiles", type=int, default=67_000)
    parser.add_argument("--scheme", default="nlcd6")
    options = parser.parse_args()
    first, second = (made(options.tiles, options.scheme, date) for date in ("2019-07-01", "2021-07-01"))
    with psycopg.connect(options.address, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        steps = {
            "into an empty schema": lambda: load_result(first, options.address, schema=SCHEMA).written,
            "the same again": lambda: load_result(first, options.address, schema=SCHEMA).written,
            "a second date": lambda: load_result(second, options.address, schema=SCHEMA).written,
            "read back": lambda: len(read_run(options.address, "run_county_2019_07_01", SCHEMA)),
        }
        for name, step in steps.items():
            wall, busy = time.perf_counter(), time.process_time()
            rows = step()
            wall, busy = time.perf_counter() - wall, time.process_time() - busy
            print(f"{name:<22}{rows:>8,} rows {wall:>7.2f} s, of which this process computed {busy:.2f} s")
        connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
        connection.execute("DELETE FROM layer_styles WHERE f_table_schema = %s", (SCHEMA,))


if __name__ == "__main__":
    main()
