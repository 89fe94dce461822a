"""flowguard.check_all(): each finding is reached by a defect that is planted, and gone when its remedy was run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from engine.postgres import Connection, one, refused, rows, run
from engine.tables import guard
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from pyflowguard.health import KINDS, SCORE_TOO_LOW

HEALTH = Path(__file__).parents[2] / "deploy" / "health.sql"


def findings(connection: Connection) -> dict[str, dict[str, Any]]:
    """Give the findings by name, one of each."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute("SELECT * FROM flowguard.check_all()")
        return {row["name"]: row for row in cursor}


def past_the_keys(connection: Connection, statement: str) -> None:
    """Write what the keys would refuse, as before there was a guard."""
    with psycopg.connect(make_conninfo(connection.info.dsn, user="postgres"), autocommit=True) as superuser:
        run(superuser, "SET session_replication_role = replica")
        run(superuser, statement)


Plant = Callable[[Connection], None]


def plant_stopped_run(connection: Connection) -> None:
    run(connection, "INSERT INTO flowguard.repair_run (status, pid) VALUES ('running', 1)")


DEFECTS: dict[str, tuple[Plant, str, list[str] | None]] = {
    # name: how it is planted, level, and what mends it where the remedy is no statement to be run as it is
    "unlinked_rows": (lambda c: past_the_keys(c, "INSERT INTO child VALUES (21, 1, NULL, NULL, 10)"), "WARN", None),
    "dangling_links": (lambda c: past_the_keys(c, "INSERT INTO parent VALUES (11, 1, 77)"), "ERROR", None),
    "mismatched_links": (
        lambda c: past_the_keys(c, "INSERT INTO child VALUES (21, 1, 2, NULL, 10)"),
        "ERROR",
        ["UPDATE child SET flow = 1"],
    ),
    "tenantless_links": (
        lambda c: run(c, "INSERT INTO probe VALUES (61, NULL, 1, now())"),
        "WARN",
        ["UPDATE probe SET tenant = 1"],
    ),
    "not_guarded": (lambda c: run(c, "SELECT flowguard.unguard('probe', 'flow')"), "WARN", None),
    "paused": (lambda c: run(c, "SELECT flowguard.pause('probe', 'flow')"), "WARN", None),
    "guard_incomplete": (
        lambda c: run(c, 'ALTER TABLE parent DISABLE TRIGGER "~flowguard_parent_flow_insert"'),
        "ERROR",
        None,
    ),
    "registered_twice": (
        lambda c: run(
            c,
            "CREATE TABLE whole (LIKE grandchild INCLUDING ALL) PARTITION BY LIST (id); "
            "SELECT flowguard.add_link('whole', 'flow'); SELECT flowguard.guard('whole', 'flow'); "
            "ALTER TABLE whole ATTACH PARTITION grandchild DEFAULT",
        ),
        "ERROR",
        None,
    ),
    "table_gone": (lambda c: run(c, "DROP TABLE grandchild"), "ERROR", None),
    "column_gone": (
        lambda c: run(c, "ALTER TABLE probe RENAME COLUMN flow TO stream"),
        "ERROR",
        ["ALTER TABLE probe RENAME COLUMN stream TO flow"],
    ),
    "leftover": (
        lambda c: run(
            c,
            'CREATE TRIGGER "~flowguard_nobody_insert" BEFORE INSERT ON probe FOR EACH ROW '
            "EXECUTE FUNCTION flowguard.probe_flow_fill()",
        ),
        "ERROR",
        None,
    ),
    "bypassed": (lambda c: run(c, "SELECT flowguard.bypass('a test')"), "INFO", []),
    "run_stopped": (plant_stopped_run, "WARN", ["CALL flowguard.repair()"]),
}


def mend(connection: Connection, remedy: str) -> None:
    """Run the remedy as it is printed: one statement, or several, which a CALL must not share a transaction with."""
    for statement in remedy.split("; "):
        if not statement.startswith("see "):
            run(connection, statement)


