"""What people answered, in SQLite: rows are added and never changed, each on the disk before it is acknowledged.

One row is one person's word on one tile: its class, that it is mixed, or that it is left for later (skip), with a note
if any. Undoing is a row too, which names the act it takes back; an act is all rows of one key press. Nothing is lost by
a kill."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from ..errors import DatasetError, OutputError

Kind = Literal["class", "mixed", "skip", "note"]
KINDS: tuple[Kind, ...] = get_args(Kind)
UNDO = "undo"
MIXED = "mixed"

SCHEMA = """
create table if not exists answers (
    number integer primary key, act text not null, tile text not null, person text not null, kind text not null,
    class text not null default '', note text, time text not null, unique (act, tile)
);
create index if not exists answers_by_person on answers (person, number);
create trigger if not exists answers_stay before update on answers begin select raise(abort, 'answers are kept'); end;
create trigger if not exists answers_last before delete on answers begin select raise(abort, 'answers are kept'); end;
"""


@dataclass(frozen=True)
class Answer:
    """A row. label: the class where `kind` is class; note: None where the row says nothing of it; time: UTC, ISO
    8601."""

    act: str
    tile: str
    person: str
    kind: str
    label: str
    note: str | None
    time: str


@dataclass(frozen=True)
class Standing:
    """What stands of one person's answers on one tile. label: a class, MIXED, or empty for a skipped tile, or for one
    with a note only."""

    label: str
    skipped: bool
    note: str
    time: str


class Answers:
    """The table in the file `path`. Raises DatasetError where that is something else, OutputError where the disk
    fails."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._rows: list[Answer] = []
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("pragma journal_mode=wal")
            self._db.execute("pragma synchronous=full")  # an answer that is acknowledged is on the disk
            self._db.executescript(SCHEMA)
            columns = "act, tile, person, kind, class, note, time"
            self._rows = [Answer(*row) for row in self._db.execute(f"select {columns} from answers order by number")]
        except sqlite3.OperationalError as error:
            raise OutputError(f"{path} cannot be opened ({error}); choose another place with --store") from error
        except sqlite3.DatabaseError as error:
            raise DatasetError(f"{path} holds no answers ({error}); move it away, or name another --store") from error

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def rows(self) -> tuple[Answer, ...]:
        """Every row, undone ones and undoings included, the oldest first."""
        with self._lock:
            return tuple(self._rows)

    def add(
        self, act: str, person: str, tiles: Sequence[str], kind: Kind, label: str = "", note: str | None = None
    ) -> None:
        """Write one act: the same word on each of `tiles`. An act that is there already is not written again."""
        self._write([Answer(act, tile, person, kind, label, note, _now()) for tile in tiles])

    def undo(self, act: str, person: str) -> tuple[Answer, ...]:
        """Take back the last act of `person` that stands; its rows, none where there is nothing to undo.

        An undoing that is there already takes nothing more back, and answers what it did: it comes again where its
        reply was lost.
        """
        with self._lock:
            before = next((row for row in self._rows if row.act == act), None)
            if before is not None:
                last = before.label if (before.kind, before.person) == (UNDO, person) else None
            else:
                last = next((row.act for row in reversed(standing_rows(self._rows)) if row.person == person), None)
            if last is None:
                return ()
            if before is None:
                self._write([Answer(act, "", person, UNDO, last, None, _now())])
            return tuple(row for row in self._rows if row.act == last)

    def _write(self, rows: Sequence[Answer]) -> None:
        with self._lock:
            known = {row.act for row in self._rows}
            new = [row for row in rows if row.act not in known]
            try:
                self._db.execute("begin immediate")
                self._db.executemany(
                    "insert into answers (act, tile, person, kind, class, note, time) values (?, ?, ?, ?, ?, ?, ?)",
                    [(row.act, row.tile, row.person, row.kind, row.label, row.note, row.time) for row in new],
                )
                self._db.execute("commit")
            except sqlite3.Error as error:
                if self._db.in_transaction:
                    self._db.execute("rollback")
                full = "full" in str(error)
                what = "the disk is full" if full else f"the answer cannot be written ({error})"
                raise OutputError(
                    f"{what}, so it is not kept in {self.path}; {'free some space' if full else 'check the disk'} and answer again"
                ) from error
            self._rows += new


def standing_rows(rows: Iterable[Answer]) -> list[Answer]:
    """The rows that no undoing took back, undoings left out."""
    rows = list(rows)
    undone = {row.label for row in rows if row.kind == UNDO}
    return [row for row in rows if row.kind != UNDO and row.act not in undone]


def standing(rows: Iterable[Answer]) -> dict[str, dict[str, Standing]]:
    """person → tile → what stands: the last answer, and the last note."""
    found: dict[str, dict[str, Standing]] = {}
    for row in standing_rows(rows):
        own = found.setdefault(row.person, {})
        before = own.get(row.tile, Standing("", False, "", row.time))
        note = before.note if row.note is None else row.note
        if row.kind == "note":
            own[row.tile] = Standing(before.label, before.skipped, note, row.time)
        else:
            label = MIXED_LABEL if row.kind == MIXED else row.label
            own[row.tile] = Standing(label, row.kind == "skip", note, row.time)
    return found


MIXED_LABEL = "\N{NULL}mixed"
"""Stands for `mixed` among class names; no class can be called so."""


def told(found: Mapping[str, Mapping[str, Standing]]) -> dict[str, dict[str, str]]:
    """person → tile → class or MIXED_LABEL, of the tiles that have either."""
    return {
        person: {tile: one.label for tile, one in own.items() if one.label} for person, own in sorted(found.items())
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
