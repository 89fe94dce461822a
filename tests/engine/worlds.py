"""Schemas that the property tests write to: for each its DDL, how it is registered, and the same said to the oracle.

They differ in everything that generated code must cope with: types of keys, number of tenant columns and whether they
may be NULL, keys of several columns, names that need quotes, two links on one table, what deleting a master does.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from hashlib import md5
from typing import Any, Literal

from engine.oracle import Link, Master, Proximity, Reference, Session, Table
from servers import chosen_version

ON_MASTER_DELETE: Literal["set null", "cascade"] = "set null" if chosen_version() >= 15 else "cascade"
"""Of masters whose key is unique only within a tenant: from 15 on a key can set the link NULL and leave the tenant."""

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
START = datetime(2025, 1, 9, 10, tzinfo=timezone.utc)

# Few and symmetrical: ties, and differences of exactly 30, 60 and 90 minutes or a microsecond more, are the rule.
TIMES = (
    *(0, 0, 0, 0),
    *(-30 * MINUTE, 30 * MINUTE, -HOUR, HOUR),
    *(-30 * MINUTE - 1, 30 * MINUTE + 1, -HOUR - 1, HOUR + 1),
    *(-SECOND, SECOND),
)


def as_timestamp(time: float | None) -> str | None:
    """Give a time of the oracle as PostgreSQL reads it."""
    if time is None:
        return None
    if math.isinf(time):
        return "infinity" if time > 0 else "-infinity"
    return (START + timedelta(microseconds=int(time))).isoformat()


def uuid_key(number: int) -> uuid.UUID:
    return uuid.UUID(bytes=md5(str(number).encode(), usedforsecurity=False).digest())


def text_key(number: int) -> str:
    return md5(str(number).encode(), usedforsecurity=False).hexdigest()[:8]


def bigint_key(number: int) -> int:
    return number * 7919 % 10007


@dataclass(frozen=True)
class Times:
    """Draw a time of the crowded range; sometimes an infinite one or, unless it is always `known`, none."""

    known: bool = False


@dataclass(frozen=True)
class Refers:
    """Draw the value that a column of a present row has, or none; `loose`: sometimes one that no row has."""

    table: str
    column: str
    loose: bool = False
    same_tenant: bool = True


@dataclass(frozen=True)
class Choice:
    """Draw one of these."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Shape:
    """How to draw a row: key columns by generator, tenants (NULL or not), links, and other columns."""

    table: str
    key: dict[str, Callable[[int], Any]]
    tenants: tuple[str, ...] = ()
    null_tenants: bool = False
    links: tuple[str, ...] = ()
    columns: dict[str, Times | Refers | Choice] = field(default_factory=dict)
    can_delete: bool = False


@dataclass(frozen=True)
class World:
    """A schema, its registration, and what the oracle must know of it."""

    name: str
    ddl: str
    registration: str
    tables: Sequence[Table]
    links: Sequence[Link]
    shapes: Sequence[Shape]
    tenants: Sequence[tuple[Any, ...]]
    sources: Sequence[str]
    """Tables to crowd with rows, so that the last table finds its links in them by time."""


# --- As the report: uuids, two tenant columns that may be NULL, a chain of references, two sources in time

FLOW = Master("flow", "id", ("c", "e"))
TENANT = ("c", "e")


