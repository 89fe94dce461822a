"""The workflows that docs/pipelines.md shows: what GitHub and GitLab make of them, and what their commands do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from acceptance.command import Query
from documents import ROOT, read_blocks
from health.reports import READERS, read_failed
from psycopg.conninfo import conninfo_to_dict
from ruamel.yaml import YAML

from pyflowguard.health import KINDS

if TYPE_CHECKING:
    from conftest import TestPostgresql

PAGE = ROOT / "docs" / "pipelines.md"
SCHEMAS = {"github": "vendor.github-workflows", "gitlab": "vendor.gitlab-ci"}


@dataclass(frozen=True)
class Workflow:
    """A workflow of the page: for what, its text, and the commands of its one job, in order."""

    system: str
    text: str

    @property
    def parsed(self) -> Any:  # noqa: ANN401 - what YAML holds
        return YAML(typ="safe", pure=True).load(self.text)

    @property
    def commands(self) -> list[str]:
        """The commands, in order."""
        if self.system == "gitlab":
            [job] = self.parsed.values()
            return list(job["script"])
        [job] = self.parsed["jobs"].values()
        return [step["run"] for step in job["steps"] if "run" in step]


WORKFLOWS = [
    Workflow(system, block.text)
    for block in read_blocks(PAGE)
    for kind, _, system in [block.mark.partition(": ")]
    if kind == "workflow"
]


def test_each_system_and_each_report_has_its_workflow() -> None:
    assert [workflow.system for workflow in WORKFLOWS] == ["github", "github", "gitlab"]
    formats = [format_of(workflow) for workflow in WORKFLOWS]
    assert formats == ["github", "sarif", "junit"]


def format_of(workflow: Workflow) -> str:
    return workflow.commands[-1].split("--format ")[1].split()[0]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=format_of)
def test_a_workflow_is_one_by_the_schema_of_its_system(workflow: Workflow, tmp_path: Path) -> None:
    file = tmp_path / "workflow.yml"
    file.write_text(workflow.text)
    command = Path(sys.executable).with_name("check-jsonschema")
    checked = subprocess.run(
        [command, "--builtin-schema", SCHEMAS[workflow.system], file], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=format_of)
def test_what_a_workflow_writes_is_what_it_uploads(workflow: Workflow) -> None:
    command = workflow.commands[-1]
    written = command.split("> ")[1].strip() if "> " in command else None
    if workflow.system == "gitlab":
        assert workflow.parsed["links"]["artifacts"]["reports"]["junit"] == written
    else:
        last = workflow.parsed["jobs"]["check"]["steps"][-1]
        assert last.get("with", {}).get("sarif_file") == written


@pytest.fixture
def environment(clean_environment: dict[str, str], postgresql: TestPostgresql, guarded_db: str) -> Mapping[str, str]:
    """Give what the systems give: the database, by a URL and by libpq's variables."""
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE", "options": "PGOPTIONS"}
    settings = conninfo_to_dict(guarded_db)
    return {
        **clean_environment,
        "PATH": f"{postgresql.bin}:{clean_environment['PATH']}",
        "DATABASE_URL": guarded_db,
        **{name: str(settings[key]) for key, name in names.items() if key in settings},
    }


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=format_of)
def test_its_commands_pass_and_fail_as_they_should(
    workflow: Workflow, environment: Mapping[str, str], query: Query, guarded_db: str, tmp_path: Path
) -> None:
    form = format_of(workflow)
    [(key,)] = query(guarded_db, "SELECT cache_key FROM flowguard.check_all() WHERE level = 'WARN'")
    (tmp_path / "flowguard.ignore").write_text("# none\n" if form == "github" else f"{key} 2999-12-31 two flows\n")
    (tmp_path / "migrate.sh").write_text("#!/bin/sh\nexec pyflowguard deploy\n")
    (tmp_path / "migrate.sh").chmod(0o755)
    run(["pyflowguard check --write-baseline flowguard.json"], environment, tmp_path)
    install, *commands = workflow.commands
    assert install == "pip install pyflowguard"  # has been done, from the checkout

    def report() -> tuple[int, str]:
        ended = run(commands, environment, tmp_path)
        files = list(tmp_path.glob("flowguard.[sx]*"))
        return ended.returncode, files[0].read_text() if files else ended.stdout

    exit_code, printed = report()
    assert exit_code == 0, printed
    READERS[form](printed)
    query(guarded_db, 'ALTER TABLE assets DISABLE TRIGGER "~flowguard_assets_master_flow_id_insert"')
    exit_code, printed = report()
    assert exit_code == 1, printed
    planted = "guard_incomplete:migration.assets:master_flow_id"
    assert planted in READERS[form](printed)
    if form == "junit":
        assert read_failed(printed) == [planted]


def run(commands: list[str], environment: Mapping[str, str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run commands as both systems do: in one shell here, which ends with the first that fails."""
    return subprocess.run(
        ["/bin/bash", "-e", "-o", "pipefail", "-c", "\n".join(commands)],
        env=environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_every_kind_of_finding_is_named_on_the_page() -> None:
    rows = [line for line in PAGE.read_text().split("## What can be found")[1].splitlines() if line.startswith("| `")]
    assert rows == [f"| `{name}` | {words} |" for name, words in KINDS.items()]
