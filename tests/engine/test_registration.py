"""What is refused when masters, links and rules are named: each with its own code, a remedy, and nothing half done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from engine.postgres import Connection, Refusal, one, refused, rows, run
from engine.tables import Guarded, create, guard, links, register

ODD = """
CREATE VIEW view_of_child AS SELECT * FROM child;
CREATE MATERIALIZED VIEW copy_of_child AS SELECT * FROM child;
CREATE TABLE keyless (id integer, tenant integer, flow integer, at timestamptz);
CREATE TABLE text_link (id integer PRIMARY KEY, tenant integer, flow text, at timestamp);
CREATE TABLE wide_tenant (id integer PRIMARY KEY, tenant bigint, flow integer);
CREATE TABLE doc_master (id json, tenant integer, code integer, created_at timestamptz);
CREATE TABLE per_tenant (id integer, tenant integer NOT NULL, created_at timestamptz, PRIMARY KEY (tenant, id));
CREATE SEQUENCE sequence_of_ids;
"""


@pytest.fixture
def app(db: Connection) -> Connection:
    """Tables without any registration."""
    create(db)
    run(db, ODD)
    return db


@pytest.fixture
def known(app: Connection) -> Connection:
    """Tables of which flow, parent, child and event are registered, without rules."""
    run(app, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    run(app, "SELECT flowguard.add_link(t, 'flow') FROM unnest('{parent,child,event,probe}'::regclass[]) t")
    return app


def everything(connection: Connection) -> list[list[tuple[Any, ...]]]:
    """Give all that a call could have left behind: registry, temporary objects, settings."""
    return [
        *(rows(connection, f"SELECT t::text FROM flowguard.{t} t ORDER BY 1") for t in ("master", "link", "rule")),  # noqa: S608
        rows(connection, "SELECT oid FROM pg_class WHERE relnamespace::regnamespace::text !~ '^pg_' ORDER BY 1"),
        rows(connection, "SELECT oid FROM pg_class WHERE pg_my_temp_schema() = relnamespace"),
        rows(connection, "SHOW search_path"),
    ]


@contextmanager
def nothing_happens(connection: Connection, *codes: str) -> Iterator[Refusal]:
    """Expect a refusal that says what to do, after which all is as before."""
    before = everything(connection)
    with refused(*codes) as refusal:
        yield refusal
    refusal.says()
    assert everything(connection) == before


# --- Masters


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("'view_of_child', 'id', '{tenant}'", "FG101", "It is a view"),
        ("'copy_of_child', 'id', '{tenant}'", "FG101", "It is a materialized view"),
        ("'sequence_of_ids', 'last_value', '{}'", "FG101", "is not a table"),
        ("NULL, 'id', '{tenant}'", "FG101", "NULL is not a table"),
        ("'flow', 'flow_id', '{tenant}'", "FG102", "Its columns are: id, tenant, created_at"),
        ("'flow', NULL, '{tenant}'", "FG102", "has no column NULL"),
        ("'flow', 'id', '{client}'", "FG102", "has no column client"),
        ("'flow', 'id', '{tenant}', '{code}'", "FG102", "has no column code"),
        ("'flow', 'id', '{tenant}', created_at_column => 'born'", "FG102", "has no column born"),
        ("'flow', 'id', '{tenant}', '{created_at}'", "FG103", "created_at is of type timestamp with time zone"),
        ("'doc_master', 'id', '{tenant}'", "FG103", "cannot be compared"),
        ("'doc_master', 'code', '{tenant}'", "FG105", "CREATE UNIQUE INDEX CONCURRENTLY ON doc_master (tenant, code)"),
    ],
)
def test_no_master(app: Connection, arguments: str, code: str, said: str) -> None:
    with nothing_happens(app, code) as refusal:
        run(app, f"SELECT flowguard.add_master({arguments})")
    assert said in (refusal.message + refusal.detail + refusal.hint).replace("public.", "")


def test_a_master_twice_and_otherwise(app: Connection) -> None:
    first = rows(app, "SELECT (flowguard.add_master('flow', 'id', '{tenant}')).*")
    assert rows(app, "SELECT (flowguard.add_master('flow', 'id', '{tenant}')).*") == first
    with nothing_happens(app, "FG108") as refusal:
        run(app, "SELECT flowguard.add_master('flow', 'id', '{}')")
    refusal.says("tenant_columns is", "flowguard.drop_master(")
    assert one(app, "SELECT flowguard.drop_master('flow')") is True
    assert one(app, "SELECT flowguard.drop_master('flow')") is False


def test_dropping_a_master_that_has_links(known: Connection) -> None:
    with nothing_happens(known, "FG112") as refusal:
        run(known, "SELECT flowguard.drop_master('flow')")
    refusal.says("flowguard.drop_link(", "parent.flow")


# --- Links


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("'view_of_child', 'flow'", "FG101", "It is a view"),
        ("'child'", "FG102", "has no column master_flow_id"),
        ("'child', 'flow', tenant_columns => '{client}'", "FG102", "has no column client"),
        ("'text_link', 'flow'", "FG103", "text_link.flow is of type text, but flow.id is of type integer"),
        ("'wide_tenant', 'flow'", "FG103", "wide_tenant.tenant is of type bigint, but flow.tenant is of type integer"),
        ("'child', 'flow', mode => 'strict'", "FG104", "mode 'strict' is unknown"),
        ("'child', 'flow', mode => NULL", "FG104", "mode NULL is unknown"),
        ("'child', 'flow', on_orphan => 'delete'", "FG104", "on_orphan 'delete' is unknown"),
        ("'child', 'flow', on_master_delete => 'restrict'", "FG104", "on_master_delete 'restrict' is unknown"),
        ("'child', 'flow', tenant_columns => '{id,note}'", "FG104", "do not match those of master flow"),
        ("'keyless', 'flow'", "FG105", "ADD PRIMARY KEY"),
        ("'child', 'flow', master => 'parent'", "FG107", "table parent is not registered as a master"),
    ],
)
def test_no_link(app: Connection, arguments: str, code: str, said: str) -> None:
    run(app, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    with nothing_happens(app, code) as refusal:
        run(app, f"SELECT flowguard.add_link({arguments})")
    assert said in (refusal.message + refusal.detail + refusal.hint).replace("public.", "")


def test_a_link_without_any_master_or_with_two(app: Connection) -> None:
    with nothing_happens(app, "FG107") as refusal:
        run(app, "SELECT flowguard.add_link('child', 'flow')")
    refusal.says("which master a link points to must be said", "No master is registered", "flowguard.add_master(")
    run(app, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    run(app, "SELECT flowguard.add_master('parent', 'id', '{tenant}', created_at_column => NULL)")
    with nothing_happens(app, "FG107") as refusal:
        run(app, "SELECT flowguard.add_link('child', 'flow')")
    refusal.says("flow", "parent")
    run(app, "SELECT flowguard.add_link('child', 'flow', master => 'flow')")


def test_a_link_to_a_key_that_is_unique_in_its_tenant_only(app: Connection) -> None:
    run(app, "SELECT flowguard.add_master('per_tenant', 'id', '{tenant}')")
    with nothing_happens(app, "FG104") as refusal:
        run(app, "SELECT flowguard.add_link('probe', 'flow')")
    refusal.says("may hold rows without a tenant", "NOT NULL", "CREATE UNIQUE INDEX CONCURRENTLY")
    run(app, "SELECT flowguard.add_link('child', 'flow')")


def test_a_link_twice_and_otherwise(known: Connection) -> None:
    before = everything(known)
    run(known, "SELECT flowguard.add_link('child', 'flow')")
    assert everything(known) == before
    for other in ("on_orphan => 'keep'", "on_master_delete => 'cascade'", "tenant_columns => '{}'"):
        with nothing_happens(known, "FG108") as refusal:
            run(known, f"SELECT flowguard.add_link('child', 'flow', {other})")
        refusal.says(other.split(" ")[0], "flowguard.drop_link(")
    run(known, "SELECT flowguard.drop_link('child', 'flow')")
    assert one(known, "SELECT (flowguard.drop_link('child', 'flow')).relation") is None


def test_a_second_call_does_not_change_the_mode(known: Connection) -> None:
    run(known, "SELECT flowguard.set_mode('child', 'enforce', 'flow')")
    run(known, "SELECT flowguard.add_link('child', 'flow')")
    assert one(known, "SELECT mode FROM flowguard.link WHERE relation = 'child'::regclass") == "enforce"


def test_set_mode_to_something_else(known: Connection) -> None:
    for mode in ("'strict'", "NULL"):
        with nothing_happens(known, "FG104") as refusal:
            run(known, f"SELECT flowguard.set_mode('child', {mode}, 'flow')")
        refusal.says("observe", "enforce")
    with nothing_happens(known, "FG107"):
        run(known, "SELECT flowguard.set_mode('grandchild', 'enforce', 'flow')")


def test_enforcing_what_is_not_complete(known: Connection) -> None:
    run(known, "INSERT INTO probe (id, tenant, flow) VALUES (1, 1, NULL), (2, NULL, 1), (3, 1, 1)")
    with nothing_happens(known, "FG113") as refusal:
        run(known, "SELECT flowguard.set_mode('probe', 'enforce', 'flow')")
    refusal.says("Of 3 rows 1 are unlinked", "1 without a tenant", "flowguard.repair(")


# --- Rules


@pytest.mark.parametrize(
    ("call", "code", "said"),
    [
        ("add_session_rule('grandchild', 'flow')", "FG107", "is not registered as a link"),
        ("add_session_rule('child', 'flow', 0)", "FG104", "Positions begin with 1"),
        ("add_session_rule('child', 'flow', -1)", "FG104", "Positions begin with 1"),
        ("drop_rule('grandchild', 1, 'flow')", "FG107", "is not registered as a link"),
        # Reference
        ("add_reference_rule('child', 'parent', 'view_of_child', 'id', 'flow'#", "FG101", "a view"),
        ("add_reference_rule('child', 'father', 'parent', 'id', 'flow'#", "FG102", "father"),
        ("add_reference_rule('child', 'parent', 'parent', 'code', 'flow'#", "FG102", "code"),
        ("add_reference_rule('child', 'parent', 'parent', 'id', 'stream'#", "FG102", "stream"),
        ("add_reference_rule('child', 'note', 'parent', 'id', 'flow'#", "FG103", "type text"),
        ("add_reference_rule('child', 'parent', 'parent', 'id', 'note'#", "FG103", "type text"),
        (
            "add_reference_rule('child', 'parent', 'event', 'tenant', 'flow', agree => false#",
            "FG105",
            "is not unique",
        ),
        ("add_reference_rule('child', 'tenant', 'parent', 'id', 'flow'#", "FG111", "FOREIGN KEY"),
        (
            "add_reference_rule('child', 'parent', 'parent', 'id', 'flow', late_limit => 0#",
            "FG104",
            "late_limit 0 is not positive",
        ),
        # Proximity
        ("add_proximity_rule('probe', 'view_of_child', '1 hour', 'at', 'at', 'flow'#", "FG101", ""),
        ("add_proximity_rule('probe', 'event', '1 hour', 'when', 'at', 'flow'#", "FG102", "when"),
        ("add_proximity_rule('probe', 'event', '1 hour', 'at', 'note', 'flow'#", "FG103", "type text"),
        ("add_proximity_rule('probe', 'event', '1 hour', 'id', 'id', 'flow'#", "FG103", "no time"),
        ("add_proximity_rule('probe', 'text_link', '1 hour', 'at', 'at', 'id'#", "FG103", "without"),
        ("add_proximity_rule('probe', 'keyless', '1 hour', 'at', 'at', 'flow'#", "FG105", "PRIMARY"),
        ("add_proximity_rule('probe', 'event', '-1 hour', 'at', 'at', 'flow'#", "FG104", "-01:00:00"),
        ("add_proximity_rule('probe', 'event', '0', 'at', 'at', 'flow'#", "FG104", "00:00:00"),
        ("add_proximity_rule('probe', 'event', NULL, 'at', 'at', 'flow'#", "FG104", "NULL"),
        ("add_proximity_rule('probe', 'event', '1 month', 'at', 'at', 'flow'#", "FG104", "1 mon"),
        ("add_proximity_rule('probe', 'event', '1 year', 'at', 'at', 'flow'#", "FG104", "1 year"),
        (
            "add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', on_ambiguous => 'guess'#",
            "FG104",
            "on_ambiguous 'guess' is unknown",
        ),
        (
            "add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', late_limit => -1#",
            "FG104",
            "late_limit -1 is not positive",
        ),
    ],
)  # fmt: skip
def test_no_rule(known: Connection, call: str, code: str, said: str) -> None:
    with nothing_happens(known, code) as refusal:
        run(known, "SELECT flowguard." + call.replace("#", ", link_column => 'flow')"))
    assert said in refusal.message + refusal.detail + refusal.hint


@pytest.mark.parametrize(
    "condition",
    [
        "status <>",
        "no_such_column = 1",
        "status",
        "status = 'a'; DROP TABLE event",
        "count(*) > 1",
        "no_such_function(status)",
        "status::no_such_type = 'a'",
        "1 = 1) OR (SELECT true",
        "true) UNION SELECT 1 WHERE (true",
        "id = 'no number'",
        "row_number() OVER () = 1",
        "generate_series(1, 2) > 1",
        "",
        "id IN (SELECT id FROM probe)",
        "no_such_table.id = 1",
    ],
)
def test_a_filter_that_is_no_condition_on_the_source(known: Connection, condition: str) -> None:
    with nothing_happens(known, "FG104") as refusal:
        run(
            known,
            "SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', %s, "
            "link_column => 'flow')",
            condition,
        )
    refusal.says("source_filter")


def test_a_filter_that_ends_in_a_remark(known: Connection) -> None:
    run(
        known,
        "SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', %s, "
        "link_column => 'flow')",
        "status = 'live' -- or 'new'",
    )
    guard(known, "probe")
    run(known, "INSERT INTO event VALUES (50, 1, 1, 'new', '2025-01-01'), (51, 1, 2, 'live', '2025-01-01')")
    run(known, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01')")
    assert links(known, "probe") == {1: 2}


def test_a_filter_keeps_its_meaning_whatever_the_search_path(known: Connection) -> None:
    run(known, "CREATE FUNCTION is_live(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT $1 = 'live' $$")
    run(
        known,
        "SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', 'is_live(status)', "
        "link_column => 'flow')",
    )
    guard(known, "probe")
    run(
        known,
        """
