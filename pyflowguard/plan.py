"""Reads sqitch.plan and names changes and tags exactly as sqitch does.

Everything that must agree with sqitch is here: the grammar of the plan, the ids of changes and tags, where the scripts
of a change lie, and their hash. The ids chain (each holds its parent's), so a database whose ids are those of a plan
was deployed from that plan, line by line.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, TypeAlias, cast
from urllib.parse import quote, urlsplit, urlunsplit

from pyflowguard.errors import PlanError, UsageError

_PUNCTUATION = r"\-!\"#$%&'()*+,./:;<=>?@\[\]^`{|}~"
_BLANK = r"[^\S\n\r\v\f\x1c-\x1f\x85\u2028\u2029]"
_NAME = (
    rf"(?![{_PUNCTUATION}])"  # a name begins with no punctuation ...
    rf"(?:(?![~/=%^]\d+(?:$|{_BLANK}))[^\s:@#\\])+"  # ... holds no reference such as ^2 at its end ...
    rf"(?<![{_PUNCTUATION}])\b"  # ... and ends in no punctuation
)
_NOTE = re.compile(rf"{_BLANK}*(?:\#{_BLANK}*(?P<note>.*))?$")
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_PRAGMA = re.compile(
    rf"{_BLANK}*%{_BLANK}*(?P<name>[^{_PUNCTUATION}](?:[^\s=]*?[^{_PUNCTUATION}\s])?)"
    rf"(?:{_BLANK}*={_BLANK}*(?P<value>.+))?"
)
_LINE = re.compile(
    rf"{_BLANK}*(?:(?P<tag>@)|{_BLANK}*(?P<operator>[+-]){_BLANK}*)?"
    rf"(?P<name>{_NAME})(?:{_BLANK}+)?"
    rf"(?:\[(?P<dependencies>[^\]]+)\]{_BLANK}*)?"
    rf"(?:(?P<date>{_TIMESTAMP.pattern}){_BLANK}*)?"
    rf"(?:(?P<planner>[^<]+{_BLANK}+<[^>]+>))?"
)
_PLANNER = re.compile(rf"(?P<name>[^<]+){_BLANK}+<(?P<email>[^>]+)>")
_DEPENDENCY = re.compile(
    rf"(?P<conflict>!?)(?:(?P<project>{_NAME}):)?"
    rf"(?:(?P<id>[0-9a-f]{{40}})|(?P<change>{_NAME})(?:@(?P<tag>{_NAME}))?|@(?P<only_tag>{_NAME}))"
)
_OFFSET = re.compile(rf"(?<![{_PUNCTUATION}])(?P<sign>[~^])(?:(?P<twice>(?P=sign))|(?P<count>\d+))?$")
_RESERVED = frozenset({"ROOT", "HEAD"})
_ONLINE_REMARK = re.compile(r"^--[ \t]*pyflowguard[ \t]+\S.*$", re.MULTILINE)  # that program, and a word after it
_ONLINE_ARGUMENTS = re.compile(
    r"-- pyflowguard (?:guard|set-mode[ ]+(?P<mode>enforce|observe))"
    r"(?:[ ]+--link-column[ ]+(?P<column>\S+))?(?:[ ]+--if-table[ ]+(?P<if_table>\S+))?"
    r"(?P<tables>(?:[ ]+(?!-)(?:\"(?:[^\"]|\"\")+\"|[^\s\"])+)+)[ ]*"
)
_ONLINE_HINT = (
    "Write -- pyflowguard guard [--link-column COLUMN] [--if-table NAME] TABLE…, or -- pyflowguard set-mode "
    "enforce|observe [--link-column COLUMN] [--if-table NAME] TABLE…, tables as in SQL. A comment that is no remark "
    "begins otherwise: -- PyFlowGuard …"
)
_TABLE = re.compile(r"(?:\"(?:[^\"]|\"\")+\"|[^\s\"])+")
_SECTION = re.compile(r'\s*\[\s*(?P<name>[\w.-]+)(?:\s+"(?P<subsection>[^"]*)")?\s*\]')
_REGISTRY = re.compile(r'\s*(?i:registry)\s*=\s*(?:"(?P<quoted>[^"]+)"|(?P<plain>[^\s#;"][^#;"]*))')
_NOTE_ESCAPES = {r"\n": "\n", r"\r": "\r", r"\\": "\\"}


Mode: TypeAlias = Literal["observe", "enforce"]
"""What a link does with rows that have none: accepts and lists them, or refuses them at commit."""


@dataclass(frozen=True)
class Dependency:
    """A change that another one requires, or conflicts with (`conflict`); `project` is None within the same plan."""

    conflict: bool
    project: str | None
    key: str

    def __str__(self) -> str:
        """Name it as sqitch writes it into an id: the project only where it is another one."""
        return f"{self.project}:{self.key}" if self.project else self.key


@dataclass(frozen=True)
class Tag:
    """A named point in the plan, written `@name`, that follows a change."""

    name: str
    id: str
    planner: str
    planned_at: datetime
    note: str


@dataclass(frozen=True)
class Change:
    """A line of the plan: three scripts under one name, applied in order.

    `path` is the script's path below deploy/, revert/ and verify/: `name.sql`, or `name@tag.sql` for a change that a
    later one reworks.
    """

    name: str
    id: str
    path: str
    planner: str
    planned_at: datetime
    note: str
    requires: tuple[Dependency, ...]
    conflicts: tuple[Dependency, ...]
    tags: tuple[Tag, ...]
    line: int

    @property
    def label(self) -> str:
        """Name with tags, as a list shows it: `engine/guard @engine`."""
        return " ".join([self.name, *(f"@{tag.name}" for tag in self.tags)])


@dataclass(frozen=True)
class OnlineRemark:
    """A remark of a deploy script: what is done online before it is sent, to the links `link_column` of these tables.

    They are guarded, or have their `mode` set, those that are not complete passed over. With `if_table` only where the
    database has a table of that name, in whichever schema.
    """

    tables: tuple[str, ...]
    link_column: str
    mode: Mode | None = None
    if_table: str | None = None


@dataclass(frozen=True)
class Plan:
    """The changes of one project in the order in which they are deployed, and where their scripts are.

    `registry` is the schema in which sqitch keeps its record, `uri` the project's as it is written there.
    """

    project: str
    uri: str | None
    changes: tuple[Change, ...]
    directory: Path
    registry: str = "sqitch"

    def deploy_file(self, change: Change) -> Path:
        """Path of the script that deploys the change."""
        return self.directory / "deploy" / change.path

    def revert_file(self, change: Change) -> Path:
        """Path of the script that reverts the change."""
        return self.directory / "revert" / change.path

    def verify_file(self, change: Change) -> Path:
        """Path of the script that raises unless the change is deployed; it may be missing."""
        return self.directory / "verify" / change.path

    def reworks_of(self, change: Change) -> tuple[Change, ...]:
        """Later changes of the same name, which replace what this one makes."""
        later = self.changes[self.changes.index(change) + 1 :]
        return tuple(other for other in later if other.name == change.name)

    def is_rework(self, change: Change) -> bool:
        """Whether an earlier change has the same name, so that this one replaces what that makes."""
        return any(other.name == change.name for other in self.changes[: self.changes.index(change)])

    def script_hash(self, change: Change) -> str:
        """SHA-1 of the deploy script's bytes, as sqitch records it; PlanError if there is no such file."""
        file = self.deploy_file(change)
        try:
            return hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()
        except OSError as error:
            raise PlanError(
                f"{self.directory / 'sqitch.plan'}:{change.line}: change {change.name} has no deploy script.",
                detail=f"{file}: {error.strerror}.",
            ) from error

    def check_script_hashes(self, end: int) -> None:
        """Raise PlanError if a change before position `end` has no deploy script, or that of another one.

        sqitch takes no two changes of one content.
        """
        seen: dict[str, Change] = {}
        for change in self.changes[:end]:
            other = seen.setdefault(self.script_hash(change), change)
            if other is not change:
                raise PlanError(
                    f"{self.directory / 'sqitch.plan'}:{change.line}: the deploy scripts of {other.name} and "
                    f"{change.name} are the same, byte by byte, which sqitch does not take.",
                    hint="Name the change in a comment of its script.",
                )

    def online_remarks(self, change: Change) -> tuple[OnlineRemark, ...]:
        """Give the lines `-- pyflowguard guard|set-mode MODE [OPTION…] TABLE…` of the script, in order.

        The options are --link-column COLUMN and --if-table NAME. A table is written as in SQL. A line that begins with
        `-- pyflowguard` and a word is such a remark; PlanError for one that cannot be read. Any other comment is a
        comment.
        """
        file = self.deploy_file(change)
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise PlanError(f"{file}: not UTF-8 at byte {error.start}.") from error
        found = []
        for remark in _ONLINE_REMARK.finditer(text):
            arguments = _ONLINE_ARGUMENTS.fullmatch(remark[0])
            if arguments is None:
                line = text.count("\n", 0, remark.start()) + 1
                raise PlanError(f"{file}:{line}: cannot read the remark {remark[0]!r}.", hint=_ONLINE_HINT)
            tables = tuple(_TABLE.findall(arguments["tables"]))
            mode = cast("Mode | None", arguments["mode"])
            found.append(OnlineRemark(tables, arguments["column"] or "master_flow_id", mode, arguments["if_table"]))
        return tuple(found)

    def index_of(self, reference: str) -> int:
        """Position of a change named as sqitch names it: NAME, NAME@TAG, @TAG, @HEAD, @ROOT, an id, any with ^ or ~.

        Raises UsageError for what the plan does not hold, and for a reworked name without its tag.
        """
        base, offset = reference, 0
        if (match := _OFFSET.search(reference)) is not None:
            base = reference[: match.start()]
            steps = int(match["count"]) if match["count"] else 2 if match["twice"] else 1
            offset = steps if match["sign"] == "~" else -steps
        index = self._index_of(base) + offset
        if not 0 <= index < len(self.changes):
            raise UsageError(f"{reference} lies outside the plan.", hint=f"The plan has {len(self.changes)} changes.")
        return index

    def _index_of(self, reference: str) -> int:
        name, _, tag = reference.partition("@")
        if not tag and name in _RESERVED:
            name, tag = "", name
        last = self._index_of_tag(tag) if tag else len(self.changes) - 1
        if tag and not name:
            return last
        found = [index for index, change in enumerate(self.changes) if name in {change.name, change.id}]
        if len(found) > 1 and not tag:
            names = ", ".join(self._qualified_name(index) for index in found)
            raise UsageError(f"{name} is in the plan more than once.", hint=f"Say which one: {names}.")
        found = [index for index in found if index <= last]
        if not found:
            raise UsageError(
                f"There is no change {reference} in the plan.", hint="`pyflowguard status` lists the changes."
            )
        return found[-1]

    def _index_of_tag(self, tag: str) -> int:
        if tag in _RESERVED and self.changes:
            return 0 if tag == "ROOT" else len(self.changes) - 1
        for index, change in enumerate(self.changes):
            if any(own.name == tag for own in change.tags):
                return index
        raise UsageError(f"There is no tag @{tag} in the plan.", hint=self._known_tags())

    def _qualified_name(self, index: int) -> str:
        for change in self.changes[index:]:
            if change.tags:
                return f"{self.changes[index].name}@{change.tags[0].name}"
        return f"{self.changes[index].name}@HEAD"

    def _known_tags(self) -> str:
        tags = [f"@{tag.name}" for change in self.changes for tag in change.tags]
        return f"Its tags: {', '.join(tags)}." if tags else "It has no tags."


