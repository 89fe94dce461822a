"""The report's database is as it is said to be: tables, rows, decoys, and what the report's scripts make of it.

The right master of each asset is worked out here a second time, in Python from plain rows: no join, no SQL arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from hashlib import md5
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]
Row: TypeAlias = Mapping[str, Any]
Tables: TypeAlias = Mapping[str, list[Row]]
Answer: TypeAlias = tuple[UUID, str]

SQL = Path(__file__).parents[2] / "sql"
LINK_TABLES = ("data_imports", "raw_import_records", "import_field_mappings", "discovery_flows", "assets")
WINDOW = timedelta(hours=1)


# --- Fixtures and small readers


@pytest.fixture(scope="module")
def db(databases: Any, report_template: str) -> Iterator[Connection]:  # noqa: ANN401  conftest's, not importable
    """Connect to the report's database as it is before the clean-up, to read."""
    with databases.new(report_template) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = on")
        yield connection


@pytest.fixture
def own_db(report_db: str) -> Iterator[Connection]:
    """Connect to a copy of it that a test may write to."""
    with psycopg.connect(report_db, autocommit=True) as connection:
        yield connection


def load(connection: Connection, *names: str) -> None:
    for name in names:
        connection.execute((SQL / "report" / f"{name}.sql").read_bytes())


def one(connection: Connection, query: str, *parameters: str) -> Any:  # noqa: ANN401  a column of any type
    row = connection.execute(query.encode(), parameters).fetchone()
    assert row is not None
    return row[0]


def read(connection: Connection, table: str) -> list[Row]:
    with connection.cursor(row_factory=dict_row) as cursor:
        query = sql.SQL("SELECT * FROM {} ORDER BY ctid").format(sql.Identifier("migration", table))
        return list(cursor.execute(query).fetchall())


def label(text: str) -> UUID:
    """Give the id that the rows named `text` in before.sql have."""
    return UUID(md5(text.encode(), usedforsecurity=False).hexdigest())


def read_tables(connection: Connection) -> Tables:
    return {name: read(connection, name) for name in ("crewai_flow_state_extensions", *LINK_TABLES)}


def true_asset_links(connection: Connection) -> dict[UUID, Answer]:
    rows = connection.execute("SELECT asset_id, master_flow_id, found_by FROM report.true_asset_link").fetchall()
    return {asset: (master, found_by) for asset, master, found_by in rows}


def true_mapping_links(connection: Connection) -> dict[UUID, UUID]:
    rows = connection.execute("SELECT mapping_id, master_flow_id FROM report.true_mapping_link").fetchall()
    return {mapping: master for mapping, master in rows}  # noqa: C416  dict() loses the types


# --- The oracle


