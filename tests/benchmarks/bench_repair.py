"""Measures how repair and undo grow with the rows: time as a ratio to one ideal UPDATE, and memory.

`make bench-repair` runs it. The ideal is one `UPDATE … FROM` a table in which the links stand already, of the same rows
under the same foreign keys, without our triggers and without a ledger. Repair writes each link into its ledger too, and
commits batch by batch. The tables, the turns that the contestants take and the clock are those of bench.py.
"""

from __future__ import annotations

import random
import statistics
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import psycopg
from benchmarks import bench
from benchmarks.bench import GUARD, LIMIT, Answer, Case, Connection, Laboratory, Size

from pyflowguard.present import new_console, new_table
from pyflowguard.repair import BATCH_SIZE
from pyflowguard.server import wheel_bindir

SIZES = (10**4, 10**5, 10**6)
ROUNDS = {10**4: 5, 10**5: 3}
"""How many rounds the median is taken of; one for other numbers of rows."""
QUICK = (300,)
"""Shows that the benchmark runs; its figures mean nothing."""
UNDO = "SELECT remaining FROM flowguard.undo((SELECT max(run_id) FROM flowguard.run), %s)"
LAST_RUN = "SELECT restored, skipped, linked FROM flowguard.run ORDER BY run_id DESC LIMIT 1"
_SAMPLE_INTERVAL = 0.005  # seconds


@dataclass(frozen=True)
class Undone:
    """What it took to undo a repair in batches, and how much memory both used: bytes beyond the shared buffers."""

    seconds: float
    repair_memory: int
    undo_memory: int


@dataclass(frozen=True)
class Line:
    """What came out for one number of rows: repair by reference and by time, and their undo."""

    rows: int
    answers: tuple[Answer, ...]
    undone: tuple[Undone, ...]


@dataclass
class Memory:
    """The most memory of its own that a server process was seen to have."""

    peak: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    def watch(self, pid: int) -> None:
        """Look until it is done. Anonymous pages only: what it maps of the shared buffers is nobody's own."""
        status = Path(f"/proc/{pid}/status")
        while True:
            for line in status.read_text(encoding="ascii").splitlines():
                if line.startswith("RssAnon:"):
                    self.peak = max(self.peak, int(line.split()[1]) * 1024)
            if self.done.wait(_SAMPLE_INTERVAL):
                return


@contextmanager
def watched(connection: Connection) -> Iterator[Memory]:
    """Watch the memory of a connection's server process during the block."""
    memory = Memory()
    watcher = threading.Thread(target=memory.watch, args=[connection.info.backend_pid])
    watcher.start()
    try:
        yield memory
    finally:
        memory.done.set()
        watcher.join()


def timed(lab: Laboratory, connection: Connection, work: bench.Step) -> tuple[float, int]:
    """Give the seconds that a step takes, and the most memory that the server process has meanwhile."""
    with watched(connection) as memory:
        start = lab.clock(connection)
        work(connection)
        seconds = lab.clock(connection) - start
    return seconds, memory.peak


def undo(batch_size: int) -> bench.Step:
    """Take the last run back in batches, and see that nothing of it is left."""

    def run(connection: Connection) -> None:
        while connection.execute(UNDO, [batch_size]).fetchone() != (0,):
            pass
        ((restored, skipped, linked),) = connection.execute(LAST_RUN).fetchall()
        if (restored, skipped) != (linked, 0):
            raise click.ClickException(f"of {linked} links {restored} were put back and {skipped} skipped")

    return run


def take_turns(lab: Laboratory, case: Case, rounds: int, batch_size: int) -> tuple[Answer, Undone]:
    """Let the ideal and repair take turns, in random order; after each repair take it back. Medians of the times."""
    seconds: dict[str, list[float]] = {LIMIT: [], GUARD: []}
    undone: list[tuple[float, int, int]] = []
    with ExitStack() as stack:
        workers = {  # in sessions that do nothing else, so that their memory is that of the work
            name: stack.enter_context(psycopg.connect(lab.dsn(name), autocommit=True)) for name in seconds
        }
        for _ in range(rounds):
            for contestant in random.sample(case.contestants[:2], 2):
                worker = workers[contestant.name]
                contestant.reset(lab.open(contestant.database))
                elapsed, memory = timed(lab, worker, contestant.work)
                contestant.check(lab.open(contestant.database))
                seconds[contestant.name].append(elapsed)
                if contestant.name == GUARD:
                    undone.append((*timed(lab, worker, undo(batch_size)), memory))
    back, undo_memory, repair_memory = zip(*undone, strict=True)
    answer = Answer(case.title, case.budget, {name: statistics.median(times) for name, times in seconds.items()})
    return answer, Undone(statistics.median(back), max(repair_memory), max(undo_memory))


