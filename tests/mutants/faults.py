"""The faults that `make mutants` puts into the engine, each with the tests that must notice it.

`find` is the text of a deploy script that goes, `replace` what comes for it. The text must be there exactly `times`
times: a fault that no longer applies is an error, not a fault that was caught. The engine must still run with it. Where
a look-up is meant, the text is that of the compiler, so that every generated function has the fault.
"""

from __future__ import annotations

from dataclasses import dataclass

ENFORCE = "tests/engine/test_enforce.py"
FOLLOWERS = "tests/engine/test_followers.py"
LATE = "tests/engine/test_late_linking.py"
GUARD = "tests/engine/test_guard.py"
NEAREST = "tests/engine/test_nearest.py"
REGISTRATION = "tests/engine/test_registration.py"
CONCURRENCY = "tests/concurrency/test_references.py"
UNDO = "tests/repair/test_undo.py"
UNDO_WORK = "tests/repair/test_undo_work.py"
RESUMING = "tests/repair/test_resuming.py"
EXPLAIN = "tests/repair/test_explain.py"
PREVIEW = "tests/repair/test_preview.py"
ROW_FILTER = "tests/repair/test_row_filter.py"
COUNT_CANDIDATES = "tests/repair/test_count_candidates.py"
POLICIES = "tests/repair/test_policies.py"
QUARANTINE = "tests/repair/test_quarantine.py"
PARTITIONS = "tests/engine/test_partitions.py"
ATTACK = "tests/neighbours/test_attack.py"
REPAIR_BY_TIME = "tests/repair/test_by_time.py"
RENAMES = "tests/survival/test_renames.py"
DUMPS = "tests/survival/test_dumps.py"
LOGICAL = "tests/survival/test_logical_replication.py"
ESTIMATE = "tests/health/test_estimate.py"
HISTORY = "tests/health/test_history.py"
DOCTOR = "tests/drift/test_doctor.py"
PROVENANCE = "tests/engine/test_provenance.py"
REGISTRY = "tests/concurrency/test_registry.py"
COLUMNS = "tests/neighbours/test_columns.py"


@dataclass(frozen=True)
class Fault:
    """A deliberate fault: what it breaks, of which part of DESIGN, and where it is put."""

    name: str
    breaks: str
    design: str
    file: str
    find: str
    replace: str
    tests: tuple[str, ...]
    times: int = 1
    kills: bool = False
    """It must keep the engine from being deployed at all, which shows that the copy's scripts are what is deployed."""


PROOF = Fault(
    name="nothing can be deployed",
    breaks="The proof that the tests run on the scripts with the fault: every test must fail.",
    design="7",
    file="compiler.sql",
    find="BEGIN;\nSET LOCAL search_path = pg_catalog, pg_temp;\n",
    replace="BEGIN;\nSELECT 1 / 0;\n",
    tests=(),
    kills=True,
)

BY_TIME = [
    Fault(
        name="window exclusive before the row",
        breaks="A source exactly one window before the row is not found.",
        design="3.5",
        file="compiler.sql",
        find="AND s.%5$I OPERATOR(pg_catalog.>=) (%7$s OPERATOR(pg_catalog.-) %8$s)\n         ORDER BY s.%5$I DESC",
        replace="AND s.%5$I OPERATOR(pg_catalog.>) (%7$s OPERATOR(pg_catalog.-) %8$s)\n         ORDER BY s.%5$I DESC",
        tests=(NEAREST,),
    ),
    Fault(
        name="window exclusive after the row",
        breaks="A source exactly one window after the row is not found.",
        design="3.5",
        file="compiler.sql",
        find="AND s.%5$I OPERATOR(pg_catalog.<=) (%7$s OPERATOR(pg_catalog.+) %8$s)\n         ORDER BY",
        replace="AND s.%5$I OPERATOR(pg_catalog.<) (%7$s OPERATOR(pg_catalog.+) %8$s)\n         ORDER BY",
        tests=(NEAREST,),
    ),
    Fault(
        name="window exclusive in the fallback query",
        breaks="Where the nearest source has no master, one exactly a window after the row is not found.",
        design="3.5",
        file="compiler.sql",
        find=("AND s.%2$I OPERATOR(pg_catalog.<=) (%3$s '\n      'OPERATOR(pg_catalog.+) %4$s)"),
        replace=("AND s.%2$I OPERATOR(pg_catalog.<) (%3$s '\n      'OPERATOR(pg_catalog.+) %4$s)"),
        tests=(NEAREST,),
    ),
    Fault(
        name="window exclusive when a source comes late",
        breaks="A source that appears exactly one window before a row does not link it.",
        design="3.5, 4 late linking",
        file="compiler.sql",
        find="' AND %1$s.%2$I OPERATOR(pg_catalog.<=) (NEW.%3$I OPERATOR(pg_catalog.+) %4$s)'",
        replace="' AND %1$s.%2$I OPERATOR(pg_catalog.<) (NEW.%3$I OPERATOR(pg_catalog.+) %4$s)'",
        tests=(LATE,),
    ),
    Fault(
        name="tie to the later row",
        breaks="Of two sources equally far from the row the later one is taken.",
        design="3.5",
        file="compiler.sql",
        find="OPERATOR(pg_catalog.<) (%7$s OPERATOR(pg_catalog.-) v_before_%1$s)) THEN",
        replace="OPERATOR(pg_catalog.<=) (%7$s OPERATOR(pg_catalog.-) v_before_%1$s)) THEN",
        tests=(NEAREST,),
    ),
    Fault(
        name="tie to the later row in the fallback query",
        breaks="The same where the nearest source has no master.",
        design="3.5",
        file="compiler.sql",
        find="'                   ELSE n.at OPERATOR(pg_catalog.-) %3$s END, n.at\\n'",
        replace="'                   ELSE n.at OPERATOR(pg_catalog.-) %3$s END, n.at DESC\\n'",
        tests=(NEAREST,),
    ),
    Fault(
        name="tie to the larger key",
        breaks="Of two sources of the same time the one with the larger key is taken.",
        design="3.5",
        file="compiler.sql",
        find=(
            "flowguard._window_sql(p_rule), flowguard._columns_sql(flowguard._row_key(p_rule.source), 's.'),\n"
            "        flowguard._nearest_query("
        ),
        replace=(
            "flowguard._window_sql(p_rule), "
            "flowguard._columns_sql(flowguard._row_key(p_rule.source), 's.') || ' DESC',\n"
            "        flowguard._nearest_query("
        ),
        tests=(NEAREST,),
    ),
    Fault(
        name="tie to the larger key in the fallback query",
        breaks="The same where the nearest source has no master.",
        design="3.5",
        file="compiler.sql",
        find="v_time, flowguard._window_sql(p_rule), flowguard._columns_sql(v_key, 's.'));",
        replace="v_time, flowguard._window_sql(p_rule), flowguard._columns_sql(v_key, 's.') || ' DESC');",
        tests=(NEAREST,),
    ),
    Fault(
        name="a row of the present takes the latest source",
        breaks="The short cut for rows of the present is believed where a source lies after the row.",
        design="3.5",
        file="compiler.sql",
        find="        EXIT WHEN v_before_%1$s IS NULL OR v_before_%1$s OPERATOR(pg_catalog.<=) %7$s;\n",
        replace="        EXIT;\n",
        tests=(NEAREST,),
    ),
    Fault(
        name="no fallback where the nearest source has no master",
        breaks="A source with a dangling link hides the next one.",
        design="3.5, 3.6",
        file="compiler.sql",
        find="SELECT x.link%13$s INTO v_link%14$s FROM (\n     %10$s) x;",
        replace="SELECT x.link%13$s INTO v_link%14$s FROM (\n     %10$s) x WHERE false;",
        tests=(NEAREST,),
    ),
    Fault(
        name="infinite time not excluded",
        breaks="A row at infinity makes the write fail.",
        design="3.5",
        file="compiler.sql",
        find=(
            "SELECT format('%1$s OPERATOR(pg_catalog.>) ''4000-01-01 00:00:00+00 BC'' AND "
            "%1$s OPERATOR(pg_catalog.<) '\n                '''290000-01-01 00:00:00+00''', p_time);"
        ),
        replace="SELECT format('%1$s IS NOT NULL', p_time);",
        tests=(LATE,),
    ),
    Fault(
        name="source filter ignored",
        breaks="A source that the filter of its rule excludes gives its link.",
        design="3.5",
        file="compiler.sql",
        find="p_rule.source, p_rule.source_filter);",
        replace="p_rule.source, 'true');",
        tests=(NEAREST,),
    ),
    Fault(
        name="on_ambiguous leave ignored",
        breaks="A row with two masters in its window is linked to one of them.",
        design="3.5",
        file="compiler.sql",
        find=(
            "      IF r_rule.on_ambiguous = 'leave' THEN\n"
            "        v_text := v_text || format(\n"
            "          E'      IF v_link IS NOT NULL AND EXISTS ("
        ),
        replace=(
            "      IF false THEN\n"
            "        v_text := v_text || format(\n"
            "          E'      IF v_link IS NOT NULL AND EXISTS ("
        ),
        tests=(NEAREST,),
    ),
]

