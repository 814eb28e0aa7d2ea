"""The map of a finished result, made again from its files."""

from __future__ import annotations

from pathlib import Path

from .aoi import outlines_from_text, read_aoi
from .errors import GeoclassError, OutputError
from .outputs.preview import read_preview
from .outputs.webmap import write_map
from .results import read_result


def remap(
    result: Path,
    out: Path | None = None,
    *,
    title: str | None = None,
    opacity: float = 0.6,
    aoi: str | Path | None = None,
    basemap: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write the HTML map of the GeoPackage `result` and return its path.

    Without `out` the page beside the result is replaced; a page elsewhere only with `overwrite`. The preview is taken
    from `NAME.preview.tif` beside the result, if it is there. Raises GeoclassError.
    """
    if not 0 <= opacity <= 1:
        raise GeoclassError(f"--opacity is {opacity}; give a number from 0 to 1")
    labels = read_result(result)
    outlines = (
        read_aoi(aoi, labels.grid.crs) if aoi else outlines_from_text(labels.info.get("aois", []), labels.grid.crs)
    )
    page = out or result.with_suffix(".html")
    if page.resolve() in (result.resolve(), result.with_suffix(".preview.tif").resolve()):
        raise OutputError(f"{page} is what the map is made from and would be replaced; give another -o")
    write_map(
        page,
        labels,
        preview=read_preview(result.with_suffix(".preview.tif")),
        aois=outlines,
        basemap=basemap,
        title=title,
        opacity=opacity,
        overwrite=overwrite or out is None,
    )
    return page
