"""The dataset folder: labelled tiles on disk as `dataset.json`, the table `tiles.gpkg`, and `images/`."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import geopandas as gpd
import numpy as np
import pandas as pd
import pydantic
import pyogrio
import shapely

from ..configs import validate
from ..errors import DatasetError, OutputError
from ..files import replacing, require_absent, require_plain_name, require_writable, write_errors
from ..grid import parse_crs
from ..schemes import ClassScheme, class_position
from ..sensors import Sensor
from .tileset import TEST, TRAIN, VALIDATION, TileSet, read_class_folders

META, TABLE, IMAGES, LAYER = "dataset.json", "tiles.gpkg", "images", "tiles"
SPLITS = (TRAIN, VALIDATION, TEST)
SHARE = "f_"
"""What the columns with each class's share of a tile begin with."""
COLUMNS = ("key", "tile_id", "scene", "label", "class_id", "split", "purity", "labelled", "nine_points", "block", "image", "dhash")  # fmt: skip


class LabelRecord(pydantic.BaseModel, frozen=True, extra="forbid"):
    """Where the labels came from and the rule that made one class of many: `folders` for class folders."""

    source: str
    digest: str | None = None
    rule: str
    class_field: str | None = None
    layer: str | None = None
    min_purity: float | None = None


class SplitRecord(pydantic.BaseModel, frozen=True, extra="forbid"):
    """How tiles were parted: shares of train, validation and test, the block side, the range over which neighbours
    resemble each other (both in metres), and the values of a field or the scenes that test."""

    rule: str
    shares: tuple[float, float, float]
    seed: int
    block_m: float | None = None
    range_m: float | None = None
    field: str | None = None
    groups: Mapping[str, str] = {}
    note: str = ""


class SourceRecord(pydantic.BaseModel, frozen=True, extra="forbid"):
    """One scene: its date and the digest of every file of it."""

    name: str
    date: str | None = None
    files: Mapping[str, str] = {}


class DatasetMeta(pydantic.BaseModel, frozen=True, extra="forbid"):
    """All that is known of a dataset but its tiles. `left_out` counts tiles by the reason they were not taken."""

    format: Literal["geoclass-dataset"] = "geoclass-dataset"
    version: Literal[1] = 1
    name: str
    scheme: ClassScheme
    sensor: Sensor
    bands: tuple[str, ...] = pydantic.Field(min_length=1)
    size_px: int = pydantic.Field(ge=1, le=65_536)
    gsd_m: float | None = pydantic.Field(default=None, gt=0)
    crs: str | None = None
    labels: LabelRecord
    balance: str
    class_weights: tuple[float, ...] | None = None
    split: SplitRecord
    sources: tuple[SourceRecord, ...] = ()
    counts: Mapping[str, Mapping[str, int]] = {}
    left_out: Mapping[str, int] = {}
    corrected: int = 0
    resized: int = 0
    notes: tuple[str, ...] = ()
    created: str
    geoclass_version: str
    digest: str = ""


