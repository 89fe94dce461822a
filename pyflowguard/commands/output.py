"""What commands print: notices and what a terminal shows while they work, JSON, and texts in files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import click
from rich.console import Console

from pyflowguard.database import Notice
from pyflowguard.errors import writing


def show_notice(notice: Notice) -> None:
    """Print what the server said on stderr."""
    click.echo(str(notice), err=True)


def terminal(*, quiet: bool) -> Console | None:
    """Give the terminal to draw on while a command works, if there is one and it may be drawn on."""
    console = Console(stderr=True)
    # rich takes over standard output too while it draws: not where that is a pipe
    return console if console.is_terminal and sys.stdout.isatty() and not quiet else None


@contextmanager
def saying_when_interrupted(left: str) -> Iterator[None]:
    """Say what is left behind when the block is interrupted, before the command says that it was."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(left, err=True)
        raise


def write_text(text: str, path: Path | None) -> None:
    """Write a text to a file, or on standard output."""
    if path is None:
        click.echo(text, nl=False)
    else:
        with writing(path):
            path.write_text(text, encoding="utf-8")


def print_json(data: object) -> None:
    """Print data as JSON on standard output."""
    click.echo(json_text(data))


def json_text(data: object) -> str:
    """Write data as JSON."""
    return json.dumps(data, indent=2, default=json_value)


def json_value(value: object) -> object:
    """Give what JSON has no word for: a figure as a number, a time as ISO 8601."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be given as JSON")
