"""Whatever was written before there was a guard: repair makes of it what the judge says, in batches of any size.

Links are unlinked, dangling, another key of a master (of one, of two, of another tenant's), or a master of another
tenant; tenants and times are NULL, times infinite, equal, or at the edge of a window; references have a link, have none
yet, or have a wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import timedelta
from hashlib import md5
from itertools import pairwise
from random import Random
from typing import Any

import psycopg
import pytest
from engine.oracle import Link, Proximity, Row, Session
from engine.postgres import Connection, one, rows, run
from engine.worlds import (
    TIMES,
    Choice,
    Refers,
    Shape,
    Times,
    World,
    as_timestamp,
    keys_within_tenant,
    quoted_names,
    report_like,
)
from hypothesis import example, given, note
from hypothesis import strategies as st
from profiles import sized
from psycopg import sql
from repair.calls import dump, repair, run_row, undo
from repair.judge import Judge, Policy, Provenance

# The rows are drawn from a seed: hypothesis would take longer to draw them one by one than the server to repair them.
thoroughly = sized(ci=6, nightly=1000, shrink=False)
seeds = st.integers(0, 2**32)
ALTERNATES = ("other key", "third key")


class Case:
    """A world of the engine's tests whose master has alternate keys, with what is done with orphans.

    No dataclass, nor is Bench: of those hypothesis would print every field.
    """

    def __init__(self, world: World, policy: Policy, *, guarded: bool) -> None:
        self.world = world
        self.policy = policy
        self.guarded = guarded
        self.tenants_known = not any(shape.null_tenants for shape in world.shapes)
        self.holders: tuple[tuple[str, str, str, str], ...] = ()
        if world.name == "quoted names":
            self.holders = ((world.shapes[-1].table, "Eltern", "select", "id"),)

    def __repr__(self) -> str:
        return f"{self.world.name}, {self.policy}, {'guarded' if self.guarded else 'no guard'}"


def case(world: World, policy: Policy, *, guarded: bool) -> Case:
    """Give the master its alternate keys, and the links their policy."""
    master = world.links[0].master
    key_type = {"flow": "uuid", "Der Fluß": "text", "project": "bigint"}[master.table]
    ddl = world.ddl + "".join(f'ALTER TABLE "{master.table}" ADD "{name}" {key_type};\n' for name in ALTERNATES)
    registration = world.registration.replace("on_master_delete =>", f"on_orphan => '{policy}', on_master_delete =>")
    end = registration.index("add_master")
    end = registration.index(");", end)
    registration = registration[:end] + ", alternate_keys => '{other key,third key}'" + registration[end:]
    return Case(replace(world, ddl=ddl, registration=registration), policy, guarded=guarded)


CASES = [
    case(report_like(mode="observe", on_master_delete="cascade"), "quarantine", guarded=False),
    case(report_like(mode="observe", on_master_delete="cascade"), "quarantine", guarded=True),
    case(report_like(mode="observe", on_master_delete="refuse"), "unlink", guarded=True),
    case(report_like(mode="enforce", on_master_delete="refuse"), "quarantine", guarded=True),
    case(report_like(mode="enforce", on_master_delete="set null", not_null="NOT NULL"), "unlink", guarded=True),
    case(quoted_names(), "quarantine", guarded=False),
    case(quoted_names(), "quarantine", guarded=True),
    case(keys_within_tenant(), "unlink", guarded=False),
    case(keys_within_tenant(), "keep", guarded=True),
]


def identifier(*names: str) -> sql.Composed:
    """Quote names for a statement with parameters, in which % is no ordinary character."""
    return sql.SQL(", ").join(sql.SQL('"' + name.replace('"', '""').replace("%", "%%") + '"') for name in names)


# --- Dirt


class Dirt:
    """Draws the rows of a database that nobody ever watched."""

    def __init__(self, case: Case, random: Random) -> None:
        self.world = case.world
        self.random = random
        self.judge = Judge.of(
            self.world.tables,
            self.world.links,
            policy=case.policy,
            alternates=ALTERNATES,
            holders=case.holders,
            tenants_known=case.tenants_known,
        )
        self.number = 0
        self.key = self.world.links[0].master.key
        self.aliases: list[Any] = []

    def draw(self) -> Judge:
        self.masters()
        for shape in self.world.shapes[1:]:
            for _ in range(self.random.choice((0, 1, 2, 4, 6))):
                self.add(shape, self.row(shape))
        return self.judge

    def masters(self) -> None:
        shape = self.world.shapes[0]
        wanted = (0, 0, 0, *range(1, len(self.world.tenants)))
        self.aliases = [shape.key[self.key](number) for number in (901, 902, 903)]
        for tenant in wanted:
            row = self.blank(shape) | dict(zip(shape.tenants, self.world.tenants[tenant], strict=True))
            row |= {name: self.random.choice((None, *self.aliases)) for name in ALTERNATES}
            self.add(shape, row)

    def row(self, shape: Shape) -> Row:
        row = self.blank(shape)
        tenant = dict(zip(shape.tenants, self.pick([self.world.tenants[0]] * 4, self.world.tenants), strict=True))
        if shape.null_tenants and self.random.random() < 1 / 6:
            tenant[self.random.choice(shape.tenants)] = None
        row |= tenant
        for name, kind in shape.columns.items():
            row[name] = self.value(kind, row)
        for name in shape.links:
            row[name] = self.link(shape)
        return row

    def blank(self, shape: Shape) -> Row:
        self.number += 1
        return {name: make(self.number) for name, make in shape.key.items()}

    def pick(self, *choices: Any) -> Any:  # noqa: ANN401  whatever is offered
        return self.random.choice([value for choice in choices for value in choice])

    def value(self, kind: object, row: Row) -> Any:  # noqa: ANN401  of the column's type
        if isinstance(kind, Times):
            return self.pick(TIMES, TIMES, [None, float("inf"), float("-inf")])
        if isinstance(kind, Refers):
            present = list(self.judge.rows(kind.table).values())
            if "owner" in row:
                present = [other for other in present if other["owner"] == row["owner"]]
            values = [other[kind.column] for other in present]
            if kind.loose:
                values += [self.world.tenants[0][0], *(other["code"] for other in present)]
            return self.pick([None], values)
        assert isinstance(kind, Choice)
        return self.random.choice(kind.values)

    def link(self, shape: Shape) -> Any:  # noqa: ANN401  a key of the master, or nothing like it
        masters = [master[self.key] for master in self.judge.rows(self.world.shapes[0].table).values()]
        nobody = [self.world.shapes[0].key[self.key](number) for number in (998, 999)]
        if shape is self.world.shapes[-1]:
            return self.pick([None] * 4, masters, self.aliases, nobody)
        return self.pick([None] * 2, masters, masters[:3] * 2, self.aliases, nobody)

    def add(self, shape: Shape, row: Row) -> None:
        rows = self.judge.rows(shape.table)
        key = self.judge.oracle.key(shape.table, row)
        if key not in rows:
            rows[key] = row


def load(connection: Connection, case: Case, judge: Judge) -> None:
    """Put the rows in, as if there had never been a guard."""
    run(connection, "SET session_replication_role = replica")
    with connection.transaction():
        names = [shape.table for shape in case.world.shapes]
        connection.execute(sql.SQL("TRUNCATE {}").format(identifier(*names)), ())
        run(
            connection,
            "TRUNCATE flowguard.repair_run, flowguard.repair_change, flowguard.quarantined_row, "
            "flowguard.violation_seen, flowguard.privileged_transaction",
        )
        for shape in case.world.shapes:
            there = list(judge.rows(shape.table).values())
            if there:
                note(f"{shape.table}: {there}")
                insert(connection, shape, there)
    run(connection, "SET session_replication_role = origin")


def insert(connection: Connection, shape: Shape, there: list[Row]) -> None:
    names = list(there[0])
    one_row = sql.SQL("({})").format(sql.SQL(", ").join([sql.Placeholder()] * len(names)))
    statement = sql.SQL("INSERT INTO {} ({}) VALUES {}").format(
        identifier(shape.table), identifier(*names), sql.SQL(", ").join([one_row] * len(there))
    )
    values = [
        as_timestamp(row[name]) if isinstance(shape.columns.get(name), Times) else row[name]
        for row in there
        for name in names
    ]
    connection.execute(statement, values)


# --- The databases


class Bench:
    """A database for a case, by the superuser who loads it and the owner who repairs it."""

    def __init__(self, case: Case, loader: Connection, owner: Connection) -> None:
        self.case = case
        self.loader = loader
        self.owner = owner

    def __repr__(self) -> str:
        return repr(self.case)

    def content(self) -> dict[str, dict[Any, Any]]:
        """Give keys and links of every table."""
        found = {}
        for shape in self.case.world.shapes:
            key = self.definition(shape)
            query = sql.SQL("SELECT {} FROM {}").format(identifier(*key, *shape.links), identifier(shape.table))
            found[shape.table] = {r[: len(key)]: r[len(key) :] for r in self.owner.execute(query, ())}
        return found

    def expected(self, judge: Judge) -> dict[str, dict[Any, Any]]:
        """Give the same of the judge's rows."""
        return {
            shape.table: {key: tuple(row[name] for name in shape.links) for key, row in judge.rows(shape.table).items()}
            for shape in self.case.world.shapes
        }

    def definition(self, shape: Shape) -> tuple[str, ...]:
        return next(table.key for table in self.case.world.tables if table.name == shape.table)

    def everything(self) -> dict[str, Any]:
        """Give all that is in the application's tables and in the ledger."""
        names = ['"' + shape.table.replace('"', '""') + '"' for shape in self.case.world.shapes]
        return dump(self.owner, *names, "flowguard.repair_change", "flowguard.quarantined_row", "flowguard.run")

    def application(self) -> dict[str, Any]:
        names = ['"' + shape.table.replace('"', '""') + '"' for shape in self.case.world.shapes]
        return dict(dump(self.owner, *names))


