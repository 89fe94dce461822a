"""Every SQL script keeps to the house style, and every change has its three scripts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pglast.parser import scan

from pyflowguard import __version__
from pyflowguard.database import statement_offsets
from pyflowguard.plan import read_plan

ROOT = Path(__file__).parents[2]
KINDS = ("deploy", "revert", "verify")
SCRIPTS = sorted(path for kind in KINDS for path in (ROOT / kind).rglob("*.sql"))
EVERY = SCRIPTS + sorted(path for folder in ("sql", "examples") for path in (ROOT / folder).rglob("*.sql"))
# PostgreSQL counts these among its reserved words; values and functions are written as such.
NAMES = {"current_user", "session_user", "user", "true", "false"}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def lowercase_keywords(text: str, first_line: int = 1) -> list[str]:
    """Reserved words that are not in capitals, with their lines; function bodies are read as well."""
    found = []
    for token in scan(text):
        word = text[token.start : token.end + 1]
        line = first_line + text.count("\n", 0, token.start)
        if token.name == "SCONST" and word.startswith("$"):
            body = re.fullmatch(r"(\$\w*\$)(.*)\1", word, re.DOTALL)
            assert body is not None
            if body[1] not in {"$body$", "$query$", "$text$"}:  # texts of generated code have placeholders in them
                found += lowercase_keywords(body[2], line)
        elif token.kind == "RESERVED_KEYWORD" and word.upper() != word and word.lower() not in NAMES:
            found.append(f"{line}: {word}")
    return found


@pytest.mark.parametrize("path", EVERY, ids=relative)
def test_script_keeps_to_the_style(path: Path) -> None:
    text = path.read_text("utf-8")
    lines = text.split("\n")
    assert [f"{n}: {len(line)}" for n, line in enumerate(lines, 1) if len(line) > 120] == []
    assert [n for n, line in enumerate(lines, 1) if line != line.rstrip() or "\t" in line] == []
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert lowercase_keywords(text) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=relative)
def test_script_names_its_change_and_needs_no_psql(path: Path) -> None:
    kind, change = relative(path).removesuffix(".sql").split("/", 1)
    words = {"deploy": "Deploy {} to pg", "revert": "Revert {} from pg", "verify": "Verify {} on pg"}
    text = path.read_text("utf-8")
    # The deploy script of a change that is reworked becomes the revert script of what reworks it.
    change = change.partition("@")[0]
    reworked = list(path.parent.glob(f"{Path(change).name}@*"))
    kinds = [kind, "deploy"] if kind == "revert" and reworked else [kind]
    name = f"pyflowguard:{change}"
    assert text.split("\n", 1)[0] in {f"-- {words[each].format(name)}" for each in kinds}
    code = re.sub(r"--[^\n]*", "", text)
    assert re.search(r"^\s*\\", code, re.MULTILINE) is None, "a backslash command"
    statements = [line for line in code.split("\n") if re.fullmatch(r"(BEGIN|COMMIT|ROLLBACK);", line)]
    if statements:
        assert statements == ["BEGIN;", "ROLLBACK;" if kind == "verify" else "COMMIT;"]
        assert code.strip().startswith("BEGIN;")
        assert code.strip().endswith(statements[-1])
    else:
        assert len(statement_offsets(text)) == 1, "a script is one BEGIN … COMMIT or one statement"


@pytest.mark.parametrize("path", [path for path in SCRIPTS if path.parts[-2] == "deploy"], ids=relative)
def test_functions_are_quoted_by_their_names(path: Path) -> None:
    text = path.read_text("utf-8")
    for name, tag in re.findall(
        r"CREATE OR REPLACE (?:FUNCTION|PROCEDURE) flowguard\.(\w+)\(.*?\bAS (\$\w*\$)", text, re.DOTALL
    ):
        assert tag == f"${name}$"


def test_every_change_has_three_scripts_and_no_script_is_left_over() -> None:
    paths = [change.path for change in read_plan(ROOT).changes]
    assert len(paths) == len(set(paths))
    for kind in KINDS:
        assert {relative(path).split("/", 1)[1] for path in (ROOT / kind).rglob("*.sql")} == set(paths)


def test_the_database_side_has_the_version_of_the_package() -> None:
    text = (ROOT / "deploy" / "version.sql").read_text("utf-8")
    found = re.search(r"AS \$version\$\s+SELECT '([^']+)';", text)
    assert found is not None
    assert found[1] == __version__
