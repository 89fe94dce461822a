-- How many values of a column there are, and how many of them are keys of a table.

SELECT count(c.{column}) AS given, count(k.{key}) AS found
  FROM {child} AS c {sample}
  LEFT JOIN {master} AS k ON k.{key} = c.{column};
