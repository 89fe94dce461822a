"""What a repair would do, by outcome and rule, with examples and distances; and that nothing of it stays."""

from __future__ import annotations

from typing import Any

import pytest
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import LINKS, add_reference, create, guard, register
from repair.calls import dump, repair

LEDGER = ("repair_run", "repair_link", "repair_change", "quarantined_row", "privileged_transaction", "violation_seen")


@pytest.fixture
def app(db: Connection) -> Connection:
    """Events at noon and probes around it; the window is an hour."""
    create(db)
    register(db)
    run(db, "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 12:00Z')")
    run(
        db,
        "INSERT INTO probe (id, tenant, at) SELECT n, 1, timestamptz '2025-01-01 12:00Z' + n * interval '15 minutes' "
        "FROM generate_series(-20, 4) n",
    )
    return db


def preview(app: Connection, *tables: str, **given: object) -> dict[tuple[str, str, int | None], dict[str, Any]]:
    """Give what a preview tells, by table, outcome and rule."""
    names = "".join(f", {name} => %s" for name in given)
    query = f"SELECT to_jsonb(p) FROM flowguard.preview(%s::regclass, 'flow'{names}) p"  # noqa: S608  ours
    told = [row for (row,) in rows(app, query, *(tables or (None,)), *given.values())]
    return {(row["child"], row["outcome"], row["rule"]): row for row in told}


def everything(app: Connection) -> dict[str, Any]:
    return dict(dump(app, "flow", *LINKS, *(f"flowguard.{table}" for table in LEDGER)))


def test_distances_inside_and_outside(app: Connection) -> None:
    said = preview(app, "probe", samples=0)["probe", "linked", 1]
    assert (said["amount"], said["source"], said["rule_kind"], said["examples"]) == (9, "event", "proximity", [])
    # 15 minutes apart: 0 once, 15, 30, 45 and 60 twice; beyond on one side: 1:15 to 2:00, then to 4:00.
    assert said["distances"] == {
        "within": "01:00:00",
        "min": "00:00:00",
        "median": "00:30:00",
        "p90": "01:00:00",
        "p99": "01:00:00",
        "max": "01:00:00",
        "inside": [
            {"to": "00:03:45", "amount": 1},
            {"to": "00:07:30", "amount": 0},
            {"to": "00:15:00", "amount": 2},
            {"to": "00:30:00", "amount": 2},
            {"to": "01:00:00", "amount": 4},
        ],
        "nearest": "01:15:00",
        "outside": [{"to": "02:00:00", "amount": 4}, {"to": "04:00:00", "amount": 8}],
    }
    assert preview(app, "probe")["probe", "left unlinked", None]["amount"] == 16


@pytest.mark.parametrize(
    ("rule", "held"),
    [
        ("agree => true", "parent = 10"),
        ("agree => false", "false"),
    ],
)
def test_rows_that_an_earlier_rule_holds_are_not_outside(app: Connection, rule: str, held: str) -> None:
    """Whatever the window, the rule by time does not come to them."""
    run(app, "INSERT INTO parent VALUES (10, 1, NULL); ALTER TABLE probe ADD parent integer REFERENCES parent")
    add_reference(app, "probe", "parent", "parent", agree="true" in rule, position=1)
    run(app, "UPDATE probe SET parent = 10 WHERE id IN (-5, -6, -9)")
    outside = preview(app, "probe")["probe", "linked", 2]["distances"]["outside"]
    left = one(app, f"SELECT count(*) FROM probe WHERE id < -4 AND id >= -8 AND NOT coalesce({held}, false)")  # noqa: S608
    assert [bucket["amount"] for bucket in outside] == [left, 8 - (held != "false")]


def test_rows_that_are_ambiguous_are_not_outside(app: Connection) -> None:
    run(app, "UPDATE flowguard.rule SET on_ambiguous = 'leave' WHERE kind = 'proximity'")
    run(app, "INSERT INTO event VALUES (51, 1, 2, 'live', '2025-01-01 12:00Z')")
    run(app, "ALTER TABLE parent ADD at timestamptz")
    run(app, "INSERT INTO parent VALUES (10, 1, 3, NULL, '2025-01-01 12:20Z')")
    run(
        app,
        "SELECT flowguard.add_proximity_rule('probe', 'parent', '10 minutes', 'at', 'at', 'flow', "
        "link_column => 'flow')",
    )
    told = preview(app, "probe")
    assert told["probe", "linked", 1]["amount"] == 0
    # All within the hour are ambiguous by rule 1, and go no further.
    assert told["probe", "linked", 2]["amount"] == 0
    assert [b["amount"] for b in told["probe", "linked", 2]["distances"]["outside"]] == [0, 0]
    run(app, "DELETE FROM event WHERE id = 51")
    assert preview(app, "probe")["probe", "linked", 1]["amount"] == 9


def test_examples_say_where_links_are_from(app: Connection) -> None:
    told = preview(app, "probe", row_filter="id IN (-7, 2, 4)", samples=1)
    (linked,) = told["probe", "linked", 1]["examples"]
    at = one(app, "SELECT at::text FROM event WHERE id = 50")
    assert linked == {
        "row_key": {"id": 2},
        "new_link": "1",
        "source_key": {"id": 50},
        "source_time": at,
        "distance": "00:30:00",
        "candidates": 1,
    }
    (left,) = told["probe", "left unlinked", None]["examples"]
    assert left["row_key"] == {"id": -7}
    assert "01:45:00 away; the window is 01:00:00" in left["reason"]


