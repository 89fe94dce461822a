"""Snapshots: they hold what the views tell, say what changed, are kept for a while, and outlive the tables."""

from __future__ import annotations

import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import LINKS, guard
from health.reading import read
from psycopg.rows import dict_row

FIGURES = ("mode", "total", "linked", "unlinked", "dangling", "mismatched", "tenantless", "coverage", "validated",
           "indexed")  # fmt: skip


def snapshot(connection: Connection, arguments: str = "") -> int:
    """Take one, and give its number."""
    number: int = one(connection, f"SELECT flowguard.snapshot({arguments})")
    return number


def history(connection: Connection, number: int) -> dict[str, dict[str, Any]]:
    """Give the links of a snapshot, by table."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute("SELECT * FROM flowguard.link_history WHERE snapshot_id = %s", [number])
        return {row["table_name"]: row for row in cursor}


def age(connection: Connection, number: int, interval: str) -> None:
    """Make a snapshot older."""
    run(
        connection,
        "UPDATE flowguard.health_snapshot SET taken_at = taken_at - %s::interval WHERE snapshot_id = %s",
        interval,
        number,
    )


@pytest.mark.parametrize("arguments", ["", "exact => true"])
def test_a_snapshot_holds_what_the_views_tell(dirty: Connection, arguments: str) -> None:
    guard(dirty)
    number = snapshot(dirty, arguments)
    with dirty.cursor(row_factory=dict_row) as cursor:
        cursor.execute("SELECT * FROM flowguard.link_status")
        links = {str(row["relation"]).removeprefix("public."): row for row in cursor}
    found = history(dirty, number)
    assert set(found) == set(links) == set(LINKS)
    for table, row in found.items():
        assert {name: row[name] for name in FIGURES} == {name: links[table][name] for name in FIGURES}
        assert (row["schema_name"], row["link_column"], row["estimated"]) == ("public", "flow", False)
    assert rows(dirty, "SELECT taken_by::text, exact, score FROM flowguard.health_snapshot") == [
        ("app_owner", bool(arguments), one(dirty, "SELECT flowguard.health_score()"))
    ]
    categories = "SELECT category, score FROM flowguard.{} ORDER BY category"
    assert rows(dirty, categories.format("health_snapshot_category")) == rows(
        dirty, categories.format("health_category")
    )


def test_an_exact_snapshot_counts_what_another_takes_for_proved(
    well: Connection, as_role: Callable[[str, str], str]
) -> None:
    run(well, "INSERT INTO parent SELECT n, 1, 1 FROM generate_series(100, 10000) n; ANALYZE parent")
    with psycopg.connect(as_role(well.info.dsn, "postgres"), autocommit=True) as admin:
        run(admin, "SET session_replication_role = replica; INSERT INTO parent VALUES (1, 1, 77)")
    told, counted = (history(well, snapshot(well, arguments))["parent"] for arguments in ("", "exact => true"))
    assert (told["estimated"], told["dangling"]) == (True, 0)
    assert (counted["estimated"], counted["dangling"], counted["total"]) == (False, 1, 9903)


def test_without_a_link_there_is_a_score_to_note(db: Connection) -> None:
    snapshot(db)
    assert rows(db, "SELECT score, score_change, score_trend FROM flowguard.health_history") == [
        (Decimal("100.0"), None, None)
    ]
    assert rows(db, "SELECT DISTINCT score FROM flowguard.health_snapshot_category") == [(Decimal("100.0"),)]


def test_a_link_that_is_gone_costs_its_score(well: Connection) -> None:
    run(well, "DROP TABLE grandchild")
    number = snapshot(well)
    assert set(history(well, number)) == {"parent", "child", "event", "probe"}
    assert rows(well, "SELECT score FROM flowguard.health_snapshot") == rows(well, "SELECT flowguard.health_score()")
    assert one(well, "SELECT score FROM flowguard.health_snapshot") <= 80


# --- Change and trend


def test_what_changed_since_the_one_before(well: Connection) -> None:
    first = snapshot(well)
    run(well, "INSERT INTO parent VALUES (11, 1, NULL), (12, 1, 1)")
    second = snapshot(well)
    assert (history(well, first)["parent"]["linked_change"], history(well, first)["parent"]["unlinked_change"]) == (
        None,
        None,
    )
    row = history(well, second)["parent"]
    assert (row["linked_change"], row["unlinked_change"]) == (1, 1)
    assert row["coverage_change"] == row["coverage"] - 1 == Decimal("-0.3333")
    assert history(well, second)["child"]["linked_change"] == 0
    changes = rows(well, "SELECT score, score_change FROM flowguard.health_history ORDER BY snapshot_id")
    assert changes[0][1] is None
    assert changes[1][1] == changes[1][0] - changes[0][0] < 0


def test_like_is_compared_with_like(well: Connection) -> None:
    run(well, "SELECT flowguard.snapshot(); SELECT flowguard.snapshot(true)")
    run(well, "INSERT INTO parent VALUES (11, 1, NULL)")
    run(well, "SELECT flowguard.snapshot()")
    run(well, "INSERT INTO parent VALUES (12, 1, NULL)")
    run(well, "SELECT flowguard.snapshot(true)")
    query = "SELECT exact, unlinked_change FROM flowguard.link_history WHERE table_name = 'parent' ORDER BY snapshot_id"
    assert rows(well, query) == [(False, None), (True, None), (False, 1), (True, 2)]


def test_the_trend_is_what_the_score_rises_in_a_day(well: Connection) -> None:
    for day, score in ((40, 10), (20, 60), (10, 65), (0, 70)):
        number = snapshot(well)
        age(well, number, f"{day} days")
        run(well, "UPDATE flowguard.health_snapshot SET score = %s WHERE snapshot_id = %s", score, number)
    found = rows(well, "SELECT score_change, score_trend FROM flowguard.health_history ORDER BY taken_at")
    # The last two look back 30 days, beyond which 10 lies.
    assert found == [(None, None), (50, Decimal("2.50")), (5, Decimal("0.50")), (5, Decimal("0.50"))]


# --- How long it is kept


def test_old_snapshots_are_removed(well: Connection) -> None:
    numbers = [snapshot(well) for _ in range(3)]
    age(well, numbers[0], "401 days")
    age(well, numbers[1], "399 days")
    numbers.append(snapshot(well))
    assert [number for (number,) in rows(well, "SELECT snapshot_id FROM flowguard.health_snapshot ORDER BY 1")] == (
        numbers[1:]
    )
    for table in ("health_snapshot_link", "health_snapshot_category"):
        assert one(well, f"SELECT count(DISTINCT snapshot_id) FROM flowguard.{table}") == 3  # noqa: S608  ours
    snapshot(well, "retention => NULL")
    assert one(well, "SELECT count(*) FROM flowguard.health_snapshot") == 4
    last = snapshot(well, "retention => '1 day'")
    assert [number for (number,) in rows(well, "SELECT snapshot_id FROM flowguard.health_snapshot ORDER BY 1")] == [
        *numbers[2:],
        last - 1,
        last,
    ]


@pytest.mark.parametrize("arguments", ["retention => '0'", "retention => '-1 day'", "NULL"])
def test_an_argument_that_would_lose_all_is_refused(well: Connection, arguments: str) -> None:
    snapshot(well)
    with refused("FG104"):
        snapshot(well, arguments)
    assert one(well, "SELECT count(*) FROM flowguard.health_snapshot") == 1


def test_a_table_that_is_gone_or_renamed_leaves_its_history(well: Connection) -> None:
    first = snapshot(well)
    run(well, "ALTER TABLE grandchild RENAME TO enkel")
    second = snapshot(well)
    run(well, "DROP TABLE enkel, event, probe, child, parent, flow CASCADE")
    third = snapshot(well)
    assert set(history(well, first)) == set(LINKS)
    assert set(history(well, second)) == {"parent", "child", "enkel", "event", "probe"}
    assert history(well, third) == {}
    assert history(well, first)["child"]["total"] == 1
    assert len(rows(well, "SELECT * FROM flowguard.health_history")) == 3


# --- When a violation was first seen


SEEN = "SELECT row_key ->> 'id', kind, seen_at FROM flowguard.violation WHERE relation = 'parent'::regclass"


def seen(connection: Connection) -> dict[tuple[str, str], Any]:
    return {(row, kind): at for row, kind, at in rows(connection, SEEN)}


def test_a_snapshot_notes_what_it_sees(dirty: Connection) -> None:
    assert set(seen(dirty).values()) == {None}
    snapshot(dirty)
    first = seen(dirty)
    assert None not in first.values()
    run(dirty, "UPDATE parent SET flow = 1 WHERE id = 11; INSERT INTO parent VALUES (15, 1, 78)")
    snapshot(dirty)
    second = seen(dirty)
    assert second == {
        **{key: at for key, at in first.items() if key[0] != "11"},
        ("15", "dangling"): second["15", "dangling"],
    }
    run(dirty, "UPDATE parent SET flow = NULL WHERE id = 11")
    snapshot(dirty)
    assert seen(dirty)["11", "unlinked"] > second["15", "dangling"]


def test_of_a_large_table_it_notes_the_rows_without_a_link(well: Connection) -> None:
    run(well, "INSERT INTO parent SELECT n, 1, 1 FROM generate_series(100, 10000) n")
    run(well, "INSERT INTO parent VALUES (1, 1, NULL), (2, 1, NULL); ANALYZE parent")
    assert read(well, "SELECT flowguard.snapshot()")["parent"] == 0
    first = seen(well)
    assert set(first) == {("1", "unlinked"), ("2", "unlinked")}
    assert None not in first.values()
    run(well, "UPDATE parent SET flow = 1 WHERE id = 1; INSERT INTO parent VALUES (3, 1, NULL)")
    snapshot(well)
    second = seen(well)
    assert second == {("2", "unlinked"): first["2", "unlinked"], ("3", "unlinked"): second["3", "unlinked"]}
    assert second["3", "unlinked"] > first["2", "unlinked"]
    noted = "SELECT row_key ->> 'id' FROM flowguard.violation_seen WHERE table_name = 'parent' ORDER BY 1"
    assert rows(well, noted) == [("2",), ("3",)]
    # Where there are too many to note, some are, and none that was noted is forgotten.
    run(well, "SELECT flowguard._note_unlinked(l, 1) FROM flowguard.link l WHERE l.relation = 'parent'::regclass")
    assert rows(well, noted) == [("2",), ("3",)]


# --- Who may, and who else does


@pytest.mark.usefixtures("well")
def test_who_may_take_one(roles: Callable[[str], Connection]) -> None:
    admin, viewer = roles("flowguard_admin"), roles("flowguard_viewer")
    snapshot(admin)
    snapshot(admin, "exact => true")
    with refused("42501"):
        snapshot(viewer)
    assert len(rows(viewer, "SELECT * FROM flowguard.health_history")) == 2
    assert len(rows(viewer, "SELECT * FROM flowguard.link_history")) == 2 * len(LINKS)


def test_row_security_is_an_error(well: Connection) -> None:
    run(well, "ALTER TABLE parent ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    with refused("42501"):
        snapshot(well)
    assert rows(well, "SELECT * FROM flowguard.health_snapshot") == []


def test_two_at_once_are_two(well: Connection) -> None:
    for number in (snapshot(well), snapshot(well)):
        age(well, number, "500 days")
    begin = threading.Barrier(4)

    def take() -> None:
        with psycopg.connect(well.info.dsn, autocommit=True) as connection:
            begin.wait(timeout=30)
            snapshot(connection)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert one(well, "SELECT count(*) FROM flowguard.health_snapshot") == 4
    assert one(well, "SELECT count(*) FROM flowguard.health_snapshot_link") == 4 * len(LINKS)
