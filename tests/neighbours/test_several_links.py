"""Several links on one table: to the same master, to two masters, and on tables that are child and source at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import add_reference
from neighbours.promises import kept, settled
from repair.calls import repair, undo

SAME = """
CREATE TABLE flow (id integer PRIMARY KEY, tenant integer NOT NULL, created_at timestamptz);
CREATE TABLE parent (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer);
CREATE TABLE child (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer, flow_1 integer, flow_parent integer,
                    parent integer REFERENCES parent, other integer REFERENCES parent, third integer REFERENCES parent);
INSERT INTO flow VALUES (1, 1), (2, 1), (3, 1);
INSERT INTO parent VALUES (10, 1, 1), (11, 1, 2), (12, 1, 3);
SELECT flowguard.add_master('flow', 'id', '{tenant}');
SELECT flowguard.add_link('parent', 'flow');
SELECT flowguard.add_link('child', 'flow', mode => 'enforce');
SELECT flowguard.add_link('child', 'flow_1');
SELECT flowguard.add_link('child', 'flow_parent');
"""


def three(connection: Connection) -> tuple[int | None, ...]:
    """Give the three links of the only child."""
    (found,) = rows(connection, "SELECT flow, flow_1, flow_parent FROM child")
    return found


@pytest.fixture
def db_same(db: Connection) -> Connection:
    """A child with three links to one master, by three references; the columns' names begin alike."""
    run(db, SAME)
    add_reference(db, "child", "parent", "parent")
    add_reference(db, "child", "other", "parent", link_column="flow_1")
    add_reference(db, "child", "third", "parent", link_column="flow_parent")
    run(db, "SELECT flowguard.guard('parent', 'flow')")
    run(db, "SELECT flowguard.guard('child', l) FROM unnest('{flow,flow_1,flow_parent}'::name[]) l")
    return db


def test_links_to_the_same_master(db_same: Connection) -> None:
    db = db_same
    settled(db)
    run(db, "INSERT INTO child (id, tenant, parent, other, third) VALUES (20, 1, 10, 11, 12)")
    assert three(db) == (1, 2, 3)
    run(db, "UPDATE child SET other = 12, third = NULL")
    assert three(db) == (1, 3, 3)
    run(db, "UPDATE parent SET flow = 1 WHERE id = 12")
    # Only what refers to it follows.
    assert three(db) == (1, 1, 3)
    with refused("23503"):
        run(db, "UPDATE child SET flow = 2")
    run(db, "UPDATE child SET flow_parent = 2, flow_1 = NULL")
    assert three(db) == (1, 1, 2)
    kept(db)


