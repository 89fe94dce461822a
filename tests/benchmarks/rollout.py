"""Rolls the guard out on a database that applications write to, and measures what they notice of it.

`make bench-rollout` runs it. The report's tables are filled, some of their links missing; pgbench writes and reads at
a steady rate, and each of its transactions is timed from the moment at which it was due. First it is alone; then rows
of a table that it does not touch are updated by plain statements, which is the limit for what a repair may be noticed;
then the engine is installed, and the links are guarded, repaired, validated and enforced by what the commands call;
then nothing runs again.

Two applications write, each on a database of its own. One links what it writes, so that its transactions do the same
work before the roll-out and after: the roll-out as a whole, and each phase that is long enough for a hundredth of its
writes to be more than a handful, are held to the load before. The other leaves its rows without a link, as the
report's does, and the guard links them: its transactions do more from the moment at which they are guarded, so the
roll-out is held to the same load on the guarded tables when nothing runs. The table gives both ratios of both.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import psycopg
from benchmarks import bench
from changesets import deploy_profile_last
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from rich.console import Console

from pyflowguard import online
from pyflowguard.database import connect, run_script
from pyflowguard.plan import changeset_directory
from pyflowguard.present import new_console, new_table
from pyflowguard.repair import BATCH_SIZE, repair
from pyflowguard.server import Server, throwaway_server, wheel_bindir

FORGETS = "forgets its links"
LINKS = "links its rows"
"""What an application does; with this one the guard has nothing to write."""
SETTINGS = {"shared_buffers": "2GB", "max_wal_size": "8GB", "max_locks_per_transaction": "256"}
ROLE = "application"
P99_BUDGET = 1.5
FEW = 1000
"""Of fewer writes the slowest hundredth is a handful: one that waited for a lock of a moment decides it."""
WHOLE = "the whole roll-out"
"""From the first statement of the deployment to the last link that is enforced."""
AT_REST = "guarded and enforced"
"""The same load without the roll-out, on tables as it leaves them."""

RECORD = r"""
\set t random(1, :tenants)
\set s random(2, :sources - 1)
INSERT INTO migration.raw_import_records
  (data_import_id, client_account_id, engagement_id, master_flow_id, row_number, raw_data)
VALUES (benchmark.key('import', :t, :s), benchmark.key('client', :t), benchmark.key('engagement', :t), LINK, 1, '{}');
"""
ASSET = r"""
\set t random(1, :tenants)
\set s random(2, :sources - 1)
INSERT INTO migration.assets (client_account_id, engagement_id, master_flow_id, name, asset_type, created_at)
VALUES (benchmark.key('client', :t), benchmark.key('engagement', :t), LINK, 'new', 'server',
        now() - :s * interval '1 min');
"""
UPDATE = r"""
\set r random(1, :rows)
UPDATE migration.assets SET status = 'seen' WHERE id = md5('asset ' || :r)::uuid;
"""
IMPORT = r"""
\set t random(1, :tenants)
SELECT benchmark.new_import(:t, LINKED);
"""
READ = r"""
\set r random(1, :rows)
SELECT * FROM migration.raw_import_records r JOIN migration.data_imports i ON i.id = r.data_import_id
 WHERE r.id = md5('record ' || :r)::uuid;
"""
SCRIPTS = ((6, RECORD), (6, ASSET), (6, UPDATE), (1, IMPORT), (6, READ))
"""Each with its weight."""
WORDS = {
    FORGETS: {"LINKED": "false", "LINK": "NULL"},
    LINKS: {"LINKED": "true", "LINK": "benchmark.key('master', :t, :s)"},
}
"""What stands in them for the words in capitals."""
PLAIN_UPDATE = """
UPDATE benchmark.plain AS p SET master_flow_id = r.master_flow_id
  FROM benchmark.raw_import_records AS r
 WHERE p.id = r.id AND r.row_number > %s AND r.row_number <= %s AND r.row_number %% 2 = 0
