"""What a session of a history may write next, drawn from a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from engine.oracle import Key, Row
from engine.worlds import TIMES, Choice, Refers, Shape, Times, as_timestamp
from histories.model import Content, Guard
from histories.worlds import ALIASES, NOBODY, Setting

IDS = range(1, 9)
MASTER_IDS = (1, 2, 3, 4, 9)
COLUMN = {"import": "import", "record": "record", "event": "event"}


@dataclass
class Write:
    """A statement, what it does by the words of the oracle, and the keys that it turned out to meet."""

    kind: str
    """insert, update, delete, session or bypass."""
    text: str
    table: str = ""
    rows: list[Row] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    changes: Row = field(default_factory=dict)
    session: int | None = None
    met: set[Key] = field(default_factory=set)

    @property
    def move(self) -> tuple[Key, Key] | None:
        """The key that a row had and the one that it gets, where that is what is set."""
        return (self.keys[0], (self.changes["id"],)) if self.kind == "update" and "id" in self.changes else None

    @property
    def remasters(self) -> bool:
        """Whether a master comes or goes by it, or is one of another key or tenant."""
        return self.table == "flow" and (self.kind != "update" or not self.changes.keys() <= {"alias"})


def literal(value: object) -> str:
    """Write a value as SQL."""
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else f"'{value}'"


def given_to(row: Row, given: Row) -> Row:
    """Give a row with other values in those of these columns that it has."""
    return {**row, **{name: value for name, value in given.items() if name in row}}


class Draw:
    """Draws statements for one step of a history."""

    def __init__(self, random: Random, setting: Setting, guards: dict[str, Guard]) -> None:
        self.random = random
        self.setting = setting
        self.guards = guards
        self.shapes = {shape.table: shape for shape in setting.world.shapes}

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def write(self, view: Content) -> Write:
        """Draw any statement."""
        kinds = ["insert"] * 8 + ["update"] * 9 + ["delete"] * 2 + ["session"] * 2 + ["bypass"] * (self.chance(0.3))
        kind = self.random.choice(kinds)
        if kind == "session":
            return self.session(view)
        if kind == "bypass":
            return Write("bypass", "SELECT flowguard.bypass('a history')")
        tables = ["import", "record", "event", "asset", "record", "asset"]
        if kind == "insert":
            return self.insert(view, self.random.choice([*tables, "flow"]))
        if kind == "delete":
            return self.delete(view, self.random.choice([*tables, "flow", "flow"]))
        return self.update(view, self.random.choice([*tables, "flow"]))

    def session(self, view: Content) -> Write:
        flow = self.random.choice([key[0] for key in view["flow"]] or [NOBODY])
        return Write("session", f"SELECT set_config('flowguard.flow', '{flow}', true)", session=flow)

    def crowd(self, view: Content) -> Write:
        """Draw events of one tenant close in time, or an asset that has nothing but its time to find one by."""
        masters = [m["id"] for m in view["flow"].values() if m["tenant"] == 1]
        if not masters or self.chance(0.35):
            rows = [
                {**row, "tenant": 1, "flow": None, "record": None, "event": None, "at": self.random.choice(TIMES)}
                for row in self.new_rows(view, "asset")
            ]
            return self.insert_rows("asset", rows) if rows else self.delete(view, "asset")
        rows = self.new_rows(view, "event")
        flows = self.random.sample(masters, len(masters)) * len(rows)
        for row, flow in zip(rows, flows, strict=False):
            row |= {"tenant": 1, "flow": flow, "status": "new", "at": self.random.choice(TIMES)}
        return self.insert_rows("event", rows) if rows else self.delete(view, "event")

    def remaster(self, view: Content) -> list[Write]:
        """Draw a master's other key or tenant and, mostly, what lets the rows that point to it keep to it."""
        if not view["flow"]:
            return [self.insert(view, "flow")]
        key = self.random.choice(list(view["flow"]))
        first = self.change_master(view, key, self.random.choice(("id", "id", "tenant")))
        writes = [first]
        if "alias" not in first.changes and self.chance(0.7):
            tables = self.shapes.keys() - {"flow"}
            children = {t: [k for k, row in view[t].items() if row["flow"] == key[0]] for t in sorted(tables)}
            changes = {"flow" if name == "id" else name: value for name, value in first.changes.items()}
            writes += [self.update_rows(table, keys, changes) for table, keys in children.items() if keys]
        return writes

    def change_master(self, view: Content, key: Key, name: str) -> Write:
        """Draw an UPDATE of the key, the tenant or the alias of a master."""
        if name == "tenant":
            return self.update_rows("flow", [key], {name: 3 - view["flow"][key]["tenant"]})
        free = [n for n in MASTER_IDS if (n,) not in view["flow"]]
        if name == "id" and free:
            return self.update_rows("flow", [key], {name: self.random.choice(free)})
        others = [alias for alias in (*ALIASES, None) if alias != view["flow"][key]["alias"]]
        return self.update_rows("flow", [key], {"alias": self.random.choice(others)})

    def move_event(self, view: Content, key: Key) -> Write:
        """Draw another key for an event, often one that assets refer to already."""
        free = [n for n in IDS if (n,) not in view["event"]]
        awaited = [n for n in free if any(row["event"] == n for row in view["asset"].values())]
        if not free:
            return self.relink(view, "event", key)
        wanted = awaited if awaited and self.chance(0.6) else free
        return self.update_rows("event", [key], {"id": self.random.choice(wanted)})

    def wait(self, view: Content, table: str) -> Write:
        """Draw a row that refers to one that is linked, and leaves its own link to a rule."""
        via = "import" if table == "record" else self.random.choice(("record", "event"))
        linked = [key[0] for key, row in view[COLUMN[via]].items() if row["flow"] is not None]
        rows = self.new_rows(view, table)[:1]
        if not linked or not rows:
            return self.insert(view, table)
        source = self.random.choice(linked)
        given = {"tenant": view[COLUMN[via]][source,]["tenant"] or 1, "flow": None, "record": None, via: source}
        return self.insert_rows(table, [given_to(row, given) for row in rows])

    def offend(self, view: Content, table: str) -> Write:
        """Draw a row that enforcement refuses, as far as no rule helps: without a link, or without its tenant."""
        rows = self.new_rows(view, table)[:1]
        masters = [key[0] for key in view["flow"]]
        if not rows:
            return self.update(view, table)
        given: Row = {"flow": None, "import": None, "record": None, "event": None, "at": None}
        if self.shapes[table].null_tenants and masters and self.chance(0.6):
            given |= {"tenant": None, "flow": self.random.choice(masters)}
        return self.insert_rows(table, [given_to(row, given) for row in rows])

    # --- Two who meet

    def meet(self, view: Content) -> tuple[Write, Write]:
        """Draw a change of a row that gives others their link, and a change of a row that takes it from there."""
        source, child = self.random.choice([("import", "record"), ("record", "asset"), ("event", "asset"),
                                            ("flow", "import"), ("flow", "asset"), ("import", "record")])  # fmt: skip
        present = list(view[source])
        if not present:
            return self.insert(view, source), self.insert(view, child)
        key = self.random.choice(present)
        if source == "flow":
            first = self.delete(view, source, key)
        elif source == "event" and self.chance(0.5):
            first = self.insert(view, source) if self.chance(0.6) else self.move_event(view, key)
        else:
            first = self.delete(view, source, key) if self.chance(0.1) else self.relink(view, source, key)
        if source in COLUMN:
            second = self.refer(view, child, COLUMN[source], key[0])
        else:
            second = self.point(view, child, key[0])
        return first, second

    def relink(self, view: Content, table: str, key: Key) -> Write:
        """Draw an UPDATE that sets the link of a row."""
        row = view[table][key]
        masters = [m for m in view["flow"].values() if m["tenant"] == row["tenant"]]
        value = self.random.choice([*[m["id"] for m in masters if m["id"] != row["flow"]], None])
        return self.update_rows(table, [key], {"flow": value})

    def refer(self, view: Content, table: str, via: str, value: int) -> Write:
        """Draw a row that refers to that one, new or moved there, whose link is left to the rules."""
        others = [key for key, row in view[table].items() if row[via] != value]
        if others and self.chance(0.4):
            return self.update_rows(table, [self.random.choice(others)], {via: value})
        rows = self.new_rows(view, table)
        for row in rows:
            row[via] = value
            row["tenant"] = self.random.choice([1, row["tenant"]])
            row["flow"] = None if self.chance(0.85) else row["flow"]
        return self.insert_rows(table, rows) if rows else self.update(view, table)

    def point(self, view: Content, table: str, value: int) -> Write:
        """Draw a row that points to that master."""
        if view[table] and self.chance(0.5):
            return self.update_rows(table, [self.random.choice(list(view[table]))], {"flow": value})
        rows = self.new_rows(view, table)[:1]
        return self.insert_rows(table, [{**rows[0], "flow": value}]) if rows else self.update(view, table)

    # --- Statements

    def insert(self, view: Content, table: str) -> Write:
        rows = self.new_rows(view, table)
        return self.insert_rows(table, rows) if rows else self.delete(view, table)

    def insert_rows(self, table: str, rows: list[Row]) -> Write:
        names = list(rows[0])
        values = ", ".join(f"({', '.join(self.sql(table, name, row[name]) for name in names)})" for row in rows)
        text = f"INSERT INTO {table} ({', '.join(names)}) VALUES {values} RETURNING id"  # noqa: S608  ours
        return Write("insert", text, table, rows=rows)

    def update(self, view: Content, table: str) -> Write:
        keys = list(view[table])
        if not keys:
            return self.insert(view, table)
        shape = self.shapes[table]
        if table == "flow":
            # One to which nothing points may change; what becomes of another is `remaster`'s.
            used = {row["flow"] for name, rows in view.items() if name != "flow" for row in rows.values()}
            loose = [key for key in keys if key[0] not in used]
            name = self.random.choice(("id", "tenant", "alias") if loose else ("id", "tenant", *["alias"] * 4))
            return self.change_master(view, self.random.choice(loose or keys), name)
        if table == "event" and self.chance(0.35):
            return self.move_event(view, self.random.choice(keys))
        chosen = self.random.sample(keys, min(len(keys), self.random.choice((1, 1, 1, 2, 3))))
        names = [*shape.columns, *shape.links, *shape.links, *(["tenant"] if self.chance(0.3) else [])]
        changes = {}
        for name in self.random.sample(names, self.random.choice((1, 1, 2))):
            if name == "tenant":
                changes[name] = self.tenant(shape)
            elif name in shape.links:
                changes[name] = self.link(view, shape, view[table][chosen[0]]["tenant"], absent=0.3)
            else:
                changes[name] = self.value(view, shape.columns[name])
        return self.update_rows(table, chosen, changes)

    def update_rows(self, table: str, keys: Sequence[Key], changes: Row) -> Write:
        assignments = ", ".join(f"{name} = {self.sql(table, name, value)}" for name, value in changes.items())
        ids = sorted(key[0] for key in keys)
        where = f"id = {ids[0]}" if len(ids) == 1 else f"id IN ({', '.join(map(str, ids))})"
        text = f"UPDATE {table} SET {assignments} WHERE {where} RETURNING id"  # noqa: S608  ours
        return Write("update", text, table, keys=[(n,) for n in ids], changes=dict(changes))

    def delete(self, view: Content, table: str, key: Key | None = None) -> Write:
        key = key or self.random.choice(list(view[table]) or [(NOBODY,)])
        text = f"DELETE FROM {table} WHERE id = {key[0]} RETURNING id"  # noqa: S608  ours
        return Write("delete", text, table, keys=[key])

    # --- Values

    def new_rows(self, view: Content, table: str) -> list[Row]:
        taken = {key[0] for key in view[table]}
        ids = [n for n in (MASTER_IDS if table == "flow" else IDS) if n not in taken]
        count = min(len(ids), self.random.choice((1, 1, 2, 3)))
        return [self.row(view, self.shapes[table], n) for n in self.random.sample(ids, count)]

    def row(self, view: Content, shape: Shape, number: int) -> Row:
        if shape.table == "flow":
            alias = self.random.choice((*ALIASES, None))
            return {"id": number, "tenant": 2 if number == 9 else 1, "alias": alias}
        row: Row = {"id": number, "tenant": self.tenant(shape)}
        row["flow"] = self.link(view, shape, row["tenant"], absent=0.9 if shape.table == "asset" else 0.55)
        for name, kind in shape.columns.items():
            row[name] = self.value(view, kind)
        return row

    def tenant(self, shape: Shape) -> int | None:
        if shape.null_tenants and self.chance(0.12):
            return None
        return 2 if self.chance(0.12) else 1

    def link(self, view: Content, shape: Shape, tenant: int | None, *, absent: float) -> int | None:
        if self.chance(absent):
            return None
        masters: list[dict[str, int | None]] = list(view["flow"].values())
        guarded = self.guards[shape.table].guarded
        if self.chance(0.05 if guarded else 0.4):
            return self.random.choice([NOBODY, *ALIASES, *[m["id"] for m in masters]])
        same = [m["id"] for m in masters if tenant in (None, m["tenant"])]
        return self.random.choice(same or [None])

    def value(self, view: Content, kind: object) -> Any:  # noqa: ANN401  of the column's type
        if isinstance(kind, Times):
            return None if self.chance(0.05) else math.inf if self.chance(0.03) else self.random.choice(TIMES)
        if isinstance(kind, Refers):
            if self.chance(0.4):
                return None
            loose = [NOBODY] if kind.loose and self.chance(0.1) else []
            return self.random.choice(loose or [row[kind.column] for row in view[kind.table].values()] or [None])
        assert isinstance(kind, Choice)
        return self.random.choice(kind.values)

    def sql(self, table: str, name: str, value: Any) -> str:  # noqa: ANN401  of the column's type
        is_time = isinstance(self.shapes[table].columns.get(name), Times)
        return literal(as_timestamp(value) if is_time else value)
