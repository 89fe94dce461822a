"""Commands that guard links, and set their mode, a statement at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta

import click

from pyflowguard import online, present
from pyflowguard.commands.options import A_YEAR, F, Number, dry_run_option, dsn_option, json_option, link_column_option
from pyflowguard.commands.output import print_json, saying_when_interrupted
from pyflowguard.commands.progress import Progress, step_json
from pyflowguard.errors import ExitCode
from pyflowguard.plan import Mode


def guard_lock_timeout_option(name: str) -> Callable[[F], F]:
    """Add the option for how long a statement of guard waits to a command."""
    return click.option(
        name,
        type=Number(0.001, A_YEAR),
        default=online.LOCK_TIMEOUT.total_seconds(),
        show_default=True,
        metavar="SECONDS",
        help="How long a statement that guards may wait for its lock, and writers behind it.",
    )


def guard_deadline_option(name: str) -> Callable[[F], F]:
    """Add the option for how long a statement of guard is tried again to a command."""
    return click.option(
        name,
        type=Number(0, A_YEAR),
        default=online.DEADLINE.total_seconds(),
        show_default=True,
        metavar="SECONDS",
        help="How long a statement that did not get its lock is tried again.",
    )


@click.command()
@dsn_option
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@link_column_option
@guard_lock_timeout_option("--lock-timeout")
@guard_deadline_option("--deadline")
@dry_run_option
@json_option
@click.pass_context
def guard(
    context: click.Context,
    *,
    dsn: str,
    tables: tuple[str, ...],
    link_column: str,
    lock_timeout: float,
    deadline: float,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Guard the link of each TABLE, or every link, a statement at a time, so that writers wait for moments only.

    Of every link, one of which a table or a column is gone is left out and named; then exit code 1.
    """
    left = "Nothing is changed." if dry_run else "What was done stays; the same command goes on from there."
    with Progress(quiet=as_json).shown() as progress, saying_when_interrupted(left):
        result = online.guard(
            dsn,
            tables,
            link_column=link_column,
            lock_timeout=timedelta(seconds=lock_timeout),
            deadline=timedelta(seconds=deadline),
            dry_run=dry_run,
            on_progress=progress.show_guard,
            on_notice=progress.notice,
        )
    if as_json:
        print_json(
            {
                "steps": [step_json(step) for step in result.steps],
                "not_valid": [{**step_json(step), "reason": reason} for step, reason in result.not_valid],
                "left_out": [asdict(link) for link in result.left_out],
                "dry_run": dry_run,
            }
        )
    else:
        present.show_guarded(present.new_console(), result)
    if result.left_out:
        context.exit(ExitCode.FINDINGS)


@click.command()
@dsn_option
@click.argument("mode", type=click.Choice(["observe", "enforce"]), metavar="observe|enforce")
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@link_column_option
@click.option("--skip-incomplete", is_flag=True, help="Pass over a link with rows that enforce would refuse.")
@guard_lock_timeout_option("--lock-timeout")
@guard_deadline_option("--deadline")
@json_option
@click.pass_context
def set_mode(
    context: click.Context,
    *,
    dsn: str,
    mode: Mode,
    tables: tuple[str, ...],
    link_column: str,
    skip_incomplete: bool,
    lock_timeout: float,
    deadline: float,
    as_json: bool,
) -> None:
    """Enforce or observe the link of each TABLE, or every link, so that writers wait for moments only.

    Of every link, one of which a table or a column is gone is left out and named; then exit code 1.
    """
    left = "What was done stays; the same command goes on from there."
    if mode == "enforce":
        left = "Links that were done stay enforced, the others are what they were before; the same command goes on."
    with Progress(quiet=as_json).shown() as progress, saying_when_interrupted(left):
        result = online.set_mode(
            mode,
            dsn,
            tables,
            link_column=link_column,
            skip_incomplete=skip_incomplete,
            lock_timeout=timedelta(seconds=lock_timeout),
            deadline=timedelta(seconds=deadline),
            on_progress=progress.show_guard,
            on_notice=progress.notice,
        )
    if as_json:
        print_json(
            {
                "mode": result.mode,
                "links": [asdict(link) for link in result.links],
                "incomplete": [{**asdict(link), "reason": reason} for link, reason in result.incomplete],
                "left_out": [asdict(link) for link in result.left_out],
                "steps": [step_json(step) for step in result.steps],
            }
        )
    else:
        present.show_mode(present.new_console(), result)
    if result.left_out:
        context.exit(ExitCode.FINDINGS)