"""
"""The other half, which has its link, is passed over: so it is with the rows that are repaired."""
WRITES = tuple(number for number, (_, text) in enumerate(SCRIPTS) if text != READ)


@dataclass(frozen=True)
class Size:
    """How much lies there, and how much is written beside, by which application."""

    rows: int
    tenants: int
    sources: int
    rate: int
    clients: int
    alone: float
    max_rate: int | None = None
    batch_size: int | None = None
    application: str = FORGETS

    @property
    def batch(self) -> int:
        """Rows that a transaction of a repair looks at, or updates plainly."""
        batch = self.batch_size or BATCH_SIZE
        return batch if self.max_rate is None else min(batch, max(1, self.max_rate // 10))


@dataclass(frozen=True)
class Transaction:
    """When it ended, how long after it was due, and whether it wrote; `failed` where it was refused."""

    end: float
    seconds: float
    script: int
    failed: bool


@dataclass(frozen=True)
class Phase:
    """A step of the roll-out, from when to when."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True)
class Noticed:
    """What the application noticed in a phase: transactions, of them refused, and times of the writes in seconds."""

    phase: Phase
    count: int
    failed: int
    median: float
    p99: float
    longest: float
    writes: int


def build(server: Server, size: Size) -> str:
    """Make a database with the report's tables, as an application without a guard left them; give its owner's DSN."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {ROLE} LOGIN")
        admin.execute(f"CREATE DATABASE {ROLE} OWNER {ROLE}")
    dsn = make_conninfo(server.dsn(ROLE, user=ROLE), options="-c search_path=migration,public")
    directory = changeset_directory() / "sql"
    with connect(dsn) as connection:
        for script in ("report/schema.sql", "benchmark/load.sql", "benchmark/application.sql"):
            run_script(connection, directory / script, action=f"loading {script}")
        connection.execute("SELECT benchmark.load_sources(%s, %s)", (size.tenants, size.sources))
        connection.execute("SELECT benchmark.load_rows(%s, %s, %s)", (size.tenants, size.sources, size.rows))
        connection.execute("SELECT benchmark.load_application(%s)", (size.rows,))
        connection.execute("SELECT benchmark.load_plain()")
        connection.execute("VACUUM (FREEZE, ANALYZE)")
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("CHECKPOINT")  # or what was loaded is written to disk while the application is alone
    return dsn


@contextmanager
def load(dsn: str, size: Size, directory: Path) -> Iterator[Callable[[], None]]:
    """Let pgbench write and read while the block runs; give what raises an error if one of its clients gave up.

    That is what a client does where a transaction is refused for another reason than a deadlock or a serialization.
    """
    words = WORDS[size.application]
    scripts: list[str | Path] = []
    for number, (weight, text) in enumerate(SCRIPTS):
        file = directory / f"{number}.sql"
        file.write_text(re.sub(r"\bLINK(ED)?\b", lambda word: words[word[0]], text), encoding="utf-8")
        scripts += ["--file", f"{file}@{weight}"]
    place = conninfo_to_dict(dsn)
    command: list[str | Path] = [
        wheel_bindir() / "pgbench", "--no-vacuum", "--protocol=prepared", f"--client={size.clients}", "--jobs=2",
        "--time=86400", f"--rate={size.rate}", "--log", f"--log-prefix={directory / 'log'}", "--failures-detailed",
        *(f"--define={name}={getattr(size, name)}" for name in ("tenants", "sources", "rows")), *scripts,
        f"--host={place['host']}", f"--port={place['port']}", f"--username={ROLE}", ROLE,
    ]  # fmt: skip
    with (
        (directory / "errors").open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors) as running,
    ):

        def check() -> None:
            said = (directory / "errors").read_text()
            if running.poll() is not None or "aborted" in said:
                raise click.ClickException(f"pgbench gave up: {said}")

        try:
            yield check
            check()
        finally:
            running.terminate()


def transactions(directory: Path) -> Iterator[Transaction]:
    """Read what pgbench has written of each transaction."""
    for file in directory.glob("log.*"):
        yield from transactions_of(file)


def transactions_of(file: Path) -> Iterator[Transaction]:
    """Read what one thread has written; its last line may be torn."""
    *lines, _torn = file.read_text(encoding="ascii").split("\n")
    for line in lines:
        _, _, took, script, seconds, microseconds, *_ = line.split()
        failed = not took.isdigit()
        yield Transaction(
            int(seconds) + int(microseconds) / 1e6, 0.0 if failed else int(took) / 1e6, int(script), failed
        )


def wait_for_log(directory: Path, end: float, check: Callable[[], None]) -> None:
    """Wait until pgbench, which writes a few kilobytes at a time, has written all of before `end`."""
    while not all_written(directory, end):
        check()
        time.sleep(0.5)


def all_written(directory: Path, end: float) -> bool:
    """Tell whether each thread has written of a transaction that ended at that time or later."""
    ends = [max((t.end for t in transactions_of(file)), default=0.0) for file in directory.glob("log.*")]
    return bool(ends) and min(ends) >= end


def notice(phases: Sequence[Phase], done: Sequence[Transaction]) -> list[Noticed]:
    """Sort the transactions into the phases, each by its end."""
    noticed = []
    for phase in phases:
        mine = [t for t in done if phase.begin <= t.end < phase.end]
        writes = sorted(t.seconds for t in mine if t.script in WRITES and not t.failed)
        if len(writes) >= 2:  # a phase of a moment says nothing
            p99 = statistics.quantiles(writes, n=100, method="inclusive")[98]
            failed = sum(t.failed for t in mine)
            median = statistics.median(writes)
            noticed.append(Noticed(phase, len(mine), failed, median, p99, writes[-1], len(writes)))
    return noticed


def update_plainly(dsn: str, size: Size) -> None:
    """Fill links by a statement that knows them, in the batches and at the rate of the repairs; once through."""
    with connect(dsn) as connection:
        for first in range(0, size.rows, size.batch):
            began = time.monotonic()
            connection.execute(PLAIN_UPDATE, (first, first + size.batch))
            if size.max_rate is not None:
                time.sleep(max(0.0, began + size.batch / size.max_rate - time.monotonic()))


def unhurried(dsn: str, max_rate: int) -> str:
    """Give the DSN of a session whose repairs keep to a rate, and which keeps to one core."""
    settings = {
        "flowguard.repair_max_rate": max_rate,
        "max_parallel_maintenance_workers": 0,
        "max_parallel_workers_per_gather": 0,
    }
    options = conninfo_to_dict(dsn)["options"]
    return make_conninfo(dsn, options=" ".join([str(options), *(f"-c {name}={settings[name]}" for name in settings)]))


def roll_out(dsn: str, size: Size, console: Console) -> list[Phase]:
    """Do what a DBA does, a phase after the other; the first is nothing at all."""
    if size.max_rate is not None:
        dsn = unhurried(dsn, size.max_rate)
    phases: list[Phase] = []

    def phase(name: str, work: Callable[[], object]) -> None:
        begin = time.time()
        work()
        phases.append(Phase(name, begin, time.time()))
        console.print(f"{name}: {phases[-1].end - begin:.1f} s")

    phase("alone", lambda: time.sleep(size.alone))
    phase("plain updates", lambda: update_plainly(dsn, size))
    begin = time.time()
    phase("deploy and register", lambda: deploy_profile_last(dsn, "report/links"))
    phase("guard", lambda: online.guard(dsn))
    phase("repair", lambda: repair(dsn, batch_size=size.batch))
    phase("validate", lambda: online.guard(dsn))
    phase("enforce", lambda: online.set_mode("enforce", dsn))
    phases.append(Phase(WHOLE, begin, time.time()))
    phase(AT_REST, lambda: time.sleep(size.alone))
    return phases


def table(noticed: Sequence[Noticed]) -> tuple[list[str], list[list[str]]]:
    """Word what was noticed."""
    alone, at_rest = noticed[0], noticed[-1]
    headings = ["phase", "seconds", "transactions", "refused", "median, ms", "99 %, ms", "to alone", "to guarded",
                "longest, ms"]  # fmt: skip
    lines = [
        [
            one.phase.name,
            f"{one.phase.end - one.phase.begin:.0f}",
            f"{one.count:,}",
            str(one.failed),
            f"{1000 * one.median:.1f}",
            f"{1000 * one.p99:.1f}",
            "" if one is alone else f"{one.p99 / alone.p99:.2f}",
            "" if one is at_rest else f"{one.p99 / at_rest.p99:.2f}",
            f"{1000 * one.longest:.0f}",
        ]
        for one in noticed
    ]
    return headings, lines


def misses(noticed: Sequence[Noticed], application: str) -> Iterator[str]:
    """Say what the roll-out may not do and did, beside this application."""
    alone, at_rest = noticed[0], noticed[-1]
    for one in noticed[1:]:
        if one.failed:
            yield f"{one.phase.name}: {one.failed} transactions were refused"
        is_judged = one.writes >= FEW or one.phase.name == WHOLE
        if application == LINKS and is_judged and one.p99 > P99_BUDGET * alone.p99:
            yield f"{one.phase.name}: 99 % within {one.p99 / alone.p99:.2f} times what it was, of {P99_BUDGET}"
        if one.phase.name == WHOLE and one.p99 > P99_BUDGET * at_rest.p99:
            yield f"{one.phase.name}: 99 % within {one.p99 / at_rest.p99:.2f} times what it is guarded, of {P99_BUDGET}"
        if one.longest > online.LOCK_TIMEOUT.total_seconds() + alone.longest:
            yield f"{one.phase.name}: a write took {one.longest:.1f} s"


def measure(bindir: Path | None, size: Size, console: Console) -> tuple[list[Noticed], list[str]]:
    """Roll out beside one application; give what it noticed, and what is not as a roll-out has to leave it."""
    with (
        throwaway_server(bindir=bindir, settings=SETTINGS, fsync=True) as server,
        tempfile.TemporaryDirectory() as name,
    ):
        dsn = build(server, size)
        directory = Path(name)
        with load(dsn, size, directory) as check:
            phases = roll_out(dsn, size, console)
            wait_for_log(directory, phases[-1].end, check)
        done = list(transactions(directory))
        with connect(dsn) as connection:
            left = connection.execute(
                "SELECT relation::text FROM flowguard.link_status WHERE mode <> 'enforce' OR linked < total"
            ).fetchall()
    return notice(phases, done), [f"{table} is not enforced and linked" for (table,) in left]


@click.command()
@click.option("--bindir", type=click.Path(exists=True, path_type=Path), help="Programs of a PostgreSQL.")
@click.option("--rows", default=1_000_000, show_default=True, help="Rows of each of the three large tables.")
@click.option("--rate", default=100, show_default=True, help="Transactions a second.")
@click.option("--clients", default=8, show_default=True, help="Connections of the application.")
@click.option("--alone", default=60.0, show_default=True, help="Seconds before and after the roll-out.")
@click.option("--max-rate", type=int, help="Rows a second that a repair looks at; all then keeps to one core.")
@click.option("--batch-size", type=int, help="Rows that a transaction of a repair looks at.")
@click.option(
    "--application",
    "applications",
    type=click.Choice([LINKS, FORGETS]),
    multiple=True,
    default=[LINKS, FORGETS],
    help="What it does; both, one after the other, where none is given.",
)
@click.option("--write", "document", type=click.Path(exists=True, path_type=Path), help="Document to update.")
def main(
    *,
    bindir: Path | None,
    rows: int,
    rate: int,
    clients: int,
    alone: float,
    max_rate: int | None,
    batch_size: int | None,
    applications: Sequence[str],
    document: Path | None,
) -> None:
    """Roll the guard out beside an application; exit code 1 where it notices more than it may."""
    console = new_console()
    sources = max(3, min(1000, rows // 100))
    tenants = 10 if rows >= 10_000 else 2
    tables: list[str] = []
    wrong: list[str] = []
    for application in applications:
        console.print(f"An application that {application}.")
        size = Size(rows, tenants, sources, rate, clients, alone, max_rate, batch_size, application)
        noticed, left = measure(bindir, size, console)
        headings, lines = table(noticed)
        shown = new_table(*headings, right=headings[1:])
        for cells in lines:
            shown.add_row(*cells)
        console.print(shown)
        tables.append(f"An application that {application}:\n\n{bench.as_markdown(headings, lines)}")
        wrong += [f"{line}, beside one that {application}" for line in (*misses(noticed, application), *left)]
    if document is not None:
        options = f"--rows {rows} --rate {rate} --clients {clients} --alone {alone:g}"
        if max_rate is not None:
            options += f" --max-rate {max_rate}"
        if batch_size is not None:
            options += f" --batch-size {batch_size}"
        command = f"`make bench-rollout ROLLOUT='{options}'`"
        bench.write(document, "\n\n".join([command, *tables]), "rollout")
    for line in wrong:
        console.print(f"Missed: {line}.")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
