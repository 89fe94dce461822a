"""What a call of undo() reads of the ledger does not grow with what is undone already, nor with what is left."""

from __future__ import annotations

from statistics import median

import pytest
from engine.postgres import Connection, one, run
from engine.tables import create
from repair.calls import dump, repair, undo

COUNT = 600
PIECE = 30
READ = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relid = %s::regclass"


def fill(db: Connection, on_orphan: str) -> None:
    """Make orphans, each with a row that goes with it; all that keys of the application refer to is there."""
    create(db)
    run(db, "CREATE TABLE known (id integer PRIMARY KEY); INSERT INTO known VALUES (1), (77)")
    run(db, "ALTER TABLE probe ADD FOREIGN KEY (flow) REFERENCES known")
    run(db, "CREATE TABLE part (id integer PRIMARY KEY, probe integer REFERENCES probe ON DELETE CASCADE)")
    run(db, "CREATE INDEX ON part (probe)")
    run(db, f"INSERT INTO probe SELECT n, 1, 77 FROM generate_series(1, {COUNT}) n")  # noqa: S608  ours
    run(db, "INSERT INTO part SELECT id, id FROM probe")
    run(db, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    run(db, "SELECT flowguard.add_link('probe', 'flow', on_orphan => %s)", on_orphan)
    # As on a ledger that is large; the planner knows nothing of it.
    run(db, "SET enable_seqscan = off")


def rows_read(db: Connection, table: str, done: int, analysed: int | None) -> list[int]:
    """Undo a run in pieces, and tell how many rows of a table of the ledger each call read.

    After so many pieces the table is analysed, as autovacuum does some time.
    """
    read: list[int] = []
    remaining = 1
    while remaining:
        if len(read) == analysed:
            run(db, f"ANALYZE {table}")
        with db.transaction():
            before = one(db, READ, table)
            restored, skipped, remaining = undo(db, done, max_rows=PIECE)
            assert (restored, skipped) == (PIECE, 0)
            read.append(one(db, READ, table) - before)
    return read


ANALYSED = pytest.mark.parametrize("analysed", [None, 0, 1, 3, 8, 15])


@ANALYSED
def test_links(db: Connection, analysed: int | None) -> None:
    fill(db, "unlink")
    before = dump(db, "probe", "part")
    done = repair(db)
    assert done.unlinked == COUNT
    read = rows_read(db, "flowguard.repair_change", done.id, analysed)
    assert len(read) == COUNT / PIECE
    assert read[0] < 15 * COUNT  # all of the run is looked at before a part is put back
    assert median(read[1:]) < 15 * PIECE  # one may meet the plan of before an ANALYZE
    assert dump(db, "probe", "part") == before


@ANALYSED
def test_quarantined_rows(db: Connection, analysed: int | None) -> None:
    fill(db, "quarantine")
    before = dump(db, "probe", "part")
    done = repair(db)
    assert done.quarantined == COUNT
    read = rows_read(db, "flowguard.quarantined_row", done.id, analysed)
    assert len(read) == 2 * COUNT / PIECE
    assert read[0] < 15 * 2 * COUNT
    assert median(read[1:]) < 15 * PIECE  # one may meet the plan of before an ANALYZE
    assert dump(db, "probe", "part") == before
