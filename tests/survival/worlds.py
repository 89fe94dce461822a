"""Guarded databases with a history, what is compared of them, and what a guard does wherever they come to be.

Two: the report's, cleaned up and enforced, and an odd one, whose names need quotes and are not ASCII, with two links on
one table, a filter, a partitioned source and columns that were dropped.
"""

from __future__ import annotations

import psycopg
from engine.postgres import Connection, one, refused, rows, run
from repair.calls import repair, undo

ODD = """
CREATE SCHEMA "Fälle";
CREATE TABLE "Fälle"."Vorgang" (
  weg text, "Nr" bigint PRIMARY KEY, "Kürzel" bigint UNIQUE, "Mandant Nr" integer NOT NULL, created_at timestamptz);
ALTER TABLE "Fälle"."Vorgang" DROP COLUMN weg;
CREATE TABLE "Fälle"."Ereignis ""roh"" 1" (
  "Nr" bigint, "Mandant Nr" integer NOT NULL, "Vorgang Nr" bigint, "Zustand" text NOT NULL DEFAULT 'offen',
  am timestamptz NOT NULL, PRIMARY KEY ("Nr", am)) PARTITION BY RANGE (am);
CREATE TABLE "Fälle"."Ereignis Jänner" PARTITION OF "Fälle"."Ereignis ""roh"" 1"
  FOR VALUES FROM ('2025-01-01 00:00+00') TO ('2025-02-01 00:00+00');
CREATE TABLE "Fälle"."Ereignis übrig" PARTITION OF "Fälle"."Ereignis ""roh"" 1" DEFAULT;
CREATE TABLE "Fälle"."Akte" ("Nr" bigint PRIMARY KEY, "Mandant Nr" integer NOT NULL, "Vorgang Nr" bigint);
CREATE TABLE "Fälle"."Blatt" (
  weg text, "Nr" bigint PRIMARY KEY, "Mandant Nr" integer NOT NULL, "Vorgang Nr" bigint, "zweiter Vorgang" bigint,
  "Akte" bigint REFERENCES "Fälle"."Akte" ON DELETE CASCADE, am timestamptz NOT NULL);
ALTER TABLE "Fälle"."Blatt" DROP COLUMN weg;

INSERT INTO "Fälle"."Vorgang" VALUES (1, 901, 7, now()), (2, 902, 7, now()), (3, 903, 8, now());
INSERT INTO "Fälle"."Ereignis ""roh"" 1" VALUES
  (1, 7, 1, DEFAULT, '2025-01-09 09:00+00'), (2, 7, 2, 'gelöscht', '2025-01-09 09:30+00'),
  (3, 8, 3, DEFAULT, '2025-03-01 00:00+00');
INSERT INTO "Fälle"."Akte" VALUES (10, 7, 1), (11, 7, 902), (12, 7, 999), (13, 8, NULL);
INSERT INTO "Fälle"."Blatt" VALUES
  (100, 7, NULL, NULL, 10, '2025-01-09 09:20+00'), (101, 7, NULL, 2, 11, '2025-01-10 00:00+00'),
  (102, 7, NULL, 888, 12, '2025-01-10 00:00+00'), (103, 8, 3, NULL, NULL, '2025-03-01 00:10+00');
"""
REGISTERED = """
SELECT flowguard.add_master('"Fälle"."Vorgang"', 'Nr', '{Mandant Nr}', '{Kürzel}');
SELECT flowguard.add_link('"Fälle"."Akte"', 'Vorgang Nr', on_master_delete => 'cascade');
SELECT flowguard.add_session_rule('"Fälle"."Akte"', 'Vorgang Nr');
SELECT flowguard.add_link('"Fälle"."Blatt"', 'Vorgang Nr');
SELECT flowguard.add_reference_rule('"Fälle"."Blatt"', 'Akte', '"Fälle"."Akte"', 'Nr', 'Vorgang Nr',
                                    link_column => 'Vorgang Nr');
SELECT flowguard.add_link('"Fälle"."Blatt"', 'zweiter Vorgang', on_orphan => 'unlink');
SELECT flowguard.add_proximity_rule('"Fälle"."Blatt"', '"Fälle"."Ereignis ""roh"" 1"', '1 hour', 'am', 'am',
                                    'Vorgang Nr', '"Zustand" <> ''gelöscht'' AND am > ''2000-01-01 00:00+00'' AND '
                                    '"Zustand"::varchar NOT IN (''s.x'', ''y'')', link_column => 'zweiter Vorgang');
"""
ODD_LINKS = (
    ('"Fälle"."Akte"', "Vorgang Nr"),
    ('"Fälle"."Blatt"', "Vorgang Nr"),
    ('"Fälle"."Blatt"', "zweiter Vorgang"),
)


