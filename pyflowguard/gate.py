"""Which findings let a pipeline fail: not those that are ignored for a while, nor those of the baseline."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypeAlias

from pyflowguard import doctor, health
from pyflowguard.errors import UsageError, writing
from pyflowguard.health import LEVELS, SCORE_TOO_LOW, Finding, Level

Baseline: TypeAlias = Mapping[str, int | None]
"""The cache_key of each finding that is known, and its amount."""

KINDS: Mapping[str, str] = {**health.KINDS, **doctor.KINDS}
"""What check and doctor can find, in words, by name: one ignore file serves both."""

_ENTRY = re.compile(r"(?P<key>\S.*?)\s+(?P<until>[0-9]{4}-[0-9]{2}-[0-9]{2})\s+(?P<reason>\S.*)")


@dataclass(frozen=True)
class Ignored:
    """A finding that is to be ignored: to the end of a day, and why; the place where that is written."""

    key: str
    until: date | None = None
    reason: str = ""
    place: str = "--ignore"


@dataclass(frozen=True)
class Verdict:
    """The findings that count, the worst first, those of them that let the gate fail, and what was left out.

    `notes` are what a reader of the ignore file and the baseline should know: entries that are over, or have no use.
    """

    findings: tuple[Finding, ...]
    failing: tuple[Finding, ...]
    ignored: tuple[Finding, ...]
    known: tuple[Finding, ...]
    notes: tuple[str, ...]


def judge(
    findings: Iterable[Finding],
    *,
    fail_on: Level,
    today: date,
    ignore: Collection[Ignored] = (),
    baseline: Baseline | None = None,
) -> Verdict:
    """Sort out the findings that are ignored, or known from the baseline; what is left fails from `fail_on` on.

    A finding is known if its amount is no greater than in the baseline.
    """
    entries = {entry.key: entry for entry in ignore}
    known_amounts = baseline or {}
    counting: list[Finding] = []
    ignored: list[Finding] = []
    known: list[Finding] = []
    notes: list[str] = []
    for finding in findings:
        key = finding.cache_key
        entry = entries.pop(key, None)
        if entry is not None and (entry.until is None or today <= entry.until):
            ignored.append(finding)
            continue
        if key in known_amounts and not _is_more(finding.amount, known_amounts[key]):
            known.append(finding)
            continue
        if entry is not None:
            notes.append(f"{entry.place}: {key} was to be ignored until {entry.until}, and counts again.")
        if key in known_amounts:
            notes.append(f"{key}: {finding.amount} now, {known_amounts[key]} in the baseline.")
        counting.append(finding)
    notes += [f"{entry.place}: nothing is found with the key {key}." for key, entry in entries.items()]
    grave = LEVELS[: LEVELS.index(fail_on) + 1]
    failing = tuple(finding for finding in counting if finding.level in grave)
    return Verdict(tuple(counting), failing, tuple(ignored), tuple(known), tuple(notes))


def read_ignored(path: Path) -> tuple[Ignored, ...]:
    """Read an ignore file: a line `KEY YYYY-MM-DD REASON` for each finding; # begins a line that is a comment.

    Raises UsageError, with file and line, for a line that is not like that, a key that no finding can have or that
    is there twice, and a day that is not in the calendar.
    """
    entries: dict[str, Ignored] = {}
    for number, line in enumerate(_read(path).split("\n"), 1):
        text = line.strip()
        place = f"{path}:{number}"
        if not text or text.startswith("#"):
            continue
        found = _ENTRY.fullmatch(text)
        if found is None:
            raise UsageError(
                f"{place}: this is not KEY YYYY-MM-DD REASON.",
                hint="Give the key of a finding as `pyflowguard check` prints it, the last day on which it is to be "
                "ignored, and why.",
            )
        key = found["key"]
        check_key(key, place)
        if key in entries:
            raise UsageError(f"{place}: {key} is there already.", detail=f"It is in {entries[key].place} as well.")
        entries[key] = Ignored(key, _day(found["until"], place), found["reason"], place)
    return tuple(entries.values())


def check_key(key: str, place: str) -> None:
    """Raise UsageError for a key that no finding can have."""
    name = key.partition(":")[0]
    if name not in KINDS:
        raise UsageError(
            f'{place}: no finding is called "{name}".', hint=f"A key begins with one of: {', '.join(KINDS)}."
        )


def baseline_of(findings: Iterable[Finding]) -> Baseline:
    """Make the baseline in which these findings are known; a score is none, for --min-score says how low it may be."""
    return {finding.cache_key: finding.amount for finding in findings if finding.name != SCORE_TOO_LOW}


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write a baseline, a finding a line, always in the same order. Raises UsageError if the file cannot be written."""
    text = json.dumps({"findings": dict(sorted(baseline.items()))}, indent=2, ensure_ascii=False)
    with writing(path):
        path.write_text(f"{text}\n", encoding="utf-8")


def read_baseline(path: Path) -> Baseline:
    """Read what write_baseline() wrote. Raises UsageError, with file and line if it is not JSON."""
    try:
        data: Any = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise _no_baseline(f"{path}:{error.lineno}", error.msg) from error
    findings = data.get("findings") if isinstance(data, dict) else None
    if not isinstance(findings, dict):
        raise _no_baseline(f"{path}", 'There is no object "findings" in it.')
    for key, amount in findings.items():
        if amount is not None and type(amount) is not int:
            raise _no_baseline(f"{path}", f"{key} has {json.dumps(amount)} where an amount is expected.")
    return findings


def _no_baseline(place: str, detail: str) -> UsageError:
    return UsageError(f"{place}: this is no baseline.", detail=detail, hint="Write it anew with --write-baseline.")


def _is_more(amount: int | None, known: int | None) -> bool:
    return amount is not None and known is not None and amount > known


def _day(text: str, place: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{place}: {text} is no day of the calendar.") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: this is not UTF-8.") from error
