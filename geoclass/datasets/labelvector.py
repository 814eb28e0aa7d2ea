"""Reference labels from polygons and points: exact area shares of every class in each tile, or shares of points.

Where polygons of different classes overlap, the one later in the file lies on top, as when they are drawn; ground that
polygons of one class cover twice counts once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pyogrio
import pyproj
import shapely

from ..errors import ConfigError, DatasetError
from ..grid import IntArray, TileGrid, TileRange, bounding_range
from ..schemes import ClassScheme, scheme_for_names
from .fractions import (
    UNLABELLED,
    Ignore,
    TileFractions,
    ignored,
    name_position,
    no_overlap,
    refuse_unknown,
    unanimous,
)

BLOCK_TILES = 16
MOST_NAMES = 60
"""A field with more values than this names things, not classes."""
Shapes = npt.NDArray[np.object_]
NOTHING = 1e-9
"""Share of a tile below which shared ground is rounding."""


@dataclass(frozen=True)
class LabelShapes:
    """Shapes in the grid's CRS, in the file's order, with the class position of each; `left_out`: share of them by name."""

    shapes: Shapes
    classes: IntArray
    left_out: dict[str, float]


def label_polygons(
    path: str | Path,
    grid: TileGrid,
    columns: IntArray,
    rows: IntArray,
    scheme: ClassScheme | None,
    class_field: str,
    *,
    layer: str | None = None,
    ignore: Ignore = (),
) -> tuple[ClassScheme, TileFractions]:
    """The scheme and each class's exact share of the area of the tiles at `columns`, `rows` (N,); labels in any CRS.

    `class_field` holds class names, or codes, of `scheme`; without one, a scheme is made from the names. Features with
    an empty class are passed over, invalid outlines are repaired. Raises DatasetError for a file that cannot be read or
    has no CRS, an unknown layer or field, names outside the scheme, and labels that miss the tiles.
    """
    frame = read_labels(path, grid, columns, rows, class_field, layer)
    scheme, labels = classified(path, frame, scheme, class_field, ignore)
    keep = shapely.area(labels.shapes) > 0
    shapes, classes = labels.shapes[keep], labels.classes[keep]
    shares = np.zeros((len(columns), len(scheme)))
    nine = np.full(len(columns), UNLABELLED, np.int64)
    place = {key: n for n, key in enumerate(zip(columns.tolist(), rows.tolist(), strict=True))}
    order = np.arange(len(shapes))
    for block, inside, numbers in _blocks(grid, bounding_range(columns, rows), shapes, order):
        wanted = [place[key] for key in _tiles_of(block) if key in place]
        if wanted:
            here = np.array(wanted, dtype=np.int64)
            squares = grid.polygons(columns[here], rows[here])
            shares[here] = _area_shares(squares, inside, classes[numbers], len(scheme), grid.side**2)
            nine[here] = _nine_points(grid, columns[here], rows[here], inside, classes[numbers], len(scheme))
    if not shares.any():
        raise no_overlap(path)
    shares = np.clip(shares, 0, 1)
    labelled = np.minimum(shares.sum(axis=1), 1)
    return scheme, TileFractions(shares.astype(np.float32), labelled.astype(np.float32), nine, ignored=labels.left_out)


def label_points(
    path: str | Path,
    grid: TileGrid,
    columns: IntArray,
    rows: IntArray,
    scheme: ClassScheme | None,
    class_field: str,
    *,
    layer: str | None = None,
    ignore: Ignore = (),
) -> tuple[ClassScheme, TileFractions]:
    """The scheme and each class's share of the points in the tiles at `columns`, `rows` (N,); labels in any CRS.

    `points` counts them; `labelled` is 1 where there is any, else 0, and the nine-points rule does not apply (-1).
    Points outside the tiles are passed over. Raises as `label_polygons` does.
    """
    frame = read_labels(path, grid, columns, rows, class_field, layer)
    scheme, labels = classified(path, frame, scheme, class_field, ignore)
    singles, owner = shapely.get_parts(labels.shapes, return_index=True)
    at = np.floor(shapely.get_coordinates(singles) / grid.side).astype(np.int64)
    place = {key: n for n, key in enumerate(zip(columns.tolist(), rows.tolist(), strict=True))}
    tile = np.array([place.get((x, y), -1) for x, y in at.tolist()], dtype=np.int64)
    inside = tile >= 0
    if not inside.any():
        raise no_overlap(path)
    counts = np.zeros((len(columns), len(scheme)), np.int64)
    np.add.at(counts, (tile[inside], labels.classes[owner[inside]]), 1)
    points = counts.sum(axis=1)
    fractions = (counts / np.maximum(points, 1)[:, None]).astype(np.float32)
    none = np.full(len(columns), UNLABELLED, np.int64)
    labelled = (points > 0).astype(np.float32)
    return scheme, TileFractions(fractions, labelled, none, points, ignored=labels.left_out)


def label_layers(path: str | Path) -> list[tuple[str, str]]:
    """(name, geometry type) of the layers with geometry in a vector file. Raises DatasetError where it is none."""
    if not str(path).startswith("/vsi") and not Path(path).exists():
        raise DatasetError(f"no such file: {path}; check the path given with --labels")
    try:
        layers = pyogrio.list_layers(path)
    except Exception as error:  # pyogrio and GDAL raise their own types for a damaged file
        raise DatasetError(
            f"{path} cannot be read as labels; give a raster of codes, or GeoJSON, GeoPackage or Shapefile ({_short(error)})"
        ) from error
    # layer_styles and the like have no geometry.
    return [(str(name), str(kind)) for name, kind in layers.tolist() if kind is not None]


def choose_layer(path: str | Path, layer: str | None) -> tuple[str, str]:
    """The (name, geometry type) of `layer`, or of the only one. Raises DatasetError where there is no such choice."""
    layers = label_layers(path)
    if not layers:
        raise DatasetError(f"{path} holds no layer with geometry; give polygons, points or a raster of codes")
    names = ", ".join(name for name, _ in layers)
    if layer is None and len(layers) > 1:
        raise DatasetError(f"{path} has several layers: {names}; choose one with --layer")
    chosen = [item for item in layers if layer in (None, item[0])]
    if not chosen:
        raise DatasetError(f"{path} has no layer {layer!r}; it has {names}")
    return chosen[0]


def read_labels(
    path: str | Path, grid: TileGrid, columns: IntArray, rows: IntArray, class_field: str, layer: str | None
) -> gpd.GeoDataFrame:
    """The features near the tiles, in the grid's CRS and in the file's order: `class_field`, and valid geometry."""
    name, _ = choose_layer(path, layer)
    try:
        about = pyogrio.read_info(path, layer=name)
        fields = [str(item) for item in about["fields"]]
        if class_field not in fields:
            raise DatasetError(
                f"{path} has no field {class_field!r}; name the one that holds the class with --class-field: "
                f"{', '.join(fields) or 'it has none'}"
            )
        if not about["crs"]:
            raise DatasetError(f"{path} has no CRS; set it in QGIS (Layer > Set CRS) and save it again")
        near = _bounds_in(grid, columns, rows, pyproj.CRS.from_user_input(about["crs"]))
        if near is None:
            raise no_overlap(path)
        frame = pyogrio.read_dataframe(path, layer=name, columns=[class_field], bbox=near)
    except DatasetError:
        raise
    except Exception as error:  # pyogrio, GDAL, GEOS and pyproj each raise their own types for a damaged file
        raise DatasetError(f"{path} cannot be read ({_short(error)}); open and save it again in QGIS") from error
    frame = frame[~(frame.geometry.isna() | frame.geometry.is_empty)]
    if frame.empty:
        raise no_overlap(path)
    shapes = shapely.make_valid(shapely.force_2d(frame.geometry.to_numpy()))
    moved = gpd.GeoDataFrame({class_field: frame[class_field].to_numpy()}, geometry=shapes, crs=frame.crs).to_crs(
        grid.crs
    )
    moved.geometry = shapely.make_valid(moved.geometry.to_numpy())
    finite = np.isfinite(moved.geometry.bounds.to_numpy()).all(axis=1)
    return moved[finite]


def _bounds_in(
    grid: TileGrid, columns: IntArray, rows: IntArray, crs: pyproj.CRS
) -> tuple[float, float, float, float] | None:
    """Bounds of the tiles in `crs`, a tenth of a tile wider, or None where they have no place in it."""
    over, side = bounding_range(columns, rows), grid.side
    left, bottom, right, top = (
        (over.left - 0.1) * side,
        (over.bottom - 0.1) * side,
        (over.right + 0.1) * side,
        (over.top + 0.1) * side,
    )
    move = pyproj.Transformer.from_crs(grid.crs, crs, always_xy=True)
    bounds = move.transform_bounds(left, bottom, right, top, densify_pts=21)
    if not np.isfinite(bounds).all():
        return None
    return bounds if bounds[0] <= bounds[2] else (-180.0, bounds[1], 180.0, bounds[3])  # over the antimeridian


def classified(
    path: str | Path, frame: gpd.GeoDataFrame, scheme: ClassScheme | None, class_field: str, ignore: Ignore
) -> tuple[ClassScheme, LabelShapes]:
    """The scheme, made from the names where None is given, and the shapes that have a class in it. Raises DatasetError."""
    names = np.array([_text(value) for value in frame[class_field].tolist()], dtype=object)
    known, counts = np.unique(names[names != ""].astype(str), return_counts=True)
    if scheme is None:
        scheme = _scheme_of([name for name in known.tolist() if not ignored(ignore, name)], path, class_field)
    position = {name: name_position(scheme, name) for name in known.tolist() if not ignored(ignore, name)}
    share = dict(zip(known.tolist(), (counts / max(1, counts.sum())).tolist(), strict=True))
    left_out = {name: share[name] for name in share if position.get(name) is None}
    refuse_unknown(path, scheme, left_out, f"values of {class_field!r}", ignore)
    of_shape = np.array(
        [position.get(name) if position.get(name) is not None else -1 for name in names], dtype=np.int64
    )
    kept = of_shape >= 0
    if not kept.any():
        raise DatasetError(
            f"{path} has no class in the field {class_field!r} near the tiles; name another --class-field"
        )
    return scheme, LabelShapes(frame.geometry.to_numpy()[kept], of_shape[kept], left_out)


def _scheme_of(names: list[str], path: str | Path, class_field: str) -> ClassScheme:
    if not 2 <= len(names) <= MOST_NAMES:
        found = f"only {names[0]!r}" if len(names) == 1 else f"{len(names)} different values"
        raise DatasetError(
            f"{path} has {found} in the field {class_field!r} near the tiles; name a field that holds 2 to {MOST_NAMES} "
            "classes, or the class scheme with --scheme"
        )
    try:
        scheme = scheme_for_names(names)
    except ConfigError as error:
        raise DatasetError(f"{path}, field {class_field!r}: {error}") from error
    return scheme.model_copy(update={"title": f"Classes named in {class_field}"}) if scheme.name == "custom" else scheme


def _text(value: object) -> str:
    """A field's value as a name; "" for an empty one, and whole numbers without a decimal point."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _blocks(
    grid: TileGrid, tiles: TileRange, shapes: Shapes, numbers: IntArray
) -> Iterator[tuple[TileRange, Shapes, IntArray]]:
    """Ranges of at most 16 × 16 tiles that have labels, with their shapes cut to them, so that large ones are cut few times."""
    side = grid.side
    box = shapely.box(tiles.left * side, tiles.bottom * side, tiles.right * side, tiles.top * side)
    near = np.flatnonzero(shapely.intersects(shapes, box))
    if not near.size:
        return
    cut = shapes[near].copy()
    reaching = ~shapely.covered_by(cut, box)
    cut[reaching] = shapely.intersection(cut[reaching], box)
    kept = shapely.area(cut) > 0
    cut, numbers = cut[kept], numbers[near][kept]
    if max(tiles.columns, tiles.rows) <= BLOCK_TILES:
        if len(cut):
            yield tiles, cut, numbers
        return
    for part in _quarters(tiles):
        yield from _blocks(grid, part, cut, numbers)


