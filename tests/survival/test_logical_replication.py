"""Logical replication: rows arrive as they were written, nothing is refused or linked a second time over there."""

# ruff: noqa: S608  numbers of the tests' own

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from itertools import count

import psycopg
import pytest
from acceptance.command import Run
from engine import tables
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import TABLES, link
from psycopg import sql
from survival.servers import Running

from pyflowguard import changes

_numbers = count(1)


@dataclass
class Pair:
    """The small application twice: as it is published, and as it is subscribed to."""

    publisher: Connection
    subscriber: Connection
    admin: Connection
    """The superuser, at the publisher."""
    name: str
    applier: Connection
    """The superuser, at the subscriber."""

    def arrive(self) -> None:
        """Wait until the subscriber has all that was committed."""
        written = one(self.admin, "SELECT pg_current_wal_lsn()::text")
        reached = "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
        deadline = time.monotonic() + 30
        while not one(self.admin, reached, written, self.name):
            assert time.monotonic() < deadline, rows(self.admin, "TABLE pg_replication_slots")
            time.sleep(0.02)

    def same(self) -> None:
        """Wait, and check that the subscriber has the very rows."""
        self.arrive()
        for table in TABLES:
            query = f"SELECT * FROM {table} ORDER BY id"
            assert rows(self.subscriber, query) == rows(self.publisher, query), table


@pytest.fixture(scope="module")
def application(primary: Running) -> Callable[[str], str]:
    """Give the name of a database of the primary with the small application, guarded in a mode."""

    @cache
    def make(mode: str) -> str:
        with psycopg.connect(primary.dsn(), autocommit=True) as admin:
            admin.execute(sql.SQL("CREATE DATABASE {} OWNER app_owner").format(sql.Identifier(mode)))
        changes.deploy(primary.dsn(mode, "app_owner"))
        with psycopg.connect(primary.dsn(mode, "app_owner"), autocommit=True) as connection:
            tables.guarded(connection, mode=mode)
        return mode

    return make


@pytest.fixture
def pair(primary: Running, application: Callable[[str], str]) -> Iterator[Callable[..., Pair]]:
    """Make a pair, each guarded in a mode of its own; `omitted` is not published."""
    with ExitStack() as stack:

        def copy(name: str, mode: str) -> Connection:
            admin = stack.enter_context(psycopg.connect(primary.dsn(), autocommit=True))
            named = sql.Identifier(name)
            template = sql.Identifier(application(mode))
            admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER app_owner").format(named, template))
            stack.callback(admin.execute, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(named))
            return stack.enter_context(psycopg.connect(primary.dsn(name, "app_owner"), autocommit=True))

        def make(publisher: str, subscriber: str, *, omitted: str = "", before: str = "") -> Pair:
            name = f"pair_{next(_numbers)}"
            source, target = copy(f"{name}_pub", publisher), copy(f"{name}_sub", subscriber)
            run(target, "TRUNCATE flow CASCADE")
            if before:
                run(source, before)
            published = ", ".join(table for table in TABLES if table != omitted)
            at_publisher = stack.enter_context(psycopg.connect(primary.dsn(f"{name}_pub"), autocommit=True))
            run(at_publisher, f"CREATE PUBLICATION {name} FOR TABLE {published}")
            # Publisher and subscriber are of one server, so the slot must be there before.
            one(at_publisher, "SELECT slot_name FROM pg_create_logical_replication_slot(%s, 'pgoutput')", name)
            at_subscriber = stack.enter_context(psycopg.connect(primary.dsn(f"{name}_sub"), autocommit=True))
            run(
                at_subscriber,
                f"CREATE SUBSCRIPTION {name} CONNECTION '{primary.dsn(f'{name}_pub')}' "
                f"PUBLICATION {name} WITH (create_slot = false)",
            )
            stack.callback(run, at_subscriber, f"DROP SUBSCRIPTION IF EXISTS {name}")
            deadline = time.monotonic() + 30
            while rows(at_subscriber, "SELECT FROM pg_subscription_rel WHERE srsubstate <> 'r'"):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            return Pair(source, target, at_publisher, name, at_subscriber)

        yield make


