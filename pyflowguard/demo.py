"""The demonstration: the report's database before and after, on a throw-away PostgreSQL, and the guard at work.

Every figure is read from the database at that moment; the report's own figures are the only ones written down here.
Each is compared with what the job requires, so that the demonstration is a test of itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from textwrap import dedent, indent
from typing import Any, Literal, Protocol, TypeAlias

import psycopg
from psycopg import sql
from psycopg.rows import class_row
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pyflowguard import changes
from pyflowguard.database import Connection, Notice, connect, readable_errors, run_script
from pyflowguard.health import Health, LinkStatus, check, read_health
from pyflowguard.plan import changeset_directory
from pyflowguard.present import new_table, show_findings, show_links
from pyflowguard.server import Server, throwaway_server

Variant: TypeAlias = Literal["orphaned", "translatable"]

VARIANTS: tuple[Variant, ...] = ("orphaned", "translatable")
"""What the 11 wrong links of the report hold: keys of masters that are gone, or the id of a master that is there."""

_SCORE_BEFORE = Decimal("85.2")  # the report's
_SCORE_AFTER = Decimal("97.3")


@dataclass(frozen=True)
class Job:
    """What the report's job requires of one variant of its database."""

    flows: int
    flows_linked: int
    quarantined: int
    translated: int
    scripts_right: int | None  # assets that the report's scripts get right, where that is known


JOBS: dict[Variant, Job] = {
    "orphaned": Job(flows=9, flows_linked=7, quarantined=11, translated=0, scripts_right=17),
    "translatable": Job(flows=20, flows_linked=18, quarantined=0, translated=11, scripts_right=None),
}

_ASSETS = 29
_MAPPINGS = 178
_WRONG_FLOWS = 11
_LEGACY_ROWS = 6


class DeployProgress(Protocol):
    """Shows how far a deployment is."""

    def show(self, event: changes.Step | changes.Waiting) -> None:
        """Show a step."""

    def notice(self, notice: Notice) -> None:
        """Show a message of PostgreSQL's."""


Deploying: TypeAlias = Callable[[], AbstractContextManager[DeployProgress]]


@dataclass(frozen=True)
class Scripts:
    """What the report's scripts say that they did, and what is so (report.run_scripts())."""

    flows_deleted: int
    assets_said: int
    assets_linked: int
    assets_dangling: int
    assets_right: int
    mappings_said: int
    mappings_right: int


@dataclass(frozen=True)
class Scores:
    """Links against the true ones (report.score_links())."""

    assets_linked: int
    assets_dangling: int
    assets_right: int
    mappings_linked: int
    mappings_right: int


@dataclass(frozen=True)
class Repaired:
    """What all runs together did, and what is held in quarantine now."""

    linked: int
    translated: int
    quarantined: int
    held: int


@dataclass(frozen=True)
class State:
    """The report's database at one moment."""

    health: Health
    legacy_tables: int

    def link(self, table: str) -> LinkStatus:
        """Give the counts of a table's link."""
        return next(link for link in self.health.links if link.relation == table)

    @property
    def dangling(self) -> int:
        """Dangling links of all tables."""
        return sum(link.dangling for link in self.health.links)


@dataclass(frozen=True)
class Answer:
    """What PostgreSQL answered to one statement: rows, a command tag, or an error."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    tag: str
    error: psycopg.Error | None

    @property
    def sqlstate(self) -> str | None:
        """Code of the error; None where there was none."""
        return None if self.error is None else self.error.sqlstate

    @property
    def first(self) -> dict[str, Any]:
        """First row by column; empty where there is none."""
        return dict(zip(self.columns, self.rows[0], strict=True)) if self.rows else {}


@dataclass
class Checks:
    """Figures that the demonstration measured, beside what the job requires."""

    failures: list[str] = field(default_factory=list)
    number: int = 0

    def equal(self, what: str, measured: object, required: object) -> None:
        """Note a figure that has to be exactly this."""
        self.hold(f"{what}: {measured}, required is {required}", measured == required)

    def hold(self, what: str, truth: bool) -> None:
        """Note something that has to be so."""
        self.number += 1
        if not truth:
            self.failures.append(what)


_PREPARE = """
CREATE ROLE app_owner LOGIN CREATEROLE;
CREATE DATABASE report OWNER app_owner;
ALTER DATABASE report SET search_path = migration, public;
"""

_CLONE = "CREATE DATABASE scripts TEMPLATE report OWNER app_owner"

_RUN_SCRIPTS = """
SELECT flows_deleted, assets_said, assets_linked, assets_dangling, assets_right, mappings_said, mappings_right
  FROM report.run_scripts()
