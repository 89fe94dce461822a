"""Triggers of the application that change a row before or after ours, turn it away, or keep it from going."""

from __future__ import annotations

from collections.abc import Callable
from threading import Timer

import pytest
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import Guarded, link, links
from neighbours.promises import kept, listed
from repair.calls import repair, undo

BEFORE_OURS = ["aaa", "zzz", "~a", "~"]
AFTER_OURS = ["~z", "~~", "é", "🙂"]


def before(connection: Connection, body: str, *, name: str = "a", on: str = "child", event: str = "INSERT") -> None:
    """Give a table a BEFORE ROW trigger with this body; it returns what the body leaves in NEW."""
    run(
        connection,
        f'CREATE FUNCTION "change {name}"() RETURNS trigger LANGUAGE plpgsql AS $change$\n'
        f"BEGIN\n  {body}\n  IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;\n  RETURN NEW;\nEND $change$;\n"
        f'CREATE TRIGGER "{name}" BEFORE {event} ON {on} FOR EACH ROW EXECUTE FUNCTION "change {name}"()',
    )


def probe_at_commit(app: Connection, session: Callable[[Connection], Connection], note: str = "") -> None:
    """Insert a probe whose event comes with another session's commit, so that only the look at commit finds it."""
    # No timeout of the server's ends a COMMIT: one that never comes to an end is cancelled.
    watch = Timer(30, app.cancel)
    watch.start()
    try:
        with app.transaction():
            run(app, "INSERT INTO probe (id, tenant, at, note) VALUES (1, 1, '2025-01-01 00:00Z', %s)", note)
            run(session(app), "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z')")
    finally:
        watch.cancel()


# --- Tenant, time, link and reference


def test_tenant_and_time_set_before_ours_are_those_of_the_row(guarded: Guarded) -> None:
    app = guarded("enforce")
    run(
        app, "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z'), (51, 2, 9, 'live', '2025-01-01 00:00Z')"
    )
    for name in BEFORE_OURS:
        before(app, "NEW.tenant := 2; NEW.at := '2025-01-01 00:30Z';", name=name, on="probe")
        # At once: what only the look at commit finds is not there for RETURNING.
        insert = "INSERT INTO probe (id, tenant, at) VALUES (1, NULL, NULL), (2, 1, '2030-01-01') RETURNING flow"
        assert rows(app, insert) == [(9,), (9,)], name
        run(app, f'DROP TRIGGER "{name}" ON probe; DELETE FROM probe')  # noqa: S608  a name of ours


def test_what_is_set_after_ours_is_seen_at_commit(guarded: Guarded) -> None:
    """A trigger whose name sorts after ours is too late for the BEFORE trigger, not for the look at commit."""
    app = guarded("enforce")
    run(app, "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z'); INSERT INTO parent VALUES (10, 1, 2)")
    for name in AFTER_OURS:
        before(app, "NEW.tenant := 1; NEW.at := '2025-01-01 00:30Z';", name=name, on="probe")
        before(app, "NEW.parent := 10;", name=name + "2")
        run(app, "INSERT INTO probe (id) VALUES (1); INSERT INTO child (id, tenant) VALUES (20, 1)")
        assert (link(app, "probe", 1), link(app, "child", 20)) == (1, 2)
        run(app, f'DROP TRIGGER "{name}" ON probe; DROP TRIGGER "{name}2" ON child')
        run(app, "DELETE FROM probe; DELETE FROM child")
    kept(app)


def test_another_tenant_set_after_ours_is_refused_by_the_key(guarded: Guarded) -> None:
    app = guarded()
    run(app, "INSERT INTO parent VALUES (10, 1, 1), (11, 2, 9)")
    before(app, "NEW.tenant := 2;", name="~z")
    with refused("23503") as refusal:
        run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    assert refusal.constraint == "flowguard_child_flow_tenant_fkey"
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (21, 1, 11)")
    assert links(app, "child") == {21: 9}
    kept(app)


@pytest.mark.parametrize(("mode", "kind"), [("observe", "mismatched"), ("enforce", None)])
def test_another_reference_set_after_ours_is_listed_or_refused(guarded: Guarded, mode: str, kind: str | None) -> None:
    app = guarded(mode)
    run(app, "INSERT INTO parent VALUES (10, 1, 1), (11, 1, 2)")
    before(app, "NEW.parent := 11;", name="~z")
    insert = "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)"
    if kind is None:
        with refused("23503") as refusal:
            run(app, insert)
        assert refusal.constraint == "flowguard_child_flow_parent_fkey"
    else:
        run(app, insert)
        assert listed(app) == {("child", 20): kind}


