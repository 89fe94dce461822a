"""Guarding online: the plan, a statement at a time, while others hold locks, write, guard too, or end it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest
from engine.postgres import Connection, one, refused, run
from engine.tables import LINKS, Guarded, create, guard, register
from engine.test_guard import difference, dump, plan
from psycopg.conninfo import make_conninfo
from waiting import PATIENCE, wait_until

from pyflowguard import online
from pyflowguard.errors import ConnectionLost, ExitCode, LockNotObtained, StatementFailed

SHORT = timedelta(milliseconds=200)


@pytest.fixture
def app(db: Connection) -> Connection:
    """Give the small application with its links registered, none guarded."""
    create(db)
    register(db)
    return db


@contextmanager
def in_background(app: Connection, **options: Any) -> Iterator[tuple[Future[online.Guarded], list[Any]]]:  # noqa: ANN401
    """Guard every link while the block runs; gives what comes of it, and what it has told so far."""
    told: list[Any] = []
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(online.guard, app.info.dsn, on_progress=told.append, **options), told


def ends_after(app: Connection, steps: int) -> online.ProgressHandler:
    """End the session that guards once it has told so many steps."""
    done = 0

    def end(event: online.Step | online.Waiting) -> None:
        nonlocal done
        done += isinstance(event, online.Step) and event.seconds is not None
        if done == steps:
            run(
                app,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pyflowguard' "
                "AND datname = current_database()",
            )

    return end


# --- What it makes


def test_it_makes_what_guard_makes(app: Connection, guarded: Guarded, postgresql: Any) -> None:  # noqa: ANN401
    told: list[Any] = []
    result = online.guard(app.info.dsn, on_progress=told.append)
    assert (result.not_valid, result.dry_run) == ((), False)
    assert difference(dump(guarded("observe", own=True), postgresql), dump(app, postgresql)) == ""
    assert [step for step in told if step.seconds is not None] == list(result.steps)
    assert all(step.tries == 1 for step in result.steps)
    indexes = [step.planned for step in result.steps if " INDEX " in step.planned.statement.partition(" ON ")[0]]
    assert indexes
    assert all(" CONCURRENTLY " in planned.statement and not planned.in_transaction for planned in indexes)
    assert online.guard(app.info.dsn).steps == ()
    assert guard(app) == []


def test_tables_that_are_named_only(app: Connection) -> None:
    steps = online.guard(app.info.dsn, ["child", "public.child", "parent"], link_column="flow").steps
    assert {str(step.link) for step in steps} == {"child.flow", "parent.flow"}
    assert [plan(app, table) == [] for table in ("parent", "child", "probe")] == [True, True, False]


def test_a_dry_run_gives_the_plan_and_does_nothing(app: Connection, postgresql: Any) -> None:  # noqa: ANN401
    before = dump(app, postgresql)
    result = online.guard(app.info.dsn, dry_run=True)
    planned = [
        (step.planned.statement, step.planned.lock, step.planned.in_transaction)
        for table in LINKS
        for step in result.steps
        if step.link.relation == table
    ]
    assert planned == [tuple(step[1:]) for table in LINKS for step in plan(app, table)]
    assert result.dry_run
    assert difference(before, dump(app, postgresql)) == ""


def test_what_present_rows_violate_stays_not_valid_until_they_are_mended(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (1, 1, 77), (2, 1, 1)")
    result = online.guard(app.info.dsn)
    ((step, reason),) = result.not_valid
    assert "flowguard_parent_flow_tenant_fkey" in reason
    assert step.link == online.Link("parent", "flow")
    with refused("23503"):
        run(app, "INSERT INTO parent VALUES (3, 1, 78)")
    run(app, "CALL flowguard.repair('parent', link_column => 'flow')")
    again = online.guard(app.info.dsn)
    assert [step.planned.statement.split()[3:5] for step in again.steps] == [["VALIDATE", "CONSTRAINT"]]
    assert again.not_valid == ()


def test_an_index_that_was_left_invalid_is_built_anew(app: Connection) -> None:
    with psycopg.connect(app.info.dsn) as writer:
        writer.execute("INSERT INTO child (id, tenant) VALUES (20, 1)")
        with pytest.raises(StatementFailed, match="57014"):
            online.guard(app.info.dsn + " options='-c statement_timeout=2s'", ["child"], link_column="flow")
    assert one(app, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 1
    statements = [step.planned.statement for step in online.guard(app.info.dsn, ["child"], link_column="flow").steps]
    assert statements[0].startswith("DROP INDEX CONCURRENTLY ")
    assert one(app, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0
    assert plan(app, "child") == []


# --- Beside others


def test_writers_go_on_while_it_waits_for_its_lock(app: Connection) -> None:
    """A transaction that wrote stays open: no step waits longer than it may, and no other writer longer than a step."""
    online.guard(app.info.dsn, ["parent"], link_column="flow")
    run(app, 'DROP TRIGGER "~flowguard_parent_flow_insert" ON parent')
    with (
        psycopg.connect(app.info.dsn, application_name="a long one") as holder,
        in_background(app, lock_timeout=SHORT) as (result, told),
    ):
        holder.execute("INSERT INTO parent VALUES (1, 1, 1)")
        wait_until(lambda: sum(isinstance(event, online.Waiting) for event in told) >= 3, "a third try")
        longest = 0.0
        for number in range(10, 40):
            start = time.monotonic()
            run(app, "INSERT INTO parent VALUES (%s, 1, 1)", number)
            longest = max(longest, time.monotonic() - start)
        assert not result.done()
        holder.rollback()
        assert result.result(PATIENCE).not_valid == ()
    assert longest < SHORT.total_seconds() + 2
    (waiting, *_) = [event for event in told if isinstance(event, online.Waiting)]
    assert any("a long one" in holder for holder in waiting.holders)
    assert [step.tries > 1 for step in result.result().steps if step.link.relation == "parent"] == [True]


@pytest.mark.parametrize("to_enforce", [False, True], ids=["guard", "enforce"])
def test_no_writer_waits_behind_it_for_a_vacuum(app: Connection, *, to_enforce: bool) -> None:
    """Nor for who builds an index: it waits for them where no writer queues, and only then for writers."""
    online.guard(app.info.dsn)
    if not to_enforce:
        run(app, 'DROP TRIGGER "~flowguard_child_flow_insert" ON child')
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'child'::regclass"
    deadline = timedelta(seconds=30)
    work: Callable[[], Any] = (
        partial(online.set_mode, "enforce", app.info.dsn, ["child"], link_column="flow", deadline=deadline)
        if to_enforce
        else partial(online.guard, app.info.dsn, ["child"], link_column="flow", deadline=deadline)
    )
    with (
        psycopg.connect(app.info.dsn) as vacuum,
        psycopg.connect(app.info.dsn, autocommit=True, options="-c lock_timeout=100ms") as writer,
        ThreadPoolExecutor(1) as pool,
    ):
        vacuum.execute("LOCK TABLE child IN SHARE UPDATE EXCLUSIVE MODE")  # as VACUUM does
        result = pool.submit(work)
        wait_until(lambda: one(app, waits) == 1, "its wait for the other")
        for number in range(20):
            run(writer, "INSERT INTO child (id, tenant, flow) VALUES (%s, 1, 1)", number)
        assert one(app, waits) == 1
        vacuum.rollback()
        result.result(PATIENCE)
    assert plan(app, "child") == []


def test_it_ends_when_its_deadline_has_passed_and_goes_on_later(app: Connection) -> None:
    with psycopg.connect(app.info.dsn, application_name="a long one") as holder:
        holder.execute("LOCK TABLE child IN ROW EXCLUSIVE MODE")
        with pytest.raises(LockNotObtained) as caught:
            online.guard(app.info.dsn, ["child"], link_column="flow", lock_timeout=SHORT, deadline=2 * SHORT)
    error = caught.value
    assert error.exit_code is ExitCode.FAILED
    assert "child.flow" in error.message
    assert "a long one" in str(error.hint)
    assert "CREATE " in str(error.detail) or "ALTER TABLE" in str(error.detail)
    online.guard(app.info.dsn, ["child"], link_column="flow")
    assert plan(app, "child") == []


def test_two_guard_at_once(app: Connection) -> None:
    with in_background(app) as (first, _), in_background(app) as (second, _):
        done = [guarded.result(PATIENCE) for guarded in (first, second)]
    assert sorted(len(result.steps) > 0 for result in done) == [False, True]
    assert [plan(app, table) for table in LINKS] == [[]] * len(LINKS)


def test_who_comes_second_does_not_wait_for_ever(app: Connection) -> None:
    with psycopg.connect(app.info.dsn, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [online.LOCK_KEY])
        with pytest.raises(LockNotObtained, match=f"process {other.info.backend_pid}"):
            online.guard(app.info.dsn, deadline=SHORT)
    assert online.guard(app.info.dsn, deadline=SHORT).steps


@pytest.mark.parametrize("after", [1, 7, 15])
def test_a_session_that_is_ended_leaves_a_plan_that_goes_on(
    app: Connection,
    guarded: Guarded,
    after: int,
    postgresql: Any,  # noqa: ANN401  conftest's class
) -> None:
    with pytest.raises(ConnectionLost):
        online.guard(app.info.dsn, on_progress=ends_after(app, after))
    assert len(online.guard(app.info.dsn).steps) > 0
    assert difference(dump(guarded("observe", own=True), postgresql), dump(app, postgresql)) == ""


# --- The mode


def mode(app: Connection, table: str) -> str:
    return str(one(app, "SELECT mode FROM flowguard.link WHERE relation = %s::regclass", table))


def test_setting_the_mode_there_and_back(app: Connection, guarded: Guarded, postgresql: Any) -> None:  # noqa: ANN401
    online.guard(app.info.dsn)
    observed = dump(app, postgresql)
    result = online.set_mode("enforce", app.info.dsn)
    assert (result.mode, result.incomplete) == ("enforce", ())
    assert {link.relation for link in result.links} == set(LINKS)
    assert difference(dump(guarded("enforce", own=True), postgresql), dump(app, postgresql)) == ""
    again = online.set_mode("enforce", app.info.dsn)
    assert {step.planned.statement.split()[0] for step in again.steps} == {"LOCK"}
    online.set_mode("observe", app.info.dsn)
    assert difference(observed, dump(app, postgresql)) == ""


def test_the_mode_of_a_link_that_nobody_guards_is_written_down(app: Connection) -> None:
    result = online.set_mode("enforce", app.info.dsn, ["parent"], link_column="flow")
    assert (mode(app, "parent"), result.steps) == ("enforce", ())


def test_incomplete_links_are_refused_or_passed_over(app: Connection) -> None:
    online.guard(app.info.dsn)
    run(app, "INSERT INTO probe (id, tenant) VALUES (1, 1)")
    with pytest.raises(StatementFailed, match="FG113") as caught:
        online.set_mode("enforce", app.info.dsn, ["probe"], link_column="flow")
    assert "1 are unlinked" in str(caught.value.detail)
    result = online.set_mode("enforce", app.info.dsn, skip_incomplete=True)
    assert [str(link) for link, _ in result.incomplete] == ["probe.flow"]
    assert [mode(app, table) for table in LINKS] == ["enforce"] * 4 + ["observe"]


def test_who_writes_meanwhile_is_counted_in_the_end(app: Connection, postgresql: Any) -> None:  # noqa: ANN401
    """A row that a transaction under the old functions leaves unlinked: the link goes back to observe."""
    online.guard(app.info.dsn)
    observed = dump(app, postgresql)
    wrote: list[bool] = []

    def write(event: online.Step | online.Waiting) -> None:
        if (
            not wrote and " VALIDATE CONSTRAINT " in event.planned.statement
            if isinstance(event, online.Step)
            else False
        ):
            wrote.append(True)
            run(app, "INSERT INTO child (id, tenant) VALUES (1, 1)")

    with pytest.raises(StatementFailed, match="FG113"):
        online.set_mode("enforce", app.info.dsn, ["child"], link_column="flow", on_progress=write)
    assert wrote
    assert mode(app, "child") == "observe"
    assert difference(observed, dump(app, postgresql)) == ""
    run(app, "INSERT INTO child (id, tenant) VALUES (2, 1)")


def test_a_transaction_of_before_ends_before_the_last_count(app: Connection) -> None:
    """It has looked at its row as at commit, by the function of before, and is not committed yet."""
    online.guard(app.info.dsn)
    with psycopg.connect(app.info.dsn) as writer:
        waited: list[str] = []

        def meet(event: online.Step | online.Waiting) -> None:
            if isinstance(event, online.Waiting):
                waited.append(event.step.planned.statement)
                writer.commit()
            elif event.seconds is None and "child_flow_commit()" in event.planned.statement and not waited:
                writer.execute("INSERT INTO child (id, tenant) VALUES (1, 1)")
                writer.execute("SET CONSTRAINTS ALL IMMEDIATE")

        with pytest.raises(StatementFailed, match="FG113"):
            online.set_mode(
                "enforce", app.info.dsn, ["child"], link_column="flow", lock_timeout=SHORT, on_progress=meet
            )
    assert waited[0] == "LOCK TABLE child IN SHARE MODE"
    assert mode(app, "child") == "observe"


def test_setting_the_mode_goes_on_where_it_was_stopped(app: Connection) -> None:
    online.guard(app.info.dsn)
    with psycopg.connect(app.info.dsn) as holder:
        holder.execute("LOCK TABLE child IN ROW EXCLUSIVE MODE")
        with pytest.raises(LockNotObtained):
            online.set_mode(
                "enforce", app.info.dsn, ["child"], link_column="flow", lock_timeout=SHORT, deadline=2 * SHORT
            )
    assert plan(app, "child") != []
    online.set_mode("enforce", app.info.dsn, ["child"], link_column="flow")
    assert (mode(app, "child"), plan(app, "child")) == ("enforce", [])
    with refused("FG001"):
        run(app, "INSERT INTO child (id, tenant) VALUES (1, 1)")


def test_no_writer_is_the_victim_of_a_deadlock(app: Connection) -> None:
    """A writer holds the master and waits for the child behind us, longer than we may then wait for the master."""
    online.guard(app.info.dsn, ["parent"], link_column="flow")
    run(app, "ALTER TABLE parent DROP CONSTRAINT flowguard_parent_flow_tenant_fkey")
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'parent'::regclass"
    with (
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(app.info.dsn) as first,
        psycopg.connect(app.info.dsn) as second,
    ):
        first.execute("INSERT INTO parent VALUES (1, 1, 1)")
        second.execute("INSERT INTO flow VALUES (4, 1)")
        with in_background(app, tables=["parent"], link_column="flow", deadline=timedelta(seconds=30)) as (result, _):
            wait_until(lambda: one(app, waiting) == 1, "its wait for the child")
            writing = pool.submit(second.execute, "INSERT INTO parent VALUES (2, 1, 4)")
            wait_until(lambda: one(app, waiting) == 2, "the writer behind it")
            time.sleep(0.7)  # of the second after which the writer looks for a deadlock
            first.commit()
            writing.result(PATIENCE)
            second.commit()
            assert result.result(PATIENCE).not_valid == ()
    assert plan(app, "parent") == []


def test_a_mode_that_fails_for_another_reason_is_not_written_down(app: Connection) -> None:
    online.guard(app.info.dsn)
    with pytest.raises(StatementFailed):
        online.set_mode(
            "enforce",
            app.info.dsn,
            ["probe"],
            link_column="flow",
            on_progress=lambda event: (
                run(app, "ALTER TABLE probe RENAME COLUMN flow TO gone")
                if isinstance(event, online.Step) and event.seconds is None and "_commit()" in event.planned.statement
                else None
            ),
        )
    assert mode(app, "probe") == "observe"


def unlinked(app: Connection) -> int:
    """How many writes of rows without a link are let pass, of one."""
    try:
        run(app, "INSERT INTO child (id, tenant) VALUES (78, 1)")
    except psycopg.Error:
        return 0
    run(app, "DELETE FROM child WHERE id = 78")
    return 1


@pytest.mark.parametrize("step", [*range(5), None])
def test_enforcing_that_is_interrupted_leaves_the_link_as_it_was(
    app: Connection,
    step: int | None,
    postgresql: Any,  # noqa: ANN401  conftest's class
) -> None:
    """At the step with this number; None: as the mode is written down, before any step."""
    online.guard(app.info.dsn)
    observed = dump(app, postgresql)
    begun = 0

    def interrupt(event: online.Step | online.Waiting) -> None:
        nonlocal begun
        if isinstance(event, online.Step) and event.seconds is None:
            begun += 1
            if begun - 1 == step:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        if step is None:
            patch.setattr(online._Work, "carry_out", lambda *_: interrupted())  # noqa: SLF001
        with pytest.raises(KeyboardInterrupt):
            online.set_mode("enforce", app.info.dsn, ["child"], link_column="flow", on_progress=interrupt)
    assert mode(app, "child") == "observe"
    assert difference(observed, dump(app, postgresql)) == ""
    assert unlinked(app) == 1
    result = online.set_mode("enforce", app.info.dsn, ["child"], link_column="flow")
    assert [str(link) for link in result.links] == ["child.flow"]
    assert unlinked(app) == 0


def interrupted() -> None:
    raise KeyboardInterrupt


def test_what_an_interrupted_enforcing_cannot_take_back_is_told(app: Connection) -> None:
    online.guard(app.info.dsn)
    told: list[str] = []
    with psycopg.connect(app.info.dsn) as holder:

        def interrupt(event: online.Step | online.Waiting) -> None:
            if isinstance(event, online.Step) and " VALIDATE CONSTRAINT " in event.planned.statement:
                holder.execute("SELECT FROM child")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            online.set_mode(
                "enforce",
                app.info.dsn,
                ["child"],
                link_column="flow",
                lock_timeout=SHORT,
                on_progress=interrupt,
                on_notice=lambda notice: told.append(str(notice)),
            )
    (said,) = told
    assert said.startswith("WARNING:  child.flow is to observe again, and something of what was begun is left: ")
    assert said.endswith("HINT:  Run `pyflowguard guard child --link-column flow`.")
    assert mode(app, "child") == "observe"
    assert plan(app, "child") != []
    online.guard(app.info.dsn, ["child"], link_column="flow")
    assert plan(app, "child") == []


def test_an_interrupted_enforcing_of_a_link_that_nobody_guards(
    app: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after the server has written the mode down, before it is known here."""
    written = online._SET_MODE  # noqa: SLF001
    execute = psycopg.Connection.execute

    def cut(connection: Connection, query: Any, *arguments: Any) -> Any:  # noqa: ANN401
        done = execute(connection, query, *arguments)
        if query == written and arguments[0][1] == "enforce":
            raise KeyboardInterrupt
        return done

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Connection, "execute", cut)
        with pytest.raises(KeyboardInterrupt):
            online.set_mode("enforce", app.info.dsn, ["parent"], link_column="flow")
    assert mode(app, "parent") == "observe"
    assert one(app, "SELECT guarded FROM flowguard.link WHERE relation = 'parent'::regclass") is False


