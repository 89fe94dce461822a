"""Writes released.json: what the last release tag of the plan covers, each change with the SHA-1 of its three scripts.

`make released` runs this file when a release is tagged. A database out there was deployed from exactly these lines and
scripts, so from then on they stay as they are: tests/releases/test_released.py compares. A change is known by its id,
which holds the lines of the plan up to it; its scripts are where the plan has them by now, for a rework moves them.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Literal, TypedDict

from pyflowguard.plan import Change, Plan, read_plan

ROOT = Path(__file__).parents[2]
FILE = "released.json"
_RELEASE = re.compile(r"v\d+\.\d+\.\d+")


Kind = Literal["deploy", "revert", "verify"]
KINDS: tuple[Kind, ...] = ("deploy", "revert", "verify")


class Entry(TypedDict):
    """A released change: name, id, ids of its tags by name, and the SHA-1 of each script; NULL for none."""

    change: str
    id: str
    tags: dict[str, str]
    deploy: str | None
    revert: str | None
    verify: str | None


def release_tags(plan: Plan) -> list[str]:
    """Name the tags of releases in the plan, in order."""
    return [tag.name for change in plan.changes for tag in change.tags if _RELEASE.fullmatch(tag.name)]


def covered(plan: Plan) -> list[Entry]:
    """Give what the plan's last release tag covers, as it is now."""
    tags = release_tags(plan)
    return [_entry(plan, change) for change in plan.changes[: plan.index_of(f"@{tags[-1]}") + 1]] if tags else []


def _entry(plan: Plan, change: Change) -> Entry:
    return {
        "change": change.name,
        "id": change.id,
        "tags": {tag.name: tag.id for tag in change.tags},
        "deploy": _sha1(plan.deploy_file(change)),
        "revert": _sha1(plan.revert_file(change)),
        "verify": _sha1(plan.verify_file(change)),
    }


def _sha1(file: Path) -> str | None:
    return hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest() if file.is_file() else None


def recorded(directory: Path) -> list[Entry]:
    """Give what the file in that directory says; nothing where there is none."""
    file = directory / FILE
    entries: list[Entry] = json.loads(file.read_text("utf-8")) if file.is_file() else []
    return entries


def differences(plan: Plan) -> list[str]:
    """Say what of the released changes is not as it was released; the file lies beside the plan."""
    now = {entry["id"]: entry for entry in covered(plan)}
    found = []
    for entry in recorded(plan.directory):
        current = now.pop(entry["id"], None)
        if current is None:
            found.append(f"{entry['change']}: its line, or one before it, was edited, or the tag was moved before it")
            continue
        found += [f"{entry['change']}: its {kind} script was edited" for kind in KINDS if current[kind] != entry[kind]]
        if any(current["tags"].get(tag) != tag_id for tag, tag_id in entry["tags"].items()):
            found.append(f"{entry['change']}: a tag of it was edited")
    return found + [f"{entry['change']}: not in {FILE}" for entry in now.values()]


def write(directory: Path) -> None:
    """Write the file anew; SystemExit where that would change what it says of an earlier release."""
    plan = read_plan(directory)
    edited = [text for text in differences(plan) if not text.endswith(f"not in {FILE}")]
    if edited:
        raise SystemExit("\n".join([f"{FILE} is left as it is:", *edited]))
    lines = ",\n".join(json.dumps(entry) for entry in covered(plan))
    (directory / FILE).write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
