"""A message as a small play: what provokes it, what it says, and that doing what its HINT says helps.

A `Case` is all data. `play` runs it: the call is refused (or answered with a NOTICE) in the very words that the case
states, from the place in the engine that it names; then the statements that stand in the HINT are taken out of it, what
it leaves open is filled in, and they are run; then the call goes through.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TypeVar

import psycopg
from engine.postgres import Connection, one
from messages.sites import GENERATED, PASSED_ON, ROOT, Site, do_blocks, spans
from psycopg.errors import Diagnostic
from servers import lacking

OWNER = "app_owner"

_FRAME = re.compile(r"^PL/pgSQL function (?:\w+\.)?(\"[^\"]+\"|\w+)(?:\([^\n]*\))? line (\d+) at (.+)$", re.MULTILINE)
_STATEMENT = re.compile(r'"([A-Z][^"]*(?:"[^"]*"[^"]*)*?)"(?=[ ,.;)]|$)|(flowguard\.\w+\()')


@dataclass(frozen=True)
class Said:
    """What the server said: an error, or a notice."""

    severity: str
    code: str
    message: str
    detail: str
    hint: str
    frames: tuple[tuple[str, int], ...]
    """Functions it came through, the innermost first, each with its line."""

    @classmethod
    def of(cls, diagnostic: Diagnostic) -> Said:
        """Take what libpq got."""
        return cls(
            diagnostic.severity_nonlocalized or "",
            diagnostic.sqlstate or "",
            diagnostic.message_primary or "",
            diagnostic.message_detail or "",
            diagnostic.message_hint or "",
            tuple((name.strip('"'), int(line)) for name, line, _ in _FRAME.findall(diagnostic.context or "")),
        )

    def __str__(self) -> str:
        """Give it as psql shows it, the SQLSTATE in front."""
        code = f"{self.code}: " if self.severity == "ERROR" else ""
        parts = [f"{self.severity}: {code}{self.message}"]
        parts += [f"DETAIL: {self.detail}"] if self.detail else []
        parts += [f"HINT: {self.hint}"] if self.hint else []
        return "\n".join(parts)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One message. `name` says what has happened, as a sentence without a full stop."""

    name: str
    reaches: tuple[tuple[str, str], ...]
    """Places in the engine that it comes through: a function, and words that only this statement of it has."""
    world: str = "bare"
    """Which tables and registrations are there: bare, known, observe or enforce (see conftest.py)."""
    setup: str = ""
    """What the owner of the tables does first."""
    admin: str = ""
    """What a superuser does after that."""
    call: str
    """What is refused, or answered with a notice. Several statements: the last one that is run is meant."""
    says: str
    """The whole message as psql shows it; runs of white space count as one blank, … stands for anything."""
    by: str = OWNER
    """Who makes the call."""
    take: tuple[int, ...] = (0,)
    """Which of the statements in the HINT are run, in this order; none: the HINT says it in words."""
    argument: int | None = None
    """Which of the arguments (name => value) in the HINT is taken, where it names one and no statement."""
    fill: Mapping[str, str] = field(default_factory=dict)
    """What is put in place of what the HINT leaves open."""
    follow_by: str = ""
    """Who follows the HINT, where it is not who made the call."""
    then: str = ""
    """What goes through in the end, if it is not the call. {hint} stands for what was taken from the HINT, which is not
    run by itself then."""
    unreached: tuple[str, ...] = ()
    """Words of statements that were run, caught by the engine and quoted in this message."""
    before: int | None = None
    """The release from which on there is nothing to refuse: there the call goes through."""
    extension: str = ""
    """A contrib module without which it cannot come up."""


def statements(hint: str) -> list[str]:
    """Give the statements in a HINT: what stands in double quotes, and calls of functions of ours."""
    found = []
    position = 0
    while (match := _STATEMENT.search(hint, position)) is not None:
        position = match.end()
        if match[1] is not None:
            found.append(match[1])
            continue
        depth = 1
        while depth and position < len(hint):
            depth += {"(": 1, ")": -1}.get(hint[position], 0)
            position += 1
        found.append(f"SELECT {hint[match.start(2) : position]}")
    return found


