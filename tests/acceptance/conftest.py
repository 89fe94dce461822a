"""What the acceptance tests share: the command as a user runs it, and the report's database fully guarded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from acceptance.command import COMMAND, Query, Run, command_in, in_migration, without_libpq
from changesets import deploy_profile_last
from psycopg.conninfo import conninfo_to_dict

from pyflowguard import changes

if TYPE_CHECKING:
    from conftest import Databases


@pytest.fixture(scope="session")
def clean_environment() -> dict[str, str]:
    """Give an environment without libpq's variables, with a home that holds no password file."""
    kept = without_libpq()
    kept.pop("NO_COLOR", None)
    return {**kept, "PATH": f"{COMMAND.parent}:{kept['PATH']}"}


@pytest.fixture(scope="session")
def command(clean_environment: dict[str, str]) -> Run:
    """Run `pyflowguard ARGUMENTS` as a user does."""
    return command_in(clean_environment, timeout=120)


@pytest.fixture(scope="session")
def registered_template(databases: Databases, report_template: str) -> Iterator[str]:
    """Name of a database that holds the report's rows and the engine with its links registered, nothing repaired."""
    with databases.new(report_template) as dsn:
        deploy_profile_last(in_migration(dsn), "report/links")
        yield str(conninfo_to_dict(dsn)["dbname"])


@pytest.fixture(scope="session")
def guarded_template(databases: Databases, report_template: str) -> Iterator[str]:
    """Name of a database in which the whole plan is deployed on the report's rows."""
    with databases.new(report_template) as dsn:
        changes.deploy(in_migration(dsn))
        yield str(conninfo_to_dict(dsn)["dbname"])


@pytest.fixture
def registered_db(databases: Databases, registered_template: str) -> Iterator[str]:
    """Give a new database with the report's rows, links registered and nothing repaired."""
    with databases.new(registered_template) as dsn:
        yield in_migration(dsn)


@pytest.fixture
def guarded_db(databases: Databases, guarded_template: str) -> Iterator[str]:
    """Give a new database with the report's rows, cleaned up and guarded."""
    with databases.new(guarded_template) as dsn:
        yield in_migration(dsn)


@pytest.fixture
def query() -> Query:
    """Run one statement and give its rows."""

    def run(dsn: str, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    return run
