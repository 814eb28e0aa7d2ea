"""GDAL's settings for reading, in one place. A user's own environment variables stand.

They are environment variables because these reach every thread; `scene`, by which every raster is opened, sets them
before GDAL is used.
"""

from __future__ import annotations

import os

OPTIONS = {
    # Megabytes of decoded blocks kept, for all files together. GDAL's default is a twentieth of all memory. (In
    # `rasterio.Env` the same number would mean bytes.)
    "GDAL_CACHEMAX": "64",
    # Threads within one read. geoclass reads from several threads, each with handles of its own, and a cluster's worker
    # must take one core only; JPEG 2000 would take them all.
    "GDAL_NUM_THREADS": "1",
    # Opening a file does not list its folder, which takes long where thousands of quads lie. Sidecar files (.ovr, .msk,
    # .aux.xml, world files) are still found, each by its name.
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
}


def set_options() -> None:
    """Set what the user has not."""
    for name, value in OPTIONS.items():
        os.environ.setdefault(name, value)
