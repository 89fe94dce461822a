"""Kills a server at random moments, again and again, while an application writes and links are guarded and repaired.

`make faults` runs it. Each round starts the server on what the last kill left, checks what is there against what the
writers were told, lets guard and repair go on until they find nothing left to do, checks again, and then lets writers
and one of guard, repair and undo work until the next kill. In the end the links are unguarded, and the schema must be
what it was.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import click
import psycopg
from engine.postgres import Connection, one, rows, run
from faults.application import DDL, LINKS, REGISTRATION, WRITERS, Facts, Transaction, Writer
from faults.mortal import Mortal, mortal
from faults.truth import Database, resolve
from servers import chosen_bindir

from pyflowguard import online, repair
from pyflowguard.errors import FlowguardError

THEMES = ("write", "guard", "repair", "undo")
LONGEST = 1.0  # seconds that a theme goes on before the kill
LEAST = 50  # transactions before it
MANY = 20  # kills, among which an undo has something to put back
PATIENCE = 60  # seconds after which what must begin has not
LOST_RACES = ("40P01", "55P03", "40001")
T = TypeVar("T")


@dataclass
class Report:
    """What came of it; `problems` are rows lost and invariants broken, each with the round."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    in_doubt: int = 0
    rows: int = 0
    links: int = 0
    restored: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Rows and transactions that are gone though they were acknowledged."""
        return sum("lost: " in problem for problem in self.problems)

    def __str__(self) -> str:
        during = ", ".join(f"{number} during {theme}" for theme, number in sorted(self.kills.items()))
        return (
            f"seed {self.seed}: {sum(self.kills.values())} kills ({during})\n"
            f"{self.acknowledged} transactions acknowledged, {self.in_doubt} cut off at their end, {self.rows} rows "
            f"written\n{self.links} links written by repair, {self.restored} put back by undo\n"
            f"{self.lost} lost, {len(self.problems) - self.lost} invariants broken"
        )


class Keeper:
    """Guards, repairs or undoes, beside the writers, until the server goes."""

    def __init__(self, theme: str, facts: Facts, seed: str) -> None:
        self.theme = theme
        self.facts = facts
        self.random = random.Random(seed)
        self.loosened: set[str] = set()
        """Links that were unguarded in this round."""
        self.doing = "writing only"
        self.is_at_it = threading.Event()
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)

    def start(self, dsn: str) -> None:
        self.dsn = dsn
        self.thread.start()

    def work(self) -> None:
        try:
            with psycopg.connect(self.dsn, autocommit=True, application_name="keeper") as connection:
                while not self.is_over.is_set():
                    getattr(self, self.theme)(connection)
        except (psycopg.OperationalError, FlowguardError) as error:
            # A server that was killed is what it is all about; the main thread knows.
            if not self.is_over.is_set():
                self.is_over.wait(1)
            if not self.is_over.is_set():
                self.facts.problems.append(f"{self.theme}: {error}")
        except Exception as error:  # noqa: BLE001  whatever it is, the thread must tell it
            self.facts.problems.append(f"{self.theme}: {error!r}")
        finally:
            self.is_at_it.set()

    def write(self, _: Connection) -> None:
        self.is_at_it.set()
        self.is_over.wait(PATIENCE)

    def guard(self, connection: Connection) -> None:
        """Take guards away and put them on again, online."""
        self.unguard(connection, self.random.sample(LINKS, self.random.randrange(1, len(LINKS) + 1)))
        self.is_over.wait(0.1)
        self.is_at_it.set()
        self.put_on()

    def repair(self, connection: Connection) -> None:
        """Let mistakes come in, and repair them while the guard is on and off by turns."""
        self.let_mistakes_in(connection)
        if self.random.random() < 0.5:
            self.put_on()
        self.mend()

    def let_mistakes_in(self, connection: Connection) -> None:
        self.unguard(connection, LINKS)
        self.is_over.wait(0.3)

    def mend(self) -> None:
        self.is_at_it.set()
        self.doing = "repair"
        for _ in range(3):
            again(lambda: repair.repair(self.dsn, batch_size=self.random.choice([5, 20, 200])))

    def undo(self, connection: Connection) -> None:
        """Take the latest run back that wrote something, some links at a time.

        Nothing is guarded meanwhile, so that what was put back follows nobody: see Database.not_restored().
        """
        found = rows(
            connection,
            "SELECT run_id FROM flowguard.run WHERE status <> 'undone' "
            "AND linked + translated + quarantined + unlinked + followed > 0 ORDER BY run_id DESC LIMIT 1",
        )
        if not found:
            self.let_mistakes_in(connection)
            self.mend()
            return
        self.unguard(connection, LINKS)
        self.is_at_it.set()
        self.doing = "undo"
        remaining = 1
        while remaining:
            some = self.random.choice([10, 100, 1000])
            remaining = again(partial(repair.undo, found[0][0], self.dsn, max_rows=some)).remaining

    def put_on(self) -> None:
        self.doing = "guard"
        online.guard(self.dsn, lock_timeout=timedelta(seconds=0.3))

    def unguard(self, connection: Connection, links: Sequence[str]) -> None:
        self.doing = "unguard"
        self.loosened |= set(links)
        for link in links:
            again(partial(run, connection, "SELECT flowguard.unguard(%s::regclass, 'flow')", link))


def again(call: Callable[[], T]) -> T:
    """Call it, and again where it lost a race with the writers, which is theirs to win."""
    while True:
        try:
            return call()
        except (psycopg.Error, FlowguardError) as error:  # noqa: PERF203  a race is rare
            code = error.sqlstate or "" if isinstance(error, psycopg.Error) else str(error)
            if not any(lost in code for lost in LOST_RACES):
                raise


class Harness:
    """A server with the application on it, and all that was written down of what it was told."""

    def __init__(self, server_: Mortal, seed: int, bin_directory: Path) -> None:
        self.server = server_
        self.seed = seed
        self.bin = bin_directory
        self.random = random.Random(seed)
        self.facts = Facts()
        self.report = Report(seed)
        self.round = 0
        self.transactions: list[Transaction] = []
        self.first_token = 0
        self.restored: set[int] = set()
        self.loosened: set[str] = set()

    # --- The rounds

    def run(self, kills: int, themes: Sequence[str] = THEMES) -> Report:
        """Make so many rounds of life and death, and take the guard off in the end."""
        with self.owner() as app:
            run(app, DDL)
            before = self.schema()
            run(app, REGISTRATION)
        online.guard(self.server.dsn())
        with psycopg.connect(self.server.dsn(user="postgres"), autocommit=True) as admin:
            admin.execute("CHECKPOINT")  # what was set up is not what a careless server may lose
        for self.round in range(1, kills + 1):
            self.live(themes[self.round % len(themes)])
            self.server.start()
            self.look(set(LINKS) - self.loosened)
            self.go_on(listed=self.round % 3 == 0 or self.round == kills)
        self.take_off(before)
        self.sum_up()
        return self.report

    def live(self, theme: str) -> None:
        """Let everybody work for a while, then kill the server."""
        seed = f"{self.seed}-{self.round}"
        self.first_token = next(self.facts.tokens)
        writers = [Writer(self.facts, number, seed) for number in range(WRITERS)]
        keeper = Keeper(theme, self.facts, seed)
        workers: list[Writer | Keeper] = [*writers, keeper]
        for each in workers:
            each.start(self.server.dsn())
        if not keeper.is_at_it.wait(PATIENCE):
            self.facts.problems.append(f"{theme} does not begin")
        deadline = time.monotonic() + PATIENCE
        while sum(len(writer.transactions) for writer in writers) < LEAST and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(self.random.uniform(0, LONGEST))
        doing = keeper.doing
        self.server.kill()
        for each in workers:
            each.is_over.set()
        for each in workers:
            each.thread.join(PATIENCE)
            if each.thread.is_alive():
                self.facts.problems.append(f"{theme}: a thread does not end")
        self.report.kills[doing] += 1
        self.loosened = keeper.loosened
        self.transactions = [transaction for writer in writers for transaction in writer.transactions]

    def look(self, strict: set[str]) -> None:
        """Check what recovery has brought back, and go on with what was being undone."""
        with psycopg.connect(self.server.dsn(user="postgres"), autocommit=True) as admin:
            resolve(admin, self.facts, self.transactions, self.random)
        with self.owner() as app:
            database = Database(app, self.facts)
            self.facts.problems += database.problems(strict)
            self.facts.problems += database.not_restored(self.restored, self.first_token)
            if self.undo_to_the_end(app):
                database = Database(app, self.facts)
                self.facts.problems += database.not_restored(self.restored, self.first_token)
            self.restored = database.restored()
        self.note()

    def go_on(self, *, listed: bool) -> None:
        """Guard and repair again, as whoever was interrupted would: both end, and then find nothing left to do."""
        dsn = self.server.dsn()
        online.guard(dsn)
        with self.owner() as app:
            self.agree(app)
            # A run that was stopped goes on where it was; what was written behind it without a guard is the next one's.
            for _ in range(2):
                repair.repair(dsn)
            left = online.guard(dsn).not_valid
            again, once_more = online.guard(dsn).steps, repair.repair(dsn)
            if left or again:
                self.facts.problems.append(f"guard does not come to its end: {left} {again}")
            if once_more.linked + once_more.translated + once_more.quarantined + once_more.unlinked:
                self.facts.problems.append(f"repair does not come to its end: {once_more}")
            database = Database(app, self.facts)
            self.facts.problems += [*database.problems(set(LINKS), listed=listed), *database.missed()]
            running = rows(app, "SELECT run_id, status FROM flowguard.run WHERE status = 'running'")
            if running:
                self.facts.problems.append(f"runs that are over are still called running: {running}")
        self.note()

    def undo_to_the_end(self, app: Connection) -> bool:
        """Go on with an undo that was interrupted; whether there was one."""
        found = rows(app, "SELECT run_id FROM flowguard.run WHERE status = 'undoing'")
        for (run_id,) in found:
            first, second = repair.undo(run_id, self.server.dsn()), repair.undo(run_id, self.server.dsn())
            if first.remaining or second.restored or second.skipped or second.remaining:
                self.facts.problems.append(f"undo of run {run_id} does not come to its end: {first} {second}")
        return bool(found)

    def agree(self, app: Connection) -> None:
        """Mend what repair leaves to people: records that disagree with their import since there was no guard."""
        query = (
            "UPDATE record r SET flow = NULL FROM import i WHERE i.id = r.parent AND r.flow IS NOT NULL "
            "AND r.flow IS DISTINCT FROM i.flow AND EXISTS (SELECT FROM flow f WHERE f.id = r.flow) "
            "RETURNING r.id, r.flow"
        )
        for key, link in rows(app, query):
            self.facts.rows["record"][key].values["flow"] = link
            self.facts.rows["record"][key].links.add(link)

    def take_off(self, before: str) -> None:
        """Take the guard off: the application's schema is what it was."""
        with self.owner() as app:
            self.report.links = one(app, "SELECT count(*) FROM flowguard.repair_change")
            self.report.restored = one(app, "SELECT coalesce(sum(restored), 0) FROM flowguard.repair_run")
            for link in LINKS:
                run(app, "SELECT flowguard.unguard(%s::regclass, 'flow')", link)
            for link in LINKS:
                run(app, "SELECT flowguard.drop_link(%s::regclass, 'flow')", link)
        if self.schema() != before:
            self.facts.problems.append("invariant 9: the schema is not what it was before")
        self.note()

    # --- Small steps

    @contextmanager
    def owner(self) -> Iterator[Connection]:
        with psycopg.connect(self.server.dsn(), autocommit=True) as connection:
            yield connection

    def schema(self) -> str:
        """Give the application's schema as pg_dump writes it, but for a line that differs each time."""
        command = [str(self.bin / "pg_dump"), "--schema-only", "--schema=public", "--dbname", self.server.dsn()]
        dumped = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return "\n".join(line for line in dumped.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))

    def note(self) -> None:
        """Take over what was found, with the round."""
        self.report.problems += [f"round {self.round}: {problem}" for problem in self.facts.problems]
        self.facts.problems.clear()

    def sum_up(self) -> None:
        self.report.acknowledged, self.report.in_doubt = self.facts.acknowledged, self.facts.in_doubt
        self.report.rows = self.facts.written


