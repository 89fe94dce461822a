"""Each exception of pyflowguard is really raised, with its exit code, and doing what it says helps."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from changesets import ChangeSets
from engine.postgres import one, run

import pyflowguard
from pyflowguard import changes, database, errors, plan, repair, server
from pyflowguard.cli import cli
from pyflowguard.errors import ExitCode, FlowguardError

Scenario = Callable[["Ground"], None]
SCENARIOS: dict[type[FlowguardError], Scenario] = {}


@dataclass(frozen=True)
class Ground:
    """What a scenario plays on: an empty database, one with the engine, and a directory of its own."""

    empty: str
    engine: str
    directory: Path

    def sets(self, name: str = "demo") -> ChangeSets:
        """Give an empty plan."""
        return ChangeSets(self.directory / name, name)


def scenario(kind: type[FlowguardError]) -> Callable[[Scenario], Scenario]:
    """Declare which class a scenario is about."""

    def declare(test: Scenario) -> Scenario:
        assert kind not in SCENARIOS
        SCENARIOS[kind] = test
        return test

    return declare


@contextmanager
def raised(kind: type[FlowguardError], exit_code: ExitCode, *parts: str) -> Iterator[FlowguardError]:
    """Expect just this class, with this exit code, whose text has these parts; gives what it said after the block."""
    said = FlowguardError("")
    with pytest.raises(FlowguardError) as caught:
        yield said
    assert type(caught.value) is kind
    assert caught.value.exit_code is exit_code
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    said.__dict__.update(caught.value.__dict__)


@scenario(errors.UsageError)
def asks_for_what_there_is_not(ground: Ground) -> None:
    sets = ground.sets()
    sets.add_table("a")
    with raised(errors.UsageError, ExitCode.USAGE, "no change b in the plan", "HINT:  ", "a"):
        changes.deploy(ground.empty, to="b", directory=sets.directory)
    changes.deploy(ground.empty, to="a", directory=sets.directory)


@scenario(errors.PlanError)
def has_a_plan_that_cannot_be_read(ground: Ground) -> None:
    sets = ground.sets()
    sets.add_table("a")
    text = sets.plan.read_text()
    sets.plan.write_text(text + "b\n")
    line = len(text.splitlines()) + 1
    with raised(errors.PlanError, ExitCode.USAGE, f"sqitch.plan:{line}: ", "YYYY-MM-DDTHH:MM:SSZ"):
        plan.read_plan(sets.directory)
    sets.plan.write_text(text + "b 2026-01-02T03:04:05Z Tester <tester@example.org> # b\n")
    assert [change.name for change in plan.read_plan(sets.directory).changes] == ["a", "b"]


@scenario(errors.CannotConnect)
def finds_no_server(ground: Ground) -> None:
    nowhere = psycopg.conninfo.make_conninfo(ground.empty, port=1)
    with raised(errors.CannotConnect, ExitCode.CANNOT_CONNECT, "on 127.0.0.1", "HINT:  Name the database by --dsn"):
        database.connect(nowhere)
    database.connect(ground.empty).close()


@scenario(errors.ConnectionLost)
def loses_its_connection(ground: Ground) -> None:
    script = ground.directory / "end.sql"
    script.write_text("SELECT pg_terminate_backend(pg_backend_pid());\n")
    connection = database.connect(ground.empty)
    with raised(errors.ConnectionLost, ExitCode.FAILED, "was lost while ending itself: ", "HINT:  Run it again"):
        database.run_script(connection, script, action="ending itself")
    script.write_text("SELECT 1;\n")
    with database.connect(ground.empty) as again:
        database.run_script(again, script, action="ending itself")


@scenario(errors.StatementFailed)
def is_refused_a_statement(ground: Ground) -> None:
    with psycopg.connect(ground.engine, autocommit=True) as connection:
        run(connection, "CREATE TABLE flow (id integer PRIMARY KEY); CREATE TABLE probe (id integer PRIMARY KEY, "
            "flow integer); SELECT flowguard.add_master('flow', 'id', '{}', created_at_column => NULL); "
            "SELECT flowguard.add_link('probe', 'flow'); INSERT INTO probe VALUES (1, 77)")  # fmt: skip
        done = repair.repair(ground.engine)
        run(connection, "ALTER TABLE probe ADD CONSTRAINT forbids FOREIGN KEY (flow) REFERENCES flow")
        with raised(errors.StatementFailed, ExitCode.FAILED, "ERROR FG203: ", "DETAIL:  ", "DROP CONSTRAINT forbids"):
            repair.undo(done.run_id or 0, ground.engine)
        run(connection, "ALTER TABLE probe DROP CONSTRAINT forbids")
        assert repair.undo(done.run_id or 0, ground.engine).restored == 1


@scenario(errors.ScriptFailed)
def has_a_script_that_fails(ground: Ground) -> None:
    sets = ground.sets()
    sets.add("a", "SELECT 1;\nSELECT 1 / 0;")
    with raised(errors.ScriptFailed, ExitCode.FAILED, "deploy/a.sql:4: ERROR 22012: division by zero"):
        changes.deploy(ground.empty, directory=sets.directory)
    script = sets.directory / "deploy" / "a.sql"
    script.write_text(script.read_text().replace("1 / 0", "1 / 1"))
    assert len(changes.deploy(ground.empty, directory=sets.directory).deployed) == 1


@scenario(errors.VerifyFailed)
def deploys_what_does_not_verify(ground: Ground) -> None:
    sets = ground.sets()
    broken = "DO $$ BEGIN RAISE EXCEPTION 'not so' USING HINT = 'Do it right.'; END $$;"
    sets.add("a", "CREATE TABLE a (i int);", "DROP TABLE a;", verify=broken)
    with raised(errors.VerifyFailed, ExitCode.FAILED, "a does not verify, so it was reverted.", "HINT:  Do it right."):
        changes.deploy(ground.empty, directory=sets.directory, verify=True)
    (sets.directory / "verify" / "a.sql").write_text("BEGIN;\nTABLE a;\nROLLBACK;\n")
    assert len(changes.deploy(ground.empty, directory=sets.directory, verify=True).deployed) == 1


@scenario(errors.LockNotObtained)
def comes_while_another_deployer_is_at_work(ground: Ground) -> None:
    sets = ground.sets()
    sets.add_table("a")
    with (
        psycopg.connect(ground.empty, autocommit=True) as holder,
        psycopg.connect(ground.empty, autocommit=True) as other,
    ):
        run(holder, f"SELECT pg_advisory_lock({changes.LOCK_KEY})")
        pid = holder.info.backend_pid
        with raised(errors.LockNotObtained, ExitCode.FAILED, f"process {pid}", "within 0.1 s") as said:
            changes.deploy(ground.empty, directory=sets.directory, lock_timeout=timedelta(seconds=0.1))
        assert said.hint is not None
        assert one(other, said.hint.partition("end it: ")[2]) is True
    assert len(changes.deploy(ground.empty, directory=sets.directory).deployed) == 1


@scenario(errors.PlanDiverged)
def has_another_history_than_the_database(ground: Ground) -> None:
    sets, other = ground.sets(), ChangeSets(ground.directory / "other", "demo")
    sets.add_table("a")
    other.add_table("b")
    changes.deploy(ground.empty, directory=sets.directory)
    with raised(
        errors.PlanDiverged, ExitCode.FAILED, "the database has a (", "the plan has b (", "HINT:  Nothing was changed."
    ):
        changes.deploy(ground.empty, directory=other.directory)
    sets.add_table("b")
    assert len(changes.deploy(ground.empty, directory=sets.directory).deployed) == 1


@scenario(errors.RegistryUnfit)
def may_not_write_the_registry_of_sqitch(ground: Ground) -> None:
    sets = ground.sets()
    sets.add_table("a")
    changes.deploy(ground.empty, directory=sets.directory)
    sets.add_table("b")
    with psycopg.connect(ground.empty, autocommit=True) as owner:
        run(owner, "REVOKE INSERT ON sqitch.events FROM app_owner")
        parts = (
            "schema sqitch has demo, and role app_owner may not write it.",
            "HINT:  GRANT USAGE ON SCHEMA sqitch TO",
        )
        with raised(errors.RegistryUnfit, ExitCode.FAILED, *parts) as said:
            changes.deploy(ground.empty, directory=sets.directory)
        assert said.hint is not None
        run(owner, said.hint)
    assert len(changes.deploy(ground.empty, directory=sets.directory).deployed) == 1


@scenario(errors.ScriptEdited)
def has_a_script_that_was_edited(ground: Ground) -> None:
    sets = ground.sets()
    sets.add_table("a")
    changes.deploy(ground.empty, directory=sets.directory)
    script = sets.directory / "deploy" / "a.sql"
    script.write_text(script.read_text() + "-- a remark\n")
    sets.add_table("b")
    with raised(errors.ScriptEdited, ExitCode.FAILED, "script of a has been edited", "deploy --accept-edits"):
        changes.deploy(ground.empty, directory=sets.directory)
    assert len(changes.deploy(ground.empty, directory=sets.directory, accept_edits=True).deployed) == 1


@scenario(errors.DependencyMissing)
def requires_a_change_of_another_project(ground: Ground) -> None:
    base, sets = ground.sets("base"), ground.sets()
    base.add_table("a")
    sets.add_table("b", dependencies="base:a")
    with raised(errors.DependencyMissing, ExitCode.FAILED, "b requires base:a", "HINT:  Deploy base:a first."):
        changes.deploy(ground.empty, directory=sets.directory)
    changes.deploy(ground.empty, directory=base.directory)
    assert len(changes.deploy(ground.empty, directory=sets.directory).deployed) == 1


@scenario(errors.ServerFailed)
def has_no_programs_of_a_server(ground: Ground) -> None:
    with (
        raised(errors.ServerFailed, ExitCode.FAILED, f"no PostgreSQL server in {ground.directory}", "initdb"),
        server.throwaway_server(bindir=ground.directory),
    ):
        pass


@scenario(errors.ExtraMissing)
def wants_a_page_without_what_writes_it(ground: Ground) -> None:
    page = ground.directory / "page.html"
    arguments = ["report", "--dsn", ground.engine, "-o", str(page)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "jinja2", None)
        patch.delitem(sys.modules, "pyflowguard.page", raising=False)
        patch.delattr(pyflowguard, "page", raising=False)
        with raised(
            errors.ExtraMissing,
            ExitCode.FAILED,
            "A report in html cannot be written: the package jinja2 is not installed.",
            "HINT:  pip install 'pyflowguard[report]'",
        ):
            cli.main(arguments, standalone_mode=False)
        assert not page.exists()
        cli.main([*arguments, "--json"], standalone_mode=False)
    cli.main(arguments, standalone_mode=False)
    assert page.read_text().startswith("<!DOCTYPE html>")


@scenario(errors.EngineMissing)
def asks_a_database_without_the_engine(ground: Ground) -> None:
    with raised(
        errors.EngineMissing,
        ExitCode.FAILED,
        "is not deployed in database",
        "HINT:  Run `pyflowguard deploy` on it",
    ):
        repair.repair(ground.empty)
    changes.deploy(ground.empty)
    repair.repair(ground.empty)


@scenario(errors.EngineUnfit)
def asks_an_engine_of_before(ground: Ground) -> None:
    changes.revert(ground.engine, to="preview@v1.0.0")
    with psycopg.connect(ground.engine, autocommit=True) as connection:
        connection.execute("CREATE FUNCTION flowguard.version() RETURNS text LANGUAGE sql AS $$ SELECT '0.9.9' $$")
    with raised(errors.EngineUnfit, ExitCode.FAILED, "is of version 0.9.9", "HINT:  Run `pyflowguard deploy` on it"):
        repair.repair(ground.engine)
    changes.deploy(ground.engine)
    repair.repair(ground.engine)


@pytest.mark.parametrize("kind", SCENARIOS, ids=lambda kind: kind.__name__)
def test_an_exception_is_raised_and_its_remedy_helps(
    kind: type[FlowguardError], empty_db: str, engine_db: str, tmp_path: Path
) -> None:
    SCENARIOS[kind](Ground(empty_db, engine_db, tmp_path))


def test_every_exception_has_a_scenario() -> None:
    public = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, FlowguardError) and kind is not FlowguardError
    }
    assert set(SCENARIOS) == public


def test_every_exception_has_its_pattern_as_docstring() -> None:
    assert [kind.__name__ for kind in SCENARIOS if not (kind.__doc__ or "").strip()] == []