def arguments(hint: str) -> list[str]:
    """Give the arguments in a HINT: name => value."""
    return re.findall(r"\w+ => (?:'[^']*(?:''[^']*)*'|\w+|…)", hint)


def filled(text: str, fill: Mapping[str, str]) -> str:
    """Put values in place of what a HINT leaves open; nothing may stay open, and nothing is put in twice."""
    for place, value in fill.items():
        assert text.count(place) == 1, (place, text)
        text = text.replace(place, value)
    assert "…" not in text, text
    assert re.search(r"<\w", text) is None, text
    return text


def normal(text: str) -> str:
    """Give a message on one line."""
    return " ".join(text.split())


def pattern(text: str) -> str:
    """Give a regular expression for a message in which … stands for what differs from one server to the next."""
    return ".*".join(re.escape(part) for part in normal(text).split("…"))


def perform(connection: Connection, script: str, *, keep: bool = False) -> None:
    """Run statements one by one, as psql does."""
    try:
        for start, end in spans(script):
            connection.execute(script[start:end].strip().encode())
    finally:
        if not keep and connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            connection.execute("ROLLBACK")


def hear(connection: Connection, script: str, *, keep: bool = False) -> list[Said]:
    """Run statements and give what the server said: its notices, and the error that ended them, if any.

    A transaction that they leave open is rolled back, unless it is to be kept.
    """
    said: list[Said] = []
    listen: Callable[[Diagnostic], None] = lambda diagnostic: said.append(Said.of(diagnostic))  # noqa: E731
    connection.add_notice_handler(listen)
    try:
        perform(connection, script, keep=keep)
    except psycopg.Error as error:
        said.append(Said.of(error.diag))
    finally:
        connection.remove_notice_handler(listen)
    return said


def hear_script(connection: Connection, name: str) -> list[Said]:
    """Run a script of the change sets and give what the server said; lines are told as those of the file."""
    text = (ROOT / name).read_text()
    blocks = {text.rindex("DO ", 0, start): start for start, _ in do_blocks(text)}
    said: list[Said] = []
    for start, end in spans(text):
        first = text.count("\n", 0, blocks[start]) if start in blocks else 0
        for told in hear(connection, text[start:end], keep=True):
            frames = tuple(
                (name, first + line) if function == "inline_code_block" else (function, line)
                for function, line in told.frames
            )
            said.append(replace(told, frames=frames))
        if said and said[-1].severity == "ERROR":
            break
    connection.rollback()
    return said


def play(case: Case, dsn: str, as_role: Callable[[str, str], str], sites: list[Site]) -> None:
    """Run a case; see above."""
    with ExitStack() as stack:

        def connect(role: str) -> Connection:
            return stack.enter_context(psycopg.connect(as_role(dsn, role), autocommit=True))

        owner = connect(OWNER)
        if case.extension and not one(
            owner, "SELECT count(*) FROM pg_available_extensions WHERE name = %s", case.extension
        ):
            lacking(f"extension {case.extension}")
        perform(owner, case.setup)
        if case.admin:
            perform(connect("postgres"), case.admin)
        caller = connect(case.by)
        heard = hear(caller, case.call)
        if case.before is not None and caller.info.server_version >= case.before:
            assert heard == []
            return
        said = next((said for said in heard if re.fullmatch(pattern(case.says), normal(str(said)))), None)
        assert said is not None, "\n\n".join(["expected:", case.says, "heard:", *map(str, heard)])
        check_form(said)
        check_reached(case, said, sites)

        follower = connect(case.follow_by) if case.follow_by else caller
        given = statements(said.hint)
        if case.argument is not None:
            chosen = [arguments(said.hint)[case.argument]]
        else:
            assert case.take or all("flowguard.bypass(" in text for text in given), ("not followed", given)
            chosen = [given[index] for index in case.take]
        fill = dict(case.fill)
        ready = []
        for text in chosen:
            ready.append(filled(text, {place: value for place, value in fill.items() if place in text}))
            fill = {place: value for place, value in fill.items() if place not in text}
        assert not fill, ("the HINT leaves nothing open of that kind", fill, said.hint)
        if "{hint}" in case.then:
            heard = hear(caller, case.then.replace("{hint}", "; ".join(ready)))
        else:
            for text in ready:
                perform(follower, text)
            heard = hear(caller, case.then or case.call)
        left = [str(other) for other in heard if other.severity in {"ERROR", said.severity}]
        assert left == [], left