@dataclass(frozen=True)
class Oracle:
    """The profile's rules for assets; each switch, turned off, is a mistake that the data has to show."""

    asks_tenant: bool = True
    asks_master: bool = True
    skips_deleted: bool = True
    includes_edge: bool = True
    keeps_window: bool = True
    earlier_wins_tie: bool = True
    trusts_references: bool = True
    flows_before_imports: bool = True

    def answer(self, asset: Row, tables: Tables) -> Answer | None:
        """Give the master's key and the rule that finds it, or None where no rule does."""
        referenced = self.by_reference(asset, tables) if self.trusts_references else None
        return referenced or self.by_time(asset, tables)

    def by_reference(self, asset: Row, tables: Tables) -> Answer | None:
        """Follow the columns of the asset that lead to a master."""
        # every raw record is linked, so that no asset waits for one
        for record in self.usable(tables["raw_import_records"], asset, tables):
            if record["id"] == asset["raw_import_records_id"]:
                return record["master_flow_id"], "raw record"
        for flow in self.usable(tables["discovery_flows"], asset, tables):
            if asset["discovery_flow_id"] in (flow["id"], flow["flow_id"]):
                return flow["master_flow_id"], "discovery flow"
        if (tenant(asset), asset["flow_id"]) in keys_of_masters(tables):
            return asset["flow_id"], "flow"
        return None

    def by_time(self, asset: Row, tables: Tables) -> Answer | None:
        """Take the nearest discovery flow, or import if there is none."""
        flows = [f for f in tables["discovery_flows"] if not self.skips_deleted or f["status"] != "deleted"]
        sources = [(flows, "nearest discovery flow"), (tables["data_imports"], "nearest import")]
        if not self.flows_before_imports:
            sources = [(flows + tables["data_imports"], "nearest")]
        for rows, found_by in sources:
            in_time = [row for row in self.usable(rows, asset, tables) if self.near(row, asset)]
            if in_time:
                nearest = min(in_time, key=lambda row: self.preference(row, asset))
                return nearest["master_flow_id"], found_by
        return None

    def usable(self, sources: Iterable[Row], asset: Row, tables: Tables) -> list[Row]:
        """Keep the sources of the asset's tenant whose link is a master's key."""
        masters = keys_of_masters(tables)
        return [
            source
            for source in sources
            if source["master_flow_id"] is not None
            and (not self.asks_tenant or tenant(source) == tenant(asset))
            and (not self.asks_master or (tenant(source), source["master_flow_id"]) in masters)
        ]

    def near(self, source: Row, asset: Row) -> bool:
        """Tell whether the source is within the hour."""
        away = distance(source, asset)
        return not self.keeps_window or away < WINDOW or (self.includes_edge and away == WINDOW)

    def preference(self, source: Row, asset: Row) -> tuple[timedelta, float, UUID]:
        """Give the key by which the smallest source is the right one."""
        written = source["created_at"].timestamp()
        return distance(source, asset), written if self.earlier_wins_tie else -written, source["id"]

    def answers(self, tables: Tables) -> dict[UUID, Answer | None]:
        """Answer for each asset."""
        return {asset["id"]: self.answer(asset, tables) for asset in tables["assets"]}


def keys_of_masters(tables: Tables) -> set[tuple[tuple[UUID, UUID], UUID]]:
    return {(tenant(master), master["flow_id"]) for master in tables["crewai_flow_state_extensions"]}


def tenant(row: Row) -> tuple[UUID, UUID]:
    return row["client_account_id"], row["engagement_id"]


def distance(source: Row, asset: Row) -> timedelta:
    away: timedelta = source["created_at"] - asset["created_at"]
    return abs(away)


def with_links_translated(tables: Tables) -> Tables:
    """Replace each discovery flow's link that is a master's id by that master's flow_id."""
    keys = {(tenant(m), m["id"]): m["flow_id"] for m in tables["crewai_flow_state_extensions"]}
    flows: list[Row] = [
        {**flow, "master_flow_id": keys.get((tenant(flow), flow["master_flow_id"]), flow["master_flow_id"])}
        for flow in tables["discovery_flows"]
    ]
    return {**tables, "discovery_flows": flows}


# --- The tables


@pytest.mark.parametrize(
    ("table", "not_null"),
    [
        ("crewai_flow_state_extensions", {"flow_id", "client_account_id", "engagement_id"}),
        ("data_imports", set()),
        ("raw_import_records", {"data_import_id"}),
        ("import_field_mappings", {"data_import_id", "client_account_id"}),
        ("discovery_flows", {"flow_id", "client_account_id", "engagement_id", "created_at"}),
        ("assets", {"client_account_id", "engagement_id"}),
    ],
)
def test_a_column_that_leads_to_a_master_is_nullable_where_the_platform_has_it_so(
    db: Connection, table: str, not_null: set[str]
) -> None:
    rows = db.execute(
        "SELECT column_name FROM information_schema.columns"
        " WHERE table_schema = 'migration' AND table_name = %s AND is_nullable = 'NO'"
        " AND (column_name LIKE '%%\\_id' OR column_name = 'created_at')",
        [table],
    ).fetchall()
    assert {name for (name,) in rows} == not_null


