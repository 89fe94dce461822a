"""Plays a page of docs/errors/: runs its statements and commands, and compares what the server says with what it shows.

A page goes on from the tables and rows of README. Its sql and sh blocks are run as they stand, from first to last;
after one that a text block follows, the last message is that text, and otherwise there is no error. `-- session B` goes
on in another session, `-- as postgres` in one of that role; a statement that has to wait for another session is waited
for later. In a text, … stands for what differs from run to run, and runs of white space count as one blank.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from engine.postgres import one
from messages.sites import ROOT
from messages.stage import OWNER, Said, hear, normal, pattern
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

DIRECTORY = ROOT / "docs" / "errors"
ALTERNATIVES = re.compile(r"^-- (?:session|as) (\w+)\n", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: sql or sh, its text, and what the page shows as the answer; None where it is to go through."""

    language: str
    text: str
    answer: str | None


def blocks(page: str) -> Iterator[Block]:
    """Give the blocks of a page that are run, each with its answer."""
    fenced = re.findall(r"^```(\w+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    for (language, text), (following, answer) in zip(fenced, [*fenced[1:], ("", "")], strict=True):
        if language != "text":
            assert language in {"sql", "sh"}, language
            yield Block(language, text, answer if following == "text" else None)


def shows(answer: str, said: str) -> bool:
    """Tell whether a text shows what was said."""
    return re.search(pattern(answer), normal(said)) is not None


def as_psql(said: Said) -> str:
    """Give a message as psql shows it."""
    parts = [f"{said.severity}:  {said.message}"]
    parts += [f"DETAIL:  {said.detail}"] if said.detail else []
    parts += [f"HINT:  {said.hint}"] if said.hint else []
    return "\n".join(parts)


@dataclass
class Stage:
    """The database that a page is played on, with a session for each name that the page gives."""

    dsn: str
    as_role: Callable[[str, str], str]
    programs: Path
    pool: ThreadPoolExecutor
    sessions: dict[str, psycopg.Connection[tuple[object, ...]]] = field(default_factory=dict)
    waiting: dict[str, Future[list[Said]]] = field(default_factory=dict)

    def sql(self, text: str, *, is_answered: bool = False) -> list[Said]:
        """Run a block of statements and give all that was said; where an answer is due, waiting ones are waited for."""
        said: list[Said] = []
        parts = ALTERNATIVES.split(text)
        for name, script in [("A", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]:
            said += self._step(name, script)
        while is_answered and self.waiting and not [one for one in said if one.severity == "ERROR" or one.hint]:
            done, _ = wait(self.waiting.values(), timeout=30, return_when=FIRST_COMPLETED)
            assert done, "sessions wait for each other for ever"
            for name, future in list(self.waiting.items()):
                if future.done():
                    said += self.waiting.pop(name).result()
        for name, session in self.sessions.items():
            if name not in self.waiting and session.info.transaction_status == TransactionStatus.INERROR:
                session.execute("ROLLBACK")
        return said

    def sh(self, text: str) -> tuple[bool, str]:
        """Run commands in the checkout; tells whether they went through, and what they printed."""
        info = conninfo_to_dict(self.dsn)
        environment = {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            **{f"PG{name.upper()}": str(info[name]) for name in ("host", "port", "user")},
            "PGDATABASE": str(info["dbname"]),
        }
        result = subprocess.run(
            ["/bin/bash", "-euo", "pipefail"],
            input=text,
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return result.returncode == 0, result.stdout + result.stderr

    def _step(self, name: str, script: str) -> list[Said]:
        """Run statements in a session, until they are through or wait for another session."""
        before = self.waiting.pop(name).result(60) if name in self.waiting else []
        if not script.strip():
            return before
        if name not in self.sessions:
            role = name if name.islower() else OWNER
            self.sessions[name] = psycopg.connect(self.as_role(self.dsn, role), autocommit=True)
            self.sessions[name].execute("SET timezone = 'UTC'")
        session = self.sessions[name]
        future = self.pool.submit(hear, session, script, keep=True)
        with psycopg.connect(self.as_role(self.dsn, "postgres"), autocommit=True) as watcher:
            pid = session.info.backend_pid
            while not future.done():
                if one(watcher, "SELECT cardinality(pg_blocking_pids(%s)) > 0", pid):
                    # Two that wait for each other are ended by the server; nobody else has to come.
                    time.sleep(0.02)
                    self.waiting[name] = future
                    return before
                time.sleep(0.005)
        return before + future.result()


def play(page: Path, stage: Stage) -> None:
    """Run a page from top to bottom."""
    played = 0
    for block in blocks(page.read_text()):
        played += 1
        if block.language == "sh":
            succeeded, printed = stage.sh(block.text)
            assert succeeded == (block.answer is None), printed
            assert block.answer is None or shows(block.answer.replace("ERROR:  ", ""), printed), printed
            continue
        said = stage.sql(block.text, is_answered=block.answer is not None)
        if block.answer is None:
            assert [as_psql(one) for one in said if one.severity == "ERROR"] == [], block.text
            continue
        told = [one for one in said if one.severity == "ERROR" or one.hint]
        assert len([one for one in told if one.severity == "ERROR"]) <= 1, told
        assert told, f"nothing was said: {block.text}"
        assert shows(block.answer, as_psql(told[-1])), as_psql(told[-1])
        if told[-1].severity == "ERROR" and page.stem.startswith("FG"):
            assert told[-1].code.startswith("FG")
    assert played, page
    left = [one for future in stage.waiting.values() for one in future.result(30) if one.severity == "ERROR"]
    assert left == []
