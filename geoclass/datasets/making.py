"""Make a dataset folder, from imagery and labels or from class folders: look-alikes out, table and pictures in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyproj

from .. import __version__
from ..errors import DatasetError
from ..files import fingerprint
from ..grid import TileGrid, crs_text, parse_crs
from ..schemes import ClassScheme, load_scheme
from ..sensors import Sensor, load_sensor, require_once
from ..tileindex import check_fraction
from .candidates import RARE, TWICE, Balance, Choice, Rule, Split, rare_note, require_classes, single_classes, untested
from .cutting import Collected, Labelling, Progress, cut_tiles
from .duplicates import drop_look_alikes, look_alikes
from .folders import take_pictures
from .pictures import RGB
from .reference import Ignore
from .sources import Source, common_grid, open_sources
from .splits import balance as even_out
from .store import (
    COLUMNS,
    IMAGES,
    SHARE,
    SPLITS,
    Dataset,
    DatasetMeta,
    LabelRecord,
    SourceRecord,
    is_dataset,
    new_folder,
    read_dataset,
    write_dataset,
)  # fmt: skip
from .tileset import TRAIN, TileSet, read_class_folders


def build_dataset(
    inputs: str | Path | Sequence[str | Path],
    labels: str | Path | None = None,
    *,
    out: str | Path,
    scheme: str | Path | ClassScheme | None = None,
    class_field: str | None = None,
    layer: str | None = None,
    ignore: Ignore = (),
    rule: Rule = "majority",
    min_purity: float | None = None,
    balance: Balance = "cap",
    split: Split = "blocks",
    shares: tuple[float, float, float] | None = None,
    block_m: float | None = None,
    split_field: str | None = None,
    test_groups: Sequence[str] | None = None,
    sensor: str | Path | Sensor | None = None,
    bands: Sequence[str] | None = None,
    size_px: int = 224,
    gsd_m: float | None = None,
    crs: str | None = None,
    aoi: str | Path | None = None,
    min_valid: float = 0.9,
    seed: int = 0,
    keep_look_alikes: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Make the dataset folder `out` from scenes and `labels`, or, without labels, from a folder of class folders.

    labels: raster of class codes, polygons or points (`class_field`, `layer`), in any CRS; codes in `ignore` count as
    unlabelled. rule, min_purity, balance, split, shares, block_m, split_field, test_groups, seed: see `Choice`. Scenes of
    one date are one mosaic; with split `by-scene` each file, or each folder, is a scene of its own. Tiles on the same
    ground have the same tile id and are never in two splits; of look-alikes one is kept.

    The folder appears when it is whole; one that is there is kept until then. Raises GeoclassError.
    """
    choice = Choice(
        rule,
        min_purity,
        balance,
        split,
        shares,
        block_m,
        split_field,
        tuple(test_groups) if test_groups else None,
        seed,
    )
    check_fraction("--min-valid", min_valid)
    out = Path(out) if Path(out).name else Path(out).resolve()
    known = load_sensor(sensor) if isinstance(sensor, str | Path) else sensor
    wanted = load_scheme(scheme) if isinstance(scheme, str | Path) else scheme
    named, chosen_crs = tuple(bands) if bands else None, parse_crs(crs) if crs else None
    require_once(named or ())
    given = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    with new_folder(out, overwrite) as folder:
        if labels is None:
            tiles = _class_folders(given, wanted, known, named, size_px, gsd_m)
            made, meta = _from_folders(tiles, choice, folder, chosen_crs, progress)
        else:
            labelling = Labelling(str(labels), wanted, class_field, layer, ignore, None if aoi is None else Path(aoi))
            sources = open_sources(given, known, apart=split == "by-scene")
            grid = common_grid(sources, size_px, gsd_m, chosen_crs)
            made, meta = _from_imagery(sources, grid, named, labelling, choice, folder, min_valid, progress)
        if not keep_look_alikes:
            _drop_look_alikes(made, folder)
        _drop_rare(made, folder)
        _write(folder, made, meta, choice, out.name)
    return read_dataset(out)


def _from_imagery(
    sources: Sequence[Source], grid: TileGrid, bands: tuple[str, ...] | None, labelling: Labelling, choice: Choice, folder: Path,
    min_valid: float, progress: Progress | None,
) -> tuple[Collected, dict[str, Any]]:  # fmt: skip
    first = sources[0].mosaic
    named = bands or first.display_bands
    for source in sources:
        for scene in source.mosaic.scenes:
            scene.require_bands(named)
    made = cut_tiles(sources, grid, named, labelling, choice, folder / IMAGES, min_valid, progress)
    labels = Path(labelling.path)
    record = LabelRecord(
        source=labels.name, digest=fingerprint(labels) if labels.is_file() else None, rule=choice.rule, class_field=labelling.class_field,
        layer=labelling.layer, min_purity=choice.least or None,
    )  # fmt: skip
    scenes = tuple(SourceRecord(name=s.name, date=s.mosaic.date, files=s.mosaic.fingerprints()) for s in sources)
    return made, {
        "sensor": first.sensor, "bands": named, "size_px": grid.size_px, "gsd_m": grid.gsd_m, "crs": crs_text(grid.crs),
        "labels": record, "sources": scenes,
    }  # fmt: skip


