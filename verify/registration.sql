-- Verify pyflowguard:registration on pg

BEGIN;

SELECT 'flowguard._link(regclass, name)'::regprocedure;
SELECT 'flowguard._master(regclass)'::regprocedure;
SELECT 'flowguard._refuse_argument(text, text, text)'::regprocedure;
SELECT 'flowguard._refuse_other(text, jsonb, jsonb, text)'::regprocedure;
SELECT 'flowguard.add_master(regclass, name, name[], name[], name)'::regprocedure;
SELECT 'flowguard.drop_master(regclass)'::regprocedure;
SELECT 'flowguard._align_tenants(regclass, name[], flowguard.master)'::regprocedure;
SELECT 'flowguard._choose_stem(regclass, name)'::regprocedure;
SELECT 'flowguard._whole_link(regclass, name)'::regprocedure;
SELECT 'flowguard._check_alone(regclass, name)'::regprocedure;
SELECT 'flowguard._check_read(regclass, name[], boolean)'::regprocedure;
SELECT 'flowguard.add_link(regclass, name, regclass, name[], text, text, text)'::regprocedure;
SELECT 'flowguard._add_rule(flowguard.rule)'::regprocedure;
SELECT 'flowguard._source_tenants(flowguard.link, regclass, name)'::regprocedure;
SELECT 'flowguard.add_session_rule(regclass, name, integer)'::regprocedure;
SELECT 'flowguard.add_reference_rule(regclass, name, regclass, name, name, boolean, name, integer, '
  'integer)'::regprocedure;
SELECT 'flowguard._foreign_keys(regclass, name)'::regprocedure;
SELECT 'flowguard.add_proximity_rule(regclass, regclass, interval, name, name, name, text, text, name, integer, '
  'integer)'::regprocedure;
SELECT 'flowguard._read_filter(regclass, text, text)'::regprocedure;
SELECT 'flowguard.drop_rule(regclass, integer, name)'::regprocedure;

ROLLBACK;
