"""Guards and enforces links while applications write: a statement at a time, none waiting long for its lock.

The database says what is missing (flowguard.guard_plan()). Here each statement is run in a transaction of its own, or
in none where PostgreSQL forbids one, and tried again where another held its lock. Nothing is remembered between two
runs: the plan is asked for anew, so that one which was stopped goes on where it was.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeAlias

import psycopg
from psycopg import errors as refusals
from psycopg.rows import class_row

from pyflowguard.database import Connection, Holder, Notice, NoticeHandler, waits_for_lock
from pyflowguard.engine import LeftOut, engine, find_table, links_left_out, notice_no_link
from pyflowguard.errors import LockNotObtained
from pyflowguard.plan import Mode

LOCK_TIMEOUT = timedelta(seconds=2)
"""How long a statement may wait for its lock, and writers behind it, by default."""

DEADLINE = timedelta(minutes=10)
"""How long a statement is tried again by default."""

LOCK_KEY = 75474064
"""The advisory lock of who guards online, in a session; beside the one that deployers take."""

_HOW_TO_END_PREPARED = (
    " A prepared transaction is ended by COMMIT PREPARED or ROLLBACK PREPARED, by whoever prepared it."
)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds, before chance shortens them


@dataclass(frozen=True)
class Link:
    """A link by the table's name, as PostgreSQL would write it, and its column."""

    relation: str
    link_column: str

    def __str__(self) -> str:
        """Give it as messages of the engine name it."""
        return f"{self.relation}.{self.link_column}"


@dataclass(frozen=True)
class Planned:
    """A statement that is missing, the strongest lock that it takes, and whether it may run in a transaction."""

    statement: str
    lock: str
    in_transaction: bool


@dataclass(frozen=True)
class Step:
    """A statement for a link; `seconds` that it took, its waits included, None while it runs; `tries` so far."""

    link: Link
    planned: Planned
    seconds: float | None = None
    tries: int = 1


@dataclass(frozen=True)
class Waiting:
    """A step did not get its lock in time and is tried again; `holders` are processes and prepared transactions."""

    step: Step
    holders: tuple[str, ...]


@dataclass(frozen=True)
class Guarded:
    """What was done, or would be; `not_valid` are statements that present rows forbid, each with the reason.

    `left_out` are links of which a table or a column is gone.
    """

    steps: tuple[Step, ...]
    not_valid: tuple[tuple[Step, str], ...]
    dry_run: bool
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class ModeSet:
    """Links that have the mode now, what was done for it, and links that were passed over, each with the reason.

    `left_out` are links of which a table or a column is gone.
    """

    mode: Mode
    links: tuple[Link, ...]
    steps: tuple[Step, ...]
    incomplete: tuple[tuple[Link, str], ...]
    left_out: tuple[LeftOut, ...] = ()


ProgressHandler: TypeAlias = Callable[[Step | Waiting], None]

_LINKS = """
SELECT l.relation::pg_catalog.text AS relation, l.link_column::pg_catalog.text AS link_column
  FROM flowguard._link_order() AS l
 WHERE %(table)s::pg_catalog.regclass IS NULL
    OR l.relation = %(table)s::pg_catalog.regclass AND l.link_column = %(link_column)s
"""

_PLAN = "SELECT statement, lock, in_transaction FROM flowguard.guard_plan(%s::pg_catalog.regclass, %s) ORDER BY step"

_SET_MODE = "SELECT FROM flowguard.set_mode(%s::pg_catalog.regclass, %s, %s, online => true)"

_SET_LOCK_TIMEOUT = "SELECT pg_catalog.set_config('lock_timeout', %s, false)"

_STATE = """
SELECT mode, guarded FROM flowguard.link WHERE relation = %s::pg_catalog.regclass AND link_column = %s
"""

_INCOMPLETE = "FG113"

_QUEUED_BEHIND = ("SHARE on ", "SHARE ROW EXCLUSIVE on ", "ACCESS EXCLUSIVE on ")
"""Locks that writers wait for, as a plan names them."""

