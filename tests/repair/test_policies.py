"""What repair does with single rows, each of one kind: linked, translated, left alone, unlinked or taken out."""

from __future__ import annotations

import pytest
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import add_reference, guard, links
from repair.calls import changes, dump, repair, undo

DDL = """
CREATE TABLE flow (id integer PRIMARY KEY, tenant integer NOT NULL, alias integer, created_at timestamptz);
CREATE TABLE parent (id integer PRIMARY KEY, tenant integer, flow integer);
CREATE TABLE child (id integer PRIMARY KEY, tenant integer, flow integer,
                    parent integer REFERENCES parent ON DELETE CASCADE);
CREATE TABLE probe (id integer PRIMARY KEY, tenant integer, flow integer, at timestamptz);
CREATE TABLE event (id integer PRIMARY KEY, tenant integer, flow integer, at timestamptz);
INSERT INTO flow VALUES (1, 1, 101), (2, 1, 102), (3, 1, 103), (4, 1, 103), (9, 2, 109);
"""
LINKS = ("parent", "child", "probe", "event")


@pytest.fixture
def app(db: Connection) -> Connection:
    """The tables, without a link registered."""
    run(db, DDL)
    return db


def register(app: Connection, policy: str = "quarantine", mode: str = "observe", leave: str = "nearest") -> None:
    run(app, "SELECT flowguard.add_master('flow', 'id', '{tenant}', alternate_keys => '{alias}')")
    for table in LINKS:
        run(
            app,
            "SELECT flowguard.add_link(%s::regclass, 'flow', on_orphan => %s, mode => %s)",
            table,
            policy,
            mode,
        )
    add_reference(app, "child", "parent", "parent")
    run(
        app,
        "SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', link_column => 'flow', "
        "on_ambiguous => %s)",
        leave,
    )


def kinds(app: Connection, table: str) -> dict[int, str]:
    """Give what flowguard.violation lists of a table, by id."""
    return dict(
        rows(app, "SELECT (row_key ->> 'id')::int, kind FROM flowguard.violation WHERE relation = %s::regclass", table)
    )


# --- Orphans


@pytest.mark.parametrize(
    ("policy", "left", "counts"),
    [("quarantine", {}, (1, 0, 0)), ("unlink", {10: None}, (0, 1, 1)), ("keep", {10: 77}, (0, 0, 1))],
)
@pytest.mark.parametrize("guarded", [False, True])
def test_an_orphan_goes_where_the_policy_says(
    app: Connection, policy: str, left: dict[int, int], counts: tuple[int, int, int], *, guarded: bool
) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, 77)")
    register(app, policy)
    if guarded:
        guard(app, *LINKS)
    done = repair(app)
    assert links(app, "parent") == left
    assert (done.quarantined, done.unlinked, done.remaining) == counts
    assert one(app, "SELECT count(*) FROM flowguard.quarantine") == counts[0]
    kind = {"quarantine": {}, "unlink": {10: "unlinked"}, "keep": {10: "dangling"}}
    assert kinds(app, "parent") == kind[policy]


@pytest.mark.parametrize("policy", ["quarantine", "unlink", "keep"])
def test_enforce_never_unlinks(app: Connection, policy: str) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, 77), (11, 1, NULL)")
    run(app, "INSERT INTO child VALUES (20, 1, 77, 11)")
    register(app, policy, mode="enforce")
    guard(app, *LINKS)
    done = repair(app)
    assert done.unlinked == 0
    assert links(app, "parent") == ({11: None} if policy == "quarantine" else {10: 77, 11: None})
    assert links(app, "child") == {20: 77}  # it waits: nothing may be set to NULL, and it is no orphan


@pytest.mark.parametrize("policy", ["quarantine", "unlink"])
def test_a_dangling_row_that_waits_for_its_reference_is_no_orphan(app: Connection, policy: str) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, NULL)")
    run(app, "INSERT INTO child VALUES (20, 1, 77, 10)")
    register(app, policy)
    done = repair(app)
    assert done.quarantined == 0
    assert one(app, "SELECT count(*) FROM child") == 1
    run(app, "UPDATE parent SET flow = 1")
    repair(app)
    assert links(app, "child") == {20: 1}


