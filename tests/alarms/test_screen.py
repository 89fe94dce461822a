"""What `pyflowguard watch` shows on a terminal, however many links there are and however small it is."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

import pytest
from rich.console import Console

from pyflowguard.health import Finding
from pyflowguard.present import watch_view
from pyflowguard.watch import Event, Seen, Watched

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
HEADINGS = re.compile(r"^link +mode .* guard *$")
LINK = re.compile(r"^public\.t\d\d ")


def link(number: int, wrong: int) -> Watched:
    return Watched(
        relation=f"public.t{number:02}",
        link_column="master_flow_id",
        mode="observe",
        total=100,
        linked=100 - wrong,
        wrong=wrong,
        coverage=(100 - wrong) / 100,
        estimated=False,
        guarded=True,
        writes=0.0,
        change=0,
    )


def finding(number: int) -> Finding:
    return Finding(
        level="WARN",
        name="not_guarded",
        relation=f"public.t{number:02}",
        cache_key=f"not_guarded:public.t{number:02}",
        description="the link is not guarded",
        detail=None,
        remedy="SELECT flowguard.guard()",
        amount=None,
    )


def seen(links: Sequence[Watched], findings: Sequence[Finding] = (), problem: str | None = None) -> Seen:
    wrong = sum(link.wrong for link in links)
    return Seen(NOON, "app", 90.0, tuple(links), tuple(findings), wrong, (), problem)


def happened(count: int) -> list[Event]:
    return [Event(NOON + timedelta(seconds=n), "violation", f"event {n} of {count}", {}) for n in range(1, count + 1)]


def shown(what: Seen, events: Sequence[Event], width: int, height: int) -> list[str]:
    """Give the lines that are printed, on a terminal of this size."""
    console = Console(file=io.StringIO(), width=width, height=height, highlight=False, markup=False, emoji=False)
    with console.capture() as capture:
        console.print(watch_view(console, what, events))
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize(("links", "height"), [(18, 24), (50, 24), (50, 40), (300, 50)])
def test_what_is_new_and_what_is_worst_are_shown_whatever_else_there_is(links: int, height: int, width: int) -> None:
    """The last link is the worst; the newest event is the last of all."""
    lines = shown(
        seen([link(n, wrong=n % 30) for n in range(min(links, 30))] + [link(n, wrong=0) for n in range(30, links)]),
        happened(200),
        width,
        height,
    )
    assert len(lines) < height
    told = [int(found[1]) for line in lines if (found := re.search(r"violation: event (\d+) of 200", line))]
    assert told == list(range(201 - len(told), 201))
    assert len(told) >= height // 4
    rows = [line.split()[0] for line in lines if LINK.match(line)]
    assert len(rows) >= height // 3
    worst = min(links, 30) - 1
    assert rows == [f"public.t{n:02}" for n in range(worst, worst - len(rows), -1)]
    assert lines[-1] == f"and {links - len(rows)} more"


@pytest.mark.parametrize("links", [1, 5])
def test_few_links_are_all_shown_with_what_is_found_and_what_happened(links: int) -> None:
    lines = shown(seen([link(n, wrong=0) for n in range(links)], [finding(0), finding(1)]), happened(3), 100, 24)
    assert lines[0].startswith("app  12:00:00 UTC  score 90.0, wrong rows: 0, 2 findings: 2 warn.")
    assert [line.partition(" violation: ")[2] for line in lines[1:4]] == [f"event {n} of 3" for n in (1, 2, 3)]
    assert [line.split()[:2] for line in lines[4:6]] == [["WARN", "public.t00"], ["WARN", "public.t01"]]
    assert HEADINGS.match(lines[6])
    assert [line.split()[0] for line in lines[8:]] == [f"public.t{n:02}" for n in range(links)]


def test_a_name_that_takes_two_lines_is_shown_whole() -> None:
    long = [
        Watched(**{**vars(link(n, wrong=n)), "relation": f"warehouse.incoming_goods_{n:02}_of_the_day"})
        for n in range(30)
    ]
    lines = shown(seen(long), happened(200), 80, 24)
    assert len(lines) < 24
    assert any("event 200 of 200" in line for line in lines)
    headings = next(line for line in lines if HEADINGS.match(line))
    cells = "".join(line[: headings.index("mode")].strip() for line in lines[lines.index(headings) :])
    assert "warehouse.incoming_goods_29_of_the_day" in cells
    assert re.fullmatch(r"and \d+ more", lines[-1])


@pytest.mark.parametrize("problem", [None, "The connection was lost while watching the links: " + "no answer " * 10])
@pytest.mark.parametrize("links", [0, 1, 50])
def test_it_is_never_more_than_there_is_room_for(links: int, problem: str | None) -> None:
    what = seen([link(n, wrong=n) for n in range(links)], [finding(0)] * 9, problem)
    least = 2 if problem is None else 5
    for height in (*range(least, 12), 24, 60):
        for count in (0, 1, 200):
            lines = shown(what, happened(count), 80, height)
            assert len(lines) < height, (height, count)
            if count and height > least:
                assert any(f"event {count} of {count}" in line for line in lines), (height, count)
