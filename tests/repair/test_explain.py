"""How a row came by its link, or why it has none: each kind of row, each rule, and what the ledger knows of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from engine.postgres import Connection, refused, rows, run
from engine.tables import add_reference, create, guard, links, register
from repair.calls import repair, undo

from pyflowguard import repair as repairs
from pyflowguard.errors import UsageError

EVENTS = """
INSERT INTO event VALUES
  (50, 1, 1, 'live', '2025-01-01 00:00Z'), (51, 1, 2, 'live', '2025-01-01 01:00Z'),
  (52, 1, 2, 'live', '2025-01-01 01:10Z'), (53, 1, 404, 'live', '2025-01-01 00:20Z'),
  (54, 1, NULL, 'live', '2025-01-01 00:25Z'), (55, 1, 3, 'deleted', '2025-01-01 00:25Z')
"""
PROBE = "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:25Z')"


@pytest.fixture
def app(db: Connection) -> Connection:
    """Registered, not guarded; events for probes."""
    create(db)
    register(db)
    run(db, EVENTS)
    return db


def explain(app: Connection, table: str, key: object, link: str = "flow") -> list[tuple[str, int | None, str, Any]]:
    return rows(app, "SELECT * FROM flowguard.explain(%s::regclass, %s::jsonb, %s)", table, json.dumps(key), link)


def parts(told: list[tuple[str, int | None, str, Any]]) -> list[str]:
    return [part for part, *_ in told]


def detail(told: list[tuple[str, int | None, str, Any]], part: str, position: int | None = None) -> Any:  # noqa: ANN401
    found = [d for p, n, _, d in told if p == part and (position is None or n == position)]
    assert len(found) == 1, told
    return found[0]


def test_a_row_that_a_repair_linked_by_time(app: Connection) -> None:
    run(app, PROBE)
    done = repair(app, "probe", link_column="flow")
    told = explain(app, "probe", 1)
    assert parts(told) == ["row", "rule", "run"]
    assert detail(told, "row") == {"row_key": {"id": 1}, "link": "1", "kind": "linked", "reason": None}
    # Event 53 lies nearer and has no master, 54 no link; 55 does not meet the filter.
    assert detail(told, "rule", 1) == {
        "kind": "proximity",
        "source": "public.event",
        "outcome": "found",
        "within": "01:00:00",
        "link": "1",
        "source_key": {"id": 50},
        "source_time": detail(told, "rule", 1)["source_time"],
        "distance": "00:25:00",
        "candidates": 4,
        "masters": 2,
    }
    said = detail(told, "run", done.id)
    assert {name: said[name] for name in ("kind", "rule", "rule_kind", "distance", "candidates", "new_link")} == {
        "kind": "linked",
        "rule": 1,
        "rule_kind": "proximity",
        "distance": "00:25:00",
        "candidates": 2,
        "new_link": "1",
    }
    assert told[-1][2] == (
        f"run {done.id}, linked: NULL became 1 by rule 1, proximity, 00:25:00 away, candidates: 2 or more"
    )


@pytest.mark.parametrize(
    ("gone", "candidates"),
    [("id > 50", 1), ("id > 53", 2), ("id IN (51, 52)", 2), ("id IN (51, 52, 53)", 1), ("id < 53", None)],
)
def test_how_many_candidates_a_run_keeps(app: Connection, gone: str, candidates: int | None) -> None:
    """One, or two or more; those count whose master is not there, as they lie in the window with a link."""
    run(app, PROBE)
    run(app, f"DELETE FROM event WHERE {gone}")  # noqa: S608  ours
    repair(app, "probe", link_column="flow")
    kept = rows(app, "SELECT candidates, distance FROM flowguard.run_change WHERE table_name = 'probe'")
    assert kept == ([] if candidates is None else [(candidates, timedelta(minutes=25))])


def test_the_ledger_keeps_what_was_and_the_rules_say_what_is(app: Connection) -> None:
    run(app, PROBE)
    done = repair(app, "probe", link_column="flow")
    run(app, "INSERT INTO event VALUES (60, 1, 3, 'live', '2025-01-01 00:26Z')")
    told = explain(app, "probe", 1)
    assert detail(told, "run", done.id)["distance"] == "00:25:00"
    assert (detail(told, "rule", 1)["link"], detail(told, "rule", 1)["distance"]) == ("3", "00:01:00")
    assert "the link that the row has" not in told[1][2]


def test_a_link_that_no_run_wrote(app: Connection) -> None:
    """What was filled when the row was written is not kept; what rules yield now is told as such."""
    guard(app, "probe")
    run(app, PROBE)
    assert links(app, "probe") == {1: 1}
    told = explain(app, "probe", 1)
    assert parts(told) == ["row", "rule", "written"]
    assert told[-1][1] == 1
    assert told[-1][2].endswith("as all is now, rule 1 would fill in the same")
    assert detail(told, "written") == {"computed": True, "rule": 1}
    run(app, "UPDATE probe SET flow = 3")
    told = explain(app, "probe", 1)
    assert detail(told, "written") == {"computed": True}
    assert told[-1][2].endswith("as all is now, no rule would fill in the same")


def test_a_run_that_was_taken_back(app: Connection) -> None:
    run(app, PROBE)
    done = repair(app, "probe", link_column="flow")
    undo(app, done.id)
    told = explain(app, "probe", 1)
    assert parts(told) == ["row", "rule", "run", "remedy"]
    assert detail(told, "run", done.id)["undone"] == "restored"
    assert told[2][2].endswith("; taken back")
    run(app, "UPDATE probe SET flow = 1")
    assert "written" in parts(explain(app, "probe", 1))


@pytest.mark.parametrize(
    ("at", "outcome", "reason"),
    [
        ("2025-01-01 03:00Z", "nothing", "01:50:00 away; the window is 01:00:00"),
        (None, "nothing", "at is NULL"),
        ("infinity", "nothing", "at is infinity"),
        ("2025-01-01 00:25Z", "found", ""),
    ],
)
def test_an_unlinked_row_by_time(app: Connection, at: str | None, outcome: str, reason: str) -> None:
    run(app, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, %s)", at)
    told = explain(app, "probe", {"id": 1})
    assert parts(told) == ["row", "rule", "remedy"]
    assert detail(told, "row")["kind"] == "unlinked"
    assert detail(told, "rule", 1)["outcome"] == outcome
    assert reason in told[1][2]
    assert reason in detail(told, "row")["reason"]
    repairs = outcome == "found"
    assert ("call flowguard.repair('public.probe', link_column => 'flow')" in told[2][2]) == repairs
    repair(app, "probe", link_column="flow")
    assert (links(app, "probe")[1] is not None) == repairs


def test_an_ambiguous_row(app: Connection) -> None:
    run(app, "UPDATE flowguard.rule SET on_ambiguous = 'leave' WHERE kind = 'proximity'")
    run(app, PROBE)
    told = explain(app, "probe", 1)
    assert detail(told, "row")["kind"] == "ambiguous"
    assert (detail(told, "rule", 1)["outcome"], detail(told, "rule", 1)["masters"]) == ("ambiguous", 2)
    assert told[-1][:3] == ("remedy", None, "Set flow to the key of a master of public.flow.")


def test_rules_in_order(app: Connection) -> None:
    """Each with what it yields, until one has the say."""
    run(app, "ALTER TABLE probe ADD parent integer, ADD child integer")
    add_reference(app, "probe", "parent", "parent", agree=False, position=1)
    add_reference(app, "probe", "child", "child", agree=False, position=2)
    run(app, "SELECT flowguard.add_session_rule('probe', 'flow', \"position\" => 1)")
    run(app, "INSERT INTO parent VALUES (10, 1, NULL); INSERT INTO child VALUES (20, 1, 2)")
    run(app, "INSERT INTO probe (id, tenant, at, parent, child) VALUES (1, 1, '2025-01-01 00:25Z', 10, 20)")
    told = explain(app, "probe", 1)
    assert [(n, d["outcome"]) for part, n, _, d in told if part == "rule"] == [
        (1, "not asked"),
        (2, "nothing"),
        (3, "found"),
        (4, "not asked"),
    ]
    assert (detail(told, "rule", 3)["source_key"], detail(told, "rule", 3)["link"]) == ({"id": 20}, "2")
    assert told[4][2] == "rule 4, proximity: not asked, for rule 3 has the say"
    done = repair(app, "probe", link_column="flow")
    assert detail(explain(app, "probe", 1), "run", done.id)["rule_kind"] == "reference"


def test_a_row_that_waits_for_its_reference(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, NULL); INSERT INTO child VALUES (20, 1, NULL, NULL, 10)")
    told = explain(app, "child", 20)
    assert detail(told, "rule", 1)["outcome"] == "waits"
    assert told[-1][2] == "Set flow of row 10 of public.parent, which this row follows."
    run(app, "UPDATE parent SET flow = 1")
    told = explain(app, "child", 20)
    assert (detail(told, "rule", 1)["outcome"], detail(told, "rule", 1)["link"]) == ("found", "1")


def test_a_dangling_row_from_its_quarantine_and_back(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, 77); INSERT INTO child VALUES (20, 1, NULL, NULL, 10)")
    told = explain(app, "parent", 10)
    assert (parts(told)[0], parts(told)[-1]) == ("row", "remedy")
    assert "flow = 77 is no id of public.flow" in detail(told, "row")["reason"]
    assert "what on_orphan says: quarantine" in told[-1][2]
    done = repair(app, "parent", link_column="flow")
    told = explain(app, "parent", 10)
    assert parts(told) == ["quarantine"]
    assert told[0][1] == done.id
    assert f"flow = 77 is no key of a master, and nothing leads to one; SELECT flowguard.undo({done.id})" in told[0][2]
    assert "went with row" in explain(app, "child", 20)[0][2]
    undo(app, done.id)
    told = explain(app, "parent", 10)
    assert parts(told)[0] == "row"
    assert "put back at" in next(summary for part, _, summary, _ in told if part == "quarantine")


def test_a_translated_row(app: Connection) -> None:
    run(app, "ALTER TABLE flow ADD alias integer; UPDATE flow SET alias = 100 + id")
    run(app, "UPDATE flowguard.master SET alternate_keys = '{alias}'")
    run(app, "INSERT INTO parent VALUES (10, 1, 101)")
    assert "it is another key of the master 1" in detail(explain(app, "parent", 10), "row")["reason"]
    done = repair(app, "parent", link_column="flow")
    assert f"run {done.id}, translated: 101 became 1" in [summary for _, _, summary, _ in explain(app, "parent", 10)]


def test_other_wrong_rows(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, 9)")
    told = explain(app, "parent", 10)
    assert (detail(told, "row")["kind"], detail(told, "row")["reason"]) == (
        "mismatched",
        "master 9 is of another tenant",
    )
    assert told[0][2] == "flow = 9: mismatched (master 9 is of another tenant)"
    assert (told[-1][0], told[-1][2].startswith("Set flow to the key of a master of public.flow")) == ("remedy", True)
    run(app, "INSERT INTO probe (id, flow) VALUES (1, 1)")
    told = explain(app, "probe", 1)
    assert (detail(told, "row")["kind"], told[-1][2]) == ("tenantless", "Set tenant.")


@pytest.mark.parametrize("is_guarded", [True, False])
def test_a_row_that_follows_another_is_mended_by_taking_its_own_link_away(app: Connection, is_guarded: bool) -> None:
    run(app, "INSERT INTO parent VALUES (10, 1, 1); INSERT INTO child VALUES (20, 1, 2, NULL, 10)")
    if is_guarded:
        guard(app)
    told = explain(app, "child", 20)
    assert told[0][2] == "flow = 2: mismatched (flow = 2, but row 10 of public.parent has 1)"
    repair_call = "call flowguard.repair('public.child', link_column => 'flow')"
    way = ": it is filled again" if is_guarded else f", then {repair_call}"
    assert told[-1][2] == f"Set flow of this row to NULL{way}, or mend what it must agree with."
    run(app, "UPDATE child SET flow = NULL")
    if not is_guarded:
        run(app, repair_call)
    assert links(app, "child") == {20: 1}


def test_it_agrees_with_the_view_of_violations(app: Connection) -> None:
    run(app, PROBE)
    run(app, "INSERT INTO probe (id, tenant, flow, at) VALUES (2, 1, 404, '2026-01-01'), (3, NULL, 1, NULL)")
    run(app, "INSERT INTO parent VALUES (10, 1, 9), (11, 1, 1); INSERT INTO child VALUES (20, 1, 2, NULL, 11)")
    listed = rows(app, "SELECT relation::text, row_key, kind, reason FROM flowguard.violation")
    assert len(listed) == 7
    for table, key, kind, reason in listed:
        said = detail(explain(app, table, key), "row")
        assert (said["kind"], said["reason"]) == (kind, reason)


# --- Keys


@pytest.fixture
def wide(db: Connection) -> Connection:
    """Rows whose key is a text and a time."""
    create(db)
    run(db, "CREATE TABLE wide (a text, at timestamptz, flow integer, tenant integer, PRIMARY KEY (a, at))")
    run(db, "SELECT flowguard.add_master('flow', 'id', '{tenant}'); SELECT flowguard.add_link('wide', 'flow')")
    run(db, "INSERT INTO wide VALUES ('x=1,y', '2025-01-01 00:00Z', 404, 1)")
    return db


@pytest.mark.parametrize(
    "key",
    [
        ["a=x=1,y", "at=2025-01-01 00:00Z"],
        ["at=2025-01-01 01:00+01", "a=x=1,y"],
        ['{"a": "x=1,y", "at": "2025-01-01T00:00:00+00:00"}'],
    ],
)
def test_a_key_of_two_columns(wide: Connection, key: list[str]) -> None:
    told = repairs.explain("wide", key, wide.info.dsn, link_column="flow")
    assert told[0].detail["kind"] == "dangling"
    run(wide, "SET timezone = 'Asia/Kolkata'")
    done = repair(wide, "wide", link_column="flow")
    told = repairs.explain("wide", key, wide.info.dsn, link_column="flow")
    assert [(part.part, part.position) for part in told] == [("quarantine", done.id)]


def test_how_a_key_is_typed() -> None:
    assert repairs.read_key(["7"], ["a"]) == "7"
    assert repairs.read_key(["x=1"], ["a"]) == "x=1"
    assert repairs.read_key(["a=x=="], ["a"]) == {"a": "x=="}
    assert repairs.read_key(["a=1,b=2"], ["a", "b"]) == {"a": "1", "b": "2"}
    assert repairs.read_key(["a=1,b=2"], ["a"]) == {"a": "1,b=2"}
    assert repairs.read_key(["a=1", "b=2,3"], ["a", "b"]) == {"a": "1", "b": "2,3"}
    assert repairs.read_key(["a=1,2"], ["a"]) == {"a": "1,2"}
    assert repairs.read_key(['{"a": 1}'], ["a"]) == {"a": 1}
    for wrong in (["a=1", "2"], ["1", "2"], ["{1}"]):
        with pytest.raises(UsageError):
            repairs.read_key(wrong, ["a", "b"])
    for twice in (["a=1", "a=2"], ["a=1,a=2"]):
        with pytest.raises(UsageError, match="names column a twice"):
            repairs.read_key(twice, ["a", "b"])


def test_a_text_key_with_an_equals_sign(db: Connection) -> None:
    create(db)
    run(db, "CREATE TABLE told (code text PRIMARY KEY, flow integer, tenant integer)")
    run(db, "SELECT flowguard.add_master('flow', 'id', '{tenant}'); SELECT flowguard.add_link('told', 'flow')")
    run(db, "INSERT INTO told VALUES ('x=y', 404, 1), ('-z=', 404, 1)")
    for key in ("x=y", "-z=", "code=x=y"):
        told = repairs.explain("told", [key], db.info.dsn, link_column="flow")
        assert told[0].detail["row_key"] == {"code": key.removeprefix("code=")}


@pytest.mark.parametrize("key", [["one"], ["x=1"], ["id=1", "x=2"], ['{"x": 1}']])
def test_a_bad_key_on_the_command_line_is_told_how_to_type_it(app: Connection, key: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        repairs.explain("probe", key, app.info.dsn, link_column="flow")
    assert caught.value.hint == "Give the value alone, or id=VALUE, quoted as the shell needs it."
    assert (caught.value.detail or "").startswith("The key of its rows is (id).")


def test_a_bad_key_of_two_columns_on_the_command_line(wide: Connection) -> None:
    with pytest.raises(UsageError) as caught:
        repairs.explain("wide", ["x"], wide.info.dsn, link_column="flow")
    assert caught.value.hint == "Give a=VALUE at=VALUE, each quoted as the shell needs it, or a JSON object."


@pytest.mark.parametrize(
    "key", [{"id": 1, "tenant": 1}, {"tenant": 1}, {}, {"id": None}, None, "one", [1], {"id": 2**40}, 1.5]
)
def test_what_is_no_key(app: Connection, key: object) -> None:
    with refused("FG104") as refusal:
        explain(app, "probe", key)
    refusal.says("is no key of a row of table", "The key of its rows is (id).", """Pass row_key => '{"id": "…"}'.""")


def test_no_such_row(app: Connection) -> None:
    with refused("FG104") as refusal:
        explain(app, "probe", 1)
    refusal.says('table public.probe has no row {"id": 1}')
    with refused("FG107"):
        explain(app, "probe", 1, link="no_such")
    with refused("FG107"):
        explain(app, "flow", 1)


def test_a_row_of_a_partition_that_was_taken_out_of_the_whole(db: Connection) -> None:
    create(db)
    run(
        db,
        "CREATE TABLE log (id integer PRIMARY KEY, tenant integer, flow integer) PARTITION BY RANGE (id);"
        "CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (1) TO (100);"
        "SELECT flowguard.add_master('flow', 'id', '{tenant}');"
        "SELECT flowguard.add_link('log_1', 'flow'); INSERT INTO log VALUES (1, 1, 77)",
    )
    repair(db, "log_1", link_column="flow")
    run(db, "SELECT flowguard.drop_link('log_1', 'flow'); SELECT flowguard.add_link('log', 'flow')")
    assert parts(explain(db, "log", 1)) == ["quarantine"]


# --- Rights


def test_the_viewer_may_call_it_without_rights_on_the_tables(
    app: Connection, roles: Callable[[str], Connection]
) -> None:
    """As for the view violation; row security that would hide rows is an error."""
    run(app, PROBE)
    viewer = roles("flowguard_viewer")
    assert explain(viewer, "public.probe", 1) == explain(app, "probe", 1)
    for query in ("SELECT FROM probe", "SELECT * FROM flowguard.preview()"):
        with refused("42501"):
            run(viewer, query)
    run(app, "ALTER TABLE probe ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    with refused("42501"):
        explain(viewer, "public.probe", 1)
