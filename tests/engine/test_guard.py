"""guard() and its plan: idempotent, reversible to the byte, runnable one by one, and honest about what is there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from difflib import unified_diff
from typing import Any

import psycopg
import pytest
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import LINKS, Guarded, add_reference, create, guard, link, links, register
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from waiting import PATIENCE, beside, wait_until

from pyflowguard import changes
from pyflowguard.errors import ScriptFailed


@pytest.fixture
def app(guarded: Guarded) -> Connection:
    """A copy of the small application of its own, guarded in observe."""
    return guarded("observe", own=True)


def difference(before: str, after: str) -> str:
    """Give the lines in which two dumps differ; none: they are the same to the byte."""
    return "\n".join(unified_diff(before.split("\n"), after.split("\n"), n=0))


def dump(connection: Connection, postgresql: Any) -> str:  # noqa: ANN401  conftest's class
    """Give what the server's own pg_dump says of the application's schema."""
    at = conninfo_to_dict(connection.info.dsn)
    done = subprocess.run(
        [
            *(postgresql.bin / "pg_dump", "--schema-only", "--schema=public", "--schema=migration", "--no-password"),
            *("-h", str(at["host"]), "-p", str(at["port"]), "-U", "postgres", str(at["dbname"])),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    # Since 18 and its back-branches, a dump carries a key of its own that differs from run to run.
    return "\n".join(line for line in done.stdout.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


def plan(connection: Connection, table: str, column: str = "flow") -> list[tuple[Any, ...]]:
    return rows(connection, "SELECT * FROM flowguard.guard_plan(%s::regclass, %s)", table, column)


def forget(connection: Connection, *tables: str, column: str) -> None:
    """Drop the links: while a rule has a filter, the view that holds it changes the order of tables in a dump."""
    for table in tables:
        run(connection, "SELECT flowguard.drop_link(%s::regclass, %s)", table, column)


def run_plan(connection: Connection, table: str) -> None:
    """Run a plan as the command line does: each statement by itself, what may be in a transaction and what may not."""
    for _, statement, _, in_transaction in plan(connection, table):
        if in_transaction:
            with connection.transaction():
                run(connection, statement)
        else:
            run(connection, statement)


def keys(connection: Connection, table: str) -> dict[str, tuple[str, bool]]:
    """Give definition and validity of each foreign key."""
    return {
        name: (definition, valid)
        for name, definition, valid in rows(
            connection,
            "SELECT conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint "
            "WHERE contype = 'f' AND conrelid = %s::regclass",
            table,
        )
    }


# --- Twice, and back


def test_a_second_guard_changes_nothing(app: Connection, postgresql: Any) -> None:  # noqa: ANN401
    before = dump(app, postgresql)
    registry = [rows(app, f"SELECT ctid, xmin, * FROM flowguard.{t}") for t in ("master", "link", "rule")]  # noqa: S608
    assert guard(app) == []
    assert [plan(app, table) for table in LINKS] == [[]] * len(LINKS)
    register(app)
    assert difference(before, dump(app, postgresql)) == ""
    assert [rows(app, f"SELECT ctid, xmin, * FROM flowguard.{t}") for t in ("master", "link", "rule")] == registry  # noqa: S608


def test_a_plan_changes_nothing(db: Connection, postgresql: Any) -> None:  # noqa: ANN401
    create(db)
    register(db)
    before = dump(db, postgresql)
    for table in LINKS:
        steps = plan(db, table)
        assert [step for step, *_ in steps] == list(range(1, len(steps) + 1))
        assert all(statement and lock for _, statement, lock, _ in steps)
    assert difference(before, dump(db, postgresql)) == ""


@pytest.mark.parametrize("state", ["a master", "links", "links that were guarded"])
def test_reverting_the_engine_forgets_what_is_only_registered(
    db: Connection,
    postgresql: Any,  # noqa: ANN401
    state: str,
) -> None:
    create(db)
    before = dump(db, postgresql)
    if state == "a master":
        run(db, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    else:
        register(db)
    if state == "links that were guarded":
        guard(db)
        for table in LINKS:
            run(db, "SELECT flowguard.unguard(%s::regclass, 'flow')", table)
    changes.revert(db.info.dsn)
    assert difference(before, dump(db, postgresql)) == ""
    assert rows(db, "SELECT FROM pg_namespace WHERE nspname = 'flowguard'") == []


def test_reverting_the_engine_under_guarded_links_is_refused_while_they_work(
    db: Connection,
    postgresql: Any,  # noqa: ANN401
) -> None:
    create(db)
    before = dump(db, postgresql)
    register(db)
    guard(db, "parent", "probe")
    with pytest.raises(ScriptFailed, match=r"^revert/privileges\.sql:\d+: ERROR FG112: ") as refusal:
        changes.revert(db.info.dsn)
    assert "They are: parent.flow, probe.flow." in str(refusal.value)
    # What came after it is gone by then; of what guards rest on, nothing.
    assert changes.status(db.info.dsn).having("deployed")[-1].label == "privileges @engine"
    run(db, "INSERT INTO parent VALUES (10, 1, 1)")
    changes.deploy(db.info.dsn)
    assert [plan(db, table) for table in ("parent", "probe")] == [[], []]
    run(db, "DELETE FROM parent")
    (remedy,) = re.findall(r'"(SELECT [^"]+)"', str(refusal.value))
    run(db, remedy)
    changes.revert(db.info.dsn)
    assert difference(before, dump(db, postgresql)) == ""


def test_a_revert_waits_for_a_link_that_is_being_guarded(db: Connection) -> None:
    create(db)
    register(db)
    waits = (
        "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
        "WHERE d.datname = current_database() AND NOT l.granted)"
    )
    with psycopg.connect(db.info.dsn) as guarding:
        guard(guarding, "parent")
        with beside(lambda: changes.revert(make_conninfo(db.info.dsn, options="-c lock_timeout=20s"))) as reverted:
            wait_until(lambda: bool(one(db, waits)), "the revert to wait")
            guarding.commit()
            with pytest.raises(ScriptFailed, match=r"^revert/privileges\.sql:\d+: ERROR FG112: "):
                reverted.result(PATIENCE)


@pytest.mark.parametrize("mode", ["observe", "enforce"])
@pytest.mark.parametrize("action", ["keep", "cascade", "set null"])
def test_unguard_leaves_the_application_as_it_was(
    db: Connection,
    postgresql: Any,  # noqa: ANN401
    mode: str,
    action: str,
) -> None:
    create(db)
    run(
        db,
        """
