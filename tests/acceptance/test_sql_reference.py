"""docs/sql.md is what the database says of itself, all of it, and the comments say what a reader has to know."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import reference
from psycopg.conninfo import make_conninfo

if TYPE_CHECKING:
    from conftest import Databases

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="module")
def catalog(databases: Databases, engine_template: str) -> Iterator[reference.Reference]:
    """Read what a deployed engine says of itself."""
    with (
        databases.new(engine_template) as dsn,
        psycopg.connect(make_conninfo(dsn, user="postgres"), autocommit=True) as connection,
    ):
        roles = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'flowguard%'"
        before = connection.execute(roles).fetchone()
        yield reference.Reference(connection)
        assert connection.execute(roles).fetchone() == before


def test_the_page_is_current(catalog: reference.Reference) -> None:
    assert catalog.text() == reference.FILE.read_text(encoding="utf-8"), "Run `make docs`."


def test_every_public_object_has_one_place(catalog: reference.Reference) -> None:
    """What is on the page under a task, once; tables that a view shows are named at the end."""
    listed = Counter(name for _, _, names in reference.SECTIONS for name in names)
    assert set(listed.values()) == {1}
    views = {name for name, relation in catalog.relations.items() if relation.kind == "v"}
    assert set(catalog.routines) | views <= set(listed)
    behind = set(catalog.relations) - set(listed)
    assert set(listed) | behind == set(catalog.routines) | set(catalog.relations)
    for name in behind:
        comment = catalog.relations[name].comment
        assert re.search(r"through the view|check_all\(\)", comment), name


def test_no_internal_function_is_shown(catalog: reference.Reference) -> None:
    assert re.findall(r"flowguard\._\w+", catalog.text()) == []


def test_every_routine_with_one_result_says_what_it_returns(catalog: reference.Reference) -> None:
    for name, routine in catalog.routines.items():
        parameters = catalog.parameters[routine.oid]
        comment = reference.take_apart(routine, parameters)
        assert bool(comment.returns) == all(parameter.mode == "i" for parameter in parameters), name


def test_a_parameter_that_the_comment_leaves_out_is_an_error(catalog: reference.Reference) -> None:
    routine = catalog.routines["undo"]
    parameters = catalog.parameters[routine.oid]
    without = replace(routine, comment=routine.comment.replace("max_rows: at", "max: at"))
    with pytest.raises(ValueError, match="no parameter 'max'"):
        reference.take_apart(without, parameters)
    without = replace(routine, comment=re.sub(r"\nskipped: .*", "", routine.comment))
    with pytest.raises(ValueError, match="nothing is said of skipped"):
        reference.take_apart(without, parameters)


def test_the_errors_of_the_comments_are_those_that_are_raised(catalog: reference.Reference) -> None:
    """Errors that a call ends with are told with it; those of a write (FG0xx) and of a change set are not."""
    raised = {code for file in DEPLOY.glob("*.sql") for code in re.findall(r"ERRCODE = '(FG\d{3})'", file.read_text())}
    told = {code for routine in catalog.routines.values() for code in re.findall(r"FG\d{3}", routine.comment)}
    assert told == {code for code in raised if not code.startswith("FG0")}


def test_the_admin_may_call_everything_and_the_viewer_only_look(catalog: reference.Reference) -> None:
    assert set(catalog.callable["flowguard_admin"]) == set(catalog.routines)
    assert catalog.callable["flowguard_viewer"] == [
        "check_all",
        "explain",
        "health_score",
        "score_estimate",
        "version",
    ]


def test_every_setting_that_is_read_is_told(databases: Databases, engine_template: str) -> None:
    query = "SELECT prosrc FROM pg_proc WHERE pronamespace = 'flowguard'::regnamespace"
    with databases.new(engine_template) as dsn, psycopg.connect(dsn) as connection:
        sources = "".join(source for (source,) in connection.execute(query))
        named = connection.execute("SELECT flowguard._setting_name('master_flow_id')").fetchone()
    assert named is not None
    settings = {*re.findall(r"(?:current_setting|set_config)\('(flowguard\.\w+)'", sources), *named}
    assert {setting for setting in settings if f"`{setting}`" not in reference.SETTINGS} == set()
