-- TEMPORARY: until branch health is merged.
CREATE TABLE IF NOT EXISTS flowguard.health_snapshot (snapshot_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  taken_at timestamptz NOT NULL DEFAULT now(), taken_by name NOT NULL DEFAULT current_user, exact boolean NOT NULL DEFAULT true,
  score numeric);
CREATE TABLE IF NOT EXISTS flowguard.health_snapshot_link (snapshot_id bigint, schema_name text, table_name text, link_column text,
  mode text, total bigint, estimated boolean, linked bigint, unlinked bigint, dangling bigint, mismatched bigint, tenantless bigint,
  coverage numeric, validated boolean, indexed boolean);
CREATE TABLE IF NOT EXISTS flowguard.health_snapshot_category (snapshot_id bigint, category text, score numeric);