CREATE SCHEMA evil;
CREATE FUNCTION evil.is_live(text) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
SET search_path = evil, public;
INSERT INTO event VALUES (50, 1, 1, 'dead', '2025-01-01 00:00Z'), (51, 1, 2, 'live', '2025-01-01 00:50Z');
INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:00Z');
""",
    )
    assert links(known, "probe") == {1: 2}


RING = "SELECT flowguard.add_reference_rule(%s, %s, %s, 'id', 'flow', agree => %s, link_column => 'flow')"


def test_a_ring_of_links(known: Connection) -> None:
    run(known, "ALTER TABLE parent ADD event integer, ADD self integer REFERENCES parent")
    run(known, "ALTER TABLE event ADD child integer")
    run(known, RING, "child", "parent", "parent", True)
    run(known, RING, "parent", "event", "event", False)
    for closing in (
        ("event", "child", "child", False),
        ("parent", "self", "parent", True),
        ("parent", "self", "parent", False),
    ):
        with nothing_happens(known, "FG106"):
            run(known, RING, *closing)
    with nothing_happens(known, "FG106"):
        run(
            known,
            "SELECT flowguard.add_proximity_rule('probe', 'probe', time_column => 'at', source_time => 'at', "
            "source_link => 'flow', link_column => 'flow')",
        )


def test_a_ring_that_is_there_keeps_nobody_for_ever(known: Connection) -> None:
    """Releases before 1.3.0 let two sessions close one at REPEATABLE READ."""
    run(known, "ALTER TABLE event ADD child integer; ALTER TABLE child ADD event integer")
    run(known, RING, "child", "event", "event", False)
    ring = "{'relation': 'event', 'via_column': 'child', 'source': 'child'}".replace("'", '"')
    run(
        known,
        "INSERT INTO flowguard.rule SELECT (jsonb_populate_record(r, %s)).* FROM flowguard.rule r "
        "WHERE r.relation = 'child'::regclass AND r.source = 'event'::regclass",
        ring,
    )
    run(known, "INSERT INTO event (id, tenant, flow) VALUES (50, 1, 1)")
    run(known, "INSERT INTO child (id, tenant, event) VALUES (20, 1, 50)")
    run(known, "SET statement_timeout = '20s'")
    assert rows(known, "SELECT * FROM flowguard.check_all()") != []
    run(known, "CALL flowguard.repair()")
    assert links(known, "child") == {20: 1}


# --- Positions


def positions(connection: Connection) -> list[tuple[Any, ...]]:
    return rows(
        connection,
        "SELECT position, coalesce(within::text, kind) FROM flowguard.rule WHERE relation = 'probe'::regclass "
        "ORDER BY position",
    )


def add_window(connection: Connection, hours: int, position: int | None = None) -> None:
    run(
        connection,
        "SELECT flowguard.add_proximity_rule('probe', 'event', make_interval(hours => %s), 'at', 'at', 'flow', "
        """link_column => 'flow', "position" => %s)""",
        hours,
        position,
    )


def test_rules_are_tried_in_the_order_added_and_may_be_put_between(known: Connection) -> None:
    add_window(known, 1)
    add_window(known, 2)
    add_window(known, 3, 1)
    assert positions(known) == [(1, "03:00:00"), (2, "01:00:00"), (3, "02:00:00")]
    add_window(known, 4, 2)
    assert positions(known) == [(1, "03:00:00"), (2, "04:00:00"), (3, "01:00:00"), (4, "02:00:00")]
    run(known, "SELECT flowguard.drop_rule('probe', 3, 'flow')")
    # A gap is no reason to move the others.
    add_window(known, 5, 3)
    assert positions(known) == [(1, "03:00:00"), (2, "04:00:00"), (3, "05:00:00"), (4, "02:00:00")]
    add_window(known, 6)
    assert positions(known)[-1] == (5, "06:00:00")
    assert one(known, "SELECT (flowguard.drop_rule('probe', 99, 'flow')).relation") is None


def test_a_rule_twice_is_one(known: Connection) -> None:
    for _ in range(2):
        add_window(known, 1)
        run(known, "SELECT flowguard.add_session_rule('probe', 'flow')")
        add_window(known, 2, 1)
    assert positions(known) == [(1, "02:00:00"), (2, "01:00:00"), (3, "session")]


def test_the_whole_registration_twice_changes_nothing(app: Connection) -> None:
    register(app)
    before = everything(app)
    register(app)
    assert everything(app) == before


# --- Who else is in the search_path


def test_generated_code_calls_nothing_of_the_search_path(guarded: Guarded) -> None:
    db = guarded("enforce", own=True)
    run(
        db,
        """
