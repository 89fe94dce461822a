"""Charts as SVG, drawn by Vega-Lite in this process: what comes back has no script and asks for nothing.

Colours are variables of the page's style sheet, so that one drawing serves light, dark and print. A drawing that is
made smaller has smaller letters; so each is made for a width, and a page shows the one that fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, TypeAlias

import vl_convert

from pyflowguard.health import LinkStatus
from pyflowguard.report import Point

Spec: TypeAlias = dict[str, Any]

WIDE, MIDDLE, NARROW = 976, 680, 320
"""Widths in CSS pixels, of a page on a desk, on a tablet and on a phone."""

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


_TIMES = (
    (timedelta(days=60), "%b %Y"),
    (timedelta(days=3), "%-d %b"),
    (timedelta(hours=1), "%-d %b %H:%M"),
    (timedelta(0), "%H:%M:%S"),
)
"""How a time is told, by how long all of it is."""

_FLOORS = [Decimal(part) / 100 for part in (99, 98, 95, 90, 80, 70, 60, 50, 40, 30, 20, 10)]


@dataclass(frozen=True)
class Chart:
    """A drawing for a desk, a tablet and a phone."""

    wide: str
    middle: str
    narrow: str


def score_chart(points: Sequence[Point]) -> Chart:
    """Draw the score over time, with its lowest and its latest value."""
    return Chart(*(_draw(_score(points, width)) for width in (WIDE, MIDDLE, NARROW)))


def coverage_chart(links: Sequence[LinkStatus]) -> Chart:
    """Draw a bar for each link: which share of its rows is linked, and what the others are."""
    return Chart(*(_draw(_coverage(links, width)) for width in (WIDE, MIDDLE, NARROW)))


def link_chart(points: Sequence[Point], lowest: Decimal) -> str:
    """Draw the coverage of one link over time, from `lowest` up, so that several can be compared."""
    return _draw(_link(points, lowest))


def floor_of(values: Sequence[Decimal], whole: int) -> Decimal:
    """Give a round value a little below all of these, where an axis up to the `whole` may begin."""
    lowest = min(values) / whole
    return whole * next((part for part in _FLOORS if lowest >= part + (1 - part) / 10), Decimal(0))


def _score(points: Sequence[Point], width: int) -> Spec:
    values = _over_time(points)
    lowest = min(range(len(values)), key=lambda place: (values[place]["value"], -place))
    last = len(values) - 1
    marked = [
        {
            **values[place],
            "label": f"{values[place]['value']:.1f}",
            "align": "right" if 2 * place > last else "left",
            "below": place == lowest,
        }
        for place in sorted({lowest, last})
    ]
    bottom = float(floor_of([point.value for point in points], 100))
    return {
        "width": width,
        "height": 220,
        "encoding": {
            "x": _time_axis(points, {"tickCount": width // 100}),
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
                "mark": {
                    "type": "text",
                    "align": {"expr": "datum.align"},
                    "dy": {"expr": "datum.below ? 16 : -12"},
                    "fontWeight": 600,
                },
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
            "x": _time_axis(
                points, {"values": [1000 * point.taken_at.timestamp() for point in (points[0], points[-1])]}
            ),
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


def _time_axis(points: Sequence[Point], ticks: Spec) -> Spec:
    span = points[-1].taken_at - points[0].taken_at
    form = next(form for at_least, form in _TIMES if span >= at_least)
    return {
        "field": "time",
        "type": "temporal",
        "scale": {"type": "utc"},
        "axis": {"format": form, **ticks},
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
        "padding": {"left": 0, "right": 0, "top": 2, "bottom": 2},
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
