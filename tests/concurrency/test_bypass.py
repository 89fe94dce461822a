"""What lifts a check lifts it for one transaction, and everything else is checked as ever."""

from __future__ import annotations

from concurrency.conftest import Stages
from concurrency.invariants import State, is_listed
from concurrency.stage import COMMIT, Step, by_itself
from concurrency.steps import delete, each_level, insert_probe, without_serializable
from engine.postgres import one
from psycopg import IsolationLevel

BYPASS = "SELECT flowguard.bypass('a story')"


def bypassed(step: Step) -> Step:
    """Let a step past the guard."""
    return Step(f"bypasses and {step.told}", f"{BYPASS}; {step.do}")


FORGED = Step(
    "inserts probe 62 as if bypassed",
    f"SELECT set_config('flowguard.privileged', 'bypass', true); {insert_probe(62).do}",
)
REPENTED = Step("bypasses and thinks better of it", f"SAVEPOINT s; {BYPASS}; ROLLBACK TO s")


@without_serializable
def test_a_bypass_is_for_its_own_transaction(stages: Stages, level: IsolationLevel) -> None:
    """Not for one that comes at the same time, nor for one that sets what a bypass sets."""
    stage = stages("enforce")
    for tale in stage.every_order(
        level,
        admin=(bypassed(insert_probe(60)), COMMIT),
        writer=(insert_probe(61), COMMIT),
        forger=(by_itself(FORGED),),
    ):
        assert tale.ends == {"admin": "committed", "writer": "FG001", "forger": "FG001"}, tale
        assert is_listed(stage, State(stage.app), tale) == {("probe", 60): "unlinked"}, tale
        assert one(stage.app, "SELECT count(*) FROM flowguard.privileged_transaction") == 1, tale


@without_serializable
def test_a_bypass_is_over_with_its_transaction(stages: Stages, level: IsolationLevel) -> None:
    """The same session is checked again, and so is one that rolled its bypass back to a savepoint."""
    stage = stages("enforce")
    for tale in stage.every_order(
        level,
        admin=(bypassed(insert_probe(60)), COMMIT, insert_probe(61), COMMIT),
        other=(REPENTED, insert_probe(62), COMMIT),
    ):
        assert tale.ends == {"admin": "FG001", "other": "FG001"}, tale
        assert State(stage.app).kinds() == {("probe", 60): "unlinked"}, tale


@each_level
def test_a_bypass_lifts_no_foreign_key(stages: Stages, level: IsolationLevel) -> None:
    stage = stages("enforce", "cascade")
    ends = set()
    for tale in stage.every_order(
        level,
        admin=(bypassed(insert_probe(60, flow=2)), COMMIT),
        deleter=(delete("flow", 2), COMMIT),
    ):
        ends.add(tale.ends["admin"])
        assert set(tale.refusals.values()) <= {"23503", "40001"}, tale
        assert "dangling" not in State(stage.app).kinds().values(), tale
    assert {"committed", "23503"} <= ends
