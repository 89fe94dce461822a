"""What DESIGN 5 says that repair makes of rows that were there before any guard, worked out in plain Python.

The rules themselves are asked of the oracle of the engine's tests; here is only what repair adds to them: alternate
keys, orphans, and what is done with those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from engine.oracle import (
    Key,
    Link,
    Oracle,
    Proximity,
    Reference,
    Row,
    Rule,
    Table,
    same_as_far_as_known,
    same_for_certain,
)

Policy: TypeAlias = Literal["quarantine", "unlink", "keep"]
Verdict: TypeAlias = Literal["linked", "translated", "unlinked", "quarantined", "remaining"]


@dataclass
class Counts:
    """What a run says that it did; `followed` rows are linked ones that late linking was faster with."""

    linked: int = 0
    translated: int = 0
    unlinked: int = 0
    quarantined: int = 0
    remaining: int = 0


@dataclass(frozen=True)
class Provenance:
    """By which rule a row was linked and, by time, how many microseconds away its source was, of how many candidates.

    Candidates are source rows in the window that have a link, whether or not its master is there.
    """

    rule: int
    kind: Literal["reference", "proximity"]
    distance: int | None = None
    candidates: int | None = None


@dataclass
class Judge:
    """Tables as they are before repair, and after it once `repair` was called."""

    oracle: Oracle
    policy: Policy
    alternates: Sequence[str]
    holders: Sequence[tuple[str, str, str, str]] = ()
    """Foreign keys that forbid a delete: (table, column, referenced table, referenced column)."""
    tenants_known: bool = False
    """Whether tenant columns are NOT NULL, so that the keys which prove agreement name them."""
    counts: Counts = field(default_factory=Counts)
    linked_by: dict[tuple[str, str, Key], Provenance] = field(default_factory=dict)
    """Of each row that a rule linked, by table, link and key, where its link is from."""

    @classmethod
    def of(cls, tables: Sequence[Table], links: Sequence[Link], **options: Any) -> Judge:  # noqa: ANN401  see the fields
        return cls(Oracle(tables, links), **options)

    def repair(self) -> Counts:
        """Judge all rows, links in order, sources first; again, as long as a row that went frees others."""
        taken = -1
        while taken != self.counts.quarantined:
            taken = self.counts.quarantined
            for link in self.oracle.links:
                verdicts = [(key, *self.judge(link, row)) for key, row in self.rows(link.table).items()]
                for key, verdict, found in verdicts:
                    self.carry_out(link, key, verdict, found)
        return self.counts

    def repair_some(self, link: Link, is_meant: Callable[[Row], bool]) -> Counts:
        """Judge some rows of one link only."""
        taken = -1
        while taken != self.counts.quarantined:
            taken = self.counts.quarantined
            there = self.rows(link.table)
            verdicts = [(key, *self.judge(link, row)) for key, row in there.items() if is_meant(row)]
            for key, verdict, found in verdicts:
                self.carry_out(link, key, verdict, found)
        return self.counts

    def judge(self, link: Link, row: Row) -> tuple[Verdict | None, Any]:
        """Say what becomes of one row (None: it is well, or is not repair's business), and its link."""
        value = row[link.column]
        if value is not None and any(True for _ in self.masters(link, value, row)):
            return None, value
        known = all(row[column] is not None for column in link.tenants if column is not None)
        hits = [] if value is None else self.hits(link, row)
        agreed = self.agreed(link, row)
        found = self.oracle.lookup(link, row, ask_session=False)
        if len(hits) > 1:
            return "remaining", value
        if len(hits) == 1 and (agreed is None or agreed == hits[0]):
            verdict, found = "translated", hits[0]
        elif found is not None:
            verdict = "linked"
        else:
            return self.unmendable(link, row)
        if link.enforce and (not known or self.disagrees(link, row, found) or self.holds_back(link, row, found)):
            return "remaining", value  # whatever is written would be refused at commit
        if verdict == "linked":
            key = self.oracle.key(link.table, row)
            self.linked_by[link.table, link.column, key] = self.provenance(link, row)
        return ("linked" if verdict == "linked" else "translated"), found

    def unmendable(self, link: Link, row: Row) -> tuple[Verdict, Any]:
        value = row[link.column]
        if value is None or self.is_ambiguous(link, row):
            return "remaining", value
        if self.waits(link, row):
            # No orphan. Without its link it follows the reference as soon as that has one.
            may_unlink = not link.enforce and self.policy != "keep"
            return ("unlinked", None) if may_unlink else ("remaining", value)
        if self.policy == "quarantine":
            return "quarantined", None
        if self.policy == "unlink" and not link.enforce:
            return "unlinked", None
        return "remaining", value

    def carry_out(self, link: Link, key: Key, verdict: Verdict | None, found: Any) -> None:  # noqa: ANN401  a key
        row = self.rows(link.table).get(key)
        if verdict is None or row is None:
            return
        if verdict == "quarantined":
            if self.is_held(link.table, row):
                self.counts.remaining += 1
            else:
                self.oracle.delete(link.table, key)
                self.counts.quarantined += 1
            return
        row[link.column] = found
        setattr(self.counts, verdict, getattr(self.counts, verdict) + 1)
        if verdict == "unlinked":
            self.counts.remaining += 1

    # --- Where links are from

    def provenance(self, link: Link, row: Row) -> Provenance:
        """Say by which rule a row is linked that a rule links."""
        for position, rule in enumerate(link.rules, 1):
            if isinstance(rule, Reference) and self.oracle.by_reference(link, rule, row) is not None:
                return Provenance(position, "reference")
            if isinstance(rule, Proximity) and self.oracle.by_proximity(link, rule, row)[0] is not None:
                near = [away for away, _ in self.sources(link, rule, row) if away <= rule.within]
                valid = [away for away, has_master in self.sources(link, rule, row) if has_master]
                return Provenance(position, "proximity", min(valid), len(near))
        raise AssertionError("no rule links it")

    def sources(self, link: Link, rule: Proximity, row: Row) -> Iterator[tuple[int, bool]]:
        """Give for each source row of the row's tenant that has a link how far it is, and whether its master is there.

        However far that is.
        """
        at = row[rule.time]
        if at is None or math.isinf(at):
            return
        for source in self.rows(rule.source).values():
            time = source[rule.source_time]
            if (
                source[rule.source_link] is not None
                and time is not None
                and not math.isinf(time)
                and rule.keep(source)
                and same_for_certain(source, rule.tenants, row, link.tenants)
            ):
                masters = self.oracle.masters(link, source[rule.source_link])
                has_master = any(same_for_certain(m, link.master.tenants, row, link.tenants) for m in masters)
                yield abs(time - at), has_master

    def outside(self, link: Link, position: int, is_meant: Callable[[Row], bool] = lambda _: True) -> list[int]:
        """Give how far the nearest source is of wrong rows that come to a rule by time, where it is not in its window.

        Up to four windows.
        """
        rule = link.rules[position - 1]
        assert isinstance(rule, Proximity)
        found = []
        for row in self.rows(link.table).values():
            value = row[link.column]
            if (value is not None and self.masters(link, value, row)) or not is_meant(row):
                continue
            if any(self.is_kept_from_later(link, earlier, row) for earlier in link.rules[: position - 1]):
                continue
            nearest = min((away for away, has_master in self.sources(link, rule, row) if has_master), default=None)
            if nearest is not None and rule.within < nearest <= 4 * rule.within:
                found.append(nearest)
        return sorted(found)

    def is_kept_from_later(self, link: Link, rule: Rule, row: Row) -> bool:
        """Say whether a rule has the last word about a row that is wrong."""
        if isinstance(rule, Reference):
            return rule.agree and row[rule.via] is not None
        if isinstance(rule, Proximity) and rule.leave:
            return self.oracle.by_proximity(link, rule, row) != (None, False)
        return False

    # --- Small steps

    def rows(self, table: str) -> dict[Key, Row]:
        return self.oracle.rows[table]

    def masters(self, link: Link, value: object, row: Row) -> list[Row]:
        """Give the masters that the value names; a key that is unique within its tenant names only one of that."""
        by_tenant = "number" in link.master.key
        return [
            master
            for master in self.oracle.masters(link, value)
            if not by_tenant or same_as_far_as_known(master, link.master.tenants, row, link.tenants)
        ]

    def hits(self, link: Link, row: Row) -> list[Any]:
        """Give the keys of same-tenant masters of which the link is an alternate key."""
        return [
            master[link.master.key]
            for master in self.rows(link.master.table).values()
            if any(master[column] == row[link.column] for column in self.alternates)
            and same_as_far_as_known(master, link.master.tenants, row, link.tenants)
        ]

    def agreed(self, link: Link, row: Row) -> Any:  # noqa: ANN401  a key
        for rule in link.rules:
            if isinstance(rule, Reference) and rule.agree and row[rule.via] is not None:
                return self.oracle.by_reference(link, rule, row)
        return None

    def disagrees(self, link: Link, row: Row, value: object) -> bool:
        """Say whether a key of ours would refuse the value at commit; it names tenants where they are NOT NULL."""
        return any(
            isinstance(rule, Reference)
            and rule.agree
            and row[rule.via] is not None
            and not any(
                source[rule.source_key] == row[rule.via]
                and source[rule.source_link] == value
                and (not self.tenants_known or same_for_certain(source, rule.tenants, row, link.tenants))
                for source in self.rows(rule.source).values()
            )
            for rule in link.rules
        )

    def holds_back(self, link: Link, row: Row, value: object) -> bool:
        """Say whether a row that agrees with this one on its old link could not follow, so that its key forbids it."""
        for other in self.oracle.links:
            for rule in other.rules:
                if not isinstance(rule, Reference) or not rule.agree or rule.source != link.table:
                    continue
                for child in self.rows(other.table).values():
                    if row[link.column] is None or child[other.column] != row[link.column]:
                        continue
                    if child[rule.via] != row[rule.source_key]:
                        continue
                    same = same_for_certain(row, rule.tenants, child, other.tenants)
                    if not same and self.tenants_known:
                        continue  # the key names the tenant: this row does not refer to that one
                    follows = (
                        all(child[column] is not None for column in other.tenants if column is not None)
                        and same_as_far_as_known(row, rule.tenants, child, other.tenants)
                        and self.oracle.is_master_of(other, value, child)
                    )
                    if not follows or self.holds_back(other, child, value):
                        return True
        return False

    def waits(self, link: Link, row: Row) -> bool:
        """Say whether an agreeing reference of the row has no link yet."""
        return any(
            isinstance(rule, Reference)
            and rule.agree
            and any(
                source[rule.source_key] == row[rule.via]
                and source[rule.source_link] is None
                and same_as_far_as_known(source, rule.tenants, row, link.tenants)
                for source in self.rows(rule.source).values()
            )
            for rule in link.rules
        )

    def is_ambiguous(self, link: Link, row: Row) -> bool:
        """Say whether a rule that leaves ambiguous rows alone is the one that stops the search."""
        for rule in link.rules:
            if isinstance(rule, Reference) and rule.agree and row[rule.via] is not None:
                return False
            if isinstance(rule, Proximity) and self.oracle.by_proximity(link, rule, row)[1]:
                return True
        return False

    def is_held(self, table: str, row: Row) -> bool:
        return any(
            target == table and any(other[column] == row[key] for other in self.rows(holder).values())
            for holder, column, target, key in self.holders
        )

    def wrong(self) -> int:
        """Count the rows that are unlinked or dangling."""
        return sum(
            row[link.column] is None or not self.masters(link, row[link.column], row)
            for link in self.oracle.links
            for row in self.rows(link.table).values()
        )
