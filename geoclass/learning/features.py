"""Features of a frozen backbone, kept on disk by tile and network, so that a second head trains in seconds."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from .. import backbones
from ..datasets.pictures import Picture
from ..datasets.tileset import TileSet
from ..files import cache_folder
from ..sensors import Sensor
from .frozen import FrozenNetwork, Halves

Progress = Callable[[str, int, int], None]
Features = npt.NDArray[np.float32]
Extractor = Callable[[Iterator[tuple[int, Picture]]], Iterator[tuple[int, Halves]]]
"""Numbered batches of pictures (n, bands, H, W) → their features (n, VIEWS, F), in any order; see `FrozenNetwork`."""

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


def extract_features(
    network: nn.Module,
    tiles: TileSet,
    norm: backbones.Normalisation,
    *,
    input_px: int | None = None,
    device: str = "cpu",
    batch_size: int = 32,
    cache: bool = True,
    extractor: Extractor | None = None,
    progress: Progress | None = None,
) -> Features:
    """(N, VIEWS, F) features of tiles, one for each of `views_of`; the first is the tile as it is.

    They are rounded to float16, cached or not, so that a run from the cache equals the one that filled it. What is not
    cached goes through `extractor`, by default a network of this process.
    """
    side = input_px or tiles.size_px
    frozen = backbones.feature_network(network)
    store = FeatureCache(cache_folder() / "features" / _signature(frozen, norm, tiles.sensor, side)) if cache else None
    digests: dict[int, list[bytes]] = {}
    found: dict[int, dict[int, Halves]] = {}
    done = 0

    def took(start: int, features: Mapping[int, Halves]) -> None:
        nonlocal done
        found[start].update(features)
        done += len(features)
        if progress and features:
            progress("features", done, len(tiles))

    def unknown() -> Iterator[tuple[int, Picture]]:
        for start, pictures in _batches(tiles, batch_size):
            digests[start] = [hashlib.blake2b(picture.tobytes(), digest_size=16).digest() for picture in pictures]
            known = store.fetch(digests[start]) if store else {}
            found[start] = {}
            took(start, {k: known[digest] for k, digest in enumerate(digests[start]) if digest in known})
            if len(found[start]) < len(pictures):
                yield start, pictures[_missing(found[start], len(pictures))]

    extract = extractor or _here(frozen, norm, tiles.sensor, side, torch.device(device), batch_size)
    for start, made in extract(unknown()):
        at = _missing(found[start], len(digests[start]))
        if store:
            store.keep([digests[start][k] for k in at], made)
        took(start, dict(zip(at, made, strict=True)))
    return np.stack([found[start][k] for start in sorted(found) for k in sorted(found[start])]).astype(np.float32)


def _missing(found: Mapping[int, Halves], count: int) -> list[int]:
    return [k for k in range(count) if k not in found]


def _batches(tiles: TileSet, size: int) -> Iterator[tuple[int, Picture]]:
    for start in range(0, len(tiles), size):
        yield start, tiles.read(np.arange(start, min(len(tiles), start + size)))


def _here(
    frozen: nn.Module, norm: backbones.Normalisation, sensor: Sensor, side: int, device: torch.device, batch_size: int
) -> Extractor:
    """The extractor of this process, which makes the network ready when the first tile needs it."""

    def extract(batches: Iterator[tuple[int, Picture]]) -> Iterator[tuple[int, Halves]]:
        ready = None
        for start, pictures in batches:
            ready = ready or FrozenNetwork(frozen, norm, sensor, side=side, device=device, batch_size=batch_size)
            yield start, ready(pictures)

    return extract


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
