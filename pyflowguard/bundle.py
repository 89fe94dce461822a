"""Writes a roll-out, or the way back, as one file for people who may only use psql.

A script is one transaction, or one statement that cannot run in a transaction. Into a transaction the change's verify
script and its record are put, before COMMIT: then all of it is done or nothing. The record is that of sqitch, which
pyflowguard reads too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from psycopg import sql

from pyflowguard import sqitch
from pyflowguard.changes import LOCK_KEY
from pyflowguard.database import concurrent_index, statement_offsets
from pyflowguard.errors import DependencyMissing, PlanError, UsageError
from pyflowguard.plan import Change, Plan, read_plan


def bundle_deploy(*, since: str | None = None, to: str | None = None, directory: Path | None = None) -> str:
    """Give a file that deploys the changes after `since`, which has to be deployed, up to and including `to`.

    Raises UsageError for a change that the plan does not have, or in the wrong order; PlanError for a script that is
    neither one transaction nor one statement; DependencyMissing for a change that conflicts with one before it.
    """
    plan = read_plan(directory)
    begin = 0 if since is None else plan.index_of(since) + 1
    end = len(plan.changes) if to is None else plan.index_of(to) + 1
    changes = plan.changes[begin:end]
    if not changes:
        raise UsageError("There is nothing to deploy between --from and --to.")
    plan.check_script_hashes(end)
    _refuse_conflicts(plan, end)
    parts = [
        _header(plan, changes, "Deploys", "deployed, verified and recorded"),
        _statement(_LOCK.format(key=sql.Literal(LOCK_KEY))),
        _CREATE_REGISTRY.format(
            is_missing=_text(_IS_MISSING.format(schema=sql.Literal(plan.registry))),
            create=_text(sqitch.create_statement(plan.registry, _COMMITTER)),
        ),
        _statement(_check(plan, end, required=begin)),
        _statement(sqitch.project_statement(plan, _COMMITTER)),
    ]
    for number, change in enumerate(changes, 1):
        place = f"{number}/{len(changes)}: {change.label}"
        parts.append(_section(plan, change, place, is_deployed=False, body=_deploy(plan, change)))
    return "".join([*parts, _footer("Deployed", plan.changes[end - 1])])


def bundle_revert(*, since: str | None = None, to: str | None = None, directory: Path | None = None) -> str:
    """Give a file that reverts changes, last first, from `since`, the last there may be, down to `to`, which stays.

    Raises UsageError and PlanError as bundle_deploy() does.
    """
    plan = read_plan(directory)
    end = len(plan.changes) if since is None else plan.index_of(since) + 1
    keep = 0 if to is None else plan.index_of(to) + 1
    changes = plan.changes[keep:end][::-1]
    if not changes:
        raise UsageError("There is nothing to revert between --from and --to.")
    parts = [
        _header(plan, changes, "Reverts", "reverted and recorded as reverted"),
        _statement(_LOCK.format(key=sql.Literal(LOCK_KEY))),
        _statement(_check(plan, end, required=0, last=end, reverted=changes)),
    ]
    for number, change in enumerate(changes, 1):
        place = f"{number}/{len(changes)}: {change.label}"
        parts.append(_section(plan, change, place, is_deployed=True, body=_revert(plan, change)))
    return "".join([*parts, _footer("Reverted", changes[-1])])


_COMMITTER = sqitch.SESSION_USER


def _header(plan: Plan, changes: Sequence[Change], verb: str, done: str) -> str:
    count = f"{len(changes)} change{'' if len(changes) == 1 else 's'}"
    which = changes[0].name if len(changes) == 1 else f"{changes[0].name} to {changes[-1].name}"
    return _HEADER.format(verb=verb, count=count, project=plan.project, which=which, done=done, registry=plan.registry)


def _footer(verb: str, change: Change) -> str:
    return _FOOTER.format(key=LOCK_KEY, message=_echo(f"{verb}: {change.name} is the last one."))


def _section(plan: Plan, change: Change, place: str, *, is_deployed: bool, body: str) -> str:
    """Give what is done to a change if it is deployed, or if it is not."""
    query = sql.SQL("SELECT {} (SELECT FROM {}.changes WHERE change_id = {}) AS pyflowguard_todo").format(
        sql.SQL("EXISTS" if is_deployed else "NOT EXISTS"), sql.Identifier(plan.registry), sql.Literal(change.id)
    )
    return _SECTION.format(
        place=place,
        note="".join(f"\n-- {line}" for line in change.note.splitlines()),
        query=_text(query),
        echo=_echo(f"  {'-' if is_deployed else '+'} {change.label}"),
        body=body,
    )


# --- One change


def _deploy(plan: Plan, change: Change) -> str:
    file = plan.deploy_file(change)
    script = _read(file)
    record = _statement(sqitch.deploy_statement(plan, change, plan.script_hash(change), _COMMITTER))
    verify = _read(plan.verify_file(change)) if plan.verify_file(change).is_file() else None
    commit = _commit_of(script, file)
    remark = "".join(_REMARK.format(tables=" ".join(each.tables)) for each in plan.online_remarks(change))
    index = concurrent_index(script)
    if index is not None:
        remark += _REMARK_INDEX.format(index=" ".join(index[0].splitlines()))
    if commit is not None:
        checked = "" if verify is None else _VERIFY_WITHIN.format(verify=_inner(verify, plan.verify_file(change)))
        return remark + script[:commit] + checked + record + script[commit:]
    if verify is None:
        return remark + script + record
    return remark + _VERIFY_AFTER.format(
        script=script,
        verify=_inner(verify, plan.verify_file(change)),
        record=record,
        revert=_read(plan.revert_file(change)),
        refuse=_text(
            _RAISE.format(
                message=sql.Literal(f"{change.name} does not verify, so it was reverted: see the error above")
            )
        ),
    )


def _revert(plan: Plan, change: Change) -> str:
    file = plan.revert_file(change)
    script = _read(file)
    record = _statement(sqitch.revert_statement(plan, change, _COMMITTER))
    commit = _commit_of(script, file)
    return script + record if commit is None else script[:commit] + record + script[commit:]


def _read(file: Path) -> str:
    """Read a script; it ends in a semicolon and a new line."""
    try:
        text = file.read_bytes().decode("utf-8")
    except OSError as error:
        raise PlanError(f"{file}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise PlanError(f"{file}: not UTF-8 at byte {error.start}.") from error
    text = text.rstrip() + "\n"
    return text if not statement_offsets(text) or text.endswith(";\n") else text + ";\n"


def _commit_of(script: str, file: Path) -> int | None:
    """Give the offset of the COMMIT that ends a script, None for a single statement; PlanError for anything else."""
    offsets = statement_offsets(script)
    control = [offset for offset in offsets if _CONTROL.match(script, offset)]
    if not control and len(offsets) <= 1:
        return None
    if control == [offsets[0], offsets[-1]] and _BEGIN.match(script, offsets[0]) and _COMMIT.match(script, offsets[-1]):
        return offsets[-1]
    backslash = _BACKSLASH.search(script)
    if backslash is not None:
        line = script.count("\n", 0, backslash.start(1)) + 1
        raise PlanError(
            f"{file}:{line}: {backslash[1]} is a command of psql, not SQL, so it cannot be bundled.",
            hint="Take it out: pyflowguard could not deploy it either.",
        )
    raise PlanError(
        f"{file}: neither one transaction nor one statement, so it cannot be bundled.",
        hint="Write BEGIN; … COMMIT; around it.",
    )


def _inner(verify: str, file: Path) -> str:
    """Give a verify script without the transaction that it brings."""
    offsets = statement_offsets(verify)
    control = [offset for offset in offsets if _CONTROL.match(verify, offset)]
    if not control:
        return verify
    if control == [offsets[0], offsets[-1]] and len(control) > 1 and _BEGIN.match(verify, control[0]):
        begin = verify.index(";", control[0]) + 1
        return verify[: control[0]] + verify[begin : control[1]].strip("\n") + "\n"
    raise PlanError(
        f"{file}: more than one transaction, so it cannot be bundled.", hint="Write BEGIN; … ROLLBACK; around it."
    )


_BACKSLASH = re.compile(r"^[ \t]*(\\[a-z!?]\w*)", re.MULTILINE)
_BEGIN = re.compile(r"(?:begin|start)\b", re.IGNORECASE)
_COMMIT = re.compile(r"(?:commit|end)\b", re.IGNORECASE)
_CONTROL = re.compile(
    r"(?:begin|start\s+transaction|commit|end|abort|rollback(?!(?:\s+(?:work|transaction))?\s+to\b)|prepare\s+transaction)\b",
    re.IGNORECASE,
)


# --- What has to be so before anything is done


def _refuse_conflicts(plan: Plan, end: int) -> None:
    before: set[str] = set()
    for change in plan.changes[:end]:
        for dependency in change.conflicts:
            if dependency.project is None and dependency.key.partition("@")[0] in before:
                raise DependencyMissing(f"{change.name} conflicts with {dependency}, which is deployed before it.")
        before.add(change.name)


def _check(
    plan: Plan, end: int, *, required: int, last: int | None = None, reverted: Sequence[Change] = ()
) -> sql.Composed:
    """Give the statement that refuses a database which is not as the file needs it; it takes the deployment lock.

    The first `required` changes have to be deployed, and no more than `last`.
    """
    dependencies = []
    for change in () if last is not None else plan.changes[required:end]:
        for dependency in change.requires + change.conflicts:
            if dependency.project is None:
                continue
            is_there = sqitch.dependency_is_deployed(plan, dependency)
            refused = is_there if dependency.conflict else sql.SQL("NOT {}").format(is_there)
            what = "conflicts with" if dependency.conflict else "requires"
            state = "is" if dependency.conflict else "is not"
            dependencies.append(
                _CHECK_DEPENDENCY.format(
                    id=sql.Literal(change.id),
                    refused=refused,
                    message=sql.Literal(f"{change.name} {what} {dependency}, which {state} deployed"),
                )
            )
    return _CHECK.format(
        schema=sql.Identifier(plan.registry),
        registry=sql.Literal(plan.registry),
        releases=sql.Literal(sql.Identifier(plan.registry, "releases").as_string(None)),
        version=sql.Literal(sqitch.VERSION),
        project=sql.Literal(plan.project),
        uri=sql.Literal(plan.uri),
        ids=_array(change.id for change in plan.changes),
        hashes=_array(plan.script_hash(change) for change in plan.changes[:end]) if last is None else _array(()),
        required=sql.Literal(required),
        required_name=sql.Literal(plan.changes[required - 1].name if required else ""),
        last=sql.Literal(len(plan.changes) if last is None else last),
        last_name=sql.Literal(plan.changes[(last or 1) - 1].name),
        reverted=_array(change.id for change in reverted),
        dependencies=sql.SQL("").join(dependencies),
    )


def _array(values: Iterable[str]) -> sql.Composable:
    return sqitch.text_array(values, sql.SQL(",\n    "))  # a line each, to be reviewed


# --- Text


def _text(statement: sql.Composable) -> str:
    return statement.as_string(None).strip("\n")


def _statement(statement: sql.Composable) -> str:
    text = _text(statement)
    return f"{text}\n" if text.endswith(";") else f"{text};\n"


def _echo(message: str) -> str:
    return "\\echo '" + message.replace("'", "''") + "'"


_HEADER = r"""-- {verb} {count} of {project}, {which}: one file for psql, written by `pyflowguard bundle`.
--
--   psql -X -v ON_ERROR_STOP=1 --file THIS_FILE
--
-- Not with --single-transaction: each change is {done} in a transaction of its own, but for
-- those that cannot run in one. It stops at the first error, and run again goes on after the last change that is
-- recorded; run to its end, it changes nothing any more. Names that are not qualified are found by the connection's
-- search_path. The record is sqitch's registry, schema {registry}: `pyflowguard status` and `sqitch status` read it.

