"""Deploys, reverts and verifies change sets and says what is deployed.

yoyo-migrations applies and records the changes, one yoyo migration a change, under the id that sqitch gives it. What
yoyo does not know is kept beside its tables in the schema `pyflowguard`: the hash of the script that was deployed, by
whom, and what is being attempted right now, so that a deployer killed between applying and recording is picked up.
sqitch's registry is written in the same transaction, and what sqitch wrote there counts as if it were written here.
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from psycopg.rows import class_row
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import DatabaseURI
from yoyo.migrations import Migration, MigrationList, StepCollector

from pyflowguard import online, sqitch
from pyflowguard.database import Connection, NoticeHandler, connect, readable_errors, run_script, waits_for_lock
from pyflowguard.engine import LeftOut, notice_left_out
from pyflowguard.errors import (
    DependencyMissing,
    LockNotObtained,
    PlanDiverged,
    ScriptEdited,
    ScriptFailed,
    UsageError,
    VerifyFailed,
)
from pyflowguard.plan import Change, Dependency, OnlineRemark, Plan, read_plan

LOCK_KEY = 75474063
"""The advisory lock that sqitch takes while it deploys, so that the two exclude each other too."""

LOCK_TIMEOUT = timedelta(seconds=60)
"""How long a deployer waits for another one by default."""

Action: TypeAlias = Literal["deploy", "record", "revert", "verify"]
State: TypeAlias = Literal["deployed", "edited", "interrupted", "pending"]


@dataclass(frozen=True)
class Step:
    """Progress of a command: `change`, the `number`-th of `total`, begins (seconds is None) or has ended."""

    action: Action
    change: Change
    number: int
    total: int
    seconds: float | None


@dataclass(frozen=True)
class Waiting:
    """Progress of a command: it waits for the deployment lock, which this server process holds."""

    holder: str


ProgressHandler: TypeAlias = Callable[[Step | Waiting], None]


@dataclass(frozen=True)
class Record:
    """A change as the database has it: its id, the hash of the script that was run, when and as which role."""

    change_id: str
    change: str
    script_hash: str
    deployed_at: datetime
    deployed_by: str


@dataclass(frozen=True)
class Attempt:
    """A change that was being deployed or reverted when its deployer ended without saying how it went."""

    change_id: str
    change: str
    action: Literal["deploy", "revert"]
    script_hash: str
    started_at: datetime


@dataclass(frozen=True)
class ChangeStatus:
    """A change of the plan with what the database says of it; `record` is None unless it is deployed."""

    change: Change
    state: State
    record: Record | None


@dataclass(frozen=True)
class Status:
    """The whole plan with what is deployed of it, in plan order."""

    project: str
    changes: tuple[ChangeStatus, ...]

    def having(self, state: State) -> tuple[Change, ...]:
        """Changes in that state, in plan order."""
        return tuple(entry.change for entry in self.changes if entry.state == state)


@dataclass(frozen=True)
class DeployResult:
    """What a deployment did: changes deployed, those recorded only, and those found edited; in a dry run, would do."""

    deployed: tuple[Change, ...]
    recorded: tuple[Change, ...]
    edited: tuple[Change, ...]
    dry_run: bool


@dataclass(frozen=True)
class AdoptResult:
    """What adopt() recorded; `stopped_at` is the first change that is not there, None if there is none, and why."""

    adopted: tuple[Change, ...]
    stopped_at: Change | None
    failure: ScriptFailed | None
    dry_run: bool


@dataclass(frozen=True)
class RevertResult:
    """What a revert did: the changes reverted, last first; in a dry run, what it would do."""

    reverted: tuple[Change, ...]
    dry_run: bool


@dataclass(frozen=True)
class VerifyOutcome:
    """Whether a deployed change verifies; `failure` is the reason if not.

    `checked` is False where there is nothing to run: the change has no script, or a later one has reworked it.
    """

    change: Change
    checked: bool
    failure: ScriptFailed | None


def deploy(
    dsn: str = "",
    *,
    to: str | None = None,
    directory: Path | None = None,
    verify: bool = True,
    log_only: bool = False,
    accept_edits: bool = False,
    dry_run: bool = False,
    lock_timeout: timedelta = LOCK_TIMEOUT,
    guard_lock_timeout: timedelta = online.LOCK_TIMEOUT,
    guard_deadline: timedelta = online.DEADLINE,
    on_progress: ProgressHandler | None = None,
    on_guard: online.ProgressHandler | None = None,
    on_notice: NoticeHandler | None = None,
) -> DeployResult:
    """Deploy the plan's pending changes in order, up to and including `to`; nothing pending is no error.

    Before a script that asks for it by a remark (Plan.online_remarks()), links are guarded or their mode is set online:
    a statement waits `guard_lock_timeout` for its lock and is tried again until `guard_deadline` has passed; `on_guard`
    is told. What is built then stays if the deployment stops there; the next one goes on. Each change is verified after
    it is deployed, and reverted if it does not verify. `log_only` records the changes as deployed without running them
    (once they verify): all of them or an error, where adopt() finds out how many there are. `accept_edits` takes the
    scripts as they are now for those that were deployed. A dry run reads only, and takes no lock.

    Raises UsageError for a `to` that the plan does not have, PlanDiverged, RegistryUnfit, ScriptEdited,
    DependencyMissing, LockNotObtained, ScriptFailed, VerifyFailed, and what connecting raises.
    """
    plan = read_plan(directory)
    end = len(plan.changes) if to is None else plan.index_of(to) + 1
    runner = _Runner(dsn, plan, on_progress, on_notice)
    if dry_run:
        return runner.plan_deployment(end)
    with runner.registry(lock_timeout) as registry:
        recorded = runner.settle(registry)
        return runner.deploy(
            registry,
            end,
            recorded,
            verify=verify,
            log_only=log_only,
            accept_edits=accept_edits,
            go_online=partial(
                _go_online,
                dsn,
                told=set(),
                lock_timeout=guard_lock_timeout,
                deadline=guard_deadline,
                on_progress=on_guard,
                on_notice=on_notice,
            ),
        )


def _go_online(
    dsn: str,
    remark: OnlineRemark,
    *,
    told: set[LeftOut],
    **options: Any,  # noqa: ANN401  those of online
) -> None:
    """Do what the remark of a script asks for; whether an incomplete link is an error is for the script to say.

    So it is of a link of which something is gone, which the script may mend. It is told, each once in a deployment.
    """
    if remark.if_table is not None and not _has_table(dsn, remark.if_table):
        return
    options |= {"link_column": remark.link_column, "any_version": True, "skip_gone": True}
    done = (
        online.guard(dsn, remark.tables, **options)
        if remark.mode is None
        else online.set_mode(remark.mode, dsn, remark.tables, skip_incomplete=True, **options)
    )
    notice_left_out([link for link in done.left_out if link not in told], options["on_notice"])
    told.update(done.left_out)


def _has_table(dsn: str, name: str) -> bool:
    with connect(dsn) as connection, readable_errors(f"looking for table {name}"):
        return connection.execute(_TABLE_IS_THERE, [name]).fetchone() == (True,)


_TABLE_IS_THERE = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_class c
                WHERE c.relname = %s AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't')
"""


