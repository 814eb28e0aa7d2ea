"""Jobs in SQLite: what was accepted, how far it is, and what became of it. Survives a kill at any moment.

One connection writes and reads, under a lock: a job's row changes a few times a second at most.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any, Literal, get_args

from ..errors import ServiceError
from .refusal import one_line

State = Literal["queued", "running", "done", "failed", "cancelled"]
STATES: tuple[State, ...] = get_args(State)
ATTEMPTS = 3
"""A job that ended its process this often without a word is not tried again."""
LOG_LINES = 200

SCHEMA = """
create table if not exists jobs (
    id text primary key, name text not null, model text not null, state text not null, spec text not null,
    created real not null, started real, finished real, stage text not null default '', done integer not null default 0,
    total integer not null default 0, eta_s real, attempts integer not null default 0,
    error text, remedy text, files text not null default '{}', run text, number integer not null
);
create index if not exists jobs_by_state on jobs (state, number);
create table if not exists log (job text not null references jobs (id) on delete cascade, at real not null, line text not null);
create index if not exists log_by_job on log (job);
"""


@dataclass(frozen=True)
class Job:
    """One job. Times are seconds since 1970, `done` of `total` tiles; `spec` is what the worker is given, `files` the
    results by kind, relative to the job's folder; `run` is its id in the database, where it was stored there."""

    id: str
    name: str
    model: str
    state: State
    spec: Mapping[str, Any]
    created: float
    started: float | None
    finished: float | None
    stage: str
    done: int
    total: int
    eta_s: float | None
    attempts: int
    error: str | None
    remedy: str | None
    files: Mapping[str, str]
    run: str | None

    @property
    def over(self) -> bool:
        return self.state not in ("queued", "running")