\set ON_ERROR_STOP on
\set QUIET on
\set AUTOCOMMIT on
\encoding UTF8
\pset format unaligned
\pset tuples_only on

"""

_CREATE_REGISTRY = r"""
-- The registry, where there is none.
{is_missing} \gset
\if :pyflowguard_is_missing
{create}
\endif

"""

_IS_MISSING = sql.SQL("""SELECT NOT EXISTS (
  SELECT FROM pg_catalog.pg_tables WHERE schemaname = {schema} AND tablename = 'changes') AS pyflowguard_is_missing""")

_SECTION = r"""

-- ------------------------------------------------------------------------------------------------------------------
-- {place}{note}
-- ------------------------------------------------------------------------------------------------------------------
{query} \gset
\if :pyflowguard_todo
RESET ROLE;
RESET ALL;
DISCARD TEMP;
\encoding UTF8
{body}{echo}
\endif
"""

_REMARK = """-- NOTE: writers of {tables} wait while what is missing is made,
-- in one transaction; `pyflowguard deploy` makes it online, a statement at a time.
"""

_REMARK_INDEX = """-- NOTE: if this fails, an invalid index is left. Before this file is run again:
-- DROP INDEX CONCURRENTLY {index}; (in the schema of its table)
"""

_VERIFY_WITHIN = """
-- Verified before it is committed, with the settings that it would have by itself.
DO $pyflowguard$
BEGIN
  PERFORM set_config(name, reset_val, true)
     FROM pg_catalog.pg_settings
    WHERE source = 'session' AND setting IS DISTINCT FROM reset_val
      AND name <> 'client_encoding' AND name NOT LIKE 'transaction%';
