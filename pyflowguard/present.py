"""Shows on a terminal, or in a file, what the other modules return: tables and lines of text, and nothing else."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pyflowguard.health import LinkEstimate

if TYPE_CHECKING:  # what is shown comes from there; a command that shows something else need not read them
    from pyflowguard.engine import LeftOut
    from pyflowguard.gate import Verdict
    from pyflowguard.health import Estimate, Finding, Health, Level, LinkStatus, Violation
    from pyflowguard.history import Snapshot
    from pyflowguard.online import Guarded, ModeSet, Planned
    from pyflowguard.repair import Outcome, Part, Preview, Run, Undone
    from pyflowguard.watch import Event, Kind, Seen, Watched

WIDTH = 100
"""Columns at most, and where the output is no terminal."""

CANDIDATES = 2
"""So many candidates, or more: a repair that is not asked to count them looks no further."""

_QUOTED = r""" "(?:[^"]|"")*" | '(?:[^']|'')*' """
"""A name or a string; what stands in it is not looked at."""

_HEAD = re.compile(
    rf"""(?: {_QUOTED}
           | (?! ;[ ] | [ ](?: LANGUAGE[ ]plpgsql | FOREIGN[ ]KEY | FOR[ ]EACH[ ]ROW | DEFERRABLE
                             | WHERE[ ]relation[ ]=[ ] | AS[ ]SELECT\b )) . )*""",
    re.VERBOSE | re.DOTALL,
)
"""A statement of a plan up to its details, or to the next statement."""

_LOCKING = re.compile(
    rf"SELECT[ ]flowguard\._lock_both\((?: {_QUOTED} | [^'\"] )*?\);[ ](?=ALTER[ ]TABLE[ ]|SELECT[ ])", re.VERBOSE
)
"""What a statement that locks two tables begins with."""

_WORD = re.compile(rf"(?: {_QUOTED} | [^\s\"'] )+", re.VERBOSE)

_ALMOST = Decimal("0.999")

_STYLES: dict[Level, str] = {"ERROR": "bold red", "WARN": "yellow", "INFO": "cyan"}


