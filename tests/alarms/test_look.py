"""What watchers ask is what the exact views tell, as far as it goes, and nothing large is read for it."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from engine.postgres import Connection, one, rows, run
from engine.tables import create, guard, register

FINDINGS = "SELECT name, level, relation, description, detail, remedy, cache_key, amount FROM {} ORDER BY cache_key"
LOOK = "SELECT relation, link_column, covers, row_key, kind FROM flowguard._look()"


def covered(connection: Connection) -> dict[str, str]:
    """Give how far the look goes, by table."""
    return {
        relation.removeprefix("public."): covers
        for relation, _, covers, key, _ in rows(connection, LOOK)
        if key is None
    }


def wrong(connection: Connection, query: str = LOOK) -> list[tuple[Any, ...]]:
    """Give which rows are wrong."""
    return sorted(
        (relation, key["id"], kind) for relation, _, _, key, kind in rows(connection, query) if key is not None
    )


def look_and_count(connection: Connection, query: str) -> tuple[list[tuple[Any, ...]], dict[str, int]]:
    """Give what a query finds, and how many rows of each table it reads one after the other."""
    count = "SELECT relname::text, seq_tup_read FROM pg_stat_xact_user_tables"
    with connection.transaction():
        before = dict(rows(connection, count))  # of transactions before as well, until PostgreSQL 15 reports them
        found = rows(connection, query)
        return found, {table: read - before.get(table, 0) for table, read in rows(connection, count)}


@pytest.fixture
def dirty(well: Connection, intruder: Connection) -> Connection:
    """The small application with rows of every kind, and what else can be found."""
    run(well, "INSERT INTO probe VALUES (1, 1, NULL, now()), (2, NULL, 1, now()); SELECT flowguard.bypass('a look')")
    run(intruder, "UPDATE parent SET flow = 77 WHERE id = 10; UPDATE child SET flow = 9 WHERE id = 22")
    run(well, "SELECT flowguard.pause('grandchild', 'flow')")
    return well


def test_small_tables_are_looked_at_whole(dirty: Connection) -> None:
    assert set(covered(dirty).values()) == {"all"}
    exact = "SELECT relation::regclass::text, link_column, '', row_key, kind FROM flowguard.violation"
    assert wrong(dirty) == [(f"public.{relation}", key, kind) for relation, key, kind in wrong(dirty, exact)]
    assert [kind for *_, kind in wrong(dirty)] == ["mismatched", "dangling", "unlinked", "tenantless"]


def test_findings_are_those_of_the_check(dirty: Connection) -> None:
    found = rows(dirty, FINDINGS.format("flowguard.finding_estimate"))
    assert found == rows(dirty, FINDINGS.format("flowguard.check_all()"))
    assert {name for name, *_ in found} >= {
        "unlinked_rows", "dangling_links", "mismatched_links", "tenantless_links", "paused", "bypassed",
    }  # fmt: skip


@pytest.mark.parametrize("exact", [False, True])
def test_the_overview_is_what_the_views_tell(dirty: Connection, exact: bool) -> None:
    score, categories, links, findings = rows(dirty, "SELECT * FROM flowguard._overview(%s)", exact)[0]
    assert score == one(dirty, "SELECT flowguard.health_score()")
    assert categories == {
        name: float(value) for name, value in rows(dirty, "SELECT category, score FROM flowguard.health_category")
    }
    assert [(link["table_name"], link["linked"], link["dangling"]) for link in links] == rows(
        dirty, "SELECT relation::text, linked, dangling FROM flowguard.link_status ORDER BY 1"
    )
    assert {finding["cache_key"] for finding in findings} == {
        key for (key,) in rows(dirty, "SELECT cache_key FROM flowguard.check_all()")
    }


def test_asking_notes_nothing_and_tells_nobody(dirty: Connection) -> None:
    with psycopg.connect(dirty.info.dsn, autocommit=True) as listener:
        run(listener, "LISTEN flowguard")
        for query in (LOOK, "SELECT * FROM flowguard._overview()", "SELECT * FROM flowguard.finding_estimate"):
            with dirty.transaction():
                run(dirty, "SET TRANSACTION READ ONLY")
                run(dirty, query)
        assert rows(dirty, "SELECT * FROM flowguard.violation_seen") == []
        assert list(listener.notifies(timeout=0.5)) == []


def test_a_snapshot_tells_whoever_listens(well: Connection) -> None:
    with psycopg.connect(well.info.dsn, autocommit=True) as listener:
        run(listener, "LISTEN flowguard")
        number = one(well, "SELECT flowguard.snapshot()")
        (told,) = list(listener.notifies(timeout=5, stop_after=1))
        payload = one(well, "SELECT %s::jsonb", told.payload)
        assert payload.pop("at")
        assert payload == {"source": "snapshot", "snapshot_id": number, "score": 100}


def test_a_write_tells_nobody(well: Connection) -> None:
    """What ran NOTIFY could not be prepared."""
    run(well, "BEGIN; INSERT INTO parent VALUES (30, 1, 1), (31, 1, NULL); UPDATE parent SET flow = 2 WHERE id = 10")
    run(well, "PREPARE TRANSACTION 'alarms'")
    run(well, "COMMIT PREPARED 'alarms'")


def test_of_a_large_table_what_an_index_leads_to(large: Connection, intruder: Connection) -> None:
    run(intruder, "UPDATE parent SET flow = NULL WHERE id = 5000; UPDATE parent SET flow = 77 WHERE id = 6000")
    found, read = look_and_count(large, LOOK)
    assert (read["parent"], read["child"], read["flow"]) == (0, 0, 0)
    assert [(relation, key) for relation, _, covers, key, _ in found if key] == [("public.parent", {"id": 5000})]
    assert covered(large) == {
        "parent": "unlinked", "child": "unlinked", "grandchild": "all", "event": "all", "probe": "all",
    }  # fmt: skip
    exact = "SELECT * FROM flowguard._look(true)"
    assert wrong(large, exact) == [("public.parent", 5000, "unlinked"), ("public.parent", 6000, "dangling")]


def test_of_a_large_table_nothing_where_no_index_leads_to_it_or_too_much_is_wrong(large: Connection) -> None:
    run(large, "INSERT INTO probe SELECT n, 1, NULL, now() FROM generate_series(1, 10001) n")
    assert (covered(large)["probe"], wrong(large)) == ("none", [])
    run(large, "SELECT flowguard.unguard('grandchild', 'flow'); SELECT flowguard.unguard('child', 'flow')")
    assert covered(large)["child"] == "none"


def test_findings_of_a_large_table_are_about_and_name_no_row(large: Connection, intruder: Connection) -> None:
    run(intruder, "UPDATE parent SET flow = NULL WHERE id = 5000; UPDATE parent SET flow = 77 WHERE id = 6000")
    found, read = look_and_count(large, FINDINGS.format("flowguard.finding_estimate"))
    assert (read["parent"], read["child"]) == (0, 0)
    assert [(name, relation, description, detail) for name, _, relation, description, detail, *_ in found] == [
        ("unlinked_rows", "public.parent", "1 of about 10000 rows are unlinked", None)
    ]


def test_drift_is_told_as_well_and_what_both_find_once(well: Connection) -> None:
    run(well, 'ALTER TABLE child DISABLE TRIGGER "~flowguard_child_flow_insert"; DROP INDEX flowguard_child_flow_idx')
    run(well, "ALTER TABLE probe DROP COLUMN at CASCADE")
    told = rows(well, FINDINGS.format("flowguard.finding_estimate"))
    names = {name for name, *_ in told}
    assert {"trigger_disabled", "index_missing", "guard_incomplete", "column_gone"} <= names
    both = {key for *_, key, _ in rows(well, FINDINGS.format("flowguard.check_all()"))} | {
        key for *_, key, _ in rows(well, FINDINGS.format("flowguard.doctor()"))
    }
    assert sorted(key for *_, key, _ in told) == sorted(both)


def test_a_registered_link_without_a_table_is_told(engine_db: str) -> None:
    with psycopg.connect(engine_db, autocommit=True) as connection:
        create(connection)
        register(connection)
        guard(connection)
        run(connection, "DROP TABLE probe")
        assert "probe" not in covered(connection)
        assert "table_gone" in {name for (name,) in rows(connection, "SELECT name FROM flowguard.finding_estimate")}
        score, categories, links, _ = rows(connection, "SELECT * FROM flowguard._overview()")[0]
        assert score == one(connection, "SELECT flowguard.health_score()")
        assert len(links) == 4
        assert all(value < 100 for value in categories.values())