WRITTEN = """
INSERT INTO grandchild (id, tenant) VALUES (30, 1);
INSERT INTO probe VALUES (60, 1, NULL, '2025-01-01 10:00+00');
INSERT INTO parent (id, tenant, flow) VALUES (10, 1, NULL), (11, 1, 3), (12, 1, 5);
INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 1, 11), (22, 1, 12);
UPDATE grandchild SET child = 20;
INSERT INTO event VALUES (50, 1, 2, 'live', '2025-01-01 10:10+00');
INSERT INTO flow VALUES (4, 1), (5, 1);
UPDATE parent SET flow = 4 WHERE id = 10;
"""
"""One transaction: children before their parent's link, links before their master, a row before its source in time."""

AUDIT = """
CREATE TABLE audit (what text, id integer, flow integer);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO public.audit (what, id, flow) VALUES (TG_OP, NEW.id, NEW.flow);
  RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE ON child FOR EACH ROW EXECUTE FUNCTION note();
ALTER TABLE child ENABLE REPLICA TRIGGER note;
"""
"""Notes what is done to a child where changes are applied."""

TRIGGERS = """
SELECT tgname, tgenabled::text FROM pg_trigger WHERE tgname LIKE '~flowguard%'
"""


PAST_GUARD = """
SELECT level, relation, amount, description, cache_key FROM flowguard.doctor() WHERE name = 'rows_past_guard' ORDER BY 2
"""


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_rows_arrive_as_they_were_written(pair: Callable[..., Pair], mode: str) -> None:
    """In the initial copy and afterwards."""
    both = pair(mode, mode, before="INSERT INTO parent VALUES (1, 1, 1); INSERT INTO child VALUES (2, 1, NULL, '', 1)")
    both.same()
    run(both.publisher, WRITTEN)
    both.same()
    assert rows(both.subscriber, "SELECT id, flow FROM child ORDER BY id") == [(2, 1), (20, 4), (21, 3), (22, 5)]
    assert (link(both.subscriber, "grandchild", 30), link(both.subscriber, "probe", 60)) == (4, 2)
    assert rows(both.subscriber, "SELECT relation FROM flowguard.link_status WHERE linked < total") == []
    assert {enabled for _, enabled in rows(both.subscriber, TRIGGERS)} == {"O"}
    assert rows(both.subscriber, PAST_GUARD) == []


def test_a_late_link_arrives_once(pair: Callable[..., Pair]) -> None:
    """The children's updates are sent like any other; what lets children follow does not run where they are applied."""
    both = pair("observe", "observe")
    run(both.subscriber, AUDIT)
    run(both.publisher, "INSERT INTO parent VALUES (10, 1)")
    run(both.publisher, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 1, 10)")
    run(both.publisher, "UPDATE parent SET flow = 1")
    run(both.publisher, "UPDATE parent SET flow = 2")
    both.same()
    assert rows(both.subscriber, "SELECT * FROM audit ORDER BY id, what, flow") == [
        (what, child, flow) for child in (20, 21) for what, flow in (("INSERT", None), ("UPDATE", 1), ("UPDATE", 2))
    ]