ALTER TABLE parent ADD CONSTRAINT kept FOREIGN KEY (flow) REFERENCES flow DEFERRABLE;
ALTER TABLE child ADD CONSTRAINT "not Valid" FOREIGN KEY (flow) REFERENCES flow ON DELETE RESTRICT NOT VALID;
COMMENT ON CONSTRAINT "not Valid" ON child IS 'it''s commented';
ALTER TABLE event ADD FOREIGN KEY (flow) REFERENCES flow (id) ON UPDATE CASCADE ON DELETE SET NULL;
CREATE INDEX ON probe (flow);
CREATE INDEX flow_by_time ON event (tenant, at, id);
ALTER TABLE parent ENABLE ROW LEVEL SECURITY;
""",
    )
    before = dump(db, postgresql)
    register(db, mode=mode, on_master_delete=action)
    guard(db)
    assert dump(db, postgresql) != before
    for table in reversed(LINKS):
        run(db, "SELECT flowguard.unguard(%s::regclass, 'flow')", table)
    forget(db, *LINKS, column="flow")
    assert difference(before, dump(db, postgresql)) == ""
    assert one(db, "SELECT count(*) FROM pg_proc WHERE obj_description(oid, 'pg_proc') LIKE 'Generated by%'") == 0
    assert one(db, "SELECT count(*) FROM pg_class WHERE obj_description(oid, 'pg_class') LIKE 'Generated by%'") == 0
    assert one(db, "SELECT count(*) FROM flowguard.replaced_constraint") == 0
    assert one(db, "SELECT flowguard.drop_master('flow')")


def test_unguard_of_one_link_leaves_the_others_guarded(app: Connection) -> None:
    run(app, "SELECT flowguard.unguard('child', 'flow')")
    assert [plan(app, table) for table in LINKS if table != "child"] == [[]] * 4
    run(app, "INSERT INTO parent VALUES (10, 1, 1)")
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    assert link(app, "child", 20) is None
    assert len(guard(app, "child")) > 0
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (21, 1, 10)")
    assert link(app, "child", 21) == 1


def test_unguard_twice(app: Connection) -> None:
    assert rows(app, "SELECT flowguard.unguard('child', 'flow')") != []
    assert rows(app, "SELECT flowguard.unguard('child', 'flow')") == []


def test_the_report_s_schema_comes_back_to_the_byte(
    guarded_report: str,
    report_db: str,
    postgresql: Any,  # noqa: ANN401
) -> None:
    tables = ("assets", "discovery_flows", "import_field_mappings", "raw_import_records", "data_imports")
    with psycopg.connect(report_db, autocommit=True) as before, psycopg.connect(guarded_report, autocommit=True) as db:
        assert dump(db, postgresql) != dump(before, postgresql)
        for table in tables:
            run(db, "SELECT flowguard.unguard(%s::regclass)", f"migration.{table}")
        forget(db, *(f"migration.{table}" for table in tables), column="master_flow_id")
        assert difference(dump(before, postgresql), dump(db, postgresql)) == ""


# --- Keys that the application has


def test_a_key_that_says_the_same_is_kept(db: Connection) -> None:
    create(db)
    run(db, "ALTER TABLE parent ADD CONSTRAINT own FOREIGN KEY (flow) REFERENCES flow ON DELETE CASCADE")
    register(db, on_master_delete="cascade")
    guard(db)
    assert keys(db, "parent")["own"] == ("FOREIGN KEY (flow) REFERENCES flow(id) ON DELETE CASCADE", True)
    beside = keys(db, "parent")["flowguard_parent_flow_tenant_fkey"][0]
    assert beside == "FOREIGN KEY (tenant, flow) REFERENCES flow(tenant, id) DEFERRABLE INITIALLY DEFERRED"


def test_a_key_that_says_otherwise_is_replaced_and_restored(db: Connection) -> None:
    create(db)
    run(
        db,
        "ALTER TABLE parent ADD CONSTRAINT own FOREIGN KEY (flow) REFERENCES flow NOT VALID; "
        "COMMENT ON CONSTRAINT own ON parent IS 'mine'",
    )
    register(db, on_master_delete="cascade")
    guard(db)
    assert "own" not in keys(db, "parent")
    assert "ON DELETE CASCADE" in keys(db, "parent")["flowguard_parent_flow_tenant_fkey"][0]
    run(db, "SELECT flowguard.unguard('parent', 'flow')")
    assert keys(db, "parent") == {"own": ("FOREIGN KEY (flow) REFERENCES flow(id) NOT VALID", False)}
    assert one(db, "SELECT obj_description(oid) FROM pg_constraint WHERE conname = 'own'") == "mine"


def test_a_replaced_key_comes_back_not_valid_where_rows_violate_it(db: Connection) -> None:
    create(db)
    run(db, "INSERT INTO parent VALUES (10, 1, 404)")
    run(db, "ALTER TABLE parent ADD CONSTRAINT own FOREIGN KEY (flow) REFERENCES flow NOT VALID")
    register(db, on_master_delete="cascade")
    guard(db)
    run(db, "SELECT flowguard.unguard('parent', 'flow')")
    assert keys(db, "parent")["own"][1] is False


def test_a_key_to_another_column_is_refused(db: Connection) -> None:
    create(db)
    run(db, "ALTER TABLE flow ADD other integer UNIQUE")
    run(db, "ALTER TABLE parent ADD CONSTRAINT own FOREIGN KEY (flow) REFERENCES flow (other)")
    register(db)
    with refused("FG109") as refusal:
        guard(db, "parent")
    refusal.says("own", "other", "DROP CONSTRAINT own")
    assert one(db, "SELECT NOT guarded FROM flowguard.link WHERE relation = 'parent'::regclass")


# --- NOT VALID


def test_keys_that_present_rows_violate_bind_new_rows_and_are_validated_later(db: Connection) -> None:
    create(db)
    run(db, "INSERT INTO parent VALUES (10, 1, 404), (11, 1, 9)")
    register(db)
    said: list[str] = []
    db.add_notice_handler(lambda diagnostic: said.append(f"{diagnostic.message_primary} {diagnostic.message_hint}"))
    guard(db)
    assert any("stays NOT VALID" in text and "flowguard.repair" in text for text in said)
    assert keys(db, "parent")["flowguard_parent_flow_tenant_fkey"][1] is False
    with refused("23503"):
        run(db, "INSERT INTO parent VALUES (12, 1, 404)")
    # What is still missing is the validation alone.
    assert [statement.split()[3] for _, statement, _, _ in plan(db, "parent")] == ["VALIDATE"]
    run(db, "UPDATE parent SET flow = 1")
    guard(db, "parent")
    assert keys(db, "parent")["flowguard_parent_flow_tenant_fkey"][1] is True
    assert plan(db, "parent") == []


# --- Online


def test_the_plan_runs_statement_by_statement(db: Connection, guarded: Guarded, postgresql: Any) -> None:  # noqa: ANN401
    create(db)
    register(db)
    for table in LINKS:
        run_plan(db, table)
    assert [plan(db, table) for table in LINKS] == [[]] * len(LINKS)
    assert guard(db) == []
    assert difference(dump(guarded("observe"), postgresql), dump(db, postgresql)) == ""


def test_the_plan_may_stop_anywhere_and_go_on(db: Connection, guarded: Guarded, postgresql: Any) -> None:  # noqa: ANN401
    create(db)
    register(db)
    for table in LINKS:
        while steps := plan(db, table):
            run(db, steps[0][1])
            # Writes go on in between.
            run(db, "INSERT INTO parent SELECT coalesce(max(id), 0) + 1, 1, 1 FROM parent")
    run(db, "DELETE FROM parent")
    assert difference(dump(guarded("observe"), postgresql), dump(db, postgresql)) == ""


def test_indexes_are_built_concurrently_online_only(db: Connection) -> None:
    create(db)
    register(db)
    online = [(statement, alone) for _, statement, _, alone in plan(db, "probe") if "INDEX" in statement]
    assert online
    assert all("CONCURRENTLY" in statement and not in_transaction for statement, in_transaction in online)
    assert all("CONCURRENTLY" not in statement for _, statement, _, _ in guard(db, "probe"))


def test_an_invalid_index_is_built_again(app: Connection, as_role: Callable[[str, str], str]) -> None:
    name = "flowguard_child_flow_idx"
    run(app, "UPDATE flow SET created_at = NULL")
    with psycopg.connect(as_role(app.info.dsn, "postgres"), autocommit=True) as admin:
        run(admin, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", name)
    steps = [statement for _, statement, _, _ in plan(app, "child")]
    assert [step.split(" ON ")[0] for step in steps] == [
        f"DROP INDEX CONCURRENTLY public.{name}",
        f"CREATE INDEX CONCURRENTLY {name}",
    ]
    run_plan(app, "child")
    assert plan(app, "child") == []
    assert one(app, "SELECT indisvalid FROM pg_index WHERE indexrelid = %s::regclass", name)


def test_what_create_index_concurrently_leaves_behind_is_built_again(db: Connection) -> None:
    create(db)
    register(db)
    name = next(s for _, s, _, _ in plan(db, "child") if "flowguard_child_flow_idx" in s)
    with psycopg.connect(db.info.dsn) as writer:
        writer.execute("INSERT INTO child (id, tenant) VALUES (20, 1)")
        run(db, "SET statement_timeout = '300ms'")
        with refused("57014"):
            run(db, name)
    run(db, "RESET statement_timeout")
    assert not one(db, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'flowguard_child_flow_idx'::regclass")
    run_plan(db, "child")
    assert plan(db, "child") == []


# --- What changes under it


def test_a_disabled_trigger_is_enabled_again(app: Connection) -> None:
    run(app, 'ALTER TABLE child DISABLE TRIGGER "~flowguard_child_flow_insert"')
    run(app, 'ALTER TABLE child ENABLE REPLICA TRIGGER "~flowguard_child_flow_update"')
    run(app, 'ALTER TABLE child ENABLE ALWAYS TRIGGER "~flowguard_child_flow_commit"')
    assert len(plan(app, "child")) == 3
    guard(app, "child")
    assert plan(app, "child") == []
    states = rows(app, "SELECT DISTINCT tgenabled FROM pg_trigger WHERE tgname LIKE '~flowguard%'")
    assert states == [("O",)]


def test_a_trigger_of_other_words_is_replaced(app: Connection) -> None:
    run(
        app,
        'CREATE OR REPLACE TRIGGER "~flowguard_child_flow_insert" BEFORE INSERT ON child FOR EACH ROW '
        "WHEN (NEW.id < 0) EXECUTE FUNCTION flowguard.child_flow_fill()",
    )
    run(app, "INSERT INTO parent VALUES (10, 1, 1)")
    assert len(plan(app, "child")) == 1
    guard(app, "child")
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    assert link(app, "child", 20) == 1


@pytest.mark.parametrize(
    "damage",
    [
        'DROP TRIGGER "~flowguard_child_flow_commit" ON child',
        'DROP TRIGGER "~flowguard~parent_followers_update" ON parent',
        'COMMENT ON TRIGGER "~flowguard~parent_followers_update" ON parent IS NULL',
        "DROP FUNCTION flowguard.parent_followers() CASCADE",
        (
            "CREATE OR REPLACE FUNCTION flowguard.parent_followers() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
            "AS 'BEGIN RETURN NULL; END'"
        ),
        "ALTER FUNCTION flowguard.parent_followers() SECURITY INVOKER",
        (
            "CREATE OR REPLACE FUNCTION flowguard.child_flow_fill() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
            "AS 'BEGIN RETURN NEW; END'"
        ),
        "ALTER FUNCTION flowguard.child_flow_fill() SECURITY INVOKER",
        "ALTER FUNCTION flowguard.child_flow_fill() SET search_path = public",
        "ALTER TABLE child DROP CONSTRAINT flowguard_child_flow_tenant_fkey",
        "DROP INDEX flowguard_child_flow_idx",
        "DROP INDEX flowguard_child_parent_idx",
        "UPDATE flowguard.link SET guarded = false WHERE relation = 'child'::regclass",
        'COMMENT ON TRIGGER "~flowguard_child_flow_commit" ON child IS NULL',
    ],
)
def test_whatever_is_damaged_is_in_the_plan_and_mended(
    app: Connection,
    guarded: Guarded,
    postgresql: Any,  # noqa: ANN401
    damage: str,
) -> None:
    run(app, damage)
    assert len(plan(app, "child")) >= 1
    guard(app, "child")
    assert plan(app, "child") == []
    assert difference(dump(guarded("observe"), postgresql), dump(app, postgresql)) == ""


def test_a_dropped_rule_with_a_filter_goes_on_until_guard(app: Connection) -> None:
    """What the generated code reads stays as long as it reads it; no write fails in between."""
    run(app, "INSERT INTO event (id, tenant, flow, at) VALUES (1, 1, 3, '2025-01-01 12:00+00')")
    views = "SELECT count(*) FROM pg_views WHERE schemaname = 'flowguard' AND viewname LIKE 'probe%'"
    for rule in (1, 2):
        run(app, "INSERT INTO probe (id, tenant, at) VALUES (%s, 1, '2025-01-01 12:10+00')", rule)
        run(app, "SELECT flowguard.drop_rule('probe', 1, 'flow')")
    assert links(app, "probe") == {1: 3, 2: 3}
    assert one(app, views) == 1
    guard(app, "probe")
    assert plan(app, "probe") == []
    assert one(app, views) == 0
    run(app, "INSERT INTO probe (id, tenant, at) VALUES (3, 1, '2025-01-01 12:10+00')")
    assert links(app, "probe") == {1: 3, 2: 3, 3: None}


def test_a_rule_that_is_added_or_dropped_is_made_so_by_guard(app: Connection) -> None:
    add_reference(app, "probe", "id", "event", agree=False, position=1)
    assert plan(app, "probe") != []
    guard(app, "probe")
    run(app, "INSERT INTO event VALUES (1, 1, 3)")
    run(app, "INSERT INTO probe (id, tenant) VALUES (1, 1)")
    assert links(app, "probe") == {1: 3}
    run(app, "SELECT flowguard.drop_rule('probe', 1, 'flow')")
    assert plan(app, "probe") != []
    guard(app, "probe")
    assert plan(app, "probe") == []
    run(app, "INSERT INTO event VALUES (2, 1, 3)")
    run(app, "INSERT INTO probe (id, tenant) VALUES (2, 1)")
    assert links(app, "probe") == {1: 3, 2: None}


@pytest.mark.parametrize(
    ("change", "insert"),
    [
        ("ALTER TABLE parent RENAME TO elder", "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)"),
        ("ALTER TABLE child RENAME TO offspring", "INSERT INTO offspring (id, tenant, parent) VALUES (20, 1, 10)"),
        ("ALTER TABLE flow RENAME TO stream", "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)"),
        (
            "CREATE SCHEMA elsewhere; ALTER TABLE parent SET SCHEMA elsewhere",
            "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)",
        ),
    ],
    ids=["source", "child", "master", "schema"],
)
def test_a_rename_fails_closed_until_guard_runs(app: Connection, change: str, insert: str) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, 1)")
    run(app, insert.replace("offspring", "child").replace("20", "19"))
    run(app, change)
    # A session that has the function at hand may go on as before; every other one is refused.
    with psycopg.connect(app.info.dsn, autocommit=True) as fresh, refused("42P01"):
        run(fresh, insert)
    (child,) = rows(app, "SELECT relation::text FROM flowguard.link WHERE stem = 'child_flow'")
    guard(app, child[0])
    run(app, insert)
    assert link(app, child[0], 20) == 1
    assert plan(app, child[0]) == []


def test_a_table_that_takes_the_name_of_a_renamed_one(guarded: Guarded) -> None:
    db = guarded("enforce", own=True)
    run(db, "ALTER TABLE child RENAME TO child_old; CREATE TABLE child (LIKE child_old INCLUDING ALL)")
    with psycopg.connect(db.info.dsn, autocommit=True) as fresh:
        for connection in (db, fresh):
            with pytest.raises(psycopg.Error) as caught:
                run(connection, "INSERT INTO child_old (id, tenant) VALUES (20, 1)")
            assert (caught.value.sqlstate or "").startswith(("FG", "42P01"))


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE parent RENAME flow TO stream",
        "ALTER TABLE child RENAME parent TO elder",
        "ALTER TABLE child RENAME tenant TO customer",
        "ALTER TABLE child RENAME flow TO stream",
    ],
)
def test_a_renamed_column_is_never_silently_ignored(app: Connection, change: str) -> None:
    run(app, "INSERT INTO parent (id, tenant) VALUES (10, 1)")
    run(app, "UPDATE parent SET flow = 1")
    run(app, change)
    elder = "elder" if "elder" in change else "parent"
    tenant = "customer" if "customer" in change else "tenant"
    with pytest.raises(psycopg.Error) as caught:
        run(app, f"INSERT INTO child (id, {tenant}, {elder}) VALUES (20, 1, 10)")  # noqa: S608  names of this test
    assert caught.value.sqlstate == "42703"
    with refused("FG102"):
        plan(app, "child")


# --- Who may


def test_an_ordinary_owner_installs_and_guards(app: Connection) -> None:
    assert not one(app, "SELECT rolsuper OR rolbypassrls OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
    owners = rows(
        app, "SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'flowguard'::regnamespace"
    )
    assert owners == [("app_owner",)]


def test_forced_row_security_is_refused(db: Connection) -> None:
    create(db)
    register(db)
    for table in ("parent", "flow"):
        run(db, f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        with refused("FG110") as refusal:
            guard(db, "child")
        refusal.says(f"row security hides rows of table public.{table}", "NO FORCE ROW LEVEL SECURITY", "BYPASSRLS")
        with refused("FG110"):
            plan(db, "child")
        run(db, f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    guard(db)


def test_who_does_not_own_the_tables_is_refused(db: Connection, as_role: Callable[[str, str], str]) -> None:
    create(db)
    register(db)
    with psycopg.connect(as_role(db.info.dsn, "postgres"), autocommit=True) as admin:
        run(admin, "ALTER TABLE parent OWNER TO postgres")
    with refused("FG110") as refusal:
        guard(db, "child")
    refusal.says("app_owner does not own table", "parent")
    with psycopg.connect(as_role(db.info.dsn, "postgres"), autocommit=True) as admin:
        run(admin, "ALTER TABLE parent OWNER TO app_owner; ALTER TABLE flow OWNER TO postgres")
    with refused("FG110") as refusal:
        guard(db, "child")
    refusal.says("GRANT SELECT")


def test_a_superuser_may_guard_for_the_owner(db: Connection, as_role: Callable[[str, str], str]) -> None:
    create(db)
    register(db)
    run(db, "ALTER TABLE parent ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    with psycopg.connect(as_role(db.info.dsn, "postgres"), autocommit=True) as admin:
        guard(admin)


@pytest.mark.parametrize("client", [None, "", "1"], ids=["unset", "empty", "set"])
def test_row_security_hides_nothing_from_the_rules(
    app: Connection, as_role: Callable[[str, str], str], client: str | None
) -> None:
    run(
        app,
        """
