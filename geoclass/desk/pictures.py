"""Pictures of tiles for the page: with the ground around them where the scenes, or the neighbouring tiles, are
there."""

from __future__ import annotations

import io
import threading
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ..changes.chips import View, read_tiles, view_of
from ..datasets.images import shown
from ..errors import GeoclassError
from ..labels import ByteArray
from .tiles import Tiles

AROUND = 0.5
"""Ground shown on each side of a tile, as a share of its side."""
SIDE_PX = 512
KEPT = 256
EMPTY = 196
"""Grey of ground that is not there."""
QUALITY = 88


class Pictures:
    """JPEG pictures of the tiles of a desk, the last few hundred kept."""

    def __init__(self, tiles: Tiles) -> None:
        self.tiles = tiles
        self._lock = threading.Lock()
        self._views: dict[str, View | None] = {}
        self._at: dict[tuple[str, int, int], int] = {}
        if tiles.columns is not None and tiles.rows is not None:
            places = zip(tiles.columns.tolist(), tiles.rows.tolist(), strict=True)
            self._at = {(self._scene(k), *place): k for k, place in enumerate(places)}
        self._made = lru_cache(KEPT)(self._make)

    def __call__(self, position: int) -> tuple[bytes, float]:
        """A JPEG of a tile, and the share of the picture's side that lies around the tile on each side (0: the tile
        alone).

        Raises GeoclassError where its file is gone.
        """
        return self._made(position)

    def edge(self, position: int) -> float:
        """That share, without making the picture."""
        return AROUND / (1 + 2 * AROUND) if self._view(position) or self._neighbours(position) else 0.0

    def _scene(self, position: int) -> str:
        scenes = self.tiles.pictures.scenes
        return scenes[position] if scenes else ""

    def _make(self, position: int) -> tuple[bytes, float]:
        edge = self.edge(position)
        picture = self._in_scene(position)
        if picture is None:
            picture = self._among_neighbours(position) if edge else self._alone(position)
        image = Image.fromarray(np.ascontiguousarray(picture))
        if image.width > SIDE_PX:
            image = image.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=QUALITY)
        return stream.getvalue(), edge

    def _alone(self, position: int) -> ByteArray:
        pictures = self.tiles.pictures
        return shown(pictures.read([position])[0], pictures.sensor, pictures.bands)

    # ---- surroundings

    def _view(self, position: int) -> View | None:
        """The scene that a tile was cut from, where the dataset names it and its files are still there."""
        data, grid = self.tiles.dataset, self.tiles.grid
        if data is None or grid is None:
            return None
        name = self._scene(position)
        with self._lock:
            if name not in self._views:
                record = next((one for one in data.meta.sources if one.name == name), None)
                self._views[name] = None
                if record is not None and record.files and all(Path(file).is_file() for file in record.files):
                    with suppress(GeoclassError):  # files that are no imagery any more: neighbours are shown instead
                        self._views[name] = view_of(record.date or name, list(record.files), data.meta.sensor)
            return self._views[name]

    def _in_scene(self, position: int) -> ByteArray | None:
        view = self._view(position)
        grid, columns, rows = self.tiles.grid, self.tiles.columns, self.tiles.rows
        if view is None or grid is None or columns is None or rows is None:
            return None
        at = slice(position, position + 1)
        try:
            found = list(read_tiles(grid, columns[at], rows[at], view, size_px=SIDE_PX, context=AROUND))
        except GeoclassError:
            return None
        return found[0][1] if found else None

    def _neighbours(self, position: int) -> dict[tuple[int, int], int]:
        """(columns east, rows south) → position, of the tiles around this one in the same scene."""
        columns, rows = self.tiles.columns, self.tiles.rows
        if columns is None or rows is None:
            return {}
        column, row, scene = int(columns[position]), int(rows[position]), self._scene(position)
        steps = [(east, south) for east in (-1, 0, 1) for south in (-1, 0, 1) if (east, south) != (0, 0)]
        places = {step: self._at.get((scene, column + step[0], row - step[1])) for step in steps}
        return {step: place for step, place in places.items() if place is not None}

    def _among_neighbours(self, position: int) -> ByteArray:
        side = self.tiles.pictures.size_px
        around = round(side * AROUND)
        canvas = np.full((3 * side, 3 * side, 3), EMPTY, np.uint8)
        for (east, south), place in {(0, 0): position, **self._neighbours(position)}.items():
            top, left = (south + 1) * side, (east + 1) * side
            canvas[top : top + side, left : left + side] = self._alone(place)
        return canvas[side - around : 2 * side + around, side - around : 2 * side + around]
