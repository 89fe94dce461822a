"""The client says which engines it understands, and refuses others before it does anything."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from acceptance.command import Run, failure, in_migration

from pyflowguard import __version__
from pyflowguard.engine import OLDEST_ENGINE

AsRole = Callable[[str, str], str]
COMMANDS = [
    ("health",),
    ("check",),
    ("guard",),
    ("set-mode", "observe"),
    ("repair",),
    ("repair", "--dry-run"),
    ("undo", "1"),
    ("explain", "link", "1"),
]


def pretend(dsn: str, version: str) -> None:
    """Let the engine say that it is of another version."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        define = "CREATE OR REPLACE FUNCTION flowguard.version() RETURNS text LANGUAGE sql AS $$ SELECT '{}' $$"
        connection.execute(define.format(version).encode())


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_command_that_calls_the_engine_refuses_a_newer_one(
    command: Run, engine_db: str, arguments: tuple[str, ...]
) -> None:
    pretend(engine_db, "2.3.0")
    message = failure(command(*arguments, "--dsn", engine_db), 4)
    database = f'The engine in database "{dbname(engine_db)}"'
    assert message.splitlines() == [
        f"pyflowguard: {database} is of version 2.3.0, which this command does not know.",
        f"DETAIL:  pyflowguard {__version__} understands 1.0.0 and later, before 2.",
        "HINT:  Install that release or a later one: pip install 'pyflowguard>=2.3.0,<3'.",
    ]


def dbname(dsn: str) -> str:
    with psycopg.connect(dsn) as connection:
        return connection.info.dbname


@pytest.mark.parametrize(
    ("version", "hint"),
    [
        ("0.9.9", "Run `pyflowguard deploy` on it, which brings the engine up to date; or install that release"),
        ("2.0.0", "pip install 'pyflowguard>=2.0.0,<3'"),
        ("10.0.0", "pip install 'pyflowguard>=10.0.0,<11'"),
        ("1.0.0-rc1", "Use the release of pyflowguard that this database was deployed with"),
        ("", "Use the release of pyflowguard that this database was deployed with"),
    ],
)
def test_what_is_not_understood_is_refused_with_the_remedy(
    command: Run, engine_db: str, version: str, hint: str
) -> None:
    pretend(engine_db, version)
    message = failure(command("health", "--dsn", engine_db), 4)
    assert f"is of version {version}, which" in message
    assert f"HINT:  {hint}" in message or hint in message


@pytest.mark.parametrize("version", ["1.0.0", "1.0.7", "1.12.0"])
def test_later_ones_of_the_same_major_version_are_understood(command: Run, engine_db: str, version: str) -> None:
    pretend(engine_db, version)
    assert command("health", "--dsn", engine_db).returncode == 0


def test_the_shipped_engine_is_understood(engine_db: str) -> None:
    with psycopg.connect(engine_db) as connection:
        row = connection.execute("SELECT flowguard.version()").fetchone()
    assert row == (__version__,)
    major, minor, patch = (int(part) for part in __version__.split("."))
    assert (major, minor, patch) >= OLDEST_ENGINE
    assert major == OLDEST_ENGINE[0]


def test_the_hint_for_an_older_engine_helps(command: Run, engine_db: str) -> None:
    """A database of before this release: what `deploy` brings is understood."""
    assert command("revert", "--to", "preview@v1.0.0", "--dsn", engine_db).returncode == 0
    pretend(engine_db, "0.9.9")
    failure(command("health", "--dsn", engine_db), 4)
    assert command("deploy", "--dsn", engine_db).returncode == 0
    assert command("health", "--dsn", engine_db).returncode == 0


def test_deploying_asks_for_no_version(command: Run, report_db: str) -> None:
    """What is deployed is said by the plan's ids; a newer command comes over an older engine, guarding on its way."""
    dsn = in_migration(report_db)
    assert command("deploy", "--to", "@engine", "--dsn", dsn).returncode == 0
    pretend(report_db, "0.9.9")
    assert command("status", "--dsn", dsn).returncode == 0
    result = command("deploy", "--dsn", dsn)
    assert result.returncode == 0, result.stderr
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT count(*) FROM flowguard.link WHERE guarded").fetchone()
    assert row == (5,)
