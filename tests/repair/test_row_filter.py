"""A repair of the rows that meet a condition: what passes as one, whose rights it has, and that others are let be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import create, guard, links, register
from repair.calls import repair, run_row, undo

from pyflowguard.database import Notice
from pyflowguard.errors import UsageError
from pyflowguard.present import counts_of
from pyflowguard.repair import preview
from pyflowguard.repair import repair as repair_by_command

COUNT = 40


@pytest.fixture
def app(db: Connection) -> Connection:
    """Forty probes at one time, which have an event, and the tenant of the last ten is unknown."""
    create(db)
    register(db)
    run(db, "INSERT INTO event VALUES (1, 1, 1, 'live', '2025-01-01 00:10Z')")
    run(
        db,
        "INSERT INTO probe (id, tenant, at, note) SELECT n, CASE WHEN n <= 30 THEN 1 END, '2025-01-01 00:00Z', "
        "'it''s ' || n FROM generate_series(1, 40) n",
    )
    return db


def some(app: Connection, condition: str | None, **options: object) -> tuple[int, int]:
    """Repair the probes that meet the condition; gives linked and remaining."""
    done = repair(app, "probe", link_column="flow", row_filter=condition, **options)
    return done.linked, done.remaining


def linked(app: Connection) -> set[int]:
    return {key for key, flow in links(app, "probe").items() if flow is not None}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        pytest.param("id > 10 AND id <= 20", range(11, 21), id="of columns"),
        pytest.param("probe.id = 7", [7], id="by the name of the table"),
        pytest.param("id = 7 OR id = 8", [7, 8], id="or, which binds less than what stands around it"),
        pytest.param("id = 7 -- not 8", [7], id="a remark at the end"),
        pytest.param("id /* not 8 */ = 7", [7], id="a remark inside"),
        pytest.param("note = 'it''s 7' OR note LIKE '%8)%'", [7], id="text with quotes, brackets and per cent"),
        pytest.param("(id, tenant) = ANY (SELECT 7, 1)", [7], id="a query"),
        pytest.param("at > now() - interval '1 day'", [], id="none"),
        pytest.param("NULL", [], id="unknown"),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 5000])
def test_it_comes_to_the_rows_that_meet_it(
    app: Connection, condition: str, expected: list[int], batch_size: int
) -> None:
    assert some(app, condition, batch_size=batch_size) == (len(expected), 0)
    assert linked(app) == set(expected)


BROKEN_OUT = [
    "true) OR (true",
    "id = 7) c, (SELECT 1",
    "id = 7\n) OR (true",
    "id = 7 -- \n) OR (true",
    "id = 7 /* ) OR ( */ ) OR (true",
    "id = 7); DELETE FROM probe; SELECT (true",
    "id = 7; DELETE FROM probe",
    "id = 7 UNION ALL SELECT 1 FROM probe",
    "id = 7 ORDER BY 1",
    "id = 7 LIMIT 1",
    "id = 7 FOR UPDATE",
    "id = 7 /*",
    "id = 7 OR note = '",
    "id = 7 OR note = $a$",
    "true, false",
    "SELECT true",
    "$1 IS NULL",
    "id",
    "count(*) > 0",
    "no_such = 1",
    "id = 'seven'",
    "child.id = 7",
    "c.id = 7",
    "EXISTS (WITH gone AS (DELETE FROM probe RETURNING 1) SELECT FROM gone)",
    "",
]


@pytest.mark.parametrize("condition", BROKEN_OUT)
def test_what_is_no_condition_is_refused_before_anything_is_done(app: Connection, condition: str) -> None:
    for call in (
        lambda: some(app, condition),
        lambda: rows(app, "SELECT * FROM flowguard.preview('probe', 'flow', %s)", condition),
    ):
        with refused("FG104") as refusal:
            call()
        refusal.says("row_filter", "is no condition on table probe", "row_filter => ")
    assert len(links(app, "probe")) == COUNT
    assert linked(app) == set()
    assert rows(app, "SELECT FROM flowguard.run") == []


def test_it_needs_a_table(app: Connection) -> None:
    with refused("FG104") as refusal:
        repair(app, row_filter="true")
    refusal.says("row_filter is given without a table")
    assert rows(app, "SELECT FROM flowguard.run") == []


def test_others_are_neither_touched_nor_counted(app: Connection) -> None:
    run(app, "UPDATE probe SET flow = 404 WHERE id IN (1, 2, 31, 32)")
    done = repair(app, "probe", link_column="flow", row_filter="id NOT IN (2, 32) AND id > 0")
    assert (done.linked, done.quarantined, done.remaining) == (28 + 1, 1, 9 - 1)
    assert rows(app, "SELECT id FROM probe WHERE flow = 404 ORDER BY 1") == [(2,), (32,)]
    assert one(app, "SELECT count(*) FROM flowguard.quarantine") == 1


def test_what_goes_with_a_row_that_meets_it_is_told(app: Connection) -> None:
    run(app, "ALTER TABLE event ADD of integer REFERENCES parent ON DELETE SET NULL")
    run(app, "INSERT INTO parent VALUES (9, 1, 1), (10, 1, 404), (11, 1, 404), (12, 1, 404)")
    run(app, "INSERT INTO child VALUES (19, 1, NULL, NULL, 9), (20, 1, 404, NULL, 10), (21, 1, 404, NULL, 11)")
    run(app, "INSERT INTO child VALUES (22, 1, 404, NULL, 12)")
    run(app, "INSERT INTO grandchild SELECT n, 1, NULL, NULL, 19 FROM generate_series(31, 33) n")
    run(app, "INSERT INTO event SELECT n, 1, NULL, 'live', NULL, NULL, n - 40 FROM generate_series(50, 52) n")
    dsn = app.info.dsn
    done = repair_by_command(dsn, "parent", link_column="flow", where="id IN (10, 11)")
    assert (done.quarantined, done.followed, done.taken_along, done.set_along) == (2, 0, 2, 2)
    assert counts_of(done) == (
        "0 linked, 0 translated, 2 quarantined (2 rows went with them, 2 were set), 0 unlinked, 0 remaining"
    )
    guard(app)
    done = repair_by_command(dsn, "child", link_column="flow", where="id = 19")
    assert (done.linked, done.followed, done.taken_along, done.set_along) == (1, 3, 0, 0)
    assert counts_of(done) == "1 linked (3 links followed), 0 translated, 0 quarantined, 0 unlinked, 0 remaining"
    assert links(app, "grandchild") == {31: 1, 32: 1, 33: 1}
    dry = repair_by_command(dsn, "parent", link_column="flow", where="id = 12", dry_run=True)
    assert (dry.quarantined, dry.followed, dry.taken_along, dry.set_along) == (1, None, None, None)
    done = repair_by_command(dsn, "parent", link_column="flow")
    assert "1 quarantined (1 row went with it, 1 was set)," in counts_of(done)


def test_a_row_that_may_not_be_written_is_passed_over(app: Connection) -> None:
    """Row by row, the next one is the next that meets the condition."""
    run(app, "ALTER TABLE probe ADD CHECK (id <> 6 OR flow IS NULL)")
    heard: list[str] = []
    app.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
    assert some(app, "id % 2 = 0 AND id <= 20") == (9, 1)
    assert [text.partition(" stays")[0] for text in heard] == ['row {"id": 6} of table probe']
    assert linked(app) == {n for n in range(2, 21, 2) if n != 6}


def test_it_is_kept_with_the_run_and_is_in_what_goes_on_with_it(app: Connection) -> None:
    condition = "note <> 'it''s 7'"
    done = repair(app, "probe", link_column="flow", row_filter=condition)
    assert run_row(app, done.id)["row_filter"] == condition
    assert run_row(app, repair(app, "probe", link_column="flow").id)["row_filter"] is None
    run(app, "UPDATE flowguard.repair_run SET status = 'stopped'")
    finding = "SELECT remedy FROM flowguard.check_all() WHERE name = 'run_stopped' AND cache_key = %s"
    remedy = one(app, finding, f"run_stopped:{done.id}")
    assert remedy == (
        "CALL flowguard.repair('public.probe', link_column => 'flow', row_filter => 'note <> ''it''''s 7''')"
    )
    undo(app, 1)


@pytest.mark.parametrize(
    ("condition", "goes_on"),
    [("id <= 20", True), ("id <= 20 ", False), ("id <= 21", False), (None, False)],
)
def test_a_run_goes_on_with_the_same_condition_only(app: Connection, condition: str | None, *, goes_on: bool) -> None:
    some(app, "id <= 20")
    run(app, "UPDATE flowguard.repair_run SET status = 'stopped'")
    assert repair(app, "probe", link_column="flow", row_filter=condition).id == (1 if goes_on else 2)


@pytest.mark.parametrize(
    ("between", "goes_on", "is_found"),
    [("id > 20", True, True), ("id <= 20", False, False), (None, False, False)],
)
def test_a_stopped_run_is_made_up_for_by_one_of_the_same_rows(
    app: Connection, between: str | None, *, goes_on: bool, is_found: bool
) -> None:
    some(app, "id <= 20")
    repair(app, "probe", link_column="flow", row_filter=between, resume=False)
    run(app, "UPDATE flowguard.repair_run SET status = 'stopped' WHERE run_id = 1")
    assert (rows(app, "SELECT FROM flowguard.check_all() WHERE name = 'run_stopped'") != []) == is_found
    again = repair(app, "probe", link_column="flow", row_filter="id <= 20")
    assert again.id == (1 if goes_on else 3)


def test_progress_is_of_the_rows_that_meet_it(app: Connection) -> None:
    run(app, "ANALYZE probe")
    done = repair(app, "probe", link_column="flow", row_filter="id <= 4")
    scanned, total, estimated = rows(
        app,
        "SELECT p.scanned, p.total, k.estimated FROM flowguard.repair_progress p "
        "JOIN flowguard.repair_link k USING (run_id) WHERE run_id = %s",
        done.id,
    )[0]
    assert (scanned, total) == (4, 4)
    assert estimated < COUNT / 2


def test_it_is_read_as_the_caller_reads_it(app: Connection) -> None:
    """Under the search_path of the call, wherever it is asked; so are operators."""
    run(
        app,
        "CREATE SCHEMA odd; CREATE FUNCTION odd.is_meant(integer) RETURNS boolean LANGUAGE sql AS 'SELECT $1 <= 3';"
        "CREATE FUNCTION odd.is_near(integer, integer) RETURNS boolean LANGUAGE sql AS 'SELECT abs($1 - $2) < 2';"
        "CREATE OPERATOR odd.~~~ (LEFTARG = integer, RIGHTARG = integer, FUNCTION = odd.is_near);"
        "ALTER TABLE probe ADD CHECK (id <> 2 OR flow IS NULL); SET search_path = odd, public",
    )
    condition = "is_meant(id) OR id ~~~ 10"
    (before,) = rows(app, "SELECT sum(amount) FROM flowguard.preview('probe', 'flow', %s)", condition)
    assert before == (6,)
    assert some(app, condition) == (5, 1)
    assert linked(app) == {1, 3, 9, 10, 11}


def test_it_has_the_rights_of_the_caller(app: Connection, roles: Callable[[str], Connection]) -> None:
    """A function in it sees the role that repairs, in a call of repair() and of preview(), and no other."""
    run(
        app,
        "GRANT SELECT, INSERT, UPDATE, DELETE ON probe, event, flow TO flowguard_admin;"
        "CREATE TABLE secret (id integer); CREATE TABLE seen (role text); GRANT ALL ON seen TO flowguard_admin;"
        "CREATE FUNCTION see(integer) RETURNS boolean LANGUAGE plpgsql AS "
        "$$BEGIN INSERT INTO seen VALUES (current_user); RETURN true; END$$",
    )
    deputy = roles("flowguard_admin")
    for condition in ("EXISTS (SELECT FROM secret)", "id IN (SELECT id FROM secret)"):
        with refused("FG104") as refusal:
            some(deputy, condition)
        assert "permission denied for table secret" in refusal.detail
    assert some(deputy, "see(id)") == (30, 10)
    assert rows(app, "SELECT DISTINCT role FROM seen") == [("flowguard_admin",)]
    assert one(deputy, "SELECT sum(amount) FROM flowguard.preview('probe', 'flow', 'see(id)')") == 10


def test_an_error_in_a_row_is_its_own(app: Connection) -> None:
    """Only when it is asked of that row does it fail: what was committed stays, and the run is one that was stopped."""
    run(app, "SET enable_sort = off; SET enable_seqscan = off; SET enable_bitmapscan = off")
    with refused("22012"):
        some(app, "1 / (id - 25) IS NOT NULL", batch_size=10)
    assert linked(app) == set(range(1, 21))
    assert one(app, "SELECT status FROM flowguard.run") == "stopped"


def test_by_the_command(app: Connection) -> None:
    dsn = app.info.dsn
    heard: list[Notice] = []
    told = preview(dsn, "probe", link_column="flow", where="id < 5", on_notice=heard.append)
    assert (told.run.linked, told.run.remaining, heard) == (4, 0, [])
    done = repair_by_command(dsn, "probe", link_column="flow", where="id < 5")
    assert (done.linked, done.remaining) == (4, 0)
    with pytest.raises(UsageError, match="row_filter 'true\\) OR \\(true' is no condition"):
        repair_by_command(dsn, "probe", link_column="flow", where="true) OR (true")
