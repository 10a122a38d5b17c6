"""One-shots under real holders, to the facts of their ends; a script stands in for `claude -p`."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import anyio
import psutil
import pytest

from claudedo import settings
from claudedo.model import (
    USER,
    Ask,
    AskOutcome,
    Assignee,
    Launch,
    Message,
    OneShot,
    Priority,
    QueueStatus,
    Rules,
    Session,
    SessionState,
    Task,
)
from claudedo.settings import make_private
from claudedo_worker import one_shot as one_shots
from claudedo_worker import stream_courier, supervisor
from claudedo_worker.bus import Bus
from claudedo_worker.claude_binary import Claude
from claudedo_worker.database import Database
from claudedo_worker.decision import Decision
from claudedo_worker.judge import Facts
from claudedo_worker.store import Store
from claudedo_worker.supervisor import Order, Supervisor
from claudedo_worker.threads import session_of
from tests.support import services
from tests.support.fake_program import make_fake_print
from tests.support.records import a_message, a_task

pytestmark = pytest.mark.anyio

BOUND = 30.0


class Place:
    """A state directory, a one-shot, and as many supervisors as a test wants; and its queue."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config"
        self.config.mkdir()
        self.work = root / "work"
        self.work.mkdir()
        self.program = make_fake_print(root)
        environ = {"CLAUDEDO_HOME": str(root / "s"), "CLAUDEDO_CLAUDE": str(self.program)}
        self.settings = settings.load(environ)
        for folder in (self.settings.home, self.settings.run, root / "s/sessions"):
            make_private(folder)
        make_private(root / "s/programs")
        self.bus = Bus()
        self.verdicts: list[Facts] = []
        self.requeued = 0
        self.store: Store
        self.task: Task
        self.now: Supervisor

    # What the queue hears

    async def verdict(self, task: Task, facts: Facts) -> None:
        one_shot = await self.one_shot()
        if one_shot.status is QueueStatus.RUNNING:
            self.verdicts.append(facts)
            await self.store.change_one_shot(one_shot, status=QueueStatus.COMPLETED)

    async def keep(self, task: Task) -> str | None:
        return None

    async def requeue(self, task: Task) -> None:
        self.requeued += 1
        await self.store.change_one_shot(await self.one_shot(), status=QueueStatus.QUEUED)

    # What a test does

    async def run(self, prompt: str, **wanted: Any) -> None:
        """Queue the one-shot with this prompt, and begin it."""
        await self.store.add_one_shot(OneShot(task_id=self.task.id, **wanted), self.task)
        await self.say(prompt)
        await self.begin()

    async def begin(self, **changes: Any) -> None:
        await self.store.change_one_shot(await self.one_shot(), status=QueueStatus.RUNNING)
        environ = {"PATH": os.environ["PATH"], "CLAUDE_CONFIG_DIR": str(self.config)}
        before = await self.store.latest_session(self.task.id)
        order = Order(
            claude=Claude(str(self.program), "2.1.330"),
            environ=environ,
            one_shot=True,
            conversation=before.conversation if before else None,
        )
        await self.now.start(self.task, replace(order, **changes))

    async def say(self, body: str, priority: Priority = Priority.NORMAL) -> str:
        message = a_message(self.task, body, priority=priority)
        await self.store.add_message(message, message.id)
        return message.id

    async def restart_worker(self) -> None:
        await self.now.close()
        await self.next_worker()

    async def next_worker(self) -> None:
        self.now = Supervisor(self.settings, self.store, lambda live: cast(Any, None))
        self.now.serve(self, services.threads(self.store, self.root))
        self.bus.subscribe(self.now.notice)
        await self.now.recover()

    # What became of it

    async def one_shot(self) -> OneShot:
        found = await self.store.one_shot(self.task.id)
        assert found is not None
        return found

    async def session(self) -> Session:
        session = await self.store.latest_session(self.task.id)
        assert session is not None
        return session

    async def until(self, seen: Callable[[], Any], what: str) -> None:
        try:
            with anyio.fail_after(BOUND):
                while not seen():
                    await anyio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"never {what}: {await self.session()}\n{self.output()}") from None

    async def facts(self) -> Facts:
        """Those of the end, and nothing runs on."""
        await self.until(lambda: self.verdicts, "ended")
        with anyio.fail_after(BOUND):
            while (await self.session()).state.live:
                await anyio.sleep(0.02)
        assert len(self.verdicts) == 1
        return self.verdicts[0]

    async def message(self, message_id: str) -> Message:
        return await self.store.message(message_id)

    async def ask(self) -> Ask:
        with anyio.fail_after(BOUND):
            while not (asks := await self.store.open_asks()):
                await anyio.sleep(0.02)
        return asks[0]

    async def until_waiting(self) -> None:
        """Until another try is waited for."""
        with anyio.fail_after(BOUND):
            while "trying again in" not in str((await self.session()).waiting_for):
                await anyio.sleep(0.02)

    async def until_state(self, *states: SessionState) -> Session:
        with anyio.fail_after(BOUND):
            while (session := await self.session()).state not in states:
                await anyio.sleep(0.02)
        return session

    def output(self) -> str:
        path = self.settings.run_dir(self.task.id) / "output.jsonl"
        return path.read_text() if path.exists() else ""

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """The lines of the output of one type that are JSON."""
        return [
            json.loads(line)
            for line in self.output().split("\n")
            if line.startswith("{") and json.loads(line)["type"] == kind
        ]

    def echoes(self, words: str) -> int:
        """How often a text with these words was given to the model."""
        return sum(
            words in str(line["message"]["content"])
            for line in self.lines("user")
            if line.get("isReplay")
        )

    def holder(self) -> psutil.Process:
        live = self.now.of_task(self.task.id)
        assert live is not None
        return psutil.Process(live.holder.hello.holder_pid)

    def running(self) -> list[psutil.Process]:
        """Holders and programs of this place."""
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if str(self.root) in " ".join(process.info["cmdline"] or [])
        ]


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(supervisor, "TAKE_UP_PAUSES", (0.1,))
    monkeypatch.setattr(one_shots, "FIRST_PAUSE", 0.2)
    monkeypatch.setattr(one_shots, "GRACE", 0.5)
    made = Place(tmp_path)
    database = await Database.open(made.settings.database)
    made.store = Store(database, made.bus.publish)
    workspace = await made.store.workspace_for(str(tmp_path), "shop")
    made.task = a_task(workspace, repo=str(made.work), worktree=str(made.work), launch=Launch())
    await made.store.add_task(made.task)
    await made.next_worker()
    yield made
    await made.now.stop(made.task.id)
    await made.now.close()
    await database.close()
    left = made.running()
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=5)
    shutil.rmtree(made.settings.run)
    assert left == []


