"""Repair while others write: nothing is lost, nothing dangles, and a run that was broken off is simply called again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
import pytest
from engine.postgres import Connection, one, rows, run
from engine.tables import create, guard, links, register
from psycopg.conninfo import make_conninfo
from repair.calls import Run, dump, repair, run_row, undo

SLOW = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$;
CREATE TRIGGER slow BEFORE UPDATE ON child FOR EACH ROW EXECUTE FUNCTION slow();
"""


@dataclass
class Background:
    """A repair in another session, in a thread of its own."""

    connection: Connection
    batch_size: int = 5000
    done: list[Run] = field(default_factory=list)
    failed: list[psycopg.Error] = field(default_factory=list)

    def __call__(self) -> None:
        try:
            self.done.append(repair(self.connection, batch_size=self.batch_size))
        except psycopg.Error as error:
            self.failed.append(error)


@contextmanager
def in_background(connection: Connection, batch_size: int = 5000) -> Iterator[Background]:
    """Repair while the block runs, and wait for it at its end."""
    background = Background(connection, batch_size)
    thread = threading.Thread(target=background)
    thread.start()
    try:
        yield background
    finally:
        thread.join(60)
        assert not thread.is_alive()


def wait_until(connection: Connection, query: str, *parameters: object) -> None:
    """Wait until a query is true."""
    deadline = time.monotonic() + 20
    while not one(connection, query, *parameters):
        assert time.monotonic() < deadline, query
        time.sleep(0.005)


def wait_for_lock(connection: Connection, waiting: Connection) -> None:
    """Wait until the other session waits for a lock."""
    pid = waiting.info.backend_pid
    wait_until(connection, "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s", pid)


@pytest.fixture
def app(db: Connection) -> Connection:
    """The small application, registered in observe and not guarded, with rows from before."""
    create(db)
    register(db)
    run(db, "INSERT INTO parent SELECT n, 1, 1 FROM generate_series(1, 5) n")
    run(db, "INSERT INTO child (id, tenant, parent) SELECT n, 1, n % 5 + 1 FROM generate_series(1, 20) n")
    return db


def wrong(connection: Connection) -> list[tuple[object, ...]]:
    return rows(connection, "SELECT relation, row_key, kind FROM flowguard.violation")


def test_a_parent_linked_anew_meanwhile(app: Connection, session: Callable[[], Connection]) -> None:
    guard(app)
    writer, mender = session(), session()
    with in_background(mender) as background, writer.transaction():
        run(writer, "UPDATE parent SET flow = 2 WHERE id IN (1, 3)")
        wait_until(app, "SELECT count(*) > 0 FROM flowguard.run")
        # Whether it came before or after, children agree with their parents.
    assert not background.failed
    repair(app)
    assert wrong(app) == []
    parents = links(app, "parent")
    assert links(app, "child") == {n: parents[n % 5 + 1] for n in range(1, 21)}


def test_a_row_that_is_locked_is_waited_for_and_judged_again(
    app: Connection, session: Callable[[], Connection]
) -> None:
    writer, mender = session(), session()
    run(writer, "BEGIN")
    run(writer, "UPDATE child SET flow = 3, note = 'mine' WHERE id = 7")
    with in_background(mender) as background:
        wait_for_lock(app, mender)
        run(writer, "COMMIT")
    assert not background.failed
    assert links(app, "child")[7] == 3
    assert background.done[0].linked == 19
    assert one(app, "SELECT count(*) FROM flowguard.run_change WHERE row_key = '{\"id\": 7}'") == 0


def with_deadlock_timeout(app: Connection, session: Callable[[], Connection], timeout: str) -> Connection:
    """Open a session that looks for a deadlock after that time; only a superuser may say so."""
    superuser = make_conninfo(app.info.dsn, user="postgres")
    with psycopg.connect(superuser, autocommit=True) as connection:
        run(connection, f"ALTER DATABASE {app.info.dbname} SET deadlock_timeout = '{timeout}'")
    return session()


def test_a_deadlock_is_tried_again(app: Connection, session: Callable[[], Connection]) -> None:
    run(
        app,
        "CREATE SEQUENCE written;"
        "CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM nextval('written'); RETURN NEW; END $$;"
        "CREATE TRIGGER count_it BEFORE UPDATE ON child FOR EACH ROW EXECUTE FUNCTION count_it()",
    )
    writer, mender = with_deadlock_timeout(app, session, "30s"), with_deadlock_timeout(app, session, "300ms")
    run(writer, "BEGIN")
    run(writer, "UPDATE child SET note = 'mine' WHERE id = 11")
    with in_background(mender) as background:
        wait_for_lock(app, mender)
        free = {row for (row,) in rows(app, "SELECT id FROM child FOR UPDATE SKIP LOCKED")}
        held = min(set(range(1, 21)) - free - {11})
        # Repair holds that row and waits for row 11: now each waits for the other, and it is repair that gives way.
        run(writer, "UPDATE child SET note = 'mine' WHERE id = %s", held)
        run(writer, "COMMIT")
    assert not background.failed
    # A sequence does not go back with the transaction: some rows were written twice.
    assert one(app, "SELECT last_value FROM written") > 20 + 2
    assert background.done[0].linked == 20
    assert {row for (row,) in rows(app, "SELECT id FROM child WHERE note = 'mine'")} == {11, held}
    assert one(app, "SELECT count(*) FROM flowguard.run_change") == 20
    assert wrong(app) == []


