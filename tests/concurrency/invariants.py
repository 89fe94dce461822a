"""What DESIGN 3 says of whatever is committed in the small application, worked out row by row in plain Python.

Nothing here asks the engine what it makes of a row, but for one thing: whether flowguard.violation lists it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from concurrency.stage import READ_COMMITTED, Stage, Steps, Tale
from engine.postgres import Connection, one, rows
from psycopg import IsolationLevel

SNAPSHOT_RACES = frozenset({"40001", "23503"})
"""How a race may end at REPEATABLE READ and SERIALIZABLE: another one came first, or what is referred to is gone."""

LOST_RACES = frozenset({"40001", "40P01"})

STATE = """
SELECT 'flow' AS of, id, tenant, NULL::int AS link, NULL::int AS refers, NULL::timestamptz AS at FROM flow
UNION ALL SELECT 'parent', id, tenant, flow, NULL, NULL FROM parent
UNION ALL SELECT 'child', id, tenant, flow, parent, NULL FROM child
UNION ALL SELECT 'grandchild', id, tenant, flow, child, NULL FROM grandchild
UNION ALL SELECT 'event', id, tenant, flow, NULL, at FROM event WHERE status <> 'deleted'
UNION ALL SELECT 'probe', id, tenant, flow, NULL, at FROM probe
"""
PARENTS = {"child": "parent", "grandchild": "child"}
WINDOW = timedelta(hours=1)


class Row(NamedTuple):
    """A row of any table: its tenant, its link, the row that it refers to, its time."""

    tenant: int | None
    link: int | None
    refers: int | None
    at: datetime | None


class State:
    """What is committed, and what is wrong with it."""

    def __init__(self, app: Connection) -> None:
        self.tables: dict[str, dict[int, Row]] = defaultdict(dict)
        for table, key, *values in rows(app, STATE):
            self.tables[table][key] = Row(*values)

    def parent(self, table: str, row: Row) -> Row | None:
        """Give the row that a row must agree with."""
        return None if row.refers is None else self.tables[PARENTS[table]][row.refers]

    def kind(self, table: str, row: Row) -> str:
        """Say what a row is, in the words of docs/concepts.md."""
        if row.link is None:
            return "unlinked"
        if row.link not in self.tables["flow"]:
            return "dangling"
        parent = self.parent(table, row)
        is_foreign = row.tenant is not None and row.tenant != self.tables["flow"][row.link].tenant
        if is_foreign or (parent is not None and parent.link != row.link):
            return "mismatched"
        return "linked" if row.tenant is not None else "tenantless"

    def kinds(self) -> dict[tuple[str, int], str]:
        """Give what every row but the masters is."""
        return {
            (table, key): self.kind(table, row)
            for table, found in self.tables.items()
            if table != "flow"
            for key, row in found.items()
        }

    def foreign(self) -> set[tuple[str, int]]:
        """Rows whose master is of another tenant."""
        return {
            (table, key)
            for table, found in self.tables.items()
            if table != "flow"
            for key, row in found.items()
            if None not in (row.link, row.tenant) and row.tenant != self.tables["flow"][row.link or 0].tenant
        }

    def behind(self) -> set[tuple[str, int]]:
        """Rows that have not got the link that they should have by now: their parent's, or that of a source in time."""
        found = {
            (table, key)
            for table in PARENTS
            for key, row in self.tables[table].items()
            if row.refers is not None and self.tables[PARENTS[table]][row.refers].link != row.link
        }
        for key, row in self.tables["probe"].items():
            if row.link is None and any(self.is_source(event, row) for event in self.tables["event"].values()):
                found.add(("probe", key))
        return found

    @staticmethod
    def is_source(event: Row, probe: Row) -> bool:
        """Say whether an event may give a probe its link."""
        if event.link is None or event.tenant != probe.tenant or event.at is None or probe.at is None:
            return False
        return abs(event.at - probe.at) <= WINDOW