ENFORCED = ('"Fälle"."Blatt"', "Vorgang Nr")
TABLES = {
    "odd": ('"Fälle"."Vorgang"', '"Fälle"."Ereignis ""roh"" 1"', '"Fälle"."Akte"', '"Fälle"."Blatt"'),
    "report": tuple(
        f"migration.{table}"
        for table in (
            "crewai_flow_state_extensions",
            "data_imports",
            "raw_import_records",
            "import_field_mappings",
            "discovery_flows",
            "assets",
        )
    ),
}
BOOKS = (
    "master",
    "link",
    "rule",
    "replaced_constraint",
    "repair_run",
    "repair_change",
    "quarantined_row",
    "privileged_transaction",
    "violation_seen",
    "health_snapshot",
    "health_snapshot_link",
    "health_snapshot_category",
)
"""Tables of the engine."""


def build_odd(connection: Connection) -> None:
    """Fill an engine's database with the odd application, guard and repair it, and enforce one of its links."""
    run(connection, ODD)
    run(connection, REGISTERED)
    guard_all(connection)
    done = repair(connection, note="the odd run")
    assert (done.translated, done.quarantined, done.remaining) == (1, 1, 1), done
    guard_all(connection)
    run(connection, "SELECT flowguard.set_mode(%s, 'enforce', %s)", *ENFORCED)
    run(connection, "SELECT flowguard.bypass('a look at the past')")
    run(connection, "SELECT flowguard.snapshot()")


def guard_all(connection: Connection) -> None:
    """Guard every link."""
    run(connection, "SELECT flowguard.guard(l.relation, l.link_column) FROM flowguard.link l ORDER BY l.stem")


def contents(dsn: str, world: str) -> dict[str, list[str]]:
    """Give what is to survive: the application's rows, registry, ledger and quarantine, and how the links are."""
    queries = {f"rows of {table}": f"TABLE {table}" for table in TABLES[world]}
    queries |= {book: f"TABLE flowguard.{book}" for book in BOOKS}
    queries["link_status"] = "TABLE flowguard.link_status"
    queries["violation"] = "TABLE flowguard.violation"
    queries["health"] = "TABLE flowguard.health_category"
    queries["findings"] = "SELECT * FROM flowguard.check_all()"
    queries["plan"] = PLANS
    found = {}
    with psycopg.connect(dsn, autocommit=True) as connection:
        run(connection, "SET search_path = ''")
        for name, query in queries.items():
            found[name] = [text for (text,) in rows(connection, f"SELECT x::text FROM ({query}) x ORDER BY 1")]  # noqa: S608
    return found


PLANS = "SELECT p.* FROM flowguard.link l CROSS JOIN LATERAL flowguard.guard_plan(l.relation, l.link_column) p"

LINKED_AGAIN = """
WITH one AS MATERIALIZED (SELECT to_jsonb(m) - 'master_flow_id' || '{"id": "00000000-0000-0000-0000-000000000001"}'
                                 || '{"source_field": "a new one"}' AS row
                            FROM migration.import_field_mappings m ORDER BY id LIMIT 1)
INSERT INTO migration.import_field_mappings
SELECT (jsonb_populate_record(NULL::migration.import_field_mappings, one.row)).* FROM one RETURNING master_flow_id
"""