def new_console() -> Console:
    """Make a console on standard output: at most WIDTH columns, and no colour unless it is a terminal."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal or console.width > WIDTH:
        console.width = WIDTH
    return console


def new_table(*headings: str, right: Sequence[str] = ()) -> Table:
    """Make a table with these headings; the columns named in `right` hold figures."""
    table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    return table


def show_health(console: Console, health: Health | Estimate) -> None:
    """Show score, categories with what keeps them below 100, links, and violations if they were asked for.

    Of an estimate it says what is told by proof, what is not proved, and what counts it.
    """
    if not health.links:
        console.print("There is nothing to measure.")
        return
    estimated = [link for link in health.links if isinstance(link, LinkEstimate) and link.estimated]
    console.print(Text(f"Health score {'about ' if estimated else ''}{health.score} of 100", style="bold"))
    console.print()
    table = new_table("category", "score", "what is left to fix", right=["score"])
    for category in health.categories:
        table.add_row(category.category, str(category.score), category.detail.replace("; ", "\n"))
    console.print(table)
    console.print()
    show_links(console, health.links)
    if estimated:
        console.print()
        console.print(
            "~ is an estimate; 0 dangling and mismatched rows beside it are what keys prove; ? is not proved."
        )
        console.print("--exact counts every row, and finds what was written past the keys.")
    if health.violations:
        console.print()
        show_violations(console, health.violations)


def show_links(console: Console, links: Sequence[LinkStatus | LinkEstimate]) -> None:
    """Show how many rows of each link are what; what is neither proved nor counted is a question mark."""
    figures = ("rows", "linked", "unlinked", "dangling", "mismatched", "coverage")
    table = new_table("link", "mode", *figures, "guard", right=figures)
    for link in links:
        about = "~" if isinstance(link, LinkEstimate) and link.estimated else ""
        wrong = None if link.mismatched is None or link.tenantless is None else link.mismatched + link.tenantless
        table.add_row(
            link.relation if link.link_column == "master_flow_id" else f"{link.relation}.{link.link_column}",
            link.mode,
            *(_figure(count, about) for count in (link.total, link.linked)),
            *(_figure(count) for count in (link.unlinked, link.dangling, wrong)),
            _percent(link.coverage, "<= " if link.linked is None else ""),
            guard_state(link),
        )
    console.print(table)


def _figure(count: int | None, about: str = "") -> str:
    return "?" if count is None else f"{about}{count}"


def _percent(share: Decimal | None, bound: str = "") -> str:
    """Give a share in percent; 100.0 is kept for what is whole."""
    return "?" if share is None else f"{bound}{share if share == 1 else min(share, _ALMOST):.1%}".replace("%", " %")


def show_snapshot(console: Console, snapshot: Snapshot) -> None:
    """Show the score and the links of a snapshot, and what changed since the one before."""
    change = "the first" if snapshot.score_change is None else f"{snapshot.score_change:+} since the one before"
    kind = "counted" if snapshot.exact else "estimated"
    console.print(f"Snapshot {snapshot.snapshot_id}: health score {snapshot.score} of 100, {kind}, {change}.")
    if not snapshot.links:
        return
    console.print()
    figures = ("rows", "linked", "change", "unlinked", "change ", "coverage")
    table = new_table("link", *figures, right=figures)
    for link in snapshot.links:
        table.add_row(
            f"{link.schema_name}.{link.table_name}.{link.link_column}",
            _figure(link.total, "~" if link.estimated else ""),
            _figure(link.linked, "~" if link.estimated else ""),
            _change(link.linked_change),
            _figure(link.unlinked),
            _change(link.unlinked_change),
            _percent(link.coverage, "<= " if link.linked is None else ""),
        )
    console.print(table)


def _change(count: int | None) -> str:
    return "" if count is None else f"{count:+}" if count else "0"


def guard_state(link: LinkStatus | LinkEstimate) -> str:
    """Say in two words how far a link is guarded."""
    if not link.guarded:
        return "none"
    missing = [name for name, there in (("keys", link.validated), ("indexes", link.indexed)) if not there]
    return "in place" if not missing else f"without {' and '.join(missing)}"


def show_violations(console: Console, violations: Sequence[Violation]) -> None:
    """Show rows that are not validly linked, and why."""
    table = new_table("row", "kind", "reason")
    for violation in violations:
        key = json.dumps(violation.row_key, default=str)
        table.add_row(f"{violation.relation} {key}", violation.kind, violation.reason.replace("; ", "\n"))
    console.print(table)


def show_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Show each finding with its remedy and the key to ignore it by, and how many there are."""
    _show_each(console, findings)
    console.print(count_findings(findings))


def show_verdict(console: Console, verdict: Verdict) -> None:
    """Show each finding that counts, and how many there are of those that do not."""
    _show_each(console, verdict.findings)
    console.print(count_verdict(verdict))


def count_verdict(verdict: Verdict) -> str:
    """Say how many findings count, and how many do not."""
    left_out = [
        f"{len(findings)} {where}"
        for findings, where in ((verdict.known, "in the baseline"), (verdict.ignored, "ignored"))
        if findings
    ]
    counted = count_findings(verdict.findings)
    return f"{counted[:-1]}; not counted: {', '.join(left_out)}." if left_out else counted


def count_findings(findings: Sequence[Finding]) -> str:
    """Say how many findings there are of which level."""
    if not findings:
        return "Nothing found."
    counts = ", ".join(
        f"{count} {level}" for level in _STYLES if (count := sum(finding.level == level for finding in findings))
    )
    return f"{len(findings)} {'finding' if len(findings) == 1 else 'findings'}: {counts}."


