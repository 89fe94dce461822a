"""The small application of engine/tables.py, registered and guarded or not, in a database of the test's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from acceptance.command import COMMAND, Run
from engine.postgres import Connection
from engine.tables import create, guard, register


@pytest.fixture
def registered(engine_db: str) -> Iterator[Connection]:
    """Give the application with its links registered, none guarded."""
    with psycopg.connect(engine_db, autocommit=True) as connection:
        create(connection)
        register(connection)
        yield connection


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
    """Run `pyflowguard ARGUMENTS` in a process of its own."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        return subprocess.run(
            [COMMAND, *arguments], env=kept, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )

    return run
