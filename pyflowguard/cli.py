"""The pyflowguard command."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, TextIO, TypeVar, cast

import click
from click.core import ParameterSource
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TimeRemainingColumn
from rich.spinner import Spinner
from rich.text import Text

from pyflowguard import __version__, changes, changeset, formats, gate, history, online, present
from pyflowguard import bundle as bundles
from pyflowguard import demo as demonstration
from pyflowguard import discover as discovery
from pyflowguard import doctor as drift
from pyflowguard import health as links
from pyflowguard import repair as repairs
from pyflowguard import report as reports
from pyflowguard import watch as watching
from pyflowguard.database import Notice
from pyflowguard.engine import UNDERSTOOD
from pyflowguard.errors import ExitCode, ExtraMissing, FlowguardError, writing
from pyflowguard.plan import Change, Mode

_F = TypeVar("_F", bound=Callable[..., Any])


class _Number(click.FloatRange):
    """A number in a range; nan, which click lets pass, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Read a number; click's usage error for what is none, or lies outside."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a valid number.", param, ctx)
        return number


def _address(text: str) -> tuple[str, int]:
    """Read HOST:PORT; click's usage error for anything else."""
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > _LAST_PORT:
        raise click.BadParameter(f"{text!r} is not HOST:PORT, such as 127.0.0.1:9897.", param_hint="--listen")
    return host.strip("[]"), int(port)


_LAST_PORT = 65535

_A_YEAR = 366 * 24 * 3600.0  # seconds; more cannot be meant

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def dsn_option(command: _F) -> _F:
    """Add --dsn to a command."""
    return click.option(
        "--dsn",
        default="",
        metavar="DSN",
        help="Database, as a URI or key=value pairs; libpq's environment (PGHOST, PGDATABASE, ...) fills the gaps.",
    )(command)


