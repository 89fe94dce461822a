"""Commands that mend links, explain them, and take back what was mended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import timedelta

import click
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TimeRemainingColumn
from rich.text import Text

from pyflowguard import present
from pyflowguard import repair as repairs
from pyflowguard.commands.options import A_YEAR, F, Number, dry_run_option, dsn_option, json_option, link_column_option
from pyflowguard.commands.output import print_json, saying_when_interrupted, show_notice, terminal

_TOLD_BY_OUTCOMES = {"followed", "taken_along", "set_along"}


def batch_size_option(what: str) -> Callable[[F], F]:
    """Add --batch-size to a command; `what` one transaction does with so many."""
    return click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        default=repairs.BATCH_SIZE,
        show_default=True,
        metavar="ROWS",
        help=what,
    )


@click.command()
@dsn_option
@click.argument("table", required=False)
@link_column_option
@batch_size_option("Rows looked at in one transaction.")
@click.option(
    "--max-rate", type=click.IntRange(1, 2**31 - 1), metavar="ROWS", help="Rows looked at in a second at most."
)
@click.option(
    "--max-lag",
    type=Number(0.001, A_YEAR),
    metavar="SECONDS",
    help="Wait while a standby or subscriber is further behind.",
)
@click.option("--where", metavar="CONDITION", help="Only rows of TABLE that meet this SQL condition.")
@click.option("--note", metavar="TEXT", help="What the run is for; kept with it.")
@click.option("--restart", is_flag=True, help="Look at all rows, though a run with the same arguments was stopped.")
@click.option(
    "--count-candidates",
    is_flag=True,
    help="Count all source rows that each link by time was chosen from. It takes longer.",
)
@dry_run_option
@click.option(
    "--samples",
    type=click.IntRange(0, 1000),
    metavar="N",
    help=f"With --dry-run: examples of each outcome, {repairs.SAMPLES} by default.",
)
@json_option
def repair(
    *,
    dsn: str,
    table: str | None,
    link_column: str,
    batch_size: int,
    max_rate: int | None,
    max_lag: float | None,
    where: str | None,
    note: str | None,
    restart: bool,
    count_candidates: bool,
    dry_run: bool,
    samples: int | None,
    as_json: bool,
) -> None:
    """Link what is unlinked or dangling, in TABLE or everywhere, and write down every value changed.

    A run that was stopped goes on where it was when it is called again. With --dry-run it shows what it would do, by
    rule, and how far in time the rows are of which it would take links.
    """
    if where is not None and table is None:
        raise click.UsageError("--where is a condition on the columns of one table: name the TABLE.")
    if samples is not None and not dry_run:
        raise click.UsageError(
            "--samples is how many examples --dry-run shows: give --dry-run, or leave out --samples."
        )
    if dry_run:
        with saying_when_interrupted("Nothing is changed."):
            found = repairs.preview(
                dsn,
                table,
                link_column=link_column,
                where=where,
                samples=repairs.SAMPLES if samples is None else samples,
                count_candidates=count_candidates,
                on_notice=show_notice,
            )
        if as_json:
            outcomes = [asdict(outcome) for outcome in found.outcomes]
            counts = {name: count for name, count in asdict(found.run).items() if name not in _TOLD_BY_OUTCOMES}
            print_json({**counts, "dry_run": True, "count_candidates": count_candidates, "outcomes": outcomes})
        else:
            present.show_preview(present.new_console(), found)
        return
    left = "What was committed stays; the same command goes on with the run."
    with _Bar("repair", quiet=as_json).shown() as bar, saying_when_interrupted(left):
        result = repairs.repair(
            dsn,
            table,
            link_column=link_column,
            where=where,
            batch_size=batch_size,
            note=note,
            max_rate=max_rate,
            max_lag=None if max_lag is None else timedelta(seconds=max_lag),
            resume=not restart,
            count_candidates=count_candidates,
            on_progress=bar.show_repair if bar.live else None,
            on_notice=bar.notice,
        )
    if as_json:
        print_json({**asdict(result), "dry_run": False, "count_candidates": count_candidates})
    else:
        present.show_run(present.new_console(), result)


@click.command()
@dsn_option
@click.argument("table")
@click.argument("key", nargs=-1, required=True)
@link_column_option
@json_option
def explain(*, dsn: str, table: str, key: tuple[str, ...], link_column: str, as_json: bool) -> None:
    """Say how the row of TABLE with this KEY came by its link, or why it has none.

    KEY is the value of the key column; of a key of several columns COLUMN=VALUE for each. What a rule yields is
    computed from what is there now.
    """
    parts = repairs.explain(table, key, dsn, link_column=link_column)
    if as_json:
        print_json([asdict(part) for part in parts])
    else:
        present.show_explanation(present.new_console(), parts)


@click.command()
@dsn_option
@click.argument("run_id", type=click.IntRange(1, 2**63 - 1))
@click.option(
    "--max-rows", type=click.IntRange(min=1), metavar="ROWS", help="At most so many; called again, it goes on."
)
@batch_size_option("Links and rows put back in one transaction.")
@json_option
def undo(*, dsn: str, run_id: int, max_rows: int | None, batch_size: int, as_json: bool) -> None:
    """Take back what the repair RUN_ID did: its links, and the rows that it quarantined."""
    with (
        _Bar("undo", quiet=as_json).shown() as bar,
        saying_when_interrupted(f"Run {run_id} may be undone in part; the same command goes on."),
    ):
        result = repairs.undo(
            run_id,
            dsn,
            max_rows=max_rows,
            batch_size=batch_size,
            on_progress=bar.show_undo,
            on_notice=bar.notice,
        )
    if as_json:
        print_json({"run_id": run_id, **asdict(result)})
    else:
        present.show_undone(present.new_console(), run_id, result)


class _Rate(ProgressColumn):
    """Rows a second, over the last half minute."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} rows/s")


class _Bar:
    """Shows how many rows are done, of how many, how fast and how long yet, on a terminal; notices on stderr."""

    def __init__(self, action: str, *, quiet: bool) -> None:
        self.action = action
        self.passes = 1
        self.task: TaskID | None = None
        columns: tuple[str | ProgressColumn, ...] = (
            "{task.description}",
            BarColumn(bar_width=None),
            "{task.completed:,.0f} of {task.total:,.0f} rows",
            _Rate(),
            TimeRemainingColumn(compact=True),
        )
        console = terminal(quiet=quiet)
        self.live = Progress(*columns, console=console, transient=True) if console else None

    @contextmanager
    def shown(self) -> Iterator[_Bar]:
        with self.live or nullcontext():
            yield self

    def show_repair(self, progress: repairs.Progress) -> None:
        if progress.passes > self.passes and self.live and self.task is not None:
            self.passes = progress.passes
            self.live.reset(self.task)
        done = progress.linked + progress.translated + progress.quarantined + progress.unlinked
        what = "counting what remains" if progress.is_over else f"{self.action}: {done:,} mended"
        self._show(what, progress.scanned, progress.total)

    def show_undo(self, undone: repairs.Undone) -> None:
        done = undone.restored + undone.skipped
        self._show(self.action, done, done + undone.remaining)

    notice = staticmethod(show_notice)

    def _show(self, what: str, completed: int, total: int) -> None:
        if self.live is None:
            return
        if self.task is None:
            self.task = self.live.add_task(what, total=total)
        self.live.update(self.task, description=what, completed=completed, total=total)