@pytest.mark.parametrize("name", ["a", "~z"])
def test_a_trigger_that_sets_the_link_itself_wins(guarded: Guarded, name: str) -> None:
    app = guarded()
    run(app, "INSERT INTO parent VALUES (10, 1, 1)")
    before(app, "NEW.flow := NEW.note;", name=name)
    run(app, "INSERT INTO child (id, tenant, parent, note) VALUES (20, 1, 10, '2')")
    assert link(app, "child", 20) == 2
    for wrong in ("404", "9"):
        with refused("23503"):
            run(app, "INSERT INTO child (id, tenant, parent, note) VALUES (21, 1, 10, %s)", wrong)


def test_a_trigger_that_takes_the_link_off_leaves_it_to_the_rules(guarded: Guarded) -> None:
    app = guarded("enforce")
    run(app, "INSERT INTO parent VALUES (10, 1, 1)")
    for n, name in enumerate(("a", "~z")):
        before(app, "NEW.flow := NULL;", name=name)
        run(app, "INSERT INTO child VALUES (%s, 1, 2, NULL, 10)", n)
        assert link(app, "child", n) == 1


def test_a_trigger_that_links_the_parent_first(guarded: Guarded) -> None:
    app = guarded("enforce")
    before(app, "INSERT INTO parent VALUES (NEW.parent, NEW.tenant, 2) ON CONFLICT DO NOTHING;")
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 1, 10)")
    assert (links(app, "parent"), links(app, "child")) == ({10: 2}, {20: 2, 21: 2})


# --- Turned away


def test_a_row_that_is_turned_away_leaves_no_trace(guarded: Guarded) -> None:
    app = guarded("enforce")
    run(app, "INSERT INTO parent VALUES (10, 1, 1)")
    for name in ("a", "~z"):
        before(app, f"IF NEW.note = 'away {name}' THEN RETURN NULL; END IF;", name=name)
    run(
        app,
        "INSERT INTO child (id, tenant, parent, note) "
        "VALUES (20, 1, NULL, 'away a'), (21, 1, 10, ''), (22, 1, NULL, 'away ~z')",
    )
    assert links(app, "child") == {21: 1}
    kept(app)


def test_a_row_that_may_not_follow_is_listed_in_observe(guarded: Guarded) -> None:
    app = guarded()
    before(app, "IF NEW.note = 'closed' THEN RETURN NULL; END IF;", event="UPDATE")
    run(app, "INSERT INTO parent VALUES (10, 1)")
    run(app, "INSERT INTO child (id, tenant, parent, note) VALUES (20, 1, 10, 'closed'), (21, 1, 10, '')")
    run(app, "UPDATE parent SET flow = 1")
    assert links(app, "child") == {20: None, 21: 1}
    assert listed(app) == {("child", 20): "unlinked"}
    assert repair(app).remaining == 1


def test_a_row_that_may_not_follow_is_refused_in_enforce(guarded: Guarded) -> None:
    app = guarded("enforce")
    before(app, "IF NEW.note = 'closed' THEN RETURN NULL; END IF;", event="UPDATE")
    run(app, "INSERT INTO parent VALUES (10, 1, 1)")
    run(app, "INSERT INTO child (id, tenant, parent, note) VALUES (20, 1, 10, 'closed')")
    with refused("23503") as refusal:
        run(app, "UPDATE parent SET flow = 2")
    assert refusal.constraint == "flowguard_child_flow_parent_fkey"
    with refused("FG001"), app.transaction():
        run(app, "INSERT INTO parent VALUES (11, 1)")
        run(app, "INSERT INTO child (id, tenant, parent, note) VALUES (21, 1, 11, 'closed')")
        run(app, "UPDATE parent SET flow = 1 WHERE id = 11")
    kept(app)


