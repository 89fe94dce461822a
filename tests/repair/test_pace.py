"""How fast a repair goes: so many rows a second at most, and no further ahead of replication than it may be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import create
from messages.stage import normal, reaches, statements
from psycopg import sql
from repair.calls import Run, repair, run_row
from waiting import wait_until

from pyflowguard import changes
from pyflowguard.server import UNSAFE, Server, new_cluster, throwaway_server, watched_server

if TYPE_CHECKING:
    from conftest import TestPostgresql

IS_BEHIND = "SELECT coalesce(replay_lag > '1 second', false) FROM pg_stat_replication"
PROGRESS = "SELECT coalesce(sum(scanned), 0)::int FROM flowguard.repair_progress"


def fill(connection: Connection, count: int) -> None:
    """Make rows that hold the key of a master as a wrong one, and rows that are right."""
    create(connection)
    run(connection, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    run(connection, "SELECT flowguard.add_link('probe', 'flow', on_orphan => 'unlink')")
    run(connection, f"INSERT INTO probe SELECT n, 1, 76 + n % 2 FROM generate_series(1, {count}) n")  # noqa: S608


@contextmanager
def repairing(connection: Connection, **options: Any) -> Iterator[list[Run]]:  # noqa: ANN401  see repair()
    """Repair beside the block; the list has the run when the block has ended."""
    done: list[Run] = []
    thread = threading.Thread(target=lambda: done.append(repair(connection, **options)))
    thread.start()
    try:
        yield done
    finally:
        thread.join()
    assert len(done) == 1


def test_no_more_rows_a_second_than_it_may(db: Connection, session: Callable[[], Connection]) -> None:
    fill(db, 100)
    seen: list[tuple[float, int, float]] = []
    with repairing(session(), batch_size=10, max_rate=100) as done:
        while not done:
            asked = time.monotonic()
            seen.append((asked, one(db, PROGRESS), time.monotonic()))
            time.sleep(0.005)
    assert done[0].unlinked == 100
    # Over any stretch of time: what the rate allows, and a batch at either end.
    for number, (start, before, _) in enumerate(seen):
        for _, after, end in seen[number:]:
            assert after - before <= 100 * (end - start) + 20, seen
    assert seen[-1][2] - seen[0][0] > 0.7
    said = rows(db, "SELECT scanned, total, rate BETWEEN 1 AND 112 FROM flowguard.repair_progress")
    assert said == [(100, 100, True)]


@pytest.mark.parametrize(
    ("setting", "options", "batches"),
    [
        pytest.param("", {"max_rate": 40}, [4] * 7 + [2], id="by the call"),
        pytest.param("40", {}, [4] * 7 + [2], id="by the session, for a change set's call"),
        pytest.param("1", {"max_rate": 150}, [15, 15], id="the call wins"),
        pytest.param("40", {"batch_size": 3}, [3] * 10, id="and no more than a batch may be"),
        pytest.param("", {}, [30], id="by nobody"),
    ],
)
def test_a_batch_is_no_more_than_a_tenth_of_a_second(
    db: Connection, setting: str, options: dict[str, Any], batches: list[int]
) -> None:
    fill(db, 30)
    run(db, "CREATE TABLE batch (xid bigint)")
    run(
        db,
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO batch SELECT txid_current(); "
        "RETURN NEW; END $$; CREATE TRIGGER note BEFORE UPDATE ON probe FOR EACH ROW EXECUTE FUNCTION note()",
    )
    run(db, "SELECT set_config('flowguard.repair_max_rate', %s, false)", setting)
    repair(db, **options)
    assert [n for (n,) in rows(db, "SELECT count(*) FROM batch GROUP BY xid ORDER BY 1 DESC")] == batches


PREPARED = "SELECT count(*) FROM pg_prepared_statements WHERE name = 'flowguard_repair_batch'"


def test_batches_are_planned_once(db: Connection) -> None:
    """The first by itself, for it begins at no key; then one prepared statement for all, and it is gone in the end."""
    fill(db, 100)
    run(db, "CREATE TABLE planned (times bigint)")
    run(
        db,
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO planned "
        "SELECT generic_plans FROM pg_prepared_statements WHERE name = 'flowguard_repair_batch'; RETURN NULL; END $$; "
        "CREATE TRIGGER note AFTER UPDATE ON probe EXECUTE FUNCTION note()",
    )
    assert repair(db, batch_size=20).unlinked == 100
    assert rows(db, "SELECT times FROM planned ORDER BY 1") == [(n,) for n in range(1, 6)]  # the last finds no rows
    assert one(db, PREPARED) == 0


def test_a_statement_of_that_name_does_no_harm(db: Connection) -> None:
    """Be it the session's own, or what a run of another link has left that was stopped."""
    fill(db, 30)
    run(db, "PREPARE flowguard_repair_batch (bigint, jsonb, jsonb, integer, text, text) AS DELETE FROM probe")
    assert repair(db, batch_size=10).unlinked == 30
    assert one(db, "SELECT count(*) FROM probe") == 30
    assert one(db, PREPARED) == 0