def test_what_the_subscriber_would_refuse_arrives_and_is_counted(pair: Callable[..., Pair]) -> None:
    """Its master is not published, and it enforces what the publisher observes: keys there are no proof."""
    both = pair("observe", "enforce", omitted="flow")
    run(both.publisher, "INSERT INTO parent VALUES (10, 1, 1), (11, 1, NULL)")
    run(both.publisher, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 1, 11)")
    both.arrive()
    assert rows(both.subscriber, "SELECT id, flow FROM parent ORDER BY id") == [(10, 1), (11, None)]
    assert rows(
        both.subscriber,
        "SELECT relation::text, total, linked, unlinked, dangling, validated FROM flowguard.link_status "
        "WHERE total > 0 ORDER BY 1",
    ) == [("child", 2, 0, 1, 1, True), ("parent", 2, 0, 1, 1, True)]
    found = rows(
        both.subscriber, "SELECT name, relation FROM flowguard.check_all() WHERE level = 'ERROR' ORDER BY 1, 2"
    )
    assert found == [
        (f"{kind}", table)
        for kind in ("dangling_links", "unlinked_rows")
        for table in ("public.child", "public.parent")
    ]
    assert rows(both.subscriber, PAST_GUARD) == [
        (
            "ERROR",
            f"public.{table}",
            2,
            "2 of 2 rows are what the guard refuses",
            f"rows_past_guard:public.{table}:flow",
        )
        for table in ("child", "parent")
    ]
    assert rows(both.publisher, PAST_GUARD) == []
    # Whoever writes there itself is guarded as ever.
    with refused("FG001"):
        run(both.subscriber, "INSERT INTO child (id, tenant) VALUES (99, 1)")
    with refused("23503"):
        run(both.subscriber, "INSERT INTO child (id, tenant, flow) VALUES (99, 1, 77)")


