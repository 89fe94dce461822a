"""A rename never leaves a row silently unlinked or wrong: writes are refused until what the message says is done.

Every table and column that a guard speaks of is renamed, moved, and renamed with another one taking its name. What is
written names tables and columns by what they are, whatever they are called: either it is refused, or it is linked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import psycopg
import pytest
from engine import tables
from engine.postgres import Connection, one, refused, rows, run
from messages.stage import Said
from psycopg.conninfo import conninfo_to_dict

if TYPE_CHECKING:
    from conftest import Databases

COLUMNS = {
    "flow": ("id", "tenant"),
    "parent": ("id", "tenant", "flow", "note"),
    "child": ("id", "tenant", "flow", "note", "parent"),
    "grandchild": ("id", "tenant", "flow", "note", "child"),
    "event": ("id", "tenant", "flow", "status", "at"),
    "probe": ("id", "tenant", "flow", "at"),
}
"""The columns of the application in their order, by which they are found again."""

ROWS = """
SELECT flowguard.bypass('rows that wait');
INSERT INTO parent VALUES (10, 1, 1), (11, 1, NULL), (12, 1, 3);
INSERT INTO child VALUES (21, 1, 1, NULL, 10), (22, 1, NULL, NULL, 11);
INSERT INTO event VALUES (50, 1, 2, 'live', '2025-01-01 10:10+00');
INSERT INTO probe VALUES (61, 1, NULL, '2025-03-01 10:00+00');
"""

NAMED = [
    ("child", "id"),
    ("child", "tenant"),
    ("child", "flow"),
    ("child", "parent"),
    ("parent", "id"),
    ("parent", "tenant"),
    ("parent", "flow"),
    ("probe", "id"),
    ("probe", "tenant"),
    ("probe", "flow"),
    ("probe", "at"),
    ("event", "tenant"),
    ("event", "flow"),
    ("event", "at"),
    ("event", "status"),
    ("flow", "id"),
    ("flow", "tenant"),
]
"""What the links child.flow and probe.flow, and their rules, name."""

ALL_RIGHT: dict[str, list[Said]] = {"child": [], "probe": []}

REFUSALS = ("FG004", "42P01", "42703")


@dataclass(frozen=True)
class Names:
    """What tables and columns are called now, told by what they are."""

    connection: Connection
    oids: dict[str, int]

    @classmethod
    def of(cls, connection: Connection) -> Names:
        return cls(connection, {table: one(connection, "SELECT %s::regclass::oid", table) for table in COLUMNS})

    def table(self, table: str) -> str:
        return str(one(self.connection, "SELECT %s::oid::regclass::text", self.oids[table]))

    def column(self, table: str, column: str) -> str:
        number = COLUMNS[table].index(column) + 1
        found = "SELECT attname FROM pg_attribute WHERE attrelid = %s AND attnum = %s"
        return str(one(self.connection, found, self.oids[table], number))

    def insert(self, table: str, **values: object) -> str:
        columns = ", ".join(self.column(table, column) for column in values)
        given = ", ".join(f"'{value}'" for value in values.values())
        return f"INSERT INTO {self.table(table)} ({columns}) VALUES ({given})"  # noqa: S608  names of ours

    def update(self, table: str, row: int, **values: object) -> str:
        given = ", ".join(f"{self.column(table, column)} = '{value}'" for column, value in values.items())
        return f"UPDATE {self.table(table)} SET {given} WHERE {self.column(table, 'id')} = {row}"  # noqa: S608  ours

    def link(self, table: str, row: int) -> object:
        query = f"SELECT {self.column(table, 'flow')} FROM {self.table(table)} WHERE {self.column(table, 'id')} = {row}"  # noqa: S608
        return one(self.connection, query)


def writes(names: Names) -> Iterator[tuple[str, str, tuple[str, int, int]]]:
    """Give writes that need the links child.flow and probe.flow: the table, the statement, and what must be linked."""
    yield "child", names.insert("child", id=20, tenant=1, parent=10), ("child", 20, 1)
    yield "child", names.update("child", 21, parent=12), ("child", 21, 3)
    yield "child", names.update("parent", 11, flow=1), ("child", 22, 1)
    yield "probe", names.insert("probe", id=60, tenant=1, at="2025-01-01 10:00Z"), ("probe", 60, 2)
    late = names.insert("event", id=51, tenant=1, flow=3, status="live", at="2025-03-01 10:00Z")
    yield "probe", late, ("probe", 61, 3)


def refusal_of(connection: Connection, names: Names, statement: str, linked: tuple[str, int, int]) -> Said | None:
    """Try a write and take it back: None where the row is linked as it must be, else how it was refused."""
    table, row, flow = linked
    try:
        with connection.transaction(force_rollback=True):
            run(connection, statement)
            run(connection, "SET CONSTRAINTS ALL IMMEDIATE")
            assert names.link(table, row) == flow, statement
    except psycopg.Error as error:
        return Said.of(error.diag)
    return None


def try_all(connection: Connection, names: Names) -> dict[str, list[Said]]:
    """Try each write; gives the refusals by link, and checks that there is nothing between refused and right."""
    refusals: dict[str, list[Said]] = {"child": [], "probe": []}
    for link, statement, linked in writes(names):
        said = refusal_of(connection, names, statement, linked)
        if said is not None:
            assert said.code in REFUSALS, (statement, said)
            refusals[link].append(said)
    return refusals


def calls_quoted(connection: Connection, names: Names) -> set[str]:
    """Try each write and take it back; gives the calls that refusals for a table that is not there tell to make."""
    refusals = [text for _, statement, _ in writes(names) if (text := whole_refusal_of(connection, statement))]
    calls = [re.search(r"/\* Is a table gone, or its name\? (SELECT .*;) \*/", text) for text in refusals]
    assert None not in calls, refusals
    return {call[1] for call in calls if call}


def whole_refusal_of(connection: Connection, statement: str) -> str:
    """Try a write and take it back: all that the server says where a table is not there, else nothing."""
    try:
        with connection.transaction(force_rollback=True):
            run(connection, statement)
    except psycopg.errors.UndefinedTable as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def template(databases: Databases, engine_template: str) -> Iterator[Callable[[str], str]]:
    """Give the name of a database with the application, guarded in a mode, and rows."""
    with ExitStack() as stack:

        @cache
        def make(mode: str) -> str:
            dsn = stack.enter_context(databases.new(engine_template))
            with psycopg.connect(dsn, autocommit=True) as connection:
                tables.guarded(connection, mode=mode)
                run(connection, ROWS)
            return str(conninfo_to_dict(dsn)["dbname"])

        yield make


@pytest.fixture(scope="module")
def session(databases: Databases, template: Callable[[str], str]) -> Iterator[Callable[[str], Connection]]:
    """Give a session that has all functions at hand; what a test does in it is to be rolled back."""
    with ExitStack() as stack:

        @cache
        def make(mode: str) -> Connection:
            dsn = stack.enter_context(databases.new(template(mode)))
            connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
            assert try_all(connection, Names.of(connection)) == ALL_RIGHT
            return connection

        yield make


@pytest.fixture
def app(request: pytest.FixtureRequest, session: Callable[[str], Connection]) -> Iterator[Connection]:
    """Open a transaction in the session of the mode that the test asks for, and take back what the test did."""
    connection = session(request.param)
    with connection.transaction(force_rollback=True):
        yield connection


def in_mode(*modes: str) -> pytest.MarkDecorator:
    """Run a test on the application guarded so."""
    return pytest.mark.parametrize("app", modes, indirect=True)


def guard_again(connection: Connection, *tables: str) -> None:
    """Guard the links of these tables, and those that the writes need, and check that nothing is left to do."""
    stems = [f"{table}_flow" for table in {*tables, "child", "grandchild", "probe"}]
    found = "FROM flowguard.link l WHERE l.stem = ANY (%s) ORDER BY l.stem"
    run(connection, f"SELECT flowguard.guard(l.relation, l.link_column) {found}", stems)
    assert nothing_to_do(connection)


def nothing_to_do(connection: Connection) -> bool:
    """Whether both links are guarded as their rules say."""
    plans = "SELECT flowguard.guard_plan(l.relation, l.link_column) FROM flowguard.link l WHERE l.stem = ANY (%s)"
    return rows(connection, plans, ["child_flow", "probe_flow"]) == []


# --- Tables

MOVES = {
    "renamed": "ALTER TABLE {0} RENAME TO old_{0}",
    "moved": "CREATE SCHEMA elsewhere; ALTER TABLE {0} SET SCHEMA elsewhere",
    "replaced": "ALTER TABLE {0} RENAME TO old_{0}; CREATE TABLE {0} (LIKE old_{0} INCLUDING ALL)",
}
SWAPS = [
    ("child", "grandchild"),
    ("parent", "grandchild"),
    ("parent", "child"),
    ("probe", "event"),
    ("parent", "event"),
]
AFFECTED = {"child": {"child"}, "parent": {"child"}, "probe": {"probe"}, "event": {"probe"}, "flow": {"child", "probe"}}


@in_mode("enforce")
@pytest.mark.parametrize("how", MOVES)
@pytest.mark.parametrize("table", AFFECTED)
def test_a_table(app: Connection, table: str, how: str) -> None:
    names = Names.of(app)
    run(app, MOVES[how].format(table))
    refusals = try_all(app, names)
    assert {link for link, said in refusals.items() if said} == AFFECTED[table]
    said = [said for found in refusals.values() for said in found]
    assert {refusal.code for refusal in said} == {"FG004" if how == "replaced" else "42P01"}
    if how == "replaced":
        assert said[0].message.endswith(f"was made for public.{table}")
        assert said[0].detail == f"That is called public.old_{table} now, and another one has taken its name."
    guard_again(app, table)
    assert try_all(app, names) == ALL_RIGHT


@in_mode("enforce")
@pytest.mark.parametrize("how", ["renamed", "moved"])
@pytest.mark.parametrize("table", ["parent", "event", "flow"])
def test_postgresqls_own_refusal_quotes_the_call_that_mends_it(app: Connection, table: str, how: str) -> None:
    names = Names.of(app)
    run(app, MOVES[how].format(table))
    called: set[str] = set()
    while calls := calls_quoted(app, names):
        assert not calls & called
        for call in calls:
            run(app, call)
        called |= calls
    assert called >= {f"SELECT flowguard.guard('public.{link}', 'flow');" for link in AFFECTED[table]}
    assert try_all(app, names) == ALL_RIGHT


@in_mode("observe")
@pytest.mark.parametrize("swapped", SWAPS, ids=" and ".join)
def test_two_tables_that_swap_names(app: Connection, swapped: tuple[str, str]) -> None:
    names = Names.of(app)
    run(
        app,
        "ALTER TABLE {0} RENAME TO x; ALTER TABLE {1} RENAME TO {0}; ALTER TABLE x RENAME TO {1}".format(*swapped),
    )
    assert {said.code for found in try_all(app, names).values() for said in found} == {"FG004"}
    guard_again(app, *swapped)
    assert try_all(app, names) == ALL_RIGHT


# --- Columns


@in_mode("observe")
@pytest.mark.parametrize(("table", "column"), NAMED)
def test_a_column(app: Connection, table: str, column: str) -> None:
    """guard() says which, and all is well again when it has its name back."""
    names = Names.of(app)
    run(app, f"ALTER TABLE {table} RENAME {column} TO old_{column}")
    refusals = try_all(app, names)
    # The view of a filter goes with its columns, so that nothing is wrong with what reads them through it.
    if (table, column) not in {("event", "status"), ("event", "flow")}:
        assert {said.code for found in refusals.values() for said in found} == {"42703"}
    link = "child" if table in {"child", "parent", "flow"} else "probe"
    if (table, column) not in {("child", "id"), ("probe", "id")}:  # the catalog says what names a row
        with refused("FG102") as refusal, app.transaction():
            run(app, "SELECT flowguard.guard(%s::regclass, %s)", link, "flow")
        refusal.says(f"table public.{table} has no column {column}")
    run(app, f"ALTER TABLE {table} RENAME old_{column} TO {column}")
    assert try_all(app, names) == ALL_RIGHT


@in_mode("enforce")
@pytest.mark.parametrize(("table", "column"), NAMED)
def test_a_column_whose_name_another_one_has_taken(app: Connection, table: str, column: str) -> None:
    names = Names.of(app)
    kind = "timestamptz" if column == "at" else "text" if column == "status" else "integer"
    run(app, f"ALTER TABLE {table} RENAME {column} TO old_{column}; ALTER TABLE {table} ADD {column} {kind}")
    refusals = try_all(app, names)
    said = [said for found in refusals.values() for said in found]
    assert {refusal.code for refusal in said} == {"FG004"}
    assert said[0].message.endswith(f"was made for column {column} of public.{table}")
    assert said[0].detail == f"That is called old_{column} now, and another one has taken its name."
    assert said[0].hint.startswith("Call flowguard.guard('public.")
    assert not nothing_to_do(app)
    run(app, f"ALTER TABLE {table} DROP {column}; ALTER TABLE {table} RENAME old_{column} TO {column}")
    assert try_all(app, names) == ALL_RIGHT


@in_mode("observe", "enforce")
def test_guard_takes_the_column_that_has_the_name_now(app: Connection) -> None:
    """The link itself: the new column is filled, and proved by the keys; what rests on the old one goes at last."""
    run(app, "DELETE FROM child; SET CONSTRAINTS ALL IMMEDIATE")
    run(app, "ALTER TABLE child RENAME flow TO old_flow; ALTER TABLE child ADD flow integer")
    with refused("FG004") as refusal, app.transaction():
        run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    assert refusal.hint == "Call flowguard.guard('public.child', 'flow')."
    run(app, "SELECT flowguard.guard('child', 'flow')")
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    assert rows(app, "SELECT flow, old_flow FROM child") == [(1, None)]
    run(app, "SET CONSTRAINTS ALL IMMEDIATE")
    with refused("23503"), app.transaction():
        run(app, "UPDATE child SET flow = 77")
    guard_again(app)
    assert (
        rows(
            app,
            "SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) "
            "WHERE a.attname = 'old_flow'",
        )
        == []
    )


@in_mode("observe")
def test_guard_takes_the_column_of_a_filter_that_has_the_name_now(app: Connection) -> None:
    run(app, "ALTER TABLE event RENAME status TO old_status; ALTER TABLE event ADD status text DEFAULT 'live'")
    guard_again(app, "probe")
    run(app, "UPDATE event SET status = 'deleted'")
    run(app, "INSERT INTO probe VALUES (60, 1, NULL, '2025-01-01 10:00Z')")
    assert tables.link(app, "probe", 60) is None
    run(app, "UPDATE event SET status = 'live'")
    assert tables.link(app, "probe", 60) == 2


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        (["ALTER TABLE parent RENAME TO old"], "42P01"),
        (["ALTER TABLE parent RENAME TO old", "CREATE TABLE parent (LIKE old INCLUDING ALL)"], "FG004"),
        (["ALTER TABLE child RENAME parent TO old"], "42703"),
        (["ALTER TABLE parent RENAME flow TO old", "ALTER TABLE parent ADD flow integer"], "FG004"),
    ],
    ids=["table", "table replaced", "column", "column replaced"],
)
def test_sessions_that_are_there_and_that_come_later(
    databases: Databases, template: Callable[[str], str], changes: list[str], code: str
) -> None:
    """One that has the functions at hand, and one that has not, are refused alike, and go on after it is undone."""
    insert = "INSERT INTO child VALUES (%s, 1, NULL, NULL, 10) RETURNING flow"
    with databases.new(template("enforce")) as dsn, ExitStack() as stack:
        there, later, owner = (stack.enter_context(psycopg.connect(dsn, autocommit=True)) for _ in range(3))
        assert one(there, insert, 30) == 1
        for change in changes:
            run(owner, change)
        for session in (there, later):
            with refused(code):
                run(session, insert, 31)
        for change in reversed(changes):
            run(owner, BACK[change])
        assert (one(there, insert, 32), one(later, insert, 33)) == (1, 1)


BACK = {
    "ALTER TABLE parent RENAME TO old": "ALTER TABLE old RENAME TO parent",
    "CREATE TABLE parent (LIKE old INCLUDING ALL)": "DROP TABLE parent",
    "ALTER TABLE child RENAME parent TO old": "ALTER TABLE child RENAME old TO parent",
    "ALTER TABLE parent RENAME flow TO old": "ALTER TABLE parent RENAME old TO flow",
    "ALTER TABLE parent ADD flow integer": "ALTER TABLE parent DROP flow",
}

# --- Other links, while one is broken

TWO_TENANTS = """
CREATE TABLE job (id integer PRIMARY KEY, tenant integer NOT NULL, region integer NOT NULL,
                  created_at timestamptz DEFAULT now());