"""

_SCORE_LINKS = """
SELECT assets_linked, assets_dangling, assets_right, mappings_linked, mappings_right FROM report.score_links()
"""

_COUNT_LEGACY = "SELECT num_nonnulls(to_regclass('migration.data_import_sessions'))"

_COUNT_ARCHIVED = "SELECT count(*) FROM flowguard_archive.data_import_sessions"

_SNAPSHOT = "SELECT flowguard.snapshot(exact => true)"

_REPAIRED = """
SELECT coalesce(sum(linked), 0)::bigint AS linked, coalesce(sum(translated), 0)::bigint AS translated,
       coalesce(sum(quarantined), 0)::bigint AS quarantined, (SELECT count(*) FROM flowguard.quarantine) AS held
  FROM flowguard.run
"""


def run(console: Console, variant: Variant, deploying: Deploying, on_end: Callable[[str], None] | None = None) -> bool:
    """Run the demonstration on a server of its own, and say whether every figure is as the job requires.

    `on_end` is called with the connection string of the report's database before the server ends; for that, snapshots
    of its health are taken before and after.
    """
    start = time.monotonic()
    checks = Checks()
    with throwaway_server() as server:
        dsn = server.dsn("report", user="app_owner")
        with connect(server.dsn()) as admin, readable_errors("preparing the demonstration"):
            version = admin.execute("SHOW server_version").fetchone()
            for statement in _PREPARE.strip().splitlines():
                admin.execute(statement)
        assert version is not None  # noqa: S101 - SHOW has one row
        console.print(f"A throw-away PostgreSQL {version[0]} with the report's database; nothing of it stays behind.")
        scripts = _load(server, dsn, variant)
        _deploy(dsn, deploying, to="report/links")

        _heading(console, "1. Before the clean-up")
        before = _read_state(dsn)
        _show_before(console, before)
        if on_end is not None:
            _take_snapshot(dsn)

        _heading(console, "2. Deploying the clean-up and the guard")
        _deploy(dsn, deploying)

        _heading(console, "3. After it")
        after = _read_state(dsn)
        if on_end is not None:
            _take_snapshot(dsn)
        results = _read_results(dsn, before, after, scripts)
        _show_results(console, results, checks)
        _show_links(console, results)
        _show_truth(console, results)
        _show_health(console, before, after)
        _check_results(results, JOBS[variant], checks)

        _heading(console, "4. The guard at work")
        with connect(dsn) as connection:
            _prove(_Session(console, connection), checks)
        end = _read_state(dsn)
        checks.equal("dangling links in the end", end.dangling, 0)
        checks.equal(
            "modes in the end",
            {link.relation: link.mode for link in end.health.links},
            {link.relation: "observe" if link.unlinked else "enforce" for link in after.health.links},
        )

        _heading(console, "5. What is left to do")
        show_findings(console, check(dsn))
        if on_end is not None:
            on_end(dsn)
    return _conclude(console, checks, time.monotonic() - start)


# --- Before and after


def _load(server: Server, dsn: str, variant: Variant) -> Scripts:
    """Load the report's database, and let the report's scripts run on a copy of it."""
    names = ["schema.sql", "before.sql", "report_scripts.sql"]
    if variant == "translatable":
        names.append("variant_translatable.sql")
    with connect(dsn) as connection:
        for name in names:
            run_script(connection, _report_file(name), action=f"loading {name}")
    with connect(server.dsn()) as admin, readable_errors("copying the report's database"):
        admin.execute(_CLONE)
    with (
        connect(server.dsn("scripts", user="app_owner")) as connection,
        readable_errors("running the report's scripts"),
        connection.cursor(row_factory=class_row(Scripts)) as cursor,
    ):
        scripts = cursor.execute(_RUN_SCRIPTS).fetchone()
    assert scripts is not None  # noqa: S101 - a function with OUT parameters returns one row
    return scripts


def _report_file(name: str) -> Path:
    return changeset_directory() / "sql" / "report" / name


def _deploy(dsn: str, deploying: Deploying, to: str | None = None) -> None:
    """Deploy, showing each step; what only prepares the measurement, up to `to`, is deployed in silence."""
    if to is not None:
        changes.deploy(dsn, to=to)
        return
    with deploying() as progress:
        changes.deploy(dsn, on_progress=progress.show, on_notice=progress.notice)


def _read_state(dsn: str) -> State:
    health = read_health(dsn)
    with connect(dsn) as connection, readable_errors("looking for the legacy table"):
        row = connection.execute(_COUNT_LEGACY).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    return State(health, row[0])


def _take_snapshot(dsn: str) -> None:
    with connect(dsn) as connection, readable_errors("taking a snapshot of health"):
        connection.execute(_SNAPSHOT)


def _show_before(console: Console, before: State) -> None:
    console.print(f"Health score {before.health.score}. How the rows of the five tables are linked:")
    console.print()
    show_links(console, before.health.links)


@dataclass(frozen=True)
class Results:
    """What the clean-up came to: both states, what the runs did, and the links against the true ones."""

    before: State
    after: State
    repaired: Repaired
    scores: Scores
    scripts: Scripts
    archived: int  # rows of the legacy table in the archive


def _read_results(dsn: str, before: State, after: State, scripts: Scripts) -> Results:
    with connect(dsn) as connection, readable_errors("reading the results"):
        with connection.cursor(row_factory=class_row(Repaired)) as cursor:
            repaired = cursor.execute(_REPAIRED).fetchone()
        with connection.cursor(row_factory=class_row(Scores)) as scores_cursor:
            scores = scores_cursor.execute(_SCORE_LINKS).fetchone()
        archived = connection.execute(_COUNT_ARCHIVED).fetchone()
    assert repaired is not None  # noqa: S101 - an aggregate has one row
    assert scores is not None  # noqa: S101 - a function with OUT parameters returns one row
    assert archived is not None  # noqa: S101 - an aggregate has one row
    return Results(before, after, repaired, scores, scripts, archived[0])


def _show_results(console: Console, results: Results, checks: Checks) -> None:
    """Show the report's own table: its figures, and those measured here."""
    before, after = results.before, results.after
    orphans, assets, mappings = "discovery_flows", "assets", "import_field_mappings"
    rows: tuple[tuple[str, object, object, object, object], ...] = (
        ("Orphaned discovery flows", 11, before.link(orphans).dangling, 0, after.link(orphans).dangling),
        ("Assets without master flow", 29, before.link(assets).unlinked, 0, after.link(assets).unlinked),
        ("Field mappings without master flow", 178, before.link(mappings).unlinked, 0, after.link(mappings).unlinked),
        ("Legacy tables", 1, before.legacy_tables, 0, after.legacy_tables),
        ("Database health score", _SCORE_BEFORE, before.health.score, _SCORE_AFTER, after.health.score),
    )
    figures = ("before: report", "here", "after: report", "here ")
    table = new_table("", *figures, right=figures)
    for name, *values in rows:
        table.add_row(name, *(str(value) for value in values))
    console.print(table)
    for name, report_before, here_before, report_after, here_after in rows[:-1]:
        checks.equal(f"{name} before", here_before, report_before)
        checks.equal(f"{name} after", here_after, report_after)
    checks.hold(f"score before: {before.health.score}, must be below 85.2", before.health.score < _SCORE_BEFORE)
    checks.hold(f"score after: {after.health.score}, must be 97.3 or more", after.health.score >= _SCORE_AFTER)


