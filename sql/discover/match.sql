-- How many rows there are, values of a column, and of these keys of a table.

SELECT count(*) AS total, count(c.{link}) AS given, count(k.{key}) AS found
  FROM {child} AS c {sample}
  LEFT JOIN {master} AS k ON k.{key} = c.{link};
