"""What the tests of alarms share: the small application, guarded and well, and whoever plants what is wrong in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from acceptance.command import Run, command_in, without_libpq
from alarms.watching import COMMAND, Watching
from engine.postgres import Connection, run
from engine.tables import create, guard, register

ROWS = 10_000
"""Of the small application's narrow rows: more than are counted."""


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


@pytest.fixture
def well(engine_db: str) -> Iterator[Connection]:
    """Connect to the small application, guarded, with rows that are all well; each statement commits by itself."""
    with psycopg.connect(engine_db, autocommit=True) as connection:
        create(connection)
        register(connection)
        run(connection, "INSERT INTO parent SELECT n, 1, 1 + n % 3 FROM generate_series(10, 19) n")
        run(
            connection,
            "INSERT INTO child (id, tenant, flow, parent) SELECT id + 10, 1, flow, id FROM parent WHERE id > 10",
        )
        guard(connection)
        yield connection


@pytest.fixture
def large(engine_db: str) -> Iterator[Connection]:
    """Connect to the same with tables that are too large to be read in no time."""
    with psycopg.connect(engine_db, autocommit=True) as connection:
        create(connection)
        register(connection)
        run(connection, "INSERT INTO parent SELECT n, 1, 1 + n %% 3 FROM generate_series(1, %s) n", ROWS)
        run(
            connection,
            "INSERT INTO child (id, tenant, flow, parent) SELECT id, 1, flow, id FROM parent WHERE id % 1000 <> 0",
        )
        guard(connection)
        run(connection, "VACUUM ANALYZE")
        yield connection


@pytest.fixture
def intruder(engine_db: str, as_role: Callable[[str, str], str]) -> Iterator[Connection]:
    """Another session, which writes past the guard."""
    with psycopg.connect(as_role(engine_db, "postgres"), autocommit=True) as connection:
        run(connection, "SET session_replication_role = replica")
        yield connection


@pytest.fixture
def start_watch(clean_environment: dict[str, str]) -> Iterator[Callable[..., Watching]]:
    """Start `pyflowguard watch` as a process of its own."""
    started: list[Watching] = []

    def start(dsn: str, *arguments: str) -> Watching:
        started.append(Watching(dsn, arguments, clean_environment))
        return started[-1]

    yield start
    for watching in started:
        watching.kill()
