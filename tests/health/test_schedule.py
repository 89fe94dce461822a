"""What sql/schedule/ ships takes snapshots: a job of pg_cron on a real server, a line for cron, units for systemd."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from acceptance.command import COMMAND, without_libpq
from engine.postgres import Connection, one, rows, run
from psycopg.conninfo import conninfo_to_dict
from servers import lacking

from pyflowguard import changes, database
from pyflowguard.plan import changeset_directory
from pyflowguard.server import throwaway_server

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEDULE = changeset_directory() / "sql" / "schedule"
PROGRAM = "/usr/local/bin/pyflowguard"
BIN_15 = Path("/usr/lib/postgresql/15/bin")
COUNT = "SELECT count(*) FROM flowguard.health_snapshot"


# --- pg_cron


@pytest.fixture(scope="module")
def scheduled() -> Iterator[Connection]:
    """Debian's PostgreSQL 15 with pg_cron in the database that has the engine."""
    if not (BIN_15 / "postgres").exists() or not Path("/usr/share/postgresql/15/extension/pg_cron.control").exists():
        lacking("PostgreSQL 15 with pg_cron")
    settings = {"shared_preload_libraries": "pg_cron", "cron.use_background_workers": "on"}
    with throwaway_server(bindir=BIN_15, settings=settings) as server:
        changes.deploy(server.dsn())
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            run(connection, "CREATE EXTENSION pg_cron")
            yield connection


def test_pg_cron_takes_snapshots(scheduled: Connection) -> None:
    for _ in range(2):  # run again it changes nothing
        with database.connect(scheduled.info.dsn + f" password={scheduled.info.password}") as connection:
            database.run_script(connection, SCHEDULE / "pg_cron.sql", action="scheduling snapshots")
    jobs = rows(scheduled, "SELECT jobid, schedule, command, database, active FROM cron.job")
    assert len(jobs) == 1
    assert jobs[0][1:] == ("17 * * * *", "SELECT flowguard.snapshot()", "postgres", True)
    # An hour is long; the job itself, each minute.
    run(scheduled, "SELECT cron.alter_job(%s, schedule => '* * * * *')", jobs[0][0])
    deadline = time.monotonic() + 130
    while not one(scheduled, COUNT):
        assert time.monotonic() < deadline, rows(scheduled, "SELECT * FROM cron.job_run_details")
        time.sleep(0.5)
    assert rows(scheduled, "SELECT taken_by::text, exact FROM flowguard.health_snapshot LIMIT 1") == [
        ("postgres", False)
    ]
    run(scheduled, "SELECT cron.unschedule('flowguard snapshot')")
    assert rows(scheduled, "SELECT * FROM cron.job") == []


# --- cron and systemd


@pytest.fixture
def settings(engine_db: str) -> dict[str, str]:
    """Libpq's environment for a database with the engine."""
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE"}
    return {names[key]: str(value) for key, value in conninfo_to_dict(engine_db).items() if key in names}


def run_line(line: list[str], settings: dict[str, str]) -> None:
    done = subprocess.run(line, env={**without_libpq(), **settings}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "NOTICE:  No link is registered in database "
                                                 f'"{settings["PGDATABASE"]}": there is nothing to do or to measure.\n'
                                                 "HINT:  " + done.stderr.partition("HINT:  ")[2])  # fmt: skip


def test_the_line_for_cron_takes_a_snapshot(db: Connection, settings: dict[str, str]) -> None:
    [line] = [
        line for line in (SCHEDULE / "pyflowguard-snapshot.cron").read_text().splitlines() if not line.startswith("#")
    ]
    fields = line.split(maxsplit=6)
    assert fields[:6] == ["17", "*", "*", "*", "*", "postgres"]
    command = fields[6].replace(PROGRAM, str(COMMAND)).replace("dbname=app", f"dbname={settings['PGDATABASE']}")
    run_line(["/bin/sh", "-c", command], settings)
    assert one(db, COUNT) == 1


def unit(name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((SCHEDULE / name).read_text())
    return parser


def test_the_unit_for_systemd_takes_a_snapshot(db: Connection, settings: dict[str, str]) -> None:
    service = unit("pyflowguard-snapshot.service")
    assert service["Service"]["Type"] == "oneshot"
    run_line(shlex.split(service["Service"]["ExecStart"].replace(PROGRAM, str(COMMAND))), settings)
    assert one(db, COUNT) == 1
    assert set(unit("pyflowguard-snapshot.timer")["Timer"]) == {"OnCalendar", "Persistent"}


def test_systemd_takes_the_units(tool: Callable[[str], str], tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    for name in ("pyflowguard-snapshot.service", "pyflowguard-snapshot.timer"):
        text = (SCHEDULE / name).read_text()
        (tmp_path / name).write_text(text.replace(PROGRAM, shutil.which("true") or "/bin/true"))
    units = sorted(str(path) for path in tmp_path.iterdir())
    done = subprocess.run([analyze, "verify", "--man=no", *units], capture_output=True, text=True, check=False)
    about = [line for line in done.stderr.splitlines() if "pyflowguard" in line]
    assert (done.returncode, about) == (0, []), done.stderr
    calendar = unit("pyflowguard-snapshot.timer")["Timer"]["OnCalendar"]
    printed = subprocess.run([analyze, "calendar", calendar], capture_output=True, text=True, check=True).stdout
    assert re.search(r"Normalized form: \*-\*-\* \*:17:00$", printed, re.MULTILINE), printed