def json_option(command: _F) -> _F:
    """Add --json to a command, as parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")(command)


def changes_option(command: _F) -> _F:
    """Add --changes to a command, as parameter `directory`."""
    return click.option(
        "--changes",
        "directory",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Directory with sqitch.plan, deploy/, revert/ and verify/. Default: the change sets shipped with this.",
    )(command)


def to_option(command: _F) -> _F:
    """Add --to to a command."""
    return click.option("--to", metavar="CHANGE|@TAG", help="Last change that is to be deployed (NAME, @TAG, NAME^).")(
        command
    )


def lock_option(command: _F) -> _F:
    """Add --lock-timeout to a command."""
    return click.option(
        "--lock-timeout",
        type=_Number(0, _A_YEAR),
        default=changes.LOCK_TIMEOUT.total_seconds(),
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for another deployer.",
    )(command)


def guard_lock_timeout_option(name: str) -> Callable[[_F], _F]:
    """Add the option for how long a statement of guard waits to a command."""
    return click.option(
        name,
        type=_Number(0.001, _A_YEAR),
        default=online.LOCK_TIMEOUT.total_seconds(),
        show_default=True,
        metavar="SECONDS",
        help="How long a statement that guards may wait for its lock, and writers behind it.",
    )


def guard_deadline_option(name: str) -> Callable[[_F], _F]:
    """Add the option for how long a statement of guard is tried again to a command."""
    return click.option(
        name,
        type=_Number(0, _A_YEAR),
        default=online.DEADLINE.total_seconds(),
        show_default=True,
        metavar="SECONDS",
        help="How long a statement that did not get its lock is tried again.",
    )


def link_column_option(command: _F) -> _F:
    """Add the option that chooses a link of a table to a command; without a table it would choose nothing."""

    @wraps(command)
    def checked(*args: Any, **options: Any) -> Any:  # noqa: ANN401  those of the command
        source = click.get_current_context().get_parameter_source("link_column")
        if source is not ParameterSource.DEFAULT and not (options.get("tables") or options.get("table")):
            raise click.UsageError(
                "--link-column chooses a link of TABLE: name a table, or leave it out for every link."
            )
        return command(*args, **options)

    return click.option(
        "--link-column", default="master_flow_id", show_default=True, metavar="COLUMN", help="Which link of TABLE."
    )(cast("_F", checked))


dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    __version__,
    prog_name="pyflowguard",
    message=f"%(prog)s, version %(version)s\nEngines that it understands: {UNDERSTOOD}",
)
def cli() -> None:
    """Keep every row linked to its master, by PostgreSQL itself."""


@cli.command()
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
    with _Progress(quiet=as_json, within_changes=True).shown() as progress:
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
        _print_json(
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


@cli.command()
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
    with _Progress(quiet=as_json).shown() as progress:
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
        _print_json(
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


@cli.command()
@changes_option
@click.option("--from", "since", metavar="CHANGE|@TAG", help="How far the database is; what follows is in the file.")
@click.option("--to", metavar="CHANGE|@TAG", help="How far it is to be: up to CHANGE, or back to it with --revert.")
@click.option("--revert", "backwards", is_flag=True, help="Write the way back.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Default: standard output."
)
def bundle(*, directory: Path | None, since: str | None, to: str | None, backwards: bool, output: Path | None) -> None:
    """Write the whole roll-out, or the way back, as one .sql file to be reviewed and run by psql."""
    write = bundles.bundle_revert if backwards else bundles.bundle_deploy
    _write_text(write(since=since, to=to, directory=directory), output)


@cli.command()
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
    with _Progress(quiet=as_json).shown() as progress:
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
        _print_json({"reverted": _names(result.reverted), "dry_run": result.dry_run})
    elif not result.reverted:
        click.echo("Nothing to revert.")
    elif result.dry_run:
        click.echo("Would revert:\n" + "\n".join(f"  - {change.label}" for change in result.reverted))


@cli.command()
@dsn_option
@changes_option
@to_option
@json_option
@click.pass_context
def verify(context: click.Context, *, dsn: str, directory: Path | None, to: str | None, as_json: bool) -> None:
    """Run the verify script of every deployed change set. Exit code 1 if one fails."""
    with _Progress(quiet=True).shown() as progress:
        outcomes = changes.verify(dsn, to=to, directory=directory, on_progress=progress.show, on_notice=progress.notice)
    if as_json:
        _print_json(
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


@cli.command()
@dsn_option
@changes_option
@json_option
@click.pass_context
def status(context: click.Context, *, dsn: str, directory: Path | None, as_json: bool) -> None:
    """List the change sets: deployed, pending, edited since, or interrupted. Exit code 1 for the last two."""
    result = changes.status(dsn, directory=directory)
    if as_json:
        _print_json(
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


@cli.command()
@dsn_option
@click.option("--schema", "schemas", metavar="NAME", multiple=True, help="Look there only; may be repeated.")
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=discovery.SAMPLE,
    show_default=True,
    metavar="ROWS",
    help="A larger table is looked at by a sample of about so many rows.",
)
@click.option(
    "--statement-timeout",
    type=_Number(0.001, _A_YEAR),
    default=discovery.STATEMENT_TIMEOUT.total_seconds(),
    show_default=True,
    metavar="SECONDS",
    help="How long one query may take.",
)
@click.option(
    "--write",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the proposal there, as a change set to be read and edited. No file is written over.",
)
@click.option(
    "--as",
    "form",
    type=click.Choice(changeset.FORMS),
    help="Write a sqitch project (added to the one that is there), the default, or one file of plain SQL.",
)
@json_option
def discover(
    *,
    dsn: str,
    schemas: tuple[str, ...],
    sample: int,
    statement_timeout: float,
    directory: Path | None,
    form: changeset.Form | None,
    as_json: bool,
) -> None:
    """Propose what to guard in a database that has never seen this, with the evidence. Nothing in it is changed."""
    if form is not None and directory is None:
        raise click.UsageError("--as says how to write: say where with --write.")
    proposal = discovery.discover(
        dsn, schemas=schemas, sample=sample, statement_timeout=timedelta(seconds=statement_timeout)
    )
    written: tuple[Path, ...] = ()
    if directory is not None and proposal.masters:
        written = changeset.write(proposal, directory, form or "sqitch")
    if as_json:
        _print_json({**asdict(proposal), "written": [str(file) for file in written]})
        return
    present.show_proposal(present.new_console(), proposal)
    if written:
        click.echo("\nWritten, to be read and edited:\n" + "\n".join(f"  {file}" for file in written))
    elif directory is not None:
        click.echo("Nothing was written.")
    elif proposal.masters:
        click.echo("\n--write DIRECTORY writes this as a change set.")


@cli.command()
@dsn_option
@click.option("--exact", is_flag=True, help="Count every row, rather than tell what keys and indexes prove.")
@click.option(
    "--min-score", type=_Number(0, 100), metavar="SCORE", help="Count, and exit with code 1 if the score is below."
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
    result = read(dsn, violations=violations or 0, on_notice=_show_notice)
    if as_json:
        _print_json({**asdict(result), "exact": isinstance(result, links.Health)})
    else:
        present.show_health(present.new_console(), result)
    if min_score is not None and links.is_too_low(result.score, min_score):
        context.exit(ExitCode.FINDINGS)


@cli.command()
@dsn_option
@click.option("--exact", is_flag=True, help="Count every row, rather than tell what keys and indexes prove.")
@click.option(
    "--keep",
    type=_Number(0.001, 100 * 366),
    default=history.RETENTION.total_seconds() / 86400,
    show_default=True,
    metavar="DAYS",
    help="Remove snapshots that are older.",
)
@json_option
def snapshot(*, dsn: str, exact: bool, keep: float, as_json: bool) -> None:
    """Write down how health is now, and show what changed since the snapshot before."""
    taken = history.take_snapshot(dsn, exact=exact, retention=timedelta(days=keep), on_notice=_show_notice)
    if as_json:
        _print_json(asdict(taken))
    else:
        present.show_snapshot(present.new_console(), taken)


format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "junit", "sarif", "github"]),
    help="How to print the findings: as text (the default), JSON, a JUnit or SARIF report, or annotations of GitHub.",
)
format_json_option = click.option("--json", "as_json", is_flag=True, help="Short for --format json.")
fail_on_option = click.option(
    "--fail-on",
    type=click.Choice([level.lower() for level in links.LEVELS]),
    default="warn",
    show_default=True,
    help="Exit code 1 for a finding of this level, or a worse one.",
)
ignore_option = click.option(
    "--ignore", metavar="KEY", multiple=True, help="Leave out the finding with this key; may be repeated."
)
ignore_file_option = click.option(
    "--ignore-file",
    type=_FILE,
    metavar="FILE",
    help="Leave out the findings that FILE names, a line each: KEY, the last day on which to ignore it, and why.",
)


@cli.command()
@dsn_option
@format_option
@fail_on_option
@click.option(
    "--min-score", type=_Number(0, 100), metavar="SCORE", help="A health score below is a finding of level error."
)
@click.option("--doctor", "with_doctor", is_flag=True, help="List what `pyflowguard doctor` finds as well.")
@ignore_option
@ignore_file_option
@click.option(
    "--baseline", type=_FILE, metavar="FILE", help="Leave out the findings that are in FILE and are no more than there."
)
@click.option(
    "--write-baseline",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write what is found now to FILE, as the baseline of later runs, and do not fail because of it.",
)
@format_json_option
@click.pass_context
def check(
    context: click.Context,
    *,
    dsn: str,
    form: str | None,
    fail_on: str,
    min_score: float | None,
    with_doctor: bool,
    ignore: tuple[str, ...],
    ignore_file: Path | None,
    baseline: Path | None,
    write_baseline: Path | None,
    as_json: bool,
) -> None:
    """List what is not as it should be, with the remedy. Exit code 1 for findings."""
    form = _form(form, as_json=as_json)
    if baseline is not None and write_baseline is not None:
        raise click.UsageError("Give --baseline to compare with a baseline, or --write-baseline to make one, not both.")
    kinds = gate.KINDS if with_doctor else links.KINDS
    entries = _ignored(ignore, ignore_file, kinds)
    known = gate.read_baseline(baseline) if baseline else None
    findings = links.check(dsn, min_score=min_score, on_notice=_show_notice)
    if with_doctor:
        findings = drift.joined(findings, drift.doctor(dsn))

    def judge(known: gate.Baseline | None) -> gate.Verdict:
        return _judged(findings, fail_on, entries, known)

    verdict = judge(known)
    written = gate.baseline_of(verdict.findings) if write_baseline else {}
    if write_baseline:
        gate.write_baseline(write_baseline, written)
        verdict = judge(written)
    _print_verdict(verdict, form, "check", kinds)
    if write_baseline:
        click.echo(
            f"{write_baseline}: {len(written)} {'finding is' if len(written) == 1 else 'findings are'} known.", err=True
        )
    if verdict.failing:
        context.exit(ExitCode.FINDINGS)


@cli.command()
@dsn_option
@click.option("--fix", is_flag=True, help="Run the remedies that are safe, and list what is left.")
@guard_lock_timeout_option("--lock-timeout")
@guard_deadline_option("--deadline")
@format_option
@fail_on_option
@ignore_option
@ignore_file_option
@format_json_option
@click.pass_context
def doctor(
    context: click.Context,
    *,
    dsn: str,
    fix: bool,
    lock_timeout: float,
    deadline: float,
    form: str | None,
    fail_on: str,
    ignore: tuple[str, ...],
    ignore_file: Path | None,
    as_json: bool,
) -> None:
    """List what of the guard is not as it was made, object by object, and what lets rows go past it.

    Exit code 1 for findings. No row of a guarded table is read: whether rows are wrong says check.
    """
    form = _form(form, as_json=as_json)
    entries = _ignored(ignore, ignore_file, drift.KINDS)
    findings = drift.doctor(dsn, on_notice=_show_notice)
    verdict = _judged(findings, fail_on, entries)
    safe = [finding for finding in findings if finding.safe and finding in verdict.findings]
    if fix and safe:
        with _Progress(quiet=form != "text").shown() as progress:
            unmended = drift.mend(
                dsn,
                safe,
                lock_timeout=timedelta(seconds=lock_timeout),
                deadline=timedelta(seconds=deadline),
                on_progress=progress.show_guard,
                on_notice=progress.notice,
            )
        for failure in unmended:
            click.echo(f"Not mended by {present.headline(failure.remedy)}: {failure.reason}", err=True)
        findings = drift.doctor(dsn)
        verdict = _judged(findings, fail_on, entries)
        safe = []
    _print_verdict(verdict, form, "doctor", drift.KINDS)
    if safe and form == "text":
        click.echo(f"Of these `pyflowguard doctor --fix` mends {len(safe)}.")
    if verdict.failing:
        context.exit(ExitCode.FINDINGS)


def _form(form: str | None, *, as_json: bool) -> str:
    if as_json and form not in {None, "json"}:
        raise click.UsageError("--json is short for --format json; give one of the two.")
    return "json" if as_json else form or "text"


def _ignored(keys: tuple[str, ...], file: Path | None, kinds: Mapping[str, str]) -> list[gate.Ignored]:
    """Give what is to be ignored; entries of a file that are about what another command finds are passed over."""
    for key in keys:
        gate.check_key(key, "--ignore")
    entries = gate.read_ignored(file) if file else ()
    return [
        *(entry for entry in entries if entry.key.partition(":")[0] in kinds),
        *(gate.Ignored(key) for key in keys),
    ]


def _judged(
    findings: Iterable[links.Finding],
    fail_on: str,
    entries: list[gate.Ignored],
    known: gate.Baseline | None = None,
) -> gate.Verdict:
    level = next(level for level in links.LEVELS if level.lower() == fail_on)
    today = datetime.now(timezone.utc).date()
    return gate.judge(findings, fail_on=level, today=today, ignore=entries, baseline=known)


def _print_verdict(verdict: gate.Verdict, form: str, command: str, kinds: Mapping[str, str]) -> None:
    if form == "text":
        present.show_verdict(present.new_console(), verdict)
    elif form == "json":
        _print_json([asdict(finding) for finding in verdict.findings])
    elif form == "junit":
        click.echo(formats.as_junit(verdict, command=command, kinds=kinds))
    elif form == "sarif":
        _print_json(formats.as_sarif(verdict, kinds=kinds))
    else:
        click.echo("\n".join([*formats.as_github(verdict), present.count_verdict(verdict)]))
    for note in verdict.notes:
        click.echo(f"NOTE:  {note}", err=True)


@cli.command()
@dsn_option
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@link_column_option
@guard_lock_timeout_option("--lock-timeout")
@guard_deadline_option("--deadline")
@dry_run_option
@json_option
def guard(
    *,
    dsn: str,
    tables: tuple[str, ...],
    link_column: str,
    lock_timeout: float,
    deadline: float,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Guard the link of each TABLE, or every link, a statement at a time, so that writers wait for moments only."""
    with _Progress(quiet=as_json).shown() as progress:
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
        _print_json(
            {
                "steps": [_step(step) for step in result.steps],
                "not_valid": [{**_step(step), "reason": reason} for step, reason in result.not_valid],
                "dry_run": dry_run,
            }
        )
    else:
        present.show_guarded(present.new_console(), result)


