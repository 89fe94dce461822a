"""A row comes, or moves, while the link of the row that it refers to is set: it follows, whoever comes first."""

from __future__ import annotations

import pytest
from concurrency.conftest import Stages
from concurrency.invariants import hold, proved
from concurrency.stage import COMMIT, READ_COMMITTED, REPEATABLE_READ, ROLLBACK, Stage
from concurrency.steps import at, each_level, insert_child, insert_parent, link, note, without_serializable
from engine.tables import links
from psycopg import IsolationLevel

PARENT = insert_parent(10, 1)
FAMILY = """
INSERT INTO parent VALUES (10, 1, 1);
INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10);
"""
CHAIN = """
INSERT INTO parent VALUES (10, 1, 1), (11, 1, 1);
INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10);
INSERT INTO grandchild (id, tenant, child) VALUES (30, 1, 20);
"""


@pytest.fixture
def observed(stages: Stages) -> Stage:
    return stages("observe")


@pytest.fixture
def enforced(stages: Stages) -> Stage:
    return stages("enforce")


# --- A child and the link of its parent


@each_level
@pytest.mark.parametrize(("before", "after"), [(None, 1), (1, 2), (1, None)])
def test_a_child_comes_while_its_parent_is_linked(
    observed: Stage, level: IsolationLevel, before: int | None, after: int | None
) -> None:
    """Whoever comes second waits, and the child has the parent's link in the end.

    At REPEATABLE READ who sets the link may not see a child that was committed since its snapshot: it is listed.
    """
    waits = set()
    for tale in proved(
        observed,
        level,
        setup=insert_parent(10, before),
        may_be_behind=level == REPEATABLE_READ,
        child=at(level, insert_child(20), COMMIT),
        linker=at(level, link("parent", 10, after), COMMIT),
    ):
        waits |= tale.waits
        if level == READ_COMMITTED:
            assert not tale.refusals, tale
            assert links(observed.app, "child") == {20: after}, tale
    assert waits == {("child", "linker"), ("linker", "child")}


@each_level
@pytest.mark.parametrize("after", [2, None])
def test_in_enforce_child_and_parent_agree_at_every_level(
    enforced: Stage, level: IsolationLevel, after: int | None
) -> None:
    for tale in proved(
        enforced,
        level,
        setup=PARENT,
        refusals={"FG001"} if after is None else (),
        child=at(level, insert_child(20), COMMIT),
        linker=at(level, link("parent", 10, after), COMMIT),
    ):
        if level == READ_COMMITTED:
            assert tale.ends == {"child": "committed", "linker": "committed" if after else "FG001"}, tale
            assert links(enforced.app, "child") == {20: after or 1}, tale


@without_serializable
def test_a_child_brings_the_link_that_its_parent_had(observed: Stage, level: IsolationLevel) -> None:
    """An explicit link is never replaced: one that was right when it was written follows, a late one is listed."""
    for tale in proved(
        observed,
        level,
        setup=PARENT,
        may_be_behind=True,
        child=at(level, insert_child(20, flow=1), COMMIT),
        linker=at(level, link("parent", 10, 2), COMMIT),
    ):
        if level == READ_COMMITTED:
            assert not tale.refusals, tale
            assert links(observed.app, "child") == {20: 2 if tale.lines[0].startswith("child") else 1}, tale


@each_level
def test_in_enforce_the_link_that_a_parent_had_is_refused(enforced: Stage, level: IsolationLevel) -> None:
    ends = set()
    for tale in proved(
        enforced,
        level,
        setup=PARENT,
        refusals={"23503"},
        child=at(level, insert_child(20, flow=1), COMMIT),
        linker=at(level, link("parent", 10, 2), COMMIT),
    ):
        ends.add(tale.ends["child"])
        if level == READ_COMMITTED:
            assert tale.ends["linker"] == "committed", tale
    assert {"committed", "23503"} <= ends


@without_serializable
@pytest.mark.parametrize("parent", [10, 11])
def test_a_child_moves_while_a_parent_is_linked_anew(observed: Stage, level: IsolationLevel, parent: int) -> None:
    """The parent that it leaves, or the one that it comes to. What is below it follows too."""
    for tale in proved(
        observed,
        level,
        setup=CHAIN,
        may_be_behind=level == REPEATABLE_READ,
        mover=at(level, "UPDATE child SET parent = 11 WHERE id = 20", COMMIT),
        linker=at(level, link("parent", parent, 3), COMMIT),
    ):
        if level == READ_COMMITTED:
            assert not tale.refusals, tale
            assert links(observed.app, "grandchild") == {30: 1 if parent == 10 else 3}, tale


