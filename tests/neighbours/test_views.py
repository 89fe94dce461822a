"""Views over guarded tables: rows that are written through them are guarded like any other."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from engine.postgres import Connection, refused, rows, run
from engine.tables import Guarded, links
from neighbours.promises import kept


@pytest.fixture
def app(guarded: Guarded) -> Connection:
    """The small application in enforce, with two parents."""
    connection = guarded("enforce")
    run(connection, "INSERT INTO parent VALUES (10, 1, 1), (11, 1, 2)")
    return connection


@pytest.mark.parametrize("options", ["", "WITH (security_barrier)", "WITH (security_invoker)"])
def test_a_view_that_postgresql_writes_through(app: Connection, options: str) -> None:
    if app.info.server_version < 150000 and "invoker" in options:
        options = "WITH (security_barrier)"
    run(app, f"CREATE VIEW shown {options} AS SELECT parent, note, id, tenant, flow FROM child WHERE tenant = 1")  # noqa: S608  names of this test
    run(app, "CREATE VIEW over_it AS SELECT id AS number, tenant, parent AS elder, flow AS of FROM shown")
    assert rows(app, "INSERT INTO over_it (number, tenant, elder) VALUES (20, 1, 10) RETURNING of") == [(1,)]
    assert rows(app, "INSERT INTO shown (id, tenant, parent) VALUES (21, 1, 11) RETURNING flow") == [(2,)]
    assert rows(app, "UPDATE over_it SET elder = 11 WHERE number = 20 RETURNING of") == [(2,)]
    assert rows(app, "UPDATE shown SET flow = NULL RETURNING id, flow") == [(21, 2), (20, 2)]
    with refused("23503"):
        run(app, "UPDATE shown SET flow = 3")
    with refused("FG001"):
        run(app, "INSERT INTO over_it (number, tenant) VALUES (22, 1)")
    kept(app)


def test_a_view_without_the_columns_that_matter(app: Connection) -> None:
    """Whoever cannot even see link and tenant writes guarded rows."""
    run(app, "ALTER TABLE child ALTER tenant SET DEFAULT 1; CREATE VIEW narrow AS SELECT id, parent FROM child")
    run(app, "INSERT INTO narrow VALUES (20, 10); UPDATE narrow SET parent = 11")
    assert links(app, "child") == {20: 2}
    kept(app)


@pytest.mark.parametrize("check", ["CASCADED", "LOCAL"])
def test_a_check_option_sees_the_row_as_it_is_filled(app: Connection, check: str) -> None:
    run(
        app,
        f"CREATE VIEW linked AS SELECT id, tenant, flow, parent FROM child WHERE flow = 1 WITH {check} CHECK OPTION",  # noqa: S608  names of this test
    )
    run(app, "INSERT INTO linked (id, tenant, parent) VALUES (20, 1, 10)")
    run(app, "UPDATE linked SET flow = NULL")
    with refused("44000"):
        run(app, "INSERT INTO linked (id, tenant, parent) VALUES (21, 1, 11)")
    with refused("44000"):
        run(app, "UPDATE linked SET parent = 11")
    assert links(app, "child") == {20: 1}
    # Late linking does not go through the view.
    run(app, "UPDATE parent SET flow = 3 WHERE id = 10")
    assert links(app, "child") == {20: 3}


def test_triggers_instead_of(app: Connection) -> None:
    run(
        app,
        """
CREATE VIEW pair AS SELECT c.id, c.tenant, c.flow, p.id AS parent, p.note FROM child c JOIN parent p ON p.id = c.parent;
CREATE FUNCTION write_pair() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    DELETE FROM child WHERE id = OLD.id;
    RETURN OLD;
  ELSIF TG_OP = 'INSERT' THEN
    INSERT INTO child (id, tenant, parent) VALUES (NEW.id, NEW.tenant, NEW.parent) RETURNING flow INTO NEW.flow;
  ELSE
    UPDATE parent SET note = NEW.note, flow = NEW.flow WHERE id = NEW.parent;
    UPDATE child SET parent = NEW.parent WHERE id = NEW.id RETURNING flow INTO NEW.flow;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER write_pair INSTEAD OF INSERT OR UPDATE OR DELETE ON pair FOR EACH ROW EXECUTE FUNCTION write_pair();
