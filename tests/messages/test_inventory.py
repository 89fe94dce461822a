"""Nothing in the engine speaks that no test listens to: each RAISE, and each call of a helper that refuses."""

from __future__ import annotations

import re

from messages import guarding, measuring, registering, repairing, test_scripts, test_stories, writing
from messages.sites import GENERATED, ROOT, Site
from messages.stage import STORIES, site_of
from repair import test_pace

CASES = [*registering.CASES, *guarding.CASES, *writing.CASES, *repairing.CASES, *measuring.CASES]
MODULES = (test_scripts, test_stories, test_pace)
"""Imported for the places that they declare in STORIES."""


def test_every_place_that_speaks_is_reached(sites: list[Site]) -> None:
    named = {site_of(*place, sites) for place in [place for case in CASES for place in case.reaches] + STORIES}
    caught = {site for case in CASES for words in case.unreached for site in sites if words in site.text}
    heard = named | caught
    # What goes through a helper reaches the helper's own RAISE.
    helpers = {site.text if site.function == GENERATED else site.text.split("(")[0].split(".")[-1] for site in heard}
    heard |= {site for site in sites if site.function in helpers}
    assert [str(site) for site in sites if site not in heard] == []


def test_no_handler_catches_more_than_it_names() -> None:
    """PL/pgSQL takes a condition that ends in 000 for the whole class: FG000 would swallow every error of ours."""
    for file in (ROOT / "deploy").rglob("*.sql"):
        assert re.findall(r"WHEN\b[^;]*?SQLSTATE '+\w\w000'", file.read_text()) == [], file


def test_what_other_scripts_say_is_in_a_test() -> None:
    """Of the event triggers, and of the SQL that the command writes: the words up to the first that is filled in."""
    scripts = [*(ROOT / "sql" / "event_triggers").rglob("*.sql"), ROOT / "pyflowguard" / "bundle.py"]
    texts = [file.read_text() for file in [*scripts, ROOT / "pyflowguard" / "changeset.py"]]
    said = {words for text in texts for words in re.findall(r"RAISE (?:EXCEPTION|WARNING|NOTICE)\s+'([^']+)'", text)}
    assert len(said) > 15
    tests = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    wanted = {max(words.removeprefix("flowguard: ").split("%"), key=len).strip() for words in said}
    assert sorted(words for words in wanted if words not in tests) == []


def test_a_helper_has_one_message(sites: list[Site]) -> None:
    helpers = [site.function for site in sites if site.function.startswith("_refuse_")]
    assert len(helpers) == len(set(helpers))


def test_cases_have_names_of_their_own() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
