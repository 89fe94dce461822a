-- Deploy pyflowguard:registry to pg
-- What is guarded, and how: masters, links and the rules that find a missing link.
-- Tables are named by regclass and columns by name: both survive pg_dump, pg_upgrade and a rename of the table.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE TABLE IF NOT EXISTS flowguard.master (
  relation          regclass NOT NULL PRIMARY KEY,
  key_column        name     NOT NULL,
  tenant_columns    name[]   NOT NULL,
  alternate_keys    name[]   NOT NULL DEFAULT '{}',
  created_at_column name
);
COMMENT ON TABLE flowguard.master IS 'Tables that links point to. Written by flowguard.add_master().';
COMMENT ON COLUMN flowguard.master.relation IS 'The master table.';
COMMENT ON COLUMN flowguard.master.key_column IS 'The column whose value a link holds.';
COMMENT ON COLUMN flowguard.master.tenant_columns IS
  'Columns that say whose row it is; empty where there are no tenants.';
COMMENT ON COLUMN flowguard.master.alternate_keys IS
  'Other unique columns of the master that are found in links by mistake; repair translates them to the key.';
COMMENT ON COLUMN flowguard.master.created_at_column IS 'When the master was made; NULL where the table does not say.';

CREATE TABLE IF NOT EXISTS flowguard.link (
  relation         regclass NOT NULL,
  link_column      name     NOT NULL,
  master           regclass NOT NULL REFERENCES flowguard.master,
  tenant_columns   name[]   NOT NULL,
  mode             text     NOT NULL CHECK (mode IN ('observe', 'enforce')),
  on_orphan        text     NOT NULL CHECK (on_orphan IN ('quarantine', 'unlink', 'keep')),
  on_master_delete text     NOT NULL CHECK (on_master_delete IN ('keep', 'refuse', 'cascade', 'set null')),
  stem             text     NOT NULL UNIQUE CHECK (octet_length(stem) BETWEEN 1 AND 36),
  guarded          boolean  NOT NULL DEFAULT false,
  paused           boolean  NOT NULL DEFAULT false,
  PRIMARY KEY (relation, link_column)
);
COMMENT ON TABLE flowguard.link IS 'Columns that must point to a master. Written by flowguard.add_link().';
COMMENT ON COLUMN flowguard.link.relation IS 'The child table.';
COMMENT ON COLUMN flowguard.link.link_column IS 'The column that holds the key of the master.';
COMMENT ON COLUMN flowguard.link.master IS 'The table that the link points to.';
COMMENT ON COLUMN flowguard.link.tenant_columns IS
  'The tenant columns of the child, in the order of those of its master; NULL where the child has none for one.';
COMMENT ON COLUMN flowguard.link.mode IS
  'observe: unlinked rows are accepted and listed in flowguard.violation; enforce: they are refused at commit.';
COMMENT ON COLUMN flowguard.link.on_orphan IS
  'What repair does with a row whose dangling link nothing can mend: quarantine, unlink or keep it.';
COMMENT ON COLUMN flowguard.link.on_master_delete IS
  'What deleting a master does to the row: keep (what the key that the table has says, else refuse), refuse, '
  'cascade, set null.';
COMMENT ON COLUMN flowguard.link.stem IS
  'What the names of all objects generated for this link begin with; at most 36 bytes.';
COMMENT ON COLUMN flowguard.link.guarded IS 'Whether guard() has been asked for: its objects should be there.';
COMMENT ON COLUMN flowguard.link.paused IS 'Whether pause() has replaced the functions by ones that do nothing.';

