"""What the page about all links is made of: everything the database says of them, read at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from psycopg.rows import class_row

from pyflowguard.database import Connection, NoticeHandler, one_moment
from pyflowguard.doctor import Diagnosis, diagnoses_in
from pyflowguard.engine import VIEWER, engine, notice_no_link
from pyflowguard.health import Finding, Health, Violation, findings_in, health_in

if TYPE_CHECKING:
    from typing_extensions import LiteralString

VIOLATIONS = 50
"""Violations that are listed by default, with their reasons; all of them are counted."""

RUNS = 10
"""Runs that are listed, the latest first."""

TRENDS = 12
"""Links whose coverage is drawn over time: those of which it changed most."""

POINTS = 366
"""Points of a line over time. Where there are more snapshots, a point is the lowest of several."""


@dataclass(frozen=True)
class Wrong:
    """The rows of a link that are wrong in one way: how many, and some of them with the reason."""

    relation: str
    link_column: str
    kind: str
    amount: int
    rows: tuple[Violation, ...]


@dataclass(frozen=True)
class Point:
    """A score, or a coverage, at the time of a snapshot."""

    taken_at: datetime
    value: Decimal


@dataclass(frozen=True)
class LinkTrend:
    """The coverage of a link over all snapshots; `points` only of the links of which it changed most."""

    relation: str
    link_column: str
    snapshots: int
    first: Decimal
    lowest: Decimal
    highest: Decimal
    latest: Decimal
    points: tuple[Point, ...] = ()


@dataclass(frozen=True)
class EarlierLink:
    """Rows of a link that were not validly linked at the time of an earlier snapshot; None: it does not tell."""

    relation: str
    link_column: str
    wrong: int | None


@dataclass(frozen=True)
class Earlier:
    """The snapshot that today is compared with: the latest that is a day old, else the first."""

    taken_at: datetime
    score: Decimal
    links: tuple[EarlierLink, ...]


@dataclass(frozen=True)
class Trend:
    """The snapshots that are kept: how many, the score over time, and the coverage of each link.

    They are those that are `exact`, or those that are not, whichever are more; `others` is how many are left out.
    """

    exact: bool
    snapshots: int
    others: int
    first_at: datetime
    latest_at: datetime
    score: tuple[Point, ...]
    links: tuple[LinkTrend, ...]
    earlier: Earlier


@dataclass(frozen=True)
class PastRun:
    """A row of flowguard.run, and whether there is something in it that undo would take back."""

    run_id: int
    started_at: datetime
    finished_at: datetime | None
    status: str
    relation: str | None
    link_column: str | None
    note: str | None
    started_by: str
    linked: int
    translated: int
    quarantined: int
    unlinked: int
    followed: int
    remaining: int | None
    restored: int
    skipped: int
    undoable: bool

    @property
    def undo(self) -> str | None:
        """Give the command that takes it back; None where there is nothing to take back."""
        return f"pyflowguard undo {self.run_id}" if self.undoable else None


@dataclass(frozen=True)
class Held:
    """Rows of a table that a run took out, and that are still held."""

    run_id: int
    relation: str
    rows: int
    since: datetime


@dataclass(frozen=True)
class TableCost:
    """What the guard has put on a table: indexes and their size, beside that of the whole table, triggers and keys."""

    relation: str
    bytes: int
    indexes: int
    index_bytes: int
    triggers: int
    keys: int


@dataclass(frozen=True)
class FunctionCost:
    """Calls of a trigger function and the milliseconds they took, what they called included; None: not counted."""

    name: str
    relations: list[str]
    calls: int | None
    milliseconds: float | None


@dataclass(frozen=True)
class Storage:
    """What the engine itself keeps, and its size."""

    what: str
    bytes: int


@dataclass(frozen=True)
class Costs:
    """What the guard costs: on tables, in calls since `counted_since` where they are counted, and in its own schema."""

    tables: tuple[TableCost, ...]
    functions: tuple[FunctionCost, ...]
    storage: tuple[Storage, ...]
    track_functions: str
    counted_since: datetime | None


@dataclass(frozen=True)
class Report:
    """All that is known of the links of a database at one moment.

    `trend` is None where there is no snapshot.
    """

    database: str
    server_version: str
    engine_version: str
    made_at: datetime
    health: Health
    findings: tuple[Finding, ...]
    trend: Trend | None
    wrong: tuple[Wrong, ...]
    runs: tuple[PastRun, ...]
    more_runs: int
    held: tuple[Held, ...]
    drift: tuple[Diagnosis, ...]
    costs: Costs


_ABOUT = """
SELECT pg_catalog.current_database(), pg_catalog.current_setting('server_version'), flowguard.version(),
       pg_catalog.now()
