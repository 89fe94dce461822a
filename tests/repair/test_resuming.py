"""A repair that is stopped, by whatever, goes on where it was: each row is looked at once, and what remains is said."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from acceptance.command import COMMAND
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import add_reference, create, links
from repair.calls import Run, dump, repair, run_row, undo
from waiting import wait_until

from pyflowguard.errors import ExitCode

Session = Callable[[], Connection]
COUNT = 60
SLOW = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.01); RETURN NEW; END $$;
CREATE TRIGGER slow BEFORE UPDATE ON child FOR EACH ROW EXECUTE FUNCTION slow()
"""
PROGRESS = "SELECT relation, pass, scanned, total FROM flowguard.repair_progress WHERE run_id = %s"


@pytest.fixture
def app(db: Connection) -> Connection:
    """Parents with their links and many children without, of before any guard."""
    create(db)
    run(db, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    run(db, "SELECT flowguard.add_link('parent', 'flow'), flowguard.add_link('child', 'flow')")
    add_reference(db, "child", "parent", "parent")
    run(db, "INSERT INTO parent VALUES (10, 1, 1)")
    run(db, f"INSERT INTO child (id, tenant, parent) SELECT n, 1, 10 FROM generate_series(1, {COUNT}) n")  # noqa: S608
    return db


@contextmanager
def held(session: Session, key: int, table: str = "child") -> Iterator[None]:
    """Hold a row, before which a repair comes to a stop."""
    connection = session()
    with connection.transaction():
        run(connection, f"SELECT FROM {table} WHERE id = {key} FOR UPDATE")
        yield


@contextmanager
def repairing(session: Session, *codes: str, **options: object) -> Iterator[Connection]:
    """Repair children beside the block, by the end of which it was ended with one of these SQLSTATEs."""
    connection = session()
    said: list[str] = []

    def call() -> None:
        try:
            repair(connection, "child", link_column="flow", **options)
        except psycopg.Error as error:
            said.append(error.sqlstate or "08006")

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield connection
    finally:
        thread.join()
    assert said, "it came to its end"
    assert set(said) <= set(codes)


def stop(app: Connection, session: Session, at: int, batch_size: int = 10, **options: object) -> int:
    """Repair children in batches, and kill the session when it comes to a row; gives the run."""
    with (
        held(session, at),
        repairing(session, "57P01", "08006", batch_size=batch_size, **options) as connection,
    ):
        pid = connection.info.backend_pid
        waits = "SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted"
        wait_until(lambda: bool(one(app, waits, pid)), "the repair to wait")
        (stopped,) = rows(app, "SELECT max(run_id) FROM flowguard.run WHERE status = 'running'")[0]
        run(app, "SELECT pg_terminate_backend(%s)", pid)
    wait_until(lambda: run_row(app, stopped)["status"] == "stopped", "the run to be seen as stopped")
    return int(stopped)


def again(app: Connection, **options: object) -> Run:
    return repair(app, "child", link_column="flow", **options)


def test_it_goes_on_where_it_was_killed(app: Connection, session: Session) -> None:
    stopped = stop(app, session, at=35)
    assert run_row(app, stopped)["linked"] == 30
    assert rows(app, PROGRESS, stopped)[0][2] == 30
    # Rows that it has come to are not looked at again: this one shows it.
    run(app, "UPDATE child SET flow = NULL WHERE id = 7")
    done = again(app, batch_size=7)
    assert (done.run_id, done.linked, done.remaining) == (stopped, COUNT, 1)
    assert rows(app, PROGRESS, stopped) == [("public.child", 1, COUNT, COUNT)]
    assert one(app, "SELECT count(DISTINCT row_key) || ' of ' || count(*) FROM flowguard.run_change") == "60 of 60"
    assert {key for key, flow in links(app, "child").items() if flow is None} == {7}
    # What came to be wrong behind it is the next run's.
    once_more = again(app)
    assert (once_more.id > stopped, once_more.linked, once_more.remaining) == (True, 1, 0)
    assert undo(app, once_more.id) == (1, 0, 0)
    assert undo(app, stopped) == (COUNT - 1, 1, 0)


def test_it_says_that_it_goes_on(app: Connection, session: Session) -> None:
    stopped = stop(app, session, at=35, note="it's mine")
    heard: list[str] = []
    app.add_notice_handler(lambda notice: heard.append(f"{notice.message_primary} {notice.message_hint}"))
    assert again(app, note="it's mine").run_id == stopped
    assert len(heard) == 1
    assert f"run {stopped} of " in heard[0]
    assert "30 of " in heard[0]
    call = "CALL flowguard.repair('public.child', link_column => 'flow', note => 'it''s mine', resume => false)"
    assert call in heard[0]


def test_a_session_that_outlives_its_call_is_no_running_run(app: Connection, session: Session) -> None:
    """Cancelled (Ctrl-C), or ended by statement_timeout: the session is still there, and may be at something else."""
    with held(session, 35), repairing(session, "57014", batch_size=10) as connection:
        waits = "SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted"
        wait_until(lambda: bool(one(app, waits, connection.info.backend_pid)), "the repair to wait")
        connection.cancel()
    stopped = one(app, "SELECT run_id FROM flowguard.run WHERE status = 'stopped'")
    assert one(connection, "SELECT status FROM flowguard.run") == "stopped"
    assert again(app).run_id == stopped
    assert run_row(app, stopped)["linked"] == COUNT


def test_statement_timeout_after_statement_timeout_it_gets_done(app: Connection) -> None:
    run(app, SLOW)
    run(app, "SET statement_timeout = '250ms'")
    calls = 0
    done = None
    while done is None:
        calls += 1
        assert calls < COUNT
        try:
            done = again(app, batch_size=4)
        except psycopg.errors.QueryCanceled:
            assert run_row(app, 1)["status"] == "stopped"
    assert calls > 1
    assert (done.run_id, done.linked, done.remaining) == (1, COUNT, 0)
    assert rows(app, PROGRESS, 1) == [("public.child", 1, COUNT, COUNT)]


def test_a_client_that_is_killed(app: Connection) -> None:
    """With -9: its server process notices, and the next client goes on."""
    command = [str(COMMAND), "repair", "child", "--link-column", "flow", "--batch-size", "2", "--dsn", app.info.dsn]
    with subprocess.Popen(
        [*command, "--max-rate", "20"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as client:
        wait_until(lambda: rows(app, "SELECT FROM flowguard.run WHERE linked > 5") != [], "some batches")
        client.send_signal(signal.SIGKILL)
    wait_until(lambda: one(app, "SELECT status FROM flowguard.run") == "stopped", "the run to be seen as stopped")
    assert 5 < one(app, "SELECT linked FROM flowguard.run") < COUNT
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"Run 1: {COUNT} linked, 0 translated, 0 quarantined, 0 unlinked, 0 remaining.\n")
    assert "NOTICE:  run 1 of " in result.stderr


def test_an_undo_whose_client_is_killed(app: Connection) -> None:
    """Each batch stays, and the next call goes on."""
    before = dump(app, "parent", "child")
    assert again(app).linked == COUNT
    run(app, SLOW)
    command = [str(COMMAND), "undo", "1", "--batch-size", "2", "--dsn", app.info.dsn]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        wait_until(lambda: rows(app, "SELECT FROM flowguard.run WHERE restored > 5") != [], "some batches")
        client.send_signal(signal.SIGKILL)
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    wait_until(lambda: one(app, others) == 0, "the session to end")
    said = run_row(app, 1)
    assert (said["status"], 5 < said["restored"] < COUNT) == ("undoing", True)
    left = COUNT - said["restored"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == f"Run 1: {left} restored, 0 skipped, 0 remaining.\n"
    assert (run_row(app, 1)["status"], run_row(app, 1)["restored"]) == ("undone", COUNT)
    assert dump(app, "parent", "child") == before


# --- When a new run begins instead


OTHER_RULES = """
SELECT flowguard.drop_rule('child', 1, 'flow');
ALTER TABLE child DROP CONSTRAINT child_parent_fkey;
SELECT flowguard.add_reference_rule('child', 'parent', 'parent', source_link => 'flow', agree => false,
                                    link_column => 'flow')
"""


@pytest.mark.parametrize(
    ("options", "between"),
    [
        pytest.param({"note": "another"}, "", id="another note"),
        pytest.param({"resume": False}, "", id="asked for"),
        pytest.param({}, "SELECT flowguard.undo(1)", id="undone"),
        pytest.param({}, "CALL flowguard.repair()", id="a later run saw all"),
        pytest.param({}, OTHER_RULES, id="other rules"),
        pytest.param({}, "UPDATE flowguard.link SET on_orphan = 'keep'", id="another policy"),
    ],
)
def test_a_new_run_begins(app: Connection, session: Session, options: dict[str, object], between: str) -> None:
    stopped = stop(app, session, at=35)
    if between:
        run(app, between)
    run(app, "UPDATE child SET flow = NULL WHERE id = 7")
    done = again(app, **options)
    assert done.id > stopped
    assert (links(app, "child")[7], done.remaining) == (1, 0)
    assert run_row(app, stopped)["status"] == ("undone" if "undo" in between else "stopped")


def test_a_run_of_one_link_in_between_does_not_matter(app: Connection, session: Session) -> None:
    with held(session, 35):
        connection = session()
        run(connection, "SET lock_timeout = '100ms'")
        with refused("55P03"):
            repair(connection, batch_size=10)
    repair(app, "parent", link_column="flow")
    done = repair(app)
    assert (done.run_id, done.linked) == (1, COUNT)
    assert rows(app, PROGRESS, 1) == [("public.parent", 1, 1, 1), ("public.child", 1, COUNT, COUNT)]


def test_of_two_who_call_again_one_goes_on(app: Connection, session: Session) -> None:
    stopped = stop(app, session, at=35)
    found: list[int] = []

    def call(connection: Connection) -> None:
        found.append(again(connection, batch_size=10).id)

    callers = [session(), session()]
    threads = [threading.Thread(target=call, args=[caller]) for caller in callers]
    waits = "SELECT count(DISTINCT pid) FROM pg_locks WHERE pid = ANY (%s) AND NOT granted"
    pids = [caller.info.backend_pid for caller in callers]
    with held(session, 35):
        # Both are held up before either has got the run.
        with app.transaction():
            run(app, "SELECT FROM flowguard.repair_run FOR UPDATE")
            for thread in threads:
                thread.start()
            wait_until(lambda: one(app, waits, pids) == len(pids), "all to wait")
        running = "SELECT count(*) FROM flowguard.run WHERE status = 'running'"
        wait_until(lambda: one(app, running) == len(pids) and one(app, waits, pids) == len(pids), "all to wait again")
    for thread in threads:
        thread.join()
    assert sorted(found) == [stopped, stopped + 1]
    assert rows(app, "SELECT status, linked FROM flowguard.run ORDER BY run_id")[0][0] == "finished"
    assert one(app, "SELECT sum(linked) FROM flowguard.run") == COUNT


def test_rows_held_before_the_stop_are_come_to_again(app: Connection, session: Session) -> None:
    """An orphan that another one holds goes in a second round; a stop in between does not forget it."""
    run(app, "ALTER TABLE child DROP CONSTRAINT child_parent_fkey, ADD FOREIGN KEY (parent) REFERENCES parent")
    run(app, "INSERT INTO parent VALUES (77, 1, 404)")
    run(app, "UPDATE child SET flow = 404, parent = 77 WHERE id = 1")
    with held(session, 5):
        connection = session()
        run(connection, "SET lock_timeout = '100ms'")
        with refused("55P03"):
            repair(connection, batch_size=1)
    assert (77 in links(app, "parent"), 1 in links(app, "child")) == (True, False)
    done = repair(app, batch_size=10)
    assert (done.run_id, done.quarantined, done.remaining) == (1, 2, 0)
    assert 77 not in links(app, "parent")
    assert {row[1] for row in rows(app, PROGRESS, 1)} == {2}


# --- The bound


def test_rows_that_come_after_the_start_are_not_chased(app: Connection) -> None:
    """Each row that is written brings another one; also one of a link whose turn is yet to come."""
    run(app, "UPDATE parent SET flow = 404")
    run(app, "SELECT flowguard.add_session_rule('parent', 'flow'); UPDATE flowguard.link SET on_orphan = 'unlink'")
    run(
        app,
        "CREATE FUNCTION breed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO child (id, tenant, flow) "
        "SELECT max(id) + 1, 1, 404 FROM child; RETURN NEW; END $$",
    )
    for table in ("parent", "child"):
        run(app, f"CREATE TRIGGER breed AFTER UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION breed()")
    run(app, "UPDATE child SET parent = NULL, flow = 404 WHERE id <= 20")
    run(app, "DELETE FROM child WHERE id > 40")
    before = one(app, "SELECT count(*) FROM child")
    done = repair(app, batch_size=5)
    assert rows(app, PROGRESS, done.id) == [("public.parent", 1, 1, 1), ("public.child", 1, before, before)]
    # What came is listed, and looked at by the next run, which in its turn chases none.
    assert done.remaining == 1 + one(app, "SELECT count(*) FROM child WHERE flow IS NULL OR flow = 404")
    assert one(app, "SELECT count(*) FROM child WHERE flow = 404") > 0


# --- Tables that are dropped or renamed meanwhile


def by_time(db: Connection) -> None:
    """Register rows that find their master by time."""
    create(db)
    run(db, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    run(db, "SELECT flowguard.add_link('event', 'flow'), flowguard.add_link('probe', 'flow', on_orphan => 'unlink')")
    run(
        db,
        "SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', link_column => 'flow')",
    )
    run(db, "INSERT INTO event VALUES (1, 1, 1, 'live', '2025-01-01')")
    run(db, f"INSERT INTO probe SELECT n, 1, NULL, '2025-01-01' FROM generate_series(1, {COUNT}) n")  # noqa: S608


def midway(db: Connection, statement: str) -> None:
    """Have a statement run at the end of the batch in which row 25 is written."""
    run(
        db,
        f"CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {statement}; RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER change AFTER UPDATE ON probe DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
        "WHEN (NEW.id = 25 AND OLD.flow IS DISTINCT FROM 1) EXECUTE FUNCTION change()",
    )


def test_a_table_is_dropped(db: Connection) -> None:
    """The command says which link it was at; what was committed is in the ledger, and goes back."""
    by_time(db)
    midway(db, "DROP TABLE event")
    command = [str(COMMAND), "repair", "--batch-size", "10", "--dsn", db.info.dsn]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (ExitCode.FAILED, "")
    assert "ERROR FG101: flowguard: link public.probe.flow cannot be repaired" in result.stderr
    said = run_row(db, 1)
    assert (said["status"], said["linked"]) == ("stopped", 30)
    assert one(db, "SELECT count(*) FROM probe WHERE flow = 1") == 30
    assert one(db, "SELECT count(*) FROM flowguard.run_change") == 30
    assert repair(db).remaining == 0  # a link whose source is gone is left out
    assert undo(db, 1) == (30, 0, 0)


def test_a_table_that_is_done_with_is_dropped(db: Connection) -> None:
    """Nothing is left to do for it: the run comes to its end."""
    by_time(db)
    run(db, "SELECT flowguard.drop_rule('probe', 1, 'flow'); UPDATE probe SET flow = 77")
    midway(db, "DROP TABLE event")
    done = repair(db)
    assert (done.unlinked, done.remaining) == (COUNT, COUNT)
    assert run_row(db, done.id)["status"] == "finished"


@pytest.mark.parametrize("table", ["event", "probe"])
def test_a_table_is_renamed(db: Connection, table: str) -> None:
    """The run goes on as it was asked to."""
    by_time(db)
    run(db, "INSERT INTO event SELECT n, 1, 1, 'live', '2025-01-01' FROM generate_series(2, 4) n")
    midway(db, f"ALTER TABLE {table} RENAME TO other")
    done = repair(db, batch_size=10, count_candidates=True)
    assert (done.linked, done.remaining) == (COUNT, 0)
    assert rows(db, "SELECT DISTINCT candidates FROM flowguard.run_change") == [(4,)]
