-- Revert pyflowguard:registry from pg

BEGIN;

DROP TABLE IF EXISTS flowguard.replaced_constraint;
DROP TABLE IF EXISTS flowguard.rule;
DROP TABLE IF EXISTS flowguard.link;
DROP TABLE IF EXISTS flowguard.master;

COMMIT;
