"""Connects to PostgreSQL, sends scripts whole, and says in one place how its errors and notices read."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
from psycopg import generators, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import Diagnostic, error_from_result

from pyflowguard.errors import CannotConnect, ConnectionLost, ScriptFailed, StatementFailed, UsageError

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

CONNECT_TIMEOUT = 10
"""Seconds to wait for a server that does not answer, where neither the connection string nor the environment says."""


_SESSION_ENDS = frozenset({"FATAL", "PANIC"})

_READ_ONLY = "25006"
_WHERE_TO_WRITE = (
    "Nothing can be written here. If this server is a standby, name the primary; else the session is read-only: see "
    "default_transaction_read_only."
)

_POLL_INTERVAL = 0.1  # seconds between two tries for a lock

_LOCK_HOLDER = """
SELECT l.pid, a.application_name
  FROM pg_catalog.pg_locks AS l LEFT JOIN pg_catalog.pg_stat_activity AS a USING (pid)
 WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %s AND l.objid = %s AND l.objsubid = %s
   AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
"""


@dataclass(frozen=True)
class Notice:
    """A message that PostgreSQL sends along: severity (NOTICE, WARNING, INFO, ...), text, and its optional parts."""

    severity: str
    message: str
    detail: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        """Give it as psql shows it."""
        parts = [f"{self.severity}:  {self.message}"]
        if self.detail:
            parts.append(f"DETAIL:  {self.detail}")
        if self.hint:
            parts.append(f"HINT:  {self.hint}")
        return "\n".join(parts)


NoticeHandler: TypeAlias = Callable[[Notice], None]


def connect(dsn: str = "", *, on_notice: NoticeHandler | None = None) -> Connection:
    """Open an autocommit connection; what `dsn` (a URI or key=value pairs) leaves out comes from libpq's environment.

    Its transactions are READ COMMITTED, whatever the default of the database is: what changes the guard waits for
    others who do, and has to see what they have done.

    Raises UsageError for a connection string that cannot be read and CannotConnect for every other failure. Neither
    ever shows a password.
    """
    given = _read_dsn(dsn)
    settings: dict[str, Any] = {"fallback_application_name": "pyflowguard", "client_encoding": "UTF8"}
    if "connect_timeout" not in given and not {"PGCONNECT_TIMEOUT", "PGSERVICE"} & os.environ.keys():
        settings["connect_timeout"] = CONNECT_TIMEOUT
    try:
        connection: Connection = psycopg.connect(dsn, autocommit=True, **settings)
        connection.execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED")
    except psycopg.Error as error:
        raise _cannot_connect(given, error) from None
    if on_notice is not None:
        handler = on_notice
        connection.add_notice_handler(lambda diagnostic: handler(_notice(diagnostic)))
    return connection


def database_name(dsn: str = "") -> str:
    """Give the name of the database that connect() opens, whether it can be reached or not; "" if there is no knowing.

    libpq itself says so, by connection string, environment, service file and its defaults; it is led nowhere for that.
    """
    try:
        _read_dsn(dsn)
    except UsageError:
        return ""
    nowhere = pq.PGconn.connect_start(make_conninfo(dsn, host="/", hostaddr="", port="1").encode())
    try:
        return (nowhere.db or b"").decode(errors="replace")
    finally:
        nowhere.finish()


@contextmanager
def time_limit(connection: Connection, limit: timedelta | None) -> Iterator[None]:
    """Cut the connection if the block takes longer (None: never), though the server does not say a word.

    Raises ConnectionLost then. A limit that the server keeps, such as statement_timeout, is none on one that hangs.
    """
    if limit is None:
        yield
        return
    is_over = threading.Event()

    def cut() -> None:
        is_over.set()
        with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as wire:
            wire.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(limit.total_seconds(), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except psycopg.OperationalError as error:
        if is_over.is_set():
            raise did_not_answer(limit) from error
        raise
    finally:
        timer.cancel()


def did_not_answer(limit: timedelta) -> ConnectionLost:
    """Say that the database took longer than it may."""
    return ConnectionLost(
        f"The database did not answer within {limit.total_seconds():g} s.",
        hint="See what it does, and what waits for what, in pg_stat_activity.",
    )


@contextmanager
def one_moment(connection: Connection) -> Iterator[None]:
    """Begin a transaction that only reads, and in which all is of one moment."""
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    with connection.transaction():
        yield


@dataclass(frozen=True)
class Holder:
    """A server process that holds a lock, and the application that it serves."""

    pid: int
    application: str | None

    def __str__(self) -> str:
        """Name it as messages do."""
        return f"process {self.pid}, {self.application}" if self.application else f"process {self.pid}"


def waits_for_lock(connection: Connection, *key: int) -> Iterator[Holder]:
    """Take an advisory lock of one key or of two for the session; yields who holds it, as long as another does.

    Polls: a session that waits inside pg_advisory_lock() holds a snapshot, and CREATE INDEX CONCURRENTLY, run by the
    holder of the lock, would wait for that snapshot for ever.
    """
    text = f"SELECT pg_catalog.pg_try_advisory_lock({', '.join(['%s'] * len(key))})"
    while connection.execute(text.encode(), key).fetchone() != (True,):
        row = connection.execute(_LOCK_HOLDER, [*((0, *key) if len(key) == 1 else key), len(key)]).fetchone()
        if row is not None:  # else gone in between
            yield Holder(*row)
            time.sleep(_POLL_INTERVAL)


def run_script(connection: Connection, file: Path, *, action: str) -> None:
    """Send the text of `file` whole, as one simple query; its own BEGIN and COMMIT apply and result rows are discarded.

    Raises ScriptFailed, with file and line, if a statement fails or a transaction is left open, which is then rolled
    back; ConnectionLost, naming the `action`, if the server goes away. The hint says what to drop if a statement that
    failed leaves an invalid index.
    """
    try:
        text = file.read_bytes().decode("utf-8")
    except OSError as error:
        raise ScriptFailed(f"{_shown(file)}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ScriptFailed(f"{_shown(file)}: not UTF-8 at byte {error.start}.") from error
    try:
        # psycopg's execute() would do, but it does not tell how many statements came through before one failed
        connection.pgconn.send_query(text.encode("utf-8"))
        results = connection.wait(generators.execute(connection.pgconn))
    except psycopg.Error as error:
        raise _connection_lost(action, error) from error
    for done, result in enumerate(results):
        if result.status == pq.ExecStatus.FATAL_ERROR:
            failure = error_from_result(result, encoding="utf-8")
            if failure.diag.severity_nonlocalized in _SESSION_ENDS:
                raise _connection_lost(action, failure) from failure
            _roll_back(connection)
            hint = failure.diag.message_hint or _drop_invalid_index(connection, text)
            raise _script_failed(file, text, done, failure, hint) from failure
        if result.status in {pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT}:
            connection.close()
            raise ScriptFailed(
                f"{_shown(file)}:{_statement_line(text, done)}: COPY from or to the client cannot be in a script.",
                hint="Write the rows as INSERT ... VALUES.",
            )
    if connection.info.transaction_status != pq.TransactionStatus.IDLE:
        _roll_back(connection)
        raise ScriptFailed(
            f"{_shown(file)}: the script leaves its transaction open, so it was rolled back.",
            hint="End the script with COMMIT;",
        )


@contextmanager
def readable_errors(action: str) -> Iterator[None]:
    """Turn psycopg's errors in the block into StatementFailed, or into ConnectionLost if the connection is gone."""
    try:
        yield
    except psycopg.Error as error:
        if error.diag.sqlstate is None or error.diag.severity_nonlocalized in _SESSION_ENDS:
            raise _connection_lost(action, error) from error
        message = f"{error.diag.severity} {error.diag.sqlstate}: {error.diag.message_primary}"
        hint = error.diag.message_hint or (_WHERE_TO_WRITE if error.diag.sqlstate == _READ_ONLY else None)
        context = error.diag.context and re.sub(_STATEMENT_IN_CONTEXT, _brief_statement, error.diag.context)
        raise StatementFailed(message, detail=error.diag.message_detail, hint=hint, context=context) from error


