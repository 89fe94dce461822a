"""Commands that list what is not as it should be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from pathlib import Path

import click

from pyflowguard import doctor as drift
from pyflowguard import formats, gate, present
from pyflowguard import health as links
from pyflowguard.commands.guard import guard_deadline_option, guard_lock_timeout_option
from pyflowguard.commands.options import EXISTING_FILE, Number, dsn_option, form_of
from pyflowguard.commands.output import print_json, show_notice
from pyflowguard.commands.progress import Progress
from pyflowguard.errors import ExitCode

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
    type=EXISTING_FILE,
    metavar="FILE",
    help="Leave out the findings that FILE names, a line each: KEY, the last day on which to ignore it, and why.",
)


@click.command()
@dsn_option
@format_option
@fail_on_option
@click.option(
    "--min-score", type=Number(0, 100), metavar="SCORE", help="A health score below is a finding of level error."
)
@click.option("--doctor", "with_doctor", is_flag=True, help="List what `pyflowguard doctor` finds as well.")
@ignore_option
@ignore_file_option
@click.option(
    "--baseline",
    type=EXISTING_FILE,
    metavar="FILE",
    help="Leave out the findings that are in FILE and are no more than there.",
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
    form = form_of(form, as_json=as_json, default="text")
    if baseline is not None and write_baseline is not None:
        raise click.UsageError("Give --baseline to compare with a baseline, or --write-baseline to make one, not both.")
    kinds = gate.KINDS if with_doctor else links.KINDS
    entries = _ignored(ignore, ignore_file, kinds)
    known = gate.read_baseline(baseline) if baseline else None
    findings = links.check(dsn, min_score=min_score, on_notice=show_notice)
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


@click.command()
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
    form = form_of(form, as_json=as_json, default="text")
    entries = _ignored(ignore, ignore_file, drift.KINDS)
    findings = drift.doctor(dsn, on_notice=show_notice)
    verdict = _judged(findings, fail_on, entries)
    safe = [finding for finding in findings if finding.safe and finding in verdict.findings]
    if fix and safe:
        with Progress(quiet=form != "text").shown() as progress:
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
        print_json([asdict(finding) for finding in verdict.findings])
    elif form == "junit":
        click.echo(formats.as_junit(verdict, command=command, kinds=kinds))
    elif form == "sarif":
        print_json(formats.as_sarif(verdict, kinds=kinds))
    else:
        click.echo("\n".join([*formats.as_github(verdict), present.count_verdict(verdict)]))
    for note in verdict.notes:
        click.echo(f"NOTE:  {note}", err=True)
