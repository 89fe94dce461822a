-- Deploy pyflowguard_events:drift_events to pg
-- Optional, and for who may make event triggers: DDL that lets a guard drift is written down when it is committed, with
-- who did it and what flowguard.doctor() says of it. Nothing else needs it.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

-- Functions of event triggers run for whoever runs DDL, superusers too, and these call one that belongs to the owner of
-- schema flowguard. So they run as a role that may do nothing else: who can change that function gains no rights by it.
DO $role$
BEGIN
  IF to_regrole('flowguard_witness') IS NULL THEN
    CREATE ROLE flowguard_witness NOLOGIN;
    EXECUTE format('COMMENT ON ROLE flowguard_witness IS %L',
                   format('created by pyflowguard in database %s', current_database()));
  END IF;
END;
$role$;

CREATE TABLE IF NOT EXISTS flowguard.drift_event (
  event_id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  happened_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  done_by         name        NOT NULL DEFAULT session_user,
  as_role         name        NOT NULL DEFAULT coalesce(nullif(current_setting('role'), 'none'), session_user),
  application     text        NOT NULL DEFAULT current_setting('application_name'),
  transaction_id  xid8        NOT NULL DEFAULT pg_current_xact_id(),
  command_tag     text        NOT NULL,
  object_type     text        NOT NULL,
  object_identity text,
  relation        text,
  relation_id     oid,
  part            text,
  level           text,
  description     text,
  cache_keys      text[]
);
COMMENT ON TABLE flowguard.drift_event IS
  'DDL after which flowguard.doctor() found something about what it touched. Written by event triggers at commit.';
COMMENT ON COLUMN flowguard.drift_event.event_id IS 'Number of the event.';
COMMENT ON COLUMN flowguard.drift_event.happened_at IS 'When the statement was run.';
COMMENT ON COLUMN flowguard.drift_event.done_by IS 'The session''s user.';
COMMENT ON COLUMN flowguard.drift_event.as_role IS 'The role that it had taken by SET ROLE, else the same.';
COMMENT ON COLUMN flowguard.drift_event.application IS 'What the session called itself.';
COMMENT ON COLUMN flowguard.drift_event.transaction_id IS 'The transaction.';
COMMENT ON COLUMN flowguard.drift_event.command_tag IS 'What kind of statement it was.';
COMMENT ON COLUMN flowguard.drift_event.object_type IS 'What it made, changed or dropped.';
COMMENT ON COLUMN flowguard.drift_event.object_identity IS 'The name of that; NULL for GRANT and REVOKE.';
COMMENT ON COLUMN flowguard.drift_event.relation IS 'The table that it is of, where PostgreSQL says it.';
COMMENT ON COLUMN flowguard.drift_event.relation_id IS 'The oid of that table, as doctor() calls one that is gone.';
COMMENT ON COLUMN flowguard.drift_event.part IS 'What a cache_key of doctor() holds if it is about the object itself.';
COMMENT ON COLUMN flowguard.drift_event.level IS
  'The worst level of what doctor() found; NULL where it could not be asked, for which there was a warning.';
COMMENT ON COLUMN flowguard.drift_event.description IS 'What doctor() said.';
COMMENT ON COLUMN flowguard.drift_event.cache_keys IS 'The keys of what doctor() found.';

CREATE SCHEMA IF NOT EXISTS flowguard_events;
COMMENT ON SCHEMA flowguard_events IS
  'Functions of PyFlowGuard''s event triggers; what they write is flowguard.drift_event.';

CREATE OR REPLACE FUNCTION flowguard_events.is_watched(p_relation oid) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $is_watched$
-- Whether a table is part of a link, or has a column that is called like one. Of a dropped table the number is enough.
  SELECT EXISTS (SELECT FROM flowguard.link l
                   LEFT JOIN flowguard.rule r USING (relation, link_column)
                  CROSS JOIN LATERAL unnest(ARRAY[l.relation, l.master, r.source]) AS t (id)
                  WHERE t.id = p_relation OR t.id IN (SELECT a.relid FROM pg_partition_ancestors(p_relation) a))
      OR EXISTS (SELECT FROM pg_attribute a JOIN flowguard.link l ON l.link_column = a.attname
                  WHERE a.attrelid = p_relation AND a.attnum > 0 AND NOT a.attisdropped);
