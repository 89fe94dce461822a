"""The small application on a stage, guarded in either mode, or registered only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from typing import Any, TypeAlias

import psycopg
import pytest
from concurrency.stage import Stage
from engine import tables
from engine.postgres import Connection, run
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

Stages: TypeAlias = Callable[..., Stage]
"""The fixture `stages`: give it mode and on_master_delete, and get the stage that is set up so.

`guarded`: whether links are guarded or registered only. `use`: one of its own, for stories that change more than rows.
"""

OWN_KEYS = """
ALTER TABLE parent ADD FOREIGN KEY (flow) REFERENCES flow ON DELETE SET NULL;
ALTER TABLE child ADD FOREIGN KEY (flow) REFERENCES flow ON DELETE SET NULL;
ALTER TABLE grandchild ADD FOREIGN KEY (flow) REFERENCES flow ON DELETE SET NULL;
ALTER TABLE event ADD FOREIGN KEY (flow) REFERENCES flow ON DELETE SET NULL;
ALTER TABLE probe ADD FOREIGN KEY (flow) REFERENCES flow ON DELETE CASCADE;
"""
"""Keys of the application, checked at once, where on_master_delete is to keep what they say."""

LEDGER = """
DELETE FROM flowguard.quarantined_row;
DELETE FROM flowguard.repair_change;
DELETE FROM flowguard.violation_seen;
DELETE FROM flowguard.repair_run;
"""


def clear(app: Connection) -> None:
    """Bring tables and ledger back to what they were before the first story."""
    tables.clear(app)
    run(app, LEDGER)


def set_the_stage(
    stack: ExitStack,
    databases: Any,  # noqa: ANN401  conftest's class
    template: str,
    mode: str = "observe",
    prepare: Callable[[Connection], object] = clear,
) -> Stage:
    """Make a database from the template, and a stage in it. Of a ring of sessions the last one to wait gives way.

    The others have looked for a ring long before: the server looks once, when a session has waited this long.
    """
    dsn = stack.enter_context(databases.new(template))
    observer = stack.enter_context(psycopg.connect(make_conninfo(dsn, user="postgres"), autocommit=True))
    name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
    observer.execute(sql.SQL("ALTER DATABASE {} SET deadlock_timeout = '1ms'").format(name))
    app = stack.enter_context(psycopg.connect(dsn, autocommit=True))
    stage = Stage(dsn, app, observer, prepare, mode)
    stack.callback(stage.close)
    return stage


@pytest.fixture(scope="session")
def stages(databases: Any, engine_template: str) -> Iterator[Stages]:  # noqa: ANN401  conftest's class
    """Give the small application on a stage; each is set up once."""
    with ExitStack() as stack:

        @cache
        def made(mode: str, on_master_delete: str, guarded: bool, _use: str) -> Stage:
            stage = set_the_stage(stack, databases, engine_template, mode)
            tables.create(stage.app)
            if on_master_delete == "keep":
                run(stage.app, OWN_KEYS)
            tables.register(stage.app, mode=mode, on_master_delete=on_master_delete)
            if guarded:
                tables.guard(stage.app)
            return stage

        def find(
            mode: str = "observe", on_master_delete: str = "set null", *, guarded: bool = True, use: str = "rows"
        ) -> Stage:
            return made(mode, on_master_delete, guarded, use)

        yield find


@pytest.fixture
def new_stage(databases: Any) -> Iterator[Callable[..., Stage]]:  # noqa: ANN401  conftest's class
    """Set a stage of the test's own, in a database from a template."""
    with ExitStack() as stack:
        yield partial(set_the_stage, stack, databases)
