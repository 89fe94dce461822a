"""A run that counts the candidates of each link by time: all of them, and so say ledger, explain and dry run.

Candidates are rows of the source within the window, of the row's tenant, that meet the filter and have a link, whether
or not its master is there. A run that is not asked to count keeps 2 for two or more.
"""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from acceptance.command import COMMAND
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import create, links, register
from engine.worlds import HOUR, MINUTE, as_timestamp
from hypothesis import given, note
from hypothesis import strategies as st
from profiles import sized
from psycopg import sql
from repair.calls import dump, repair, run_row, undo

MASTERS = {1: (1, 2, 3), 2: (9,)}
"""Keys of the masters of each tenant, as create() makes them."""


@dataclass(frozen=True)
class Event:
    """A row of the source; `at` in microseconds."""

    at: float | None
    flow: int | None = 1
    tenant: int = 1
    status: str | None = "live"


@dataclass(frozen=True)
class Probe:
    """A row that takes its link from the nearest event."""

    at: float | None
    tenant: int | None = 1


def load(connection: Connection, events: list[Event], probes: list[Probe]) -> None:
    """Put these rows in the place of those that are there; they are numbered from 1."""
    run(connection, "DELETE FROM probe; DELETE FROM event")
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO event (id, tenant, flow, status, at) VALUES (%s, %s, %s, %s, %s)",
            [(n, e.tenant, e.flow, e.status, as_timestamp(e.at)) for n, e in enumerate(events, 1)],
        )
        cursor.executemany(
            "INSERT INTO probe (id, tenant, at) VALUES (%s, %s, %s)",
            [(n, p.tenant, as_timestamp(p.at)) for n, p in enumerate(probes, 1)],
        )


def candidates(events: list[Event], probe: Probe) -> list[Event]:
    """Give the events that the link of a probe is chosen from."""
    if probe.at is None or math.isinf(probe.at):
        return []
    return [
        event
        for event in events
        if event.at is not None
        and -HOUR <= event.at - probe.at <= HOUR
        and event.tenant == probe.tenant
        and event.status not in {None, "deleted"}
        and event.flow is not None
    ]


def expected(events: list[Event], probes: list[Probe]) -> dict[int, int]:
    """Give, of each probe that is linked, how many candidates it has."""
    found = {n: candidates(events, probe) for n, probe in enumerate(probes, 1)}
    return {n: len(near) for n, near in found.items() if any(e.flow in MASTERS[e.tenant] for e in near)}


def kept(connection: Connection, run_id: int) -> dict[int, int]:
    """Give, of each probe that a run linked, how many candidates it keeps."""
    query = "SELECT (row_key ->> 'id')::integer, candidates FROM flowguard.run_change WHERE run_id = %s"
    return dict(rows(connection, query, run_id))


def foretold(connection: Connection, **options: object) -> dict[int, int]:
    """Give the same of the examples of a preview."""
    names = "".join(f", {name} => %s" for name in options)
    query = (
        f"SELECT (e ->> 'row_key')::jsonb ->> 'id', e ->> 'candidates' FROM flowguard.preview('probe', 'flow', "  # noqa: S608  ours
        f"samples => 1000{names}) p, jsonb_array_elements(p.examples) e WHERE p.outcome = 'linked'"
    )
    return {int(key): int(count) for key, count in rows(connection, query, *options.values())}


def count(connection: Connection, **options: object) -> int:
    """Repair the probes, and count; gives the run."""
    return repair(connection, "probe", link_column="flow", count_candidates=True, **options).id


@pytest.fixture
def app(db: Connection) -> Connection:
    """Registered, not guarded."""
    create(db)
    register(db)
    return db


# --- How many


NEAREST = Event(-5 * MINUTE)


@pytest.mark.parametrize(
    ("others", "number"),
    [
        pytest.param([], 1, id="alone"),
        pytest.param([Event(-10 * MINUTE), Event(-20 * MINUTE), Event(-30 * MINUTE)], 4, id="before"),
        pytest.param([Event(10 * MINUTE), Event(20 * MINUTE), Event(30 * MINUTE)], 4, id="before and after"),
        pytest.param([Event(-1), Event(1), Event(2)], 4, id="nearer ones"),
        pytest.param([Event(-5 * MINUTE), Event(-5 * MINUTE)], 3, id="at one time"),
        pytest.param([Event(5 * MINUTE), Event(0)], 3, id="as far, and at the very time"),
        pytest.param([Event(-HOUR), Event(HOUR)], 3, id="both ends of the window"),
        pytest.param([Event(-HOUR - 1), Event(HOUR + 1)], 1, id="just beyond"),
        pytest.param([Event(None), Event(math.inf), Event(-math.inf)], 1, id="no time"),
        pytest.param([Event(0, flow=None), Event(1, flow=None)], 1, id="no link"),
        pytest.param([Event(0, flow=404), Event(1, flow=9)], 3, id="no master, or one of another tenant"),
        pytest.param([Event(0, status="deleted"), Event(1, status=None)], 1, id="not in the filter"),
        pytest.param([Event(0, tenant=2), Event(0, flow=9, tenant=2)], 1, id="of another tenant"),
        pytest.param([Event(n, flow=2) for n in range(60)], 61, id="many"),
    ],
)
def test_what_is_counted(app: Connection, others: list[Event], number: int) -> None:
    load(app, [NEAREST, *others], [Probe(0)])
    assert kept(app, count(app)) == {1: number}


