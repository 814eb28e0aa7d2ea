"""The same picture in every format that imagery comes in: files for benchmarks of reading."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from PIL import Image
from rasterio.transform import from_origin
from rasterio.windows import Window

SIDE = 224
LEFT, TOP = 1400 * SIDE + 37, 20900 * SIDE - 101  # no scene's corner is a tile's
DEFLATE = {"COMPRESS": "DEFLATE", "PREDICTOR": 2}
TILED = {"TILED": "YES", "INTERLEAVE": "PIXEL"}


@dataclass(frozen=True)
class Format:
    """How a file is written: GDAL driver and creation options; `share` of the picture's side that it holds (what is slow to
    write is smaller), and `bands`, 3 of 8 or 4 of 16 bits."""

    driver: str
    options: dict[str, Any]
    suffix: str = ".tif"
    share: float = 1.0
    bands: int = 3


FORMATS = {
    "COG, JPEG YCbCr": Format("COG", {"COMPRESS": "JPEG", "QUALITY": 85}),
    "COG, JPEG YCbCr, mask": Format("COG", {"COMPRESS": "JPEG", "QUALITY": 85}),
    "tiled, deflate, predictor": Format("GTiff", {**TILED, **DEFLATE}),
    "tiled, zstd, predictor": Format("GTiff", {**TILED, "COMPRESS": "ZSTD", "PREDICTOR": 2}),
    "tiled, LZW": Format("GTiff", {**TILED, "COMPRESS": "LZW"}),
    "tiled, uncompressed": Format("GTiff", TILED),
    "striped, deflate, 64 rows": Format("GTiff", {**DEFLATE, "INTERLEAVE": "PIXEL", "BLOCKYSIZE": 64}),
    "striped, uncompressed": Format("GTiff", {"INTERLEAVE": "PIXEL"}),
    "JP2, lossy": Format("JP2OpenJPEG", {"QUALITY": 15, "REVERSIBLE": "NO"}, ".jp2", 0.6),
    "VRT of 4 COG JPEG": Format("COG", {"COMPRESS": "JPEG", "QUALITY": 85}, ".vrt"),
    "4 × 16 bit, tiled, deflate": Format("GTiff", {**TILED, **DEFLATE}, share=0.5, bands=4),
}


def make(folder: Path, name: str, side_tiles: int, seed: int = 0) -> Path:
    """The picture, `side_tiles` tiles wide and high, in the format `name`; one that is there already is taken."""
    form = FORMATS[name]
    plain = "".join(letter if letter.isalnum() else "-" for letter in name)
    path = folder / f"{plain}-{side_tiles}{form.suffix}"
    if path.exists():
        return path
    base = _base(folder, side_tiles, seed)
    side = max(2, round(side_tiles * form.share)) * SIDE
    if form.suffix == ".vrt":
        _quads(base, path, form, side)
    else:
        with rasterio.open(base) as source, tempfile.TemporaryDirectory(dir=folder) as cut:
            pixels = source.read(window=Window(0, 0, side, side))
            if form.bands == 4:
                pixels = np.concatenate([pixels, pixels.max(axis=0, keepdims=True)]).astype(np.uint16) * 12 + 200
                pixels += np.random.default_rng(seed).integers(0, 12, pixels.shape, dtype=np.uint16)
            _write(Path(cut) / "c.tif", pixels, mask="mask" in name)
            rasterio.shutil.copy(Path(cut) / "c.tif", path, driver=form.driver, **form.options)
    return path


def _base(folder: Path, side_tiles: int, seed: int) -> Path:
    path = folder / f"base-{side_tiles}.tif"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as other:
            _real(path, side_tiles, seed) if os.environ.get("GEOCLASS_TEST_DATA") else _drawn(
                path, side_tiles, seed, Path(other)
            )
    return path


def _real(path: Path, side_tiles: int, seed: int) -> None:
    """Tiles of RSSCN7 side by side."""
    found = sorted((Path(os.environ["GEOCLASS_TEST_DATA"]) / "rsscn7_224").rglob("*.jpg"))
    drawn = np.random.default_rng(seed).integers(0, len(found), (side_tiles, side_tiles))
    side = side_tiles * SIDE
    with rasterio.open(path, "w", **_profile(side, 3, "uint8")) as dataset:
        for row, numbers in enumerate(drawn):
            tiles = [np.asarray(Image.open(found[n]).convert("RGB")) for n in numbers]
            dataset.write(np.concatenate(tiles, axis=1).transpose(2, 0, 1), window=Window(0, row * SIDE, side, SIDE))


def _drawn(path: Path, side_tiles: int, seed: int, folder: Path) -> None:
    """A drawn county's imagery, without the margin around it."""
    from geoclass.county.make import MARGIN_PX, make_county

    county = make_county(folder, rows=side_tiles, columns=side_tiles, seed=seed, tiles_per_class=1)
    side = side_tiles * SIDE
    with rasterio.open(county.scenes[county.dates[0]]) as source:
        pixels = source.read([1, 2, 3], window=Window(MARGIN_PX, MARGIN_PX, side, side))
    _write(path, pixels)


