"""An application of SQLAlchemy's ORM: what it sees of links that the database fills, follows and refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone

import psycopg
import pytest
from engine.postgres import Connection, one, run
from engine.tables import Guarded, links
from neighbours.models import Child, Event, Grandchild, Parent, Probe, engine_for
from neighbours.promises import kept
from sqlalchemy import Engine, event, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

AT = datetime(2025, 1, 1, tzinfo=timezone.utc)
MODES = ("observe", "enforce")


@contextmanager
def sent(engine: Engine) -> Iterator[list[str]]:
    """Note the statements that are sent in the block."""
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield statements
    event.remove(engine, "before_cursor_execute", note)


def known_link(row: Grandchild | Probe) -> int | None:
    """Give the link of an object, as it is at this moment."""
    return row.flow


@pytest.fixture(params=MODES)
def app(guarded: Guarded, request: pytest.FixtureRequest) -> Connection:
    """The small application in either mode, with parents of flows 1 and 2 and an event of flow 1."""
    app = guarded(request.param)
    run(app, "INSERT INTO parent VALUES (10, 1, 1), (11, 1, 2)")
    run(app, "INSERT INTO event VALUES (50, 1, 1, 'live', %s)", AT)
    return app


def test_a_new_object_knows_its_link_after_the_flush(app: Connection) -> None:
    """By RETURNING, in the statement that inserts; whether the attribute is left out or None."""
    engine = engine_for(app.info.dsn)
    with Session(engine) as session, sent(engine) as statements:
        session.execute(text("SET LOCAL flowguard.flow = '3'"))
        new: list[Parent | Child | Probe] = [
            Parent(id=12, tenant=1),
            Child(id=20, tenant=1, parent=10),
            Child(id=21, tenant=1, parent=11, flow=None),
            Probe(id=1, tenant=1, at=AT + timedelta(minutes=1)),
        ]
        session.add_all(new)
        session.flush()
        assert all("RETURNING" in statement for statement in statements if statement.startswith("INSERT"))
        del statements[:]
        assert [each.flow for each in new] == [3, 1, 2, 1]
        assert statements == []
        session.commit()
    kept(app)


def test_an_object_mapped_without_fetched_value_is_wrong_until_it_is_read_again(app: Connection) -> None:
    """The row is right; the object says None from the flush to the commit, which expires it."""
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10)")
    with Session(engine_for(app.info.dsn)) as session:
        plain = Grandchild(id=30, tenant=1, child=20)
        session.add(plain)
        session.flush()
        assert known_link(plain) is None
        session.commit()
        assert known_link(plain) == 1
        # It is not written back, for it was not set.
        plain.note = "changed"
        session.commit()
    assert links(app, "grandchild") == {30: 1}
    kept(app)


def test_many_objects_and_rows(app: Connection) -> None:
    """insertmanyvalues, bulk INSERT with and without RETURNING, and an upsert."""
    with Session(engine_for(app.info.dsn)) as session:
        new = [Child(id=n, tenant=1, parent=10 + n % 2) for n in range(20, 28)]
        session.add_all(new)
        session.flush()
        assert [each.flow for each in new] == [1, 2] * 4
        values = [{"id": n, "tenant": 1, "parent": 10 + n % 2} for n in range(30, 38)]
        assert (
            session.scalars(insert(Child).returning(Child.flow, sort_by_parameter_order=True), values).all()
            == [
                1,
                2,
            ]
            * 4
        )
        session.execute(insert(Child), [{**each, "id": each["id"] + 10} for each in values])
        put = upsert(Child).values(id=30, tenant=1, parent=11)
        put = put.on_conflict_do_update(index_elements=["id"], set_={"parent": put.excluded.parent})
        assert session.scalar(put.returning(Child.flow)) == 2
        session.commit()
    assert links(app, "child") == {30: 2, **{n: 1 + n % 2 for n in (*range(20, 28), *range(31, 38), *range(40, 48))}}
    kept(app)


def test_links_that_follow_are_seen_when_they_are_read(app: Connection) -> None:
    """An object's own after its UPDATE; those of other objects, which the database moves, once they are refreshed."""
    with Session(engine_for(app.info.dsn)) as session:
        parent = session.get_one(Parent, 10)
        child, other = Child(id=20, tenant=1, parent=10), Child(id=21, tenant=1, parent=10)
        session.add_all([child, other])
        session.flush()
        child.parent = 11
        session.flush()
        assert child.flow == 2
        parent.flow = 3
        session.flush()
        assert other.flow == 1
        session.refresh(other)
        assert other.flow == 3
        session.execute(
            update(Parent).where(Parent.id == 11).values(flow=3), execution_options={"synchronize_session": False}
        )
        session.commit()
        # Expired at commit, read again.
        assert child.flow == 3
    kept(app)


