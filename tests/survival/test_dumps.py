"""pg_dump and pg_restore, CREATE DATABASE … TEMPLATE: what comes back is guarded, and so is its past."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from survival.servers import program
from survival.worlds import can_be_undone, contents, still_guards

if TYPE_CHECKING:
    from conftest import Databases, TestPostgresql

World = Callable[[str], str]
Expected = Callable[[str], dict[str, list[str]]]
AsRole = Callable[[str, str], str]

WORLDS = ["report", "odd"]


@pytest.mark.parametrize("name", WORLDS)
def test_a_dump_in_the_custom_format_restored_in_parallel(
    *, name: str, world: World, expected: Expected, empty_db: str, postgresql: TestPostgresql, tmp_path: Path
) -> None:
    """By the plain owner of it all, as everything else."""
    file = tmp_path / "dump"
    program(postgresql.bin / "pg_dump", "-Fc", "-f", str(file), "-d", world(name))
    program(postgresql.bin / "pg_restore", "-j", "2", "--exit-on-error", "-d", empty_db, str(file))
    assert contents(empty_db, name) == expected(name)
    still_guards(empty_db, name)
    can_be_undone(empty_db, name)


@pytest.mark.parametrize("name", ["odd"])
def test_a_plain_dump(
    *, name: str, world: World, expected: Expected, empty_db: str, postgresql: TestPostgresql, tmp_path: Path
) -> None:
    file = tmp_path / "dump.sql"
    program(postgresql.bin / "pg_dump", "-f", str(file), "-d", world(name))
    program(postgresql.bin / "psql", "-qX", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-f", str(file), "-d", empty_db)
    assert contents(empty_db, name) == expected(name)
    still_guards(empty_db, name)
    can_be_undone(empty_db, name)


@pytest.mark.parametrize("triggers", [True, False], ids=["with triggers", "--disable-triggers"])
@pytest.mark.parametrize("name", WORLDS)
def test_data_into_a_schema_that_is_there(
    *,
    name: str,
    triggers: bool,
    world: World,
    expected: Expected,
    empty_db: str,
    as_role: AsRole,
    postgresql: TestPostgresql,
    tmp_path: Path,
) -> None:
    """A dump of data alone is needed for it: in one of everything, PostgreSQL does not order tables by their keys."""
    schema, data = str(tmp_path / "schema"), str(tmp_path / "data")
    program(postgresql.bin / "pg_dump", "-Fc", "--schema-only", "-f", schema, "-d", world(name))
    program(postgresql.bin / "pg_restore", "--exit-on-error", "-d", empty_db, schema)
    # The report's master refers to itself, with a key that is checked at once; PostgreSQL warns of that.
    warned = "circular foreign-key constraints on this table" if name == "report" else ""
    program(postgresql.bin / "pg_dump", "-Fc", "--data-only", "-f", data, "-d", world(name), warned=warned)
    options = [] if triggers else ["--disable-triggers"]
    dsn = empty_db if triggers else as_role(empty_db, "postgres")
    program(postgresql.bin / "pg_restore", "--exit-on-error", *options, "-d", dsn, data)
    assert contents(empty_db, name) == expected(name)
    still_guards(empty_db, name)
    can_be_undone(empty_db, name)


@pytest.mark.parametrize("name", ["odd"])
def test_a_database_made_from_a_template(
    name: str, expected: Expected, databases: Databases, template: Callable[[str], str]
) -> None:
    # PostgreSQL copies no database that somebody is connected to, so this comes first.
    before = expected(name)
    with databases.new(template(name)) as copy:
        assert contents(copy, name) == before
        still_guards(copy, name)
        can_be_undone(copy, name)
