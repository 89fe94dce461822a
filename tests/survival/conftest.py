"""Databases that are guarded and have a history, to be dumped, copied, replicated and upgraded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from survival import worlds

from pyflowguard import changes

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


@pytest.fixture
def template(world: Callable[[str], str]) -> Callable[[str], str]:
    """Give the name of such a database, to make a copy of."""
    return lambda name: str(conninfo_to_dict(world(name))["dbname"])
