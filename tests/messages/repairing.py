"""What repair and undo say."""

from __future__ import annotations

from messages.conftest import DEPUTY
from messages.stage import Case

REGISTERED = """
SELECT flowguard.add_master('flow', 'id', '{tenant}');
SELECT flowguard.add_link('probe', 'flow');
"""
ORPHAN = "INSERT INTO probe (id, tenant, flow) VALUES (1, 1, 77);"
LATE = """
SELECT flowguard.add_master('flow', 'id', '{tenant}');
SELECT flowguard.add_link('child', 'flow');
SELECT flowguard.add_reference_rule('child', 'parent', 'parent', 'id', 'flow', link_column => 'flow');
INSERT INTO parent VALUES (1, 1, 1);
INSERT INTO child (id, tenant, parent) VALUES (1, 1, 1);
"""
BY_TIME = """
SELECT flowguard.add_master('flow', 'id', '{tenant}');
SELECT flowguard.add_link(t, 'flow') FROM unnest('{event,probe}'::regclass[]) t;
SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', link_column => 'flow');
INSERT INTO event VALUES (1, 1, 1, 'live', '2025-01-01');
INSERT INTO probe SELECT n, 1, NULL, '2025-01-01' FROM generate_series(1, 2) n;
"""
MANY = """
INSERT INTO event SELECT n, 1, 1, 'live', timestamptz '2025-01-01' + n * interval '1 day'
  FROM generate_series(2, 20000) n;
ANALYZE event;
"""
SLOWLY = """
    NOTICE: table public.event has no index on (tenant, at), by which rule 1 of link public.probe.flow searches it:
        repair will be slow
    DETAIL: All of its about 20000 rows are read for each row that is looked for.
    HINT: It may be stopped: what was committed stays. Call flowguard.guard('public.probe', 'flow'), which makes the
        index, or run "CREATE INDEX CONCURRENTLY flowguard_event_tenant_at_id_newest_idx ON public.event
        (tenant, at DESC, id)" alone, and then repair.
"""
DROPPING = """
CREATE FUNCTION dropping() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('DROP TABLE IF EXISTS %I', TG_ARGV[0]);
  RETURN NULL;
END $$;
"""
LAST_RUN = "SELECT flowguard.undo(max(run_id)) FROM flowguard.run"

