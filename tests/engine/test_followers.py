"""One trigger of a source serves all that follows it: each link joins, stays and leaves without the others noticing."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import add_links, add_reference, create, guard, link, links, register
from psycopg import sql
from waiting import PATIENCE, beside, wait_until, waiting

TRIGGERS = (
    "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND starts_with(tgname, '~flowguard~') "
    'ORDER BY tgname COLLATE "C"'
)
CALLERS = (
    "SELECT count(*) FROM pg_proc p WHERE pronamespace = 'flowguard'::regnamespace "
    "AND obj_description(oid, 'pg_proc') LIKE '%%: calls what follows it.'"
)
PLAN = "SELECT statement FROM flowguard.guard_plan(%s::regclass, 'flow')"
NOON = "2025-01-01 12:00Z"


@pytest.fixture
def app(db: Connection) -> Connection:
    """Register the small application, and a second child of parent; guard nothing."""
    create(db)
    run(db, "CREATE TABLE other (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer, "
            "parent integer REFERENCES parent ON DELETE CASCADE)")  # fmt: skip
    register(db)
    add_links(db, ["other"], "observe", "keep")
    add_reference(db, "other", "parent", "parent")
    return db


def triggers(db: Connection, table: str) -> list[str]:
    """Name the triggers of a source that call what follows it, without what all of them begin with."""
    return [name.removeprefix("~flowguard~") for (name,) in rows(db, TRIGGERS, table)]


def wait_for_a_link(db: Connection, *tables: str, parent: int = 10) -> None:
    """Insert a parent without a link, and a child of it into each table."""
    run(db, "INSERT INTO parent (id, tenant) VALUES (%s, 1)", parent)
    for table in tables:
        run(db, f"INSERT INTO {table} (id, tenant, parent) VALUES (%s, 1, %s)", parent + 1, parent)  # noqa: S608


def add_rule_by_time(db: Connection) -> None:
    """Let `other` follow the rows of event, as probe does, whatever their status."""
    run(db, "ALTER TABLE other ADD at timestamptz; SELECT flowguard.add_proximity_rule('other', 'event', '1 hour', "
            "'at', 'at', 'flow', link_column => 'flow')")  # fmt: skip


def guard_all_but_the_triggers_of_sources(db: Connection, *tables: str) -> None:
    """Run what comes before, as `pyflowguard guard` does, statement by statement."""
    for table in tables:
        for (statement,) in rows(db, PLAN, table):
            if "_set_source_triggers" not in statement:
                db.execute(statement.encode())


def followed(db: Connection, parent: int = 10) -> tuple[object, object]:
    """Link a parent with children, and give their links."""
    wait_for_a_link(db, "child", "other", parent=parent)
    run(db, "UPDATE parent SET flow = 1 WHERE id = %s", parent)
    return link(db, "child", parent + 1), link(db, "other", parent + 1)


def test_one_trigger_serves_all(app: Connection) -> None:
    guard(app, "child")
    assert triggers(app, "parent") == ["parent_followers_update"]
    assert followed(app, 10) == (1, None)
    guard(app, "other")
    assert triggers(app, "parent") == ["parent_followers_update"]
    assert followed(app, 20) == (1, 1)
    assert [rows(app, PLAN, table) for table in ("child", "other")] == [[], []]


def test_a_link_that_goes_leaves_the_others(app: Connection) -> None:
    guard(app, "child", "other")
    statements = [row[0] for row in rows(app, "SELECT flowguard.unguard('child', 'flow')")]
    assert "SELECT flowguard._set_source_triggers('public.parent', 'public.child', 'flow')" in statements
    assert followed(app, 10) == (None, 1)
    assert rows(app, PLAN, "other") == []
    run(app, "SELECT flowguard.unguard('other', 'flow')")
    assert (triggers(app, "parent"), one(app, CALLERS)) == ([], 0)


def test_plans_that_were_made_before_either_ran_do_not_undo_each_other(app: Connection) -> None:
    guard_all_but_the_triggers_of_sources(app, "child", "other")
    plans = {table: [row[0] for row in rows(app, PLAN, table)] for table in ("child", "other")}
    assert [len(plan) for plan in plans.values()] == [1, 1]
    for plan in plans.values():
        app.execute(plan[0].encode())
    assert followed(app) == (1, 1)
    assert [rows(app, PLAN, table) for table in plans] == [[], []]


def test_two_that_join_at_once_wait_for_each_other(app: Connection) -> None:
    """The second joins what the first has made, also where it came before that was committed."""
    guard(app, "child")  # so that the source has a function and triggers already
    run(app, "CREATE TABLE third (LIKE other INCLUDING ALL, FOREIGN KEY (parent) REFERENCES parent)")
    add_links(app, ["third"], "observe", "keep")
    add_reference(app, "third", "parent", "parent")
    guard_all_but_the_triggers_of_sources(app, "other", "third")
    joins = "SELECT flowguard._set_source_triggers('parent', '{}', 'flow')"
    with psycopg.connect(app.info.dsn) as first, psycopg.connect(app.info.dsn, autocommit=True) as second:
        run(first, joins.format("other"))
        with beside(lambda: run(second, joins.format("third"))) as joined:
            wait_until(lambda: bool(waiting(app, "_set_source_triggers", first)), "the second to wait")
            first.commit()
            joined.result(PATIENCE)
    assert followed(app) == (1, 1)


def test_a_rule_that_is_dropped_is_called_until_guard(app: Connection) -> None:
    guard(app, "child", "other")
    run(app, "SELECT flowguard.drop_rule('child', 1, 'flow')")
    guard(app, "other")  # which speaks for itself alone
    assert followed(app, 10) == (1, 1)
    guard(app, "child")
    assert rows(app, PLAN, "child") == []
    assert followed(app, 20) == (None, 1)


def test_a_source_may_have_several_links(app: Connection) -> None:
    run(app, "ALTER TABLE parent ADD second integer; SELECT flowguard.add_link('parent', 'second'); "
             "SELECT flowguard.drop_rule('other', 1, 'flow')")  # fmt: skip
    add_reference(app, "other", "parent", "parent", source_link="second")
    guard(app, "child", "other")
    wait_for_a_link(app, "child", "other")
    run(app, "UPDATE parent SET second = 2 WHERE id = 10")
    assert (link(app, "child", 11), link(app, "other", 11)) == (None, 2)
    run(app, "UPDATE parent SET flow = 1 WHERE id = 10")
    assert (link(app, "child", 11), link(app, "other", 11)) == (1, 2)


def test_a_change_that_concerns_one_link_is_told_to_that_link(app: Connection) -> None:
    """Also where another link's trigger does not look at that column."""
    add_rule_by_time(app)
    guard(app, "probe", "other")
    run(app, "INSERT INTO event VALUES (50, 1, 1, 'deleted', '2025-01-01 02:00Z')")
    run(app, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 02:10Z'), (2, 1, %s)", NOON)
    run(app, "SELECT flowguard.pause('other', 'flow')")
    run(app, "INSERT INTO other (id, tenant, at) VALUES (1, 1, '2025-01-01 02:10Z'), (2, 1, %s)", NOON)
    run(app, "SELECT flowguard.resume('other', 'flow')")
    with app.transaction():  # at once, and not at commit
        run(app, "UPDATE event SET status = 'live'")
        assert (links(app, "probe"), links(app, "other")) == ({1: 1, 2: None}, {1: None, 2: None})
        run(app, "UPDATE event SET at = %s", NOON)
        assert (links(app, "probe"), links(app, "other")) == ({1: 1, 2: 1}, {1: None, 2: 1})
    assert (links(app, "probe"), links(app, "other")) == ({1: 1, 2: 1}, {1: None, 2: 1})


def test_a_renamed_column_of_another_link_goes_on_to_be_watched(app: Connection) -> None:
    """A link that reads it fails closed, and says so; it is not that it is not told any more."""
    add_rule_by_time(app)
    run(app, "INSERT INTO event VALUES (50, 1, 1, 'deleted', %s)", NOON)
    guard(app, "probe")
    run(app, "ALTER TABLE event RENAME status TO state")
    guard(app, "other")
    with refused("42703"):
        run(app, "UPDATE event SET state = 'live'")


def test_a_source_that_is_linked_before_its_master_is_there_and_then_moved_in_time(app: Connection) -> None:
    run(app, "ALTER TABLE event ADD FOREIGN KEY (flow) REFERENCES flow DEFERRABLE INITIALLY DEFERRED")
    guard(app, "probe")
    assert triggers(app, "event") == [
        f"event_followers_{when}" for when in ("insert", "insert_commit", "update", "update_commit")
    ]
    run(app, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, %s)", NOON)
    run(app, "INSERT INTO event (id, tenant, at) VALUES (50, 1, '2025-01-01 02:00Z'), (60, 1, %s)", NOON)
    with app.transaction():
        run(app, "UPDATE event SET flow = 7 WHERE id = 50")
        run(app, "UPDATE event SET at = %s WHERE id = 50", NOON)
        run(app, "INSERT INTO flow VALUES (7, 1)")
    assert links(app, "probe") == {1: 7}


def test_a_source_that_gets_another_key_before_its_master_is_there(app: Connection) -> None:
    run(app, "ALTER TABLE event ADD FOREIGN KEY (flow) REFERENCES flow DEFERRABLE INITIALLY DEFERRED")
    guard(app, "probe")
    run(app, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, %s)", NOON)
    with app.transaction():
        run(app, "INSERT INTO event VALUES (50, 1, 7, 'live', %s)", NOON)
        run(app, "UPDATE event SET id = 51")
        run(app, "INSERT INTO flow VALUES (7, 1)")
    assert links(app, "probe") == {1: 7}


def test_a_source_that_is_gone_by_the_commit(app: Connection) -> None:
    guard(app, "probe")
    run(app, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, %s)", NOON)
    with app.transaction():
        run(app, "INSERT INTO event VALUES (50, 1, 7, 'live', %s)", NOON)
        run(app, "DELETE FROM event")
        run(app, "INSERT INTO flow VALUES (7, 1)")
    assert links(app, "probe") == {1: None}


def test_the_function_of_a_source_that_was_dropped_goes(app: Connection) -> None:
    guard(app, "child", "probe")
    run(app, "DROP TABLE event CASCADE")
    assert one(app, CALLERS) == 2
    guard(app, "child")
    assert one(app, CALLERS) == 1
    assert rows(app, PLAN, "child") == []


def test_tables_of_one_name_have_functions_of_their_own(app: Connection) -> None:
    run(app, "CREATE SCHEMA far; CREATE TABLE far.parent (LIKE parent INCLUDING ALL)")
    run(app, "ALTER TABLE other DROP CONSTRAINT other_parent_fkey, ADD FOREIGN KEY (parent) REFERENCES far.parent")
    run(app, "SELECT flowguard.drop_rule('other', 1, 'flow'); SELECT flowguard.add_link('far.parent', 'flow')")
    add_reference(app, "other", "parent", "far.parent")
    guard(app, "child", "other")
    assert one(app, CALLERS) == 2
    wait_for_a_link(app, "child")
    run(
        app,
        "INSERT INTO far.parent (id, tenant) VALUES (10, 1); INSERT INTO other (id, tenant, parent) VALUES (1, 1, 10)",
    )
    run(app, "UPDATE far.parent SET flow = 2")
    assert (link(app, "child", 11), link(app, "other", 1)) == (None, 2)
    run(app, "UPDATE parent SET flow = 1")
    assert (link(app, "child", 11), link(app, "other", 1)) == (1, 2)


def test_two_roles_guard_what_follows_one_source(app: Connection, as_role: Callable[[str, str], str]) -> None:
    """Who is a member of the role that guarded first may join: what he made is called with his own rights."""
    guard(app, "child")
    owner = sql.Identifier(str(one(app, "SELECT current_user")))
    member = sql.Identifier(f"member_{one(app, 'SELECT current_database()')}")
    with psycopg.connect(as_role(app.info.dsn, "postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {}").format(member))
        try:
            admin.execute(sql.SQL("GRANT {} TO {}").format(owner, member))
            admin.execute(sql.SQL("SET ROLE {}").format(member))
            admin.execute("SELECT flowguard.guard('other', 'flow')")
            admin.execute("RESET ROLE")
            assert one(admin, "SELECT count(DISTINCT proowner) FROM pg_proc WHERE proname ~ '_follow_1$'") == 2
            assert followed(app) == (1, 1)
        finally:
            admin.execute("RESET ROLE")
            admin.execute("SELECT flowguard.unguard('other', 'flow')")
            admin.execute(sql.SQL("DROP OWNED BY {}").format(member))
            admin.execute(sql.SQL("DROP ROLE {}").format(member))
