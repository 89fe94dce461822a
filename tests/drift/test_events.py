"""The optional event triggers: DDL that lets a guard drift is written down, and no DDL fails because of them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from drift.conftest import EVENTS
from drift.defects import DEFECTS, Defect, findings, follow
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import guard
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pyflowguard import changes, online
from pyflowguard.errors import ScriptFailed

if TYPE_CHECKING:
    from conftest import Databases, TestPostgresql

AT_ONCE = timedelta(seconds=1)


@pytest.fixture
def owner(events_db: str) -> Iterator[Connection]:
    """Connect as the plain owner to the small application, watched."""
    with psycopg.connect(events_db, autocommit=True) as connection:
        yield connection


@pytest.fixture
def root(events_db: str) -> Iterator[Connection]:
    """Connect to the same database as the superuser."""
    with psycopg.connect(make_conninfo(events_db, user="postgres"), autocommit=True) as connection:
        yield connection


def events(connection: Connection) -> list[tuple[str, str | None]]:
    """Give what was written down: the statement, and the kinds of what doctor found, in order."""
    query = (
        "SELECT command_tag, (SELECT string_agg(DISTINCT split_part(k, ':', 1), ' ') FROM unnest(cache_keys) k) "
        "FROM flowguard.drift_event ORDER BY event_id"
    )
    return [(tag, kinds) for tag, kinds in rows(connection, query)]


def heard(connection: Connection) -> set[str]:
    """Give the kinds of what doctor found about what was written down."""
    return {kind for _, kinds in events(connection) for kind in (kinds or "").split()}


@pytest.mark.parametrize(
    "defect", [d for d in DEFECTS.values() if d.is_ddl], ids=[name for name, d in DEFECTS.items() if d.is_ddl]
)
def test_a_defect_is_written_down_at_once(owner: Connection, root: Connection, defect: Defect) -> None:
    by = root if defect.by_superuser else owner
    run(by, f"SET application_name = 'migration 7'; {defect.plant}")
    assert defect.name in heard(owner), events(owner)
    for who, application, level, description in rows(
        owner, "SELECT done_by, application, level, description FROM flowguard.drift_event"
    ):
        assert (who, application) == (by.info.user, "migration 7")
        assert level in {"ERROR", "WARN"}
        assert description
    keys = {key for (key,) in rows(owner, "SELECT unnest(cache_keys) FROM flowguard.drift_event")}
    assert keys <= {finding["cache_key"] for finding in findings(owner)}


def test_it_is_there_within_a_second(owner: Connection, root: Connection) -> None:
    """With the commit, and the commit takes no longer; the best of five on a machine that may be busy."""
    late = []
    for number in range(5):
        run(owner, f"DROP TRIGGER \"~flowguard_{('parent', 'child', 'probe')[number % 3]}_flow_insert\" ON "
                   f"{('parent', 'child', 'probe')[number % 3]}")  # fmt: skip
        late.append(one(root, "SELECT clock_timestamp() - max(happened_at) FROM flowguard.drift_event"))
        guard(owner)
    assert min(late) < AT_ONCE, late


def test_what_cannot_be_seen_is_not_written_down(owner: Connection, root: Connection) -> None:
    for defect in DEFECTS.values():
        if not defect.is_ddl:
            run(root if defect.by_superuser else owner, defect.plant)
    run(root, "ALTER ROLE app_owner SET session_replication_role = 'replica'")
    run(root, "ALTER ROLE app_owner RESET session_replication_role")
    assert events(owner) == []


def test_a_schema_of_which_the_witness_knows_nothing(owner: Connection) -> None:
    run(owner, "CREATE SCHEMA side; REVOKE ALL ON SCHEMA side FROM PUBLIC; CREATE TABLE side.late "
               "(id integer PRIMARY KEY, tenant integer NOT NULL, flow integer, "
               "parent integer REFERENCES parent)")  # fmt: skip
    assert heard(owner) == {"unguarded_column"}
    run(owner, "SELECT flowguard.add_link('side.late', 'flow'); SELECT flowguard.add_reference_rule('side.late', "
               "'parent', 'parent', source_link => 'flow', link_column => 'flow')")  # fmt: skip
    run(owner, "SELECT flowguard.guard('side.late', 'flow')")
    run(owner, "DELETE FROM flowguard.drift_event")
    assert notices(owner, 'DROP TRIGGER "~flowguard_late_flow_insert" ON side.late') == []
    assert heard(owner) == {"trigger_missing"}
    assert notices(owner, "DROP TABLE side.late") == []
    assert heard(owner) == {"trigger_missing", "table_gone"}


def test_who_has_taken_a_role(root: Connection) -> None:
    run(root, "SET ROLE app_owner; DROP INDEX flowguard_child_flow_idx")
    assert rows(root, "SELECT done_by, as_role, object_type, object_identity FROM flowguard.drift_event") == [
        ("postgres", "app_owner", "index", "public.flowguard_child_flow_idx")
    ]


def test_ddl_of_the_guard_is_no_drift(owner: Connection) -> None:
    for call in ("unguard", "guard", "guard"):
        run(owner, f"SELECT flowguard.{call}('child', 'flow')")
    run(owner, "SELECT flowguard.set_mode('child', 'enforce', 'flow')")
    run(owner, "SELECT flowguard.set_mode('child', 'observe', 'flow')")
    run(owner, "SELECT flowguard.pause('probe', 'flow'); SELECT flowguard.resume('probe', 'flow')")
    run(owner, "SELECT flowguard.drop_rule('probe', 1, 'flow')")
    guard(owner)
    run(owner, "SELECT flowguard.unguard('grandchild', 'flow')")
    run(owner, "SELECT flowguard.drop_link('grandchild', 'flow'), flowguard.add_link('grandchild', 'flow')")
    assert events(owner) == []
    assert findings(owner) == []


def test_nor_is_what_the_command_does(owner: Connection, events_db: str) -> None:
    """A statement at a time, each of its own transaction."""
    run(owner, "SELECT flowguard.unguard('child', 'flow'); SELECT flowguard.unguard('probe', 'flow')")
    online.guard(events_db, ["child", "probe"], link_column="flow")
    online.set_mode("enforce", events_db, ["child"], link_column="flow")
    assert (findings(owner), events(owner)) == ([], [])


def test_what_is_mended_before_commit_is_no_drift(owner: Connection) -> None:
    with owner.transaction():
        run(owner, "ALTER TABLE child DISABLE TRIGGER USER")
        run(owner, "UPDATE child SET note = 'by hand'")
        run(owner, "ALTER TABLE child ENABLE TRIGGER USER")
    assert events(owner) == []
    with owner.transaction():
        run(owner, "ALTER TABLE event RENAME TO happening")
        run(owner, "SELECT flowguard.guard('probe', 'flow'), flowguard.guard('happening', 'flow')")
    assert events(owner) == []


def test_what_is_rolled_back_has_not_happened(owner: Connection) -> None:
    with owner.transaction(force_rollback=True):
        run(owner, "DROP INDEX flowguard_child_flow_idx")
    assert events(owner) == []


def test_ddl_that_matters_to_no_guard_is_passed_over(owner: Connection) -> None:
    run(owner, "CREATE TABLE other (id integer PRIMARY KEY, note text); CREATE INDEX ON other (note); "
               "ALTER TABLE other ADD COLUMN more text; CREATE VIEW seen AS SELECT id FROM other; DROP VIEW seen; "
               "CREATE TEMPORARY TABLE child (flow integer); DROP TABLE other; GRANT SELECT ON probe TO PUBLIC; "
               "ALTER TABLE public.child ADD COLUMN more text; CREATE FUNCTION f() RETURNS integer LANGUAGE sql "
               "AS 'SELECT 1'; DROP FUNCTION f()")  # fmt: skip
    assert events(owner) == []


def test_one_row_for_each_object_of_a_transaction(owner: Connection) -> None:
    run(owner, "ALTER TABLE child DISABLE TRIGGER USER; ALTER TABLE child ADD COLUMN more text; "
               "DROP INDEX flowguard_child_flow_idx")  # fmt: skip
    assert events(owner) == [("ALTER TABLE", "index_missing trigger_disabled"), ("DROP INDEX", "index_missing")]


def test_ddl_in_a_session_that_goes_past_the_guard(root: Connection) -> None:
    run(root, "SET session_replication_role = 'replica'; ALTER TABLE child DISABLE TRIGGER USER")
    assert heard(root) == {"trigger_disabled"}


def test_a_transaction_with_ddl_can_be_prepared(owner: Connection) -> None:
    owner.autocommit = False
    owner.tpc_begin("drift")
    run(owner, "DROP INDEX flowguard_child_flow_idx")
    owner.tpc_prepare()
    owner.tpc_commit()
    owner.autocommit = True
    assert heard(owner) == {"index_missing"}


def test_a_view_of_the_application_asks_nobody(owner: Connection) -> None:
    """Even if it has a column that is called like a link."""
    asked = "SELECT coalesce(last_value, 0) FROM pg_sequences WHERE sequencename = 'drift_event_event_id_seq'"
    before = one(owner, asked)
    run(owner, "CREATE VIEW seen AS SELECT * FROM child; ALTER VIEW seen RENAME TO watched")
    assert one(owner, asked) == before


# --- They are in nobody's way


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE INDEX CONCURRENTLY more ON child (note)",
        "REINDEX TABLE CONCURRENTLY child",
        "REINDEX INDEX CONCURRENTLY flowguard_child_flow_idx",
        "VACUUM FULL child",
        "ALTER TABLE child ALTER COLUMN note TYPE varchar(100)",
        "CREATE SCHEMA more CREATE TABLE late (flow text) CREATE VIEW seen AS SELECT * FROM late",
        "ALTER TABLE child CLUSTER ON child_pkey",
        "TRUNCATE grandchild",
        "CREATE MATERIALIZED VIEW seen AS SELECT * FROM child",
    ],
)
def test_statements_that_harm_no_guard_go_on(owner: Connection, statement: str) -> None:
    assert notices(owner, statement) == []
    assert events(owner) == []


def test_an_index_that_is_dropped_while_others_write(owner: Connection) -> None:
    assert notices(owner, "DROP INDEX CONCURRENTLY flowguard_child_flow_idx") == []
    assert heard(owner) == {"index_missing"}


def test_a_partition_that_is_detached_while_others_write(owner: Connection) -> None:
    run(owner, "CREATE TABLE part (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer) "
               "PARTITION BY RANGE (id)")  # fmt: skip
    run(owner, "CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (1) TO (9)")
    run(owner, "SELECT flowguard.add_link('part', 'flow'); SELECT flowguard.guard('part', 'flow')")
    run(owner, "DELETE FROM flowguard.drift_event")
    assert notices(owner, "ALTER TABLE part DETACH PARTITION part_1 CONCURRENTLY") == []
    assert heard(owner) <= {"leftover", "unguarded_column"}


def notices(connection: Connection, statement: str, severity: str = "WARNING") -> list[str]:
    """Run a statement and give the warnings that come with it."""
    said: list[str] = []

    def hear(diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == severity:
            said.append(f"{diagnostic.message_primary} {diagnostic.message_hint}")

    connection.add_notice_handler(hear)
    run(connection, statement)
    connection.remove_notice_handler(hear)
    return said


def test_an_error_in_them_is_a_warning_when_doctor_cannot_be_asked(owner: Connection) -> None:
    run(owner, "CREATE OR REPLACE FUNCTION flowguard._whole_link(p_relation regclass, p_link_column name) "
               "RETURNS regclass LANGUAGE sql STABLE AS 'SELECT (1 / 0)::oid::regclass'")  # fmt: skip
    [warning] = notices(owner, "DROP INDEX flowguard_child_flow_idx")
    assert "what doctor() says of this DDL is not written down: division by zero" in warning
    assert "SELECT * FROM flowguard.doctor()" in warning
    assert one(owner, "SELECT to_regclass('flowguard_child_flow_idx')") is None
    assert rows(owner, "SELECT command_tag, level FROM flowguard.drift_event") == [("DROP INDEX", None)]


def test_an_error_in_them_is_a_warning_when_nothing_can_be_written(owner: Connection) -> None:
    run(owner, "REVOKE INSERT ON flowguard.drift_event FROM flowguard_witness")
    [warning] = notices(owner, "DROP INDEX flowguard_child_flow_idx")
    assert "this DDL is not written down: permission denied for table drift_event" in warning
    assert one(owner, "SELECT to_regclass('flowguard_child_flow_idx')") is None


def test_without_the_engine_they_are_silent(owner: Connection) -> None:
    run(owner, "SET client_min_messages = warning")
    assert notices(owner, "DROP SCHEMA flowguard CASCADE") == []
    assert notices(owner, "CREATE TABLE other (id integer); DROP TABLE other") == []


def test_the_owner_of_the_engine_gets_no_rights_by_them(owner: Connection, root: Connection) -> None:
    """What it puts into the functions that they call is not run by a superuser whose DDL sets them off."""
    run(owner, "CREATE TABLE caught (who name); GRANT INSERT ON caught TO PUBLIC; "
               "CREATE OR REPLACE FUNCTION flowguard._diagnose() RETURNS TABLE (name text, level text, relation text, "
               "description text, detail text, remedy text, cache_key text, amount bigint, safe boolean) "
               "LANGUAGE plpgsql SECURITY INVOKER AS $$BEGIN INSERT INTO public.caught VALUES (CURRENT_USER); "
               "RETURN QUERY SELECT 'a', 'WARN', 'public.child', 'a', 'a', 'a', 'a:public.child', 1::bigint, true; "
               "END$$")  # fmt: skip
    run(owner, "CREATE FUNCTION spring() RETURNS trigger LANGUAGE plpgsql AS "
               "$$BEGIN INSERT INTO public.caught VALUES (CURRENT_USER); RETURN NEW; END$$; "
               "CREATE TRIGGER spring BEFORE INSERT ON flowguard.drift_event FOR EACH ROW "
               "EXECUTE FUNCTION spring()")  # fmt: skip
    run(owner, "DELETE FROM caught")
    run(root, "ALTER TABLE child ADD COLUMN more text")
    assert rows(owner, "SELECT DISTINCT who::text FROM caught") == [("flowguard_witness",)]
    with refused("42501"):
        run(owner, "CREATE OR REPLACE FUNCTION flowguard_events.note_ddl() RETURNS event_trigger LANGUAGE plpgsql AS "
                   "'BEGIN END'")  # fmt: skip


def test_the_viewer_reads_what_was_written_down(root: Connection) -> None:
    run(root, "DO $$BEGIN CREATE ROLE flowguard_viewer NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END$$")
    run(root, "SET ROLE app_owner; SELECT flowguard.grant_roles()")
    run(root, "DROP INDEX flowguard_child_flow_idx; RESET ROLE; SET ROLE flowguard_viewer")
    assert heard(root) == {"index_missing"}
    run(root, "RESET ROLE; DROP OWNED BY flowguard_viewer; DROP ROLE flowguard_viewer")


# --- Dump and restore, deploy and revert


def restored(postgresql: TestPostgresql, dsn: str, target: str, *options: str) -> str:
    """Dump a database and restore it into another as the superuser; gives what pg_restore says."""
    settings = conninfo_to_dict(dsn)
    environment = {
        **os.environ, "PGHOST": str(settings["host"]), "PGPORT": str(settings["port"]), "PGUSER": "postgres"
    }  # fmt: skip
    dump = subprocess.run(
        [postgresql.bin / "pg_dump", "-Fc", str(settings["dbname"])], env=environment, capture_output=True, check=True
    )
    file = Path(postgresql.base_dir) / f"{target}.dump"
    file.write_bytes(dump.stdout)
    try:
        done = subprocess.run(
            [postgresql.bin / "pg_restore", "-d", target, *options, file],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        file.unlink()
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("options", [(), ("-j", "2"), ("--single-transaction",)], ids=" ".join)
def test_a_dump_is_restored_with_them(
    postgresql: TestPostgresql, databases: Databases, owner: Connection, events_db: str, options: tuple[str, ...]
) -> None:
    run(owner, "DROP INDEX flowguard_child_flow_idx")
    everything = "SELECT event_id, happened_at, cache_keys FROM flowguard.drift_event"
    with databases.new("template0") as target:
        assert restored(postgresql, events_db, str(conninfo_to_dict(target)["dbname"]), *options) == ""
        with psycopg.connect(target, autocommit=True) as copy:
            assert rows(copy, everything) == rows(owner, everything)
            assert [finding["name"] for finding in findings(copy)] == ["index_missing"]
            run(copy, 'DROP TRIGGER "~flowguard_child_flow_insert" ON child')
            assert heard(copy) == {"index_missing", "trigger_missing"}
    assert heard(owner) == {"index_missing"}


def test_a_dump_is_restored_over_them(postgresql: TestPostgresql, owner: Connection, events_db: str) -> None:
    """With --clean: all is dropped first, they before all else."""
    name = str(conninfo_to_dict(events_db)["dbname"])
    assert restored(postgresql, events_db, name, "--clean", "--if-exists") == ""
    with psycopg.connect(events_db, autocommit=True) as connection:
        assert (events(connection), findings(connection)) == ([], [])
    del owner


def test_data_alone_is_restored_with_them(
    postgresql: TestPostgresql, databases: Databases, events_db: str, events_template: str, owner: Connection
) -> None:
    run(owner, "DROP INDEX flowguard_child_flow_idx")
    with databases.new(events_template) as target:
        with psycopg.connect(make_conninfo(target, user="postgres"), autocommit=True) as copy:
            tables = one(
                copy,
                "SELECT string_agg(oid::regclass::text, ', ') FROM pg_class WHERE relkind = 'r' "
                "AND relnamespace::regnamespace::text IN ('public', 'flowguard', 'pyflowguard', 'sqitch')",
            )
            run(copy, f"TRUNCATE {tables} CASCADE")
        name = str(conninfo_to_dict(target)["dbname"])
        restored(postgresql, events_db, name, "--data-only", "--disable-triggers")
        with psycopg.connect(target, autocommit=True) as copy:
            assert findings(copy) == []
            assert ("DROP INDEX", "index_missing") in events(copy)


def test_revert_leaves_nothing_and_deploy_brings_it_back(
    databases: Databases, engine_template: str, postgresql: TestPostgresql
) -> None:
    with databases.new(engine_template) as dsn:
        root = make_conninfo(dsn, user="postgres")

        def schema() -> str:
            command = [str(postgresql.bin / "pg_dump"), "--schema-only", "--no-comments", "-d", root]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        def without_keys(text: str) -> list[str]:
            return [line for line in text.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]

        before = without_keys(schema())
        for _ in range(2):
            assert [change.name for change in changes.deploy(root, directory=EVENTS).deployed] == ["drift_events"]
            assert [outcome.failure for outcome in changes.verify(root, directory=EVENTS)] == [None]
            changes.revert(root, directory=EVENTS)
            assert without_keys(schema()) == before


def test_they_are_refused_to_whoever_is_no_superuser(engine_db: str) -> None:
    with pytest.raises(ScriptFailed):
        changes.deploy(engine_db, directory=EVENTS)
    with psycopg.connect(engine_db) as connection:
        assert one(connection, "SELECT to_regclass('flowguard.drift_event')") is None


def test_an_administrator_who_is_no_superuser_is_refused_nothing_but_event_triggers(
    engine_db: str, well: Connection, superuser: Connection
) -> None:
    """As a managed service has it: one who may make roles, and is a member of the owner."""
    deploy, revert = ((EVENTS / way / "drift_events.sql").read_text() for way in ("deploy", "revert"))
    rename = "DO $$BEGIN ALTER ROLE {} RENAME TO {}; EXCEPTION WHEN undefined_object THEN NULL; END$$"
    run(superuser, rename.format("flowguard_witness", "u_witness"))  # that of other databases
    run(superuser, "CREATE ROLE u_admin LOGIN CREATEROLE IN ROLE app_owner; GRANT CREATE ON DATABASE "
                   f'"{well.info.dbname}" TO u_admin')  # fmt: skip
    try:
        with psycopg.connect(make_conninfo(engine_db, user="u_admin"), autocommit=True) as admin:
            with refused("42501") as refusal:
                run(admin, deploy)
            assert refusal.message == 'permission denied to create event trigger "flowguard_ddl"'
            run(admin, "ROLLBACK")
            run(admin, deploy.partition("CREATE EVENT TRIGGER")[0] + "COMMIT")
            owners = (
                "SELECT DISTINCT proowner::regrole::text FROM pg_proc "
                "WHERE pronamespace = 'flowguard_events'::regnamespace"
            )
            assert rows(well, owners) == [("flowguard_witness",)]
            assert one(well, "SELECT has_schema_privilege('flowguard_witness', 'flowguard_events', 'CREATE')") is False
            # Since 16 who makes a role may grant it; that alone gives none of its rights.
            members = "SELECT member::regrole::text, admin_option FROM pg_auth_members WHERE roleid = %s::regrole"
            maker = [("u_admin", True)] if well.info.server_version >= 160000 else []
            assert rows(well, members, "flowguard_witness") == maker
            for right in ("USAGE", "SET") if maker else ("USAGE", "MEMBER"):
                assert one(well, "SELECT pg_has_role('u_admin', 'flowguard_witness', %s)", right) is False
            assert findings(well) == []
            run(admin, revert)
            left = "SELECT to_regrole('flowguard_witness'), to_regclass('flowguard.drift_event')"
            assert rows(well, left) == [(None, None)]
    finally:
        run(superuser, "DROP OWNED BY u_admin CASCADE; DROP ROLE u_admin; DROP ROLE IF EXISTS flowguard_witness")
        run(superuser, rename.format("u_witness", "flowguard_witness"))


def test_the_way_by_sqitch(
    engine_db: str, tool: Callable[[str], str], as_role: Callable[[str, str], str], tmp_path: Path
) -> None:
    settings = conninfo_to_dict(as_role(engine_db, "postgres"))
    target = "db:pg://{user}@{host}:{port}/{dbname}".format(**{name: str(value) for name, value in settings.items()})
    environment = {**os.environ, "HOME": str(tmp_path), "SQITCH_FULLNAME": "Test", "SQITCH_EMAIL": "test@example.org"}
    for action in (("deploy", "--verify"), ("verify",), ("revert", "-y")):
        subprocess.run(
            [tool("sqitch"), *action, target], cwd=EVENTS, env=environment, capture_output=True, text=True, check=True
        )
    with psycopg.connect(engine_db) as connection:
        assert one(connection, "SELECT to_regclass('flowguard.drift_event')") is None


def test_an_event_trigger_that_was_disabled_does_not_verify(root: Connection, events_db: str) -> None:
    run(root, "ALTER EVENT TRIGGER flowguard_ddl DISABLE")
    dsn = make_conninfo(events_db, user="postgres")
    [outcome] = changes.verify(dsn, directory=EVENTS)
    assert outcome.failure is not None
    assert "an event trigger of PyFlowGuard is not there or not enabled" in str(outcome.failure)
    hint = str(outcome.failure.hint)
    for statement in hint.split('"')[1::2]:
        follow(root, statement)
    assert [outcome.failure for outcome in changes.verify(dsn, directory=EVENTS)] == [None]


def test_the_witness_stays_while_another_database_needs_it(root: Connection, events_db: str) -> None:
    """Of the database that it was made in, too; the NOTICE says until when."""
    comment = "SELECT shobj_description('flowguard_witness'::regrole, 'pg_authid')"
    made_in = one(root, comment)
    name = str(conninfo_to_dict(events_db)["dbname"])
    run(root, f"COMMENT ON ROLE flowguard_witness IS 'created by pyflowguard in database {name}'")
    try:
        [notice] = notices(root, (EVENTS / "revert" / "drift_events.sql").read_text(), severity="NOTICE")
        assert notice.startswith('role flowguard_witness stays: role "flowguard_witness" cannot be dropped because')
        assert 'Once nothing needs it, run "DROP ROLE flowguard_witness".' in notice
        assert one(root, "SELECT to_regclass('flowguard.drift_event') IS NULL AND to_regrole('flowguard_witness') > 0")
    finally:
        run(root, f"COMMENT ON ROLE flowguard_witness IS '{made_in}'")


def test_the_witness_can_do_nothing_else(root: Connection) -> None:
    """It owns the four functions, and has rights on what they name."""
    owned = (
        "SELECT deptype::text, classid::regclass::text, count(*) FROM pg_shdepend WHERE refobjid = %s::regrole "
        "AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) GROUP BY 1, 2 ORDER BY 1, 2"
    )
    assert rows(root, owned, "flowguard_witness") == [
        ("a", "pg_class", 3),
        ("a", "pg_namespace", 2),
        ("a", "pg_proc", 1),
        ("o", "pg_proc", 4),
    ]
    assert rows(root, "SELECT rolsuper, rolcanlogin, rolcreaterole, rolbypassrls FROM pg_roles WHERE rolname = %s",
                "flowguard_witness") == [(False, False, False, False)]  # fmt: skip
    assert one(root, "SELECT count(*) FROM pg_auth_members WHERE 'flowguard_witness'::regrole IN (roleid, member)") == 0