def adopt(
    dsn: str = "",
    *,
    to: str | None = None,
    directory: Path | None = None,
    dry_run: bool = False,
    lock_timeout: timedelta = LOCK_TIMEOUT,
    on_progress: ProgressHandler | None = None,
    on_notice: NoticeHandler | None = None,
) -> AdoptResult:
    """Record as deployed what is there without a record, as far as each change verifies, in order and up to `to`.

    No deploy script is run. It stops at the first change that does not verify, or has no verify script, and says so.
    A dry run verifies, records nothing and takes no lock. Raises what deploy() raises.
    """
    plan = read_plan(directory)
    end = len(plan.changes) if to is None else plan.index_of(to) + 1
    runner = _Runner(dsn, plan, on_progress, on_notice)
    if dry_run:
        pending = runner.plan_deployment(end, sent=False).deployed
        adopted: list[Change] = []
        for change in pending:
            present, failure = runner.is_there(change)
            if not present:
                return AdoptResult(tuple(adopted), change, failure, dry_run=True)
            adopted.append(change)
        return AdoptResult(tuple(adopted), None, None, dry_run=True)
    with runner.registry(lock_timeout) as registry:
        recorded = runner.settle(registry)
        return runner.adopt(registry, end, recorded)


def revert(
    dsn: str = "",
    *,
    to: str | None = None,
    directory: Path | None = None,
    dry_run: bool = False,
    lock_timeout: timedelta = LOCK_TIMEOUT,
    on_progress: ProgressHandler | None = None,
    on_notice: NoticeHandler | None = None,
) -> RevertResult:
    """Revert deployed changes, last first, down to but not including `to`; without `to`, all of them.

    A dry run reads only, and takes no lock. Raises what deploy() raises; a change whose revert script fails stays
    deployed.
    """
    plan = read_plan(directory)
    keep = 0 if to is None else plan.index_of(to) + 1
    runner = _Runner(dsn, plan, on_progress, on_notice)
    if dry_run:
        return RevertResult(runner.to_revert(runner.read_records(), to, keep), dry_run=True)
    with runner.registry(lock_timeout) as registry:
        runner.settle(registry)
        doomed = runner.to_revert(registry.records(plan), to, keep)
        if registry.mirror is not None:
            registry.mirror.check_dependents(doomed)
        for number, change in enumerate(doomed, 1):
            with runner.progress("revert", change, number, len(doomed)):
                registry.begin_attempt(plan, change, "revert")
                with registry.forgetting_a_clean_failure(change, "revert"):
                    registry.rollback_one(_ChangeMigration(runner, change, verify=False))
        return RevertResult(doomed, dry_run=False)


