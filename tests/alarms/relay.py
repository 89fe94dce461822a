"""Stands between a client and a server, at an address that stays: it can be cut, and led to another server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Relay:
    """Passes bytes on; connections are refused while `target` is None."""

    def __init__(self, target: int) -> None:
        self.target: int | None = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.taking = threading.Lock()
        self.open: list[socket.socket] = []
        self.passing: list[threading.Thread] = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        """Take connections until the relay is closed."""
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                with self.taking:
                    self.join(client)

    def join(self, client: socket.socket) -> None:
        """Connect a client to the server."""
        if self.target is None:
            client.close()
            return
        server = socket.create_connection(("127.0.0.1", self.target))
        self.open += [client, server]
        for source, sink in ((client, server), (server, client)):
            thread = threading.Thread(target=self.pass_on, args=(source, sink), daemon=True)
            thread.start()
            self.passing.append(thread)

    @staticmethod
    def pass_on(source: socket.socket, sink: socket.socket) -> None:
        """Pass on what comes, and the end."""
        with suppress(OSError):
            while piece := source.recv(65536):
                sink.sendall(piece)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Cut every connection, and refuse new ones until there is a target."""
        with self.taking:
            self.target = None
            for end in self.open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            for thread in self.passing:
                thread.join()
            for end in self.open:
                end.close()
            self.open.clear()
            self.passing.clear()


@contextmanager
def relay(target: int) -> Iterator[Relay]:
    """Open a relay to a port of this machine."""
    made = Relay(target)
    try:
        yield made
    finally:
        made.cut()
        made.listener.close()