@dataclass(frozen=True)
class Dataset:
    """A dataset folder that was read: `table` has one row a tile, with the columns of layer `tiles`."""

    folder: Path
    meta: DatasetMeta
    table: gpd.GeoDataFrame

    def __len__(self) -> int:
        return len(self.table)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The picture of each tile."""
        return tuple(self.folder / name for name in self.table["image"])

    @property
    def digest(self) -> str:
        """A digest of which tiles there are, their labels and splits, as the table stands now."""
        return table_digest(self.table)


def is_dataset(folder: str | Path) -> bool:
    """Whether this folder says that it is a dataset."""
    return (Path(folder) / META).is_file()


# ---- reading


def read_dataset(folder: str | Path) -> Dataset:
    """Read a dataset folder. Labels and splits are those of the table as it is now, so edits in QGIS count.

    Raises DatasetError where it is none, is damaged, or names classes or splits that do not exist.
    """
    folder = Path(folder)
    if not is_dataset(folder):
        raise DatasetError(
            f"{folder} is no dataset (it has no {META}); make one with: geoclass dataset IMAGERY --labels FILE"
        )
    try:
        values = json.loads((folder / META).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{folder / META} is damaged ({error}); make the dataset again with --overwrite") from error
    meta = validate(DatasetMeta, values, str(folder / META))
    try:
        table = pyogrio.read_dataframe(folder / TABLE, layer=LAYER)
    except Exception as error:  # pyogrio and GDAL each raise their own types for a damaged or missing file
        raise DatasetError(f"{folder / TABLE} cannot be read; make the dataset again with --overwrite") from error
    _check_table(table, meta.scheme, folder / TABLE)
    return Dataset(folder, meta, table)


def _check_table(table: pd.DataFrame, scheme: ClassScheme, path: Path) -> None:
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise DatasetError(f"{path} has no column {missing[0]!r}; make the dataset again with --overwrite")
    for column, known in (("label", scheme.names), ("split", (*SPLITS, "buffer"))):
        wrong = table[~table[column].isin(known)]
        if len(wrong):
            row = wrong.iloc[0]
            raise DatasetError(f"{path}: tile {row['key']} has {column} {row[column]!r}; use one of {', '.join(known)}")
    if table["key"].duplicated().any():
        key = table.loc[table["key"].duplicated(), "key"].iloc[0]
        raise DatasetError(f"{path} holds tile {key} twice; remove one of the rows")


def read_tiles(
    folder: str | Path,
    size_px: int | None = None,
    scheme: ClassScheme | None = None,
    sensor: Sensor | None = None,
    bands: Sequence[str] | None = None,
    gsd_m: float | None = None,
) -> TileSet:
    """The tiles of a dataset folder or of class folders, whichever `folder` is.

    What is None is the dataset's own, for class folders 224 px, RGB and sensor rgb8. Pictures of another size are
    resized. Raises DatasetError, also where the dataset's classes, sensor, bands or GSD are not the ones asked for.
    """
    folder = Path(folder)
    if not is_dataset(folder):
        more: dict[str, Any] = {} if bands is None else {"bands": tuple(bands)}
        return read_class_folders(folder, size_px or 224, scheme, sensor=sensor, gsd_m=gsd_m, **more)
    data = read_dataset(folder)
    meta, table = data.meta, data.table
    _require_same(data, sensor, bands, gsd_m)
    _require_pictures(data)
    names = [f"{SHARE}{name}" for name in meta.scheme.names]
    classes = np.array([meta.scheme.index(name) for name in table["label"]], np.int64)
    fractions = table[names].to_numpy(np.float32) if set(names) <= set(table.columns) else None
    weights = None if meta.class_weights is None else np.array(meta.class_weights)
    if scheme is not None:
        classes, fractions, weights = _in_scheme(classes, fractions, weights, meta.scheme, scheme, folder)
    placed = meta.crs is not None and not table.geometry.isna().any()
    centres = shapely.get_coordinates(shapely.centroid(table.geometry.to_numpy())) if placed else None
    if centres is not None:
        centres *= parse_crs(str(meta.crs)).axis_info[0].unit_conversion_factor
    return TileSet(
        keys=tuple(table["key"]),
        paths=data.paths,
        classes=classes,
        scheme=scheme or meta.scheme,
        sensor=meta.sensor,
        bands=tuple(bands or meta.bands),
        size_px=size_px or meta.size_px,
        gsd_m=meta.gsd_m or gsd_m,
        split=table["split"].to_numpy(np.str_),
        source=meta.name,
        fractions=fractions,
        x_m=None if centres is None else centres[:, 0],
        y_m=None if centres is None else centres[:, 1],
        crs=meta.crs,
        scenes=tuple(table["scene"]),
        blocks=table["block"].to_numpy(np.int64) if (table["block"] >= 0).all() else None,
        class_weights=weights,
        resized=len(table) if size_px not in (None, meta.size_px) else meta.resized,
    )


def _require_same(data: Dataset, sensor: Sensor | None, bands: Sequence[str] | None, gsd_m: float | None) -> None:
    meta = data.meta
    if sensor is not None and sensor.name != meta.sensor.name:
        raise DatasetError(f"{data.folder} was cut from {meta.sensor.name}, not {sensor.name}; leave --sensor out")
    missing = [name for name in bands or () if name not in meta.bands]
    if missing:
        raise DatasetError(
            f"{data.folder} holds bands {', '.join(meta.bands)}, not {missing[0]}; make the dataset again with --bands"
        )
    if gsd_m and meta.gsd_m and abs(gsd_m / meta.gsd_m - 1) > 1e-6:
        raise DatasetError(f"{data.folder} was cut at {meta.gsd_m:g} m, not {gsd_m:g} m; leave --gsd out")


def _require_pictures(data: Dataset) -> None:
    gone = [path for path in data.paths if not path.is_file()]
    if gone:
        raise DatasetError(
            f"{len(gone)} of {len(data):,} pictures of {data.folder} are gone, first {gone[0]}; "
            "put them back, or make the dataset again with --overwrite"
        )


def _in_scheme(
    classes: Any, fractions: Any, weights: Any, own: ClassScheme, wanted: ClassScheme, folder: Path
) -> tuple[Any, Any, Any]:
    """Classes (N,), fractions (N, K) and class weights (K,) in the order of another scheme that has all used classes."""
    place = [class_position(wanted, name) for name in own.names]
    used = set(classes.tolist())
    for k, name in enumerate(own.names):
        if k in used and place[k] is None:
            raise DatasetError(
                f"{folder} has tiles of class {name!r}, which scheme {wanted.name!r} has not ({', '.join(wanted.names)}); "
                "choose a scheme with all its classes, or make the dataset again with --scheme"
            )
    moved = np.array([-1 if at is None else at for at in place])
    known = np.flatnonzero(moved >= 0)
    if fractions is not None:
        shares = np.zeros((len(classes), len(wanted)), np.float32)
        shares[:, moved[known]] = fractions[:, known]
        fractions = shares
    if weights is not None:
        spread = np.ones(len(wanted))
        spread[moved[known]] = weights[known]
        weights = spread / spread.mean()
    return moved[classes], fractions, weights


# ---- writing


@contextmanager
def new_folder(out: Path, overwrite: bool = False, own: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Yield an empty folder beside `out`; on success move it into place, on failure remove it.

    What is there is kept until then. `own` says whether it is such a folder as is being made (a dataset, unless told).
    Raises OutputError where one is and `overwrite` is false, and where `out` holds something else, which is never replaced.
    """
    require_plain_name(out.name)
    old, new = out.with_name(f".{out.name}-old"), out.with_name(f".{out.name}-part")
    if old.exists() and not out.exists():
        old.rename(out)  # a run was killed between the two moves below
    empty = out.is_dir() and not any(out.iterdir())
    if out.exists() and not empty:
        require_absent([out], overwrite)
        if not (own or is_dataset)(out):
            what = "holds other things" if own else "is there and is no dataset"
            raise OutputError(f"{out} {what}, so it is not replaced; choose another folder with -o")
    require_writable(out.parent)
    shutil.rmtree(new, ignore_errors=True)
    try:
        with write_errors(out):
            new.mkdir()
            yield new
            shutil.rmtree(old, ignore_errors=True)
            if out.exists():
                out.rename(old)
            new.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write_dataset(folder: Path, table: gpd.GeoDataFrame, meta: DatasetMeta) -> None:
    """Write table and description into a new folder whose images are there; counts and digest are taken from the table."""
    write_table(table, folder / TABLE)
    update = {"counts": split_counts(table, meta.scheme), "digest": table_digest(table)}
    write_meta(meta.model_copy(update=update), folder / META)