TENANTS = [
    Fault(
        name="tenant left out of a look-up by time",
        breaks="A source of another tenant gives its link.",
        design="3.5, 9 (a)",
        file="compiler.sql",
        find=(
            "                flowguard._match_tenants(p_rule.source, p_rule.source_tenant_columns, 's.', "
            "p_link.relation,\n"
            "                                         p_link.tenant_columns,\n"
            "                                         flowguard._row_refs(p_link, p_link.tenant_columns, p_style), "
            "true));\n"
        ),
        replace="                '');\n",
        tests=(NEAREST,),
    ),
    Fault(
        name="tenant left out of a look-up by reference",
        breaks="The link of a referenced row of another tenant is taken.",
        design="3.2, 9 (a)",
        file="compiler.sql",
        find=(
            "          flowguard._match_tenants(r_rule.source, r_rule.source_tenant_columns, 's.', p_link.relation,\n"
            "                                   p_link.tenant_columns,\n"
            "                                   flowguard._row_refs(p_link, p_link.tenant_columns, p_style), false),\n"
            "          v_find);\n"
        ),
        replace="          '',\n          v_find);\n",
        tests=(LATE,),
    ),
    Fault(
        name="tenant left out of the query for the master",
        breaks="A rule yields a master of another tenant, and the write is refused instead of left unlinked.",
        design="3.2, 3.6",
        file="compiler.sql",
        find="p_key,\n                flowguard._master_match(p_link, p_style, false));",
        replace="p_key, '');",
        tests=(ENFORCE,),
    ),
    Fault(
        name="foreign key to the master without the tenant",
        breaks="A link to another tenant's master is accepted.",
        design="3.2",
        file="guard.sql",
        find="      v_tenants || p_link.link_column, target, v_targets || v_master.key_column,\n",
        replace="      ARRAY[p_link.link_column], target, ARRAY[v_master.key_column],\n",
        tests=(LATE,),
    ),
    Fault(
        name="follow ignores the tenant",
        breaks="A late link moves rows of another tenant that refer to the row.",
        design="3.2, 4 late linking",
        file="compiler.sql",
        find=(
            "  END || flowguard._match_tenants(p_link.relation, p_link.tenant_columns, p_alias || '.', p_rule.source,\n"
            "                                  p_rule.source_tenant_columns,\n"
            "                                  flowguard._prefixed(p_rule.source_tenant_columns, 'NEW.'), "
            "p_rule.kind = 'proximity');\n"
        ),
        replace="  END;\n",
        tests=(LATE,),
    ),
    Fault(
        name="rows without a tenant accepted in enforce",
        breaks="A row with a link and no tenant is committed.",
        design="3.2",
        file="compiler.sql",
        find="    IF v_unknown IS NOT NULL THEN\n      v_tenantless :=",
        replace="    IF false THEN\n      v_tenantless :=",
        tests=(ENFORCE,),
    ),
    Fault(
        name="another tenant's alternate key translated",
        breaks="Repair takes the alternate key of another tenant's master for the row's.",
        design="5 alternate keys",
        file="repair.sql",
        find=(
            "    flowguard._match_tenants(v_master.relation, v_master.tenant_columns, 'a.', p_link.relation, "
            "p_link.tenant_columns,\n"
            "                             flowguard._row_refs(p_link, p_link.tenant_columns, 'b'), false),\n"
        ),
        replace="    '',\n",
        tests=(POLICIES,),
    ),
]

LOOKUPS = [
    Fault(
        name="no FOR KEY SHARE",
        breaks="A child that comes while its parent is linked misses the link for good.",
        design="3.3, 4 reference look-ups",
        file="compiler.sql",
        find="FROM %s s WHERE s.%I %s %s%s FOR KEY SHARE;",
        replace="FROM %s s WHERE s.%I %s %s%s;",
        tests=(CONCURRENCY,),
    ),
    Fault(
        name="no master join in a look-up",
        breaks="A look-up yields a link whose master is gone.",
        design="3.1, 3.6",
        file="compiler.sql",
        find="RETURN format('SELECT m.%1$I FROM %2$s m WHERE m.%1$I %3$s %4$s%5$s', ",
        replace="RETURN format('SELECT %4$s', ",
        tests=(LATE,),
    ),
    Fault(
        name="master not read again after a wait",
        breaks="A child that waited for its parent's link misses the master that came with it.",
        design="3.3, 4 reference look-ups",
        file="compiler.sql",
        find="          '      IF v_link IS NULL AND v_reference IS NOT NULL THEN\\n'\n          '        %s;\\n'\n",
        replace="          '      IF false THEN\\n'\n          '        %s;\\n'\n",
        tests=(LATE,),
    ),
    Fault(
        name="an agreeing reference without a link asks later rules",
        breaks="A row that should wait for its reference is linked by the next rule, and then disagrees.",
        design="3.3",
        file="compiler.sql",
        find="THEN E'      EXIT lookup;  -- agreed: linked as it, or waiting for it\\n'",
        replace="THEN E'      EXIT lookup WHEN v_link IS NOT NULL;\\n'",
        tests=(LATE,),
    ),
    Fault(
        name="a reference that need not agree stops the look-up",
        breaks="Later rules are not asked where the reference leads nowhere.",
        design="3.3",
        file="compiler.sql",
        find="ELSE E'      EXIT lookup WHEN v_link IS NOT NULL;\\n' END\n",
        replace="ELSE E'      EXIT lookup;\\n' END\n",
        tests=(LATE,),
    ),
    Fault(
        name="session rule asked at commit",
        breaks="The setting of a later moment links rows that were written without it.",
        design="2 session, 4 enforcement",
        file="compiler.sql",
        find="      CONTINUE WHEN p_style IN ('finder', 'kept finder');\n",
        replace=(
            "      IF p_style IN ('finder', 'kept finder') THEN\n"
            "        v_text := v_text || format(\n"
            "          E'    v_reference := NULLIF(pg_catalog.current_setting(%L, true), '''');\\n    %s;\\n'\n"
            "          '    EXIT lookup WHEN v_link IS NOT NULL;\\n',\n"
            "          flowguard._setting_name(p_link.link_column), v_find);\n"
            "        CONTINUE;\n"
            "      END IF;\n"
        ),
        tests=(ENFORCE,),
    ),
    Fault(
        name="session rule asked when a row moves",
        breaks="A row that moves to another reference gets the link of the setting, not the reference's.",
        design="3.3",
        file="compiler.sql",
        find="v_ask_session boolean := NEW.%I IS NULL;",
        replace="v_ask_session boolean := NEW.%I IS NULL OR true;",
        tests=(LATE,),
    ),
    Fault(
        name="an empty setting counts",
        breaks="A setting that was put back to nothing makes the write fail.",
        design="2 session",
        file="compiler.sql",
        find="'      IF v_setting OPERATOR(pg_catalog.<>) '''' THEN\\n'",
        replace="'      IF v_setting IS NOT NULL THEN\\n'",
        tests=(ENFORCE,),
    ),
    Fault(
        name="look-ups with the rights of who writes",
        breaks="Row security hides sources and masters from the rules.",
        design="4 row security",
        file="guard.sql",
        find="'trigger', true,\n           CASE WHEN p_bodies THEN flowguard._fill_body(p_link) END,",
        replace="'trigger', false,\n           CASE WHEN p_bodies THEN flowguard._fill_body(p_link) END,",
        tests=(f"{GUARD}::test_row_security_hides_nothing_from_the_rules",),
    ),
]

