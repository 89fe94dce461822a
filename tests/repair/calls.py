"""Short ways to call repair and undo, and to see what a database holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from engine.postgres import Connection, one, rows
from psycopg import sql
from psycopg.rows import class_row

PINNED = (
    b"SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'postgres'; SET LOCAL timezone = 'UTC'; "
    b"SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex'"
)


@dataclass(frozen=True)
class Run:
    """What repair() returns."""

    run_id: int | None
    linked: int
    translated: int
    quarantined: int
    unlinked: int
    remaining: int

    @property
    def total(self) -> int:
        """Rows that it changed."""
        return self.linked + self.translated + self.quarantined + self.unlinked

    @property
    def id(self) -> int:
        """Number of the run, which is there unless it was dry."""
        assert self.run_id is not None
        return self.run_id


def repair(connection: Connection, relation: str | None = None, **options: Any) -> Run:  # noqa: ANN401  see repair()
    """Run a repair with these arguments."""
    names = sql.SQL("").join(sql.SQL(", {} => {}").format(sql.Identifier(n), sql.Placeholder(n)) for n in options)
    query = sql.SQL("CALL flowguard.repair(%(table)s::regclass") + names + sql.SQL(")")
    with connection.cursor(row_factory=class_row(Run)) as cursor:
        cursor.execute(query, {"table": relation, **options})
        found = cursor.fetchone()
    assert found is not None
    return found


def undo(connection: Connection, run: int, max_rows: int | None = None) -> tuple[int, int, int]:
    """Take a run back; gives rows restored, skipped and remaining."""
    restored, skipped, remaining = rows(connection, "SELECT * FROM flowguard.undo(%s, %s)", run, max_rows)[0]
    return restored, skipped, remaining


def dump(connection: Connection, *tables: str) -> dict[str, Counter[bytes]]:
    """Give the tables as COPY writes them, lines as a multiset, whatever the session's settings are."""
    found = {}
    with connection.transaction():
        connection.execute(PINNED)
        for table in tables:
            with (
                connection.cursor() as cursor,
                cursor.copy(f"COPY (SELECT * FROM {table}) TO STDOUT".encode()) as copy,  # noqa: S608  ours
            ):
                found[table] = Counter(b"".join(bytes(part) for part in copy).splitlines())
    return found


def run_row(connection: Connection, run: int) -> dict[str, Any]:
    """Give the row of flowguard.run."""
    row: dict[str, Any] = one(connection, "SELECT to_jsonb(r) FROM flowguard.run r WHERE run_id = %s", run)
    return row


def changes(connection: Connection, run: int) -> list[tuple[Any, ...]]:
    """Give what the run wrote: table, row, kind, old link, new link."""
    return rows(
        connection,
        "SELECT table_name, row_key, kind, old_link, new_link FROM flowguard.run_change WHERE run_id = %s "
        "ORDER BY change_id",
        run,
    )
