"""Puts faults into the engine, one at a time, and shows that the tests fail on each.

`make mutants` runs it. Each fault of faults.py is written into a copy of the repository, and the tests that it names
run there. A fault that they do not notice has survived: a test is missing, or the line that it changes does nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from mutants.faults import FAULTS, Fault
from rich.console import Console

from pyflowguard.present import new_console, new_table

ROOT = Path(__file__).parents[2]
ALIVE = "tests/mutants/alive.py"
TIMEOUT = 600
PASSED, FAILED = 0, 1
FIRST_FAILURE = re.compile(r"^(FAILED|ERROR) (.+?)(?: - (.*))?$", re.MULTILINE)


class Verdict(Enum):
    """What became of a fault; only the first is as it should be."""

    CAUGHT = "caught"
    SURVIVED = "SURVIVED"
    DEAD = "DEAD"
    """The engine does not run at all, which any test would notice."""
    HANGS = "HANGS"


@dataclass(frozen=True)
class Outcome:
    """A fault, what became of it, the first test that failed, what it said, and the seconds that it took."""

    fault: Fault
    verdict: Verdict
    test: str
    said: str
    seconds: float

    @property
    def is_fine(self) -> bool:
        """Whether the tests did what they are there for."""
        return self.verdict is (Verdict.DEAD if self.fault.kills else Verdict.CAUGHT)

    @property
    def caught_by(self) -> str:
        """The test that failed first, without its directory; else the verdict."""
        return self.test.removeprefix("tests/") if self.is_fine else f"{self.verdict.value} {self.test}".rstrip()


def mutate(text: str, fault: Fault) -> str:
    """Put the fault into the text of its script; ClickException unless it is found as often as declared."""
    found = text.count(fault.find)
    if found != fault.times:
        raise click.ClickException(
            f"{fault.name}: found {found} times in deploy/{fault.file}, not {fault.times}. "
            "A fault that no longer applies proves nothing: mend it in tests/mutants/faults.py."
        )
    mutated = text.replace(fault.find, fault.replace)
    if mutated == text:
        raise click.ClickException(f"{fault.name}: changes nothing.")
    return mutated


def tracked_files() -> list[str]:
    """Name the repository's files, also where another user owns it."""
    git = shutil.which("git")
    if git is None:
        raise click.ClickException("git is not installed, and only git knows what belongs to the repository.")
    listed = subprocess.run(
        [git, "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return [file for file in listed.stdout.split("\0") if file]


@contextmanager
def copy_of_the_repository() -> Iterator[Path]:
    """Copy the tracked files, as they are in the working tree, to a directory that is removed afterwards."""
    with TemporaryDirectory(prefix="pyflowguard-mutants-") as name:
        copy = Path(name).resolve()
        for file in tracked_files():
            if (ROOT / file).is_file():
                (copy / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, copy / file)
        yield copy


def python(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter in the copy, whose package comes before the one that is installed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "400",  # pytest cuts a test's name to the width of the terminal
        "HYPOTHESIS_PROFILE": "ci",
    }
    return subprocess.run(
        [sys.executable, *arguments], cwd=copy, env=environment, capture_output=True, text=True, check=False,
        timeout=TIMEOUT,
    )  # fmt: skip


def check_that_the_copy_is_used(copy: Path) -> None:
    """Stop if the tests in the copy would deploy other scripts than the copy's."""
    used = python(copy, "-c", "from pyflowguard.plan import changeset_directory; print(changeset_directory())")
    if used.stdout.strip() != str(copy):
        raise click.ClickException(f"The copy in {copy} would deploy {used.stdout.strip()}. {used.stderr}")


def run_tests(copy: Path, tests: Sequence[str]) -> tuple[int, str, str]:
    """Run tests until one fails: pytest's exit code, the one that failed, and what it said."""
    done = python(copy, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests)
    failure = FIRST_FAILURE.search(done.stdout)
    if done.returncode not in {PASSED, FAILED} or (done.returncode == FAILED) != (failure is not None):
        raise click.ClickException(f"pytest could not run {' '.join(tests)}:\n{done.stdout}{done.stderr}")
    return done.returncode, failure[2] if failure else "", (failure[3] or "") if failure else ""


def try_fault(copy: Path, fault: Fault) -> Outcome:
    """Run the tests that should notice the fault, with it, and take it out again."""
    script = copy / "deploy" / fault.file
    whole = script.read_text(encoding="utf-8")
    began = time.monotonic()
    script.write_text(mutate(whole, fault), encoding="utf-8")
    try:
        code, test, said = run_tests(copy, [ALIVE, *fault.tests])
    except subprocess.TimeoutExpired:
        verdict, test, said = Verdict.HANGS, "", f"not done in {TIMEOUT} s"
    else:
        verdict = Verdict.SURVIVED if code == PASSED else Verdict.DEAD if test.startswith(ALIVE) else Verdict.CAUGHT
    finally:
        script.write_text(whole, encoding="utf-8")
    return Outcome(fault, verdict, test, said, time.monotonic() - began)


def check_without_faults(copy: Path, faults: Sequence[Fault]) -> None:
    """Stop if a test fails without a fault: its failure would tell nothing."""
    tests = list(dict.fromkeys(test for fault in faults for test in fault.tests))
    code, test, said = run_tests(copy, [ALIVE, *tests])
    if code != PASSED:
        raise click.ClickException(f"{test} fails without a fault: {said}")


def show(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print what became of each fault as a table."""
    table = new_table("fault", "DESIGN", "first test that fails")
    for outcome in outcomes:
        table.add_row(outcome.fault.name, outcome.fault.design, outcome.caught_by)
    console.print(table)


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Write the same table for a document."""
    lines = ["| fault | what it breaks | DESIGN | first test that fails |", "|---|---|---|---|"]
    lines += [
        f"| {fault.name} | {fault.breaks} | {fault.design} | {escaped(outcome.caught_by)} |"
        for outcome in outcomes
        for fault in [outcome.fault]
    ]
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Write text as code in a cell."""
    return "`" + text.replace("|", "\\|") + "`"


def chosen(faults: Sequence[Fault], only: Sequence[str]) -> list[Fault]:
    """Give the faults whose name has one of these texts in it, or all."""
    found = [fault for fault in faults if not only or any(text in fault.name for text in only)]
    if not found:
        raise click.UsageError(f"No fault has {' or '.join(only)} in its name.")
    return found


@click.command()
@click.option("--only", multiple=True, help="Only faults with this in their name; may be given again.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the table as Markdown.")
def main(only: tuple[str, ...], *, as_markdown: bool) -> None:
    """Show that the tests fail on each fault; exit code 1 where one survives, or a test fails without a fault."""
    sys.exit(run(chosen(FAULTS, only), as_markdown=as_markdown))


def run(faults: Sequence[Fault], *, as_markdown: bool = False) -> int:
    """Try these faults, print the table, and give the exit code."""
    console = new_console()
    for fault in faults:
        mutate((ROOT / "deploy" / fault.file).read_text(encoding="utf-8"), fault)
    outcomes = []
    with copy_of_the_repository() as copy:
        check_that_the_copy_is_used(copy)
        check_without_faults(copy, faults)
        for number, fault in enumerate(faults, 1):
            outcome = try_fault(copy, fault)
            outcomes.append(outcome)
            verdict = "caught" if outcome.is_fine else f"{outcome.caught_by} {outcome.said}"
            # Not with the table: that may go to a file.
            click.echo(f"{number}/{len(faults)} {fault.name}: {verdict} ({outcome.seconds:.0f} s)", err=True)
    if as_markdown:
        click.echo(markdown(outcomes))
    else:
        show(console, outcomes)
    failed = [outcome.fault.name for outcome in outcomes if not outcome.is_fine]
    console.print(f"{len(outcomes) - len(failed)} of {len(outcomes)} faults are caught.")
    if failed:
        console.print(f"Not caught: {', '.join(failed)}.")
    return 1 if failed else 0


if __name__ == "__main__":
    main()
