"""`pyflowguard doctor`: what it prints and how it ends, and what --fix mends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from drift.defects import DEFECTS, Defect, findings
from engine.postgres import Connection, one, rows, run
from health.reports import read_github, read_sarif, read_text
from health.test_gate import Printed
from psycopg.conninfo import make_conninfo

from pyflowguard import doctor, gate
from pyflowguard.cli import cli
from pyflowguard.errors import UsageError
from pyflowguard.health import KINDS

DOCS = Path(__file__).parents[2] / "docs"
TRIGGER = '"~flowguard_child_flow_insert"'


def call(command: str, connection: Connection, *options: str | Path) -> Printed:
    """Run a command on the database of a connection."""
    result = CliRunner().invoke(cli, [command, "--dsn", connection.info.dsn, *map(str, options)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Printed(result.exit_code, result.stdout, result.stderr)


def test_nothing_found(well: Connection) -> None:
    for options in ((), ("--fix",)):
        assert call("doctor", well, *options) == Printed(0, "Nothing found.\n", "")
    assert json.loads(call("doctor", well, "--json").stdout) == []


def test_a_finding_with_its_remedy_and_what_mends_it(well: Connection) -> None:
    run(well, f"ALTER TABLE child DISABLE TRIGGER {TRIGGER}")
    assert call("doctor", well) == Printed(
        1,
        f"""\
ERROR  public.child: trigger {TRIGGER} is disabled
      detail: on public.child
      remedy: SELECT flowguard.guard('public.child', 'flow')
         key: trigger_disabled:public.child:~flowguard_child_flow_insert
