"""A connection to the database, and its complaints as one line that says the remedy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import DatabaseError
from .address import Address, psycopg_or_refuse

if TYPE_CHECKING:
    import psycopg

CONNECT_SECONDS = 10
"""How long to wait for a server that does not answer; `?connect_timeout=` in the address and PGCONNECT_TIMEOUT go before."""


@contextmanager
def connected(address: Address, *, reading: bool = False) -> Iterator[psycopg.Connection[Any]]:
    """A connection in a transaction, which is committed at the end of the block and rolled back by any error.

    `reading` tells that the block only reads: the server holds it to that, and the remedy for a missing right says so.
    Raises DatabaseError, one line with the remedy, for whatever the database complains of.
    """
    psycopg = psycopg_or_refuse()
    connection = _connect(address)
    connection.read_only = reading or None
    try:
        with connection:
            for name, value in address.limits.items():
                connection.execute(
                    "SELECT set_config(%s, %s, true) WHERE current_setting(%s) = '0'", (name, value, name)
                )
            yield connection
    except psycopg.Error as error:
        raise _complaint(error, address, reading) from error
    except UnicodeEncodeError as error:
        raise DatabaseError(
            f"{address.shown}: its encoding cannot hold {error.object[error.start : error.end]!r}; create it with encoding UTF8"
        ) from error


def _connect(address: Address) -> psycopg.Connection[Any]:
    driver = psycopg_or_refuse()
    defaults: dict[str, Any] = {
        "fallback_application_name": "geoclass",
        "client_encoding": "utf8",
        # A server that vanishes is noticed in a minute or so, not after the hours that TCP would wait.
        "keepalives_idle": 30,
        "tcp_user_timeout": 60_000,
    }
    if "PGCONNECT_TIMEOUT" not in os.environ:
        defaults["connect_timeout"] = CONNECT_SECONDS
    try:
        # Statements are never prepared on the server: a pooler between may give each transaction another session.
        connection: psycopg.Connection[Any] = driver.connect(
            **{**defaults, **address.parameters}, autocommit=False, prepare_threshold=None
        )
    except driver.Error as error:
        raise _refusal(error, address) from error
    return connection


def _refusal(error: psycopg.Error, address: Address) -> DatabaseError:
    """Why there is no connection. libpq says it in words only, and the server in the language it was set to."""
    psycopg = psycopg_or_refuse()
    text, where = _one_line(error), address.shown
    user, database = address.parameters.get("user", "of that name"), address.parameters.get("dbname", "of that name")
    lowered, pgconn = text.lower(), error.pgconn
    if isinstance(error, psycopg.errors.ConnectionTimeout) or "timeout expired" in lowered:
        return DatabaseError(
            f"{where} does not answer; see that it is up and reachable, or wait longer with ?connect_timeout=60 in its address"
        )
    if "database" in lowered and "does not exist" in lowered:
        return DatabaseError(f"{where}: there is no database {database}; make it with createdb {database}")
    if "password authentication failed" in lowered:
        return DatabaseError(f"{where} refuses the password of user {user}; check PGPASSWORD, ~/.pgpass or the address")
    if (pgconn is not None and pgconn.needs_password) or "no password supplied" in lowered:
        return DatabaseError(f"{where} asks for a password; give it in PGPASSWORD or ~/.pgpass")
    if "role" in lowered and "does not exist" in lowered:
        return DatabaseError(f"{where}: there is no user {user}; make it with createuser, or name another")
    if "pg_hba.conf" in lowered:
        return DatabaseError(
            f"{where} does not let user {user} in from this machine; have its administrator add it to pg_hba.conf"
        )
    if "connection refused" in lowered or "no such file or directory" in lowered:
        return DatabaseError(f"no PostgreSQL server answers at {where}; start it, or check host and port")
    return DatabaseError(f"cannot connect to {where}: {text}; check host, port, user and database")


def _complaint(error: psycopg.Error, address: Address, reading: bool) -> DatabaseError:
    """What went wrong in a transaction, of which nothing is stored then."""
    errors, where = psycopg_or_refuse().errors, address.shown
    text = _one_line(error)
    database = address.parameters.get("dbname", "DATABASE")
    user = address.parameters.get("user", "USER")
    if isinstance(error, errors.DiskFull):
        return DatabaseError(
            f"the disk of {where} is full ({text}); nothing was stored: free some space there and load again"
        )
    if isinstance(error, errors.InsufficientPrivilege) and reading:
        grant = f"GRANT USAGE ON SCHEMA {address.schema} TO {user}; GRANT SELECT ON ALL TABLES IN SCHEMA {address.schema} TO {user}"
        return DatabaseError(f"user {user} may not read results in {where} ({text}); have their owner run: {grant}")
    if isinstance(error, errors.InsufficientPrivilege):
        return DatabaseError(
            f"user {user} may not do that in {where} ({text}); have its owner run: GRANT CREATE ON DATABASE {database} TO {user}, "
            "or load as the user who first loaded there"
        )
    if isinstance(error, errors.QueryCanceled):
        return DatabaseError(
            f"{where} was too slow, so nothing was stored ({text}); load again when it is less busy, or allow more with "
            "?options=-cstatement_timeout%3D1h in its address"
        )
    if isinstance(error, errors.LockNotAvailable):
        return DatabaseError(
            f"another load into {where} is under way, so nothing was stored; try again when it is done"
        )
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return DatabaseError(f"{where} is read-only (a standby?); name the primary server")
    if isinstance(error, errors.UntranslatableCharacter):
        return DatabaseError(
            f"{where} cannot hold a name in its encoding ({text}); create the database with encoding UTF8"
        )
    if isinstance(error, errors.OperationalError) and (error.sqlstate is None or error.sqlstate[:2] in ("57", "08")):
        return DatabaseError(f"lost the connection to {where} ({text}); what was not finished is not stored: try again")
    return DatabaseError(f"{where} refuses: {text}; nothing was stored")


def _one_line(error: psycopg.Error) -> str:
    primary = error.diag.message_primary
    text = " ".join((primary or str(error) or type(error).__name__).split())
    return text.removeprefix("connection failed: ")[:300].rstrip(".")
