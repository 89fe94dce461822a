"""sql/monitoring: each file answers one question, for flowguard_viewer; where it finds something, and where not."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
import pytest
from changesets import deploy_profile_last
from drift.test_command import call
from engine.postgres import Connection, run
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from pyflowguard.doctor import COUNTED_BY_CHECK
from pyflowguard.health import KINDS

MONITORING = Path(__file__).parents[2] / "sql" / "monitoring"


@dataclass(frozen=True)
class Question:
    """What is planted, and a part of each row that is found, by column."""

    plant: tuple[str, ...]
    found: tuple[dict[str, Any], ...]


MANY = "INSERT INTO parent SELECT n, 1, NULL FROM generate_series(100, 199) n"
STOPPED = "INSERT INTO flowguard.repair_run (status, relation, link_column) VALUES ('stopped', 'public.child', 'flow')"

QUESTIONS: dict[str, Question] = {
    "coverage.sql": Question(
        ("INSERT INTO parent VALUES (11, 1, NULL)",),
        ({"relation": "parent", "link_column": "flow", "total": 2, "unlinked": 1, "coverage": 0.5},),
    ),
    "unlinked_rows.sql": Question(
        ("INSERT INTO parent VALUES (11, 1, NULL)",),
        ({"relation": "parent", "link_column": "flow", "row_key": {"id": 11}, "kind": "unlinked"},),
    ),
    "dangling_links.sql": Question(
        ("SELECT flowguard.unguard('parent', 'flow')", "INSERT INTO parent VALUES (11, 1, 77)"),
        ({"relation": "parent", "link_column": "flow", "row_key": {"id": 11}, "kind": "dangling"},),
    ),
    "mismatched_rows.sql": Question(
        ("INSERT INTO probe VALUES (61, NULL, 1, now())", "INSERT INTO child VALUES (21, 1, 2, NULL, 10)"),
        (
            {"relation": "child", "row_key": {"id": 21}, "kind": "mismatched"},
            {"relation": "probe", "row_key": {"id": 61}, "kind": "tenantless"},
        ),
    ),
    "quarantine_waiting.sql": Question(
        (
            "SELECT flowguard.unguard('parent', 'flow')",
            "INSERT INTO parent VALUES (11, 1, 77), (12, 1, 78)",
            "CALL flowguard.repair('parent', link_column => 'flow')",
        ),
        ({"table_name": "parent", "link_column": "flow", "held": 2, "run_id": 1},),
    ),
    "stopped_runs.sql": Question((STOPPED,), ({"status": "stopped", "relation": "public.child"},)),
    "repair_progress.sql": Question((), ()),  # see below
    "bypasses.sql": Question(
        ("SELECT flowguard.bypass('an import by hand')",),
        ({"done_by": "app_owner", "reason": "an import by hand"},),
    ),
    "unvalidated_keys.sql": Question(
        ("ALTER TABLE child DROP CONSTRAINT flowguard_child_flow_tenant_fkey",),
        ({"relation": "public.child", "name": "key_missing"},),
    ),
    "missing_indexes.sql": Question(
        ("DROP INDEX flowguard_child_flow_idx",), ({"relation": "public.child", "name": "index_missing"},)
    ),
    "disabled_triggers.sql": Question(
        (
            'ALTER TABLE child DISABLE TRIGGER "~flowguard_child_flow_insert"',
            "SELECT flowguard.pause('probe', 'flow')",
        ),
        ({"relation": "public.child", "name": "trigger_disabled"}, {"relation": "public.probe", "name": "paused"}),
    ),
    "unguarded_columns.sql": Question(
        ("CREATE TABLE late (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer)",),
        ({"relation": "public.late"},),
    ),
    "daily.sql": Question(
        (
            'DROP TRIGGER "~flowguard_child_flow_insert" ON child',
            "DROP INDEX flowguard_child_flow_idx",
            "INSERT INTO probe VALUES (61, NULL, 1, now())",
        ),
        (
            {"level": "ERROR", "name": "trigger_missing"},
            {"level": "WARN", "name": "index_missing"},
            {"level": "WARN", "name": "tenantless_links"},
        ),
    ),
}


Asked: TypeAlias = tuple[Connection, Callable[[str], list[dict[str, Any]]]]


@pytest.fixture
def asked(engine_db: str, roles: Callable[[str], Connection]) -> Asked:
    """Give the owner of the small application, and the way to ask a file's question as flowguard_viewer."""
    owner = psycopg.connect(engine_db, autocommit=True)
    run(owner, "SELECT flowguard.grant_roles()")
    viewer = roles("flowguard_viewer")

    def ask(name: str) -> list[dict[str, Any]]:
        with viewer.cursor(row_factory=dict_row) as cursor:
            return cursor.execute((MONITORING / name).read_bytes()).fetchall()

    return owner, ask


