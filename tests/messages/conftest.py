"""Databases in which messages are provoked: the small application of the engine's tests, guarded more or less."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from engine import tables
from messages.sites import Site, of_functions, of_scripts
from messages.stage import Teller
from psycopg.conninfo import conninfo_to_dict

if TYPE_CHECKING:
    from conftest import Databases

ODD = """
CREATE VIEW view_of_child AS SELECT * FROM child;
CREATE MATERIALIZED VIEW copy_of_child AS SELECT * FROM child;
CREATE TABLE keyless (id integer, tenant integer, flow integer, at timestamptz);
CREATE TABLE text_link (id integer PRIMARY KEY, tenant integer, flow text, at timestamp);
CREATE TABLE doc_master (id json, tenant integer, code integer, created_at timestamptz);
CREATE TABLE per_tenant (id integer, tenant integer NOT NULL, created_at timestamptz, PRIMARY KEY (tenant, id));
"""
KNOWN = """
SELECT flowguard.add_master('flow', 'id', '{tenant}');
SELECT flowguard.add_link(t, 'flow') FROM unnest('{parent,child,event,probe}'::regclass[]) t;
"""
DEPUTY = "messages_deputy"
"""A role that may call the engine and owns nothing."""


@pytest.fixture(scope="session")
def worlds(databases: Databases, engine_template: str) -> Iterator[Callable[[str], str]]:
    """Give the name of a database to clone: bare tables, known links, or all guarded in observe or enforce."""
    with ExitStack() as stack:

        @cache
        def make(world: str) -> str:
            dsn = stack.enter_context(databases.new(engine_template))
            with psycopg.connect(dsn, autocommit=True) as connection:
                if world in {"bare", "known"}:
                    tables.create(connection)
                    connection.execute(ODD)
                    connection.execute(KNOWN if world == "known" else "SELECT")
                else:
                    tables.guarded(connection, mode=world)
            return str(conninfo_to_dict(dsn)["dbname"])

        yield make


@pytest.fixture
def world(databases: Databases, worlds: Callable[[str], str]) -> Iterator[Callable[[str], str]]:
    """Clone a world; gives its connection string."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(databases.new(worlds(name)))


@pytest.fixture(scope="session")
def sites(databases: Databases, worlds: Callable[[str], str]) -> list[Site]:
    """Give every place in the deployed functions, generated ones included, and in the scripts that speaks."""
    found = set(of_scripts())
    for name in ("observe", "enforce"):
        with databases.new(worlds(name)) as dsn, psycopg.connect(dsn) as connection:
            found.update(of_functions(connection))
    return sorted(found)


@pytest.fixture
def tell(request: pytest.FixtureRequest, sites: list[Site]) -> Iterator[Teller]:
    """Check what is said in a test that `reaches` places; in the end it must have reached each of them."""
    teller = Teller(sites, list(request.function.places))
    yield teller
    assert teller.open == [], "not reached"


@pytest.fixture(scope="session", autouse=True)
def deputy(postgresql: Any) -> None:  # noqa: ANN401  conftest's class
    """Create the role of a deputy once."""
    with psycopg.connect(postgresql.conninfo(), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {DEPUTY} LOGIN NOSUPERUSER".encode())


@pytest.fixture(autouse=True)
def memberships(postgresql: Any) -> Iterator[None]:  # noqa: ANN401  conftest's class
    """Take back what roles were given to others, as some HINTs say: roles are the whole server's, not a database's."""
    listed = "SELECT roleid::regrole::text, member::regrole::text FROM pg_auth_members"
    with psycopg.connect(postgresql.conninfo(), autocommit=True) as admin:
        before = set(admin.execute(listed))
        yield
        for role, member in set(admin.execute(listed)) - before:
            admin.execute(f"REVOKE {role} FROM {member}".encode())
