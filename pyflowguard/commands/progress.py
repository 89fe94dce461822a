"""Shows steps as they come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any, ClassVar

import click
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from pyflowguard import changes, online, present
from pyflowguard.commands.output import show_notice, terminal


class Progress:
    """Shows steps as they come: a live line on a terminal, else a line when a step has ended; notices on stderr."""

    SIGNS: ClassVar[dict[str, str]] = {"deploy": "+", "record": "+", "revert": "-", "verify": "*"}

    def __init__(self, *, quiet: bool, within_changes: bool = False) -> None:
        """Show nothing where `quiet`; set what a guard does further in where it is a part of change sets."""
        self.quiet = quiet
        self.indent = "    " if within_changes else "  "  # of the steps of a guard
        console = terminal(quiet=quiet)
        self.spinner = Spinner("dots", style="status.spinner")
        self.live = Live(self.spinner, console=console, refresh_per_second=12, transient=True) if console else None

    @contextmanager
    def shown(self) -> Iterator[Progress]:
        """Draw while the block runs."""
        with self.live or nullcontext():
            yield self

    def show(self, event: changes.Step | changes.Waiting) -> None:
        """Show a step of deploy, revert or verify."""
        if isinstance(event, changes.Waiting):
            click.echo(f"Waiting for another deployer ({event.holder}).", err=True)
        elif event.seconds is None:
            self._begin(f"{event.action} {event.number}/{event.total} {event.change.name}")
        elif not self.quiet:
            how = " (recorded)" if event.action == "record" else ""
            click.echo(f"  {self.SIGNS[event.action]} {event.change.label} .. ok{how}")

    def show_guard(self, event: online.Step | online.Waiting) -> None:
        """Show a step of guard."""
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

    notice = staticmethod(show_notice)

    def _begin(self, step: str) -> None:
        """Name the step that begins; at once, for it may be over before the line is drawn again by itself."""
        if self.live:
            self.spinner.update(text=Text(step))
            self.live.refresh()


def step_json(step: online.Step) -> dict[str, Any]:
    """Give a step of guard as an object of JSON."""
    return {**asdict(step.link), **asdict(step.planned), "seconds": step.seconds, "tries": step.tries}
