"""How much the tests with random input try: a little and always the same in CI, much and always new every night.

HYPOTHESIS_PROFILE=nightly, which `make nightly` sets, chooses the second; HYPOTHESIS_PROFILE=few a sixth of the first,
for one more server in the same run of CI.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

NAME = os.environ.get("HYPOTHESIS_PROFILE", "ci")
EXAMPLES = 60
FEWER = 6
"""One in so many of them is tried where there are to be few."""

settings.register_profile(
    "ci",
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("few", settings.get_profile("ci"), max_examples=EXAMPLES // FEWER)
settings.register_profile("nightly", settings.get_profile("ci"), max_examples=2000, derandomize=False, print_blob=True)
settings.load_profile(NAME)


def how_many(*, ci: int, nightly: int) -> int:
    """Choose between what CI tries and what the night does, or of the former one in so many."""
    return {"nightly": nightly, "few": ci // FEWER}.get(NAME, ci)


def sized(*, ci: int, nightly: int, shrink: bool = True, steps: int = 50) -> settings:
    """Give the settings of a test whose examples cost more than most: how many, and whether failures are made small."""
    phases = [Phase.explicit, Phase.generate]
    return settings(
        settings.get_profile(NAME),
        max_examples=how_many(ci=ci, nightly=nightly),
        phases=[*phases, Phase.shrink] if shrink else phases,
        stateful_step_count=steps,
    )