def report_like(*, mode: str, on_master_delete: str, not_null: str = "") -> World:
    """Imports, records, discoveries and assets; `not_null` declares the tenant columns so, which changes the keys."""
    enforce = mode == "enforce"
    ddl = """
CREATE TABLE flow (id uuid PRIMARY KEY, c uuid NOT NULL, e uuid NOT NULL, created_at timestamptz);
CREATE TABLE import (id uuid PRIMARY KEY, c uuid #, e uuid #, flow uuid, at timestamptz);
CREATE TABLE record (id uuid PRIMARY KEY, c uuid #, e uuid #, flow uuid,
                     import_id uuid REFERENCES import ON DELETE CASCADE);
CREATE TABLE discovery (id uuid PRIMARY KEY, code uuid NOT NULL UNIQUE, c uuid NOT NULL, e uuid NOT NULL, flow uuid,
                        status text, at timestamptz);
CREATE TABLE asset (id uuid PRIMARY KEY, c uuid #, e uuid #, flow uuid, note text,
                    record_id uuid REFERENCES record ON DELETE CASCADE, discovery uuid, at timestamptz);
""".replace("#", not_null)
    registration = """
SELECT flowguard.add_master('flow', 'id', '{c,e}');
SELECT flowguard.add_link(t, 'flow', mode => 'MODE', on_master_delete => 'ACTION')
  FROM unnest('{import,record,discovery,asset}'::regclass[]) t;
SELECT flowguard.add_session_rule('import', 'flow');
SELECT flowguard.add_reference_rule('record', 'import_id', 'import', source_link => 'flow', link_column => 'flow');
SELECT flowguard.add_session_rule('discovery', 'flow');
SELECT flowguard.add_reference_rule('discovery', 'code', 'flow', source_link => 'id', agree => false,
                                    link_column => 'flow');
SELECT flowguard.add_session_rule('asset', 'flow');
SELECT flowguard.add_reference_rule('asset', 'record_id', 'record', source_link => 'flow', link_column => 'flow');
SELECT flowguard.add_reference_rule('asset', 'discovery', 'discovery', source_link => 'flow', agree => false,
                                    link_column => 'flow');
SELECT flowguard.add_reference_rule('asset', 'discovery', 'discovery', source_key => 'code', source_link => 'flow',
                                    agree => false, link_column => 'flow');
SELECT flowguard.add_proximity_rule('asset', 'discovery', '1 hour', 'at', 'at', 'flow', 'status <> ''deleted''',
                                    link_column => 'flow');
SELECT flowguard.add_proximity_rule('asset', 'import', '1 hour', 'at', 'at', 'flow', link_column => 'flow');
""".replace("MODE", mode).replace("ACTION", on_master_delete)

    def link(table: str, *rules: Session | Reference | Proximity) -> Link:
        return Link(table, "flow", FLOW, TENANT, rules, enforce=enforce, on_master_delete=on_master_delete)  # type: ignore[arg-type]

    return World(
        name=f"report-like, {mode}, {on_master_delete}{', NOT NULL' if not_null else ''}",
        ddl=ddl,
        registration=registration,
        tables=[
            Table("flow", ("id",)),
            Table("import", ("id",), knows_tenants=bool(not_null)),
            Table("record", ("id",), (("import_id", "import", "id"),), knows_tenants=bool(not_null)),
            Table("discovery", ("id",)),
            Table("asset", ("id",), (("record_id", "record", "id"),)),
        ],
        links=[
            link("import", Session()),
            link("record", Reference("import_id", "import", "id", "flow", TENANT)),
            link("discovery", Session(), Reference("code", "flow", "id", "id", TENANT, agree=False)),
            link(
                "asset",
                Session(),
                Reference("record_id", "record", "id", "flow", TENANT),
                Reference("discovery", "discovery", "id", "flow", TENANT, agree=False),
                Reference("discovery", "discovery", "code", "flow", TENANT, agree=False),
                # NULL <> 'deleted' is not true: such a row is no candidate.
                Proximity(
                    "at",
                    "discovery",
                    "at",
                    "flow",
                    TENANT,
                    HOUR,
                    keep=lambda row: row["status"] is not None and row["status"] != "deleted",
                    filter_columns=("status",),
                ),
                Proximity("at", "import", "at", "flow", TENANT, HOUR),
            ),
        ],
        shapes=[
            Shape("flow", {"id": uuid_key}, TENANT, can_delete=True),
            Shape("import", {"id": uuid_key}, TENANT, not not_null, ("flow",), {"at": Times()}, can_delete=True),
            Shape(
                "record", {"id": uuid_key}, TENANT, not not_null, ("flow",), {"import_id": Refers("import", "id")},
                can_delete=True,
            ),
            Shape(
                "discovery",
                {"id": uuid_key, "code": lambda number: uuid_key(-number)},
                TENANT,
                links=("flow",),
                columns={"status": Choice(("active", "active", "deleted", None)), "at": Times()},
                can_delete=True,
            ),
            Shape(
                "asset",
                {"id": uuid_key},
                TENANT,
                not not_null,
                ("flow",),
                {
                    "record_id": Refers("record", "id"),
                    "discovery": Refers("discovery", "id", loose=True),
                    "at": Times(),
                    "note": Choice(("a", "b")),
                },
                can_delete=True,
            ),
        ],
        tenants=[(uuid_key(1), uuid_key(2)), (uuid_key(1), uuid_key(3)), (uuid_key(4), uuid_key(2))],
        sources=["discovery", "import"],
    )  # fmt: skip


