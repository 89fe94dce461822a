"""Triggers keep how they found a link by time, where that is asked for: right, and of no other row.

What must be kept is worked out by the oracle, told of the same writes; the rest is example by example.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from engine.oracle import Key, Link, Oracle, Proximity, Row, Rule, same_for_certain
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import create, guard, link, links, register
from engine.test_fill_properties import Writer, clear
from engine.worlds import START, WORLDS, World
from hypothesis import given
from hypothesis import strategies as st
from profiles import sized
from psycopg.conninfo import make_conninfo
from repair.calls import repair, undo
from repair.test_explain import detail, explain, parts

from pyflowguard import changes
from pyflowguard import repair as repairs

if TYPE_CHECKING:
    from conftest import Databases

Entry = tuple[Any, ...]

KEPT = """
SELECT table_name, link_column, row_key, time_column, row_time, rule, new_link, distance, candidates, counted
  FROM flowguard.provenance ORDER BY id
"""
OF_PROBES = "SELECT row_key ->> 'id', rule, new_link, distance, candidates FROM flowguard.provenance ORDER BY id"
EVENT = "INSERT INTO event VALUES (%s, 1, %s, 'live', timestamptz '2025-01-01 12:00Z' + %s::interval)"
PROBE = "INSERT INTO probe (id, tenant, at) VALUES (%s, 1, '2025-01-01 12:00Z')"
MINUTES = timedelta(minutes=1)


# --- Whatever is written


class KeepingOracle(Oracle):
    """Knows what must be kept as well: an entry for each link that a rule by time gave to a row that was written."""

    def __init__(self, world: World, *, count: bool) -> None:
        super().__init__(world.tables, world.links)
        self.count = count
        self.kept: list[Entry] = []
        self.committed_entries: list[Entry] = []
        self.found: Entry | None = None
        """Of the last look-up, if that was by time and its link is not written yet."""
        self.fills = False
        """Whether the row of a look-up is being written, with whatever is found."""

    def lookup(self, link: Link, row: Row, *, ask_session: bool) -> Any:  # noqa: ANN401  a key of any type
        """Note how the link was found, too."""
        link_found = super().lookup(link, row, ask_session=ask_session)
        self.found = None
        if link_found is not None:
            for position, rule in enumerate(link.rules, 1):
                alone = Link(link.table, link.column, link.master, link.tenants, (rule,))
                if super().lookup(alone, row, ask_session=ask_session) is not None:
                    if isinstance(rule, Proximity):
                        self.found = self.entry(link, rule, position, row, link_found)
                    break
        if self.fills:
            self.keep()
        return link_found

    def entry(self, link: Link, rule: Proximity, position: int, row: Row, link_found: object) -> Entry:
        near = [
            (abs(source[rule.source_time] - row[rule.time]), source[rule.source_link])
            for source in self.rows[rule.source].values()
            if source[rule.source_link] is not None
            and source[rule.source_time] is not None
            and abs(source[rule.source_time] - row[rule.time]) <= rule.within
            and rule.keep(source)
            and same_for_certain(source, rule.tenants, row, link.tenants)
        ]
        nearest = min(
            away
            for away, key in near
            if any(same_for_certain(m, link.master.tenants, row, link.tenants) for m in self.masters(link, key))
        )
        return (
            link.table,
            link.column,
            tuple(map(str, self.key(link.table, row))),
            rule.time,
            row[rule.time],
            position,
            str(link_found),
            nearest,
            len(near) if self.count else min(len(near), 2),
            self.count,
        )

    def keep(self) -> None:
        if self.found is not None:
            self.kept.append(self.found)
        self.found = None

    def insert(self, table: str, rows: Sequence[Row]) -> None:
        """Keep what is found while rows are inserted."""
        self.fills = True
        super().insert(table, rows)
        self.fills = False

    def after(self, table: str, events: Sequence[tuple[Row | None, Row]]) -> None:
        """What is found for others is kept when it is written."""
        fills, self.fills = self.fills, False
        super().after(table, events)
        self.fills = fills

    def update_rows(self, table: str, keys: Sequence[Key], changes: Row) -> None:
        """What is given was not found."""
        self.found = None
        super().update_rows(table, keys, changes)

    def write(self, table: str, old: Row, changes: Row) -> Row:
        """Keep what was found for this row, and what is found while it is written."""
        found, self.found = self.found, None
        if found is not None and {found[1]: found[6]} == {name: str(value) for name, value in changes.items()}:
            self.kept.append(found)
        fills, self.fills = self.fills, True
        new = super().write(table, old, changes)
        self.fills = fills
        return new

    def commit(self) -> set[str]:
        """Nothing stays of a transaction that is refused."""
        forbidden = super().commit()
        if forbidden:
            self.kept = list(self.committed_entries)
        self.committed_entries = list(self.kept)
        return forbidden


class KeepingWriter(Writer):
    """Compares what was kept as well."""

    oracle: KeepingOracle

    def __init__(self, connection: Connection, world: World, data: st.DataObject, *, count: bool) -> None:
        super().__init__(connection, world, data)
        self.oracle = KeepingOracle(world, count=count)

    def compare(self) -> None:
        super().compare()
        there = []
        for table, column, key, time_column, at, rule, new, distance, candidates, counted in rows(self.connection, KEPT):
            own = tuple(str(key[name]) for name in self.oracle.definitions[table].key)
            moment = (at - START) // timedelta(microseconds=1)
            away = distance // timedelta(microseconds=1)
            there.append((table, column, own, time_column, moment, rule, new, away, candidates, counted))
        assert Counter(there) == Counter(self.oracle.kept)


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: world.name)
def keeping_world(request: pytest.FixtureRequest, databases: Databases, engine_template: str) -> Iterator[Any]:
    """A database with the tables of one world, all links guarded; every other one counts candidates."""
    world: World = request.param
    count = WORLDS.index(world) % 2 == 1
    with databases.new(engine_template) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        run(connection, world.ddl)
        run(connection, world.registration)
        run(
            connection,
            "SELECT flowguard.keep_provenance(relation, link_column, count_candidates => %s) FROM flowguard.link",
            count,
        )
        run(connection, "SELECT flowguard.guard(relation, link_column) FROM flowguard.link")
        run(connection, """SET search_path = public, "Zweites Schema" """)
        yield connection, world, count


def empty(connection: Connection, world: World) -> None:
    clear(connection, world)
    run(connection, "SELECT flowguard.forget_provenance('infinity')")


@given(data=st.data())
def test_what_is_kept_is_what_the_oracle_says(keeping_world: Any, data: st.DataObject) -> None:  # noqa: ANN401
    connection, world, count = keeping_world
    empty(connection, world)
    writer = KeepingWriter(connection, world, data, count=count)
    writer.begin_with_masters()
    for _ in range(data.draw(st.integers(1, 12), label="transactions")):
        writer.transaction()
        writer.compare()


@given(data=st.data())
def test_what_is_kept_among_many_sources(keeping_world: Any, data: st.DataObject) -> None:  # noqa: ANN401
    connection, world, count = keeping_world
    empty(connection, world)
    writer = KeepingWriter(connection, world, data, count=count)
    writer.begin_with_masters()
    writer.crowd()