def _show_each(console: Console, findings: Sequence[Finding]) -> None:
    for finding in findings:
        heading = Text.assemble(
            (f"{finding.level:<5}", _STYLES[finding.level]),
            "  ",
            (f"{finding.relation}: " if finding.relation else "", "bold"),
            finding.description,
        )
        console.print(heading)
        for label, text in (("detail:", finding.detail), ("remedy:", finding.remedy), ("key:", finding.cache_key)):
            if text:
                console.print(indented(label, text))


def headline(statement: str) -> str:
    """Give the beginning of a statement of a plan, which says what it makes; a quoted name in it is given whole."""
    head = _HEAD.match(_LOCKING.sub("", statement, count=1))
    words = _WORD.findall(head[0]) if head else []
    shown = words.copy()
    while len(" ".join(shown)) > WIDTH - 8 and '"' not in shown[-1]:
        shown.pop()
    return " ".join(shown) + (" ..." if len(shown) < len(words) else "")


def lock_of(planned: Planned) -> str:
    """Say what a statement locks."""
    return "no lock" if planned.lock == "none" else planned.lock


def show_guarded(console: Console, guarded: Guarded) -> None:
    """Show what is to be done, step by step, or what is left to do when all else is."""
    if guarded.dry_run:
        for number, step in enumerate(guarded.steps, 1):
            where = "" if step.planned.in_transaction else "; outside any transaction"
            console.print(f"{number:3}. {step.link}: {headline(step.planned.statement)}", soft_wrap=True)
            console.print(f"       {lock_of(step.planned)}{where}", soft_wrap=True)
    if not guarded.steps:
        console.print("Nothing else is missing." if guarded.not_valid or guarded.left_out else "Nothing is missing.")
    for step, reason in guarded.not_valid:
        console.print(f"{step.link}: a key stays NOT VALID, for present rows violate it: {reason}.")
    if guarded.not_valid:
        console.print("flowguard.violation lists them; `pyflowguard repair`, then guard again.")
    _show_left_out(console, guarded.left_out)


def show_mode(console: Console, result: ModeSet) -> None:
    """Show which links have the mode now, and which were passed over."""
    for link in result.links:
        console.print(f"{link}: {result.mode}")
    for link, reason in result.incomplete:
        console.print(f"{link} stays as it is: {reason}")
    if result.incomplete:
        console.print("flowguard.violation lists them; `pyflowguard repair`, then set the mode again.")
    _show_left_out(console, result.left_out)


def _show_left_out(console: Console, left_out: Sequence[LeftOut]) -> None:
    for link in left_out:
        console.print(str(link), soft_wrap=True)
        console.print(f"  {link.remedy}", soft_wrap=True)


def show_run(console: Console, run: Run) -> None:
    """Show what a repair did, or would do, and how to take it back."""
    console.print(
        f"Dry run, taken back: {counts_of(run)}." if run.run_id is None else f"Run {run.run_id}: {counts_of(run)}."
    )
    if run.remaining:
        console.print(f"{run.remaining} rows stay unlinked or dangling; flowguard.violation says why.")
    if run.run_id is not None and run.linked + run.translated + run.quarantined + run.unlinked:
        console.print(f"To take it back: pyflowguard undo {run.run_id}")


def show_preview(console: Console, preview: Preview) -> None:
    """Show what a repair would do: counts by link and rule, distances of the rules by time, and examples."""
    show_run(console, preview.run)
    if not preview.outcomes:
        return
    console.print()
    table = new_table("link", "outcome", "rows", "by", right=["rows"])
    for outcome in preview.outcomes:
        table.add_row(_name_of(outcome), outcome.outcome, str(outcome.amount), _rule_of(outcome))
    console.print(table)
    for outcome in preview.outcomes:
        if outcome.distances is not None:
            console.print()
            _show_distances(console, outcome, outcome.distances)
    if any(outcome.examples for outcome in preview.outcomes):
        console.print()
        console.print(Text("Examples", style="bold"))
        for outcome in preview.outcomes:
            if outcome.examples:
                by = f" by {_rule_of(outcome)}" if outcome.rule is not None else ""
                console.print(f"{_name_of(outcome)}, {outcome.outcome}{by}:")
                for example in outcome.examples:
                    console.print(indented("", _example_of(example, counted=preview.count_candidates)))


