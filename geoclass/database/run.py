"""What is told of a result in a database."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RunInfo:
    """One result in a database: `view` shows its tiles there, `loaded` is when last, in ISO 8601."""

    id: str
    name: str | None
    date: str | None
    scheme: str
    tiles: int
    model: str | None
    view: str
    loaded: str
