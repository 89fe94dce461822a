"""What must be true of a database after a crash, worked out in plain Python from what the writers were told.

Nothing is asked of the engine but what it says of itself: its ledger, its quarantine and its list of violations.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.postgres import Connection, one, rows, run
from faults.application import LINKS, TABLES, WINDOW, Facts, Fate, Row, Transaction

STATE = {
    "flow": "SELECT id, tenant, token, alias FROM flow",
    "import": "SELECT id, tenant, token, flow FROM import",
    "record": "SELECT id, tenant, token, flow, parent FROM record",
    "event": "SELECT id, tenant, token, flow, extract(epoch FROM at)::int FROM event",
    "asset": "SELECT id, tenant, token, flow, extract(epoch FROM at)::int FROM asset",
}
COLUMNS = {
    "flow": ("tenant", "token", "alias"),
    "import": ("tenant", "token", "flow"),
    "record": ("tenant", "token", "flow", "parent"),
    "event": ("tenant", "token", "flow", "at"),
    "asset": ("tenant", "token", "flow", "at"),
}
LEDGER = """
SELECT table_name, (row_key ->> 'id')::int, change_id, old_link::int, new_link::int, undone
  FROM flowguard.run_change ORDER BY change_id
"""
QUARANTINE = """
SELECT table_name, (row_key ->> 'id')::int, column_names, column_values FROM flowguard.quarantine
 WHERE action = 'deleted'
"""
COUNTS = """
SELECT r.run_id, r.status
  FROM flowguard.repair_run r
  LEFT JOIN LATERAL (
    SELECT count(*) FILTER (WHERE c.kind = 'linked') AS linked,
           count(*) FILTER (WHERE c.kind = 'translated') AS translated,
           count(*) FILTER (WHERE c.kind = 'unlinked') AS unlinked
      FROM flowguard.repair_change c WHERE c.run_id = r.run_id) AS c ON true
  LEFT JOIN LATERAL (
    SELECT count(*) FILTER (WHERE q.link_column IS NOT NULL) AS taken
      FROM flowguard.quarantined_row q WHERE q.run_id = r.run_id) AS q ON true
 WHERE (r.linked, r.translated, r.unlinked, r.quarantined) <> (c.linked, c.translated, c.unlinked, q.taken)
