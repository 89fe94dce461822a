"""health on tables that are too large to be counted, and snapshot: what they print, and their exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from acceptance.command import Query, Run, failure
from acceptance.test_links import printed_json, squeezed

LARGE = """
CREATE TABLE job (id integer PRIMARY KEY, client integer NOT NULL);
CREATE TABLE upload (id integer PRIMARY KEY, client integer NOT NULL, job integer);
CREATE TABLE line (id integer PRIMARY KEY, client integer, job integer);
INSERT INTO job SELECT n, 7 FROM generate_series(1, 100) n;
INSERT INTO upload SELECT n, 7, 1 + n % 100 FROM generate_series(1, 20000) n;
INSERT INTO line SELECT n, 7, 1 + n % 100 FROM generate_series(1, 20000) n;
UPDATE upload SET job = NULL WHERE id IN (1, 2);
SELECT flowguard.add_master('job', 'id', '{client}', created_at_column => NULL);
SELECT flowguard.add_link(t, 'job') FROM unnest('{upload,line}'::regclass[]) AS t;
SELECT flowguard.guard(t, 'job') FROM unnest('{upload,line}'::regclass[]) AS t;
"""


@pytest.fixture
def large_db(engine_db: str) -> str:
    """A database with two guarded tables that are too large to be counted; a tenant of one may be NULL."""
    with psycopg.connect(engine_db, autocommit=True) as connection:
        connection.execute(LARGE.encode())
        connection.execute("VACUUM ANALYZE")
    return engine_db


def test_health_tells_what_is_proved_and_what_is_not(command: Run, large_db: str, query: Query) -> None:
    result = command("health", "--dsn", large_db)
    assert (result.returncode, result.stderr) == (0, "")
    [(score,)] = query(large_db, "SELECT flowguard.score_estimate()")
    assert result.stdout.startswith(f"Health score about {score} of 100\n")
    text = squeezed(result.stdout)
    assert "upload.job observe ~20000 ~19998 2 0 0 99.9 % in place" in text
    assert "line.job observe ~20000 ? 0 0 ? <= 99.9 % in place" in text
    assert "2 of about 20000 rows have no link" in text
    assert "not proved: client may be NULL" in text
    assert "--exact counts every row" in text
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_health_counts_when_it_is_told_to_or_is_a_gate(
    command: Run, large_db: str, as_role: Callable[[str, str], str]
) -> None:
    with psycopg.connect(as_role(large_db, "postgres"), autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica")
        admin.execute("INSERT INTO upload VALUES (0, 7, 777)")
    told, counted = (printed_json(command, 0, "health", *given, "--dsn", large_db) for given in ((), ("--exact",)))
    assert (told["exact"], counted["exact"]) == (False, True)

    def upload(health: Any) -> Any:  # noqa: ANN401  JSON
        [link] = [link for link in health["links"] if link["relation"] == "upload"]
        return link

    assert (upload(told)["dangling"], upload(told)["estimated"], upload(told)["unproved"]) == (0, True, [])
    assert (upload(counted)["dangling"], upload(counted)["total"]) == (1, 20001)
    text = command("health", "--exact", "--dsn", large_db).stdout
    assert text.startswith("Health score ")
    assert "about" not in text
    assert "?" not in text
    gate = printed_json(command, 1, "health", "--min-score", "99.99", "--dsn", large_db)
    assert (gate["exact"], gate["score"]) == (True, counted["score"])


# --- snapshot


def test_snapshot_says_what_changed(command: Run, large_db: str, query: Query) -> None:
    first = command("snapshot", "--dsn", large_db)
    assert (first.returncode, first.stderr) == (0, "")
    [(score,)] = query(large_db, "SELECT flowguard.score_estimate()")
    assert first.stdout.startswith(f"Snapshot 1: health score {score} of 100, estimated, the first.\n")
    query(large_db, "UPDATE upload SET job = 1 WHERE id = 1")
    second = command("snapshot", "--dsn", large_db)
    assert second.stdout.startswith(f"Snapshot 2: health score {score} of 100, estimated, +0.0 since the one before.\n")
    text = squeezed(second.stdout)
    assert "public.upload.job ~20000 ~19999 +1 1 -1 99.9 %" in text
    assert "public.line.job ~20000 ? 0 0 <= 99.9 %" in text
    exact = command("snapshot", "--exact", "--dsn", large_db)
    assert "public.line.job 20000 20000 0 100.0 %" in squeezed(exact.stdout)
    assert max(map(len, exact.stdout.splitlines() + second.stdout.splitlines())) <= 100


def test_snapshot_as_json(command: Run, guarded_db: str, query: Query) -> None:
    taken = printed_json(command, 0, "snapshot", "--keep", "1", "--dsn", guarded_db)
    assert (taken["snapshot_id"], taken["exact"], taken["score_change"]) == (1, False, None)
    [(score,)] = query(guarded_db, "SELECT flowguard.health_score()")
    assert taken["score"] == float(score)
    [flows] = [link for link in taken["links"] if link["table_name"] == "discovery_flows"]
    assert (flows["schema_name"], flows["total"], flows["unlinked"], flows["coverage"]) == ("migration", 9, 2, 0.7778)


def test_snapshot_removes_what_is_old(command: Run, guarded_db: str, query: Query) -> None:
    printed_json(command, 0, "snapshot", "--dsn", guarded_db)
    query(guarded_db, "UPDATE flowguard.health_snapshot SET taken_at = now() - interval '36 hours'")
    printed_json(command, 0, "snapshot", "--keep", "2", "--dsn", guarded_db)
    assert query(guarded_db, "SELECT snapshot_id FROM flowguard.health_snapshot ORDER BY 1") == [(1,), (2,)]
    printed_json(command, 0, "snapshot", "--keep", "1", "--dsn", guarded_db)
    assert query(guarded_db, "SELECT snapshot_id FROM flowguard.health_snapshot ORDER BY 1") == [(2,), (3,)]


def test_snapshot_where_nothing_is_registered(command: Run, engine_db: str) -> None:
    result = command("snapshot", "--dsn", engine_db, "--json")
    assert result.returncode == 0
    assert result.stderr.startswith("NOTICE:  No link is registered ")
    assert json.loads(result.stdout)["links"] == []


def test_snapshot_by_someone_who_may_not(command: Run, guarded_db: str, as_role: Callable[[str, str], str]) -> None:
    with psycopg.connect(as_role(guarded_db, "postgres"), autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS onlooker")
        admin.execute("CREATE ROLE onlooker LOGIN")
    try:
        text = failure(command("snapshot", "--dsn", as_role(guarded_db, "onlooker")), 4)
    finally:
        with psycopg.connect(as_role(guarded_db, "postgres"), autocommit=True) as admin:
            admin.execute("DROP ROLE onlooker")
    assert "GRANT flowguard_admin TO onlooker;" in text
