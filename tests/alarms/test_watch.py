"""`pyflowguard watch` tells what goes wrong within moments, and loses nothing that stays."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta

import psycopg
import pytest
from acceptance.command import Run, failure
from alarms.relay import relay
from alarms.watching import COMMAND, Watching
from engine.postgres import Connection, one, rows, run
from engine.tables import create, guard, register
from faults.mortal import mortal
from neighbours.test_pooler import pooler
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from servers import chosen_bindir

from pyflowguard import watch

ROWS = 10_000
"""Of the small application's narrow rows: more than are counted."""

Start = Callable[..., Watching]

SOON = 2.0
"""Seconds within which a violation has to be shown."""

DANGLES = "UPDATE parent SET flow = 77 WHERE id = 10"
IS_MENDED = "UPDATE parent SET flow = 1 WHERE id = 10"
IS_UNLINKED = "UPDATE child SET flow = NULL WHERE id = 21"


# --- What is told, and when


@pytest.mark.usefixtures("well")
def test_a_violation_is_told_within_two_seconds(start_watch: Start, engine_db: str, intruder: Connection) -> None:
    watching = start_watch(engine_db)
    _, line = watching.wait_for("start: database ", ", links: 5, ")
    assert ", wrong rows: 0, findings: 0" in line
    for statement, parts in (
        (DANGLES, ('violation: public.parent.flow {"id": 10} is dangling: flow = 77 is no id of public.flow',)),
        (IS_UNLINKED, ('violation: public.child.flow {"id": 21} is unlinked: rule 1: row 11 of public.parent',)),
        (IS_MENDED, ('mended: public.parent.flow {"id": 10} is not dangling any more',)),
        ("UPDATE child SET flow = 9 WHERE id = 22", ('{"id": 22} is mismatched: master 9 is of another tenant',)),
    ):
        run(intruder, statement)
        planted = time.monotonic()
        at, _ = watching.wait_for(*parts)
        assert at - planted < SOON, statement


@pytest.mark.usefixtures("well")
def test_a_violation_is_told_once(start_watch: Start, engine_db: str, intruder: Connection) -> None:
    watching = start_watch(engine_db, "--interval", "0.2")
    watching.wait_for("start:")
    run(intruder, DANGLES)
    watching.wait_for("violation:")
    assert not [line for line in watching.rest(3) if " violation: " in line]


def test_what_is_there_at_the_beginning_is_counted(start_watch: Start, engine_db: str, well: Connection) -> None:
    run(well, "INSERT INTO probe VALUES (1, 1, NULL, now()), (2, 1, NULL, now())")
    watching = start_watch(engine_db)
    _, line = watching.wait_for("start:")
    assert ", wrong rows: 2, findings: 1" in line
    assert watching.rest(2) == []


def test_findings_come_and_go(start_watch: Start, engine_db: str, well: Connection, intruder: Connection) -> None:
    watching = start_watch(engine_db, "--interval", "0.2")
    watching.wait_for("start:")
    run(well, "SELECT flowguard.pause('parent', 'flow'); NOTIFY flowguard")
    watching.wait_for(
        "finding: WARN public.parent: the guard is paused; SELECT flowguard.resume('public.parent', 'flow')"
    )
    run(well, "SELECT flowguard.resume('parent', 'flow'); NOTIFY flowguard")
    watching.wait_for("settled: WARN public.parent: the guard is paused")
    name = one(intruder, "SELECT tgname FROM pg_trigger WHERE tgrelid = 'child'::regclass AND tgname ~ '_insert$'")
    run(intruder, sql.SQL("ALTER TABLE child DISABLE TRIGGER {}; NOTIFY flowguard").format(sql.Identifier(name)))
    watching.wait_for("finding: ERROR public.child: 1 objects of the guard are missing, disabled or out of date")


@pytest.mark.usefixtures("well")
def test_a_notification_lets_it_look_at_once(start_watch: Start, engine_db: str, intruder: Connection) -> None:
    watching = start_watch(engine_db, "--interval", "600")
    watching.wait_for("start:")
    run(intruder, DANGLES)
    assert watching.rest(3) == []
    run(intruder, "SELECT flowguard.snapshot()")
    told = time.monotonic()
    at, _ = watching.wait_for("violation: public.parent.flow")
    assert at - told < SOON


