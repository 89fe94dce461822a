"""The whole plan in a database that has none of the report's tables: the profile does nothing, and says so."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from acceptance.command import COMMAND, in_migration
from changesets import PROFILE, write_shipped
from engine.postgres import Connection, one, rows, run
from psycopg.conninfo import conninfo_to_dict
from releases.stay import schema
from repair.calls import dump
from runner.conftest import Sqitch
from waiting import wait_until

from pyflowguard import __version__, changes
from pyflowguard.bundle import bundle_deploy
from pyflowguard.database import Notice
from pyflowguard.errors import ExitCode, ScriptFailed
from pyflowguard.plan import read_plan

if TYPE_CHECKING:
    from conftest import Databases, TestPostgresql

Deploy = Callable[..., None]
LAST = f"report/{PROFILE[-1]}"

# Tables of another application that are called as the report's are; one link is complete and in observe, one dangles.
NAMESAKES = """
CREATE TABLE job (id integer PRIMARY KEY);
CREATE TABLE discovery_flows (id integer PRIMARY KEY, master_flow_id integer);
CREATE TABLE assets (id integer PRIMARY KEY, master_flow_id integer, flow integer REFERENCES discovery_flows);
CREATE TABLE data_import_sessions (id integer PRIMARY KEY, job integer REFERENCES job);
INSERT INTO job VALUES (1);
INSERT INTO discovery_flows VALUES (1, 1), (2, 77);
INSERT INTO assets VALUES (1, 1, 1);
SELECT flowguard.add_master('job', 'id', '{}', created_at_column => NULL);
SELECT flowguard.add_link('discovery_flows'), flowguard.add_link('assets');
SELECT flowguard.add_reference_rule('assets', 'flow', 'discovery_flows');
"""
TABLES = ("job", "discovery_flows", "assets", "data_import_sessions")
STATE = (*TABLES, "flowguard.link_status", "flowguard.link")


@pytest.fixture(scope="module")
def template(databases: Databases) -> Iterator[str]:
    """Name of a database with the engine up to the profile."""
    with databases.new() as dsn:
        changes.deploy(dsn, to="@engine")
        yield str(conninfo_to_dict(dsn)["dbname"])


@pytest.fixture
def engine_db(databases: Databases, template: str) -> Iterator[str]:
    """Give a new database with the engine in it up to the profile, of which nothing is deployed."""
    with databases.new(template) as dsn:
        yield dsn


@pytest.fixture(params=["pyflowguard", "sqitch", "bundle"])
def deploy(request: pytest.FixtureRequest, sqitch: Sqitch, postgresql: TestPostgresql) -> Deploy:
    """Deploy the shipped plan up to a change, by each runner; psql alone runs a bundle."""
    if request.param == "pyflowguard":
        return lambda dsn, to: [changes.deploy(dsn, to=to)].clear()
    if request.param == "sqitch":
        return lambda dsn, to: [sqitch(dsn, read_plan().directory, "deploy", "--verify", "--to", to)].clear()

    return lambda dsn, to: by_psql(postgresql, dsn, bundle_deploy(to=to))


def by_psql(postgresql: TestPostgresql, dsn: str, bundle: str) -> None:
    subprocess.run(
        [postgresql.bin / "psql", "-qX", "-v", "ON_ERROR_STOP=1", dsn], input=bundle,
        text=True, check=True, capture_output=True,
    )  # fmt: skip


def test_the_profile_makes_nothing_and_touches_no_namesake(
    engine_db: str, deploy: Deploy, postgresql: TestPostgresql
) -> None:
    with psycopg.connect(engine_db, autocommit=True) as connection:
        run(connection, NAMESAKES)
        before, defined = dump(connection, *STATE), schema(postgresql, engine_db)
        deploy(engine_db, LAST)
        assert dump(connection, *STATE) == before
        assert schema(postgresql, engine_db) == defined
        deploy(engine_db, "@HEAD")  # what later releases add to the engine
        assert dump(connection, *TABLES) == {name: before[name] for name in TABLES}
        assert rows(connection, "SELECT FROM flowguard.run") == []
        assert {entry.state for entry in changes.status(engine_db).changes} == {"deployed"}
        assert [outcome for outcome in changes.verify(engine_db) if outcome.failure] == []
        changes.revert(engine_db, to="@engine")
        assert dump(connection, *STATE) == before
        assert schema(postgresql, engine_db) == defined


def test_each_change_says_once_that_it_does_nothing(engine_db: str) -> None:
    said: list[Notice] = []
    changes.deploy(engine_db, on_notice=said.append)
    assert [notice.message for notice in said] == [
        f"report/{name} does nothing: this database has no table crewai_flow_state_extensions" for name in PROFILE
    ]


@pytest.mark.parametrize("what", ["VIEW {} AS SELECT 1", "TEMPORARY TABLE {} (i int)"])
def test_what_is_called_so_and_is_no_table_of_the_application(engine_db: str, what: str) -> None:
    with psycopg.connect(engine_db, autocommit=True) as connection:
        run(connection, f"CREATE {what.format('crewai_flow_state_extensions')}")
        deployed = changes.deploy(engine_db, to=LAST).deployed
        assert [change.name for change in deployed] == [f"report/{name}" for name in PROFILE]


def test_a_table_in_any_schema_counts_so_that_a_wrong_search_path_guards_nothing_silently(engine_db: str) -> None:
    with psycopg.connect(engine_db, autocommit=True) as connection:
        run(connection, "CREATE SCHEMA apart; CREATE TABLE apart.crewai_flow_state_extensions (i int)")
    with pytest.raises(ScriptFailed, match="FG101: flowguard: table crewai_flow_state_extensions is not on the search"):
        changes.deploy(engine_db)
    assert changes.status(engine_db).having("deployed")[-1].name == "privileges"


def test_tables_that_came_since_are_told_by_verify_and_its_hint_helps(report_db: str) -> None:
    dsn = in_migration(report_db)
    with psycopg.connect(dsn, autocommit=True) as connection:
        run(connection, "ALTER TABLE crewai_flow_state_extensions RENAME TO not_yet")
        changes.deploy(dsn)
        assert [outcome for outcome in changes.verify(dsn) if outcome.failure] == []
        run(connection, "ALTER TABLE not_yet RENAME TO crewai_flow_state_extensions")
        failed = {outcome.change.name: str(outcome.failure) for outcome in changes.verify(dsn) if outcome.failure}
        assert list(failed) == ["report/links"]
        assert "HINT:  Revert to @engine and deploy again" in failed["report/links"]
        changes.revert(dsn, to="@engine")
        changes.deploy(dsn)
        assert [outcome for outcome in changes.verify(dsn) if outcome.failure] == []
        assert one(connection, "SELECT count(*) FROM flowguard.link WHERE guarded") == 5


# --- Where the report's tables are


@pytest.mark.parametrize("runner", ["pyflowguard", "sqitch", "bundle"])
def test_a_plan_without_the_profile_goes_on_where_it_was_left_out(
    report_db: str, runner: str, sqitch: Sqitch, postgresql: TestPostgresql, tmp_path: Path
) -> None:
    """As docs/upgrade.md says; nothing of the report is registered or guarded."""
    lines = write_shipped(tmp_path)
    (tmp_path / "sqitch.plan").write_text("".join(line for line in lines if not line.startswith("report/")))
    changes.deploy(report_db, to="@engine")
    if runner == "pyflowguard":
        changes.deploy(report_db, directory=tmp_path)
    elif runner == "sqitch":
        sqitch(report_db, tmp_path, "deploy", "--verify")
    else:
        by_psql(postgresql, report_db, bundle_deploy(directory=tmp_path))
    assert {entry.state for entry in changes.status(report_db, directory=tmp_path).changes} == {"deployed"}
    assert [outcome for outcome in changes.verify(report_db, directory=tmp_path) if outcome.failure] == []
    sqitch(report_db, tmp_path, "verify")
    with psycopg.connect(report_db) as connection:
        assert one(connection, "SELECT flowguard.version()") == __version__
        assert one(connection, "SELECT count(*) FROM flowguard.link") == 0


OTHER = """
CREATE TABLE public.job (id integer PRIMARY KEY);
CREATE TABLE public.upload (id integer PRIMARY KEY, job integer);
CREATE TABLE public.line (id integer PRIMARY KEY, job integer, upload integer REFERENCES public.upload);
INSERT INTO public.job VALUES (1);
INSERT INTO public.upload VALUES (10, 1), (11, 88);
INSERT INTO public.line VALUES (100, NULL, 10);
SELECT flowguard.add_master('public.job', 'id', '{}', created_at_column => NULL);
SELECT flowguard.add_link('public.upload', 'job', 'public.job'), flowguard.add_link('public.line', 'job', 'public.job');
SELECT flowguard.add_reference_rule('public.line', 'upload', 'public.upload', link_column => 'job',
                                    source_link => 'job');
