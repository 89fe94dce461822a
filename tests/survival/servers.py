"""Servers beside the session's own, and the programs that come with a server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import make_conninfo

from pyflowguard import server


@dataclass(frozen=True)
class Running:
    """A server of a test; over TCP it trusts everyone."""

    bin: Path
    directory: Path
    port: int

    def dsn(self, dbname: str = "postgres", user: str = "postgres") -> str:
        """Give a connection string by TCP."""
        return make_conninfo(host="127.0.0.1", port=self.port, dbname=dbname, user=user)


@contextmanager
def started(cluster: server.Cluster) -> Iterator[Running]:
    """Start a server; it, and its directory unless the order was changed, are gone after the block."""
    with server.watched_server(cluster.order) as (port, _):
        yield Running(cluster.bin, cluster.directory, port)


def program(path: Path, *arguments: str, warned: str = "") -> None:
    """Run a program of the server, which must succeed, without a word unless it is to warn of something."""
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert warned in done.stderr if warned else done.stderr == "", done.stderr
