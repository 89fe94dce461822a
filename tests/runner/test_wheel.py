"""What is built is complete: installed from its wheel, the command runs and finds its change sets."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import psycopg
import pytest
from acceptance.command import in_migration

from pyflowguard import __version__, changes
from pyflowguard.plan import read_plan

REPOSITORY = Path(__file__).parents[2]


def tracked(*folders: str) -> set[str]:
    """List the files of the checkout in some folders, relative to its root."""
    found = (file for folder in folders for file in (REPOSITORY / folder).rglob("*") if file.is_file())
    return {str(file.relative_to(REPOSITORY)) for file in found}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build source archive and, from that, wheel; both come to lie in one directory."""
    directory = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, REPOSITORY],
        check=True,
        capture_output=True,
        text=True,
    )
    return directory


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an environment of its own, with nothing of the checkout in reach; gives its bin."""
    directory = tmp_path_factory.mktemp("clean")
    venv.create(directory / "venv")
    python = directory / "venv" / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", "--quiet", wheel],
        check=True,
        capture_output=True,
        cwd=directory,
    )
    return python.parent


def test_the_wheel_holds_package_and_change_sets(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"pyflowguard/changesets/{name}" for name in tracked("deploy", "revert", "verify", "sql")}
    expected |= {"pyflowguard/changesets/sqitch.plan", "pyflowguard/changesets/sqitch.conf", "pyflowguard/py.typed"}
    expected |= {f"pyflowguard/{file.name}" for file in (REPOSITORY / "pyflowguard").glob("*.py")}
    expected |= {f"pyflowguard/templates/{name}" for name in ("report.css", "report.html", "report.md")}
    assert expected <= names
    assert {name.split("/")[0] for name in names} == {"pyflowguard", f"pyflowguard-{__version__}.dist-info"}


def test_the_source_archive_holds_what_the_wheel_is_made_of(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    assert tracked("deploy", "revert", "verify", "sql") | {"sqitch.plan", "sqitch.conf", "LICENSE"} <= names
    assert {f"monitoring/{file.name}" for file in (REPOSITORY / "monitoring").iterdir()} <= names


def test_the_installed_command_finds_its_change_sets(installed: Path, empty_db: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [installed / "pyflowguard", "status", "--dsn", empty_db],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    plan = read_plan()
    lines = result.stdout.splitlines()
    assert lines[0] == f"Project pyflowguard: {len(plan.changes)} changes."
    assert [line.split() for line in lines[1:]] == [["pending", *change.label.split()] for change in plan.changes]


def test_the_installed_command_deploys_what_the_checkout_would(installed: Path, empty_db: str, tmp_path: Path) -> None:
    subprocess.run(
        [installed / "pyflowguard", "deploy", "--dsn", empty_db],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert changes.deploy(empty_db).deployed == ()


def test_the_installed_command_guards_a_database(installed: Path, report_db: str, tmp_path: Path) -> None:
    """From the wheel alone: the report's database is repaired and guarded, and links are filled from then on."""
    dsn = in_migration(report_db)

    def pyflowguard(*arguments: str) -> str:
        command = [str(installed / "pyflowguard"), *arguments, "--dsn", dsn]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    pyflowguard("deploy")
    assert " 0 linked" in pyflowguard("repair")
    pyflowguard("verify")
    pyflowguard("check", "--fail-on", "error")
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "INSERT INTO import_field_mappings (data_import_id, client_account_id, engagement_id, source_field, "
            "target_field) SELECT id, client_account_id, engagement_id, 'Rack', 'rack' FROM data_imports LIMIT 1 "
            "RETURNING master_flow_id = (SELECT d.master_flow_id FROM data_imports d WHERE d.id = data_import_id)"
        ).fetchone()
    assert row == (True,)


def test_what_is_optional_is_needed_by_its_own_module_only(installed: Path) -> None:
    """Alembic, prometheus-client and what draws the page, which the wheel does not bring."""
    code = """
import importlib, pkgutil, pyflowguard
for module in pkgutil.iter_modules(pyflowguard.__path__):
    try:
        importlib.import_module(f"pyflowguard.{module.name}")
    except ModuleNotFoundError as error:
        print(module.name, "needs", error.name)
"""
    output = subprocess.run([installed / "python", "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert output.stdout.splitlines() == [
        "alembic needs alembic",
        "charts needs vl_convert",
        "metrics needs prometheus_client",
        "page needs jinja2",
    ]


def test_the_package_is_typed(installed: Path) -> None:
    code = "import pyflowguard, pathlib; print((pathlib.Path(pyflowguard.__file__).parent / 'py.typed').exists())"
    output = subprocess.run([installed / "python", "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert output.stdout == "True\n"