def _class_folders(
    inputs: Sequence[str | Path], scheme: ClassScheme | None, sensor: Sensor | None, bands: tuple[str, ...] | None,
    size_px: int, gsd_m: float | None,
) -> TileSet:  # fmt: skip
    named = [Path(item) for item in inputs]
    if len(named) != 1 or named[0].is_file():
        raise DatasetError(
            "imagery needs labels: give a label raster, polygons or points with --labels; or name one folder that holds a "
            "folder of pictures for each class"
        )
    if is_dataset(named[0]):
        raise DatasetError(
            f"{named[0]} is a dataset already; train on it with geoclass train, or mend it with --corrections"
        )
    return read_class_folders(named[0], size_px, scheme, sensor=sensor, bands=bands or RGB, gsd_m=gsd_m)


def _from_folders(
    tiles: TileSet, choice: Choice, folder: Path, crs: pyproj.CRS | None, progress: Progress | None
) -> tuple[Collected, dict[str, Any]]:
    made, grid = take_pictures(tiles, choice, folder / IMAGES, crs, progress)
    return made, {
        "sensor": tiles.sensor, "bands": tiles.bands, "size_px": tiles.size_px, "gsd_m": grid.gsd_m if grid else tiles.gsd_m,
        "crs": crs_text(grid.crs) if grid else None, "labels": LabelRecord(source=tiles.source, rule="folders"),
        "resized": made.resized,
    }  # fmt: skip


def _drop_look_alikes(made: Collected, folder: Path) -> None:
    """Keep one tile of each group of look-alikes: of the held-out splits rather than of training, so that these stay
    as they were drawn. Pictures of the others are deleted, and labels that contradict each other are noted."""
    table = made.table
    order = np.argsort(
        table["split"].map({name: k for k, name in enumerate(reversed(SPLITS))}).to_numpy(), kind="stable"
    )
    groups = look_alikes(made.hashes[order], made.thumbnails[order])
    keep = np.zeros(len(table), bool)
    keep[order] = drop_look_alikes(groups)
    if keep.all():
        return
    kinds = pd.DataFrame({"group": groups, "class": table["class"].to_numpy()[order]})
    mixed = int((kinds.groupby("group")["class"].nunique() > 1).sum())
    if mixed:
        made.notes.append(
            f"{mixed:,} groups of look-alikes carry different labels; the held-out tile's was kept. Check the labels."
        )
    _drop(made, keep, TWICE, folder)


def _drop_rare(made: Collected, folder: Path) -> None:
    """Drop classes of which the buffer, the look-alikes and the imagery have left a single tile."""
    classes = made.table["class"].to_numpy(np.int64)
    single = single_classes(classes, np.arange(len(classes)))
    made.notes += rare_note([made.scheme.names[k] for k in single])
    _drop(made, ~np.isin(classes, single), RARE, folder)


def _drop(made: Collected, keep: npt.NDArray[np.bool_], reason: str, folder: Path) -> None:
    for name in made.table["image"][~keep]:
        (folder / name).unlink()
    made.left_out[reason] += int((~keep).sum())
    made.table = made.table[keep].reset_index(drop=True)
    made.hashes, made.thumbnails = made.hashes[keep], made.thumbnails[keep]


def _write(folder: Path, made: Collected, known: Mapping[str, Any], choice: Choice, name: str) -> None:
    scheme, classes = made.scheme, made.table["class"].to_numpy(np.int64)
    if not len(classes):
        raise DatasetError(
            "no labelled tile has enough data in the imagery; lower --min-valid, or give imagery with data where the labels are"
        )
    require_classes(classes, scheme, str(known["labels"].source))
    notes = [*made.notes, *untested(classes, made.table["split"].to_numpy(np.str_), scheme)]
    weights = None
    if choice.balance == "weights":
        train = classes[made.table["split"].to_numpy() == TRAIN]
        weights = tuple(even_out(train, len(scheme), "weights", choice.seed).weights.tolist())
    meta = DatasetMeta(
        name=name,
        scheme=scheme,
        balance=choice.balance,
        class_weights=weights,
        split=made.parted.record,
        left_out={reason: count for reason, count in made.left_out.items() if count},
        notes=tuple(notes),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        geoclass_version=__version__,
        **known,
    )
    write_dataset(folder, _table(made), meta)


def _table(made: Collected) -> gpd.GeoDataFrame:
    """The rows as layer `tiles` has them: the columns of COLUMNS, and the shares of the classes after them."""
    scheme, table = made.scheme, made.table
    classes = table["class"].to_numpy(np.int64)
    full = table.assign(
        label=np.array(scheme.names, object)[classes],
        class_id=np.array(scheme.ids, np.int64)[classes],
        dhash=["".join(f"{word:016x}" for word in row) for row in made.hashes.tolist()],
    )
    shares = [column for column in table.columns if column.startswith(SHARE)]
    return gpd.GeoDataFrame(full[[*COLUMNS, *shares, "geometry"]], geometry="geometry", crs=made.crs)