FILLING = [
    Fault(
        name="an explicit link overwritten",
        breaks="A value that the client gives is replaced by what the rules yield.",
        design="3.6",
        file="guard.sql",
        find="BEFORE INSERT ON %s FOR EACH ROW WHEN (NEW.%I IS NULL) %s'",
        replace="BEFORE INSERT ON %s FOR EACH ROW WHEN (NEW.%I IS NULL OR true) %s'",
        tests=(ENFORCE,),
    ),
    Fault(
        name="no refill of a link set to NULL",
        breaks="A link that is set to NULL stays NULL until the commit.",
        design="4 triggers",
        file="guard.sql",
        find="(OLD.%3$I IS NOT NULL%4$s)%5$s)",
        replace="(false%4$s)%5$s)",
        tests=(LATE,),
    ),
    Fault(
        name="a change of what the rules read is not noticed",
        breaks="An unlinked row whose tenant, reference or time changes is not filled by that statement.",
        design="4 triggers",
        file="guard.sql",
        find="v_changed := flowguard._changed_sql(relation, flowguard._read_columns(p_link));",
        replace="v_changed := NULL;",
        tests=(LATE,),
    ),
    Fault(
        name="a row that moves keeps the link of its old reference",
        breaks="A row that is moved to another agreeing reference does not take its link.",
        design="3.3",
        file="guard.sql",
        find="INTO v_moved FROM flowguard._rules(p_link) r WHERE r.agree;",
        replace="INTO v_moved FROM flowguard._rules(p_link) r WHERE false;",
        tests=(LATE,),
    ),
    Fault(
        name="our trigger comes before the application's",
        breaks="What a trigger of the application sets afterwards is not seen.",
        design="4 triggers",
        file="guard.sql",
        find="name := '~flowguard_' || p_link.stem || '_insert';",
        replace="name := 'flowguard_' || p_link.stem || '_insert';",
        tests=(ENFORCE,),
    ),
]

LATE_LINKING = [
    Fault(
        name="only a link that appears is followed",
        breaks="A -> B and A -> NULL leave the children with A.",
        design="4 late linking",
        file="compiler.sql",
        find="WHEN 'reference' THEN '%1$s%3$s'",
        replace="WHEN 'reference' THEN 'OLD.%2$I IS NULL AND NEW.%2$I IS NOT NULL%3$s'",
        tests=(LATE,),
    ),
    Fault(
        name="a link that goes is not followed",
        breaks="A -> NULL leaves the children with A.",
        design="4 late linking",
        file="compiler.sql",
        find="WHEN 'reference' THEN '%1$s%3$s'",
        replace="WHEN 'reference' THEN 'NEW.%2$I IS NOT NULL AND (%1$s%3$s)'",
        tests=(LATE,),
    ),
    Fault(
        name="follow moves rows that carry another link",
        breaks="A link that was set on purpose is replaced when the referenced row gets its own.",
        design="3.6, 4 late linking",
        file="compiler.sql",
        find="RETURN v_text || ' AND ' || flowguard._follow_still(p_link, p_rule, p_alias);",
        replace="RETURN v_text;",
        tests=(LATE,),
    ),
    Fault(
        name="a source in time moves rows that are linked",
        breaks="A nearer source that comes later moves a link that is set.",
        design="3.6, 4 late linking",
        file="compiler.sql",
        find=(
            "    flowguard._follow_target(p_link, p_rule, 'o', v_direct), v_limit,\n"
            "    flowguard._same_row_sql(p_link.relation, 'c.', 'f.'), flowguard._follow_still(p_link, p_rule, 'c'), "
            "v_equal,"
        ),
        replace=(
            "    regexp_replace(flowguard._follow_target(p_link, p_rule, 'o', v_direct),\n"
            "                   ' AND o[.]\\S+ IS NULL$', ''), v_limit,\n"
            "    flowguard._same_row_sql(p_link.relation, 'c.', 'f.'),\n"
            "    CASE p_rule.kind WHEN 'proximity' THEN 'true' ELSE flowguard._follow_still(p_link, p_rule, 'c') END, "
            "v_equal,"
        ),
        tests=(LATE,),
    ),
    Fault(
        name="rows that follow are found by the index on the link",
        breaks="A late link reads all rows that were written without one since the last vacuum.",
        design="4 budget",
        file="compiler.sql",
        find="  THEN '((%1$s.%2$I IS NULL) IS TRUE AND NEW.%4$I IS NOT NULL'\n",
        replace="  THEN '(%1$s.%2$I IS NULL AND NEW.%4$I IS NOT NULL'\n",
        tests=(LATE,),
    ),
    Fault(
        name="a later rule finds rows that follow by the index on the link",
        breaks="The same where other rules have a say before it.",
        design="4 budget",
        file="compiler.sql",
        find="  ELSE '((%1$s.%2$I IS NULL) IS TRUE'\n",
        replace="  ELSE '(%1$s.%2$I IS NULL'\n",
        tests=(LATE,),
    ),
    Fault(
        name="a source does not look whether a row waits",
        breaks="Each source that comes updates no rows, in time by a statement that is planned each time.",
        design="4 budget",
        file="compiler.sql",
        find="flowguard._names_check(p_link, 'NULL'), v_kept, v_look,",
        replace="flowguard._names_check(p_link, 'NULL'), v_kept, '',",
        tests=(LATE,),
    ),
    Fault(
        name="a source finds nobody waiting",
        breaks="Rows that wait for a source stay without a link.",
        design="4 late linking",
        file="compiler.sql",
        find="IF NOT FOUND THEN\\n    RETURN NULL;\\n'",
        replace="IF true THEN\\n    RETURN NULL;\\n'",
        tests=(LATE,),
    ),
    Fault(
        name="second look of late linking left out",
        breaks="A source that is linked before its master is there links nothing when the master comes.",
        design="4 enforcement, late linking",
        file="compiler.sql",
        find="RETURN NOT flowguard._is_direct(p_link, p_rule) AND p_rule.source <> v_master.relation\n",
        replace="RETURN false AND p_rule.source <> v_master.relation\n",
        tests=(LATE,),
    ),
    Fault(
        name="every key lets the master come first",
        breaks="The same where a key on the source is deferred or missing.",
        design="4 enforcement, late linking",
        file="guard.sql",
        find="SELECT EXISTS (SELECT FROM flowguard._foreign_keys(p_rule.source, p_rule.source_link) k\n",
        replace="SELECT true OR EXISTS (SELECT FROM flowguard._foreign_keys(p_rule.source, p_rule.source_link) k\n",
        tests=(LATE,),
    ),
    Fault(
        name="who guards a link forgets the others",
        breaks="The source calls only the link that was guarded last.",
        design="4 late linking",
        file="guard.sql",
        find="WHERE o.stem IS DISTINCT FROM p_link.stem AND to_regprocedure(o.called) IS NOT NULL\n",
        replace="WHERE false AND to_regprocedure(o.called) IS NOT NULL\n",
        tests=(FOLLOWERS,),
    ),
    Fault(
        name="a source goes on to call a link that is not guarded",
        breaks="unguard() leaves calls of what it takes away.",
        design="3.9",
        file="guard.sql",
        find="WHERE f.stem = p_link.stem\n",
        replace="WHERE false\n",
        tests=(FOLLOWERS,),
    ),
    Fault(
        name="a source that takes the key that rows wait for is not noticed",
        breaks="A row that a reference without a foreign key waits for, and that gets its key by UPDATE, links nobody.",
        design="4 late linking",
        file="compiler.sql",
        find="    WHEN NOT flowguard._is_backed(p_link, p_rule) THEN ARRAY[p_rule.source_key]\n",
        replace="",
        tests=(LATE,),
    ),
    Fault(
        name="a source that gets its tenant is not noticed",
        breaks="A source whose tenant becomes known links nobody.",
        design="4 late linking",
        file="compiler.sql",
        find="  RETURN array_remove(p_rule.source_tenant_columns || CASE\n",
        replace="  RETURN array_remove(CASE\n",
        tests=(LATE,),
    ),
    Fault(
        name="a source watches the columns of one of its links",
        breaks="A change that concerns another link alone is told to nobody.",
        design="4 late linking",
        file="guard.sql",
        find="                                                   WHERE o.link = f.link)) AS changed,\n",
        replace="WHERE o.columns = (SELECT min(x.columns) FROM follower x))) AS changed,\n",
        tests=(FOLLOWERS,),
    ),
    Fault(
        name="a source that moves is not asked about at commit",
        breaks="A row of the same moment that is committed first stays without a link.",
        design="4 late linking",
        file="guard.sql",
        find="concat_ws(' OR ', s.moved, s.asked) || ')', ' OR '\n",
        replace="s.moved || ')', ' OR '\n",
        tests=("tests/concurrency/test_sources.py",),
    ),
    Fault(
        name="a renamed column is watched by its old name",
        breaks="A guard of one link lets a source forget what another reads, which was renamed.",
        design="5 renames",
        file="guard.sql",
        find="ARRAY(SELECT coalesce(v_names ->> c.name, c.name)::name\n",
        replace="ARRAY(SELECT c.name::name\n",
        tests=(FOLLOWERS,),
    ),
    Fault(
        name="two guards write the triggers of a source at once",
        breaks="Whoever commits last takes the other's link away.",
        design="3.10 concurrent deploys",
        file="guard.sql",
        find="-- more, and as other links have them. One at a time, for what each writes is made from what is there.\n"
        "DECLARE\n  v_link   flowguard.link;\n  v_caller record;\n  r_object record;\nBEGIN\n"
        "  PERFORM flowguard._serialize();\n",
        replace="DECLARE\n  v_link   flowguard.link;\n  v_caller record;\n  r_object record;\nBEGIN\n",
        tests=(FOLLOWERS,),
    ),
    Fault(
        name="what follows is called whatever changed",
        breaks="A link is told of changes that concern another.",
        design="4 late linking",
        file="compiler.sql",
        find="IF TG_NARGS OPERATOR(pg_catalog.>=) 0 AND (%19$s) IS NOT TRUE\n",
        replace="IF false AND (%19$s) IS NOT TRUE\n",
        tests=(FOLLOWERS,),
    ),
]

