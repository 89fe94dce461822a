"""Rows of the small application that no guard has seen, steps that repair and undo them, and what must not be lost."""

from __future__ import annotations

from collections.abc import Callable

from concurrency.invariants import State
from concurrency.stage import Session, Stage, Step
from engine.postgres import Connection, rows, run
from engine.tables import LINKS
from repair.calls import Run, dump, repair

UNLINKED = """
INSERT INTO parent VALUES (10, 1, 1), (11, 1, 2), (12, 1, NULL);
INSERT INTO child (id, tenant, parent) SELECT n, 1, 10 + n % 2 FROM generate_series(20, 27) n;
INSERT INTO child (id, tenant, parent) VALUES (28, 1, 12);
INSERT INTO grandchild (id, tenant, child) SELECT n, 1, n - 10 FROM generate_series(30, 38) n;
INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z');
INSERT INTO probe VALUES (60, 1, NULL, '2025-01-01 00:10Z'), (61, 1, NULL, '2025-01-02 00:00Z');
"""
ORPHANS = """
INSERT INTO parent VALUES (13, 1, 77), (14, 1, 77);
INSERT INTO child (id, tenant, parent) VALUES (29, 1, 13);
"""
"""Parents whose master is gone, of which one takes a child with it."""

LINKED = 8 + 8 + 1
"""Children, grandchildren and probes that repair links; a parent, a child, a grandchild and a probe stay unlinked."""


def rows_of_before(stage: Stage, *, orphans: bool = False) -> Callable[[Connection], None]:
    """Write rows past the guard, as before there was one."""

    def write(_: Connection) -> None:
        with stage.observer.transaction():
            run(stage.observer, "SET LOCAL session_replication_role = replica")
            run(stage.observer, UNLINKED + (ORPHANS if orphans else ""))

    return write


def repairs(relation: str | None = None, batch_size: int = 3) -> Step:
    """Repair one link, or all, in batches."""

    def call(session: Session) -> Run:
        if relation is None:
            return repair(session.connection, batch_size=batch_size)
        return repair(session.connection, relation, batch_size=batch_size, link_column="flow")

    return Step(f"repairs {relation or 'all'}, {batch_size} rows at a time", call, alone=True)


UNDO = Step("undoes the last run", "SELECT * FROM flowguard.undo((SELECT max(run_id) FROM flowguard.run))")

HOLD = Step("holds child 24", "SELECT FROM child WHERE id = 24 FOR UPDATE")
"""Where a repair in small batches comes to wait, in the middle of its work."""


def everything(app: Connection) -> set[tuple[str, int]]:
    """Give all rows but masters and deleted events, those in quarantine included."""
    query = "SELECT table_name, (row_key ->> 'id')::int FROM flowguard.quarantine WHERE action = 'deleted'"
    return {*State(app).kinds(), *((table, key) for table, key in rows(app, query))}


def contents(app: Connection) -> object:
    """Give all rows, to compare."""
    return dump(app, *LINKS)
