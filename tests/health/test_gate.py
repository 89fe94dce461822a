"""`pyflowguard check` as the gate of a pipeline: what lets it fail, and what each format says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner
from engine.postgres import Connection, one, run
from engine.tables import guard
from health.reports import READERS, read_command, read_failed, read_github, read_junit, read_sarif
from health.test_check import DEFECTS, make_well, mend, past_the_keys

from pyflowguard import formats, gate, health
from pyflowguard.cli import cli
from pyflowguard.errors import UsageError
from pyflowguard.health import KINDS, SCORE_TOO_LOW, Finding

FAR = "2999-12-31"


@dataclass(frozen=True)
class Printed:
    """What a command printed, and its exit code."""

    exit_code: int
    stdout: str
    stderr: str

    def keys(self, form: str) -> list[str]:
        """Give the keys of the findings in it; it has to be what the format wants."""
        return READERS[form](self.stdout)


def check(connection: Connection, *options: str | Path) -> Printed:
    """Run `pyflowguard check` on the database of a connection."""
    arguments = ["check", "--dsn", connection.info.dsn, *map(str, options)]
    result = CliRunner().invoke(cli, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Printed(result.exit_code, result.stdout, result.stderr)


# --- Each kind of defect, planted and mended


def plant_key_not_validated(connection: Connection) -> None:
    run(connection, "SELECT flowguard.unguard('probe', 'flow')")
    run(connection, "INSERT INTO probe VALUES (61, 1, 77, now())")
    guard(connection, "probe")


def plant_quarantine(connection: Connection) -> None:
    past_the_keys(connection, "INSERT INTO parent VALUES (11, 1, 77)")
    run(connection, "CALL flowguard.repair()")


PLANTS: dict[str, Callable[[Connection], None]] = {
    **{name: plant for name, (plant, _, _) in DEFECTS.items()},
    "key_not_validated": plant_key_not_validated,
    "rows_in_quarantine": plant_quarantine,
    SCORE_TOO_LOW: DEFECTS["unlinked_rows"][0],
}


def mend_planted(connection: Connection, name: str) -> list[str]:
    """Mend what was planted, and give the options with which the gate has to pass then."""
    if name == "bypassed":
        return ["--ignore", "bypassed"]  # what happened stays on record
    if name in DEFECTS:
        make_well(connection, name)
    elif name == SCORE_TOO_LOW:
        make_well(connection, "unlinked_rows")
    else:
        if name == "rows_in_quarantine":
            run(connection, "SELECT flowguard.unguard('parent', 'flow')")  # as undo() would ask for
        mend(connection, str(one(connection, "SELECT remedy FROM flowguard.check_all() WHERE name = %s", name)))
        if name == "rows_in_quarantine":
            run(connection, "DELETE FROM parent WHERE id = 11")
            guard(connection, "parent")
    return []


def test_every_kind_is_planted() -> None:
    assert set(PLANTS) == set(KINDS)


@pytest.mark.parametrize("name", PLANTS)
def test_the_gate_fails_on_a_defect_and_passes_when_it_is_mended(well: Connection, name: str) -> None:
    """In each format, whose own validator takes what is printed."""
    options = ["--fail-on", "info" if name in {"bypassed", "rows_in_quarantine"} else "warn"]
    options += ["--min-score", "100"] if name == SCORE_TOO_LOW else []
    PLANTS[name](well)
    for form in READERS:
        printed = check(well, "--format", form, *options)
        assert (printed.exit_code, printed.stderr) == (1, ""), form
        assert name in {key.partition(":")[0] for key in printed.keys(form)}, form
        if form == "junit":
            assert name in {key.partition(":")[0] for key in read_failed(printed.stdout)}
    printed = check(well, "--format", "junit", *options, *mend_planted(well, name))
    assert (printed.exit_code, printed.stderr) == (0, "")
    assert read_failed(printed.stdout) == []


# --- Formats


@pytest.mark.parametrize("form", READERS)
def test_where_all_is_well_nothing_is_printed_that_fails(well: Connection, form: str) -> None:
    printed = check(well, "--format", form, "--fail-on", "info", "--min-score", "100")
    assert (printed.exit_code, printed.keys(form), printed.stderr) == (0, [], "")


def test_json_has_a_short_way(dirty: Connection) -> None:
    printed = check(dirty, "--json")
    assert printed == check(dirty, "--format", "json") == check(dirty, "--format", "json", "--json")
    with dirty.cursor() as cursor:
        cursor.execute("SELECT * FROM flowguard.check_all()")
        assert {column.name for column in cursor.description or ()} == set(json.loads(printed.stdout)[0])
    assert check(dirty, "--json", "--format", "sarif").exit_code == 2


def test_what_is_below_the_level_is_shown_and_does_not_fail(dirty: Connection) -> None:
    levels = {finding["cache_key"]: finding["level"] for finding in json.loads(check(dirty, "--json").stdout)}
    errors = {key for key, level in levels.items() if level == "ERROR"}
    assert errors
    assert errors != set(levels)
    printed = check(dirty, "--format", "junit", "--fail-on", "error")
    assert printed.exit_code == 1
    assert set(printed.keys("junit")) == set(levels)
    assert set(read_failed(printed.stdout)) == errors


def test_levels_have_a_name_in_each_format(dirty: Connection) -> None:
    run(dirty, "SELECT flowguard.bypass('a test')")
    levels = [finding["level"] for finding in json.loads(check(dirty, "--json").stdout)]
    assert set(levels) == {"ERROR", "WARN", "INFO"}
    results = json.loads(check(dirty, "--format", "sarif").stdout)["runs"][0]["results"]
    assert [result["level"] for result in results] == [
        {"ERROR": "error", "WARN": "warning", "INFO": "note"}[level] for level in levels
    ]
    *commands, _ = check(dirty, "--format", "github").stdout.splitlines()
    assert [read_command(command)[0] for command in commands] == [
        {"ERROR": "error", "WARN": "warning", "INFO": "notice"}[level] for level in levels
    ]


ODD = "odd %0A,:;=::\n\r\x01\x1b\ufffe<&>]]>\"'é"


def test_a_name_of_odd_characters_breaks_no_format(app: Connection) -> None:
    quoted = '"' + ODD.replace('"', '""') + '"'
    run(app, f"CREATE TABLE {quoted} (id int PRIMARY KEY, tenant int NOT NULL, flow int)")
    run(app, f"SELECT flowguard.add_link('{quoted.replace(chr(39), chr(39) * 2)}', 'flow')")
    [key] = [
        finding.cache_key
        for finding in health.check(app.info.dsn)
        if finding.name == "not_guarded" and "odd" in finding.cache_key
    ]
    assert key == f"not_guarded:public.{quoted}:flow"
    for form in ("json", "sarif"):
        assert key in check(app, "--format", form).keys(form)
    *commands, _ = check(app, "--format", "github").stdout.split("\n")[:-1]
    assert any(read_command(command)[2].endswith(f"\nkey: {key}") for command in commands)
    in_xml = key.replace("\x01", "\ufffd").replace("\x1b", "\ufffd").replace("\ufffe", "\ufffd")
    assert in_xml in check(app, "--format", "junit").keys("junit")
    in_latin = CliRunner(charset="latin-1").invoke(cli, ["check", "--dsn", app.info.dsn, "--format", "junit"])
    assert in_xml in read_junit(in_latin.stdout_bytes.decode())


def test_the_title_of_an_annotation_is_escaped() -> None:
    """A comma would end the property, two colons the properties. The title of what is not known is its name."""
    name = "50 %, a:: b\r\nc%2C"
    [command] = formats.as_github(verdict_on(Finding(name, "WARN", None, "100 %: a, b\r\n", None, "none", "odd")))
    assert read_command(command) == ("warning", {"title": name}, "100 %: a, b\r\n\nremedy: none\nkey: odd")


def test_a_finding_of_a_newer_engine_is_reported() -> None:
    """A kind that this version does not know."""
    verdict = verdict_on(Finding("brand_new", "ERROR", "public.t", "is new", None, "see there", "brand_new:public.t"))
    assert read_junit(formats.as_junit(verdict).decode()) == ["brand_new:public.t"]
    assert read_sarif(json.dumps(formats.as_sarif(verdict))) == ["brand_new:public.t"]
    assert read_github("\n".join([*formats.as_github(verdict), "1 finding: 1 ERROR."])) == ["brand_new:public.t"]


def verdict_on(*findings: Finding) -> gate.Verdict:
    return gate.judge(findings, fail_on="WARN", today=date(2026, 1, 1))


# --- The score


def test_a_low_score_is_a_finding_of_its_own(dirty: Connection) -> None:
    score = one(dirty, "SELECT flowguard.health_score()")
    assert SCORE_TOO_LOW not in check(dirty, "--json", "--min-score", score).keys("json")
    printed = check(dirty, "--fail-on", "error", "--min-score", "99.95")
    assert printed.stdout.startswith(f"ERROR  the health score is {score}, below 99.95\n")
    assert check(dirty, "--min-score", "101").exit_code == 2


def test_a_baseline_does_not_lower_the_score_asked_for(dirty: Connection, tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.json"
    assert check(dirty, "--min-score", "100", "--write-baseline", baseline).exit_code == 1
    printed = check(dirty, "--min-score", "100", "--baseline", baseline, "--json")
    assert (printed.exit_code, printed.keys("json")) == (1, [SCORE_TOO_LOW])
    assert check(dirty, "--min-score", "10", "--baseline", baseline).exit_code == 0


# --- The ignore file

UNLINKED = "unlinked_rows:public.child:flow"


@pytest.fixture
def ignoring(well: Connection, tmp_path: Path) -> Callable[[str], Printed]:
    """Plant an unlinked row, and check with an ignore file of this text."""
    PLANTS["unlinked_rows"](well)
    file = tmp_path / "ignore"

    def run_check(text: str) -> Printed:
        file.write_text(text, encoding="utf-8")
        return check(well, "--ignore-file", file)

    return run_check


def test_a_finding_is_ignored_for_a_while(ignoring: Callable[[str], Printed]) -> None:
    printed = ignoring(f"# an import of 2019\n\n  {UNLINKED}  {FAR}  no flow # was kept of it\n")
    assert printed == Printed(0, "Nothing found; not counted: 1 ignored.\n", "")


def test_what_is_expired_counts_again_and_is_said(ignoring: Callable[[str], Printed], tmp_path: Path) -> None:
    printed = ignoring(f"# old\n{UNLINKED} 2025-12-31 until the year is over\n")
    assert (printed.exit_code, printed.keys("text")) == (1, [UNLINKED])
    note = f"{tmp_path}/ignore:2: {UNLINKED} was to be ignored until 2025-12-31, and counts again."
    assert printed.stderr == f"NOTE:  {note}\n"


def test_an_entry_that_is_of_no_use_is_said(ignoring: Callable[[str], Printed], tmp_path: Path) -> None:
    printed = ignoring(f"{UNLINKED} {FAR} one\npaused:public.parent:flow {FAR} two\n")
    assert printed.exit_code == 0
    assert printed.stderr == f"NOTE:  {tmp_path}/ignore:2: nothing is found with the key paused:public.parent:flow.\n"


@pytest.mark.parametrize(("today", "counts"), [("2026-02-28", False), ("2026-03-01", True)])
def test_the_last_day_is_a_day_on_which_it_is_ignored(today: str, *, counts: bool) -> None:
    finding = Finding("paused", "WARN", "t", "the guard is paused", None, "resume", "paused:t")
    entry = gate.Ignored("paused:t", date(2026, 2, 28), "a test", "file:1")
    verdict = gate.judge([finding], fail_on="WARN", today=date.fromisoformat(today), ignore=[entry])
    assert bool(verdict.failing) is counts
    assert bool(verdict.notes) is counts


def test_a_key_may_have_blanks_and_quotes(tmp_path: Path) -> None:
    file = tmp_path / "ignore"
    key = 'unlinked_rows:public."My  Table, 2":"the flow"'
    file.write_text(f"\ufeff{key}\t2026-01-01\ta reason  with 2026-05-05 in it\r\n", encoding="utf-8")
    entry = gate.Ignored(key, date(2026, 1, 1), "a reason  with 2026-05-05 in it", f"{file}:1")
    assert gate.read_ignored(file) == (entry,)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (UNLINKED, "this is not KEY YYYY-MM-DD REASON."),
        (f"{UNLINKED} {FAR}", "this is not KEY YYYY-MM-DD REASON."),
        (f"{UNLINKED} no flow was kept", "this is not KEY YYYY-MM-DD REASON."),
        (f"{UNLINKED} 31.12.2999 no flow was kept", "this is not KEY YYYY-MM-DD REASON."),
        (f"{FAR} no flow was kept", "this is not KEY YYYY-MM-DD REASON."),
        (f"{UNLINKED} 2027-02-29 no flow was kept", "2027-02-29 is no day of the calendar."),
        (f"unlinked_row:public.child:flow {FAR} misspelt", 'no finding is called "unlinked_row".'),
        (f"public.child:flow {FAR} a table", 'no finding is called "public.child".'),
        (f"first:x {FAR} y", 'no finding is called "first".'),
        (f"paused:public.child:flow {FAR} again", "paused:public.child:flow is there already."),
    ],
)
def test_a_line_that_cannot_be_meant_is_named(tmp_path: Path, line: str, message: str) -> None:
    """Before the database is asked."""
    file = tmp_path / "ignore"
    file.write_text(f"# a comment\npaused:public.child:flow {FAR} one\n{line}\n")
    with pytest.raises(UsageError) as refused:
        CliRunner().invoke(cli, ["check", "--dsn", "host=/nowhere", "--ignore-file", str(file)], catch_exceptions=False)
    assert refused.value.message == f"{file}:3: {message}"


def test_what_an_ignore_file_is_told_to_be_is_what_works(ignoring: Callable[[str], Printed]) -> None:
    """The HINTs, followed to the letter."""
    with pytest.raises(UsageError) as refused:
        ignoring("unlinked\n")
    assert refused.value.hint is not None
    assert "key of a finding as `pyflowguard check` prints it, the last day" in refused.value.hint
    [key] = ignoring("").keys("text")
    assert ignoring(f"{key} {FAR} why").exit_code == 0
    with pytest.raises(UsageError) as refused:
        ignoring(f"unlinked:public.child:flow {FAR} why\n")
    assert refused.value.hint == f"A key begins with one of: {', '.join(gate.KINDS)}."


def test_a_misspelt_key_on_the_command_line_is_refused(well: Connection) -> None:
    with pytest.raises(UsageError, match=r'^--ignore: no finding is called "unlinked"\.\n'):
        check(well, "--ignore", "unlinked")
    printed = check(well, "--ignore", UNLINKED)
    assert (printed.exit_code, printed.stderr) == (0, f"NOTE:  --ignore: nothing is found with the key {UNLINKED}.\n")


# --- The baseline


def test_only_new_findings_fail_a_database_that_has_a_baseline(dirty: Connection, tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.json"
    before = check(dirty, "--json").keys("json")
    written = check(dirty, "--write-baseline", baseline)
    assert (written.exit_code, written.stderr) == (
        0,
        f"{baseline}: {len(before)} findings are known.\n",
    )
    for form in READERS:
        printed = check(dirty, "--format", form, "--fail-on", "info", "--baseline", baseline)
        assert (printed.exit_code, printed.keys(form), printed.stderr) == (0, [], ""), form
    assert (
        check(dirty, "--baseline", baseline).stdout == f"Nothing found; not counted: {len(before)} in the baseline.\n"
    )
    keys = [line.strip().partition('": ')[0].strip('"') for line in baseline.read_text().splitlines()[2:-2]]
    assert keys == sorted(before)  # a line each, so that a diff says what is new

    run(dirty, "INSERT INTO event VALUES (52, 2, 1, 'live', now())")  # of another tenant
    printed = check(dirty, "--baseline", baseline, "--json")
    assert (printed.exit_code, printed.keys("json")) == (1, ["mismatched_links:public.event:flow"])
    run(dirty, "DELETE FROM event WHERE id = 52")
    assert check(dirty, "--baseline", baseline).exit_code == 0


def test_more_of_a_known_finding_is_new(dirty: Connection, tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.json"
    check(dirty, "--write-baseline", baseline)
    run(dirty, "INSERT INTO parent VALUES (20, 1, NULL)")
    key = "unlinked_rows:public.parent:flow"
    printed = check(dirty, "--baseline", baseline, "--json")
    assert (printed.exit_code, printed.keys("json")) == (1, [key])
    assert printed.stderr == f"NOTE:  {key}: 2 now, 1 in the baseline.\n"
    run(dirty, "DELETE FROM parent WHERE id IN (20, 11)")
    assert check(dirty, "--baseline", baseline).exit_code == 0


def test_what_is_ignored_is_not_in_a_baseline(dirty: Connection, tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.json"
    key = "unlinked_rows:public.parent:flow"
    check(dirty, "--ignore", key, "--write-baseline", baseline)
    assert check(dirty, "--baseline", baseline, "--json").keys("json") == [key]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{\n  oops", ":2: this is no baseline."),
        ("[]", ": this is no baseline."),
        ('{"findings": ["a"]}', ": this is no baseline."),
        ('{"findings": {"paused:t": "two"}}', ": this is no baseline."),
        ('{"findings": {"paused:t": true}}', ": this is no baseline."),
        ("\udcff", ": this is not UTF-8."),
    ],
)
def test_a_file_that_is_no_baseline_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "baseline.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError) as refused:
        CliRunner().invoke(cli, ["check", "--dsn", "host=/nowhere", "--baseline", str(file)], catch_exceptions=False)
    assert refused.value.message == f"{file}{message}"


def test_a_baseline_that_cannot_be_written_is_said(well: Connection, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere/baseline\.json: No such file or directory\."):
        check(well, "--write-baseline", tmp_path / "nowhere" / "baseline.json")


def test_options_that_contradict_each_other_or_name_no_file(well: Connection, tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    assert check(well, "--write-baseline", file).exit_code == 0
    assert check(well, "--baseline", file, "--write-baseline", file).exit_code == 2
    assert check(well, "--baseline", tmp_path / "none").exit_code == 2
    assert check(well, "--ignore-file", tmp_path / "none").exit_code == 2
    assert check(well, "--ignore-file", tmp_path).exit_code == 2
    assert check(well, "--format", "xml").exit_code == 2
