"""Sessions on a real server whose statements may wait for one another, without a thread: sent, and looked after.

A statement is sent and not waited for. `settle` waits until each session has answered or waits for a lock, for longer
than it takes the server to look for a deadlock: then nothing happens any more until another session goes on.
"""

from __future__ import annotations

import select
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psycopg
from engine.postgres import Connection
from hypothesis import note
from psycopg import pq

DEADLOCK_TIMEOUT = 0.005  # seconds, as set for the database
PATIENCE = 30.0  # seconds


@dataclass(frozen=True)
class Answer:
    """What came of a statement: an SQLSTATE, "" where it went through, the message, and the rows that it returned."""

    code: str
    message: str
    rows: list[tuple[str | None, ...]]


class Session:
    """A connection that sends statements one at a time and writes them down."""

    def __init__(self, name: str, dsn: str) -> None:
        self.name = name
        self.connection: Connection = psycopg.connect(dsn, autocommit=True)
        self.pid = self.connection.info.backend_pid
        self.sent: str | None = None
        self.waited = False

    def send(self, text: str) -> None:
        """Send a statement; the session is busy until its answer was taken."""
        assert self.sent is None, f"{self.name} is still busy with {self.sent}"
        note(f"{self.name}> {text};")
        self.sent = text
        self.waited = False
        self.connection.pgconn.send_query(text.encode())

    def answer(self) -> Answer | None:
        """Take the answer if it is there."""
        wire = self.connection.pgconn
        wire.consume_input()
        if wire.is_busy():
            return None
        code, message = "", ""
        rows: list[tuple[str | None, ...]] = []
        while (result := wire.get_result()) is not None:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                code = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
                message = result.error_message.decode().strip()
            elif result.status == pq.ExecStatus.TUPLES_OK:
                rows += [
                    tuple(
                        None if value is None else value.decode()
                        for value in (result.get_value(r, c) for c in range(result.nfields))
                    )
                    for r in range(result.ntuples)
                ]
        if self.waited or code:
            note(f"{self.name}: {message or 'goes on'}")
        self.sent = None
        return Answer(code, message, rows)


class Sessions:
    """All sessions of a history, and one that watches."""

    def __init__(self, dsn: str, names: str) -> None:
        with ExitStack() as stack:
            self.watcher: Connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
            self.named = {name: Session(name, dsn) for name in names}
            for session in self.named.values():
                stack.enter_context(session.connection)
                session.connection.execute("SET statement_timeout = '20s'")
            self.stack = stack.pop_all()

    def close(self) -> None:
        """End all sessions, whatever they are waiting for."""
        for session in self.named.values():
            if session.sent is not None:
                session.connection.cancel_safe()
                while session.answer() is None:
                    time.sleep(0.001)
            session.connection.close()
        self.stack.close()

    @property
    def busy(self) -> list[Session]:
        """Sessions whose statement was not answered yet."""
        return [session for session in self.named.values() if session.sent is not None]

    def settle(self) -> list[tuple[Session, Answer]]:
        """Wait until every session has answered or waits for a lock; gives the answers as they came."""
        answers = []
        deadline = time.monotonic() + PATIENCE
        while self.busy:
            select.select([session.connection.pgconn.socket for session in self.busy], [], [], DEADLOCK_TIMEOUT)
            came = [(session, found) for session in self.busy if (found := session.answer()) is not None]
            answers += came
            if not came:
                waiting = self.waiting()
                if waiting and waiting == {session.pid for session in self.busy}:
                    break
                assert time.monotonic() < deadline, [(session.name, session.sent) for session in self.busy]
        for session in self.busy:
            if not session.waited:
                note(f"{session.name}: waits")
                session.waited = True
        return answers

    def waiting(self) -> set[int]:
        """Give the processes that wait for a lock for so long that there is no deadlock."""
        query = (
            "SELECT l.pid FROM pg_locks l WHERE NOT l.granted AND l.pid = ANY (%s) "
            "AND l.waitstart < clock_timestamp() - make_interval(secs => %s)"
        )
        pids: list[Any] = [session.pid for session in self.busy]
        return {pid for (pid,) in self.watcher.execute(query, (pids, 3 * DEADLOCK_TIMEOUT))}
