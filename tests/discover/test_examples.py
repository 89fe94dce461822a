"""Three databases that are nothing like the report's: what discover proposes is true of them, and deploys."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
from acceptance.command import Run
from discover import truth
from discover.truth import TRUTH, rows_of
from psycopg.conninfo import conninfo_to_dict

from pyflowguard import changes
from pyflowguard.health import check, read_health

Json: TypeAlias = Any
COUNTS = ("total", "linked", "unlinked", "dangling", "mismatched", "tenantless")
TABLES = """
SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND n.nspname IN ('public', 'works') ORDER BY 1
"""
SCHEMA = """
SELECT c.oid::regclass::text, x.name, x.definition
  FROM pg_class c
 CROSS JOIN LATERAL (
   SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = c.oid
   UNION ALL SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal
   UNION ALL SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = c.oid
 ) AS x (name, definition)
 WHERE c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'works'))
 ORDER BY 1, 2, 3
"""


def proposal(command: Run, dsn: str, *arguments: str | Path) -> Json:
    result = command("discover", "--dsn", dsn, "--json", *arguments)
    assert (result.returncode, result.stderr) == (0, ""), result
    return json.loads(result.stdout)


def links_in(proposed: Json) -> dict[tuple[str, str], tuple[Json, Json]]:
    return {
        (link["relation"], link["column"]): (master, link) for master in proposed["masters"] for link in master["links"]
    }


def contents(dsn: str) -> dict[str, list[truth.Row]]:
    with psycopg.connect(dsn) as connection:
        tables = [str(row[0]) for row in connection.execute(TABLES).fetchall()]
    return {table: rows_of(dsn)(table) for table in tables}


def schema(dsn: str) -> list[tuple[str, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(SCHEMA).fetchall()


def test_masters_links_and_figures_are_those_of_the_rows(command: Run, example: str, name: str) -> None:
    found = links_in(proposal(command, example))
    assert set(found) == {(link.table, link.column) for link in TRUTH[name]}
    rows = rows_of(example)
    for link in TRUTH[name]:
        master, proposed = found[link.table, link.column]
        assert (master["relation"], master["key_column"]) == (link.master.table, link.master.key)
        assert tuple(master["tenant_columns"]) == tuple(proposed["tenant_columns"]) == link.master.tenants
        assert tuple(master["alternate_keys"]) == link.master.others
        assert master["created_at_column"] == link.master.created_at
        expected = truth.counts(rows, link)
        assert {**expected, "sampled": False} == proposed["counts"], link
        figures = (expected["unlinked"], expected["dangling"], expected["other_key"], expected["mismatched"])
        assert figures == link.planted, link
        assert proposed["on_orphan"] == ("unlink" if link.nullable else "keep")


def test_rules_are_those_that_the_rows_bear_out(command: Run, example: str, name: str) -> None:
    found = links_in(proposal(command, example))
    rows = rows_of(example)
    for link in TRUTH[name]:
        proposed = [rule for rule in found[link.table, link.column][1]["rules"] if rule["proposed"]]
        assert [(r["kind"], r["via_column"], r["source"], r["source_key"], r["source_link"]) for r in proposed] == [
            ("reference", reference.via, reference.source, reference.source_key, link.column)
            for reference in link.references
        ]
        for rule, reference in zip(proposed, link.references, strict=True):
            assert rule["links"] == truth.linked_by(rows, link, reference) > 0, link
            assert (rule["agree"], rule["ambiguous"], rule["dangling"]) == (True, 0, 0)


def test_a_rule_by_time_is_a_thought_with_its_distribution(command: Run, example: str, name: str) -> None:
    """It is never proposed, and only for tables with tenants and times."""
    found = links_in(proposal(command, example))
    rows = rows_of(example)
    thoughts = 0
    for link in TRUTH[name]:
        for rule in found[link.table, link.column][1]["rules"]:
            if rule["kind"] != "proximity":
                continue
            thoughts += 1
            assert not rule["proposed"]
            links, ambiguous, distances = truth.by_time(
                rows, link, rule["source"], rule["source_time"], rule["source_link"]
            )
            assert (rule["links"], rule["ambiguous"]) == (links, ambiguous)
            nth = [distances[-(-len(distances) * share // 10) - 1] for share in (5, 9, 10)]
            assert rule["distances"] == nth
    assert thoughts == {"shop": 2, "tickets": 0, "two_masters": 0}[name]


def test_what_is_not_proposed_is_named_with_the_reason(command: Run, example: str, name: str) -> None:
    passed = {passed["what"]: passed["reason"] for passed in proposal(command, example)["passed"]}
    what, reason = {
        "shop": ("master public.shipments", "public.items.shipment_id alone could be guarded"),
        "tickets": (
            "link public.watchers.ticket_key to public.tickets",
            "NOT NULL and foreign key watchers_ticket_key",
        ),
        "two_masters": ("master works.timesheets", "works.expenses.timesheet_id alone could be guarded"),
    }[name]
    assert passed[what].startswith(reason)


def test_nothing_is_written_and_to_read_is_enough(
    command: Run, example: str, as_role: Callable[[str, str], str]
) -> None:
    """A role that may only read, in a session that may only read, is told the same."""
    with psycopg.connect(as_role(example, "postgres"), autocommit=True) as admin:
        admin.execute("CREATE ROLE discover_reader LOGIN")
        try:
            for schema_name in ("public", "works"):
                if admin.execute("SELECT to_regnamespace(%s)", [schema_name]).fetchone() != (None,):
                    admin.execute(f"GRANT USAGE ON SCHEMA {schema_name} TO discover_reader")
                    admin.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema_name} TO discover_reader")
            as_owner, before = proposal(command, example), contents(example)
            result = command(
                "discover",
                "--dsn",
                as_role(example, "discover_reader"),
                "--json",
                PGOPTIONS="-c default_transaction_read_only=on",
            )
            assert json.loads(result.stdout) == as_owner
            assert contents(example) == before
        finally:
            admin.execute("DROP OWNED BY discover_reader")
            admin.execute("DROP ROLE discover_reader")


def test_the_change_set_deploys_says_the_same_and_comes_off_again(
    command: Run, engine_example: str, name: str, tmp_path: Path
) -> None:
    example, project = engine_example, tmp_path / "app"
    proposed = links_in(proposal(command, example, "--write", project))
    rows_before, schema_before = contents(example), schema(example)
    mended = truth.repaired(rows_of(example), TRUTH[name])

    changes.deploy(example, directory=project, to="flowguard/links")
    for status in read_health(example).links:
        relation = status.relation if "." in status.relation else f"public.{status.relation}"
        expected = proposed[relation, status.link_column][1]["counts"]
        assert {figure: getattr(status, figure) for figure in COUNTS} == {figure: expected[figure] for figure in COUNTS}
    assert len(read_health(example).links) == len(TRUTH[name])

    with psycopg.connect(example) as connection:
        connection.execute("SET search_path = pg_catalog")  # so that the plan qualifies every name
        for link in TRUTH[name]:
            plan = connection.execute(
                "SELECT DISTINCT lock FROM flowguard.guard_plan(%s, %s) WHERE lock <> 'none'", [link.table, link.column]
            ).fetchall()
            steps = proposed[link.table, link.column][1]["steps"]
            assert {row[0] for row in plan} == {step["lock"] for step in steps}, link

    changes.deploy(example, directory=project)
    assert all(outcome.failure is None for outcome in changes.verify(example, directory=project))
    for (table, column), values in mended.items():
        assert [row[column] for row in rows_of(example)(table)] == values, (table, column)
    # What nothing can mend is listed, and by nothing else is health kept from being whole.
    wrong = {link.table.split(".")[-1] for link in TRUTH[name] if link.planted[3] or not link.nullable}
    errors = [finding for finding in check(example) if finding.level == "ERROR"]
    assert {finding.name for finding in errors} <= {"mismatched_links", "dangling_links"}
    assert {str(finding.relation).split(".")[-1] for finding in errors} == wrong
    for status in read_health(example).links:
        table = status.relation.split(".")[-1]
        assert (status.guarded, status.indexed, status.validated) == (True, True, table not in wrong), status

    changes.revert(example, directory=project)
    assert contents(example) == rows_before
    assert schema(example) == schema_before


def test_a_repair_that_was_taken_back_does_not_verify(command: Run, engine_example: str, tmp_path: Path) -> None:
    """What the hint says mends it."""
    example, project = engine_example, tmp_path / "app"
    proposal(command, example, "--write", project)
    changes.deploy(example, directory=project, to="flowguard/repair")
    with psycopg.connect(example, autocommit=True) as connection:
        runs = "SELECT relation, link_column, run_id, note FROM flowguard.run ORDER BY run_id DESC LIMIT 1"
        [(relation, link_column, number, remark)] = connection.execute(runs).fetchall()
        connection.execute("SELECT flowguard.undo(%s)", [number])
        failed = {outcome.change.name: outcome.failure for outcome in changes.verify(example, directory=project)}
        failure = failed["flowguard/repair"]
        assert "not every link has a run of the repair that has finished" in str(failure)
        assert failure is not None
        assert failure.hint == "Call flowguard.repair() for each link, with the note of the deploy script."
        call = "CALL flowguard.repair(%s, link_column => %s, note => %s)"
        connection.execute(call, [relation, link_column, remark])
    assert all(outcome.failure is None for outcome in changes.verify(example, directory=project))


def test_it_is_deployed_by_sqitch(command: Run, shop: str, tmp_path: Path, tool: Callable[[str], str]) -> None:
    project = tmp_path / "app"
    proposal(command, shop, "--write", project)
    run_sqitch(tool("sqitch"), shop, tool("psql"), changes_directory(), "deploy", "--verify")
    run_sqitch(tool("sqitch"), shop, tool("psql"), project, "deploy", "--verify")
    assert {f"public.{link.relation}" for link in read_health(shop).links if link.guarded} == {
        link.table for link in TRUTH["shop"]
    }
    run_sqitch(tool("sqitch"), shop, tool("psql"), project, "revert", "-y")
    assert read_health(shop).links == ()


def test_it_is_deployed_as_one_file_by_psql(
    command: Run, engine_example: str, name: str, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    example = engine_example
    proposal(command, example, "--write", tmp_path / "app", "--as", "sql")
    assert [file.name for file in (tmp_path / "app").iterdir()] == ["flowguard.sql"]
    subprocess.run(
        [tool("psql"), "-qX", "-v", "ON_ERROR_STOP=1", "-d", example, "-f", tmp_path / "app" / "flowguard.sql"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert all(link.guarded for link in read_health(example).links)
    assert len(read_health(example).links) == len(TRUTH[name])


def changes_directory() -> Path:
    return Path(__file__).parents[2]


def run_sqitch(sqitch: str, dsn: str, psql: str, directory: Path, command: str, *arguments: str) -> None:
    settings = conninfo_to_dict(dsn)
    target = f"db:pg://{settings['user']}@{settings['host']}:{settings['port']}/{settings['dbname']}"
    result = subprocess.run(
        [sqitch, command, "--client", psql, "--target", target, *arguments],
        cwd=directory,
        env={
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": "/nonexistent",
            "SQITCH_FULLNAME": "Planner",
            "SQITCH_EMAIL": "planner@example.org",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
