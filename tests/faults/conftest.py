"""The small application of engine/tables.py, registered and guarded or not, in a database of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from acceptance.command import Run, command_in, without_libpq
from engine.postgres import Connection, run
from engine.tables import guard, registered_in


@pytest.fixture
def registered(engine_db: str) -> Iterator[Connection]:
    """Give the application with its links registered, none guarded."""
    with registered_in(engine_db) as connection:
        yield connection


@pytest.fixture
def unlinked(registered: Connection) -> Connection:
    """Give the application, not guarded, with a linked parent and twenty children that have no link yet."""
    run(registered, "INSERT INTO parent VALUES (10, 1, 2)")
    run(registered, "INSERT INTO child (id, tenant, parent) SELECT n, 1, 10 FROM generate_series(20, 39) n")
    return registered


@pytest.fixture
def app(registered: Connection) -> Connection:
    """Give the application with its links guarded in observe."""
    guard(registered)
    return registered


@pytest.fixture
def admin(as_role: Callable[[str, str], str], engine_db: str) -> Iterator[Connection]:
    """Connect to the same database as a superuser, who sees every session."""
    with psycopg.connect(as_role(engine_db, "postgres"), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def command() -> Run:
    """Run `pyflowguard ARGUMENTS` as a user does."""
    return command_in(without_libpq(), timeout=120)
