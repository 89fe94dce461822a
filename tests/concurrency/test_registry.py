"""Two change the registry or the guard at once: one after the other, at every level, and no half of a change is lost.

At REPEATABLE READ and SERIALIZABLE whoever does not see what the other one did is refused, with 40001; tried again, the
change is made, or is refused for what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from concurrency.conftest import Stages
from concurrency.stage import COMMIT, READ_COMMITTED, REPEATABLE_READ, ROLLBACK, SERIALIZABLE, Stage, Step, Tale
from concurrency.steps import each_level
from engine.postgres import Connection, one, rows, run
from psycopg import IsolationLevel

SEES = Step("has a snapshot", "SELECT pg_current_snapshot()")
"""It locks no table: whoever guards needs all of them."""

TABLES = """
CREATE TABLE IF NOT EXISTS probe2 (LIKE probe INCLUDING ALL);
CREATE TABLE IF NOT EXISTS x (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer, y integer);
CREATE TABLE IF NOT EXISTS y (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer, x integer);
DELETE FROM probe2;
"""
PROBE2 = """
SELECT flowguard.add_link('probe2', 'flow', on_master_delete => 'set null');
SELECT flowguard.add_proximity_rule('probe2', 'event', '1 hour', 'at', 'at', 'flow',
                                    source_filter => 'status <> ''deleted''', link_column => 'flow');
