"""What an orphan takes with it is kept, and comes back exactly: children of every kind, values of every type."""

from __future__ import annotations

import psycopg
import pytest
from engine import tables
from engine.postgres import Connection, one, refused, rows, run
from repair.calls import dump, repair, undo

MASTER = """
CREATE TABLE flow (id integer PRIMARY KEY, created_at timestamptz DEFAULT now());
INSERT INTO flow VALUES (1);
"""


def register(db: Connection, *tables: str) -> None:
    run(db, "SELECT flowguard.add_master('flow', 'id', '{}')")
    for table in tables:
        run(db, "SELECT flowguard.add_link(%s::regclass, 'flow')", table)


# --- Values

TYPES = """
CREATE DOMAIN code AS text CHECK (value ~ '^[a-z ]+$');
CREATE DOMAIN positive AS integer CHECK (value > 0);
CREATE TYPE mood AS ENUM ('sad', 'ok', 'Very "happy"');
CREATE TYPE pair AS (a integer, b text);
CREATE TABLE "Odd ""Names"", all" (
  "Id"      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  flow      integer,
  "a, b"    text,
  "select"  text,
  js        json,
  jb        jsonb,
  f4        real,
  f8        double precision,
  num       numeric,
  num2      numeric(12, 4),
  ints      integer[],
  grid      text[],
  iv        interval,
  tstz      timestamptz,
  ts        timestamp,
  d         date,
  tm        time,
  tmtz      timetz,
  raw       bytea,
  bp        char(8),
  vc        varchar(10),
  ch        "char",
  b         boolean,
  dom       code,
  dom2      positive,
  moods     mood[],
  m         mood,
  ip        inet,
  net       cidr,
  u         uuid,
  bits      bit(5),
  vbits     bit varying,
  rng       tstzrange,
  multi     int4multirange,
  pt        point,
  p         pair,
  money     money,
  xml       text,
  twice     double precision GENERATED ALWAYS AS (f8 + 1) STORED,
  def       text DEFAULT 'a default'
);
"""
ROWS = r"""
INSERT INTO "Odd ""Names"", all" (flow, "a, b", "select", js, jb, f4, f8, num, num2, ints, grid, iv, tstz, ts, d, tm,
  tmtz, raw, bp, vc, ch, b, dom, dom2, moods, m, ip, net, u, bits, vbits, rng, multi, pt, p, money, xml, def) VALUES
 (77, 'it''s, a {"trap"}' || chr(10) || chr(9) || '\', '',
  '{ "b" : 1,  "a":2 , "a":3, "t": "\u00e9"}', '{"b": 1.50, "a": null}',
  1.1754944e-38, 5e-324, 0.1000, 12345678.9, '[0:2]={1,2,3}',
  '{{a,NULL},{"NULL","x,y"}}', '1 mon -3 days 04:05:06.789',
  '2025-03-30 01:30:00.123456+00', '2025-03-30 02:30:00', '0044-03-15 BC', '24:00:00', '12:00:00+05:30', '\x00ff5c27',
  'ab  ', 'ab  ', 'x', true, 'a b', 3, '{"Very \"happy\"",NULL}', 'Very "happy"', '10.1.2.3/8', '10.0.0.0/8',
  'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '10101', '1', '[2025-01-01,)', '{[1,3),[5,7)}', '(1.1,-0)', '(1,"a,""b")',
  '1234.56', '<a>', NULL),
 (77, NULL, 'x', 'null', 'null', 'NaN', '-Infinity', 'NaN', NULL, '{}', '{}', '-1 year', 'infinity', '-infinity',
  'infinity', '00:00', '00:00-12', '', '', '', '', false, NULL, NULL, '{}', NULL, '::1', '::/0', NULL, NULL, '',
  'empty', '{}', NULL, '(,)', NULL, '', ''),
 (77, '', NULL, '[1e400]', '[1]', '3.4028235e38', 1.7976931348623157e308, 'Infinity', -0.0001, '[-2:-1]={7,NULL}',
  NULL, '178000000 years', '4713-01-01 00:00+00 BC', '294276-12-31 23:59:59.999999', '5874897-12-31', '00:00:00.000001',
  NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
  NULL, NULL, 'not the default'),
 (77, NULL, NULL, NULL, NULL, 0.1, 0.1, 1e-1000, NULL, NULL, NULL, '-00:00:00.000001', '2025-10-26 00:30+00', NULL,
  NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
  NULL, NULL, NULL, NULL, NULL)
"""


