"""The report's changes taken back one by one: what their runs did is undone, and rows and keys are as before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from engine.postgres import Connection, one, refused, rows, run
from psycopg.conninfo import make_conninfo
from repair.calls import dump

from pyflowguard import changes
from pyflowguard.errors import ScriptFailed

TABLES = (
    "crewai_flow_state_extensions",
    "data_imports",
    "raw_import_records",
    "import_field_mappings",
    "discovery_flows",
    "assets",
    "data_import_sessions",
)
KEYS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated
  FROM pg_constraint WHERE connamespace = 'migration'::regnamespace AND contype = 'f' ORDER BY 1, 2
"""


@dataclass(frozen=True)
class Report:
    """The report's database, reached as the platform's own migrations reach it."""

    dsn: str
    connection: Connection

    def rows(self) -> dict[str, Counter[bytes]]:
        """Give the application's tables that are in its schema."""
        there = [name for name in TABLES if one(self.connection, "SELECT to_regclass(%s) IS NOT NULL", name)]
        return dump(self.connection, *there)

    def foreign_keys(self) -> list[tuple[object, ...]]:
        return rows(self.connection, KEYS)


@pytest.fixture
def report(report_db: str) -> Iterator[Report]:
    """The report's database before the clean-up."""
    dsn = make_conninfo(report_db, options="-c search_path=migration,public")
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield Report(dsn, connection)


def test_step_by_step(report: Report) -> None:
    steps = [
        "report/links",
        "report/clean_up",
        "report/back_fill",
        "report/data_import_sessions",
        "report/guard",
        "report/enforce",
    ]
    changes.deploy(report.dsn, to="@engine")
    before = [(report.rows(), report.foreign_keys())]
    for step in steps:
        changes.deploy(report.dsn, to=step)
        before.append((report.rows(), report.foreign_keys()))
    assert before[1][0]["discovery_flows"] != before[2][0]["discovery_flows"]
    assert before[2][0]["assets"] != before[3][0]["assets"]

    for number in reversed(range(len(steps))):
        done = changes.revert(report.dsn, to=steps[number - 1] if number else "privileges")
        assert [change.name for change in done.reverted] == [steps[number]]
        assert report.rows() == before[number][0], steps[number]
        assert names(report.foreign_keys()) == names(before[number][1]), steps[number]
    assert one(report.connection, "SELECT count(*) FROM flowguard.quarantine") == 0
    assert rows(report.connection, "SELECT DISTINCT status FROM flowguard.run") == [("undone",)]


def names(keys: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Leave out whether a key is validated: that may change where rows that came back violate it."""
    return [key[:3] for key in keys]


def test_to_the_tag_and_to_the_start(report: Report) -> None:
    rows_before, keys_before = report.rows(), report.foreign_keys()
    changes.deploy(report.dsn)
    assert one(report.connection, "SELECT count(*) FROM flowguard.quarantine WHERE action = 'deleted'") >= 11
    changes.revert(report.dsn, to="@engine")
    assert report.rows() == rows_before
    changes.revert(report.dsn)
    assert report.rows() == rows_before
    assert names(report.foreign_keys()) == names(keys_before)
    assert one(report.connection, "SELECT to_regnamespace('flowguard') IS NULL")


def test_the_applications_key_is_lifted_for_the_rows_and_back(report: Report) -> None:
    """What violates a key of the application comes back, and with it the key: NOT VALID, as rows are not valid."""
    was = {key[:2]: key for key in report.foreign_keys()}
    changes.deploy(report.dsn, to="report/back_fill")
    # The clean-up is done; whoever validates the key now cannot have the dangling rows back under it.
    table = "discovery_flows"
    own = [key[1] for key in report.foreign_keys() if key[0] == table and "master_flow_id" in str(key[2])]
    for name in own:
        run(report.connection, f"ALTER TABLE discovery_flows VALIDATE CONSTRAINT {name}")
    clean_up = one(report.connection, "SELECT min(run_id) FROM flowguard.run")
    with refused("FG203") as refusal:
        run(report.connection, "SELECT flowguard.undo(%s)", clean_up)
    refusal.says(*map(str, own))
    changes.revert(report.dsn, to="report/links")
    now = {key[:2]: key for key in report.foreign_keys()}
    assert {key: value[2] for key, value in now.items()} == {key: value[2] for key, value in was.items()}
    for name in own:
        assert now[table, name][3] is False
    assert one(report.connection, "SELECT count(*) FROM discovery_flows") == 20


def test_rows_changed_since_stay_as_they_are(report: Report) -> None:
    changes.deploy(report.dsn, to="report/back_fill")
    asset, master = rows(
        report.connection,
        "SELECT a.id, m.flow_id FROM assets a JOIN crewai_flow_state_extensions m USING (client_account_id, "
        "engagement_id) WHERE m.flow_id <> a.master_flow_id ORDER BY a.id, m.flow_id LIMIT 1",
    )[0]
    run(report.connection, "UPDATE assets SET master_flow_id = %s WHERE id = %s", master, asset)
    changes.revert(report.dsn, to="@engine")
    linked = rows(report.connection, "SELECT id, master_flow_id FROM assets WHERE master_flow_id IS NOT NULL")
    assert linked == [(asset, master)]


def test_what_the_quarantine_holds_blocks_the_way_out(report: Report) -> None:
    """A run by hand belongs to no change: its rows are not given up, the revert stops and says so."""
    changes.deploy(report.dsn, to="report/links")
    run(report.connection, "CALL flowguard.repair('discovery_flows')")
    held = one(report.connection, "SELECT count(*) FROM flowguard.quarantine")
    assert held >= 11
    with pytest.raises(ScriptFailed) as failure:
        changes.revert(report.dsn)
    assert "still held in quarantine" in str(failure.value)
    assert one(report.connection, "SELECT count(*) FROM flowguard.quarantined_row") == held


def test_a_revert_after_a_partial_undo_brings_back_the_rest(report: Report) -> None:
    changes.deploy(report.dsn, to="@engine")
    before = report.rows()
    changes.deploy(report.dsn, to="report/back_fill")
    clean_up, *back_fill = (
        run_id for (run_id,) in rows(report.connection, "SELECT run_id FROM flowguard.run ORDER BY 1")
    )
    run(report.connection, "SELECT flowguard.undo(%s, 3)", back_fill[-1])  # of the assets
    changes.revert(report.dsn, to="report/clean_up")
    assert one(report.connection, "SELECT count(*) FROM assets WHERE master_flow_id IS NOT NULL") == 0
    key = (
        "SELECT conname FROM pg_constraint WHERE conrelid = 'discovery_flows'::regclass AND contype = 'f' "
        "AND confrelid = 'crewai_flow_state_extensions'::regclass"
    )
    for (name,) in rows(report.connection, key):
        run(report.connection, f"ALTER TABLE discovery_flows DROP CONSTRAINT {name}")
    run(report.connection, "SELECT flowguard.undo(%s, 3)", clean_up)
    changes.revert(report.dsn, to="@engine")
    assert report.rows() == before
