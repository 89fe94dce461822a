"""Messages that take more than one session or role to come about, and errors that are not ours and are handed on."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest
from engine.postgres import Connection, one, rows, run
from messages.conftest import DEPUTY
from messages.stage import Teller, hear, normal, perform, reaches, statements

World = Callable[[str], str]
AsRole = Callable[[str, str], str]

REGISTERED = """
SELECT flowguard.add_master('flow', 'id', '{tenant}');
SELECT flowguard.add_link('child', 'flow');
"""


@pytest.fixture
def connect(as_role: AsRole) -> Iterator[Callable[[str, str], Connection]]:
    """Connect to a database as a role."""
    opened: list[Connection] = []

    def open_one(dsn: str, role: str) -> Connection:
        opened.append(psycopg.connect(as_role(dsn, role), autocommit=True))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


Connect = Callable[[str, str], Connection]


@reaches(("_check_rights", "does not own table"))
def test_who_calls_guard_does_not_own_the_table(world: World, connect: Connect, tell: Teller) -> None:
    dsn = world("bare")
    perform(connect(dsn, "app_owner"), REGISTERED)
    admin, deputy = connect(dsn, "postgres"), connect(dsn, DEPUTY)
    run(admin, f"GRANT USAGE ON SCHEMA flowguard TO {DEPUTY}")
    run(admin, f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA flowguard TO {DEPUTY}")
    run(admin, f"GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA flowguard TO {DEPUTY}")
    said = tell(hear(deputy, "SELECT flowguard.guard('child', 'flow')"), "does not own")
    assert normal(str(said)) == (
        f"ERROR: FG110: flowguard: {DEPUTY} does not own table public.child "
        "DETAIL: Only the owner of a table can give it triggers, keys and indexes. "
        f'HINT: Run guard() as the owner, or "GRANT app_owner TO {DEPUTY}".'
    )
    try:
        run(admin, statements(said.hint)[0])
        assert rows(deputy, "SELECT flowguard.guard('child', 'flow')") != []
    finally:
        run(admin, f"REASSIGN OWNED BY {DEPUTY} TO app_owner")
        run(admin, f"DROP OWNED BY {DEPUTY}")


@reaches(("_renew_functions", "stays guarded by"))
@pytest.mark.parametrize(
    ("stems", "reason"),
    [
        ("{child_flow,probe_flow}", "must be owner of function child_flow_fill"),
        ("{probe_flow}", "they were not as its rules and its mode say before"),
    ],
    ids=["owner", "altered"],
)
def test_an_upgrade_cannot_renew_all_functions(
    world: World, connect: Connect, tell: Teller, stems: str, reason: str
) -> None:
    dsn = world("observe")
    owner, admin = connect(dsn, "app_owner"), connect(dsn, "postgres")
    older = "EXECUTE replace(pg_get_functiondef('flowguard.{}_flow_fill'::regproc), 'BEGIN', 'BEGIN -- older')"
    run(owner, f"DO $$ BEGIN {older.format('child')}; {older.format('probe')}; END $$")
    run(admin, f"ALTER FUNCTION flowguard.child_flow_fill() OWNER TO {DEPUTY}")
    renew = f"SELECT flowguard._renew_functions('{stems}')"
    try:
        said = tell(hear(owner, renew), "stays guarded")
        assert normal(str(said)) == (
            f"WARNING: flowguard: link public.child.flow stays guarded by the functions that it has: {reason} "
            "DETAIL: This release writes them otherwise. They work on as they did. "
            "HINT: Call flowguard.guard('public.child', 'flow') as the role that owns them and the table."
        )
        # The other one is renewed.
        assert rows(owner, "SELECT flowguard.guard('probe', 'flow')") == []
        assert rows(admin, "SELECT flowguard.guard('public.child', 'flow')") != []
        assert hear(owner, renew) == []
    finally:
        run(admin, f"REASSIGN OWNED BY {DEPUTY} TO app_owner")


@reaches(("_renew_triggers", "stays guarded by"))
@pytest.mark.parametrize("reason", ["must be owner of", "canceling statement due to lock timeout", "they were not as"])
def test_an_upgrade_cannot_renew_all_triggers(world: World, connect: Connect, tell: Teller, reason: str) -> None:
    dsn = world("observe")
    owner, admin = connect(dsn, "app_owner"), connect(dsn, "postgres")
    for table in ("child", "probe"):
        run(owner, f"COMMENT ON TRIGGER \"~flowguard_{table}_flow_insert\" ON {table} IS 'older'")
    stems = "{probe_flow}" if reason == "they were not as" else "{child_flow,probe_flow}"
    renew = f"SELECT flowguard._renew_triggers('{stems}')"
    if reason == "must be owner of":
        run(admin, "ALTER TABLE child OWNER TO postgres; GRANT ALL ON child TO app_owner")
        reason = "app_owner does not own table public.child"
    with admin.transaction():
        if "lock timeout" in reason:
            run(admin, "INSERT INTO child (id, tenant) VALUES (1, 1)")
        heard = hear(owner, renew)
    said = tell(heard, "stays guarded")
    assert re.fullmatch(
        "WARNING: flowguard: link public.child.flow stays guarded by the triggers that it has: "
        f"(flowguard: )?{reason}.*? DETAIL: This release has others. They work on as they did. "
        r"HINT: Call flowguard.guard\('public.child', 'flow'\) as the role that owns the tables.",
        normal(str(said)),
    ), normal(str(said))
    assert rows(owner, "SELECT flowguard.guard('probe', 'flow')") == []  # which has them anew
    assert rows(admin, "SELECT flowguard.guard('public.child', 'flow')") != []
    assert hear(admin, renew) == []


@reaches(("_check_rights", "row security hides"))
def test_row_security_on_a_master_of_somebody_else(world: World, connect: Connect, tell: Teller) -> None:
    dsn = world("bare")
    owner = connect(dsn, "app_owner")
    perform(owner, REGISTERED + "CREATE UNIQUE INDEX ON flow (tenant, id); ALTER TABLE flow ENABLE ROW LEVEL SECURITY")
    admin = connect(dsn, "postgres")
    run(admin, "ALTER TABLE flow OWNER TO postgres")
    run(admin, "GRANT SELECT, REFERENCES ON flow TO app_owner")
    said = tell(hear(owner, "SELECT flowguard.guard('child', 'flow')"), "row security")
    assert normal(str(said)) == (
        "ERROR: FG110: flowguard: row security hides rows of table public.flow from app_owner "
        "DETAIL: The generated functions run with the rights of whoever calls guard() and must see every row. "
        "HINT: Have guard() called by the owner of public.flow or by a role with BYPASSRLS."
    )
    assert rows(admin, "SELECT flowguard.guard('child', 'flow')") != []


@reaches(("undo", "is still running"))
def test_a_run_that_is_still_running_is_not_undone(world: World, connect: Connect, tell: Teller) -> None:
    dsn = world("observe")
    owner, repairing = connect(dsn, "app_owner"), connect(dsn, "app_owner")
    run(owner, "INSERT INTO parent (id, tenant) SELECT n, 1 FROM generate_series(1, 100) n")
    ended: list[str | None] = []

    def repair() -> None:
        try:
            run(repairing, "CALL flowguard.repair('parent', max_rate => 1, link_column => 'flow')")
        except psycopg.Error as error:
            ended.append(error.sqlstate)

    pid = repairing.info.backend_pid
    thread = threading.Thread(target=repair)
    thread.start()
    while not (begun := rows(owner, "SELECT run_id FROM flowguard.run WHERE status = 'running'")):
        run(owner, "SELECT pg_sleep(0.01)")
    run_id = begun[0][0]
    said = tell(hear(owner, f"SELECT flowguard.undo({run_id})"), "still running")
    assert normal(str(said)) == (
        f"ERROR: FG206: flowguard: run {run_id} is still running DETAIL: Server process {pid} runs it. "
        f'HINT: Wait for it, or run "SELECT pg_terminate_backend({pid})"; then call flowguard.undo({run_id}) again.'
    )
    stop, again = statements(said.hint)
    assert one(owner, stop) is True
    thread.join()
    assert ended == ["57P01"]
    while one(owner, "SELECT count(*) FROM pg_stat_activity WHERE pid = %s", pid):
        run(owner, "SELECT pg_sleep(0.01)")
    assert hear(owner, again) == []


@reaches(("_read_filter", "RAISE;"))
def test_an_error_of_the_application_comes_through_a_filter(world: World, connect: Connect, tell: Teller) -> None:
    owner = connect(world("known"), "app_owner")
    run(
        owner,
        "CREATE FUNCTION broken(integer) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'broken' USING ERRCODE = 'ZZ001'; END $$",
    )
    said = tell(
        hear(
            owner,
            "SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', 'broken(1)', "
            "link_column => 'flow')",
        ),
        "broken",
    )
    assert (said.code, said.message) == ("ZZ001", "broken")
    assert one(owner, "SHOW search_path") == '"$user", public'


@reaches(("_check_row_filter", "RAISE;"))
def test_an_error_of_the_application_comes_through_a_condition(world: World, connect: Connect, tell: Teller) -> None:
    owner = connect(world("known"), "app_owner")
    run(
        owner,
        "CREATE FUNCTION broken(integer) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'broken' USING ERRCODE = 'ZZ001'; END $$",
    )
    call = "CALL flowguard.repair('probe', link_column => 'flow', row_filter => 'broken(1)')"
    said = tell(hear(owner, call), "broken")
    assert (said.code, said.message) == ("ZZ001", "broken")


@reaches(("_repair_links", "RAISE;"))
def test_repair_gives_up_on_a_conflict_that_never_ends(world: World, connect: Connect, tell: Teller) -> None:
    owner = connect(world("observe"), "app_owner")
    perform(
        owner,
        """
