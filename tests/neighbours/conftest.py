"""What the tests of neighbours share: databases with the engine, or with the small application of tables.py, guarded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from typing import Any

import psycopg
import pytest
from engine import tables
from engine.postgres import Connection
from psycopg.conninfo import conninfo_to_dict


@pytest.fixture
def db(engine_db: str) -> Iterator[Connection]:
    """Connect, as the plain owner, to a new database with the engine in it; each statement commits by itself."""
    with psycopg.connect(engine_db, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def application(databases: Any, engine_template: str) -> Iterator[Callable[[str], str]]:  # noqa: ANN401  conftest's class
    """Give the name of a database with the small application, guarded in a mode; each is made once."""
    with ExitStack() as stack:

        @cache
        def make(mode: str) -> str:
            dsn = stack.enter_context(databases.new(engine_template))
            with psycopg.connect(dsn, autocommit=True) as connection:
                tables.guarded(connection, mode=mode)
            return str(conninfo_to_dict(dsn)["dbname"])

        yield make


@pytest.fixture
def guarded(databases: Any, application: Callable[[str], str]) -> Iterator[tables.Guarded]:  # noqa: ANN401  as above
    """Connect, as the plain owner, to a new copy of the small application, guarded in the mode asked for."""
    with ExitStack() as stack:

        def connect(mode: str = "observe") -> Connection:
            dsn = stack.enter_context(databases.new(application(mode)))
            return stack.enter_context(psycopg.connect(dsn, autocommit=True))

        yield connect


@pytest.fixture
def session() -> Iterator[Callable[[Connection], Connection]]:
    """Open a further session in the database of a connection."""
    with ExitStack() as stack:
        yield lambda beside: stack.enter_context(psycopg.connect(beside.info.dsn, autocommit=True))
