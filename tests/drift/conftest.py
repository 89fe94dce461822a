"""What the tests of drift share: the small application, guarded and well, and who may do more than its owner."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from engine.postgres import Connection, run
from engine.tables import create, guard, register
from psycopg.conninfo import conninfo_to_dict

from pyflowguard import changes

if TYPE_CHECKING:
    from conftest import Databases

EVENTS = Path(__file__).parents[2] / "sql" / "event_triggers"

WELL = (
    "INSERT INTO parent VALUES (10, 1, 1)",
    "INSERT INTO child (id, tenant, parent, flow) VALUES (20, 1, 10, 1)",
    "INSERT INTO event VALUES (50, 1, 1, 'live', now())",
    "INSERT INTO probe VALUES (60, 1, 1, now())",
)


@pytest.fixture(scope="session")
def well_template(databases: Databases, engine_template: str) -> Iterator[str]:
    """Name of a database with the small application, guarded, with rows that are all well."""
    with databases.new(engine_template) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            create(connection)
            register(connection)
            guard(connection)
            for statement in WELL:
                run(connection, statement)
        yield str(conninfo_to_dict(dsn)["dbname"])


@pytest.fixture
def engine_db(databases: Databases, well_template: str) -> Iterator[str]:
    """Give, in place of an engine without links, a new database with the small application, guarded and well."""
    with databases.new(well_template) as dsn:
        yield dsn


@pytest.fixture
def well(engine_db: str) -> Iterator[Connection]:
    """Connect to it as the plain owner."""
    with psycopg.connect(engine_db, autocommit=True) as connection:
        yield connection


@pytest.fixture
def superuser(engine_db: str, as_role: Callable[[str, str], str]) -> Iterator[Connection]:
    """Connect to it as the superuser."""
    with psycopg.connect(as_role(engine_db, "postgres"), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def events_template(databases: Databases, well_template: str) -> Iterator[str]:
    """Name of a database with the small application, guarded, and the event triggers."""
    with databases.new(well_template) as dsn:
        changes.deploy(psycopg.conninfo.make_conninfo(dsn, user="postgres"), directory=EVENTS)
        yield str(conninfo_to_dict(dsn)["dbname"])


@pytest.fixture
def events_db(databases: Databases, events_template: str) -> Iterator[str]:
    """Give a new database with the small application, guarded, and the event triggers."""
    with databases.new(events_template) as dsn:
        yield dsn
