"""What raw rows say of themselves: kinds of wrong rows, by DESIGN 2 and 3, in plain Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from engine.oracle import Key, Link, Oracle, Reference, Row, same_as_far_as_known
from histories.model import Content, Guard
from histories.worlds import Setting
from repair.judge import Judge


def kind_of(link: Link, row: Row, content: Content) -> str:
    """Say what the row is: linked, unlinked, dangling, mismatched or tenantless."""
    value = row[link.column]
    if value is None:
        return "unlinked"
    masters = [m for m in content[link.master.table].values() if m[link.master.key] == value]
    if not masters:
        return "dangling"
    if not any(same_as_far_as_known(m, link.master.tenants, row, link.tenants) for m in masters):
        return "mismatched"
    if disagrees(link, row, content):
        return "mismatched"
    return "tenantless" if row["tenant"] is None else "linked"


def references(link: Link, row: Row, content: Content) -> Iterator[tuple[Reference, Row]]:
    """Give the rows that the row must agree with."""
    for rule in link.rules:
        if isinstance(rule, Reference) and rule.agree and row[rule.via] is not None:
            for source in content[rule.source].values():
                if source[rule.source_key] == row[rule.via]:
                    yield rule, source


def disagrees(link: Link, row: Row, content: Content) -> bool:
    """Say whether a row has another link than one that it refers to."""
    return any(source[rule.source_link] != row[link.column] for rule, source in references(link, row, content))


def count_kinds(setting: Setting, content: Content) -> dict[str, Counter[str]]:
    """Count the rows of each link by kind."""
    return {
        link.table: Counter(kind_of(link, row, content) for row in content[link.table].values())
        for link in setting.world.links
    }


def violations(setting: Setting, content: Content) -> dict[tuple[str, int], str]:
    """Give what flowguard.violation must list: table and key of each row that is not linked, and its kind."""
    found = {}
    oracle = Oracle(setting.world.tables, setting.world.links)
    oracle.rows = content
    judge = Judge(oracle, setting.policy, ("alias",), tenants_known=setting.tenants_known)
    for link in setting.world.links:
        for key, row in content[link.table].items():
            kind = kind_of(link, row, content)
            nothing = oracle.lookup(link, row, ask_session=False) is None
            if kind == "unlinked" and nothing and judge.is_ambiguous(link, row):
                kind = "ambiguous"
            if kind == "dangling" and len(judge.hits(link, row)) > 1:
                kind = "ambiguous"
            if kind != "linked":
                found[link.table, key[0]] = kind
    return found


def misses_its_reference(link: Link, row: Row, content: Content) -> bool:
    """Say whether a row lacks the link of its reference, or carries another, though late linking could have seen to it.

    It could where the two are of one tenant as far as known and the link is a master of the row's tenant.
    """
    return any(
        same_as_far_as_known(source, rule.tenants, row, link.tenants)
        and source[rule.source_link] != row[link.column]
        and (source[rule.source_link] is None or is_master_for(link, source[rule.source_link], row, content))
        for rule, source in references(link, row, content)
    )


def is_master_for(link: Link, value: Any, row: Row, content: Content) -> bool:  # noqa: ANN401  a key
    """Say whether the key is that of a master of the row's tenant, as far as that is known."""
    masters = content[link.master.table].values()
    return any(
        m[link.master.key] == value and same_as_far_as_known(m, link.master.tenants, row, link.tenants) for m in masters
    )


def incomplete(guard: Guard, row: Row, link: Link) -> str | None:
    """Say what enforcement refuses of a row that is written: no link, or a link and no tenant."""
    if guard.enforces and row[link.column] is None:
        return "unlinked"
    if guard.enforces and row["tenant"] is None:
        return "tenantless"
    return None


def changed(before: Content, after: Content) -> Iterator[tuple[str, Key, Row | None, Row | None]]:
    """Give the rows that differ: table, key, the row before and after (None: it is not there)."""
    for table in before:
        for key in before[table].keys() | after[table].keys():
            old, new = before[table].get(key), after[table].get(key)
            if old != new:
                yield table, key, old, new
