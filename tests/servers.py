"""Where the servers of tests have their programs and keep their files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import pytest

from pyflowguard import server


def chosen_bindir() -> Path:
    """Where the programs are: PYFLOWGUARD_TEST_BINDIR (/usr/lib/postgresql/15/bin, say), or the wheel."""
    chosen = os.environ.get("PYFLOWGUARD_TEST_BINDIR")
    return Path(chosen) if chosen else server.wheel_bindir()


@cache
def chosen_version() -> int:
    """Major version of these programs."""
    told = subprocess.run(
        [chosen_bindir() / "postgres", "--version"], check=True, capture_output=True, text=True
    ).stdout
    return int(told.split()[2].partition(".")[0])


def lacking(what: str) -> NoReturn:
    """Skip the test, for the machine lacks this, or fail it if PYFLOWGUARD_REQUIRE_ALL is set.

    It is set by .ci/run, which installs all that is wanted; `make test` alone wants nothing beyond Python and make.
    """
    if os.environ.get("PYFLOWGUARD_REQUIRE_ALL"):
        pytest.fail(f"{what} is not installed, and PYFLOWGUARD_REQUIRE_ALL wants every test to run.")
    pytest.skip(f"{what} is not installed.")


@contextmanager
def reachable_directory(prefix: str) -> Iterator[Path]:
    """Make a directory for temporary files: short, for the socket in it, and open to the server's own user."""
    with TemporaryDirectory(prefix=prefix, dir="/tmp") as name:
        shared = Path(name)
        shared.chmod(0o711)
        yield shared


def memory_directory() -> Path | None:
    """Where to keep the server's files in memory, if there is room: a database is made in a tenth of the time."""
    memory = Path("/dev/shm")  # noqa: S108 - mkdtemp() makes a safe directory in it
    if os.access(memory, os.W_OK | os.X_OK) and shutil.disk_usage(memory).free > 4 * 2**30:
        return memory
    return None