def test_an_orphan_of_unknown_tenant_is_an_orphan(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (10, NULL, 77)")
    register(app, "quarantine", mode="enforce")
    guard(app, *LINKS)
    assert repair(app).quarantined == 1
    assert links(app, "parent") == {}


# --- Alternate keys


def test_an_alternate_key_of_one_master_is_translated(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, 101), (11, NULL, 102)")
    register(app)
    done = repair(app)
    assert (done.translated, done.remaining) == (2, 0)
    assert links(app, "parent") == {10: 1, 11: 2}
    assert changes(app, done.id) == [
        ("parent", {"id": 10}, "translated", "101", "1"),
        ("parent", {"id": 11}, "translated", "102", "2"),
    ]


def test_another_tenants_alternate_key_is_none(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, 109)")
    register(app, "keep")
    done = repair(app)
    assert (done.translated, done.remaining) == (0, 1)
    assert kinds(app, "parent") == {10: "dangling"}


def test_two_hits_are_kept_and_listed_as_ambiguous(app: Connection) -> None:
    run(app, "INSERT INTO event VALUES (50, 1, 1, '2025-01-01')")
    run(app, "INSERT INTO probe VALUES (60, 1, 103, '2025-01-01'), (61, 1, 103, '2026-01-01')")
    register(app, "quarantine")
    done = repair(app)
    assert (done.total, done.remaining) == (0, 2)
    assert links(app, "probe") == {60: 103, 61: 103}
    assert kinds(app, "probe") == {60: "ambiguous", 61: "ambiguous"}


def test_a_translation_does_not_disagree_with_the_reference(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, 2)")
    run(app, "INSERT INTO child VALUES (20, 1, 101, 10), (21, 1, 102, 10)")
    register(app)
    done = repair(app)
    assert links(app, "child") == {20: 2, 21: 2}
    assert (done.linked, done.translated) == (1, 1)


def test_in_enforce_a_translation_that_would_be_refused_is_left(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, NULL), (11, 1, 101)")
    run(app, "INSERT INTO child VALUES (20, 1, 101, 10), (21, 1, 101, 11)")
    register(app, mode="enforce")
    guard(app, *LINKS)
    done = repair(app)
    assert links(app, "parent") == {10: None, 11: 1}
    assert links(app, "child") == {20: 101, 21: 1}
    assert done.remaining == 2


# --- Rules


def test_a_row_left_as_ambiguous_is_listed(app: Connection) -> None:
    run(app, "INSERT INTO event VALUES (50, 1, 1, '2025-01-01 00:00Z'), (51, 1, 2, '2025-01-01 00:10Z')")
    run(app, "INSERT INTO probe VALUES (60, 1, NULL, '2025-01-01 00:00Z'), (61, 1, NULL, '2025-01-01 01:05Z')")
    register(app, leave="leave")
    assert (repair(app).linked, links(app, "probe")) == (1, {60: None, 61: 2})
    assert kinds(app, "probe") == {60: "ambiguous"}


@pytest.mark.parametrize("guarded", [False, True])
def test_an_infinite_time_is_no_error(app: Connection, *, guarded: bool) -> None:
    for number, time in enumerate(("-infinity", "infinity", "4713-01-01 BC", "294276-12-31")):
        run(app, "INSERT INTO event VALUES (%s, 1, 1, %s::timestamptz)", 50 + number, time)
        run(app, "INSERT INTO probe VALUES (%s, 1, NULL, %s::timestamptz)", 60 + number, time)
    register(app)
    run(app, "ANALYZE")
    if guarded:
        guard(app, *LINKS)
    repair(app)
    assert links(app, "probe").keys() == {60, 61, 62, 63}
    assert {links(app, "probe")[60], links(app, "probe")[61]} == {None}
    assert kinds(app, "probe")[60] == "unlinked"


def test_a_time_at_the_edge_of_the_range_is_no_error(app: Connection) -> None:
    run(app, "INSERT INTO event VALUES (50, 1, 1, '2025-01-01')")
    run(app, "INSERT INTO probe VALUES (60, 1, NULL, '294276-12-31'), (61, 1, NULL, '4713-01-01 BC')")
    register(app)
    assert repair(app).remaining == 2


def test_a_valid_link_is_never_moved(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, 2), (11, 1, 9)")
    run(app, "INSERT INTO child VALUES (20, 1, 1, 10)")
    register(app)
    assert repair(app).total == 0
    assert (links(app, "parent"), links(app, "child")) == ({10: 2, 11: 9}, {20: 1})
    assert (kinds(app, "parent"), kinds(app, "child")) == ({11: "mismatched"}, {20: "mismatched"})


# --- The call itself


def test_one_link_only(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, 101)")
    run(app, "INSERT INTO event VALUES (50, 1, 101, now())")
    register(app)
    done = repair(app, "event", link_column="flow")
    assert (links(app, "parent"), links(app, "event")) == ({10: 101}, {50: 1})
    run_row = rows(app, "SELECT relation, link_column FROM flowguard.run WHERE run_id = %s", done.id)
    assert run_row[0] in {("event", "flow"), ("public.event", "flow")}


def test_a_dry_run_changes_nothing_and_says_the_same(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, 101), (11, 1, 77), (12, 1, NULL), (13, 1, 1)")
    run(app, "INSERT INTO child VALUES (20, 1, NULL, 13), (21, 1, NULL, 11)")
    register(app)
    before = dump(app, "parent", "child", "flowguard.repair_run", "flowguard.quarantined_row")
    dry = repair(app, dry_run=True)
    assert dump(app, *before) == before
    done = repair(app)
    assert (dry.linked, dry.translated, dry.quarantined, dry.unlinked, dry.remaining) == (
        done.linked,
        done.translated,
        done.quarantined,
        done.unlinked,
        done.remaining,
    )
    assert dry.total == 3


def test_a_note_is_kept_with_the_run(app: Connection) -> None:
    register(app)
    done = repair(app, note="after the import of May")
    assert one(app, "SELECT note FROM flowguard.run WHERE run_id = %s", done.id) == "after the import of May"


@pytest.mark.parametrize("size", [0, -1, None])
def test_an_impossible_batch_size(app: Connection, size: int | None) -> None:
    register(app)
    with refused("FG104") as refusal:
        repair(app, batch_size=size)
    refusal.says("batch_size", "5000")
    assert one(app, "SELECT count(*) FROM flowguard.run") == 0


def test_a_link_that_is_not_registered(app: Connection) -> None:
    register(app)
    with refused("FG107"):
        repair(app, "parent", link_column="no_such")


def test_not_inside_a_transaction(app: Connection) -> None:
    register(app)
    with refused("2D000"), app.transaction():
        repair(app)


def test_row_security_makes_it_an_error_not_a_partial_repair(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, 101)")
    register(app)
    run(app, "ALTER TABLE parent ENABLE ROW LEVEL SECURITY; ALTER TABLE parent FORCE ROW LEVEL SECURITY")
    with refused("42501"):
        repair(app)
    assert one(app, "SELECT count(*) FROM flowguard.run_change") == 0


def test_the_applications_triggers_see_their_own_search_path(app: Connection) -> None:
    run(
        app,
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN PERFORM count(*) FROM flow; RETURN NEW; END$$;"
        "CREATE TRIGGER touch BEFORE UPDATE ON parent FOR EACH ROW EXECUTE FUNCTION touch()",
    )
    run(app, "INSERT INTO parent VALUES (10, 1, 101)")
    register(app)
    done = repair(app)
    assert links(app, "parent") == {10: 1}
    assert undo(app, done.id) == (1, 0, 0)
    assert links(app, "parent") == {10: 101}