def changeset_directory() -> Path:
    """Where the shipped change sets are: inside an installed package, or at the root of a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "changesets"
    return installed if (installed / "sqitch.plan").is_file() else package.parent


def read_plan(directory: Path | None = None) -> Plan:
    """Read `sqitch.plan` in `directory` (the shipped change sets by default).

    Raises UsageError if there is no such file and PlanError, with file and line, if it is not a valid plan.
    """
    directory = changeset_directory() if directory is None else directory
    file = directory / "sqitch.plan"
    try:
        text = file.read_bytes().decode("utf-8")
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}.", hint="Name a directory that holds a sqitch.plan.") from error
    except UnicodeDecodeError as error:
        raise PlanError(f"{file}: not UTF-8 at byte {error.start}.") from error
    return _Reader(file).read(text)


@dataclass
class _Draft:
    """A change while the plan is still being read: what follows it may add tags, and rework it."""

    name: str
    id: str
    planner: str
    planned_at: datetime
    note: str
    requires: tuple[Dependency, ...]
    conflicts: tuple[Dependency, ...]
    line: int
    tags: list[Tag] = field(default_factory=list)
    rework_tags: list[Tag] = field(default_factory=list)


class _Reader:
    def __init__(self, file: Path) -> None:
        self.file = file
        self.line = 0
        self.project = ""
        self.uri: str | None = None
        self.drafts: list[_Draft] = []
        self.tag_lines: dict[str, int] = {}
        self.section: dict[str, int] = {}  # changes since the last tag: a name may not repeat among them

    def read(self, text: str) -> Plan:
        lines = iter(text.removesuffix("\n").split("\n"))
        self._read_pragmas(lines)
        for raw in lines:
            self.line += 1
            content, note = _split_note(raw.removesuffix("\r"))
            if content.strip():
                self._read_line(content, note)
        changes = tuple(
            Change(
                name=draft.name,
                id=draft.id,
                path=self._script_path(draft),
                planner=draft.planner,
                planned_at=draft.planned_at,
                note=draft.note,
                requires=draft.requires,
                conflicts=draft.conflicts,
                tags=tuple(draft.tags),
                line=draft.line,
            )
            for draft in self.drafts
        )
        return Plan(self.project, self.uri, changes, self.file.parent, _registry_name(self.file.parent))

    def _error(self, message: str) -> PlanError:
        return PlanError(f"{self.file}:{self.line}: {message}")

    def _read_pragmas(self, lines: Iterator[str]) -> None:
        for raw in lines:
            self.line += 1
            content, note = _split_note(raw.removesuffix("\r"))
            if not content.strip():
                if note:
                    continue
                break
            match = _PRAGMA.fullmatch(content)
            if match is None:
                raise self._error("not a pragma; a blank line must come between the pragmas and the changes.")
            value = (match["value"] or "").rstrip()
            if match["name"] == "project":
                if re.fullmatch(_NAME, value) is None:
                    raise self._error(f'"{value}" cannot be the name of a project.')
                self.project = value
            elif match["name"] == "uri":
                self.uri = quote(value, safe="!*'();:@&=+$,/?#-_.~%")
        if not self.project:
            self.line = 1
            raise self._error("the plan has no %project pragma.")

    def _read_line(self, content: str, note: str) -> None:
        match = _LINE.fullmatch(content)
        if match is None or (match["date"] is None and _TIMESTAMP.search(content)):
            raise self._error("neither a change nor a tag: NAME [DEPENDENCIES] TIMESTAMP PLANNER <EMAIL> is expected.")
        if match["date"] is None:
            raise self._error("the timestamp is missing (YYYY-MM-DDTHH:MM:SSZ).")
        planner_parts = _PLANNER.fullmatch(match["planner"] or "")
        if planner_parts is None:
            raise self._error("the planner is missing (NAME <EMAIL>).")
        if match["operator"] == "-":
            raise self._error("a line that plans a revert is not supported.")
        name = match["name"]
        if name in _RESERVED:
            raise self._error(f'"{name}" is a reserved name.')
        if re.match(r"[0-9a-f]{40}", name):
            raise self._error(f'"{name}" could be confused with an id.')
        try:
            planned_at = datetime.strptime(match["date"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
        except ValueError as error:
            raise self._error(f"{match['date']} is no time.") from error
        planner = f"{planner_parts['name']} <{planner_parts['email']}>"
        if match["tag"]:
            if match["dependencies"]:
                raise self._error("a tag has no dependencies.")
            self._add_tag(name, planner, planned_at, note)
        else:
            self._add_change(name, planner, planned_at, note, match["dependencies"] or "")

    def _add_tag(self, name: str, planner: str, planned_at: datetime, note: str) -> None:
        if "/" in name:
            raise self._error(f"tag @{name} holds a slash.")
        if not self.drafts:
            raise self._error(f"tag @{name} has no change before it.")
        if name in self.tag_lines:
            raise self._error(f"tag @{name} is there already, on line {self.tag_lines[name]}.")
        self.tag_lines[name] = self.line
        self.section.clear()
        change = self.drafts[-1]
        info = self._info(f"tag @{name}", f"change {change.id}", planner=planner, planned_at=planned_at, note=note)
        change.tags.append(Tag(name, _object_id("tag", info), planner, planned_at, note))

    def _add_change(self, name: str, planner: str, planned_at: datetime, note: str, dependencies: str) -> None:
        if name in self.section:
            raise self._error(f"change {name} is there already, on line {self.section[name]}, with no tag between.")
        requires, conflicts = self._read_dependencies(name, dependencies)
        head = [f"change {name}"]
        if self.drafts:
            head.append(f"parent {self.drafts[-1].id}")
        tail = []
        if requires:
            tail += ["requires", *(f"  + {dependency}" for dependency in requires)]
        if conflicts:
            tail += ["conflicts", *(f"  - {dependency}" for dependency in conflicts)]
        info = self._info(*head, planner=planner, planned_at=planned_at, after=tail, note=note)
        draft = _Draft(name, _object_id("change", info), planner, planned_at, note, requires, conflicts, self.line)
        reworked = next((other for other in reversed(self.drafts) if other.name == name), None)
        if reworked is not None:
            position = self.drafts.index(reworked)
            for other in reversed(self.drafts[position:]):
                reworked.rework_tags += other.tags
        self.section[name] = self.line
        self.drafts.append(draft)

    def _read_dependencies(self, name: str, text: str) -> tuple[tuple[Dependency, ...], tuple[Dependency, ...]]:
        seen: set[str] = set()
        found: list[Dependency] = []
        for word in text.split():
            match = _DEPENDENCY.fullmatch(word)
            if match is None:
                raise self._error(f'"{word}" is not a dependency.')
            if word in seen:
                raise self._error(f'dependency "{word}" is there twice.')
            seen.add(word)
            tag = match["tag"] or match["only_tag"]
            key = match["id"] or (match["change"] or "") + (f"@{tag}" if tag else "")
            project = match["project"] if match["project"] != self.project else None
            dependency = Dependency(bool(match["conflict"]), project, key)
            if not dependency.conflict and project is None and not self._is_known(match["change"], tag, match["id"]):
                raise self._error(f"change {name} requires {key}, which does not come before it.")
            found.append(dependency)
        return (
            tuple(dependency for dependency in found if not dependency.conflict),
            tuple(dependency for dependency in found if dependency.conflict),
        )

    def _is_known(self, change: str | None, tag: str | None, change_id: str | None) -> bool:
        if change_id:  # an id without a project may be another project's: the database decides
            return True
        for draft in reversed(self.drafts):
            if tag is not None and tag in {own.name for own in draft.tags}:
                tag = None
            if tag is None and change in {None, draft.name}:
                return True
        return False

    def _info(self, *head: str, planner: str, planned_at: datetime, after: Sequence[str] = (), note: str) -> str:
        lines = [f"project {self.project}"]
        if self.uri:
            lines.append(f"uri {_canonical_uri(self.uri)}")
        lines += [*head, f"planner {planner}", f"date {planned_at.replace(tzinfo=None).isoformat()}Z", *after]
        if note not in {"", "0"}:  # sqitch takes a note of 0 for none
            lines += ["", note]
        return "\n".join(lines)

    def _script_path(self, draft: _Draft) -> str:
        if not draft.rework_tags:
            return f"{draft.name}.sql"
        candidates = [f"{draft.name}@{tag.name}.sql" for tag in draft.rework_tags]
        deploy = self.file.parent / "deploy"
        return next((path for path in candidates if (deploy / path).exists()), candidates[0])


def _registry_name(directory: Path) -> str:
    """Read `registry` in section `[engine "pg"]` of sqitch.conf, which is written as git's configuration is."""
    try:
        text = (directory / "sqitch.conf").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "sqitch"
    name, inside = "sqitch", False
    for line in text.splitlines():
        if (section := _SECTION.match(line)) is not None:
            inside = section["name"].lower() == "engine" and section["subsection"] == "pg"
        setting = _REGISTRY.match(line, section.end() if section else 0)
        if inside and setting is not None:
            name = setting["quoted"] or setting["plain"].rstrip()
    return name


def _split_note(line: str) -> tuple[str, str]:
    """Cut a line at its first `#`; the note comes back trimmed and unescaped."""
    match = _NOTE.search(line)
    if match is None:
        return line, ""
    note = (match["note"] or "").strip()
    return line[: match.start()], re.sub(r"\\[\\nr]", lambda escape: _NOTE_ESCAPES[escape[0]], note)


def _object_id(kind: str, info: str) -> str:
    content = info.encode()
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def _canonical_uri(value: str) -> str:
    """Write a URI as sqitch does before it hashes it: scheme and host in lower case, no default port, no empty path."""
    parts = urlsplit(value)
    netloc = parts.netloc
    if parts.hostname:
        userinfo, at, _ = netloc.rpartition("@")
        default = {"http": 80, "https": 443}.get(parts.scheme)
        port = f":{parts.port}" if parts.port and parts.port != default else ""
        netloc = f"{userinfo}{at}{parts.hostname}{port}"
    path = parts.path or ("/" if parts.scheme in {"http", "https"} else "")
    return urlunsplit((parts.scheme, netloc, path, parts.query, parts.fragment))
