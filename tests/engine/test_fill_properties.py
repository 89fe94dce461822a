"""Whatever is written, in whatever order and grouping: every link is what the oracle says, and rules 1 to 4 hold.

Rows of all tables come in random order, children before their sources, in transactions of several statements of several
rows; sources change afterwards; masters are deleted. After each commit all tables are compared with the oracle's, and a
commit must fail exactly where the oracle says that one of the rules 1 to 4 would be broken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import psycopg
import pytest
from engine.oracle import Key, Link, Oracle, Reference, Row
from engine.postgres import Connection, run
from engine.worlds import TIMES, WORLDS, Choice, Refers, Shape, Times, World, as_timestamp
from hypothesis import given, note
from hypothesis import strategies as st
from psycopg import sql

COMMA = sql.SQL(", ")
AND = sql.SQL(" AND ")
REFUSALS = {"23503", "FG001", "FG002"}


def setting_of(world: World) -> str:
    """Name the setting that session rules of this world read."""
    return {"flow": "flowguard.flow", "project": "flowguard.project"}.get(
        world.links[0].column, "flowguard.master_flow_id"
    )


def identifier(*names: str) -> sql.Composed:
    """Quote names for a statement with parameters, in which % is no ordinary character."""
    quoted = ['"' + name.replace('"', '""').replace("%", "%%") + '"' for name in names]
    return sql.Composed([sql.SQL(name) for name in quoted]).join(COMMA)


class Writer:
    """Draws writes, tells them to the server and to the oracle, and compares."""

    def __init__(self, connection: Connection, world: World, data: st.DataObject) -> None:
        self.connection = connection
        self.world = world
        self.oracle = Oracle(world.tables, world.links)
        self.data = data
        self.number = 0
        self.shapes = {shape.table: shape for shape in world.shapes}
        self.columns: dict[tuple[str, str], Times | Any] = {
            (shape.table, name): kind for shape in world.shapes for name, kind in shape.columns.items()
        }

    # --- Drawing

    def pick(self, *options: Any) -> Any:  # noqa: ANN401  whatever is offered
        return options[self.data.draw(st.integers(0, len(options) - 1), label="pick")]

    def value(self, kind: object, tenant: Mapping[str, Any]) -> Any:  # noqa: ANN401  of the column's type
        if isinstance(kind, Times):
            return self.pick(*TIMES, *TIMES, *TIMES, *([] if kind.known else [None]), math.inf, -math.inf)
        if isinstance(kind, Refers):
            present = [
                row[kind.column]
                for row in self.oracle.rows[kind.table].values()
                if "owner" not in row or row["owner"] == tenant["owner"]
            ]
            if kind.loose:
                codes = [row["code"] for row in self.oracle.rows[kind.table].values()]
                return self.pick(None, None, self.world.tenants[0][0], *present, *codes)
            return self.pick(None, *present[-4:])
        assert isinstance(kind, Choice)
        return self.pick(*kind.values)

    def row(self, shape: Shape) -> Row:
        self.number += 1
        row: Row = {name: make(self.number) for name, make in shape.key.items()}
        tenant = dict(zip(shape.tenants, self.pick(*[self.world.tenants[0]] * 4, *self.world.tenants), strict=True))
        if shape.null_tenants and self.pick(*[False] * 7, True):
            tenant[self.pick(*shape.tenants)] = None
        row |= tenant
        for name, kind in shape.columns.items():
            row[name] = self.value(kind, tenant)
        for name in shape.links:
            row[name] = self.link_value(shape, row)
        return row

    def link_value(self, shape: Shape, row: Row) -> Any:  # noqa: ANN401  a key of the master
        if shape is self.world.shapes[-1] and self.pick(*[True] * 7, False):
            return None
        link = next(link for link in self.world.links if link.table == shape.table)
        masters = list(self.oracle.rows[link.master.table].values())
        same = [
            master[link.master.key]
            for master in masters
            if all(
                row[column] in (None, master[name])
                for column, name in zip(link.tenants, link.master.tenants, strict=True)
                if column is not None and name is not None
            )
        ]
        # Now and then one of another tenant, which must be refused.
        any_master = [master[link.master.key] for master in masters] if self.pick(*[False] * 11, True) else []
        return self.pick(None, *same[:3], *any_master)

    # --- Writing

    def insert(self, shape: Shape) -> None:
        count = self.pick(1, 1, 2, 3)
        new: dict[Key, Row] = {}
        for row in (self.row(shape) for _ in range(count)):
            key = self.oracle.key(shape.table, row)
            if key not in self.oracle.rows[shape.table]:
                new[key] = row
        if not new:
            return
        note(f"insert {shape.table} {list(new.values())}")
        self.write_rows(shape, list(new.values()))

    def write_rows(self, shape: Shape, new: list[Row]) -> None:
        names = list(new[0])
        one_row = sql.SQL("({})").format(COMMA.join([sql.Placeholder()] * len(names)))
        statement = sql.SQL("INSERT INTO {} ({}) VALUES {}").format(
            identifier(shape.table), identifier(*names), COMMA.join([one_row] * len(new))
        )
        run(self.connection, statement, *[self.send(shape, name, row[name]) for row in new for name in names])
        self.oracle.insert(shape.table, new)

    def update(self, shape: Shape) -> None:
        key = self.some_key(shape)
        mutable = [*shape.columns, *shape.links]
        if key is None or not mutable:
            return
        row = self.oracle.rows[shape.table][key]
        changes: Row = {}
        for _ in range(self.pick(1, 1, 2)):
            name = self.pick(*mutable)
            changes[name] = self.link_value(shape, row) if name in shape.links else self.value(shape.columns[name], row)
        statement = sql.SQL("UPDATE {} SET {} WHERE {}").format(
            identifier(shape.table), self.equals(changes, COMMA), self.equals(self.key_columns(shape), AND)
        )
        note(f"update {shape.table} {key} {changes}")
        run(self.connection, statement, *[self.send(shape, name, value) for name, value in changes.items()], *key)
        self.oracle.update(shape.table, key, changes)

    def delete(self, shape: Shape) -> None:
        key = self.some_key(shape)
        if key is None or not shape.can_delete:
            return
        note(f"delete {shape.table} {key}")
        where = self.equals(self.key_columns(shape), AND)
        run(self.connection, sql.SQL("DELETE FROM {} WHERE {}").format(identifier(shape.table), where), *key)
        self.oracle.delete(shape.table, key)

    def begin_with_masters(self) -> None:
        """Write some masters of each tenant, so that there is something to link to."""
        shape = self.world.shapes[0]
        for tenant in (0, 0, 0, *range(1, len(self.world.tenants))):
            self.number += 1
            row: Row = {name: make(self.number) for name, make in shape.key.items()}
            row |= dict(zip(shape.tenants, self.world.tenants[tenant], strict=True))
            self.write_rows(shape, [row])
        self.oracle.commit()

    def transaction(self) -> None:
        """Write some statements and commit, or see the commit refused where the oracle refuses it."""
        note("begin")
        run(self.connection, "BEGIN")
        masters = list(self.oracle.rows[self.world.links[0].master.table].values())
        if masters and self.pick(True, False):
            self.oracle.session = self.pick(*masters)[self.world.links[0].master.key]
            note(f"session {self.oracle.session}")
            run(self.connection, "SELECT set_config(%s, %s, true)", setting_of(self.world), str(self.oracle.session))
        for _ in range(self.pick(1, 2, 3, 4)):
            shape = self.pick(*self.world.shapes[1:], *self.world.shapes[1:], *self.world.shapes)
            self.pick(*[self.insert] * 6, *[self.update] * 4, self.delete)(shape)
        self.commit()

    def commit(self) -> None:
        forbidden = self.oracle.commit()
        said = ""
        try:
            run(self.connection, "COMMIT")
        except psycopg.Error as error:
            said = f"{error.sqlstate} {error}"
        if forbidden:
            assert said[:5] in REFUSALS, f"{forbidden} forbid the commit, but it went through, or failed by: {said}"
        else:
            assert not said, f"nothing forbids the commit, but it was refused: {said}"

    def crowd(self) -> None:
        """Write linked sources of one tenant, and rows that have nothing but their time to find one by."""
        masters = list(self.oracle.rows[self.world.shapes[0].table].values())[:3]
        tenant = self.world.tenants[0]
        child = self.world.shapes[-1]
        for name in self.pick(*self.orders()):
            shape = self.shapes[name]
            for _ in range(self.pick(1, 2, 3)):
                row = self.row(shape) | dict(zip(shape.tenants, tenant, strict=True))
                row |= {column: None for column, kind in shape.columns.items() if isinstance(kind, Refers)}
                row |= {
                    link: None if shape is child else self.pick(*masters)[self.key_of_master] for link in shape.links
                }
                note(f"insert {name} {row}")
                run(self.connection, "BEGIN")
                self.write_rows(shape, [row])
                self.commit()
                self.compare()

    def orders(self) -> list[list[str]]:
        """Sources first; where rows may be unlinked for a while also rows first, or between two sources."""
        sources, child = list(self.world.sources), self.world.shapes[-1].table
        if self.world.links[0].enforce:
            return [[*sources, *sources, child]]
        return [[*sources, *sources, child], [child, *sources, *sources], [*sources, child, *sources, child]]

    # --- Comparing

    def compare(self) -> None:
        for shape in self.world.shapes:
            definition = self.oracle.definitions[shape.table]
            query = sql.SQL("SELECT {} FROM {}").format(
                identifier(*definition.key, *shape.links), identifier(shape.table)
            )
            width = len(definition.key)
            there = {row[:width]: row[width:] for row in self.connection.execute(query, ())}
            expected = {
                key: tuple(row[name] for name in shape.links) for key, row in self.oracle.rows[shape.table].items()
            }
            assert there == expected, shape.table

    def check_invariants(self) -> None:
        """Rules 1 to 4 by the tables as the server has them, without the oracle's idea of what a link should be."""
        tables = {shape.table: self.read(shape) for shape in self.world.shapes}
        for link in self.world.links:
            masters = tables[link.master.table]
            for row in tables[link.table]:
                value = row[link.column]
                if value is None:
                    assert not link.enforce, f"unlinked in enforce: {row}"
                    continue
                mine = [master for master in masters if master[link.master.key] == value]
                assert mine, f"dangling: {row}"
                tenant = [row[column] for column in link.tenants if column is not None]
                if None in tenant:
                    assert not link.enforce, f"no tenant in enforce: {row}"
                else:
                    assert tenant in [[master[c] for c in link.master.tenants if c] for master in mine], row
                if link.enforce:
                    self.check_agreement(link, row, tables)

    @staticmethod
    def check_agreement(link: Link, row: Row, tables: dict[str, list[Row]]) -> None:
        for rule in link.rules:
            if isinstance(rule, Reference) and rule.agree and row[rule.via] is not None:
                answers = [s[rule.source_link] for s in tables[rule.source] if s[rule.source_key] == row[rule.via]]
                assert answers == [row[link.column]], f"disagrees with its reference: {row}"

    # --- Small steps

    @property
    def key_of_master(self) -> str:
        return self.world.links[0].master.key

    def read(self, shape: Shape) -> list[Row]:
        references = [name for name, kind in shape.columns.items() if isinstance(kind, Refers)]
        names = list(dict.fromkeys([*shape.key, *shape.tenants, *shape.links, *references]))
        query = sql.SQL("SELECT {} FROM {}").format(identifier(*names), identifier(shape.table))
        return [dict(zip(names, row, strict=True)) for row in self.connection.execute(query, ())]

    def send(self, shape: Shape, name: str, value: Any) -> Any:  # noqa: ANN401  of the column's type
        return as_timestamp(value) if isinstance(shape.columns.get(name), Times) else value

    def some_key(self, shape: Shape) -> Key | None:
        keys = list(self.oracle.rows[shape.table])
        return self.pick(*keys) if keys else None

    def key_columns(self, shape: Shape) -> tuple[str, ...]:
        return self.oracle.definitions[shape.table].key

    @staticmethod
    def equals(names: Iterable[str], separator: sql.SQL) -> sql.Composed:
        return separator.join(sql.SQL("{} = %s").format(identifier(name)) for name in names)


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: world.name)
def guarded_world(request: pytest.FixtureRequest, databases: Any, engine_template: str) -> Iterator[Any]:  # noqa: ANN401
    """A database with the tables of one world, all links guarded."""
    world: World = request.param
    with databases.new(engine_template) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        run(connection, world.ddl)
        run(connection, world.registration)
        run(connection, "SELECT flowguard.guard(relation, link_column) FROM flowguard.link")
        run(connection, """SET search_path = public, "Zweites Schema" """)
        yield connection, world


def clear(connection: Connection, world: World) -> None:
    if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        run(connection, "ROLLBACK")
    with connection.transaction():
        run(connection, "SELECT flowguard.bypass('between two examples')")
        for shape in reversed(world.shapes):
            connection.execute(sql.SQL("DELETE FROM {}").format(identifier(shape.table)), ())


@given(data=st.data())
def test_links_are_what_the_oracle_says(guarded_world: tuple[Connection, World], data: st.DataObject) -> None:
    connection, world = guarded_world
    clear(connection, world)
    writer = Writer(connection, world, data)
    writer.begin_with_masters()
    for _ in range(data.draw(st.integers(1, 12), label="transactions")):
        writer.transaction()
        writer.compare()
    writer.check_invariants()


@given(data=st.data())
def test_ties_and_the_edges_of_the_window(guarded_world: tuple[Connection, World], data: st.DataObject) -> None:
    connection, world = guarded_world
    clear(connection, world)
    writer = Writer(connection, world, data)
    writer.begin_with_masters()
    writer.crowd()
