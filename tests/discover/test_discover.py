"""What the command does beside proposing: what it refuses, what it marks, and what it leaves alone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from acceptance.command import Run, failure
from discover.test_examples import Json, links_in, proposal

from pyflowguard import changes
from pyflowguard.health import read_health
from pyflowguard.plan import read_plan

SMALL = """
CREATE TABLE job (id bigint PRIMARY KEY, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE upload (id bigint PRIMARY KEY, job_id bigint REFERENCES job);
CREATE TABLE line (id bigint PRIMARY KEY, job_id bigint, upload_id bigint NOT NULL REFERENCES upload);
INSERT INTO job SELECT n FROM generate_series(1, 10) AS n;
INSERT INTO upload SELECT n, n FROM generate_series(1, 10) AS n;
INSERT INTO line SELECT n, CASE WHEN n % 2 = 0 THEN 1 + n % 10 END, 1 + n % 10 FROM generate_series(1, 3000) AS n;
"""


def execute(dsn: str, text: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(text.encode())


def test_nothing_found_is_said_with_what_to_do(command: Run, empty_db: str, tmp_path: Path) -> None:
    execute(empty_db, "CREATE TABLE note (id bigint PRIMARY KEY, body text)")
    result = command("discover", "--dsn", empty_db, "--write", tmp_path / "app")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Nothing to guard was found in 1 tables of database ")
    assert "flowguard.add_master()" in result.stdout
    assert result.stdout.endswith("Nothing was written.\n")
    assert not (tmp_path / "app").exists()


def test_a_schema_that_is_not_there_is_an_error_of_usage(command: Run, shop: str) -> None:
    message = failure(command("discover", "--dsn", shop, "--schema", "public", "--schema", "nowhere"), 2)
    assert message.startswith('pyflowguard: There is no schema "nowhere" in database ')
    assert "DETAIL:  Its schemas: public.\n" in message


def test_how_to_write_needs_where(command: Run, shop: str) -> None:
    result = command("discover", "--dsn", shop, "--as", "sql")
    assert (result.returncode, result.stdout) == (2, "")
    assert "--write" in result.stderr


def test_only_the_schemas_named_are_looked_at(command: Run, shop: str) -> None:
    execute(shop, "CREATE SCHEMA other; CREATE TABLE other.invoice (id bigint PRIMARY KEY, order_id bigint)")
    assert ("other.invoice", "order_id") in links_in(proposal(command, shop))
    assert ("other.invoice", "order_id") not in links_in(proposal(command, shop, "--schema", "public"))


def test_figures_of_a_sample_are_marked_and_near(command: Run, empty_db: str) -> None:
    execute(empty_db, SMALL + "ANALYZE")
    proposed = proposal(command, empty_db, "--sample", "1000")
    _, line = links_in(proposed)["public.line", "job_id"]
    counts = line["counts"]
    assert (proposed["sampled"], counts["sampled"], counts["total"]) == (True, True, 3000)
    assert counts["unlinked"] == pytest.approx(1500, abs=150)
    assert counts["linked"] == pytest.approx(1500, abs=150)
    assert not links_in(proposed)["public.upload", "job_id"][1]["counts"]["sampled"]
    (rule,) = line["rules"]
    assert (rule["sampled"], rule["via_column"]) == (True, "upload_id")
    assert rule["links"] == counts["unlinked"]
    for evidence in (*line["evidence"], *rule["evidence"]):  # no figure without its mark
        assert re.findall(r"(?<![~\w])\d+", evidence) == [], evidence
    shown = command("discover", "--dsn", empty_db, "--sample", "1000").stdout
    assert f"~{counts['unlinked']} unlinked" in shown
    assert "10 linked, 0 unlinked" in shown
    whole = links_in(proposal(command, empty_db))["public.line", "job_id"][1]["counts"]
    assert (whole["sampled"], whole["unlinked"]) == (False, 1500)


def test_rows_that_row_security_would_hide_are_an_error(
    command: Run, shop: str, as_role: Callable[[str, str], str]
) -> None:
    execute(shop, "ALTER TABLE items ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    message = failure(command("discover", "--dsn", shop), 4)
    assert 'row-level security policy for table "items"' in message
    assert "HINT:  Connect as the owner of the tables or as a role with BYPASSRLS" in message
    assert links_in(proposal(command, as_role(shop, "postgres")))


def test_tables_that_may_not_be_read_are_named(command: Run, shop: str, as_role: Callable[[str, str], str]) -> None:
    execute(as_role(shop, "postgres"), "CREATE TABLE secret (id bigint PRIMARY KEY, order_id bigint)")
    assert proposal(command, shop)["unreadable"] == ["public.secret"]
    assert "public.secret was not looked at: the role may not read it." in command("discover", "--dsn", shop).stdout


def test_a_query_that_takes_too_long_ends_it(command: Run, shop: str) -> None:
    with psycopg.connect(shop) as other:
        other.execute("LOCK TABLE items")
        message = failure(command("discover", "--dsn", shop, "--statement-timeout", "0.3"), 4)
    assert "57014" in message
    assert "HINT:  Take a smaller --sample" in message


def test_what_is_registered_is_not_proposed_again(command: Run, empty_db: str, tmp_path: Path) -> None:
    execute(empty_db, SMALL)
    command("discover", "--dsn", empty_db, "--write", tmp_path / "app")
    changes.deploy(empty_db)
    changes.deploy(empty_db, directory=tmp_path / "app")
    after = proposal(command, empty_db)
    assert after["masters"] == []
    reasons = {passed["what"]: passed["reason"] for passed in after["passed"]}
    assert reasons["master public.job"] == "registered already: public.line.job_id, public.upload.job_id"


def test_what_means_something_else_is_no_link(command: Run, empty_db: str) -> None:
    """NULL after ON DELETE SET NULL; a generated column, a primary key, a table without a key, other values."""
    execute(
        empty_db,
        """
        CREATE TABLE job (id bigint PRIMARY KEY);
        CREATE TABLE a (id bigint PRIMARY KEY, job_id bigint REFERENCES job ON DELETE SET NULL);
        CREATE TABLE b (id bigint PRIMARY KEY, job_id bigint REFERENCES job ON DELETE SET NULL);
        CREATE TABLE c (id bigint PRIMARY KEY, job_id bigint GENERATED ALWAYS AS (id + 5) STORED);
        CREATE TABLE d (job_id bigint PRIMARY KEY);
        CREATE TABLE e (job_id bigint);
        CREATE TABLE f (id bigint PRIMARY KEY, parent_job_id bigint);
        INSERT INTO job SELECT n FROM generate_series(1, 10) AS n;
        INSERT INTO a SELECT n, NULLIF(n, 3) FROM generate_series(1, 10) AS n;
        INSERT INTO b SELECT n, NULLIF(n, 4) FROM generate_series(1, 10) AS n;
        INSERT INTO c SELECT n FROM generate_series(1, 10) AS n;
        INSERT INTO d SELECT n FROM generate_series(5, 14) AS n;
        INSERT INTO e SELECT NULLIF(n, 5) FROM generate_series(1, 10) AS n;
        INSERT INTO f SELECT n, 7 + n FROM generate_series(1, 10) AS n;
        """,
    )
    assert proposal(command, empty_db)["masters"] == []
    execute(empty_db, "ALTER TABLE a DROP CONSTRAINT a_job_id_fkey; ALTER TABLE e ADD COLUMN id serial PRIMARY KEY")
    proposed = proposal(command, empty_db)
    assert set(links_in(proposed)) == {("public.a", "job_id"), ("public.e", "job_id")}
    reasons = {passed["what"]: passed["reason"] for passed in proposed["passed"]}
    assert reasons["link public.b.job_id to public.job"].startswith("foreign key b_job_id_fkey sets it to NULL")
    assert reasons["link public.c.job_id to public.job"] == "the column is generated"
    assert reasons["link public.d.job_id to public.job"] == "the column is the table's own primary key"


OTHER = """
CREATE TABLE tree (id int PRIMARY KEY, created_at timestamptz DEFAULT now());
CREATE TABLE branch (id int PRIMARY KEY, tree int REFERENCES tree);
CREATE TABLE leaf (id int PRIMARY KEY, tree int, branch int REFERENCES branch);
INSERT INTO tree VALUES (1);
INSERT INTO branch VALUES (1, 1);
INSERT INTO leaf VALUES (1, NULL, 1);
SELECT flowguard.add_master('tree', 'id', '{}');
SELECT flowguard.add_link('leaf', 'tree', master => 'tree');
SELECT flowguard.add_reference_rule('leaf', 'branch', 'branch', source_link => 'tree', link_column => 'tree');
"""
"""A link of somebody else, which a repair would fill."""


def test_it_is_added_to_the_users_own_project(command: Run, engine_db: str, tmp_path: Path) -> None:
    execute(engine_db, SMALL)
    project = tmp_path / "own"
    (project / "deploy").mkdir(parents=True)
    (project / "deploy" / "start.sql").write_text("-- Deploy own:start to pg\nSELECT 1;\n")
    own = "%project=own\n\nstart 2024-01-01T00:00:00Z Me <me@example.org> # The first"  # and no line break
    (project / "sqitch.plan").write_text(own)
    proposal(command, engine_db, "--write", project)
    assert (project / "sqitch.plan").read_text().startswith(own + "\n")
    assert not (project / "sqitch.conf").exists()
    plan = read_plan(project)
    assert [change.name for change in plan.changes] == [
        "start",
        "flowguard/links",
        "flowguard/repair",
        "flowguard/guard",
    ]
    assert {change.planner for change in plan.changes[1:]} == {"Planner <planner@example.org>"}
    execute(engine_db, OTHER)
    changes.deploy(engine_db, directory=project)
    assert all(outcome.failure is None for outcome in changes.verify(engine_db, directory=project))
    links = {link.relation: link for link in read_health(engine_db).links}
    other = links.pop("leaf")
    assert (other.guarded, other.unlinked) == (False, 1), "it is no part of the proposal"
    assert all(link.guarded for link in links.values())


def test_a_directory_that_cannot_be_made_is_named(command: Run, shop: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    message = failure(command("discover", "--dsn", shop, "--write", tmp_path / "file" / "x"), 2)
    assert message == f"pyflowguard: {tmp_path}/file/x/sqitch.conf: Not a directory.\n"


@pytest.mark.parametrize("there", ["deploy/flowguard/links.sql", "verify/flowguard/guard.sql", "sqitch.conf"])
def test_no_file_is_written_over(command: Run, shop: str, tmp_path: Path, there: str) -> None:
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).write_text("mine")
    message = failure(command("discover", "--dsn", shop, "--write", tmp_path), 2)
    assert f"{tmp_path / there} is there already." in message
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [tmp_path / there]
    assert (tmp_path / there).read_text() == "mine"


def test_a_second_proposal_is_refused_by_name(command: Run, shop: str, tmp_path: Path) -> None:
    proposal(command, shop, "--write", tmp_path)
    for kind in ("deploy", "revert", "verify"):
        shutil.rmtree(tmp_path / kind)
    before = (tmp_path / "sqitch.plan").read_text()
    message = failure(command("discover", "--dsn", shop, "--write", tmp_path), 2)
    assert "sqitch.plan has a change flowguard/guard already." in message
    assert (tmp_path / "sqitch.plan").read_text() == before


def test_names_that_need_quotes_and_a_partitioned_table(command: Run, engine_db: str, tmp_path: Path) -> None:
    """Capitals, blanks, quotes and a domain; what is written deploys, online as well."""
    execute(
        engine_db,
        """
        CREATE SCHEMA "My ""Shop";
        CREATE DOMAIN "My ""Shop"."Key" AS bigint;
        CREATE TABLE "My ""Shop"."Orders" ("Id" "My ""Shop"."Key" PRIMARY KEY, "Tenant's_id" int NOT NULL);
        CREATE TABLE "My ""Shop"."Order Lines" (n bigint, "Tenant's_id" int NOT NULL, "orderId" bigint, PRIMARY KEY (n))
          PARTITION BY RANGE (n);
        CREATE TABLE "My ""Shop"."lines 1" PARTITION OF "My ""Shop"."Order Lines" FOR VALUES FROM (0) TO (100);
        CREATE TABLE "My ""Shop"."lines 2" PARTITION OF "My ""Shop"."Order Lines" FOR VALUES FROM (100) TO (300);
        CREATE TABLE "My ""Shop"."notes" (id bigint PRIMARY KEY, "Tenant's_id" int NOT NULL, "orderId" bigint,
          line bigint REFERENCES "My ""Shop"."Order Lines");
        INSERT INTO "My ""Shop"."Orders" SELECT n, 1 + n % 2 FROM generate_series(1, 20) AS n;
        INSERT INTO "My ""Shop"."Order Lines"
          SELECT n, 1 + n % 2, CASE WHEN n > 10 THEN 1 + (n + 1) % 20 END FROM generate_series(1, 200) AS n;
        INSERT INTO "My ""Shop"."notes" SELECT n, 1 + n % 2, NULL, n FROM generate_series(1, 50) AS n;
        """,
    )
    proposed = links_in(proposal(command, engine_db, "--write", tmp_path / "app"))
    lines, notes = '"My ""Shop"."Order Lines"', '"My ""Shop".notes'
    assert set(proposed) == {(lines, "orderId"), (notes, "orderId")}
    assert proposed[notes, "orderId"][1]["rules"][0]["links"] == 40
    changes.deploy(engine_db, directory=tmp_path / "app")
    status = {link.relation: link for link in read_health(engine_db).links}
    assert (status[lines].unlinked, status[notes].unlinked) == (10, 10)
    assert all(link.guarded and link.validated for link in status.values())


def test_the_reports_database_gives_the_shipped_profile(command: Run, report_db: str) -> None:
    """Master, key, tenants and links are those of deploy/report/links.sql; docs/discover.md says what differs."""
    proposed = proposal(command, report_db, "--schema", "migration")
    (master,) = proposed["masters"]
    assert (master["relation"], master["key_column"]) == ("migration.crewai_flow_state_extensions", "flow_id")
    assert master["tenant_columns"] == ["client_account_id", "engagement_id"]
    assert master["alternate_keys"] == ["id"]
    links = links_in(proposed)
    tables = ("data_imports", "raw_import_records", "import_field_mappings", "discovery_flows", "assets")
    assert set(links) == {(f"migration.{table}", "master_flow_id") for table in tables}
    counts = {table: links[f"migration.{table}", "master_flow_id"][1]["counts"] for table in tables}
    assert {table: (c["linked"], c["unlinked"], c["dangling"]) for table, c in counts.items()} == {
        "data_imports": (16, 0, 0),
        "raw_import_records": (265, 0, 0),
        "import_field_mappings": (0, 178, 0),
        "discovery_flows": (7, 2, 11),
        "assets": (0, 29, 0),
    }
    assert {(table, *way) for table in tables for way in ways(links[f"migration.{table}", "master_flow_id"][1])} == {
        ("raw_import_records", "data_import_id", "data_imports", "id", "master_flow_id"),
        ("import_field_mappings", "data_import_id", "data_imports", "id", "master_flow_id"),
        ("assets", "raw_import_records_id", "raw_import_records", "id", "master_flow_id"),
        ("assets", "discovery_flow_id", "discovery_flows", "id", "master_flow_id"),
        ("assets", "discovery_flow_id", "discovery_flows", "flow_id", "master_flow_id"),
        ("assets", "flow_id", "crewai_flow_state_extensions", "flow_id", "flow_id"),
    }


def ways(link: Json) -> list[tuple[str, ...]]:
    return [
        (rule["via_column"], rule["source"].removeprefix("migration."), rule["source_key"], rule["source_link"])
        for rule in link["rules"]
        if rule["proposed"]
    ]


def test_json_is_the_whole_of_it(command: Run, shop: str, tmp_path: Path) -> None:
    result = command("discover", "--dsn", shop, "--json", "--write", tmp_path / "app", "--as", "sql")
    data = json.loads(result.stdout)
    assert set(data) == {"database", "tables", "masters", "passed", "unreadable", "sampled", "written"}
    assert data["written"] == [str(tmp_path / "app" / "flowguard.sql")]