def test_one_of_them_is_taken_away_alone(db_same: Connection) -> None:
    """By their names alone it could not be told whose trigger `child_flow_1_update` is."""
    db = db_same
    run(db, "SELECT flowguard.unguard('child', 'flow')")
    settled(db)
    run(db, "INSERT INTO child (id, tenant, parent, other, third) VALUES (20, 1, 10, 11, 12)")
    assert three(db) == (None, 2, 3)
    run(db, "UPDATE parent SET flow = 3")
    assert three(db) == (None, 3, 3)
    run(db, "DELETE FROM child; SELECT flowguard.guard('child', 'flow'); SELECT flowguard.unguard('child', 'flow_1')")
    run(db, "INSERT INTO child (id, tenant, parent, other, third) VALUES (20, 1, 10, 11, 12)")
    assert three(db) == (3, None, 3)
    run(db, "SELECT flowguard.unguard('child', l) FROM unnest('{flow_parent,flow}'::name[]) l")
    run(db, "SELECT flowguard.unguard('parent', 'flow')")
    assert one(db, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE '~flowguard%'") == 0
    assert one(db, "SELECT count(*) FROM pg_constraint WHERE conname LIKE 'flowguard%'") == 0


def test_repair_of_both(db_same: Connection) -> None:
    db = db_same
    run(db, "SELECT flowguard.pause('child', l) FROM unnest('{flow,flow_1,flow_parent}'::name[]) l")
    run(db, "INSERT INTO child (id, tenant, parent, other) VALUES (20, 1, 10, 11)")
    run(db, "SELECT flowguard.resume('child', l) FROM unnest('{flow,flow_1,flow_parent}'::name[]) l")
    done = repair(db)
    assert (done.linked, done.remaining) == (2, 1)
    assert three(db) == (1, 2, None)
    run(db, "SELECT flowguard.set_mode('child', 'observe', 'flow')")
    assert undo(db, done.id) == (2, 0, 0)
    assert three(db) == (None, None, None)


def test_both_links_at_commit(db: Connection, session: Callable[[Connection], Connection]) -> None:
    """Two links that only the look at commit finds are both written, one update each."""
    run(
        db,
        """
CREATE TABLE flow (id integer PRIMARY KEY, tenant integer NOT NULL, created_at timestamptz);
CREATE TABLE event (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer, late integer, at timestamptz);
CREATE TABLE probe (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer, late integer, at timestamptz);
INSERT INTO flow VALUES (1, 1), (2, 1);
SELECT flowguard.add_master('flow', 'id', '{tenant}');
SELECT flowguard.add_link('probe', l, mode => 'enforce') FROM unnest('{flow,late}'::name[]) l;
SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', l, link_column => l)
  FROM unnest('{flow,late}'::name[]) l;
SELECT flowguard.guard('probe', l) FROM unnest('{flow,late}'::name[]) l;
""",
    )
    with db.transaction():
        run(db, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:00Z')")
        run(session(db), "INSERT INTO event VALUES (50, 1, 1, 2, '2025-01-01 00:00Z')")
    assert rows(db, "SELECT flow, late FROM probe") == [(1, 2)]
    settled(db)


def test_two_masters(db: Connection) -> None:
    """Each with a key of its own type, one without tenants; one of the links comes through the other's table."""
    run(
        db,
        """
CREATE TABLE flow (id uuid PRIMARY KEY, tenant integer NOT NULL, created_at timestamptz);
CREATE TABLE batch (code text PRIMARY KEY);
CREATE TABLE upload (id integer PRIMARY KEY, tenant integer NOT NULL, flow uuid, batch text);
CREATE TABLE line (id integer PRIMARY KEY, tenant integer NOT NULL, flow uuid, batch text,
                   upload integer REFERENCES upload ON DELETE CASCADE);
INSERT INTO flow SELECT md5(n::text)::uuid, 1 FROM generate_series(1, 2) n;
INSERT INTO batch VALUES ('a'), ('b');
SELECT flowguard.add_master('flow', 'id', '{tenant}');
SELECT flowguard.add_master('batch', 'code', '{}', created_at_column => NULL);
SELECT flowguard.add_link(t, 'flow', 'flow', mode => 'enforce') FROM unnest('{upload,line}'::regclass[]) t;
SELECT flowguard.add_link(t, 'batch', 'batch', on_master_delete => 'set null')
  FROM unnest('{upload,line}'::regclass[]) t;
SELECT flowguard.add_session_rule('upload', 'batch');
SELECT flowguard.add_reference_rule('line', 'upload', 'upload', source_link => l, link_column => l)
  FROM unnest('{flow,batch}'::name[]) l;
SELECT flowguard.guard(t, l) FROM unnest('{upload,line}'::regclass[]) t, unnest('{flow,batch}'::name[]) l;
""",
    )
    settled(db)
    with db.transaction():
        run(db, "SET LOCAL flowguard.batch = 'a'")
        run(
            db,
            "INSERT INTO upload (id, tenant) VALUES (10, 1); INSERT INTO line (id, tenant, upload) VALUES (20, 1, 10)",
        )
        run(db, "UPDATE upload SET flow = md5('1')::uuid")
    assert rows(db, "SELECT flow = md5('1')::uuid, batch FROM line") == [(True, "a")]
    run(db, "UPDATE upload SET flow = md5('2')::uuid, batch = 'b'")
    assert rows(db, "SELECT flow = md5('2')::uuid, batch FROM line") == [(True, "b")]
    run(db, "DELETE FROM batch WHERE code = 'b'")
    assert rows(db, "SELECT flow = md5('2')::uuid, batch FROM line") == [(True, None)]
    with refused("23503"):
        run(db, "DELETE FROM flow WHERE id = md5('2')::uuid")
    kept(db)


def test_a_master_that_is_a_child_of_another(db: Connection) -> None:
    """Flows belong to programs; the rows below a flow have a link to it and one to its program, which is the flow's."""
    run(
        db,
        """
CREATE TABLE program (id integer PRIMARY KEY, tenant integer NOT NULL, created_at timestamptz);
CREATE TABLE flow (id integer PRIMARY KEY, tenant integer NOT NULL, program integer, created_at timestamptz);
CREATE TABLE item (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer REFERENCES flow, program integer);
INSERT INTO program VALUES (100, 1), (101, 1);
SELECT flowguard.add_master('program', 'id', '{tenant}');
SELECT flowguard.add_master('flow', 'id', '{tenant}');
SELECT flowguard.add_link('flow', 'program', 'program');
SELECT flowguard.add_link('item', 'flow', 'flow');
SELECT flowguard.add_link('item', 'program', 'program', mode => 'enforce');
SELECT flowguard.add_session_rule('item', 'flow');
SELECT flowguard.add_reference_rule('item', 'flow', 'flow', source_link => 'program', link_column => 'program');
SELECT flowguard.guard('flow', 'program');
SELECT flowguard.guard('item', l) FROM unnest('{flow,program}'::name[]) l;
""",
    )
    run(db, "INSERT INTO flow VALUES (1, 1, 100), (2, 1, 101)")
    run(db, "INSERT INTO item (id, tenant, flow) VALUES (20, 1, 1)")
    assert rows(db, "SELECT flow, program FROM item") == [(1, 100)]
    run(db, "UPDATE item SET flow = 2")
    assert rows(db, "SELECT flow, program FROM item") == [(2, 101)]
    run(db, "UPDATE flow SET program = 100")
    assert rows(db, "SELECT flow, program FROM item") == [(2, 100)]
    # The link that another link is found by is itself filled by a trigger, whose name comes first.
    with db.transaction():
        run(db, "SET LOCAL flowguard.flow = '1'")
        run(db, "INSERT INTO item (id, tenant) VALUES (21, 1)")
    assert rows(db, "SELECT flow, program FROM item WHERE id = 21") == [(1, 100)]
    settled(db)
    kept(db)


def test_a_link_found_by_one_that_is_filled_after_it(db: Connection) -> None:
    """Names alone decide which of two links is filled first; whichever it is, both are there at commit."""
    run(
        db,
        """
CREATE TABLE area (id integer PRIMARY KEY, tenant integer NOT NULL, created_at timestamptz);
CREATE TABLE zone (id integer PRIMARY KEY, tenant integer NOT NULL, area integer, created_at timestamptz);
CREATE TABLE item (id integer PRIMARY KEY, tenant integer NOT NULL, zone integer REFERENCES zone, area integer);
INSERT INTO area VALUES (100, 1), (101, 1);
SELECT flowguard.add_master(m, 'id', '{tenant}') FROM unnest('{area,zone}'::regclass[]) m;
SELECT flowguard.add_link('zone', 'area', 'area');
SELECT flowguard.add_link('item', 'zone', 'zone');
SELECT flowguard.add_link('item', 'area', 'area', mode => 'enforce');
SELECT flowguard.add_session_rule('item', 'zone');
SELECT flowguard.add_reference_rule('item', 'zone', 'zone', source_link => 'area', link_column => 'area');
SELECT flowguard.guard('zone', 'area');
SELECT flowguard.guard('item', l) FROM unnest('{zone,area}'::name[]) l;
INSERT INTO zone VALUES (1, 1, 100), (2, 1, 101);
""",
    )
    with db.transaction():
        run(db, "SET LOCAL flowguard.zone = '1'")
        run(db, "INSERT INTO item (id, tenant) VALUES (20, 1)")
    assert rows(db, "SELECT zone, area FROM item") == [(1, 100)]
    kept(db)
