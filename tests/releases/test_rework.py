"""A released change is reworked as sqitch does it: tag first, old copies kept; either runner upgrades and goes back."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING

import psycopg
import pytest
from acceptance.command import COMMAND, Run, in_migration
from changesets import ChangeSets
from engine.postgres import one, rows
from psycopg.conninfo import conninfo_to_dict
from releases.stay import TABLES, schema, upgraded
from repair.calls import dump
from runner.conftest import Sqitch
from runner.test_interruption import kill_between_script_and_record
from runner.test_plan import as_sqitch_has_it, as_we_have_it
from runner.test_two_runners import content
from waiting import wait_until

from pyflowguard import changes
from pyflowguard.bundle import bundle_deploy, bundle_revert
from pyflowguard.errors import UsageError
from pyflowguard.plan import read_plan

if TYPE_CHECKING:
    from conftest import Databases, TestPostgresql

Runner = Callable[..., None]


@pytest.fixture(params=["pyflowguard", "sqitch", "psql"])
def runner(request: pytest.FixtureRequest, sqitch: Sqitch, postgresql: TestPostgresql, reworked: ChangeSets) -> Runner:
    """Deploy or revert the change sets up to a tag, by one of three runners; psql alone runs a bundle."""
    directory = reworked.directory

    def run(dsn: str, action: str, since: str, to: str) -> None:
        if request.param == "pyflowguard":
            (changes.deploy if action == "deploy" else changes.revert)(dsn, to=to, directory=directory)
        elif request.param == "sqitch":
            sqitch(dsn, directory, action, *(["--verify"] if action == "deploy" else ["-y"]), "--to", to)
        else:
            write = bundle_deploy if action == "deploy" else bundle_revert
            settings = conninfo_to_dict(dsn)
            result = subprocess.run(
                [postgresql.bin / "psql", "-qX", "-v", "ON_ERROR_STOP=1", dsn], text=True, capture_output=True,
                input=write(since=since, to=to, directory=directory), check=False,
            )  # fmt: skip
            assert result.returncode == 0, (settings["dbname"], result.stdout, result.stderr)

    return run


def test_ids_and_scripts_are_those_of_sqitch(reworked: ChangeSets, tool: Callable[[str], str]) -> None:
    plan = read_plan(reworked.directory)
    assert as_we_have_it(plan) == as_sqitch_has_it(reworked.directory, tool)
    old, new = (change for change in plan.changes if change.name == "health")
    assert re.fullmatch(r"health@\S+\.sql", old.path)  # sqitch takes the first tag, where the last change has several
    assert new.path == "health.sql"
    assert [str(each) for each in new.requires] == [old.path.removesuffix(".sql")]
    assert (plan.reworks_of(old), plan.is_rework(old)) == ((new,), False)
    assert (plan.reworks_of(new), plan.is_rework(new)) == ((), True)


def test_an_upgrade_in_place_keeps_all(report_db: str, runner: Runner, reworked: ChangeSets) -> None:
    """Guarded and repaired at the tag; then the head, by the same runner: rows, ledger and quarantine stay."""
    dsn = in_migration(report_db)
    with psycopg.connect(dsn) as connection:
        start = dump(connection, *TABLES)
    runner(dsn, "deploy", None, "@base")
    upgraded(
        report_db,
        upgrade=lambda target: runner(target, "deploy", "@base", "@HEAD"),
        verify=lambda target: changes.verify(target, directory=reworked.directory),
        back=lambda target: changes.revert(target, to="@engine", directory=reworked.directory),
        start=start,
    )


def test_reverting_to_the_tag_restores_what_was_byte_for_byte(
    report_db: str, runner: Runner, postgresql: TestPostgresql
) -> None:
    dsn = in_migration(report_db)
    runner(dsn, "deploy", None, "@base")
    before = schema(postgresql, dsn)
    runner(dsn, "deploy", "@base", "@HEAD")
    newer = schema(postgresql, dsn)
    assert "CREATE VIEW flowguard.coverage" in newer
    assert "AS $$\n-- Newer.\n" in newer
    runner(dsn, "revert", "@HEAD", "@base")
    assert schema(postgresql, dsn) == before


def test_they_take_turns_over_a_rework(
    databases: Databases, report_template: str, sqitch: Sqitch, reworked: ChangeSets
) -> None:
    """The rework by the other runner than what it reworks, there and back; the registry is as sqitch alone makes it."""
    directory, plan = reworked.directory, read_plan(reworked.directory)
    with databases.new(report_template) as one_db, databases.new(report_template) as other_db:
        turns, alone = in_migration(one_db), in_migration(other_db)
        sqitch(alone, directory, "deploy", "--verify")
        changes.deploy(turns, to="@engine", directory=directory)
        sqitch(turns, directory, "deploy", "--verify", "--to", "@base")
        changes.deploy(turns, directory=directory)
        ids = [change.id for change in plan.changes]
        sqitch(turns, directory, "verify")
        sqitch(turns, directory, "check")
        outcomes = changes.verify(turns, directory=directory)
        assert [(outcome.change.id, outcome.failure) for outcome in outcomes] == [(each, None) for each in ids]
        mine, theirs = content(turns), content(alone)
        for found in (mine, theirs):  # who did it, and the order of what has one time
            found["changes"] = sorted(row[:8] for row in found["changes"])
            found["tags"] = sorted(row[:8] for row in found["tags"])
            found["events"] = sorted(row[:8] for row in found["events"])
            found["dependencies"] = sorted(found["dependencies"])
        assert mine == theirs
        sqitch(turns, directory, "revert", "-y", "--to", "@base")
        assert changes.status(turns, directory=directory).having("pending") == plan.changes[-1:]
        sqitch(turns, directory, "deploy", "--verify")
        changes.revert(turns, to="@base", directory=directory)
        assert "Undeployed change:\n  * health" in sqitch(turns, directory, "status").stdout
        with psycopg.connect(turns) as connection:
            assert rows(connection, "SELECT to_regclass('flowguard.coverage')") == [(None,)]
        sqitch(turns, directory, "revert", "-y")
        assert changes.status(turns, directory=directory).having("deployed") == ()


def test_a_reworked_change_is_named_with_its_tag(engine_db: str, reworked: ChangeSets, command: Run) -> None:
    plan = read_plan(reworked.directory)
    with pytest.raises(UsageError, match=r"health is in the plan more than once.\n.*health@\S+, health@HEAD"):
        plan.index_of("health")
    changes.deploy(engine_db, directory=reworked.directory)
    told = command("status", "--dsn", engine_db, "--changes", reworked.directory)
    assert [line.split()[1] for line in told.stdout.splitlines()[1:]].count("health") == 2
    told = command("verify", "--dsn", engine_db, "--changes", reworked.directory)
    verdicts = [line.split(" .. ")[1] for line in told.stdout.splitlines() if line.startswith("  * health ")]
    assert (told.returncode, verdicts) == (0, ["nothing to verify", "ok"])


# --- What a verify script cannot tell


DEFINE = "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT {}';"


@pytest.fixture
def twice(sets: ChangeSets) -> ChangeSets:
    """Give a plan in which `f` is reworked; its verify script passes on what is reworked too."""
    sets.add("f", DEFINE.format(1), "DROP FUNCTION f();", "SELECT f();")
    sets.tag("v1")
    for kind in ("deploy", "revert", "verify"):
        (sets.directory / kind / "f.sql").rename(sets.directory / kind / "f@v1.sql")
    sets.add(
        "f", f"SELECT FROM gate;\n{DEFINE.format(2)}", f"SELECT FROM gate;\n{DEFINE.format(1)}", "SELECT f();", "f@v1"
    )
    return sets


def go_on(dsn: str, sets: ChangeSets, wanted: int) -> None:
    """Deploy or revert again, to where `f` gives that."""
    if wanted == 2:
        changes.deploy(dsn, directory=sets.directory)
    else:
        changes.revert(dsn, to="@v1", directory=sets.directory)


@pytest.mark.parametrize(("arguments", "before", "after"), [(["deploy"], 1, 2), (["revert", "--to", "@v1"], 2, 1)])
def test_a_rework_that_was_cut_off_before_it_did_anything_is_not_taken_for_done(
    empty_db: str, twice: ChangeSets, arguments: list[str], before: int, after: int
) -> None:
    with psycopg.connect(empty_db, autocommit=True) as connection:
        connection.execute("CREATE TABLE gate ()")
        changes.deploy(empty_db, to="@v1" if before == 1 else None, directory=twice.directory)
        with psycopg.connect(empty_db) as holder:
            holder.execute("LOCK TABLE gate")
            call = [str(COMMAND), *arguments, "--dsn", empty_db, "--changes", str(twice.directory)]
            with subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as deployer:
                waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'FROM gate'"
                wait_until(lambda: bool(rows(connection, waiting)), "the script to wait")
                deployer.send_signal(signal.SIGKILL)
            for (pid,) in rows(connection, waiting):
                connection.execute("SELECT pg_terminate_backend(%s)", [pid])
            wait_until(lambda: not rows(connection, waiting), "the script to end")
        assert one(connection, "SELECT f()") == before
        go_on(empty_db, twice, after)
        assert one(connection, "SELECT f()") == after
        states = {entry.change.id: entry.state for entry in changes.status(empty_db, directory=twice.directory).changes}
        assert list(states.values()) == ["deployed", "deployed" if after == 2 else "pending"]


@pytest.mark.parametrize(("arguments", "before", "after"), [(["deploy"], 1, 2), (["revert", "--to", "@v1"], 2, 1)])
def test_a_rework_that_was_cut_off_after_it_was_done_is_recorded(
    empty_db: str, twice: ChangeSets, arguments: list[str], before: int, after: int
) -> None:
    with psycopg.connect(empty_db, autocommit=True) as connection:
        connection.execute("CREATE TABLE gate ()")
        changes.deploy(empty_db, to="@v1" if before == 1 else None, directory=twice.directory)
        kill_between_script_and_record(empty_db, twice, arguments, lambda: bool(one(connection, "SELECT f()") == after))
        wait_until(
            lambda: not rows(connection, "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 75474063"), "it"
        )
        go_on(empty_db, twice, after)
        assert one(connection, "SELECT f()") == after
        states = [entry.state for entry in changes.status(empty_db, directory=twice.directory).changes]
        assert states == ["deployed", "deployed" if after == 2 else "pending"]


@pytest.mark.parametrize("is_at", [1, 2])
def test_what_is_there_without_a_record_is_adopted_as_far_as_it_is_there(
    empty_db: str, sets: ChangeSets, is_at: int
) -> None:
    """The verify script of what is reworked fails on its rework, and that of the rework on what it reworks."""
    says = "SELECT 1 / (f() = {})::integer;"
    sets.add("f", DEFINE.format(1), "DROP FUNCTION f();", says.format(1))
    sets.tag("v1")
    for kind in ("deploy", "revert", "verify"):
        (sets.directory / kind / "f.sql").rename(sets.directory / kind / "f@v1.sql")
    sets.add("f", DEFINE.format(2), DEFINE.format(1), says.format(2), "f@v1")
    with psycopg.connect(empty_db, autocommit=True) as connection:
        connection.execute(DEFINE.format(is_at).encode())
    adopted = changes.adopt(empty_db, directory=sets.directory)
    assert len(adopted.adopted) == is_at
    assert (adopted.stopped_at is None) == (is_at == 2)
    changes.deploy(empty_db, directory=sets.directory)
    with psycopg.connect(empty_db) as connection:
        assert one(connection, "SELECT f()") == 2
    outcomes = changes.verify(empty_db, directory=sets.directory)
    assert [(o.checked, o.failure) for o in outcomes] == [(False, None), (True, None)]
