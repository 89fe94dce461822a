"""One history: sessions that write, guard, repair and undo at once, and what must hold after each commit.

A *unit* is what commits or not: a transaction, or a call that is a transaction of its own. One that was alone from
beginning to end is predicted exactly. Of others the invariants are checked on what is committed, by the raw rows.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

from engine.oracle import Key, Link, Reference, Row
from engine.postgres import rows
from engine.worlds import START
from histories import judgement
from histories.draw import Draw, Write
from histories.model import Content, Guard, Model, breaches
from histories.sessions import Answer, Session, Sessions
from histories.tally import kinds_of
from histories.worlds import Setting
from psycopg import IsolationLevel
from repair.judge import Judge

RACES = {"40001", "40P01"}
REFUSALS = {"23503", "FG001", "FG002"}
TRIGGER_KINDS = {"unlinked", "tenantless"}
LOCKING = {"guard", "unguard", "set_mode"}
NOTHING: Row = {}


@dataclass
class Unit:
    """Something that commits or not, with all that is needed to judge what it left."""

    kind: str
    link: str | None = None
    level: str = "READ COMMITTED"
    writes: list[Write] = field(default_factory=list)
    model: Model | None = None
    """What the writes make of the tables; None as soon as another unit is under way."""
    bypassed: bool = False
    dead: set[str] = field(default_factory=set)
    """Links whose triggers did nothing, or were not there, at some time while it was under way."""
    mode: str = ""
    run: int | None = None
    answer: Answer | None = None
    again: bool = False
    """A repair right after another one."""
    does: Counter[str] = field(default_factory=Counter)
    """What its writes do, by kind."""

    @property
    def alone(self) -> bool:
        return self.model is not None

    def effects(self, table: str, *keys: Key) -> list[Write]:
        """Give the writes that met one of these rows, or any."""
        met = [write for write in self.writes if write.table == table and write.met]
        return [write for write in met if write.met.intersection(keys)] if keys else met


@dataclass
class Run:
    """What a repair that was alone did: links before and after, and rows that it took out."""

    links: dict[tuple[str, Key], tuple[int | None, int | None]]
    gone: dict[tuple[str, Key], Row]


class History:
    """Sessions, the tables as they were after the last commit, and what excuses rows that are wrong."""

    def __init__(self, dsn: str, setting: Setting) -> None:
        self.setting = setting
        self.links = {link.table: link for link in setting.world.links}
        self.sessions = Sessions(dsn, "ABC")
        self.open: dict[str, Unit] = {}
        self.doing: dict[str, Write | str] = {}
        self.landed: list[Unit] = []
        self.runs: dict[int, Run | None] = {}
        self.done: Counter[str] = Counter()
        self.excused: dict[tuple[str, Key], set[str]] = defaultdict(set)
        tables = [*(shape.table for shape in setting.world.shapes), "flowguard.link"]
        selects = [f"SELECT '{name}', to_jsonb(t) FROM {name} t" for name in tables]  # noqa: S608  ours
        self.everything = " UNION ALL ".join(selects)
        self.sessions.watcher.execute("SET timezone = 'UTC'")
        self.committed, self.guards = self.read()
        for table in self.links:
            self.excuse_all(table)
        self.commits = 0

    def close(self) -> None:
        """End the sessions."""
        self.sessions.close()

    # --- Steps

    @property
    def free(self) -> list[Session]:
        return [session for session in self.sessions.named.values() if session.sent is None]

    @property
    def idle(self) -> list[Session]:
        return [session for session in self.free if session.name not in self.open]

    @property
    def ready(self) -> list[Session]:
        """Sessions in a transaction that may go on."""
        return [session for session in self.free if session.name in self.open]

    def draw(self, random: Random) -> Draw:
        return Draw(random, self.setting, self.guards)

    def view(self, unit: Unit) -> Content:
        """Give the rows that a transaction may well see."""
        if unit.model is not None:
            return unit.model.rows
        seen = {table: dict(rows) for table, rows in self.committed.items()}
        for write in unit.writes:
            if write.kind == "insert":
                seen[write.table] |= {(row["id"],): row for row in write.rows}
            for key in write.met if write.kind == "delete" else ():
                seen[write.table].pop(key, None)
            if write.move and write.met:
                old, new = write.move
                seen[write.table][new] = {**seen[write.table].pop(old, NOTHING), **write.changes}
        return seen

    def begin(self, session: Session, level: str = "READ COMMITTED") -> Unit:
        unit = self.start(session, Unit("transaction", level=level))
        self.say(session, f"BEGIN ISOLATION LEVEL {level}", "begin")
        return unit

    def start(self, session: Session, unit: Unit) -> Unit:
        """Note that a unit is under way: no unit that is, is alone any more."""
        for other in self.open.values():
            other.model = None
        if not self.open:
            unit.model = Model(self.setting, self.committed, self.guards)
        unit.dead |= {table for table, guard in self.guards.items() if not guard.works}
        self.open[session.name] = unit
        return unit

    def write(self, session: Session, write: Write) -> None:
        self.say(session, write.text, write)

    def end(self, session: Session, *, commit: bool) -> None:
        self.say(session, "COMMIT" if commit else "ROLLBACK", "commit" if commit else "rollback")

    def call(self, session: Session, unit: Unit, text: str) -> None:
        """Run a call of ours, which is a transaction of its own."""
        self.start(session, unit)
        self.say(session, text, "call")

    def say(self, session: Session, text: str, what: Write | str) -> None:
        self.doing[session.name] = what
        session.send(text)
        self.settle()

    def settle(self) -> None:
        """See what came of what was sent, until nothing happens any more; then judge what was committed."""
        while answers := self.sessions.settle():
            for session, answer in answers:
                self.take(session, answer)
        # Whoever waits for a table keeps readers out, too.
        if self.landed and not any(self.open[session.name].kind in LOCKING for session in self.sessions.busy):
            self.judge()

    def take(self, session: Session, answer: Answer) -> None:
        """Note what came of a statement."""
        what = self.doing.pop(session.name)
        unit = self.open[session.name]
        self.done["wait"] += session.waited
        if isinstance(what, Write):
            self.take_write(session, unit, what, answer)
        elif what == "commit":
            del self.open[session.name]
            self.take_commit(unit, answer)
        elif what == "rollback":
            assert not answer.code, answer
            del self.open[session.name]
            self.done["roll back"] += 1
        elif what == "call":
            del self.open[session.name]
            unit.answer = answer
            self.take_call(unit, answer)
        else:
            assert not answer.code, answer

    def take_write(self, session: Session, unit: Unit, write: Write, answer: Answer) -> None:
        if answer.code:
            assert not unit.alone, f"refused, though nobody else is there: {answer}"
            assert answer.code in RACES | REFUSALS | {"23505"}, answer
            self.done[f"write refused: {answer.code}"] += 1
            self.doing[session.name] = "rollback"
            session.send("ROLLBACK")
            return
        if write.table:
            write.met = {(int(row[0]),) for row in answer.rows if row[0] is not None}
            if write.move and write.met:
                write.met |= set(write.move)
        unit.does.update(kinds_of(write, self.view(unit).get(write.table, {})))
        unit.writes.append(write)
        unit.bypassed = unit.bypassed or write.kind == "bypass"
        model = unit.model
        if model is None:
            return
        if write.kind == "insert":
            model.insert(write.table, write.rows)
        elif write.kind == "session":
            model.session = write.session
        elif write.kind == "bypass":
            model.bypassed = True
        else:
            there = [key for key in write.keys if key in model.rows[write.table]]
            expected = {*there, *write.move} if write.move and there else set(there)
            assert write.met == expected, "the statement met other rows than are there"
            if write.kind == "update":
                model.update_rows(write.table, there, write.changes)
            for key in there if write.kind == "delete" else ():
                model.delete(write.table, key)

    def take_commit(self, unit: Unit, answer: Answer) -> None:
        if unit.model is not None:
            forbidden = unit.model.commit()
            if forbidden:
                assert answer.code in REFUSALS, f"{forbidden} forbid the commit, but: {answer}"
            else:
                assert not answer.code, f"nothing forbids the commit, but it was refused: {answer}"
        if answer.code:
            assert answer.code in RACES | REFUSALS, answer
            self.done[f"commit refused: {answer.code}"] += 1
        else:
            self.landed.append(unit)
            self.done += unit.does
            self.done[f"commit {unit.level}"] += 1
            self.done["commit beside others"] += not unit.alone

    def take_call(self, unit: Unit, answer: Answer) -> None:
        self.done[self.what_call_did(unit, answer)] += 1
        if not answer.code:
            self.landed.append(unit)
            return
        expected = {"FG113"} if unit.kind == "set_mode" else set()
        if unit.kind == "undo":
            expected = self.may_refuse_undo(unit)
        assert answer.code in (expected if unit.alone else expected | RACES), answer
        if unit.kind == "set_mode" and unit.alone:
            kinds = judgement.count_kinds(self.setting, self.committed)[unit.link or ""]
            assert unit.mode == "enforce", answer
            assert set(kinds) - {"linked"}, f"all rows are linked, but: {answer}"

    def what_call_did(self, unit: Unit, answer: Answer) -> str:
        """Name a call by what it did, or by how it was refused."""
        kind = unit.mode or unit.kind
        if answer.code:
            return f"{kind} refused: {answer.code}"
        if unit.kind == "repair":
            idle = not any(int(count or 0) for count in answer.rows[0][1:5])
        elif unit.kind == "undo":
            idle = not int(answer.rows[0][0] or 0)
        else:
            guard = self.guards[unit.link or ""]
            idle = {
                "guard": guard.guarded,
                "unguard": not guard.guarded,
                "pause": guard.paused,
                "resume": not guard.paused,
                "set_mode": guard.mode == unit.mode,
            }[unit.kind]
        return f"{kind}: nothing to do" if idle else kind

    # --- Judging

    def judge(self) -> None:
        """Check all that must hold of what is committed now, given what it was before and what has landed since."""
        before, guards = self.committed, self.guards
        self.committed, self.guards = self.read()
        landed, self.landed = self.landed, []
        self.commits += 1
        for unit in [*self.open.values(), *landed]:
            unit.dead |= {table for table, guard in self.guards.items() if not guard.works}
        self.check_guards(landed, guards)
        for unit in landed:
            if unit.model is not None:
                assert len(landed) == 1
                self.check_alone(unit, before)
            elif unit.kind == "undo":
                self.runs[unit.run or 0] = Run({}, {})  # whatever it put back or skipped, nothing is left of the run
        if not (len(landed) == 1 and landed[0].alone):
            self.check_nothing_lost(landed, before, guards)
            self.check_followed(landed, before, guards)
        self.check_complete(landed)
        if self.commits % 4 == 0 or landed[0].kind in {"repair", "undo"}:
            self.check_lists()

    def check_guards(self, landed: list[Unit], before: dict[str, Guard]) -> None:
        """The registry says what the calls asked for, and rows that were wrong when a guard came are excused."""
        expected = dict(before)
        for unit in landed:
            if unit.link is None:
                continue
            now = expected[unit.link]
            if unit.kind == "set_mode":
                expected[unit.link] = replace(now, mode=unit.mode)
            elif unit.kind == "guard":
                expected[unit.link] = replace(now, guarded=True)
            elif unit.kind == "unguard":
                expected[unit.link] = replace(now, guarded=False, paused=False)
            elif unit.kind in {"pause", "resume"}:
                expected[unit.link] = replace(now, paused=unit.kind == "pause")
            if unit.kind == "guard" and not before[unit.link].guarded:
                self.excuse_all(unit.link)
        if len(landed) == 1:
            assert self.guards == expected

    def excuse_all(self, table: str) -> None:
        """Take the rows of a table as they are: they were there before the guard."""
        for key, row in self.committed[table].items():
            self.excused[table, key] = self.faults(self.links[table], self.guards[table], row)

    def faults(self, link: Link, guard: Guard, row: Row) -> set[str]:
        found = breaches(self.setting, link, guard, row, self.committed)
        incomplete = judgement.incomplete(guard, row, link)
        return found | {incomplete} if incomplete else found

    def check_complete(self, landed: list[Unit]) -> None:
        """Invariants 1 to 4: no row of a guarded link is wrong but by what was there before, bypassed or paused."""
        for table, link in self.links.items():
            guard = self.guards[table]
            if not guard.guarded:
                continue
            lifted = any(unit.bypassed or table in unit.dead for unit in landed)
            excuses = {key: self.excuse_of(table, key, landed) for key in self.committed[table]}
            for key, row in self.committed[table].items():
                faults = self.faults(link, guard, row)
                excused = excuses[key] | TRIGGER_KINDS if lifted else excuses[key]
                assert faults <= excused, f"{table} {row}: {faults}"
                self.excused[table, key] = faults
            for key in [key for name, key in self.excused if name == table and key not in self.committed[table]]:
                del self.excused[table, key]

    def excuse_of(self, table: str, key: Key, landed: list[Unit]) -> set[str]:
        """Give what is excused of a row, under whatever key it was."""
        return set().union(*(self.excused[table, place] for place in places(landed, table, key)))

    def check_alone(self, unit: Unit, before: Content) -> None:
        """What a unit that was alone leaves is known exactly."""
        assert unit.model is not None
        if unit.kind == "transaction":
            self.same(unit.model.rows)
        elif unit.kind == "repair":
            self.check_repair(unit, before)
        elif unit.kind == "undo":
            self.check_undo(unit, before)
        else:
            self.same(before)
            if unit.kind == "guard":
                again = self.rows_of("SELECT statement FROM flowguard.guard(%s::regclass, 'flow')", unit.link)
                assert not again, f"guarded a second time, it did: {again}"
            if unit.kind == "set_mode" and unit.mode == "enforce":
                kinds = judgement.count_kinds(self.setting, before)[unit.link or ""]
                assert not set(kinds) - {"linked"}, f"enforced, though {kinds}"

    def same(self, expected: Content) -> None:
        differences = [
            f"{table} {key}: expected {old}, found {new}"
            for table, key, old, new in judgement.changed(expected, self.committed)
        ]
        assert not differences, "\n".join(differences)

    # --- Invariant 7: nothing is lost

    def check_nothing_lost(self, landed: list[Unit], before: Content, guards: dict[str, Guard]) -> None:
        """Every row is as it was and was written since, but for its link; it went only if something deleted it."""
        repairs = any(unit.kind == "repair" for unit in [*landed, *self.open.values()])
        undoes = any(unit.kind == "undo" for unit in landed)
        for table, key, old, new in judgement.changed(before, self.committed):
            under = places(landed, table, key)
            effects = [(unit, unit.effects(table, *under)) for unit in landed]
            effects = [(unit, writes) for unit, writes in effects if writes]
            if new is None:
                assert old is not None
                if any(place in self.committed[table] for place in under):
                    continue  # it has another key
                deleted = any(write.kind == "delete" for _, writes in effects for write in writes)
                # Keys that a landed unguard() took away may have cascaded before.
                keyed = table != "flow" and (guards[table].guarded or self.guards[table].guarded)
                went = deleted or self.went_along(table, old, landed, keyed=keyed)
                assert went or (repairs and self.is_held(table, key, old)), (
                    f"{table} {old} is gone, and nobody deleted it"
                )
                continue
            if old is None and not effects:
                assert undoes, f"{table} {new} appeared from nowhere"
                continue
            for name in new.keys() - ({"flow"} if table != "flow" else set()):
                written = [given[-1] for _, writes in effects if (given := self.given(writes, key, name))]
                if len(under) > 1:  # by which of them it was met, and when, is not told
                    written = [value for _, writes in effects for k in under for value in self.given(writes, k, name)]
                    written += [before[table][place][name] for place in under if place in before[table]]
                assert undoes or new[name] in (written or [(old or NOTHING)[name]]), (
                    f"{table} {new}: {name} is not what was written; it was {old}"
                )
            if table != "flow" and old is not None and old["flow"] is not None:
                assert new["flow"] in (None, old["flow"]) or self.may_move(table, old, new, landed), (
                    f"{table} {old} was moved to {new['flow']}"
                )

    @staticmethod
    def given(writes: Iterable[Write], key: Key, name: str) -> list[Any]:
        """Give the values that these writes set for a column of a row, in order."""
        found = []
        for write in writes:
            found += [row[name] for row in write.rows if row["id"] == key[0]]
            found += [write.changes[name]] if name in write.changes else []
        return found

    def may_move(self, table: str, old: Row, new: Row, landed: list[Unit]) -> bool:
        """Say whether a link that was set may be another: only by a write, a row referred to, or the master's end."""
        return (
            any(unit.effects(table, *places(landed, table, (old["id"],))) or unit.kind == "undo" for unit in landed)
            or any(unit.kind == "repair" for unit in [*landed, *self.open.values()])
            or any(isinstance(rule, Reference) and new[rule.via] is not None for rule in self.links[table].rules)
            or (old["flow"],) not in self.committed["flow"]
            or any(write.kind != "insert" and write.remasters for unit in landed for write in unit.writes)
        )

    def went_along(self, table: str, old: Row, landed: list[Unit], *, keyed: bool) -> bool:
        """Say whether a row went with another that was deleted, by a key that cascades."""
        deletes = {(w.table, key) for unit in landed for w in unit.writes if w.kind == "delete" for key in w.met}
        cascades = next(definition.cascades for definition in self.setting.world.tables if definition.name == table)
        # What it referred to may have been changed by whoever landed first.
        rows = [old, *(w.changes for unit in landed for w in unit.effects(table, (old["id"],)) if w.kind == "update")]
        for via, source, _ in cascades:
            if any(row.get(via) is not None and (row[via],) not in self.committed[source] for row in rows):
                return True
            if any((source, (row.get(via),)) in deletes for row in rows):
                return True
        link = self.links.get(table)
        if link is None or link.on_master_delete != "cascade" or not keyed:
            return any(source in {name for name, _ in deletes} for _, source, _ in cascades)
        return bool(deletes)

    def is_held(self, table: str, key: Key, old: Row) -> bool:
        """Say whether the quarantine holds the row with exactly its values."""
        held = self.rows_of(
            "SELECT column_names, column_values FROM flowguard.quarantine "
            "WHERE table_name = %s AND row_key = jsonb_build_object('id', %s::int) AND action = 'deleted' "
            "ORDER BY quarantine_id DESC LIMIT 1",
            table,
            key[0],
        )
        if not held:
            return False
        names, values = held[0]
        kept = {name: as_value(name, value, old[name]) for name, value in zip(names, values, strict=True)}
        return {**kept, "flow": None} == {**old, "flow": None}

    # --- Invariant 3: no link is lost between two sessions

    def check_followed(self, landed: list[Unit], before: Content, guards: dict[str, Guard]) -> None:
        """At READ COMMITTED a row and the one that it refers to agree, whoever of the two came first."""
        if any(unit.level != "READ COMMITTED" or unit.kind == "undo" for unit in landed):
            return
        for table, link in self.links.items():
            if not (guards[table].works and self.guards[table].works) or any(table in unit.dead for unit in landed):
                continue
            for key, row in self.committed[table].items():
                if not judgement.misses_its_reference(link, row, self.committed):
                    continue
                old = before[table].get(key)
                if old is not None and old["flow"] == row["flow"] and judgement.disagrees(link, old, before):
                    continue  # a link that differs is not followed
                if old is not None and self.was_translated(landed, old, row, before):
                    continue  # nor is one that was a key of the master already, though another than it is linked by
                if self.guards[table].mode == "enforce" and row["tenant"] is None:
                    continue
                assert self.disagrees_on_purpose(landed, table, key, row), (
                    f"{table} {row} was {old}, and has not followed the row that it refers to"
                )

    @staticmethod
    def was_translated(landed: list[Unit], old: Row, row: Row, before: Content) -> bool:
        """Say whether a repair put the key of a master in the place of its alias."""
        master = before["flow"].get((row["flow"],))
        return any(unit.kind == "repair" for unit in landed) and master is not None and master["alias"] == old["flow"]

    def disagrees_on_purpose(self, landed: list[Unit], table: str, key: Key, row: Row) -> bool:
        """Say whether somebody set this link, or a tenant on which it depends whether the two belong together."""
        link = self.links[table]
        for unit in landed:
            for write in unit.effects(table, key):
                if any(value is not None for value in self.given([write], key, "flow")):
                    return True
                if write.kind == "update" and "tenant" in write.changes:
                    return True
            for rule in link.rules:
                if isinstance(rule, Reference) and rule.agree and row[rule.via] is not None:
                    writes = unit.effects(rule.source, (row[rule.via],))
                    if any(write.kind == "update" and "tenant" in write.changes for write in writes):
                        return True
            if any(write.remasters for write in unit.writes):
                return True
        return False

    # --- Lists and counts

    def check_lists(self) -> None:
        """Invariant 4: every row that is not linked is listed with a reason, and no other; the counts are right."""
        listed = self.rows_of("SELECT relation::text, (row_key ->> 'id')::int, kind, reason FROM flowguard.violation")
        assert all(reason for *_, reason in listed), listed
        expected = judgement.violations(self.setting, self.committed)
        found = {(table, number): kind for table, number, kind, _ in listed}
        assert found == expected, f"listed: {found}; wrong are: {expected}"

    def check_counts(self) -> None:
        """The counts of flowguard.link_status are those of the rows."""
        kinds = ("linked", "unlinked", "dangling", "mismatched", "tenantless")
        status = self.rows_of("SELECT relation::text, to_jsonb(s) FROM flowguard.link_status s")
        found = {table: {kind: counts[kind] for kind in kinds} for table, counts in status}
        expected = judgement.count_kinds(self.setting, self.committed)
        assert found == {table: {kind: expected[table][kind] for kind in kinds} for table in expected}

    # --- Repair and undo

    def check_repair(self, unit: Unit, before: Content) -> None:
        """The ledger says exactly what a repair changed; what is left is counted; the judge foretold the rows."""
        assert unit.answer is not None
        assert unit.model is not None
        run, linked, translated, quarantined, unlinked, remaining = (int(v or 0) for v in unit.answer.rows[0])
        links, gone = {}, {}
        for table, key, old, new in judgement.changed(before, self.committed):
            assert old is not None, f"{table} {new} appeared in a repair"
            if new is None:
                assert self.is_held(table, key, old), f"{table} {old} is gone and not in quarantine"
                gone[table, key] = old
            else:
                assert {**old, "flow": None} == {**new, "flow": None}, f"repair changed {old} to {new}"
                links[table, key] = (old["flow"], new["flow"])
        self.check_ledger(run, links, gone)
        kinds = judgement.count_kinds(self.setting, self.committed)
        tables = [unit.link] if unit.link else list(self.links)
        assert remaining == sum(kinds[table]["unlinked"] + kinds[table]["dangling"] for table in tables), unit.answer
        if unit.again:
            assert (links, gone, linked + translated + quarantined + unlinked) == ({}, {}, 0), "repaired a second time"
        works = {guard.works for guard in self.guards.values()}
        if unit.link is None and (works == {True} or not any(guard.guarded for guard in self.guards.values())):
            modes = {guard.mode for guard in self.guards.values()}
            if len(modes) == 1:
                foretold = self.foretold(unit.model, before, modes.pop() == "enforce")
                self.same(foretold)
        self.runs[run] = Run(links, gone)

    def foretold(self, model: Model, before: Content, enforce: bool) -> Content:
        model.links = [replace(link, enforce=enforce) for link in model.links]
        model.rows = deepcopy(before)
        Judge(model, self.setting.policy, ("alias",), tenants_known=self.setting.tenants_known).repair()
        return model.rows

    def check_ledger(
        self, run: int, links: dict[tuple[str, Key], tuple[int | None, int | None]], gone: dict[tuple[str, Key], Row]
    ) -> None:
        """From the first old link to the last new one of each row the ledger tells what happened, and nothing else."""
        told: dict[tuple[str, Key], tuple[int | None, int | None]] = {}
        for table, number, old, new in self.rows_of(
            "SELECT table_name, (row_key ->> 'id')::int, old_link::int, new_link::int FROM flowguard.run_change "
            "WHERE run_id = %s ORDER BY change_id",
            run,
        ):
            first = told.get((table, (number,)), (old, None))[0]
            told[table, (number,)] = (first, new)
        told = {place: ends for place, ends in told.items() if place not in gone and ends[0] != ends[1]}
        assert told == links, f"the ledger says {told}, the rows say {links}"

    def may_refuse_undo(self, unit: Unit) -> set[str]:
        """Give the SQLSTATEs with which an undo may be refused."""
        run = self.runs[unit.run] if unit.run is not None else None
        if run is None or not unit.alone:
            return {"FG202", "FG203", "FG206", "23503", "23505", *RACES}
        found = set()
        if any(old is None and self.guards[table].enforces for (table, _), (old, _) in run.links.items()):
            found.add("FG202")
        if any(old is not None for old, _ in run.links.values()):
            found |= {"FG203", "23503"}
        if run.gone:
            found |= {"FG203", "23503", "23505"}
        return found

    def check_undo(self, unit: Unit, before: Content) -> None:
        """Exactly the rows and links that the run took and wrote are back, but for links that are others by now."""
        run = self.runs[unit.run] if unit.run is not None else None
        if run is None:
            self.runs[unit.run or 0] = None
            return
        expected = deepcopy(before)
        for (table, key), row in run.gone.items():
            expected[table][key] = row
        for (table, key), (old, new) in run.links.items():
            if key in expected[table] and expected[table][key]["flow"] == new:
                expected[table][key] = {**expected[table][key], "flow": old}
        self.same(expected)
        self.runs[unit.run or 0] = Run({}, {})

    # --- Reading

    def read(self) -> tuple[Content, dict[str, Guard]]:
        """Give the tables and the registry, of one moment."""
        content: Content = {shape.table: {} for shape in self.setting.world.shapes}
        guards = {}
        for table, row in self.rows_of(self.everything):
            if table == "flowguard.link":
                guards[row["relation"]] = Guard(row["mode"], row["guarded"], row["paused"])
            else:
                row.pop("created_at", None)
                if "at" in row:
                    row["at"] = as_time(row["at"])
                content[table][row["id"],] = row
        return content, guards

    def rows_of(self, text: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Ask the session that watches."""
        return rows(self.sessions.watcher, text, *parameters)


def places(landed: Iterable[Unit], table: str, key: Key) -> set[Key]:
    """Give the keys, this one included, under which a row may have been, for they were changed from one to another."""
    moves = [write.move for unit in landed for write in unit.effects(table) if write.move]
    found = {key}
    while more := {place for move in moves if found.intersection(move) for place in move} - found:
        found |= more
    return found


def as_time(text: str | None) -> float | None:
    """Give a time as the oracle has it: in microseconds from START, or infinite."""
    if text is None:
        return None
    if "infinity" in text:
        return -math.inf if text.startswith("-") else math.inf
    return (datetime.fromisoformat(text) - START) // timedelta(microseconds=1)


def as_value(name: str, text: str | None, like: object) -> object:
    """Give a value that the quarantine keeps as text as it was in the row."""
    if name == "at":
        return as_time(text and text + ":00" if text and "infinity" not in text else text)
    return int(text) if text is not None and isinstance(like, int) else text


ISOLATION = [level.name.replace("_", " ") for level in IsolationLevel if level != IsolationLevel.READ_UNCOMMITTED]
