"""What undo() puts back, what it leaves and says so, and when it refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import TABLES, create, guard, links, register
from psycopg.conninfo import make_conninfo
from repair.calls import changes, dump, repair, run_row, undo
from waiting import beside, wait_until

from pyflowguard import repair as repairs

REVERT_LEDGER = Path(__file__).parents[2] / "revert" / "ledger.sql"
WAITING = """
SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
 WHERE NOT l.granted AND a.datname = current_database()
"""


@pytest.fixture
def app(db: Connection) -> Connection:
    """The small application of the engine's tests, registered in observe, with rows from before any guard."""
    create(db)
    register(db)
    run(db, "INSERT INTO event VALUES (50, 1, 2, 'live', '2025-01-01 00:00Z')")
    run(db, "INSERT INTO parent VALUES (10, 1, 1), (11, 1, NULL), (12, 1, 77)")
    run(db, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 1, 11), (22, 1, 10)")
    run(db, "INSERT INTO grandchild (id, tenant, child) VALUES (30, 1, 20)")
    run(db, "INSERT INTO probe VALUES (60, 1, NULL, '2025-01-01 00:30Z')")
    return db


def test_all_goes_back(app: Connection) -> None:
    before = dump(app, *TABLES)
    done = repair(app)
    assert (done.linked, done.quarantined) == (4, 1)
    assert undo(app, done.id) == (5, 0, 0)
    assert dump(app, *TABLES) == before
    said = run_row(app, done.id)
    assert (said["status"], said["restored"], said["skipped"]) == ("undone", 5, 0)
    assert rows(app, "SELECT DISTINCT undone FROM flowguard.run_change WHERE run_id = %s", done.id) == [("restored",)]


def test_twice_changes_nothing(app: Connection) -> None:
    done = repair(app)
    undo(app, done.id)
    before = dump(app, *TABLES, "flowguard.repair_run", "flowguard.repair_change", "flowguard.quarantined_row")
    assert undo(app, done.id) == (0, 0, 0)
    assert dump(app, *before) == before


@pytest.mark.parametrize("piece", [1, 2, 3, 100])
def test_in_pieces(app: Connection, piece: int) -> None:
    before = dump(app, *TABLES)
    done = repair(app)
    left = 5
    while left:
        restored, skipped, remaining = undo(app, done.id, max_rows=piece)
        assert (restored, skipped, remaining) == (min(piece, left), 0, max(left - piece, 0))
        left = remaining
        assert run_row(app, done.id)["status"] == ("undoing" if left else "undone")
    assert dump(app, *TABLES) == before


@pytest.mark.parametrize("piece", [0, -1])
def test_an_impossible_piece(app: Connection, piece: int) -> None:
    done = repair(app)
    before = dump(app, *TABLES)
    with refused("FG104") as refusal:
        undo(app, done.id, max_rows=piece)
    refusal.says("max_rows")
    assert dump(app, *TABLES) == before


def test_rows_changed_since_are_skipped_and_reported(app: Connection) -> None:
    done = repair(app)
    run(app, "UPDATE child SET flow = 3 WHERE id = 20")
    run(app, "UPDATE probe SET note = 'another column'")
    run(app, "DELETE FROM child WHERE id = 22")
    assert undo(app, done.id) == (3, 2, 0)
    assert links(app, "child") == {20: 3, 21: None}
    assert links(app, "probe") == {60: None}
    assert one(app, "SELECT note FROM probe") == "another column"
    assert rows(app, "SELECT row_key, undone FROM flowguard.run_change WHERE table_name = 'child' ORDER BY 1") == [
        ({"id": 20}, "skipped"),
        ({"id": 22}, "skipped"),
    ]
    assert run_row(app, done.id)["skipped"] == 2


def test_two_runs_undone_in_either_order(app: Connection) -> None:
    before = dump(app, *TABLES)
    first = repair(app)
    run(app, "INSERT INTO parent VALUES (13, 1, 78)")
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (23, 1, 10)")
    second = repair(app)
    undo(app, first.id)
    undo(app, second.id)
    assert links(app, "child") == {20: None, 21: None, 22: None, 23: None}
    assert links(app, "parent") == {10: 1, 11: None, 12: 77, 13: 78}
    run(app, "DELETE FROM parent WHERE id = 13; DELETE FROM child WHERE id = 23")
    assert dump(app, *TABLES) == before