@pytest.mark.parametrize("name", QUESTIONS)
def test_nothing_is_found_where_all_is_well(asked: Asked, name: str) -> None:
    owner, ask = asked
    with owner:
        assert ask(name) == []


@pytest.mark.parametrize("name", [name for name, question in QUESTIONS.items() if question.found])
def test_what_is_planted_is_found(asked: Asked, name: str) -> None:
    owner, ask = asked
    with owner:
        for statement in QUESTIONS[name].plant:
            run(owner, statement)
        found = ask(name)
        parts = QUESTIONS[name].found
        assert [{column: row[column] for column in part} for row, part in zip(found, parts, strict=True)] == list(parts)


def test_psql_asks_them_for_whoever_has_the_role(
    report_db: str, as_role: Callable[[str, str], str], tool: Callable[[str], str]
) -> None:
    """The report's tables are in a schema on which flowguard_viewer has no right."""
    deploy_profile_last(make_conninfo(report_db, options="-c search_path=migration,public"), "report/links")
    psql = tool("psql")
    with psycopg.connect(as_role(report_db, "postgres"), autocommit=True) as admin:
        had_role = admin.execute("SELECT FROM pg_roles WHERE rolname = 'flowguard_viewer'").fetchall()
        run(admin, ("" if had_role else "CREATE ROLE flowguard_viewer NOLOGIN; ") + "CREATE ROLE onlooker LOGIN")
        try:
            run(admin, "GRANT flowguard_viewer TO onlooker; SELECT flowguard.grant_roles()")
            for file in sorted(MONITORING.glob("*.sql")):
                command = [
                    psql,
                    "-qXAt",
                    "-v",
                    "ON_ERROR_STOP=1",
                    "-d",
                    as_role(report_db, "onlooker"),
                    "-f",
                    str(file),
                ]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                assert (done.returncode, done.stderr) == (0, ""), file.name
                assert "import_field_mappings" in done.stdout or file.name not in {"unlinked_rows.sql", "daily.sql"}
        finally:
            run(admin, "DROP OWNED BY onlooker; DROP ROLE onlooker")


def test_a_repair_that_runs_is_seen(asked: Asked, engine_db: str) -> None:
    """It is held up in its first batch by a lock."""
    owner, ask = asked
    with owner, psycopg.connect(engine_db, autocommit=True) as worker, psycopg.connect(engine_db) as holder:
        run(owner, "SELECT flowguard.unguard('grandchild', 'flow'), flowguard.unguard('child', 'flow'), "
                   "flowguard.unguard('parent', 'flow')")  # fmt: skip
        run(owner, "INSERT INTO child (id, tenant, parent) SELECT n, 1, 10 FROM generate_series(100, 199) n")
        run(holder, "SELECT FROM child WHERE id = 150 FOR UPDATE")
        worker.pgconn.send_query(b"CALL flowguard.repair('child', batch_size => 20, link_column => 'flow')")
        found: list[dict[str, Any]] = []
        for _ in range(600):
            found = ask("repair_progress.sql")
            if found and found[0]["scanned"]:
                break
        holder.rollback()
        while worker.pgconn.get_result() is not None:
            pass
        [progress] = found
        assert (progress["relation"], progress["link_column"]) == ("public.child", "flow")
        assert 0 < progress["scanned"] < progress["total"]
        assert 0 < progress["percent"] < 100
        assert ask("repair_progress.sql") == []


def test_a_bypass_of_long_ago_is_not_listed(asked: Asked) -> None:
    owner, ask = asked
    with owner:
        run(owner, "SELECT flowguard.bypass('once'); "
                   "UPDATE flowguard.privileged_transaction SET started_at = now() - INTERVAL '8 days'")  # fmt: skip
        assert ask("bypasses.sql") == []


def test_every_file_is_asked_and_says_its_question_and_what_to_do() -> None:
    files = {file.name for file in MONITORING.glob("*.sql")}
    assert files == set(QUESTIONS)
    for name in QUESTIONS:
        comment = " ".join(line[3:] for line in (MONITORING / name).read_text().splitlines() if line.startswith("-- "))
        assert re.match(r"[A-Z][^?]*\?", comment), name
        assert "What to do: " in comment, name


def test_the_daily_query_lists_what_the_daily_command_lists(asked: Asked) -> None:
    owner, ask = asked
    with owner:
        for statement in QUESTIONS["daily.sql"].plant:
            run(owner, statement)
        run(owner, STOPPED)
        run(owner, "DROP TABLE grandchild")
        printed = call("check", owner, "--doctor", "--format", "text")
        listed = re.findall(r"^ +key: (.*)$", printed.stdout, re.MULTILINE)
        assert sorted(row["cache_key"] for row in ask("daily.sql")) == sorted(listed)
        assert len(listed) == 5
    left_out = set(re.findall(r"'([a-z]+(?:_[a-z]+)*)'", (MONITORING / "daily.sql").read_text().partition("NOT IN")[2]))
    assert left_out == COUNTED_BY_CHECK & set(KINDS)
