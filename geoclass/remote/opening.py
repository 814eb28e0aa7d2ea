"""Open and read files over a network with GDAL's /vsicurl and /vsis3, again where the network fails.

GDAL fetches the byte ranges of the blocks that a window needs, neighbours merged into one request and several requests
at once. What it gives up on (a connection cut in the middle, a burst of errors longer than its own tries) is tried
again here from a new handle.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import rasterio
import rasterio.errors
from rasterio._err import CPLE_BaseError  # rasterio.errors has no name for what properties of a dataset raise

from ..errors import SceneError
from ..stac.signing import signed
from .failures import failure_of
from .names import PLANETARY_COMPUTER, gdal_name, over_network, redacted

Value = TypeVar("Value")

READERS = 8
"""Threads that read from a network: most of the time they wait for it."""

TRIES = 8
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 8.0

READ_ERRORS = (rasterio.errors.RasterioError, CPLE_BaseError, OSError)
"""What rasterio raises where GDAL fails to open or read."""


class _Redacting(logging.Filter):
    """GDAL logs the addresses it asks, with their signatures."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted(record.getMessage()), ()
        return True


for _name in (
    "rasterio._env",
    "rasterio._err",
    "rasterio._io",
    "rasterio._base",
    "rasterio._vsiopener",
    "rasterio.env",
):
    logging.getLogger(_name).addFilter(_Redacting())

# No request for a folder's list or for files beside the imagery: most servers have neither.
_WHILE_OPEN = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}


def environment() -> rasterio.Env:
    """What GDAL is to know while a file over a network is opened or read, as a context manager for one thread."""
    return rasterio.Env(**_WHILE_OPEN)


def open_remote(name: str) -> rasterio.DatasetReader:
    """Open a file over a network. Raises SceneError; what may pass is tried again first, with longer and longer pauses."""
    for attempt in range(TRIES):
        path = _path(name)
        try:
            with environment():
                return _whole_header(rasterio.open(path))
        except READ_ERRORS as error:
            _forget(path)
            failure = failure_of(str(error), name)
            if failure.final or attempt == TRIES - 1:
                raise failure.error(name) from None  # GDAL's own words may hold a signature
        pause(attempt)
    raise AssertionError("unreachable")


def read_again(name: str, where: str, read: Callable[[], Value], reopen: Callable[[], None]) -> Value:
    """What `read` returns, tried again where it fails. Raises SceneError that names file and window (`where`)."""
    for attempt in range(TRIES):
        try:
            with environment():
                return read()
        except READ_ERRORS as error:
            after_failure(name, where, attempt, error, reopen)
    raise AssertionError("unreachable")


def after_failure(name: str, where: str, attempt: int, error: BaseException, reopen: Callable[[], None]) -> None:
    """Wait, and find out from the server whether another try makes sense. Raises SceneError where it does not.

    A failed read does not say why. Opening the file anew does: it may have gone, or may no longer be read. The handle
    stays, since it keeps what did arrive; where that does not help, `reopen` makes a new one.
    """
    if attempt >= TRIES - 1:
        failure = failure_of(str(error.__cause__ or error), name)
        raise SceneError(
            f"{failure.error(name, where)} ({TRIES} tries; if the network is well, the file is damaged: tell its owner)"
        ) from None
    pause(attempt)
    _forget(_path(name))
    open_remote(name).close()
    if attempt >= TRIES // 2:
        reopen()


def opened_name(name: str) -> str:
    """What GDAL opens for `name` now; it differs from before where a signature has run out."""
    return _path(name)


def pause(attempt: int) -> None:
    """Wait before another try: twice as long each time, and not all threads alike."""
    time.sleep(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt) * random.uniform(0.75, 1.25))


def _path(name: str) -> str:
    if name.startswith(PLANETARY_COMPUTER):
        return gdal_name(signed(name.removeprefix(PLANETARY_COMPUTER)))
    return gdal_name(name)


def _whole_header(dataset: rasterio.DatasetReader) -> rasterio.DatasetReader:
    """The dataset, with what GDAL reads of it at first need read now, where a failure is tried again."""
    try:
        _ = dataset.mask_flag_enums, dataset.colorinterp, dataset.overviews(1), dataset.tags()
    except BaseException:
        dataset.close()
        raise
    return dataset


def _forget(path: str) -> None:
    """Have GDAL forget what it knows of a file: it would go on saying that it is not there.

    There is no call for that in rasterio. A handle on a file that is not to be kept in memory takes all there is of it
    along when it is closed, and costs no request where the failure is remembered.
    """
    if over_network(path):
        with (
            suppress(*READ_ERRORS),
            rasterio.Env(CPL_VSIL_CURL_NON_CACHED=path, **_WHILE_OPEN),
        ):
            rasterio.open(path).close()
