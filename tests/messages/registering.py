"""What is said when masters, links and rules are named."""

from __future__ import annotations

from messages.stage import Case

BATCH = """
CREATE TABLE batch (id integer, tenant integer NOT NULL, flow integer, PRIMARY KEY (id)) PARTITION BY LIST (id);
CREATE TABLE batch_1 PARTITION OF batch FOR VALUES IN (1);
CREATE TABLE batch_2 PARTITION OF batch FOR VALUES IN (2);
"""

CASES = [
    # --- Tables and columns
    Case(
        name="a view is named as a table",
        reaches=(("_check_table", "is not a table"),),
        call="SELECT flowguard.add_master('view_of_child', 'id', '{tenant}', created_at_column => NULL)",
        says="""
            ERROR: FG101: flowguard: public.view_of_child is not a table
            DETAIL: It is a view.
            HINT: Name the table that holds the rows.
        """,
        take=(),
        then="SELECT flowguard.add_master('child', 'id', '{tenant}', created_at_column => NULL)",
    ),
    Case(
        name="a materialized view is named as a table",
        reaches=(("_check_table", "is not a table"),),
        world="known",
        call="SELECT flowguard.add_link('copy_of_child', 'flow')",
        says="""
            ERROR: FG101: flowguard: public.copy_of_child is not a table
            DETAIL: It is a materialized view.
            HINT: Name the table that holds the rows.
        """,
        take=(),
        then="SELECT flowguard.add_link('child', 'flow')",
    ),
    Case(
        name="a foreign table is named as a table",
        reaches=(("_check_table", "is not a table"),),
        world="known",
        admin="CREATE FOREIGN DATA WRAPPER elsewhere; CREATE SERVER elsewhere FOREIGN DATA WRAPPER elsewhere; "
        "CREATE FOREIGN TABLE far (id integer, tenant integer, flow integer) SERVER elsewhere;",
        call="SELECT flowguard.add_link('far', 'flow')",
        says="""
            ERROR: FG101: flowguard: public.far is not a table
            DETAIL: It is a foreign table.
            HINT: Name the table that holds the rows.
        """,
        take=(),
        then="SELECT flowguard.add_link('child', 'flow')",
    ),
    Case(
        name="no table is named",
        reaches=(("_check_table", "is not a table"),),
        call="SELECT flowguard.add_master(NULL, 'id', '{tenant}')",
        says="""
            ERROR: FG101: flowguard: NULL is not a table
            DETAIL: Links, masters and sources are ordinary or partitioned tables.
            HINT: Name the table that holds the rows.
        """,
        take=(),
        then="SELECT flowguard.add_master('flow', 'id', '{tenant}')",
    ),
    Case(
        name="a table with children by inheritance is named",
        reaches=(("_check_table", "has children by inheritance"),),
        world="known",
        setup="CREATE TABLE base (id integer, tenant integer, flow integer); "
        "CREATE TABLE kid (PRIMARY KEY (id)) INHERITS (base);",
        call="SELECT flowguard.add_link('base', 'flow')",
        says="""
            ERROR: FG101: flowguard: table public.base has children by inheritance
            DETAIL: Neither foreign keys nor triggers of a table hold for rows of its children.
            HINT: Name the children, which can be guarded each, or make it a partitioned table.
        """,
        take=(),
        then="SELECT flowguard.add_link('kid', 'flow')",
    ),
    Case(
        name="a table has a foreign table as partition",
        reaches=(("_check_table", "has a partition that is a foreign table"),),
        world="known",
        setup="CREATE TABLE split (id integer, tenant integer, flow integer) PARTITION BY LIST (id); "
        "CREATE TABLE split_1 PARTITION OF split (PRIMARY KEY (id)) FOR VALUES IN (1);",
        admin="CREATE FOREIGN DATA WRAPPER elsewhere; CREATE SERVER elsewhere FOREIGN DATA WRAPPER elsewhere; "
        "CREATE FOREIGN TABLE far PARTITION OF split FOR VALUES IN (2) SERVER elsewhere;",
        call="SELECT flowguard.add_link('split', 'flow')",
        says="""
            ERROR: FG101: flowguard: table public.split has a partition that is a foreign table
            DETAIL: Neither foreign keys nor unique indexes hold for its rows.
            HINT: Detach it, or name a table whose partitions are all of this database.
        """,
        take=(),
        then="ALTER TABLE split DETACH PARTITION far; ALTER TABLE split ADD PRIMARY KEY (id); "
        "SELECT flowguard.add_link('split', 'flow')",
        follow_by="postgres",
    ),
    Case(
        name="a temporary table is named",
        reaches=(("_check_table", "is temporary"),),
        world="known",
        setup="CREATE TABLE lasting (id integer PRIMARY KEY, tenant integer, flow integer)",
        call="CREATE TEMPORARY TABLE passing (id integer PRIMARY KEY, tenant integer, flow integer); "
        "SELECT flowguard.add_link('passing', 'flow')",
        says="""
            ERROR: FG101: flowguard: table passing is temporary
            DETAIL: It is gone at the end of the session.
            HINT: Name a table that stays.
        """,
        take=(),
        then="SELECT flowguard.add_link('lasting', 'flow')",
    ),
    Case(
        name="a column is named that the table does not have",
        reaches=(("_is_not_null", "has no column"),),
        world="known",
        call="SELECT flowguard.add_link('child')",
        says="""
            ERROR: FG102: flowguard: table public.child has no column master_flow_id
            DETAIL: Its columns are: id, tenant, flow, note, parent.
            HINT: Pass the name of a column that the table has; nothing was changed.
        """,
        take=(),
        then="SELECT flowguard.add_link('child', 'flow')",
    ),
    Case(
        name="a key is of a type that cannot be compared",
        reaches=(("_equal", "cannot be compared"),),
        setup="CREATE UNIQUE INDEX ON doc_master (code)",
        call="SELECT flowguard.add_master('doc_master', 'id', '{tenant}')",
        says="""
            ERROR: FG103: flowguard: column id of table public.doc_master cannot be compared
            DETAIL: Type json has no default btree operator class.
            HINT: Use a column of a type that can be a key, such as uuid, bigint or text.
        """,
        take=(),
        then="SELECT flowguard.add_master('doc_master', 'code', '{tenant}')",
    ),
    Case(
        name="a link is of another type than the master's key",
        reaches=(("_check_same_type", "is of type %, but"),),
        world="known",
        call="SELECT flowguard.add_link('text_link', 'flow')",
        says="""
            ERROR: FG103: flowguard: public.text_link.flow is of type text, but public.flow.id is of type integer
            DETAIL: A column and what it is compared with must have the same type.
            HINT: Name the right column, or run "ALTER TABLE public.text_link ALTER COLUMN flow TYPE integer USING …".
        """,
        fill={"…": "flow::integer"},
    ),
    Case(
        name="a table has no key that names a row",
        reaches=(("_row_key", "neither a primary key"),),
        world="known",
        call="SELECT flowguard.add_link('keyless', 'flow')",
        says="""
            ERROR: FG105: flowguard: table public.keyless has neither a primary key nor a unique key of NOT NULL columns
            DETAIL: Without one a row cannot be named, repaired or put back.
            HINT: Run "ALTER TABLE public.keyless ADD PRIMARY KEY (…)" first.
        """,
        fill={"…": "id"},
    ),
    Case(
        name="a link has another collation than the master's key",
        reaches=(("_check_same_type", "has collation"),),
        setup='CREATE TABLE word_master (id text COLLATE "C" PRIMARY KEY, tenant integer); '
        'CREATE TABLE word_link (id integer PRIMARY KEY, tenant integer, flow text COLLATE "POSIX"); '
        "SELECT flowguard.add_master('word_master', 'id', '{tenant}', created_at_column => NULL);",
        call="SELECT flowguard.add_link('word_link', 'flow')",
        says="""
            ERROR: FG103: flowguard: public.word_link.flow has collation "POSIX", but public.word_master.id has
                collation "C"
            DETAIL: A column and what it is compared with must have the same collation, or one of them the default.
            HINT: Run "ALTER TABLE public.word_link ALTER COLUMN flow TYPE text COLLATE "C"".
        """,
    ),
    Case(
        name="a rule reads a generated column",
        reaches=(("_check_read", "is generated"),),
        world="known",
        setup="ALTER TABLE child ADD made integer GENERATED ALWAYS AS (tenant + 1) STORED",
        call="SELECT flowguard.add_reference_rule('child', 'made', 'event', 'id', 'flow', false, 'flow')",
        says="""
            ERROR: FG104: flowguard: column made of table public.child is generated
            DETAIL: Triggers read it, and it has no value there yet.
            HINT: Name a column that is written.
        """,
        take=(),
        then="SELECT flowguard.add_reference_rule('child', 'parent', 'event', 'id', 'flow', false, 'flow')",
    ),
    # --- Masters
    Case(
        name="a master's column is named twice",
        reaches=(("add_master", "must each be named once"),),
        call="SELECT flowguard.add_master('flow', 'id', '{id}')",
        says="""
            ERROR: FG104: flowguard: the columns of master public.flow must each be named once
            DETAIL: Key id, tenant columns {id}, alternate keys {}.
            HINT: Pass lists of column names in which none occurs twice.
        """,
        take=(),
        then="SELECT flowguard.add_master('flow', 'id', '{tenant}')",
    ),
    Case(
        name="the time of a master is no time",
        reaches=(("add_master", "is no time"),),
        call="SELECT flowguard.add_master('flow', 'id', '{}', created_at_column => 'tenant')",
        says="""
            ERROR: FG103: flowguard: column tenant of table public.flow is no time
            DETAIL: It is of type integer.
            HINT: Name a column of type timestamp with time zone or timestamp, or pass created_at_column => NULL.
        """,
        argument=0,
        then="SELECT flowguard.add_master('flow', 'id', '{}', {hint})",
    ),
    Case(
        name="a master's key is not unique",
        reaches=(("add_master", "is not unique"),),
        call="SELECT flowguard.add_master('doc_master', 'code', '{tenant}')",
        says="""
            ERROR: FG105: flowguard: column code of table public.doc_master is not unique
            DETAIL: A key that two rows may share cannot say which of them is the master.
            HINT: Run "CREATE UNIQUE INDEX CONCURRENTLY ON public.doc_master (tenant, code)" first.
        """,
    ),
    Case(
        name="the key of a partitioned master is not unique",
        reaches=(("add_master", "is not unique"),),
        setup="CREATE TABLE split (id integer, tenant integer) PARTITION BY HASH (tenant); "
        "CREATE TABLE split_0 PARTITION OF split FOR VALUES WITH (MODULUS 1, REMAINDER 0);",
        call="SELECT flowguard.add_master('split', 'id', '{tenant}', created_at_column => NULL)",
        says="""
            ERROR: FG105: flowguard: column id of table public.split is not unique
            DETAIL: A key that two rows may share cannot say which of them is the master.
            HINT: Run "CREATE UNIQUE INDEX ON public.split (tenant, id)" first.
        """,
    ),
    Case(
        name="a master is partitioned by time, so that its key cannot be unique",
        reaches=(("add_master", "is not unique"),),
        setup="CREATE TABLE split (id integer, tenant integer, at timestamptz, PRIMARY KEY (id, at)) "
        "PARTITION BY RANGE (at); CREATE TABLE split_1 PARTITION OF split DEFAULT;",
        call="SELECT flowguard.add_master('split', 'id', '{tenant}', created_at_column => NULL)",
        says="""
            ERROR: FG105: flowguard: column id of table public.split is not unique
            DETAIL: A key that two rows may share cannot say which of them is the master.
            HINT: No unique index can make it so while public.split is partitioned by at: partition it by columns of
                (tenant, id), or not at all.
        """,
        take=(),
        then="DROP TABLE split; CREATE TABLE split (id integer, tenant integer, at timestamptz, "
        "PRIMARY KEY (tenant, id)) PARTITION BY HASH (tenant); "
        "SELECT flowguard.add_master('split', 'id', '{tenant}', created_at_column => NULL)",
    ),
    Case(
        name="a master is registered again, otherwise",
        reaches=(("add_master", "_refuse_other"),),
        setup="SELECT flowguard.add_master('flow', 'id', '{tenant}')",
        call="SELECT flowguard.add_master('flow', 'id', '{}')",
        says="""
            ERROR: FG108: flowguard: master public.flow is already registered, otherwise
            DETAIL: tenant_columns is ["tenant"], asked for is [].
            HINT: Call flowguard.drop_master('public.flow') first.
        """,
    ),
    Case(
        name="a master is dropped that has links",
        reaches=(("drop_master", "still has links"),),
        setup="SELECT flowguard.add_master('flow', 'id', '{tenant}'); SELECT flowguard.add_link('child', 'flow');",
        call="SELECT flowguard.drop_master('flow')",
        says="""
            ERROR: FG112: flowguard: master public.flow still has links
            DETAIL: They are: public.child.flow.
            HINT: Call flowguard.drop_link('public.child', 'flow') first.
        """,
    ),
    Case(
        name="a link is added and no master is registered",
        reaches=(("_master", "is not registered as a master"),),
        call="SELECT flowguard.add_link('child', 'flow')",
        says="""
            ERROR: FG107: flowguard: which master a link points to must be said
            DETAIL: No master is registered.
            HINT: Call flowguard.add_master(relation, key_column, tenant_columns) first, or pass one as master => ….
        """,
        fill={"relation, key_column, tenant_columns": "'flow', 'id', '{tenant}'"},
    ),
    Case(
        name="a link is added and there are two masters",
        reaches=(("_master", "is not registered as a master"),),
        setup="SELECT flowguard.add_master('flow', 'id', '{tenant}'); "
        "SELECT flowguard.add_master('parent', 'id', '{tenant}', created_at_column => NULL);",
        call="SELECT flowguard.add_link('child', 'flow')",
        says="""
            ERROR: FG107: flowguard: which master a link points to must be said
            DETAIL: Registered masters: public.flow, public.parent.
            HINT: Call flowguard.add_master(relation, key_column, tenant_columns) first, or pass one as master => ….
        """,
        argument=0,
        fill={"…": "'flow'"},
        then="SELECT flowguard.add_link('child', 'flow', {hint})",
    ),
    Case(
        name="a link is to point to a table that is no master",
        reaches=(("_master", "is not registered as a master"),),
        world="known",
        call="SELECT flowguard.add_link('child', 'flow', master => 'per_tenant')",
        says="""
            ERROR: FG107: flowguard: table public.per_tenant is not registered as a master
            DETAIL: Registered masters: public.flow.
            HINT: Call flowguard.add_master(relation, key_column, tenant_columns) first, or pass one as master => ….
        """,
        argument=0,
        fill={"…": "'flow'"},
        then="SELECT flowguard.add_link('child', 'flow', {hint})",
    ),
    # --- Links
    Case(
        name="a link is spoken of that is not registered",
        reaches=(("_link", "is not registered as a link"),),
        world="known",
        call="SELECT flowguard.add_session_rule('grandchild', 'flow')",
        says="""
            ERROR: FG107: flowguard: column flow of table public.grandchild is not registered as a link
            DETAIL: Registered links: public.child.flow, public.event.flow, public.parent.flow, public.probe.flow.
            HINT: Call flowguard.add_link('public.grandchild', link_column => 'flow') first.
        """,
    ),
    Case(
        name="a link is spoken of and none is registered",
        reaches=(("_link", "is not registered as a link"),),
        setup="SELECT flowguard.add_master('flow', 'id', '{tenant}')",
        call="SELECT flowguard.add_session_rule('child', 'flow')",
        says="""
            ERROR: FG107: flowguard: column flow of table public.child is not registered as a link
            DETAIL: No link is registered.
            HINT: Call flowguard.add_link('public.child', link_column => 'flow') first.
        """,
    ),
    Case(
        name="a link of no table is spoken of",
        reaches=(("_link", "is not registered as a link"),),
        setup="SELECT flowguard.add_master('flow', 'id', '{tenant}')",
        call="SELECT flowguard.guard(NULL, 'flow')",
        says="""
            ERROR: FG107: flowguard: column flow of table NULL is not registered as a link
            DETAIL: No link is registered.
            HINT: Call flowguard.add_link('<table>', link_column => 'flow') first.
        """,
        fill={"<table>": "child"},
        then="SELECT flowguard.guard('child', 'flow')",
    ),
    Case(
        name="a link of no column is spoken of",
        reaches=(("_link", "is not registered as a link"),),
        setup="SELECT flowguard.add_master('flow', 'id', '{tenant}')",
        call="SELECT flowguard.guard('child', NULL)",
        says="""
            ERROR: FG107: flowguard: column NULL of table public.child is not registered as a link
            DETAIL: No link is registered.
            HINT: Call flowguard.add_link('public.child', link_column => '<column>') first.
        """,
        fill={"<column>": "flow"},
        then="SELECT flowguard.guard('child', 'flow')",
    ),
    Case(
        name="tenant columns do not match the master's",
        reaches=(("_align_tenants", "do not match"),),
        world="known",
        call="SELECT flowguard.add_link('grandchild', 'flow', tenant_columns => '{id,note}')",
        says="""
            ERROR: FG104: flowguard: tenant columns {id,note} of table public.grandchild do not match those of master
                public.flow
            DETAIL: The master has {tenant}.
            HINT: Pass as many as the master has, in its order (NULL for one that the table lacks), or names that both
                share.
        """,
        take=(),
        then="SELECT flowguard.add_link('grandchild', 'flow', tenant_columns => '{tenant}')",
    ),
    Case(
        name="a master's key is named as a link",
        reaches=(("add_link", "is its key, not a link"),),
        world="known",
        setup="ALTER TABLE flow ADD up integer",
        call="SELECT flowguard.add_link('flow', 'id')",
        says="""
            ERROR: FG104: flowguard: column id of master public.flow is its key, not a link
            DETAIL: A link points from a row to another one.
            HINT: Name the column that holds the key of another row.
        """,
        take=(),
        then="SELECT flowguard.add_link('flow', 'up')",
    ),
    Case(
        name="a generated column is named as a link",
        reaches=(("add_link", "is generated"),),
        world="known",
        setup="ALTER TABLE child ADD made integer GENERATED ALWAYS AS (tenant + 1) STORED",
        call="SELECT flowguard.add_link('child', 'made')",
        says="""
            ERROR: FG104: flowguard: column made of table public.child is generated
            DETAIL: Its value follows from other columns and cannot be filled.
            HINT: Name a column that can be written.
        """,
        take=(),
        then="SELECT flowguard.add_link('child', 'flow')",
    ),
    Case(
        name="a partition is named of a table that is a link",
        reaches=(("_check_alone", "cannot both be links"),),
        world="known",
        setup=BATCH + "SELECT flowguard.add_link('batch', 'flow'); SELECT flowguard.guard('batch', 'flow')",
        call="SELECT flowguard.add_link('batch_1', 'flow')",
        says="""
            ERROR: FG108: flowguard: column flow of table public.batch and of a partition of it cannot both be links
            DETAIL: What guards a table guards its partitions, here public.batch_1.
            HINT: It is guarded with the whole. For a guard of its own, call flowguard.unguard('public.batch', 'flow'),
                flowguard.drop_link('public.batch', 'flow') first.
        """,
        take=(0, 1),
    ),
    Case(
        name="a table is named of which partitions are links",
        reaches=(("_check_alone", "cannot both be links"),),
        world="known",
        setup=BATCH + "SELECT flowguard.add_link('batch_1', 'flow'); SELECT flowguard.guard('batch_1', 'flow'); "
        "SELECT flowguard.add_link('batch_2', 'flow')",
        call="SELECT flowguard.add_link('batch', 'flow')",
        says="""
            ERROR: FG108: flowguard: column flow of table public.batch and of a partition of it cannot both be links
            DETAIL: What guards a table guards its partitions, here public.batch_1, public.batch_2.
            HINT: Call flowguard.unguard('public.batch_1', 'flow'), flowguard.drop_link('public.batch_1', 'flow'),
                flowguard.unguard('public.batch_2', 'flow'), flowguard.drop_link('public.batch_2', 'flow') first.
        """,
        take=(0, 1, 2, 3),
    ),
    Case(
        name="orphans of a link that is NOT NULL are to be unlinked",
        reaches=(("add_link", "is NOT NULL"),),
        world="known",
        setup="ALTER TABLE grandchild ALTER flow SET NOT NULL",
        call="SELECT flowguard.add_link('grandchild', 'flow', on_orphan => 'unlink')",
        says="""
            ERROR: FG104: flowguard: column flow of table public.grandchild is NOT NULL
            DETAIL: on_orphan is unlink, on_master_delete keep; one of them would have to set it to NULL.
            HINT: Pass another policy, or run "ALTER TABLE public.grandchild ALTER COLUMN flow DROP NOT NULL".
        """,
    ),
    Case(
        name="deleting a master is to unlink rows whose link is NOT NULL",
        reaches=(("add_link", "is NOT NULL"),),
        world="known",
        setup="ALTER TABLE grandchild ALTER flow SET NOT NULL",
        call="SELECT flowguard.add_link('grandchild', 'flow', on_master_delete => 'set null')",
        says="""
            ERROR: FG104: flowguard: column flow of table public.grandchild is NOT NULL
            DETAIL: on_orphan is quarantine, on_master_delete set null; one of them would have to set it to NULL.
            HINT: Pass another policy, or run "ALTER TABLE public.grandchild ALTER COLUMN flow DROP NOT NULL".
        """,
    ),
    Case(
        name="a link is added in a mode that is none",
        reaches=(("add_link", "mode %s is unknown"),),
        world="known",
        call="SELECT flowguard.add_link('child', 'flow', mode => 'strict')",
        says="""
            ERROR: FG104: flowguard: mode 'strict' is unknown
            DETAIL: observe accepts and lists unlinked rows, enforce refuses them at commit.
            HINT: Pass mode => 'observe' or 'enforce'.
        """,
        argument=0,
        then="SELECT flowguard.add_link('child', 'flow', {hint})",
    ),
    Case(
        name="orphans are to be treated in a way that is none",
        reaches=(("add_link", "on_orphan %s is unknown"),),
        world="known",
        call="SELECT flowguard.add_link('child', 'flow', on_orphan => 'delete')",
        says="""
            ERROR: FG104: flowguard: on_orphan 'delete' is unknown
            DETAIL: It says what repair does with a row whose dangling link nothing can mend.
            HINT: Pass on_orphan => 'quarantine', 'unlink' or 'keep'.
        """,
        argument=0,
        then="SELECT flowguard.add_link('child', 'flow', {hint})",
    ),
    Case(
        name="deleting a master is to do what is not known",
        reaches=(("add_link", "on_master_delete %s is unknown"),),
        world="known",
        call="SELECT flowguard.add_link('child', 'flow', on_master_delete => NULL)",
        says="""
            ERROR: FG104: flowguard: on_master_delete NULL is unknown
            DETAIL: It says what deleting a master does to the rows linked to it.
            HINT: Pass on_master_delete => 'keep', 'refuse', 'cascade' or 'set null'.
        """,
        argument=0,
        then="SELECT flowguard.add_link('child', 'flow', {hint})",
    ),
    Case(
        name="a link is registered again, otherwise",
        reaches=(("add_link", "_refuse_other"),),
        world="known",
        call="SELECT flowguard.add_link('child', 'flow', on_orphan => 'keep', on_master_delete => 'cascade')",
        says="""
            ERROR: FG108: flowguard: link public.child.flow is already registered, otherwise
            DETAIL: on_master_delete is keep, asked for is cascade; on_orphan is quarantine, asked for is keep.
            HINT: Call flowguard.drop_link('public.child', 'flow') first; flowguard.set_mode() changes the mode.
        """,
    ),
    Case(
        name="a link is registered again, in another mode",
        reaches=(("add_link", "stays in mode"),),
        world="known",
        call="SELECT flowguard.add_link('child', 'flow', mode => 'enforce')",
        says="""
            NOTICE: link public.child.flow stays in mode observe
            HINT: Call flowguard.set_mode('public.child', 'enforce', 'flow') to change it.
        """,
    ),
    Case(
        name="a row that may lack its tenant is to point to a key that is unique in a tenant only",
        reaches=(("add_link", "is unique only within one"),),
        setup="SELECT flowguard.add_master('per_tenant', 'id', '{tenant}')",
        call="SELECT flowguard.add_link('probe', 'flow')",
        says="""
            ERROR: FG104: flowguard: table public.probe may hold rows without a tenant, and key id of master
                public.per_tenant is unique only within one
            DETAIL: Tenant columns of the link: {tenant}.
            HINT: Declare them NOT NULL, or run "CREATE UNIQUE INDEX CONCURRENTLY ON public.per_tenant (id)".
        """,
    ),
    Case(
        name="PostgreSQL 14 is to set a link NULL whose key names the tenant",
        before=150000,
        reaches=(("add_link", "needs PostgreSQL 15"),),
        setup="SELECT flowguard.add_master('per_tenant', 'id', '{tenant}')",
        call="SELECT flowguard.add_link('child', 'flow', on_master_delete => 'set null')",
        says="""
            ERROR: FG104: flowguard: on_master_delete 'set null' needs PostgreSQL 15 where key id of master
                public.per_tenant is unique only within a tenant
            DETAIL: A foreign key of PostgreSQL 14 would set the tenant NULL as well.
            HINT: Pass on_master_delete => 'refuse' or 'cascade', or run "CREATE UNIQUE INDEX CONCURRENTLY ON
                public.per_tenant (id)".
        """,
    ),
    Case(
        name="a linked table has none of the master's tenant columns by name",
        reaches=(("add_link", "has not all tenant columns"),),
        world="known",
        setup="CREATE TABLE renamed (id integer PRIMARY KEY, client integer, flow integer)",
        call="SELECT flowguard.add_link('renamed', 'flow')",
        says="""
            NOTICE: table public.renamed has not all tenant columns of master public.flow by name: those that it lacks
                are not checked
            DETAIL: The master has {tenant}, the link {NULL}.
            HINT: If they have other names, call flowguard.drop_link('public.renamed', 'flow') and add it again with
                tenant_columns => …
        """,
        then="SELECT flowguard.add_link('renamed', 'flow', tenant_columns => '{client}')",
    ),
    # --- Rules
    Case(
        name="a rule is put at a position that is none",
        reaches=(("_add_rule", "position %s is none"),),
        world="known",
        call="SELECT flowguard.add_session_rule('child', 'flow', 0)",
        says="""
            ERROR: FG104: flowguard: position 0 is none
            DETAIL: Positions begin with 1.
            HINT: Leave position out to add the rule at the end.
        """,
        take=(),
        then="SELECT flowguard.add_session_rule('child', 'flow')",
    ),
    Case(
        name="a rule closes a ring of links",
        reaches=(("_add_rule", "close a ring"),),
        world="known",
        setup="ALTER TABLE parent ADD child integer, ADD event integer; "
        "SELECT flowguard.add_reference_rule('child', 'parent', 'parent', 'id', 'flow', link_column => 'flow');",
        call="SELECT flowguard.add_reference_rule('parent', 'child', 'child', 'id', 'flow', false, 'flow')",
        says="""
            ERROR: FG106: flowguard: the rule would close a ring of links to public.parent.flow
            DETAIL: Each would wait for the other: public.parent.flow -> public.child.flow -> public.parent.flow.
            HINT: Take the link from a table that is nearer to the master.
        """,
        take=(),
        then="SELECT flowguard.add_reference_rule('parent', 'event', 'event', 'id', 'flow', false, 'flow')",
    ),
    Case(
        name="a reference is to move no rows at all",
        reaches=(("add_reference_rule", "late_limit %s is not positive"),),
        world="known",
        call="SELECT flowguard.add_reference_rule('child', 'parent', 'parent', 'id', 'flow', link_column => 'flow', "
        "late_limit => 0)",
        says="""
            ERROR: FG104: flowguard: late_limit 0 is not positive
            DETAIL: It is the number of rows that a late link moves at most.
            HINT: Leave it out for no limit.
        """,
        take=(),
        then="SELECT flowguard.add_reference_rule('child', 'parent', 'parent', 'id', 'flow', link_column => 'flow')",
    ),
    Case(
        name="a reference is to agree with the key that it holds itself",
        reaches=(("add_reference_rule", "a link cannot be made to agree"),),
        world="known",
        setup="ALTER TABLE child ADD its_flow integer REFERENCES flow;",
        call="SELECT flowguard.add_reference_rule('child', 'its_flow', 'flow', 'id', 'id', link_column => 'flow')",
        says="""
            ERROR: FG104: flowguard: a link cannot be made to agree with the key that its_flow of table public.child
                holds
            DETAIL: source_key and source_link are both id of table public.flow: a CHECK constraint can prove that two
                columns of a row are equal, a foreign key cannot.
            HINT: Pass agree => false.
        """,
        take=(),
        then="SELECT flowguard.add_reference_rule('child', 'its_flow', 'flow', 'id', 'id', false, 'flow')",
    ),
    Case(
        name="a reference leads to a column that is not unique",
        reaches=(("add_reference_rule", "is not unique"),),
        world="known",
        call="SELECT flowguard.add_reference_rule('child', 'parent', 'event', 'tenant', 'flow', false, 'flow')",
        says="""
            ERROR: FG105: flowguard: column tenant of table public.event is not unique
            DETAIL: A reference that several rows answer does not say which link is meant.
            HINT: Run "CREATE UNIQUE INDEX CONCURRENTLY ON public.event (tenant)" first, or name another source_key.
        """,
    ),
    Case(
        name="a reference leads to a table that is partitioned by an expression",
        reaches=(("add_reference_rule", "is not unique"),),
        world="known",
        setup="CREATE TABLE batch (id integer, tenant integer NOT NULL, flow integer) PARTITION BY LIST ((id % 2)); "
        "ALTER TABLE child ADD batch integer",
        call="SELECT flowguard.add_reference_rule('child', 'batch', 'batch', 'id', 'flow', false, 'flow')",
        says="""
            ERROR: FG105: flowguard: column id of table public.batch is not unique
            DETAIL: A reference that several rows answer does not say which link is meant.
            HINT: No unique index can make it so while public.batch is partitioned by an expression: partition it by
                columns of (tenant, id), or not at all.
        """,
        take=(),
        then="DROP TABLE batch; CREATE TABLE batch (id integer PRIMARY KEY, tenant integer, flow integer); "
        "SELECT flowguard.add_reference_rule('child', 'batch', 'batch', 'id', 'flow', false, 'flow')",
    ),
    Case(
        name="a row that may lack its tenant refers to a key of a table that is partitioned by tenant",
        reaches=(("add_reference_rule", "is unique only within one"),),
        world="known",
        setup="CREATE TABLE batch (id integer, tenant integer NOT NULL, flow integer, PRIMARY KEY (tenant, id)) "
        "PARTITION BY HASH (tenant); ALTER TABLE probe ADD batch integer",
        call="SELECT flowguard.add_reference_rule('probe', 'batch', 'batch', 'id', 'flow', false, 'flow')",
        says="""
            ERROR: FG104: flowguard: table public.probe may hold rows without a tenant, and column id of table
                public.batch is unique only within one
            DETAIL: Tenant columns of the link: {tenant}.
            HINT: Declare them NOT NULL.
        """,
        take=(),
        then="ALTER TABLE probe ALTER COLUMN tenant SET NOT NULL; "
        "SELECT flowguard.add_reference_rule('probe', 'batch', 'batch', 'id', 'flow', false, 'flow')",
    ),
    Case(
        name="the link of a row says in which partition it lies",
        reaches=(("_add_rule", "says in which partition"),),
        world="known",
        setup="CREATE TABLE split (id integer, tenant integer, flow integer, PRIMARY KEY (id, flow)) "
        "PARTITION BY HASH (flow); SELECT flowguard.add_link('split', 'flow');",
        call="SELECT flowguard.add_session_rule('split', 'flow')",
        says="""
            ERROR: FG104: flowguard: column flow of table public.split says in which partition a row lies
            DETAIL: No trigger may fill it: a row cannot go to another partition while it is being inserted.
            HINT: Partition the table by another column, or guard the link without rules: then it is proved, and never
                filled.
        """,
        take=(),
        then="SELECT flowguard.guard('split', 'flow')",
    ),
    Case(
        name="a row that may lack its tenant refers to a key that is unique in a tenant only",
        reaches=(("add_reference_rule", "is unique only within one"),),
        world="known",
        setup="CREATE TABLE batch (id integer, tenant integer NOT NULL, flow integer, PRIMARY KEY (tenant, id)); "
        "ALTER TABLE probe ADD batch integer",
        call="SELECT flowguard.add_reference_rule('probe', 'batch', 'batch', 'id', 'flow', false, 'flow')",
        says="""
            ERROR: FG104: flowguard: table public.probe may hold rows without a tenant, and column id of table
                public.batch is unique only within one
            DETAIL: Tenant columns of the link: {tenant}.
            HINT: Declare them NOT NULL, or run "CREATE UNIQUE INDEX CONCURRENTLY ON public.batch (id)".
        """,
    ),
    Case(
        name="a link is to agree with a reference that has no foreign key",
        reaches=(("add_reference_rule", "has no foreign key"),),
        world="known",
        setup="ALTER TABLE child ADD event integer",
        call="SELECT flowguard.add_reference_rule('child', 'event', 'event', 'id', 'flow', link_column => 'flow')",
        says="""
            ERROR: FG111: flowguard: column event of table public.child has no foreign key to public.event.id
            DETAIL: A link can agree with a reference only where the row referred to is known to exist.
            HINT: Run "ALTER TABLE public.child ADD FOREIGN KEY (event) REFERENCES public.event (id) NOT VALID", or pass
                agree => false.
        """,
    ),
    Case(
        name="a link is to agree with a row whose key is unique in a tenant only",
        reaches=(("add_reference_rule", "has no foreign key"),),
        world="known",
        setup="CREATE TABLE batch (id integer, tenant integer NOT NULL, flow integer, PRIMARY KEY (tenant, id)) "
        "PARTITION BY HASH (tenant); ALTER TABLE child ADD batch integer",
        call="SELECT flowguard.add_reference_rule('child', 'batch', 'batch', 'id', 'flow', link_column => 'flow')",
        says="""
            ERROR: FG111: flowguard: column batch of table public.child has no foreign key to public.batch.id
            DETAIL: A link can agree with a reference only where the row referred to is known to exist.
            HINT: Run "ALTER TABLE public.child ADD FOREIGN KEY (tenant, batch) REFERENCES public.batch (tenant, id) NOT
                VALID", or pass agree => false.
        """,
    ),
    Case(
        name="a reference that has no foreign key need not agree",
        reaches=(("add_reference_rule", "has no foreign key"),),
        world="known",
        setup="ALTER TABLE child ADD event integer",
        call="SELECT flowguard.add_reference_rule('child', 'event', 'event', 'id', 'flow', link_column => 'flow')",
        says="""
            ERROR: FG111: flowguard: column event of table public.child has no foreign key to public.event.id
            DETAIL: A link can agree with a reference only where the row referred to is known to exist.
            HINT: Run "ALTER TABLE public.child ADD FOREIGN KEY (event) REFERENCES public.event (id) NOT VALID", or pass
                agree => false.
        """,
        argument=0,
        then="SELECT flowguard.add_reference_rule('child', 'event', 'event', 'id', 'flow', link_column => 'flow', "
        "{hint})",
    ),
    Case(
        name="nearness is to be measured in something that is no time",
        reaches=(("add_proximity_rule", "is no time"),),
        world="known",
        call="SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'id', 'id', 'flow', "
        "link_column => 'flow')",
        says="""
            ERROR: FG103: flowguard: column id of table public.probe is no time
            DETAIL: It is of type integer.
            HINT: Name a column of type timestamp with time zone or timestamp.
        """,
        take=(),
        then="SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', "
        "link_column => 'flow')",
    ),
    Case(
        name="a window is negative",
        reaches=(("add_proximity_rule", "the window %s is none"),),
        world="known",
        call="SELECT flowguard.add_proximity_rule('probe', 'event', '-1 hour', 'at', 'at', 'flow', "
        "link_column => 'flow')",
        says="""
            ERROR: FG104: flowguard: the window -01:00:00 is none
            DETAIL: A window is positive and of days, hours and less; a day is 24 hours, a month has no fixed length.
            HINT: Pass, for example, within => '1 hour'.
        """,
        argument=0,
        then="SELECT flowguard.add_proximity_rule('probe', 'event', {hint}, time_column => 'at', source_time => 'at', "
        "source_link => 'flow', link_column => 'flow')",
    ),
    Case(
        name="a window is counted in months",
        reaches=(("add_proximity_rule", "the window %s is none"),),
        world="known",
        call="SELECT flowguard.add_proximity_rule('probe', 'event', '1 month', 'at', 'at', 'flow', "
        "link_column => 'flow')",
        says="""
            ERROR: FG104: flowguard: the window 1 mon is none
            DETAIL: A window is positive and of days, hours and less; a day is 24 hours, a month has no fixed length.
            HINT: Pass, for example, within => '1 hour'.
        """,
        argument=0,
        then="SELECT flowguard.add_proximity_rule('probe', 'event', {hint}, time_column => 'at', source_time => 'at', "
        "source_link => 'flow', link_column => 'flow')",
    ),
    Case(
        name="two masters in one window are to be treated in a way that is none",
        reaches=(("add_proximity_rule", "on_ambiguous %s is unknown"),),
        world="known",
        call="SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', "
        "on_ambiguous => 'guess', link_column => 'flow')",
        says="""
            ERROR: FG104: flowguard: on_ambiguous 'guess' is unknown
            DETAIL: It says what happens when two masters lie within the window.
            HINT: Pass on_ambiguous => 'nearest' or 'leave'.
        """,
        argument=0,
        then="SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', {hint}, "
        "link_column => 'flow')",
    ),
    Case(
        name="a source is to move fewer rows than none",
        reaches=(("add_proximity_rule", "late_limit %s is not positive"),),
        world="known",
        call="SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', "
        "link_column => 'flow', late_limit => -1)",
        says="""
            ERROR: FG104: flowguard: late_limit -1 is not positive
            DETAIL: It is the number of rows that a late link moves at most.
            HINT: Leave it out for no limit.
        """,
        take=(),
        then="SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', "
        "link_column => 'flow')",
    ),
    Case(
        name="a filter names a column that the source does not have",
        reaches=(("_read_filter", "_refuse_argument"),),
        world="known",
        call="SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', "
        "source_filter => 'state <> ''deleted''', link_column => 'flow')",
        says="""
            ERROR: FG104: flowguard: source_filter 'state <> ''deleted''' is no condition on table public.event
            DETAIL: column "state" does not exist
            HINT: Write it as in WHERE, with columns of the source only: source_filter => 'status <> ''deleted'''.
        """,
        argument=0,
        then="SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', {hint}, "
        "link_column => 'flow')",
    ),
    Case(
        name="a filter reads another table",
        reaches=(("_read_filter", "_refuse_argument"),),
        unreached=("it reads %s as well",),
        world="known",
        call="SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', "
        "source_filter => '''probe''::regclass IS NOT NULL', link_column => 'flow')",
        says="""
            ERROR: FG104: flowguard: source_filter '''probe''::regclass IS NOT NULL' is no condition on table
                public.event
            DETAIL: it reads public.probe as well, whose changes would not be noticed
            HINT: Write it as in WHERE, with columns of the source only: source_filter => 'status <> ''deleted'''.
        """,
        argument=0,
        then="SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', {hint}, "
        "link_column => 'flow')",
    ),
    # --- What triggers keep
    Case(
        name="provenance is neither to be kept nor not",
        reaches=(("keep_provenance", "keep NULL"),),
        world="known",
        call="SELECT flowguard.keep_provenance('probe', 'flow', keep => NULL)",
        says="""
            ERROR: FG104: flowguard: keep NULL says neither
            DETAIL: true keeps how triggers find links, false ends that.
            HINT: Pass keep => true or false.
        """,
        argument=0,
        then="SELECT flowguard.keep_provenance('probe', 'flow', {hint})",
    ),
    Case(
        name="what is kept is neither to be counted nor not",
        reaches=(("keep_provenance", "count_candidates NULL"),),
        world="known",
        call="SELECT flowguard.keep_provenance('probe', 'flow', count_candidates => NULL)",
        says="""
            ERROR: FG104: flowguard: count_candidates NULL says neither
            DETAIL: true counts all candidates of each link.
            HINT: Pass count_candidates => true or false.
        """,
        argument=0,
        then="SELECT flowguard.keep_provenance('probe', 'flow', {hint})",
    ),
    Case(
        name="what was kept is to be forgotten, nobody knows up to when",
        reaches=(("forget_provenance", "before NULL"),),
        call="SELECT flowguard.forget_provenance(NULL)",
        says="""
            ERROR: FG104: flowguard: before NULL is no time
            DETAIL: What was kept before that time is deleted.
            HINT: Pass, for example, before => '2026-01-01'.
        """,
        argument=0,
        then="SELECT flowguard.forget_provenance({hint})",
    ),
]
