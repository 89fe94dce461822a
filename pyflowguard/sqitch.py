"""Reads and writes sqitch's registry, so that sqitch and this command take each other's changes for their own.

The registry lies in the schema that sqitch.conf names, `sqitch` where it names none. A row of `changes` is a deployed
change, in the order of `committed_at`; `events` tells all that happened. What is written is what sqitch 1.3 writes, in
the layout of its registry 1.1. Each statement is composed whole, so that it can be sent, or written into a file.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from pyflowguard.database import Connection, Notice, NoticeHandler
from pyflowguard.errors import DependencyMissing, PlanDiverged, RegistryUnfit
from pyflowguard.plan import Change, Dependency, Plan

VERSION = "1.1"
"""The layout of the registry that is read and written."""


@dataclass(frozen=True)
class Deployed:
    """A change that the registry has as deployed; of an old one, the hash is not known."""

    change_id: str
    change: str
    script_hash: str | None
    committed_at: datetime
    committer: str


@dataclass(frozen=True)
class History:
    """What the registry says of a project: what is deployed, in order, and when changes were last reverted, by id."""

    deployed: tuple[Deployed, ...] = ()
    reverted_at: Mapping[str, datetime] = field(default_factory=dict)

    def is_reverted_since(self, change_id: str, moment: datetime) -> bool:
        """Whether the change was reverted after that moment."""
        reverted_at = self.reverted_at.get(change_id)
        return reverted_at is not None and reverted_at > moment


@dataclass(frozen=True)
class Committer:
    """Who deploys or reverts, as SQL: strings of ours, or what the server knows."""

    name: sql.Composable
    email: sql.Composable

    @classmethod
    def of_environment(cls) -> Committer:
        """Give the one that sqitch would take from the environment, else the user of the operating system."""
        user = os_user()
        return cls(
            sql.Literal(os.environ.get("SQITCH_FULLNAME") or user),
            sql.Literal(os.environ.get("SQITCH_EMAIL") or f"{user}@{socket.gethostname()}"),
        )


SESSION_USER = Committer(sql.SQL("session_user"), sql.SQL("session_user || '@' || current_database()"))
"""The role that runs a file."""


def os_user() -> str:
    """Name the user of the operating system, by number if it has no name."""
    with suppress(KeyError, OSError):  # no entry in the password file, as in many a container
        return getpass.getuser()
    return str(os.getuid())


def read(connection: Connection, plan: Plan, project: str | None = None) -> History:
    """Read what the registry says of the plan's project, or another one; nothing where there is no registry.

    Raises RegistryUnfit for one that may not be read, or is of another version, and PlanDiverged for a project with
    another URI.
    """
    schema = sql.Identifier(plan.registry)
    access = _read_access(connection, plan.registry)
    if not access.exists:
        return History()
    if not access.is_readable:
        raise _unreadable(connection, plan, "SELECT")
    _check_version(connection, plan.registry, has_releases=access.has_releases)
    if project is None:
        project = plan.project
        _check_uri(connection, plan)
    changes = connection.execute(_READ_CHANGES.format(schema=schema), [project]).fetchall()
    reverted = connection.execute(_READ_REVERTED.format(schema=schema), [project]).fetchall()
    return History(tuple(Deployed(*row) for row in changes), dict(reverted))


def is_deployed(connection: Connection, plan: Plan, dependency: Dependency) -> bool:
    """Whether the registry has what a change requires, or conflicts with. Raises RegistryUnfit as read() does."""
    access = _read_access(connection, plan.registry)
    if not access.exists:
        return False
    if not access.is_readable:
        raise _unreadable(connection, plan, "SELECT")
    (found,) = _one(connection.execute(sql.SQL("SELECT {}").format(dependency_is_deployed(plan, dependency))))
    return bool(found)


class Mirror:
    """The registry, open for writing on a connection that records what happens to the changes of a plan."""

    def __init__(self, connection: Connection, plan: Plan) -> None:
        """Take a registry that is there and has the project: see open_mirror()."""
        self.connection = connection
        self.plan = plan

    def deployed(
        self, change: Change, script_hash: str, *, when: datetime | None = None, by: str | None = None
    ) -> datetime:
        """Write down that a change is deployed, unless it is; by default by this user, now. Gives the time written."""
        committer = Committer.of_environment()
        if by is not None:
            committer = Committer(sql.Literal(by), sql.Literal(f"{by}@{socket.gethostname()}"))
        self.connection.execute(deploy_statement(self.plan, change, script_hash, committer, when))
        query = _READ_ONE.format(schema=sql.Identifier(self.plan.registry))
        committed_at: datetime = _one(self.connection.execute(query, [change.id]))[0]
        return committed_at

    def reverted(self, change: Change) -> None:
        """Write down that a change is reverted, unless it is."""
        self.connection.execute(revert_statement(self.plan, change, Committer.of_environment()))

    def failed(self, change: Change) -> None:
        """Write down that deploying a change failed."""
        self.connection.execute(fail_statement(self.plan, change, Committer.of_environment()))

    def edited(self, change: Change, script_hash: str) -> None:
        """Write down another script for a deployed change."""
        query = _UPDATE_HASH.format(schema=sql.Identifier(self.plan.registry))
        self.connection.execute(query, [script_hash, change.id])

    def tagged(self, change: Change) -> None:
        """Write down the tags that the plan gained after the change was deployed."""
        if change.tags:
            self.connection.execute(tag_statement(self.plan, change, Committer.of_environment()))

    def check_tags(self, changes: Sequence[Change]) -> None:
        """Raise PlanDiverged if a tag of these is recorded as another one: at another change, or of another time."""
        query = _READ_TAGS.format(schema=sql.Identifier(self.plan.registry))
        recorded = {tag: (tag_id, at) for tag, tag_id, at in self.connection.execute(query, [self.plan.project])}
        for change in changes:
            for tag in change.tags:
                tag_id, at = recorded.get(f"@{tag.name}", (tag.id, ""))
                if tag_id != tag.id:
                    raise PlanDiverged(
                        f"sqitch's registry has another tag @{tag.name}, at {at}; the plan has it at {change.name}.",
                        hint="Nothing was changed. Use the plan that this database was deployed from.",
                    )

    def check_dependents(self, changes: Iterable[Change]) -> None:
        """Raise DependencyMissing if a change that stays requires one of these."""
        query = _READ_DEPENDENTS.format(schema=sql.Identifier(self.plan.registry))
        ids = [change.id for change in changes]
        row = self.connection.execute(query, [ids, ids]).fetchone()
        if row is not None:
            raise DependencyMissing(
                f"{row[0]} is required by {row[1]}:{row[2]}, which is deployed.",
                hint=f"Revert {row[1]}:{row[2]} first.",
            )


def check_readable(connection: Connection, plan: Plan) -> None:
    """Raise RegistryUnfit for a registry that may not be read; the hint gives what it takes to write it too."""
    access = _read_access(connection, plan.registry)
    if access.exists and not access.is_readable:
        raise _unreadable(connection, plan, _TO_WRITE)


def open_mirror(connection: Connection, plan: Plan, on_notice: NoticeHandler | None) -> Mirror | None:
    """Make the registry where it is missing, enter the project, and give it for writing.

    Where this role may not make it, or may not write it, a notice says so and None comes back. Raises RegistryUnfit if
    it may not be written and holds the project, or may not be read, so that nobody knows: the two records would part.
    """
    access = _read_access(connection, plan.registry)
    if not access.exists and access.may_create:
        connection.execute(create_statement(plan.registry, Committer.of_environment()))
        access = _read_access(connection, plan.registry)
    role, schema, database = _one(connection.execute(_QUOTED, [plan.registry]))
    if access.exists and not access.is_writable:
        grant = _grant(role, schema, _TO_WRITE)
        if read(connection, plan).deployed:
            raise RegistryUnfit(
                f"sqitch's registry in schema {schema} has {plan.project}, and role {role} may not write it.",
                hint=grant,
            )
        _tell(on_notice, f"sqitch will not know what is done here: role {role} may not write its registry.", grant)
        return None
    if not access.exists:
        _tell(
            on_notice,
            f"sqitch will not know what is done here: role {role} may not make its registry, schema {schema}.",
            f"CREATE SCHEMA {schema} AUTHORIZATION {role}; or GRANT CREATE ON DATABASE {database} TO {role};",
        )
        return None
    _check_version(connection, plan.registry, has_releases=access.has_releases)
    _check_uri(connection, plan)
    connection.execute(project_statement(plan, Committer.of_environment()))
    return Mirror(connection, plan)


def _unreadable(connection: Connection, plan: Plan, privileges: str) -> RegistryUnfit:
    """Give what to raise where the registry may hold the project, and this role may not look."""
    role, schema, _ = _one(connection.execute(_QUOTED, [plan.registry]))
    return RegistryUnfit(
        f"There is a registry of sqitch in schema {schema} which role {role} may not read, so what is deployed of "
        f"{plan.project} is not known.",
        hint=_grant(role, schema, privileges),
    )


_TO_WRITE = "SELECT, INSERT, UPDATE, DELETE"


def _grant(role: str, schema: str, privileges: str) -> str:
    return f"GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT {privileges} ON ALL TABLES IN SCHEMA {schema} TO {role};"


def _tell(on_notice: NoticeHandler | None, message: str, hint: str) -> None:
    if on_notice is not None:
        on_notice(Notice("NOTICE", message, hint=hint))


def _one(cursor: psycopg.Cursor[tuple[Any, ...]]) -> tuple[Any, ...]:
    (row,) = cursor.fetchall()
    return row


# --- What is there, and whether it is fit


@dataclass(frozen=True)
class _Access:
    exists: bool
    has_releases: bool
    is_readable: bool
    is_writable: bool
    may_create: bool


def _read_access(connection: Connection, schema: str) -> _Access:
    return _Access(*_one(connection.execute(_READ_ACCESS, {"schema": schema})))


def _check_version(connection: Connection, registry: str, *, has_releases: bool) -> None:
    version = None
    if has_releases:
        (version,) = _one(connection.execute(_READ_VERSION.format(schema=sql.Identifier(registry))))
    if version != VERSION:
        raise RegistryUnfit(
            f"sqitch's registry in schema {registry} is of version {version or '1.0 or older'}, not {VERSION}.",
            hint="Run `sqitch upgrade`."
            if version is None or version < VERSION
            else "Use the release of pyflowguard that was made for that sqitch.",
        )


def _check_uri(connection: Connection, plan: Plan) -> None:
    """Raise PlanDiverged if the registry has another project under the name, or the URI, of this one."""
    query = _READ_PROJECTS.format(schema=sql.Identifier(plan.registry))
    for project, uri in connection.execute(query, [plan.project, plan.uri]).fetchall():
        if (project, uri) != (plan.project, plan.uri):
            raise PlanDiverged(
                f"sqitch's registry has project {project} with {uri or 'no URI'}; the plan has {plan.project} with "
                f"{plan.uri or 'no URI'}.",
                hint="Nothing was changed. Use the plan that this database was deployed from.",
            )


_READ_ACCESS = """
SELECT COALESCE(bool_or(c.relname = 'changes'), false),
       COALESCE(bool_or(c.relname = 'releases'), false),
       COALESCE(bool_and(pg_catalog.has_schema_privilege(n.oid, 'USAGE'))
                AND bool_and(pg_catalog.has_table_privilege(c.oid, 'SELECT')), false),
       COALESCE(bool_and(pg_catalog.has_schema_privilege(n.oid, 'USAGE'))
                AND bool_and(pg_catalog.has_table_privilege(c.oid, w.privilege)), false),
       CASE WHEN pg_catalog.to_regnamespace(pg_catalog.quote_ident(%(schema)s)) IS NULL
            THEN pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
            ELSE pg_catalog.has_schema_privilege(%(schema)s, 'CREATE')
                 AND pg_catalog.has_schema_privilege(%(schema)s, 'USAGE') END
  FROM pg_catalog.pg_namespace AS n
  JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relkind = 'r'
  JOIN (VALUES ('releases', 'SELECT'), ('projects', 'SELECT'), ('projects', 'INSERT'),
               ('changes', 'SELECT'), ('changes', 'INSERT'), ('changes', 'UPDATE'), ('changes', 'DELETE'),
               ('tags', 'SELECT'), ('tags', 'INSERT'), ('tags', 'DELETE'),
               ('dependencies', 'SELECT'), ('dependencies', 'INSERT'), ('dependencies', 'DELETE'),
               ('events', 'SELECT'), ('events', 'INSERT')) AS w (relation, privilege) ON w.relation = c.relname
 WHERE n.nspname = %(schema)s
