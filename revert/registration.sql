-- Revert pyflowguard:registration from pg

BEGIN;

DROP FUNCTION IF EXISTS flowguard.drop_rule(regclass, integer, name);
DROP FUNCTION IF EXISTS flowguard._read_filter(regclass, text, text);
DROP FUNCTION IF EXISTS flowguard.add_proximity_rule(regclass, regclass, interval, name, name, name, text, text, name,
  integer, integer);
DROP FUNCTION IF EXISTS flowguard._foreign_keys(regclass, name);
DROP FUNCTION IF EXISTS flowguard.add_reference_rule(regclass, name, regclass, name, name, boolean, name, integer,
  integer);
DROP FUNCTION IF EXISTS flowguard.add_session_rule(regclass, name, integer);
DROP FUNCTION IF EXISTS flowguard._source_tenants(flowguard.link, regclass, name);
DROP FUNCTION IF EXISTS flowguard._add_rule(flowguard.rule);
DROP FUNCTION IF EXISTS flowguard.add_link(regclass, name, regclass, name[], text, text, text);
DROP FUNCTION IF EXISTS flowguard._check_read(regclass, name[], boolean);
DROP FUNCTION IF EXISTS flowguard._check_alone(regclass, name);
DROP FUNCTION IF EXISTS flowguard._whole_link(regclass, name);
DROP FUNCTION IF EXISTS flowguard._choose_stem(regclass, name);
DROP FUNCTION IF EXISTS flowguard._align_tenants(regclass, name[], flowguard.master);
DROP FUNCTION IF EXISTS flowguard.drop_master(regclass);
DROP FUNCTION IF EXISTS flowguard.add_master(regclass, name, name[], name[], name);
DROP FUNCTION IF EXISTS flowguard._refuse_other(text, jsonb, jsonb, text);
DROP FUNCTION IF EXISTS flowguard._refuse_argument(text, text, text);
DROP FUNCTION IF EXISTS flowguard._master(regclass);
DROP FUNCTION IF EXISTS flowguard._link(regclass, name);

COMMIT;
