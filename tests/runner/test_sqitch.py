"""The same plan under real sqitch: it deploys, verifies and reverts it, and each tool can take over from the other."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from changesets import NEWER, ChangeSets, write_newer_release
from psycopg.conninfo import make_conninfo
from runner.conftest import Sqitch

from pyflowguard import changes
from pyflowguard.errors import LockNotObtained, ScriptFailed
from pyflowguard.plan import read_plan


def rows(dsn: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query.encode()).fetchall()


APPLICATION_OBJECTS = """
SELECT c.oid::regclass::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema', 'pyflowguard', 'sqitch')
UNION ALL
SELECT p.oid::regprocedure::text FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
UNION ALL
SELECT nspname FROM pg_namespace
 WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'pyflowguard', 'sqitch')
ORDER BY 1
"""


def test_sqitch_deploys_verifies_and_reverts_the_shipped_plan(sqitch: Sqitch, report_db: str) -> None:
    """On the report's database, for the whole plan: the engine and the report's profile."""
    plan = read_plan()
    assert plan.changes, "the shipped plan is empty"
    dsn = make_conninfo(report_db, options="-c search_path=migration,public")
    before = rows(dsn, APPLICATION_OBJECTS)
    sqitch(dsn, plan.directory, "deploy", "--verify")
    deployed = rows(dsn, "SELECT change_id, change, script_hash FROM sqitch.changes ORDER BY committed_at")
    assert deployed == [(change.id, change.name, plan.script_hash(change)) for change in plan.changes]
    tags = rows(dsn, "SELECT tag_id, tag FROM sqitch.tags")
    assert sorted(tags) == sorted((tag.id, f"@{tag.name}") for change in plan.changes for tag in change.tags)
    sqitch(dsn, plan.directory, "verify")
    sqitch(dsn, plan.directory, "revert", "-y")
    assert rows(dsn, "SELECT change FROM sqitch.changes") == []
    assert rows(dsn, APPLICATION_OBJECTS) == before


def test_sqitch_goes_on_with_a_newer_release(sqitch: Sqitch, empty_db: str, tmp_path: Path) -> None:
    newer = tmp_path / "newer"
    newer.mkdir()
    write_newer_release(newer)
    sqitch(empty_db, read_plan().directory, "deploy", "--verify")
    older = rows(empty_db, "SELECT flowguard.version()")
    sqitch(empty_db, newer, "deploy", "--verify")
    assert rows(empty_db, "SELECT flowguard.version()") == [(NEWER,)]
    sqitch(empty_db, newer, "verify")
    sqitch(empty_db, newer, "revert", "-y", "--to", "@older")
    assert rows(empty_db, "SELECT flowguard.version()") == older


def test_taking_over_records_nothing_that_does_not_verify(empty_db: str, sets: ChangeSets) -> None:
    sets.add_table("a")
    with pytest.raises(ScriptFailed, match=r"verify/a\.sql:2: ERROR 42P01"):
        changes.deploy(empty_db, directory=sets.directory, log_only=True)
    assert [entry.state for entry in changes.status(empty_db, directory=sets.directory).changes] == ["pending"]


def test_a_running_sqitch_holds_up_pyflowguard(sqitch: Sqitch, empty_db: str, sets: ChangeSets) -> None:
    sets.add("slow", "SELECT pg_sleep(2);")
    runner = threading.Thread(target=sqitch, args=(empty_db, sets.directory, "deploy"))
    runner.start()
    try:
        deadline = time.monotonic() + 20
        while not rows(empty_db, "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg\\_sleep(%'"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(LockNotObtained, match="process"):
            changes.deploy(empty_db, directory=sets.directory, lock_timeout=timedelta(seconds=0.1))
    finally:
        runner.join()
    assert rows(empty_db, "SELECT change FROM sqitch.changes") == [("slow",)]
