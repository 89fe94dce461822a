"""What DESIGN 3, rules 1 to 6, says that a link must be, worked out from plain rows in plain Python.

Nothing here knows SQL, a query plan or the generated code. An `Oracle` holds tables as dictionaries and is told of each
write in the order in which it happens, since the outcome depends on that order: a link once set is never moved by a
nearer source row that comes later. Times are whole microseconds, `math.inf`, `-math.inf` or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

Row: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[Any, ...]
Columns: TypeAlias = tuple[str | None, ...]
"""Tenant columns in the order of the master's; None where the table has none for one."""


@dataclass(frozen=True)
class Master:
    """The table that links point to, by `key`; `is_unique`: also where tenants are not looked at."""

    table: str
    key: str
    tenants: Columns
    is_unique: bool = True


@dataclass(frozen=True)
class Session:
    """The link is what the setting of the transaction says."""


@dataclass(frozen=True)
class Reference:
    """The link is that of the row of `source` whose `source_key` equals `via`."""

    via: str
    source: str
    source_key: str
    source_link: str
    tenants: Columns
    agree: bool = True


@dataclass(frozen=True)
class Proximity:
    """The link is that of the row of `source` nearest in time; `leave`: none where two masters lie in the window."""

    time: str
    source: str
    source_time: str
    source_link: str
    tenants: Columns
    within: int
    keep: Callable[[Row], bool] = lambda _: True
    filter_columns: tuple[str, ...] = ()
    leave: bool = False


Rule: TypeAlias = Session | Reference | Proximity


@dataclass(frozen=True)
class Link:
    """A column that must point to a master, and how a missing one is found."""

    table: str
    column: str
    master: Master
    tenants: Columns
    rules: tuple[Rule, ...]
    enforce: bool = False
    on_master_delete: Literal["refuse", "cascade", "set null"] = "refuse"

    @property
    def reads(self) -> set[str]:
        """Columns of the row whose change asks for a missing link again."""
        columns = {column for column in self.tenants if column is not None}
        for rule in self.rules:
            if isinstance(rule, Reference):
                columns.add(rule.via)
            elif isinstance(rule, Proximity):
                columns.add(rule.time)
        return columns


@dataclass(frozen=True)
class Table:
    """A table by its row key, and the foreign keys of the application that cascade to it: (via, source, key).

    `knows_tenants`: its tenant columns are NOT NULL.
    """

    name: str
    key: tuple[str, ...]
    cascades: tuple[tuple[str, str, str], ...] = ()
    knows_tenants: bool = True


def pairs(left: Row, left_columns: Columns, right: Row, right_columns: Columns) -> Iterable[tuple[Any, Any]]:
    for one, other in zip(left_columns, right_columns, strict=True):
        if one is not None and other is not None:
            yield left[one], right[other]


def same_as_far_as_known(left: Row, left_columns: Columns, right: Row, right_columns: Columns) -> bool:
    both = pairs(left, left_columns, right, right_columns)
    return all(one is None or other is None or one == other for one, other in both)


def same_for_certain(left: Row, left_columns: Columns, right: Row, right_columns: Columns) -> bool:
    both = pairs(left, left_columns, right, right_columns)
    return all(one is not None and one == other for one, other in both)


