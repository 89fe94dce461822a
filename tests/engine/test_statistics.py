"""A tenant of two columns: the planner is told that they belong together, so that one step in the index is enough."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from engine.postgres import Connection, one, rows, run
from engine.test_guard import difference, dump

TENANTS = 600
EVENTS = 80

SCHEMA = """
CREATE TABLE flow (id integer PRIMARY KEY, client integer NOT NULL, "En""gagement" integer NOT NULL,
                   created_at timestamptz DEFAULT now());
CREATE TABLE event (id text PRIMARY KEY, client integer NOT NULL, "En""gagement" integer NOT NULL, flow integer,
                    at timestamptz NOT NULL);
CREATE TABLE probe (id integer PRIMARY KEY, client integer NOT NULL, "En""gagement" integer NOT NULL, flow integer,
                    at timestamptz NOT NULL);
CREATE INDEX event_by_tenant ON event (client, "En""gagement");
"""

RULES = """
SELECT flowguard.add_master('flow', 'id', '{client,"En\\"gagement"}');
SELECT flowguard.add_link('probe', 'flow');
SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', link_column => 'flow');
"""

OURS = """
SELECT x.stxnamespace::regnamespace::text, x.stxname::text, x.stxrelid::regclass::text, x.stxkind::text[]
  FROM pg_statistic_ext x WHERE starts_with(x.stxname, 'flowguard_') ORDER BY 1, 2
"""

NAME = 'flowguard_event_client_En"gagement_stat'


def plan(app: Connection) -> list[str]:
    """Give the statements that are missing for the link to be guarded."""
    return [statement for (statement,) in rows(app, "SELECT statement FROM flowguard.guard_plan('probe', 'flow')")]


@pytest.fixture
def app(db: Connection) -> Connection:
    """Give a database of many tenants, in which each engagement belongs to one client, with the rule registered."""
    run(db, SCHEMA)
    run(db, "INSERT INTO flow SELECT n, n, n FROM generate_series(1, %s) AS n", TENANTS)
    run(
        db,
        "INSERT INTO event SELECT md5(n::text), t, t, t, '2025-01-01'::timestamptz + n * '1 s'::interval "
        "FROM generate_series(1, %s) AS n, LATERAL (SELECT n %% %s + 1) AS x (t)",
        TENANTS * EVENTS,
        TENANTS,
    )
    run(db, "ANALYZE event")
    run(db, RULES)
    return db


def fetched(app: Connection) -> int:
    """Insert a row and count the source rows that were read for it."""
    # A new session plans anew, and at once as it would from the sixth call on.
    with psycopg.connect(app.info.dsn, autocommit=False) as session:
        run(session, "SET plan_cache_mode = force_generic_plan")
        run(session, "INSERT INTO probe SELECT 1, 7, 7, NULL, max(at) - '25 min'::interval FROM event WHERE client = 7")
        count = "SELECT idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relid = 'event'::regclass"
        before = one(session, count)
        run(session, "INSERT INTO probe VALUES (2, 7, 7, NULL, '2025-01-01 03:00:00+00')")
        assert one(session, "SELECT flow FROM probe WHERE id = 2") == 7
        read = one(session, count) - before
        session.rollback()
    return int(read)


def test_guard_tells_the_planner_what_belongs_together(app: Connection) -> None:
    run(app, "SELECT flowguard.guard('probe', 'flow')")
    assert rows(app, OURS) == [("public", NAME, "event", ["f"])]
    assert fetched(app) <= 4
    # Without it all of the tenant's rows are read: this is what it is for.
    run(app, 'DROP STATISTICS "flowguard_event_client_En""gagement_stat"; ANALYZE event')
    assert fetched(app) >= EVENTS
    (statement,) = plan(app)
    assert statement == (
        'CREATE STATISTICS public."flowguard_event_client_En""gagement_stat" (dependencies) ON client, "En""gagement" '
        "FROM public.event; ANALYZE public.event"
    )
    run(app, "SELECT flowguard.guard('probe', 'flow')")
    assert fetched(app) <= 4


def test_a_second_guard_leaves_it_and_unguard_drops_it(app: Connection, postgresql: Any) -> None:  # noqa: ANN401
    before = dump(app, postgresql)
    run(app, "SELECT flowguard.guard('probe', 'flow')")
    made = one(app, "SELECT oid FROM pg_statistic_ext")
    assert plan(app) == []
    assert rows(app, "SELECT * FROM flowguard.guard('probe', 'flow')") == []
    assert one(app, "SELECT oid FROM pg_statistic_ext") == made
    dropped = [s for (s,) in rows(app, "SELECT flowguard.unguard('probe', 'flow')") if "STATISTICS" in s]
    assert dropped == ['DROP STATISTICS public."flowguard_event_client_En""gagement_stat"']
    assert rows(app, OURS) == []
    assert difference(before, dump(app, postgresql)) == ""


def test_it_stays_ours_under_another_name_of_the_table(app: Connection) -> None:
    run(app, "SELECT flowguard.guard('probe', 'flow')")
    run(app, "CREATE SCHEMA other; ALTER TABLE event RENAME TO happening; ALTER TABLE happening SET SCHEMA other")
    run(app, "SELECT flowguard.guard('probe', 'flow')")
    assert rows(app, OURS) == [("public", NAME, "other.happening", ["f"])]
    assert plan(app) == []
    run(app, "SELECT flowguard.unguard('probe', 'flow')")
    assert rows(app, OURS) == []


def test_a_name_that_is_taken(app: Connection) -> None:
    run(
        app,
        """