"""

_QUOTED = """
SELECT pg_catalog.quote_ident(current_user), pg_catalog.quote_ident(%s), pg_catalog.quote_ident(current_database())
"""

_READ_VERSION = sql.SQL("SELECT max(version)::numeric::text FROM {schema}.releases")

_READ_PROJECTS = sql.SQL("SELECT project, uri FROM {schema}.projects WHERE project = %s OR uri = %s")

_READ_CHANGES = sql.SQL("""
SELECT change_id, change, NULLIF(script_hash, change_id), committed_at, committer_name
  FROM {schema}.changes WHERE project = %s ORDER BY committed_at
""")

_READ_ONE = sql.SQL("SELECT committed_at FROM {schema}.changes WHERE change_id = %s")

_READ_REVERTED = sql.SQL("""
SELECT change_id, max(committed_at) FROM {schema}.events WHERE project = %s AND event = 'revert' GROUP BY change_id
""")

_READ_TAGS = sql.SQL("""
SELECT t.tag, t.tag_id, c.change
  FROM {schema}.tags AS t JOIN {schema}.changes AS c USING (change_id) WHERE t.project = %s
""")

_READ_DEPENDENTS = sql.SQL("""
SELECT required.change, requiring.project, requiring.change
  FROM {schema}.dependencies AS d
  JOIN {schema}.changes AS required ON required.change_id = d.dependency_id
  JOIN {schema}.changes AS requiring ON requiring.change_id = d.change_id
 WHERE d.dependency_id = ANY (%s) AND d.change_id <> ALL (%s)
 ORDER BY requiring.committed_at DESC LIMIT 1