CREATE TABLE reading (id integer PRIMARY KEY, tenant integer NOT NULL, region integer NOT NULL, flow integer,
                      at timestamptz);
CREATE TABLE sample (id integer PRIMARY KEY, tenant integer NOT NULL, region integer NOT NULL, flow integer,
                     at timestamptz);
SELECT flowguard.add_master('job', 'id', '{tenant,region}');
SELECT flowguard.add_link('reading', 'flow', 'job');
SELECT flowguard.add_link('sample', 'flow', 'job');
SELECT flowguard.add_proximity_rule('sample', 'reading', '1 hour', 'at', 'at', 'flow', link_column => 'flow');
SELECT flowguard.guard('reading', 'flow');
SELECT flowguard.guard('sample', 'flow');
"""
"""A second application, whose sources in time need statistics."""

SHARED = """
SELECT pg_get_indexdef(i.indexrelid)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE c.relname LIKE 'flowguard\\_%%' AND i.indrelid = ANY (%(tables)s::regclass[])
UNION ALL
SELECT pg_get_statisticsobjdef(x.oid) FROM pg_statistic_ext x WHERE x.stxrelid = ANY (%(tables)s::regclass[])
 ORDER BY 1
"""
"""Indexes of ours, and statistics, of some tables."""

CONCERNED = {
    "child": ["flow", "parent", "child", "grandchild"],
    "probe": ["flow", "event", "probe"],
    "sample": ["job", "reading", "sample"],
}
"""The tables that a link concerns, those that follow it included."""

READ = {
    "child.parent": "SELECT flowguard.drop_rule('child', 1, 'flow'); "
    "SELECT flowguard.add_reference_rule('child', 'new_parent', 'parent', source_link => 'flow', "
    "link_column => 'flow')",
    "probe.at": "SELECT flowguard.drop_rule('probe', 1, 'flow'); "
    "SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'new_at', 'at', 'flow', "
    "source_filter => 'status <> ''deleted''', link_column => 'flow')",
    "sample.at": "SELECT flowguard.drop_rule('sample', 1, 'flow'); "
    "SELECT flowguard.add_proximity_rule('sample', 'reading', '1 hour', 'new_at', 'at', 'flow', "
    "link_column => 'flow')",
}
"""How a rule gets the new name of the column that it reads."""

BROKEN = ["child.flow", "child.tenant", "child.parent", "probe.at", "event.at", "sample.at", "reading.region"]


def alive(connection: Connection) -> list[tuple[str, str]]:
    """The links of which nothing is gone."""
    return rows(connection, "SELECT relation::text, link_column::text FROM flowguard._link_order()")


def guard_all(connection: Connection) -> None:
    """Guard each link of which nothing is gone."""
    for link in alive(connection):
        run(connection, "SELECT flowguard.guard(%s, %s)", *link)


def all_plans(connection: Connection) -> list[tuple[object, ...]]:
    """What is missing of any link."""
    return rows(
        connection,
        "SELECT p.* FROM flowguard.link l CROSS JOIN LATERAL flowguard.guard_plan(l.relation, l.link_column) p",
    )


def shared(connection: Connection, tables: list[str]) -> list[tuple[object, ...]]:
    return connection.execute(SHARED.encode(), {"tables": tables}).fetchall()


@in_mode("observe")
@pytest.mark.parametrize("renamed", BROKEN)
def test_what_serves_a_broken_link_stays_while_others_are_guarded(app: Connection, renamed: str) -> None:
    run(app, TWO_TENANTS)
    table, column = renamed.split(".")
    link = {"event": "probe", "reading": "sample"}.get(table, table)
    run(app, f"ALTER TABLE {table} RENAME {column} TO new_{column}")
    before = shared(app, CONCERNED[link])
    assert any("CREATE STATISTICS" in str(found) for (found,) in before) == (link == "sample")
    others = alive(app)
    assert (link, "flow") not in others
    for other in others:
        run(app, "SELECT flowguard.guard(%s, %s)", *other)
        assert shared(app, CONCERNED[link]) == before
    for other in others:
        with app.transaction(force_rollback=True):
            run(app, "SELECT flowguard.unguard(%s, %s)", *other)
            assert shared(app, CONCERNED[link]) == before
    run(app, f"ALTER TABLE {table} RENAME new_{column} TO {column}")
    assert all_plans(app) == []


@in_mode("observe")
@pytest.mark.parametrize("renamed", READ)
def test_a_link_whose_rule_was_mended_leaves_nothing_behind(app: Connection, renamed: str) -> None:
    """Its guard takes away what it had kept and does not need any more."""
    run(app, TWO_TENANTS)
    table, column = renamed.split(".")
    run(app, f"ALTER TABLE {table} RENAME {column} TO new_{column}")
    guard_all(app)
    run(app, READ[renamed])
    run(app, "SELECT flowguard.guard(%s, 'flow')", table)
    assert all_plans(app) == []


@in_mode("observe")
@pytest.mark.parametrize("column", ["tenant", "flow"])
def test_a_link_that_is_registered_anew_leaves_nothing_behind(app: Connection, column: str) -> None:
    """What was kept for the link that is gone goes with its unguard() and the guards of the others."""
    run(app, f"ALTER TABLE probe RENAME {column} TO new_{column}")
    guard_all(app)
    run(app, "SELECT flowguard.unguard('probe', 'flow')")
    run(app, "SELECT flowguard.drop_link('probe', 'flow')")
    link = "new_flow" if column == "flow" else "flow"
    tenant = "tenant" if column == "flow" else "new_tenant"
    run(app, "SELECT flowguard.add_link('probe', %s, 'flow', tenant_columns => ARRAY[%s]::name[])", link, tenant)
    run(
        app,
        "SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', link_column => %s)",
        link,
    )
    guard_all(app)
    assert all_plans(app) == []


@in_mode("observe")
@pytest.mark.parametrize("dropped", ["probe", "child"])
def test_what_serves_a_link_whose_table_was_dropped_stays_until_it_is_forgotten(app: Connection, dropped: str) -> None:
    """Nothing is refused because of it, and nothing is left in the end."""
    number = one(app, "SELECT %s::regclass::oid::text", dropped)
    run(app, f"DROP TABLE {dropped} CASCADE")
    left = [table for table in CONCERNED[dropped] if table != dropped]
    before = shared(app, left)
    guard_all(app)
    assert shared(app, left) == before
    for (link,) in rows(app, "SELECT l.relation::text FROM flowguard.link l WHERE NOT flowguard._is_alive(l)"):
        run(app, "SELECT flowguard.unguard(%s, 'flow')", link)
        run(app, "SELECT flowguard.drop_link(%s, 'flow')", link)
    assert rows(app, "SELECT FROM flowguard.link WHERE relation = %s::regclass", number) == []
    guard_all(app)
    assert all_plans(app) == []
    assert rows(app, "SELECT * FROM flowguard.check_all() WHERE name = 'leftover'") == []
    assert rows(app, "SELECT * FROM flowguard.doctor() WHERE name = 'leftover'") == []
