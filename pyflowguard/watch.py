"""Looks at the links again and again, and tells what is new: rows that are wrong, findings, and what was mended.

Which rows are wrong is asked at each look, as far as that is found in no time: of tables that are small, and of rows
without a link to which an index leads. Figures and findings, and every row of large tables, are read beside that, in
threads on connections of their own, which rest many times as long as they took. What is known stays known when the
connection is lost, so that what happened meanwhile is told when it is back.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import psycopg

from pyflowguard.database import Connection, one_moment, time_limit
from pyflowguard.engine import VIEWER, engine
from pyflowguard.errors import FlowguardError
from pyflowguard.health import Finding

INTERVAL = timedelta(seconds=1)
"""How long it waits between two looks by default."""

TIMEOUT = timedelta(seconds=30)
"""How long the server may take to answer a look that takes no time, before the connection is given up."""

FULL_PAUSE = timedelta(minutes=1)
"""How long it waits, at least, until it reads every row of large tables again."""

_FIGURES_REST, _FULL_REST = 10, 20  # times as long as it took to read figures, or every row
_SHORTEST_WAIT = 0.2  # seconds between two looks, though notifications come faster
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds before it connects again
_WINDOW = 60.0  # seconds over which rates are told
_EXPLAINED = 20  # so many new rows of a look are given their reason

_ROW_FINDINGS = ("unlinked_rows", "dangling_links", "mismatched_links", "tenantless_links")

Kind: TypeAlias = Literal["start", "violation", "mended", "finding", "settled", "failed", "lost", "back"]

_T = TypeVar("_T")
_Link: TypeAlias = tuple[str, str]  # table and column
_Row: TypeAlias = tuple[str, str]  # row_key as JSON, and kind
_Rows: TypeAlias = dict[_Link, tuple[str, set[_Row]]]  # with what of a link they cover


@dataclass(frozen=True)
class Event:
    """Something that happened, with what there is to know of it by name.

    `start`: it began to look. `violation`, `mended`: a row is wrong, or not any more. `finding`, `settled`: something
    else is not as it should be, or is again. `lost`, `back`: it cannot look any more, or can again. `failed`: figures
    or every row were to be read, and could not be.
    """

    at: datetime
    kind: Kind
    text: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Watched:
    """What is known of a link: its figures as flowguard.link_estimate tells them, and how they change.

    `wrong` are rows of which it is known that they are not validly linked. `writes` are rows inserted and updated
    in a second, `change` is how many more are wrong than a minute ago; None where there is nothing to compare with yet.
    """

    relation: str
    link_column: str
    mode: str
    total: int | None
    linked: int | None
    wrong: int
    coverage: float | None
    estimated: bool
    guarded: bool
    writes: float | None
    change: int | None


@dataclass(frozen=True)
class Seen:
    """What there is to be seen at one moment, and what happened since the moment before.

    `violations` is the number of wrong rows that are known by their keys; `problem` says why it cannot look, if so.
    """

    at: datetime
    database: str
    score: float
    links: tuple[Watched, ...]
    findings: tuple[Finding, ...]
    violations: int
    events: tuple[Event, ...]
    problem: str | None = None

    @property
    def is_wrong(self) -> bool:
        """Whether anything is not as it should be."""
        return self.violations > 0 or any(finding.level != "INFO" for finding in self.findings)


@dataclass(frozen=True)
class _Figures:
    """What flowguard._overview() told at a time.monotonic(), and how many rows were ever written to each table."""

    read_at: float
    score: float
    links: dict[_Link, dict[str, Any]]
    findings: dict[str, Finding]
    written: dict[_Link, int | None]


_LOOK = "SELECT relation, link_column, covers, row_key::pg_catalog.text, kind FROM flowguard._look(%s)"

_OVERVIEW = "SELECT score::pg_catalog.float8, links, findings FROM flowguard._overview()"

_WRITTEN = """
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), l.link_column,
       (SELECT pg_catalog.sum(pg_catalog.pg_stat_get_tuples_inserted(t.id)
                              + pg_catalog.pg_stat_get_tuples_updated(t.id))::pg_catalog.int8
          FROM (SELECT c.oid UNION SELECT p.relid FROM pg_catalog.pg_partition_tree(l.relation) p) AS t (id))
  FROM flowguard.link l
  JOIN pg_catalog.pg_class c ON c.oid = l.relation
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
"""

_REASON = """
SELECT e.detail ->> 'kind', e.detail ->> 'reason'
  FROM flowguard.explain(%s::pg_catalog.regclass, %s::pg_catalog.jsonb, %s) e WHERE e.part = 'row'
