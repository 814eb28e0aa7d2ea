"""Look-alikes: planted copies are found, distinct tiles are not called alike, and the search is complete."""

import io
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image

from geoclass.datasets.duplicates import (
    CONTRAST_SHARE,
    LEAST_DIFFERENCE,
    Prints,
    alike_pairs,
    dhashes,
    drop_look_alikes,
    leaks,
    look_alikes,
    prints_of,
    thumbnail,
)
from geoclass.errors import DatasetError


def ground(seed: int, side: int = 240) -> np.ndarray:
    """(side, side, 3) a textured picture of fields and speckle, different for each seed."""
    rng = np.random.default_rng(seed)
    rough = Image.fromarray(rng.integers(40, 200, (9, 9, 3), dtype=np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    return np.clip(np.asarray(rough, int) + rng.normal(0, 12, (side, side, 1)), 0, 255).astype(np.uint8)


def recompressed(picture: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def thumbnails(pictures) -> np.ndarray:
    return np.array([thumbnail(picture) for picture in pictures])


def test_hash_is_imagehash_dhash():
    picture = ground(3)
    bits = imagehash.dhash(Image.fromarray(picture), 16).hash.ravel()
    found = dhashes([picture])
    assert found.shape == (1, 4) and found.dtype == np.uint64
    assert "".join(f"{int(word):064b}" for word in found[0]) == "".join("1" if bit else "0" for bit in bits)
    assert dhashes([]).shape == (0, 4)


def test_planted_copies_are_found_and_nothing_else():
    wide = [ground(seed) for seed in range(40)]
    tiles = [picture[8:232, 8:232] for picture in wide]
    copies = [
        tiles[0].copy(),
        recompressed(tiles[1], 50),
        recompressed(tiles[2], 85),
        wide[3][8:232, 9:233],
        wide[4][9:233, 8:232],
    ]
    pictures = tiles + copies + [recompressed(copies[0], 75)]
    hashes, small = dhashes(pictures), thumbnails(pictures)
    groups = look_alikes(hashes, small)
    expected = np.array([*range(40), 0, 1, 2, 3, 4, 0])
    assert (groups == expected).all()
    assert np.flatnonzero(~drop_look_alikes(groups)).tolist() == [40, 41, 42, 43, 44, 45]
    prints = prints_of(pictures)
    pairs = leaks(part(prints, 0, 40), part(prints, 40, 46))
    assert pairs.tolist() == [[0, 0], [0, 5], [1, 1], [2, 2], [3, 3], [4, 4]]
    assert len(leaks(part(prints, 0, 20), part(prints, 20, 40))) == 0


def test_flat_tiles_hash_alike_but_are_told_apart_by_their_colour():
    def flat(colour):
        return np.full((224, 224, 3), colour, np.uint8)

    pictures = [flat((20, 60, 90)), flat((20, 66, 100)), flat((90, 90, 90)), recompressed(flat((20, 60, 90)), 60)]
    hashes = dhashes(pictures)
    assert (hashes == hashes[0]).all()
    assert look_alikes(hashes, thumbnails(pictures)).tolist() == [0, 1, 2, 0]
    prints = prints_of(pictures)
    assert leaks(part(prints, 0, 3), part(prints, 3, 4)).tolist() == [[0, 0]]


def test_search_is_complete():
    """The same pairs as by comparing every tile with every other, on hashes and thumbnails with many near ones."""
    rng = np.random.default_rng(1)
    bits = np.repeat(rng.random((150, 256)) < 0.5, 20, axis=0)
    bits ^= rng.random(bits.shape) < rng.choice([0.02, 0.1, 0.16], (len(bits), 1))
    hashes = np.packbits(bits, axis=1).view(">u8").astype(np.uint64)
    small = np.repeat(rng.integers(0, 200, (150, 1, 1, 3)) + rng.integers(0, 55, (150, 16, 16, 1)), 20, axis=0)
    small = np.clip(small + rng.integers(-12, 13, (3000, 1, 1, 1)), 0, 255).astype(np.uint8)
    shuffle = rng.permutation(3000)
    bits, hashes, small = bits[shuffle], hashes[shuffle], small[shuffle]
    contrast = small.std(axis=(1, 2), dtype=np.float32).mean(axis=1)
    expected = []
    for one in range(3000):
        distance = (bits[one] ^ bits[one + 1 :]).sum(axis=1)
        other = one + 1 + np.flatnonzero(distance <= 72)
        difference = np.abs(small[one].astype(int) - small[other]).mean(axis=(1, 2, 3))
        most = np.maximum(LEAST_DIFFERENCE, CONTRAST_SHARE * np.minimum(contrast[one], contrast[other]))
        expected += [(one, int(k)) for k in other[difference <= most]]
    found = alike_pairs(hashes, small)
    assert 1000 < len(expected) < 28_000
    assert [tuple(pair) for pair in found.tolist()] == expected


def test_groups_are_chains_and_order_decides_who_stays():
    bits = np.zeros((4, 256), bool)
    bits[:, ::2] = True
    bits[1, :60] ^= True
    bits[2, :120] ^= True  # 60 from its neighbour, 120 from the first: alike through the one between
    bits[3] = ~bits[0]
    hashes = np.packbits(bits, axis=1).view(">u8").astype(np.uint64)
    small = np.broadcast_to(thumbnail(ground(0)), (4, 16, 16, 3))
    assert look_alikes(hashes, small).tolist() == [0, 0, 0, 1]
    assert look_alikes(hashes[[3, 0, 2, 1]], small).tolist() == [0, 1, 1, 1]
    assert look_alikes(hashes[:0], small[:0]).tolist() == []


def test_real_tiles(test_data: Path):
    """RSSCN7 has four pairs that show the same ground, all else is distinct; copies of every seventh tile are found."""
    files = sorted((test_data / "rsscn7_224").glob("*/*.jpg"))
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in files]
    hashes, small = dhashes(pictures), thumbnails(pictures)
    alike = [(files[a].stem, files[b].stem) for a, b in alike_pairs(hashes, small)]
    assert alike == [("a243", "a257"), ("a244", "a258"), ("a303", "a400"), ("g214", "g224")]
    planted = [recompressed(picture, 60) for picture in pictures[::7]]
    shifted = [np.roll(picture, 1, axis=1) for picture in pictures[::7]]
    for copies in (planted, shifted):
        pairs = leaks(prints_of(pictures), prints_of(copies))
        assert pairs.tolist() == [[7 * n, n] for n in range(len(copies))]


def part(prints: Prints, start: int, end: int) -> Prints:
    return Prints(prints.hashes[start:end], prints.thumbnails[start:end])


def test_packing():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, (50, 4), dtype=np.uint64)
    prints = Prints(hashes, rng.integers(0, 256, (50, 4, 4, 3)).astype(np.uint8))
    text = prints.packed()
    assert len(text) == -(-50 * 80 // 3) * 4 and text.isascii()
    back = Prints.unpacked(text)
    assert (back.hashes == hashes).all() and back.hashes.dtype == np.uint64
    assert (back.thumbnails == prints.thumbnails).all()
    assert part(prints, 0, 0).packed() == "" and len(Prints.unpacked("")) == 0
    for bad in ("?", text[:-8], "é"):
        with pytest.raises(DatasetError, match="train the model again"):
            Prints.unpacked(bad)
