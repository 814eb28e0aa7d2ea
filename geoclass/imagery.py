"""The imagery that a result was made from, found again from what the result says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import GeoclassError, SceneError
from .mosaic import Mosaic, open_mosaic
from .remote.names import is_remote
from .sensors import load_sensor

SEARCHED_FOLDERS = 3
"""Folders above a result, its own included, in which imagery that it names by a relative path is looked for."""


def open_imagery(info: Mapping[str, Any], result: Path | None, folders: Sequence[Path] = ()) -> Mosaic:
    """The scenes that a result's `info` names, looked for in `folders`, from `result` upwards, and in the working folder.

    Raises SceneError where they are gone or are no imagery any more.
    """
    inputs = info.get("inputs") or []
    names = [str(name) for name in ([inputs] if isinstance(inputs, str) else inputs)]
    if not names:
        raise SceneError(f"{result or 'the result'} does not say which imagery it was made from; classify it again")
    above = list(result.resolve().parents)[:SEARCHED_FOLDERS] if result else []
    for folder in (*folders, *above, Path()):
        found = [name if is_remote(name) else str(folder / name) for name in names]
        if all(is_remote(name) or _is_imagery(Path(name), result) for name in found):
            return _open(found, info, result)
    raise SceneError(
        f"{names[0]}, which {result or 'the result'} was made from, is not found; put it where it was, or run from there"
    )


def _is_imagery(path: Path, result: Path | None) -> bool:
    """Whether this is there, and not the class raster or preview of the result itself: county.tif becomes out/county.tif."""
    if not path.exists():
        return False
    own = [] if result is None else [result.resolve().with_suffix(suffix) for suffix in (".tif", ".preview.tif")]
    return path.resolve() not in own


def _open(names: Sequence[str], info: Mapping[str, Any], result: Path | None) -> Mosaic:
    # A Sentinel-2 product's own folder tells the offset of its numbers; its single files do not.
    products = [next((str(up) for up in Path(name).parents if up.suffix.upper() == ".SAFE"), name) for name in names]
    try:
        sensor = load_sensor(str(info["sensor"])) if info.get("sensor") else None
    except GeoclassError:
        sensor = None  # a sensor described in a file of its own, which is not here
    try:
        return open_mosaic(list(dict.fromkeys(products)), sensor)
    except GeoclassError as error:
        raise SceneError(f"the imagery of {result or 'the result'} cannot be opened: {error}") from error
