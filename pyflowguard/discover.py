"""Looks at a database that has never seen PyFlowGuard, and proposes masters, links and rules with their evidence.

The queries are in sql/discover; here is what is made of their figures. docs/discover.md says how it decides, in the
order of the functions below. Nothing is written: one READ ONLY transaction, all figures of one moment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from typing import Any, Literal, TypeAlias, TypeVar, cast

import psycopg
from psycopg import sql
from psycopg.rows import class_row, dict_row

from pyflowguard.database import Connection, connect, one_moment, readable_errors
from pyflowguard.errors import StatementFailed, UsageError
from pyflowguard.plan import changeset_directory

SAMPLE = 100_000
"""Rows: a table with more is looked at by a sample of about so many."""

STATEMENT_TIMEOUT = timedelta(seconds=60)
"""How long one query may take."""

WITHIN = "1 hour"
"""The window of a rule by time."""

_ROWS_BY_TIME = 2000  # unlinked rows whose nearest source row is looked for
_MOST = 0.5  # of a column's values: so many must be keys of a table that only its name points to
_SOME = 0.1  # of a referring column's values, where no foreign key says what it refers to
_AGREE = 0.95  # of the rows in which a link and that of the row referred to can be compared
_SAME_TENANT = 0.99  # of linked rows; and of a single table nine in ten
_SAME_TENANT_ONE = 0.9
_UNKNOWN_TENANT = 0.05  # of rows: a tenant column is hardly ever NULL

_TENANT_NAME = re.compile(
    r"(?:.*_)?(?:tenant|account|client|customer|shop|store|org|organi[sz]ation|company|workspace|team|site|merchant)"
    r"_?(?:id|key|uuid|code|no)?",
    re.IGNORECASE,
)
_KEY_NAME = re.compile(r".*(?:id|key|code|uuid|no|ref)", re.IGNORECASE)

_HINTS = {
    "57014": "Take a smaller --sample, name the schemas that matter by --schema, or allow more time by "
    "--statement-timeout.",
    "42501": "Connect as the owner of the tables or as a role with BYPASSRLS, so that counts are whole.",
}
"""By SQLSTATE: a query that took too long, and rows that row security would hide."""

_REGISTRY_IS_THERE = """
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = 'flowguard' AND c.relname = 'link'
                  AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'))
"""

_REGISTERED = """
SELECT l.relation::oid::bigint, l.link_column::text, array_remove(l.tenant_columns, NULL)::text[] FROM flowguard.link l
"""

Row: TypeAlias = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Table:
    """A row of sql/discover/tables.sql."""

    id: int
    schema: str
    name: str
    sql_name: str
    estimate: int
    readable: bool
    has_key: bool
    time_column: str | None
    time_type: str | None


@dataclass(frozen=True)
class Column:
    """A row of sql/discover/columns.sql."""

    table_id: int
    name: str
    position: int
    type: str
    not_null: bool
    generated: bool
    is_primary: bool
    is_unique: bool
    is_keyed: bool


@dataclass(frozen=True)
class Index:
    """A row of sql/discover/indexes.sql."""

    table_id: int
    is_unique: bool
    is_btree: bool
    columns: list[str]


@dataclass(frozen=True)
class Candidate:
    """A row of sql/discover/candidates.sql: a column that may hold the key of another table."""

    child_id: int
    column_name: str
    master_id: int
    key_column: str
    foreign_key: str | None
    validated: bool
    on_delete: str | None
    named: str | None


@dataclass(frozen=True)
class Counts:
    """How many rows of a link are what, as flowguard.link_status has it; of a sample, scaled to the table.

    Of the dangling ones, `other_key` hold another key of one master of their tenant, `ambiguous` of several.
    """

    total: int
    linked: int
    unlinked: int
    dangling: int
    other_key: int
    ambiguous: int
    mismatched: int
    tenantless: int
    sampled: bool

    @property
    def missing(self) -> int:
        """Rows that lead to no master."""
        return self.unlinked + self.dangling


@dataclass(frozen=True)
class Rule:
    """A rule that could be added to a link: what it would do to the unlinked rows if it were the only one.

    `proposed` is false for what is only worth a thought: it is written commented out. `ambiguous` counts rows by time
    with rows of two masters in their window; `dangling` values of a reference that name no row.
    """

    kind: Literal["session", "reference", "proximity"]
    proposed: bool
    evidence: tuple[str, ...]
    source: str | None = None
    source_link: str | None = None
    via_column: str | None = None
    source_key: str | None = None
    agree: bool | None = None
    time_column: str | None = None
    source_time: str | None = None
    within: str | None = None
    links: int | None = None
    ambiguous: int | None = None
    dangling: int | None = None
    distances: tuple[float, float, float] | None = None
    sampled: bool = False


@dataclass(frozen=True)
class Step:
    """A step of guarding a link, and what it locks; as flowguard.guard_plan() has it."""

    action: str
    lock: str


@dataclass(frozen=True)
class Link:
    """A column that should point to a master; `tenant_columns` in the order of the master's, None for one it lacks."""

    relation: str
    column: str
    tenant_columns: tuple[str | None, ...]
    on_orphan: Literal["unlink", "keep"]
    counts: Counts
    rules: tuple[Rule, ...]
    steps: tuple[Step, ...]
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Master:
    """A table that links point to, with the links, sources before what takes its link from them."""

    relation: str
    key_column: str
    tenant_columns: tuple[str, ...]
    alternate_keys: tuple[str, ...]
    created_at_column: str | None
    evidence: tuple[str, ...]
    links: tuple[Link, ...]


