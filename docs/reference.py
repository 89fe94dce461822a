"""Writes docs/sql.md: the SQL reference, made of the COMMENTs and the catalog of a deployed engine.

`make docs` runs this file. A comment on a function is a summary, then a line `name: meaning` for each parameter and
result column, `Returns …` where it returns one value, and `Errors: CODE what; CODE what`. A line that begins with two
spaces goes on with the one before. A test holds the comments to this, and docs/sql.md to what is made of them.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.rows import class_row

from pyflowguard import changes
from pyflowguard.server import throwaway_server

FILE = Path(__file__).with_name("sql.md")
WIDTH = 120

SECTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "Register",
        "What is to be guarded, and how a missing link is found. These calls write the registry and touch no table.",
        (
            "add_master",
            "add_link",
            "add_session_rule",
            "add_reference_rule",
            "add_proximity_rule",
            "master",
            "link",
            "rule",
        ),
    ),
    (
        "Guard",
        "Triggers, keys and indexes are made; from then on the database fills and checks the link.",
        ("guard_plan", "guard", "replaced_constraint"),
    ),
    (
        "Enforce, and let pass",
        "Whether a row without a link is listed or refused, and the ways round it, each of which is recorded.",
        ("set_mode", "pause", "resume", "bypass", "privileged_transaction"),
    ),
    (
        "Repair, and take back",
        "Rows that are there already. Every value written is kept, and can be put back.",
        ("preview", "repair", "undo", "run", "repair_progress", "run_change", "quarantine"),
    ),
    (
        "Look",
        "How true the links are, row by row, as counts, as a score and as findings with their remedy.",
        (
            "link_status",
            "violation",
            "explain",
            "keep_provenance",
            "forget_provenance",
            "provenance",
            "provenance_link",
            "health_category",
            "health_score",
            "check_all",
            "doctor",
            "version",
        ),
    ),
    (
        "Look without counting",
        "The same figures of tables of any size, in no time: what the catalog proves is not counted.",
        ("link_estimate", "category_estimate", "score_estimate", "health_estimate", "finding_estimate"),
    ),
    (
        "Look back",
        "How health was, snapshot by snapshot.",
        ("snapshot", "health_history", "link_history", "health_snapshot_category"),
    ),
    (
        "Take away",
        "In this order: unguard, drop the link, drop the master. A rule can go alone.",
        ("unguard", "drop_rule", "drop_link", "drop_master"),
    ),
    ("Delegate", "Who may do what is said by two roles that cannot log in.", ("grant_roles",)),
)
"""The public objects by task, in the order in which a DBA meets them."""

INTRODUCTION = """\
Everything lies in schema `flowguard`. This page is made of the comments in the database (`\\df+ flowguard.*` shows
them there too) by `make docs`; a test keeps it current. A parameter with a default may be left out, and all can be
given by name: `relation => 'assets'`, and `"position" => 2` in quotes, since PostgreSQL takes that word for a keyword.
Codes that begin with FG are explained in [errors.md](errors.md), the words in [concepts.md](concepts.md).
"""

ROLES = """\
`flowguard_viewer` reads the tables and views of the schema and calls {viewer}. It needs no rights on the tables that
are guarded: figures and keys of all their rows are shown to it, whatever row security says.
`flowguard_admin` calls everything, bypass() included, and writes the registry. guard(), repair() and undo() run with
the caller's own rights: guard() asks for ownership of the tables and CREATE on schema flowguard, the other two for the
right to write the tables.
The owner of the schema, who deployed it, may do both without either role. Others may do nothing.
"""

SETTINGS = """\
## Settings

- `flowguard.<link column>` (`flowguard.master_flow_id`, say), text: the key of the master that a session rule gives to
  the rows of this transaction, by `SET LOCAL`. Empty counts as none. Where the column's name would need quotes, it is
  `flowguard.master_flow_id`.
- `flowguard.privileged`: set by the engine for transactions of `bypass()`, `repair()` and `undo()`. It only tells the
  triggers to look at `flowguard.privileged_transaction`; setting it by hand lifts nothing.