@pytest.mark.parametrize("style", ["sql_standard", "postgres_verbose", "iso_8601"])
def test_values_of_every_type_come_back_exactly(db: Connection, style: str) -> None:
    run(db, MASTER + TYPES)
    run(db, ROWS)
    before = dump(db, '"Odd ""Names"", all"')
    register(db, '"Odd ""Names"", all"')
    run(db, "SET timezone = 'Asia/Kolkata'; SET datestyle = 'SQL, DMY'; SET extra_float_digits = -10")
    run(db, "SET bytea_output = 'escape'")
    run(db, f"SET intervalstyle = {style}")
    done = repair(db)
    assert done.quarantined == 4
    assert one(db, 'SELECT count(*) FROM "Odd ""Names"", all"') == 0
    # Whoever undoes it has other settings than whoever repaired.
    run(db, "SET timezone = 'America/St_Johns'; SET datestyle = 'German'; SET intervalstyle = 'postgres'")
    assert undo(db, done.id) == (4, 0, 0)
    table = next(iter(before))
    assert sorted(dump(db, table)[table]) == sorted(before[table])
    assert one(db, "SELECT count(*) FROM flowguard.quarantine") == 0


def test_an_identity_goes_on_after_the_rows_that_came_back(db: Connection) -> None:
    run(db, MASTER + "CREATE TABLE item (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, flow integer)")
    run(db, "INSERT INTO item (flow) VALUES (77), (1)")
    register(db, "item")
    done = repair(db)
    undo(db, done.id)
    run(db, "INSERT INTO item (flow) VALUES (1)")
    assert rows(db, "SELECT id, flow FROM item ORDER BY id") == [(1, 77), (2, 1), (3, 1)]


# --- Children


TREE = """
CREATE TABLE top (id integer PRIMARY KEY, flow integer, code text UNIQUE,
                  boss integer REFERENCES top ON DELETE CASCADE);
CREATE TABLE casc (id integer PRIMARY KEY, top integer REFERENCES top ON DELETE CASCADE, note text);
CREATE TABLE deep (a integer, b integer, casc integer REFERENCES casc ON DELETE CASCADE, PRIMARY KEY (a, b));
CREATE TABLE nulled (id integer PRIMARY KEY, top integer REFERENCES top ON DELETE SET NULL, note text);
CREATE TABLE defaulted (id integer PRIMARY KEY, top integer DEFAULT 1 REFERENCES top ON DELETE SET DEFAULT);
CREATE TABLE by_code (id integer PRIMARY KEY, code text REFERENCES top (code) ON DELETE SET NULL);
CREATE TABLE deeper (id integer PRIMARY KEY, a integer, b integer,
                     FOREIGN KEY (a, b) REFERENCES deep ON DELETE SET NULL);
INSERT INTO top VALUES (1, 1, 'one', NULL), (10, 77, 'ten', NULL), (11, 1, 'eleven', 10), (12, 78, 'twelve', 11);
INSERT INTO casc VALUES (100, 10, 'a'), (101, 1, 'b'), (102, 11, 'c'), (103, 10, NULL);
INSERT INTO deep VALUES (1, 1, 100), (1, 2, 101), (2, 1, 102), (3, 3, NULL);
INSERT INTO nulled VALUES (200, 10, 'a'), (201, 1, 'b'), (202, 12, 'c'), (203, NULL, 'd');
INSERT INTO defaulted VALUES (300, 10), (301, 11), (302, 1);
INSERT INTO by_code VALUES (400, 'ten'), (401, 'eleven'), (402, 'one');
INSERT INTO deeper VALUES (500, 1, 1), (501, 1, 2), (502, 2, 1);
"""
TREE_TABLES = ("top", "casc", "deep", "nulled", "defaulted", "by_code", "deeper")


