"""Links follow when the row that they come from gets its own: at once, all the way down, and only where they must."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import sleep
from typing import Any

import psycopg
import pytest
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import Guarded, add_links, add_reference, create, guard, link, links, register
from engine.tables import guarded as guard_tables


@pytest.fixture
def app(guarded: Guarded) -> Connection:
    """The small application, guarded in observe, with one unlinked chain 10 -> 20 -> 30."""
    connection = guarded()
    chain(connection)
    return connection


@pytest.fixture
def own(db: Connection) -> Connection:
    """The same in a database of its own, whose tables a test may alter."""
    guard_tables(db)
    chain(db)
    return db


def chain(connection: Connection, flow: int | None = None) -> None:
    run(connection, "INSERT INTO parent VALUES (10, 1, %s)", flow)
    run(connection, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 1, 10), (22, 1, NULL)")
    run(connection, "INSERT INTO grandchild (id, tenant, child) VALUES (30, 1, 20), (31, 1, 21), (32, 1, NULL)")


def versions(connection: Connection, table: str) -> dict[int, Any]:
    """Say which row version each row is."""
    found = rows(connection, f"SELECT id, ctid::text, xmin::text FROM {table}")  # noqa: S608  a table of ours
    return {row: version for row, *version in found}


def set_parent(connection: Connection, flow: int | None) -> None:
    run(connection, "UPDATE parent SET flow = %s WHERE id = 10", flow)


# --- References


def test_a_link_that_appears_is_followed_all_the_way_down(app: Connection) -> None:
    assert (links(app, "child"), links(app, "grandchild")) == (
        {20: None, 21: None, 22: None},
        {30: None, 31: None, 32: None},
    )
    set_parent(app, 1)
    assert links(app, "child") == {20: 1, 21: 1, 22: None}
    assert links(app, "grandchild") == {30: 1, 31: 1, 32: None}


def test_following_happens_in_the_same_statement(app: Connection) -> None:
    with app.transaction():
        set_parent(app, 1)
        assert links(app, "grandchild") == {30: 1, 31: 1, 32: None}


def test_a_link_that_moves_is_followed(app: Connection) -> None:
    set_parent(app, 1)
    set_parent(app, 2)
    assert links(app, "child") == {20: 2, 21: 2, 22: None}
    assert links(app, "grandchild") == {30: 2, 31: 2, 32: None}


def test_a_link_that_is_taken_away_is_followed(app: Connection) -> None:
    set_parent(app, 1)
    set_parent(app, None)
    assert links(app, "child") == {20: None, 21: None, 22: None}
    assert links(app, "grandchild") == {30: None, 31: None, 32: None}


def test_only_rows_that_change_get_a_new_version(app: Connection) -> None:
    run(app, "UPDATE child SET flow = 3 WHERE id = 21")  # explicit, and not what the parent had
    before = {table: versions(app, table) for table in ("child", "grandchild")}
    set_parent(app, 1)
    after = {table: versions(app, table) for table in ("child", "grandchild")}
    assert {row for row in before["child"] if before["child"][row] != after["child"][row]} == {20}
    assert {row for row in before["grandchild"] if before["grandchild"][row] != after["grandchild"][row]} == {30}


def test_an_update_that_leaves_the_link_alone_writes_nothing_else(app: Connection) -> None:
    set_parent(app, 1)
    before = {table: versions(app, table) for table in ("child", "grandchild")}
    run(app, "UPDATE parent SET note = 'changed', flow = 1 WHERE id = 10")
    assert {table: versions(app, table) for table in ("child", "grandchild")} == before


@pytest.mark.parametrize("direct", [True, False], ids=["the only rule", "a later rule"])
def test_rows_that_follow_are_found_by_their_reference(own: Connection, direct: bool) -> None:
    """Not by the index on the link: that holds each row that was written without one until the table is vacuumed."""
    if not direct:
        run(own, "ALTER TABLE grandchild ADD other integer")
        add_reference(own, "grandchild", "other", "parent", position=1, agree=False)
        guard(own)
    run(own, "INSERT INTO parent SELECT n, 1, 1 FROM generate_series(1000, 1300) AS n")
    run(own, "INSERT INTO child (id, tenant, parent) SELECT n, 1, n FROM generate_series(1000, 1300) AS n")
    run(own, "INSERT INTO grandchild (id, tenant, child) SELECT n, 1, n FROM generate_series(1000, 1300) AS n")
    set_parent(own, 1)
    run(own, "DELETE FROM grandchild WHERE flow IS NULL; ANALYZE parent, child, grandchild")  # all rows are linked
    for n in range(20, 30):  # as often as PostgreSQL takes to make up its mind
        with own.transaction():
            run(own, "INSERT INTO parent VALUES (%s, 1)", n)
            run(own, "INSERT INTO child (id, tenant, parent) VALUES (%s, 1, %s)", n * 10, n)
            run(own, "INSERT INTO grandchild (id, tenant, child) VALUES (%s, 1, %s)", n * 10, n * 10)
            before = [one(own, SCANS, index) for index in ("child_flow", "grandchild_flow")]
            run(own, "UPDATE parent SET flow = 1 WHERE id = %s", n)
            assert [one(own, SCANS, index) for index in ("child_flow", "grandchild_flow")] == before
        assert one(own, "SELECT count(*) FROM grandchild WHERE flow IS NULL") == 0


SCANS = "SELECT pg_stat_get_xact_numscans(('flowguard_' || %s || '_idx')::regclass)"


def test_an_explicit_value_stays_in_observe(app: Connection) -> None:
    run(app, "UPDATE child SET flow = 3 WHERE id = 20")
    set_parent(app, 1)
    assert links(app, "child") == {20: 3, 21: 1, 22: None}
    set_parent(app, 2)
    assert links(app, "child") == {20: 3, 21: 2, 22: None}


def test_a_child_that_carries_the_old_link_of_another_tenant_is_not_touched(db: Connection) -> None:
    create(db)
    run(db, "ALTER TABLE child ALTER tenant DROP NOT NULL")
    register(db)
    guard(db)
    run(db, "INSERT INTO parent VALUES (10, 1)")
    run(db, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 2, 10), (22, NULL, 10)")
    set_parent(db, 1)
    # A tenant that is not known is no other tenant; a known other one is.
    assert links(db, "child") == {20: 1, 21: None, 22: 1}


def test_several_rows_in_one_statement(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (11, 1), (12, 2)")
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (23, 1, 11), (24, 2, 12)")
    run(app, "UPDATE parent SET flow = CASE tenant WHEN 1 THEN 2 ELSE 9 END")
    assert links(app, "child") == {20: 2, 21: 2, 22: None, 23: 2, 24: 9}


def test_a_row_that_moves_to_another_agreeing_reference_takes_its_link(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (11, 1, 2), (12, 1, NULL)")
    set_parent(app, 1)
    run(app, "UPDATE child SET parent = 11 WHERE id = 20")
    assert (link(app, "child", 20), link(app, "grandchild", 30)) == (2, 2)
    run(app, "UPDATE child SET parent = 12 WHERE id = 20")
    assert (link(app, "child", 20), link(app, "grandchild", 30)) == (None, None)
    run(app, "UPDATE child SET parent = 11 WHERE id = 20")
    assert (link(app, "child", 20), link(app, "grandchild", 30)) == (2, 2)


def test_a_row_that_moves_asks_its_reference_and_not_the_session(db: Connection) -> None:
    create(db)
    register(db)
    run(db, "SELECT flowguard.add_session_rule('child', 'flow', 1)")
    guard(db)
    run(db, "INSERT INTO parent VALUES (10, 1, 1), (11, 1, 2)")
    run(db, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    with db.transaction():
        run(db, "SET LOCAL flowguard.flow = '3'")
        run(db, "UPDATE child SET parent = 11")
    assert links(db, "child") == {20: 2}


def test_a_link_set_to_null_is_refilled_by_the_same_statement(app: Connection) -> None:
    set_parent(app, 1)
    with app.transaction():
        run(app, "UPDATE child SET flow = NULL WHERE id = 20")
        assert link(app, "child", 20) == 1


@pytest.mark.parametrize("change", ["at = '2025-01-01 00:30Z'", "tenant = 1"])
def test_a_row_whose_time_or_tenant_changes_is_filled_by_the_same_statement(app: Connection, change: str) -> None:
    run(app, "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z')")
    tenant, at = ("NULL", "2025-01-01 00:30Z") if change.startswith("tenant") else ("1", "2025-06-01")
    run(app, f"INSERT INTO probe (id, tenant, at) VALUES (60, {tenant}, '{at}')")  # noqa: S608  texts of this test
    assert link(app, "probe", 60) is None
    with app.transaction():
        run(app, f"UPDATE probe SET {change}")  # noqa: S608  texts of this test
        assert link(app, "probe", 60) == 1


def test_a_row_that_waits_for_its_reference_asks_no_later_rule(db: Connection) -> None:
    create(db)
    register(db)
    run(db, "ALTER TABLE child ADD at timestamptz DEFAULT '2025-01-01 00:30Z'")
    run(
        db,
        "SELECT flowguard.add_proximity_rule('child', 'event', '1 hour', 'at', 'at', 'flow', link_column => 'flow')",
    )
    guard(db)
    run(db, "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z')")
    run(db, "INSERT INTO parent VALUES (10, 1)")
    run(db, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 1, NULL)")
    assert links(db, "child") == {20: None, 21: 1}
    set_parent(db, 2)
    assert links(db, "child") == {20: 2, 21: 1}


def test_a_referenced_row_of_another_tenant_gives_nothing_even_with_our_master(db: Connection) -> None:
    create(db)
    run(db, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    run(db, "SELECT flowguard.add_link('child', 'flow')")
    add_reference(db, "child", "parent", "parent")
    guard(db, "child")
    # Nobody guards parents here, so that one may carry a link that is not its tenant's.
    run(db, "INSERT INTO parent VALUES (10, 2, 1), (11, 1, 1)")
    run(db, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 1, 11)")
    assert links(db, "child") == {20: None, 21: 1}


def test_a_row_that_loses_its_reference_keeps_its_link(app: Connection) -> None:
    set_parent(app, 1)
    run(app, "UPDATE child SET parent = NULL WHERE id = 20")
    assert link(app, "child", 20) == 1


def test_reference_and_link_set_together_must_agree_in_enforce(guarded: Guarded) -> None:
    db = guarded(mode="enforce")
    run(db, "INSERT INTO parent VALUES (10, 1, 1), (11, 1, 2)")
    run(db, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    with refused("23503", "FG004"):
        run(db, "UPDATE child SET parent = 11, flow = 3 WHERE id = 20")
    assert link(db, "child", 20) == 1
    run(db, "UPDATE child SET parent = 11, flow = 2 WHERE id = 20")
    assert link(db, "child", 20) == 2


def test_in_enforce_a_moved_link_is_followed_and_an_explicit_other_one_refused(guarded: Guarded) -> None:
    db = guarded(mode="enforce")
    run(db, "INSERT INTO parent VALUES (10, 1, 1)")
    run(db, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    run(db, "INSERT INTO grandchild (id, tenant, child) VALUES (30, 1, 20)")
    set_parent(db, 2)
    assert (link(db, "child", 20), link(db, "grandchild", 30)) == (2, 2)
    with refused("23503"):
        run(db, "INSERT INTO child (id, tenant, parent, flow) VALUES (21, 1, 10, 3)")
    with refused("FG001"):
        set_parent(db, None)
    assert (link(db, "parent", 10), link(db, "child", 20), link(db, "grandchild", 30)) == (2, 2, 2)


@pytest.mark.parametrize("late_limit", [None, 2])
def test_late_limit_leaves_the_rest_to_repair_in_observe(db: Connection, late_limit: int | None) -> None:
    create(db)
    run(db, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    run(db, "SELECT flowguard.add_link(t, 'flow') FROM unnest('{parent,child}'::regclass[]) t")
    add_reference(db, "child", "parent", "parent", late_limit=late_limit)
    guard(db, "parent", "child")
    run(db, "INSERT INTO parent VALUES (10, 1)")
    run(db, "INSERT INTO child (id, tenant, parent) SELECT n, 1, 10 FROM generate_series(1, 5) n")
    set_parent(db, 1)
    linked = sum(value is not None for value in links(db, "child").values())
    assert linked == (late_limit or 5)


def test_late_limit_does_not_count_in_enforce(db: Connection) -> None:
    create(db)
    run(db, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    run(db, "SELECT flowguard.add_link('parent', 'flow')")
    run(db, "SELECT flowguard.add_link('child', 'flow', mode => 'enforce')")
    add_reference(db, "child", "parent", "parent", late_limit=2)
    guard(db, "parent", "child")
    with db.transaction():
        run(db, "INSERT INTO parent VALUES (10, 1)")
        run(db, "INSERT INTO child (id, tenant, parent) SELECT n, 1, 10 FROM generate_series(1, 5) n")
        set_parent(db, 1)
        assert set(links(db, "child").values()) == {1}
    set_parent(db, 2)
    assert set(links(db, "child").values()) == {2}


def test_a_reference_that_need_not_agree(db: Connection) -> None:
    create(db)
    register(db)
    run(db, "ALTER TABLE probe ADD event integer")
    add_reference(db, "probe", "event", "event", agree=False, position=1)
    guard(db)
    run(db, "INSERT INTO event VALUES (50, 1, NULL, 'live', '2025-01-01'), (51, 1, 2, 'live', '2025-01-01 00:10Z')")
    run(
        db,
        "INSERT INTO probe (id, tenant, at, event) VALUES (60, 1, '2025-01-01 00:05Z', 50), "
        "(61, 1, '2025-01-01 00:05Z', 404), (62, 1, NULL, 50), (63, 1, '2025-01-01 00:05Z', NULL)",
    )
    # No link there yet, or no row at all: the next rule is asked.
    assert links(db, "probe") == {60: 2, 61: 2, 62: None, 63: 2}
    run(db, "UPDATE event SET flow = 1 WHERE id = 50")
    # A link once set is not moved by what comes later, an unlinked row gets it.
    assert links(db, "probe") == {60: 2, 61: 2, 62: 1, 63: 2}
    run(db, "UPDATE event SET flow = 3 WHERE id = 50")
    assert links(db, "probe") == {60: 2, 61: 2, 62: 3, 63: 2}
    # Its reference has none any more: what the other rules find, here nothing.
    run(db, "UPDATE event SET flow = NULL WHERE id = 50")
    assert links(db, "probe") == {60: 2, 61: 2, 62: None, 63: 2}


def test_the_second_look_at_commit_leaves_explicit_values_alone(db: Connection) -> None:
    create(db)
    register(db)
    run(db, "ALTER TABLE probe ADD event integer")
    add_reference(db, "probe", "event", "event", agree=False)
    guard(db)
    run(db, "INSERT INTO event VALUES (50, 1, 1)")
    run(db, "INSERT INTO probe (id, tenant, event) VALUES (60, 1, 50), (61, 1, 50)")
    with db.transaction():
        run(db, "UPDATE event SET flow = 2")
        run(db, "UPDATE probe SET flow = 1 WHERE id = 60")
    assert links(db, "probe") == {60: 1, 61: 2}


def test_a_referenced_row_that_appears_links_what_was_there_before(db: Connection) -> None:
    create(db)
    register(db)
    run(db, "ALTER TABLE probe ADD event integer")
    add_reference(db, "probe", "event", "event", agree=False, position=1)
    guard(db)
    run(db, "INSERT INTO probe (id, tenant, event) VALUES (60, 1, 50), (61, 2, 50)")
    run(db, "INSERT INTO event VALUES (50, 1, 3)")
    assert links(db, "probe") == {60: 3, 61: None}


def test_a_referenced_row_that_takes_the_key_links_what_waited_for_it(db: Connection) -> None:
    create(db)
    register(db)
    run(db, "ALTER TABLE probe ADD event integer")
    add_reference(db, "probe", "event", "event", agree=False, position=1)
    guard(db)
    run(db, "INSERT INTO event VALUES (49, 1, 3)")
    run(db, "INSERT INTO probe (id, tenant, event) VALUES (60, 1, 50), (61, 2, 50)")
    run(db, "UPDATE event SET id = 50")
    assert links(db, "probe") == {60: 3, 61: None}


def test_a_child_that_waited_for_the_link_has_the_master_that_came_with_it(app: Connection) -> None:
    insert = "INSERT INTO child (id, tenant, parent) VALUES (23, 1, 10) RETURNING flow"
    with psycopg.connect(app.info.dsn) as linker, psycopg.connect(app.info.dsn) as other, ThreadPoolExecutor() as pool:
        run(linker, "INSERT INTO flow VALUES (7, 1)")
        set_parent(linker, 7)
        inserted = pool.submit(one, other, insert)
        while not rows(app, "SELECT FROM pg_locks WHERE pid = %s AND NOT granted", other.info.backend_pid):
            assert not inserted.done(), "it must wait for who sets the link"
            sleep(0.01)
        linker.commit()
        # At once, not by the look at commit only: the client is told.
        assert inserted.result() == 7


# --- Sources in time


def test_a_source_that_appears_links_rows_inside_its_window(app: Connection) -> None:
    run(
        app,
        "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 01:00Z'), (2, 1, '2025-01-01 01:00:00.000001Z'), "
        "(3, 2, '2025-01-01 00:00Z'), (4, NULL, '2025-01-01 00:00Z'), (5, 1, '2024-12-31 23:00Z'), "
        "(6, 1, '2024-12-31 22:59:59.999999Z'), (7, 1, NULL), (8, 1, 'infinity'), (9, 1, '-infinity')",
    )
    run(app, "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z')")
    assert {row for row, flow in links(app, "probe").items() if flow is not None} == {1, 5}


@pytest.mark.parametrize(
    "change",
    ["flow = 1", "status = 'live'", "at = '2025-01-01 00:00Z'", "tenant = 1"],
    ids=["link", "filter", "time", "tenant"],
)
def test_a_source_that_becomes_a_candidate_links_rows(db: Connection, change: str) -> None:
    create(db)
    run(db, "ALTER TABLE event ALTER tenant DROP NOT NULL")
    register(db)
    guard(db)
    column = change.split(maxsplit=1)[0]
    lacking = {"tenant": "NULL", "flow": "NULL", "status": "'deleted'", "at": "NULL"}[column]
    event = {"tenant": "1", "flow": "1", "status": "'live'", "at": "'2025-01-01 00:00Z'", column: lacking}
    run(db, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:30Z'), (2, 2, '2025-01-01 00:30Z')")
    run(db, f"INSERT INTO event (id, {', '.join(event)}) VALUES (50, {', '.join(event.values())})")  # noqa: S608  of this test
    assert links(db, "probe") == {1: None, 2: None}
    run(db, f"UPDATE event SET {change}")  # noqa: S608  texts of this test
    assert links(db, "probe") == {1: 1, 2: None}


def test_a_nearer_source_that_comes_later_moves_nothing(app: Connection) -> None:
    run(app, "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z')")
    run(app, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:30Z'), (2, 1, '2025-01-01 01:10Z')")
    run(app, "INSERT INTO event VALUES (51, 1, 2, 'live', '2025-01-01 00:30Z')")
    assert links(app, "probe") == {1: 1, 2: 2}  # the second one waited
    run(app, "UPDATE event SET flow = 3")
    assert links(app, "probe") == {1: 1, 2: 2}


def test_a_source_that_touches_nothing_of_interest_writes_no_row(app: Connection) -> None:
    run(app, "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z')")
    run(app, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:30Z'), (2, 1, '2025-01-02')")
    before = versions(app, "probe")
    run(app, "UPDATE event SET note = 'changed', flow = 1, at = at, status = status")
    assert versions(app, "probe") == before


def statements(app: Connection, table: str) -> Callable[[], int]:
    """Count the statements that update a table from now on."""
    run(
        app,
        "CREATE TABLE statement (); "
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO public.statement DEFAULT VALUES; RETURN NULL; END'; "
        f"CREATE TRIGGER note AFTER UPDATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION note()",
    )
    return lambda: int(one(app, "SELECT count(*) FROM statement"))


def test_a_source_in_time_for_which_no_row_waits_updates_none(own: Connection) -> None:
    """Not even no rows: what finds them is planned at each call, for a window's rows depend on the window."""
    count = statements(own, "probe")
    run(
        own,
        "INSERT INTO probe (id, tenant, flow, at) VALUES (1, 1, 1, '2025-01-01'), (2, 2, NULL, '2025-01-01'), "
        "(3, 1, NULL, '2025-01-01 01:00:00.000001Z')",
    )
    run(own, "INSERT INTO event VALUES (50, 1, NULL, 'live', '2025-01-01 00:00Z')")
    run(own, "UPDATE event SET flow = 1")
    assert (count(), links(own, "probe")) == (0, {1: 1, 2: None, 3: None})
    run(own, "UPDATE event SET at = at + '1 us'::interval")
    assert count() > 0
    assert links(own, "probe") == {1: 1, 2: None, 3: 1}


