"""Statements that applications write with: upserts, MERGE, COPY, RETURNING, writable CTEs, TRUNCATE, prepared ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from engine import tables
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import Guarded, link, links
from neighbours.application import Template, small_application
from neighbours.promises import kept

FILLED = "INSERT INTO parent VALUES (10, 1, 1), (11, 1, 2), (12, 1, NULL)"


@pytest.fixture(scope="module")
def shared(databases: Any, template: Template) -> Iterator[str]:  # noqa: ANN401  conftest's class
    """Connection string of one copy of the small application, for tests that write rows only."""
    with databases.new(template(small_application("enforce"))) as dsn:
        yield dsn


@pytest.fixture
def app(shared: str) -> Iterator[Connection]:
    """The small application in enforce, with parents 10 and 11 of flows 1 and 2."""
    with psycopg.connect(shared, autocommit=True) as connection:
        tables.clear(connection)
        run(connection, "INSERT INTO parent VALUES (10, 1, 1), (11, 1, 2)")
        yield connection
        connection.rollback()
        kept(connection)


# --- Upserts


def test_on_conflict_of_the_key(app: Connection) -> None:
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    insert = "INSERT INTO child (id, tenant, parent, note) VALUES (20, 1, 11, 'x'), (21, 1, 11, 'y') ON CONFLICT (id) "
    run(app, insert + "DO NOTHING")
    assert links(app, "child") == {20: 1, 21: 2}
    returned = rows(app, insert + "DO UPDATE SET note = EXCLUDED.note RETURNING id, flow")
    assert returned == [(20, 1), (21, 2)]
    # EXCLUDED is the row as it would have been inserted: with the link that ours found.
    assert rows(app, insert + "DO UPDATE SET parent = 11, flow = EXCLUDED.flow RETURNING flow") == [(2,), (2,)]
    run(app, "UPDATE child SET parent = 10 WHERE id = 21")
    assert rows(app, insert + "DO UPDATE SET parent = EXCLUDED.parent RETURNING id, flow") == [(20, 2), (21, 2)]


def test_on_conflict_of_reference_and_link(app: Connection) -> None:
    """The link is there when the conflict is looked for."""
    run(app, "CREATE UNIQUE INDEX one_each ON child (parent, flow)")
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    insert = "INSERT INTO child (id, tenant, parent, note) VALUES (21, 1, 10, 'x'), (22, 1, 11, 'y') ON CONFLICT "
    run(app, insert + "(parent, flow) DO UPDATE SET note = EXCLUDED.note")
    assert rows(app, "SELECT id, flow, note FROM child ORDER BY id") == [(20, 1, "x"), (22, 2, "y")]
    run(app, insert + "(parent, flow) DO NOTHING")
    assert links(app, "child") == {20: 1, 22: 2}
    run(app, "DROP INDEX one_each")


def test_merge(app: Connection) -> None:
    """Where the server knows MERGE; before, what it does is written as an upsert and a delete."""
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (22, 1, 10)")
    if app.info.server_version >= 150000:
        merge = """
