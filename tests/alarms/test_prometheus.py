"""A real Prometheus scrapes a real `pyflowguard metrics`, and its alerts fire on what they are for."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alarms.serving import MONITORING, Prometheus, metrics_of, prometheus
from engine.postgres import Connection, run
from engine.tables import create
from ruamel.yaml import YAML

ALERTS = MONITORING / "alerts.yml"
DASHBOARD = json.loads((MONITORING / "grafana.json").read_text())

SOON = 2.0
"""Seconds within which Prometheus knows of a violation; the alert fires when the rules are evaluated next."""

QUICK = """
global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}
rule_files: [alerts.yml]
scrape_configs:
  - job_name: flowguard
    static_configs: [{{targets: ["{target}"]}}]
"""


def at_once(rules: str) -> str:
    """Give the rules without the time for which they wait."""
    return re.sub(r"\bfor: \w+", "for: 0s", rules)


def expressions() -> list[str]:
    """Give what the panels ask, with the variables as Grafana fills them in."""
    return [
        target["expr"]
        .replace("$job", ".*")
        .replace("$instance", ".*")
        .replace("$database", ".*")
        .replace("$__rate_interval", "1m")
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    ]


# --- Live


@pytest.fixture
def small(engine_db: str) -> Iterator[Connection]:
    """Connect to a database with one link, guarded, whose rows are all well."""
    with psycopg.connect(engine_db, autocommit=True) as connection:
        create(connection)
        run(connection, "DROP TABLE grandchild, child, event, probe")  # whose columns nobody would guard
        run(connection, "INSERT INTO parent SELECT n, 1, 1 FROM generate_series(10, 19) n")
        run(connection, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
        run(connection, "SELECT flowguard.add_link('parent', 'flow'); SELECT flowguard.guard('parent', 'flow')")
        yield connection


def wait_for(what: Callable[[], bool], within: float) -> float:
    """Wait until something is so; gives how long that took."""
    start = time.monotonic()
    while not what():
        assert time.monotonic() - start < within, f"not within {within} s"
        time.sleep(0.05)
    return time.monotonic() - start


def test_an_alert_fires_on_a_planted_violation(
    small: Connection,
    intruder: Connection,
    clean_environment: dict[str, str],
    tool: Callable[[str], str],
    tmp_path: Path,
) -> None:
    run(small, "SELECT flowguard.snapshot()")
    run(small, "CALL flowguard.repair()")
    with (
        metrics_of(small.info.dsn, clean_environment) as url,
        prometheus(
            tool("prometheus"),
            QUICK.format(target=url.split("/")[2]),
            at_once(ALERTS.read_text()),
            tmp_path,
        ) as server,
    ):
        wait_for(lambda: server.value("flowguard_up == 1") != [], 60)
        wait_for(lambda: not names_firing(server), 60)
        _every_panel_shows_something(server)

        # On a machine that is busy with other tests it may be late; it is in time by itself.
        assert min(_seen_after(server, intruder) for _ in range(3)) < SOON
        (alert,) = [alert for alert in server.firing() if alert["alertname"] == "FlowguardWrongLinks"]
        assert {name: alert[name] for name in ("database", "schema", "table", "link", "state", "severity")} == {
            "database": small.info.dbname,
            "schema": "public",
            "table": "parent",
            "link": "flow",
            "state": "dangling",
            "severity": "critical",
        }
        ((labels, value),) = server.value('flowguard_rows{state="dangling"} > 0')
        assert (labels["table"], value) == ("parent", 1)
        run(intruder, "UPDATE parent SET flow = 1 WHERE id = 10")
        wait_for(lambda: "FlowguardWrongLinks" not in names_firing(server), 20)


def _seen_after(server: Prometheus, intruder: Connection) -> float:
    """Plant a violation; gives how long it took until Prometheus knew. The alert fires then, too."""
    run(intruder, "UPDATE parent SET flow = 1 WHERE id = 10")
    wait_for(lambda: "FlowguardWrongLinks" not in names_firing(server), 60)
    run(intruder, "UPDATE parent SET flow = 77 WHERE id = 10")
    took = wait_for(lambda: server.value('flowguard_rows{state="dangling"} > 0') != [], 60)
    wait_for(lambda: "FlowguardWrongLinks" in names_firing(server), 60)
    return took


def names_firing(server: Prometheus) -> set[str]:
    return {alert["alertname"] for alert in server.firing()}


def _every_panel_shows_something(server: Prometheus) -> None:
    for expression in expressions():
        if "increase(" not in expression:  # takes two scrapes, and none was let past
            assert server.value(expression), expression


# --- The files


def test_promtool_accepts_configuration_and_rules(tool: Callable[[str], str], tmp_path: Path) -> None:
    check(tool, "check", "config", str(MONITORING / "prometheus.yml"))
    check(tool, "check", "rules", str(ALERTS))
    panels = tmp_path / "panels.yml"
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(expressions())]
    panels.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    check(tool, "check", "rules", str(panels))


def check(tool: Callable[[str], str], *arguments: str) -> None:
    result = subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_panels_have_their_own_numbers_and_places() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) == 23
    assert all(panel["targets"][0]["datasource"]["uid"] == "${datasource}" for panel in panels)


def test_panels_ask_for_the_databases_that_are_chosen() -> None:
    assert "database" in [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            metrics = re.findall(r"flowguard_\w+\{([^}]*)\}", target["expr"])
            assert len(metrics) == target["expr"].count("flowguard_")
            assert all('database=~"$database"' in labels for labels in metrics), target["expr"]


# --- Each alert, by promtool

LINK = 'schema="public", table="asset", link="job_id"'
UP = 'up{{job="flowguard", instance="{}"}}'
FOUND = 'flowguard_findings{{name="{name}", level="{level}"}}'


@dataclass(frozen=True)
class Case:
    """Series on which an alert fires after so many minutes, and series on which it never does; values as promtool's.

    A value holds for a `step`, and so often the rules are evaluated.
    """

    alert: str
    wrong: dict[str, str]
    right: dict[str, str]
    minutes: int
    fires: int = 1
    step: str = "1m"


CASES = [
    Case("FlowguardCannotLook", {"flowguard_up": "0x20"}, {"flowguard_up": "1x20"}, 4),
    Case("FlowguardNotScraped", {"other": "1x20"}, {"flowguard_up": "1x20"}, 8),
    Case(  # one of two targets does not answer
        "FlowguardNotScraped",
        {UP.format("a"): "1x20", UP.format("b"): "0x20", 'flowguard_up{job="flowguard", instance="a"}': "1x20"},
        {UP.format("a"): "1x20", 'up{job="node", instance="b"}': "0x20", "flowguard_up": "0x20"},
        8,
    ),
    Case(  # neither does: each is told, and not that there is none
        "FlowguardNotScraped",
        {UP.format("a"): "0x20", UP.format("b"): "0x20"},
        {UP.format("a"): "1x20", "flowguard_up": "1x20"},
        8,
        fires=2,
    ),
    Case(
        "FlowguardTextfileOld",
        {'node_textfile_mtime_seconds{file="/var/lib/flowguard.prom"}': "0x60"},
        {
            'node_textfile_mtime_seconds{file="/var/lib/flowguard.prom"}': "0+60x60",
            'node_textfile_mtime_seconds{file="/var/lib/other.prom"}': "0x60",
        },
        30,
    ),
    Case(
        "FlowguardWrongLinks",
        {
            f'flowguard_rows{{{LINK}, state="dangling"}}': "1x10",
            f'flowguard_rows{{{LINK}, state="mismatched"}}': "2x10",
        },
        {f'flowguard_rows{{{LINK}, state="dangling"}}': "0x10", f'flowguard_rows{{{LINK}, state="linked"}}': "9x10"},
        3,
        fires=2,
    ),
    Case(
        "FlowguardIncompleteLink",
        {f'flowguard_rows{{{LINK}, state="unlinked"}}': "1x10", f"flowguard_link_enforced{{{LINK}}}": "1x10"},
        {f'flowguard_rows{{{LINK}, state="unlinked"}}': "1x10", f"flowguard_link_enforced{{{LINK}}}": "0x10"},
        3,
    ),
    Case(  # one of two databases of an instance
        "FlowguardIncompleteLink",
        {
            f'flowguard_rows{{database="a", {LINK}, state="unlinked"}}': "1x10",
            f'flowguard_rows{{database="b", {LINK}, state="unlinked"}}': "1x10",
            f'flowguard_link_enforced{{database="a", {LINK}}}': "0x10",
            f'flowguard_link_enforced{{database="b", {LINK}}}': "1x10",
        },
        {
            f'flowguard_rows{{database="a", {LINK}, state="unlinked"}}': "1x10",
            f'flowguard_link_enforced{{database="b", {LINK}}}': "1x10",
        },
        3,
    ),
    Case(
        "FlowguardUnlinkedRowsGrow",
        {f'flowguard_rows{{{LINK}, state="unlinked"}}': "5+1x90", f"flowguard_link_enforced{{{LINK}}}": "0x90"},
        {f'flowguard_rows{{{LINK}, state="unlinked"}}': "500-1x90", f"flowguard_link_enforced{{{LINK}}}": "0x90"},
        80,
    ),
    Case(
        "FlowguardCoverageFell",
        {f"flowguard_coverage_ratio{{{LINK}}}": "1x288 0.9x20"},
        {f"flowguard_coverage_ratio{{{LINK}}}": "0.9x288 0.995x20"},
        1500,
        step="5m",
    ),
    Case(
        "FlowguardGuardBroken",
        {FOUND.format(name="guard_incomplete", level="ERROR"): "1x10"},
        {
            FOUND.format(name="dangling_links", level="ERROR"): "1x10",
            FOUND.format(name="not_guarded", level="WARN"): "1x10",
        },
        5,
    ),
    Case(
        "FlowguardGuardWeak",
        {FOUND.format(name="paused", level="WARN"): "1x90"},
        {
            FOUND.format(name="unlinked_rows", level="WARN"): "1x90",
            FOUND.format(name="rows_in_quarantine", level="INFO"): "1x90",
        },
        80,
    ),
    Case(
        "FlowguardRunStopped",
        {FOUND.format(name="run_stopped", level="WARN"): "1x30"},
        {'flowguard_unfinished_runs{status="running"}': "1x30"},
        20,
    ),
    Case("FlowguardHealthLow", {"flowguard_health_score": "94.9x30"}, {"flowguard_health_score": "95x30"}, 20),
    Case(
        "FlowguardBypassed",
        {"flowguard_bypassed_transactions_total": "3x10 4x10"},
        {"flowguard_bypassed_transactions_total": "3x30"},
        15,
    ),
    Case(
        "FlowguardQuarantineWaits",
        {"flowguard_quarantined_rows": "11x3000"},
        {"flowguard_quarantined_rows": "0x3000"},
        10500,
        step="4m",
    ),
    Case(
        "FlowguardSnapshotLate",
        {"flowguard_last_snapshot_timestamp_seconds": "0x340"},
        {"flowguard_last_snapshot_timestamp_seconds": "0+300x340"},
        1620,
        step="5m",
    ),
    Case(
        "FlowguardSlow",
        {"flowguard_scrape_duration_seconds": "6x30"},
        {"flowguard_scrape_duration_seconds": "1x30"},
        15,
    ),
]


def test_every_alert_has_a_case() -> None:
    (group,) = YAML(typ="safe").load(ALERTS.read_text())["groups"]
    assert [rule["alert"] for rule in group["rules"]] == list(dict.fromkeys(case.alert for case in CASES))
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "description"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_an_alert_fires_on_what_it_is_for(case: Case, tool: Callable[[str], str], tmp_path: Path) -> None:
    """It waits as long as it says, and no other alert fires on what is right."""
    count = f'count(ALERTS{{alertname="{case.alert}", alertstate="firing"}}) or vector(0)'

    def expected(series: dict[str, str], minutes: int, fires: int) -> dict[str, Any]:
        return {
            "interval": case.step,
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {"expr": count, "eval_time": f"{minutes}m", "exp_samples": [{"labels": "{}", "value": fires}]}
            ],
        }

    script = tmp_path / "test.yml"
    script.write_text(
        json.dumps(
            {
                "rule_files": [str(ALERTS)],
                "evaluation_interval": case.step,
                "tests": [
                    expected(case.wrong, case.minutes, case.fires),
                    expected(case.right, case.minutes, 0),
                    expected(case.wrong, 0, 0),
                ],
            }
        )
    )
    check(tool, "test", "rules", str(script))


def test_an_alert_says_which_target_does_not_answer(tool: Callable[[str], str], tmp_path: Path) -> None:
    (group,) = YAML(typ="safe").load(ALERTS.read_text())["groups"]
    (rule,) = [rule for rule in group["rules"] if rule["alert"] == "FlowguardNotScraped"]

    def told(series: dict[str, str], labels: dict[str, str], summary: str) -> dict[str, Any]:
        annotations = {"summary": summary, "description": rule["annotations"]["description"]}
        alert = {"exp_labels": {"severity": "critical", **labels}, "exp_annotations": annotations}
        return {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "alert_rule_test": [{"eval_time": "8m", "alertname": rule["alert"], "exp_alerts": [alert]}],
        }

    script = tmp_path / "test.yml"
    script.write_text(
        json.dumps(
            {
                "rule_files": [str(ALERTS)],
                "tests": [
                    told(
                        {UP.format("a"): "1x20", UP.format("b"): "0x20", "flowguard_up": "1x20"},
                        {"job": "flowguard", "instance": "b"},
                        "b does not tell how true its links are.",
                    ),
                    told({"other": "1x20"}, {}, "Nobody tells how true any link is."),
                ],
            }
        )
    )
    check(tool, "test", "rules", str(script))