AT_COMMIT = [
    Fault(
        name="unlinked rows looked at at once, not at commit",
        breaks="Children cannot be written before their parent's link in one transaction.",
        design="4 enforcement",
        file="guard.sql",
        find="'INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.%3$I IS NULL%4$s) '",
        replace="'INITIALLY IMMEDIATE FOR EACH ROW WHEN (NEW.%3$I IS NULL%4$s) '",
        tests=(ENFORCE,),
    ),
    Fault(
        name="unlinked rows accepted in enforce",
        breaks="A row without a link is committed.",
        design="3.4",
        file="compiler.sql",
        find="v_missing := format(E'  PERFORM flowguard._refuse_unlinked(%L, %L, v_key);\\n', ",
        replace="v_missing := format(E'  PERFORM %L, %L, v_key;\\n', ",
        tests=(ENFORCE,),
    ),
    Fault(
        name="rules not tried once more at commit",
        breaks="A source that came meanwhile is not found, and the row is refused.",
        design="4 enforcement",
        file="compiler.sql",
        find="  IF flowguard._has_finder(p_link) THEN\n    v_declared :=",
        replace="  IF false THEN\n    v_declared :=",
        tests=(ENFORCE,),
    ),
    Fault(
        name="key that proves agreement left out",
        breaks="A child with another link than its parent is committed in enforce.",
        design="3.3",
        file="guard.sql",
        find="  IF p_link.mode = 'enforce' THEN\n    FOR r_rule IN",
        replace="  IF false THEN\n    FOR r_rule IN",
        tests=(ENFORCE,),
    ),
    Fault(
        name="enforced although rows are not linked",
        breaks="set_mode accepts a table with unlinked rows.",
        design="3.4",
        file="guard.sql",
        find="    IF v_count.linked < v_count.total THEN\n      RAISE EXCEPTION",
        replace="    IF false THEN\n      RAISE EXCEPTION",
        tests=(REGISTRATION,),
    ),
    Fault(
        name="a ring of links accepted",
        breaks="Rules that wait for each other are registered.",
        design="4 rings",
        file="registration.sql",
        find="  IF v_ring IS NOT NULL THEN\n",
        replace="  IF false THEN\n",
        tests=(REGISTRATION,),
    ),
]

WAYS_ROUND = [
    Fault(
        name="a paused link is filled",
        breaks="pause() does not stop the trigger that fills.",
        design="4 ways round",
        file="compiler.sql",
        find="  IF p_link.paused THEN\n    RETURN flowguard._paused_body(p_link, 'NEW');",
        replace="  IF false THEN\n    RETURN flowguard._paused_body(p_link, 'NEW');",
        tests=(ENFORCE,),
    ),
    Fault(
        name="bypass lifts nothing",
        breaks="A transaction that is let past the guard is refused.",
        design="4 ways round",
        file="compiler.sql",
        find="flowguard._is_privileged('undo') OR flowguard._is_privileged('bypass') OR ",
        replace="flowguard._is_privileged('undo') OR ",
        tests=(ENFORCE,),
    ),
    Fault(
        name="the mark of a run forged by the setting alone",
        breaks="Who sets flowguard.privileged is let past the guard.",
        design="4 ways round",
        file="ledger.sql",
        find="  SELECT EXISTS (SELECT FROM flowguard.privileged_transaction t\n",
        replace=(
            "  SELECT current_setting('flowguard.privileged', true) = p_kind\n"
            "      OR EXISTS (SELECT FROM flowguard.privileged_transaction t\n"
        ),
        tests=(ENFORCE,),
    ),
    Fault(
        name="what undo unlinks is filled again",
        breaks="The trigger that fills does not know an undo.",
        design="3.7",
        file="compiler.sql",
        find="    IF flowguard._is_privileged('undo') THEN\n      RETURN NEW;",
        replace="    IF false THEN\n      RETURN NEW;",
        tests=(UNDO,),
    ),
    Fault(
        name="what undo unlinks is followed",
        breaks="Late linking moves rows that the run did not write.",
        design="3.7",
        file="compiler.sql",
        find="    IF flowguard._is_privileged('undo') THEN\n      RETURN NULL;",
        replace="    IF false THEN\n      RETURN NULL;",
        tests=(UNDO,),
    ),
    Fault(
        name="a trigger that is disabled passes for installed",
        breaks="guard() and check do not see that a trigger was switched off.",
        design="3.8, STYLE",
        file="guard.sql",
        find="WHEN EXISTS (SELECT FROM clone c WHERE c.enabled = 'D') THEN 'disabled'",
        replace="WHEN EXISTS (SELECT FROM clone c WHERE c.enabled = 'D') THEN 'installed'",
        tests=(GUARD,),
    ),
]

