"""A Postgres of the tests' own: a cluster in a temporary folder, that can be stopped hard and started again."""

from __future__ import annotations

import functools
import itertools
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Literal, Self

import psycopg
from psycopg import sql

INSTALL = "Postgres is not installed: `apt-get install postgresql`, or put the folder of initdb and pg_ctl on PATH."
USER = "tester"
PASSWORD = "a-password-that-is-shown-nowhere"
SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
shared_buffers = 16MB
fsync = on
synchronous_commit = on
"""
# Ends with whoever holds the other end of its input, however that ended: what it started does not outlive it.
KEEPER = 'cat >/dev/null; "$0" stop --silent --mode=immediate --pgdata="$1/data"; rm -rf "$1"'


def programs() -> Path | None:
    """The folder of Postgres' programs, the newest where there are several, or None."""
    found = shutil.which("initdb")
    if found and shutil.which("pg_ctl"):
        return Path(found).resolve().parent
    installed = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(installed, key=lambda folder: float(folder.parent.name), default=None)


def free_port() -> int:
    """A free port, and none that a connection is given meanwhile: it is asked for again after a stop."""
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


class Postgres:
    """A server on 127.0.0.1. Its calls block: `await asyncio.to_thread(server.stop)` where the loop must go on.

    Attributes:
        port: Where it listens, after `stop` and `start` as well.
        running: Whether it was started, and not stopped since.
    """

    def __init__(self, folder: Path) -> None:
        self._programs = folder
        self._names = (f"test{number}" for number in itertools.count())
        self.port = free_port()
        self.running = False

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        if os.geteuid() == 0:  # which Postgres refuses to be run by
            shutil.chown(self._folder, "postgres", "postgres")
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", KEEPER, self._programs / "pg_ctl", self._folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **self._owner(),
        )
        try:
            self._create()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._keeper.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _owner(self) -> dict[str, Any]:
        owner = {"user": "postgres", "group": "postgres", "extra_groups": ()} if os.geteuid() == 0 else {}
        return {**owner, "cwd": self._folder}

    def _run(self, program: str, *arguments: str) -> None:
        # A server that is started keeps what it is given for its output.
        with (self._folder / "output").open("w+") as output:
            command = [str(self._programs / program), f"--pgdata={self._folder / 'data'}", *arguments]
            ended = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
                timeout=60,
                **self._owner(),
            )
            output.seek(0)
            assert ended.returncode == 0, f"{program} failed: {output.read()[-1000:]}"

    def _create(self) -> None:
        password = self._folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)  # in a folder that is its owner's alone
        self._run(
            "initdb",
            "--no-sync",
            "--auth=scram-sha-256",
            f"--username={USER}",
            f"--pwfile={password}",
            "--encoding=UTF8",
            "--no-locale",
        )
        with (self._folder / "data" / "postgresql.conf").open("a") as settings:
            settings.write(f"{SETTINGS}port = {self.port}\n")

    def start(self) -> None:
        """Start it, and wait until it answers; at the port where it was."""
        self._run("pg_ctl", "start", "--wait", "--silent", f"--log={self._folder / 'log'}")
        self.running = True

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "immediate") -> None:
        """Stop it; `immediate` is as if it was killed."""
        self.running = False
        self._run("pg_ctl", "stop", "--wait", "--silent", f"--mode={mode}")

    def dsn(self, database: str) -> str:
        """How a database of this server is reached, with the password."""
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """Make a database, and return how it is reached."""
        name = next(self._names)
        self.execute("postgres", sql.SQL("create database {}").format(sql.Identifier(name)))
        return self.dsn(name)

    def drop_database(self, dsn: str) -> None:
        """Take a database away; who is still connected to it is an error."""
        name = dsn.rpartition("/")[2]
        try:
            self.wait_until_gone(name)
        finally:
            self.execute("postgres", sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))

    @functools.cache  # noqa: B019 (one server for all the tests)
    def shared(self) -> str:
        """A database that is there until the end."""
        return self.create_database()

    def wait_until_gone(self, name: str) -> None:
        """Wait until nobody is connected to a database of that name, or goes by that name."""
        query = """
            select count(*) from pg_stat_activity
            where %s in (datname::text, application_name) and backend_type = 'client backend'
        """
        for _ in range(250):  # what was closed is gone a little later
            if self.execute("postgres", query, name) == [(0,)]:
                return
            time.sleep(0.02)
        raise AssertionError(f"there are connections left to {name}")

    def execute(self, database: str, query: str | sql.Composed, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement in a database, and return its rows."""
        with psycopg.connect(self.dsn(database), autocommit=True, connect_timeout=10) as connection:
            found = connection.execute(query.encode() if isinstance(query, str) else query, values or None)
            return found.fetchall() if found.description else []
