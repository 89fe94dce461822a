"""Two runners, one database: what one has deployed or reverted, sqitch and pyflowguard take for their own in turns."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from acceptance.command import Run, in_migration
from changesets import ChangeSets
from profiles import how_many
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from runner.conftest import Sqitch
from runner.test_interruption import kill_between_script_and_record

from pyflowguard import changes
from pyflowguard.database import Notice
from pyflowguard.errors import (
    DependencyMissing,
    FlowguardError,
    PlanDiverged,
    PlanError,
    RegistryUnfit,
    ScriptEdited,
    ScriptFailed,
    VerifyFailed,
)
from pyflowguard.plan import Change, Plan, read_plan

if TYPE_CHECKING:
    from conftest import Databases

Tables = Callable[[str], set[str]]


def rows(dsn: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query.encode()).fetchall()


def execute(dsn: str, statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statements.encode())


def names(given: tuple[Change, ...]) -> list[str]:
    return [change.name for change in given]


def states(dsn: str, sets: ChangeSets) -> dict[str, str]:
    return {entry.change.name: entry.state for entry in changes.status(dsn, directory=sets.directory).changes}


def here(dsn: str, directory: Path) -> list[str]:
    """What pyflowguard says is deployed."""
    entries = changes.status(dsn, directory=directory).changes
    assert {entry.state for entry in entries} <= {"deployed", "pending"}
    return [entry.change.name for entry in entries if entry.state == "deployed"]


def there(sqitch: Sqitch, dsn: str, directory: Path) -> list[str]:
    """What sqitch says is deployed."""
    result = sqitch(dsn, directory, "status", check=False)
    planned = names(read_plan(directory).changes)
    if "No changes deployed" in result.stdout + result.stderr:
        return []
    assert result.returncode == 0, result.stdout + result.stderr
    _, _, pending = result.stdout.partition("Undeployed change")
    undeployed = re.findall(r"^  \* (\S+)", pending, re.MULTILINE)
    assert undeployed or "Nothing to deploy (up-to-date)" in result.stdout
    deployed = planned[: len(planned) - len(undeployed)]
    assert deployed + undeployed == planned
    assert f"# Name:     {deployed[-1]}\n" in result.stdout
    return deployed


class Turn:
    """Deploys up to a change, reverts to one, and verifies, by either runner."""

    def __init__(self, sqitch: Sqitch, dsn: str, plan: Plan) -> None:
        self.sqitch, self.dsn, self.plan = sqitch, dsn, plan

    def take(self, runner: str, action: str, deployed: int) -> int:
        """Do one step where so many changes are deployed; how many are then."""
        directory, planned = self.plan.directory, self.plan.changes
        if action == "deploy":
            to = self.reference(deployed)
            if runner == "sqitch":
                self.sqitch(self.dsn, directory, "deploy", "--verify", "--to", to)
            else:
                assert changes.deploy(self.dsn, directory=directory, to=to).deployed == planned[deployed : deployed + 1]
            return deployed + 1
        if action == "revert":
            to_or_all = self.reference(deployed - 2) if deployed > 1 else None
            if runner == "sqitch":
                self.sqitch(self.dsn, directory, "revert", "-y", *(("--to", to_or_all) if to_or_all else ()))
            else:
                reverted = changes.revert(self.dsn, directory=directory, to=to_or_all).reverted
                assert names(reverted) == [planned[deployed - 1].name]
            return deployed - 1
        if runner == "sqitch":
            self.sqitch(self.dsn, directory, "verify")
            self.sqitch(self.dsn, directory, "check")
        else:
            outcomes = changes.verify(self.dsn, directory=directory)
            assert [(o.change.name, o.failure) for o in outcomes] == [(c.name, None) for c in planned[:deployed]]
        return deployed

    def reference(self, index: int) -> str:
        """Name a change as both runners take it: by its id where it is reworked, or is a rework."""
        change = self.plan.changes[index]
        return change.name if names(self.plan.changes).count(change.name) == 1 else change.id


@pytest.fixture
def three(sets: ChangeSets) -> ChangeSets:
    sets.add_table("a")
    sets.tag("v1")
    sets.add_table("b", dependencies="a@v1")
    sets.add_table("c", dependencies="a b")
    sets.tag("v2")
    return sets


# --- In turns


@pytest.mark.parametrize("seed", range(how_many(ci=8, nightly=100)))
def test_they_take_turns(sqitch: Sqitch, empty_db: str, three: ChangeSets, tables: Tables, seed: int) -> None:
    """Random steps by random runners: after each, both say what is deployed, and it is what exists."""
    chance = random.Random(seed)
    turn = Turn(sqitch, empty_db, read_plan(three.directory))
    planned = names(turn.plan.changes)
    deployed = 0
    for step in range(4):
        choices = ["deploy", "deploy"] * (deployed < len(planned)) + ["revert", "verify"] * (deployed > 0)
        runner, action = chance.choice(["sqitch", "pyflowguard"]), chance.choice(choices)
        deployed = turn.take(runner, action, deployed)
        said = f"seed {seed}, step {step}: {runner} {action}"
        assert here(empty_db, three.directory) == planned[:deployed], said
        assert tables(empty_db) == set(planned[:deployed]), said
        if runner == "pyflowguard" or step == 3:  # sqitch knows what it did itself
            assert there(sqitch, empty_db, three.directory) == planned[:deployed], said
    assert changes.revert(empty_db, directory=three.directory).reverted == turn.plan.changes[:deployed][::-1]
    assert tables(empty_db) == set()


def test_they_take_turns_on_the_shipped_plan(sqitch: Sqitch, report_db: str) -> None:
    """Each change by the other runner than the one before, there and back, the report's profile included."""
    dsn = in_migration(report_db)
    plan = read_plan()
    turn = Turn(sqitch, dsn, plan)
    for number in range(len(plan.changes)):
        turn.take(("pyflowguard", "sqitch")[number % 2], "deploy", number)
    assert here(dsn, plan.directory) == there(sqitch, dsn, plan.directory) == names(plan.changes)
    turn.take("sqitch", "verify", len(plan.changes))
    turn.take("pyflowguard", "verify", len(plan.changes))
    for number in range(len(plan.changes), 0, -1):
        turn.take(("pyflowguard", "sqitch")[number % 2], "revert", number)
    assert here(dsn, plan.directory) == there(sqitch, dsn, plan.directory) == []
    assert rows(dsn, "SELECT 1 FROM pg_namespace WHERE nspname = 'flowguard'") == []