def verify(
    dsn: str = "",
    *,
    to: str | None = None,
    directory: Path | None = None,
    on_progress: ProgressHandler | None = None,
    on_notice: NoticeHandler | None = None,
) -> tuple[VerifyOutcome, ...]:
    """Run the verify script of every deployed change, up to and including `to`, and say how each went.

    Not that of a change which a later one has reworked, deployed or not: so does sqitch.
    """
    plan = read_plan(directory)
    end = len(plan.changes) if to is None else plan.index_of(to) + 1
    runner = _Runner(dsn, plan, on_progress, on_notice)
    deployed = plan.changes[: min(end, len(runner.read_records()))]
    outcomes = []
    for number, change in enumerate(deployed, 1):
        with runner.progress("verify", change, number, len(deployed)):
            try:
                checked, failure = not plan.reworks_of(change) and runner.verify(change), None
            except ScriptFailed as error:
                checked, failure = True, error
        outcomes.append(VerifyOutcome(change, checked, failure))
    return tuple(outcomes)


def status(dsn: str = "", *, directory: Path | None = None) -> Status:
    """Say of each change of the plan whether it is deployed, edited since, interrupted or pending; reads only.

    What sqitch has deployed or reverted counts, also where it is not recorded here yet. Raises PlanDiverged if the
    database has changes that the plan has not, or in another order, and RegistryUnfit if sqitch's record of them may
    not be read.
    """
    plan = read_plan(directory)
    with connect(dsn) as connection, readable_errors("reading what is deployed"):
        records = _read_deployed(connection, plan)
        attempted = {attempt.change_id for attempt in _read_attempts(connection, plan.project)}
    entries = []
    for index, change in enumerate(plan.changes):
        record = records[index] if index < len(records) else None
        state: State = "pending"
        if change.id in attempted:
            state = "interrupted"
        elif record is not None:
            state = "edited" if _is_edited(plan, change, record) else "deployed"
        entries.append(ChangeStatus(change, state, record))
    return Status(plan.project, tuple(entries))


