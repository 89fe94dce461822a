"""Defects of each kind that flowguard.doctor() knows, to be planted in the small application, and what mends them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from engine.postgres import Connection, run
from psycopg.rows import dict_row


@dataclass(frozen=True)
class Defect:
    """A defect: what plants it, what is found of it, and how grave that is.

    `beside` are kinds that come with it. `by_superuser`: it takes one to plant it; `mended_by_superuser`: to mend it.
    `is_ddl`: an event trigger can see it. `mend` is what mends it where the remedy is to look.
    """

    name: str
    plant: str
    level: str = "ERROR"
    safe: bool = True
    beside: frozenset[str] = frozenset()
    by_superuser: bool = False
    mended_by_superuser: bool = False
    is_ddl: bool = True
    mend: str | None = None


def to_the_view(statement: str) -> str:
    """Give the SQL that does something to the view of the filter: %1$s, of which %2$s is the opposite."""
    return (
        f"DO $$BEGIN EXECUTE (SELECT format('{statement}', "  # noqa: S608  ours
        "c.oid::regclass, replace(pg_get_viewdef(c.oid), '<>', '=')) FROM pg_class c "
        "WHERE c.relkind = 'v' AND c.relname LIKE 'probe_flow_source_%'); END$$"
    )


FILL = "child_flow_fill"
INSERT = '"~flowguard_child_flow_insert"'
TENANT_KEY = "flowguard_child_flow_tenant_fkey"

DEFECTS: dict[str, Defect] = {
    "a trigger is dropped": Defect("trigger_missing", f"DROP TRIGGER {INSERT} ON child"),
    "a trigger is disabled": Defect("trigger_disabled", f"ALTER TABLE child DISABLE TRIGGER {INSERT}"),
    "the application's triggers and ours are disabled": Defect(
        "trigger_disabled", "ALTER TABLE child DISABLE TRIGGER USER"
    ),
    "a trigger fires on replicas only": Defect("trigger_firing", f"ALTER TABLE child ENABLE REPLICA TRIGGER {INSERT}"),
    "a trigger fires always": Defect(
        "trigger_firing", f"ALTER TABLE child ENABLE ALWAYS TRIGGER {INSERT}", level="WARN"
    ),
    "a trigger is replaced": Defect(
        "trigger_replaced",
        f"CREATE OR REPLACE TRIGGER {INSERT} BEFORE INSERT ON child FOR EACH ROW WHEN (NEW.id < 0) "
        f"EXECUTE FUNCTION flowguard.{FILL}()",
    ),
    "a trigger is made by hand": Defect(
        "trigger_replaced",
        f"DROP TRIGGER {INSERT} ON child; CREATE TRIGGER {INSERT} BEFORE INSERT ON child FOR EACH ROW "
        f"WHEN (NEW.flow IS NULL) EXECUTE FUNCTION flowguard.{FILL}()",
    ),
    "a source is renamed": Defect(
        "trigger_outdated",
        "ALTER TABLE event RENAME TO happening",
        beside=frozenset({"function_changed", "view_changed", "leftover"}),
    ),
    "another trigger comes later": Defect(
        "trigger_after_ours",
        "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.flow := NULL; RETURN NEW; END'; "
        'CREATE TRIGGER "~late" BEFORE INSERT OR UPDATE ON child FOR EACH ROW EXECUTE FUNCTION meddle()',
        level="WARN",
        safe=False,
    ),
    "a function is dropped": Defect("function_missing", "DROP FUNCTION flowguard.child_flow_find"),
    "a function and its triggers are dropped": Defect(
        "function_missing", f"DROP FUNCTION flowguard.{FILL} CASCADE", beside=frozenset({"trigger_missing"})
    ),
    "a function's body is changed": Defect(
        "function_changed",
        f"CREATE OR REPLACE FUNCTION flowguard.{FILL}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
        "AS 'BEGIN RETURN NEW; END'",
    ),
    "a function runs with other rights": Defect(
        "function_changed", f"ALTER FUNCTION flowguard.{FILL}() SECURITY INVOKER"
    ),
    "a function has a setting": Defect("function_changed", f"ALTER FUNCTION flowguard.{FILL}() SET work_mem = '1GB'"),
    "a key is dropped": Defect("key_missing", f"ALTER TABLE child DROP CONSTRAINT {TENANT_KEY}"),
    "a key is changed": Defect("key_changed", f"ALTER TABLE child ALTER CONSTRAINT {TENANT_KEY} NOT DEFERRABLE"),
    "a key is not validated": Defect(
        "key_not_validated",
        f"ALTER TABLE child DROP CONSTRAINT {TENANT_KEY}, ADD CONSTRAINT {TENANT_KEY} FOREIGN KEY (tenant, flow) "
        "REFERENCES flow (tenant, id) DEFERRABLE INITIALLY DEFERRED NOT VALID",
        level="WARN",
    ),
    "a table's keys are not checked": Defect(
        "key_disabled",
        "ALTER TABLE grandchild DISABLE TRIGGER ALL",
        beside=frozenset({"trigger_disabled"}),
        by_superuser=True,
        mended_by_superuser=True,
    ),
    "deleting masters is not checked": Defect(
        "key_disabled", "ALTER TABLE flow DISABLE TRIGGER ALL", by_superuser=True, mended_by_superuser=True
    ),
    "a key of the application deletes": Defect(
        "key_beside_ours",
        "ALTER TABLE child ADD CONSTRAINT app_key FOREIGN KEY (flow) REFERENCES flow ON DELETE CASCADE; "
        "UPDATE flowguard.link SET on_master_delete = 'set null' WHERE relation = 'child'::regclass",
        level="WARN",
        beside=frozenset({"key_changed", "key_missing"}),
    ),
    "an index is dropped": Defect("index_missing", "DROP INDEX flowguard_child_flow_idx", level="WARN"),
    "an index is not valid": Defect(
        "index_invalid",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'flowguard_child_flow_idx'::regclass",
        level="WARN",
        by_superuser=True,
        is_ddl=False,
    ),
    "a view is dropped": Defect("view_changed", to_the_view("DROP VIEW %1$s")),
    "a view lets other rows through": Defect("view_changed", to_the_view("CREATE OR REPLACE VIEW %1$s AS %2$s")),
    "a view is renamed": Defect(
        "view_changed", to_the_view("ALTER VIEW %1$s RENAME TO mine"), beside=frozenset({"leftover"})
    ),
    "a view is moved": Defect("view_changed", to_the_view("ALTER VIEW %1$s SET SCHEMA public")),
    "a view has an option": Defect("view_changed", to_the_view("ALTER VIEW %1$s SET (security_barrier = true)")),
    "an index of ours is not needed": Defect("leftover", "CREATE INDEX flowguard_mine ON child (note)", level="WARN"),
    "a trigger has no link": Defect(
        "leftover",
        'CREATE TRIGGER "~flowguard_nobody_insert" BEFORE INSERT ON probe FOR EACH ROW '
        "EXECUTE FUNCTION flowguard.probe_flow_fill()",
        safe=False,
    ),
    "a key points to another column": Defect(
        "guard_refused",
        "ALTER TABLE flow ADD COLUMN other integer UNIQUE; "
        "ALTER TABLE child ADD CONSTRAINT app_key FOREIGN KEY (flow) REFERENCES flow (other) NOT VALID",
        safe=False,
    ),
    "a table is dropped": Defect(
        "table_gone", "DROP TABLE grandchild", safe=False, beside=frozenset({"leftover", "trigger_after_ours"})
    ),
    "a column is renamed": Defect(
        "column_gone",
        "ALTER TABLE probe RENAME COLUMN flow TO stream",
        safe=False,
        mend="ALTER TABLE probe RENAME COLUMN stream TO flow",
    ),
    "a new table is not guarded": Defect(
        "unguarded_column",
        "CREATE TABLE late (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer)",
        level="WARN",
        safe=False,
    ),
    "a new table comes with its schema": Defect(
        "unguarded_column",
        "CREATE SCHEMA side CREATE TABLE late (id integer PRIMARY KEY, tenant integer NOT NULL, flow integer)",
        level="WARN",
        safe=False,
    ),
    "a table gets a link column": Defect(
        "unguarded_column",
        "CREATE TABLE late (id integer PRIMARY KEY, tenant integer NOT NULL); ALTER TABLE late ADD COLUMN flow integer",
        level="WARN",
        safe=False,
    ),
    "a right is revoked": Defect("rights_missing", "REVOKE SELECT ON parent FROM app_owner", safe=False),
    "the owner of a function may not call it": Defect(
        "rights_missing",
        "REVOKE ALL ON FUNCTION flowguard.child_flow_find FROM app_owner",
        safe=False,
    ),
    "row security is forced": Defect(
        "rows_hidden", "ALTER TABLE parent ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY", safe=False
    ),
    "a table changes hands": Defect(
        "owner_changed", "ALTER TABLE child OWNER TO postgres", safe=False, by_superuser=True, mended_by_superuser=True
    ),
    "a function changes hands": Defect(
        "owner_changed",
        "ALTER FUNCTION flowguard.child_flow_find OWNER TO pg_monitor",
        safe=False,
        by_superuser=True,
        mended_by_superuser=True,
    ),
    "a function changes hands and runs for another": Defect(
        "owner_changed",
        f"ALTER FUNCTION flowguard.{FILL} OWNER TO pg_monitor",
        safe=False,
        by_superuser=True,
        mended_by_superuser=True,
    ),
    "everybody may bypass": Defect("open_to_public", "GRANT EXECUTE ON FUNCTION flowguard.bypass TO PUBLIC"),
    "everybody may see the registry": Defect("open_to_public", "GRANT SELECT ON flowguard.link TO PUBLIC"),
    "everybody may use the schema": Defect("open_to_public", "GRANT USAGE ON SCHEMA flowguard TO PUBLIC"),
    "a role may create functions": Defect(
        "schema_open", "GRANT CREATE ON SCHEMA flowguard TO pg_monitor", level="WARN", safe=False
    ),
}


def findings(connection: Connection, call: str = "flowguard.doctor()") -> list[dict[str, Any]]:
    """Give what doctor finds."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(f"SELECT * FROM {call}".encode())  # noqa: S608  ours
        return cursor.fetchall()


def of_kind(found: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Give those findings that are of one kind."""
    return [finding for finding in found if finding["name"] == name]


def named(connection: Connection, name: str) -> list[dict[str, Any]]:
    """Give the findings of one kind."""
    return of_kind(findings(connection), name)


def follow(connection: Connection, remedy: str) -> None:
    """Run a remedy to the letter, a statement at a time, as psql does."""
    for statement in remedy.split("; "):
        run(connection, statement)


@contextmanager
def role(superuser: Connection, name: str) -> Iterator[str]:
    """Make a role that is there in the block only."""
    run(superuser, f"CREATE ROLE {name} NOLOGIN")
    try:
        yield name
    finally:
        run(superuser, f"DROP OWNED BY {name}; DROP ROLE {name}")
