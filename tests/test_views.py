"""Renderings and random changes of tiles: they must show the same ground."""

import math

import numpy as np
import pytest
import torch
from conftest import TEXTURES, texture

from geoclass.learning.augment import AUGMENTATIONS, augmented
from geoclass.views import COPIED, TURNS, VIEWS, as_jpeg, dihedral, moved, reshaped, views_of

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiles() -> torch.Tensor:
    rng = np.random.default_rng(1)
    stacked = np.stack([texture(kind, rng) for kind in TEXTURES])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def turns_of(tile: torch.Tensor) -> list[torch.Tensor]:
    """The eight elements of the dihedral group by NumPy, on a tile (C, H, W)."""
    array = tile.numpy()
    turned = [np.rot90(array, k, (1, 2)) for k in range(4)]
    return [torch.from_numpy(np.ascontiguousarray(item)) for item in (*turned, *(item[:, :, ::-1] for item in turned))]


class TestViews:
    def test_they_show_the_same_ground(self, tiles):
        views = views_of(tiles)
        assert len(views) == VIEWS
        for turn in range(TURNS):
            assert torch.equal(views[turn], torch.rot90(tiles, turn, (2, 3)))
        for view in views:
            assert view.shape == tiles.shape
            assert float(view.min()) >= 0 and float(view.max()) <= 255
            assert view.float().mean((2, 3)).numpy() == pytest.approx(tiles.mean((2, 3)).numpy(), abs=4)

    def test_a_copy_is_nearest_to_the_turn_that_it_is_a_copy_of(self, tiles):
        views = torch.stack([view.float() for view in views_of(tiles)])
        for copy, turn in zip(views[TURNS:], COPIED, strict=True):
            apart = (views[:TURNS] - copy).abs().mean((1, 2, 3, 4))
            assert int(apart.argmin()) == turn

    def test_the_tiles_given_are_left_as_they_are(self, tiles):
        before = tiles.clone()
        views_of(tiles)
        for kind in AUGMENTATIONS:
            augmented(tiles, kind, generator())
        assert torch.equal(tiles, before)

    @pytest.mark.parametrize("bands", [1, 2, 4, 6])
    def test_any_number_of_bands(self, bands):
        """Bands stay apart: what one holds does not show in another."""
        tile = torch.zeros(2, bands, 16, 16)
        tile[:, 0] = 200
        for view in views_of(tile):
            assert view.shape == tile.shape
            assert view[:, 0].float().mean() == pytest.approx(200, abs=1)
            assert float(view[:, 1:].float().max()) <= 1 if bands > 1 else True

    def test_moved_by_half_a_pixel(self):
        ramp = torch.arange(8.0).expand(1, 1, 8, 8)
        assert torch.equal(moved(ramp)[..., :-1], (ramp + 0.5)[..., :-1])

    def test_reshaping_keeps_a_ramp(self):
        ramp = torch.arange(64.0).expand(1, 1, 64, 64)
        inner = (reshaped(ramp) - ramp)[..., 4:-4]
        assert float(inner.abs().max()) < 0.51

    def test_jpeg_of_real_quality(self, tiles):
        """Lower quality loses more; the quality of views loses a little."""
        losses = [float((as_jpeg(tiles, quality).float() - tiles).abs().mean()) for quality in (95, 75, 20)]
        assert losses == sorted(losses) and 0 < losses[0] < losses[2]
        assert as_jpeg(tiles).dtype == torch.uint8

    def test_the_dihedral_group_whole_and_in_part(self, tiles):
        views = dihedral(tiles, 8)
        assert torch.equal(views[0], tiles)
        noise = TEXTURES.index("noise")  # the others are symmetric
        for wanted in turns_of(tiles[noise]):
            assert sum(torch.equal(wanted, view[noise]) for view in views) == 1
        for count in range(1, 9):
            assert all(torch.equal(a, b) for a, b in zip(dihedral(tiles, count), views[:count], strict=True))


class TestAugmentation:
    def test_turns_are_exact_and_all_eight_come(self, tiles):
        one = tiles[1:2].expand(400, -1, -1, -1)
        made = augmented(one, "turns", generator(1))
        wanted = turns_of(tiles[1])
        counts = [sum(torch.equal(tile, item) for tile in made) for item in wanted]
        assert sum(counts) == 400
        assert min(counts) > 25  # 50 expected; five standard deviations are 33

    def test_nothing(self, tiles):
        assert torch.equal(augmented(tiles, "none", generator()), tiles)

    @pytest.mark.parametrize("kind", AUGMENTATIONS)
    @pytest.mark.parametrize("bands", [1, 3, 4])
    def test_shape_range_and_seed(self, kind, bands):
        given = 255 * torch.rand(33, bands, 20, 20, generator=generator(3))
        made = augmented(given, kind, generator(4))
        assert made.shape == given.shape and made.dtype == given.dtype and bool(made.isfinite().all())
        assert float(made.min()) >= 0 and float(made.max()) <= 255
        assert torch.equal(made, augmented(given, kind, generator(4)))
        if kind != "none":
            assert not torch.equal(made, augmented(given, kind, generator(5)))

    def test_light_changes_as_documented(self):
        """A flat tile of 128 stays flat; its level lies within what gain, gamma and haze allow."""
        made = augmented(torch.full((500, 3, 12, 12), 128.0), "sensor", generator(6))
        assert float(made.std(dim=(2, 3)).max()) < 1.5  # JPEG alone may ripple a level
        levels = made.mean(dim=(2, 3))
        base = [255 * (128 / 255) ** gamma * gain for gamma in (0.75, 1.25) for gain in (0.85, 1.15)]
        allowed = (min(base) - 2, max(0.8 * max(base) + 0.2 * 220, max(base)) + 2)
        assert allowed[0] <= float(levels.min()) < 110 and 150 < float(levels.max()) <= allowed[1]
        assert float((levels[:, 0] - levels[:, 2]).abs().max()) > 10  # a gain a band

    def test_black_and_white_stay_numbers(self):
        for level in (0.0, 255.0):
            made = augmented(torch.full((64, 3, 9, 9), level), "overhead", generator(7))
            assert bool(made.isfinite().all())

    def test_overhead_is_a_turn_a_zoom_and_a_small_move(self):
        """A bright spot north of the centre appears in all four quarters, at a distance within the zoom's range."""
        spot = torch.zeros(300, 1, 65, 65)
        spot[:, :, 32 - 16 - 1 : 32 - 16 + 2, 31:34] = 255
        made = augmented(spot, "overhead", generator(8))[:, 0]
        made = (made - made.amin(dim=(1, 2), keepdim=True) > 60).float()
        lines, columns = torch.meshgrid(torch.arange(65.0), torch.arange(65.0), indexing="ij")
        weight = made.sum(dim=(1, 2))
        assert bool((weight > 0).all())
        x, y = ((made * axis).sum(dim=(1, 2)) / weight - 32 for axis in (columns, lines))
        distance = torch.hypot(x, y)
        assert float(distance.min()) > 16 / 1.25 - 2 and float(distance.max()) < 16 * 1.25 + 2
        quarter = torch.round(torch.atan2(y, x) / (math.pi / 2)) % 4
        assert torch.bincount(quarter.long(), minlength=4).min() > 45
