"""Repair finds by time what the guard would have found; the rules of DESIGN 3.5, one row each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from engine.postgres import Connection, one, run
from engine.tables import add_reference, create, guard, links, register
from waiting import beside, wait_until

from pyflowguard import repair as repairs
from pyflowguard.database import Notice

EVENTS = """
INSERT INTO event VALUES
  (50, 1, 1, 'live', '2025-01-01 00:00Z'), (52, 1, 3, 'live', '2025-01-01 01:00Z'),
  (51, 1, 2, 'live', '2025-01-01 01:00Z'), (53, 1, 404, 'live', '2025-01-01 03:00Z'),
  (54, 1, 3, 'live', '2025-01-01 03:20Z'), (55, 1, 1, 'live', '2025-01-01 06:00Z'),
  (56, 2, 9, 'live', '2025-01-01 06:30Z'), (57, 1, 2, 'deleted', '2025-01-01 07:30Z'),
  (58, 1, NULL, 'live', '2025-01-01 07:20Z')
"""


@pytest.fixture
def unguarded(db: Connection) -> Connection:
    """Events, one of which points to no master, and no guard that would refuse it."""
    create(db)
    register(db)
    run(db, EVENTS)
    return db


@pytest.mark.parametrize(
    ("at", "flow"),
    [
        pytest.param("2025-01-01 00:30Z", 1, id="tie, the earlier"),
        pytest.param("2025-01-01 00:40Z", 2, id="one time, the smaller key"),
        pytest.param("2025-01-01 01:10Z", 2, id="one time before the row, the smaller key"),
        pytest.param("2025-01-01 02:59Z", 3, id="the nearest has no master, the next is after"),
        pytest.param("2025-01-01 03:05Z", 3, id="the nearest before has no master"),
        pytest.param("2025-01-01 05:00Z", 1, id="window, inclusive, before"),
        pytest.param("2025-01-01 04:59:59.999999Z", None, id="outside of the window before"),
        pytest.param("2025-01-01 07:00Z", 1, id="window, inclusive, after; nearer ones of others, deleted or unlinked"),
        pytest.param("2025-01-01 07:00:00.000001Z", None, id="outside of the window after"),
        pytest.param("infinity", None, id="infinite"),
        pytest.param(None, None, id="unknown"),
    ],
)
def test_repair_by_time(unguarded: Connection, at: str | None, flow: int | None) -> None:
    run(unguarded, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, %s)", at)
    run(unguarded, "CALL flowguard.repair('probe', link_column => 'flow')")
    assert links(unguarded, "probe") == {1: flow}


def test_a_second_reference_is_asked_where_the_first_gives_nothing(db: Connection) -> None:
    create(db)
    register(db)
    run(db, "ALTER TABLE probe ADD parent integer, ADD child integer")
    add_reference(db, "probe", "parent", "parent", agree=False, position=1)
    add_reference(db, "probe", "child", "child", agree=False, position=2)
    run(db, "INSERT INTO parent VALUES (10, 1, 1), (11, 1, NULL), (12, 1, 404)")
    run(db, "INSERT INTO child VALUES (20, 1, 2), (21, 1, NULL), (29, 2, 9)")
    run(
        db,
        "INSERT INTO probe (id, tenant, parent, child) VALUES (1, 1, 10, 20), (2, 1, 11, 20), (3, 1, 12, 20), "
        "(4, 1, NULL, 20), (5, 1, 404, 21), (6, 1, NULL, NULL), (7, 1, 11, 29), (8, NULL, 11, 29)",
    )
    run(db, "CALL flowguard.repair('probe', link_column => 'flow')")
    # A source's tenant is compared as far as it is known; a master's always.
    assert links(db, "probe") == {1: 1, 2: 2, 3: 2, 4: 2, 5: None, 6: None, 7: None, 8: 9}


def test_no_batch_is_compiled(unguarded: Connection) -> None:
    """JIT, which a session has on, would take longer to compile a batch than the batch takes."""
    run(unguarded, "CREATE TABLE seen (jit text)")
    run(
        unguarded,
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN INSERT INTO seen VALUES (current_setting('jit')); RETURN NEW; END$$",
    )
    run(unguarded, "CREATE TRIGGER note BEFORE UPDATE ON probe FOR EACH ROW EXECUTE FUNCTION note()")
    run(unguarded, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 00:30Z')")
    run(unguarded, "SET jit = on")
    run(unguarded, "CALL flowguard.repair('probe', link_column => 'flow')")
    assert (one(unguarded, "TABLE seen"), one(unguarded, "SHOW jit")) == ("off", "on")


# --- An index that is missing


MANY = """
INSERT INTO event SELECT n, 1, 1, 'live', timestamptz '2025-01-01' + n * interval '1 day'
  FROM generate_series(1, 20000) n;
ANALYZE event
"""


def test_a_missing_index_is_told_at_once(unguarded: Connection, session: Callable[[], Connection]) -> None:
    """While the first batch has yet to end, in a dry run as well."""
    run(unguarded, "DELETE FROM event")
    run(unguarded, MANY)
    run(unguarded, "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-02')")
    notices: list[Notice] = []
    dsn = unguarded.info.dsn
    holder = session()
    run(holder, "BEGIN")
    run(holder, "SELECT FROM probe FOR UPDATE")
    repair = partial(repairs.repair, dsn, "probe", link_column="flow", dry_run=True, on_notice=notices.append)
    with beside(repair) as repairing, holder:
        wait_until(lambda: notices != [], "the notice")
        assert not repairing.done()
    assert repairing.result().linked == 1
    assert [notice.message.partition(",")[0] for notice in notices] == ["table public.event has no index on (tenant"]
    assert "flowguard.guard('public.probe', 'flow')" in (notices[0].hint or "")


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        pytest.param("SELECT", True, id="none"),
        pytest.param("CREATE INDEX ON event (tenant, flow)", True, id="one of other columns"),
        pytest.param("CREATE INDEX ON event (at) WHERE flow > 1", True, id="one of some rows"),
        pytest.param("CREATE INDEX ON event (tenant, at)", False, id="of tenant and time"),
        pytest.param("CREATE INDEX ON event (at)", False, id="of time"),
        pytest.param("DELETE FROM event WHERE id > 9000; VACUUM ANALYZE event", False, id="few rows"),
        pytest.param("guard", False, id="guarded"),
    ],
)
def test_which_index_is_missing(unguarded: Connection, statement: str, *, told: bool) -> None:
    run(unguarded, "DELETE FROM event")
    run(unguarded, MANY)
    if statement == "guard":
        guard(unguarded, "probe")
    else:
        for part in statement.split(";"):
            run(unguarded, part)
    notices: list[Notice] = []
    repairs.repair(unguarded.info.dsn, on_notice=notices.append)
    assert ([notice for notice in notices if "has no index" in notice.message] != []) == told