HOSTILE = [
    Fault(
        name="hostile: late links are written under the writer's path",
        breaks="Triggers of the application run what a writer planted in the path, as the owner.",
        design="4, 10",
        file="compiler.sql",
        find="~IF NOT pg_catalog.pg_has_role(session_user, current_user, ''MEMBER'') THEN",
        replace="~IF false THEN",
        tests=(ATTACK,),
    ),
    Fault(
        name="hostile: a schema in which others may create is on the path",
        breaks="As before, by what lies in a schema of the application itself.",
        design="4, 10",
        file="compiler.sql",
        find="WHERE a.privilege_type = 'CREATE' AND NOT flowguard._is_trusted(a.grantee)));",
        replace="WHERE false));",
        tests=(ATTACK,),
    ),
    Fault(
        name="hostile: whose schema it is does not matter",
        breaks="As before, by what lies in the writer's own schema.",
        design="4, 10",
        file="compiler.sql",
        find="RETURN p_role = (SELECT d.datdba",
        replace="RETURN true OR p_role = (SELECT d.datdba",
        tests=(ATTACK,),
    ),
]

PARTITIONED = [
    Fault(
        name="partitions: a trigger that is disabled on one passes for installed",
        breaks="guard() and check look at the triggers of the whole table only.",
        design="3.8, 9",
        file="guard.sql",
        find="FROM clone c JOIN pg_trigger t ON t.tgparentid = c.id",
        replace="FROM clone c JOIN pg_trigger t ON t.tgparentid = c.id AND false",
        tests=(PARTITIONS,),
    ),
    Fault(
        name="partitions: PostgreSQL makes the indexes of all at once",
        breaks="It takes over an index that the application has on one, which is gone after unguard().",
        design="3.9, 9",
        file="guard.sql",
        find="'%s%I ON ONLY %s'",
        replace="'%s%I ON %s'",
        tests=(PARTITIONS,),
    ),
    Fault(
        name="partitions: an index that waits to be attached is dropped",
        breaks="A guard that was stopped cannot go on.",
        design="3.8, 9",
        file="guard.sql",
        find="WHERE x.name = c.relname)",
        replace="WHERE x.name = c.relname AND false)",
        tests=(PARTITIONS,),
    ),
    Fault(
        name="partitions: quarantine does not see keys to one of them",
        breaks="Rows that refer to a partition by name are lost when its row goes.",
        design="3.7, 9",
        file="repair.sql",
        find="AND c.confrelid = ANY (flowguard._partition_family(p_relation))",
        replace="AND c.confrelid = p_relation",
        tests=(PARTITIONS,),
    ),
    Fault(
        name="partitions: one and the whole are both guarded",
        breaks="guard() of a partition that has keys of the whole makes its own anew, and ends in 42710.",
        design="5, 9",
        file="guard.sql",
        find="  PERFORM flowguard._check_alone(v_link.relation, v_link.link_column);\n",
        replace="",
        tests=(PARTITIONS,),
        times=2,
    ),
    Fault(
        name="partitions: what one keeps that was detached is part of every guard",
        breaks="check calls the guard of each link incomplete, whose tables are none of it.",
        design="5, 9",
        file="health.sql",
        find="v_left  regclass[] := flowguard._left_tables();",
        replace="v_left  regclass[] := '{}';",
        tests=(PARTITIONS,),
    ),
]

