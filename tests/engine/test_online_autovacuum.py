"""Guarding online beside an autovacuum that is at work, of a server that looks for work each second."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import partial

import psycopg
import pytest
from engine.postgres import Connection, one, run
from engine.tables import registered_in
from engine.test_guard import plan
from servers import chosen_bindir
from waiting import PATIENCE, beside, wait_until

from pyflowguard import changes, online
from pyflowguard.server import throwaway_server

SLOWLY = """
ALTER TABLE child SET (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)
"""
"""From the first dead row on, for half a minute or longer."""


@pytest.fixture
def app() -> Iterator[Connection]:
    """Give the small application, guarded but for a trigger, of an ordinary owner on a server of its own."""
    with throwaway_server(bindir=chosen_bindir(), settings={"autovacuum_naptime": "1s"}) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute("CREATE ROLE app_owner LOGIN")
            admin.execute("CREATE DATABASE app OWNER app_owner")
        dsn = server.dsn("app", user="app_owner")
        changes.deploy(dsn)
        with registered_in(dsn) as connection:
            online.guard(dsn)
            run(connection, 'DROP TRIGGER "~flowguard_child_flow_insert" ON child')
            yield connection


def test_an_autovacuum_gives_way_and_no_writer_waits_for_it(app: Connection) -> None:
    """PostgreSQL ends it only for who waits as long as deadlock_timeout, longer than a writer may wait here."""
    run(app, "INSERT INTO child (id, tenant, flow) SELECT n, 1, 1 FROM generate_series(1, 20000) AS n")
    run(app, SLOWLY)
    run(app, "UPDATE child SET note = 'dead'")
    at_work = "SELECT count(*) FROM pg_locks WHERE relation = 'child'::regclass AND mode = 'ShareUpdateExclusiveLock'"
    wait_until(lambda: one(app, at_work) == 1, "an autovacuum")
    short, enough = timedelta(milliseconds=200), timedelta(seconds=20)
    guard = partial(online.guard, app.info.dsn, ["child"], link_column="flow", lock_timeout=short, deadline=enough)
    with (
        psycopg.connect(app.info.dsn, autocommit=True, options="-c lock_timeout=100ms") as writer,
        beside(guard) as guarding,
    ):
        row = 20000
        while not guarding.done():
            row += 1
            run(writer, "INSERT INTO child (id, tenant, flow) VALUES (%s, 1, 1)", row)
        (step,) = guarding.result(PATIENCE).steps
    assert "CREATE OR REPLACE TRIGGER" in step.planned.statement
    assert step.tries == 1
    assert plan(app, "child") == []