"""

# Each kind of each link is there, with at least one row, and the rows that are listed are shared out among them.
_WRONG = """
SELECT relation, link_column, row_key, kind, reason, seen_at, amount
  FROM (SELECT v.relation, v.link_column, v.row_key, v.kind, v.reason, v.seen_at, v.n, v.amount,
               row_number() OVER (ORDER BY v.n, v.relation, v.link_column, v.kind) AS place
          FROM (SELECT w.relation::text AS relation, w.link_column, w.row_key, w.kind, w.reason, w.seen_at,
                       row_number() OVER same AS n, count(*) OVER (PARTITION BY w.relation, w.link_column, w.kind)
                         AS amount
                  FROM flowguard.violation w
                WINDOW same AS (PARTITION BY w.relation, w.link_column, w.kind ORDER BY w.row_key)) AS v) AS listed
 WHERE n = 1 OR place <= %s
 ORDER BY relation, link_column, kind, n
"""

# An estimate may say more than an exact snapshot would: they are not drawn as one line.
_SNAPSHOTS = """
SELECT s.exact, count(*), min(s.taken_at), max(s.taken_at), (SELECT count(*) FROM flowguard.health_snapshot) - count(*)
  FROM flowguard.health_snapshot s
 GROUP BY s.exact
 ORDER BY count(*) DESC, s.exact DESC
 LIMIT 1
"""

# The latest snapshot is a point of its own; the others share the rest of the points.
_SCORES = """
SELECT p.taken_at, p.score AS value
  FROM (SELECT DISTINCT ON (t.is_latest, t.tile) t.taken_at, t.score
          FROM (SELECT s.taken_at, s.score, row_number() OVER newest = 1 AS is_latest,
                       ntile(%(points)s) OVER (ORDER BY s.taken_at, s.snapshot_id) AS tile
                  FROM flowguard.health_snapshot s
                 WHERE s.exact = %(exact)s
                WINDOW newest AS (ORDER BY s.taken_at DESC, s.snapshot_id DESC)) AS t
         ORDER BY t.is_latest, t.tile, t.score, t.taken_at DESC) AS p
 ORDER BY p.taken_at
"""

# Of a table that is there the name is as it is written elsewhere; one that is gone keeps the name that it had.
_LINK_TRENDS = """
SELECT coalesce(to_regclass(format('%%I.%%I', h.schema_name, h.table_name))::text,
                format('%%I.%%I', h.schema_name, h.table_name)) AS relation,
       h.link_column, count(*) AS snapshots,
       (array_agg(h.coverage ORDER BY h.taken_at, h.snapshot_id))[1] AS first, min(h.coverage) AS lowest,
       max(h.coverage) AS highest, (array_agg(h.coverage ORDER BY h.taken_at DESC, h.snapshot_id DESC))[1] AS latest
  FROM (SELECT k.*, s.taken_at
          FROM flowguard.health_snapshot_link k
          JOIN flowguard.health_snapshot s ON s.snapshot_id = k.snapshot_id
         WHERE s.exact = %(exact)s AND k.coverage IS NOT NULL) AS h
 GROUP BY h.schema_name, h.table_name, h.link_column
 ORDER BY max(h.coverage) - min(h.coverage) DESC, min(h.coverage), relation, h.link_column
"""

_LINK_POINTS = """
SELECT p.relation, p.link_column, p.taken_at, p.coverage
  FROM (SELECT DISTINCT ON (k.schema_name, k.table_name, k.link_column, t.is_latest, t.tile)
               coalesce(to_regclass(format('%%I.%%I', k.schema_name, k.table_name))::text,
                        format('%%I.%%I', k.schema_name, k.table_name)) AS relation,
               k.link_column, t.taken_at, k.coverage
          FROM (SELECT s.snapshot_id, s.taken_at, row_number() OVER newest = 1 AS is_latest,
                       ntile(%(points)s) OVER (ORDER BY s.taken_at, s.snapshot_id) AS tile
                  FROM flowguard.health_snapshot s
                 WHERE s.exact = %(exact)s
                WINDOW newest AS (ORDER BY s.taken_at DESC, s.snapshot_id DESC)) AS t
          JOIN flowguard.health_snapshot_link k ON k.snapshot_id = t.snapshot_id AND k.coverage IS NOT NULL
          JOIN (SELECT m.schema_name, m.table_name, m.link_column
                  FROM flowguard.health_snapshot_link m
                  JOIN flowguard.health_snapshot s ON s.snapshot_id = m.snapshot_id
                 WHERE s.exact = %(exact)s
                 GROUP BY m.schema_name, m.table_name, m.link_column
                HAVING max(m.coverage) > min(m.coverage)
                 ORDER BY max(m.coverage) - min(m.coverage) DESC, min(m.coverage), m.schema_name, m.table_name,
                       m.link_column
                 LIMIT %(trends)s) AS c USING (schema_name, table_name, link_column)
         ORDER BY k.schema_name, k.table_name, k.link_column, t.is_latest, t.tile, k.coverage, t.taken_at DESC) AS p
 ORDER BY p.relation, p.link_column, p.taken_at
