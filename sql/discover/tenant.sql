-- Whether a column that child and master share says the same in both: rows of the child, those where it is NULL, rows
-- with a valid link whose tenant and master's tenant are known, and those of them where the two are the same.

SELECT count(*) AS total, count(*) FILTER (WHERE c.{tenant} IS NULL) AS unknown,
       count(*) FILTER (WHERE c.{tenant} IS NOT NULL AND m.{tenant} IS NOT NULL) AS compared,
       count(*) FILTER (WHERE c.{tenant} = m.{tenant}) AS agreeing
  FROM {child} AS c {sample}
  LEFT JOIN {master} AS m ON m.{key} = c.{link};