""")

_UPDATE_HASH = sql.SQL("UPDATE {schema}.changes SET script_hash = %s WHERE change_id = %s")


# --- Statements


def create_statement(registry: str, committer: Committer) -> sql.Composed:
    """Give what makes the registry, one transaction; sqitch's own DDL makes the same tables."""
    schema = sql.Identifier(registry)
    return _CREATE.format(
        schema=schema,
        name=sql.Literal(schema.as_string(None)),
        version=sql.Literal(VERSION),
        committer=committer.name,
        email=committer.email,
    )


def project_statement(plan: Plan, committer: Committer) -> sql.Composed:
    """Give what enters the project, unless it is there."""
    return _INSERT_PROJECT.format(**_names(plan, committer), uri=sql.Literal(plan.uri))


def deploy_statement(
    plan: Plan, change: Change, script_hash: str, committer: Committer, when: datetime | None = None
) -> sql.Composed:
    """Give what records a change as deployed, with tags, dependencies and event, unless it is; one statement.

    Its time is `when`, or now, but later than that of anything that happened before: sqitch goes by that order.
    """
    names = {**_names(plan, committer), **_planned(change), "hash": sql.Literal(script_hash)}
    parts = [_INSERT_CHANGE.format(**names, time=_time(plan, when))]
    if change.tags:
        parts.append(_INSERT_TAGS.format(**names, tags=_tag_rows(change)))
    if change.requires or change.conflicts:
        rows = [_dependency_row(plan, dependency) for dependency in change.requires + change.conflicts]
        parts.append(_INSERT_DEPENDENCIES.format(**names, dependencies=sql.SQL(",\n              ").join(rows)))
    return sql.Composed([sql.SQL("WITH "), sql.SQL(", ").join(parts), _LOG_DEPLOY.format(**names)])