def test_after_only(app: Connection) -> None:
    load(app, [Event(n * MINUTE) for n in (1, 2, 3, 60, 61)], [Probe(0)])
    assert kept(app, count(app)) == {1: 4}


def test_no_candidate_has_a_master(app: Connection) -> None:
    """It is not linked, so that there is nothing to keep a number with."""
    load(app, [Event(0, flow=404), Event(1, flow=404)], [Probe(0)])
    assert kept(app, count(app)) == {}


@pytest.fixture(scope="module")
def shared(databases: Any, engine_template: str) -> Iterator[Connection]:  # noqa: ANN401  conftest's class
    """Registered, not guarded; for many examples."""
    with databases.new(engine_template) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        create(connection)
        register(connection)
        yield connection


ENDS = [sign * (HOUR + more) for sign in (-1, 1) for more in (-1, 0, 1)]
times = st.sampled_from([*ENDS, -30 * MINUTE, -1, 0, 0, 1, 30 * MINUTE, 2 * HOUR, None, math.inf, -math.inf])
some_events = st.lists(
    st.builds(
        Event,
        times,
        flow=st.sampled_from([1, 1, 2, 9, 404, None]),
        tenant=st.sampled_from([1, 1, 1, 2]),
        status=st.sampled_from(["live", "live", "live", "deleted", None]),
    ),
    min_size=4,
    max_size=20,
)
some_probes = st.lists(st.builds(Probe, times, tenant=st.sampled_from([1, 1, 1, 2, None])), min_size=1, max_size=4)


@sized(ci=60, nightly=1000)
@given(events=some_events, probes=some_probes, batch_size=st.sampled_from([1, 2, 5000]))
def test_as_python_counts(shared: Connection, events: list[Event], probes: list[Probe], batch_size: int) -> None:
    """Ledger and preview say all of them where it is asked for, else two at most; what is written is the same."""
    load(shared, events, probes)
    before = dump(shared, "probe")
    numbers = expected(events, probes)
    at_most_two = {key: min(number, 2) for key, number in numbers.items()}
    note(str(numbers))

    assert foretold(shared, count_candidates=True) == numbers
    assert foretold(shared) == at_most_two
    assert dump(shared, "probe") == before
    counted = count(shared, batch_size=batch_size)
    assert kept(shared, counted) == numbers
    linked = links(shared, "probe")

    assert undo(shared, counted) == (len(numbers), 0, 0)
    assert dump(shared, "probe") == before
    plain = repair(shared, "probe", link_column="flow", batch_size=batch_size)
    assert kept(shared, plain.id) == at_most_two
    assert links(shared, "probe") == linked


# --- A run that was stopped


FOUR = [Event(-10), Event(-20), Event(10), Event(10)]


def test_a_stopped_run_goes_on_counting(app: Connection, session: Callable[[], Connection]) -> None:
    load(app, FOUR, [Probe(0)] * 40)
    holder, repairing = session(), session()
    run(repairing, "SET lock_timeout = '100ms'")
    with holder.transaction():
        run(holder, "SELECT FROM probe WHERE id = 25 FOR UPDATE")
        with refused("55P03"):
            count(repairing, batch_size=10)
    assert kept(app, 1) == dict.fromkeys(range(1, 21), 4)
    heard: list[str] = []
    app.add_notice_handler(lambda notice: heard.append(f"{notice.message_primary} {notice.message_hint}"))
    assert count(app, batch_size=10) == 1
    assert kept(app, 1) == dict.fromkeys(range(1, 41), 4)
    assert (run_row(app, 1)["count_candidates"], run_row(app, 1)["linked"]) == (True, 40)
    call = "CALL flowguard.repair('public.probe', link_column => 'flow', count_candidates => true, resume => false)"
    assert [call in text for text in heard] == [True]
    assert undo(app, 1) == (40, 0, 0)