_STATEMENT_IN_CONTEXT = r"""(?msx) ^ (SQL[ ](?:statement|expression)[ ]") (.*?) " $ (?= \n (?:PL/pgSQL|SQL)[ ] | \Z)"""
_BRIEF = 100
"""So many characters of a statement say which it is; those that the engine writes have thousands."""


def _brief_statement(found: re.Match[str]) -> str:
    """Give a statement of a CONTEXT in one line, and no more than its beginning."""
    text = " ".join(found[2].split())
    return f'{found[1]}{text if len(text) <= _BRIEF else text[:_BRIEF] + " [...]"}"'


def statement_offsets(text: str) -> list[int]:
    """Where each statement of a script begins, as offsets into its text: the first word, comments left out.

    Knows strings, dollar quotes, quoted names, nested comments, parentheses and BEGIN ATOMIC bodies.
    """
    offsets: list[int] = []
    inside = False
    parentheses = atomic = 0
    previous = ""
    position = 0
    while (match := _TOKEN.search(text, position)) is not None:
        position = match.end()
        kind = match.lastgroup
        if kind == "comment":
            continue
        if kind == "block":
            position = _end_of_block_comment(text, match.start())
            continue
        if kind == "semicolon" and not parentheses and not atomic:
            inside = False
            continue
        if not inside:
            offsets.append(match.start())
            inside = True
        if kind == "dollar":
            end = text.find(match[0], position)
            position = len(text) if end < 0 else end + len(match[0])
        elif kind == "bracket":
            parentheses = max(0, parentheses + (1 if match[0] == "(" else -1))
        word = match[0].lower() if kind == "word" else ""
        if word == "atomic" and previous == "begin":
            atomic = 1
        elif atomic and word in {"case", "end"}:
            atomic += 1 if word == "case" else -1
        previous = word
    return offsets