@dataclass(frozen=True)
class Passed:
    """Something that looked like a master or a link and is not proposed, with the reason."""

    what: str
    reason: str


@dataclass(frozen=True)
class Proposal:
    """What discover found: masters with their links, what it passed over, and tables that it may not read."""

    database: str
    tables: int
    masters: tuple[Master, ...]
    passed: tuple[Passed, ...]
    unreadable: tuple[str, ...]
    sampled: bool


@dataclass
class _Pointer:
    """A candidate with its figures: how many values there are, and how many are keys of the master."""

    candidate: Candidate
    given: int
    found: int
    sibling: bool = False
    """Whether a column of the same name in another table has a foreign key to the master."""

    @property
    def share(self) -> float:
        return self.found / self.given if self.given else 0.0

    @property
    def is_credible(self) -> bool:
        """Whether the column points there: a foreign key says so, or name and values do."""
        candidate = self.candidate
        if candidate.foreign_key is not None or self.sibling:
            return True
        return self.share >= _MOST if self.given else candidate.named == "table"

    @property
    def rank(self) -> tuple[bool, bool, bool, int]:
        """What speaks for it, beside others for the same column."""
        return (
            self.candidate.foreign_key is not None,
            self.sibling,
            self.candidate.named == "table",
            self.found,
        )


@dataclass
class _Draft:
    """A master while it is being put together: its links by child, and columns beside them that name it too."""

    master_id: int
    key: str
    pointers: list[_Pointer]
    beside: list[_Pointer] = field(default_factory=list)
    tenants: tuple[str, ...] = ()
    alternates: tuple[str, ...] = ()
    evidence: list[str] = field(default_factory=list)
    passed: list[Passed] = field(default_factory=list)
    edges: set[tuple[int, int]] = field(default_factory=set)
    """Which table's link is taken from which table's, by rules found so far."""


def discover(
    dsn: str = "",
    *,
    schemas: Sequence[str] = (),
    sample: int = SAMPLE,
    statement_timeout: timedelta = STATEMENT_TIMEOUT,
) -> Proposal:
    """Propose what to guard in a database, in these schemas or in all that are an application's.

    Raises UsageError for a schema that is not there, StatementFailed where row security would hide rows or a query
    takes too long, and what connecting raises.
    """
    with (
        connect(dsn) as connection,
        readable_errors("looking at the database"),
        _plain_words(),
        one_moment(connection),
    ):
        for name, value in (
            ("search_path", "pg_catalog, pg_temp"),
            ("row_security", "off"),
            ("statement_timeout", f"{round(statement_timeout.total_seconds() * 1000)}ms"),
        ):
            connection.execute("SELECT pg_catalog.set_config(%s, %s, true)", [name, value])
        _check_schemas(connection, schemas)
        return _Survey(connection, schemas, sample).propose()


def _check_schemas(connection: Connection, schemas: Sequence[str]) -> None:
    there = [str(row[0]) for row in connection.execute("SELECT nspname FROM pg_namespace ORDER BY 1").fetchall()]
    missing = [schema for schema in schemas if schema not in there]
    if missing:
        shown = [schema for schema in there if not schema.startswith("pg_") and schema != "information_schema"]
        raise UsageError(
            f'There is no schema "{missing[0]}" in database "{connection.info.dbname}".',
            detail=f"Its schemas: {', '.join(shown)}.",
            hint="Write it without quotes, capitals as they are; or name another database by --dsn.",
        )


@contextmanager
def _plain_words() -> Iterator[None]:
    """Say what to do where PostgreSQL's own HINT is of no help."""
    try:
        yield
    except psycopg.Error as error:
        diagnostic = error.diag
        hint = _HINTS.get(diagnostic.sqlstate or "")
        if hint is None:
            raise
        message = f"{diagnostic.severity} {diagnostic.sqlstate}: {diagnostic.message_primary}"
        raise StatementFailed(message, detail=diagnostic.message_detail, hint=hint) from error


@cache
def _query(name: str) -> str:
    return (changeset_directory() / "sql" / "discover" / f"{name}.sql").read_text(encoding="utf-8")