_KEEP_VACUUM_AWAY = """
SELECT pg_catalog.set_config('lock_timeout', least(
         greatest(%(timeout)s, 2 * (SELECT s.setting::pg_catalog.int8 FROM pg_catalog.pg_settings s
                                     WHERE s.name = 'deadlock_timeout')), %(left)s)::pg_catalog.text, true),
       pg_catalog.string_agg(t.name, ', ' ORDER BY t.id)
  FROM (SELECT DISTINCT c.oid, pg_catalog.format('%%I.%%I', n.nspname, c.relname)
          FROM flowguard.link k LEFT JOIN flowguard.rule r USING (relation, link_column)
         CROSS JOIN LATERAL pg_catalog.unnest(ARRAY[k.relation, k.master, r.source]) AS u (relation)
          LEFT JOIN LATERAL pg_catalog.pg_partition_tree(u.relation) p ON true
          JOIN pg_catalog.pg_class c ON c.oid = coalesce(p.relid, u.relation)
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE k.relation = %(table)s::pg_catalog.regclass
           AND pg_catalog.has_table_privilege(c.oid, 'UPDATE, DELETE, TRUNCATE')) AS t (id, name)
 WHERE pg_catalog.strpos(%(lock)s, pg_catalog.concat(' ', t.name, ' ')) > 0
    OR pg_catalog.strpos(%(lock)s, pg_catalog.concat(' ', t.id::pg_catalog.regclass, ' ')) > 0
"""
"""Gives the tables that a plan's lock names, to be locked against VACUUM, and sets how long that may wait: long enough
for PostgreSQL to end an autovacuum in its way, as it does when it looks for a deadlock. NULL where the role may lock
none of them.
"""

_HOLDERS = """
SELECT DISTINCT ON (coalesce(a.xact_start, p.prepared), l.virtualtransaction) a.pid, a.application_name, p.gid
  FROM pg_catalog.pg_locks l
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
  LEFT JOIN pg_catalog.pg_locks t ON l.pid IS NULL AND t.pid IS NULL AND t.virtualtransaction = l.virtualtransaction
                                 AND t.locktype = 'transactionid'
  LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = t.transactionid
 WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
   AND coalesce(a.pid::pg_catalog.text, p.gid) IS NOT NULL
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
   AND l.relation IN (SELECT coalesce(p.relid, t.relation)
                        FROM flowguard.link k LEFT JOIN flowguard.rule r USING (relation, link_column)
                       CROSS JOIN LATERAL pg_catalog.unnest(ARRAY[k.relation, k.master, r.source]) AS t (relation)
                        LEFT JOIN LATERAL pg_catalog.pg_partition_tree(t.relation) p ON true
                       WHERE k.relation = %(table)s::pg_catalog.regclass)
 ORDER BY coalesce(a.xact_start, p.prepared), l.virtualtransaction
 LIMIT 3
"""


def guard(
    dsn: str = "",
    tables: Sequence[str] = (),
    *,
    link_column: str = "master_flow_id",
    any_version: bool = False,
    lock_timeout: timedelta = LOCK_TIMEOUT,
    deadline: timedelta = DEADLINE,
    dry_run: bool = False,
    skip_gone: bool = False,
    on_progress: ProgressHandler | None = None,
    on_notice: NoticeHandler | None = None,
) -> Guarded:
    """Guard the link `link_column` of these tables, or every link where none is named, without stalling writers.

    A statement waits `lock_timeout` at most for its lock, since writers queue behind it, and is tried again until
    `deadline` has passed. Building an index concurrently is the exception: nobody queues behind it, so that it waits as
    long as it may. A key that present rows violate stays NOT VALID. `dry_run` gives the plan and does nothing.
    Stopped anywhere, it goes on when called again. Of every link, one of which a table or a column is gone is left out;
    one that is named is refused, but with `skip_gone` left out, too. `any_version` is for a deployment, which may be on
    its way to an engine that this command understands. Raises UsageError for a table or link that is not there,
    LockNotObtained, EngineMissing, EngineUnfit, StatementFailed, and what connecting raises.
    """
    with engine(dsn, action="guarding links", any_version=any_version, on_notice=on_notice) as connection:
        links, left_out = _find_links(connection, tables, link_column, on_notice, skip_gone=skip_gone)
        if dry_run:
            steps = tuple(Step(link, planned) for link in links for planned in _plan(connection, link))
            return Guarded(steps, (), dry_run=True, left_out=left_out)
        work = _Work(connection, lock_timeout, deadline, on_progress, on_notice)
        work.take_turns()
        for link in links:
            work.guard(link)
        return Guarded(tuple(work.done), tuple(work.not_valid), dry_run=False, left_out=left_out)


