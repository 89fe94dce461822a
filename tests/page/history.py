"""A history of health that nobody had the patience to wait for, written as snapshot() would have, day by day."""

from __future__ import annotations

from engine.postgres import Connection, run


def write_history(connection: Connection, days: int, *, changing: int) -> None:
    """Write a snapshot for each of the last days, of all links; so many of them get better, and once worse.

    How a link does on a day depends on its number and the day alone. On the day before today all is as it is now, as
    far as a link is not one of those that change.
    """
    run(
        connection,
        """
WITH day AS (
  SELECT d.n, now() - make_interval(days => %(days)s - d.n) AS taken_at FROM generate_series(0, %(days)s - 1) AS d (n)
), written AS (
  INSERT INTO flowguard.health_snapshot (taken_at, taken_by, exact, score)
  SELECT d.taken_at, current_user, true,
         round(82 + 15.0 * d.n / %(days)s - CASE WHEN d.n BETWEEN 0.55 * %(days)s AND 0.6 * %(days)s THEN 9 ELSE 0 END
               + 0.4 * sin(d.n)::numeric, 1)
    FROM day d
  RETURNING snapshot_id, taken_at
), status AS (
  SELECT s.*, row_number() OVER (ORDER BY s.relation::text, s.link_column) AS n FROM flowguard.link_status s
), figure AS (
  SELECT w.snapshot_id, c.relnamespace::regnamespace::text AS schema_name, c.relname, s.link_column, s.mode, s.total,
         s.dangling, s.mismatched, s.tenantless, s.validated, s.indexed,
         CASE WHEN s.n > %(changing)s THEN s.unlinked
              ELSE least(s.total - s.dangling - s.mismatched - s.tenantless, (s.total * (0.15 + 0.05 * (s.n %% 7))
                * greatest(0, 1 - extract(epoch FROM w.taken_at - min(w.taken_at) OVER ())
                                  / (extract(epoch FROM now() - min(w.taken_at) OVER ()) * (0.5 + 0.04 * s.n))))::bigint
                + CASE WHEN (w.snapshot_id + 11 * s.n) %% 97 < 4 THEN s.total / 8 ELSE 0 END) END AS unlinked
    FROM written w CROSS JOIN status s JOIN pg_class c ON c.oid = s.relation
)
INSERT INTO flowguard.health_snapshot_link (snapshot_id, schema_name, table_name, link_column, mode, total, estimated,
  linked, unlinked, dangling, mismatched, tenantless, coverage, validated, indexed)
SELECT f.snapshot_id, f.schema_name, f.relname, f.link_column, f.mode, f.total, false,
       f.total - f.unlinked - f.dangling - f.mismatched - f.tenantless, f.unlinked, f.dangling, f.mismatched,
       f.tenantless,
       CASE WHEN f.total = 0 THEN 1
            ELSE round((f.total - f.unlinked - f.dangling - f.mismatched - f.tenantless)::numeric / f.total, 4) END,
       f.validated, f.indexed
  FROM figure f
""".replace("%(days)s", str(days))
        .replace("%(changing)s", str(changing))
        .replace("%%", "%"),
    )
