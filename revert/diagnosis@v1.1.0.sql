-- Revert pyflowguard:diagnosis from pg

BEGIN;

DROP FUNCTION IF EXISTS flowguard._count_links(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._judgement(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._judged_rows(flowguard.link, text);
DROP FUNCTION IF EXISTS flowguard._rows_sql(regclass, text);
DROP FUNCTION IF EXISTS flowguard._names_hold(text, regclass[], name[], name[], regclass[], name[]);
DROP FUNCTION IF EXISTS flowguard._check_names(text, regclass[], name[], name[], regclass[], name[]);
DROP FUNCTION IF EXISTS flowguard._refuse_renamed(text, text, text);
DROP FUNCTION IF EXISTS flowguard._refuse_tenantless(regclass, name, jsonb);
DROP FUNCTION IF EXISTS flowguard._refuse_unlinked(regclass, name, jsonb);
DROP FUNCTION IF EXISTS flowguard._remedy(flowguard.link, jsonb);
DROP FUNCTION IF EXISTS flowguard._tenant_text(flowguard.link, jsonb);
DROP FUNCTION IF EXISTS flowguard._why(flowguard.link, jsonb);
DROP FUNCTION IF EXISTS flowguard._why_rule(flowguard.link, flowguard.rule, jsonb);
DROP FUNCTION IF EXISTS flowguard._key_sql_match(regclass, text, text);

COMMIT;
