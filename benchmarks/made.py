"""Inputs that several benchmarks share: big scenes, bundles with random weights, and one that knows textures apart."""

import sys
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
import torch
from rasterio.transform import from_origin
from rasterio.windows import Window

from geoclass import backbones
from geoclass.bundle import Bundle, BundleMeta, load_bundle, save_bundle
from geoclass.runtimes.answers import prepared
from geoclass.schemes import load_scheme
from geoclass.sensors import load_sensor

SIDE = 224
COLUMN, ROW = 1400, 20900
KINDS = 7
FITTED_ON = 210


def classify_command(*options: str) -> list[str]:
    """geoclass classify of the scene and with the bundle in the folder where it is run."""
    return [sys.executable, "-m", "geoclass", "-q", "classify", "scene.tif", "--model", "m.pt", *options]


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
    with rasterio.open(path, "w", transform=from_origin(COLUMN * SIDE, ROW * SIDE, 1, 1), **profile, **size) as dataset:
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


def texture(kind: int, random: np.random.Generator) -> np.ndarray:
    """(3, 224, 224) uint8 of one kind: patches of one size, contrast and mean colour, with the grain of a photograph."""
    cell = (4, 8, 16, 32, 56, 112, 8)[kind]
    colours = np.random.default_rng(kind).integers(60, 180, (3, 1, 1))
    coarse = colours + random.normal(0, 20 + 8 * (kind % 3), (3, SIDE // cell, SIDE // cell))
    pixels = np.kron(coarse, np.ones((1, cell, cell))) + random.normal(0, 3, (3, SIDE, SIDE))
    return pixels.clip(1, 255).astype(np.uint8)


def make_cog(folder: Path, side: int) -> Path:
    """side × side tiles of random kinds as a JPEG (YCbCr) COG on geoclass's grid."""
    random = np.random.default_rng(0)
    plain, path = folder / "plain.tif", folder / "scene.tif"
    shape = {"width": side * SIDE, "height": side * SIDE, "count": 3, "dtype": "uint8", "crs": "EPSG:26919"}
    place = from_origin(COLUMN * SIDE, ROW * SIDE, 1, 1)
    with rasterio.open(plain, "w", driver="GTiff", tiled=True, transform=place, **shape) as dataset:
        for row in range(side):
            strip = np.concatenate([texture(int(random.integers(KINDS)), random) for _ in range(side)], axis=2)
            dataset.write(strip, window=Window(0, row * SIDE, side * SIDE, SIDE))
    rasterio.shutil.copy(plain, path, driver="COG", compress="JPEG", quality=90)
    plain.unlink()
    return path


@torch.inference_mode()
def fitted_bundle(path: Path, spec: str) -> Bundle:
    """A bundle whose classifier tells the kinds of texture apart; the default backbone has its packaged weights."""
    name, side, views = spec.split(":")
    bundle = load_bundle(make_bundle(path, name, int(side), int(views)))
    weights = "pretrained" if name in backbones.PACKAGED else None
    network = backbones.build(name, classes=KINDS, weights=weights)
    random = np.random.default_rng(1)
    kinds = np.arange(FITTED_ON) % KINDS
    tiles = np.stack([texture(int(kind), random) for kind in kinds]).astype(np.float32)
    points: list[torch.Tensor] = []
    layer = network.get_submodule(backbones.classifier_name(network))
    hook = layer.register_forward_pre_hook(lambda _, given: points.append(given[0]))
    for part in torch.from_numpy(tiles).split(30):
        network(prepared(part, bundle.meta))
    hook.remove()
    x = torch.cat(points)
    spread = x.std(dim=0).clamp(min=1e-3)
    standard = (x - x.mean(dim=0)) / spread
    gram = standard @ standard.T + 10 * torch.eye(len(x))
    truth = torch.nn.functional.one_hot(torch.from_numpy(kinds), KINDS).float() - 1 / KINDS
    weight = (standard.T @ torch.linalg.solve(gram, truth)).T / spread * 8
    backbones.set_classifier(network, weight, -(weight @ x.mean(dim=0)))
    save_bundle(path, bundle.meta, dict(network.state_dict()), overwrite=True)
    return load_bundle(path)