@pytest.fixture(scope="module", params=CASES, ids=repr)
def bench(
    request: pytest.FixtureRequest,
    databases: Any,  # noqa: ANN401  conftest's class
    engine_template: str,
    as_role: Callable[[str, str], str],
) -> Iterator[Bench]:
    """Make a database with the tables of a case, its links registered, and guarded or not."""
    case: Case = request.param
    with ExitStack() as stack:
        dsn = stack.enter_context(databases.new(engine_template))
        owner = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        loader = stack.enter_context(psycopg.connect(as_role(dsn, "postgres"), autocommit=True))
        run(owner, case.world.ddl)
        run(owner, case.world.registration)
        if case.guarded:
            run(owner, "SELECT flowguard.guard(relation, link_column) FROM flowguard.link")
        for connection in (owner, loader):
            run(connection, """SET search_path = public, "Zweites Schema" """)
        yield Bench(case, loader, owner)


@pytest.fixture(scope="module")
def as_role() -> Callable[[str, str], str]:
    """As conftest's, for a fixture of a module."""
    return lambda dsn, role: psycopg.conninfo.make_conninfo(dsn, user=role)


# --- The properties


@thoroughly
@given(seed=seeds, batch_size=st.sampled_from([1, 3, 5000]))
@example(seed=0, batch_size=1)  # linked by one link of its table, taken out by the other
@example(seed=90, batch_size=1)  # links written when a batch commits
@example(seed=1476364, batch_size=1)  # a translation that a child of unknown tenant holds back
@example(seed=1960019, batch_size=3)  # a row of unknown tenant that would follow
@example(seed=2893992, batch_size=5000)  # a worse source is linked before the better one
@example(seed=1825, batch_size=5000)  # the reference is unlinked, the row of unknown tenant holds an alternate key
@example(seed=1935, batch_size=3)  # the reference is translated, the row of unknown tenant has two masters
@example(seed=17688, batch_size=3)  # a translation is held back by rows that go later
@example(seed=97925, batch_size=5000)  # an orphan is held by one that goes earlier
def test_repair_does_what_the_judge_says(bench: Bench, seed: int, batch_size: int) -> None:
    judge = Dirt(bench.case, Random(seed)).draw()
    load(bench.loader, bench.case, judge)
    before = bench.everything()

    dry = repair(bench.owner, batch_size=batch_size, dry_run=True)
    assert bench.everything() == before
    assert dry.run_id is None

    done = repair(bench.owner, batch_size=batch_size)
    counts = judge.repair()
    assert bench.content() == bench.expected(judge)
    assert replace(done, run_id=None) == dry
    check_counts(bench, judge, done.id)
    if not bench.case.guarded:
        assert asdict(done) == {"run_id": done.id, **asdict(counts), "remaining": judge.wrong()}

    repaired = bench.application()
    again = repair(bench.owner, batch_size=batch_size)
    assert (again.total, again.remaining) == (0, judge.wrong())
    assert bench.application() == repaired

    if not bench.case.guarded:
        restored, skipped, remaining = undo(bench.owner, done.id)
        assert (skipped, remaining) == (0, 0)
        assert restored >= done.total
        assert bench.application() == {name: before[name] for name in repaired}