CREATE TABLE IF NOT EXISTS flowguard.rule (
  relation              regclass NOT NULL,
  link_column           name     NOT NULL,
  "position"            integer  NOT NULL CHECK ("position" > 0),
  kind                  text     NOT NULL CHECK (kind IN ('session', 'reference', 'proximity')),
  source                regclass,
  source_tenant_columns name[],
  source_key            name,
  source_link           name,
  via_column            name,
  agree                 boolean,
  time_column           name,
  source_time           name,
  within                interval CHECK (within > interval '0'),
  source_filter         text,
  filter_columns        name[],
  on_ambiguous          text     CHECK (on_ambiguous IN ('nearest', 'leave')),
  late_limit            integer  CHECK (late_limit > 0),
  PRIMARY KEY (relation, link_column, "position"),
  FOREIGN KEY (relation, link_column) REFERENCES flowguard.link ON DELETE CASCADE,
  CHECK (CASE kind
           WHEN 'session' THEN source IS NULL
           WHEN 'reference' THEN num_nulls(source, source_tenant_columns, source_key, source_link, via_column,
             agree) = 0
           ELSE num_nulls(source, source_tenant_columns, source_link, time_column, source_time, within,
             on_ambiguous) = 0
         END)
);
COMMENT ON TABLE flowguard.rule IS
  'How a missing link is found; tried in the order of position, the first that yields a master wins. Written by '
  'flowguard.add_session_rule(), add_reference_rule() and add_proximity_rule().';
COMMENT ON COLUMN flowguard.rule.relation IS 'The child table.';
COMMENT ON COLUMN flowguard.rule.link_column IS 'The link that the rule fills.';
COMMENT ON COLUMN flowguard.rule."position" IS 'Rules are tried from the smallest position up.';
COMMENT ON COLUMN flowguard.rule.kind IS
  'session: the setting flowguard.<link column> of the transaction; reference: the link of the row that a column '
  'refers to; proximity: the link of the row nearest in time.';
COMMENT ON COLUMN flowguard.rule.source IS 'The table that the link is taken from (reference, proximity).';
COMMENT ON COLUMN flowguard.rule.source_tenant_columns IS
  'The tenant columns of the source, in the order of those of the master; NULL where the source has none for one.';
COMMENT ON COLUMN flowguard.rule.source_key IS 'The column of the source that via_column holds (reference).';
COMMENT ON COLUMN flowguard.rule.source_link IS 'The column of the source that holds the link.';
COMMENT ON COLUMN flowguard.rule.via_column IS 'The column of the child that refers to the source (reference).';
COMMENT ON COLUMN flowguard.rule.agree IS 'Whether the link must equal the link of the referenced row (reference).';
COMMENT ON COLUMN flowguard.rule.time_column IS 'The time of the child (proximity).';
COMMENT ON COLUMN flowguard.rule.source_time IS 'The time of the source; of the same type as time_column (proximity).';
COMMENT ON COLUMN flowguard.rule.within IS 'The largest time difference, inclusive, in hours and less (proximity).';
COMMENT ON COLUMN flowguard.rule.source_filter IS
  'An SQL condition on the source; only rows that meet it are candidates (proximity).';
COMMENT ON COLUMN flowguard.rule.filter_columns IS 'The columns of the source that source_filter reads.';
COMMENT ON COLUMN flowguard.rule.on_ambiguous IS
  'nearest: the nearest row wins; leave: the row stays unlinked when two masters lie within the window (proximity).';
COMMENT ON COLUMN flowguard.rule.late_limit IS
  'At most so many rows are linked by the statement that sets the link of one source row; the rest is left to '
  'repair. Mode observe only.';

CREATE TABLE IF NOT EXISTS flowguard.replaced_constraint (
  relation        regclass NOT NULL,
  constraint_name name     NOT NULL,
  link_column     name     NOT NULL,
  definition      text     NOT NULL,
  validated       boolean  NOT NULL,
  comment         text,
  PRIMARY KEY (relation, constraint_name)
);
COMMENT ON TABLE flowguard.replaced_constraint IS
  'Foreign keys of the application that guard() replaced by its own; unguard() puts them back.';
COMMENT ON COLUMN flowguard.replaced_constraint.relation IS 'The table that the key was on.';
COMMENT ON COLUMN flowguard.replaced_constraint.constraint_name IS 'Name of the key.';
COMMENT ON COLUMN flowguard.replaced_constraint.link_column IS 'The link that it was on.';
COMMENT ON COLUMN flowguard.replaced_constraint.definition IS 'Its definition, without NOT VALID.';
COMMENT ON COLUMN flowguard.replaced_constraint.validated IS 'Whether it was validated.';
COMMENT ON COLUMN flowguard.replaced_constraint.comment IS 'Its comment.';

COMMIT;
