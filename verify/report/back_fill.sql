-- Verify pyflowguard:report/back_fill on pg

BEGIN;

DO $verify$
DECLARE
  v_missing text[];
BEGIN
  IF NOT EXISTS (SELECT FROM flowguard.master m JOIN pg_catalog.pg_class c ON c.oid = m.relation
                  WHERE c.relname = 'crewai_flow_state_extensions') THEN
    RETURN;  -- the profile did nothing here, and report/links tells if that is wrong by now
  END IF;
  v_missing := ARRAY(
    SELECT t.name
      FROM unnest('{data_imports,discovery_flows,import_field_mappings,raw_import_records,assets}'::text[])
           WITH ORDINALITY AS t (name, n)
     WHERE NOT EXISTS (SELECT FROM flowguard.run r
                        WHERE r.note = 'pyflowguard:report/back_fill' AND r.status = 'finished'
                          AND (parse_ident(r.relation))[2] = t.name)
     ORDER BY t.n);
  IF v_missing <> '{}' THEN
    RAISE EXCEPTION 'flowguard: no run of report/back_fill has finished for %', array_to_string(v_missing, ', ')
      USING ERRCODE = 'FG301', DETAIL = 'It was stopped, or undone.',
            HINT = format('Run %s.',
                          (SELECT string_agg(format('"CALL flowguard.repair(%L, note => ''pyflowguard:report/back_fill'
                                                    ''')"', m), ', then ' ORDER BY n)
                             FROM unnest(v_missing) WITH ORDINALITY AS u (m, n)));
  END IF;
END;
$verify$;

ROLLBACK;
