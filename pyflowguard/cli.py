"""The pyflowguard command."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import TextIO, cast

import click

from pyflowguard import __version__
from pyflowguard.engine import UNDERSTOOD
from pyflowguard.errors import ExitCode, FlowguardError

COMMANDS = {
    "adopt": "changesets",
    "bundle": "changesets",
    "check": "findings",
    "demo": "demo",
    "deploy": "changesets",
    "discover": "discover",
    "doctor": "findings",
    "explain": "repair",
    "guard": "guard",
    "health": "health",
    "metrics": "monitoring",
    "repair": "repair",
    "report": "report",
    "revert": "changesets",
    "set-mode": "guard",
    "snapshot": "health",
    "status": "changesets",
    "undo": "repair",
    "verify": "changesets",
    "watch": "monitoring",
}
"""The commands, and the module of pyflowguard.commands that has each."""


class _Commands(click.Group):
    """Imports a command once it is asked for: Python takes longer to read them all than health takes to answer."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  as click calls it
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  as click calls it
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"pyflowguard.commands.{COMMANDS[cmd_name]}")
        return cast("click.Command", getattr(module, cmd_name.replace("-", "_")))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    __version__,
    prog_name="pyflowguard",
    message=f"%(prog)s, version %(version)s\nEngines that it understands: {UNDERSTOOD}",
)
def cli() -> None:
    """Keep every row linked to its master, by PostgreSQL itself."""


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
