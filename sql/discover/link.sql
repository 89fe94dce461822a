-- How many rows of a link are what, by the words of flowguard.link_status, so that the figures are those that it shows
-- once the link is registered; and of the dangling ones, how many hold another key of one master of their tenant, or of
-- several.
--
-- tenants, other_tenants: master m, or o, has the row's tenant as far as it is known. tenantless: a tenant column of
-- the row is NULL. sources: joins to the rows that the link must agree with; differs: it does not.

SELECT count(*) AS total,
       count(*) FILTER (WHERE j.kind = 'linked') AS linked,
       count(*) FILTER (WHERE j.kind = 'unlinked') AS unlinked,
       count(*) FILTER (WHERE j.kind = 'dangling') AS dangling,
       count(*) FILTER (WHERE j.others = 1) AS other_key,
       count(*) FILTER (WHERE j.others > 1) AS ambiguous,
       count(*) FILTER (WHERE j.kind = 'mismatched') AS mismatched,
       count(*) FILTER (WHERE j.kind = 'tenantless') AS tenantless
  FROM (
    SELECT CASE WHEN c.{link} IS NULL THEN 'unlinked'
                WHEN m.{key} IS NULL THEN 'dangling'
                WHEN NOT ({tenants}) OR {differs} THEN 'mismatched'
                WHEN {tenantless} THEN 'tenantless'
                ELSE 'linked' END AS kind,
           CASE WHEN c.{link} IS NOT NULL AND m.{key} IS NULL
                THEN (SELECT count(*) FROM {master} AS o WHERE ({other_keys}) AND {other_tenants}) ELSE 0 END AS others
      FROM {child} AS c {sample}
      LEFT JOIN {master} AS m ON m.{key} = c.{link}
      {sources}
  ) AS j;