class _Runner:
    """One command's work on one database with one plan."""

    def __init__(
        self, dsn: str, plan: Plan, on_progress: ProgressHandler | None, on_notice: NoticeHandler | None
    ) -> None:
        self.dsn = dsn
        self.plan = plan
        self.on_progress = on_progress
        self.on_notice = on_notice

    @contextmanager
    def registry(self, lock_timeout: timedelta) -> Iterator[_Registry]:
        """Open the registry, made if it is missing, with the deployment lock held until the block ends."""
        with readable_errors("opening the registry"):
            registry = _Registry(self.dsn, self.on_notice)
        with registry:
            with readable_errors("taking the deployment lock"):
                self._take_lock(registry.connection, lock_timeout)
            with readable_errors("opening the registry"):
                sqitch.check_readable(registry.connection, self.plan)  # before anything is made
                registry.create()
                registry.mirror = sqitch.open_mirror(registry.connection, self.plan, self.on_notice)
                self._agree_with_sqitch(registry)
            with readable_errors("recording the deployment"):
                yield registry

    def _take_lock(self, connection: Connection, timeout: timedelta) -> None:
        """Wait for sqitch's lock, then for scripts that a killed deployer may have left running in the server."""
        deadline = time.monotonic() + timeout.total_seconds()
        told = False
        for key in ((LOCK_KEY,), (LOCK_KEY, 1)):
            for holder in waits_for_lock(connection, *key):
                if time.monotonic() >= deadline:
                    raise LockNotObtained(
                        f"Another deployer ({holder}) holds the deployment lock and did not release it within "
                        f"{timeout.total_seconds():g} s.",
                        hint="Wait for it, give more time with --lock-timeout, or end it: "
                        f"SELECT pg_terminate_backend({holder.pid});",
                    )
                if not told and self.on_progress is not None:
                    self.on_progress(Waiting(str(holder)))
                told = True
        connection.execute("SELECT pg_advisory_unlock(%s, 1)", [LOCK_KEY])

    @contextmanager
    def progress(self, action: Action, change: Change, number: int, total: int) -> Iterator[None]:
        """Tell the progress handler that a change begins and, unless it fails, that it has ended."""
        if self.on_progress is None:
            yield
            return
        self.on_progress(Step(action, change, number, total, None))
        start = time.monotonic()
        yield
        self.on_progress(Step(action, change, number, total, time.monotonic() - start))

    def read_records(self) -> tuple[Record, ...]:
        """Read what is deployed without a lock, and check it against the plan."""
        with connect(self.dsn) as connection, readable_errors("reading what is deployed"):
            return _read_deployed(connection, self.plan)

    def _agree_with_sqitch(self, registry: _Registry) -> None:
        """Record what sqitch did since, and tell its registry what it does not know; what contradicts is refused."""
        own = _read_records(registry.connection, self.plan.project)
        history = sqitch.read(registry.connection, self.plan)
        records = _merge(self.plan, own, history)
        kept = {record.change_id for record in records if record in own}
        by_id = {change.id: change for change in self.plan.changes}
        for record in reversed(own):
            if record.change_id not in kept:
                registry.forget(record)
        told = {deployed.change_id for deployed in history.deployed}
        for record in records:
            if record.change_id not in kept:
                migration = _ChangeMigration(self, by_id[record.change_id], verify=False)
                registry.record(migration, record.script_hash, origin=record)
            elif registry.mirror is not None and record.change_id not in told:
                change = by_id[record.change_id]
                registry.mirror.deployed(change, record.script_hash, when=record.deployed_at, by=record.deployed_by)

    def run(self, file: Path, *, action: str) -> None:
        """Run a script on a connection of its own."""
        with _open_script_connection(self.dsn, self.on_notice) as connection:
            run_script(connection, file, action=action)

    def verify(self, change: Change) -> bool:
        """Run the change's verify script; False if it has none; ScriptFailed if it does not verify."""
        file = self.plan.verify_file(change)
        if not file.is_file():
            return False
        self.run(file, action=f"verifying {change.name}")
        return True

    def is_there(self, change: Change) -> tuple[bool, ScriptFailed | None]:
        """Say whether the change's verify script tells that it is deployed, and if not, what it said if it has one.

        Where a rework of it is deployed by its own script, it is so as well.
        """
        try:
            return self.verify(change), None
        except ScriptFailed as failure:
            return any(self.is_there(rework)[0] for rework in self.plan.reworks_of(change)), failure

    def plan_deployment(self, end: int, *, sent: bool = True) -> DeployResult:
        """Say what deploy() would do, or adopt() look at (not `sent`)."""
        with connect(self.dsn) as connection, readable_errors("reading what is deployed"):
            records = _read_deployed(connection, self.plan)
            pending = self._pending(connection, records, end, sent=sent)
        edited = self._edited(records)
        _refuse_edits(edited if pending else ())
        return DeployResult(pending, (), edited, dry_run=True)

    def settle(self, registry: _Registry) -> tuple[Change, ...]:
        """Finish what a killed deployer left unrecorded; the change's verify script tells how far it came.

        Of a rework it does not: what it looks for may be there by the change that is reworked. So it is deployed, or
        reverted, once more, which sqitch asks of the scripts of a rework.

        Returns the changes that turned out to be deployed and were recorded.
        """
        recorded = []
        known = {change.id: change for change in self.plan.changes}
        for attempt in _read_attempts(registry.connection, self.plan.project):
            change = known.get(attempt.change_id)
            if change is None:
                raise PlanDiverged(
                    f"A deployer ended while it was to {attempt.action} {attempt.change} ({attempt.change_id}), "
                    "which the plan does not have.",
                    hint="Deploy with the plan that was used then.",
                )
            migration = _ChangeMigration(self, change, verify=False)
            present, failure = (None, None) if self.plan.is_rework(change) else self.is_there(change)
            if attempt.action == "deploy" and present:
                self._refuse_gap(registry, change)
                with self.progress("record", change, 1, 1):
                    registry.record(migration, attempt.script_hash)
                recorded.append(change)
            elif attempt.action == "revert" and not present:
                self._refuse_later(registry, change)
                with self.progress("revert", change, 1, 1):
                    if failure is not None:
                        registry.unmark_migrations(MigrationList([migration]))
                    else:
                        registry.rollback_one(migration)
            else:
                registry.end_attempt(change.id)
        return tuple(recorded)

    def _refuse_gap(self, registry: _Registry, change: Change) -> None:
        """Raise PlanDiverged if sqitch has reverted what comes before a change that an interrupted deployer left."""
        before = self.plan.changes[: self.plan.changes.index(change)]
        reverted = before[len(registry.records(self.plan)) :]
        if reverted:
            raise PlanDiverged(
                f"A deployer ended when {change.name} was deployed, and sqitch has reverted {reverted[0].name} since.",
                hint=f"Nothing was changed. Revert it by hand, then run this again: "
                f"psql --file {self.plan.revert_file(change)}",
            )

    def _refuse_later(self, registry: _Registry, change: Change) -> None:
        """Raise PlanDiverged if sqitch has gone on from a change that an interrupted revert took away."""
        last = registry.records(self.plan)[-1]
        if last.change_id != change.id:
            raise PlanDiverged(
                f"A deployer ended while it was to revert {change.name}, and sqitch has deployed {last.change} since.",
                hint=f"Nothing was changed. Go back with sqitch first: sqitch revert --to {change.name}",
            )

    def deploy(
        self,
        registry: _Registry,
        end: int,
        recorded: tuple[Change, ...],
        *,
        verify: bool,
        log_only: bool,
        accept_edits: bool,
        go_online: Callable[[OnlineRemark], None],
    ) -> DeployResult:
        """Deploy, or only record, what is pending before position `end`."""
        records = registry.records(self.plan)
        pending = self._pending(registry.connection, records, end, sent=not log_only)
        edited = self._edited(records)
        if accept_edits:
            for change in edited:
                with registry.transaction():
                    registry.accept_edit(change, self.plan.script_hash(change))
            edited = ()
        _refuse_edits(edited if pending else ())
        self._record_new_tags(registry, len(records), end)
        for number, change in enumerate(pending, 1):
            migration = _ChangeMigration(self, change, verify=verify)
            if log_only:
                with self.progress("record", change, number, len(pending)):
                    if verify:
                        self.verify(change)
                    registry.record(migration, self.plan.script_hash(change))
                continue
            with self.progress("deploy", change, number, len(pending)):
                for remark in self.plan.online_remarks(change):
                    go_online(remark)
                registry.begin_attempt(self.plan, change, "deploy")
                with registry.forgetting_a_clean_failure(change, "deploy"):
                    registry.apply_one(migration)
        if log_only:
            return DeployResult((), recorded + pending, edited, dry_run=False)
        return DeployResult(pending, recorded, edited, dry_run=False)

    def _record_new_tags(self, registry: _Registry, deployed: int, end: int) -> None:
        """Tell sqitch which tags the last deployed change has gained; refuse those that it knows otherwise."""
        if registry.mirror is None:
            return
        registry.mirror.check_tags(self.plan.changes[max(deployed - 1, 0) : end])
        if deployed:
            registry.mirror.tagged(self.plan.changes[deployed - 1])

    def adopt(self, registry: _Registry, end: int, recorded: tuple[Change, ...]) -> AdoptResult:
        """Record what verifies of what is pending before position `end`, up to the first change that does not."""
        records = registry.records(self.plan)
        pending = self._pending(registry.connection, records, end, sent=False)
        _refuse_edits(self._edited(records) if pending else ())
        self._record_new_tags(registry, len(records), end)
        adopted = list(recorded)
        for number, change in enumerate(pending, 1):
            present, failure = self.is_there(change)
            if not present:
                return AdoptResult(tuple(adopted), change, failure, dry_run=False)
            with self.progress("record", change, number, len(pending)):
                registry.record(_ChangeMigration(self, change, verify=False), self.plan.script_hash(change))
            adopted.append(change)
        return AdoptResult(tuple(adopted), None, None, dry_run=False)

    def to_revert(self, records: Sequence[Record], to: str | None, keep: int) -> tuple[Change, ...]:
        """List the changes to revert so that the first `keep` stay, last first."""
        if to is not None and keep > len(records):
            raise UsageError(f"{to} is not deployed, so nothing can be reverted to it.")
        return tuple(reversed(self.plan.changes[keep : len(records)]))

    def _pending(
        self, connection: Connection, records: Sequence[Record], end: int, *, sent: bool
    ) -> tuple[Change, ...]:
        """List the changes that are not deployed yet; raises for what would stop them, before anything is run."""
        pending = self.plan.changes[len(records) : end]
        present = {record.change for record in records}
        self.plan.check_script_hashes(end)
        for change in pending:
            if sent:
                self.plan.online_remarks(change)  # raises if one cannot be read
            for dependency in change.requires + change.conflicts:
                self._check_dependency(connection, change, dependency, present)
            present.add(change.name)
        return pending

    def _check_dependency(
        self, connection: Connection, change: Change, dependency: Dependency, present: set[str]
    ) -> None:
        """Check what the order of the plan does not settle: other projects' changes, and conflicts."""
        by_sqitch = False
        if dependency.project is not None:
            records = _merge_records(
                _read_records(connection, dependency.project),
                sqitch.read(connection, self.plan, dependency.project),
            )
            present = {record.change for record in records} | {record.change_id for record in records}
            by_sqitch = sqitch.is_deployed(connection, self.plan, dependency)  # which knows tags
        elif not dependency.conflict:
            return
        is_there = by_sqitch or dependency.key.partition("@")[0] in present
        if dependency.conflict and is_there:
            raise DependencyMissing(
                f"{change.name} conflicts with {dependency}, which is deployed.", hint=f"Revert {dependency} first."
            )
        if not dependency.conflict and not is_there:
            raise DependencyMissing(
                f"{change.name} requires {dependency}, which is not deployed.", hint=f"Deploy {dependency} first."
            )

    def _edited(self, records: Sequence[Record]) -> tuple[Change, ...]:
        return tuple(
            change
            for change, record in zip(self.plan.changes, records, strict=False)
            if _is_edited(self.plan, change, record)
        )


