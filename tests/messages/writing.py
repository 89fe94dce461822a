"""What is said to an application that writes rows."""

from __future__ import annotations

from messages.stage import Case

UNLINKED = (("generated code", "_refuse_unlinked"),)

PROBE = "INSERT INTO probe (id, tenant, at) VALUES (1, 1, '2025-01-01 12:00Z')"


def linked(statement: str, hint: str = "{hint}; ") -> str:
    """Give a statement run after what the HINT says, in one transaction."""
    return f"BEGIN; {hint}{statement}; COMMIT"


CASES = [
    Case(
        name="a row has no link, and the transaction says none",
        reaches=UNLINKED,
        world="enforce",
        call="INSERT INTO parent (id, tenant) VALUES (1, 1)",
        says="""
            ERROR: FG001: flowguard: row {"id": 1} of table public.parent has no flow
            DETAIL: Row: tenant = 1. No rule finds its master: rule 1: the setting flowguard.flow gave none when the row
                was written.
            HINT: Set flow to the key of a master of public.flow, or run "SET LOCAL flowguard.flow = '<key>'" before
                writing; a flowguard_admin may call flowguard.bypass(reason).
        """,
        fill={"<key>": "1"},
        then=linked("INSERT INTO parent (id, tenant) VALUES (1, 1)"),
    ),
    Case(
        name="a row has no link, and an administrator lets it pass",
        reaches=UNLINKED,
        world="enforce",
        call="INSERT INTO parent (id, tenant) VALUES (1, 1)",
        says="""
            ERROR: FG001: flowguard: row {"id": 1} of table public.parent has no flow
            DETAIL: Row: tenant = 1. No rule finds its master: rule 1: the setting flowguard.flow gave none when the row
                was written.
            HINT: Set flow to the key of a master of public.flow, or run "SET LOCAL flowguard.flow = '<key>'" before
                writing; a flowguard_admin may call flowguard.bypass(reason).
        """,
        take=(1,),
        fill={"reason": "'no flow yet'"},
        then=linked("INSERT INTO parent (id, tenant) VALUES (1, 1)"),
    ),
    Case(
        name="a row has no link, and no source row is near enough in time",
        reaches=UNLINKED,
        world="enforce",
        setup="INSERT INTO event VALUES (1, 1, 1, 'live', '2025-01-01 09:30Z'), "
        "(2, 1, 2, 'deleted', '2025-01-01 12:01Z')",
        call=PROBE,
        says="""
            ERROR: FG001: flowguard: row {"id": 1} of table public.probe has no flow
            DETAIL: Row: at = 2025-01-01 12:00:00+00, tenant = 1. No rule finds its master: rule 1: the nearest row of
                public.event is of 2025-01-01 09:30:00+00, 02:30:00 away; the window is 01:00:00.
            HINT: Set flow to the key of a master of public.flow; a flowguard_admin may call flowguard.bypass(reason).
        """,
        fill={"reason": "'before any event'"},
        then=linked(PROBE),
    ),
    Case(
        name="a row has no link, and its tenant has no source row",
        reaches=UNLINKED,
        world="enforce",
        setup="INSERT INTO event VALUES (1, 2, 9, 'live', '2025-01-01 12:00Z')",
        call=PROBE,
        says="""
            ERROR: FG001: flowguard: row {"id": 1} of table public.probe has no flow
            DETAIL: Row: at = 2025-01-01 12:00:00+00, tenant = 1. No rule finds its master: rule 1: public.event has no
                linked row of its tenant with …status <> 'deleted'::text.
            HINT: Set flow to the key of a master of public.flow; a flowguard_admin may call flowguard.bypass(reason).
        """,
        fill={"reason": "'before any event'"},
        then=linked(PROBE),
    ),
    Case(
        name="a row has no link, and its time is infinite",
        reaches=UNLINKED,
        world="enforce",
        call="INSERT INTO probe (id, tenant, at) VALUES (1, 1, 'infinity')",
        says="""
            ERROR: FG001: flowguard: row {"id": 1} of table public.probe has no flow
            DETAIL: Row: at = infinity, tenant = 1. No rule finds its master: rule 1: at is infinity.
            HINT: Set flow to the key of a master of public.flow; a flowguard_admin may call flowguard.bypass(reason).
        """,
        fill={"reason": "'not yet'"},
        then=linked("INSERT INTO probe (id, tenant, at) VALUES (1, 1, 'infinity')"),
    ),
    Case(
        name="a row has neither link nor tenant",
        reaches=UNLINKED,
        world="enforce",
        call="INSERT INTO probe (id, at) VALUES (1, '2025-01-01 12:00Z')",
        says="""
            ERROR: FG001: flowguard: row {"id": 1} of table public.probe has no flow
            DETAIL: Row: at = 2025-01-01 12:00:00+00, tenant = NULL. No rule finds its master: rule 1: its tenant is not
                known, so public.event cannot be searched.
            HINT: Set tenant, and flow to the key of a master of public.flow; a flowguard_admin may call
                flowguard.bypass(reason).
        """,
        fill={"reason": "'nobody''s'"},
        then=linked("INSERT INTO probe (id, at) VALUES (1, '2025-01-01 12:00Z')"),
    ),
    Case(
        name="a row has no link and refers to nothing",
        reaches=UNLINKED,
        world="enforce",
        call="INSERT INTO child (id, tenant) VALUES (1, 1)",
        says="""
            ERROR: FG001: flowguard: row {"id": 1} of table public.child has no flow
            DETAIL: Row: tenant = 1. No rule finds its master: rule 1: parent is NULL.
            HINT: Set flow to the key of a master of public.flow; a flowguard_admin may call flowguard.bypass(reason).
        """,
        fill={"reason": "'no parent'"},
        then=linked("INSERT INTO child (id, tenant) VALUES (1, 1)"),
    ),
    Case(
        name="a row waits for the row that it refers to",
        reaches=UNLINKED,
        world="enforce",
        setup="BEGIN; SELECT flowguard.bypass('no flow yet'); INSERT INTO parent (id, tenant) VALUES (5, 1); COMMIT;",
        call="INSERT INTO child (id, tenant, parent) VALUES (1, 1, 5)",
        says="""
            ERROR: FG001: flowguard: row {"id": 1} of table public.child has no flow
            DETAIL: Row: tenant = 1. No rule finds its master: rule 1: it waits for row 5 of public.parent, which has no
                flow yet.
            HINT: Set flow of row 5 of public.parent, which this row follows; a flowguard_admin may call
                flowguard.bypass(reason).
        """,
        take=(),
        then="UPDATE parent SET flow = 1 WHERE id = 5; INSERT INTO child (id, tenant, parent) VALUES (1, 1, 5)",
    ),
    Case(
        name="a row refers to a row of another tenant",
        reaches=UNLINKED,
        world="enforce",
        setup="INSERT INTO parent (id, tenant, flow) VALUES (5, 2, 9), (6, 1, 1)",
        call="INSERT INTO child (id, tenant, parent) VALUES (1, 1, 5)",
        says="""
            ERROR: FG001: flowguard: row {"id": 1} of table public.child has no flow
            DETAIL: Row: tenant = 1. No rule finds its master: rule 1: no row of public.parent of the same tenant has id
                = 5.
            HINT: Set parent to a row of public.parent of the same tenant; a flowguard_admin may call
                flowguard.bypass(reason).
        """,
        take=(),
        then="INSERT INTO child (id, tenant, parent) VALUES (1, 1, 6)",
    ),
    Case(
        name="a link has no rule",
        reaches=UNLINKED,
        setup="SELECT flowguard.add_master('flow', 'id', '{tenant}'); "
        "SELECT flowguard.add_link('child', 'flow', mode => 'enforce'); SELECT flowguard.guard('child', 'flow');",
        call="INSERT INTO child (id, tenant) VALUES (1, 1)",
        says="""
            ERROR: FG001: flowguard: row {"id": 1} of table public.child has no flow
            DETAIL: Row: tenant = 1. No rule finds its master: the link has no rule.
            HINT: Set flow to the key of a master of public.flow; a flowguard_admin may call flowguard.bypass(reason).
        """,
        fill={"reason": "'no rule'"},
        then=linked("INSERT INTO child (id, tenant) VALUES (1, 1)"),
    ),
    Case(
        name="two masters lie in the window",
        reaches=UNLINKED,
        setup="SELECT flowguard.add_master('flow', 'id', '{tenant}'); "
        "SELECT flowguard.add_link('probe', 'flow', mode => 'enforce'); "
        "SELECT flowguard.add_proximity_rule('probe', 'event', '1 hour', 'at', 'at', 'flow', on_ambiguous => 'leave', "
        "link_column => 'flow'); SELECT flowguard.guard('probe', 'flow'); "
        "INSERT INTO event VALUES (1, 1, 1, 'live', '2025-01-01 12:10Z'), (2, 1, 2, 'live', '2025-01-01 12:20Z');",
        call=PROBE,
        says="""
            ERROR: FG001: flowguard: row {"id": 1} of table public.probe has no flow
            DETAIL: Row: at = 2025-01-01 12:00:00+00, tenant = 1. No rule finds its master: rule 1: rows of public.event
                within 01:00:00 lead to more than one master.
            HINT: Set flow to the key of a master of public.flow; a flowguard_admin may call flowguard.bypass(reason).
        """,
        fill={"reason": "'either'"},
        then=linked(PROBE),
    ),
    Case(
        name="a row has a link and no tenant",
        reaches=(("generated code", "_refuse_tenantless"),),
        world="enforce",
        call="INSERT INTO probe (id, flow) VALUES (1, 1)",
        says="""
            ERROR: FG002: flowguard: row {"id": 1} of table public.probe has a flow but not its whole tenant
            DETAIL: Row: at = NULL, tenant = NULL. Whether its master is of its tenant cannot be proved.
            HINT: Set tenant; a flowguard_admin may call flowguard.bypass(reason).
        """,
        fill={"reason": "'nobody''s'"},
        then=linked("INSERT INTO probe (id, flow) VALUES (1, 1)"),
    ),
    Case(
        name="the transaction's setting holds no key",
        reaches=(("generated code", "_refuse_setting"),),
        world="observe",
        call="BEGIN; SET LOCAL flowguard.flow = 'first'; INSERT INTO parent (id, tenant) VALUES (1, 1); COMMIT;",
        says="""
            ERROR: FG003: flowguard: setting flowguard.flow holds 'first', which is no value for column flow of table
                public.parent
            DETAIL: The row has no link, and the first thing to ask is the setting of the transaction.
            HINT: Run "SET LOCAL flowguard.flow = '<key of a master>'", or "RESET flowguard.flow".
        """,
        fill={"<key of a master>": "1"},
        then=linked("SET LOCAL flowguard.flow = 'first'; {hint}; INSERT INTO parent (id, tenant) VALUES (1, 1)", ""),
    ),
    Case(
        name="the session's setting holds no key",
        reaches=(("generated code", "_refuse_setting"),),
        world="observe",
        call="SET flowguard.flow = 'first'; INSERT INTO parent (id, tenant) VALUES (1, 1);",
        says="""
            ERROR: FG003: flowguard: setting flowguard.flow holds 'first', which is no value for column flow of table
                public.parent
            DETAIL: The row has no link, and the first thing to ask is the setting of the transaction.
            HINT: Run "SET LOCAL flowguard.flow = '<key of a master>'", or "RESET flowguard.flow".
        """,
        take=(1,),
        then="{hint}; INSERT INTO parent (id, tenant) VALUES (1, 1)",
    ),
    Case(
        name="another table has taken the name of a guarded one",
        reaches=(("_check_names", "p_stem, r_found.noted ->> 'table'"),),
        world="observe",
        setup="ALTER TABLE child RENAME TO old_child; CREATE TABLE child (LIKE old_child INCLUDING ALL);",
        call="INSERT INTO old_child (id, tenant) VALUES (1, 1)",
        says="""
            ERROR: FG004: flowguard: the guard of table public.old_child was made for public.child
            DETAIL: That is called public.old_child now, and another one has taken its name.
            HINT: Call flowguard.guard('public.old_child', 'flow').
        """,
    ),
    Case(
        name="another column has taken the name of one that a rule reads",
        reaches=(("_check_names", "c.noted, r_found.relation"),),
        world="observe",
        setup="ALTER TABLE child RENAME parent TO old_parent; ALTER TABLE child ADD parent integer;",
        call="INSERT INTO child (id, tenant) VALUES (1, 1)",
        says="""
            ERROR: FG004: flowguard: the guard of table public.child was made for column parent of public.child
            DETAIL: That is called old_parent now, and another one has taken its name.
            HINT: Call flowguard.guard('public.child', 'flow').
        """,
    ),
    Case(
        name="another table has taken the name of the master",
        reaches=(("_check_names", "p_targets[1]::text"),),
        world="observe",
        setup="ALTER TABLE flow RENAME TO old_flow; CREATE TABLE flow (LIKE old_flow INCLUDING ALL);",
        call="INSERT INTO child (id, tenant) VALUES (1, 1)",
        says="""
            ERROR: FG004: flowguard: the guard of table public.child was made for public.flow
            DETAIL: That is called public.old_flow now, and another one has taken its name.
            HINT: Call flowguard.guard('public.child', 'flow').
        """,
    ),
    Case(
        name="another column has taken the name of the master's key",
        reaches=(("_check_names", "w.meant, w.target"),),
        world="observe",
        setup="ALTER TABLE flow RENAME id TO old_id; ALTER TABLE flow ADD id integer;",
        call="INSERT INTO child (id, tenant) VALUES (1, 1)",
        says="""
            ERROR: FG004: flowguard: the guard of table public.child was made for column id of public.flow
            DETAIL: That is called old_id now, and another one has taken its name.
            HINT: Call flowguard.guard('public.child', 'flow').
        """,
    ),
    Case(
        name="another column has taken the name of the one that names rows",
        reaches=(("_check_names", "a.attname, a.attrelid"),),
        world="observe",
        setup="ALTER TABLE child RENAME id TO old_id; ALTER TABLE child ADD id integer;",
        call="INSERT INTO child (old_id, tenant) VALUES (1, 1)",
        says="""
            ERROR: FG004: flowguard: the guard of table public.child was made for column id of public.child
            DETAIL: That is called old_id now, and another one has taken its name.
            HINT: Call flowguard.guard('public.child', 'flow').
        """,
    ),
    Case(
        name="a bypass has no reason",
        reaches=(("bypass", "needs a reason"),),
        call="SELECT flowguard.bypass(' ')",
        says="""
            ERROR: FG104: flowguard: a bypass needs a reason
            DETAIL: It is kept in flowguard.privileged_transaction.
            HINT: Call flowguard.bypass('why the guard must let this pass').
        """,
        then="{hint}",
    ),
]