class Jobs:
    """The table. Raises ServiceError where the database is none."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            self._db.execute("pragma journal_mode=wal")
            self._db.execute("pragma synchronous=full")  # what was accepted is on the disk
            self._db.execute("pragma foreign_keys=on")
            self._db.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise ServiceError(
                f"{path} is no database of jobs ({error}); restore it from a copy, or give another --data"
            ) from error

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _do(self, command: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(command, values).fetchall()

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Write all of what follows or, where it fails, nothing."""
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            self._db.execute("begin immediate")
            try:
                yield
                self._db.execute("commit")
            except BaseException:
                if self._db.in_transaction:  # SQLite itself ends some that failed
                    self._db.execute("rollback")
                raise

    def add(self, name: str, model: str, spec: Mapping[str, Any], job: str) -> Job:
        """A new job at the end of the queue."""
        with self._whole():
            self._do(
                "insert into jobs (id, name, model, state, spec, created, number) "
                "values (?, ?, ?, 'queued', ?, ?, (select coalesce(max(number), 0) + 1 from jobs))",
                job, name, model, json.dumps(dict(spec)), time(),
            )  # fmt: skip
            self.say(job, "accepted")
        found = self.get(job)
        assert found is not None  # it was written just now
        return found

    def get(self, job: str) -> Job | None:
        rows = self._do("select * from jobs where id = ?", job)
        return _job(rows[0]) if rows else None

    def page(self, state: State | None, limit: int, offset: int) -> list[Job]:
        """Jobs, the newest first."""
        rows = self._do(
            "select * from jobs where ?1 is null or state = ?1 order by number desc limit ?2 offset ?3",
            state,
            limit,
            offset,
        )
        return [_job(row) for row in rows]

    def ids(self) -> set[str]:
        return {row["id"] for row in self._do("select id from jobs")}

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state."""
        rows = self._do("select state, count(*) as many from jobs group by state")
        return {**dict.fromkeys(STATES, 0), **{row["state"]: row["many"] for row in rows}}

    def claim(self) -> Job | None:
        """The oldest job that waits, now running; None where none does."""
        rows = self._do(
            "update jobs set state = 'running', started = coalesce(started, ?), attempts = attempts + 1, stage = 'starting', "
            "eta_s = null where id = (select id from jobs where state = 'queued' order by number limit 1) returning *",
            time(),
        )
        return _job(rows[0]) if rows else None

    def progress(self, job: str, stage: str, done: int, total: int, eta_s: float | None) -> None:
        self._do(
            "update jobs set stage = ?, done = ?, total = ?, eta_s = ? where id = ? and state = 'running'",
            stage, done, total, eta_s, job,
        )  # fmt: skip

    def finish(self, job: str, files: Mapping[str, str], run: str | None = None) -> None:
        with self._whole():
            self._end(job, "done", None, None, files)
            self._do("update jobs set run = ? where id = ? and state = 'done'", run, job)

    def fail(self, job: str, error: str, remedy: str, files: Mapping[str, str] | None = None) -> None:
        """`files`: results that there are all the same, where only storing them in the database failed."""
        self._end(job, "failed", error, remedy, files or {})

    def _end(self, job: str, state: State, error: str | None, remedy: str | None, files: Mapping[str, str]) -> None:
        with self._whole():
            self._do(
                "update jobs set state = ?, error = ?, remedy = ?, files = ?, finished = ?, eta_s = null "
                "where id = ? and state = 'running'",
                state, error, remedy, json.dumps(dict(files)), time(), job,
            )  # fmt: skip
            self.say(job, f"{state}: {error}" if error else state)

    def requeue(self, job: str, why: str) -> None:
        """Put a running job back at its old place in the queue, or end it where it was tried too often."""
        with self._whole():
            found = self.get(job)
            if found is None or found.state != "running":
                return
            if found.attempts >= ATTEMPTS:
                self.fail(job, f"{why} {found.attempts} times", "check the scene with geoclass doctor, and the memory")
                return
            self._do("update jobs set state = 'queued', eta_s = null where id = ?", job)
            self.say(job, f"{why}; it goes on where it stopped")

    def requeue_all(self, why: str) -> None:
        """Put back what ran when the service was killed. That is no fault of the job's: it does not count as a try."""
        with self._whole():
            self._do("update jobs set attempts = attempts - 1 where state = 'running'")
            for row in self._do("select id from jobs where state = 'running'"):
                self.requeue(row["id"], why)

    def cancel(self, job: str) -> bool:
        """Cancel a job that waits or runs; whether it was one."""
        with self._lock:
            rows = self._do(
                "update jobs set state = 'cancelled', finished = ?, eta_s = null "
                "where id = ? and state in ('queued', 'running') returning id",
                time(), job,
            )  # fmt: skip
            if rows:
                self.say(job, "cancelled")
            return bool(rows)

    def resume(self, job: str) -> bool:
        """Queue a cancelled or failed job again; whether it was one."""
        with self._lock:
            rows = self._do(
                "update jobs set state = 'queued', attempts = 0, finished = null, error = null, remedy = null "
                "where id = ? and state in ('cancelled', 'failed') returning id",
                job,
            )
            if rows:
                self.say(job, "queued again")
            return bool(rows)

    def delete(self, job: str) -> bool:
        """Forget a job that does not run; whether it was one."""
        return bool(self._do("delete from jobs where id = ? and state != 'running' returning id", job))

    def say(self, job: str, line: str) -> None:
        """Add a line to a job's log; old ones go."""
        with self._lock:
            if not self._do("select 1 from jobs where id = ?", job):
                return
            self._do("insert into log (job, at, line) values (?, ?, ?)", job, time(), one_line(line))
            self._do(
                "delete from log where job = ?1 and rowid not in "
                "(select rowid from log where job = ?1 order by rowid desc limit ?2)",
                job, LOG_LINES,
            )  # fmt: skip

    def log(self, job: str) -> list[tuple[float, str]]:
        """(seconds since 1970, line), the oldest first."""
        return [
            (row["at"], row["line"]) for row in self._do("select at, line from log where job = ? order by rowid", job)
        ]


def new_id() -> str:
    return secrets.token_hex(8)


def _job(row: sqlite3.Row) -> Job:
    values = {key: row[key] for key in row.keys() if key != "number"}  # noqa: SIM118  (a Row iterates over its values)
    values["spec"], values["files"] = json.loads(values["spec"]), json.loads(values["files"])
    return Job(**values)
