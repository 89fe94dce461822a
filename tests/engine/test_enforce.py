"""What observe lists and enforce refuses, when it does, how it says so, and the recorded ways round it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import Guarded, create, guard, link, links, register
from psycopg.conninfo import make_conninfo

ARRIVAL = Path(__file__).parents[2] / "sql" / "report" / "arrival.sql"


@pytest.fixture
def app(guarded: Guarded) -> Connection:
    """The small application, guarded in enforce."""
    return guarded("enforce")


@pytest.fixture
def own_app(guarded: Guarded) -> Connection:
    """A copy of it whose guard a test may change."""
    return guarded("enforce", own=True)


@pytest.fixture
def other(app: Connection) -> Iterator[Connection]:
    """A second session in the same database."""
    with psycopg.connect(app.info.dsn, autocommit=True) as connection:
        yield connection


# --- At commit


def test_children_may_come_before_their_link(app: Connection) -> None:
    with app.transaction():
        run(app, "INSERT INTO parent VALUES (10, 1)")
        run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
        run(app, "INSERT INTO grandchild (id, tenant, child) VALUES (30, 1, 20)")
        run(app, "INSERT INTO flow VALUES (7, 1)")
        run(app, "UPDATE parent SET flow = 7")
    assert (links(app, "parent"), links(app, "child"), links(app, "grandchild")) == ({10: 7}, {20: 7}, {30: 7})


def test_an_unlinked_row_is_refused_at_commit_by_name(app: Connection) -> None:
    run(app, "BEGIN")
    run(app, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:00Z')")
    run(app, "SAVEPOINT still_alive")
    with refused("FG001") as refusal:
        run(app, "COMMIT")
    assert refusal.message == 'flowguard: row {"id": 1} of table probe has no flow'.replace("probe", "public.probe")
    assert refusal.table == "probe"
    refusal.says("tenant = 1", "event has no linked row of its tenant", "Set flow to the key of a master", "bypass")
    assert links(app, "probe") == {}


def test_the_refusal_names_the_nearest_candidate_and_how_far_it_is(app: Connection) -> None:
    run(app, "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z')")
    with refused("FG001") as refusal:
        run(app, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 01:00:00.000001Z')")
    refusal.says("01:00:00.000001 away", "the window is 01:00:00")
    run(app, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 01:00Z')")
    assert links(app, "probe") == {1: 1}


@pytest.mark.parametrize(
    ("insert", "said"),
    [
        ("probe (id, tenant, at) VALUES (1, 1, NULL)", "at is NULL"),
        ("probe (id, tenant, at) VALUES (1, 1, 'infinity')", "at is infinity"),
        ("probe (id, tenant, at) VALUES (1, NULL, '2025-01-01')", "its tenant is not known"),
        ("child (id, tenant) VALUES (1, 1)", "parent is NULL"),
        ("event (id, tenant) VALUES (1, 1)", "the link has no rule"),
        ("parent (id, tenant) VALUES (1, 1)", "the setting flowguard.flow gave none"),
    ],
)
def test_the_refusal_gives_the_reason_rule_by_rule(app: Connection, insert: str, said: str) -> None:
    with refused("FG001") as refusal:
        run(app, "INSERT INTO " + insert)
    refusal.says(said)


def test_nothing_of_another_tenant_is_told(app: Connection) -> None:
    run(app, "INSERT INTO event VALUES (50, 2, 9, 'live', '2025-01-01 00:00Z')")
    with refused("FG001") as refusal:
        run(app, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:00Z')")
    assert "9" not in refusal.detail.replace("09", "")
    assert "event has no linked row of its tenant" in refusal.detail


def test_the_rules_are_tried_once_more_at_commit(app: Connection) -> None:
    with app.transaction():
        run(app, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:00Z')")
        # An event that came with another session's commit meanwhile is found by the second look only.
        with psycopg.connect(app.info.dsn, autocommit=True) as other:
            run(other, "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z')")
        assert link(app, "probe", 1) is None
    assert link(app, "probe", 1) == 1


def test_what_is_set_later_in_the_transaction_is_not_replaced_at_commit(app: Connection) -> None:
    run(app, "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z')")
    with app.transaction():
        run(app, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, 'infinity')")
        run(app, "UPDATE probe SET flow = 2")
        run(app, "UPDATE probe SET at = '2025-01-01 00:00Z'")
    assert link(app, "probe", 1) == 2


def test_the_session_rule_is_not_asked_again_at_commit(app: Connection) -> None:
    with refused("FG001"), app.transaction():
        run(app, "INSERT INTO parent VALUES (10, 1)")
        run(app, "SET LOCAL flowguard.flow = '1'")
    run(app, "RESET flowguard.flow")


def test_a_link_with_other_rules_does_not_ask_the_session_at_commit_either(db: Connection) -> None:
    create(db)
    register(db)
    run(db, "SELECT flowguard.add_session_rule('probe', 'flow', 1)")
    guard(db)
    with db.transaction():
        run(db, "INSERT INTO probe (id, tenant) VALUES (1, 1)")
        run(db, "SET LOCAL flowguard.flow = '1'")
    assert link(db, "probe", 1) is None


def test_the_session_rule_fills_what_is_written_under_it(app: Connection) -> None:
    with app.transaction():
        run(app, "SET LOCAL flowguard.flow = '1'")
        run(app, "INSERT INTO parent VALUES (10, 1, NULL), (11, 1, 2)")
        run(app, "SET LOCAL flowguard.flow = ''")
        run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 1, 11)")
    assert (links(app, "parent"), links(app, "child")) == ({10: 1, 11: 2}, {20: 1, 21: 2})


@pytest.mark.parametrize(
    ("value", "codes"), [("9", {"FG001"}), ("404", {"FG001"}), ("", {"FG001"}), ("no number", {"FG003"})]
)
def test_a_setting_that_is_no_master_of_the_tenant(app: Connection, value: str, codes: set[str]) -> None:
    with refused(*codes) as refusal, app.transaction():
        run(app, "SELECT set_config('flowguard.flow', %s, true)", value)
        run(app, "INSERT INTO parent VALUES (10, 1)")
    refusal.says("flowguard.flow")
    assert links(app, "parent") == {}


def test_savepoints(app: Connection) -> None:
    with app.transaction():
        run(app, "SAVEPOINT one")
        run(app, "INSERT INTO parent VALUES (10, 1)")
        run(app, "ROLLBACK TO one")
        run(app, "INSERT INTO parent VALUES (11, 1)")
        run(app, "SAVEPOINT two")
        run(app, "UPDATE parent SET flow = 1")
        run(app, "RELEASE two")
    assert links(app, "parent") == {11: 1}
    with refused("FG001"), app.transaction():
        run(app, "INSERT INTO parent VALUES (12, 1)")
        run(app, "SAVEPOINT one")
        run(app, "UPDATE parent SET flow = 1 WHERE id = 12")
        run(app, "ROLLBACK TO one")
    assert links(app, "parent") == {11: 1}


def test_a_row_inserted_and_deleted_again_is_nobodys_business(app: Connection) -> None:
    with app.transaction():
        run(app, "INSERT INTO parent VALUES (10, 1)")
        run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
        run(app, "DELETE FROM parent")
    with app.transaction():
        run(app, "INSERT INTO probe (id, tenant) VALUES (1, 1)")
        run(app, "DELETE FROM probe")
    assert (links(app, "parent"), links(app, "child"), links(app, "probe")) == ({}, {}, {})


def test_a_row_whose_key_changes_is_still_seen(app: Connection) -> None:
    with refused("FG001"), app.transaction():
        run(app, "INSERT INTO parent VALUES (10, 1)")
        run(app, "UPDATE parent SET id = 11")
    with app.transaction():
        run(app, "INSERT INTO parent VALUES (10, 1)")
        run(app, "UPDATE parent SET id = 11, flow = 1")
    assert links(app, "parent") == {11: 1}


def test_set_constraints_immediate_asks_at_once(app: Connection) -> None:
    run(app, "BEGIN")
    run(app, "INSERT INTO parent VALUES (10, 1)")
    with refused("FG001"):
        run(app, "SET CONSTRAINTS ALL IMMEDIATE")
    run(app, "ROLLBACK")
    run(app, "BEGIN")
    run(app, "SET CONSTRAINTS ALL IMMEDIATE")
    run(app, "INSERT INTO parent VALUES (10, 1, 1)")
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    with refused("23503"):
        run(app, "INSERT INTO parent VALUES (11, 1, 404)")
    run(app, "ROLLBACK")


def test_a_prepared_transaction_is_checked_when_it_is_prepared(app: Connection) -> None:
    run(app, "BEGIN")
    run(app, "INSERT INTO parent VALUES (10, 1)")
    with refused("FG001"):
        run(app, "PREPARE TRANSACTION 'unlinked'")
    assert rows(app, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()") == []
    run(app, "BEGIN")
    run(app, "INSERT INTO parent VALUES (10, 1)")
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    run(app, "UPDATE parent SET flow = 2")
    run(app, "PREPARE TRANSACTION 'linked'")
    run(app, "COMMIT PREPARED 'linked'")
    assert (links(app, "parent"), links(app, "child")) == ({10: 2}, {20: 2})


def test_an_application_trigger_that_changes_the_row_is_seen(db: Connection) -> None:
    create(db)
    register(db, mode="enforce")
    guard(db)
    run(
        db,
        """
