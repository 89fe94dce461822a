"""No message tells a tenant anything of another one's rows: it is the same whether they are there or not."""

from __future__ import annotations

import re
from collections.abc import Callable

import psycopg
import pytest
from messages.stage import OWNER, hear, perform

PROBE = "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 12:00Z')"
CHILD = "INSERT INTO child (id, tenant, parent) VALUES (1, 1, 5)"
BYPASSED = "BEGIN; SELECT flowguard.bypass('as it was'); {}; COMMIT"


@pytest.mark.parametrize(
    ("one", "other", "write"),
    [
        pytest.param("", "INSERT INTO event VALUES (1, 2, 9, 'live', '2025-01-01 12:00Z')", PROBE, id="near in time"),
        pytest.param(
            "INSERT INTO event VALUES (1, 1, 1, 'live', '2025-01-01 09:00Z')",
            "INSERT INTO event VALUES (1, 1, 1, 'live', '2025-01-01 09:00Z'), (2, 2, 9, 'live', '2025-01-01 11:59Z')",
            PROBE,
            id="nearer in time",
        ),
        pytest.param(
            "INSERT INTO parent (id, tenant, flow) VALUES (5, 2, 9)",
            BYPASSED.format("INSERT INTO parent (id, tenant) VALUES (5, 2)"),
            CHILD,
            id="referred to, linked or not",
        ),
        pytest.param(
            "INSERT INTO parent (id, tenant, flow) VALUES (5, 2, 9)",
            "INSERT INTO flow VALUES (8, 2); INSERT INTO parent (id, tenant, flow) VALUES (5, 2, 8)",
            CHILD,
            id="referred to, linked to this or that",
        ),
        pytest.param("", "INSERT INTO flow VALUES (77, 2)", "INSERT INTO parent VALUES (1, 1, 77)", id="its master"),
        pytest.param(
            "", "INSERT INTO flow VALUES (77, 2)", "INSERT INTO probe (id, tenant, flow) VALUES (1, 1, 77)",
            id="its master, where a tenant may be NULL",
        ),
        pytest.param(
            "", "INSERT INTO flow VALUES (77, 2)",
            "BEGIN; SET LOCAL flowguard.flow = 77; INSERT INTO parent (id, tenant) VALUES (1, 1); COMMIT",
            id="its master, by the setting",
        ),
        pytest.param(
            "INSERT INTO parent VALUES (1, 1, 1)",
            "INSERT INTO parent VALUES (1, 1, 1), (2, 2, 9)",
            "DELETE FROM flow WHERE id = 1",
            id="its children",
        ),
    ],
)  # fmt: skip
def test_what_another_tenant_has_changes_no_message(
    world: Callable[[str], str], as_role: Callable[[str, str], str], one: str, other: str, write: str
) -> None:
    messages = []
    for rows in (one, other):
        with psycopg.connect(as_role(world("enforce"), OWNER), autocommit=True) as connection:
            perform(connection, rows)
            messages.append([str(said) for said in hear(connection, write)])
    assert messages[0] == messages[1]
    assert len(messages[0]) == 1
    assert re.match(r"ERROR: (FG001|23503): ", messages[0][0]), messages[0]
