"""Metrics as Prometheus gets them: from `pyflowguard metrics` in a process of its own, and from a real Prometheus."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from alarms.watching import COMMAND
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "monitoring"

Sample = tuple[str, tuple[tuple[str, str], ...], float]

NAME = re.compile(r"\bflowguard_[a-z_]+\b")


@contextmanager
def metrics_of(dsn: str, environment: Mapping[str, str], *options: str) -> Iterator[str]:
    """Run `pyflowguard metrics --listen`; yields the address that it gives."""
    with subprocess.Popen(
        [COMMAND, "metrics", "--dsn", dsn, "--listen", "127.0.0.1:0", *options],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            told = re.fullmatch(r"Listening on (http://127\.0\.0\.1:\d+/metrics)\.\n", process.stderr.readline())
            assert told
            yield told[1]
        finally:
            process.kill()


def fetch(url: str, accept: str = "text/plain") -> str:
    """Get a page."""
    request = urllib.request.Request(url, headers={"Accept": accept})  # noqa: S310 - http alone
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
        text: str = answer.read().decode()
    return text


def samples(text: str) -> dict[str, list[Sample]]:
    """Give the samples of a page by the name of the metric."""
    found: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.name, tuple(sorted(sample.labels.items())), sample.value))
    return {name: sorted(of_name) for name, of_name in found.items()}


def names_told(text: str) -> set[str]:
    """Give the names of all metrics that a page tells of, those without a sample too."""
    return set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))


def free_port() -> int:
    """Give a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


class Prometheus:
    """A Prometheus that runs."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/api/v1/"

    def ask(self, path: str, **parameters: str) -> Any:  # noqa: ANN401  JSON
        """Give what the API answers."""
        answer = json.loads(fetch(self.url + path + "?" + urlencode(parameters), "application/json"))
        assert answer["status"] == "success"
        return answer["data"]

    def value(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Evaluate an expression now."""
        return [(found["metric"], float(found["value"][1])) for found in self.ask("query", query=expression)["result"]]

    def firing(self) -> list[dict[str, str]]:
        """Give the labels of the alerts that fire."""
        return [alert["labels"] for alert in self.ask("alerts")["alerts"] if alert["state"] == "firing"]


@contextmanager
def prometheus(program: str, configuration: str, rules: str, directory: Path) -> Iterator[Prometheus]:
    """Start Prometheus with this configuration, in a directory of its own, on a port of its own."""
    (directory / "prometheus.yml").write_text(configuration)
    (directory / "alerts.yml").write_text(rules)
    port = free_port()
    command: Sequence[str] = [
        program,
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (directory / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + 60
            while not _is_ready(port):
                assert process.poll() is None, (directory / "log").read_text()
                assert time.monotonic() < deadline, "Prometheus does not become ready"
                time.sleep(0.1)
            yield Prometheus(port)
        finally:
            process.terminate()


def _is_ready(port: int) -> bool:
    try:
        return "Ready" in fetch(f"http://127.0.0.1:{port}/-/ready")
    except OSError:
        return False