CREATE FUNCTION take_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.note LIKE 'of %' THEN NEW.parent := substr(NEW.note, 4)::integer; END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER zzz BEFORE INSERT OR UPDATE ON child FOR EACH ROW EXECUTE FUNCTION take_note();
INSERT INTO parent VALUES (10, 1, 1), (11, 1, 2);
INSERT INTO child (id, tenant, note) VALUES (20, 1, 'of 10');
UPDATE child SET note = 'of 11';
""",
    )
    # UPDATE OF parent would not have fired: the statement names note alone.
    assert links(db, "child") == {20: 2}
    # Seen by the statement itself, since ours comes after it, and not by the look at commit only.
    assert one(db, "INSERT INTO child (id, tenant, note) VALUES (21, 1, 'of 10') RETURNING flow") == 1


def test_a_tenantless_row_with_a_link_is_refused(app: Connection) -> None:
    with refused("FG002") as refusal:
        run(app, "INSERT INTO probe VALUES (1, NULL, 1)")
    assert refusal.message == 'flowguard: row {"id": 1} of table public.probe has a flow but not its whole tenant'
    assert refusal.table == "probe"
    refusal.says("tenant = NULL", "Set tenant")
    run(app, "INSERT INTO probe VALUES (1, 1, 1)")
    with refused("FG002"):
        run(app, "UPDATE probe SET tenant = NULL")
    with app.transaction():
        run(app, "UPDATE probe SET tenant = NULL")
        run(app, "UPDATE probe SET tenant = 1")


def test_a_tenantless_row_cannot_dangle(guarded: Guarded) -> None:
    for mode in ("observe", "enforce"):
        with refused("23503", "FG002"):
            run(guarded(mode), "INSERT INTO probe VALUES (1, NULL, 404)")
    run(guarded("observe"), "INSERT INTO probe VALUES (1, NULL, 1)")


def test_a_disagreement_is_refused(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, 1)")
    with refused("23503") as refusal:
        run(app, "INSERT INTO child VALUES (20, 1, 2, NULL, 10)")
    assert refusal.constraint == "flowguard_child_flow_parent_fkey"
    # Together they may move, in either order.
    run(app, "INSERT INTO child VALUES (20, 1, 1, NULL, 10)")
    with app.transaction():
        run(app, "UPDATE child SET flow = 2")
        run(app, "UPDATE parent SET flow = 2")
    assert links(app, "child") == {20: 2}


def test_a_link_under_an_unlinked_reference_is_refused(app: Connection) -> None:
    with refused("23503", "FG001"), app.transaction():
        run(app, "INSERT INTO parent VALUES (10, 1)")
        run(app, "INSERT INTO child VALUES (20, 1, 1, NULL, 10)")


# --- Observe


def test_observe_accepts_and_lists_with_the_reason(guarded: Guarded) -> None:
    db = guarded("observe")
    run(db, "INSERT INTO parent VALUES (10, 1)")
    run(db, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 1, NULL)")
    run(db, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, 'infinity')")
    run(db, "INSERT INTO probe (id, tenant, flow) VALUES (2, NULL, 1)")
    run(db, "INSERT INTO child (id, tenant, parent, flow) VALUES (22, 1, 10, 1)")
    found = {
        (relation, row): (kind, reason)
        for relation, row, kind, reason in rows(
            db, "SELECT relation::text, (row_key ->> 'id')::int, kind, reason FROM flowguard.violation"
        )
    }
    assert {key: kind for key, (kind, _) in found.items()} == {
        ("parent", 10): "unlinked",
        ("child", 20): "unlinked",
        ("child", 21): "unlinked",
        ("child", 22): "mismatched",
        ("probe", 1): "unlinked",
        ("probe", 2): "tenantless",
    }
    assert "waits" in found["child", 20][1]
    assert "parent is NULL" in found["child", 21][1]
    assert "at is infinity" in found["probe", 1][1]


def test_set_mode_there_and_back(guarded: Guarded) -> None:
    db = guarded("observe", own=True)
    run(db, "INSERT INTO parent VALUES (10, 1, 1)")
    for table in ("parent", "child"):
        run(db, "SELECT flowguard.set_mode(%s::regclass, 'enforce', link_column => 'flow')", table)
    with refused("FG001"):
        run(db, "INSERT INTO child (id, tenant) VALUES (20, 1)")
    with refused("23503"):
        run(db, "INSERT INTO child VALUES (20, 1, 2, NULL, 10)")
    run(db, "SELECT flowguard.set_mode('child', 'observe', link_column => 'flow')")
    run(db, "INSERT INTO child (id, tenant) VALUES (20, 1)")
    run(db, "INSERT INTO child VALUES (21, 1, 2, NULL, 10)")
    assert rows(db, "SELECT * FROM flowguard.guard_plan('child', 'flow')") == []


# --- The platform's order of arrival


def test_everything_of_an_upload_is_linked(guarded_report: str) -> None:
    with psycopg.connect(guarded_report, autocommit=True) as connection:
        run(connection, ARRIVAL.read_text())
        for table, count in (
            ("data_imports", 1),
            ("raw_import_records", 3),
            ("discovery_flows", 1),
            ("import_field_mappings", 2),
            ("assets", 3),
        ):
            query = f"SELECT count(*) FROM migration.{table} WHERE master_flow_id = md5('arrival')::uuid"  # noqa: S608
            assert one(connection, query) == count, table


# --- Ways round


def make_admin(connection: Connection, postgres: Callable[[str, str], str]) -> Connection:
    """Connect as a login role that is a member of flowguard_admin and may write the tables."""
    superuser = postgres(connection.info.dsn, "postgres")
    with psycopg.connect(superuser, autocommit=True) as admin:
        run(
            admin,
            """
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'flowguard_admin') THEN CREATE ROLE flowguard_admin; END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'writer') THEN CREATE ROLE writer LOGIN; END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'trusted') THEN CREATE ROLE trusted LOGIN; END IF;
END $$;
GRANT flowguard_admin TO trusted;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO writer, trusted;
""",
        )
    run(connection, "SELECT flowguard.grant_roles()")
    return psycopg.connect(postgres(connection.info.dsn, "trusted"), autocommit=True)


def test_bypass_lifts_checks_for_one_transaction_and_is_recorded(
    app: Connection, as_role: Callable[[str, str], str]
) -> None:
    with closing(make_admin(app, as_role)) as trusted:
        with trusted.transaction():
            number = one(trusted, "SELECT flowguard.bypass('a load of old rows')")
            run(trusted, "INSERT INTO parent VALUES (10, 1)")
            run(trusted, "INSERT INTO probe VALUES (1, NULL, 1)")
        with refused("FG001"):
            run(trusted, "INSERT INTO parent VALUES (11, 1)")
    assert rows(app, "SELECT id, kind, reason, done_by FROM flowguard.privileged_transaction") == [
        (number, "bypass", "a load of old rows", "trusted")
    ]
    assert links(app, "parent") == {10: None}


def test_bypass_never_lifts_a_foreign_key(app: Connection) -> None:
    for insert in ("parent VALUES (10, 1, 404)", "parent VALUES (10, 1, 9)", "probe VALUES (1, NULL, 404)"):
        with refused("23503"), app.transaction():
            run(app, "SELECT flowguard.bypass('trying')")
            run(app, "INSERT INTO " + insert)
    run(app, "INSERT INTO parent VALUES (10, 1, 1)")
    with refused("23503"), app.transaction():
        run(app, "SELECT flowguard.bypass('trying')")
        run(app, "INSERT INTO child VALUES (20, 1, 2, NULL, 10)")


def test_a_bypass_that_is_rolled_back_is_over(app: Connection) -> None:
    run(app, "BEGIN")
    run(app, "SAVEPOINT one")
    run(app, "SELECT flowguard.bypass('trying')")
    run(app, "ROLLBACK TO one")
    run(app, "INSERT INTO parent VALUES (10, 1)")
    with refused("FG001"):
        run(app, "COMMIT")
    assert rows(app, "SELECT * FROM flowguard.privileged_transaction") == []


def test_bypass_needs_a_reason(app: Connection) -> None:
    for reason in (None, "", "  "):
        with refused("FG104") as refusal:
            run(app, "SELECT flowguard.bypass(%s)", reason)
        refusal.says("flowguard.bypass(")


def test_bypass_is_for_flowguard_admin_only(app: Connection, as_role: Callable[[str, str], str]) -> None:
    with closing(make_admin(app, as_role)):
        pass
    with closing(psycopg.connect(as_role(app.info.dsn, "writer"), autocommit=True)) as writer:
        with refused("42501"):
            run(writer, "SELECT flowguard.bypass('please')")
        with refused("42501"):
            run(writer, "INSERT INTO flowguard.privileged_transaction (xid, started_at, kind) "
                        "VALUES (pg_current_xact_id(), now(), 'bypass')")  # fmt: skip


@pytest.mark.parametrize("forged", ["bypass", "undo", "repair", "anything"])
def test_forging_the_setting_does_nothing(app: Connection, as_role: Callable[[str, str], str], forged: str) -> None:
    with closing(make_admin(app, as_role)):
        pass
    with closing(psycopg.connect(as_role(app.info.dsn, "writer"), autocommit=True)) as writer:
        run(writer, "SELECT set_config('flowguard.privileged', %s, false)", forged)
        with refused("FG001"):
            run(writer, "INSERT INTO parent VALUES (10, 1)")
        with refused("FG002"):
            run(writer, "INSERT INTO probe VALUES (1, NULL, 1)")
        with writer.transaction():
            run(writer, "INSERT INTO parent VALUES (10, 1)")
            run(writer, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
            run(writer, "UPDATE parent SET flow = 1")
        assert links(writer, "child") == {20: 1}


def locks_of(connection: Connection, other: Connection) -> set[tuple[str, str]]:
    """Give table and mode of each lock that the other session holds on an application's table."""
    return set(
        rows(
            connection,
            "SELECT c.relname::text, l.mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation "
            "WHERE l.pid = %s AND l.granted AND c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' "
            "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            other.info.backend_pid,
        )
    )


