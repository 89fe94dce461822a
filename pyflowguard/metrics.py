"""Tells Prometheus how true the links are: over HTTP, or in a file. Each figure is read when it is asked for.

Labels are names of the database, of tables, columns and findings, never a row's key: there are as many series as there
are links, and no more when a million rows are wrong.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TookTooLong
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server, write_to_textfile
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pyflowguard.database import Connection, database_name, did_not_answer, one_moment, time_limit
from pyflowguard.engine import VIEWER, engine
from pyflowguard.errors import FlowguardError, UsageError, writing

TIMEOUT = timedelta(seconds=8)
"""How long it may take to connect and to be answered, by default: less than the 10 s for which Prometheus waits."""

_GRACE = timedelta(seconds=0.5)
"""How much later it gives up itself, so that it is the server that ends what it does, if it can."""

STATES = ("linked", "unlinked", "dangling", "mismatched", "tenantless")

_OF_LINK = ("schema", "table", "link")

_OVERVIEW = """
SELECT score::pg_catalog.float8, categories, links, findings, flowguard.version() FROM flowguard._overview(%s)
"""

_LEDGER = """
SELECT (SELECT pg_catalog.count(*) FROM flowguard.quarantine WHERE action = 'deleted'),
       pg_catalog.count(*) FILTER (WHERE r.status = 'running'),
       pg_catalog.count(*) FILTER (WHERE r.status = 'stopped'),
       EXTRACT(epoch FROM pg_catalog.max(r.finished_at) FILTER (WHERE r.status = 'finished'))::pg_catalog.float8,
       (SELECT pg_catalog.count(*) FROM flowguard.privileged_transaction t WHERE t.kind = 'bypass'),
       (SELECT EXTRACT(epoch FROM pg_catalog.max(s.taken_at))::pg_catalog.float8 FROM flowguard.health_snapshot s)
  FROM flowguard.run r
"""


class FlowguardCollector(Collector):
    """Asks the database when it is asked, and remembers nothing: what it cannot read is not told.

    `failure` is why the last time it could not; flowguard_up is 0 then.
    """

    def __init__(self, dsn: str, *, exact: bool = False, timeout: timedelta = TIMEOUT) -> None:
        """Connect anew each time, with `dsn` and libpq's environment; `exact` counts every row."""
        self.dsn = dsn
        self.exact = exact
        self.timeout = timeout
        self.database = ""
        self.failure: FlowguardError | None = None

    def describe(self) -> list[Metric]:
        """Name nothing beforehand, for a collector that is registered would be asked."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read all figures, of one moment."""
        start = time.monotonic()
        families: list[Metric] = []
        try:
            families = self._read_in_time()
            self.failure = None
        except FlowguardError as error:
            self.failure = error
        up = GaugeMetricFamily("flowguard_up", "Whether the database told all there is to tell: 1, or 0 if it did not.")
        up.add_metric([], 0 if self.failure else 1)
        took = GaugeMetricFamily(
            "flowguard_scrape_duration_seconds", "How long it took to ask the database.", unit="seconds"
        )
        took.add_metric([], time.monotonic() - start)
        self.database = self.database or database_name(self.dsn)
        for family in (up, *families, took):
            family.samples = [
                sample._replace(labels={"database": self.database, **sample.labels}) for sample in family.samples
            ]
            yield family

    def _read_in_time(self) -> list[Metric]:
        """Read all figures in a thread that is left to itself when it is late, whatever it waits for.

        That may be a name server, too, or one of several hosts; it ends by its own limits then.
        """
        answer: Future[list[Metric]] = Future()

        def read() -> None:
            try:
                answer.set_result(self._read(time.monotonic()))
            except BaseException as error:  # noqa: BLE001 - is raised by result()
                answer.set_exception(error)

        threading.Thread(target=read, daemon=True).start()
        try:
            return answer.result((self.timeout + _GRACE).total_seconds())
        except TookTooLong:
            raise did_not_answer(self.timeout) from None

    def _read(self, start: float) -> list[Metric]:
        limit = self.timeout + _GRACE
        with (
            engine(self.dsn, action="reading the health of links", role=VIEWER, limit=limit) as connection,
            time_limit(connection, limit),
            one_moment(connection),
        ):
            left = self.timeout.total_seconds() - (time.monotonic() - start)
            milliseconds = max(1, round(left * 1000))
            connection.execute("SELECT pg_catalog.set_config('statement_timeout', %s, true)", [f"{milliseconds}ms"])
            overview = connection.execute(_OVERVIEW, [self.exact]).fetchone()
            assert overview is not None  # noqa: S101 - the function gives one row
            score, categories, links, findings, version = overview
            return [
                _info(version),
                *_health(score, categories),
                *_links(links),
                _findings(findings),
                *_ledger(connection),
            ]


