"""What README and docs/ say is so: commands run, links lead somewhere, and every error has its section."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import psycopg
import pytest
import reference
from acceptance.command import Query
from psycopg.conninfo import conninfo_to_dict

from pyflowguard.cli import cli
from pyflowguard.errors import ExitCode

if TYPE_CHECKING:
    from conftest import TestPostgresql

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

Script = Callable[[str, str], str]


def marked_blocks() -> dict[str, str]:
    """Give the text of each block in README that is marked to be run, by its mark."""
    found = re.findall(r"<!-- test: (\S+) -->\n```(?:sh|sql)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return dict(found)


@pytest.fixture
def run_block(postgresql: TestPostgresql, clean_environment: dict[str, str]) -> Script:
    """Run a marked block of README in the checkout, on a database named by libpq's environment; what it prints."""

    def run(mark: str, dsn: str) -> str:
        settings = conninfo_to_dict(dsn)
        names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE", "options": "PGOPTIONS"}
        environment = {
            **clean_environment,
            "PATH": f"{clean_environment['PATH']}:{postgresql.bin}",
            "SQITCH_FULLNAME": "Reader",
            "SQITCH_EMAIL": "reader@example.org",
            **{name: str(settings[key]) for key, name in names.items() if key in settings},
        }
        text = marked_blocks()[mark]
        program = ["psql", "-qX", "-v", "ON_ERROR_STOP=1"] if mark == "sql" else ["bash", "-euo", "pipefail"]
        result = subprocess.run(
            program, input=text, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
        )
        assert result.returncode == 0, result
        return result.stdout

    return run


def test_every_marked_block_is_known() -> None:
    assert set(marked_blocks()) == {"psql", "sqitch", "installer", "sql", "daily"}


def engine_answers(dsn: str) -> bool:
    with psycopg.connect(dsn) as connection:
        return connection.execute("SELECT flowguard.version(), flowguard.health_score()").fetchone() is not None


def test_the_way_by_psql(run_block: Script, empty_db: str) -> None:
    run_block("psql", empty_db)
    assert engine_answers(empty_db)


def test_the_way_by_sqitch(run_block: Script, empty_db: str, tool: Callable[[str], str]) -> None:
    tool("sqitch")
    run_block("sqitch", empty_db)
    assert engine_answers(empty_db)


def test_the_way_by_the_installer(run_block: Script, empty_db: str) -> None:
    printed = run_block("installer", empty_db)
    assert "privileges @engine .. ok" in printed
    assert engine_answers(empty_db)


def test_the_way_by_sql_calls(run_block: Script, engine_db: str, query: Query) -> None:
    run_block("sql", engine_db)
    assert query(engine_db, "SELECT job_id FROM upload_row") == [(1,)]
    assert query(engine_db, "SELECT mode FROM flowguard.link_status WHERE relation = 'upload_row'::regclass") == [
        ("enforce",)
    ]


def test_the_commands_of_every_day(run_block: Script, guarded_db: str) -> None:
    printed = run_block("daily", guarded_db)
    assert printed.startswith("Health score ")
    assert "\nDry run, taken back: " in printed


def test_every_error_that_the_engine_raises_has_its_section() -> None:
    raised = set()
    for file in (*(ROOT / "deploy").rglob("*.sql"), *(ROOT / "revert").rglob("*.sql")):
        raised |= set(re.findall(r"ERRCODE = '(FG\d{3})'", file.read_text()))
    text = (ROOT / "docs" / "errors.md").read_text()
    sections = re.findall(r"^## (FG\d{3})$", text, re.MULTILINE)
    assert sections == sorted(raised)
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        assert len([part for part in section.split("\n\n") if part.strip()]) >= 3, section  # code, meaning, remedy


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)]+)\)", document.read_text()):
            path, _, anchor = target.partition("#")
            file = document.parent / path if path else document
            assert file.is_file(), f"{document.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
                anchors = {reference.anchor(heading) for heading in headings}
                assert anchor in anchors, f"{document.name}: {target}"


def test_every_command_option_and_exit_code_is_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    for name, command in cli.commands.items():
        assert f"`pyflowguard {name}" in text, name
        for parameter in command.params:
            if isinstance(parameter, click.Option) and name in {"health", "check", "repair", "undo", "demo"}:
                assert parameter.opts[0] in text, (name, parameter.opts)
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    assert codes == sorted(ExitCode)


def test_the_readme_is_one_page_and_lines_are_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180
    for document in DOCUMENTS:
        for line in document.read_text().splitlines():
            assert len(line) <= 128, f"{document.name}: {line}"
