"""Columns of every sort: generated, identity, domains, padded and collated text, enums, links declared NOT NULL."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import psycopg
import pytest
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import add_reference, guard, link, links
from neighbours.promises import kept, settled
from repair.calls import dump, repair, undo
from repair.test_resuming import stop
from servers import lacking


def register(connection: Connection, mode: str = "observe") -> None:
    """Register flow, parent and child, whose link is its parent's, and guard them."""
    run(connection, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    run(
        connection, "SELECT flowguard.add_link(t, 'flow', mode => %s) FROM unnest('{parent,child}'::regclass[]) t", mode
    )
    add_reference(connection, "child", "parent", "parent")
    guard(connection, "parent", "child")


TYPES = {
    "char(n)": ("char(8)", "char(8)", "varchar(12)", "'abc'", "'def'", "'t'"),
    "varchar(n)": ("varchar(8)", "varchar(40)", "char(3)", "'abc'", "'def'", "'t'"),
    "collated text": ('text COLLATE "C"', 'text COLLATE "POSIX"', 'text COLLATE "C"', "'Ab ''c'", "'de%f'", "'t'"),
    "enum": ("bigint", "uuid", "tenant_name", "1", "2", "'one'"),
    "domain": ("flow_key", "parent_key", "tenant_key", "1", "2", "7"),
    "domain of a domain": ("padded_key", "parent_key", "small_key", "'abc'", "'def'", "7"),
    "numeric": ("numeric(10,2)", "timestamptz", "date", "1.50", "2", "'2025-01-01'"),
}
PARENT_KEYS = {
    "uuid": ("'00000000-0000-4000-8000-000000000001'", "'00000000-0000-4000-8000-000000000002'"),
    "timestamptz": ("'2025-01-01 00:00:00.000001+09'", "'2025-06-01'"),
    "parent_key": ("1", "2"),
}


@pytest.mark.parametrize("kind", TYPES)
def test_keys_of_every_type(db: Connection, kind: str) -> None:
    """Filled, moved, followed, looked at again at commit, repaired and undone; the values are what they were."""
    flow, parent, tenant, one_flow, other_flow, tenant_value = TYPES[kind]
    first, second = PARENT_KEYS.get(parent, ("'p'", "'q'"))
    run(
        db,
        f"""
SET timezone = 'Asia/Tokyo';
CREATE TYPE tenant_name AS ENUM ('one', 'two');
CREATE DOMAIN flow_key AS integer CHECK (VALUE > 0);
CREATE DOMAIN parent_key AS bigint NOT NULL;
CREATE DOMAIN tenant_key AS smallint NOT NULL CHECK (VALUE < 100);
CREATE DOMAIN padded AS char(8);
CREATE DOMAIN padded_key AS padded CHECK (VALUE <> '');
CREATE DOMAIN small_key AS tenant_key CHECK (VALUE > 0);
CREATE TABLE flow (id {flow} PRIMARY KEY, tenant {tenant} NOT NULL, created_at timestamptz);
CREATE TABLE parent (id {parent} PRIMARY KEY, tenant {tenant} NOT NULL, flow {flow});
CREATE TABLE child (id {parent} PRIMARY KEY, tenant {tenant} NOT NULL, flow {flow}, parent {parent} REFERENCES parent);
INSERT INTO flow VALUES ({one_flow}, {tenant_value}), ({other_flow}, {tenant_value});
""",  # noqa: S608  names of this test
    )
    register(db)
    run(
        db,
        f"INSERT INTO parent VALUES ({first}, {tenant_value}, {one_flow}), ({second}, {tenant_value}, {other_flow})",  # noqa: S608  names of this test
    )
    run(db, f"INSERT INTO child (id, tenant, parent) VALUES ({first}, {tenant_value}, {first})")  # noqa: S608  names of this test
    assert one(db, f"SELECT flow = {one_flow} FROM child")  # noqa: S608  names of this test
    run(db, f"UPDATE child SET parent = {second}")  # noqa: S608  names of this test
    assert one(db, f"SELECT flow = {other_flow} FROM child")  # noqa: S608  names of this test
    run(db, f"UPDATE parent SET flow = {one_flow}")  # noqa: S608  names of this test
    assert one(db, f"SELECT flow = {one_flow} FROM child")  # noqa: S608  names of this test
    run(db, f"UPDATE parent SET flow = {other_flow} WHERE id = {second}")  # noqa: S608  names of this test
    run(db, "SELECT flowguard.pause('child', 'flow'); UPDATE child SET flow = NULL")
    run(db, "SELECT flowguard.resume('child', 'flow')")
    before = rows(db, "SELECT * FROM child")
    done = repair(db, batch_size=1)
    assert done.linked == 1
    assert one(db, f"SELECT flow = {other_flow} FROM child")  # noqa: S608  names of this test
    assert undo(db, done.id) == (1, 0, 0)
    assert rows(db, "SELECT * FROM child") == before
    kept(db)


def test_a_domain_that_forbids_null(db: Connection) -> None:
    """The client always gives such a link; it can move and follow all the same."""
    run(
        db,
        """
CREATE DOMAIN flow_key AS char(8) NOT NULL;
CREATE TABLE flow (id flow_key PRIMARY KEY, tenant integer NOT NULL, created_at timestamptz);
CREATE TABLE parent (id integer PRIMARY KEY, tenant integer NOT NULL, flow flow_key);
CREATE TABLE child (id integer PRIMARY KEY, tenant integer NOT NULL, flow flow_key, parent integer REFERENCES parent);
INSERT INTO flow VALUES ('abc', 1), ('abd', 1);
""",
    )
    register(db, "enforce")
    run(db, "INSERT INTO parent VALUES (10, 1, 'abc'), (11, 1, 'abd'); INSERT INTO child VALUES (20, 1, 'abc', 10)")
    run(db, "UPDATE child SET parent = 11")
    assert link(db, "child", 20) == "abd     "
    run(db, "UPDATE parent SET flow = 'abc'")
    assert link(db, "child", 20) == "abc     "
    run(db, "SELECT flowguard.unguard('child', 'flow'); INSERT INTO child VALUES (21, 1, 'none', 10)")
    run(db, "SELECT flowguard.set_mode('parent', 'observe', 'flow')")
    assert repair(db).linked == 1
    assert links(db, "child") == {20: "abc     ", 21: "abc     "}
    kept(db)


def test_collations_that_cannot_be_compared_are_refused(db: Connection) -> None:
    run(
        db,
        """
CREATE TABLE flow (id text COLLATE "C" PRIMARY KEY, tenant text COLLATE "C" NOT NULL, created_at timestamptz);
CREATE TABLE parent (id text PRIMARY KEY, tenant text NOT NULL, flow text COLLATE "POSIX");
CREATE TABLE child (id text PRIMARY KEY, tenant text NOT NULL, flow text);
SELECT flowguard.add_master('flow', 'id', '{tenant}');
SELECT flowguard.add_link('child', 'flow');
""",
    )
    with refused("FG103") as refusal:
        run(db, "SELECT flowguard.add_link('parent', 'flow')")
    refusal.says('has collation "POSIX"', 'COLLATE "C"')
    run(db, refusal.hint.split('"', 1)[1].rsplit('"', 1)[0])
    run(db, "SELECT flowguard.add_link('parent', 'flow')")


def make_collation(db: Connection, name: str, locale: str, *, deterministic: bool) -> None:
    """Make a collation of ICU; a build without it has none such, and gets "C" by this name."""
    try:
        run(db, f"CREATE COLLATION {name} (provider = icu, locale = '{locale}', deterministic = {deterministic})")
    except psycopg.errors.FeatureNotSupported:
        run(db, f'CREATE COLLATION {name} FROM "C"')


def test_a_collation_that_takes_case_for_nothing(db: Connection) -> None:
    """What the collation calls equal is one key.

    Where it is "C", or an ICU of 2014 takes the locale for another, keys are written alike.
    """
    make_collation(db, "chosen", "und-u-ks-level2", deterministic=False)
    upper: Callable[[str], str] = str.upper if one(db, "SELECT 'a' = 'A' COLLATE chosen") else str
    run(
        db,
        """
CREATE TABLE flow (id text COLLATE chosen PRIMARY KEY, tenant text COLLATE chosen NOT NULL, created_at timestamptz);
CREATE TABLE parent (id text COLLATE chosen PRIMARY KEY, tenant text COLLATE chosen NOT NULL, flow text COLLATE chosen);
CREATE TABLE child (id text COLLATE chosen PRIMARY KEY, tenant text COLLATE chosen NOT NULL, flow text COLLATE chosen,
                    parent text COLLATE chosen REFERENCES parent);
INSERT INTO flow VALUES ('alpha', 't'), ('beta', 't');
""",
    )
    register(db, "enforce")
    run(db, "INSERT INTO parent VALUES ('p', 't', %s)", upper("alpha"))
    run(db, "INSERT INTO child (id, tenant, parent) VALUES ('c', %s, %s)", upper("t"), upper("p"))
    assert one(db, "SELECT flow = 'alpha' FROM child")
    run(db, "UPDATE parent SET flow = %s", upper("beta"))
    assert one(db, "SELECT flow = 'beta' FROM child")
    kept(db)


@pytest.mark.parametrize("key", ["integer[]", "int4range"])
def test_a_row_key_that_cannot_be_walked_along_is_refused(db: Connection, key: str) -> None:
    """Said when the link is registered: repair() of all links would stop at it."""
    run(
        db,
        f"CREATE TABLE flow (id integer PRIMARY KEY, tenant integer NOT NULL, created_at timestamptz);"
        f"CREATE TABLE child (id {key}, tenant integer NOT NULL, flow integer, PRIMARY KEY (tenant, id));"
        "SELECT flowguard.add_master('flow', 'id', '{tenant}')",
    )
    with refused("FG103") as refusal:
        run(db, "SELECT flowguard.add_link('child', 'flow')")
    refusal.says("column id of table", "cannot be compared")


def test_generated_columns_that_read_the_link(db: Connection) -> None:
    stored = (
        "linked boolean GENERATED ALWAYS AS (flow IS NOT NULL) STORED, twice integer GENERATED ALWAYS AS (flow * 2) "
    )
    kind = "VIRTUAL" if db.info.server_version >= 180000 else "STORED"
    run(
        db,
        f"""
CREATE TABLE flow (id integer PRIMARY KEY, tenant integer NOT NULL, created_at timestamptz);
CREATE TABLE parent (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer);
CREATE TABLE child (id integer PRIMARY KEY, tenant integer NOT NULL, {stored} {kind}, flow integer,
                    parent integer REFERENCES parent);
INSERT INTO flow VALUES (1, 1), (2, 1);
INSERT INTO parent VALUES (10, 1, 1), (11, 1, NULL), (12, 1, 77);
INSERT INTO child (id, tenant, flow, parent) VALUES (1, 1, 78, NULL);
""",  # noqa: S608  names of this test
    )
    run(db, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    run(db, "SELECT flowguard.add_link(t, 'flow') FROM unnest('{parent,child}'::regclass[]) t")
    before = rows(db, "SELECT * FROM child")
    done = repair(db)
    assert undo(db, done.id)[1:] == (0, 0)
    assert rows(db, "SELECT * FROM child") == before
    run(db, "DELETE FROM parent WHERE id = 12; DELETE FROM child")
    add_reference(db, "child", "parent", "parent")
    guard(db, "parent", "child")
    run(db, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 1, 11)")
    run(db, "UPDATE parent SET flow = 2")
    assert rows(db, "SELECT linked, twice FROM child ORDER BY id") == [(True, 4), (True, 4)]
    kept(db)


@pytest.mark.parametrize("column", ["flow", "tenant", "parent", "at"])
def test_generated_columns_that_rules_would_read_are_refused(db: Connection, column: str) -> None:
    """They have no value yet when our trigger runs: said when it is registered, with what to do."""
    generated = "GENERATED ALWAYS AS ({}) STORED"
    of = {name: generated.format("given") if name == column else "" for name in ("flow", "tenant", "parent")}
    run(
        db,
        f"""
CREATE TABLE flow (id integer PRIMARY KEY, tenant integer NOT NULL, created_at timestamptz);
CREATE TABLE parent (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer, at timestamptz);
CREATE TABLE child (id integer PRIMARY KEY, given integer, began timestamptz, tenant integer {of["tenant"]},
                    flow integer {of["flow"]}, parent integer {of["parent"]} REFERENCES parent,
                    at timestamptz {generated.format("began") if column == "at" else ""});
SELECT flowguard.add_master('flow', 'id', '{{tenant}}');
SELECT flowguard.add_link('parent', 'flow');
""",
    )
    with refused("FG104") as refusal:
        run(db, "SELECT flowguard.add_link('child', 'flow')")
        add_reference(db, "child", "parent", "parent")
        run(
            db,
            "SELECT flowguard.add_proximity_rule('child', 'parent', '1 hour', 'at', 'at', 'flow', "
            "link_column => 'flow')",
        )
    refusal.says(f"column {column} of table", "is generated")


@pytest.mark.parametrize("identity", ["ALWAYS", "BY DEFAULT"])
def test_identities_as_keys(db: Connection, identity: str) -> None:
    """A trigger that stamps each new row does not keep undo() from putting back the row as it was, key included."""
    run(
        db,
        f"""
CREATE TABLE flow (id integer GENERATED {identity} AS IDENTITY PRIMARY KEY, tenant integer NOT NULL,
                   created_at timestamptz);
CREATE TABLE parent (id integer GENERATED {identity} AS IDENTITY PRIMARY KEY, tenant integer NOT NULL, flow integer,
                     touched timestamptz);
CREATE TABLE child (id integer GENERATED {identity} AS IDENTITY PRIMARY KEY, tenant integer NOT NULL, flow integer,
                    parent integer REFERENCES parent ON DELETE CASCADE, touched timestamptz);
INSERT INTO flow (tenant) VALUES (1), (1);
INSERT INTO parent (tenant, flow, touched) VALUES (1, 1, '2025-01-01'), (1, 77, '2025-01-01');
INSERT INTO child (tenant, parent, touched) VALUES (1, 2, '2025-01-01');
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.touched := now(); RETURN NEW; END$$;
CREATE TRIGGER touch BEFORE INSERT ON parent FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER touch BEFORE INSERT ON child FOR EACH ROW EXECUTE FUNCTION touch();
SELECT flowguard.add_master('flow', 'id', '{{tenant}}');
SELECT flowguard.add_link('parent', 'flow');
""",  # noqa: S608  names of this test
    )
    before = rows(db, "SELECT p, c FROM parent p FULL JOIN child c ON c.parent = p.id ORDER BY 1, 2")
    done = repair(db)
    assert done.quarantined == 1
    assert undo(db, done.id) == (2, 0, 0)
    assert rows(db, "SELECT p, c FROM parent p FULL JOIN child c ON c.parent = p.id ORDER BY 1, 2") == before
    run(db, "DELETE FROM parent WHERE flow = 77")
    run(db, "SELECT flowguard.add_link('child', 'flow', mode => 'enforce')")
    add_reference(db, "child", "parent", "parent")
    guard(db, "parent", "child")
    run(db, "INSERT INTO child (tenant, parent) VALUES (1, 1) RETURNING id, flow")
    run(db, "UPDATE parent SET flow = 2")
    assert rows(db, "SELECT id, flow FROM child") == [(2, 2)]
    kept(db)


def test_a_link_declared_not_null_is_filled_in_time(db: Connection) -> None:
    run(
        db,
        """
CREATE TABLE flow (id integer PRIMARY KEY, tenant integer NOT NULL, created_at timestamptz);
CREATE TABLE parent (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer);
CREATE TABLE child (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer NOT NULL,
                    parent integer REFERENCES parent);
INSERT INTO flow VALUES (1, 1), (2, 1);
""",
    )
    register(db)
    run(db, "INSERT INTO parent VALUES (10, 1, 1), (11, 1, NULL)")
    run(db, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    run(db, "UPDATE child SET flow = NULL")
    assert link(db, "child", 20) == 1
    with refused("23502"):
        run(db, "INSERT INTO child (id, tenant, parent) VALUES (21, 1, 11)")
    with refused("23502"):
        run(db, "UPDATE parent SET flow = NULL WHERE id = 10")
    run(db, "UPDATE parent SET flow = 2 WHERE id = 10")
    assert links(db, "child") == {20: 2}
    assert repair(db).remaining == 1
    kept(db)


def test_wide_rows_and_columns_that_are_gone(db: Connection) -> None:
    """Values out of line stay there untouched; a dropped column is no column."""
    run(
        db,
        """
CREATE TABLE flow (gone text, id integer PRIMARY KEY, tenant integer NOT NULL, created_at timestamptz);
CREATE TABLE parent (gone text, id integer PRIMARY KEY, tenant integer NOT NULL, flow integer, body text);
CREATE TABLE child (id integer PRIMARY KEY, gone integer, tenant integer NOT NULL, flow integer,
                    gone_too text, parent integer REFERENCES parent, body text, bytes bytea);
ALTER TABLE flow DROP gone;
ALTER TABLE parent DROP gone;
ALTER TABLE child DROP gone, DROP gone_too;
ALTER TABLE child ALTER body SET STORAGE EXTERNAL, ALTER bytes SET STORAGE EXTERNAL;
INSERT INTO flow VALUES (1, 1), (2, 1);
""",
    )
    register(db)
    run(db, "INSERT INTO parent VALUES (10, 1, NULL, repeat('x', 100000))")
    run(
        db,
        "INSERT INTO child (id, tenant, parent, body, bytes) "
        "VALUES (20, 1, 10, repeat('y', 100000), decode(repeat('00ff', 50000), 'hex'))",
    )
    run(db, "UPDATE parent SET flow = 1")
    run(db, "UPDATE child SET body = body || 'z'")
    assert rows(db, "SELECT flow, length(body), length(bytes) FROM child") == [(1, 100001, 100000)]
    run(db, "ALTER TABLE child ADD later text DEFAULT 'x', DROP body")
    run(db, "UPDATE parent SET flow = 2")
    assert rows(db, "SELECT flow, later, length(bytes) FROM child") == [(2, "x", 100000)]
    settled(db)
    kept(db)


# --- Row keys of several columns, each of which has operators of its own


KEY_TYPES = """
CREATE SCHEMA extensions;
CREATE EXTENSION citext SCHEMA extensions;
CREATE EXTENSION ltree SCHEMA public;
CREATE DOMAIN word AS extensions.citext;
CREATE TYPE size AS ENUM ('s', 'm', 'l', 'xl', 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h')
"""
# Its operators have other names than those of integer, as whose they work.
CODE = """
CREATE SCHEMA other;
CREATE TYPE other.code;
CREATE FUNCTION other.code_in(cstring) RETURNS other.code LANGUAGE internal IMMUTABLE STRICT AS 'int4in';
CREATE FUNCTION other.code_out(other.code) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out';
CREATE TYPE other.code (INPUT = other.code_in, OUTPUT = other.code_out, LIKE = integer);
CREATE FUNCTION other.compare(other.code, other.code) RETURNS integer LANGUAGE internal IMMUTABLE STRICT AS 'btint4cmp';
CREATE FUNCTION other.lt(other.code, other.code) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT AS 'int4lt';
CREATE FUNCTION other.le(other.code, other.code) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT AS 'int4le';
CREATE FUNCTION other.eq(other.code, other.code) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT AS 'int4eq';
CREATE FUNCTION other.ge(other.code, other.code) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT AS 'int4ge';
CREATE FUNCTION other.gt(other.code, other.code) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT AS 'int4gt';
CREATE OPERATOR other.#< (LEFTARG = other.code, RIGHTARG = other.code, FUNCTION = other.lt);
CREATE OPERATOR other.#<= (LEFTARG = other.code, RIGHTARG = other.code, FUNCTION = other.le);
CREATE OPERATOR other.#= (LEFTARG = other.code, RIGHTARG = other.code, FUNCTION = other.eq, MERGES);
CREATE OPERATOR other.#>= (LEFTARG = other.code, RIGHTARG = other.code, FUNCTION = other.ge);
CREATE OPERATOR other.#> (LEFTARG = other.code, RIGHTARG = other.code, FUNCTION = other.gt);
CREATE OPERATOR CLASS other.code_ops DEFAULT FOR TYPE other.code USING btree AS OPERATOR 1 other.#<,
  OPERATOR 2 other.#<=, OPERATOR 3 other.#=, OPERATOR 4 other.#>=, OPERATOR 5 other.#>,
  FUNCTION 1 other.compare(other.code, other.code);
GRANT USAGE ON SCHEMA other TO PUBLIC
"""
# How the n-th value is written. As text they are in another order than as what they are.
KEY_VALUES = {
    "integer": "{}",
    "extensions.citext": "substr('aBcDeFgHiJkL', {} + 1, 1)",
    "word": "substr('aBcDeFgHiJkL', {} + 1, 1)",
    "ltree": "'top.' || chr(97 + {})",
    "size": "(enum_range(NULL::size))[{} + 1]::text",
    "other.code": "({})::text",
    "text COLLATE by_number": "'no. ' || {}",
    "text COLLATE any_case": "substr('aBcDeFgHiJkL', {} + 1, 1)",
}
KEYS = [
    ("integer", "extensions.citext"),
    ("extensions.citext", "integer"),
    ("integer", "ltree"),
    ("extensions.citext", "ltree"),
    ("word", "size"),
    ("integer", "integer", "extensions.citext"),
    ("integer", "extensions.citext", "integer"),
    ("extensions.citext",),
    ("other.code",),
    ("other.code", "integer"),
    ("integer", "other.code"),
    ("integer", "text COLLATE by_number"),
    ("text COLLATE any_case", "text COLLATE by_number"),
]
PLACES = {1: ("n",), 2: ("n / 3", "n % 3"), 3: ("n / 6", "n / 3 % 2", "n % 3")}
BY_KEY = pytest.mark.parametrize("key", KEYS, ids=", ".join)


def unlinked_children(db: Connection, as_role: Callable[[str, str], str], key: Sequence[str]) -> int:
    """Make children with such a key, which have a parent's link to get; gives how many."""
    for extension in ("citext", "ltree"):
        if not one(db, "SELECT count(*) FROM pg_available_extensions WHERE name = %s", extension):
            lacking(f"extension {extension}")
    run(db, KEY_TYPES)
    with psycopg.connect(as_role(db.info.dsn, "postgres"), autocommit=True) as admin:
        run(admin, CODE)
    make_collation(db, "by_number", "en-u-kn-true", deterministic=True)
    make_collation(db, "any_case", "und-u-ks-level2", deterministic=False)
    count = 12 if len(key) == 1 else 36
    columns = ", ".join(f"k{n} {kind}" for n, kind in enumerate(key, 1))
    names = ", ".join(f"k{n}" for n in range(1, len(key) + 1))
    values = ", ".join(
        f"({KEY_VALUES[kind].format(place)})::{kind.partition(' COLLATE')[0]}"
        for kind, place in zip(key, PLACES[len(key)], strict=True)
    )
    run(
        db,
        f"""
CREATE TABLE flow (id integer PRIMARY KEY, tenant integer NOT NULL, created_at timestamptz);
CREATE TABLE parent (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer);
CREATE TABLE child ({columns}, id integer, tenant integer NOT NULL, flow integer, parent integer REFERENCES parent,
                    PRIMARY KEY ({names}));
INSERT INTO flow VALUES (1, 1);
INSERT INTO parent VALUES (10, 1, 1);
INSERT INTO child SELECT {values}, n, 1, NULL, 10 FROM generate_series(0, {count - 1}) n;
SELECT flowguard.add_master('flow', 'id', '{{tenant}}');
SELECT flowguard.add_link(t, 'flow') FROM unnest('{{parent,child}}'::regclass[]) t;
""",  # noqa: S608  names of this test
    )
    add_reference(db, "child", "parent", "parent")
    return count


@BY_KEY
def test_keys_whose_columns_are_compared_each_in_its_own_way(
    db: Connection, as_role: Callable[[str, str], str], key: Sequence[str]
) -> None:
    """Batches go on after a key as the index orders keys: each row is come to once."""
    count = unlinked_children(db, as_role, key)
    before = dump(db, "public.parent", "public.child")
    run(db, "SET search_path = pg_catalog")
    options: tuple[dict[str, object], ...] = ({"batch_size": 1}, {"batch_size": 5, "row_filter": "id >= 0"}, {})
    for each in options:
        done = repair(db, "public.child", link_column="flow", **each)
        assert (done.linked, done.total, done.remaining) == (count, count, 0)
        assert one(db, "SELECT count(*) FROM public.child WHERE flow = 1") == count
        ledger = "SELECT count(*), count(DISTINCT row_key) FROM flowguard.run_change WHERE run_id = %s"
        assert rows(db, ledger, done.id) == [(count, count)]
        assert repair(db, "public.child", link_column="flow", **each).total == 0
        assert undo(db, done.id) == (count, 0, 0)
        assert dump(db, "public.parent", "public.child") == before
    kept(db)


@BY_KEY
def test_such_a_repair_goes_on_where_it_was_cut_off(
    db: Connection, session: Callable[[Connection], Connection], as_role: Callable[[str, str], str], key: Sequence[str]
) -> None:
    """And past a row that the application refuses."""
    count = unlinked_children(db, as_role, key)
    run(
        db,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;"
        f"CREATE TRIGGER refuse BEFORE UPDATE ON child FOR EACH ROW WHEN (NEW.id = {count - 2}) "
        "EXECUTE FUNCTION refuse()",
    )
    stopped = stop(db, lambda: session(db), at=count // 2, batch_size=2)
    assert 0 < one(db, "SELECT linked FROM flowguard.run") < count - 1
    done = repair(db, "child", link_column="flow")
    assert (done.id, done.linked, done.remaining) == (stopped, count - 1, 1)
    assert rows(db, "SELECT count(*), count(DISTINCT row_key) FROM flowguard.run_change") == [(count - 1, count - 1)]
    assert rows(db, "SELECT id FROM child WHERE flow IS NULL") == [(count - 2,)]
    run(db, "DROP TRIGGER refuse ON child")
    assert undo(db, stopped) == (count - 1, 0, 0)
    assert one(db, "SELECT count(*) FROM child WHERE flow IS NULL") == count
    kept(db)