# --- Beside a deadlock


def test_a_step_that_loses_a_deadlock_is_tried_again(app: Connection, as_role: Callable[[str, str], str]) -> None:
    """The writer never looks for a deadlock, so that the guard is its victim; it comes again and succeeds."""
    online.guard(app.info.dsn)
    run(app, "DROP INDEX flowguard_child_flow_idx")
    admin = as_role(app.info.dsn, "postgres")
    told: list[Any] = []
    with (
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(make_conninfo(admin, options="-c deadlock_timeout=1min")) as writer,
    ):
        writer.execute("INSERT INTO child (id, tenant) VALUES (1, 1)")
        patient = make_conninfo(admin, options="-c deadlock_timeout=3s")
        guarding = pool.submit(online.guard, patient, ["child"], link_column="flow", on_progress=told.append)
        wait_until(lambda: one(app, WAITS_FOR_A_WRITER) == 1, "the build to wait for the writer")
        writer.execute("LOCK TABLE child IN SHARE MODE")
        writer.commit()
        result = guarding.result(PATIENCE)
    assert [(step.planned.statement.split()[0], step.tries) for step in result.steps] == [("DROP", 1), ("CREATE", 2)]
    assert [event.step.tries for event in told if isinstance(event, online.Waiting)] == [1]
    assert plan(app, "child") == []


WAITS_FOR_A_WRITER = """
SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
 WHERE NOT l.granted AND l.locktype = 'virtualxid' AND a.datname = current_database()
"""


def test_pauses_differ(app: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that are in each other's way wait for different times, each at most as long as it may."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    error = psycopg.errors.DeadlockDetected()
    with psycopg.connect(app.info.dsn, autocommit=True) as connection:
        work = online._Work(connection, SHORT, online.DEADLINE, None, None)  # noqa: SLF001
        planned = online.Planned("SELECT 1", "none", in_transaction=True)
        for tries, longest in [(1, 0.2), (2, 0.4), (20, 5.0)]:
            pauses.clear()
            for _ in range(20):
                work.wait(online.Step(online.Link("parent", "flow"), planned, tries=tries), time.monotonic(), error)
            assert all(0 <= pause <= longest for pause in pauses)
            assert len(set(pauses)) > 10
            assert max(pauses) > longest / 4
