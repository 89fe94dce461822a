"""An application of Django: what it sees of links that the database fills, follows and refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from itertools import pairwise

import pytest
from django.db import IntegrityError, OperationalError, connection, migrations, models, transaction
from django.db.migrations.state import ProjectState
from django.test.utils import CaptureQueriesContext
from engine.postgres import Connection, rows, run
from engine.tables import Guarded, link, links
from neighbours.django_models import Child, Event, Flow, Parent, PlainParent, Probe
from neighbours.promises import kept, listed, settled

AT = datetime(2025, 1, 1, tzinfo=timezone.utc)
MODES = ("observe", "enforce")


@contextmanager
def django_on(app: Connection) -> Iterator[Connection]:
    """Let Django's connection be one to this database."""
    info = app.info
    connection.settings_dict |= {"NAME": info.dbname, "USER": info.user, "HOST": info.host, "PORT": str(info.port)}
    try:
        yield app
    finally:
        connection.close()


@pytest.fixture(params=MODES)
def app(guarded: Guarded, request: pytest.FixtureRequest) -> Iterator[Connection]:
    """The small application in either mode, with parents of flows 1 and 2 and an event of flow 1."""
    app = guarded(request.param)
    run(app, "INSERT INTO parent VALUES (10, 1, 1), (11, 1, 2)")
    run(app, "INSERT INTO event VALUES (50, 1, 1, 'live', %s)", AT)
    with django_on(app):
        yield app


@pytest.fixture
def enforced(guarded: Guarded) -> Iterator[Connection]:
    """The small application in enforce, with a parent of flow 1."""
    app = guarded("enforce")
    run(app, "INSERT INTO parent VALUES (10, 1, 1)")
    with django_on(app):
        yield app