REPAIRING = [
    Fault(
        name="repair: tie to the later row",
        breaks="Of two sources that are as far away the later is taken.",
        design="3.5",
        file="compiler.sql",
        find="OPERATOR(pg_catalog.<=) (y.at OPERATOR(pg_catalog.-) %2$s) THEN x.link",
        replace="OPERATOR(pg_catalog.<) (y.at OPERATOR(pg_catalog.-) %2$s) THEN x.link",
        tests=(REPAIR_BY_TIME,),
    ),
    Fault(
        name="repair: the next source is not asked where the nearest has no master",
        breaks="A row stays unlinked because of a source that points to no master.",
        design="3.5, 3.6",
        file="compiler.sql",
        find="SELECT COALESCE(k.link, CASE WHEN n.link IS NOT NULL THEN",
        replace="SELECT COALESCE(k.link, CASE WHEN false THEN",
        tests=(REPAIR_BY_TIME,),
    ),
    Fault(
        name="repair: a source that points to no master is believed",
        breaks="A dangling link is written.",
        design="3.1, 3.6",
        file="compiler.sql",
        find="LEFT JOIN LATERAL (SELECT (%8$s) AS link OFFSET 0) k",
        replace="LEFT JOIN LATERAL (SELECT n.link OFFSET 0) k",
        tests=(REPAIR_BY_TIME,),
    ),
    Fault(
        name="repair: a later reference is not asked",
        breaks="A row whose first reference gives nothing stays unlinked.",
        design="2 rule",
        file="repair.sql",
        find="AND b.%5$I IS NOT NULL AND %12$s OFFSET 0) m%2$s ON true'",
        replace="AND b.%5$I IS NOT NULL AND %12$s AND false OFFSET 0) m%2$s ON true'",
        tests=(REPAIR_BY_TIME,),
    ),
    Fault(
        name="repair: how far a source was is kept as nothing",
        breaks="Whoever looks at the ledger, or chooses a window, takes guesses for certainties.",
        design="3.5",
        file="compiler.sql",
        find="           CASE WHEN k.link IS NOT NULL THEN n.distance\n",
        replace="           CASE WHEN k.link IS NOT NULL THEN INTERVAL '0'\n",
        tests=(EXPLAIN,),
    ),
    Fault(
        name="repair: two candidates on one side count as one",
        breaks="A link that was a choice is told as the only one that could be.",
        design="3.5",
        file="repair.sql",
        find="CASE WHEN m%1$s.is_between THEN 2 ELSE (%2$s) END'",
        replace="CASE WHEN m%1$s.is_between THEN 2 ELSE 1 END'",
        tests=(EXPLAIN,),
    ),
    Fault(
        name="repair: a run that is to count candidates stops at two",
        breaks="A link that was chosen from many is told as one that was chosen from two.",
        design="5 repair",
        file="repair.sql",
        find="CASE WHEN NOT p_count_candidates THEN 2 END",
        replace="2",
        tests=(COUNT_CANDIDATES,),
    ),
    Fault(
        name="explain: a run that counted is told as one that did not",
        breaks="Two candidates are told as two or more by a run that knows better.",
        design="5 repair",
        file="preview.sql",
        find="r_change.candidates = 2 AND v_counted IS NOT TRUE THEN",
        replace="r_change.candidates = 2 THEN",
        tests=(COUNT_CANDIDATES,),
    ),
    Fault(
        name="repair: a condition may close the brackets around it",
        breaks="A run that is to be of some rows is of all.",
        design="5 repair",
        file="repair.sql",
        find=(
            "  OPEN v_rows NO SCROLL FOR EXECUTE pg_catalog.format(E'SELECT 1 FROM %s WHERE %s\\n', p_relation, "
            "p_row_filter);\n  CLOSE v_rows;\n"
        ),
        replace="",
        tests=(ROW_FILTER,),
    ),
    Fault(
        name="repair: what remains is counted of all rows",
        breaks="A run of some rows tells of others that it was not to look at.",
        design="5 repair",
        file="repair.sql",
        find="flowguard._judged_rows(p_links[1], p_row_filter), flowguard._judgement(p_links[1]))",
        replace="flowguard._judged_rows(p_links[1]), flowguard._judgement(p_links[1]))",
        tests=(ROW_FILTER,),
    ),
    Fault(
        name="preview: rows that wait for a reference lie outside a window",
        breaks="Rows that no window would link are counted for a larger one.",
        design="5 repair",
        file="preview.sql",
        find="      v_reached := v_reached || format(' AND c.%I IS NULL', r_rule.via_column);\n",
        replace="      NULL;\n",
        tests=(PREVIEW,),
    ),
    Fault(
        name="rows that follow a repair are not logged",
        breaks="undo() leaves the links that late linking wrote because of the run.",
        design="3.7",
        file="compiler.sql",
        find="    v_run := flowguard._current_run();\n",
        replace="    v_run := NULL;\n",
        tests=(UNDO,),
    ),
    Fault(
        name="undo writes over what changed since",
        breaks="A link that somebody set after the run is put back to what was before it.",
        design="3.7",
        file="repair.sql",
        find="     WHERE %6$s AND (r.new_link IS NULL AND c.%3$I IS NULL OR c.%3$I %7$s r.new_link::%5$s)\n",
        replace="     WHERE %6$s\n",
        tests=(UNDO,),
    ),
    Fault(
        name="repair: where a stopped run goes on is not written down",
        breaks="A run that was stopped looks at all rows again.",
        design="5 resumable",
        file="repair.sql",
        find="     SET after_key = coalesce(nullif(p_counts -> 'after', 'null'), k.last_key),\n",
        replace="     SET after_key = k.after_key,\n",
        tests=(RESUMING,),
    ),
    Fault(
        name="repair: a stopped run goes on though its rules are others",
        breaks="Rows that it came to before are not looked at by the new rules.",
        design="5 resumable",
        file="repair.sql",
        find="             AND k.query_hash = md5(flowguard._repair_query(l, p_row_filter, p_count_candidates))))\n",
        replace="))\n",
        tests=(RESUMING,),
    ),
    Fault(
        name="repair: whatever is prepared under the batch's name is its batch",
        breaks="The batch of the link before runs instead.",
        design="3.7",
        file="repair.sql",
        find="IF v_prepared IS NULL OR v_prepared OPERATOR(pg_catalog.<>) v_prepare THEN",
        replace="IF v_prepared IS NULL THEN",
        tests=("tests/repair/test_pace.py",),
    ),
    Fault(
        name="undo in parts looks only at the part",
        breaks="Half of a run is put back, and then it turns out that the other half may not be.",
        design="3.7",
        file="repair.sql",
        find="v_run.status OPERATOR(pg_catalog.=) 'undoing' THEN",
        replace="true THEN",
        tests=(UNDO,),
    ),
    Fault(
        name="undo in parts looks again at what it has undone",
        breaks="The later calls of a large undo take longer and longer.",
        design="4",
        file="repair.sql",
        find="  v_until := coalesce(v_run.undone_from, 9223372036854775807);\n",
        replace="  v_until := 9223372036854775807;\n",
        tests=(UNDO_WORK,),
    ),
    Fault(
        name="undo in parts looks at all that is left in the quarantine",
        breaks="Each call of a large undo takes as long as a look at all of it.",
        design="4",
        file="repair.sql",
        find="             AND ROW(q.run_id, q.quarantine_id) OPERATOR(pg_catalog.<=) ROW(p_run, v_last_row)\n",
        replace="",
        tests=(UNDO_WORK,),
    ),
    Fault(
        name="undo in parts finds its rows by their number alone",
        breaks="Once the quarantine is analysed, each part reads all rows that are back: quadratic.",
        design="5 undo",
        file="repair.sql",
        find="       WHERE ROW(q.run_id, q.quarantine_id) OPERATOR(pg_catalog.>) ROW(p_run, 0)\n"
        "         AND ROW(q.run_id, q.quarantine_id) OPERATOR(pg_catalog.<=) ROW(p_run, 9223372036854775807)\n"
        "         AND q.restored_at IS NULL\n"
        "       ORDER BY q.run_id, q.quarantine_id\n",
        replace="       WHERE q.run_id OPERATOR(pg_catalog.=) p_run AND q.restored_at IS NULL\n"
        "       ORDER BY q.quarantine_id\n",
        tests=(f"{UNDO_WORK}::test_quarantined_rows",),
    ),
    Fault(
        name="what a delete cascades to is not kept",
        breaks="Children of a quarantined row are lost.",
        design="3.7",
        file="repair.sql",
        find="AND c.confdeltype IN ('c', 'n', 'd')",
        replace="AND c.confdeltype IN ('n', 'd')",
        tests=(QUARANTINE,),
    ),
    Fault(
        name="what a delete cascades to is kept without a lock",
        breaks="What another session writes to it meanwhile is lost.",
        design="3.7",
        file="repair.sql",
        find="'FOR UPDATE OF k) x',",
        replace="') x',",
        tests=("tests/concurrency/test_repairs.py",),
    ),
]

SURVIVING = [
    Fault(
        name="what has taken a name is believed",
        breaks="A table or column that has taken another one's name is read in its place.",
        design="5",
        file="compiler.sql",
        find="  IF NOT flowguard._names_hold(",
        replace="  IF false AND flowguard._names_hold(",
        tests=(f"{RENAMES}::test_two_tables_that_swap_names",),
    ),
    Fault(
        name="foreign keys are not asked what they refer to",
        breaks="Another column that has taken the name of the key of a source or of the master is read in its place.",
        design="5",
        file="diagnosis.sql",
        find="     AND (SELECT count(*) = cardinality(p_own)\n",
        replace="     AND (SELECT true OR count(*) = 0\n",
        tests=(f"{RENAMES}::test_a_column_whose_name_another_one_has_taken",),
    ),
    Fault(
        name="the view of a filter stays as it is",
        breaks="A filter goes on to read the column that had the name before.",
        design="5",
        file="compiler.sql",
        find="             AND right(obj_description(to_regclass(v.name), 'pg_class'), 32)\n",
        replace="             AND to_regclass(v.name) IS NULL\n"
        "             AND right(obj_description(to_regclass(v.name), 'pg_class'), 32)\n",
        tests=(f"{RENAMES}::test_guard_takes_the_column_of_a_filter_that_has_the_name_now",),
    ),
    Fault(
        name="a trigger is known by its number",
        breaks="After a dump and restore every trigger is taken for outdated.",
        design="3.10",
        file="guard.sql",
        find="md5(pg_get_triggerdef(p_trigger)),\n",
        replace="md5(pg_get_triggerdef(p_trigger) || p_trigger::text),\n",
        tests=(f"{DUMPS}::test_a_plain_dump",),
    ),
    Fault(
        name="a trigger may fire while changes are applied",
        breaks="ENABLE ALWAYS is not noticed: a subscriber links what arrives a second time.",
        design="3.10",
        file="guard.sql",
        find="WHEN EXISTS (SELECT FROM clone c WHERE c.enabled <> 'O')\n",
        replace="WHEN EXISTS (SELECT FROM clone c WHERE c.enabled = 'X')\n",
        tests=(f"{LOGICAL}::test_a_guard_that_would_fire_while_changes_are_applied_is_found",),
    ),
    Fault(
        name="a change of the registry that was not seen is passed over",
        breaks="Two sessions that each see the registry of before close a ring of links, or unmake each other's guard.",
        design="3.10",
        file="catalog.sql",
        find="ELSE pg_visible_in_snapshot(v_last::text::xid8, pg_current_snapshot()) END;",
        replace="ELSE true END;",
        tests=(f"{REGISTRY}::test_two_rules_that_would_close_a_ring", f"{REGISTRY}::test_two_links_of_one_source"),
    ),
    Fault(
        name="who was refused for what it did not see goes back to a savepoint and is let through",
        breaks="The second try in the same transaction changes the registry, of which it still sees the one of before.",
        design="3.10",
        file="catalog.sql",
        find="CASE v_last WHEN v_own THEN v_had_it",
        replace="CASE v_last WHEN v_own THEN true",
        tests=(f"{REGISTRY}::test_whoever_was_refused_goes_back_to_a_savepoint",),
    ),
    Fault(
        name="what a broken link needs is dropped when another one is guarded",
        breaks="After a column was renamed, guarding another link takes the indexes of the broken one.",
        design="5 renames",
        file="guard.sql",
        find="       WHERE NOT g.is_alive AND t.relation IS NOT NULL\n",
        replace="       WHERE false\n",
        tests=(f"{RENAMES}::test_what_serves_a_broken_link_stays_while_others_are_guarded",),
    ),
    Fault(
        name="columns of a key are all compared by the first one's operator",
        breaks="Batches over keys of types with operators of their own fail, or pass over rows.",
        design="5 repair",
        file="repair.sql",
        find="(SELECT k.n, format('%s.%I', p_alias, k.name) AS name, o.at_least, o.beyond,\n",
        replace="(SELECT k.n, format('%s.%I', p_alias, k.name) AS name,\n"
        "                   first_value(o.at_least) OVER (ORDER BY k.n) AS at_least,\n"
        "                   first_value(o.beyond) OVER (ORDER BY k.n) AS beyond,\n",
        tests=(f"{COLUMNS}::test_keys_whose_columns_are_compared_each_in_its_own_way",),
    ),
    Fault(
        name="doctor takes what a subscription writes for guarded",
        breaks="Rows that came past triggers and keys are no finding where nobody else looks.",
        design="3 part 6",
        file="doctor.sql",
        find="CONTINUE WHEN v_written IS NULL;",
        replace="CONTINUE;",
        tests=(f"{LOGICAL}::test_what_the_subscriber_would_refuse_arrives_and_is_counted",),
    ),
]

