"""Opens a database for a command that calls the engine, and says in plain words why the engine would not answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import psycopg
from psycopg.rows import class_row

from pyflowguard import __version__
from pyflowguard.database import Connection, Notice, NoticeHandler, connect, readable_errors, time_limit
from pyflowguard.errors import EngineMissing, EngineUnfit, StatementFailed, UsageError

OLDEST_ENGINE = (1, 0, 0)
"""The first engine that has all that this command calls; later ones of the same major version have it too."""

UNDERSTOOD = f"{'.'.join(map(str, OLDEST_ENGINE))} and later, before {OLDEST_ENGINE[0] + 1}"
"""The engines that this command understands, in words."""

_MEANT_NOTHING = frozenset({"FG104", "FG107", "FG201"})
"""What the engine refuses because of what was asked for: an argument, a link that is not registered, no such run."""

_NO_SUCH_LINK = "FG107"

_NOT_A_NAME = frozenset({"3F000", "0A000", "42601", "42602"})
"""What to_regclass() raises for a text that can be no table's name; for a table that is not there it gives NULL."""

_INSUFFICIENT_PRIVILEGE = "42501"

_OF_SCHEMA = re.compile(r"permission denied for schema (.+)$")

_WHO = """
SELECT pg_catalog.quote_ident(current_user),
       EXISTS (SELECT FROM pg_catalog.pg_roles r
                WHERE pg_catalog.pg_has_role(current_user, r.oid, 'USAGE')
                  AND (r.rolname = %s
                       OR r.oid = (SELECT n.nspowner FROM pg_catalog.pg_namespace n WHERE n.nspname = 'flowguard')))
"""

VIEWER = "flowguard_viewer"
ADMIN = "flowguard_admin"
"""The engine's roles: who has one may call what it is for, without being the owner."""

_FIND_ENGINE = """
SELECT pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_function_privilege(p.oid, 'EXECUTE')
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = 'flowguard' AND p.proname = 'version' AND p.pronargs = 0
"""

_NO_LINK = "SELECT NOT EXISTS (SELECT FROM flowguard.link)"

_LEFT_OUT = """
SELECT l.relation::pg_catalog.text AS relation, l.link_column::pg_catalog.text AS link_column, m.missing,
       CASE WHEN pg_catalog.strpos(m.missing, 'table with oid') OPERATOR(pg_catalog.>) 0
         THEN pg_catalog.format('Forget the link: run "SELECT flowguard.unguard(%1$L, %2$L)" and '
                                '"SELECT flowguard.drop_link(%1$L, %2$L)".', l.relation, l.link_column)
         ELSE pg_catalog.format('Give it its name back, or drop the rule or the link that names it and add it again; '
                                'then run "pyflowguard guard %s --link-column %s". Error FG102 tells how.',
                                l.relation, l.link_column) END AS remedy
  FROM flowguard.link l
 CROSS JOIN LATERAL flowguard._missing(l) AS m (missing)
 WHERE m.missing IS NOT NULL
 ORDER BY l.stem
"""

_FIND_TABLE = "SELECT pg_catalog.to_regclass(%s)::pg_catalog.text, pg_catalog.current_setting('search_path')"


@contextmanager
def engine(
    dsn: str,
    *,
    action: str,
    role: str | None = None,
    any_version: bool = False,
    limit: timedelta | None = None,
    on_notice: NoticeHandler | None = None,
) -> Iterator[Connection]:
    """Open an autocommit connection to a database in which the engine is deployed.

    `role` is the one of the engine's that is enough for the action, if ownership is not needed for it. `any_version`
    is for what happens in the middle of a plan, where the engine is what the changes before have made it. `limit` is
    how long the database may take to say which engine is there.
    In the block, what PostgreSQL refuses is raised as UsageError where the request itself was wrong, else as
    StatementFailed. Raises EngineMissing, EngineUnfit for a version that this command does not understand, and what
    connecting raises.
    """
    with connect(dsn, on_notice=on_notice) as connection, readable_errors(action), _plain_words(connection, role):
        with time_limit(connection, limit):
            found = connection.execute(_FIND_ENGINE).fetchone()
            if found == (True,) and not any_version:  # whoever may not ask is told so by what is asked next
                _refuse_unknown_version(connection)
        if found is None:
            raise EngineMissing(
                f'The engine is not deployed in database "{connection.info.dbname}".',
                detail="There is no function flowguard.version().",
                hint="Run `pyflowguard deploy` on it, or name another database by --dsn.",
            )
        yield connection