@pytest.mark.parametrize("batch_size", [1, 5000])
def test_children_of_every_kind_come_back(db: Connection, batch_size: int) -> None:
    run(db, MASTER + TREE)
    before = dump(db, *TREE_TABLES)
    register(db, "top")
    done = repair(db, batch_size=batch_size)
    assert rows(db, "SELECT id FROM top") == [(1,)]
    assert rows(db, "SELECT id FROM casc") == [(101,)]
    assert rows(db, "SELECT a, b FROM deep ORDER BY a") == [(1, 2), (3, 3)]
    assert rows(db, "SELECT id, top FROM nulled ORDER BY id") == [(200, None), (201, 1), (202, None), (203, None)]
    assert rows(db, "SELECT id, top FROM defaulted ORDER BY id") == [(300, 1), (301, 1), (302, 1)]
    assert rows(db, "SELECT id, code FROM by_code ORDER BY id") == [(400, None), (401, None), (402, "one")]
    assert rows(db, "SELECT id, a FROM deeper ORDER BY id") == [(500, None), (501, 1), (502, None)]
    restored, skipped, remaining = undo(db, done.id)
    assert (skipped, remaining) == (0, 0)
    assert dump(db, *TREE_TABLES) == before
    assert restored == one(db, "SELECT count(*) FROM flowguard.quarantined_row")


def test_undo_in_pieces_puts_parents_back_first(db: Connection) -> None:
    run(db, MASTER + TREE)
    before = dump(db, *TREE_TABLES)
    register(db, "top")
    done = repair(db)
    pieces = 0
    remaining = 1
    while remaining:
        restored, skipped, remaining = undo(db, done.id, max_rows=1)
        assert (restored, skipped) == (1, 0)
        pieces += 1
        assert one(db, "SELECT status FROM flowguard.run WHERE run_id = %s", done.id) == (
            "undoing" if remaining else "undone"
        )
    assert pieces == one(db, "SELECT count(*) FROM flowguard.quarantined_row")
    assert dump(db, *TREE_TABLES) == before


@pytest.mark.parametrize("action", ["NO ACTION", "RESTRICT", "NO ACTION DEFERRABLE INITIALLY DEFERRED"])
def test_a_row_that_a_key_holds_stays_and_is_listed(db: Connection, action: str) -> None:
    run(db, MASTER + "CREATE TABLE top (id integer PRIMARY KEY, flow integer)")
    run(
        db,
        f"CREATE TABLE casc (id integer PRIMARY KEY, top integer REFERENCES top ON DELETE CASCADE);"
        f"CREATE TABLE held (id integer PRIMARY KEY, casc integer REFERENCES casc ON DELETE {action})",
    )
    run(db, "INSERT INTO top VALUES (10, 77), (11, 78), (12, 79)")
    run(db, "INSERT INTO casc VALUES (100, 10), (101, 11); INSERT INTO held VALUES (200, 101)")
    before = dump(db, "top", "casc", "held")
    register(db, "top")
    done = repair(db)
    assert (done.quarantined, done.remaining) == (2, 1)
    assert rows(db, "SELECT id, flow FROM top") == [(11, 78)]
    assert rows(db, "SELECT id FROM casc") == [(101,)]
    assert rows(db, "SELECT row_key, kind FROM flowguard.violation") == [({"id": 11}, "dangling")]
    assert one(db, "SELECT count(*) FROM flowguard.quarantine") == 3
    undo(db, done.id)
    assert dump(db, "top", "casc", "held") == before


def test_what_cannot_be_put_back_is_not_taken(db: Connection) -> None:
    run(db, MASTER + "CREATE TABLE top (id integer PRIMARY KEY, flow integer)")
    run(db, "CREATE TABLE keyless (top integer REFERENCES top ON DELETE CASCADE)")
    run(db, "INSERT INTO top VALUES (10, 77); INSERT INTO keyless VALUES (10)")
    register(db, "top")
    notices: list[str] = []
    db.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
    done = repair(db)
    assert (done.quarantined, done.remaining) == (0, 1)
    assert one(db, "SELECT count(*) FROM keyless") == 1
    assert any("stays" in notice for notice in notices), notices


