"""A handful of tiles labelled by eye: the page that asks, and the class folders that its answers make."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .changes.chips import View, make_chips
from .datasets.sources import Source, common_grid, covered_tiles, open_sources
from .datasets.store import new_folder
from .errors import DatasetError, GridError
from .files import write_errors
from .grid import IntArray, TileGrid, TileRange, parse_crs
from .outputs.reviewpage import entries_of_tiles, page_id, write_review
from .reader import LatticeWindow
from .schemes import ClassScheme
from .sensors import load_sensor

MIN_VALID = 0.999
"""Tiles to learn from are whole."""
COLUMNS = ("tile_id", "date", "class")


@dataclass(frozen=True)
class Folders:
    """Class folders that answers made: where, tiles a class, and answers that name no class or no tile of the imagery."""

    path: Path
    counts: dict[str, int]
    passed_over: int


def labelling_page(
    inputs: Sequence[str | Path],
    scheme: ClassScheme,
    out: Path,
    *,
    tiles: int = 40,
    sensor: str | Path | None = None,
    size_px: int = 224,
    gsd_m: float | None = None,
    crs: str | None = None,
    seed: int = 0,
    title: str | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write the page that asks for the class of `tiles` tiles, drawn with `seed`, on every date; return their ids.

    Raises GeoclassError of the fitting kind for imagery that cannot be used.
    """
    if tiles < 1:
        raise DatasetError(f"--tiles is {tiles}; give 1 or more")
    sources, grid = _open(inputs, sensor, size_px, gsd_m, crs)
    columns, rows = _common(sources, grid)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(columns))[:tiles])
    views = [View(date, s.mosaic, "imagery", s.name) for date, s in zip(_dates(sources), sources, strict=True)]
    chips = make_chips(grid, columns[chosen], rows[chosen], views)
    entries = entries_of_tiles(grid, columns[chosen], rows[chosen])
    write_review(
        out, entries, chips, purpose="labelling", scheme=scheme, title=title, overwrite=overwrite,
        sample_id=page_id("labelling", [entry.tile_id for entry in entries], chips.dates),
    )  # fmt: skip
    return [entry.tile_id for entry in entries]


def class_folders(
    inputs: Sequence[str | Path],
    answers: Path,
    out: Path,
    *,
    sensor: str | Path | None = None,
    size_px: int = 224,
    gsd_m: float | None = None,
    crs: str | None = None,
    overwrite: bool = False,
) -> Folders:
    """Cut the tiles that `answers`, a CSV saved from the page, names into `out/<class>/<tile id>_<date>.png`.

    Pictures show the bands on display as 8-bit brightness. Raises DatasetError for answers that cannot be read, or of
    which none names a tile of the imagery.
    """
    sources, grid = _open(inputs, sensor, size_px, gsd_m, crs)
    wanted = _read_answers(answers)
    by_date = dict(zip(_dates(sources), sources, strict=True))
    counts: Counter[str] = Counter()
    passed_over = 0
    with new_folder(out, overwrite, own=_is_cut) as folder:
        for tile_id, date, name in wanted:
            if not name or date not in by_date:
                passed_over += 1
                continue
            picture = _picture(by_date[date], grid, tile_id)
            if picture is None:
                passed_over += 1
                continue
            path = folder / _folder_name(name) / f"{tile_id}_{date}.png"
            with write_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path)
            counts[name] += 1
        if not counts:
            raise DatasetError(
                f"{answers} names no tile of this imagery; give the images that the page was made from, and the same "
                "--size, --gsd and --crs"
            )
    return Folders(out, dict(sorted(counts.items())), passed_over)


def _open(
    inputs: Sequence[str | Path], sensor: str | Path | None, size_px: int, gsd_m: float | None, crs: str | None
) -> tuple[list[Source], TileGrid]:
    if not inputs:
        raise DatasetError("no imagery named; name one or more scenes")
    known = load_sensor(sensor) if sensor else None
    sources = open_sources(inputs, known, apart=False)
    if any(source.mosaic.date is None and len(source.mosaic.scenes) > 1 for source in sources):
        sources = open_sources(inputs, known, apart=True)  # without dates, every file or folder is taken for one
    return sources, common_grid(sources, size_px, gsd_m, parse_crs(crs) if crs else None)


def _dates(sources: Sequence[Source]) -> list[str]:
    """The sources' dates, or their names where these do not tell them apart."""
    dates = [source.mosaic.date or source.name for source in sources]
    return dates if len(set(dates)) == len(dates) else [source.name for source in sources]


def _common(sources: Sequence[Source], grid: TileGrid) -> tuple[IntArray, IntArray]:
    """The tiles that every date covers whole, north-west first."""
    found = [covered_tiles(source, grid, None, MIN_VALID)[:2] for source in sources]
    common = set.intersection(*(set(zip(c.tolist(), r.tolist(), strict=True)) for c, r in found))
    if not common:
        raise DatasetError(
            "the images have no whole tile in common; label them one by one, or cut smaller tiles with --size"
        )
    places = np.array(sorted(common, key=lambda place: (-place[1], place[0])), np.int64)
    return places[:, 0], places[:, 1]


def _read_answers(path: Path) -> list[tuple[str, str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            header = stream.readline()
            stream.seek(0)
            # A spreadsheet may have put semicolons for commas.
            comma = ";" if header.count(";") > header.count(",") else ","
            rows = list(csv.DictReader(stream, delimiter=comma))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"{path} cannot be read as answers: {error}; save them again from the labelling page"
        ) from error
    missing = [name for name in COLUMNS if rows and name not in rows[0]]
    if missing or not rows:
        what = f"no column {missing[0]!r}" if missing else "no answer"
        raise DatasetError(f"{path} has {what}; save the CSV from the labelling page")
    found: dict[tuple[str, str], str] = {}
    for row in rows:
        key, name = (row["tile_id"] or "", row["date"] or ""), (row["class"] or "").strip()
        if found.setdefault(key, name) != name:
            raise DatasetError(f"{path} calls tile {key[0]} of {key[1]} both {found[key]} and {name}; keep one of them")
    return [(tile, date, name) for (tile, date), name in found.items()]


def _picture(source: Source, grid: TileGrid, tile_id: str) -> Image.Image | None:
    """One tile as its network will see it, or None where the imagery does not hold all of it."""
    try:
        column, row = grid.parse_id(tile_id)
    except GridError:
        return None
    mosaic = source.mosaic
    with mosaic.reader(grid, mosaic.display_bands) as reader:
        pixels, valid = reader.read(LatticeWindow(*grid.pixel_window(TileRange(column, row, column + 1, row + 1))))
    if not valid.all():
        return None
    scale, offset = mosaic.sensor.scale.affine()
    levels = np.clip(pixels.astype(np.float32) * scale + offset, 0, 255).round().astype(np.uint8)
    bands = [min(k, len(levels) - 1) for k in range(3)]
    return Image.fromarray(np.ascontiguousarray(levels[bands].transpose(1, 2, 0)))


def _is_cut(folder: Path) -> bool:
    """Whether this holds nothing but class folders of pictures called `<tile id>_<date>.png`."""
    inside = [path for path in folder.rglob("*") if not path.is_dir()]
    return folder.is_dir() and all(
        path.parent.parent == folder and path.suffix == ".png" and path.stem.count("_") >= 4 for path in inside
    )


def _folder_name(name: str) -> str:
    if "/" in name or "\\" in name or name.startswith("."):
        raise DatasetError(f"{name!r} cannot be the name of a class folder; rename the class in the scheme")
    return name
