-- Verify pyflowguard:registry on pg

BEGIN;

SELECT relation, key_column, tenant_columns, alternate_keys, created_at_column FROM flowguard.master WHERE false;
SELECT relation, link_column, master, tenant_columns, mode, on_orphan, on_master_delete, stem, guarded, paused
  FROM flowguard.link WHERE false;
SELECT relation, link_column, "position", kind, source, source_tenant_columns, source_key, source_link, via_column,
  agree,
       time_column, source_time, within, source_filter, filter_columns, on_ambiguous, late_limit
  FROM flowguard.rule WHERE false;
SELECT relation, constraint_name, link_column, definition, validated, comment
  FROM flowguard.replaced_constraint WHERE false;

ROLLBACK;
