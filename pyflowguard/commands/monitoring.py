"""Commands that tell what is wrong as it happens, to people and to Prometheus."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections import deque
from contextlib import closing, nullcontext, suppress
from datetime import timedelta
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live

from pyflowguard import present
from pyflowguard import watch as watching
from pyflowguard.commands.options import Number, dsn_option
from pyflowguard.commands.output import json_value
from pyflowguard.errors import ExitCode, ExtraMissing

_LAST_PORT = 65535


def _address(text: str) -> tuple[str, int]:
    """Read HOST:PORT; click's usage error for anything else."""
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > _LAST_PORT:
        raise click.BadParameter(f"{text!r} is not HOST:PORT, such as 127.0.0.1:9897.", param_hint="--listen")
    return host.strip("[]"), int(port)


@click.command()
@dsn_option
@click.option(
    "--interval",
    type=Number(0.1, 3600),
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
    return json.dumps({"at": event.at, "event": event.kind, **event.data}, default=json_value)


@click.command()
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
    type=Number(0.1, 3600),
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