@cli.command()
@dsn_option
@click.argument("mode", type=click.Choice(["observe", "enforce"]), metavar="observe|enforce")
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@link_column_option
@click.option("--skip-incomplete", is_flag=True, help="Pass over a link with rows that enforce would refuse.")
@guard_lock_timeout_option("--lock-timeout")
@guard_deadline_option("--deadline")
@json_option
def set_mode(
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
    """Enforce or observe the link of each TABLE, or every link, so that writers wait for moments only."""
    with _Progress(quiet=as_json).shown() as progress:
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
        _print_json(
            {
                "mode": result.mode,
                "links": [asdict(link) for link in result.links],
                "incomplete": [{**asdict(link), "reason": reason} for link, reason in result.incomplete],
                "steps": [_step(step) for step in result.steps],
            }
        )
    else:
        present.show_mode(present.new_console(), result)


_TOLD_BY_OUTCOMES = {"followed", "taken_along", "set_along"}


@cli.command()
@dsn_option
@click.argument("table", required=False)
@link_column_option
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=repairs.BATCH_SIZE,
    show_default=True,
    metavar="ROWS",
    help="Rows looked at in one transaction.",
)
@click.option(
    "--max-rate", type=click.IntRange(1, 2**31 - 1), metavar="ROWS", help="Rows looked at in a second at most."
)
@click.option(
    "--max-lag",
    type=_Number(0.001, _A_YEAR),
    metavar="SECONDS",
    help="Wait while a standby or subscriber is further behind.",
)
@click.option("--where", metavar="CONDITION", help="Only rows of TABLE that meet this SQL condition.")
@click.option("--note", metavar="TEXT", help="What the run is for; kept with it.")
@click.option("--restart", is_flag=True, help="Look at all rows, though a run with the same arguments was stopped.")
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
        with _saying_when_interrupted("Nothing is changed."):
            found = repairs.preview(
                dsn,
                table,
                link_column=link_column,
                where=where,
                samples=repairs.SAMPLES if samples is None else samples,
                on_notice=_show_notice,
            )
        if as_json:
            outcomes = [asdict(outcome) for outcome in found.outcomes]
            counts = {name: count for name, count in asdict(found.run).items() if name not in _TOLD_BY_OUTCOMES}
            _print_json({**counts, "dry_run": True, "outcomes": outcomes})
        else:
            present.show_preview(present.new_console(), found)
        return
    left = "What was committed stays; the same command goes on with the run."
    with _Bar("repair", quiet=as_json).shown() as bar, _saying_when_interrupted(left):
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
            on_progress=bar.show_repair if bar.live else None,
            on_notice=bar.notice,
        )
    if as_json:
        _print_json({**asdict(result), "dry_run": False})
    else:
        present.show_run(present.new_console(), result)