def hold(stage: Stage, tale: Tale, *, may_be_behind: bool = False) -> None:
    """Check DESIGN 3 on what is committed.

    `may_be_behind`: where the contract lets a row miss the link that another session was setting at that time, if only
    it is listed.
    """
    state = State(stage.app)
    kinds = state.kinds()
    wrong = {row: kind for row, kind in kinds.items() if kind != "linked"}
    assert "dangling" not in kinds.values(), f"rule 1: {wrong}{tale}"
    assert not state.foreign(), f"rule 2: {state.foreign()}{tale}"
    if stage.mode == "enforce":
        assert not wrong, f"rules 3 and 4: {wrong}{tale}"
    if not may_be_behind:
        assert not state.behind(), f"rule 3: {state.behind()}{tale}"
    is_listed(stage, state, tale)


def is_listed(stage: Stage, state: State, tale: Tale) -> dict[tuple[str, int], str]:
    """Check that what is wrong is listed, and nothing else is; gives what is wrong.

    The list is computed from tables and registry: where these were the same before, so was it.
    """
    wrong = {row: kind for row, kind in state.kinds().items() if kind != "linked"}
    if wrong:
        of = (state.tables, rows(stage.app, "SELECT stem, mode, guarded, paused FROM flowguard.link ORDER BY stem"))
        if of not in stage.seen:
            assert listed(stage.app) == wrong, f"rule 4{tale}"
            stage.seen.append(of)
    return wrong


def listed(app: Connection) -> dict[tuple[str, int], str]:
    """Give the rows that flowguard.violation lists, and as what."""
    query = "SELECT relation::text, (row_key ->> 'id')::int, kind FROM flowguard.violation"
    return {(table, key): kind for table, key, kind in rows(app, query)}


LEDGER = """
SELECT r.run_id
  FROM flowguard.run r
  LEFT JOIN LATERAL (
    SELECT count(*) FILTER (WHERE c.kind = 'linked') AS linked, count(*) FILTER (WHERE c.kind = 'followed') AS followed,
           count(DISTINCT (c.table_name, c.row_key)) AS written,
           count(DISTINCT (c.table_name, c.row_key)) FILTER (WHERE c.undone IS NULL) AS open
      FROM flowguard.run_change c WHERE c.run_id = r.run_id) AS c ON true
  LEFT JOIN LATERAL (
    SELECT count(*) FILTER (WHERE q.link_column IS NOT NULL) AS taken, count(*) AS kept,
           count(*) FILTER (WHERE q.restored_at IS NULL) AS open
      FROM flowguard.quarantined_row q WHERE q.run_id = r.run_id) AS q ON true
 WHERE NOT CASE r.status
             WHEN 'finished' THEN (r.linked, r.followed, r.quarantined) = (c.linked, c.followed, q.taken)
                                  AND r.finished_at IS NOT NULL
             WHEN 'undone' THEN c.open + q.open = 0 AND r.restored + r.skipped = c.written + q.kept
             WHEN 'stopped' THEN r.finished_at IS NULL
             ELSE false
           END
"""
"""Runs whose counts are not what is written down of them, or that have no end."""


def ledger_is_sane(app: Connection, tale: Tale) -> None:
    """Check that runs say what they did, and that no mark of a repair or an undo is left."""
    assert rows(app, LEDGER) == [], f"the ledger{tale}"
    assert one(app, "SELECT count(*) FROM flowguard.privileged_transaction WHERE kind <> 'bypass'") == 0, tale


def proved(
    stage: Stage,
    level: IsolationLevel = READ_COMMITTED,
    *,
    setup: str | Callable[[Connection], object] = "",
    refusals: Collection[str] = (),
    may_be_behind: bool = False,
    most: int = 200,
    **parts: Steps,
) -> Iterator[Tale]:
    """Play every order, and check of each that nothing but what may be refused is, and that the invariants hold.

    `refusals`: SQLSTATEs that may come at every level. At a level with one snapshot those of a lost race may come too.
    """
    allowed = set(refusals) | (set() if level == READ_COMMITTED else SNAPSHOT_RACES)
    for tale in stage.every_order(level, setup=setup, most=most, **parts):
        assert set(tale.refusals.values()) <= allowed, f"{tale.refusals}{tale}"
        assert set(tale.ends) == set(parts), tale
        assert not set(tale.ends.values()) <= LOST_RACES, f"nobody won{tale}"
        hold(stage, tale, may_be_behind=may_be_behind)
        yield tale
