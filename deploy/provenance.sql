-- Deploy pyflowguard:provenance to pg
-- Which links keep how their triggers found them, and what was kept.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

COMMIT;
