"""Writes down how health is, and reads how it was before. The database does both; here it is called."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from psycopg.rows import class_row

from pyflowguard.database import NoticeHandler
from pyflowguard.engine import ADMIN, engine, notice_no_link

RETENTION = timedelta(days=400)
"""How long snapshots are kept by default: a year can be compared with the one before."""


@dataclass(frozen=True)
class LinkThen:
    """A row of flowguard.link_history: a link in a snapshot, and what changed since the one before.

    A figure is None where it was neither proved nor counted, a change where there is no snapshot before.
    """

    schema_name: str
    table_name: str
    link_column: str
    mode: str
    total: int | None
    estimated: bool
    linked: int | None
    unlinked: int | None
    coverage: Decimal | None
    linked_change: int | None
    unlinked_change: int | None
    coverage_change: Decimal | None


@dataclass(frozen=True)
class Snapshot:
    """A row of flowguard.health_history, with the links; `score_trend` is what the score rises in a day."""

    snapshot_id: int
    taken_at: datetime
    exact: bool
    score: Decimal
    score_change: Decimal | None
    score_trend: Decimal | None
    links: tuple[LinkThen, ...]


_SNAPSHOT = "SELECT flowguard.snapshot(exact => %s, retention => %s)"

_THEN = """
SELECT taken_at, exact, score, score_change, score_trend FROM flowguard.health_history WHERE snapshot_id = %s
"""

_LINKS = """
SELECT schema_name, table_name, link_column, mode, total, estimated, linked, unlinked, coverage, linked_change,
       unlinked_change, coverage_change
  FROM flowguard.link_history
 WHERE snapshot_id = %s
 ORDER BY schema_name, table_name, link_column
"""


def take_snapshot(
    dsn: str = "",
    *,
    exact: bool = False,
    retention: timedelta | None = RETENTION,
    on_notice: NoticeHandler | None = None,
) -> Snapshot:
    """Take a snapshot of health, and remove those older than `retention`; `exact` counts every row.

    Raises EngineMissing, UsageError (a retention that is not positive), StatementFailed, and what connecting raises.
    """
    with engine(dsn, action="taking a snapshot of health", role=ADMIN, on_notice=on_notice) as connection:
        notice_no_link(connection, on_notice)
        with connection.transaction(), connection.cursor(row_factory=class_row(LinkThen)) as cursor:
            taken = connection.execute(_SNAPSHOT, [exact, retention]).fetchone()
            assert taken is not None  # noqa: S101 - a SELECT without FROM has one row
            then = connection.execute(_THEN, taken).fetchone()
            assert then is not None  # noqa: S101 - of the snapshot just taken
            links = cursor.execute(_LINKS, taken).fetchall()
    taken_at, is_exact, score, score_change, score_trend = then
    return Snapshot(taken[0], taken_at, is_exact, score, score_change, score_trend, tuple(links))