$is_watched$;
COMMENT ON FUNCTION flowguard_events.is_watched(oid) IS 'Whether DDL on a table matters to a guard.';

CREATE OR REPLACE FUNCTION flowguard_events.note(p_tag text, p_type text, p_identity text, p_relation oid, p_part text)
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $note$
-- One row for each object that a transaction touches, however often it does.
  INSERT INTO flowguard.drift_event (command_tag, object_type, object_identity, relation, relation_id, part)
  SELECT p_tag, p_type, p_identity, CASE WHEN c.oid IS NULL THEN p_identity ELSE c.oid::regclass::text END, p_relation,
         p_part
    FROM (SELECT p_relation AS id) AS r LEFT JOIN pg_class c ON c.oid = r.id
   WHERE NOT EXISTS (SELECT FROM flowguard.drift_event e
                      WHERE e.transaction_id = pg_current_xact_id() AND e.cache_keys IS NULL
                        AND (e.command_tag, e.object_type, e.object_identity, e.relation_id)
                            IS NOT DISTINCT FROM (p_tag, p_type, p_identity, p_relation));
$note$;
COMMENT ON FUNCTION flowguard_events.note(text, text, text, oid, text) IS 'Writes down that DDL touched an object.';

CREATE OR REPLACE FUNCTION flowguard_events.note_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $note_ddl$
-- Notes what DDL touches of guarded tables and of their guard; at commit judge_ddl() keeps what doctor() has a word on.
-- An error is a warning, on purpose: no DDL fails because of this.
DECLARE
  v_relation oid;
  v_part     text;
  r_object   record;
BEGIN
  IF to_regclass('flowguard.drift_event') IS NULL THEN
    RETURN;  -- PyFlowGuard was taken away
  END IF;
  -- Whoever guards online, a statement in a transaction, holds this lock: in between nothing is whole.
  IF EXISTS (SELECT FROM pg_locks l
              WHERE l.locktype = 'advisory' AND l.pid = pg_backend_pid() AND l.granted
                AND (l.classid, l.objid, l.objsubid) = (0, 75474064, 1)) THEN
    RETURN;
  END IF;
  IF TG_EVENT = 'sql_drop' THEN
    FOR r_object IN SELECT * FROM pg_event_trigger_dropped_objects() d WHERE NOT d.is_temporary LOOP
      v_relation := NULL;
      v_part := NULL;
      CASE r_object.object_type
        WHEN 'table' THEN
          v_relation := r_object.objid;
        WHEN 'table column', 'trigger', 'table constraint' THEN
          -- No to_regclass(), which asks for USAGE on the schema.
          v_relation := (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                          WHERE (n.nspname, c.relname) = (r_object.address_names[1], r_object.address_names[2]));
        WHEN 'index', 'statistics object' THEN
          v_part := ':' || r_object.address_names[cardinality(r_object.address_names)];
        WHEN 'function' THEN
          v_part := format(':%I.%I(', r_object.schema_name, r_object.address_names[2]);
        WHEN 'view' THEN
          NULL;
        ELSE
          CONTINUE;
      END CASE;
      IF flowguard_events.is_watched(v_relation) OR r_object.schema_name = 'flowguard'
         OR r_object.object_type IN ('index', 'statistics object') THEN
        PERFORM flowguard_events.note(TG_TAG, r_object.object_type, r_object.object_identity, v_relation, v_part);
      END IF;
    END LOOP;
    RETURN;
  END IF;
  FOR r_object IN
    SELECT d.*, d.object_type = 'view'
             AND (d.schema_name = 'flowguard'
                  OR starts_with(coalesce(obj_description(d.objid, 'pg_class'), ''), 'Generated by PyFlowGuard'))
             AS is_our_view
      FROM pg_event_trigger_ddl_commands() d
     WHERE d.schema_name IS DISTINCT FROM 'pg_temp'
  LOOP
    CONTINUE WHEN r_object.command_tag IN ('ALTER VIEW', 'CREATE VIEW') AND NOT r_object.is_our_view;
    v_relation := CASE r_object.classid
                    WHEN 'pg_class'::regclass
                      THEN coalesce((SELECT i.indrelid FROM pg_index i WHERE i.indexrelid = r_object.objid),
                                    r_object.objid)
                    WHEN 'pg_trigger'::regclass THEN (SELECT t.tgrelid FROM pg_trigger t WHERE t.oid = r_object.objid)
                    WHEN 'pg_constraint'::regclass
                      THEN (SELECT c.conrelid FROM pg_constraint c WHERE c.oid = r_object.objid)
                    WHEN 'pg_policy'::regclass THEN (SELECT p.polrelid FROM pg_policy p WHERE p.oid = r_object.objid)
                  END;
    v_part := CASE r_object.classid
                WHEN 'pg_proc'::regclass
                  THEN (SELECT format(':%I.%I(', r_object.schema_name, p.proname)
                          FROM pg_proc p WHERE p.oid = r_object.objid)
              END;
    IF r_object.command_tag IN ('GRANT', 'REVOKE') OR r_object.is_our_view OR flowguard_events.is_watched(v_relation)
       OR r_object.schema_name = 'flowguard' AND v_relation IS NULL
          AND EXISTS (SELECT FROM flowguard.link l WHERE starts_with(v_part, format(':flowguard.%s_', l.stem))
                                                      OR starts_with(v_part, format(':flowguard."%s_', l.stem))) THEN
      PERFORM flowguard_events.note(TG_TAG, r_object.object_type, r_object.object_identity, v_relation, v_part);
    END IF;
  END LOOP;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING 'flowguard: this DDL is not written down: %', SQLERRM
    USING HINT = 'It was done all the same. SELECT * FROM flowguard.doctor() tells what is wrong now.';