@pytest.mark.usefixtures("well")
def test_a_notification_that_comes_while_figures_are_read_lets_them_be_read_again(
    engine_db: str, intruder: Connection
) -> None:
    """They are those of the moment before, and it would rest for long."""
    begun, may_end = threading.Event(), threading.Event()
    reads: list[float] = []

    def read(_: Connection) -> watch._Figures:
        reads.append(time.monotonic())
        begun.set()
        may_end.wait(60)
        return watch._Figures(reads[-1], 100.0, {}, {}, {})  # noqa: SLF001

    watcher = watch._Watcher(engine_db, timedelta(seconds=30))  # noqa: SLF001
    watcher.figures = figures = watch._Beside(engine_db, "reading", read, rest=10, pause=3600)  # noqa: SLF001
    with psycopg.connect(engine_db, autocommit=True) as connection:
        run(connection, "LISTEN flowguard")
        figures.begin_if_due()
        assert begun.wait(60)
        run(intruder, "NOTIFY flowguard")
        watcher.wait(connection)
    figures.begin_if_due()
    assert len(reads) == 1, "it is still at work"
    may_end.set()
    for number in (2, 2):
        assert figures.thread is not None
        figures.thread.join(60)
        figures.take([])
        figures.begin_if_due()
        figures.thread.join(60)
        assert len(reads) == number


@pytest.mark.usefixtures("well")
def test_json_is_an_object_a_line(start_watch: Start, engine_db: str, intruder: Connection) -> None:
    watching = start_watch(engine_db, "--json", "--interval", "0.2")
    _, first = watching.wait_for('"start"')
    assert {key: value for key, value in json.loads(first).items() if key != "at"} == {
        "event": "start",
        "database": conninfo_to_dict(engine_db)["dbname"],
        "links": 5,
        "violations": 0,
        "findings": 0,
    }
    run(intruder, DANGLES)
    told = json.loads(watching.wait_for('"violation"')[1])
    assert abs(datetime.fromisoformat(told.pop("at")).timestamp() - time.time()) < 10
    assert told.pop("reason").startswith("flow = 77 is no id of public.flow")
    assert told == {
        "event": "violation",
        "relation": "public.parent",
        "link_column": "flow",
        "row_key": {"id": 10},
        "kind": "dangling",
    }
    run(intruder, "NOTIFY flowguard")
    finding = json.loads(watching.wait_for('"finding"')[1])
    assert (finding["name"], finding["level"], finding["amount"]) == ("dangling_links", "ERROR", 1)
    run(intruder, IS_MENDED + "; NOTIFY flowguard")
    mended = json.loads(watching.wait_for('"mended"')[1])
    assert (mended["relation"], mended["row_key"]) == ("public.parent", {"id": 10})
    assert json.loads(watching.wait_for('"settled"')[1])["name"] == "dangling_links"


@pytest.mark.usefixtures("well")
def test_the_viewer_may_watch(start_watch: Start, engine_db: str, intruder: Connection) -> None:
    had_role = one(intruder, "SELECT count(*) FROM pg_roles WHERE rolname = 'flowguard_viewer'")
    run(intruder, "CREATE ROLE onlooker LOGIN" + ("" if had_role else "; CREATE ROLE flowguard_viewer NOLOGIN"))
    try:
        run(intruder, "GRANT flowguard_viewer TO onlooker; SELECT flowguard.grant_roles()")
        watching = start_watch(make_conninfo(engine_db, user="onlooker"))
        watching.wait_for("start: database ", ", links: 5, ")
        run(intruder, DANGLES)
        watching.wait_for('violation: public.parent.flow {"id": 10} is dangling: flow = 77 is no id')
        watching.kill()
    finally:
        run(intruder, "DROP OWNED BY onlooker; DROP ROLE onlooker")


# --- Connections end


@pytest.mark.usefixtures("well")
def test_it_comes_back_when_its_session_is_ended(start_watch: Start, engine_db: str, intruder: Connection) -> None:
    watching = start_watch(engine_db)
    watching.wait_for("start:")
    # In one transaction: it is gone when the row is wrong.
    with intruder.transaction():
        run(intruder, DANGLES)
        run(
            intruder,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'pyflowguard'",
        )
    watching.wait_for("lost: cannot look any more: The connection was lost while watching the links")
    watching.wait_for("back: looking again, after ")
    watching.wait_for('violation: public.parent.flow {"id": 10} is dangling')
    assert not [line for line in watching.rest(2) if " violation: " in line]
    assert watching.interrupt() == (1, "")


