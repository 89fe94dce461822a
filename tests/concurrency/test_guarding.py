"""A DBA guards, enforces, pauses or unguards a link while others write, and while more come who wait for the DBA.

`early` may have written before and commit after; `late` is a transaction of one statement, which may come while the
DBA waits for `early`. Rows written before the guard was in place are listed; those written after are as it wants them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from concurrency.conftest import Stages
from concurrency.invariants import State, is_listed
from concurrency.stage import COMMIT, READ_COMMITTED, Stage, Step, Steps, Tale, by_itself
from concurrency.steps import (
    KEPT,
    delete,
    insert_child,
    insert_parent,
    insert_probe,
    link,
)
from engine.postgres import Connection, one, rows, run


def call(function: str, table: str, *arguments: str) -> Step:
    """Call a function of the engine for the link of a table."""
    given = "".join(f"'{argument}', " for argument in arguments)
    told = " ".join((function, table, *arguments))
    return Step(told, f"SELECT * FROM flowguard.{function}('{table}', {given}'flow')")  # noqa: S608  names


GUARD, UNGUARD = call("guard", "child"), call("unguard", "child")
ENFORCE, OBSERVE = call("set_mode", "probe", "enforce"), call("set_mode", "probe", "observe")
PAUSE, RESUME = call("pause", "probe"), call("resume", "probe")


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


def meet(
    stage: Stage, who: str, early: Step, keeper: Step, late: Step, *, setup: Callable[[Connection], object]
) -> Iterator[Tale]:
    """Play every order of a meeting: the DBA's transaction stays open, another writer comes, or one has a snapshot."""
    parts: dict[str, dict[str, Steps]] = {
        "open": {"early": (early, COMMIT), "keeper": (keeper, COMMIT)},
        "late": {"early": (early, COMMIT), "keeper": (by_itself(keeper),), "late": (by_itself(late),)},
        "brief": {"early": (early, COMMIT), "keeper": (by_itself(keeper),)},
        "snapshot": {"early": (KEPT, early, COMMIT), "keeper": (by_itself(keeper),)},
    }
    return stage.every_order(READ_COMMITTED, setup=setup, most=20, **parts[who])


WAITS = {
    "open": {("keeper", "early"), ("early", "keeper")},
    "late": {("keeper", "early"), ("late", "keeper")},
    "snapshot": {("keeper", "early")},
}
each_meeting = pytest.mark.parametrize("who", ["open", "late", "snapshot"])


def comes_after(tale: Tale, who: str, step: Step) -> bool:
    """Say whether a writer's step was done after the DBA's transaction."""
    return tale.steps.index((who, step.told)) > max(i for i, (name, _) in enumerate(tale.steps) if name == "keeper")


def mode(stage: Stage) -> str:
    return str(one(stage.app, "SELECT mode FROM flowguard.link WHERE relation = 'probe'::regclass"))


# --- guard and unguard


@each_meeting
def test_a_link_is_guarded_while_children_come(stage: Stage, who: str) -> None:
    waits, seen = set(), []
    early, late = insert_child(20), insert_child(21, flow=77)  # a flow that is not there
    for tale in meet(stage, who, early, GUARD, late, setup=set_up("child", insert_parent(10, 1), guarded=False)):
        waits |= tale.waits
        assert tale.refusals in ({}, {"late": "23503"}), tale
        expected = {}
        if not comes_after(tale, "early", early):
            expected["child", 20] = "unlinked"
        if "late" in tale.ends and "late" not in tale.refusals:
            assert not comes_after(tale, "late", late), tale
            expected["child", 21] = "dangling"
        assert is_listed(stage, State(stage.app), tale) == expected, tale
        if expected not in seen:
            seen.append(expected)
            run(stage.app, "CALL flowguard.repair()")
            run(stage.app, "SELECT flowguard.guard('child', 'flow')")
            assert is_listed(stage, State(stage.app), tale) == {}, tale
            assert rows(stage.app, "SELECT * FROM flowguard.guard_plan('child', 'flow')") == [], tale
    assert waits >= WAITS[who]


@pytest.mark.parametrize("who", ["open", "snapshot"])
def test_a_link_is_guarded_while_its_source_is_linked_anew(stage: Stage, who: str) -> None:
    """The source table gets triggers too: who links a parent either comes before, or its children follow."""
    early = link("parent", 10, 2)
    for tale in meet(
        stage,
        who,
        early,
        GUARD,
        insert_child(21),
        setup=set_up("child", f"{insert_parent(10, 1)}; {insert_child(20, flow=1).do}", guarded=False),
    ):
        assert not tale.refusals, tale
        kind = is_listed(stage, State(stage.app), tale).get(("child", 20), "linked")
        assert kind == ("linked" if comes_after(tale, "early", early) else "mismatched"), tale


