"""A driver for two or three sessions on a real server: a test says who does what, the driver says who waited for whom.

A session is a list of steps, the ends of its transactions among them. `Stage.every_order` plays all orders in which
the steps can be done, each on rows set up anew: a step that comes to wait for a lock is left waiting while the others
go on, and its session takes part again once that step is done. `Stage.story` plays the one order that a test spells
out. Nothing here sleeps to let others come first. A wait is what pg_blocking_pids() says of a session whose statement
has not come back, and the next step begins when every session has come back or waits for one that is idle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import psycopg
from engine.postgres import Connection, rows, run
from psycopg import IsolationLevel

PATIENCE = 120
"""Seconds after which a story that does not go on has failed."""

LOOK_EVERY = 0.003
"""Seconds after which the server is asked whether a statement that has not come back waits."""

READ_COMMITTED = IsolationLevel.READ_COMMITTED
REPEATABLE_READ = IsolationLevel.REPEATABLE_READ
SERIALIZABLE = IsolationLevel.SERIALIZABLE

BLOCKERS = """
SELECT w.application_name, coalesce(b.application_name, ''), x.pid
  FROM pg_stat_activity w
 CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS x (pid)
  LEFT JOIN pg_stat_activity b ON b.pid = x.pid
 WHERE w.datname = current_database() AND w.application_name = ANY (%s)
"""
HOLDERS = """
SELECT DISTINCT a.application_name, a.pid
  FROM pg_locks l
  JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE a.datname = current_database() AND l.locktype = 'advisory' AND l.granted
