-- Verify pyflowguard:report/guard on pg
-- A key that is NOT VALID is there and binds new rows; flowguard.check_all() names the rows that it waits for.

BEGIN;

DO $verify$
DECLARE
  r_step record;
BEGIN
  IF NOT EXISTS (SELECT FROM flowguard.master m JOIN pg_catalog.pg_class c ON c.oid = m.relation
                  WHERE c.relname = 'crewai_flow_state_extensions') THEN
    RETURN;  -- the profile did nothing here, and report/links tells if that is wrong by now
  END IF;
  FOR r_step IN
    SELECT t.name, p.statement
      FROM unnest('{data_imports,raw_import_records,import_field_mappings,discovery_flows,assets}'::text[]) AS t (name)
     CROSS JOIN LATERAL flowguard.guard_plan(t.name::regclass) AS p
     WHERE p.statement NOT LIKE '% VALIDATE CONSTRAINT %'
  LOOP
    RAISE EXCEPTION 'flowguard: the guard of % is not complete', r_step.name
      USING ERRCODE = 'FG301', DETAIL = format('Missing: %s', r_step.statement),
            HINT = format('Call flowguard.guard(%L).', r_step.name);
  END LOOP;
END;
$verify$;

ROLLBACK;
