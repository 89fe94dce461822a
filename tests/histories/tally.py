"""What the histories of a run did: actions by kind, counted where they were carried out, not where they were drawn.

A write counts once its transaction is committed; a call of ours that found nothing to do is of a kind of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.oracle import Key, Row
from histories.draw import Write

LEAST = {
    **{f"insert {table}": 10 for table in ("flow", "import", "record", "event", "asset")},
    "insert event without tenant": 1,
    "delete flow": 10,
    "delete event": 30,
    "delete record": 5,
    "delete import": 1,
    **{f"update flow.{column}": 5 for column in ("id", "tenant", "alias")},
    "update event.id": 3,
    "update event.at": 3,
    "update event.status": 1,
    "update event.tenant": 1,
    "update record.import": 6,
    "update asset.record": 6,
    "update asset.event": 6,
    "update asset.at": 7,
    "link late": 10,
    "re-link": 15,
    "un-link": 7,
    "session": 20,
    "bypass": 1,
    "roll back": 10,
    "wait": 10,
    "guard": 4,
    "unguard": 4,
    "pause": 6,
    "resume": 5,
    "enforce": 2,
    "observe": 1,
    "repair": 3,
    "undo": 1,
    "commit beside others": 35,
    "commit refused: 23503": 15,
    "commit refused: FG001": 1,
    "enforce refused: FG113": 3,
}
"""How often each kind must be carried out in 100 histories or more: an eighth of what is seen, or less."""
ENOUGH = 100
"""Of fewer histories nothing is asked: what a handful does is chance."""


@dataclass
class Tally:
    """How many histories were asked for, and how often each kind of action was carried out in all of them."""

    histories: int = 0
    done: Counter[str] = field(default_factory=Counter)

    def lacking(self) -> list[str]:
        """Name the kinds that were carried out too seldom, each with how often; of too few histories none."""
        if self.histories < ENOUGH:
            return []
        return [f"{kind}: {self.done[kind]}, not {n}" for kind, n in LEAST.items() if self.done[kind] < n]


def kinds_of(write: Write, before: dict[Key, Row]) -> Iterator[str]:
    """Name what a write does to the rows of its table, as far as the transaction saw them before."""
    if write.kind == "insert":
        yield f"insert {write.table}"
        if any(row["tenant"] is None for row in write.rows):
            yield f"insert {write.table} without tenant"
    elif write.kind == "delete" and write.met:
        yield f"delete {write.table}"
    elif write.kind == "update":
        olds = [before[key] for key in write.keys if key in before]
        for name, value in write.changes.items() if write.met else ():
            if any(old[name] != value for old in olds):
                yield f"update {write.table}.{name}"
        if "flow" in write.changes and write.met:
            yield from {moved for old in olds if (moved := how_moved(old["flow"], write.changes["flow"]))}
    elif write.kind in {"session", "bypass"}:
        yield write.kind


def how_moved(old: int | None, new: int | None) -> str:
    """Say what becomes of a link that is set; nothing where it is the same."""
    if old == new:
        return ""
    return "link late" if old is None else "un-link" if new is None else "re-link"
