"""The oracle of the engine's tests for a database in which guards come and go.

Links may be unguarded (no triggers, no keys), paused (triggers do nothing, keys hold) or guarded, rows may have been
wrong before, and a transaction may be bypassed. What is refused at commit is then a matter of what the transaction
touched: triggers and keys look at rows that are written, not at rows that were wrong all along.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

from engine.oracle import Key, Link, Oracle, Proximity, Reference, Row, same_for_certain
from histories.worlds import Setting

Content = dict[str, dict[Key, Row]]
EVERY = frozenset({"*"})


@dataclass(frozen=True)
class Guard:
    """What the registry says of a link."""

    mode: str = "observe"
    guarded: bool = True
    paused: bool = False

    @property
    def works(self) -> bool:
        """Whether the triggers of the link do something."""
        return self.guarded and not self.paused

    @property
    def enforces(self) -> bool:
        """Whether the mode counts."""
        return self.guarded and self.mode == "enforce"


def has_link_key(setting: Setting, link: Link) -> bool:
    """Say whether there is a key on the link alone, beside the one on tenant and link."""
    return link.on_master_delete == "set null" or not setting.knows_tenants(link.table)


def breaches(setting: Setting, link: Link, guard: Guard, row: Row, content: Content) -> set[str]:
    """Say which foreign keys of a guarded link a row breaks: on tenant and link, on the link, on reference and link."""
    value = row[link.column]
    if value is None:
        return set()
    found = set()
    tenants = {m["tenant"] for m in content[link.master.table].values() if m[link.master.key] == value}
    if row["tenant"] is not None and row["tenant"] not in tenants:
        found.add("tenant key")
    if not tenants and has_link_key(setting, link):
        found.add("link key")
    if guard.mode == "enforce":
        for rule in link.rules:
            if isinstance(rule, Reference) and rule.agree and row[rule.via] is not None:
                sources = content[rule.source].values()
                if not any(
                    s[rule.source_key] == row[rule.via]
                    and s[rule.source_link] == value
                    and (not setting.tenants_known or same_for_certain(s, rule.tenants, row, link.tenants))
                    for s in sources
                ):
                    found.add("agree key")
    return found


class Model(Oracle):
    """Predicts what one transaction at a time leaves, whatever is guarded."""

    def __init__(self, setting: Setting, content: Content, guards: Mapping[str, Guard]) -> None:
        super().__init__(
            setting.world.tables,
            [replace(link, enforce=guards[link.table].enforces) for link in setting.world.links],
        )
        self.setting = setting
        self.guards = dict(guards)
        self.rows = deepcopy(content)
        self.committed = deepcopy(content)
        self.bypassed = False
        self.came: dict[tuple[str, Key], Key] = {}
        """Rows whose key was changed, by the one that they have now: the one that they had when it began."""
        self.left: dict[str, set[Key]] = defaultdict(set)
        """By kind of key, what rows pointed to and was taken away from under them."""
        self.touched: dict[tuple[str, Key], set[str]] = defaultdict(set)
        self.asked: set[tuple[str, Key]] = set()

    def has_triggers(self, link: Link) -> bool:
        return self.guards[link.table].works

    def has_keys(self, link: Link) -> bool:
        return self.guards[link.table].guarded

    def has_link_key(self, link: Link) -> bool:
        return has_link_key(self.setting, link)

    def insert(self, table: str, rows: Sequence[Row]) -> None:
        for row in rows:
            self.touched[table, self.key(table, row)] |= EVERY
        super().insert(table, rows)

    def write(self, table: str, old: Row, changes: Row) -> Row:
        new = super().write(table, old, changes)
        was, now = (table, self.key(table, old)), (table, self.key(table, new))
        # PostgreSQL looks at all keys of a row version that the transaction itself made.
        again = EVERY if was in self.touched else set()
        if was != now:
            del self.rows[table][was[1]]
            self.came[now] = self.came.pop(was, was[1])
            self.touched[now] = self.touched.pop(was, set())
        self.touched[now] |= again | {name for name in new if new[name] != old[name]}
        if table == "flow":
            self.leave(old, new)
        return new

    def delete(self, table: str, key: Key) -> None:
        if table == "flow":
            self.leave(self.rows[table][key], None)
        super().delete(table, key)

    def leave(self, old: Row, new: Row | None) -> None:
        """Note what of a master is not there any more: of what points to it, keys look at all rows, however old."""
        if new is None or new["id"] != old["id"]:
            self.left["link key"].add((old["id"],))
        if new is None or (new["tenant"], new["id"]) != (old["tenant"], old["id"]):
            self.left["tenant key"].add((old["tenant"], old["id"]))

    def is_left(self, kind: str, link: Link, row: Row) -> bool:
        """Say whether a row points to a master that this transaction took away from it."""
        value = row[link.column]
        return ((row["tenant"], value) if kind == "tenant key" else (value,)) in self.left[kind]

    def after(self, table: str, events: Sequence[tuple[Row | None, Row]]) -> None:
        for link in self.links_of(table):
            for _, new in events:
                if new[link.column] is None or (link.enforce and new["tenant"] is None):
                    self.asked.add((table, self.key(table, new)))
        super().after(table, events)

    def concerns(self, link: Link, rule: Reference | Proximity, source: Row, row: Row) -> bool:  # type: ignore[override]
        """In enforce, a row that does not know its tenant is left: with a link it would be refused at commit."""
        return super().concerns(link, rule, source, row) and not (link.enforce and row["tenant"] is None)

    def follow(self, link: Link, rule: Reference | Proximity, old: Row | None, new: Row) -> None:
        """Where a reference comes first, its link is written as it is, and keys refuse at commit what is no master.

        Only a source that may not know its own tenant is not believed: rows of which its link is no master stay.
        """
        if not isinstance(rule, Reference) or not self.is_first(link, rule):
            super().follow(link, rule, old, new)
            return
        before, value = None if old is None else old[rule.source_link], new[rule.source_link]
        believed = self.setting.knows_tenants(rule.source)
        moved = [
            (row, self.write(link.table, row, {link.column: value}))
            for row in list(self.rows[link.table].values())
            if self.concerns(link, rule, new, row)
            and (row[link.column] is None or row[link.column] == before)
            and row[link.column] != value
            and (believed or value is None or self.is_master_of(link, value, row))
        ]
        if moved:
            self.after(link.table, moved)

    def look_again(self, link: Link, key: Key) -> None:
        if not self.bypassed:
            super().look_again(link, key)

    def forbidden(self) -> Iterator[str]:
        """Name what keys and triggers refuse of what was written."""
        for link in self.links:
            guard = self.guards[link.table]
            for key, row in self.rows[link.table].items() if guard.guarded else ():
                yield from self.broken(link, guard, key, row)
                if self.bypassed or guard.paused or not link.enforce or (link.table, key) not in self.asked:
                    continue
                if row[link.column] is None:
                    yield "unlinked"
                elif row["tenant"] is None:
                    yield "tenantless"

    def broken(self, link: Link, guard: Guard, key: Key, row: Row) -> Iterator[str]:
        """Name the keys that a row breaks and that look at it: its columns were written, or it kept to them before."""
        before = self.committed[link.table].get(self.came.get((link.table, key), key))
        old = set() if before is None else breaches(self.setting, link, guard, before, self.committed)
        for kind in breaches(self.setting, link, guard, row, self.rows):
            columns = EVERY | {link.column}
            if kind == "tenant key" or (kind == "agree key" and self.setting.tenants_known):
                columns |= {"tenant"}
            if kind == "agree key":
                columns |= {rule.via for rule in link.rules if isinstance(rule, Reference) and rule.agree}
            if kind not in old or self.touched[link.table, key] & columns or self.is_left(kind, link, row):
                yield kind