def set_mode(
    mode: Mode,
    dsn: str = "",
    tables: Sequence[str] = (),
    *,
    link_column: str = "master_flow_id",
    any_version: bool = False,
    lock_timeout: timedelta = LOCK_TIMEOUT,
    deadline: timedelta = DEADLINE,
    skip_incomplete: bool = False,
    skip_gone: bool = False,
    on_progress: ProgressHandler | None = None,
    on_notice: NoticeHandler | None = None,
) -> ModeSet:
    """Let the link `link_column` of these tables, or every link, be enforced or observed, without stalling writers.

    What the mode needs is made as guard() makes it. Rows are counted before and, when all who wrote meanwhile have
    ended, once more, while nobody waits; a link that is not complete then is what it was before. It is passed over with
    `skip_incomplete`, else refused, as StatementFailed with SQLSTATE FG113. Interrupted (KeyboardInterrupt) on the way
    to enforce, the link in hand is made what it was before, as far as its tables are free. Stopped anywhere, it goes on
    when called again. What is gone is left out as guard() leaves it out. Raises what guard() raises.
    """
    with engine(dsn, action="setting the mode", any_version=any_version, on_notice=on_notice) as connection:
        links, left_out = _find_links(connection, tables, link_column, on_notice, skip_gone=skip_gone)
        work = _Work(connection, lock_timeout, deadline, on_progress, on_notice)
        work.take_turns()
        refused = {link: work.set_mode(link, mode, skip_incomplete=skip_incomplete) for link in links}
        incomplete = tuple((link, reason) for link, reason in refused.items() if reason is not None)
        done = tuple(link for link, reason in refused.items() if reason is None)
        return ModeSet(mode, done, tuple(work.done), incomplete, left_out)


def _find_links(
    connection: Connection,
    tables: Sequence[str],
    link_column: str,
    on_notice: NoticeHandler | None,
    *,
    skip_gone: bool,
) -> tuple[list[Link], tuple[LeftOut, ...]]:
    """Find the links that are asked for, sources first where all are, and those that have to be left out."""
    left_out = links_left_out(connection) if skip_gone or not tables else ()
    wanted: list[str | None] = [find_table(connection, table) for table in tables] or [None]
    if not tables:
        notice_no_link(connection, on_notice)
    found: list[Link] = []
    gone = {(link.relation, link.link_column) for link in left_out}
    with connection.cursor(row_factory=class_row(Link)) as cursor:
        for table in wanted:
            links = cursor.execute(_LINKS, {"table": table, "link_column": link_column}).fetchall()
            if not links and table is not None and (table, link_column) not in gone:
                # The engine says it: it knows what to call.
                cursor.execute("SELECT FROM flowguard.guard_plan(%s::pg_catalog.regclass, %s)", [table, link_column])
            found += [link for link in links if link not in found]
    return found, left_out


def _plan(connection: Connection, link: Link) -> list[Planned]:
    with connection.cursor(row_factory=class_row(Planned)) as cursor:
        return cursor.execute(_PLAN, [link.relation, link.link_column]).fetchall()