INSERT INTO parent (id, tenant) VALUES (1, 1);
INSERT INTO child (id, tenant, parent) VALUES (1, 1, 1);
ALTER TABLE parent DISABLE TRIGGER USER;
UPDATE parent SET flow = 1;
CREATE SEQUENCE tries;
CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM nextval('public.tries');
  RAISE EXCEPTION 'could not serialize access' USING ERRCODE = '40001';
END $$;
CREATE TRIGGER conflict BEFORE UPDATE ON child FOR EACH ROW EXECUTE FUNCTION conflict();
""",
    )
    said = tell(hear(owner, "CALL flowguard.repair('child', link_column => 'flow')"), "could not serialize")
    assert said.code == "40001"
    assert one(owner, "SELECT last_value FROM tries") == 10
    assert rows(owner, "SELECT flow FROM child") == [(None,)]


@reaches(("_serialize", "since this one began"))
def test_another_transaction_was_first_to_change_the_registry(world: World, connect: Connect, tell: Teller) -> None:
    dsn = world("known")
    early, late = connect(dsn, "app_owner"), connect(dsn, "app_owner")
    call = "SELECT flowguard.guard('child', 'flow')"
    run(early, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_snapshot()")
    perform(late, "SELECT flowguard.guard('parent', 'flow')")
    said = tell(hear(early, call), "since this one began")
    assert normal(str(said)) == (
        "ERROR: 40001: flowguard: another transaction has changed what is registered or guarded since this one began "
        "DETAIL: This one is REPEATABLE READ and does not see that change. "
        "HINT: Try the transaction again, or at READ COMMITTED."
    )
    run(early, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_snapshot()")
    assert hear(early, f"{call}; COMMIT") == []
