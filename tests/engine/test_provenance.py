"""Triggers keep how they found a link by time, where that is asked for: right, and of no other row.

What must be kept is worked out by the oracle, told of the same writes; the rest is example by example.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from engine.oracle import Key, Link, Oracle, Proximity, Row, same_for_certain
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import create, guard, links, register
from engine.test_fill_properties import Writer, clear
from engine.worlds import START, WORLDS, World
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo
from repair.calls import repair, undo
from repair.test_explain import detail, explain, parts

from pyflowguard import changes
from pyflowguard import repair as repairs
from pyflowguard.errors import ScriptFailed

if TYPE_CHECKING:
    from conftest import Databases

Entry = tuple[Any, ...]

KEPT = """
SELECT table_name, link_column, row_key, time_column, row_time, rule, new_link, distance, candidates, counted
  FROM flowguard.provenance ORDER BY id
"""
OF_PROBES = "SELECT row_key ->> 'id', rule, new_link, distance, candidates FROM flowguard.provenance ORDER BY id"
EVENT = "INSERT INTO event VALUES (%s, 1, %s, 'live', timestamptz '2025-01-01 12:00Z' + %s::interval)"
PROBE = "INSERT INTO probe (id, tenant, at) VALUES (%s, 1, '2025-01-01 12:00Z')"
MINUTES = timedelta(minutes=1)


# --- Whatever is written


class KeepingOracle(Oracle):
    """Knows what must be kept as well: an entry for each link that a rule by time gave to a row that was written."""

    def __init__(self, world: World, *, count: bool) -> None:
        super().__init__(world.tables, world.links)
        self.count = count
        self.kept: list[Entry] = []
        self.committed_entries: list[Entry] = []
        self.found: Entry | None = None
        """Of the last look-up, if that was by time and its link is not written yet."""
        self.fills = False
        """Whether the row of a look-up is being written, with whatever is found."""

    def lookup(self, link: Link, row: Row, *, ask_session: bool) -> Any:  # noqa: ANN401  a key of any type
        """Note how the link was found, too."""
        link_found = super().lookup(link, row, ask_session=ask_session)
        self.found = None
        if link_found is not None:
            for position, rule in enumerate(link.rules, 1):
                alone = Link(link.table, link.column, link.master, link.tenants, (rule,))
                if super().lookup(alone, row, ask_session=ask_session) is not None:
                    if isinstance(rule, Proximity):
                        self.found = self.entry(link, rule, position, row, link_found)
                    break
        if self.fills:
            self.keep()
        return link_found

    def entry(self, link: Link, rule: Proximity, position: int, row: Row, link_found: object) -> Entry:
        near = [
            (abs(source[rule.source_time] - row[rule.time]), source[rule.source_link])
            for source in self.rows[rule.source].values()
            if source[rule.source_link] is not None
            and source[rule.source_time] is not None
            and abs(source[rule.source_time] - row[rule.time]) <= rule.within
            and rule.keep(source)
            and same_for_certain(source, rule.tenants, row, link.tenants)
        ]
        nearest = min(
            away
            for away, key in near
            if any(same_for_certain(m, link.master.tenants, row, link.tenants) for m in self.masters(link, key))
        )
        return (
            link.table,
            link.column,
            tuple(map(str, self.key(link.table, row))),
            rule.time,
            row[rule.time],
            position,
            str(link_found),
            nearest,
            len(near) if self.count else min(len(near), 2),
            self.count,
        )

    def keep(self) -> None:
        if self.found is not None:
            self.kept.append(self.found)
        self.found = None

    def insert(self, table: str, rows: Sequence[Row]) -> None:
        """Keep what is found while rows are inserted."""
        self.fills = True
        super().insert(table, rows)
        self.fills = False

    def after(self, table: str, events: Sequence[tuple[Row | None, Row]]) -> None:
        """What is found for others is kept when it is written."""
        fills, self.fills = self.fills, False
        super().after(table, events)
        self.fills = fills

    def update_rows(self, table: str, keys: Sequence[Key], changes: Row) -> None:
        """What is given was not found."""
        self.found = None
        super().update_rows(table, keys, changes)

    def write(self, table: str, old: Row, changes: Row) -> Row:
        """Keep what was found for this row, and what is found while it is written."""
        found, self.found = self.found, None
        if found is not None and {found[1]: found[6]} == {name: str(value) for name, value in changes.items()}:
            self.kept.append(found)
        fills, self.fills = self.fills, True
        new = super().write(table, old, changes)
        self.fills = fills
        return new

    def commit(self) -> set[str]:
        """Nothing stays of a transaction that is refused."""
        forbidden = super().commit()
        if forbidden:
            self.kept = list(self.committed_entries)
        self.committed_entries = list(self.kept)
        return forbidden


class KeepingWriter(Writer):
    """Compares what was kept as well."""

    oracle: KeepingOracle

    def __init__(self, connection: Connection, world: World, data: st.DataObject, *, count: bool) -> None:
        super().__init__(connection, world, data)
        self.oracle = KeepingOracle(world, count=count)

    def compare(self) -> None:
        super().compare()
        there = []
        for table, column, key, time_column, at, rule, new, distance, candidates, counted in rows(
            self.connection, KEPT
        ):
            own = tuple(str(key[name]) for name in self.oracle.definitions[table].key)
            moment = (at - START) // timedelta(microseconds=1)
            away = distance // timedelta(microseconds=1)
            there.append((table, column, own, time_column, moment, rule, new, away, candidates, counted))
        assert Counter(there) == Counter(self.oracle.kept)


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: world.name)
def keeping_world(request: pytest.FixtureRequest, databases: Databases, engine_template: str) -> Iterator[Any]:
    """A database with the tables of one world, all links guarded; every other one counts candidates."""
    world: World = request.param
    count = WORLDS.index(world) % 2 == 1
    with databases.new(engine_template) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        run(connection, world.ddl)
        run(connection, world.registration)
        run(
            connection,
            "SELECT flowguard.keep_provenance(relation, link_column, count_candidates => %s) FROM flowguard.link",
            count,
        )
        run(connection, "SELECT flowguard.guard(relation, link_column) FROM flowguard.link")
        run(connection, """SET search_path = public, "Zweites Schema" """)
        yield connection, world, count


def empty(connection: Connection, world: World) -> None:
    clear(connection, world)
    run(connection, "SELECT flowguard.forget_provenance('infinity')")


@given(data=st.data())
def test_what_is_kept_is_what_the_oracle_says(keeping_world: Any, data: st.DataObject) -> None:  # noqa: ANN401
    connection, world, count = keeping_world
    empty(connection, world)
    writer = KeepingWriter(connection, world, data, count=count)
    writer.begin_with_masters()
    for _ in range(data.draw(st.integers(1, 12), label="transactions")):
        writer.transaction()
        writer.compare()


@given(data=st.data())
def test_what_is_kept_among_many_sources(keeping_world: Any, data: st.DataObject) -> None:  # noqa: ANN401
    connection, world, count = keeping_world
    empty(connection, world)
    writer = KeepingWriter(connection, world, data, count=count)
    writer.begin_with_masters()
    writer.crowd()


# --- Example by example


@pytest.fixture
def app(db: Connection) -> Connection:
    """Registered and guarded; probes keep how they were linked."""
    create(db)
    register(db)
    keep(db)
    return db


def keep(connection: Connection, **options: object) -> None:
    extra = "".join(f", {name} => %s" for name in options)
    run(connection, f"SELECT flowguard.keep_provenance('probe', 'flow'{extra})", *options.values())
    guard(connection)


def events(connection: Connection, *those: tuple[int, int | None, str]) -> None:
    for event in those:
        run(connection, EVENT, *event)


def kept(connection: Connection) -> list[Entry]:
    """Give of each entry the key of the row, rule, link, minutes and candidates."""
    found = rows(connection, OF_PROBES)
    return [(int(key), rule, new, distance / MINUTES, candidates) for key, rule, new, distance, candidates in found]


@pytest.mark.parametrize(
    ("those", "minutes", "candidates"),
    [
        ([(50, 1, "-5 min")], 5, 1),
        ([(50, 1, "5 min")], 5, 1),
        ([(50, 1, "0")], 0, 1),
        ([(50, 1, "-5 min"), (51, 2, "10 min")], 5, 2),
        ([(50, 2, "-10 min"), (51, 1, "5 min")], 5, 2),
        ([(50, 1, "-5 min"), (51, 2, "-10 min"), (52, 3, "-15 min")], 5, 2),
        ([(50, 1, "5 min"), (51, 2, "10 min"), (52, 3, "15 min")], 5, 2),
        ([(50, 1, "-5 min"), (51, 2, "5 min")], 5, 2),
        # The nearest has no master, or no link: the distance is that of the row that gave the link.
        ([(50, 404, "-1 min"), (51, 1, "20 min")], 20, 2),
        ([(50, 404, "1 min"), (51, 1, "-20 min")], 20, 2),
        ([(50, 404, "-1 min"), (51, 1, "-20 min")], 20, 2),
        ([(50, None, "-1 min"), (51, 1, "20 min")], 20, 1),
    ],
)
def test_what_is_kept_of_an_insert(
    db: Connection, those: list[tuple[int, int | None, str]], minutes: int, candidates: int
) -> None:
    create(db)
    register(db)
    run(db, "SELECT flowguard.keep_provenance('probe', 'flow')")
    guard(db, "probe")  # not the events, so that a link of theirs may dangle
    events(db, *those)
    run(db, PROBE, 1)
    assert kept(db) == [(1, 1, "1", minutes, candidates)]


def test_a_row_of_the_present_too(app: Connection) -> None:
    """There the latest row of the whole window is asked for first."""
    run(app, "INSERT INTO event VALUES (50, 1, 1, 'live', now() - interval '3 min')")
    run(app, "INSERT INTO probe (id, tenant, at) SELECT 1, 1, at + interval '2 min' FROM event")
    run(app, "INSERT INTO event VALUES (51, 1, 2, 'live', now() + interval '4 min')")
    run(app, "INSERT INTO probe (id, tenant, at) SELECT 2, 1, at - interval '1 min' FROM event WHERE id = 51")
    assert kept(app) == [(1, 1, "1", 2, 1), (2, 1, "2", 1, 2)]


def test_candidates_are_counted_to_the_end_where_that_is_asked_for(app: Connection) -> None:
    keep(app, count_candidates=True)
    events(app, (50, 1, "-5 min"), (51, 2, "10 min"), (52, 2, "20 min"), (53, 2, "30 min"))
    run(app, PROBE, 1)
    keep(app)
    run(app, PROBE, 2)
    assert kept(app) == [(1, 1, "1", 5, 4), (2, 1, "1", 5, 2)]
    assert [e[2].rpartition(": ")[2] for n in (1, 2) for e in explain(app, "probe", n) if e[0] == "kept"] == [
        "4",
        "2 or more",
    ]


def test_late_links_and_links_that_are_refilled(app: Connection) -> None:
    run(app, PROBE, 1)
    assert kept(app) == []
    events(app, (50, 1, "-5 min"))
    assert kept(app) == [(1, 1, "1", 5, 1)]
    run(app, "UPDATE probe SET note = 'the same', flow = 1")
    assert len(kept(app)) == 1
    events(app, (51, 2, "1 min"))
    run(app, "UPDATE probe SET flow = NULL")
    assert kept(app)[1:] == [(1, 1, "2", 1, 2)]
    assert detail(explain(app, "probe", 1), "kept")["distance"] == "00:01:00"  # the other is of another link


def test_a_link_that_comes_at_commit(app: Connection) -> None:
    """The source gets its link when its trigger has been: only the second look at commit finds it."""
    run(app, "ALTER TABLE event DISABLE TRIGGER USER")
    with app.transaction():
        run(app, PROBE, 1)
        events(app, (50, 1, "-5 min"))
        assert kept(app) == []
    assert (links(app, "probe"), kept(app)) == ({1: 1}, [(1, 1, "1", 5, 1)])


def test_the_time_that_is_kept_is_that_of_the_rule_that_found_the_link(db: Connection) -> None:
    """Two rules that read different columns: at once, late, and at commit."""
    create(db)
    run(db, "ALTER TABLE probe ADD seen timestamptz")
    register(db)
    run(
        db,
        "SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'seen', 'at', 'flow', link_column => 'flow')",
    )
    keep(db)
    probe = "INSERT INTO probe (id, tenant, at, seen) VALUES (%s, 1, %s, %s)"
    run(db, probe, 1, "2024-01-01", "2025-01-01 12:00Z")
    events(db, (50, 1, "-5 min"))
    run(db, probe, 2, "2024-01-01", "2025-01-01 12:00Z")
    run(db, probe, 3, "2025-01-01 12:00Z", "2024-01-01")
    run(db, "ALTER TABLE event DISABLE TRIGGER USER")
    with db.transaction():
        run(db, probe, 4, "2023-01-01", "2023-06-01")
        run(db, "INSERT INTO event VALUES (51, 1, 2, 'live', '2023-06-01')")
    assert rows(
        db,
        "SELECT p.row_key ->> 'id', p.rule, p.time_column, p.row_time = CASE p.time_column WHEN 'at' THEN c.at "
        "ELSE c.seen END FROM flowguard.provenance p JOIN probe c ON c.id = (p.row_key ->> 'id')::integer "
        "ORDER BY p.id",
    ) == [("1", 2, "seen", True), ("2", 2, "seen", True), ("3", 1, "at", True), ("4", 2, "seen", True)]
    assert [detail(explain(db, "probe", number), "kept")["rule"] for number in range(1, 5)] == [2, 2, 1, 2]


def test_of_what_is_given_nothing_is_kept(app: Connection) -> None:
    events(app, (50, 1, "-5 min"))
    run(app, "INSERT INTO probe VALUES (1, 1, 2, '2025-01-01 12:00Z')")
    run(app, "UPDATE probe SET flow = 3")
    assert kept(app) == []
    assert parts(explain(app, "probe", 1)) == ["row", "rule", "written"]


def test_of_other_links_nothing_is_kept(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, 1)")
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    assert (links(app, "child"), kept(app)) == ({20: 1}, [])


def test_of_what_a_trigger_of_the_application_makes_of_it_nothing_is_kept(app: Connection) -> None:
    """Late, and at commit: there the link that was written is known."""
    run(
        app,
        "CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.flow := 3; RETURN NEW; END';"
        "CREATE TRIGGER zz_other BEFORE UPDATE ON probe FOR EACH ROW WHEN (NEW.flow = 1) EXECUTE FUNCTION other()",
    )
    run(app, PROBE, 1)
    events(app, (50, 1, "-5 min"))
    run(app, "ALTER TABLE event DISABLE TRIGGER USER")
    with app.transaction():
        run(app, "INSERT INTO probe (id, tenant, at) VALUES (2, 1, '2024-01-01')")
        run(app, "INSERT INTO event VALUES (51, 1, 1, 'live', '2024-01-01')")
    assert (links(app, "probe"), kept(app)) == ({1: 3, 2: 3}, [])


def test_copy_and_an_insert_of_many(app: Connection) -> None:
    events(app, (50, 1, "-5 min"))
    with app.cursor().copy("COPY probe (id, tenant, at) FROM STDIN") as copy:
        for number in range(1, 4):
            copy.write_row((number, 1, "2025-01-01 12:00Z"))
    run(app, "INSERT INTO probe (id, tenant, at) SELECT n, 1, '2025-01-01 12:00Z' FROM generate_series(4, 5) n")
    assert kept(app) == [(number, 1, "1", 5, 1) for number in range(1, 6)]


def test_a_transaction_that_is_taken_back_leaves_nothing(app: Connection) -> None:
    events(app, (50, 1, "-5 min"))
    with app.transaction(force_rollback=True):
        run(app, PROBE, 1)
        assert len(kept(app)) == 1
    assert kept(app) == []


# --- ON CONFLICT: the trigger runs for a row that never comes to be


def test_an_insert_that_is_turned_away_tells_nothing_of_a_row_with_another_time_or_link(app: Connection) -> None:
    events(app, (50, 1, "-5 min"))
    run(app, "INSERT INTO probe VALUES (1, 1, 1, '2025-01-01 12:30Z'), (2, 1, 2, '2025-01-01 12:00Z')")
    for number in (1, 2):
        run(app, PROBE + " ON CONFLICT DO NOTHING", number)
    assert kept(app) == [(1, 1, "1", 5, 1), (2, 1, "1", 5, 1)]
    for number in (1, 2):
        assert parts(explain(app, "probe", number)) == ["row", "rule", "written"]


def test_what_is_said_of_a_row_that_was_inserted_again(app: Connection) -> None:
    """Entries that say the same are one; what another says is shown beside it, as found for this key and time."""
    events(app, (50, 1, "-5 min"))
    for _ in range(3):
        run(app, PROBE + " ON CONFLICT DO NOTHING", 1)
    (told,) = [summary for part, _, summary, _ in explain(app, "probe", 1) if part == "kept"]
    assert told == (
        "a trigger found 1 for a row of this key and time: by rule 1, proximity, 00:05:00 away, candidates: 1"
    )
    assert detail(explain(app, "probe", 1), "kept")["amount"] == 3
    events(app, (51, 1, "1 min"))
    run(app, PROBE + " ON CONFLICT DO NOTHING", 1)
    said = [d for part, _, _, d in explain(app, "probe", 1) if part == "kept"]
    assert [(d["distance"], d["candidates"]) for d in said] == [("00:05:00", 1), ("00:01:00", 2)]


def test_on_conflict_do_update_takes_the_link_that_was_found(app: Connection) -> None:
    events(app, (50, 1, "-5 min"))
    run(app, "INSERT INTO probe VALUES (1, 1, 2, '2025-01-01 11:00Z')")
    run(app, PROBE + " ON CONFLICT (id) DO UPDATE SET flow = EXCLUDED.flow, at = EXCLUDED.at", 1)
    assert links(app, "probe") == {1: 1}
    assert detail(explain(app, "probe", 1), "kept")["distance"] == "00:05:00"


# --- What explain() tells


def test_explain_tells_what_was_kept_and_rules_what_is(app: Connection) -> None:
    events(app, (50, 1, "-5 min"))
    run(app, PROBE, 1)
    run(app, "UPDATE event SET at = at + interval '4 min'")
    events(app, (51, 2, "0"))
    told = explain(app, "probe", 1)
    assert parts(told) == ["row", "rule", "kept"]
    assert told[-1][1] == 1
    said = detail(told, "kept")
    assert one(app, "SELECT linked_at = %s::timestamptz FROM flowguard.provenance", said.pop("linked_at"))
    assert said == {
        "rule": 1,
        "rule_kind": "proximity",
        "new_link": "1",
        "distance": "00:05:00",
        "candidates": 1,
        "count_candidates": False,
        "amount": 1,
    }
    assert detail(told, "rule", 1)["link"] == "2"
    run(app, "UPDATE probe SET at = at + interval '1 min'")
    assert parts(explain(app, "probe", 1)) == ["row", "rule", "written"]  # for a row that it no longer is


@pytest.mark.parametrize(
    "settings", ["SET timezone = 'Asia/Kolkata'", "SET datestyle = 'German'", "SET timezone = UTC"]
)
@pytest.mark.parametrize("kind", ["timestamptz", "timestamp"])
def test_times_of_both_types_under_any_settings(db: Connection, kind: str, settings: str) -> None:
    create(db)
    run(db, f"ALTER TABLE event ALTER at TYPE {kind}; ALTER TABLE probe ALTER at TYPE {kind}")
    register(db)
    keep(db)
    events(db, (50, 1, "-5 min"))
    run(db, settings)
    run(db, PROBE, 1)
    run(db, "RESET ALL")
    assert detail(explain(db, "probe", 1), "kept")["distance"] == "00:05:00"


def test_a_column_that_is_a_time_no_more_is_no_error(app: Connection) -> None:
    events(app, (50, 1, "-5 min"))
    run(app, PROBE, 1)
    run(app, "SELECT flowguard.drop_rule('probe', 1, 'flow'), flowguard.unguard('probe', 'flow')")
    run(app, "ALTER TABLE probe ALTER at TYPE text")
    assert parts(explain(app, "probe", 1)) == ["row", "written"]
    run(app, "ALTER TABLE probe DROP at")
    assert parts(explain(app, "probe", 1)) == ["row", "written"]


def test_the_command_tells_it(app: Connection) -> None:
    events(app, (50, 1, "-5 min"))
    run(app, PROBE, 1)
    told = repairs.explain("probe", ["1"], make_conninfo(app.info.dsn, password=app.info.password), link_column="flow")
    assert [part.part for part in told] == ["row", "rule", "kept"]


def test_of_a_partition_the_whole_tables_name_is_kept(db: Connection) -> None:
    create(db)
    run(
        db,
        "DROP TABLE probe; CREATE TABLE probe (id integer, tenant integer, flow integer, at timestamptz, "
        "note text, PRIMARY KEY (id, tenant)) PARTITION BY LIST (tenant); "
        "CREATE TABLE probe_1 PARTITION OF probe FOR VALUES IN (1)",
    )
    register(db)
    keep(db)
    events(db, (50, 1, "-5 min"))
    run(db, "INSERT INTO probe_1 (id, tenant, at) VALUES (1, 1, '2025-01-01 12:00Z')")
    assert rows(db, "SELECT schema_name, table_name, row_key FROM flowguard.provenance") == [
        ("public", "probe", {"id": 1, "tenant": 1})
    ]
    assert detail(explain(db, "probe", {"id": 1, "tenant": 1}), "kept")["distance"] == "00:05:00"


# --- With the rest of the engine


def test_a_repair_keeps_its_own_and_late_links_of_its_run_are_kept_once(app: Connection) -> None:
    """What follows in a run is in the ledger, which undo() reads, and how it was found is in provenance."""
    run(
        app,
        "SELECT flowguard.add_reference_rule('event', 'id', 'parent', source_link => 'flow', agree => false, "
        "link_column => 'flow')",
    )
    guard(app)
    run(app, "INSERT INTO event VALUES (50, 1, NULL, 'live', '2025-01-01 11:55Z')")
    run(app, PROBE, 1)
    run(app, "SELECT flowguard.pause('event', 'flow')")
    run(app, "INSERT INTO parent VALUES (50, 1, 1)")
    run(app, "SELECT flowguard.resume('event', 'flow')")
    done = repair(app, "event", link_column="flow")
    assert links(app, "probe") == {1: 1}
    changed = rows(app, "SELECT table_name, kind, rule FROM flowguard.run_change ORDER BY 1")
    assert changed == [("event", "linked", 1), ("probe", "followed", 1)]
    assert kept(app) == [(1, 1, "1", 5, 1)]
    assert parts(explain(app, "probe", 1)) == ["row", "rule", "run", "kept"]
    undo(app, done.id)
    assert links(app, "probe") == {1: None}
    assert len(kept(app)) == 1
    assert "kept" not in parts(explain(app, "probe", 1))


def test_a_dry_run_keeps_nothing(app: Connection) -> None:
    run(app, "SELECT flowguard.pause('probe', 'flow')")
    events(app, (50, 1, "-5 min"))
    run(app, PROBE, 1)
    run(app, "SELECT flowguard.resume('probe', 'flow')")
    assert rows(app, "SELECT amount FROM flowguard.preview('probe', 'flow') WHERE outcome = 'linked'") == [(1,)]
    assert kept(app) == []
    repair(app, "probe", link_column="flow")
    assert kept(app) == []
    assert parts(explain(app, "probe", 1)) == ["row", "rule", "run"]


def test_paused_nothing_is_kept(app: Connection) -> None:
    events(app, (50, 1, "-5 min"))
    run(app, "SELECT flowguard.pause('probe', 'flow')")
    run(app, PROBE, 1)
    run(app, "SELECT flowguard.resume('probe', 'flow')")
    run(app, PROBE, 2)
    assert [entry[0] for entry in kept(app)] == [2]


def test_what_was_kept_outlives_the_link(app: Connection) -> None:
    events(app, (50, 1, "-5 min"))
    run(app, PROBE, 1)
    run(app, "SELECT flowguard.unguard('probe', 'flow'), flowguard.drop_link('probe', 'flow')")
    assert rows(app, "SELECT FROM flowguard.provenance_link") == []
    assert len(kept(app)) == 1


def functions(connection: Connection) -> dict[str, str]:
    """Give the generated functions, whole."""
    return dict(
        rows(
            connection,
            "SELECT oid::regprocedure::text, pg_get_functiondef(oid) FROM pg_proc "
            "WHERE pronamespace = 'flowguard'::regnamespace AND obj_description(oid) LIKE 'Generated by PyFlowGuard%'",
        )
    )


def test_it_is_switched_by_the_call_and_guard(db: Connection) -> None:
    create(db)
    register(db)
    guard(db)
    before = functions(db)
    answer = "SELECT * FROM flowguard.keep_provenance('probe', 'flow', %s)"
    for _ in range(2):
        assert [row[1:] for row in rows(db, answer, True)] == [("flow", False)]
    assert functions(db) == before
    assert one(db, "SELECT count(*) FROM flowguard.guard_plan('probe', 'flow')") == 4
    changed = [statement for _, statement, *_ in guard(db)]
    assert [statement.split("(")[0] for statement in changed] == [
        f"CREATE OR REPLACE FUNCTION flowguard.probe_flow_{name}"
        for name in ("find_kept", "fill", "commit", "follow_1")
    ]
    events(db, (50, 1, "-5 min"))
    run(db, PROBE, 1)
    assert [row[1:] for row in rows(db, answer, False)] == [("flow", False)]
    assert rows(db, answer, False) == [(None, None, None)]
    guard(db)
    assert functions(db) == before
    run(db, PROBE, 2)
    assert [entry[0] for entry in kept(db)] == [1]
    assert detail(explain(db, "probe", 1), "kept")  # what was kept stays


def test_a_link_without_a_rule_by_time_is_as_it_was(db: Connection) -> None:
    create(db)
    register(db)
    guard(db)
    run(db, "SELECT flowguard.keep_provenance('child', 'flow')")
    assert guard(db) == []


@pytest.mark.parametrize(
    "call",
    [
        "keep_provenance('probe', 'flow', NULL)",
        "keep_provenance('probe', 'flow', true, NULL)",
        "forget_provenance(NULL)",
    ],
)
def test_null_says_nothing(app: Connection, call: str) -> None:
    with refused("FG104") as refusal:
        run(app, f"SELECT flowguard.{call}")
    refusal.says("NULL")


def test_forgetting_is_by_time_and_tells_how_much(app: Connection) -> None:
    events(app, (50, 1, "-5 min"))
    run(app, PROBE, 1)
    between = one(app, "SELECT clock_timestamp()")
    run(app, PROBE, 2)
    assert one(app, "SELECT flowguard.forget_provenance(%s)", between) == 1
    assert [entry[0] for entry in kept(app)] == [2]
    assert one(app, "SELECT flowguard.forget_provenance('infinity')") == 1
    assert one(app, "SELECT flowguard.forget_provenance('infinity')") == 0


def test_a_writer_needs_no_rights_on_it(app: Connection, as_role: Any) -> None:  # noqa: ANN401  conftest's
    dsn = make_conninfo(app.info.dsn)
    events(app, (50, 1, "-5 min"))
    with psycopg.connect(as_role(dsn, "postgres"), autocommit=True) as superuser:
        run(superuser, "CREATE ROLE provenance_writer; GRANT INSERT ON probe, event TO provenance_writer")
        try:
            run(superuser, "SET ROLE provenance_writer")
            run(superuser, PROBE, 1)
            run(superuser, "INSERT INTO probe (id, tenant, at) VALUES (2, 1, '2024-01-01')")
            run(superuser, "INSERT INTO event VALUES (51, 1, 2, 'live', '2024-01-01')")
            for table in ("provenance", "provenance_link"):
                with refused("42501"):
                    run(superuser, f"SELECT FROM flowguard.{table}")
            with refused("42501"):
                run(superuser, "SELECT flowguard.forget_provenance('infinity')")
        finally:
            run(superuser, "RESET ROLE; DROP OWNED BY provenance_writer; DROP ROLE provenance_writer")
    assert [(entry[0], entry[2]) for entry in kept(app)] == [(1, "1"), (2, "2")]
    for table in ("provenance", "provenance_link"):
        assert not one(app, "SELECT has_table_privilege('public', %s, 'SELECT, INSERT')", f"flowguard.{table}")


def test_the_two_roles(app: Connection, roles: Any) -> None:  # noqa: ANN401  conftest's
    viewer, admin = roles("flowguard_viewer"), roles("flowguard_admin")
    events(app, (50, 1, "-5 min"))
    run(app, PROBE, 1)
    assert len(rows(viewer, "SELECT FROM flowguard.provenance")) == 1
    assert detail(explain(viewer, "public.probe", 1), "kept")
    for call in ("keep_provenance('public.probe', 'flow')", "forget_provenance('infinity')"):
        with refused("42501"):
            run(viewer, f"SELECT flowguard.{call}")
    run(admin, "SELECT flowguard.keep_provenance('public.probe', 'flow', false)")
    assert one(admin, "SELECT flowguard.forget_provenance('infinity')") == 1


# --- There and back


def missing(connection: Connection) -> list[str]:
    """Give the statements that guard() would run for all links."""
    plans = "SELECT p.statement FROM flowguard.link l CROSS JOIN flowguard.guard_plan(l.relation, l.link_column) p"
    return [statement for (statement,) in rows(connection, plans)]


def test_an_upgrade_writes_the_same_functions(empty_db: str) -> None:
    """Byte for byte: 1.1.0 leaves nothing to do for a link that keeps nothing, those after renew what triggers call."""
    changes.deploy(empty_db, to="@v1.0.0")
    with psycopg.connect(empty_db, autocommit=True) as connection:
        run(connection, WORLDS[0].ddl)
        run(connection, WORLDS[0].registration)
        for _ in range(2):  # what one link made, another may need
            run(connection, "SELECT flowguard.guard(relation, link_column) FROM flowguard.link")
        older = functions(connection)
        changes.deploy(empty_db, to="@v1.1.0")
        assert (missing(connection), functions(connection)) == ([], older)
        changes.deploy(empty_db, to="@v1.2.0")
        before = functions(connection)
        assert missing(connection) == []
        assert {name for name, text in before.items() if text != older.get(name, text)} == {
            name for name in older if "_commit(" in name
        }
        assert older.keys() - before.keys() == {name for name in older if "_follow_" in name}
        assert any("_find(" in name for name in before)
        changes.deploy(empty_db)
        newest = functions(connection)
        assert missing(connection) == []
        assert newest.keys() == before.keys()
        assert {name for name in newest if newest[name] != before[name]} == {
            name for name in before if "_names_hold(" in before[name]
        }
        before = newest
        run(connection, "SELECT flowguard.keep_provenance(relation, link_column) FROM flowguard.link")
        run(connection, "SELECT flowguard.guard(relation, link_column) FROM flowguard.link")
        assert functions(connection) != before
        run(connection, "SELECT flowguard.keep_provenance(relation, link_column, keep => false) FROM flowguard.link")
        run(connection, "SELECT flowguard.guard(relation, link_column) FROM flowguard.link")
        assert functions(connection) == before
        changes.revert(empty_db, to="@v1.1.0")
        assert (missing(connection), functions(connection)) == ([], older)


def test_going_back_is_refused_while_triggers_keep(app: Connection) -> None:
    """Their writes would fail; the older guard() writes the functions without it, as the refusal says."""
    events(app, (50, 1, "-5 min"))
    with pytest.raises(ScriptFailed) as caught:
        changes.revert(app.info.dsn, to="@v1.0.0")
    assert "triggers still keep provenance" in str(caught.value)
    run(app, PROBE, 1)
    hint = re.search(r'Run "([^"]*)" first', f"{caught.value} {caught.value.hint}")
    assert hint is not None
    run(app, hint[1])
    changes.revert(app.info.dsn, to="@v1.0.0")
    run(app, PROBE, 2)
    assert links(app, "probe") == {1: 1, 2: 1}
    assert not any("kept" in name for name in functions(app))
    changes.deploy(app.info.dsn)
    assert rows(app, "SELECT FROM flowguard.provenance") == []
