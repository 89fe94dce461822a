"""The server that the tests share, and fresh databases on it: empty, with the engine, or with the report's data.

One PostgreSQL a session, from the wheel, or from PYFLOWGUARD_TEST_BINDIR (/usr/lib/postgresql/15/bin, say). A database
fixture gives the connection string of a database of its own, dropped after the test. It belongs to `app_owner`, an
ordinary role, and the string connects as that role; `as_role` turns it into a string for another one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import profiles  # noqa: F401  chooses how much is tried
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from servers import chosen_bindir, lacking, memory_directory
from testing.postgresql import Postgresql

from pyflowguard import changes, database, server
from pyflowguard.database import Connection

OWNER = "app_owner"
SETTINGS = {
    **server.UNSAFE,
    "max_connections": "200",
    "max_prepared_transactions": "10",
    "max_locks_per_transaction": "256",
}
SQL = Path(__file__).parents[1] / "sql"


class TestPostgresql(Postgresql):  # type: ignore[misc]
    """testing.postgresql with our way to start a server: not as root, and never left behind."""

    __test__ = False
    base_dir: str

    def initialize(self) -> None:
        """Take a directory of ours; the one that the base class makes is unreachable for the server's user."""
        super().initialize()
        self.stack = ExitStack()
        self.cluster = server.new_cluster(Path(self.postgres).parent, SETTINGS, parent=memory_directory())
        shutil.rmtree(self.base_dir)
        self.base_dir = str(self.cluster.directory)
        self._use_tmpdir = False

    def initialize_database(self) -> None:
        """Leave initdb to start(): the watchdog runs it, as the user who must own the data."""

    def start(self) -> None:
        self.settings["port"], self.postmaster = self.stack.enter_context(server.watched_server(self.cluster.order))
        self.poststart()

    def is_alive(self) -> bool:
        return bool(self.is_server_available())

    def terminate(self, *_: object) -> None:
        self.stack.close()

    def conninfo(self, dbname: str = "postgres", user: str = "postgres") -> str:
        """Give a connection string by TCP, which programs such as sqitch and pgbench take too."""
        return make_conninfo(host="127.0.0.1", port=self.settings["port"], dbname=dbname, user=user)

    @property
    def bin(self) -> Path:
        """Directory of the server's programs."""
        return self.cluster.bin


class Databases:
    """Makes and drops databases on the server, under names that no other process uses."""

    def __init__(self, postgresql: TestPostgresql, admin: Connection) -> None:
        self.postgresql = postgresql
        self.admin = admin
        self.numbers = count(1)
        # Copying files takes less of a processor than logging each page, which is the default from 15 on.
        self.strategy = sql.SQL("STRATEGY file_copy" if admin.info.server_version >= 150000 else "")

    @contextmanager
    def new(self, template: str = "template1") -> Iterator[str]:
        """Clone a database and drop it after the block, with the engine's roles made in it; yields its DSN."""
        name = f"t{os.getpid()}_{next(self.numbers)}"
        self.admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {} {}").format(
                sql.Identifier(name), sql.Identifier(template), sql.Identifier(OWNER), self.strategy
            )
        )
        roles = self._roles()
        try:
            if roles:
                self._grant_roles(name)
            yield self.postgresql.conninfo(name, OWNER)
        finally:
            self.admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            for role, needed in self._roles().items():
                if not needed and role not in roles:
                    self.admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))

    def _roles(self) -> dict[str, bool]:
        """Name the engine's roles that the server has, each with whether some database needs it."""
        found = self.admin.execute(
            r"""
            SELECT r.rolname, EXISTS (
                     SELECT FROM pg_shdepend AS d WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid)
              FROM pg_roles AS r WHERE r.rolname ~ '^flowguard_(admin|viewer)$'
            """
        )
        return {str(name): bool(needed) for name, needed in found}

    def _grant_roles(self, name: str) -> None:
        """Roles are the whole server's, and another database may need some that the engine in a template knows not."""
        with psycopg.connect(self.postgresql.conninfo(name, OWNER), autocommit=True) as owner:
            if owner.execute("SELECT to_regprocedure('flowguard.grant_roles()')").fetchone() != (None,):
                owner.execute("SELECT flowguard.grant_roles()")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[TestPostgresql]:
    """The session's server, with the role `app_owner` on it."""
    bindir = chosen_bindir()
    with TestPostgresql(initdb=str(bindir / "initdb"), postgres=str(bindir / "postgres")) as running:
        with psycopg.connect(running.conninfo(), autocommit=True) as admin:
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER").format(sql.Identifier(OWNER)))
        yield running


@pytest.fixture(scope="session")
def databases(postgresql: TestPostgresql) -> Iterator[Databases]:
    """Make databases from templates."""
    with psycopg.connect(postgresql.conninfo(), autocommit=True) as admin:
        yield Databases(postgresql, admin)


@pytest.fixture
def empty_db(databases: Databases) -> Iterator[str]:
    """Give a new database with nothing in it."""
    with databases.new() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def engine_template(databases: Databases) -> Iterator[str]:
    """Name of a database in which the whole plan is deployed by the plain owner; the profile does nothing there."""
    with databases.new() as dsn:
        changes.deploy(dsn)
        yield str(conninfo_to_dict(dsn)["dbname"])


@pytest.fixture
def engine_db(databases: Databases, engine_template: str) -> Iterator[str]:
    """Give a new database with the engine in it."""
    with databases.new(engine_template) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def report_template(databases: Databases) -> Iterator[str]:
    """Name of a database that holds the report's tables and rows, as they were before the clean-up."""
    with databases.new() as dsn:
        for name in ("schema.sql", "before.sql"):
            with database.connect(dsn) as connection:
                database.run_script(connection, SQL / "report" / name, action=f"loading {name}")
        yield str(conninfo_to_dict(dsn)["dbname"])


@pytest.fixture
def report_db(databases: Databases, report_template: str) -> Iterator[str]:
    """Give a new database with the report's tables and rows, and no guard."""
    with databases.new(report_template) as dsn:
        yield dsn


@pytest.fixture
def as_role() -> Callable[[str, str], str]:
    """Turn a connection string into the same one for another role; postgres is the superuser."""
    return lambda dsn, role: make_conninfo(dsn, user=role)


@pytest.fixture
def roles(engine_db: str, as_role: Callable[[str, str], str]) -> Iterator[Callable[[str], Connection]]:
    """Log in as somebody who has one of the engine's two roles; they are made where the server lacks them.

    They go with the database.
    """
    with ExitStack() as opened, psycopg.connect(as_role(engine_db, "postgres"), autocommit=True) as admin:
        for role in ("flowguard_viewer", "flowguard_admin"):
            if admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).fetchone() is None:
                admin.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
        with psycopg.connect(engine_db) as owner:
            owner.execute("SELECT flowguard.grant_roles()")

        def login(role: str) -> Connection:
            connection = opened.enter_context(psycopg.connect(as_role(engine_db, "postgres"), autocommit=True))
            connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
            return connection

        yield login


@pytest.fixture
def tool() -> Callable[[str], str]:
    """Find a program; where the machine lacks it, the test is skipped, or fails in CI: see servers.lacking()."""

    def find(name: str) -> str:
        path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
        return lacking(name) if path is None else path

    return find