def test_nothing_is_lost_while_the_connection_is_cut(
    start_watch: Start, engine_db: str, well: Connection, intruder: Connection
) -> None:
    with relay(int(str(conninfo_to_dict(engine_db)["port"]))) as link:
        watching = start_watch(make_conninfo(engine_db, port=link.port))
        watching.wait_for("start:")
        run(intruder, DANGLES)
        watching.wait_for("violation: public.parent.flow")
        link.cut()
        watching.wait_for("lost:")
        run(intruder, IS_MENDED)
        run(intruder, IS_UNLINKED)
        assert watching.rest(2) == []
        link.target = well.info.port
        back, _ = watching.wait_for("back: looking again, after ", within=10)
        first, _ = watching.wait_for('mended: public.parent.flow {"id": 10}')
        last, _ = watching.wait_for('violation: public.child.flow {"id": 21} is unlinked')
        assert max(first, last) - back < SOON


def test_it_watches_on_when_the_server_was_killed_and_started_again(start_watch: Start) -> None:
    with mortal(chosen_bindir()) as server, relay(server.port) as link:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            create(connection)
            register(connection)
            run(connection, "INSERT INTO parent SELECT n, 1, 1 FROM generate_series(10, 19) n")
            guard(connection)
        watching = start_watch(make_conninfo(server.dsn(), port=link.port))
        watching.wait_for("start:")
        link.cut()
        server.kill()
        watching.wait_for("lost:")
        server.start()
        with psycopg.connect(server.dsn(user="postgres"), autocommit=True) as connection:
            run(connection, "SET session_replication_role = replica")
            run(connection, DANGLES)
        link.target = server.port
        watching.wait_for("back:", within=15)
        watching.wait_for('violation: public.parent.flow {"id": 10} is dangling')
        assert watching.interrupt() == (1, "")


def test_a_server_that_hangs_is_given_up(engine_db: str, well: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "TIMEOUT", timedelta(seconds=1))
    with closing(watch.watch(engine_db, interval=timedelta(seconds=0.2))) as looks:
        next(looks)
        backend = one(
            well,
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query = 'LISTEN flowguard' "
            "OR datname = current_database() AND application_name = 'pyflowguard' AND state = 'idle' LIMIT 1",
        )
        os.kill(backend, signal.SIGSTOP)
        try:
            start = time.monotonic()
            seen = _look_until(looks, "lost")
            assert seen.problem == "The database did not answer within 1 s."
            assert time.monotonic() - start < 5
            assert _look_until(looks, "back").problem is None
        finally:
            os.kill(backend, signal.SIGCONT)


def test_it_watches_through_a_pooler_that_lends_a_session_for_a_transaction(
    well: Connection, intruder: Connection, tool: Callable[[str], str]
) -> None:
    with pooler(tool("pgbouncer"), well) as dsn, closing(watch.watch(dsn, interval=timedelta(seconds=0.1))) as looks:
        for _ in range(12):  # psycopg prepares what is run for the sixth time, in a session that may be another's then
            assert next(looks).problem is None
        with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as other:
            assert rows(other, "SELECT name FROM pg_prepared_statements") == []
        run(intruder, DANGLES)
        assert _look_until(looks, "violation", "is dangling").violations == 1


# --- Tables that are too large to be read in no time


@pytest.mark.usefixtures("large")
def test_an_unlinked_row_of_a_large_table_is_told_within_two_seconds(
    start_watch: Start, engine_db: str, intruder: Connection
) -> None:
    watching = start_watch(engine_db)
    watching.wait_for("start:")
    run(intruder, "UPDATE child SET flow = NULL WHERE id = 7001")
    planted = time.monotonic()
    at, _ = watching.wait_for('violation: public.child.flow {"id": 7001} is unlinked')
    assert at - planted < SOON


