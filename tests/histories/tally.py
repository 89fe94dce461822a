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
    **{f"insert {table}": 20 for table in ("flow", "import", "record", "event", "asset")},
    "insert event without tenant": 2,
    "delete flow": 20,
    "delete event": 60,
    "delete record": 10,
    "delete import": 3,
    **{f"update flow.{column}": 10 for column in ("id", "tenant", "alias")},
    "update event.id": 6,
    "update event.at": 6,
    "update event.status": 2,
    "update event.tenant": 2,
    "update record.import": 12,
    "update asset.record": 12,
    "update asset.event": 12,
    "update asset.at": 15,
    "link late": 20,
    "re-link": 30,
    "un-link": 15,
    "session": 40,
    "bypass": 3,
    "roll back": 20,
    "wait": 20,
    "guard": 8,
    "unguard": 8,
    "pause": 12,
    "resume": 10,
    "enforce": 4,
    "observe": 1,
    "repair": 7,
    "undo": 3,
    "commit beside others": 70,
    "commit refused: 23503": 30,
    "commit refused: FG001": 1,
    "enforce refused: FG113": 6,
}
"""How often each kind must be carried out in 100 histories: a quarter, or less, of what is seen."""
ENOUGH = 100
"""Of fewer histories nothing is asked: what a handful does is chance."""


@dataclass
class Tally:
    """How many histories were asked for, and how often each kind of action was carried out in all of them."""

    histories: int = 0
    done: Counter[str] = field(default_factory=Counter)

    def lacking(self) -> list[str]:
        """Name the kinds that were carried out too seldom for so many histories, each with how often."""
        if self.histories < ENOUGH:
            return []
        least = {kind: count * self.histories // 100 for kind, count in LEAST.items()}
        return [f"{kind}: {self.done[kind]}, not {count}" for kind, count in least.items() if self.done[kind] < count]


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
