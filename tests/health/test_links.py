"""flowguard.link_status and flowguard.violation: every row is counted once, and what is wrong with it is said."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import guard
from psycopg.rows import dict_row

COUNTS = ("linked", "unlinked", "dangling", "mismatched", "tenantless")


def status(connection: Connection) -> dict[str, dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute("SELECT * FROM flowguard.link_status")
        return {str(row["relation"]).removeprefix("public."): row for row in cursor}


def violations(connection: Connection, table: str) -> dict[int, tuple[str, str]]:
    """Give kind and reason by id."""
    query = "SELECT (row_key ->> 'id')::int, kind, reason FROM flowguard.violation WHERE relation = %s::regclass"
    return {row: (kind, reason) for row, kind, reason in rows(connection, query, table)}


# --- link_status


def test_every_row_is_counted_once(dirty: Connection) -> None:
    found = status(dirty)
    counts = {table: tuple(row[name] for name in COUNTS) for table, row in found.items()}
    assert counts == {
        "parent": (2, 1, 1, 1, 0),
        "child": (2, 2, 0, 3, 0),
        "grandchild": (0, 0, 0, 0, 0),
        "event": (2, 0, 0, 0, 0),
        "probe": (1, 5, 1, 0, 1),
    }
    for table, row in found.items():
        assert row["total"] == sum(row[name] for name in COUNTS) == one(dirty, f"SELECT count(*) FROM {table}")  # noqa: S608


def test_coverage_is_a_share_and_1_of_nothing(dirty: Connection) -> None:
    found = status(dirty)
    assert {table: float(row["coverage"]) for table, row in found.items()} == {
        "parent": 0.4,
        "child": 0.2857,
        "grandchild": 1,
        "event": 1,
        "probe": 0.125,
    }


def test_coverage_is_1_only_when_all_are_linked(app: Connection) -> None:
    run(app, "INSERT INTO parent SELECT n, 1, CASE WHEN n > 1 THEN 1 END FROM generate_series(1, 30000) n")
    assert status(app)["parent"]["coverage"] < 1


def test_the_violations_are_the_counts(dirty: Connection) -> None:
    listed = rows(dirty, "SELECT relation::text, count(*) FROM flowguard.violation GROUP BY 1 ORDER BY 1")
    assert {str(table).removeprefix("public."): count for table, count in listed} == {
        table: row["total"] - row["linked"] for table, row in status(dirty).items() if row["total"] > row["linked"]
    }


def test_validated_and_indexed_follow_the_guard(dirty: Connection) -> None:
    def seen(table: str) -> tuple[bool, bool, bool]:
        row = status(dirty)[table]
        return row["guarded"], row["validated"], row["indexed"]

    assert seen("parent") == (False, False, False)
    guard(dirty)
    assert seen("parent") == (True, False, True)  # present rows violate the key
    assert seen("event") == (True, True, True)
    run(dirty, "CALL flowguard.repair()")
    run(dirty, "UPDATE parent SET flow = 1 WHERE id = 13")
    guard(dirty)
    assert seen("parent") == (True, True, True)
    index = one(
        dirty,
        "SELECT min(indexrelid::regclass::text) FROM pg_index WHERE indrelid = 'parent'::regclass AND NOT indisunique",
    )
    run(dirty, f"DROP INDEX {index}")
    assert seen("parent") == (True, True, False)
    guard(dirty)
    assert seen("parent") == (True, True, True)
    run(dirty, "SELECT flowguard.unguard('parent', 'flow')")
    assert seen("parent")[:2] == (False, False)


def test_mode_is_shown(app: Connection) -> None:
    run(app, "SELECT flowguard.set_mode('parent', 'enforce', 'flow')")
    assert {table: row["mode"] for table, row in status(app).items()} == {
        "parent": "enforce",
        "child": "observe",
        "grandchild": "observe",
        "event": "observe",
        "probe": "observe",
    }


# --- violation


def test_each_kind_with_its_reason(dirty: Connection) -> None:
    parents = violations(dirty, "parent")
    assert {row: kind for row, (kind, _) in parents.items()} == {11: "unlinked", 12: "dangling", 13: "mismatched"}
    assert "setting flowguard.flow" in parents[11][1]
    assert "flow = 77 is no id of public.flow" in parents[12][1] or "flow = 77 is no id of flow" in parents[12][1]
    assert "another tenant" in parents[13][1]

    children = violations(dirty, "child")
    assert {row: kind for row, (kind, _) in children.items()} == {
        21: "mismatched",
        22: "mismatched",
        23: "unlinked",
        24: "unlinked",
        26: "mismatched",
    }
    assert "row 10 of" in children[21][1]
    assert children[21][1].endswith("has 1")
    assert "none yet" in children[22][1]
    assert "waits for row 11" in children[23][1]
    advice = "by now; call flowguard.repair('child', link_column => 'flow')"
    assert children[24][1].replace("public.", "").endswith(advice)
    run(dirty, children[24][1].partition("; ")[2])
    assert 24 not in violations(dirty, "child")

    probes = violations(dirty, "probe")
    assert {row: kind for row, (kind, _) in probes.items()} == {
        61: "tenantless",
        62: "unlinked",
        63: "unlinked",
        64: "unlinked",
        65: "unlinked",
        66: "unlinked",
        67: "dangling",
    }
    assert "tenant is NULL" in probes[61][1]
    assert "tenant is not known" in probes[62][1]
    assert "leads to 1 by now" in probes[63][1]
    assert "01:00:00 away" not in probes[64][1]
    assert "02:00:00 away; the window is 01:00:00" in probes[64][1]
    assert "at is NULL" in probes[65][1]
    assert "no linked row of its tenant" in probes[66][1]


def test_two_links_of_one_table_are_two(app: Connection) -> None:
    run(app, "ALTER TABLE parent ADD second integer; INSERT INTO parent (id, tenant, flow) VALUES (10, 1, 1)")
    run(app, "SELECT flowguard.add_link('parent', 'second')")
    assert rows(app, "SELECT link_column, kind FROM flowguard.violation") == [("second", "unlinked")]
    assert one(app, "SELECT count(*) FROM flowguard.link_status WHERE relation = 'parent'::regclass") == 2


def test_a_dead_table_is_no_error(dirty: Connection) -> None:
    run(dirty, "DROP TABLE grandchild; DROP TABLE probe")
    assert set(status(dirty)) == {"parent", "child", "event"}
    assert one(dirty, "SELECT count(*) FROM flowguard.violation") > 0
    assert one(dirty, "SELECT flowguard.health_score()") is not None
    assert {name for (name,) in rows(dirty, "SELECT name FROM flowguard.check_all()")} >= {"table_gone"}


# --- seen_at


def test_seen_at_is_kept_while_the_violation_lasts(dirty: Connection) -> None:
    query = "SELECT row_key ->> 'id', seen_at FROM flowguard.violation WHERE relation = 'parent'::regclass ORDER BY 1"
    assert {seen for _, seen in rows(dirty, query)} == {None}
    run(dirty, "SELECT count(*) FROM flowguard.check_all()")
    first = dict(rows(dirty, query))
    assert None not in first.values()
    run(dirty, "INSERT INTO parent VALUES (15, 1, 78)")
    run(dirty, "UPDATE parent SET flow = 1 WHERE id = 11")
    run(dirty, "SELECT count(*) FROM flowguard.check_all()")
    second = dict(rows(dirty, query))
    assert set(second) == {"12", "13", "15"}
    assert second["12"] == first["12"]
    assert second["15"] > first["12"]
    # Gone and come again: seen anew.
    run(dirty, "UPDATE parent SET flow = NULL WHERE id = 11")
    run(dirty, "SELECT count(*) FROM flowguard.check_all()")
    assert dict(rows(dirty, query))["11"] > second["15"]


def test_repair_notes_them_too(dirty: Connection) -> None:
    run(dirty, "CALL flowguard.repair()")
    assert one(dirty, "SELECT count(*) FROM flowguard.violation WHERE seen_at IS NULL") == 0
    assert one(dirty, "SELECT count(*) FROM flowguard.violation") > 0


def test_a_read_only_transaction_may_check(dirty: Connection) -> None:
    with dirty.transaction():
        run(dirty, "SET TRANSACTION READ ONLY")
        assert one(dirty, "SELECT count(*) FROM flowguard.check_all()") > 0
    assert one(dirty, "SELECT count(*) FROM flowguard.violation_seen") == 0


# --- Row security


@pytest.mark.parametrize(
    "call",
    [
        "SELECT * FROM flowguard.link_status",
        "SELECT * FROM flowguard.violation",
        "SELECT * FROM flowguard.health_category",
        "SELECT flowguard.health_score()",
        "SELECT * FROM flowguard.check_all()",
    ],
)
@pytest.mark.parametrize("table", ["parent", "flow", "event"])
def test_hidden_rows_are_an_error_not_a_partial_count(dirty: Connection, call: str, table: str) -> None:
    run(dirty, f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    assert rows(dirty, call)
    run(dirty, f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    with refused("42501"):
        rows(dirty, call)


def test_nothing_is_written_by_looking(dirty: Connection) -> None:
    with psycopg.connect(dirty.info.dsn) as reader:
        reader.read_only = True
        for view in ("link_status", "violation", "health_category", "run", "run_change", "quarantine"):
            reader.execute(f"SELECT * FROM flowguard.{view}".encode())  # noqa: S608  ours