def write_table(table: gpd.GeoDataFrame, path: Path) -> None:
    """Write layer `tiles` to `path`, which does not exist yet. Tiles without a place have no geometry."""
    with write_errors(path), warnings.catch_warnings():
        # Pictures of class folders may have no place, and then no CRS, which pyogrio warns of.
        warnings.filterwarnings("ignore", message=".*crs.*")
        options = {
            "VERSION": "1.3",
            "GEOMETRY_NAME": "geom",
        }  # the newest version that QGIS of Debian 12 reads in peace
        pyogrio.write_dataframe(table, path, layer=LAYER, driver="GPKG", geometry_type="Polygon", **options)


def write_meta(meta: DatasetMeta, path: Path) -> None:
    """Write `dataset.json`."""
    path.write_text(meta.model_dump_json(indent=1) + "\n", encoding="utf-8")


def update_dataset(data: Dataset) -> Dataset:
    """Put a changed table and what follows from it (counts, digest) in place of the old. Raises OutputError.

    Both files are written whole before either is replaced.
    """
    meta = data.meta.model_copy(
        update={"counts": split_counts(data.table, data.meta.scheme), "digest": table_digest(data.table)}
    )
    with replacing(data.folder / META) as new_meta, replacing(data.folder / TABLE) as new_table:
        write_table(data.table, new_table)
        write_meta(meta, new_meta)
    return Dataset(data.folder, meta, data.table)


def split_counts(table: pd.DataFrame, scheme: ClassScheme) -> dict[str, dict[str, int]]:
    """Tiles of each class in each split."""
    found = table.groupby(["label", "split"]).size().to_dict()
    return {name: {split: int(found.get((name, split), 0)) for split in SPLITS} for name in scheme.names}


def table_digest(table: pd.DataFrame) -> str:
    """A digest of keys, labels and splits, whatever the order of the rows."""
    rows = sorted(zip(table["key"], table["label"], table["split"], strict=True))
    text = "\n".join("\t".join(map(str, row)) for row in rows)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
