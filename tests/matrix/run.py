"""Runs the tests on each PostgreSQL that is supported, one after the other, and prints a table of what came of it.

`make matrix` runs it. The tests of each version are those of `make test`; paths and options of pytest that are given
are passed on to it, `--only` chooses versions.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from matrix.servers import SUPPORTED, find

from pyflowguard.present import new_console, new_table

ROOT = Path(__file__).parents[2]
SERVERS = Path(sys.prefix) / "servers"


@dataclass(frozen=True)
class Outcome:
    """What came of the tests on one server; `report` is what pytest printed."""

    release: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    report: Path


def release_of(bindir: Path) -> str:
    """Give the release that a server tells, 17.10 for example."""
    told = subprocess.run([bindir / "postgres", "--version"], check=True, capture_output=True, text=True).stdout
    return told.split()[2]


def environment(bindir: Path) -> dict[str, str]:
    """Give the tests' environment: whose server it is, and where one that we have installed finds its own libpq.

    Its libpqwalreceiver takes the machine's libpq otherwise, which may be too old for it: no standby streams then.
    """
    chosen = {**os.environ, "PYFLOWGUARD_TEST_BINDIR": str(bindir)}
    if bindir.is_relative_to(SERVERS):
        others = [os.environ["LD_LIBRARY_PATH"]] if os.environ.get("LD_LIBRARY_PATH") else []
        chosen["LD_LIBRARY_PATH"] = os.pathsep.join([str(bindir.parent / "lib"), *others])
    return chosen


def run_tests(version: int, arguments: Sequence[str]) -> Outcome:
    """Run the tests on one server."""
    bindir = find(version, SERVERS)
    release = release_of(bindir)
    report, counts = SERVERS / f"{version}.log", SERVERS / f"{version}.xml"
    SERVERS.mkdir(exist_ok=True)
    counts.unlink(missing_ok=True)
    click.echo(f"PostgreSQL {release}: {report}", err=True)
    began = time.monotonic()
    with report.open("wb") as log:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "--numprocesses=auto",
            "--maxprocesses=8",
            "--dist=loadfile",
            "--no-loadscope-reorder",
            f"--junitxml={counts}",
            *arguments,
        ]
        done = subprocess.run(command, cwd=ROOT, env=environment(bindir), stdout=log, stderr=log, check=False)
    if not counts.exists():
        raise click.ClickException(f"pytest ended with {done.returncode}:\n{report.read_text()}")
    total, failed, skipped = count(counts)
    if done.returncode != 0 and not failed:
        failed = 1  # a warning at the very end, say; the report tells
    return Outcome(release, total - failed - skipped, failed, skipped, time.monotonic() - began, report)


def count(file: Path) -> tuple[int, int, int]:
    """Read from pytest's own report how many tests there were, how many failed and how many were skipped."""
    suites = ET.parse(file).getroot().iter("testsuite")  # noqa: S314  pytest has just written it
    numbers = [[int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")] for suite in suites]
    tests, failures, errors, skipped = (sum(column) for column in zip(*numbers, strict=True))
    return tests, failures + errors, skipped


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--only", type=click.Choice([str(version) for version in SUPPORTED]), multiple=True, help="A version.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(only: tuple[str, ...], arguments: tuple[str, ...]) -> None:
    """Run the tests on every supported PostgreSQL; exit code 1 where one fails."""
    chosen = [version for version in SUPPORTED if not only or str(version) in only]
    outcomes = [run_tests(version, arguments) for version in chosen]
    headings = ["passed", "failed", "skipped", "seconds"]
    table = new_table("PostgreSQL", *headings, right=headings)
    for outcome in outcomes:
        numbers = (outcome.passed, outcome.failed, outcome.skipped, round(outcome.seconds))
        table.add_row(outcome.release, *map(str, numbers))
    for outcome in outcomes:
        if outcome.failed:
            click.echo(outcome.report.read_text())
    new_console().print(table)
    sys.exit(1 if any(outcome.failed for outcome in outcomes) else 0)


if __name__ == "__main__":
    main()
