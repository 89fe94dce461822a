"""The benchmark runs, compares what is written with what is right, and writes its table; no figure is looked at."""

from __future__ import annotations

from pathlib import Path

import click
import psycopg
import pytest
from benchmarks import bench
from click.testing import CliRunner

from pyflowguard.server import wheel_bindir

HEADINGS = ("supplied: reference", "proximity, rows of the past", "session", "late link by time", "repair by reference",
            "single proximity")  # fmt: skip


def test_the_benchmark_runs_and_writes_its_table(tmp_path: Path) -> None:
    document = tmp_path / "costs.md"
    document.write_text(f"before\n{bench.BEGIN_MARK}\nold\n{bench.END_MARK}\nafter\n")
    result = CliRunner().invoke(
        bench.main, ["--quick", "--bindir", str(wheel_bindir()), "--write", str(document)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    text = document.read_text()
    assert text.startswith(f"before\n{bench.BEGIN_MARK}\n`make bench BENCH='--rows 300 --rounds 1'`: ")
    assert text.endswith(f"{bench.END_MARK}\nafter\n")
    assert "old" not in text
    for heading in HEADINGS:
        assert f"\n| {heading} | " in text, heading


def test_a_contestant_that_links_wrongly_is_not_timed() -> None:
    with bench.laboratory(wheel_bindir(), bench.QUICK) as lab:
        bench.build(lab, bench.LIMIT, 2, 20, 100, narrow=False)
        columns = f"{bench.TENANT}, name, asset_type, hostname, created_at"
        table, rows = "migration.assets", "benchmark.assets_of_the_past"
        wrong = bench.transaction(bench.insert(table, rows, columns, "benchmark.key('master', 1, 3)"))
        clear, right = bench.statements(f"TRUNCATE {table}"), bench.all_right(table, rows)
        lab.open(bench.LIMIT).execute("SELECT benchmark.drop_guard_triggers()")
        lab.open(bench.LIMIT).execute("ALTER TABLE migration.assets DROP CONSTRAINT IF EXISTS fk_assets_tenant")
        case = bench.Case("wrong", [bench.Contestant(bench.LIMIT, bench.LIMIT, wrong, clear, right)])
        with pytest.raises((click.ClickException, psycopg.Error), match=r"right link|violates foreign key"):
            bench.measure(lab, case)


@pytest.mark.parametrize(("seconds", "missed"), [(1.70, False), (1.704, False), (1.71, True)])
def test_a_budget_is_missed_from_the_second_decimal_on(seconds: float, missed: bool) -> None:
    answer = bench.Answer("reference", 1.7, {bench.LIMIT: 1.0, bench.GUARD: seconds})
    assert answer.is_missed is missed