def _show_links(console: Console, results: Results) -> None:
    """Show what the report calls its linkage validation and its discovery flow status."""
    console.print()
    _facts(console, "Linkage", *((link.relation, _linkage(link)) for link in results.after.health.links))
    flows, repaired = results.after.link("discovery_flows"), results.repaired
    _facts(
        console,
        "Discovery flows",
        ("in all", f"{flows.total}, and {repaired.held} in quarantine"),
        ("with a master", f"{flows.linked} ({100 * flows.coverage:.1f} %)"),
        ("without", f"{flows.unlinked}; they stay, and flowguard.violation lists them"),
        ("wrong before", f"{repaired.translated} translated, {repaired.quarantined} quarantined, none lost"),
    )


def _linkage(link: LinkStatus) -> str:
    return (
        f"{link.linked} of {link.total} linked ({100 * link.coverage:.1f} %), {link.dangling} dangling, "
        f"{link.mismatched} mismatched"
    )


def _show_truth(console: Console, results: Results) -> None:
    """Show how many links are right, here and by the report's scripts, which ran on a copy."""
    scores, scripts = results.scores, results.scripts
    assets, mappings = results.after.link("assets").total, results.after.link("import_field_mappings").total
    _facts(
        console,
        "Links to the right master, by the truth that is kept apart",
        ("PyFlowGuard", f"{scores.assets_right} of {assets} assets, {scores.mappings_right} of {mappings} mappings"),
        (
            "the report's scripts",
            f"{scripts.assets_right} of {assets} assets, {scripts.mappings_right} of {mappings} mappings",
        ),
        ("", f"(run on a copy; they say {scripts.assets_said} assets, and delete {scripts.flows_deleted} flows)"),
    )
    console.print(f"data_import_sessions left the application; its {results.archived} rows are in flowguard_archive.")
    console.print()


