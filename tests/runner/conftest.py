"""What the runner's tests share: change sets of their own, and the command as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from changesets import ChangeSets

COMMAND = Path(sys.executable).with_name("pyflowguard")


@pytest.fixture
def sets(tmp_path: Path) -> ChangeSets:
    """Give an empty plan."""
    return ChangeSets(tmp_path / "sets")


@pytest.fixture
def clean_environment() -> dict[str, str]:
    """Give an environment without libpq's variables, and with a home that holds no password file."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    return {**kept, "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def command(clean_environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `pyflowguard ARGUMENTS` in a process of its own; keyword arguments are environment variables."""

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *arguments],
            env={**clean_environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


@pytest.fixture
def tables() -> Callable[[str], set[str]]:
    """List the tables in schema public."""

    def read(dsn: str) -> set[str]:
        with psycopg.connect(dsn) as connection:
            rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        return {name for (name,) in rows}

    return read