"""
"""Runs that count otherwise than what is written down of them: each batch is counted in its own transaction."""

Key = tuple[str, int]


@dataclass(frozen=True)
class Change:
    """A link that a run wrote, and whether it was put back."""

    id: int
    old: int | None
    new: int | None
    undone: str | None


def resolve(admin: Connection, facts: Facts, transactions: Iterable[Transaction], chance: random.Random) -> None:
    """Find out what became of each transaction, and end those that are prepared, in one way or the other."""
    waiting = {gid for (gid,) in rows(admin, "SELECT gid FROM pg_prepared_xacts WHERE database = 'app'")}
    journal = {token for (token,) in rows(admin, "SELECT token FROM journal")}
    for transaction in sorted(transactions, key=lambda t: int(t.token[1:])):
        token, fate = transaction.token, transaction.fate
        facts.in_doubt += fate in {Fate.IN_DOUBT, Fate.PREPARED}
        facts.acknowledged += fate is Fate.COMMITTED
        if fate is Fate.COMMITTED and token not in journal:
            facts.problems.append(f"lost: {token} was acknowledged and is not there")
        if fate is Fate.PREPARED and token not in waiting | journal:
            facts.problems.append(f"lost: {token} was prepared and is not there")
        if fate is Fate.GONE and token in waiting | journal:
            facts.problems.append(f"{token} was rolled back and is there")
        is_there = token in journal
        if token in waiting:
            is_there = chance.random() < 0.5
            run(admin, f"{'COMMIT' if is_there else 'ROLLBACK'} PREPARED '{token}'")
        if is_there:
            facts.learn(transaction)


class Database:
    """What a database holds at this moment, and what of it is wrong."""

    def __init__(self, app: Connection, facts: Facts) -> None:
        self.app = app
        self.facts = facts
        self.rows: dict[str, dict[int, dict[str, Any]]] = {
            table: {key: dict(zip(COLUMNS[table], values, strict=True)) for key, *values in rows(app, STATE[table])}
            for table in TABLES
        }
        self.ledger: dict[Key, list[Change]] = defaultdict(list)
        for table, key, *change in rows(app, LEDGER):
            self.ledger[table, key].append(Change(*change))
        self.kept = {
            (table, key): dict(zip(names, values, strict=True)) for table, key, names, values in rows(app, QUARANTINE)
        }
        self.events: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for key, event in {**facts.rows["event"]}.items():
            self.events[event.values["tenant"]].append((event.values["at"], key))
        for found in self.events.values():
            found.sort()

    # --- Nothing is lost, nothing is there that was rolled back

    def lost(self) -> Iterator[str]:
        """Compare rows with what was committed: they are there, or kept in the quarantine, as they were written."""
        for table in TABLES:
            there, known = self.rows[table], self.facts.rows[table]
            for key in there.keys() - known.keys():
                yield f"{table} {key} ({there[key]['token']}) is there though no committed transaction wrote it"
            for key, row in known.items():
                found, kept = there.get(key), self.kept.get((table, key))
                if (found is None) == (kept is None):
                    where = "nowhere" if found is None else "in its table and in the quarantine"
                    yield f"lost: {table} {key} ({row.values['token']}) is {where}"
                for column in COLUMNS[table]:
                    if column in {"flow", "alias", "at"}:
                        continue
                    if found is not None and found[column] != row.values[column]:
                        yield f"lost: {table} {key}.{column} is {found[column]}, not {row.values[column]}"
                    if found is None and kept is not None and kept[column] != str(row.values[column]):
                        yield f"lost: {table} {key}.{column} is kept as {kept[column]}, not {row.values[column]}"
                if found is not None and "at" in row.values and found["at"] != row.values["at"]:
                    yield f"lost: {table} {key}.at is {found['at']}, not {row.values['at']}"

    # --- Each link is what a writer wrote, or told by the ledger or by a rule

    def untold(self) -> Iterator[str]:
        """Find links that nobody can have written."""
        for table in LINKS:
            for key, found in self.rows[table].items():
                row = self.facts.rows[table].get(key)
                if row is not None and found["flow"] != row.values.get("flow") and not self.is_told(table, key, row):
                    yield (
                        f"untold: {table} {key} has link {found['flow']}; its writer wrote {row.values.get('flow')}, "
                        f"and neither a rule nor the ledger says it: {self.ledger[table, key]}"
                    )

    def is_told(self, table: str, key: int, row: Row) -> bool:
        link = self.rows[table][key]["flow"]
        changes = self.ledger.get((table, key), [])
        if link in self.by_ledger(changes):
            return True
        if link is None:
            return table == "record" or bool(self.ever(table, key) & self.facts.deleted_flows) or table == "asset"
        if table == "record":
            return link in self.ever("import", row.values["parent"])
        return table == "asset" and any(link in self.ever("event", event) for event in self.near(row))

    def ever(self, table: str, key: int) -> set[int]:
        """Give every link that writers or the ledger gave a row."""
        row = self.facts.rows[table].get(key)
        told = {link for link in self.by_ledger(self.ledger.get((table, key), [])) if link is not None}
        return told | (row.links if row else set())

    @staticmethod
    def by_ledger(changes: Iterable[Change]) -> set[int | None]:
        return {change.new for change in changes} | {c.old for c in changes if c.undone == "restored"}

    def near(self, row: Row) -> list[int]:
        """Give the events in whose window an asset lies."""
        events, at = self.events[row.values["tenant"]], row.values["at"]
        return [
            key for _, key in events[bisect_left(events, (at - WINDOW, 0)) : bisect_right(events, (at + WINDOW, 2**31))]
        ]

    # --- The ledger says what repair did

    def ledger_is_wrong(self) -> Iterator[str]:
        """Compare runs with what is written down of them, and what is written down with the rows."""
        for run_id, status in rows(self.app, COUNTS):
            yield f"run {run_id} ({status}) does not count what is written down of it"
        left = one(self.app, "SELECT count(*) FROM flowguard.privileged_transaction WHERE kind <> 'bypass'")
        if left:
            yield f"{left} marks of a repair or an undo are left over"
        # One transaction writes a link and says so in the ledger: where a row is still as that transaction left it,
        # its link is what the ledger says.
        for table in LINKS:
            query = (
                f"SELECT t.id, t.flow, c.new_link FROM {table} t JOIN flowguard.repair_change c "  # noqa: S608
                f"ON c.table_name = '{table}' AND (c.row_key ->> 'id')::int = t.id AND c.xmin = t.xmin "
                "WHERE c.undone IS NULL AND t.flow IS DISTINCT FROM c.new_link::int "
                "AND NOT EXISTS (SELECT FROM flowguard.repair_change n WHERE n.table_name = c.table_name "
                "AND n.row_key = c.row_key AND n.change_id > c.change_id AND n.xmin = c.xmin)"
            )
            for key, flow, said in rows(self.app, query):
                yield f"{table} {key} has link {flow}; the transaction that wrote it says {said} in the ledger"

    def restored(self) -> set[int]:
        """Give the changes that were put back."""
        return {c.id for changes in self.ledger.values() for c in changes if c.undone == "restored"}

    def not_restored(self, before: Collection[int], first_token: int) -> Iterator[str]:
        """Find rows that are not what they were before the changes that were put back since `before`.

        Of rows that no transaction of the application has written since, and no repair; links are unguarded meanwhile.
        """
        for (table, key), changes in self.ledger.items():
            found = self.rows[table].get(key)
            back = [c for c in changes if c.undone == "restored" and c.id not in before]
            if not back or found is None or int(found["token"][1:]) >= first_token:
                continue
            if changes[-1].undone is not None and found["flow"] != back[0].old:
                yield f"untold: {table} {key} has link {found['flow']}, and was put back to {back[0].old}: {changes}"

    # --- Invariants 1 to 4

    def kind(self, table: str, row: dict[str, Any]) -> str:
        """Say what a row is, in the words of docs/concepts.md."""
        if row["flow"] is None:
            return "unlinked"
        flow = self.rows["flow"].get(row["flow"])
        if flow is None:
            return "dangling"
        if flow["tenant"] != row["tenant"] or (
            table == "record" and self.rows["import"][row["parent"]]["flow"] != row["flow"]
        ):
            return "mismatched"
        return "linked"

    def broken(self, strict: Collection[str], *, listed: bool) -> Iterator[str]:
        """Find what no committed state of these links may hold, and what of it the engine does not list or count."""
        wrong: dict[Key, str] = {}
        for table in LINKS:
            for key, row in self.rows[table].items():
                kind = self.kind(table, row)
                if kind != "linked":
                    wrong[table, key] = kind
                if table not in strict:
                    continue
                if kind in {"dangling", "mismatched"} and (table != "record" or "import" in strict):
                    yield f"invariant 1 to 3: {table} {key} is {kind}: {row}"
                elif (
                    table == "record"
                    and "import" in strict
                    and self.rows["import"][row["parent"]]["flow"] != row["flow"]
                ):
                    yield f"invariant 3: record {key} lacks the link of its import"
        yield from self.listed_wrong(wrong) if listed else self.counted_wrong(wrong)

    def counted_wrong(self, wrong: Mapping[Key, str]) -> Iterator[str]:
        """Compare the counts of flowguard.link_status."""
        counts = Counter((table, kind) for (table, _), kind in wrong.items())
        query = "SELECT relation::text, unlinked, dangling, mismatched FROM flowguard.link_status"
        for table, *found in rows(self.app, query):
            known = [counts[table, kind] for kind in ("unlinked", "dangling", "mismatched")]
            if found != known:
                yield f"invariant 4: {table} has {known} unlinked, dangling and mismatched; {found} are counted"

    def listed_wrong(self, wrong: Mapping[Key, str]) -> Iterator[str]:
        """Compare the rows of flowguard.violation, which takes its time: it gives the reason of each."""
        query = "SELECT relation::text, (row_key ->> 'id')::int, kind FROM flowguard.violation"
        listed = {(table, key): kind for table, key, kind in rows(self.app, query)}
        for at in wrong.keys() | listed.keys():
            if wrong.get(at) != listed.get(at):
                yield f"invariant 4: {at} is {wrong.get(at, 'linked')} and listed as {listed.get(at)}"

    def missed(self) -> Iterator[str]:
        """Find assets without a link that lie in the window of a linked event: after a repair there is none."""
        for key, row in self.rows["asset"].items():
            if row["flow"] is not None:
                continue
            for event in self.near(self.facts.rows["asset"][key]):
                source = self.rows["event"].get(event)
                if source is not None and source["flow"] in self.rows["flow"]:
                    yield f"invariant 4: asset {key} has no link though event {event} is near"

    def problems(self, strict: Collection[str], *, listed: bool = False) -> list[str]:
        """Give all that is wrong; `listed`: look at the list of violations, not at counts only."""
        return [*self.lost(), *self.untold(), *self.ledger_is_wrong(), *self.broken(strict, listed=listed)]
