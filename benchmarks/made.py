"""Inputs that several benchmarks share: a big scene, and a bundle with random weights."""

from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

from geoclass import backbones
from geoclass.bundle import BundleMeta, save_bundle
from geoclass.schemes import load_scheme
from geoclass.sensors import load_sensor

SIDE = 224


def make_scene(path: Path, rows: int, columns: int, seed: int = 0) -> Path:
    """A tiled, deflate-compressed 1 m scene of rows × columns whole tiles, of smooth noise with grain, as photographs are."""
    rng = np.random.default_rng(seed)
    strip = np.kron(rng.integers(40, 200, (3, 7, columns * 7)), np.ones((1, 32, 32)))
    strip = (strip + rng.normal(0, 8, strip.shape)).clip(1, 255).astype(np.uint8)
    profile = {
        "driver": "GTiff",
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:26919",
        "compress": "deflate",
        "tiled": True,
    }
    size = {"width": columns * SIDE, "height": rows * SIDE, "blockxsize": 256, "blockysize": 256, "bigtiff": "if_safer"}
    with rasterio.open(path, "w", transform=from_origin(1400 * SIDE, 20900 * SIDE, 1, 1), **profile, **size) as dataset:
        for row in range(rows):
            dataset.write(np.roll(strip, row * 37, axis=2), window=Window(0, row * SIDE, columns * SIDE, SIDE))
    return path


def make_bundle(
    path: Path, backbone: str = "efficientnet_lite0", input_px: int | None = 112, views: int = 4, size_px: int = SIDE
) -> Path:
    """A bundle with random weights; speed does not depend on them."""
    scheme = load_scheme("rsscn7")
    network = backbones.build(backbone, classes=len(scheme), weights=None)
    norm = backbones.normalisation(backbone, 3)
    meta = BundleMeta(
        backbone=backbone,
        scheme=scheme,
        sensor=load_sensor("rgb8"),
        bands=("red", "green", "blue"),
        size_px=size_px,
        gsd_m=1.0,
        mean=norm.mean,
        std=norm.std,
        brightness=None,
        input_px=input_px,
        views=views,
        training={},
        created="2020-01-01T00:00:00+00:00",
        geoclass_version="0.1.0",
    )
    save_bundle(path, meta, dict(network.state_dict()), overwrite=True)
    return path
