"""The benchmark runs, compares what is written with what is right, and writes its table; no figure is looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
from benchmarks import bench, bench_health, bench_repair
from click.testing import CliRunner
from engine.postgres import one

from pyflowguard import __version__
from pyflowguard.server import wheel_bindir

HEADINGS = ("supplied: reference", "proximity, rows of the past", "session", "late link by time", "repair by reference",
            "single proximity", "single reference, by itself")  # fmt: skip


def test_the_benchmark_runs_and_writes_its_table(tmp_path: Path) -> None:
    document = tmp_path / "costs.md"
    document.write_text("before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n")
    result = CliRunner().invoke(
        bench.main, ["--quick", "--bindir", str(wheel_bindir()), "--write", str(document)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    text = document.read_text()
    assert text.startswith("before\n<!-- bench:begin -->\n`make bench BENCH='--rows 300 --rounds 1'`: ")
    assert text.endswith("<!-- bench:end -->\nafter\n")
    assert "old" not in text
    for heading in HEADINGS:
        assert f"\n| {heading} | " in text, heading


def test_the_benchmark_of_repair_runs_and_writes_its_table(tmp_path: Path) -> None:
    document = tmp_path / "costs.md"
    document.write_text("before\n<!-- bench-repair:begin -->\nold\n<!-- bench-repair:end -->\nafter\n")
    result = CliRunner().invoke(
        bench_repair.main, ["--quick", "--batch-size", "100", "--write", str(document)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    text = document.read_text()
    assert text.startswith("before\n<!-- bench-repair:begin -->\n`make bench-repair`, PostgreSQL ")
    assert text.endswith("<!-- bench-repair:end -->\nafter\n")
    for rows in bench_repair.QUICK:
        for rule in ("by reference", "by time"):
            assert re.search(
                rf"^\| {rows} \| {rule} \|( [\d.]+ \|){{2}} \d+ MB \| [\d.]+ \| \d+ MB \|$", text, re.MULTILINE
            )


def test_a_contestant_that_links_wrongly_is_not_timed() -> None:
    with bench.laboratory(wheel_bindir(), bench.QUICK) as lab:
        bench.build(lab, bench.LIMIT, 2, 20, 100, narrow=False)
        assert one(lab.open(bench.LIMIT), "SELECT flowguard.version()") == __version__
        columns = f"{bench.TENANT}, name, asset_type, hostname, created_at"
        table, rows = "migration.assets", "benchmark.assets_of_the_past"
        wrong = bench.transaction(bench.insert(table, rows, columns, "benchmark.key('master', 1, 3)"))
        clear, right = bench.statements(f"TRUNCATE {table}"), bench.all_right(table, rows)
        lab.open(bench.LIMIT).execute("SELECT benchmark.drop_guard_triggers()")
        lab.open(bench.LIMIT).execute("ALTER TABLE migration.assets DROP CONSTRAINT IF EXISTS fk_assets_tenant")
        case = bench.Case("wrong", [bench.Contestant(bench.LIMIT, bench.LIMIT, wrong, clear, right)])
        with pytest.raises((click.ClickException, psycopg.Error), match=r"right link|violates foreign key"):
            bench.measure(lab, case)


def test_single_rows_that_get_no_link_are_not_timed() -> None:
    with bench.laboratory(wheel_bindir(), bench.QUICK) as lab:
        bench.build(lab, bench.GUARD, 2, 20, 100, narrow=False)
        bench.copy(lab, bench.GUARD, bench.LIMIT, bench.COPIES[bench.LIMIT])
        lab.open(bench.GUARD).execute("SELECT benchmark.drop_guard_triggers()")
        with pytest.raises(
            click.ClickException, match=r"^single session, guard: rows of migration\.assets have no link$"
        ):
            list(bench.single_session(lab))


@pytest.mark.parametrize(("seconds", "missed"), [(1.70, False), (1.704, False), (1.71, True)])
def test_a_budget_is_missed_from_the_second_decimal_on(seconds: float, missed: bool) -> None:
    answer = bench.Answer("reference", 1.7, {bench.LIMIT: 1.0, bench.GUARD: seconds})
    assert answer.is_missed is missed


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give a node of a plan and all below it."""
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def test_a_repair_by_time_reads_a_few_rows_for_each(postgresql: Any) -> None:  # noqa: ANN401  conftest's class
    """However many masters and sources a tenant has: here a thousand each, and columns that belong together."""
    table, rows = "migration.assets", 1000
    with bench.laboratory(postgresql.bin, bench.QUICK) as lab:
        bench.build(lab, bench.GUARD, 10, 1000, rows, narrow=False)
        connection = lab.open(bench.GUARD)
        columns = f"{bench.TENANT}, name, asset_type, hostname, created_at"
        connection.execute("SET session_replication_role = replica")
        connection.execute(bench.insert(table, "benchmark.assets_of_the_past", columns, "NULL").encode())
        connection.execute("RESET session_replication_role")
        connection.execute("ANALYZE migration.assets")
        link = f"FROM flowguard.link l WHERE l.relation = '{table}'::regclass"
        ((query, last),) = connection.execute(
            f"SELECT flowguard._repair_query(l), flowguard._last_key(l)::text {link}".encode()
        ).fetchall()
        connection.execute(f"PREPARE batch (bigint, jsonb, jsonb, integer, text, text) AS {query}".encode())
        with connection.transaction(force_rollback=True):
            connection.execute("INSERT INTO flowguard.repair_run (run_id) OVERRIDING SYSTEM VALUE VALUES (1)")
            connection.execute("SELECT flowguard._mark_transaction('repair', 1, NULL)")
            batch = f"EXECUTE batch (1, NULL, '{last}', 5000, 'migration', 'assets')"
            explained = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {batch}".encode()).fetchone()
            linked = connection.execute(f"SELECT count(master_flow_id) FROM {table}".encode()).fetchone()  # noqa: S608
    assert explained is not None
    assert linked == (rows,)
    read = {"discovery_flows": 0.0, "crewai_flow_state_extensions": 0.0}
    for node in nodes(explained[0][0]["Plan"]):
        # One that reads the whole table once, to hash it, is no matter of how many rows there are to link.
        if node.get("Relation Name") in read and node["Actual Loops"] > 1:
            read[node["Relation Name"]] += node["Actual Rows"] * node["Actual Loops"]
    # One step back; forward one more, to see where equal times end; and the master of each.
    for name, count in read.items():
        assert 0 < count <= 4 * rows, (name, count)


