"""For Alembic: autogenerate leaves what PyFlowGuard made alone, and migrations guard links.

Needs Alembic, as `pip install pyflowguard[alembic]` brings it. In env.py:

    from pyflowguard import alembic as flowguard

    context.configure(..., include_name=flowguard.include_name, include_object=flowguard.include_object)

and in a migration, once that module is imported: `op.flowguard_guard("line", link_column="job_id")`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, ParamSpec

from alembic.autogenerate import renderers
from alembic.operations import MigrateOperation, Operations
from sqlalchemy import ForeignKeyConstraint, Table, text

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from alembic.runtime.environment import IncludeObjectFn, NameFilterParentNames, NameFilterType
    from sqlalchemy import Connection
    from sqlalchemy.schema import SchemaItem

__all__ = ["SCHEMAS", "CallOp", "compose", "include_name", "include_object", "leave_replaced_keys"]

P = ParamSpec("P")

SCHEMAS = frozenset({"flowguard", "flowguard_archive", "pyflowguard", "sqitch"})
"""Where the engine, what the clean-up moved away, and the records of deploying lie."""

_PREFIX = "flowguard_"
"""What the names of indexes and foreign keys begin with that guard() makes, shortened ones too; it tells them so."""

_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]*")

_THERE_ARE_REPLACED_KEYS = text("SELECT pg_catalog.to_regclass('flowguard.replaced_constraint') IS NOT NULL")

_REPLACED_KEYS = text("""
SELECT n.nspname, c.relname, k.link_column, o.nspname, m.relname
  FROM flowguard.replaced_constraint k
  JOIN flowguard.link l ON l.relation = k.relation AND l.link_column = k.link_column
  JOIN pg_catalog.pg_class c ON c.oid = k.relation
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class m ON m.oid = l.master
  JOIN pg_catalog.pg_namespace o ON o.oid = m.relnamespace
