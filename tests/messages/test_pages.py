"""docs/errors/ has a page for every SQLSTATE that the engine raises; each shows what the server really says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from messages.pages import DIRECTORY, Stage, blocks, play
from messages.sites import ROOT, Site
from messages.stage import perform
from psycopg.conninfo import conninfo_to_dict

if TYPE_CHECKING:
    from conftest import Databases

PAGES = sorted(DIRECTORY.glob("*.md"))
INDEX = ROOT / "docs" / "errors.md"
POSTGRESQL = {"23503", "40001", "40P01", "42703", "42P01"}
"""PostgreSQL's own, as far as they come from our keys, locks and generated code."""


@pytest.fixture(scope="module")
def readme(databases: Databases, engine_template: str) -> Iterator[str]:
    """Name of a database with what README creates: jobs, uploads and their rows, guarded."""
    found = re.search(r"<!-- test: sql -->\n```sql\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    with databases.new(engine_template) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            perform(connection, found[1])
        yield str(conninfo_to_dict(dsn)["dbname"])


@pytest.fixture
def stage(databases: Databases, readme: str, as_role: Callable[[str, str], str]) -> Iterator[Stage]:
    """Give a copy of README's database to play a page on."""
    with databases.new(readme) as dsn, ThreadPoolExecutor() as pool:
        stage = Stage(dsn, as_role, databases.postgresql.bin, pool)
        yield stage
        for session in stage.sessions.values():
            session.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_as_the_server_says(page: Path, stage: Stage) -> None:
    play(page, stage)


def raised_codes(sites: list[Site]) -> set[str]:
    """Give the SQLSTATEs that stand in statements that raise; FG999 is always caught."""
    return {code for site in sites for code in re.findall(r"(?:ERRCODE =|SQLSTATE) '(FG\d{3})'", site.text)} - {"FG999"}


def test_every_code_has_a_page_and_every_page_a_code(sites: list[Site]) -> None:
    assert {page.stem for page in PAGES} == raised_codes(sites) | POSTGRESQL


def test_every_exception_has_a_code(sites: list[Site]) -> None:
    without = [str(site) for site in sites if site.text.startswith("RAISE EXCEPTION") and "ERRCODE" not in site.text]
    assert without == []


def test_every_notice_says_what_to_do(sites: list[Site]) -> None:
    without = [str(site) for site in sites if site.text.startswith("RAISE NOTICE") and "HINT" not in site.text]
    assert without == []


def test_the_index_lists_every_page_with_its_title() -> None:
    listed = re.findall(r"^\| \[(\w+)\]\(errors/(\w+)\.md\) \| (.+) \|$", INDEX.read_text(), re.MULTILINE)
    titled = []
    for page in PAGES:
        title = re.match(r"# (\w+): (.+)\n", page.read_text())
        assert title is not None, page
        titled.append((title[1], page.stem, title[2]))
    assert sorted(listed) == sorted(titled)
    assert all(code == stem for code, stem, _ in titled)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_its_parts(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE)[0] in {
        "Why it is refused",
        "Why it happens",
        "Why it is raised",
    }
    assert re.findall(r"^## (.+)$", text, re.MULTILINE)[1] == "What to do"
    shown, remedies = text.split("\n## What to do\n")
    assert [block for block in blocks(shown) if block.answer is not None], "no message is shown"
    assert [block for block in blocks(remedies) if block.answer is None], "nothing is run"
    related = re.findall(r"\[(\w+)\]\(\1\.md\)", remedies.split("Related: ")[-1])
    assert related, "no related code"
    assert page.stem not in related


def test_a_broken_page_is_noticed(tmp_path: Path, stage: Stage) -> None:
    page = tmp_path / "FG201.md"
    text = (DIRECTORY / "FG201.md").read_text()
    page.write_text(text.replace("no run 4711", "no run 4712"))
    with pytest.raises(AssertionError):
        play(page, stage)
