"""How many rows a query reads of each table, one after the other: what it costs on a large table."""

from __future__ import annotations

from engine.postgres import Connection, rows, run

_READ = "SELECT relname::text, seq_tup_read FROM pg_stat_xact_user_tables WHERE schemaname = 'public'"


def read(connection: Connection, query: str) -> dict[str, int]:
    """Run a query and give how many rows it read, by table, whatever they held; 0 where an index led to them."""
    with connection.transaction():
        before = dict(rows(connection, _READ))  # of transactions before, which are not told of yet
        run(connection, query)
        return {table: count - before.get(table, 0) for table, count in rows(connection, _READ)}
