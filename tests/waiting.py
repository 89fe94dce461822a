"""Ways to wait for what others do, to see that something waits, and to do it beside the test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from engine.postgres import Connection, rows

T = TypeVar("T")
PATIENCE = 60
"""Seconds after which something that must happen has not."""


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look again and again whether it has happened, for twenty seconds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


@contextmanager
def beside(call: Callable[[], T]) -> Iterator[Future[T]]:
    """Do it in a thread while the block runs."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(call)


def waiting(admin: Connection, statement: str, holder: Connection | None = None) -> list[int]:
    """Give the sessions of this database whose statement contains this text and which wait for a lock of the holder.

    Without a holder, for any: an index that is built concurrently waits for an ANALYZE of the server's own as well.
    """
    found = rows(
        admin,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND state = 'active' AND wait_event_type = 'Lock' AND position(%s IN query) > 0 "
        "AND coalesce(%s = ANY (pg_blocking_pids(pid)), true)",
        statement,
        None if holder is None else holder.info.backend_pid,
    )
    return [pid for (pid,) in found]


def working(admin: Connection, statement: str) -> list[int]:
    """Give the sessions of this database that are at a statement which contains this text."""
    found = rows(
        admin,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND state = 'active' AND position(%s IN query) > 0",
        statement,
    )
    return [pid for (pid,) in found]
