"""`pyflowguard report`: what the page says is what the database says, in each format, and it is HTML that holds."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from acceptance.command import Run, failure
from click.testing import CliRunner
from engine.postgres import Connection, one, rows, run
from markdown_it import MarkdownIt
from markdown_it.token import Token
from page.conftest import MakePage
from page.dom import drawn, labelled, parse, section, table, text
from page.history import write_history
from psycopg.conninfo import make_conninfo

from pyflowguard import page as writer
from pyflowguard import report as reports
from pyflowguard.charts import floor_of, percent
from pyflowguard.cli import cli

TWO_MEGABYTES = 2_000_000
REASON = "Reason, and when it was first seen"


def said(token: Token) -> str:
    """Give what a reader of Markdown sees of a line, or a cell."""
    return "".join(part.content for part in token.children or ())


def remedies_in(tokens: list[Token]) -> list[str]:
    """Give the statements of what is to be done next, in Markdown."""
    end = next(at for at, token in enumerate(tokens) if said(token) == "Coverage of each link")
    return sorted(token.content.strip() for token in tokens[:end] if token.type == "fence")


def dsn_of(connection: Connection) -> str:
    return connection.info.dsn


# --- HTML


@pytest.mark.parametrize("which", ["demo", "large"])
def test_a_page_is_valid_and_can_be_found_through(pages: dict[str, Path], which: str) -> None:
    page = parse(pages[which].read_text())
    html = page if page.tag == "html" else page.find("html")
    assert html is not None
    assert html.get("lang") == "en"
    assert text(next(page.iter("title")))

    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for _, name in labelled(page):
        assert name in ids
    for anchor in page.iter("a"):
        assert (anchor.get("href") or "").removeprefix("#") in ids

    assert [len(list(page.iter(tag))) for tag in ("header", "nav", "main", "footer", "h1")] == [1] * 5
    levels = [int(element.tag[1]) for element in page.iter() if re.fullmatch("h[1-6]", str(element.tag))]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for each in page.iter("table"):
        assert each.find("caption") is not None
        assert all(cell.get("scope") in {"col", "row", "rowgroup"} for cell in each.iter("th"))
    for svg in page.iter("{http://www.w3.org/2000/svg}svg"):
        assert svg.get("viewBox")
    pictures = [element for element in page.iter("div") if element.get("role") == "img"]
    assert all(element.get("aria-label") for element in pictures)
    assert len(pictures) == len(list(page.iter("{http://www.w3.org/2000/svg}svg")))


def test_a_page_without_any_link_says_so(engine_db: str, command: Run) -> None:
    made = command("report", "--dsn", engine_db)
    assert made.returncode == 0
    assert "No link is registered" in made.stderr
    page = parse(made.stdout)
    assert "No link is registered." in text(section(page, "coverage"))
    assert not list(page.iter("{http://www.w3.org/2000/svg}svg"))


def test_a_page_needs_nothing_else(app: Connection, make_page: MakePage) -> None:
    written = make_page(dsn_of(app))
    page = parse(written)
    assert not {"script", "iframe", "object", "embed", "base", "form"} & {element.tag for element in page.iter()}
    addresses = [
        value
        for element in page.iter()
        for name, value in element.attrib.items()
        if name.rpartition("}")[2] in {"src", "href", "srcset", "data", "action", "poster"}
    ]
    assert all(address.startswith("#") or address == "data:," for address in addresses)
    assert "url(" not in written
    assert "@import" not in written
    [policy] = [meta.get("content") for meta in page.iter("meta") if meta.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")


# --- What it says


def test_counts_and_scores_are_the_database_s(app: Connection, make_page: MakePage) -> None:
    page = parse(make_page(dsn_of(app)))
    score = one(app, "SELECT flowguard.health_score()")
    assert f"{score} of 100" in text(section(page, "health"))
    assert [(row["Category"], row["Score"]) for row in table(page, "mean of five categories")] == [
        (category, str(value)) for category, value in rows(app, "SELECT category, score FROM flowguard.health_category")
    ]
    shown = {
        row["Link"]: [
            row[name] for name in ("Mode", "Rows", "Linked", "Unlinked", "Dangling", "Mismatched", "Coverage")
        ]
        for row in table(page, "Rows of each link")
    }
    assert shown == {
        f"{relation}.{column}": [mode, *map(str, counts), percent(coverage)]
        for relation, column, mode, *counts, coverage in rows(
            app,
            "SELECT relation::text, link_column, mode, total, linked, unlinked, dangling, mismatched, coverage "
            "FROM flowguard.link_status",
        )
    }
    assert next(iter(shown)) == "child.flow"  # it has the most to mend
    for link in ("parent.flow", "child.flow", "probe.flow"):
        assert link in drawn(section(page, "coverage"))
    assert "event.flow" not in drawn(page)  # it is complete


def test_what_is_found_is_there_with_its_remedy_the_most_urgent_first(app: Connection, make_page: MakePage) -> None:
    page = parse(make_page(dsn_of(app)))
    found = rows(
        app,
        "SELECT level, relation, description, remedy FROM flowguard.check_all() "
        "ORDER BY array_position('{ERROR,WARN,INFO}', level), amount DESC NULLS LAST",
    )
    shown = section(page, "next").findall(".//li")
    written = [(text(item.findall("p")[0]), text(item.findall("pre")[0])) for item in shown]
    assert sorted(written) == sorted(
        (f"{level} {relation}: {description}", " ".join(remedy.split()))
        for level, relation, description, remedy in found
    )
    levels = [line.split()[0] for line, _ in written]
    assert levels == sorted(levels, key=["ERROR", "WARN", "INFO"].index)
    first_warning = levels.index("WARN")
    assert "50 of 53 rows are unlinked" in written[first_warning][0]


def test_violations_are_shared_out_and_the_rest_is_counted(app: Connection, make_page: MakePage) -> None:
    counts = {
        (f"{relation}.{column}", kind): amount
        for relation, column, kind, amount in rows(
            app, "SELECT relation::text, link_column, kind, count(*) FROM flowguard.violation GROUP BY 1, 2, 3"
        )
    }
    total = sum(counts.values())
    assert total > 50
    page = parse(make_page(dsn_of(app), "--violations", "10"))
    groups = [text(row) for row in section(page, "violations").iter("tr") if row.get("class") == "group"]
    listed = table(section(page, "violations"), "Rows that are not validly linked")
    assert len(listed) == 10
    for (link, kind), amount in counts.items():
        assert sum(group.startswith(f"{link}: {amount} {kind}") for group in groups) == 1
    assert f"{total - 10} more are not listed here" in text(section(page, "violations"))
    page = parse(make_page(dsn_of(app), "--violations", "1"))
    listed_few = table(section(page, "violations"), "Rows that are not validly linked")
    assert len(listed_few) == len(counts) > 1  # at least one of each

    reasons = {
        f"id = {key['id']}": reason for key, reason in rows(app, "SELECT row_key, reason FROM flowguard.violation")
    }
    assert all(row[REASON] == reasons[row["Row"]] for row in listed)

    one(app, "SELECT count(*) FROM flowguard.check_all()")  # notes when they were seen
    seen = one(app, "SELECT to_char(min(seen_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') FROM flowguard.violation")
    page = parse(make_page(dsn_of(app)))
    for row in table(section(page, "violations"), "Rows that are not validly linked"):
        assert row[REASON] == f"{reasons[row['Row']]} {seen} UTC"

    page = parse(make_page(dsn_of(app), "--violations", "60"))
    assert len(table(section(page, "violations"), "Rows that are not validly linked")) == total
    assert "not listed" not in text(section(page, "violations"))


def test_no_violation_is_looked_for_that_is_not_wanted(app: Connection, make_page: MakePage) -> None:
    words = text(section(parse(make_page(dsn_of(app), "--violations", "0")), "violations"))
    wrong = one(app, "SELECT sum(total - linked) FROM flowguard.link_status")
    assert words.startswith(f"Violations {wrong} rows are not validly linked. They were not asked for;")


def test_a_run_is_there_with_the_command_that_takes_it_back(app: Connection, make_page: MakePage) -> None:
    run(app, "INSERT INTO child (id, tenant, parent) VALUES (200, 1, 11); UPDATE child SET flow = NULL WHERE id = 200")
    run(app, "UPDATE parent SET flow = 2 WHERE id = 11")
    run(app, "CALL flowguard.repair(note => 'after the move')")
    [shown] = table(section(parse(make_page(dsn_of(app))), "runs"), "The last 1 runs")
    linked, quarantined, remaining = rows(app, "SELECT linked, quarantined, remaining FROM flowguard.run")[0]
    assert (shown["Linked"], shown["Quarantined"], shown["Remained"]) == (str(linked), str(quarantined), str(remaining))
    assert quarantined
    assert "every link after the move by app_owner" in shown["What for"]
    held = table(section(parse(make_page(dsn_of(app))), "runs"), "held in quarantine")
    assert [(row["Run"], row["Table"], row["Rows"]) for row in held] == [("1", "public.parent", str(quarantined))]

    for link in ("parent", "child"):
        run(app, "SELECT flowguard.unguard(%s::regclass, 'flow')", link)
    command = shlex.split(shown["Take it back"])
    assert command[0] == "pyflowguard"
    result = CliRunner().invoke(cli, [*command[1:], "--dsn", dsn_of(app)])
    assert result.exit_code == 0, result.output
    [shown] = table(section(parse(make_page(dsn_of(app))), "runs"), "The last 1 runs")
    assert (shown["Status"], shown["Take it back"]) == ("undone", "nothing to take back")


def test_many_runs_are_counted(app: Connection, make_page: MakePage) -> None:
    for _ in range(reports.RUNS + 3):
        run(app, "CALL flowguard.repair('event', link_column => 'flow')")
    shown = table(section(parse(make_page(dsn_of(app))), "runs"), "3 earlier ones are in flowguard.run")
    assert [row["Run"].split()[0] for row in shown] == [str(n) for n in range(reports.RUNS + 3, 3, -1)]


def test_what_the_guard_costs_is_measured(
    app: Connection, make_page: MakePage, as_role: Callable[[str, str], str]
) -> None:
    page = parse(make_page(dsn_of(app)))
    shown = {row["Table"]: row for row in table(section(page, "costs"), "put on each table")}
    for name in ("parent", "child", "flow", "event"):
        indexes, keys, triggers = rows(
            app,
            "SELECT (SELECT count(*) FROM pg_indexes WHERE tablename = %(t)s AND indexname LIKE 'flowguard\\_%%'), "
            "(SELECT count(*) FROM pg_constraint WHERE conrelid = %(t)s::regclass AND contype = 'f' AND conname LIKE "
            "'flowguard\\_%%'), (SELECT count(*) FROM pg_trigger WHERE tgrelid = %(t)s::regclass AND tgname LIKE "
            "'~flowguard%%' AND NOT tgisinternal)".replace("%(t)s", f"'{name}'").replace("%%", "%"),
        )[0]
        assert [shown[name][column] for column in ("Our indexes", "Keys", "Triggers")] == [
            str(indexes),
            str(keys),
            str(triggers),
        ], name
        assert indexes
    size = one(
        app,
        "SELECT pg_size_pretty(sum(pg_relation_size(indexname::regclass))) FROM pg_indexes "
        "WHERE tablename = 'child' AND indexname LIKE 'flowguard\\_%'",
    )
    assert shown["child"]["Their size"] == size
    assert "track_functions is off" in text(section(page, "costs"))

    database = app.info.dbname
    with psycopg.connect(as_role(dsn_of(app), "postgres"), autocommit=True) as admin:
        run(admin, f"ALTER DATABASE {database} SET track_functions = 'pl'")
    with psycopg.connect(dsn_of(app)) as counted:
        counted.execute("INSERT INTO child (id, tenant, parent) SELECT n, 1, 10 FROM generate_series(1000, 1006) AS n")
    functions = table(section(parse(make_page(dsn_of(app))), "costs"), "Calls of trigger functions")
    [calls] = [row["Calls"] for row in functions if row["Function"] == "child_flow_fill"]
    assert calls == "7"


def test_a_size_is_given_as_postgresql_gives_it(db: Connection) -> None:
    for size in (0, 1, 8192, 10_239, 10_240, 16_384, 10_485_247, 10_485_248, 123_456_789, 9 * 10**9, 5 * 10**13):
        [(pretty,)] = rows(db, "SELECT pg_size_pretty(%s::bigint)", size)
        assert writer._size(size) == pretty  # noqa: SLF001  it has no other way out


def test_a_page_changes_nothing(app: Connection, make_page: MakePage) -> None:
    """Not even the times at which violations were first seen."""
    make_page(dsn_of(app))
    assert one(app, "SELECT count(*) FROM flowguard.violation_seen") == 0


def test_who_may_only_look_may_make_a_page(
    roles: Callable[[str], Connection], app: Connection, make_page: MakePage
) -> None:
    roles("flowguard_viewer")
    viewer = make_conninfo(app.info.dsn, user="postgres", options="-c role=flowguard_viewer")
    assert "50 of 53 rows are unlinked" in make_page(viewer)


def test_drift_is_what_the_doctor_finds(app: Connection, make_page: MakePage) -> None:
    run(app, 'ALTER TABLE parent DISABLE TRIGGER "~flowguard_parent_flow_insert"')
    page = parse(make_page(dsn_of(app)))
    found = rows(app, "SELECT relation, description, remedy, safe FROM flowguard.doctor()")
    assert any("parent" in relation for relation, *_ in found)
    shown = section(page, "drift").findall(".//li")
    assert len(shown) == len(found)
    said_of = {text(item.findall("pre")[0]): text(item) for item in shown}
    for _, description, remedy, safe in found:
        line = said_of[" ".join(remedy.split())]
        assert ("safe to fix" in line) is safe
        assert description in line or sum(remedy == other for *_, other, _ in found) > 1
    assert "Something is wrong" in text(section(page, "health"))


# --- Over time


@pytest.fixture
def history(app: Connection) -> Connection:
    """The small application with a history of forty days."""
    write_history(app, 40, changing=2)
    return app


def test_the_trend_is_that_of_the_snapshots(history: Connection, make_page: MakePage) -> None:
    page = parse(make_page(dsn_of(history)))
    scores = rows(history, "SELECT taken_at, score FROM flowguard.health_snapshot ORDER BY taken_at DESC")
    shown = table(section(page, "trend"), "Health score by time")
    assert [row["Score"] for row in shown] == [str(score) for _, score in scores]
    assert "40 exact snapshots" in text(section(page, "trend"))
    links = {row["Link"]: row for row in table(section(page, "trend"), "over all snapshots")}
    for table_name, first, lowest, highest, latest in rows(
        history,
        "SELECT table_name, (array_agg(coverage ORDER BY snapshot_id))[1], min(coverage), max(coverage), "
        "(array_agg(coverage ORDER BY snapshot_id DESC))[1] FROM flowguard.health_snapshot_link GROUP BY table_name",
    ):
        assert [links[f"{table_name}.flow"][name] for name in ("First", "Lowest", "Highest", "Latest")] == [
            percent(value) for value in (first, lowest, highest, latest)
        ]
    drawn_small = [
        text(item) for item in section(page, "trend").findall(".//ul[@class='several']/li/figure/figcaption")
    ]
    changed = rows(
        history, "SELECT table_name FROM flowguard.health_snapshot_link GROUP BY 1 HAVING max(coverage) > min(coverage)"
    )
    assert sorted(name.partition(".")[0] for name in drawn_small) == sorted(name for (name,) in changed)


def test_today_is_compared_with_yesterday(history: Connection, make_page: MakePage) -> None:
    score, taken_at = rows(
        history,
        "SELECT score, to_char(taken_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') FROM flowguard.health_snapshot "
        "ORDER BY taken_at DESC LIMIT 1",
    )[0]
    before = one(
        history,
        "SELECT unlinked FROM flowguard.health_snapshot_link WHERE table_name = 'event' "
        "ORDER BY snapshot_id DESC LIMIT 1",
    )
    assert before == 0
    run(history, "INSERT INTO event (id, tenant) SELECT n, 1 FROM generate_series(1, 6) AS n")
    page = parse(make_page(dsn_of(history)))
    change = one(history, "SELECT flowguard.health_score()") - score
    assert f"has changed by {change:+}".replace("-", "\N{MINUS SIGN}") in text(section(page, "health"))
    shown = {row["Link"]: row[f"To mend since {taken_at}"] for row in table(page, "Rows of each link")}
    assert shown["event.flow"] == "+6"

    run(history, "SELECT flowguard.snapshot(exact => true)")
    page = parse(make_page(dsn_of(history)))
    shown = {row["Link"]: row[f"To mend since {taken_at}"] for row in table(page, "Rows of each link")}
    assert shown["event.flow"] == "+6"


def test_estimates_and_exact_snapshots_are_not_mixed(history: Connection, make_page: MakePage) -> None:
    run(
        history,
        "INSERT INTO flowguard.health_snapshot (taken_at, exact, score) VALUES (now() - interval '1 day', false, 1)",
    )
    assert "40 exact snapshots; 1 estimate left out" in text(section(parse(make_page(dsn_of(history))), "trend"))
    run(
        history,
        "INSERT INTO flowguard.health_snapshot (taken_at, exact, score) "
        "SELECT now() - make_interval(days => n), false, 1 FROM generate_series(2, 3) AS n",
    )
    page = parse(make_page(dsn_of(history)))
    assert "40 exact snapshots; 3 estimates left out" in text(section(page, "trend"))
    assert "1" not in {row["Score"] for row in table(section(page, "trend"), "Health score by time")}
    assert "has changed by" in text(section(page, "health"))
    run(
        history,
        "INSERT INTO flowguard.health_snapshot (taken_at, exact, score) "
        "SELECT now() - make_interval(hours => n), false, 99.5 FROM generate_series(1, 60) AS n",
    )
    page = parse(make_page(dsn_of(history)))
    words = text(section(page, "trend"))
    assert "63 snapshots, estimated where tables are large; 40 exact ones left out" in words
    assert "by an estimate" in text(section(page, "health"))


def test_of_many_snapshots_none_that_was_low_is_lost(history: Connection) -> None:
    run(
        history,
        "INSERT INTO flowguard.health_snapshot (taken_at, taken_by, exact, score) "
        "SELECT now() - make_interval(mins => n), current_user, true, "
        "CASE n WHEN 700 THEN 12.5 ELSE 98 END FROM generate_series(1, 2000) AS n",
    )
    run(history, "INSERT INTO flowguard.health_snapshot (taken_by, exact, score) VALUES (current_user, true, 99.5)")
    trend = reports.read_report(dsn_of(history)).trend
    assert trend is not None
    assert trend.snapshots == 2041
    assert len(trend.score) <= reports.POINTS + 1
    assert min(point.value for point in trend.score) == Decimal("12.5")
    assert trend.score[-1].value == Decimal("99.5")
    assert [point.taken_at for point in trend.score] == sorted(point.taken_at for point in trend.score)


def test_one_snapshot_is_no_trend(app: Connection, make_page: MakePage) -> None:
    assert "There is no snapshot yet." in text(section(parse(make_page(dsn_of(app))), "trend"))
    run(app, "SELECT flowguard.snapshot()")
    assert "A trend needs two." in text(section(parse(make_page(dsn_of(app))), "trend"))


def test_fifty_links_and_a_year_stay_readable(large_db: str, pages: dict[str, Path]) -> None:
    written = pages["large"].read_text()
    assert len(written.encode()) < TWO_MEGABYTES
    page = parse(written)
    assert len(table(page, "Rows of each link")) == 50
    assert len(table(page, "over all snapshots")) == 50
    assert len(section(page, "trend").findall(".//ul[@class='several']/li")) == reports.TRENDS
    at_once = section(page, "next").findall("./ol/li")
    unfolded = section(page, "next").findall("./details/ol/li")
    with psycopg.connect(large_db) as connection:
        found = one(connection, "SELECT count(*) FROM flowguard.check_all()")
    assert (len(at_once), len(at_once) + len(unfolded)) == (writer.OPEN, found)


def test_an_axis_begins_at_a_round_value_below_all() -> None:
    for values, whole, expected in (
        (["99.95"], 100, "99"),
        (["99.2", "96"], 100, "95"),
        (["91"], 100, "90"),
        (["79.9", "83"], 100, "70"),
        (["81.1"], 100, "70"),  # so that there is room below it
        (["0.04"], 1, "0"),
        (["1"], 1, "0.99"),
    ):
        assert floor_of([Decimal(value) for value in values], whole) == Decimal(expected)


def test_all_is_given_only_where_nothing_is_missing() -> None:
    shares = {"1": "100.0 %", "0.9999": "99.9 %", "0.7778": "77.8 %", "0": "0.0 %"}
    assert {share: percent(Decimal(share)) for share in shares} == shares


# --- What others have written


EVIL_TABLE = "<script>alert(1)</script>"
EVIL_COLUMN = '"><img src=x onerror=alert(2)>'
EVIL_KEY = "</td></table><script>alert(3)</script> | `*_[x](javascript:alert(3))"
EVIL_LINK = f"{'x' * 200}&lt;'\"></title><svg onload=alert(4)>`"
EVIL_NOTE = f"{'y' * 200}</style><iframe src=https://evil.example></iframe> ``` <!-- "


@pytest.fixture
def hostile(db: Connection) -> Connection:
    """A database whose tables, columns, keys and notes are named by somebody who means harm."""
    quoted = {
        "table": '"' + EVIL_TABLE.replace('"', '""') + '"',
        "column": '"' + EVIL_COLUMN.replace('"', '""') + '"',
    }
    run(db, "CREATE TABLE flow (id text PRIMARY KEY, tenant text NOT NULL, created_at timestamptz DEFAULT now())")
    run(db, "INSERT INTO flow VALUES ('a', 't')")
    run(
        db,
        "CREATE TABLE {table} (id text PRIMARY KEY, tenant text NOT NULL, {column} text)".format(**quoted),
    )
    run(db, "INSERT INTO {table} VALUES (%s, 't', %s), ('well', 't', 'a')".format(**quoted), EVIL_KEY, EVIL_LINK)
    run(db, "SELECT flowguard.add_master('flow', 'id', '{tenant}')")
    run(db, "SELECT flowguard.add_link(%s::regclass, %s, on_orphan => 'keep')", quoted["table"], EVIL_COLUMN)
    run(db, "SELECT flowguard.guard(%s::regclass, %s)", quoted["table"], EVIL_COLUMN)
    write_history(db, 20, changing=1)
    run(db, "CALL flowguard.repair(note => %s)", EVIL_NOTE)
    run(db, "SELECT flowguard.bypass(%s)", EVIL_NOTE)
    return db


def test_what_others_wrote_stays_text_in_html(hostile: Connection, make_page: MakePage) -> None:
    page = parse(make_page(dsn_of(hostile)))
    assert not {"script", "img", "iframe", "b"} & {str(element.tag) for element in page.iter()}
    assert not [name for element in page.iter() for name in element.attrib if name.lower().startswith("on")]
    assert len(list(page.iter("title"))) == 1
    assert text(section(page, "runs")).count(EVIL_NOTE.strip()) == 1
    [violation] = table(section(page, "violations"), "Rows that are not validly linked")
    assert violation["Row"] == f"id = {EVIL_KEY}"
    assert EVIL_LINK in violation[REASON]
    for name in ("coverage", "next", "violations", "trend", "runs"):
        assert EVIL_TABLE in text(section(page, name)) or name == "runs", name
    assert "<script>alert" in drawn(page)


def test_what_others_wrote_stays_text_in_markdown(hostile: Connection, make_page: MakePage) -> None:
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = markdown.parse(make_page(dsn_of(hostile), form="markdown"))
    every = [token for block in tokens for token in (block, *(block.children or ()))]
    assert not {"html_block", "html_inline", "link_open", "image", "em_open"} & {token.type for token in every}
    inline = [said(token) for token in tokens if token.type == "inline"]
    assert f"id = {' '.join(EVIL_KEY.split())}" in inline
    assert any(EVIL_LINK in words for words in inline)
    assert remedies_in(tokens) == sorted(
        remedy for (remedy,) in rows(hostile, "SELECT remedy FROM flowguard.check_all()")
    )


# --- Formats and errors


def test_markdown_says_the_same(app: Connection, make_page: MakePage) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(make_page(dsn_of(app), form="markdown"))
    headings = [said(tokens[at + 1]) for at, token in enumerate(tokens) if token.type == "heading_open"]
    page = parse(make_page(dsn_of(app)))
    assert headings == [text(element) for element in page.iter() if element.tag in {"h1", "h2"}]
    cells = [said(token) for token in tokens if token.type == "inline"]
    for row in table(page, "Rows of each link"):
        assert row["Link"] in cells
    assert remedies_in(tokens) == sorted(remedy for (remedy,) in rows(app, "SELECT remedy FROM flowguard.check_all()"))


def test_json_has_all_of_it(history: Connection, make_page: MakePage, command: Run) -> None:
    data: dict[str, Any] = json.loads(make_page(dsn_of(history), "--violations", "10", form="json"))
    assert data["health"]["score"] == float(one(history, "SELECT flowguard.health_score()"))
    assert len(data["health"]["links"]) == 5
    assert data["trend"]["snapshots"] == 40
    assert sum(len(wrong["rows"]) for wrong in data["wrong"]) == 10
    assert sum(wrong["amount"] for wrong in data["wrong"]) > 50
    assert {"findings", "runs", "held", "drift", "costs", "made_at", "database"} <= set(data)
    short = command("report", "--dsn", dsn_of(history), "--json")
    assert json.loads(short.stdout)["health"] == data["health"]


def test_what_cannot_be_meant_is_refused(command: Run, app: Connection, tmp_path: Path) -> None:
    assert "--json is short for --format json" in command("report", "--json", "--format", "html").stderr
    message = failure(command("report", "--dsn", dsn_of(app), "-o", tmp_path / "no" / "such.html"), 2)
    assert "such.html: No such file or directory." in message


WITHOUT = "import sys; sys.modules['jinja2'] = None; from pyflowguard.cli import main; main()"


def test_without_the_extra_there_is_json_and_a_hint(app: Connection) -> None:
    def report(*options: str) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-c", WITHOUT, "report", "--dsn", dsn_of(app), *options]
        return subprocess.run(arguments, capture_output=True, text=True, check=False)

    message = failure(report(), 4)
    assert "A report in html cannot be written: the package jinja2 is not installed." in message
    assert "HINT:  pip install 'pyflowguard[report]'" in message
    assert json.loads(report("--json").stdout)["health"]
