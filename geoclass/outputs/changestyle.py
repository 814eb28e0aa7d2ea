"""What a tile's change is called and drawn as: one small table that the GeoPackage, the map and the report share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..changes.posterior import FLICKER, KINDS, Change


@dataclass(frozen=True)
class Category:
    """One line of a legend. key: for programs; label: for people, and the text of column `change`; colour: #rrggbb;
    words: a sentence that says which tiles it holds."""

    key: str
    label: str
    colour: str
    words: str

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The colour as three numbers from 0 to 255."""
        red, green, blue = bytes.fromhex(self.colour[1:])
        return red, green, blue


# At least 14 apart in OKLab (outputs.colours.nearest_pair) for normal, protan, deutan and tritan vision; what calls
# for action is vivid, what stayed is nearly the paper's own grey.
CATEGORIES = (
    Category("new_built", "New built-up", "#d55e00", "open land that became built-up, at or above the threshold"),
    Category(
        "maybe_built", "Possibly new built-up", "#ffb570", "open land that may be built-up now, below the threshold"
    ),
    Category("lost_built", "Lost built-up", "#0072b2", "built-up land that is something else now"),
    Category("other", "Other change", "#882255", "any other change of class from the first to the last date"),
    Category("flicker", "Flicker", "#56b4e9", "single dates differ, and all dates together say that nothing changed"),
    Category("stable", "Stable", "#e5e5e5", "the same class on every date"),
)
NEW_BUILT, MAYBE_BUILT, LOST_BUILT, OTHER, FLICKERING, UNCHANGED = range(len(CATEGORIES))


def categories(change: Change) -> npt.NDArray[np.intp]:
    """(N,) position in CATEGORIES of each tile.

    The decision on new built-up land comes first; the rest follow from the most probable classes of the first and
    the last date (`Change.classes`) and from `Change.kind`.
    """
    series = change.series
    built, open_ = series.members(series.built), series.members(series.open)
    first, last = change.classes[:, 0], change.classes[:, -1]
    moved = first != last
    return np.select(
        [
            change.new_built,
            moved & open_[first] & built[last],
            moved & built[first] & ~built[last],
            moved,
            change.kind == KINDS.index(FLICKER),
        ],
        [NEW_BUILT, MAYBE_BUILT, LOST_BUILT, OTHER, FLICKERING],
        UNCHANGED,
    )


def labels_of(change: Change) -> npt.NDArray[np.object_]:
    """(N,) the label of each tile's category."""
    return np.asarray([item.label for item in CATEGORIES], dtype=object)[categories(change)]
