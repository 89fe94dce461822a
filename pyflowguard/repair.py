"""Repairs links that are there already, and takes a repair back. The database does both; here they are called."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeAlias

import psycopg
from psycopg.rows import class_row

from pyflowguard.database import Connection, NoticeHandler, connect
from pyflowguard.engine import engine, find_table

BATCH_SIZE = 5000
"""Rows that are looked at in one transaction by default."""

_POLL_INTERVAL = 0.5  # seconds between two looks at how far a run has come


@dataclass(frozen=True)
class Run:
    """What a run of flowguard.repair() did; `run_id` is None after a dry run, which leaves nothing behind."""

    run_id: int | None
    linked: int
    translated: int
    quarantined: int
    unlinked: int
    remaining: int


@dataclass(frozen=True)
class Progress:
    """How far a run has come: rows linked, translated, quarantined and unlinked in the batches committed so far."""

    linked: int
    translated: int
    quarantined: int
    unlinked: int


@dataclass(frozen=True)
class Undone:
    """What flowguard.undo() put back, what it left since another value is there by now, and what is to do yet."""

    restored: int
    skipped: int
    remaining: int


ProgressHandler: TypeAlias = Callable[[Progress], None]

_REPAIR = """
CALL flowguard.repair(%(table)s::pg_catalog.regclass, batch_size => %(batch_size)s, dry_run => %(dry_run)s,
                      link_column => %(link_column)s, note => %(note)s)
"""

_HOW_FAR = """
SELECT linked, translated, quarantined, unlinked FROM flowguard.repair_run WHERE pid = %s AND status = 'running'
"""

_UNDO = "SELECT restored, skipped, remaining FROM flowguard.undo(%s, %s)"


def repair(
    dsn: str = "",
    table: str | None = None,
    *,
    link_column: str = "master_flow_id",
    batch_size: int = BATCH_SIZE,
    dry_run: bool = False,
    note: str | None = None,
    on_progress: ProgressHandler | None = None,
    on_notice: NoticeHandler | None = None,
) -> Run:
    """Link what is unlinked or dangling, of one table or (None) of all, a transaction a batch.

    Interrupted, what was committed stays and is in the ledger; calling it again goes on. `dry_run` does it all in one
    transaction and takes it back. Raises UsageError for a table or a link that is not there, EngineMissing,
    StatementFailed, and what connecting raises.
    """
    with engine(dsn, action="repairing links", on_notice=on_notice) as connection:
        arguments = {
            "table": None if table is None else find_table(connection, table),
            "link_column": link_column,
            "batch_size": batch_size,
            "dry_run": dry_run,
            "note": note,
        }
        with (
            _watched(dsn, connection.info.backend_pid, on_progress),
            connection.cursor(row_factory=class_row(Run)) as cursor,
        ):
            run = cursor.execute(_REPAIR, arguments).fetchone()
    assert run is not None  # noqa: S101 - a procedure with INOUT parameters returns one row
    return run


def undo(run_id: int, dsn: str = "", *, max_rows: int | None = None, on_notice: NoticeHandler | None = None) -> Undone:
    """Put back the links that a run wrote and the rows that it took out, at most `max_rows` of them.

    Raises UsageError if there is no such run, EngineMissing, StatementFailed where the database forbids it (and says
    what does), and what connecting raises.
    """
    with (
        engine(dsn, action=f"undoing run {run_id}", on_notice=on_notice) as connection,
        connection.cursor(row_factory=class_row(Undone)) as cursor,
    ):
        undone = cursor.execute(_UNDO, [run_id, max_rows]).fetchone()
    assert undone is not None  # noqa: S101 - a function with OUT parameters returns one row
    return undone


@contextmanager
def _watched(dsn: str, pid: int, on_progress: ProgressHandler | None) -> Iterator[None]:
    """While the block runs, tell the handler how far the run of that server process has come."""
    if on_progress is None:
        yield
        return
    done = threading.Event()
    with connect(dsn) as connection:
        watcher = threading.Thread(target=_watch, args=(connection, pid, on_progress, done), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def _watch(connection: Connection, pid: int, on_progress: ProgressHandler, done: threading.Event) -> None:
    # The repair goes on without its watcher, and is what tells of a server that went away.
    with suppress(psycopg.Error), connection.cursor(row_factory=class_row(Progress)) as cursor:
        while not done.wait(_POLL_INTERVAL):
            progress = cursor.execute(_HOW_FAR, [pid]).fetchone()
            if progress is not None:
                on_progress(progress)