async def test_a_prompt_is_read_and_done_and_what_was_said_last_is_the_result(
    place: Place,
) -> None:
    await place.run("run echo x > made\nsay All is well.")
    facts = await place.facts()
    assert (facts.exit, facts.ended, facts.is_error, facts.said) == (0, True, False, "All is well.")
    assert (place.work / "made").read_text() == "x\n"
    [message] = await place.store.thread(place.task.id)
    assert message.receipts.read_at
    one_shot = await place.one_shot()
    assert (one_shot.attempts, one_shot.spent, one_shot.checking) == (1, 0.01, False)
    assert 0 < one_shot.seconds < BOUND
    session = await place.session()
    assert (session.state, session.one_shot) == (SessionState.STOPPED, True)


async def test_what_came_before_it_ran_joins_its_prompt(place: Place) -> None:
    await place.store.add_one_shot(OneShot(task_id=place.task.id), place.task)
    await place.say("say first")
    await place.say("say second")
    await place.begin()
    assert (await place.facts()).said == "second"
    assert len(place.lines("result")) == 1


async def test_a_message_reaches_it_in_the_middle_of_its_turn(place: Place) -> None:
    await place.run("run touch began; sleep 1\nsay first")
    await place.until(lambda: (place.work / "began").exists(), "at work")
    sent = await place.say("say second")
    assert (await place.facts()).said == "second"
    assert len(place.lines("result")) == 1
    assert place.echoes("say second") == 1
    assert (await place.message(sent)).receipts.read_at


