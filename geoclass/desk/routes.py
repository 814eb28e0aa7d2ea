"""The desk's routes: the queue, pictures, answers, the head, agreement and exports."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Query, Request, Response

from ..errors import DatasetError
from ..service.refusal import Refusal
from .answers import MIXED, MIXED_LABEL, Standing, told
from .desk import Desk
from .export import answers_csv, labels_csv, write_gpkg, write_labelled
from .learner import Learned
from .queue import OrderName
from .schemas import (
    ClassFacts,
    Export,
    HeadFacts,
    Kept,
    Pair,
    Queue,
    Status,
    SuggestionFacts,
    TileFacts,
    TileId,
    Told,
    Trained,
    Undo,
    Undone,
    Who,
    Written,
)

router = APIRouter(prefix="/v1/desk")
MOST_TILES = 96
KEPT_PICTURE_S = 3600


def desk_of(request: Request) -> Desk:
    """The desk that a request came to."""
    return cast(Desk, request.app.state.desk)


At = Annotated[Desk, Depends(desk_of)]
By = Annotated[Who, Query()]
Ordered = Annotated[OrderName, Query()]


def _facts(desk: Desk, k: int, one: Standing | None) -> TileFacts:
    known = one or Standing("", False, "", "")
    kind = "mixed" if known.label == MIXED_LABEL else "class" if known.label else "skip" if known.skipped else ""
    before = desk.suggestion(desk.tiles.ids[k]) if desk.suggest == "before" else None
    return TileFacts.model_validate({
        # A tile without a place is called by its id: its key would tell the class, where folders are named by it.
        "id": desk.tiles.ids[k], "name": desk.tiles.tile_ids[k] if desk.tiles.tile_ids else desk.tiles.ids[k][:8],
        "edge": desk.pictures.edge(k), "kind": kind, "label": known.label if kind == "class" else "", "note": known.note,
        "suggested": before.label if before else None, "probability": before.probability if before else None,
    })  # fmt: skip


def _head(learned: Learned | None) -> HeadFacts | None:
    if learned is None:
        return None
    return HeadFacts(
        name=learned.name, labels=learned.labels, accuracy=learned.accuracy, own_accuracy=learned.own_accuracy,
        judged=learned.judged,
    )  # fmt: skip


@router.get("", summary="How far it is")
def status(desk: At, who: By = "-") -> Status:
    """Everything but the tiles themselves, with the progress of `who`."""
    found = desk.standing()
    labels, joined, tiles = told(found), desk.joined(), desk.tiles
    people = {person: sum(tile in desk.place for tile in own) for person, own in labels.items()}
    pairs = [
        Pair(
            first=p.first,
            second=p.second,
            tiles=p.tiles,
            agreed=p.agreed,
            kappa=None if math.isnan(p.kappa) else p.kappa,
        )
        for p in desk.agreements()
    ]
    return Status(
        name=tiles.folder.resolve().name, store=str(desk.answers.path), who=desk.who, order=desk.order, suggest=desk.suggest,
        classes=[ClassFacts(name=one.name, colour=one.colour) for one in tiles.scheme.classes],
        asked=len(tiles.positions), mine=people.get(who, 0), labelled=len(joined.labels), mixed=len(joined.mixed),
        apart=len(joined.apart), judged=int(tiles.judged.sum()), gone=len(desk.gone()), sampled=tiles.sample is not None,
        missing=len(tiles.missing), placed=tiles.grid is not None, stage=desk.learner.stage, features=desk.learner.done,
        total=len(tiles), problem=desk.learner.problem, head=_head(desk.learner.learned),
        counts=dict(Counter(joined.labels.values())), people={p: n for p, n in people.items() if n}, agreements=pairs,
    )  # fmt: skip


@router.get("/queue", summary="The next tiles")
def queue(
    desk: At, who: By, order: Ordered = "uncertain", count: Annotated[int, Query(ge=1, le=MOST_TILES)] = 24,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0, second: bool = False,
) -> Queue:  # fmt: skip
    """The next tiles of a person, in an order; with `second` those first that others have labelled."""
    waiting = desk.queue(who, order, second)
    own = desk.standing().get(who, {})
    return Queue(
        tiles=[_facts(desk, k, own.get(desk.tiles.ids[k])) for k in waiting[offset : offset + count]],
        waiting=len(waiting),
    )


@router.get("/tiles/{tile}.jpg", summary="A picture", response_class=Response)
def picture(desk: At, tile: TileId) -> Response:
    """A tile with the ground around it, as JPEG."""
    if tile not in desk.place or not desk.tiles.asked[desk.place[tile]]:
        raise Refusal(404, "there is no such tile", "reload the page")
    body, _ = desk.pictures(desk.place[tile])
    return Response(body, media_type="image/jpeg", headers={"cache-control": f"private, max-age={KEPT_PICTURE_S}"})


@router.post("/answers", summary="Answer")
def answer(desk: At, given: Told) -> Kept:
    """Keep an answer. Once this returns it is on the disk."""
    desk.answer(given.act, given.who, given.tiles, given.kind, given.label, given.note)
    shown = desk.suggest != "never" and given.kind in ("class", MIXED)
    found = [(tile, desk.suggestion(tile)) for tile in given.tiles] if shown else []
    return Kept(
        kept=len(given.tiles),
        suggestions=[
            SuggestionFacts(tile=tile, suggested=one.label, probability=one.probability, known=one.known)
            for tile, one in found
        ],
    )


@router.post("/undo", summary="Undo")
def undo(desk: At, given: Undo) -> Undone:
    """Take back the last answer of a person; it stays in the store, and so does the undoing."""
    rows = desk.answers.undo(given.act, given.who)
    own = desk.standing().get(given.who, {})
    there = [row.tile for row in rows if row.tile in desk.place]
    return Undone(tiles=[_facts(desk, desk.place[tile], own.get(tile)) for tile in there])


@router.post("/retrain", summary="Retrain the head")
def retrain(desk: At, given: Undo) -> Trained:
    """Fit the head to the labels so far, judge it on the held-out tiles, and order the queue by it."""
    before = desk.queue(given.who, "uncertain")
    try:
        made = desk.retrain()
    except DatasetError as error:
        what, _, remedy = str(error).partition("; ")
        raise Refusal(409, what, remedy) from error
    after = _head(made.after)
    assert after is not None
    moved = sum(a != b for a, b in zip(before, desk.queue(given.who, "uncertain"), strict=False))
    return Trained(before=_head(made.before), after=after, seconds=made.seconds, moved=moved)


@router.get("/labels.csv", summary="Labels as CSV", response_class=Response)
def labels_as_csv(desk: At) -> Response:
    """One row a labelled tile."""
    return _file(labels_csv(desk).encode(), "text/csv; charset=utf-8", "labels.csv")


@router.get("/answers.csv", summary="Answers as CSV", response_class=Response)
def answers_as_csv(desk: At) -> Response:
    """One row for each person and tile."""
    return _file(answers_csv(desk).encode(), "text/csv; charset=utf-8", "answers.csv")


@router.get("/labels.gpkg", summary="Labels as GeoPackage", response_class=Response)
def labels_as_gpkg(desk: At) -> Response:
    """The squares of labelled tiles."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.gpkg"
        write_gpkg(desk, path)
        return _file(path.read_bytes(), "application/geopackage+sqlite3", "labels.gpkg")


@router.post("/dataset", summary="Labels as a dataset")
def labels_as_dataset(desk: At, given: Export) -> Written:
    """Write a dataset folder beside the answers, for `geoclass train`."""
    out = desk.answers.path.with_name(
        f"{desk.answers.path.name.removesuffix('.sqlite').removesuffix('.labels')}-labelled"
    )
    counts = write_labelled(desk, out, overwrite=True)
    return Written(told=f"{sum(counts.values()):,} labelled tiles in {out}", next=f"geoclass train {out} -o m.pt")


def _file(body: bytes, kind: str, name: str) -> Response:
    headers: dict[str, Any] = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(body, media_type=kind, headers=headers)