class _ChangeMigration(Migration):  # type: ignore[misc]
    """A change as yoyo sees it: one step, whose script brings its own transaction."""

    def __init__(self, runner: _Runner, change: Change, *, verify: bool) -> None:
        super().__init__(change.id, str(runner.plan.deploy_file(change)), str(runner.plan.directory))
        self.runner = runner
        self.change = change
        self.verify = verify

    def load(self) -> None:
        if self.loaded:
            return
        collector = StepCollector(migration=self)
        collector.add_step(self.apply, self.roll_back)
        self.use_transactions = False
        self._depends: set[Migration] = set()
        self.steps = collector.create_steps(self.use_transactions)

    def apply(self, connection: Connection) -> None:
        """Run the deploy script, then verify; a change that does not verify is reverted, and raises VerifyFailed."""
        plan, change = self.runner.plan, self.change
        run_script(connection, plan.deploy_file(change), action=f"deploying {change.name}")
        if not self.verify:
            return
        try:
            self.runner.verify(change)
        except ScriptFailed as failure:
            try:
                self.runner.run(plan.revert_file(change), action=f"reverting {change.name}")
            except ScriptFailed as second:
                raise _NotReverted(
                    f"{change.name} does not verify, and could not be reverted either: {second}", detail=str(failure)
                ) from second
            raise VerifyFailed(
                f"{change.name} does not verify, so it was reverted. {failure.message}",
                detail=failure.detail,
                hint=failure.hint,
                context=failure.context,
            ) from failure

    def roll_back(self, connection: Connection) -> None:
        """Run the revert script."""
        run_script(connection, self.runner.plan.revert_file(self.change), action=f"reverting {self.change.name}")


