"""Row security that is forced, roles without rights on `flowguard`, and owners who may create no role."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import psycopg
import pytest
from engine import tables
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import link, links
from neighbours.promises import kept
from psycopg import sql
from psycopg.conninfo import make_conninfo
from repair.calls import repair, undo

from pyflowguard import changes

if TYPE_CHECKING:
    from conftest import Databases

TABLES = "flow, parent, child, grandchild, event, probe"
TENANT = "nullif(current_setting('app.tenant', true), '')::integer"

Connect = Callable[[str], Connection]


@pytest.fixture
def connect(engine_db: str, as_role: Callable[[str, str], str]) -> Iterator[Connect]:
    """Connect to a database of the test's own as a role, which is made where it is not there; it may log in only."""
    with ExitStack() as stack:

        def open_as(role: str) -> Connection:
            with psycopg.connect(as_role(engine_db, "postgres"), autocommit=True) as admin:
                name = sql.Identifier(role)
                if not rows(admin, "SELECT FROM pg_roles WHERE rolname = %s", role):
                    run(admin, sql.SQL("CREATE ROLE {} LOGIN").format(name))
            return stack.enter_context(psycopg.connect(as_role(engine_db, role), autocommit=True))

        yield open_as


@pytest.fixture
def forced(connect: Connect) -> Connect:
    """The small application, enforced; row security is on and FORCED; `forced_writer` may write, `forced_guard` guards.

    forced_guard owns the tables, has BYPASSRLS, and is no superuser: the owner himself is bound by row security.
    """
    admin, owner = connect("postgres"), connect("app_owner")
    connect("forced_guard")
    connect("forced_writer")
    run(admin, "ALTER ROLE forced_guard BYPASSRLS; GRANT app_owner TO forced_guard")
    tables.create(owner)
    tables.register(owner, mode="enforce")
    for table in TABLES.split(", "):
        run(owner, f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        run(owner, f"CREATE POLICY own ON {table} USING (tenant = {TENANT})")
    run(owner, f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLES} TO forced_writer")
    with refused("FG110") as refusal:
        tables.guard(owner)
    refusal.says("row security hides rows", "BYPASSRLS")
    tables.guard(connect("forced_guard"))
    return connect


# What each tenant setting lets the writer do: with none it may write no row at all, and guess nothing.
@pytest.mark.parametrize("setting", [None, "", "1"], ids=["unset", "empty", "set"])
def test_forced_row_security(forced: Connect, setting: str | None) -> None:
    guard, writer = forced("forced_guard"), forced("forced_writer")
    run(guard, "INSERT INTO parent VALUES (10, 1, 1), (11, 2, 9)")
    if setting is not None:
        run(writer, "SELECT set_config('app.tenant', %s, false)", setting)
    writes = (
        "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)",
        "INSERT INTO event VALUES (50, 1, 2, 'live', '2025-01-01 00:00Z')",
        "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:10Z')",
    )
    for write in writes:
        if setting == "1":
            run(writer, write)
        else:
            with refused("42501"):
                run(writer, write)
    run(writer, "UPDATE parent SET flow = 3")
    if setting != "1":
        assert (links(writer, "parent"), links(guard, "parent"), links(guard, "child")) == ({}, {10: 1, 11: 9}, {})
        return
    assert (links(guard, "parent"), links(guard, "child"), links(guard, "probe")) == ({10: 3, 11: 9}, {20: 3}, {1: 2})
    with refused("FG001") as refusal:
        run(writer, "INSERT INTO probe (id, tenant, at) VALUES (2, 1, '2024-01-01 00:00Z')")
    refusal.says("table public.probe", "tenant = 1")
    for wrong in (9, 404):
        with refused("23503"):
            run(writer, "INSERT INTO parent VALUES (12, 1, %s)", wrong)


# What the writer may be told of a row that is another tenant's: nothing, whether it is there or not.
GUESSES = (
    "INSERT INTO child (id, tenant, parent) VALUES (20, 2, 11)",
    "INSERT INTO parent VALUES (12, 1, 9)",
    "INSERT INTO parent VALUES (12, 2, 9)",
    "INSERT INTO probe (id, tenant, at) VALUES (2, 1, '2025-01-01 00:00Z')",
    "INSERT INTO probe (id, tenant, at) VALUES (2, NULL, '2025-01-01 00:00Z')",
    "BEGIN; SET LOCAL flowguard.flow = 9; INSERT INTO parent VALUES (12, 1); COMMIT",
    "UPDATE parent SET flow = 9 WHERE id = 10",
    "UPDATE parent SET tenant = 2 WHERE id = 10",
    "DELETE FROM flow WHERE id = 1",
)


def heard(connection: Connection, statement: str) -> list[str]:
    """Give all that the server says to a statement: each part of each notice and of the error."""
    said: list[psycopg.errors.Diagnostic] = []
    connection.add_notice_handler(said.append)
    try:
        run(connection, statement)
    except psycopg.Error as error:
        said.append(error.diag)
        run(connection, "ROLLBACK")
    connection.remove_notice_handler(said.append)
    parts = ("sqlstate", "message_primary", "message_detail", "message_hint", "context")
    return [f"{part}: {getattr(one, part)}" for one in said for part in parts]


def test_no_message_tells_of_another_tenants_rows(forced: Connect) -> None:
    """The same guesses beside an empty tenant and beside one that has what is guessed; and nothing in the views."""
    guard, writer = forced("forced_guard"), forced("forced_writer")
    run(writer, "SET app.tenant = '1'")
    run(guard, "INSERT INTO parent VALUES (10, 1, 1)")
    secret = "x-of-the-other-tenant"  # noqa: S105  no secret
    for guess in ("SELECT 1", *GUESSES):
        alone = heard(writer, guess)
        run(guard, "BEGIN; INSERT INTO parent VALUES (11, 2, 9, 'x-of-the-other-tenant')")
        run(guard, "INSERT INTO event VALUES (51, 2, 9, 'live', '2025-01-01 00:00Z', 'x-of-the-other-tenant'); COMMIT")
        beside = heard(writer, guess)
        run(guard, "DELETE FROM parent WHERE id = 11; DELETE FROM event WHERE id = 51")
        run(guard, "DELETE FROM parent WHERE id > 10; DELETE FROM probe")
        assert alone == beside, guess
        assert not [line for line in beside if secret in line], guess
    for view in ("violation", "link_status", "health_category", "run", "run_change", "quarantine", "link", "rule"):
        with refused("42501"):
            run(writer, f"SELECT * FROM flowguard.{view}")  # noqa: S608  names of this test
    for call in ("check_all()", "health_score()", "guard_plan('child', 'flow')", "bypass('please')", "version()"):
        with refused("42501"):
            run(writer, f"SELECT flowguard.{call}")


def test_repair_and_undo_by_who_is_not_bound_by_row_security(forced: Connect) -> None:
    guard = forced("forced_guard")
    for table in ("parent", "child"):
        run(guard, "SELECT flowguard.set_mode(%s, 'observe', 'flow')", table)
    run(guard, "SELECT flowguard.pause('child', 'flow'); INSERT INTO parent VALUES (10, 1, 1), (11, 2, 9)")
    run(guard, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 2, 11)")
    run(guard, "SELECT flowguard.resume('child', 'flow')")
    owner = forced("app_owner")
    with refused("42501"):
        run(owner, "CALL flowguard.repair('child', link_column => 'flow')")
    done = repair(guard, "child", link_column="flow")
    assert (done.linked, links(guard, "child")) == (2, {20: 1, 21: 9})
    assert undo(guard, done.id) == (2, 0, 0)


# --- Roles, and owners who may little


@pytest.fixture
def own_server_roles(connect: Connect) -> Iterator[Connection]:
    """The roles flowguard_admin and flowguard_viewer as an administrator makes them afterwards, gone after the test."""
    admin = connect("postgres")
    made = [
        role
        for role in ("flowguard_admin", "flowguard_viewer")
        if not rows(admin, "SELECT FROM pg_roles WHERE rolname = %s", role)
    ]
    for role in made:
        run(admin, f"CREATE ROLE {role} NOLOGIN")
    yield admin
    for role in made:
        run(admin, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_roles_that_an_administrator_makes_later(connect: Connect, own_server_roles: Connection) -> None:
    """The hint of the notice, followed: then a viewer reads figures, and an admin of the tables does all there is."""
    owner, viewer, deputy = connect("app_owner"), connect("role_viewer"), connect("role_deputy")
    tables.guarded(owner)
    run(owner, "INSERT INTO parent (id, tenant) VALUES (10, 1)")
    assert one(owner, "SELECT count(*) FROM flowguard.grant_roles()") == 2
    run(own_server_roles, "GRANT flowguard_viewer TO role_viewer; GRANT flowguard_admin TO role_deputy")
    for query in ("violation", "link_status", "health_category", "check_all()", "health_score()", "run"):
        assert rows(viewer, f"SELECT * FROM flowguard.{query}") is not None  # noqa: S608  names of this test
    assert rows(viewer, "SELECT kind FROM flowguard.violation") == [("unlinked",)]
    for call in (
        "SELECT flowguard.bypass('x')",
        "DELETE FROM flowguard.link",
        "CALL flowguard.repair()",
        "TABLE parent",
    ):
        with refused("42501"):
            run(viewer, call)
    with refused("FG110") as refusal:
        run(deputy, "SELECT flowguard.guard('child', 'flow')")
    refusal.says("role_deputy does not own table public.child", "GRANT app_owner TO role_deputy")
    run(own_server_roles, "GRANT SELECT, UPDATE ON parent, child, flow, event, probe, grandchild TO role_deputy")
    assert repair(deputy).remaining == 1
    run(own_server_roles, "REVOKE ALL ON parent, child, flow, event, probe, grandchild FROM role_deputy")


def test_who_owns_the_tables_and_not_the_schema(connect: Connect, own_server_roles: Connection) -> None:
    """The engine is one role's, the tables another's: what is missing is said with the GRANT, until nothing is."""
    schema_owner, owner = connect("app_owner"), connect("table_owner")
    run(own_server_roles, "GRANT flowguard_admin TO table_owner; CREATE SCHEMA theirs AUTHORIZATION table_owner")
    run(schema_owner, "SELECT flowguard.grant_roles()")
    run(owner, "SET search_path = theirs")
    tables.create(owner)
    with refused("FG110"):
        tables.register(owner)
    with refused("FG110") as planned:
        run(owner, "SELECT flowguard.guard_plan('child', 'flow')")
    with refused("FG110") as refusal:
        run(owner, "SELECT flowguard.guard('child', 'flow')")
    assert planned.hint == refusal.hint
    refusal.says("table_owner may not create functions in schema flowguard", "Let app_owner run")
    run(schema_owner, refusal.hint.split('"')[1])
    tables.register(owner)
    tables.guard(owner)
    run(owner, "INSERT INTO parent VALUES (10, 1); INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    run(owner, "UPDATE parent SET flow = 1")
    assert link(owner, "child", 20) == 1
    run(schema_owner, "REVOKE CREATE ON SCHEMA flowguard FROM table_owner")
    with refused("FG110"):
        run(owner, "SELECT flowguard.pause('child', 'flow')")
    for table in reversed(tables.LINKS):
        run(owner, "SELECT flowguard.unguard(%s::regclass, 'flow')", table)
    # The views read with the rights of who deployed the engine.
    run(owner, "GRANT USAGE ON SCHEMA theirs TO app_owner; GRANT SELECT ON ALL TABLES IN SCHEMA theirs TO app_owner")
    kept(schema_owner)


@pytest.mark.usefixtures("own_server_roles")
def test_an_upgrade_gives_no_rights_on_what_guard_made(engine_db: str, connect: Connect) -> None:
    """A view of a filter shows an application's rows; the roles got no rights on it when it was made, and get none."""
    rights = """
        SELECT c.relname, c.relacl::text FROM pg_class c
         WHERE obj_description(c.oid, 'pg_class') LIKE 'Generated by PyFlowGuard%%'
        UNION ALL
        SELECT p.proname, p.proacl::text FROM pg_proc p
         WHERE obj_description(p.oid, 'pg_proc') LIKE 'Generated by PyFlowGuard%%' ORDER BY 1
    """
    changes.revert(engine_db, to="@v1.0.0")
    owner = connect("app_owner")
    run(owner, "SELECT flowguard.grant_roles()")
    tables.guarded(owner)
    older = rows(owner, rights)
    assert any("_source_" in name for name, _ in older)
    changes.deploy(engine_db)
    before = rows(owner, rights)  # with what this release has beside it
    assert {right for _, right in before} == {right for _, right in older}
    assert {name for name, _ in before} > {name for name, _ in older if "_follow_" not in name}
    run(owner, "SELECT flowguard.grant_roles()")
    given = dict(set(rows(owner, rights)) - set(before))
    assert given  # who repairs as an admin reads the views of filters; a viewer does not, and nobody writes there
    assert all("_source_" in name and "flowguard_admin=r/" in rights for name, rights in given.items())
    assert not any("flowguard_viewer" in rights for rights in given.values())


def test_the_owner_of_the_schema_upgrades_where_another_guards(
    engine_db: str, connect: Connect, own_server_roles: Connection
) -> None:
    """What guard() made belongs to whoever called it: the deployer has no rights on it, and needs none."""
    changes.revert(engine_db, to="@v1.0.0")
    connect("table_owner")
    with psycopg.connect(engine_db, autocommit=True) as schema_owner:
        run(
            schema_owner,
            "GRANT CREATE ON SCHEMA flowguard TO table_owner; GRANT CREATE ON SCHEMA public TO table_owner",
        )
        run(schema_owner, "SELECT flowguard.grant_roles()")
        run(own_server_roles, "GRANT flowguard_admin TO table_owner")
        with psycopg.connect(make_conninfo(engine_db, user="table_owner"), autocommit=True) as owner:
            tables.guarded(owner)
            with refused("42501"):
                run(schema_owner, "SELECT flowguard.grant_roles()")  # as 1.0.0 has it
            changes.deploy(engine_db)
            assert one(schema_owner, "SELECT count(*) FROM flowguard.grant_roles()") == 2
            run(owner, "SELECT flowguard.keep_provenance('probe', 'flow'), flowguard.guard('probe', 'flow')")
            run(owner, "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01')")
            run(owner, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01')")
            assert rows(owner, "SELECT new_link FROM flowguard.provenance") == [("1",)]
            for table in reversed(tables.LINKS):
                run(owner, "SELECT flowguard.unguard(%s::regclass, 'flow')", table)
        changes.revert(engine_db, to="@v1.0.0")


def test_a_plain_owner_installs_guards_and_repairs(
    databases: Databases, as_role: Callable[[str, str], str], connect: Connect
) -> None:
    """He may create schemas in the database, and nothing more: no role, no extension, no other database."""
    connect("plain_owner")
    with databases.new() as dsn:
        with psycopg.connect(as_role(dsn, "postgres"), autocommit=True) as admin:
            (name,) = rows(admin, "SELECT current_database()")
            run(admin, sql.SQL("ALTER DATABASE {} OWNER TO postgres").format(sql.Identifier(name[0])))
            run(admin, sql.SQL("GRANT CREATE ON DATABASE {} TO plain_owner").format(sql.Identifier(name[0])))
            run(admin, "CREATE SCHEMA work AUTHORIZATION plain_owner")
        mine = as_role(dsn, "plain_owner")
        said: list[str] = []
        changes.deploy(mine, on_notice=lambda notice: said.append(str(notice)))
        with psycopg.connect(mine, autocommit=True) as owner:
            assert not one(
                owner,
                "SELECT rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb FROM pg_roles "
                "WHERE rolname = current_user",
            )
            if not rows(owner, "SELECT FROM pg_roles WHERE rolname = 'flowguard_admin'"):
                assert any("flowguard_admin was not created" in text for text in said), said
            run(owner, "SET search_path = work")
            tables.create(owner)
            run(owner, "INSERT INTO parent VALUES (10, 1, 1), (11, 1, 77)")
            run(owner, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
            tables.register(owner)
            tables.guard(owner)
            done = repair(owner)
            assert (done.linked, done.quarantined, done.remaining) == (1, 1, 0)
            tables.guard(owner)
            kept(owner)
            for table in reversed(tables.LINKS):
                run(owner, "SELECT flowguard.unguard(%s::regclass, 'flow')", table)
            assert undo(owner, done.id)[1:] == (0, 0)
            for table in tables.LINKS:
                run(owner, "SELECT flowguard.drop_link(%s::regclass, 'flow')", table)
        changes.revert(mine)
