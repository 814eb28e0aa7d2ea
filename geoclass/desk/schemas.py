"""What goes over the wire between the page and the desk."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

import pydantic

from .queue import OrderName

MOST_AT_ONCE = 500


def _printed(text: str) -> str:
    """A name as it is, of one line without control characters."""
    if any(unicodedata.category(sign) in ("Cc", "Zl", "Zp") for sign in text):
        raise ValueError("control characters are not taken; leave them out")
    return text


def _written(text: str) -> str:
    """A note as it is; it may have lines, and tabs where it was copied from a table."""
    _printed(text.replace("\n", " ").replace("\t", " "))
    return text


Who = Annotated[
    str,
    pydantic.StringConstraints(strip_whitespace=True, min_length=1, max_length=80),
    pydantic.AfterValidator(_printed),
]
Note = Annotated[str, pydantic.StringConstraints(max_length=500), pydantic.AfterValidator(_written)]
Act = Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9A-Za-z-]{16,64}$")]
TileId = Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{16}$")]


class Strict(pydantic.BaseModel, extra="forbid"):
    """No field but those named."""


class Told(Strict):
    """One answer on one tile or several. act: made up by the page, so that what is sent twice is kept once."""

    act: Act
    who: Who
    tiles: list[TileId] = pydantic.Field(min_length=1, max_length=MOST_AT_ONCE)
    kind: Literal["class", "mixed", "skip", "note"]
    label: str = pydantic.Field(default="", max_length=60)
    note: Note | None = None


class Undo(Strict):
    """Take back the last act of a person."""

    act: Act
    who: Who


class Export(Strict):
    """Write the dataset folder beside the answers, in place of one that was written before."""

    kind: Literal["dataset"]


class ClassFacts(Strict):
    name: str
    colour: str


class TileFacts(Strict):
    """A tile in the gallery. edge: share of the picture that lies around the tile on each side; suggested, probability:
    only where the desk was told to show them before the answer. label: `mixed`, skipped and unanswered tiles have kinds
    of their own."""

    id: str
    name: str
    edge: float
    kind: Literal["", "class", "mixed", "skip"] = ""
    label: str = ""
    note: str = ""
    suggested: str | None = None
    probability: float | None = None


class Queue(Strict):
    """The next tiles of a person, and how many wait in all."""

    tiles: list[TileFacts]
    waiting: int


class SuggestionFacts(Strict):
    """What the head says of a tile, and the label that the data came with."""

    tile: str
    suggested: str | None
    probability: float | None
    known: str | None


class Kept(Strict):
    """The answer is on the disk. suggestions: after the answer, unless the desk was told never to show them."""

    kept: int
    suggestions: list[SuggestionFacts]


class Undone(Strict):
    """The tiles that are as before; none where there was nothing to undo."""

    tiles: list[TileFacts]


class HeadFacts(Strict):
    """A head. accuracy: on `judged` held-out tiles; own_accuracy: in cross-validation on its `labels` tiles."""

    name: str
    labels: int
    accuracy: float | None
    own_accuracy: float | None
    judged: int


class Trained(Strict):
    """The heads before and after, and how long it took."""

    before: HeadFacts | None
    after: HeadFacts
    seconds: float
    moved: int


class Pair(Strict):
    """Agreement of two people on the tiles both labelled; kappa is None where it is undefined."""

    first: str
    second: str
    tiles: int
    agreed: float
    kappa: float | None


class Status(Strict):
    """All that the page shows besides tiles."""

    name: str
    store: str
    classes: list[ClassFacts]
    who: str
    order: OrderName
    suggest: Literal["after", "before", "never"]
    asked: int
    mine: int
    labelled: int
    mixed: int
    apart: int
    judged: int
    gone: int
    sampled: bool
    missing: int
    placed: bool
    stage: Literal["features", "ready", "failed"]
    features: int
    total: int
    problem: str
    head: HeadFacts | None
    counts: dict[str, int]
    people: dict[str, int]
    agreements: list[Pair]


class Written(Strict):
    """What was written, and the command that comes next."""

    told: str
    next: str