class _NotReverted(VerifyFailed):
    """CHANGE does not verify, and could not be reverted either: what its revert script says."""


class _Registry(PostgresqlPsycopgBackend):  # type: ignore[misc]
    """yoyo's record keeping, in the schema `pyflowguard`, on a connection on which no script runs."""

    log_table = "migration_log"
    lock_table = "migration_lock"
    version_table = "migration_version"

    def __init__(self, dsn: str, on_notice: NoticeHandler | None) -> None:
        self.dsn = dsn
        self.on_notice = on_notice
        self.script_hash = ""  # of the change that is about to be marked
        self.origin: Record | None = None  # what sqitch recorded of it
        self.mirror: sqitch.Mirror | None = None
        super().__init__(DatabaseURI("postgresql+psycopg", None, None, None, None, None, {}), "migration")

    def connect(self, dburi: DatabaseURI) -> Connection:  # noqa: ARG002
        connection = connect(self.dsn)
        connection.execute(_REGISTRY_SESSION)
        return connection

    def create(self) -> None:
        """Make the schema and its tables where they are missing."""
        if self.connection.execute("SELECT to_regclass('pyflowguard.attempt')").fetchone() == (None,):
            self.connection.execute(_REGISTRY_TABLES)
        self.ensure_internal_schema_updated()

    def copy(self) -> _ScriptBackend:
        """Give yoyo what it runs a migration on: another connection, as the user's own settings make it."""
        return _ScriptBackend(self.dsn, self.on_notice)

    @contextmanager
    def lock(self, timeout: float = 0) -> Iterator[None]:  # noqa: ARG002
        """Do without yoyo's lock, a row that a killed process leaves behind: the advisory lock is held already."""
        yield

    def get_log_data(self, migration: Migration | None = None, operation: str = "apply") -> dict[str, Any]:
        """Say who did what, without the look-up of the host's full name, which may wait for a name server."""
        return {
            "id": str(uuid.uuid4()),
            "migration_id": migration.id if migration else None,
            "migration_hash": migration.hash if migration else None,
            "username": sqitch.os_user(),
            "hostname": socket.gethostname(),
            "created_at_utc": datetime.now(timezone.utc).replace(tzinfo=None),
            "operation": operation,
        }

    def mark_one(self, migration: _ChangeMigration, log: bool = True) -> None:
        """Record a change as deployed: yoyo's row, sqitch's, ours and the attempt's end, in one transaction."""
        super().mark_one(migration, log=log)
        change, project = migration.change, migration.runner.plan.project
        when, by = None, None
        if self.origin is not None:
            when, by = self.origin.deployed_at, self.origin.deployed_by
        elif self.mirror is not None:
            when = self.mirror.deployed(change, self.script_hash)
        self.connection.execute(_INSERT_DEPLOYMENT, [change.id, project, change.name, self.script_hash, when, by])
        self.end_attempt(change.id)

    def unmark_one(self, migration: Migration, log: bool = True) -> None:
        """Record a change as no longer deployed, likewise in one transaction."""
        super().unmark_one(migration, log=log)
        if self.mirror is not None and isinstance(migration, _ChangeMigration):
            self.mirror.reverted(migration.change)
        self.connection.execute("DELETE FROM pyflowguard.deployment WHERE change_id = %s", [migration.id])
        self.end_attempt(migration.id)

    def record(self, migration: _ChangeMigration, script_hash: str, *, origin: Record | None = None) -> None:
        """Record a change as deployed without running it; `origin` is what sqitch recorded of it."""
        self.script_hash, self.origin = script_hash, origin
        self.mark_migrations(MigrationList([migration]))
        self.origin = None

    def forget(self, record: Record) -> None:
        """Strike out a change that sqitch has reverted; the plan need not have it any more."""
        self.unmark_migrations(MigrationList([Migration(record.change_id, record.change, None)]))

    def begin_attempt(self, plan: Plan, change: Change, action: Literal["deploy", "revert"]) -> None:
        """Write down, before its script is sent, what is about to happen to a change."""
        self.script_hash = plan.script_hash(change)
        self.connection.execute(_INSERT_ATTEMPT, [change.id, plan.project, change.name, action, self.script_hash])

    def end_attempt(self, change_id: str) -> None:
        """Strike out the attempt on a change."""
        self.connection.execute("DELETE FROM pyflowguard.attempt WHERE change_id = %s", [change_id])

    @contextmanager
    def forgetting_a_clean_failure(self, change: Change, action: Literal["deploy", "revert"]) -> Iterator[None]:
        """Strike out the attempt if the block fails and is known to have left the change as it was."""
        try:
            yield
        except (ScriptFailed, VerifyFailed) as failure:
            if self.mirror is not None and action == "deploy":  # sqitch records no other failure
                self.mirror.failed(change)
            if not isinstance(failure, _NotReverted):
                self.end_attempt(change.id)
            raise

    def accept_edit(self, change: Change, script_hash: str) -> None:
        """Take the script as it is now for the one that was deployed."""
        self.connection.execute(
            "UPDATE pyflowguard.deployment SET script_hash = %s WHERE change_id = %s", [script_hash, change.id]
        )
        if self.mirror is not None:
            self.mirror.edited(change, script_hash)

    def records(self, plan: Plan) -> tuple[Record, ...]:
        """Read what is deployed of the plan, in order."""
        return _read_records(self.connection, plan.project)


