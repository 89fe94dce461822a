"""What applications see by asyncpg, psycopg 2 and psycopg 3: links left out, refusals, prepared statements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone

import psycopg
import pytest
from engine.postgres import Connection, Refusal, refused, rows, run
from engine.tables import Guarded, guard, links
from neighbours.clients import CLIENTS, Client, Psycopg
from neighbours.promises import kept

AT = datetime(2025, 1, 1, tzinfo=timezone.utc)
CHILD = "INSERT INTO child (id, tenant, parent) VALUES ($1, 1, $2) RETURNING id, flow"
MODES = ("observe", "enforce")

# Each driver guesses at another class for a SQLSTATE that it does not know: docs/applications.md says so.
UNKNOWN = {
    "psycopg": "psycopg.OperationalError",
    "psycopg2": "psycopg2.InternalError",
    "asyncpg": "asyncpg.UnknownPostgresError",
}
FOREIGN_KEY = {
    "psycopg": "psycopg.ForeignKeyViolation",
    "psycopg2": "psycopg2.ForeignKeyViolation",
    "asyncpg": "asyncpg.ForeignKeyViolationError",
}


@pytest.fixture(params=CLIENTS)
def driver(request: pytest.FixtureRequest) -> str:
    """Name of a driver."""
    return str(request.param)


@pytest.fixture
def client(driver: str) -> Iterator[Callable[[Connection], Client]]:
    """Open a session by a driver in the database of a connection."""
    with ExitStack() as stack:

        def connect(to: Connection) -> Client:
            opened = CLIENTS[driver](to)
            stack.callback(opened.close)
            return opened

        yield connect


def filled(app: Connection) -> Connection:
    """Put in what rules find: parents of flows 1, 2 and none yet, and an event of flow 1."""
    run(app, "INSERT INTO parent VALUES (10, 1, 1), (11, 1, 2)")
    run(app, "INSERT INTO event VALUES (50, 1, 1, 'live', %s)", AT)
    return app


def refused_by(client: Client, act: Callable[[], object]) -> tuple[str, Refusal]:
    """Give the class of the driver's error that this raises, and what it says."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  which is asked of it
        act()
    return client.refusal(caught.value)


@pytest.mark.parametrize("mode", MODES)
def test_each_rule_fills_a_link_that_is_left_out(
    guarded: Guarded, client: Callable[[Connection], Client], mode: str
) -> None:
    app = filled(guarded(mode))
    session = client(app)
    with session.transaction():
        session.rows("SELECT set_config('flowguard.flow', '3', true)")
        assert session.rows("INSERT INTO parent (id, tenant) VALUES ($1, 1) RETURNING flow", 12) == [(3,)]
    assert session.rows(CHILD, 20, 11) == [(20, 2)]
    assert session.rows(CHILD, 21, 12) == [(21, 3)]
    probe = "INSERT INTO probe (id, tenant, at) VALUES ($1, 1, $2) RETURNING flow"
    assert session.rows(probe, 1, AT + timedelta(hours=1)) == [(1,)]
    assert session.rows("UPDATE child SET parent = $1 WHERE id = 20 RETURNING flow", 10) == [(1,)]
    # NULL is what an application sends that has the column and no value for it.
    null = "INSERT INTO child VALUES ($1, 1, $2, NULL, 10) RETURNING flow"
    assert session.rows(null, 22, None) == [(1,)]
    kept(app)


@pytest.mark.parametrize("mode", MODES)
def test_many_rows_at_once(guarded: Guarded, client: Callable[[Connection], Client], mode: str) -> None:
    """executemany() with results, execute_values(), fetchmany(), and COPY."""
    app = filled(guarded(mode))
    session = client(app)
    assert sorted(session.many(CHILD, [(n, 10 + n % 2) for n in range(20, 28)])) == [
        (n, 1 + n % 2) for n in range(20, 28)
    ]
    session.copy("child", ["id", "tenant", "parent"], [(n, 1, 10 + n % 2) for n in range(30, 38)])
    session.copy("child", ["id", "tenant", "flow", "parent"], [(40, 1, None, 10), (41, 1, 2, 11)])
    assert links(app, "child") == {n: 1 + n % 2 for n in (*range(20, 28), *range(30, 38), 40, 41)}
    kept(app)


def test_upsert_and_merge(guarded: Guarded, client: Callable[[Connection], Client]) -> None:
    app = filled(guarded("enforce"))
    session = client(app)
    upsert = CHILD.replace("RETURNING", "ON CONFLICT (id) DO UPDATE SET parent = EXCLUDED.parent RETURNING")
    assert session.rows(upsert, 20, 10) == [(20, 1)]
    assert session.rows(upsert, 20, 11) == [(20, 2)]
    assert session.rows(CHILD.replace("RETURNING", "ON CONFLICT DO NOTHING RETURNING"), 20, 10) == []
    if app.info.server_version >= 150000:
        session.rows(
            "MERGE INTO child c USING (VALUES (20, $1::integer), (21, $2::integer)) AS v (id, parent) ON c.id = v.id "
            "WHEN MATCHED THEN UPDATE SET parent = v.parent "
            "WHEN NOT MATCHED THEN INSERT (id, tenant, parent) VALUES (v.id, 1, v.parent)",
            10,
            11,
        )
        assert links(app, "child") == {20: 1, 21: 2}
    kept(app)