"""

_EARLIER = """
SELECT s.snapshot_id, s.taken_at, s.score
  FROM flowguard.health_snapshot s
 CROSS JOIN LATERAL (SELECT s.taken_at > now() - interval '23 hours') AS t (is_new)
 WHERE s.exact = %(exact)s
 ORDER BY t.is_new, CASE WHEN t.is_new THEN s.taken_at END, s.taken_at DESC
 LIMIT 1
"""

_EARLIER_LINKS = """
SELECT coalesce(to_regclass(format('%%I.%%I', k.schema_name, k.table_name))::text,
                format('%%I.%%I', k.schema_name, k.table_name)) AS relation,
       k.link_column, k.unlinked + k.dangling + k.mismatched + k.tenantless AS wrong
  FROM flowguard.health_snapshot_link k
 WHERE k.snapshot_id = %(snapshot_id)s
"""

_RUNS = """
SELECT r.run_id, r.started_at, r.finished_at, r.status, r.relation, r.link_column, r.note, r.started_by, r.linked,
       r.translated, r.quarantined, r.unlinked, r.followed, r.remaining, r.restored, r.skipped,
       r.status NOT IN ('running', 'undone')
         AND r.linked + r.translated + r.quarantined + r.unlinked + r.followed > 0 AS undoable
  FROM flowguard.run r
 ORDER BY r.run_id DESC
 LIMIT %(runs)s
"""

_COUNT_RUNS = "SELECT count(*) FROM flowguard.run"

_HELD = """
SELECT q.run_id, format('%I.%I', q.schema_name, q.table_name) AS relation, count(*) AS rows,
       min(q.quarantined_at) AS since
  FROM flowguard.quarantine q
 WHERE q.action = 'deleted'
 GROUP BY q.run_id, q.schema_name, q.table_name
 ORDER BY q.run_id DESC, relation
"""

# What is ours is told by its name. A partitioned table and its index are as large as their partitions.
_TABLE_COSTS = """
WITH ours AS (
  SELECT i.indrelid AS relation, 1 AS indexes,
         coalesce((SELECT sum(pg_relation_size(p.relid)) FROM pg_partition_tree(i.indexrelid) p),
                  pg_relation_size(i.indexrelid)) AS index_bytes, 0 AS triggers, 0 AS keys
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
   WHERE starts_with(c.relname::text, 'flowguard_') AND NOT c.relispartition
     AND c.relnamespace <> 'flowguard'::regnamespace
  UNION ALL
  SELECT t.tgrelid, 0, 0, 1, 0 FROM pg_trigger t
   WHERE starts_with(t.tgname::text, '~flowguard') AND NOT t.tgisinternal AND t.tgparentid = 0
  UNION ALL
  SELECT k.conrelid, 0, 0, 0, 1 FROM pg_constraint k
   WHERE starts_with(k.conname::text, 'flowguard_') AND k.contype = 'f' AND k.conparentid = 0
)
SELECT o.relation::regclass::text AS relation,
       coalesce((SELECT sum(pg_total_relation_size(p.relid)) FROM pg_partition_tree(o.relation) p),
                pg_total_relation_size(o.relation))::bigint AS bytes,
       sum(o.indexes)::bigint AS indexes, sum(o.index_bytes)::bigint AS index_bytes,
       sum(o.triggers)::bigint AS triggers, sum(o.keys)::bigint AS keys
  FROM ours o
 GROUP BY o.relation
 ORDER BY sum(o.index_bytes) DESC, relation
"""

_FUNCTION_COSTS = """
SELECT p.proname::text AS name, array_agg(DISTINCT t.tgrelid::regclass::text) AS relations, s.calls,
       s.total_time AS milliseconds
  FROM pg_trigger t
  JOIN pg_proc p ON p.oid = t.tgfoid
  LEFT JOIN pg_stat_user_functions s ON s.funcid = p.oid
 WHERE starts_with(t.tgname::text, '~flowguard') AND NOT t.tgisinternal AND t.tgparentid = 0
 GROUP BY p.oid, p.proname, s.calls, s.total_time
 ORDER BY s.total_time DESC NULLS LAST, p.proname