class _ScriptBackend(PostgresqlPsycopgBackend):  # type: ignore[misc]
    """What yoyo runs one migration's step on: a fresh connection that brings nothing of the registry's."""

    def __init__(self, dsn: str, on_notice: NoticeHandler | None) -> None:
        self.dsn = dsn
        self.on_notice = on_notice
        super().__init__(DatabaseURI("postgresql+psycopg", None, None, None, None, None, {}), "migration")

    def connect(self, dburi: DatabaseURI) -> Connection:  # noqa: ARG002
        return _open_script_connection(self.dsn, self.on_notice)

    @contextmanager
    def disable_transactions(self) -> Iterator[None]:
        """Do nothing: the connection is in autocommit mode, and yoyo's ROLLBACK would raise a warning."""
        yield


_REGISTRY_SESSION = """
SELECT set_config(name, '0', false)
  FROM pg_catalog.pg_settings
 WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_session_timeout', 'idle_in_transaction_session_timeout');
SET search_path TO pyflowguard;
"""

_REGISTRY_TABLES = """
BEGIN;
DO $create$
BEGIN
  IF to_regnamespace('pyflowguard') IS NULL THEN  -- else IF NOT EXISTS would still want the right to create one
    CREATE SCHEMA pyflowguard;
    COMMENT ON SCHEMA pyflowguard IS 'Which change sets the pyflowguard command has deployed into this database.';
  END IF;
END;
$create$;

CREATE TABLE pyflowguard.deployment (
  change_id   text        PRIMARY KEY,
  project     text        NOT NULL,
  change      text        NOT NULL,
  script_hash text        NOT NULL,
  deployed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  deployed_by text        NOT NULL DEFAULT session_user,
  position    bigint      GENERATED ALWAYS AS IDENTITY
);
COMMENT ON TABLE pyflowguard.deployment IS 'A deployed change each.';
COMMENT ON COLUMN pyflowguard.deployment.change_id IS 'The id that sqitch gives the change.';
COMMENT ON COLUMN pyflowguard.deployment.project IS 'Project of the plan that the change is in.';
COMMENT ON COLUMN pyflowguard.deployment.change IS 'Name of the change.';
COMMENT ON COLUMN pyflowguard.deployment.script_hash IS 'SHA-1 of the deploy script as it was run.';
COMMENT ON COLUMN pyflowguard.deployment.deployed_at IS 'When the change was recorded as deployed.';
COMMENT ON COLUMN pyflowguard.deployment.deployed_by IS
  'Role that deployed the change, or whom sqitch names where it did.';
COMMENT ON COLUMN pyflowguard.deployment.position IS 'Order of deployment.';

CREATE TABLE pyflowguard.attempt (
  change_id   text        PRIMARY KEY,
  project     text        NOT NULL,
  change      text        NOT NULL,
  action      text        NOT NULL CHECK (action IN ('deploy', 'revert')),
  script_hash text        NOT NULL,
  started_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE pyflowguard.attempt IS
  'What is being done right now; a row that outlives its deployer marks a change for the next run to look into.';
COMMENT ON COLUMN pyflowguard.attempt.change_id IS 'The id that sqitch gives the change.';
COMMENT ON COLUMN pyflowguard.attempt.project IS 'Project of the plan that the change is in.';
COMMENT ON COLUMN pyflowguard.attempt.change IS 'Name of the change.';
COMMENT ON COLUMN pyflowguard.attempt.action IS 'deploy or revert.';
COMMENT ON COLUMN pyflowguard.attempt.script_hash IS 'SHA-1 of the deploy script at the start.';
COMMENT ON COLUMN pyflowguard.attempt.started_at IS 'When it began.';
COMMIT;
"""

_INSERT_DEPLOYMENT = """
INSERT INTO pyflowguard.deployment (change_id, project, change, script_hash, deployed_at, deployed_by)
VALUES (%s, %s, %s, %s, COALESCE(%s, pg_catalog.clock_timestamp()), COALESCE(%s, session_user))
"""

_INSERT_ATTEMPT = """
INSERT INTO pyflowguard.attempt (change_id, project, change, action, script_hash) VALUES (%s, %s, %s, %s, %s)
"""

_TAKE_SQITCHS_HASH = (  # a hint
    "UPDATE pyflowguard.deployment SET script_hash = '{script_hash}' WHERE change_id = '{change_id}';"
)

