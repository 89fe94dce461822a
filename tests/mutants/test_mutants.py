"""The script of the mutants itself: every fault still applies, and it tells caught from survived.

The whole run is `make mutants`: it takes minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import pytest
from mutants import run
from mutants.faults import FAULTS, NEAREST, PROOF, Fault

BY_NAME = {fault.name: fault for fault in FAULTS}
CAUGHT = replace(
    BY_NAME["window exclusive before the row"],
    tests=(f"{NEAREST}::test_the_nearest_of_the_past[-a window before]",),
)
HARMLESS = replace(
    CAUGHT,
    name="another remark",
    find="-- A name may hold a line break, which would end a remark and begin code.",
    replace="-- A name may hold a line break.",
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_fault_applies_and_its_tests_are_there(fault: Fault) -> None:
    run.mutate((run.ROOT / "deploy" / fault.file).read_text(encoding="utf-8"), fault)
    for test in fault.tests:
        file, _, function = test.partition("::")
        assert f"\ndef {function.partition('[')[0]}" in (run.ROOT / file).read_text(encoding="utf-8")
    assert fault.kills or fault.tests


def test_faults_have_names_of_their_own_and_are_not_few() -> None:
    assert len(BY_NAME) == len(FAULTS) >= 25


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"find": "what is in no script"}, "found 0 times in deploy/compiler.sql, not 1"),
        ({"times": 2}, "found 1 times in deploy/compiler.sql, not 2"),
        ({"replace": CAUGHT.find}, "changes nothing"),
    ],
)
def test_a_fault_that_does_not_apply_is_an_error(changed: dict[str, object], said: str) -> None:
    with pytest.raises(click.ClickException, match=said):
        run.run([replace(CAUGHT, **changed)])  # type: ignore[arg-type]


def test_tests_that_fail_without_a_fault_are_an_error(
    tool: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tool("git")
    with run.copy_of_the_repository() as copy:
        (copy / "fails.py").write_text("def test_it():\n    assert 1 == 2\n")
        monkeypatch.setattr(run, "ALIVE", "fails.py")
        with pytest.raises(click.ClickException, match=r"fails\.py::test_it fails without a fault: assert 1 == 2"):
            run.check_without_faults(copy, [PROOF])
        assert copy.is_dir()
    assert not copy.exists()


def test_caught_and_survived_are_told_apart(
    tool: Callable[[str], str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tool("git")
    monkeypatch.setattr(run, "ALIVE", f"{run.ALIVE}::test_nothing_fails_but_by_a_refusal[observe]")  # half of it
    before = scripts()
    assert run.run([CAUGHT, HARMLESS], as_markdown=True) == 1
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("| ")]
    assert [line.split("|")[-2].strip() for line in lines] == [
        "first test that fails",
        "`engine/test_nearest.py::test_the_nearest_of_the_past[-a window before]`",
        "`SURVIVED`",
    ]
    assert printed.endswith("1 of 2 faults are caught.\nNot caught: another remark.\n")
    assert scripts() == before


def scripts() -> dict[Path, bytes]:
    """Read the deploy scripts of this checkout, which no fault may reach."""
    return {path: path.read_bytes() for path in (run.ROOT / "deploy").rglob("*.sql")}
