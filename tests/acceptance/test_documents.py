"""What README and docs/ say is so: commands run, and links lead somewhere; for docs/errors see tests/messages."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import psycopg
import pytest
import reference
from acceptance.command import Query
from documents import (
    DOCUMENTS,
    ROOT,
    WRITE,
    Block,
    is_printed,
    read_blocks,
    read_tests,
    run_blocks,
    write_outputs,
)
from psycopg.conninfo import conninfo_to_dict

from pyflowguard.cli import COMMANDS, cli
from pyflowguard.errors import ExitCode

if TYPE_CHECKING:
    from conftest import TestPostgresql

README = ROOT / "README.md"
OTHERS = [document for document in DOCUMENTS if document != README and read_tests(document)]

PROGRAMS = {"sqitch": "sqitch", "prometheus": "promtool"}
"""What blocks of these names need on the machine."""

RunBlocks = Callable[[list[Block], str], list[str]]
Script = Callable[[str, str], str]


@pytest.fixture
def run(postgresql: TestPostgresql, clean_environment: dict[str, str]) -> RunBlocks:
    """Run blocks in the checkout, on a database named by libpq's environment; what they print."""

    def run(blocks: list[Block], dsn: str) -> list[str]:
        settings = conninfo_to_dict(dsn)
        names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE", "options": "PGOPTIONS"}
        environment = {
            **clean_environment,
            "PATH": f"{postgresql.bin}:{clean_environment['PATH']}",  # before what the system has of another version
            "SQITCH_FULLNAME": "Reader",
            "SQITCH_EMAIL": "reader@example.org",
            **{name: str(settings[key]) for key, name in names.items() if key in settings},
        }
        return run_blocks(blocks, environment)

    return run


@pytest.fixture
def run_block(run: RunBlocks) -> Script:
    """Run the blocks of one name in README; what they print."""
    return lambda name, dsn: "\n".join(run(read_tests(README)[name], dsn))


def test_every_block_is_run_or_is_an_output() -> None:
    """Nothing is shown that a reader might run and no test does. The pages of docs/errors have tests of their own."""
    for document in DOCUMENTS:
        if document.parent.name == "errors":
            continue
        for block in read_blocks(document):
            kind = block.mark.partition(": ")[0]
            languages = {"test": {"sh", "sql", "python"}, "transcript": {"text"}, "workflow": {"yaml"}, "": {"mermaid"}}
            assert block.language in languages.get(kind, set()), f"{block.place}: mark it (see tests/documents.py)"
        text = document.read_text(encoding="utf-8")
        fences = len(re.findall(r"^ *(?:```|~~~)", text, re.MULTILINE))
        shown = sum(1 + (block.output is not None) for block in read_blocks(document))
        assert fences == 2 * shown, f"{document.name}: a block is not closed, or is indented"


def test_every_test_of_the_readme_is_known() -> None:
    assert set(read_tests(README)) == {"psql", "sqitch", "installer", "sql", "daily"}


@pytest.mark.parametrize(
    ("document", "name"), [(document, name) for document in OTHERS for name in read_tests(document)]
)
def test_a_page_prints_what_it_shows(
    run: RunBlocks, empty_db: str, tool: Callable[[str], str], document: Path, name: str
) -> None:
    """Its blocks run one after the other, from an empty database."""
    if name in PROGRAMS:
        tool(PROGRAMS[name])
    blocks = read_tests(document)[name]
    printed = run(blocks, empty_db)
    if WRITE:
        write_outputs(document, blocks, printed)
        return
    for block, output in zip(blocks, printed, strict=True):
        if block.output is not None:
            assert is_printed(block.output, output), f"{block.place} prints now (`make docs` writes it):\n{output}"


@pytest.mark.parametrize("name", ["clean-up.md", "costs.md"])
def test_every_figure_of_a_page_is_printed_by_it(name: str) -> None:
    """A figure in the text is one that a command of its section prints, or that a generated part of it shows."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    introduction, *sections = re.split(r"(?m)^## ", text)
    for section, where in ((introduction, text), *((section, section) for section in sections)):
        shown = "".join(
            re.findall(
                r"<!-- (?:output|bench(?:-repair)?:begin) -->\n(.*?)(?:^```$|<!--)", where, re.DOTALL | re.MULTILINE
            )
        )
        prose = re.sub(
            r"<!-- bench(-repair)?:begin.*?bench\1:end -->|```.*?```|`[^`]*`|\]\([^)]*\)", "", section, flags=re.DOTALL
        )
        figures = set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?!\w)", prose))
        assert figures - set(re.findall(r"\d+(?:\.\d+)?", shown)) == set(), section.split("\n")[0]


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


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)]+)\)", document.read_text()):
            if target.startswith("https://"):
                continue
            path, _, anchor = target.partition("#")
            file = document.parent / path if path else document
            assert file.is_file(), f"{document.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
                anchors = {reference.anchor(heading) for heading in headings}
                assert anchor in anchors, f"{document.name}: {target}"


def test_every_command_option_and_exit_code_is_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert f"`pyflowguard {name}" in text, name
        for parameter in command.params:
            if isinstance(parameter, click.Option) and name in {
                "guard",
                "health",
                "check",
                "doctor",
                "repair",
                "undo",
                "demo",
            }:
                assert parameter.opts[0] in text, (name, parameter.opts)
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    assert codes == sorted(ExitCode)


def test_the_readme_is_one_page_and_lines_are_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180
    for document in DOCUMENTS:
        for line in document.read_text().splitlines():
            assert len(line) <= 128 or line.startswith("|"), f"{document.name}: {line}"
