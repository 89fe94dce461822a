"""Writes what discover proposes as a change set to be read, edited and committed: in a sqitch project, or as one file.

Three changes, in the order of the report's profile: links are registered, what is there is repaired, and the links are
guarded. A file that is there is never written over.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal, TypeAlias

from pyflowguard.discover import Link, Master, Proposal, Rule, counted, links_of
from pyflowguard.errors import UsageError, writing
from pyflowguard.plan import read_plan

Form: TypeAlias = Literal["sqitch", "sql"]

FORMS: tuple[Form, ...] = ("sqitch", "sql")
"""A change set with its plan, or one file of plain SQL."""

_WIDTH = 116
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOTES = {
    "flowguard/links": "Which columns must point to which masters, and where a missing link is found",
    "flowguard/repair": "Rows that are there already are linked",
    "flowguard/guard": "Triggers, indexes and keys",
}


@dataclass(frozen=True)
class _Change:
    name: str
    deploy: str
    revert: str
    verify: str


def write(proposal: Proposal, directory: Path, form: Form) -> tuple[Path, ...]:
    """Write a proposal into a directory, which is made if need be; gives the files, written or added to, in order.

    Raises UsageError for a file or a change that is there already, before anything is written, and for a file that
    cannot be written.
    """
    links = [link for master in proposal.masters for link in master.links]
    if form == "sql":
        files = {directory / "flowguard.sql": _one_file(proposal, links)}
        plan = directory / "sqitch.plan"
        added = ""
    else:
        plan, project, old = _plan(directory)
        files = {}
        if not old:
            files[directory / "sqitch.conf"] = "[core]\n\tengine = pg\n[deploy]\n\tverify = true\n"
        for change in _changes(project, proposal, links):
            for kind in ("deploy", "revert", "verify"):
                files[directory / kind / f"{change.name}.sql"] = getattr(change, kind)
        added = _plan_lines(project, is_new=not old)
        if old and not old.endswith("\n"):
            added = "\n" + added
    for file in files:
        if file.exists():
            raise UsageError(
                f"{file} is there already.", hint="Nothing was written. Move it, or name another directory."
            )
    for file, text in files.items():
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    if added:
        with writing(plan), plan.open("a", encoding="utf-8") as stream:
            stream.write(added)
        return plan, *files
    return tuple(files)


def _plan(directory: Path) -> tuple[Path, str, str]:
    """Give the plan of a directory, the project's name and the plan's text, empty if there is none yet."""
    file = directory / "sqitch.plan"
    if not file.exists():
        name = re.sub(r"\W+", "_", directory.resolve().name).strip("_") or "application"
        return file, name, ""
    plan = read_plan(directory)
    there = {change.name for change in plan.changes} & set(_NOTES)
    if there:
        raise UsageError(
            f"{file} has a change {min(there)} already.", hint="Nothing was written. Name another directory."
        )
    return file, plan.project, file.read_text(encoding="utf-8")


def _plan_lines(project: str, *, is_new: bool) -> str:
    """Give the lines of the three changes, planned now by whom sqitch would name."""
    user = getpass.getuser()
    name = re.sub(r"[<>\n]", "", os.environ.get("SQITCH_FULLNAME", "")).strip() or user
    email = re.sub(r"[<>\s]", "", os.environ.get("SQITCH_EMAIL", "")) or f"{user}@{socket.gethostname()}"
    now = datetime.now(timezone.utc)
    lines = [f"%syntax-version=1.0.0\n%project={project}\n"] if is_new else []
    requires = "pyflowguard:privileges"
    for number, (change, note) in enumerate(_NOTES.items()):
        at = f"{now + timedelta(seconds=number):%Y-%m-%dT%H:%M:%SZ}"
        lines.append(f"{change} [{requires}] {at} {name} <{email}> # {note}")
        requires = change
    return "\n".join(lines) + "\n"


def _changes(project: str, proposal: Proposal, links: Sequence[Link]) -> tuple[_Change, ...]:
    def script(kind: str, name: str, body: str, end: str = "COMMIT", remarks: str = "") -> str:
        word = {"Deploy": "to", "Revert": "from", "Verify": "on"}[kind]
        return f"-- {kind} {project}:{name} {word} pg\n{remarks}\nBEGIN;\n\n{body}\n{end};\n"

    note = f"{project}:flowguard/repair"
    verify = [f"SELECT flowguard._link({_literal(link.relation)}, {_literal(link.column)});\n" for link in links]
    drop = [f"SELECT flowguard.drop_link({_of(link)});\n" for link in reversed(links)]
    drop += [f"SELECT flowguard.drop_master({_literal(master.relation)});\n" for master in reversed(proposal.masters)]
    return (
        _Change(
            "flowguard/links",
            script("Deploy", "flowguard/links", _registration(proposal), remarks=_comment(_head(proposal))),
            script("Revert", "flowguard/links", "".join(drop)),
            script("Verify", "flowguard/links", "".join(verify), "ROLLBACK"),
        ),
        _Change(
            "flowguard/repair",
            f"-- Deploy {project}:flowguard/repair to pg\n{_comment(_REPAIR)}\n{_repairs(links, note)}",
            script("Revert", "flowguard/repair", f"SELECT flowguard._revert_runs({_literal(note)});\n"),
            script("Verify", "flowguard/repair", _verify_repair(links, note), "ROLLBACK"),
        ),
        _Change(
            "flowguard/guard",
            script("Deploy", "flowguard/guard", _guards(links), remarks=_comment(_GUARD) + _remarks(links)),
            script(
                "Revert",
                "flowguard/guard",
                "".join(_select("unguard", link) for link in links),
            ),
            script(
                "Verify",
                "flowguard/guard",
                _VERIFY_GUARD.replace("LINKS", ",\n                   ".join(f"({_of(link)})" for link in links)),
                "ROLLBACK",
            ),
        ),
    )


_REPAIR = (
    "Rows that are there already: linked by the rules, translated where they hold another key of their master; what "
    "nothing can mend is done with as on_orphan says. It commits batch by batch. To see before what it "
    "would do: `pyflowguard repair --dry-run`."
)
_GUARD = (
    "Triggers, indexes and foreign keys. The tables that others take their link from come last. The command builds "
    "all that before it sends this script, a statement at a time, while applications write; other runners hold locks "
    "of the tables until the end of the transaction, or do the same by flowguard.guard_plan() before."
)

_VERIFY_REPAIR = """DO $verify$
BEGIN
  IF (SELECT count(DISTINCT (r.relation, r.link_column))
        FROM flowguard.run r WHERE r.note = NOTE AND r.status = 'finished') < LINKS THEN
    RAISE EXCEPTION 'not every link has a run of the repair that has finished'
      USING DETAIL = 'It was stopped, or undone.',
            HINT = 'Call flowguard.repair() for each link, with the note of the deploy script.';
  END IF;
