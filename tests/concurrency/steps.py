"""Steps that many stories share, in the small application of engine/tables.py, and the levels that they are told at."""

from __future__ import annotations

import pytest
from concurrency.stage import READ_COMMITTED, REPEATABLE_READ, SERIALIZABLE, Step, Steps
from engine.tables import TABLES
from psycopg import IsolationLevel

each_level = pytest.mark.parametrize(
    "level", [READ_COMMITTED, REPEATABLE_READ, SERIALIZABLE], ids=lambda level: level.name
)
without_serializable = pytest.mark.parametrize("level", [READ_COMMITTED, REPEATABLE_READ], ids=lambda level: level.name)

LOOK = Step("looks", "SELECT " + ", ".join(f"EXISTS (TABLE {table})" for table in TABLES))


KEPT = Step("looks, and goes on seeing that", f"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; {LOOK.do}")
"""As the first step: this session has a snapshot of before, whatever the level of the others."""


def at(level: IsolationLevel, *steps: Step | str) -> Steps:
    """Look first where the level keeps a snapshot: it is of that moment, which may be before another's commit."""
    return steps if level == READ_COMMITTED else (LOOK, *steps)


def insert_child(child: int, parent: int = 10, flow: int | None = None) -> Step:
    """Insert a child, which takes its parent's link or brings its own."""
    told = f"inserts child {child} of parent {parent}{f' with link {flow}' if flow else ''}"
    columns = f"{child}, 1, {parent}, {flow or 'NULL'}"
    return Step(told, f"INSERT INTO child (id, tenant, parent, flow) VALUES ({columns})")  # noqa: S608  numbers


def insert_parent(parent: int, flow: int | None = None) -> str:
    """Insert a parent."""
    return f"INSERT INTO parent VALUES ({parent}, 1, {flow or 'NULL'})"  # noqa: S608  numbers


def insert_probe(probe: int, flow: int | None = None) -> Step:
    """Insert a probe of midnight, which takes the link of the nearest event or brings its own."""
    told = f"inserts probe {probe}{f' with link {flow}' if flow else ''}"
    columns = f"{probe}, 1, {flow or 'NULL'}, '2025-01-01 00:00Z'"
    return Step(told, f"INSERT INTO probe (id, tenant, flow, at) VALUES ({columns})")  # noqa: S608  numbers


def link(table: str, row: int, flow: int | None) -> Step:
    """Set the link of a row, or take it away."""
    told = f"links {table} {row} to {flow}" if flow else f"unlinks {table} {row}"
    return Step(told, f"UPDATE {table} SET flow = {flow or 'NULL'} WHERE id = {row}")  # noqa: S608  names and numbers


def note(table: str, row: int) -> Step:
    """Update a column that no rule reads."""
    return Step(f"notes something in {table} {row}", f"UPDATE {table} SET note = 'changed' WHERE id = {row}")  # noqa: S608


def delete(table: str, row: int) -> Step:
    """Delete a row."""
    return Step(f"deletes {table} {row}", f"DELETE FROM {table} WHERE id = {row}")  # noqa: S608  names and numbers