def test_a_row_quarantined_after_it_was_translated(db: Connection) -> None:
    create(db)
    run(db, "ALTER TABLE flow ADD alias integer; UPDATE flow SET alias = 100 + id")
    run(db, "SELECT flowguard.add_master('flow', 'id', '{tenant}', alternate_keys => '{alias}')")
    run(db, "SELECT flowguard.add_link('parent', 'flow')")
    run(db, "INSERT INTO parent VALUES (10, 1, 101)")
    before = dump(db, "parent")
    first = repair(db)
    run(db, "DELETE FROM flow WHERE id = 1")
    second = repair(db)
    assert (first.translated, second.quarantined) == (1, 1)
    undo(db, second.id)
    assert links(db, "parent") == {10: 1}
    undo(db, first.id)
    assert dump(db, "parent") == before


# --- Under the guard


def test_moves_that_late_linking_made_because_of_the_run_go_back(app: Connection) -> None:
    run(app, "ALTER TABLE flow ADD alias integer; UPDATE flow SET alias = 100 + id")
    run(app, "SELECT flowguard.drop_link(t, 'flow') FROM unnest('{grandchild,child,probe,event,parent}'::regclass[]) t")
    run(app, "SELECT flowguard.drop_master('flow')")
    run(app, "SELECT flowguard.add_master('flow', 'id', '{tenant}', alternate_keys => '{alias}')")
    for table in ("parent", "child", "grandchild"):
        run(app, "SELECT flowguard.add_link(%s::regclass, 'flow')", table)
    for table, source in (("child", "parent"), ("grandchild", "child")):
        run(
            app,
            "SELECT flowguard.add_reference_rule(%s::regclass, %s, %s::regclass, source_link => 'flow', "
            "link_column => 'flow')",
            table,
            source,
            source,
        )
    run(app, "TRUNCATE parent CASCADE")
    run(app, "INSERT INTO parent VALUES (10, 1, 101)")
    run(app, "INSERT INTO child (id, tenant, parent, flow) VALUES (20, 1, 10, NULL), (21, 1, 10, 101), (22, 1, 10, 1)")
    run(app, "INSERT INTO grandchild (id, tenant, child) VALUES (30, 1, 20), (31, 1, 21)")
    for table in ("parent", "child", "grandchild"):
        guard(app, table)
    before = dump(app, *TABLES)

    done = repair(app, "parent", link_column="flow")
    assert (done.translated, run_row(app, done.id)["followed"]) == (1, 4)
    written = changes(app, done.id)
    assert {(table, key["id"], kind) for table, key, kind, _, _ in written} == {
        ("parent", 10, "translated"),
        ("child", 20, "followed"),
        ("child", 21, "followed"),
        ("grandchild", 30, "followed"),
        ("grandchild", 31, "followed"),
    }
    # What the application writes afterwards, and what follows that, is not the run's.
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (23, 1, 10)")
    assert links(app, "child") == {20: 1, 21: 1, 22: 1, 23: 1}
    for table in ("parent", "child", "grandchild"):
        run(app, "SELECT flowguard.unguard(%s::regclass, 'flow')", table)
    assert undo(app, done.id) == (5, 0, 0)
    assert links(app, "child") == {20: None, 21: 101, 22: 1, 23: 1}
    run(app, "DELETE FROM child WHERE id = 23")
    assert dump(app, *TABLES) == before


def test_under_the_guard_nothing_is_refilled_or_followed(app: Connection) -> None:
    run(app, "DELETE FROM parent WHERE id = 12")
    guard(app)
    before = dump(app, *TABLES)
    done = repair(app)
    assert done.linked > 0
    undo(app, done.id)
    assert dump(app, *TABLES) == before
    # The rest of the transaction is guarded as any other.
    again = repair(app)
    with app.transaction():
        undo(app, again.id)
        run(app, "INSERT INTO child (id, tenant, parent) VALUES (24, 1, 10)")
        assert links(app, "child")[24] == 1


def test_under_the_guard_what_followed_after_the_run_stays(app: Connection) -> None:
    run(app, "DELETE FROM parent WHERE id = 12")
    guard(app)
    done = repair(app)
    run(app, "INSERT INTO grandchild (id, tenant, child) VALUES (31, 1, 20)")
    assert links(app, "grandchild") == {30: 1, 31: 1}
    undo(app, done.id)
    # The row that came later is not the run's, though the link that it took from its child was.
    assert (links(app, "child")[20], links(app, "grandchild")) == (None, {30: None, 31: 1})


