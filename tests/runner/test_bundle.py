"""A bundle, run by psql alone, leaves what `pyflowguard deploy` leaves, and run again changes nothing."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from acceptance.command import Run, in_migration
from changesets import ChangeSets
from psycopg.conninfo import conninfo_to_dict

from pyflowguard import changes
from pyflowguard.bundle import bundle_deploy, bundle_revert
from pyflowguard.errors import DependencyMissing, PlanError, UsageError
from pyflowguard.plan import read_plan

if TYPE_CHECKING:
    from conftest import Databases, TestPostgresql

Tables = Callable[[str], set[str]]
Psql = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def psql(postgresql: TestPostgresql, tool: Callable[[str], str], tmp_path: Path) -> Psql:
    """Run a text as a file by psql, as its first lines say."""
    own = postgresql.bin / "psql"
    program = str(own) if own.exists() else tool("psql")

    def run(dsn: str, text: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "bundle.sql"
        file.write_text(text, encoding="utf-8")
        settings = conninfo_to_dict(dsn)
        options = {"PGOPTIONS": str(settings["options"])} if "options" in settings else {}
        result = subprocess.run(
            [program, "-X", "-v", "ON_ERROR_STOP=1", "--file", file, "-h", str(settings["host"]),
             "-p", str(settings["port"]), "-U", str(settings["user"]), "-d", str(settings["dbname"])],
            env={**{key: value for key, value in os.environ.items() if not key.startswith("PG")}, **options},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )  # fmt: skip
        assert not check or (result.returncode == 0 and "ERROR" not in result.stderr), result.stdout + result.stderr
        return result

    return run


def rows(dsn: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query.encode()).fetchall()


def execute(dsn: str, statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statements.encode())


def states(dsn: str, sets: ChangeSets) -> dict[str, str]:
    return {entry.change.name: entry.state for entry in changes.status(dsn, directory=sets.directory).changes}


RECORDS = {
    "changes": "change_id, script_hash, change, project, note, planned_at, planner_name, planner_email",
    "tags": "tag_id, tag, project, change_id, note, planned_at, planner_name, planner_email",
    "dependencies": "change_id, type, dependency, dependency_id",
    "events": "event, change_id, change, requires, conflicts, tags, planned_at, planner_name, planner_email",
}


def records(dsn: str) -> list[list[tuple[object, ...]]]:
    return [
        rows(dsn, f"SELECT {what} FROM sqitch.{table} ORDER BY 1, 2, 3")  # noqa: S608
        for table, what in RECORDS.items()
    ]


def everything(dsn: str) -> list[list[tuple[object, ...]]]:
    return [rows(dsn, f"SELECT * FROM sqitch.{table} ORDER BY 1, 2, 3") for table in RECORDS]  # noqa: S608


@pytest.fixture
def three(sets: ChangeSets) -> ChangeSets:
    sets.add_table("a")
    sets.tag("v1")
    sets.add_table("b", dependencies="a@v1")
    sets.add_table("c", dependencies="b")
    return sets


# --- The shipped plan


def test_the_whole_roll_out_is_what_deploy_makes_of_it(
    psql: Psql, databases: Databases, report_template: str, postgresql: TestPostgresql
) -> None:
    """On the report's database: schema, links, runs and records; a second run, the way back, and there again."""
    dump = postgresql.bin / "pg_dump"
    dumped = [str(dump), "--schema-only", "--exclude-schema=pyflowguard", "--dbname"]

    def schema(dsn: str) -> str:
        result = subprocess.run([*dumped, dsn], capture_output=True, text=True, check=True)
        return re.sub(r"^\\(un)?restrict .*$", "", result.stdout, flags=re.MULTILINE)

    links = "SELECT * FROM flowguard.link_status ORDER BY 1, 2"
    runs = (
        "SELECT note, status, linked, translated, quarantined, unlinked, remaining FROM flowguard.run ORDER BY run_id"
    )
    with databases.new(report_template) as one, databases.new(report_template) as other:
        deployed, bundled = in_migration(one), in_migration(other)
        before = schema(bundled)
        changes.deploy(deployed)
        result = psql(bundled, bundle_deploy())
        assert re.findall(r"^  \+ (\S+)", result.stdout, re.MULTILINE) == [c.name for c in read_plan().changes]
        assert schema(bundled) == schema(deployed)
        assert records(bundled) == records(deployed)
        assert rows(bundled, links) == rows(deployed, links)
        assert rows(bundled, runs) == rows(deployed, runs)
        all_rows = everything(bundled)
        again = psql(bundled, bundle_deploy())
        assert again.stdout == f"Deployed: {read_plan().changes[-1].name} is the last one.\n"
        assert everything(bundled) == all_rows
        assert {entry.state for entry in changes.status(bundled).changes} == {"deployed"}
        assert all(outcome.failure is None for outcome in changes.verify(bundled))
        psql(bundled, bundle_revert())
        assert {entry.state for entry in changes.status(bundled).changes} == {"pending"}
        after = re.sub(r"(?s)(?m)^-- Name: \S+; Type: \w+; Schema: sqitch;.*?(?=^-- Name: |\Z)", "", schema(bundled))
        assert rows(bundled, "SELECT nspname FROM pg_namespace WHERE nspname ~ 'flowguard'") == []
        for line in before.splitlines():
            assert line in after


