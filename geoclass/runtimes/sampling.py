"""Tiles of a scene drawn by chance, to measure runtimes on, to calibrate int8 with, and to compare it by."""

from __future__ import annotations

import numpy as np

from ..blocks import TileBlock, read_ahead
from ..errors import SceneError
from ..plan import Plan
from ..reader import Pixels
from ..remote.opening import READERS

THREADS = 2


def sampled(plan: Plan, count: int, seed: int = 0) -> list[Pixels]:
    """Up to `count` tiles (C, H, W) of a plan in stored numbers, drawn without replacement, in the order drawn.

    Tiles with less data than the plan asks for are left out. Where the scene cannot be read on, what was read so far.
    """
    drawn = np.random.default_rng(seed).permutation(len(plan))[:count]
    order = np.argsort(drawn)  # read as they lie in the file
    blocks = [TileBlock(int(place), plan.columns[drawn[place], None], plan.rows[drawn[place], None]) for place in order]
    found: dict[int, Pixels] = {}
    try:
        threads = READERS if plan.mosaic.remote else THREADS
        for read in read_ahead(plan.mosaic, plan.grid, plan.bands, blocks, threads, overlap=plan.mosaic.remote):
            share = float(read.valid_fraction[0])
            if share > 0 and share >= plan.min_valid:
                found[read.block.number] = read.tiles[0]
    except SceneError:
        pass  # the run itself will say what is wrong with the scene, and where
    return [found[place] for place in sorted(found)]
