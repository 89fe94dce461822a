-- Deploy pyflowguard:provenance to pg
-- Which links keep how their triggers found them, and what was kept. An entry names its table by text, as the ledger
-- does: it outlives what it speaks of.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE TABLE IF NOT EXISTS flowguard.provenance_link (
  relation         regclass NOT NULL,
  link_column      name     NOT NULL,
  count_candidates boolean  NOT NULL,
  PRIMARY KEY (relation, link_column),
  FOREIGN KEY (relation, link_column) REFERENCES flowguard.link ON DELETE CASCADE
);
COMMENT ON TABLE flowguard.provenance_link IS
  'Links whose triggers keep how a rule by time found them. Written by flowguard.keep_provenance().';
COMMENT ON COLUMN flowguard.provenance_link.relation IS 'The child table.';
COMMENT ON COLUMN flowguard.provenance_link.link_column IS 'The link.';
COMMENT ON COLUMN flowguard.provenance_link.count_candidates IS
  'Whether provenance.candidates is counted to the end.';

-- The key serves whoever replicates this: forget_provenance() deletes. No other index, which each write would pay for.
CREATE TABLE IF NOT EXISTS flowguard.provenance (
  id          bigint      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  schema_name text        NOT NULL,
  table_name  text        NOT NULL,
  link_column text        NOT NULL,
  row_key     jsonb       NOT NULL,
  time_column text        NOT NULL,
  row_time    timestamptz NOT NULL,
  rule        integer     NOT NULL,
  new_link    text        NOT NULL,
  distance    interval    NOT NULL,
  candidates  integer     NOT NULL,
  counted     boolean     NOT NULL,
  linked_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE flowguard.provenance IS
  'How triggers found links by a proximity rule, of links for which flowguard.keep_provenance() was called; '
  'flowguard.explain() shows what is there of a row.';
COMMENT ON COLUMN flowguard.provenance.id IS 'Order in which links were found.';
COMMENT ON COLUMN flowguard.provenance.schema_name IS 'Schema of the table at that time.';
COMMENT ON COLUMN flowguard.provenance.table_name IS 'Name of the table at that time.';
COMMENT ON COLUMN flowguard.provenance.link_column IS 'The link.';
COMMENT ON COLUMN flowguard.provenance.row_key IS
  'The row''s key, by column. An INSERT that ON CONFLICT did not carry out leaves an entry, too, with the key of the '
  'row that was in its way.';
COMMENT ON COLUMN flowguard.provenance.time_column IS 'The column of the row that the rule read.';
COMMENT ON COLUMN flowguard.provenance.row_time IS
  'What it held; a timestamp without time zone as if it were of UTC.';
COMMENT ON COLUMN flowguard.provenance.rule IS 'Position that the rule had.';
COMMENT ON COLUMN flowguard.provenance.new_link IS 'The link that was found, as text.';
COMMENT ON COLUMN flowguard.provenance.distance IS
  'How far in time the source row was from which the link was taken.';
COMMENT ON COLUMN flowguard.provenance.candidates IS
  'How many rows of the source lay within the window, of the row''s tenant and with a link, whether or not its master '
  'is there; 2 stands for two or more where they were not counted.';
COMMENT ON COLUMN flowguard.provenance.counted IS 'Whether candidates was counted to the end.';
COMMENT ON COLUMN flowguard.provenance.linked_at IS 'When the transaction began that found the link.';

CREATE OR REPLACE FUNCTION flowguard.keep_provenance(
  relation regclass, link_column name DEFAULT 'master_flow_id', keep boolean DEFAULT true,
  count_candidates boolean DEFAULT false
) RETURNS flowguard.provenance_link
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $keep_provenance$
-- Writes down whether a link keeps provenance; guard() then writes the functions that do.
#variable_conflict use_column
DECLARE
  p_keep             ALIAS FOR $3;
  p_count_candidates ALIAS FOR $4;
  v_link             flowguard.link;
  v_kept             flowguard.provenance_link;
BEGIN
  IF p_keep IS NULL THEN
    PERFORM flowguard._refuse_argument('keep NULL says neither', 'true keeps how triggers find links, false ends that.',
                                       'Pass keep => true or false.');
  ELSIF p_count_candidates IS NULL THEN
    PERFORM flowguard._refuse_argument('count_candidates NULL says neither', 'true counts all candidates of each link.',
                                       'Pass count_candidates => true or false.');
  END IF;
  PERFORM flowguard._serialize();
  v_link := flowguard._link($1, $2);
  IF p_keep THEN
    INSERT INTO flowguard.provenance_link AS k (relation, link_column, count_candidates)
    VALUES (v_link.relation, v_link.link_column, p_count_candidates)
    ON CONFLICT (relation, link_column) DO UPDATE SET count_candidates = EXCLUDED.count_candidates
    RETURNING k.* INTO v_kept;
  ELSE
    DELETE FROM flowguard.provenance_link k
     WHERE k.relation = v_link.relation AND k.link_column = v_link.link_column
    RETURNING k.* INTO v_kept;
  END IF;
  RETURN v_kept;
END;
$keep_provenance$;
COMMENT ON FUNCTION flowguard.keep_provenance(regclass, name, boolean, boolean) IS
'Lets the triggers of a link keep how they found it, where a proximity rule did: the rule, how far in time the source
row was, and how many candidates there were. Every such write then costs an INSERT more. explain() shows it. The same
call twice is one. On a guarded link call guard() afterwards. A link without a proximity rule keeps nothing.
relation: the child table.
link_column: the column that holds the link.
keep: false ends it; what was kept stays.
count_candidates: also count all candidates of each link, else one or at least two.
Returns what was written down; with keep => false what had been, NULL where that was nothing.
Errors: FG104 an argument is NULL; FG107 no such link.';

CREATE OR REPLACE FUNCTION flowguard.forget_provenance(before timestamptz) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $forget_provenance$
DECLARE
  v_forgotten bigint;
BEGIN
  IF $1 IS NULL THEN
    PERFORM flowguard._refuse_argument('before NULL is no time', 'What was kept before that time is deleted.',
                                       'Pass, for example, before => ''2026-01-01''.');
  END IF;
  DELETE FROM flowguard.provenance p WHERE p.linked_at < $1;
  GET DIAGNOSTICS v_forgotten = ROW_COUNT;
  RETURN v_forgotten;
END;
$forget_provenance$;
COMMENT ON FUNCTION flowguard.forget_provenance(timestamptz) IS
'Deletes what triggers kept, for keep_provenance(), before a time. Nothing else ever does. The ledger of repair() is not
touched.
before: of links found in transactions that began earlier.
Returns how many entries it deleted.
Errors: FG104 before is NULL.';

SELECT flowguard._close_to_public();
SELECT flowguard._grant_engine();

COMMIT;