# --- Again, in part, and with errors


def test_a_second_run_goes_on_where_the_first_stopped(
    psql: Psql, empty_db: str, three: ChangeSets, tables: Tables
) -> None:
    (three.directory / "deploy" / "b.sql").write_text("BEGIN;\nCREATE TABLE b (i int);\nTABLE missing;\nCOMMIT;\n")
    failed = psql(empty_db, bundle_deploy(directory=three.directory), check=False)
    assert (failed.returncode, failed.stdout) == (3, "  + a @v1\n"), "only what is done is said to be"
    assert 'relation "missing" does not exist' in failed.stderr
    assert tables(empty_db) == {"a"}
    assert states(empty_db, three) == {"a": "deployed", "b": "pending", "c": "pending"}
    (three.directory / "deploy" / "b.sql").write_text("BEGIN;\nCREATE TABLE b (i int);\nCOMMIT;\n")
    result = psql(empty_db, bundle_deploy(directory=three.directory))
    assert result.stdout == "  + b\n  + c\nDeployed: c is the last one.\n"
    assert tables(empty_db) == {"a", "b", "c"}
    assert set(states(empty_db, three).values()) == {"deployed"}
    assert changes.deploy(empty_db, directory=three.directory).deployed == ()


def test_what_does_not_verify_is_not_there(psql: Psql, empty_db: str, three: ChangeSets, tables: Tables) -> None:
    """In one transaction with the script, or reverted after it where that is a statement by itself."""
    verify = three.directory / "verify" / "b.sql"
    verify.write_text("SELECT 1 / 0;")
    failed = psql(empty_db, bundle_deploy(directory=three.directory), check=False)
    assert (failed.returncode, tables(empty_db)) == (3, {"a"})
    assert "division by zero" in failed.stderr
    (three.directory / "deploy" / "b.sql").write_text("CREATE TABLE b (i int)\n")
    failed = psql(empty_db, bundle_deploy(directory=three.directory), check=False)
    assert (failed.returncode, tables(empty_db), failed.stdout) == (3, {"a"}, "")
    assert "division by zero" in failed.stderr
    assert "b does not verify, so it was reverted" in failed.stderr
    assert states(empty_db, three) == {"a": "deployed", "b": "pending", "c": "pending"}
    verify.write_text("TABLE b;")
    psql(empty_db, bundle_deploy(directory=three.directory))
    assert set(states(empty_db, three).values()) == {"deployed"}


def test_a_script_runs_with_the_users_own_settings_and_so_does_its_verify_script(
    psql: Psql, empty_db: str, sets: ChangeSets
) -> None:
    execute(empty_db, "CREATE SCHEMA other; CREATE SCHEMA app")
    sets.add("a", "SET LOCAL search_path = other; SET work_mem = '1MB'; CREATE TABLE here ();\nCREATE TEMP TABLE t ();",
             verify="TABLE app.mine; SELECT 1 / (current_schema() = 'app')::int;")  # fmt: skip
    sets.add("b", "CREATE TABLE there ();\nCREATE TEMP TABLE t ();\n"
             "DO $$ BEGIN ASSERT current_setting('work_mem') <> '1MB'; END $$;")  # fmt: skip
    execute(empty_db, "CREATE TABLE app.mine ()")
    psql(f"{empty_db} options='-c search_path=app'", bundle_deploy(directory=sets.directory))
    found = rows(empty_db, "SELECT relnamespace::regnamespace::text, relname FROM pg_class WHERE relname ~ 'here$'")
    assert sorted(found) == [("app", "there"), ("other", "here")]


