"""A master is deleted while rows come that take it for theirs: no row is left with a link to nothing, at any level."""

from __future__ import annotations

import pytest
from concurrency.conftest import Stages
from concurrency.invariants import State, proved
from concurrency.stage import COMMIT, READ_COMMITTED, REPEATABLE_READ, ROLLBACK, SERIALIZABLE, Step, Steps
from concurrency.steps import at, delete, insert_child, insert_probe, link, without_serializable
from psycopg import IsolationLevel

SETUP = """
INSERT INTO parent VALUES (10, 1, 1);
INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z');
"""
ROWS: dict[str, Steps] = {
    "reference": (insert_child(20),),
    "proximity": (insert_probe(60),),
    "session": (
        Step("is of flow 1", "SET LOCAL flowguard.flow = '1'"),
        Step("inserts parent 11", "INSERT INTO parent VALUES (11, 1)"),
    ),
    "explicit": (insert_probe(60, flow=1),),
}
WRITTEN = {"reference": ("child", 20), "proximity": ("probe", 60), "session": ("parent", 11), "explicit": ("probe", 60)}
"""The row that each writes."""

ACTIONS = ["keep", "refuse", "cascade", "set null"]


@pytest.mark.parametrize(
    ("row", "level"),
    [
        *((row, level) for row in ROWS for level in (READ_COMMITTED, REPEATABLE_READ)),
        *((row, SERIALIZABLE) for row in ("session", "explicit")),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
@pytest.mark.parametrize("action", ACTIONS)
def test_a_master_is_deleted_while_a_row_comes(stages: Stages, level: IsolationLevel, action: str, row: str) -> None:
    """A row that comes too late is refused; it takes its link and keeps the master, or goes, or is unlinked and listed.

    A deadlock is possible at any level where the delete reaches the row that the new one refers to: the one waits for
    that row, the other, when its keys are checked at commit, for the master.
    """
    stage = stages("observe", action)
    fates = set()
    for tale in proved(
        stage,
        level,
        setup=SETUP,
        refusals={"23503", "40P01"} if row == "reference" else {"23503"},
        writer=at(level, *ROWS[row], COMMIT),
        deleter=at(level, delete("flow", 1), COMMIT),
    ):
        is_there = 1 in State(stage.app).tables["flow"]
        assert is_there == (tale.ends["deleter"] != "committed"), tale
        if level == READ_COMMITTED and "40P01" not in tale.refusals.values():
            assert is_there or action != "refuse", tale
        if set(tale.ends.values()) == {"committed"}:
            table, key = WRITTEN[row]
            fates.add(State(stage.app).kinds().get((table, key), "gone"))
    assert fates <= {"gone", "unlinked"}
    if action == "cascade":
        assert "gone" in fates
    elif action != "keep":  # which the table's own keys decide
        assert fates == ({"unlinked"} if action == "set null" else set())


@without_serializable
@pytest.mark.parametrize("action", ["cascade", "set null"])
@pytest.mark.parametrize("row", ["reference", "proximity", "explicit"])
def test_in_enforce_a_master_is_deleted_while_a_row_comes(
    stages: Stages, level: IsolationLevel, action: str, row: str
) -> None:
    """To unlink what is enforced is refused to whoever deletes the master."""
    stage = stages("enforce", action)
    for tale in proved(
        stage,
        level,
        setup=SETUP,
        refusals={"23503", "40P01", "FG001"},
        writer=at(level, *ROWS[row], COMMIT),
        deleter=at(level, delete("flow", 1), COMMIT),
    ):
        if action == "set null":
            assert tale.ends["deleter"] != "committed", tale


@without_serializable
@pytest.mark.parametrize("action", ACTIONS)
def test_a_master_is_deleted_while_a_row_is_linked_to_it(stages: Stages, level: IsolationLevel, action: str) -> None:
    """Late, with its children: all of them follow to a master that stays, or none."""
    for tale in proved(
        stages("observe", action),
        level,
        setup="INSERT INTO parent VALUES (10, 1, 2); INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)",
        refusals={"23503"},
        linker=at(level, link("parent", 10, 1), COMMIT),
        deleter=at(level, delete("flow", 1), COMMIT),
    ):
        assert level != READ_COMMITTED or len(tale.refusals) <= 1, tale


@without_serializable
@pytest.mark.parametrize("action", ACTIONS)
def test_the_delete_of_a_master_is_rolled_back(stages: Stages, level: IsolationLevel, action: str) -> None:
    for tale in proved(
        stages("observe", action),
        level,
        setup=SETUP,
        writer=at(level, insert_child(20), COMMIT),
        deleter=at(level, delete("flow", 1), ROLLBACK),
        refusals={"40P01"},
    ):
        assert 1 in State(stages("observe", action).app).tables["flow"], tale


@pytest.mark.parametrize("action", ["cascade", "set null"])
def test_a_row_comes_and_its_parent_is_linked_anew_while_the_master_is_deleted(stages: Stages, action: str) -> None:
    for _ in proved(
        stages("observe", action),
        setup=SETUP,
        refusals={"23503", "40P01"},
        child=(insert_child(20), COMMIT),
        linker=(link("parent", 10, 2), COMMIT),
        deleter=(delete("flow", 2), COMMIT),
    ):
        pass


@without_serializable
@pytest.mark.parametrize("action", ACTIONS)
def test_a_master_comes_back_while_a_row_comes(stages: Stages, level: IsolationLevel, action: str) -> None:
    """Deleted and inserted anew in one transaction, as a clumsy application does."""
    for _ in proved(
        stages("observe", action),
        level,
        setup=SETUP,
        refusals={"23503", "40P01"},
        writer=at(level, insert_probe(60), COMMIT),
        deleter=at(level, delete("flow", 1), Step("inserts flow 1", "INSERT INTO flow VALUES (1, 1)"), COMMIT),
    ):
        pass
