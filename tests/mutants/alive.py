"""The engine with a fault in it still runs: whatever is written, nothing fails but by a refusal.

The script of the mutants runs this before the tests that a fault names. A fault that breaks the engine's SQL would fail
them all and prove nothing. What the writes lead to is not looked at here. pytest does not collect this file by itself.
"""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from engine import tables
from engine.postgres import Connection, run

REFUSALS = ("FG", "23503")
WRITES = (
    "INSERT INTO parent VALUES (10, 1, NULL), (11, 1, 1), (12, 2, 9)",
    "INSERT INTO parent VALUES (10, 1, 2) ON CONFLICT DO NOTHING",
    "BEGIN; SET LOCAL flowguard.flow = '1'; INSERT INTO parent VALUES (13, 1); COMMIT",
    "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 1, 11)",
    "INSERT INTO grandchild (id, tenant, child) VALUES (30, 1, 20)",
    "UPDATE parent SET flow = 2 WHERE id IN (10, 11)",
    "UPDATE child SET parent = 13 WHERE id = 20",
    "UPDATE child SET flow = NULL",
    "INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z'), (51, 1, 2, 'live', now())",
    "INSERT INTO probe (id, tenant, at) VALUES (60, 1, '2025-01-01 00:30Z'), (61, 1, '2024-12-31 23:30Z')",
    "INSERT INTO probe (id, tenant, at) VALUES (62, 1, now()), (63, 1, '2025-06-01')",
    "UPDATE event SET at = '2025-06-01', flow = 3 WHERE id = 50",
    "UPDATE probe SET tenant = 2 WHERE id = 60",
    "DELETE FROM flow WHERE id = 3",
    "CALL flowguard.repair()",
    "SELECT flowguard.undo(max(run_id)) FROM flowguard.run",
    "SELECT flowguard.guard('probe', 'flow')",
    "SELECT flowguard.pause('probe', 'flow'); SELECT flowguard.resume('probe', 'flow')",
    "SELECT count(*) FROM flowguard.violation",
)


def write(connection: Connection, statement: str) -> None:
    """Run it; a refusal is as good as none."""
    try:
        run(connection, statement)
    except psycopg.Error as error:
        if not (error.sqlstate or "").startswith(REFUSALS):
            raise
        if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            connection.rollback()


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_nothing_fails_but_by_a_refusal(
    databases: Any,  # noqa: ANN401  conftest's class
    engine_template: str,
    mode: str,
) -> None:
    with databases.new(engine_template) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        tables.guarded(connection, mode=mode, on_master_delete="set null")
        for statement in WRITES:
            write(connection, statement)
