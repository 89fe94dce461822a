"""What the runner's tests share: change sets of their own, and the command as a user runs it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import psycopg
import pytest
from acceptance.command import Run, command_in, without_libpq
from changesets import ChangeSets
from psycopg.conninfo import conninfo_to_dict

Sqitch: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]
"""Runs `sqitch COMMAND` on a database in the directory of a plan."""


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


@pytest.fixture
def sqitch(tool: Callable[[str], str], tmp_path: Path) -> Sqitch:
    """Run `sqitch COMMAND` on a database in the directory of a plan."""
    program, psql = tool("sqitch"), tool("psql")
    home = tmp_path / "home"
    home.mkdir()

    def run(
        dsn: str, directory: Path, command: str, *arguments: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        settings = conninfo_to_dict(dsn)
        target = f"db:pg://{settings['user']}@{settings['host']}:{settings['port']}/{settings['dbname']}"
        result = subprocess.run(
            [program, command, "--client", psql, "--target", target, *arguments],
            cwd=directory,
            env={
                **{key: value for key, value in os.environ.items() if not key.startswith(("PG", "SQITCH"))},
                "HOME": str(home),
                "SQITCH_FULLNAME": "Tester",
                "SQITCH_EMAIL": "tester@example.org",
                "TZ": "UTC",
                "PGOPTIONS": str(settings.get("options", "")),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert not check or result.returncode == 0, result.stdout + result.stderr
        return result

    return run
