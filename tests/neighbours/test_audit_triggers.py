"""Audit triggers see each change of a link once, with the values before and after, and only where something changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from engine.postgres import Connection, rows, run
from engine.tables import Guarded, add_reference, link
from neighbours.promises import kept
from repair.calls import repair, undo

AUDIT = """
CREATE TABLE row_seen (n integer GENERATED ALWAYS AS IDENTITY, "table" text, id integer, was integer, now integer);
CREATE TABLE statement_seen (n integer GENERATED ALWAYS AS IDENTITY, "table" text, id integer, was integer,
                             now integer);
CREATE FUNCTION see_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO row_seen ("table", id, was, now) VALUES (TG_TABLE_NAME, NEW.id, OLD.flow, NEW.flow);
  RETURN NULL;
END $$;
CREATE FUNCTION see_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO statement_seen ("table", id, now) SELECT TG_TABLE_NAME, n.id, n.flow FROM new_rows n;
  RETURN NULL;
END $$;
CREATE FUNCTION see_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO statement_seen ("table", id, was, now)
  SELECT TG_TABLE_NAME, n.id, o.flow, n.flow FROM new_rows n JOIN old_rows o USING (id);
  RETURN NULL;
END $$;
"""
TRIGGERS = """
CREATE TRIGGER see_row AFTER INSERT OR UPDATE ON {0} FOR EACH ROW EXECUTE FUNCTION see_row();
CREATE TRIGGER see_insert AFTER INSERT ON {0} REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION see_insert();
CREATE TRIGGER see_update AFTER UPDATE ON {0} REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION see_update();
"""


def audited(connection: Connection) -> Connection:
    """Let triggers write down what they see of child, grandchild and probe."""
    run(connection, AUDIT)
    for table in ("child", "grandchild", "probe"):
        run(connection, TRIGGERS.format(table))
    return connection


def seen(connection: Connection) -> list[tuple[str, int, int | None, int | None]]:
    """Give what was seen since the last look: the triggers of rows and those of statements must agree."""
    by_row, by_statement = (
        rows(connection, f'SELECT "table", id, was, now FROM {name} ORDER BY "table", id, n')  # noqa: S608  two names
        for name in ("row_seen", "statement_seen")
    )
    assert by_row == by_statement
    run(connection, "DELETE FROM row_seen; DELETE FROM statement_seen")
    return [(table, row, was, now) for table, row, was, now in by_row]


@pytest.fixture
def app(guarded: Guarded) -> Connection:
    """The small application in enforce, with its audit triggers and a parent that is linked."""
    connection = audited(guarded("enforce"))
    run(connection, "INSERT INTO parent VALUES (10, 1, 1)")
    return connection


def test_every_change_is_seen_once(app: Connection) -> None:
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 1, 10)")
    run(app, "INSERT INTO grandchild (id, tenant, child) VALUES (30, 1, 20)")
    assert seen(app) == [("child", 20, None, 1), ("child", 21, None, 1), ("grandchild", 30, None, 1)]
    run(app, "UPDATE parent SET flow = 2")
    assert seen(app) == [("child", 20, 1, 2), ("child", 21, 1, 2), ("grandchild", 30, 1, 2)]
    run(app, "INSERT INTO parent VALUES (11, 1, 3); UPDATE child SET parent = 11 WHERE id = 20")
    assert seen(app) == [("child", 20, 2, 3), ("grandchild", 30, 2, 3)]
    kept(app)


def test_nothing_is_seen_where_nothing_changes(app: Connection) -> None:
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    run(app, "INSERT INTO grandchild (id, tenant, child) VALUES (30, 1, 20)")
    seen(app)
    run(app, "UPDATE parent SET note = 'x', flow = 1, tenant = 1; UPDATE flow SET created_at = now()")
    run(app, "INSERT INTO parent VALUES (11, 1, 2); UPDATE event SET note = 'x'")
    assert seen(app) == []
    run(app, "UPDATE child SET note = 'x'")
    assert seen(app) == [("child", 20, 1, 1)]


def test_children_before_their_link(app: Connection) -> None:
    with app.transaction():
        run(app, "INSERT INTO parent VALUES (11, 1)")
        run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 11)")
        run(app, "INSERT INTO grandchild (id, tenant, child) VALUES (30, 1, 20)")
        run(app, "UPDATE parent SET flow = 2 WHERE id = 11")
    # The second look at commit finds all done.
    assert seen(app) == [
        ("child", 20, None, None),
        ("child", 20, None, 2),
        ("grandchild", 30, None, None),
        ("grandchild", 30, None, 2),
    ]


def test_the_second_look_at_commit_is_one_update(app: Connection, session: Callable[[Connection], Connection]) -> None:
    with app.transaction():
        run(app, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:00Z')")
        run(session(app), "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z')")
    assert seen(app) == [("probe", 1, None, None), ("probe", 1, None, 1)]


def test_a_key_that_changes_takes_its_rows_along_once(app: Connection) -> None:
    """The cascade of the application's key is all that is written: the link is the same."""
    run(
        app,
        "ALTER TABLE child DROP CONSTRAINT child_parent_fkey, "
        "ADD FOREIGN KEY (parent) REFERENCES parent ON UPDATE CASCADE",
    )
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 1, 10)")
    seen(app)
    run(app, "UPDATE parent SET id = 12")
    assert seen(app) == [("child", 20, 1, 1), ("child", 21, 1, 1)]
    assert rows(app, "SELECT id, parent, flow FROM child ORDER BY id") == [(20, 12, 1), (21, 12, 1)]
    kept(app)