def test_a_new_object_knows_its_link_once_it_is_saved(app: Connection) -> None:
    """By RETURNING, in the statement that inserts; `db_default` is what makes Django ask."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL flowguard.flow = '3'")
        assert Parent.objects.create(id=12, tenant=1).flow == 3
    with CaptureQueriesContext(connection) as queries:
        child = Child.objects.create(id=20, tenant=1, parent_id=10)
        assert child.flow == 1
    assert len(queries) == 1
    assert "DEFAULT" in queries[0]["sql"]
    assert 'RETURNING "child"."flow"' in queries[0]["sql"]
    other = Child(id=21, tenant=1, parent_id=11)
    other.save()
    assert other.flow == 2
    assert Probe.objects.create(id=1, tenant=1, at=AT + timedelta(minutes=1)).flow == 1
    kept(app)


def test_none_is_filled_but_not_told(app: Connection) -> None:
    """Django asks for what it leaves to the database, not for what was given as None."""
    child = Child.objects.create(id=20, tenant=1, parent_id=10, flow=None)
    assert link(app, "child", 20) == 1
    child.refresh_from_db(fields=["flow"])
    assert child.flow == 1
    kept(app)


def test_many_objects(app: Connection) -> None:
    new = Child.objects.bulk_create(Child(id=n, tenant=1, parent_id=10 + n % 2) for n in range(20, 28))
    assert [each.flow for each in new] == [1, 2] * 4
    again = Child.objects.bulk_create(
        [Child(id=20, tenant=1, parent_id=11), Child(id=30, tenant=1, parent_id=10)],
        update_conflicts=True,
        update_fields=["parent"],
        unique_fields=["id"],
    )
    assert [each.flow for each in again] == [2, 1]
    Child.objects.bulk_create([Child(id=31, tenant=1, parent_id=10)], ignore_conflicts=True)
    assert links(app, "child") == {20: 2, 30: 1, 31: 1, **{n: 1 + n % 2 for n in range(21, 28)}}
    kept(app)


def test_save_writes_the_link_that_the_object_remembers(guarded: Guarded) -> None:
    """Which the database may have moved meanwhile: `update_fields` leaves it alone, refresh_from_db() reads it."""
    app = guarded()
    run(app, "INSERT INTO parent VALUES (10, 1, 1)")
    with django_on(app):
        child, other = (Child.objects.create(id=n, tenant=1, parent_id=10) for n in (20, 21))
        Parent.objects.filter(id=10).update(flow=3)
        assert links(app, "child") == {20: 3, 21: 3}
        child.note = "changed"
        child.save(update_fields=["note"])
        assert links(app, "child") == {20: 3, 21: 3}
        child.refresh_from_db()
        assert (child.flow, child.note) == (3, "changed")
        # An explicit value wins, and this one is of yesterday.
        other.save()
        assert links(app, "child") == {20: 3, 21: 1}
        assert listed(app) == {("child", 21): "mismatched"}


def test_where_it_must_agree_such_a_save_is_refused(enforced: Connection) -> None:
    child = Child.objects.create(id=20, tenant=1, parent_id=10)
    Parent.objects.filter(id=10).update(flow=3)
    with pytest.raises(IntegrityError, match="flowguard_child_flow_parent_fkey"):
        child.save()
    child.refresh_from_db(fields=["flow"])
    child.save()
    assert links(enforced, "child") == {20: 3}


def test_without_db_default_the_second_save_takes_the_link_off(guarded: Guarded) -> None:
    """Django believes it to be NULL and writes that. What the rules find is filled again; a setting is gone by then."""
    app = guarded()
    with django_on(app):
        for model, n, after in ((PlainParent, 12, None), (Parent, 13, 3)):
            with transaction.atomic():
                with connection.cursor() as cursor:
                    cursor.execute("SET LOCAL flowguard.flow = '3'")
                parent = model.objects.create(id=n, tenant=1)
            assert link(app, "parent", n) == 3
            parent.note = "changed"
            parent.save()
            assert link(app, "parent", n) == after


def test_a_late_event_links_what_waits(guarded: Guarded) -> None:
    app = guarded()
    with django_on(app):
        probe = Probe.objects.create(id=1, tenant=1, at=AT)
        assert probe.flow is None
        Event.objects.create(id=51, tenant=1, at=AT, flow=2)
        # What was saved without a link is linked again where it is saved without one.
        probe.save()
        assert links(app, "probe") == {1: 2}
    kept(app)


def test_a_refusal_comes_from_the_end_of_atomic(enforced: Connection) -> None:
    def unlinked() -> None:
        with transaction.atomic():
            Child.objects.create(id=20, tenant=1)

    with pytest.raises(OperationalError) as caught:
        unlinked()
    refusal = caught.value.__cause__
    assert refusal is not None
    assert refusal.sqlstate == "FG001"
    assert refusal.diag.message_hint.startswith("Set flow to")
    assert Child.objects.create(id=20, tenant=1, parent_id=10).flow == 1
    kept(enforced)


def test_what_a_testcase_does_at_its_end_is_refused_as_well(enforced: Connection) -> None:
    """TestCase never commits; it looks at deferred constraints before it rolls back, so tests see what COMMIT would."""

    def body() -> None:
        with transaction.atomic():
            Child.objects.create(id=20, tenant=1)
            connection.check_constraints()

    with pytest.raises(OperationalError, match="has no flow"):
        body()
    assert links(enforced, "child") == {}


def test_a_migration_guards(guarded: Guarded) -> None:
    app = guarded()
    run(app, "INSERT INTO parent VALUES (10, 1, 1); SELECT flowguard.unguard('child', 'flow')")

    class Migration(migrations.Migration):
        operations = (
            migrations.RunSQL(
                "SELECT flowguard.guard('child', 'flow')", reverse_sql="SELECT flowguard.unguard('child', 'flow')"
            ),
        )

    with django_on(app):
        migration = Migration("0002_guard", "neighbours")
        with connection.schema_editor(atomic=True) as editor:
            migration.apply(ProjectState(), editor)
        assert Child.objects.create(id=20, tenant=1, parent_id=10).flow == 1
        settled(app)
        with connection.schema_editor(atomic=True) as editor:
            migration.unapply(ProjectState(), editor)
        assert Child.objects.create(id=21, tenant=1, parent_id=10).flow is None
        settled(app)


def test_a_migration_that_alters_a_foreign_key_takes_a_key_of_ours_along(guarded: Guarded) -> None:
    """Django drops every foreign key on that column alone. Its own serves in its stead; else check tells."""
    app = guarded("enforce")
    keys = "SELECT conname FROM pg_constraint WHERE conrelid = 'probe'::regclass AND contype = 'f'"
    assert ("flowguard_probe_flow_fkey",) in rows(app, keys)
    fields = [
        models.ForeignKey(Flow, models.DO_NOTHING, db_column="flow", null=True),
        models.ForeignKey(Flow, models.DO_NOTHING, db_column="flow", null=True, db_default=None),
        models.IntegerField(db_column="flow", null=True, db_default=None),
    ]
    for field in fields:
        field.set_attributes_from_name("flow")
        field.model = Probe
    found = []
    with django_on(app):
        for old, new in pairwise(fields):
            with connection.schema_editor() as editor:
                editor.alter_field(Probe, old, new)
            assert ("flowguard_probe_flow_fkey",) not in rows(app, keys)
            found.append(rows(app, "SELECT name, remedy FROM flowguard.check_all()"))
    assert found == [[], [("guard_incomplete", "SELECT flowguard.guard('public.probe', 'flow')")]]
    run(app, "SELECT flowguard.guard('public.probe', 'flow')")
    assert ("flowguard_probe_flow_fkey",) in rows(app, keys)
    settled(app)