def still_guards(dsn: str, world: str) -> None:
    """Check that triggers, keys and checks at commit work, and that a new run gets a new number."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        if world == "report":
            linked = one(connection, LINKED_AGAIN)
            assert linked == one(
                connection,
                "SELECT i.master_flow_id FROM migration.data_imports i JOIN migration.import_field_mappings m "
                "ON m.data_import_id = i.id WHERE m.id = '00000000-0000-0000-0000-000000000001'",
            )
            with refused("23503"):
                run(connection, "UPDATE migration.assets SET master_flow_id = gen_random_uuid()")
        else:
            blatt = 'INSERT INTO "Fälle"."Blatt" ("Nr", "Mandant Nr", "Akte", am) VALUES (%s, %s, %s, %s) '
            both = 'RETURNING "Vorgang Nr", "zweiter Vorgang"'
            assert rows(connection, blatt + both, 200, 7, 10, "2025-01-09 09:25+00") == [(1, 1)]
            with refused("FG001") as refusal:
                run(connection, blatt, 201, 8, 13, "2025-05-05 00:00+00")
            refusal.says('"Fälle"."Blatt"', '"Akte"')
            with connection.transaction():
                run(connection, blatt, 202, 8, 13, "2025-05-05 00:00+00")
                run(connection, """UPDATE "Fälle"."Akte" SET "Vorgang Nr" = 3 WHERE "Nr" = 13""")
            assert one(connection, 'SELECT "Vorgang Nr" FROM "Fälle"."Blatt" WHERE "Nr" = 202') == 3
            with refused("23503"):
                run(connection, """UPDATE "Fälle"."Akte" SET "Vorgang Nr" = 3 WHERE "Nr" = 10""")
            run(
                connection,
                """INSERT INTO "Fälle"."Ereignis ""roh"" 1" VALUES (9, 8, 3, 'offen', '2025-05-05 00:30+00')""",
            )
            assert one(connection, 'SELECT "zweiter Vorgang" FROM "Fälle"."Blatt" WHERE "Nr" = 202') == 3
        last = one(connection, "SELECT max(run_id) FROM flowguard.run")
        assert repair(connection, note="after").id == last + 1


def can_be_undone(dsn: str, world: str) -> None:
    """Take back the last runs of the time before: links and the quarantine's rows come back."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        runs = rows(
            connection,
            "SELECT r.run_id, (SELECT count(*) FROM flowguard.run_change c WHERE c.run_id = r.run_id) "
            "+ (SELECT count(*) FROM flowguard.quarantine q WHERE q.run_id = r.run_id) "
            "FROM flowguard.run r WHERE r.note IN ('the odd run', 'pyflowguard:report/back_fill') "
            "ORDER BY r.run_id DESC",
        )
        run(connection, "SELECT flowguard.unguard(l.relation, l.link_column) FROM flowguard.link l")
        for run_id, changed in runs:
            assert undo(connection, run_id) == (changed, 0, 0)
        if world == "report":
            assert sum(changed for _, changed in runs) == 207
            unlinked = "SELECT count(*) FROM migration.{} WHERE master_flow_id IS NULL"
            assert one(connection, unlinked.format("import_field_mappings")) == 178
            assert one(connection, unlinked.format("assets")) == 29
        else:
            akten = rows(
                connection, """SELECT "Nr", "Vorgang Nr" FROM "Fälle"."Akte" WHERE "Nr" IN (11, 12) ORDER BY 1"""
            )
            assert akten == [(11, 902), (12, 999)]
            assert rows(
                connection,
                'SELECT "Vorgang Nr", "zweiter Vorgang" FROM "Fälle"."Blatt" WHERE "Nr" <= 102 ORDER BY "Nr"',
            ) == [(None, None), (None, 2), (None, 888)]
