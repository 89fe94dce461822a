"""What the engine says of the links: counts, score, violations and findings. All of it is computed in the database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, TypeAlias, TypeVar

from psycopg.rows import class_row

from pyflowguard.database import Connection, NoticeHandler, one_moment
from pyflowguard.engine import VIEWER, engine, notice_no_link

_T = TypeVar("_T")

Level: TypeAlias = Literal["ERROR", "WARN", "INFO"]

LEVELS: tuple[Level, ...] = ("ERROR", "WARN", "INFO")
"""The levels of a finding, the worst first."""

SCORE_TOO_LOW = "score_too_low"
"""The name of the one finding that is not the database's: its health score is below what was asked for."""

KINDS: Mapping[str, str] = {
    "unlinked_rows": "Rows without a link",
    "dangling_links": "Links that point to no master",
    "mismatched_links": "Links to a master of another tenant, or to another than the referenced row's",
    "tenantless_links": "Rows with a link but without their whole tenant",
    "not_guarded": "A link that is registered but not guarded",
    "paused": "A guard that is paused",
    "key_not_validated": "Foreign keys that are not validated",
    "guard_incomplete": "Objects of a guard that are missing, disabled or out of date",
    "registered_twice": "A partition whose link is registered beside that of the whole table",
    "table_gone": "A table of a link, or a master, that is gone",
    "column_gone": "A column of a link or a rule that is gone",
    "leftover": "What is left of a guard without its link",
    "run_stopped": "A repair that ended before it was done",
    "rows_in_quarantine": "Rows that are held in quarantine",
    "bypassed": "Transactions that were let past the guard",
    SCORE_TOO_LOW: "A health score below what was asked for",
}
"""What can be found, in words, by name; a cache_key is the name alone, or begins with it and a colon."""


@dataclass(frozen=True)
class LinkStatus:
    """A row of flowguard.link_status: how many rows of a link are what, and whether keys and indexes are there."""

    relation: str
    link_column: str
    mode: str
    total: int
    linked: int
    unlinked: int
    dangling: int
    mismatched: int
    tenantless: int
    coverage: Decimal
    validated: bool
    indexed: bool
    guarded: bool


@dataclass(frozen=True)
class LinkEstimate:
    """A row of flowguard.link_estimate: what is neither proved nor counted is None, and `unproved` says why.

    Of a table that was counted (not `estimated`) it is what flowguard.link_status would say.
    """

    relation: str
    link_column: str
    mode: str
    total: int | None
    linked: int | None
    unlinked: int | None
    dangling: int | None
    mismatched: int | None
    tenantless: int | None
    coverage: Decimal | None
    validated: bool
    indexed: bool
    guarded: bool
    estimated: bool
    unproved: list[str]


@dataclass(frozen=True)
class Category:
    """A row of flowguard.health_category: its score from 0 to 100, its weight, and what keeps it below 100."""

    category: str
    score: Decimal
    weight: Decimal
    detail: str


@dataclass(frozen=True)
class Violation:
    """A row of flowguard.violation: a row that is not validly linked, why, and when that was first seen."""

    relation: str
    link_column: str
    row_key: dict[str, Any]
    kind: str
    reason: str
    seen_at: datetime | None


@dataclass(frozen=True)
class Health:
    """The health of all links at one moment; `violations` is empty unless they were asked for."""

    score: Decimal
    categories: tuple[Category, ...]
    links: tuple[LinkStatus, ...]
    violations: tuple[Violation, ...]


@dataclass(frozen=True)
class Estimate:
    """The health of all links as the catalog proves it: what flowguard.link_estimate and its like tell, in no time."""

    score: Decimal
    categories: tuple[Category, ...]
    links: tuple[LinkEstimate, ...]
    violations: tuple[Violation, ...]


@dataclass(frozen=True)
class Finding:
    """A row of flowguard.check_all(): something that is not as it should be, and what to do about it.

    `amount` is how many rows, keys, objects or transactions it is about; None where it is about one thing.
    """

    name: str
    level: Level
    relation: str | None
    description: str
    detail: str | None
    remedy: str
    cache_key: str
    amount: int | None = None


_SCORE = "SELECT flowguard.health_score()"

_CATEGORIES = "SELECT category, score, weight, detail FROM flowguard.health_category"

_LINKS = """
SELECT relation::text, link_column, mode, total, linked, unlinked, dangling, mismatched, tenantless, coverage,
       validated, indexed, guarded
  FROM flowguard.link_status
 ORDER BY relation::text, link_column
"""

_DECIMALS = frozenset({"score", "weight", "coverage"})

