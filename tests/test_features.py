"""Features of a frozen backbone: right, the same from the cache, and none computed twice."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TEXTURE_PX as SIZE_PX
from conftest import write_textures

from geoclass import backbones
from geoclass.datasets.tileset import TileSet, read_class_folders
from geoclass.errors import GeoclassError
from geoclass.files import cache_folder
from geoclass.learning import features
from geoclass.learning.features import FeatureCache, extract_features
from geoclass.learning.frozen import FrozenNetwork
from geoclass.runtimes.shrinking import resampled
from geoclass.views import VIEWS, views_of

torch.set_num_threads(1)
NORM = backbones.normalisation("efficientnet_lite0")


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return backbones.build("efficientnet_lite0", classes=3)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return read_class_folders(write_textures(tmp_path_factory.mktemp("tiles") / "t", 2), SIZE_PX)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GEOCLASS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """How many pictures each computation was given."""
    seen: list[int] = []
    real = FrozenNetwork._features

    def counting(ready, pictures):
        seen.append(len(pictures))
        return real(ready, pictures)

    monkeypatch.setattr(FrozenNetwork, "_features", counting)
    return seen


def stored(cache: Path) -> list[Path]:
    return sorted(cache.glob("features/*/*.npz"))


def test_each_view_has_its_own_features(network, tiles):
    """An unfused network given each view by itself must say the same, whatever the batches."""
    seen: list[tuple[str, int, int]] = []
    found = extract_features(network, tiles, NORM, batch_size=4, cache=False, progress=lambda *step: seen.append(step))
    assert found.shape == (6, VIEWS, 1280) and found.dtype == np.float32
    plain = backbones.feature_network(network)
    brightness = torch.from_numpy(tiles.read(np.arange(6))).float()
    for k, view in enumerate(views_of(brightness)):
        with torch.inference_mode():
            wanted = plain((view.float() - 127) / 128).numpy()
        assert np.allclose(found[:, k], wanted, atol=2e-3 + 1e-3 * np.abs(wanted).max())
    assert seen == [("features", 4, 6), ("features", 6, 6)]


def test_another_input_side(network, tiles):
    found = extract_features(network, tiles, NORM, input_px=32, cache=False)
    plain = backbones.feature_network(network)
    small = resampled(torch.from_numpy(tiles.read(np.arange(6))).float(), 32)
    with torch.inference_mode():
        assert np.allclose(found[:, 0], plain((small - 127) / 128).numpy(), atol=5e-3)


class TestCache:
    def test_the_same_with_and_without(self, network, tiles, cache, passes):
        filling = extract_features(network, tiles, NORM, batch_size=4)
        assert passes == [4, 2]
        again = extract_features(network, tiles, NORM, batch_size=5)
        assert passes == [4, 2]  # nothing was computed
        without = extract_features(network, tiles, NORM, batch_size=4, cache=False)
        assert np.array_equal(filling, again) and np.array_equal(filling, without)
        assert len(stored(cache)) == 2 and not list(cache.rglob("*.part"))

    def test_only_new_tiles_are_computed(self, network, tiles, cache, passes):
        extract_features(network, tiles.take(np.array([0, 1, 4])), NORM)
        whole = extract_features(network, tiles, NORM)
        assert passes == [3, 3]
        turned = extract_features(network, tiles.take(np.arange(6)[::-1]), NORM)
        assert np.array_equal(turned, whole[::-1]) and passes == [3, 3]

    def test_anything_that_changes_features_is_another_entry(self, network, tiles, cache, passes):
        other = backbones.build("efficientnet_lite0", classes=3)
        with torch.no_grad():
            next(other.parameters()).view(-1)[0] += 1
        brighter = tiles.sensor.model_copy(update={"scale": tiles.sensor.scale.model_copy(update={"high": 200.0})})
        first = extract_features(network, tiles, NORM)
        variants = [
            extract_features(other, tiles, NORM),
            extract_features(network, tiles, replace(NORM, std=(64.0,) * 3)),
            extract_features(network, tiles, NORM, input_px=32),
            extract_features(network, replace(tiles, sensor=brighter), NORM),
        ]
        assert len(passes) == 5
        assert all(not np.array_equal(first, variant) for variant in variants)
        relu = backbones.build("efficientnet_lite0", classes=3)
        for module in relu.modules():
            if isinstance(getattr(module, "act", None), torch.nn.ReLU6):
                module.act = torch.nn.ReLU()  # no tensor tells it
        assert not np.array_equal(first, extract_features(relu, tiles, NORM)) and len(passes) == 6
        headed = backbones.build("efficientnet_lite0", classes=7)
        assert np.array_equal(first, extract_features(headed, tiles, NORM)) and len(passes) == 6  # not the classifier

    def test_damage_is_survived_and_mended(self, network, tiles, cache, passes):
        """Cut anywhere, overwritten anywhere, emptied, or no archive at all: the tiles are computed again, no more."""
        wanted = extract_features(network, tiles, NORM)
        (path,) = stored(cache)
        whole = path.read_bytes()
        rng = np.random.default_rng(0)
        flipped = bytearray(whole)
        for at in rng.integers(0, len(whole), 20):
            flipped[at] ^= 0xFF
        header = bytearray(whole)
        header[40:90] = b"\x00" * 50
        np.savez(cache / "other.npz", digests=np.zeros((2, 16), np.uint8), features=np.zeros((1, 8, 3), np.float16))
        spoilt = [whole[:-30], whole[:100], b"", b"PK\x03\x04", b"text", bytes(flipped), bytes(header)]
        for broken in (*spoilt, (cache / "other.npz").read_bytes()):
            path.unlink(missing_ok=True)
            path.write_bytes(broken)
            passes.clear()
            assert np.array_equal(extract_features(network, tiles, NORM), wanted)
            assert sum(passes) in (0, 6)
            for item in stored(cache):
                item.unlink()

    def test_a_file_damaged_while_it_is_in_use(self, network, tiles, cache, passes):
        wanted = extract_features(network, tiles, NORM)
        (path,) = stored(cache)
        store = FeatureCache(path.parent)
        digests = list(store.where)
        path.write_bytes(path.read_bytes()[:2000])
        assert store.fetch(digests) == {}
        assert np.array_equal(extract_features(network, tiles, NORM), wanted) and passes == [6, 6]

    def test_a_cache_that_cannot_be_written(self, network, tiles, tmp_path, monkeypatch, caplog):
        (tmp_path / "file").write_text("no folder")
        monkeypatch.setenv("GEOCLASS_CACHE", str(tmp_path / "file"))
        assert extract_features(network, tiles, NORM).shape == (6, VIEWS, 1280)
        assert "features are not kept" in caplog.text

    def test_the_oldest_files_go_first_when_it_is_full(self, network, tiles, cache, monkeypatch):
        extract_features(network, tiles, NORM, batch_size=2)
        old = stored(cache)
        for age, path in enumerate(old):
            os.utime(path, (1e9 + age, 1e9 + age))
        monkeypatch.setattr(features, "MOST_CACHED_BYTES", int(2.5 * old[0].stat().st_size))
        FeatureCache(old[0].parent).keep([b"0" * 16, b"1" * 16], np.zeros((2, 8, 1280), np.float16))
        left = stored(cache)
        assert len(left) == 2 and [path for path in old if path in left] == [old[-1]]

    def test_where_it_is(self, monkeypatch, tmp_path):
        monkeypatch.delenv("GEOCLASS_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache_folder() == tmp_path / "geoclass"


class TestMemory:
    @staticmethod
    def failing(monkeypatch, above: int) -> list[int]:
        """A GPU that cannot hold more than `above` pictures at once."""
        tried: list[int] = []
        real = FrozenNetwork._features

        def limited(ready, pictures):
            tried.append(len(pictures))
            if len(pictures) > above:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return real(ready, pictures)

        monkeypatch.setattr(FrozenNetwork, "_features", limited)
        return tried

    def test_the_batch_is_halved_once_and_said(self, network, tiles, monkeypatch, caplog):
        wanted = extract_features(network, tiles, NORM, cache=False)
        tried = self.failing(monkeypatch, above=2)
        found = extract_features(network, tiles, NORM, batch_size=4, cache=False)
        assert np.allclose(found, wanted, atol=1e-2) and tried == [4, 2, 2, 2]
        assert caplog.text.count("going on with a batch of 2") == 1

    @pytest.mark.parametrize(("batch", "said"), [(4, 2), (1, 1)])
    def test_not_twice(self, network, tiles, monkeypatch, batch, said):
        self.failing(monkeypatch, above=0)
        with pytest.raises(GeoclassError, match=f"out of GPU memory at a batch of {said}; lower --input-size"):
            extract_features(network, tiles, NORM, batch_size=batch, cache=False)