""",
    )
    assert rows(app, "INSERT INTO pair (id, tenant, parent) VALUES (20, 1, 10), (21, 1, 11) RETURNING flow") == [
        (1,),
        (2,),
    ]
    assert rows(app, "UPDATE pair SET flow = 3, note = 'x' WHERE id = 20 RETURNING flow") == [(3,)]
    run(app, "DELETE FROM pair WHERE id = 21")
    assert rows(app, "SELECT id, flow, note FROM pair") == [(20, 3, "x")]
    kept(app)


def test_rules_instead(app: Connection) -> None:
    run(
        app,
        """
CREATE VIEW pair AS SELECT c.id, c.tenant, c.flow, p.id AS parent, p.note FROM child c JOIN parent p ON p.id = c.parent;
CREATE RULE put AS ON INSERT TO pair DO INSTEAD (
  INSERT INTO parent VALUES (NEW.parent, NEW.tenant, NEW.flow, NEW.note);
  INSERT INTO child (id, tenant, parent) VALUES (NEW.id, NEW.tenant, NEW.parent)
    RETURNING id, tenant, flow, parent, NULL::text);
CREATE RULE change AS ON UPDATE TO pair DO INSTEAD UPDATE parent SET flow = NEW.flow WHERE id = OLD.parent;
CREATE RULE go AS ON DELETE TO pair DO INSTEAD DELETE FROM child WHERE id = OLD.id;
""",
    )
    assert rows(app, "INSERT INTO pair VALUES (20, 1, 3, 12, 'x') RETURNING flow") == [(3,)]
    run(app, "UPDATE pair SET flow = 2 WHERE id = 20")
    assert rows(app, "SELECT id, flow FROM pair") == [(20, 2)]
    run(app, "DELETE FROM pair")
    assert links(app, "child") == {}
    kept(app)


def test_rules_beside_a_guarded_table(app: Connection) -> None:
    """A rule that also keeps a copy works on what the client writes, as rules do, and disturbs no late link."""
    run(
        app,
        """
CREATE TABLE copied (LIKE child);
CREATE RULE keep AS ON INSERT TO child DO ALSO INSERT INTO copied VALUES (NEW.id, NEW.tenant, NEW.flow);
CREATE RULE note AS ON UPDATE TO child WHERE NEW.flow IS DISTINCT FROM OLD.flow
  DO ALSO INSERT INTO copied VALUES (OLD.id, OLD.tenant, OLD.flow);
""",
    )
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (20, 1, 10), (21, 1, 11)")
    run(app, "UPDATE parent SET flow = 3")
    assert links(app, "child") == {20: 3, 21: 3}
    assert rows(app, "SELECT id, flow FROM copied ORDER BY id, flow") == [(20, 1), (20, None), (21, 2), (21, None)]
    kept(app)


def test_a_role_that_may_write_the_view_only(app: Connection, as_role: Callable[[str, str], str]) -> None:
    run(app, "CREATE VIEW shown AS SELECT id, tenant, parent, flow FROM child")
    with psycopg.connect(as_role(app.info.dsn, "postgres"), autocommit=True) as admin:
        run(admin, "DO $$BEGIN CREATE ROLE view_writer LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END$$")
        run(admin, "GRANT SELECT, INSERT, UPDATE ON shown TO view_writer")
    with psycopg.connect(as_role(app.info.dsn, "view_writer"), autocommit=True) as writer:
        assert rows(writer, "INSERT INTO shown (id, tenant, parent) VALUES (20, 1, 10) RETURNING flow") == [(1,)]
        with refused("FG001") as refusal:
            run(writer, "INSERT INTO shown (id, tenant) VALUES (21, 1)")
        refusal.says("child", "parent is NULL")
    kept(app)
