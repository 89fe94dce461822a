"""The network between a command and the server is cut, and the command is called again.

It says so and ends with 4. The server, which notices only when it has something to say, is still at work: whoever calls
the command again meets it.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from changesets import ChangeSets
from concurrency.invariants import LEDGER
from engine.postgres import Connection, one, rows
from engine.tables import LINKS, links
from faults.wire import wire
from waiting import PATIENCE, beside, wait_until, waiting, working

from pyflowguard import changes, online, repair
from pyflowguard.errors import ConnectionLost, ExitCode, LockNotObtained

SHORT = timedelta(milliseconds=300)
CHILDREN = range(20, 40)


def lost(error: ConnectionLost, action: str) -> None:
    """Check that the command says what it was doing, and ends with 4."""
    assert error.exit_code is ExitCode.FAILED
    assert error.message.startswith(f"The connection was lost while {action}: "), error
    assert error.hint is not None
    assert "Run it again" in error.hint


def test_repair(unlinked: Connection, admin: Connection) -> None:
    app = unlinked
    with psycopg.connect(app.info.dsn) as holder, wire(app.info.dsn) as line:
        holder.execute("UPDATE child SET note = 'held' WHERE id = 30")
        with beside(lambda: repair.repair(line.dsn, batch_size=2)) as mending:
            wait_until(lambda: bool(waiting(admin, "flowguard.repair")), "repair to wait")
            line.cut()
            with pytest.raises(ConnectionLost) as caught:
                mending.result(PATIENCE)
        lost(caught.value, "repairing links")
        # The command has asked the server to look whether it is still there; the next one goes on with its run.
        wait_until(lambda: not working(admin, "flowguard.repair"), "the server to notice")
        with beside(lambda: repair.repair(app.info.dsn, batch_size=3)) as again:
            wait_until(lambda: bool(waiting(admin, "flowguard.repair")), "the second one to wait")
            holder.rollback()
            assert again.result(PATIENCE).run_id == 1
    assert links(app, "child") == dict.fromkeys(CHILDREN, 2)
    assert one(app, "SELECT count(*) FROM flowguard.run_change") == len(CHILDREN)
    repair.repair(app.info.dsn)
    assert one(app, "SELECT count(*) FROM flowguard.run_change") == len(CHILDREN)
    stopped = rows(app, "SELECT run_id FROM flowguard.run WHERE status = 'running'")
    assert stopped == []
    assert rows(app, LEDGER) == []


def test_undo(unlinked: Connection, admin: Connection) -> None:
    """One transaction: it is there as a whole or not at all, and called again it ends."""
    app = unlinked
    run_id = repair.repair(app.info.dsn).run_id
    assert run_id is not None
    with psycopg.connect(app.info.dsn) as holder, wire(app.info.dsn) as line:
        holder.execute("UPDATE child SET note = 'held' WHERE id = 30")
        with beside(lambda: repair.undo(run_id, line.dsn)) as undoing:
            wait_until(lambda: bool(waiting(admin, "flowguard.undo")), "undo to wait")
            line.cut()
            with pytest.raises(ConnectionLost) as caught:
                undoing.result(PATIENCE)
        lost(caught.value, f"undoing run {run_id}")
        assert links(app, "child") == dict.fromkeys(CHILDREN, 2)
        with beside(lambda: repair.undo(run_id, app.info.dsn)) as again:
            wait_until(lambda: len(waiting(admin, "flowguard.undo")) == 2, "both to wait")
            holder.rollback()
            assert again.result(PATIENCE).remaining == 0
    wait_until(lambda: not working(admin, "flowguard.undo"), "the first one to end")
    assert links(app, "child") == dict.fromkeys(CHILDREN)
    assert rows(app, "SELECT status, restored, skipped FROM flowguard.run") == [("undone", len(CHILDREN), 0)]
    assert rows(app, LEDGER) == []


def test_guard(unlinked: Connection, admin: Connection) -> None:
    """The index is still being built: who guards next waits for that, or says who is in the way."""
    app = unlinked
    with psycopg.connect(app.info.dsn) as holder, wire(app.info.dsn) as line:
        holder.execute("UPDATE child SET note = 'held' WHERE id = 30")
        with beside(lambda: online.guard(line.dsn)) as guarding:
            wait_until(lambda: bool(waiting(admin, "INDEX CONCURRENTLY", holder)), "the index to wait")
            line.cut()
            with pytest.raises(ConnectionLost) as caught:
                guarding.result(PATIENCE)
        lost(caught.value, "guarding links")
        (builder,) = working(admin, "INDEX CONCURRENTLY")
        with pytest.raises(LockNotObtained, match=f"process {builder}, pyflowguard"):
            online.guard(app.info.dsn, deadline=SHORT)
        with beside(lambda: online.guard(app.info.dsn)) as again:
            holder.rollback()
            assert again.result(PATIENCE).not_valid == ()
    assert one(app, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0
    assert [rows(app, "SELECT FROM flowguard.guard_plan(%s::regclass, 'flow')", table) for table in LINKS] == [[]] * 5


def test_deploy(unlinked: Connection, admin: Connection, tmp_path: Path) -> None:
    """Of a change that guards: its steps that were done stay, and its script is sent the next time."""
    app = unlinked
    sets = ChangeSets(tmp_path / "sets")
    sets.add_raw(
        "guard",
        "-- pyflowguard guard --link-column flow child\n"
        "BEGIN;\nSELECT count(*) FROM flowguard.guard('child', 'flow');\nCREATE TABLE seen ();\nCOMMIT;\n",
    )
    with psycopg.connect(app.info.dsn) as holder, wire(app.info.dsn) as line:
        holder.execute("UPDATE child SET note = 'held' WHERE id = 30")
        with beside(lambda: changes.deploy(line.dsn, directory=sets.directory)) as deploying:
            wait_until(lambda: bool(waiting(admin, "INDEX CONCURRENTLY", holder)), "the index to wait")
            line.cut()
            with pytest.raises(ConnectionLost) as caught:
                deploying.result(PATIENCE)
        assert caught.value.exit_code is ExitCode.FAILED
        assert one(app, "SELECT to_regclass('seen')") is None
        holder.rollback()
        done = changes.deploy(app.info.dsn, directory=sets.directory)
    assert [change.name for change in done.deployed] == ["guard"]
    assert rows(app, "SELECT FROM flowguard.guard_plan('child', 'flow')") == []
    assert one(app, "SELECT to_regclass('seen')") == "seen"
