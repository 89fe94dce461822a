"""Foreign keys of the application beside ours, made before guard() or after it, and what they do when a row goes."""

from __future__ import annotations

import pytest
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import Guarded, add_reference, create, guard, link, links
from neighbours.promises import kept, settled
from repair.calls import repair, undo

KEY = "ALTER TABLE parent ADD CONSTRAINT own FOREIGN KEY (flow) REFERENCES flow {}"


def register(connection: Connection, mode: str = "observe") -> None:
    """Register parent and child, whose link is its parent's."""
    run(connection, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    run(
        connection, "SELECT flowguard.add_link(t, 'flow', mode => %s) FROM unnest('{parent,child}'::regclass[]) t", mode
    )
    add_reference(connection, "child", "parent", "parent")


def fill(connection: Connection) -> None:
    run(connection, "INSERT INTO parent VALUES (10, 1, 1), (11, 1, 2)")
    run(connection, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 1, 11)")


def with_key(connection: Connection, key: str, mode: str) -> None:
    """Make the two tables, with a key of the application from parent to flow, and guard them."""
    create(connection)
    run(connection, KEY.format(key))
    register(connection, mode)
    guard(connection, "parent", "child")
    fill(connection)


DONE = {
    "ON DELETE CASCADE": ({11: 2}, {21: 2}),
    "ON DELETE SET NULL": ({10: None, 11: 2}, {20: None, 21: 2}),
    "ON DELETE SET DEFAULT DEFERRABLE": ({10: 3, 11: 2}, {20: 3, 21: 2}),
    "ON DELETE RESTRICT": None,
    "DEFERRABLE INITIALLY DEFERRED": None,
    "ON DELETE CASCADE NOT VALID": ({11: 2}, {21: 2}),
    "ON DELETE NO ACTION": None,
}


@pytest.mark.parametrize("order", ["before", "after"])
def test_what_the_applications_key_does_when_a_master_goes(db: Connection, order: str) -> None:
    """One key after the other in one database: the link's policy is `keep`, so each does what it says."""
    create(db)
    run(db, "ALTER TABLE parent ALTER flow SET DEFAULT 3")
    register(db)
    guard(db, "parent", "child")
    for key, expected in DONE.items():
        if order == "before":
            run(db, "SELECT flowguard.unguard('parent', 'flow')")
            run(db, KEY.format(key))
            guard(db, "parent")
        else:
            run(db, KEY.format(key))
        fill(db)
        if expected is None:
            with refused("23503", "23001") as refusal:
                run(db, "DELETE FROM flow WHERE id = 1")
            assert refusal.table in {"parent", "child"}, key
            # With its rows it may go, in either order where both keys look at commit.
            first, second = "DELETE FROM parent WHERE id = 10", "DELETE FROM flow WHERE id = 1"
            if "INITIALLY DEFERRED" in key:
                first, second = second, first
            with db.transaction():
                run(db, first)
                run(db, second)
        else:
            run(db, "DELETE FROM flow WHERE id = 1")
        assert (links(db, "parent"), links(db, "child")) == (expected or ({11: 2}, {21: 2})), key
        kept(db)
        run(db, "DELETE FROM parent; DELETE FROM child; INSERT INTO flow VALUES (1, 1)")
        if key == "ON DELETE NO ACTION":
            settled(db)
        run(db, "ALTER TABLE parent DROP CONSTRAINT own")


def test_set_null_of_a_whole_composite_key_takes_the_tenant_too(db: Connection) -> None:
    create(db)
    run(db, "ALTER TABLE flow ADD UNIQUE (tenant, id); ALTER TABLE parent ALTER tenant DROP NOT NULL")
    run(db, "ALTER TABLE parent ADD FOREIGN KEY (tenant, flow) REFERENCES flow (tenant, id) ON DELETE SET NULL")
    register(db)
    guard(db, "parent", "child")
    fill(db)
    run(db, "DELETE FROM flow WHERE id = 1")
    assert rows(db, "SELECT id, tenant, flow FROM parent ORDER BY id") == [(10, None, None), (11, 1, 2)]
    assert links(db, "child") == {20: None, 21: 2}
    kept(db)


def test_an_enforced_row_that_would_lose_its_link_keeps_its_master(db: Connection) -> None:
    with_key(db, "ON DELETE SET NULL", "enforce")
    with refused("FG001") as refusal:
        run(db, "DELETE FROM flow WHERE id = 1")
    refusal.says("parent", "has no flow")
    assert (links(db, "parent"), links(db, "child")) == ({10: 1, 11: 2}, {20: 1, 21: 2})


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_a_masters_key_that_changes_is_followed_by_the_applications_cascade(db: Connection, mode: str) -> None:
    with_key(db, "ON UPDATE CASCADE", mode)
    run(db, "ALTER TABLE child ADD FOREIGN KEY (flow) REFERENCES flow ON UPDATE CASCADE")
    run(db, "UPDATE flow SET id = 100 WHERE id = 1")
    assert (links(db, "parent"), links(db, "child")) == ({10: 100, 11: 2}, {20: 100, 21: 2})
    # Without a cascade on child itself, it follows its parent.
    run(db, "ALTER TABLE child DROP CONSTRAINT child_flow_fkey")
    run(db, "UPDATE flow SET id = 200 WHERE id = 2")
    assert (links(db, "parent"), links(db, "child")) == ({10: 100, 11: 200}, {20: 100, 21: 200})
    kept(db)


@pytest.mark.parametrize("policy", ["refuse", "set null"])
def test_a_key_that_is_replaced_goes_on_to_follow_the_masters_key(db: Connection, policy: str) -> None:
    """What is to happen when a master is deleted is said anew; what happens when its key changes is as it was."""
    create(db)
    run(db, KEY.format("ON UPDATE CASCADE ON DELETE CASCADE"))
    run(db, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    run(db, "SELECT flowguard.add_link('parent', 'flow', on_master_delete => %s)", policy)
    guard(db, "parent")
    settled(db)
    assert rows(db, "SELECT FROM pg_constraint WHERE conname = 'own'") == []
    run(db, "INSERT INTO parent VALUES (10, 1, 1), (11, 1, 2)")
    run(db, "UPDATE flow SET id = 100 WHERE id = 1")
    assert links(db, "parent") == {10: 100, 11: 2}
    if policy == "refuse":
        with refused("23503"):
            run(db, "DELETE FROM flow WHERE id = 100")
    else:
        run(db, "DELETE FROM flow WHERE id = 100")
        assert links(db, "parent") == {10: None, 11: 2}
    run(db, "SELECT flowguard.unguard('parent', 'flow')")
    assert one(db, "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'own'").endswith(
        "ON UPDATE CASCADE ON DELETE CASCADE"
    )


def test_a_masters_key_that_nothing_follows_cannot_change(guarded: Guarded) -> None:
    app = guarded()
    fill(app)
    with refused("23503"):
        run(app, "UPDATE flow SET id = 100 WHERE id = 1")
    with app.transaction():
        run(app, "UPDATE flow SET id = 100 WHERE id = 1")
        run(app, "UPDATE parent SET flow = 100 WHERE flow = 1")
    assert (links(app, "parent"), links(app, "child")) == ({10: 100, 11: 2}, {20: 100, 21: 2})


def test_a_reference_key_that_changes_with_children(guarded: Guarded) -> None:
    app = guarded("enforce")
    run(
        app,
        "ALTER TABLE child DROP CONSTRAINT child_parent_fkey, "
        "ADD CONSTRAINT child_parent_fkey FOREIGN KEY (parent) REFERENCES parent ON UPDATE CASCADE",
    )
    fill(app)
    run(app, "UPDATE parent SET id = id + 100")
    assert rows(app, "SELECT id, parent, flow FROM child ORDER BY id") == [(20, 110, 1), (21, 111, 2)]
    # Key and link at once.
    run(app, "UPDATE parent SET id = 12, flow = 3 WHERE id = 110")
    assert rows(app, "SELECT id, parent, flow FROM child ORDER BY id") == [(20, 12, 3), (21, 111, 2)]
    run(app, "UPDATE parent SET flow = 2 WHERE id = 12")
    assert links(app, "child") == {20: 2, 21: 2}
    kept(app)


def test_a_reference_that_goes(guarded: Guarded) -> None:
    """Its rows keep their link where the application's key sets the reference to NULL."""
    app = guarded("enforce")
    run(
        app,
        "ALTER TABLE child DROP CONSTRAINT child_parent_fkey, "
        "ADD CONSTRAINT child_parent_fkey FOREIGN KEY (parent) REFERENCES parent ON DELETE SET NULL",
    )
    fill(app)
    run(app, "DELETE FROM parent WHERE id = 10")
    assert rows(app, "SELECT id, parent, flow FROM child ORDER BY id") == [(20, None, 1), (21, 11, 2)]
    kept(app)


def test_a_reference_key_that_looks_at_commit(guarded: Guarded) -> None:
    """Children may come before the row that they refer to, and before its link."""
    app = guarded("enforce")
    run(
        app,
        "ALTER TABLE child DROP CONSTRAINT child_parent_fkey, "
        "ADD CONSTRAINT child_parent_fkey FOREIGN KEY (parent) REFERENCES parent DEFERRABLE INITIALLY DEFERRED",
    )
    guard(app, "child")
    with app.transaction():
        run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
        run(app, "INSERT INTO parent VALUES (10, 1, 1)")
        assert link(app, "child", 20) == 1
    kept(app)


def test_a_key_that_is_not_enforced_proves_nothing(db: Connection) -> None:
    """PostgreSQL 18 lets an application write down a key that nobody checks."""
    create(db)
    unproved = "NOT ENFORCED" if db.info.server_version >= 180000 else ""
    run(db, "ALTER TABLE child DROP CONSTRAINT child_parent_fkey")
    if unproved:
        run(db, f"ALTER TABLE child ADD FOREIGN KEY (parent) REFERENCES parent ON DELETE CASCADE {unproved}")
        run(
            db, f"ALTER TABLE parent ADD CONSTRAINT own FOREIGN KEY (flow) REFERENCES flow ON DELETE CASCADE {unproved}"
        )
    run(db, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    run(db, "SELECT flowguard.add_link('parent', 'flow', on_master_delete => 'cascade')")
    run(db, "SELECT flowguard.add_link('child', 'flow')")
    with refused("FG111") as refusal:
        add_reference(db, "child", "parent", "parent")
    refusal.says("has no foreign key")
    guard(db, "parent", "child")
    run(db, "INSERT INTO parent VALUES (10, 1, 1)")
    run(db, "DELETE FROM flow WHERE id = 1")
    assert links(db, "parent") == {}


def test_orphans_under_a_key_that_is_not_enforced(db: Connection) -> None:
    create(db)
    run(db, "ALTER TABLE child DROP CONSTRAINT child_parent_fkey")
    if db.info.server_version >= 180000:
        run(db, "ALTER TABLE child ADD FOREIGN KEY (parent) REFERENCES parent ON DELETE CASCADE NOT ENFORCED")
    run(db, "INSERT INTO parent VALUES (10, 1, 77); INSERT INTO child VALUES (20, 1, 1, NULL, 10)")
    run(db, "SELECT flowguard.add_master('flow', 'id', '{tenant}'); SELECT flowguard.add_link('parent', 'flow')")
    done = repair(db)
    assert (done.quarantined, one(db, "SELECT count(*) FROM flowguard.quarantine")) == (1, 1)
    assert one(db, "SELECT count(*) FROM child") == 1
    assert undo(db, done.id) == (1, 0, 0)
    assert links(db, "parent") == {10: 77}