def _name_of(outcome: Outcome) -> str:
    return outcome.child if outcome.link == "master_flow_id" else f"{outcome.child}.{outcome.link}"


def _rule_of(outcome: Outcome) -> str:
    return "" if outcome.rule is None else f"rule {outcome.rule}, {outcome.rule_kind}: {outcome.source}"


def _show_distances(console: Console, outcome: Outcome, distances: Mapping[str, Any]) -> None:
    console.print(Text(f"{_name_of(outcome)}, rule {outcome.rule}: distance to {outcome.source}", style="bold"))
    if outcome.amount:
        figures = ", ".join(
            f"{label} {distances[name]}"
            for label, name in (("min", "min"), ("median", "median"), ("90 %", "p90"), ("99 %", "p99"), ("max", "max"))
        )
        console.print(indented("", figures))
    table = new_table("up to", "rows", "", right=["up to", "rows"])
    for bucket in distances["inside"]:
        table.add_row(bucket["to"], str(bucket["amount"]), "the window" if bucket is distances["inside"][-1] else "")
    for bucket in distances["outside"]:
        table.add_row(bucket["to"], str(bucket["amount"]), "outside: these are left")
    console.print(table)
    if distances["nearest"] is not None:
        console.print(indented("", f"The nearest that is left is {distances['nearest']} away."))


def _example_of(example: Mapping[str, Any], *, counted: bool) -> str:
    key = _key_of(example["row_key"])
    if "reason" in example:
        where = f"{example['relation']} " if "relation" in example else ""
        return f"{where}{key}: {example['reason']}"
    text = f"{key}: {example.get('old_link', 'NULL')} -> {example.get('new_link', 'NULL')}"
    if "source_key" in example:
        text += f", from {_key_of(example['source_key'])}"
    if "distance" in example:
        count = example["candidates"]
        more = " or more" if count == CANDIDATES and not counted else ""
        text += f", {example['distance']} away, candidates: {count}{more}"
    return text


def _key_of(key: Mapping[str, Any]) -> str:
    return json.dumps(key, default=str, ensure_ascii=False)


def show_explanation(console: Console, parts: Sequence[Part]) -> None:
    """Show how a row came by its link, or why it has none."""
    for part in parts:
        console.print(indented(f"{part.part}:", part.summary))


def counts_of(run: Run) -> str:
    """Give the counts of a run in words."""
    followed = _besides(_counted(run.followed, "link followed", "links followed"))
    them = "it" if run.quarantined == 1 else "them"
    one, many = ("", "") if run.taken_along else ("row ", "rows ")
    along = _besides(
        _counted(run.taken_along, f"row went with {them}", f"rows went with {them}"),
        _counted(run.set_along, f"{one}was set", f"{many}were set"),
    )
    return (
        f"{run.linked} linked{followed}, {run.translated} translated, {run.quarantined} quarantined{along}, "
        f"{run.unlinked} unlinked, {run.remaining} remaining"
    )


def _counted(amount: int | None, one: str, many: str) -> str:
    return f"{amount} {one if amount == 1 else many}" if amount else ""


def _besides(*texts: str) -> str:
    said = ", ".join(filter(None, texts))
    return f" ({said})" if said else ""


def show_undone(console: Console, run_id: int, undone: Undone) -> None:
    """Show what was put back."""
    console.print(f"Run {run_id}: {undone.restored} restored, {undone.skipped} skipped, {undone.remaining} remaining.")
    if undone.skipped:
        console.print("Skipped are links that are not what the run wrote any more; see flowguard.run_change.")
    if undone.remaining:
        console.print(f"To go on: pyflowguard undo {run_id}")