def test_a_link_that_goes_leaves_unlinked_rows_alone(guarded: Guarded) -> None:
    app = audited(guarded())
    run(app, "INSERT INTO parent VALUES (10, 1, 1)")
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    run(app, "SELECT flowguard.pause('child', 'flow'); INSERT INTO child (id, tenant, parent) VALUES (21, 1, 10)")
    run(app, "SELECT flowguard.resume('child', 'flow')")
    seen(app)
    run(app, "UPDATE parent SET flow = NULL")
    assert seen(app) == [("child", 20, 1, None)]


def test_repair_and_undo(guarded: Guarded) -> None:
    app = audited(guarded())
    run(app, "SELECT flowguard.pause(t, 'flow') FROM unnest('{child,grandchild}'::regclass[]) t")
    run(app, "INSERT INTO parent VALUES (10, 1, 1); INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    run(app, "INSERT INTO grandchild (id, tenant, child) VALUES (30, 1, 20)")
    run(app, "SELECT flowguard.resume(t, 'flow') FROM unnest('{child,grandchild}'::regclass[]) t")
    seen(app)
    done = repair(app)
    assert seen(app) == [("child", 20, None, 1), ("grandchild", 30, None, 1)]
    undo(app, done.id)
    assert seen(app) == [("child", 20, 1, None), ("grandchild", 30, 1, None)]
    assert repair(app).linked == 1
    assert link(app, "grandchild", 30) == 1


def test_an_audit_trigger_that_writes_a_guarded_table(app: Connection) -> None:
    """Entries of the audit are children of what they tell of, and guarded themselves."""
    run(
        app,
        """
CREATE TABLE entry (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant integer NOT NULL, flow integer,
                    child integer REFERENCES child ON DELETE CASCADE, what text);
CREATE FUNCTION enter() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO entry (tenant, child, what) VALUES (NEW.tenant, NEW.id, TG_OP);
  RETURN NULL;
END $$;
CREATE TRIGGER enter AFTER INSERT OR UPDATE ON child FOR EACH ROW EXECUTE FUNCTION enter();
SELECT flowguard.add_link('entry', 'flow', mode => 'enforce');
""",
    )
    add_reference(app, "entry", "child", "child")
    run(app, "SELECT flowguard.guard('entry', 'flow')")
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    assert rows(app, "SELECT what, flow FROM entry ORDER BY id") == [("INSERT", 1)]
    run(app, "UPDATE parent SET flow = 2")
    assert rows(app, "SELECT what, flow FROM entry ORDER BY id") == [("INSERT", 2), ("UPDATE", 2)]
    with app.transaction():
        run(app, "INSERT INTO parent VALUES (11, 1)")
        run(app, "INSERT INTO child (id, tenant, parent) VALUES (21, 1, 11)")
        run(app, "UPDATE parent SET flow = 3 WHERE id = 11")
    assert rows(app, "SELECT what, flow FROM entry WHERE child = 21 ORDER BY id") == [("INSERT", 3), ("UPDATE", 3)]
    kept(app)


def test_a_trigger_that_counts_on_the_guarded_parent(app: Connection) -> None:
    run(
        app,
        """
ALTER TABLE parent ADD children integer NOT NULL DEFAULT 0;
CREATE FUNCTION count_child() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE parent SET children = children + 1 WHERE id = NEW.parent;
  RETURN NULL;
END $$;
CREATE TRIGGER count AFTER INSERT ON child FOR EACH ROW EXECUTE FUNCTION count_child();
""",
    )
    run(app, "INSERT INTO child (id, tenant, parent) SELECT n, 1, 10 FROM generate_series(20, 24) n")
    assert rows(app, "SELECT children, flow FROM parent") == [(5, 1)]
    assert seen(app) == [("child", n, None, 1) for n in range(20, 25)]
