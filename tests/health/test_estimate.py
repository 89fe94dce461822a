"""Health without counting: what the catalog proves is right, what it does not prove is named, nothing large is read.

What is told must be what counting finds of rows written under the guard; what was written past it only counting finds.
"""

# ruff: noqa: S608  numbers of the tests' own

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import LINKS, guard
from health.reading import read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from profiles import sized
from psycopg.rows import dict_row
from servers import chosen_version

FIGURES = ("linked", "unlinked", "dangling", "mismatched", "tenantless")
ROWS = 10_000
"""Of the small application's narrow rows: more than are counted."""


def told(connection: Connection, query: str = "SELECT * FROM flowguard.link_estimate") -> dict[str, dict[str, Any]]:
    """Give what is told without counting, by table."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(query.encode())
        return {str(row["relation"]).removeprefix("public."): row for row in cursor}


def counted(connection: Connection) -> dict[str, dict[str, Any]]:
    """Give what counting finds, by table."""
    return told(connection, "SELECT * FROM flowguard.link_status")


@pytest.fixture
def large(app: Connection) -> Connection:
    """The small application, guarded, with tables too large to be counted; a parent and a probe are unlinked."""
    run(
        app,
        f"""
INSERT INTO parent SELECT n, 1, 1 + n % 3 FROM generate_series(1, {ROWS}) n;
INSERT INTO child (id, tenant, flow, parent) SELECT n, 1, 1 + n % 3, n FROM generate_series(1, {ROWS}) n;
INSERT INTO event SELECT n, 1, 1 + n % 3, 'live', timestamptz '2025-01-01' + n * interval '1 day'
  FROM generate_series(1, 100) n;
INSERT INTO probe SELECT n, 1, 1 + n % 3, now() FROM generate_series(1, {ROWS}) n;
UPDATE parent SET flow = NULL WHERE id = {ROWS};
DELETE FROM child WHERE id = {ROWS};
INSERT INTO probe VALUES ({ROWS + 1}, 1, NULL, now());
""",
    )
    guard(app)
    run(app, "VACUUM ANALYZE")
    return app


# --- What is told


def test_a_large_table_is_not_read(large: Connection) -> None:
    for query in (
        "SELECT * FROM flowguard.link_estimate",
        "SELECT * FROM flowguard.category_estimate",
        "SELECT flowguard.score_estimate()",
        "SELECT * FROM flowguard.health_estimate",
    ):
        found = read(large, query)
        assert [found[table] for table in ("parent", "child", "probe")] == [0, 0, 0], query
    assert read(large, "SELECT * FROM flowguard.link_status")["parent"] >= ROWS


def test_what_is_told_is_what_counting_finds(large: Connection) -> None:
    found, wanted = told(large), counted(large)
    assert set(found) == set(wanted) == set(LINKS)
    assert {table: row["estimated"] for table, row in found.items()} == {
        "parent": True,
        "child": True,
        "grandchild": False,
        "event": False,
        "probe": True,
    }
    for table, row in found.items():
        for name in ("mode", "validated", "indexed", "guarded", *FIGURES):
            assert row[name] in (None, wanted[table][name]), (table, name)
        assert row["total"] == pytest.approx(wanted[table]["total"], rel=0.01)
    assert (found["parent"]["unlinked"], found["parent"]["dangling"], found["parent"]["mismatched"]) == (1, 0, 0)
    assert (found["parent"]["linked"], found["parent"]["unproved"]) == (ROWS - 1, [])


def test_a_small_table_is_counted(dirty: Connection) -> None:
    found = told(dirty)
    assert {table: (row.pop("estimated"), row.pop("unproved")) for table, row in found.items()} == dict.fromkeys(
        LINKS, (False, [])
    )
    assert found == counted(dirty)
    for estimate, exact in (
        ("SELECT * FROM flowguard.category_estimate", "SELECT * FROM flowguard.health_category"),
        ("SELECT flowguard.score_estimate()", "SELECT flowguard.health_score()"),
    ):
        assert rows(dirty, estimate) == rows(dirty, exact)


def test_what_is_not_proved_is_named_and_not_guessed(large: Connection) -> None:
    found = told(large)
    # Agreement is proved by a key where it is enforced; a tenant that may be NULL lets rows past a key of two columns.
    assert (found["child"]["mismatched"], found["child"]["linked"]) == (None, None)
    [why] = found["child"]["unproved"]
    assert why.startswith("mismatched: no foreign key on (parent, flow) to ")
    assert (found["probe"]["dangling"], found["probe"]["mismatched"], found["probe"]["tenantless"]) == (0, None, None)
    assert found["probe"]["unproved"] == [
        "mismatched: foreign key flowguard_probe_flow_tenant_fkey passes over rows in which tenant is NULL",
        "tenantless: tenant may be NULL",
    ]
    run(large, "SELECT flowguard.set_mode('child', 'enforce', 'flow')")
    guard(large, "child")
    run(large, "ALTER TABLE probe ALTER tenant SET NOT NULL")
    guard(large, "probe")
    found = told(large)
    assert [found[table]["unproved"] for table in ("child", "probe")] == [[], []]
    assert [found[table]["linked"] for table in ("child", "probe")] == [ROWS - 1, ROWS]


SUBSCRIBED = "INSERT INTO pg_subscription_rel VALUES (1, '{table}'::regclass, 'r')"
"""As the catalog has it of a table that a subscription writes; tests/survival/ has real ones."""

GAPS: dict[str, tuple[str, str, str]] = {
    "no key": (
        "ALTER TABLE parent DROP CONSTRAINT flowguard_parent_flow_tenant_fkey",
        "dangling",
        "no foreign key on (flow) to ",
    ),
    "a key that is not validated": (
        """
