"""Writes a verdict of the gate in the formats that pipelines read: JUnit, SARIF and GitHub's workflow commands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from io import BytesIO
from typing import Any
from urllib.parse import quote

from junitparser import Failure, JUnitXml, TestCase, TestSuite

from pyflowguard import __version__, gate
from pyflowguard.gate import Verdict
from pyflowguard.health import KINDS, Finding, Level

_SARIF_LEVELS: Mapping[Level, str] = {"ERROR": "error", "WARN": "warning", "INFO": "note"}

_GITHUB_COMMANDS: Mapping[Level, str] = {"ERROR": "error", "WARN": "warning", "INFO": "notice"}

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped."""


def as_junit(verdict: Verdict, *, command: str = "check", kinds: Mapping[str, str] = KINDS) -> bytes:
    """Give, in UTF-8, a test for each finding, failed if it fails the gate, and one for each kind without a finding."""
    suite = TestSuite(f"pyflowguard {command}")
    for finding in verdict.findings:
        case = TestCase(_xml(finding.cache_key), f"pyflowguard.{finding.name}", 0)
        if finding in verdict.failing:
            failure = Failure(_xml(_sentence(finding)), finding.level)
            failure.text = _xml(_what_else(finding))
            case.result = failure
        else:
            case.system_out = _xml(f"{finding.level}: {_whole(finding)}")
        suite.add_testcase(case)
    found = {finding.name for finding in verdict.findings}
    for name, words in kinds.items():
        if name not in found:
            suite.add_testcase(TestCase(words, f"pyflowguard.{name}", 0))
    report = JUnitXml(f"pyflowguard {command}")
    report.add_testsuite(suite)
    written = BytesIO()
    report.write(written)
    return written.getvalue()


def as_sarif(verdict: Verdict, *, kinds: Mapping[str, str] = KINDS) -> dict[str, Any]:
    """Give a SARIF 2.1.0 log with a result for each finding, to be written as JSON."""
    names = [*kinds, *sorted({finding.name for finding in verdict.findings} - set(kinds))]
    rules = [
        {
            "id": name,
            "shortDescription": {"text": _words(name)},
            "fullDescription": {"text": f"{_words(name)}."},
            "help": {"text": "The message of each result says what to do."},
        }
        for name in names
    ]
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "PyFlowGuard", "version": __version__, "rules": rules}},
                "results": [_sarif_result(finding, names.index(finding.name)) for finding in verdict.findings],
            }
        ],
    }


def _sarif_result(finding: Finding, rule: int) -> dict[str, Any]:
    # GitHub wants a file and a line, which a table has not; it tells results of two runs apart by the fingerprint.
    path = "/".join(["database", *([quote(finding.relation, safe="")] if finding.relation else [])])
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": path}, "region": {"startLine": 1}},
    }
    if finding.relation:
        location["logicalLocations"] = [{"fullyQualifiedName": finding.relation, "kind": "table"}]
    return {
        "ruleId": finding.name,
        "ruleIndex": rule,
        "level": _SARIF_LEVELS[finding.level],
        "message": {"text": _whole(finding)},
        "locations": [location],
        "partialFingerprints": {"primaryLocationLineHash": finding.cache_key},
    }


def as_github(verdict: Verdict) -> list[str]:
    """Give a workflow command for each finding, a line each, of which GitHub makes annotations."""
    return [
        f"::{_GITHUB_COMMANDS[finding.level]} title={_property(_words(finding.name))}::{_data(_whole(finding))}"
        for finding in verdict.findings
    ]


def _words(name: str) -> str:
    return gate.KINDS.get(name, name)  # a newer engine may find more


def _whole(finding: Finding) -> str:
    return f"{_sentence(finding)}\n{_what_else(finding)}"


def _sentence(finding: Finding) -> str:
    return f"{finding.relation}: {finding.description}" if finding.relation else finding.description


def _what_else(finding: Finding) -> str:
    parts = [("detail", finding.detail), ("remedy", finding.remedy), ("key", finding.cache_key)]
    return "\n".join(f"{label}: {text}" for label, text in parts if text)


def _xml(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
