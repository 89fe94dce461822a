"""What the tests of neighbours share: databases with the engine, or with the small application, guarded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from typing import Any

import psycopg
import pytest
from engine import tables
from engine.postgres import Connection
from neighbours.application import Copy, Fill, Template, small_application
from psycopg.conninfo import conninfo_to_dict


@pytest.fixture
def db(engine_db: str) -> Iterator[Connection]:
    """Connect, as the plain owner, to a new database with the engine in it; each statement commits by itself."""
    with psycopg.connect(engine_db, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def template(databases: Any, engine_template: str) -> Iterator[Template]:  # noqa: ANN401  conftest's class
    """Make a database with the engine and what a function puts into it, once, and give its name."""
    with ExitStack() as stack:

        @cache
        def make(fill: Fill) -> str:
            dsn = stack.enter_context(databases.new(engine_template))
            with psycopg.connect(dsn, autocommit=True) as connection:
                fill(connection)
            return str(conninfo_to_dict(dsn)["dbname"])

        yield make


@pytest.fixture
def copy(databases: Any, template: Template) -> Iterator[Copy]:  # noqa: ANN401  conftest's class
    """Connect, as the plain owner, to a new copy of what a function makes of a database with the engine."""
    with ExitStack() as stack:

        def connect(fill: Fill) -> Connection:
            dsn = stack.enter_context(databases.new(template(fill)))
            return stack.enter_context(psycopg.connect(dsn, autocommit=True))

        yield connect


@pytest.fixture
def guarded(copy: Copy) -> tables.Guarded:
    """Connect to a new copy of the small application, guarded in the mode asked for."""
    return lambda mode="observe": copy(small_application(mode))


@pytest.fixture
def session() -> Iterator[Callable[[Connection], Connection]]:
    """Open a further session in the database of a connection."""
    with ExitStack() as stack:
        yield lambda beside: stack.enter_context(psycopg.connect(beside.info.dsn, autocommit=True))
