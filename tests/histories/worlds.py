"""The schemas of random histories: few keys, few masters and crowded times, so that sessions meet all the time.

As the report's: imports and what hangs on them, events in time, and assets that find their flow by all rules. Keys are
small integers, so that a history reads at a glance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from engine.oracle import Link, Master, Proximity, Reference, Row, Session, Table
from engine.worlds import HOUR, Choice, Refers, Shape, Times, World
from repair.judge import Policy

FLOW = Master("flow", "id", ("tenant",))
TENANT = ("tenant",)
NOBODY = 99
ALIASES = (51, 52)

DDL = """
CREATE TABLE flow (id integer PRIMARY KEY, tenant integer NOT NULL, alias integer, created_at timestamptz);
CREATE TABLE import (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer, note text);
CREATE TABLE record (id integer PRIMARY KEY, tenant integer #, flow integer, note text,
                     import integer REFERENCES import ON DELETE CASCADE);
CREATE TABLE event (id integer PRIMARY KEY, tenant integer #, flow integer, status text, at timestamptz);
CREATE TABLE asset (id integer PRIMARY KEY, tenant integer #, flow integer, note text,
                    record integer REFERENCES record ON DELETE CASCADE, event integer, at timestamptz);
"""
REGISTRATION = """
SELECT flowguard.add_master('flow', 'id', '{tenant}', alternate_keys => '{alias}');
SELECT flowguard.add_link(t, 'flow', on_orphan => 'POLICY', on_master_delete => 'ACTION')
  FROM unnest('{import,record,event,asset}'::regclass[]) t;
SELECT flowguard.add_session_rule('import', 'flow');
SELECT flowguard.add_reference_rule('record', 'import', 'import', source_link => 'flow', link_column => 'flow');
SELECT flowguard.add_session_rule('event', 'flow');
SELECT flowguard.add_reference_rule('asset', 'record', 'record', source_link => 'flow', link_column => 'flow');
SELECT flowguard.add_reference_rule('asset', 'event', 'event', source_link => 'flow', agree => false,
                                    link_column => 'flow');
SELECT flowguard.add_proximity_rule('asset', 'event', '1 hour', 'at', 'at', 'flow', 'status <> ''deleted''',
                                    on_ambiguous => 'AMBIGUOUS', link_column => 'flow');
"""
MASTERS = ((1, 1, 51), (2, 1, 52), (3, 1, 52), (9, 2, 51))  # id, tenant, alias
NEVER_NULL = ("import",)  # tables whose tenant is NOT NULL in every setting


@dataclass(frozen=True)
class Setting:
    """A world, and what its registration says beyond what the oracle knows of it."""

    world: World
    policy: Policy
    tenants_known: bool

    def __repr__(self) -> str:
        return self.world.name

    def knows_tenants(self, table: str) -> bool:
        """Say whether the tenant column of a table is NOT NULL."""
        return self.tenants_known or table in NEVER_NULL


def is_live(row: Row) -> bool:
    """NULL <> 'deleted' is not true: such a row is no candidate."""
    return row["status"] is not None and row["status"] != "deleted"


def crowded(
    on_master_delete: Literal["refuse", "cascade", "set null"],
    policy: Policy,
    *,
    tenants_known: bool = False,
    leave: bool = False,
) -> Setting:
    """Give a world by what differs: keys, orphans, whether tenants may be NULL, and what ambiguity does."""

    def link(table: str, *rules: Session | Reference | Proximity) -> Link:
        return Link(table, "flow", FLOW, TENANT, rules, on_master_delete=on_master_delete)

    registration = REGISTRATION.replace("POLICY", policy).replace("ACTION", on_master_delete)
    shapes = [
        Shape("flow", {}, TENANT, can_delete=True),
        Shape("import", {}, TENANT, links=("flow",), columns={"note": Choice(("a", "b"))}, can_delete=True),
        Shape(
            "record",
            {},
            TENANT,
            not tenants_known,
            ("flow",),
            {"import": Refers("import", "id"), "note": Choice(("a", "b"))},
            can_delete=True,
        ),
        Shape(
            "event",
            {},
            TENANT,
            not tenants_known,
            ("flow",),
            {"status": Choice(("new", "old", "deleted", None)), "at": Times()},
            can_delete=True,
        ),
        Shape(
            "asset",
            {},
            TENANT,
            not tenants_known,
            ("flow",),
            {
                "record": Refers("record", "id"),
                "event": Refers("event", "id", loose=True),
                "at": Times(),
                "note": Choice(("a", "b")),
            },
            can_delete=True,
        ),
    ]
    proximity = Proximity(
        "at", "event", "at", "flow", TENANT, HOUR, keep=is_live, filter_columns=("status",), leave=leave
    )
    world = World(
        name=f"{on_master_delete}, {policy}{', tenants known' if tenants_known else ''}{', leave' if leave else ''}",
        ddl=DDL.replace("#", "NOT NULL" if tenants_known else ""),
        registration=registration.replace("AMBIGUOUS", "leave" if leave else "nearest"),
        tables=[
            Table("flow", ("id",)),
            Table("import", ("id",)),
            Table("record", ("id",), (("import", "import", "id"),)),
            Table("event", ("id",)),
            Table("asset", ("id",), (("record", "record", "id"),)),
        ],
        links=[
            link("import", Session()),
            link("record", Reference("import", "import", "id", "flow", TENANT)),
            link("event", Session()),
            link(
                "asset",
                Reference("record", "record", "id", "flow", TENANT),
                Reference("event", "event", "id", "flow", TENANT, agree=False),
                proximity,
            ),
        ],
        shapes=[replace(shape, key={"id": int}) for shape in shapes],
        tenants=[(1,), (2,)],
        sources=["event"],
    )
    return Setting(world, policy, tenants_known)


SETTINGS = [
    crowded("set null", "quarantine"),
    crowded("refuse", "unlink", tenants_known=True),
    crowded("cascade", "quarantine", leave=True),
    crowded("set null", "quarantine", tenants_known=True),
]