def test_the_benchmark_of_health_runs_and_writes_its_table(tmp_path: Path) -> None:
    document = tmp_path / "health.md"
    document.write_text("before\n<!-- bench-health:begin -->\nold\n<!-- bench-health:end -->\nafter\n")
    result = CliRunner().invoke(bench_health.main, ["--quick", "--write", str(document)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    text = document.read_text()
    assert text.startswith("before\n<!-- bench-health:begin -->\n`make bench-health`, PostgreSQL ")
    assert text.endswith("<!-- bench-health:end -->\nafter\n")
    [figures] = re.findall(r"^\| 3,000((?: \| [\d,]+){5}) \|$", text, re.MULTILINE)
    assert min(int(figure.replace(",", "")) for figure in figures.split(" | ")[1:]) > 0


def test_health_told_otherwise_than_counted_is_not_timed() -> None:
    size = bench.Size(3000, rounds=0, singles=0, tenants=3, sources=50)
    with bench.laboratory(wheel_bindir(), size) as lab:
        bench_health.build(lab, size.rows)
        connection = lab.open(bench_health.DATABASE)
        bench_health.compare(connection)
        connection.execute("SET session_replication_role = replica")
        connection.execute(
            "UPDATE migration.assets SET master_flow_id = gen_random_uuid() WHERE master_flow_id IS NOT NULL"
        )
        with pytest.raises(click.ClickException, match="assets"):
            bench_health.compare(connection)
