"""Where a database is: `postgresql://user@host/database`, taken apart without ever repeating its password."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from urllib.parse import unquote

from ..errors import DatabaseError

SCHEMA = "geoclass"
"""The schema of a database that holds results, unless another is named."""
NAME_BYTES = 63
"""The longest name PostgreSQL keeps; it cuts longer ones without a word."""
LIMITS: Mapping[str, str] = {"statement_timeout": "10min", "lock_timeout": "60s"}
"""What a statement may take, where the server, the user's role or the address (`?options=`) sets no limit."""

_SCHEMES = ("postgresql://", "postgres://")
_OURS = ("run", "schema")
_EXAMPLE = "give it as postgresql://user@host/database, and the password in PGPASSWORD or ~/.pgpass"


@dataclass(frozen=True)
class Address:
    """A database, the schema of ours in it, and perhaps a run. `shown` is the address for people, without the password;
    `limits` are settings of the server's for what a statement may take."""

    parameters: Mapping[str, str] = field(repr=False)  # may hold the password
    shown: str
    schema: str = SCHEMA
    run: str | None = None
    limits: Mapping[str, str] = field(default_factory=lambda: LIMITS)


def is_address(text: object) -> bool:
    """Whether `text` names a database rather than a file."""
    return isinstance(text, str) and text.lower().startswith(_SCHEMES)


def parse_address(text: str | Address, schema: str | None = None) -> Address:
    """The address in `text`, as libpq reads it, with two parameters of our own: `?schema=NAME&run=ID`.

    `schema` is that of an option, which the address overrides. Raises DatabaseError, which repeats nothing that could be
    part of a password.
    """
    if isinstance(text, Address):
        return text
    if not is_address(text):
        raise DatabaseError(f"that is no address of a PostgreSQL database; {_EXAMPLE}")
    plain, own = _without_ours(text)
    parameters = _parameters(plain)
    named = own.get("schema") or schema or SCHEMA
    require_schema_name(named)
    return Address(parameters, _shown(parameters), named, own.get("run") or None)


def require_schema_name(name: str) -> None:
    """Raise DatabaseError for a name that PostgreSQL would cut short, keeps for itself, or cannot hold."""
    if not name or len(name.encode(errors="replace")) > NAME_BYTES or "\0" in name or name.lower().startswith("pg_"):
        raise DatabaseError(
            f"--schema {name[:80]!r} cannot name a schema; give 1 to {NAME_BYTES} letters and digits, not beginning with pg_"
        )


def psycopg_or_refuse() -> ModuleType:
    """The module psycopg. Raises DatabaseError where it is not installed."""
    try:
        import psycopg
    except ImportError as error:
        raise DatabaseError(
            'databases need psycopg, which is not installed; run pip install "geoclass[postgis]"'
        ) from error
    return psycopg


def _without_ours(text: str) -> tuple[str, dict[str, str]]:
    """`text` without the parameters that libpq does not know, and those."""
    # libpq takes what stands before the first @ as user and password; a ? in there begins no parameters.
    after = text.find("@") + 1
    start = text.find("?", after)
    if start < 0:
        return text, {}
    pairs = [pair for pair in text[start + 1 :].split("&") if pair]
    ours = [pair for pair in pairs if pair.partition("=")[0] in _OURS]
    rest = "&".join(pair for pair in pairs if pair not in ours)
    own = {key: unquote(value) for key, _, value in (pair.partition("=") for pair in ours)}
    return text[:start] + (f"?{rest}" if rest else ""), own


def _parameters(text: str) -> dict[str, str]:
    psycopg = psycopg_or_refuse()
    # A password with a bare @ or / would have its end taken for the host, and be repeated in errors about the host.
    place = text.split("://", 1)[1]
    credentials, mark, _ = place.rpartition("@")
    if mark and (set("@/") & set(credentials)):
        raise DatabaseError(
            "the address has an @ or / too many; in a user's name or password write @ as %40, / as %2F, : as %3A, % as %25"
        )
    try:
        found = psycopg.conninfo.conninfo_to_dict(text)
    except psycopg.ProgrammingError:
        # Without the cause: libpq repeats the part that it could not read.
        raise DatabaseError(f"the address of the database cannot be read; {_EXAMPLE}") from None
    return {key: str(value) for key, value in found.items() if value is not None}


def _shown(parameters: Mapping[str, str]) -> str:
    user, host = parameters.get("user", ""), parameters.get("host", "")
    if host.startswith("/"):  # a socket's folder
        host = host.replace("/", "%2F")
    elif ":" in host:  # IPv6
        host = f"[{host}]"
    secret = ":***" if "password" in parameters else ""
    at = f"{user}{secret}@" if user or secret else ""
    port = f":{parameters['port']}" if "port" in parameters else ""
    return f"postgresql://{at}{host}{port}/{parameters.get('dbname', '')}"


def as_name(text: str) -> str:
    """`text` as a name that SQL takes without quotes: lower case, ASCII, words joined by _; perhaps empty."""
    folded = text.replace("ß", "ss").replace("æ", "ae").replace("ø", "o")
    ascii_only = unicodedata.normalize("NFKD", folded).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "_", ascii_only).strip("_")