@cli.command()
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
        _print_json([asdict(part) for part in parts])
    else:
        present.show_explanation(present.new_console(), parts)


@cli.command()
@dsn_option
@click.argument("run_id", type=click.IntRange(1, 2**63 - 1))
@click.option(
    "--max-rows", type=click.IntRange(min=1), metavar="ROWS", help="At most so many; called again, it goes on."
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=repairs.BATCH_SIZE,
    show_default=True,
    metavar="ROWS",
    help="Links and rows put back in one transaction.",
)
@json_option
def undo(*, dsn: str, run_id: int, max_rows: int | None, batch_size: int, as_json: bool) -> None:
    """Take back what the repair RUN_ID did: its links, and the rows that it quarantined."""
    with (
        _Bar("undo", quiet=as_json).shown() as bar,
        _saying_when_interrupted(f"Run {run_id} may be undone in part; the same command goes on."),
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
        _print_json({"run_id": run_id, **asdict(result)})
    else:
        present.show_undone(present.new_console(), run_id, result)


@cli.command()
@dsn_option
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Default: standard output."
)
@click.option("--format", "form", type=click.Choice(["html", "markdown", "json"]), help="Default: html.")
@click.option(
    "--violations",
    type=click.IntRange(min=0),
    default=reports.VIOLATIONS,
    show_default=True,
    metavar="N",
    help="About so many rows that are wrong, with the reason; with 0 none is looked for.",
)
@click.option("--json", "as_json", is_flag=True, help="Short for --format json.")
def report(*, dsn: str, output: Path | None, form: str | None, violations: int, as_json: bool) -> None:
    """Write one page about all links: score, coverage, trend, violations, runs, drift, costs, and what to do next."""
    if as_json and form not in {None, "json"}:
        raise click.UsageError("--json is short for --format json; give one of the two.")
    write = _writer_of_reports("json" if as_json else form or "html")
    _write_text(write(reports.read_report(dsn, violations=violations, on_notice=_show_notice)), output)


