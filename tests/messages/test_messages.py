"""Every message is provoked, says exactly what its case states, and its HINT, followed to the letter, helps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from messages import guarding, measuring, registering, repairing, writing
from messages.sites import Site
from messages.stage import Case, play

CASES = [*registering.CASES, *guarding.CASES, *writing.CASES, *repairing.CASES, *measuring.CASES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_message(
    case: Case, world: Callable[[str], str], as_role: Callable[[str, str], str], sites: list[Site]
) -> None:
    play(case, world(case.world), as_role, sites)