class Oracle:
    """The tables as they must be after the writes told so far."""

    def __init__(self, tables: Sequence[Table], links: Sequence[Link]) -> None:
        self.definitions = {table.name: table for table in tables}
        self.links = links
        self.rows: dict[str, dict[Key, Row]] = {table.name: {} for table in tables}
        self.committed = deepcopy(self.rows)
        self.session: Any = None
        self.pending: list[Callable[[], None]] = []

    # --- What the rules yield

    def masters(self, link: Link, key: object) -> Iterable[Row]:
        return (row for row in self.rows[link.master.table].values() if row[link.master.key] == key)

    def is_master_of(self, link: Link, key: object, row: Row) -> bool:
        """Say whether the key is that of a master of the row's tenant, as far as the row knows its tenant."""
        return any(
            same_as_far_as_known(master, link.master.tenants, row, link.tenants) for master in self.masters(link, key)
        )

    def lookup(self, link: Link, row: Row, *, ask_session: bool) -> Any:  # noqa: ANN401  a key of any type
        """Give what the first rule that yields a master says; None where a row waits, is left, or nothing is found."""
        for rule in link.rules:
            if isinstance(rule, Session):
                if ask_session and self.session is not None and self.is_master_of(link, self.session, row):
                    return self.session
            elif isinstance(rule, Reference):
                if row[rule.via] is None:
                    continue
                found = self.by_reference(link, rule, row)
                if found is not None or rule.agree:
                    return found
            else:
                found, stop = self.by_proximity(link, rule, row)
                if found is not None or stop:
                    return found
        return None

    def by_reference(self, link: Link, rule: Reference, row: Row) -> Any:  # noqa: ANN401  a key of any type
        for source in self.rows[rule.source].values():
            if (
                source[rule.source_key] == row[rule.via]
                and same_as_far_as_known(source, rule.tenants, row, link.tenants)
                and source[rule.source_link] is not None
                and self.is_master_of(link, source[rule.source_link], row)
            ):
                return source[rule.source_link]
        return None

    def by_proximity(self, link: Link, rule: Proximity, row: Row) -> tuple[Any, bool]:
        at = row[rule.time]
        if at is None or math.isinf(at):
            return None, False
        near = []
        for key, source in self.rows[rule.source].items():
            time = source[rule.source_time]
            if (
                source[rule.source_link] is not None
                and time is not None
                and abs(time - at) <= rule.within
                and rule.keep(source)
                and same_for_certain(source, rule.tenants, row, link.tenants)
                and any(
                    same_for_certain(master, link.master.tenants, row, link.tenants)
                    for master in self.masters(link, source[rule.source_link])
                )
            ):
                near.append((abs(time - at), time, key, source[rule.source_link]))
        if rule.leave and len({master for *_, master in near}) > 1:
            return None, True
        return (min(near)[-1], False) if near else (None, False)

    # --- Writes, in the order in which they happen

    def insert(self, table: str, rows: Sequence[Row]) -> None:
        """One INSERT of several rows: each is filled when it is written, and links follow when all are there."""
        written = []
        for given in rows:
            row = dict(given)
            for link in self.links_of(table):
                if row[link.column] is None:
                    row[link.column] = self.lookup(link, row, ask_session=True)
            self.rows[table][self.key(table, row)] = row
            written.append(row)
        self.after(table, [(None, row) for row in written])

    def update(self, table: str, key: Key, changes: Row) -> None:
        """One UPDATE of one row."""
        self.update_rows(table, [key], changes)

    def update_rows(self, table: str, keys: Sequence[Key], changes: Row) -> None:
        """One UPDATE of several rows: links follow when all are written."""
        olds = [self.rows[table][key] for key in keys]
        self.after(table, [(old, self.write(table, old, changes)) for old in olds])

    def delete(self, table: str, key: Key) -> None:
        """One DELETE of one row; what hangs on it goes with it or loses its link, as declared."""
        gone = self.rows[table].pop(key)
        for definition in self.definitions.values():
            for via, source, source_key in definition.cascades:
                if source == table:
                    self.delete_where(definition.name, via, gone[source_key])
        for link in self.links:
            if link.master.table == table and self.has_keys(link):
                linked = [
                    row
                    for row in self.rows[link.table].values()
                    if row[link.column] == gone[link.master.key] and self.refers(link, row, gone)
                ]
                if link.on_master_delete == "cascade":
                    for row in linked:
                        if self.key(link.table, row) in self.rows[link.table]:
                            self.delete(link.table, self.key(link.table, row))
                elif link.on_master_delete == "set null":
                    self.after(link.table, [(row, self.write(link.table, row, {link.column: None})) for row in linked])

    def commit(self) -> set[str]:
        """Try missing links once more, then say what forbids the commit: if anything does, nothing was written."""
        while self.pending:
            self.pending.pop(0)()
        forbidden = set(self.forbidden())
        if forbidden:
            self.rows = deepcopy(self.committed)
        else:
            self.committed = deepcopy(self.rows)
        self.session = None
        return forbidden

    def look_again(self, link: Link, key: Key) -> None:
        """Try the rules once more for a row that was written without a link."""
        row = self.rows[link.table].get(key)
        if row is not None and row[link.column] is None:
            found = self.lookup(link, row, ask_session=False)
            if found is not None:
                self.after(link.table, [(row, self.write(link.table, row, {link.column: found}))])

    def forbidden(self) -> Iterable[str]:
        """Name what rules 1 to 4 forbid of the rows as they are."""
        for link in self.links:
            for row in self.rows[link.table].values():
                value = row[link.column]
                known = all(row[column] is not None for column in link.tenants if column is not None)
                if value is None:
                    if link.enforce:
                        yield "unlinked"
                    continue
                masters = list(self.masters(link, value))
                if not masters:
                    yield "dangling"
                elif known:
                    if not any(same_for_certain(m, link.master.tenants, row, link.tenants) for m in masters):
                        yield "other tenant"
                elif link.enforce:
                    yield "tenantless"
                if link.enforce and any(self.disagrees(rule, row, value) for rule in link.rules):
                    yield "disagrees"

    def disagrees(self, rule: Rule, row: Row, value: object) -> bool:
        if not isinstance(rule, Reference) or not rule.agree or row[rule.via] is None:
            return False
        sources = self.rows[rule.source].values()
        return not any(s[rule.source_key] == row[rule.via] and s[rule.source_link] == value for s in sources)

    # --- Late linking

    def after(self, table: str, events: Sequence[tuple[Row | None, Row]]) -> None:
        """What one statement sets off when its rows are written: a second look at commit, and links that follow."""
        news = [
            (link, rule, old, new)
            for old, new in events
            for link in self.links
            if self.has_triggers(link)
            for rule in link.rules
            if not isinstance(rule, Session) and rule.source == table and self.is_news(rule, old, new)
        ]
        for _, new in events:
            for link in self.links_of(table):
                if new[link.column] is None:
                    self.pending.append(partial(self.look_again, link, self.key(table, new)))
            # A source may have got its link before that master was there: rows still unlinked look again at commit.
            for link, rule, _, source in news:
                if source is new and table != link.master.table and not self.is_first(link, rule):
                    self.pending.append(partial(self.follow, link, rule, None, new))
        for link, rule, old, new in news:
            self.follow(link, rule, old, new)

    @staticmethod
    def is_first(link: Link, rule: Rule) -> bool:
        """Say whether a reference has its say before all other rules: then its link is taken as it is."""
        others = [other for other in link.rules if not isinstance(other, Session)]
        return isinstance(rule, Reference) and others[0] is rule

    @staticmethod
    def is_news(rule: Reference | Proximity, old: Row | None, new: Row) -> bool:
        """Say whether a written source row may change the link of others."""
        if old is None:
            return new[rule.source_link] is not None
        watched = {column for column in rule.tenants if column is not None}
        if isinstance(rule, Proximity):
            watched |= {rule.source_time, *rule.filter_columns}
            return new[rule.source_link] is not None and any(
                old[column] != new[column] for column in watched | {rule.source_link}
            )
        watched.add(rule.source_key)
        return bool(old[rule.source_link] != new[rule.source_link]) or (
            new[rule.source_link] is not None and any(old[column] != new[column] for column in watched)
        )

    def follow(self, link: Link, rule: Reference | Proximity, old: Row | None, new: Row) -> None:
        """Let links follow a source row.

        One that may not know its own tenant is not believed: rows of which its link is no master stay as they are.
        """
        before = None if old is None else old[rule.source_link]
        is_believed = (
            new[rule.source_link] is None
            or not self.is_first(link, rule)
            or self.definitions[rule.source].knows_tenants
        )
        moved = []
        for row in list(self.rows[link.table].values()):
            if not self.concerns(link, rule, new, row):
                continue
            if row[link.column] is None or (
                isinstance(rule, Reference) and before is not None and row[link.column] == before
            ):
                found = self.lookup(link, row, ask_session=False)
                if found != row[link.column] and (found is not None or is_believed):
                    moved.append((row, self.write(link.table, row, {link.column: found})))
        if moved:
            self.after(link.table, moved)

    @staticmethod
    def concerns(link: Link, rule: Reference | Proximity, source: Row, row: Row) -> bool:
        if isinstance(rule, Reference):
            return bool(row[rule.via] == source[rule.source_key]) and same_as_far_as_known(
                source, rule.tenants, row, link.tenants
            )
        at, time = row[rule.time], source[rule.source_time]
        if at is None or time is None or math.isinf(at) or math.isinf(time):
            return False
        return abs(at - time) <= rule.within and same_for_certain(source, rule.tenants, row, link.tenants)

    # --- Small steps

    def write(self, table: str, old: Row, changes: Row) -> Row:
        """Give the row after an UPDATE: a link set to NULL is refilled, a moved row's link follows."""
        new = {**old, **changes}
        for link in self.links_of(table):
            changed = {column for column in link.reads if old[column] != new[column]}
            moved = any(
                isinstance(rule, Reference) and rule.agree and rule.via in changed and new[rule.via] is not None
                for rule in link.rules
            )
            if new[link.column] is None:
                if old[link.column] is not None or changed:
                    new[link.column] = self.lookup(link, new, ask_session=True)
            elif moved and new[link.column] == old[link.column]:
                new[link.column] = self.lookup(link, new, ask_session=False)
        self.rows[table][self.key(table, new)] = new
        return new

    def delete_where(self, table: str, column: str, value: object) -> None:
        for key in [key for key, row in self.rows[table].items() if row[column] == value]:
            if key in self.rows[table]:
                self.delete(table, key)

    def has_triggers(self, link: Link) -> bool:  # noqa: ARG002
        """Say whether missing links are filled and follow; here every link is guarded."""
        return True

    def refers(self, link: Link, row: Row, master: Row) -> bool:
        """Say whether a row with the key of a master is meant by a foreign key that acts when the master goes.

        A key on the link alone knows no tenants: it acts on a row of another one, too, that the commit would refuse.
        """
        return self.has_link_key(link) or same_as_far_as_known(master, link.master.tenants, row, link.tenants)

    def has_link_key(self, link: Link) -> bool:
        """Say whether there is a key on the link alone, beside the one on tenant and link."""
        wants = link.on_master_delete == "set null" or not self.definitions[link.table].knows_tenants
        return link.master.is_unique and wants

    def has_keys(self, link: Link) -> bool:  # noqa: ARG002
        """Say whether foreign keys prove the link; here every link is guarded."""
        return True

    def links_of(self, table: str) -> list[Link]:
        return [link for link in self.links if link.table == table and self.has_triggers(link)]

    def key(self, table: str, row: Row) -> Key:
        return tuple(row[column] for column in self.definitions[table].key)