MERGE INTO child c USING (VALUES (20, 11), (21, 11), (22, NULL)) AS v (id, parent) ON c.id = v.id
WHEN MATCHED AND v.parent IS NULL THEN DELETE
WHEN MATCHED THEN UPDATE SET parent = v.parent
WHEN NOT MATCHED THEN INSERT (id, tenant, parent) VALUES (v.id, 1, v.parent)"""
        if app.info.server_version >= 170000:
            returned = rows(app, merge + " RETURNING merge_action(), c.id, c.flow")
            assert sorted(returned) == [("DELETE", 22, 1), ("INSERT", 21, 2), ("UPDATE", 20, 2)]
        else:
            run(app, merge)
    else:
        run(
            app,
            "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 11), (21, 1, 11) "
            "ON CONFLICT (id) DO UPDATE SET parent = EXCLUDED.parent",
        )
        run(app, "DELETE FROM child WHERE id = 22")
    assert links(app, "child") == {20: 2, 21: 2}


def test_merge_into_the_referenced_table(app: Connection) -> None:
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 1, 11)")
    if app.info.server_version >= 150000:
        run(
            app,
            "MERGE INTO parent p USING (VALUES (10, 3), (12, 2)) AS v (id, flow) ON p.id = v.id "
            "WHEN MATCHED THEN UPDATE SET flow = v.flow "
            "WHEN NOT MATCHED THEN INSERT (id, tenant, flow) VALUES (v.id, 1, v.flow)",
        )
    else:
        run(
            app,
            "INSERT INTO parent (id, tenant, flow) VALUES (10, 1, 3), (12, 1, 2) "
            "ON CONFLICT (id) DO UPDATE SET flow = EXCLUDED.flow",
        )
    assert links(app, "child") == {20: 3, 21: 2}


# --- COPY


@pytest.mark.parametrize("options", ["", "WITH (FORMAT binary)", "WITH (FORMAT csv, FORCE_NULL (flow))"])
def test_copy_with_and_without_the_link(app: Connection, options: str) -> None:
    columns = ["id, tenant, flow, note, parent", "id, parent, tenant"]
    if "csv" in options:
        columns = columns[:1]
    for n, names in enumerate(columns):
        with app.cursor() as cursor, cursor.copy(f"COPY child ({names}) FROM STDIN {options}".encode()) as copy:
            if "csv" in options:
                copy.write('20,1,"",x,10\n21,1,2,"",11\n')
            elif n == 0:
                copy.set_types(["int4", "int4", "int4", "text", "int4"])
                copy.write_row((20, 1, None, "x", 10))
                copy.write_row((21, 1, 2, None, 11))
            else:
                copy.set_types(["int4", "int4", "int4"])
                copy.write_row((22, 11, 1))
    assert links(app, "child") == {20: 1, 21: 2} | ({} if "csv" in options else {22: 2})
    with (
        refused("23503"),
        app.cursor() as cursor,
        cursor.copy(b"COPY child (id, tenant, flow, parent) FROM STDIN") as copy,
    ):
        copy.write("30\t1\t9\t10\n")


# --- RETURNING and what is seen in the statement


def test_returning_shows_the_link(app: Connection) -> None:
    assert rows(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10) RETURNING flow, *") == [
        (1, 20, 1, 1, None, 10)
    ]
    assert rows(app, "UPDATE child SET parent = 11 RETURNING flow") == [(2,)]
    assert rows(app, "UPDATE child SET flow = NULL RETURNING flow") == [(2,)]
    if app.info.server_version >= 180000:
        assert rows(app, "UPDATE child SET parent = 10 RETURNING OLD.flow, NEW.flow") == [(2, 1)]
        assert rows(
            app,
            "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 11) ON CONFLICT (id) DO UPDATE "
            "SET parent = EXCLUDED.parent RETURNING OLD.flow, NEW.flow",
        ) == [(1, 2)]
    assert len(rows(app, "DELETE FROM child RETURNING flow")) == 1


def test_parent_and_child_in_one_statement(app: Connection) -> None:
    """Parent first: linked at once. Child first, as a CTE that nobody reads may be run: linked at commit."""
    one_by_one = (
        "WITH p AS (INSERT INTO parent VALUES (20, 1, 3) RETURNING id) "
        "INSERT INTO child (id, tenant, parent) SELECT 20, 1, id FROM p RETURNING flow"
    )
    assert rows(app, one_by_one) == [(3,)]
    run(
        app,
        "WITH c AS (INSERT INTO child (id, tenant, parent) VALUES (21, 1, 21)) INSERT INTO parent VALUES (21, 1, 2)",
    )
    run(
        app,
        "WITH p AS (INSERT INTO parent VALUES (22, 1, 2)) INSERT INTO child (id, tenant, parent) VALUES (22, 1, 22)",
    )
    assert links(app, "child") == {20: 3, 21: 2, 22: 2}


def test_parent_and_child_updated_in_one_statement(app: Connection) -> None:
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 1, 10)")
    run(
        app,
        "WITH p AS (UPDATE parent SET flow = 3 WHERE id = 10 RETURNING id) "
        "UPDATE child SET note = 'x' FROM p WHERE parent = p.id AND child.id = 20",
    )
    assert rows(app, "SELECT id, flow, note FROM child ORDER BY id") == [(20, 3, "x"), (21, 3, None)]
    run(app, "WITH p AS (DELETE FROM child WHERE id = 21) UPDATE parent SET flow = 2 WHERE id = 10")
    assert links(app, "child") == {20: 2}


def test_insert_from_the_same_table(app: Connection) -> None:
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 1, 11)")
    returned = rows(
        app, "INSERT INTO child (id, tenant, parent) SELECT id + 10, tenant, parent FROM child RETURNING id, flow"
    )
    assert returned == [(30, 1), (31, 2)]


def test_event_and_probe_in_one_statement(app: Connection) -> None:
    """Whichever is written first, they find each other."""
    at = "'2025-01-01 00:00Z'"
    run(
        app,
        f"WITH e AS (INSERT INTO event VALUES (50, 1, 1, 'live', {at}) RETURNING id) "  # noqa: S608  names of this test
        f"INSERT INTO probe (id, tenant, at) SELECT 1, 1, {at} FROM e",
    )
    run(app, "DELETE FROM event")
    run(
        app,
        f"WITH p AS (INSERT INTO probe (id, tenant, at) VALUES (2, 1, {at}) RETURNING id) "  # noqa: S608  names of this test
        f"INSERT INTO event SELECT 51, 1, 2, 'live', {at} FROM p",
    )
    assert links(app, "probe") == {1: 1, 2: 2}


# --- Blocks, savepoints, prepared


def test_exceptions_caught_in_plpgsql(app: Connection) -> None:
    """What a block that fails wrote is gone with it, also from what is looked at when the transaction commits."""
    run(
        app,
        """
