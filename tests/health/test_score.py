"""The health score against the same computed in Python from plain rows and from what the test knows of the catalog."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any

import pytest
from engine.postgres import Connection, one, rows, run
from engine.tables import LINKS, guard

CATEGORIES = ("tenant isolation", "foreign-key integrity", "master-flow linkage", "data quality", "readiness")


def scores(connection: Connection) -> dict[str, Decimal]:
    """Give the categories."""
    return dict(rows(connection, "SELECT category, score FROM flowguard.health_category"))


def score(connection: Connection) -> Decimal:
    """Give the score."""
    value: Decimal = one(connection, "SELECT flowguard.health_score()")
    return value


def rounded(value: Fraction) -> Decimal:
    """One decimal; 100.0 is kept for what is whole."""
    exact = Decimal(value.numerator) / Decimal(value.denominator)
    return min(exact.quantize(Decimal("0.1"), ROUND_HALF_UP), Decimal("99.9")) if value < 100 else Decimal("100.0")


def share(part: int, whole: int) -> Fraction:
    """A part of a whole in percent; 100 of nothing."""
    return Fraction(100 * part, whole) if whole else Fraction(100)


class Table:
    """The rows of one table of the small application, judged without SQL."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.name = name
        self.rows = self.read(connection, name)
        self.flows = {row["id"]: row for row in self.read(connection, "flow")}
        self.sources = {row["id"]: row for row in self.read(connection, {"child": "parent"}.get(name, "child"))}

    @staticmethod
    def read(connection: Connection, name: str) -> list[dict[str, Any]]:
        return [row for (row,) in rows(connection, f"SELECT to_jsonb(t) FROM {name} t")]  # noqa: S608  ours

    def via(self, row: dict[str, Any]) -> dict[str, Any] | None:
        column = {"child": "parent", "grandchild": "child"}.get(self.name)
        return None if column is None or row[column] is None else self.sources[row[column]]

    def is_linked(self, row: dict[str, Any]) -> bool:
        master, reference = self.flows.get(row["flow"]), self.via(row)
        return (
            master is not None
            and row["tenant"] == master["tenant"]
            and (reference is None or reference["flow"] == row["flow"])
        )

    def is_tenant_true(self, row: dict[str, Any]) -> bool:
        master = self.flows.get(row["flow"])
        return row["tenant"] is not None and (master is None or master["tenant"] == row["tenant"])

    def is_complete(self, row: dict[str, Any]) -> bool:
        times = [row["at"]] if self.name == "probe" else []
        if "created_at" in row:
            times += [row["created_at"], row["updated_at"]]
            if None not in times and row["created_at"] > row["updated_at"]:
                return False
        return row["tenant"] is not None and None not in times

    def count(self, judge: Any) -> int:  # noqa: ANN401  a method of this class
        return sum(map(judge, self.rows))

    def categories(self) -> dict[str, Fraction]:
        """The four categories that rows make."""
        total, linked = len(self.rows), self.count(self.is_linked)
        with_link = sum(row["flow"] is not None for row in self.rows)
        return {
            "tenant isolation": share(self.count(self.is_tenant_true), total),
            "foreign-key integrity": share(linked, with_link),
            "master-flow linkage": share(linked, total),
            "data quality": share(self.count(self.is_complete), total),
        }


def expected(connection: Connection) -> dict[str, Fraction]:
    """Give the four categories that rows make, each the mean over the five links."""
    tables = [Table(connection, name).categories() for name in LINKS]
    return {name: sum((table[name] for table in tables), Fraction()) / len(tables) for name in CATEGORIES[:4]}


def test_the_categories_are_what_the_rows_say(dirty: Connection) -> None:
    run(dirty, "ALTER TABLE parent ADD created_at timestamptz DEFAULT '2025-01-02', ADD updated_at timestamptz")
    run(dirty, "UPDATE parent SET updated_at = '2025-01-01' WHERE id = 10")
    run(dirty, "UPDATE parent SET updated_at = '2025-01-02' WHERE id = 11")
    run(dirty, "UPDATE parent SET updated_at = '2025-01-03' WHERE id = 12")
    found, wanted = scores(dirty), expected(dirty)
    assert list(found) == list(CATEGORIES)
    assert {name: found[name] for name in wanted} == {name: rounded(value) for name, value in wanted.items()}
    assert all(value < 100 for value in wanted.values())
    assert found["readiness"] < 20  # nothing is guarded

    guard(dirty)
    assert {name: scores(dirty)[name] for name in wanted} == {name: rounded(value) for name, value in wanted.items()}