@pytest.mark.usefixtures("large")
def test_what_keys_should_forbid_is_found_in_a_large_table_too(
    engine_db: str, intruder: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No index leads to it, so that every row is read, from time to time; what is read so is not mended before."""
    monkeypatch.setattr(watch, "FULL_PAUSE", timedelta(seconds=1))
    with closing(watch.watch(engine_db, interval=timedelta(seconds=0.2))) as looks:
        next(looks)
        run(intruder, "UPDATE parent SET flow = 77 WHERE id = 5000; UPDATE parent SET flow = NULL WHERE id = 6000")
        found = _look_until(looks, "violation", '{"id": 5000} is dangling')
        assert not [event for event in found.events if event.kind == "mended"]
        assert found.violations == 2
        for _ in range(10):
            assert not [event for event in next(looks).events if event.kind in {"mended", "violation"}]
        run(intruder, "UPDATE parent SET flow = 1 WHERE id = 5000")
        assert _look_until(looks, "mended", '{"id": 5000} is not dangling').violations == 1


def test_a_table_that_grows_keeps_what_was_known(engine_db: str, well: Connection, intruder: Connection) -> None:
    with closing(watch.watch(engine_db, interval=timedelta(seconds=0.2))) as looks:
        next(looks)
        run(intruder, DANGLES)
        assert _look_until(looks, "violation").violations == 1
        run(well, "INSERT INTO parent SELECT n, 1, 1 FROM generate_series(100, %s) n", ROWS)
        for _ in range(5):
            seen = next(looks)
            assert not [event for event in seen.events if event.kind == "mended"]
            assert seen.violations == 1


def test_more_unlinked_rows_than_are_told_are_counted(engine_db: str, well: Connection) -> None:
    with closing(watch.watch(engine_db, interval=timedelta(seconds=0.2))) as looks:
        next(looks)
        run(well, "INSERT INTO probe SELECT n, 1, NULL, now() FROM generate_series(1, 10001) n; NOTIFY flowguard")
        seen = _look_until(looks, "finding", "WARN public.probe: 10001 of about ")
        assert [link.wrong for link in seen.links if link.relation == "public.probe"] == [10001]
        run(well, "INSERT INTO probe SELECT n, 1, NULL, now() FROM generate_series(20001, 20009) n; ANALYZE probe")
        run(well, "NOTIFY flowguard")
        _look_until(looks, "finding", "WARN public.probe: 10010 of about 10010 rows")


# --- How it ends, and on a terminal


@pytest.mark.usefixtures("well")
def test_it_ends_with_0_where_all_is_well_and_1_where_not(
    start_watch: Start, engine_db: str, intruder: Connection
) -> None:
    watching = start_watch(engine_db)
    watching.wait_for("start:")
    assert watching.interrupt() == (0, "")
    run(intruder, DANGLES)
    watching = start_watch(engine_db)
    watching.wait_for("start:")
    assert watching.interrupt() == (1, "")


def test_where_it_cannot_look_at_all_it_ends(command: Run, empty_db: str) -> None:
    assert "The engine is not deployed" in failure(command("watch", "--dsn", empty_db), 4)
    assert "Cannot connect" in failure(command("watch", "--dsn", "host=127.0.0.1 port=1 dbname=x"), 3)
    result = command("watch", "--dsn", empty_db, "--interval", "0")
    assert (result.returncode, "--interval" in result.stderr) == (2, True)


@pytest.mark.usefixtures("well")
def test_a_terminal_shows_links_findings_and_what_happens(
    engine_db: str, clean_environment: dict[str, str], intruder: Connection
) -> None:
    leader, follower = pty.openpty()
    environment = {**clean_environment, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    with subprocess.Popen(
        [COMMAND, "watch", "--interval", "0.3", "--dsn", engine_db],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment,
        start_new_session=True,
    ) as running:
        os.close(follower)
        try:
            shown = _read(leader, "100.00 %")
            for part in ("score 100.0, wrong rows: 0, nothing found.", "coverage", "writes/s", "public.parent.flow"):
                assert part in shown
            run(intruder, DANGLES)
            shown = _read(leader, "is dangling")
            run(intruder, "NOTIFY flowguard")
            shown += _read(leader, "90.00 %")
            for part in ("wrong rows: 1", 'violation: public.parent.flow {"id": 10}'):
                assert part in shown
            running.send_signal(signal.SIGINT)
            shown = _read(leader, None)
            assert running.wait(timeout=15) == 1
        finally:
            running.kill()
    os.close(leader)
    assert "Traceback" not in shown
    assert "90.00 %" in shown.rpartition("\x1b[?1049l")[2], "the last state stays on the screen"


def _look_until(looks: Iterator[watch.Seen], kind: watch.Kind, text: str = "", within: float = 60) -> watch.Seen:
    deadline = time.monotonic() + within
    told = []
    while time.monotonic() < deadline:
        seen = next(looks)
        told += [event.text for event in seen.events]
        if any(event.kind == kind and text in event.text for event in seen.events):
            return seen
    raise AssertionError(f"{kind} not within {within} s, but: {told}")


def _read(terminal: int, wanted: str | None, within: float = 60) -> str:
    """Read what is shown until it holds a text, or to the end."""
    output = b""
    deadline = time.monotonic() + within
    while wanted is None or wanted not in output.decode(errors="replace"):
        assert time.monotonic() < deadline, output.decode(errors="replace")
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                piece = os.read(terminal, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            output += piece
    return output.decode(errors="replace")
