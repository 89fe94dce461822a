"""No room to write: the server's files may not grow beyond a limit, while a repair writes and while guard builds.

A limit on the size of files is what an ordinary user can set, too. WAL segments are kept below it: a server that cannot
write its WAL stops, as PostgreSQL is made to, and then it is a server that was killed (test_kills.py).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from acceptance.command import Run, failure
from concurrency.invariants import LEDGER
from engine.postgres import Connection, one, rows, run
from engine.tables import LINKS, create, register
from faults.mortal import Mortal, mortal

from pyflowguard.errors import ExitCode

PARENTS = 100
CHILDREN = 40_000
BATCH = 2000
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def small(postgresql: Any) -> Iterator[Mortal]:  # noqa: ANN401  conftest's class
    """Start a server whose WAL segments are of a megabyte, with many unlinked children in its database."""
    with mortal(postgresql.bin, initdb=("--wal-segsize=1",)) as made:
        with psycopg.connect(made.dsn(), autocommit=True) as app:
            create(app)
            register(app)
            run(app, "INSERT INTO parent SELECT n, 1, 2 FROM generate_series(1, %s) n", PARENTS)
            run(
                app,
                "INSERT INTO child (id, tenant, parent, note) SELECT n, 1, 1 + n %% %s, repeat('x', 60) "
                "FROM generate_series(1, %s) n",
                PARENTS,
                CHILDREN,
            )
        yield made


@contextmanager
def file_limit(server: Mortal, size: int) -> Iterator[None]:
    """While the block runs, whoever connects is served by a process whose files may not grow beyond this."""
    set_limit(server, str(size))
    try:
        yield
    finally:
        set_limit(server, "unlimited")


def set_limit(server: Mortal, size: str) -> None:
    """Set the limit as the server's own user, who may do that, as root without every capability may not."""
    command = ["prlimit", f"--pid={server.postmaster}", f"--fsize={size}:"]
    uid, gid = server.order["uid"], server.order["gid"]
    subprocess.run(command, check=True, user=uid, group=gid, extra_groups=None if uid is None else [])


def says_there_is_no_room(said: str) -> None:
    """The part of a page that has room is written: the server says that, or that the file is too large."""
    assert re.search(r"could not (extend|write)[^\n]*: (File too large|wrote only \d+ of \d+ bytes)", said), said
    assert "HINT:" in said, said


def test_a_repair_keeps_what_it_committed_and_goes_on(small: Mortal, command: Run) -> None:
    arguments = ("repair", "child", "--link-column", "flow", "--batch-size", str(BATCH), "--dsn", small.dsn())
    with psycopg.connect(small.dsn(), autocommit=True) as app:
        size = one(app, "SELECT pg_relation_size('child')")
        with file_limit(small, size + size // 5):
            says_there_is_no_room(failure(command(*arguments), ExitCode.FAILED))
        linked = one(app, "SELECT count(*) FROM child WHERE flow IS NOT NULL")
        assert 0 < linked < CHILDREN
        assert linked % BATCH == 0
        assert one(app, "SELECT count(*) FROM flowguard.run_change") == linked
        assert rows(app, "SELECT linked, finished_at FROM flowguard.run") == [(linked, None)]
        again = command(*arguments)
        assert again.returncode == ExitCode.OK, again
        assert rows(app, "SELECT flow, count(*) FROM child GROUP BY 1") == [(2, CHILDREN)]
        assert one(app, "SELECT count(*) FROM flowguard.run_change") == CHILDREN
        assert rows(app, "SELECT FROM flowguard.run WHERE status = 'running'") == []
        assert rows(app, LEDGER) == []


def test_guard_leaves_what_it_built_and_goes_on(small: Mortal, command: Run) -> None:
    with psycopg.connect(small.dsn(), autocommit=True) as app:
        with file_limit(small, MEGABYTE):
            says_there_is_no_room(failed_on_the_way(command("guard", "--dsn", small.dsn()), ExitCode.FAILED))
        # Other sessions write as before; a next try finds no more room than the first.
        run(app, "INSERT INTO child (id, tenant, parent) VALUES (0, 1, 1)")
        assert is_incomplete(app)
        with file_limit(small, MEGABYTE):
            says_there_is_no_room(failed_on_the_way(command("guard", "--dsn", small.dsn()), ExitCode.FAILED))
        again = command("guard", "--dsn", small.dsn())
        assert again.returncode == ExitCode.OK, again
        assert not is_incomplete(app)
        assert one(app, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0


def failed_on_the_way(result: Any, exit_code: int) -> str:  # noqa: ANN401  a completed process
    """Give the message of a command that printed steps and then failed."""
    assert result.returncode == exit_code, result
    assert "Traceback" not in result.stderr
    return str(result.stderr)


def is_incomplete(app: Connection) -> bool:
    return any(rows(app, "SELECT FROM flowguard.guard_plan(%s::regclass, 'flow')", table) for table in LINKS)
