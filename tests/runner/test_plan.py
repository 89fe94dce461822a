"""The plan is read as sqitch reads it: the same ids, the same script files, the same errors."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from pyflowguard.errors import PlanError, UsageError
from pyflowguard.plan import Plan, changeset_directory, read_plan

HEAD = "%syntax-version=1.0.0\n%project=demo\n\n"
WHO = "2026-01-02T03:04:05Z Ada Lovelace <ada@example.org>"

RICH_PLAN = rf"""%syntax-version=1.0.0
%project=demo-3
%uri=HTTPS://Example.ORG:443
# about the pragmas

# a comment between
users {WHO} # Users: café → naïve 🐘
app/orders [users] 2026-01-02T03:04:06Z Ada  Lovelace <ada@example.org> # two  blanks, \\ a backslash \n a second line
app/deep/items [app/orders users !legacy] 2026-01-02T03:04:07Z A <a@b> #no blank before
@v1.0 {WHO} # First ✓
@beta {WHO}

users [users@v1.0 @beta] {WHO} # reworked
no_note {WHO}
zero [other:thing !other:bad@x] {WHO} # 0
   indented   [users  app/orders]   2026-02-02T00:00:03Z   Ada Lovelace <ada@example.org>   #   a note with # in it
by_project [demo-3:users@v1.0] {WHO} # its own project named
@v2 {WHO} # Second

