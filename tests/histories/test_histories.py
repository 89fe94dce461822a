"""Random histories of several sessions: whatever they do, and whoever waits for whom, DESIGN 3 holds after each commit.

A history that fails is made small by hypothesis and shown with the SQL of each session, in the order in which it was
sent: `A> UPDATE …`, `A: waits`, `A: goes on`. HYPOTHESIS_PROFILE=nightly tries many more, new ones each time.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from engine.postgres import run
from histories.draw import Draw
from histories.history import ISOLATION, History, Unit
from histories.judgement import count_kinds
from histories.model import Content, Guard
from histories.sessions import DEADLOCK_TIMEOUT, Session
from histories.tally import Tally
from histories.worlds import MASTERS, SETTINGS, Setting
from hypothesis import note, seed
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from profiles import sized
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

seeds = st.integers(0, 2**20)
PARTS = 4


class Bench:
    """Makes databases for histories: of each setting, guarded or registered only."""

    def __init__(self, databases: Any, engine_template: str, bin_directory: Path) -> None:  # noqa: ANN401  conftest's
        self.databases = databases
        self.engine_template = engine_template
        self.bin = bin_directory
        self.stack = ExitStack()
        self.template = cache(self.make_template)
        self.schema = cache(self.make_schema)
        self.tally = Tally()

    def make_template(self, setting: int, *, guarded: bool) -> str:
        dsn = str(self.stack.enter_context(self.databases.new(self.engine_template)))
        with psycopg.connect(dsn, autocommit=True) as connection:
            run(connection, SETTINGS[setting].world.ddl)
            run(connection, SETTINGS[setting].world.registration)
            run(connection, f"INSERT INTO flow (id, tenant, alias) VALUES {', '.join(map(str, MASTERS))}")  # noqa: S608
            if guarded:
                run(connection, "SELECT flowguard.guard(relation, link_column) FROM flowguard.link")
        return str(conninfo_to_dict(dsn)["dbname"])

    def make_schema(self, setting: int) -> str:
        with self.databases.new(self.template(setting, guarded=False)) as dsn:
            return self.dump(dsn)

    def dump(self, dsn: str) -> str:
        """Give the application's schema as pg_dump writes it, but for a line that differs each time."""
        command: list[str | Path] = [self.bin / "pg_dump", "--schema-only", "--schema=public", "--dbname", dsn]
        dumped = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return "\n".join(line for line in dumped.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))

    def open(self, stack: ExitStack, setting: int, *, guarded: bool) -> str:
        """Make a database in which a deadlock is looked for soon; only a superuser may say so."""
        dsn = str(stack.enter_context(self.databases.new(self.template(setting, guarded=guarded))))
        with psycopg.connect(make_conninfo(dsn, user="postgres"), autocommit=True) as connection:
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET deadlock_timeout = {}").format(
                    sql.Identifier(connection.info.dbname), sql.Literal(int(DEADLOCK_TIMEOUT * 1000))
                )
            )
        return dsn