def check_counts(bench: Bench, judge: Judge, run_id: int) -> None:
    """The counts of a run are those of what it wrote, and what remains is what is wrong."""
    said = run_row(bench.owner, run_id)
    assert said["status"] == "finished"
    kinds = dict(
        rows(bench.owner, "SELECT kind, count(*) FROM flowguard.run_change WHERE run_id = %s GROUP BY 1", run_id)
    )
    assert kinds == {kind: said[kind] for kind in ("linked", "translated", "unlinked", "followed") if said[kind] > 0}
    held = one(
        bench.owner,
        "SELECT count(*) FROM flowguard.quarantine WHERE run_id = %s AND link_column IS NOT NULL",
        run_id,
    )
    assert said["quarantined"] == held
    assert said["remaining"] == judge.wrong()
    if not bench.case.guarded:
        assert said["followed"] == 0


@thoroughly
@given(seed=seeds)
def test_the_size_of_a_batch_makes_no_difference(bench: Bench, seed: int) -> None:
    judge = Dirt(bench.case, Random(seed)).draw()
    found = []
    for batch_size in (1, 3, 5000):
        load(bench.loader, bench.case, judge)
        done = repair(bench.owner, batch_size=batch_size)
        found.append((bench.application(), done.remaining))
    assert found[0] == found[1] == found[2]


