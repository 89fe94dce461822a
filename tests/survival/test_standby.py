"""A physical standby shows how the links are, and says in plain words that nothing can be written there."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import timedelta

import psycopg
import pytest
from acceptance.command import Run
from engine.postgres import one, refused, rows, run
from survival import worlds
from survival.servers import Running

from pyflowguard import changes, watch


@pytest.fixture(scope="module")
def pair(primary: Running, standby: Running) -> tuple[str, str]:
    """Build the odd world on the primary; gives the connection strings of it there and on the standby."""
    with psycopg.connect(primary.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE odd OWNER app_owner")
    there = primary.dsn("odd", "app_owner")
    changes.deploy(there)
    with psycopg.connect(there, autocommit=True) as connection:
        worlds.build_odd(connection)
        run(connection, 'CREATE TABLE offen (id integer PRIMARY KEY, "Mandant Nr" integer NOT NULL, flow bigint)')
        run(connection, "SELECT flowguard.add_link('offen', 'flow')")
    follow(there, standby.dsn())
    return there, standby.dsn("odd", "app_owner")


def follow(primary: str, standby: str) -> None:
    """Wait until the standby has all that was committed."""
    with psycopg.connect(primary, autocommit=True) as connection:
        position = one(connection, "SELECT pg_current_wal_insert_lsn()::text")
    deadline = time.monotonic() + 30
    with psycopg.connect(standby, autocommit=True) as connection:
        while not one(connection, "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", position):
            assert time.monotonic() < deadline, position
            time.sleep(0.02)


def test_what_is_read_there_is_what_the_primary_says(pair: tuple[str, str]) -> None:
    primary, standby = pair
    assert worlds.contents(standby, "odd") == worlds.contents(primary, "odd")
    with psycopg.connect(standby, autocommit=True) as connection:
        assert one(connection, "SELECT pg_is_in_recovery()")
        assert one(connection, "SELECT flowguard.health_score()") < 100
        assert rows(connection, "SELECT DISTINCT kind FROM flowguard.violation") == [("unlinked",)]


def test_a_standby_is_watched_though_nobody_can_listen_there(pair: tuple[str, str]) -> None:
    primary, standby = pair
    with (
        psycopg.connect(primary, autocommit=True) as writer,
        closing(watch.watch(standby, interval=timedelta(seconds=0.2))) as looks,
    ):
        next(looks)
        run(writer, "INSERT INTO offen VALUES (777, 1, NULL)")
        seen = next(seen for seen in looks if any(event.kind == "violation" for event in seen.events))
        assert '{"id": 777} is unlinked' in seen.events[0].text
        run(writer, "DELETE FROM offen")
        follow(primary, standby)


def test_a_run_of_the_primary_is_not_taken_for_a_stopped_one(pair: tuple[str, str]) -> None:
    """Which of the primary's sessions are there, a standby does not know."""
    primary, standby = pair
    finding = "SELECT name FROM flowguard.check_all() WHERE name = 'run_stopped'"
    with psycopg.connect(primary, autocommit=True) as writer:
        run(writer, "INSERT INTO flowguard.repair_run (status) VALUES ('running')")
        follow(primary, standby)
        with psycopg.connect(standby, autocommit=True) as reader:
            # The call has ended, as the primary can tell and a standby cannot, which believes what is written.
            assert rows(writer, finding) == [("run_stopped",)]
            assert rows(reader, finding) == []
        run(writer, "UPDATE flowguard.repair_run SET status = 'stopped' WHERE status = 'running'")
        follow(primary, standby)
        with psycopg.connect(standby, autocommit=True) as reader:
            assert rows(writer, finding) == rows(reader, finding) == [("run_stopped",)]
        run(writer, "DELETE FROM flowguard.repair_run WHERE status = 'stopped'")
        follow(primary, standby)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "shown"),
    [
        (("health", "--violations", "5"), 0, "zweiter"),
        (("check",), 1, "rows_in_quarantine"),
        (("check", "--fail-on", "error"), 0, "rows_in_quarantine"),
        (("doctor",), 1, "unguarded_column"),
        (("status",), 0, "privileges @engine"),
        (("verify",), 0, "privileges @engine .. ok"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_commands_that_read(
    pair: tuple[str, str], command: Run, arguments: tuple[str, ...], exit_code: int, shown: str
) -> None:
    done = command(*arguments, "--dsn", pair[1])
    assert (done.returncode, done.stderr) == (exit_code, ""), done
    assert shown in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [("repair",), ("repair", "--dry-run"), ("undo", "1"), ("guard",), ("deploy",), ("revert", "-y")],
    ids=" ".join,
)
def test_commands_that_write(pair: tuple[str, str], command: Run, arguments: tuple[str, ...]) -> None:
    done = command(*arguments, "--dsn", pair[1])
    assert (done.returncode, done.stdout) == (4, ""), done
    assert "25006" in done.stderr
    assert "If this server is a standby, name the primary" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "CALL flowguard.repair()",
        "SELECT flowguard.undo(1)",
        "SELECT flowguard.guard('offen', 'flow')",
        "SELECT flowguard.set_mode('offen', 'enforce', 'flow')",
    ],
)
def test_statements_that_write(pair: tuple[str, str], statement: str) -> None:
    with psycopg.connect(pair[1], autocommit=True) as connection, refused("25006"):
        run(connection, statement)
