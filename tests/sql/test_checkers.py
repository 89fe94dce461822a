"""plpgsql_check and pgspot find nothing in any function, generated ones included, that is not explained here."""

from __future__ import annotations

import json
import re
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from servers import lacking

from pyflowguard import changes, database, server

ROOT = Path(__file__).parents[2]
DEPLOY = sorted((ROOT / "deploy").rglob("*.sql"))
BIN_15 = Path("/usr/lib/postgresql/15/bin")

# What these two tools say and is meant to be so.
PLPGSQL_CHECK_EXPLAINED = {
    "a session's setting is text, and PL/pgSQL casts it to whatever type the link has": re.compile(
        r"^flowguard\.\w+_fill\(\): target type is different type than source type"
    ),
    "rows of the ledger, of whichever table is asked for": re.compile(
        r"^flowguard\.explain\(.*\): cannot determinate a result of dynamic SQL"
    ),
    "EXECUTE of a prepared statement gives what that gives": re.compile(
        r"^flowguard\._repair_batch\(.*\): expression does not return data"
    ),
    "called for what it does; an assignment is quicker than PERFORM": re.compile(
        r'^flowguard\.\w+_followers\(\): never read variable "v_done"'
    ),
    "RETURN QUERY EXECUTE sets them": re.compile(r'^flowguard\._wrong_rows\(.*\): OUT variable "\w+" is maybe unmod'),
}
PGSPOT_EXPLAINED = {
    "PS002": "scripts bear a second run, so CREATE OR REPLACE; schema.sql refuses a schema that is not the deployer's",
    "PS010": "as PS002",
    "PS011": "as PS002",
    "PS012": "as PS002",
    "PS014": "as PS002",
    "PS015": "as PS002",
}
# No SET search_path: they write application tables, whose triggers would inherit it, or commit, or change it, or ask a
# condition as its author wrote it.
WITHOUT_PATH = {
    "_check_row_filter", "_count_remaining", "_enter_safe_path", "_estimate_rows", "_hold_back", "_leave_safe_path",
    "_next_key", "_quarantine_row", "_read_filter", "_repair_batch", "_repair_links", "_restore_row", "_revert_runs",
    "_undo_links", "_unmark_undo", "add_proximity_rule", "preview", "repair", "undo",
}  # fmt: skip


@pytest.fixture(scope="module")
def guarded_db() -> Iterator[str]:
    """Give the report's database with everything deployed, on a PostgreSQL 15 that has plpgsql_check.

    Where the machine lacks it, the tests are skipped, or fail in CI: see servers.lacking().
    """
    if not (BIN_15 / "postgres").exists() or not list(
        Path("/usr/share/postgresql/15/extension").glob("plpgsql_check*")
    ):
        lacking("PostgreSQL 15 with plpgsql_check")
    with server.throwaway_server(bindir=BIN_15) as running:
        dsn = make_conninfo(running.dsn(), options="-c search_path=migration,public")
        with database.connect(dsn) as connection:
            for name in ("schema.sql", "before.sql"):
                database.run_script(connection, ROOT / "sql" / "report" / name, action=f"loading {name}")
        changes.deploy(dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION plpgsql_check")
        yield dsn


def as_trigger_function(connection: psycopg.Connection[Any], oid: int, name: str, _: object) -> tuple[int, str, int]:
    """Make a trigger function of what the trigger of a source calls: only of that it is known what OLD and NEW are."""
    copy = f"flowguard.checked_{oid}"
    connection.execute(
        f"DO $$ BEGIN EXECUTE format('CREATE FUNCTION {copy}() RETURNS trigger LANGUAGE plpgsql AS %L', "  # noqa: S608
        f"(SELECT prosrc FROM pg_proc WHERE oid = {oid})); END $$"
    )
    row = connection.execute(
        "SELECT to_regproc(%s)::oid, t.tgrelid FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid "
        "WHERE strpos(p.prosrc, ':= ' || replace(%s, '(record,record,integer)', '(')) > 0 LIMIT 1",
        (copy, name),
    ).fetchone()
    assert row is not None, name
    return row[0], name, row[1]


def test_plpgsql_check_has_nothing_to_say(guarded_db: str) -> None:
    with psycopg.connect(guarded_db, autocommit=True) as connection:
        count, findings = 0, []
        functions = connection.execute(
            "SELECT p.oid, p.oid::regprocedure::text, "
            "(SELECT t.tgrelid FROM pg_trigger t WHERE t.tgfoid = p.oid LIMIT 1) "
            "FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang AND l.lanname = 'plpgsql' "
            "WHERE p.pronamespace = 'flowguard'::regnamespace ORDER BY 2"
        ).fetchall()
        for oid, name, table in [
            as_trigger_function(connection, *each) if each[1].endswith("(record,record,integer)") else each
            for each in functions
        ]:
            count += 1
            for line, message in connection.execute(
                "SELECT lineno, message FROM plpgsql_check_function_tb(%s, relid => coalesce(%s::oid, 0), "
                "fatal_errors => false, other_warnings => true, extra_warnings => true)",
                (oid, table),
            ):
                text = f"{name}: {message}"
                if not any(pattern.search(text) for pattern in PLPGSQL_CHECK_EXPLAINED.values()):
                    findings.append(f"{text} (line {line})")
    assert findings == []
    assert count > 60


def pgspot(text: str, tmp_path: Path) -> list[tuple[str, str]]:
    """Run the linter on a script; gives the code and title of each finding."""
    script = tmp_path / "script.sql"
    script.write_text(text, "utf-8")
    program = Path(sysconfig.get_path("scripts")) / "pgspot"
    done = subprocess.run([program, script], capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    found = re.findall(r"^(PS\d+): (.*)$", done.stdout, re.MULTILINE)
    assert "Errors: " in done.stdout
    return found


@pytest.mark.parametrize("path", DEPLOY, ids=lambda path: str(path.relative_to(ROOT)))
def test_pgspot_finds_nothing_unexplained(path: Path, tmp_path: Path) -> None:
    # The profile's scripts resolve the names of application tables by the deployer's search_path on purpose.
    by_path = {"PS001", "PS016", "PS017"} if path.parent.name == "report" else set()
    unexplained = []
    for code, title in pgspot(path.read_text("utf-8"), tmp_path):
        function = re.match(r"Function without explicit search_path: flowguard\.(\w+)\(", title)
        if code == "PS005" and function is not None and function[1] in WITHOUT_PATH:
            continue
        if code not in PGSPOT_EXPLAINED and code not in by_path:
            unexplained.append(f"{code}: {title}")
    assert unexplained == []


def test_pgspot_finds_nothing_in_generated_functions(guarded_db: str, tmp_path: Path) -> None:
    with psycopg.connect(guarded_db) as connection:
        texts = [
            definition
            for (definition,) in connection.execute(
                "SELECT pg_get_functiondef(p.oid) FROM pg_proc p WHERE p.pronamespace = 'flowguard'::regnamespace "
                "AND obj_description(p.oid, 'pg_proc') LIKE 'Generated by PyFlowGuard%'"
            )
        ]
    assert len(texts) > 10
    found = [finding for text in texts for finding in pgspot(f"{text};", tmp_path)]
    # No SET search_path in a row trigger, where it costs over a microsecond a row: all is qualified instead.
    assert {code for code, _ in found} <= {"PS002", "PS003", "PS005"}, json.dumps(found, indent=2)