@pytest.mark.parametrize("body", ["RETURN NULL;", "NEW.flow := NULL;"], ids=["away", "off"])
@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_what_is_refused_to_the_look_at_commit(
    guarded: Guarded, session: Callable[[Connection], Connection], mode: str, body: str
) -> None:
    """An enforced row is refused; an observed one is listed, and not looked at for ever."""
    app = guarded(mode)
    before(app, f"IF NEW.note = 'closed' THEN {body} END IF;", on="probe", event="UPDATE")
    if mode == "enforce":
        with refused("FG001") as refusal:
            probe_at_commit(app, session, "closed")
        refusal.says("probe", "has no flow")
        assert links(app, "probe") == {}
    else:
        probe_at_commit(app, session, "closed")
        assert listed(app) == {("probe", 1): "unlinked"}
    kept(app)


def test_what_a_trigger_raises_at_commit_is_the_clients(
    guarded: Guarded, session: Callable[[Connection], Connection]
) -> None:
    """Also an error with a code of our class, as another link's refusal has: it is not taken for ours."""
    app = guarded()
    before(app, "RAISE EXCEPTION 'mine' USING ERRCODE = NEW.note;", on="probe", event="UPDATE")
    for code in ("FG003", "P0001"):
        with refused(code):
            probe_at_commit(app, session, code)
        assert links(app, "probe") == {}
        run(app, "DELETE FROM event")


def test_what_a_trigger_wrote_while_it_took_the_link_off_is_taken_back(
    guarded: Guarded, session: Callable[[Connection], Connection]
) -> None:
    app = guarded()
    run(app, "CREATE TABLE log (id integer)")
    before(app, "NEW.flow := NULL; INSERT INTO log VALUES (NEW.id);", on="probe", event="UPDATE")
    probe_at_commit(app, session)
    assert one(app, "SELECT count(*) FROM log") == 0


# --- Kept from going


@pytest.fixture
def orphans(guarded: Guarded) -> Connection:
    """The small application with two orphans, 10 and 11, that have a child each; nothing is guarded yet."""
    app = guarded()
    run(app, "SELECT flowguard.unguard(t, 'flow') FROM unnest('{grandchild,child,parent}'::regclass[]) t")
    run(app, "INSERT INTO parent VALUES (10, 1, 77, 'keep'), (11, 1, 78, NULL)")
    run(app, "INSERT INTO child (id, tenant, parent, note) VALUES (20, 1, 10, 'keep'), (21, 1, 11, NULL)")
    return app


@pytest.mark.parametrize("on", ["parent", "child"])
@pytest.mark.parametrize("body", ["UPDATE {0} SET note = 'gone' WHERE id = OLD.id; RETURN NULL;", "RAISE 'kept';"])
def test_a_row_that_is_kept_is_not_quarantined(orphans: Connection, on: str, body: str) -> None:
    """A delete that is made an update of a flag, or forbidden, of the orphan or of what would go with it."""
    before(orphans, f"IF OLD.note = 'keep' THEN {body.format(on)} END IF;", on=on, event="DELETE")
    notices: list[str] = []
    orphans.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
    done = repair(orphans)
    assert (done.quarantined, done.remaining) == (1, 2)
    assert rows(orphans, "SELECT id, flow, note FROM parent") == [(10, 77, "keep")]
    assert rows(orphans, "SELECT id, note FROM child") == [(20, "keep")]
    assert rows(orphans, "SELECT table_name, row_key FROM flowguard.quarantine ORDER BY 1") == [
        ("child", {"id": 21}),
        ("parent", {"id": 11}),
    ]
    assert any("stays" in notice for notice in notices), notices
    assert undo(orphans, done.id) == (2, 0, 0)
    assert links(orphans, "parent") == {10: 77, 11: 78}


def test_a_row_that_is_forbidden_stops_no_repair(guarded: Guarded) -> None:
    app = guarded()
    run(app, "SELECT flowguard.pause('child', 'flow')")
    run(app, "INSERT INTO parent VALUES (10, 1, 1)")
    run(app, "INSERT INTO child (id, tenant, parent, note) SELECT n, 1, 10, n FROM generate_series(20, 25) n")
    run(app, "SELECT flowguard.resume('child', 'flow')")
    before(app, "IF NEW.note = '22' THEN RAISE 'row % is closed', NEW.id; END IF;", event="UPDATE")
    notices: list[str] = []
    app.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
    done = repair(app)
    assert (done.linked, done.remaining) == (5, 1)
    assert links(app, "child") == {20: 1, 21: 1, 22: None, 23: 1, 24: 1, 25: 1}
    assert any("row 22 is closed" in notice for notice in notices), notices
