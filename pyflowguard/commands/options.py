"""Options that several commands have, and the kinds of their values."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from click.core import ParameterSource

F = TypeVar("F", bound=Callable[..., Any])
"""A command."""

A_YEAR = 366 * 24 * 3600.0
"""Seconds; more cannot be meant."""

EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class Number(click.FloatRange):
    """A number in a range; nan, which click lets pass, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Read a number; click's usage error for what is none, or lies outside."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a valid number.", param, ctx)
        return number


def dsn_option(command: F) -> F:
    """Add --dsn to a command."""
    return click.option(
        "--dsn",
        default="",
        metavar="DSN",
        help="Database, as a URI or key=value pairs; libpq's environment (PGHOST, PGDATABASE, ...) fills the gaps.",
    )(command)


def json_option(command: F) -> F:
    """Add --json to a command, as parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")(command)


def form_of(form: str | None, *, as_json: bool, default: str) -> str:
    """Give the form that --format and --json, which is short for one, ask for; click's usage error if for two."""
    if as_json and form not in {None, "json"}:
        raise click.UsageError("--json is short for --format json; give one of the two.")
    return "json" if as_json else form or default


dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")

output_option = click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Default: standard output."
)


def link_column_option(command: F) -> F:
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
    )(cast("F", checked))


def changes_option(command: F) -> F:
    """Add --changes to a command, as parameter `directory`."""
    return click.option(
        "--changes",
        "directory",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Directory with sqitch.plan, deploy/, revert/ and verify/. Default: the change sets shipped with this.",
    )(command)


def to_option(command: F) -> F:
    """Add --to to a command."""
    return click.option("--to", metavar="CHANGE|@TAG", help="Last change that is to be deployed (NAME, @TAG, NAME^).")(
        command
    )