@pytest.mark.parametrize("table", ["crewai_flow_state_extensions", *LINK_TABLES])
def test_ids_are_uuids_and_times_have_a_time_zone(db: Connection, table: str) -> None:
    rows = db.execute(
        "SELECT column_name, data_type FROM information_schema.columns"
        " WHERE table_schema = 'migration' AND table_name = %s",
        [table],
    ).fetchall()
    assert {data_type for name, data_type in rows if name == "id" or name.endswith("_id")} == {"uuid"}
    assert {data_type for name, data_type in rows if name.endswith("_at")} == {"timestamp with time zone"}


LINK_KEY = "FOREIGN KEY (master_flow_id) REFERENCES migration.crewai_flow_state_extensions(flow_id)"
TENANT_KEY = "FOREIGN KEY (client_account_id, engagement_id) REFERENCES migration.engagements(client_account_id, id)"
IMPORT_KEY = "FOREIGN KEY (data_import_id) REFERENCES migration.data_imports(id) ON DELETE CASCADE"
USER_KEY = "FOREIGN KEY ({}) REFERENCES migration.users(id)"


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        (
            "crewai_flow_state_extensions",
            {
                TENANT_KEY,
                "FOREIGN KEY (parent_flow_id) REFERENCES migration.crewai_flow_state_extensions(flow_id)",
                USER_KEY.format("user_id") + " ON DELETE SET NULL",
            },
        ),
        (
            "data_imports",
            {TENANT_KEY, LINK_KEY + " DEFERRABLE INITIALLY DEFERRED", USER_KEY.format("imported_by")},
        ),
        ("raw_import_records", {TENANT_KEY, LINK_KEY, IMPORT_KEY}),
        ("import_field_mappings", {TENANT_KEY, LINK_KEY, IMPORT_KEY}),
        ("discovery_flows", {TENANT_KEY, LINK_KEY + " ON DELETE CASCADE NOT VALID"}),
        (
            "assets",
            {TENANT_KEY, "FOREIGN KEY (raw_import_records_id) REFERENCES migration.raw_import_records(id)"},
        ),
        (
            "data_import_sessions",
            {
                TENANT_KEY + " ON DELETE CASCADE",
                "FOREIGN KEY (client_account_id) REFERENCES migration.client_accounts(id) ON DELETE CASCADE",
                USER_KEY.format("created_by") + " ON DELETE SET NULL",
            },
        ),
    ],
)
def test_foreign_keys_are_the_platforms_and_no_others(db: Connection, table: str, keys: set[str]) -> None:
    rows = db.execute(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f' AND conrelid = %s::regclass",
        [f"migration.{table}"],
    ).fetchall()
    assert {definition for (definition,) in rows} == keys


def test_only_discovery_flows_has_an_index_on_its_link_and_no_child_one_on_its_import(db: Connection) -> None:
    rows = db.execute(
        "SELECT relation.relname, attribute.attname FROM pg_index"
        " JOIN pg_class AS relation ON relation.oid = indrelid"
        " JOIN pg_attribute AS attribute ON attrelid = indrelid AND attnum = indkey[0]"
        " WHERE relnamespace = 'migration'::regnamespace"
    ).fetchall()
    leading = {(table, column) for table, column in rows}
    assert {table for table, column in leading if column == "master_flow_id"} == {"discovery_flows"}
    assert not [table for table, column in leading if column == "data_import_id"]


def test_row_security_is_enabled_not_forced_and_by_client(db: Connection) -> None:
    rows = db.execute(
        "SELECT relname, relforcerowsecurity FROM pg_class"
        " WHERE relnamespace = 'migration'::regnamespace AND relrowsecurity"
    ).fetchall()
    guarded = {
        "crewai_flow_state_extensions",
        "data_imports",
        "import_field_mappings",
        "discovery_flows",
        "assets",
        "data_import_sessions",
    }
    assert dict(rows) == dict.fromkeys(guarded, False)
    policies = db.execute("SELECT tablename, cmd, qual FROM pg_policies WHERE schemaname = 'migration'").fetchall()
    condition = "(client_account_id = (current_setting('app.client_id'::text, true))::uuid)"
    assert sorted(policies) == sorted((table, "ALL", condition) for table in guarded)


