"""Databases that are guarded and have a history, to be dumped, copied, replicated and upgraded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

import psycopg
import pytest
from acceptance.command import Run, command_in, without_libpq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from servers import chosen_bindir
from survival import worlds
from survival.servers import Running, started

from pyflowguard import changes, server

if TYPE_CHECKING:
    from conftest import Databases


@pytest.fixture(scope="session")
def world(databases: Databases, engine_template: str, report_template: str) -> Iterator[Callable[[str], str]]:
    """Give the connection string of a database that is not changed: `report` or `odd`."""
    with databases.new(report_template) as report, databases.new(engine_template) as odd:

        @cache
        def build(name: str) -> str:
            if name == "report":
                changes.deploy(make_conninfo(report, options="-c search_path=migration,public"))
                return report
            with psycopg.connect(odd, autocommit=True) as connection:
                worlds.build_odd(connection)
            return odd

        yield build


@pytest.fixture(scope="session")
def expected(world: Callable[[str], str]) -> Callable[[str], dict[str, list[str]]]:
    """Give what such a database holds: what is to survive. Nothing is left to be guarded in it."""

    @cache
    def read(name: str) -> dict[str, list[str]]:
        found = worlds.contents(world(name), name)
        assert found["plan"] == []
        return found

    return read


@pytest.fixture
def template(world: Callable[[str], str]) -> Callable[[str], str]:
    """Give the name of such a database, to make a copy of."""
    return lambda name: str(conninfo_to_dict(world(name))["dbname"])


@pytest.fixture(scope="session")
def primary() -> Iterator[Running]:
    """Start a server that others can follow, with the roles that the tests want."""
    settings = {**server.UNSAFE, "synchronous_commit": "on", "wal_level": "logical", "max_replication_slots": "20"}
    with started(server.new_cluster(chosen_bindir(), settings)) as running:
        with psycopg.connect(running.dsn(), autocommit=True) as admin:
            admin.execute("CREATE ROLE app_owner LOGIN NOSUPERUSER")
        yield running


@pytest.fixture(scope="session")
def standby(primary: Running) -> Iterator[Running]:
    """Start a physical standby of the primary."""
    cluster = server.new_cluster(chosen_bindir(), server.UNSAFE)
    copy = [
        str(cluster.bin / "pg_basebackup"),
        "-D",
        cluster.order["data"],
        "-R",
        "-X",
        "stream",
        "-c",
        "fast",
        "--no-sync",
    ]
    cluster.order["prepare"] = [[*copy, "-d", primary.dsn()]]
    with started(cluster) as running:
        yield running


@pytest.fixture
def command() -> Run:
    """Run `pyflowguard ARGUMENTS` as a user does."""
    return command_in(without_libpq(), timeout=60)
