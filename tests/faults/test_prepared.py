"""Prepared transactions, which outlive their session and even the server: repair, undo and guard beside them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from concurrency.invariants import State
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import link, links
from waiting import PATIENCE, beside, wait_until, waiting

from pyflowguard import online, repair
from pyflowguard.errors import ExitCode, LockNotObtained

SHORT = timedelta(milliseconds=300)
ENDS = ["COMMIT", "ROLLBACK"]


@pytest.fixture(autouse=True)
def none_is_left(admin: Connection) -> Iterator[None]:
    """End what a test that failed left prepared: the database could not be dropped."""
    yield
    for (gid,) in rows(admin, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"):
        run(admin, f"ROLLBACK PREPARED '{gid}'")


def prepare(app: Connection, gid: str, *statements: str) -> str:
    """Do this in a transaction and prepare it, under a name that no other database uses."""
    name = f"{gid} {app.info.dbname}"
    run(app, "BEGIN")
    for statement in statements:
        run(app, statement)
    run(app, f"PREPARE TRANSACTION '{name}'")
    return name


def holds(app: Connection) -> None:
    """Check invariants 1 to 4 of what is committed."""
    state = State(app)
    wrong = {row: kind for row, kind in state.kinds().items() if kind != "linked"}
    assert "dangling" not in wrong.values()
    assert not state.foreign()
    assert not state.behind()
    found = rows(app, "SELECT relation::text, (row_key ->> 'id')::int, kind FROM flowguard.violation")
    assert {(table, key): kind for table, key, kind in found} == wrong


def test_a_row_that_was_filled_is_linked_once_it_is_committed(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, 2)")
    name = prepare(app, "filled", "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    # Repair does not see it, and waits for nobody.
    run(app, "SET lock_timeout = '5s'")
    run(app, "CALL flowguard.repair()")
    assert links(app, "child") == {}
    # What its link rests on cannot be taken away meanwhile.
    run(app, "SET lock_timeout = '100ms'")
    with refused("55P03"):
        run(app, "UPDATE parent SET flow = 3 WHERE id = 10")
    with refused("55P03"):
        run(app, "DELETE FROM flow WHERE id = 2")
    run(app, f"COMMIT PREPARED '{name}'")
    assert links(app, "child") == {20: 2}
    holds(app)


@pytest.mark.parametrize("end", ENDS)
def test_repair_waits_for_a_late_link_that_is_prepared(app: Connection, admin: Connection, end: str) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1)")
    run(app, "INSERT INTO child (id, tenant, parent) SELECT n, 1, 10 FROM generate_series(20, 29) n")
    name = prepare(app, "late", "UPDATE parent SET flow = 3 WHERE id = 10")
    with beside(lambda: repair.repair(app.info.dsn, batch_size=3)) as mending:
        wait_until(lambda: bool(waiting(admin, "flowguard.repair")), "repair to wait")
        run(app, f"{end} PREPARED '{name}'")
        done = mending.result(PATIENCE)
    flow = 3 if end == "COMMIT" else None
    assert set(links(app, "child").values()) == {flow}
    assert link(app, "parent", 10) == flow
    # Late linking was faster than repair, which wrote nothing and says so.
    assert (done.linked, done.remaining) == (0, 0 if flow else 11)
    assert rows(app, "SELECT FROM flowguard.run_change") == []
    holds(app)


@pytest.mark.parametrize("end", ENDS)
def test_undo_waits_for_a_row_that_is_prepared_and_leaves_it(
    registered: Connection, admin: Connection, end: str
) -> None:
    app = registered
    run(app, "INSERT INTO parent VALUES (10, 1, 2)")
    run(app, "INSERT INTO child (id, tenant, parent) SELECT n, 1, 10 FROM generate_series(20, 29) n")
    done = repair.repair(app.info.dsn)
    assert done.run_id is not None
    run_id = done.run_id
    name = prepare(app, "written", "UPDATE child SET flow = 3 WHERE id = 24")
    with beside(lambda: repair.undo(run_id, app.info.dsn)) as undoing:
        wait_until(lambda: bool(waiting(admin, "flowguard.undo")), "undo to wait")
        run(app, f"{end} PREPARED '{name}'")
        undone = undoing.result(PATIENCE)
    skipped = int(end == "COMMIT")
    assert (undone.restored, undone.skipped, undone.remaining) == (10 - skipped, skipped, 0)
    assert links(app, "child") == {n: 3 if skipped and n == 24 else None for n in range(20, 30)}


def test_guard_names_a_prepared_transaction_that_is_in_its_way(registered: Connection) -> None:
    app = registered
    name = prepare(app, "forgotten", "INSERT INTO child (id, tenant) VALUES (20, 1)")
    with pytest.raises(LockNotObtained) as caught:
        online.guard(app.info.dsn, ["child"], link_column="flow", lock_timeout=SHORT, deadline=2 * SHORT)
    error = caught.value
    assert error.exit_code is ExitCode.FAILED
    assert error.hint is not None
    assert f"These use the tables: prepared transaction '{name}'. " in error.hint
    assert error.hint.endswith("COMMIT PREPARED or ROLLBACK PREPARED, by whoever prepared it.")
    # As it says: ended, the next run goes on.
    run(app, f"COMMIT PREPARED '{name}'")
    left = online.guard(app.info.dsn, ["child"], link_column="flow", lock_timeout=SHORT)
    assert left.not_valid == ()
    assert one(app, "SELECT count(*) FROM flowguard.guard_plan('child', 'flow')") == 0


def test_a_row_prepared_before_the_guard_is_what_repair_is_for(registered: Connection, admin: Connection) -> None:
    """Guard waits for it: nothing that was written without a guard is overlooked when keys are validated."""
    app = registered
    name = prepare(app, "early", "INSERT INTO parent VALUES (10, 1, 77)")
    with beside(lambda: online.guard(app.info.dsn, ["parent"], link_column="flow")) as guarding:
        wait_until(
            lambda: bool(waiting(admin, "INDEX")) or bool(waiting(admin, "TRIGGER")) or bool(waiting(admin, "ALTER")),
            "guard to wait",
        )
        run(app, f"COMMIT PREPARED '{name}'")
        guarded = guarding.result(PATIENCE)
    assert [step.link.relation for step, _ in guarded.not_valid] == ["parent"]
    assert repair.repair(app.info.dsn).quarantined == 1
    assert online.guard(app.info.dsn).not_valid == ()