# --- What a preview foretells, and where links are from

PREVIEW = """
SELECT to_jsonb(p) - 'examples' || jsonb_build_object('child', (SELECT relname FROM pg_class WHERE oid = p.child))
  FROM flowguard.preview(%s::regclass, link_column => %s, row_filter => %s) p
"""
WRITTEN = """
SELECT table_name, link_column, kind, rule, count(*) FROM flowguard.run_change
 WHERE run_id = %s GROUP BY 1, 2, 3, 4
"""
TAKEN = """
SELECT table_name, link_column, 'quarantined', NULL, count(*) FROM flowguard.quarantine
 WHERE run_id = %s AND link_column IS NOT NULL GROUP BY 1, 2
"""
LEFT = """
SELECT c.relname, l.link_column::text, 'left ' || k.kind, NULL, k.amount FROM flowguard.link_status l
  JOIN pg_class c ON c.oid = l.relation
 CROSS JOIN LATERAL (VALUES ('unlinked', l.unlinked), ('dangling', l.dangling)) AS k (kind, amount) WHERE k.amount > 0
"""
LINKED = """
SELECT table_name, link_column, row_key, rule, rule_kind, distance, candidates FROM flowguard.run_change
 WHERE run_id = %s AND kind = 'linked'
"""
Told = dict[tuple[str, str, str, int | None], dict[str, Any]]


