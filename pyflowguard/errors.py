"""What can go wrong, a class each; a class's docstring is the pattern of its message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """What the command line returns to its caller."""

    OK = 0
    FINDINGS = 1
    USAGE = 2
    CANNOT_CONNECT = 3
    FAILED = 4
    INTERRUPTED = 130


class FlowguardError(Exception):
    """A sentence that says what went wrong; DETAIL says what exactly, HINT what to do about it, CONTEXT where."""

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(
        self, message: str, *, detail: str | None = None, hint: str | None = None, context: str | None = None
    ) -> None:
        """Keep the parts apart, so that a caller may show them as it likes."""
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint
        self.context = context

    def __str__(self) -> str:
        """Give all parts as psql would show them, a line each."""
        parts = [self.message]
        if self.detail:
            parts.append(f"DETAIL:  {self.detail}")
        if self.hint:
            parts.append(f"HINT:  {self.hint}")
        if self.context:
            parts.append(f"CONTEXT:  {self.context}")
        return "\n".join(parts)


class UsageError(FlowguardError):
    """What was asked for cannot be meant: an unknown change, a bad connection string."""

    exit_code = ExitCode.USAGE


class PlanError(FlowguardError):
    """FILE:LINE: what is wrong with that line of the plan."""

    exit_code = ExitCode.USAGE


class CannotConnect(FlowguardError):
    """Cannot connect to DATABASE on HOST as USER: what libpq says about it."""

    exit_code = ExitCode.CANNOT_CONNECT


class ConnectionLost(FlowguardError):
    """The connection was lost while DOING WHAT: what libpq says about it."""


class StatementFailed(FlowguardError):
    """What PostgreSQL says, with its DETAIL and HINT."""


class ScriptFailed(FlowguardError):
    """FILE:LINE: SEVERITY SQLSTATE: what PostgreSQL says, with its DETAIL and HINT."""


class VerifyFailed(FlowguardError):
    """CHANGE does not verify and was reverted: what its verify script says."""


class LockNotObtained(FlowguardError):
    """Another deployer (process PID) holds the lock and did not release it within SECONDS s."""


class PlanDiverged(FlowguardError):
    """The database and the plan tell different histories: which change is where."""


class RegistryUnfit(FlowguardError):
    """sqitch's registry in SCHEMA is of another version, or may not be read, or written."""


class ScriptEdited(FlowguardError):
    """CHANGE was deployed from a script that has been edited since."""


class DependencyMissing(FlowguardError):
    """CHANGE requires, is required by, or conflicts with, a change of another project."""


class ServerFailed(FlowguardError):
    """The throw-away server did not start: what it says about it."""


class EngineUnfit(FlowguardError):
    """The engine in DATABASE is of VERSION; this command understands others, which it names."""


class ExtraMissing(FlowguardError):
    """WHAT WAS ASKED FOR cannot be done: the package NAME, of an extra, is not installed."""


class EngineMissing(FlowguardError):
    """DATABASE has no PyFlowGuard engine, or only a part of it."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's error in a block that writes a file which the user named into a UsageError."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}.") from error
