"""Reads the reports of `pyflowguard check` as their readers do: each is valid, and what is in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path

import jsonschema
import xmlschema
from junitparser import JUnitXml

from pyflowguard.health import KINDS, LEVELS, Finding

SCHEMAS = Path(__file__).parent / "schemas"
SARIF = jsonschema.Draft4Validator(
    json.loads((SCHEMAS / "sarif-2.1.0-rtm.5.json").read_text()),
    format_checker=jsonschema.Draft4Validator.FORMAT_CHECKER,
)
JUNIT = xmlschema.XMLSchema10(SCHEMAS / "junit-10.xsd", allow="local")


def read_text(printed: str) -> list[str]:
    """Give the keys in what a person reads."""
    assert re.search(r"^(Nothing found|\d+ findings?: [A-Z0-9, ]+)(; not counted: .*)?\.$", printed.splitlines()[-1])
    return re.findall(r"^ +key: (.*)$", printed, re.MULTILINE)


def read_json(printed: str) -> list[str]:
    """Give the keys in JSON, which has the columns of flowguard.check_all()."""
    findings = [Finding(**finding) for finding in json.loads(printed)]
    assert all(finding.level in LEVELS for finding in findings)
    return [finding.cache_key for finding in findings]


def read_junit(printed: str) -> list[str]:
    """Give the keys in a JUnit report that its schema allows; failed tests are as many as it says."""
    JUNIT.validate(StringIO(printed))
    report = JUnitXml.fromstring(printed.encode())
    [suite] = list(report)
    cases = list(suite)
    assert suite.tests == report.tests == len(cases)
    assert suite.failures == report.failures == sum(case.is_failure for case in cases)
    assert len({(case.classname, case.name) for case in cases}) == len(cases)
    found = [case for case in cases if case.is_failure or case.system_out]
    assert {case.classname for case in cases} >= {f"pyflowguard.{kind}" for kind in KINDS}
    assert not {case.classname for case in found} & {case.classname for case in cases if case not in found}
    return [str(case.name) for case in found]


def read_failed(printed: str) -> list[str]:
    """Give the keys of the tests that failed in a JUnit report."""
    return [str(case.name) for suite in JUnitXml.fromstring(printed.encode()) for case in suite if case.is_failure]


def read_sarif(printed: str) -> list[str]:
    """Give the keys in a SARIF log that its schema allows, and that has what GitHub requires besides."""
    log = json.loads(printed)
    SARIF.validate(log)
    [run] = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    for rule in rules:
        assert rule["shortDescription"]["text"]
        assert rule["fullDescription"]["text"]
        assert rule["help"]["text"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        [location] = result["locations"]
        assert re.fullmatch(r"database(/[\w.~%-]+)?", location["physicalLocation"]["artifactLocation"]["uri"])
        assert location["physicalLocation"]["region"]["startLine"] >= 1
        assert result["message"]["text"]
    return [result["partialFingerprints"]["primaryLocationLineHash"] for result in run["results"]]


def read_github(printed: str) -> list[str]:
    """Give the keys in workflow commands, which GitHub's runner takes a line at a time."""
    *commands, last = printed.splitlines()
    read_text(last)
    return [read_command(command)[2].splitlines()[-1].removeprefix("key: ") for command in commands]


def read_command(line: str) -> tuple[str, dict[str, str], str]:
    """Take a workflow command apart as GitHub's runner does: its name, its properties, its message."""
    found = re.fullmatch(r"::(\w+) (.*?)::(.*)", line)
    assert found, line
    name, properties, message = found.groups()
    assert name in {"error", "warning", "notice"}
    pairs = [pair.split("=", 1) for pair in properties.split(",")]
    escapes = {"%0D": "\r", "%0A": "\n", "%3A": ":", "%2C": ",", "%25": "%"}
    return (
        name,
        {key: _unescape(value, escapes) for key, value in pairs},
        _unescape(message, {code: escapes[code] for code in ("%0D", "%0A", "%25")}),
    )


def _unescape(text: str, escapes: Mapping[str, str]) -> str:
    # The runner replaces one after the other, and %25 last.
    for code, character in escapes.items():
        text = text.replace(code, character)
    return text


READERS: dict[str, Callable[[str], list[str]]] = {
    "text": read_text,
    "json": read_json,
    "junit": read_junit,
    "sarif": read_sarif,
    "github": read_github,
}