def test_what_the_application_moved_on_is_left(app: Connection) -> None:
    run(app, "DELETE FROM parent WHERE id = 12")
    guard(app)
    done = repair(app)
    run(app, "UPDATE parent SET flow = 2 WHERE id = 10")
    assert links(app, "child") == {20: 2, 21: None, 22: 2}
    restored, skipped, remaining = undo(app, done.id)
    assert (restored, skipped, remaining) == (1, 3, 0)
    assert links(app, "child") == {20: 2, 21: None, 22: 2}


# --- Refusals


def test_an_unknown_run(app: Connection) -> None:
    with refused("FG201") as refusal:
        undo(app, 4711)
    refusal.says("4711", "flowguard.run")
    with refused("FG201"):
        run(app, "SELECT flowguard.undo(NULL)")


def test_enforce_forbids_what_would_unlink(app: Connection) -> None:
    run(app, "DELETE FROM parent WHERE id IN (11, 12)")
    done = repair(app)
    guard(app)
    run(app, "SELECT flowguard.set_mode('child', 'enforce', 'flow')")
    before = dump(app, *TABLES)
    with refused("FG202") as refusal:
        undo(app, done.id)
    refusal.says("child", "set_mode", "observe")
    assert dump(app, *TABLES) == before
    run(app, "SELECT flowguard.set_mode('child', 'observe', 'flow')")
    assert undo(app, done.id)[2] == 0


def test_the_whole_run_is_looked_at_before_a_part_is_undone(app: Connection) -> None:
    """The last link of the run, with which undo begins, might go; the first might not."""
    run(app, "DELETE FROM parent WHERE id IN (11, 12)")
    done = repair(app)
    assert changes(app, done.id)[-1][0] == "grandchild"
    guard(app)
    run(app, "SELECT flowguard.set_mode('child', 'enforce', 'flow')")
    before = dump(app, *TABLES)
    with refused("FG202"):
        undo(app, done.id, max_rows=1)
    assert dump(app, *TABLES) == before
    assert run_row(app, done.id)["status"] == "finished"


def test_what_is_forbidden_since_it_began_stops_it_there(app: Connection) -> None:
    run(app, "DELETE FROM parent WHERE id IN (11, 12)")
    run(app, "DELETE FROM grandchild; DELETE FROM child WHERE id = 21")
    done = repair(app)
    guard(app)
    assert undo(app, done.id, max_rows=1) == (1, 0, 2)
    run(app, "SELECT flowguard.set_mode('child', 'enforce', 'flow')")
    with refused("FG202"):
        undo(app, done.id, max_rows=1)
    assert (links(app, "child"), links(app, "probe")) == ({20: 1, 22: 1}, {60: None})
    run(app, "SELECT flowguard.set_mode('child', 'observe', 'flow')")
    assert undo(app, done.id) == (2, 0, 0)
    said = run_row(app, done.id)
    assert (said["status"], said["restored"]) == ("undone", 3)


def test_foreign_keys_that_forbid_it_are_named_each(db: Connection) -> None:
    run(
        db,
        "CREATE TABLE flow (id integer PRIMARY KEY, tenant integer, created_at timestamptz, alias integer,"
        " UNIQUE (tenant, id)); INSERT INTO flow VALUES (1, 1, NULL, 101);"
        "CREATE TABLE parent (id integer PRIMARY KEY, tenant integer, flow integer);"
        'CREATE TABLE "Side" (id integer PRIMARY KEY, flow integer);'
        'INSERT INTO parent VALUES (10, 1, 77), (11, 1, 101); INSERT INTO "Side" VALUES (20, 101)',
    )
    run(db, "SELECT flowguard.add_master('flow', 'id', '{tenant}', alternate_keys => '{alias}')")
    run(db, "SELECT flowguard.add_link('parent', 'flow'), flowguard.add_link('\"Side\"', 'flow')")
    before = dump(db, "parent", '"Side"')
    done = repair(db)
    assert (done.quarantined, done.translated) == (1, 2)
    guard(db, "parent")
    run(db, 'ALTER TABLE "Side" ADD CONSTRAINT "Own" FOREIGN KEY (flow) REFERENCES flow')
    run(db, "ALTER TABLE parent ADD CONSTRAINT apps_own FOREIGN KEY (flow) REFERENCES flow")
    with refused("FG203") as refusal:
        undo(db, done.id)
    refusal.says('"Own"', '"Side"', "apps_own", "flowguard_parent_flow_tenant_fkey", "unguard", f"undo({done.id})")
    run(db, "SELECT flowguard.unguard('parent', 'flow')")
    with refused("FG203") as refusal:
        undo(db, done.id)
    assert "flowguard_" not in refusal.detail
    refusal.says('"Own"', "apps_own")
    run(db, "ALTER TABLE parent DROP CONSTRAINT apps_own")
    with refused("FG203") as refusal:
        undo(db, done.id)
    assert "apps_own" not in refusal.detail
    run(db, 'ALTER TABLE "Side" DROP CONSTRAINT "Own"')
    assert undo(db, done.id) == (3, 0, 0)
    assert dump(db, *before) == before