def test_the_legacy_table_carries_what_a_move_has_to_keep(db: Connection) -> None:
    legacy = "migration.data_import_sessions"
    for query, count in {
        "SELECT count(*) FROM pg_index WHERE indrelid = %s::regclass": 4,
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal": 1,
        "SELECT count(*) FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'c'": 1,
        "SELECT count(*) FROM pg_attribute WHERE attrelid = %s::regclass AND attidentity = 'a'": 1,
        "SELECT count(*) FROM pg_description WHERE objoid = %s::regclass": 2,
        "SELECT count(*) FROM pg_description JOIN pg_constraint AS k ON k.oid = objoid"
        " WHERE contype = 'f' AND conrelid = %s::regclass": 1,
        "SELECT count(*) FROM pg_constraint WHERE confrelid = %s::regclass": 0,
    }.items():
        assert one(db, query, legacy) == count
    numbers = db.execute("SELECT session_number FROM migration.data_import_sessions ORDER BY created_at").fetchall()
    assert [number for (number,) in numbers] == [1, 2, 3, 4, 5, 6]


def test_every_table_has_a_comment(db: Connection) -> None:
    rows = db.execute(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r'"
        " AND relnamespace IN ('migration'::regnamespace, 'report'::regnamespace)"
        " AND obj_description(oid, 'pg_class') IS NULL"
    ).fetchall()
    assert rows == []


# --- Loading


def contents(connection: Connection) -> dict[str, str]:
    """Give each table's rows as text, in the order in which they lie."""
    tables = connection.execute(
        "SELECT oid::regclass::text, relnamespace::regnamespace::text, relname FROM pg_class"
        " WHERE relkind = 'r' AND relnamespace IN (to_regnamespace('migration'), to_regnamespace('report'))"
    ).fetchall()
    query = sql.SQL("SELECT string_agg(t::text, chr(10) ORDER BY ctid) FROM {} AS t")
    return {
        name: str(connection.execute(query.format(sql.Identifier(schema, table))).fetchone())
        for name, schema, table in tables
    }


def test_it_loads_the_same_rows_in_the_same_order_whatever_the_session_settings(db: Connection, empty_db: str) -> None:
    with psycopg.connect(empty_db, autocommit=True) as connection:
        connection.execute("SET timezone = 'America/New_York'")
        connection.execute("SET datestyle = 'SQL, DMY'")
        load(connection, "schema", "before")
        connection.execute("RESET ALL")
        assert contents(connection) == contents(db)
    assert len(contents(db)) == 12


def test_a_plain_owner_loads_it(db: Connection) -> None:
    assert db.execute("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user").fetchall() == [
        (False, False)
    ]
    owners = db.execute(
        "SELECT DISTINCT pg_get_userbyid(relowner) = current_user FROM pg_class"
        " WHERE relnamespace IN ('migration'::regnamespace, 'report'::regnamespace)"
    ).fetchall()
    assert owners == [(True,)]


def test_a_script_that_is_loaded_twice_is_refused_whole(own_db: Connection) -> None:
    before = contents(own_db)
    for script in ("schema", "before"):
        with pytest.raises(psycopg.errors.DuplicateSchema):
            load(own_db, script)
        own_db.execute("ROLLBACK")
    assert contents(own_db) == before


# --- The rows


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        ("client_accounts", 2),
        ("engagements", 2),
        ("users", 4),
        ("crewai_flow_state_extensions", 32),
        ("data_imports", 16),
        ("raw_import_records", 265),
        ("discovery_flows", 20),
        ("assets", 29),
        ("import_field_mappings", 178),
        ("data_import_sessions", 6),
    ],
)
def test_a_table_has_the_reports_number_of_rows(db: Connection, table: str, rows: int) -> None:
    assert len(read(db, table)) == rows