"""


@dataclass(frozen=True)
class Step:
    """One thing that a session does. `told` is how a story tells it; a callable is given the session."""

    told: str
    do: str | Callable[[Session], object]
    alone: bool = False
    """It is a transaction by itself, as what must not run inside one."""
    ends: bool = False
    """It ends the transaction."""


Steps: TypeAlias = Sequence[Step | str]
"""What a session does, in order. SQL text tells itself."""

COMMIT = Step("commits", "COMMIT", ends=True)
ROLLBACK = Step("rolls back", "ROLLBACK", ends=True)


def by_itself(step: Step) -> Step:
    """Make a step a transaction by itself."""
    return replace(step, alone=True)


def as_step(given: Step | str) -> Step:
    """Make SQL text a step."""
    return Step(given, given) if isinstance(given, str) else given


@dataclass
class Tale:
    """What happened, in order, and how it ended for each session."""

    lines: list[str] = field(default_factory=list)
    ends: dict[str, str] = field(default_factory=dict)
    """For each session the end of its last transaction: "committed", "rolled back", or the SQLSTATE of the refusal."""
    refusals: dict[str, str] = field(default_factory=dict)
    """For each session that was refused something, the SQLSTATE."""
    waits: set[tuple[str, str]] = field(default_factory=set)
    """Who waited for whom."""
    done: list[str] = field(default_factory=list)
    """Whose transactions ended, in order."""
    steps: list[tuple[str, str]] = field(default_factory=list)
    """Which steps of whom were done, in order."""

    def __str__(self) -> str:
        return "".join(f"\n    {line}" for line in self.lines)


class Session:
    """A connection with a thread of its own, which does one step after the other."""

    def __init__(self, dsn: str) -> None:
        self.connection: Connection = psycopg.connect(dsn, autocommit=True)
        self.pid = self.connection.info.backend_pid
        self.connection.execute(f"SET statement_timeout = '{PATIENCE - 5}s'".encode())
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.name = ""
        self.story: Story
        self.steps: list[Step] = []
        self.step: Step | None = None
        self.future: Future[object] | None = None
        self.is_open = False
        self.waited_for: frozenset[str] = frozenset()
        self.polls_for: str | None = None
        """Whose lock a step that tries again and again is after: it never waits for it in the server."""
        self.found: object = None
        """What the last step gave: all rows of a query."""

    def join(self, story: Story, name: str) -> None:
        """Take part in a story, under this name."""
        if self.name != name:
            self.connection.execute("SELECT set_config('application_name', %s, false)", [name])
        self.name = name
        self.story = story
        self.steps = []
        self.step = self.future = self.found = self.polls_for = None
        self.is_open = False

    def close(self) -> None:
        self.thread.shutdown()
        self.connection.close()

    # --- What the driver does with it

    def start(self, step: Step) -> None:
        """Begin a step, with a transaction before it where there is none."""
        self.step, self.waited_for = step, frozenset()
        self.future = self.thread.submit(self._do, step)

    def _do(self, step: Step) -> object:
        if not (self.is_open or step.alone):
            level = self.story.level.name.replace("_", " ")
            self.connection.execute(f"BEGIN ISOLATION LEVEL {level}".encode())
        if callable(step.do):
            return step.do(self)
        cursor = self.connection.execute(step.do.encode())
        return cursor.fetchall() if cursor.description else None

    def is_done(self) -> bool:
        """Say whether the step that was begun has come back."""
        return self.future is not None and self.future.done()

    def note_wait(self, others: frozenset[str]) -> None:
        """Write down for whom its step waits, where that is news."""
        assert self.step is not None
        if others - self.waited_for:
            self.story.tale.lines.append(f"{self.name}: {self.step.told} -- waits for {', '.join(sorted(others))}")
            self.story.tale.waits |= {(self.name, other) for other in others}
        self.waited_for |= others

    def comes_after(self, other: Session) -> bool:
        """Say whether its step waited, and that of the other either did not or was what it waited for."""
        return not other.waited_for or (other.name in self.waited_for and self.name not in other.waited_for)

    def finish(self) -> None:
        """Write down a step that came back. One that was refused ends the transaction, and what was to follow in it."""
        assert self.future is not None
        assert self.step is not None
        tale, step, error = self.story.tale, self.step, self.future.exception()
        line = f"{self.name}{' goes on' if self.waited_for else ''}: {step.told}"
        if error is None:
            self.found = self.future.result()
            self.is_open = not (step.alone or step.ends)
            tale.lines.append(line)
            tale.steps.append((self.name, step.told))
            if not self.is_open:
                tale.ends[self.name] = "rolled back" if step is ROLLBACK else "committed"
                tale.done.append(self.name)
        elif isinstance(error, psycopg.Error):
            self.is_open = False
            code = error.sqlstate or "connection lost"
            tale.lines.append(f"{line} -- refused with {code}: {str(error).strip().splitlines()[0]}")
            tale.ends[self.name] = tale.refusals[self.name] = code
            tale.done.append(self.name)
            if not self.connection.closed:
                self.connection.rollback()
            while self.steps and not (step.alone or step.ends or self.steps.pop(0).ends):
                pass
        else:
            raise error
        self.step = self.future = self.polls_for = None

    # --- What a test lets it do

    def does(self, *steps: Step | str) -> None:
        """Do steps, of which none may wait or be refused."""
        for step in steps:
            assert self._tell(step) == frozenset(), f"{self.name} waits{self.story.tale}"
            assert self.name not in self.story.tale.refusals, self.story.tale

    def waits(self, step: Step | str, behind: Session) -> None:
        """Begin a step that must come to wait for the other session."""
        found = self._tell(step)
        assert behind.name in found, f"{self.name} waits for {sorted(found) or 'nobody'}{self.story.tale}"

    def still_waits(self) -> None:
        """State that the step which came to wait has not come back."""
        assert self.future is not None, f"{self.name} has gone on{self.story.tale}"

    def goes_on(self) -> None:
        """State that the step which came to wait has been done."""
        assert self.future is None, f"{self.name} still waits{self.story.tale}"
        assert self.name not in self.story.tale.refusals, self.story.tale

    def is_refused(self, code: str, step: Step | str | None = None) -> None:
        """State that a step, or the one that came to wait, is refused with this SQLSTATE."""
        if step is not None:
            assert self._tell(step) == frozenset(), f"{self.name} waits{self.story.tale}"
        assert self.future is None, f"{self.name} still waits{self.story.tale}"
        assert self.story.tale.refusals.get(self.name) == code, self.story.tale

    def is_killed(self) -> None:
        """End its server process while its step is under way."""
        assert self.future is not None, f"{self.name} does nothing{self.story.tale}"
        run(self.story.stage.observer, "SELECT pg_terminate_backend(%s)", self.pid)
        wait([self.future], PATIENCE)
        self.story.settle()

    def _tell(self, step: Step | str) -> frozenset[str]:
        assert self.future is None, f"{self.name} still waits{self.story.tale}"
        self.start(as_step(step))
        return self.story.settle().get(self.name, frozenset())


@dataclass
class Story:
    """The sessions that take part, the level of their transactions, and what has happened so far."""

    stage: Stage
    level: IsolationLevel
    sessions: Sequence[Session]
    tale: Tale = field(default_factory=Tale)

    def settle(self) -> Mapping[str, frozenset[str]]:
        """Wait until each session has come back or waits for one that is idle; gives who waits for whom.

        In a ring of sessions that wait for each other nobody is idle: one is refused by the server, soon.
        """
        deadline = time.monotonic() + PATIENCE
        names = {session.name for session in self.sessions}
        blockers: Mapping[str, frozenset[str]] = {}
        while flying := [session for session in self.sessions if session.future is not None]:
            wait([session.future for session in flying if session.future], LOOK_EVERY, FIRST_COMPLETED)
            # Whoever let another one go on comes before it in the tale, also where its own answer is slower.
            for session in sorted(flying, key=lambda session: bool(session.waited_for)):
                is_early = session.waited_for and any(
                    other.future and session.comes_after(other) and not blockers.get(other.name) for other in flying
                )
                if session.is_done() and not is_early:
                    session.finish()
            flying = [session for session in flying if session.future is not None]
            blockers = self.stage.blockers(self.sessions) if flying else {}
            if (
                flying
                and all(blockers[session.name] for session in flying)
                and names.issuperset(set().union(*blockers.values()))
            ):
                for session in flying:
                    session.note_wait(blockers[session.name])
                idle = {session.name for session in self.sessions if session.future is None}
                if not any(session.is_done() for session in flying) and all_lead_to(idle, blockers):
                    return blockers
            assert time.monotonic() < deadline, f"it does not go on, {blockers}:{self.tale}"
        return {}

    def end(self) -> None:
        """Roll back what a test left open: idle sessions first, so that those that wait for them come back."""
        for session in sorted(self.sessions, key=lambda session: session.future is not None):
            if session.future is not None:
                wait([session.future], PATIENCE)
            if not session.connection.closed:
                session.connection.rollback()


def all_lead_to(idle: set[str], blockers: Mapping[str, frozenset[str]]) -> bool:
    """Say whether all who wait do so for idle ones in the end, and none in a ring."""
    settled = set(idle)
    waiting = dict(blockers)
    while found := [who for who, others in waiting.items() if others <= settled]:
        settled.update(found)
        for who in found:
            del waiting[who]
    return not waiting


class Stage:
    """A database, the sessions that meet in it, and what sets up its rows before each story."""

    def __init__(
        self,
        dsn: str,
        app: Connection,
        observer: Connection,
        prepare: Callable[[Connection], object],
        mode: str = "observe",
    ) -> None:
        self.dsn = dsn
        self.app = app
        """The owner's connection, which sets up and looks at what is committed; each statement commits by itself."""
        self.observer = observer
        """A superuser's, which sees every session, also those that a step opens by itself."""
        self.prepare = prepare
        self.mode = mode
        self.pool: list[Session] = []
        self.seen: list[object] = []
        """States whose list of what is wrong was found to be right."""

    def close(self) -> None:
        for session in self.pool:
            session.close()

    def every_order(
        self,
        level: IsolationLevel = READ_COMMITTED,
        *,
        setup: str | Callable[[Connection], object] = "",
        most: int = 200,
        **parts: Steps,
    ) -> Iterator[Tale]:
        """Play every order in which the sessions can do their steps; yields each tale when all has ended.

        Depth first: the next tale is the last one up to a turn, where the session after goes first. More than `most`
        orders are an error of the test.
        """
        turns: list[int] = []
        for _ in range(most):
            with self.story(level, *parts, setup=setup) as story:
                for session, steps in zip(story.sessions, parts.values(), strict=True):
                    session.steps = [as_step(step) for step in steps]
                    assert session.steps[-1].ends or session.steps[-1].alone, f"{session.name} leaves it open"
                choices = play(story, turns)
            yield story.tale
            turns += [0] * (len(choices) - len(turns))
            # Where a deadlock took another victim than before, there may have been fewer turns or fewer to choose from.
            del turns[len(choices) :]
            while turns and turns[-1] + 1 >= choices[len(turns) - 1]:
                turns.pop()
            if not turns:
                return
            turns[-1] += 1
        raise AssertionError(f"there are more than {most} orders")

    @contextmanager
    def story(
        self,
        level: IsolationLevel = READ_COMMITTED,
        *names: str,
        setup: str | Callable[[Connection], object] = "",
    ) -> Iterator[Story]:
        """Set up the rows and give sessions of these names to the block; what it leaves open is rolled back."""
        self.prepare(self.app)
        if callable(setup):
            setup(self.app)
        elif setup:
            run(self.app, setup)
        for lost in [session for session in self.pool if session.connection.closed]:
            lost.close()
            self.pool.remove(lost)
        while len(self.pool) < len(names):
            self.pool.append(Session(self.dsn))
        story = Story(self, level, self.pool[: len(names)])
        for session, name in zip(story.sessions, names, strict=True):
            session.join(story, name)
        try:
            yield story
        finally:
            story.end()

    def blockers(self, sessions: Sequence[Session]) -> dict[str, frozenset[str]]:
        """Ask the server for whom each of these sessions waits at this moment, if its step has not come back.

        An idle one is waited for by its own connection only: another that bears its name is about to close.
        """
        idle = {session.name: session.pid for session in sessions if session.future is None}
        flying = [session for session in sessions if session.future is not None]
        found: dict[str, set[str]] = {session.name: set() for session in flying}
        for who, whom, pid in rows(self.observer, BLOCKERS, [*found]):
            if who != whom:
                found[who].add(whom if whom and idle.get(whom, pid) == pid else f"process {pid}")
        if any(session.polls_for for session in flying):
            holders = {name for name, pid in rows(self.observer, HOLDERS) if idle.get(name, pid) == pid}
            for session in flying:
                found[session.name].update({session.polls_for or ""} & holders)
        return {who: frozenset(others) for who, others in found.items()}


def play(story: Story, turns: Sequence[int]) -> list[int]:
    """Play one order: at each turn the session at that place among those that are ready; after the turns, the first.

    Gives how many were ready at each turn.
    """
    choices: list[int] = []
    while ready := [session for session in story.sessions if session.steps and session.future is None]:
        turn = turns[len(choices)] if len(choices) < len(turns) else 0
        session = ready[min(turn, len(ready) - 1)]
        choices.append(len(ready))
        session.start(session.steps.pop(0))
        story.settle()
    assert not any(session.future for session in story.sessions), f"nobody can go on:{story.tale}"
    return choices