class _Work:
    """A connection that guards, what it may wait, and what it has done."""

    def __init__(
        self,
        connection: Connection,
        lock_timeout: timedelta,
        deadline: timedelta,
        on_progress: ProgressHandler | None,
        on_notice: NoticeHandler | None,
    ) -> None:
        self.on_notice: NoticeHandler = on_notice or (lambda _: None)
        self.connection = connection
        self.lock_timeout = lock_timeout
        self.deadline = deadline
        self.tell: ProgressHandler = on_progress or (lambda _: None)
        self.done: list[Step] = []
        self.not_valid: list[tuple[Step, str]] = []

    def take_turns(self) -> None:
        """Wait until nobody else guards online, for one would drop the index that the other is building."""
        start = time.monotonic()
        for holder in waits_for_lock(self.connection, LOCK_KEY):
            if self.left(start) <= 0:
                raise LockNotObtained(
                    f"Another pyflowguard guard ({holder}) did not end within {self.deadline.total_seconds():g} s.",
                    hint="Wait for it, or give more time with --deadline.",
                )

    def guard(self, link: Link) -> None:
        """Run what is missing for a link; where a statement did not get its lock, ask anew what is missing."""
        tried: dict[str, tuple[float, int]] = {}
        given_up: set[str] = set()
        while missing := [p for p in _plan(self.connection, link) if not _rests_on(p.statement, given_up)]:
            for planned in missing:
                if _rests_on(planned.statement, given_up):
                    continue
                try:
                    if not self.has_run(link, planned, tried):
                        break
                except refusals.ForeignKeyViolation as error:
                    if " VALIDATE CONSTRAINT " not in planned.statement:
                        raise
                    given_up.add(planned.statement)
                    self.not_valid.append((Step(link, planned), str(error.diag.message_primary)))

    def set_mode(self, link: Link, mode: Mode, *, skip_incomplete: bool) -> str | None:
        """Let a link have the mode; say why it has not, if it is not complete and such links are to be passed over."""
        try:
            self.change_mode(link, mode)
        except psycopg.Error as error:
            if error.sqlstate != _INCOMPLETE or not skip_incomplete:
                raise
            return str(error.diag.message_detail)
        return None

    def change_mode(self, link: Link, mode: Mode) -> None:
        """Write the mode down and run what it needs; a link that is to be enforced goes back if that is interrupted."""
        name = [link.relation, link.link_column]
        state = self.connection.execute(_STATE, name).fetchone()
        assert state is not None  # noqa: S101 - _find_links() has just read it
        before, is_guarded = state
        try:
            self.connection.execute(_SET_MODE, [link.relation, mode, link.link_column])
            if is_guarded:
                self.carry_out(link, mode, before)
        except KeyboardInterrupt:
            if mode == "enforce" and before != mode:
                self.go_back(link, before, is_guarded=is_guarded)
            raise

    def carry_out(self, link: Link, mode: Mode, before: Mode) -> None:
        """Run what a mode needs that is written down, and count again; a link that is not complete then goes back."""
        try:
            self.guard(link)
            if mode == "enforce":
                # Whoever writes now began before and may have been let pass as before: they end first.
                end_of_writers = Planned(f"LOCK TABLE {link.relation} IN SHARE MODE", f"SHARE on {link.relation}", True)
                tried: dict[str, tuple[float, int]] = {}
                while not self.has_run(link, end_of_writers, tried):
                    pass
                self.connection.execute(_SET_MODE, [link.relation, mode, link.link_column])
        except psycopg.Error as error:
            if before != mode and not self.connection.closed:
                self.connection.execute(_SET_MODE, [link.relation, before, link.link_column])
                if error.sqlstate == _INCOMPLETE:
                    self.guard(link)
            raise

    def go_back(self, link: Link, before: Mode, *, is_guarded: bool) -> None:
        """Make an interrupted link what it was before, in a hurry: a table that is not free is not waited for long."""
        try:
            self.connection.rollback()  # of what was interrupted while it was taken back
            self.connection.execute(_SET_MODE, [link.relation, before, link.link_column])
        except psycopg.Error as error:
            self.on_notice(
                Notice(
                    "WARNING",
                    f"It is not known which mode {link} has: {str(error).strip()}",
                    hint="Run `pyflowguard set-mode` again, for the mode that it is to have.",
                )
            )
            return
        if not is_guarded:
            return
        try:
            hurried = _Work(self.connection, self.lock_timeout, min(self.deadline, self.lock_timeout), None, None)
            hurried.guard(link)
        except (psycopg.Error, LockNotObtained) as error:
            self.on_notice(
                Notice(
                    "WARNING",
                    f"{link} is to {before} again, and something of what was begun is left: {str(error).strip()}",
                    hint=f"Run `pyflowguard guard {link.relation} --link-column {link.link_column}`.",
                )
            )

    def has_run(self, link: Link, planned: Planned, tried: dict[str, tuple[float, int]]) -> bool:
        """Run a statement, or wait a while if it did not get its lock, and say which.

        `tried` tells how often it was tried, and since when. Raises LockNotObtained when its time is over.
        """
        start, tries = tried.get(planned.statement, (time.monotonic(), 0))
        tried[planned.statement] = (start, tries + 1)
        step = Step(link, planned, tries=tries + 1)
        self.tell(step)
        try:
            self.send(link, planned, self.left(start))
        except (refusals.LockNotAvailable, refusals.DeadlockDetected) as error:
            self.wait(step, start, error)
            return False
        del tried[planned.statement]
        self.done.append(replace(step, seconds=time.monotonic() - start))
        self.tell(self.done[-1])
        return True

    def wait(self, step: Step, start: float, error: Exception) -> None:
        """Let others pass, a while that chance shortens: two in each other's way do not meet again at once."""
        waiting = Waiting(step, self.holders(step.link))
        if self.left(start) <= 0:
            raise _no_lock(waiting, self.deadline) from error
        self.tell(waiting)
        pause = min(_LONGEST_PAUSE, self.left(start), _FIRST_PAUSE * 2**step.tries)
        time.sleep(random.uniform(0, pause))  # noqa: S311 - no secret

    def left(self, start: float) -> float:
        """Give the seconds that a statement first tried then has until its deadline."""
        return self.deadline.total_seconds() - (time.monotonic() - start)

    def send(self, link: Link, planned: Planned, left: float) -> None:
        """Run a statement in a transaction, or in none, with a limit on its wait for locks."""
        limit = _milliseconds(min(self.lock_timeout.total_seconds(), left) if planned.in_transaction else left)
        self.connection.execute(_SET_LOCK_TIMEOUT, [f"{limit}ms"])
        with self.connection.transaction() if planned.in_transaction else nullcontext():
            if planned.lock.startswith(_QUEUED_BEHIND):
                self.keep_vacuum_away(link, planned, limit, _milliseconds(left))
                self.connection.execute(_SET_LOCK_TIMEOUT, [f"{limit}ms"])
            self.connection.execute(planned.statement.encode())

    def keep_vacuum_away(self, link: Link, planned: Planned, limit: int, left: int) -> None:
        """Let a VACUUM, or another who builds an index, end before writers have to wait for a statement.

        The statement would wait for it as well, and writers behind that: for an autovacuum until PostgreSQL ends it,
        after deadlock_timeout. Behind this lock no writer waits, and no autovacuum begins while it is held.
        """
        given = {"table": link.relation, "lock": f"{planned.lock} ", "timeout": limit, "left": left}
        found = self.connection.execute(_KEEP_VACUUM_AWAY, given).fetchone()
        assert found is not None  # noqa: S101 - an aggregate
        if (tables := found[1]) is not None:
            self.connection.execute(f"LOCK TABLE {tables} IN SHARE UPDATE EXCLUSIVE MODE".encode())

    def holders(self, link: Link) -> tuple[str, ...]:
        """Give the oldest transactions that use the link's tables at this moment."""
        return tuple(
            str(Holder(pid, application)) if prepared is None else f"prepared transaction '{prepared}'"
            for pid, application, prepared in self.connection.execute(_HOLDERS, {"table": link.relation})
        )


def _milliseconds(seconds: float) -> int:
    """For a setting, of which 0 would be no limit."""
    return max(1, round(seconds * 1000))


def _rests_on(statement: str, given_up: set[str]) -> bool:
    """Say whether a statement was given up, or adds a key to a whole table whose partitions' keys must be validated."""
    return statement in given_up or (
        not statement.endswith(" NOT VALID")
        and any(f" ADD CONSTRAINT {given.rpartition(' VALIDATE CONSTRAINT ')[2]} " in statement for given in given_up)
    )


def _no_lock(waiting: Waiting, deadline: timedelta) -> LockNotObtained:
    planned = waiting.step.planned
    return LockNotObtained(
        f"Link {waiting.step.link}: no lock ({planned.lock}) within {deadline.total_seconds():g} s, in "
        f"{waiting.step.tries} tries.",
        detail=f"The statement is: {planned.statement}",
        hint=(f"These use the tables: {'; '.join(waiting.holders)}. " if waiting.holders else "")
        + "What was done stays; end the transactions that are long, then run it again, or give it more time by "
        "--deadline (deploy: --guard-deadline)."
        + (_HOW_TO_END_PREPARED if any(holder.startswith("prepared ") for holder in waiting.holders) else ""),
    )