def revert_statement(plan: Plan, change: Change, committer: Committer) -> sql.Composed:
    """Give what records a change as reverted, unless it is; one statement."""
    return _REVERT.format(**_names(plan, committer), **_planned(change), time=_time(plan, None))


def fail_statement(plan: Plan, change: Change, committer: Committer) -> sql.Composed:
    """Give what records that deploying a change failed."""
    return _LOG_FAIL.format(**_names(plan, committer), **_planned(change), time=_time(plan, None))


def tag_statement(plan: Plan, change: Change, committer: Committer) -> sql.Composed:
    """Give what records the tags of a deployed change that are not recorded yet."""
    return _INSERT_NEW_TAGS.format(**_names(plan, committer), **_planned(change), tags=_tag_rows(change))


def dependency_is_deployed(plan: Plan, dependency: Dependency) -> sql.Composable:
    """Give an expression that tells whether the registry has what a change requires, or conflicts with."""
    return sql.SQL("({} IS NOT NULL)").format(_find(plan, dependency))


def _names(plan: Plan, committer: Committer) -> dict[str, sql.Composable]:
    return {
        "schema": sql.Identifier(plan.registry),
        "project": sql.Literal(plan.project),
        "committer": committer.name,
        "email": committer.email,
    }


def _name_and_email(planner: str) -> tuple[str, str]:
    name, _, email = planner.removesuffix(">").rpartition(" <")
    return name, email


