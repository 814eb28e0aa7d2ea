"""From what a user names (files, globs, folders, Sentinel-2 products) to scenes."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

from .errors import SceneError
from .remote.names import is_remote, shown
from .scene import Scene, open_band_files, open_dataset, open_scene
from .sensors import Sensor, guess_sensor, load_sensor
from .stac.documents import is_document
from .stac.scenes import scenes_of

RASTER_SUFFIXES = {".tif", ".tiff", ".vrt", ".jp2", ".j2k", ".img", ".png", ".jpg", ".jpeg"}


def find_scenes(
    inputs: Sequence[str | Path], sensor: Sensor | None = None, default: Sensor | None = None
) -> list[Scene]:
    """The scenes that `inputs` name, in the order of their names, each file once.

    An input is a raster file, a URL or /vsi path, a STAC item or list of items (`.json`), a glob, a folder (of quads, of
    single-band files, or of products) or a Sentinel-2 `.SAFE` folder. Without `sensor` it is told from the file names, else `default`, else
    `rgb8`. Raises SceneError where an input is missing or holds no raster.
    """
    if not inputs:
        raise SceneError("no scene named; give one or more rasters, folders or globs")
    products: list[Path] = []
    documents: list[str] = []
    files: list[str] = []
    for item in inputs:
        for path in _expand(str(item)):
            if _is_product(path):
                products.append(Path(path))
            elif is_document(path):
                documents.append(path)
            else:
                files.append(path)
    files = list(dict.fromkeys(files))
    scenes = [_open_product(path, sensor) for path in dict.fromkeys(products)]
    if documents:
        scenes += scenes_of(list(dict.fromkeys(documents)), sensor, default)
    chosen = sensor or guess_sensor([Path(shown(path)).name for path in files]) or default or load_sensor("rgb8")
    for name, group in _grouped(files, chosen):
        if isinstance(group, str):
            scenes.append(open_scene(group, chosen))
        else:
            scenes.append(open_band_files(name, group, chosen))
    if not scenes:
        raise SceneError(
            f"no raster in {', '.join(shown(str(item)) for item in inputs)}; geoclass reads {', '.join(sorted(RASTER_SUFFIXES))}"
        )
    return scenes


def _expand(item: str) -> Iterable[str]:
    """Files and products that one input names, sorted."""
    if not item:
        raise SceneError("an input's name is empty; give a raster, a folder or a glob")
    if is_remote(item):
        return [item]
    path = Path(item)
    if not path.exists():
        found = sorted(glob.glob(item, recursive=True))  # noqa: PTH207  (Path.glob takes no absolute pattern)
        if not found:
            what = "nothing matches" if glob.has_magic(item) else "no such file or folder:"
            raise SceneError(f"{what} {item}; check the path")
        return [each for name in found for each in _expand(name)]
    if path.is_file():
        # A product may be named by the metadata file inside it.
        return [str(path.parent) if re.match(r"MTD_MSIL\w+\.xml$", path.name) else item]
    if not path.is_dir():
        raise SceneError(f"{item} is neither a file nor a folder but a device or a pipe; give a raster on disk")
    if _is_product(item):
        return [item]
    inside = sorted(path.iterdir())
    found = [str(p) for p in inside if (p.is_file() and p.suffix.lower() in RASTER_SUFFIXES) or _is_product(str(p))]
    if not found:
        raise SceneError(f"the folder {item} holds no raster; geoclass reads {', '.join(sorted(RASTER_SUFFIXES))}")
    return found


def _is_product(path: str) -> bool:
    """Whether this is a Sentinel-2 product folder."""
    folder = Path(path)
    return (
        not is_remote(path)
        and folder.is_dir()
        and (folder.suffix.upper() == ".SAFE" or any(folder.glob("MTD_MSIL*.xml")))
    )


def _grouped(files: Sequence[str], sensor: Sensor) -> Iterable[tuple[str, str | dict[str, str]]]:
    """Files one by one, or the single-band files of one scene together (band name → path)."""
    groups: dict[str, dict[str, str]] = {}
    order: list[tuple[str, str | dict[str, str]]] = []
    for path in files:
        stem = Path(shown(path)).stem
        band = sensor.band_in_file_name(stem)
        if band is None or not _single_band(path):
            order.append((stem, path))
            continue
        assert sensor.band_pattern is not None
        name = re.sub(sensor.band_pattern, "", stem, count=1, flags=re.IGNORECASE).strip("_- .") or stem
        key = f"{Path(shown(path)).parent}/{name}"
        if key not in groups:
            groups[key] = {}
            order.append((name, groups[key]))
        if band in groups[key]:
            raise SceneError(
                f"{shown(path)} and {shown(groups[key][band])} both hold band {band!r} of {name}; give one of them"
            )
        groups[key][band] = path
    return order


def _single_band(path: str) -> bool:
    with open_dataset(path) as dataset:
        return bool(dataset.count == 1)


def _open_product(folder: Path, sensor: Sensor | None) -> Scene:
    """A Sentinel-2 product: the finest file of each band, and the offset that its metadata states."""
    metadata = next(iter(sorted(folder.glob("MTD_MSIL*.xml"))), None)
    level = "2a" if "MSIL2A" in folder.name.upper() or (metadata and "2A" in metadata.name) else "1c"
    sensor = sensor or load_sensor(f"sentinel2-l{level}")
    pattern = re.compile(r"_(B\d\d|B8A)(?:_(10|20|60)m)?$", re.IGNORECASE)
    finest: dict[str, tuple[int, str]] = {}
    for path in sorted(folder.glob("GRANULE/*/IMG_DATA/**/*.jp2")):
        found = pattern.search(path.stem)
        band = sensor.band_for(found[1]) if found else None
        if found and band:
            rank = int(found[2] or 0)
            if band not in finest or rank < finest[band][0]:
                finest[band] = (rank, str(path))
    if not finest:
        raise SceneError(f"{folder} holds no band files under GRANULE/*/IMG_DATA; unpack the whole product")
    files = {band: path for band, (_, path) in finest.items()}
    return open_band_files(folder.stem, files, sensor, _stated_offset(metadata))


def _stated_offset(metadata: Path | None) -> float | None:
    """The radiometric offset in product metadata: −1000 from baseline 04.00 on, 0 before, None without metadata.

    Source: Sentinel-2 Products Specification Document, RADIO_ADD_OFFSET (L1C) and BOA_ADD_OFFSET (L2A).
    """
    if metadata is None:
        return None
    try:
        tree = ElementTree.parse(metadata)
    except ElementTree.ParseError as error:
        raise SceneError(f"{metadata} is not valid XML ({error}); fetch the product again") from error
    for element in tree.iter():
        if element.tag.rsplit("}", 1)[-1] in ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET") and element.text:
            return float(element.text)
    return 0.0