def test_a_condition_means_what_it_means_when_the_run_begins(db: Connection) -> None:
    """What a stopped run has left has the same text; but the table that it names is another one by then."""
    fill(db, 40)
    run(db, "CREATE TEMPORARY TABLE any_other (i int)")  # the session's schema of temporary tables is on its path
    run(db, "CREATE TABLE public.todo AS SELECT generate_series(1, 10) AS id")
    condition = {"link_column": "flow", "row_filter": "id IN (SELECT id FROM todo)", "resume": False}
    run(db, "SET statement_timeout = '1s'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        repair(db, "probe", batch_size=2, max_rate=4, **condition)
    run(db, "RESET statement_timeout; CREATE TEMPORARY TABLE todo AS SELECT generate_series(21, 40) AS id")
    assert one(db, PREPARED) == 1
    assert repair(db, "probe", batch_size=2, **condition).unlinked == 20
    assert one(db, "SELECT count(*) FROM probe WHERE id > 20 AND flow IS NOT NULL") == 0


def test_what_a_stopped_run_has_left_is_not_taken_for_another_link(db: Connection) -> None:
    fill(db, 30)
    run(db, "CREATE TABLE second (LIKE probe INCLUDING ALL); INSERT INTO second SELECT * FROM probe")
    run(db, "SELECT flowguard.add_link('second', 'flow', on_orphan => 'unlink')")
    run(db, "SET statement_timeout = '1s'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        repair(db, "probe", link_column="flow", max_rate=8)
    run(db, "RESET statement_timeout")
    assert one(db, PREPARED) == 1
    assert repair(db, batch_size=4).unlinked > 30  # of both, one after the other
    assert one(db, "SELECT (SELECT count(flow) FROM probe) + (SELECT count(flow) FROM second)") == 0
    assert one(db, PREPARED) == 0


def test_between_two_batches_nothing_is_held(db: Connection, session: Callable[[], Connection]) -> None:
    fill(db, 4)
    connection = session()
    with repairing(connection, max_rate=1):
        asleep = (
            "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep' AND backend_xid IS NULL "
            "AND xact_start > query_start"
        )
        wait_until(lambda: bool(one(db, asleep, connection.info.backend_pid)), "the repair to sleep")
        locks = "SELECT relation::regclass::text FROM pg_locks WHERE pid = %s AND relation = 'probe'::regclass"
        assert rows(db, locks, connection.info.backend_pid) == []
        run(db, "SET lock_timeout = '100ms'")
        assert one(db, PROGRESS) == 1
        run(db, "UPDATE probe SET note = 'free'")


def test_a_dry_run_does_not_sleep(db: Connection) -> None:
    fill(db, 100)
    start = time.monotonic()
    assert repair(db, batch_size=10, max_rate=1, dry_run=True).unlinked == 100
    assert time.monotonic() - start < 10


# --- Replication


@pytest.fixture(scope="module")
def primary(postgresql: TestPostgresql) -> Iterator[Server]:
    """Start a server of its own, which a standby can follow."""
    with throwaway_server(bindir=postgresql.bin) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute("CREATE ROLE app_owner LOGIN")
            admin.execute("CREATE DATABASE app OWNER app_owner")
            admin.execute("CREATE USER replicator REPLICATION PASSWORD 'secret'")
        changes.deploy(server.dsn("app", user="app_owner"))
        yield server


@pytest.fixture(scope="module")
def standby(primary: Server) -> Iterator[Connection]:
    """Connect to a standby of the primary that has caught up."""
    cluster = new_cluster(primary.bin, {**UNSAFE, "wal_receiver_status_interval": "1s"})
    source = f"host=127.0.0.1 port={primary.port} user=replicator password=secret application_name=second"
    base = [str(primary.bin / "pg_basebackup"), "-D", cluster.order["data"], "-d", source, "-R", "-c", "fast"]
    with (
        watched_server({**cluster.order, "prepare": [base]}) as (port, _),
        psycopg.connect(
            host=str(cluster.directory / "socket"), port=port, user="postgres", dbname="app", autocommit=True
        ) as connection,
        psycopg.connect(primary.dsn(), autocommit=True) as admin,
    ):
        state = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
        wait_until(lambda: one(admin, state) == 1, "the standby to stream")
        yield connection


@reaches(("_hold_back", "repair waits for replication"))
def test_it_waits_for_a_standby_and_says_so_once(primary: Server, standby: Connection) -> None:
    with (
        psycopg.connect(primary.dsn("app", user="app_owner"), autocommit=True) as owner,
        psycopg.connect(primary.dsn("app"), autocommit=True) as admin,
    ):
        fill(owner, 60)
        heard: list[tuple[str, str]] = []
        owner.add_notice_handler(lambda said: heard.append((said.message_primary or "", said.message_hint or "")))
        with refused("FG110") as refusal:
            repair(owner, max_lag="1 second")
        run(admin, statements(refusal.hint)[0])
        run(standby, "SELECT pg_wal_replay_pause()")
        run(admin, "UPDATE probe SET note = 'busy'")
        wait_until(lambda: bool(one(admin, IS_BEHIND)), "the standby to be behind")
        with repairing(owner, batch_size=7, max_lag="1 second") as done:
            wait_until(lambda: heard != [], "its word of it")
            time.sleep(1.2)
            assert not done
            assert one(admin, PROGRESS) == 0
            assert one(admin, "SELECT status FROM flowguard.run") == "running"
            run(standby, "SELECT pg_wal_replay_resume()")
        assert done[0].unlinked == 60
        ((message, hint),) = heard
        assert message.startswith("repair waits for replication: second (00:00:0")
        assert message.endswith(") behind by more than 00:00:01")
        assert rows(admin, statements(hint)[0])[0][0] == "second"
        assert normal(hint).endswith(" shows less; later waits are not told.")
        assert run_row(owner, done[0].id)["status"] == "finished"


def test_a_lag_that_is_over_holds_up_nobody(primary: Server, standby: Connection) -> None:
    """pg_stat_replication shows the last lag for a while after all was taken."""
    with psycopg.connect(primary.dsn("app"), autocommit=True) as admin:
        run(standby, "SELECT pg_wal_replay_pause()")
        run(admin, "CREATE TABLE IF NOT EXISTS busy AS SELECT 1 AS n")
        wait_until(lambda: bool(one(admin, IS_BEHIND)), "the standby to be behind")
        query = sql.SQL("SELECT flowguard._lagging('1 second', {})")
        written = one(admin, "SELECT pg_current_wal_insert_lsn()")
        assert one(admin, query.format(written)).startswith("second (00:00:0")
        run(standby, "SELECT pg_wal_replay_resume()")
        taken = "SELECT replay_lsn >= pg_current_wal_lsn() FROM pg_stat_replication"
        wait_until(lambda: bool(one(admin, taken)), "the standby to take it")
        assert one(admin, query.format(written)) is None