1 finding: 1 ERROR.
Of these `pyflowguard doctor --fix` mends 1.
""",
        "",
    )
    mended = call("doctor", well, "--fix")
    assert (mended.exit_code, mended.stderr) == (0, "")
    assert mended.stdout.startswith("  + child.flow: CREATE OR REPLACE TRIGGER")
    assert mended.stdout.endswith("Nothing found.\n")
    assert findings(well) == []


@pytest.mark.parametrize("defect", DEFECTS.values(), ids=list(DEFECTS))
def test_fix_mends_what_is_safe_and_nothing_else(well: Connection, superuser: Connection, defect: Defect) -> None:
    run(superuser if defect.by_superuser else well, defect.plant)
    before = {finding["cache_key"]: finding["safe"] for finding in findings(well)}
    data = "SELECT (SELECT count(*) FROM parent), (SELECT count(*) FROM child), (SELECT count(*) FROM flow)"
    count = rows(superuser, data)
    printed = call("doctor", well, "--fix", "--json")
    left = [finding["cache_key"] for finding in json.loads(printed.stdout)]
    unsafe = [key for key, safe in before.items() if not safe]
    if defect.mended_by_superuser:
        assert [key for key in left if key.startswith(defect.name)]
    else:
        assert sorted(left) == sorted(unsafe)
    assert printed.exit_code == (1 if left else 0)
    assert rows(superuser, data) == count
    assert sorted(finding["cache_key"] for finding in findings(well)) == sorted(left)


def test_a_remedy_that_fails_is_told_and_the_others_are_run(well: Connection, superuser: Connection) -> None:
    run(superuser, "ALTER TABLE grandchild DISABLE TRIGGER ALL")
    run(well, "DROP INDEX flowguard_child_flow_idx")
    printed = call("doctor", well, "--fix")
    assert printed.exit_code == 1
    assert "Not mended by ALTER TABLE public.grandchild ENABLE TRIGGER" in printed.stderr
    assert "permission denied" in printed.stderr
    assert {finding["name"] for finding in findings(well)} == {"key_disabled"}
    as_superuser = make_conninfo(well.info.dsn, user="postgres")
    assert CliRunner().invoke(cli, ["doctor", "--fix", "--dsn", as_superuser]).exit_code == 0
    assert findings(well) == []


def test_a_key_that_rows_violate_stays_and_is_told(well: Connection, superuser: Connection) -> None:
    run(superuser, "SET session_replication_role = replica; INSERT INTO child (id, tenant, flow) VALUES (21, 1, 77)")
    run(superuser, "RESET session_replication_role")
    run(well, DEFECTS["a key is not validated"].plant)
    printed = call("doctor", well, "--fix")
    assert printed.exit_code == 1
    assert "violates foreign key constraint" in printed.stderr
    [finding] = findings(well)
    assert finding["name"] == "key_not_validated"
    # Its detail says what to do then.
    run(well, finding["detail"].split('"')[1])
    assert call("doctor", well, "--fix").exit_code == 0


def test_fix_does_not_wait_long_for_a_lock(well: Connection, superuser: Connection) -> None:
    run(well, f"DROP TRIGGER {TRIGGER} ON child; GRANT SELECT ON flowguard.link TO PUBLIC")
    with superuser.transaction():
        run(superuser, "LOCK TABLE child IN ROW EXCLUSIVE MODE")
        printed = call("doctor", well, "--fix", "--lock-timeout", "0.05", "--deadline", "0.2")
    assert printed.exit_code == 1
    assert "Not mended by pyflowguard guard public.child --link-column flow: " in printed.stderr
    assert "give it more time by --deadline" in printed.stderr
    assert {finding["name"] for finding in findings(well)} == {"trigger_missing"}


def test_what_is_ignored_is_not_mended(well: Connection) -> None:
    run(well, f"DROP TRIGGER {TRIGGER} ON child; GRANT SELECT ON flowguard.link TO PUBLIC")
    printed = call("doctor", well, "--fix", "--ignore", "open_to_public:flowguard.link")
    assert printed.exit_code == 0
    assert printed.stdout.endswith("Nothing found; not counted: 1 ignored.\n")
    assert {finding["name"] for finding in findings(well)} == {"open_to_public"}


def test_every_format_has_every_finding(well: Connection) -> None:
    run(well, f"DROP TRIGGER {TRIGGER} ON child; DROP INDEX flowguard_child_flow_idx")
    keys = [finding["cache_key"] for finding in findings(well)]
    assert sorted(read_text(call("doctor", well).stdout.rpartition("Of these")[0].strip())) == sorted(keys)
    assert sorted(read_sarif(call("doctor", well, "--format", "sarif").stdout)) == sorted(keys)
    assert sorted(read_github(call("doctor", well, "--format", "github").stdout)) == sorted(keys)
    junit = call("doctor", well, "--format", "junit").stdout
    assert "pyflowguard doctor" in junit
    for kind in doctor.KINDS:
        assert f'classname="pyflowguard.{kind}"' in junit
    assert "unlinked_rows" not in junit


def test_fail_on(well: Connection) -> None:
    run(well, "DROP INDEX flowguard_child_flow_idx")
    assert call("doctor", well, "--fail-on", "error").exit_code == 0
    assert call("doctor", well).exit_code == 1


def test_one_ignore_file_serves_check_and_doctor(well: Connection, tmp_path: Path) -> None:
    run(well, "DROP INDEX flowguard_child_flow_idx; INSERT INTO probe VALUES (61, NULL, 1, now())")
    file = tmp_path / "ignore"
    keys = [
        one(well, "SELECT cache_key FROM flowguard.doctor()"),
        one(well, "SELECT cache_key FROM flowguard.check_all() WHERE name = 'tenantless_links'"),
        "guard_incomplete:public.child:flow",
    ]
    file.write_text("".join(f"{key} 2999-12-31 known\n" for key in keys))
    for command in ("check", "doctor"):
        printed = call(command, well, "--ignore-file", file)
        assert (printed.exit_code, printed.stderr) == (0, ""), printed
    assert set(gate.KINDS) == {*KINDS, *doctor.KINDS}


def test_the_daily_check_lists_both(well: Connection) -> None:
    run(well, f"DROP TRIGGER {TRIGGER} ON child; DROP INDEX flowguard_child_flow_idx")
    run(well, "INSERT INTO probe VALUES (61, NULL, 1, now())")
    printed = call("check", well, "--doctor", "--json")
    assert printed.exit_code == 1
    assert [(finding["level"], finding["name"]) for finding in json.loads(printed.stdout)] == [
        ("ERROR", "trigger_missing"),
        ("WARN", "tenantless_links"),
        ("WARN", "index_missing"),
    ]
    assert {finding["name"] for finding in json.loads(call("check", well, "--json").stdout)} == {
        "guard_incomplete",
        "tenantless_links",
    }


def test_an_engine_of_another_version(well: Connection) -> None:
    run(well, "CREATE OR REPLACE FUNCTION flowguard.version() RETURNS text LANGUAGE sql AS $$SELECT '1.99.0'$$; "
              "REVOKE ALL ON FUNCTION flowguard.version() FROM PUBLIC")  # fmt: skip
    printed = call("doctor", well, "--json")
    [finding] = json.loads(printed.stdout)
    assert (finding["name"], finding["level"], finding["safe"]) == (doctor.OTHER_VERSION, "WARN", False)
    assert "1.99.0" in finding["description"]
    assert printed.exit_code == 1


def test_exit_codes(well: Connection, empty_db: str) -> None:
    assert call("doctor", well, "--json", "--format", "text").exit_code == 2
    with pytest.raises(UsageError, match='no finding is called "nothing_such"'):
        call("doctor", well, "--ignore", "nothing_such:a")
    result = CliRunner().invoke(cli, ["doctor", "--dsn", empty_db])
    assert "The engine is not deployed" in str(result.exception)
    result = CliRunner().invoke(cli, ["doctor", "--dsn", "host=127.0.0.1 port=1"])
    assert getattr(result.exception, "exit_code", None) == 3


@pytest.fixture
def viewer(well: Connection, superuser: Connection) -> Iterator[str]:
    """Give a connection string of somebody who may only look."""
    run(superuser, "DO $$BEGIN CREATE ROLE flowguard_viewer NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END$$")
    run(superuser, "CREATE ROLE u_looker LOGIN IN ROLE flowguard_viewer")
    run(well, "SELECT flowguard.grant_roles()")
    yield make_conninfo(well.info.dsn, user="u_looker")
    run(superuser, "DROP ROLE u_looker; DROP OWNED BY flowguard_viewer; DROP ROLE flowguard_viewer")


def test_the_viewer_looks_and_mends_nothing(well: Connection, viewer: str) -> None:
    run(well, "DROP INDEX flowguard_child_flow_idx")
    with psycopg.connect(viewer, autocommit=True) as connection:
        assert call("doctor", connection).exit_code == 1
        printed = call("doctor", connection, "--fix")
    assert printed.exit_code == 1
    assert "Not mended by pyflowguard guard public.child --link-column flow: " in printed.stderr
    assert [finding["name"] for finding in findings(well)] == ["index_missing"]


def test_every_kind_is_in_the_documents() -> None:
    text = (DOCS / "drift.md").read_text()
    for name, words in doctor.KINDS.items():
        assert f"| `{name}` | {words} |" in text, name
