"""A process that watches, and what it has printed so far, with the time of each line."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

COMMAND = Path(sys.executable).with_name("pyflowguard")


class Watching:
    """`pyflowguard watch` without a terminal."""

    def __init__(self, dsn: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [COMMAND, "watch", "--dsn", dsn, *arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: queue.Queue[tuple[float, str]] = queue.Queue()
        self.printed: list[str] = []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        """Note each line as it comes."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put((time.monotonic(), line.rstrip("\n")))

    def wait_for(self, *parts: str, within: float = 60) -> tuple[float, str]:
        """Wait for a line that has all parts; gives when it came, by time.monotonic(), and the line."""
        deadline = time.monotonic() + within
        while True:
            try:
                at, line = self.lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{parts} not within {within} s, but: {self.printed}") from None
            self.printed.append(line)
            if all(part in line for part in parts):
                return at, line

    def rest(self, seconds: float) -> list[str]:
        """Give what is printed in so many seconds."""
        time.sleep(seconds)
        found = []
        while not self.lines.empty():
            found.append(self.lines.get()[1])
        self.printed += found
        return found

    def interrupt(self) -> tuple[int, str]:
        """Interrupt it as Ctrl-C does; gives exit code and errors."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=15)
        self.reader.join(timeout=5)
        assert self.process.stderr is not None
        return code, self.process.stderr.read()

    def kill(self) -> None:
        """End it, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
