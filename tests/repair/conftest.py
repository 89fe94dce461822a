"""What the tests of repair share: a database with the engine in it, and a second session in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest
from engine.postgres import Connection


@pytest.fixture
def db(engine_db: str) -> Iterator[Connection]:
    """Connect, as the plain owner, to a new database with the engine in it; each statement commits by itself."""
    with psycopg.connect(engine_db, autocommit=True) as connection:
        yield connection


@pytest.fixture
def session(engine_db: str) -> Iterator[Callable[[], Connection]]:
    """Open further sessions in the same database."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(psycopg.connect(engine_db, autocommit=True))