@pytest.mark.parametrize("table", ["probe", "parent"])
@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("counts", [False, True])
def test_a_run_goes_on_as_it_was_called_only(app: Connection, table: str, *, counted: bool, counts: bool) -> None:
    """Also of a link without rules by time, of which there is nothing to count."""
    load(app, FOUR, [Probe(0)])
    run(app, "INSERT INTO parent VALUES (10, 1, NULL)")
    repair(app, table, link_column="flow", count_candidates=counted)
    assert run_row(app, 1)["count_candidates"] == counted
    run(app, "UPDATE flowguard.repair_run SET status = 'stopped'")
    remedy = one(app, "SELECT remedy FROM flowguard.check_all() WHERE name = 'run_stopped'")
    more = ", count_candidates => true" if counted else ""
    assert remedy == f"CALL flowguard.repair('public.{table}', link_column => 'flow'{more})"
    again = repair(app, table, link_column="flow", count_candidates=counts)
    assert again.id == (1 if counts == counted else 2)
    assert run_row(app, again.id)["count_candidates"] == counts


# --- What is shown


def explained(app: Connection) -> tuple[str, dict[str, Any]]:
    """Give what explain says of the run that linked the first probe."""
    query = "SELECT summary, detail FROM flowguard.explain('probe', '1', 'flow') WHERE part = 'run'"
    ((summary, detail),) = rows(app, query)
    return summary, detail


def printed(app: Connection, *arguments: str) -> str:
    command = [str(COMMAND), *arguments, "--link-column", "flow", "--dsn", app.info.dsn]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("events", "counts", "number", "shown"),
    [
        pytest.param(FOUR, True, 4, "4", id="four, counted"),
        pytest.param(FOUR, False, 2, "2 or more", id="four, not counted"),
        pytest.param(FOUR[:2], True, 2, "2", id="two, counted"),
        pytest.param(FOUR[:2], False, 2, "2 or more", id="two, not counted"),
        pytest.param(FOUR[:1], True, 1, "1", id="one, counted"),
        pytest.param(FOUR[:1], False, 1, "1", id="one, not counted"),
    ],
)
def test_what_the_command_shows(app: Connection, events: list[Event], number: int, shown: str, *, counts: bool) -> None:
    """A dry run in its examples, the run itself, and explain, which also knows whether that run counted."""
    load(app, events, [Probe(0)])
    repairs = ("repair", "probe", *(["--count-candidates"] if counts else []))

    dry = printed(app, *repairs, "--dry-run")
    assert f" away, candidates: {shown}\n" in dry
    told = json.loads(printed(app, *repairs, "--dry-run", "--json"))
    assert (told["dry_run"], told["count_candidates"], told["linked"]) == (True, counts, 1)
    (linked,) = [outcome for outcome in told["outcomes"] if outcome["outcome"] == "linked"]
    assert [example["candidates"] for example in linked["examples"]] == [number]
    assert links(app, "probe") == {1: None}

    told = json.loads(printed(app, *repairs, "--json"))
    assert (told["dry_run"], told["count_candidates"], told["linked"]) == (False, counts, 1)
    assert kept(app, told["run_id"]) == {1: number}
    summary, detail = explained(app)
    assert summary.endswith(f" away, candidates: {shown}")
    assert (detail["candidates"], detail["count_candidates"]) == (number, counts)
    assert " ".join(printed(app, "explain", "probe", "1").split()).endswith(f" away, candidates: {shown}")


def test_runs_of_both_kinds_are_told_apart(app: Connection) -> None:
    load(app, FOUR[:2], [Probe(0)])
    for counts in (False, True):
        undo(app, repair(app, "probe", link_column="flow", count_candidates=counts).id)
    query = "SELECT summary FROM flowguard.explain('probe', '1', 'flow') WHERE part = 'run'"
    found = [summary.partition("candidates: ")[2] for (summary,) in rows(app, query)]
    assert found == ["2 or more; taken back", "2; taken back"]


def test_a_link_that_is_not_by_time_has_nothing_to_count(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, 1); INSERT INTO child VALUES (20, 1, NULL, NULL, 10)")
    done = repair(app, "child", link_column="flow", count_candidates=True)
    ((linked, number),) = rows(app, "SELECT kind, candidates FROM flowguard.run_change WHERE run_id = %s", done.id)
    assert (linked, number) == ("linked", None)
    ((detail,),) = rows(app, "SELECT detail FROM flowguard.explain('child', '20', 'flow') WHERE part = 'run'")
    assert "count_candidates" not in detail


# --- What a run that does not count is sent


def test_only_a_run_that_is_asked_to_reads_all(app: Connection) -> None:
    """Else the statement of a batch ends each count at two, and has none where there are rows on both sides."""
    query = sql.SQL(
        "SELECT flowguard._repair_query(l, NULL{}) FROM flowguard.link l WHERE l.relation = 'probe'::regclass"
    )
    plain, asked = one(app, query.format(sql.SQL(""))), one(app, query.format(sql.SQL(", true")))
    assert plain == one(app, query.format(sql.SQL(", false")))
    assert ("LIMIT 2)" in plain, "LIMIT ALL)" in plain, ".is_between THEN 2 ELSE" in plain) == (True, False, True)
    assert ("LIMIT 2)" in asked, "LIMIT ALL)" in asked, ".is_between THEN 2 ELSE" in asked) == (False, True, False)