def _profile(side: int, bands: int, dtype: str) -> dict[str, Any]:
    return {
        "driver": "GTiff", "width": side, "height": side, "count": bands, "dtype": dtype, "crs": "EPSG:26919",
        "transform": from_origin(LEFT, TOP, 1, 1), "interleave": "pixel", "photometric": "rgb" if bands == 3 else "minisblack", "bigtiff": "if_safer",
    }  # fmt: skip


def _write(path: Path, pixels: np.ndarray, mask: bool = False) -> None:
    side = pixels.shape[1]
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", **_profile(side, len(pixels), pixels.dtype.name)) as dataset,
    ):
        dataset.write(pixels)
        if mask:
            # A slanting edge, as that of an orthophoto.
            lines, columns = np.ogrid[:side, :side]
            dataset.write_mask(((columns > lines * 0.05) * 255).astype(np.uint8))


def _quads(base: Path, path: Path, form: Format, side: int) -> None:
    half = side // 2
    names = []
    for number in range(4):
        left, top = number % 2 * half, number // 2 * half
        names.append(path.with_name(f"{path.stem}-q{number}.tif"))
        with rasterio.open(base) as source, tempfile.TemporaryDirectory(dir=path.parent) as cut:
            pixels = source.read(window=Window(left, top, half, half))
            profile = {**_profile(half, 3, "uint8"), "transform": from_origin(LEFT + left, TOP - top, 1, 1)}
            with rasterio.open(Path(cut) / "c.tif", "w", **profile) as dataset:
                dataset.write(pixels)
            rasterio.shutil.copy(Path(cut) / "c.tif", names[-1], driver=form.driver, **form.options)
    path.write_text(_vrt(names, half, side))


def _vrt(files: list[Path], half: int, side: int) -> str:
    """A VRT as gdalbuildvrt writes it: four quads, each in its corner."""
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><ColorInterp>{colour}</ColorInterp>'
        + "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="1">{file.name}</SourceFilename><SourceBand>{band}</SourceBand>'
            f'<SrcRect xOff="0" yOff="0" xSize="{half}" ySize="{half}"/>'
            f'<DstRect xOff="{n % 2 * half}" yOff="{n // 2 * half}" xSize="{half}" ySize="{half}"/></SimpleSource>'
            for n, file in enumerate(files)
        )
        + "</VRTRasterBand>"
        for band, colour in enumerate(("Red", "Green", "Blue"), start=1)
    )
    return (
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>EPSG:26919</SRS>'
        f"<GeoTransform>{LEFT}, 1, 0, {TOP}, 0, -1</GeoTransform>{bands}</VRTDataset>"
    )


def sources(path: Path) -> list[Path]:
    """The files that hold the pixels: those that a VRT names, else the file itself."""
    return sorted(path.parent.glob(f"{path.stem}-q?.tif")) if path.suffix == ".vrt" else [path]