def _writer_of_reports(form: str) -> Callable[[reports.Report], str]:
    if form == "json":
        return lambda read: _as_json(asdict(read)) + "\n"
    try:
        from pyflowguard import page  # noqa: PLC0415 - it needs what only the extra installs
    except ModuleNotFoundError as error:
        raise ExtraMissing(
            f"A report in {form} cannot be written: the package {error.name} is not installed.",
            hint="pip install 'pyflowguard[report]', or let it be written as JSON (--json).",
        ) from error
    return page.as_html if form == "html" else page.as_markdown


@cli.command()
@dsn_option
@click.option(
    "--interval",
    type=_Number(0.1, 3600),
    default=watching.INTERVAL.total_seconds(),
    show_default=True,
    metavar="SECONDS",
    help="How long to wait between two looks.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what happens as JSON, an object a line.")
@click.pass_context
def watch(context: click.Context, *, dsn: str, interval: float, as_json: bool) -> None:
    """Show what is wrong as it happens, until it is interrupted; then exit code 1 if anything is.

    On a terminal with coverage and rates; else a line for each row that is wrong or mended, each finding, and when the
    connection is lost and back.
    """
    console = None if as_json else _screen()
    last: watching.Seen | None = None
    events: deque[watching.Event] = deque(maxlen=1000)
    try:
        with (
            closing(watching.watch(dsn, interval=timedelta(seconds=interval))) as looks,
            Live(console=console, screen=True, auto_refresh=False) if console else nullcontext() as live,
        ):
            for last in looks:
                events.extend(last.events)
                if live is not None and console is not None:
                    live.update(present.watch_view(console, last, list(events)), refresh=True)
                else:
                    for event in last.events:
                        click.echo(_event_json(event) if as_json else present.event_line(event))
    except KeyboardInterrupt:
        if last is None:
            raise
    if console is not None and last is not None:
        console.print(present.watch_view(console, last, list(events)))
    if last is not None and last.is_wrong:
        context.exit(ExitCode.FINDINGS)


