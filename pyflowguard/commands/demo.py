"""The command that shows what the others do."""

from __future__ import annotations

from pathlib import Path

import click

from pyflowguard import demo as demonstration
from pyflowguard import present
from pyflowguard import report as reports
from pyflowguard.commands.output import write_text
from pyflowguard.commands.progress import Progress
from pyflowguard.commands.report import writer_of_reports
from pyflowguard.errors import ExitCode


@click.command()
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
    write = writer_of_reports("html") if path else None  # what it needs is asked for before anything begins

    def on_end(dsn: str) -> None:
        if write is not None:
            write_text(write(reports.read_report(dsn)), path)

    progress = Progress(quiet=False)
    if not demonstration.run(present.new_console(), variant, progress.shown, on_end if path else None):
        context.exit(ExitCode.FINDINGS)
