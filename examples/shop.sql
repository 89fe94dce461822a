-- A shop, as an example for `pyflowguard discover`: nothing in it is like the report's tables.
--
-- The master is an order. Its items, shipments, payments and returns carry order_id and the tenant, shop_id; keys are
-- bigint. Customers write the order's number, which is unique too, where its id belongs. Numbers are far from ids.
--
--   table      rows  what is planted
--   item        400  30 unlinked, of which 20 have a shipment; 2 linked to an order of another shop
--   shipment    130  10 unlinked, 6 dangling: 4 hold the order's number, 2 no order
--   payment     150  25 unlinked with no other way than time; 5 dangling, of which 3 hold the order's number
--   refund       40  8 unlinked, all of a payment that is linked
--
-- Load it into an empty database: psql -f examples/shop.sql

BEGIN;

CREATE TABLE shops (
  id   bigint PRIMARY KEY,
  name text NOT NULL
);

CREATE TABLE customers (
  id      bigint PRIMARY KEY,
  shop_id bigint NOT NULL REFERENCES shops,
  email   text NOT NULL UNIQUE
);

CREATE TABLE orders (
  id          bigint PRIMARY KEY,
  shop_id     bigint NOT NULL REFERENCES shops,
  number      bigint NOT NULL UNIQUE,
  customer_id bigint REFERENCES customers ON DELETE SET NULL,
  status      text NOT NULL DEFAULT 'open',
  placed_at   timestamptz NOT NULL
);

CREATE TABLE shipments (
  id         bigint PRIMARY KEY,
  shop_id    bigint NOT NULL REFERENCES shops,
  order_id   bigint,
  carrier    text NOT NULL,
  created_at timestamptz NOT NULL
);

CREATE TABLE items (
  id          bigint PRIMARY KEY,
  shop_id     bigint NOT NULL REFERENCES shops,
  order_id    bigint REFERENCES orders,
  shipment_id bigint REFERENCES shipments,
  sku         text NOT NULL,
  quantity    integer NOT NULL DEFAULT 1,
  created_at  timestamptz NOT NULL
);

CREATE INDEX items_order_id_idx ON items (order_id);

CREATE TABLE payments (
  id         bigint PRIMARY KEY,
  shop_id    bigint NOT NULL REFERENCES shops,
  order_id   bigint,
  amount     numeric(10, 2) NOT NULL,
  created_at timestamptz NOT NULL
);

CREATE TABLE refunds (
  id         bigint PRIMARY KEY,
  shop_id    bigint NOT NULL REFERENCES shops,
  payment_id bigint NOT NULL REFERENCES payments,
  order_id   bigint,
  amount     numeric(10, 2) NOT NULL
);

-- 100 orders of 4 shops, one every two hours, so that an hour holds one order of a shop at most

INSERT INTO shops SELECT n, 'Shop ' || n FROM generate_series(1, 4) AS n;
INSERT INTO customers SELECT n, 1 + n % 4, format('customer%s@example.org', n) FROM generate_series(1, 20) AS n;
INSERT INTO orders (id, shop_id, number, customer_id, placed_at)
SELECT n, 1 + n % 4, 700000 + n, CASE WHEN n % 5 > 0 THEN 1 + (n + 3) % 20 END,
       timestamptz '2025-03-01 08:00+00' + n * interval '2 hours'
  FROM generate_series(1, 100) AS n;

-- Shipment n is of order n, the last 30 are second ones.
INSERT INTO shipments
SELECT n, 1 + o.id % 4,
       CASE WHEN n <= 10 THEN NULL            -- unlinked
            WHEN n <= 14 THEN o.number        -- the other key
            WHEN n <= 16 THEN 900000 + n      -- no order
            ELSE o.id END,
       'carrier ' || n % 3, o.placed_at + interval '30 minutes'
  FROM generate_series(1, 130) AS n
  JOIN orders o ON o.id = 1 + (n - 1) % 100;

-- Four items an order. Items of unlinked and dangling shipments are linked all right.
INSERT INTO items
SELECT n, 1 + o.id % 4,
       CASE WHEN n IN (398, 399) THEN 1 + o.id % 99 -- of another shop
            WHEN n > 100 AND n <= 130 THEN NULL
            ELSE o.id END,
       CASE WHEN n > 100 AND n <= 120 THEN o.id END, 'sku ' || n % 17, 1 + n % 3, o.placed_at + interval '1 minute'
  FROM generate_series(1, 400) AS n
  JOIN orders o ON o.id = 1 + (n - 1) % 100;
UPDATE items SET shipment_id = order_id WHERE id BETWEEN 17 AND 80;
UPDATE items SET shipment_id = 20 + id - 100, shop_id = 1 + (20 + id - 100) % 4 WHERE id BETWEEN 101 AND 120;

INSERT INTO payments
SELECT n, 1 + o.id % 4,
       CASE WHEN n <= 25 THEN NULL
            WHEN n <= 28 THEN o.number
            WHEN n <= 30 THEN 900000 + n
            ELSE o.id END,
       10 + n, o.placed_at + n % 40 * interval '1 minute'
  FROM generate_series(1, 150) AS n
  JOIN orders o ON o.id = 1 + (n - 1) % 100;

INSERT INTO refunds
SELECT n, p.shop_id, p.id, CASE WHEN n > 8 THEN p.order_id END, p.amount
  FROM generate_series(1, 40) AS n
  JOIN payments p ON p.id = 40 + n;

COMMIT;