def _screen() -> Console | None:
    console = present.new_console()
    return console if console.is_terminal else None


def _event_json(event: watching.Event) -> str:
    return json.dumps({"at": event.at, "event": event.kind, **event.data}, default=_json_value)


@cli.command()
@dsn_option
@click.option("--listen", type=_address, metavar="HOST:PORT", help="Serve them over HTTP there; [::1]:9897 for IPv6.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write them once, for the textfile collector of node_exporter, which reads FILE.prom.",
)
@click.option("--exact", is_flag=True, help="Count every row, rather than tell what keys and indexes prove.")
@click.option(
    "--timeout",
    type=_Number(0.1, 3600),
    default=8.0,
    show_default=True,
    metavar="SECONDS",
    help="How long connecting and the answer may take; let it be less than Prometheus' scrape_timeout.",
)
def metrics(*, dsn: str, listen: tuple[str, int] | None, output: Path | None, exact: bool, timeout: float) -> None:
    """Tell Prometheus how true the links are, over HTTP or in a file. Each figure is read when it is asked for."""
    if (listen is None) == (output is None):
        raise click.UsageError("Give --listen to serve the metrics over HTTP, or -o to write them to a file.")
    try:
        from pyflowguard import metrics as telling  # noqa: PLC0415  the extra may not be installed
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise ExtraMissing(
            "Metrics cannot be told: the package prometheus_client is not installed.",
            hint="pip install 'pyflowguard[metrics]'",
        ) from error
    collector = telling.FlowguardCollector(dsn, exact=exact, timeout=timedelta(seconds=timeout))
    if output is not None:
        telling.write(collector, output)
    elif listen is not None:
        host, port = listen
        is_over = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: is_over.set())  # by which a service is ended
        with telling.serving(collector, host, port) as bound, suppress(KeyboardInterrupt):
            click.echo(f"Listening on {bound}.", err=True)
            is_over.wait()


