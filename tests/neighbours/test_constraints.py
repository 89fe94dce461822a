"""Unique, exclusion and check constraints of the application on what a late link or a repair would write."""

from __future__ import annotations

import pytest
from engine.postgres import Connection, refused, run
from engine.tables import Guarded, links
from neighbours.promises import kept, listed
from repair.calls import repair, undo

CONSTRAINTS = {
    "unique": ("CREATE UNIQUE INDEX one_each ON child (parent, flow)", "23505"),
    "partial unique": ("CREATE UNIQUE INDEX one_each ON child (flow) WHERE note = 'main'", "23505"),
    "unique at commit": (
        "ALTER TABLE child ADD CONSTRAINT one_each UNIQUE (parent, flow) DEFERRABLE INITIALLY DEFERRED",
        "23505",
    ),
    "exclusion": (
        """ALTER TABLE child ADD CONSTRAINT one_each EXCLUDE USING gist
           (int4range(parent, parent, '[]') WITH &&, int4range(flow, flow, '[]') WITH &&) WHERE (flow IS NOT NULL)""",
        "23P01",
    ),
    "check": ("ALTER TABLE child ADD CONSTRAINT one_each CHECK (flow IS NULL OR id = 20)", "23514"),
}


@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_a_constraint_that_one_row_of_two_violates(guarded: Guarded, kind: str) -> None:
    """The client's late link is refused by name; repair links what may be, says what stays, and goes on."""
    statement, code = CONSTRAINTS[kind]
    app = guarded()
    run(app, statement)
    run(app, "INSERT INTO parent VALUES (10, 1), (11, 1)")
    run(
        app,
        "INSERT INTO child (id, tenant, parent, note) VALUES (20, 1, 10, 'main'), (21, 1, 10, 'main')",
    )
    with refused(code) as refusal:
        run(app, "UPDATE parent SET flow = 1 WHERE id = 10")
    assert refusal.constraint == "one_each"
    run(app, "SELECT flowguard.pause('child', 'flow')")
    run(app, "UPDATE parent SET flow = 1 WHERE id = 10; UPDATE parent SET flow = 2 WHERE id = 11")
    if kind != "check":
        run(app, "INSERT INTO child (id, tenant, parent, note) VALUES (22, 1, 11, 'main')")
    run(app, "SELECT flowguard.resume('child', 'flow')")
    notices: list[str] = []
    app.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
    done = repair(app)
    expected = {20: 1, 21: None} | ({} if kind == "check" else {22: 2})
    assert links(app, "child") == expected
    assert (done.linked, done.remaining) == (len(expected) - 1, 1)
    assert any("one_each" in notice and "stays as it is" in notice for notice in notices), notices
    assert listed(app) == {("child", 21): "unlinked"}
    assert undo(app, done.id) == (len(expected) - 1, 0, 0)
    assert repair(app).linked == len(expected) - 1
    kept(app)


def test_an_upsert_of_one_row_each(guarded: Guarded) -> None:
    """A unique key on the link alone: the second row of a flow finds the first."""
    app = guarded("enforce")
    run(app, "CREATE UNIQUE INDEX ON child (flow) WHERE note IS NULL")
    run(app, "INSERT INTO parent VALUES (10, 1, 1), (11, 1, 1), (12, 1, 2)")
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    with refused("23505"):
        run(app, "INSERT INTO child (id, tenant, parent) VALUES (21, 1, 11)")
    run(
        app,
        "INSERT INTO child (id, tenant, parent) VALUES (21, 1, 11), (22, 1, 12) "
        "ON CONFLICT (flow) WHERE note IS NULL DO UPDATE SET parent = EXCLUDED.parent",
    )
    assert links(app, "child") == {20: 1, 22: 2}
    kept(app)


def test_an_orphan_that_a_check_keeps(db: Connection) -> None:
    """Taking it out would leave a row that the application forbids: it stays, the others go."""
    run(
        db,
        """
CREATE TABLE flow (id integer PRIMARY KEY, tenant integer NOT NULL, created_at timestamptz);
CREATE TABLE top (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer);
CREATE TABLE sub (id integer PRIMARY KEY, top integer REFERENCES top ON DELETE SET NULL,
                  CHECK (top IS NOT NULL OR id > 30));
INSERT INTO top VALUES (10, 1, 77), (11, 1, 78);
INSERT INTO sub VALUES (30, 10), (31, 11);
SELECT flowguard.add_master('flow', 'id', '{tenant}');
SELECT flowguard.add_link('top', 'flow');
""",
    )
    done = repair(db)
    assert (done.quarantined, done.remaining) == (1, 1)
    assert links(db, "top") == {10: 77}
    assert undo(db, done.id) == (2, 0, 0)
    assert links(db, "top") == {10: 77, 11: 78}
