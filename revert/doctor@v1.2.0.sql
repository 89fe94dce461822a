-- Revert pyflowguard:doctor from pg

BEGIN;

DROP FUNCTION IF EXISTS flowguard.doctor();
DROP FUNCTION IF EXISTS flowguard._diagnose();
DROP FUNCTION IF EXISTS flowguard._server_findings(integer);
DROP FUNCTION IF EXISTS flowguard._setting_findings();
DROP FUNCTION IF EXISTS flowguard._unguarded_findings();
DROP FUNCTION IF EXISTS flowguard._access_findings();
DROP FUNCTION IF EXISTS flowguard._rights_findings(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._index_findings(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._key_findings(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._trigger_findings(flowguard.link);

COMMIT;
