"""STAC items as scenes: opened side by side, the least cloudy first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ..errors import SceneError
from ..remote.names import shown
from ..remote.opening import READERS
from ..scene import Quality, Scene, SourceBand, describe_open, name_bands, open_dataset
from ..sensors import Sensor, load_sensor, sensor_of_collection
from .assets import BandFile, band_files, lone_raster, quality_file, value_offset
from .documents import Item, read_listing


def scenes_of(documents: Sequence[str], sensor: Sensor | None = None, default: Sensor | None = None) -> list[Scene]:
    """One scene an item of STAC documents, the least cloudy of all first: a mosaic takes each pixel from the first that has it.

    Without `sensor` it is told from the collection, else `default`, else `rgb8`. Only headers are read. Raises SceneError
    for an item without any of the sensor's bands, and where a file cannot be opened.
    """
    listings = [(name, read_listing(name)) for name in documents]
    listed = [(item, name, listing.keep_clouds) for name, listing in listings for item in listing.items]
    listed.sort(key=lambda found: found[0].cloud or 0.0)
    with ThreadPoolExecutor(READERS, thread_name_prefix="geoclass-open") as pool:
        jobs = [pool.submit(_scene, item, name, sensor, default, keep) for item, name, keep in listed]
        try:
            return [job.result() for job in jobs]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _scene(item: Item, document: str, sensor: Sensor | None, default: Sensor | None, keep_clouds: bool) -> Scene:
    chosen = sensor or sensor_of_collection(item.collection) or default or load_sensor("rgb8")
    bands = band_files(item, chosen)
    path = _finest(bands, chosen) if bands else lone_raster(item, chosen)
    if path is None:
        raise SceneError(
            f"item {item.id} of {shown(document)} has no asset of a band of {chosen.name} ({', '.join(chosen.band_names)}), "
            f"only {', '.join(item.assets) or 'none'}; name the right --sensor, or fetch another collection"
        )
    with open_dataset(path) as dataset:
        named, alpha, notes = name_bands(dataset, chosen)
        if not bands:
            sources = tuple(SourceBand(name, path, index) for name, index in named.items())
        else:
            sources = tuple(SourceBand(band.name, band.path, band.index) for band in bands.values())
        if len({source.path for source in sources}) > 1 or alpha in {source.index for source in sources}:
            alpha = None
        offset, more = value_offset(item, chosen, bands)
        scene = describe_open(
            dataset,
            chosen,
            name=re.sub(r'[/\\:*?"<>|\x00-\x1f]', "_", item.id).lstrip("."),
            bands=sources,
            files=tuple(dict.fromkeys(shown(source.path) for source in sources)),
            alpha_index=alpha,
            notes=(*notes, *more),
            value_offset=offset,
        )
    quality = None if keep_clouds or chosen.stac is None else quality_file(item, chosen)
    return replace(
        scene,
        date=item.date or scene.date,
        listed_in=document,
        quality=Quality(quality, chosen.stac.dropped) if quality is not None and chosen.stac is not None else None,
        files=(*scene.files, *([shown(quality)] if quality else [])),
    )


def _finest(bands: dict[str, BandFile], sensor: Sensor) -> str:
    """The path of the band of the smallest pixels: its lattice is the scene's."""
    gsd = {band.name: band.gsd_m or 0.0 for band in sensor.bands}
    return bands[min(bands, key=lambda name: gsd[name])].path
