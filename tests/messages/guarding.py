"""What is said when links are guarded, their mode is set, and when the guard is paused or taken away."""

from __future__ import annotations

from messages.stage import Case

REGISTERED = """
SELECT flowguard.add_master('flow', 'id', '{tenant}');
SELECT flowguard.add_link('child', 'flow');
"""
REPLACED = """
ALTER TABLE child ADD CONSTRAINT child_flow FOREIGN KEY (flow) REFERENCES flow;
SELECT flowguard.add_master('flow', 'id', '{tenant}');
SELECT flowguard.add_link('child', 'flow', on_master_delete => 'cascade');
SELECT flowguard.guard('child', 'flow');
"""
"""The application's own key gives way to one of ours that cascades."""

PAST_THE_GUARD = """
SET session_replication_role = replica;
INSERT INTO child (id, tenant, flow) VALUES (1, 1, 77);
"""

ATTACHED = """
CREATE TABLE batch (LIKE child INCLUDING ALL) PARTITION BY LIST (id);
SELECT flowguard.add_link('batch', 'flow');
SELECT flowguard.guard('batch', 'flow');
SELECT flowguard.guard('child', 'flow');
ALTER TABLE batch ATTACH PARTITION child DEFAULT;
"""

CASES = [
    Case(
        name="the application's key points to another column than the master's key",
        reaches=(("_own_keys", "not to the key"),),
        setup="ALTER TABLE flow ADD code integer UNIQUE; "
        "ALTER TABLE child ADD CONSTRAINT by_code FOREIGN KEY (flow) REFERENCES flow (code);" + REGISTERED,
        call="SELECT flowguard.guard('child', 'flow')",
        says="""
            ERROR: FG109: flowguard: foreign key by_code of table public.child lets public.child.flow point to column
                code, not to the key id
            DETAIL: It is FOREIGN KEY (flow) REFERENCES public.flow(code).
            HINT: Run "ALTER TABLE public.child DROP CONSTRAINT by_code" if the key is meant, or register the master
                with key_column => 'code'.
        """,
    ),
    Case(
        name="the application's key is right and the registration is not",
        reaches=(("_own_keys", "not to the key"),),
        setup="ALTER TABLE flow ADD code integer UNIQUE; "
        "ALTER TABLE child ADD CONSTRAINT by_code FOREIGN KEY (flow) REFERENCES flow (code);" + REGISTERED,
        call="SELECT flowguard.guard('child', 'flow')",
        says="""
            ERROR: FG109: flowguard: foreign key by_code of table public.child lets public.child.flow point to column
                code, not to the key id
            DETAIL: It is FOREIGN KEY (flow) REFERENCES public.flow(code).
            HINT: Run "ALTER TABLE public.child DROP CONSTRAINT by_code" if the key is meant, or register the master
                with key_column => 'code'.
        """,
        argument=0,
        then="SELECT flowguard.drop_link('child', 'flow'); SELECT flowguard.drop_master('flow'); "
        "SELECT flowguard.add_master('flow', {hint}, tenant_columns => '{tenant}'); "
        "SELECT flowguard.add_link('child', 'flow'); SELECT flowguard.guard('child', 'flow')",
    ),
    Case(
        name="a key would need a unique index without the column that a table is partitioned by",
        reaches=(("_check_unique", "cannot have a unique index"),),
        setup="""
CREATE TABLE batch (id integer, tenant integer, flow integer, UNIQUE (tenant, id)) PARTITION BY HASH (tenant);
CREATE TABLE batch_0 PARTITION OF batch FOR VALUES WITH (MODULUS 1, REMAINDER 0);
ALTER TABLE child ADD batch integer, ADD FOREIGN KEY (tenant, batch) REFERENCES batch (tenant, id);
"""
        + REGISTERED
        + "SELECT flowguard.add_reference_rule('child', 'batch', 'batch', source_link => 'flow', "
        "link_column => 'flow');",
        call="SELECT flowguard.guard('child', 'flow')",
        says="""
            ERROR: FG105: flowguard: table public.batch cannot have a unique index on (id, flow), for it is partitioned
                by tenant
            DETAIL: A unique index of a partitioned table holds every column that it is partitioned by, and foreign keys
                of table public.child rest on this one.
            HINT: Let the link have tenant among its tenant columns, NOT NULL in all its tables.
        """,
        take=(),
        then="ALTER TABLE batch ALTER COLUMN tenant SET NOT NULL; SELECT flowguard.guard('child', 'flow')",
    ),
    Case(
        name="a table that is a link was attached to another one that is",
        reaches=(("_check_alone", "cannot both be links"),),
        setup=REGISTERED + ATTACHED,
        call="SELECT flowguard.guard('child', 'flow')",
        says="""
            ERROR: FG108: flowguard: column flow of table public.batch and of a partition of it cannot both be links
            DETAIL: What guards a table guards its partitions, here public.child.
            HINT: Call flowguard.unguard('public.child', 'flow'), flowguard.drop_link('public.child', 'flow') first.
        """,
        take=(0, 1),
        then="SELECT flowguard.guard('batch', 'flow')",
    ),
    Case(
        name="a table that is a link was attached to another one, which is to be guarded",
        reaches=(("_check_alone", "cannot both be links"),),
        setup=REGISTERED + ATTACHED,
        call="SELECT flowguard.guard_plan('batch', 'flow')",
        says="""
            ERROR: FG108: flowguard: column flow of table public.batch and of a partition of it cannot both be links
            DETAIL: What guards a table guards its partitions, here public.child.
            HINT: Call flowguard.unguard('public.child', 'flow'), flowguard.drop_link('public.child', 'flow') first.
        """,
        take=(0, 1),
    ),
    # --- Rights
    Case(
        name="the caller of guard may not read the master",
        reaches=(("_check_rights", "may not % table"),),
        setup=REGISTERED + "CREATE UNIQUE INDEX ON flow (tenant, id);",
        admin="ALTER TABLE flow OWNER TO postgres",
        call="SELECT flowguard.guard('child', 'flow')",
        says="""
            ERROR: FG110: flowguard: app_owner may not read and refer to table public.flow
            DETAIL: The generated functions run with the rights of whoever calls guard().
            HINT: Run "GRANT SELECT, REFERENCES ON public.flow TO app_owner".
        """,
        follow_by="postgres",
    ),
    Case(
        name="the caller of guard may not lock the child",
        reaches=(("_check_rights", "may not % table"),),
        setup=REGISTERED + "REVOKE UPDATE ON child FROM app_owner;",
        call="SELECT flowguard.guard('child', 'flow')",
        says="""
            ERROR: FG110: flowguard: app_owner may not read and lock table public.child
            DETAIL: The generated functions run with the rights of whoever calls guard().
            HINT: Run "GRANT SELECT, UPDATE ON public.child TO app_owner".
        """,
    ),
    Case(
        name="the master belongs to another role and has no index that a key could rest on",
        reaches=(("_check_rights", "lacks an index"),),
        setup=REGISTERED,
        admin="ALTER TABLE flow OWNER TO postgres; GRANT SELECT, REFERENCES ON flow TO app_owner;",
        call="SELECT flowguard.guard('child', 'flow')",
        says="""
            ERROR: FG110: flowguard: table public.flow lacks an index, and app_owner does not own it
            DETAIL: The foreign key that proves the tenant rests on it.
            HINT: Let postgres run "CREATE UNIQUE INDEX ON public.flow (tenant, id)".
        """,
        follow_by="postgres",
    ),
    Case(
        name="the caller of guard may not create functions in our schema",
        reaches=(("_check_schema", "may not create functions"),),
        setup=REGISTERED,
        admin="ALTER SCHEMA flowguard OWNER TO postgres; GRANT USAGE ON SCHEMA flowguard TO app_owner",
        call="SELECT flowguard.guard('child', 'flow')",
        says="""
            ERROR: FG110: flowguard: app_owner may not create functions in schema flowguard
            DETAIL: What is generated lies there and belongs to whoever calls guard().
            HINT: Let postgres run "GRANT CREATE ON SCHEMA flowguard TO app_owner".
        """,
        follow_by="postgres",
    ),
    Case(
        name="another role owns the function that the triggers of a source call",
        reaches=(("_check_rights", "calls what follows table"),),
        setup=REGISTERED
        + """
CREATE TABLE other (LIKE probe INCLUDING ALL);
SELECT flowguard.add_link(t, 'flow'), flowguard.add_proximity_rule(t, 'event', '1 hour', 'at', 'at', 'flow',
                                                                   link_column => 'flow')
  FROM unnest('{probe,other}'::regclass[]) AS t;
SELECT flowguard.guard('probe', 'flow');
""",
        admin="ALTER FUNCTION flowguard.event_followers() OWNER TO postgres",
        call="SELECT flowguard.guard('other', 'flow')",
        says="""
            ERROR: FG110: flowguard: function flowguard.event_followers() of postgres calls what follows table
                public.event
            DETAIL: It has to call this link as well, and only its owner can change it.
            HINT: Run guard() as postgres, or "GRANT postgres TO app_owner".
        """,
        follow_by="postgres",
    ),
    Case(
        name="others may create operators for a domain that a link is of",
        extension="citext",
        reaches=(("_check_operators", "others may create operators"),),
        setup="""
CREATE EXTENSION citext;
CREATE DOMAIN word AS citext;
CREATE TABLE word_flow (id word PRIMARY KEY, tenant integer NOT NULL, created_at timestamptz);
CREATE TABLE word_child (id integer PRIMARY KEY, tenant integer NOT NULL, flow word);
SELECT flowguard.add_master('word_flow', 'id', '{tenant}');
SELECT flowguard.add_link('word_child', 'flow');
""",
        # Before 15 the owner itself may create there as PUBLIC only.
        admin="GRANT CREATE ON SCHEMA public TO PUBLIC, app_owner",
        call="SELECT flowguard.guard('word_child', 'flow')",
        says="""
            ERROR: FG110: flowguard: others may create operators in schema public, where those for column flow of table
                public.word_child are
            DETAIL: Its type is a domain: an operator for the domain itself would be taken instead, and run with the
                rights of whoever calls guard().
            HINT: Run "REVOKE CREATE ON SCHEMA public FROM PUBLIC".
        """,
        follow_by="postgres",
    ),
    Case(
        name="row security binds the owner",
        reaches=(("_check_rights", "row security hides"),),
        setup=REGISTERED + "ALTER TABLE child ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;",
        call="SELECT flowguard.guard_plan('child', 'flow')",
        says="""
            ERROR: FG110: flowguard: row security hides rows of table public.child from app_owner
            DETAIL: The generated functions run with the rights of whoever calls guard() and must see every row.
            HINT: Run "ALTER TABLE public.child NO FORCE ROW LEVEL SECURITY", or have guard() called by a role with
                BYPASSRLS.
        """,
    ),
    # --- Guarding over rows that are there
    Case(
        name="a link is enforced over rows that are not linked",
        reaches=(("_tell_incomplete", "and the link is enforced"),),
        setup="SELECT flowguard.add_master('flow', 'id', '{tenant}'); "
        "SELECT flowguard.add_link('child', 'flow', mode => 'enforce'); "
        "SELECT flowguard.add_reference_rule('child', 'parent', 'parent', 'id', 'flow', link_column => 'flow'); "
        "INSERT INTO parent VALUES (1, 1, 1); INSERT INTO child (id, tenant, parent) VALUES (1, 1, 1), (2, 1, 1);",
        call="SELECT flowguard.guard('child', 'flow')",
        says="""
            NOTICE: table public.child: 2 of 2 rows are not validly linked, and the link is enforced: writing them is
                refused
            HINT: Run "CALL flowguard.repair('public.child', link_column => 'flow')", or
                flowguard.set_mode('public.child', 'observe', 'flow').
        """,
        then="UPDATE child SET tenant = 1, flow = flow",
    ),
    Case(
        name="an enforced link is planned to be guarded over rows that are not linked",
        reaches=(("_tell_incomplete", "and the link is enforced"),),
        setup="SELECT flowguard.add_master('flow', 'id', '{tenant}'); "
        "SELECT flowguard.add_link('child', 'flow', mode => 'enforce'); "
        "INSERT INTO child (id, tenant) VALUES (1, 1);",
        call="SELECT flowguard.guard_plan('child', 'flow')",
        says="""
            NOTICE: table public.child: 1 of 1 rows are not validly linked, and the link is enforced: writing them is
                refused
            HINT: Run "CALL flowguard.repair('public.child', link_column => 'flow')", or
                flowguard.set_mode('public.child', 'observe', 'flow').
        """,
        take=(1,),
    ),
    Case(
        name="a key is not validated since a row violates it",
        reaches=(("guard", "a key stays NOT VALID"),),
        setup=REGISTERED + "INSERT INTO child (id, tenant, flow) VALUES (1, 1, 77);",
        call="SELECT flowguard.guard('child', 'flow')",
        says="""
            NOTICE: table public.child: a key stays NOT VALID, for present rows violate it: insert or update on table
                "child" violates foreign key constraint "flowguard_child_flow_tenant_fkey"
            HINT: See flowguard.violation, run "CALL flowguard.repair('public.child', link_column => 'flow')", then
                flowguard.guard('public.child', 'flow') again.
        """,
        take=(0, 1),
    ),
    # --- Mode
    Case(
        name="a mode is set that is none",
        reaches=(("set_mode", "mode %s is unknown"),),
        world="known",
        call="SELECT flowguard.set_mode('child', 'strict', 'flow')",
        says="""
            ERROR: FG104: flowguard: mode 'strict' is unknown
            DETAIL: observe accepts and lists unlinked rows, enforce refuses them at commit.
            HINT: Pass mode => 'observe' or 'enforce'.
        """,
        argument=0,
        then="SELECT flowguard.set_mode('child', {hint}, link_column => 'flow')",
    ),
    Case(
        name="a link is to be enforced in a transaction that does not see what others commit",
        reaches=(("set_mode", "at isolation level"),),
        world="known",
        call="BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT flowguard.set_mode('child', 'enforce', 'flow'); COMMIT;",
        says="""
            ERROR: FG104: flowguard: a link cannot be enforced at isolation level repeatable read
            DETAIL: Rows that others committed since the transaction began would not be counted.
            HINT: Call it after "BEGIN ISOLATION LEVEL READ COMMITTED".
        """,
        then="{hint}; SELECT flowguard.set_mode('child', 'enforce', 'flow'); COMMIT;",
    ),
    Case(
        name="a link is to be enforced that has unlinked rows",
        reaches=(("set_mode", "cannot be enforced yet"),),
        setup=REGISTERED
        + "SELECT flowguard.add_reference_rule('child', 'parent', 'parent', 'id', 'flow', link_column => 'flow'); "
        "INSERT INTO parent VALUES (1, 1, 1); "
        "INSERT INTO child (id, tenant, flow, parent) VALUES (1, 1, NULL, 1), (2, 1, 77, 1), (3, 1, 1, NULL);",
        call="SELECT flowguard.set_mode('child', 'enforce', 'flow')",
        says="""
            ERROR: FG113: flowguard: link public.child.flow cannot be enforced yet
            DETAIL: Of 3 rows 1 are unlinked, 1 dangling, 0 mismatched and 0 without a tenant.
            HINT: See flowguard.violation, run "CALL flowguard.repair('public.child', link_column => 'flow')", then set
                the mode again.
        """,
    ),
    # --- Pausing and taking away
    Case(
        name="a link is paused that is not guarded",
        reaches=(("_set_paused", "is not guarded"),),
        world="known",
        call="SELECT flowguard.pause('child', 'flow')",
        says="""
            ERROR: FG107: flowguard: link public.child.flow is not guarded
            DETAIL: There is nothing to pause or to resume.
            HINT: Call flowguard.guard('public.child', 'flow') first.
        """,
    ),
    Case(
        name="a link is resumed that is not guarded",
        reaches=(("_set_paused", "is not guarded"),),
        world="known",
        call="SELECT flowguard.resume('child', 'flow')",
        says="""
            ERROR: FG107: flowguard: link public.child.flow is not guarded
            DETAIL: There is nothing to pause or to resume.
            HINT: Call flowguard.guard('public.child', 'flow') first.
        """,
    ),
    Case(
        name="a link is dropped that is guarded",
        reaches=(("drop_link", "is guarded"),),
        world="observe",
        call="SELECT flowguard.drop_link('child', 'flow')",
        says="""
            ERROR: FG112: flowguard: link public.child.flow is guarded
            DETAIL: Its triggers, keys and indexes are in place.
            HINT: Call flowguard.unguard('public.child', 'flow') first.
        """,
    ),
    Case(
        name="the application's key comes back, and a row violates it",
        reaches=(("_add_key_back", "but NOT VALID"),),
        setup=REPLACED,
        admin="CREATE FUNCTION past_the_guard() RETURNS void LANGUAGE sql SECURITY DEFINER "
        "SET session_replication_role = replica AS 'INSERT INTO public.child (id, tenant, flow) VALUES (1, 1, 77)'",
        call="SELECT past_the_guard(); SELECT flowguard.unguard('child', 'flow');",
        says="""
            NOTICE: foreign key child_flow of table public.child is back, but NOT VALID: insert or update on table
                "child" violates foreign key constraint "child_flow"
            HINT: Mend the rows, then run "ALTER TABLE public.child VALIDATE CONSTRAINT child_flow".
        """,
        then="DELETE FROM child; {hint}",
    ),
    Case(
        name="the application's key cannot come back, for a column that it names is gone",
        reaches=(("unguard", "is not put back"),),
        setup=REPLACED + "ALTER TABLE flow RENAME COLUMN id TO number;",
        call="SELECT flowguard.unguard('child', 'flow')",
        says="""
            NOTICE: foreign key child_flow of table public.child is not put back: column id of public.flow gone
            DETAIL: FOREIGN KEY (flow) REFERENCES public.flow(id)
            HINT: Run "ALTER TABLE public.child ADD CONSTRAINT child_flow <its definition, with the names of now>".
        """,
        fill={"<its definition, with the names of now>": "FOREIGN KEY (flow) REFERENCES flow (number)"},
        then="{hint}",
    ),
]
