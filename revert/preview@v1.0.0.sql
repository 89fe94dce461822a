-- Revert pyflowguard:preview from pg

BEGIN;

DROP FUNCTION IF EXISTS flowguard.explain(regclass, jsonb, name);
DROP FUNCTION IF EXISTS flowguard._explain_remedy(flowguard.link, jsonb, text, boolean);
DROP FUNCTION IF EXISTS flowguard._explain_rules(flowguard.link, jsonb, text);
DROP FUNCTION IF EXISTS flowguard._in_ledger(regclass, text);
DROP FUNCTION IF EXISTS flowguard._read_key(regclass, jsonb);
DROP FUNCTION IF EXISTS flowguard.preview(regclass, name, text, integer, boolean);
DROP FUNCTION IF EXISTS flowguard._preview_followed(bigint, integer);
DROP FUNCTION IF EXISTS flowguard._preview_link(bigint, flowguard.link, text, integer, text);
DROP FUNCTION IF EXISTS flowguard._outside(flowguard.link, flowguard.rule, text, text);
DROP FUNCTION IF EXISTS flowguard._buckets(interval, interval[]);
DROP FUNCTION IF EXISTS flowguard._ask(text, text);
DROP FUNCTION IF EXISTS flowguard._finds(flowguard.link, flowguard.rule, jsonb);

COMMIT;