_READ_RECORDS = """
SELECT change_id, change, script_hash, deployed_at, deployed_by
  FROM pyflowguard.deployment WHERE project = %s ORDER BY position
"""

_READ_ATTEMPTS = """
SELECT change_id, change, action, script_hash, started_at
  FROM pyflowguard.attempt WHERE project = %s ORDER BY started_at
"""


def _open_script_connection(dsn: str, on_notice: NoticeHandler | None) -> Connection:
    """Connect for one script; a shared lock shows the script as running for as long as the server works on it.

    The server goes on with a script whose client was killed. The next deployer must not begin before it has ended.
    """
    connection = connect(dsn, on_notice=on_notice)
    with readable_errors("preparing a connection for a script"):
        connection.execute("SELECT pg_catalog.pg_advisory_lock_shared(%s, 1)", [LOCK_KEY])
    return connection


def _read_records(connection: Connection, project: str) -> tuple[Record, ...]:
    if connection.execute("SELECT to_regclass('pyflowguard.deployment')").fetchone() == (None,):
        return ()
    with connection.cursor(row_factory=class_row(Record)) as cursor:
        return tuple(cursor.execute(_READ_RECORDS, [project]).fetchall())


def _read_attempts(connection: Connection, project: str) -> tuple[Attempt, ...]:
    if connection.execute("SELECT to_regclass('pyflowguard.attempt')").fetchone() == (None,):
        return ()
    with connection.cursor(row_factory=class_row(Attempt)) as cursor:
        return tuple(cursor.execute(_READ_ATTEMPTS, [project]).fetchall())


def _read_deployed(connection: Connection, plan: Plan) -> tuple[Record, ...]:
    """Read what is deployed of the plan, whoever did it, and check it against the plan."""
    return _merge(plan, _read_records(connection, plan.project), sqitch.read(connection, plan))


def _merge(plan: Plan, records: Sequence[Record], history: sqitch.History) -> tuple[Record, ...]:
    """Give what is deployed by both records; raises PlanDiverged where they contradict each other or the plan."""
    theirs, merged = _merge_records((), history), _merge_records(records, history)
    _check_history(plan, merged, "the database")
    _check_history(plan, theirs, "sqitch's registry")
    for their in theirs:
        for record in merged:
            if record.change_id == their.change_id and their.script_hash not in {"", record.script_hash}:
                raise PlanDiverged(
                    f"Two scripts are recorded for {record.change}: {record.script_hash[:10]} in schema pyflowguard, "
                    f"{their.script_hash[:10]} in sqitch's registry.",
                    hint="Nothing was changed. If sqitch's is the one that was run: "
                    + _TAKE_SQITCHS_HASH.format(script_hash=their.script_hash, change_id=record.change_id),
                )
    return merged


def _merge_records(records: Sequence[Record], history: sqitch.History) -> tuple[Record, ...]:
    """Give the records but for what sqitch has reverted since, and after them what sqitch alone has deployed."""
    kept = [record for record in records if not history.is_reverted_since(record.change_id, record.deployed_at)]
    known = {record.change_id for record in kept}
    return (
        *kept,
        *(
            Record(theirs.change_id, theirs.change, theirs.script_hash or "", theirs.committed_at, theirs.committer)
            for theirs in history.deployed
            if theirs.change_id not in known
        ),
    )


def _is_edited(plan: Plan, change: Change, record: Record) -> bool:
    """Whether the script is another one than was run; an old sqitch did not record which that was."""
    return record.script_hash not in {"", plan.script_hash(change)}


def _check_history(plan: Plan, records: Sequence[Record], where: str) -> None:
    """Raise PlanDiverged unless what is deployed is the beginning of the plan, change by change."""
    for index, record in enumerate(records):
        expected = plan.changes[index] if index < len(plan.changes) else None
        if expected is not None and expected.id == record.change_id:
            continue
        deployed = f"{record.change} ({record.change_id[:10]}), deployed {record.deployed_at:%Y-%m-%d %H:%M} UTC"
        if any(change.name == record.change for change in plan.changes):
            detail = f"The plan has a {record.change} with another id: its line, or one before it, was edited."
        else:
            detail = f"The plan has no {record.change}."
        planned = f"{expected.name} ({expected.id[:10]})" if expected is not None else "nothing"
        raise PlanDiverged(
            f"{where[0].upper()}{where[1:]} and the plan diverge at change {index + 1}: {where} has {deployed}; "
            f"the plan has {planned}.",
            detail=detail,
            hint="Nothing was changed. Use the plan that this database was deployed from, and append to it.",
        )


def _refuse_edits(edited: Sequence[Change]) -> None:
    if not edited:
        return
    names = ", ".join(change.name for change in edited)
    raise ScriptEdited(
        f"The deploy script of {names} has been edited since it was deployed, so nothing was deployed.",
        hint="Restore the script; or revert to before the change and deploy again; or, if the edit changes nothing in "
        "the database, say so with `pyflowguard deploy --accept-edits`.",
    )
