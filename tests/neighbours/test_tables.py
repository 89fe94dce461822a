"""Tables of every sort: unlogged, inherited, temporary, and under row security for a role without rights on ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from engine.postgres import Connection, refused, rows, run
from engine.tables import Guarded, add_reference, create, links, register
from neighbours.promises import kept, settled
from repair.calls import repair, undo

TENANT = "nullif(current_setting('app.tenant', true), '')::integer"


# --- Kinds


def test_unlogged_tables(db: Connection) -> None:
    create(db)
    run(db, "ALTER TABLE event SET UNLOGGED; ALTER TABLE probe SET UNLOGGED; ALTER TABLE grandchild SET UNLOGGED")
    register(db)
    run(db, "SELECT flowguard.guard(t, 'flow') FROM unnest('{parent,child,grandchild,event,probe}'::regclass[]) t")
    settled(db)
    run(db, "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z')")
    run(db, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:00Z')")
    run(db, "INSERT INTO parent VALUES (10, 1); INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    run(db, "INSERT INTO grandchild (id, tenant, child) VALUES (30, 1, 20); UPDATE parent SET flow = 2")
    assert (links(db, "probe"), links(db, "grandchild")) == ({1: 1}, {30: 2})
    kept(db)


def test_a_table_that_others_inherit_from_is_refused_and_a_child_of_one_guarded(db: Connection) -> None:
    create(db)
    run(
        db,
        "CREATE TABLE base (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer);"
        "CREATE TABLE kind (parent integer REFERENCES parent, PRIMARY KEY (id)) INHERITS (base);"
        "SELECT flowguard.add_master('flow', 'id', '{tenant}'); SELECT flowguard.add_link('parent', 'flow')",
    )
    for call in ("add_link('base', 'flow')", "add_master('base', 'id', '{}', created_at_column => NULL)"):
        with refused("FG101") as refusal:
            run(db, f"SELECT flowguard.{call}")
        refusal.says("children by inheritance", "Name the children")
    with refused("FG101"):
        add_reference(db, "parent", "id", "base", agree=False)
    run(db, "SELECT flowguard.add_link('kind', 'flow', mode => 'enforce')")
    add_reference(db, "kind", "parent", "parent")
    run(db, "SELECT flowguard.guard(t, 'flow') FROM unnest('{parent,kind}'::regclass[]) t")
    run(
        db, "INSERT INTO parent VALUES (10, 1, 1), (11, 1, 2); INSERT INTO kind (id, tenant, parent) VALUES (20, 1, 10)"
    )
    assert links(db, "base") == {20: 1}
    # What is written through the table that it inherits from is guarded, too.
    run(db, "UPDATE base SET flow = NULL")
    with refused("23503"):
        run(db, "UPDATE base SET flow = 3")
    run(db, "UPDATE parent SET flow = 2 WHERE id = 10")
    assert links(db, "kind") == {20: 2}
    kept(db)


@pytest.mark.parametrize("relation", ["view", "materialized", "temporary"])
def test_what_is_no_lasting_table_is_refused(db: Connection, relation: str) -> None:
    create(db)
    run(
        db,
        {
            "view": "CREATE VIEW thing AS SELECT * FROM child",
            "materialized": "CREATE MATERIALIZED VIEW thing AS SELECT * FROM child",
            "temporary": "CREATE TEMPORARY TABLE thing (LIKE child INCLUDING ALL)",
        }[relation],
    )
    run(db, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    with refused("FG101") as refusal:
        run(db, "SELECT flowguard.add_link('thing', 'flow')")
    refusal.says("thing")


# --- Row security


@pytest.fixture
def secured(guarded: Guarded, as_role: Callable[[str, str], str]) -> Iterator[tuple[Connection, Connection]]:
    """The owner, and a plain role of the application that sees its tenant only and has no right on our schema."""
    owner = guarded("enforce")
    for table in ("flow", "parent", "child", "grandchild", "event", "probe"):
        run(owner, f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        run(owner, f"CREATE POLICY own ON {table} USING (tenant = {TENANT})")
    with psycopg.connect(as_role(owner.info.dsn, "postgres"), autocommit=True) as admin:
        run(admin, "DO $$BEGIN CREATE ROLE plain_writer LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END$$")
        run(admin, "GRANT SELECT, INSERT, UPDATE, DELETE ON parent, child, grandchild, event, probe TO plain_writer")
        assert not rows(
            admin,
            "SELECT FROM pg_proc WHERE pronamespace = 'flowguard'::regnamespace "
            "AND has_function_privilege('plain_writer', oid, 'EXECUTE')",
        )
    run(owner, "INSERT INTO parent VALUES (10, 1, 1), (11, 2, 9)")
    with psycopg.connect(as_role(owner.info.dsn, "plain_writer"), autocommit=True) as writer:
        run(writer, "SET app.tenant = '1'")
        yield owner, writer


def test_a_plain_role_writes_and_never_sees_another_tenant(secured: tuple[Connection, Connection]) -> None:
    owner, writer = secured
    run(writer, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    run(writer, "INSERT INTO grandchild (id, tenant, child) VALUES (30, 1, 20)")
    run(writer, "UPDATE parent SET flow = 2")
    assert (links(owner, "parent"), links(owner, "child"), links(owner, "grandchild")) == (
        {10: 2, 11: 9},
        {20: 2},
        {30: 2},
    )
    run(writer, "INSERT INTO event VALUES (50, 1, 3, 'live', '2025-01-01 00:00Z')")
    run(writer, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:00Z') RETURNING flow")
    assert rows(writer, "SELECT id, flow FROM probe") == [(1, 3)]
    # A row of another tenant is none that a link could be taken from.
    with refused("42501"):
        run(writer, "INSERT INTO child (id, tenant, parent) VALUES (21, 2, 11)")
    for wrong in ("(22, 1, 9, NULL, 10)", "(22, 1, 404, NULL, 10)"):
        with refused("23503"):
            run(writer, f"INSERT INTO child VALUES {wrong}")  # noqa: S608  texts of this test
    kept(owner)


def test_what_waits_is_linked_by_a_plain_role(secured: tuple[Connection, Connection]) -> None:
    owner, writer = secured
    with writer.transaction():
        run(writer, "INSERT INTO parent VALUES (12, 1); INSERT INTO child (id, tenant, parent) VALUES (20, 1, 12)")
        run(writer, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:00Z')")
        run(writer, "UPDATE parent SET flow = 3 WHERE id = 12")
        # Another session commits what only the look at commit can find.
        with psycopg.connect(owner.info.dsn, autocommit=True) as other:
            run(other, "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z')")
    assert (links(owner, "child"), links(owner, "probe")) == ({20: 3}, {1: 1})
    kept(owner)


def test_a_policy_with_a_check_on_the_link(secured: tuple[Connection, Connection]) -> None:
    """Row security checks the row as it is written: with the link that ours filled."""
    owner, writer = secured
    run(owner, "CREATE POLICY linked ON child AS RESTRICTIVE FOR INSERT WITH CHECK (flow = 1)")
    run(writer, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    run(owner, "UPDATE parent SET flow = 2 WHERE id = 10")
    with refused("42501"):
        run(writer, "INSERT INTO child (id, tenant, parent) VALUES (21, 1, 10)")
    assert links(owner, "child") == {20: 2}


def test_repair_and_undo_under_row_security(guarded: Guarded) -> None:
    owner = guarded()
    run(owner, "SELECT flowguard.pause('child', 'flow'); INSERT INTO parent VALUES (10, 1, 1), (11, 2, 9)")
    run(owner, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 2, 11)")
    run(owner, "SELECT flowguard.resume('child', 'flow'); ALTER TABLE child ENABLE ROW LEVEL SECURITY")
    run(owner, f"CREATE POLICY own ON child USING (tenant = {TENANT})")
    done = repair(owner)
    assert (done.linked, links(owner, "child")) == (2, {20: 1, 21: 9})
    assert undo(owner, done.id) == (2, 0, 0)