def test_what_cannot_be_counted_is_told(pair: Callable[..., Pair]) -> None:
    """Row security that holds for the owner as well hides rows from the doctor, who does not fail of it."""
    both = pair("observe", "observe", omitted="flow")
    run(both.publisher, "INSERT INTO parent VALUES (10, 1, 1), (11, 1, NULL)")
    both.arrive()
    assert [found[:3] for found in rows(both.subscriber, PAST_GUARD)] == [("ERROR", "public.parent", 1)]
    run(both.subscriber, "ALTER TABLE parent ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    found = rows(both.subscriber, PAST_GUARD)
    # The children refer to parents, so they are not counted either.
    assert [(level, table, amount) for level, table, amount, _, _ in found] == [
        ("WARN", f"public.{table}", None) for table in ("child", "parent")
    ]
    assert all("row-level security" in description for _, _, _, description, _ in found)
    with refused("42501"):
        one(both.subscriber, "SELECT count(*) FROM flowguard.check_all()")
    run(both.subscriber, "ALTER TABLE parent NO FORCE ROW LEVEL SECURITY")
    assert [found[:3] for found in rows(both.subscriber, PAST_GUARD)] == [("ERROR", "public.parent", 1)]


ROWS = 10_000
"""More than are counted where nothing is to take long."""
KEY = "flowguard_parent_flow_tenant_fkey"
Told = tuple[str, int, "int | None", list[str]]


@pytest.fixture
def told(command: Run) -> Callable[..., Told]:
    """Give what `pyflowguard health` says: the score, and of the parents how many, how many dangle and why not."""

    def read(connection: Connection, *arguments: str) -> Told:
        result = command("health", "--json", *arguments, "--dsn", connection.info.dsn)
        assert result.returncode == 0, result.stderr
        health = json.loads(result.stdout)
        [parent] = [each for each in health["links"] if each["relation"] in ("parent", "public.parent")]
        return str(health["score"]), parent["total"], parent["dangling"], parent.get("unproved", [])

    return read


@pytest.fixture
def arrived(pair: Callable[..., Pair]) -> Pair:
    """Give a pair whose subscriber got parents, too many to be counted, and no master: each dangles."""
    parents = f"INSERT INTO parent SELECT n, 1, 1 FROM generate_series(1, {ROWS}) n"
    both: Pair = pair("observe", "enforce", omitted="flow", before=parents)
    both.arrive()
    run(both.subscriber, "ANALYZE parent")
    return both


def test_keys_prove_nothing_of_what_a_subscription_writes(
    arrived: Pair, told: Callable[..., Told], command: Run
) -> None:
    """Nobody says that no row dangles but who counts."""
    there = arrived.subscriber
    assert told(there) == (
        "99.9",
        ROWS,
        None,
        [
            f"{figure}: foreign key {KEY} is not checked for what a subscription writes to public.parent"
            for figure in ("dangling", "mismatched")
        ],
    )
    assert told(there, "--exact") == ("92.0", ROWS, ROWS, [])
    assert "health score 99.9 of 100, estimated" in command("snapshot", "--dsn", there.info.dsn).stdout
    assert rows(there, "SELECT linked, dangling FROM flowguard.link_history WHERE table_name = 'parent'") == [
        (None, None)
    ]
    checked = command("check", "--dsn", there.info.dsn)
    assert (checked.returncode, f"{ROWS} of {ROWS} rows point to no master" in checked.stdout) == (1, True)
    # It is the subscriber alone whose keys are no proof.
    run(arrived.publisher, "ANALYZE parent")
    assert told(arrived.publisher) == ("100.0", ROWS, 0, [])


def test_keys_prove_nothing_where_the_master_is_written_by_a_subscription(
    pair: Callable[..., Pair], told: Callable[..., Told]
) -> None:
    """A master that is deleted where it is published is deleted here, whatever links to it."""
    both = pair("observe", "observe", omitted="parent")
    run(both.publisher, "INSERT INTO flow VALUES (8, 1)")
    both.arrive()
    run(both.subscriber, f"INSERT INTO parent SELECT n, 1, 8 FROM generate_series(1, {ROWS}) n; ANALYZE parent")
    run(both.publisher, "DELETE FROM flow WHERE id = 8")
    both.arrive()
    score, _, dangling, [why, *_] = told(both.subscriber)
    assert (score, dangling) == ("99.9", None)
    assert why == f"dangling: foreign key {KEY} is not checked for what a subscription writes to public.flow"
    assert told(both.subscriber, "--exact")[2] == ROWS


def test_once_the_subscription_is_gone_a_key_is_believed_and_may_be_made_anew(
    arrived: Pair, told: Callable[..., Told], command: Run
) -> None:
    """What came meanwhile is not known to the key; whoever drops it and guards again has all rows looked at."""
    there = arrived.subscriber
    run(arrived.applier, f"DROP SUBSCRIPTION {arrived.name}")
    assert told(there) == ("100.0", ROWS, 0, [])
    assert told(there, "--exact")[2] == ROWS
    guard = ("guard", "public.parent", "--link-column", "flow", "--dsn", there.info.dsn)
    run(there, f"ALTER TABLE parent DROP CONSTRAINT {KEY}")
    assert "a key stays NOT VALID, for present rows violate it" in command(*guard).stdout.replace("\n", " ")
    _, _, dangling, [why, *_] = told(there)
    assert (dangling, why) == (None, f"dangling: foreign key {KEY} is not validated")
    run(there, "INSERT INTO flow VALUES (1, 1)")
    assert command(*guard).returncode == 0
    assert told(there) == told(there, "--exact") == ("100.0", ROWS, 0, [])


@pytest.mark.parametrize("enabled", ["ALWAYS", "REPLICA"])
def test_a_guard_that_would_fire_while_changes_are_applied_is_found(pair: Callable[..., Pair], enabled: str) -> None:
    both = pair("observe", "observe")
    run(both.subscriber, f'ALTER TABLE child ENABLE {enabled} TRIGGER "~flowguard_child_flow_insert"')
    found = rows(both.subscriber, "SELECT name, relation, remedy FROM flowguard.check_all()")
    assert found == [("guard_incomplete", "public.child", "SELECT flowguard.guard('public.child', 'flow')")]
    run(both.subscriber, found[0][2])
    assert {state for _, state in rows(both.subscriber, TRIGGERS)} == {"O"}
    run(both.publisher, WRITTEN)
    both.same()