@cli.command()
@click.option(
    "--variant",
    type=click.Choice(demonstration.VARIANTS),
    default="orphaned",
    show_default=True,
    help="What the 11 wrong links hold: keys of masters that are gone, or the wrong key of one that is there.",
)
@click.option(
    "--report",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write what `pyflowguard report` gives in the end to FILE.",
)
@click.pass_context
def demo(context: click.Context, *, variant: demonstration.Variant, path: Path | None) -> None:
    """Show clean-up and guard on the report's database, on a throw-away PostgreSQL that leaves nothing behind."""
    write = _writer_of_reports("html") if path else None  # what it needs is asked for before anything begins

    def on_end(dsn: str) -> None:
        if write is not None:
            _write_text(write(reports.read_report(dsn)), path)

    progress = _Progress(quiet=False)
    if not demonstration.run(present.new_console(), variant, progress.shown, on_end if path else None):
        context.exit(ExitCode.FINDINGS)


@contextmanager
def _saying_when_interrupted(left: str) -> Iterator[None]:
    """Say what is left behind when the block is interrupted, before the command says that it was."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(left, err=True)
        raise


def _show_notice(notice: Notice) -> None:
    click.echo(str(notice), err=True)


def _terminal(*, quiet: bool) -> Console | None:
    """Give the terminal to draw on while a command works, if there is one and it may be drawn on."""
    console = Console(stderr=True)
    # rich takes over standard output too while it draws: not where that is a pipe
    return console if console.is_terminal and sys.stdout.isatty() and not quiet else None


class _Progress:
    """Shows steps as they come: a live line on a terminal, else a line when a step has ended; notices on stderr."""

    SIGNS: ClassVar[dict[str, str]] = {"deploy": "+", "record": "+", "revert": "-", "verify": "*"}

    def __init__(self, *, quiet: bool, within_changes: bool = False) -> None:
        self.quiet = quiet
        self.indent = "    " if within_changes else "  "  # of the steps of a guard
        console = _terminal(quiet=quiet)
        self.spinner = Spinner("dots", style="status.spinner")
        self.live = Live(self.spinner, console=console, refresh_per_second=12, transient=True) if console else None

    @contextmanager
    def shown(self) -> Iterator[_Progress]:
        with self.live or nullcontext():
            yield self

    def show(self, event: changes.Step | changes.Waiting) -> None:
        if isinstance(event, changes.Waiting):
            click.echo(f"Waiting for another deployer ({event.holder}).", err=True)
        elif event.seconds is None:
            self._begin(f"{event.action} {event.number}/{event.total} {event.change.name}")
        elif not self.quiet:
            how = " (recorded)" if event.action == "record" else ""
            click.echo(f"  {self.SIGNS[event.action]} {event.change.label} .. ok{how}")

    def show_guard(self, event: online.Step | online.Waiting) -> None:
        if isinstance(event, online.Waiting):
            if not self.quiet:
                by = f", used by {'; '.join(event.holders)}" if event.holders else ""
                lock = present.lock_of(event.step.planned)
                click.echo(f"{self.indent}. {event.step.link}: no {lock} yet{by}; trying again.", err=True)
        elif event.seconds is None:
            self._begin(f"{event.link}: {present.headline(event.planned.statement)}")
        elif not self.quiet:
            tries = f", {event.tries} tries" if event.tries > 1 else ""
            click.echo(f"{self.indent}+ {event.link}: {present.headline(event.planned.statement)}")
            click.echo(f"{self.indent}    {event.seconds:.1f} s{tries}; {present.lock_of(event.planned)}")

    notice = staticmethod(_show_notice)

    def _begin(self, step: str) -> None:
        """Name the step that begins; at once, for it may be over before the line is drawn again by itself."""
        if self.live:
            self.spinner.update(text=Text(step))
            self.live.refresh()


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
        console = _terminal(quiet=quiet)
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

    notice = staticmethod(_show_notice)

    def _show(self, what: str, completed: int, total: int) -> None:
        if self.live is None:
            return
        if self.task is None:
            self.task = self.live.add_task(what, total=total)
        self.live.update(self.task, description=what, completed=completed, total=total)


def _names(given: tuple[Change, ...]) -> list[str]:
    return [change.name for change in given]


def _step(step: online.Step) -> dict[str, Any]:
    return {**asdict(step.link), **asdict(step.planned), "seconds": step.seconds, "tries": step.tries}


def _write_text(text: str, path: Path | None) -> None:
    """Write a text to a file, or on standard output."""
    if path is None:
        click.echo(text, nl=False)
    else:
        with writing(path):
            path.write_text(text, encoding="utf-8")


def _print_json(data: object) -> None:
    click.echo(_as_json(data))


def _as_json(data: object) -> str:
    return json.dumps(data, indent=2, default=_json_value)


def _json_value(value: object) -> object:
    """Give what JSON has no word for: a figure as a number, a time as ISO 8601."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be given as JSON")


def main() -> None:
    """Run the command; every error that we foresee is one message on stderr and its own exit code."""
    try:
        _run()
    except OSError as error:
        if error.filename is not None:
            raise
        with suppress(OSError):  # where nothing can be said either, the exit code says it
            click.echo(f"pyflowguard: the output cannot be written: {error.strerror}.", err=True)
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None: it is closed
            _drop_unwritten(stream)
        sys.exit(ExitCode.FAILED)


def _run() -> None:
    try:
        sys.exit(cli.main(standalone_mode=False) or ExitCode.OK)
    except FlowguardError as error:
        click.echo(f"pyflowguard: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("pyflowguard: interrupted.", err=True)
        sys.exit(ExitCode.INTERRUPTED)


def _drop_unwritten(stream: TextIO) -> None:
    """Throw away what could not be written, lest Python try it again at exit, and end with an exit code of its own."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