def _planned(change: Change) -> dict[str, sql.Composable]:
    planner, email = _name_and_email(change.planner)
    return {
        "id": sql.Literal(change.id),
        "change": sql.Literal(change.name),
        "note": sql.Literal(change.note),
        "planned_at": sql.Literal(change.planned_at.isoformat()),
        "planner": sql.Literal(planner),
        "planner_email": sql.Literal(email),
        "requires": text_array(change.requires),
        "conflicts": text_array(change.conflicts),
        "event_tags": text_array(f"@{tag.name}" for tag in change.tags),
    }


_COMMA = sql.SQL(", ")


def text_array(values: Iterable[object], separator: sql.SQL = _COMMA) -> sql.Composable:
    """Give an array of texts, as SQL."""
    return sql.SQL("ARRAY[{}]::text[]").format(separator.join(sql.Literal(str(value)) for value in values))


def _time(plan: Plan, when: datetime | None) -> sql.Composable:
    moment = sql.SQL("clock_timestamp()") if when is None else sql.Literal(when.isoformat())
    return _NEXT_MOMENT.format(schema=sql.Identifier(plan.registry), project=sql.Literal(plan.project), moment=moment)


def _tag_rows(change: Change) -> sql.Composable:
    rows = []
    for tag in change.tags:
        values = (tag.id, f"@{tag.name}", tag.note, tag.planned_at.isoformat(), *_name_and_email(tag.planner))
        rows.append(sql.SQL("({}, {}, {}, {}, {}, {})").format(*map(sql.Literal, values)))
    return sql.SQL(",\n              ").join(rows)


def _dependency_row(plan: Plan, dependency: Dependency) -> sql.Composable:
    kind, found = ("conflict", sql.SQL("NULL")) if dependency.conflict else ("require", _find(plan, dependency))
    return sql.SQL("({}, {}, {})").format(sql.Literal(kind), sql.Literal(str(dependency)), found)


def _find(plan: Plan, dependency: Dependency) -> sql.Composable:
    """Give an expression for the id of the deployed change that a dependency means; as sqitch finds it."""
    name, _, tag = dependency.key.partition("@")
    template = _FIND_BY_NAME_AND_TAG if name and tag else _FIND_BY_TAG if tag else _FIND_BY_NAME
    if re.fullmatch(r"[0-9a-f]{40}", name):
        template = _FIND_BY_ID
    return template.format(
        schema=sql.Identifier(plan.registry),
        project=sql.Literal(dependency.project or plan.project),
        name=sql.Literal(name),
        tag=sql.Literal(f"@{tag}"),
    )


_NEXT_MOMENT = sql.SQL("""
    (SELECT GREATEST({moment}, max(e.committed_at) + interval '1 microsecond')
       FROM {schema}.events AS e WHERE e.project = {project})""")

_FIND_BY_ID = sql.SQL("""
      (SELECT f.change_id FROM {schema}.changes AS f WHERE f.change_id = {name})""")

_FIND_BY_NAME = sql.SQL("""
      (SELECT f.change_id FROM {schema}.changes AS f
        WHERE f.project = {project} AND f.change = {name} ORDER BY f.committed_at LIMIT 1)""")

_FIND_BY_TAG = sql.SQL("""
      (SELECT f.change_id FROM {schema}.tags AS f WHERE f.project = {project} AND f.tag = {tag})""")

