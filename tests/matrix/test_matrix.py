"""The matrix itself: what it counts, and that a failure on one server is a failure."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from matrix import run
from matrix.servers import RELEASES, SUPPORTED

PASSES = "def test_one(): pass\n"
FAILS = "def test_other(): assert False\n"
# A test that is skipped: the matrix must count it as such.
IS_SKIPPED = "import pytest\ndef test_third(): pytest.skip('no')\n"


@pytest.mark.parametrize(
    ("text", "exit_code", "row"), [(PASSES + IS_SKIPPED, 0, "1 0 1"), (PASSES + FAILS + IS_SKIPPED, 1, "1 1 1")]
)
def test_what_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, exit_code: int, row: str) -> None:
    (tmp_path / "test_it.py").write_text(text)
    monkeypatch.setattr(run, "SERVERS", tmp_path / "servers")
    result = CliRunner().invoke(run.main, ["--only", "18", str(tmp_path / "test_it.py"), "--rootdir", str(tmp_path)])
    assert result.exit_code == exit_code, result.output
    release, *counts = result.stdout.splitlines()[-1].split()
    assert release.startswith("18.")
    assert " ".join(counts[:3]) == row


def test_each_supported_version_comes_from_somewhere() -> None:
    assert set(SUPPORTED) - set(RELEASES) == {18}, "18 is the wheel that the demonstration takes"
    assert all(release.startswith(f"{version}.") for version, release in RELEASES.items())


def test_a_server_of_ours_finds_its_own_libpq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib")
    ours = run.environment(run.SERVERS / "postgresql-17" / "bin")
    assert ours["LD_LIBRARY_PATH"] == f"{run.SERVERS}/postgresql-17/lib:/opt/lib"
    installed = run.environment(Path("/usr/lib/postgresql/17/bin"))
    assert installed["LD_LIBRARY_PATH"] == "/opt/lib"
    assert installed["PYFLOWGUARD_TEST_BINDIR"] == "/usr/lib/postgresql/17/bin"
