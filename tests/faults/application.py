"""An application that writes all the time and knows what it was told: tables as the report's, several writers at once.

Each transaction has a token, which it writes into every row that it writes and, at its end, into the table `journal`.
So a commit to which the server gave no answer any more can be looked up, and must be there as a whole or not at all. A
row is written by one writer only (but for what a deleted flow does to it), so that what it must hold is known exactly.
"""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from typing import Any, Literal, TypeAlias

import psycopg
from engine.postgres import Connection, rows, run

DDL = """
CREATE TABLE flow (id integer PRIMARY KEY, tenant integer NOT NULL, alias integer, token text NOT NULL,
                   created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE import (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer, token text NOT NULL);
CREATE TABLE record (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer, token text NOT NULL,
                     parent integer NOT NULL REFERENCES import ON DELETE CASCADE);
CREATE TABLE event (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer, token text NOT NULL,
                    at timestamptz NOT NULL);
CREATE TABLE asset (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer, token text NOT NULL,
                    at timestamptz NOT NULL);
CREATE TABLE journal (token text PRIMARY KEY);
"""
REGISTRATION = """
SELECT flowguard.add_master('flow', 'id', '{tenant}', alternate_keys => '{alias}');
SELECT flowguard.add_link(t, 'flow', on_master_delete => 'set null')
  FROM unnest('{import,record,event,asset}'::regclass[]) t;
SELECT flowguard.add_session_rule('import', 'flow');
SELECT flowguard.add_reference_rule('record', 'parent', 'import', source_link => 'flow', link_column => 'flow');
SELECT flowguard.add_proximity_rule('asset', 'event', '1 hour', 'at', 'at', 'flow', link_column => 'flow');
"""
TABLES = ("flow", "import", "record", "event", "asset")
LINKS = ("import", "record", "event", "asset")
TENANTS = (1, 2, 3)
WINDOW = 3600  # seconds
DAYS = 400 * 24 * 3600  # seconds over which times are spread
WRITERS = 4
PAUSE = 0.01  # seconds that a writer rests at most after a transaction
WAYS = {"commit": 85, "prepare": 9, "roll back": 6}  # how transactions end, of a hundred
ALIAS = 100_000_000  # what an alias is larger by than the key
NOWHERE = 900_000_000  # no key and no alias

Table: TypeAlias = Literal["flow", "import", "record", "event", "asset"]


class Fate(Enum):
    """What is known of a transaction."""

    COMMITTED = "acknowledged"
    GONE = "rolled back, refused, or cut off before its commit was sent"
    PREPARED = "prepared, and that was acknowledged"
    IN_DOUBT = "its end was sent, and no answer came"


@dataclass(frozen=True)
class Write:
    """A row as a transaction leaves it: columns that it sets; None for a row that it deletes."""

    table: Table
    id: int
    values: dict[str, Any] | None


@dataclass
class Transaction:
    """What one transaction writes, and what became of it."""

    token: str
    fate: Fate = Fate.GONE
    writes: list[Write] = field(default_factory=list)


@dataclass
class Row:
    """What writers say of a row."""

    values: dict[str, Any]
    links: set[int] = field(default_factory=set)
    """Every link that a writer gave it."""


@dataclass
class Facts:
    """What is committed for certain, as the writers know it."""

    rows: dict[str, dict[int, Row]] = field(default_factory=lambda: {table: {} for table in TABLES})
    deleted_flows: set[int] = field(default_factory=set)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    tokens: Iterator[int] = field(default_factory=lambda: count(1))
    problems: list[str] = field(default_factory=list)
    written: int = 0
    acknowledged: int = 0
    in_doubt: int = 0

    def learn(self, transaction: Transaction) -> None:
        """Take over what a committed transaction wrote."""
        for write in transaction.writes:
            known = self.rows[write.table]
            self.written += 1
            if write.values is None:
                del known[write.id]
                self.deleted_flows.add(write.id)
                continue
            row = known.setdefault(write.id, Row({}))
            row.values.update(write.values, token=transaction.token)
            if write.values.get("flow") is not None:
                row.links.add(write.values["flow"])


class Lost(Exception):
    """The server is gone."""


