"""What the tests of releases share: the command, sqitch, and change sets in which a released change is reworked."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from changesets import ChangeSets, write_shipped
from runner.conftest import clean_environment, command, sets, sqitch

__all__ = ["clean_environment", "command", "sets", "sqitch"]

VIEW = """
CREATE OR REPLACE VIEW flowguard.coverage AS SELECT s.relation, s.link_column, s.coverage FROM flowguard.link_status s;
COMMENT ON VIEW flowguard.coverage IS 'How much of each link is there.';
"""
BODY = " AS $health_score$\n"


def run_sqitch(program: str, directory: Path, *arguments: str) -> None:
    """Run sqitch on a plan alone, without a database."""
    subprocess.run(
        [program, *arguments],
        cwd=directory,
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("SQITCH")},
            "HOME": str(directory),
            "SQITCH_FULLNAME": "Tester",
            "SQITCH_EMAIL": "tester@example.org",
            "TZ": "UTC",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )


@pytest.fixture
def reworked(tool: Callable[[str], str], tmp_path: Path) -> ChangeSets:
    """Give the shipped change sets with a tag `base`, after which sqitch itself has reworked `health`.

    It has a view more than before, and a function with another body.
    """
    directory = tmp_path / "next"
    directory.mkdir()
    write_shipped(directory)
    sqitch = tool("sqitch")
    run_sqitch(sqitch, directory, "tag", "base", "--note", "What is out there")
    run_sqitch(sqitch, directory, "rework", "health", "--note", "A view of coverage")
    for kind, old, new in (
        ("deploy", "\nCOMMIT;\n", f"{VIEW}\nCOMMIT;\n"),
        ("deploy", BODY, f"{BODY}-- Newer.\n"),
        ("revert", "BEGIN;\n", "BEGIN;\nDROP VIEW IF EXISTS flowguard.coverage;\n"),
        ("verify", "ROLLBACK;\n", "SELECT relation, coverage FROM flowguard.coverage WHERE false;\nROLLBACK;\n"),
    ):
        file = directory / kind / "health.sql"
        text = file.read_text()
        assert text.count(old) == 1, (kind, old)
        file.write_text(text.replace(old, new))
    return _Existing(directory, "pyflowguard")


class _Existing(ChangeSets):
    """Change sets that are there already."""

    def __post_init__(self) -> None:
        """Write nothing."""