# --- Text keys, no tenants, keys of two columns, two links on one table, names of all kinds and of 63 bytes

KIND = "Kind_mit_Ümlaut_und_einem_Namen_der_genau_dreiundsechzig_Byte_"[:62]
KIND_63 = KIND + "x" * (63 - len(KIND.encode()))
FLUSS = Master("Der Fluß", "Schlüssel", ())


def quoted_names() -> World:
    """Names that need quotes, of which one fills all 63 bytes."""
    ddl = """
CREATE SCHEMA "Zweites Schema";
CREATE TABLE "Der Fluß" ("Schlüssel" text PRIMARY KEY);
CREATE TABLE "Zweites Schema"."quelle ""%"" x" (
  "Region" text, nr integer, "wann's" timestamptz, "Fluß" text, "Art" text, PRIMARY KEY ("Region", nr));
CREATE TABLE "select" (id text PRIMARY KEY, "Fluß" text);
CREATE TABLE "KIND" (
  a text, "B" integer, "erster Fluß" text, master_flow_id text,
  "Eltern" text REFERENCES "select" DEFERRABLE INITIALLY DEFERRED, "wann" timestamptz, PRIMARY KEY (a, "B"));
""".replace("KIND", KIND_63)
    registration = """
SELECT flowguard.add_master('"Der Fluß"', 'Schlüssel', '{}', created_at_column => NULL);
SELECT flowguard.add_link('"Zweites Schema"."quelle ""%"" x"', 'Fluß', on_master_delete => 'set null');
SELECT flowguard.add_link('"select"', 'Fluß', on_master_delete => 'set null');
SELECT flowguard.add_session_rule('"select"', 'Fluß');
SELECT flowguard.add_link('"KIND"', 'erster Fluß', on_master_delete => 'set null');
SELECT flowguard.add_link('"KIND"', on_master_delete => 'set null');
SELECT flowguard.add_proximity_rule('"KIND"', '"Zweites Schema"."quelle ""%"" x"', '30 minutes', 'wann', 'wann''s',
                                    'Fluß', on_ambiguous => 'leave', link_column => 'erster Fluß');
SELECT flowguard.add_reference_rule('"KIND"', 'Eltern', '"select"', source_link => 'Fluß');
SELECT flowguard.add_proximity_rule('"KIND"', '"Zweites Schema"."quelle ""%"" x"', '1 hour', 'wann', 'wann''s', 'Fluß',
                                    source_filter => '"Art" LIKE ''g%'' AND nr > 100');
""".replace("KIND", KIND_63)
    source = 'quelle "%" x'

    def link(table: str, column: str, *rules: Session | Reference | Proximity) -> Link:
        return Link(table, column, FLUSS, (), rules, on_master_delete="set null")

    return World(
        name="quoted names",
        ddl=ddl,
        registration=registration,
        tables=[
            Table("Der Fluß", ("Schlüssel",)),
            Table(source, ("Region", "nr")),
            Table("select", ("id",)),
            Table(KIND_63, ("a", "B")),
        ],
        links=[
            link(source, "Fluß"),
            link("select", "Fluß", Session()),
            link(KIND_63, "erster Fluß", Proximity("wann", source, "wann's", "Fluß", (), 30 * MINUTE, leave=True)),
            link(
                KIND_63,
                "master_flow_id",
                Reference("Eltern", "select", "id", "Fluß", ()),
                Proximity(
                    "wann",
                    source,
                    "wann's",
                    "Fluß",
                    (),
                    HOUR,
                    keep=lambda row: row["Art"] is not None and row["Art"].startswith("g") and row["nr"] > 100,
                    filter_columns=("Art", "nr"),
                ),
            ),
        ],
        shapes=[
            Shape("Der Fluß", {"Schlüssel": text_key}, can_delete=True),
            Shape(
                source,
                {"Region": lambda number: text_key(number % 2), "nr": bigint_key},
                links=("Fluß",),
                columns={"wann's": Times(), "Art": Choice(("gut", "schlecht", None))},
                can_delete=True,
            ),
            Shape("select", {"id": text_key}, links=("Fluß",)),
            Shape(
                KIND_63,
                {"a": lambda number: text_key(number % 3), "B": bigint_key},
                links=("erster Fluß", "master_flow_id"),
                columns={"Eltern": Refers("select", "id"), "wann": Times()},
                can_delete=True,
            ),
        ],
        tenants=[()],
        sources=[source],
    )