def foretold(bench: Bench, *arguments: object) -> Told:
    """Give what a preview tells, by table, link, outcome and rule."""
    told = [row for (row,) in rows(bench.owner, PREVIEW, *(arguments or (None, "", None)))]
    found = {(row["child"], row["link"], row["outcome"], row["rule"]): row for row in told}
    assert len(found) == len(told)
    return found


def linked_by(bench: Bench, run_id: int) -> dict[tuple[str, str, Any], Provenance]:
    """Give what the ledger keeps of each row that a rule linked."""
    keys = {table.name: table.key for table in bench.case.world.tables}
    return {
        (table, link, tuple(str(key[name]) for name in keys[table])): Provenance(
            rule, kind, None if distance is None else distance // timedelta(microseconds=1), candidates
        )
        for table, link, key, rule, kind, distance, candidates in rows(bench.owner, LINKED, run_id)
    }


def as_kept(judge: Judge, *, counts: bool) -> dict[tuple[str, str, Any], Provenance]:
    """Give the same of the judge, as the ledger keeps it: 2 candidates are two or more, unless they are counted."""
    return {
        (table, link, tuple(str(part) for part in key)): by
        if counts or by.candidates is None
        else replace(by, candidates=min(by.candidates, 2))
        for (table, link, key), by in judge.linked_by.items()
    }


