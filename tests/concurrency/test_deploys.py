"""Two deploy the same plan to one database at once: one after the other, and every change once."""

from __future__ import annotations

from collections.abc import Callable

from concurrency.stage import READ_COMMITTED, ROLLBACK, Session, Stage, Step
from engine.postgres import one
from psycopg.conninfo import make_conninfo

from pyflowguard import changes


def meet(stage: Stage, gate: str, *, to: str, search_path: str) -> None:
    """One comes to wait in the middle of its deployment, the other for the one; then both go on."""
    target = make_conninfo(stage.dsn, options=f"-c search_path={search_path}")

    def deploy(session: Session) -> list[str]:
        """Deploy, on connections that bear the session's name."""

        def watch(progress: changes.Step | changes.Waiting) -> None:
            # A deployer does not wait for the lock but tries for it again and again.
            session.polls_for = progress.holder.rsplit(", ")[-1] if isinstance(progress, changes.Waiting) else None

        dsn = make_conninfo(target, application_name=session.name)
        return [change.name for change in changes.deploy(dsn, to=to, on_progress=watch).deployed]

    step = Step(f"deploys to {to}", deploy, alone=True)
    with stage.story(READ_COMMITTED, "gate", "one", "two") as story:
        keeper, first, second = story.sessions
        keeper.does(gate)
        first.waits(step, behind=keeper)
        second.waits(step, behind=first)
        keeper.does(ROLLBACK)
        first.goes_on()
        second.goes_on()
        assert first.found == [change.name for change in changes.status(stage.dsn).having("deployed")]
        assert second.found == []
        assert [outcome.failure for outcome in changes.verify(target) if outcome.failure] == []


def test_two_deploy_the_engine(new_stage: Callable[..., Stage]) -> None:
    stage = new_stage("template1", prepare=lambda _: None)
    meet(stage, "CREATE SCHEMA flowguard", to="@HEAD", search_path="public")
    assert one(stage.app, "SELECT count(*) FROM flowguard.check_all()") == 0


def test_two_deploy_the_profile_in_the_middle_of_a_back_fill(
    new_stage: Callable[..., Stage], report_template: str
) -> None:
    """The first has deployed some changes, and repaired some rows, when the second comes."""
    stage = new_stage(report_template, prepare=lambda _: None)
    gate = "SELECT FROM migration.assets ORDER BY id DESC LIMIT 1 FOR UPDATE"
    meet(stage, gate, to="report/enforce", search_path="migration,public")
    assert (
        one(stage.app, "SELECT count(*) FROM flowguard.run_change GROUP BY table_name HAVING table_name = 'assets'")
        == 29
    )