# --- Bigint keys that are unique only within their tenant, timestamps without a zone

PROJECT = Master("project", "number", ("owner",), is_unique=False)
OWNER = ("owner",)


def keys_within_tenant(*, partitioned: bool = False) -> World:
    """Every key is of tenant and number: the same number in another tenant is another master."""
    ddl = """
CREATE TABLE project (owner integer, number bigint, PRIMARY KEY (owner, number)) #;
CREATE TABLE batch (owner integer, id bigint, project bigint, at timestamp, PRIMARY KEY (owner, id)) #;
CREATE TABLE item (owner integer, id bigint, project bigint, batch bigint, at timestamp, PRIMARY KEY (owner, id),
                   FOREIGN KEY (owner, batch) REFERENCES batch ON DELETE CASCADE) #;
""".replace("#", "PARTITION BY HASH (owner)" if partitioned else "")
    if partitioned:
        ddl += "".join(
            f"CREATE TABLE {name}_{n} PARTITION OF {name} FOR VALUES WITH (MODULUS 3, REMAINDER {n});\n"
            for name in ("project", "batch", "item")
            for n in range(3)
        )
    registration = """
SELECT flowguard.add_master('project', 'number', '{owner}', created_at_column => NULL);
SELECT flowguard.add_link('batch', 'project', on_master_delete => 'ACTION');
SELECT flowguard.add_session_rule('batch', 'project');
SELECT flowguard.add_link('item', 'project', on_master_delete => 'ACTION');
SELECT flowguard.add_reference_rule('item', 'batch', 'batch', source_link => 'project', link_column => 'project');
SELECT flowguard.add_proximity_rule('item', 'batch', '90 minutes', 'at', 'at', 'project', on_ambiguous => 'leave',
                                    link_column => 'project');
"""
    return World(
        name="keys within the tenant" + (", partitioned" if partitioned else ""),
        ddl=ddl,
        registration=registration.replace("ACTION", ON_MASTER_DELETE),
        tables=[
            Table("project", ("owner", "number")),
            Table("batch", ("owner", "id")),
            Table("item", ("owner", "id"), (("batch", "batch", "id"),)),
        ],
        links=[
            Link("batch", "project", PROJECT, OWNER, (Session(),), on_master_delete=ON_MASTER_DELETE),
            Link(
                "item",
                "project",
                PROJECT,
                OWNER,
                (
                    Reference("batch", "batch", "id", "project", OWNER),
                    Proximity("at", "batch", "at", "project", OWNER, 90 * MINUTE, leave=True),
                ),
                on_master_delete=ON_MASTER_DELETE,
            ),
        ],
        shapes=[
            Shape("project", {"number": lambda number: number % 4}, OWNER, can_delete=True),
            Shape("batch", {"id": bigint_key}, OWNER, links=("project",), columns={"at": Times()}, can_delete=True),
            Shape(
                "item",
                {"id": bigint_key},
                OWNER,
                links=("project",),
                columns={"batch": Refers("batch", "id"), "at": Times()},
                can_delete=True,
            ),
        ],
        tenants=[(1,), (2,)],
        sources=["batch"],
    )


