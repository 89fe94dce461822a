"""The command that proposes what to guard."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from pyflowguard import changeset, present
from pyflowguard import discover as discovery
from pyflowguard.commands.options import A_YEAR, Number, dsn_option, json_option
from pyflowguard.commands.output import print_json
from pyflowguard.discover import Link, Master, Proposal, counted, links_of, quoted


@click.command()
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
    type=Number(0.001, A_YEAR),
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
        print_json({**asdict(proposal), "written": [str(file) for file in written]})
        return
    _show_proposal(present.new_console(), proposal)
    if written:
        click.echo("\nWritten, to be read and edited:\n" + "\n".join(f"  {file}" for file in written))
    elif directory is not None:
        click.echo("Nothing was written.")
    elif proposal.masters:
        click.echo("\n--write DIRECTORY writes this as a change set.")


def _show_proposal(console: Console, proposal: Proposal) -> None:
    """Show what is proposed, with evidence and locks, and what is not, with the reason."""
    for table in proposal.unreadable:
        console.print(f"{table} was not looked at: the role may not read it.")
    for master in proposal.masters:
        _show_master(console, master)
        for link in master.links:
            _show_link(console, link)
    if not proposal.masters:
        console.print(f"Nothing to guard was found in {proposal.tables} tables of database {proposal.database}.")
        console.print(
            "Looked for: columns that hold the key of another table, by a foreign key or by their names, in rows that "
            "are unlinked or wrong. If you know of one, register it: see flowguard.add_master() and add_link() in "
            "docs/sql.md. Another schema or database is meant? Name it by --schema or --dsn."
        )
    if proposal.passed:
        console.print()
        console.print(Text("Not proposed", style="bold"))
        for passed in proposal.passed:
            console.print(present.indented("", f"{passed.what}: {passed.reason}"))


def _show_master(console: Console, master: Master) -> None:
    console.print(Text(f"Master {master.relation}, key {quoted(master.key_column)}", style="bold"))
    for evidence in master.evidence:
        console.print(present.indented("", evidence))


def _show_link(console: Console, link: Link) -> None:
    console.print()
    console.print(Text(f"  Link {link.relation}.{quoted(link.column)}", style="bold"))
    console.print(present.indented("", counted(link)))
    console.print(present.indented("why:", "; ".join(link.evidence)))
    for rule in link.rules:
        label = "rule:" if rule.proposed else "thought:"
        if rule.kind == "reference":
            text = f"reference by {quoted(rule.via_column or '')}{'' if rule.agree else ', need not agree'}"
        elif rule.kind == "proximity":
            text = f"proximity to {rule.source} within {rule.within}"
        else:
            text = "session"
        console.print(present.indented(label, "; ".join([text, *filter(None, [links_of(rule)]), *rule.evidence])))
    locks: dict[str, list[str]] = {}
    for step in link.steps:
        locks.setdefault(step.lock, []).append(step.action)
    for number, (lock, actions) in enumerate(locks.items()):
        console.print(present.indented("" if number else "locks:", f"{lock}: {'; '.join(actions)}"))