"""


def takes_from(table: str, source: str) -> Step:
    """Register that a table takes its link from another one."""
    return Step(
        f"lets {table} take its link from {source}",
        f"SELECT flowguard.add_reference_rule('{table}', '{source}', '{source}', source_link => 'flow', "
        "agree => false, link_column => 'flow')",
    )


def call(function: str, table: str) -> Step:
    """Call a function of the engine for the link of a table."""
    return Step(f"calls {function} for {table}", f"SELECT * FROM flowguard.{function}('{table}', 'flow')")  # noqa: S608


X_FROM_Y, Y_FROM_X = takes_from("x", "y"), takes_from("y", "x")


@pytest.fixture
def stage(stages: Stages) -> Stage:
    return stages(use="registry")


def without_rules(app: Connection) -> None:
    """Register links of x and y, which take their link from nowhere yet."""
    run(app, TABLES)
    run(app, "SELECT flowguard.add_link(t, 'flow') FROM unnest('{x,y}'::regclass[]) t")
    run(app, "DELETE FROM flowguard.rule WHERE relation IN ('x'::regclass, 'y'::regclass)")


def guarded(*tables: str) -> Callable[[Connection], None]:
    """Guard the links of these tables, of the two that have one source, and leave the other one registered."""

    def bring(app: Connection) -> None:
        run(app, TABLES + PROBE2)
        for table in ("probe", "probe2"):
            run(app, f"SELECT flowguard.{'guard' if table in tables else 'unguard'}('{table}', 'flow')")

    return bring


def meet(
    stage: Stage, level: IsolationLevel, setup: Callable[[Connection], None], one_call: Step, other_call: Step
) -> Iterator[Tale]:
    """Play every order, also where one sees what was there before either began, and try again what lost its race.

    At REPEATABLE READ it is the other one that has a snapshot of before, at SERIALIZABLE the one: an order takes long.
    """
    calls = {"one": one_call, "other": other_call}
    sees = {REPEATABLE_READ: "other", SERIALIZABLE: "one"}.get(level)
    parts = {who: ((SEES,) if who == sees else ()) + (step, COMMIT) for who, step in calls.items()}
    for tale in stage.every_order(level, setup=setup, **parts):
        assert set(tale.ends) == set(parts), tale
        assert set(tale.ends.values()) != {"40001"}, f"nobody won{tale}"
        for who, code in [*tale.refusals.items()]:
            if code == "40001":
                assert level != READ_COMMITTED, tale
                tale.ends[who] = tried_again(stage.app, level, calls[who])
                tale.lines.append(f"{who} tries again: {tale.ends[who]}")
        yield tale


def tried_again(app: Connection, level: IsolationLevel, step: Step) -> str:
    """Do a step in a transaction of its own; gives how that ended."""
    run(app, f"BEGIN ISOLATION LEVEL {level.name.replace('_', ' ')}")
    try:
        run(app, str(step.do))
    except psycopg.Error as error:
        app.rollback()
        return str(error.sqlstate)
    run(app, "COMMIT")
    return "committed"


def is_whole(stage: Stage, tale: Tale) -> None:
    """Check that what is guarded has all that it needs, and that a new source row links who waits for it."""
    links = rows(stage.app, "SELECT relation::text FROM flowguard.link WHERE guarded ORDER BY 1")
    plans = {table: rows(stage.app, "SELECT * FROM flowguard.guard_plan(%s::regclass, 'flow')", table)
             for (table,) in links}  # fmt: skip
    assert not any(plans.values()), f"{plans}{tale}"
    waiting = {table for (table,) in links} & {"probe", "probe2"}
    for table in ("probe", "probe2"):
        run(stage.app, f"INSERT INTO {table} VALUES (60, 1, NULL, '2025-01-01 00:00Z')")  # noqa: S608  names
    run(stage.app, "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z')")
    for table in ("probe", "probe2"):
        flow = one(stage.app, f"SELECT flow FROM {table}")  # noqa: S608  names
        assert flow == (1 if table in waiting else None), f"{table}{tale}"


def finds_nothing(stage: Stage) -> None:
    """Check that the engine finds nothing wrong. It takes long: once, after all orders that ended the same way."""
    assert rows(stage.app, "SELECT * FROM flowguard.check_all() WHERE level = 'ERROR'") == []


@each_level
def test_two_rules_that_would_close_a_ring(stage: Stage, level: IsolationLevel) -> None:
    refusals, waits = set(), set()
    for tale in meet(stage, level, without_rules, X_FROM_Y, Y_FROM_X):
        waits |= tale.waits
        refusals |= set(tale.refusals.values())
        found = rows(stage.app, "SELECT relation::text FROM flowguard.rule WHERE source IN ('x'::regclass, 'y')")
        assert len(found) == 1, f"a ring{tale}"
        assert sorted(tale.ends.values()) == ["FG106", "committed"], tale
    finds_nothing(stage)
    assert refusals == {"FG106"} if level == READ_COMMITTED else {"40001", "FG106"}
    assert waits == {("one", "other"), ("other", "one")}


@each_level
@pytest.mark.parametrize(
    ("before", "calls", "after"),
    [
        ([], ("guard", "guard"), ["probe", "probe2"]),
        (["probe2"], ("guard", "unguard"), ["probe"]),
        (["probe", "probe2"], ("unguard", "unguard"), []),
        ([], ("guard", "drop_link"), ["probe"]),
        (["probe"], ("unguard", "drop_link"), []),
    ],
    ids=" ".join,
)
def test_two_links_of_one_source(
    stage: Stage,
    level: IsolationLevel,
    before: list[str],
    calls: tuple[str, str],
    after: list[str],
) -> None:
    waits = set()
    for tale in meet(stage, level, guarded(*before), call(calls[0], "probe"), call(calls[1], "probe2")):
        waits |= tale.waits
        assert set(tale.refusals.values()) <= {"40001"}, tale
        assert set(tale.ends.values()) == {"committed"}, tale
        assert rows(
            stage.app,
            "SELECT relation::text FROM flowguard.link WHERE guarded AND starts_with(relation::text, 'probe') "
            "ORDER BY 1",
        ) == [(table,) for table in after], tale
        is_whole(stage, tale)
    finds_nothing(stage)
    assert waits == {("one", "other"), ("other", "one")}


@pytest.mark.parametrize("end", [COMMIT, ROLLBACK], ids=lambda step: step.told)
def test_whoever_was_refused_goes_back_to_a_savepoint(stage: Stage, end: Step) -> None:
    """Its snapshot is no other there: it is refused again, also after others came."""
    caught = f"DO $$ BEGIN PERFORM ({X_FROM_Y.do}); EXCEPTION WHEN serialization_failure THEN NULL; END $$"
    with stage.story(REPEATABLE_READ, "early", "late", "third", setup=without_rules) as story:
        early, late, third = story.sessions
        early.does(SEES)
        third.does(SEES)
        late.does(Y_FROM_X, end)
        early.does(caught)
        third.is_refused("40001", X_FROM_Y)
        early.does(caught)
        early.is_refused("40001", X_FROM_Y)
        early.is_refused(*(("FG106", X_FROM_Y) if end is COMMIT else ("40001", None)))


@each_level
def test_one_transaction_changes_much(stage: Stage, level: IsolationLevel) -> None:
    with stage.story(level, "early", "late", setup=guarded()) as story:
        early, late = story.sessions
        early.does(SEES, call("guard", "probe"), "SAVEPOINT s", call("guard", "probe2"), "ROLLBACK TO s")
        early.does(call("guard", "probe2"))
        late.waits(call("unguard", "probe2"), behind=early)
        early.does(COMMIT)
        if level == READ_COMMITTED:
            late.goes_on()
            late.does(COMMIT)
        else:
            late.is_refused("40001")
            story.tale.refusals.clear()
            late.does(call("unguard", "probe2"), COMMIT)
    is_whole(stage, story.tale)


@each_level
def test_a_dump_brings_the_number_of_another_server(stage: Stage, level: IsolationLevel) -> None:
    """A number that no transaction here has had yet: it is in nobody's way twice."""
    with stage.story(level, "one", setup=without_rules) as story:
        (session,) = story.sessions
        run(stage.app, "SELECT setval('flowguard.last_change', pg_current_xact_id()::text::bigint + 1000000)")
        if level != READ_COMMITTED:
            session.is_refused("40001", X_FROM_Y)
            story.tale.refusals.clear()
        session.does(X_FROM_Y, COMMIT)


def test_a_transaction_that_may_not_write(stage: Stage) -> None:
    """Where nothing is to be done it is done."""
    with stage.story(REPEATABLE_READ, "one", setup=guarded("probe", "probe2")) as story:
        (session,) = story.sessions
        session.does("SET TRANSACTION READ ONLY", call("guard", "probe"), COMMIT)