def _check_results(results: Results, job: Job, checks: Checks) -> None:
    after, repaired, scores = results.after, results.repaired, results.scores
    flows, assets, mappings = (after.link(table) for table in ("discovery_flows", "assets", "import_field_mappings"))
    checks.equal("assets linked to the right master", scores.assets_right, _ASSETS)
    checks.equal("mappings linked to the right master", scores.mappings_right, _MAPPINGS)
    checks.equal("assets, and linked", (assets.total, assets.linked), (_ASSETS, _ASSETS))
    checks.equal("mappings, and linked", (mappings.total, mappings.linked), (_MAPPINGS, _MAPPINGS))
    checks.equal("discovery flows, and linked", (flows.total, flows.linked), (job.flows, job.flows_linked))
    checks.equal("rows quarantined, and held", (repaired.quarantined, repaired.held), (job.quarantined,) * 2)
    checks.equal("links translated", repaired.translated, job.translated)
    checks.equal("flows there and held", flows.total + repaired.held, results.before.link("discovery_flows").total)
    checks.equal("dangling links", after.dangling, 0)
    checks.equal("rows of the legacy table in the archive", results.archived, _LEGACY_ROWS)
    checks.equal("flows that the report's scripts delete", results.scripts.flows_deleted, _WRONG_FLOWS)
    if job.scripts_right is not None:
        checks.equal("assets that the report's scripts get right", results.scripts.assets_right, job.scripts_right)


def _show_health(console: Console, before: State, after: State) -> None:
    table = new_table("health by category", "before", "after", "what is left to fix", right=["before", "after"])
    for was, category in zip(before.health.categories, after.health.categories, strict=True):
        table.add_row(category.category, str(was.score), str(category.score), category.detail)
    table.add_row("score", str(before.health.score), str(after.health.score), "", style="bold")
    console.print(table)


# --- The guard at work


class _Session:
    """Sends statements and shows them with what PostgreSQL answers."""

    def __init__(self, console: Console, connection: Connection) -> None:
        self.console = console
        self.connection = connection
        self.titles = 0

    def begin(self, title: str) -> None:
        """Begin a proof."""
        self.titles += 1
        if self.titles > 1:
            self.console.print()
        self.console.print(Text(f"4.{self.titles} {title}", style="bold"))

    def send(self, statement: str | sql.Composed) -> Answer:
        """Send one statement; an error is an answer too, and ends the transaction."""
        text = dedent(statement).strip() if isinstance(statement, str) else statement.as_string(self.connection)
        self.console.print(Text(indent(f"{text};", "  "), style="cyan"), soft_wrap=True)
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(text.encode())
                columns = tuple(column.name for column in cursor.description or ())
                answer = Answer(columns, tuple(cursor.fetchall()) if columns else (), cursor.statusmessage or "", None)
        except psycopg.Error as error:
            if error.sqlstate is None:
                raise
            answer = Answer((), (), "", error)
            if self.connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                self.connection.execute("ROLLBACK")
        self._show(answer)
        return answer

    def _show(self, answer: Answer) -> None:
        if answer.error is not None:
            diagnostic = answer.error.diag
            grid = Table.grid(padding=(0, 1))
            grid.add_row(Text("ERROR:", style="bold red"), f"{diagnostic.message_primary} (SQLSTATE {answer.sqlstate})")
            for label, text in (("DETAIL:", diagnostic.message_detail), ("HINT:", diagnostic.message_hint)):
                if text:
                    grid.add_row(label, text)
            self.console.print(Padding(grid, (0, 0, 0, 4)))
        elif answer.columns:
            table = Table(box=None, pad_edge=False, header_style="underline")
            for column in answer.columns:
                table.add_column(column, overflow="fold")
            for row in answer.rows:
                table.add_row(*("NULL" if value is None else str(value) for value in row))
            self.console.print(Padding(table, (0, 0, 0, 4)) if answer.rows else "    (0 rows)")
        else:
            self.console.print(f"    {answer.tag}")


