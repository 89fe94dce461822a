"""The demonstration shows the figures that the report's job requires, tests itself, and leaves nothing behind."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from acceptance.command import COMMAND, Run
from rich.console import Console
from servers import reachable_directory

from pyflowguard import demo
from pyflowguard.commands.progress import Progress
from pyflowguard.plan import read_plan

README = Path(__file__).parents[2] / "README.md"


def squeezed(text: str) -> list[str]:
    """Give the lines with single spaces, so that the width of a column does not matter."""
    return [" ".join(line.split()) for line in text.splitlines()]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory for the pages about the links of each variant."""
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def shown(command: Run, pages: Path) -> dict[str, list[str]]:
    """Run both variants; their lines."""
    lines: dict[str, list[str]] = {}
    for variant in demo.VARIANTS:
        result = command("demo", "--variant", variant, "--report", pages / f"{variant}.html")
        assert result.returncode == 0, result
        assert "\x1b" not in result.stdout
        assert all(line.startswith(("NOTICE: ", "HINT: ")) for line in result.stderr.splitlines())
        assert max(map(len, result.stdout.splitlines())) <= 100
        lines[variant] = squeezed(result.stdout)
    return lines


def test_the_figures_of_the_report(shown: dict[str, list[str]]) -> None:
    lines = shown["orphaned"]
    for expected in (
        "Orphaned discovery flows 11 11 0 0",
        "Assets without master flow 29 29 0 0",
        "Field mappings without master flow 178 178 0 0",
        "Legacy tables 1 1 0 0",
        "assets 29 of 29 linked (100.0 %), 0 dangling, 0 mismatched",
        "import_field_mappings 178 of 178 linked (100.0 %), 0 dangling, 0 mismatched",
        "discovery_flows 7 of 9 linked (77.8 %), 0 dangling, 0 mismatched",
        "in all 9, and 11 in quarantine",
        "with a master 7 (77.8 %)",
        "wrong before 0 translated, 11 quarantined, none lost",
        "PyFlowGuard 29 of 29 assets, 178 of 178 mappings",
        "the report's scripts 17 of 29 assets, 178 of 178 mappings",
        "data_import_sessions left the application; its 6 rows are in flowguard_archive.",
    ):
        assert expected in lines
    [scores] = [line for line in lines if line.startswith("Database health score")]
    report_before, before, report_after, after = map(float, scores.split()[3:])
    assert (report_before, report_after) == (85.2, 97.3)
    assert before < report_before
    assert after >= report_after


def test_the_variant_in_which_every_wrong_link_is_translated(shown: dict[str, list[str]]) -> None:
    lines = shown["translatable"]
    for expected in (
        "Orphaned discovery flows 11 11 0 0",
        "in all 20, and 0 in quarantine",
        "with a master 18 (90.0 %)",
        "wrong before 11 translated, 0 quarantined, none lost",
        "PyFlowGuard 29 of 29 assets, 178 of 178 mappings",
    ):
        assert expected in lines


@pytest.mark.parametrize("variant", demo.VARIANTS)
def test_the_guard_is_shown_at_work(shown: dict[str, list[str]], variant: str) -> None:
    text = "\n".join(shown[variant])
    for sqlstate, times in (("FG001", 1), ("23503", 2), ("FG202", 1), ("FG203", 1)):
        assert len(re.findall(rf"\(SQLSTATE\s{sqlstate}\)", text)) == times
    for expected in (
        "Rack Discovery of depot-applications.csv",
        "yard-gate-03 2024-12-10 09:03:00+00:00 Discovery of yard-servers.csv",
        "fleet-print-01 Discovery of fleet-applications.csv",
        "children linked\n5 0",
        "children linked\n5 5",
        "restored skipped remaining\n3 0 0",
    ):
        assert expected in text
    assert re.search(r"\nAll \d+ figures checked are as the job requires\.", text)


@pytest.mark.parametrize("variant", demo.VARIANTS)
def test_the_page_has_health_before_and_after(shown: dict[str, list[str]], pages: Path, variant: str) -> None:
    page = (pages / f"{variant}.html").read_text()
    [scores] = [line for line in shown[variant] if line.startswith("Database health score")]
    before, after = scores.split()[4::2]
    assert "2 exact snapshots" in page
    assert f"Line chart of the health score: {before} at first, {before} at the lowest, {after} at last." in page


def test_the_transcript_in_the_readme_is_what_is_printed(shown: dict[str, list[str]]) -> None:
    match = re.search(r"<!-- transcript: demo -->\n```text\n(.*?)```", README.read_text(), re.DOTALL)
    assert match is not None
    printed = {re.sub(r"\d+\.\d s\)", "S)", line) for line in shown["orphaned"]}
    for line in squeezed(match[1]):
        if line != "[...]":
            assert re.sub(r"\d+\.\d s\)", "S)", line) in printed


