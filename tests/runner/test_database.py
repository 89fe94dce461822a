"""A connection is usable after a script has failed on it, and errors read the same wherever they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyflowguard.database import connect, readable_errors, run_script, statement_offsets
from pyflowguard.errors import ConnectionLost, ScriptFailed, StatementFailed


@pytest.mark.parametrize("text", ["BEGIN; CREATE TABLE t (); SELECT 1/0; COMMIT;", "BEGIN; CREATE TABLE t ();"])
def test_a_failing_script_leaves_the_connection_outside_a_transaction(empty_db: str, tmp_path: Path, text: str) -> None:
    script = tmp_path / "script.sql"
    script.write_text(text)
    with connect(empty_db) as connection:
        with pytest.raises(ScriptFailed):
            run_script(connection, script, action="testing")
        assert connection.execute("SELECT to_regclass('t') IS NULL").fetchone() == (True,)


@pytest.mark.parametrize(
    ("index", "table"),
    [("t_i", "s.t"), ('"an ""index"', '"s".t'), ("IF NOT EXISTS T_I", "only s.t"), ("T_i", "S.T")],
)
def test_an_invalid_index_that_a_script_leaves_is_to_be_dropped(
    empty_db: str, tmp_path: Path, index: str, table: str
) -> None:
    script = tmp_path / "script.sql"
    script.write_text(f"/* one */ create unique index CONCURRENTLY {index}\n  ON {table} (i)")
    with connect(empty_db) as connection:
        connection.execute("CREATE SCHEMA s; CREATE TABLE s.t (i int); INSERT INTO s.t VALUES (1), (1)")
        with pytest.raises(ScriptFailed, match="could not create unique index") as caught:
            run_script(connection, script, action="testing")
        connection.execute("DELETE FROM s.t WHERE ctid = '(0,1)'")
        if "EXISTS" not in index:
            with pytest.raises(ScriptFailed, match="already exists") as caught:
                run_script(connection, script, action="testing")
        assert caught.value.hint is not None
        says, _, remedy = caught.value.hint.partition("run it again: ")
        assert says == "An invalid index is left. Before you "
        connection.execute(remedy.encode())
        run_script(connection, script, action="testing")
        if "EXISTS" not in index:
            with pytest.raises(ScriptFailed, match="already exists") as caught:
                run_script(connection, script, action="testing")
            assert caught.value.hint is None, "a valid index stays"


def test_a_script_that_cannot_be_read_is_named(empty_db: str, tmp_path: Path) -> None:
    (tmp_path / "latin.sql").write_bytes(b"SELECT '\xe9';")
    with connect(empty_db) as connection:
        with pytest.raises(ScriptFailed, match=r"latin\.sql: not UTF-8 at byte 8"):
            run_script(connection, tmp_path / "latin.sql", action="testing")
        with pytest.raises(ScriptFailed, match=r"missing\.sql: No such file"):
            run_script(connection, tmp_path / "missing.sql", action="testing")


def test_an_error_of_a_statement_is_worded_with_all_its_parts(empty_db: str) -> None:
    with connect(empty_db) as connection, pytest.raises(StatementFailed) as caught, readable_errors("testing"):
        connection.execute("DO $$ BEGIN RAISE 'No.' USING ERRCODE = 'FG007', DETAIL = 'd', HINT = 'h'; END $$")
    error = caught.value
    assert (error.message, error.detail, error.hint) == ("ERROR FG007: No.", "d", "h")
    assert str(error) == (
        "ERROR FG007: No.\nDETAIL:  d\nHINT:  h\nCONTEXT:  PL/pgSQL function inline_code_block line 1 at RAISE"
    )


def test_of_a_long_statement_the_context_shows_the_beginning(empty_db: str) -> None:
    """The engine writes statements of sixty lines; a condition of the user's that fails stands in one."""
    long = "SELECT '\nSQL statement \"x\"', 1,\n" + ",\n".join(f"        {number}" for number in range(99)) + ", 1 / 0"
    nested = f"DO $$ BEGIN EXECUTE $long${long}$long$; END $$"
    with connect(empty_db) as connection, pytest.raises(StatementFailed) as caught, readable_errors("testing"):
        connection.execute(f"DO $outer$ BEGIN EXECUTE $nested${nested}$nested$; END $outer$".encode())
    assert caught.value.message == "ERROR 22012: division by zero"
    assert caught.value.context is not None
    assert caught.value.context.splitlines() == [
        f'SQL statement "{" ".join(long.split())[:100]} [...]"',
        "PL/pgSQL function inline_code_block line 1 at EXECUTE",
        f'SQL statement "{" ".join(nested.split())[:100]} [...]"',
        "PL/pgSQL function inline_code_block line 1 at EXECUTE",
    ]


def test_a_session_that_is_ended_is_told_apart_from_a_statement_that_fails(empty_db: str) -> None:
    lost = pytest.raises(ConnectionLost, match="lost while testing")
    with connect(empty_db) as connection, lost, readable_errors("testing"):
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("", []),
        (" ;; -- nothing; at all\n/* ; */ ;", []),
        ("a; b", ["a", "b"]),
        ("a';'; b\";\"; c $$;$$; d $x$;$$;$x$; e", ["a", "b", "c", "d", "e"]),
        ("a$1$; b", ["a", "b"]),  # a name may hold a dollar: this is no quote
        ("a E'\\';'; b U&'\\'; c", ["a", "b", "c"]),
        ("a '\\'; b", ["a", "b"]),
        ("a (x; y); b", ["a", "b"]),
        ("a ); b", ["a", "b"]),
        ("f begin atomic x; case when y then z end; end; b", ["f", "b"]),
        ("begin; end; b", ["begin", "end", "b"]),
        ("/* /* ; */ ; */ a; --;\n b", ["a", "b"]),
        ("a 'not closed; b", ["a"]),
        ("a $$not closed; b", ["a"]),
        ("a /* not closed; b", ["a"]),
        ("é; ü", ["é", "ü"]),
    ],
)
def test_statements_are_told_apart(text: str, statements: list[str]) -> None:
    offsets = statement_offsets(text)
    assert len(offsets) == len(statements)
    for offset, statement in zip(offsets, statements, strict=True):
        assert text.startswith(statement, offset)