class Writer:
    """One session of the application, in a thread."""

    def __init__(self, facts: Facts, number: int, seed: str) -> None:
        self.facts = facts
        self.number = number
        self.random = random.Random(f"{seed}-{number}")
        self.mine: dict[str, list[int]] = defaultdict(list)
        for table in TABLES:
            self.mine[table] = [key for key in facts.rows[table] if key % WRITERS == number]
        self.flows = {t: [k for k, r in facts.rows["flow"].items() if r.values["tenant"] == t] for t in TENANTS}
        self.links = {
            (table, key): facts.rows[table][key].values.get("flow")
            for table in ("import", "event")
            for key in self.mine[table]
        }
        self.transactions: list[Transaction] = []
        self.now = Transaction("")
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.write, daemon=True)
        self.connection: Connection

    def start(self, dsn: str) -> None:
        self.connection = psycopg.connect(dsn, autocommit=True, application_name=f"writer {self.number}")
        self.thread.start()

    def write(self) -> None:
        """Write until it is over or the server is gone."""
        works: list[Callable[[], None]] = [
            *[self.flow] * 4,
            *[self.imports] * 5,
            *[self.master_last] * 3,
            *[self.link_late] * 8,
            *[self.link_anew] * 2,
            *[self.unlink, self.touch],
            *[self.happen] * 5,
            *[self.link_event] * 5,
            *[self.delete_flow] * 2,
            *[self.mistake] * 5,
        ]
        try:
            while not self.is_over.is_set():
                self.transact(self.random.choice(works))
                self.is_over.wait(self.random.uniform(0, PAUSE))
        except Lost:
            pass
        except Exception as error:  # noqa: BLE001  whatever it is, the thread must tell it
            self.facts.problems.append(f"writer {self.number}: {error!r}")
        finally:
            self.connection.close()

    def transact(self, work: Callable[[], None]) -> None:
        """Do some work in a transaction and end it in one way or another."""
        self.now = Transaction(f"t{next(self.facts.tokens)}")
        self.transactions.append(self.now)
        level = self.random.choice(["READ COMMITTED"] * 8 + ["REPEATABLE READ", "SERIALIZABLE"])
        way = self.random.choices([*WAYS], [*WAYS.values()])[0]
        try:
            run(self.connection, f"BEGIN ISOLATION LEVEL {level}")
            work()
            if not self.now.writes:
                way = "roll back"
            run(self.connection, "INSERT INTO journal VALUES (%s)", self.now.token)
            if way == "roll back":
                run(self.connection, "ROLLBACK")
                return
            if way == "prepare":
                # A prepared one is not in the journal's sight until it is committed, but the server lists it.
                self.now.fate = Fate.IN_DOUBT
                run(self.connection, f"PREPARE TRANSACTION '{self.now.token}'")
                self.now.fate = Fate.PREPARED
                self.is_over.wait(self.random.uniform(0, 0.03))
                run(self.connection, f"COMMIT PREPARED '{self.now.token}'")
            else:
                self.now.fate = Fate.IN_DOUBT
                run(self.connection, "COMMIT")
        except psycopg.Error as error:
            if self.connection.broken or self.connection.closed:
                raise Lost from error
            self.now.fate = Fate.GONE
            code = error.sqlstate or ""
            if code not in {"23503", "40001", "40P01", "55P03"} and not code.startswith("FG"):
                self.facts.problems.append(f"{self.now.token} was refused with {code}: {error}")
            if self.connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                self.give_up()
        else:
            self.now.fate = Fate.COMMITTED
            self.remember()

    def give_up(self) -> None:
        try:
            run(self.connection, "ROLLBACK")
        except psycopg.Error as error:
            raise Lost from error

    def remember(self) -> None:
        """Take part with what is committed from now on."""
        for write in self.now.writes:
            if write.values is None:
                self.mine[write.table].remove(write.id)
                continue
            if "tenant" in write.values:
                self.mine[write.table].append(write.id)
                if write.table == "flow":
                    self.flows[write.values["tenant"]].append(write.id)
            if "flow" in write.values:
                self.links[write.table, write.id] = write.values["flow"]

    # --- What it does

    def flow(self) -> None:
        self.new_flow(self.random.choice(TENANTS))

    def imports(self) -> None:
        """An import with records, mostly without a link; a third by the session's setting or with one."""
        tenant = self.random.choice(TENANTS)
        link = self.some_flow(tenant) if self.random.random() < 0.5 else None
        if link is not None and self.random.random() < 0.5:
            run(self.connection, "SELECT set_config('flowguard.master_flow_id', %s, true)", str(link))
            self.insert("import", tenant, by_session=True)
        else:
            self.insert("import", tenant, flow=link)
        self.records(tenant, self.now.writes[-1].id, self.random.randrange(1, 5))

    def master_last(self) -> None:
        """As the platform does it: children first, then their master, links at the very end."""
        tenant = self.random.choice(TENANTS)
        self.insert("import", tenant, flow=None)
        key = self.now.writes[-1].id
        self.records(tenant, key, 2)
        self.new_flow(tenant)
        self.update("import", key, flow=self.now.writes[-1].id)

    def link_late(self) -> None:
        self.link("import", is_linked=False)

    def link_anew(self) -> None:
        self.link("import", is_linked=True)

    def link_event(self) -> None:
        self.link("event", is_linked=False)

    def unlink(self) -> None:
        if (key := self.one_of("import", is_linked=True)) is not None:
            self.update("import", key, flow=None)

    def touch(self) -> None:
        for table in ("record", "asset", "import"):
            if self.mine[table]:
                self.update(table, self.random.choice(self.mine[table]))

    def happen(self) -> None:
        """An event, and assets near it and elsewhere."""
        tenant, at = self.random.choice(TENANTS), self.random.randrange(DAYS)
        self.insert("event", tenant, flow=self.some_flow(tenant) if self.random.random() < 0.7 else None, at=at)
        for _ in range(self.random.randrange(1, 4)):
            self.insert("asset", tenant, flow=None, at=at + self.random.randrange(-WINDOW - 900, WINDOW + 900))

    def delete_flow(self) -> None:
        if len(self.mine["flow"]) > 20:
            key = self.random.choice(self.mine["flow"])
            assert self.connection.execute("DELETE FROM flow WHERE id = %s", [key]).rowcount == 1
            self.now.writes.append(Write("flow", key, None))

    def mistake(self) -> None:
        """What the guard refuses, and what is there to repair where there is none: no key, or an alternate one."""
        tenant, at = self.random.choice(TENANTS), self.random.randrange(DAYS)
        flow = self.some_flow(tenant)
        link = NOWHERE + self.random.randrange(1000)
        if flow is not None and self.random.random() < 0.5:
            link = flow + ALIAS
        if self.random.random() < 0.5:
            self.insert("import", tenant, flow=link)
            self.records(tenant, self.now.writes[-1].id, 3)
        else:
            self.insert("event", tenant, flow=link, at=at)
            self.insert("asset", tenant, flow=self.random.choice([link, None]), at=at + 60)

    # --- Small steps

    def new_flow(self, tenant: int) -> None:
        self.insert("flow", tenant)

    def records(self, tenant: int, key: int, number: int) -> None:
        for _ in range(number):
            self.insert("record", tenant, flow=None, parent=key)

    def insert(self, table: Table, tenant: int, *, by_session: bool = False, **values: int | None) -> None:
        """Insert a row; `at` is in seconds. By the session's setting the link is what comes back."""
        key = next(self.facts.numbers) * WRITERS + self.number
        given = {"id": key, "tenant": tenant, "token": self.now.token, **values}
        if table == "flow":
            given["alias"] = key + ALIAS
        marks = ", ".join("to_timestamp(%s)" if name == "at" else "%s" for name in given)
        returning = "flow" if by_session else "1"
        found = rows(
            self.connection,
            f"INSERT INTO {table} ({', '.join(given)}) VALUES ({marks}) RETURNING {returning}",  # noqa: S608  ours
            *given.values(),
        )
        if by_session:
            values["flow"] = found[0][0]
        self.now.writes.append(Write(table, key, {"tenant": tenant, **values}))

    def link(self, table: Literal["import", "event"], *, is_linked: bool) -> None:
        key = self.one_of(table, is_linked=is_linked)
        if key is None:
            return
        tenant = self.connection.execute(f"SELECT tenant FROM {table} WHERE id = {key}".encode()).fetchone()  # noqa: S608
        flow = self.some_flow(tenant[0]) if tenant else None
        if flow is not None:
            self.update(table, key, flow=flow)

    def update(self, table: Table, key: int, **values: int | None) -> None:
        given = {"token": self.now.token, **values}
        sets = ", ".join(f"{name} = %s" for name in given)
        cursor = self.connection.execute(f"UPDATE {table} SET {sets} WHERE id = %s".encode(), [*given.values(), key])  # noqa: S608
        if cursor.rowcount == 1:  # else repair has taken it out
            self.now.writes.append(Write(table, key, values))

    def one_of(self, table: Literal["import", "event"], *, is_linked: bool) -> int | None:
        """Choose one of the rows of this writer by the link that it gave them."""
        for key in self.random.choices(self.mine[table], k=20) if self.mine[table] else ():
            if (self.links.get((table, key)) is not None) == is_linked:
                return key
        return None

    def some_flow(self, tenant: int) -> int | None:
        """Choose a flow that this writer knows; another may have deleted it."""
        return self.random.choice(self.flows[tenant]) if self.flows[tenant] else None