def make_well(connection: Connection, name: str) -> None:
    """Mend the planted defect, and what it leaves."""
    by_hand = DEFECTS[name][2]
    for remedy in [findings(connection)[name]["remedy"]] if by_hand is None else by_hand:
        mend(connection, remedy)
    assert name not in findings(connection)
    # A table that is gone leaves parts of the guard on others, which have remedies of their own.
    while left := {name: row for name, row in findings(connection).items() if row["level"] != "INFO"}:
        assert set(left) == {"guard_incomplete"}
        mend(connection, left["guard_incomplete"]["remedy"])


def test_all_is_well(well: Connection) -> None:
    assert findings(well) == {}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_found_and_its_remedy_mends_it(well: Connection, name: str) -> None:
    plant, level, by_hand = DEFECTS[name]
    plant(well)
    found = findings(well)
    assert name in found, found
    finding = found[name]
    assert finding["level"] == level
    assert finding["description"]
    assert finding["remedy"]
    assert finding["cache_key"].startswith(name)
    assert findings(well)[name]["cache_key"] == finding["cache_key"]
    if by_hand != []:  # what happened stays on record
        make_well(well, name)


def test_a_key_that_is_not_validated(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (11, 1, 77)")
    guard(app)
    found = findings(app)
    assert set(found) == {"dangling_links", "key_not_validated"}
    mend(app, found["key_not_validated"]["remedy"])
    assert set(findings(app)) == {"rows_in_quarantine"}


def test_rows_in_quarantine(app: Connection) -> None:
    run(app, "INSERT INTO parent VALUES (11, 1, 77), (12, 1, 78)")
    run(app, "CALL flowguard.repair()")
    finding = findings_about(app, "rows_in_quarantine")[0]
    assert (finding["level"], finding["relation"]) == ("INFO", "public.parent")
    assert finding["description"].startswith("2 rows")
    mend(app, finding["remedy"])
    assert findings_about(app, "rows_in_quarantine") == []
    assert rows(app, "SELECT id, flow FROM parent ORDER BY 1") == [(11, 77), (12, 78)]


def findings_about(connection: Connection, name: str) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute("SELECT * FROM flowguard.check_all() WHERE name = %s", [name])
        return list(cursor)


def test_in_enforce_what_observe_warns_of_is_an_error(app: Connection) -> None:
    for table, row in (("parent", "(11, 1, NULL)"), ("probe", "(61, NULL, 1, now())")):
        run(app, f"INSERT INTO {table} VALUES {row}")  # noqa: S608  ours
    run(app, "UPDATE flowguard.link SET mode = 'enforce'")
    assert findings_about(app, "unlinked_rows")[0]["level"] == "ERROR"
    assert findings_about(app, "tenantless_links")[0]["level"] == "ERROR"


def test_every_name_is_planted_by_a_test() -> None:
    """A finding that no test reaches may be one that nothing reaches."""
    source = HEALTH.read_text()
    body = source[source.index("FUNCTION flowguard._registry_findings()") :]
    names = set(re.findall(r"(?:SELECT|\()\s*'([a-z]+(?:_[a-z]+)*)',\s*(?:'(?:ERROR|WARN|INFO)'|CASE)", body))
    assert names == {*DEFECTS, "key_not_validated", "rows_in_quarantine"}
    assert names | {SCORE_TOO_LOW} == set(KINDS)


def test_keys_of_findings_are_told_apart(dirty: Connection) -> None:
    keys = [key for (key,) in rows(dirty, "SELECT cache_key FROM flowguard.check_all()")]
    assert len(keys) == len(set(keys)) > 5


def test_the_amount_is_that_of_the_description(dirty: Connection) -> None:
    """Where a description begins with a figure, a baseline can tell when it grows."""
    run(dirty, "SELECT flowguard.bypass('a test')")
    guard(dirty, "parent", "child")
    DEFECTS["guard_incomplete"][0](dirty)
    run(dirty, "CALL flowguard.repair('probe', link_column => 'flow')")
    found = rows(dirty, "SELECT name, description, amount FROM flowguard.check_all()")
    assert {name for name, _, amount in found if amount is not None} == {
        "unlinked_rows", "dangling_links", "mismatched_links", "tenantless_links", "key_not_validated",
        "guard_incomplete", "rows_in_quarantine", "bypassed",
    }  # fmt: skip
    for name, description, amount in found:
        figure = re.match(r"\d+ ", description)
        assert amount == (int(figure[0]) if figure else None), name


def test_long_lists_are_cut(app: Connection) -> None:
    run(app, "INSERT INTO parent SELECT n, 1, NULL FROM generate_series(1, 100) n")
    finding = findings_about(app, "unlinked_rows")[0]
    assert finding["description"] == "100 of 100 rows are unlinked"
    assert finding["detail"].endswith("…")
    assert len(finding["detail"]) < 200


# --- Roles


VIEWS = ("link_status", "violation", "health_category", "run", "run_change", "quarantine")


def test_the_viewer_reads_figures_without_rights_on_the_tables(
    dirty: Connection, roles: Callable[[str], Connection]
) -> None:
    viewer = roles("flowguard_viewer")
    for view in VIEWS:
        assert rows(viewer, f"SELECT count(*) FROM flowguard.{view}") == rows(  # noqa: S608  ours
            dirty,
            f"SELECT count(*) FROM flowguard.{view}",  # noqa: S608  ours
        )
    assert one(viewer, "SELECT flowguard.health_score()") == one(dirty, "SELECT flowguard.health_score()")
    assert one(viewer, "SELECT count(*) FROM flowguard.check_all()") > 0
    assert one(viewer, "SELECT flowguard.version()")
    with refused("42501"):
        rows(viewer, "SELECT * FROM parent")


@pytest.mark.parametrize(
    "call",
    [
        "SELECT flowguard.bypass('no')",
        "CALL flowguard.repair()",
        "SELECT flowguard.undo(1)",
        "SELECT flowguard.guard('parent', 'flow')",
        "SELECT flowguard.unguard('parent', 'flow')",
        "SELECT flowguard.set_mode('parent', 'enforce', 'flow')",
        "SELECT flowguard.pause('parent', 'flow')",
        "SELECT flowguard.add_link('parent', 'flow')",
        "SELECT flowguard.drop_link('parent', 'flow')",
        "SELECT flowguard.grant_roles()",
        "SELECT flowguard._note_violations()",
        "UPDATE flowguard.link SET mode = 'enforce'",
        "DELETE FROM flowguard.quarantined_row",
        "INSERT INTO flowguard.privileged_transaction (xid, started_at, kind) SELECT '1', now(), 'bypass'",
    ],
)
def test_the_viewer_changes_nothing(dirty: Connection, roles: Callable[[str], Connection], call: str) -> None:
    del dirty
    with refused("42501"):
        run(roles("flowguard_viewer"), call)


def test_the_admin_may_bypass(app: Connection, roles: Callable[[str], Connection]) -> None:
    run(app, "SELECT flowguard.set_mode('parent', 'enforce', 'flow')")
    guard(app)
    run(app, "GRANT ALL ON parent TO flowguard_admin")
    admin = roles("flowguard_admin")
    with refused("FG001"):
        run(admin, "INSERT INTO parent VALUES (10, 1)")
    with admin.transaction():
        run(admin, "SELECT flowguard.bypass('an import by hand')")
        run(admin, "INSERT INTO parent VALUES (10, 1)")
    assert findings(app)["bypassed"]["detail"].endswith("an import by hand")


def test_nobody_else_may_look(app: Connection, roles: Callable[[str], Connection]) -> None:
    with psycopg.connect(make_conninfo(app.info.dsn, user="postgres"), autocommit=True) as admin:
        run(admin, "CREATE ROLE u_nobody NOLOGIN")
        try:
            nobody = roles("u_nobody")
            for view in VIEWS:
                with refused("42501"):
                    rows(nobody, f"SELECT * FROM flowguard.{view}")  # noqa: S608  ours
            with refused("42501"):
                run(nobody, "SELECT flowguard.check_all()")
        finally:
            run(admin, "DROP ROLE u_nobody")