END;
$verify$;
"""

_VERIFY_GUARD = """-- A key that is NOT VALID binds new rows; flowguard.check_all() names the rows that it waits for.
DO $verify$
DECLARE
  r_step record;
BEGIN
  FOR r_step IN
    SELECT t.name, t.link, p.statement
      FROM (VALUES LINKS) AS t (name, link)
     CROSS JOIN LATERAL flowguard.guard_plan(t.name::regclass, t.link) AS p
     WHERE p.statement NOT LIKE '% VALIDATE CONSTRAINT %'
  LOOP
    RAISE EXCEPTION 'the guard of %.% is not complete', r_step.name, r_step.link
      USING DETAIL = format('Missing: %s', r_step.statement),
            HINT = format('Call flowguard.guard(%L, %L).', r_step.name, r_step.link);
  END LOOP;
END;
$verify$;
"""


def _repairs(links: Sequence[Link], note: str) -> str:
    """Repair each of these links and no other, those first that others take theirs from."""
    results = ", ".join(
        f"{name} => v_run.{name}" for name in ("run_id", "linked", "translated", "quarantined", "unlinked", "remaining")
    )
    calls = "".join(f"  {_repair(link, note)[:-2]},\n                        {results});\n" for link in reversed(links))
    quote = "$repair$"
    while quote in calls:
        quote = f"$_{quote[1:]}"
    return f"DO {quote}\nDECLARE\n  v_run flowguard.run;\nBEGIN\n{calls}END;\n{quote};\n"


def _repair(link: Link, note: str) -> str:
    return (
        f"CALL flowguard.repair({_literal(link.relation)}, link_column => {_literal(link.column)}, "
        f"note => {_literal(note)});"
    )


def _verify_repair(links: Sequence[Link], note: str) -> str:
    return _VERIFY_REPAIR.replace("NOTE", _literal(note)).replace("LINKS", str(len(links)))


def _one_file(proposal: Proposal, links: Sequence[Link]) -> str:
    repairs = "\n".join(_repair(link, "discover") for link in reversed(links))
    return (
        f"{_comment(_file_head(proposal))}{_comment(_head(proposal))}\nBEGIN;\n\n{_registration(proposal)}\nCOMMIT;\n\n"
        f"{_comment(_REPAIR)}\n{repairs}\n\n"
        f"{_comment(_GUARD)}\nBEGIN;\n\n{_guards(links)}\nCOMMIT;\n"
    )


def _file_head(proposal: Proposal) -> str:
    return (
        f"What `pyflowguard discover` found in database {proposal.database}, for a database with the engine: "
        "psql -v ON_ERROR_STOP=1 -f flowguard.sql"
    )


def _head(proposal: Proposal) -> str:
    sampled = " Figures with ~ are of a sample." if proposal.sampled else ""
    return (
        "Proposed by `pyflowguard discover`; read and edit it. What begins with -- SELECT is a thought, no proposal. "
        f"Figures are those of the day it was written.{sampled}"
    )


def _registration(proposal: Proposal) -> str:
    """Give the calls that register, each below its evidence."""
    parts = []
    for master in proposal.masters:
        parts.append(_evidence(master.evidence) + _add_master(master))
        for link in master.links:
            parts.append(_evidence((counted(link), *link.evidence)) + _add_link(master, link))
            parts += [_evidence(rule.evidence, links_of(rule)) + _add_rule(link, rule) for rule in link.rules]
    return "\n".join(parts)


def _add_master(master: Master) -> str:
    arguments = [_literal(master.relation), _literal(master.key_column), _names(master.tenant_columns)]
    if master.alternate_keys:
        arguments.append(f"alternate_keys => {_names(master.alternate_keys)}")
    if master.created_at_column != "created_at":
        created = master.created_at_column
        arguments.append(f"created_at_column => {'NULL' if created is None else _literal(created)}")
    return _call("add_master", arguments)


def _add_link(master: Master, link: Link) -> str:
    arguments = [_of(link), f"master => {_literal(master.relation)}"]
    if None in link.tenant_columns:
        arguments.append(f"tenant_columns => {_names(link.tenant_columns)}")
    return _call("add_link", [*arguments, f"on_orphan => {_literal(link.on_orphan)}"])


def _add_rule(link: Link, rule: Rule) -> str:
    relation, column = _literal(link.relation), f"link_column => {_literal(link.column)}"
    if rule.kind == "session":
        return _call("add_session_rule", [_of(link)], thought=True)
    assert rule.source and rule.source_link  # noqa: S101, PT018 - so it is with both other kinds
    if rule.kind == "reference":
        assert rule.via_column and rule.source_key  # noqa: S101, PT018
        return _call(
            "add_reference_rule",
            [
                relation,
                _literal(rule.via_column),
                _literal(rule.source),
                f"source_key => {_literal(rule.source_key)}",
                f"source_link => {_literal(rule.source_link)}",
                f"agree => {'true' if rule.agree else 'false'}",
                column,
            ],
            thought=not rule.proposed,
        )
    assert rule.time_column and rule.source_time and rule.within  # noqa: S101, PT018
    return _call(
        "add_proximity_rule",
        [
            relation,
            _literal(rule.source),
            f"within => {_literal(rule.within)}",
            f"time_column => {_literal(rule.time_column)}",
            f"source_time => {_literal(rule.source_time)}",
            f"source_link => {_literal(rule.source_link)}",
            "on_ambiguous => 'leave'",
            column,
        ],
        thought=not rule.proposed,
    )


def _guards(links: Sequence[Link]) -> str:
    return "".join(_select("guard", link) for link in reversed(links))


def _select(function: str, link: Link) -> str:
    return f"SELECT count(*) FROM flowguard.{function}({_of(link)});\n"  # noqa: S608 - literals are quoted


def _remarks(links: Sequence[Link]) -> str:
    """Give the remarks by which the command guards online: see docs/roll-out.md. Odd names are left to the script."""
    text = ""
    for column in dict.fromkeys(link.column for link in reversed(links)):
        tables = [link.relation for link in reversed(links) if link.column == column and "\n" not in link.relation]
        if tables and re.fullmatch(r"\S+", column):
            text += f"-- pyflowguard guard --link-column {column} {' '.join(tables)}\n"
    return text


def _call(function: str, arguments: Sequence[str], *, thought: bool = False) -> str:
    """Write a call, over several lines where it is long, commented out where it is only a thought."""
    prefix = "-- " if thought else ""
    begin = f"SELECT flowguard.{function}("
    lines = [begin]
    for number, argument in enumerate(arguments):
        piece = argument + (", " if number < len(arguments) - 1 else ");")
        if len(lines[-1] + piece) > _WIDTH and lines[-1].strip():
            lines.append(" " * len(begin))
        lines[-1] += piece
    return "".join(f"{prefix}{line.rstrip()}\n" for line in lines)


def _evidence(evidence: Iterable[str], first: str | None = None) -> str:
    return "".join(_comment(line) for line in (*([first] if first else []), *evidence))


def _comment(text: str) -> str:
    lines = textwrap.wrap(_one_line(text), _WIDTH - 3, break_long_words=False, break_on_hyphens=False)
    return "".join(f"-- {line}\n" for line in lines)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _of(link: Link) -> str:
    return f"{_literal(link.relation)}, {_literal(link.column)}"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _names(names: Sequence[str | None]) -> str:
    """Write a list of columns; NULL stands for one that a table lacks."""
    if all(name is None or (_PLAIN.fullmatch(name) and name.upper() != "NULL") for name in names):
        return "'{" + ",".join("NULL" if name is None else name for name in names) + "}'"
    return f"ARRAY[{', '.join('NULL' if name is None else _literal(name) for name in names)}]::name[]"