def test_rows_that_point_to_each_other(db: Connection) -> None:
    run(
        db,
        MASTER + "CREATE TABLE top (id integer PRIMARY KEY, flow integer, other integer);"
        "ALTER TABLE top ADD FOREIGN KEY (other) REFERENCES top ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED;"
        "CREATE TABLE best (id integer PRIMARY KEY, top integer REFERENCES top ON DELETE CASCADE);"
        "ALTER TABLE top ADD best integer REFERENCES best ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED;",
    )
    run(db, "INSERT INTO top VALUES (10, 77, 11), (11, 1, 12), (12, 1, 10), (13, 77, 13), (14, 1, NULL)")
    run(db, "INSERT INTO best VALUES (100, 10), (101, 14)")
    run(db, "UPDATE top SET best = 100 WHERE id IN (10, 14); UPDATE top SET best = 101 WHERE id = 12")
    before = dump(db, "top", "best")
    register(db, "top")
    done = repair(db)
    assert rows(db, "SELECT id, best FROM top") == [(14, None)]
    assert undo(db, done.id)[1:] == (0, 0)
    assert dump(db, "top", "best") == before


def test_composite_keys(db: Connection) -> None:
    run(
        db,
        MASTER + 'CREATE TABLE top ("K 1" text, k2 timestamptz, flow integer, PRIMARY KEY ("K 1", k2));'
        "CREATE TABLE sub (id integer PRIMARY KEY, a text, b timestamptz,"
        " FOREIGN KEY (a, b) REFERENCES top ON DELETE CASCADE ON UPDATE CASCADE)",
    )
    run(db, "SET timezone = 'Asia/Tokyo'; SET datestyle = 'German'")
    run(
        db,
        "INSERT INTO top SELECT 'x''\"' || n % 3, timestamptz '2025-01-01 00:00:00.000001Z' + n * interval '1 day', "
        "CASE WHEN n % 2 = 0 THEN 77 ELSE 1 END FROM generate_series(1, 12) n",
    )
    run(db, 'INSERT INTO sub SELECT row_number() OVER (), "K 1", k2 FROM top')
    before = dump(db, "top", "sub")
    register(db, "top")
    done = repair(db, batch_size=2)
    assert (done.quarantined, one(db, "SELECT count(*) FROM top"), one(db, "SELECT count(*) FROM sub")) == (6, 6, 6)
    run(db, "SET timezone = 'UTC'; SET datestyle = 'ISO'")
    undo(db, done.id)
    assert dump(db, "top", "sub") == before


def test_partitions(db: Connection) -> None:
    run(
        db,
        MASTER + "CREATE TABLE top (id integer, part integer, flow integer, PRIMARY KEY (id, part))"
        " PARTITION BY LIST (part);"
        "CREATE TABLE top_1 PARTITION OF top FOR VALUES IN (1); CREATE TABLE top_2 PARTITION OF top DEFAULT;"
        "CREATE TABLE sub (id integer PRIMARY KEY, a integer, b integer,"
        " FOREIGN KEY (a, b) REFERENCES top ON DELETE SET NULL)",
    )
    run(db, "INSERT INTO top VALUES (1, 1, 77), (1, 2, 77), (2, 1, 1), (2, 2, 1)")
    run(db, "INSERT INTO sub VALUES (10, 1, 1), (11, 1, 2), (12, 2, 2)")
    before = dump(db, "top", "sub")
    register(db, "top")
    done = repair(db)
    assert done.quarantined == 2
    undo(db, done.id)
    assert dump(db, "top", "sub") == before


def test_a_key_by_which_only_some_columns_are_set_null(db: Connection) -> None:
    run(db, MASTER + "CREATE TABLE top (tenant integer, id integer, flow integer, PRIMARY KEY (tenant, id))")
    sub = (
        "CREATE TABLE sub (id integer PRIMARY KEY, tenant integer NOT NULL, top integer,"
        " FOREIGN KEY (tenant, top) REFERENCES top ON DELETE SET NULL (top))"
    )
    if db.info.server_version < 150000:
        with refused("42601"):
            run(db, sub)
        return
    run(db, sub)
    run(db, "INSERT INTO top VALUES (1, 10, 77); INSERT INTO sub VALUES (20, 1, 10)")
    before = dump(db, "top", "sub")
    register(db, "top")
    done = repair(db)
    assert rows(db, "SELECT tenant, top FROM sub") == [(1, None)]
    undo(db, done.id)
    assert dump(db, "top", "sub") == before