@without_serializable
def test_two_link_the_same_parent(observed: Stage, level: IsolationLevel) -> None:
    for tale in proved(
        observed,
        level,
        setup=CHAIN,
        one=at(level, link("parent", 10, 2), COMMIT),
        other=at(level, link("parent", 10, 3), COMMIT),
    ):
        assert level != READ_COMMITTED or not tale.refusals, tale
        last = [who for who in tale.done if tale.ends[who] == "committed"][-1]
        assert links(observed.app, "grandchild") == {30: 2 if last == "one" else 3}, tale


@without_serializable
def test_a_child_is_unlinked_while_its_parent_is_linked_anew(observed: Stage, level: IsolationLevel) -> None:
    """A link that is set to NULL is filled again, with the parent's."""
    for tale in proved(
        observed,
        level,
        setup=CHAIN,
        refusals={"40P01"},
        may_be_behind=level == REPEATABLE_READ,
        forgetter=at(level, link("child", 20, None), COMMIT),
        linker=at(level, link("parent", 10, 3), COMMIT),
    ):
        if not tale.refusals:
            assert links(observed.app, "grandchild") == {30: 3}, tale


# --- The end of the transaction is not always a commit


@each_level
def test_the_link_is_rolled_back(observed: Stage, level: IsolationLevel) -> None:
    waits = set()
    for tale in proved(
        observed,
        level,
        setup=insert_parent(10),
        child=at(level, insert_child(20), COMMIT),
        linker=at(level, link("parent", 10, 1), ROLLBACK),
    ):
        waits |= tale.waits
        if level == READ_COMMITTED:
            assert not tale.refusals, tale
            assert links(observed.app, "child") == {20: None}, tale
    assert waits == {("child", "linker"), ("linker", "child")}


@each_level
def test_the_child_is_rolled_back(observed: Stage, level: IsolationLevel) -> None:
    for tale in proved(
        observed,
        level,
        setup=insert_parent(10),
        child=at(level, insert_child(20), ROLLBACK),
        linker=at(level, link("parent", 10, 1), COMMIT),
    ):
        assert links(observed.app, "parent") == {10: 1 if tale.ends["linker"] == "committed" else None}, tale
        assert level != READ_COMMITTED or not tale.refusals, tale


def test_a_child_that_is_rolled_back_to_a_savepoint_lets_the_linker_go_on(observed: Stage) -> None:
    with observed.story(READ_COMMITTED, "child", "linker", setup=PARENT) as story:
        child, linker = story.sessions
        child.does("SAVEPOINT before", insert_child(20))
        linker.waits(link("parent", 10, 2), behind=child)
        child.does("ROLLBACK TO before")
        linker.goes_on()
        child.waits(insert_child(21), behind=linker)
        linker.does(COMMIT)
        child.goes_on()
        child.does(COMMIT)
        assert links(observed.app, "child") == {21: 2}
        hold(observed, story.tale)


@without_serializable
def test_a_savepoint_of_the_child(observed: Stage, level: IsolationLevel) -> None:
    for tale in proved(
        observed,
        level,
        setup=PARENT,
        may_be_behind=level == REPEATABLE_READ,
        child=("SAVEPOINT s", insert_child(20), "ROLLBACK TO s", insert_child(21), COMMIT),
        linker=at(level, link("parent", 10, 2), COMMIT),
    ):
        if level == READ_COMMITTED:
            assert not tale.refusals, tale
            assert links(observed.app, "child") == {21: 2}, tale


@without_serializable
def test_a_savepoint_of_the_linker(observed: Stage, level: IsolationLevel) -> None:
    for tale in proved(
        observed,
        level,
        setup=PARENT,
        may_be_behind=level == REPEATABLE_READ,
        child=at(level, insert_child(20), COMMIT),
        linker=("SAVEPOINT s", link("parent", 10, 2), "ROLLBACK TO s", link("parent", 10, 3), COMMIT),
    ):
        if level == READ_COMMITTED:
            assert not tale.refusals, tale
            assert links(observed.app, "child") == {20: 3}, tale


# --- A chain, and three at once


@each_level
@pytest.mark.parametrize("after", [2, None])
def test_a_grandchild_comes_while_the_top_is_linked(observed: Stage, level: IsolationLevel, after: int | None) -> None:
    waits = set()
    for tale in proved(
        observed,
        level,
        setup=FAMILY,
        may_be_behind=level == REPEATABLE_READ,
        grandchild=at(level, "INSERT INTO grandchild (id, tenant, child) VALUES (30, 1, 20)", COMMIT),
        linker=at(level, link("parent", 10, after), COMMIT),
    ):
        waits |= tale.waits
        if level == READ_COMMITTED:
            assert not tale.refusals, tale
            assert links(observed.app, "grandchild") == {30: after}, tale
    assert waits == {("grandchild", "linker"), ("linker", "grandchild")}