def _refuse_unknown_version(connection: Connection) -> None:
    row = connection.execute("SELECT flowguard.version()").fetchone()
    version = str(row[0]) if row is not None else ""
    parts = tuple(map(int, version.split("."))) if re.fullmatch(r"\d+\.\d+\.\d+", version, re.ASCII) else None
    if parts is not None and parts >= OLDEST_ENGINE and parts[0] == OLDEST_ENGINE[0]:
        return
    hint = "Use the release of pyflowguard that this database was deployed with."
    if parts is not None:
        hint = (
            f"Install that release or a later one: pip install 'pyflowguard>={version},<{parts[0] + 1}'."
            if parts > OLDEST_ENGINE
            else "Run `pyflowguard deploy` on it, which brings the engine up to date; or install that release: "
            f"pip install 'pyflowguard=={version}'."
        )
    raise EngineUnfit(
        f'The engine in database "{connection.info.dbname}" is of version {version}, which this command does not know.',
        detail=f"pyflowguard {__version__} understands {UNDERSTOOD}.",
        hint=hint,
    )


def find_table(connection: Connection, name: str) -> str:
    """Give a table's name as PostgreSQL would write it; UsageError if there is none of that name."""
    try:
        row = connection.execute(_FIND_TABLE, [name]).fetchone()
    except psycopg.Error as error:
        if error.sqlstate not in _NOT_A_NAME:
            raise
        raise UsageError(
            f"{name!r} is no name of a table: {error.diag.message_primary}.",
            hint="Write it as in SQL: table, schema.table, or quoted where it has capitals.",
        ) from error
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    if row[0] is None:
        raise UsageError(
            f'There is no table "{name}".',
            detail=f"The search_path is {row[1]}.",
            hint="Write it as schema.table, or as in SQL where it has capitals; `pyflowguard health` lists the links.",
        )
    return str(row[0])


def notice_no_link(connection: Connection, on_notice: NoticeHandler | None) -> None:
    """Tell the handler if no link is registered, so that a command for every link does not seem to have done its work.

    It is no error: there is nothing to do, and nothing that is wrong.
    """
    if on_notice is not None and connection.execute(_NO_LINK).fetchone() == (True,):
        on_notice(
            Notice(
                "NOTICE",
                f'No link is registered in database "{connection.info.dbname}": there is nothing to do or to measure.',
                hint="Register links by flowguard.add_link(), or `pyflowguard deploy` change sets that do. Another "
                "database is meant? Name it by --dsn.",
            )
        )


@dataclass(frozen=True)
class LeftOut:
    """A link that a command for every link has to leave out: what is gone of what it speaks of, and what to do."""

    relation: str
    link_column: str
    missing: str
    remedy: str

    def __str__(self) -> str:
        """Say it in a line."""
        return f"{self.relation}.{self.link_column} is left out: {self.missing} is gone."


def links_left_out(connection: Connection) -> tuple[LeftOut, ...]:
    """Give the links of which a table was dropped, or a column renamed or dropped, since they were registered."""
    with connection.cursor(row_factory=class_row(LeftOut)) as cursor:
        return tuple(cursor.execute(_LEFT_OUT).fetchall())


def notice_left_out(left_out: Iterable[LeftOut], on_notice: NoticeHandler | None) -> None:
    """Tell the handler of each link that is left out."""
    if on_notice is not None:
        for link in left_out:
            on_notice(Notice("WARNING", str(link), hint=link.remedy))


@contextmanager
def _plain_words(connection: Connection, role: str | None) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        diagnostic = error.diag
        message = f"{diagnostic.severity} {diagnostic.sqlstate}: {diagnostic.message_primary}"
        if diagnostic.sqlstate in _MEANT_NOTHING:
            hint = diagnostic.message_hint
            if diagnostic.sqlstate == _NO_SUCH_LINK and hint is not None:
                hint += " A link of another column is meant? Name it by --link-column."
            raise UsageError(message, detail=diagnostic.message_detail, hint=hint) from error
        if diagnostic.sqlstate == _INSUFFICIENT_PRIVILEGE and diagnostic.message_hint is None:
            raise StatementFailed(
                message,
                detail=diagnostic.message_detail,
                hint=_what_is_missing(connection, role, diagnostic.message_primary or ""),
            ) from error
        raise


def _what_is_missing(connection: Connection, role: str | None, message: str) -> str:
    hint = "Connect as the owner of the tables and of schema flowguard."
    if role is None:
        return hint
    who = connection.execute(_WHO, [role]).fetchone()
    assert who is not None  # noqa: S101 - a SELECT without FROM has one row
    user, has_role = who
    if not has_role:
        enough = (
            "To read figures" if role == VIEWER else "If only figures are written, or the role may write the tables,"
        )
        return f"{hint} {enough} it is enough to be given a role: GRANT {role} TO {user};"
    schema = _OF_SCHEMA.search(message)
    if schema is None:
        return f"{user} lacks a right on what the message names: let its owner grant it, or connect as the owner."
    if schema[1] == "flowguard":
        return "Call flowguard.grant_roles() as the owner of schema flowguard."
    return (
        f"{user} lacks a right on that schema of the application: GRANT USAGE ON SCHEMA {_quoted(schema[1])} TO {user};"
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