_FIND_BY_NAME_AND_TAG = sql.SQL("""
      (SELECT f.change_id FROM {schema}.changes AS f JOIN {schema}.tags AS t
           ON t.project = f.project AND t.tag = {tag} AND t.committed_at >= f.committed_at
        WHERE f.project = {project} AND f.change = {name} ORDER BY f.committed_at DESC LIMIT 1)""")

_INSERT_PROJECT = sql.SQL("""
INSERT INTO {schema}.projects (project, uri, creator_name, creator_email)
VALUES ({project}, {uri}, {committer}, {email})
ON CONFLICT DO NOTHING
""")

_INSERT_CHANGE = sql.SQL("""deployed AS (
  INSERT INTO {schema}.changes (change_id, script_hash, change, project, note, committed_at,
    committer_name, committer_email, planned_at, planner_name, planner_email)
  VALUES ({id}, {hash},
    {change}, {project}, {note},{time},
    {committer}, {email},
    {planned_at}, {planner}, {planner_email})
  ON CONFLICT (change_id) DO NOTHING
  RETURNING *
)""")

_INSERT_TAGS = sql.SQL("""tagged AS (
  INSERT INTO {schema}.tags (tag_id, tag, project, change_id, note, committed_at,
    committer_name, committer_email, planned_at, planner_name, planner_email)
  SELECT t.tag_id, t.tag, d.project, d.change_id, t.note, d.committed_at,
         d.committer_name, d.committer_email, t.planned_at::timestamptz, t.planner, t.email
    FROM deployed AS d
   CROSS JOIN (VALUES {tags}) AS t (tag_id, tag, note, planned_at, planner, email)
)""")

_INSERT_DEPENDENCIES = sql.SQL("""dependent AS (
  INSERT INTO {schema}.dependencies (change_id, type, dependency, dependency_id)
  SELECT d.change_id, t.type, t.dependency, t.dependency_id
    FROM deployed AS d
   CROSS JOIN (VALUES {dependencies}) AS t (type, dependency, dependency_id)
   WHERE t.type = 'conflict' OR t.dependency_id IS NOT NULL
)""")

_LOG_DEPLOY = sql.SQL("""
INSERT INTO {schema}.events (event, change_id, change, project, note, requires, conflicts, tags, committed_at,
  committer_name, committer_email, planned_at, planner_name, planner_email)
SELECT 'deploy', change_id, change, project, note,
       {requires}, {conflicts}, {event_tags}, committed_at,
       committer_name, committer_email, planned_at, planner_name, planner_email
  FROM deployed
""")

_LOG_FAIL = sql.SQL("""
INSERT INTO {schema}.events (event, change_id, change, project, note, requires, conflicts, tags, committed_at,
  committer_name, committer_email, planned_at, planner_name, planner_email)
VALUES ('fail', {id}, {change}, {project}, {note}, {requires}, {conflicts}, {event_tags}, {time},
  {committer}, {email}, {planned_at}, {planner}, {planner_email})
""")

_INSERT_NEW_TAGS = sql.SQL("""
INSERT INTO {schema}.tags (tag_id, tag, project, change_id, note,
  committer_name, committer_email, planned_at, planner_name, planner_email)
SELECT t.tag_id, t.tag, {project}, {id}, t.note,
       {committer}, {email}, t.planned_at::timestamptz, t.planner, t.email
  FROM (VALUES {tags}) AS t (tag_id, tag, note, planned_at, planner, email)
ON CONFLICT (tag_id) DO NOTHING
""")

_REVERT = sql.SQL("""
WITH untagged AS (
  DELETE FROM {schema}.tags WHERE change_id = {id} RETURNING tag
), freed AS (
  DELETE FROM {schema}.dependencies WHERE change_id = {id} RETURNING type, dependency
), reverted AS (
  DELETE FROM {schema}.changes WHERE change_id = {id} RETURNING *
)
INSERT INTO {schema}.events (event, change_id, change, project, note, requires, conflicts, tags, committed_at,
  committer_name, committer_email, planned_at, planner_name, planner_email)
SELECT 'revert', change_id, change, project, note,
       ARRAY(SELECT dependency FROM freed WHERE type = 'require'),
       ARRAY(SELECT dependency FROM freed WHERE type = 'conflict'),
       ARRAY(SELECT tag FROM untagged), {time},
       {committer}, {email}, planned_at, planner_name, planner_email
  FROM reverted
""")