@without_serializable
def test_a_child_moves_and_a_grandchild_comes_while_the_top_is_linked(observed: Stage, level: IsolationLevel) -> None:
    for tale in proved(
        observed,
        level,
        setup=CHAIN,
        may_be_behind=level == REPEATABLE_READ,
        mover=("UPDATE child SET parent = 11 WHERE id = 20", COMMIT),
        grandchild=("INSERT INTO grandchild (id, tenant, child) VALUES (31, 1, 20)", COMMIT),
        linker=(link("parent", 11, 3), COMMIT),
    ):
        if level == READ_COMMITTED:
            assert not tale.refusals, tale
            assert links(observed.app, "grandchild") == {30: 3, 31: 3}, tale


def test_a_third_child_overtakes_the_linker_that_waits(observed: Stage) -> None:
    """Children do not wait for each other, nor for one who is only waiting to set the link."""
    with observed.story(READ_COMMITTED, "child", "linker", "third", setup=PARENT) as story:
        child, linker, third = story.sessions
        child.does(insert_child(20))
        linker.waits(link("parent", 10, 2), behind=child)
        third.does(insert_child(21))
        child.does(COMMIT)
        linker.still_waits()
        third.does(COMMIT)
        linker.goes_on()
        linker.does(COMMIT)
        assert links(observed.app, "child") == {20: 2, 21: 2}
        hold(observed, story.tale)


@without_serializable
def test_two_children_come_while_their_parent_is_linked(observed: Stage, level: IsolationLevel) -> None:
    waits = set()
    for tale in proved(
        observed,
        level,
        setup=PARENT,
        may_be_behind=level == REPEATABLE_READ,
        child=(insert_child(20), COMMIT),
        linker=(link("parent", 10, 2), COMMIT),
        third=(insert_child(21), COMMIT),
    ):
        waits |= tale.waits
        if level == READ_COMMITTED:
            assert not tale.refusals, tale
            assert links(observed.app, "child") == {20: 2, 21: 2}, tale
    assert waits == {("child", "linker"), ("linker", "child"), ("third", "linker"), ("linker", "third")}


# --- Nobody waits who need not


@without_serializable
@pytest.mark.parametrize("mode", ["observe", "enforce"])
@pytest.mark.parametrize("flow", [None, 1])
def test_an_unrelated_update_of_the_parent_never_waits(
    stages: Stages, level: IsolationLevel, mode: str, flow: int | None
) -> None:
    stage = stages(mode)
    for tale in proved(
        stage,
        level,
        setup=CHAIN,
        child=at(level, insert_child(21, flow=flow), COMMIT),
        writer=at(level, note("parent", 10), COMMIT),
    ):
        assert not tale.waits, tale
        assert not tale.refusals, tale


def test_an_unrelated_update_in_the_middle_of_the_chain_never_waits(observed: Stage) -> None:
    for tale in proved(
        observed,
        setup=CHAIN,
        grandchild=("INSERT INTO grandchild (id, tenant, child) VALUES (31, 1, 20)", COMMIT),
        child=(note("child", 20), COMMIT),
        parent=(note("parent", 10), COMMIT),
    ):
        assert not tale.waits, tale


def test_two_children_do_not_wait_for_each_other(observed: Stage) -> None:
    for tale in proved(
        observed,
        setup=insert_parent(10),
        one=(insert_child(20), COMMIT),
        other=(insert_child(21), COMMIT),
    ):
        assert not tale.waits, tale
        assert links(observed.app, "child") == {20: None, 21: None}, tale


# --- The price that DESIGN 4 names, and its remedy


def test_both_insert_and_then_link_the_same_parent(observed: Stage) -> None:
    """Where each waits for the other, one of them is refused for the deadlock, and nothing is lost."""
    ends = set()
    for tale in proved(
        observed,
        setup=insert_parent(10),
        refusals={"40P01"},
        one=(insert_child(20), link("parent", 10, 1), COMMIT),
        other=(insert_child(21), link("parent", 10, 2), COMMIT),
    ):
        ends.add(tuple(sorted(tale.ends.values())))
    assert ends == {("committed", "committed"), ("40P01", "committed")}


def test_to_lock_the_parent_first_is_the_remedy(observed: Stage) -> None:
    lock = "SELECT FROM parent WHERE id = 10 FOR UPDATE"
    for tale in proved(
        observed,
        setup=insert_parent(10),
        one=(lock, insert_child(20), link("parent", 10, 1), COMMIT),
        other=(lock, insert_child(21), link("parent", 10, 2), COMMIT),
    ):
        last = 1 if tale.done[-1] == "one" else 2
        assert links(observed.app, "child") == {20: last, 21: last}, tale
