-- What a reference rule would do: values of the column that refers, those that name a row of the source, unlinked rows,
-- those that the rule alone would link, and rows in which link and referenced row's link can be compared, both being
-- masters' keys, and are the same.

SELECT count(*) AS total, count(c.{via}) AS given, count(s.{source_key}) AS found,
       count(*) FILTER (WHERE c.{link} IS NULL) AS unlinked,
       count(*) FILTER (WHERE c.{link} IS NULL AND m.{key} IS NOT NULL) AS links,
       count(*) FILTER (WHERE o.{key} IS NOT NULL AND m.{key} IS NOT NULL) AS compared,
       count(*) FILTER (WHERE o.{key} = m.{key}) AS agreeing
  FROM {child} AS c {sample}
  LEFT JOIN {source} AS s ON s.{source_key} = c.{via} AND {source_tenants}
  LEFT JOIN {master} AS m ON m.{key} = s.{source_link} AND {tenants}
  LEFT JOIN {master} AS o ON o.{key} = c.{link};
