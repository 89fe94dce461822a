"""What was released stays as it was: plan, tags and scripts; and the release is what the changelog says."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from changesets import ChangeSets
from releases.conftest import run_sqitch
from releases.record import KINDS, ROOT, covered, differences, recorded, release_tags, write

from pyflowguard import __version__
from pyflowguard.plan import read_plan


def test_no_released_change_was_edited() -> None:
    """Rework it instead: CONTRIBUTING.md says how."""
    assert differences(read_plan(ROOT)) == []


def test_this_version_is_the_last_that_the_plan_has_a_tag_of() -> None:
    assert release_tags(read_plan(ROOT))[-1] == f"v{__version__}"


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## \[(.+?)\](.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    versions = [(name, rest) for name, rest in headings if name != "Unreleased"]
    assert versions[0][0] == __version__
    assert all(re.fullmatch(r" - \d{4}-\d\d-\d\d", rest) for _, rest in versions)


# --- That edits are noticed


@pytest.fixture
def released(sets: ChangeSets) -> ChangeSets:
    """Give change sets of which `a` and `b` are released, and `c` is not."""
    sets.add_table("a")
    sets.tag("engine")
    sets.add_table("b", dependencies="a")
    sets.tag("v1.0.0")
    sets.add_table("c", dependencies="b")
    write(sets.directory)
    assert [entry["change"] for entry in recorded(sets.directory)] == ["a", "b"]
    assert differences(read_plan(sets.directory)) == []
    return sets


@pytest.mark.parametrize("kind", KINDS)
def test_an_edited_script_is_noticed(released: ChangeSets, kind: str) -> None:
    file = released.directory / kind / "a.sql"
    file.write_text(file.read_text() + "-- edited\n")
    assert differences(read_plan(released.directory)) == [f"a: its {kind} script was edited"]
    with pytest.raises(SystemExit, match=f"a: its {kind} script was edited"):
        write(released.directory)


def test_a_script_that_is_gone_is_noticed(released: ChangeSets) -> None:
    (released.directory / "verify" / "b.sql").unlink()
    assert differences(read_plan(released.directory)) == ["b: its verify script was edited"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("# a\n", "# another note\n", {"a", "b"}),
        ("b [a]", "b", {"b"}),
        ("@v1.0.0 2026-01-02", "@v1.0.0 2026-01-03", {"b"}),
        ("@engine 2026-01-02", "@engine 2026-01-03", {"a"}),
    ],
)
def test_an_edited_line_is_noticed(released: ChangeSets, old: str, new: str, expected: set[str]) -> None:
    text = released.plan.read_text()
    assert text.count(old) == 1
    released.plan.write_text(text.replace(old, new))
    found = [text for text in differences(read_plan(released.directory)) if "not in" not in text]
    assert {text.split(":")[0] for text in found} == expected


def test_a_release_that_is_not_written_down_is_noticed(released: ChangeSets) -> None:
    released.tag("v1.1.0")
    assert differences(read_plan(released.directory)) == ["c: not in released.json"]
    write(released.directory)
    assert differences(read_plan(released.directory)) == []
    assert release_tags(read_plan(released.directory)) == ["v1.0.0", "v1.1.0"]


def test_what_is_not_released_may_be_edited(released: ChangeSets) -> None:
    (released.directory / "deploy" / "c.sql").write_text("-- another c\n")
    assert differences(read_plan(released.directory)) == []


def test_a_rework_is_no_edit_but_an_edit_of_the_copy_is(released: ChangeSets, tool: Callable[[str], str]) -> None:
    run_sqitch(tool("sqitch"), released.directory, "rework", "a", "--note", "once more")
    file = released.directory / "deploy" / "a.sql"
    file.write_text(file.read_text() + "-- reworked\n")
    assert differences(read_plan(released.directory)) == []
    copy = released.directory / "deploy" / "a@v1.0.0.sql"
    copy.write_text(copy.read_text() + "-- edited\n")
    assert differences(read_plan(released.directory)) == ["a: its deploy script was edited"]


def test_the_shipped_change_sets_can_be_written_down(tmp_path: Path) -> None:
    for name in KINDS:
        shutil.copytree(ROOT / name, tmp_path / name)
    text = (ROOT / "sqitch.plan").read_text("utf-8")
    (tmp_path / "sqitch.plan").write_text(f"{text}@v99.0.0 2099-01-01T00:00:00Z Tester <tester@example.org>\n")
    plan = read_plan(tmp_path)
    assert len(differences(plan)) == len(plan.changes) == len(covered(plan))
    write(tmp_path)
    assert differences(plan) == []
    assert all(len(str(entry[kind])) == 40 for entry in recorded(tmp_path) for kind in KINDS)
