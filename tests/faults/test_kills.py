"""A server that is killed while an application writes and links are guarded and repaired; `make faults` does more."""

from __future__ import annotations

import random
from typing import Any

import pytest
from faults.application import WAYS
from faults.mortal import mortal
from faults.run import THEMES, Harness


def test_nothing_is_lost_and_nothing_is_broken(postgresql: Any) -> None:  # noqa: ANN401  conftest's class
    seed = random.SystemRandom().randrange(10**6)
    with mortal(postgresql.bin) as made:
        report = Harness(made, seed, postgresql.bin).run(len(THEMES) + 1)
    assert report.problems == [], report
    assert sum(report.kills.values()) == len(THEMES) + 1
    assert report.acknowledged > 100, report
    assert report.links > 0, report


def test_what_is_lost_is_noticed(
    postgresql: Any,  # noqa: ANN401  conftest's class
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that acknowledges before it has written loses what it acknowledged: the harness must say so."""
    monkeypatch.setitem(WAYS, "prepare", 0)  # what is prepared is written at once, and all before it
    careless = {"synchronous_commit": "off", "wal_writer_delay": "10s", "wal_writer_flush_after": "1GB"}
    with mortal(postgresql.bin, careless) as made:
        report = Harness(made, 1, postgresql.bin).run(1, ["write"])
    assert report.lost > 0, report
