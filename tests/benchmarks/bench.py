"""Measures what the guard costs, as ratios to the same writes with the link supplied by the client.

`make bench` runs it. Every figure is a median over rounds in which the contestants take turns in random order, each in
a copy of one database: the same tables, rows, keys and indexes. The limit is that copy without our triggers, given the
right link. What a contestant wrote is compared with the right links before its time counts.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import click
import psycopg
from changesets import deploy_profile_last
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from rich.console import Console

from pyflowguard.database import connect, run_script
from pyflowguard.plan import changeset_directory
from pyflowguard.present import new_console, new_table
from pyflowguard.server import Server, throwaway_server, wheel_bindir

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]
Step: TypeAlias = Callable[[Connection], None]

PROFILE = ("assets", "import_field_mappings", "discovery_flows", "raw_import_records", "data_imports")
SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "max_locks_per_transaction": "256",
}
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
DURABLE = ("fsync", "full_page_writes", "synchronous_commit")

NARROW = """
SELECT flowguard.add_master('benchmark.master', 'id', '{tenant}', created_at_column => NULL);
SELECT flowguard.add_link(t, master => 'benchmark.master')
  FROM unnest('{benchmark.source,benchmark.by_reference,benchmark.by_time}'::regclass[]) AS t;
SELECT flowguard.add_reference_rule('benchmark.by_reference', 'source_id', 'benchmark.source');
SELECT flowguard.add_proximity_rule('benchmark.by_time', 'benchmark.source');
SELECT flowguard.guard(t) FROM unnest('{benchmark.source,benchmark.by_reference,benchmark.by_time}'::regclass[]) AS t;
"""


@dataclass(frozen=True)
class Size:
    """How much is written, and how often."""

    rows: int
    rounds: int
    singles: int
    tenants: int = 10
    sources: int = 1000
    late: int = 0  # children of one source that gets its link; 0: as many as rows
    repaired: int = 0  # rows that a repair links; 0: half of rows
    growth: tuple[tuple[int, int], ...] = ((1, 10**3), (1, 10**4), (1, 10**5), (1, 10**6), (10, 10**3), (10**2, 10**3),
                                           (10**3, 10**2), (10**4, 10))  # fmt: skip


FULL = Size(rows=100_000, rounds=5, singles=400)
QUICK = Size(rows=300, rounds=1, singles=20, tenants=3, sources=50, growth=((2, 20),))
"""Shows that the benchmark runs; its figures mean nothing."""


@dataclass(frozen=True)
class Contestant:
    """Who writes, in which copy of the database, how, and what undoes it before the next round."""

    name: str
    database: str
    work: Step
    reset: Step
    check: Step = lambda _connection: None


@dataclass(frozen=True)
class Case:
    """A question: contestants, of whom the first is the limit, and what the guard may cost at most."""

    title: str
    contestants: Sequence[Contestant]
    budget: float | None = None


@dataclass(frozen=True)
class Answer:
    """What came out: seconds of each contestant, of which the first is the limit."""

    title: str
    budget: float | None
    seconds: dict[str, float]

    def ratio(self, name: str) -> float | None:
        """Give a contestant's time as a multiple of the limit's."""
        limit = next(iter(self.seconds.values()))
        return self.seconds[name] / limit if name in self.seconds else None

    @property
    def is_missed(self) -> bool:
        """Whether the guard took longer than it may."""
        ratio = self.ratio(GUARD)
        return self.budget is not None and ratio is not None and round(ratio, 2) > self.budget


LIMIT, GUARD, GENERIC, STATEMENT, CLIENT, SCRIPT = (
    "limit",
    "guard",
    "generic trigger",
    "statement trigger",
    "client looks up",
    "report's script",
)
KEPT = "provenance kept"
ALONE = ", by itself"
IDLE = "idle trigger"
IDLE_TRIGGERS = """
SELECT benchmark.drop_guard_triggers();
CREATE FUNCTION benchmark.idle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER idle BEFORE UPDATE ON migration.data_imports
  FOR EACH ROW WHEN (false) EXECUTE FUNCTION benchmark.idle();
CREATE TRIGGER idle BEFORE UPDATE ON migration.discovery_flows
  FOR EACH ROW WHEN (false) EXECUTE FUNCTION benchmark.idle();
"""
COPIES = {
    LIMIT: "SELECT benchmark.drop_guard_triggers()",
    GUARD: "",
    GENERIC: "SELECT benchmark.use_generic_triggers()",
    STATEMENT: "SELECT benchmark.use_statement_triggers()",
    IDLE: IDLE_TRIGGERS,
    KEPT: "SELECT flowguard.keep_provenance('migration.assets'); SELECT flowguard.guard('migration.assets')",
}


@dataclass
class Laboratory:
    """A server with a copy of the database for each contestant, and a connection to each that stays open."""

    server: Server
    size: Size
    clock: Callable[[Connection], float]
    stack: ExitStack
    connections: dict[str, Connection] = field(default_factory=dict)

    def dsn(self, name: str, *, tcp: bool = False) -> str:
        """Give the connection string of a database: over loopback TCP, or by the socket."""
        return self.server.dsn(name, tcp=tcp)

    def open(self, name: str) -> Connection:
        """Connect to a contestant's database, once."""
        if name not in self.connections:
            self.connections[name] = self.stack.enter_context(psycopg.connect(self.dsn(name), autocommit=True))
        return self.connections[name]

    def close(self) -> None:
        """Close all connections, so that databases can be copied and dropped."""
        for connection in self.connections.values():
            connection.close()
        self.connections.clear()

    def set_durable(self, *, durable: bool) -> None:
        """Let commits wait for the disk, as they do in production, or not, to measure the work alone."""
        with psycopg.connect(self.server.dsn(), autocommit=True) as admin:
            for name in DURABLE:
                value = "on" if durable else "off"
                admin.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), value))
            admin.execute("SELECT pg_reload_conf()")