@contextmanager
def serving(collector: FlowguardCollector, host: str, port: int) -> Iterator[str]:
    """Serve the metrics over HTTP while in the block; yields where. Raises UsageError if nobody can listen there."""
    try:
        server, thread = start_http_server(port, host, registry=_registry(collector))
    except OSError as error:
        raise UsageError(f"Nobody can listen on {host}:{port}: {error.strerror or error}.") from error
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def write(collector: FlowguardCollector, path: Path) -> None:
    """Write the metrics to a file that comes to be at once or not at all, even if it says only that nothing is known.

    Raises UsageError if it cannot be written, then what kept the collector from reading.
    """
    with writing(path):
        write_to_textfile(str(path), _registry(collector))
    if collector.failure is not None:
        raise collector.failure


def _registry(collector: FlowguardCollector) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


def _info(version: str) -> Metric:
    info = GaugeMetricFamily("flowguard_engine_info", "The version of the engine in the database.", labels=["version"])
    info.add_metric([version], 1)
    return info


def _health(score: float, categories: dict[str, float]) -> Iterator[Metric]:
    health = GaugeMetricFamily("flowguard_health_score", "How healthy all links are, from 0 to 100 points.")
    health.add_metric([], score)
    yield health
    parts = GaugeMetricFamily(
        "flowguard_health_category_score",
        "How healthy all links are in one of five categories, from 0 to 100 points.",
        labels=["category"],
    )
    for category, points in sorted(categories.items()):
        parts.add_metric([category], points)
    yield parts


def _links(links: list[dict[str, Any]]) -> Iterator[Metric]:
    rows = GaugeMetricFamily(
        "flowguard_rows",
        "Rows of a table by what their link is; no series where it is neither counted nor proved.",
        labels=[*_OF_LINK, "state"],
    )
    figures = {
        "total": GaugeMetricFamily(
            "flowguard_table_rows", "Rows of a table that has a link; see flowguard_link_estimated.", labels=_OF_LINK
        ),
        "coverage": GaugeMetricFamily(
            "flowguard_coverage_ratio",
            "Validly linked rows per row, 1 only where all are; where that is not known, how much it is at most.",
            labels=_OF_LINK,
        ),
        "guarded": GaugeMetricFamily("flowguard_link_guarded", "Whether the link is guarded.", labels=_OF_LINK),
        "enforced": GaugeMetricFamily(
            "flowguard_link_enforced", "Whether rows without a valid link are refused.", labels=_OF_LINK
        ),
        "validated": GaugeMetricFamily(
            "flowguard_link_validated", "Whether all foreign keys that prove the link are validated.", labels=_OF_LINK
        ),
        "indexed": GaugeMetricFamily(
            "flowguard_link_indexed", "Whether all indexes that the link needs are there.", labels=_OF_LINK
        ),
        "estimated": GaugeMetricFamily(
            "flowguard_link_estimated", "Whether rows are estimated rather than counted.", labels=_OF_LINK
        ),
        "unproved": GaugeMetricFamily(
            "flowguard_link_unproved_figures",
            "How many figures of the link are neither counted nor proved; flowguard.link_estimate says why.",
            labels=_OF_LINK,
        ),
    }
    for link in links:
        labels = [link["schema_name"], link["table_name"], link["link_column"]]
        for state in STATES:
            if link[state] is not None:
                rows.add_metric([*labels, state], link[state])
        told = {**link, "enforced": link["mode"] == "enforce", "unproved": len(link["unproved"])}
        for name, family in figures.items():
            if told[name] is not None:
                family.add_metric(labels, float(told[name]))
    yield rows
    yield from figures.values()


def _findings(findings: list[dict[str, Any]]) -> Metric:
    family = GaugeMetricFamily(
        "flowguard_findings", "What is not as it should be: findings by name and level.", labels=["name", "level"]
    )
    counts: dict[tuple[str, str], int] = {}
    for finding in findings:
        key = (finding["name"], finding["level"])
        counts[key] = counts.get(key, 0) + 1
    for (name, level), count in sorted(counts.items()):
        family.add_metric([name, level], count)
    return family


def _ledger(connection: Connection) -> Iterator[Metric]:
    row = connection.execute(_LEDGER).fetchone()
    assert row is not None  # noqa: S101 - an aggregate without GROUP BY gives one row
    quarantined, running, stopped, finished, bypassed, snapshot = row
    waiting = GaugeMetricFamily("flowguard_quarantined_rows", "Rows that repair took out and that wait for a decision.")
    waiting.add_metric([], quarantined)
    yield waiting
    runs = GaugeMetricFamily(
        "flowguard_unfinished_runs", "Runs of repair that are at work, or were stopped.", labels=["status"]
    )
    runs.add_metric(["running"], running)
    runs.add_metric(["stopped"], stopped)
    yield runs
    let_past = CounterMetricFamily(
        "flowguard_bypassed_transactions", "Transactions that were let past the guard, since it was installed."
    )
    let_past.add_metric([], bypassed)
    yield let_past
    for name, text, at in (
        ("flowguard_last_finished_run_timestamp_seconds", "When a run of repair finished last.", finished),
        ("flowguard_last_snapshot_timestamp_seconds", "When a snapshot of health was taken last.", snapshot),
    ):
        family = GaugeMetricFamily(name, text, unit="seconds")
        if at is not None:
            family.add_metric([], at)
        yield family