# --- Partitioned by time, in two levels: an UPDATE of the time moves the row, which is a DELETE and an INSERT then


def partitioned_by_time() -> World:
    """Sources and rows lie in partitions by time, two of which were attached with columns in another order."""
    ddl = """
CREATE TABLE project (owner integer, number bigint, PRIMARY KEY (owner, number)) PARTITION BY HASH (owner);
CREATE TABLE project_0 PARTITION OF project FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE project_1 PARTITION OF project FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE batch (owner integer, id bigint, project bigint, PRIMARY KEY (owner, id)) PARTITION BY LIST (owner);
CREATE TABLE batch_1 PARTITION OF batch FOR VALUES IN (1);
CREATE TABLE batch_other PARTITION OF batch DEFAULT;
"""
    for name in ("event", "probe"):
        ddl += f"""
CREATE TABLE {name} (owner integer NOT NULL, id bigint, project bigint, batch bigint, at timestamptz,
                     PRIMARY KEY (id, at), FOREIGN KEY (owner, batch) REFERENCES batch ON DELETE CASCADE)
  PARTITION BY RANGE (at);
CREATE TABLE {name}_before PARTITION OF {name} FOR VALUES FROM (MINVALUE) TO ('{START}');
CREATE TABLE {name}_after PARTITION OF {name} FOR VALUES FROM ('{START}') TO ('{START + timedelta(minutes=30)}')
  PARTITION BY HASH (id);
CREATE TABLE {name}_after_0 PARTITION OF {name}_after FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE {name}_after_1 PARTITION OF {name}_after FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE {name}_rest (gone text, at timestamptz, project bigint, batch bigint, id bigint, owner integer NOT NULL,
                          PRIMARY KEY (id, at));
ALTER TABLE {name}_rest DROP COLUMN gone;
ALTER TABLE {name} ATTACH PARTITION {name}_rest DEFAULT;
"""
    registration = """
SELECT flowguard.add_master('project', 'number', '{owner}', created_at_column => NULL);
SELECT flowguard.add_link(t, 'project', on_master_delete => 'set null')
  FROM unnest('{batch,event,probe}'::regclass[]) t;
SELECT flowguard.add_session_rule('batch', 'project');
SELECT flowguard.add_reference_rule(t, 'batch', 'batch', source_link => 'project', link_column => 'project')
  FROM unnest('{event,probe}'::regclass[]) t;
SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'project', link_column => 'project');
""".replace("set null", ON_MASTER_DELETE)
    reference = Reference("batch", "batch", "id", "project", OWNER)

    def link(table: str, *rules: Session | Reference | Proximity) -> Link:
        return Link(table, "project", PROJECT, OWNER, rules, on_master_delete=ON_MASTER_DELETE)

    def shape(table: str) -> Shape:
        return Shape(
            table,
            {"id": bigint_key},
            OWNER,
            links=("project",),
            columns={"batch": Refers("batch", "id"), "at": Times(known=True)},
            can_delete=True,
        )

    return World(
        name="partitioned by time",
        ddl=ddl,
        registration=registration,
        tables=[
            Table("project", ("owner", "number")),
            Table("batch", ("owner", "id")),
            Table("event", ("id",), (("batch", "batch", "id"),)),
            Table("probe", ("id",), (("batch", "batch", "id"),)),
        ],
        links=[
            link("batch", Session()),
            link("event", reference),
            link("probe", reference, Proximity("at", "event", "at", "project", OWNER, HOUR)),
        ],
        shapes=[
            Shape("project", {"number": lambda number: number % 4}, OWNER, can_delete=True),
            Shape("batch", {"id": bigint_key}, OWNER, links=("project",), can_delete=True),
            shape("event"),
            shape("probe"),
        ],
        tenants=[(1,), (2,)],
        sources=["event"],
    )


