"""Commands that deploy change sets, and tell how far they are."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import click

from pyflowguard import bundle as bundles
from pyflowguard import changes
from pyflowguard.commands.guard import guard_deadline_option, guard_lock_timeout_option
from pyflowguard.commands.options import (
    A_YEAR,
    F,
    Number,
    changes_option,
    dry_run_option,
    dsn_option,
    json_option,
    output_option,
    to_option,
)
from pyflowguard.commands.output import print_json, write_text
from pyflowguard.commands.progress import Progress
from pyflowguard.errors import ExitCode
from pyflowguard.plan import Change


def lock_option(command: F) -> F:
    """Add --lock-timeout to a command."""
    return click.option(
        "--lock-timeout",
        type=Number(0, A_YEAR),
        default=changes.LOCK_TIMEOUT.total_seconds(),
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for another deployer.",
    )(command)


@click.command()
@dsn_option
@changes_option
@to_option
@click.option("--no-verify", is_flag=True, help="Do not run the verify scripts.")
@click.option("--log-only", is_flag=True, help="Record the changes as deployed without running them.")
@click.option("--accept-edits", is_flag=True, help="Take edited scripts for those that were deployed.")
@dry_run_option
@lock_option
@guard_lock_timeout_option("--guard-lock-timeout")
@guard_deadline_option("--guard-deadline")
@json_option
def deploy(
    *,
    dsn: str,
    directory: Path | None,
    to: str | None,
    no_verify: bool,
    log_only: bool,
    accept_edits: bool,
    dry_run: bool,
    lock_timeout: float,
    guard_lock_timeout: float,
    guard_deadline: float,
    as_json: bool,
) -> None:
    """Deploy the change sets that are not yet deployed, verifying each."""
    with Progress(quiet=as_json, within_changes=True).shown() as progress:
        result = changes.deploy(
            dsn,
            to=to,
            directory=directory,
            verify=not no_verify,
            log_only=log_only,
            accept_edits=accept_edits,
            dry_run=dry_run,
            lock_timeout=timedelta(seconds=lock_timeout),
            guard_lock_timeout=timedelta(seconds=guard_lock_timeout),
            guard_deadline=timedelta(seconds=guard_deadline),
            on_progress=progress.show,
            on_guard=progress.show_guard,
            on_notice=progress.notice,
        )
    for change in result.edited:
        click.echo(f"WARNING:  {change.name}: its deploy script has been edited since it was deployed.", err=True)
    if as_json:
        print_json(
            {
                "deployed": _names(result.deployed),
                "recorded": _names(result.recorded),
                "edited": _names(result.edited),
                "dry_run": result.dry_run,
            }
        )
    elif result.dry_run and result.deployed:
        click.echo("Would deploy:\n" + "\n".join(f"  + {change.label}" for change in result.deployed))
    elif not result.deployed and not result.recorded:
        click.echo("Nothing to deploy.")


@click.command()
@dsn_option
@changes_option
@to_option
@dry_run_option
@lock_option
@json_option
@click.pass_context
def adopt(
    context: click.Context,
    *,
    dsn: str,
    directory: Path | None,
    to: str | None,
    dry_run: bool,
    lock_timeout: float,
    as_json: bool,
) -> None:
    """Record as deployed what is there without a record, as far as it verifies. Exit code 1 if --to is not reached."""
    with Progress(quiet=as_json).shown() as progress:
        result = changes.adopt(
            dsn,
            to=to,
            directory=directory,
            dry_run=dry_run,
            lock_timeout=timedelta(seconds=lock_timeout),
            on_progress=progress.show,
            on_notice=progress.notice,
        )
    stopped = result.stopped_at
    if as_json:
        print_json(
            {
                "adopted": _names(result.adopted),
                "stopped_at": stopped and stopped.name,
                "failure": None if result.failure is None else str(result.failure),
                "dry_run": result.dry_run,
            }
        )
    else:
        if result.dry_run and result.adopted:
            click.echo("Would record as deployed:\n" + "\n".join(f"  + {change.label}" for change in result.adopted))
        elif not result.adopted:
            click.echo("Nothing to adopt.")
        if stopped is not None:
            why = "it has no verify script." if result.failure is None else f"it is not there: {result.failure}"
            click.echo(f"Stopped at {stopped.label}: {why}", err=True)
    if stopped is not None and to is not None:
        context.exit(ExitCode.FINDINGS)


@click.command()
@changes_option
@click.option("--from", "since", metavar="CHANGE|@TAG", help="How far the database is; what follows is in the file.")
@click.option("--to", metavar="CHANGE|@TAG", help="How far it is to be: up to CHANGE, or back to it with --revert.")
@click.option("--revert", "backwards", is_flag=True, help="Write the way back.")
@output_option
def bundle(*, directory: Path | None, since: str | None, to: str | None, backwards: bool, output: Path | None) -> None:
    """Write the whole roll-out, or the way back, as one .sql file to be reviewed and run by psql."""
    write = bundles.bundle_revert if backwards else bundles.bundle_deploy
    write_text(write(since=since, to=to, directory=directory), output)


@click.command()
@dsn_option
@changes_option
@to_option
@click.option("-y", "--yes", is_flag=True, help="Revert everything without asking.")
@dry_run_option
@lock_option
@json_option
def revert(
    *,
    dsn: str,
    directory: Path | None,
    to: str | None,
    yes: bool,
    dry_run: bool,
    lock_timeout: float,
    as_json: bool,
) -> None:
    """Revert deployed change sets, last first: down to --to, which stays, or all of them."""
    if to is None and not yes and not dry_run:
        if not sys.stdin.isatty():
            raise click.UsageError("Say how far with --to, or --yes to revert everything.")
        click.confirm("Revert everything that is deployed?", abort=True)
    with Progress(quiet=as_json).shown() as progress:
        result = changes.revert(
            dsn,
            to=to,
            directory=directory,
            dry_run=dry_run,
            lock_timeout=timedelta(seconds=lock_timeout),
            on_progress=progress.show,
            on_notice=progress.notice,
        )
    if as_json:
        print_json({"reverted": _names(result.reverted), "dry_run": result.dry_run})
    elif not result.reverted:
        click.echo("Nothing to revert.")
    elif result.dry_run:
        click.echo("Would revert:\n" + "\n".join(f"  - {change.label}" for change in result.reverted))


@click.command()
@dsn_option
@changes_option
@to_option
@json_option
@click.pass_context
def verify(context: click.Context, *, dsn: str, directory: Path | None, to: str | None, as_json: bool) -> None:
    """Run the verify script of every deployed change set. Exit code 1 if one fails."""
    with Progress(quiet=True).shown() as progress:
        outcomes = changes.verify(dsn, to=to, directory=directory, on_progress=progress.show, on_notice=progress.notice)
    if as_json:
        print_json(
            [
                {
                    "change": outcome.change.name,
                    "checked": outcome.checked,
                    "ok": outcome.failure is None,
                    "failure": None if outcome.failure is None else str(outcome.failure),
                }
                for outcome in outcomes
            ]
        )
    else:
        for outcome in outcomes:
            verdict = "not ok" if outcome.failure else "ok" if outcome.checked else "nothing to verify"
            click.echo(f"  * {outcome.change.label} .. {verdict}")
            if outcome.failure:
                click.echo(str(outcome.failure), err=True)
        if not outcomes:
            click.echo("Nothing is deployed.")
    if any(outcome.failure for outcome in outcomes):
        context.exit(ExitCode.FINDINGS)


@click.command()
@dsn_option
@changes_option
@json_option
@click.pass_context
def status(context: click.Context, *, dsn: str, directory: Path | None, as_json: bool) -> None:
    """List the change sets: deployed, pending, edited since, or interrupted. Exit code 1 for the last two."""
    result = changes.status(dsn, directory=directory)
    if as_json:
        print_json(
            {
                "project": result.project,
                "changes": [
                    {
                        "change": entry.change.name,
                        "change_id": entry.change.id,
                        "tags": [tag.name for tag in entry.change.tags],
                        "state": entry.state,
                        "deployed_at": entry.record.deployed_at.isoformat() if entry.record else None,
                        "deployed_by": entry.record.deployed_by if entry.record else None,
                    }
                    for entry in result.changes
                ],
            }
        )
    else:
        click.echo(f"Project {result.project}: {len(result.changes)} changes.")
        for entry in result.changes:
            when = (
                f"  {entry.record.deployed_at:%Y-%m-%d %H:%M:%S%z} by {entry.record.deployed_by}"
                if entry.record
                else ""
            )
            click.echo(f"  {entry.state:<11} {entry.change.label}{when}")
    if result.having("edited") or result.having("interrupted"):
        context.exit(ExitCode.FINDINGS)


def _names(given: tuple[Change, ...]) -> list[str]:
    return [change.name for change in given]