@pytest.mark.parametrize(
    ("table", "valid", "dangling", "unlinked"),
    [
        ("data_imports", 16, 0, 0),
        ("raw_import_records", 265, 0, 0),
        ("discovery_flows", 7, 11, 2),
        ("assets", 0, 0, 29),
        ("import_field_mappings", 0, 0, 178),
    ],
)
def test_links_are_valid_dangling_or_missing_as_the_report_counts_them(
    db: Connection, table: str, valid: int, dangling: int, unlinked: int
) -> None:
    tables = read_tables(db)
    masters = keys_of_masters(tables)
    rows = tables[table]
    assert sum((tenant(r), r["master_flow_id"]) in masters for r in rows) == valid
    assert sum(r["master_flow_id"] is None for r in rows) == unlinked
    assert len(rows) - valid - unlinked == dangling


def test_every_row_is_complete_so_that_only_links_are_wrong(db: Connection) -> None:
    engagements = set(db.execute("SELECT client_account_id, id FROM migration.engagements").fetchall())
    tables = read_tables(db)
    for rows in tables.values():
        assert all(tenant(row) in engagements for row in rows)
        assert all(row["created_at"] <= row["updated_at"] for row in rows)
    imports = {row["id"]: row for row in tables["data_imports"]}
    for name in ("raw_import_records", "import_field_mappings"):
        assert all(tenant(row) == tenant(imports[row["data_import_id"]]) for row in tables[name])
    for record in tables["raw_import_records"]:
        assert record["master_flow_id"] == imports[record["data_import_id"]]["master_flow_id"]
    for load_id, row in imports.items():
        assert row["total_records"] == sum(r["data_import_id"] == load_id for r in tables["raw_import_records"])


def test_nothing_in_an_orphan_or_an_unlinked_flow_leads_to_a_master(db: Connection) -> None:
    tables = read_tables(db)
    keys = {m[column] for m in tables["crewai_flow_state_extensions"] for column in ("id", "flow_id")}
    imports = {row["id"] for row in tables["data_imports"]}
    lost = [f for f in tables["discovery_flows"] if f["master_flow_id"] not in keys]
    assert len(lost) == 13
    for flow in lost:
        assert flow["flow_id"] not in keys
        assert flow["id"] not in keys
        assert flow["data_import_id"] not in imports
    assert {flow["data_import_id"] is None for flow in lost} == {True, False}


def test_a_valid_flow_shares_its_master_with_its_import(db: Connection) -> None:
    tables = read_tables(db)
    imports = {row["id"]: row for row in tables["data_imports"]}
    valid = [flow for flow in tables["discovery_flows"] if flow["data_import_id"] in imports]
    assert len(valid) == 7
    for flow in valid:
        assert flow["flow_id"] == flow["master_flow_id"] == imports[flow["data_import_id"]]["master_flow_id"]


def test_no_key_of_a_master_is_another_key_of_any_master(db: Connection) -> None:
    masters = read_tables(db)["crewai_flow_state_extensions"]
    assert len({m["id"] for m in masters} | {m["flow_id"] for m in masters}) == 64


# --- The truth


def test_the_truth_is_complete_and_names_masters_of_the_rows_tenant(db: Connection) -> None:
    tables = read_tables(db)
    masters = keys_of_masters(tables)
    mappings = true_mapping_links(db)
    assets = {asset: master for asset, (master, _) in true_asset_links(db).items()}
    for name, truth in (("assets", assets), ("import_field_mappings", mappings)):
        assert truth.keys() == {row["id"] for row in tables[name]}
        assert {(tenant(row), truth[row["id"]]) for row in tables[name]} <= masters


def test_the_oracle_finds_the_truth_of_every_asset(db: Connection) -> None:
    assert Oracle().answers(read_tables(db)) == true_asset_links(db)


def test_a_mappings_truth_is_its_imports_master(db: Connection) -> None:
    tables = read_tables(db)
    imports = {row["id"]: row["master_flow_id"] for row in tables["data_imports"]}
    expected = {row["id"]: imports[row["data_import_id"]] for row in tables["import_field_mappings"]}
    assert true_mapping_links(db) == expected


