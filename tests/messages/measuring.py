"""What a snapshot of health says."""

from __future__ import annotations

from messages.stage import Case

CASES = [
    Case(
        name="a snapshot is neither to count nor not",
        reaches=(("snapshot", "exact NULL"),),
        call="SELECT flowguard.snapshot(exact => NULL)",
        says="""
            ERROR: FG104: flowguard: exact NULL says neither
            DETAIL: true counts every row, false tells what is proved.
            HINT: Pass exact => true or false.
        """,
        argument=0,
        then="SELECT flowguard.snapshot({hint})",
    ),
    Case(
        name="no snapshot is to be kept",
        reaches=(("snapshot", "retention %s is not positive"),),
        call="SELECT flowguard.snapshot(retention => '-1 day')",
        says="""
            ERROR: FG104: flowguard: retention -1 days is not positive
            DETAIL: Older snapshots would be removed.
            HINT: Leave it out for 400 days, or pass retention => NULL to keep all.
        """,
        argument=0,
        then="SELECT flowguard.snapshot({hint})",
    ),
]
