"""Where the servers of tests have their programs and keep their files."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

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


def memory_directory() -> Path | None:
    """Where to keep the server's files in memory, if there is room: a database is made in a tenth of the time."""
    memory = Path("/dev/shm")  # noqa: S108 - mkdtemp() makes a safe directory in it
    if os.access(memory, os.W_OK | os.X_OK) and shutil.disk_usage(memory).free > 4 * 2**30:
        return memory
    return None