_TOKEN = re.compile(
    r"""
    (?P<comment>   --[^\n]* )
  | (?P<block>     /\* )
  | (?P<escape>    \b[eE]'(?:[^'\\]|\\.|'')*'? )
  | (?P<string>    '(?:[^']|'')*'? )
  | (?P<quoted>    "(?:[^"]|"")*"? )
  | (?P<dollar>    \$(?:[^\W\d]\w*)?\$ )
  | (?P<word>      [^\W\d][\w$]* )
  | (?P<semicolon> ; )
  | (?P<bracket>   [()] )
  | (?P<other>     \S )
    """,
    re.VERBOSE | re.DOTALL,
)


def _end_of_block_comment(text: str, start: int) -> int:
    depth = 0
    for match in re.compile(r"/\*|\*/").finditer(text, start):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return match.end()
    return len(text)


def _statement_line(text: str, index: int) -> int:
    offsets = statement_offsets(text)
    return _line_at(text, offsets[min(index, len(offsets) - 1)]) if offsets else 1


def _line_at(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1


def concurrent_index(text: str) -> tuple[str, str] | None:
    """Give name and table, as they are written, of the index that a script of this one statement makes concurrently."""
    offsets = statement_offsets(text)
    match = _CONCURRENT_INDEX.match(text, offsets[0]) if len(offsets) == 1 else None
    return None if match is None else (match["name"], match["table"])


_CONCURRENT_INDEX = re.compile(
    r"""create\s+(?:unique\s+)?index\s+concurrently\s+(?:if\s+not\s+exists\s+)?(?P<name>{name})
        \s+on\s+(?:only\s+)?(?P<table>{name}(?:\.{name})?)""".format(name=r"(?:[^\W\d][\w$]*|\"(?:[^\"]|\"\")+\")"),
    re.IGNORECASE | re.VERBOSE,
)

_READ_INVALID_INDEX = """
SELECT i.indexrelid::regclass::text
  FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
 WHERE NOT i.indisvalid AND c.relname = (pg_catalog.parse_ident(%s))[1] AND i.indrelid = pg_catalog.to_regclass(%s)
"""


def _drop_invalid_index(connection: Connection, text: str) -> str | None:
    """Give the hint for a script that made an index concurrently and failed, if it is there, and invalid."""
    index = concurrent_index(text)
    row = None
    if index is not None:
        with suppress(psycopg.Error):  # it is the script's failure that is to be told
            row = connection.execute(_READ_INVALID_INDEX, index).fetchone()
    return (
        None if row is None else f"An invalid index is left. Before you run it again: DROP INDEX CONCURRENTLY {row[0]};"
    )


def _script_failed(file: Path, text: str, done: int, error: psycopg.Error, hint: str | None) -> ScriptFailed:
    """Place the error: PostgreSQL's own position counts over the whole text; without one, the statement's line."""
    diagnostic = error.diag
    if diagnostic.statement_position is not None:
        line = _line_at(text, int(diagnostic.statement_position) - 1)
    else:
        line = _statement_line(text, done)
    return ScriptFailed(
        f"{_shown(file)}:{line}: {diagnostic.severity} {diagnostic.sqlstate}: {diagnostic.message_primary}",
        detail=diagnostic.message_detail,
        hint=hint,
        context=diagnostic.context,
    )


def _roll_back(connection: Connection) -> None:
    """End whatever transaction a script left behind; with the connection gone the server has ended it."""
    open_states = {pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR}
    if connection.info.transaction_status in open_states:
        connection.execute("ROLLBACK")


def _shown(file: Path) -> str:
    """Give a path as the reader would type it: relative where it lies below the current directory."""
    try:
        return str(file.resolve().relative_to(Path.cwd().resolve()))
    except (ValueError, OSError):
        return str(file)


def _notice(diagnostic: Diagnostic) -> Notice:
    return Notice(
        diagnostic.severity or "NOTICE",
        diagnostic.message_primary or "",
        diagnostic.message_detail,
        diagnostic.message_hint,
    )


def _read_dsn(dsn: str) -> dict[str, Any]:
    """Parse a connection string; what looks like a piece of a password in the wrong place is refused unquoted.

    libpq quotes what it cannot read, and takes the rest of a password that holds an unescaped @ or / for a host, a port
    or a database, which it then names in its messages.
    """
    try:
        given = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        given = None
    if given is not None:
        host, port, dbname = (str(given.get(key) or "") for key in ("host", "port", "dbname"))
        is_uri = dsn.startswith(("postgresql://", "postgres://"))
        if re.fullmatch(r"[0-9,]*", port) and not (is_uri and ("@" in host[1:] or "@" in dbname)):
            return given
    raise UsageError(
        "The connection string cannot be read.",
        hint="Give a URI (postgresql://user@host:5432/database) or key=value pairs (host=db dbname=app). In a URI, "
        "write a password's special characters as %40 for @, %2F for /, %3A for :, %23 for #, %3F for ? and %25 for %.",
    )


def _cannot_connect(given: dict[str, Any], error: psycopg.Error) -> CannotConnect:
    values = {
        option.keyword.decode(): (option.val or b"").decode(errors="replace") for option in pq.Conninfo.get_defaults()
    }
    values.update({key: str(value) for key, value in given.items() if value is not None})
    user, host = values.get("user", ""), values.get("host", "") or values.get("hostaddr", "")
    target = f'database "{values.get("dbname") or user}" as "{user}"' + (f" on {host}" if host else "")
    return CannotConnect(
        f"Cannot connect to {target}: {str(error).strip()}",
        hint="Name the database by --dsn or libpq's environment (PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSWORD).",
    )


def _connection_lost(action: str, error: psycopg.Error) -> ConnectionLost:
    return ConnectionLost(
        f"The connection was lost while {action}: {str(error).strip()}",
        hint="Run it again when the server is back: what was committed stays, and nothing is left half done.",
    )