def microseconds(connection: Connection, text: str | None) -> int | None:
    found = one(connection, "SELECT %s::interval", text)
    return None if found is None else int(found // timedelta(microseconds=1))


def check_distances(bench: Bench, told: dict[str, Any], within: int, inside: list[int], outside: list[int]) -> None:
    """Compare what a preview tells of the distances of a rule with the distances themselves."""
    said = told["distances"]

    def rank(share: float) -> int | None:
        return sorted(inside)[max(math.ceil(share * len(inside)), 1) - 1] if inside else None

    for name, share in (("min", 0), ("median", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1)):
        assert microseconds(bench.owner, said[name]) == rank(share), name
    for buckets, values, bounds in (
        (said["inside"], inside, [0, within / 16, within / 8, within / 4, within / 2, within]),
        (said["outside"], outside, [within, 2 * within, 4 * within]),
    ):
        amounts = [
            sum(lower < value <= upper or value == lower == 0 for value in values) for lower, upper in pairwise(bounds)
        ]
        assert [bucket["amount"] for bucket in buckets] == amounts
        assert [microseconds(bench.owner, bucket["to"]) for bucket in buckets] == bounds[1:]
    assert microseconds(bench.owner, said["nearest"]) == min(outside, default=None)


@thoroughly
@given(seed=seeds, counts=st.booleans())
@example(seed=0, counts=False)
@example(seed=0, counts=True)
@example(seed=97925, counts=True)  # rows that one repair takes out in two rounds
def test_a_preview_says_what_the_run_then_does(bench: Bench, seed: int, *, counts: bool) -> None:
    judge = Dirt(bench.case, Random(seed)).draw()
    load(bench.loader, bench.case, judge)
    before = bench.everything()
    told = foretold(bench)
    assert bench.everything() == before

    done = repair(bench.owner, count_candidates=counts)
    judge.repair()
    said = {key: row["amount"] for key, row in told.items() if key[2] != "taken along" and row["amount"]}
    real = [*rows(bench.owner, WRITTEN, done.id), *rows(bench.owner, TAKEN, done.id), *rows(bench.owner, LEFT)]
    assert said == {tuple(row[:4]): row[4] for row in real}
    along = "SELECT count(*) FROM flowguard.quarantine WHERE run_id = %s AND link_column IS NULL"
    assert sum(row["amount"] for key, row in told.items() if key[2] == "taken along") == one(
        bench.owner, along, done.id
    )

    by = linked_by(bench, done.id)
    expected = as_kept(judge, counts=counts)
    assert {key: expected[key] for key in by} == by
    if not bench.case.guarded:  # else late linking was faster with some
        assert len(by) == done.linked == judge.counts.linked
    for link in bench.case.world.links:
        for position, rule in enumerate(link.rules, 1):
            if isinstance(rule, Session):
                continue
            row = told[link.table, link.column, "linked", position]
            assert (row["distances"] is None) == (not isinstance(rule, Proximity))
            if isinstance(rule, Proximity):
                inside = [
                    prove.distance
                    for (table, column, _), prove in by.items()
                    if (table, column, prove.rule) == (link.table, link.column, position) and prove.distance is not None
                ]
                check_distances(bench, row, rule.within, inside, judge.outside(link, position))


def is_drawn(link: Link, bench: Bench) -> Callable[[Row], bool]:
    """Say of a row whether the condition of the next test means it: a half of all, at random."""
    key = next(table.key for table in bench.case.world.tables if table.name == link.table)
    return lambda row: md5(str(row[key[-1]]).encode(), usedforsecurity=False).hexdigest() < "8"


@thoroughly
@given(seed=seeds, batch_size=st.sampled_from([1, 5000]))
def test_a_condition_limits_a_repair(bench: Bench, seed: int, batch_size: int) -> None:
    """Rows that do not meet it stay, and are not counted; the preview says the same."""
    random = Random(seed)
    judge = Dirt(bench.case, random).draw()
    load(bench.loader, bench.case, judge)
    link = random.choice(bench.case.world.links)
    is_meant = is_drawn(link, bench)
    key = next(table.key for table in bench.case.world.tables if table.name == link.table)[-1]
    table = '"' + link.table.replace('"', '""') + '"'
    condition = f"""md5("{key}"::text) < '8' COLLATE "C" -- a half"""
    before = bench.content()

    told = foretold(bench, table, link.column, condition)
    assert bench.content() == before
    done = repair(bench.owner, table, link_column=link.column, row_filter=condition, batch_size=batch_size)

    assert run_row(bench.owner, done.id)["row_filter"] == condition
    place = next(shape.links.index(link.column) for shape in bench.case.world.shapes if shape.table == link.table)
    after = bench.content()
    outside = {k for k, row in judge.rows(link.table).items() if not is_meant(row)}
    if not bench.case.guarded:
        judge.repair_some(link, is_meant)
        assert after == bench.expected(judge)
        assert done.total == judge.counts.linked + judge.counts.translated + judge.counts.unlinked + done.quarantined
        assert done.quarantined == judge.counts.quarantined
    for k in outside & set(after[link.table]):
        assert after[link.table][k][place] == before[link.table][k][place]
    real = [*rows(bench.owner, WRITTEN, done.id), *rows(bench.owner, TAKEN, done.id)]
    said = {k: row["amount"] for k, row in told.items() if not k[2].startswith(("left", "taken")) and row["amount"]}
    assert said == {tuple(row[:4]): row[4] for row in real}
    assert sum(row["amount"] for k, row in told.items() if k[2].startswith("left")) == done.remaining
    wrong = [
        row
        for row in rows_of(bench, link)
        if row[link.column] is None or not judge.masters(link, row[link.column], row)
    ]
    assert done.remaining == sum(is_meant(row) for row in wrong)


def rows_of(bench: Bench, link: Link) -> list[Row]:
    """Give the rows of a link as they are now: all columns."""
    shape = next(shape for shape in bench.case.world.shapes if shape.table == link.table)
    names = [*shape.key, *(name for name in shape.tenants if name not in shape.key), *shape.links]
    query = sql.SQL("SELECT {} FROM {}").format(identifier(*names), identifier(shape.table))
    return [dict(zip(names, row, strict=True)) for row in bench.owner.execute(query, ())]
