"""The review page of a sample: its tiles before and after, to be answered by eye."""

from __future__ import annotations

from pathlib import Path

from ..changes.chips import View, make_chips, view_in, views_of
from ..changes.series import Source
from ..changes.stored import read_change
from ..grid import positions
from ..outputs.reviewpage import entries_of_change, entries_of_tiles, write_review
from ..results import read_result
from .sample import Sample


def write_sample_page(sample: Sample, source: Path, path: Path, *, overwrite: bool = False) -> int:
    """Write the page for `sample`, drawn from the map at `source`; return its size in bytes.

    Pictures come from the imagery that the map's results name, else from their previews. For a change map it asks whether
    a tile became built-up, and its class on each date if the reviewer likes; for one map it asks for the class. Raises
    GeoclassError.
    """
    columns, rows = sample.grid.parse_ids(sample.tile_ids)
    if sample.design.dates:
        change = read_change(source)
        series = change.series
        entries = entries_of_change(change, positions(series.columns, series.rows, columns, rows))
        views: tuple[View, ...] = views_of(series)
        notes = series.warnings
    else:
        labels = read_result(source)
        entries = entries_of_tiles(sample.grid, columns, rows)
        views = (view_in(str(labels.info.get("date") or "the map"), Source(source, labels.info)),)
        notes = ()
    chips = make_chips(sample.grid, columns, rows, views)
    return write_review(
        path,
        entries,
        chips,
        purpose="estimation" if sample.design.dates else "reference",
        scheme=sample.scheme,
        built=sample.design.built,
        sample_id=sample.design.sample_id,
        notes=notes,
        overwrite=overwrite,
    )