def test_a_part_of_the_plan(psql: Psql, empty_db: str, three: ChangeSets, tables: Tables) -> None:
    part = bundle_deploy(since="@v1", to="b", directory=three.directory)
    failed = psql(empty_db, part, check=False)
    assert "a has to be deployed before" in failed.stderr
    changes.deploy(empty_db, directory=three.directory, to="@v1")
    assert psql(empty_db, part).stdout == "  + b\nDeployed: b is the last one.\n"
    assert tables(empty_db) == {"a", "b"}
    back = bundle_revert(since="b", to="a", directory=three.directory)
    changes.deploy(empty_db, directory=three.directory)
    failed = psql(empty_db, back, check=False)
    assert "c is deployed, which comes after b" in failed.stderr
    assert tables(empty_db) == {"a", "b", "c"}
    whole = bundle_revert(to="a", directory=three.directory)
    assert psql(empty_db, whole).stdout == "  - c\n  - b\nReverted: b is the last one.\n"
    assert psql(empty_db, whole).stdout == "Reverted: b is the last one.\n"
    assert psql(empty_db, back).returncode == 0
    assert states(empty_db, three) == {"a": "deployed", "b": "pending", "c": "pending"}
    assert [change.name for change in changes.deploy(empty_db, directory=three.directory).deployed] == ["b", "c"]


# --- What is refused


def refused(psql: Psql, dsn: str, text: str, message: str) -> None:
    before = everything(dsn)
    result = psql(dsn, text, check=False)
    assert result.returncode == 3
    assert f"ERROR:  {message}" in result.stderr
    assert everything(dsn) == before


def test_a_database_that_is_not_as_it_has_to_be_is_refused(
    psql: Psql, empty_db: str, three: ChangeSets, tmp_path: Path
) -> None:
    changes.deploy(empty_db, directory=three.directory, to="b")
    text = bundle_deploy(directory=three.directory)
    other = ChangeSets(tmp_path / "other", "demo")
    other.add_table("a")
    diverged = "the database and the plan diverge at change 2: the database has b ("
    refused(psql, empty_db, bundle_deploy(directory=other.directory), diverged)
    refused(psql, empty_db, bundle_revert(directory=other.directory), diverged)
    plan = other.plan.read_text()
    other.plan.write_text(plan.replace("=demo\n", "=demo\n%uri=https://example.org/\n"))
    refused(
        psql,
        empty_db,
        bundle_deploy(directory=other.directory),
        "the registry has another project under this name or this URI",
    )
    with psycopg.connect(empty_db) as holder:
        holder.execute("SELECT pg_advisory_lock(75474063)")
        refused(psql, empty_db, text, "another deployer is at work in this database")
    with psycopg.connect(empty_db) as holder:
        holder.execute("SELECT pg_advisory_lock(75474063, 1)")
        refused(psql, empty_db, text, "the script of a deployer that is gone is still at work in this database")
    execute(empty_db, "INSERT INTO pyflowguard.attempt SELECT change_id, project, change, 'deploy', script_hash"
            " FROM pyflowguard.deployment WHERE change = 'b'")  # fmt: skip
    refused(psql, empty_db, text, "a deployer ended while it was at work on b")
    execute(empty_db, "DELETE FROM pyflowguard.attempt; UPDATE sqitch.releases SET version = 9")
    refused(psql, empty_db, text, "there is no registry of sqitch of version 1.1 in schema sqitch")
    execute(empty_db, "UPDATE sqitch.releases SET version = 1.1; UPDATE sqitch.changes SET script_hash = 'x'"
            " WHERE change = 'a'")  # fmt: skip
    refused(psql, empty_db, text, "the deploy script of a has been edited since it was deployed")
    execute(empty_db, "DELETE FROM sqitch.tags; DELETE FROM sqitch.changes")
    refused(psql, empty_db, text, "pyflowguard has deployed b, which the registry does not have")