END;
$pyflowguard$;
SAVEPOINT pyflowguard_verify;
{verify}ROLLBACK TO SAVEPOINT pyflowguard_verify;

"""

_VERIFY_AFTER = r"""{script}
-- Verified after it, since it cannot run in a transaction; what does not verify is reverted.
\set pyflowguard_verified false
\set ON_ERROR_STOP off
BEGIN;
{verify}SELECT true AS pyflowguard_verified \gset
ROLLBACK;
\set ON_ERROR_STOP on
\if :pyflowguard_verified
{record}\else
{revert}{refuse};
\endif
"""

_RAISE = sql.SQL("DO $pyflowguard$ BEGIN RAISE EXCEPTION USING MESSAGE = {message}; END; $pyflowguard$")

_FOOTER = r"""
DO $pyflowguard$ BEGIN PERFORM pg_catalog.pg_advisory_unlock({key}); END; $pyflowguard$;
{message}
"""

_CHECK_DEPENDENCY = sql.SQL("""
  IF {id} <> ALL (v_deployed) AND {refused} THEN
    RAISE EXCEPTION USING MESSAGE = {message};
  END IF;""")

_LOCK = sql.SQL("""-- Nobody else may be at work.
DO $pyflowguard$
BEGIN
  IF NOT pg_catalog.pg_try_advisory_lock({key}) THEN
    RAISE EXCEPTION 'another deployer is at work in this database' USING HINT = 'Wait for it, and run this again.';
  END IF;
  IF NOT pg_catalog.pg_try_advisory_lock({key}, 1) THEN
    RAISE EXCEPTION 'the script of a deployer that is gone is still at work in this database'
      USING HINT = 'Wait for it, and run this again.';
  END IF;
  PERFORM pg_catalog.pg_advisory_unlock({key}, 1);