@each_meeting
def test_a_link_is_unguarded_while_children_come(stage: Stage, who: str) -> None:
    """As long as it is guarded no link leads to nothing; what is written after is listed."""
    waits = set()
    early, late = insert_child(20), insert_child(21, flow=77)
    for tale in meet(stage, who, early, UNGUARD, late, setup=set_up("child", insert_parent(10, 1))):
        waits |= tale.waits
        if "40P01" in tale.refusals.values():
            # The one has the table and wants its source, the other has the source and wants the table.
            assert who == "late", tale
            is_listed(stage, State(stage.app), tale)
            continue
        assert tale.refusals in ({}, {"late": "23503"}), tale
        expected = {}
        if comes_after(tale, "early", early):
            expected["child", 20] = "unlinked"
        if "late" in tale.ends and "late" not in tale.refusals:
            assert comes_after(tale, "late", late), tale
            expected["child", 21] = "dangling"
        assert is_listed(stage, State(stage.app), tale) == expected, tale
    assert waits >= WAITS[who]


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


@each_meeting
def test_a_link_is_enforced_while_rows_come(stage: Stage, who: str) -> None:
    """Whoever comes first: where it is enforced in the end, no row is without a link.

    A writer that has read the table before it writes and the DBA may come to wait for each other.
    """
    waits, modes = set(), set()
    for tale in meet(stage, who, insert_probe(60), ENFORCE, insert_probe(61), setup=set_up("probe")):
        waits |= tale.waits
        modes.add(mode(stage))
        wrong = is_listed(stage, State(stage.app), tale)
        if mode(stage) == "enforce":
            assert wrong == {}, tale
            assert set(tale.refusals) == {"early", "late"} & set(tale.ends), tale
        else:
            assert set(tale.refusals) == {"keeper"}, tale
            assert set(wrong.values()) <= {"unlinked"}, tale
        assert set(tale.refusals.values()) <= {"FG001", "FG113", *(["40P01"] if who == "snapshot" else [])}, tale
    assert modes == {"observe", "enforce"}
    assert waits >= WAITS[who]


@pytest.mark.parametrize("who", ["brief", "snapshot"])
@pytest.mark.parametrize(
    "early",
    [link("event", 50, None), link("event", 50, 2), delete("flow", 1), delete("event", 50)],
    ids=lambda step: step.told,
)
def test_a_link_is_enforced_while_what_it_rests_on_changes(stage: Stage, who: str, early: Step) -> None:
    for tale in meet(
        stage,
        who,
        early,
        ENFORCE,
        insert_probe(61),
        setup=set_up(
            "probe",
            "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z');"
            "INSERT INTO probe (id, tenant, flow) VALUES (60, 1, 1)",
        ),
    ):
        wrong = {row for row in is_listed(stage, State(stage.app), tale) if row[0] == "probe"}
        assert set(tale.refusals.values()) <= {"FG001", "FG113", "23503", "40001", "40P01"}, tale
        assert mode(stage) == "observe" or not wrong, tale


def test_a_link_is_enforced_while_its_source_is_linked_anew(stage: Stage) -> None:
    """Enforcing it declares the key that proves agreement, whoever links the parent at that time."""
    for tale in meet(
        stage,
        "late",
        link("parent", 10, 2),
        call("set_mode", "child", "enforce"),
        insert_child(21, flow=1),
        setup=set_up("child", f"{insert_parent(10, 1)}; {insert_child(20).do}"),
    ):
        wrong = is_listed(stage, State(stage.app), tale)
        if one(stage.app, "SELECT mode FROM flowguard.link WHERE relation = 'child'::regclass") == "enforce":
            assert wrong == {}, tale
            assert tale.refusals in ({}, {"late": "23503"}), tale
        else:
            assert tale.refusals == {"keeper": "FG113"}, tale
            assert wrong == {("child", 21): "mismatched"}, tale


def test_a_link_is_observed_while_rows_come(stage: Stage) -> None:
    for tale in meet(stage, "open", insert_probe(60), OBSERVE, insert_probe(61), setup=set_up("probe", mode="enforce")):
        assert set(tale.refusals.items()) <= {("early", "FG001"), ("late", "FG001")}, tale
        assert mode(stage) == "observe", tale
        for who in tale.refusals:
            assert tale.done.index(who) < tale.done.index("keeper"), tale
        is_listed(stage, State(stage.app), tale)


# --- pause and resume


@pytest.mark.parametrize("who", ["open", "snapshot"])
@pytest.mark.parametrize("keeper", [PAUSE, RESUME], ids=["pause", "resume"])
def test_a_link_is_paused_or_resumed_while_rows_come(stage: Stage, who: str, keeper: Step) -> None:
    """Nobody waits. What is committed while the link is paused is listed, and a foreign key goes on to hold."""
    for tale in meet(
        stage,
        who,
        insert_probe(60),
        keeper,
        insert_probe(61),
        setup=set_up("probe", mode="enforce", paused=keeper is RESUME),
    ):
        assert not tale.waits, tale
        assert set(tale.refusals.values()) <= {"FG001"}, tale
        is_first = tale.done.index("early") < tale.done.index("keeper")
        assert ("early" in tale.refusals) == (is_first == (keeper is PAUSE)), tale
        is_listed(stage, State(stage.app), tale)


def test_a_master_is_deleted_while_the_link_is_paused(stage: Stage) -> None:
    for tale in stage.every_order(
        setup=set_up("probe"),
        early=(insert_probe(60, flow=1), COMMIT),
        keeper=(by_itself(PAUSE),),
        deleter=(by_itself(delete("flow", 1)),),
    ):
        assert set(tale.refusals.items()) <= {("early", "23503")}, tale
        assert "dangling" not in is_listed(stage, State(stage.app), tale).values(), tale