def test_every_outcome(app: Connection) -> None:
    """Of a chain: an orphan, what goes with it, translated keys, what waits, and what is kept."""
    run(app, "ALTER TABLE flow ADD alias integer; UPDATE flow SET alias = 100 + id")
    run(app, "UPDATE flowguard.master SET alternate_keys = '{alias}'")
    run(app, "UPDATE flowguard.link SET on_orphan = 'unlink' WHERE relation = 'event'::regclass")
    run(app, "UPDATE flowguard.link SET on_orphan = 'keep' WHERE relation = 'probe'::regclass")
    run(app, "INSERT INTO parent VALUES (10, 1, 77), (11, 1, 101), (12, 1, NULL), (13, 1, 1)")
    run(app, "INSERT INTO child VALUES (20, 1, NULL, NULL, 10), (21, 1, NULL, NULL, 12), (22, 1, NULL, NULL, 13)")
    run(app, "INSERT INTO grandchild VALUES (30, 1, NULL, NULL, 20)")
    run(app, "INSERT INTO event VALUES (60, 1, 404, 'live', '2030-01-01')")
    run(app, "INSERT INTO probe (id, tenant, flow, at) VALUES (99, 1, 404, '2031-01-01')")
    before = everything(app)
    told = preview(app)
    assert {key: row["amount"] for key, row in told.items()} == {
        ("parent", "translated", None): 1,
        ("parent", "quarantined", None): 1,
        ("parent", "taken along", None): 2,
        ("parent", "left unlinked", None): 1,
        ("child", "linked", 1): 1,
        ("child", "left unlinked", None): 1,
        ("grandchild", "linked", 1): 0,
        ("event", "unlinked", None): 1,
        ("event", "left unlinked", None): 1,
        ("probe", "linked", 1): 9,
        ("probe", "left unlinked", None): 16,
        ("probe", "left dangling", None): 1,
    }
    assert told["parent", "translated", None]["examples"] == [
        {"row_key": {"id": 11}, "old_link": "101", "new_link": "1"}
    ]
    assert [e["relation"] for e in told["parent", "taken along", None]["examples"]] == [
        "public.child",
        "public.grandchild",
    ]
    assert everything(app) == before
    done = repair(app)
    assert (done.linked, done.translated, done.quarantined, done.unlinked, done.remaining) == (10, 1, 1, 1, 20)


def test_what_would_follow(app: Connection) -> None:
    """Of one link: rows of others that late linking would write because of it."""
    run(app, "ALTER TABLE parent ADD event integer")
    add_reference(app, "parent", "event", "event", agree=False)
    guard(app, "parent", "child")
    run(app, "SELECT flowguard.pause('parent', 'flow')")
    run(app, "INSERT INTO parent (id, tenant, event) VALUES (10, 1, 50)")
    run(app, "INSERT INTO child VALUES (20, 1, NULL, NULL, 10)")
    run(app, "SELECT flowguard.resume('parent', 'flow')")
    told = preview(app, "parent")
    assert told["parent", "linked", 2]["amount"] == 1
    followed = told["child", "followed", 1]
    assert (followed["amount"], followed["examples"]) == (1, [{"row_key": {"id": 20}, "new_link": "1"}])


def test_inside_a_transaction_nothing_of_it_stays(app: Connection) -> None:
    with app.transaction():
        run(app, "UPDATE event SET at = '2025-01-01 11:00Z'")
        before = everything(app)
        assert preview(app, "probe")["probe", "linked", 1]["distances"]["min"] == "00:00:00"
        assert everything(app) == before
        run(app, "INSERT INTO parent VALUES (10, 1, 1)")
        assert one(app, "SELECT coalesce(current_setting('flowguard.privileged', true), '')") == ""
    assert one(app, "SELECT flow FROM parent") == 1


def test_triggers_of_the_application_see_it_and_it_goes(app: Connection) -> None:
    run(app, "CREATE TABLE note (id integer)")
    run(
        app,
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN INSERT INTO note VALUES (NEW.id); RETURN NEW; END$$;"
        "CREATE TRIGGER note AFTER UPDATE ON probe FOR EACH ROW EXECUTE FUNCTION note()",
    )
    assert preview(app, "probe")["probe", "linked", 1]["amount"] == 9
    assert one(app, "SELECT count(*) FROM note") == 0
    repair(app, "probe", link_column="flow")
    assert one(app, "SELECT count(*) FROM note") == 9


def test_what_may_not_be_written_is_left(app: Connection) -> None:
    run(app, "ALTER TABLE probe ADD CHECK (id <> 2 OR flow IS NULL)")
    told = preview(app, "probe")
    assert told["probe", "linked", 1]["amount"] == 8
    assert told["probe", "left unlinked", None]["amount"] == 17


def test_impossible_arguments(app: Connection) -> None:
    for samples in (-1, None):
        with refused("FG104") as refusal:
            preview(app, samples=samples)
        refusal.says("samples")
    with refused("FG107"):
        preview(app, "flow")
