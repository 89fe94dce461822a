"""From every release on, a database that was guarded and repaired upgrades in place to what the plan has now."""

from __future__ import annotations

import psycopg
import pytest
from acceptance.command import in_migration
from releases.record import release_tags
from releases.stay import TABLES, upgraded
from repair.calls import dump

from pyflowguard import changes
from pyflowguard.plan import read_plan

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
