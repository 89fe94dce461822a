"""A durable PostgreSQL that is killed with all its processes at once, and started again on what it left behind.

Nothing is tidied up between two lives: the stale postmaster.pid and the sockets stay, as after a crash, and PostgreSQL
itself finds that they are stale.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo
from servers import memory_directory

from pyflowguard import changes, server
from pyflowguard.watchdog import Order

OWNER = "app_owner"
PATIENCE = 20
"""Seconds after which a killed process must be gone."""


class Mortal:
    """The server, its lives one after the other."""

    def __init__(self, bindir: Path, settings: Mapping[str, str] | None = None, *, initdb: Sequence[str] = ()) -> None:
        # fsync stays on; in memory it costs nothing, and what a killed process wrote is there as it is on a disk.
        self.cluster = server.new_cluster(
            bindir, {"max_prepared_transactions": "20", **(settings or {})}, parent=memory_directory()
        )
        self.order = self.cluster.order
        self.order["prepare"][0].extend(initdb)
        self.life = ExitStack()
        self.port = self.postmaster = 0

    def start(self) -> None:
        """Start it; it answers once recovery is over."""
        order: Order = {**self.order, "remove": []}
        self.port, self.postmaster = self.life.enter_context(server.watched_server(order))
        self.order = {**self.order, "copy": [], "prepare": []}

    def kill(self) -> None:
        """Kill it at this moment; held still first, so that it starts no process that would be missed."""
        os.kill(self.postmaster, signal.SIGSTOP)
        victims = [*children(self.postmaster), self.postmaster]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while any(is_there(victim) for victim in victims):
            assert time.monotonic() < deadline, f"{victims} do not die"
            time.sleep(0.005)
        self.life.close()

    def end(self) -> None:
        """End it for good."""
        self.life.close()
        for path in self.order["remove"]:
            shutil.rmtree(path)

    def dsn(self, dbname: str = "app", user: str = OWNER) -> str:
        """Give a connection string that holds for this life."""
        return make_conninfo(host="127.0.0.1", port=self.port, dbname=dbname, user=user)


@contextmanager
def mortal(bindir: Path, settings: Mapping[str, str] | None = None, *, initdb: Sequence[str] = ()) -> Iterator[Mortal]:
    """Start a server with a database `app` that belongs to app_owner, an ordinary role, and has the engine in it."""
    made = Mortal(bindir, settings, initdb=initdb)
    try:
        made.start()
        with psycopg.connect(made.dsn("postgres", "postgres"), autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {OWNER} LOGIN NOSUPERUSER".encode())
            admin.execute(f"CREATE DATABASE app OWNER {OWNER}".encode())
        changes.deploy(made.dsn())
        yield made
    finally:
        made.end()


def children(parent: int) -> list[int]:
    """Give the processes that a process has started, as Linux tells them."""
    processes = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [process for process in processes if (words := status(process)) and int(words[1]) == parent]


def is_there(process: int) -> bool:
    """Say whether a process still runs; one that nobody has reaped yet does not."""
    words = status(process)
    return bool(words) and words[0] not in {"Z", "X"}


def status(process: int) -> list[str]:
    """Give the state, the parent and what follows of a process; nothing where it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
