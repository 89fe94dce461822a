-- Revert pyflowguard:health from pg

BEGIN;

DROP FUNCTION IF EXISTS flowguard.check_all();
DROP FUNCTION IF EXISTS flowguard._findings(jsonb);
DROP FUNCTION IF EXISTS flowguard._registry_findings();
DROP FUNCTION IF EXISTS flowguard._left_tables();
DROP FUNCTION IF EXISTS flowguard.health_score();
DROP VIEW IF EXISTS flowguard.health_category;
DROP FUNCTION IF EXISTS flowguard._round_score(numeric);
DROP FUNCTION IF EXISTS flowguard._health();
DROP FUNCTION IF EXISTS flowguard._gone_health();
DROP FUNCTION IF EXISTS flowguard._link_health(flowguard.link, bigint, bigint, bigint);
DROP FUNCTION IF EXISTS flowguard._readiness(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._row_health(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._time_columns(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._share(numeric, numeric);
DROP FUNCTION IF EXISTS flowguard._note_violations(flowguard.link[]);
DROP VIEW IF EXISTS flowguard.violation;
DROP FUNCTION IF EXISTS flowguard._violations();
DROP FUNCTION IF EXISTS flowguard._wrong_rows(flowguard.link, bigint);
DROP FUNCTION IF EXISTS flowguard._reason(flowguard.link, jsonb, text);
DROP FUNCTION IF EXISTS flowguard._why_mismatched(flowguard.link, jsonb);
DROP FUNCTION IF EXISTS flowguard._why_dangling(flowguard.link, jsonb);
DROP VIEW IF EXISTS flowguard.link_status;
DROP FUNCTION IF EXISTS flowguard._link_status();
DROP FUNCTION IF EXISTS flowguard._triggers_ready(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._indexes_ready(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._keys_proved(flowguard.link);
DROP TABLE IF EXISTS flowguard.violation_seen;

COMMIT;