def _quarters(tiles: TileRange) -> list[TileRange]:
    x, y = (tiles.left + tiles.right) // 2, (tiles.bottom + tiles.top) // 2
    parts = [
        TileRange(tiles.left, tiles.bottom, x, y),
        TileRange(x, tiles.bottom, tiles.right, y),
        TileRange(tiles.left, y, x, tiles.top),
        TileRange(x, y, tiles.right, tiles.top),
    ]
    return [part for part in parts if len(part)]


def _tiles_of(tiles: TileRange) -> list[tuple[int, int]]:
    return [(column, row) for row in range(tiles.bottom, tiles.top) for column in range(tiles.left, tiles.right)]


def _area_shares(
    squares: Shapes, shapes: Shapes, classes: IntArray, count: int, area: float
) -> npt.NDArray[np.float64]:
    """(n, count) share of each square in each class; shapes are in the file's order, the last on top."""
    tile, shape = shapely.STRtree(shapes).query(squares, predicate="intersects")
    pieces: Any = shapely.intersection(squares[tile], shapes[shape])
    areas = shapely.area(pieces)
    crowded = _with_overlaps(tile, pieces, NOTHING * area)
    shares = np.zeros((len(squares), count))
    plain = ~np.isin(tile, crowded)
    np.add.at(shares, (tile[plain], classes[shape[plain]]), areas[plain])
    for one in crowded.tolist():
        members = np.flatnonzero(tile == one)
        covered: Any = shapely.Polygon()
        for member in members[np.argsort(-shape[members])]:
            shares[one, classes[shape[member]]] += shapely.area(shapely.difference(pieces[member], covered))
            covered = shapely.union(covered, pieces[member])
    return shares / area