def test_several_batches_and_pieces(db: Connection) -> None:
    run(db, MASTER + "CREATE TABLE top (id integer PRIMARY KEY, flow integer)")
    run(db, "CREATE TABLE sub (id integer PRIMARY KEY, top integer REFERENCES top ON DELETE CASCADE)")
    run(db, "CREATE INDEX ON sub (top)")
    run(db, "INSERT INTO top SELECT n, 77 FROM generate_series(1, 60) n")
    run(db, "INSERT INTO sub SELECT n, n % 60 + 1 FROM generate_series(1, 120) n")
    before = dump(db, "top", "sub")
    register(db, "top")
    done = repair(db, batch_size=25)
    assert done.quarantined == 60
    restored, skipped, remaining = undo(db, done.id, max_rows=91)
    assert (restored, skipped, remaining) == (91, 0, 89)
    assert undo(db, done.id) == (89, 0, 0)
    assert dump(db, "top", "sub") == before


def test_a_quarantined_row_is_listed_with_its_reason(db: Connection) -> None:
    run(db, MASTER + TREE)
    register(db, "top")
    done = repair(db)
    found = rows(
        db,
        "SELECT table_name, row_key, action, link_column, reason FROM flowguard.quarantine WHERE run_id = %s "
        "ORDER BY quarantine_id",
        done.id,
    )
    assert found[0][:4] == ("top", {"id": 10}, "deleted", "flow")
    assert "flow = 77" in found[0][4]
    assert all("row" in reason for *_, link, reason in found if link is None)
    assert {action for _, _, action, _, _ in found} == {"deleted", "set"}


def test_what_deletes_cascade_to_is_kept_when_row_security_is_on(db: Connection) -> None:
    """The owner of the tables is not subject to it; a role that is gets an error instead of half a quarantine."""
    run(db, MASTER + "CREATE TABLE top (id integer PRIMARY KEY, flow integer)")
    run(db, "CREATE TABLE sub (id integer PRIMARY KEY, top integer REFERENCES top ON DELETE CASCADE)")
    run(db, "INSERT INTO top VALUES (10, 77); INSERT INTO sub VALUES (20, 10)")
    run(db, "ALTER TABLE sub ENABLE ROW LEVEL SECURITY")
    before = dump(db, "top", "sub")
    register(db, "top")
    done = repair(db)
    assert undo(db, done.id) == (2, 0, 0)
    assert dump(db, "top", "sub") == before
    run(db, "ALTER TABLE sub FORCE ROW LEVEL SECURITY")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        repair(db)
    run(db, "ALTER TABLE sub NO FORCE ROW LEVEL SECURITY")
    assert dump(db, "top", "sub") == before


def test_a_row_whose_key_came_again_in_the_run_is_kept_as_well(db: Connection) -> None:
    """Taken out, written anew by the application, dangling again, and come to in the second round: both are kept."""
    tables.create(db)
    tables.register(db)
    run(db, "ALTER TABLE child DROP CONSTRAINT child_parent_fkey, ADD FOREIGN KEY (parent) REFERENCES parent")
    run(db, "INSERT INTO parent VALUES (1, 1, 404, 'first'), (2, 1, 404, NULL)")
    run(db, "INSERT INTO child (id, tenant, flow, parent) VALUES (20, 1, 404, 2)")
    run(
        db,
        "CREATE FUNCTION anew() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO parent VALUES (1, 1, 405, 'second'); RETURN NULL; END $$; "
        "CREATE TRIGGER anew AFTER DELETE ON child FOR EACH ROW EXECUTE FUNCTION anew()",
    )
    done = repair(db)
    assert (done.quarantined, one(db, "SELECT count(*) FROM parent")) == (4, 0)
    kept = "SELECT column_values[4] FROM flowguard.quarantine WHERE row_key = '{\"id\": 1}' ORDER BY quarantine_id"
    assert rows(db, kept) == [("first",), ("second",)]
