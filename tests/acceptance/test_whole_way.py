"""Deploying twice changes nothing; reverting gives the application back, its schema to the byte and its rows."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import psycopg
import pytest
from acceptance.command import Query, Run, in_migration
from psycopg import sql

from pyflowguard.plan import read_plan

if TYPE_CHECKING:
    from conftest import TestPostgresql

TABLES = [
    "assets",
    "client_accounts",
    "crewai_flow_state_extensions",
    "data_import_sessions",
    "data_imports",
    "discovery_flows",
    "engagements",
    "import_field_mappings",
    "raw_import_records",
    "users",
]


@pytest.fixture
def dump(postgresql: TestPostgresql) -> DumpSchema:
    """Dump the application's schema."""
    return DumpSchema(postgresql)


class DumpSchema:
    """pg_dump --schema-only of the application, but for the random key that it writes into each dump."""

    def __init__(self, postgresql: TestPostgresql) -> None:
        self.program = postgresql.bin / "pg_dump"

    def __call__(self, dsn: str) -> str:
        result = subprocess.run(
            [self.program, "--schema-only", "--schema=migration", "--dbname", dsn],
            capture_output=True,
            text=True,
            check=True,
        )
        return re.sub(r"^\\(un)?restrict .*$", "", result.stdout, flags=re.MULTILINE)


def rows(query: Query, dsn: str) -> dict[str, list[str]]:
    """All rows of the application, sorted."""
    return {
        table: [row for (row,) in query(dsn, f"SELECT t::text FROM migration.{table} AS t ORDER BY 1")]  # noqa: S608
        for table in TABLES
    }


def test_deploy_twice_then_revert_everything(command: Run, report_db: str, query: Query, dump: DumpSchema) -> None:
    dsn = in_migration(report_db)
    schema, data = dump(dsn), rows(query, dsn)
    plan = read_plan()
    changes = [change.name for change in plan.changes]

    result = command("deploy", "--dsn", dsn)
    assert result.returncode == 0, result
    assert re.findall(r"^  \+ (\S+)", result.stdout, re.MULTILINE) == changes
    guarded = dump(dsn)
    assert guarded != schema

    result = command("deploy", "--dsn", dsn)
    assert (result.returncode, result.stdout, result.stderr) == (0, "Nothing to deploy.\n", "")
    assert dump(dsn) == guarded
    result = command("verify", "--dsn", dsn)
    verdicts = re.findall(r" \.\. (.+)$", result.stdout, re.MULTILINE)
    reworked = [bool(plan.reworks_of(change)) for change in plan.changes]
    assert (result.returncode, verdicts) == (0, ["nothing to verify" if each else "ok" for each in reworked])

    result = command("revert", "-y", "--dsn", dsn)
    assert result.returncode == 0, result
    assert re.findall(r"^  - (\S+)", result.stdout, re.MULTILINE) == changes[::-1]
    assert dump(dsn) == schema
    assert rows(query, dsn) == data
    assert len(data["data_import_sessions"]) == 6
    assert query(dsn, "SELECT to_regnamespace('flowguard'), to_regnamespace('flowguard_archive')") == [(None, None)]

    assert command("deploy", "--dsn", dsn).returncode == 0
    assert dump(dsn) == guarded


def test_what_the_application_wrote_meanwhile_stays_when_everything_is_reverted(
    command: Run, guarded_db: str, query: Query
) -> None:
    """Late links, fills and deletes of the guard's time are the application's rows and stay as they are."""
    query(
        guarded_db,
        "INSERT INTO import_field_mappings (id, data_import_id, client_account_id, engagement_id, source_field, "
        "target_field) VALUES (md5('mine')::uuid, md5('import 3')::uuid, md5('client 1')::uuid, "
        "md5('engagement 1')::uuid, 'Rack', 'location')",
    )
    link = "SELECT master_flow_id = md5('master 3')::uuid FROM import_field_mappings WHERE id = md5('mine')::uuid"
    assert query(guarded_db, link) == [(True,)]
    result = command("revert", "-y", "--dsn", guarded_db)
    assert result.returncode == 0, result
    assert query(guarded_db, link) == [(True,)]
    assert query(guarded_db, "SELECT count(*) FROM discovery_flows") == [(20,)]
    assert query(guarded_db, "SELECT count(*) FROM import_field_mappings WHERE master_flow_id IS NULL") == [(178,)]


def test_it_does_not_matter_which_isolation_is_the_default(report_db: str, command: Run, query: Query) -> None:
    """What waits for others who change the guard has to see what they have done; set_mode() refuses anything else."""
    with psycopg.connect(report_db, autocommit=True) as owner:
        database = sql.Identifier(owner.info.dbname)
        owner.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = 'serializable'").format(database))
    dsn = in_migration(report_db)
    assert command("deploy", "--dsn", dsn).returncode == 0
    mode = "SELECT mode, guarded FROM flowguard.link WHERE relation = 'migration.data_imports'::regclass"
    assert query(dsn, mode) == [("enforce", True)]
    for wanted in ("observe", "enforce"):
        assert command("set-mode", wanted, "data_imports", "--dsn", dsn).returncode == 0
        assert query(dsn, mode) == [(wanted, True)]
