-- Verify pyflowguard:diagnosis on pg

BEGIN;

SELECT 'flowguard._key_sql_match(regclass, text, text)'::regprocedure;
SELECT 'flowguard._why_rule(flowguard.link, flowguard.rule, jsonb)'::regprocedure;
SELECT 'flowguard._why(flowguard.link, jsonb)'::regprocedure;
SELECT 'flowguard._tenant_text(flowguard.link, jsonb)'::regprocedure;
SELECT 'flowguard._remedy(flowguard.link, jsonb)'::regprocedure;
SELECT 'flowguard._refuse_unlinked(regclass, name, jsonb)'::regprocedure;
SELECT 'flowguard._refuse_tenantless(regclass, name, jsonb)'::regprocedure;
SELECT 'flowguard._refuse_renamed(text, text, text)'::regprocedure;
SELECT 'flowguard._check_names(text, regclass[], name[], name[], regclass[], name[])'::regprocedure;
SELECT 'flowguard._names_hold(text, regclass[], name[], name[], regclass[], name[])'::regprocedure;
SELECT 'flowguard._rows_sql(regclass, text)'::regprocedure;
SELECT 'flowguard._judged_rows(flowguard.link, text)'::regprocedure;
SELECT 'flowguard._judgement(flowguard.link)'::regprocedure;
SELECT 'flowguard._count_links(flowguard.link)'::regprocedure;

ROLLBACK;
