"""Writers at REPEATABLE READ and SERIALIZABLE beside a repair, and a repair at these levels: a race ends in 40001.

What is lost by that is a try: the transaction that is sent again, the command that is called again, goes through.
"""

from __future__ import annotations

import psycopg
import pytest
from concurrency.invariants import LEDGER, State
from concurrency.stage import REPEATABLE_READ, SERIALIZABLE
from engine.postgres import Connection, one, refused, rows
from engine.tables import links
from psycopg import IsolationLevel
from psycopg.conninfo import make_conninfo
from waiting import PATIENCE, beside, wait_until, waiting

from pyflowguard import repair

LEVELS = pytest.mark.parametrize("level", [REPEATABLE_READ, SERIALIZABLE], ids=lambda level: level.name)
CHILDREN = range(20, 40)


def holds(app: Connection) -> None:
    """Check that nothing is wrong, and that the ledger is sane."""
    assert set(State(app).kinds().values()) <= {"linked"}
    assert rows(app, LEDGER) == []


@LEVELS
def test_a_writer_whose_row_was_repaired_sends_it_again(unlinked: Connection, level: IsolationLevel) -> None:
    app = unlinked
    with psycopg.connect(app.info.dsn) as writer:
        writer.isolation_level = level
        assert one(writer, "SELECT count(*) FROM child WHERE flow IS NULL") == len(CHILDREN)
        assert repair.repair(app.info.dsn, batch_size=3).linked == len(CHILDREN)
        with refused("40001"):
            writer.execute("UPDATE child SET note = 'mine', flow = NULL WHERE id = 30")
        writer.rollback()
        writer.execute("UPDATE child SET note = 'mine' WHERE id = 30")
        writer.commit()
    assert links(app, "child") == dict.fromkeys(CHILDREN, 2)
    holds(app)


@LEVELS
def test_a_repair_that_loses_the_race_is_called_again(
    unlinked: Connection, admin: Connection, level: IsolationLevel
) -> None:
    """Ten tries of a batch see the same snapshot of before, so the procedure gives up; what it committed stays.

    The command repairs at READ COMMITTED whatever the default is: it waits for the writer once and goes on.
    """
    app = unlinked
    setting = f"-c default_transaction_isolation={level.name.replace('_', chr(92) + ' ').lower()}"
    dsn = make_conninfo(app.info.dsn, options=setting)
    with psycopg.connect(app.info.dsn) as writer, psycopg.connect(dsn, autocommit=True) as session:
        writer.execute("UPDATE child SET flow = 2, note = 'mine' WHERE id = 30")
        with beside(lambda: session.execute("CALL flowguard.repair(batch_size => 2)")) as mending:
            wait_until(lambda: bool(waiting(admin, "flowguard.repair")), "repair to wait")
            writer.commit()
            with pytest.raises(psycopg.errors.SerializationFailure):
                mending.result(PATIENCE)
        assert one(app, "SELECT count(*) FROM flowguard.run_change") == 10
        assert {key for key, flow in links(app, "child").items() if flow} == {*range(20, 31)}

        writer.execute("UPDATE child SET flow = 2, note = 'mine' WHERE id = 36")
        with beside(lambda: repair.repair(dsn, batch_size=2)) as mending:
            wait_until(lambda: bool(waiting(admin, "flowguard.repair")), "repair to wait")
            writer.commit()
            assert mending.result(PATIENCE).remaining == 0
    assert links(app, "child") == dict.fromkeys(CHILDREN, 2)
    assert one(app, "SELECT count(*) FROM flowguard.run_change") == len(CHILDREN) - 2
    assert rows(app, "SELECT id, note FROM child WHERE note = 'mine' ORDER BY id") == [(30, "mine"), (36, "mine")]
    holds(app)