CASES = [
    Case(
        name="a batch is to have no rows",
        reaches=(("repair", "batch_size %s is not positive"),),
        call="CALL flowguard.repair(batch_size => 0)",
        says="""
            ERROR: FG104: flowguard: batch_size 0 is not positive
            DETAIL: It is the number of rows that are looked at in one transaction.
            HINT: Leave it out for 5000.
        """,
        take=(),
        then="CALL flowguard.repair()",
    ),
    Case(
        name="a repair is to be neither dry nor not",
        reaches=(("repair", "dry_run NULL"),),
        call="CALL flowguard.repair(dry_run => NULL)",
        says="""
            ERROR: FG104: flowguard: dry_run NULL says neither
            DETAIL: true does it all and takes it back.
            HINT: Pass dry_run => true or false.
        """,
        argument=0,
        then="CALL flowguard.repair({hint})",
    ),
    Case(
        name="a repair is neither to go on nor to begin",
        reaches=(("repair", "resume NULL"),),
        call="CALL flowguard.repair(resume => NULL)",
        says="""
            ERROR: FG104: flowguard: resume NULL says neither
            DETAIL: true goes on with a run that was stopped.
            HINT: Pass resume => true or false.
        """,
        argument=0,
        then="CALL flowguard.repair({hint})",
    ),
    Case(
        name="a repair is neither to count candidates nor not",
        reaches=(("repair", "count_candidates NULL"),),
        call="CALL flowguard.repair(count_candidates => NULL)",
        says="""
            ERROR: FG104: flowguard: count_candidates NULL says neither
            DETAIL: true counts all candidates of each link.
            HINT: Pass count_candidates => true or false.
        """,
        argument=0,
        then="CALL flowguard.repair({hint})",
    ),
    Case(
        name="a repair is to look at no rows",
        reaches=(("repair", "max_rate %s is not positive"),),
        call="CALL flowguard.repair(max_rate => 0)",
        says="""
            ERROR: FG104: flowguard: max_rate 0 is not positive
            DETAIL: It is the number of rows that are looked at in a second.
            HINT: Leave it out for as many as can be.
        """,
        take=(),
        then="CALL flowguard.repair()",
    ),
    Case(
        name="a setting says that a repair is to look at no rows",
        reaches=(("_pace_setting", "_refuse_argument"),),
        admin="DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET flowguard.repair_max_rate = ''slow''', "
        "current_database()); END$$;",
        call="CALL flowguard.repair()",
        says="""
            ERROR: FG104: flowguard: setting flowguard.repair_max_rate is 'slow'
            DETAIL: It must be of type integer, and more than 0.
            HINT: Set it to such a value, or run "SET flowguard.repair_max_rate = ''" for as fast as can be.
        """,
        then="CALL flowguard.repair()",
    ),
    Case(
        name="replication is to be ahead",
        reaches=(("repair", "max_lag %s is not positive"),),
        call="CALL flowguard.repair(max_lag => '0')",
        says="""
            ERROR: FG104: flowguard: max_lag 00:00:00 is not positive
            DETAIL: It is how far standbys and subscribers may be behind.
            HINT: Leave it out to wait for none.
        """,
        take=(),
        then="CALL flowguard.repair()",
    ),
    Case(
        name="the lag of replication is hidden from the caller",
        reaches=(("repair", "may not see how far"),),
        admin=f"GRANT USAGE ON SCHEMA flowguard TO {DEPUTY}; GRANT ALL ON ALL TABLES IN SCHEMA flowguard TO {DEPUTY}; "
        f"GRANT EXECUTE ON ALL ROUTINES IN SCHEMA flowguard TO {DEPUTY}",
        call="CALL flowguard.repair(max_lag => '5 seconds')",
        by=DEPUTY,
        says="""
            ERROR: FG110: flowguard: messages_deputy may not see how far replication is behind
            DETAIL: max_lag reads pg_stat_replication, which hides its figures from this role.
            HINT: Have a superuser run "GRANT pg_read_all_stats TO messages_deputy", or leave max_lag out.
        """,
        follow_by="postgres",
    ),
    Case(
        name="a run that was stopped goes on",
        reaches=(("_resume_run", "goes on where it was stopped"),),
        setup=REGISTERED + ORPHAN + "CALL flowguard.repair('probe', link_column => 'flow'); "
        "UPDATE flowguard.repair_run SET status = 'stopped', finished_at = NULL; "
        "INSERT INTO probe (id, tenant, flow) VALUES (2, 1, 77);",
        call="CALL flowguard.repair('probe', link_column => 'flow')",
        says="""
            NOTICE: run 1 of … goes on where it was stopped: 1 of 1 rows of public.probe
            HINT: To look at all rows again, run "CALL flowguard.repair('public.probe', link_column => 'flow',
                resume => false)" instead.
        """,
    ),
    Case(
        name="no index finds the source's rows in time, and all is guarded then",
        reaches=(("_tell_missing_indexes", "has no index"),),
        setup=BY_TIME + MANY,
        call="CALL flowguard.repair('probe', link_column => 'flow')",
        says=SLOWLY,
    ),
    Case(
        name="no index finds the source's rows in time, and one is made by itself then",
        reaches=(("_tell_missing_indexes", "has no index"),),
        setup=BY_TIME + MANY,
        call="CALL flowguard.repair(dry_run => true)",
        says=SLOWLY,
        take=(1,),
    ),
    Case(
        name="a source was dropped before its link is repaired",
        reaches=(("_links_to_repair", "_refuse_gone"), ("_refuse_gone", "cannot be repaired")),
        setup=BY_TIME + "DROP TABLE event;",
        call="CALL flowguard.repair('probe', link_column => 'flow')",
        says="""
            ERROR: FG101: flowguard: link public.probe.flow cannot be repaired: table with oid … is gone
            DETAIL: It was dropped since the link was registered. What was committed stays.
            HINT: Forget the link: run "SELECT flowguard.unguard('public.probe', 'flow')" and
                "SELECT flowguard.drop_link('public.probe', 'flow')". Then "CALL flowguard.repair()" comes to the
                other links.
        """,
        take=(0, 1),
        then="CALL flowguard.repair()",
    ),
    Case(
        name="a source is dropped between two batches",
        reaches=(("_repair_links", "p_link => v_link"), ("_refuse_gone", "cannot be repaired")),
        setup=BY_TIME + DROPPING + "CREATE CONSTRAINT TRIGGER dropping AFTER UPDATE ON probe DEFERRABLE "
        "INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION dropping('event');",
        call="CALL flowguard.repair('probe', link_column => 'flow', batch_size => 1)",
        says="""
            ERROR: FG101: flowguard: link public.probe.flow cannot be repaired: table with oid … is gone
            DETAIL: It was dropped since the link was registered. What was committed stays.
            HINT: Forget the link: run "SELECT flowguard.unguard('public.probe', 'flow')" and
                "SELECT flowguard.drop_link('public.probe', 'flow')". Then "CALL flowguard.repair()" comes to the
                other links.
        """,
        take=(0, 1),
        then="CALL flowguard.repair()",
    ),
    Case(
        name="a table is dropped before a run comes to it",
        reaches=(("_repair_links", "v_position, v_link"), ("_refuse_gone", "cannot be repaired")),
        setup=BY_TIME + DROPPING + "UPDATE event SET flow = NULL; INSERT INTO parent VALUES (1, 1, 1); "
        "SELECT flowguard.add_link('parent', 'flow'); ALTER TABLE event ADD parent integer REFERENCES parent; "
        "UPDATE event SET parent = 1; "
        "SELECT flowguard.add_reference_rule('event', 'parent', 'parent', 'id', 'flow', link_column => 'flow'); "
        "CREATE CONSTRAINT TRIGGER dropping AFTER UPDATE ON event DEFERRABLE "
        "INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION dropping('probe');",
        call="CALL flowguard.repair()",
        says="""
            ERROR: FG101: flowguard: link public.probe.flow cannot be repaired: table with oid … is gone
            DETAIL: It was dropped since the link was registered. What was committed stays.
            HINT: Forget the link: run "SELECT flowguard.unguard('…', 'flow')" and
                "SELECT flowguard.drop_link('…', 'flow')". Then "CALL flowguard.repair()" comes to the other
                links.
        """,
        take=(0, 1),
        then="CALL flowguard.repair()",
    ),
    Case(
        name="an orphan stays, for another row refers to it",
        reaches=(("_quarantine_row", "stays: %"),),
        setup=REGISTERED + ORPHAN + "CREATE TABLE note (id integer PRIMARY KEY, probe integer REFERENCES probe); "
        "INSERT INTO note VALUES (1, 1);",
        call="CALL flowguard.repair('probe', link_column => 'flow')",
        says="""
            NOTICE: row {"id": 1} of table probe stays: update or delete on table "probe" violates foreign key
                constraint "note_probe_fkey" on table "note"
            HINT: Take away what refers to it or keeps it, then run "CALL flowguard.repair('probe',
                link_column => 'flow')" again.
        """,
        then="DELETE FROM note; {hint}",
    ),
    Case(
        name="an orphan stays, for a trigger of the application keeps it",
        reaches=(("_quarantine_row", "stays: %"),),
        unreached=("keeps it, or what goes with it",),
        setup=REGISTERED + ORPHAN + "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RETURN NULL; END $$; "
        "CREATE TRIGGER keep BEFORE DELETE ON probe FOR EACH ROW EXECUTE FUNCTION keep();",
        call="CALL flowguard.repair('probe', link_column => 'flow')",
        says="""
            NOTICE: row {"id": 1} of table probe stays: a trigger or a rule of the application keeps it, or what goes
                with it
            HINT: Take away what refers to it or keeps it, then run "CALL flowguard.repair('probe',
                link_column => 'flow')" again.
        """,
        then="DROP TRIGGER keep ON probe; {hint}",
    ),
    Case(
        name="an orphan stays, for a row that would go with it could not be named",
        reaches=(("_quarantine_row", "could not be put back"),),
        setup=REGISTERED + ORPHAN + "CREATE TABLE note (id integer, probe integer REFERENCES probe ON DELETE CASCADE); "
        "INSERT INTO note VALUES (1, 1);",
        call="CALL flowguard.repair('probe', link_column => 'flow')",
        says="""
            NOTICE: row {"id": 1} of table probe stays, for what would go with it could not be put back: flowguard:
                table public.note has neither a primary key nor a unique key of NOT NULL columns
            HINT: Run "ALTER TABLE public.note ADD PRIMARY KEY (…)" first.
        """,
        fill={"…": "id"},
    ),
    Case(
        name="a row stays as it is, for a key of the application forbids its link",
        reaches=(("_repair_links", "stays as it is"),),
        setup=LATE + "CREATE TABLE approved (flow integer PRIMARY KEY); "
        "ALTER TABLE child ADD CONSTRAINT is_approved FOREIGN KEY (flow) REFERENCES approved;",
        call="CALL flowguard.repair('child', link_column => 'flow')",
        says="""
            NOTICE: row {"id": 1} of table child stays as it is: insert or update on table "child" violates foreign key
                constraint "is_approved"
            HINT: Mend what it says, then run "CALL flowguard.repair('child', link_column => 'flow')" again.
        """,
        then="INSERT INTO approved VALUES (1); {hint}",
    ),
    Case(
        name="a condition on rows is given, and no table",
        reaches=(("_check_row_filter", "is given without a table"),),
        call="CALL flowguard.repair(row_filter => 'tenant = 1')",
        says="""
            ERROR: FG104: flowguard: row_filter is given without a table
            DETAIL: It is a condition on the columns of one table.
            HINT: Pass the table as relation, or leave row_filter out.
        """,
        take=(),
        then="CALL flowguard.repair()",
    ),
    Case(
        name="a condition on rows is none",
        reaches=(("_check_row_filter", "is no condition on table"),),
        setup=REGISTERED,
        call="CALL flowguard.repair('probe', link_column => 'flow', row_filter => 'tenant = 1) OR (true')",
        says="""
            ERROR: FG104: flowguard: row_filter 'tenant = 1) OR (true' is no condition on table probe
            DETAIL: syntax error at or near ")"
            HINT: Write it as in WHERE, with columns of the table: row_filter => 'id >= …'.
        """,
        argument=0,
        fill={"…": "1"},
        then="CALL flowguard.repair('probe', link_column => 'flow', {hint})",
    ),
    # --- Preview, and explain
    Case(
        name="a preview is to show fewer examples than none",
        reaches=(("preview", "samples %s is negative"),),
        call="SELECT * FROM flowguard.preview(samples => -1)",
        says="""
            ERROR: FG104: flowguard: samples -1 is negative
            DETAIL: It is the number of examples for each outcome.
            HINT: Leave it out for 3, or pass samples => 0.
        """,
        argument=0,
        then="SELECT * FROM flowguard.preview({hint})",
    ),
    Case(
        name="a preview is neither to count candidates nor not",
        reaches=(("preview", "count_candidates NULL"),),
        call="SELECT * FROM flowguard.preview(count_candidates => NULL)",
        says="""
            ERROR: FG104: flowguard: count_candidates NULL says neither
            DETAIL: true counts all candidates of each link.
            HINT: Pass count_candidates => true or false.
        """,
        argument=0,
        then="SELECT * FROM flowguard.preview({hint})",
    ),
    Case(
        name="what is to be explained is no key",
        reaches=(("_read_key", "is no key of a row"),),
        setup=REGISTERED + ORPHAN,
        call="SELECT * FROM flowguard.explain('probe', '\"one\"', 'flow')",
        says="""
            ERROR: FG104: flowguard: "one" is no key of a row of table public.probe
            DETAIL: The key of its rows is (id). It says: invalid input syntax for type integer: "one".
            HINT: Pass row_key => '{"id": "…"}'.
        """,
        argument=0,
        fill={"…": "1"},
        then="SELECT * FROM flowguard.explain('probe', {hint}, link_column => 'flow')",
    ),
    Case(
        name="a source was dropped before a row is explained",
        reaches=(("explain", "_refuse_gone"), ("_refuse_gone", "cannot be repaired")),
        setup=BY_TIME + "DROP TABLE event;",
        call="SELECT * FROM flowguard.explain('probe', '1', 'flow')",
        says="""
            ERROR: FG101: flowguard: link public.probe.flow cannot be repaired: table with oid … is gone
            DETAIL: It was dropped since the link was registered. What was committed stays.
            HINT: Forget the link: run "SELECT flowguard.unguard('public.probe', 'flow')" and
                "SELECT flowguard.drop_link('public.probe', 'flow')". Then "CALL flowguard.repair()" comes to the
                other links.
        """,
        take=(0, 1),
        then="CALL flowguard.repair()",
    ),
    Case(
        name="what is to be explained is not there",
        reaches=(("explain", "has no row"),),
        setup=REGISTERED + ORPHAN,
        call="SELECT * FROM flowguard.explain('probe', '2', 'flow')",
        says="""
            ERROR: FG104: flowguard: table public.probe has no row {"id": 2}
            DETAIL: Nor has a run of repair written or taken out one with this key.
            HINT: Pass the key of a row that is there, or that flowguard.quarantine shows.
        """,
        take=(),
        then="SELECT * FROM flowguard.explain('probe', '1', 'flow')",
    ),
    # --- Undo
    Case(
        name="undo is to put back fewer rows than one",
        reaches=(("undo", "max_rows %s is not positive"),),
        setup=LATE + "CALL flowguard.repair();",
        call="SELECT flowguard.undo(max(run_id), 0) FROM flowguard.run",
        says="""
            ERROR: FG104: flowguard: max_rows 0 is not positive
            DETAIL: It is the number of links and rows to put back in this call.
            HINT: Leave it out for all.
        """,
        take=(),
        then=LAST_RUN,
    ),
    Case(
        name="a run is undone that is none",
        reaches=(("undo", "there is no run"),),
        setup=LATE + "CALL flowguard.repair();",
        call="SELECT flowguard.undo(4711)",
        says="""
            ERROR: FG201: flowguard: there is no run 4711
            DETAIL: Runs are numbered by flowguard.repair().
            HINT: Run "SELECT * FROM flowguard.run", and pass one of these.
        """,
        then="{hint}; " + LAST_RUN,
    ),
    Case(
        name="a run is undone whose table is gone",
        reaches=(("undo", "is not there any more"),),
        setup=LATE + "CALL flowguard.repair(); ALTER TABLE child RENAME TO son;",
        call=LAST_RUN,
        says="""
            ERROR: FG101: flowguard: table public.child is not there any more
            DETAIL: Run 1 wrote or took out rows of it.
            HINT: Give the table its name back: "ALTER TABLE <its name now> RENAME TO child"; or restore it, first.
        """,
        fill={"<its name now>": "son"},
    ),
    Case(
        name="undo would unlink rows of an enforced link",
        reaches=(("undo", "would unlink rows"),),
        setup=LATE + "CALL flowguard.repair(); SELECT flowguard.guard('child', 'flow'); "
        "SELECT flowguard.set_mode('child', 'enforce', 'flow');",
        call=LAST_RUN,
        says="""
            ERROR: FG202: flowguard: undoing run 1 would unlink rows of public.child
            DETAIL: The link is enforced: no row may be without it.
            HINT: Call flowguard.set_mode('child', 'observe', 'flow') first.
        """,
    ),
    Case(
        name="undo would unlink rows of two enforced links",
        reaches=(("undo", "would unlink rows"),),
        setup=LATE + "SELECT flowguard.add_link('grandchild', 'flow'); "
        "SELECT flowguard.add_reference_rule('grandchild', 'child', 'child', 'id', 'flow', link_column => 'flow'); "
        "INSERT INTO grandchild (id, tenant, child) VALUES (1, 1, 1); CALL flowguard.repair(); "
        "SELECT flowguard.guard('child', 'flow'); SELECT flowguard.set_mode('child', 'enforce', 'flow'); "
        "SELECT flowguard.guard('grandchild', 'flow'); SELECT flowguard.set_mode('grandchild', 'enforce', 'flow');",
        call=LAST_RUN,
        says="""
            ERROR: FG202: flowguard: undoing run 1 would unlink rows of public.child, public.grandchild
            DETAIL: The link is enforced: no row may be without it.
            HINT: Call flowguard.set_mode('child', 'observe', 'flow'), flowguard.set_mode('grandchild', 'observe',
                'flow') first.
        """,
        take=(0, 1),
    ),
    Case(
        name="undo is forbidden by a key of ours",
        reaches=(("undo", "while foreign keys forbid"),),
        setup=REGISTERED + ORPHAN + "CALL flowguard.repair(); SELECT flowguard.guard('probe', 'flow');",
        call=LAST_RUN,
        says="""
            ERROR: FG203: flowguard: run 1 cannot be undone while foreign keys forbid what was there
            DETAIL: They are: flowguard_probe_flow_fkey of table probe, flowguard_probe_flow_tenant_fkey of table probe.
            HINT: Call flowguard.unguard('probe', 'flow'). Then call flowguard.undo(1) again.
        """,
        take=(0, 1),
        then="SELECT 1 / count(*) FROM probe WHERE flow = 77",
    ),
    Case(
        name="undo is forbidden by a key of the application",
        reaches=(("undo", "while foreign keys forbid"),),
        setup=REGISTERED + ORPHAN + "CALL flowguard.repair(); "
        "ALTER TABLE probe ADD CONSTRAINT probe_flow FOREIGN KEY (flow) REFERENCES flow;",
        call=LAST_RUN,
        says="""
            ERROR: FG203: flowguard: run 1 cannot be undone while foreign keys forbid what was there
            DETAIL: They are: probe_flow of table probe.
            HINT: Run "ALTER TABLE probe DROP CONSTRAINT probe_flow", to add it again NOT VALID afterwards. Then call
                flowguard.undo(1) again.
        """,
        take=(0, 1),
        then="SELECT 1 / count(*) FROM probe WHERE flow = 77",
    ),
    Case(
        name="the application changes a row that is put back",
        reaches=(("_restore_row", "could not be put back as it was"),),
        setup=REGISTERED + ORPHAN + "CALL flowguard.repair(); "
        "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.note := 'stamped'; RETURN NEW; END $$; "
        "CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON probe FOR EACH ROW EXECUTE FUNCTION stamp();",
        call=LAST_RUN,
        says="""
            ERROR: FG204: flowguard: row {"id": 1} of table probe could not be put back as it was
            DETAIL: A trigger or a rule of the application changes what is written.
            HINT: Change the trigger so that it lets this row pass, or run "ALTER TABLE probe DISABLE TRIGGER <trigger>"
                meanwhile; then call flowguard.undo(1) again.
        """,
        take=(0, 1),
        fill={"<trigger>": "stamp"},
        then="SELECT 1 / count(*) FROM probe WHERE note IS NULL",
    ),
    Case(
        name="a change set is reverted, and a link was written by others since",
        reaches=(("_revert_runs", "were written by others"),),
        setup=LATE + "CALL flowguard.repair(note => 'change'); UPDATE child SET flow = 2;",
        call="SELECT flowguard._revert_runs('change')",
        says="""
            NOTICE: run 1: 1 links were written by others since and stay as they are
            HINT: Run "SELECT * FROM flowguard.run_change WHERE undone = 'skipped' AND run_id = 1" to see them.
        """,
    ),
]