ALTER TABLE parent DROP CONSTRAINT flowguard_parent_flow_tenant_fkey;
ALTER TABLE parent ADD CONSTRAINT flowguard_parent_flow_tenant_fkey
  FOREIGN KEY (tenant, flow) REFERENCES flow (tenant, id) NOT VALID;
""",
        "mismatched",
        "foreign key flowguard_parent_flow_tenant_fkey is not validated",
    ),
    "triggers of the child disabled": (
        "ALTER TABLE parent DISABLE TRIGGER ALL",
        "dangling",
        "a trigger of foreign key flowguard_parent_flow_tenant_fkey is disabled",
    ),
    "triggers of the master disabled": (
        "ALTER TABLE flow DISABLE TRIGGER ALL",
        "dangling",
        "a trigger of foreign key flowguard_parent_flow_tenant_fkey is disabled",
    ),
    "triggers for replicas alone": (
        """
DO $$
DECLARE
  v_name name;
BEGIN
  FOR v_name IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'parent'::regclass AND tgisinternal LOOP
    EXECUTE format('ALTER TABLE parent ENABLE REPLICA TRIGGER %I', v_name);
  END LOOP;
END $$;
""",
        "dangling",
        "a trigger of foreign key flowguard_parent_flow_tenant_fkey is disabled",
    ),
    "a subscription that writes the table": (
        SUBSCRIBED.format(table="parent"),
        "dangling",
        "foreign key flowguard_parent_flow_tenant_fkey is not checked for what a subscription writes to public.parent",
    ),
    "a subscription that writes the master": (
        SUBSCRIBED.format(table="flow"),
        "mismatched",
        "foreign key flowguard_parent_flow_tenant_fkey is not checked for what a subscription writes to public.flow",
    ),
    "a tenant that may be NULL": (
        "ALTER TABLE parent ALTER tenant DROP NOT NULL",
        "tenantless",
        "tenant may be NULL",
    ),
    "no index": (
        "DROP INDEX flowguard_parent_flow_idx",
        "unlinked",
        "no index leads to rows in which flow is NULL",
    ),
}


@pytest.mark.parametrize("gap", GAPS)
def test_a_gap_in_the_proof_is_named(large: Connection, as_role: Callable[[str, str], str], gap: str) -> None:
    assert told(large)["parent"]["unproved"] == []
    open_it, figure, why = GAPS[gap]
    with psycopg.connect(as_role(large.info.dsn, "postgres"), autocommit=True) as admin:
        run(admin, open_it)
    found = told(large)["parent"]
    assert (found[figure], found["linked"]) == (None, None)
    assert [reason for reason in found["unproved"] if reason.startswith(f"{figure}: {why}")], found["unproved"]
    assert one(large, "SELECT flowguard.score_estimate()") < 100
    details = one(large, "SELECT string_agg(detail, ' ') FROM flowguard.category_estimate")
    assert why in details or figure == "unlinked"


def test_not_null_that_is_not_validated_proves_nothing(large: Connection) -> None:
    """Nor for those who count: a row without a tenant is one."""
    run(large, f"INSERT INTO probe VALUES ({ROWS + 2}, NULL, 1, now())")
    not_valid = "ALTER TABLE probe ADD CONSTRAINT known NOT NULL tenant NOT VALID"
    if chosen_version() < 18:  # which does not know such a thing
        with refused("42601"):
            run(large, not_valid)
    else:
        run(large, not_valid)
    assert told(large)["probe"]["tenantless"] is None
    assert counted(large)["probe"]["tenantless"] == 1


def test_a_table_that_was_never_analysed_says_so(large: Connection) -> None:
    run(large, "CREATE TABLE late (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer)")
    run(large, "ALTER TABLE late SET (autovacuum_enabled = off); SELECT flowguard.add_link('late', 'flow')")
    guard(large, "late")  # whose indexes would count the rows
    run(large, f"INSERT INTO late SELECT n, 1, 1 FROM generate_series(1, {ROWS}) n")
    found = told(large)["late"]
    assert (found["total"], found["linked"], found["unlinked"], found["coverage"]) == (None, None, 0, 1)
    assert [why.replace("public.", "") for why in found["unproved"]] == ["total: late was never analysed"]
    run(large, "INSERT INTO late VALUES (0, 1, NULL)")
    found = told(large)["late"]
    assert (found["total"], found["unlinked"], found["coverage"]) == (None, 1, Decimal("0.9999"))
    run(large, "ANALYZE late")
    assert (told(large)["late"]["total"], told(large)["late"]["unproved"]) == (ROWS + 1, [])


def test_a_table_that_has_grown_is_told_by_its_size(large: Connection) -> None:
    run(large, "ALTER TABLE parent SET (autovacuum_enabled = off)")
    run(large, f"INSERT INTO parent SELECT n, 1, 1 FROM generate_series({ROWS + 1}, {2 * ROWS}) n")
    assert told(large)["parent"]["total"] == pytest.approx(2 * ROWS, rel=0.02)


@pytest.mark.parametrize("unlinked", [10_000, 15_000])
def test_beyond_a_bound_unlinked_rows_are_estimated_and_marked(large: Connection, unlinked: int) -> None:
    run(large, "DELETE FROM probe; SET flowguard.flow = ''")
    run(large, f"INSERT INTO probe SELECT n, 2, NULL, now() FROM generate_series(1, {unlinked}) n")
    run(large, f"INSERT INTO probe SELECT n, 1, 1, now() FROM generate_series(20001, {20_000 + ROWS}) n")
    run(large, "VACUUM ANALYZE probe")
    found = told(large)["probe"]
    marked = [why for why in found["unproved"] if why.startswith("unlinked: ")]
    if unlinked == 10_000:
        assert (found["unlinked"], marked) == (unlinked, [])
    else:
        assert found["unlinked"] == pytest.approx(unlinked, rel=0.05)
        assert marked == ["unlinked: estimated, more than 10000"]


def test_old_statistics_do_not_let_the_table_be_read(large: Connection) -> None:
    """They say that all rows are unlinked, so that reading the table from its beginning seems best."""
    run(large, "ALTER TABLE parent SET (autovacuum_enabled = off); ALTER TABLE parent DISABLE TRIGGER USER")
    for statement in ("UPDATE parent SET flow = NULL", "VACUUM ANALYZE parent", "UPDATE parent SET flow = 1"):
        run(large, statement)
    run(large, "ALTER TABLE parent ENABLE TRIGGER USER")
    assert read(large, "SELECT * FROM flowguard.link_estimate")["parent"] == 0
    assert told(large)["parent"]["unlinked"] == 0


PARTITIONED = """
CREATE TABLE part (id integer, tenant integer NOT NULL, flow integer, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (20000);
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (20000) TO (40000) PARTITION BY RANGE (id);
CREATE TABLE part_2_1 PARTITION OF part_2 FOR VALUES FROM (20000) TO (40000) WITH (autovacuum_enabled = off);
SELECT flowguard.add_link('part', 'flow');
"""


def test_partitions_are_summed(large: Connection, as_role: Callable[[str, str], str]) -> None:
    run(large, PARTITIONED)
    guard(large, "part")
    run(large, "INSERT INTO part SELECT n, 1, 1 FROM generate_series(10001, 30000) n")
    run(large, "INSERT INTO part VALUES (1, 1, NULL), (39999, 1, NULL)")
    run(large, "ANALYZE part_1")
    found = told(large)["part"]
    assert (found["total"], found["unlinked"], found["dangling"], found["mismatched"]) == (None, 2, 0, 0)
    assert [why.replace("public.", "") for why in found["unproved"]] == ["total: part_2_1 was never analysed"]
    run(large, "ANALYZE part_2_1")
    found = told(large)["part"]
    assert (found["total"], found["linked"], found["unlinked"], found["unproved"]) == (20_002, 20_000, 2, [])
    found = read(large, "SELECT * FROM flowguard.link_estimate")
    assert [found[table] for table in ("part_1", "part_2_1")] == [0, 0]
    # One partition alone lets rows past the key.
    with psycopg.connect(as_role(large.info.dsn, "postgres"), autocommit=True) as admin:
        run(admin, "ALTER TABLE part_2_1 DISABLE TRIGGER ALL")
    assert told(large)["part"]["dangling"] is None


@pytest.mark.parametrize("written", ["part", "part_1", "part_2", "part_2_1"])
def test_a_subscription_writes_a_part_or_the_whole(
    large: Connection, as_role: Callable[[str, str], str], written: str
) -> None:
    """By way of the root (publish_via_partition_root) or partition by partition."""
    run(large, PARTITIONED)
    guard(large, "part")
    run(large, "INSERT INTO part SELECT n, 1, 1 FROM generate_series(10001, 30000) n; ANALYZE part")
    assert (told(large)["part"]["dangling"], told(large)["part"]["mismatched"]) == (0, 0)
    with psycopg.connect(as_role(large.info.dsn, "postgres"), autocommit=True) as admin:
        run(admin, SUBSCRIBED.format(table=written))
    found = told(large)
    assert (found["part"]["dangling"], found["part"]["mismatched"]) == (None, None)
    assert (found["parent"]["dangling"], found["parent"]["unproved"]) == (0, [])  # of which nothing is subscribed


def test_a_small_table_that_a_subscription_writes_is_counted(
    app: Connection, as_role: Callable[[str, str], str]
) -> None:
    with psycopg.connect(as_role(app.info.dsn, "postgres"), autocommit=True) as admin:
        run(admin, SUBSCRIBED.format(table="parent"))
        run(admin, "SET session_replication_role = replica; INSERT INTO parent VALUES (1, 1, 77)")
    found = told(app)["parent"]
    assert (found["dangling"], found["estimated"], found["unproved"]) == (1, False, [])


# --- What was written past the guard


def test_rows_written_as_a_replica_are_found_by_counting_alone(
    large: Connection, as_role: Callable[[str, str], str]
) -> None:
    with psycopg.connect(as_role(large.info.dsn, "postgres"), autocommit=True) as admin:
        run(admin, "SET session_replication_role = replica")
        run(admin, f"INSERT INTO parent VALUES ({ROWS + 1}, 1, 77), ({ROWS + 2}, 1, 9)")
    found = told(large)["parent"]
    assert (found["dangling"], found["mismatched"], found["unproved"]) == (0, 0, [])
    assert (counted(large)["parent"]["dangling"], counted(large)["parent"]["mismatched"]) == (1, 1)
    findings = {name for (name,) in rows(large, "SELECT name FROM flowguard.check_all()")}
    assert findings >= {"dangling_links", "mismatched_links"}


def test_rows_written_under_disabled_triggers_are_found_by_counting_alone(
    large: Connection, as_role: Callable[[str, str], str]
) -> None:
    with psycopg.connect(as_role(large.info.dsn, "postgres"), autocommit=True) as admin:
        run(admin, "ALTER TABLE parent DISABLE TRIGGER ALL")
        run(admin, f"INSERT INTO parent VALUES ({ROWS + 1}, 1, 77)")
        assert told(large)["parent"]["dangling"] is None  # as long as they are disabled
        run(admin, "ALTER TABLE parent ENABLE TRIGGER ALL")
    assert told(large)["parent"]["dangling"] == 0
    assert counted(large)["parent"]["dangling"] == 1
    assert "dangling_links" in {name for (name,) in rows(large, "SELECT name FROM flowguard.check_all()")}


# --- The score


def test_100_only_where_nothing_is_left_to_fix_or_to_prove(large: Connection) -> None:
    score = "SELECT flowguard.score_estimate()"
    assert one(large, score) < 100
    run(large, f"DELETE FROM parent WHERE id = {ROWS}; DELETE FROM probe WHERE flow IS NULL")
    run(large, "ALTER TABLE probe ALTER tenant SET NOT NULL, ALTER at SET NOT NULL")
    run(large, "SELECT flowguard.set_mode('child', 'enforce', 'flow')")
    guard(large)
    assert (one(large, score), one(large, "SELECT flowguard.health_score()")) == (Decimal("100.0"), Decimal("100.0"))
    assert {detail for (detail,) in rows(large, "SELECT detail FROM flowguard.category_estimate")} == {"nothing to fix"}
    run(large, "ALTER TABLE parent ADD created_at timestamptz NOT NULL DEFAULT '2025-01-01', "
               "ADD updated_at timestamptz NOT NULL DEFAULT '2025-01-01'")  # fmt: skip
    assert one(large, score) == Decimal("99.9")
    run(large, "ALTER TABLE parent ADD CHECK (created_at <= updated_at) NOT VALID")
    assert one(large, score) == Decimal("99.9")
    run(large, "ALTER TABLE parent VALIDATE CONSTRAINT parent_check")
    assert one(large, score) == Decimal("100.0")
    run(large, f"INSERT INTO parent VALUES ({ROWS + 1}, 1, NULL)")
    assert one(large, score) < 100
    linkage = "SELECT score FROM flowguard.category_estimate WHERE category = 'master-flow linkage'"
    assert one(large, linkage) == Decimal("99.9")


def test_a_tenant_that_may_not_exist_is_not_proved(large: Connection) -> None:
    run(large, "CREATE TABLE tenant (id integer PRIMARY KEY); INSERT INTO tenant VALUES (1), (2)")
    isolation = "SELECT detail FROM flowguard.category_estimate WHERE category = 'tenant isolation'"
    assert "parent" not in one(large, isolation)
    run(large, "ALTER TABLE parent ADD CONSTRAINT there FOREIGN KEY (tenant) REFERENCES tenant NOT VALID")
    assert "not proved: foreign key there is not validated" in one(large, isolation)
    run(large, "ALTER TABLE parent VALIDATE CONSTRAINT there")
    assert "parent" not in one(large, isolation)


def test_a_link_that_is_gone_costs_as_ever(large: Connection) -> None:
    run(large, "DROP TABLE grandchild")
    assert set(told(large)) == {"parent", "child", "event", "probe"}
    details = [detail for (detail,) in rows(large, "SELECT detail FROM flowguard.category_estimate")]
    assert all("is gone" in detail for detail in details)


# --- Who may ask


def test_row_security_is_an_error_not_a_partial_figure(large: Connection) -> None:
    run(large, "ALTER TABLE parent ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    with refused("42501"):
        told(large)


def test_a_viewer_may_ask(app: Connection, roles: Callable[[str], Connection]) -> None:
    viewer = roles("flowguard_viewer")
    assert len(rows(viewer, "SELECT * FROM flowguard.link_estimate")) == len(LINKS)
    assert len(rows(viewer, "SELECT * FROM flowguard.category_estimate")) == 5
    assert one(viewer, "SELECT flowguard.score_estimate()") == one(app, "SELECT flowguard.health_score()")


# --- Any rows


values = st.sampled_from([1, 2, 9, 77, None])
tenants = st.sampled_from([1, 2, None])
writes = st.lists(
    st.tuples(st.sampled_from(["parent", "child", "probe"]), tenants, values, st.integers(1, 8)), max_size=12
)


def attempt(connection: Connection, statements: list[str]) -> None:
    """Run each statement; the guard and keys may refuse some."""
    for statement in statements:
        try:
            run(connection, statement)
        except psycopg.Error as error:  # noqa: PERF203  each by itself
            assert re.match("FG|23", error.sqlstate or ""), error  # noqa: PT017


def write(connection: Connection, drawn: list[Any]) -> None:
    extra = {"parent": ("", ""), "child": (", parent", ", {}"), "probe": (", at", ", '2025-01-01'")}
    attempt(
        connection,
        [
            f"INSERT INTO {table} (id, tenant, flow{extra[table][0]}) SELECT count(*) + 1, {tenant or 'NULL'}, "
            f"{flow or 'NULL'}{extra[table][1].format(parent)} FROM {table}"
            for table, tenant, flow, parent in drawn
        ],
    )


@given(before=writes, after=writes, enforced=st.booleans())
@settings(sized(ci=25, nightly=200), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_figure_is_ever_another_than_counted(
    app: Connection, before: list[Any], after: list[Any], enforced: bool
) -> None:
    """Whatever was there before the guard and was written under it; told as if every table were too large to count."""
    run(app, "".join(f"SELECT flowguard.unguard('{table}', 'flow');" for table in LINKS))
    run(app, "TRUNCATE parent, child, grandchild, event, probe, flowguard.violation_seen")
    run(app, "".join(f"SELECT flowguard.set_mode('{table}', 'observe', 'flow');" for table in LINKS))
    write(app, before)
    guard(app)
    if enforced:
        attempt(app, [f"SELECT flowguard.set_mode('{table}', 'enforce', 'flow')" for table in LINKS])
        guard(app)
    write(app, after)
    run(app, "ANALYZE parent, child, grandchild, event, probe")
    found, wanted = told(app, "SELECT * FROM flowguard._measure(-1)"), counted(app)
    for table in LINKS:
        assert found[table]["estimated"]
        for name in ("total", *FIGURES):
            assert found[table][name] in (None, wanted[table][name]), (table, name, found[table])
        assert found[table]["coverage"] >= min(wanted[table]["coverage"], Decimal("0.9999"))
        exact = dict(rows(app, "SELECT category, score FROM flowguard._health() WHERE relation = %s::regclass", table))
        for category, estimate in zip(found[table]["categories"], found[table]["scores"], strict=True):
            assert estimate >= min(exact[category], Decimal("99.9")), (table, category)
            assert estimate < 100 or exact[category] == 100, (table, category)