DO $$
BEGIN
  INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10);
  BEGIN
    INSERT INTO child (id, tenant) VALUES (21, 1);
    UPDATE parent SET flow = 3 WHERE id = 10;
    PERFORM 1 / 0;
  EXCEPTION WHEN division_by_zero THEN
    INSERT INTO child (id, tenant, parent) VALUES (22, 1, 11);
  END;
  BEGIN
    INSERT INTO child VALUES (23, 1, 9, NULL, 10);
    SET CONSTRAINTS ALL IMMEDIATE;
  EXCEPTION WHEN foreign_key_violation THEN
    SET CONSTRAINTS ALL DEFERRED;
  END;
END $$;
""",
    )
    assert links(app, "child") == {20: 1, 22: 2}


def test_a_block_that_catches_the_refusal_itself(guarded: Guarded) -> None:
    app = guarded("enforce")
    run(
        app,
        """
DO $$
BEGIN
  INSERT INTO parent VALUES (10, 1);
  SET CONSTRAINTS ALL IMMEDIATE;
EXCEPTION WHEN SQLSTATE 'FG001' THEN
  INSERT INTO parent VALUES (10, 1, 1);
END $$;
""",
    )
    assert links(app, "parent") == {10: 1}


def test_a_procedure_that_commits(app: Connection) -> None:
    run(
        app,
        """
CREATE OR REPLACE PROCEDURE load() LANGUAGE plpgsql AS $$
BEGIN
  FOR n IN 20 .. 24 LOOP
    INSERT INTO parent VALUES (n, 1);
    INSERT INTO child (id, tenant, parent) VALUES (n, 1, n);
    UPDATE parent SET flow = 3 WHERE id = n;
    IF n % 2 = 0 THEN COMMIT; ELSE ROLLBACK; END IF;
  END LOOP;