"""


@dataclass(frozen=True)
class Parameter:
    """A parameter, or a column of a result, a table or a view."""

    name: str
    type: str
    default: str | None
    mode: str  # as pg_proc.proargmodes has it: i, o, b (in and out), t (column of a returned table)
    comment: str | None = None


@dataclass(frozen=True)
class Routine:
    """A function or procedure."""

    name: str
    kind: str
    returns: str | None
    comment: str
    oid: int


@dataclass(frozen=True)
class Relation:
    """A table or a view."""

    name: str
    kind: str
    comment: str
    oid: int


@dataclass(frozen=True)
class Comment:
    """A comment on a routine, taken apart."""

    summary: str
    names: dict[str, str]
    returns: str | None
    errors: str | None


_ROUTINES = r"""
SELECT p.proname::text AS name, p.prokind::text AS kind, pg_get_function_result(p.oid) AS returns,
       obj_description(p.oid, 'pg_proc') AS comment, p.oid
  FROM pg_proc p
 WHERE p.pronamespace = 'flowguard'::regnamespace AND p.proname NOT LIKE '\_%'
   AND obj_description(p.oid, 'pg_proc') NOT LIKE 'Generated by PyFlowGuard%'
"""

_PARAMETERS = """
SELECT p.proargnames[a.n] AS name, format_type(a.type, NULL) AS type,
       pg_get_function_arg_default(p.oid, a.n::integer) AS default,
       coalesce(p.proargmodes[a.n]::text, 'i') AS mode
  FROM pg_proc p
 CROSS JOIN LATERAL unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])) WITH ORDINALITY AS a (type, n)
 WHERE p.oid = %s
 ORDER BY a.n
"""

_RELATIONS = """
SELECT c.relname::text AS name, c.relkind::text AS kind, obj_description(c.oid, 'pg_class') AS comment, c.oid
  FROM pg_class c
 WHERE c.relnamespace = 'flowguard'::regnamespace AND c.relkind IN ('r', 'v')
   AND obj_description(c.oid, 'pg_class') NOT LIKE 'Generated by PyFlowGuard%%'
 ORDER BY c.relname
"""

_COLUMNS = """
SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type, NULL AS default, 'o' AS mode,
       col_description(a.attrelid, a.attnum) AS comment
  FROM pg_attribute a
 WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum
"""

_ROLES = """
DO $$
BEGIN
  IF to_regrole('flowguard_viewer') IS NULL THEN
    CREATE ROLE flowguard_viewer NOLOGIN;
  END IF;
  IF to_regrole('flowguard_admin') IS NULL THEN
    CREATE ROLE flowguard_admin NOLOGIN;
  END IF;
  PERFORM flowguard.grant_roles();
END;
$$
"""

_MAY_CALL = r"""
SELECT p.proname::text
  FROM pg_proc p
 WHERE p.pronamespace = 'flowguard'::regnamespace AND p.proname NOT LIKE '\_%%'
   AND has_function_privilege(%s, p.oid, 'EXECUTE')
 ORDER BY p.proname
