"""A DBA guards, enforces, pauses or unguards a link while others write, and while more come who wait for the DBA.

`early` may have written before and commit after; `late` is a transaction of one statement, which may come while the
DBA waits for `early`. Rows written before the guard was in place are listed; those written after are as it wants them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from concurrency.conftest import Stages
from concurrency.invariants import State, listed
from concurrency.stage import COMMIT, Stage, Step, Tale
from concurrency.steps import (
    LOOK,
    at,
    delete,
    insert_child,
    insert_parent,
    insert_probe,
    link,
    without_serializable,
)
from engine.postgres import Connection, one, rows, run
from psycopg import IsolationLevel

KEPT = Step("looks, and goes on seeing that", f"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; {LOOK.do}")
"""A writer with a snapshot of before, in a story of READ COMMITTED."""


def call(function: str, table: str, *arguments: str) -> Step:
    """Call a function of the engine for the link of a table."""
    given = "".join(f"'{argument}', " for argument in arguments)
    told = " ".join((function, table, *arguments))
    return Step(told, f"SELECT * FROM flowguard.{function}('{table}', {given}'flow')")  # noqa: S608  names


def by_itself(step: Step) -> Step:
    """Let a step commit by itself."""
    return replace(step, alone=True)


GUARD, UNGUARD = call("guard", "child"), call("unguard", "child")
ENFORCE, OBSERVE = call("set_mode", "probe", "enforce"), call("set_mode", "probe", "observe")
PAUSE, RESUME = call("pause", "probe"), call("resume", "probe")
LATE_PROBE = by_itself(insert_probe(61))
LATE_CHILD = by_itself(insert_child(21, flow=77))  # a flow that is not there


@pytest.fixture
def stage(stages: Stages) -> Stage:
    return stages(use="guarding")


def set_up(
    table: str, rows_: str = "", *, mode: str = "observe", guarded: bool = True, paused: bool = False
) -> Callable[[Connection], None]:
    """Bring the link of a table, which has no rows, into this state; then write rows."""

    def bring(app: Connection) -> None:
        ((is_mode, is_guarded, is_paused),) = rows(
            app, "SELECT mode, guarded, paused FROM flowguard.link WHERE relation = %s::regclass", table
        )
        if is_guarded != guarded:
            run(app, f"SELECT flowguard.{'guard' if guarded else 'unguard'}(%s::regclass, 'flow')", table)
        if is_mode != mode:
            run(app, "SELECT flowguard.set_mode(%s::regclass, %s, 'flow')", table, mode)
        if guarded and is_paused != paused:
            run(app, f"SELECT flowguard.{'pause' if paused else 'resume'}(%s::regclass, 'flow')", table)
        if rows_:
            run(app, rows_)

    return bring


def wrong_ones_are_listed(stage: Stage, tale: Tale) -> dict[tuple[str, int], str]:
    """Give what is wrong, all of which must be listed."""
    wrong = {row: kind for row, kind in State(stage.app).kinds().items() if kind != "linked"}
    assert listed(stage.app) == wrong, tale
    return wrong


def mode(stage: Stage) -> str:
    return str(one(stage.app, "SELECT mode FROM flowguard.link WHERE relation = 'probe'::regclass"))


# --- guard and unguard


@without_serializable
def test_a_link_is_guarded_while_children_come(stage: Stage, level: IsolationLevel) -> None:
    waits = set()
    early = insert_child(20)
    for tale in stage.every_order(
        level,
        setup=set_up("child", insert_parent(10, 1), guarded=False),
        early=at(level, early, COMMIT),
        keeper=(GUARD, COMMIT),
        late=(LATE_CHILD,),
    ):
        waits |= tale.waits
        assert set(tale.refusals) <= {"late"}, tale
        expected = {}
        if not tale.is_after("early", early, "keeper", COMMIT):
            expected["child", 20] = "unlinked"
        if "late" not in tale.refusals:
            assert not tale.is_after("late", LATE_CHILD, "keeper", COMMIT), tale
            expected["child", 21] = "dangling"
        assert wrong_ones_are_listed(stage, tale) == expected, tale
        run(stage.app, "CALL flowguard.repair()")
        run(stage.app, "SELECT flowguard.guard('child', 'flow')")
        assert wrong_ones_are_listed(stage, tale) == {}, tale
        assert rows(stage.app, "SELECT * FROM flowguard.guard_plan('child', 'flow')") == [], tale
    assert waits >= {("keeper", "early"), ("early", "keeper"), ("late", "keeper")}


@without_serializable
def test_a_link_is_guarded_while_its_source_is_linked_anew(stage: Stage, level: IsolationLevel) -> None:
    """The source table gets triggers too: who links a parent either comes before, or its children follow."""
    relink = link("parent", 10, 2)
    for tale in stage.every_order(
        level,
        setup=set_up(
            "child",
            f"{insert_parent(10, 1)}; {insert_child(20, flow=1).do}",
            guarded=False,
        ),
        early=at(level, relink, COMMIT),
        keeper=(GUARD, COMMIT),
        late=(by_itself(insert_child(21)),),
    ):
        assert not tale.refusals, tale
        wrong = wrong_ones_are_listed(stage, tale)
        assert wrong.get(("child", 20), "linked") == (
            "linked" if tale.is_after("early", relink, "keeper", COMMIT) else "mismatched"
        ), tale


@without_serializable
def test_a_link_is_unguarded_while_children_come(stage: Stage, level: IsolationLevel) -> None:
    """As long as it is guarded no link leads to nothing; what is written after is listed."""
    waits = set()
    early = insert_child(20)
    for tale in stage.every_order(
        level,
        setup=set_up("child", insert_parent(10, 1)),
        early=at(level, early, COMMIT),
        keeper=(UNGUARD, COMMIT),
        late=(LATE_CHILD,),
    ):
        waits |= tale.waits
        assert set(tale.refusals) <= {"late"}, tale
        expected = {}
        if tale.is_after("early", early, "keeper", COMMIT):
            expected["child", 20] = "unlinked"
        if "late" not in tale.refusals:
            assert tale.is_after("late", LATE_CHILD, "keeper", COMMIT), tale
            expected["child", 21] = "dangling"
        assert wrong_ones_are_listed(stage, tale) == expected, tale
    assert waits >= {("keeper", "early"), ("early", "keeper"), ("late", "keeper")}


@pytest.mark.parametrize(
    ("one_call", "other_call"),
    [
        (GUARD, GUARD),
        (GUARD, UNGUARD),
        (GUARD, call("set_mode", "child", "enforce")),
        (GUARD, call("guard", "grandchild")),
    ],
    ids=["guard", "unguard", "set_mode", "guard another"],
)
def test_two_change_the_guard_at_once(stage: Stage, one_call: Step, other_call: Step) -> None:
    """One after the other: the registry has one lock."""
    waits = set()
    for tale in stage.every_order(
        setup=set_up("child", guarded=False), one=(one_call, COMMIT), other=(other_call, COMMIT)
    ):
        waits |= tale.waits
        assert not tale.refusals, tale
        if one(stage.app, "SELECT guarded FROM flowguard.link WHERE relation = 'child'::regclass"):
            assert one(stage.app, "SELECT count(*) FROM flowguard.guard_plan('child', 'flow')") == 0, tale
        else:
            assert (
                one(stage.app, "SELECT count(*) FROM pg_trigger WHERE starts_with(tgname, '~flowguard_child')") == 0
            ), tale
            assert tale.done[-1] == "other", tale
    assert waits == {("one", "other"), ("other", "one")}


# --- set_mode


@pytest.mark.parametrize("look", [(), (KEPT,)], ids=["READ_COMMITTED", "REPEATABLE_READ"])
def test_a_link_is_enforced_while_rows_come(stage: Stage, look: tuple[Step, ...]) -> None:
    """Whoever comes first: where it is enforced in the end, no row is without a link."""
    waits, modes = set(), set()
    for tale in stage.every_order(
        setup=set_up("probe"),
        early=(*look, insert_probe(60), COMMIT),
        keeper=(ENFORCE, COMMIT),
        late=(LATE_PROBE,),
    ):
        waits |= tale.waits
        modes.add(mode(stage))
        if "40P01" in tale.refusals.values():
            # A writer that has read the table, and the DBA that waits for it with a lock of its own.
            assert look, tale
            continue
        assert set(tale.refusals.values()) <= {"FG001", "FG113"}, tale
        wrong = wrong_ones_are_listed(stage, tale)
        if mode(stage) == "enforce":
            assert wrong == {}, tale
            assert tale.refusals == {"early": "FG001", "late": "FG001"}, tale
        else:
            assert tale.refusals == {"keeper": "FG113"}, tale
            assert set(wrong.values()) == {"unlinked"}, tale
    assert modes == {"observe", "enforce"}
    assert waits >= {("keeper", "early"), ("early", "keeper"), ("late", "keeper")}


@pytest.mark.parametrize("look", [(), (KEPT,)], ids=["READ_COMMITTED", "REPEATABLE_READ"])
@pytest.mark.parametrize(
    "early",
    [link("event", 50, None), link("event", 50, 2), delete("flow", 1), delete("event", 50)],
    ids=lambda s: s.told,
)
def test_a_link_is_enforced_while_what_it_rests_on_changes(stage: Stage, look: tuple[Step, ...], early: Step) -> None:
    for tale in stage.every_order(
        setup=set_up(
            "probe",
            "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z');"
            "INSERT INTO probe (id, tenant, flow) VALUES (60, 1, 1)",
        ),
        early=(*look, early, COMMIT),
        keeper=(by_itself(ENFORCE),),
        late=(LATE_PROBE,),
    ):
        wrong = {row for row in wrong_ones_are_listed(stage, tale) if row[0] == "probe"}
        assert set(tale.refusals.values()) <= {"FG001", "FG113", "23503", "40001", "40P01"}, tale
        assert mode(stage) == "observe" or not wrong, tale


def test_a_link_is_enforced_while_its_source_is_linked_anew(stages: Stages) -> None:
    """Enforcing it declares the key that proves agreement, whoever links the parent at that time."""
    stage = stages(use="guarding")
    enforce = call("set_mode", "child", "enforce")
    for tale in stage.every_order(
        setup=set_up("child", f"{insert_parent(10, 1)}; {insert_child(20).do}"),
        early=(link("parent", 10, 2), COMMIT),
        keeper=(enforce, COMMIT),
        late=(by_itself(insert_child(21, flow=1)),),
    ):
        wrong = wrong_ones_are_listed(stage, tale)
        if one(stage.app, "SELECT mode FROM flowguard.link WHERE relation = 'child'::regclass") == "enforce":
            assert wrong == {}, tale
            assert set(tale.refusals.items()) <= {("late", "23503")}, tale
        else:
            assert tale.refusals == {"keeper": "FG113"}, tale
            assert wrong == {("child", 21): "mismatched"}, tale


def test_a_link_is_observed_while_rows_come(stage: Stage) -> None:
    for tale in stage.every_order(
        setup=set_up("probe", mode="enforce"),
        early=(insert_probe(60), COMMIT),
        keeper=(by_itself(OBSERVE),),
        late=(LATE_PROBE,),
    ):
        assert set(tale.refusals.items()) <= {("early", "FG001"), ("late", "FG001")}, tale
        assert mode(stage) == "observe", tale
        for who in tale.refusals:
            assert tale.done.index(who) < tale.done.index("keeper"), tale
        wrong_ones_are_listed(stage, tale)


# --- pause and resume


@pytest.mark.parametrize("look", [(), (KEPT,)], ids=["READ_COMMITTED", "REPEATABLE_READ"])
@pytest.mark.parametrize("keeper", [PAUSE, RESUME], ids=["pause", "resume"])
def test_a_link_is_paused_or_resumed_while_rows_come(stage: Stage, look: tuple[Step, ...], keeper: Step) -> None:
    """Nobody waits. What is committed while the link is paused is listed, and a foreign key goes on to hold."""
    for tale in stage.every_order(
        setup=set_up("probe", mode="enforce", paused=keeper is RESUME),
        early=(*look, insert_probe(60), COMMIT),
        keeper=(keeper, COMMIT),
    ):
        assert not tale.waits, tale
        assert set(tale.refusals.values()) <= {"FG001"}, tale
        is_first = tale.done.index("early") < tale.done.index("keeper")
        assert ("early" in tale.refusals) == (is_first == (keeper is PAUSE)), tale
        wrong_ones_are_listed(stage, tale)


def test_a_master_is_deleted_while_the_link_is_paused(stage: Stage) -> None:
    for tale in stage.every_order(
        setup=set_up("probe"),
        early=(insert_probe(60, flow=1), COMMIT),
        keeper=(by_itself(PAUSE),),
        deleter=(delete("flow", 1), COMMIT),
    ):
        assert set(tale.refusals.items()) <= {("early", "23503")}, tale
        assert "dangling" not in wrong_ones_are_listed(stage, tale).values(), tale