_CREATE = sql.SQL("""
BEGIN;
DO $create$
BEGIN
  IF to_regnamespace({name}) IS NULL THEN  -- else IF NOT EXISTS would still want the right to create one
    CREATE SCHEMA {schema};
    COMMENT ON SCHEMA {schema} IS 'Which changes are deployed: the registry of sqitch, which pyflowguard keeps too.';
  END IF;
END;
$create$;

CREATE TABLE {schema}.releases (
  version         real        PRIMARY KEY,
  installed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  installer_name  text        NOT NULL,
  installer_email text        NOT NULL
);
COMMENT ON TABLE {schema}.releases IS 'Versions of this layout.';

CREATE TABLE {schema}.projects (
  project       text        PRIMARY KEY,
  uri           text        UNIQUE,
  created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  creator_name  text        NOT NULL,
  creator_email text        NOT NULL
);
COMMENT ON TABLE {schema}.projects IS 'Projects, each with a plan of its own.';

CREATE TABLE {schema}.changes (
  change_id       text        PRIMARY KEY,
  script_hash     text,
  change          text        NOT NULL,
  project         text        NOT NULL REFERENCES {schema}.projects (project) ON UPDATE CASCADE,
  note            text        NOT NULL DEFAULT '',
  committed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  committer_name  text        NOT NULL,
  committer_email text        NOT NULL,
  planned_at      timestamptz NOT NULL,
  planner_name    text        NOT NULL,
  planner_email   text        NOT NULL,
  UNIQUE (project, script_hash)
);
COMMENT ON TABLE {schema}.changes IS 'Changes that are deployed, in the order of committed_at.';

CREATE TABLE {schema}.tags (
  tag_id          text        PRIMARY KEY,
  tag             text        NOT NULL,
  project         text        NOT NULL REFERENCES {schema}.projects (project) ON UPDATE CASCADE,
  change_id       text        NOT NULL REFERENCES {schema}.changes (change_id) ON UPDATE CASCADE,
  note            text        NOT NULL DEFAULT '',
  committed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  committer_name  text        NOT NULL,
  committer_email text        NOT NULL,
  planned_at      timestamptz NOT NULL,
  planner_name    text        NOT NULL,
  planner_email   text        NOT NULL,
  UNIQUE (project, tag)
);
COMMENT ON TABLE {schema}.tags IS 'Tags of deployed changes.';

CREATE TABLE {schema}.dependencies (
  change_id     text NOT NULL REFERENCES {schema}.changes (change_id) ON UPDATE CASCADE ON DELETE CASCADE,
  type          text NOT NULL,
  dependency    text NOT NULL,
  dependency_id text REFERENCES {schema}.changes (change_id) ON UPDATE CASCADE
    CONSTRAINT dependencies_check CHECK (
      (type = 'require' AND dependency_id IS NOT NULL) OR (type = 'conflict' AND dependency_id IS NULL)
    ),
  PRIMARY KEY (change_id, dependency)
);
COMMENT ON TABLE {schema}.dependencies IS 'What deployed changes require, and conflict with.';

CREATE TABLE {schema}.events (
  event           text        NOT NULL
    CONSTRAINT events_event_check CHECK (event IN ('deploy', 'revert', 'fail', 'merge')),
  change_id       text        NOT NULL,
  change          text        NOT NULL,
  project         text        NOT NULL REFERENCES {schema}.projects (project) ON UPDATE CASCADE,
  note            text        NOT NULL DEFAULT '',
  requires        text[]      NOT NULL DEFAULT '{{}}',
  conflicts       text[]      NOT NULL DEFAULT '{{}}',
  tags            text[]      NOT NULL DEFAULT '{{}}',
  committed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  committer_name  text        NOT NULL,
  committer_email text        NOT NULL,
  planned_at      timestamptz NOT NULL,
  planner_name    text        NOT NULL,
  planner_email   text        NOT NULL,
  PRIMARY KEY (change_id, committed_at)
);
COMMENT ON TABLE {schema}.events IS 'All that happened: changes deployed, reverted, and failed.';

INSERT INTO {schema}.releases (version, installer_name, installer_email) VALUES ({version}, {committer}, {email});
COMMIT;
""")
