"""What `pyflowguard metrics` tells is what the database tells at that moment, by names that Prometheus likes."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from acceptance.command import Run, command_in, failure
from alarms.serving import MONITORING, NAME, fetch, metrics_of, names_told, samples
from conftest import Databases
from engine.postgres import Connection, one, rows, run
from engine.tables import create, register
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from ruamel.yaml import YAML

from pyflowguard.commands import monitoring
from pyflowguard.metrics import TIMEOUT, FlowguardCollector

STATES = ("linked", "unlinked", "dangling", "mismatched", "tenantless")
OF_PROMETHEUS = 10.0
"""Seconds for which Prometheus waits for an answer, if its configuration does not say else."""

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def url(well: Connection, clean_environment: dict[str, str]) -> Iterator[str]:
    """Where metrics of the small application are served."""
    with metrics_of(well.info.dsn, clean_environment, "--timeout", "100") as address:
        yield address


@pytest.fixture
def hasty(well: Connection, clean_environment: dict[str, str]) -> Iterator[str]:
    """The same, with little patience."""
    with metrics_of(well.info.dsn, clean_environment, "--timeout", "3") as address:
        yield address


def test_figures_are_those_of_the_database(url: str, well: Connection, intruder: Connection) -> None:
    run(well, "SELECT flowguard.set_mode('child', 'enforce', 'flow'); SELECT flowguard.snapshot()")
    run(well, "INSERT INTO probe VALUES (1, 1, NULL, now()), (2, NULL, 1, now())")
    run(intruder, "UPDATE parent SET flow = 77 WHERE id = 10; UPDATE parent SET flow = 9 WHERE id = 19")
    found = samples(fetch(url))
    assert found["flowguard_up"] == [("flowguard_up", (("database", well.info.dbname),), 1)]
    told = {(dict(labels)["table"], dict(labels)["state"]): value for _, labels, value in found["flowguard_rows"]}
    wanted = {}
    for table, *counts in rows(
        well, "SELECT relation::text, linked, unlinked, dangling, mismatched, tenantless FROM flowguard.link_status"
    ):
        wanted.update({(table, state): count for state, count in zip(STATES, counts, strict=True)})
    assert told == wanted
    assert (told["parent", "dangling"], told["probe", "unlinked"], told["probe", "tenantless"]) == (1, 1, 1)
    for name, column in (
        ("table_rows", "total"),
        ("coverage_ratio", "coverage"),
        ("link_validated", "validated::int"),
        ("link_indexed", "indexed::int"),
        ("link_guarded", "guarded::int"),
        ("link_enforced", "(mode = 'enforce')::int"),
    ):
        values = {dict(labels)["table"]: value for _, labels, value in found[f"flowguard_{name}"]}
        assert values == {
            table: float(value)
            for table, value in rows(well, f"SELECT relation::text, {column} FROM flowguard.link_status")  # noqa: S608
        }, name
    assert found["flowguard_health_score"][0][2] == float(one(well, "SELECT flowguard.health_score()"))
    assert {dict(labels)["category"]: value for _, labels, value in found["flowguard_health_category_score"]} == {
        category: float(score)
        for category, score in rows(well, "SELECT category, score FROM flowguard.health_category")
    }
    assert {
        (dict(labels)["name"], dict(labels)["level"]): value for _, labels, value in found["flowguard_findings"]
    } == {
        (name, level): count
        for name, level, count in rows(well, "SELECT name, level, count(*) FROM flowguard.check_all() GROUP BY 1, 2")
    }
    taken = one(well, "SELECT extract(epoch FROM max(taken_at))::float8 FROM flowguard.health_snapshot")
    assert found["flowguard_last_snapshot_timestamp_seconds"][0][2] == pytest.approx(taken)


def test_what_repair_did_is_told(url: str, well: Connection, intruder: Connection) -> None:
    run(well, "CREATE TABLE note (id integer PRIMARY KEY, parent integer REFERENCES parent ON DELETE SET NULL)")
    run(well, "INSERT INTO note VALUES (1, 10)")
    run(intruder, "UPDATE parent SET flow = 77 WHERE id = 10")
    assert "flowguard_last_finished_run_timestamp_seconds" not in samples(fetch(url))
    run(well, "CALL flowguard.repair()")
    run(well, "SELECT flowguard.bypass('a look')")
    found = samples(fetch(url))
    finished = one(well, "SELECT extract(epoch FROM max(finished_at))::float8 FROM flowguard.run")
    assert found["flowguard_last_finished_run_timestamp_seconds"][0][2] == pytest.approx(finished)
    assert one(well, "SELECT array_agg(action ORDER BY action)::text FROM flowguard.quarantine") == "{deleted,set}"
    assert found["flowguard_quarantined_rows"][0][2] == 1  # the note is where it was
    assert found["flowguard_bypassed_transactions_total"][0][2] == 1
    assert [value for *_, value in found["flowguard_unfinished_runs"]] == [0, 0]


def test_openmetrics_is_given_where_it_is_asked_for(url: str) -> None:
    text = fetch(url, OPENMETRICS)
    assert text.endswith("# EOF\n")
    assert is_up(text)
    assert not fetch(url).endswith("# EOF\n")


def test_promtool_has_nothing_to_say(url: str, tool: Callable[[str], str]) -> None:
    checked = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=fetch(url), capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_a_thousand_wrong_rows_are_no_more_series(url: str, intruder: Connection) -> None:
    of_parent = {"database": intruder.info.dbname, "link": "flow", "schema": "public", "table": "parent"}
    before = samples(fetch(url))
    run(intruder, "INSERT INTO parent SELECT n, 1, 77 FROM generate_series(100, 1100) n")
    after = samples(fetch(url))
    dangling = tuple(sorted({**of_parent, "state": "dangling"}.items()))
    assert ("flowguard_rows", dangling, 1001) in after["flowguard_rows"]
    assert {name: len(found) for name, found in after.items() if name != "flowguard_findings"} == {
        name: len(found) for name, found in before.items() if name != "flowguard_findings"
    }
    assert all(set(dict(labels)) <= {"database", "name", "level"} for _, labels, _ in after["flowguard_findings"])


# --- Never a stale figure


def is_up(text: str) -> bool:
    return [value for *_, value in samples(text)["flowguard_up"]] == [1]


def only_up(text: str) -> bool:
    return set(samples(text)) == {"flowguard_up", "flowguard_scrape_duration_seconds"} and not is_up(text)


def test_nothing_is_told_of_a_database_that_cannot_be_reached(url: str, engine_db: str, intruder: Connection) -> None:
    assert is_up(fetch(url))
    name = str(conninfo_to_dict(engine_db)["dbname"])
    with psycopg.connect(make_conninfo(intruder.info.dsn, dbname="postgres"), autocommit=True) as admin:
        run(admin, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        assert only_up(fetch(url))
        run(admin, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    assert is_up(fetch(url))


def test_a_database_that_does_not_answer_in_time_is_given_up(hasty: str, well: Connection) -> None:
    with well.transaction():
        run(well, "LOCK TABLE parent IN ACCESS EXCLUSIVE MODE")
        start = time.monotonic()
        assert only_up(fetch(hasty))
        assert 2.5 < time.monotonic() - start < 20
    assert any(is_up(fetch(hasty)) for _ in range(20))


def test_a_server_that_hangs_is_given_up(hasty: str, well: Connection) -> None:
    """The server's own timeout does not help then."""
    with well.transaction():
        run(well, "LOCK TABLE parent IN ACCESS EXCLUSIVE MODE")
        texts: list[str] = []
        scrape = threading.Thread(target=lambda: texts.append(fetch(hasty)))
        scrape.start()
        backend = None
        while backend is None:
            time.sleep(0.05)
            backend = next(
                iter(rows(well, "SELECT pid FROM pg_locks WHERE NOT granted AND locktype = 'relation'")), None
            )
        os.kill(backend[0], signal.SIGSTOP)
        try:
            scrape.join(timeout=60)
            assert [only_up(text) for text in texts] == [True]
        finally:
            os.kill(backend[0], signal.SIGCONT)