def _with_overlaps(tile: IntArray, pieces: Shapes, least: float) -> IntArray:
    """The tiles in which two pieces share more than `least` of ground."""
    first, second = shapely.STRtree(pieces).query(pieces, predicate="intersects")
    pairs = (first < second) & (tile[first] == tile[second])
    first, second = first[pairs], second[pairs]
    shared = shapely.area(shapely.intersection(pieces[first], pieces[second])) > least
    return np.unique(tile[first[shared]])


def _nine_points(
    grid: TileGrid, columns: IntArray, rows: IntArray, shapes: Shapes, classes: IntArray, count: int
) -> IntArray:
    """(n,) the class that the topmost shapes at all nine points have, else -1."""
    steps = (np.arange(3) + 0.5) / 3
    x = (columns[:, None, None] + steps[None, None, :]) * grid.side + np.zeros((1, 3, 1))
    y = (rows[:, None, None] + steps[None, :, None]) * grid.side + np.zeros((1, 1, 3))
    point, shape = shapely.STRtree(shapes).query(shapely.points(x.ravel(), y.ravel()), predicate="intersects")
    top = np.full(x.size, -1, np.int64)
    np.maximum.at(top, point, shape)
    found = np.where(top >= 0, classes[top], UNLABELLED)
    return unanimous(found.reshape(-1, 9), count)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