CREATE SCHEMA evil;
CREATE TABLE evil.called (what text);
CREATE FUNCTION evil.trap(what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN INSERT INTO evil.called VALUES (what); END $$;
CREATE FUNCTION evil.eq(integer, integer) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN PERFORM evil.trap('='); RETURN false; END $$;
CREATE OPERATOR evil.= (FUNCTION = evil.eq, LEFTARG = integer, RIGHTARG = integer);
CREATE OPERATOR evil.<> (FUNCTION = evil.eq, LEFTARG = integer, RIGHTARG = integer);
CREATE FUNCTION evil.text_ne(text, text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN PERFORM evil.trap('<>'); RETURN true; END $$;
CREATE OPERATOR evil.<> (FUNCTION = evil.text_ne, LEFTARG = text, RIGHTARG = text);
CREATE OPERATOR evil.= (FUNCTION = evil.text_ne, LEFTARG = text, RIGHTARG = text);
CREATE FUNCTION evil.at_ne(timestamptz, timestamptz) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN PERFORM evil.trap('<= of times'); RETURN true; END $$;
CREATE OPERATOR evil.<= (FUNCTION = evil.at_ne, LEFTARG = timestamptz, RIGHTARG = timestamptz);
CREATE OPERATOR evil.>= (FUNCTION = evil.at_ne, LEFTARG = timestamptz, RIGHTARG = timestamptz);
CREATE OPERATOR evil.< (FUNCTION = evil.at_ne, LEFTARG = timestamptz, RIGHTARG = timestamptz);
CREATE OPERATOR evil.> (FUNCTION = evil.at_ne, LEFTARG = timestamptz, RIGHTARG = timestamptz);
CREATE FUNCTION evil.minus(timestamptz, interval) RETURNS timestamptz LANGUAGE plpgsql AS $$
BEGIN PERFORM evil.trap('-'); RETURN $1; END $$;
CREATE OPERATOR evil.- (FUNCTION = evil.minus, LEFTARG = timestamptz, RIGHTARG = interval);
CREATE OPERATOR evil.+ (FUNCTION = evil.minus, LEFTARG = timestamptz, RIGHTARG = interval);
CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE plpgsql AS $$
BEGIN PERFORM evil.trap('current_setting'); RETURN ''; END $$;
CREATE TABLE evil.flow (LIKE public.flow); CREATE TABLE evil.parent (LIKE public.parent);
CREATE TABLE evil.child (LIKE public.child); CREATE TABLE evil.event (LIKE public.event);
CREATE DOMAIN evil.text AS pg_catalog.text CHECK (false); CREATE DOMAIN evil.int4 AS pg_catalog.int4 CHECK (false);
CREATE DOMAIN evil.bigint AS pg_catalog.int8 CHECK (false);
""",
    )
    run(db, "SET search_path = evil, pg_catalog, public")
    run(
        db,
        """
BEGIN;
SET LOCAL flowguard.flow = '1';
INSERT INTO public.parent VALUES (10, 1);
COMMIT;
BEGIN;
INSERT INTO public.child (id, tenant, parent) VALUES (20, 1, 10);
INSERT INTO public.grandchild (id, tenant, child) VALUES (30, 1, 20);
INSERT INTO public.probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:30Z');
INSERT INTO public.event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z');
INSERT INTO public.probe (id, tenant, at) VALUES (2, 1, '2025-01-01 00:30Z');
UPDATE public.parent SET flow = 2;
COMMIT;
""",
    )
    with refused("FG001"):
        run(db, "INSERT INTO public.probe (id, tenant, at) VALUES (3, 1, 'infinity')")
    run(db, "SELECT flowguard.bypass('trying')")
    assert one(db, "SELECT count(*) FROM flowguard.guard_plan('public.probe', 'flow')") == 0
    run(db, "SET search_path = public")
    assert rows(db, "SELECT what FROM evil.called") == []
    assert (links(db, "child"), links(db, "grandchild"), links(db, "probe")) == ({20: 2}, {30: 2}, {1: 1, 2: 1})