def test_two_repairs_at_once(app: Connection, session: Callable[[], Connection]) -> None:
    run(app, "INSERT INTO child (id, tenant, parent) SELECT n, 1, n % 5 + 1 FROM generate_series(21, 200) n")
    run(app, "INSERT INTO parent SELECT n, 1, 77 FROM generate_series(6, 20) n")
    before = dump(app, "parent", "child")
    with in_background(session(), 7) as one_run, in_background(session(), 11) as other_run:
        pass
    assert not one_run.failed + other_run.failed
    done = one_run.done + other_run.done
    assert sum(run.linked for run in done) == 200
    assert sum(run.quarantined for run in done) == 15
    assert one(app, "SELECT count(*) FROM flowguard.run_change") == 200
    assert wrong(app) == []
    for finished in done:
        assert undo(app, finished.id)[1:] == (0, 0)
    assert dump(app, "parent", "child") == before


def test_new_rows_written_meanwhile_are_the_guards(app: Connection, session: Callable[[], Connection]) -> None:
    guard(app)
    run(app, SLOW)
    writer = session()
    with in_background(session(), 2) as background:
        for n in range(100, 120):
            run(writer, "INSERT INTO child (id, tenant, parent) VALUES (%s, 1, 1)", n)
    assert not background.failed
    assert wrong(app) == []
    assert background.done[0].linked == 20


def test_a_run_killed_in_the_middle_is_called_again(app: Connection, session: Callable[[], Connection]) -> None:
    run(app, SLOW)
    before = dump(app, "parent", "child")
    mender = session()
    with in_background(mender, 1) as background:
        wait_until(app, "SELECT count(*) >= 5 FROM flowguard.run_change")
        run(app, "SELECT pg_terminate_backend(%s)", mender.info.backend_pid)
    assert len(background.failed) == 1
    first = one(app, "SELECT run_id FROM flowguard.run")
    committed = one(app, "SELECT count(*) FROM flowguard.run_change")
    assert 5 <= committed < 20
    assert one(app, "SELECT count(*) FROM child WHERE flow IS NOT NULL") == committed
    assert run_row(app, first)["linked"] == committed
    assert "run_stopped" in {name for (name,) in rows(app, "SELECT name FROM flowguard.check_all()")}

    second = repair(app)
    assert second.linked == 20 - committed
    assert run_row(app, first)["status"] == "stopped"
    assert one(app, "SELECT count(DISTINCT row_key) FROM flowguard.run_change") == 20
    assert one(app, "SELECT count(*) FROM flowguard.run_change") == 20
    assert wrong(app) == []

    # Both can be taken back; the one that was stopped, as far as it went.
    assert undo(app, first) == (committed, 0, 0)
    assert undo(app, second.id) == (20 - committed, 0, 0)
    assert dump(app, "parent", "child") == before


def test_a_quarantine_killed_in_the_middle_loses_nothing(app: Connection, session: Callable[[], Connection]) -> None:
    run(
        app,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(0.05); RETURN OLD; END $$;"
        "CREATE TRIGGER slow BEFORE DELETE ON parent FOR EACH ROW EXECUTE FUNCTION slow()",
    )
    run(app, "UPDATE parent SET flow = 77")
    before = dump(app, "parent", "child")
    mender = session()
    with in_background(mender, 2) as background:
        wait_until(app, "SELECT count(*) > 0 FROM flowguard.quarantine")
        run(app, "SELECT pg_terminate_backend(%s)", mender.info.backend_pid)
    assert len(background.failed) == 1
    there = one(app, "SELECT count(*) FROM parent")
    kept = one(app, "SELECT count(*) FROM flowguard.quarantine WHERE table_name = 'parent'")
    assert (there + kept, kept > 0, there > 0) == (5, True, True)
    repair(app)
    assert one(app, "SELECT count(*) FROM parent") == 0
    for (run_id,) in rows(app, "SELECT run_id FROM flowguard.run ORDER BY run_id DESC"):
        undo(app, run_id)
    assert dump(app, "parent", "child") == before


def test_an_orphan_that_got_a_master_meanwhile_stays(app: Connection, session: Callable[[], Connection]) -> None:
    run(app, "UPDATE parent SET flow = 77 WHERE id = 3")
    writer, mender = session(), session()
    run(writer, "BEGIN")
    run(writer, "UPDATE parent SET flow = 2 WHERE id = 3")
    with in_background(mender) as background:
        wait_for_lock(app, mender)
        run(writer, "COMMIT")
    assert not background.failed
    assert links(app, "parent")[3] == 2
    assert one(app, "SELECT count(*) FROM flowguard.quarantine") == 0


def test_undo_and_a_writer(app: Connection, session: Callable[[], Connection]) -> None:
    done = repair(app)
    writer, undoer = session(), session()
    run(writer, "BEGIN")
    run(writer, "UPDATE child SET flow = 3 WHERE id = 7")
    found: list[tuple[int, int, int]] = []
    thread = threading.Thread(target=lambda: found.append(undo(undoer, done.id)))
    thread.start()
    wait_for_lock(app, undoer)
    run(writer, "COMMIT")
    thread.join(20)
    assert found == [(19, 1, 0)]
    assert links(app, "child")[7] == 3
