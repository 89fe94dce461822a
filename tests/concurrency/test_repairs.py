"""Repairs at once, and repair while others write: nothing is lost or done twice, and the ledger says all of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from concurrency.before import (
    HOLD,
    LINKED,
    contents,
    everything,
    repairs,
    rows_of_before,
)
from concurrency.conftest import Stages
from concurrency.invariants import hold, ledger_is_sane
from concurrency.stage import COMMIT, READ_COMMITTED, Session, Stage, Step, Steps, Tale, by_itself
from concurrency.steps import KEPT, delete, insert_child, link, note
from engine.postgres import one, rows, run
from engine.tables import links
from psycopg.conninfo import make_conninfo
from repair.calls import Run, repair, run_row, undo


@pytest.fixture
def guarded(stages: Stages) -> Stage:
    """All links are guarded: late linking goes on while repair does."""
    return stages(use="repair")


@pytest.fixture
def registered(stages: Stages) -> Stage:
    """No link is guarded yet: rows may dangle."""
    return stages(guarded=False, use="repair")


def written_twice(stage: Stage) -> list[tuple[object, ...]]:
    """Rows that runs have written more than once."""
    return rows(
        stage.app,
        "SELECT table_name, row_key FROM flowguard.run_change GROUP BY table_name, row_key HAVING count(*) > 1",
    )


# --- Two repairs


@pytest.mark.parametrize("relation", [None, "child"], ids=["all links", "the same link"])
def test_two_repairs_at_once(registered: Stage, relation: str | None) -> None:
    """Each row is written by one of them; when both are undone all is as it was."""
    app, waits = registered.app, set()
    before: object = None
    for tale in registered.every_order(
        setup=rows_of_before(registered, orphans=True),
        holder=(HOLD, COMMIT),
        one=(repairs(relation, 2),),
        other=(repairs(relation, 3),),
    ):
        waits |= tale.waits
        assert not tale.refusals, tale
        ledger_is_sane(app, tale)
        assert written_twice(registered) == [], tale
        assert one(app, "SELECT sum(linked) FROM flowguard.run") == (LINKED if relation is None else 8), tale
        assert one(app, "SELECT sum(quarantined) FROM flowguard.run") == (2 if relation is None else 0), tale
        for (run_id,) in rows(app, "SELECT run_id FROM flowguard.run"):
            assert undo(app, run_id)[1:] == (0, 0), tale
        ledger_is_sane(app, tale)
        before = before or contents(app)
        assert contents(app) == before, tale
    registered.prepare(app)
    rows_of_before(registered, orphans=True)(app)
    assert contents(app) == before
    assert {("one", "holder"), ("other", "holder")} <= waits


# --- Repair and writers

NO_ROWS: frozenset[tuple[str, int]] = frozenset()
OF_PARENT_10 = frozenset(
    {("parent", 10), *(("child", n) for n in range(20, 28, 2)), *(("grandchild", n) for n in range(30, 38, 2))}
)
WRITERS = {
    "inserts": (insert_child(40), NO_ROWS),
    "links a parent anew": (link("parent", 10, 3), NO_ROWS),
    "unlinks a parent": (link("parent", 10, None), NO_ROWS),
    "links a parent late": (link("parent", 12, 3), NO_ROWS),
    "links a source anew": (link("event", 50, 2), NO_ROWS),
    "links a child": (link("child", 24, 1), NO_ROWS),
    "moves a child": (Step("moves child 24", "UPDATE child SET parent = 11 WHERE id = 24"), NO_ROWS),
    "notes something": (note("child", 24), NO_ROWS),
    "deletes a child": (delete("child", 24), frozenset({("child", 24), ("grandchild", 34)})),
    "deletes a parent": (delete("parent", 10), OF_PARENT_10),
    "deletes a master": (delete("flow", 1), NO_ROWS),
}


def prove(
    stage: Stage, tale: Tale, writer: str, *, new: frozenset[tuple[str, int]] = NO_ROWS, stays: bool = False
) -> None:
    """Check what is committed, that no row is lost, and that one more repair leaves nothing behind.

    `stays`: a snapshot of before the repair hides the links that it wrote from who unlinks their parent; those rows are
    listed as mismatched, which is not for repair to decide.
    """
    gone = WRITERS[writer][1] if tale.ends["writer"] == "committed" else NO_ROWS
    added = new if tale.ends["writer"] == "committed" else NO_ROWS
    assert everything(stage.app) == (INITIAL - gone) | added, tale
    hold(stage, tale, may_be_behind=True)
    ledger_is_sane(stage.app, tale)
    repair(stage.app)
    hold(stage, tale, may_be_behind=stays)


INITIAL = frozenset(
    {
        *(("parent", n) for n in range(10, 13)),
        *(("child", n) for n in range(20, 29)),
        *(("grandchild", n) for n in range(30, 39)),
        ("event", 50),
        ("probe", 60),
        ("probe", 61),
    }
)


@pytest.mark.parametrize(
    ("writer", "look"),
    [
        *((writer, ()) for writer in WRITERS),
        *((writer, (KEPT,)) for writer in ("inserts", "links a parent anew", "unlinks a parent", "deletes a master")),
    ],
    ids=lambda value: value if isinstance(value, str) else "REPEATABLE_READ" if value else "READ_COMMITTED",
)
def test_repair_and_a_writer(guarded: Stage, writer: str, look: Steps) -> None:
    for tale in guarded.every_order(
        setup=rows_of_before(guarded),
        writer=(*look, WRITERS[writer][0], COMMIT),
        mender=(repairs(),),
    ):
        assert "mender" not in tale.refusals, tale
        assert set(tale.refusals.values()) <= ({"40001", "23503"} if look else set()), tale
        prove(
            guarded,
            tale,
            writer,
            new=frozenset({("child", 40)}) if writer == "inserts" else NO_ROWS,
            stays=bool(look) and writer == "unlinks a parent",
        )


@pytest.mark.parametrize("writer", ["inserts", "links a parent anew", "deletes a parent", "deletes a master"])
def test_a_writer_comes_in_the_middle_of_a_repair(guarded: Stage, writer: str) -> None:
    """A third one holds a row, so that some batches are committed and others are not when the writer comes."""
    waits = set()
    for tale in guarded.every_order(
        setup=rows_of_before(guarded),
        holder=(HOLD, COMMIT),
        mender=(repairs(),),
        writer=(by_itself(WRITERS[writer][0]),),
    ):
        waits |= tale.waits
        assert "mender" not in tale.refusals, tale
        assert set(tale.refusals.values()) <= {"40P01"}, tale
        prove(guarded, tale, writer, new=frozenset({("child", 40)}) if writer == "inserts" else NO_ROWS)
    assert ("mender", "holder") in waits


def test_rows_written_meanwhile_are_the_guards(guarded: Stage) -> None:
    with guarded.story(READ_COMMITTED, "holder", "mender", "writer", setup=rows_of_before(guarded)) as story:
        holder, mender, writer = story.sessions
        holder.does(HOLD)
        mender.waits(repairs(), behind=holder)
        for n in range(40, 45):
            writer.does(insert_child(n), COMMIT)
        holder.does(COMMIT)
        mender.goes_on()
        assert one(guarded.app, "SELECT count(*) FROM flowguard.run_change") == LINKED
        query = "SELECT count(*) FROM flowguard.run_change WHERE table_name = 'child' AND (row_key ->> 'id')::int >= 40"
        assert one(guarded.app, query) == 0
        hold(guarded, story.tale)


def test_a_row_that_is_locked_is_waited_for_and_judged_again(registered: Stage) -> None:
    app = registered.app
    with registered.story(READ_COMMITTED, "writer", "mender", setup=rows_of_before(registered)) as story:
        writer, mender = story.sessions
        writer.does("UPDATE child SET flow = 3, note = 'mine' WHERE id = 27")
        mender.waits(repairs(batch_size=5000), behind=writer)
        writer.does(COMMIT)
        mender.goes_on()
        assert links(app, "child")[27] == 3
        assert isinstance(mender.found, Run)
        # The grandchild takes what its parent was linked to.
        assert links(app, "grandchild")[37] == 3
        assert mender.found.linked == LINKED - 1
        assert one(app, "SELECT count(*) FROM flowguard.run_change WHERE row_key = '{\"id\": 27}'") == 0
        ledger_is_sane(app, story.tale)


def test_an_orphan_that_got_a_master_meanwhile_stays(registered: Stage) -> None:
    with registered.story(READ_COMMITTED, "writer", "mender", setup=rows_of_before(registered, orphans=True)) as story:
        writer, mender = story.sessions
        writer.does(link("parent", 13, 2))
        mender.waits(repairs(), behind=writer)
        writer.does(COMMIT)
        mender.goes_on()
        assert links(registered.app, "parent")[13] == 2
        assert links(registered.app, "child")[29] == 2
        assert rows(registered.app, "SELECT row_key ->> 'id' FROM flowguard.quarantine") == [("14",)]
        ledger_is_sane(registered.app, story.tale)


@pytest.fixture
def remarked(registered: Stage) -> Iterator[Stage]:
    """Rows of a table that nobody guards go with a parent, or are set when it goes."""
    run(
        registered.app,
        "CREATE TABLE remark (id integer PRIMARY KEY, note text, parent integer REFERENCES parent ON DELETE CASCADE, "
        "other integer REFERENCES parent ON DELETE SET NULL)",
    )
    yield registered
    run(registered.app, "DROP TABLE remark")


@pytest.mark.parametrize(
    ("change", "during", "after"),
    [
        ("UPDATE remark SET note = 'new'", [(2, "new", None, None)], [(1, "new", 14, None), (2, "new", None, 14)]),
        (
            "UPDATE remark SET parent = 10, other = NULL",
            [(1, "old", 10, None), (2, "old", 10, None)],
            [(1, "old", 10, None), (2, "old", 10, None)],
        ),
        ("DELETE FROM remark", [], []),
    ],
    ids=["written", "moved away", "deleted"],
)
def test_what_goes_with_an_orphan_is_kept_as_it_was_last(
    remarked: Stage, change: str, during: list[tuple[object, ...]], after: list[tuple[object, ...]]
) -> None:
    with remarked.story(READ_COMMITTED, "writer", "mender", setup=rows_of_before(remarked, orphans=True)) as story:
        app = remarked.app
        run(app, "INSERT INTO remark VALUES (1, 'old', 14, NULL), (2, 'old', NULL, 14)")
        writer, mender = story.sessions
        writer.does(change)
        mender.waits(repairs(), behind=writer)
        writer.does(COMMIT)
        mender.goes_on()
        assert rows(app, "SELECT * FROM remark ORDER BY id") == during
        undo(app, one(app, "SELECT max(run_id) FROM flowguard.run"))
        assert rows(app, "SELECT * FROM remark ORDER BY id") == after
        run(app, "DELETE FROM remark")


COUNTED = """
CREATE SEQUENCE written;
CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('written'); RETURN NEW; END $$;
CREATE TRIGGER count_it BEFORE UPDATE ON child FOR EACH ROW EXECUTE FUNCTION count_it();
"""
NOT_COUNTED = "DROP TRIGGER count_it ON child; DROP FUNCTION count_it(); DROP SEQUENCE written"


@pytest.fixture
def patient(registered: Stage) -> Iterator[Stage]:
    """The first session never looks for a deadlock, the second after a second. Updates of children are counted."""
    for position, timeout in enumerate(("1min", "1s")):
        dsn = make_conninfo(registered.dsn, user="postgres", options=f"-c deadlock_timeout={timeout}")
        registered.pool.insert(position, Session(dsn))
    run(registered.app, COUNTED)
    yield registered
    run(registered.app, NOT_COUNTED)
    for _ in range(2):
        registered.pool.pop(0).close()


def test_a_deadlock_is_tried_again(patient: Stage) -> None:
    """Repair gives way, and comes again."""
    app = patient.app
    with patient.story(READ_COMMITTED, "writer", "mender", setup=rows_of_before(patient)) as story:
        writer, mender = story.sessions
        writer.does(note("child", 24))
        mender.waits(repairs("child", batch_size=5000), behind=writer)
        free = {row for (row,) in rows(app, "SELECT id FROM child FOR UPDATE SKIP LOCKED")}
        held = min(set(range(20, 28)) - free - {24})
        # Repair holds that row and waits for child 24: now each waits for the other.
        writer.does(note("child", held), COMMIT)
        mender.goes_on()
        assert ("writer", "mender") in story.tale.waits
        assert isinstance(mender.found, Run)
        assert mender.found.linked == 8
        # A sequence does not go back with the transaction: some rows were written twice.
        assert one(app, "SELECT last_value FROM written") > 8 + 2
        assert {row for (row,) in rows(app, "SELECT id FROM child WHERE note = 'changed'")} == {24, held}
        assert one(app, "SELECT count(*) FROM flowguard.run_change") == 8
        ledger_is_sane(app, story.tale)


# --- Broken off


def test_a_repair_killed_in_the_middle_is_called_again(registered: Stage) -> None:
    app = registered.app
    with registered.story(READ_COMMITTED, "holder", "mender", setup=rows_of_before(registered)) as story:
        before = contents(app)
        holder, mender = story.sessions
        holder.does(HOLD)
        mender.waits(repairs("child", batch_size=1), behind=holder)
        mender.is_killed()
        mender.is_refused("57P01")
        first = one(app, "SELECT run_id FROM flowguard.run")
        # What was committed before is done, and written down.
        assert one(app, "SELECT count(*) FROM child WHERE flow IS NOT NULL") == 4
        assert one(app, "SELECT count(*) FROM flowguard.run_change") == 4
        assert run_row(app, first)["linked"] == 4
        assert "run_stopped" in {name for (name,) in rows(app, "SELECT name FROM flowguard.check_all()")}
        holder.does(COMMIT)

        second = repair(app)
        assert second.linked == LINKED - 4
        assert run_row(app, first)["status"] == "stopped"
        assert written_twice(registered) == []
        ledger_is_sane(app, story.tale)

        # Both can be taken back; the one that was stopped, as far as it went.
        assert undo(app, first) == (4, 0, 0)
        assert undo(app, second.id) == (LINKED - 4, 0, 0)
        assert contents(app) == before


def test_a_quarantine_killed_in_the_middle_loses_nothing(registered: Stage) -> None:
    app = registered.app
    orphans = "INSERT INTO parent SELECT n, 1, 77 FROM generate_series(1, 5) n"
    with registered.story(READ_COMMITTED, "holder", "mender", setup=orphans) as story:
        before = contents(app)
        holder, mender = story.sessions
        holder.does("SELECT FROM parent WHERE id = 4 FOR UPDATE")
        mender.waits(repairs(batch_size=2), behind=holder)
        mender.is_killed()
        mender.is_refused("57P01")
        assert set(links(app, "parent")) == {3, 4, 5}
        assert one(app, "SELECT count(*) FROM flowguard.quarantine WHERE table_name = 'parent'") == 2
        holder.does(COMMIT)
        repair(app)
        assert links(app, "parent") == {}
        for (run_id,) in rows(app, "SELECT run_id FROM flowguard.run ORDER BY run_id DESC"):
            undo(app, run_id)
        assert contents(app) == before
        ledger_is_sane(app, story.tale)
