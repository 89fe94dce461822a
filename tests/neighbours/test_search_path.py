"""The application's triggers run under the path that its session has, whichever of our functions writes the table."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from engine.postgres import Connection, one, rows, run
from engine.tables import guarded as guard_tables
from engine.tables import link, links
from neighbours.application import Copy
from neighbours.promises import kept
from repair.calls import repair, undo

LOG = """
CREATE TABLE log (n integer GENERATED ALWAYS AS IDENTITY, what text, id integer, was integer, now integer);
CREATE FUNCTION shout(text) RETURNS text LANGUAGE sql AS 'SELECT upper($1)';
CREATE FUNCTION take_down() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    INSERT INTO log (what, id, was) VALUES (shout('gone from ' || TG_TABLE_NAME), OLD.id, OLD.flow);
    RETURN OLD;
  END IF;
  INSERT INTO log (what, id, was, now) VALUES (shout(TG_TABLE_NAME), NEW.id, OLD.flow, NEW.flow);
  RETURN NEW;
END $$;
"""
LOGGED = ("parent", "child", "grandchild", "probe")


def make(connection: Connection) -> None:
    """Create the application in a schema of its own, with a trigger on each table that speaks of it by bare names."""
    run(connection, "CREATE SCHEMA app; SET search_path = app")
    guard_tables(connection)
    run(connection, LOG)
    for table in LOGGED:
        run(
            connection,
            f"CREATE TRIGGER audit BEFORE INSERT OR UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION take_down()",
        )


def log(connection: Connection) -> list[tuple[str, int, int | None, int | None]]:
    """Give what the triggers wrote since the last look."""
    found = rows(connection, "SELECT what, id, was, now FROM app.log ORDER BY n")
    run(connection, "DELETE FROM app.log")
    return [(what, row, was, now) for what, row, was, now in found]


@pytest.fixture
def app(copy: Copy) -> Connection:
    """The application under its own search_path."""
    connection = copy(make)
    run(connection, "SET search_path = app")
    return connection


def test_late_links_all_the_way_down(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1)")
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    run(app, "INSERT INTO grandchild (id, tenant, child) VALUES (30, 1, 20)")
    log(app)
    run(app, "UPDATE parent SET flow = 1")
    assert log(app) == [("PARENT", 10, None, 1), ("CHILD", 20, None, 1), ("GRANDCHILD", 30, None, 1)]
    kept(app)


def test_the_path_is_worked_out_where_rows_follow_and_nowhere_else(
    app: Connection, as_role: Callable[[str, str], str]
) -> None:
    """A role that may not act as the owner: what its path may hold is asked of the catalog."""
    run(app, "INSERT INTO parent VALUES (10, 1)")
    run(app, "INSERT INTO child (id, tenant, parent) SELECT n, 1, 10 FROM generate_series(20, 24) AS n")
    run(app, "INSERT INTO grandchild (id, tenant, child) VALUES (30, 1, 20)")
    run(
        app,
        "GRANT USAGE ON SCHEMA app TO pg_monitor; GRANT SELECT, UPDATE ON parent TO pg_monitor; "
        "GRANT INSERT ON log TO pg_monitor",
    )
    with psycopg.connect(as_role(app.info.dsn, "postgres")) as other:
        run(other, "SET track_functions = 'all'; SET search_path = app; SET SESSION AUTHORIZATION pg_monitor")
        run(other, "UPDATE parent SET flow = 1")
        # For the children of the parent and the grandchild of one of them; four have none.
        calls = "SELECT pg_stat_get_xact_function_calls('flowguard._safe_path(name[])'::regprocedure)"
        run(other, "RESET SESSION AUTHORIZATION")
        assert one(other, calls) == 2
    assert links(app, "grandchild") == {30: 1}


def test_the_second_look_at_commit(app: Connection, session: Callable[[Connection], Connection]) -> None:
    with app.transaction():
        run(app, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:00Z')")
        other = session(app)
        run(other, "SET search_path = app; INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z')")
    assert log(app) == [("PROBE", 1, None, None), ("PROBE", 1, None, 1)]
    assert link(app, "probe", 1) == 1


def test_repair_and_undo(app: Connection) -> None:
    run(app, "SELECT flowguard.pause('child', 'flow')")
    run(app, "INSERT INTO parent VALUES (10, 1, 1); INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    run(app, "SELECT flowguard.resume('child', 'flow')")
    log(app)
    done = repair(app)
    assert log(app) == [("CHILD", 20, None, 1)]
    undo(app, done.id)
    assert log(app) == [("CHILD", 20, 1, None)]
    assert link(app, "child", 20) is None


def test_quarantine_and_its_undo(app: Connection) -> None:
    run(app, "SELECT flowguard.unguard(t, 'flow') FROM unnest('{probe,grandchild,child,parent}'::regclass[]) t")
    run(app, "INSERT INTO parent VALUES (10, 1, 77); INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    log(app)
    done = repair(app)
    assert sorted(log(app)) == [("GONE FROM CHILD", 20, None, None), ("GONE FROM PARENT", 10, 77, None)]
    assert undo(app, done.id)[1:] == (0, 0)
    assert log(app) == [("PARENT", 10, None, 77), ("CHILD", 20, None, None)]


def test_the_path_is_the_callers_again_afterwards(app: Connection) -> None:
    run(app, "SELECT flowguard.guard('child', 'flow')")
    assert one(app, "SHOW search_path") == "app"
    undo(app, repair(app).id)
    assert one(app, "SHOW search_path") == "app"
    run(app, "INSERT INTO parent VALUES (10, 1, 1); UPDATE parent SET flow = 2")
    assert one(app, "SHOW search_path") == "app"


def test_functions_that_bring_their_path_work_under_any_other(app: Connection) -> None:
    run(app, "ALTER FUNCTION take_down() SET search_path = app; CREATE SCHEMA elsewhere")
    for n, path in enumerate(("''", "pg_temp", "elsewhere")):
        run(app, f"SET search_path = {path}")
        run(app, "INSERT INTO app.parent VALUES (%s, 1)", 10 + n)
        run(app, "INSERT INTO app.child (id, tenant, parent) VALUES (%s, 1, %s)", 20 + n, 10 + n)
        run(app, "UPDATE app.parent SET flow = 1 WHERE id = %s", 10 + n)
        run(app, "INSERT INTO app.event VALUES (%s, 1, 2, 'live', '2025-01-01 00:00Z')", 50 + n)
        run(app, "INSERT INTO app.probe (id, tenant, at) VALUES (%s, 1, '2025-01-01 00:00Z')", n)
        assert (link(app, "app.child", 20 + n), link(app, "app.probe", n)) == (1, 2)
        undo(app, repair(app).id)
        kept(app)


def test_names_that_shadow_ours_and_postgresqls_are_not_taken(app: Connection) -> None:
    """A schema before pg_catalog may hold operators, functions, types and tables of the same names that lie."""
    run(
        app,
        """
