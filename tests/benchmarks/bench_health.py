"""Measures what it costs to ask how healthy the links are: by proof, by counting, and by the report's own queries.

`make bench-health` runs it. All three are asked of the same rows in the same run, each in a session of its own, as a
monitoring job would, and told as ratios to such a session that asks for nothing. What is told by proof is compared
with what is counted before it is timed. The command `pyflowguard health` is told as a ratio to a psql that asks for
nothing.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import psycopg
from benchmarks import bench
from benchmarks.bench import Connection, Laboratory, Size
from changesets import deploy_profile_last
from psycopg.conninfo import make_conninfo

from pyflowguard.database import connect, run_script
from pyflowguard.plan import changeset_directory
from pyflowguard.present import new_console, new_table
from pyflowguard.server import wheel_bindir

SIZES = (10**4, 10**5, 10**6, 10**7)
QUICK = (3000,)
"""Shows that the benchmark runs; its figures mean nothing. So many rows are more than are counted."""
BUDGET = 100.0
"""So many empty queries may pass while health is told by proof."""
PATIENCE = 1.0  # seconds; what takes longer is asked once

EMPTY = ("SELECT 1",)
PROOF = ("SELECT * FROM flowguard.health_estimate",)
COUNTING = (
    "SELECT flowguard.health_score()",
    "SELECT * FROM flowguard.health_category",
    "SELECT * FROM flowguard.link_status",
)
UNLINKED = "SELECT COUNT(*) FROM {} WHERE master_flow_id IS NULL"
DANGLING = """
SELECT COUNT(*) FROM {} a LEFT JOIN migration.crewai_flow_state_extensions c ON a.master_flow_id = c.flow_id
WHERE a.master_flow_id IS NOT NULL AND c.flow_id IS NULL
"""
REPORT = tuple(
    query.format(table)
    for table in ("migration.assets", "migration.import_field_mappings")
    for query in (UNLINKED, DANGLING)
)
"""The report's "Monitoring Queries", both for both tables."""
COMMAND = (Path(sys.executable).with_name("pyflowguard"), "health")
CONTESTANTS = {"by proof": PROOF, "counted": COUNTING, "report's queries": REPORT}
TOLD_OTHERWISE = """
SELECT e.relation::text
  FROM flowguard.link_estimate e
  JOIN flowguard.link_status s USING (relation, link_column)
 WHERE e.unlinked <> s.unlinked OR e.dangling <> s.dangling OR e.mismatched <> s.mismatched
    OR e.tenantless <> s.tenantless OR abs(e.total - s.total) > s.total / 50
"""

# A ten-thousandth of the assets is unlinked. Written as a replica: no key is checked twice.
LOAD = """
SET session_replication_role = replica;
CREATE TEMPORARY TABLE source AS
SELECT row_number() OVER () - 1 AS n, i.* FROM migration.data_imports AS i;
INSERT INTO migration.assets (client_account_id, engagement_id, master_flow_id, name, asset_type, hostname, created_at)
SELECT s.client_account_id, s.engagement_id, CASE WHEN g.n % 10000 > 0 THEN s.master_flow_id END, 'asset ' || g.n,
       'server', 'host' || g.n, s.created_at
  FROM generate_series(1, #) AS g (n) JOIN source AS s ON s.n = g.n % (SELECT count(*) FROM source);
INSERT INTO migration.import_field_mappings
  (data_import_id, client_account_id, engagement_id, master_flow_id, source_field, target_field)
SELECT s.id, s.client_account_id, s.engagement_id, s.master_flow_id, 'source ' || g.n, 'target ' || g.n
  FROM generate_series(1, #) AS g (n) JOIN source AS s ON s.n = g.n % (SELECT count(*) FROM source);
RESET session_replication_role;
ANALYZE;
"""
ENFORCED = ("data_imports", "import_field_mappings", "discovery_flows")
DATABASE = "health"


@dataclass(frozen=True)
class Line:
    """What came out for one number of rows: the seconds of an empty query, and of each contestant."""

    rows: int
    empty: float
    seconds: dict[str, float]
    command: float
    """The command's time, as a multiple of that of a psql that asks for nothing."""

    def ratio(self, name: str) -> float:
        """Give a contestant's time as a multiple of the empty query's."""
        return self.seconds[name] / self.empty


