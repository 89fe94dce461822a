"""What stays when a newer release comes over an older one: an application's rows, and all that is known of them."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from acceptance.command import in_migration
from engine.postgres import Connection, one, rows, run
from repair.calls import dump, undo

from pyflowguard import changes, online
from pyflowguard.health import check

if TYPE_CHECKING:
    from conftest import TestPostgresql

TABLES = (
    "crewai_flow_state_extensions",
    "data_imports",
    "raw_import_records",
    "import_field_mappings",
    "discovery_flows",
    "assets",
)
KNOWN = (
    "master",
    "link",
    "rule",
    "replaced_constraint",
    "link_status",
    "health_category",
    "run",
    "run_change",
    "quarantine",
    "privileged_transaction",
    "repair_run",
    "repair_change",
    "quarantined_row",
)
"""Tables and views of schema flowguard; a newer release may have more, and more columns in them."""

Known = dict[str, list[dict[str, Any]]]


def known(connection: Connection) -> Known:
    """Give all rows of the engine's tables and views, by column."""
    found: Known = {}
    for name in KNOWN:
        of_name = f"SELECT to_jsonb(t) FROM flowguard.{name} t ORDER BY to_jsonb(t)::text"  # noqa: S608  ours
        found[name] = [row for (row,) in rows(connection, of_name)]
    return found


def schema(postgresql: TestPostgresql, dsn: str) -> str:
    """Give all that is defined but for what deployers record."""
    result = subprocess.run(
        [postgresql.bin / "pg_dump", "--schema-only", "--exclude-schema=pyflowguard", "--exclude-schema=sqitch",
         "--dbname", dsn],
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    return re.sub(r"^\\(un)?restrict .*$", "", result.stdout, flags=re.MULTILINE)


def narrowed(now: Known, before: Known) -> Known:
    """Leave out the columns that were not there before."""
    return {
        name: [{key: row[key] for key in old[0]} for row in now[name]] if (old := before[name]) else now[name]
        for name in before
    }


@contextmanager
def lived_in(dsn: str) -> Iterator[Connection]:
    """Give the report's database after some days with the guard: its profile deployed, and a repair by hand.

    Rows came in while a guard was paused, and were linked by a run of its own; the clean-up's quarantine holds rows.
    """
    with psycopg.connect(in_migration(dsn), autocommit=True) as connection:
        run(connection, "SELECT flowguard.pause('import_field_mappings')")
        run(
            connection,
            "INSERT INTO import_field_mappings (data_import_id, client_account_id, engagement_id, source_field, "
            "target_field) SELECT id, client_account_id, engagement_id, 'Rack', 'rack' FROM data_imports LIMIT 3",
        )
        run(connection, "SELECT flowguard.resume('import_field_mappings')")
        run(connection, "CALL flowguard.repair('import_field_mappings', note => 'by hand')")
        run(connection, "BEGIN; SELECT flowguard.bypass('to be remembered'); COMMIT")
        assert one(connection, "SELECT linked FROM flowguard.run WHERE note = 'by hand'") == 3
        assert one(connection, "SELECT count(*) FROM flowguard.quarantine WHERE action = 'deleted'") == 11
        yield connection


def upgraded(
    dsn: str,
    *,
    upgrade: Callable[[str], object],
    verify: Callable[[str], tuple[changes.VerifyOutcome, ...]],
    back: Callable[[str], object],
    start: dict[str, Counter[bytes]],
) -> None:
    """Upgrade a database that is lived in: all stays, the guard goes on, an old run can be undone, and all reverted."""
    with lived_in(dsn) as connection:
        rows_before, known_before = dump(connection, *TABLES), known(connection)
        upgrade(in_migration(dsn))
        assert dump(connection, *TABLES) == rows_before
        assert narrowed(known(connection), known_before) == known_before

        assert [outcome for outcome in verify(in_migration(dsn)) if outcome.failure] == []
        online.guard(in_migration(dsn))
        assert {f.name for f in check(in_migration(dsn))} <= {"unlinked_rows", "rows_in_quarantine", "bypassed"}
        run(
            connection,
            "INSERT INTO import_field_mappings (id, data_import_id, client_account_id, engagement_id, source_field, "
            "target_field) SELECT md5('after')::uuid, id, client_account_id, engagement_id, 'Row', 'row' "
            "FROM data_imports LIMIT 1",
        )
        assert one(
            connection, "SELECT master_flow_id IS NOT NULL FROM import_field_mappings WHERE id = md5('after')::uuid"
        )
        run(connection, "DELETE FROM import_field_mappings WHERE id = md5('after')::uuid")

        run(connection, "SELECT flowguard.set_mode('import_field_mappings', 'observe')")
        assert undo(connection, one(connection, "SELECT run_id FROM flowguard.run WHERE note = 'by hand'")) == (3, 0, 0)
        run(connection, "DELETE FROM import_field_mappings WHERE source_field = 'Rack' AND target_field = 'rack'")
    back(in_migration(dsn))
    with psycopg.connect(in_migration(dsn), autocommit=True) as connection:
        assert dump(connection, *TABLES) == start
