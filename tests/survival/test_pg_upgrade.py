"""pg_upgrade from PostgreSQL 15 to the wheel's: everything is kept, and nothing is left to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from engine.postgres import one
from psycopg.conninfo import make_conninfo
from servers import lacking
from survival import worlds
from survival.servers import Running, started

from pyflowguard import changes, database, server

OLD = Path("/usr/lib/postgresql/15/bin")
REPORT = Path(__file__).parents[2] / "sql" / "report"
SETTINGS = {**server.UNSAFE, "max_locks_per_transaction": "256"}

FORGET_VERSIONS = """
UPDATE pg_attribute
   SET attoptions = (SELECT array_agg(o) FROM unnest(attoptions) AS o WHERE o NOT LIKE 'pg_attver=%')
 WHERE attoptions::text LIKE '%pg_attver=%'
"""
"""Debian's 15.20 notes a version at each column, as an option of it that 18.6 does not know: no table of anybody's
could be upgraded."""


def build(old: Running) -> dict[str, dict[str, list[str]]]:
    """Make the two worlds on the old server; gives what they hold."""
    with psycopg.connect(old.dsn(), autocommit=True) as admin:
        admin.execute("CREATE ROLE app_owner LOGIN NOSUPERUSER")
        admin.execute("CREATE DATABASE odd OWNER app_owner")
        admin.execute("CREATE DATABASE report OWNER app_owner")
    odd, report = old.dsn("odd", "app_owner"), old.dsn("report", "app_owner")
    changes.deploy(odd, to="@engine")
    with psycopg.connect(odd, autocommit=True) as connection:
        worlds.build_odd(connection)
    with database.connect(report) as connection:
        for name in ("schema.sql", "before.sql"):
            database.run_script(connection, REPORT / name, action=f"loading {name}")
    changes.deploy(make_conninfo(report, options="-c search_path=migration,public"))
    before = {"odd": worlds.contents(odd, "odd"), "report": worlds.contents(report, "report")}
    for name in ("postgres", "template1", *before):
        with psycopg.connect(old.dsn(name), autocommit=True) as admin:
            admin.execute(FORGET_VERSIONS)
    return before


@pytest.fixture(scope="module")
def upgraded() -> Iterator[tuple[Running, dict[str, dict[str, list[str]]]]]:
    """Upgrade a server; gives the new one, and what the old one held.

    Where the machine lacks the old one, the tests are skipped, or fail in CI: see servers.lacking().
    """
    if not OLD.is_dir():
        lacking(f"PostgreSQL in {OLD}")
    with ExitStack() as stack:
        old = server.new_cluster(OLD, SETTINGS)
        old.order["prepare"][0].append("--data-checksums")  # as the new one has them
        new = server.new_cluster(server.wheel_bindir(), SETTINGS)
        # What the first server leaves is removed with the second.
        old.order["remove"], new.order["remove"] = [], old.order["remove"] + new.order["remove"]
        with started(old) as running:
            before = build(running)
        # pg_upgrade writes into the directory that it is run in, and says why it failed in files of the new server's.
        here, data = new.directory / "socket", new.order["data"]
        upgrade = (
            f"cd {here} && {new.bin / 'pg_upgrade'} --no-sync -U postgres -b {OLD} -B {new.bin} "
            f"-d {old.order['data']} -D {data} -s {here} "
            f"|| {{ tail -n 30 {data}/pg_upgrade_output.d/*/log/pg_upgrade_dump_*.log; exit 1; }}"
        )
        new.order["prepare"].append(["sh", "-c", upgrade])
        yield stack.enter_context(started(new)), before


@pytest.mark.parametrize("name", ["report", "odd"])
def test_all_is_kept(upgraded: tuple[Running, dict[str, dict[str, list[str]]]], name: str) -> None:
    server_now, before = upgraded
    dsn = server_now.dsn(name, "app_owner")
    with psycopg.connect(dsn) as connection:
        assert one(connection, "SHOW server_version_num") >= "180000"
    assert before[name]["plan"] == []
    assert worlds.contents(dsn, name) == before[name]
    worlds.still_guards(dsn, name)
    worlds.can_be_undone(dsn, name)
