"""Undo while others write, undo or repair: it puts back what is still its own, and says what is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from concurrency.before import UNDO, everything, repairs, rows_of_before
from concurrency.conftest import Stages
from concurrency.invariants import hold, ledger_is_sane
from concurrency.stage import COMMIT, READ_COMMITTED, REPEATABLE_READ, ROLLBACK, Stage, Step
from concurrency.steps import at, delete, insert_child, insert_parent, link, note, without_serializable
from engine.postgres import Connection, one, rows
from engine.tables import links
from psycopg import IsolationLevel
from repair.calls import repair

WRITERS: dict[str, tuple[Step, int]] = {
    "links a child": (link("child", 24, 3), 2),
    "unlinks a child": (link("child", 24, None), 0),
    "notes something": (note("child", 24), 0),
    "moves a child": (Step("moves child 24", "UPDATE child SET parent = 11 WHERE id = 24"), 2),
    "inserts": (insert_child(40), 0),
    "links a parent anew": (link("parent", 10, 3), 8),
    "deletes a child": (delete("child", 24), 2),
    "deletes a parent": (delete("parent", 10), 8),
    "deletes a master": (delete("flow", 1), 9),
}
"""Each with the number of rows whose link it takes from the run that had written it."""


@pytest.fixture
def guarded(stages: Stages) -> Stage:
    return stages(use="repair")


@pytest.fixture
def registered(stages: Stages) -> Stage:
    return stages(guarded=False, use="repair")


def repaired(stage: Stage, *, orphans: bool = False) -> Callable[[Connection], None]:
    """Rows of before, and a run that repaired them."""

    def bring(app: Connection) -> None:
        rows_of_before(stage, orphans=orphans)(app)
        repair(app)

    return bring


def outcome(app: Connection) -> tuple[str, int, int, int]:
    """Give of the only run its status and how many rows it wrote or took, put back, and skipped."""
    query = (
        "SELECT status, linked + followed + (SELECT count(*) FROM flowguard.quarantined_row), restored, skipped "
        "FROM flowguard.run"
    )
    ((status, total, restored, skipped),) = rows(app, query)
    return status, total, restored, skipped


@pytest.mark.parametrize(
    ("writer", "level"),
    [
        *((writer, READ_COMMITTED) for writer in WRITERS),
        *(
            (writer, REPEATABLE_READ)
            for writer in ("links a child", "links a parent anew", "inserts", "deletes a master")
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_undo_and_a_writer(guarded: Stage, level: IsolationLevel, writer: str) -> None:
    """What the writer has made of a row stays, where it came first."""
    step, touched = WRITERS[writer]
    for tale in guarded.every_order(
        level, setup=repaired(guarded), writer=(step, COMMIT), undoer=at(level, UNDO, COMMIT)
    ):
        assert set(tale.refusals.values()) <= {"40P01", *(() if level == READ_COMMITTED else ("40001", "23503"))}, tale
        hold(guarded, tale, may_be_behind=True)
        ledger_is_sane(guarded.app, tale)
        status, total, restored, skipped = outcome(guarded.app)
        if "undoer" in tale.refusals:
            assert (status, restored, skipped) == ("finished", 0, 0), tale
        else:
            assert (status, restored + skipped) == ("undone", total), tale
            assert skipped in {0, touched}, tale
            assert skipped == 0 or tale.ends["writer"] == "committed", tale


def test_undo_waits_for_a_writer_and_leaves_its_row(guarded: Stage) -> None:
    with guarded.story(READ_COMMITTED, "writer", "undoer", setup=repaired(guarded)) as story:
        writer, undoer = story.sessions
        writer.does(link("child", 24, 3))
        undoer.waits(UNDO, behind=writer)
        writer.does(COMMIT)
        undoer.goes_on()
        undoer.does(COMMIT)
        status, total, restored, skipped = outcome(guarded.app)
        # The child, and the grandchild that followed it.
        assert (status, restored, skipped) == ("undone", total - 2, 2)
        assert links(guarded.app, "child")[24] == links(guarded.app, "grandchild")[34] == 3
        assert links(guarded.app, "child")[26] is None


@without_serializable
@pytest.mark.parametrize("end", [COMMIT, ROLLBACK], ids=["commits", "rolls back"])
def test_two_undo_the_same_run(registered: Stage, level: IsolationLevel, end: Step) -> None:
    """The second waits, and has nothing left to do, or all of it; with a snapshot of before it is told to try again."""
    for tale in registered.every_order(
        level,
        setup=repaired(registered, orphans=True),
        one=(UNDO, end),
        other=at(level, UNDO, COMMIT),
    ):
        assert set(tale.refusals.values()) <= (set() if level == READ_COMMITTED else {"40001"}), tale
        ledger_is_sane(registered.app, tale)
        status, total, restored, skipped = outcome(registered.app)
        if "committed" in tale.ends.values():
            assert (status, restored, skipped) == ("undone", total, 0), tale
        else:
            assert (status, restored, skipped) == ("finished", 0, 0), tale


def test_undo_and_a_repair(registered: Stage) -> None:
    """Of the run before; whoever comes later has the last word, and no row is lost."""
    before = None
    for tale in registered.every_order(
        setup=repaired(registered, orphans=True), undoer=(UNDO, COMMIT), mender=(repairs(),)
    ):
        assert set(tale.refusals.values()) <= {"40P01"}, tale
        ledger_is_sane(registered.app, tale)
        before = before or everything(registered.app)
        assert everything(registered.app) == before, tale
        assert one(registered.app, "SELECT count(*) FROM flowguard.run WHERE status = 'finished'") == (
            1 + ("undoer" in tale.refusals)
        ), tale


@without_serializable
def test_undo_and_one_who_takes_the_key_of_a_quarantined_row(registered: Stage, level: IsolationLevel) -> None:
    """Undo is refused, and the quarantine holds the row, until the key is free again."""
    ends = set()
    for tale in registered.every_order(
        level,
        setup=repaired(registered, orphans=True),
        writer=(insert_parent(13, 1), COMMIT),
        undoer=at(level, UNDO, COMMIT),
    ):
        assert len(tale.refusals) == 1, tale
        assert set(tale.refusals.values()) <= {"23505"}, tale
        ends.add(tuple(tale.refusals))
        ledger_is_sane(registered.app, tale)
        held = one(registered.app, "SELECT count(*) FROM flowguard.quarantine WHERE action = 'deleted'")
        assert held == (3 if "undoer" in tale.refusals else 0), tale
        assert links(registered.app, "parent")[13] == (1 if "undoer" in tale.refusals else 77), tale
    assert ends == {("writer",), ("undoer",)}