_BY_REFERENCE = """
    INSERT INTO import_field_mappings
           (data_import_id, client_account_id, engagement_id, source_field, target_field)
    VALUES (md5('import 3')::uuid, md5('client 1')::uuid, md5('engagement 1')::uuid,
            'Rack', 'location')
    RETURNING source_field, (SELECT m.flow_name FROM crewai_flow_state_extensions AS m
                              WHERE m.flow_id = master_flow_id) AS master
"""

_BY_PROXIMITY = """
    INSERT INTO assets (client_account_id, engagement_id, name, asset_type, created_at)
    VALUES (md5('client 1')::uuid, md5('engagement 1')::uuid, 'yard-gate-03', 'server',
            '2024-12-10 09:03+00')
    RETURNING name, created_at, (SELECT m.flow_name FROM crewai_flow_state_extensions AS m
                                  WHERE m.flow_id = master_flow_id) AS master
"""

_SET_SESSION = "SELECT set_config('flowguard.master_flow_id', md5('master 13'), true)"

_BY_SESSION = """
    INSERT INTO assets (client_account_id, engagement_id, name, asset_type)
    VALUES (md5('client 1')::uuid, md5('engagement 1')::uuid, 'fleet-print-01', 'server')
    RETURNING name, (SELECT m.flow_name FROM crewai_flow_state_extensions AS m
                      WHERE m.flow_id = master_flow_id) AS master
"""

_UNLINKABLE = """
    INSERT INTO assets (client_account_id, engagement_id, name, asset_type, created_at)
    VALUES (md5('client 1')::uuid, md5('engagement 1')::uuid, 'nobody-knows-01', 'server',
            '2025-06-01 12:00+00')
"""

_DANGLING = """
    INSERT INTO assets (client_account_id, engagement_id, name, asset_type, master_flow_id)
    VALUES (md5('client 1')::uuid, md5('engagement 1')::uuid, 'ghost-01', 'server',
            md5('no such master')::uuid)
"""

_WRONG_COLUMN = """
    INSERT INTO assets (client_account_id, engagement_id, name, asset_type, master_flow_id)
    SELECT client_account_id, engagement_id, 'mixed-up-01', 'server', id
      FROM crewai_flow_state_extensions WHERE flow_id = md5('master 3')::uuid
"""

_LATE_IMPORT = """
    INSERT INTO data_imports (id, client_account_id, engagement_id, import_name, import_type)
    VALUES (md5('late import')::uuid, md5('client 2')::uuid, md5('engagement 2')::uuid,
            'Late', 'servers')
"""

_LATE_RECORDS = """
    INSERT INTO raw_import_records
           (data_import_id, client_account_id, engagement_id, row_number, raw_data)
    SELECT md5('late import')::uuid, md5('client 2')::uuid, md5('engagement 2')::uuid, n, '{}'
      FROM generate_series(1, 3) AS n
"""

_LATE_MAPPINGS = """
    INSERT INTO import_field_mappings
           (data_import_id, client_account_id, engagement_id, source_field, target_field)
    SELECT md5('late import')::uuid, md5('client 2')::uuid, md5('engagement 2')::uuid,
           name, lower(name)
      FROM unnest('{Name,CPU}'::text[]) AS name
"""

