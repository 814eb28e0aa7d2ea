"""The per-tile result table: where each tile is, its class probabilities, and how much of it had data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd

from .grid import IntArray, TileGrid, TileRange, bounding_range
from .schemes import ClassScheme

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

GDF_COLUMNS = ("tile_id", "column", "row", "class_id", "class", "confidence", "valid_fraction")
SMOOTHING_KEY = "smoothing"
"""Where `info` says in words how labels were smoothed."""


@dataclass(frozen=True)
class Labels:
    """N classified tiles of one date, sorted from the north-west, line by line.

    columns, rows: (N,) tile positions on `grid`; probabilities: (N, K) in the scheme's order, rows sum to 1;
    valid_fraction: (N,) share of pixels with data; thumbnails: (N, k, k, 3) small pictures in 0–255, or None.
    `info` holds plain values that travel with the outputs (date, inputs, bundle, options). raw: (N, K) the model's own
    probabilities where `probabilities` are smoothed ones, else None.
    """

    grid: TileGrid
    scheme: ClassScheme
    columns: IntArray
    rows: IntArray
    probabilities: FloatArray
    valid_fraction: FloatArray
    thumbnails: ByteArray | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    raw: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def class_index(self) -> npt.NDArray[np.intp]:
        """(N,) position in the scheme of the most probable class; ties go to the earlier class."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @property
    def class_ids(self) -> ByteArray:
        """(N,) the scheme's id of the most probable class."""
        return np.asarray(self.scheme.ids, np.uint8)[self.class_index]

    @property
    def confidence(self) -> FloatArray:
        """(N,) the probability of the most probable class."""
        return np.asarray(self.probabilities.max(axis=1))

    @property
    def evidence(self) -> FloatArray:
        """(N, K) the model's own probabilities, smoothed or not: what each tile's picture says by itself."""
        return self.probabilities if self.raw is None else self.raw

    def unsmoothed(self) -> Labels:
        """These labels as the model gave them."""
        if self.raw is None:
            return self
        info = {key: value for key, value in self.info.items() if key != SMOOTHING_KEY}
        return replace(self, probabilities=self.raw, raw=None, info=info)

    def part(self, at: slice) -> Labels:
        """Some of these labels, as views of the same arrays."""
        return replace(
            self,
            columns=self.columns[at],
            rows=self.rows[at],
            probabilities=self.probabilities[at],
            valid_fraction=self.valid_fraction[at],
            thumbnails=None if self.thumbnails is None else self.thumbnails[at],
            raw=None if self.raw is None else self.raw[at],
        )

    @property
    def tile_ids(self) -> list[str]:
        return self.grid.tile_ids(self.columns, self.rows)

    @property
    def range(self) -> TileRange:
        """The smallest range of tiles that holds all of these."""
        return bounding_range(self.columns, self.rows)

    def to_gdf(self) -> gpd.GeoDataFrame:
        """One row a tile, in the grid's CRS: the columns of layer `landcover`, `p_<class>` for each class, polygon.

        Smoothed labels have `raw_class` and `raw_p_<class>` as well, which the model gave.
        """
        names = np.asarray(self.scheme.names, dtype=object)
        frame = pd.DataFrame(
            {
                "tile_id": self.tile_ids,
                "column": self.columns,
                "row": self.rows,
                "class_id": self.class_ids.astype(np.int32),
                "class": names[self.class_index],
                **({} if self.raw is None else {"raw_class": names[self.raw.argmax(axis=1)]}),
                "confidence": self.confidence,
                **self._named("p_", self.probabilities),
                **({} if self.raw is None else self._named("raw_p_", self.raw)),
                "valid_fraction": self.valid_fraction,
            }
        )
        return gpd.GeoDataFrame(frame, geometry=self.grid.polygons(self.columns, self.rows), crs=self.grid.crs)

    def _named(self, start: str, table: FloatArray) -> dict[str, FloatArray]:
        return {f"{start}{name}": table[:, k] for k, name in enumerate(self.scheme.names)}

    def image(self, values: npt.NDArray[Any], fill: float = 0) -> npt.NDArray[Any]:
        """Per-tile `values` (N, …) laid out as an image (rows, columns, …) over `range`, north up, else `fill`."""
        tiles = self.range
        canvas = np.full((tiles.rows, tiles.columns, *values.shape[1:]), fill, dtype=values.dtype)
        canvas[tiles.top - 1 - self.rows, self.columns - tiles.left] = values
        return canvas

    def areas_m2(self) -> dict[str, float]:
        """Mapped area of each class: its tiles' area, less the share without data. A pixel count, not an estimate."""
        weight = self.valid_fraction.astype(np.float64) * self.grid.tile_area_m2
        total = np.bincount(self.class_index, weights=weight, minlength=len(self.scheme))
        return {name: float(area) for name, area in zip(self.scheme.names, total, strict=True)}
