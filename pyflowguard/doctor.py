"""What has drifted since links were guarded, an object a finding, and how to run the remedies that are safe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from psycopg.rows import class_row

from pyflowguard import __version__, online
from pyflowguard.database import Connection, NoticeHandler
from pyflowguard.engine import VIEWER, engine, notice_no_link
from pyflowguard.errors import FlowguardError
from pyflowguard.health import KINDS as CHECKED
from pyflowguard.health import LEVELS, Finding

OTHER_VERSION = "other_version"
"""The name of the one finding that is not the database's: its engine is of another version than this command."""

KINDS: Mapping[str, str] = {
    "trigger_missing": "A trigger of a guard that is not there",
    "trigger_disabled": "A trigger of a guard that is disabled",
    "trigger_firing": "A trigger of a guard that fires for what replication writes",
    "trigger_replaced": "A trigger of a guard that somebody else made or changed",
    "trigger_outdated": "A trigger of a guard that was made for other rules or names, or by another engine",
    "trigger_after_ours": "A trigger of the application that may change what the guard has set",
    "function_missing": "A function of a guard that is not there",
    "function_changed": "A function of a guard that is not what its rules make",
    "key_missing": "A foreign key of a guard that is not there",
    "key_changed": "A foreign key of a guard that is not as it was made",
    "key_not_validated": CHECKED["key_not_validated"],
    "key_disabled": "A foreign key that PostgreSQL does not check, for its triggers are disabled",
    "key_beside_ours": "A foreign key of the application that does another thing when a master is deleted",
    "index_missing": "An index of a guard that is not there",
    "index_invalid": "An index of a guard that is not valid",
    "statistics_missing": "Statistics of a guard that are not there",
    "view_changed": "A view that a rule reads, not there or changed",
    "leftover": CHECKED["leftover"],
    "guard_refused": "A table that guard() would refuse as it is now",
    "table_gone": CHECKED["table_gone"],
    "column_gone": CHECKED["column_gone"],
    "unguarded_column": "A column that looks like a registered link and is none",
    "rights_missing": "A right that the functions of a guard need and have not",
    "rows_hidden": "Row security that hides rows from the functions of a guard",
    "owner_changed": "A table or a function that does not belong to the owner of its guard's functions",
    "open_to_public": "A right of everybody in schema flowguard",
    "viewer_may_write": "A right of flowguard_viewer to write",
    "schema_open": "A right to create in schema flowguard that no guard needs",
    "role_without_rights": "A role of the engine that lacks its rights",
    "rows_past_guard": "Rows that a subscription wrote and the guard would have refused, counted",
    "setting_bypasses": "A setting that lets sessions write past the guard",
    "server_unsupported": "A version of PostgreSQL that is not supported",
    "server_loses_actions": "A release of PostgreSQL with a fault that matters here",
    OTHER_VERSION: "An engine of another version than the command",
}
"""What can be found, in words, by name; a cache_key begins with it and a colon, but for that of the version."""

COUNTED_BY_CHECK = frozenset({"guard_incomplete", *KINDS})
"""Names of findings of check() that doctor() tells object by object, or the same."""


@dataclass(frozen=True)
class Diagnosis(Finding):
    """A row of flowguard.doctor(); `safe`: its remedy only puts back what guarding and deploying had made."""

    safe: bool = False


@dataclass(frozen=True)
class Unmended:
    """A remedy that was run and did not do, and why."""

    remedy: str
    reason: str


_DIAGNOSES = """
SELECT name, level, relation, description, detail, remedy, cache_key, amount, safe
  FROM flowguard.doctor()
 ORDER BY pg_catalog.array_position('{ERROR,WARN,INFO}', level), relation, name, cache_key
"""

_VERSION = "SELECT flowguard.version()"

# The links that guard() mends, told by the very text of the remedy.
_GUARDED_BY = """
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS relation, l.link_column::pg_catalog.text AS link_column
  FROM flowguard.link AS l
  JOIN pg_catalog.pg_class c ON c.oid = l.relation
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE pg_catalog.format('SELECT flowguard.guard(%%L, %%L)', pg_catalog.format('%%I.%%I', n.nspname, c.relname),
                         l.link_column) = ANY (%s)
"""

