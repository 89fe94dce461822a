"""What the scripts of the change sets say when they are run by hand, and that following their HINTs helps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import psycopg
import pytest
from changesets import PROFILE
from engine.postgres import Connection, one, run
from messages.stage import Said, Teller, hear_script, normal, perform, reaches, statements
from psycopg.conninfo import make_conninfo

from pyflowguard import __version__, changes, server
from pyflowguard.plan import read_plan

if TYPE_CHECKING:
    from conftest import Databases, TestPostgresql

AsRole = Callable[[str, str], str]
PLAN = read_plan()


def way_back(to: str, since: str = "@HEAD") -> list[str]:
    """Name the revert scripts that lead from a change of the plan to another, which stays, the last first."""
    changes = PLAN.changes[PLAN.index_of(to) + 1 : PLAN.index_of(since) + 1]
    return [f"revert/{change.path}" for change in reversed(changes)]


def says(said: Said, text: str) -> None:
    """Check the whole message; runs of white space count as one blank."""
    assert normal(str(said)) == normal(text)


def passes(connection: Connection, script: str) -> None:
    """Check that a script has nothing to say; what PostgreSQL notes by itself, of IF EXISTS say, does not count."""
    assert [str(said) for said in hear_script(connection, script) if said.frames or said.severity == "ERROR"] == []


@pytest.fixture(scope="module")
def new_server(postgresql: TestPostgresql) -> Iterator[str]:
    """Give the superuser's connection string of a server on which nobody has made a role yet."""
    with server.throwaway_server(bindir=postgresql.bin) as running:
        with psycopg.connect(running.dsn(), autocommit=True) as admin:
            run(admin, "CREATE ROLE app_owner LOGIN")
            run(admin, "CREATE DATABASE app OWNER app_owner")
            run(admin, "CREATE DATABASE neighbour")
        yield running.dsn()


@reaches(
    ("deploy/schema.sql", "belongs to %, not to %"),
    ("deploy/schema.sql", "was not created"),
    ("revert/schema.sql", "stays: %"),
)
def test_the_schema_and_the_roles(new_server: str, tell: Teller) -> None:
    dsn = make_conninfo(new_server, dbname="app")
    neighbour = make_conninfo(new_server, dbname="neighbour")
    with (
        psycopg.connect(dsn, autocommit=True) as admin,
        psycopg.connect(dsn, autocommit=True) as owner,
        psycopg.connect(neighbour, autocommit=True) as other,
    ):
        # The server listens to its superuser only, who takes the owner's part.
        run(owner, "SET SESSION AUTHORIZATION app_owner")
        superuser = one(admin, "SELECT current_user")
        run(admin, "CREATE SCHEMA flowguard")
        said = tell(hear_script(owner, "deploy/schema.sql"), "belongs to")
        says(
            said,
            f"""ERROR: FG110: flowguard: schema flowguard belongs to {superuser}, not to app_owner
            DETAIL: Its owner could replace what runs with your rights.
            HINT: Deploy as {superuser}, or drop or rename the schema if it is none of PyFlowGuard's.""",
        )
        run(admin, "ALTER SCHEMA flowguard RENAME TO somebody_elses")

        heard = hear_script(owner, "deploy/schema.sql")
        said = tell(heard, "role flowguard_admin was not created")
        says(
            said,
            """NOTICE: role flowguard_admin was not created: app_owner may not create roles
            HINT: Everything works for the owner without it. To delegate, let a role with CREATEROLE run
            "CREATE ROLE flowguard_admin NOLOGIN" and call flowguard.grant_roles().""",
        )
        for said in heard:
            if said.frames:
                run(admin, statements(said.hint)[0])
        passes(owner, "deploy/schema.sql")

        run(admin, "DROP SCHEMA flowguard; DROP ROLE flowguard_admin, flowguard_viewer")
        passes(admin, "deploy/schema.sql")  # made here, so its revert takes them away
        run(other, "GRANT CREATE ON DATABASE neighbour TO flowguard_viewer")
        said = tell(hear_script(admin, "revert/schema.sql"), "stays")
        assert said.message.startswith("role flowguard_viewer stays: role ")
        assert said.hint == 'Once nothing needs it, run "DROP ROLE flowguard_viewer".'
        run(other, "REVOKE CREATE ON DATABASE neighbour FROM flowguard_viewer")
        run(admin, statements(said.hint)[0])
        assert one(admin, "SELECT count(*) FROM pg_roles WHERE rolname ~ '^flowguard'") == 0