_ESTIMATE = "SELECT score, categories, links FROM flowguard.health_estimate"

_VIOLATIONS = """
SELECT relation::text, link_column, row_key, kind, reason, seen_at
  FROM flowguard.violation
 ORDER BY relation::text, link_column, kind, row_key
 LIMIT %s
"""

_FINDINGS = """
SELECT name, level, relation, description, detail, remedy, cache_key, amount
  FROM flowguard.check_all()
 ORDER BY array_position('{ERROR,WARN,INFO}', level), relation, name, cache_key
"""


def read_health(dsn: str = "", *, violations: int = 0, on_notice: NoticeHandler | None = None) -> Health:
    """Count score, categories and figures, all of one moment, and read up to so many `violations`.

    Raises EngineMissing, StatementFailed (row security would hide rows, say), and what connecting raises.
    """
    with _reading(dsn, on_notice) as connection:
        return health_in(connection, violations=violations)


def read_estimate(dsn: str = "", *, violations: int = 0, on_notice: NoticeHandler | None = None) -> Estimate:
    """Read what the catalog proves of score, categories and figures, and up to so many `violations`, which are counted.

    Raises what read_health() raises.
    """
    with _reading(dsn, on_notice) as connection:
        row = connection.execute(_ESTIMATE).fetchone()
        assert row is not None  # noqa: S101 - the view has one row
        listed = _read_violations(connection, violations)
    score, categories, links = row
    return Estimate(
        score,
        tuple(_from_json(Category, category) for category in categories),
        tuple(_from_json(LinkEstimate, link) for link in links),
        listed,
    )


def _from_json(kind: type[_T], row: dict[str, Any]) -> _T:
    """Make one of the database's rows that came as JSON; a number with decimals is read as what it was written as."""
    return kind(**{name: Decimal(str(row[name])) if name in _DECIMALS and row[name] is not None else row[name]
                   for name in row})  # fmt: skip


@contextmanager
def _reading(dsn: str, on_notice: NoticeHandler | None) -> Iterator[Connection]:
    """Open the engine for a transaction in which all is of one moment."""
    with (
        engine(dsn, action="reading the health of links", role=VIEWER, on_notice=on_notice) as connection,
        one_moment(connection),
    ):
        notice_no_link(connection, on_notice)
        yield connection


def health_in(connection: Connection, *, violations: int = 0) -> Health:
    """Count what read_health() reads, in a transaction that the caller has begun."""
    score = _read_score(connection)
    with connection.cursor(row_factory=class_row(Category)) as cursor:
        categories = cursor.execute(_CATEGORIES).fetchall()
    with connection.cursor(row_factory=class_row(LinkStatus)) as links_cursor:
        links = links_cursor.execute(_LINKS).fetchall()
    return Health(score, tuple(categories), tuple(links), _read_violations(connection, violations))


def _read_violations(connection: Connection, limit: int) -> tuple[Violation, ...]:
    if not limit:
        return ()
    with connection.cursor(row_factory=class_row(Violation)) as cursor:
        return tuple(cursor.execute(_VIOLATIONS, [limit]).fetchall())


def check(
    dsn: str = "", *, min_score: float | None = None, on_notice: NoticeHandler | None = None
) -> tuple[Finding, ...]:
    """List what is not as it should be, the worst first; a health score below `min_score` is a finding as well.

    Lets the database note when each violation was first seen. Raises what read_health() raises.
    """
    with engine(dsn, action="checking the links", role=VIEWER, on_notice=on_notice) as connection:
        notice_no_link(connection, on_notice)
        findings = list(findings_in(connection))
        if min_score is not None:
            score = _read_score(connection)
            if is_too_low(score, min_score):
                findings.insert(0, _score_finding(score, min_score))
    return tuple(findings)


def findings_in(connection: Connection) -> tuple[Finding, ...]:
    """List what is not as it should be, the worst first; in a transaction that is read only nothing is noted."""
    with connection.cursor(row_factory=class_row(Finding)) as cursor:
        return tuple(cursor.execute(_FINDINGS).fetchall())


def _read_score(connection: Connection) -> Decimal:
    row = connection.execute(_SCORE).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    score: Decimal = row[0]
    return score


def is_too_low(score: Decimal, min_score: float) -> bool:
    """Say whether a score is below one that was given as a decimal fraction."""
    return score < Decimal(str(min_score))


def _score_finding(score: Decimal, min_score: float) -> Finding:
    return Finding(
        SCORE_TOO_LOW,
        "ERROR",
        None,
        f"the health score is {score}, below {min_score:g}",
        None,
        "SELECT * FROM flowguard.health_category",
        SCORE_TOO_LOW,
    )
