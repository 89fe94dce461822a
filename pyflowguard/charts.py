"""Charts as SVG, drawn by Vega-Lite in this process: no script and nothing of the network is left in what comes back.

Colours are variables of the page's style sheet, so that one drawing serves light, dark and print. A drawing that is made
smaller has smaller letters; so each is made for a width, and a page shows the one that fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, TypeAlias

import vl_convert

from pyflowguard.health import LinkStatus
from pyflowguard.report import Point

Spec: TypeAlias = dict[str, Any]

WIDE = 720
NARROW = 328
"""Widths, in CSS pixels: of a page on a desk, and on a phone."""

SMALL = 216
"""Width of one of several small drawings."""

KINDS: dict[str, str] = {
    "linked": "var(--linked)",
    "unlinked": "var(--unlinked)",
    "dangling": "var(--dangling)",
    "mismatched": "var(--mismatched)",
    "tenantless": "var(--tenantless)",
}
"""What rows are, in the order in which a bar shows them, and their colours."""

_CONFIG: Spec = {
    "background": None,
    "font": "sans-serif",
    "aria": False,  # a page says in words, and in a table, what a drawing shows
    "view": {"stroke": None},
    "axis": {
        "domainColor": "var(--rule)",
        "gridColor": "var(--grid)",
        "tickColor": "var(--rule)",
        "labelColor": "var(--muted)",
        "labelFontSize": 12,
        "labelPadding": 6,
        "title": None,
    },
    "axisY": {"domain": False, "ticks": False},
    "axisX": {"grid": False, "labelFlush": True},
    "legend": {
        "labelColor": "var(--text)",
        "labelFontSize": 12,
        "orient": "top",
        "symbolType": "square",
        "title": None,
    },
    "text": {"color": "var(--text)", "fontSize": 13},
    "line": {"color": "var(--accent)", "strokeWidth": 2, "strokeJoin": "round"},
    "point": {"color": "var(--accent)", "filled": True, "opacity": 1, "size": 42},
}


@dataclass(frozen=True)
class Chart:
    """A drawing for a desk, and one for a phone."""

    wide: str
    narrow: str


def score_chart(points: Sequence[Point]) -> Chart:
    """Draw the score over time, with its lowest and its latest value."""
    return Chart(*(_draw(_score(points, width)) for width in (WIDE, NARROW)))


def coverage_chart(links: Sequence[LinkStatus]) -> Chart:
    """Draw a bar for each link: which share of its rows is linked, and what the others are."""
    return Chart(*(_draw(_coverage(links, width)) for width in (WIDE, NARROW)))


def link_chart(points: Sequence[Point], lowest: Decimal) -> str:
    """Draw the coverage of one link over time, from `lowest` up, so that several can be compared."""
    return _draw(_link(points, lowest))


def floor_of(values: Sequence[Decimal], whole: int) -> Decimal:
    """Give a round value below all of these, where an axis up to the `whole` may begin: a tenth, a fourth, a half or 0."""
    lowest = min(values) / whole
    for part in ("0.99", "0.95", "0.9", "0.8", "0.5"):
        if lowest >= Decimal(part):
            return Decimal(part) * whole
    return Decimal(0)


def _score(points: Sequence[Point], width: int) -> Spec:
    values = _over_time(points)
    lowest = min(range(len(values)), key=lambda place: (values[place]["value"], -place))
    marked = [{**values[-1], "label": f"{values[-1]['value']:.1f}"}]
    if lowest != len(values) - 1:
        marked.append({**values[lowest], "label": f"{values[lowest]['value']:.1f}"})
    bottom = float(floor_of([point.value for point in points], 100))
    return {
        "width": width,
        "height": 220,
        "encoding": {
            "x": _time_axis(width),
            "y": {
                "field": "value",
                "type": "quantitative",
                "scale": {"domain": [bottom, 100], "nice": False},
                "axis": {"tickCount": 5},
            },
        },
        "layer": [
            {"data": {"values": values}, "mark": "line"},
            {"data": {"values": marked}, "mark": "point"},
            {
                "data": {"values": marked},
                "mark": {"type": "text", "align": "right", "dx": -4, "dy": 16, "fontWeight": 600},
                "encoding": {"text": {"field": "label"}},
            },
        ],
    }


def _link(points: Sequence[Point], lowest: Decimal) -> Spec:
    values = _over_time(points)
    return {
        "width": SMALL,
        "height": 72,
        "encoding": {
            "x": _time_axis(SMALL),
            "y": {
                "field": "value",
                "type": "quantitative",
                "scale": {"domain": [float(lowest), 1], "nice": False},
                "axis": {"values": [float(lowest), 1], "format": ".0%"},
            },
        },
        "layer": [
            {"data": {"values": values}, "mark": {"type": "line", "strokeWidth": 1.5}},
            {"data": {"values": values[-1:]}, "mark": {"type": "point", "size": 30}},
        ],
    }


def _time_axis(width: int) -> Spec:
    return {
        "field": "time",
        "type": "temporal",
        "scale": {"type": "utc"},
        "axis": {"tickCount": max(2, width // 110)},
    }


def _over_time(points: Sequence[Point]) -> list[Spec]:
    return [{"time": point.taken_at.isoformat(), "value": float(point.value)} for point in points]


def _coverage(links: Sequence[LinkStatus], width: int) -> Spec:
    named = [
        {
            "place": place,
            "name": link.relation if link.link_column == "master_flow_id" else f"{link.relation}.{link.link_column}",
            "share": percent(link.coverage),
        }
        for place, link in enumerate(links)
    ]
    shares = [
        {"place": place, "kind": kind, "order": order, "rows": rows, "share": rows / link.total}
        for place, link in enumerate(links)
        for order, kind in enumerate(KINDS)
        if (rows := getattr(link, kind))
    ]
    present = [kind for kind in KINDS if any(share["kind"] == kind for share in shares)]
    bar = {"type": "bar", "height": 10, "yOffset": 9}
    label = {"type": "text", "baseline": "middle", "dy": -6}
    return {
        "width": width,
        "height": {"step": 40},
        "encoding": {"y": {"field": "place", "type": "ordinal", "axis": None}},
        "layer": [
            {
                "data": {"values": shares},
                "mark": bar,
                "encoding": {
                    "x": {
                        "field": "share",
                        "type": "quantitative",
                        "stack": "zero",
                        "scale": {"domain": [0, 1]},
                        "axis": None,
                    },
                    "color": {
                        "field": "kind",
                        "type": "nominal",
                        "scale": {"domain": present, "range": [KINDS[kind] for kind in present]},
                        "legend": {"columns": 0 if width > NARROW else 3},
                    },
                    "order": {"field": "order"},
                },
            },
            {
                "data": {"values": named},
                "mark": {**label, "align": "left", "limit": width - 70},
                "encoding": {"x": {"value": 0}, "text": {"field": "name"}},
            },
            {
                "data": {"values": named},
                "mark": {**label, "align": "right", "fontWeight": 600},
                "encoding": {"x": {"value": width}, "text": {"field": "share"}},
            },
        ],
    }


def percent(share: Decimal) -> str:
    """Give a share in percent, one decimal; 100.0 % only where nothing is missing."""
    rounded = (100 * share).quantize(Decimal("0.1"), rounding=ROUND_HALF_UP)
    return f"{min(rounded, Decimal('99.9')) if share < 1 else rounded} %"


def _draw(spec: Spec) -> str:
    fitted = {"autosize": {"type": "fit-x", "contains": "padding"}, "padding": 2, "config": _CONFIG, **spec}
    return vl_convert.vegalite_to_svg(fitted)