def build(lab: Laboratory, rows: int) -> None:
    """Make the report's tables, two of them with so many rows, all guarded, complete links enforced."""
    with psycopg.connect(lab.dsn("postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {DATABASE}".encode())
    dsn = make_conninfo(lab.dsn(DATABASE), options="-c search_path=migration,public")
    directory = changeset_directory() / "sql"
    with connect(dsn) as connection:
        run_script(connection, directory / "report" / "schema.sql", action="loading the report's tables")
        run_script(connection, directory / "benchmark" / "load.sql", action="loading the benchmark")
        connection.execute("SELECT benchmark.load_sources(%s, %s)", (lab.size.tenants, lab.size.sources))
        for statement in LOAD.replace("#", str(rows)).split(";"):
            if statement.strip():
                connection.execute(statement.encode())
        deploy_profile_last(dsn, "report/links")
        for table in bench.PROFILE:
            connection.execute("SELECT count(*) FROM flowguard.guard(%s)", (table,))
        for table in ENFORCED:
            connection.execute("SELECT flowguard.set_mode(%s, 'enforce')", (table,))
            connection.execute("SELECT count(*) FROM flowguard.guard(%s)", (table,))
        connection.execute("VACUUM (FREEZE, ANALYZE)")


def compare(connection: Connection) -> None:
    """See that nothing is told by proof that counting does not find."""
    wrong = connection.execute(TOLD_OTHERWISE).fetchall()
    if wrong:
        raise click.ClickException(f"told otherwise than counted: {wrong}")


def ask(dsn: str, queries: Sequence[str], times: int) -> float:
    """Give the seconds that pass while a client connects, asks and leaves: the median, or the first of a long one."""
    found: list[float] = []
    for _ in range(times):
        start = time.perf_counter()
        with psycopg.connect(dsn, autocommit=True) as connection:
            for query in queries:
                connection.execute(query.encode()).fetchall()
        found.append(time.perf_counter() - start)
        if found[0] > PATIENCE:
            break
    return statistics.median(found)


def run(command: Sequence[str | Path], times: int) -> float:
    """Give the seconds that a program runs: the median."""
    environment = {**os.environ, "PGOPTIONS": "", "PSQLRC": os.devnull}
    found: list[float] = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def measure(bindir: Path, sizes: Sequence[int], tell: Callable[[str], None], *, quick: bool) -> tuple[str, list[Line]]:
    """Measure each number of rows on a server of these binaries; gives its version too."""
    found: list[Line] = []
    version = 0
    like = bench.QUICK if quick else bench.FULL
    for rows in sizes:
        size = Size(rows, rounds=0, singles=0, tenants=like.tenants, sources=like.sources)
        with bench.laboratory(bindir, size, bench.wall_time) as lab:
            build(lab, rows)
            connection = lab.open(DATABASE)
            version = connection.info.server_version // 10000
            compare(connection)
            times, dsn = 3 if quick else 15, lab.dsn(DATABASE)
            empty = ask(dsn, EMPTY, 5 * times)
            seconds = {name: ask(dsn, queries, times) for name, queries in CONTESTANTS.items()}
            psql = run([bindir / "psql", "-XqAt", "-d", dsn, "-c", *EMPTY], 5 * times)
            line = Line(rows, empty, seconds, run([*COMMAND, "--dsn", dsn], times) / psql)
            ratios = [f"{name} {line.ratio(name):,.0f}" for name in seconds]
            tell(f"{rows:,} rows: " + ", ".join([*ratios, f"the command {line.command:,.0f}"]))
            found.append(line)
    return str(version), found


HEADINGS = ["rows in each of two tables", *CONTESTANTS, "counted / by proof", "command / psql"]


def cells(line: Line) -> list[str]:
    """Word the line of the table for one number of rows."""
    ratios = [f"{line.ratio(name):,.0f}" for name in CONTESTANTS]
    counted = line.seconds["counted"] / line.seconds["by proof"]
    return [f"{line.rows:,}", *ratios, f"{counted:,.0f}", f"{line.command:,.0f}"]


def markdown(version: str, found: Sequence[Line], command: str) -> str:
    """Word the table for the documentation."""
    return "\n".join(
        [
            f"`{command}`, PostgreSQL {version}:",
            "the time that passes while a client on the same machine connects, asks and leaves, in times of one that",
            f"asks for nothing (`SELECT 1`); by proof {BUDGET:.0f} at most. Last, the command `pyflowguard health` as",
            f"a whole, Python and all, in times of the command `psql -c 'SELECT 1'`; {BUDGET:.0f} at most.",
            "",
            bench.as_markdown(HEADINGS, [cells(line) for line in found], HEADINGS),
        ]
    )


@click.command()
@click.option(
    "--bindir", type=click.Path(exists=True, path_type=Path), help="Programs of a PostgreSQL; default: the wheel's."
)
@click.option("--rows", "sizes", type=click.IntRange(min=100), multiple=True, default=SIZES, show_default=True,
              help="Rows of the two tables; may be repeated. 10000000 takes some minutes and 15 GB.")  # fmt: skip
@click.option("--quick", is_flag=True, help="Small sizes: shows that it runs; the figures mean nothing.")
@click.option("--write", "document", type=click.Path(exists=True, path_type=Path), help="Document to update.")
def main(bindir: Path | None, sizes: tuple[int, ...], *, quick: bool, document: Path | None) -> None:
    """Measure what it costs to ask for health; exit code 1 where the budget is missed."""
    console = new_console()
    version, found = measure(bindir or wheel_bindir(), QUICK if quick else sizes, console.print, quick=quick)
    table = new_table(*HEADINGS, right=HEADINGS)
    for line in found:
        table.add_row(*cells(line))
    console.print(table)
    if document is not None:
        options = "".join(f" --rows {size}" for size in sizes) if sizes != SIZES else ""
        command = "make bench-health" + (f" BENCH='{options.strip()}'" if options else "")
        bench.write(document, markdown(version, found, command), "bench-health")
    missed = [f"{line.rows:,} rows" for line in found if max(line.ratio("by proof"), line.command) > BUDGET]
    if missed and not quick:
        console.print(f"Missed: {', '.join(missed)}.")
        sys.exit(1)


if __name__ == "__main__":
    main()
