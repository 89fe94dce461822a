"""A row is linked by time while its source comes, gets its link, moves or goes."""

from __future__ import annotations

import pytest
from concurrency.conftest import Stages
from concurrency.invariants import State, hold, proved
from concurrency.stage import COMMIT, READ_COMMITTED, Stage, Step
from concurrency.steps import at, delete, each_level, insert_probe, link, note, without_serializable
from engine.postgres import run
from engine.tables import links
from psycopg import IsolationLevel

EVENT = "INSERT INTO event VALUES (50, 1, {}, 'live', '2025-01-01 {}Z')"
SOURCES = {
    "comes": (
        EVENT.format("NULL", "12:00"),
        Step("inserts event 51", "INSERT INTO event VALUES (51, 1, 1, 'live', '2025-01-01 00:10Z')"),
    ),
    "gets its link": (EVENT.format("NULL", "00:10"), link("event", 50, 1)),
    "moves into the window": (
        EVENT.format("1", "12:00"),
        Step("moves event 50", "UPDATE event SET at = '2025-01-01 01:00Z' WHERE id = 50"),
    ),
    "passes the filter": (
        EVENT.format("1", "00:10").replace("live", "deleted"),
        Step("revives event 50", "UPDATE event SET status = 'live' WHERE id = 50"),
    ),
}


@pytest.fixture
def observed(stages: Stages) -> Stage:
    return stages("observe")


@each_level
@pytest.mark.parametrize("source", SOURCES)
def test_a_source_and_a_row_of_the_same_moment(observed: Stage, level: IsolationLevel, source: str) -> None:
    """Whoever commits later sees the other, and the row is linked.

    With a snapshot of before they may miss each other: the row is then listed, and repair links it.
    """
    setup, step = SOURCES[source]
    for tale in proved(
        observed,
        level,
        setup=setup,
        may_be_behind=level != READ_COMMITTED,
        row=at(level, insert_probe(60), COMMIT),
        source=at(level, step, COMMIT),
    ):
        if level == READ_COMMITTED:
            assert not tale.refusals, tale
            assert not tale.waits, tale
            assert links(observed.app, "probe") == {60: 1}, tale
        elif State(observed.app).behind():
            run(observed.app, "CALL flowguard.repair()")
            hold(observed, tale)


@without_serializable
@pytest.mark.parametrize(
    "step",
    [
        link("event", 50, 2),
        link("event", 50, None),
        delete("event", 50),
        Step("moves event 50 away", "UPDATE event SET at = '2025-01-02 00:00Z' WHERE id = 50"),
    ],
    ids=lambda step: step.told,
)
def test_a_source_is_lost_or_changed_while_a_row_comes(observed: Stage, level: IsolationLevel, step: Step) -> None:
    """The row has the link that its source had at that time, and keeps it, or is unlinked and listed."""
    for tale in proved(
        observed,
        level,
        setup=EVENT.format("1", "00:10"),
        may_be_behind=level != READ_COMMITTED,
        row=at(level, insert_probe(60), COMMIT),
        source=at(level, step, COMMIT),
    ):
        if level == READ_COMMITTED:
            assert not tale.refusals, tale


@each_level
def test_in_enforce_a_row_without_a_source_is_refused(stages: Stages, level: IsolationLevel) -> None:
    """Unless the source has come by the time of its commit."""
    stage = stages("enforce")
    ends = set()
    for tale in proved(
        stage,
        level,
        refusals={"FG001"},
        row=at(level, insert_probe(60), COMMIT),
        source=at(level, SOURCES["comes"][1], COMMIT),
    ):
        ends.add(tale.ends["row"])
        if level == READ_COMMITTED:
            is_late = tale.lines.index("source: commits") < min(
                index for index, line in enumerate(tale.lines) if line.startswith("row: commits")
            )
            assert tale.ends == {"row": "committed" if is_late else "FG001", "source": "committed"}, tale
    assert {"committed", "FG001"} <= ends


@without_serializable
def test_two_sources_come_while_a_row_does(observed: Stage, level: IsolationLevel) -> None:
    """Which of the two it takes is a matter of who came first; a link once set is never moved by a nearer one."""
    for tale in proved(
        observed,
        level,
        may_be_behind=level != READ_COMMITTED,
        row=(insert_probe(60), COMMIT),
        near=("INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:10Z')", COMMIT),
        far=("INSERT INTO event VALUES (51, 1, 2, 'live', '2025-01-01 00:20Z')", COMMIT),
    ):
        if level == READ_COMMITTED:
            assert not tale.refusals, tale


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_an_unrelated_update_of_a_source_never_waits(stages: Stages, mode: str) -> None:
    for tale in proved(
        stages(mode),
        setup=EVENT.format("1", "00:10"),
        row=(insert_probe(60), COMMIT),
        source=(note("event", 50), COMMIT),
    ):
        assert not tale.waits, tale
        assert not tale.refusals, tale