@pytest.fixture
def holding(engine_db: str) -> Iterator[Connection]:
    """Connect to a database in which a run holds a row in quarantine."""
    with psycopg.connect(engine_db, autocommit=True) as connection:
        perform(
            connection,
            """
CREATE TABLE flow (id integer PRIMARY KEY);
CREATE TABLE probe (id integer PRIMARY KEY, flow integer);
SELECT flowguard.add_master('flow', 'id', '{}', created_at_column => NULL);
SELECT flowguard.add_link('probe', 'flow');
INSERT INTO probe VALUES (1, 77);
CALL flowguard.repair();
""",
        )
        yield connection


HELD = """
    ERROR: FG205: flowguard: 1 rows are still held in quarantine
    DETAIL: Removing the ledger would lose them.
    HINT: Run "SELECT flowguard.undo(run_id) FROM flowguard.run WHERE run_id IN (SELECT run_id FROM
    flowguard.quarantine) ORDER BY run_id DESC", or copy the rows away and run "DELETE FROM flowguard.quarantined_row".
"""


@reaches(("revert/privileges.sql", "still held"))
def test_rows_in_quarantine_stop_the_revert(holding: Connection, tell: Teller) -> None:
    said = tell(hear_script(holding, "revert/privileges.sql"), "still held")
    says(said, HELD)
    run(holding, statements(said.hint)[0])
    assert one(holding, "SELECT flow FROM probe") == 77
    passes(holding, "revert/privileges.sql")


@reaches(("revert/ledger.sql", "still held"))
def test_rows_in_quarantine_keep_the_ledger(holding: Connection, tell: Teller) -> None:
    for script in way_back("ledger"):
        if script != "revert/privileges.sql":  # which would stop it
            passes(holding, script)
    said = tell(hear_script(holding, "revert/ledger.sql"), "still held")
    says(said, HELD)
    run(holding, statements(said.hint)[1])
    assert [said for said in hear_script(holding, "revert/ledger.sql") if said.severity == "ERROR"] == []


GUARDED = """
    ERROR: FG112: flowguard: links are still guarded
    DETAIL: They are: child.flow, parent.flow. Their triggers and keys are on the tables of the application.
    HINT: Run "SELECT flowguard.unguard(relation, link_column) FROM flowguard.link WHERE guarded" first.
"""


@reaches(("revert/privileges.sql", "still guarded"))
def test_guarded_links_stop_the_revert(world: Callable[[str], str], tell: Teller) -> None:
    with psycopg.connect(world("observe"), autocommit=True) as owner:
        for table in ("grandchild", "event", "probe"):
            run(owner, "SELECT flowguard.unguard(%s::regclass, 'flow')", table)
        said = tell(hear_script(owner, "revert/privileges.sql"), "still guarded")
        says(said, GUARDED)
        run(owner, statements(said.hint)[0])
        passes(owner, "revert/privileges.sql")


def test_links_that_were_guarded_during_the_revert_stop_it(world: Callable[[str], str]) -> None:
    with psycopg.connect(world("observe"), autocommit=True) as owner:
        run(owner, "SELECT flowguard.unguard(relation, link_column) FROM flowguard.link")
        for script in way_back("version@engine"):
            passes(owner, script)
        for table in ("parent", "child"):
            run(owner, "SELECT flowguard.guard(%s::regclass, 'flow')", table)
        for script in way_back("guard@engine", "version@engine"):
            passes(owner, script)
        (said,) = [said for said in hear_script(owner, "revert/guard@v1.0.0.sql") if said.severity == "ERROR"]
        says(said, GUARDED)
        run(owner, statements(said.hint)[0])
        for script in ["revert/guard@v1.0.0.sql", *way_back("schema", "compiler@engine"), "revert/schema.sql"]:
            assert [said for said in hear_script(owner, script) if said.severity == "ERROR"] == []


