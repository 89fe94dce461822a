"""The command: its exit codes, what it prints where, and that every bad input is one clear message."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import psycopg
import pytest
from acceptance.command import COMMAND, on_terminal
from changesets import ChangeSets

from pyflowguard import __version__, changes
from pyflowguard.cli import COMMANDS, cli
from pyflowguard.server import Server, throwaway_server

Run = Callable[..., subprocess.CompletedProcess[str]]
Tables = Callable[[str], set[str]]

FULL = Path("/dev/full")


@pytest.fixture
def three(sets: ChangeSets) -> ChangeSets:
    sets.add_table("a")
    sets.tag("first")
    sets.add_table("b")
    sets.add("c", "CREATE TABLE c (i int);\nDO $$ BEGIN RAISE NOTICE 'hello'; END $$;", "DROP TABLE c;", "TABLE c;")
    return sets


@pytest.fixture(scope="module")
def strict_server() -> Iterator[Server]:
    """Start a server that wants a password over TCP."""
    with throwaway_server() as running:
        yield running


def failure(result: subprocess.CompletedProcess[str], exit_code: int) -> str:
    assert (result.returncode, result.stdout) == (exit_code, ""), result
    assert "Traceback" not in result.stderr
    return result.stderr


# --- The whole way


def test_deploy_status_verify_revert(command: Run, empty_db: str, three: ChangeSets) -> None:
    common = ("--dsn", empty_db, "--changes", three.directory)
    result = command("deploy", "--dry-run", *common)
    assert (result.returncode, result.stdout, result.stderr) == (0, "Would deploy:\n  + a @first\n  + b\n  + c\n", "")
    result = command("deploy", *common)
    assert (result.returncode, result.stdout) == (0, "  + a @first .. ok\n  + b .. ok\n  + c .. ok\n")
    assert result.stderr == "NOTICE:  hello\n"
    result = command("deploy", *common)
    assert (result.returncode, result.stdout, result.stderr) == (0, "Nothing to deploy.\n", "")
    result = command("status", *common)
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "Project demo: 3 changes."
    assert [line.split()[:2] for line in lines[1:]] == [["deployed", name] for name in "abc"]
    assert all(line.endswith(" by app_owner") for line in lines[1:])
    result = command("verify", *common)
    assert (result.returncode, result.stdout) == (0, "  * a @first .. ok\n  * b .. ok\n  * c .. ok\n")
    result = command("revert", "--dry-run", "--to", "@first", *common)
    assert (result.returncode, result.stdout) == (0, "Would revert:\n  - c\n  - b\n")
    result = command("revert", "--to", "@first", *common)
    assert (result.returncode, result.stdout) == (0, "  - c .. ok\n  - b .. ok\n")
    result = command("revert", "-y", *common)
    assert (result.returncode, result.stdout) == (0, "  - a @first .. ok\n")
    result = command("revert", "-y", *common)
    assert (result.returncode, result.stdout) == (0, "Nothing to revert.\n")
    result = command("verify", *common)
    assert (result.returncode, result.stdout) == (0, "Nothing is deployed.\n")


def test_json_is_all_that_is_printed(command: Run, empty_db: str, three: ChangeSets) -> None:
    common = ("--json", "--dsn", empty_db, "--changes", three.directory)
    assert json.loads(command("deploy", "--to", "b", *common).stdout) == {
        "deployed": ["a", "b"],
        "recorded": [],
        "edited": [],
        "dry_run": False,
    }
    status = json.loads(command("status", *common).stdout)
    assert status["project"] == "demo"
    assert [(c["change"], c["state"], c["tags"], c["deployed_by"]) for c in status["changes"]] == [
        ("a", "deployed", ["first"], "app_owner"),
        ("b", "deployed", [], "app_owner"),
        ("c", "pending", [], None),
    ]
    assert [(c["change"], c["ok"]) for c in json.loads(command("verify", *common).stdout)] == [("a", True), ("b", True)]
    assert json.loads(command("revert", "-y", *common).stdout) == {"reverted": ["b", "a"], "dry_run": False}


def test_the_database_may_come_from_the_environment(command: Run, empty_db: str, three: ChangeSets) -> None:
    settings = psycopg.conninfo.conninfo_to_dict(empty_db)
    environment = {f"PG{key.upper()}": str(value) for key, value in settings.items() if key != "dbname"}
    result = command("deploy", "--changes", three.directory, PGDATABASE=str(settings["dbname"]), **environment)
    assert (result.returncode, result.stdout.count(".. ok")) == (0, 3)


def test_the_shipped_changes_are_the_default(command: Run, empty_db: str) -> None:
    result = command("status", "--dsn", empty_db)
    assert (result.returncode, result.stdout.split(":")[0]) == (0, "Project pyflowguard")


# --- Findings: exit code 1


def test_what_does_not_verify_is_a_finding(command: Run, empty_db: str, three: ChangeSets) -> None:
    common = ("--dsn", empty_db, "--changes", three.directory)
    command("deploy", *common)
    with psycopg.connect(empty_db) as connection:
        connection.execute("DROP TABLE b")
    result = command("verify", *common)
    assert result.returncode == 1
    assert result.stdout == "  * a @first .. ok\n  * b .. not ok\n  * c .. ok\n"
    assert "verify/b.sql:2: ERROR 42P01" in result.stderr
    outcomes = json.loads(command("verify", "--json", *common).stdout)
    assert [outcome["ok"] for outcome in outcomes] == [True, False, True]
    assert "42P01" in outcomes[1]["failure"]


def test_an_edited_script_is_a_finding_and_stops_a_deployment(
    command: Run, empty_db: str, three: ChangeSets, tables: Tables
) -> None:
    common = ("--dsn", empty_db, "--changes", three.directory)
    command("deploy", "--to", "b", *common)
    script = three.directory / "deploy" / "a.sql"
    script.write_text(script.read_text() + "-- edited\n")
    result = command("status", *common)
    assert (result.returncode, result.stdout.count("edited")) == (1, 1)
    result = command("deploy", "--to", "b", *common)
    assert (result.returncode, result.stdout) == (0, "Nothing to deploy.\n")
    assert result.stderr == "WARNING:  a: its deploy script has been edited since it was deployed.\n"
    assert "script of a has been edited" in failure(command("deploy", *common), 4)
    assert tables(empty_db) == {"a", "b"}
    assert command("deploy", "--accept-edits", *common).returncode == 0
    assert command("status", *common).returncode == 0


# --- Usage: exit code 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["deploy", "--to", "nope"], "There is no change nope in the plan."),
        (["deploy", "--to", "@nope"], "There is no tag @nope in the plan.\nHINT:  Its tags: @first."),
        (["revert", "--to", "c"], "c is not deployed"),
        (["revert"], "--yes to revert everything"),
        (["deploy", "--lock-timeout", "-1"], "Invalid value for '--lock-timeout'"),
        (["deploy", "--nonsense"], "No such option"),
        (["nonsense"], "No such command"),
        (["deploy", "--changes", "/nonexistent"], "does not exist"),
        (["status", "--changes", "/"], "/sqitch.plan: No such file"),
    ],
)
def test_a_wrong_use_is_refused(
    command: Run, empty_db: str, three: ChangeSets, arguments: list[str], message: str
) -> None:
    common = [] if arguments == ["nonsense"] else ["--dsn", empty_db]
    common += [] if "--changes" in arguments or arguments == ["nonsense"] else ["--changes", str(three.directory)]
    assert message in failure(command(*arguments, *common), 2)


def test_a_plan_with_an_error_is_named_with_its_line(command: Run, empty_db: str, three: ChangeSets) -> None:
    three.plan.write_text(three.plan.read_text() + "d\n")
    message = failure(command("status", "--dsn", empty_db, "--changes", three.directory), 2)
    assert f"{three.plan}:8: the timestamp is missing" in message


SECRET = "s3cr/t@x"  # noqa: S105 - what must not be shown


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://me:{SECRET}@localhost/db",
        f"postgresql://me:12{SECRET}@localhost/db",
        "postgresql://me:s3cr@t@localhost/db",
        "host=localhost s3cr/t",
        "host=localhost port=s3cr",
        "nonsense s3cr",
        "postgresql://[s3cr",
    ],
)
def test_a_connection_string_that_cannot_be_read_is_not_shown(command: Run, dsn: str) -> None:
    message = failure(command("status", "--dsn", dsn), 2)
    assert "The connection string cannot be read." in message
    assert "s3cr" not in message


# --- No connection: exit code 3


def test_no_server(command: Run) -> None:
    message = failure(command("deploy", "--dsn", "host=127.0.0.1 port=1 dbname=x user=me password=s3cr3t"), 3)
    assert 'Cannot connect to database "x" as "me" on 127.0.0.1' in message
    assert "Connection refused" in message
    assert "PGHOST" in message
    assert "s3cr3t" not in message


def test_no_socket(command: Run, tmp_path: Path) -> None:
    assert "No such file or directory" in failure(command("status", "--dsn", f"host={tmp_path}"), 3)


@pytest.mark.parametrize("way", ["dsn", "environment", "uri"])
def test_wrong_password(command: Run, strict_server: Server, way: str) -> None:
    host, user = f"host=127.0.0.1 port={strict_server.port}", "user=postgres dbname=postgres"
    if way == "dsn":
        result = command("status", "--dsn", f"{host} {user} password=s3cr3t")
    elif way == "environment":
        result = command("status", "--dsn", f"{host} {user}", PGPASSWORD="s3cr3t")
    else:
        result = command("status", "--dsn", f"postgresql://postgres:s3cr3t@127.0.0.1:{strict_server.port}/postgres")
    message = failure(result, 3)
    assert 'password authentication failed for user "postgres"' in message
    assert "s3cr3t" not in message


def test_no_password(command: Run, strict_server: Server) -> None:
    dsn = f"host=127.0.0.1 port={strict_server.port} user=postgres dbname=postgres"
    assert "no password supplied" in failure(command("status", "--dsn", dsn), 3)


def test_right_password(command: Run, strict_server: Server) -> None:
    assert command("status", "--dsn", strict_server.dsn(tcp=True)).returncode == 0


def test_unknown_database(command: Run, strict_server: Server) -> None:
    message = failure(command("deploy", "--dsn", strict_server.dsn("nowhere")), 3)
    assert 'database "nowhere" does not exist' in message


# --- Failed: exit code 4


def test_a_failing_script_is_shown_in_full(command: Run, empty_db: str, three: ChangeSets, tables: Tables) -> None:
    three.add(
        "bad", "DO $$ BEGIN\nRAISE EXCEPTION 'It is wrong.' USING DETAIL = 'Very wrong.', HINT = 'Right it.'; END $$;"
    )
    result = command("deploy", "--dsn", empty_db, "--changes", three.directory)
    assert (result.returncode, result.stdout) == (4, "  + a @first .. ok\n  + b .. ok\n  + c .. ok\n")
    assert result.stderr.splitlines() == [
        "NOTICE:  hello",
        f"pyflowguard: {three.directory}/deploy/bad.sql:3: ERROR P0001: It is wrong.",
        "DETAIL:  Very wrong.",
        "HINT:  Right it.",
        "CONTEXT:  PL/pgSQL function inline_code_block line 2 at RAISE",
    ]
    assert tables(empty_db) == {"a", "b", "c"}


def test_the_lock_of_another_deployer(command: Run, empty_db: str, three: ChangeSets) -> None:
    with psycopg.connect(empty_db) as other:
        other.execute("SELECT pg_advisory_lock(75474063)")
        arguments = ("--dsn", empty_db, "--changes", three.directory, "--lock-timeout", "0.2")
        assert f"process {other.info.backend_pid}" in failure(command("deploy", *arguments), 4)
        assert "process" in failure(command("revert", "-y", *arguments), 4)
        assert command("status", *arguments[:4]).returncode == 0
        assert command("deploy", "--dry-run", *arguments[:4]).returncode == 0


def test_a_role_that_may_not_create_a_schema(
    command: Run, empty_db: str, three: ChangeSets, as_role: Callable[[str, str], str]
) -> None:
    with psycopg.connect(as_role(empty_db, "postgres"), autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS powerless")
        connection.execute("CREATE ROLE powerless LOGIN")
    dsn = as_role(empty_db, "powerless")
    assert command("status", "--dsn", dsn, "--changes", three.directory).returncode == 0
    message = failure(command("deploy", "--dsn", dsn, "--changes", three.directory), 4)
    assert "ERROR 42501: permission denied for database" in message


# --- What cannot be written


def test_a_file_that_cannot_be_written_is_named(command: Run, three: ChangeSets, tmp_path: Path) -> None:
    for file, why in ((tmp_path / "none" / "x.sql", "No such file or directory"), (FULL, "No space left on device")):
        message = failure(command("bundle", "--changes", three.directory, "-o", file), 2)
        assert message == f"pyflowguard: {file}: {why}.\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("form", ["bundle", "health", "health --json", "status", "--help"])
def test_output_that_cannot_be_written_is_said(
    clean_environment: dict[str, str], engine_db: str, form: str, unbuffered: str
) -> None:
    arguments = form.split() + (["--dsn", engine_db] if form.startswith(("health", "status")) else [])
    with FULL.open("w") as full:
        result = subprocess.run(
            [COMMAND, *arguments],
            env={**clean_environment, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert result.stderr.splitlines()[-1] == "pyflowguard: the output cannot be written: No space left on device."
    assert "Traceback" not in result.stderr
    assert result.returncode == 4


def test_a_message_that_cannot_be_written_is_no_finding(clean_environment: dict[str, str]) -> None:
    for unbuffered in ("", "1"):
        environment = {**clean_environment, "PYTHONUNBUFFERED": unbuffered}
        with FULL.open("w") as full:
            result = subprocess.run(
                [COMMAND, "deploy", "--to", "nothing"], env=environment, stderr=full, check=False, timeout=60
            )
        assert result.returncode == 4


# --- A terminal


def test_revert_asks_on_a_terminal(
    clean_environment: dict[str, str], empty_db: str, three: ChangeSets, tables: Tables
) -> None:
    arguments: list[str | Path] = ["revert", "--dsn", empty_db, "--changes", three.directory]
    changes.deploy(empty_db, directory=three.directory)
    for keys, exit_code, left in ((b"n\n", 130, {"a", "b", "c"}), (b"y\n", 0, set())):
        returned, output = on_terminal(arguments, {**clean_environment, "TERM": "xterm"}, keys)
        assert returned == exit_code
        assert "Revert everything that is deployed? [y/N]" in output
        assert tables(empty_db) == left


def test_progress_is_shown_on_a_terminal_only(
    clean_environment: dict[str, str], empty_db: str, three: ChangeSets
) -> None:
    three.add("slow", "SELECT pg_sleep(0.5);")
    arguments: list[str | Path] = ["deploy", "--dsn", empty_db, "--changes", three.directory]
    returned, output = on_terminal(arguments, {**clean_environment, "TERM": "xterm"}, b"")
    assert returned == 0
    assert "deploy 4/4 slow" in output
    assert "\x1b[" in output
    assert "+ c .. ok" in output


# --- Help


@pytest.mark.parametrize(
    "arguments", [["--help"], ["deploy", "-h"], ["revert", "-h"], ["verify", "-h"], ["status", "-h"]]
)
def test_help(command: Run, arguments: list[str]) -> None:
    result = command(*arguments)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage: pyflowguard")


def test_every_command_is_where_it_is_looked_for() -> None:
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert command.name == name
        assert command.help
    assert cli.get_command(click.Context(cli), "heal") is None


def test_a_command_reads_what_it_needs_alone(clean_environment: dict[str, str], engine_db: str) -> None:
    """Health would take twice as long if the package were read whole."""
    script = (
        "import sys; from pyflowguard.cli import cli; cli.main(sys.argv[1:], standalone_mode=False); "
        "print(*sys.modules, file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, "health", "--dsn", engine_db],
        env=clean_environment,
        capture_output=True,
        text=True,
        check=True,
    )
    read = set(result.stderr.split())
    assert {"pyflowguard.health", "pyflowguard.present"} < read
    assert not read & {"yoyo", "sqlparse", "jinja2", *(f"pyflowguard.{name}" for name in NOT_FOR_HEALTH)}


NOT_FOR_HEALTH = (
    "bundle", "changes", "changeset", "demo", "discover", "doctor", "formats", "gate", "metrics", "online", "plan",
    "repair", "report", "watch",
)  # fmt: skip


def test_version(command: Run) -> None:
    said = f"pyflowguard, version {__version__}\nEngines that it understands: 1.0.0 and later, before 2\n"
    assert command("--version").stdout == said