# --- The same registry


LAYOUT = """
SELECT c.relname, a.attname, a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       pg_get_expr(d.adbin, d.adrelid)
  FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
  LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE c.relnamespace = 'sqitch'::regnamespace ORDER BY 1, 3
"""
CONSTRAINTS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
  FROM pg_constraint WHERE connamespace = 'sqitch'::regnamespace ORDER BY 1, 2
"""
CONTENT = {
    "releases": "SELECT version",
    "projects": "SELECT project, uri",
    "changes": "SELECT change_id, script_hash, change, project, note, planned_at, planner_name, planner_email,"
    " committer_name, committer_email",
    "tags": "SELECT tag_id, tag, project, change_id, note, planned_at, planner_name, planner_email, committer_name,"
    " committer_email",
    "dependencies": "SELECT *",
    "events": "SELECT event, change_id, change, project, note, requires, conflicts, tags, planned_at, planner_name,"
    " planner_email, committer_name, committer_email",
}


def content(dsn: str) -> dict[str, list[tuple[object, ...]]]:
    """All that the registry holds but for times, changes and events in the order in which they came."""
    found = {}
    for table, query in CONTENT.items():
        order = {"changes": "committed_at", "events": "committed_at", "dependencies": "1, 3"}.get(table, "1")
        found[table] = rows(dsn, f"{query} FROM sqitch.{table} ORDER BY {order}")
    return found


def test_the_registry_is_as_sqitch_writes_it(
    sqitch: Sqitch, databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layout and content, after deploying, failing, reverting and deploying again a plan with all that there is."""
    monkeypatch.setenv("SQITCH_FULLNAME", "Tester")
    monkeypatch.setenv("SQITCH_EMAIL", "tester@example.org")
    base, sets = ChangeSets(tmp_path / "base", "base"), ChangeSets(tmp_path / "sets")
    base.add_table("z")
    base.tag("z1")
    sets.plan.write_text(sets.plan.read_text().replace("=demo\n", "=demo\n%uri=https://Example.org:443/Démo\n"))
    sets.add_table("a", dependencies="base:z base:z@z1 base:@z1 !base:gone@z1")
    sets.tag("v1")
    sets.tag("v1.1")
    sets.add_table("b", dependencies="a @v1 a@v1.1")
    sets.add("c", "TABLE missing;", dependencies="b !base:gone")
    with databases.new() as by_sqitch, databases.new() as by_pyflowguard:
        sqitch(by_sqitch, base.directory, "deploy")
        last = sqitch(by_sqitch, sets.directory, "deploy", "--verify", "--mode", "change", check=False)
        assert 'relation "missing" does not exist' in last.stderr, last.stderr
        sqitch(by_sqitch, sets.directory, "revert", "-y", "--to", "a")
        sqitch(by_sqitch, sets.directory, "deploy", "--to", "b")
        changes.deploy(by_pyflowguard, directory=base.directory)
        with pytest.raises(ScriptFailed):
            changes.deploy(by_pyflowguard, directory=sets.directory)
        changes.revert(by_pyflowguard, directory=sets.directory, to="a")
        changes.deploy(by_pyflowguard, directory=sets.directory, to="b")
        expected = content(by_sqitch)
        assert [row[0] for row in expected["events"]] == ["deploy", "deploy", "deploy", "fail", "revert", "deploy"]
        assert content(by_pyflowguard) == expected
        for query in (LAYOUT, CONSTRAINTS):
            assert rows(by_pyflowguard, query) == rows(by_sqitch, query)
        assert "Tester" in sqitch(by_pyflowguard, sets.directory, "log", "--event", "fail").stdout
        sqitch(by_pyflowguard, base.directory, "check")