def test_pause_and_resume_lock_no_table(app: Connection, other: Connection) -> None:
    for call in ("pause", "resume"):
        with other.transaction():
            run(other, f"SELECT flowguard.{call}('child', 'flow')")
            strong = {lock for lock in locks_of(app, other) if lock[1] != "AccessShareLock"}
            assert strong == set()
            run(app, "SET lock_timeout = '2s'")
            run(app, "INSERT INTO parent VALUES (%s, 1, 1)", {"pause": 10, "resume": 11}[call])
            run(app, "ALTER TABLE child ADD IF NOT EXISTS again text" if call == "none" else "SELECT 1")


def test_a_paused_link_is_not_filled_checked_or_followed(own_app: Connection) -> None:
    run(own_app, "SELECT flowguard.pause('child', 'flow')")
    run(own_app, "INSERT INTO parent VALUES (10, 1, 1)")
    run(own_app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    assert links(own_app, "child") == {20: None}
    # Keys go on to hold.
    with refused("23503"):
        run(own_app, "INSERT INTO child VALUES (21, 1, 404, NULL, 10)")
    run(own_app, "UPDATE parent SET flow = 2")
    assert links(own_app, "child") == {20: None}
    # The other links are as before.
    with refused("FG001"):
        run(own_app, "INSERT INTO grandchild (id, tenant, child) VALUES (30, 1, 20)")
    run(own_app, "SELECT flowguard.resume('child', 'flow')")
    with refused("FG001"):
        run(own_app, "INSERT INTO child (id, tenant) VALUES (22, 1)")
    run(own_app, "INSERT INTO child (id, tenant, parent) VALUES (22, 1, 10)")
    assert link(own_app, "child", 22) == 2
    assert rows(own_app, "SELECT * FROM flowguard.guard_plan('child', 'flow')") == []


def test_pause_survives_guard_and_its_plan(own_app: Connection) -> None:
    run(own_app, "SELECT flowguard.pause('child', 'flow')")
    assert rows(own_app, "SELECT * FROM flowguard.guard_plan('child', 'flow')") == []
    assert guard(own_app, "child") == []
    run(own_app, "INSERT INTO child (id, tenant) VALUES (20, 1)")


def test_pause_and_resume_twice(own_app: Connection) -> None:
    for call in ("pause", "pause", "resume", "resume"):
        run(own_app, f"SELECT flowguard.{call}('child', 'flow')")
    with refused("FG001"):
        run(own_app, "INSERT INTO child (id, tenant) VALUES (20, 1)")


def test_pausing_what_is_not_guarded(db: Connection) -> None:
    create(db)
    register(db)
    for call in ("pause", "resume"):
        with refused("FG107") as refusal:
            run(db, f"SELECT flowguard.{call}('child', 'flow')")
        refusal.says("flowguard.guard(")


def test_a_role_without_any_right_on_the_schema_can_write(app: Connection, as_role: Callable[[str, str], str]) -> None:
    with closing(make_admin(app, as_role)):
        pass
    dsn = make_conninfo(as_role(app.info.dsn, "writer"), options="-c search_path=")
    with closing(psycopg.connect(dsn, autocommit=True)) as writer:
        assert not one(writer, "SELECT has_schema_privilege('flowguard', 'USAGE')")
        run(writer, "INSERT INTO public.parent VALUES (10, 1, 1)")
        run(writer, "INSERT INTO public.child (id, tenant, parent) VALUES (20, 1, 10)")
        run(writer, "UPDATE public.parent SET flow = 2")
        assert rows(writer, "SELECT flow FROM public.child") == [(2,)]
        with refused("FG001") as refusal:
            run(writer, "INSERT INTO public.child (id, tenant) VALUES (21, 1)")
        refusal.says("parent is NULL")


# --- Other ways to write


def test_copy_is_filled_like_insert(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, 1)")
    with app.cursor().copy("COPY child (id, tenant, parent) FROM STDIN") as copy:
        for row in ((20, 1, 10), (21, 1, 10)):
            copy.write_row(row)
    assert links(app, "child") == {20: 1, 21: 1}
    with refused("FG001"), app.cursor().copy("COPY child (id, tenant, parent) FROM STDIN") as copy:
        copy.write_row((22, 1, None))
    assert links(app, "child") == {20: 1, 21: 1}


def test_on_conflict_and_merge_are_filled_too(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, 1), (11, 1, 2)")
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    run(
        app,
        "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 11), (21, 1, 11) "
        "ON CONFLICT (id) DO UPDATE SET parent = excluded.parent",
    )
    assert links(app, "child") == {20: 2, 21: 2}
    if app.info.server_version < 150000:
        return
    run(
        app,
        "MERGE INTO child c USING (VALUES (21, 10), (22, 10)) AS v (id, parent) ON c.id = v.id "
        "WHEN MATCHED THEN UPDATE SET parent = v.parent "
        "WHEN NOT MATCHED THEN INSERT (id, tenant, parent) VALUES (v.id, 1, v.parent)",
    )
    assert links(app, "child") == {20: 2, 21: 1, 22: 1}


def test_many_rows_in_one_statement(app: Connection) -> None:
    run(app, "INSERT INTO parent SELECT n, 1, n % 3 + 1 FROM generate_series(1, 300) n")
    run(app, "INSERT INTO child (id, tenant, parent) SELECT n, 1, (n - 1) / 10 + 1 FROM generate_series(1, 3000) n")
    assert one(app, "SELECT count(*) FROM child c JOIN parent p ON p.id = c.parent WHERE c.flow = p.flow") == 3000
    run(app, "UPDATE parent SET flow = 3")
    assert rows(app, "SELECT DISTINCT flow FROM child") == [(3,)]
