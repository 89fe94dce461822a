"""The nearest source in time, example by example: the edges of the window, ties, and what does not count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from engine.postgres import Connection, one, run
from engine.tables import create, guard, link

Event = tuple[int, str, int]
"""Key, how far it is from the row, and link."""

CASES: dict[str, tuple[Sequence[Event], int | None]] = {
    "a window before": ([(50, "-1 hour", 1)], 1),
    "more than a window before": ([(50, "-01:00:00.000001", 1)], None),
    "a window after": ([(50, "1 hour", 1)], 1),
    "more than a window after": ([(50, "01:00:00.000001", 1)], None),
    "the same moment": ([(50, "-1 second", 1), (51, "0", 2), (52, "1 second", 3)], 2),
    "nearer before": ([(50, "-10 min", 1), (51, "20 min", 2)], 1),
    "nearer after": ([(50, "-20 min", 1), (51, "10 min", 2)], 2),
    "nearer before, and one much later": ([(50, "-5 min", 1), (51, "10 min", 2), (52, "50 min", 3)], 1),
    "nearer after, and one much later": ([(50, "-20 min", 1), (51, "10 min", 2), (52, "50 min", 3)], 2),
    "two before": ([(50, "-20 min", 1), (51, "-10 min", 2)], 2),
    "two after": ([(50, "20 min", 1), (51, "10 min", 2)], 2),
    "a tie goes to the earlier": ([(51, "-10 min", 1), (50, "10 min", 2)], 1),
    "a tie before goes to the smaller key": ([(51, "-10 min", 2), (50, "-10 min", 1)], 1),
    "a tie after goes to the smaller key": ([(51, "10 min", 2), (50, "10 min", 1)], 1),
    "a tie at the moment goes to the smaller key": ([(51, "0", 2), (50, "0", 1)], 1),
}


@pytest.fixture(scope="module")
def observed(databases: Any, engine_template: str) -> Iterator[Connection]:  # noqa: ANN401  conftest's class
    """Probes are guarded, events are not: their links may be any."""
    with databases.new(engine_template) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        register(connection)
        yield connection


@pytest.fixture
def app(observed: Connection) -> Connection:
    """The same without events and probes."""
    run(observed, "DELETE FROM probe; DELETE FROM event")
    return observed


def register(connection: Connection, **options: object) -> None:
    create(connection)
    run(connection, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    run(connection, "SELECT flowguard.add_link('probe', 'flow')")
    run(
        connection,
        "SELECT flowguard.add_proximity_rule('probe', 'event', %s, 'at', 'at', 'flow', link_column => 'flow', "
        "source_filter => %s, on_ambiguous => %s)",
        options.get("within", "1 hour"),
        options.get("source_filter", "status <> 'deleted'"),
        options.get("on_ambiguous", "nearest"),
    )
    guard(connection, "probe")


def write_event(
    connection: Connection, event: Event, moment: object = "2025-01-01 12:00Z", *, tenant: int = 1, status: str = "live"
) -> None:
    key, distance, flow = event
    run(
        connection,
        "INSERT INTO event VALUES (%s, %s, %s, %s, %s::timestamptz + %s::interval)",
        *(key, tenant, flow, status, moment, distance),
    )


def probe(connection: Connection, moment: object = "2025-01-01 12:00Z") -> Any:  # noqa: ANN401  a key, or None
    """Insert a row and give its link."""
    run(connection, "INSERT INTO probe (id, tenant, at) VALUES (60, 1, %s)", moment)
    return link(connection, "probe", 60)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backwards", [False, True], ids=["", "backwards"])
def test_the_nearest_of_the_past(app: Connection, case: str, *, backwards: bool) -> None:
    events, expected = CASES[case]
    for event in reversed(events) if backwards else events:
        write_event(app, event)
    assert probe(app) == expected


@pytest.mark.parametrize("case", CASES)
def test_the_nearest_of_the_present(app: Connection, case: str) -> None:
    """A row of now takes a short cut, which must make no difference."""
    events, expected = CASES[case]
    now = one(app, "SELECT now()")
    for event in events:
        write_event(app, event, now)
    assert probe(app, now) == expected


@pytest.mark.parametrize("case", CASES)
def test_the_nearest_behind_a_source_without_a_master(app: Connection, case: str) -> None:
    """Where the nearest source dangles, the whole question is asked again as one query."""
    events, expected = CASES[case]
    write_event(app, (1, "0", 404))
    for event in events:
        write_event(app, event)
    assert probe(app) == expected


def test_a_source_of_another_tenant_does_not_count_even_with_our_master(app: Connection) -> None:
    write_event(app, (50, "0", 1), tenant=2)
    assert probe(app) is None
    run(app, "DELETE FROM probe")
    write_event(app, (51, "30 min", 2))
    assert probe(app) == 2


def test_a_source_that_the_filter_excludes_does_not_count(app: Connection) -> None:
    write_event(app, (50, "0", 1), status="deleted")
    write_event(app, (51, "30 min", 2))
    assert probe(app) == 2


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([(50, "0", 1), (51, "1 hour", 2)], None),
        ([(50, "0", 1), (51, "-1 hour", 2)], None),
        ([(50, "0", 1), (51, "1 hour", 1)], 1),
        ([(50, "0", 1), (51, "01:00:00.000001", 2)], 1),
        ([(50, "0", 1), (51, "10 min", 404)], 1),
    ],
    ids=["two masters", "two masters, one before", "one master twice", "one outside", "one without a master"],
)
def test_two_masters_in_the_window_are_left_alone(
    db: Connection, events: Sequence[Event], expected: int | None
) -> None:
    register(db, on_ambiguous="leave")
    for event in events:
        write_event(db, event)
    assert probe(db) == expected


@pytest.mark.parametrize(("distance", "expected"), [("-1000000:00:00", 1), ("-1000000:00:00.000001", None)])
def test_a_window_of_a_hundred_years_is_as_exact(db: Connection, distance: str, expected: int | None) -> None:
    """PostgreSQL 14 reads no interval of so many seconds."""
    register(db, within="1000000 hours")
    write_event(db, (50, distance, 1))
    assert probe(db) == expected
