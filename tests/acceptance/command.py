"""How the tests run the command, and how they connect to the report's database."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from psycopg.conninfo import make_conninfo

Run: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]
Query: TypeAlias = Callable[[str, str], list[tuple[Any, ...]]]

COMMAND = Path(sys.executable).with_name("pyflowguard")


def without_libpq() -> dict[str, str]:
    """Give an environment without libpq's variables, and with a home that holds no password file."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    return {**kept, "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}


def command_in(clean_environment: dict[str, str], *, timeout: float) -> Run:
    """Run `pyflowguard ARGUMENTS` in a process of its own; keyword arguments are environment variables."""

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *arguments],
            env={**clean_environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    return run


def in_migration(dsn: str) -> str:
    """Give the connection string with the application's search_path."""
    return make_conninfo(dsn, options="-c search_path=migration,public")


def on_terminal(arguments: Sequence[str | Path], environment: dict[str, str], keys: bytes = b"") -> tuple[int, str]:
    """Run the command on a terminal of its own, and type."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [COMMAND, *arguments], stdin=follower, stdout=follower, stderr=follower, env=environment, start_new_session=True
    ) as running:
        os.close(follower)
        os.write(leader, keys)
        output = b""
        while True:
            try:
                output += (piece := os.read(leader, 4096))
            except OSError:  # the other end is closed
                break
            if not piece:
                break
        os.close(leader)
    return running.returncode, output.decode()


def failure(result: subprocess.CompletedProcess[str], exit_code: int) -> str:
    """Give the one message of a command that failed; nothing else is printed."""
    assert (result.returncode, result.stdout) == (exit_code, ""), result
    assert result.stderr.startswith("pyflowguard: ")
    assert "Traceback" not in result.stderr
    return result.stderr