"""


def test_the_back_fill_repairs_the_links_of_the_report_alone(report_db: str) -> None:
    dsn = in_migration(report_db)
    changes.deploy(dsn, to="report/links")
    with psycopg.connect(dsn, autocommit=True) as connection:
        run(connection, OTHER)
        before = dump(connection, "public.upload", "public.line")
        changes.deploy(dsn)
        assert dump(connection, "public.upload", "public.line") == before
        assert rows(
            connection,
            "SELECT relation, link_column, linked, status FROM flowguard.run WHERE note ~ 'back_fill' ORDER BY run_id",
        ) == [
            ("migration.data_imports", "master_flow_id", 0, "finished"),
            ("migration.discovery_flows", "master_flow_id", 0, "finished"),
            ("migration.import_field_mappings", "master_flow_id", 178, "finished"),
            ("migration.raw_import_records", "master_flow_id", 0, "finished"),
            ("migration.assets", "master_flow_id", 29, "finished"),
        ]
        changes.revert(dsn, to="report/links")
        assert dump(connection, "public.upload", "public.line") == before
        assert one(connection, "SELECT count(*) FROM assets WHERE master_flow_id IS NOT NULL") == 0


def stopped_at(connection: Connection) -> list[tuple[object, ...]]:
    of_change = "SELECT run_id, relation, status FROM flowguard.run WHERE note ~ 'back_fill' ORDER BY run_id"
    return rows(connection, of_change)


@pytest.mark.parametrize("end", ["the client is killed", "the statement is cancelled"])
def test_a_back_fill_that_was_stopped_goes_on_with_the_run_that_it_was_at(report_db: str, end: str) -> None:
    """It waits for a row of the fourth table when it is stopped; that one's run goes on, the fifth's is new."""
    dsn = in_migration(report_db)
    changes.deploy(dsn, to="report/clean_up")
    with psycopg.connect(dsn) as holder, psycopg.connect(dsn, autocommit=True) as watcher:
        run(holder, "SELECT FROM import_field_mappings LIMIT 1 FOR UPDATE")
        arguments = [str(COMMAND), "deploy", "--to", "report/back_fill", "--dsn", dsn]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as deployer:
            waiting = (
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
                "AND query ~ 'CALL flowguard.repair'"
            )
            wait_until(lambda: bool(rows(watcher, waiting)), "the repair to wait")
            (pid,) = rows(watcher, waiting)[0]
            if end == "the client is killed":
                deployer.kill()
                deployer.wait()
                run(watcher, "SELECT pg_terminate_backend(%s)", pid)
            else:
                run(watcher, "SELECT pg_cancel_backend(%s)", pid)
                _, errors = deployer.communicate(timeout=60)
                assert deployer.returncode == ExitCode.FAILED
                assert "deploy/report/back_fill.sql:5: ERROR 57014" in errors
            # Until then its run counts as running, whether it still waits or not.
            session = "SELECT FROM pg_stat_activity WHERE pid = %s"
            wait_until(lambda: not rows(watcher, session, pid), "the session of the repair to end")
        before = stopped_at(watcher)
        assert [row[1:] for row in before] == [
            ("migration.data_imports", "finished"),
            ("migration.discovery_flows", "finished"),
            ("migration.import_field_mappings", "stopped"),
        ]
        holder.rollback()
        said: list[Notice] = []
        changes.deploy(dsn, to="report/back_fill", on_notice=said.append)
        assert [notice.message for notice in said if "goes on" in notice.message] != []
        after = stopped_at(watcher)
        assert (before[2][0], "migration.import_field_mappings", "finished") in after
        assert [row[1] for row in after].count("migration.import_field_mappings") == 1
        assert {row[2] for row in after} == {"finished"}
        assert one(watcher, "SELECT count(*) FROM import_field_mappings WHERE master_flow_id IS NULL") == 0
        assert one(watcher, "SELECT count(*) FROM assets WHERE master_flow_id IS NULL") == 0