class _Survey:
    """Asks the database, and remembers the catalog."""

    def __init__(self, connection: Connection, schemas: Sequence[str], sample: int) -> None:
        self.connection = connection
        self.sample = sample
        found = self._rows("tables", Table, {"schemas": list(schemas) or None})
        self.unreadable = tuple(table.sql_name for table in found if not table.readable)
        self.tables = {table.id: table for table in found if table.readable}
        self._ids = {table.sql_name: table.id for table in found}
        ids = {"tables": list(self.tables)}
        self.columns = {(column.table_id, column.name): column for column in self._rows("columns", Column, ids)}
        self.indexes = self._rows("indexes", Index, ids)
        self.candidates = self._rows("candidates", Candidate, ids)
        self.passed: list[Passed] = []
        self.registered: set[tuple[int, str]] = set()
        self.claimed: set[tuple[int, str]] = set()
        """Tenant columns of masters: what is a tenant of one master is no link to another."""
        self._read_registered()
        self._answers: dict[str, Row] = {}

    def _rows(self, name: str, kind: type[T], parameters: Mapping[str, Any]) -> list[T]:
        with self.connection.cursor(row_factory=class_row(kind)) as cursor:
            return cursor.execute(_query(name).encode(), parameters).fetchall()

    def _read_registered(self) -> None:
        """Read what is registered, where the engine is deployed and the role may read it: links and tenant columns."""
        if self.connection.execute(_REGISTRY_IS_THERE).fetchone() != (True,):
            return
        for table, column, tenants in self.connection.execute(_REGISTERED).fetchall():
            self.registered.add((table, column))
            self.claimed |= {(table, tenant) for tenant in tenants}

    # -- figures

    def _count(
        self, name: str, child: Table, parts: Mapping[str, sql.Composable], parameters: Mapping[str, Any] | None = None
    ) -> Row:
        """Run a query of sql/discover over the rows of a table, or over a sample of them."""
        text = sql.SQL(cast("Any", _query(name))).format(
            child=self._name(child.id), sample=self._sampling(child), **parts
        )
        asked = text.as_string(self.connection)
        if asked not in self._answers:  # else the snapshot is the same, and so is the answer
            with self.connection.cursor(row_factory=dict_row) as cursor:
                row = cursor.execute(text, parameters).fetchone()
            assert row is not None  # noqa: S101 - each of them is an aggregate
            self._answers[asked] = row
        return self._answers[asked]

    def _is_sampled(self, table: Table) -> bool:
        return table.estimate > self.sample

    def _sampling(self, table: Table) -> sql.Composable:
        if not self._is_sampled(table):
            return sql.SQL("")
        share = sql.Literal(100.0 * self.sample / table.estimate)
        return sql.SQL("TABLESAMPLE SYSTEM ({}) REPEATABLE (0)").format(share)

    def _scaled(self, figure: int, total: int, table: Table) -> int:
        """Give a figure of a sample of `total` rows as one of the table."""
        return round(figure * table.estimate / total) if self._is_sampled(table) and total else figure

    def _name(self, table_id: int) -> sql.Composable:
        table = self.tables[table_id]
        return sql.Identifier(table.schema, table.name)

    def _shown(self, table_id: int) -> str:
        return self.tables[table_id].sql_name

    # -- what points where

    def propose(self) -> Proposal:
        """Go through the steps that docs/discover.md describes."""
        pointers = self._credible_pointers()
        masters: list[Master] = []
        for draft in self._drafts(pointers):
            if any((p.candidate.child_id, p.candidate.column_name) in self.claimed for p in draft.pointers):
                continue
            master = self._master(draft, pointers)
            if master is not None:
                masters.append(master)
                self.claimed |= {(table, tenant) for table in self.tables for tenant in draft.tenants}
        return Proposal(
            database=self.connection.info.dbname,
            tables=len(self.tables),
            masters=tuple(masters),
            passed=tuple(self.passed),
            unreadable=self.unreadable,
            sampled=any(self._is_sampled(table) for table in self.tables.values()),
        )

    def _credible_pointers(self) -> list[_Pointer]:
        """Measure each candidate; those that neither a foreign key nor their values speak for stay for look-ups."""
        keyed = {(c.column_name, c.master_id, c.key_column) for c in self.candidates if c.foreign_key is not None}
        found = []
        for candidate in self.candidates:
            child = self.tables[candidate.child_id]
            if candidate.validated and self.columns[candidate.child_id, candidate.column_name].not_null:
                found.append(_Pointer(candidate, 0, 0))  # the catalog has said it all: there is nothing to count
                continue
            row = self._count(
                "match",
                child,
                {
                    "link": sql.Identifier(candidate.column_name),
                    "master": self._name(candidate.master_id),
                    "key": sql.Identifier(candidate.key_column),
                },
            )
            sibling = (candidate.column_name, candidate.master_id, candidate.key_column) in keyed
            given, keys = (self._scaled(row[name], row["total"], child) for name in ("given", "found"))
            found.append(_Pointer(candidate, given, keys, sibling))
        return found

    def _drafts(self, pointers: Sequence[_Pointer]) -> list[_Draft]:
        """Group by master, each column under the one that most speaks for; the most to mend comes first."""
        best: dict[tuple[int, str], _Pointer] = {}
        fame = dict.fromkeys(((p.candidate.master_id, p.candidate.key_column) for p in pointers), 0)
        for pointer in pointers:
            fame[pointer.candidate.master_id, pointer.candidate.key_column] += pointer.candidate.foreign_key is not None
        credible = [pointer for pointer in pointers if pointer.is_credible]
        for pointer in credible:
            where = (pointer.candidate.child_id, pointer.candidate.column_name)
            other = best.get(where)
            if other is None or _weight(pointer, fame) > _weight(other, fame):
                best[where] = pointer
        drafts = []
        for master_id in sorted({pointer.candidate.master_id for pointer in best.values()}):
            own = [pointer for pointer in best.values() if pointer.candidate.master_id == master_id]
            key = max(own, key=lambda p: (fame[master_id, p.candidate.key_column], p.found)).candidate.key_column
            draft = _Draft(master_id, key, [])
            children = sorted({p.candidate.child_id for p in own}, key=lambda table: self.tables[table].sql_name)
            for child in children:
                self._divide(draft, [p for p in own if p.candidate.child_id == child and p.candidate.key_column == key])
            draft.passed += [
                Passed(
                    f"link {self._listed([p])} to {self._shown(master_id)}",
                    f"it holds {quoted(p.candidate.key_column)} of it, and more columns hold {quoted(key)}",
                )
                for p in own
                if p.candidate.key_column != key
            ]
            if draft.pointers:
                drafts.append(draft)
        return sorted(drafts, key=lambda d: (self._missing(d), len(self._open(d))), reverse=True)

    def _divide(self, draft: _Draft, own: list[_Pointer]) -> None:
        """Tell a child's link from columns beside it that name the master too and have no foreign key to it."""
        own.sort(key=lambda p: p.rank, reverse=True)
        for pointer in own:
            is_first = not any(p.candidate.child_id == pointer.candidate.child_id for p in draft.pointers)
            if is_first or pointer.candidate.foreign_key is not None or self._differs(draft, pointer):
                draft.pointers.append(pointer)
            else:
                draft.beside.append(pointer)

    def _differs(self, draft: _Draft, pointer: _Pointer) -> bool:
        """Say whether a second column means other masters than the first: then it is a link of its own."""
        first = next(p for p in draft.pointers if p.candidate.child_id == pointer.candidate.child_id)
        row = self._reference(draft, first, pointer.candidate, draft.key)
        return bool(row["compared"]) and row["agreeing"] < _AGREE * row["compared"]

    def _missing(self, draft: _Draft) -> int:
        """Count rows without a link, or with one that leads nowhere, where something can be guarded."""
        return sum(self._counts(draft, pointer, (), []).missing for pointer in self._open(draft))

    def _open(self, draft: _Draft) -> list[_Pointer]:
        return [pointer for pointer in draft.pointers if self._why_not(pointer) is None]

    def _why_not(self, pointer: _Pointer) -> str | None:
        """Say why a column that points to a master need not, or cannot, be guarded."""
        candidate = pointer.candidate
        column = self.columns[candidate.child_id, candidate.column_name]
        has_key = self.tables[candidate.child_id].has_key
        key = candidate.foreign_key
        reasons = {
            "it is registered as a link already": (candidate.child_id, candidate.column_name) in self.registered,
            "the column is generated": column.generated,
            "the column is the table's own primary key": column.is_primary,
            "the table has no primary key nor a unique key of NOT NULL columns": not has_key,
            f"foreign key {key} sets it to NULL on delete, so NULL means something": candidate.on_delete == "n",
            f"NOT NULL and foreign key {key} leave nothing to guard": column.not_null and candidate.validated,
        }
        return next((reason for reason, applies in reasons.items() if applies), None)

    # -- a master

    def _master(self, draft: _Draft, pointers: Sequence[_Pointer]) -> Master | None:
        """Put a master together, or say why it is none."""
        name = self._shown(draft.master_id)
        links = self._open(draft)
        if not links:
            guarded = [p for p in draft.pointers if (p.candidate.child_id, p.candidate.column_name) in self.registered]
            if guarded:
                self._pass(draft, f"registered already: {self._listed(guarded)}")
            return None  # plain foreign keys, as there are in every schema
        draft.tenants = self._tenants(draft)
        draft.alternates = self._alternates(draft, links)
        rules = self._references(draft, links, pointers)
        if self._missing(draft) == 0 and any(pointer.given for pointer in links):
            self._pass(draft, f"no row of {self._listed(links)} is unlinked or dangling: NOT NULL and a foreign key do")
            return None
        if len(links) == 1 and not rules[id(links[0])]:
            only = f"{self._listed(links)} alone could be guarded, and no other table would tell a missing link"
            self._pass(draft, f"{only}: a foreign key says that it exists")
            return None
        self.passed += draft.passed
        for pointer in draft.pointers:
            reason = self._why_not(pointer)
            if reason is not None:
                self.passed.append(Passed(f"link {self._listed([pointer])} to {name}", reason))
        made = [self._link(draft, pointer, rules) for pointer in self._sorted(links, rules)]
        keyed = sum(p.candidate.foreign_key is not None for p in draft.pointers)
        evidence = [f"{len(draft.pointers)} columns point to its {draft.key}, {keyed} of them by a foreign key"]
        return Master(
            relation=name,
            key_column=draft.key,
            tenant_columns=draft.tenants,
            alternate_keys=draft.alternates,
            created_at_column=self.tables[draft.master_id].time_column,
            evidence=(*evidence, *draft.evidence),
            links=tuple(made),
        )

    def _pass(self, draft: _Draft, reason: str) -> None:
        self.passed.append(Passed(f"master {self._shown(draft.master_id)}", reason))

    def _listed(self, pointers: Iterable[_Pointer]) -> str:
        return ", ".join(f"{self._shown(p.candidate.child_id)}.{quoted(p.candidate.column_name)}" for p in pointers)

    def _tenants(self, draft: _Draft) -> tuple[str, ...]:
        """Find the columns that master and most children share, hardly ever NULL and the same in both."""
        tenants = []
        children = {pointer.candidate.child_id: pointer for pointer in draft.pointers}
        for column in self.columns.values():
            if column.table_id != draft.master_id or column.is_unique or column.generated:
                continue
            is_named = _TENANT_NAME.fullmatch(column.name) is not None
            if not is_named and not (column.is_keyed and _KEY_NAME.fullmatch(column.name)):
                continue
            sharing = [p for child, p in children.items() if self._shares(child, column)]
            if 2 * len(sharing) <= len(children):
                continue
            rows = [self._tenant(draft, pointer, column.name) for pointer in sharing]
            mark = "~" if any(self._is_sampled(self.tables[p.candidate.child_id]) for p in sharing) else ""
            total, unknown = sum(row["total"] for row in rows), sum(row["unknown"] for row in rows)
            compared, agreeing = sum(row["compared"] for row in rows), sum(row["agreeing"] for row in rows)
            if unknown > _UNKNOWN_TENANT * total or agreeing < _SAME_TENANT * compared:
                continue
            if not total and not column.not_null:
                continue
            tenants.append(column.name)
            draft.evidence.append(
                f"tenant column {quoted(column.name)}: in {len(sharing)} of {len(children)} tables that point to it, "
                f"the same as the master's in {mark}{agreeing} of {mark}{compared} linked rows, NULL in "
                f"{mark}{unknown} of {mark}{total}"
            )
        return tuple(tenants)

    def _shares(self, table_id: int, column: Column) -> bool:
        other = self.columns.get((table_id, column.name))
        return other is not None and other.type == column.type and not other.generated

    def _tenant(self, draft: _Draft, pointer: _Pointer, tenant: str) -> Row:
        child = self.tables[pointer.candidate.child_id]
        parts = {"tenant": sql.Identifier(tenant), "link": sql.Identifier(pointer.candidate.column_name)}
        row = self._count("tenant", child, {**parts, **self._of_master(draft)})
        return {name: self._scaled(figure, row["total"], child) for name, figure in row.items()}

    def _tenants_of(self, draft: _Draft, pointer: _Pointer) -> tuple[str | None, ...]:
        """Give the tenant columns of a child in the order of the master's, None where it has not the same."""
        found: list[str | None] = []
        for tenant in draft.tenants:
            if not self._shares(pointer.candidate.child_id, self.columns[draft.master_id, tenant]):
                found.append(None)
                continue
            row = self._tenant(draft, pointer, tenant)
            found.append(tenant if row["agreeing"] >= _SAME_TENANT_ONE * row["compared"] else None)
        return tuple(found)

    def _alternates(self, draft: _Draft, links: Sequence[_Pointer]) -> tuple[str, ...]:
        """Find other unique columns of the key's type that links hold by mistake.

        Two uuids are never the same by chance: there any will do. Of numbers and texts, half of what dangles in some
        table must be in the column.
        """
        key = self.columns[draft.master_id, draft.key]
        found = []
        for column in self.columns.values():
            if column.table_id != draft.master_id or column.name == key.name or column.type != key.type:
                continue
            if not column.is_unique or self._is_reference(column):
                continue
            every = [self._counts(draft, p, self._tenants_of(draft, p), [], (column.name,)) for p in links]
            dangling, hits = sum(counts.dangling for counts in every), sum(counts.other_key for counts in every)
            if key.type == "uuid" or any(c.other_key and c.other_key >= _MOST * c.dangling for c in every):
                found.append(column.name)
                mark = "~" if any(counts.sampled for counts in every) else ""
                draft.evidence.append(
                    f"alternate key {quoted(column.name)}: unique, and holds {mark}{hits} of {mark}{dangling} dangling "
                    "values"
                )
        return tuple(found)

    def _is_reference(self, column: Column) -> bool:
        return any(
            c.child_id == column.table_id and c.column_name == column.name and c.foreign_key is not None
            for c in self.candidates
        )

    # -- rules

    def _references(
        self, draft: _Draft, links: Sequence[_Pointer], pointers: Sequence[_Pointer]
    ) -> dict[int, list[Rule]]:
        """Find, for each link, columns of the row that lead to another row with a link to the same master.

        Foreign keys first, for they are sure; then names. A rule that would close a ring is left out.
        """
        rules: dict[int, list[Rule]] = {id(pointer): [] for pointer in links}
        for by_key in (True, False):
            for link in links:
                for candidate, source in self._ways(draft, link, pointers):
                    if (candidate.foreign_key is not None) != by_key:
                        continue
                    if source is not None and _reaches(draft.edges, source.candidate.child_id, link.candidate.child_id):
                        continue
                    rule = self._reference_rule(draft, link, candidate, source)
                    if rule is not None:
                        rules[id(link)].append(rule)
                        if source is not None:
                            draft.edges.add((link.candidate.child_id, source.candidate.child_id))
        return rules

    def _ways(
        self, draft: _Draft, link: _Pointer, pointers: Sequence[_Pointer]
    ) -> list[tuple[Candidate, _Pointer | None]]:
        """List columns of the child that refer to a table with a link, or (None) name the master themselves."""
        ways: list[tuple[Candidate, _Pointer | None]] = []
        child = link.candidate.child_id
        for pointer in pointers:
            candidate = pointer.candidate
            if candidate.child_id != child or candidate.column_name == link.candidate.column_name:
                continue
            source = next(
                (
                    p
                    for p in draft.pointers
                    if p.candidate.child_id == candidate.master_id and p.candidate.child_id != child
                ),
                None,
            )
            if source is not None:
                ways.append((candidate, source))
            elif pointer in draft.beside:
                ways.append((candidate, None))
        return ways

    def _reference_rule(
        self, draft: _Draft, link: _Pointer, candidate: Candidate, source: _Pointer | None
    ) -> Rule | None:
        source_link = draft.key if source is None else source.candidate.column_name
        row = self._reference(draft, link, candidate, source_link)
        name = f"{quoted(candidate.column_name)}"
        if row["compared"] and row["agreeing"] < _AGREE * row["compared"]:
            draft.passed.append(
                Passed(
                    f"rule for {self._listed([link])} by {name} to {self._shown(candidate.master_id)}",
                    f"only {row['agreeing']} of {row['compared']} linked rows have the link of the row referred to",
                )
            )
            return None
        if candidate.foreign_key is None and (row["found"] <= _SOME * row["given"] or not row["links"]):
            return None
        child = self.tables[link.candidate.child_id]
        mark = "~" if self._is_sampled(child) else ""
        how = f"foreign key {candidate.foreign_key}" if candidate.foreign_key else f"by its name ({candidate.named})"
        evidence = [f"{name} refers to {self._shown(candidate.master_id)}.{quoted(candidate.key_column)}: {how}"]
        evidence.append(f"{mark}{row['found']} of its {mark}{row['given']} values are there")
        if row["compared"]:
            same = f"in {mark}{row['agreeing']} of {mark}{row['compared']} rows linked already"
            evidence.append(f"{same} the two links are the same")
        else:
            evidence.append("no row has both links yet, so whether they must agree is for you to say")
        return Rule(
            kind="reference",
            proposed=True,
            evidence=tuple(evidence),
            source=self._shown(candidate.master_id),
            source_link=source_link,
            via_column=candidate.column_name,
            source_key=candidate.key_column,
            agree=bool(row["compared"]) and candidate.foreign_key is not None and source is not None,
            links=row["links"],
            ambiguous=0,
            dangling=row["given"] - row["found"],
            sampled=self._is_sampled(child),
        )

    def _reference(self, draft: _Draft, link: _Pointer, candidate: Candidate, source_link: str) -> Row:
        tenants = self._tenants_of(draft, link)
        child = self.tables[link.candidate.child_id]
        row = self._count(
            "reference",
            child,
            {
                "link": sql.Identifier(link.candidate.column_name),
                "via": sql.Identifier(candidate.column_name),
                "source": self._name(candidate.master_id),
                "source_key": sql.Identifier(candidate.key_column),
                "source_link": sql.Identifier(source_link),
                "source_tenants": self._same_tenant("s", self._tenants_in(candidate.master_id, tenants)),
                "tenants": self._same_tenant("m", tenants),
                **self._of_master(draft),
            },
        )
        return {name: self._scaled(figure, row["total"], child) for name, figure in row.items()}

    def _proximity(self, draft: _Draft, link: _Pointer, rules: Sequence[Rule]) -> Rule | None:
        """Find the table whose rows are near in time to most of the rows that no reference reaches."""
        child = self.tables[link.candidate.child_id]
        tenants = self._tenants_of(draft, link)
        if child.time_column is None or not tenants or None in tenants:
            return None
        best: Rule | None = None
        for source in draft.pointers:
            table = self.tables[source.candidate.child_id]
            if (
                table.id == child.id
                or table.time_column is None
                or table.time_type != child.time_type
                or not table.has_key
                or set(self._tenants_in(table.id, tenants)) != set(tenants)
                or _reaches(draft.edges, table.id, child.id)
            ):
                continue
            rule = self._proximity_rule(draft, link, source, rules)
            if rule is not None and (best is None or _by_time(rule) > _by_time(best)):
                best = rule
        if best is not None and best.source is not None:
            draft.edges.add((child.id, self._ids[best.source]))
        return best

    def _proximity_rule(self, draft: _Draft, link: _Pointer, source: _Pointer, rules: Sequence[Rule]) -> Rule | None:
        child, table = self.tables[link.candidate.child_id], self.tables[source.candidate.child_id]
        assert child.time_column is not None and table.time_column is not None  # noqa: S101, PT018 - asked before
        tenants = self._tenants_of(draft, link)
        row = self._count(
            "proximity",
            child,
            {
                "link": sql.Identifier(link.candidate.column_name),
                "time": sql.Identifier(child.time_column),
                "source": self._name(table.id),
                "source_time": sql.Identifier(table.time_column),
                "source_link": sql.Identifier(source.candidate.column_name),
                "source_tenants": self._same_tenant("s", tenants, strictly=True),
                "tenants": self._same_tenant("m", tenants, strictly=True),
                "unreached": self._unreached(draft, rules, tenants),
                **self._of_master(draft),
            },
            {"rows": _ROWS_BY_TIME, "within": WITHIN},
        )
        if not row["links"]:
            return None
        sampled = self._is_sampled(child) or row["waiting"] == _ROWS_BY_TIME
        mark = "~" if sampled else ""
        far = (
            f"{row['half']:g} s away for half of them, {row['most']:g} s for nine in ten, {row['farthest']:g} s for all"
        )
        found = f"{mark}{row['links']} have a row of {table.sql_name} of their tenant within {WITHIN}"
        evidence = (
            f"of {mark}{row['waiting']} rows that no reference links, {found}; the nearest is at most {far}",
            f"for {mark}{row['ambiguous']} of them rows of more than one master lie within {WITHIN}",
            "a link by time is a guess: look at some of these rows before you take it",
        )
        return Rule(
            kind="proximity",
            proposed=False,
            evidence=evidence,
            source=table.sql_name,
            source_link=source.candidate.column_name,
            time_column=child.time_column,
            source_time=table.time_column,
            within=WITHIN,
            links=row["links"],
            ambiguous=row["ambiguous"],
            distances=(row["half"], row["most"], row["farthest"]),
            sampled=sampled,
        )

    def _unreached(self, draft: _Draft, rules: Sequence[Rule], tenants: Sequence[str | None]) -> sql.Composable:
        """Give the condition that no reference rule yields a master for row c, and that it waits for none."""
        parts: list[sql.Composable] = [sql.SQL("true")]
        for rule in rules:
            assert rule.via_column and rule.source and rule.source_key and rule.source_link  # noqa: S101, PT018
            if rule.agree:
                parts.append(sql.SQL("c.{} IS NULL").format(sql.Identifier(rule.via_column)))
                continue
            source_id = self._ids[rule.source]
            parts.append(
                sql.SQL(
                    "NOT EXISTS (SELECT FROM {source} AS s JOIN {master} AS m ON m.{key} = s.{source_link} "
                    "AND {tenants} WHERE s.{source_key} = c.{via} AND {source_tenants})"
                ).format(
                    source=self._name(source_id),
                    source_link=sql.Identifier(rule.source_link),
                    source_key=sql.Identifier(rule.source_key),
                    via=sql.Identifier(rule.via_column),
                    tenants=self._same_tenant("m", tenants),
                    source_tenants=self._same_tenant("s", self._tenants_in(source_id, tenants)),
                    **self._of_master(draft),
                )
            )
        return sql.SQL(" AND ").join(parts)

    def _sorted(self, links: Sequence[_Pointer], rules: Mapping[int, list[Rule]]) -> list[_Pointer]:
        """Order links so that one whose link others take comes before them."""
        done: list[_Pointer] = []
        left = list(links)
        while left:
            waiting = {self._shown(p.candidate.child_id) for p in left}
            ready = [
                p
                for p in left
                if not {rule.source for rule in rules[id(p)]} & (waiting - {self._shown(p.candidate.child_id)})
            ]
            done += ready or left
            left = [p for p in left if p not in done]
        return done

    # -- a link

    def _link(self, draft: _Draft, pointer: _Pointer, rules: dict[int, list[Rule]]) -> Link:
        candidate = pointer.candidate
        tenants = self._tenants_of(draft, pointer)
        own = rules[id(pointer)]
        counts = self._counts(draft, pointer, tenants, own)
        extra: list[Rule] = []
        if not any(rule.proposed for rule in own):
            extra.append(
                Rule(
                    kind="session",
                    proposed=False,
                    evidence=("no column of the row leads to the master: the application may know, and say it",),
                )
            )
        by_time = self._proximity(draft, pointer, own) if counts.unlinked else None
        if by_time is not None:
            extra.append(by_time)
        column = self.columns[candidate.child_id, candidate.column_name]
        evidence = []
        if candidate.foreign_key is not None:
            state = "" if candidate.validated else ", NOT VALID"
            evidence.append(f"foreign key {candidate.foreign_key}{state}")
        else:
            evidence.append("it has no foreign key")
        if candidate.named is not None:
            evidence.append(f"it is named after the {'master' if candidate.named in {'table', 'suffix'} else 'key'}")
        if pointer.sibling and candidate.foreign_key is None:
            evidence.append("columns of this name in other tables have a foreign key to the master")
        mark = "~" if counts.sampled else ""
        evidence.append(f"{mark}{pointer.found} of {mark}{pointer.given} values are keys of the master")
        if not column.not_null:
            evidence.append("it may be NULL")
        link = Link(
            relation=self._shown(candidate.child_id),
            column=candidate.column_name,
            tenant_columns=tenants,
            on_orphan="keep" if column.not_null else "unlink",
            counts=counts,
            rules=(*own, *extra),
            steps=(),
            evidence=tuple(evidence),
        )
        return replace(link, steps=self._steps(draft, pointer, link))

    def _counts(
        self,
        draft: _Draft,
        pointer: _Pointer,
        tenants: Sequence[str | None],
        rules: Sequence[Rule],
        alternates: Sequence[str] | None = None,
    ) -> Counts:
        child = self.tables[pointer.candidate.child_id]
        link = sql.Identifier(pointer.candidate.column_name)
        joins: list[sql.Composable] = []
        differs: list[sql.Composable] = [sql.SQL("false")]
        for number, rule in enumerate(rule for rule in rules if rule.agree):
            assert rule.source and rule.source_key and rule.source_link and rule.via_column  # noqa: S101, PT018
            source_id = self._ids[rule.source]
            alias = sql.Identifier(f"a{number}")
            parts = {
                "alias": alias,
                "source": self._name(source_id),
                "key": sql.Identifier(rule.source_key),
                "source_link": sql.Identifier(rule.source_link),
                "via": sql.Identifier(rule.via_column),
                "link": link,
            }
            joins.append(sql.SQL("LEFT JOIN {source} AS {alias} ON {alias}.{key} = c.{via}").format(**parts))
            differs.append(
                sql.SQL("{alias}.{key} IS NOT NULL AND {alias}.{source_link} IS DISTINCT FROM c.{link}").format(**parts)
            )
        others = [
            sql.SQL("o.{} = c.{}").format(sql.Identifier(name), link)
            for name in (draft.alternates if alternates is None else alternates)
        ]
        unknown = [
            sql.SQL("c.{} IS NULL").format(sql.Identifier(name))
            for name in tenants
            if name is not None and not self.columns[child.id, name].not_null
        ]
        row = self._count(
            "link",
            child,
            {
                "link": link,
                "tenants": self._same_tenant("m", tenants),
                "other_tenants": self._same_tenant("o", tenants),
                "tenantless": sql.SQL(" OR ").join(unknown) if unknown else sql.SQL("false"),
                "other_keys": sql.SQL(" OR ").join(others) if others else sql.SQL("false"),
                "sources": sql.SQL(" ").join(joins),
                "differs": sql.SQL(" OR ").join(differs),
                **self._of_master(draft),
            },
        )
        scaled = {name: self._scaled(figure, row["total"], child) for name, figure in row.items()}
        return Counts(**scaled, sampled=self._is_sampled(child))

    def _of_master(self, draft: _Draft) -> dict[str, sql.Composable]:
        return {"master": self._name(draft.master_id), "key": sql.Identifier(draft.key)}

    def _tenants_in(self, table_id: int, tenants: Sequence[str | None]) -> tuple[str, ...]:
        return tuple(name for name in tenants if name is not None and (table_id, name) in self.columns)

    @staticmethod
    def _same_tenant(alias: str, tenants: Sequence[str | None], *, strictly: bool = False) -> sql.Composable:
        """Give the condition that a row has the tenant of child row c, as far as that is known or (strictly) wholly."""
        text = "{alias}.{name} = c.{name}" if strictly else "(c.{name} IS NULL OR {alias}.{name} = c.{name})"
        parts: list[sql.Composable] = [
            sql.SQL(cast("Any", text)).format(alias=sql.Identifier(alias), name=sql.Identifier(name))
            for name in tenants
            if name is not None
        ]
        return sql.SQL(" AND ").join(parts) if parts else sql.SQL("true")

    # -- what guarding would lock

    def _steps(self, draft: _Draft, pointer: _Pointer, link: Link) -> tuple[Step, ...]:
        """List what guard would build for the link with the rules proposed, in observe, and what that locks."""
        child, master = link.relation, self._shown(draft.master_id)
        tenants = [name for name in link.tenant_columns if name is not None]
        steps = []
        if not self._is_indexed(draft.master_id, [*tenants, draft.key], unique=True):
            steps.append(_index(master, [*tenants, draft.key], "a unique index"))
        if not self._is_indexed(pointer.candidate.child_id, [link.column]):
            steps.append(_index(child, [link.column], "an index"))
        rules = [rule for rule in link.rules if rule.proposed and rule.kind == "reference"]
        for rule in rules:
            steps += self._steps_of_rule(draft, pointer, link, rule)
        candidate = pointer.candidate
        nullable = any(not self.columns[candidate.child_id, name].not_null for name in tenants)
        if tenants or candidate.foreign_key is None or not candidate.validated or nullable:
            steps.append(Step("add a foreign key, not looking at rows", f"SHARE ROW EXCLUSIVE on {child} and {master}"))
            steps.append(Step("validate it", f"SHARE UPDATE EXCLUSIVE on {child}, ROW SHARE on {master}"))
        if rules:
            steps.append(Step("create triggers", f"SHARE ROW EXCLUSIVE on {child}"))
        steps += [
            Step("create triggers that follow a late link", f"SHARE ROW EXCLUSIVE on {rule.source}") for rule in rules
        ]
        return tuple(dict.fromkeys(steps))

    def _steps_of_rule(self, draft: _Draft, pointer: _Pointer, link: Link, rule: Rule) -> list[Step]:
        assert rule.source and rule.source_key and rule.source_link and rule.via_column  # noqa: S101, PT018
        source_id = self._ids[rule.source]
        known = [name for name in link.tenant_columns if name is not None]
        by_tenant = bool(known) and all(
            column is not None and column.not_null
            for table in (pointer.candidate.child_id, source_id)
            for column in (self.columns.get((table, name)) for name in link.tenant_columns if name is not None)
        )
        steps = []
        wanted = [*(known if by_tenant and None not in link.tenant_columns else []), rule.source_key, rule.source_link]
        if source_id != draft.master_id and not self._is_indexed(source_id, wanted, unique=True):
            steps.append(_index(rule.source, wanted, "a unique index"))
        if not self._is_indexed(pointer.candidate.child_id, [rule.via_column]):
            steps.append(_index(link.relation, [rule.via_column], "an index"))
        return steps

    def _is_indexed(self, table_id: int, columns: Sequence[str], *, unique: bool = False) -> bool:
        wanted = set(columns)
        return any(
            (index.is_unique and set(index.columns) == wanted)
            if unique
            else (index.is_btree and wanted <= set(index.columns[: len(wanted)]))
            for index in self.indexes
            if index.table_id == table_id
        )