def test_the_score_is_the_mean_of_the_categories_before_they_are_rounded(dirty: Connection) -> None:
    guard(dirty)
    run(dirty, "CALL flowguard.repair()")
    readiness = one(dirty, "SELECT avg(score) FROM flowguard._health() WHERE category = 'readiness'")
    wanted = (sum(expected(dirty).values(), Fraction()) + Fraction(readiness)) / 5
    assert score(dirty) == rounded(wanted)
    assert rows(dirty, "SELECT DISTINCT weight FROM flowguard.health_category") == [(Decimal("0.2"),)]


def test_an_empty_table_counts_100(app: Connection) -> None:
    found = scores(app)
    assert {found[name] for name in CATEGORIES[:4]} == {Decimal("100.0")}
    guard(app)
    assert scores(app)["readiness"] == 100
    assert score(app) == Decimal("100.0")


def test_without_a_link_there_is_nothing_to_fix(db: Connection) -> None:
    assert score(db) == Decimal("100.0")
    assert set(scores(db).values()) == {Decimal("100.0")}


@pytest.mark.parametrize("total", [2, 500, 5000])
def test_one_bad_row_in_many_is_never_100(app: Connection, total: int) -> None:
    run(app, "SELECT flowguard.drop_link(t, 'flow') FROM unnest('{grandchild,child,probe,event}'::regclass[]) t")
    run(app, "INSERT INTO parent SELECT n, 1, CASE WHEN n > 1 THEN 1 END FROM generate_series(1, %s) n", total)
    guard(app, "parent")
    assert scores(app)["master-flow linkage"] == rounded(share(total - 1, total))
    assert score(app) == rounded((400 + share(total - 1, total)) / 5)
    assert score(app) < 100
    run(app, "UPDATE parent SET flow = 1")
    assert score(app) == Decimal("100.0")


DEFECTS = {
    "a disabled trigger": (
        'ALTER TABLE parent DISABLE TRIGGER "~flowguard_parent_flow_insert"',
        'ALTER TABLE parent ENABLE TRIGGER "~flowguard_parent_flow_insert"',
    ),
    "a changed function": (
        "CREATE OR REPLACE FUNCTION flowguard.parent_flow_fill() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "SELECT flowguard.guard('parent', 'flow')",
    ),
    "a missing index": (
        "DROP INDEX flowguard_parent_flow_idx",
        "SELECT flowguard.guard('parent', 'flow')",
    ),
    "a paused link": ("SELECT flowguard.pause('parent', 'flow')", "SELECT flowguard.resume('parent', 'flow')"),
    "a dropped key": (
        "ALTER TABLE parent DROP CONSTRAINT flowguard_parent_flow_tenant_fkey",
        "SELECT flowguard.guard('parent', 'flow')",
    ),
    "no guard": ("SELECT flowguard.unguard('parent', 'flow')", "SELECT flowguard.guard('parent', 'flow')"),
    "a dangling row": (
        "ALTER TABLE parent DROP CONSTRAINT flowguard_parent_flow_tenant_fkey; INSERT INTO parent VALUES (99, 1, 77)",
        "DELETE FROM parent WHERE id = 99; SELECT flowguard.guard('parent', 'flow')",
    ),
    "a row without a tenant": ("INSERT INTO probe VALUES (99, NULL, 1, now())", "DELETE FROM probe WHERE id = 99"),
    "a row without a time": ("INSERT INTO probe VALUES (99, 1, 1, NULL)", "DELETE FROM probe WHERE id = 99"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_costs_and_its_remedy_pays(app: Connection, defect: str) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, 1); INSERT INTO probe VALUES (60, 1, 1, now())")
    guard(app)
    assert score(app) == Decimal("100.0")
    break_it, mend_it = DEFECTS[defect]
    run(app, break_it)
    assert score(app) < 100
    details = dict(rows(app, "SELECT category, detail FROM flowguard.health_category WHERE score < 100"))
    assert details
    assert all("parent" in detail or "probe" in detail for detail in details.values())
    run(app, mend_it)
    assert score(app) == Decimal("100.0")
    assert {detail for (detail,) in rows(app, "SELECT detail FROM flowguard.health_category")} == {"nothing to fix"}
