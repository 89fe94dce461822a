"""What the tests of the engine share: databases with the engine in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from typing import Any

import psycopg
import pytest
from changesets import deploy_profile_last
from engine import tables
from psycopg.conninfo import conninfo_to_dict, make_conninfo

REPORT_TABLES = ("data_imports", "raw_import_records", "import_field_mappings", "discovery_flows", "assets")


@pytest.fixture
def db(engine_db: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Connect, as the plain owner, to a new database with the engine in it; each statement commits by itself."""
    with psycopg.connect(engine_db, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def app_template(databases: Any, engine_template: str) -> Iterator[Callable[[str, str], str]]:  # noqa: ANN401
    """Give the name of a database with the small application of tables.py, guarded so; each is made once."""
    with ExitStack() as stack:

        @cache
        def make(mode: str, on_master_delete: str) -> str:
            dsn = stack.enter_context(databases.new(engine_template))
            with psycopg.connect(dsn, autocommit=True) as connection:
                tables.guarded(connection, mode=mode, on_master_delete=on_master_delete)
            return str(conninfo_to_dict(dsn)["dbname"])

        yield make


@pytest.fixture(scope="session")
def shared(databases: Any, app_template: Callable[[str, str], str]) -> Iterator[Callable[[str, str], str]]:  # noqa: ANN401
    """Give the connection string of a copy that tests share, which write rows only."""
    with ExitStack() as stack:
        yield cache(lambda mode, action: str(stack.enter_context(databases.new(app_template(mode, action)))))


@pytest.fixture
def guarded(
    databases: Any,  # noqa: ANN401  conftest's class
    app_template: Callable[[str, str], str],
    shared: Callable[[str, str], str],
) -> Iterator[tables.Guarded]:
    """Connect, as the plain owner, to the small application, guarded as asked for; `own`: to a new copy of it."""
    with ExitStack() as stack:

        def connect(
            mode: str = "observe", on_master_delete: str = "keep", *, own: bool = False
        ) -> psycopg.Connection[tuple[Any, ...]]:
            if own:
                dsn = stack.enter_context(databases.new(app_template(mode, on_master_delete)))
            else:
                dsn = shared(mode, on_master_delete)
            connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
            if not own:
                tables.clear(connection)
            return connection

        yield connect


@pytest.fixture(scope="session")
def guarded_report_template(databases: Any, report_template: str) -> Iterator[str]:  # noqa: ANN401  conftest's class
    """Name of a database with the report's tables and rows, all five links guarded in observe."""
    with databases.new(report_template) as dsn:
        migration = make_conninfo(dsn, options="-c search_path=migration,public")
        deploy_profile_last(migration, "report/links")
        with psycopg.connect(dsn, autocommit=True) as connection:
            for name in REPORT_TABLES:
                connection.execute("SELECT flowguard.guard(%s::regclass)", (f"migration.{name}",))
        yield str(conninfo_to_dict(dsn)["dbname"])


@pytest.fixture
def guarded_report(databases: Any, guarded_report_template: str) -> Iterator[str]:  # noqa: ANN401  conftest's class
    """Give a new database with the report's tables and rows, all five links guarded in observe."""
    with databases.new(guarded_report_template) as dsn:
        yield dsn
