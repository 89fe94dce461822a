"""What DESIGN promises of every guarded link, whatever stands beside it."""

from __future__ import annotations

from engine.postgres import Connection, one, rows


def kept(connection: Connection) -> None:
    """Check that no row dangles or is of another tenant, enforced rows are linked, and unlinked ones listed."""
    wrong = rows(
        connection,
        "SELECT relation::text, link_column, mode, unlinked, dangling, mismatched FROM flowguard.link_status "
        "WHERE dangling + mismatched > 0 OR mode = 'enforce' AND unlinked > 0",
    )
    assert wrong == []
    assert one(connection, "SELECT sum(unlinked) FROM flowguard.link_status") == one(
        connection, "SELECT count(*) FROM flowguard.violation WHERE kind IN ('unlinked', 'ambiguous')"
    )


def settled(connection: Connection) -> None:
    """Check that nothing is missing for any guarded link and nothing left over."""
    found = rows(
        connection,
        "SELECT name, relation, detail FROM flowguard.check_all() "
        "WHERE name IN ('guard_incomplete', 'key_not_validated', 'leftover', 'table_gone', 'column_gone')",
    )
    assert found == []


def listed(connection: Connection) -> dict[tuple[str, int], str]:
    """Give the kind of each row that is listed, by table and id."""
    found = rows(
        connection, "SELECT relation::text, (row_key ->> 'id')::integer, kind FROM flowguard.violation ORDER BY 1, 2"
    )
    return {(relation, row): kind for relation, row, kind in found}