def test_a_quarantined_child_whose_parent_is_gone_is_refused_by_name(db: Connection) -> None:
    run(
        db,
        "CREATE TABLE flow (id integer PRIMARY KEY, created_at timestamptz);"
        "CREATE TABLE site (id integer PRIMARY KEY); INSERT INTO site VALUES (1);"
        "CREATE TABLE parent (id integer PRIMARY KEY, flow integer,"
        " site integer CONSTRAINT at_site REFERENCES site);"
        "INSERT INTO parent VALUES (10, 77, 1)",
    )
    run(db, "SELECT flowguard.add_master('flow', 'id', '{}'), flowguard.add_link('parent', 'flow')")
    done = repair(db)
    run(db, "DELETE FROM site")
    with refused("FG203") as refusal:
        undo(db, done.id)
    refusal.says("at_site")
    run(db, "INSERT INTO site VALUES (1)")
    assert undo(db, done.id) == (1, 0, 0)


def test_other_constraints_that_forbid_it_are_named(db: Connection) -> None:
    """DESIGN 3.7: a quarantined row comes back when all that forbids it is gone; the refusal names it."""
    run(
        db,
        "CREATE TABLE flow (id integer PRIMARY KEY, created_at timestamptz);"
        "CREATE TABLE parent (id integer PRIMARY KEY, flow integer, code text);"
        "INSERT INTO parent VALUES (10, 77, 'x')",
    )
    run(db, "SELECT flowguard.add_master('flow', 'id', '{}'), flowguard.add_link('parent', 'flow')")
    before = dump(db, "parent")
    done = repair(db)
    run(db, "ALTER TABLE parent ADD CONSTRAINT long_code CHECK (length(code) > 3)")
    with refused("FG203", "23514") as refusal:
        undo(db, done.id)
    assert "long_code" in refusal.message + refusal.detail
    run(db, "ALTER TABLE parent DROP CONSTRAINT long_code")
    run(db, "INSERT INTO parent VALUES (10, NULL, 'the same key')")
    with refused("FG203", "23505") as refusal:
        undo(db, done.id)
    assert "parent_pkey" in refusal.message + refusal.detail
    assert rows(db, "SELECT code FROM parent") == [("the same key",)]
    run(db, "DELETE FROM parent")
    assert undo(db, done.id) == (1, 0, 0)
    assert dump(db, "parent") == before


TRIGGER = """
CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} RETURN NEW; END $$;
CREATE TRIGGER change BEFORE {} ON parent FOR EACH ROW EXECUTE FUNCTION change();
"""


def test_a_trigger_that_sets_a_column_on_insert_only_is_put_right(app: Connection) -> None:
    before = dump(app, *TABLES)
    done = repair(app)
    run(app, TRIGGER.format("NEW.note := 'seen';", "INSERT"))
    undo(app, done.id)
    assert dump(app, *TABLES) == before


@pytest.mark.parametrize("body", ["NEW.note := 'seen';", "RETURN NULL;", "NEW.id := NEW.id + 1000;"])
def test_a_trigger_that_changes_the_restored_row_is_an_error(app: Connection, body: str) -> None:
    done = repair(app)
    run(app, TRIGGER.format(body, "INSERT OR UPDATE"))
    before = dump(app, *TABLES)
    with refused("FG204") as refusal:
        undo(app, done.id)
    refusal.says('{"id": 12}', "parent", "trigger", "flowguard.undo(")
    assert dump(app, *TABLES) == before
    run(app, "DROP TRIGGER change ON parent")
    assert undo(app, done.id)[2] == 0


def test_a_trigger_that_forbids_it_says_so_itself(app: Connection) -> None:
    done = repair(app)
    run(app, TRIGGER.format("RAISE EXCEPTION 'closed' USING ERRCODE = 'P1234';", "INSERT"))
    with refused("P1234"):
        undo(app, done.id)
    assert one(app, "SELECT count(*) FROM flowguard.quarantine") == 1