@reaches(("revert/provenance.sql", "still keep provenance"))
def test_triggers_that_keep_provenance_stop_the_revert(world: Callable[[str], str], tell: Teller) -> None:
    with psycopg.connect(world("observe"), autocommit=True) as owner:
        run(owner, "SELECT flowguard.keep_provenance('probe', 'flow'), flowguard.guard('probe', 'flow')")
        for script in way_back("provenance"):
            passes(owner, script)
        said = tell(hear_script(owner, "revert/provenance.sql"), "still keep")
        says(
            said,
            """ERROR: FG112: flowguard: triggers still keep provenance
            DETAIL: Those of: probe.flow. Each of their writes would fail.
            HINT: Run "SELECT flowguard.guard(relation, link_column) FROM flowguard.link WHERE guarded" first.""",
        )
        run(owner, statements(said.hint)[0])
        passes(owner, "revert/provenance.sql")
        run(owner, "INSERT INTO probe (id, tenant, at) VALUES (6, 1, '2025-01-01')")


@reaches(("verify/privileges.sql", "PUBLIC may execute"))
def test_public_may_execute_a_function(engine_db: str, tell: Teller) -> None:
    with psycopg.connect(engine_db, autocommit=True) as owner:
        run(owner, "GRANT EXECUTE ON FUNCTION flowguard.version() TO PUBLIC")
        said = tell(hear_script(owner, "verify/privileges.sql"), "PUBLIC")
        says(
            said,
            """ERROR: FG301: flowguard: PUBLIC may execute functions of schema flowguard
            DETAIL: They are: flowguard.version().
            HINT: Run "REVOKE ALL ON ALL ROUTINES IN SCHEMA flowguard FROM PUBLIC".""",
        )
        run(owner, statements(said.hint)[0])
        passes(owner, "verify/privileges.sql")


@reaches(("verify/version.sql", "of version"))
def test_another_version_than_was_deployed(engine_db: str, tell: Teller) -> None:
    with psycopg.connect(engine_db, autocommit=True) as owner:
        passes(owner, "verify/version.sql")
        run(owner, "CREATE OR REPLACE FUNCTION flowguard.version() RETURNS text LANGUAGE sql AS $$ SELECT '9.0.0' $$")
        said = tell(hear_script(owner, "verify/version.sql"), "of version")
        says(
            said,
            f"""ERROR: FG301: flowguard: the engine says that it is of version 9.0.0, not {__version__}
            DETAIL: flowguard.version() was replaced since the change was deployed.
            HINT: Run deploy/version.sql once more, by psql.""",
        )
        passes(owner, "deploy/version.sql")
        passes(owner, "verify/version.sql")