def check_form(said: Said) -> None:
    """Check what every message has: a code (our own, or 40001), a sentence, what was found, and what to do."""
    if said.severity != "ERROR":
        assert said.code == {"NOTICE": "00000", "WARNING": "01000"}[said.severity], said
        return
    assert re.fullmatch(r"FG\d\d\d|40001", said.code), said
    assert said.message.startswith("flowguard: "), said
    assert not said.message.endswith("."), said
    assert said.detail, said
    assert said.hint, said
    assert said.hint[-1] in ".)…", said


def check_reached(case: Case, said: Said, sites: list[Site]) -> None:
    """Check that the message came from the places that the case names, told by the server's own CONTEXT."""
    for function, words in case.reaches:
        reached(said, site_of(function, words, sites))
    for words in case.unreached:
        (caught,) = {site for site in sites if words in site.text}
        literals = re.findall(r"'((?:[^']|'')*)'", caught.text.partition("MESSAGE = ")[2])
        assert literals, caught
        assert all(piece in str(said) for literal in literals for piece in literal.split("%s")), (caught, said)


def reached(said: Said, site: Site) -> None:
    """Check that a message came from a site."""
    if site.function == GENERATED:
        helper, caller = said.frames[0], said.frames[1]
        assert helper[0] == site.text, said
        assert re.search(r"_(fill|find|commit|follow_\d+)$", caller[0]), said
    elif site.text == PASSED_ON:
        assert not said.code.startswith("FG"), said
        assert site.function in {name for name, _ in said.frames}, said
    elif site.text.startswith("PERFORM"):
        assert said.frames[0][0] == site.text.split("(")[0].split(".")[1], said
        assert said.frames[1] == (site.function, site.line), (said.frames, site)
    else:
        assert said.frames[0] == (site.function, site.line), (said.frames, site)


def site_of(function: str, words: str, sites: list[Site]) -> Site:
    """Give the one site of a function whose statement holds these words."""
    found = [site for site in sites if site.function == function and words in site.text]
    assert len(found) == 1, (function, words, found)
    return found[0]


Test = TypeVar("Test", bound=Callable[..., None])
STORIES: list[tuple[str, str]] = []
"""Places that tests reach which are no Case; the fixture `tell` sees to it that they do."""


def reaches(*places: tuple[str, str]) -> Callable[[Test], Test]:
    """Declare which places a test reaches: a function or script, and words of the statement."""

    def declare(test: Test) -> Test:
        STORIES.extend(places)
        test.places = places  # type: ignore[attr-defined]
        return test

    return declare


@dataclass
class Teller:
    """Checks what is said in a test that declares its places, and strikes each off that was reached."""

    sites: list[Site]
    open: list[tuple[str, str]]

    def __call__(self, heard: list[Said], words: str) -> Said:
        """Give the one message with these words, after a check of its form and of where it came from."""
        (said,) = (said for said in heard if words in said.message)
        for place in self.open:
            site = site_of(*place, self.sites)
            try:
                reached(said, site)
            except AssertionError:
                continue
            self.open.remove(place)
            break
        else:
            message = f"{said} does not come from any of {self.open}: {said.frames}"
            raise AssertionError(message)
        if site.text != PASSED_ON:
            check_form(said)
        return said