async def test_a_message_after_its_result_starts_another_turn(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = stream_courier.StreamCourier.finish
    sent: list[str] = []

    async def late(self: Any, *, whatever: bool = False) -> bool:
        if not sent:
            sent.append(await place.say("say second"))
        return await finish(self, whatever=whatever)

    monkeypatch.setattr(stream_courier.StreamCourier, "finish", late)
    await place.run("say first")
    assert (await place.facts()).said == "second"
    assert len(place.lines("result")) == 2
    assert (await place.message(sent[0])).receipts.read_at


async def test_a_killed_worker_is_followed_by_one_that_goes_on(place: Place) -> None:
    await place.run("run touch began; sleep 1\nask true\nsay done", rules=Rules(ask_timeout=BOUND))
    await place.until(lambda: (place.work / "began").exists(), "at work")
    sent = await place.say("say heard")
    await place.until(lambda: "say heard" in place.output() or True, "written")
    await place.restart_worker()
    ask = await place.ask()
    await place.restart_worker()
    with anyio.fail_after(BOUND):
        while (live := place.now.of_task(place.task.id)) is None:
            await anyio.sleep(0.02)
    await live.decider.decide(ask.id, Decision(decision="allow"))
    facts = await place.facts()
    assert (facts.said, facts.exit, facts.denials) == ("heard", 0, ())
    assert place.echoes("say heard") >= 1
    assert len(place.lines("result")) == 1
    assert (await place.message(sent)).receipts.read_at
    assert (await place.one_shot()).attempts == 1


async def test_an_end_that_no_worker_saw_is_judged_by_the_next(place: Place) -> None:
    await place.run("run touch began; sleep 1\nsay heard nobody")
    await place.until(lambda: (place.work / "began").exists(), "at work")
    await place.say("say more")
    await place.until(lambda: place.echoes("say more") or "sleep" in place.output(), "given")
    await anyio.sleep(0.1)
    await place.now.close()
    await place.until(lambda: place.lines("result"), "at its result")
    await place.next_worker()
    assert (await place.facts()).ended


async def test_a_halt_ends_the_turn_and_is_read(place: Place) -> None:
    await place.run("run touch began; sleep 20\nrun touch never\nsay first")
    await place.until(lambda: (place.work / "began").exists(), "at work")
    halt = await place.say("say halted", Priority.HALT)
    facts = await place.facts()
    assert (facts.said, facts.exit, facts.is_error) == ("halted", 0, False)
    assert (await place.message(halt)).receipts.read_at


async def test_what_needs_permission_is_denied_at_once_where_nobody_is_there(
    place: Place,
) -> None:
    await place.run("ask touch denied\nsay done")
    facts = await place.facts()
    assert [(d.tool, d.about) for d in facts.denials] == [("Bash", "touch denied")]
    assert facts.exit == 0
    assert not (place.work / "denied").exists()
    assert await place.store.asks_of_session((await place.session()).id) == []


async def test_what_was_set_beforehand_holds_once_the_time_is_over(place: Place) -> None:
    rules = Rules(ask_timeout=0.5, ask_default="allow")
    await place.run("ask touch allowed\nquestion Which one?\nsay done", rules=rules)
    facts = await place.facts()
    assert [d.tool for d in facts.denials] == ["AskUserQuestion"]
    assert (place.work / "allowed").exists()
    asks = await place.store.asks_of_session((await place.session()).id)
    assert [(ask.outcome, ask.decided_by) for ask in asks] == [
        ("allowed", "default"),
        ("denied", "default"),
    ]


@pytest.mark.parametrize("word", ["allow", "deny"])
async def test_a_person_decides_what_it_asks(place: Place, word: str) -> None:
    await place.run("ask touch asked\nsay done", rules=Rules(ask_timeout=BOUND))
    ask = await place.ask()
    assert (await place.until_state(SessionState.WAITING)).waiting_for == (
        "permission: Bash: touch asked"
    )
    live = place.now.of_task(place.task.id)
    assert live is not None
    decided = await live.decider.decide(ask.id, Decision(decision=word))
    assert decided.decided_by == USER
    facts = await place.facts()
    assert (place.work / "asked").exists() == (word == "allow")
    assert len(facts.denials) == (word == "deny")


async def test_trouble_with_the_api_is_tried_again_in_the_same_conversation(place: Place) -> None:
    await place.run("refuse 2 529 overloaded\nsay done")
    facts = await place.facts()
    assert (facts.said, facts.exit, facts.attempts) == ("done", 0, 3)
    assert facts.refused is None
    assert place.echoes("The API refused the last request") == 2
    one_shot = await place.one_shot()
    assert (one_shot.attempts, one_shot.not_before) == (3, None)
    assert one_shot.spent == 0.01


async def test_trouble_that_lasts_is_told_after_the_last_try(place: Place) -> None:
    await place.run("refuse 9 500 server_error", retries=1)
    facts = await place.facts()
    assert facts.refused is not None and facts.refused.status == 500
    assert facts.attempts == 2


async def test_a_credential_that_is_refused_ends_it_at_once(place: Place) -> None:
    await place.run("retry 401 authentication_failed")
    facts = await place.facts()
    assert facts.refused is not None and facts.refused.status == 401
    assert facts.attempts == 1


async def test_a_process_that_dies_is_followed_by_another(place: Place) -> None:
    await place.run("run touch before\ndie 1 137\nsay done")
    facts = await place.facts()
    assert (facts.said, facts.exit, facts.attempts) == ("done", 0, 2)
    assert place.echoes("Your process ended early") == 1


async def test_a_prompt_that_a_kill_took_out_of_the_context_is_given_again(place: Place) -> None:
    await place.run("vanish gone\nsay done")
    facts = await place.facts()
    assert (facts.said, facts.attempts) == ("done", 2)
    assert place.echoes("vanish gone") == 2


async def test_a_message_that_a_kill_took_out_of_the_context_is_given_again(place: Place) -> None:
    await place.run("run touch began; sleep 1\nvanish gone\nsay done")
    await place.until(lambda: (place.work / "began").exists(), "at work")
    extra = await place.say("and this")
    facts = await place.facts()
    assert (facts.said, facts.attempts) == ("done", 2)
    assert place.echoes("and this") == 2
    assert (await place.message(extra)).receipts.read_at


async def test_mail_on_its_way_to_a_process_that_is_killed_between_turns_is_given(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.run("background 20\nrun sleep 0.3\nsay one")
    await place.until(lambda: place.lines("result"), "done for now")
    session = await place.session()
    assert session.pid is not None
    unread: list[bytes] = []

    async def leave_unread(_: Any, line: bytes) -> bool:
        unread.append(line)
        return True

    with monkeypatch.context() as now:
        now.setattr(stream_courier.StreamCourier, "_send", leave_unread)
        await place.say("say two")
        await place.until(lambda: unread, "written")
        os.kill(session.pid, signal.SIGKILL)
        await place.until(
            lambda: place.now.of_task(place.task.id) is None or ("ended" in place.output()),
            "killed",
        )
    facts = await place.facts()
    assert (facts.said, facts.attempts) == ("two", 2), place.output()


async def test_a_process_that_always_dies_is_given_up(place: Place) -> None:
    await place.run("complain it broke\ndie 9 3", retries=1)
    facts = await place.facts()
    assert (facts.exit, facts.ended, facts.attempts) == (3, False, 2)


async def test_a_wrong_answer_is_not_tried_again(place: Place) -> None:
    await place.run("turns")
    facts = await place.facts()
    assert (facts.exit, facts.is_error, facts.attempts) == (1, True, 1)


async def test_what_takes_too_long_is_interrupted_and_what_resists_is_killed(
    place: Place,
) -> None:
    await place.run("hang", timeout=1.0)
    facts = await place.facts()
    assert facts.timeout == 1.0
    assert len(place.lines("result")) == 1  # it was asked to end, and did


async def test_limits_hold_while_nothing_can_be_stored(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(supervisor, "FAILED_LOOK_PAUSE", 0.1)
    await place.run("run touch began; sleep 60", timeout=2.0)
    await place.until(lambda: (place.work / "began").exists(), "at work")
    monkeypatch.setattr(one_shots.OneShotSession, "_heed", full)
    monkeypatch.setattr(stream_courier.StreamCourier, "finish", full)
    facts = await place.facts()
    assert facts.timeout == 2.0


async def test_what_resists_its_end_is_killed(place: Place) -> None:
    await place.run("stubborn\nhang", timeout=1.0)
    facts = await place.facts()
    assert (facts.timeout, facts.exit) == (1.0, 128 + signal.SIGKILL)


async def test_a_budget_that_is_spent_is_told_and_the_next_process_has_the_rest(
    place: Place,
) -> None:
    await place.run("cost 0.3\nrefuse 1 500 server_error\ncost 0.3\nsay done", budget=0.5)
    facts = await place.facts()
    assert facts.budget == 0.5
    assert (await place.one_shot()).spent == pytest.approx(0.61)


async def test_stop_ends_it_cleanly_and_it_goes_on_later(place: Place) -> None:
    await place.run("run touch began; sleep 20\nsay done")
    await place.until(lambda: (place.work / "began").exists(), "at work")
    assert await place.now.stop(place.task.id)
    assert (await place.facts()).cancelled
    assert len(place.lines("result")) == 1
    place.verdicts.clear()
    await place.begin()
    facts = await place.facts()
    assert (facts.said, facts.attempts) == ("done", 2)
    assert place.lines("claudedo")[2]["resumes"]


async def test_its_check_runs_when_it_is_done(place: Place) -> None:
    await place.run("run touch made\nsay done", check="ls; exit 3")
    facts = await place.facts()
    assert facts.check is not None and (facts.check.exit, facts.exit) == (3, 0)
    assert Path(facts.check.log).read_text() == "made\n"
    assert (facts.said, facts.attempts) == ("done", 1)


async def test_a_check_has_some_time_though_little_is_left(place: Place) -> None:
    await place.run("run sleep 1\nsay done", check="sleep 1", timeout=2.0)
    facts = await place.facts()
    assert facts.check is not None and facts.check.exit == 0


async def test_a_check_that_takes_too_long_is_ended(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_shots, "CHECK_TIME", 1.0)
    await place.run("say done", check="trap '' TERM; sleep 20 & wait", timeout=2.0)
    facts = await place.facts()
    assert facts.check is not None and facts.check.exit is None


async def test_a_check_goes_on_while_the_worker_is_replaced(place: Place) -> None:
    await place.run("say done", check="touch began; sleep 1; touch ended")
    await place.until(lambda: (place.work / "began").exists(), "checking")
    await place.restart_worker()
    facts = await place.facts()
    assert facts.check is not None and facts.check.exit == 0
    assert (place.work / "ended").exists()


async def test_a_lost_holder_puts_it_back_and_it_goes_on_where_it_was(place: Place) -> None:
    await place.run("run touch began; sleep 20\nsay done")
    await place.until(lambda: (place.work / "began").exists(), "at work")
    place.holder().kill()
    await place.until_state(SessionState.INTERRUPTED)
    assert (place.requeued, (await place.one_shot()).attempts) == (1, 0)
    await place.begin()
    facts = await place.facts()
    assert (facts.said, facts.attempts) == ("done", 1)


async def test_a_conversation_that_is_gone_does_not_leave_a_process_waiting(place: Place) -> None:
    await place.run("run touch began; sleep 20\nsay done")
    await place.until(lambda: (place.work / "began").exists(), "at work")
    place.holder().kill()
    gone = await place.until_state(SessionState.INTERRUPTED)
    assert gone.transcript is not None
    Path(gone.transcript).unlink()
    [prompt] = await place.store.thread(place.task.id)
    await place.store.mark_read([prompt.id])
    await place.begin()
    facts = await place.facts()
    assert (facts.exit, facts.ended) == (0, False)


async def test_a_holder_that_is_lost_again_and_again_is_given_up(place: Place) -> None:
    await place.run("run touch began; sleep 60")
    for _ in range(one_shots.LOSSES):
        await place.until(lambda: (place.work / "began").exists(), "at work")
        (place.work / "began").unlink()
        place.holder().kill()
        await place.until_state(SessionState.INTERRUPTED)
        await place.say("run touch began; sleep 60")
        await place.begin()
    await place.until(lambda: (place.work / "began").exists(), "at work")
    place.holder().kill()
    facts = await place.facts()
    assert (facts.exit, facts.ended, place.requeued) == (None, False, one_shots.LOSSES)
    assert (await place.one_shot()).seconds > 0


async def test_what_it_said_is_for_nobody_elses_eyes(place: Place) -> None:
    await place.run("say done", check="echo checked")
    await place.facts()
    folder = place.settings.run_dir(place.task.id)
    modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
    assert modes == dict.fromkeys(("output.jsonl", "errors.log", "check.log"), 0o600)
    assert folder.stat().st_mode & 0o777 == 0o700


async def test_output_that_is_no_json_is_told(place: Place) -> None:
    await place.run("garbage Traceback: oops\ndie 9 1", retries=0)
    facts = await place.facts()
    assert (facts.ended, facts.complaint) == (False, "Traceback: oops")


async def test_a_claude_that_cannot_be_run_is_told(place: Place) -> None:
    await place.store.add_one_shot(OneShot(task_id=place.task.id), place.task)
    await place.say("say done")
    await place.begin(claude=Claude("/no/such/claude", "2.1.330"))
    facts = await place.facts()
    assert "/no/such/claude" in str(facts.trouble)


async def test_a_claude_that_refuses_its_arguments_is_not_tried_again(place: Place) -> None:
    launch = Launch(claude_args=("--nonsense",))
    place.task = await place.store.change_task(place.task, launch=launch)
    await place.run("say done")
    facts = await place.facts()
    assert (facts.exit, facts.ended, facts.attempts) == (1, False, 1)
    assert "--nonsense" in str(facts.complaint)


async def test_it_waits_for_work_beside_its_turns(place: Place) -> None:
    await place.run("background 1\nsay first")
    facts = await place.facts()
    assert facts.exit == 0
    assert len(place.lines("result")) == 2


async def test_a_lost_connection_is_made_again(place: Place) -> None:
    await place.run("run touch began; sleep 1\nsay first")
    await place.until(lambda: (place.work / "began").exists(), "at work")
    live = place.now.of_task(place.task.id)
    assert live is not None
    await live.holder.close()
    await place.say("say second")
    assert (await place.facts()).said == "second"
    assert place.echoes("say second") >= 1
    assert len(place.lines("result")) == 1


async def test_a_worker_that_comes_while_it_waits_to_be_tried_again_goes_on_waiting(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_shots, "FIRST_PAUSE", 2.0)
    await place.run("refuse 1 529 overloaded\nsay done")
    await place.until_waiting()
    before = await place.one_shot()
    await place.restart_worker()
    await place.say("say heard meanwhile")
    facts = await place.facts()
    assert (facts.said, facts.attempts) == ("heard meanwhile", 2)
    after = await place.one_shot()
    assert after.seconds > before.seconds
    events = [line["event"] for line in place.lines("claudedo")]
    assert events == ["began", "ended", "began", "ended"]


async def test_stop_while_it_waits_to_be_tried_again_cancels_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_shots, "FIRST_PAUSE", 20.0)
    await place.run("refuse 1 529 overloaded\nsay done")
    await place.until_waiting()
    assert await place.now.stop(place.task.id)
    assert (await place.facts()).cancelled


async def test_stop_during_its_check_cancels_it(place: Place) -> None:
    await place.run("say done", check="touch began; sleep 20")
    await place.until(lambda: (place.work / "began").exists(), "checking")
    assert await place.now.stop(place.task.id)
    assert (await place.facts()).cancelled


async def test_the_answer_to_what_it_asked_a_person_to_do_reaches_it(place: Place) -> None:
    await place.run("run touch began; sleep 1\nsay asked", rules=Rules(ask_timeout=BOUND))
    await place.until(lambda: (place.work / "began").exists(), "at work")
    threads = services.threads(place.store, place.root)
    await threads.create(
        session_of(place.task),
        place.task.workspace_id,
        title="Which one?",
        body="This, or that?",
        assignee=Assignee.HUMAN,
    )
    session = await place.until_state(SessionState.WAITING)
    assert session.waiting_for == "task: Which one?"
    await threads.decide(await place.ask(), AskOutcome.ANSWERED, "say that")
    facts = await place.facts()
    assert (facts.said, facts.exit) == ("that", 0)


async def test_what_no_person_did_in_time_is_told_to_it(place: Place) -> None:
    await place.run("run touch began; sleep 1\nsay asked", rules=Rules(ask_timeout=2.0))
    await place.until(lambda: (place.work / "began").exists(), "at work")
    made = await services.threads(place.store, place.root).create(
        session_of(place.task),
        place.task.workspace_id,
        title="Which one?",
        body="This, or that?",
        assignee=Assignee.HUMAN,
    )
    assert (await place.facts()).exit == 0
    assert place.echoes("Nobody decided this within 2 s") == 1
    assert (await place.store.task(made.id)).status == "rejected"
    assert await place.store.open_asks() == []


async def test_a_result_that_is_good_stays_good_if_its_process_will_not_go(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_shots, "EXIT_PATIENCE", 0.3)
    monkeypatch.setattr(one_shots, "BACKGROUND_PATIENCE", 0.3)
    await place.run("background 60\nstubborn\nsay done")
    facts = await place.facts()
    assert (facts.said, facts.exit, facts.ended) == ("done", 0, True)