"""


class Reference:
    """Reads the catalog once; text() gives the page."""

    def __init__(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        """Read through a connection of a superuser, in a transaction that is rolled back."""
        with connection.transaction(force_rollback=True):
            connection.execute("SET LOCAL search_path = pg_catalog")
            with connection.cursor(row_factory=class_row(Routine)) as cursor:
                self.routines = {routine.name: routine for routine in cursor.execute(_ROUTINES)}
            with connection.cursor(row_factory=class_row(Relation)) as relations:
                self.relations = {relation.name: relation for relation in relations.execute(_RELATIONS)}
            with connection.cursor(row_factory=class_row(Parameter)) as parameters:
                self.parameters = {
                    routine.oid: parameters.execute(_PARAMETERS, [routine.oid]).fetchall()
                    for routine in self.routines.values()
                }
                self.columns = {
                    relation.oid: parameters.execute(_COLUMNS, [relation.oid]).fetchall()
                    for relation in self.relations.values()
                }
            connection.execute(_ROLES)
            self.callable = {
                role: [str(name) for (name,) in connection.execute(_MAY_CALL, [role])]
                for role in ("flowguard_viewer", "flowguard_admin")
            }

    def text(self) -> str:
        """Give the whole page."""
        listed = {name for _, _, names in SECTIONS for name in names}
        contents = "".join(
            _item(f"[{title}](#{anchor(title)}): {', '.join(f'[{name}](#{name})' for name in names)}")
            for title, _, names in SECTIONS
        )
        parts = ["# SQL reference\n", INTRODUCTION, contents]
        for title, introduction, names in SECTIONS:
            parts.append(f"## {title}\n")
            parts.append(_wrap(introduction))
            parts += [self._object(name) for name in names]
        parts.append(self._roles())
        parts.append(SETTINGS)
        parts.append("## Behind the views\n")
        parts.append(_wrap("Tables that the views above show. Read those: these may change from release to release."))
        parts.append(
            "".join(
                _item(f"`flowguard.{name}`: {self._linked(relation.comment)}")
                for name, relation in self.relations.items()
                if name not in listed
            )
        )
        return "\n".join(parts)

    def _object(self, name: str) -> str:
        return "\n".join(self._routine(self.routines[name]) if name in self.routines else self._relation(name))

    def _routine(self, routine: Routine) -> Iterator[str]:
        comment = take_apart(routine, self.parameters[routine.oid])
        yield f"### {routine.name}\n"
        yield _wrap(self._linked(comment.summary))
        given = [parameter for parameter in self.parameters[routine.oid] if parameter.mode == "i"]
        result = [parameter for parameter in self.parameters[routine.oid] if parameter.mode != "i"]
        if given:
            yield "Parameters:\n"
            yield "".join(self._parameter(parameter, comment.names[parameter.name]) for parameter in given)
        if result:
            yield "Gives rows of:\n" if routine.returns and routine.returns.startswith("TABLE") else "Gives:\n"
            yield "".join(self._parameter(parameter, comment.names[parameter.name]) for parameter in result)
        elif comment.returns:
            yield _wrap(f"Returns `{routine.returns}`: {self._linked(comment.returns)}")
        if comment.errors:
            yield _wrap(f"Errors: {self._linked(comment.errors)}")

    def _relation(self, name: str) -> Iterator[str]:
        relation = self.relations[name]
        yield f"### {name}\n"
        kind = "View" if relation.kind == "v" else "Table"
        yield _wrap(f"{kind} `flowguard.{name}`. {self._linked(relation.comment)}")
        yield "".join(self._parameter(column, column.comment or "") for column in self.columns[relation.oid])

    def _parameter(self, parameter: Parameter, meaning: str) -> str:
        default = ""
        if parameter.default is not None and parameter.mode == "i":
            value = re.sub(r"::[a-z ]+(\[\])?$", "", parameter.default)
            default = f", default `{value}`"
        return _item(f"`{parameter.name}` {parameter.type}{default}: {self._linked(meaning)}")

    def _roles(self) -> str:
        viewer = ", ".join(f"{name}()" for name in self.callable["flowguard_viewer"])
        items = re.split(r"(?m)^(?=`|The owner)", ROLES.format(viewer=viewer))
        return "## Roles\n\n" + "".join(_item(self._linked(item)) for item in items if item)

    def _linked(self, text: str) -> str:
        """Set names of public objects as code, with a link to their section, and all else of the schema as code."""
        text = text.replace("<", "&lt;")
        text = re.sub(
            r"\b(?:flowguard\.)?(\w+)\(\)",
            lambda match: f"[`{match[1]}()`](#{match[1]})" if match[1] in self.routines else f"`{match[0]}`",
            text,
        )
        listed = {name for _, _, names in SECTIONS for name in names}
        return re.sub(
            r"(?<![`\w(])flowguard\.(\w+)(?!\w|\()",
            lambda match: f"[`{match[0]}`](#{match[1]})" if match[1] in listed else f"`{match[0]}`",
            text,
        )


def take_apart(routine: Routine, parameters: list[Parameter]) -> Comment:
    """Take a comment apart; raises ValueError where it says nothing of a parameter, or of one that is not there."""
    known = {parameter.name for parameter in parameters}
    summary, *entries = _paragraphs(routine.comment, known)
    names: dict[str, str] = {}
    returns = errors = None
    for entry in entries:
        name, _, meaning = entry.partition(": ")
        if name == "Errors":
            errors = meaning
        elif entry.startswith("Returns "):
            returns = entry.removeprefix("Returns ")
        elif name in known:
            names[name] = meaning
        else:
            raise ValueError(f"{routine.name}: no parameter {name!r}, in {entry!r}")
    if missing := known - set(names):
        raise ValueError(f"{routine.name}: nothing is said of {', '.join(sorted(missing))}")
    return Comment(summary, names, returns, errors)


def _paragraphs(comment: str, known: set[str]) -> list[str]:
    """Join the lines of the summary, and those of each entry."""
    paragraphs: list[str] = []
    for line in comment.split("\n"):
        is_entry = line.startswith("Returns ") or line.partition(": ")[0] in known | {"Errors"}
        if paragraphs and (line.startswith("  ") or (len(paragraphs) == 1 and not is_entry)):
            paragraphs[-1] += " " + line.strip()
        else:
            paragraphs.append(line)
    return paragraphs


def anchor(title: str) -> str:
    """Give the name by which a heading can be linked to."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


def _item(text: str) -> str:
    return (
        textwrap.fill(
            text, WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        + "\n"
    )


def write() -> None:
    """Deploy the engine on a throw-away server and write the page."""
    with throwaway_server() as server:
        changes.deploy(server.dsn())
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            FILE.write_text(Reference(connection).text(), encoding="utf-8")


if __name__ == "__main__":
    write()
