-- Verify pyflowguard:report/clean_up on pg

BEGIN;

DO $verify$
DECLARE
  v_dangling bigint;
BEGIN
  IF NOT EXISTS (SELECT FROM flowguard.master m JOIN pg_catalog.pg_class c ON c.oid = m.relation
                  WHERE c.relname = 'crewai_flow_state_extensions') THEN
    RETURN;  -- the profile did nothing here, and report/links tells if that is wrong by now
  END IF;
  PERFORM FROM flowguard.run r WHERE r.note = 'pyflowguard:report/clean_up' AND r.status = 'finished';
  IF NOT FOUND THEN
    RAISE EXCEPTION 'flowguard: no run of report/clean_up has finished'
      USING ERRCODE = 'FG301', DETAIL = 'It was stopped, or undone.',
            HINT = 'Run "CALL flowguard.repair(''discovery_flows'', note => ''pyflowguard:report/clean_up'')".';
  END IF;
  SELECT c.dangling INTO v_dangling
    FROM flowguard._count_links(flowguard._link('discovery_flows', 'master_flow_id')) c;
  IF v_dangling > 0 THEN
    RAISE EXCEPTION 'flowguard: % discovery flows point to no master', v_dangling
      USING ERRCODE = 'FG301', DETAIL = 'They came after the clean-up, or what refers to them holds them.',
            HINT = 'Run "CALL flowguard.repair(''discovery_flows'')"; flowguard.violation lists what stays.';
  END IF;
END;
$verify$;

ROLLBACK;
