"""What a service is started with, and how much it takes."""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ..database.address import parse_address
from ..errors import ServiceError

MEBI = 1 << 20
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
TOKEN_LENGTH = 16
"""Fewer characters than this could be guessed."""


@dataclass(frozen=True)
class Limits:
    """The most that is taken; what is above is refused before it is decoded.

    Sizes are in bytes, times in seconds. upload_bytes: a scene with all its files; predict_bytes and pictures: one request
    for classes; picture_pixels: one picture; scene_pixels: one file, all bands counted once; block_bytes: what GDAL has
    to unpack at once; waiting_tiles: pictures that wait for the network; waiting_jobs: jobs that wait; requests: at once;
    run_tiles: a result in the database that is sent as one file; waiting_questions: to the database; database_s: one statement
    there.
    """

    upload_bytes: int = 4096 * MEBI
    predict_bytes: int = 64 * MEBI
    pictures: int = 64
    picture_pixels: int = 25_000_000
    scene_pixels: int = 20_000_000_000
    block_bytes: int = 256 * MEBI
    waiting_tiles: int = 512
    waiting_jobs: int = 64
    requests: int = 256
    run_tiles: int = 2_000_000
    waiting_questions: int = 64
    idle_s: float = 30.0
    predict_s: float = 60.0
    upload_s: float = 3600.0
    examine_s: float = 30.0
    job_s: float = 24 * 3600.0
    database_s: float = 20.0


@dataclass(frozen=True)
class Settings:
    """One service. `roots` are folders whose scenes may be named in a request, `urls` the beginnings of allowed URLs.

    hosts: names under which it is reached from elsewhere (behind a proxy); database: where results are kept, as
    postgresql://user@host/database. Raises GeoclassError for what cannot be.
    """

    models: tuple[Path, ...]
    data: Path = Path("geoclass-data")
    host: str = "127.0.0.1"
    port: int = 8000
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    roots: tuple[Path, ...] = ()
    urls: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    device: str = "auto"
    runtime: str = "auto"
    jobs: int = 1
    database: str | None = None
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if len(self.token) < TOKEN_LENGTH or not self.token.isascii() or not self.token.isprintable():
            raise ServiceError(
                f"the token is refused; give {TOKEN_LENGTH} or more plain characters, or none for a fresh one"
            )
        for root in self.roots:
            if not root.is_dir():
                raise ServiceError(f"--allow-root {root} is no folder; give one that holds scenes")
        for url in self.urls:
            if not _is_beginning(url):
                raise ServiceError(f"--allow-url {url!r} is no beginning of a URL; write it as https://host/folder/")
        if self.database is not None and "password" in parse_address(self.database).parameters:
            # It would be in the list of processes and in the environment of those that open clients' files.
            raise ServiceError(
                "the address of --database has a password in it; leave it out, and give it in PGPASSWORD or ~/.pgpass"
            )
        if self.jobs < 1:
            raise ServiceError(f"--jobs is {self.jobs}; give 1 or more")

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine reaches it directly."""
        return is_loopback(self.host)

    @property
    def open_reads(self) -> bool:
        """Whether this machine's own users may read without a token: not where a proxy lets others in."""
        return self.on_loopback and not self.hosts


def _is_beginning(url: str) -> bool:
    """Whether a URL names a server, and perhaps a folder there, and nothing else."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # read here only to see that it is one
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username and not parts.query


def is_loopback(host: str) -> bool:
    """Whether a host name or address, as in a Host header without its port, is this machine's own."""
    name = host.strip("[]").lower()
    if name in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