def test_each_rule_finds_some_asset_and_time_finds_most(db: Connection) -> None:
    rows = db.execute("SELECT found_by, count(*) FROM report.true_asset_link GROUP BY found_by").fetchall()
    assert dict(rows) == {
        "raw record": 2,
        "discovery flow": 2,
        "flow": 1,
        "nearest discovery flow": 22,
        "nearest import": 2,
    }


@pytest.mark.parametrize(
    ("mistaken", "shown_by"),
    [
        pytest.param(Oracle(asks_tenant=False), {2, 3, 6, 8, 9, 11, 12, 14}, id="tenant not asked for"),
        pytest.param(
            Oracle(asks_master=False),
            {3, 4, 7, 8, 11, 12, 14, 19, 20, 21, 23, 25, 26, 27},
            id="master not asked for",
        ),
        pytest.param(Oracle(skips_deleted=False), {19, 20, 21, 23}, id="deleted flows taken"),
        pytest.param(Oracle(includes_edge=False), {25}, id="edge of the window left out"),
        pytest.param(Oracle(keeps_window=False), {23, 26}, id="no window"),
        pytest.param(Oracle(earlier_wins_tie=False), {3}, id="later wins a tie"),
        pytest.param(Oracle(trusts_references=False), {17, 22, 24, 28, 29}, id="time before references"),
        pytest.param(Oracle(flows_before_imports=False), {3, 19, 20, 21, 25, 27}, id="imports as good as flows"),
    ],
)
def test_a_mistaken_rule_gets_the_assets_wrong_that_were_laid_out_for_it(
    db: Connection, mistaken: Oracle, shown_by: set[int]
) -> None:
    truth = true_asset_links(db)
    answers = mistaken.answers(read_tables(db))
    wrong = {n for n in range(1, 30) if (answers[label(f"asset {n}")] or (None,))[0] != truth[label(f"asset {n}")][0]}
    assert wrong == shown_by


# --- The report's scripts


@pytest.fixture
def scripts(own_db: Connection) -> Connection:
    """Add the report's scripts to the database."""
    load(own_db, "report_scripts")
    return own_db


def run_scripts(connection: Connection, call: str) -> Row:
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(call.encode()).fetchone()
    assert row is not None
    return row


def test_rows_lie_in_the_order_that_the_scripts_take_for_theirs(db: Connection) -> None:
    for table in ("discovery_flows", "data_imports"):
        written = [row["updated_at"] for row in read(db, table)]
        assert written == sorted(set(written))


def test_the_scripts_join_sees_116_rows_and_232_with_the_dangling_flows(db: Connection) -> None:
    tables = read_tables(db)
    masters = {m["flow_id"] for m in tables["crewai_flow_state_extensions"]}
    linked = [f for f in tables["discovery_flows"] if f["master_flow_id"] is not None]
    valid = [f for f in linked if f["master_flow_id"] in masters]

    def near(asset: Row, sources: list[Row]) -> int:
        return sum(tenant(s) == tenant(asset) and distance(s, asset) <= WINDOW for s in sources)

    def joined(flows: list[Row]) -> int:
        return sum(near(asset, tables["data_imports"]) * max(1, near(asset, flows)) for asset in tables["assets"])

    assert all(near(asset, tables["data_imports"]) >= 2 for asset in tables["assets"])
    assert all(near(asset, linked) >= 2 for asset in tables["assets"] if asset["id"] != label("asset 28"))
    assert joined(valid) == 116
    assert joined(linked) == 232


def test_the_reports_order_says_116_assets_and_gets_17_of_29_right(scripts: Connection) -> None:
    assert run_scripts(scripts, "SELECT * FROM report.run_scripts()") == {
        "flows_deleted": 11,
        "assets_said": 116,
        "assets_linked": 29,
        "assets_dangling": 0,
        "assets_right": 17,
        "mappings_said": 178,
        "mappings_right": 178,
    }
    rows = scripts.execute("SELECT master_flow_id IS NOT NULL FROM migration.discovery_flows").fetchall()
    assert sorted(rows) == [(False,)] * 2 + [(True,)] * 7