"""

_COUNTING = """
SELECT current_setting('track_functions'),
       (SELECT d.stats_reset FROM pg_stat_database d WHERE d.datname = current_database())
"""

_STORAGE = """
SELECT s.what, sum(pg_total_relation_size(c.oid))::bigint AS bytes
  FROM pg_class c
 CROSS JOIN LATERAL (SELECT CASE WHEN c.relname LIKE 'repair\\_%' THEN 'ledger of repairs'
                                 WHEN c.relname = 'quarantined_row' THEN 'rows in quarantine'
                                 WHEN c.relname LIKE 'health\\_snapshot%' THEN 'history of health'
                                 ELSE 'links, rules and the rest' END) AS s (what)
 WHERE c.relnamespace = 'flowguard'::regnamespace AND c.relkind = 'r'
 GROUP BY s.what
 ORDER BY bytes DESC, s.what
"""

_T = TypeVar("_T")


def read_report(dsn: str = "", *, violations: int = VIOLATIONS, on_notice: NoticeHandler | None = None) -> Report:
    """Read all that is known of the links, of one moment, with about so many `violations`; nothing is written.

    With `violations` 0 none is looked for: to say why costs time for each of them. Raises what read_health() raises.
    """
    with (
        engine(dsn, action="reading what to report", role=VIEWER, on_notice=on_notice) as connection,
        one_moment(connection),
    ):
        notice_no_link(connection, on_notice)
        database, server_version, engine_version, made_at = _one(connection, _ABOUT)
        return Report(
            database=database,
            server_version=server_version,
            engine_version=engine_version,
            made_at=made_at,
            health=health_in(connection),
            findings=findings_in(connection),
            trend=_read_trend(connection),
            wrong=_read_wrong(connection, violations) if violations else (),
            runs=_all(connection, PastRun, _RUNS, {"runs": RUNS}),
            more_runs=max(0, _one(connection, _COUNT_RUNS)[0] - RUNS),
            held=_all(connection, Held, _HELD),
            drift=diagnoses_in(connection),
            costs=_read_costs(connection),
        )


def _read_wrong(connection: Connection, limit: int) -> tuple[Wrong, ...]:
    rows = connection.execute(_WRONG, [limit]).fetchall()
    return tuple(
        Wrong(relation, link_column, kind, amount, tuple(Violation(*row[:-1]) for row in same))
        for (relation, link_column, kind, amount), same in groupby(rows, key=lambda row: (*row[:2], row[3], row[-1]))
    )


def _read_trend(connection: Connection) -> Trend | None:
    found = connection.execute(_SNAPSHOTS).fetchone()
    if found is None:
        return None
    exact, snapshots, first_at, latest_at, others = found
    given = {"exact": exact, "points": POINTS, "trends": TRENDS}
    points: dict[tuple[str, str], list[Point]] = {}
    for relation, link_column, taken_at, coverage in connection.execute(_LINK_POINTS, given):
        points.setdefault((relation, link_column), []).append(Point(taken_at, coverage))
    links = tuple(
        replace(link, points=tuple(points.get((link.relation, link.link_column), ())))
        for link in _all(connection, LinkTrend, _LINK_TRENDS, given)
    )
    snapshot_id, taken_at, score = _one(connection, _EARLIER, given)
    earlier = Earlier(taken_at, score, _all(connection, EarlierLink, _EARLIER_LINKS, {"snapshot_id": snapshot_id}))
    scores = _all(connection, Point, _SCORES, given)
    return Trend(exact, snapshots, others, first_at, latest_at, scores, links, earlier)


def _read_costs(connection: Connection) -> Costs:
    track_functions, counted_since = _one(connection, _COUNTING)
    return Costs(
        _all(connection, TableCost, _TABLE_COSTS),
        _all(connection, FunctionCost, _FUNCTION_COSTS),
        _all(connection, Storage, _STORAGE),
        track_functions,
        counted_since,
    )


def _one(connection: Connection, query: LiteralString, given: Mapping[str, object] | None = None) -> tuple[Any, ...]:
    row = connection.execute(query, given).fetchone()
    assert row is not None  # noqa: S101 - each query that is read so has one row
    return row


def _all(
    connection: Connection, kind: type[_T], query: LiteralString, given: Mapping[str, object] | None = None
) -> tuple[_T, ...]:
    with connection.cursor(row_factory=class_row(kind)) as cursor:
        return tuple(cursor.execute(query, given).fetchall())
