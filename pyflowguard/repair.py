"""Repairs links that are there already, and takes a repair back. The database does both; here they are called."""

from __future__ import annotations

import json
import random
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeAlias

import psycopg
from psycopg.errors import DeadlockDetected, InvalidParameterValue, SerializationFailure
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from pyflowguard.database import Connection, NoticeHandler, connect
from pyflowguard.engine import ADMIN, VIEWER, engine, find_table, links_left_out, notice_left_out, notice_no_link
from pyflowguard.errors import UsageError

BATCH_SIZE = 5000
"""Rows that are looked at, links that are put back, in one transaction by default."""

_TRIES = 10
"""How often a batch of undo() is tried that loses a race; flowguard.repair() tries its own as often, as patiently."""

_POLL_INTERVAL = 0.5  # seconds between two looks at how far a run has come


SAMPLES = 3
"""Examples of each outcome in a preview by default."""


@dataclass(frozen=True)
class Run:
    """What a run of flowguard.repair() did; `run_id` is None after a dry run, which leaves nothing behind.

    `followed` links were written by late linking because of it; of rows that refer to an orphan `taken_along` went with
    it and `set_along` had columns set. They are None after a dry run, whose outcomes tell of them.
    """

    run_id: int | None
    linked: int
    translated: int
    quarantined: int
    unlinked: int
    remaining: int
    followed: int | None = None
    taken_along: int | None = None
    set_along: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What a repair would do with `amount` rows of a link, by a rule where it is one's doing.

    `outcome` is linked, translated, quarantined, taken along, unlinked, left unlinked, left dangling or followed. The
    `examples` and, of a proximity rule, the `distances` are as flowguard.preview() gives them.
    """

    child: str
    link: str
    outcome: str
    rule: int | None
    rule_kind: str | None
    source: str | None
    amount: int
    examples: list[dict[str, Any]]
    distances: dict[str, Any] | None


@dataclass(frozen=True)
class Preview:
    """What a repair would do: the counts of its run, and all outcomes, by link and rule.

    With `count_candidates` those of the examples are counted to the end; else 2 is two or more.
    """

    run: Run
    outcomes: tuple[Outcome, ...]
    count_candidates: bool


@dataclass(frozen=True)
class Part:
    """A row of flowguard.explain(): `part` is row, rule, run, kept, written, quarantine or remedy."""

    part: str
    position: int | None
    summary: str
    detail: dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """How far a run has come, with the batches committed so far.

    Of about `total` rows `scanned` were looked at in this `passes`-th round, of which some were linked, translated,
    quarantined or unlinked. When it `is_over` what remains is counted.
    """

    linked: int
    translated: int
    quarantined: int
    unlinked: int
    scanned: int
    total: int
    passes: int
    is_over: bool


@dataclass(frozen=True)
class Undone:
    """What flowguard.undo() put back, what it left since another value is there by now, and what is to do yet."""

    restored: int
    skipped: int
    remaining: int


ProgressHandler: TypeAlias = Callable[[Progress], None]
UndoHandler: TypeAlias = Callable[[Undone], None]

_REPAIR = """
CALL flowguard.repair(%(table)s::pg_catalog.regclass, batch_size => %(batch_size)s, dry_run => %(dry_run)s,
                      link_column => %(link_column)s, note => %(note)s, max_rate => %(max_rate)s,
                      max_lag => %(max_lag)s, resume => %(resume)s, row_filter => %(where)s,
                      count_candidates => %(count_candidates)s)
"""

_BESIDES = """
SELECT r.followed, count(q) FILTER (WHERE q.action = 'deleted'), count(q) FILTER (WHERE q.action = 'set')
  FROM flowguard.run r
  LEFT JOIN flowguard.quarantine q ON q.run_id = r.run_id AND q.link_column IS NULL
 WHERE r.run_id = %s
 GROUP BY r.run_id, r.followed
"""

_PREVIEW = """
SELECT child::text, link::text, outcome, rule, rule_kind, source::text, amount, examples, distances
  FROM flowguard.preview(%s::pg_catalog.regclass, link_column => %s, row_filter => %s, samples => %s,
                         count_candidates => %s)
"""

# As flowguard._row_key() chooses them, which a flowguard_viewer may not call.
_KEY_COLUMNS = "SELECT flowguard._row_key(%s::pg_catalog.regclass)::pg_catalog.text[]"

_EXPLAIN = """
SELECT part, "position", summary, detail
  FROM flowguard.explain(%s::pg_catalog.regclass, row_key => %s, link_column => %s)