_LATE_MASTER = """
    INSERT INTO crewai_flow_state_extensions
           (flow_id, client_account_id, engagement_id, flow_type, flow_name)
    VALUES (md5('late master')::uuid, md5('client 2')::uuid, md5('engagement 2')::uuid,
            'discovery', 'Late')
"""

_LATE_LINK = """
    UPDATE data_imports SET master_flow_id = md5('late master')::uuid
     WHERE id = md5('late import')::uuid
"""

_LATE_CHILDREN = """
    SELECT count(*) AS children, count(master_flow_id) AS linked
      FROM (SELECT data_import_id, master_flow_id FROM raw_import_records
            UNION ALL
            SELECT data_import_id, master_flow_id FROM import_field_mappings) AS child
     WHERE data_import_id = md5('late import')::uuid
"""

_COUNT_CHILDREN = """
    SELECT kind, count(*)
      FROM (SELECT 'imports' AS kind, master_flow_id FROM data_imports
            UNION ALL SELECT 'raw records', master_flow_id FROM raw_import_records
            UNION ALL SELECT 'field mappings', master_flow_id FROM import_field_mappings
            UNION ALL SELECT 'discovery flows', master_flow_id FROM discovery_flows
            UNION ALL SELECT 'assets', master_flow_id FROM assets) AS child
     WHERE master_flow_id = md5('master 4')::uuid
     GROUP BY kind ORDER BY kind
"""

_KINDS = ["assets", "discovery flows", "field mappings", "imports", "raw records"]

_DELETE_MASTER = "DELETE FROM crewai_flow_state_extensions WHERE flow_id = md5('master 4')::uuid"

_PAUSED_INSERT = """
    INSERT INTO import_field_mappings
           (data_import_id, client_account_id, engagement_id, source_field, target_field)
    SELECT md5('import 5')::uuid, md5('client 2')::uuid, md5('engagement 2')::uuid,
           name, lower(name)
      FROM unnest('{Rack,Row,Room}'::text[]) AS name
"""

_PAUSE = "SELECT mode, paused FROM flowguard.pause('import_field_mappings')"

_RESUME = "SELECT mode, paused FROM flowguard.resume('import_field_mappings')"

_REPAIR = "CALL flowguard.repair('import_field_mappings')"

_UNDO = sql.SQL("SELECT * FROM flowguard.undo({})")

_OBSERVE = "SELECT mode FROM flowguard.set_mode('import_field_mappings', 'observe')"

_ENFORCE = "SELECT mode FROM flowguard.set_mode('import_field_mappings', 'enforce')"

_COUNT_UNLINKED = """
    SELECT total, linked, unlinked, mode FROM flowguard.link_status
     WHERE relation = 'import_field_mappings'::regclass
"""

_FIND_CLEAN_UP = """
    SELECT run_id, linked, translated, quarantined FROM flowguard.run
     WHERE note = 'pyflowguard:report/clean_up'
"""


def _prove(session: _Session, checks: Checks) -> None:
    """Show, and check, what the guard does at write time, and that a repair can be taken back."""
    _prove_fills(session, checks)
    _prove_refusals(session, checks)
    _prove_late_link(session, checks)
    _prove_cascade(session, checks)
    _prove_undo(session, checks)


def _prove_fills(session: _Session, checks: Checks) -> None:
    session.begin("A field mapping without a link takes that of its import")
    answer = session.send(_BY_REFERENCE)
    checks.equal("link by reference", answer.rows, (("Rack", "Discovery of depot-applications.csv"),))

    session.begin("An asset that refers to nothing takes the link of the discovery flow nearest in time")
    answer = session.send(_BY_PROXIMITY)
    checks.equal("link by proximity", [row[-1] for row in answer.rows], ["Discovery of yard-servers.csv"])

    session.begin("An application that knows its flow says so once in a transaction")
    with _transaction(session) as in_transaction:
        in_transaction.send(_SET_SESSION)
        answer = in_transaction.send(_BY_SESSION)
    checks.equal("link by session", answer.rows, (("fleet-print-01", "Discovery of fleet-applications.csv"),))