END;
$note_ddl$;
COMMENT ON FUNCTION flowguard_events.note_ddl() IS 'Notes DDL that touches guarded tables and their guard.';

CREATE OR REPLACE FUNCTION flowguard_events.judge_ddl() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $judge_ddl$
-- At commit, when a guard() or an upgrade is whole: asks doctor() once for all that the transaction touched, and
-- forgets that of which nothing is found. What doctor() says of rights belongs to any GRANT or REVOKE: they do not tell
-- of what they were. An error is a warning, as above: the row stays as it is.
BEGIN
  IF NOT EXISTS (SELECT FROM flowguard.drift_event e WHERE e.event_id = NEW.event_id AND e.cache_keys IS NULL) THEN
    RETURN NULL;  -- judged with the first
  END IF;
  WITH found AS MATERIALIZED (
    SELECT d.*, array_position('{ERROR,WARN,INFO}', d.level) AS rank FROM flowguard._diagnose() d
  ), judged AS MATERIALIZED (
    SELECT e.event_id, (array_agg(f.level ORDER BY f.rank))[1] AS level,
           string_agg(coalesce(f.relation || ': ', '') || f.description, '; ' ORDER BY f.rank, f.cache_key)
             AS description,
           array_agg(f.cache_key ORDER BY f.rank, f.cache_key) AS cache_keys
      FROM flowguard.drift_event e
      LEFT JOIN found f
             ON CASE WHEN e.command_tag IN ('GRANT', 'REVOKE')
                       THEN f.name IN ('rights_missing', 'open_to_public', 'viewer_may_write', 'schema_open',
                                       'role_without_rights')
                     WHEN e.object_type = 'view' THEN f.name = 'view_changed'  -- by the name that it had before
                     WHEN e.part IS NOT NULL THEN strpos(f.cache_key, e.part) > 0
                       -- Instead of an index of the application ours is needed, whose name is another.
                       OR e.object_type = 'index' AND f.name = 'index_missing'
                          AND split_part(f.relation, '.', 1) = split_part(e.object_identity, '.', 1)
                     ELSE f.relation IN (e.relation, e.relation_id::text) END
     WHERE e.transaction_id = pg_current_xact_id() AND e.cache_keys IS NULL
     GROUP BY e.event_id
  ), forgotten AS (
    DELETE FROM flowguard.drift_event e USING judged j WHERE j.event_id = e.event_id AND j.level IS NULL
  )
  UPDATE flowguard.drift_event e
     SET level = j.level, description = j.description, cache_keys = j.cache_keys
    FROM judged j WHERE j.event_id = e.event_id AND j.level IS NOT NULL;
  RETURN NULL;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING 'flowguard: what doctor() says of this DDL is not written down: %', SQLERRM
    USING HINT = 'It was done all the same. SELECT * FROM flowguard.doctor() tells what is wrong now.';
  RETURN NULL;
