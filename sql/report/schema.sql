-- The platform's tables as the report found them: what each one enforces, and what it leaves open.
-- Gaps are kept on purpose (a missing key, a missing index, a NULLable tenant): they are what PyFlowGuard is tried on.
-- Needs CREATE on the database and nothing else: no superuser, no extension. PostgreSQL 14 or later.
-- Load before.sql next.

BEGIN;

CREATE SCHEMA migration;

COMMENT ON SCHEMA migration IS 'Application schema of the migration platform.';

-- Tenants: a client and, inside it, an engagement.

CREATE TABLE migration.client_accounts (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  name text NOT NULL,
  slug text NOT NULL UNIQUE,
  industry text,
  is_active boolean NOT NULL DEFAULT true,
  settings jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE migration.client_accounts IS 'Customers: the outer tenant.';

CREATE TABLE migration.engagements (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  client_account_id uuid NOT NULL REFERENCES migration.client_accounts (id) ON DELETE CASCADE,
  name text NOT NULL,
  slug text NOT NULL,
  status text NOT NULL DEFAULT 'active',
  start_date date,
  budget numeric(14, 2),
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (client_account_id, slug),
  -- Says nothing that the primary key does not say; it is the target of every table's tenant key.
  CONSTRAINT uq_engagements_client_id UNIQUE (client_account_id, id)
);

COMMENT ON TABLE migration.engagements IS 'Projects of a customer: the inner tenant.';

CREATE TABLE migration.users (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  email text NOT NULL UNIQUE,
  first_name text,
  last_name text,
  default_client_id uuid REFERENCES migration.client_accounts (id) ON DELETE SET NULL,
  is_active boolean NOT NULL DEFAULT true,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE migration.users IS 'People who sign in.';

-- The master. Both id and flow_id are uuids that name the row, which is how the wrong one gets written.

CREATE TABLE migration.crewai_flow_state_extensions (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  flow_id uuid NOT NULL CONSTRAINT uq_crewai_flow_state_flow_id UNIQUE,
  parent_flow_id uuid CONSTRAINT fk_crewai_flow_state_parent
    REFERENCES migration.crewai_flow_state_extensions (flow_id),
  client_account_id uuid NOT NULL,
  engagement_id uuid NOT NULL,
  user_id uuid REFERENCES migration.users (id) ON DELETE SET NULL,
  flow_type text NOT NULL,
  flow_name text,
  flow_status text NOT NULL DEFAULT 'initialized',
  flow_configuration jsonb NOT NULL DEFAULT '{}',
  flow_persistence_data jsonb NOT NULL DEFAULT '{}',
  error_count integer NOT NULL DEFAULT 0,
  created_at timestamptz DEFAULT now(),
  updated_at timestamptz DEFAULT now(),
  CONSTRAINT fk_crewai_flow_state_tenant FOREIGN KEY (client_account_id, engagement_id)
    REFERENCES migration.engagements (client_account_id, id)
);

COMMENT ON TABLE migration.crewai_flow_state_extensions IS
  'Master flows: the root of a unit of work. Children carry flow_id as master_flow_id. Soft-deleted by flow_status.';

CREATE INDEX ix_crewai_flow_state_tenant
  ON migration.crewai_flow_state_extensions (client_account_id, engagement_id);

-- Children that carry a link to the master.

-- An import is written before its master, in one transaction: hence the deferred key.
CREATE TABLE migration.data_imports (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  client_account_id uuid,
  engagement_id uuid,
  master_flow_id uuid CONSTRAINT fk_data_imports_master_flow
    REFERENCES migration.crewai_flow_state_extensions (flow_id) DEFERRABLE INITIALLY DEFERRED,
  imported_by uuid REFERENCES migration.users (id),
  import_name text NOT NULL,
  import_type text NOT NULL,
  filename text,
  file_size bigint,
  source_system text,
  status text NOT NULL DEFAULT 'pending',
  progress_percentage numeric(5, 2) NOT NULL DEFAULT 0,
  total_records integer,
  failed_records integer NOT NULL DEFAULT 0,
  import_config jsonb NOT NULL DEFAULT '{}',
  error_message text,
  completed_at timestamptz,
  created_at timestamptz DEFAULT now(),
  updated_at timestamptz DEFAULT now(),
  CONSTRAINT fk_data_imports_tenant FOREIGN KEY (client_account_id, engagement_id)
    REFERENCES migration.engagements (client_account_id, id)
);

COMMENT ON TABLE migration.data_imports IS 'Uploaded files. Tenant and link may be NULL.';

CREATE INDEX ix_data_imports_status ON migration.data_imports (status);

-- No index on data_import_id nor on master_flow_id, here and in import_field_mappings.
CREATE TABLE migration.raw_import_records (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  data_import_id uuid NOT NULL CONSTRAINT fk_raw_import_records_import
    REFERENCES migration.data_imports (id) ON DELETE CASCADE,
  client_account_id uuid,
  engagement_id uuid,
  master_flow_id uuid CONSTRAINT fk_raw_import_records_master_flow
    REFERENCES migration.crewai_flow_state_extensions (flow_id),
  -- The asset made of this record; no key, an asset may be gone.
  asset_id uuid,
  row_number integer NOT NULL,
  raw_data jsonb NOT NULL,
  cleansed_data jsonb,
  validation_errors jsonb,
  is_processed boolean NOT NULL DEFAULT false,
  is_valid boolean,
  processed_at timestamptz,
  created_at timestamptz DEFAULT now(),
  updated_at timestamptz DEFAULT now(),
  CONSTRAINT fk_raw_import_records_tenant FOREIGN KEY (client_account_id, engagement_id)
    REFERENCES migration.engagements (client_account_id, id)
);

COMMENT ON TABLE migration.raw_import_records IS
  'Rows of an import as they were read. The only link table without row security.';

CREATE TABLE migration.import_field_mappings (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  data_import_id uuid NOT NULL CONSTRAINT fk_import_field_mappings_import
    REFERENCES migration.data_imports (id) ON DELETE CASCADE,
  client_account_id uuid NOT NULL,
  engagement_id uuid,
  master_flow_id uuid CONSTRAINT fk_import_field_mappings_master_flow
    REFERENCES migration.crewai_flow_state_extensions (flow_id),
  source_field text NOT NULL,
  target_field text NOT NULL,
  match_type text NOT NULL DEFAULT 'direct',
  confidence_score numeric(4, 3),
  status text NOT NULL DEFAULT 'suggested',
  suggested_by text NOT NULL DEFAULT 'ai_mapper',
  transformation_rules jsonb,
  approved_at timestamptz,
  created_at timestamptz DEFAULT now(),
  updated_at timestamptz DEFAULT now(),
  CONSTRAINT fk_import_field_mappings_tenant FOREIGN KEY (client_account_id, engagement_id)
    REFERENCES migration.engagements (client_account_id, id)
);

COMMENT ON TABLE migration.import_field_mappings IS 'Which field of an import becomes which attribute of an asset.';

-- data_import_id has no key. The key on master_flow_id cascades; before.sql makes it NOT VALID and says why.
CREATE TABLE migration.discovery_flows (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  flow_id uuid NOT NULL CONSTRAINT uq_discovery_flows_flow_id UNIQUE,
  master_flow_id uuid CONSTRAINT fk_discovery_flows_master_flow
    REFERENCES migration.crewai_flow_state_extensions (flow_id) ON DELETE CASCADE,
  client_account_id uuid NOT NULL,
  engagement_id uuid NOT NULL,
  user_id uuid,
  data_import_id uuid,
  flow_name text NOT NULL,
  status text NOT NULL DEFAULT 'active',
  current_phase text,
  progress_percentage numeric(5, 2) NOT NULL DEFAULT 0,
  phase_state jsonb NOT NULL DEFAULT '{}',
  completed_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT fk_discovery_flows_tenant FOREIGN KEY (client_account_id, engagement_id)
    REFERENCES migration.engagements (client_account_id, id)
);

COMMENT ON TABLE migration.discovery_flows IS
  'Discovery runs: one master flow each, flow_id being the master''s. Soft-deleted by status.';

CREATE INDEX ix_discovery_flows_master_flow_id ON migration.discovery_flows (master_flow_id);
CREATE INDEX ix_discovery_flows_tenant ON migration.discovery_flows (client_account_id, engagement_id);

-- No key on master_flow_id, flow_id or discovery_flow_id. The last holds discovery_flows.id from one writer
-- and discovery_flows.flow_id from another.
CREATE TABLE migration.assets (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  client_account_id uuid NOT NULL,
  engagement_id uuid NOT NULL,
  master_flow_id uuid,
  flow_id uuid,
  discovery_flow_id uuid,
  raw_import_records_id uuid CONSTRAINT fk_assets_raw_import_record REFERENCES migration.raw_import_records (id),
  name text NOT NULL,
  asset_type text NOT NULL,
  hostname text,
  ip_address inet,
  operating_system text,
  environment text,
  cpu_cores integer,
  memory_gb numeric(10, 2),
  monthly_cost numeric(12, 2),
  technical_details jsonb NOT NULL DEFAULT '{}',
  status text NOT NULL DEFAULT 'discovered',
  deleted_at timestamptz,
  deleted_by uuid,
  created_at timestamptz DEFAULT now(),
  updated_at timestamptz DEFAULT now(),
  CONSTRAINT fk_assets_tenant FOREIGN KEY (client_account_id, engagement_id)
    REFERENCES migration.engagements (client_account_id, id)
);

COMMENT ON TABLE migration.assets IS
  'Servers, applications and databases found by discovery. Soft-deleted by deleted_at.';

CREATE INDEX ix_assets_tenant ON migration.assets (client_account_id, engagement_id);
CREATE INDEX ix_assets_asset_type ON migration.assets (asset_type);

-- The legacy table that nothing reads any more. Moving it away and back has to keep all that hangs on it: an identity
-- sequence, three outgoing keys (one of them commented), a check, a partial index, a trigger and a policy.

CREATE TABLE migration.data_import_sessions (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  session_number bigint GENERATED ALWAYS AS IDENTITY,
  client_account_id uuid NOT NULL CONSTRAINT fk_data_import_sessions_client
    REFERENCES migration.client_accounts (id) ON DELETE CASCADE,
  engagement_id uuid NOT NULL,
  session_name text NOT NULL,
  session_type text NOT NULL DEFAULT 'data_import',
  status text NOT NULL DEFAULT 'active',
  is_default boolean NOT NULL DEFAULT false,
  statistics jsonb NOT NULL DEFAULT '{}',
  quality_score double precision,
  created_by uuid CONSTRAINT fk_data_import_sessions_user REFERENCES migration.users (id) ON DELETE SET NULL,
  completed_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT uq_data_import_sessions_number UNIQUE (session_number),
  CONSTRAINT ck_data_import_sessions_type
    CHECK (session_type IN ('data_import', 'validation_run', 'incremental_update')),
  CONSTRAINT fk_data_import_sessions_tenant FOREIGN KEY (client_account_id, engagement_id)
    REFERENCES migration.engagements (client_account_id, id) ON DELETE CASCADE
);

COMMENT ON TABLE migration.data_import_sessions IS
  'Legacy grouping of imports, replaced by master flows. No longer read.';
COMMENT ON COLUMN migration.data_import_sessions.session_number IS 'Shown to users as the number of the session.';
COMMENT ON CONSTRAINT fk_data_import_sessions_tenant ON migration.data_import_sessions IS
  'A session goes with its engagement.';

CREATE INDEX ix_data_import_sessions_tenant
  ON migration.data_import_sessions (client_account_id, engagement_id);
CREATE UNIQUE INDEX uq_data_import_sessions_default
  ON migration.data_import_sessions (engagement_id) WHERE is_default;

CREATE FUNCTION migration.touch_updated_at()
RETURNS trigger
LANGUAGE plpgsql
AS $touch_updated_at$
BEGIN
  NEW.updated_at := now();
  RETURN NEW;
END;
$touch_updated_at$;

COMMENT ON FUNCTION migration.touch_updated_at() IS 'Keeps updated_at of a row at the time of its last change.';

CREATE TRIGGER touch_updated_at
  BEFORE UPDATE ON migration.data_import_sessions
  FOR EACH ROW EXECUTE FUNCTION migration.touch_updated_at();

-- Row security is enabled, not forced: the owner is not subject to it. The setting may be unset (NULL: no row is seen)
-- or, after RESET, the empty string (the cast then fails). raw_import_records has none.

ALTER TABLE migration.crewai_flow_state_extensions ENABLE ROW LEVEL SECURITY;
ALTER TABLE migration.data_imports ENABLE ROW LEVEL SECURITY;
ALTER TABLE migration.import_field_mappings ENABLE ROW LEVEL SECURITY;
ALTER TABLE migration.discovery_flows ENABLE ROW LEVEL SECURITY;
ALTER TABLE migration.assets ENABLE ROW LEVEL SECURITY;
ALTER TABLE migration.data_import_sessions ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant_isolation ON migration.crewai_flow_state_extensions
  USING (client_account_id = current_setting('app.client_id', true)::uuid);
CREATE POLICY tenant_isolation ON migration.data_imports
  USING (client_account_id = current_setting('app.client_id', true)::uuid);
CREATE POLICY tenant_isolation ON migration.import_field_mappings
  USING (client_account_id = current_setting('app.client_id', true)::uuid);
CREATE POLICY tenant_isolation ON migration.discovery_flows
  USING (client_account_id = current_setting('app.client_id', true)::uuid);
CREATE POLICY tenant_isolation ON migration.assets
  USING (client_account_id = current_setting('app.client_id', true)::uuid);
CREATE POLICY tenant_isolation ON migration.data_import_sessions
  USING (client_account_id = current_setting('app.client_id', true)::uuid);

COMMIT;