def test_changes_of_other_projects(psql: Psql, empty_db: str, tmp_path: Path) -> None:
    base, sets, foe = (ChangeSets(tmp_path / name, name) for name in ("base", "demo", "foe"))
    base.add_table("z")
    sets.add_table("a", dependencies="base:z")
    foe.add_table("f", dependencies="!demo:a")
    failed = psql(empty_db, bundle_deploy(directory=sets.directory), check=False)
    assert "a requires base:z, which is not deployed" in failed.stderr
    psql(empty_db, bundle_deploy(directory=base.directory))
    psql(empty_db, bundle_deploy(directory=sets.directory))
    refused(psql, empty_db, bundle_deploy(directory=foe.directory), "f conflicts with demo:a, which is deployed")
    refused(psql, empty_db, bundle_revert(directory=base.directory), "demo:a requires a change that is to be reverted")
    sets.add_table("b", dependencies="!a")
    with pytest.raises(DependencyMissing, match="b conflicts with a, which is deployed before it"):
        bundle_deploy(directory=sets.directory)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("deploy", "CREATE TABLE x ();\nCREATE TABLE y ();"),
        ("deploy", "BEGIN;\nCREATE TABLE x ();\nCOMMIT;\nBEGIN;\nCREATE TABLE y ();\nCOMMIT;"),
        ("deploy", "BEGIN;\nCREATE TABLE x ();\nROLLBACK;"),
        ("deploy", "BEGIN;\nCREATE TABLE x ();"),
        ("verify", "BEGIN;\nSELECT 1;\nROLLBACK;\nSELECT 2;"),
    ],
    ids=["two statements", "two transactions", "rolled back", "left open", "verify"],
)
def test_a_script_that_is_not_one_transaction_is_refused(sets: ChangeSets, kind: str, text: str) -> None:
    sets.add_table("x")
    (sets.directory / kind / "x.sql").write_text(text)
    with pytest.raises(PlanError, match=rf"{kind}/x\.sql: .*so it cannot be bundled"):
        bundle_deploy(directory=sets.directory)


def test_a_command_of_psql_is_named(sets: ChangeSets) -> None:
    sets.add("x", "CREATE TABLE x ();\n\\echo done", "DROP TABLE x;")
    with pytest.raises(PlanError, match=r"deploy/x\.sql:4: \\echo is a command of psql") as caught:
        bundle_deploy(directory=sets.directory)
    assert caught.value.hint is not None


def test_an_index_that_failed_concurrently_can_be_made_again(psql: Psql, empty_db: str, sets: ChangeSets) -> None:
    sets.add("t", "CREATE TABLE t (i int);\nINSERT INTO t VALUES (1), (1);", "DROP TABLE t;")
    index = "-- unique\nCREATE UNIQUE INDEX CONCURRENTLY t_i ON t (i);\n"
    sets.add_raw("u", index, "DROP INDEX CONCURRENTLY t_i;")
    text = bundle_deploy(directory=sets.directory)
    failed = psql(empty_db, text, check=False)
    assert "could not create unique index" in failed.stderr
    assert failed.stdout == "  + t\n"
    execute(empty_db, "DELETE FROM t WHERE ctid = '(0,1)'")
    (remedy,) = re.findall(r"^-- (DROP INDEX .*;)", text, re.MULTILINE)
    execute(empty_db, remedy)
    assert psql(empty_db, text).stdout == "  + u\nDeployed: u is the last one.\n"


def test_nothing_to_bundle_is_an_error_of_usage(three: ChangeSets) -> None:
    with pytest.raises(UsageError, match="nothing to deploy"):
        bundle_deploy(since="b", to="a", directory=three.directory)
    with pytest.raises(UsageError, match="nothing to revert"):
        bundle_revert(to="@HEAD", directory=three.directory)


def test_names_and_notes_are_quoted(psql: Psql, empty_db: str, tmp_path: Path) -> None:
    sets = ChangeSets(tmp_path / "quotes")
    sets.add("it's", "CREATE TABLE it ();\nSELECT ':x', $$ :y $$;", "DROP TABLE it;", "TABLE it;")
    text = sets.plan.read_text().replace("# it's", r"# it's \n\\! echo planted :'x' $pyflowguard$")
    sets.plan.write_text(text)
    assert "\n  + it's\n" in psql(empty_db, bundle_deploy(directory=sets.directory)).stdout
    assert set(states(empty_db, sets).values()) == {"deployed"}
    assert "planted" not in psql(empty_db, bundle_revert(directory=sets.directory)).stdout


def test_the_command_writes_a_file(command: Run, three: ChangeSets, tmp_path: Path) -> None:
    file = tmp_path / "roll-out.sql"
    written = command("bundle", "--changes", three.directory, "--to", "b", "-o", file)
    assert (written.returncode, written.stdout) == (0, "")
    assert file.read_text() == bundle_deploy(to="b", directory=three.directory)
    back = command("bundle", "--changes", three.directory, "--revert", "--from", "b", "--to", "a")
    assert back.stdout == bundle_revert(since="b", to="a", directory=three.directory)
