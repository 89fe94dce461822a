"""Runs a throw-away PostgreSQL for a parent process, and ends it with that parent, however the parent ends.

Run as a script, by server.py, in a session of its own and with nothing but the standard library. It reads one line of
JSON (see `Order`) on standard input, prepares the data directory, starts the server and answers with one line of JSON:
`{"port": ..., "pid": ...}`, or `{"error": ...}`. Then it waits. When standard input closes, which the kernel sees to
even if the parent was killed, or on SIGTERM or SIGINT, or when the server ends, it stops the server, removes the
directories it was told to remove, and ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TypedDict

_ATTEMPTS = 20  # ports to try: another process may take a free port before PostgreSQL does
_START_TIMEOUT = 60.0  # seconds
_STOP_TIMEOUT = 10.0  # seconds before a shutdown becomes more brutal
_PR_SET_PDEATHSIG = 1  # Linux, <sys/prctl.h>


class Order(TypedDict):
    """What to make and run. Commands run as `uid` and `gid`, if given; the port is appended to the server's.

    `make` are directories that only we write to, `secret` is a file to make there and the line for it.
    """

    make: list[str]
    secret: tuple[str, str] | None
    copy: list[tuple[str, str]]
    own: list[str]
    prepare: list[list[str]]
    server: list[str]
    data: str
    log: str
    uid: int | None
    gid: int | None
    remove: list[str]


class _Stopped(Exception):
    """The parent closed the pipe, or a signal came."""


class _Failed(Exception):
    """Text that tells the parent why there is no server."""


class Watchdog:
    """The server and all that must go with it."""

    def __init__(self, order: Order) -> None:
        """Take the order; nothing is started yet."""
        self.order = order
        self.server: subprocess.Popen[bytes] | None = None
        self.wake, wake_up = os.pipe()
        os.set_blocking(wake_up, False)
        signal.set_wakeup_fd(wake_up)
        self.signalled = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        """Prepare, start, report, wait; whatever happens, stop and remove."""
        try:
            self._prepare()
            port = self._start()
            assert self.server is not None  # noqa: S101 - for the type checker
            _answer({"port": port, "pid": self.server.pid})
            while self.server.poll() is None:
                self._pause(None)
        except _Stopped:
            pass
        except _Failed as failure:
            _answer({"error": str(failure)})
        finally:
            self._stop()
            for path in self.order["remove"]:
                _remove(path)

    def _on_signal(self, *_: object) -> None:
        self.signalled = True

    def _pause(self, seconds: float | None) -> None:
        """Wait until something happens or time is up; raise _Stopped if it is time to go."""
        ready, _, _ = select.select([sys.stdin.fileno(), self.wake], [], [], seconds)
        if self.wake in ready:
            os.read(self.wake, 4096)
        if self.signalled or sys.stdin.fileno() in ready:
            raise _Stopped

    def _spawn(self, command: list[str], log: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - a binary file
        uid, gid = self.order["uid"], self.order["gid"]
        return subprocess.Popen(  # noqa: S603 - the commands are our own
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=str(Path(self.order["data"]).parent),
            env={key: value for key, value in os.environ.items() if not key.startswith("PG")},
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has one thread
        )

    def _give(self, path: str) -> None:
        """Let the user that the server runs as own it."""
        if self.order["uid"] is not None and self.order["gid"] is not None:
            os.chown(path, self.order["uid"], self.order["gid"])

    def _prepare(self) -> None:
        os.umask(0o022)
        for path in self.order["make"]:
            Path(path).mkdir(mode=0o700 if self.order["uid"] is None else 0o711, exist_ok=True)
        if self.order["secret"] is not None:
            file, line = self.order["secret"]
            Path(file).touch(mode=0o600)
            Path(file).write_text(line + "\n")
            self._give(file)
        for source, target in self.order["copy"]:
            shutil.copytree(source, target)
            _let_others_read(Path(target))
        for path in self.order["own"]:
            Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._give(path)
        for command in self.order["prepare"]:
            with Path(self.order["log"]).open("ab") as log:
                process = self._spawn(command, log)
            self.server = process  # so that it is stopped, should the parent go away now
            while process.poll() is None:
                self._pause(None)
            self.server = None
            if process.returncode != 0:
                raise _Failed(f"{Path(command[0]).name} failed:\n{self._log_tail()}")

    def _start(self) -> int:
        for _ in range(_ATTEMPTS):
            port = _free_port()
            with Path(self.order["log"]).open("ab") as log:
                log_start = log.tell()
                self.server = self._spawn([*self.order["server"], "-p", str(port)], log)
            deadline = time.monotonic() + _START_TIMEOUT
            while self.server.poll() is None:
                if self._is_ready(self.server.pid):
                    return port
                if time.monotonic() > deadline:
                    raise _Failed(f"postgres is not ready after {_START_TIMEOUT:g} s:\n{self._log_tail(log_start)}")
                self._pause(0.02)
            if b"could not bind" not in Path(self.order["log"]).read_bytes()[log_start:]:
                raise _Failed(f"postgres ended at once:\n{self._log_tail(log_start)}")
        raise _Failed(f"No free port found in {_ATTEMPTS} attempts.")

    def _is_ready(self, pid: int) -> bool:
        """Read postmaster.pid: its first line is the process, its eighth the state."""
        try:
            lines = [*(Path(self.order["data"]) / "postmaster.pid").read_text().splitlines(), ""]
        except FileNotFoundError:
            return False
        return [lines[0], *(line.strip() for line in lines[7:8])] == [str(pid), "ready"]

    def _log_tail(self, start: int = 0) -> str:
        return Path(self.order["log"]).read_bytes()[start:].decode(errors="replace").strip()[-4000:]

    def _stop(self) -> None:
        """Stop the server: fast, then immediate, then without asking."""
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if self.server is None or self.server.poll() is not None:
                return
            self.server.send_signal(number)
            try:
                self.server.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                continue


def _remove(path: str) -> None:
    """Remove a directory; a process that has just been stopped may still be writing to it, so more than once."""
    deadline = time.monotonic() + _STOP_TIMEOUT
    shutil.rmtree(path, ignore_errors=True)
    while Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
        shutil.rmtree(path, ignore_errors=True)


def _let_others_read(top: Path) -> None:
    """Undo what a strict umask did to a copy; its parents lie in our own directory."""
    for path in (top, *top.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | 0o444 | (0o111 if path.is_dir() or mode & 0o100 else 0))


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _die_with_parent() -> None:
    """On Linux, let the server end even if this very process is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0)


def _answer(message: dict[str, object]) -> None:
    """Tell the parent, which may be gone."""
    try:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise _Stopped from None


def main() -> None:
    """Read the order and carry it out."""
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as order:  # unbuffered: select() must see the rest
        line = order.readline()
    if not line:
        return
    try:
        Watchdog(json.loads(line)).run()
    except Exception:  # noqa: BLE001 - there is no one else to tell
        _answer({"error": traceback.format_exc()})


if __name__ == "__main__":
    main()