END $$;
""",
    )
    run(app, "CALL load()")
    assert links(app, "child") == {20: 3, 22: 3, 24: 3}


def test_prepared_statements_meet_guard_and_mode(guarded: Guarded) -> None:
    """A plan made before is made anew when guard() or set_mode() changes what it must do."""
    app = guarded()
    run(app, "SELECT flowguard.unguard('child', 'flow')")
    run(app, FILLED)
    run(app, "PREPARE put (integer, integer) AS INSERT INTO child (id, tenant, parent) VALUES ($1, 1, $2)")
    run(app, "PREPARE move (integer) AS UPDATE parent SET flow = $1 WHERE id = 12")
    for n in range(6):  # a generic plan from the sixth on
        run(app, "EXECUTE put (%s, 10)" % n)  # noqa: UP031  EXECUTE takes no parameters
    run(app, "EXECUTE move (NULL)")
    assert set(links(app, "child").values()) == {None}
    run(app, "DELETE FROM child; SELECT flowguard.guard('child', 'flow')")
    run(app, "EXECUTE put (20, 10)")
    run(app, "EXECUTE put (21, 12)")
    run(app, "EXECUTE move (3)")
    assert links(app, "child") == {20: 1, 21: 3}
    for table in ("parent", "child"):
        run(app, "SELECT flowguard.set_mode(%s::regclass, 'enforce', 'flow')", table)
    with refused("FG001"):
        run(app, "EXECUTE put (22, NULL)")
    with refused("FG001"):
        run(app, "EXECUTE move (NULL)")
    run(app, "SELECT flowguard.set_mode('child', 'observe', 'flow')")
    run(app, "EXECUTE put (22, NULL)")
    run(app, "SELECT flowguard.pause('child', 'flow')")
    run(app, "EXECUTE put (23, 10)")
    run(app, "SELECT flowguard.resume('child', 'flow')")
    run(app, "EXECUTE put (24, 10)")
    assert links(app, "child") == {20: 1, 21: 3, 22: None, 23: None, 24: 1}


def test_a_prepared_transaction_holds_what_it_wrote(app: Connection) -> None:
    """Until it is committed its links are nobody's; then they are there, and checked already."""
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    run(app, "BEGIN")
    run(app, "UPDATE parent SET flow = 3 WHERE id = 10")
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (21, 1, 10)")
    run(app, "PREPARE TRANSACTION 'neighbours'")
    assert links(app, "child") == {20: 1}
    with psycopg.connect(app.info.dsn, autocommit=True) as other:
        run(other, "SET lock_timeout = '100ms'")
        with refused("55P03"):
            run(other, "INSERT INTO child (id, tenant, parent) VALUES (22, 1, 10)")
        run(other, "COMMIT PREPARED 'neighbours'")
        run(other, "INSERT INTO child (id, tenant, parent) VALUES (22, 1, 10)")
    assert links(app, "child") == {20: 3, 21: 3, 22: 3}


# --- TRUNCATE


def test_truncate(app: Connection) -> None:
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    with refused("0A000"):
        run(app, "TRUNCATE flow")
    with refused("0A000"):
        run(app, "TRUNCATE parent")
    with app.transaction():
        run(app, "TRUNCATE child, grandchild")
        run(app, "INSERT INTO child (id, tenant, parent) VALUES (21, 1, 11)")
    assert links(app, "child") == {21: 2}
    run(app, "TRUNCATE parent CASCADE")
    assert (links(app, "parent"), links(app, "child")) == ({}, {})


def test_truncate_of_what_waits_for_commit(app: Connection) -> None:
    """PostgreSQL itself forbids it while a row waits to be looked at; SET CONSTRAINTS lets it go on."""
    run(app, "BEGIN")
    run(app, "INSERT INTO parent VALUES (12, 1, 1)")
    with refused("55006"):
        run(app, "TRUNCATE parent CASCADE")
    run(app, "ROLLBACK")
    with app.transaction():
        run(app, "INSERT INTO parent VALUES (12, 1, 1)")
        run(app, "SET CONSTRAINTS ALL IMMEDIATE")
        run(app, "TRUNCATE parent CASCADE")
    assert links(app, "parent") == {}


def test_triggers_for_each_statement(guarded: Guarded, session: Callable[[Connection], Connection]) -> None:
    """One that writes the link of all rows of a statement at its end, as people do without us, is left in peace."""
    app = guarded("enforce")
    run(
        app,
        """
CREATE FUNCTION link_all() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE probe SET flow = 2 WHERE id IN (SELECT n.id FROM new_rows n WHERE n.flow IS NULL);
  RETURN NULL;
END $$;
CREATE TRIGGER link_all AFTER INSERT ON probe REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION link_all();
INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z');
""",
    )
    run(app, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:00Z'), (2, 1, 'infinity')")
    assert links(app, "probe") == {1: 1, 2: 2}
    run(session(app), "INSERT INTO probe (id, tenant, at) VALUES (3, 1, NULL)")
    assert link(app, "probe", 3) == 2
    assert one(app, "SELECT count(*) FROM flowguard.violation") == 0