END;
$judge_ddl$;
COMMENT ON FUNCTION flowguard_events.judge_ddl() IS 'Keeps DDL of which flowguard.doctor() finds something.';

CREATE CONSTRAINT TRIGGER judge_ddl AFTER INSERT ON flowguard.drift_event DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW WHEN (NEW.cache_keys IS NULL) EXECUTE FUNCTION flowguard_events.judge_ddl();
-- Also in a session with session_replication_role = replica, which is one that goes past the guard.
ALTER TABLE flowguard.drift_event ENABLE ALWAYS TRIGGER judge_ddl;

-- The table is part of schema flowguard and its owner's; the functions are the witness's, in a schema of their own.
DO $owners$
BEGIN
  EXECUTE format('ALTER TABLE flowguard.drift_event OWNER TO %I',
                 (SELECT pg_get_userbyid(n.nspowner) FROM pg_namespace n WHERE n.nspname = 'flowguard'));
END;
$owners$;
GRANT USAGE ON SCHEMA flowguard, flowguard_events TO flowguard_witness;
GRANT SELECT ON flowguard.link, flowguard.rule TO flowguard_witness;
GRANT SELECT, INSERT, UPDATE, DELETE ON flowguard.drift_event TO flowguard_witness;
GRANT EXECUTE ON FUNCTION flowguard._diagnose() TO flowguard_witness;
REVOKE ALL ON SCHEMA flowguard_events FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA flowguard_events FROM PUBLIC;
REVOKE ALL ON flowguard.drift_event FROM PUBLIC;
-- Who is no superuser can give something only to a role of which it is a member, and that may create there: for a
-- moment.
DO $witness$
DECLARE
  v_is_superuser boolean := (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user);
BEGIN
  IF NOT v_is_superuser THEN
    EXECUTE 'GRANT flowguard_witness TO CURRENT_USER'
            || CASE WHEN current_setting('server_version_num')::integer >= 160000
                 THEN ' WITH INHERIT FALSE, SET TRUE' ELSE '' END;
    GRANT CREATE ON SCHEMA flowguard_events TO flowguard_witness;
  END IF;
  ALTER FUNCTION flowguard_events.is_watched(oid) OWNER TO flowguard_witness;
  ALTER FUNCTION flowguard_events.note(text, text, text, oid, text) OWNER TO flowguard_witness;
  ALTER FUNCTION flowguard_events.note_ddl() OWNER TO flowguard_witness;
  ALTER FUNCTION flowguard_events.judge_ddl() OWNER TO flowguard_witness;
  IF NOT v_is_superuser THEN
    REVOKE CREATE ON SCHEMA flowguard_events FROM flowguard_witness;
    REVOKE flowguard_witness FROM CURRENT_USER;
  END IF;
END;
$witness$;
SELECT flowguard.grant_roles();

CREATE EVENT TRIGGER flowguard_ddl ON ddl_command_end
  WHEN TAG IN ('ALTER FUNCTION', 'ALTER INDEX', 'ALTER POLICY', 'ALTER PROCEDURE', 'ALTER ROUTINE', 'ALTER TABLE',
               'ALTER TRIGGER', 'ALTER VIEW', 'COMMENT', 'CREATE FUNCTION', 'CREATE INDEX', 'CREATE POLICY',
               'CREATE SCHEMA', 'CREATE TABLE', 'CREATE TABLE AS', 'CREATE TRIGGER', 'CREATE VIEW', 'GRANT', 'REVOKE',
               'SELECT INTO')
  EXECUTE FUNCTION flowguard_events.note_ddl();
CREATE EVENT TRIGGER flowguard_drop ON sql_drop EXECUTE FUNCTION flowguard_events.note_ddl();
-- As above.
ALTER EVENT TRIGGER flowguard_ddl ENABLE ALWAYS;
ALTER EVENT TRIGGER flowguard_drop ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER flowguard_ddl IS 'PyFlowGuard: writes DDL that lets a guard drift to flowguard.drift_event.';
COMMENT ON EVENT TRIGGER flowguard_drop IS 'PyFlowGuard: writes DDL that lets a guard drift to flowguard.drift_event.';

COMMIT;
