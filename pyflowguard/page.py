"""Writes a report as one HTML page that needs nothing else, or as Markdown; templates/ holds what they look like.

What comes from the database (names of tables, keys of rows, reasons) is text that anybody may have written: the
templates escape whatever they are given. The page forbids scripts, and all requests, by its own policy as well.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timezone
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pyflowguard import __version__
from pyflowguard.charts import Chart, coverage_chart, floor_of, link_chart, percent, score_chart
from pyflowguard.health import LEVELS, Finding, LinkStatus
from pyflowguard.present import guard_state
from pyflowguard.report import Costs, LinkTrend, Report

BARS = 20
"""Links that are drawn as a bar, those with the most to mend first; all are in the table."""

OPEN = 20
"""Findings that are shown at once; the rest can be unfolded."""

FOLDED = 12
"""Rows that a table of the history or the costs may have before it is folded up."""

DETAILS = 3
"""Links that are named for a category; the rest is counted."""

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")
_NEXT_UNIT = 10240

_MARKDOWN = re.compile(r"[\\`*\[\]#|~]|(?<![^\W_])_|_(?![^\W_])")
"""What may be more than text in the middle of a line; with a backslash before it, it is not."""


@dataclass(frozen=True)
class SmallChart:
    """The coverage of one link over time."""

    trend: LinkTrend
    svg: Markup


def as_html(report: Report) -> str:
    """Give the page: it has its style sheet and charts in it, and no script."""
    style = files("pyflowguard").joinpath("templates/report.css").read_text(encoding="utf-8")
    environment = _environment(autoescape=True)
    small = _small_charts(report)
    return environment.get_template("report.html").render(
        **_told(report),
        style=Markup(style),  # noqa: S704 - ours
        style_hash=b64encode(sha256(style.encode()).digest()).decode(),
        coverage=_drawn(coverage_chart(incomplete)) if (incomplete := _incomplete(report.health.links)) else None,
        score=_drawn(score_chart(report.trend.score)) if report.trend and report.trend.snapshots > 1 else None,
        small=small,
    )


def as_markdown(report: Report) -> str:
    """Give the same as Markdown, without charts."""
    environment = _environment(autoescape=False)
    environment.finalize = _in_markdown
    text = environment.get_template("report.md").render(**_told(report))
    return re.sub(r"\n{3,}", "\n\n", text)


def _environment(*, autoescape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("pyflowguard"),
        autoescape=autoescape,  # noqa: S701 - what Markdown would take for more than text is escaped by as_markdown()
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "amount": _amount,
        "block": _block,
        "breakable": _breakable,
        "change": _change,
        "day": lambda moment: f"{moment.astimezone(timezone.utc):%Y-%m-%d}",
        "key": _key,
        "moment": lambda moment: f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC",
        "percent": percent,
        "size": _size,
        "state": guard_state,
    }
    return environment


def _told(report: Report) -> dict[str, Any]:
    """Give what both templates are about."""
    links = report.health.links
    findings = [*report.findings, *report.drift]
    listed = sum(len(wrong.rows) for wrong in report.wrong)
    return {
        "report": report,
        "version": __version__,
        "worst": next((level for level in LEVELS if any(finding.level == level for finding in findings)), None),
        "levels": [(level, sum(finding.level == level for finding in report.findings)) for level in LEVELS],
        "urgent": _urgent(report.findings),
        "shown_at_once": OPEN,
        "details_shown": DETAILS,
        "folded": FOLDED,
        "links": sorted(links, key=_wrong_in, reverse=True),
        "bars": BARS,
        "complete": sum(not _wrong_in(link) for link in links),
        "wrong_rows": sum(_wrong_in(link) for link in links),
        "unlisted": sum(wrong.amount for wrong in report.wrong) - listed,
        "since_earlier": _since_earlier(report),
        "changed": sum(link.lowest < link.highest for link in report.trend.links) if report.trend else 0,
        "costs": _sums(report.costs),
    }


def _urgent(findings: Sequence[Finding]) -> list[Finding]:
    """Order findings by level, and within one by how many rows, or other things, they are about."""
    return sorted(findings, key=lambda finding: (LEVELS.index(finding.level), -(finding.amount or 0)))


def _wrong_in(link: LinkStatus) -> int:
    return link.total - link.linked


def _incomplete(links: Sequence[LinkStatus]) -> list[LinkStatus]:
    """Give the links that have something to mend, the least covered first, as many as are drawn."""
    return sorted((link for link in links if _wrong_in(link)), key=lambda link: link.coverage)[:BARS]


def _since_earlier(report: Report) -> dict[tuple[str, str], str]:
    """Say for each link how many more rows there are to mend than at the earlier snapshot."""
    if report.trend is None:
        return {}
    before = {(link.relation, link.link_column): link.wrong for link in report.trend.earlier.links}
    changes = {}
    for link in report.health.links:
        key = (link.relation, link.link_column)
        wrong = before.get(key)
        changes[key] = (
            "new" if key not in before else "\N{EN DASH}" if wrong is None else _change(_wrong_in(link) - wrong)
        )
    return changes


def _sums(costs: Costs) -> dict[str, int]:
    return {
        "bytes": sum(table.bytes for table in costs.tables),
        "indexes": sum(table.indexes for table in costs.tables),
        "index_bytes": sum(table.index_bytes for table in costs.tables),
        "triggers": sum(table.triggers for table in costs.tables),
        "foreign_keys": sum(table.keys for table in costs.tables),
        "storage": sum(stored.bytes for stored in costs.storage),
        "calls": sum(function.calls or 0 for function in costs.functions),
    }


def _small_charts(report: Report) -> list[SmallChart]:
    changed = [link for link in report.trend.links if len(link.points) > 1] if report.trend else []
    if not changed:
        return []
    lowest = floor_of([link.lowest for link in changed], 1)
    return [SmallChart(link, Markup(link_chart(link.points, lowest))) for link in changed]  # noqa: S704 - Vega escapes


def _drawn(chart: Chart) -> Chart:
    return Chart(*(Markup(drawing) for drawing in (chart.wide, chart.middle, chart.narrow)))  # noqa: S704 - Vega escapes


def _breakable(name: str) -> Markup:
    """Let a long name be broken where a word of it ends."""
    return Markup("<wbr>").join(re.split(r"(?<=[._/:,-])(?=\w)", str(name)))


def _amount(number: int) -> str:
    return f"{number:,}"


def _change(number: float) -> str:
    """Give a difference with its sign; 0 has none."""
    return f"{number:+,}".replace("-", "\N{MINUS SIGN}") if number else "0"


def _key(row_key: dict[str, Any]) -> str:
    return ", ".join(f"{column} = {value}" for column, value in row_key.items())


def _size(count: int) -> str:
    """Give a size as PostgreSQL's pg_size_pretty() does."""
    sizes = [((2 * count // 1024**power + 1) // 2, unit) for power, unit in enumerate(_UNITS)]
    size, unit = next((each for each in sizes if each[0] < _NEXT_UNIT), sizes[-1])
    return f"{size} {unit}"


def _in_markdown(value: object) -> object:
    """Escape whatever would be more than text in Markdown, HTML included; a statement in a block is marked as safe."""
    if isinstance(value, Markup):
        return value
    text = " ".join(str(value).split())
    return _MARKDOWN.sub(r"\\\g<0>", escape(text, quote=False))


def _block(statement: str, language: str, indent: int) -> Markup:
    """Give a statement as a block of Markdown that nothing in it can end, its later lines indented as its first."""
    longest = max(map(len, re.findall("`+", statement)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = [f"{fence}{language}", *statement.splitlines(), fence]
    return Markup(f"\n{' ' * indent}".join(lines))  # noqa: S704 - it is Markdown, and in a block