# --- Sources that nobody guards: their links may dangle, or lead to another tenant's master


def unguarded_sources() -> World:
    """Rules must pass over a source row whose link is no master of the row's tenant, and take the next one."""
    ddl = """
CREATE TABLE flow (id uuid PRIMARY KEY, c uuid NOT NULL, e uuid NOT NULL, created_at timestamptz);
CREATE TABLE import (id uuid PRIMARY KEY, c uuid NOT NULL, e uuid NOT NULL, flow uuid, at timestamptz);
CREATE TABLE memo (id uuid PRIMARY KEY, c uuid NOT NULL, e uuid NOT NULL, flow uuid, at timestamptz,
                   import_id uuid REFERENCES import);
CREATE TABLE asset (id uuid PRIMARY KEY, c uuid NOT NULL, e uuid NOT NULL, flow uuid, at timestamptz, import_id uuid);
"""
    registration = """
SELECT flowguard.add_master('flow', 'id', '{c,e}');
SELECT flowguard.add_link('memo', 'flow', on_master_delete => 'set null');
SELECT flowguard.add_link('asset', 'flow', on_master_delete => 'set null');
SELECT flowguard.add_reference_rule('memo', 'import_id', 'import', source_link => 'flow', link_column => 'flow');
SELECT flowguard.add_proximity_rule('memo', 'import', '1 hour', 'at', 'at', 'flow', on_ambiguous => 'leave',
                                    link_column => 'flow');
SELECT flowguard.add_reference_rule('asset', 'import_id', 'import', source_link => 'flow', agree => false,
                                    link_column => 'flow');
SELECT flowguard.add_proximity_rule('asset', 'import', '1 hour', 'at', 'at', 'flow', link_column => 'flow');
"""
    # The masters that are written first have the numbers 1 to 5, of which 4 and 5 are of other tenants.
    some_link = Choice((*map(uuid_key, (1, 1, 2, 3, 4, 999)), None))

    def link(table: str, *rules: Session | Reference | Proximity) -> Link:
        return Link(table, "flow", FLOW, TENANT, rules, on_master_delete="set null")

    return World(
        name="unguarded sources",
        ddl=ddl,
        registration=registration,
        tables=[Table(name, ("id",)) for name in ("flow", "import", "memo", "asset")],
        links=[
            link(
                "memo",
                Reference("import_id", "import", "id", "flow", TENANT),
                Proximity("at", "import", "at", "flow", TENANT, HOUR, leave=True),
            ),
            link(
                "asset",
                Reference("import_id", "import", "id", "flow", TENANT, agree=False),
                Proximity("at", "import", "at", "flow", TENANT, HOUR),
            ),
        ],
        shapes=[
            Shape("flow", {"id": uuid_key}, TENANT, can_delete=True),
            Shape("import", {"id": uuid_key}, TENANT, columns={"at": Times(), "flow": some_link}),
            Shape(
                "memo",
                {"id": uuid_key},
                TENANT,
                links=("flow",),
                columns={"at": Times(), "import_id": Refers("import", "id")},
                can_delete=True,
            ),
            Shape(
                "asset",
                {"id": uuid_key},
                TENANT,
                links=("flow",),
                columns={"at": Times(), "import_id": Refers("import", "id")},
                can_delete=True,
            ),
        ],
        tenants=[(uuid_key(101), uuid_key(102)), (uuid_key(101), uuid_key(103)), (uuid_key(104), uuid_key(102))],
        sources=["import", "memo"],
    )


WORLDS = [
    report_like(mode="observe", on_master_delete="refuse"),
    report_like(mode="observe", on_master_delete="set null", not_null="NOT NULL"),
    report_like(mode="enforce", on_master_delete="cascade"),
    report_like(mode="enforce", on_master_delete="refuse", not_null="NOT NULL"),
    quoted_names(),
    keys_within_tenant(),
    keys_within_tenant(partitioned=True),
    partitioned_by_time(),
    unguarded_sources(),
]
