"""What the tests of the page share: the report's database, one with fifty links and a year, and ways to make a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import psycopg
import pytest
from acceptance.command import Run, command_in, without_libpq
from click.testing import CliRunner
from engine.postgres import Connection, run
from engine.tables import create, guard, register
from page.history import write_history
from psycopg.conninfo import make_conninfo

from pyflowguard import changes
from pyflowguard.cli import cli

if TYPE_CHECKING:
    from conftest import Databases

MakePage: TypeAlias = Callable[..., str]

DAYS = 365


@pytest.fixture
def db(engine_db: str) -> Iterator[Connection]:
    """Connect, as the plain owner, to a new database with the engine in it; each statement commits by itself."""
    with psycopg.connect(engine_db, autocommit=True) as connection:
        yield connection


@pytest.fixture
def app(db: Connection) -> Connection:
    """The small application of the engine's tests, guarded, with a defect of each kind written before it was."""
    create(db)
    register(db)
    run(
        db,
        """
INSERT INTO parent VALUES (10, 1, 1), (11, 1, NULL), (12, 1, 77), (13, 1, 9), (14, 2, 9);
INSERT INTO child (id, tenant, flow, parent) VALUES (20, 1, 1, 10), (21, 1, 2, 10), (22, 1, 1, 11);
INSERT INTO child (id, tenant) SELECT n, 1 FROM generate_series(100, 149) AS n;
INSERT INTO probe VALUES (60, 1, 1, NULL), (61, NULL, 1, NULL), (62, 1, NULL, now())
""",
    )
    guard(db)
    return db


@pytest.fixture(scope="session")
def demo_db(databases: Databases, report_template: str) -> Iterator[str]:
    """Give the report's database as the demonstration leaves it: cleaned up and guarded, with two snapshots."""
    with databases.new(report_template) as dsn:
        named = make_conninfo(dsn, options="-c search_path=migration,public")
        changes.deploy(named, to="report/links")
        with psycopg.connect(named, autocommit=True) as connection:
            run(connection, "SELECT flowguard.snapshot(exact => true)")
            changes.deploy(named)
            run(connection, "SELECT flowguard.snapshot(exact => true)")
        yield named


@pytest.fixture(scope="session")
def large_db(databases: Databases, engine_template: str) -> Iterator[str]:
    """Give a database with fifty links, some with rows that are wrong, and a snapshot for each day of a year."""
    with databases.new(engine_template) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            run(connection, _LARGE)
            write_history(connection, DAYS, changing=30)
        yield dsn


_LARGE = """
CREATE SCHEMA warehouse_operations;
CREATE TABLE flow (id bigint PRIMARY KEY, tenant integer NOT NULL, created_at timestamptz DEFAULT now());
INSERT INTO flow SELECT n, 1 FROM generate_series(1, 100) AS n;
SELECT flowguard.add_master('flow', 'id', '{tenant}');
DO $do$
DECLARE
  v_table text;
BEGIN
  FOR i IN 1 .. 50 LOOP
    v_table := format('%s.%s_%s', CASE WHEN i % 3 = 0 THEN 'warehouse_operations' ELSE 'public' END,
                      (ARRAY['invoice', 'consignment', 'import_field_mapping', 'asset', 'transport_order_confirmation',
                             'sensor_reading', 'raw_import_record'])[1 + i % 7], to_char(i, 'FM00'));
    EXECUTE format('CREATE TABLE %s (id bigint PRIMARY KEY, tenant integer NOT NULL, flow_id bigint)', v_table);
    EXECUTE format('INSERT INTO %s SELECT n, 1, CASE WHEN n > %s THEN 1 + n %% 100 END FROM generate_series(1, %s) n',
                   v_table, CASE WHEN i % 4 = 0 THEN i * i % 60 ELSE 0 END, 40 + i * 37 % 900);
    IF i % 10 = 0 THEN
      EXECUTE format('INSERT INTO %s SELECT 10000 + n, 1, 5000 + n FROM generate_series(1, 1 + %s %% 9) n', v_table, i);
    END IF;
    PERFORM flowguard.add_link(v_table::regclass, 'flow_id');
    PERFORM flowguard.guard(v_table::regclass, 'flow_id');
  END LOOP;
END;
$do$
"""


def write_page(dsn: str, path: Path, *options: str) -> str:
    """Run `pyflowguard report` on a database, which has to say nothing; what it writes into a file."""
    result = CliRunner().invoke(cli, ["report", "--dsn", dsn, "-o", str(path), *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert (result.exit_code, result.output) == (0, ""), result.output
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def pages(demo_db: str, large_db: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write the pages of these two databases."""
    directory = tmp_path_factory.mktemp("pages")
    written = {"demo": demo_db, "large": large_db}
    for name, dsn in written.items():
        write_page(dsn, directory / f"{name}.html")
    return {name: directory / f"{name}.html" for name in written}


@pytest.fixture
def make_page(tmp_path: Path) -> MakePage:
    """Make pages of databases."""

    def make(dsn: str, *options: str, form: str = "html") -> str:
        return write_page(dsn, tmp_path / "report", "--format", form, *options)

    return make


@pytest.fixture
def command() -> Run:
    """Run `pyflowguard ARGUMENTS` as a user does."""
    return command_in(without_libpq(), timeout=60)