users [users@v2] {WHO} # again
+plus 2026-03-01T00:00:01Z Ada Lovelace <ada@example.org> # with an operator
größe/überall {WHO} # names in UTF-8
"""

# what sqitch itself makes of a plan, a line each change: id, name, deploy script, its hash, ids of its tags
ASK_SQITCH = r"""
binmode STDOUT, ":utf8";
my $sqitch = App::Sqitch->new(config => App::Sqitch::Config->new);
my $target = App::Sqitch::Target->new(sqitch => $sqitch);
print join("\t", $_->id, $_->name, $_->deploy_file, $_->script_hash // "", map { $_->id } $_->tags), "\n"
  for $target->plan->changes;
"""


def write_plan(directory: Path, text: str) -> Path:
    (directory / "sqitch.plan").write_text(text)
    (directory / "sqitch.conf").write_text("[core]\n\tengine = pg\n")
    return directory


def as_sqitch_has_it(directory: Path, tool: Callable[[str], str]) -> list[list[str]]:
    tool("sqitch")
    output = subprocess.run(
        [tool("perl"), "-MApp::Sqitch", "-MApp::Sqitch::Target", "-MApp::Sqitch::Config", "-e", ASK_SQITCH],
        cwd=directory,
        env={**os.environ, "HOME": str(directory), "SQITCH_FULLNAME": "Tester", "SQITCH_EMAIL": "t@example.org"},
        capture_output=True,
        check=True,
        text=True,
        encoding="utf-8",
    ).stdout
    return [line.split("\t") for line in output.splitlines()]


def as_we_have_it(plan: Plan) -> list[list[str]]:
    rows = []
    for change in plan.changes:
        file = plan.deploy_file(change)
        script_hash = plan.script_hash(change) if file.exists() else ""
        name = str(file.relative_to(plan.directory))
        rows.append([change.id, change.name, name, script_hash, *(tag.id for tag in change.tags)])
    return rows


def random_plan(seed: int, length: int) -> str:
    """Write a plan with everything that goes into an id: dependencies, conflicts, tags, reworks, odd notes."""
    choose = random.Random(seed)
    when = datetime(2026, 1, 1, tzinfo=timezone.utc)
    lines, names, tags, section = [HEAD], list[str](), list[str](), set[str]()
    for number in range(length):
        when += timedelta(seconds=choose.randrange(1, 10**6))
        who = f"{when:%Y-%m-%dT%H:%M:%SZ} {choose.choice(['Ada L', 'Zoë', 'O. Neill-Smith'])} <{number}@example.org>"
        note = choose.choice(["", " # plain", " # ✓ Ünïcode — 🐘", r" # a \n b \\ c \r d \t e", " #", " # # #"])
        rework = [name for name in names if name not in section] if tags else []
        if rework and choose.random() < 0.2:
            name = choose.choice(rework)
            dependencies = [f"{name}@{tags[-1]}"]
        else:
            name = choose.choice(["", "a/", "a/b/", "é/"]) + f"c{number}"
            dependencies = choose.sample(sorted(set(names)), min(len(set(names)), choose.randrange(4)))
            names.append(name)
        dependencies += [f"!gone{number}"] if choose.random() < 0.2 else []
        dependencies += [f"@{tags[-1]}"] if tags and choose.random() < 0.1 else []
        section.add(name)
        lines.append(f"{name} {f'[{chr(32).join(dependencies)}] ' if dependencies else ''}{who}{note}\n")
        if choose.random() < 0.15:
            tags.append(f"t{number}")
            section.clear()
            lines.append(f"@{tags[-1]} {who}{note}\n\n")
    return "".join(lines)


@pytest.mark.parametrize("text", [RICH_PLAN, *(random_plan(seed, 80) for seed in range(3))], ids=["rich", 0, 1, 2])
def test_ids_and_scripts_are_those_of_sqitch(text: str, tmp_path: Path, tool: Callable[[str], str]) -> None:
    plan = read_plan(write_plan(tmp_path, text))
    expected = as_sqitch_has_it(tmp_path, tool)
    assert as_we_have_it(plan) == expected
    assert len(expected) >= 11


def test_script_hash_is_that_of_sqitch(tmp_path: Path, tool: Callable[[str], str]) -> None:
    write_plan(tmp_path, RICH_PLAN)
    for change in read_plan(tmp_path).changes:
        file = tmp_path / "deploy" / change.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(f"-- {change.id} é\r\n".encode())
    expected = as_sqitch_has_it(tmp_path, tool)
    assert as_we_have_it(read_plan(tmp_path)) == expected
    assert all(len(row[3]) == 40 for row in expected)


def test_a_reworked_change_takes_the_script_of_a_tag_that_has_one(tmp_path: Path, tool: Callable[[str], str]) -> None:
    text = f"{HEAD}a {WHO}\nb {WHO}\n@one {WHO}\n@two {WHO}\nc {WHO}\n@three {WHO}\na [a@three] {WHO}\n"
    write_plan(tmp_path, text)
    (tmp_path / "deploy").mkdir()
    assert read_plan(tmp_path).changes[0].path == "a@three.sql"
    (tmp_path / "deploy" / "a@two.sql").touch()
    assert read_plan(tmp_path).changes[0].path == "a@two.sql"
    assert as_we_have_it(read_plan(tmp_path)) == as_sqitch_has_it(tmp_path, tool)


def test_the_shipped_plan_is_read(tool: Callable[[str], str]) -> None:
    plan = read_plan()
    assert plan.project == "pyflowguard"
    assert plan.directory == changeset_directory()
    assert as_we_have_it(plan) == as_sqitch_has_it(plan.directory, tool)


def test_a_line_keeps_what_it_says(tmp_path: Path) -> None:
    plan = read_plan(write_plan(tmp_path, RICH_PLAN))
    orders, items = plan.changes[1], plan.changes[2]
    assert orders.note == "two  blanks, \\ a backslash \n a second line"
    assert orders.planner == "Ada  Lovelace <ada@example.org>"
    assert orders.planned_at == datetime(2026, 1, 2, 3, 4, 6, tzinfo=timezone.utc)
    assert orders.line == 8
    assert [str(dependency) for dependency in items.requires] == ["app/orders", "users"]
    assert [str(dependency) for dependency in items.conflicts] == ["legacy"]
    assert items.label == "app/deep/items @v1.0 @beta"
    assert items.tags[0].note == "First ✓"
    assert [str(dependency) for dependency in plan.changes[5].requires] == ["other:thing"]


@pytest.mark.parametrize(
    ("reference", "position"),
    [
        ("users@v1.0", 0),
        ("users@beta", 0),
        ("users@v2", 3),
        ("users@HEAD", 8),
        ("app/orders", 1),
        ("@v1.0", 2),
        ("@v2", 7),
        ("@HEAD", 10),
        ("@ROOT", 0),
        ("HEAD", 10),
        ("@v1.0^", 1),
        ("@v1.0^^", 0),
        ("@v1.0^2", 0),
        ("app/orders~", 2),
        ("no_note~~", 6),
        ("no_note~3", 7),
    ],
)
def test_a_change_is_found_as_sqitch_names_it(reference: str, position: int, tmp_path: Path) -> None:
    plan = read_plan(write_plan(tmp_path, RICH_PLAN))
    assert plan.index_of(reference) == position
    assert plan.index_of(plan.changes[position].id) == position


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nothing", "no change nothing"),
        ("@nothing", "no tag @nothing.*\n.*@v1.0, @beta, @v2"),
        ("no_note@v1.0", "no change no_note@v1.0"),
        ("users", "more than once.\n.*users@v1.0, users@v2, users@HEAD"),
        ("@ROOT^", "outside the plan"),
        ("@HEAD~", "outside the plan"),
    ],
)
def test_a_change_that_is_not_there_is_a_usage_error(reference: str, message: str, tmp_path: Path) -> None:
    plan = read_plan(write_plan(tmp_path, RICH_PLAN))
    with pytest.raises(UsageError, match=message) as caught:
        plan.index_of(reference)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("reference", ["@HEAD", "@ROOT", "x"])
def test_nothing_is_found_in_an_empty_plan(reference: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_plan(write_plan(tmp_path, HEAD)).index_of(reference)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("%syntax-version=1.0.0\n\n", 1, "no %project"),
        ("%project=a b\n\n", 1, "cannot be the name of a project"),
        (f"%project=demo\na {WHO}\n", 2, "not a pragma"),
        (f"{HEAD}a\n", 4, "timestamp is missing"),
        (f"{HEAD}a 2026-01-02T03:04:05Z\n", 4, "planner is missing"),
        (f"{HEAD}a 2026-13-02T03:04:05Z A <a@b>\n", 4, "no time"),
        (f"{HEAD}a 2026-01-02 A <a@b>\n", 4, "timestamp is missing"),
        (f"{HEAD}-a {WHO}\n", 4, "revert"),
        (f"{HEAD}a:b {WHO}\n", 4, "neither a change nor a tag"),
        (f"{HEAD}HEAD {WHO}\n", 4, "reserved"),
        (f"{HEAD}{'0' * 40} {WHO}\n", 4, "confused with an id"),
        (f"{HEAD}a {WHO}\na {WHO}\n", 5, "already, on line 4"),
        (f"{HEAD}a {WHO}\n\nb [nope] {WHO}\n", 6, "b requires nope"),
        (f"{HEAD}a [b] {WHO}\nb {WHO}\n", 4, "a requires b"),
        (f"{HEAD}a [a] {WHO}\n", 4, "a requires a"),
        (f"{HEAD}a {WHO}\n@x {WHO}\nb [b@x] {WHO}\n", 6, "b requires b@x"),
        (f"{HEAD}a {WHO}\nb [a a] {WHO}\n", 5, "twice"),
        (f"{HEAD}a {WHO}\nb [#] {WHO}\n", 5, "neither a change nor a tag"),
        (f"{HEAD}a {WHO}\nb [!] {WHO}\n", 5, "not a dependency"),
        (f"{HEAD}@x {WHO}\n", 4, "no change before it"),
        (f"{HEAD}a {WHO}\n@x {WHO}\n@x {WHO}\n", 6, "already, on line 5"),
        (f"{HEAD}a {WHO}\n@x/y {WHO}\n", 5, "slash"),
        (f"{HEAD}a {WHO}\n@x [a] {WHO}\n", 5, "no dependencies"),
    ],
)
def test_a_bad_line_is_named(text: str, line: int, message: str, tmp_path: Path) -> None:
    write_plan(tmp_path, text)
    with pytest.raises(PlanError, match=message) as caught:
        read_plan(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'sqitch.plan'}:{line}: ")


def test_a_plan_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "sqitch.plan").write_bytes(b"%project=\xff\n")
    with pytest.raises(PlanError, match="not UTF-8 at byte 9"):
        read_plan(tmp_path)


def test_a_directory_without_a_plan_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"sqitch\.plan: No such file"):
        read_plan(tmp_path)


def test_a_change_without_a_deploy_script_is_named(tmp_path: Path) -> None:
    plan = read_plan(write_plan(tmp_path, f"{HEAD}a {WHO}\n"))
    with pytest.raises(PlanError, match=r"sqitch\.plan:4: change a has no deploy script"):
        plan.script_hash(plan.changes[0])


def test_lines_may_end_in_carriage_return(tmp_path: Path, tool: Callable[[str], str]) -> None:
    plan = read_plan(write_plan(tmp_path, (HEAD + f"a {WHO} # note\n").replace("\n", "\r\n")))
    assert plan.changes[0].note == "note"
    assert as_we_have_it(plan) == as_sqitch_has_it(tmp_path, tool)