_IS_GUARD = "SELECT flowguard.guard("


def doctor(dsn: str = "", *, on_notice: NoticeHandler | None = None) -> tuple[Diagnosis, ...]:
    """List what has drifted, the worst first; an engine of another version than this command is a finding as well.

    No row of a guarded table is read. Raises EngineMissing, StatementFailed, and what connecting raises.
    """
    with engine(dsn, action="looking for drift", role=VIEWER, on_notice=on_notice) as connection:
        notice_no_link(connection, on_notice)
        return (*diagnoses_in(connection), *_other_version(connection))


def diagnoses_in(connection: Connection) -> tuple[Diagnosis, ...]:
    """Read what has drifted, the worst first."""
    with connection.cursor(row_factory=class_row(Diagnosis)) as cursor:
        return tuple(cursor.execute(_DIAGNOSES).fetchall())


def joined(checked: Iterable[Finding], diagnoses: Iterable[Diagnosis]) -> tuple[Finding, ...]:
    """Give what check() and doctor() found as one list, the worst first; what both tell, as doctor() tells it."""
    findings = [*(finding for finding in checked if finding.name not in COUNTED_BY_CHECK), *diagnoses]
    return tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level)))


def mend(
    dsn: str,
    findings: Iterable[Diagnosis],
    *,
    lock_timeout: timedelta = online.LOCK_TIMEOUT,
    deadline: timedelta = online.DEADLINE,
    on_progress: online.ProgressHandler | None = None,
    on_notice: NoticeHandler | None = None,
) -> tuple[Unmended, ...]:
    """Run the remedies that are safe, and give those that did not do; what else is found stays as it is.

    A link whose remedy is guard() is guarded online, as online.guard() does it. Any other remedy is sent as it is, and
    waits `lock_timeout` for its locks. Raises what connecting raises.
    """
    remedies = list(dict.fromkeys(finding.remedy for finding in findings if finding.safe))
    unmended: list[Unmended] = []
    with (
        engine(dsn, action="mending what has drifted", on_notice=on_notice) as connection,
        connection.cursor(row_factory=class_row(online.Link)) as cursor,
    ):
        links = cursor.execute(_GUARDED_BY, [remedies]).fetchall()
    for remedy in remedies:
        if not remedy.startswith(_IS_GUARD):
            with _noting_failure(remedy, unmended):
                _send(dsn, remedy, lock_timeout, on_notice)
    for link in links:
        with _noting_failure(f"pyflowguard guard {link.relation} --link-column {link.link_column}", unmended):
            guarded = online.guard(
                dsn,
                [link.relation],
                link_column=link.link_column,
                lock_timeout=lock_timeout,
                deadline=deadline,
                on_progress=on_progress,
                on_notice=on_notice,
            )
            unmended += [Unmended(step.planned.statement, reason) for step, reason in guarded.not_valid]
    return tuple(unmended)


@contextmanager
def _noting_failure(remedy: str, unmended: list[Unmended]) -> Iterator[None]:
    """Go on with the next remedy where one fails."""
    try:
        yield
    except FlowguardError as error:
        unmended.append(Unmended(remedy, str(error)))


def _send(dsn: str, remedy: str, lock_timeout: timedelta, on_notice: NoticeHandler | None) -> None:
    with engine(dsn, action=f"running {remedy}", on_notice=on_notice) as connection:
        connection.execute(
            "SELECT pg_catalog.set_config('lock_timeout', %s, false)", [f"{lock_timeout.total_seconds() * 1000:.0f}ms"]
        )
        connection.execute(remedy.encode())


def _other_version(connection: Connection) -> tuple[Diagnosis, ...]:
    row = connection.execute(_VERSION).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    (version,) = row
    if version == __version__:
        return ()
    return (
        Diagnosis(
            OTHER_VERSION,
            "WARN",
            None,
            f"the engine is of version {version}, this command of {__version__}",
            "The older of the two should be upgraded.",
            "pyflowguard status",
            OTHER_VERSION,
        ),
    )
