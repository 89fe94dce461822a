"""Databases with the examples' tables and rows, and the command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from acceptance.command import COMMAND, Run, command_in, without_libpq
from discover.truth import EXAMPLES, TRUTH
from psycopg.conninfo import conninfo_to_dict

from pyflowguard import database

if TYPE_CHECKING:
    from conftest import Databases


@pytest.fixture(scope="session")
def command() -> Run:
    """Run `pyflowguard ARGUMENTS` as a user does."""
    environment = {**without_libpq(), "SQITCH_FULLNAME": "Planner", "SQITCH_EMAIL": "planner@example.org"}
    return command_in({**environment, "PATH": f"{COMMAND.parent}:{environment['PATH']}"}, timeout=120)


@pytest.fixture(scope="session")
def example_templates(databases: Databases) -> Iterator[dict[str, str]]:
    """Give the names of databases that hold an example each, by the example's name."""
    names = {}
    with ExitStack() as stack:
        for name in TRUTH:
            dsn = stack.enter_context(databases.new())
            with database.connect(dsn) as connection:
                database.run_script(connection, EXAMPLES / f"{name}.sql", action=f"loading {name}")
            names[name] = str(conninfo_to_dict(dsn)["dbname"])
        yield names


@pytest.fixture(scope="session")
def engine_example_templates(databases: Databases, engine_template: str) -> Iterator[dict[str, str]]:
    """Give the names of databases that hold an example each and the engine beside it, by the example's name."""
    with ExitStack() as stack:
        names = {}
        for name in TRUTH:
            dsn = stack.enter_context(databases.new(engine_template))
            with database.connect(dsn) as connection:
                database.run_script(connection, EXAMPLES / f"{name}.sql", action=f"loading {name}")
            names[name] = str(conninfo_to_dict(dsn)["dbname"])
        yield names


@pytest.fixture(params=list(TRUTH))
def name(request: pytest.FixtureRequest) -> str:
    """Name each example in turn."""
    return str(request.param)


@pytest.fixture
def example(databases: Databases, example_templates: dict[str, str], name: str) -> Iterator[str]:
    """Give a new database with the tables and rows of an example."""
    with databases.new(example_templates[name]) as dsn:
        yield dsn


@pytest.fixture
def engine_example(databases: Databases, engine_example_templates: dict[str, str], name: str) -> Iterator[str]:
    """Give a new database with the same tables and rows, and the engine."""
    with databases.new(engine_example_templates[name]) as dsn:
        yield dsn


@pytest.fixture
def shop(databases: Databases, example_templates: dict[str, str]) -> Iterator[str]:
    """Give a new database with the shop."""
    with databases.new(example_templates["shop"]) as dsn:
        yield dsn