def test_it_answers_before_prometheus_gives_up(well: Connection, clean_environment: dict[str, str]) -> None:
    """Else it knows nothing, and no alert on flowguard_up can fire. Both are left at what they do by themselves."""
    with metrics_of(well.info.dsn, clean_environment) as url, well.transaction():
        run(well, "LOCK TABLE parent IN ACCESS EXCLUSIVE MODE")
        start = time.monotonic()
        assert only_up(fetch(url))
        assert time.monotonic() - start < OF_PROMETHEUS


def test_the_time_it_takes_at_most_is_less_than_prometheus_waits() -> None:
    (default,) = [option.default for option in monitoring.metrics.params if option.name == "timeout"]
    assert default == TIMEOUT.total_seconds() <= OF_PROMETHEUS - 2


@pytest.mark.parametrize("hosts", [1, 3])
def test_connecting_is_given_up_in_time_too(hosts: int) -> None:
    """A server that takes a connection and says nothing, or several; a connection has 10 s by itself, each."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        dsn = make_conninfo(host=",".join(["127.0.0.1"] * hosts), port=port, dbname="mute", user="joe")
        collector = FlowguardCollector(dsn, timeout=timedelta(seconds=1))
        start = time.monotonic()
        up, *_ = collector.collect()
        assert time.monotonic() - start < 5
    assert [(sample.labels, sample.value) for sample in up.samples] == [({"database": "mute"}, 0)]
    assert "did not answer within 1 s" in str(collector.failure)


# --- Several databases


def series(text: str) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    return {(name, labels) for found in samples(text).values() for name, labels, _ in found}


def test_files_of_two_databases_have_no_series_in_common(
    command: Run, well: Connection, databases: Databases, engine_template: str, tmp_path: Path
) -> None:
    """node_exporter tells one of two series that are the same, and no word of the other."""
    target = tmp_path / "flowguard.prom"
    told = []
    with databases.new(engine_template) as other:
        with psycopg.connect(other) as connection:
            create(connection)
            register(connection)
        for dsn in (well.info.dsn, other):
            assert command("metrics", "--dsn", dsn, "--timeout", "100", "-o", target).returncode == 0
            told.append(series(target.read_text()))
            assert {dict(labels)["database"] for _, labels in told[-1]} == {conninfo_to_dict(dsn)["dbname"]}
    assert len(told[0]) > 60
    assert {name for name, _ in told[0]} & {name for name, _ in told[1]}
    assert not told[0] & told[1]


@pytest.mark.parametrize(
    ("dsn", "environment", "name"),
    [
        ("dbname=billing", {}, "billing"),
        ("postgresql://joe:secret@db.invalid/billing?hostaddr=127.0.0.1&port=1", {}, "billing"),
        ("user=joe", {}, "joe"),
        ("", {"PGDATABASE": "billing"}, "billing"),
        ("service=shop", {}, "of_the_shop"),
        ("", {"PGSERVICE": "shop"}, "of_the_shop"),
        ("service=unknown", {}, ""),
    ],
)
def test_a_database_that_cannot_be_reached_is_named_as_well(
    clean_environment: dict[str, str], tmp_path: Path, dsn: str, environment: dict[str, str], name: str
) -> None:
    target = tmp_path / "flowguard.prom"
    services = tmp_path / "services.conf"
    services.write_text("[shop]\nhost=127.0.0.1\nport=1\ndbname=of_the_shop\n")
    unreachable = {"PGHOST": "127.0.0.1", "PGPORT": "1", "PGSERVICEFILE": str(services)}
    run_it = command_in({**clean_environment, **unreachable, **environment}, timeout=120)
    assert "Cannot connect" in failure(run_it("metrics", "--dsn", dsn, "-o", target), 3)
    assert only_up(target.read_text())
    assert {labels for _, labels in series(target.read_text())} == {(("database", name),)}


# --- A file


def test_a_file_is_written_at_once_or_not_at_all(command: Run, well: Connection, tmp_path: Path) -> None:
    target = tmp_path / "flowguard.prom"
    read: list[str] = []
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            if target.exists():
                read.append(target.read_text())

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for _ in range(3):
            result = command("metrics", "--dsn", well.info.dsn, "--timeout", "100", "-o", target)
            assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    finally:
        is_over.set()
        reader.join()
    assert read
    assert all(is_up(text) and "flowguard_scrape_duration_seconds" in samples(text) for text in set(read))
    assert [path.name for path in tmp_path.iterdir()] == ["flowguard.prom"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~_umask()


def test_a_file_says_when_nothing_is_known(command: Run, well: Connection, tmp_path: Path) -> None:
    target = tmp_path / "flowguard.prom"
    assert command("metrics", "--dsn", well.info.dsn, "--timeout", "100", "-o", target).returncode == 0
    assert "Cannot connect" in failure(command("metrics", "--dsn", "host=127.0.0.1 port=1 dbname=x", "-o", target), 3)
    assert only_up(target.read_text())


def test_what_cannot_be_meant_is_said(command: Run, engine_db: str, tmp_path: Path) -> None:
    assert "directory" in failure(command("metrics", "--dsn", engine_db, "-o", tmp_path / "none" / "a.prom"), 2)
    for arguments in ([], ["--listen", "127.0.0.1:1", "-o", "x"], ["--listen", "9897"], ["--listen", "a:70000"]):
        result = command("metrics", *arguments)
        assert (result.returncode, result.stdout) == (2, ""), arguments
        assert "--listen" in result.stderr
    with metrics_of(engine_db, dict(os.environ)) as url:
        port = url.split(":")[2].split("/")[0]
        assert f"127.0.0.1:{port}" in failure(command("metrics", "--listen", f"127.0.0.1:{port}"), 2)


def test_without_the_extra_it_says_what_to_install(clean_environment: dict[str, str]) -> None:
    script = (
        "import sys; sys.modules['prometheus_client'] = None; sys.argv = ['pyflowguard', 'metrics', '-o', 'x']; "
        "from pyflowguard.cli import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], env=clean_environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 4
    assert result.stderr.splitlines() == [
        "pyflowguard: Metrics cannot be told: the package prometheus_client is not installed.",
        "HINT:  pip install 'pyflowguard[metrics]'",
    ]


# --- sql_exporter

COLLECTOR = MONITORING / "flowguard.collector.yml"


def read_yaml(path: Path) -> Any:  # noqa: ANN401  YAML
    return YAML(typ="safe").load(path.read_text())


def test_the_configuration_is_one_of_sql_exporter() -> None:
    """The rules by which sql_exporter reads it: what must be there, and nothing that it does not know."""
    config = read_yaml(MONITORING / "sql_exporter.yml")
    assert set(config) == {"global", "target", "collector_files"}
    assert set(config["global"]) <= {
        "scrape_timeout", "scrape_timeout_offset", "min_interval", "max_connections", "max_idle_connections",
    }  # fmt: skip
    assert set(config["target"]) == {"data_source_name", "collectors"}
    collector = read_yaml(COLLECTOR)
    assert set(collector) == {"collector_name", "metrics", "queries"}
    assert config["target"]["collectors"] == [collector["collector_name"]]
    assert COLLECTOR in [path for pattern in config["collector_files"] for path in MONITORING.glob(pattern)]
    queries = [query["query_name"] for query in collector["queries"]]
    for metric in collector["metrics"]:
        assert {"metric_name", "type", "help", "values"} <= set(metric)
        assert set(metric) <= {"metric_name", "type", "help", "key_labels", "values", "query", "query_ref"}
        assert ("query" in metric) != ("query_ref" in metric)
        assert metric.get("query_ref") in [*queries, None]
        assert metric["type"] in {"counter", "gauge"}
        assert len(metric["values"]) == 1


def test_sql_exporter_tells_the_same(url: str, well: Connection, intruder: Connection, engine_db: str) -> None:
    run(well, "SELECT flowguard.snapshot(); INSERT INTO probe VALUES (1, 1, NULL, now())")
    run(intruder, "UPDATE parent SET flow = 77 WHERE id = 10")
    run(well, "CALL flowguard.repair('parent', link_column => 'flow')")
    text = fetch(url)
    found = samples(text)
    collector = read_yaml(COLLECTOR)
    queries = {query["query_name"]: query["query"] for query in collector["queries"]}
    told = {}
    with psycopg.connect(engine_db, row_factory=dict_row) as connection:
        for metric in collector["metrics"]:
            name = metric["metric_name"]
            query = metric.get("query") or queries[metric["query_ref"]]
            told[name] = sorted(
                (
                    name,
                    tuple(sorted((label, row[label]) for label in metric.get("key_labels", []))),
                    float(row[metric["values"][0]]),
                )
                for row in connection.execute(query.encode())
            )
    own = {"flowguard_scrape_duration_seconds"}  # sql_exporter has one of its own
    assert set(told) == set(found) - own
    for name, values in told.items():
        assert [labels for _, labels, _ in values] == [labels for _, labels, _ in found[name]], name
        assert [value for *_, value in values] == pytest.approx([value for *_, value in found[name]]), name


@pytest.mark.parametrize("path", sorted(MONITORING.iterdir()), ids=lambda path: path.name)
def test_every_name_in_the_files_is_one_that_is_told(url: str, path: Path) -> None:
    told = names_told(fetch(url))
    named = set(NAME.findall(path.read_text())) - {"flowguard_viewer"}
    assert named <= told
    assert named or path.name in {"prometheus.yml", "sql_exporter.yml"}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
