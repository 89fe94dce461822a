-- A ticket system, as an example for `pyflowguard discover`: keys are texts, and there is one tenant only.
--
-- The master is a ticket; its key, "SUP-17" say, is what comments, attachments and worklogs carry. Each ticket has a
-- short link as well, which some writer takes for the key.
--
--   table        rows  what is planted
--   comments      300  12 unlinked; 9 dangling: 7 hold the short link, 2 the key of a ticket that is gone
--   attachments   120  40 unlinked: 30 of a comment that is linked, 10 of one that is not
--   worklogs       80  6 dangling, tickets that are gone; the column has neither a key nor NULLs
--   watchers       50  nothing: NOT NULL and a foreign key say it all
--
-- Load it into an empty database: psql -f examples/tickets.sql

BEGIN;

CREATE TABLE people (
  login text PRIMARY KEY
);

CREATE TABLE tickets (
  ticket_key text PRIMARY KEY,
  short_link text NOT NULL UNIQUE,
  title      text NOT NULL,
  reporter   text REFERENCES people ON DELETE SET NULL,
  created    timestamp NOT NULL
);

CREATE TABLE comments (
  id         integer PRIMARY KEY,
  ticket_key text,
  author     text REFERENCES people ON DELETE SET NULL,
  body       text NOT NULL,
  created    timestamp NOT NULL
);

CREATE TABLE attachments (
  id         integer PRIMARY KEY,
  comment_id integer REFERENCES comments,
  ticket_key text,
  file_name  text NOT NULL
);

CREATE TABLE worklogs (
  id         integer PRIMARY KEY,
  ticket_key text NOT NULL,
  minutes    integer NOT NULL
);

CREATE TABLE watchers (
  ticket_key text NOT NULL REFERENCES tickets,
  login      text NOT NULL REFERENCES people,
  PRIMARY KEY (ticket_key, login)
);

INSERT INTO people SELECT 'person' || n FROM generate_series(1, 10) AS n;
INSERT INTO tickets
SELECT 'SUP-' || n, 'x' || substr(md5(n::text), 1, 8), 'Ticket ' || n, 'person' || 1 + n % 10,
       timestamp '2025-02-01 09:00' + n * interval '1 hour'
  FROM generate_series(1, 60) AS n;

INSERT INTO comments
SELECT n, CASE WHEN n <= 12 THEN NULL
               WHEN n <= 19 THEN t.short_link
               WHEN n <= 21 THEN 'OLD-' || n
               ELSE t.ticket_key END,
       'person' || 1 + n % 10, 'Comment ' || n, t.created + n * interval '1 minute'
  FROM generate_series(1, 300) AS n
  JOIN tickets t ON t.ticket_key = 'SUP-' || 1 + n % 60;

-- Attachments 1 to 10 are of unlinked comments, 11 to 80 of linked ones, the others of the ticket itself.
INSERT INTO attachments
SELECT n, c.id, CASE WHEN n > 40 THEN c.ticket_key END, 'file' || n
  FROM generate_series(1, 80) AS n
  JOIN comments c ON c.id = CASE WHEN n <= 10 THEN n ELSE 20 + n + 10 END;
INSERT INTO attachments
SELECT n, NULL, 'SUP-' || 1 + n % 60, 'file' || n FROM generate_series(81, 120) AS n;

INSERT INTO worklogs
SELECT n, CASE WHEN n <= 6 THEN 'OLD-' || n ELSE 'SUP-' || 1 + n % 60 END, n FROM generate_series(1, 80) AS n;

INSERT INTO watchers SELECT 'SUP-' || n, 'person' || 1 + n % 10 FROM generate_series(1, 50) AS n;

COMMIT;
