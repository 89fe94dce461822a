"""A role that may write guarded tables and create things of its own gets nothing of it run as their owner.

Generated functions run as the owner of the tables. The intruder may do what an ordinary role may: create temporary
tables, keep a schema, create in `public` where that was granted, and choose its search_path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import psycopg
import pytest
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import Guarded, link, links
from neighbours.promises import kept

TABLES = "flow, parent, child, grandchild, event, probe"
WORK = (
    "INSERT INTO public.parent VALUES (10, 1)",
    "INSERT INTO public.child (id, tenant, parent) VALUES (20, 1, 10)",
    "INSERT INTO public.grandchild (id, tenant, child) VALUES (30, 1, 20)",
    "UPDATE public.parent SET flow = 1",
    "UPDATE public.parent SET flow = 2",
    "INSERT INTO public.probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:00Z')",
    "INSERT INTO public.event VALUES (50, 1, 1, 'live', '2025-01-01 00:10Z')",
    "UPDATE public.child SET flow = NULL",
)
"""Writes that reach every generated function."""

# Whatever of it is called leaves a trace of whose rights it had.
TRAP = """
CREATE TABLE evil.caught (who name, what text);
GRANT USAGE ON SCHEMA evil TO PUBLIC;
GRANT INSERT ON evil.caught TO PUBLIC;
CREATE FUNCTION evil.spring(what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO evil.caught VALUES (CURRENT_USER, what);
END $$;
"""
TYPES = ("integer", "bigint", "boolean", "text", "name", "timestamptz", "interval", "jsonb", "oid", "regclass")
OPERATORS = ("=", "<>", "<", "<=", ">", ">=", "+", "-", "||", "->>", "->")
FUNCTIONS = {
    "current_setting": ("text, boolean", "text"),
    "set_config": ("text, text, boolean", "text"),
    "current_schemas": ("boolean", "name[]"),
    "jsonb_build_object": ("text, integer", "jsonb"),
    "pg_has_role": ("name, name, text", "boolean"),
    "now": ("", "timestamptz"),
    "timezone": ("text, timestamptz", "timestamptz"),
    "count": ("integer", "bigint"),
    "coalesce_me": ("text", "text"),
}


def traps(schema: str) -> Iterator[str]:
    """Give statements that put into a schema what could be taken for PostgreSQL's or the engine's own."""
    for name, (parameters, returns) in FUNCTIONS.items():
        yield (
            f"CREATE FUNCTION {schema}.{name}({parameters}) RETURNS {returns} LANGUAGE plpgsql AS "
            f"$$BEGIN PERFORM evil.spring('{name}'); RETURN NULL; END$$"
        )
    for number, kind in enumerate(TYPES):
        for operator in OPERATORS:
            name = f"{schema}.trap_{number}_{OPERATORS.index(operator)}"
            yield (
                f"CREATE FUNCTION {name}({kind}, {kind}) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS "
                f"$$BEGIN PERFORM evil.spring('{operator} {kind}'); RETURN false; END$$"
            )
            yield (f"CREATE OPERATOR {schema}.{operator} (LEFTARG = {kind}, RIGHTARG = {kind}, FUNCTION = {name})")
    for name in ("int4", "int8", "jsonb", "text", "timestamptz", "interval", "regclass", "name"):
        yield f"CREATE DOMAIN {schema}.{name} AS pg_catalog.bool"


def shadows(schema: str) -> Iterator[str]:
    """Give statements that put tables into a schema which have the names of the application's, with a trigger each."""
    yield (
        f"CREATE FUNCTION {schema}.on_write() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN PERFORM evil.spring(TG_TABLE_NAME); RETURN NEW; END$$"
    )
    for table in (*TABLES.split(", "), "log", "link", "rule", "pg_class", "repair_change", "provenance"):
        yield f"CREATE TABLE {schema}.{table} (id integer, tenant integer, flow integer, at timestamptz, what text)"
        yield f"INSERT INTO {schema}.{table} VALUES (10, 1, 3, '2025-01-01 00:00Z')"  # noqa: S608  names of this test
        yield f"GRANT ALL ON {schema}.{table} TO PUBLIC"
        yield (
            f"CREATE TRIGGER on_write BEFORE INSERT OR UPDATE ON {schema}.{table} "
            f"FOR EACH ROW EXECUTE FUNCTION {schema}.on_write()"
        )


@pytest.fixture
def owner(guarded: Guarded, request: pytest.FixtureRequest) -> Connection:
    """The owner of the small application, guarded in observe; asked so, with a link that keeps provenance."""
    connection = guarded("observe")
    if getattr(request, "param", "") == "keeping":
        run(connection, "SELECT flowguard.keep_provenance('probe', 'flow'), flowguard.guard('probe', 'flow')")
    return connection


@pytest.fixture
def intruder(owner: Connection, as_role: Callable[[str, str], str]) -> Iterator[Connection]:
    """A role that may write the tables, has a schema of its own with a trap in it, and may create in public."""
    with psycopg.connect(as_role(owner.info.dsn, "postgres"), autocommit=True) as admin:
        run(admin, "DO $$BEGIN CREATE ROLE intruder LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END$$")
        run(admin, f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLES} TO intruder")
        run(admin, "CREATE SCHEMA evil AUTHORIZATION intruder; GRANT CREATE ON SCHEMA public TO intruder")
    with psycopg.connect(as_role(owner.info.dsn, "intruder"), autocommit=True) as connection:
        run(connection, TRAP)
        yield connection


def caught(owner: Connection) -> list[tuple[str, str]]:
    """Give what of the intruder's was run with another role's rights."""
    return rows(owner, "SELECT DISTINCT who::text, what FROM evil.caught WHERE who <> 'intruder' ORDER BY 1, 2")


@pytest.fixture
def reader(owner: Connection, intruder: Connection) -> Connection:
    """The owner, who may read the trap."""
    run(intruder, "GRANT SELECT ON evil.caught TO app_owner")
    return owner


PATHS = ("evil, pg_catalog, public", "public, evil, pg_catalog, pg_temp", "pg_temp, evil, public, pg_catalog")


@pytest.mark.parametrize("owner", ["", "keeping"], indirect=True)
@pytest.mark.parametrize("path", PATHS)
def test_what_generated_code_names_cannot_be_taken_for_something_else(
    reader: Connection, intruder: Connection, path: str
) -> None:
    for statement in (*traps("evil"), *shadows("evil"), *shadows("pg_temp")):
        run(intruder, statement)
    run(intruder, f"SET search_path = {path}")
    for statement in WORK:
        run(intruder, statement)
    with intruder.transaction():
        run(intruder, "INSERT INTO public.parent VALUES (11, 1)")
        run(intruder, "SELECT pg_catalog.set_config('flowguard.flow', '3', true)")
        run(intruder, "INSERT INTO public.parent VALUES (12, 1)")
    run(intruder, "INSERT INTO public.probe (id, tenant, at) VALUES (2, 1, '2025-01-01 00:30Z')")
    assert caught(reader) == []
    assert (links(reader, "parent"), links(reader, "child"), links(reader, "probe")) == (
        {10: 2, 11: None, 12: 3},
        {20: 2},
        {1: 1, 2: 1},
    )
    kept(reader)


APPLICATION = """
CREATE TABLE log (what text);
CREATE FUNCTION shout(text) RETURNS text LANGUAGE sql AS 'SELECT upper($1)';
CREATE FUNCTION take_down() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO log (what) VALUES (shout('changed'));
  RETURN NEW;
END $$;
CREATE TRIGGER take_down BEFORE UPDATE ON child FOR EACH ROW EXECUTE FUNCTION take_down();
CREATE TRIGGER take_down AFTER UPDATE ON probe FOR EACH ROW EXECUTE FUNCTION take_down();
GRANT INSERT ON log TO PUBLIC;
"""
"""An application whose triggers trust the path."""


@pytest.mark.parametrize("path", ["public", "pg_temp, public", "evil, public"])
def test_the_applications_triggers_do_not_run_what_lies_in_their_way(
    reader: Connection, intruder: Connection, as_role: Callable[[str, str], str], path: str
) -> None:
    """Late linking and the look at commit write as the owner, whose rights the triggers have that they reach."""
    run(reader, APPLICATION)
    with psycopg.connect(as_role(reader.info.dsn, "postgres"), autocommit=True) as admin:
        run(admin, "REVOKE CREATE ON SCHEMA public FROM intruder, PUBLIC")
    for statement in (*shadows("evil"), *shadows("pg_temp")):
        run(intruder, statement)
    run(intruder, "CREATE FUNCTION evil.shout(text) RETURNS text LANGUAGE plpgsql AS "
                  "$$BEGIN PERFORM evil.spring('shout'); RETURN $1; END$$")  # fmt: skip
    run(intruder, f"SET search_path = {path}")
    for statement in WORK[:4]:
        run(intruder, statement)
    with intruder.transaction():
        run(intruder, WORK[5])
        with psycopg.connect(reader.info.dsn, autocommit=True) as other:
            run(other, WORK[6])
    assert (caught(reader), link(reader, "child", 20), link(reader, "probe", 1)) == ([], 1, 1)
    assert rows(reader, "SELECT DISTINCT what FROM public.log") == [("CHANGED",)]
    assert one(intruder, "SHOW search_path") == path
    kept(reader)


def test_a_schema_in_which_others_may_create_is_not_on_that_path(reader: Connection, intruder: Connection) -> None:
    """A better match for the trigger's call, planted in public: the trigger fails rather than run it as the owner."""
    run(reader, APPLICATION.replace("shout('changed')", "shout('changed'::varchar)"))
    run(intruder, "CREATE FUNCTION public.shout(varchar) RETURNS text LANGUAGE plpgsql AS "
                  "$$BEGIN PERFORM evil.spring('shout'); RETURN $1; END$$")  # fmt: skip
    for statement in WORK[:3]:
        run(intruder, statement)
    with refused("42P01", "42883"):
        run(intruder, WORK[3])
    assert caught(reader) == []
    assert rows(reader, "TABLE public.log") == []


def test_generated_functions_cannot_be_called_or_put_on_a_table_of_ones_own(intruder: Connection) -> None:
    run(intruder, "CREATE TABLE evil.child (id integer, tenant integer, flow integer, parent integer)")
    for function in ("child_flow_fill", "child_flow_commit", "child_flow_follow_1"):
        with refused("42501"):
            run(
                intruder,
                f"CREATE TRIGGER mine BEFORE INSERT ON evil.child FOR EACH ROW EXECUTE FUNCTION flowguard.{function}()",
            )
    for call in (
        "SELECT flowguard.child_flow_find(1, 10)",
        "SELECT * FROM flowguard.violation",
        "TABLE flowguard.link",
    ):
        with refused("42501"):
            run(intruder, call)


def test_settings_of_the_engine_lift_nothing(owner: Connection, intruder: Connection) -> None:
    run(owner, "SELECT flowguard.set_mode('child', 'enforce', 'flow')")
    for name, value in (
        ("flowguard.privileged", "undo"),
        ("flowguard.privileged", "bypass"),
        ("flowguard.read_setting", "parent_flow 9"),
        ("flowguard.flow", "9"),
        ("session_replication_role", "replica"),
    ):
        with refused("FG001", "42501"), intruder.transaction():
            run(intruder, "SELECT set_config(%s, %s, true)", name, value)
            run(intruder, "INSERT INTO child (id, tenant) VALUES (20, 1)")
    with intruder.transaction():
        run(intruder, "SELECT set_config('flowguard.flow', '9', true), set_config('flowguard.read_setting', "
                      "'parent_flow 9', true)")  # fmt: skip
        run(intruder, "INSERT INTO parent VALUES (10, 1)")
    assert link(owner, "parent", 10) is None
    kept(owner)


def test_who_guards_and_repairs_meets_nothing_of_it(reader: Connection, intruder: Connection) -> None:
    """The owner's own calls, made with the intruder's schema first in the path."""
    for statement in (*traps("evil"), *shadows("evil")):
        run(intruder, statement)
    for table in ("parent", "child", "probe"):
        run(reader, f"SELECT flowguard.pause('{table}', 'flow')")
    run(reader, "INSERT INTO parent VALUES (10, 1, 1); INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    run(
        reader,
        "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:10Z'), (51, 1, 2, 'live', '2025-01-01 00:20Z')",
    )
    run(reader, "INSERT INTO probe (id, tenant, at) VALUES (20, 1, '2025-01-01 00:00Z')")
    run(reader, "SET search_path = evil, pg_catalog, public")
    for table in ("parent", "child", "probe"):
        run(reader, f"SELECT flowguard.resume('public.{table}', 'flow')")
        run(reader, f"SELECT flowguard.unguard('public.{table}', 'flow')")
        run(reader, f"SELECT flowguard.guard('public.{table}', 'flow')")
    for table, condition in product(("public.child", "public.probe"), (None, "id IS NOT NULL")):
        run(reader, "SELECT summary FROM flowguard.explain(%s, '20', 'flow')", table)
        run(reader, "SELECT amount FROM flowguard.preview(%s, 'flow', row_filter => %s)", table, condition)
        run(reader, "CALL flowguard.repair(%s, link_column => 'flow', row_filter => %s)", table, condition)
        run(reader, "SELECT summary FROM flowguard.explain(%s, '20', 'flow')", table)
        run(reader, "SELECT flowguard.undo(pg_catalog.max(run_id)) FROM flowguard.run")
    run(reader, "SELECT amount FROM flowguard.preview()")
    run(reader, "SELECT count(*) FROM flowguard.check_all()")
    run(reader, "SELECT count(*) FROM flowguard.doctor()")
    run(reader, "RESET search_path")
    assert (rows(reader, "SELECT linked FROM flowguard.run"), caught(reader)) == ([(1,)] * 4, [])