""")


def include_name(name: str | None, type_: NameFilterType, parent_names: NameFilterParentNames) -> bool:  # noqa: ARG001
    """Pass over the schemas of PyFlowGuard, which `include_schemas=True` would compare with the models."""
    return type_ != "schema" or name not in SCHEMAS


def include_object(
    object: SchemaItem,  # noqa: A002  Alembic's name
    name: str | None,
    type_: NameFilterType,
    reflected: bool,
    compare_to: SchemaItem | None,
) -> bool:
    """Keep what guard() made from being dropped: indexes and keys of its names that the models do not have.

    What the models do have is compared, whatever its name. A table of the models in a schema of PyFlowGuard, such as
    one that stands for a view of it, is never created.
    """
    if isinstance(object, Table):
        return object.schema not in SCHEMAS
    is_of_models = not reflected or compare_to is not None
    return is_of_models or type_ == "column" or not (name or "").startswith(_PREFIX)


def leave_replaced_keys(connection: Connection) -> IncludeObjectFn:
    """Give an `include_object` that does not add again what guard() replaced by a key of its own.

    That is a foreign key of a link that does something else, when a master is deleted, than `on_master_delete` asks
    for. The database is asked when a key of the models is missing there, not before: a query ahead of Alembic's own
    would begin a transaction, which Alembic then leaves to whoever began it to commit.
    """

    @cache
    def replaced() -> set[tuple[str, ...]]:
        if not connection.scalar(_THERE_ARE_REPLACED_KEYS):
            return set()
        return {tuple(row) for row in connection.execute(_REPLACED_KEYS)}

    def names(table: Table) -> tuple[str, str]:
        return table.schema or connection.dialect.default_schema_name or "", table.name

    def include(
        object: SchemaItem,  # noqa: A002  Alembic's name
        name: str | None,  # noqa: ARG001
        type_: NameFilterType,  # noqa: ARG001
        reflected: bool,
        compare_to: SchemaItem | None,
    ) -> bool:
        if reflected or compare_to is not None or not isinstance(object, ForeignKeyConstraint):
            return True
        table, master = names(object.table), names(object.referred_table)
        return replaced().isdisjoint((*table, column.name, *master) for column in object.columns)

    return include


def compose(*functions: Callable[P, bool]) -> Callable[P, bool]:
    """Give a function for `include_name` or `include_object` that includes what each of these includes."""

    def include(*args: P.args, **kwargs: P.kwargs) -> bool:
        return all(function(*args, **kwargs) for function in functions)

    return include


@Operations.register_operation("flowguard_guard", "guard")
@Operations.register_operation("flowguard_unguard", "unguard")
@Operations.register_operation("flowguard_set_mode", "set_mode")
class CallOp(MigrateOperation):
    """A call of the engine for the link of a table, in the transaction of the migration."""

    def __init__(
        self,
        function: str,
        table_name: str,
        mode: str | None = None,
        *,
        link_column: str = "master_flow_id",
        schema: str | None = None,
    ) -> None:
        """Name table and link as Alembic does: as they are called, without quotes."""
        self.function = function
        self.table_name = table_name
        self.mode = mode
        self.link_column = link_column
        self.schema = schema

    @classmethod
    def guard(
        cls, operations: Operations, table_name: str, *, link_column: str = "master_flow_id", schema: str | None = None
    ) -> None:
        """Guard a link as its rules say; who writes its tables waits until the migration commits."""
        operations.invoke(cls("guard", table_name, link_column=link_column, schema=schema))

    @classmethod
    def unguard(
        cls, operations: Operations, table_name: str, *, link_column: str = "master_flow_id", schema: str | None = None
    ) -> None:
        """Take the guard of a link away; the link stays registered."""
        operations.invoke(cls("unguard", table_name, link_column=link_column, schema=schema))

    @classmethod
    def set_mode(
        cls,
        operations: Operations,
        table_name: str,
        mode: str,
        *,
        link_column: str = "master_flow_id",
        schema: str | None = None,
    ) -> None:
        """Observe or enforce a link."""
        operations.invoke(cls("set_mode", table_name, mode, link_column=link_column, schema=schema))

    def reverse(self) -> CallOp:
        """Give the call that takes this one back."""
        inverse = {"guard": "unguard", "unguard": "guard", "set_mode": "set_mode"}
        mode = {"observe": "enforce", "enforce": "observe"}
        return CallOp(
            inverse[self.function],
            self.table_name,
            mode[self.mode] if self.mode else None,
            link_column=self.link_column,
            schema=self.schema,
        )

    def to_diff_tuple(self) -> tuple[object, ...]:
        """Tell it as autogenerate tells its findings."""
        return (f"flowguard_{self.function}", self.schema, self.table_name, self.link_column, self.mode)


@Operations.implementation_for(CallOp)
def _call(operations: Operations, call: CallOp) -> None:
    table = ".".join(_identifier(part) for part in (call.schema, call.table_name) if part is not None)
    mode = f"mode => {_literal(call.mode)}, " if call.mode is not None else ""
    statement = (
        f"SELECT flowguard.{call.function}({_literal(table)}, {mode}link_column => {_literal(call.link_column)})"
    )
    # Not by execute(), which doubles a percent sign offline and takes a colon for a parameter.
    context = operations.migration_context
    if context.as_sql:
        context.impl.static_output(statement + context.impl.command_terminator)
    else:
        operations.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})


def _identifier(name: str) -> str:
    # As the text of a regclass; reserved words need no quotes there.
    return name if _PLAIN_NAME.fullmatch(name) else '"' + name.replace('"', '""') + '"'


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


@renderers.dispatch_for(CallOp)
def _render(context: AutogenContext, call: CallOp) -> str:
    prefix = context.opts["alembic_module_prefix"]
    positional = [call.table_name] if call.mode is None else [call.table_name, call.mode]
    given = [repr(value) for value in positional]
    given.append(f"link_column={call.link_column!r}")
    if call.schema is not None:
        given.append(f"schema={call.schema!r}")
    return f"{prefix}flowguard_{call.function}({', '.join(given)})"
