"""Features of a frozen backbone, kept on disk by tile and network, so that a second head trains in seconds."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from .. import backbones
from ..datasets.pictures import Picture
from ..datasets.tileset import TileSet
from ..errors import GeoclassError
from ..files import cache_folder
from ..predict import brightness_of
from ..runtimes.answers import keep_large_buffers, resampled
from ..sensors import Sensor
from ..views import VIEWS, views_of

Progress = Callable[[str, int, int], None]
Features = npt.NDArray[np.float32]

MOST_CACHED_BYTES = 8 << 30
RECIPE = b"views 1"
"""Changes when `views_of` does, so that features of other views are not taken for these."""

log = logging.getLogger(__name__)


class FeatureCache:
    """Features of one frozen network by the digest of a tile's pixels, as files of many tiles in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.where: dict[bytes, tuple[Path, int]] = {}
        for path in sorted(folder.glob("*.npz")) if folder.is_dir() else []:
            digests = _stored(path, "digests")
            if digests is not None:
                self.where.update({digest.tobytes(): (path, k) for k, digest in enumerate(digests)})

    def fetch(self, digests: list[bytes]) -> dict[bytes, npt.NDArray[np.float16]]:
        """The features (V, F) of those tiles that are known."""
        wanted: dict[Path, list[tuple[bytes, int]]] = {}
        for digest in digests:
            if digest in self.where:
                path, row = self.where[digest]
                wanted.setdefault(path, []).append((digest, row))
        found = {}
        for path, rows in wanted.items():
            values = _stored(path, "features")
            if values is None:
                continue
            with suppress(OSError):  # of another user: it may be read, not touched
                os.utime(path)
            found.update({digest: np.asarray(values[row], np.float16) for digest, row in rows})
        return found

    def keep(self, digests: list[bytes], features: npt.NDArray[np.float16]) -> None:
        """Write the features (n, V, F) of n tiles. A cache that cannot be written is a slower run, not a failed one."""
        path = self.folder / f"{secrets.token_hex(8)}.npz"
        temporary = path.with_suffix(".part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as stream:
                np.savez(stream, digests=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16), features=features)
            temporary.replace(path)
            _prune(self.folder.parent)
        except OSError as error:
            log.warning("features are not kept in %s: %s", self.folder, error)
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _stored(path: Path, name: str) -> npt.NDArray[np.generic] | None:
    """An array of a cache file; where the file is damaged None, and the file is removed."""
    try:
        with np.load(path, allow_pickle=False) as part:
            values: npt.NDArray[np.generic] = part[name]
            whole = values.shape[0] == len(part["digests"]) and values.ndim == {"digests": 2, "features": 3}[name]
        if whole:
            return values
    except Exception as error:  # zip, value, key, token and other errors, by where the damage is
        log.info("%s is damaged: %s", path, error)
    with suppress(OSError):
        path.unlink(missing_ok=True)
    return None


def _prune(folder: Path) -> None:
    """Remove the least recently used files until the cache is within its limit."""
    files = sorted(folder.glob("*/*.npz"), key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for path in files:
        total += path.stat().st_size
        if total > MOST_CACHED_BYTES:
            path.unlink(missing_ok=True)


@torch.no_grad()
def extract_features(
    network: nn.Module,
    tiles: TileSet,
    norm: backbones.Normalisation,
    *,
    input_px: int | None = None,
    device: str = "cpu",
    batch_size: int = 32,
    cache: bool = True,
    progress: Progress | None = None,
) -> Features:
    """(N, VIEWS, F) features of tiles, one for each of `views_of`; the first is the tile as it is.

    They are rounded to float16, cached or not, so that a run from the cache equals the one that filled it.
    """
    keep_large_buffers()
    place = torch.device(device)
    side = input_px or tiles.size_px
    frozen = backbones.feature_network(network)
    store = FeatureCache(cache_folder() / "features" / _signature(frozen, norm, tiles.sensor, side)) if cache else None
    ready: nn.Module | None = None
    at_once = batch_size
    found: list[npt.NDArray[np.float16]] = []
    for start, pictures in _batches(tiles, batch_size):
        digests = [hashlib.blake2b(picture.tobytes(), digest_size=16).digest() for picture in pictures]
        known = store.fetch(digests) if store else {}
        unknown = [k for k, digest in enumerate(digests) if digest not in known]
        if unknown:
            if ready is None:
                example = torch.zeros(2, len(tiles.bands), side, side)
                ready = backbones.place(backbones.fuse(frozen, example), place)
            run = partial(_features, ready, sensor=tiles.sensor, norm=norm, side=side, device=place)
            made, at_once = _in_memory(run, pictures[unknown], at_once, batch_size)
            known.update({digests[k]: made[row] for row, k in enumerate(unknown)})
            if store:
                store.keep([digests[k] for k in unknown], made)
        found.append(np.stack([known[digest] for digest in digests]))
        if progress:
            progress("features", min(len(tiles), start + batch_size), len(tiles))
    return np.concatenate(found).astype(np.float32)


def _batches(tiles: TileSet, size: int) -> Iterator[tuple[int, Picture]]:
    for start in range(0, len(tiles), size):
        yield start, tiles.read(np.arange(start, min(len(tiles), start + size)))


def _in_memory(
    run: Callable[[Picture], npt.NDArray[np.float16]], pictures: Picture, at_once: int, batch_size: int
) -> tuple[npt.NDArray[np.float16], int]:
    """Features of pictures, `at_once` together, and how many go together from here on: half a batch once memory ran out.

    Raises GeoclassError where memory does not suffice for that either.
    """
    try:
        parts = [run(pictures[start : start + at_once]) for start in range(0, len(pictures), at_once)]
        return np.concatenate(parts), at_once
    except torch.cuda.OutOfMemoryError as error:
        if at_once < batch_size or at_once == 1:
            raise GeoclassError(
                f"out of GPU memory at a batch of {at_once}; lower --input-size, or use --device cpu"
            ) from error
    torch.cuda.empty_cache()
    log.warning("out of GPU memory: going on with a batch of %d", at_once // 2)
    return _in_memory(run, pictures, at_once // 2, batch_size)


def _features(
    ready: nn.Module, pictures: Picture, *, sensor: Sensor, norm: backbones.Normalisation, side: int, device: torch.device,
) -> npt.NDArray[np.float16]:  # fmt: skip
    mean = torch.tensor(norm.mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(norm.std, device=device).view(1, -1, 1, 1)
    made = []
    for view in views_of(brightness_of(pictures, sensor, device)):
        x = (resampled(view.float(), side) - mean) / std
        made.append(ready(x.contiguous(memory_format=torch.channels_last)))
    assert len(made) == VIEWS
    return np.asarray(torch.stack(made, dim=1).float().cpu().numpy(), np.float16)


def _signature(frozen: nn.Module, norm: backbones.Normalisation, sensor: Sensor, side: int) -> str:
    """A digest of all that features depend on besides the tile."""
    digest = hashlib.blake2b(RECIPE, digest_size=12)
    # Networks of one set of weights may differ in what has none: activations, strides, padding.
    digest.update(repr((norm, sensor.scale, side, frozen)).encode())
    for name, tensor in frozen.state_dict().items():
        digest.update(name.encode())
        digest.update(
            tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        )
    return digest.hexdigest()
