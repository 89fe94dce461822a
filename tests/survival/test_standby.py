"""A physical standby shows how the links are, and says in plain words that nothing can be written there."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator


import psycopg
import pytest
from engine.postgres import one, refused, rows, run
from psycopg.conninfo import conninfo_to_dict
from survival import worlds
from survival.servers import Running

from pyflowguard import changes

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def pair(primary: Running, standby: Running) -> tuple[str, str]:
    """Build the odd world on the primary; gives the connection strings of it there and on the standby."""
    with psycopg.connect(primary.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE odd OWNER app_owner")
    there = primary.dsn("odd", "app_owner")
    changes.deploy(there, to="@engine")
    with psycopg.connect(there, autocommit=True) as connection:
        worlds.build_odd(connection)
    with psycopg.connect(primary.dsn(), autocommit=True) as admin:
        position = one(admin, "SELECT pg_current_wal_flush_lsn()::text")
    wait(standby.dsn(), "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", position)
    return there, standby.dsn("odd", "app_owner")


def wait(dsn: str, condition: str, *parameters: object) -> None:
    """Wait until a condition is true, for a while."""
    deadline = time.monotonic() + 30
    with psycopg.connect(dsn, autocommit=True) as connection:
        while not one(connection, condition, *parameters):
            assert time.monotonic() < deadline, condition
            time.sleep(0.02)


def test_what_is_read_there_is_what_the_primary_says(pair: tuple[str, str]) -> None:
    primary, standby = pair
    assert worlds.contents(standby, "odd") == worlds.contents(primary, "odd")
    with psycopg.connect(standby, autocommit=True) as connection:
        assert one(connection, "SELECT pg_is_in_recovery()")
        assert one(connection, "SELECT flowguard.health_score()") < 100
        assert rows(connection, "SELECT DISTINCT kind FROM flowguard.violation") == [("unlinked",)]


def test_x(pair, command) -> None:
    for a in (["health"],["health","--violations","5"],["check"],["status"],["verify"],["repair"],["repair","--dry-run"],["guard"],["guard","--dry-run"],["deploy"],["deploy","--to","@engine"],["revert","-y"],["undo","1"]):
        r = command(*a, "--dsn", pair[1])
        print(a, r.returncode, r.stdout[-300:], r.stderr)
