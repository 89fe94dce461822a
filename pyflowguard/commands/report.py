"""The command that writes one page about all links."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click

from pyflowguard import report as reports
from pyflowguard.commands.options import dsn_option, form_of, output_option
from pyflowguard.commands.output import json_text, show_notice, write_text
from pyflowguard.errors import ExtraMissing


@click.command()
@dsn_option
@output_option
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
    write = writer_of_reports(form_of(form, as_json=as_json, default="html"))
    write_text(write(reports.read_report(dsn, violations=violations, on_notice=show_notice)), output)


def writer_of_reports(form: str) -> Callable[[reports.Report], str]:
    """Give what writes a report in a form; ExtraMissing if that needs a package that is not installed."""
    if form == "json":
        return lambda read: json_text(asdict(read)) + "\n"
    try:
        from pyflowguard import page  # noqa: PLC0415 - it needs what only the extra installs
    except ModuleNotFoundError as error:
        raise ExtraMissing(
            f"A report in {form} cannot be written: the package {error.name} is not installed.",
            hint="pip install 'pyflowguard[report]', or let it be written as JSON (--json).",
        ) from error
    return page.as_html if form == "html" else page.as_markdown