@reaches(
    *((f"deploy/report/{name}.sql", "does nothing") for name in PROFILE),
    ("verify/report/links.sql", "came after"),
)
def test_the_profile_where_the_tables_of_the_report_are_not(
    databases: Databases, report_template: str, tell: Teller
) -> None:
    with databases.new(report_template) as dsn:
        changes.deploy(dsn, to="@engine")
        with psycopg.connect(dsn, options="-c search_path=migration,public", autocommit=True) as owner:
            run(owner, "ALTER TABLE crewai_flow_state_extensions RENAME TO away")
            for name in PROFILE:
                said = tell(hear_script(owner, f"deploy/report/{name}.sql"), "does nothing")
                says(
                    said,
                    f"""NOTICE: report/{name} does nothing: this database has no table crewai_flow_state_extensions
                    HINT: Once it has the report's tables, revert to @engine and deploy again.""",
                )
                passes(owner, f"verify/report/{name}.sql")
            run(owner, "ALTER TABLE away RENAME TO crewai_flow_state_extensions")
            said = tell(hear_script(owner, "verify/report/links.sql"), "came after")
            says(
                said,
                """ERROR: FG301: flowguard: table migration.crewai_flow_state_extensions came after report/links, so
                nothing of the report is guarded
                DETAIL: When the profile was deployed there was no such table, and it did nothing.
                HINT: Revert to @engine and deploy again, with the schema of the tables on the search_path.""",
            )
            for name in reversed(PROFILE):
                passes(owner, f"revert/report/{name}.sql")
            for name in PROFILE:
                told = [str(each) for each in hear_script(owner, f"deploy/report/{name}.sql") if each.frames]
                assert all("stays in observe" in each for each in told)
                passes(owner, f"verify/report/{name}.sql")