def _prove_refusals(session: _Session, checks: Checks) -> None:
    session.begin("An asset that no rule finds a master for is refused, at commit")
    session.send("BEGIN")
    session.send(_UNLINKABLE)
    answer = session.send("COMMIT")
    checks.equal("refusal of an unlinked row", answer.sqlstate, "FG001")
    diagnostic = answer.error.diag if answer.error else None
    checks.hold(
        "FG001 has a DETAIL and a HINT", bool(diagnostic and diagnostic.message_detail and diagnostic.message_hint)
    )

    session.begin("A link to a master that is not there is refused by the foreign key")
    checks.equal("refusal of a dangling link", session.send(_DANGLING).sqlstate, "23503")

    session.begin("So is the master's id where its flow_id belongs")
    checks.equal("refusal of the wrong key", session.send(_WRONG_COLUMN).sqlstate, "23503")


def _prove_late_link(session: _Session, checks: Checks) -> None:
    session.begin("Children come first, the link last: they follow in the same transaction")
    with _transaction(session) as in_transaction:
        for statement in (_LATE_IMPORT, _LATE_RECORDS, _LATE_MAPPINGS, _LATE_MASTER):
            in_transaction.send(statement)
        checks.equal("children, and linked, before the late link", in_transaction.send(_LATE_CHILDREN).rows, ((5, 0),))
        in_transaction.send(_LATE_LINK)
        checks.equal("children, and linked, after the late link", in_transaction.send(_LATE_CHILDREN).rows, ((5, 5),))


def _prove_cascade(session: _Session, checks: Checks) -> None:
    session.begin("A master takes its children with it")
    answer = session.send(_COUNT_CHILDREN)
    checks.equal("tables in which the master has children", [row[0] for row in answer.rows], _KINDS)
    checks.equal("delete of a master", session.send(_DELETE_MASTER).tag, "DELETE 1")
    checks.equal("children after the delete", session.send(_COUNT_CHILDREN).rows, ())


def _prove_undo(session: _Session, checks: Checks) -> None:
    session.begin("Rows written past the guard are repaired, and the repair is taken back")
    session.send(_PAUSE)
    session.send(_PAUSED_INSERT)
    session.send(_RESUME)
    repaired = session.send(_REPAIR).first
    checks.equal("rows linked by the repair", repaired.get("linked"), 3)
    undo = _UNDO.format(sql.Literal(repaired.get("run_id")))
    checks.equal("undo that would unlink enforced rows", session.send(undo).sqlstate, "FG202")
    session.send(_OBSERVE)
    checks.equal("undo: restored, skipped, remaining", session.send(undo).rows, ((3, 0, 0),))
    checks.equal("unlinked after undo", session.send(_COUNT_UNLINKED).first.get("unlinked"), 3)
    checks.equal("rows linked again", session.send(_REPAIR).first.get("linked"), 3)
    checks.equal("mode in the end", session.send(_ENFORCE).first.get("mode"), "enforce")
    checks.equal("unlinked in the end", session.send(_COUNT_UNLINKED).first.get("unlinked"), 0)

    session.begin("The clean-up cannot be taken back while keys forbid what was there, and says which")
    clean_up = session.send(_FIND_CLEAN_UP).first
    answer = session.send(_UNDO.format(sql.Literal(clean_up.get("run_id"))))
    checks.equal("undo that foreign keys forbid", answer.sqlstate, "FG203")


@contextmanager
def _transaction(session: _Session) -> Iterator[_Session]:
    session.send("BEGIN")
    yield session
    session.send("COMMIT")


# --- Layout


def _heading(console: Console, title: str) -> None:
    console.print()
    console.print(Text(title, style="bold"))
    console.print("=" * len(title))


def _facts(console: Console, title: str, *facts: tuple[str, str]) -> None:
    console.print(Text(title, style="bold"))
    grid = Table.grid(padding=(0, 2))
    for name, value in facts:
        grid.add_row(f"  {name}", value)
    console.print(grid)
    console.print()


def _conclude(console: Console, checks: Checks, seconds: float) -> bool:
    console.print()
    for failure in checks.failures:
        console.print(Text(f"NOT AS REQUIRED  {failure}", style="bold red"))
    verdict = (
        f"{len(checks.failures)} of {checks.number} figures are not as the job requires."
        if checks.failures
        else f"All {checks.number} figures checked are as the job requires."
    )
    console.print(Text(f"{verdict} ({seconds:.1f} s)", style="bold"))
    return not checks.failures
