"""`deploy` guards online what a script's remark asks for, before it sends the script."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta

import psycopg
import pytest
from changesets import ChangeSets
from engine.postgres import Connection, one, rows, run
from engine.tables import registered_in

from pyflowguard import changes, online
from pyflowguard.errors import ExitCode, LockNotObtained, PlanError, UsageError
from pyflowguard.plan import OnlineRemark, read_plan

SCRIPT = """
BEGIN;
CREATE TABLE seen AS SELECT statement FROM flowguard.guard_plan('child', 'flow');
SELECT count(*) FROM flowguard.guard('child', 'flow');
COMMIT;
"""
REMARK = "-- pyflowguard guard --link-column flow child"
SOON = timedelta(seconds=0.1)


@pytest.fixture
def app(engine_db: str) -> Iterator[Connection]:
    """Give the small application with its links registered, none guarded."""
    with registered_in(engine_db) as connection:
        yield connection


@pytest.fixture
def holder(app: Connection) -> Iterator[Connection]:
    """Give a session with an open transaction that has written the child table."""
    with psycopg.connect(app.info.dsn, application_name="the holder") as connection:
        run(connection, "INSERT INTO child (id, tenant) VALUES (1, 1)")
        yield connection


def names(result: changes.DeployResult) -> list[str]:
    return [change.name for change in result.deployed]


def is_guarded(app: Connection) -> bool:
    return not rows(app, "SELECT FROM flowguard.guard_plan('child', 'flow')")


def test_the_script_finds_nothing_left_to_do(app: Connection, sets: ChangeSets) -> None:
    sets.add_raw("guard", f"-- Deploy demo:guard to pg\n{REMARK}\n{SCRIPT}")
    told: list[object] = []
    assert names(changes.deploy(app.info.dsn, directory=sets.directory, on_guard=told.append)) == ["guard"]
    assert rows(app, "TABLE seen") == []
    assert is_guarded(app)
    done = [event for event in told if isinstance(event, online.Step) and event.seconds is not None]
    assert any("CREATE INDEX CONCURRENTLY" in step.planned.statement for step in done)


def test_without_a_remark_the_script_does_it_all(app: Connection, sets: ChangeSets) -> None:
    sets.add_raw("guard", f"-- Deploy demo:guard to pg\n-- pyflowguard: guard x\n{SCRIPT}\n -- pyflowguard guard x\n")
    changes.deploy(app.info.dsn, directory=sets.directory)
    assert rows(app, "TABLE seen") != []
    assert is_guarded(app)


def test_a_lock_that_is_not_had_ends_it_and_the_next_goes_on(
    app: Connection, holder: Connection, sets: ChangeSets
) -> None:
    sets.add_raw("guard", f"{REMARK}\n{SCRIPT}")
    with pytest.raises(LockNotObtained, match="no lock"):
        changes.deploy(app.info.dsn, directory=sets.directory, guard_lock_timeout=SOON, guard_deadline=SOON * 5)
    # The script was not sent, and nothing is left of an attempt.
    assert one(app, "SELECT to_regclass('seen')") is None
    (entry,) = changes.status(app.info.dsn, directory=sets.directory).changes
    assert entry.state == "pending"
    holder.rollback()
    assert names(changes.deploy(app.info.dsn, directory=sets.directory)) == ["guard"]
    assert is_guarded(app)


def test_the_command_tells_the_steps_and_ends_with_4(
    app: Connection,
    holder: Connection,
    sets: ChangeSets,
    command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    sets.add_raw("guard", f"{REMARK}\n{SCRIPT}")
    deploy = ("deploy", "--changes", sets.directory, "--dsn", app.info.dsn)
    given_up = command(*deploy, "--guard-lock-timeout", "0.1", "--guard-deadline", "0.5")
    assert given_up.returncode == ExitCode.FAILED, given_up
    assert "the holder" in given_up.stderr
    assert "Traceback" not in given_up.stderr
    holder.rollback()
    done = command(*deploy)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("  + guard .. ok\n")
    assert "  + child.flow: CREATE INDEX CONCURRENTLY flowguard_child_flow_idx" in done.stdout


def test_a_mode_is_set_before_and_incomplete_links_are_left_to_the_script(app: Connection, sets: ChangeSets) -> None:
    online.guard(app.info.dsn)
    run(
        app,
        "INSERT INTO parent VALUES (1, 1, 1); INSERT INTO probe (id, tenant) VALUES (1, 1)",
    )
    sets.add_raw(
        "enforce",
        "-- pyflowguard set-mode enforce --link-column flow parent probe\nBEGIN;\n"
        "CREATE TABLE seen AS SELECT relation::text, mode FROM flowguard.link "
        "WHERE relation IN ('parent'::regclass, 'probe'::regclass) ORDER BY 1;\nCOMMIT;\n",
    )
    changes.deploy(app.info.dsn, directory=sets.directory)
    assert rows(app, "TABLE seen") == [("parent", "enforce"), ("probe", "observe")]
    assert rows(app, "SELECT FROM flowguard.guard_plan('parent', 'flow')") == []


def test_a_link_of_which_a_column_is_gone_is_a_warning_and_left_to_the_script(
    app: Connection, sets: ChangeSets, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """One that the remark does not name keeps no deployment from its end, nor one that its script mends."""
    run(app, "ALTER TABLE probe RENAME at TO at2; ALTER TABLE grandchild RENAME child TO old")
    sets.add_raw("guard", f"{REMARK}\n{SCRIPT}")
    mend = "SELECT flowguard.drop_rule('grandchild', 1, 'flow');"
    sets.add_raw("mend", f"-- pyflowguard guard --link-column flow grandchild parent\nBEGIN;\n{mend}\nCOMMIT;\n")
    deploy = ("deploy", "--changes", sets.directory, "--dsn", app.info.dsn)
    done = command(*deploy)
    assert done.returncode == 0, done
    assert done.stderr.count("WARNING:  ") == 2
    assert "WARNING:  probe.flow is left out: column at of public.probe is gone.\nHINT:  " in done.stderr
    assert "WARNING:  grandchild.flow is left out: column child of public.grandchild is gone.\n" in done.stderr
    assert is_guarded(app)
    assert rows(app, "SELECT FROM flowguard.guard_plan('parent', 'flow')") == []
    sets.add_raw("again", "-- pyflowguard set-mode enforce --link-column flow probe parent\nBEGIN;\nCOMMIT;\n")
    done = command(*deploy)
    assert (done.returncode, done.stderr.count("WARNING:  ")) == (0, 1), done
    assert rows(app, "SELECT relation::text FROM flowguard.link WHERE mode = 'enforce'") == [("parent",)]
    run(app, "ALTER TABLE probe RENAME at2 TO at")
    sets.add_raw("last", f"{REMARK}\nBEGIN;\nCOMMIT;\n")
    done = command(*deploy)
    assert (done.returncode, done.stderr) == (0, "")


def test_recording_only_guards_nothing(app: Connection, sets: ChangeSets) -> None:
    sets.add_raw("guard", f"{REMARK}\n{SCRIPT}")
    changes.deploy(app.info.dsn, directory=sets.directory, log_only=True)
    assert not is_guarded(app)


def test_a_table_that_is_not_there_is_named(app: Connection, sets: ChangeSets) -> None:
    sets.add_raw("guard", "-- pyflowguard guard nowhere\nBEGIN;\nCOMMIT;\n")
    with pytest.raises(UsageError, match="nowhere"):
        changes.deploy(app.info.dsn, directory=sets.directory)
    (entry,) = changes.status(app.info.dsn, directory=sets.directory).changes
    assert entry.state == "pending"


@pytest.mark.parametrize(
    ("name", "guarded"), [("parent", True), ("apart", True), ("nowhere", False), ("a_view", False)]
)
def test_a_remark_may_hold_only_where_there_is_a_table(
    app: Connection, sets: ChangeSets, name: str, guarded: bool
) -> None:
    """In whichever schema; tables that it names are then not looked for."""
    run(app, "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.apart (i int); CREATE VIEW a_view AS SELECT 1")
    tables = "child" if guarded else "child no_such_table"
    remark = f"-- pyflowguard guard --link-column flow --if-table {name} {tables}"
    sets.add_raw("guard", f"{remark}\nBEGIN;\nCOMMIT;\n")
    assert names(changes.deploy(app.info.dsn, directory=sets.directory)) == ["guard"]
    assert is_guarded(app) == guarded


@pytest.mark.parametrize(
    ("lines", "remarks"),
    [
        ("-- pyflowguard guard a", [OnlineRemark(("a",), "master_flow_id")]),
        ("-- pyflowguard guard a b.c  d ", [OnlineRemark(("a", "b.c", "d"), "master_flow_id")]),
        (
            '-- pyflowguard guard --link-column job_id "A b"."c ""d"\n-- pyflowguard guard x\n',
            [OnlineRemark(('"A b"."c ""d"',), "job_id"), OnlineRemark(("x",), "master_flow_id")],
        ),
        ("-- pyflowguard set-mode enforce a b", [OnlineRemark(("a", "b"), "master_flow_id", "enforce")]),
        ("-- pyflowguard set-mode observe --link-column j a", [OnlineRemark(("a",), "j", "observe")]),
        ("-- pyflowguard guard --if-table t a b", [OnlineRemark(("a", "b"), "master_flow_id", None, "t")]),
        ("-- pyflowguard set-mode enforce --link-column j --if-table t a", [OnlineRemark(("a",), "j", "enforce", "t")]),
        # Comments: of another beginning, indented, or behind a statement.
        ("-- Deploy pyflowguard:engine to pg\n-- pyflowguard\n-- pyflowguard: gaurd a\n-- PyFlowGuard guards a", []),
        ("  -- pyflowguard guard a\nSELECT 1; -- pyflowguard guard a\n-- pyflowguards a\n---- pyflowguard guard a", []),
    ],
)
def test_remarks_are_read(sets: ChangeSets, lines: str, remarks: list[OnlineRemark]) -> None:
    sets.add_raw("guard", lines)
    plan = read_plan(sets.directory)
    assert list(plan.online_remarks(plan.changes[0])) == remarks


@pytest.mark.parametrize(
    "remark",
    [
        *(f"-- pyflowguard guard{rest}" for rest in ["", " ", ' "a', " --link-column", " --link-column flow", ' a"']),
        "-- pyflowguard gaurd child",
        "-- pyflowguard guards child",
        "-- pyflowguard Guard child",
        "-- pyflowguard --link-column flow guard child",
        "-- pyflowguard guard --linkcolumn flow child",
        "-- pyflowguard guard --if-table child",
        "-- pyflowguard guard --if-table t --link-column flow child",
        "-- pyflowguard setmode enforce child",
        "-- pyflowguard set-mode child",
        "-- pyflowguard set-mode strict child",
        "-- pyflowguard deploy child",
        "--pyflowguard guard child",
        "--  pyflowguard guard child",
        "-- pyflowguard  guard child",
    ],
)
def test_a_remark_that_cannot_be_read_stops_all(app: Connection, sets: ChangeSets, remark: str) -> None:
    sets.add_table("first")
    sets.add_raw("guard", f"-- Deploy demo:guard to pg\n\n{remark}\nBEGIN;\nCOMMIT;\n")
    for dry_run in (True, False):
        with pytest.raises(PlanError, match="cannot read the remark") as caught:
            changes.deploy(app.info.dsn, directory=sets.directory, dry_run=dry_run)
        assert f"{sets.directory}/deploy/guard.sql:3: " in caught.value.message
        assert remark in caught.value.message
        assert "-- pyflowguard guard [--link-column COLUMN] [--if-table NAME] TABLE…" in str(caught.value.hint)
        set_mode = "-- pyflowguard set-mode enforce|observe [--link-column COLUMN] [--if-table NAME] TABLE…"
        assert set_mode in str(caught.value.hint)
    assert one(app, "SELECT to_regclass('first')") is None


def test_the_command_refuses_a_misspelt_remark(
    app: Connection, sets: ChangeSets, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    sets.add_raw("guard", "-- pyflowguard gaurd child\nBEGIN;\nCOMMIT;\n")
    refused = command("deploy", "--changes", sets.directory, "--dsn", app.info.dsn)
    assert (refused.returncode, refused.stdout) == (ExitCode.USAGE, "")
    assert "deploy/guard.sql:1: cannot read the remark '-- pyflowguard gaurd child'.\nHINT:  Write " in refused.stderr


def test_what_is_recorded_only_may_say_anything(app: Connection, sets: ChangeSets) -> None:
    """No remark of it is followed; another tool may have deployed it, and would miss its script if that were edited."""
    sets.add_raw("guard", "-- pyflowguard gaurd child\nBEGIN;\nCOMMIT;\n")
    assert names(changes.deploy(app.info.dsn, directory=sets.directory, log_only=True)) == []
    assert [entry.state for entry in changes.status(app.info.dsn, directory=sets.directory).changes] == ["deployed"]


def test_a_script_that_is_not_utf_8_is_named(app: Connection, sets: ChangeSets) -> None:
    sets.add_raw("guard", "BEGIN;\nCOMMIT;\n")
    (sets.directory / "deploy" / "guard.sql").write_bytes(b"-- \xe9\nBEGIN;\nCOMMIT;\n")
    with pytest.raises(PlanError, match=r"guard\.sql: not UTF-8 at byte 3\."):
        changes.deploy(app.info.dsn, directory=sets.directory)