@reaches(
    ("deploy/report/links.sql", "is not on the search_path"),
    ("verify/report/clean_up.sql", "no run of"),
    ("verify/report/clean_up.sql", "point to no master"),
    ("verify/report/back_fill.sql", "no run of"),
    ("deploy/report/data_import_sessions.sql", "nothing to move"),
    ("verify/report/data_import_sessions.sql", "is still on the search_path"),
    ("verify/report/guard.sql", "is not complete"),
    ("deploy/report/enforce.sql", "stays in observe"),
    ("verify/report/enforce.sql", "is not enforced"),
)
def test_the_profile_of_the_report_from_end_to_end(  # noqa: PLR0915  one story, from the first script to the last
    report_db: str, as_role: AsRole, tell: Teller
) -> None:
    changes.deploy(report_db, to="@engine")
    with psycopg.connect(report_db, autocommit=True) as lost:
        said = tell(hear_script(lost, "deploy/report/links.sql"), "search_path")
        says(
            said,
            """ERROR: FG101: flowguard: table crewai_flow_state_extensions is not on the search_path, so nothing was
            registered
            DETAIL: The search_path is "$user", public.
            HINT: Name the application's schema: PGOPTIONS="-c search_path=migration,public". The engine alone needs
            none: deploy --to @engine.""",
        )
        options = re.findall(r'PGOPTIONS="([^"]+)"', said.hint)[0]
        moved = tell(hear_script(lost, "deploy/report/data_import_sessions.sql"), "nothing to move")
        says(
            moved,
            """NOTICE: there is no table data_import_sessions on the search_path; nothing to move
            DETAIL: The search_path is "$user", public.
            HINT: If the application has one, revert this change and deploy it with the schema on the search_path.""",
        )
        passes(lost, "revert/report/data_import_sessions.sql")

    with psycopg.connect(report_db, options=options, autocommit=True) as owner:
        passes(owner, "deploy/report/links.sql")

        said = tell(hear_script(owner, "verify/report/clean_up.sql"), "no run of")
        says(
            said,
            """ERROR: FG301: flowguard: no run of report/clean_up has finished
            DETAIL: It was stopped, or undone.
            HINT: Run "CALL flowguard.repair('discovery_flows', note => 'pyflowguard:report/clean_up')".""",
        )
        run(owner, statements(said.hint)[0])
        passes(owner, "verify/report/clean_up.sql")
        run(owner, "CREATE TABLE kept AS SELECT * FROM discovery_flows WHERE master_flow_id IS NULL")
        with psycopg.connect(as_role(report_db, "postgres"), options=options, autocommit=True) as admin:
            run(admin, "SET session_replication_role = replica")
            run(admin, "UPDATE discovery_flows SET master_flow_id = gen_random_uuid() WHERE master_flow_id IS NULL")
        said = tell(hear_script(owner, "verify/report/clean_up.sql"), "point to no master")
        says(
            said,
            """ERROR: FG301: flowguard: 2 discovery flows point to no master
            DETAIL: They came after the clean-up, or what refers to them holds them.
            HINT: Run "CALL flowguard.repair('discovery_flows')"; flowguard.violation lists what stays.""",
        )
        run(owner, statements(said.hint)[0])
        passes(owner, "verify/report/clean_up.sql")
        run(owner, "INSERT INTO discovery_flows SELECT * FROM kept; DROP TABLE kept")

        said = tell(hear_script(owner, "verify/report/back_fill.sql"), "no run of")
        says(
            said,
            """ERROR: FG301: flowguard: no run of report/back_fill has finished for data_imports, discovery_flows,
            import_field_mappings, raw_import_records, assets
            DETAIL: It was stopped, or undone.
            HINT: Run "CALL flowguard.repair('data_imports', note => 'pyflowguard:report/back_fill')", then "CALL
            flowguard.repair('discovery_flows', note => 'pyflowguard:report/back_fill')", then "CALL
            flowguard.repair('import_field_mappings', note => 'pyflowguard:report/back_fill')", then "CALL
            flowguard.repair('raw_import_records', note => 'pyflowguard:report/back_fill')", then "CALL
            flowguard.repair('assets', note => 'pyflowguard:report/back_fill')".""",
        )
        for statement in statements(said.hint):
            run(owner, statement)
        passes(owner, "verify/report/back_fill.sql")

        passes(owner, "deploy/report/data_import_sessions.sql")
        passes(owner, "verify/report/data_import_sessions.sql")
        run(owner, "CREATE TABLE data_import_sessions (id integer)")
        said = tell(hear_script(owner, "verify/report/data_import_sessions.sql"), "is still on")
        says(
            said,
            """ERROR: FG301: flowguard: table data_import_sessions is still on the search_path
            DETAIL: It is migration.data_import_sessions; tables that were moved are in flowguard_archive.moved_table.
            HINT: If it was created anew, run "DROP TABLE data_import_sessions"; else revert the change and deploy it
            again.""",
        )
        run(owner, statements(said.hint)[0])
        passes(owner, "verify/report/data_import_sessions.sql")

        passes(owner, "deploy/report/guard.sql")
        passes(owner, "verify/report/guard.sql")
        run(owner, 'DROP TRIGGER "~flowguard_assets_master_flow_id_insert" ON assets')
        said = tell(hear_script(owner, "verify/report/guard.sql"), "is not complete")
        assert (said.code, said.message) == ("FG301", "flowguard: the guard of assets is not complete")
        assert said.detail.startswith('Missing: CREATE OR REPLACE TRIGGER "~flowguard_assets_master_flow_id_insert" ')
        assert said.hint == "Call flowguard.guard('assets')."
        run(owner, statements(said.hint)[0])
        passes(owner, "verify/report/guard.sql")

        said = tell(hear_script(owner, "deploy/report/enforce.sql"), "stays in observe")
        says(
            said,
            """NOTICE: link discovery_flows.master_flow_id stays in observe: of 9 rows 2 are unlinked, 0 dangling,
            0 mismatched, 0 without a tenant
            HINT: See flowguard.violation; then call flowguard.set_mode('discovery_flows', 'enforce').""",
        )
        passes(owner, "verify/report/enforce.sql")
        run(owner, "DELETE FROM discovery_flows WHERE master_flow_id IS NULL")
        assert one(owner, "SELECT count(*) FROM flowguard.violation WHERE relation::text ~ 'discovery_flows'") == 0

        over = tell(hear_script(owner, "verify/report/enforce.sql"), "is not enforced")
        says(
            over,
            """ERROR: FG301: flowguard: every row of discovery_flows is linked, but the link is not enforced
            DETAIL: All 7 rows are.
            HINT: Call flowguard.set_mode('discovery_flows', 'enforce').""",
        )
        assert statements(over.hint) == statements(said.hint)
        run(owner, statements(said.hint)[0])
        passes(owner, "verify/report/enforce.sql")
