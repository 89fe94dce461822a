"""Short ways to ask a real server something, and to state that it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import psycopg
import pytest
from psycopg import sql

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]
Query: TypeAlias = sql.SQL | sql.Composed


def run(connection: Connection, text: str | Query, *parameters: object) -> None:
    """Run one statement, or several without parameters."""
    connection.execute(text.encode() if isinstance(text, str) else text, parameters or None)


def rows(connection: Connection, text: str | Query, *parameters: object) -> list[tuple[Any, ...]]:
    """Give all rows of a query."""
    query = text.encode() if isinstance(text, str) else text
    return connection.execute(query, parameters or None).fetchall()


def one(connection: Connection, text: str | Query, *parameters: object) -> Any:  # noqa: ANN401  of any type
    """Give the first column of the only row of a query."""
    found = rows(connection, text, *parameters)
    assert len(found) == 1, found
    return found[0][0]


@dataclass
class Refusal:
    """What the server said when it refused; filled when the block of `refused` ends."""

    code: str = ""
    message: str = ""
    detail: str = ""
    hint: str = ""
    table: str | None = None
    constraint: str | None = None

    def says(self, *parts: str) -> None:
        """Check that there are message, detail and a remedy, and that each part is in one of them."""
        assert self.message.startswith("flowguard: "), self
        assert self.detail, self
        assert self.hint.endswith((".", ")")), self
        for part in parts:
            assert part in self.message + self.detail + self.hint, (part, self)


@contextmanager
def refused(*codes: str) -> Iterator[Refusal]:
    """Expect the server to refuse what the block does, with one of these SQLSTATEs."""
    refusal = Refusal()
    with pytest.raises(psycopg.Error) as caught:
        yield refusal
    said = caught.value.diag
    refusal.code = caught.value.sqlstate or ""
    refusal.message = said.message_primary or str(caught.value)
    refusal.detail = said.message_detail or ""
    refusal.hint = said.message_hint or ""
    refusal.table = said.table_name
    refusal.constraint = said.constraint_name
    assert refusal.code in codes, refusal
