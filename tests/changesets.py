"""Writes small sets of changes for tests of what deploys them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_PLANNED = "2026-01-02T03:04:05Z Tester <tester@example.org>"


@dataclass(frozen=True)
class ChangeSets:
    """A directory with a plan and its scripts, to which changes and tags are appended."""

    directory: Path
    project: str = "demo"

    def __post_init__(self) -> None:
        """Write a plan without changes."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.plan.write_text(f"%syntax-version=1.0.0\n%project={self.project}\n\n")
        (self.directory / "sqitch.conf").write_text("[core]\n\tengine = pg\n")

    @property
    def plan(self) -> Path:
        """The plan file."""
        return self.directory / "sqitch.plan"

    def add(
        self,
        name: str,
        deploy: str,
        revert: str = "",
        verify: str | None = None,
        dependencies: str = "",
    ) -> None:
        """Append a change; its scripts' texts are put between BEGIN and COMMIT."""
        self.add_raw(
            name,
            f"-- {name}\nBEGIN;\n{deploy}\nCOMMIT;\n",
            f"BEGIN;\n{revert}\nCOMMIT;\n",
            None if verify is None else f"BEGIN;\n{verify}\nROLLBACK;\n",
            dependencies,
        )

    def add_raw(
        self, name: str, deploy: str, revert: str = "", verify: str | None = None, dependencies: str = ""
    ) -> None:
        """Append a change with its scripts as they are."""
        with self.plan.open("a") as plan:
            plan.write(f"{name} {f'[{dependencies}] ' if dependencies else ''}{_PLANNED} # {name}\n")
        for kind, text in (("deploy", deploy), ("revert", revert), ("verify", verify)):
            if text is not None:
                file = self.directory / kind / f"{name}.sql"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)

    def add_table(self, name: str, dependencies: str = "") -> None:
        """Append a change that creates a table of that name."""
        self.add(name, f"CREATE TABLE {name} (i int);", f"DROP TABLE {name};", f"TABLE {name};", dependencies)

    def tag(self, name: str) -> None:
        """Append a tag."""
        with self.plan.open("a") as plan:
            plan.write(f"@{name} {_PLANNED} # {name}\n")