CREATE TABLE event_client (id integer PRIMARY KEY, "En""gagement" integer NOT NULL, other integer NOT NULL);
CREATE STATISTICS "flowguard_event_client_En""gagement_stat" (ndistinct) ON other, "En""gagement" FROM event_client;
""",
    )
    run(app, "SELECT flowguard.guard('probe', 'flow')")
    made = [name for _, name, table, _ in rows(app, OURS) if table == "event"]
    assert len(made) == 1
    assert made[0].startswith(NAME + "_")
    assert plan(app) == []


@pytest.mark.parametrize("kinds", ["(dependencies)", "(ndistinct, dependencies)", ""], ids=["alone", "with", "all"])
def test_the_application_s_own_counts(app: Connection, kinds: str) -> None:
    run(app, f'CREATE STATISTICS mine {kinds} ON "En""gagement", client, flow FROM event; ANALYZE event')
    run(app, "SELECT flowguard.guard('probe', 'flow')")
    assert rows(app, OURS) == []
    assert fetched(app) <= 4
    run(app, "DROP STATISTICS mine")
    assert "CREATE STATISTICS" in plan(app)[0]


def test_one_that_says_something_else_does_not_count(app: Connection) -> None:
    run(app, 'CREATE STATISTICS mine (ndistinct) ON client, "En""gagement" FROM event')
    run(app, "CREATE STATISTICS other (dependencies) ON client, flow FROM event")
    run(app, "SELECT flowguard.guard('probe', 'flow')")
    assert len(rows(app, OURS)) == 1


def test_ours_goes_when_the_application_makes_its_own(app: Connection) -> None:
    run(app, "SELECT flowguard.guard('probe', 'flow')")
    run(app, 'CREATE STATISTICS mine (dependencies) ON client, "En""gagement" FROM event')
    assert plan(app) == ['DROP STATISTICS public."flowguard_event_client_En""gagement_stat"']
    run(app, "SELECT flowguard.guard('probe', 'flow')")
    assert rows(app, OURS) == []
    assert plan(app) == []


def test_two_links_share_it(app: Connection) -> None:
    run(
        app,
        """
CREATE TABLE second (LIKE probe INCLUDING ALL);
SELECT flowguard.add_link('second', 'flow');
SELECT flowguard.add_proximity_rule('second', 'event', '1 hour', 'at', 'at', 'flow', link_column => 'flow');
SELECT flowguard.guard('probe', 'flow');
SELECT flowguard.guard('second', 'flow');
SELECT flowguard.unguard('probe', 'flow');
""",
    )
    assert len(rows(app, OURS)) == 1
    run(app, "SELECT flowguard.unguard('second', 'flow')")
    assert rows(app, OURS) == []


def test_a_tenant_of_one_column_needs_none(db: Connection) -> None:
    run(
        db,
        """
CREATE TABLE flow (id integer PRIMARY KEY, client integer NOT NULL, created_at timestamptz);
CREATE TABLE event (id integer PRIMARY KEY, client integer NOT NULL, flow integer, at timestamptz);
CREATE TABLE probe (id integer PRIMARY KEY, client integer NOT NULL, flow integer, at timestamptz);
SELECT flowguard.add_master('flow', 'id', '{client}');
SELECT flowguard.add_link('probe', 'flow');
SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', link_column => 'flow');
SELECT flowguard.guard('probe', 'flow');
""",
    )
    assert rows(db, OURS) == []


def test_it_lies_in_a_schema_whose_name_needs_quotes(app: Connection) -> None:
    run(app, 'CREATE SCHEMA "Ever ""green"; ALTER TABLE event SET SCHEMA "Ever ""green"')
    run(app, "SELECT flowguard.guard('probe', 'flow')")
    assert rows(app, OURS) == [('"Ever ""green"', NAME, '"Ever ""green".event', ["f"])]
    assert plan(app) == []
    run(app, "SELECT flowguard.unguard('probe', 'flow')")
    assert rows(app, OURS) == []