def not_shown(report: Report, themes: Sequence[str]) -> Iterator[str]:
    """Name what so many kills ought to have hit, or to have done, and did not: nothing is shown of it."""
    for theme in {"guard", "repair", "undo"} & set(themes):
        if not report.kills[theme]:
            yield f"no kill fell during {theme}"
    if "repair" in themes and not report.links:
        yield "repair has written no link"
    if "undo" in themes and not report.restored:
        yield "undo has put nothing back"


@click.command()
@click.option("--kills", default=50, show_default=True, help="How often the server is killed.")
@click.option("--seed", type=int, default=None, help="Draw the same again, as far as time allows.")
@click.option("--only", type=click.Choice(THEMES), multiple=True, help="What is interrupted.")
def main(kills: int, seed: int | None, only: tuple[str, ...]) -> None:
    """Kill a server again and again, and print what came of it; ends with 1 where something was lost or broken."""
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    click.echo(f"seed {seed}")
    with mortal(chosen_bindir()) as made:
        report = Harness(made, seed, made.cluster.bin).run(kills, only or THEMES)
    if kills >= MANY:
        report.problems += not_shown(report, only or THEMES)
    for problem in report.problems:
        click.echo(problem)
    click.echo(str(report))
    sys.exit(1 if report.problems else 0)


if __name__ == "__main__":
    main()
