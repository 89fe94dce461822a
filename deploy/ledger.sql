-- Deploy pyflowguard:ledger to pg
-- What was changed by whom: runs of repair with every value they wrote, rows taken out, and transactions that were
-- let past the guard. Tables are named by text here: the ledger outlives what it speaks of.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE TABLE IF NOT EXISTS flowguard.repair_run (
  run_id      bigint      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  finished_at timestamptz,
  status      text        NOT NULL DEFAULT 'running'
                          CHECK (status IN ('running', 'finished', 'stopped', 'undoing', 'undone')),
  relation    text,
  link_column text,
  row_filter  text,
  note        text,
  started_by  text        NOT NULL DEFAULT session_user,
  pid         integer     NOT NULL DEFAULT pg_backend_pid(),
  called_at   timestamptz NOT NULL DEFAULT statement_timestamp(),
  linked      bigint      NOT NULL DEFAULT 0,
  translated  bigint      NOT NULL DEFAULT 0,
  quarantined bigint      NOT NULL DEFAULT 0,
  unlinked    bigint      NOT NULL DEFAULT 0,
  followed    bigint      NOT NULL DEFAULT 0,
  remaining   bigint,
  restored    bigint      NOT NULL DEFAULT 0,
  skipped     bigint      NOT NULL DEFAULT 0,
  undone_from bigint,
  undo_left   bigint,
  count_candidates boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE flowguard.repair_run IS 'Runs of flowguard.repair(); read it through the view flowguard.run.';

CREATE TABLE IF NOT EXISTS flowguard.repair_link (
  run_id         bigint      NOT NULL,
  schema_name    text        NOT NULL,
  table_name     text        NOT NULL,
  link_column    text        NOT NULL,
  "position"     integer     NOT NULL,
  query_hash     text        NOT NULL,
  after_key      jsonb,
  last_key       jsonb,
  pass           integer     NOT NULL DEFAULT 1,
  scanned        bigint      NOT NULL DEFAULT 0,
  estimated      bigint      NOT NULL,
  held           bigint      NOT NULL DEFAULT 0,
  taken          bigint      NOT NULL DEFAULT 0,
  scanned_before bigint      NOT NULL DEFAULT 0,
  started_at     timestamptz,
  last_batch_at  timestamptz,
  PRIMARY KEY (run_id, schema_name, table_name, link_column)
);
COMMENT ON TABLE flowguard.repair_link IS
  'How far a run has come with each link; read it through the view flowguard.repair_progress.';

-- No foreign key to the run: it would be looked at for each link that is written, which is a tenth of what a repair
-- costs, and nothing deletes a run.
CREATE TABLE IF NOT EXISTS flowguard.repair_change (
  change_id   bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
  run_id      bigint      NOT NULL,
  schema_name text        NOT NULL,
  table_name  text        NOT NULL,
  link_column text        NOT NULL,
  row_key     jsonb       NOT NULL,
  kind        text        NOT NULL CHECK (kind IN ('linked', 'translated', 'unlinked', 'followed')),
  rule        integer,
  rule_kind   text,
  distance    interval,
  candidates  integer,
  old_link    text,
  new_link    text,
  changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  undone      text        CHECK (undone IN ('restored', 'skipped')),
  PRIMARY KEY (run_id, change_id)
);
COMMENT ON TABLE flowguard.repair_change IS 'Links that a run wrote; read it through the view flowguard.run_change.';

CREATE TABLE IF NOT EXISTS flowguard.quarantined_row (
  quarantine_id  bigint      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  run_id         bigint      NOT NULL REFERENCES flowguard.repair_run,
  schema_name    text        NOT NULL,
  table_name     text        NOT NULL,
  row_key        jsonb       NOT NULL,
  action         text        NOT NULL CHECK (action IN ('deleted', 'set')),
  column_names   text[]      NOT NULL,
  column_values  text[]      NOT NULL,
  link_column    text,
  reason         text        NOT NULL,
  quarantined_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  restored_at    timestamptz
);
COMMENT ON TABLE flowguard.quarantined_row IS
  'Rows that a run took out, and columns that their removal set; read it through the view flowguard.quarantine.';
CREATE INDEX IF NOT EXISTS quarantined_row_run_id_quarantine_id_idx ON flowguard.quarantined_row (run_id,
  quarantine_id) WHERE restored_at IS NULL;

CREATE TABLE IF NOT EXISTS flowguard.privileged_transaction (
  id         bigint      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  xid        xid8        NOT NULL,
  started_at timestamptz NOT NULL,
  kind       text        NOT NULL CHECK (kind IN ('bypass', 'repair', 'undo')),
  run_id     bigint,
  reason     text,
  done_by    text        NOT NULL DEFAULT session_user
);
COMMENT ON TABLE flowguard.privileged_transaction IS
  'Transactions that the guard treats in a way of their own: bypassed ones are kept here for good, those of repair '
  'and undo while they run.';
CREATE INDEX IF NOT EXISTS privileged_transaction_xid_idx ON flowguard.privileged_transaction (xid);

COMMENT ON COLUMN flowguard.repair_run.run_id IS 'Number of the run; undo() takes it.';
COMMENT ON COLUMN flowguard.repair_run.started_at IS 'When it began.';
COMMENT ON COLUMN flowguard.repair_run.finished_at IS 'When it ended; NULL while it runs or where it was stopped.';
COMMENT ON COLUMN flowguard.repair_run.status IS
  'running, finished, stopped (its session ended before it did), undoing (undone in part) or undone.';
COMMENT ON COLUMN flowguard.repair_run.relation IS 'The table that was asked for; NULL for all.';
COMMENT ON COLUMN flowguard.repair_run.link_column IS 'The link that was asked for; NULL for all.';
COMMENT ON COLUMN flowguard.repair_run.row_filter IS
  'The condition on rows of the table that was asked for; NULL for all rows.';
COMMENT ON COLUMN flowguard.repair_run.note IS 'What the caller said it was for.';
COMMENT ON COLUMN flowguard.repair_run.started_by IS 'The session''s user.';
COMMENT ON COLUMN flowguard.repair_run.pid IS 'The server process that ran it.';
COMMENT ON COLUMN flowguard.repair_run.called_at IS
  'When the statement that runs it was sent: with pid it tells whether that still goes on.';
COMMENT ON COLUMN flowguard.repair_run.linked IS 'Rows that a rule linked.';
COMMENT ON COLUMN flowguard.repair_run.translated IS 'Links that held an alternate key and now hold the key.';
COMMENT ON COLUMN flowguard.repair_run.quarantined IS 'Orphans taken out, without the rows that went with them.';
COMMENT ON COLUMN flowguard.repair_run.unlinked IS 'Dangling links set to NULL.';
COMMENT ON COLUMN flowguard.repair_run.followed IS 'Links that late linking wrote because of the run.';
COMMENT ON COLUMN flowguard.repair_run.remaining IS 'Rows that were left unlinked or dangling.';
COMMENT ON COLUMN flowguard.repair_run.restored IS 'Links and rows that undo() put back.';
COMMENT ON COLUMN flowguard.repair_run.skipped IS
  'Links that undo() left, since they are no longer what the run wrote.';
COMMENT ON COLUMN flowguard.repair_run.undone_from IS 'undo() has been at the changes from this one on; NULL: at none.';
COMMENT ON COLUMN flowguard.repair_run.undo_left IS
  'Changes and rows that undo() has yet to come to, once it has begun.';
COMMENT ON COLUMN flowguard.repair_run.count_candidates IS 'Whether run_change.candidates is counted to the end.';
COMMENT ON COLUMN flowguard.repair_link.run_id IS 'The run.';
COMMENT ON COLUMN flowguard.repair_link.schema_name IS 'Schema of the table at that time.';
COMMENT ON COLUMN flowguard.repair_link.table_name IS 'Name of the table at that time.';
COMMENT ON COLUMN flowguard.repair_link.link_column IS 'The link.';
COMMENT ON COLUMN flowguard.repair_link."position" IS 'Order in which the run comes to its links.';
COMMENT ON COLUMN flowguard.repair_link.query_hash IS
  'Hash of the statement that repairs a batch: a run whose rules have changed since is not gone on with.';
COMMENT ON COLUMN flowguard.repair_link.after_key IS 'Rows up to this key are done; NULL: none.';
COMMENT ON COLUMN flowguard.repair_link.last_key IS
  'The last key when the call began: later rows are not looked at; NULL: there was no row.';
COMMENT ON COLUMN flowguard.repair_link.pass IS
  'How often the run came to the table; again only where rows were held by others that it took out.';
COMMENT ON COLUMN flowguard.repair_link.scanned IS 'Rows looked at in this pass.';
COMMENT ON COLUMN flowguard.repair_link.estimated IS 'Rows of the table, as the planner estimated when the call began.';
COMMENT ON COLUMN flowguard.repair_link.held IS 'Rows that could not be written or taken out in this pass.';
COMMENT ON COLUMN flowguard.repair_link.taken IS 'Orphans taken out in this pass.';
COMMENT ON COLUMN flowguard.repair_link.scanned_before IS 'Rows of this pass that an earlier call looked at.';
COMMENT ON COLUMN flowguard.repair_link.started_at IS 'When this call came to the table in this pass.';
COMMENT ON COLUMN flowguard.repair_link.last_batch_at IS 'When the last batch was done.';
COMMENT ON COLUMN flowguard.repair_change.change_id IS 'Order of the changes.';
COMMENT ON COLUMN flowguard.repair_change.run_id IS 'The run.';
COMMENT ON COLUMN flowguard.repair_change.schema_name IS 'Schema of the table at that time.';
COMMENT ON COLUMN flowguard.repair_change.table_name IS 'Name of the table at that time.';
COMMENT ON COLUMN flowguard.repair_change.link_column IS 'The link.';
COMMENT ON COLUMN flowguard.repair_change.row_key IS 'The row''s key, by column.';
COMMENT ON COLUMN flowguard.repair_change.kind IS
  'linked by a rule, translated from an alternate key, unlinked (set to NULL), or followed a link that the run wrote.';
COMMENT ON COLUMN flowguard.repair_change.rule IS 'Position that the rule had which linked it.';
COMMENT ON COLUMN flowguard.repair_change.rule_kind IS
  'Kind of that rule, reference or proximity; NULL where late linking wrote the link (followed).';
COMMENT ON COLUMN flowguard.repair_change.distance IS
  'How far in time the source row was from which a proximity rule took the link; NULL for all else.';
COMMENT ON COLUMN flowguard.repair_change.candidates IS
  'How many rows of the source lay within the window of a proximity rule, of the row''s tenant and with a link, '
  'whether or not its master is there. 2 stands for two or more, for they are not counted further, unless the run was '
  'called with count_candidates. NULL for all else.';
COMMENT ON COLUMN flowguard.repair_change.old_link IS 'The link before, as text.';
COMMENT ON COLUMN flowguard.repair_change.new_link IS 'The link that was written, as text.';
COMMENT ON COLUMN flowguard.repair_change.changed_at IS 'When it was written.';
COMMENT ON COLUMN flowguard.repair_change.undone IS
  'restored: undo() put the old link back; skipped: the link was no longer the one written; NULL: not undone.';
COMMENT ON COLUMN flowguard.quarantined_row.quarantine_id IS 'Order in which rows are put back.';
COMMENT ON COLUMN flowguard.quarantined_row.run_id IS 'The run that took it out.';
COMMENT ON COLUMN flowguard.quarantined_row.schema_name IS 'Schema of the table at that time.';
COMMENT ON COLUMN flowguard.quarantined_row.table_name IS 'Name of the table at that time.';
COMMENT ON COLUMN flowguard.quarantined_row.row_key IS 'The row''s key, by column.';
COMMENT ON COLUMN flowguard.quarantined_row.action IS
  'deleted: the whole row is kept here; set: the row stayed, and the removal set these columns to NULL or their '
  'default.';
COMMENT ON COLUMN flowguard.quarantined_row.column_names IS 'The columns kept; generated ones are left out.';
COMMENT ON COLUMN flowguard.quarantined_row.column_values IS
  'Their values as output text under DateStyle ISO, IntervalStyle postgres, TimeZone UTC, extra_float_digits 1.';
COMMENT ON COLUMN flowguard.quarantined_row.link_column IS 'The dangling link; NULL for a row that went with another.';
COMMENT ON COLUMN flowguard.quarantined_row.reason IS 'Why it was taken out.';
COMMENT ON COLUMN flowguard.quarantined_row.quarantined_at IS 'When it was taken out.';
COMMENT ON COLUMN flowguard.quarantined_row.restored_at IS 'When undo() put it back; NULL while it is held.';
COMMENT ON COLUMN flowguard.privileged_transaction.id IS 'Order of the entries.';
COMMENT ON COLUMN flowguard.privileged_transaction.xid IS 'The transaction.';
COMMENT ON COLUMN flowguard.privileged_transaction.started_at IS
  'When the transaction began; with xid it names the transaction, also in a copy of the database.';
COMMENT ON COLUMN flowguard.privileged_transaction.kind IS
  'bypass: checks are lifted; repair: late links are written to the ledger; undo: nothing is filled or followed.';
COMMENT ON COLUMN flowguard.privileged_transaction.run_id IS 'The run, for repair and undo.';
COMMENT ON COLUMN flowguard.privileged_transaction.reason IS 'The reason given to bypass().';
COMMENT ON COLUMN flowguard.privileged_transaction.done_by IS 'The session''s user.';

CREATE OR REPLACE FUNCTION flowguard._is_running(p_run flowguard.repair_run) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_is_running$
-- Whether the call that runs it still goes on. A session outlives a call that failed, and a process number may be given
-- out again, so the statement counts, where it may be seen; where not, it goes on as long as there is such a process.
-- A standby does not know the processes of its primary, and believes what is written.
  SELECT p_run.status = 'running'
     AND (pg_is_in_recovery()
          OR EXISTS (SELECT FROM pg_stat_activity a
                      WHERE a.pid = p_run.pid
                        AND (a.query_start IS NULL OR a.query_start = p_run.called_at AND a.state = 'active')));
$_is_running$;
COMMENT ON FUNCTION flowguard._is_running(flowguard.repair_run) IS 'Whether the call of a run still goes on.';

CREATE OR REPLACE VIEW flowguard.run AS
  SELECT r.run_id, r.started_at, r.finished_at,
         CASE WHEN r.status = 'running' AND NOT flowguard._is_running(r) THEN 'stopped' ELSE r.status END AS status,
         r.linked, r.translated, r.quarantined, r.unlinked, r.followed,
         r.remaining, r.restored, r.skipped, r.relation, r.link_column, r.note, r.started_by, r.row_filter,
         r.count_candidates
    FROM flowguard.repair_run r;
COMMENT ON VIEW flowguard.run IS 'Runs of flowguard.repair() with what each did.';

CREATE OR REPLACE VIEW flowguard.repair_progress AS
  SELECT r.run_id, r.status, p.relation, p.link_column, p.pass, p.scanned, p.total, p.rate, p.started_at,
         p.last_batch_at,
         CASE WHEN r.status = 'running' AND p.rate > 0
           THEN make_interval(secs => round((p.total - p.scanned) / p.rate)::double precision) END AS time_left
    FROM flowguard.run r
    JOIN (SELECT k.run_id, k."position", format('%I.%I', k.schema_name, k.table_name) AS relation, k.link_column,
                 k.pass, k.scanned,
                 CASE WHEN k.last_key IS NULL OR k.after_key = k.last_key THEN k.scanned
                      ELSE greatest(k.estimated, k.scanned) END AS total,
                 round((k.scanned - k.scanned_before)
                       / nullif(extract(epoch FROM k.last_batch_at - k.started_at)::numeric, 0), 1) AS rate,
                 k.started_at, k.last_batch_at
            FROM flowguard.repair_link k) AS p ON p.run_id = r.run_id
   ORDER BY r.run_id, p."position";
COMMENT ON VIEW flowguard.repair_progress IS
  'How far runs have come with each of their links, as batches are committed: for any session that wants to watch.';

CREATE OR REPLACE VIEW flowguard.run_change AS
  SELECT c.run_id, c.change_id, c.schema_name, c.table_name, c.link_column, c.row_key, c.kind, c.rule, c.old_link,
         c.new_link, c.changed_at, c.undone, c.rule_kind, c.distance, c.candidates
    FROM flowguard.repair_change c;
COMMENT ON VIEW flowguard.run_change IS 'Every link that a run wrote, before and after.';

CREATE OR REPLACE VIEW flowguard.quarantine AS
  SELECT q.quarantine_id, q.run_id, q.schema_name, q.table_name, q.row_key, q.action, q.column_names, q.column_values,
         q.link_column, q.reason, q.quarantined_at
    FROM flowguard.quarantined_row q
   WHERE q.restored_at IS NULL;
COMMENT ON VIEW flowguard.quarantine IS 'Rows that runs took out and that are still held; undo(run_id) puts them back.';

COMMENT ON COLUMN flowguard.run.run_id IS 'Number of the run; undo() takes it.';
COMMENT ON COLUMN flowguard.run.started_at IS 'When it began.';
COMMENT ON COLUMN flowguard.run.finished_at IS 'When it ended; NULL while it runs or where it was stopped.';
COMMENT ON COLUMN flowguard.run.status IS
  'running, finished, stopped (its session ended before it did), undoing (undone in part) or undone.';
COMMENT ON COLUMN flowguard.run.linked IS 'Rows that a rule linked.';
COMMENT ON COLUMN flowguard.run.translated IS 'Links that held an alternate key and now hold the key.';
COMMENT ON COLUMN flowguard.run.quarantined IS 'Orphans taken out, without the rows that went with them.';
COMMENT ON COLUMN flowguard.run.unlinked IS 'Dangling links set to NULL.';
COMMENT ON COLUMN flowguard.run.followed IS 'Links that late linking wrote because of the run.';
COMMENT ON COLUMN flowguard.run.remaining IS 'Rows that were left unlinked or dangling.';
COMMENT ON COLUMN flowguard.run.restored IS 'Links and rows that undo() put back.';
COMMENT ON COLUMN flowguard.run.skipped IS 'Links that undo() left, since they are no longer what the run wrote.';
COMMENT ON COLUMN flowguard.run.relation IS 'The table that was asked for; NULL for all.';
COMMENT ON COLUMN flowguard.run.link_column IS 'The link that was asked for; NULL for all.';
COMMENT ON COLUMN flowguard.run.note IS 'What the caller said it was for.';
COMMENT ON COLUMN flowguard.run.started_by IS 'The session''s user.';
COMMENT ON COLUMN flowguard.run.row_filter IS
  'The condition on rows of the table that was asked for; NULL for all rows.';
COMMENT ON COLUMN flowguard.run.count_candidates IS 'Whether run_change.candidates is counted to the end.';
COMMENT ON COLUMN flowguard.repair_progress.run_id IS 'The run.';
COMMENT ON COLUMN flowguard.repair_progress.status IS 'As flowguard.run shows it.';
COMMENT ON COLUMN flowguard.repair_progress.relation IS 'The table.';
COMMENT ON COLUMN flowguard.repair_progress.link_column IS 'The link.';
COMMENT ON COLUMN flowguard.repair_progress.pass IS
  'How often the run came to the table; again only where rows were held by others that it took out.';
COMMENT ON COLUMN flowguard.repair_progress.scanned IS 'Rows looked at in this pass.';
COMMENT ON COLUMN flowguard.repair_progress.total IS
  'Rows to look at, as the planner estimates them; those that were, once the table is done.';
COMMENT ON COLUMN flowguard.repair_progress.rate IS 'Rows a second, since this call came to the table.';
COMMENT ON COLUMN flowguard.repair_progress.started_at IS 'When this call came to the table; NULL: not yet.';
COMMENT ON COLUMN flowguard.repair_progress.last_batch_at IS 'When the last batch was done.';
COMMENT ON COLUMN flowguard.repair_progress.time_left IS 'How long the rest of the table takes at this rate.';
COMMENT ON COLUMN flowguard.run_change.run_id IS 'The run.';
COMMENT ON COLUMN flowguard.run_change.change_id IS 'Order of the changes.';
COMMENT ON COLUMN flowguard.run_change.schema_name IS 'Schema of the table at that time.';
COMMENT ON COLUMN flowguard.run_change.table_name IS 'Name of the table at that time.';
COMMENT ON COLUMN flowguard.run_change.link_column IS 'The link.';
COMMENT ON COLUMN flowguard.run_change.row_key IS 'The row''s key, by column.';
COMMENT ON COLUMN flowguard.run_change.kind IS
  'linked by a rule, translated from an alternate key, unlinked (set to NULL), or followed a link that the run wrote.';
COMMENT ON COLUMN flowguard.run_change.rule IS 'Position that the rule had which linked it.';
COMMENT ON COLUMN flowguard.run_change.old_link IS 'The link before, as text.';
COMMENT ON COLUMN flowguard.run_change.new_link IS 'The link that was written, as text.';
COMMENT ON COLUMN flowguard.run_change.changed_at IS 'When it was written.';
COMMENT ON COLUMN flowguard.run_change.undone IS
  'restored: undo() put the old link back; skipped: the link was no longer the one written; NULL: not undone.';
COMMENT ON COLUMN flowguard.run_change.rule_kind IS
  'Kind of that rule, reference or proximity; NULL where late linking wrote the link (followed).';
COMMENT ON COLUMN flowguard.run_change.distance IS
  'How far in time the source row was from which a proximity rule took the link; NULL for all else.';
COMMENT ON COLUMN flowguard.run_change.candidates IS
  'How many rows of the source lay within the window of a proximity rule, of the row''s tenant and with a link, '
  'whether or not its master is there. 2 stands for two or more, for they are not counted further, unless the run was '
  'called with count_candidates. NULL for all else.';
COMMENT ON COLUMN flowguard.quarantine.quarantine_id IS 'Order in which rows are put back.';
COMMENT ON COLUMN flowguard.quarantine.run_id IS 'The run that took it out.';
COMMENT ON COLUMN flowguard.quarantine.schema_name IS 'Schema of the table at that time.';
COMMENT ON COLUMN flowguard.quarantine.table_name IS 'Name of the table at that time.';
COMMENT ON COLUMN flowguard.quarantine.row_key IS 'The row''s key, by column.';
COMMENT ON COLUMN flowguard.quarantine.action IS
  'deleted: the whole row is kept here; set: the row stayed, and the removal set these columns to NULL or their '
  'default.';
COMMENT ON COLUMN flowguard.quarantine.column_names IS 'The columns kept; generated ones are left out.';
COMMENT ON COLUMN flowguard.quarantine.column_values IS
  'Their values as output text under DateStyle ISO, IntervalStyle postgres, TimeZone UTC, extra_float_digits 1.';
COMMENT ON COLUMN flowguard.quarantine.link_column IS 'The dangling link; NULL for a row that went with another.';
COMMENT ON COLUMN flowguard.quarantine.reason IS 'Why it was taken out.';
COMMENT ON COLUMN flowguard.quarantine.quarantined_at IS 'When it was taken out.';

CREATE OR REPLACE FUNCTION flowguard._mark_transaction(p_kind text, p_run_id bigint, p_reason text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $_mark_transaction$
-- Says what this transaction is. The setting only tells triggers to look; what counts is the row, which cannot be
-- forged.
  INSERT INTO flowguard.privileged_transaction (xid, started_at, kind, run_id, reason)
  VALUES (pg_current_xact_id(), now(), p_kind, p_run_id, p_reason);
  SELECT set_config('flowguard.privileged', p_kind, true);
$_mark_transaction$;
COMMENT ON FUNCTION flowguard._mark_transaction(text, bigint, text) IS
  'Marks the current transaction as one of repair, undo or bypass.';

CREATE OR REPLACE FUNCTION flowguard._unmark_transaction(p_kind text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $_unmark_transaction$
-- Ends what _mark_transaction() began, so that the rest of the transaction is guarded as any other.
  DELETE FROM flowguard.privileged_transaction t
   WHERE t.xid = pg_current_xact_id() AND t.started_at = now() AND t.kind = p_kind;
  SELECT set_config('flowguard.privileged', '', true);
$_unmark_transaction$;
COMMENT ON FUNCTION flowguard._unmark_transaction(text) IS 'Ends a mark of the current transaction.';

CREATE OR REPLACE FUNCTION flowguard._is_privileged(p_kind text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_is_privileged$
  SELECT EXISTS (SELECT FROM flowguard.privileged_transaction t
                  WHERE t.xid = pg_current_xact_id_if_assigned() AND t.started_at = now() AND t.kind = p_kind);
$_is_privileged$;
COMMENT ON FUNCTION flowguard._is_privileged(text) IS 'Whether the current transaction bears a mark.';

CREATE OR REPLACE FUNCTION flowguard._current_run() RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_current_run$
  SELECT t.run_id FROM flowguard.privileged_transaction t
   WHERE t.xid = pg_current_xact_id_if_assigned() AND t.started_at = now() AND t.kind = 'repair';
$_current_run$;
COMMENT ON FUNCTION flowguard._current_run() IS 'The run that the current transaction belongs to; NULL for none.';

CREATE OR REPLACE FUNCTION flowguard._repairs_all(p_run bigint) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_repairs_all$
  SELECT EXISTS (SELECT FROM flowguard.repair_run r WHERE r.run_id = p_run AND r.relation IS NULL);
$_repairs_all$;
COMMENT ON FUNCTION flowguard._repairs_all(bigint) IS 'Whether a run comes to every link by itself.';

CREATE OR REPLACE FUNCTION flowguard.bypass(reason text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $bypass$
-- SECURITY DEFINER: who may bypass is said by EXECUTE on this function, not by rights on the record that it writes.
BEGIN
  IF coalesce(btrim($1), '') = '' THEN
    PERFORM flowguard._refuse_argument('a bypass needs a reason', 'It is kept in flowguard.privileged_transaction.',
                                       'Call flowguard.bypass(''why the guard must let this pass'').');
  END IF;
  PERFORM flowguard._mark_transaction('bypass', NULL, $1);
  RETURN (SELECT max(t.id) FROM flowguard.privileged_transaction t
           WHERE t.xid = pg_current_xact_id() AND t.started_at = now());
END;
$bypass$;
COMMENT ON FUNCTION flowguard.bypass(text) IS
'Lifts, for the current transaction, what the triggers refuse, never a foreign key; links are filled as ever. Who did
it, when and why stays in flowguard.privileged_transaction. Needs EXECUTE, which flowguard_admin has.
reason: why the guard must let this pass.
Returns the number of the record.
Errors: FG104 no reason is given.';
REVOKE ALL ON FUNCTION flowguard.bypass(text) FROM PUBLIC;

COMMIT;
