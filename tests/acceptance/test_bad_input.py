"""Bad input is one clear error with the documented exit code, and leaves nothing half done."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from acceptance.command import Query, Run, failure, in_migration
from changesets import PROFILE

from pyflowguard import changes
from pyflowguard.plan import read_plan
from pyflowguard.server import Server, throwaway_server

STATE = "SELECT (SELECT jsonb_agg(to_jsonb(l) ORDER BY l.stem) FROM flowguard.link l), "
STATE += '(SELECT jsonb_agg(to_jsonb(r) ORDER BY r.relation::text, r."position") FROM flowguard.rule r), '
STATE += "(SELECT count(*) FROM pg_constraint), (SELECT count(*) FROM pg_trigger), (SELECT count(*) FROM pg_class)"


@pytest.fixture(scope="module")
def strict_server() -> Iterator[Server]:
    """Start a server that wants a password over TCP."""
    with throwaway_server() as running:
        yield running


@pytest.mark.parametrize("arguments", [("deploy",), ("health",), ("check",), ("repair",), ("undo", "1")])
def test_no_server(command: Run, arguments: tuple[str, ...]) -> None:
    message = failure(command(*arguments, "--dsn", "host=127.0.0.1 port=1 dbname=app user=app"), 3)
    assert message.startswith('pyflowguard: Cannot connect to database "app" as "app" on 127.0.0.1: ')
    assert "HINT:  " in message


@pytest.mark.parametrize("arguments", [("deploy",), ("health",), ("check",), ("repair",), ("undo", "1")])
def test_a_wrong_password(command: Run, strict_server: Server, arguments: tuple[str, ...]) -> None:
    dsn = f"host=127.0.0.1 port={strict_server.port} user=postgres dbname=postgres"
    message = failure(command(*arguments, "--dsn", dsn, PGPASSWORD="open-sesame"), 3)
    assert "password authentication failed" in message
    assert "open-sesame" not in message


@pytest.mark.parametrize("arguments", [("deploy",), ("health",), ("check",), ("repair",), ("undo", "1")])
def test_a_connection_string_that_cannot_be_read(command: Run, arguments: tuple[str, ...]) -> None:
    assert "The connection string cannot be read." in failure(command(*arguments, "--dsn", "no such thing"), 2)


@pytest.mark.parametrize("arguments", [("repair",), ("guard",), ("set-mode", "observe")])
def test_a_link_of_no_table(command: Run, arguments: tuple[str, ...]) -> None:
    """The option alone would be passed over, and every link repaired, guarded or observed."""
    refused = command(*arguments, "--link-column", "flow", "--dsn", "host=127.0.0.1 port=1")
    assert refused.returncode == 2
    assert "--link-column chooses a link of TABLE" in refused.stderr


def test_the_profile_without_its_tables(command: Run, empty_db: str, query: Query) -> None:
    """The report's profile on a database that does not have the report's tables."""
    changes.deploy(empty_db, to="@engine")
    before = query(empty_db, STATE)
    result = command("deploy", "--to", "report/enforce", "--dsn", empty_db)
    profile = [change.label for change in read_plan().changes if change.name.startswith("report/")]
    assert (result.returncode, result.stdout) == (0, "".join(f"  + {label} .. ok\n" for label in profile))
    told = "NOTICE:  report/{} does nothing: this database has no table crewai_flow_state_extensions\n"
    hint = "HINT:  Once it has the report's tables, revert to @engine and deploy again.\n"
    assert result.stderr == "".join(told.format(name) + hint for name in PROFILE)
    assert query(empty_db, STATE) == before
    assert command("verify", "--dsn", empty_db).returncode == 0


@pytest.mark.parametrize(
    ("statement", "sqlstate", "expected"),
    [
        ("flowguard.add_link('nowhere')", "42P01", 'relation "nowhere" does not exist'),
        (
            "flowguard.add_reference_rule('assets', 'no_such_column', 'raw_import_records')",
            "FG102",
            "table migration.assets has no column no_such_column",
        ),
        (
            "flowguard.add_proximity_rule('assets', 'data_imports', time_column => 'made_at')",
            "FG102",
            "table migration.assets has no column made_at",
        ),
        ("flowguard.add_link('asset_names', 'master_flow_id')", "FG101", "migration.asset_names is not a table"),
        ("flowguard.add_link('users', 'email')", "FG103", "migration.users.email is of type text"),
        (
            "flowguard.add_proximity_rule('assets', 'data_imports', '-1 hour')",
            "FG104",
            "the window -01:00:00 is none",
        ),
        ("flowguard.add_proximity_rule('assets', 'data_imports', '1 month')", "FG104", "the window 1 mon is none"),
    ],
)
def test_a_change_that_asks_for_the_impossible(  # noqa: PLR0917
    command: Run, registered_db: str, query: Query, tmp_path: Path, statement: str, sqlstate: str, expected: str
) -> None:
    """A DBA's own change, appended to the plan: a missing table or column, a view, other types, a negative window."""
    query(registered_db, "CREATE VIEW asset_names AS SELECT id, name, master_flow_id FROM assets")
    sets = own_change(tmp_path, statement)
    before = query(registered_db, STATE)
    message = failure(command("deploy", "--dsn", registered_db, "--changes", sets), 4)
    assert f"own.sql:3: ERROR {sqlstate}: " in message
    assert expected in message
    if sqlstate.startswith("FG"):
        assert "DETAIL:  " in message
        assert "HINT:  " in message
    assert query(registered_db, STATE) == before
    assert query(registered_db, "SELECT to_regclass('half_done')") == [(None,)]
    result = command("status", "--dsn", registered_db, "--changes", sets)
    assert (result.returncode, result.stdout.splitlines()[-1]) == (0, "  pending     own")


def own_change(tmp_path: Path, statement: str) -> Path:
    """Copy the shipped plan up to report/links, and append a change that sends the statement."""
    sets = tmp_path / "sets"
    plan = read_plan()
    planned = plan.changes[: plan.index_of("report/links") + 1]
    for change in planned:
        for file in (plan.deploy_file(change), plan.revert_file(change), plan.verify_file(change)):
            # Where a later release reworks it, the script of before has the name of the change.
            copy = sets / file.relative_to(plan.directory).parts[0] / f"{change.name}.sql"
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    kept = (plan.directory / "sqitch.plan").read_text().splitlines(keepends=True)[: planned[-1].line]
    own = "own [report/links] 2026-11-23T09:00:00Z DBA <dba@example.org> # A link of our own\n"
    (sets / "sqitch.plan").write_text("".join([*kept, own]))
    deploy = f"BEGIN;\nCREATE TABLE half_done (i int);\nSELECT {statement};\nCOMMIT;\n"
    (sets / "deploy" / "own.sql").write_text(deploy)
    (sets / "revert" / "own.sql").write_text("BEGIN;\nDROP TABLE half_done;\nCOMMIT;\n")
    return sets


def test_the_profile_where_the_search_path_does_not_lead_to_its_tables(command: Run, report_db: str) -> None:
    result = command("deploy", "--dsn", report_db)
    assert result.returncode == 4
    assert "deploy/report/links.sql:7: ERROR FG101: flowguard: table crewai_flow_state_extensions" in result.stderr
    result = command("deploy", "--dsn", in_migration(report_db))  # it goes on where the other one stopped
    assert (result.returncode, result.stdout.splitlines()[0]) == (0, "  + report/links .. ok")