MEASURING = [
    Fault(
        name="estimate: a key with a NULL in it proves",
        breaks="Rows without a tenant, which MATCH SIMPLE passes over, are told as proved.",
        design="6",
        file="estimate.sql",
        find="IF p_key.confmatchtype <> 'f' AND v_columns <> '{}' THEN",
        replace="IF p_key.confmatchtype = 'f' AND v_columns <> '{}' THEN",
        tests=(f"{ESTIMATE}::test_what_is_not_proved_is_named_and_not_guessed",),
    ),
    Fault(
        name="estimate: a disabled key proves",
        breaks="What is written while a key's triggers are disabled is told as proved.",
        design="6",
        file="estimate.sql",
        find="WHERE t.tgenabled NOT IN ('O', 'A')",
        replace="WHERE t.tgenabled NOT IN ('O', 'A', 'D')",
        tests=(f"{ESTIMATE}::test_a_gap_in_the_proof_is_named",),
    ),
    Fault(
        name="estimate: a key proves what a subscription writes",
        breaks="100.0 is told of a subscriber where every row dangles.",
        design="6",
        file="estimate.sql",
        find="ELSIF v_written IS NOT NULL THEN",
        replace="ELSIF false THEN",
        tests=(f"{LOGICAL}::test_keys_prove_nothing_of_what_a_subscription_writes",),
    ),
    Fault(
        name="estimate: old statistics choose how unlinked rows are counted",
        breaks="A large table is read as a whole where it was analysed before its rows were linked.",
        design="6",
        file="estimate.sql",
        find="SET enable_seqscan = off SET enable_bitmapscan = off",
        replace="SET enable_bitmapscan = off",
        tests=(f"{ESTIMATE}::test_old_statistics_do_not_let_the_table_be_read",),
    ),
    Fault(
        name="estimate: what is not proved is all right",
        breaks="100.0 is told of what nobody has counted.",
        design="6",
        file="estimate.sql",
        find="CASE WHEN r_proof.quality IS NULL THEN 100 ELSE 99.9 END",
        replace="100::numeric",
        tests=(f"{ESTIMATE}::test_100_only_where_nothing_is_left_to_fix_or_to_prove",),
    ),
    Fault(
        name="history: an estimate is compared with a count",
        breaks="The change of a snapshot is that between two ways to measure.",
        design="5",
        file="history.sql",
        find="PARTITION BY s.exact, l.schema_name",
        replace="PARTITION BY l.schema_name",
        tests=(f"{HISTORY}::test_like_is_compared_with_like",),
    ),
]

