"""Clients that share one connection to the server, behind pgbouncer in transaction mode.

What the guard does in a transaction ends with it, so nobody else meets it. What a client does to the session, another
client meets: `SET` without LOCAL is that, and a test shows it.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias

import psycopg
import pytest
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import Guarded, link, links
from psycopg.conninfo import make_conninfo

Client: TypeAlias = Callable[[], Connection]
"""Connects one more client to the pooler."""

Clients: TypeAlias = Callable[[str], tuple[Connection, Client]]

PATIENCE = 20  # seconds after which the pooler must answer
SETTINGS = """
[databases]
app = host={host} port={port} dbname={dbname} user={user} pool_size=1

[pgbouncer]
pool_mode = transaction
auth_type = any
listen_addr =
listen_port = 6432
unix_socket_dir = {directory}
ignore_startup_parameters = extra_float_digits,options
"""


@contextmanager
def pooler(program: str, to: Connection) -> Iterator[str]:
    """Run pgbouncer, with one connection to this database; gives the connection string for clients.

    It listens on a socket in a directory of its own, so that no port can be taken. As root it runs as `nobody`.
    """
    with tempfile.TemporaryDirectory(prefix="pyflowguard-", dir="/tmp") as name:
        directory = Path(name)
        server = to.info
        (directory / "pgbouncer.ini").write_text(
            SETTINGS.format(
                host=server.host, port=server.port, dbname=server.dbname, user=server.user, directory=directory
            )
        )
        command = [program, str(directory / "pgbouncer.ini")]
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(directory, nobody.pw_uid, nobody.pw_gid)
            command[1:1] = ["-u", "nobody"]
        with (directory / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as running:
            try:
                dsn = make_conninfo(host=name, port=6432, dbname="app", user="anyone")
                deadline = time.monotonic() + PATIENCE
                while not answers(dsn):
                    assert running.poll() is None, (directory / "log").read_text()
                    assert time.monotonic() < deadline, (directory / "log").read_text()
                    time.sleep(0.02)
                yield dsn
            finally:
                running.kill()


def answers(dsn: str) -> bool:
    """Say whether the pooler takes connections yet; its socket is there a moment before."""
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture
def clients(guarded: Guarded, tool: Callable[[str], str]) -> Iterator[Clients]:
    """Give the small application in a mode, as its owner sees it directly, and a way to connect clients by a pooler."""
    with ExitStack() as stack:

        def connect(mode: str) -> tuple[Connection, Client]:
            owner = guarded(mode)
            dsn = stack.enter_context(pooler(tool("pgbouncer"), owner))
            # Statements are not prepared in the server: the next transaction may meet another one, or another's.
            return owner, lambda: stack.enter_context(psycopg.connect(dsn, autocommit=True, prepare_threshold=None))

        yield connect


def test_clients_share_a_connection_and_rows_are_linked(clients: Clients) -> None:
    """Filled at the insert, linked late, unlinked again; each by another client than the one before."""
    _, client = clients("observe")
    one_, two, three = client(), client(), client()
    assert len({one(each, "SELECT pg_backend_pid()") for each in (one_, two, three)}) == 1
    run(one_, "INSERT INTO parent VALUES (10, 1, 2), (11, 1, NULL)")
    run(two, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 1, 11)")
    assert links(three, "child") == {20: 2, 21: None}
    run(three, "UPDATE parent SET flow = 3 WHERE id = 11")
    assert links(one_, "child") == {20: 2, 21: 3}
    run(one_, "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 12:00Z')")
    run(two, "INSERT INTO probe (id, tenant, at) VALUES (60, 1, '2025-01-01 12:30Z')")
    assert link(three, "probe", 60) == 1
    with refused("23503"):
        run(two, "UPDATE parent SET flow = 77 WHERE id = 10")
    assert rows(one_, "SELECT FROM flowguard.violation") == []


def test_what_is_refused_at_commit_is_refused_to_its_client(clients: Clients) -> None:
    _, client = clients("enforce")
    careless, careful = client(), client()
    run(careless, "BEGIN")
    run(careless, "INSERT INTO parent VALUES (10, 1)")
    with refused("FG001"):
        run(careless, "COMMIT")
    run(careful, "BEGIN")
    run(careful, "INSERT INTO parent VALUES (11, 1)")
    run(careful, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 11)")
    run(careful, "UPDATE parent SET flow = 2 WHERE id = 11")
    run(careful, "COMMIT")
    assert (links(careless, "parent"), links(careless, "child")) == ({11: 2}, {20: 2})


def test_a_setting_of_the_transaction_is_nobody_elses(clients: Clients) -> None:
    _, client = clients("observe")
    one_, two = client(), client()
    for flow, key in ((2, 10), (3, 11)):
        with one_.transaction():
            run(one_, f"SET LOCAL flowguard.flow = '{flow}'")
            run(one_, "INSERT INTO parent VALUES (%s, 1)", key)
        run(two, "INSERT INTO parent VALUES (%s, 1)", key + 10)
    with one_.transaction(force_rollback=True):
        run(one_, "SET LOCAL flowguard.flow = '3'")
    run(two, "INSERT INTO parent VALUES (30, 1)")
    assert links(two, "parent") == {10: 2, 20: None, 11: 3, 21: None, 30: None}


def test_a_setting_of_the_session_is_what_others_meet(clients: Clients) -> None:
    """So it must not be done; docs/concepts.md says so."""
    owner, client = clients("observe")
    run(client(), "SET flowguard.flow = '2'")
    run(client(), "INSERT INTO parent VALUES (10, 1)")
    assert link(owner, "parent", 10) == 2


def test_a_bypass_is_over_with_its_transaction(clients: Clients) -> None:
    _, client = clients("enforce")
    admin, other = client(), client()
    with admin.transaction():
        run(admin, "SELECT flowguard.bypass('moved by hand')")
        run(admin, "INSERT INTO parent VALUES (10, 1)")
    with refused("FG001"):
        run(other, "INSERT INTO parent VALUES (11, 1)")
    assert links(other, "parent") == {10: None}


def test_statements_that_are_not_prepared_in_the_server_go_on_for_ever(clients: Clients) -> None:
    """A client of psycopg prepares what it sends more than five times, unless it is told not to."""
    _, client = clients("observe")
    pair = client(), client()
    run(pair[0], "INSERT INTO parent VALUES (10, 1, 2)")
    for number in range(30):
        with pair[number % 2].transaction():
            run(pair[number % 2], "INSERT INTO child (id, tenant, parent) VALUES (%s, 1, 10)", number)
    assert links(pair[0], "child") == dict.fromkeys(range(30), 2)
