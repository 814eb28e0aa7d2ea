"""GDAL's settings for reading, in one place. A user's own environment variables stand, but for those of SAFE.

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
    # Imagery over a network. The size of GDAL's pieces (16 kB) stays: it matters for headers only, blocks are fetched by
    # their exact ranges.
    "GDAL_HTTP_MULTIPLEX": "YES",  # HTTP/2: many requests on one connection
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",  # blocks that lie together in the file are one request
    # Bytes of the ranges of one read; what is beyond is read block by block, and more of it than needed.
    "GDAL_MAX_RAW_BLOCK_CACHE_SIZE": str(64 << 20),
    "GDAL_HTTP_MAX_RETRY": "2",  # at 429 and 5xx; our own tries come on top
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_CONNECTTIMEOUT": "15",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",  # a server that has gone silent is given up, and asked again
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
    "CPL_VSIL_CURL_CACHE_SIZE": str(64 << 20),  # headers of a few thousand files
}

SAFE = {
    # Quick ways to read a file without compression. Of one that is cut short the first returns whatever was in memory,
    # without an error; where that happens while it is read, the second ends the process.
    "GTIFF_DIRECT_IO": "NO",
    "GTIFF_VIRTUAL_MEM_IO": "NO",
}


def set_options() -> None:
    """Set what the user has not, and what nobody should."""
    for name, value in OPTIONS.items():
        os.environ.setdefault(name, value)
    os.environ.update(SAFE)
