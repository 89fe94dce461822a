"""From every release on, a database that was guarded and repaired upgrades in place to what the plan has now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from acceptance.command import in_migration
from engine.tables import guarded
from releases.record import release_tags
from releases.stay import TABLES, schema, upgraded
from repair.calls import dump

from pyflowguard import changes, database
from pyflowguard.errors import ScriptFailed
from pyflowguard.plan import read_plan

if TYPE_CHECKING:
    from conftest import TestPostgresql

PLAN = read_plan()
RELEASES = release_tags(PLAN)


@pytest.mark.parametrize("tag", RELEASES)
def test_a_database_of_a_release_upgrades_in_place(report_db: str, tag: str) -> None:
    dsn = in_migration(report_db)
    with psycopg.connect(dsn) as connection:
        start = dump(connection, *TABLES)
    changes.deploy(dsn, to=f"@{tag}")
    upgraded(
        report_db,
        upgrade=changes.deploy,
        verify=changes.verify,
        back=lambda target: changes.revert(target, to="@engine"),
        start=start,
    )


@pytest.mark.parametrize("tag", RELEASES)
def test_a_database_without_the_report_upgrades_as_well(empty_db: str, tag: str) -> None:
    """The profile does nothing there, and keeps nothing that comes after it from being deployed."""
    changes.deploy(empty_db, to=f"@{tag}")
    changes.deploy(empty_db)
    assert {entry.state for entry in changes.status(empty_db).changes} == {"deployed"}
    assert [outcome for outcome in changes.verify(empty_db) if outcome.failure] == []


@pytest.mark.parametrize("tag", RELEASES)
def test_nothing_of_a_later_release_is_taken_for_deployed(empty_db: str, tag: str) -> None:
    """The verify script of what comes after a release fails on that release; adopt() would record it else."""
    changes.deploy(empty_db, to=f"@{tag}")
    end = PLAN.index_of(f"@{tag}") + 1
    passed = []
    for change in PLAN.changes[end:]:
        with database.connect(empty_db) as connection:
            try:
                database.run_script(connection, PLAN.verify_file(change), action=f"verifying {change.name}")
            except ScriptFailed:
                continue
        passed.append(change.name)
    assert passed == []


def test_scripts_of_the_last_release_bear_a_second_run(empty_db: str, postgresql: TestPostgresql) -> None:
    """After a kill between a script and its record it is run once more."""
    before, last = RELEASES[-2:]
    new = PLAN.changes[PLAN.index_of(f"@{before}") + 1 : PLAN.index_of(f"@{last}") + 1]
    changes.deploy(empty_db, to=f"@{before}")
    with psycopg.connect(empty_db, autocommit=True) as connection:
        guarded(connection)
    older = schema(postgresql, empty_db)
    for _ in range(2):
        changes.deploy(empty_db, to=f"@{last}")
        newer = schema(postgresql, empty_db)
        assert newer != older
        with database.connect(empty_db) as connection:
            for change in new:
                database.run_script(connection, PLAN.deploy_file(change), action=f"deploying {change.name} again")
        assert schema(postgresql, empty_db) == newer
        changes.revert(empty_db, to=f"@{before}")
        assert schema(postgresql, empty_db) == older
        with database.connect(empty_db) as connection:
            for change in reversed(new):
                database.run_script(connection, PLAN.revert_file(change), action=f"reverting {change.name} again")
        assert schema(postgresql, empty_db) == older
