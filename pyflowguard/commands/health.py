"""Commands that tell how true the links are."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

import click

from pyflowguard import health as links
from pyflowguard import history, present
from pyflowguard.commands.options import Number, dsn_option, json_option
from pyflowguard.commands.output import print_json, show_notice
from pyflowguard.errors import ExitCode


@click.command()
@dsn_option
@click.option("--exact", is_flag=True, help="Count every row, rather than tell what keys and indexes prove.")
@click.option(
    "--min-score", type=Number(0, 100), metavar="SCORE", help="Count, and exit with code 1 if the score is below."
)
@click.option(
    "--violations", type=click.IntRange(min=1), metavar="N", help="List up to N rows that are wrong, and why."
)
@json_option
@click.pass_context
def health(
    context: click.Context,
    *,
    dsn: str,
    exact: bool,
    min_score: float | None,
    violations: int | None,
    as_json: bool,
) -> None:
    """Show how true the links are: score, categories, and figures of each link.

    A large table is not read: what the catalog proves is not counted, and what nothing proves is said.
    """
    # No gate is passed by an estimate.
    read = links.read_health if exact or min_score is not None else links.read_estimate
    result = read(dsn, violations=violations or 0, on_notice=show_notice)
    if as_json:
        print_json({**asdict(result), "exact": isinstance(result, links.Health)})
    else:
        present.show_health(present.new_console(), result)
    if min_score is not None and links.is_too_low(result.score, min_score):
        context.exit(ExitCode.FINDINGS)


@click.command()
@dsn_option
@click.option("--exact", is_flag=True, help="Count every row, rather than tell what keys and indexes prove.")
@click.option(
    "--keep",
    type=Number(0.001, 100 * 366),
    default=history.RETENTION.total_seconds() / 86400,
    show_default=True,
    metavar="DAYS",
    help="Remove snapshots that are older.",
)
@json_option
def snapshot(*, dsn: str, exact: bool, keep: float, as_json: bool) -> None:
    """Write down how health is now, and show what changed since the snapshot before."""
    taken = history.take_snapshot(dsn, exact=exact, retention=timedelta(days=keep), on_notice=show_notice)
    if as_json:
        print_json(asdict(taken))
    else:
        present.show_snapshot(present.new_console(), taken)