def test_a_refusal_comes_whole(guarded: Guarded, client: Callable[[Connection], Client], driver: str) -> None:
    """With SQLSTATE, DETAIL and HINT; at once where the statement is the transaction, else from COMMIT."""
    app = filled(guarded("enforce"))
    session = client(app)

    def transaction() -> None:
        with session.transaction():
            assert session.rows(CHILD, 20, None) == [(20, None)]

    for act in (transaction, lambda: session.rows(CHILD, 20, None)):
        kind, refusal = refused_by(session, act)
        assert (kind, refusal.code) == (UNKNOWN[driver], "FG001")
        refusal.says('row {"id": 20} of table public.child has no flow', "tenant = 1", "flowguard.bypass(reason)")
    kind, refusal = refused_by(session, lambda: session.rows("UPDATE parent SET flow = $1 WHERE id = 10", 77))
    assert (kind, refusal.code) == (FOREIGN_KEY[driver], "23503")
    assert (refusal.table, refusal.constraint) == ("parent", "flowguard_parent_flow_tenant_fkey")
    # The session goes on.
    assert session.rows(CHILD, 20, 10) == [(20, 1)]


def test_a_refusal_can_be_had_before_commit(guarded: Guarded, client: Callable[[Connection], Client]) -> None:
    """For an application that wants to know which statement it was."""
    session = client(filled(guarded("enforce")))

    def transaction() -> None:
        with session.transaction():
            session.rows(CHILD, 20, None)
            _, refusal = refused_by(session, lambda: session.rows("SET CONSTRAINTS ALL IMMEDIATE"))
            assert refusal.code == "FG001"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        transaction()
    assert session.rows("SELECT FROM child") == []


def test_prepared_statements_go_on_while_another_session_guards(
    guarded: Guarded, client: Callable[[Connection], Client]
) -> None:
    """Prepared in the server before the guard was there, and run often enough to have a generic plan."""
    app = filled(guarded())
    run(app, "SELECT flowguard.unguard('child', 'flow')")
    session = client(app)
    put = session.prepare(CHILD)
    move = session.prepare("UPDATE parent SET note = $1 WHERE id = 10 RETURNING flow")
    read = session.prepare("SELECT flow FROM child WHERE id = $1 AND parent = $2")
    for n in range(20, 27):
        assert put(n, 10) == [(n, None)]
        assert move(str(n)) == [(1,)]
        assert read(n, 10) == [(None,)]
    run(app, "DELETE FROM child")
    guard(app, "child")
    assert put(30, 11) == [(30, 2)]
    assert read(30, 11) == [(2,)]
    run(app, "SELECT flowguard.set_mode('child', 'enforce', 'flow')")
    assert refused_by(session, lambda: put(31, None))[1].code == "FG001"
    assert put(31, 10) == [(31, 1)]
    run(app, "SELECT flowguard.set_mode('child', 'observe', 'flow')")
    assert put(32, None) == [(32, None)]
    run(app, "SELECT flowguard.pause('child', 'flow')")
    assert put(33, 10) == [(33, None)]
    run(app, "SELECT flowguard.resume('child', 'flow')")
    assert put(34, 10) == [(34, 1)]
    run(app, "SELECT flowguard.unguard('child', 'flow')")
    assert put(35, 10) == [(35, None)]
    assert move("last") == [(1,)]


# --- What only one driver has


def test_psycopg_prepares_by_itself(guarded: Guarded) -> None:
    app = filled(guarded("enforce"))
    session = Psycopg(app)
    for n in range(20, 30):
        assert session.rows(CHILD, n, 10) == [(n, 1)]
    assert session.rows("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'INSERT%'") == [(1,)]
    run(app, "SELECT flowguard.pause('child', 'flow'); SELECT flowguard.resume('child', 'flow')")
    assert session.rows(CHILD, 30, 11) == [(30, 2)]
    session.close()


def test_psycopg_in_a_pipeline(guarded: Guarded) -> None:
    """In a transaction of its own the refusal comes whole, and the session goes on."""
    app = filled(guarded("enforce"))
    insert = "INSERT INTO child (id, tenant, parent) VALUES (%s, 1, %s) RETURNING flow"
    with psycopg.connect(app.info.dsn, autocommit=True) as session:
        with session.pipeline():
            cursors = [session.cursor().execute(insert, (n, 10 + n % 2)) for n in range(20, 24)]
        assert [cursor.fetchall() for cursor in cursors] == [[(1,)], [(2,)], [(1,)], [(2,)]]

        def pipeline() -> None:
            with session.pipeline(), session.transaction():
                session.execute(insert, (30, 10))
                session.execute(insert, (31, None))

        def executemany() -> None:
            with session.transaction():
                session.cursor().executemany(insert, [(30, 10), (31, None)])

        for act in (pipeline, executemany):
            with refused("FG001") as refusal:
                act()
            refusal.says('row {"id": 31} of table public.child has no flow')
        assert rows(session, "SELECT FROM child WHERE id >= 30") == []


def test_psycopg_in_a_pipeline_without_a_transaction(guarded: Guarded) -> None:
    """Nothing is written, but the session is lost to any constraint that is checked at commit, of ours or not."""
    app = filled(guarded("enforce"))
    run(app, "ALTER TABLE child ALTER CONSTRAINT child_parent_fkey DEFERRABLE INITIALLY DEFERRED")
    for parent, refusal in ((None, "has no flow"), (77, "child_parent_fkey")):
        session = psycopg.connect(app.info.dsn, autocommit=True)
        with pytest.raises(psycopg.Error) as caught:
            session.cursor().executemany("INSERT INTO child (id, tenant, parent) VALUES (%s, 1, %s)", [(20, parent)])
        assert refusal in f"{caught.value} {caught.value.__context__}"
        assert links(app, "child") == {}
        session.close()
