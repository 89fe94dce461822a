"""Two sessions at once, on a real server: whoever comes first, the invariants hold, and who must wait does wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import psycopg
import pytest
from engine.postgres import Connection, one, rows, run
from engine.tables import Guarded, links
from psycopg import IsolationLevel

LEVELS = [IsolationLevel.READ_COMMITTED, IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE]
RACES = {"40001", "40P01", "23503"}


class Racer(Thread):
    """Runs something of another session, and keeps the error."""

    def __init__(self, action: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.action = action
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.action()
        except psycopg.Error as error:
            self.error = error

    def outcome(self) -> str:
        """Wait for the end: "done", or the SQLSTATE of the refusal."""
        self.join(20)
        assert not self.is_alive(), "still waiting"
        if self.error is None:
            return "done"
        assert isinstance(self.error, psycopg.Error)
        return self.error.sqlstate or "none"


@pytest.fixture
def app(guarded: Guarded) -> Connection:
    """The small application, in observe; parent 10 has no link yet."""
    connection = guarded("observe", "set null")
    run(connection, "INSERT INTO parent VALUES (10, 1)")
    return connection


@contextmanager
def sessions(app: Connection, level: IsolationLevel) -> Iterator[tuple[Connection, Connection]]:
    with psycopg.connect(app.info.dsn) as one_session, psycopg.connect(app.info.dsn) as other:
        for connection in (one_session, other):
            connection.isolation_level = level
            connection.execute("SET statement_timeout = '15s'")
            connection.commit()
            # A snapshot of before the race, where the level keeps one.
            connection.execute("SELECT count(*) FROM parent, child, probe, event")
        yield one_session, other
        for connection in (one_session, other):
            connection.rollback()


def waits(app: Connection, session: Connection, racer: Racer) -> bool:
    """Say whether a session comes to wait for a lock, before it ends."""
    for _ in range(400):
        found = rows(
            app,
            "SELECT a.wait_event_type, EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND NOT l.granted) "
            "FROM pg_stat_activity a WHERE pid = %s",
            session.info.backend_pid,
        )
        if found == [("Lock", True)]:
            return True
        if not racer.is_alive():
            return False
        time.sleep(0.01)
    return False


def committed(action: Callable[[], object], session: Connection) -> Callable[[], object]:
    def both() -> None:
        action()
        session.commit()

    return both


def insert_child(session: Connection, flow: int | None = None) -> Callable[[], object]:
    return lambda: session.execute("INSERT INTO child (id, tenant, parent, flow) VALUES (20, 1, 10, %s)", [flow])


def set_parent(session: Connection, flow: int | None) -> Callable[[], object]:
    return lambda: session.execute("UPDATE parent SET flow = %s WHERE id = 10", [flow])


def invariants(app: Connection, *, may_be_listed: bool = False) -> None:
    """No dangling link of any table, and children agree with their parents, in whatever is committed.

    `may_be_listed`: rule 3 in observe, where a snapshot of before the race hides the child from who links its parent.
    """
    listed = rows(app, "SELECT (row_key ->> 'id')::int FROM flowguard.violation WHERE relation = 'child'::regclass")
    flows = {number for (number,) in rows(app, "SELECT id FROM flow")}
    for table in ("parent", "child", "event", "probe"):
        assert set(links(app, table).values()) - {None} <= flows, table
    parents = links(app, "parent")
    for child, parent, flow in rows(app, "SELECT id, parent, flow FROM child WHERE parent IS NOT NULL"):
        if not (may_be_listed and (child,) in listed):
            assert flow == parents[parent], f"child {child} was lost"


# --- A child comes while its parent is linked


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@pytest.mark.parametrize(("before", "after"), [(None, 1), (1, 2), (1, None)])
def test_the_child_comes_first(app: Connection, level: IsolationLevel, before: int | None, after: int | None) -> None:
    run(app, "UPDATE parent SET flow = %s", before)
    with sessions(app, level) as (child, parent):
        insert_child(child)()
        racer = Racer(committed(set_parent(parent, after), parent))
        assert waits(app, parent, racer), "setting a link must wait for an open transaction that inserted a child"
        child.commit()
        outcome = racer.outcome()
    if level == IsolationLevel.READ_COMMITTED:
        assert outcome == "done"
        assert links(app, "child") == {20: after}
    assert outcome in {"done", *RACES}
    invariants(app, may_be_listed=level == IsolationLevel.REPEATABLE_READ)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@pytest.mark.parametrize("first", ["child", "link"])
def test_in_enforce_child_and_link_agree_at_every_level(guarded: Guarded, level: IsolationLevel, first: str) -> None:
    app = guarded("enforce", "set null")
    run(app, "INSERT INTO parent VALUES (10, 1, 1)")
    with sessions(app, level) as (child, parent):
        actions = [(insert_child(child), child), (set_parent(parent, 2), parent)]
        if first == "link":
            actions.reverse()
        (early, early_session), (late, late_session) = actions
        early()
        racer = Racer(committed(late, late_session))
        assert waits(app, late_session, racer)
        outcomes = [end(early_session), racer.outcome()]
    assert outcomes[0] == "done"
    assert outcomes[1] in {"done", *RACES}
    if level == IsolationLevel.READ_COMMITTED:
        assert outcomes[1] == "done"
    invariants(app)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@pytest.mark.parametrize(("before", "after"), [(None, 1), (1, 2), (1, None)])
def test_the_link_comes_first(app: Connection, level: IsolationLevel, before: int | None, after: int | None) -> None:
    run(app, "UPDATE parent SET flow = %s", before)
    with sessions(app, level) as (child, parent):
        set_parent(parent, after)()
        racer = Racer(committed(insert_child(child), child))
        assert waits(app, child, racer), "a child must wait for an open transaction that sets its parent's link"
        parent.commit()
        outcome = racer.outcome()
    if level == IsolationLevel.READ_COMMITTED:
        assert outcome == "done"
        assert links(app, "child") == {20: after}
    assert outcome in {"done", *RACES}
    invariants(app)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_the_link_is_rolled_back(app: Connection, level: IsolationLevel) -> None:
    with sessions(app, level) as (child, parent):
        set_parent(parent, 1)()
        racer = Racer(committed(insert_child(child), child))
        assert waits(app, child, racer)
        parent.rollback()
        assert racer.outcome() == "done"
    assert links(app, "child") == {20: None}


def test_other_updates_of_the_parent_do_not_wait(app: Connection) -> None:
    with sessions(app, IsolationLevel.READ_COMMITTED) as (child, parent):
        insert_child(child)()
        parent.execute("SET lock_timeout = '1s'")
        parent.execute("UPDATE parent SET note = 'changed' WHERE id = 10")
        parent.commit()
        child.commit()
    invariants(app)


def test_two_children_do_not_wait_for_each_other(app: Connection) -> None:
    with sessions(app, IsolationLevel.READ_COMMITTED) as (child, other):
        insert_child(child)()
        other.execute("SET lock_timeout = '1s'")
        other.execute("INSERT INTO child (id, tenant, parent) VALUES (21, 1, 10)")
        other.commit()
        child.commit()
    assert links(app, "child") == {20: None, 21: None}


def test_a_grandchild_and_the_link_at_the_top(app: Connection) -> None:
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    with sessions(app, IsolationLevel.READ_COMMITTED) as (grandchild, parent):
        grandchild.execute("INSERT INTO grandchild (id, tenant, child) VALUES (30, 1, 20)")
        racer = Racer(committed(set_parent(parent, 1), parent))
        assert waits(app, parent, racer)
        grandchild.commit()
        assert racer.outcome() == "done"
    assert (links(app, "child"), links(app, "grandchild")) == ({20: 1}, {30: 1})


def test_both_insert_and_then_link_the_same_parent(app: Connection) -> None:
    """The price that DESIGN 4 names: one of the two is chosen as the victim of a deadlock, and nothing is lost."""
    with sessions(app, IsolationLevel.READ_COMMITTED) as (one_session, other):
        insert_child(one_session)()
        other.execute("INSERT INTO child (id, tenant, parent) VALUES (21, 1, 10)")
        first = Racer(committed(set_parent(one_session, 1), one_session))
        assert waits(app, one_session, first)
        second = Racer(committed(set_parent(other, 2), other))
        second.join(20)
        if second.error is not None:
            other.rollback()
        first.join(20)
        if first.error is not None:
            one_session.rollback()
        assert sorted([first.outcome(), second.outcome()]) == ["40P01", "done"]
    invariants(app)


def test_locking_the_parent_first_is_the_remedy(app: Connection) -> None:
    with sessions(app, IsolationLevel.READ_COMMITTED) as (one_session, other):
        one_session.execute("SELECT FROM parent WHERE id = 10 FOR UPDATE")
        insert_child(one_session)()

        def all_of_it() -> None:
            other.execute("SELECT FROM parent WHERE id = 10 FOR UPDATE")
            other.execute("INSERT INTO child (id, tenant, parent) VALUES (21, 1, 10)")
            other.execute("UPDATE parent SET flow = 2 WHERE id = 10")
            other.commit()

        racer = Racer(all_of_it)
        assert waits(app, other, racer)
        set_parent(one_session, 1)()
        one_session.commit()
        assert racer.outcome() == "done"
    assert links(app, "child") == {20: 2, 21: 2}


# --- A master goes while a child comes


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@pytest.mark.parametrize("action", ["keep", "set null", "cascade"])
@pytest.mark.parametrize("first", ["child", "delete"])
def test_a_master_is_deleted_while_a_child_comes(
    guarded: Guarded, level: IsolationLevel, action: str, first: str
) -> None:
    app = guarded("observe", action)
    run(app, "INSERT INTO parent VALUES (10, 1)")
    with sessions(app, level) as (child, master):

        def delete() -> object:
            return master.execute("DELETE FROM flow WHERE id = 1")

        insert = insert_child_of_one(child)
        if first == "child":
            insert()
            racer = Racer(committed(delete, master))
            settle(app, master, racer)
            ending = end(child)
        else:
            delete()
            racer = Racer(committed(insert, child))
            settle(app, child, racer)
            ending = end(master)
        outcomes = {racer.outcome(), ending}
    assert outcomes <= {"done", *RACES}
    assert "done" in outcomes
    invariants(app)
    assert_complete_list(app)


def insert_child_of_one(session: Connection) -> Callable[[], Any]:
    return lambda: session.execute("INSERT INTO probe (id, tenant, flow) VALUES (1, 1, 1)")


def settle(app: Connection, session: Connection, racer: Racer) -> None:
    """Wait until the other session waits for a lock or has ended, so that the order is the one that is meant."""
    if not waits(app, session, racer):
        racer.join(20)


def end(session: Connection) -> str:
    try:
        session.commit()
    except psycopg.Error as error:
        session.rollback()
        return error.sqlstate or "none"
    return "done"


def assert_complete_list(app: Connection) -> None:
    unlinked = {("probe", row) for row, flow in links(app, "probe").items() if flow is None}
    listed = set(rows(app, "SELECT relation::text, (row_key ->> 'id')::int FROM flowguard.violation "
                           "WHERE relation = 'probe'::regclass"))  # fmt: skip
    assert listed == unlinked


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_a_master_is_deleted_while_a_session_rule_takes_it(app: Connection, level: IsolationLevel) -> None:
    with sessions(app, level) as (writer, master):
        writer.execute("SET LOCAL flowguard.flow = '1'")
        writer.execute("INSERT INTO parent VALUES (11, 1)")
        racer = Racer(committed(lambda: master.execute("DELETE FROM flow WHERE id = 1"), master))
        settle(app, master, racer)
        outcomes = {end(writer), racer.outcome()}
    assert outcomes <= {"done", *RACES}
    assert "done" in outcomes
    invariants(app)


# --- A source in time and a row at the same moment


def test_a_source_and_a_row_of_the_same_moment_are_linked_or_listed(app: Connection) -> None:
    with sessions(app, IsolationLevel.READ_COMMITTED) as (source, row):
        source.execute("INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z')")
        row.execute("INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:00Z')")
        source.commit()
        row.commit()
    # The second look at commit sees what was committed meanwhile.
    assert links(app, "probe") == {1: 1}
    with sessions(app, IsolationLevel.REPEATABLE_READ) as (source, row):
        source.execute("INSERT INTO event VALUES (51, 1, 1, 'live', '2026-01-01 00:00Z')")
        row.execute("INSERT INTO probe (id, tenant, at) VALUES (2, 1, '2026-01-01 00:00Z')")
        source.commit()
        row.commit()
    assert_complete_list(app)


# --- Two who guard


def test_two_guards_at_once(guarded: Guarded) -> None:
    app = guarded("observe", own=True)
    run(app, "SELECT flowguard.unguard('child', 'flow')")
    with sessions(app, IsolationLevel.READ_COMMITTED) as (one_session, other):
        one_session.rollback()
        other.rollback()
        one_session.execute("SELECT flowguard.guard('child', 'flow')")
        racer = Racer(committed(lambda: other.execute("SELECT flowguard.guard('child', 'flow')"), other))
        assert waits(app, other, racer)
        one_session.commit()
        assert racer.outcome() == "done"
    assert one(app, "SELECT count(*) FROM flowguard.guard_plan('child', 'flow')") == 0
