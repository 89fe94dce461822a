"""What is true of the examples: which links there are, and what of their rows is wrong, computed from the rows.

Nothing here asks discover or the engine; the planted figures are those that the heads of examples/*.sql promise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

EXAMPLES = Path(__file__).parents[2] / "examples"
HOUR = timedelta(hours=1)

Row: TypeAlias = dict[str, Any]
Rows: TypeAlias = Callable[[str], list[Row]]


@dataclass(frozen=True)
class Reference:
    """A column that refers to a row of another table which carries the link."""

    via: str
    source: str
    source_key: str = "id"


@dataclass(frozen=True)
class Master:
    """A master: key, tenant columns, other keys, and the time column."""

    table: str
    key: str
    tenants: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    created_at: str = "created_at"


@dataclass(frozen=True)
class Link:
    """A link, and what was planted: unlinked, dangling, of these with another key, mismatched rows."""

    table: str
    column: str
    master: Master
    planted: tuple[int, int, int, int]
    references: tuple[Reference, ...] = ()
    time: str | None = "created_at"
    nullable: bool = True


ORDERS = Master("public.orders", "id", ("shop_id",), ("number",), "placed_at")
TICKETS = Master("public.tickets", "ticket_key", (), ("short_link",), "created")
PROJECT = Master("works.project", "id", ("organization_id",), ("legacy_id",))
CONTRACT = Master("works.contract", "id", ("organization_id",), (), "signed_at")

TRUTH: dict[str, tuple[Link, ...]] = {
    "shop": (
        Link("public.items", "order_id", ORDERS, (30, 0, 0, 2), (Reference("shipment_id", "public.shipments"),)),
        Link("public.shipments", "order_id", ORDERS, (10, 6, 4, 0)),
        Link("public.payments", "order_id", ORDERS, (25, 5, 3, 0)),
        Link("public.refunds", "order_id", ORDERS, (8, 0, 0, 0), (Reference("payment_id", "public.payments"),), None),
    ),
    "tickets": (
        Link("public.comments", "ticket_key", TICKETS, (12, 9, 7, 0), time="created"),
        Link(
            "public.attachments",
            "ticket_key",
            TICKETS,
            (40, 0, 0, 0),
            (Reference("comment_id", "public.comments"),),
            None,
        ),
        Link("public.worklogs", "ticket_key", TICKETS, (0, 6, 0, 0), time=None, nullable=False),
    ),
    "two_masters": (
        Link("works.timesheets", "project_id", PROJECT, (20, 10, 10, 0)),
        Link("works.timesheets", "contract_id", CONTRACT, (30, 5, 0, 0)),
        Link(
            "works.expenses",
            "project_id",
            PROJECT,
            (40, 0, 0, 0),
            (Reference("timesheet_id", "works.timesheets"),),
            None,
        ),
        Link(
            "works.expenses",
            "contract_id",
            CONTRACT,
            (60, 0, 0, 0),
            (Reference("timesheet_id", "works.timesheets"),),
            None,
        ),
        Link("works.documents", "contract_id", CONTRACT, (9, 0, 0, 3), time=None),
    ),
}


def rows_of(dsn: str) -> Rows:
    """Give the rows of a table by its name, in the order of their keys."""

    def rows(table: str) -> list[Row]:
        with psycopg.connect(dsn) as connection, connection.cursor(row_factory=dict_row) as cursor:
            name = sql.Identifier(*table.split("."))
            return cursor.execute(sql.SQL("SELECT * FROM {} AS t ORDER BY t").format(name)).fetchall()

    return rows


def masters_of(rows: Rows, link: Link) -> dict[Any, Row]:
    return {row[link.master.key]: row for row in rows(link.master.table)}


def same_tenant(link: Link, row: Row, other: Row) -> bool:
    return all(row[tenant] == other[tenant] for tenant in link.master.tenants)


def translations(rows: Rows, link: Link, row: Row) -> list[Any]:
    """Give the keys of masters of the row's tenant of which its link is another key."""
    return [
        key
        for key, master in masters_of(rows, link).items()
        if same_tenant(link, row, master) and row[link.column] in {master[other] for other in link.master.others}
    ]