class Histories(RuleBasedStateMachine):
    """What the sessions may do. Each step has a seed, from which its statement is drawn."""

    bench: Bench

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.history: History | None = None
        self.setting = 0

    @initialize(setting=st.integers(0, len(SETTINGS) - 1), start=st.integers(0, 4), seed=seeds)
    def begin(self, setting: int, start: int, seed: int) -> None:
        """Take a database: guarded and empty, or full of dirt from before, guarded or not yet."""
        self.setting = setting
        note(f"-- {SETTINGS[setting]}{', dirt' if start < 3 else ''}{', not guarded' if start == 0 else ''}")
        self.dsn = self.bench.open(self.stack, setting, guarded=start > 0)
        if start < 3:
            self.pollute(SETTINGS[setting], Random(seed))
        self.history = self.stack.enter_context(closing(History(self.dsn, SETTINGS[setting])))

    def pollute(self, setting: Setting, random: Random) -> None:
        """Write rows as if there had never been a guard."""
        draw = Draw(random, setting, dict.fromkeys(("import", "record", "event", "asset"), Guard(guarded=False)))
        view: Content = {shape.table: {} for shape in setting.world.shapes}
        view["flow"] = {(n,): {"id": n, "tenant": tenant, "alias": alias} for n, tenant, alias in MASTERS}
        with psycopg.connect(make_conninfo(self.dsn, user="postgres"), autocommit=True) as connection:
            run(connection, "SET session_replication_role = replica")
            for table in ("import", "record", "record", "event", "asset", "asset"):
                write = draw.insert(view, table)
                view[table] |= {(row["id"],): row for row in write.rows}
                note(f"-- {write.text};")
                run(connection, write.text)

    # --- Rules

    @property
    def now(self) -> History:
        assert self.history is not None
        return self.history

    # Who goes on of those that wait is the server's choice, and may be another one the next time. So no rule has a
    # precondition: it would make the same draws mean other rules. One that is not possible goes on with what is open.

    @rule(seed=seeds)
    def statement(self, seed: int) -> None:
        """Let a session begin, or write something."""
        self.write(Random(seed))

    @rule(seed=seeds)
    def end(self, seed: int) -> None:
        """Let a session commit, or now and then roll back."""
        self.go_on(Random(seed))

    @rule(seed=seeds)
    def transaction(self, seed: int) -> None:
        """Let a session write and commit while nobody else does anything."""
        random = Random(seed)
        if self.now.open:
            self.go_on(random)
        else:
            self.alone(random)

    @rule(seed=seeds)
    def transactions(self, seed: int) -> None:
        """Let sessions write and commit one after the other."""
        random = Random(seed)
        if self.now.open:
            self.go_on(random)
            return
        for _ in range(random.choice((2, 3, 4))):
            self.alone(random)

    def write(self, random: Random) -> None:
        session = random.choice([*self.now.ready, *self.now.free])
        if session.name not in self.now.open:
            unit = self.now.begin(session, random.choice([*[ISOLATION[0]] * 6, *ISOLATION]))
        else:
            unit = self.now.open[session.name]
        self.now.write(session, self.now.draw(random).write(self.now.view(unit)))

    def go_on(self, random: Random) -> None:
        """Let a transaction end; where none may, let a session write."""
        if self.now.ready:
            self.now.end(random.choice(self.now.ready), commit=random.random() < 0.9)
        else:
            self.write(random)

    def alone(self, random: Random) -> None:
        session = random.choice(self.now.idle)
        unit = self.now.begin(session, random.choice([*[ISOLATION[0]] * 6, *ISOLATION]))
        if random.random() < 0.12:
            for write in self.now.draw(random).remaster(self.now.view(unit)):
                self.now.write(session, write)
            self.now.end(session, commit=True)
            return
        enforced = [name for name, guard in self.now.guards.items() if guard.enforces]
        if enforced and random.random() < 0.3:
            self.offend(random, session, unit, random.choice(enforced))
            return
        crowded = random.random() < 0.4
        for _ in range(random.choice((2, 3)) if crowded else random.choice((1, 1, 2, 3, 4))):
            draw, view = self.now.draw(random), self.now.view(unit)
            self.now.write(session, draw.crowd(view) if crowded else draw.write(view))
        self.now.end(session, commit=random.random() < 0.95)

    @rule(seed=seeds)
    def meeting(self, seed: int) -> None:
        """Let two sessions write what depends on one another, neither of them committed."""
        random = Random(seed)
        if len(self.now.idle) < 2:
            self.go_on(random)
            return
        writes = list(self.now.draw(random).meet(self.now.committed))
        random.shuffle(writes)
        sessions = random.sample(self.now.idle, 2)
        for session in sessions:
            self.now.begin(session, random.choice([*[ISOLATION[0]] * 8, *ISOLATION]))
        for session, write in zip(sessions, writes, strict=True):
            self.now.write(session, write)
        if random.random() < 0.7:
            for session in sessions:
                if session in self.now.ready:
                    self.now.end(session, commit=True)

    @rule(seed=seeds)
    def guarding(self, seed: int) -> None:
        """Change the mode of a link, guard or unguard it, pause or resume it."""
        random = Random(seed)
        if not self.now.idle:
            self.go_on(random)
            return
        random.choice([self.mode, self.guard, self.pause])(random, random.choice(list(self.now.links)))

    def mode(self, random: Random, table: str) -> None:
        """Enforce a link, mostly one that is ready for it, or observe it; or the one after the other."""
        enforced = [name for name, guard in self.now.guards.items() if guard.mode == "enforce"]
        kinds = count_kinds(self.now.setting, self.now.committed)
        ready = [name for name in kinds if name not in enforced and not set(kinds[name]) - {"linked"}]
        wanted = "observe" if enforced and random.random() < 0.4 else "enforce"
        if random.random() < 0.7:
            table = random.choice((enforced if wanted == "observe" else ready) or [table])
        self.set_mode(random, table, wanted)
        if self.now.guards[table].enforces and self.now.idle and not self.now.open and random.random() < 0.7:
            session = random.choice(self.now.idle)
            self.offend(random, session, self.now.begin(session), table)
            if self.now.idle and not self.now.open and random.random() < 0.5:
                self.set_mode(random, table, "observe")

    def set_mode(self, random: Random, table: str, mode: str) -> None:
        """Call what the engine has for it."""
        self.call(random, Unit("set_mode", table, mode=mode), f"flowguard.set_mode('{table}', '{mode}', 'flow')")

    def offend(self, random: Random, session: Session, unit: Unit, table: str) -> None:
        """Write what enforcement refuses."""
        self.now.write(session, self.now.draw(random).offend(self.now.view(unit), table))
        self.now.end(session, commit=True)

    def guard(self, random: Random, table: str) -> None:
        """Take up a link, or all that nobody guards; or let go of one."""
        loose = [name for name, guard in self.now.guards.items() if not guard.guarded]
        if not loose and random.random() < 0.8:
            self.call(random, Unit("unguard", table), f"flowguard.unguard('{table}', 'flow')")
            return
        for name in loose if random.random() < 0.6 else [table]:
            if self.now.idle:
                self.call(random, Unit("guard", name), f"flowguard.guard('{name}', 'flow')")

    def pause(self, random: Random, table: str) -> None:
        """Pause a guarded link, or resume it; rather one that is paused."""
        paused = [name for name, guard in self.now.guards.items() if guard.paused]
        table = random.choice(paused) if paused and random.random() < 0.8 else table
        guard = self.now.guards[table]
        if not guard.guarded or any(unit.link == table for unit in self.now.open.values()):
            return  # it might find nothing to pause
        kind = "resume" if guard.paused and random.random() < 0.9 else "pause"
        self.call(random, Unit(kind, table), f"flowguard.{kind}('{table}', 'flow')")

    @rule(seed=seeds)
    def mending(self, seed: int) -> None:
        """Repair, or take a repair back, rather one that did something; now and then see to it that there is work."""
        random = Random(seed)
        full = [number for number, run in self.now.runs.items() if run is None or run.links or run.gone]
        if not self.now.idle:
            self.go_on(random)
        elif self.now.runs and random.random() < (0.7 if full else 0.1):
            self.undo(random, random.choice((full or list(self.now.runs))[-3:]))
        elif not self.now.open and random.random() < 0.6:
            self.lapse(random)
        else:
            self.repair(random)

    def undo(self, random: Random, number: int) -> None:
        """Take a repair back."""
        self.call(random, Unit("undo", run=number), f"restored FROM flowguard.undo({number})")

    def lapse(self, random: Random) -> None:
        """Let rows miss their links while a guard is paused; then it is resumed and they are mended, mostly."""
        table = random.choice(("record", "asset", "asset"))
        if not self.now.guards[table].guarded:
            self.guard(random, table)
            return
        if not self.now.guards[table].paused:
            self.call(random, Unit("pause", table), f"flowguard.pause('{table}', 'flow')")
        session = random.choice(self.now.idle)
        unit = self.now.begin(session)
        for _ in range(random.choice((1, 2))):
            self.now.write(session, self.now.draw(random).wait(self.now.view(unit), table))
        self.now.end(session, commit=True)
        if random.random() < 0.9:
            self.call(random, Unit("resume", table), f"flowguard.resume('{table}', 'flow')")
        if random.random() < 0.8:
            self.repair(random, table)
        full = [number for number, run in self.now.runs.items() if run and (run.links or run.gone)]
        if full and random.random() < 0.85:
            self.undo(random, full[-1])

    def repair(self, random: Random, wanted: str | None = None) -> None:
        """Repair one link or all, once or twice."""
        table = random.choice([None, None, *([wanted] * 4 if wanted else self.now.links)])
        given = "relation => NULL" if table is None else f"relation => '{table}', link_column => 'flow'"
        size = random.choice((1, 2, 5000))
        for again in (False, True)[: random.choice((1, 1, 1, 2))]:
            alone = not self.now.open
            if self.now.idle:
                unit = Unit("repair", table, again=again and alone)
                # One that was refused does not go on in the next: each is judged by what it finds.
                self.call(random, unit, f"CALL flowguard.repair({given}, batch_size => {size}, resume => false)")

    def call(self, random: Random, unit: Unit, text: str) -> None:
        session = random.choice(self.now.idle)
        self.now.call(session, unit, text if text.startswith("CALL") else f"SELECT {text}")

    # --- The end

    def teardown(self) -> None:
        """Let everybody end, and look at all there is, unless the history has failed already."""
        with self.stack:
            if self.history is not None:
                self.bench.tally.done += self.history.done  # of one that hypothesis cut short, too
            if self.history is None or sys.exc_info()[0] is not None:
                return
            while self.now.open:
                self.now.end(self.now.ready[0], commit=True)
            self.now.check_lists()
            self.now.check_counts()
            if self.now.commits % 8 == 1:
                self.leave_no_trace()

    def leave_no_trace(self) -> None:
        """Invariant 9: without its guards the application's schema is what it was."""
        for table in self.now.links:
            self.now.call(self.now.idle[0], Unit("unguard", table), f"SELECT flowguard.unguard('{table}', 'flow')")
        assert self.bench.dump(self.dsn) == self.bench.schema(self.setting)


@pytest.fixture(scope="module")
def bench(databases: Any, engine_template: str, postgresql: Any) -> Iterator[Bench]:  # noqa: ANN401  conftest's classes
    """Make databases for histories, and drop their templates in the end."""
    made = Bench(databases, engine_template, postgresql.bin)
    with made.stack:
        yield made


@pytest.mark.parametrize("part", range(PARTS))
def test_histories(bench: Bench, part: int) -> None:
    """In parts, which `make nightly` shares out among its processes; what each process has done by now is enough."""

    class Here(Histories):
        pass

    Here.bench = bench
    tried = sized(ci=100 // PARTS, nightly=1000 // PARTS, steps=24)
    machine = seed(part)(Here) if tried.derandomize else Here  # what is the same each time is not so in each part
    run_state_machine_as_test(machine, settings=tried)
    bench.tally.histories += tried.max_examples
    assert not bench.tally.lacking(), f"of {bench.tally.histories} histories: {dict(bench.tally.done)}"