def test_the_ledger_is_not_dropped_while_it_holds_rows(app: Connection) -> None:
    done = repair(app)
    with refused("FG205") as refusal:
        run(app, REVERT_LEDGER.read_text())
    run(app, "ROLLBACK")
    refusal.says("1 rows", "undo(run_id)")
    assert one(app, "SELECT count(*) FROM flowguard.quarantine") == 1
    undo(app, done.id)
    # Now it gets past the guard of the quarantine, to what still uses the ledger.
    with refused("2BP01", "FG000") as refusal:
        run(app, REVERT_LEDGER.read_text() + "DO $$BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'FG000'; END$$")
    run(app, "ROLLBACK")


def test_a_run_that_still_runs(app: Connection, session: Callable[[], Connection]) -> None:
    other = session()
    pid = other.info.backend_pid
    ended: list[str | None] = []

    def call() -> None:
        try:
            repair(other, "child", link_column="flow", max_rate=1)
        except psycopg.Error as error:
            ended.append(error.sqlstate)

    thread = threading.Thread(target=call)
    thread.start()
    while not rows(app, "SELECT FROM flowguard.run WHERE status = 'running' AND linked > 0"):
        pass
    with refused("FG206") as refusal:
        undo(app, 1)
    refusal.says(str(pid), "flowguard.undo(")
    run(app, "SELECT pg_terminate_backend(%s)", pid)
    thread.join()
    assert ended == ["57P01"]
    while one(app, "SELECT count(*) FROM pg_stat_activity WHERE pid = %s", pid):
        pass
    assert undo(app, 1) == (1, 0, 0)


def test_a_table_that_is_gone(app: Connection) -> None:
    done = repair(app)
    run(app, "ALTER TABLE probe RENAME TO probe_2")
    with refused("FG101") as refusal:
        undo(app, done.id)
    refusal.says("probe")
    run(app, "ALTER TABLE probe_2 RENAME TO probe")
    assert undo(app, done.id)[2] == 0


def test_a_quarantined_rows_table_that_is_gone(app: Connection) -> None:
    done = repair(app, "parent", link_column="flow")
    assert done.quarantined == 1
    run(app, "ALTER TABLE parent RENAME TO parent_2")
    with refused("FG101") as refusal:
        undo(app, done.id)
    refusal.says("parent")
    run(app, "ALTER TABLE parent_2 RENAME TO parent; ALTER TABLE parent RENAME note TO remark")
    with refused("FG102", "FG204") as refusal:
        undo(app, done.id)
    refusal.says("note")
    run(app, "ALTER TABLE parent RENAME remark TO note")
    assert undo(app, done.id) == (1, 0, 0)


def test_a_column_that_came_since_gets_its_default(app: Connection) -> None:
    done = repair(app)
    run(app, "ALTER TABLE parent ADD since text DEFAULT 'new'")
    undo(app, done.id)
    assert rows(app, "SELECT flow, since FROM parent WHERE id = 12") == [(77, "new")]


def test_undo_needs_no_more_than_the_owners_rights(app: Connection) -> None:
    """Neither session_replication_role nor DISABLE TRIGGER: the application's triggers run, and are not replaced."""
    run(app, "CREATE TABLE seen (what text)")
    run(app, TRIGGER.format("INSERT INTO seen VALUES (TG_OP);", "INSERT OR UPDATE"))
    done = repair(app)
    undo(app, done.id)
    assert ("INSERT",) in rows(app, "SELECT what FROM seen")
    assert one(app, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False


def test_the_command_tries_again_after_a_deadlock(
    app: Connection, session: Callable[[], Connection], as_role: Callable[[str, str], str]
) -> None:
    """A writer that never looks for a deadlock holds one row and wants another; undo gives way, and comes again."""
    run(app, "INSERT INTO child (id, tenant, parent) SELECT n, 1, 10 FROM generate_series(100, 120) n")
    before = dump(app, *TABLES)
    done = repair(app)
    admin = as_role(app.info.dsn, "postgres")
    observer = session()
    writer = psycopg.connect(make_conninfo(admin, options="-c deadlock_timeout=1min"))
    run(writer, "UPDATE child SET note = note WHERE id = 110")
    undoes = make_conninfo(admin, options="-c deadlock_timeout=3s")
    with beside(lambda: repairs.undo(done.id, undoes)) as undoing, writer:
        wait_until(lambda: one(observer, WAITING) == 1, "undo to wait for the writer")
        free = {row for (row,) in rows(observer, "SELECT id FROM child FOR UPDATE SKIP LOCKED")}
        held = min(set(range(100, 121)) - free - {110})
        run(writer, f"UPDATE child SET note = note WHERE id = {held}")  # noqa: S608  a number
    assert undoing.result() == repairs.Undone(done.linked + done.quarantined, 0, 0)
    assert dump(app, *TABLES) == before