END;
$pyflowguard$
""")

_CHECK = sql.SQL("""
-- What is deployed has to be the beginning of this plan.
DO $pyflowguard$
DECLARE
  v_plan text[] := {ids};
  v_hashes text[] := {hashes};
  v_deployed text[];
  v_name text;
BEGIN
  IF to_regclass({releases}) IS NULL OR (SELECT max(version)::numeric::text FROM {schema}.releases) <> {version} THEN
    RAISE EXCEPTION 'there is no registry of sqitch of version % in schema %', {version}, {registry};
  END IF;
  IF EXISTS (SELECT FROM {schema}.projects AS p WHERE (p.project = {project}) <> (p.uri IS NOT DISTINCT FROM {uri})
                AND (p.project = {project} OR p.uri = {uri})) THEN
    RAISE EXCEPTION 'the registry has another project under this name or this URI';
  END IF;
  IF to_regclass('pyflowguard.attempt') IS NOT NULL THEN
    SELECT a.change INTO v_name FROM pyflowguard.attempt AS a WHERE a.project = {project} LIMIT 1;
    IF FOUND THEN
      RAISE EXCEPTION 'a deployer ended while it was at work on %', v_name USING HINT = 'Run pyflowguard deploy first.';
    END IF;
    SELECT d.change INTO v_name
      FROM pyflowguard.deployment AS d
     WHERE d.project = {project}
       AND NOT EXISTS (SELECT FROM {schema}.changes AS c WHERE c.change_id = d.change_id)
       AND NOT EXISTS (SELECT FROM {schema}.events AS e
                        WHERE e.change_id = d.change_id AND e.event = 'revert' AND e.committed_at > d.deployed_at)
     ORDER BY d.deployed_at DESC, d.change_id LIMIT 1;
    IF FOUND THEN
      RAISE EXCEPTION 'pyflowguard has deployed %, which the registry does not have', v_name
        USING HINT = 'Run pyflowguard deploy --to ' || v_name || ' first.';
    END IF;
  END IF;
  SELECT COALESCE(array_agg(c.change_id ORDER BY c.committed_at), '{{}}') INTO v_deployed
    FROM {schema}.changes AS c WHERE c.project = {project};
  FOR i IN 1 .. cardinality(v_deployed) LOOP
    SELECT c.change INTO v_name FROM {schema}.changes AS c WHERE c.change_id = v_deployed[i];
    IF v_deployed[i] IS DISTINCT FROM v_plan[i] THEN
      RAISE EXCEPTION 'the database and the plan diverge at change %: the database has % (%)', i, v_name,
        left(v_deployed[i], 10) USING HINT = 'Bundle the plan that this database was deployed from.';
    END IF;
    IF EXISTS (SELECT FROM {schema}.changes AS c
                WHERE c.change_id = v_deployed[i] AND c.script_hash <> v_hashes[i]) THEN
      RAISE EXCEPTION 'the deploy script of % has been edited since it was deployed', v_name;
    END IF;
  END LOOP;
  IF cardinality(v_deployed) < {required} THEN
    RAISE EXCEPTION '% has to be deployed before', {required_name};
  END IF;
  IF cardinality(v_deployed) > {last} THEN
    RAISE EXCEPTION '% is deployed, which comes after %', v_name, {last_name}
      USING HINT = 'Bundle the way back from there, or from the end.';
  END IF;
  SELECT r.project || ':' || r.change INTO v_name
    FROM {schema}.dependencies AS d JOIN {schema}.changes AS r USING (change_id)
   WHERE d.dependency_id = ANY ({reverted}) AND r.change_id <> ALL ({reverted}) LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION '% requires a change that is to be reverted', v_name USING HINT = 'Revert that first.';
  END IF;{dependencies}
END;
$pyflowguard$
""")