def counts(rows: Rows, link: Link) -> dict[str, int]:
    """Count rows by what they are, each by the definition in docs/concepts.md."""
    masters = masters_of(rows, link)
    found = dict.fromkeys(
        ("total", "linked", "unlinked", "dangling", "other_key", "ambiguous", "mismatched", "tenantless"), 0
    )
    for row in rows(link.table):
        found["total"] += 1
        value = row[link.column]
        if value is None:
            found["unlinked"] += 1
        elif value not in masters:
            found["dangling"] += 1
            keys = translations(rows, link, row)
            found["other_key"] += len(keys) == 1
            found["ambiguous"] += len(keys) > 1
        elif not same_tenant(link, row, masters[value]) or any(
            referred[link.column] != value for referred in referred_rows(rows, link, row)
        ):
            found["mismatched"] += 1
        else:
            found["linked"] += 1
    return found


def referred_rows(rows: Rows, link: Link, row: Row) -> list[Row]:
    """Give the rows that a row refers to."""
    found = []
    for reference in link.references:
        sources = {source[reference.source_key]: source for source in rows(reference.source)}
        if row[reference.via] is not None:
            found.append(sources[row[reference.via]])
    return found


def linked_by(rows: Rows, link: Link, reference: Reference) -> int:
    """Count unlinked rows that a reference leads to a master of their tenant."""
    masters = masters_of(rows, link)
    sources = {source[reference.source_key]: source for source in rows(reference.source)}
    ways = [(row, sources.get(row[reference.via])) for row in rows(link.table) if row[link.column] is None]
    return sum(
        source is not None
        and source[link.column] in masters
        and same_tenant(link, row, source)
        and same_tenant(link, row, masters[source[link.column]])
        for row, source in ways
    )


def by_time(rows: Rows, link: Link, source: str, source_time: str, source_link: str) -> tuple[int, int, list[float]]:
    """Look for the nearest source row of each unlinked row that refers to nothing: found, ambiguous, seconds away."""
    masters = masters_of(rows, link)
    ambiguous, distances = 0, []
    assert link.time is not None
    for row in rows(link.table):
        if row[link.column] is not None or referred_rows(rows, link, row):
            continue
        near = [
            (abs(other[source_time] - row[link.time]), other[source_link])
            for other in rows(source)
            if other[source_link] in masters
            and same_tenant(link, row, other)
            and same_tenant(link, row, masters[other[source_link]])
            and abs(other[source_time] - row[link.time]) <= HOUR
        ]
        if near:
            distances.append(min(near)[0].total_seconds())
            ambiguous += len({key for _, key in near}) > 1
    return len(distances), ambiguous, sorted(distances)


def repaired(rows: Rows, links: Sequence[Link]) -> dict[tuple[str, str], list[Any]]:
    """Give the values of each link as a repair should leave them, in the order of the rows."""
    state = {link.table: rows(link.table) for link in links}

    def now(table: str) -> list[Row]:
        return state[table] if table in state else rows(table)

    for link in sorted(links, key=lambda link: len(link.references)):  # sources before what refers to them
        masters = masters_of(rows, link)
        for row in state[link.table]:
            if row[link.column] is not None and row[link.column] not in masters:
                keys = translations(rows, link, row)
                row[link.column] = keys[0] if len(keys) == 1 else (None if link.nullable else row[link.column])
            if row[link.column] is None:
                ways = [source[link.column] for source in referred_rows(now, link, row)]
                row[link.column] = next((way for way in ways if way is not None), None)
    return {(link.table, link.column): [row[link.column] for row in state[link.table]] for link in links}
