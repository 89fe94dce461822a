"""The roll-out beside an application: nothing is refused, and all is enforced in the end. No time is looked at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from benchmarks import rollout
from click import ClickException
from click.testing import CliRunner

if TYPE_CHECKING:
    from conftest import TestPostgresql

PHASES = (
    "alone",
    "plain updates",
    "deploy and register",
    "guard",
    "enforce",
    rollout.WHOLE,
    "guarded and enforced",
)


def noticed(
    name: str, p99: float, *, failed: int = 0, longest: float = 0.1, writes: int = rollout.FEW
) -> rollout.Noticed:
    """Give what was noticed in a phase of that name; where it begins and ends is not looked at."""
    return rollout.Noticed(rollout.Phase(name, 0, 1), 100, failed, 0.005, p99, longest, writes)


def test_an_application_is_refused_nothing(tmp_path: Path) -> None:
    document = tmp_path / "roll-out.md"
    document.write_text("before\n<!-- rollout:begin -->\nold\n<!-- rollout:end -->\nafter\n")
    options = ["--rows", "600", "--rate", "60", "--clients", "4", "--alone", "1", "--max-rate", "1200"]
    result = CliRunner().invoke(rollout.main, [*options, "--write", str(document)], catch_exceptions=False)
    assert "were refused" not in result.output
    assert "not enforced" not in result.output
    text = document.read_text()
    assert text.startswith("before\n<!-- rollout:begin -->\n`make bench-rollout ROLLOUT='--rows 600 --rate 60 ")
    assert "old" not in text
    assert text.index(f"An application that {rollout.LINKS}:") < text.index(f"An application that {rollout.FORGETS}:")
    for phase in PHASES:
        assert text.count(f"\n| {phase} | ") == 2, phase


@pytest.mark.parametrize(
    ("failed", "p99", "longest", "said"),
    [(0, 0.015, 2.1, []), (3, 0.01, 0.1, ["refused"]), (0, 0.016, 0.1, ["1.60"]), (0, 0.01, 2.2, ["took 2.2 s"])],
)
def test_what_counts_as_noticed(failed: int, p99: float, longest: float, said: list[str]) -> None:
    alone = noticed("alone", 0.01)
    guard = noticed("guard", p99, failed=failed, longest=longest)
    at_rest = noticed(rollout.AT_REST, 0.01)
    found = list(rollout.misses([alone, guard, at_rest], rollout.LINKS))
    assert len(found) == len(said)
    assert all(word in line for word, line in zip(said, found, strict=True))


def test_an_application_that_forgets_is_not_held_to_what_it_did_not_do() -> None:
    alone = noticed("alone", 0.01)
    later = [noticed("repair", 0.02), noticed(rollout.AT_REST, 0.02)]
    assert list(rollout.misses([alone, *later], rollout.FORGETS)) == []
    assert len(list(rollout.misses([alone, *later], rollout.LINKS))) == 2


def test_a_handful_of_writes_is_not_judged_by_a_hundredth_of_them() -> None:
    alone = noticed("alone", 0.01)
    slow = [noticed(name, 0.02, writes=rollout.FEW - 1) for name in ("guard", rollout.WHOLE)]
    at_rest = noticed(rollout.AT_REST, 0.014)
    [line] = rollout.misses([alone, *slow, at_rest], rollout.LINKS)
    assert line.startswith(f"{rollout.WHOLE}: 99 % within 2.00 ")


@pytest.mark.parametrize("application", [rollout.LINKS, rollout.FORGETS])
@pytest.mark.parametrize(("guarded", "said"), [(0.008, []), (0.007, ["1.71 times what it is guarded"])])
def test_the_whole_is_held_to_the_guarded_load_too(guarded: float, said: list[str], application: str) -> None:
    alone = noticed("alone", 0.01)
    whole = noticed(rollout.WHOLE, 0.012)
    at_rest = noticed(rollout.AT_REST, guarded)
    found = list(rollout.misses([alone, whole, at_rest], application))
    assert len(found) == len(said)
    assert all(word in line for word, line in zip(said, found, strict=True))


def test_a_transaction_belongs_to_the_phase_in_which_it_ends(tmp_path: Path) -> None:
    (tmp_path / "log.1").write_text("0 1 4000 0 10 500000 7\n0 2 8000 4 10 600000 7\n0 3 failed 0 11 0 7\n0 4 9000 0 1")
    done = list(rollout.transactions(tmp_path))
    assert [(t.end, t.seconds, t.script, t.failed) for t in done] == [
        (10.5, 0.004, 0, False),
        (10.6, 0.008, 4, False),
        (11.0, 0.0, 0, True),
    ]
    done += [rollout.Transaction(10.7, 0.006, 1, failed=False), rollout.Transaction(11.2, 0.01, 2, failed=False)]
    (first,) = rollout.notice([rollout.Phase("a", 10, 11), rollout.Phase("b", 11, 12)], done)
    assert (first.phase.name, first.count, first.failed, first.longest) == ("a", 3, 0, 0.006)


@pytest.mark.parametrize("clients", [1, 2])
def test_a_client_that_gives_up_is_an_error(
    postgresql: TestPostgresql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clients: int
) -> None:
    monkeypatch.setattr(rollout, "ROLE", "postgres")
    monkeypatch.setattr(rollout, "SCRIPTS", ((1, "SELECT 1 / :client_id;"),))
    size = rollout.Size(1, 1, 1, rate=100, clients=clients, alone=0)
    with (
        pytest.raises(ClickException, match=r"pgbench gave up.*division by zero"),
        rollout.load(postgresql.conninfo(), size, tmp_path) as check,
    ):
        rollout.wait_for_log(tmp_path, float("inf"), check)