def test_a_late_event_links_what_waits(guarded: Guarded) -> None:
    app = guarded()
    with Session(engine_for(app.info.dsn)) as session:
        probe = Probe(id=1, tenant=1, at=AT)
        session.add(probe)
        session.flush()
        assert known_link(probe) is None
        session.add(Event(id=51, tenant=1, at=AT, flow=2))
        session.flush()
        session.refresh(probe, ["flow"])
        assert known_link(probe) == 2
        session.commit()
    kept(app)


def test_a_refusal_comes_from_commit_and_the_session_goes_on(guarded: Guarded) -> None:
    app = guarded("enforce")
    run(app, "INSERT INTO parent VALUES (10, 1, 1)")
    with Session(engine_for(app.info.dsn)) as session:
        session.add(Child(id=20, tenant=1))
        session.flush()
        with pytest.raises(DBAPIError) as caught:
            session.commit()
        refusal = caught.value.orig
        assert isinstance(refusal, psycopg.Error)
        assert refusal.sqlstate == "FG001"
        assert refusal.diag.message_hint is not None
        # psycopg's class for what it does not know; it was no loss of the connection.
        assert type(caught.value).__name__ == "OperationalError"
        assert not caught.value.connection_invalidated
        session.rollback()
        session.add(Child(id=20, tenant=1, parent=10, flow=77))
        with pytest.raises(IntegrityError, match=r"flowguard_child_flow_(parent|tenant)_fkey"):
            session.commit()
        session.rollback()
        child = Child(id=20, tenant=1, parent=10)
        session.add(child)
        session.commit()
        assert session.scalars(select(Child.flow)).all() == [1]


def test_master_last_in_one_unit_of_work(guarded: Guarded) -> None:
    """Parent and child are flushed before anything says the flow; the commit looks at what is there then."""
    app = guarded("enforce")
    with Session(engine_for(app.info.dsn)) as session:
        parent = Parent(id=10, tenant=1)
        session.add(parent)
        session.flush()
        session.add(Child(id=20, tenant=1, parent=10))
        session.flush()
        parent.flow = 2
        session.commit()
    assert links(app, "child") == {20: 2}


def test_statements_that_were_prepared_before_the_guard(guarded: Guarded) -> None:
    """On one connection, by psycopg's own prepared statements; the guard comes from another session."""
    app = guarded()
    run(app, "INSERT INTO parent VALUES (10, 1, 1); SELECT flowguard.unguard('child', 'flow')")
    engine = engine_for(app.info.dsn)
    with engine.connect() as connection, Session(connection) as session:
        for n in range(20, 30):
            session.add(Child(id=n, tenant=1, parent=10))
            session.commit()
        prepared = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'INSERT INTO child%'"
        assert session.scalar(text(prepared)) == 1
        session.commit()
        run(app, "DELETE FROM child; SELECT flowguard.guard('child', 'flow')")
        child = Child(id=30, tenant=1, parent=10)
        session.add(child)
        session.flush()
        assert child.flow == 1
        session.commit()
    assert one(app, "SELECT count(*) FROM child") == 1