"""

_MAY_LISTEN = "SELECT NOT pg_catalog.pg_is_in_recovery()"


def watch(dsn: str = "", *, interval: timedelta = INTERVAL) -> Generator[Seen, None, None]:
    """Give what there is to be seen now, and then again and again, until it is closed.

    A notification on channel flowguard lets it look at once. When the connection is lost, or a look fails, that is
    told, and it connects again; only where it never could look it raises EngineMissing, StatementFailed, ConnectionLost
    and what connecting raises.
    """
    watcher = _Watcher(dsn, interval)
    pause = _FIRST_PAUSE
    try:
        while True:
            try:
                with engine(dsn, action="watching the links", role=VIEWER, limit=TIMEOUT) as connection:
                    connection.prepare_threshold = None  # a pooler may give each look to another session
                    if connection.execute(_MAY_LISTEN).fetchone() == (True,):
                        connection.execute("LISTEN flowguard")
                    while True:
                        yield watcher.look(connection)
                        pause = _FIRST_PAUSE
                        watcher.wait(connection)
            except FlowguardError as error:
                if watcher.seen is None:
                    raise
                if watcher.lost_at is None:
                    yield watcher.lose(error)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
    finally:
        watcher.close()


class _Watcher:
    """What is known so far."""

    def __init__(self, dsn: str, interval: timedelta) -> None:
        self.interval = interval.total_seconds()
        self.figures = _Beside(dsn, "reading figures", _read_figures, rest=_FIGURES_REST, pause=self.interval)
        self.full = _Beside(dsn, "reading every row", _read_all_rows, rest=_FULL_REST, pause=FULL_PAUSE.total_seconds())
        self.seen: Seen | None = None
        self.score = 100.0
        self.links: tuple[Watched, ...] = ()
        self.findings: dict[str, Finding] = {}
        self.rows: dict[_Link, set[_Row]] = {}
        self.covers: dict[_Link, str] = {}
        self.past: deque[_Figures] = deque()
        self.took = 0.0
        self.lost_at: float | None = None

    def look(self, connection: Connection) -> Seen:
        """Look, and tell what is new; the first time all is read, however long that takes."""
        events = self.look_first(connection) if self.seen is None else self.look_again(connection)
        if self.lost_at is not None:
            seconds = round(time.monotonic() - self.lost_at, 1)
            events.insert(0, Event(_now(), "back", f"looking again, after {seconds:g} s", {"seconds": seconds}))
            self.lost_at = None
        self.seen = Seen(
            at=_now(),
            database=connection.info.dbname,
            score=self.score,
            links=self.links,
            findings=tuple(self.findings.values()),
            violations=sum(len(rows) for rows in self.rows.values()),
            events=tuple(events),
        )
        return self.seen

    def look_first(self, connection: Connection) -> list[Event]:
        """Read all that is wrong already; it is not told one by one."""
        with one_moment(connection):
            start = time.monotonic()
            self.take(connection, _read_rows(connection, exact=True), is_full=False)
            self.full.rest(time.monotonic() - start)
            figures = _read_figures(connection)
        self.figures.rest(time.monotonic() - figures.read_at)
        self.take_figures(figures)
        data = {
            "database": connection.info.dbname,
            "links": len(self.links),
            "violations": sum(len(rows) for rows in self.rows.values()),
            "findings": len(self.findings),
        }
        text = "database {database}, links: {links}, wrong rows: {violations}, findings: {findings}"
        return [Event(_now(), "start", text.format_map(data), data)]

    def look_again(self, connection: Connection) -> list[Event]:
        """Look at what takes no time, and take over what was read beside it."""
        start = time.monotonic()
        with time_limit(connection, TIMEOUT), one_moment(connection):
            events = self.take(connection, _read_rows(connection, exact=False), is_full=False)
            full = self.full.take(events)
            if full is not None:
                events += self.take(connection, full, is_full=True)
        self.took = time.monotonic() - start
        figures = self.figures.take(events)
        if figures is not None:
            events += self.take_figures(figures)
        self.figures.begin_if_due()
        if any(covers != "all" for covers in self.covers.values()):
            self.full.begin_if_due()
        return events

    def wait(self, connection: Connection) -> None:
        """Wait until the next look, at least as long as the last one took; a notification shortens the wait."""
        start = time.monotonic()
        for _ in connection.notifies(timeout=max(self.interval, self.took), stop_after=1):
            self.figures.is_asked = True
        least = min(self.interval, max(_SHORTEST_WAIT, self.took))
        time.sleep(max(0.0, least - (time.monotonic() - start)))

    def lose(self, error: FlowguardError) -> Seen:
        """Tell that it cannot look, and why."""
        assert self.seen is not None  # noqa: S101 - watch() has asked
        self.lost_at = time.monotonic()
        event = Event(_now(), "lost", f"cannot look any more: {error.message}", {"problem": error.message})
        self.seen = replace(self.seen, at=event.at, events=(event,), problem=error.message)
        return self.seen

    def close(self) -> None:
        """End what runs beside."""
        self.figures.close()
        self.full.close()

    def take(self, connection: Connection, found: _Rows, *, is_full: bool) -> list[Event]:
        """Take over the rows that were found; what was read in full counts where the other look does not see."""
        events: list[Event] = []
        if not is_full:
            self.covers = {link: covers for link, (covers, _) in found.items()}
            for link in [link for link in self.rows if link not in found]:
                events += [_mended(link, row) for row in sorted(self.rows.pop(link))]
        for link, (_, rows) in found.items():
            if link not in self.covers:
                continue
            counts = _in_sight(self.covers[link], is_full=is_full)
            known = self.rows.setdefault(link, set())
            before = {row for row in known if counts(row)}
            now = {row for row in rows if counts(row)}
            if self.seen is not None:
                for row in sorted(now - before):
                    events.append(_violation(connection, link, row, explain=len(events) < _EXPLAINED))
                events += [_mended(link, row) for row in sorted(before - now)]
            known -= before - now
            known |= now
        return events

    def take_figures(self, figures: _Figures) -> list[Event]:
        """Take over figures, compare them with those of the last minute, and tell which findings are new or more."""
        self.past.append(figures)
        while figures.read_at - self.past[0].read_at > _WINDOW:
            self.past.popleft()
        self.score = figures.score
        for link, figure in figures.links.items():
            known = sum(figure[name] or 0 for name in ("unlinked", "dangling", "mismatched", "tenantless"))
            figure["wrong"] = max(known, len(self.rows.get(link, ())))
        self.links = tuple(_watched(link, figures, self.past[0]) for link in figures.links)
        before, self.findings = self.findings, figures.findings
        events = [
            Event(_now(), "finding", f"{finding.level} {_about(finding)}; {finding.remedy}", asdict(finding))
            for key, finding in figures.findings.items()
            if key not in before or self.has_grown(finding, before[key])
        ]
        events += [
            Event(_now(), "settled", f"{finding.level} {_about(finding)}", asdict(finding))
            for key, finding in before.items()
            if key not in figures.findings
        ]
        return events

    def has_grown(self, finding: Finding, before: Finding) -> bool:
        """Say whether a finding is about more than before; where it is about rows, of those that are not told."""
        if finding.amount is None or before.amount is None or finding.amount <= before.amount:
            return False
        return finding.name not in _ROW_FINDINGS or "none" in self.covers.values()


class _Beside(Generic[_T]):
    """Reads something from time to time, in a thread on a connection of its own, and rests longer than it took."""

    def __init__(self, dsn: str, action: str, read: Callable[[Connection], _T], *, rest: int, pause: float) -> None:
        self.dsn = dsn
        self.action = action
        self.read = read
        self.times = rest
        self.pause = pause
        self.due = 0.0
        self.is_asked = False  # to read as soon as it can: it may be at work, and rest then
        self.found: _T | None = None
        self.failure: FlowguardError | None = None
        self.thread: threading.Thread | None = None
        self.connection: Connection | None = None

    def rest(self, took: float) -> None:
        """Rest many times as long as it took."""
        self.due = time.monotonic() + max(self.pause, self.times * took)

    def begin_if_due(self) -> None:
        """Begin to read if it is time, or it was asked to, and what was found before is taken."""
        is_due = self.is_asked or time.monotonic() >= self.due
        if is_due and not (self.thread and self.thread.is_alive()) and self.found is None:
            self.is_asked = False
            self.thread = threading.Thread(target=self.run, daemon=True)
            self.thread.start()

    def take(self, events: list[Event]) -> _T | None:
        """Take what was found, if it was; or tell why it could not be."""
        found, failure = self.found, self.failure
        self.found = self.failure = None
        if failure is not None:
            events.append(
                Event(_now(), "failed", f"{self.action} failed: {failure.message}", {"problem": failure.message})
            )
        return found

    def run(self) -> None:
        """Read once, all of one moment."""
        start = time.monotonic()
        try:
            with engine(self.dsn, action=self.action, role=VIEWER) as connection:
                self.connection = connection
                with one_moment(connection):
                    self.found = self.read(connection)
        except FlowguardError as error:
            self.failure = error
        self.connection = None
        self.rest(time.monotonic() - start)

    def close(self) -> None:
        """Let the server end what it does for the thread."""
        connection = self.connection
        if connection is not None:
            connection.cancel_safe(timeout=1)


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _read_rows(connection: Connection, *, exact: bool) -> _Rows:
    """Read which rows of each link are wrong, and which of them can be seen."""
    found: _Rows = {}
    for relation, link_column, covers, row_key, kind in connection.execute(_LOOK, [exact]):
        _, rows = found.setdefault((relation, link_column), (covers, set()))
        if row_key is not None:
            rows.add((row_key, kind))
    return found


def _read_all_rows(connection: Connection) -> _Rows:
    return _read_rows(connection, exact=True)


def _in_sight(covers: str, *, is_full: bool) -> Callable[[_Row], bool]:
    """Say which rows of a link a look decides about: what the quick one sees, or, of the full one, all others."""
    return lambda row: (covers == "all" or (covers == "unlinked" and row[1] == "unlinked")) is not is_full


def _read_figures(connection: Connection) -> _Figures:
    read_at = time.monotonic()
    row = connection.execute(_OVERVIEW).fetchone()
    assert row is not None  # noqa: S101 - the function gives one row
    score, links, findings = row
    return _Figures(
        read_at,
        score,
        {(link["relation"], link["link_column"]): link for link in links},
        {finding["cache_key"]: Finding(**finding) for finding in findings},
        {(relation, column): written for relation, column, written in connection.execute(_WRITTEN)},
    )


def _watched(link: _Link, figures: _Figures, then: _Figures) -> Watched:
    figure = figures.links[link]
    written, written_then = figures.written.get(link), then.written.get(link)
    writes = change = None
    if then is not figures and link in then.links:
        if written is not None and written_then is not None and written >= written_then:
            writes = (written - written_then) / (figures.read_at - then.read_at)
        change = figure["wrong"] - then.links[link]["wrong"]
    names = ("relation", "link_column", "mode", "total", "linked", "wrong", "coverage", "estimated", "guarded")
    return Watched(**{name: figure[name] for name in names}, writes=writes, change=change)


def _violation(connection: Connection, link: _Link, row: _Row, *, explain: bool) -> Event:
    key, kind = row
    told = _explained(connection, link, key) if explain else None
    kind, reason = told or (kind, None)
    text = f"{_named(link)} {key} is {kind}" + (f": {reason}" if reason else "")
    return Event(_now(), "violation", text, {**_data(link, key), "kind": kind, "reason": reason})


def _explained(connection: Connection, link: _Link, key: str) -> tuple[str, str | None] | None:
    """Give kind and reason of a row; None where it is gone by now."""
    relation, link_column = link
    try:
        with connection.transaction():
            row = connection.execute(_REASON, [relation, key, link_column]).fetchone()
    except psycopg.Error as error:
        if not (error.sqlstate or "").startswith("FG"):
            raise
        return None
    return None if row is None else (row[0], row[1])


def _mended(link: _Link, row: _Row) -> Event:
    key, kind = row
    return Event(_now(), "mended", f"{_named(link)} {key} is not {kind} any more", {**_data(link, key), "kind": kind})


def _data(link: _Link, key: str) -> dict[str, Any]:
    relation, link_column = link
    return {"relation": relation, "link_column": link_column, "row_key": json.loads(key)}


def _named(link: _Link) -> str:
    relation, link_column = link
    return relation if link_column == "master_flow_id" else f"{relation}.{link_column}"


def _about(finding: Finding) -> str:
    return f"{finding.relation}: {finding.description}" if finding.relation else finding.description
