"""A PostgreSQL server with PostGIS of the tests' own: in a temporary folder, on a free port, gone when they end."""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from conftest import free_port

ADMIN, PLANNER, PASSWORD = "postgres", "planner", "s3cret:pass"
ENCODED = "s3cret%3Apass"
OPTIONS = {"fsync": "off", "full_page_writes": "off", "listen_addresses": "127.0.0.1", "max_wal_size": "64MB"}


def binaries() -> Path | None:
    """The folder of initdb and postgres, the newest where there are several; Debian keeps them off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    named = shutil.which("initdb")
    return found[-1].parent if found else Path(named).resolve().parent if named else None


def has_postgis(folder: Path) -> bool:
    done = subprocess.run([folder / "pg_config", "--sharedir"], capture_output=True, text=True)
    return done.returncode == 0 and (Path(done.stdout.strip()) / "extension" / "postgis.control").exists()


def other_user() -> dict[str, Any]:
    """PostgreSQL refuses to run as root, so as root it gets another user."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise RuntimeError("no user to run PostgreSQL as")


@dataclass
class Server:
    """`create` makes databases; the user `planner` owns them and is no administrator."""

    port: int
    folder: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def address(self, database: str, user: str = PLANNER, password: str = ENCODED) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def admin(self, database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(self.address(database, ADMIN), autocommit=True)

    def create(self, postgis: bool = True, options: str = "") -> str:
        """A new database; its name."""
        name = f"gis{next(self.numbers)}"
        with self.admin() as connection:
            template = "gis_template" if postgis else "template0"
            connection.execute(f"CREATE DATABASE {name} OWNER {PLANNER} TEMPLATE {template} {options}")
        return name


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """A server with the programs in `folder`."""
    home = Path(tempfile.mkdtemp(prefix="geoclass-pg-"))
    user = other_user()
    try:
        if user:
            os.chown(home, user["user"], user["group"])
        (home / "password").write_text(PASSWORD)
        (home / "password").chmod(0o644)
        run = {"cwd": home, "env": {"LC_ALL": "C", "PATH": os.environ["PATH"]}, **user}
        made = subprocess.run(
            [folder / "initdb", "-D", home / "data", "-U", ADMIN, "-A", "scram-sha-256", f"--pwfile={home / 'password'}",
             "-E", "UTF8", "--locale=C", "--no-sync",
             "--wal-segsize=1"],
            capture_output=True, text=True, **run,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        port = free_port()
        options = [part for key, value in OPTIONS.items() for part in ("-c", f"{key}={value}")]
        with (home / "log").open("w") as log:
            process = subprocess.Popen(
                [folder / "postgres", "-D", home / "data", "-p", str(port), "-k", home, *options], stderr=log, **run
            )
        try:
            server = Server(port, home)
            prepare(server, process)
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            process.wait(timeout=60)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def prepare(server: Server, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            connection = server.admin()
            break
        except psycopg.OperationalError:
            assert process.poll() is None, (server.folder / "log").read_text()
            assert time.monotonic() < until, "PostgreSQL does not start"
            time.sleep(0.1)
    with connection:
        connection.execute(f"CREATE ROLE {PLANNER} LOGIN PASSWORD '{PASSWORD}'")
        connection.execute("CREATE DATABASE gis_template")
    with server.admin("gis_template") as connection:
        connection.execute("CREATE EXTENSION postgis")
        connection.execute(f"GRANT INSERT ON spatial_ref_sys TO {PLANNER}")
