"""What the runner's tests share: change sets of their own, and the command as a user runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from acceptance.command import Run, command_in, without_libpq
from changesets import ChangeSets


@pytest.fixture
def sets(tmp_path: Path) -> ChangeSets:
    """Give an empty plan."""
    return ChangeSets(tmp_path / "sets")


@pytest.fixture
def clean_environment() -> dict[str, str]:
    """Give an environment without libpq's variables, and with a home that holds no password file."""
    return without_libpq()


@pytest.fixture
def command(clean_environment: dict[str, str]) -> Run:
    """Run `pyflowguard ARGUMENTS` as a user does."""
    return command_in(clean_environment, timeout=60)


@pytest.fixture
def tables() -> Callable[[str], set[str]]:
    """List the tables in schema public."""

    def read(dsn: str) -> set[str]:
        with psycopg.connect(dsn) as connection:
            rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        return {name for (name,) in rows}

    return read