def test_a_figure_that_is_not_as_required_is_named_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(demo.JOBS, "orphaned", replace(demo.JOBS["orphaned"], flows_linked=8))
    console = Console(record=True, width=100, file=Path(os.devnull).open("w"))  # noqa: SIM115 - closed below
    try:
        assert not demo.run(console, "orphaned", lambda: Progress(quiet=True).shown())
    finally:
        console.file.close()
    text = " ".join(console.export_text().split())
    assert "NOT AS REQUIRED discovery flows, and linked: (9, 7), required is (9, 8)" in text
    assert re.search(r"1 of \d+ figures are not as the job requires", text)


def test_a_terminal_gets_colour_and_sees_the_deployment_advance(clean_environment: dict[str, str]) -> None:
    output, exit_code = on_terminal([COMMAND, "demo"], {**clean_environment, "TERM": "xterm-256color"})
    assert exit_code == 0, output
    assert COLOUR.search(output)
    plan = read_plan()
    pending = len(plan.changes) - plan.index_of("report/clean_up")
    assert f"deploy 1/{pending} report/clean_up".encode() in output


def test_a_terminal_that_wants_no_colour_gets_none(clean_environment: dict[str, str], registered_db: str) -> None:
    environment = {**clean_environment, "TERM": "xterm-256color"}
    for settings, colour in (({}, True), ({"NO_COLOR": "1"}, False)):
        output, exit_code = on_terminal([COMMAND, "check", "--dsn", registered_db], {**environment, **settings})
        assert exit_code == 1, output
        assert bool(COLOUR.search(output)) is colour


COLOUR = re.compile(rb"\x1b\[(\d+;)*3\d(;\d+)*m")


def on_terminal(command: list[str | Path], environment: dict[str, str]) -> tuple[bytes, int]:
    """Run a command on a terminal of its own: what it printed, and its exit code."""
    primary, secondary = pty.openpty()
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=secondary, stderr=secondary
    ) as process:
        os.close(secondary)
        output = b""
        while chunk := read(primary):
            output += chunk
        os.close(primary)
    return output, process.returncode


def read(terminal: int) -> bytes:
    """Read what is there; nothing once the other side is closed."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


# --- Nothing is left behind


@pytest.fixture
def shared_directory() -> Iterator[Path]:
    """Make a directory for temporary files that nobody else uses."""
    with reachable_directory("demo-") as shared:
        yield shared


def processes_in(directory: Path) -> list[str]:
    """Command lines that name the directory."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if os.fsencode(directory) in line:
            found.append(line.replace(b"\0", b" ").decode())
    return found


def assert_gone(directory: Path) -> None:
    deadline = time.monotonic() + 15
    while list(directory.iterdir()) or processes_in(directory):
        assert time.monotonic() < deadline, (list(directory.iterdir()), processes_in(directory))
        time.sleep(0.02)


@pytest.fixture
def start(clean_environment: dict[str, str], shared_directory: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start the demonstration with its temporary files in the shared directory."""
    running: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [COMMAND, "demo"],
            env={**clean_environment, "TMPDIR": str(shared_directory), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def wait_for(process: subprocess.Popen[str], beginning: str) -> None:
    """Read what the demonstration prints up to a line that begins so."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return
    pytest.fail(f"it ended before it printed {beginning}: {process.communicate()[1]}")


def test_nothing_is_left_behind(start: Callable[[], subprocess.Popen[str]], shared_directory: Path) -> None:
    process = start()
    wait_for(process, "A throw-away PostgreSQL")
    assert list(shared_directory.iterdir())
    assert processes_in(shared_directory)
    process.communicate()
    assert process.returncode == 0
    assert_gone(shared_directory)


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "A throw-away PostgreSQL"),
        (signal.SIGINT, "2. "),
        (signal.SIGINT, "4.9 "),
        (signal.SIGKILL, "2. "),
    ],
)
def test_nothing_is_left_behind_when_it_is_interrupted(
    start: Callable[[], subprocess.Popen[str]], shared_directory: Path, number: signal.Signals, moment: str
) -> None:
    process = start()
    wait_for(process, moment)
    process.send_signal(number)
    _, stderr = process.communicate()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert stderr.splitlines()[-1] == "pyflowguard: interrupted."
        assert "Traceback" not in stderr
    else:
        assert process.returncode == -signal.SIGKILL
    assert_gone(shared_directory)


@pytest.mark.parametrize("delay", [0.4, 1.0])
def test_nothing_is_left_behind_when_it_is_interrupted_while_the_server_starts(
    start: Callable[[], subprocess.Popen[str]], shared_directory: Path, delay: float
) -> None:
    process = start()
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode != 0
    assert_gone(shared_directory)