@pytest.mark.parametrize("kind", ["integer", "bigint", "text", "uuid", "numeric"])
def test_a_reference_for_which_no_row_waits_updates_none(db: Connection, kind: str) -> None:
    """A type of which the planner is not known to keep the order is followed as well, without a look before."""
    key = "md5(%s::text)::uuid" if kind == "uuid" else f"%s::{kind}"
    create(db)
    run(
        db,
        f"CREATE TABLE top (id {kind} PRIMARY KEY, tenant integer NOT NULL, flow integer); "
        f"CREATE TABLE leaf (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer, top {kind} REFERENCES top)",
    )
    run(db, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    add_links(db, ("top", "leaf"), "observe", "keep")
    add_reference(db, "leaf", "top", "top")
    guard(db, "top", "leaf")
    count = statements(db, "leaf")
    run(db, f"INSERT INTO top SELECT {key % 'n'}, 1, NULL FROM generate_series(1, 3) AS n")  # noqa: S608
    run(db, f"INSERT INTO leaf VALUES (1, 1, 2, {key % 1}), (2, 1, NULL, {key % 2})")  # noqa: S608
    run(db, f"UPDATE top SET flow = 2 WHERE id <> {key % 2}")  # noqa: S608
    assert (count(), links(db, "leaf")) == (2 if kind == "numeric" else 0, {1: 2, 2: None})
    run(db, f"UPDATE top SET flow = 3 WHERE id = {key % 2}")  # noqa: S608
    assert links(db, "leaf") == {1: 2, 2: 3}
    run(db, "UPDATE top SET flow = NULL")
    assert links(db, "leaf") == {1: None, 2: None}


@pytest.mark.parametrize("time", ["infinity", "-infinity", "294276-12-31 23:59Z", "4713-01-01 BC"])
def test_times_at_the_end_of_the_range_are_never_an_error(app: Connection, time: str) -> None:
    run(app, "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z')")
    run(app, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, %s)", time)
    run(app, "INSERT INTO event VALUES (51, 1, 1, 'live', %s)", time)
    run(app, "INSERT INTO probe (id, tenant, at) VALUES (2, 1, '2025-01-01')")
    run(app, "UPDATE event SET flow = 2 WHERE id = 51")
    assert links(app, "probe") == {1: None, 2: 1}


def test_a_day_has_24_hours_where_clocks_change(db: Connection) -> None:
    create(db)
    run(db, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    run(db, "SELECT flowguard.add_link('probe', 'flow')")
    run(
        db,
        "SELECT flowguard.add_proximity_rule('probe', 'event', '1 day', 'at', 'at', 'flow', link_column => 'flow')",
    )
    guard(db, "probe")
    # The night to 2025-03-30 has 23 hours in Berlin.
    run(db, "SET TimeZone = 'Europe/Berlin'")
    run(db, "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-03-29 12:00Z')")
    run(
        db,
        "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-03-30 12:00Z'), (2, 1, '2025-03-30 12:00:00.000001Z')",
    )
    assert links(db, "probe") == {1: 1, 2: None}


def test_a_source_linked_before_its_master_exists_links_rows_that_were_there(db: Connection) -> None:
    create(db)
    run(db, "ALTER TABLE event ADD FOREIGN KEY (flow) REFERENCES flow DEFERRABLE INITIALLY DEFERRED")
    register(db)
    guard(db)
    run(db, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:30Z')")
    with db.transaction():
        run(db, "INSERT INTO event VALUES (50, 1, 7, 'live', '2025-01-01 00:00Z')")
        run(db, "INSERT INTO flow VALUES (7, 1)")
    assert links(db, "probe") == {1: 7}


def test_children_of_a_parent_linked_before_its_master_exists(guarded: Guarded) -> None:
    db = guarded(mode="enforce")
    with db.transaction():
        run(db, "INSERT INTO parent VALUES (10, 1, 7)")
        run(db, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
        run(db, "INSERT INTO flow VALUES (7, 1)")
    assert links(db, "child") == {20: 7}


# --- A master goes


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_cascade_takes_the_rows_of_a_deleted_master(guarded: Guarded, mode: str) -> None:
    db = guarded(mode=mode, on_master_delete="cascade")
    chain_linked(db, mode=mode)
    run(db, "DELETE FROM flow WHERE id = 1")
    assert (links(db, "parent"), links(db, "child"), links(db, "grandchild"), links(db, "probe")) == ({}, {}, {}, {})


def test_refuse_keeps_the_master(guarded: Guarded) -> None:
    db = guarded(on_master_delete="refuse")
    chain_linked(db)
    with refused("23503"):
        run(db, "DELETE FROM flow WHERE id = 1")
    assert link(db, "child", 20) == 1


def test_keep_without_a_key_of_the_table_refuses(guarded: Guarded) -> None:
    db = guarded(on_master_delete="keep")
    chain_linked(db)
    with refused("23503"):
        run(db, "DELETE FROM flow WHERE id = 1")
    # At commit, that is: the order within the transaction does not matter.
    with db.transaction():
        run(db, "DELETE FROM flow WHERE id = 1")
        for table in ("grandchild", "child", "parent", "probe", "event"):
            run(db, f"DELETE FROM {table}")  # noqa: S608  tables of ours


def test_keep_does_what_the_key_of_the_table_says(db: Connection) -> None:
    create(db)
    run(db, "ALTER TABLE parent ADD CONSTRAINT own FOREIGN KEY (flow) REFERENCES flow ON DELETE CASCADE")
    register(db, on_master_delete="keep")
    guard(db)
    run(db, "INSERT INTO parent VALUES (10, 1, 1), (11, 1, 2)")
    run(db, "DELETE FROM flow WHERE id = 1")
    assert links(db, "parent") == {11: 2}


def test_set_null_leaves_no_dangling_row_although_links_are_refilled(guarded: Guarded) -> None:
    db = guarded(on_master_delete="set null")
    chain_linked(db)
    run(db, "DELETE FROM flow WHERE id = 1")
    assert (links(db, "parent"), links(db, "child")) == ({10: None}, {20: None, 21: None, 22: None})
    assert (links(db, "grandchild"), links(db, "event")) == ({30: None, 31: None, 32: None}, {50: None})
    assert links(db, "probe") == {60: None}
    assert one(db, "SELECT count(*) FROM parent WHERE tenant = 1") == 1


def test_set_null_refills_from_what_is_left(guarded: Guarded) -> None:
    db = guarded(on_master_delete="set null")
    chain_linked(db)
    run(db, "INSERT INTO event VALUES (51, 1, 2, 'live', '2025-01-01 00:59Z')")
    run(db, "DELETE FROM flow WHERE id = 1")
    assert links(db, "probe") == {60: 2}


def test_set_null_is_refused_in_enforce_where_nothing_else_is_found(guarded: Guarded) -> None:
    db = guarded(mode="enforce", on_master_delete="set null")
    chain_linked(db, mode="enforce")
    with refused("FG001"):
        run(db, "DELETE FROM flow WHERE id = 1")
    assert link(db, "grandchild", 30) == 1


def test_a_session_key_of_the_deleted_master_does_not_come_back(guarded: Guarded) -> None:
    db = guarded(on_master_delete="set null")
    chain_linked(db)
    with db.transaction():
        run(db, "SET LOCAL flowguard.flow = '1'")
        run(db, "DELETE FROM flow WHERE id = 1")
    assert links(db, "parent") == {10: None}


def test_a_master_key_that_changes_leaves_nothing_dangling(app: Connection) -> None:
    chain_to = "UPDATE parent SET flow = 1"
    run(app, chain_to)
    with refused("23503"):
        run(app, "UPDATE flow SET id = 100 WHERE id = 1")
    assert link(app, "child", 20) == 1


def test_no_dangling_value_is_accepted_in_observe_either(app: Connection) -> None:
    for table in ("parent", "child", "grandchild", "event", "probe"):
        with refused("23503") as refusal:
            run(app, f"INSERT INTO {table} (id, tenant, flow) VALUES (99, 1, 404)")  # noqa: S608  tables of ours
        assert refusal.table == table
        with refused("23503"):
            run(app, f"INSERT INTO {table} (id, tenant, flow) VALUES (99, 1, 9)")  # noqa: S608  of another tenant
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        run(app, "INSERT INTO probe (id, tenant, flow) VALUES (99, NULL, 404)")


def chain_linked(connection: Connection, *, mode: str = "observe") -> None:
    chain_to_flow = 1
    if mode == "enforce":
        run(connection, "INSERT INTO parent VALUES (10, 1, 1)")
        run(connection, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
        run(connection, "INSERT INTO grandchild (id, tenant, child) VALUES (30, 1, 20)")
    else:
        chain(connection, chain_to_flow)
        run(connection, "UPDATE child SET flow = 1 WHERE id = 22")
        run(connection, "UPDATE grandchild SET flow = 1 WHERE id = 32")
    run(connection, "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z')")
    run(connection, "INSERT INTO probe (id, tenant, at) VALUES (60, 1, '2025-01-01 00:30Z')")
    assert link(connection, "grandchild", 30) == link(connection, "probe", 60) == 1
