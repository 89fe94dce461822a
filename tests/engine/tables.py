"""A small application that most tests of the engine guard: flows, and a chain parent -> child -> grandchild below them.

`probe` rows find their flow by time, from `event` rows. Keys are integers, so that a test reads at a glance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import psycopg
from engine.postgres import Connection, one, rows, run

DDL = """
CREATE TABLE flow (id integer PRIMARY KEY, tenant integer NOT NULL, created_at timestamptz DEFAULT now());
CREATE TABLE parent (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer, note text);
CREATE TABLE child (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer, note text,
                    parent integer REFERENCES parent ON DELETE CASCADE);
CREATE TABLE grandchild (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer, note text,
                         child integer REFERENCES child ON DELETE CASCADE);
CREATE TABLE event (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer, status text DEFAULT 'live',
                    at timestamptz, note text);
CREATE TABLE probe (id integer PRIMARY KEY, tenant integer, flow integer, at timestamptz, note text);
"""
FLOWS = "INSERT INTO flow VALUES (1, 1), (2, 1), (3, 1), (9, 2)"

Guarded: TypeAlias = Callable[..., Connection]
"""The fixture `guarded`: give it mode and on_master_delete, and get a connection to a database guarded so."""

LINKS = ("parent", "child", "grandchild", "event", "probe")
TABLES = ("flow", *LINKS)

CLEAR = "; ".join(
    [
        "SELECT flowguard.bypass('between two tests')",
        *(f"DELETE FROM {table}" for table in (*reversed(LINKS), "flow", "flowguard.privileged_transaction")),  # noqa: S608
        FLOWS,
    ]
)
"""One transaction."""


def create(connection: Connection) -> None:
    """Create the tables and the flows 1, 2, 3 of tenant 1 and 9 of tenant 2."""
    run(connection, DDL)
    run(connection, FLOWS)


def register(connection: Connection, *, mode: str = "observe", on_master_delete: str = "keep") -> None:
    """Register all five links and their rules."""
    run(connection, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    add_links(connection, LINKS, mode, on_master_delete)
    run(connection, "SELECT flowguard.add_session_rule('parent', 'flow')")
    add_reference(connection, "child", "parent", "parent")
    add_reference(connection, "grandchild", "child", "child")
    run(
        connection,
        "SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', "
        "source_filter => 'status <> ''deleted''', link_column => 'flow')",
    )


def add_reference(connection: Connection, table: str, via: str, source: str, **options: object) -> None:
    """Register a reference rule for the link `flow` of a table."""
    given = {"source_link": "flow", "link_column": "flow", **options}
    extra = "".join(f', "{name}" => %s' for name in given)
    run(
        connection,
        "SELECT flowguard.add_reference_rule(%s::regclass, %s, %s::regclass" + extra + ")",
        table,
        via,
        source,
        *given.values(),
    )


@contextmanager
def registered_in(dsn: str) -> Iterator[Connection]:
    """Create and register all in a database that has the engine; each statement commits by itself."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        create(connection)
        register(connection)
        yield connection


def add_links(connection: Connection, tables: Sequence[str], mode: str, on_master_delete: str) -> None:
    """Register the link `flow` of these tables, without rules."""
    for table in tables:
        run(
            connection,
            "SELECT flowguard.add_link(%s::regclass, 'flow', mode => %s, on_master_delete => %s)",
            table,
            mode,
            on_master_delete,
        )


def guard(connection: Connection, *tables: str) -> list[tuple[Any, ...]]:
    """Guard these links, or all, and give what was done."""
    return [
        step
        for table in tables or LINKS
        for step in rows(connection, "SELECT (flowguard.guard(%s::regclass, 'flow')).*", table)
    ]


def guarded(connection: Connection, *, mode: str = "observe", on_master_delete: str = "keep") -> None:
    """Create, register and guard all."""
    create(connection)
    register(connection, mode=mode, on_master_delete=on_master_delete)
    guard(connection)


def clear(connection: Connection) -> None:
    """Bring the rows back to what create() leaves."""
    run(connection, CLEAR)


def link(connection: Connection, table: str, row: int) -> Any:  # noqa: ANN401  a key, or None
    """Give the link of a row."""
    return one(connection, f"SELECT flow FROM {table} WHERE id = %s", row)  # noqa: S608  a table of ours


def links(connection: Connection, table: str) -> dict[int, Any]:
    """Give the links of all rows of a table."""
    return dict(rows(connection, f"SELECT id, flow FROM {table}"))  # noqa: S608  a table of ours