ALTER TABLE parent ENABLE ROW LEVEL SECURITY;
ALTER TABLE event ENABLE ROW LEVEL SECURITY;
ALTER TABLE flow ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON parent USING (tenant = current_setting('app.client', true)::integer);
CREATE POLICY tenant_isolation ON event USING (tenant = current_setting('app.client', true)::integer);
CREATE POLICY tenant_isolation ON flow USING (tenant = current_setting('app.client', true)::integer);
INSERT INTO parent VALUES (10, 1, 1), (11, 2, 9), (12, 1, NULL);
INSERT INTO event VALUES (50, 1, 2, 'live', '2025-01-01 00:00Z');
""",
    )
    with psycopg.connect(as_role(app.info.dsn, "postgres"), autocommit=True) as admin:
        run(
            admin,
            """
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tenant_writer') THEN CREATE ROLE tenant_writer LOGIN; END IF;
END $$;
GRANT SELECT, INSERT, UPDATE, DELETE ON parent, child, probe TO tenant_writer;
""",
        )
    with psycopg.connect(as_role(app.info.dsn, "tenant_writer"), autocommit=True) as writer:
        if client is not None:
            run(writer, "SELECT set_config('app.client', %s, false)", client)
        run(writer, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 1, 12)")
        run(writer, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:10Z')")
        with refused("23503"):
            run(writer, "INSERT INTO probe (id, tenant, flow) VALUES (2, 1, 9)")
        assert (links(writer, "child"), links(writer, "probe")) == ({20: 1, 21: None}, {1: 2})
        if client == "1":
            # Late linking from within the policy reaches what the writer may write.
            run(writer, "UPDATE parent SET flow = 3 WHERE id = 12")
            assert links(writer, "child") == {20: 1, 21: 3}


def test_guarding_what_is_not_registered(db: Connection) -> None:
    create(db)
    for call in ("guard", "guard_plan", "unguard"):
        with refused("FG107") as refusal:
            run(db, f"SELECT flowguard.{call}('child', 'flow')")
        refusal.says("flowguard.add_link(")


def test_a_guarded_link_cannot_be_dropped(app: Connection) -> None:
    with refused("FG112") as refusal:
        run(app, "SELECT flowguard.drop_link('child', 'flow')")
    refusal.says("flowguard.unguard(")
    with refused("FG112") as refusal:
        run(app, "SELECT flowguard.drop_master('flow')")
    refusal.says("flowguard.drop_link(")


def test_guard_inside_a_transaction_that_rolls_back_leaves_nothing(db: Connection, postgresql: Any) -> None:  # noqa: ANN401
    create(db)
    register(db)
    before = dump(db, postgresql)
    run(db, "BEGIN")
    guard(db)
    run(db, "ROLLBACK")
    assert difference(before, dump(db, postgresql)) == ""
    assert one(db, "SELECT count(*) FROM flowguard.link WHERE guarded") == 0