def test_a_change_that_does_not_verify_is_a_failure_to_sqitch_too(empty_db: str, sets: ChangeSets) -> None:
    sets.add("a", "CREATE TABLE a ();", "DROP TABLE a;", "SELECT 1 / 0;")
    with pytest.raises(VerifyFailed):
        changes.deploy(empty_db, directory=sets.directory)
    assert rows(empty_db, "SELECT event FROM sqitch.events") == [("fail",)]
    assert rows(empty_db, "SELECT change FROM sqitch.changes") == []


def test_who_deployed_is_the_user_of_the_system_where_nobody_is_named(
    empty_db: str, three: ChangeSets, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SQITCH_FULLNAME", "SQITCH_EMAIL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOGNAME", "deployer")
    changes.deploy(empty_db, directory=three.directory, to="a")
    committers = rows(empty_db, "SELECT committer_name, split_part(committer_email, '@', 1) FROM sqitch.changes")
    assert committers == [("deployer", "deployer")]


def test_the_registry_may_have_another_name(sqitch: Sqitch, empty_db: str, three: ChangeSets) -> None:
    (three.directory / "sqitch.conf").write_text('[core]\n\tengine = pg\n[Engine "pg"]\n\tregistry = "My Own" ; so\n')
    changes.deploy(empty_db, directory=three.directory, to="b")
    sqitch(empty_db, three.directory, "revert", "-y", "--to", "a")
    assert here(empty_db, three.directory) == ["a"]
    assert rows(empty_db, 'SELECT change FROM "My Own".changes') == [("a",)]
    assert rows(empty_db, "SELECT to_regnamespace('sqitch')") == [(None,)]


def test_order_does_not_depend_on_the_clock(empty_db: str, three: ChangeSets) -> None:
    """A clock that went back, or a server with another one: what is written comes after what is there."""
    changes.deploy(empty_db, directory=three.directory, to="a")
    execute(empty_db, "UPDATE sqitch.changes SET committed_at = '2100-01-01'; UPDATE sqitch.events SET committed_at = "
            "'2100-01-01'")  # fmt: skip
    changes.deploy(empty_db, directory=three.directory)
    assert rows(empty_db, "SELECT change FROM sqitch.changes ORDER BY committed_at") == [("a",), ("b",), ("c",)]
    changes.revert(empty_db, directory=three.directory, to="b")
    changes.deploy(empty_db, directory=three.directory)
    assert here(empty_db, three.directory) == ["a", "b", "c"]
    assert rows(empty_db, "SELECT deployed_at = committed_at FROM pyflowguard.deployment JOIN sqitch.changes USING "
                "(change_id) WHERE deployment.change <> 'a'") == [(True,), (True,)]  # fmt: skip


def test_tags_that_the_plan_gains_are_recorded(sqitch: Sqitch, empty_db: str, three: ChangeSets) -> None:
    changes.deploy(empty_db, directory=three.directory)
    three.tag("v3")
    changes.deploy(empty_db, directory=three.directory)
    assert "@v2, @v3" in sqitch(empty_db, three.directory, "status").stdout


# --- Taking over


def test_pyflowguard_goes_on_from_sqitch_without_being_told(
    sqitch: Sqitch, empty_db: str, three: ChangeSets, tables: Tables
) -> None:
    sqitch(empty_db, three.directory, "deploy", "--to", "b")
    assert states(empty_db, three) == {"a": "deployed", "b": "deployed", "c": "pending"}
    assert names(changes.deploy(empty_db, directory=three.directory, dry_run=True).deployed) == ["c"]
    assert rows(empty_db, "SELECT to_regnamespace('pyflowguard')") == [(None,)], "looking changes nothing"
    assert names(changes.deploy(empty_db, directory=three.directory).deployed) == ["c"]
    assert tables(empty_db) == {"a", "b", "c"}
    mine = rows(empty_db, "SELECT change, deployed_by FROM pyflowguard.deployment ORDER BY position")
    assert mine == [("a", "Tester"), ("b", "Tester"), ("c", "app_owner")]
    assert rows(empty_db, "SELECT count(*) FROM pyflowguard.deployment JOIN sqitch.changes"
                " USING (change_id, script_hash) WHERE deployed_at = committed_at") == [(3,)]  # fmt: skip


def test_a_registry_that_went_away_is_written_again(sqitch: Sqitch, empty_db: str, three: ChangeSets) -> None:
    """As for a database that was deployed before sqitch's registry was written."""
    changes.deploy(empty_db, directory=three.directory, to="b")
    before = rows(empty_db, "SELECT change, committed_at FROM sqitch.changes ORDER BY committed_at")
    execute(empty_db, "DROP SCHEMA sqitch CASCADE")
    assert here(empty_db, three.directory) == ["a", "b"]
    assert names(changes.deploy(empty_db, directory=three.directory).deployed) == ["c"]
    assert rows(empty_db, "SELECT change, committed_at FROM sqitch.changes ORDER BY committed_at")[:2] == before
    sqitch(empty_db, three.directory, "check")
    sqitch(empty_db, three.directory, "revert", "-y")
    assert here(empty_db, three.directory) == []


def test_sqitch_reverts_all_and_deploys_another_plan(sqitch: Sqitch, empty_db: str, three: ChangeSets) -> None:
    changes.deploy(empty_db, directory=three.directory)
    sqitch(empty_db, three.directory, "revert", "-y")
    three.plan.write_text(three.plan.read_text().replace("Tester", "Another"))
    sqitch(empty_db, three.directory, "deploy", "--to", "b")
    assert here(empty_db, three.directory) == ["a", "b"]
    assert names(changes.revert(empty_db, directory=three.directory).reverted) == ["b", "a"]
    assert there(sqitch, empty_db, three.directory) == []


def test_what_sqitch_deployed_of_another_project_is_there_to_be_required(
    sqitch: Sqitch, empty_db: str, tmp_path: Path
) -> None:
    base, sets = ChangeSets(tmp_path / "base", "base"), ChangeSets(tmp_path / "sets")
    base.add_table("z")
    sets.add_table("a", dependencies="base:z")
    sqitch(empty_db, base.directory, "deploy")
    changes.deploy(empty_db, directory=sets.directory)
    refused = sqitch(empty_db, base.directory, "revert", "-y", check=False)
    assert "required by currently deployed change: demo:a" in refused.stderr
    with pytest.raises(DependencyMissing, match="z is required by demo:a, which is deployed") as caught:
        changes.revert(empty_db, directory=base.directory)
    assert caught.value.hint == "Revert demo:a first."
    changes.revert(empty_db, directory=sets.directory)
    changes.revert(empty_db, directory=base.directory)
    assert rows(empty_db, "SELECT change FROM sqitch.changes") == []


# --- Disagreement


def everything(dsn: str) -> list[list[tuple[object, ...]]]:
    return [
        rows(dsn, f"SELECT * FROM {table} ORDER BY 1, 2")  # noqa: S608
        for table in ("pyflowguard.deployment", "pyflowguard.migration", *(f"sqitch.{name}" for name in CONTENT))
    ]


def refused(kind: type[FlowguardError], match: str, dsn: str, sets: ChangeSets) -> str:
    """Every command refuses with this message, and nothing was written; its hint."""
    before = everything(dsn)
    hint = None
    for act in (changes.status, changes.verify, changes.deploy, changes.revert, changes.adopt):
        with pytest.raises(kind, match=match) as caught:
            act(dsn, directory=sets.directory)
        hint = caught.value.hint
    assert everything(dsn) == before
    return hint or ""


def test_a_change_that_the_plan_has_not_is_refused(sqitch: Sqitch, empty_db: str, three: ChangeSets) -> None:
    changes.deploy(empty_db, directory=three.directory, to="b")
    plan = three.plan.read_text()
    three.add_table("d")
    sqitch(empty_db, three.directory, "deploy")
    three.plan.write_text(plan)
    refused(PlanDiverged, "diverge at change 4: the database has d .* the plan has nothing", empty_db, three)


def test_changes_in_another_order_are_refused(empty_db: str, three: ChangeSets) -> None:
    changes.deploy(empty_db, directory=three.directory)
    execute(empty_db, "UPDATE sqitch.changes SET committed_at = '2000-01-01' WHERE change = 'b'")
    refused(PlanDiverged, "Sqitch's registry and the plan diverge at change 1: .* has b .* plan has a", empty_db, three)


def test_two_scripts_of_one_change_are_refused(empty_db: str, three: ChangeSets) -> None:
    changes.deploy(empty_db, directory=three.directory)
    execute(empty_db, "UPDATE sqitch.changes SET script_hash = 'another' WHERE change = 'b'")
    hint = refused(PlanDiverged, "Two scripts are recorded for b: .* another in sqitch's registry", empty_db, three)
    execute(empty_db, hint.partition("run: ")[2])
    assert states(empty_db, three)["b"] == "edited"
    changes.deploy(empty_db, directory=three.directory, accept_edits=True)
    plan = read_plan(three.directory)
    recorded = rows(empty_db, "SELECT script_hash FROM sqitch.changes WHERE change = 'b'")
    assert recorded == [(plan.script_hash(plan.changes[1]),)]
    assert here(empty_db, three.directory) == ["a", "b", "c"]


def test_a_script_that_was_edited_since_sqitch_ran_it_is_refused(
    sqitch: Sqitch, empty_db: str, three: ChangeSets
) -> None:
    sqitch(empty_db, three.directory, "deploy", "--to", "b")
    script = three.directory / "deploy" / "b.sql"
    script.write_text(script.read_text() + "-- a remark\n")
    with pytest.raises(ScriptEdited, match="script of b has been edited"):
        changes.deploy(empty_db, directory=three.directory)
    assert states(empty_db, three)["b"] == "edited"
    changes.deploy(empty_db, directory=three.directory, accept_edits=True)
    sqitch(empty_db, three.directory, "check")


def test_an_old_sqitch_recorded_no_script(empty_db: str, sqitch: Sqitch, three: ChangeSets) -> None:
    sqitch(empty_db, three.directory, "deploy", "--to", "b")
    execute(empty_db, "UPDATE sqitch.changes SET script_hash = NULL")
    assert here(empty_db, three.directory) == ["a", "b"]
    assert names(changes.deploy(empty_db, directory=three.directory).deployed) == ["c"]
    assert here(empty_db, three.directory) == ["a", "b", "c"]


def test_a_project_with_another_uri_is_refused(sqitch: Sqitch, empty_db: str, three: ChangeSets) -> None:
    changes.deploy(empty_db, directory=three.directory)
    changes.revert(empty_db, directory=three.directory)
    plan = three.plan.read_text()
    three.plan.write_text(plan.replace("=demo\n", "=demo\n%uri=https://example.org/\n"))
    match = "registry has project demo with no URI; the plan has demo with https://example.org/"
    refused(PlanDiverged, match, empty_db, three)
    assert "already exists with NULL URI" in sqitch(empty_db, three.directory, "deploy", check=False).stderr
    three.plan.write_text(plan.replace("=demo\n", "=other\n%uri=https://example.org/\n"))
    changes.deploy(empty_db, directory=three.directory, to="a")
    changes.revert(empty_db, directory=three.directory)
    three.plan.write_text(plan.replace("=demo\n", "=third\n%uri=https://example.org/\n"))
    match = "registry has project other with https://example.org/; the plan has third with https://example.org/"
    refused(PlanDiverged, match, empty_db, three)


def test_a_tag_that_was_moved_is_refused(empty_db: str, sets: ChangeSets) -> None:
    sets.add_table("a")
    tagless = sets.plan.read_text()
    sets.tag("v1")
    changes.deploy(empty_db, directory=sets.directory)
    sets.plan.write_text(tagless)
    sets.add_table("b")
    sets.tag("v1")
    for act in (changes.deploy, changes.adopt):
        with pytest.raises(PlanDiverged, match="another tag @v1, at a; the plan has it at b"):
            act(empty_db, directory=sets.directory)
    assert here(empty_db, sets.directory) == ["a"]


def test_a_registry_of_another_version_is_refused(sqitch: Sqitch, empty_db: str, three: ChangeSets) -> None:
    changes.deploy(empty_db, directory=three.directory)
    execute(empty_db, "UPDATE sqitch.releases SET version = 9")
    assert "made for that sqitch" in refused(RegistryUnfit, "schema sqitch is of version 9, not 1.1", empty_db, three)
    execute(empty_db, "ALTER TABLE sqitch.changes DROP COLUMN script_hash; DROP TABLE sqitch.releases")
    with pytest.raises(RegistryUnfit, match=r"is of version 1\.0 or older, not 1\.1") as caught:
        changes.deploy(empty_db, directory=three.directory)
    assert caught.value.hint == "Run `sqitch upgrade`."
    sqitch(empty_db, three.directory, "upgrade")
    assert here(empty_db, three.directory) == ["a", "b", "c"]


def test_two_scripts_of_one_content_are_refused_before_anything_is_run(
    sqitch: Sqitch, empty_db: str, sets: ChangeSets, tables: Tables
) -> None:
    script = "BEGIN;\nCREATE TABLE IF NOT EXISTS a ();\nCOMMIT;\n"
    sets.add_raw("a", script)
    sets.add_raw("b", script)
    with pytest.raises(PlanError, match=r"sqitch\.plan:5: the deploy scripts of a and b are the same"):
        changes.deploy(empty_db, directory=sets.directory)
    assert tables(empty_db) == set()
    sqitch(empty_db, sets.directory, "deploy", "--mode", "change", check=False)
    assert rows(empty_db, "SELECT change FROM sqitch.changes") == [("a",)], "sqitch does not take them either"


# --- Rights


@pytest.fixture
def deployer(empty_db: str, as_role: Callable[[str, str], str]) -> str:
    """Give a connection string for a role that may create nothing but in schemas `app` and `pyflowguard`."""
    admin = as_role(empty_db, "postgres")
    execute(admin, "DROP ROLE IF EXISTS deployer; CREATE ROLE deployer LOGIN;"
            "CREATE SCHEMA app AUTHORIZATION deployer; CREATE SCHEMA pyflowguard AUTHORIZATION deployer")  # fmt: skip
    return make_conninfo(as_role(empty_db, "deployer"), options="-c search_path=app")


def follow(dsn: str, hint: str | None) -> None:
    assert hint is not None
    execute(dsn, hint)


def test_a_role_that_may_not_make_the_registry_is_told_and_goes_on(
    sqitch: Sqitch, empty_db: str, deployer: str, three: ChangeSets
) -> None:
    notices: list[Notice] = []
    changes.deploy(deployer, directory=three.directory, to="b", on_notice=notices.append)
    (notice,) = notices
    assert notice.message == (
        "sqitch will not know what is done here: role deployer may not make its registry, schema sqitch."
    )
    assert here(deployer, three.directory) == ["a", "b"]
    assert notice.hint is not None
    follow(empty_db, notice.hint.partition(" or ")[2])
    changes.deploy(deployer, directory=three.directory, on_notice=notices.append)
    assert len(notices) == 1
    assert there(sqitch, deployer, three.directory) == ["a", "b", "c"]


def test_a_role_that_may_not_write_the_registry_is_told(
    sqitch: Sqitch, empty_db: str, deployer: str, three: ChangeSets, tmp_path: Path
) -> None:
    base = ChangeSets(tmp_path / "base", "base")
    base.add_table("z")
    sqitch(empty_db, base.directory, "deploy")
    with pytest.raises(RegistryUnfit, match="may not read"):
        changes.deploy(deployer, directory=three.directory, to="a")
    assert rows(empty_db, "SELECT FROM pg_tables WHERE schemaname = 'pyflowguard'") == [], "not even a record is made"
    notices: list[Notice] = []
    execute(empty_db, "GRANT USAGE ON SCHEMA sqitch TO deployer")
    execute(empty_db, "GRANT SELECT ON ALL TABLES IN SCHEMA sqitch TO deployer")
    changes.deploy(deployer, directory=three.directory, to="b", on_notice=notices.append)
    message = "sqitch will not know what is done here: role deployer may not write its registry."
    assert [notice.message for notice in notices] == [message]
    changes.revert(deployer, directory=three.directory)
    follow(empty_db, notices[0].hint)
    changes.deploy(deployer, directory=three.directory, to="b")
    execute(empty_db, "REVOKE INSERT ON sqitch.events FROM deployer")
    with pytest.raises(RegistryUnfit, match="schema sqitch has demo, and role deployer may not write it") as caught:
        changes.revert(deployer, directory=three.directory)
    assert here(deployer, three.directory) == ["a", "b"], "reading needs no more than to read"
    follow(empty_db, caught.value.hint)
    changes.revert(deployer, directory=three.directory)
    assert there(sqitch, deployer, three.directory) == []


@pytest.mark.parametrize("taken", ["SCHEMA sqitch", "TABLE sqitch.changes"])
def test_a_registry_that_may_not_be_read_is_not_taken_for_none(
    empty_db: str, deployer: str, as_role: Callable[[str, str], str], three: ChangeSets, taken: str
) -> None:
    admin = as_role(empty_db, "postgres")
    execute(admin, f"GRANT CREATE ON DATABASE {conninfo_to_dict(empty_db)['dbname']} TO deployer")
    changes.deploy(deployer, directory=three.directory, to="b")
    execute(admin, f"ALTER {taken} OWNER TO postgres")
    before = rows(admin, "SELECT relname FROM pg_class ORDER BY relname")
    told: dict[str, FlowguardError] = {}
    commands: dict[str, Callable[..., object]] = {
        "deploy": changes.deploy,
        "revert": changes.revert,
        "adopt": changes.adopt,
        "status": changes.status,
        "verify": changes.verify,
        "deploy --dry-run": partial(changes.deploy, dry_run=True),
        "revert --dry-run": partial(changes.revert, dry_run=True),
        "adopt --dry-run": partial(changes.adopt, dry_run=True),
    }
    for name, command in commands.items():
        with pytest.raises(RegistryUnfit, match="schema sqitch which role deployer may not read") as caught:
            command(deployer, directory=three.directory)
        assert (name, caught.value.exit_code) == (name, 4)
        told[name] = caught.value
    assert rows(admin, "SELECT relname FROM pg_class ORDER BY relname") == before
    assert here(admin, three.directory) == ["a", "b"], "nothing was done"
    follow(admin, told["status"].hint)
    assert here(deployer, three.directory) == ["a", "b"]
    follow(admin, told["revert"].hint)
    changes.revert(deployer, directory=three.directory)
    assert here(admin, three.directory) == []


# --- Interrupted


def test_sqitch_deploys_what_an_interrupted_deployer_left(
    sqitch: Sqitch, empty_db: str, sets: ChangeSets, tables: Tables
) -> None:
    sets.add_table("a")
    changes.deploy(empty_db, directory=sets.directory)
    sets.add("b", "CREATE TABLE IF NOT EXISTS b (i int);", "DROP TABLE b;", "TABLE b;")
    sets.add_table("c")
    kill_between_script_and_record(empty_db, sets, ["deploy"], lambda: "b" in tables(empty_db))
    assert states(empty_db, sets)["b"] == "interrupted"
    sqitch(empty_db, sets.directory, "deploy", "--to", "b")
    result = changes.deploy(empty_db, directory=sets.directory)
    assert (names(result.recorded), names(result.deployed)) == ([], ["c"])
    assert here(empty_db, sets.directory) == there(sqitch, empty_db, sets.directory) == ["a", "b", "c"]


def test_what_is_picked_up_is_told_to_sqitch(sqitch: Sqitch, empty_db: str, sets: ChangeSets, tables: Tables) -> None:
    sets.add_table("a")
    changes.deploy(empty_db, directory=sets.directory)
    sets.add_table("b")
    kill_between_script_and_record(empty_db, sets, ["deploy"], lambda: "b" in tables(empty_db))
    assert there(sqitch, empty_db, sets.directory) == ["a"]
    assert names(changes.deploy(empty_db, directory=sets.directory).recorded) == ["b"]
    assert there(sqitch, empty_db, sets.directory) == ["a", "b"]
    kill_between_script_and_record(empty_db, sets, ["revert", "--to", "a"], lambda: "b" not in tables(empty_db))
    assert there(sqitch, empty_db, sets.directory) == ["a", "b"]
    changes.revert(empty_db, directory=sets.directory, to="a")
    assert there(sqitch, empty_db, sets.directory) == ["a"]


def test_sqitch_goes_on_from_what_an_interrupted_deployer_took_away(
    sqitch: Sqitch, empty_db: str, sets: ChangeSets, tables: Tables
) -> None:
    sets.add_table("a")
    sets.add_table("b")
    changes.deploy(empty_db, directory=sets.directory)
    sets.add_table("c")
    kill_between_script_and_record(empty_db, sets, ["revert", "--to", "a"], lambda: "b" not in tables(empty_db))
    sqitch(empty_db, sets.directory, "deploy")
    with pytest.raises(PlanDiverged, match="was to revert b, and sqitch has deployed c since") as caught:
        changes.deploy(empty_db, directory=sets.directory)
    assert caught.value.hint is not None
    command = caught.value.hint.partition("sqitch first: sqitch ")[2].split()
    sqitch(empty_db, sets.directory, command[0], "-y", *command[1:])
    assert names(changes.deploy(empty_db, directory=sets.directory).deployed) == ["b", "c"]
    assert here(empty_db, sets.directory) == there(sqitch, empty_db, sets.directory) == ["a", "b", "c"]


def test_sqitch_goes_back_before_what_an_interrupted_deployer_left(
    sqitch: Sqitch, empty_db: str, sets: ChangeSets, tables: Tables
) -> None:
    sets.add_table("a")
    changes.deploy(empty_db, directory=sets.directory)
    sets.add_table("b")
    kill_between_script_and_record(empty_db, sets, ["deploy"], lambda: "b" in tables(empty_db))
    sqitch(empty_db, sets.directory, "revert", "-y")
    with pytest.raises(PlanDiverged, match="ended when b was deployed, and sqitch has reverted a since") as caught:
        changes.deploy(empty_db, directory=sets.directory)
    assert caught.value.hint is not None
    execute(empty_db, Path(caught.value.hint.partition("psql --file ")[2]).read_text())
    assert names(changes.deploy(empty_db, directory=sets.directory).deployed) == ["a", "b"]


# --- Adopting


def by_psql(dsn: str, sets: ChangeSets, *given: str) -> None:
    for name in given:
        execute(dsn, (sets.directory / "deploy" / f"{name}.sql").read_text())


def test_adopt_finds_out_how_far_a_database_is(
    sqitch: Sqitch, empty_db: str, three: ChangeSets, tables: Tables
) -> None:
    by_psql(empty_db, three, "a", "b")
    found = changes.adopt(empty_db, directory=three.directory, dry_run=True)
    assert (names(found.adopted), found.stopped_at and found.stopped_at.name) == (["a", "b"], "c")
    assert rows(empty_db, "SELECT to_regnamespace('pyflowguard'), to_regnamespace('sqitch')") == [(None, None)]
    result = changes.adopt(empty_db, directory=three.directory)
    assert (names(result.adopted), result.stopped_at and result.stopped_at.name) == (["a", "b"], "c")
    assert "42P01" in str(result.failure)
    assert here(empty_db, three.directory) == there(sqitch, empty_db, three.directory) == ["a", "b"]
    assert names(changes.deploy(empty_db, directory=three.directory).deployed) == ["c"]
    assert changes.adopt(empty_db, directory=three.directory) == changes.AdoptResult((), None, None, dry_run=False)
    changes.revert(empty_db, directory=three.directory)
    assert tables(empty_db) == set()


def test_adopt_stops_where_it_is_told_and_where_nothing_tells(empty_db: str, three: ChangeSets) -> None:
    three.add("d", "CREATE TABLE d ();")
    by_psql(empty_db, three, "a", "b", "c", "d")
    assert names(changes.adopt(empty_db, directory=three.directory, to="a").adopted) == ["a"]
    result = changes.adopt(empty_db, directory=three.directory)
    assert (names(result.adopted), result.stopped_at and result.stopped_at.name) == (["b", "c"], "d")
    assert result.failure is None, "it has no verify script"
    assert names(changes.deploy(empty_db, directory=three.directory, log_only=True).recorded) == ["d"]


def test_adopt_refuses_edited_scripts(empty_db: str, three: ChangeSets) -> None:
    changes.deploy(empty_db, directory=three.directory, to="a")
    (three.directory / "deploy" / "a.sql").write_text("-- another\n")
    with pytest.raises(ScriptEdited):
        changes.adopt(empty_db, directory=three.directory)


def test_the_command_adopts(command: Run, empty_db: str, three: ChangeSets) -> None:
    arguments = ("adopt", "--dsn", empty_db, "--changes", three.directory)
    nothing = command(*arguments)
    assert (nothing.returncode, nothing.stdout) == (0, "Nothing to adopt.\n")
    assert nothing.stderr.startswith("Stopped at a @v1: it is not there: ")
    by_psql(empty_db, three, "a", "b")
    assert command(*arguments, "--dry-run").stdout == "Would record as deployed:\n  + a @v1\n  + b\n"
    short = command(*arguments, "--to", "c", "--json")
    assert short.returncode == 1, "c was asked for, and is not there"
    assert '"adopted": [\n    "a",\n    "b"\n  ],\n  "stopped_at": "c"' in short.stdout
    by_psql(empty_db, three, "c")
    assert command(*arguments, "--to", "c").stdout == "  + c @v2 .. ok (recorded)\n"


def test_pyflowguard_adopts_what_psql_deployed_of_the_shipped_plan(
    empty_db: str, engine_db: str, report_db: str
) -> None:
    """On a database with the engine and no record, as README's way by psql leaves it."""
    execute(engine_db, "DROP SCHEMA pyflowguard, sqitch CASCADE")
    result = changes.adopt(engine_db)
    assert (result.adopted, result.stopped_at) == (read_plan().changes, None)  # the profile has nothing to do there
    changes.deploy(report_db, to="@engine")
    execute(report_db, "DROP SCHEMA pyflowguard, sqitch CASCADE")
    result = changes.adopt(report_db)
    assert result.adopted[-1].label == "privileges @engine"
    assert result.stopped_at is not None
    assert result.stopped_at.name == "report/links"
    assert changes.adopt(empty_db).adopted == ()
