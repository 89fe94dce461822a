"""health, check, repair and undo on the report's database: what they print, and their exit codes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from acceptance.command import COMMAND, Query, Run, failure, in_migration, on_terminal
from changesets import deploy_profile_last
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from waiting import wait_until

from pyflowguard import database
from pyflowguard import repair as repairs
from pyflowguard.plan import changeset_directory
from pyflowguard.server import throwaway_server

AsRole = Callable[[str, str], str]
SQL = changeset_directory() / "sql" / "report"
DANGLING = "SELECT count(*) FROM discovery_flows f WHERE NOT EXISTS (SELECT FROM crewai_flow_state_extensions m "
DANGLING += "WHERE m.flow_id = f.master_flow_id) AND f.master_flow_id IS NOT NULL"
LINKS = "SELECT id, master_flow_id FROM assets UNION ALL SELECT id, master_flow_id FROM import_field_mappings "
LINKS += "UNION ALL SELECT id, master_flow_id FROM discovery_flows ORDER BY id"


def squeezed(text: str) -> str:
    """Give the text with single spaces, so that neither columns nor line breaks matter."""
    return " ".join(text.split())


def printed_json(run: Run, exit_code: int, *arguments: str) -> Any:  # noqa: ANN401 - whatever the command prints
    result = run(*arguments, "--json")
    assert result.returncode == exit_code, result
    return json.loads(result.stdout)


# --- health


def test_health_shows_score_categories_and_links(command: Run, guarded_db: str, query: Query) -> None:
    result = command("health", "--dsn", guarded_db)
    assert (result.returncode, result.stderr) == (0, "")
    [(score,)] = query(guarded_db, "SELECT flowguard.health_score()")
    assert result.stdout.startswith(f"Health score {score} of 100\n")
    text = squeezed(result.stdout)
    for category, points, _, detail in query(guarded_db, "SELECT * FROM flowguard.health_category"):
        assert f"{category} {points} {detail}" in text
    assert "import_field_mappings enforce 178 178 0 0 0 100.0 % in place" in text
    assert "discovery_flows observe 9 7 2 0 0 77.8 % in place" in text
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_health_as_json(command: Run, guarded_db: str, query: Query) -> None:
    health = printed_json(command, 0, "health", "--dsn", guarded_db)
    assert [(health["score"],)] == [
        (float(score),) for (score,) in query(guarded_db, "SELECT flowguard.health_score()")
    ]
    assert [category["category"] for category in health["categories"]] == [
        "tenant isolation",
        "foreign-key integrity",
        "master-flow linkage",
        "data quality",
        "readiness",
    ]
    assert sum(category["weight"] for category in health["categories"]) == pytest.approx(1)
    [flows] = [link for link in health["links"] if link["relation"] == "discovery_flows"]
    assert (flows["total"], flows["linked"], flows["coverage"], flows["validated"]) == (9, 7, 0.7778, True)
    assert health["violations"] == []


def test_health_lists_violations(command: Run, guarded_db: str) -> None:
    listed = printed_json(command, 0, "health", "--violations", "10", "--dsn", guarded_db)["violations"]
    assert [(row["relation"], row["kind"]) for row in listed] == [("discovery_flows", "unlinked")] * 2
    assert all(set(row["row_key"]) == {"id"} and "data_import_id is NULL" in row["reason"] for row in listed)
    assert len(printed_json(command, 0, "health", "--violations", "1", "--dsn", guarded_db)["violations"]) == 1
    text = squeezed(command("health", "--violations", "10", "--dsn", guarded_db).stdout)
    assert "data_import_id is NULL" in text


def test_a_score_below_the_least_is_a_finding(command: Run, guarded_db: str, registered_db: str, query: Query) -> None:
    [(score,)] = query(guarded_db, "SELECT flowguard.health_score()")
    assert command("health", "--dsn", guarded_db, "--min-score", "97.3").returncode == 0
    assert command("health", "--dsn", guarded_db, "--min-score", str(score)).returncode == 0
    assert command("health", "--dsn", guarded_db, "--min-score", "100").returncode == 1
    assert command("health", "--dsn", registered_db, "--min-score", "85.2").returncode == 1
    assert command("health", "--dsn", guarded_db, "--min-score", "101").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (("health",), "There is nothing to measure.\n"),
        (("health", "--min-score", "100"), "There is nothing to measure.\n"),
        (("check",), "Nothing found.\n"),
        (("guard",), "Nothing is missing.\n"),
        (("guard", "--dry-run"), "Nothing is missing.\n"),
        (("set-mode", "enforce"), ""),
        (("repair",), "Run 1: 0 linked, 0 translated, 0 quarantined, 0 unlinked, 0 remaining.\n"),
        (
            ("repair", "--dry-run"),
            "Dry run, taken back: 0 linked, 0 translated, 0 quarantined, 0 unlinked, 0 remaining.\n",
        ),
    ],
)
def test_a_database_without_links_is_noticed(
    command: Run, engine_db: str, arguments: tuple[str, ...], printed: str
) -> None:
    """Nothing is wrong and nothing failed, so the exit code is 0; who named the wrong database sees it all the same."""
    result = command(*arguments, "--dsn", engine_db)
    assert (result.returncode, result.stdout) == (0, printed)
    name = conninfo_to_dict(engine_db)["dbname"]
    notice = f'NOTICE:  No link is registered in database "{name}": there is nothing to do or to measure.\nHINT:  '
    assert result.stderr.startswith(notice)
    assert "flowguard.add_link()" in result.stderr
    assert "`pyflowguard deploy`" in result.stderr
    as_json = command(*arguments, "--json", "--dsn", engine_db)
    assert as_json.stderr == result.stderr
    assert isinstance(json.loads(as_json.stdout), (dict, list))


def test_a_table_is_named_where_no_link_is_registered(command: Run, engine_db: str, query: Query) -> None:
    query(engine_db, "CREATE TABLE child (id int PRIMARY KEY, master_flow_id int); SELECT 1")
    for arguments in (("guard", "child"), ("set-mode", "enforce", "child"), ("repair", "child")):
        refusal = failure(command(*arguments, "--dsn", engine_db), 2)
        assert "column master_flow_id of table public.child is not registered as a link" in refusal


def test_a_database_with_links_is_not(command: Run, registered_db: str) -> None:
    for arguments in (("health",), ("check", "--fail-on", "error"), ("guard", "--dry-run"), ("repair", "--dry-run")):
        assert command(*arguments, "--dsn", registered_db).stderr == ""


# --- check


def test_check_names_what_is_wrong_and_the_remedy(command: Run, registered_db: str, query: Query) -> None:
    result = command("check", "--dsn", registered_db)
    assert (result.returncode, result.stderr) == (1, "")
    text = squeezed(result.stdout)
    findings = query(registered_db, "SELECT level, description, remedy, cache_key FROM flowguard.check_all()")
    for level, description, remedy, cache_key in findings:
        assert level in text
        for part in (description, remedy, cache_key):
            assert str(part).replace(" ", "") in text.replace(" ", "")
    assert "11 of 20 rows point to no master" in text
    assert re.search(r"^ERROR  migration\.discovery_flows: ", result.stdout)  # the worst first
    assert result.stdout.splitlines()[-1].startswith(f"{len(findings)} findings: 1 ERROR, ")


def test_findings_may_be_ignored_and_the_level_that_fails_chosen(command: Run, guarded_db: str) -> None:
    findings = printed_json(command, 1, "check", "--dsn", guarded_db)
    assert [(finding["level"], finding["name"]) for finding in findings] == [
        ("WARN", "unlinked_rows"),
        ("INFO", "rows_in_quarantine"),
    ]
    unlinked, quarantine = (finding["cache_key"] for finding in findings)
    for exit_code, options in (
        (1, ()),
        (0, ("--fail-on", "error")),
        (0, ("--ignore", unlinked)),
        (1, ("--ignore", quarantine)),
        (1, ("--ignore", unlinked, "--fail-on", "info")),
        (0, ("--ignore", unlinked, "--ignore", quarantine, "--fail-on", "info")),
        (2, ("--fail-on", "everything")),
    ):
        assert command("check", "--dsn", guarded_db, *options).returncode == exit_code, options
    text = command("check", "--dsn", guarded_db, "--ignore", unlinked).stdout
    assert unlinked not in text
    assert text.endswith("1 finding: 1 INFO; not counted: 1 ignored.\n")


# --- repair and undo


def test_a_dry_run_counts_and_changes_nothing(command: Run, registered_db: str, query: Query) -> None:
    before = query(registered_db, LINKS)
    result = command("repair", "--dry-run", "--dsn", registered_db)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[0] == (
        "Dry run, taken back: 207 linked, 0 translated, 11 quarantined, 0 unlinked, 2 remaining."
    )
    assert "undo" not in result.stdout
    assert query(registered_db, LINKS) == before
    assert query(registered_db, "SELECT count(*) FROM flowguard.run") == [(0,)]
    found = printed_json(command, 0, "repair", "--dry-run", "--dsn", registered_db)
    outcomes = {(one["child"], one["outcome"], one["rule"]): one for one in found.pop("outcomes")}
    assert outcomes["assets", "linked", 6]["amount"] == 22
    assert outcomes["assets", "linked", 6]["distances"]["median"] == "00:10:00"
    assert outcomes["discovery_flows", "quarantined", None]["amount"] == 11
    assert found == {
        "run_id": None,
        "linked": 207,
        "translated": 0,
        "quarantined": 11,
        "unlinked": 0,
        "remaining": 2,
        "dry_run": True,
        "count_candidates": False,
    }


def test_a_dry_run_shows_rules_distances_and_examples(command: Run, registered_db: str) -> None:
    result = command("repair", "assets", "--dry-run", "--samples", "1", "--dsn", registered_db)
    assert (result.returncode, result.stderr) == (0, "")
    text = squeezed(result.stdout)
    assert "assets linked 22 rule 6, proximity: discovery_flows" in text
    assert "assets, rule 6: distance to discovery_flows min 00:01:00, median 00:10:00" in text
    assert "01:00:00 3 the window 02:00:00 0 outside: these are left" in text
    assert text.count(" -> ") == len(re.findall(r"assets, linked by rule \d", text)) == 6
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_a_condition_limits_a_repair(command: Run, registered_db: str, query: Query) -> None:
    where = ("repair", "assets", "--where", "name < 'm' -- the first half", "--dsn", registered_db)
    dry = printed_json(command, 0, *where, "--dry-run")
    done = printed_json(command, 0, *where)
    assert [done.pop(name) for name in ("followed", "taken_along", "set_along")] == [0, 0, 0]
    assert {**dry, **done, "dry_run": True, "run_id": None} == dry
    assert 0 < done["linked"] < 29
    assert query(registered_db, "SELECT count(*) FROM assets WHERE master_flow_id IS NOT NULL AND name >= 'm'") == [
        (0,)
    ]
    assert query(registered_db, "SELECT row_filter FROM flowguard.run") == [("name < 'm' -- the first half",)]
    for arguments, expected in (
        (("repair", "--where", "true"), "--where is a condition on the columns of one table"),
        (
            ("repair", "assets", "--where", "true) OR (true"),
            "ERROR FG104: flowguard: row_filter 'true) OR (true' is no",
        ),
    ):
        result = command(*arguments, "--dsn", registered_db)
        assert (result.returncode, result.stdout) == (2, "")
        assert expected in result.stderr


def test_a_row_is_explained(command: Run, registered_db: str, query: Query) -> None:
    [(key,)] = query(registered_db, "SELECT id::text FROM assets ORDER BY id LIMIT 1")
    result = command("explain", "assets", key, "--dsn", registered_db)
    assert (result.returncode, result.stderr) == (0, "")
    assert "row: master_flow_id is NULL: unlinked" in squeezed(result.stdout)
    assert "remedy: To link it, call flowguard.repair('migration.assets'" in squeezed(result.stdout)
    assert command("repair", "assets", "--dsn", registered_db).returncode == 0
    for written in ([key], [f"id={key}"], [f'{{"id": "{key}"}}']):
        parts = printed_json(command, 0, "explain", "assets", *written, "--dsn", registered_db)
        assert [part["part"] for part in parts if part["part"] != "rule"] == ["row", "run"]
        assert parts[-1]["position"] == 1
    for arguments, expected in (
        (("nope", key), 'There is no table "nope".'),
        (("assets", "one"), "ERROR FG104: flowguard: "),
        (
            ("assets", "00000000-0000-0000-0000-000000000000"),
            "ERROR FG104: flowguard: table migration.assets has no row",
        ),
        (("assets", "name=x"), "The key of its rows is (id)."),
        (("assets", "id=1", "2"), "'2' is no COLUMN=VALUE."),
        (("assets", key, "--link-column", "name"), "ERROR FG107: "),
        (("users", key), "ERROR FG107: "),
    ):
        message = failure(command("explain", *arguments, "--dsn", registered_db), 2)
        assert expected in message
        assert "\nHINT:  " in message
        assert "CONTEXT" not in message


def test_a_repair_and_its_undo(command: Run, registered_db: str, query: Query) -> None:
    before = query(registered_db, LINKS)
    result = command("repair", "assets", "--note", "by hand", "--batch-size", "7", "--dsn", registered_db)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        "Run 1: 29 linked, 0 translated, 0 quarantined, 0 unlinked, 0 remaining.\nTo take it back: pyflowguard undo 1\n"
    )
    run = "SELECT note, relation, linked, status FROM flowguard.run"
    assert query(registered_db, run) == [("by hand", "migration.assets", 29, "finished")]
    result = command("undo", "1", "--max-rows", "10", "--dsn", registered_db)
    assert (result.returncode, result.stdout) == (
        0,
        "Run 1: 10 restored, 0 skipped, 19 remaining.\nTo go on: pyflowguard undo 1\n",
    )
    query(
        registered_db,
        "UPDATE assets SET master_flow_id = md5('master 3')::uuid WHERE ctid = "
        "(SELECT min(ctid) FROM assets WHERE master_flow_id IS NOT NULL AND master_flow_id <> md5('master 3')::uuid)",
    )
    assert printed_json(command, 0, "undo", "1", "--dsn", registered_db) == {
        "run_id": 1,
        "restored": 18,
        "skipped": 1,
        "remaining": 0,
    }
    query(registered_db, "UPDATE assets SET master_flow_id = NULL WHERE master_flow_id IS NOT NULL")
    assert query(registered_db, LINKS) == before
    assert command("undo", "1", "--dsn", registered_db).stdout == "Run 1: 0 restored, 0 skipped, 0 remaining.\n"


def test_a_repair_of_everything_leaves_what_nothing_can_mend(command: Run, registered_db: str, query: Query) -> None:
    assert query(registered_db, DANGLING) == [(11,)]
    result = command("repair", "--dsn", registered_db)
    assert result.stdout.splitlines()[:2] == [
        "Run 1: 207 linked, 0 translated, 11 quarantined, 0 unlinked, 2 remaining.",
        "2 rows stay unlinked or dangling; flowguard.violation says why.",
    ]
    assert query(registered_db, DANGLING) == [(0,)]
    again = printed_json(command, 0, "repair", "--dsn", registered_db)
    assert [again[key] for key in ("linked", "translated", "quarantined", "unlinked", "remaining")] == [0, 0, 0, 0, 2]


def test_the_progress_of_a_repair_is_read_from_the_ledger(registered_db: str, query: Query) -> None:
    told: list[repairs.Progress] = []
    with psycopg.connect(registered_db) as blocker:
        # the last asset in the order of keys: the batches before it are committed, the last one waits
        blocker.execute("SELECT FROM assets ORDER BY id DESC LIMIT 1 FOR UPDATE")
        worker = threading.Thread(
            target=repairs.repair,
            args=(registered_db, "assets"),
            kwargs={"batch_size": 5, "on_progress": told.append},
        )
        worker.start()
        wait_until(lambda: bool(told) and told[-1].scanned == 25, "the batches before it")
        reached = told[-1]
        assert worker.is_alive()
    worker.join(30)
    assert not worker.is_alive()
    assert (reached.linked, reached.scanned, reached.passes) == (25, 25, 1)
    assert reached.total >= 32
    assert query(registered_db, "SELECT linked FROM flowguard.run") == [(29,)]


def test_a_terminal_shows_how_far_it_is(clean_environment: dict[str, str], registered_db: str) -> None:
    terminal = {**clean_environment, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    options = ["--batch-size", "2", "--dsn", registered_db]
    exit_code, output = on_terminal(["repair", "assets", "--max-rate", "16", *options], terminal)
    assert exit_code == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)
    assert re.search(r"repair: \d+ mended .* \d+ of \d+ rows .*\d+ rows/s +\d+:\d\d", shown), shown
    assert "Run 1: 29 linked, " in shown
    exit_code, output = on_terminal(["undo", "1", *options], terminal)
    assert exit_code == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)
    assert re.search(r"undo .* 29 of 29 rows", shown), shown
    assert "Run 1: 29 restored, 0 skipped, 0 remaining." in shown


# --- What goes wrong


def test_what_is_not_there_is_a_usage_error(command: Run, registered_db: str, engine_db: str) -> None:
    for arguments, expected in (
        (("repair", "nope"), 'There is no table "nope".\nDETAIL:  The search_path is migration,public.\nHINT:  '),
        (("repair", "a.b.c.d"), "'a.b.c.d' is no name of a table: "),
        (("repair", '"half'), '"half'),
        (
            ("repair", "users"),
            "ERROR FG107: flowguard: column master_flow_id of table migration.users is not",
        ),
        (("repair", "assets", "--link-column", "flow_id"), "ERROR FG107: "),
        (("undo", "17"), "ERROR FG201: flowguard: there is no run 17\nDETAIL:  "),
    ):
        message = failure(command(*arguments, "--dsn", registered_db), 2)
        assert expected in message
        assert "\nHINT:  " in message
        assert "CONTEXT" not in message
    message = failure(command("repair", "assets", "--dsn", engine_db), 2)
    assert 'There is no table "assets".' in message


@pytest.mark.parametrize(
    "arguments",
    [
        ("repair", "assets", "--batch-size", "0"),
        ("repair", "assets", "--max-rate", "0"),
        ("repair", "assets", "--max-lag", "0"),
        ("repair", "assets", "orders"),
        ("repair", "assets", "--dry-run", "--samples", "-1"),
        ("explain", "assets"),
        ("undo",),
        ("undo", "one"),
        ("undo", "0"),
        ("undo", "1", "--max-rows", "0"),
        ("undo", "1", "--batch-size", "0"),
        ("health", "--violations", "0"),
        ("demo", "--variant", "third"),
    ],
)
def test_wrong_options_are_usage_errors(command: Run, arguments: tuple[str, ...]) -> None:
    result = command(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Error: " in result.stderr


COMMANDS = [("health",), ("check",), ("repair",), ("repair", "--dry-run"), ("explain", "assets", "1"), ("undo", "1")]


@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_database_without_the_engine_is_named_with_the_remedy(
    command: Run, report_db: str, arguments: tuple[str, ...]
) -> None:
    message = failure(command(*arguments, "--dsn", report_db), 4)
    assert "The engine is not deployed in database " in message
    assert "HINT:  Run `pyflowguard deploy` on it" in message


@pytest.mark.parametrize("arguments", [given for given in COMMANDS if given[0] != "explain"])  # it names a table first
def test_a_role_without_rights_is_told_which_it_needs(
    command: Run, guarded_db: str, as_role: AsRole, stranger: str, arguments: tuple[str, ...]
) -> None:
    message = failure(command(*arguments, "--dsn", as_role(guarded_db, stranger)), 4)
    assert "ERROR 42501: permission denied for schema flowguard" in message
    assert "HINT:  Connect as the owner of the tables and of schema flowguard." in message
    role = "flowguard_viewer" if arguments[0] in {"health", "check"} else "flowguard_admin"
    assert f"it is enough to be given a role: GRANT {role} TO {stranger};" in message


@pytest.fixture
def stranger(guarded_db: str, as_role: AsRole) -> str:
    """Give a role that may connect and nothing else."""
    with psycopg.connect(as_role(guarded_db, "postgres"), autocommit=True) as admin:
        if admin.execute("SELECT FROM pg_roles WHERE rolname = 'stranger'").fetchone() is None:
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier("stranger")))
    return "stranger"


def test_what_the_database_forbids_is_told_with_its_remedy(command: Run, guarded_db: str, query: Query) -> None:
    before = query(guarded_db, LINKS)
    runs = "SELECT run_id FROM flowguard.run WHERE note = 'pyflowguard:report/{}'"
    [(clean_up,)] = query(guarded_db, runs.format("clean_up"))
    [(back_fill,)] = query(guarded_db, runs.format("back_fill") + " AND relation = 'migration.assets'")
    message = failure(command("undo", str(clean_up), "--dsn", guarded_db), 4)
    assert "ERROR FG203: " in message
    assert "fk_discovery_flows_master_flow" in message
    message = failure(command("undo", str(back_fill), "--dsn", guarded_db), 4)
    assert "ERROR FG202: " in message
    assert "flowguard.set_mode('assets', 'observe', 'master_flow_id')" in message
    assert query(guarded_db, LINKS) == before


def test_a_key_that_begins_with_a_dash_comes_after_two(command: Run, registered_db: str) -> None:
    message = failure(command("explain", "assets", "--dsn", registered_db, "--", "-5"), 2)
    assert '"-5" is no key of a row of table migration.assets' in message
    assert "HINT:  Give the value alone, or id=VALUE, quoted as the shell needs it." in message


def test_samples_without_a_dry_run_repair_nothing(command: Run, registered_db: str, query: Query) -> None:
    refused = command("repair", "--samples", "2", "--dsn", registered_db)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--samples is how many examples --dry-run shows: give --dry-run" in refused.stderr
    assert query(registered_db, "SELECT FROM flowguard.run") == []
    assert command("repair", "--samples", "2", "--dry-run", "--dsn", registered_db).returncode == 0


def test_a_viewer_reads_figures_and_changes_nothing(command: Run, query: Query) -> None:
    """On a server of its own: the two roles belong to a whole server."""
    with throwaway_server() as server:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute("CREATE ROLE app_owner LOGIN CREATEROLE")
            admin.execute("CREATE ROLE reader LOGIN")
            admin.execute("CREATE DATABASE report OWNER app_owner")
        dsn = in_migration(server.dsn("report", user="app_owner"))
        for name in ("schema.sql", "before.sql"):
            with database.connect(dsn) as connection:
                database.run_script(connection, SQL / name, action=f"loading {name}")
        deploy_profile_last(dsn, "report/links")
        with psycopg.connect(server.dsn("report"), autocommit=True) as admin:
            admin.execute("GRANT flowguard_viewer TO reader")
            admin.execute("GRANT USAGE ON SCHEMA migration TO reader")  # for table names without their schema
        reader = in_migration(server.dsn("report", user="reader"))
        assert printed_json(command, 0, "health", "--violations", "5", "--dsn", reader) == printed_json(
            command, 0, "health", "--violations", "5", "--dsn", dsn
        )
        assert printed_json(command, 1, "check", "--dsn", reader) == printed_json(command, 1, "check", "--dsn", dsn)
        (asset,) = query(dsn, "SELECT id::text FROM assets ORDER BY id LIMIT 1")[0]
        explained = ("explain", "migration.assets", str(asset))
        assert printed_json(command, 0, *explained, "--dsn", reader) == printed_json(
            command, 0, *explained, "--dsn", dsn
        )
        for arguments in (("repair",), ("repair", "--dry-run"), ("undo", "1")):
            message = failure(command(*arguments, "--dsn", reader), 4)
            assert "ERROR 42501: permission denied for " in message
            assert "GRANT flowguard_admin TO reader;" in message
            assert "flowguard_viewer" not in message
        with psycopg.connect(server.dsn("report"), autocommit=True) as admin:
            admin.execute("REVOKE USAGE ON SCHEMA migration FROM reader; GRANT flowguard_admin TO reader")
        for given in (("explain", "migration.assets", "1"), ("repair", "migration.assets")):
            message = failure(command(*given, "--dsn", reader), 4)
            assert (
                'HINT:  reader lacks a right on that schema of the application: GRANT USAGE ON SCHEMA "migration" TO '
                in message
            )
            assert "flowguard_" not in message
        with psycopg.connect(server.dsn("report"), autocommit=True) as admin:
            admin.execute('GRANT USAGE ON SCHEMA "migration" TO reader')
        assert command("explain", "assets", "1", "--dsn", reader).returncode == 2  # such a key is none of that table
        message = failure(command("repair", "assets", "--dsn", reader), 4)
        assert "HINT:  reader lacks a right on what the message names: let its owner grant it" in message


def test_an_interrupted_repair_keeps_what_it_committed_and_goes_on(
    command: Run, clean_environment: dict[str, str], registered_db: str, query: Query
) -> None:
    with psycopg.connect(registered_db) as blocker:
        # the last asset in the order of keys: the batches before it are committed, the last one waits
        blocker.execute("SELECT FROM assets ORDER BY id DESC LIMIT 1 FOR UPDATE")
        with subprocess.Popen(
            [COMMAND, "repair", "assets", "--batch-size", "5", "--dsn", registered_db],
            env=clean_environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            deadline = time.monotonic() + 30
            while query(registered_db, "SELECT linked FROM flowguard.run") != [(25,)]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (130, "")
    assert [line for line in stderr.splitlines() if line][-2:] == [
        "What was committed stays; the same command goes on with the run.",
        "pyflowguard: interrupted.",
    ]
    assert "Traceback" not in stderr
    findings = printed_json(command, 1, "check", "--dsn", registered_db)
    assert "run_stopped" in [finding["name"] for finding in findings]
    result = command("repair", "assets", "--dsn", registered_db)
    assert result.returncode == 0
    assert result.stdout.startswith("Run 1: 29 linked, ")
    assert result.stderr.startswith("NOTICE:  run 1 of ")
    assert query(registered_db, "SELECT run_id, status, linked FROM flowguard.run") == [(1, "finished", 29)]
