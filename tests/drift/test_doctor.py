"""flowguard.doctor(): each defect that is planted is found, and gone when its remedy was run to the letter."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from drift.defects import DEFECTS, Defect, findings, follow, named, of_kind, role
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import guard
from psycopg.conninfo import make_conninfo

from pyflowguard import doctor as drift
from pyflowguard.health import LEVELS

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_all_is_well(well: Connection) -> None:
    assert findings(well) == []


@pytest.mark.parametrize("defect", DEFECTS.values(), ids=list(DEFECTS))
def test_a_defect_is_found_and_its_remedy_mends_it(well: Connection, superuser: Connection, defect: Defect) -> None:
    run(superuser if defect.by_superuser else well, defect.plant)
    found = findings(well)
    assert {finding["name"] for finding in found} - defect.beside == {defect.name}, found
    for finding in found:
        assert finding["name"] in drift.KINDS
        assert finding["level"] in LEVELS
        assert finding["description"]
        assert finding["cache_key"].startswith(f"{finding['name']}:")
        assert finding["amount"] is None
    assert len({finding["cache_key"] for finding in found}) == len(found)
    left = planted = of_kind(found, defect.name)
    assert {(finding["level"], finding["safe"]) for finding in planted} == {(defect.level, defect.safe)}
    for _ in planted:
        if left:  # one remedy may mend more
            follow(superuser if defect.mended_by_superuser else well, defect.mend or left[0]["remedy"])
            found = findings(well)
            left = of_kind(found, defect.name)
    assert left == []
    # What came with it has remedies of its own.
    for finding in found:
        assert finding["name"] in defect.beside | {"leftover"}
        follow(well, finding["remedy"])
    assert not found or findings(well) == []


def test_findings_keep_their_keys_until_they_are_mended(well: Connection) -> None:
    together = (
        "a trigger fires always", "a function's body is changed", "a key is dropped",
        "an index is dropped", "a view lets other rows through", "an index of ours is not needed",
        "a new table is not guarded", "everybody may bypass",
    )  # fmt: skip
    for name in together:
        run(well, DEFECTS[name].plant)
    keys = [finding["cache_key"] for finding in findings(well)]
    assert len(set(keys)) == len(keys)
    assert len(keys) >= len(together), keys
    assert [finding["cache_key"] for finding in findings(well)] == keys
    follow(well, named(well, "open_to_public")[0]["remedy"])
    assert [finding["cache_key"] for finding in findings(well)] == [
        key for key in keys if not key.startswith("open_to_public:")
    ]


def test_every_kind_is_told_and_planted() -> None:
    told = {
        name
        for file, function in (("doctor.sql", "flowguard"), ("health.sql", "FUNCTION flowguard._registry_findings()"))
        for name in re.findall(r"'([a-z_]+)'", (DEPLOY / file).read_text().partition(function)[2])
    }
    assert set(drift.KINDS) - told == {drift.OTHER_VERSION}
    elsewhere = {
        "statistics_missing", "viewer_may_write", "role_without_rights", "setting_bypasses", "server_unsupported",
        "server_loses_actions", "rows_past_guard", drift.OTHER_VERSION,
    }  # fmt: skip
    assert {defect.name for defect in DEFECTS.values()} | elsewhere == set(drift.KINDS)


def test_what_the_check_counts_and_what_doctor_names_are_the_same(well: Connection) -> None:
    run(well, 'DROP TRIGGER "~flowguard_child_flow_insert" ON child; DROP INDEX flowguard_child_flow_idx')
    counted = "SELECT relation, amount FROM flowguard.check_all() WHERE name = 'guard_incomplete'"
    assert rows(well, counted) == [("public.child", len(findings(well)))]


def test_a_row_that_is_wrong_is_no_drift(well: Connection) -> None:
    run(well, "INSERT INTO probe (id, tenant) VALUES (61, NULL)")
    assert findings(well) == []


def test_a_paused_guard_is_no_drift(well: Connection) -> None:
    """It is what somebody asked for; check says so."""
    run(well, "SELECT flowguard.pause('child', 'flow')")
    assert findings(well) == []
    run(well, "CREATE OR REPLACE FUNCTION flowguard.child_flow_fill() RETURNS trigger LANGUAGE plpgsql AS "
              "'BEGIN RETURN NULL; END'")  # fmt: skip
    assert [finding["name"] for finding in findings(well)] == ["function_changed"]


def test_a_link_that_is_not_guarded_is_no_drift(well: Connection) -> None:
    run(well, "SELECT flowguard.unguard('grandchild', 'flow')")
    assert findings(well) == []


def test_a_trigger_that_comes_before_ours_or_after_the_row_may_do_as_it_likes(well: Connection) -> None:
    run(well, "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
    for number, timing in enumerate(("BEFORE INSERT", "BEFORE UPDATE", "BEFORE DELETE", "AFTER INSERT")):
        name = "~late" if timing in {"BEFORE DELETE", "AFTER INSERT"} else "early"
        run(well, f'CREATE TRIGGER "{name}{number}" {timing} ON child FOR EACH ROW EXECUTE FUNCTION note()')
    run(well, 'CREATE TRIGGER "~late" BEFORE INSERT ON child EXECUTE FUNCTION note()')
    run(well, 'CREATE TRIGGER "~late" BEFORE INSERT ON flow FOR EACH ROW EXECUTE FUNCTION note()')
    assert findings(well) == []
    run(well, 'CREATE TRIGGER "~off" BEFORE INSERT ON child FOR EACH ROW EXECUTE FUNCTION note()')
    run(well, 'ALTER TABLE child DISABLE TRIGGER "~off"')
    assert findings(well) == []


def test_the_name_that_a_later_trigger_is_to_have_may_be_taken(well: Connection) -> None:
    run(well, "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.flow := 3; RETURN NEW; END'")
    for name in ("~late", "a_~late"):
        run(well, f'CREATE TRIGGER "{name}" BEFORE INSERT ON child FOR EACH ROW EXECUTE FUNCTION meddle()')
    [finding] = findings(well)
    follow(well, finding["remedy"])
    assert findings(well) == []


# --- Views


def test_a_view_is_the_same_under_other_settings(well: Connection) -> None:
    """What PostgreSQL writes of the constants of a view depends on settings."""
    run(well, "SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', source_filter => "
              "$$at > '2020-01-01 00:00+00' AND interval '25:00:01' > '1 day' "
              "AND note <> E'a\\\\b'$$, link_column => 'flow'); SELECT flowguard.guard('probe', 'flow')")  # fmt: skip
    for setting in (
        "timezone = 'Asia/Tokyo'", "datestyle = 'German'", "intervalstyle = 'sql_standard'", "search_path = ''",
        "standard_conforming_strings = off", "quote_all_identifiers = on",
    ):  # fmt: skip
        run(well, f"SET {setting}")
        assert named(well, "view_changed") == [], setting
        run(well, f"RESET {setting.split()[0]}")


def test_names_that_are_quoted_are_the_same_names(well: Connection) -> None:
    run(well, "SET quote_all_identifiers = on")
    assert findings(well) == []
    assert rows(well, "SELECT * FROM flowguard.check_all() WHERE level <> 'INFO'") == []
    for (table,) in rows(well, "SELECT relation::text FROM flowguard.link_status"):
        assert rows(well, "SELECT * FROM flowguard.guard_plan(%s, 'flow')", table) == []
        run(well, "SELECT flowguard.unguard(%s, 'flow')", table)
        run(well, "SELECT flowguard.guard(%s, 'flow')", table)
    run(well, "CALL flowguard.repair()")
    run(well, "RESET quote_all_identifiers")
    assert findings(well) == []
    assert rows(well, "SELECT relation, link_column FROM flowguard.link_status WHERE NOT guarded") == []


def test_a_view_that_lets_other_rows_through_links_them_until_its_remedy(well: Connection) -> None:
    run(well, DEFECTS["a view lets other rows through"].plant)
    insert = "INSERT INTO probe (id, tenant, at) VALUES (%s, 1, now()) RETURNING flow"
    assert one(well, insert, 70) is None
    [finding] = findings(well)
    assert "status = 'deleted'" in finding["detail"]
    follow(well, finding["remedy"])
    assert one(well, insert, 71) == 1


# --- Columns that nobody guards


@pytest.mark.parametrize(
    "table",
    [
        "CREATE TABLE late (id integer PRIMARY KEY, flow text)",
        "CREATE TABLE late (id integer PRIMARY KEY, flows integer)",
        "CREATE TEMPORARY TABLE late (id integer PRIMARY KEY, flow integer)",
        "CREATE VIEW late AS SELECT flow FROM child",
        "CREATE SCHEMA flowguard_archive; CREATE TABLE flowguard_archive.late (id integer PRIMARY KEY, flow integer)",
    ],
)
def test_what_is_not_like_a_link(well: Connection, table: str) -> None:
    run(well, table)
    assert findings(well) == []


def test_a_domain_over_the_type_of_the_key_is_like_a_link(well: Connection) -> None:
    run(well, "CREATE DOMAIN key AS integer; CREATE TABLE late (id integer PRIMARY KEY, tenant integer, flow key)")
    [finding] = findings(well)
    assert finding["name"] == "unguarded_column"


def test_of_a_partitioned_table_the_whole_is_named(well: Connection) -> None:
    run(well, "CREATE TABLE late (id integer PRIMARY KEY, tenant integer, flow integer) PARTITION BY LIST (id); "
              "CREATE TABLE late_1 PARTITION OF late FOR VALUES IN (1)")  # fmt: skip
    [finding] = findings(well)
    assert finding["relation"] == "public.late"
    run(well, "SELECT flowguard.add_link('late_1', 'flow')")
    assert findings(well) == []


# --- Partitions


def test_a_trigger_of_a_partition_alone(well: Connection) -> None:
    run(well, "CREATE TABLE part (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer, "
              "parent integer REFERENCES parent) PARTITION BY RANGE (id); "
              "CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (1) TO (9); "
              "SELECT flowguard.add_link('part', 'flow'); "
              "SELECT flowguard.add_reference_rule('part', 'parent', 'parent', source_link => 'flow', "
              "link_column => 'flow')")  # fmt: skip
    guard(well, "part")
    assert findings(well) == []
    for change, name in (("DISABLE", "trigger_disabled"), ("ENABLE REPLICA", "trigger_firing")):
        run(well, f'ALTER TABLE part_1 {change} TRIGGER "~flowguard_part_flow_insert"')
        [finding] = findings(well)
        assert (finding["name"], finding["relation"], finding["detail"]) == (name, "public.part", "on public.part_1")
        follow(well, finding["remedy"])
        assert findings(well) == []


def test_a_partition_that_was_detached_leaves_what_guard_takes_away(well: Connection) -> None:
    run(well, "CREATE TABLE part (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer) "
              "PARTITION BY RANGE (id); CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (1) TO (9); "
              "SELECT flowguard.add_link('part', 'flow')")  # fmt: skip
    guard(well, "part")
    run(well, "ALTER TABLE part DETACH PARTITION part_1")
    found = findings(well)
    assert {(finding["name"], finding["relation"]) for finding in found} == {
        ("leftover", "public.part_1"),
        ("unguarded_column", "public.part_1"),
    }
    for finding in found:
        if finding["name"] == "leftover":
            follow(well, finding["remedy"])
    assert [finding["name"] for finding in findings(well)] == ["unguarded_column"]


def test_an_index_that_many_links_need_is_told_once(well: Connection, superuser: Connection) -> None:
    run(superuser, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'flowguard_flow_tenant_id_key'::regclass")
    assert [(finding["name"], finding["relation"]) for finding in findings(well)] == [("index_invalid", "public.flow")]


# --- Statistics


def test_statistics_that_are_dropped(well: Connection) -> None:
    run(well, "CREATE TABLE book (id integer PRIMARY KEY, a integer NOT NULL, b integer NOT NULL); "
              "CREATE TABLE scan (id integer PRIMARY KEY, a integer NOT NULL, b integer NOT NULL, book integer, "
              "at timestamptz); CREATE TABLE note (LIKE scan INCLUDING ALL); "
              "SELECT flowguard.add_master('book', 'id', '{a,b}', created_at_column => NULL); "
              "SELECT flowguard.add_link(t, 'book', 'book') FROM unnest('{scan,note}'::regclass[]) t; "
              "SELECT flowguard.add_proximity_rule('note', 'scan', '1 hour', 'at', 'at', 'book', "
              "link_column => 'book'); "
              "SELECT flowguard.guard('note', 'book')")  # fmt: skip
    assert findings(well) == []
    run(well, "DROP STATISTICS flowguard_scan_a_b_stat")
    [finding] = findings(well)
    assert (finding["name"], finding["level"], finding["safe"]) == ("statistics_missing", "WARN", True)
    follow(well, finding["remedy"])
    assert findings(well) == []


# --- Rights


def test_a_schema_that_the_owner_of_the_functions_may_not_use(well: Connection, superuser: Connection) -> None:
    run(superuser, "CREATE SCHEMA side; GRANT USAGE ON SCHEMA side TO app_owner")
    run(superuser, "ALTER TABLE grandchild SET SCHEMA side")
    run(well, "SELECT flowguard.guard('side.grandchild', 'flow')")
    assert findings(well) == []
    run(superuser, "REVOKE USAGE ON SCHEMA side FROM app_owner")
    [finding] = findings(well)
    assert (finding["name"], finding["level"], finding["safe"]) == ("rights_missing", "ERROR", False)
    follow(superuser, finding["remedy"])
    assert findings(well) == []


@pytest.mark.usefixtures("well")
def test_the_owner_of_the_functions_is_asked_not_whoever_calls(superuser: Connection) -> None:
    """A table of another role, which the owner of the functions may still read and lock, is no table for guard()."""
    run(superuser, "ALTER TABLE child OWNER TO postgres; GRANT SELECT, UPDATE ON child TO app_owner")
    [finding] = findings(superuser)
    assert (finding["name"], finding["level"]) == ("owner_changed", "WARN")
    follow(superuser, finding["remedy"])
    assert findings(superuser) == []


@pytest.mark.usefixtures("well")
def test_a_guard_that_belongs_to_another_role_than_the_engine(superuser: Connection) -> None:
    """That role is asked for its rights, not the owner of the engine, who may do nothing with the tables."""
    run(superuser, "CREATE ROLE guardian")
    try:
        run(superuser, "GRANT app_owner TO guardian")
        for (command,) in rows(
            superuser,
            "SELECT format('ALTER TABLE %s OWNER TO guardian', c.oid::regclass) FROM pg_class c "
            "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') "
            "UNION ALL SELECT format('ALTER FUNCTION %s OWNER TO guardian', p.oid::regprocedure) FROM pg_proc p "
            "WHERE obj_description(p.oid, 'pg_proc') LIKE 'Generated by PyFlowGuard%' "
            "UNION ALL SELECT format('ALTER VIEW %s OWNER TO guardian', c.oid::regclass) FROM pg_class c "
            "WHERE obj_description(c.oid, 'pg_class') LIKE 'Generated by PyFlowGuard%'",
        ):
            run(superuser, command)
        assert findings(superuser) == []
    finally:
        run(superuser, "REASSIGN OWNED BY guardian TO app_owner; DROP OWNED BY guardian; DROP ROLE guardian")


def test_row_security_that_does_not_bind_the_owner_is_no_drift(well: Connection) -> None:
    run(well, "ALTER TABLE parent ENABLE ROW LEVEL SECURITY")
    assert findings(well) == []


def test_everything_that_everybody_may_do_is_told_and_revoked(well: Connection) -> None:
    run(well, "GRANT ALL ON SCHEMA flowguard TO PUBLIC; GRANT ALL ON ALL ROUTINES IN SCHEMA flowguard TO PUBLIC; "
              "GRANT ALL ON ALL TABLES IN SCHEMA flowguard TO PUBLIC")  # fmt: skip
    found = named(well, "open_to_public")
    assert len(found) == one(
        well,
        "SELECT 1 + (SELECT count(*) FROM pg_proc WHERE pronamespace = 'flowguard'::regnamespace) + (SELECT count(*) "
        "FROM pg_class WHERE relnamespace = 'flowguard'::regnamespace AND relkind IN ('r', 'v'))",
    )
    for finding in found:
        follow(well, finding["remedy"])
    assert findings(well) == []


def test_who_guards_may_create_in_the_schema(well: Connection, superuser: Connection) -> None:
    with role(superuser, "u_guard") as name:
        run(well, f"GRANT CREATE ON SCHEMA flowguard TO {name}")
        assert [finding["name"] for finding in findings(well)] == ["schema_open"]
        run(superuser, f"ALTER FUNCTION flowguard.child_flow_find OWNER TO {name}")
        assert named(well, "schema_open") == []
        run(superuser, "ALTER FUNCTION flowguard.child_flow_find OWNER TO app_owner")


def test_the_two_roles_have_what_they_are_for_and_no_more(
    engine_db: str, roles: Callable[[str], Connection], superuser: Connection
) -> None:
    with psycopg.connect(engine_db, autocommit=True) as owner:
        run(owner, "SELECT flowguard.grant_roles()")
        assert findings(owner) == []
        run(owner, "GRANT UPDATE ON flowguard.link TO flowguard_viewer")
        [finding] = findings(owner)
        assert (finding["name"], finding["level"], finding["safe"]) == ("viewer_may_write", "ERROR", True)
        follow(owner, finding["remedy"])
        assert findings(owner) == []
        for right in (
            "USAGE ON SCHEMA flowguard FROM flowguard_viewer",
            "SELECT ON flowguard.rule FROM flowguard_viewer",
            "EXECUTE ON FUNCTION flowguard.doctor() FROM flowguard_viewer",
            "EXECUTE ON FUNCTION flowguard.undo FROM flowguard_admin",
        ):
            run(owner, f"REVOKE {right}")
            [finding] = findings(owner)
            assert (finding["name"], finding["level"], finding["safe"]) == ("role_without_rights", "WARN", True)
            follow(owner, finding["remedy"])
            assert findings(owner) == []
        # The viewer sees what the owner sees.
        run(owner, "DROP INDEX flowguard_child_flow_idx")
        viewer = roles("flowguard_viewer")
        assert findings(viewer) == findings(owner) != []
        with refused("42501"):
            rows(viewer, "SELECT flowguard._diagnose()")
    assert one(superuser, "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'flowguard_%'") >= 2


# --- Settings


@pytest.mark.parametrize("whose", ["ROLE app_owner", "DATABASE {}", "ROLE app_owner IN DATABASE {}", "ROLE ALL"])
def test_sessions_that_begin_past_the_guard(well: Connection, superuser: Connection, whose: str) -> None:
    target = whose.format(f'"{well.info.dbname}"')
    run(superuser, f"ALTER {target} SET session_replication_role = 'replica'")
    try:
        [finding] = findings(well)
        assert (finding["name"], finding["level"], finding["safe"]) == ("setting_bypasses", "ERROR", False)
        follow(superuser, finding["remedy"])
        assert findings(well) == []
    finally:
        run(superuser, f"ALTER {target} RESET session_replication_role")


def test_a_server_that_is_past_the_guard(engine_db: str, well: Connection, superuser: Connection) -> None:
    def reloaded(value: str) -> None:
        run(superuser, "SELECT pg_reload_conf()")
        for _ in range(1000):
            with psycopg.connect(engine_db) as connection:
                if one(connection, "SHOW session_replication_role") == value:
                    return
        pytest.fail("The server does not take the setting.")

    run(superuser, "ALTER SYSTEM SET session_replication_role = 'replica'")
    try:
        reloaded("replica")
        with psycopg.connect(engine_db, autocommit=True) as connection:
            [finding] = findings(connection)
            assert (finding["name"], finding["level"]) == ("setting_bypasses", "ERROR")
        follow(superuser, finding["remedy"])
        reloaded("origin")
        assert findings(well) == []
    finally:
        run(superuser, "ALTER SYSTEM RESET session_replication_role")
        run(superuser, "SELECT pg_reload_conf()")
        reloaded("origin")


def test_a_setting_of_another_database_or_another_value_is_no_matter(well: Connection, superuser: Connection) -> None:
    run(superuser, "ALTER DATABASE template1 SET session_replication_role = 'replica'")
    run(superuser, "ALTER ROLE app_owner SET session_replication_role = 'origin'")
    try:
        assert findings(well) == []
    finally:
        run(superuser, "ALTER DATABASE template1 RESET session_replication_role")
        run(superuser, "ALTER ROLE app_owner RESET session_replication_role")


# --- The server


@pytest.mark.parametrize(
    ("release", "is_supported"), [(130022, False), (140000, True), (180006, True), (190000, False)]
)
def test_a_version_that_is_not_supported(well: Connection, release: int, is_supported: bool) -> None:
    found = [finding["name"] for finding in findings(well, f"flowguard._server_findings({release})")]
    assert found == ([] if is_supported else ["server_unsupported"])


PARTITIONED_MASTER = """
CREATE TABLE big (id integer, tenant integer NOT NULL, PRIMARY KEY (tenant, id)) PARTITION BY LIST (tenant);
CREATE TABLE big_1 PARTITION OF big FOR VALUES IN (1);
CREATE TABLE small (id integer PRIMARY KEY, tenant integer NOT NULL, big integer);
SELECT flowguard.add_master('big', 'id', '{tenant}', created_at_column => NULL);
SELECT flowguard.add_link('small', 'big', 'big');
SELECT flowguard.guard('small', 'big');
"""


@pytest.mark.parametrize(
    ("release", "loses"),
    [(140013, True), (140014, False), (150008, True), (150009, False), (160004, True), (160005, False),
     (170000, True), (170001, False), (180000, False)],
)  # fmt: skip
def test_a_release_that_loses_what_happens_when_a_master_is_deleted(
    well: Connection, release: int, loses: bool
) -> None:
    assert findings(well, f"flowguard._server_findings({release})") == []
    run(well, PARTITIONED_MASTER)
    found = [(f["name"], f["level"]) for f in findings(well, f"flowguard._server_findings({release})")]
    assert found == ([("server_loses_actions", "WARN")] if loses else [])


# --- Telling others


def notifications(listener: Connection) -> list[Any]:
    return [json.loads(notify.payload) for notify in listener.notifies(timeout=1, stop_after=1)]


def test_who_listens_is_told_when_something_is_found(well: Connection, superuser: Connection) -> None:
    run(superuser, "LISTEN flowguard")
    assert findings(well) == []
    assert notifications(superuser) == []
    run(well, 'DROP TRIGGER "~flowguard_child_flow_insert" ON child; DROP INDEX flowguard_child_flow_idx')
    assert len(findings(well)) == 2
    [told] = notifications(superuser)
    assert (told["source"], told["findings"]) == ("doctor", {"ERROR": 1, "WARN": 1, "INFO": 0})


def test_in_a_transaction_that_only_reads(well: Connection) -> None:
    run(well, "DROP INDEX flowguard_child_flow_idx")
    run(well, "SET default_transaction_read_only = on")
    assert [finding["name"] for finding in findings(well)] == ["index_missing"]


def test_no_row_of_the_application_is_read(well: Connection) -> None:
    scans = (
        "SELECT sum(coalesce(seq_scan, 0) + coalesce(idx_scan, 0)) FROM pg_stat_xact_user_tables "
        "WHERE schemaname = 'public'"
    )
    with psycopg.connect(well.info.dsn) as connection:
        assert findings(connection) == []
        assert one(connection, scans) == 0
        run(connection, "SELECT count(*) FROM child")
        assert one(connection, scans) == 1


def test_nobody_else_may_call_it(well: Connection, superuser: Connection) -> None:
    with (
        role(superuser, "u_nobody") as name,
        psycopg.connect(make_conninfo(well.info.dsn, user="postgres"), autocommit=True) as nobody,
    ):
        run(nobody, f"SET ROLE {name}")
        with refused("42501"):
            findings(nobody)
