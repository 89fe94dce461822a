"""What the tests of health share: the small application of the engine's tests, with one row of each kind of defect."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from engine.postgres import Connection, run
from engine.tables import create, guard, register


@pytest.fixture
def db(engine_db: str) -> Iterator[Connection]:
    """Connect, as the plain owner, to a new database with the engine in it; each statement commits by itself."""
    with psycopg.connect(engine_db, autocommit=True) as connection:
        yield connection


@pytest.fixture
def app(db: Connection) -> Connection:
    """The small application, registered in observe, not guarded, empty but for its flows."""
    create(db)
    register(db)
    return db


@pytest.fixture
def well(app: Connection) -> Connection:
    """The small application, guarded, with rows that are all well."""
    run(app, "INSERT INTO parent VALUES (10, 1, 1); INSERT INTO child (id, tenant, parent, flow) VALUES (20, 1, 10, 1)")
    run(app, "INSERT INTO probe VALUES (60, 1, 1, now())")
    guard(app)
    return app


@pytest.fixture
def dirty(app: Connection) -> Connection:
    """The same with rows of every kind."""
    run(
        app,
        """
INSERT INTO parent VALUES (10, 1, 1), (11, 1, NULL), (12, 1, 77), (13, 1, 9), (14, 2, 9);
INSERT INTO child (id, tenant, flow, parent) VALUES
  (20, 1, 1, 10), (21, 1, 2, 10), (22, 1, 1, 11), (23, 1, NULL, 11), (24, 1, NULL, 10), (25, 1, 2, NULL),
  (26, 1, 9, 13);
INSERT INTO event VALUES (50, 1, 1, 'live', '2025-01-01 00:00Z'), (51, 1, 2, 'deleted', '2025-01-01 00:00Z');
INSERT INTO probe VALUES (60, 1, 1, NULL), (61, NULL, 1, NULL), (62, NULL, NULL, '2025-01-01 00:00Z'),
  (63, 1, NULL, '2025-01-01 00:20Z'), (64, 1, NULL, '2025-01-01 02:00Z'), (65, 1, NULL, NULL), (66, 2, NULL, now()),
  (67, NULL, 88, NULL);
""",
    )
    return app
