"""Drivers of Python under one surface, so that a test says once what all of them must see."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from io import StringIO
from typing import Any, Protocol, TypeAlias

import asyncpg
import psycopg
import psycopg2
import psycopg2.extras
from engine.postgres import Connection, Refusal

Rows: TypeAlias = list[tuple[Any, ...]]


class Client(Protocol):
    """A session by one driver; each statement commits by itself, but in `transaction()`. Parameters are $1, $2, …."""

    def rows(self, text: str, *parameters: object) -> Rows:
        """Run one statement and give its rows."""

    def many(self, text: str, parameters: Sequence[Sequence[object]]) -> Rows:
        """Run an INSERT … VALUES … RETURNING for many rows, as the driver does it best."""

    def copy(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """COPY rows into a table."""

    def prepare(self, text: str) -> Callable[..., Rows]:
        """Prepare a statement in the server."""

    def transaction(self) -> AbstractContextManager[object]:
        """Make one transaction of a block."""

    def refusal(self, error: BaseException) -> tuple[str, Refusal]:
        """Give the class of the driver's error, and what it says of the server's."""

    def close(self) -> None:
        """End the session."""


class Psycopg:
    """psycopg 3, which prepares in the server by itself what it is sent more than five times."""

    def __init__(self, to: Connection) -> None:
        self.connection = psycopg.connect(to.info.dsn, autocommit=True)

    def rows(self, text: str, *parameters: object) -> Rows:
        with psycopg.RawCursor(self.connection) as cursor:
            cursor.execute(text.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def many(self, text: str, parameters: Sequence[Sequence[object]]) -> Rows:
        with psycopg.RawCursor(self.connection) as cursor:
            cursor.executemany(text.encode(), parameters, returning=True)
            found = cursor.fetchall()
            while cursor.nextset():
                found += cursor.fetchall()
            return found

    def copy(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
        with self.connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            for row in rows:
                copy.write_row(row)

    def prepare(self, text: str) -> Callable[..., Rows]:
        def execute(*parameters: object) -> Rows:
            with psycopg.RawCursor(self.connection) as cursor:
                return cursor.execute(text.encode(), parameters, prepare=True).fetchall()

        return execute

    def transaction(self) -> AbstractContextManager[object]:
        return self.connection.transaction()

    def refusal(self, error: BaseException) -> tuple[str, Refusal]:
        assert isinstance(error, psycopg.Error)
        return f"psycopg.{type(error).__name__}", diagnosed(error.diag)

    def close(self) -> None:
        self.connection.close()


class Psycopg2:
    """psycopg 2, which puts the parameters into the text."""

    def __init__(self, to: Connection) -> None:
        self.connection = psycopg2.connect(to.info.dsn)
        self.connection.autocommit = True

    def rows(self, text: str, *parameters: object) -> Rows:
        with self.connection.cursor() as cursor:
            cursor.execute(re.sub(r"\$\d", "%s", text), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def many(self, text: str, parameters: Sequence[Sequence[object]]) -> Rows:
        with self.connection.cursor() as cursor:
            template = re.search(r"\(\$1.*?\)", text)
            assert template is not None
            found: Rows = psycopg2.extras.execute_values(
                cursor,
                text.replace(template[0], "%s"),
                parameters,
                template=re.sub(r"\$\d", "%s", template[0]),
                page_size=3,
                fetch=True,
            )
            return found

    def copy(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        text = "".join("\t".join(r"\N" if value is None else str(value) for value in row) + "\n" for row in rows)
        with self.connection.cursor() as cursor:
            cursor.copy_expert(f"COPY {table} ({', '.join(columns)}) FROM STDIN", StringIO(text))

    def prepare(self, text: str) -> Callable[..., Rows]:
        """By hand: the driver itself prepares nothing."""
        name = f"put_{abs(hash(text))}"
        with self.connection.cursor() as cursor:
            cursor.execute(f"PREPARE {name} AS {text}")
        return lambda *parameters: self.rows(
            f"EXECUTE {name} ({', '.join(f'${n}' for n, _ in enumerate(parameters, 1))})", *parameters
        )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.connection.autocommit = False
        try:
            with self.connection:
                yield
        finally:
            self.connection.autocommit = True

    def refusal(self, error: BaseException) -> tuple[str, Refusal]:
        assert isinstance(error, psycopg2.Error)
        return f"psycopg2.{type(error).__name__}", diagnosed(error.diag)

    def close(self) -> None:
        self.connection.close()


class Asyncpg:
    """asyncpg, which prepares every statement in the server, and keeps it; in binary, with types of its own."""

    def __init__(self, to: Connection) -> None:
        self.loop = asyncio.new_event_loop()
        info = to.info
        self.connection = self.loop.run_until_complete(
            asyncpg.connect(host=info.host, port=info.port, user=info.user, database=info.dbname)
        )

    def rows(self, text: str, *parameters: object) -> Rows:
        return self.fetched(self.connection.fetch(text, *parameters))

    def many(self, text: str, parameters: Sequence[Sequence[object]]) -> Rows:
        return self.fetched(self.connection.fetchmany(text, parameters))

    def copy(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self.loop.run_until_complete(
            self.connection.copy_records_to_table(table, columns=columns, records=[tuple(row) for row in rows])
        )

    def prepare(self, text: str) -> Callable[..., Rows]:
        statement = self.loop.run_until_complete(self.connection.prepare(text))
        return lambda *parameters: self.fetched(statement.fetch(*parameters))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        transaction = self.connection.transaction()
        self.loop.run_until_complete(transaction.start())
        try:
            yield
        except BaseException:
            self.loop.run_until_complete(transaction.rollback())
            raise
        self.loop.run_until_complete(transaction.commit())

    def refusal(self, error: BaseException) -> tuple[str, Refusal]:
        assert isinstance(error, asyncpg.PostgresError)
        given = error.as_dict()
        return f"asyncpg.{type(error).__name__}", Refusal(
            code=given["sqlstate"],
            message=given["message"],
            detail=given.get("detail", ""),
            hint=given.get("hint", ""),
            table=given.get("table_name"),
            constraint=given.get("constraint_name"),
        )

    def close(self) -> None:
        self.loop.run_until_complete(self.connection.close())
        self.loop.close()

    def fetched(self, records: Any) -> Rows:  # noqa: ANN401  asyncpg has no types here
        return [tuple(record) for record in self.loop.run_until_complete(records)]


CLIENTS: dict[str, Callable[[Connection], Client]] = {"psycopg": Psycopg, "psycopg2": Psycopg2, "asyncpg": Asyncpg}


def diagnosed(said: Any) -> Refusal:  # noqa: ANN401  the Diagnostics of psycopg 2 or 3
    """Give what libpq tells of an error."""
    return Refusal(
        code=said.sqlstate or "",
        message=said.message_primary or "",
        detail=said.message_detail or "",
        hint=said.message_hint or "",
        table=said.table_name,
        constraint=said.constraint_name,
    )
