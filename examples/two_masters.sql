-- A works department, as an example for `pyflowguard discover`: two masters, and tables with a link to each.
--
-- A project and a contract are masters; both are of an organization. Time sheets and expenses are booked on a project
-- and billed by a contract; a document belongs to a contract. Keys are uuid. Projects have a code besides, and
-- legacy_id, a uuid of an older system, which an importer still writes.
--
--   table        rows  what is planted
--   timesheets    200  project: 20 unlinked, 10 dangling (all legacy_id); contract: 30 unlinked, 5 dangling
--   expenses      160  project: 40 unlinked, all of a time sheet with one;
--                      contract: 60 unlinked, 50 of a time sheet with one
--   documents      90  contract: 9 unlinked, 3 of another organization
--
-- Load it into an empty database: psql -f examples/two_masters.sql

BEGIN;

CREATE SCHEMA works;

CREATE TABLE works.organization (
  id   uuid PRIMARY KEY,
  name text NOT NULL
);

CREATE TABLE works.project (
  id              uuid PRIMARY KEY,
  organization_id uuid NOT NULL REFERENCES works.organization,
  code            text NOT NULL UNIQUE,
  legacy_id       uuid NOT NULL UNIQUE,
  created_at      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE works.contract (
  id              uuid PRIMARY KEY,
  organization_id uuid NOT NULL REFERENCES works.organization,
  signed_at       timestamptz NOT NULL
);

CREATE TABLE works.timesheets (
  id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  organization_id uuid NOT NULL,
  project_id      uuid,
  contract_id     uuid,
  hours           numeric(5, 2) NOT NULL,
  created_at      timestamptz NOT NULL
);

CREATE TABLE works.expenses (
  id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  organization_id uuid NOT NULL,
  timesheet_id    bigint REFERENCES works.timesheets,
  project_id      uuid REFERENCES works.project,
  contract_id     uuid REFERENCES works.contract,
  amount          numeric(10, 2) NOT NULL
);

CREATE TABLE works.documents (
  id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  organization_id uuid NOT NULL,
  contract_id     uuid,
  title           text NOT NULL
);

INSERT INTO works.organization
SELECT md5('organization ' || n)::uuid, 'Organization ' || n FROM generate_series(1, 3) AS n;
INSERT INTO works.project
SELECT md5('project ' || n)::uuid, md5('organization ' || 1 + n % 3)::uuid, 'P' || n, md5('legacy ' || n)::uuid
  FROM generate_series(1, 30) AS n;
INSERT INTO works.contract
SELECT md5('contract ' || n)::uuid, md5('organization ' || 1 + n % 3)::uuid,
       timestamptz '2025-01-01 00:00+00' + n * interval '1 day'
  FROM generate_series(1, 18) AS n;

-- Time sheet n: project n, contract n, both of organization n (each modulo what there are, multiples of 3).
INSERT INTO works.timesheets (organization_id, project_id, contract_id, hours, created_at)
SELECT md5('organization ' || 1 + n % 3)::uuid,
       CASE WHEN n <= 20 THEN NULL
            WHEN n <= 30 THEN md5('legacy ' || 1 + (n - 1) % 30)::uuid
            ELSE md5('project ' || 1 + (n - 1) % 30)::uuid END,
       CASE WHEN n > 170 THEN NULL
            WHEN n > 165 THEN md5('contract that is gone ' || n)::uuid
            ELSE md5('contract ' || 1 + (n - 1) % 18)::uuid END,
       n % 9, timestamptz '2025-04-01 08:00+00' + n * interval '1 hour'
  FROM generate_series(1, 200) AS n;

INSERT INTO works.expenses (organization_id, timesheet_id, project_id, contract_id, amount)
SELECT t.organization_id, CASE WHEN n <= 150 THEN t.id END,
       CASE WHEN n <= 40 THEN NULL ELSE t.project_id END,
       CASE WHEN n <= 50 OR n > 150 THEN NULL WHEN t.id <= 165 THEN t.contract_id END, n
  FROM generate_series(1, 160) AS n
  JOIN works.timesheets t ON t.id = CASE WHEN n <= 135 THEN 30 + n ELSE n - 100 END;

INSERT INTO works.documents (organization_id, contract_id, title)
SELECT md5('organization ' || 1 + (CASE WHEN n > 87 THEN n + 1 ELSE n END) % 3)::uuid,
       CASE WHEN n > 9 THEN md5('contract ' || 1 + (n - 1) % 18)::uuid END, 'Document ' || n
  FROM generate_series(1, 90) AS n;

COMMIT;