"""

_HOW_FAR = """
SELECT r.linked, r.translated, r.quarantined, r.unlinked, sum(p.scanned)::bigint AS scanned,
       sum(p.total)::bigint AS total, max(p.pass) AS passes,
       NOT EXISTS (SELECT FROM flowguard.repair_link k
                    WHERE k.run_id = r.run_id AND k.after_key IS DISTINCT FROM k.last_key) AS is_over
  FROM flowguard.repair_run r
  JOIN flowguard.repair_progress p USING (run_id)
 WHERE r.pid = %s AND r.status = 'running'
 GROUP BY r.run_id
"""

_UNDO = "SELECT restored, skipped, remaining FROM flowguard.undo(%s, %s)"

_NOTICE_A_LOST_CLIENT = "SET client_connection_check_interval = '1s'"


def repair(
    dsn: str = "",
    table: str | None = None,
    *,
    link_column: str = "master_flow_id",
    where: str | None = None,
    batch_size: int = BATCH_SIZE,
    dry_run: bool = False,
    note: str | None = None,
    max_rate: int | None = None,
    max_lag: timedelta | None = None,
    resume: bool = True,
    count_candidates: bool = False,
    on_progress: ProgressHandler | None = None,
    on_notice: NoticeHandler | None = None,
) -> Run:
    """Link what is unlinked or dangling, of one table or (None) of all, a transaction a batch.

    Of one table `where`, an SQL condition, says which rows. At most `max_rate` rows are looked at in a second; no batch
    begins while a standby or subscriber is more than `max_lag` behind. Interrupted, what was committed stays and is in
    the ledger; called again for the same table with the same condition, note and `count_candidates`, the same run goes
    on, unless `resume` is False. Of all tables a link of which something is gone is left out, and told to `on_notice`,
    since nothing of it can be repaired. `count_candidates` counts of each link that a rule by time gives all rows of
    the source that it was chosen from, which reads them all. `dry_run` does it all in one transaction, as fast as it
    can, and takes it back. Raises UsageError for a table or a link that is not there, or no condition, EngineMissing,
    StatementFailed, and what connecting raises.
    """
    with engine(dsn, action="repairing links", role=ADMIN, on_notice=on_notice) as connection:
        arguments = {
            "table": None if table is None else find_table(connection, table),
            "link_column": link_column,
            "where": where,
            "batch_size": batch_size,
            "dry_run": dry_run,
            "note": note,
            "max_rate": max_rate,
            "max_lag": max_lag,
            "resume": resume,
            "count_candidates": count_candidates,
        }
        if table is None:
            notice_no_link(connection, on_notice)
            notice_left_out(links_left_out(connection), on_notice)
        # A client that is killed says nothing. A server that cannot see it go carries the run to its end all the same.
        with suppress(InvalidParameterValue):
            connection.execute(_NOTICE_A_LOST_CLIENT)
        with (
            _watched(dsn, connection.info.backend_pid, on_progress),
            connection.cursor(row_factory=class_row(Run)) as cursor,
        ):
            run = cursor.execute(_REPAIR, arguments).fetchone()
        assert run is not None  # noqa: S101 - a procedure with INOUT parameters returns one row
        if run.run_id is None:
            return run
        besides = connection.execute(_BESIDES, [run.run_id]).fetchone()
        assert besides is not None  # noqa: S101 - nothing deletes a run
        return replace(run, followed=besides[0], taken_along=besides[1], set_along=besides[2])


def preview(
    dsn: str = "",
    table: str | None = None,
    *,
    link_column: str = "master_flow_id",
    where: str | None = None,
    samples: int = SAMPLES,
    count_candidates: bool = False,
    on_notice: NoticeHandler | None = None,
) -> Preview:
    """Say what repair() would do, with up to `samples` examples of each outcome, and leave nothing behind.

    It is done in one transaction, as fast as it can, and taken back. Raises what repair() raises.
    """
    with engine(dsn, action="trying a repair", role=ADMIN, on_notice=on_notice) as connection:
        found = None if table is None else find_table(connection, table)
        if table is None:
            notice_no_link(connection, on_notice)
            notice_left_out(links_left_out(connection), on_notice)
        with connection.cursor(row_factory=class_row(Outcome)) as cursor:
            outcomes = cursor.execute(_PREVIEW, [found, link_column, where, samples, count_candidates]).fetchall()

    def count(*wanted: str) -> int:
        return sum(outcome.amount for outcome in outcomes if outcome.outcome in wanted)

    run = Run(
        None,
        linked=count("linked"),
        translated=count("translated"),
        quarantined=count("quarantined"),
        unlinked=count("unlinked"),
        remaining=count("left unlinked", "left dangling"),
    )
    return Preview(run, tuple(outcomes), count_candidates)


def explain(table: str, key: Sequence[str], dsn: str = "", *, link_column: str = "master_flow_id") -> tuple[Part, ...]:
    """Say how a row came by its link, or why it has none.

    `key` is its value where it is one column, COLUMN=VALUE for each column, in one text or several, or a JSON object.
    Raises UsageError for a table, a link or a row that is not there, and what repair() raises.
    """
    with (
        engine(dsn, action="explaining a link", role=VIEWER) as connection,
        connection.cursor(row_factory=class_row(Part)) as cursor,
    ):
        found = find_table(connection, table)
        row = connection.execute(_KEY_COLUMNS, [found]).fetchone()
        assert row is not None  # noqa: S101 - a function returns one row
        columns: list[str] = row[0]
        try:
            return tuple(cursor.execute(_EXPLAIN, [found, Jsonb(read_key(key, columns)), link_column]).fetchall())
        except psycopg.Error as error:
            if (error.diag.message_hint or "").startswith("Pass row_key => "):
                raise UsageError(
                    f"{error.diag.severity} {error.sqlstate}: {error.diag.message_primary}",
                    detail=error.diag.message_detail,
                    hint=_how_to_type(columns),
                ) from error
            raise


def read_key(given: Sequence[str], columns: Sequence[str]) -> str | dict[str, Any]:
    """Read a row key as it is typed: VALUE, COLUMN=VALUE..., COLUMN=VALUE,COLUMN=VALUE or {"COLUMN": VALUE}.

    One text is COLUMN=VALUE only if COLUMN is one of `columns`, those of the table's key; else it is a value.
    """
    if len(given) == 1 and given[0].lstrip().startswith("{"):
        try:
            read: dict[str, Any] = json.loads(given[0])
        except json.JSONDecodeError as error:
            raise UsageError(
                f"{given[0]} is no JSON object: {error}.",
                hint='Write it as {"COLUMN": VALUE}, or COLUMN=VALUE for each column.',
            ) from error
        return read

    def is_pair(text: str) -> bool:
        column, equals, _ = text.partition("=")
        return bool(equals) and column.strip() in columns

    parts = list(given)
    if len(given) == 1:
        if not is_pair(given[0]):
            return given[0]
        if all(is_pair(part) for part in given[0].split(",")):
            parts = given[0].split(",")
    key: dict[str, Any] = {}
    for part in parts:
        column, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"{part!r} is no COLUMN=VALUE.", hint=_how_to_type(columns))
        if column.strip() in key:
            raise UsageError(f"The key names column {column.strip()} twice.", hint=_how_to_type(columns))
        key[column.strip()] = value
    return key


def _how_to_type(columns: Sequence[str]) -> str:
    named = " ".join(shlex.quote(f"{column}=") + "VALUE" for column in columns)
    if len(columns) == 1:
        return f"Give the value alone, or {named}, quoted as the shell needs it."
    return f"Give {named}, each quoted as the shell needs it, or a JSON object."


def undo(
    run_id: int,
    dsn: str = "",
    *,
    max_rows: int | None = None,
    batch_size: int = BATCH_SIZE,
    on_progress: UndoHandler | None = None,
    on_notice: NoticeHandler | None = None,
) -> Undone:
    """Put back the links that a run wrote and the rows that it took out, `batch_size` of them in a transaction.

    At most `max_rows` in all. Interrupted, what was put back stays so; called again it goes on. A transaction that
    loses a race (40P01, 40001) is tried again. `on_progress` is told after each transaction what this call has done so
    far. Raises UsageError if there is no such run, EngineMissing,
    StatementFailed where the database forbids it (and says what does), and what connecting raises.
    """
    done = Undone(0, 0, 0)
    with (
        engine(dsn, action=f"undoing run {run_id}", role=ADMIN, on_notice=on_notice) as connection,
        connection.cursor(row_factory=class_row(Undone)) as cursor,
    ):
        while True:
            left = None if max_rows is None else max_rows - done.restored - done.skipped
            batch = _undo_batch(cursor, run_id, batch_size if left is None else min(batch_size, left))
            done = Undone(done.restored + batch.restored, done.skipped + batch.skipped, batch.remaining)
            if on_progress is not None:
                on_progress(done)
            if not done.remaining or (max_rows is not None and done.restored + done.skipped >= max_rows):
                return done


def _undo_batch(cursor: psycopg.Cursor[Undone], run_id: int, max_rows: int) -> Undone:
    """Put back a batch; one that was chosen to end a deadlock is tried again, for nothing of it is left."""
    for tries in range(1, _TRIES):
        with suppress(DeadlockDetected, SerializationFailure):
            return _call_undo(cursor, run_id, max_rows)
        time.sleep(random.uniform(0, 0.1 * tries))  # noqa: S311 - so that two do not meet again
    return _call_undo(cursor, run_id, max_rows)


def _call_undo(cursor: psycopg.Cursor[Undone], run_id: int, max_rows: int) -> Undone:
    batch = cursor.execute(_UNDO, [run_id, max_rows]).fetchone()
    assert batch is not None  # noqa: S101 - a function with OUT parameters returns one row
    return batch


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
