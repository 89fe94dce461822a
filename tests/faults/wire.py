"""A wire between a client and the server that a test can cut: both ends then find the other gone, unannounced."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class Wire:
    """Passes bytes on between whoever connects and a server on the loopback interface."""

    def __init__(self, dsn: str) -> None:
        at = conninfo_to_dict(dsn)
        self.target = (str(at["host"]), int(str(at["port"])))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.dsn = make_conninfo(dsn, port=self.listener.getsockname()[1])
        """Connects through the wire."""
        self.ends: list[socket.socket] = []
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def accept(self) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(self.target)
                self.ends += [client, server]
                for source, target in ((client, server), (server, client)):
                    self.threads.append(threading.Thread(target=pump, args=(source, target), daemon=True))
                    self.threads[-1].start()

    def cut(self) -> None:
        """Cut every connection, in the middle of whatever it carries."""
        for end in self.ends:
            hang_up(end)

    def close(self) -> None:
        hang_up(self.listener)
        self.listener.close()
        self.cut()
        for thread in self.threads:
            thread.join()
        for end in self.ends:
            end.close()


def pump(source: socket.socket, target: socket.socket) -> None:
    """Pass on what comes until one of the ends is gone; then the other goes too."""
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    hang_up(source)
    hang_up(target)


def hang_up(end: socket.socket) -> None:
    with suppress(OSError):  # the other end was faster
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def wire(dsn: str) -> Iterator[Wire]:
    """Give a wire to this database while the block runs."""
    made = Wire(dsn)
    try:
        yield made
    finally:
        made.close()