DRIFTING = [
    Fault(
        name="doctor: a trigger of a partition fires otherwise",
        breaks="A partition whose trigger was set to fire on replicas only is taken for guarded.",
        design="3.2, 5",
        file="guard.sql",
        find="WHEN EXISTS (SELECT FROM clone c WHERE c.enabled <> 'O')\n",
        replace="WHEN t.tgenabled <> 'O'\n",
        tests=(f"{DOCTOR}::test_a_trigger_of_a_partition_alone",),
    ),
    Fault(
        name="doctor: what PostgreSQL checks keys by may be disabled",
        breaks="A key whose triggers are disabled is taken for one that holds.",
        design="5",
        file="doctor.sql",
        find="AND t.tgisinternal AND t.tgenabled IN ('D', 'R')",
        replace="AND t.tgisinternal AND t.tgenabled IN ('R')",
        tests=(f"{DOCTOR}::test_a_defect_is_found_and_its_remedy_mends_it[deleting masters is not checked]",),
    ),
    Fault(
        name="doctor: another trigger may come after ours",
        breaks="What changes the link that was filled is not found.",
        design="4",
        file="doctor.sql",
        find="AND t.tgname > w.name::name",
        replace="AND t.tgname < w.name::name",
        tests=(f"{DOCTOR}::test_a_defect_is_found_and_its_remedy_mends_it[another trigger comes later]",),
    ),
    Fault(
        name="doctor: a trigger that is no BEFORE ROW is in our way",
        breaks="A trigger that changes nothing is called drift.",
        design="4",
        file="doctor.sql",
        find="WHERE w.name = format('~flowguard_%s_%s', p_link.stem, e.event)\n     AND t.tgtype & 3 = 3",
        replace="WHERE w.name = format('~flowguard_%s_%s', p_link.stem, e.event)\n     AND t.tgtype & 1 = 1",
        tests=(f"{DOCTOR}::test_a_trigger_that_comes_before_ours_or_after_the_row_may_do_as_it_likes",),
    ),
    Fault(
        name="doctor: whoever calls is asked for his rights",
        breaks="The rights of the caller are looked at, not of whom the functions run as.",
        design="4",
        file="doctor.sql",
        find="CROSS JOIN LATERAL flowguard._rights(p_link, o.id) r",
        replace="CROSS JOIN LATERAL flowguard._rights(p_link, quote_ident(current_user)::regrole) r",
        tests=(f"{DOCTOR}::test_a_guard_that_belongs_to_another_role_than_the_engine",),
    ),
    Fault(
        name="doctor: the view of a filter may let other rows through",
        breaks="A view that somebody replaced, so that rows get links of other sources, is not found.",
        design="4",
        file="compiler.sql",
        find="pg_get_viewdef(c.oid), '[[:<:]]s[.]', '', 'g')",
        replace="pg_get_viewdef(c.oid), 'WHERE.*', '', 'g')",
        tests=(f"{DOCTOR}::test_a_defect_is_found_and_its_remedy_mends_it[a view lets other rows through]",),
    ),
    Fault(
        name="doctor: a function that its owner may not call is not found",
        breaks="Writes end with an error at commit, and doctor finds nothing.",
        design="4",
        file="doctor.sql",
        find="ON m.owner = o.id AND NOT has_function_privilege(",
        replace="ON m.owner <> o.id AND NOT has_function_privilege(",
        tests=(f"{DOCTOR}::test_a_defect_is_found_and_its_remedy_mends_it[the owner of a function may not call it]",),
    ),
    Fault(
        name="doctor: any owner of a function is to get rights on the table",
        breaks="Who was given a function by mistake is to be given the tables as well.",
        design="4",
        file="doctor.sql",
        find="     ORDER BY u.oid = c.relowner DESC, count(*) DESC, u.rolname LIMIT 1\n",
        replace="     ORDER BY u.oid = c.relowner, count(*), u.rolname LIMIT 1\n",
        tests=(f"{DOCTOR}::test_a_defect_is_found_and_its_remedy_mends_it[a function changes hands]",),
    ),
    Fault(
        name="doctor: row security that binds the owner is not found",
        breaks="Look-ups of the guard find nothing, and nobody says so.",
        design="4",
        file="guard.sql",
        find="c.relrowsecurity AND (c.relforcerowsecurity OR NOT o.is_owner)",
        replace="c.relrowsecurity AND NOT o.is_owner",
        tests=(f"{DOCTOR}::test_a_defect_is_found_and_its_remedy_mends_it[row security is forced]",),
    ),
    Fault(
        name="doctor: a new table with a link column is not found",
        breaks="A table that nobody guards stays unknown.",
        design="5",
        file="doctor.sql",
        find="WHERE t.type = k.type",
        replace="WHERE t.type <> k.type",
        tests=(f"{DOCTOR}::test_of_a_partitioned_table_the_whole_is_named",),
    ),
    Fault(
        name="doctor: a partition is a table of its own",
        breaks="Each partition of a table is reported beside the whole.",
        design="9",
        file="doctor.sql",
        find="AND NOT c.relispartition",
        replace="AND true",
        tests=(f"{DOCTOR}::test_of_a_partitioned_table_the_whole_is_named",),
    ),
    Fault(
        name="doctor: a setting of another database counts",
        breaks="A setting that concerns no session here is called drift.",
        design="5",
        file="doctor.sql",
        find="WHERE s.setdatabase IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))\n"
        "     AND",
        replace="WHERE",
        tests=(f"{DOCTOR}::test_a_setting_of_another_database_or_another_value_is_no_matter",),
    ),
    Fault(
        name="doctor: what the setting is does not count",
        breaks="session_replication_role = origin is called drift.",
        design="5",
        file="doctor.sql",
        find="lower(c.setting) = 'session_replication_role=replica'",
        replace="lower(c.setting) LIKE 'session_replication_role=%'",
        tests=(f"{DOCTOR}::test_a_setting_of_another_database_or_another_value_is_no_matter",),
    ),
    Fault(
        name="doctor: everybody's rights on tables are not looked at",
        breaks="PUBLIC may read the registry.",
        design="5",
        file="doctor.sql",
        find="c.relkind IN ('r', 'v', 'p')",
        replace="c.relkind IN ('p')",
        tests=(f"{DOCTOR}::test_everything_that_everybody_may_do_is_told_and_revoked",),
    ),
    Fault(
        name="doctor: what guard() would refuse ends it with an error",
        breaks="What guard() would refuse is no finding but an error.",
        design="5",
        file="doctor.sql",
        find="OR SQLSTATE 'FG109' THEN",
        replace="THEN",
        tests=(f"{DOCTOR}::test_a_defect_is_found_and_its_remedy_mends_it[a key points to another column]",),
    ),
    Fault(
        name="doctor: nobody is told",
        breaks="No notification is sent where something is found.",
        design="5",
        file="doctor.sql",
        find="IF FOUND AND NOT pg_is_in_recovery() THEN",
        replace="IF NOT FOUND THEN",
        tests=(f"{DOCTOR}::test_who_listens_is_told_when_something_is_found",),
    ),
    Fault(
        name="doctor: an index is told of once for each link",
        breaks="Two links that need one index give two findings.",
        design="5",
        file="doctor.sql",
        find="CONTINUE WHEN cache_key = ANY (v_told);",
        replace="CONTINUE WHEN false;",
        tests=(f"{DOCTOR}::test_an_index_that_many_links_need_is_told_once",),
    ),
    Fault(
        name="doctor: a release that loses actions is not known",
        breaks="A partitioned master on such a release is no finding.",
        design="9",
        file="catalog.sql",
        find="WHEN 17 THEN 1 ELSE 0 END",
        replace="WHEN 17 THEN 0 ELSE 0 END",
        tests=(f"{DOCTOR}::test_a_release_that_loses_what_happens_when_a_master_is_deleted[170000-True]",),
    ),
]

KEEPING = [
    Fault(
        name="provenance: the distance of a source that has no master",
        breaks="Where the nearest source has no master, its distance is kept for the one that gave the link.",
        design="3.5",
        file="compiler.sql",
        find="THEN format(', GREATEST(%1$s OPERATOR(pg_catalog.-) x.at, x.at OPERATOR(pg_catalog.-) %1$s)', v_time)",
        replace="THEN ', v_distance'",
        tests=(f"{PROVENANCE}::test_what_is_kept_of_an_insert",),
    ),
    Fault(
        name="provenance: a second candidate is not looked for",
        breaks="Two candidates on the same side of the row are kept as one.",
        design="3.5",
        file="compiler.sql",
        find='p_rule."position", flowguard._candidate_count(p_link, p_rule, p_style, 2))',
        replace="p_rule.\"position\", 'SELECT 1')",
        tests=(f"{PROVENANCE}::test_what_is_kept_of_an_insert",),
    ),
    Fault(
        name="provenance: what the application made of a late link",
        breaks="A link that a trigger of the application replaced is kept as if a rule had found it.",
        design="3.5",
        file="compiler.sql",
        find="FROM moved m WHERE m.rule IS NOT NULL AND m.is_found'",
        replace="FROM moved m WHERE m.rule IS NOT NULL'",
        tests=(f"{PROVENANCE}::test_of_what_a_trigger_of_the_application_makes_of_it_nothing_is_kept",),
    ),
    Fault(
        name="provenance: nothing of a late link in a run",
        breaks="What follows a link that a repair wrote is not kept.",
        design="3.5",
        file="compiler.sql",
        find="    v_kept := format(E', kept AS (\\n    %s\\n    )', v_kept);\n",
        replace="    v_kept := '';\n",
        tests=(f"{PROVENANCE}::test_a_repair_keeps_its_own_and_late_links_of_its_run_are_kept_once",),
    ),
    Fault(
        name="provenance: explain takes an entry for another time",
        breaks="What an INSERT that was turned away left is told of the row that was in its way.",
        design="3.5",
        file="preview.sql",
        find="    'AND to_jsonb(c.*) -> p.time_column IN (to_jsonb(p.row_time), "
        "to_jsonb(p.row_time AT TIME ZONE ''UTC'')) '\n",
        replace="",
        tests=(f"{PROVENANCE}::test_an_insert_that_is_turned_away_tells_nothing_of_a_row_with_another_time_or_link",),
    ),
]

FAULTS = [
    PROOF,
    *BY_TIME,
    *TENANTS,
    *LOOKUPS,
    *FILLING,
    *LATE_LINKING,
    *AT_COMMIT,
    *WAYS_ROUND,
    *HOSTILE,
    *PARTITIONED,
    *REPAIRING,
    *SURVIVING,
    *MEASURING,
    *DRIFTING,
    *KEEPING,
]