def indented(label: str, text: str) -> Table:
    """Set a text with a label in front, its later lines below its first."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=6 + len("remedy:"), justify="right", style="dim")
    grid.add_column(overflow="fold")
    grid.add_row(label, text)
    return grid


_EVENT_STYLES: dict[Kind, str] = {
    "violation": "bold red",
    "finding": "yellow",
    "failed": "yellow",
    "lost": "bold red",
    "mended": "green",
    "settled": "green",
    "back": "green",
}


def event_line(event: Event) -> str:
    """Give what happened, and when, in a line."""
    return f"{event.at.isoformat(timespec='milliseconds')} {event.kind}: {' '.join(event.text.split())}"


def watch_view(console: Console, seen: Seen, events: Sequence[Event]) -> RenderableType:
    """Give what fits on the screen: what happened last, what is found, and the links, worst first.

    What happened last has a third of the lines, if it needs them, and what the links leave. A line of the screen stays
    free, for the prompt of the shell.
    """
    parts: list[RenderableType] = [
        Text.assemble(
            (f"{seen.database}  {seen.at:%H:%M:%S} UTC  ", "bold"),
            f"score {seen.score:.1f}, wrong rows: {seen.violations}, {count_findings(seen.findings).lower()}",
        )
    ]
    if seen.problem is not None:
        parts.append(Text(f"Cannot look any more, and tries again: {seen.problem}", style="bold red"))
    told = [_one_line(Text(event_line(event), style=_EVENT_STYLES.get(event.kind, ""))) for event in events]
    found = [
        _one_line(
            Text(f"{finding.level:<5} {finding.relation or ''} {finding.description}", style=_STYLES[finding.level])
        )
        for finding in seen.findings
    ]
    room = console.height - 1 - _lines_of(console, Group(*parts))
    links = _watched_links(console, seen.links, room - min(len(told) + len(found), max(1, room // 3)))
    room = max(0, room - _lines_of(console, links))
    parts += told[max(0, len(told) - room) :]
    parts += found[: max(0, room - len(told))]
    return Group(*parts, links)


def _lines_of(console: Console, shown: RenderableType) -> int:
    return len(console.render_lines(shown, pad=False))


def _one_line(text: Text) -> Text:
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text


def _watched_links(console: Console, links: Sequence[Watched], room: int) -> Group:
    """Give the table of the links; if it has more lines than there is room for, the worst, and how many more there are.

    It is empty where there is no room for one.
    """
    worst = sorted(links, key=lambda link: (-link.wrong, link.coverage or 0, link.relation))

    def lines_with(count: int) -> int:
        return _lines_of(console, _watch_table(worst[:count]))

    most = min(len(worst), max(0, room))  # for each has a line at least
    if most == len(worst) and lines_with(most) <= room:
        return Group(_watch_table(worst))
    count = bisect_right(range(1, most), room - 1, key=lines_with)
    return Group(_watch_table(worst[:count]), Text(f"and {len(worst) - count} more", style="dim")) if count else Group()


def _watch_table(links: Sequence[Watched]) -> Table:
    figures = ("rows", "writes/s", "coverage", "wrong", "in 1 min")
    table = new_table("link", "mode", *figures, "guard", right=figures)
    for link in links:
        about = "~" if link.estimated else ""
        table.add_row(
            link.relation if link.link_column == "master_flow_id" else f"{link.relation}.{link.link_column}",
            link.mode,
            _figure(link.total, about),
            "" if link.writes is None else f"{link.writes:.1f}",
            "?" if link.coverage is None else f"{'<= ' if link.linked is None else ''}{100 * link.coverage:.2f} %",
            Text(str(link.wrong), style="bold red" if link.wrong else ""),
            _change(link.change),
            "yes" if link.guarded else "no",
        )
    return table
