"""Deploy, revert, verify and status do what they say, and leave nothing half done."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import psycopg
import pytest
from changesets import ChangeSets

from pyflowguard import changes
from pyflowguard.database import Notice
from pyflowguard.errors import (
    DependencyMissing,
    PlanDiverged,
    PlanError,
    ScriptEdited,
    ScriptFailed,
    UsageError,
    VerifyFailed,
)
from pyflowguard.plan import Change

Tables = Callable[[str], set[str]]


def names(given: tuple[Change, ...]) -> list[str]:
    return [change.name for change in given]


def states(dsn: str, sets: ChangeSets) -> dict[str, str]:
    return {entry.change.name: entry.state for entry in changes.status(dsn, directory=sets.directory).changes}


def one(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


@pytest.fixture
def three(sets: ChangeSets) -> ChangeSets:
    sets.add_table("a")
    sets.tag("first")
    sets.add_table("b", dependencies="a")
    sets.add_table("c", dependencies="b")
    return sets


# --- Deploying


def test_deploy_applies_the_plan_in_order_and_again_does_nothing(
    empty_db: str, three: ChangeSets, tables: Tables
) -> None:
    result = changes.deploy(empty_db, directory=three.directory)
    assert names(result.deployed) == ["a", "b", "c"]
    assert tables(empty_db) == {"a", "b", "c"}
    again = changes.deploy(empty_db, directory=three.directory)
    assert again == changes.DeployResult((), (), (), dry_run=False)


def test_deploy_stops_at_a_change_or_a_tag(empty_db: str, three: ChangeSets, tables: Tables) -> None:
    changes.deploy(empty_db, to="@first", directory=three.directory)
    assert tables(empty_db) == {"a"}
    changes.deploy(empty_db, to="c^", directory=three.directory)
    assert tables(empty_db) == {"a", "b"}
    assert names(changes.deploy(empty_db, to="a", directory=three.directory).deployed) == []
    assert tables(empty_db) == {"a", "b"}


def test_a_dry_run_tells_and_does_nothing(empty_db: str, three: ChangeSets) -> None:
    result = changes.deploy(empty_db, to="b", directory=three.directory, dry_run=True)
    assert names(result.deployed) == ["a", "b"]
    assert result.dry_run
    assert (
        one(empty_db, "SELECT count(*) FROM pg_class WHERE relnamespace::regnamespace::text !~ '^pg_|information'") == 0
    )


def test_an_unknown_target_is_refused_before_anything_is_done(empty_db: str, three: ChangeSets, tables: Tables) -> None:
    with pytest.raises(UsageError, match="no change nope"):
        changes.deploy(empty_db, to="nope", directory=three.directory)
    assert tables(empty_db) == set()


def test_a_script_is_sent_as_it_is(empty_db: str, sets: ChangeSets) -> None:
    """A percent sign, a colon, quotes, a dollar quote with semicolons and a result row are nothing special."""
    sets.add(
        "odd",
        "CREATE TABLE odd (t text);\n"
        "INSERT INTO odd VALUES ('100%s :x %(y)s'), ($q$a;b'c$q$), (E'it''s \\\\ ;');\n"
        "SELECT 'a row that nobody wants' FROM odd;\n"
        "DO $$ BEGIN PERFORM 1; END; $$;",
    )
    changes.deploy(empty_db, directory=sets.directory)
    assert one(empty_db, "SELECT string_agg(t, '|' ORDER BY t) FROM odd") == "100%s :x %(y)s|a;b'c|it's \\ ;"


def test_result_rows_are_not_printed(empty_db: str, sets: ChangeSets, capfd: pytest.CaptureFixture[str]) -> None:
    sets.add("rows", "SELECT 'unwanted';")
    changes.deploy(empty_db, directory=sets.directory)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize("statement", ["CREATE INDEX CONCURRENTLY i ON t (n);", "CALL in_batches();", "VACUUM t;"])
def test_a_single_statement_may_run_outside_a_transaction(empty_db: str, sets: ChangeSets, statement: str) -> None:
    sets.add(
        "table",
        "CREATE TABLE t (n int);\nCREATE PROCEDURE in_batches() LANGUAGE plpgsql AS $$ BEGIN\n"
        "FOR i IN 1..3 LOOP INSERT INTO t VALUES (i); COMMIT; END LOOP; END $$;",
    )
    sets.add_raw("single", f"-- in a statement of its own\n{statement}\n")
    assert names(changes.deploy(empty_db, directory=sets.directory).deployed) == ["table", "single"]


def test_scripts_run_with_the_users_own_settings_each_on_its_own(empty_db: str, sets: ChangeSets) -> None:
    sets.add("first", "SET search_path TO nowhere; SET work_mem TO '1MB'; CREATE TEMP TABLE left_behind (i int);")
    sets.add(
        "second",
        "CREATE TABLE seen AS SELECT current_setting('search_path') AS path, current_setting('work_mem') AS mem,"
        " to_regclass('pg_temp.left_behind') IS NULL AS clean;",
    )
    dsn = psycopg.conninfo.make_conninfo(empty_db, options="-c search_path=app,public")
    changes.deploy(dsn, directory=sets.directory)
    with psycopg.connect(empty_db) as connection:
        assert connection.execute("SELECT path, mem, clean FROM seen").fetchone() == ("app,public", "4MB", True)


def test_the_registry_has_a_schema_of_its_own(empty_db: str, three: ChangeSets) -> None:
    changes.deploy(empty_db, directory=three.directory)
    with psycopg.connect(empty_db) as connection:
        rows = connection.execute(
            "SELECT relnamespace::regnamespace::text, relname FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace::regnamespace::text !~ '^pg_|information|sqitch'"
            " AND relname !~ '^[abc]$'"
        ).fetchall()
        recorded = connection.execute(
            "SELECT migration_id FROM pyflowguard.migration ORDER BY applied_at_utc"
        ).fetchall()
    assert sorted(rows) == [
        ("pyflowguard", name) for name in ("attempt", "deployment", "migration", "migration_log", "migration_version")
    ]
    entries = changes.status(empty_db, directory=three.directory).changes
    assert [change_id for (change_id,) in recorded] == [entry.change.id for entry in entries]


def test_every_registry_object_that_is_ours_is_commented(empty_db: str, three: ChangeSets) -> None:
    changes.deploy(empty_db, directory=three.directory)
    with psycopg.connect(empty_db) as connection:
        rows = connection.execute(
            "SELECT c.relname, a.attname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid"
            " WHERE c.oid IN ('pyflowguard.deployment'::regclass, 'pyflowguard.attempt'::regclass) AND a.attnum > 0"
            " AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid, 'pg_class') IS NULL)"
        ).fetchall()
    assert rows == []


# --- Failing


def test_a_failing_script_leaves_nothing_and_is_shown_in_full(empty_db: str, three: ChangeSets, tables: Tables) -> None:
    three.add(
        "bad",
        "CREATE TABLE bad (i int);\n\nDO $$\nBEGIN\n"
        "RAISE EXCEPTION 'It is wrong.' USING ERRCODE = 'FG001', DETAIL = 'Very wrong.', HINT = 'Right it.';\nEND $$;",
    )
    with pytest.raises(ScriptFailed) as caught:
        changes.deploy(empty_db, directory=three.directory)
    assert tables(empty_db) == {"a", "b", "c"}
    assert states(empty_db, three) == {"a": "deployed", "b": "deployed", "c": "deployed", "bad": "pending"}
    error = caught.value
    assert error.message == f"{three.directory}/deploy/bad.sql:5: ERROR FG001: It is wrong."
    assert (error.detail, error.hint) == ("Very wrong.", "Right it.")
    assert error.context == "PL/pgSQL function inline_code_block line 3 at RAISE"
    assert error.exit_code == 4


FAIL = "SELECT 1/0;\nCOMMIT;"  # PostgreSQL gives no position for it: the line is that of the statement
QUOTED = "SELECT 'é→🐘', E'\\';', $$;\n;$$, \"a;b\" FROM (SELECT 1 AS \"a;b\") AS s;"
ATOMIC = "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE 1 WHEN 1 THEN 2 END; END;"
DEFERRED = "CREATE TABLE d (i int UNIQUE DEFERRABLE INITIALLY DEFERRED);\nINSERT INTO d VALUES (1), (1);"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("BEGIN;\nSELECT 1;\nSELECT nothing;\nCOMMIT;", 3),
        ("BEGIN;\nSELECT\n  1,\n  nothing;\nCOMMIT;", 4),
        ("BEGIN;\nSELEC 1;\nCOMMIT;", 2),  # a syntax error: nothing at all is run
        ("BEGIN;\nCREATE TABLE x (i int);\n-- again; 'quoted\nCREATE TABLE x (i int);\nCOMMIT;", 4),
        (f"BEGIN;\n{QUOTED}\n{FAIL}", 4),
        (f"BEGIN;\n/* ; /* nested; */ ; */ SELECT 1;\n/* and */ {FAIL}", 3),
        (f"BEGIN;\n{ATOMIC}\n\n{FAIL}", 4),
        (f"BEGIN;\nCREATE TABLE r ();\nCREATE RULE q AS ON INSERT TO r DO (SELECT 1; SELECT 2);\n{FAIL}", 4),
        (f"BEGIN;\n{DEFERRED}\n\nCOMMIT;", 5),  # what is deferred fails at COMMIT
        ("CALL nothing();", 1),
    ],
)
def test_an_error_is_placed_on_its_line(empty_db: str, sets: ChangeSets, text: str, line: int, tables: Tables) -> None:
    sets.add_raw("x", text)
    with pytest.raises(ScriptFailed) as caught:
        changes.deploy(empty_db, directory=sets.directory)
    assert caught.value.message.startswith(f"{sets.directory}/deploy/x.sql:{line}: ERROR ")
    assert tables(empty_db) == set()


def test_a_path_below_the_current_directory_is_shown_short(
    empty_db: str, sets: ChangeSets, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets.add("x", "SELECT nothing;")
    monkeypatch.chdir(sets.directory)
    with pytest.raises(ScriptFailed, match=r"^deploy/x\.sql:3: ERROR 42703: column .nothing. does not exist"):
        changes.deploy(empty_db, directory=sets.directory)


def test_a_script_that_leaves_its_transaction_open_is_refused(empty_db: str, sets: ChangeSets, tables: Tables) -> None:
    sets.add_raw("x", "BEGIN; CREATE TABLE x (i int);")
    with pytest.raises(ScriptFailed, match="leaves its transaction open"):
        changes.deploy(empty_db, directory=sets.directory)
    assert tables(empty_db) == set()
    assert states(empty_db, sets) == {"x": "pending"}


def test_a_script_that_copies_from_the_client_is_refused(empty_db: str, sets: ChangeSets, tables: Tables) -> None:
    sets.add("x", "CREATE TABLE x (i int);\nCOPY x FROM STDIN;\n1\n\\.\n")
    with pytest.raises(ScriptFailed):
        changes.deploy(empty_db, directory=sets.directory)
    sets.add_raw("x2", "")
    (sets.directory / "deploy" / "x.sql").write_text("BEGIN;\nCREATE TABLE x (i int);\nCOPY x FROM STDIN;\nCOMMIT;\n")
    with pytest.raises(ScriptFailed, match=r"x\.sql:3: COPY .* cannot be in a script"):
        changes.deploy(empty_db, directory=sets.directory)
    assert tables(empty_db) == set()


def test_a_change_that_does_not_verify_is_reverted(empty_db: str, three: ChangeSets, tables: Tables) -> None:
    three.add("d", "CREATE TABLE d (i int);", "DROP TABLE d;", "SELECT j FROM d;")
    with pytest.raises(
        VerifyFailed, match=r"d does not verify, so it was reverted\. .*verify/d\.sql:2: ERROR 42703"
    ) as caught:
        changes.deploy(empty_db, directory=three.directory)
    assert caught.value.exit_code == 4
    assert tables(empty_db) == {"a", "b", "c"}
    assert states(empty_db, three)["d"] == "pending"
    changes.deploy(empty_db, directory=three.directory, verify=False)
    assert states(empty_db, three)["d"] == "deployed"


def test_a_change_that_can_neither_be_verified_nor_reverted_is_told_apart(empty_db: str, sets: ChangeSets) -> None:
    sets.add("d", "CREATE TABLE d (i int);", "DROP TABLE other;", "SELECT j FROM d;")
    with pytest.raises(VerifyFailed, match=r"could not be reverted either: .*revert/d\.sql:2: ERROR 42P01") as caught:
        changes.deploy(empty_db, directory=sets.directory)
    assert caught.value.detail is not None
    assert "verify/d.sql:2: ERROR 42703" in caught.value.detail
    assert states(empty_db, sets)["d"] == "interrupted"


def test_a_missing_deploy_script_is_found_before_anything_is_run(
    empty_db: str, three: ChangeSets, tables: Tables
) -> None:
    (three.directory / "deploy" / "c.sql").unlink()
    with pytest.raises(PlanError, match="c has no deploy script"):
        changes.deploy(empty_db, directory=three.directory)
    assert tables(empty_db) == set()


# --- Reverting


def test_revert_goes_back_to_a_change_which_stays(empty_db: str, three: ChangeSets, tables: Tables) -> None:
    changes.deploy(empty_db, directory=three.directory)
    assert names(changes.revert(empty_db, to="@first", directory=three.directory).reverted) == ["c", "b"]
    assert tables(empty_db) == {"a"}
    assert names(changes.revert(empty_db, directory=three.directory).reverted) == ["a"]
    assert tables(empty_db) == set()
    assert changes.revert(empty_db, directory=three.directory).reverted == ()
    assert names(changes.deploy(empty_db, directory=three.directory).deployed) == ["a", "b", "c"]


def test_a_dry_revert_tells_and_does_nothing(empty_db: str, three: ChangeSets, tables: Tables) -> None:
    changes.deploy(empty_db, directory=three.directory)
    result = changes.revert(empty_db, to="a", directory=three.directory, dry_run=True)
    assert names(result.reverted) == ["c", "b"]
    assert tables(empty_db) == {"a", "b", "c"}


def test_revert_to_what_is_not_deployed_is_refused(empty_db: str, three: ChangeSets) -> None:
    changes.deploy(empty_db, to="a", directory=three.directory)
    with pytest.raises(UsageError, match="c is not deployed"):
        changes.revert(empty_db, to="c", directory=three.directory)


def test_a_failing_revert_leaves_the_change_deployed(empty_db: str, three: ChangeSets, tables: Tables) -> None:
    changes.deploy(empty_db, directory=three.directory)
    (three.directory / "revert" / "b.sql").write_text("BEGIN;\nDROP TABLE b;\nSELECT 1/0;\nCOMMIT;")
    with pytest.raises(ScriptFailed, match=r"revert/b\.sql:3: ERROR 22012: division by zero"):
        changes.revert(empty_db, directory=three.directory)
    assert tables(empty_db) == {"a", "b"}
    assert states(empty_db, three) == {"a": "deployed", "b": "deployed", "c": "pending"}


# --- Verifying


def test_verify_tells_which_changes_hold(empty_db: str, three: ChangeSets) -> None:
    three.add("unchecked", "SELECT 1;")
    changes.deploy(empty_db, directory=three.directory)
    with psycopg.connect(empty_db) as connection:
        connection.execute("DROP TABLE b")
    outcomes = changes.verify(empty_db, directory=three.directory)
    assert [(o.change.name, o.checked, o.failure is None) for o in outcomes] == [
        ("a", True, True),
        ("b", True, False),
        ("c", True, True),
        ("unchecked", False, True),
    ]
    assert "verify/b.sql:2: ERROR 42P01" in str(outcomes[1].failure)
    assert len(changes.verify(empty_db, to="@first", directory=three.directory)) == 1


# --- Status and histories that do not fit


def test_status_tells_when_and_by_whom(empty_db: str, three: ChangeSets) -> None:
    before = datetime.now(timezone.utc)
    changes.deploy(empty_db, to="a", directory=three.directory)
    first, second, _ = changes.status(empty_db, directory=three.directory).changes
    assert (first.state, second.state, second.record) == ("deployed", "pending", None)
    assert first.record is not None
    assert first.record.deployed_by == "app_owner"
    assert before - timedelta(minutes=1) < first.record.deployed_at < datetime.now(timezone.utc) + timedelta(minutes=1)
    text = (three.directory / "deploy" / "a.sql").read_bytes()
    assert first.record.script_hash == hashlib.sha1(text, usedforsecurity=False).hexdigest()


def test_an_edited_script_is_noticed(empty_db: str, three: ChangeSets, tables: Tables) -> None:
    changes.deploy(empty_db, to="b", directory=three.directory)
    script = three.directory / "deploy" / "a.sql"
    original = script.read_text()
    script.write_text(original + "-- a remark\n")
    assert states(empty_db, three) == {"a": "edited", "b": "deployed", "c": "pending"}
    with pytest.raises(ScriptEdited, match="script of a has been edited") as caught:
        changes.deploy(empty_db, directory=three.directory)
    assert caught.value.exit_code == 4
    assert caught.value.hint is not None
    assert "--accept-edits" in caught.value.hint
    with pytest.raises(ScriptEdited):
        changes.deploy(empty_db, directory=three.directory, dry_run=True)
    assert tables(empty_db) == {"a", "b"}
    assert names(changes.deploy(empty_db, to="b", directory=three.directory).edited) == ["a"]

    script.write_text(original)
    assert states(empty_db, three)["a"] == "deployed"
    script.write_text(original + "-- a remark\n")
    result = changes.deploy(empty_db, directory=three.directory, accept_edits=True)
    assert (names(result.deployed), result.edited) == (["c"], ())
    assert set(states(empty_db, three).values()) == {"deployed"}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda text: text.replace("b [a]", "b2 [a]"),
            r"change 2: the database has b .*; the plan has b2(.|\n)*no b\.",
        ),
        (lambda text: text.replace("Tester", "Another"), r"change 1: the database has a (.|\n)*with another id"),
        (lambda text: text[: text.index("b [a]")], r"change 2: the database has b .*; the plan has nothing"),
        (
            lambda text: text.replace("b [a]", "x [a] 2026-01-02T03:04:05Z T <t@e>\nb [a]"),
            r"change 2: .* the plan has x",
        ),
    ],
    ids=["renamed", "edited", "cut off", "inserted"],
)
def test_a_plan_that_tells_another_history_is_refused(
    empty_db: str, three: ChangeSets, tables: Tables, edit: Callable[[str], str], message: str
) -> None:
    changes.deploy(empty_db, to="b", directory=three.directory)
    for kind in ("deploy", "revert", "verify"):
        for name in ("x", "b2"):
            (three.directory / kind / f"{name}.sql").write_text("SELECT 1;")
    text = edit(three.plan.read_text())
    if "c [b]" in text and "b2 [a]" in text:
        text = text.replace("c [b]", "c [b2]")
    three.plan.write_text(text)
    for act in (changes.deploy, changes.revert, changes.verify, changes.status):
        with pytest.raises(PlanDiverged, match=message) as caught:
            act(empty_db, directory=three.directory)
        assert caught.value.exit_code == 4
    assert tables(empty_db) == {"a", "b"}


# --- Projects beside one another


def test_projects_do_not_see_each_other_but_by_their_dependencies(
    empty_db: str, tmp_path: Path, tables: Tables
) -> None:
    base, app = ChangeSets(tmp_path / "base", "base"), ChangeSets(tmp_path / "app", "app")
    base.add_table("people")
    app.add_table("orders", dependencies="base:people")
    with pytest.raises(DependencyMissing, match="orders requires base:people, which is not deployed"):
        changes.deploy(empty_db, directory=app.directory)
    changes.deploy(empty_db, directory=base.directory)
    changes.deploy(empty_db, directory=app.directory)
    assert tables(empty_db) == {"people", "orders"}
    changes.revert(empty_db, directory=app.directory)
    assert tables(empty_db) == {"people"}
    app.add_table("rival", dependencies="!base:people")
    with pytest.raises(DependencyMissing, match="rival conflicts with base:people"):
        changes.deploy(empty_db, directory=app.directory)
    assert tables(empty_db) == {"people"}


def test_a_conflict_within_the_plan_is_refused(empty_db: str, three: ChangeSets) -> None:
    three.add_table("d", dependencies="!a")
    with pytest.raises(DependencyMissing, match="d conflicts with a"):
        changes.deploy(empty_db, directory=three.directory)


def test_a_reworked_change_runs_both_scripts(empty_db: str, sets: ChangeSets) -> None:
    define = "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT {}';"
    sets.add("f", define.format(1), "DROP FUNCTION f();")
    sets.tag("v1")
    for kind in ("deploy", "revert"):
        (sets.directory / kind / "f.sql").rename(sets.directory / kind / "f@v1.sql")
    sets.add("f", define.format(2), define.format(1), dependencies="f@v1")
    changes.deploy(empty_db, directory=sets.directory)
    assert one(empty_db, "SELECT f()") == 2
    changes.revert(empty_db, to="f@v1", directory=sets.directory)
    assert one(empty_db, "SELECT f()") == 1


# --- What is told while it happens


def test_notices_come_as_they_are_raised(empty_db: str, sets: ChangeSets) -> None:
    sets.add(
        "talk",
        "DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two' USING DETAIL = 'd', HINT = 'h'; END $$;",
        verify="DO $$ BEGIN RAISE NOTICE 'three'; END $$;",
    )
    seen: list[Notice] = []
    changes.deploy(empty_db, directory=sets.directory, on_notice=seen.append)
    assert seen == [Notice("NOTICE", "one"), Notice("WARNING", "two", "d", "h"), Notice("NOTICE", "three")]


def test_progress_is_told_step_by_step(empty_db: str, three: ChangeSets) -> None:
    seen: list[changes.Step | changes.Waiting] = []
    changes.deploy(empty_db, to="b", directory=three.directory, on_progress=seen.append)
    steps = [step for step in seen if isinstance(step, changes.Step)]
    assert [(s.action, s.change.name, s.number, s.total, s.seconds is None) for s in steps] == [
        ("deploy", "a", 1, 2, True),
        ("deploy", "a", 1, 2, False),
        ("deploy", "b", 2, 2, True),
        ("deploy", "b", 2, 2, False),
    ]
    assert all(step.seconds is None or 0 < step.seconds < 60 for step in steps)


def test_who_deployed_is_logged_even_without_a_name(
    empty_db: str, three: ChangeSets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: (_ for _ in ()).throw(KeyError("uid not found")))
    changes.deploy(empty_db, to="a", directory=three.directory)
    assert one(empty_db, "SELECT username FROM pyflowguard.migration_log") == str(os.getuid())