def test_links_alone_say_232_assets_leave_28_dangling_and_get_none_right(scripts: Connection) -> None:
    assert run_scripts(scripts, "SELECT * FROM report.run_scripts(clean_up => false)") == {
        "flows_deleted": 0,
        "assets_said": 232,
        "assets_linked": 29,
        "assets_dangling": 28,
        "assets_right": 0,
        "mappings_said": 178,
        "mappings_right": 178,
    }


def test_the_score_of_the_truth_itself_is_full(scripts: Connection) -> None:
    scripts.execute(
        "UPDATE migration.assets SET master_flow_id = truth.master_flow_id"
        " FROM report.true_asset_link AS truth WHERE truth.asset_id = assets.id"
    )
    assert run_scripts(scripts, "SELECT * FROM report.score_links()") == {
        "assets_linked": 29,
        "assets_dangling": 0,
        "assets_right": 29,
        "mappings_linked": 0,
        "mappings_right": 0,
    }


# --- The variant


@pytest.fixture
def variant(own_db: Connection) -> Connection:
    """Turn the database into the variant whose wrong links hold ids of masters."""
    load(own_db, "variant_translatable")
    return own_db


def test_each_wrong_link_of_the_variant_is_the_id_of_one_master_of_the_tenant(variant: Connection) -> None:
    tables = read_tables(variant)
    masters = tables["crewai_flow_state_extensions"]
    keys = {m["flow_id"] for m in masters}
    wrong = [f for f in tables["discovery_flows"] if f["master_flow_id"] not in keys | {None}]
    meant = [m["id"] for f in wrong for m in masters if (tenant(m), m["id"]) == (tenant(f), f["master_flow_id"])]
    assert len(wrong) == len(meant) == len(set(meant)) == 11
    assert not {f["flow_id"] for f in wrong} & keys
    assert sum(f["master_flow_id"] in keys for f in tables["discovery_flows"]) == 7


def test_the_oracle_finds_the_variants_truth_once_links_are_translated(variant: Connection) -> None:
    assert Oracle().answers(with_links_translated(read_tables(variant))) == true_asset_links(variant)


def test_the_variants_key_is_not_valid_as_before(variant: Connection) -> None:
    assert one(
        variant, "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'fk_discovery_flows_master_flow'"
    ) == (LINK_KEY + " ON DELETE CASCADE NOT VALID")


# --- Arrival and monitoring


def test_an_upload_as_it_arrives_links_the_import_and_its_flow_and_nothing_else(own_db: Connection) -> None:
    load(own_db, "arrival")
    tables = read_tables(own_db)
    arrived = {name: [row for row in tables[name] if row["created_at"].year == 2025] for name in LINK_TABLES}
    arrived = {name: [row for row in rows if row["created_at"].day == 9] for name, rows in arrived.items()}
    links = {name: [row["master_flow_id"] for row in rows] for name, rows in arrived.items()}
    assert links == {
        "data_imports": [label("arrival")],
        "discovery_flows": [label("arrival")],
        "raw_import_records": [None] * 3,
        "import_field_mappings": [None] * 2,
        "assets": [None] * 3,
    }
    answers = Oracle().answers({**tables, "assets": arrived["assets"][:2]})
    assert set(answers.values()) == {(label("arrival"), "nearest discovery flow")}


def test_the_queries_count_missing_and_dangling_links(db: Connection) -> None:
    unlinked = db.execute((SQL / "report" / "unlinked_rows.sql").read_bytes()).fetchall()
    assert unlinked == [
        ("import_field_mappings", 178, 178),
        ("assets", 29, 29),
        ("discovery_flows", 2, 20),
        ("data_imports", 0, 16),
        ("raw_import_records", 0, 265),
    ]
    dangling = db.execute((SQL / "report" / "dangling_links.sql").read_bytes()).fetchall()
    assert dangling == [
        ("discovery_flows", 11, 18),
        ("assets", 0, 0),
        ("data_imports", 0, 16),
        ("import_field_mappings", 0, 0),
        ("raw_import_records", 0, 265),
    ]
