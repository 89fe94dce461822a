-- Deploy pyflowguard:diagnosis to pg
-- What is wrong with a row, and why it has no link: for the error at commit, flowguard.violation and the counts of
-- health.
-- Since 1.2.0 a source has the same triggers for all that follows it.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE OR REPLACE FUNCTION flowguard._key_sql_match(p_relation regclass, p_alias text, p_key text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_key_sql_match$
-- SQL text: the row under an alias has the key that a jsonb expression holds.
  SELECT string_agg(format('%1$s.%2$I %3$s (%4$s OPERATOR(pg_catalog.->>) %5$L)::%6$s', p_alias, k.name,
                           flowguard._equal(p_relation, k.name), p_key, k.name,
                           (SELECT c.type_sql FROM flowguard._column(p_relation, k.name) c)),
                    ' AND ' ORDER BY k.n)
    FROM unnest(flowguard._row_key(p_relation)) WITH ORDINALITY AS k (name, n);
$_key_sql_match$;
COMMENT ON FUNCTION flowguard._key_sql_match(regclass, text, text) IS 'SQL text: a row has the key that a jsonb holds.';

CREATE OR REPLACE FUNCTION flowguard._why_rule(
  p_link flowguard.link, p_rule flowguard.rule, p_row_key jsonb, OUT reason text, OUT ambiguous boolean,
    OUT final boolean
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_why_rule$
-- What one rule finds for a row. final: no later rule is asked.
DECLARE
  v_master  flowguard.master := flowguard._master(p_link.master);
  v_from    text := format('%s c WHERE %s', p_link.relation, flowguard._key_sql_match(p_link.relation, 'c', '$1'));
  v_via     text;
  v_found   boolean;
  v_same    boolean;
  v_link    text;
  v_time    text;
  v_usable  boolean;
  v_known   boolean;
  v_near    text;
  v_at      text;
  v_far     interval;
  v_wide    flowguard.rule;
BEGIN
  ambiguous := false;
  final := false;
  IF p_rule.kind = 'session' THEN
    reason := format('the setting %s gave none when the row was written', flowguard._setting_name(p_link.link_column));
    RETURN;
  END IF;
  IF p_rule.kind = 'reference' THEN
    EXECUTE format(
      'SELECT c.%1$I::text, x.found IS NOT NULL, coalesce(x.same, false), x.link FROM %2$s c '
      'LEFT JOIN LATERAL (SELECT true AS found, (true%3$s) AS same, s.%4$I::text AS link FROM %5$s s WHERE s.%6$I %7$s '
        'c.%1$I '
      'ORDER BY 2 DESC LIMIT 1) x ON true WHERE %8$s',
      p_rule.via_column, p_link.relation,
      flowguard._match_tenants(p_rule.source, p_rule.source_tenant_columns, 's.', p_link.relation,
        p_link.tenant_columns,
                               flowguard._row_refs(p_link, p_link.tenant_columns, 'c'), false),
      p_rule.source_link, p_rule.source, p_rule.source_key, flowguard._equal(p_rule.source, p_rule.source_key),
      flowguard._key_sql_match(p_link.relation, 'c', '$1'))
    INTO v_via, v_found, v_same, v_link USING p_row_key;
    final := p_rule.agree AND v_via IS NOT NULL;
    -- Nothing of another tenant's row is told, not even that it is there.
    reason := CASE
                WHEN v_via IS NULL THEN format('%I is NULL', p_rule.via_column)
                WHEN NOT v_found OR NOT v_same THEN
                  format('no row of %s of the same tenant has %I = %s', p_rule.source, p_rule.source_key, v_via)
                WHEN v_link IS NULL AND p_rule.agree THEN
                  format('it waits for row %s of %s, which has no %I yet', v_via, p_rule.source, p_rule.source_link)
                WHEN v_link IS NULL THEN format('row %s of %s has no %I', v_via, p_rule.source, p_rule.source_link)
                ELSE format('row %s of %s has %I = %s, which is no master of the same tenant', v_via, p_rule.source,
                            p_rule.source_link, v_link)
              END;
    IF v_found AND v_same AND v_link IS NOT NULL THEN
      EXECUTE format('SELECT true FROM %s c JOIN %s m ON m.%I::text OPERATOR(pg_catalog.=) $2%s WHERE %s',
                     p_link.relation, v_master.relation, v_master.key_column, flowguard._master_match(p_link, 'c',
                       false),
                     flowguard._key_sql_match(p_link.relation, 'c', '$1'))
        INTO v_found USING p_row_key, v_link;
      IF v_found THEN
        reason := format('row %s of %s has %I = %s by now; call flowguard.repair(%L, link_column => %L)', v_via,
                         p_rule.source, p_rule.source_link, v_link, p_link.relation, p_link.link_column);
        final := true;
      END IF;
    END IF;
    RETURN;
  END IF;

  EXECUTE format('SELECT c.%I::text, coalesce(%s, false), NOT coalesce(%s, false) FROM %s', p_rule.time_column,
                 flowguard._time_is_usable(format('c.%I', p_rule.time_column)),
                 coalesce(flowguard._unknown_tenant_sql(p_link, 'c.'), 'false'), v_from)
    INTO v_time, v_usable, v_known USING p_row_key;
  IF NOT v_known THEN
    reason := format('its tenant is not known, so %s cannot be searched', p_rule.source);
  ELSIF NOT v_usable THEN
    reason := format('%I is %s', p_rule.time_column, coalesce(v_time, 'NULL'));
  ELSE
    v_wide := p_rule;
    v_wide.within := interval '1000000 hours';
    EXECUTE format('SELECT x.link::text, x.at::text, CASE WHEN x.at <= c.%1$I THEN c.%1$I - x.at ELSE x.at - c.%1$I '
      'END '
                   'FROM %2$s c CROSS JOIN LATERAL (%3$s) x WHERE %4$s', p_rule.time_column, p_link.relation,
                   flowguard._nearest_query(p_link, v_wide, 'c'), flowguard._key_sql_match(p_link.relation, 'c', '$1'))
      INTO v_near, v_at, v_far USING p_row_key;
    IF v_near IS NULL THEN
      reason := format('%s has no linked row of its tenant%s', p_rule.source,
                       CASE WHEN p_rule.source_filter IS NULL THEN '' ELSE format(' with %s',
                         p_rule.source_filter) END);
    ELSIF v_far > p_rule.within THEN
      reason := format('the nearest row of %s is of %s, %s away; the window is %s', p_rule.source, v_at, v_far,
                       p_rule.within);
    ELSE
      IF p_rule.on_ambiguous = 'leave' THEN
        EXECUTE format('SELECT EXISTS (%s) FROM %s',
                       flowguard._other_master_query(p_link, p_rule, 'c', format('$2::%s', (
                         SELECT x.type_sql FROM flowguard._column(v_master.relation, v_master.key_column) x))), v_from)
          INTO ambiguous USING p_row_key, v_near;
      END IF;
      reason := CASE
                  WHEN ambiguous THEN format('rows of %s within %s lead to more than one master', p_rule.source,
                    p_rule.within)
                  ELSE format('the nearest row of %s is of %s and leads to %s by now; call flowguard.repair(%L, '
                    'link_column => %L)', p_rule.source, v_at, v_near, p_link.relation, p_link.link_column)
                END;
      final := true;
    END IF;
  END IF;
END;
$_why_rule$;
COMMENT ON FUNCTION flowguard._why_rule(flowguard.link, flowguard.rule, jsonb) IS
  'What one rule of a link finds for a row.';

CREATE OR REPLACE FUNCTION flowguard._why(
  p_link flowguard.link, p_row_key jsonb, OUT reason text, OUT ambiguous boolean
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_why$
-- Why no rule links a row that is there, rule by rule.
DECLARE
  r_rule flowguard.rule;
  r_why  record;
BEGIN
  ambiguous := false;
  FOR r_rule IN SELECT * FROM flowguard._rules(p_link) LOOP
    r_why := flowguard._why_rule(p_link, r_rule, p_row_key);
    reason := coalesce(reason || '; ', '') || format('rule %s: %s', r_rule."position", r_why.reason);
    ambiguous := ambiguous OR r_why.ambiguous;
    EXIT WHEN r_why.final;
  END LOOP;
  reason := coalesce(reason, 'the link has no rule');
END;
$_why$;
COMMENT ON FUNCTION flowguard._why(flowguard.link, jsonb) IS 'Why no rule links a row, rule by rule.';

CREATE OR REPLACE FUNCTION flowguard._tenant_text(p_link flowguard.link, p_row_key jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_tenant_text$
-- The tenant of a row, and its times, for a message.
DECLARE
  v_text    text;
  v_columns name[];
BEGIN
  SELECT array_agg(DISTINCT c.name) INTO v_columns
    FROM (SELECT unnest(p_link.tenant_columns) AS name
          UNION SELECT r.time_column FROM flowguard._rules(p_link) r) AS c
   WHERE c.name IS NOT NULL;
  IF v_columns IS NULL THEN
    RETURN '';
  END IF;
  EXECUTE format('SELECT concat_ws('', '', %s) FROM %s c WHERE %s',
                 (SELECT string_agg(format('%L || coalesce(c.%I::text, ''NULL'')', c.name || ' = ', c.name), ', '
                   ORDER BY c.name)
                    FROM unnest(v_columns) AS c (name)),
                 p_link.relation, flowguard._key_sql_match(p_link.relation, 'c', '$1'))
    INTO v_text USING p_row_key;
  RETURN 'Row: ' || v_text || '. ';
END;
$_tenant_text$;
COMMENT ON FUNCTION flowguard._tenant_text(flowguard.link, jsonb) IS 'Tenant and times of a row, for a message.';

CREATE OR REPLACE FUNCTION flowguard._remedy(p_link flowguard.link, p_row_key jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_remedy$
-- What gives a row its link: what it must agree with comes before a link of its own, which would be refused.
DECLARE
  v_via     text;
  v_found   boolean;
  v_unknown boolean;
  r_rule    flowguard.rule;
BEGIN
  FOR r_rule IN SELECT * FROM flowguard._rules(p_link) r WHERE r.agree LOOP
    EXECUTE format('SELECT c.%1$I::text, EXISTS (SELECT FROM %2$s s WHERE s.%3$I %4$s c.%1$I%5$s) FROM %6$s c '
                     'WHERE %7$s',
                   r_rule.via_column, r_rule.source, r_rule.source_key,
                   flowguard._equal(r_rule.source, r_rule.source_key),
                   flowguard._match_tenants(r_rule.source, r_rule.source_tenant_columns, 's.', p_link.relation,
                     p_link.tenant_columns, flowguard._row_refs(p_link, p_link.tenant_columns, 'c'), false),
                   p_link.relation, flowguard._key_sql_match(p_link.relation, 'c', '$1'))
      INTO v_via, v_found USING p_row_key;
    IF v_via IS NOT NULL THEN
      RETURN CASE
               WHEN v_found THEN format('Set %I of row %s of %s, which this row follows', r_rule.source_link, v_via,
                 r_rule.source)
               ELSE format('Set %I to a row of %s of the same tenant', r_rule.via_column, r_rule.source)
             END;
    END IF;
  END LOOP;
  EXECUTE format('SELECT coalesce(%s, false) FROM %s c WHERE %s',
                 coalesce(flowguard._unknown_tenant_sql(p_link, 'c.'), 'false'), p_link.relation,
                 flowguard._key_sql_match(p_link.relation, 'c', '$1'))
    INTO v_unknown USING p_row_key;
  RETURN format('Set %s%I to the key of a master of %s%s',
                CASE WHEN v_unknown THEN flowguard._columns_sql(p_link.tenant_columns) || ', and ' ELSE '' END,
                p_link.link_column, p_link.master,
                CASE WHEN EXISTS (SELECT FROM flowguard._rules(p_link) r WHERE r.kind = 'session') AND NOT v_unknown
                  THEN format(', or run "SET LOCAL %s = ''<key>''" before writing',
                              flowguard._setting_name(p_link.link_column)) ELSE '' END);
END;
$_remedy$;
COMMENT ON FUNCTION flowguard._remedy(flowguard.link, jsonb) IS 'What gives a row its link, for a HINT.';

CREATE OR REPLACE FUNCTION flowguard._refuse_unlinked(p_relation regclass, p_link_column name, p_row_key jsonb)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_refuse_unlinked$
-- Raises FG001 at commit for a row of an enforced link that is still unlinked.
DECLARE
  v_link flowguard.link := flowguard._link(p_relation, p_link_column);
BEGIN
  RAISE EXCEPTION 'flowguard: row % of table % has no %', p_row_key, p_relation, quote_ident(p_link_column)
    USING ERRCODE = 'FG001',
          DETAIL = format('%sNo rule finds its master: %s.', flowguard._tenant_text(v_link, p_row_key),
                          (flowguard._why(v_link, p_row_key)).reason),
          HINT = format('%s; a flowguard_admin may call flowguard.bypass(reason).',
                        flowguard._remedy(v_link, p_row_key)),
          SCHEMA = (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.oid = p_relation),
          TABLE = (SELECT c.relname FROM pg_class c WHERE c.oid = p_relation), COLUMN = p_link_column;
END;
$_refuse_unlinked$;
COMMENT ON FUNCTION flowguard._refuse_unlinked(regclass, name, jsonb) IS
  'Raises FG001: a row of an enforced link is unlinked.';

CREATE OR REPLACE FUNCTION flowguard._refuse_tenantless(p_relation regclass, p_link_column name, p_row_key jsonb)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_refuse_tenantless$
-- Raises FG002 at commit for a row of an enforced link that has a link but does not know its tenant.
DECLARE
  v_link flowguard.link := flowguard._link(p_relation, p_link_column);
BEGIN
  RAISE EXCEPTION 'flowguard: row % of table % has a % but not its whole tenant', p_row_key, p_relation,
    quote_ident(p_link_column)
    USING ERRCODE = 'FG002',
          DETAIL = flowguard._tenant_text(v_link, p_row_key) || 'Whether its master is of its tenant cannot be proved.',
          HINT = format('Set %s; a flowguard_admin may call flowguard.bypass(reason).',
                        flowguard._columns_sql(v_link.tenant_columns)),
          SCHEMA = (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.oid = p_relation),
          TABLE = (SELECT c.relname FROM pg_class c WHERE c.oid = p_relation);
END;
$_refuse_tenantless$;
COMMENT ON FUNCTION flowguard._refuse_tenantless(regclass, name, jsonb) IS
  'Raises FG002: a row of an enforced link has a link and no tenant.';

CREATE OR REPLACE FUNCTION flowguard._refuse_renamed(p_stem text, p_made_for text, p_now text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_refuse_renamed$
-- Raises FG004: a name that a guard was made for has passed on to another table or column.
DECLARE
  v_link flowguard.link;
BEGIN
  SELECT * INTO v_link FROM flowguard.link l WHERE l.stem = p_stem;
  RAISE EXCEPTION 'flowguard: the guard of table % was made for %', v_link.relation, p_made_for
    USING ERRCODE = 'FG004',
          DETAIL = format('That is called %s now, and another one has taken its name.', p_now),
          HINT = format('Call flowguard.guard(%L, %L).', v_link.relation, v_link.link_column);
END;
$_refuse_renamed$;
COMMENT ON FUNCTION flowguard._refuse_renamed(text, text, text) IS
  'Raises FG004 where another table or column has taken a name that a guard was made for.';

CREATE OR REPLACE FUNCTION flowguard._check_names(
  p_stem text, p_tables regclass[], p_key name[], p_own name[], p_targets regclass[], p_columns name[]
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_check_names$
-- Raises FG004 where a name in the generated code of a link means another table or column by now than when it was made.
-- The catalog knows better: a trigger and a foreign key keep their tables and columns, whatever these are called.
-- p_tables are the child and the sources; p_own of the child refers to p_columns of p_targets, the link first. A name
-- that is gone altogether is left to the generated code, which fails on it. VOLATILE, to see what was committed since
-- the statement began.
DECLARE
  v_follows text := format('"stem": %s,', to_jsonb(p_stem));  -- in what the trigger of a source calls
  r_found   record;
BEGIN
  -- As a rule all is as it was. That is asked in short queries, for it is asked by each session: our triggers are where
  -- they were made, each is what it was, the foreign keys are there, and what names a row is not NULL.
  IF (SELECT count(DISTINCT t.tgrelid) = cardinality(p_tables)
             AND bool_and(substr(d.description, 59, 32) = md5(pg_get_triggerdef(t.oid)))
        FROM pg_trigger t
        LEFT JOIN pg_description d ON d.objoid = t.oid AND d.classoid = 'pg_trigger'::regclass AND d.objsubid = 0
       WHERE t.tgrelid = ANY (p_tables)
         AND (starts_with(t.tgname::text, '~flowguard_' || p_stem || '_')
              OR starts_with(t.tgname::text, '~flowguard~') AND t.tgparentid = 0 AND EXISTS (
                   SELECT FROM pg_proc p WHERE p.oid = t.tgfoid AND strpos(p.prosrc, v_follows) > 0)))
     AND (SELECT count(*) = cardinality(p_own)
            FROM ROWS FROM (unnest(p_own), unnest(p_targets), unnest(p_columns)) AS w (own, target, meant)
            JOIN pg_attribute a ON a.attrelid = p_tables[1] AND a.attname = w.own
            JOIN pg_attribute f ON f.attrelid = w.target AND f.attname = w.meant
           WHERE EXISTS (SELECT FROM pg_constraint k
                          WHERE k.conrelid = p_tables[1] AND k.confrelid = w.target AND k.contype = 'f'
                            AND k.confkey[array_position(k.conkey, a.attnum)] = f.attnum))
     AND (SELECT count(*) = cardinality(p_key)
            FROM pg_attribute a WHERE a.attrelid = p_tables[1] AND a.attname = ANY (p_key) AND a.attnotnull) THEN
    RETURN;
  END IF;

  -- Our triggers note how their tables and columns were called.
  FOR r_found IN
    SELECT t.tgrelid::regclass AS relation, n.noted, n.now
      FROM pg_trigger t
     CROSS JOIN LATERAL (
       SELECT substring(obj_description(t.oid, 'pg_trigger') FROM '^Generated by PyFlowGuard [^ ]+ [^ ]+ (.*)$')::jsonb,
              flowguard._trigger_names(t.oid)) AS n (noted, now)
     WHERE (starts_with(t.tgname::text, '~flowguard_' || p_stem || '_')
            OR starts_with(t.tgname::text, '~flowguard~') AND EXISTS (
                 SELECT FROM pg_proc p WHERE p.oid = t.tgfoid AND strpos(p.prosrc, v_follows) > 0))
       AND t.tgparentid = 0 AND n.noted <> n.now
     ORDER BY t.tgname
  LOOP
    IF r_found.noted ->> 'table' <> r_found.now ->> 'table' AND to_regclass(r_found.noted ->> 'table') IS NOT NULL THEN
      PERFORM flowguard._refuse_renamed(p_stem, r_found.noted ->> 'table', r_found.now ->> 'table');
    END IF;
    PERFORM flowguard._refuse_renamed(p_stem, format('column %I of %s', c.noted, r_found.relation), quote_ident(c.now))
       FROM ROWS FROM (jsonb_array_elements_text(r_found.noted -> 'columns'),
                       jsonb_array_elements_text(r_found.now -> 'columns')) AS c (noted, now)
       JOIN pg_attribute a ON a.attrelid = r_found.relation AND a.attname = c.noted AND NOT a.attisdropped
      WHERE c.noted <> c.now;
  END LOOP;

  -- Foreign keys of the child know what no trigger of ours is on or reads.
  SELECT k.confrelid::regclass AS relation INTO r_found
    FROM pg_constraint k
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attname = p_own[1] AND a.attnum = ANY (k.conkey)
   WHERE k.conrelid = p_tables[1] AND k.contype = 'f'
     AND (k.conname IN ('flowguard_' || p_stem || '_tenant_fkey', 'flowguard_' || p_stem || '_fkey')
          OR cardinality(k.conkey) = 1)
   ORDER BY k.confrelid = p_targets[1] DESC LIMIT 1;
  IF r_found.relation <> p_targets[1] THEN
    PERFORM flowguard._refuse_renamed(p_stem, p_targets[1]::text, r_found.relation::text);
  END IF;
  PERFORM flowguard._refuse_renamed(p_stem, format('column %I of %s', w.meant, w.target), quote_ident(min(f.attname)))
     FROM ROWS FROM (unnest(p_own), unnest(p_targets), unnest(p_columns)) AS w (own, target, meant)
     JOIN pg_attribute a ON a.attrelid = p_tables[1] AND a.attname = w.own
     JOIN pg_constraint k ON k.conrelid = a.attrelid AND k.contype = 'f' AND k.confrelid = w.target
                         AND a.attnum = ANY (k.conkey)
     JOIN pg_attribute f ON f.attrelid = w.target AND f.attnum = k.confkey[array_position(k.conkey, a.attnum)]
     JOIN pg_attribute n ON n.attrelid = w.target AND n.attname = w.meant
    GROUP BY w.own, w.target, w.meant
   HAVING NOT bool_or(f.attname = w.meant);

  PERFORM flowguard._refuse_renamed(p_stem, format('column %I of %s', a.attname, a.attrelid::regclass),
                                    flowguard._columns_sql(flowguard._row_key(p_tables[1])))
     FROM pg_attribute a WHERE a.attrelid = p_tables[1] AND a.attname = ANY (p_key) AND NOT a.attnotnull;
END;
$_check_names$;
COMMENT ON FUNCTION flowguard._check_names(text, regclass[], name[], name[], regclass[], name[]) IS
  'Raises FG004 where a name in generated code means another table or column by now.';

CREATE OR REPLACE FUNCTION flowguard._names_hold(
  p_stem text, p_tables regclass[], p_key name[], p_own name[], p_targets regclass[], p_columns name[]
) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_names_hold$
-- True, or FG004. Called IMMUTABLE so that it is asked while a statement is planned, and costs nothing when it is run.
-- PostgreSQL plans anew, and so asks again, when one of the tables is changed that the arguments name.
BEGIN
  PERFORM flowguard._check_names(p_stem, p_tables, p_key, p_own, p_targets, p_columns);
  RETURN true;
END;
$_names_hold$;
COMMENT ON FUNCTION flowguard._names_hold(text, regclass[], name[], name[], regclass[], name[]) IS
  'Whether the names in generated code mean what they did when it was made; raises FG004. Asked when code is planned.';

CREATE OR REPLACE FUNCTION flowguard._rows_sql(p_relation regclass, p_row_filter text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_rows_sql$
-- SQL text for FROM: a table, or its rows that meet a condition, which _check_row_filter() has passed. On lines of its
-- own, for it may end in a remark. It is read under the path of whoever runs the text: that has to be the caller's.
  SELECT CASE WHEN p_row_filter IS NULL THEN p_relation::text
              ELSE format(E'(SELECT * FROM %s WHERE (
%s
))', p_relation, p_row_filter) END;
$_rows_sql$;
COMMENT ON FUNCTION flowguard._rows_sql(regclass, text) IS
  'SQL text for FROM: a table, or its rows that meet a condition.';

CREATE OR REPLACE FUNCTION flowguard._judged_rows(p_link flowguard.link, p_row_filter text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_judged_rows$
-- SQL text for FROM: each child row c with its master m and, for each rule that must agree, the row a<position>
-- referred to.
DECLARE
  v_master flowguard.master := flowguard._master(p_link.master);
  v_text   text;
BEGIN
  v_text := format('%s c LEFT JOIN %s m ON m.%I %s c.%I%s', flowguard._rows_sql(p_link.relation, p_row_filter),
                   v_master.relation, v_master.key_column,
                   flowguard._equal(v_master.relation, v_master.key_column), p_link.link_column,
                   CASE WHEN flowguard._find_index(v_master.relation, ARRAY[v_master.key_column], true, false) IS NULL
                     THEN flowguard._master_match(p_link, 'c', true) ELSE '' END);
  SELECT v_text || coalesce(string_agg(format(' LEFT JOIN %1$s a%2$s ON a%2$s.%3$I %4$s c.%5$I', r.source, r."position",
                                              r.source_key, flowguard._equal(r.source, r.source_key), r.via_column),
                                       '' ORDER BY r."position"), '')
    INTO v_text FROM flowguard._rules(p_link) r WHERE r.agree;
  RETURN v_text;
END;
$_judged_rows$;
COMMENT ON FUNCTION flowguard._judged_rows(flowguard.link, text) IS
  'SQL text for FROM: child rows with their masters and the rows that they must agree with.';

CREATE OR REPLACE FUNCTION flowguard._judgement(p_link flowguard.link) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_judgement$
-- SQL text over _judged_rows(): unlinked, dangling, mismatched, tenantless (linked, but its tenant is not known) or
-- linked.
DECLARE
  v_master  flowguard.master := flowguard._master(p_link.master);
  v_differs text;
BEGIN
  SELECT string_agg(format(' OR a%1$s.%2$I IS NOT NULL AND (a%1$s.%3$I IS NULL OR NOT a%1$s.%3$I %4$s c.%5$I)',
    r."position",
                           r.source_key, r.source_link, flowguard._equal(r.source, r.source_link), p_link.link_column),
                    '' ORDER BY r."position")
    INTO v_differs FROM flowguard._rules(p_link) r WHERE r.agree;
  RETURN format('CASE WHEN c.%1$I IS NULL THEN ''unlinked'' WHEN m.%2$I IS NULL THEN ''dangling'' '
                'WHEN NOT (true%3$s)%4$s THEN ''mismatched'' WHEN %5$s THEN ''tenantless'' ELSE ''linked'' END',
                p_link.link_column, v_master.key_column, flowguard._master_match(p_link, 'c', false),
                  coalesce(v_differs, ''),
                coalesce(flowguard._unknown_tenant_sql(p_link, 'c.'), 'false'));
END;
$_judgement$;
COMMENT ON FUNCTION flowguard._judgement(flowguard.link) IS
  'SQL text over judged rows: unlinked, dangling, mismatched, tenantless or linked.';

CREATE OR REPLACE FUNCTION flowguard._count_links(
  p_link flowguard.link, OUT total bigint, OUT linked bigint, OUT unlinked bigint, OUT dangling bigint,
  OUT mismatched bigint, OUT tenantless bigint
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET row_security = off AS $_count_links$
-- How many rows of a link are what; an error rather than a partial count where row security hides some.
BEGIN
  EXECUTE format('SELECT count(*), count(*) FILTER (WHERE k = ''linked''), count(*) FILTER (WHERE k = ''unlinked''), '
                 'count(*) FILTER (WHERE k = ''dangling''), count(*) FILTER (WHERE k = ''mismatched''), '
                 'count(*) FILTER (WHERE k = ''tenantless'') FROM (SELECT %s AS k FROM %s) AS j',
                 flowguard._judgement(p_link), flowguard._judged_rows(p_link))
    INTO total, linked, unlinked, dangling, mismatched, tenantless;
END;
$_count_links$;
COMMENT ON FUNCTION flowguard._count_links(flowguard.link) IS 'How many rows of a link are linked, unlinked and wrong.';

SELECT flowguard._close_to_public();
SELECT flowguard._grant_engine();

COMMIT;