CREATE SCHEMA evil;
CREATE FUNCTION evil.no(integer, integer) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
CREATE FUNCTION evil.no(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
CREATE OPERATOR evil.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = evil.no);
CREATE OPERATOR evil.<> (LEFTARG = integer, RIGHTARG = integer, FUNCTION = evil.no);
CREATE OPERATOR evil.<= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.no);
CREATE OPERATOR evil.>= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.no);
CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$SELECT 'undo'::text$$;
CREATE FUNCTION evil.jsonb_build_object(text, integer) RETURNS jsonb LANGUAGE sql AS $$SELECT '{}'::jsonb$$;
CREATE DOMAIN evil.int4 AS text;
CREATE DOMAIN evil.jsonb AS text;
CREATE TABLE evil.flow (id integer, tenant integer);
CREATE TABLE evil.parent (id integer, tenant integer, flow integer);
SET search_path = evil, pg_catalog, app;
""",
    )
    run(app, "INSERT INTO app.parent VALUES (10, 1)")
    run(app, "INSERT INTO app.child (id, tenant, parent) VALUES (20, 1, 10)")
    run(app, "UPDATE app.parent SET flow = 1")
    run(app, "INSERT INTO app.event VALUES (50, 1, 2, 'live', '2025-01-01 00:00Z')")
    run(app, "INSERT INTO app.probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:00Z')")
    run(app, "SELECT flowguard.pause('app.child', 'flow')")
    run(app, "INSERT INTO app.child (id, tenant, parent) VALUES (21, 1, 10)")
    run(app, "SELECT flowguard.resume('app.child', 'flow')")
    done = repair(app)
    assert done.linked == 1
    run(app, "SET search_path = app")
    assert (links(app, "child"), links(app, "probe")) == ({20: 1, 21: 1}, {1: 2})
    run(app, "SET search_path = evil, pg_catalog, app")
    assert undo(app, done.id) == (1, 0, 0)
    run(app, "SET search_path = app")
    assert links(app, "child") == {20: 1, 21: None}


def test_temporary_tables_that_shadow_the_applications(app: Connection) -> None:
    run(
        app,
        "CREATE TEMPORARY TABLE flow (id integer, tenant integer); "
        "CREATE TEMPORARY TABLE parent (id integer, tenant integer, flow integer); "
        "INSERT INTO parent VALUES (10, 1, 2)",
    )
    run(app, "INSERT INTO app.parent VALUES (10, 1, 1)")
    run(app, "INSERT INTO app.child (id, tenant, parent) VALUES (20, 1, 10)")
    assert link(app, "child", 20) == 1
    run(app, "UPDATE pg_temp.parent SET flow = 3")
    assert link(app, "child", 20) == 1
    run(app, "UPDATE app.parent SET flow = 2")
    assert link(app, "child", 20) == 2
