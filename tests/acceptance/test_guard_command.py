"""`pyflowguard guard`: what it prints, and its exit codes; tests/engine/test_online.py shows what it does."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator

import psycopg
import pytest
from acceptance.command import COMMAND, Run, failure
from engine.postgres import Connection, rows, run
from engine.tables import LINKS, registered_in

from pyflowguard import online
from pyflowguard.errors import ExitCode, UsageError


@pytest.fixture
def app(engine_db: str) -> Iterator[Connection]:
    """Give the small application with its links registered, none guarded."""
    with registered_in(engine_db) as connection:
        yield connection


def test_the_command_tells_each_step(command: Run, app: Connection) -> None:
    dry = command("guard", "child", "--link-column", "flow", "--dry-run", "--dsn", app.info.dsn)
    assert (dry.returncode, dry.stderr) == (0, "")
    assert "CREATE INDEX CONCURRENTLY flowguard_child_flow_idx" in dry.stdout
    assert "outside any transaction" in dry.stdout
    done = command("guard", "child", "--link-column", "flow", "--dsn", app.info.dsn)
    assert (done.returncode, done.stderr) == (0, "")
    steps, times = done.stdout.splitlines()[::2], done.stdout.splitlines()[1::2]
    assert len(steps) == len(times) == dry.stdout.count(". child.flow: ")
    assert all(step.startswith("  + child.flow: ") for step in steps)
    assert all(re.fullmatch(r"      \d+\.\d s; .*(?:EXCLUSIVE on .*|no lock)", time) for time in times), times
    again = command("guard", "--link-column", "flow", "child", "--dsn", app.info.dsn)
    assert again.stdout == "Nothing is missing.\n"


def test_the_command_gives_json(command: Run, app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (1, 1, 77)")
    done = command("guard", "--json", "--dsn", app.info.dsn)
    assert done.returncode == 0, done
    said = json.loads(done.stdout)
    assert {step["relation"] for step in said["steps"]} == set(LINKS)
    assert [left["relation"] for left in said["not_valid"]] == ["parent"]
    assert said["dry_run"] is False
    shown = command("guard", "--dsn", app.info.dsn)
    assert "parent.flow: a key stays NOT VALID" in shown.stdout


def test_the_command_tells_once_that_rows_of_an_enforced_link_are_not_linked(command: Run, app: Connection) -> None:
    run(app, "CREATE TABLE strict (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer)")
    run(app, "SELECT flowguard.add_link('strict', 'flow', mode => 'enforce')")
    run(app, "INSERT INTO strict VALUES (1, 1, NULL), (2, 1, 1), (3, 1, 77)")
    arguments = ("guard", "--link-column", "flow", "strict", "--dsn", app.info.dsn)
    for more in (["--dry-run"], []):
        done = command(*arguments, *more)
        assert done.returncode == 0, done
        said = re.findall(r"table public\.strict: (.*)", done.stderr)
        assert said == ["2 of 3 rows are not validly linked, and the link is enforced: writing them is refused"]
        assert "Run \"CALL flowguard.repair('public.strict', link_column => 'flow')\"" in done.stderr
    again = command(*arguments)
    assert (again.returncode, again.stderr) == (0, "")
    run(app, "SELECT flowguard.unguard('strict', 'flow')")
    run(app, "UPDATE strict SET flow = 1")
    done = command(*arguments)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_refuses_what_is_not_there(command: Run, app: Connection) -> None:
    assert "nowhere" in failure(command("guard", "nowhere", "--dsn", app.info.dsn), ExitCode.USAGE)
    refusal = failure(command("guard", "flow", "--link-column", "flow", "--dsn", app.info.dsn), ExitCode.USAGE)
    assert "column flow of table public.flow is not registered as a link" in refusal
    with pytest.raises(UsageError):
        online.guard(app.info.dsn, ["child"])
    assert rows(app, "SELECT FROM flowguard.link WHERE guarded") == []


def test_the_command_sets_the_mode(command: Run, app: Connection) -> None:
    online.guard(app.info.dsn)
    run(app, "INSERT INTO probe (id, tenant) VALUES (1, 1)")
    where = ("--link-column", "flow", "--dsn", app.info.dsn)
    done = command("set-mode", "enforce", "parent", *where)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("parent.flow: enforce\n")
    assert "  + parent.flow: LOCK TABLE parent IN SHARE MODE\n" in done.stdout
    refusal = failure(command("set-mode", "enforce", "probe", *where), ExitCode.FAILED)
    assert "FG113" in refusal
    assert "1 are unlinked" in refusal
    passed_over = command("set-mode", "enforce", "probe", "child", "--skip-incomplete", *where)
    assert passed_over.returncode == 0
    assert "\nchild.flow: enforce\nprobe.flow stays as it is: Of 1 rows 1 are unlinked" in passed_over.stdout
    said = json.loads(command("set-mode", "observe", "parent", "--json", *where).stdout)
    assert said["mode"] == "observe"
    assert said["links"] == [{"relation": "parent", "link_column": "flow"}]
    assert said["incomplete"] == []
    assert said["steps"]
    unknown = command("set-mode", "strict", "parent", *where)
    assert unknown.returncode == ExitCode.USAGE
    assert "'strict' is not one of 'observe', 'enforce'" in unknown.stderr


@pytest.mark.parametrize("value", ["nan", "inf", "1e300", "-1"])
def test_the_command_refuses_what_is_no_time(command: Run, app: Connection, value: str) -> None:
    for option in ("--lock-timeout", "--deadline"):
        refused = command("guard", option, value, "--dsn", app.info.dsn)
        assert (refused.returncode, refused.stdout) == (ExitCode.USAGE, "")
        assert option in refused.stderr
        assert "Traceback" not in refused.stderr


def test_the_command_prints_quoted_names_whole(command: Run, engine_db: str) -> None:
    """Whatever they hold, and however long: here what else would end a headline, or be taken for two statements."""
    table, source = '"s; t"."li\'ne; LANGUAGE plpgsql  FOR EACH ROW"', '"s; t"."up; FOREIGN KEY load"'
    with psycopg.connect(engine_db, autocommit=True) as connection:
        run(
            connection,
            f"""
            CREATE SCHEMA "s; t";
            CREATE TABLE job (id bigint PRIMARY KEY, client int NOT NULL, created_at timestamptz);
            CREATE TABLE {source} (id bigint PRIMARY KEY, client int NOT NULL, job_id bigint);
            CREATE TABLE {table} (id bigint PRIMARY KEY, client int NOT NULL, job_id bigint REFERENCES job,
                                  "up); ALTER TABLE x" bigint REFERENCES {source});
            SELECT flowguard.add_master('job', 'id', tenant_columns => '{{client}}');
            """,
        )
        connection.execute("SELECT flowguard.add_link(%s, 'job_id')", [source])
        connection.execute("SELECT flowguard.add_link(%s, 'job_id')", [table])
        connection.execute(
            "SELECT flowguard.add_reference_rule(%s, %s, %s, source_link => 'job_id', link_column => 'job_id')",
            [table, "up); ALTER TABLE x", source],
        )
    arguments = ("guard", table, "--link-column", "job_id", "--dsn", engine_db)
    dry, done = command(*arguments, "--dry-run"), command(*arguments)
    assert (dry.returncode, done.returncode) == (0, 0), (dry, done)
    for said in (dry.stdout, done.stdout):
        assert f"{table}.job_id: ALTER TABLE {table} ADD CONSTRAINT " in said
        assert f" ON {table}" in "".join(line for line in said.splitlines() if ": CREATE INDEX " in line), said
        assert f" BEFORE INSERT ON {table}\n" in said
        assert f"SELECT flowguard._set_source_triggers('{source}', " in said
        assert f" SHARE ROW EXCLUSIVE on {source}\n" in said
        assert all(line.count('"') % 2 == 0 for line in said.splitlines()), said


# --- A link of which something is gone


REMEDY = "Give it its name back, or drop the rule or the link that names it and add it again"


def test_the_command_names_a_link_of_which_a_column_is_gone(command: Run, app: Connection) -> None:
    """It does the others, and it does not seem to have done its work, however often it is called."""
    run(app, "ALTER TABLE probe RENAME at TO at2")
    dry = command("guard", "--dry-run", "--dsn", app.info.dsn)
    assert (dry.returncode, dry.stderr) == (ExitCode.FINDINGS, "")
    done = command("guard", "--dsn", app.info.dsn)
    assert (done.returncode, done.stderr) == (ExitCode.FINDINGS, "")
    again = command("guard", "--dsn", app.info.dsn)
    assert (again.returncode, again.stdout.splitlines()[0]) == (ExitCode.FINDINGS, "Nothing else is missing.")
    for said in (dry, done, again):
        assert "\nprobe.flow is left out: column at of public.probe is gone.\n" in f"\n{said.stdout}"
        assert REMEDY in said.stdout
        assert 'run "pyflowguard guard probe --link-column flow"' in said.stdout
    assert sorted(rows(app, "SELECT relation::text FROM flowguard.link WHERE guarded")) == [
        (table,) for table in sorted(LINKS) if table != "probe"
    ]
    assert "FG102" in failure(command("guard", "probe", "--link-column", "flow", "--dsn", app.info.dsn), 4)
    run(app, "ALTER TABLE probe RENAME at2 TO at")
    assert command("guard", "--dsn", app.info.dsn).returncode == 0
    assert command("guard", "--dsn", app.info.dsn).stdout == "Nothing is missing.\n"


def test_the_command_names_a_link_of_which_a_table_is_gone(command: Run, app: Connection) -> None:
    (number,) = rows(app, "SELECT 'probe'::regclass::oid::text")[0]
    run(app, "DROP TABLE probe")
    done = command("guard", "--json", "--dsn", app.info.dsn)
    assert (done.returncode, done.stderr) == (ExitCode.FINDINGS, "")
    said = json.loads(done.stdout)
    assert {step["relation"] for step in said["steps"]} == set(LINKS) - {"probe"}
    (left_out,) = said["left_out"]
    assert (left_out["relation"], left_out["link_column"]) == (number, "flow")
    assert left_out["missing"] == f"table with oid {number}"
    for remedy in re.findall(r'"(SELECT [^"]*)"', left_out["remedy"]):
        run(app, remedy)
    done = command("guard", "--json", "--dsn", app.info.dsn)
    assert (done.returncode, json.loads(done.stdout)["left_out"]) == (0, [])


def test_the_command_that_sets_the_mode_names_it_too(command: Run, app: Connection) -> None:
    online.guard(app.info.dsn)
    run(app, "ALTER TABLE probe RENAME at TO at2")
    done = command("set-mode", "enforce", "--dsn", app.info.dsn)
    assert (done.returncode, done.stderr) == (ExitCode.FINDINGS, "")
    assert "\nprobe.flow is left out: column at of public.probe is gone.\n" in done.stdout
    said = json.loads(command("set-mode", "observe", "--json", "--dsn", app.info.dsn).stdout)
    assert [(link["relation"], link["missing"]) for link in said["left_out"]] == [
        ("probe", "column at of public.probe")
    ]


def test_a_repair_of_all_links_says_which_it_left_out(command: Run, app: Connection) -> None:
    run(app, "ALTER TABLE probe RENAME at TO at2")
    for more in ([], ["--dry-run"]):
        done = command("repair", *more, "--dsn", app.info.dsn)
        assert done.returncode == 0, done
        assert "WARNING:  probe.flow is left out: column at of public.probe is gone.\nHINT:  " in done.stderr
        assert REMEDY in done.stderr
    run(app, "ALTER TABLE probe RENAME at2 TO at")
    assert command("repair", "--dsn", app.info.dsn).stderr == ""


# --- Interrupted


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (("guard", "parent"), "What was done stays; the same command goes on from there."),
        (
            ("set-mode", "enforce", "child"),
            "Links that were done stay enforced, the others are what they were before; the same command goes on.",
        ),
    ],
    ids=["guard", "set-mode"],
)
def test_an_interrupted_command_says_how_to_go_on(
    command: Run, clean_environment: dict[str, str], app: Connection, arguments: tuple[str, ...], left: str
) -> None:
    online.guard(app.info.dsn)
    if arguments[0] == "guard":
        run(app, 'DROP TRIGGER "~flowguard_parent_flow_insert" ON parent')
    with psycopg.connect(app.info.dsn, application_name="a long one") as holder:
        holder.execute("LOCK TABLE parent, child IN ROW EXCLUSIVE MODE")
        with subprocess.Popen(
            [COMMAND, *arguments, "--link-column", "flow", "--lock-timeout", "0.3", "--dsn", app.info.dsn],
            env=clean_environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            assert "trying again" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED
    assert [line for line in said.splitlines() if line][-2:] == [left, "pyflowguard: interrupted."]
    assert "Traceback" not in said
    if arguments[0] == "set-mode":
        assert rows(app, "SELECT mode FROM flowguard.link WHERE relation = 'child'::regclass") == [("observe",)]
        assert rows(app, "SELECT FROM flowguard.guard_plan('child', 'flow')") == []
    assert command(*arguments, "--link-column", "flow", "--dsn", app.info.dsn).returncode == 0
