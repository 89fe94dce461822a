"""Deployers that meet, and deployers that are killed: real processes, really killed."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from acceptance.command import COMMAND
from changesets import ChangeSets
from waiting import wait_until

from pyflowguard import changes
from pyflowguard.errors import ConnectionLost, LockNotObtained, PlanDiverged, ScriptEdited

Tables = Callable[[str], set[str]]
Connection = psycopg.Connection[tuple[object, ...]]


@contextmanager
def process(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run the command beside the test, and kill it at the end if it still runs."""
    with subprocess.Popen(
        [COMMAND, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def backends(admin: Connection, pattern: str) -> list[object]:
    """List the other sessions in this database whose current statement matches."""
    rows = admin.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND state <> 'idle' AND query ~ %s",
        [pattern],
    ).fetchall()
    return [pid for (pid,) in rows]


@pytest.fixture
def admin(empty_db: str, as_role: Callable[[str, str], str]) -> Iterator[Connection]:
    with psycopg.connect(as_role(empty_db, "postgres"), autocommit=True) as connection:
        yield connection


def states(dsn: str, sets: ChangeSets) -> dict[str, str]:
    return {entry.change.name: entry.state for entry in changes.status(dsn, directory=sets.directory).changes}


def kill_between_script_and_record(
    dsn: str, sets: ChangeSets, arguments: list[str], happened: Callable[[], bool]
) -> None:
    """Run the command, and kill it when its script has committed but its record cannot be written yet.

    A lock on yoyo's log holds up the record; the attempt, in another table, is written before.
    """
    with psycopg.connect(dsn) as blocker:
        blocker.execute("LOCK TABLE pyflowguard.migration_log IN EXCLUSIVE MODE")
        with process(*arguments, "--dsn", dsn, "--changes", sets.directory) as running:
            wait_until(happened, "the script to commit")
            with psycopg.connect(dsn, autocommit=True) as watcher:
                wait_until(lambda: bool(backends(watcher, r"INSERT INTO .migration_log.")), "the record to be held up")
            running.send_signal(signal.SIGKILL)
            assert running.wait() == -signal.SIGKILL


# --- Two at once


def test_two_deployers_at_once_deploy_everything_once(empty_db: str, sets: ChangeSets, tables: Tables) -> None:
    for number in range(5):
        sets.add(
            f"t{number}",
            f"CREATE TABLE t{number} (i int);\nSELECT pg_sleep(0.05);",
            f"DROP TABLE t{number};",
            f"TABLE t{number};",
        )
    arguments: list[str | Path] = ["deploy", "--dsn", empty_db, "--changes", sets.directory]
    with process(*arguments) as first, process(*arguments) as second, process(*arguments) as third:
        outputs = [running.communicate(timeout=60) for running in (first, second, third)]
        assert [first.returncode, second.returncode, third.returncode] == [0, 0, 0], outputs
    assert sum(output.count(".. ok") for output, _ in outputs) == 5
    assert sum("Nothing to deploy." in output for output, _ in outputs) == 2
    assert tables(empty_db) == {f"t{number}" for number in range(5)}


def test_create_index_concurrently_does_not_wait_for_a_waiting_deployer(empty_db: str, sets: ChangeSets) -> None:
    sets.add("t", "CREATE TABLE t AS SELECT 1 AS i;\nSELECT pg_sleep(0.5);", "DROP TABLE t;", "TABLE t;")
    sets.add_raw("i", "CREATE INDEX CONCURRENTLY i ON t (i);", "DROP INDEX CONCURRENTLY i;")
    arguments: list[str | Path] = ["deploy", "--dsn", empty_db, "--changes", sets.directory]
    with process(*arguments) as first, process(*arguments) as second:
        outputs = [first.communicate(timeout=30), second.communicate(timeout=30)]
    assert [first.returncode, second.returncode] == [0, 0], outputs


def test_the_lock_is_the_one_that_sqitch_takes_and_its_holder_is_named(
    empty_db: str, sets: ChangeSets, admin: Connection
) -> None:
    sets.add_table("a")
    admin.execute("SET application_name = 'the other one'")
    admin.execute("SELECT pg_advisory_lock(75474063)")
    seen: list[changes.Step | changes.Waiting] = []
    start = time.monotonic()
    with pytest.raises(LockNotObtained) as caught:
        changes.deploy(empty_db, directory=sets.directory, lock_timeout=timedelta(seconds=0.5), on_progress=seen.append)
    assert 0.4 < time.monotonic() - start < 10
    pid = admin.info.backend_pid
    assert f"(process {pid}, the other one)" in caught.value.message
    assert "within 0.5 s" in caught.value.message
    assert caught.value.hint is not None
    assert f"pg_terminate_backend({pid})" in caught.value.hint
    assert caught.value.exit_code == 4
    assert seen == [changes.Waiting(f"process {pid}, the other one")]
    assert states(empty_db, sets) == {"a": "pending"}

    threading.Timer(0.3, lambda: admin.execute("SELECT pg_advisory_unlock(75474063)")).start()
    assert len(changes.deploy(empty_db, directory=sets.directory).deployed) == 1


def test_the_lock_is_that_of_one_database(empty_db: str, sets: ChangeSets, report_db: str) -> None:
    sets.add_table("a")
    with psycopg.connect(report_db) as other:
        other.execute("SELECT pg_advisory_lock(75474063)")
        changes.deploy(empty_db, directory=sets.directory, lock_timeout=timedelta(0))


# --- Killed


def test_a_deployer_killed_between_script_and_record_is_picked_up(
    empty_db: str, sets: ChangeSets, tables: Tables
) -> None:
    sets.add_table("a")
    changes.deploy(empty_db, directory=sets.directory)
    sets.add_table("b")
    sets.add_table("c")
    kill_between_script_and_record(empty_db, sets, ["deploy"], lambda: "b" in tables(empty_db))
    assert states(empty_db, sets) == {"a": "deployed", "b": "interrupted", "c": "pending"}

    result = changes.deploy(empty_db, directory=sets.directory)
    assert [change.name for change in result.recorded] == ["b"]
    assert [change.name for change in result.deployed] == ["c"]
    assert set(states(empty_db, sets).values()) == {"deployed"}
    assert tables(empty_db) == {"a", "b", "c"}


def test_a_deployer_killed_in_its_script_deploys_again(
    empty_db: str, sets: ChangeSets, tables: Tables, admin: Connection
) -> None:
    """The server goes on with the script; the next deployer waits for it, and it commits: what is there counts."""
    sets.add("slow", "CREATE TABLE slow (i int);\nSELECT pg_sleep(2);", "DROP TABLE slow;", "TABLE slow;")
    with process("deploy", "--dsn", empty_db, "--changes", sets.directory) as running:
        wait_until(lambda: bool(backends(admin, "pg_sleep")), "the script to run")
        running.kill()
    assert backends(admin, "pg_sleep")
    with pytest.raises(LockNotObtained, match="process"):
        changes.deploy(empty_db, directory=sets.directory, lock_timeout=timedelta(seconds=0.2))
    result = changes.deploy(empty_db, directory=sets.directory)
    assert [change.name for change in result.recorded] == ["slow"]
    assert tables(empty_db) == {"slow"}


def test_a_script_that_the_server_never_finished_is_run_again(
    empty_db: str, sets: ChangeSets, tables: Tables, admin: Connection
) -> None:
    sets.add("slow", "CREATE TABLE slow (i int);\nSELECT pg_sleep(30);", "DROP TABLE slow;", "TABLE slow;")
    with process("deploy", "--dsn", empty_db, "--changes", sets.directory) as running:
        wait_until(lambda: bool(backends(admin, "pg_sleep")), "the script to run")
        (pid,) = backends(admin, "pg_sleep")
        admin.execute("SELECT pg_terminate_backend(%s)", [pid])
        output, errors = running.communicate(timeout=20)
    assert running.returncode == 4
    assert "The connection was lost while deploying slow" in errors, output
    assert states(empty_db, sets) == {"slow": "interrupted"}
    (sets.directory / "deploy" / "slow.sql").write_text("BEGIN;\nCREATE TABLE slow (i int);\nCOMMIT;\n")
    result = changes.deploy(empty_db, directory=sets.directory)
    assert ([c.name for c in result.recorded], [c.name for c in result.deployed]) == ([], ["slow"])
    assert tables(empty_db) == {"slow"}


def test_a_change_without_a_verify_script_is_deployed_again(empty_db: str, sets: ChangeSets, tables: Tables) -> None:
    sets.add_table("a")
    changes.deploy(empty_db, directory=sets.directory)
    sets.add("b", "CREATE TABLE IF NOT EXISTS b (i int);", "DROP TABLE b;")
    kill_between_script_and_record(empty_db, sets, ["deploy"], lambda: "b" in tables(empty_db))
    result = changes.deploy(empty_db, directory=sets.directory)
    assert ([c.name for c in result.recorded], [c.name for c in result.deployed]) == ([], ["b"])


def test_what_was_run_counts_if_the_script_is_edited_meanwhile(empty_db: str, sets: ChangeSets, tables: Tables) -> None:
    sets.add_table("a")
    changes.deploy(empty_db, directory=sets.directory)
    sets.add_table("b")
    kill_between_script_and_record(empty_db, sets, ["deploy"], lambda: "b" in tables(empty_db))
    (sets.directory / "deploy" / "b.sql").write_text("BEGIN;\nCREATE TABLE b (i int, j int);\nCOMMIT;\n")
    sets.add_table("c")
    with pytest.raises(ScriptEdited, match="script of b"):
        changes.deploy(empty_db, directory=sets.directory)
    assert states(empty_db, sets) == {"a": "deployed", "b": "edited", "c": "pending"}


def test_a_reverter_killed_between_script_and_record_is_picked_up(
    empty_db: str, sets: ChangeSets, tables: Tables
) -> None:
    sets.add_table("a")
    sets.add_table("b")
    changes.deploy(empty_db, directory=sets.directory)
    kill_between_script_and_record(empty_db, sets, ["revert", "--to", "a"], lambda: "b" not in tables(empty_db))
    assert states(empty_db, sets) == {"a": "deployed", "b": "interrupted"}
    result = changes.revert(empty_db, to="a", directory=sets.directory)
    assert result.reverted == ()
    assert states(empty_db, sets) == {"a": "deployed", "b": "pending"}
    assert [c.name for c in changes.deploy(empty_db, directory=sets.directory).deployed] == ["b"]


def test_a_reverter_killed_in_its_script_leaves_the_change_deployed(
    empty_db: str, sets: ChangeSets, tables: Tables, admin: Connection
) -> None:
    sets.add("slow", "CREATE TABLE slow (i int);", "DROP TABLE slow;\nSELECT pg_sleep(30);", "TABLE slow;")
    changes.deploy(empty_db, directory=sets.directory)
    with process("revert", "--yes", "--dsn", empty_db, "--changes", sets.directory) as running:
        wait_until(lambda: bool(backends(admin, "pg_sleep")), "the script to run")
        running.kill()
    for pid in backends(admin, "pg_sleep"):
        admin.execute("SELECT pg_terminate_backend(%s)", [pid])
    assert states(empty_db, sets) == {"slow": "interrupted"}
    assert changes.deploy(empty_db, directory=sets.directory) == changes.DeployResult((), (), (), dry_run=False)
    assert states(empty_db, sets) == {"slow": "deployed"}
    assert tables(empty_db) == {"slow"}


def test_a_reverted_change_without_a_verify_script_is_reverted_again(
    empty_db: str, sets: ChangeSets, tables: Tables
) -> None:
    sets.add("a", "CREATE TABLE a (i int);", "DROP TABLE IF EXISTS a;")
    changes.deploy(empty_db, directory=sets.directory)
    kill_between_script_and_record(empty_db, sets, ["revert", "--yes"], lambda: "a" not in tables(empty_db))
    assert changes.revert(empty_db, directory=sets.directory).reverted == ()
    assert states(empty_db, sets) == {"a": "pending"}


def test_an_attempt_on_a_change_that_is_gone_from_the_plan_is_refused(
    empty_db: str, sets: ChangeSets, tables: Tables
) -> None:
    sets.add_table("a")
    changes.deploy(empty_db, directory=sets.directory)
    plan = sets.plan.read_text()
    sets.add_table("b")
    kill_between_script_and_record(empty_db, sets, ["deploy"], lambda: "b" in tables(empty_db))
    sets.plan.write_text(plan)
    with pytest.raises(PlanDiverged, match="ended while it was to deploy b"):
        changes.deploy(empty_db, directory=sets.directory)


def test_losing_the_registry_connection_is_reported_and_picked_up(
    empty_db: str, sets: ChangeSets, tables: Tables, admin: Connection
) -> None:
    sets.add("slow", "CREATE TABLE slow (i int);\nSELECT pg_sleep(1);", "DROP TABLE slow;", "TABLE slow;")

    def end_registry_session() -> None:
        wait_until(lambda: bool(backends(admin, "pg_sleep")), "the script to run")
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks"
            " WHERE locktype = 'advisory' AND classid = 0 AND objid = 75474063"
        )

    killer = threading.Thread(target=end_registry_session)
    killer.start()
    with pytest.raises(ConnectionLost, match="while recording the deployment"):
        changes.deploy(empty_db, directory=sets.directory)
    killer.join()
    assert states(empty_db, sets) == {"slow": "interrupted"}
    assert [c.name for c in changes.deploy(empty_db, directory=sets.directory).recorded] == ["slow"]
    assert tables(empty_db) == {"slow"}


def test_control_c_ends_the_script_in_the_server_too(empty_db: str, sets: ChangeSets, admin: Connection) -> None:
    sets.add("slow", "CREATE TABLE slow (i int);\nSELECT pg_sleep(30);", "DROP TABLE slow;", "TABLE slow;")
    with process("deploy", "--dsn", empty_db, "--changes", sets.directory) as running:
        wait_until(lambda: bool(backends(admin, "pg_sleep")), "the script to run")
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=20)
    assert running.returncode == 130
    assert errors.strip() == "pyflowguard: interrupted."
    wait_until(lambda: not backends(admin, "pg_sleep"), "the script to be cancelled")
    assert states(empty_db, sets) == {"slow": "interrupted"}