def measure(
    bindir: Path, sizes: Sequence[int], clock: str, batch_size: int, tell: Callable[[str], None], *, quick: bool
) -> tuple[str, list[Line]]:
    """Measure each number of rows on a server of these binaries; gives its version too."""
    found: list[Line] = []
    version = 0
    for rows in sizes:
        like = bench.QUICK if quick else bench.FULL
        size = Size(rows, rounds=0, singles=0, tenants=like.tenants, sources=like.sources, repaired=rows)
        with bench.laboratory(bindir, size, bench.CLOCKS[clock]) as lab:
            bench.build(lab, GUARD, size.tenants, size.sources, rows, narrow=False)
            bench.copy(lab, GUARD, LIMIT, bench.COPIES[LIMIT])
            version = lab.open(GUARD).info.server_version // 10000
            answers: list[Answer] = []
            undone: list[Undone] = []
            for case in bench.repair_cases(lab):
                answer, back = take_turns(lab, case, ROUNDS.get(rows, 1), batch_size)
                tell(f"{rows:,} rows, {answer.title}: {bench.ratio(answer)} of {answer.budget:.2f}")
                answers.append(answer)
                undone.append(back)
        found.append(Line(rows, tuple(answers), tuple(undone)))
    return str(version), found


HEADINGS = ["rows", "repair", "ratio", "time a row", "memory", "undo", "memory of undo"]
FIGURES = [name for name in HEADINGS if name != "repair"]


def cells(line: Line, first: Line) -> Iterator[list[str]]:
    """Word the lines of the table for one number of rows; time a row is told as a multiple of the first line's."""
    for number, (answer, undone) in enumerate(zip(line.answers, line.undone, strict=True)):
        growth = answer.seconds[GUARD] / line.rows / (first.answers[number].seconds[GUARD] / first.rows)
        yield [
            f"{line.rows:,}",
            answer.title.removeprefix("repair "),
            bench.ratio(answer),
            f"{growth:.2f}",
            f"{undone.repair_memory / 1e6:.0f} MB",
            f"{undone.seconds / answer.seconds[LIMIT]:.2f}",
            f"{undone.undo_memory / 1e6:.0f} MB",
        ]


def markdown(version: str, found: Sequence[Line], command: str) -> str:
    """Word the table for the documentation."""
    rows = [row for line in found for row in cells(line, found[0])]
    return "\n".join(
        [
            f"`{command}`, PostgreSQL {version}:",
            "repair, and undo in batches, as ratios to the ideal UPDATE of the same rows; the time that repair takes",
            "for a row, as a ratio to the first line; and the most memory of its own that the server process had.",
            "",
            bench.as_markdown(HEADINGS, rows, FIGURES),
        ]
    )


@click.command()
@click.option(
    "--bindir", type=click.Path(exists=True, path_type=Path), help="Programs of a PostgreSQL; default: the wheel's."
)
@click.option("--rows", "sizes", type=click.IntRange(min=100), multiple=True, default=SIZES, show_default=True,
              help="Rows that are repaired; may be repeated. 10000000 takes an hour and 20 GB.")  # fmt: skip
@click.option("--clock", type=click.Choice(list(bench.CLOCKS)), default="cpu", show_default=True,
              help="Time that the server's process worked (Linux), or time that passed.")  # fmt: skip
@click.option("--batch-size", default=BATCH_SIZE, show_default=True, help="Links put back by one call of undo.")
@click.option("--quick", is_flag=True, help="Small sizes: shows that it runs; the figures mean nothing.")
@click.option("--write", "document", type=click.Path(exists=True, path_type=Path), help="Document to update.")
def main(
    bindir: Path | None, sizes: tuple[int, ...], clock: str, batch_size: int, *, quick: bool, document: Path | None
) -> None:
    """Measure how repair and undo grow; exit code 1 where a budget is missed."""
    console = new_console()

    version, found = measure(
        bindir or wheel_bindir(), QUICK if quick else sizes, clock, batch_size, console.print, quick=quick
    )
    table = new_table(*HEADINGS, right=FIGURES)
    for line in found:
        for row in cells(line, found[0]):
            table.add_row(*row)
    console.print(table)
    if document is not None:
        options = "".join(f" --rows {size}" for size in sizes) if sizes != SIZES else ""
        command = "make bench-repair" + (f" BENCH='{options.strip()}'" if options else "")
        bench.write(document, markdown(version, found, command), "bench-repair")
    missed = [f"{answer.title} at {line.rows:,} rows" for line in found for answer in line.answers if answer.is_missed]
    if missed and not quick:
        console.print(f"Missed: {', '.join(missed)}.")
        sys.exit(1)


if __name__ == "__main__":
    main()