def quoted(name: str) -> str:
    """Write a column's name as SQL has it."""
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


def counted(link: Link) -> str:
    """Say in a line how many rows of a link are what."""
    counts = link.counts
    mark = "~" if counts.sampled else ""
    figures = [f"{mark}{counts.total} rows: {mark}{counts.linked} linked", f"{mark}{counts.unlinked} unlinked"]
    other = f" ({mark}{counts.other_key} hold another key of a master)" if counts.other_key else ""
    figures.append(f"{mark}{counts.dangling} dangling{other}")
    if counts.ambiguous:
        figures.append(f"{mark}{counts.ambiguous} of them with another key of several masters")
    figures.append(f"{mark}{counts.mismatched} mismatched")
    if counts.tenantless:
        figures.append(f"{mark}{counts.tenantless} without their tenant")
    return ", ".join(figures)


def links_of(rule: Rule) -> str | None:
    """Say in a line what a rule by reference would do."""
    if rule.kind != "reference":
        return None  # what one by time would do stands in its evidence
    mark = "~" if rule.sampled else ""
    return f"it alone would link {mark}{rule.links} of the unlinked rows, {mark}{rule.dangling} of its values dangle"


def _index(table: str, columns: Sequence[str], kind: str) -> Step:
    shown = ", ".join(quoted(name) for name in columns)
    return Step(f"build {kind} on {table} ({shown})", f"SHARE UPDATE EXCLUSIVE on {table}")


def _weight(pointer: _Pointer, fame: Mapping[tuple[int, str], int]) -> tuple[object, ...]:
    """What speaks for one master of a column over another: then the master that most foreign keys point to."""
    is_keyed, is_sibling, is_named, found = pointer.rank
    return is_keyed, is_sibling, is_named, found, fame[pointer.candidate.master_id, pointer.candidate.key_column]


def _by_time(rule: Rule) -> tuple[int, int]:
    return rule.links or 0, -(rule.ambiguous or 0)


def _reaches(edges: Iterable[tuple[int, int]], start: int, goal: int) -> bool:
    """Say whether links of one table are taken, over any number of rules, from another."""
    edges = list(edges)
    seen: set[int] = set()
    ahead = [start]
    while ahead:
        table = ahead.pop()
        if table == goal:
            return True
        if table not in seen:
            seen.add(table)
            ahead += [to for come, to in edges if come == table]
    return False