def cpu_time(connection: Connection) -> float:
    """Give the seconds that the connection's server process has worked: what others do on the machine counts less."""
    return int(Path(f"/proc/{connection.info.backend_pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9


def wall_time(_connection: Connection) -> float:
    """Give the seconds that have passed."""
    return time.perf_counter()


CLOCKS = {"cpu": cpu_time, "wall": wall_time}


@contextmanager
def laboratory(bindir: Path, size: Size, clock: Callable[[Connection], float] = cpu_time) -> Iterator[Laboratory]:
    """Start a server of these binaries."""
    with throwaway_server(bindir=bindir, settings=SETTINGS, fsync=True) as server, ExitStack() as stack:
        lab = Laboratory(server, size, clock, stack)
        lab.set_durable(durable=False)
        yield lab
        lab.close()


def build(lab: Laboratory, name: str, tenants: int, sources: int, rows: int, *, narrow: bool) -> None:
    """Make a database with the report's tables, filled and guarded."""
    with psycopg.connect(lab.dsn("postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    dsn = make_conninfo(lab.dsn(name), options="-c search_path=migration,public")
    directory = changeset_directory() / "sql"
    with connect(dsn) as connection:
        run_script(connection, directory / "report" / "schema.sql", action="loading the report's tables")
        run_script(connection, directory / "benchmark" / "load.sql", action="loading the benchmark")
        connection.execute("SELECT benchmark.load_sources(%s, %s)", (tenants, sources))
        connection.execute("SELECT benchmark.load_rows(%s, %s, %s)", (tenants, sources, rows))
        deploy_profile_last(dsn, "report/links")
        for table in PROFILE:
            connection.execute("SELECT count(*) FROM flowguard.guard(%s)", (table,))
        if narrow:
            connection.execute("SELECT benchmark.load_narrow()")
            connection.execute(NARROW)
        connection.execute("CREATE SCHEMA report")  # its tables hold the truth of another load
        connection.execute("SET check_function_bodies = off")
        run_script(connection, directory / "report" / "report_scripts.sql", action="loading the report's scripts")
        run_script(connection, directory / "benchmark" / "contestants.sql", action="loading the contestants")
        connection.execute("VACUUM (FREEZE, ANALYZE)")


def copy(lab: Laboratory, source: str, target: str, prepare: str) -> None:
    """Copy a database and put its contestant's triggers in place."""
    with psycopg.connect(lab.dsn("postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(target), sql.Identifier(source)))
    if prepare:
        with psycopg.connect(lab.dsn(target), autocommit=True) as connection:
            connection.execute(prepare.encode())


def drop(lab: Laboratory, *names: str) -> None:
    """Drop databases."""
    lab.close()
    with psycopg.connect(lab.dsn("postgres"), autocommit=True) as admin:
        for name in names:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))


def statements(*texts: str) -> Step:
    """Send one text after the other, each by itself."""

    def run(connection: Connection) -> None:
        for text in texts:
            connection.execute(text.encode())

    return run


def transaction(*texts: str) -> Step:
    """Send one transaction as one message; its deferred checks and its commit are part of it."""
    return statements(";".join(("BEGIN", *texts, "COMMIT")))


# --- In bulk


def insert(table: str, rows: str, columns: str, link: str, extra: dict[str, str] | None = None) -> str:
    """Word the insert of all rows of a load with the link supplied, or with NULL in its place."""
    names = [name.strip() for name in columns.split(",")]
    extra = extra or {}
    return (
        f"INSERT INTO {table} ({', '.join([*names, 'master_flow_id', *extra])}) "  # noqa: S608 - our own names
        f"SELECT {', '.join([*names, link, *extra.values()])} FROM {rows}"
    )


def all_right(table: str, rows: str) -> Step:
    """Check that every row has the link that is right."""

    def check(connection: Connection) -> None:
        found = connection.execute(
            f"SELECT count(*), count(*) FILTER (WHERE t.master_flow_id = r.master_flow_id) "  # noqa: S608
            f"FROM {rows} r LEFT JOIN {table} t USING (id)".encode()
        ).fetchone()
        assert found is not None
        if found[0] != found[1]:
            raise click.ClickException(f"{table}: only {found[1]} of {found[0]} rows have the right link")

    return check


TENANT = "id, client_account_id, engagement_id"


def insert_cases(_lab: Laboratory) -> Iterator[Case]:
    """Inserts of many rows in one statement."""
    loads = [
        ("reference", "migration.raw_import_records", "benchmark.raw_import_records",
         f"{TENANT}, data_import_id, row_number, raw_data", {}, 1.7, True),
        ("reference, mappings", "migration.import_field_mappings", "benchmark.import_field_mappings",
         f"{TENANT}, data_import_id, source_field, target_field", {}, 1.7, True),
        ("proximity, rows of the past", "migration.assets", "benchmark.assets_of_the_past",
         f"{TENANT}, name, asset_type, hostname, created_at", {}, 2.5, True),
        ("proximity, rows of the present", "migration.assets", "benchmark.assets_of_the_present",
         f"{TENANT}, name, asset_type, hostname", {"created_at": "now()"}, 2.5, True),
        ("reference, narrow table", "benchmark.by_reference", "benchmark.rows_by_reference",
         "id, tenant, source_id", {}, None, False),
        ("proximity, narrow table", "benchmark.by_time", "benchmark.rows_by_time",
         "id, tenant, created_at", {}, None, False),
    ]  # fmt: skip
    for title, table, rows, columns, extra, budget, by_hand in loads:
        supplied = transaction(insert(table, rows, columns, "master_flow_id", extra))
        missing = transaction(insert(table, rows, columns, "NULL", extra))
        clear, right = statements(f"TRUNCATE {table} CASCADE"), all_right(table, rows)
        limit = Contestant(LIMIT, LIMIT, supplied, clear, right)
        yield Case(f"supplied: {title}", [limit, Contestant(GUARD, GUARD, supplied, clear, right)], 1.05)
        others = [Contestant(name, name, missing, clear, right) for name in (GENERIC, STATEMENT) if by_hand]
        yield Case(title, [limit, Contestant(GUARD, GUARD, missing, clear, right), *others], budget)
        if title == "proximity, rows of the past":
            clear = statements(f"TRUNCATE {table} CASCADE", "TRUNCATE flowguard.provenance")
            yield Case(f"{title}, {KEPT}", [limit, Contestant(GUARD, KEPT, missing, clear, right)])

    table, rows = "migration.assets", "benchmark.assets_of_a_session"
    columns = f"{TENANT}, name, asset_type, hostname, created_at"
    setting = "SELECT set_config('flowguard.master_flow_id', benchmark.key('master', 1, 1)::text, true)"
    clear, right = statements(f"TRUNCATE {table}"), all_right(table, rows)
    yield Case(
        "session",
        [
            Contestant(LIMIT, LIMIT, transaction(insert(table, rows, columns, "master_flow_id")), clear, right),
            Contestant(GUARD, GUARD, transaction(setting, insert(table, rows, columns, "NULL")), clear, right),
        ],
    )
    # A row that others find by time: each is looked at for rows that waited for it.
    table, rows = "migration.data_imports", "benchmark.data_imports"
    work = transaction(insert(table, rows, f"{TENANT}, import_name, import_type", "master_flow_id"))
    clear = statements(f"DELETE FROM {table} t USING {rows} r WHERE r.id = t.id", f"VACUUM {table}")  # noqa: S608
    yield Case("insert of a source in time", [Contestant(name, name, work, clear) for name in (LIMIT, GUARD)])


LATE = """
INSERT INTO migration.client_accounts (id, name, slug) VALUES (benchmark.key('client', 0), 'late', 'late');
INSERT INTO migration.engagements (id, client_account_id, name, slug)
VALUES (benchmark.key('engagement', 0), benchmark.key('client', 0), 'late', 'late');
INSERT INTO migration.crewai_flow_state_extensions (flow_id, client_account_id, engagement_id, flow_type)
VALUES (benchmark.key('master', 0), benchmark.key('client', 0), benchmark.key('engagement', 0), 'discovery');
INSERT INTO migration.data_imports (id, client_account_id, engagement_id, import_name, import_type, created_at)
VALUES (benchmark.key('import', 0), benchmark.key('client', 0), benchmark.key('engagement', 0), 'late', 'csv',
        '2001-01-01');
INSERT INTO migration.discovery_flows (id, flow_id, client_account_id, engagement_id, flow_name, created_at)
VALUES (benchmark.key('flow', 0), benchmark.key('flow', 0, 1), benchmark.key('client', 0),
        benchmark.key('engagement', 0), 'late', '2002-01-01');
INSERT INTO migration.raw_import_records (data_import_id, client_account_id, engagement_id, row_number, raw_data)
SELECT benchmark.key('import', 0), benchmark.key('client', 0), benchmark.key('engagement', 0), n, '{"hostname": "h"}'
  FROM generate_series(1, #) AS n;
INSERT INTO migration.assets (client_account_id, engagement_id, name, asset_type, created_at)
SELECT benchmark.key('client', 0), benchmark.key('engagement', 0), 'late ' || n, 'server',
       timestamptz '2002-01-01' + n % 3600 * interval '1 second'
  FROM generate_series(1, #) AS n;
"""


SOURCE_UPDATES = (
    ("update of a source of references", "migration.data_imports", "error_message"),
    ("update of a source in time", "migration.discovery_flows", "current_phase"),
)


def nobody_left(title: str, table: str, left: str) -> Step:
    """Check that no row is left without its link, which `left` says."""

    def check(connection: Connection) -> None:
        found = connection.execute(f"SELECT count(*) FROM {table} WHERE {left}".encode())  # noqa: S608
        if found.fetchone() != (0,):
            raise click.ClickException(f"{title}, {connection.info.dbname}: rows of {table} have no link")

    return check


def late_cases(lab: Laboratory) -> Iterator[Case]:
    """A source gets its link after its children; an update of a source that concerns no child."""
    children = lab.size.late or lab.size.rows
    for name in (LIMIT, GUARD):
        with psycopg.connect(lab.dsn(name), autocommit=True) as connection:
            connection.execute(LATE.replace("#", str(children)).encode())
            connection.execute("VACUUM ANALYZE migration.raw_import_records, migration.assets")

    for title, source, key, table, which in (
        ("late link by reference", "migration.data_imports", "import", "migration.raw_import_records",
         "data_import_id = benchmark.key('import', 0)"),
        ("late link by time", "migration.discovery_flows", "flow", "migration.assets",
         ("client_account_id = benchmark.key('client', 0) AND engagement_id = benchmark.key('engagement', 0) "
          "AND created_at BETWEEN '2001-12-31 23:00' AND '2002-01-01 01:00'")),
    ):  # fmt: skip
        link = f"UPDATE {source} SET master_flow_id = %s WHERE id = benchmark.key('{key}', 0)"  # noqa: S608
        children_link = f"UPDATE {table} SET master_flow_id = %s WHERE {which}"  # noqa: S608
        master = "benchmark.key('master', 0)"
        undo = statements(link % "NULL", children_link % "NULL", f"VACUUM {table}", f"VACUUM {source}")
        check = nobody_left(
            title, table, "client_account_id = benchmark.key('client', 0) AND "
            "master_flow_id IS DISTINCT FROM benchmark.key('master', 0)"
        )  # fmt: skip
        yield Case(
            title,
            [
                Contestant(LIMIT, LIMIT, transaction(link % master, children_link % master), undo, check),
                Contestant(GUARD, GUARD, transaction(link % master), undo, check),
            ],
            2.0,
        )
    yield from update_cases(lab)


def update_cases(lab: Laboratory) -> Iterator[Case]:
    """All sources are updated, which concerns no child: as they fill their pages, and where each page has room.

    For any BEFORE UPDATE trigger, PostgreSQL locks each row first. How much of the guard's price that is, a copy tells
    that has a trigger which never runs instead. Tables are written anew, so that they lie alike in all copies.
    """
    for title, table, column in SOURCE_UPDATES:
        # Cheap, and short where sources are few: so often that it can be measured.
        work = statements(*[f"UPDATE {table} SET {column} = '{number}'" for number in range(5)])  # noqa: S608
        reset = statements(f"VACUUM {table}")
        for where, fillfactor, budget in (("", 100, 1.05), (", in its page", 50, None)):
            for one, others, most in ((GUARD, "", budget), (IDLE, f", {IDLE} instead", None)):
                lay_out = statements(f"ALTER TABLE {table} SET (fillfactor = {fillfactor})", f"VACUUM FULL {table}")
                for name in (LIMIT, one):
                    lay_out(lab.open(name))
                contestants = [Contestant(LIMIT, LIMIT, work, reset), Contestant(GUARD, one, work, reset)]
                yield Case(f"{title}{where}{others}", contestants, most)
        for name in (LIMIT, GUARD):
            statements(f"ALTER TABLE {table} RESET (fillfactor)", f"VACUUM FULL {table}")(lab.open(name))


def repair_cases(lab: Laboratory) -> Iterator[Case]:
    """Rows that are there already are linked: by one ideal UPDATE, by repair, and by the report's script."""
    for title, table, rows, columns, extra, budget, script in (
        ("repair by reference", "migration.import_field_mappings", "benchmark.import_field_mappings",
         f"{TENANT}, data_import_id, source_field, target_field", {}, 2.0, "SELECT report.link_mappings()"),
        ("repair by time", "migration.assets", "benchmark.assets_of_the_past",
         f"{TENANT}, name, asset_type, hostname, created_at", {}, 2.5, None),
    ):  # fmt: skip
        some = f"(SELECT * FROM {rows} ORDER BY id LIMIT {lab.size.repaired or lab.size.rows // 2}) r"  # noqa: S608
        precomputed = f"benchmark.links_of_{table.partition('.')[2]}"
        reset = statements(
            f"TRUNCATE {table} CASCADE",
            "TRUNCATE flowguard.repair_change",
            "SET session_replication_role = replica",
            insert(table, some, columns, "NULL", extra),
            "RESET session_replication_role",
            f"DROP TABLE IF EXISTS {precomputed}",
            f"CREATE TABLE {precomputed} AS SELECT id, master_flow_id FROM {some}",  # noqa: S608
            f"VACUUM ANALYZE {table}",
            f"ANALYZE {precomputed}",
        )
        ideal = f"UPDATE {table} t SET master_flow_id = p.master_flow_id FROM {precomputed} p WHERE p.id = t.id"  # noqa: S608
        check = all_right(table, precomputed)
        contestants = [
            Contestant(LIMIT, LIMIT, transaction(ideal), reset, check),
            Contestant(GUARD, GUARD, statements(f"CALL flowguard.repair('{table}')"), reset, check),
        ]
        if script is not None:
            contestants.append(Contestant(SCRIPT, LIMIT, statements(script), reset, check))
        yield Case(title, contestants, budget)


def measure(lab: Laboratory, case: Case) -> Answer:
    """Let the contestants take turns, in random order, and take the median of each."""
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in case.contestants}
    for number in range(lab.size.rounds + 1):
        for contestant in random.sample(case.contestants, len(case.contestants)):
            connection = lab.open(contestant.database)
            contestant.reset(connection)
            start = lab.clock(connection)
            contestant.work(connection)
            elapsed = lab.clock(connection) - start
            if number == 0:  # a round to warm up, which is checked instead of timed
                contestant.check(connection)
            else:
                seconds[contestant.name].append(elapsed)
    for contestant in case.contestants:
        contestant.reset(lab.open(contestant.database))
    return Answer(case.title, case.budget, {name: statistics.median(times) for name, times in seconds.items()})


# --- One row a transaction, over loopback, each commit waiting for the disk

Write = Callable[[Connection, Any], None]
"""Writes a row, whose values are given by place or by name."""


def single_cases(lab: Laboratory) -> Iterator[Answer]:
    """Insert one row by a prepared statement, a transaction each: begun and committed as drivers do it, or by itself.

    By itself it is one message to the server and back, the least that a client can do, so a look-up weighs most there.
    """
    loads = [
        ("reference", "migration.raw_import_records", "benchmark.raw_import_records",
         ["data_import_id", "client_account_id", "engagement_id", "row_number"], {"raw_data": "'{}'"},
         "SELECT master_flow_id FROM migration.data_imports WHERE id = %s", 1, 1.10),
        ("proximity", "migration.assets", "benchmark.assets_of_the_past",
         ["client_account_id", "engagement_id", "created_at", "name", "asset_type"], {},
         ("SELECT master_flow_id FROM migration.discovery_flows WHERE client_account_id = %s AND engagement_id = %s "
          "AND created_at <= %s ORDER BY created_at DESC LIMIT 1"), 3, 1.20),
    ]  # fmt: skip
    for title, table, rows, columns, extra, look_up, asked, budget in loads:
        count = lab.size.singles
        given = lab.open(LIMIT).execute(
            f"SELECT {', '.join(columns)}, master_flow_id FROM {rows} ORDER BY id LIMIT {count}".encode()  # noqa: S608
        ).fetchall()  # fmt: skip
        text = (
            f"INSERT INTO {table} ({', '.join([*columns, *extra, 'master_flow_id'])}) VALUES "  # noqa: S608
            f"({', '.join(['%s'] * len(columns) + [*extra.values(), '%s'])})"
        )

        def at_once(connection: Connection, row: tuple[Any, ...], text: str = text) -> None:
            connection.execute(text.encode(), row, prepare=True)

        def looked_up(
            connection: Connection,
            row: tuple[Any, ...],
            text: str = text,
            look_up: str = look_up,
            asked: int = asked,
        ) -> None:
            with connection.transaction():
                found = connection.execute(look_up.encode(), row[:asked], prepare=True).fetchone()
                assert found is not None
                connection.execute(text.encode(), (*row[:-1], found[0]), prepare=True)

        ways: dict[str, tuple[str, Write]] = {
            LIMIT: (LIMIT, begun(text)),
            "supplied": (GUARD, begun(text)),
            GUARD: (GUARD, without_link(begun(text))),
            GENERIC: (GENERIC, without_link(begun(text))),
            STATEMENT: (STATEMENT, without_link(begun(text))),
            CLIENT: (LIMIT, looked_up),
            f"{LIMIT}{ALONE}": (LIMIT, at_once),
            f"supplied{ALONE}": (GUARD, at_once),
            f"{GUARD}{ALONE}": (GUARD, without_link(at_once)),
        }
        seconds = take_turns(lab, ways, given)
        for name in {database for database, _ in ways.values()}:
            nobody_left(f"single {title}", table, BUT_THE_LATE)(lab.open(name))
            lab.open(name).execute(f"TRUNCATE {table} CASCADE".encode())
        for how, limits in (("", (1.03, budget)), (ALONE, (None, None))):
            medians = {
                way.removesuffix(ALONE): median for way, median in seconds.items() if way.endswith(ALONE) == bool(how)
            }
            given_link = {LIMIT: medians[LIMIT], GUARD: medians.pop("supplied")}
            yield Answer(f"supplied: single {title}{how}", limits[0], given_link)
            yield Answer(f"single {title}{how}", limits[1], medians)


def single_updates(lab: Laboratory) -> Iterator[Answer]:
    """Update one source, which concerns no child, in a transaction begun and committed as drivers do it."""
    for title, table, column in SOURCE_UPDATES:
        found = lab.open(LIMIT).execute(
            f"SELECT id FROM {table} ORDER BY md5(id::text) LIMIT {lab.size.singles}".encode()  # noqa: S608
        )
        text = f"UPDATE {table} SET {column} = 'single' WHERE id = %s"  # noqa: S608

        seconds = take_turns(lab, {name: (name, begun(text)) for name in (LIMIT, GUARD, IDLE)}, found.fetchall())
        yield Answer(f"single {title}", 1.05, {name: seconds[name] for name in (LIMIT, GUARD)})
        yield Answer(f"single {title}, {IDLE} instead", None, {LIMIT: seconds[LIMIT], GUARD: seconds[IDLE]})


def single_session(lab: Laboratory) -> Iterator[Answer]:
    """Insert one row; the application has told whose its rows are in the same transaction, the limit's as well."""
    table, columns = "migration.assets", ["client_account_id", "engagement_id", "name", "asset_type", "created_at"]
    rows = lab.open(LIMIT).execute(
        f"SELECT {', '.join(columns)}, master_flow_id FROM benchmark.assets_of_a_session "  # noqa: S608
        f"ORDER BY id LIMIT {lab.size.singles}".encode()
    )
    given = rows.fetchall()
    text = f"INSERT INTO {table} ({', '.join(columns)}, master_flow_id) VALUES (%s, %s, %s, %s, %s, %s)"  # noqa: S608

    def insert_told(connection: Connection, row: tuple[Any, ...]) -> None:
        with connection.transaction():
            connection.execute(
                "SELECT set_config('flowguard.master_flow_id', %s, true)", (str(given[0][-1]),), prepare=True
            )
            connection.execute(text.encode(), row, prepare=True)

    seconds = take_turns(lab, {LIMIT: (LIMIT, insert_told), GUARD: (GUARD, without_link(insert_told))}, given)
    for name in (LIMIT, GUARD):
        nobody_left("single session", table, BUT_THE_LATE)(lab.open(name))
        lab.open(name).execute(f"TRUNCATE {table} CASCADE".encode())
    yield Answer("single session", None, seconds)


SINGLE_LATE = """
INSERT INTO migration.data_imports (id, client_account_id, engagement_id, import_name, import_type, created_at)
SELECT benchmark.key('single import', 0, n), benchmark.key('client', 0), benchmark.key('engagement', 0), 'single',
       'csv', timestamptz '2003-01-01' + n * interval '3 hours'
  FROM generate_series(1, #) AS n;
INSERT INTO migration.raw_import_records (data_import_id, client_account_id, engagement_id, row_number, raw_data)
SELECT benchmark.key('single import', 0, n), benchmark.key('client', 0), benchmark.key('engagement', 0), -k, '{}'
  FROM generate_series(1, #) AS n, generate_series(1, 5) AS k;
INSERT INTO migration.discovery_flows (id, flow_id, client_account_id, engagement_id, flow_name, created_at)
SELECT benchmark.key('single flow', 0, n), benchmark.key('single flow', 1, n), benchmark.key('client', 0),
       benchmark.key('engagement', 0), 'single', timestamptz '2013-01-01' + n * interval '3 hours'
  FROM generate_series(1, #) AS n;
INSERT INTO migration.assets (client_account_id, engagement_id, name, asset_type, created_at)
SELECT benchmark.key('client', 0), benchmark.key('engagement', 0), 'single', 'server',
       timestamptz '2013-01-01' + n * interval '3 hours' + k * interval '1 minute'
  FROM generate_series(1, #) AS n, generate_series(1, 5) AS k;
"""


def single_late_links(lab: Laboratory) -> Iterator[Answer]:
    """One source gets its link, and five children follow: by the guard, or written by the client as well."""
    for name in (LIMIT, GUARD):
        with psycopg.connect(lab.dsn(name), autocommit=True) as connection:
            connection.execute(SINGLE_LATE.replace("#", str(lab.size.singles)).encode())
            connection.execute("VACUUM ANALYZE")
    for title, source, name_column, table, which, written in (
        ("late link by reference", "migration.data_imports", "import_name", "migration.raw_import_records",
         "data_import_id = %(id)s", "row_number < 0"),
        ("late link by time", "migration.discovery_flows", "flow_name", "migration.assets",
         ("client_account_id = %(client)s AND engagement_id = %(engagement)s AND master_flow_id IS NULL AND created_at "
          "BETWEEN %(at)s::timestamptz - interval '1 hour' AND %(at)s::timestamptz + interval '1 hour'"),
         "name = 'single'"),
    ):  # fmt: skip
        found = (
            lab.open(LIMIT)
            .cursor(row_factory=dict_row)
            .execute(
                "SELECT id, client_account_id AS client, engagement_id AS engagement, created_at AS at, "  # noqa: S608
                f"benchmark.key('master', 0) AS link FROM {source} WHERE {name_column} = 'single' ORDER BY at".encode()
            )
        )
        link = f"UPDATE {source} SET master_flow_id = %(link)s WHERE id = %(id)s"  # noqa: S608
        follow = f"UPDATE {table} SET master_flow_id = %(link)s WHERE {which}"  # noqa: S608
        ways = {LIMIT: (LIMIT, begun(link, follow)), GUARD: (GUARD, begun(link))}
        seconds = take_turns(lab, ways, found.fetchall())
        for name in (LIMIT, GUARD):
            nobody_left(f"single {title}", table, f"{written} AND master_flow_id IS NULL")(lab.open(name))
        yield Answer(f"single {title}", 2.0, seconds)


def begun(*texts: str) -> Write:
    """Write by these statements, in a transaction begun and committed as drivers do it."""

    def write(connection: Connection, row: Sequence[Any] | Mapping[str, Any]) -> None:
        with connection.transaction():
            for text in texts:
                connection.execute(text.encode(), row, prepare=True)

    return write


BUT_THE_LATE = "client_account_id <> benchmark.key('client', 0) AND master_flow_id IS NULL"


def without_link(write: Write) -> Write:
    """Write a row without the link, which is its last value."""
    return lambda connection, row: write(connection, (*row[:-1], None))


def take_turns(lab: Laboratory, ways: Mapping[str, tuple[str, Write]], given: Sequence[Any]) -> dict[str, float]:
    """Write each row in every way, into the database named, over loopback and in random order; give median seconds."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with ExitStack() as stack:
        sessions = {
            way: stack.enter_context(psycopg.connect(lab.dsn(database, tcp=True), autocommit=True))
            for way, (database, _) in ways.items()
        }
        for number, row in enumerate(given):
            for way in random.sample(list(ways), len(ways)):
                start = time.perf_counter()
                ways[way][1](sessions[way], row)
                if number >= len(given) // 10:  # prepared and planned by then
                    seconds[way].append(time.perf_counter() - start)
    return {way: statistics.median(times) for way, times in seconds.items()}


# --- Growth


def growth(lab: Laboratory) -> Iterator[tuple[int, int, Answer, Answer]]:
    """The price of a row as the sources of a tenant, or the tenants, become more: (tenants, sources, answers)."""
    rows = min(lab.size.rows, 10_000)
    for tenants, sources in lab.size.growth:
        build(lab, "grown", tenants, sources, rows, narrow=False)
        copy(lab, "grown", "grown limit", COPIES[LIMIT])
        answers = []
        for title, budget, table, load, columns in (
            ("reference", 1.7, "migration.raw_import_records", "benchmark.raw_import_records",
             f"{TENANT}, data_import_id, row_number, raw_data"),
            ("proximity", 2.5, "migration.assets", "benchmark.assets_of_the_past",
             f"{TENANT}, name, asset_type, hostname, created_at"),
        ):  # fmt: skip
            clear, right = statements(f"TRUNCATE {table} CASCADE"), all_right(table, load)
            supplied = transaction(insert(table, load, columns, "master_flow_id"))
            missing = transaction(insert(table, load, columns, "NULL"))
            case = Case(
                f"{title}, {tenants:,} tenants of {sources:,} sources",
                [
                    Contestant(LIMIT, "grown limit", supplied, clear, right),
                    Contestant(GUARD, "grown", missing, clear, right),
                ],
                budget,
            )
            answers.append(measure(lab, case))
        drop(lab, "grown", "grown limit")
        yield tenants, sources, answers[0], answers[1]


# --- All of it


@dataclass
class Results:
    """What a server of one version answered."""

    version: str
    answers: list[Answer] = field(default_factory=list)
    grown: list[tuple[int, int, Answer, Answer]] = field(default_factory=list)

    @property
    def all_answers(self) -> list[Answer]:
        """Those of the growth as well."""
        return [*self.answers, *(answer for _, _, *both in self.grown for answer in both)]


def run(bindir: Path, size: Size, clock: str, only: str, console: Console) -> Results:
    """Measure everything whose title contains `only` on a server of these binaries."""
    with laboratory(bindir, size, CLOCKS[clock]) as lab:
        with psycopg.connect(lab.dsn("postgres")) as connection:
            results = Results(f"{connection.info.server_version // 10000}")
        build(lab, GUARD, size.tenants, size.sources, size.rows, narrow=True)
        for name, prepare in COPIES.items():
            if name != GUARD:
                copy(lab, GUARD, name, prepare)
        for answer in in_bulk(lab, only):
            results.answers.append(answer)
            show_line(console, results.version, answer)
        for answer in singly(lab, only):
            results.answers.append(answer)
            show_line(console, results.version, answer)
        drop(lab, *COPIES)
        for grown in growth(lab) if only in "growth" else ():
            results.grown.append(grown)
            tenants, sources, by_reference, by_time = grown
            console.print(
                f"{results.version}  {tenants:6} tenants, {sources:8} sources each: "
                f"reference {ratio(by_reference)}, proximity {ratio(by_time)}"
            )
    return results


def in_bulk(lab: Laboratory, only: str) -> Iterator[Answer]:
    """Answer the questions about many rows."""
    for cases in (insert_cases, late_cases, repair_cases):
        for case in cases(lab):
            if only in case.title:
                yield measure(lab, case)


def singly(lab: Laboratory, only: str) -> Iterator[Answer]:
    """Answer the questions about single rows, whose commits wait for the disk."""
    lab.set_durable(durable=True)
    for titles, answers in (
        (f"supplied: single reference{ALONE}, supplied: single proximity{ALONE}", single_cases),
        ("single session", single_session),
        ("single late link by reference, single late link by time", single_late_links),
        (", ".join(f"single {title}, {IDLE} instead" for title, _, _ in SOURCE_UPDATES), single_updates),
    ):
        if only in titles:
            yield from answers(lab)
    lab.set_durable(durable=False)


def ratio(answer: Answer, name: str = GUARD) -> str:
    """Word a contestant's ratio."""
    found = answer.ratio(name)
    return "" if found is None else f"{found:.2f}"


def show_line(console: Console, version: str, answer: Answer) -> None:
    """Show an answer as soon as it is there."""
    others = ", ".join(
        f"{name} {ratio(answer, name)}" for name in answer.seconds if name not in {LIMIT, GUARD}
    )  # fmt: skip
    budget = "" if answer.budget is None else f" of {answer.budget:.2f}{' MISSED' if answer.is_missed else ''}"
    console.print(f"{version}  {answer.title}: {ratio(answer)}{budget}{'; ' + others if others else ''}")


OTHERS = (GENERIC, STATEMENT, CLIENT, SCRIPT)


def tables(results: Sequence[Results]) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Give headings and rows of the two tables that the documentation shows."""
    headings = ["case", "budget"]
    for one in results:
        headings += [f"guard, PostgreSQL {one.version}"]
    headings += [f"{name}, {results[-1].version}" for name in OTHERS]
    lines = []
    for number, answer in enumerate(results[0].answers):
        same = [one.answers[number] for one in results]
        lines.append(
            [
                answer.title,
                "" if answer.budget is None else f"{answer.budget:.2f}",
                *(ratio(other) for other in same),
                *(ratio(same[-1], name) for name in OTHERS),
            ]
        )
    yield headings, lines
    grown = ["tenants", "sources of each"]
    for one in results:
        grown += [f"reference, {one.version}", f"proximity, {one.version}"]
    yield (
        grown,
        [
            [
                f"{tenants:,}",
                f"{sources:,}",
                *(text for one in results for text in (ratio(one.grown[number][2]), ratio(one.grown[number][3]))),
            ]
            for number, (tenants, sources, _, _) in enumerate(results[0].grown)
        ],
    )


def markdown(results: Sequence[Results], size: Size) -> str:
    """Word both tables for the documentation."""
    introduction = (
        f"`make bench BENCH='--rows {size.rows} --rounds {size.rounds}'`: rows in bulk, by the time that the\n"
        f"server's process worked; {size.singles} single transactions, by the time that passed. Ratios to the limit."
    )
    parts = [introduction]
    parts += [as_markdown(headings, lines) for headings, lines in tables(results) if lines]
    return "\n\n".join(parts)


def as_markdown(headings: Sequence[str], lines: Sequence[Sequence[str]], right: Sequence[str] | None = None) -> str:
    """Word a table; the columns named in `right` hold figures, by default all but the first."""
    figures = headings[1:] if right is None else right
    rule = ["---:" if heading in figures else "---" for heading in headings]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *lines))


def write(file: Path, text: str, name: str = "bench") -> None:
    """Put what a benchmark has measured between its marks in a document."""
    begin_mark, end_mark = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begin, rest = file.read_text(encoding="utf-8").partition(begin_mark)
    _, end, after = rest.partition(end_mark)
    if not begin or not end:
        raise click.UsageError(f"{file} has no {begin_mark} … {end_mark}")
    file.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


@click.command()
@click.option("--bindir", "bindirs", multiple=True, type=click.Path(exists=True, path_type=Path),
              help="Programs of a PostgreSQL; default: Debian's 15, if there, and the wheel's.")  # fmt: skip
@click.option("--only", default="", help="Measure only what has this in its title.")
@click.option("--rows", default=FULL.rows, show_default=True, help="Rows written in bulk.")
@click.option("--rounds", default=FULL.rounds, show_default=True, help="Rounds to take the median of.")
@click.option("--clock", type=click.Choice(list(CLOCKS)), default="cpu", show_default=True,
              help="In bulk: time that the server's process worked (Linux), or time that passed.")  # fmt: skip
@click.option("--quick", is_flag=True, help="Small sizes: shows that it runs; the figures mean nothing.")
@click.option("--write", "document", type=click.Path(exists=True, path_type=Path), help="Document to update.")
def main(
    bindirs: tuple[Path, ...], only: str, rows: int, rounds: int, clock: str, *, quick: bool, document: Path | None
) -> None:
    """Measure what the guard costs; exit code 1 where a budget is missed."""
    size = QUICK if quick else Size(rows=rows, rounds=rounds, singles=FULL.singles)
    console = new_console()
    if not bindirs:
        bindirs = (*filter(Path.is_dir, (DEBIAN_15,)), wheel_bindir())
    results = [run(bindir, size, clock, only, console) for bindir in bindirs]
    for headings, lines in tables(results):
        if lines:
            table = new_table(*headings, right=headings[1:])
            for cells in lines:
                table.add_row(*cells)
            console.print(table)
    if document is not None:
        write(document, markdown(results, size))
    missed = [answer.title for one in results for answer in one.all_answers if answer.is_missed]
    if missed and not quick:
        console.print(f"Missed: {', '.join(missed)}.")
        sys.exit(1)


if __name__ == "__main__":
    main()
